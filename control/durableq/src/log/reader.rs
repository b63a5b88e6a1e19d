//! Frames on their way back from the disk: which are wanted, and which reads bring them.

use super::GROUP_ALIGN;
use super::segments::Segments;
use crate::table::calls::{Calls, flag};
use crate::words::{CallRef, LogOp, write_blocks};
use call::limits::{FRAME_ALIGN, Limits};

/// Frames that are asked for at once: what several blocks of small records hold.
const WANTED_MAX: usize = 8192;
/// Bytes between two records that one read takes with it: reading them costs less than another read.
const GAP_BYTES_MAX: u64 = 32 << 10;

/// A frame that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Want {
    /// The segment, and where in it, as the call has them.
    pub place: (u16, u32),
    /// Bytes of the frame.
    pub bytes: u32,
    /// It is read without neighbours: a read of several has failed for one of them.
    pub alone: bool,
    /// Whose it is.
    pub call: CallRef,
}

impl Want {
    fn from(&self) -> u64 {
        u64::from(self.place.1) * FRAME_ALIGN as u64
    }

    fn to(&self) -> u64 {
        self.from() + u64::from(self.bytes)
    }
}

/// A read that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it was to bring. To be given back by [`Reader::recycle`].
    pub wants: Vec<Want>,
    /// Offset in the segment of the first byte read.
    pub from: u64,
    /// The number of the segment.
    pub segment: u64,
    /// The block.
    pub block: u32,
}

#[derive(Debug)]
struct Slot {
    wants: Vec<Want>,
    from: u64,
    busy: bool,
}

/// See the module. Wants are gathered while reads are in flight, and then read in the order in which they are on disk,
/// neighbours by one read.
#[derive(Debug)]
pub struct Reader {
    wanted: Vec<Want>,
    /// Sorted, from `next` on not read yet.
    batch: Vec<Want>,
    next: usize,
    slots: Vec<Slot>,
    block_bytes: u64,
    first_block: u32,
    /// Bytes of the frames that are wanted or on their way.
    bytes: usize,
}

impl Reader {
    /// Nothing is wanted.
    pub fn new(limits: &Limits) -> Reader {
        assert!(limits.reads_in_flight > 0, "limits.reads_in_flight: at least one");
        let per_block = limits.group_bytes / call::limits::HEADER_BYTES;
        // Whatever is in flight may have to be read once more.
        let capacity = WANTED_MAX + limits.reads_in_flight * per_block;
        let slot = || Slot { wants: Vec::with_capacity(per_block), from: 0, busy: false };
        Reader {
            wanted: Vec::with_capacity(capacity),
            batch: Vec::with_capacity(capacity),
            next: 0,
            slots: (0..limits.reads_in_flight).map(|_| slot()).collect(),
            block_bytes: limits.group_bytes as u64,
            first_block: write_blocks(limits) as u32,
            bytes: 0,
        }
    }

    /// Whether another frame can be asked for.
    pub fn has_room(&self) -> bool {
        self.wanted.len() < WANTED_MAX
    }

    /// Bytes of the frames that are wanted or on their way.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one read can bring a record at this place of a segment, as each does that stands whole in a group.
    pub fn can_read(&self, offset: u32, bytes: u32) -> bool {
        let before = u64::from(offset) * FRAME_ALIGN as u64 % GROUP_ALIGN as u64;
        (before + u64::from(bytes)).next_multiple_of(GROUP_ALIGN as u64) <= self.block_bytes
    }

    /// Asks for a frame. There must be room.
    pub fn want(&mut self, want: Want) {
        assert!(self.wanted.len() < self.wanted.capacity(), "the caller asked for room");
        self.bytes += want.bytes as usize;
        self.wanted.push(want);
    }

    /// The next read. What its call does not want any more, since it has ended, is left out.
    pub fn next_op(&mut self, calls: &Calls, segments: &mut Segments) -> Option<LogOp> {
        let read = self.slots.iter().position(|slot| !slot.busy)?;
        let first = self.next_wanted(calls)?;
        let from = first.from() / GROUP_ALIGN as u64 * GROUP_ALIGN as u64;
        self.slots[read].wants.push(first);
        let mut to = first.to();
        while let Some(want) = self.batch.get(self.next).copied()
            && want.place.0 == first.place.0
            && !(want.alone || first.alone)
            && want.to().next_multiple_of(GROUP_ALIGN as u64) - from <= self.block_bytes
            && want.from() <= to + GAP_BYTES_MAX
        {
            self.next += 1;
            if self.is_wanted(calls, &want) {
                self.slots[read].wants.push(want);
                to = want.to();
            }
        }
        let slot = &mut self.slots[read];
        (slot.from, slot.busy) = (from, true);
        let segment = segments.read_begins(first.place.0);
        let bytes = (to.next_multiple_of(GROUP_ALIGN as u64) - from) as usize;
        Some(LogOp::Read {
            segment,
            offset: from,
            block: self.first_block + read as u32,
            bytes,
            read: read as u32,
        })
    }

    fn next_wanted(&mut self, calls: &Calls) -> Option<Want> {
        loop {
            if self.next == self.batch.len() {
                if self.wanted.is_empty() {
                    return None;
                }
                self.batch.clear();
                std::mem::swap(&mut self.batch, &mut self.wanted);
                self.batch.sort_unstable();
                self.next = 0;
            }
            let want = self.batch[self.next];
            self.next += 1;
            if self.is_wanted(calls, &want) {
                return Some(want);
            }
        }
    }

    fn is_wanted(&mut self, calls: &Calls, want: &Want) -> bool {
        let is =
            calls.get(want.call).is_some_and(|call| call.is(flag::READING) && call.record() == want.place);
        if !is {
            self.bytes -= want.bytes as usize;
        }
        is
    }

    /// A read has ended.
    pub fn ended(&mut self, read: u32, segments: &mut Segments) -> Ended {
        let slot = &mut self.slots[read as usize];
        assert!(slot.busy, "a read ends once");
        let wants = std::mem::take(&mut slot.wants);
        let segment = segments.read_ended(wants[0].place.0);
        self.bytes -= wants.iter().map(|want| want.bytes as usize).sum::<usize>();
        Ended { wants, from: slot.from, segment, block: self.first_block + read }
    }

    /// All of a read was looked at.
    pub fn recycle(&mut self, read: u32, mut wants: Vec<Want>) {
        wants.clear();
        let slot = &mut self.slots[read as usize];
        (slot.wants, slot.busy) = (wants, false);
    }

    /// The wanted ones, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Want> {
        let waiting = self.wanted.iter().chain(&self.batch[self.next..]);
        waiting.chain(self.slots.iter().flat_map(|slot| &slot.wants))
    }

    /// The bytes are those of what is wanted.
    pub fn check(&self) {
        let bytes: usize = self.iter().map(|want| want.bytes as usize).sum();
        assert_eq!(bytes, self.bytes, "bytes of wanted frames");
    }
}
