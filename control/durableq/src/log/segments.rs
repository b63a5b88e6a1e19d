//! The segments of the log: which are there, which calls need them, and when the oldest may go.

use crate::table::calls::{BY_SEGMENT, Calls, List};
use crate::words::{CallRef, LogOp};
use call::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// After a segment could not be made, the next try.
const CREATE_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// To be made.
    Wanted,
    /// The driver is making it.
    Creating,
    /// There.
    Ready,
}

/// One segment.
#[derive(Debug)]
struct Segment {
    /// In its file's name; given when it is made.
    number: u64,
    stage: Stage,
    /// Where the next group goes.
    offset: u64,
    /// The first and the last group in it; 0 if there is none.
    first: u64,
    last: u64,
    /// The calls whose submit record is in it.
    pins: List<BY_SEGMENT>,
    /// When this group is on disk, then so is the end (or the copy) of each call that was in it.
    released: u64,
}

/// All segments, the oldest first. Named by ordinals, which count from the start of the queue.
#[derive(Debug)]
pub struct Segments {
    ring: VecDeque<Segment>,
    /// Ordinal of the oldest.
    front: u32,
    /// Ordinal of the one that takes groups.
    current: u32,
    segment_bytes: u64,
    next_number: u64,
    /// Why the last try to make one failed.
    create_failed: Option<i32>,
    create_at: Instant,
    /// Found at the start and of no use.
    useless: Vec<u64>,
}

impl Segments {
    /// None.
    pub fn new(segment_bytes: u64) -> Segments {
        Segments {
            ring: VecDeque::with_capacity(64),
            front: 0,
            current: 0,
            segment_bytes,
            next_number: 1,
            create_failed: None,
            create_at: Instant(0),
            useless: Vec::new(),
        }
    }

    /// A file of this number was found at the start: new ones get higher numbers.
    pub fn found(&mut self, number: u64) {
        assert!(number >= self.next_number || self.next_number == 1, "segments are found in order");
        self.next_number = number + 1;
    }

    /// A group of the log was found in the segment that was found last. Its ordinal.
    pub fn found_group(&mut self, sequence: u64) -> u32 {
        let number = self.next_number - 1;
        if self.ring.back().is_none_or(|back| back.number != number) {
            let segment = Segment { number, stage: Stage::Ready, first: sequence, ..self.wanted() };
            self.ring.push_back(segment);
            self.current = self.next_ordinal();
        }
        self.ring.back_mut().expect("at least this one").last = sequence;
        self.next_ordinal() - 1
    }

    /// The segment that was found last holds no group of the log.
    pub fn found_useless(&mut self) {
        self.useless.push(self.next_number - 1);
    }

    /// The ordinal of the segment that would come behind all.
    pub fn next_ordinal(&self) -> u32 {
        self.front + self.ring.len() as u32
    }

    /// How many there are, those to be made included.
    pub fn count(&self) -> usize {
        self.ring.len()
    }

    /// Where a group that may grow to `bytes` begins: ordinal and offset.
    pub fn place(&mut self, sequence: u64, bytes: usize) -> (u32, u64) {
        if self.current < self.next_ordinal() && self.current().offset + bytes as u64 > self.segment_bytes {
            self.current += 1;
        }
        if self.current == self.next_ordinal() {
            let wanted = self.wanted();
            self.ring.push_back(wanted);
        }
        let at = self.current;
        let segment = self.current();
        if segment.first == 0 {
            segment.first = sequence;
        }
        segment.last = sequence;
        (at, segment.offset)
    }

    /// The group that was placed last takes so many bytes.
    pub fn filled(&mut self, bytes: usize) {
        self.current().offset += bytes as u64;
    }

    /// The number of a segment that is there; `None` if it must be made first.
    pub fn ready(&self, ordinal: u32) -> Option<u64> {
        let segment = &self.ring[(ordinal - self.front) as usize];
        (segment.stage == Stage::Ready).then_some(segment.number)
    }

    /// A call's submit record is in this segment.
    pub fn pin(&mut self, calls: &mut Calls, at: CallRef, ordinal: u32) {
        calls[at].segment = ordinal;
        self.ring[(ordinal - self.front) as usize].pins.push_back(calls, at);
    }

    /// A call does not need its segment any more as soon as `group` is on disk.
    pub fn unpin(&mut self, calls: &mut Calls, at: CallRef, group: u64) {
        let ordinal = calls[at].segment;
        let segment = &mut self.ring[(ordinal - self.front) as usize];
        segment.pins.remove(calls, at);
        segment.released = segment.released.max(group);
    }

    /// A call that needs the oldest segment, which takes no groups any more.
    pub fn oldest_pin(&self) -> Option<CallRef> {
        self.ring.front().filter(|_| self.front < self.current)?.pins.front()
    }

    /// Makes segments: the current one, and one ahead of need. One at a time.
    pub fn create_op(&mut self, now: Instant) -> Option<LogOp> {
        if self.current + 1 >= self.next_ordinal() && self.current < self.next_ordinal() {
            let wanted = self.wanted();
            self.ring.push_back(wanted);
        }
        if now < self.create_at || self.ring.iter().rev().any(|segment| segment.stage == Stage::Creating) {
            return None;
        }
        let segment = self.ring.iter_mut().find(|segment| segment.stage == Stage::Wanted)?;
        (segment.stage, segment.number) = (Stage::Creating, self.next_number);
        self.next_number += 1;
        Some(LogOp::Create { segment: segment.number, bytes: self.segment_bytes })
    }

    /// A segment was made, or not.
    pub fn created(&mut self, number: u64, result: Result<(), i32>, now: Instant) {
        let being_made = |s: &&mut Segment| s.stage == Stage::Creating && s.number == number;
        let segment = self.ring.iter_mut().find(being_made).expect("the segment was being made");
        segment.stage = if result.is_ok() { Stage::Ready } else { Stage::Wanted };
        self.create_failed = result.err();
        self.create_at = if result.is_ok() { now } else { now + CREATE_AGAIN };
    }

    /// Why no segment can be made.
    pub fn create_failed(&self) -> Option<i32> {
        self.create_failed
    }

    /// When [`Segments::create_op`] tries again.
    pub fn create_at(&self) -> Instant {
        if self.create_failed.is_some() { self.create_at } else { Instant::NEVER }
    }

    /// Removes the oldest segment if nothing needs it.
    pub fn remove_op(&mut self, durable: u64) -> Option<LogOp> {
        if let Some(segment) = self.useless.pop() {
            return Some(LogOp::Remove { segment });
        }
        let (segment, next) = (self.ring.front()?, self.ring.get(1)?);
        // The last group on disk stays, whatever it holds: it tells sequence and incarnation to the next start.
        let followed = next.first != 0 && next.first <= durable;
        if !followed || segment.pins.len > 0 || segment.released > durable || segment.last > durable {
            return None;
        }
        let segment = segment.number;
        self.ring.pop_front();
        self.front += 1;
        // There is room now: the next try need not wait.
        self.create_at = Instant(0);
        Some(LogOp::Remove { segment })
    }

    fn current(&mut self) -> &mut Segment {
        &mut self.ring[(self.current - self.front) as usize]
    }

    fn wanted(&self) -> Segment {
        let (pins, stage) = (List::EMPTY, Stage::Wanted);
        Segment { number: 0, stage, offset: 0, first: 0, last: 0, pins, released: 0 }
    }

    /// How many calls need a segment.
    pub fn pins(&self) -> u32 {
        self.ring.iter().map(|segment| segment.pins.len).sum()
    }

    /// Each pin is listed by the segment its call names, groups do not go backwards, and files have ascending numbers.
    pub fn check(&self, calls: &Calls) {
        for (index, segment) in self.ring.iter().enumerate() {
            let ordinal = self.front + index as u32;
            let listed = segment.pins.iter(calls).inspect(|at| {
                assert_eq!(calls[*at].segment, ordinal, "the segment of {}", calls[*at].id);
            });
            assert_eq!(listed.count() as u32, segment.pins.len);
            assert!(segment.first <= segment.last && segment.offset <= self.segment_bytes);
        }
        let made = self.ring.iter().filter(|segment| segment.stage != Stage::Wanted);
        assert!(made.map(|segment| segment.number).is_sorted(), "segments in order");
    }
}
