//! The scheduler as a whole: what each input changes, and what a turn decides.

use crate::func_buffer::{Calls, Place};
use crate::functions::{Functions, Turn};
use crate::rings::Rings;
use crate::run_q::RunQ;
use crate::words::{CallRef, CoreRef, Depth, Effect, Effects, FunctionRef, HostRef, Input};
use crate::worker_lb::WorkerLb;
use call::WallTime;
use call::limits::Limits;

/// Decides which call runs next and where. See the crate's documentation for the laws it keeps.
#[derive(Debug)]
pub struct Scheduler {
    functions: Functions,
    calls: Calls,
    run_q: RunQ,
    lb: WorkerLb,
    /// A ring per core of the calls it runs, and behind them the ring of calls whose core is gone.
    running: Rings,
    lost: usize,
    func_buffer_max: u32,
}

impl Scheduler {
    /// A scheduler without functions and cores. The only allocation: 48 bytes per call of `limits.calls_max`
    /// and about 150 bytes per function of `limits.functions_max`.
    ///
    /// # Panics
    /// If `limits.cores_max` is above [`crate::CORES_MAX`].
    pub fn new(limits: &Limits) -> Scheduler {
        Scheduler {
            functions: Functions::new(limits.functions_max),
            calls: Calls::new(limits.calls_max),
            run_q: RunQ::new(limits.calls_max, limits.runq_max),
            lb: WorkerLb::new(limits.cores_max),
            running: Rings::new(limits.calls_max, limits.cores_max + 1),
            lost: limits.cores_max,
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
            Input::Offered { call, function, criticality, deadline } => {
                self.offered(call, function, criticality, deadline);
            }
            Input::Polled { function, more } => {
                let of = self.functions.get_mut(function);
                assert!(std::mem::take(&mut of.polling), "{function:?} was not polled");
                of.due |= more;
                self.want_poll(function);
            }
            Input::Ended { call } => self.end(call),
            Input::NotSent { call } => {
                let core = self.calls.core(call);
                self.end(call);
                if self.lb.unspend(core) {
                    self.unblock(core);
                }
            }
            Input::Turn { random } => self.turn(random, out),
        }
    }

    fn publish(&mut self, function: FunctionRef, version: u32, concurrency: u32) {
        assert!(concurrency > 0, "{function:?} could never run");
        if !self.functions.get(function).live {
            self.functions.reset(function);
        }
        let of = self.functions.get_mut(function);
        if of.version != version {
            (of.ready_hosts, of.ready_cores) = Default::default();
        }
        (of.live, of.version, of.concurrency) = (true, version, concurrency);
        self.reconsider(function);
    }

    fn retire(&mut self, function: FunctionRef) {
        let of = self.functions.get_mut(function);
        assert!(of.live, "{function:?} is not deployed");
        (of.live, of.due) = (false, false);
        self.reconsider(function);
        for level in 0..=u8::MAX {
            let mut next = self.run_q.next(level, None);
            while let Some(call) = next {
                next = self.run_q.next(level, Some(call));
                if self.calls.function(call) == function {
                    self.put_back(level, call);
                }
            }
        }
        self.functions.push_leaving(function);
    }

    fn ready(&mut self, host: HostRef, function: FunctionRef, version: u32) {
        let cores = self.lb.open_on(host);
        let of = self.functions.get_mut(function);
        if of.live && of.version == version {
            of.ready_hosts.set(usize::from(host.0), true);
            of.ready_cores = of.ready_cores | cores;
            self.reconsider_all(function);
        }
    }

    fn host_down(&mut self, host: HostRef) {
        let cores = self.lb.open_on(host);
        for function in self.functions.all() {
            let of = self.functions.get_mut(function);
            of.ready_hosts.set(usize::from(host.0), false);
            of.ready_cores = of.ready_cores.without(cores);
            self.reconsider(function);
        }
    }

    fn core_up(&mut self, core: CoreRef, host: HostRef, slots: u32, far: bool) {
        self.lb.up(core, host, slots, far);
        for function in self.functions.all() {
            let of = self.functions.get_mut(function);
            if of.ready_hosts.has(usize::from(host.0)) {
                of.ready_cores.set(usize::from(core.0), true);
                self.reconsider_all(function);
            }
        }
    }

    fn close(&mut self, core: CoreRef) {
        self.lb.close(core);
        for function in self.functions.all() {
            self.functions.get_mut(function).ready_cores.set(usize::from(core.0), false);
            self.reconsider(function);
        }
    }

    fn core_down(&mut self, core: CoreRef) {
        self.close(core);
        self.lb.down(core);
        self.running.append(usize::from(core.0), self.lost);
    }

    fn offered(&mut self, call: CallRef, function: FunctionRef, criticality: u8, deadline: WallTime) {
        let of = self.functions.get_mut(function);
        assert!(of.polling, "{function:?} was not polled");
        self.calls.admit(&mut of.buffer, call, function, criticality, deadline);
        if of.live {
            self.reconsider(function);
        } else {
            self.functions.push_leaving(function);
        }
    }

    fn end(&mut self, call: CallRef) {
        assert_eq!(self.calls.place(call), Place::Running, "{call:?} does not run");
        let function = self.calls.function(call);
        self.running.remove(call.0);
        self.calls.forget(call);
        self.functions.get_mut(function).running -= 1;
        self.reconsider(function);
    }

    /// A core has credits again: the functions that waited for one may go on.
    fn unblock(&mut self, core: CoreRef) {
        let mut next = self.functions.blocked(None);
        while let Some(function) = next {
            next = self.functions.blocked(Some(function));
            if self.functions.get(function).ready_cores.has(usize::from(core.0)) {
                self.reconsider(function);
            }
        }
    }

    /// Notes that a function should be polled, if that makes sense now.
    fn want_poll(&mut self, function: FunctionRef) {
        if self.functions.get(function).wants_poll(self.func_buffer_max) {
            self.functions.push_poll(function);
        }
    }

    /// Puts a function where it belongs after something that its turn depends on has changed.
    fn reconsider(&mut self, function: FunctionRef) {
        let of = self.functions.get(function);
        let turn = if !of.may_run() {
            Turn::None
        } else if of.turn() == Turn::Blocked && (of.ready_cores & self.lb.free()).is_empty() {
            Turn::Blocked
        } else {
            let best = self.calls.best(&of.buffer).expect("a function that may run has a call");
            Turn::Level(self.calls.criticality(best))
        };
        self.functions.set_turn(function, turn);
    }

    /// Both, after its cores or its buffer have changed.
    fn reconsider_all(&mut self, function: FunctionRef) {
        self.reconsider(function);
        self.want_poll(function);
    }

    fn turn(&mut self, random: u64, out: &mut Effects) {
        self.lb.seed(random);
        self.run_q.set_slots(self.lb.slots());
        self.give_back(out);
        self.dispatch(out);
        self.fill();
        self.poll(out);
    }

    /// Gives back what lost its core or its function.
    fn give_back(&mut self, out: &mut Effects) {
        while !out.is_full()
            && let Some(call) = self.running.front(self.lost).map(CallRef)
        {
            let (function, core) = (self.calls.function(call), Some(self.calls.core(call)));
            self.end(call);
            out.push(Effect::Return { call, function, core });
        }
        while !out.is_full()
            && let Some(function) = self.functions.leaving()
        {
            match self.calls.take(&mut self.functions.get_mut(function).buffer, Place::Absent) {
                Some(call) => out.push(Effect::Return { call, function, core: None }),
                None => self.functions.pop_leaving(function),
            }
        }
    }

    /// Runs calls while there are credits. A function's best call goes through the RunQ only when its turn has
    /// come: while there are credits nothing is committed early.
    fn dispatch(&mut self, out: &mut Effects) {
        while !out.is_full() && !self.lb.free().is_empty() {
            match self.functions.best() {
                Some((level, function)) if Some(level) > self.run_q.highest() => self.choose(level, function),
                _ => match self.run_q.best() {
                    Some((level, call)) => self.place(level, call, out),
                    None => return,
                },
            }
        }
    }

    /// Chooses the next calls while the RunQ has room for them.
    fn fill(&mut self) {
        while let Some((level, function)) = self.functions.best()
            && self.run_q.admits(level)
        {
            self.choose(level, function);
        }
    }

    /// It is this function's turn: its best call enters the RunQ, and the function goes behind its equals. If all
    /// cores that are ready for it are out of credits while others have some, it is blocked instead.
    fn choose(&mut self, level: u8, function: FunctionRef) {
        let free = self.lb.free();
        let of = self.functions.get_mut(function);
        if !free.is_empty() && (of.ready_cores & free).is_empty() {
            return self.functions.set_turn(function, Turn::Blocked);
        }
        let call = self.calls.take(&mut of.buffer, Place::Queued).expect("a function with a turn has a call");
        of.queued += 1;
        self.run_q.push(level, call);
        self.functions.set_turn(function, Turn::None);
        self.reconsider_all(function);
    }

    /// Sends the RunQ's best call to a core, or sets it aside: if no core that is ready for it has credits, or if
    /// its function was deployed again with a lower concurrency since the call was chosen.
    fn place(&mut self, level: u8, call: CallRef, out: &mut Effects) {
        let function = self.calls.function(call);
        let of = self.functions.get_mut(function);
        let room = of.running < of.concurrency;
        let Some(core) = self.lb.pick(of.ready_cores).filter(|_| room) else {
            self.put_back(level, call);
            if self.functions.get(function).may_run() {
                self.functions.set_turn(function, Turn::Blocked);
            }
            return;
        };
        of.queued -= 1;
        of.running += 1;
        self.lb.spend(core);
        self.run_q.remove(level, call);
        self.calls.run(call, core);
        self.running.push_back(usize::from(core.0), call.0);
        out.push(Effect::Dispatch { call, function, core });
    }

    /// Takes a call out of the RunQ, back to where it was in its FuncBuffer.
    fn put_back(&mut self, level: u8, call: CallRef) {
        let function = self.calls.function(call);
        self.run_q.remove(level, call);
        let of = self.functions.get_mut(function);
        of.queued -= 1;
        self.calls.put(&mut of.buffer, call);
        self.reconsider(function);
    }

    /// Asks for calls: fewer, the fuller the RunQ is, but one for an empty FuncBuffer always, so that a critical
    /// call behind a long RunQ is seen. A function that has enough is polled after it has given a call away.
    fn poll(&mut self, out: &mut Effects) {
        let target = self.run_q.throttled(self.func_buffer_max);
        while !out.is_full()
            && let Some(function) = self.functions.pop_poll()
        {
            let of = self.functions.get_mut(function);
            if of.wants_poll(target) {
                (of.polling, of.due) = (true, false);
                out.push(Effect::Poll { function, max: target - of.buffer.len() });
            }
        }
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
        self.run_q.check();
        self.functions.check(self.lb.free());
        let mut depths = vec![Depth::default(); self.functions.all().count()];
        for (call, place, function) in self.calls.iter() {
            let depth = &mut depths[function.0 as usize];
            match place {
                Place::Absent => unreachable!("only held calls are listed"),
                Place::Buffered => depth.buffered += 1,
                Place::Queued => depth.queued += 1,
                Place::Running => depth.running += 1,
            }
            assert_eq!(self.running.is_linked(call.0), place == Place::Running, "{call:?}");
        }
        for (function, depth) in self.functions.all().zip(depths) {
            let of = self.functions.get(function);
            assert_eq!(of.depth(), depth, "{function:?} counts its calls wrongly");
            self.calls.check(&of.buffer, function);
        }
    }
}
