//! Between the first stage and the third: arguments that are blobs.
//!
//! A lease may name a blob instead of bringing the arguments. The node is asked for it piece by piece, one blob at a time
//! in order of arrival, and the call begins when all of it is there; meanwhile its slot is taken and other calls run. A
//! piece that does not come is asked for again, so that nobody on the way need keep anything.
//!
//! Memory is bounded by `limits.blob_memory_bytes`: a blob counts from its first piece until its call has ended, and the
//! next one waits while there is no room.

use crate::core::Core;
use crate::dispatch::Round;
use crate::ingress::Link;
use crate::slots::{Refusal, State};
use call::blob::{PIECE_BYTES, Reference};
use call::body;
use call::frame::{FrameBuf, Header, Kind};
use call::{Frame, Instant, Status};
use driver::Driver;
use runtime::{Runtime, SlotId};
use std::collections::VecDeque;
use std::time::Duration;

/// A piece that did not come in this time is asked for again: the node was busy with its peers, or its store away.
const AGAIN: Duration = Duration::from_secs(1);
/// A blob of which no piece came for so long is given up, and its call ends as [`Status::Unavailable`].
const PATIENCE: Duration = Duration::from_secs(30);
/// What is kept of the buffer for the next blob.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// A call that waits for its arguments.
struct Waiting {
    slot: SlotId,
    /// Its submit frame, whose memory at arrival goes back to the kernel. A few hundred bytes, where attributes are few.
    submit: FrameBuf,
    reference: Reference,
}

/// The blob that is coming.
struct Coming {
    waiting: Waiting,
    /// When its next piece is to be asked for.
    ask_at: Instant,
    /// When it is given up.
    give_up_at: Instant,
}

/// All blobs of a core.
pub(crate) struct Fetches {
    queue: VecDeque<Waiting>,
    coming: Option<Coming>,
    /// What came so far.
    buffer: Vec<u8>,
    /// Bytes of the blob that the call in each slot has, from its first piece on.
    held: Box<[u64]>,
    held_bytes: u64,
    memory_bytes: u64,
}

impl Fetches {
    pub fn new(slots: u32, memory_bytes: u64) -> Fetches {
        Fetches {
            queue: VecDeque::new(),
            coming: None,
            buffer: Vec::new(),
            held: vec![0; slots as usize].into_boxed_slice(),
            held_bytes: 0,
            memory_bytes,
        }
    }

    /// Forgets all of them: their calls are dropped.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.coming = None;
        self.buffer = Vec::new();
        self.held.fill(0);
        self.held_bytes = 0;
    }

    /// The call in this slot will not begin.
    pub fn leave(&mut self, slot: SlotId) {
        self.release(slot);
        self.queue.retain(|waiting| waiting.slot != slot);
        if self.coming.as_ref().is_some_and(|coming| coming.waiting.slot == slot) {
            self.coming = None;
        }
    }

    /// The call in this slot has ended: its blob takes no memory any more.
    pub fn release(&mut self, slot: SlotId) {
        if self.held_bytes > 0 {
            self.held_bytes -= std::mem::take(&mut self.held[slot.0 as usize]);
        }
    }

    /// When there is something to do by itself.
    pub fn alarm(&self) -> Instant {
        match &self.coming {
            Some(coming) => coming.ask_at.min(coming.give_up_at),
            None => Instant::NEVER,
        }
    }

    /// Counts so many bytes more than there are, for a test that must notice.
    #[cfg(test)]
    pub fn forge(&mut self, bytes: u64) {
        self.held_bytes += bytes;
    }

    /// How many calls wait for their arguments.
    pub fn len(&self) -> usize {
        self.queue.len() + usize::from(self.coming.is_some())
    }

    /// Panics if memory is counted wrongly.
    pub fn check(&self) {
        assert_eq!(self.held.iter().sum::<u64>(), self.held_bytes, "each blob counts once");
        assert!(self.held_bytes <= self.memory_bytes, "blobs stay within their memory");
        assert!(
            self.coming.is_some() || self.queue.is_empty() || self.held_bytes > 0,
            "nobody waits for nothing"
        );
    }

    /// Turns to the next blob if there is none, and room for it.
    fn turn_to_next(&mut self, now: Instant) {
        let fits = |waiting: &Waiting| self.held_bytes + waiting.reference.bytes <= self.memory_bytes;
        if self.coming.is_some() || !self.queue.front().is_some_and(fits) {
            return;
        }
        let waiting = self.queue.pop_front().expect("looked at");
        self.held[waiting.slot.0 as usize] = waiting.reference.bytes;
        self.held_bytes += waiting.reference.bytes;
        self.buffer.clear();
        self.coming = Some(Coming { waiting, ask_at: now, give_up_at: now + PATIENCE });
    }
}

impl<D: Driver, R: Runtime> Core<D, R> {
    /// A call came whose arguments are this blob.
    pub(crate) fn await_blob(&mut self, slot: SlotId, submit: &Frame<'_>, reference: Reference) {
        let function = self.functions.pace(submit.function()).memory_bytes;
        let memory = if function == 0 { self.fetches.memory_bytes } else { function };
        if reference.bytes > memory.min(self.fetches.memory_bytes) {
            return self.refuse(slot, Refusal::BlobTooLarge { bytes: reference.bytes, memory });
        }
        let mut copy = FrameBuf::with_capacity(submit.bytes().len());
        copy.extend_from_slice(submit.bytes());
        self.slots.get_mut(slot).state = State::Fetching;
        self.fetches.queue.push_back(Waiting { slot, submit: copy, reference });
    }

    /// Asks for what is to be asked for.
    pub(crate) fn fetch(&mut self, now: Instant) {
        loop {
            self.fetches.turn_to_next(now);
            match &self.fetches.coming {
                Some(coming) if now >= coming.give_up_at => {
                    let Waiting { slot, reference, .. } = coming.waiting;
                    self.refuse_blob(slot, Refusal::BlobLate(reference.id));
                }
                Some(coming) if now >= coming.ask_at => return self.ask_for_piece(now),
                _ => return,
            }
        }
    }

    fn ask_for_piece(&mut self, now: Instant) {
        let (Link::Up { connection }, Some(coming)) = (self.link, self.fetches.coming.as_mut()) else {
            return;
        };
        let lease = &self.slots.get(coming.waiting.slot).lease;
        let stamp = self.fetches.buffer.len() as u64;
        let (call, function, deadline) = (lease.call, lease.function, lease.stamp);
        let header = Header { call, function, stamp, deadline, ..Header::new(Kind::Fetch) };
        let body = coming.waiting.reference.to_bytes();
        // One that finds no room is asked for again like one that was lost.
        let _ = self.driver.send_parts(connection, &header.encode(&body), &body);
        coming.ask_at = now + AGAIN;
    }

    /// A piece came. One that was not asked for, or came twice, is left.
    pub(crate) fn piece(&mut self, frame: &Frame<'_>, round: &mut Round) {
        let Some(coming) = self.fetches.coming.as_mut() else { return };
        let Waiting { slot, reference, .. } = coming.waiting;
        let had = self.fetches.buffer.len() as u64;
        let lease = &self.slots.get(slot).lease;
        if (lease.call, lease.stamp, had) != (frame.call(), frame.deadline().0, frame.stamp()) {
            return;
        }
        if frame.status() != Ok(Status::Ok) {
            return self.refuse_blob(slot, Refusal::BlobDamaged(reference.id));
        }
        if frame.body().len() as u64 != (reference.bytes - had).min(PIECE_BYTES as u64) {
            return self.misunderstood("a piece of a blob of another length than was asked for");
        }
        self.fetches.buffer.extend_from_slice(frame.body());
        if self.fetches.buffer.len() as u64 == reference.bytes {
            return self.begin_with_blob(round);
        }
        (coming.ask_at, coming.give_up_at) = (round.clock, round.clock + PATIENCE);
    }

    /// All of it is there.
    fn begin_with_blob(&mut self, round: &mut Round) {
        let Coming { waiting, .. } = self.fetches.coming.take().expect("it came");
        let mut payload = std::mem::take(&mut self.fetches.buffer);
        let submit = Frame::parsed_before(&waiting.submit);
        let arguments = body::arguments(submit.body()).expect("it was checked when it came");
        self.begin(waiting.slot, &payload, &arguments.attributes, round);
        if payload.capacity() <= BUFFER_BYTES_KEPT {
            payload.clear();
            self.fetches.buffer = payload;
        }
    }

    fn refuse_blob(&mut self, slot: SlotId, refusal: Refusal) {
        self.fetches.leave(slot);
        self.refuse(slot, refusal);
    }
}
