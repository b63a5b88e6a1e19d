//! The orderly end: no new calls, no new leases, and everything on disk before the process goes.

use crate::node::{Node, Phase};
use call::Instant;
use call::admin::Answer;
use driver::Driver;
use scheduler::Input;

impl<D: Driver> Node<D> {
    /// Begins to drain: submits are refused, nothing more is leased. See [`Phase::Ended`].
    pub fn drain(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Draining { by: self.driver.now() + self.options.drain };
        let up: Vec<_> = self.workers.cores().filter(|(_, c)| c.is_up).map(|(core, _)| core).collect();
        for core in up {
            self.scheduler.step(Input::CoreDrain { core }, &mut self.effects);
        }
    }

    /// Ends the drain when nothing is leased any more, or its time is over, and the log is on disk. Leases that did
    /// not end are given again after the next start.
    pub(crate) fn end_drain(&mut self, now: Instant) {
        let Phase::Draining { by } = self.phase else { return };
        let leased = self.queue.counters().leased_now;
        let over = leased == 0 && self.regions.is_idle() || now >= by;
        if !over || !self.queue.is_settled() {
            return;
        }
        self.phase = Phase::Ended;
        for (session, stamp) in std::mem::take(&mut self.drain_asked) {
            self.answer(session, stamp, &Answer::Done { count: leased });
        }
    }

    /// Closes every connection behind what is queued on it.
    pub fn leave(&mut self) {
        self.sessions.close_all(&mut self.driver);
    }

    /// Whether no connection is left.
    pub fn is_alone(&self) -> bool {
        self.sessions.iter().next().is_none()
    }

    /// Ends the node if the log failed: what was acknowledged is on disk, and nothing more can be.
    pub(crate) fn end_failed(&mut self) {
        if let Some(errno) = self.queue.failed()
            && self.phase != (Phase::Failed { errno })
        {
            let error = std::io::Error::from_raw_os_error(errno);
            self.note(&format!(
                "the log could not be written: {error}; ending, a restart recovers what was accepted"
            ));
            self.phase = Phase::Failed { errno };
        }
    }
}
