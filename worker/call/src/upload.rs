//! Both ends of a large result's way to the store of blobs. Pure: no clock, no I/O, and none of the bytes.
//!
//! ```text
//!  core: Sender ─Keep: bytes 0..P of them, 2 more pieces follow─▶ node ─▶ store: Receiver
//!               ◀─Kept: P are there─
//!               ─Keep: bytes P..2P─▶                     (lost on the way: sent again after a second)
//!               ─Keep: bytes P..2P─▶
//!               ◀─Kept: 2P are there─
//!               ─Keep: the last one, nothing follows─▶   on disk, and the node knows of it
//!               ◀─Kept: all are there, and this is their name─
//! ```
//!
//! One piece is on its way at a time, as with arguments that are fetched, so that nobody in between keeps anything: who
//! does not hear says it again. The store says how many bytes it has, and that is where the core goes on, even if it is
//! less than before: a store that was started anew has nothing. An upload of which no piece comes is dropped, whatever the
//! reason: a core that died, a lease that was lost, a node between them that went.

use crate::blob::{PIECE_BYTES, Reference};
use crate::ids::{CallId, Epoch};
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A piece of which nothing was heard in this time is sent again: the node was busy with its peers, or its store away.
pub const AGAIN: Duration = Duration::from_secs(1);
/// A result that got no further for so long is given up, and its call ends as [`crate::Status::Unavailable`].
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A store drops what it has of a result of which no piece came for so long. Nine pieces may be lost.
pub const IDLE: Duration = Duration::from_secs(10);
/// Results whose names a store can tell once more, if the first word of it was lost.
const NAMED_MAX: usize = 64;

/// Of which lease a result is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lease {
    /// The call.
    pub call: CallId,
    /// Of the lease.
    pub epoch: Epoch,
}

/// A piece, without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// From which byte on.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
    /// Pieces that follow.
    pub following: u16,
}

impl Part {
    /// Bytes of the largest blob whose pieces can be counted: 16 GiB.
    pub const BLOB_BYTES_MAX: u64 = (u16::MAX as u64 + 1) * PIECE_BYTES as u64;

    /// The piece at `offset` of a blob of so many bytes.
    fn at(offset: u64, of: u64) -> Part {
        let bytes = (of - offset).min(PIECE_BYTES as u64);
        let following = (of - offset - bytes).div_ceil(PIECE_BYTES as u64);
        Part { offset, bytes, following: u16::try_from(following).expect("checked by `Sender::new`") }
    }

    /// Whether a piece can be like this: all but the last one have the same length.
    fn is_sound(self) -> bool {
        let fits = match self.following {
            0 => (1..=PIECE_BYTES as u64).contains(&self.bytes),
            _ => self.bytes == PIECE_BYTES as u64,
        };
        fits && self.offset.is_multiple_of(PIECE_BYTES as u64)
    }

    /// Pieces of the whole blob.
    fn pieces(self) -> u64 {
        (self.offset / PIECE_BYTES as u64).saturating_add(u64::from(self.following) + 1)
    }
}

/// The sending end, of one result.
#[derive(Debug)]
pub struct Sender {
    bytes: u64,
    /// Where the piece begins that is on its way.
    at: u64,
    /// The furthest that it came.
    reached: u64,
    send_at: Instant,
    give_up_at: Instant,
}

impl Sender {
    /// Sends so many bytes, at least one and at most [`Part::BLOB_BYTES_MAX`].
    pub fn new(bytes: u64, now: Instant) -> Sender {
        assert!((1..=Part::BLOB_BYTES_MAX).contains(&bytes), "pieces are counted by 16 bits");
        Sender { bytes, at: 0, reached: 0, send_at: now, give_up_at: now + PATIENCE }
    }

    /// The piece to send now, if there is one.
    pub fn due(&mut self, now: Instant) -> Option<Part> {
        if now < self.send_at {
            return None;
        }
        self.send_at = now + AGAIN;
        Some(Part::at(self.at, self.bytes))
    }

    /// The store has so many bytes. Word of a piece that was sent twice changes nothing the second time.
    pub fn told(&mut self, has: u64, now: Instant) {
        let is_place = has.is_multiple_of(PIECE_BYTES as u64) && has < self.bytes;
        if !is_place || has == self.at {
            return;
        }
        if has > self.reached {
            (self.reached, self.give_up_at) = (has, now + PATIENCE);
        }
        (self.at, self.send_at) = (has, now);
    }

    /// Whether it got no further for too long.
    pub fn is_late(&self, now: Instant) -> bool {
        now >= self.give_up_at
    }

    /// When there is something to do by itself.
    pub fn alarm(&self) -> Instant {
        self.send_at.min(self.give_up_at)
    }
}

/// What a store is to do with a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Begin a file at this place, and append the piece: the first one.
    Begin(usize),
    /// Append it to the file at this place.
    Append(usize),
    /// Leave it, and tell how many bytes there are.
    Has(u64),
    /// Leave it: all bytes are at this place, and wait for their name.
    Whole(usize),
    /// Leave it, and tell the name once more.
    Named(Reference),
    /// Leave it: there is no room for another. It will come again.
    NoRoom,
    /// No sender says this.
    Malformed,
}

/// A result of which all has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is at this place, and has no name yet.
    Whole(usize),
    /// It is a blob of this name.
    Named(Reference),
}

#[derive(Clone, Copy, Debug)]
struct Coming {
    lease: Lease,
    bytes: u64,
    pieces: u64,
    is_whole: bool,
    heard: Instant,
}

/// The receiving end, of all results that come at once.
#[derive(Debug)]
pub struct Receiver {
    coming: Box<[Option<Coming>]>,
    /// The latest at the end.
    named: VecDeque<(Lease, Reference)>,
}

impl Receiver {
    /// Takes so many at once.
    pub fn new(places: usize) -> Receiver {
        Receiver { coming: vec![None; places].into_boxed_slice(), named: VecDeque::with_capacity(NAMED_MAX) }
    }

    /// A piece came.
    pub fn piece(&mut self, lease: Lease, part: Part, now: Instant) -> Taken {
        if !part.is_sound() {
            return Taken::Malformed;
        }
        if let Some((_, blob)) = self.named.iter().find(|(of, _)| *of == lease) {
            return Taken::Named(*blob);
        }
        let is = |coming: &Option<Coming>| coming.is_some_and(|coming| coming.lease == lease);
        let Some(place) = self.coming.iter().position(is) else { return self.begin(lease, part, now) };
        let coming = self.coming[place].as_mut().expect("just found");
        coming.heard = now;
        if part.pieces() != coming.pieces {
            return Taken::Malformed;
        }
        if coming.is_whole {
            return Taken::Whole(place);
        }
        if part.offset != coming.bytes {
            return Taken::Has(coming.bytes);
        }
        coming.bytes += part.bytes;
        coming.is_whole = part.following == 0;
        Taken::Append(place)
    }

    fn begin(&mut self, lease: Lease, part: Part, now: Instant) -> Taken {
        if part.offset != 0 {
            return Taken::Has(0);
        }
        let Some(place) = self.coming.iter().position(Option::is_none) else { return Taken::NoRoom };
        let (bytes, pieces, is_whole) = (part.bytes, part.pieces(), part.following == 0);
        self.coming[place] = Some(Coming { lease, bytes, pieces, is_whole, heard: now });
        Taken::Begin(place)
    }

    /// How many bytes are at a place, and whether that is all.
    pub fn has(&self, place: usize) -> (u64, bool) {
        self.coming[place].map_or((0, false), |coming| (coming.bytes, coming.is_whole))
    }

    /// How it stands with a result of which all has come.
    pub fn standing(&self, lease: Lease) -> Option<Standing> {
        if let Some((_, blob)) = self.named.iter().find(|(of, _)| *of == lease) {
            return Some(Standing::Named(*blob));
        }
        let is =
            |coming: &Option<Coming>| coming.is_some_and(|coming| coming.lease == lease && coming.is_whole);
        self.coming.iter().position(is).map(Standing::Whole)
    }

    /// A result has a name, and its place is free.
    pub fn named(&mut self, lease: Lease, blob: Reference) {
        self.forget(lease);
        if self.named.len() == NAMED_MAX {
            self.named.pop_front();
        }
        self.named.push_back((lease, blob));
    }

    /// A result is not kept, or not any more: it may come anew.
    pub fn forget(&mut self, lease: Lease) {
        self.named.retain(|(of, _)| *of != lease);
        let is = |coming: &&mut Option<Coming>| coming.is_some_and(|coming| coming.lease == lease);
        self.coming.iter_mut().filter(is).for_each(|coming| *coming = None);
    }

    /// A result of which no piece came for too long: its place is free, and its file is to go.
    pub fn idle(&mut self, now: Instant) -> Option<usize> {
        let is_idle = |coming: &Option<Coming>| coming.is_some_and(|coming| now >= coming.heard + IDLE);
        let place = self.coming.iter().position(is_idle)?;
        self.coming[place] = None;
        Some(place)
    }

    /// Whether nothing is coming.
    pub fn is_empty(&self) -> bool {
        self.coming.iter().all(Option::is_none)
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        for (at, coming) in self.coming.iter().enumerate() {
            let Some(coming) = coming else { continue };
            let last = coming.pieces.saturating_sub(1) * PIECE_BYTES as u64;
            assert_eq!(coming.is_whole, coming.bytes > last, "whole is what its last piece has come of");
            let twice = self.coming[..at].iter().flatten().any(|other| other.lease == coming.lease);
            assert!(!twice, "a result comes once");
        }
        assert!(self.named.len() <= NAMED_MAX, "so many names are told again");
    }
}

#[cfg(test)]
mod tests;
