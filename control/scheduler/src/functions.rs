//! The functions as the scheduler sees them: whose turn it is to give a call to the RunQ.

use crate::func_buffer::FuncBuffer;
use crate::mask::Mask;
use crate::rings::{Levels, Rings};
use crate::words::{Depth, FunctionRef};

/// Whether a function may give its best call to the RunQ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It may not: no call, no core that is ready for it, or at its concurrency limit.
    None,
    /// It may, at this level.
    Level(u8),
    /// It might, but of the cores ready for it none has credits, while others have.
    Blocked,
}

/// One function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Deployed and not deleted.
    pub live: bool,
    /// The version in force.
    pub version: u32,
    /// Calls in the RunQ or running at once, at most.
    pub concurrency: u32,
    /// Calls that wait for their turn.
    pub buffer: FuncBuffer,
    /// Calls in the RunQ.
    pub queued: u32,
    /// Calls dispatched and not ended.
    pub running: u32,
    /// The durable queue has more of its calls.
    pub due: bool,
    /// A poll is under way.
    pub polling: bool,
    /// Hosts that have its version compiled.
    pub ready_hosts: Mask,
    /// Open cores of those hosts.
    pub ready_cores: Mask,
    turn: Turn,
}

impl Function {
    const UNKNOWN: Function = Function {
        live: false,
        version: 0,
        concurrency: 0,
        buffer: FuncBuffer::EMPTY,
        queued: 0,
        running: 0,
        due: false,
        polling: false,
        ready_hosts: Mask::EMPTY,
        ready_cores: Mask::EMPTY,
        turn: Turn::None,
    };

    /// How many of its calls are where.
    pub fn depth(&self) -> Depth {
        Depth { buffered: self.buffer.len(), queued: self.queued, running: self.running }
    }

    /// Where it stands.
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// Whether it has a call, a core that could run it, and room below its concurrency limit.
    pub fn may_run(&self) -> bool {
        let room = self.queued + self.running < self.concurrency;
        self.live && room && !self.buffer.is_empty() && !self.ready_cores.is_empty()
    }

    /// Whether a poll of it makes sense when at most `target` calls should wait in its buffer. It is asked for
    /// calls by the half buffer, so that a poll brings many.
    pub fn wants_poll(&self, target: u32) -> bool {
        let low = self.buffer.len() <= target / 2;
        self.live && self.due && !self.polling && !self.ready_cores.is_empty() && low
    }
}

/// All functions, and the three rings they stand in.
#[derive(Debug)]
pub struct Functions {
    list: Vec<Function>,
    levels: Levels,
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
    /// No function is deployed; numbers below `functions_max` may come.
    pub fn new(functions_max: usize) -> Functions {
        Functions {
            list: vec![Function::UNKNOWN; functions_max],
            levels: Levels::new(functions_max),
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
        self.set_turn(function, Turn::None);
        if self.errands.is_linked(function.0) {
            self.errands.remove(function.0);
        }
        *self.get_mut(function) = Function::UNKNOWN;
    }

    /// Puts a function where its turn says: behind all others there, unless it is there already.
    pub fn set_turn(&mut self, function: FunctionRef, turn: Turn) {
        let before = self.get(function).turn;
        if before == turn {
            return;
        }
        match before {
            Turn::None => {}
            Turn::Level(level) => self.levels.remove(level, function.0),
            Turn::Blocked => self.blocked.remove(function.0),
        }
        match turn {
            Turn::None => {}
            Turn::Level(level) => self.levels.push_back(level, function.0),
            Turn::Blocked => self.blocked.push_back(BLOCKED, function.0),
        }
        self.get_mut(function).turn = turn;
    }

    /// The function whose turn it is, and the level of its best call.
    pub fn best(&self) -> Option<(u8, FunctionRef)> {
        self.levels.best().map(|(level, function)| (level, FunctionRef(function)))
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
        self.levels.check();
        for at in self.all() {
            let function = self.get(at);
            match function.turn {
                Turn::None => assert!(!function.may_run(), "{at:?} may run and has no turn"),
                Turn::Level(_) => assert!(function.may_run(), "{at:?} has a turn and may not run"),
                Turn::Blocked => {
                    assert!(function.may_run(), "{at:?} is blocked and may not run");
                    assert!((function.ready_cores & free).is_empty(), "{at:?} is blocked beside a free core");
                }
            }
            assert_eq!(self.blocked.is_linked(at.0), function.turn == Turn::Blocked, "{at:?}");
            if function.wants_poll(0) {
                assert!(self.errands.is_linked(at.0), "{at:?} has due calls and nobody polls it");
            }
            if !function.live && !function.buffer.is_empty() {
                assert!(self.errands.is_linked(at.0), "{at:?} is deleted and keeps its calls");
            }
        }
    }
}
