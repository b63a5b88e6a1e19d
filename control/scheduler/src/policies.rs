//! What a policy changes for the calls of its function: which wait beside the FuncBuffer, and when they come back.

use crate::explain::Rule;
use crate::func_buffer::Place;
use crate::functions::Turn;
use crate::gates::OPEN;
use crate::glimpse::AHEAD;
use crate::keys::Slot;
use crate::policy::{GroupRef, Policy};
use crate::quota::Rate;
use crate::scheduler::Scheduler;
use crate::words::{CallRef, CoreRef, FunctionRef};
use call::{Instant, Label};

impl Scheduler {
    pub(crate) fn set_policy(&mut self, function: FunctionRef, policy: Policy) {
        self.functions.set_tenant(function, policy.tenant);
        let gate = self.gate_of(function);
        self.functions.ready_mut(function).group = policy.group;
        self.gates.set(gate, policy, self.functions.get(function).queued);
        self.note_gates(function);
        self.set_cores(function);
        self.release_keys(function);
        self.release_retries(function);
        self.reconsider_all(function);
    }

    pub(crate) fn set_limit(&mut self, function: FunctionRef, rate: Rate) {
        if rate == Rate::UNLIMITED && self.functions.get(function).gate == OPEN {
            return;
        }
        let gate = self.gate_of(function);
        self.gates.set_limit(gate, rate, self.functions.get(function).queued);
        self.note_gates(function);
        self.reconsider(function);
    }

    pub(crate) fn set_s(&mut self, permille: u32) {
        self.gates.set_s(permille);
        for function in self.functions.all() {
            let of = self.functions.get(function);
            if of.gate != OPEN && self.gates.apply_s(of.gate, of.queued) {
                self.note_gates(function);
                self.reconsider(function);
            }
        }
    }

    pub(crate) fn set_group(&mut self, core: CoreRef, group: GroupRef) {
        self.locality.set(core, group);
        for function in self.functions.all() {
            self.set_cores(function);
            self.reconsider_all(function);
        }
    }

    /// Notes from when on a function's gates let a call in, after one of them has changed.
    pub(crate) fn note_gates(&mut self, function: FunctionRef) {
        let of = self.functions.get_mut(function);
        of.opens_at = self.gates.get(of.gate).opens_at();
    }

    /// The gates of a function, made if it has none.
    fn gate_of(&mut self, function: FunctionRef) -> u32 {
        let of = self.functions.get_mut(function);
        assert!(of.live, "{function:?} is not deployed");
        if of.gate == OPEN {
            of.gate = self.gates.open(function);
        }
        of.gate
    }

    /// The cores that run a function, after those that are ready for it or its group have changed.
    pub(crate) fn set_cores(&mut self, function: FunctionRef) {
        let ready = self.functions.ready(function);
        let cores = self.locality.within(ready.group, ready.cores);
        self.functions.get_mut(function).set_cores(cores);
    }

    /// What the function may read.
    pub(crate) fn label(&self, function: FunctionRef) -> Label {
        match self.functions.get(function).gate {
            OPEN => Label::LOWEST,
            gate => self.gates.get(gate).policy.label,
        }
    }

    /// Whether the function may read a call's data: that of most calls carries no label.
    pub(crate) fn flows(&self, call: CallRef, function: FunctionRef) -> bool {
        let label = self.calls.marks(call).label;
        label == Label::LOWEST || label.flows_to(self.label(function))
    }

    /// A call of a function with gates has come in: it stands in the FuncBuffer, or waits for the retry budget.
    pub(crate) fn take_in(&mut self, call: CallRef, function: FunctionRef) {
        let now = self.gates.clock().now;
        let retry = self.calls.marks(call).retry;
        let of = self.functions.get_mut(function);
        let gate = self.gates.get_mut(of.gate);
        if gate.takes_in(now, retry) {
            self.calls.put(&mut of.buffer, call);
            if !retry {
                self.release_retries(function);
            }
            return;
        }
        if gate.waiting.is_empty() {
            gate.waiting_since = now;
        }
        of.aside += 1;
        self.calls.put(&mut gate.waiting, call);
        self.gates.note(of.gate);
    }

    /// Lets retries in as far as the budget pays for them.
    fn release_retries(&mut self, function: FunctionRef) {
        let now = self.gates.clock().now;
        let of = self.functions.get_mut(function);
        if of.aside == 0 {
            return;
        }
        let gate = self.gates.get_mut(of.gate);
        while gate.pays(now) {
            let call = self.calls.take(&mut gate.waiting, Place::Absent).expect("one waits");
            self.calls.put(&mut of.buffer, call);
            of.aside -= 1;
        }
        self.gates.note(of.gate);
    }

    /// The function's best call is about to enter the RunQ: takes its key, or sets the call aside until the key has
    /// room. Says whether it may enter.
    pub(crate) fn take_key(&mut self, function: FunctionRef) -> bool {
        let of = self.functions.get_mut(function);
        if !of.buffer.is_marked() {
            return true;
        }
        let limit = self.gates.get(of.gate).policy.concurrency_per_key;
        let call = self.calls.best(&of.buffer).expect("a function with a turn has a call");
        let key = self.calls.marks(call).key;
        if limit == 0 || key == 0 {
            return true;
        }
        let Err(slot) = self.keys.take(function, key, limit, call) else { return true };
        self.calls.take(&mut of.buffer, Place::Absent);
        self.keys.note_wait(slot, self.gates.clock().now);
        self.calls.put(self.keys.waiting_mut(slot), call);
        of.aside += 1;
        false
    }

    /// A call that has ended makes room for the best one that waits for its key.
    pub(crate) fn end_key(&mut self, call: CallRef) {
        if self.calls.marks(call).key != 0
            && let Some(slot) = self.keys.give_back(call)
        {
            self.release_one(slot, self.calls.function(call));
        }
    }

    fn release_one(&mut self, slot: Slot, function: FunctionRef) {
        let waiting = self.keys.waiting_mut(slot);
        let call = self.calls.take(waiting, Place::Absent).expect("one waits");
        self.keys.close_unused(slot);
        let of = self.functions.get_mut(function);
        self.calls.put(&mut of.buffer, call);
        of.aside -= 1;
    }

    /// Puts all calls that wait for their keys back: their limit has changed, or their function goes.
    fn release_keys(&mut self, function: FunctionRef) {
        if self.functions.get(function).aside == 0 {
            return;
        }
        while let Some(slot) = self.keys.any_waiting(function) {
            self.release_one(slot, function);
        }
    }

    /// The function goes: what waits beside its buffer goes with the rest.
    pub(crate) fn release_all(&mut self, function: FunctionRef) {
        self.release_keys(function);
        let of = self.functions.get_mut(function);
        if of.gate == OPEN {
            return;
        }
        let gate = self.gates.get_mut(of.gate);
        while let Some(call) = self.calls.take(&mut gate.waiting, Place::Absent) {
            self.calls.put(&mut of.buffer, call);
            of.aside -= 1;
        }
        self.gates.note(of.gate);
    }

    /// Looks at the gates whose time has come.
    pub(crate) fn wake(&mut self) {
        loop {
            let mut due = [0; AHEAD];
            let popped = std::iter::from_fn(|| self.gates.pop_due());
            let count = due.iter_mut().zip(popped).map(|(slot, gate)| *slot = gate).count();
            if count == 0 {
                return;
            }
            self.glimpse_due(&due[..count]);
            for gate in &due[..count] {
                let function = self.gates.get(*gate).function;
                self.release_retries(function);
                self.reconsider(function);
            }
        }
    }

    /// Whether a gate holds the function back from giving its best call.
    pub(crate) fn is_held(&mut self, function: FunctionRef) -> bool {
        let of = self.functions.get(function);
        let closed = of.may_run() && of.opens_at > self.gates.clock().now;
        let best = closed.then(|| of.buffer.deadline()).flatten();
        self.gates.look(of.gate, best)
    }

    /// Whether a buffered call waits for the retry budget, and not in its FuncBuffer.
    pub(crate) fn waits_for_budget(&self, call: CallRef) -> bool {
        let of = self.functions.get(self.calls.function(call));
        self.calls.marks(call).retry && self.calls.holds(&self.gates.get(of.gate).waiting, call)
    }

    /// Since when a buffered call waits for its key, if it does.
    pub(crate) fn waits_for_key(&self, call: CallRef, function: FunctionRef) -> Option<Instant> {
        let key = self.calls.marks(call).key;
        let slot = self.keys.find(function, key).filter(|_| key != 0)?;
        self.calls.holds(self.keys.waiting(slot), call).then(|| self.keys.since(slot))
    }

    /// The policy of a function; none if it never got one.
    pub fn policy(&self, function: FunctionRef) -> Option<&Policy> {
        let gate = self.functions.get(function).gate;
        (gate != OPEN).then(|| &self.gates.get(gate).policy)
    }

    /// The rates in force for a function: of its quota (times S, if it is opportunistic), and of what controllers allow.
    pub fn rates(&self, function: FunctionRef) -> (Rate, Rate) {
        match self.functions.get(function).gate {
            OPEN => (Rate::UNLIMITED, Rate::UNLIMITED),
            gate => self.gates.get(gate).rates(),
        }
    }

    /// Panics unless whoever waits beside a FuncBuffer has reason to.
    pub(crate) fn check_gates(&self) {
        self.locality.check();
        self.keys.check();
        self.gates.check_timers();
        for function in self.functions.all() {
            let of = self.functions.get(function);
            let ready = self.functions.ready(function);
            let cores = self.locality.within(ready.group, ready.cores);
            assert_eq!(of.cores(), cores, "cores of {function:?}");
            if of.gate == OPEN {
                continue;
            }
            self.gates.check(of.gate);
            let gate = self.gates.get(of.gate);
            assert_eq!(of.opens_at, gate.opens_at(), "when the gates of {function:?} open");
            assert_eq!(gate.function, function, "the gate of {function:?}");
            assert_eq!(
                gate.held.is_some(),
                of.turn() == Turn::Held,
                "{function:?} is held by {:?}",
                gate.held
            );
            assert!(gate.held.is_none_or(|held| held.rule != Rule::Empty));
            self.calls.check(&gate.waiting, function);
        }
    }
}
