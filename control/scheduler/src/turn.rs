//! What a turn decides: who is given back, who runs, who is chosen next, whom to poll.

use crate::func_buffer::Place;
use crate::functions::Turn;
use crate::gates::{Clock, OPEN};
use crate::glimpse::AHEAD;
use crate::scheduler::{Scheduler, ring_of};
use crate::words::{CallRef, Effect, Effects, FunctionRef};

impl Scheduler {
    pub(crate) fn turn(&mut self, clock: Clock, random: u64, out: &mut Effects) {
        self.gates.set_clock(clock);
        self.lb.seed(random);
        self.keys.seed(random);
        self.run_q.set_slots(self.lb.slots());
        self.give_back(out);
        self.wake();
        self.dispatch(out);
        self.fill();
        self.poll(out);
    }

    /// Gives back what lost its core or its function, and what must not run.
    fn give_back(&mut self, out: &mut Effects) {
        while !out.is_full()
            && let Some(call) = self.calls.front(self.lost)
        {
            let (function, core) = (self.calls.function(call), Some(self.calls.core(call)));
            self.end(call, crate::How::Lost);
            out.push(Effect::Return { call, function, core });
        }
        while !out.is_full()
            && let Some(call) = self.calls.front(self.refused)
        {
            let function = self.calls.function(call);
            self.calls.unlink(call);
            self.calls.forget(call);
            self.functions.get_mut(function).aside -= 1;
            out.push(Effect::Refuse { call, function });
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
        let mut chosen = 0;
        while !out.is_full() && !self.lb.free().is_empty() {
            match self.functions.best() {
                Some((level, function)) if Some(level) > self.run_q.highest() => {
                    self.choose_ahead(&mut chosen, level, function);
                }
                _ => match self.run_q.best(&self.calls) {
                    Some((level, call)) => self.place(level, call, out),
                    None => return,
                },
            }
        }
    }

    /// Chooses the next calls while the RunQ has room for them.
    fn fill(&mut self) {
        let mut chosen = 0;
        while let Some((level, function)) = self.functions.best()
            && self.run_q.admits(level)
        {
            self.choose_ahead(&mut chosen, level, function);
        }
    }

    /// Chooses, and looks ahead before each few of a row of choices.
    fn choose_ahead(&mut self, chosen: &mut usize, level: u8, function: FunctionRef) {
        if chosen.is_multiple_of(AHEAD) {
            self.look_ahead();
        }
        *chosen += 1;
        self.choose(level, function);
    }

    /// It is this function's turn: its best call enters the RunQ, and the function goes behind its equals. If all
    /// cores that are ready for it are out of credits while others have some, it is blocked instead.
    fn choose(&mut self, level: u8, function: FunctionRef) {
        let (free, now) = (self.lb.free(), self.gates.clock().now);
        let of = self.functions.get(function);
        if !free.is_empty() && (of.cores() & free).is_empty() {
            return self.functions.set_turn(function, Turn::Blocked, now);
        }
        if of.gate != OPEN && !self.take_key(function) {
            return self.reconsider_all(function);
        }
        let of = self.functions.get_mut(function);
        if of.gate != OPEN {
            let gate = self.gates.get_mut(of.gate);
            gate.admit(now);
            of.opens_at = gate.opens_at();
        }
        let call = self.calls.take(&mut of.buffer, Place::Queued).expect("a function with a turn has a call");
        of.queued += 1;
        self.run_q.push(&mut self.calls, level, call);
        let turn = self.turn_of(function);
        self.functions.served(level, function, turn, now);
        self.want_poll(function);
    }

    /// Sends the RunQ's best call to a core, or sets it aside: if no core that is ready for it has credits, or if
    /// its function was deployed again with a lower concurrency since the call was chosen.
    fn place(&mut self, level: u8, call: CallRef, out: &mut Effects) {
        let function = self.calls.function(call);
        let of = self.functions.get_mut(function);
        let room = of.running < of.concurrency;
        let Some(core) = self.lb.pick(of.cores()).filter(|_| room) else {
            self.put_back(level, call);
            if matches!(self.functions.get(function).turn(), Turn::Level(_)) {
                self.functions.set_turn(function, Turn::Blocked, self.gates.clock().now);
            }
            return;
        };
        if of.gate != OPEN && !self.flows(call, function) {
            // Its function's label was lowered after the call had come.
            self.leave_run_q(level, call);
            self.calls.forget(call);
            self.reconsider(function);
            return out.push(Effect::Refuse { call, function });
        }
        let of = self.functions.get_mut(function);
        of.queued -= 1;
        of.running += 1;
        self.lb.spend(core);
        self.run_q.remove(&mut self.calls, level, call);
        self.calls.run(call, core);
        self.calls.push_back(ring_of(core), call);
        out.push(Effect::Dispatch { call, function, core });
    }

    /// Takes a call out of the RunQ, back to where it was in its FuncBuffer.
    pub(crate) fn put_back(&mut self, level: u8, call: CallRef) {
        let function = self.calls.function(call);
        self.leave_run_q(level, call);
        self.calls.put(&mut self.functions.get_mut(function).buffer, call);
        self.reconsider(function);
    }

    /// Takes a call out of the RunQ, and gives back what it took at its function's gates.
    fn leave_run_q(&mut self, level: u8, call: CallRef) {
        let function = self.calls.function(call);
        self.run_q.remove(&mut self.calls, level, call);
        let of = self.functions.get_mut(function);
        of.queued -= 1;
        if of.gate != OPEN {
            self.gates.get_mut(of.gate).give_back();
            self.note_gates(function);
            self.end_key(call);
        }
    }

    /// Asks for calls: fewer, the fuller the RunQ is, but always as many as its tenant may give in one turn, so that a
    /// critical call behind a long RunQ is seen and weights are kept. A function that has enough is polled after it
    /// has given a call away.
    fn poll(&mut self, out: &mut Effects) {
        let throttled = self.run_q.throttled(self.func_buffer_max);
        while !out.is_full()
            && let Some(function) = self.functions.pop_poll()
        {
            let target = throttled.max(2 * self.functions.weight(function) - 1);
            let of = self.functions.get_mut(function);
            if of.wants_poll(target) {
                (of.polling, of.due) = (true, false);
                out.push(Effect::Poll { function, max: target - of.buffer.len() });
            }
        }
    }
}
