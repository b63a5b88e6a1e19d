//! What operators order about calls and queues: cancel, retry, purge, pause. Not on the path of a call.

use crate::answers::{Refusal, state_name, unknown};
use crate::node::Node;
use crate::session::SessionRef;
use call::CallId;
use call::admin::{Answer, Verb, Whose};
use driver::Driver;
use durableq::{CallRef, State};
use scheduler::FunctionRef;

impl<D: Driver> Node<D> {
    /// Cancels a call, and answers with it when it has ended, or after so long.
    pub(crate) fn cancel_asked(
        &mut self,
        session: SessionRef,
        stamp: u64,
        call: CallId,
        wait_ms: u64,
    ) -> Result<Option<Answer>, Refusal> {
        let state = self.queue.find(call).ok_or_else(|| unknown(call))?.state;
        if !self.cancel(call) {
            let message = match state {
                State::Dead => format!("{call} is a dead letter: purge it, or leave it"),
                _ => format!("{call} has ended"),
            };
            return Err(Refusal::new("conflict", message));
        }
        self.call_asked(session, stamp, call, wait_ms)
    }

    /// Runs a call again at once.
    pub(crate) fn retry_asked(&mut self, call: CallId) -> Result<Answer, Refusal> {
        let view = self.queue.find(call).ok_or_else(|| unknown(call))?;
        let (state, name) = (view.state, state_name(&view));
        if state == State::Dead {
            self.letter_asked(Verb::Redrive, call)?;
        } else if !self.hurry(call) {
            let message = format!("{call} does not wait to be tried again: it is {name}");
            return Err(Refusal::new("conflict", message));
        }
        self.call_answer(call)
    }

    /// Ends the wait of a call that is to be tried again. `false` if it does not wait for that.
    pub(crate) fn hurry(&mut self, call: CallId) -> bool {
        let Some(at) = self.queue.number(call) else { return false };
        self.queue.hurry(&mut self.disk.lend(&mut self.driver), at)
    }

    /// Does this to one dead letter. Of many it is a walk.
    pub(crate) fn letter_asked(&mut self, verb: Verb, call: CallId) -> Result<Answer, Refusal> {
        if self.queue.number(call).is_some_and(|at| self.obey(verb, at)) {
            return Ok(Answer::Done { count: 1 });
        }
        let or = if verb == Verb::Redrive { ", or its function is deleted" } else { "" };
        Err(Refusal::new("not-found", format!("{call} is not among the dead letters{or}")))
    }

    /// Makes a dead letter pending again. One whose function is gone would only wait; it stays where an operator sees it.
    pub(crate) fn redrive(&mut self, call: CallRef) -> bool {
        let function = self.queue.view(call).expect("just looked up").function;
        self.catalog.find(function).is_some()
            && self.queue.redrive(&mut self.disk.lend(&mut self.driver), call)
    }

    /// Holds calls, or lets them run again. Tells how many functions that changes.
    pub(crate) fn set_pause(&mut self, whose: Whose, paused: bool) -> Result<u64, Refusal> {
        if let Whose::Function(name) = &whose {
            self.deployed(name)?;
        }
        match paused {
            true => self.shapes.said.paused.insert(whose),
            false => self.shapes.said.paused.remove(&whose),
        };
        let functions: Vec<FunctionRef> = self.catalog.iter().map(|(function, _)| function).collect();
        Ok(functions.into_iter().map(|function| u64::from(self.pause_as_said(function))).sum())
    }

    /// Tells the queue whether a function is held. Whether that is new.
    pub(crate) fn pause_as_said(&mut self, function: FunctionRef) -> bool {
        let paused = !self.paused_by(function).is_empty();
        let known = durableq::FunctionRef(function.0);
        let is_new = self.queue.is_paused(known) != paused;
        if is_new {
            self.queue.pause(known, paused);
        }
        is_new
    }

    /// Whose pause holds a function's calls; nothing if they run.
    pub(crate) fn paused_by(&self, function: FunctionRef) -> &'static str {
        let Some(deployed) = self.catalog.get(function) else { return "" };
        let (spec, said) = (&deployed.spec, &self.shapes.said.paused);
        if said.is_empty() {
            ""
        } else if said.contains(&Whose::Function(format!("{}/{}", spec.namespace, spec.name))) {
            "function"
        } else if said.contains(&Whose::Tenant(spec.tenant.clone())) {
            "tenant"
        } else {
            ""
        }
    }
}
