//! The scheduler as a whole: what each input changes, and what a turn decides.

use crate::func_buffer::{Calls, Place};
use crate::functions::{Functions, Turn};
use crate::gates::{Clock, Gates, OPEN};
use crate::keys::Keys;
use crate::locality::Locality;
use crate::mask::Mask;
use crate::policy::GroupRef;
use crate::run_q::{self, RunQ};
use crate::words::{CallRef, CoreRef, Depth, Effects, FunctionRef, HostRef, How, Input, Marks};
use crate::worker_lb::WorkerLb;
use call::limits::Limits;
use call::time::nanos;
use call::{Instant, Label, WallTime};
use std::time::Duration;

/// Decides which call runs next and where. See the crate's documentation for the laws it keeps.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) functions: Functions,
    pub(crate) calls: Calls,
    pub(crate) gates: Gates,
    pub(crate) keys: Keys,
    pub(crate) locality: Locality,
    pub(crate) run_q: RunQ,
    pub(crate) lb: WorkerLb,
    /// Rings of calls behind those of the RunQ: one per core of the calls it runs, then that of calls whose core is
    /// gone, and that of those that are refused.
    pub(crate) lost: usize,
    pub(crate) refused: usize,
    pub(crate) func_buffer_max: u32,
}

impl Scheduler {
    /// Gates open in steps of this: often enough that nobody waits for it, seldom enough that a fast quota does not
    /// wake the node for each call.
    pub const WAKE_STEP: Duration = Duration::from_millis(1);

    /// A scheduler without functions and cores. The only allocation: 32 bytes per call of `limits.calls_max`, about 250
    /// bytes per function of `limits.functions_max` and 4 KiB per tenant. What only gates need (512 bytes per function
    /// with a policy, 80 bytes per call with marks) is reserved here and touched when it is needed.
    ///
    /// # Panics
    /// If `limits.cores_max` is above [`crate::CORES_MAX`].
    pub fn new(limits: &Limits) -> Scheduler {
        let lost = run_q::RINGS + limits.cores_max;
        Scheduler {
            functions: Functions::new(limits.functions_max, limits.tenants_max),
            calls: Calls::new(limits.calls_max, lost + 2),
            gates: Gates::new(limits.functions_max, nanos(Scheduler::WAKE_STEP)),
            keys: Keys::new(limits.calls_max),
            locality: Locality::new(limits.cores_max),
            run_q: RunQ::new(limits.runq_max),
            lb: WorkerLb::new(limits.cores_max),
            lost,
            refused: lost + 1,
            func_buffer_max: u32::try_from(limits.func_buffer_max).unwrap_or(u32::MAX),
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, input: Input, out: &mut Effects) {
        match input {
            Input::Function { function, version, concurrency } => {
                self.publish(function, version, concurrency)
            }
            Input::FunctionGone { function } => self.retire(function),
            Input::Policy { function, policy } => self.set_policy(function, policy),
            Input::Limit { function, rate } => self.set_limit(function, rate),
            Input::Opportunistic { permille } => self.set_s(permille),
            Input::Tenant { tenant, weight } => self.functions.fairness().set_weight(tenant, weight),
            Input::Group { core, group } => self.set_group(core, group),
            Input::Ready { host, function, version } => self.ready(host, function, version),
            Input::HostDown { host } => self.host_down(host),
            Input::CoreUp { core, host, slots, far } => self.core_up(core, host, slots, far),
            Input::Credit { core, granted } => {
                if self.lb.credit(core, granted) {
                    self.unblock(core);
                }
            }
            Input::CoreDrain { core } => self.close(core),
            Input::CoreDown { core } => self.core_down(core),
            Input::Due { function } => {
                self.functions.get_mut(function).due = true;
                self.want_poll(function);
            }
            Input::Offered { call, function, criticality, deadline, marks } => {
                self.offered(call, function, (criticality, deadline), marks);
            }
            Input::Polled { function, more } => {
                let of = self.functions.get_mut(function);
                assert!(std::mem::take(&mut of.polling), "{function:?} was not polled");
                of.due |= more;
                self.want_poll(function);
            }
            Input::Ended { call, how } => self.end(call, how),
            Input::NotSent { call } => self.not_sent(call),
            Input::Turn { now, wall, random } => self.turn(Clock { now, wall }, random, out),
        }
    }

    /// When the next gate opens by time: a turn is due then, whatever else happens. A closed gate that only an input
    /// opens is none. After a gate that was to open first was opened by an input it may be too early, once.
    pub fn next_wake(&self) -> Option<Instant> {
        self.gates.next_wake()
    }

    fn publish(&mut self, function: FunctionRef, version: u32, concurrency: u32) {
        if !self.functions.get(function).live {
            let gate = self.functions.get(function).gate;
            self.functions.reset(function);
            if gate != OPEN {
                self.gates.close(gate);
            }
        }
        let ready = self.functions.ready_mut(function);
        if ready.version != version {
            (ready.version, ready.hosts, ready.cores) = (version, Mask::EMPTY, Mask::EMPTY);
            self.set_cores(function);
        }
        let of = self.functions.get_mut(function);
        (of.live, of.concurrency) = (true, concurrency);
        self.reconsider(function);
    }

    fn retire(&mut self, function: FunctionRef) {
        let of = self.functions.get_mut(function);
        assert!(of.live, "{function:?} is not deployed");
        (of.live, of.due) = (false, false);
        self.release_all(function);
        self.reconsider(function);
        for level in 0..=u8::MAX {
            let mut next = self.run_q.next(&self.calls, level, None);
            while let Some(call) = next {
                next = self.run_q.next(&self.calls, level, Some(call));
                if self.calls.function(call) == function {
                    self.put_back(level, call);
                }
            }
        }
        self.functions.push_leaving(function);
    }

    fn ready(&mut self, host: HostRef, function: FunctionRef, version: u32) {
        let cores = self.lb.open_on(host);
        let live = self.functions.get(function).live;
        let ready = self.functions.ready_mut(function);
        if live && ready.version == version {
            ready.hosts.set(usize::from(host.0), true);
            ready.cores = ready.cores | cores;
            self.set_cores(function);
            self.reconsider_all(function);
        }
    }

    fn host_down(&mut self, host: HostRef) {
        let cores = self.lb.open_on(host);
        for function in self.functions.all() {
            let ready = self.functions.ready_mut(function);
            ready.hosts.set(usize::from(host.0), false);
            ready.cores = ready.cores.without(cores);
            self.set_cores(function);
            self.reconsider(function);
        }
    }

    fn core_up(&mut self, core: CoreRef, host: HostRef, slots: u32, far: bool) {
        self.lb.up(core, host, slots, far);
        for function in self.functions.all() {
            let ready = self.functions.ready_mut(function);
            if ready.hosts.has(usize::from(host.0)) {
                ready.cores.set(usize::from(core.0), true);
                self.set_cores(function);
                self.reconsider_all(function);
            }
        }
    }

    fn close(&mut self, core: CoreRef) {
        self.lb.close(core);
        for function in self.functions.all() {
            self.functions.ready_mut(function).cores.set(usize::from(core.0), false);
            self.set_cores(function);
            self.reconsider(function);
        }
    }

    fn core_down(&mut self, core: CoreRef) {
        self.close(core);
        self.lb.down(core);
        if self.locality.group(core) != GroupRef::NONE {
            self.set_group(core, GroupRef::NONE);
        }
        self.calls.append(ring_of(core), self.lost);
    }

    fn offered(&mut self, call: CallRef, function: FunctionRef, urgency: (u8, WallTime), marks: Marks) {
        let flows = marks.label == Label::LOWEST || marks.label.flows_to(self.label(function));
        let of = self.functions.get_mut(function);
        assert!(of.polling, "{function:?} was not polled");
        self.calls.admit(call, function, urgency, marks);
        if !of.live {
            self.calls.put(&mut of.buffer, call);
            return self.functions.push_leaving(function);
        }
        if !flows {
            of.aside += 1;
            self.calls.refuse(call);
            return self.calls.push_back(self.refused, call);
        }
        if of.gate == OPEN {
            self.calls.put(&mut of.buffer, call);
        } else {
            self.take_in(call, function);
        }
        self.reconsider(function);
    }

    pub(crate) fn end(&mut self, call: CallRef, how: How) {
        assert_eq!(self.calls.place(call), Place::Running, "{call:?} does not run");
        let function = self.calls.function(call);
        self.calls.unlink(call);
        let of = self.functions.get_mut(function);
        of.running -= 1;
        if of.gate != OPEN {
            let now = self.gates.clock().now;
            let gate = self.gates.get_mut(of.gate);
            if gate.ended(now, how) {
                of.opens_at = gate.opens_at();
            }
            self.end_key(call);
        }
        self.calls.forget(call);
        self.reconsider(function);
    }

    fn not_sent(&mut self, call: CallRef) {
        let core = self.calls.core(call);
        let function = self.calls.function(call);
        let gate = self.functions.get(function).gate;
        if gate != OPEN {
            self.gates.get_mut(gate).give_back_unsent();
            self.note_gates(function);
        }
        self.end(call, How::Lost);
        if self.lb.unspend(core) {
            self.unblock(core);
        }
    }

    /// A core has credits again: the functions that waited for one may go on.
    fn unblock(&mut self, core: CoreRef) {
        let mut next = self.functions.blocked(None);
        while let Some(function) = next {
            next = self.functions.blocked(Some(function));
            if self.functions.get(function).cores().has(usize::from(core.0)) {
                self.reconsider(function);
            }
        }
    }

    /// Notes that a function should be polled, if that makes sense now.
    pub(crate) fn want_poll(&mut self, function: FunctionRef) {
        if self.functions.get(function).wants_poll(self.func_buffer_max) {
            self.functions.push_poll(function);
        }
    }

    /// Puts a function where it belongs after something that its turn depends on has changed.
    pub(crate) fn reconsider(&mut self, function: FunctionRef) {
        let turn = self.turn_of(function);
        self.functions.set_turn(function, turn, self.gates.clock().now);
    }

    /// Where a function belongs.
    pub(crate) fn turn_of(&mut self, function: FunctionRef) -> Turn {
        let of = self.functions.get(function);
        let (before, may_run) = (of.turn(), of.may_run());
        // Gates that are open, and did not hold it until now, need not be looked at.
        let ask = before == Turn::Held || may_run && of.opens_at > self.gates.clock().now;
        let held = ask && self.is_held(function);
        let of = self.functions.get(function);
        if !may_run {
            Turn::None
        } else if held {
            Turn::Held
        } else if before == Turn::Blocked && (of.cores() & self.lb.free()).is_empty() {
            Turn::Blocked
        } else {
            Turn::Level(of.buffer.criticality().expect("a function that may run has a call"))
        }
    }

    /// Both, after its cores or its buffer have changed.
    pub(crate) fn reconsider_all(&mut self, function: FunctionRef) {
        self.reconsider(function);
        self.want_poll(function);
    }

    /// How many calls of a function are where.
    pub fn depth(&self, function: FunctionRef) -> Depth {
        self.functions.get(function).depth()
    }

    /// Credits that a core has left.
    pub fn credits(&self, core: CoreRef) -> u64 {
        self.lb.credits(core)
    }

    /// Calls in the RunQ.
    pub fn run_q_len(&self) -> usize {
        self.run_q.len()
    }

    /// Panics if an invariant does not hold. For tests: it walks over everything.
    pub fn check(&self) {
        self.lb.check();
        self.run_q.check(&self.calls);
        self.check_rings();
        self.functions.check(self.lb.free());
        self.check_gates();
        let mut depths = vec![Depth::default(); self.functions.all().count()];
        for (_, place, function) in self.calls.iter() {
            let depth = &mut depths[function.0 as usize];
            match place {
                Place::Absent => unreachable!("only held calls are listed"),
                Place::Buffered | Place::Refused => depth.buffered += 1,
                Place::Queued => depth.queued += 1,
                Place::Running => depth.running += 1,
            }
        }
        for (function, depth) in self.functions.all().zip(depths) {
            let of = self.functions.get(function);
            assert_eq!(of.depth(), depth, "{function:?} counts its calls wrongly");
            self.calls.check(&of.buffer, function);
        }
    }

    /// Panics unless all calls that run or are refused stand in a ring that says so.
    fn check_rings(&self) {
        let mut linked = 0;
        for ring in run_q::RINGS..=self.refused {
            self.calls.check_ring(ring);
            let expected = if ring == self.refused { Place::Refused } else { Place::Running };
            for call in self.calls.ring(ring) {
                assert_eq!(self.calls.place(call), expected, "{call:?}");
                linked += 1;
            }
        }
        let stands = |place| matches!(place, Place::Running | Place::Refused);
        assert_eq!(
            linked,
            self.calls.iter().filter(|(_, place, _)| stands(*place)).count(),
            "calls in rings"
        );
    }
}

/// The ring of the calls that a core runs.
pub(crate) fn ring_of(core: CoreRef) -> usize {
    run_q::RINGS + usize::from(core.0)
}
