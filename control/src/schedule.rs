//! The scheduler's glue: tells it what is due, and does what it decides.

use crate::node::Node;
use call::{FunctionSpec, Status};
use driver::Driver;
use durableq::Defaults;
use scheduler::{CallRef, Effect, FunctionRef, Input, Marks};

impl<D: Driver> Node<D> {
    /// Lets the scheduler decide until it has nothing more to say this round.
    ///
    /// While draining, too: lost calls must come back. All cores are closed then, so nothing is dispatched.
    pub(crate) fn schedule(&mut self) {
        while let Some(function) = self.queue.next_due() {
            self.due(FunctionRef(function.0));
        }
        self.stalled = false;
        while !self.stalled {
            let (now, wall, random) = (self.driver.now(), self.driver.wall(), self.driver.random());
            self.scheduler.step(Input::Turn { now, wall, random }, &mut self.effects);
            if self.effects.as_slice().is_empty() {
                return;
            }
            self.follow();
        }
    }

    /// A function has due calls. Those of a function that is not deployed wait until it is, unless it was deleted
    /// together with its calls: then these were still running, or not on disk yet.
    pub(crate) fn due(&mut self, function: FunctionRef) {
        if self.catalog.get(function).is_some() {
            self.scheduler.step(Input::Due { function }, &mut self.effects);
        } else if self.buried.contains(&function) {
            self.bury_due(function);
        }
    }

    /// Does what the scheduler decided.
    fn follow(&mut self) {
        for at in 0..self.effects.as_slice().len() {
            match self.effects.as_slice()[at] {
                Effect::Poll { function, max } => self.poll(function, max),
                Effect::Dispatch { call, function, core } => self.lease(call, function, core),
                Effect::Return { call, core, .. } if self.regions.is_pulled(call) => {
                    self.return_pulled(call, core);
                }
                // The queue took these back when the core went down.
                Effect::Return { core: Some(_), .. } => {}
                Effect::Return { call, core: None, .. } => self.queue.give_back(durableq::CallRef(call.0)),
                Effect::Refuse { call, .. } if self.regions.is_pulled(call) => self.refuse_pulled(call),
                Effect::Refuse { call, function } => self.refuse(call, function),
            }
        }
        self.effects.clear();
    }

    /// A call whose data must not reach its function goes to the dead letters.
    fn refuse(&mut self, call: CallRef, function: FunctionRef) {
        let at = durableq::CallRef(call.0);
        self.queue.give_back(at);
        let mut blocks = self.disk.lend(&mut self.driver);
        if self.queue.bury(&mut blocks, at, Status::Forbidden) {
            self.accounts.ended(function, Status::Forbidden);
        }
    }

    fn poll(&mut self, function: FunctionRef, max: u32) {
        let of = durableq::FunctionRef(function.0);
        let deployed = self.catalog.get(function).expect("only deployed functions are polled");
        let defaults = defaults(&deployed.spec);
        // Few and bounded by what was granted: they cannot starve this region's own.
        let pulled = self.poll_pulled(function, max);
        for _ in pulled..max {
            let Some(offer) = self.queue.poll(of, &defaults) else { break };
            let (call, criticality, deadline) = (CallRef(offer.call.0), offer.criticality, offer.deadline);
            let marks = Marks { key: offer.key.0.into(), label: offer.label, retry: offer.retry };
            let offered = Input::Offered { call, function, criticality, deadline, marks };
            // Inputs other than a turn add no effects: the list being followed stays as it is.
            self.scheduler.step(offered, &mut self.effects);
        }
        let more = self.queue.has_due(of) || self.has_pulled(function);
        self.scheduler.step(Input::Polled { function, more }, &mut self.effects);
    }
}

/// What a function says about calls that do not say it themselves.
pub(crate) fn defaults(spec: &FunctionSpec) -> Defaults {
    Defaults { criticality: spec.criticality, deadline_ns: spec.deadline_ms.saturating_mul(1_000_000) }
}
