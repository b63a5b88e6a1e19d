//! The log stands still for whoever copies it, while the queue goes on.

use super::DurableQ;

impl DurableQ {
    /// While it is held, no segment is removed or used again: whoever copies the segments finds each group up to
    /// [`DurableQ::durable_group`] where it was written. Unless no segment can be made any more: the queue comes first.
    pub fn hold_segments(&mut self, held: bool) {
        self.log.segments.hold(held);
    }

    /// The last group that is on disk, with all groups before it; 0 before the first.
    pub fn durable_group(&self) -> u64 {
        self.log.durable()
    }
}
