//! Second stage: credits. The node may have sent at most as many leases in all as the core has granted in all, so a
//! lease always finds a free slot, and nothing is ever queued on hope.

use crate::core::Core;
use crate::ingress::Link;
use call::Instant;
use call::frame::{Header, Kind};
use driver::{Driver, SendError};
use runtime::Runtime;

/// Cumulative counts of one connection.
pub(crate) struct Credits {
    /// Slots granted.
    granted: u64,
    /// What of that the node has been told.
    told: u64,
    /// Leases received.
    spent: u64,
    /// When the node must next hear of this core.
    heartbeat_at: Instant,
}

impl Credits {
    pub fn new() -> Credits {
        Credits { granted: 0, told: 0, spent: 0, heartbeat_at: Instant::NEVER }
    }

    /// A new connection: every slot is granted, and the node is to hear of it at once.
    pub fn restart(&mut self, slots: u32) {
        *self = Credits { granted: u64::from(slots), told: 0, spent: 0, heartbeat_at: Instant(0) };
    }

    /// A slot is free again.
    pub fn grant(&mut self) {
        self.granted += 1;
    }

    /// A lease arrived.
    pub fn spend(&mut self) {
        self.spent += 1;
    }

    pub fn heartbeat_at(&self) -> Instant {
        self.heartbeat_at
    }

    /// What is granted and not spent is free.
    pub fn check(&self, slots: u32, held: u32) {
        assert!(self.told <= self.granted, "the node was told of slots that are not granted");
        assert_eq!(self.granted - self.spent, u64::from(slots - held), "a credit for each free slot");
    }
}

impl<D: Driver, R: Runtime> Core<D, R> {
    /// Tells the node of slots that came free in this round, in one frame, and that the core lives.
    pub(crate) fn admit(&mut self, now: Instant) {
        let Link::Up { connection } = self.link else { return };
        let due = now >= self.credits.heartbeat_at;
        if due && self.slots.held() == 0 {
            self.runtime.idle();
        }
        if !due && self.credits.granted == self.credits.told {
            return;
        }
        let credit = Header { stamp: self.credits.granted, ..Header::new(Kind::Credit) };
        match self.driver.send(connection, &credit.encode(&[])) {
            Ok(()) => self.credits.told = self.credits.granted,
            // Tried again when there is room. A full connection is a sign of life in itself.
            Err(SendError::Full) => {}
            // Its `Closed` is on the way.
            Err(SendError::Closed) => {}
        }
        self.credits.heartbeat_at = now + self.limits.heartbeat;
    }
}
