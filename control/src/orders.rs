//! What operators order about calls and queues: cancel, retry, purge, pause. Not on the path of a call.

use crate::answers::{Refusal, state_name, unknown};
use crate::node::Node;
use crate::session::SessionRef;
use call::CallId;
use call::admin::{Answer, Whose};
use driver::Driver;
use durableq::State;
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
            self.redrive_asked(None, Some(call))?;
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

    /// Forgets dead letters: one, those of a function, or all.
    pub(crate) fn purge_asked(
        &mut self,
        function: Option<&str>,
        only: Option<CallId>,
    ) -> Result<Answer, Refusal> {
        let calls = match only {
            Some(only) => self.queue.number(only).into_iter().collect(),
            None => self.dead_letters(function, usize::MAX)?,
        };
        let mut count = 0;
        for call in calls {
            count += u64::from(self.queue.purge(&mut self.disk.lend(&mut self.driver), call));
        }
        match only {
            Some(only) if count == 0 => {
                Err(Refusal::new("not-found", format!("{only} is not among the dead letters")))
            }
            _ => Ok(Answer::Done { count }),
        }
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
