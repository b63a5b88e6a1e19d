//! The calls of functions that were deleted by force go to the dead letters: some in each round, so that a million of
//! them do not stop the node. What the order was is on disk in the catalog before the node hears of it, so that a node
//! that dies in the middle goes on after its restart.

use crate::node::Node;
use crate::session::SessionRef;
use crate::walk::{CLOCK_CALLS, ROUND_CALLS, ROUND_CHANGES, ROUND_TIME};
use call::admin::Answer;
use call::{Instant, Status};
use driver::Driver;
use durableq::CallRef;
use scheduler::FunctionRef;
use std::collections::VecDeque;

/// One function's.
struct Burial {
    function: FunctionRef,
    /// The number of the next call to look at.
    at: u32,
    /// Calls have come back behind it: it begins anew at its end.
    again: bool,
    count: u64,
    /// Who hears how many there were: session and stamp of the ask.
    asked: Option<(SessionRef, u64)>,
}

/// All that are under way; the first is the next to go on.
#[derive(Default)]
pub(crate) struct Burials {
    under_way: VecDeque<Burial>,
}

impl Burials {
    /// When one goes on.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        if self.under_way.is_empty() { Instant::NEVER } else { now }
    }
}

impl<D: Driver> Node<D> {
    /// Begins to send the calls of a function that was deleted to the dead letters.
    pub(crate) fn begin_burial(&mut self, function: FunctionRef, asked: Option<(SessionRef, u64)>) {
        self.buried.insert(function);
        let known = self.burials.under_way.iter_mut().find(|burial| burial.function == function);
        match known {
            Some(burial) if asked.is_none() => burial.again = true,
            _ => {
                let burial = Burial { function, at: 0, again: false, count: 0, asked };
                self.burials.under_way.push_back(burial);
            }
        }
    }

    /// Calls of a function that was deleted have become due: they ran, or were on their way to the disk, until now.
    pub(crate) fn bury_due(&mut self, function: FunctionRef) {
        let mut calls = Vec::with_capacity(ROUND_CHANGES);
        self.queue.peek_due(durableq::FunctionRef(function.0), ROUND_CHANGES, &mut calls);
        let is_all = calls.len() < ROUND_CHANGES;
        for call in calls {
            self.bury(function, call);
        }
        if !is_all {
            self.begin_burial(function, None);
        }
    }

    fn bury(&mut self, function: FunctionRef, call: CallRef) -> bool {
        let buried = self.queue.bury(&mut self.disk.lend(&mut self.driver), call, Status::Unavailable);
        if buried {
            self.accounts.ended(function, Status::Unavailable);
        }
        buried
    }

    /// One round of the first burial; answers if that is its end.
    pub(crate) fn turn_burials(&mut self) {
        let Some(mut burial) = self.burials.under_way.pop_front() else { return };
        let is_over = self.go_on_burying(&mut burial);
        // One that was deployed again keeps what is left.
        if is_over && burial.again && self.buried.contains(&burial.function) {
            (burial.at, burial.again) = (0, false);
            self.burials.under_way.push_back(burial);
        } else if !is_over {
            self.burials.under_way.push_back(burial);
        } else if let Some((session, stamp)) = burial.asked {
            self.answer(session, stamp, &Answer::Done { count: burial.count });
        }
    }

    fn go_on_burying(&mut self, burial: &mut Burial) -> bool {
        if !self.buried.contains(&burial.function) {
            return true;
        }
        let (until, begun) = (self.driver.precise() + ROUND_TIME, burial.count);
        let id = self.queue.function_id(durableq::FunctionRef(burial.function.0));
        for n in 1..=ROUND_CALLS {
            if burial.at >= self.queue.numbers() {
                return true;
            }
            let call = CallRef(burial.at);
            burial.at += 1;
            if self.queue.view(call).is_some_and(|view| view.function == id) {
                burial.count += u64::from(self.bury(burial.function, call));
            }
            let full = burial.count - begun >= ROUND_CHANGES as u64
                || (n.is_multiple_of(CLOCK_CALLS) && self.driver.precise() >= until);
            if full {
                return false;
            }
        }
        false
    }
}
