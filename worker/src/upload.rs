//! Behind the last slice and before the last stage: results that are blobs.
//!
//! What a function returns beyond what is well kept in a frame goes to the node's store first, a piece at a time and one
//! result after the other in the order of their ends ([`call::upload`]); its outcome, which names it, follows when the
//! node says that it is on disk. So no outcome names what is not there. Meanwhile the call keeps its slot and the runtime
//! its result, other calls run, and their outcomes pass.

use crate::core::Core;
use crate::ingress::Link;
use crate::slots::State;
use call::blob::Reference;
use call::frame::{Frame, Header, Kind, flag};
use call::limits::BLOB_ABOVE_BYTES;
use call::upload::{PATIENCE, Sender};
use call::{Instant, Status};
use driver::Driver;
use runtime::{Runtime, SlotId};
use std::collections::{BTreeMap, VecDeque};

/// The result that is on its way.
struct Going {
    slot: SlotId,
    sender: Sender,
}

/// All large results of a core.
pub(crate) struct Uploads {
    queue: VecDeque<SlotId>,
    going: Option<Going>,
    /// Why results were not kept, until their outcomes are sent.
    refusals: BTreeMap<u32, (Status, String)>,
}

impl Uploads {
    pub fn new() -> Uploads {
        Uploads { queue: VecDeque::new(), going: None, refusals: BTreeMap::new() }
    }

    /// Forgets all of them: their calls are dropped.
    pub fn clear(&mut self) {
        *self = Uploads::new();
    }

    /// How many results wait or are on their way.
    pub fn len(&self) -> usize {
        self.queue.len() + usize::from(self.going.is_some())
    }

    /// When there is something to do by itself.
    pub fn alarm(&self) -> Instant {
        match &self.going {
            Some(going) => going.sender.alarm(),
            None if self.queue.is_empty() => Instant::NEVER,
            None => Instant(0),
        }
    }

    /// How the call in this slot ends whose result was not kept, and what is said of it.
    pub fn refusal(&self, slot: SlotId) -> (Status, &str) {
        let (status, why) = &self.refusals[&slot.0];
        (*status, why)
    }

    /// The outcome of the call in this slot is sent.
    pub fn release(&mut self, slot: SlotId) {
        if !self.refusals.is_empty() {
            self.refusals.remove(&slot.0);
        }
    }
}

impl<D: Driver, R: Runtime> Core<D, R> {
    /// Whether the result of a call that has ended is to be stored before its outcome is sent; then that is under way. One
    /// that nobody wants is not.
    pub(crate) fn stores(&mut self, slot: SlotId) -> bool {
        let is_large = self.runtime.ended(slot).output.len() > BLOB_ABOVE_BYTES;
        let held = self.slots.get_mut(slot);
        if !is_large || held.lease.flags & flag::WANT_OUTCOME == 0 {
            return false;
        }
        held.state = State::Storing;
        self.uploads.queue.push_back(slot);
        true
    }

    /// Sends what is to be sent.
    pub(crate) fn upload(&mut self, now: Instant) {
        loop {
            if self.uploads.going.is_none() {
                let Some(slot) = self.uploads.queue.pop_front() else { return };
                let bytes = self.runtime.ended(slot).output.len() as u64;
                self.uploads.going = Some(Going { slot, sender: Sender::new(bytes, now) });
            }
            let going = self.uploads.going.as_ref().expect("just made");
            if !going.sender.is_late(now) {
                return self.send_piece(now);
            }
            let why = format!("the result could not be stored: the node did not take it in {PATIENCE:?}");
            self.not_stored(Status::Unavailable, why);
        }
    }

    fn send_piece(&mut self, now: Instant) {
        let (Link::Up { connection }, Some(going)) = (self.link, self.uploads.going.as_mut()) else { return };
        let Some(part) = going.sender.due(now) else { return };
        let lease = &self.slots.get(going.slot).lease;
        let header = Header {
            call: lease.call,
            function: lease.function,
            stamp: part.offset,
            deadline: lease.stamp,
            attempt: part.following,
            ..Header::new(Kind::Keep)
        };
        let from = part.offset as usize;
        let piece = &self.runtime.ended(going.slot).output[from..from + part.bytes as usize];
        // One that finds no room is sent again like one that was lost.
        let _ = self.driver.send_parts(connection, &header.encode(piece), piece);
    }

    /// The node says how it stands with a result. Word of one that is not on its way is left.
    pub(crate) fn kept(&mut self, frame: &Frame<'_>, now: Instant) {
        let Some(going) = self.uploads.going.as_mut() else { return };
        let lease = &self.slots.get(going.slot).lease;
        if (lease.call, lease.stamp) != (frame.call(), frame.deadline().0) {
            return;
        }
        let status = frame.status().unwrap_or(Status::Unavailable);
        if status != Status::Ok {
            let why = String::from_utf8_lossy(frame.body()).into_owned();
            return self.not_stored(status, why);
        }
        if frame.body().is_empty() {
            going.sender.told(frame.stamp(), now);
            return self.send_piece(now);
        }
        let bytes = self.runtime.ended(going.slot).output.len() as u64;
        match Reference::from_bytes(frame.body()) {
            Ok(blob) if blob.bytes == bytes => self.settled(State::Stored(blob)),
            _ => self.misunderstood("the name of another result than was sent"),
        }
    }

    fn not_stored(&mut self, status: Status, why: String) {
        let slot = self.uploads.going.as_ref().expect("one is on its way").slot;
        self.note(format!("event=result-not-stored call={} reason={why:?}", self.slots.get(slot).lease.call));
        self.uploads.refusals.insert(slot.0, (status, why));
        self.settled(State::NotStored);
    }

    /// It is known how the call ends whose result was on its way.
    fn settled(&mut self, state: State) {
        let Going { slot, .. } = self.uploads.going.take().expect("one was on its way");
        self.slots.get_mut(slot).state = state;
        self.send_or_keep(slot);
    }
}
