//! The segments of the log: which are there, which calls need them, and when the oldest may go.

use crate::table::calls::Calls;
use crate::table::list::{BY_SEGMENT, List};
use crate::words::{CallRef, LogOp};
use call::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// After a segment could not be made or removed, the next try.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Recycled segments that may wait behind the current one. One is made ahead of need; two more, since calls of several
/// segments may end at once. Beyond that segments are removed.
const AHEAD_MAX: u32 = 3;
/// Segments of a log, beyond which no call is taken: a call names its segment by 16 bits. With 64 MiB each it is 3.5 TiB.
const SEGMENTS_MAX: usize = 56_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// To be made.
    Wanted,
    /// The driver is making it, or giving it its new number.
    Creating,
    /// There.
    Ready,
}

/// One segment.
#[derive(Debug)]
struct Segment {
    /// In its file's name; given when it is made.
    number: u64,
    /// This start of the queue made it: nobody else may still be writing to it.
    ours: bool,
    stage: Stage,
    /// Where the next group goes.
    offset: u64,
    /// The first and the last group in it; 0 if there is none.
    first: u64,
    last: u64,
    /// The calls whose submit record is in it.
    pins: List<BY_SEGMENT>,
    /// How many ends are remembered for a time that is not over, and have their records here.
    ends: u32,
    /// When this group is on disk, then so is the end (or the copy) of each call that was in it.
    released: u64,
    /// Reads in flight.
    reads: u32,
}

/// What the disk was asked to change in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Create,
    /// The segment that had this number gets another one.
    Recycle(u64),
    Remove,
}

/// All segments, the oldest first. Named by ordinals, which count from the start of the queue.
///
/// The directory is changed in one step at a time, each on disk before the next: whenever the process or the machine
/// dies, segments were removed from the oldest on, and a new number was given to nobody else.
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
    remove_failed: bool,
    remove_at: Instant,
    /// Under way.
    change: Option<Change>,
    /// Somebody copies the log: what is retired stays.
    held: bool,
    /// The file system renames files: assumed until it has refused to.
    renames: bool,
    /// Of no use: found at the start without a group of the log, or could not be recycled. Removed before all others.
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
            remove_failed: false,
            remove_at: Instant(0),
            change: None,
            held: false,
            renames: true,
            useless: Vec::new(),
        }
    }

    /// A file of this number was found at the start: new ones get higher numbers.
    pub fn found(&mut self, number: u64) {
        assert!(number >= self.next_number || self.next_number == 1, "segments are found in order");
        self.next_number = number + 1;
    }

    /// The number of the file that was found last.
    pub fn last_found(&self) -> u64 {
        self.next_number - 1
    }

    /// A group of the log was found in the segment of this number, which is the one that holds the last group found, or a
    /// later one. Its ordinal.
    pub fn found_group(&mut self, number: u64, sequence: u64) -> u32 {
        if self.ring.back().is_none_or(|back| back.number != number) {
            let segment =
                Segment { number, ours: false, stage: Stage::Ready, first: sequence, ..self.wanted() };
            self.ring.push_back(segment);
            self.current = self.next_ordinal();
        }
        let segment = self.ring.back_mut().expect("at least this one");
        // The header of a damaged group may say anything.
        (segment.first, segment.last) = (segment.first.min(sequence), segment.last.max(sequence));
        self.next_ordinal() - 1
    }

    /// The segment that was found last is not read: what it holds stands in an index, and in its frames.
    pub fn found_indexed(&mut self) {
        let number = self.last_found();
        // It has groups; which does not matter, since all of them are on disk.
        self.ring.push_back(Segment {
            number,
            ours: false,
            stage: Stage::Ready,
            first: 1,
            last: 1,
            ..self.wanted()
        });
        self.current = self.next_ordinal();
    }

    /// The segment of this number that was found: its ordinal.
    ///
    /// # Errors
    /// It is not there: whether an older one is. Segments go from the oldest on, so then it was not retired.
    pub fn ordinal(&self, number: u64) -> Result<u32, bool> {
        let found = self.ring.binary_search_by_key(&number, |segment| segment.number);
        found.map(|index| self.front + index as u32).map_err(|index| index > 0)
    }

    /// The number of the segment of a call's submit record.
    pub fn number_of(&self, segment: u16) -> u64 {
        self.ring[self.index(segment)].number
    }

    /// The ordinal of the segment of a call's submit record.
    pub fn ordinal_of(&self, segment: u16) -> u32 {
        self.front + self.index(segment) as u32
    }

    /// The number of the segment of this ordinal; `None` if it has been retired.
    pub fn number(&self, ordinal: u32) -> Option<u64> {
        let index = ordinal.checked_sub(self.front)?;
        self.ring.get(index as usize).map(|segment| segment.number)
    }

    /// The number of the oldest; 0 if there is none.
    pub fn first_number(&self) -> u64 {
        self.ring.front().map_or(0, |segment| segment.number)
    }

    /// The ordinal of the one that takes groups.
    pub fn latest(&self) -> u32 {
        self.current
    }

    /// The segment of this number that was found holds no group of the log.
    pub fn found_useless(&mut self, number: u64) {
        self.useless.push(number);
    }

    /// The ordinal of the segment that would come behind all.
    pub fn next_ordinal(&self) -> u32 {
        self.front + self.ring.len() as u32
    }

    /// The ordinal of the oldest.
    pub fn oldest(&self) -> u32 {
        self.front
    }

    /// How many have groups, from this ordinal on.
    pub fn written_since(&self, ordinal: u32) -> u32 {
        (self.current + 1).saturating_sub(ordinal.max(self.front))
    }

    /// How many there are, those to be made included.
    pub fn count(&self) -> usize {
        self.ring.len()
    }

    /// From the oldest to the one ahead of the current one: without recycled ones that only wait.
    pub fn length(&self) -> usize {
        self.ring.len().min((self.current - self.front) as usize + 2)
    }

    /// Where a group that may grow to `bytes` begins: ordinal and offset.
    pub fn place(&mut self, sequence: u64, bytes: usize) -> (u32, u64) {
        if self.current < self.next_ordinal() && self.current().offset + bytes as u64 > self.segment_bytes {
            self.current += 1;
        }
        if self.current == self.next_ordinal() {
            assert!(self.ring.len() < usize::from(u16::MAX), "a call names its segment by 16 bits");
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

    /// A call's submit record is in this segment, at this offset as [`crate::table::calls::Call`] has it.
    pub fn pin(&mut self, calls: &mut Calls, at: CallRef, (ordinal, offset): (u32, u32)) {
        // All that there are differ in their lower bits: see `is_full`.
        (calls[at].segment, calls[at].offset) = (ordinal as u16, offset);
        self.ring[(ordinal - self.front) as usize].pins.push_back(calls, at);
    }

    /// Where in the ring the segment is that a call names.
    fn index(&self, segment: u16) -> usize {
        usize::from(segment.wrapping_sub(self.front as u16))
    }

    /// Whether there are so many that a call could not name another: new calls must wait. What is held may go on, it
    /// takes as many segments as that and more.
    pub fn is_full(&self) -> bool {
        self.ring.len() > SEGMENTS_MAX
    }

    /// A read of this segment begins: it stays as it is until [`Segments::read_ended`]. Its number.
    pub fn read_begins(&mut self, segment: u16) -> u64 {
        let index = self.index(segment);
        let segment = &mut self.ring[index];
        assert_eq!(segment.stage, Stage::Ready, "what is on disk is in a segment that is there");
        segment.reads += 1;
        segment.number
    }

    /// A read of this segment has ended. Its number.
    pub fn read_ended(&mut self, segment: u16) -> u64 {
        let index = self.index(segment);
        let segment = &mut self.ring[index];
        segment.reads -= 1;
        segment.number
    }

    /// A call does not need its segment any more as soon as `group` is on disk.
    pub fn unpin(&mut self, calls: &mut Calls, at: CallRef, group: u64) {
        let index = self.index(calls[at].segment);
        let segment = &mut self.ring[index];
        segment.pins.remove(calls, at);
        segment.released = segment.released.max(group);
    }

    /// A call that needs the oldest segment, which takes no groups any more.
    pub fn oldest_pin(&self) -> Option<CallRef> {
        self.oldest_pins()?.front()
    }

    /// All of these.
    pub fn oldest_pins(&self) -> Option<&List<BY_SEGMENT>> {
        self.ring.front().filter(|_| self.front < self.current).map(|segment| &segment.pins)
    }

    /// The record of an end that is to be remembered is in this segment.
    pub fn pin_end(&mut self, ordinal: u32) {
        self.ring[(ordinal - self.front) as usize].ends += 1;
    }

    /// That record is not needed any more as soon as `group` is on disk.
    pub fn unpin_end(&mut self, ordinal: u32, group: u64) {
        let segment = &mut self.ring[(ordinal - self.front) as usize];
        segment.ends -= 1;
        segment.released = segment.released.max(group);
    }

    /// The oldest segment, if it takes no groups any more and ends alone need it.
    pub fn oldest_of_ends(&self) -> Option<u32> {
        let oldest = self.ring.front().filter(|_| self.front < self.current)?;
        (oldest.pins.len == 0 && oldest.ends > 0).then_some(self.front)
    }

    /// How many ends need each segment, from the oldest on, and the ordinal of that one.
    pub fn ends(&self) -> (u32, impl Iterator<Item = u32> + '_) {
        (self.front, self.ring.iter().map(|segment| segment.ends))
    }

    /// Makes segments: the current one, and one ahead of need.
    pub fn create_op(&mut self, now: Instant) -> Option<LogOp> {
        if self.current + 1 >= self.next_ordinal() && self.current < self.next_ordinal() {
            let wanted = self.wanted();
            self.ring.push_back(wanted);
        }
        if now < self.create_at || self.change.is_some() {
            return None;
        }
        let wanted = self.first_wanted()?;
        let segment = self.give_number(wanted, Change::Create);
        Some(LogOp::Create { segment, bytes: self.segment_bytes })
    }

    fn first_wanted(&self) -> Option<usize> {
        // They are made in their order, one at a time.
        let made = self.ring.partition_point(|segment| segment.stage != Stage::Wanted);
        (made < self.ring.len()).then_some(made)
    }

    /// Has the segment at `index` made in this way; its number.
    fn give_number(&mut self, index: usize, change: Change) -> u64 {
        let segment = &mut self.ring[index];
        (segment.stage, segment.number) = (Stage::Creating, self.next_number);
        self.change = Some(change);
        self.next_number += 1;
        segment.number
    }

    /// A segment was made or recycled, or not.
    pub fn created(&mut self, number: u64, result: Result<(), i32>, now: Instant) {
        let being_made = |s: &&mut Segment| s.stage == Stage::Creating && s.number == number;
        let segment = self.ring.iter_mut().find(being_made).expect("the segment was being made");
        segment.stage = if result.is_ok() { Stage::Ready } else { Stage::Wanted };
        match (self.change.take().expect("one is under way"), result) {
            (_, Ok(())) => (self.create_failed, self.create_at) = (None, now),
            (Change::Recycle(from), Err(_)) => {
                // It may do without: new ones are made from now on.
                self.renames = false;
                self.useless.push(from);
            }
            (_, Err(errno)) => (self.create_failed, self.create_at) = (Some(errno), now + TRY_AGAIN),
        }
    }

    /// Why no segment can be made.
    pub fn create_failed(&self) -> Option<i32> {
        self.create_failed
    }

    /// Whether segments that are not needed stay as they are.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// When [`Segments::create_op`] or [`Segments::retire_op`] tries again.
    pub fn again_at(&self) -> Instant {
        let create = if self.create_failed.is_some() { self.create_at } else { Instant::NEVER };
        let remove = if self.remove_failed { self.remove_at } else { Instant::NEVER };
        create.min(remove)
    }

    /// What becomes of the oldest segment if nothing needs it: the next one to take groups, or it is removed.
    pub fn retire_op(&mut self, durable: u64, now: Instant) -> Option<LogOp> {
        if self.change.is_some() || now < self.remove_at {
            return None;
        }
        // A disk without room for the next segment needs the old ones more than a copier does.
        if self.held && self.create_failed.is_none() {
            return None;
        }
        if let Some(segment) = self.useless.pop() {
            return Some(self.remove(segment));
        }
        let (segment, next) = (self.ring.front()?, self.ring.get(1)?);
        // The last group on disk stays, whatever it holds: it tells sequence and incarnation to the next start.
        let followed = next.first != 0 && next.first <= durable;
        if !followed
            || segment.pins.len > 0
            || segment.ends > 0
            || segment.released > durable
            || segment.last > durable
            || segment.reads > 0
        {
            return None;
        }
        let (from, ours) = (segment.number, segment.ours);
        self.ring.pop_front();
        self.front += 1;
        let ahead = self.next_ordinal() - 1 - self.current;
        let wanted = self.first_wanted();
        // A write of an earlier process may still reach a segment that it made, and must not find new groups there.
        if !ours || !self.renames || (wanted.is_none() && ahead >= AHEAD_MAX) {
            return Some(self.remove(from));
        }
        let place = wanted.unwrap_or_else(|| {
            let wanted = self.wanted();
            self.ring.push_back(wanted);
            self.ring.len() - 1
        });
        let segment = self.give_number(place, Change::Recycle(from));
        Some(LogOp::Recycle { from, segment })
    }

    fn remove(&mut self, segment: u64) -> LogOp {
        self.change = Some(Change::Remove);
        LogOp::Remove { segment }
    }

    /// A segment was removed, or not: then it is the first to be removed, since a gap between segments would be damage.
    pub fn removed(&mut self, segment: u64, result: Result<(), i32>, now: Instant) {
        assert_eq!(self.change.take(), Some(Change::Remove), "a removal was under way");
        self.remove_failed = result.is_err();
        if result.is_err() {
            self.remove_at = now + TRY_AGAIN;
            self.useless.push(segment);
        } else {
            // There is room now: the next try need not wait.
            self.create_at = Instant(0);
        }
    }

    /// Whether some that are retired may still be on the disk.
    pub fn is_removing(&self) -> bool {
        self.change == Some(Change::Remove) || !self.useless.is_empty()
    }

    fn current(&mut self) -> &mut Segment {
        &mut self.ring[(self.current - self.front) as usize]
    }

    fn wanted(&self) -> Segment {
        let (pins, stage) = (List::EMPTY, Stage::Wanted);
        Segment {
            number: 0,
            ours: true,
            stage,
            offset: 0,
            first: 0,
            last: 0,
            pins,
            ends: 0,
            released: 0,
            reads: 0,
        }
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
                assert_eq!(calls[*at].segment, ordinal as u16, "the segment of {}", calls[*at].id);
            });
            assert_eq!(listed.count() as u32, segment.pins.len);
            assert!(segment.first <= segment.last && segment.offset <= self.segment_bytes);
        }
        let made = self.ring.iter().filter(|segment| segment.stage != Stage::Wanted);
        assert!(made.map(|segment| segment.number).is_sorted(), "segments in order");
        let kept = |number: &u64| self.ring.iter().any(|segment| segment.number == *number);
        assert!(!self.useless.iter().any(kept), "what is to be removed is not needed");
        let to_be_made = self.ring.iter().map(|segment| segment.stage == Stage::Wanted);
        assert!(to_be_made.is_sorted(), "those to be made come last");
    }
}
