//! The log is held still for a copy of it: for some seconds at a time, so that a copier that dies holds nothing.

use crate::node::Node;
use call::Instant;
use call::admin::Hold;
use driver::Driver;
use std::time::Duration;

/// One ask holds no longer; whoever needs more asks again.
const HOLD_MAX: Duration = Duration::from_secs(60);

impl<D: Driver> Node<D> {
    /// Holds the log, and says up to where it stands on disk.
    pub(crate) fn hold(&mut self, ms: u64) -> Hold {
        let until = self.driver.now() + Duration::from_millis(ms).min(HOLD_MAX);
        self.held_until = self.held_until.max(until);
        self.queue.hold_segments(true);
        let counters = self.queue.counters();
        Hold {
            group: self.queue.durable_group(),
            incarnation: self.queue.incarnation(),
            pending: counters.pending_now,
            dead_letters: counters.dead_now,
            directory: String::new(),
        }
    }

    /// Lets go of the log when nobody has asked for longer.
    pub(crate) fn end_hold(&mut self, now: Instant) {
        if self.held_until != Instant(0) && now >= self.held_until {
            self.held_until = Instant(0);
            self.queue.hold_segments(false);
        }
    }

    /// When [`Node::end_hold`] is to be called.
    pub(crate) fn hold_until(&self) -> Instant {
        if self.held_until == Instant(0) { Instant::NEVER } else { self.held_until }
    }
}
