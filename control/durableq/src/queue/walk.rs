//! Walking over all calls, in pieces, while the queue goes on: for lists, and for orders in bulk.
//!
//! A call keeps its number as long as it is pending or a dead letter, so that a walk from number 0 up sees each one
//! that is there all the while exactly once; what comes or goes meanwhile is seen or not. Calls that have ended are
//! named by positions, which count up with each end.

use super::DurableQ;
use crate::words::CallView;
use call::CallId;
use std::ops::Range;

impl DurableQ {
    /// All calls and dead letters have numbers below this one ([`DurableQ::view`] takes them).
    pub fn numbers(&self) -> u32 {
        self.calls.places()
    }

    /// The positions of the ends that are remembered, the oldest first. They wrap around.
    pub fn ends(&self) -> Range<u32> {
        self.ended.positions()
    }

    /// The call whose end has this position; `None` if it is forgotten, or the call was accepted anew.
    pub fn view_end(&self, position: u32) -> Option<CallView<'_>> {
        self.ended.of(position).map(|ended| self.view_ended(ended))
    }

    /// As [`DurableQ::view_end`], among those that are remembered for a set time; `None` also if that is over.
    pub fn view_retained(&self, position: u32) -> Option<CallView<'_>> {
        self.retained.of(position).filter(|ended| !self.is_past(ended)).map(|ended| self.view_ended(ended))
    }

    /// The positions of the ends that are remembered for a set time, the oldest first. They wrap around.
    pub fn retained(&self) -> Range<u32> {
        self.retained.positions()
    }

    /// The call whose end has this position among those that are remembered for a set time; `None` if that is over, or it
    /// is forgotten.
    pub fn retained_at(&self, position: u32) -> Option<CallId> {
        self.retained.of(position).filter(|ended| !self.is_past(ended)).map(|ended| ended.id)
    }

    /// The call whose end has this position among the others, and whether its record is on disk: if not, the call is
    /// pending again after a crash.
    pub fn ended_at(&self, position: u32) -> Option<(CallId, bool)> {
        self.ended.of(position).map(|ended| (ended.id, ended.group <= self.log.durable()))
    }
}
