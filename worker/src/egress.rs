//! Last stage: the outcome goes to the node. It is encoded once, into a buffer that is used again and again; if the
//! connection has no room, the call keeps its slot, and its result stays where the runtime has it, until there is.

use crate::core::{Core, Phase};
use crate::ingress::Link;
use crate::slots::{Refusal, State};
use call::Usage;
use call::body::{self, Reply};
use call::frame::{Header, Kind};
use call::limits::{BLOB_ABOVE_BYTES, STDERR_BYTES_MAX};
use driver::{Driver, SendError};
use runtime::{Runtime, SlotId};

impl<D: Driver, R: Runtime> Core<D, R> {
    /// A call has ended: sends its outcome, or keeps it until there is room.
    pub(crate) fn ended(&mut self, slot: SlotId) {
        let held = self.slots.get_mut(slot);
        held.state = State::Ended;
        let ended = self.runtime.ended(slot);
        self.stats.record(ended.status, &held.times(ended.usage));
        if !self.stores(slot) {
            self.send_or_keep(slot);
        }
    }

    /// A call that cannot or may not be begun ends at once.
    pub(crate) fn refuse(&mut self, slot: SlotId, refusal: Refusal) {
        self.slots.get_mut(slot).state = State::Refused(refusal);
        self.stats.record(refusal.status(), &Usage::default());
        self.send_or_keep(slot);
    }

    /// Sends what waited, while there is room.
    pub(crate) fn send_unsent(&mut self) {
        while let Some(slot) = self.unsent.front().copied() {
            if !self.send_outcome(slot) {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Tells the node that the core takes nothing new. False if there is no room for that.
    pub(crate) fn say_drain(&mut self) -> bool {
        let Link::Up { connection } = self.link else { return true };
        self.driver.send(connection, &Header::new(Kind::Drain).encode(&[])) != Err(SendError::Full)
    }

    /// Tells the node once more, now that the core has finished what it held, and closes. False while there is no
    /// room, or nothing to close.
    pub(crate) fn say_drained(&mut self) -> bool {
        let Some(connection) = self.link.connection() else { return false };
        let said = self.say_drain();
        if said {
            self.driver.close(connection);
        }
        said
    }

    pub(crate) fn send_or_keep(&mut self, slot: SlotId) {
        if !self.unsent.is_empty() || !self.send_outcome(slot) {
            self.stats.kept += 1;
            self.unsent.push_back(slot);
        }
    }

    /// Sends an outcome and frees the slot; false if the connection has no room.
    fn send_outcome(&mut self, slot: SlotId) -> bool {
        let Some(connection) = self.link.connection() else {
            unreachable!("a lost connection takes its calls along")
        };
        self.encode(slot);
        match self.driver.send(connection, &self.out) {
            Err(SendError::Full) => return false,
            Ok(()) => {}
            // Its `Closed` is on the way; the node leases the call again.
            Err(SendError::Closed) => self.stats.lost += 1,
        }
        if !matches!(self.slots.get(slot).state, State::Refused(_)) {
            self.runtime.release(slot);
            self.fetches.release(slot);
            self.uploads.release(slot);
        }
        self.slots.give(slot);
        if self.phase == Phase::Serving {
            self.credits.grant();
        }
        true
    }

    /// Encodes the outcome of the call in this slot into `out`.
    fn encode(&mut self, slot: SlotId) {
        let held = self.slots.get(slot);
        self.out.clear();
        let encoded = match held.state {
            State::Ended => {
                let ended = self.runtime.ended(slot);
                // A larger one was stored if somebody wants it; who asks for it later hears that it is not whole.
                let output = if ended.output.len() > BLOB_ABOVE_BYTES { &[] } else { ended.output };
                let truncated = ended.usage.truncated || output.len() < ended.output.len();
                let usage = held.times(Usage { truncated, ..ended.usage });
                let reply = Reply::new(&usage, output, ended.stderr);
                body::append_outcome(&mut self.out, &held.lease, ended.status, &reply)
            }
            State::Stored(blob) => {
                let ended = self.runtime.ended(slot);
                let name = blob.to_bytes();
                let reply = Reply::new(&held.times(ended.usage), &name, ended.stderr);
                body::append_stored_outcome(&mut self.out, &held.lease, ended.status, &reply)
            }
            State::NotStored => {
                let (status, why) = self.uploads.refusal(slot);
                let usage = held.times(self.runtime.ended(slot).usage);
                let text = &why.as_bytes()[..why.len().min(STDERR_BYTES_MAX)];
                body::append_outcome(&mut self.out, &held.lease, status, &Reply::new(&usage, &[], text))
            }
            State::Refused(refusal) => {
                let text = refusal.to_string();
                let reply = Reply::new(&Usage::default(), &[], text.as_bytes());
                body::append_outcome(&mut self.out, &held.lease, refusal.status(), &reply)
            }
            state => unreachable!("the outcome of a call that is {state:?}"),
        };
        encoded.expect("a runtime keeps output and stderr within their limits");
    }
}
