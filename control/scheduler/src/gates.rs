//! The gates of functions that have a policy: whether one may give a call to the RunQ now, and if not, since when and
//! until when. A function without a policy has no gate and costs nothing here.
//!
//! A gate that is open is closed by an admitted call or an input, never by time alone; so it is enough to look at
//! a closed one when its time has come, or when an input touches its function.

use crate::breaker::Breaker;
use crate::explain::Rule;
use crate::func_buffer::FuncBuffer;
use crate::policy::{Policy, Quota};
use crate::quota::{Bucket, Rate};
use crate::retry_budget::RetryBudget;
use crate::slow_start::SlowStart;
use crate::timers::Timers;
use crate::words::{FunctionRef, How};
use call::time::nanos;
use call::{Instant, WallTime};

/// The clocks of the turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// By which gates open.
    pub now: Instant,
    /// Of deadlines.
    pub wall: WallTime,
}

impl Clock {
    /// When the wall clock will show `wall`, as far as is known now.
    fn instant_of(&self, wall: WallTime) -> Instant {
        if wall <= self.wall { Instant(0) } else { self.now + wall.since(self.wall) }
    }
}

/// A function that a gate holds back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which gate; of several the one that opens last.
    pub rule: Rule,
    /// Since when this gate holds it.
    pub since: Instant,
    /// When the gate opens by time; [`Instant::NEVER`] if only an input opens it.
    pub until: Instant,
}

/// All gates of one function, by cache line: what an entering call is counted in, what an end is, what an offered call
/// is, and what is looked at when a gate closes or opens. Behind them what is rare.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Gate {
    /// Its quota, times S if it is opportunistic.
    quota: Bucket,
    slow_start: Option<SlowStart>,
    breaker: Option<Breaker>,
    retries: Option<RetryBudget>,
    /// Retries that wait for the budget.
    pub waiting: FuncBuffer,
    /// What holds it back, as of the last look.
    pub held: Option<Held>,
    /// Whose.
    pub function: FunctionRef,
    /// Whether `limit` limits anything.
    limited: bool,
    /// Whether its quota is.
    opportunistic: bool,
    /// What a controller allows.
    limit: Bucket,
    /// Since when they wait.
    pub waiting_since: Instant,
    /// What the owner asks for.
    pub policy: Policy,
}

// An entering call is counted in the first line, and what a look needs ends with the fourth.
const _: () = assert!(std::mem::offset_of!(Gate, breaker) == 64 && std::mem::offset_of!(Gate, limit) == 256);

impl Gate {
    /// Touches the lines that an entering call, its end and a look at the gates need; see [`crate::glimpse`].
    pub fn glimpse(&self) -> u32 {
        let breaker = u32::from(self.breaker.is_some()) ^ u32::from(self.retries.is_some());
        self.waiting.len()
            ^ self.function.0
            ^ breaker
            ^ u32::from(self.slow_start.is_some())
            ^ u32::from(self.limited)
    }

    /// The gates of a function of which `queued` calls are in the RunQ: these count as admitted now.
    fn new(function: FunctionRef) -> Gate {
        Gate {
            function,
            quota: Bucket::new(Rate::UNLIMITED, 1),
            limit: Bucket::new(Rate::UNLIMITED, 1),
            limited: false,
            opportunistic: false,
            slow_start: None,
            breaker: None,
            retries: None,
            held: None,
            waiting: FuncBuffer::EMPTY,
            waiting_since: Instant(0),
            policy: Policy::default(),
        }
    }

    /// Puts a policy in force. What the gates have counted stays where the rule stays.
    fn set(&mut self, policy: Policy, clock: Clock, s: u32, queued: u32) {
        self.policy = policy;
        self.set_s(clock, s, queued);
        self.slow_start = policy.slow_start.map(|rule| match self.slow_start {
            Some(mut of) => {
                of.set(rule);
                of
            }
            None => SlowStart::new(rule),
        });
        self.breaker = policy.breaker.map(|rule| match self.breaker {
            Some(mut of) => {
                of.set(rule);
                of
            }
            None => Breaker::new(rule),
        });
        self.retries = policy.retry_budget.map(|rule| match self.retries {
            Some(mut of) => {
                of.set(clock.now, rule);
                of
            }
            None => RetryBudget::new(rule, clock.now),
        });
    }

    fn set_s(&mut self, clock: Clock, s: u32, queued: u32) {
        let Policy { quota, rate, burst, .. } = self.policy;
        self.opportunistic = quota != Quota::Reserved;
        let rate = if self.opportunistic { rate.times(s) } else { rate };
        self.quota.set(clock.now, rate, burst, queued);
    }

    fn set_limit(&mut self, clock: Clock, rate: Rate, queued: u32) {
        self.limit.set(clock.now, rate, self.policy.burst, queued);
        self.limited = rate != Rate::UNLIMITED;
    }

    /// When its quota lets a call of this deadline in.
    fn quota_opens_at(&self, clock: Clock, deadline: WallTime) -> Instant {
        let opens = self.quota.opens_at();
        if !self.opportunistic {
            return opens;
        }
        match self.policy.quota {
            Quota::Opportunistic { near } if opens > clock.now => {
                opens.min(clock.instant_of(WallTime(deadline.0.saturating_sub(nanos(near)))))
            }
            _ => opens,
        }
    }

    /// The gate that opens last for a call of this deadline, and when.
    fn last_to_open(&self, clock: Clock, deadline: WallTime) -> (Rule, Instant) {
        let of_quota = if self.opportunistic { Rule::Opportunistic } else { Rule::Quota };
        let mut last = (of_quota, self.quota_opens_at(clock, deadline));
        let mut weigh = |rule, opens| {
            if opens > last.1 {
                last = (rule, opens);
            }
        };
        if self.limited {
            weigh(Rule::Limit, self.limit.opens_at());
        }
        if let Some(of) = &self.slow_start {
            weigh(Rule::SlowStart, of.opens_at());
        }
        if let Some(of) = &self.breaker {
            weigh(Rule::Breaker, of.opens_at());
        }
        last
    }

    /// Looks at all gates for the function's best call.
    fn look(&mut self, clock: Clock, deadline: WallTime) {
        let (rule, until) = self.last_to_open(clock, deadline);
        self.held = (until > clock.now).then(|| {
            let before = self.held.filter(|held| held.rule == rule);
            Held { rule, since: before.map_or(clock.now, |held| held.since), until }
        });
    }

    /// A call enters the RunQ.
    pub fn admit(&mut self, now: Instant) {
        // A call near its deadline passes a quota that is closed, and takes nothing of it.
        if self.quota.opens_at() <= now {
            self.quota.admit(now);
        }
        if self.limited {
            self.limit.admit(now);
        }
        if let Some(of) = &mut self.slow_start {
            of.admit(now);
        }
        if let Some(of) = &mut self.breaker {
            of.admit(now);
        }
    }

    /// A call that entered the RunQ goes back. An opportunistic one may have taken nothing: it gets nothing.
    pub fn give_back(&mut self) {
        if !self.opportunistic {
            self.quota.give_back();
        }
        if self.limited {
            self.limit.give_back();
        }
        if let Some(of) = &mut self.slow_start {
            of.give_back();
        }
        if let Some(of) = &mut self.breaker {
            of.give_back();
        }
    }

    /// A dispatched call was not sent; the breaker hears of it as of a lost one.
    pub fn give_back_unsent(&mut self) {
        let breaker = self.breaker;
        self.give_back();
        self.breaker = breaker;
    }

    /// A dispatched call ended. Says whether that opened or closed a gate.
    pub fn ended(&mut self, now: Instant, how: How) -> bool {
        let Some(of) = &mut self.breaker else { return false };
        let before = of.opens_at();
        match how {
            How::Ok | How::BackPressure => of.ended(now, false),
            How::Failed => of.ended(now, true),
            How::Lost => of.give_back(),
        }
        of.opens_at() != before
    }

    /// From when on all gates let a call in, whatever its deadline.
    pub fn opens_at(&self) -> Instant {
        let limit = if self.limited { self.limit.opens_at() } else { Instant(0) };
        let slow_start = self.slow_start.as_ref().map_or(Instant(0), SlowStart::opens_at);
        let breaker = self.breaker.as_ref().map_or(Instant(0), Breaker::opens_at);
        self.quota.opens_at().max(limit).max(slow_start).max(breaker)
    }

    /// Whether a call that has just come in may stand in its FuncBuffer: a retry has to be paid for.
    pub fn takes_in(&mut self, now: Instant, retry: bool) -> bool {
        match &mut self.retries {
            Some(of) if retry => self.waiting.is_empty() && of.pay(now),
            Some(of) => {
                of.earn(now);
                true
            }
            None => true,
        }
    }

    /// Pays for a retry that waits.
    pub fn pays(&mut self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.retries.as_mut().is_none_or(|of| of.pay(now))
    }

    /// When it is to be looked at again.
    fn wakes_at(&self) -> Instant {
        let opens = self.held.map_or(Instant::NEVER, |held| held.until);
        if self.waiting.is_empty() { opens } else { opens.min(self.retry_at()) }
    }

    /// When the next retry that waits can be paid for by time alone.
    pub fn retry_at(&self) -> Instant {
        self.retries.as_ref().map_or(Instant(0), RetryBudget::opens_at)
    }

    /// The rates in force: of its quota, and of what a controller allows.
    pub fn rates(&self) -> (Rate, Rate) {
        (self.quota.rate(), self.limit.rate())
    }
}

/// The gates of all functions that have a policy, and when to look at them.
#[derive(Debug)]
pub struct Gates {
    list: Vec<Gate>,
    free: Vec<u32>,
    timers: Timers,
    clock: Clock,
    /// S in thousandths.
    s: u32,
    wake_step_ns: u64,
}

/// No gate.
pub const OPEN: u32 = u32::MAX;

impl Gates {
    /// Room for the gates of `functions_max` functions; memory of those that have none is not touched.
    pub fn new(functions_max: usize, wake_step_ns: u64) -> Gates {
        Gates {
            list: Vec::with_capacity(functions_max),
            free: Vec::with_capacity(functions_max),
            timers: Timers::new(functions_max, wake_step_ns),
            clock: Clock::default(),
            s: 1000,
            wake_step_ns,
        }
    }

    /// The clocks of the last turn.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// A turn begins.
    ///
    /// # Panics
    /// If the clock went backwards.
    pub fn set_clock(&mut self, clock: Clock) {
        assert!(clock.now >= self.clock.now, "the clock went back from {:?} to {:?}", self.clock, clock);
        self.clock = clock;
    }

    /// Makes gates for a function.
    pub fn open(&mut self, function: FunctionRef) -> u32 {
        let gate = Gate::new(function);
        match self.free.pop() {
            Some(at) => {
                self.list[at as usize] = gate;
                at
            }
            None => {
                assert!(self.list.len() < self.list.capacity(), "one gate per function");
                self.list.push(gate);
                self.list.len() as u32 - 1
            }
        }
    }

    /// The function is gone, and has no calls left.
    pub fn close(&mut self, gate: u32) {
        assert!(self.get(gate).waiting.is_empty(), "retries wait at a gate that goes");
        self.timers.set(gate, Instant::NEVER);
        self.free.push(gate);
    }

    /// Puts a policy in force; `queued` calls of the function are in the RunQ.
    pub fn set(&mut self, gate: u32, policy: Policy, queued: u32) {
        let (clock, s) = (self.clock, self.s);
        let of = self.get_mut(gate);
        of.set(policy, clock, s, queued);
        let limit = of.limit.rate();
        of.set_limit(clock, limit, queued);
    }

    /// A controller limits a function.
    pub fn set_limit(&mut self, gate: u32, rate: Rate, queued: u32) {
        let clock = self.clock;
        self.get_mut(gate).set_limit(clock, rate, queued);
    }

    /// S for all functions to come.
    pub fn set_s(&mut self, s: u32) {
        self.s = s;
    }

    /// S in force for a function; says whether that may change anything for it.
    pub fn apply_s(&mut self, gate: u32, queued: u32) -> bool {
        let (clock, s) = (self.clock, self.s);
        let of = self.get_mut(gate);
        if of.opportunistic {
            of.set_s(clock, s, queued);
        }
        of.opportunistic
    }

    /// One function's gates.
    pub fn get(&self, gate: u32) -> &Gate {
        &self.list[gate as usize]
    }

    /// One function's gates, to change. Whoever does looks at them afterwards.
    pub fn get_mut(&mut self, gate: u32) -> &mut Gate {
        &mut self.list[gate as usize]
    }

    /// Looks at a function's gates for its best call, unless they are open for any, and notes when to look again. Says
    /// whether it is held back.
    pub fn look(&mut self, gate: u32, best: Option<WallTime>) -> bool {
        let clock = self.clock;
        let of = &mut self.list[gate as usize];
        match best {
            Some(deadline) => of.look(clock, deadline),
            None => of.held = None,
        }
        let held = of.held.is_some();
        self.note(gate);
        held
    }

    /// Sets the alarm of a gate: in steps, so that a fast bucket wakes nobody for each of its calls.
    pub fn note(&mut self, gate: u32) {
        let wake = match self.list[gate as usize].wakes_at() {
            Instant::NEVER => Instant::NEVER,
            at => Instant(at.0.checked_next_multiple_of(self.wake_step_ns).unwrap_or(u64::MAX)),
        };
        self.timers.set(gate, wake);
    }

    /// The next gate whose time has come.
    pub fn pop_due(&mut self) -> Option<u32> {
        self.timers.pop_due(self.clock.now)
    }

    /// When the next gate opens by time.
    pub fn next_wake(&self) -> Option<Instant> {
        self.timers.first()
    }

    /// Panics unless the gate's own invariants hold, and someone will look at it when it opens.
    pub fn check(&self, gate: u32) {
        let of = self.get(gate);
        of.slow_start.iter().for_each(SlowStart::check);
        of.breaker.iter().for_each(Breaker::check);
        let wakes = self.timers.get(gate);
        assert_eq!(wakes.is_some(), of.wakes_at() < Instant::NEVER, "the alarm of {:?}", of.function);
        assert!(wakes.is_none_or(|at| at >= of.wakes_at()), "{:?} is woken too early", of.function);
    }

    /// Panics unless the alarms are in order.
    pub fn check_timers(&self) {
        self.timers.check();
    }
}
