//! The functions as the scheduler sees them: whose turn it is to give a call to the RunQ.

use crate::fairness::Fairness;
use crate::func_buffer::FuncBuffer;
use crate::gates::OPEN;
use crate::mask::Mask;
use crate::policy::{GroupRef, TenantRef};
use crate::rings::Rings;
use crate::words::{Depth, FunctionRef};
use call::Instant;

/// Whether a function may give its best call to the RunQ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It may not: no call, no core that is ready for it, or at its concurrency limit.
    None,
    /// It may, at this level.
    Level(u8),
    /// It might, but of the cores ready for it none has credits, while others have.
    Blocked,
    /// It might, but a gate holds it back.
    Held,
}

/// One function, as far as decisions about its calls look at it. What every decision needs is in the first cache line;
/// the second one is looked at when a call goes to a core. Twenty thousand of them do not fit a cache.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub struct Function {
    /// Calls that wait for their turn.
    pub buffer: FuncBuffer,
    /// Calls in the RunQ or running at once, at most.
    pub concurrency: u32,
    /// Calls in the RunQ.
    pub queued: u32,
    /// Calls dispatched and not ended.
    pub running: u32,
    /// Its gates; [`OPEN`] if it has none.
    pub gate: u32,
    /// From when on its gates let a call in, whatever its deadline: as of the last change of a gate. A gate that is open
    /// need not be looked at.
    pub opens_at: Instant,
    /// Who answers for it.
    pub tenant: TenantRef,
    turn: Turn,
    /// Deployed and not deleted.
    pub live: bool,
    /// The durable queue has more of its calls.
    pub due: bool,
    /// A poll is under way.
    pub polling: bool,
    /// Whether `cores` has any.
    can_run: bool,
    cores: Mask,
    /// Since when its turn is what it is; a level counts like another.
    since: Instant,
    /// Calls that wait beside its buffer: for their key, for the retry budget, or to be refused.
    pub aside: u32,
}

const _: () = assert!(size_of::<Function>() == 128 && std::mem::offset_of!(Function, cores) == 64);

/// Where a function could run. It changes with hosts and cores, not with calls.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The version in force.
    pub version: u32,
    /// Its locality group.
    pub group: GroupRef,
    /// Hosts that have this version compiled.
    pub hosts: Mask,
    /// Open cores of those hosts.
    pub cores: Mask,
}

impl Readiness {
    const UNKNOWN: Readiness =
        Readiness { version: 0, group: GroupRef::NONE, hosts: Mask::EMPTY, cores: Mask::EMPTY };
}

impl Function {
    const UNKNOWN: Function = Function {
        buffer: FuncBuffer::EMPTY,
        concurrency: 0,
        queued: 0,
        running: 0,
        gate: OPEN,
        opens_at: Instant(0),
        tenant: TenantRef(0),
        turn: Turn::None,
        live: false,
        due: false,
        polling: false,
        can_run: false,
        cores: Mask::EMPTY,
        since: Instant(0),
        aside: 0,
    };

    /// How many of its calls are where.
    pub fn depth(&self) -> Depth {
        Depth { buffered: self.buffer.len() + self.aside, queued: self.queued, running: self.running }
    }

    /// Where it stands.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// Since when it stands there.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The cores that run it: of those that are ready, those of its locality group, if any is.
    pub fn cores(&self) -> Mask {
        self.cores
    }

    /// Other cores run it from now on.
    pub fn set_cores(&mut self, cores: Mask) {
        (self.cores, self.can_run) = (cores, !cores.is_empty());
    }

    /// Whether it has a call, a core that could run it, and room below its concurrency limit.
    pub fn may_run(&self) -> bool {
        let room = self.queued + self.running < self.concurrency;
        self.live && room && !self.buffer.is_empty() && self.can_run
    }

    /// Whether a poll of it makes sense when at most `target` calls should wait in its buffer. It is asked for
    /// calls by the half buffer, so that a poll brings many.
    pub fn wants_poll(&self, target: u32) -> bool {
        let low = self.buffer.len() <= target / 2;
        self.live && self.due && !self.polling && self.can_run && low
    }
}

/// All functions, and the three rings they stand in.
#[derive(Debug)]
pub struct Functions {
    list: Vec<Function>,
    ready: Vec<Readiness>,
    fairness: Fairness,
    /// One ring: blocked ones.
    blocked: Rings,
    /// Two rings: those to poll, and deleted ones whose calls have to be given back.
    errands: Rings,
}

/// The only ring of `blocked`.
const BLOCKED: usize = 0;
/// Rings of `errands`.
const POLLS: usize = 0;
const LEAVING: usize = 1;

impl Functions {
    /// No function is deployed; numbers below `functions_max` may come, of tenants below `tenants_max`.
    pub fn new(functions_max: usize, tenants_max: usize) -> Functions {
        Functions {
            list: vec![Function::UNKNOWN; functions_max],
            ready: vec![Readiness::UNKNOWN; functions_max],
            fairness: Fairness::new(functions_max, tenants_max),
            blocked: Rings::new(functions_max, 1),
            errands: Rings::new(functions_max, 2),
        }
    }

    /// One function.
    pub fn get(&self, function: FunctionRef) -> &Function {
        &self.list[function.0 as usize]
    }

    /// One function, to change. Whoever changes what its turn depends on calls [`Functions::set_turn`] afterwards.
    pub fn get_mut(&mut self, function: FunctionRef) -> &mut Function {
        &mut self.list[function.0 as usize]
    }

    /// Where a function could run.
    pub fn ready(&self, function: FunctionRef) -> &Readiness {
        &self.ready[function.0 as usize]
    }

    /// Where a function could run, to change. Whoever does calls [`Function::set_cores`] afterwards.
    pub fn ready_mut(&mut self, function: FunctionRef) -> &mut Readiness {
        &mut self.ready[function.0 as usize]
    }

    /// How tenants share.
    pub fn fairness(&mut self) -> &mut Fairness {
        &mut self.fairness
    }

    /// How many calls its tenant may give in one turn.
    pub fn weight(&self, function: FunctionRef) -> u32 {
        self.fairness.weight(self.get(function).tenant)
    }

    /// Another tenant answers for it.
    pub fn set_tenant(&mut self, function: FunctionRef, tenant: TenantRef) {
        let Function { turn, since, .. } = *self.get(function);
        self.set_turn(function, Turn::None, since);
        self.get_mut(function).tenant = tenant;
        self.set_turn(function, turn, since);
    }

    /// Numbers of all functions.
    pub fn all(&self) -> impl Iterator<Item = FunctionRef> + use<> {
        (0..self.list.len() as u32).map(FunctionRef)
    }

    /// Forgets what an earlier function of this number left behind.
    ///
    /// # Panics
    /// If calls of it are left.
    pub fn reset(&mut self, function: FunctionRef) {
        let left = self.get(function);
        assert!(left.depth() == Depth::default() && !left.polling, "{function:?} has calls left: {left:?}");
        self.set_turn(function, Turn::None, Instant(0));
        if self.errands.is_linked(function.0) {
            self.errands.remove(function.0);
        }
        *self.ready_mut(function) = Readiness::UNKNOWN;
        *self.get_mut(function) = Function::UNKNOWN;
    }

    /// Puts a function where its turn says: behind all others there, unless it is there already.
    pub fn set_turn(&mut self, function: FunctionRef, turn: Turn, now: Instant) {
        let of = &mut self.list[function.0 as usize];
        let before = of.turn;
        if before == turn {
            return;
        }
        if !matches!((before, turn), (Turn::Level(_), Turn::Level(_))) {
            of.since = now;
        }
        of.turn = turn;
        let tenant = of.tenant;
        match before {
            Turn::None | Turn::Held => {}
            Turn::Level(level) => self.fairness.remove(level, tenant, function),
            Turn::Blocked => self.blocked.remove(function.0),
        }
        match turn {
            Turn::None | Turn::Held => {}
            Turn::Level(level) => self.fairness.push_back(level, tenant, function),
            Turn::Blocked => self.blocked.push_back(BLOCKED, function.0),
        }
    }

    /// The function whose turn it is, and the level of its best call.
    pub fn best(&self) -> Option<(u8, FunctionRef)> {
        self.fairness.best()
    }

    /// The functions whose turn comes next, if nothing changes: how many were found.
    pub fn coming(&self, into: &mut [FunctionRef]) -> usize {
        self.fairness.coming(into)
    }

    /// The function whose turn it is gave a call: it goes behind its equals, or where `turn` says.
    pub fn served(&mut self, level: u8, function: FunctionRef, turn: Turn, now: Instant) {
        let stays = turn == Turn::Level(level);
        self.fairness.served(level, self.get(function).tenant, stays);
        self.set_turn(function, turn, now);
    }

    /// The first blocked function behind `after`, or of all.
    pub fn blocked(&self, after: Option<FunctionRef>) -> Option<FunctionRef> {
        let next = match after {
            None => self.blocked.front(BLOCKED),
            Some(function) => self.blocked.after(BLOCKED, function.0),
        };
        next.map(FunctionRef)
    }

    /// Notes that a function should be polled.
    pub fn push_poll(&mut self, function: FunctionRef) {
        if !self.errands.is_linked(function.0) {
            self.errands.push_back(POLLS, function.0);
        }
    }

    /// The function that has waited longest to be polled, taken out.
    pub fn pop_poll(&mut self) -> Option<FunctionRef> {
        let function = self.errands.front(POLLS)?;
        self.errands.remove(function);
        Some(FunctionRef(function))
    }

    /// Notes that a deleted function has calls to give back.
    pub fn push_leaving(&mut self, function: FunctionRef) {
        if self.errands.is_linked(function.0) {
            self.errands.remove(function.0);
        }
        self.errands.push_back(LEAVING, function.0);
    }

    /// A deleted function that has calls to give back.
    pub fn leaving(&self) -> Option<FunctionRef> {
        self.errands.front(LEAVING).map(FunctionRef)
    }

    /// The function has given all its calls back.
    pub fn pop_leaving(&mut self, function: FunctionRef) {
        self.errands.remove(function.0);
    }

    /// Panics unless each function stands where it must, given the cores that have credits.
    pub fn check(&self, free: Mask) {
        self.fairness.check();
        for at in self.all() {
            let function = self.get(at);
            match function.turn {
                Turn::None => assert!(!function.may_run(), "{at:?} may run and has no turn"),
                Turn::Level(level) => {
                    assert!(function.may_run(), "{at:?} has a turn and may not run");
                    assert!(
                        self.fairness.stands(level, function.tenant),
                        "{at:?} has a turn without its tenant"
                    );
                }
                Turn::Blocked => {
                    assert!(function.may_run(), "{at:?} is blocked and may not run");
                    assert!((function.cores & free).is_empty(), "{at:?} is blocked beside a free core");
                }
                Turn::Held => {
                    assert!(function.may_run() && function.gate != OPEN, "{at:?} is held by nothing")
                }
            }
            assert_eq!(function.can_run, !function.cores.is_empty(), "{at:?} can run");
            assert_eq!(self.blocked.is_linked(at.0), function.turn == Turn::Blocked, "{at:?}");
            if function.wants_poll(0) {
                assert!(self.errands.is_linked(at.0), "{at:?} has due calls and nobody polls it");
            }
            if !function.live && function.depth().buffered > 0 {
                assert!(self.errands.is_linked(at.0), "{at:?} is deleted and keeps its calls");
            }
        }
    }
}
