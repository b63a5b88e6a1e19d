//! Reading the log at the start.
//!
//! The reader follows the chain of groups as [`crate::log`] describes it, and applies each sound group to the queue. Where
//! the chain ends inside a segment, it may go on at the start of a later one, whose writer has read the chain up to there.
//! Only if it does not, what was left out is looked through for groups that prove that more had been on disk. So a
//! start costs what was written, not the size of the segments that earlier starts have begun.
//!
//! Where the reader begins, a checkpoint says: so a start costs what is pending, not what has been. In salvage all is read.

mod behind;

use crate::log::page::{self, Entry};
use crate::log::{GROUP_ALIGN, GROUP_HEADER_BYTES, GroupError, GroupHeader};
use crate::queue::{DurableQ, Found, TURNS_END};
use crate::salvage::{Held, Loss, Recover};
use crate::table::calls::CUT;
use call::frame::{FrameBuf, frame_bytes, padded};
use call::limits::{FRAME_ALIGN, Limits};
use call::{CallId, Frame, FrameError, Instant, Kind, WallTime};
use std::collections::VecDeque;
use std::fmt;

/// Why a log cannot be used. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryError {
    /// Groups that were acknowledged are missing or broken, since later ones say so. Something else than a crash did
    /// this: a disk that lost data, a file that was deleted or copied.
    Damaged {
        /// The segment in which a later group was found.
        segment: u64,
        /// And where in it.
        offset: u64,
        /// The first missing group.
        missing: u64,
    },
    /// A segment is gone, with frames of calls that wait.
    Missing {
        /// Its number; if it is older than all that are there, that of the oldest of those.
        segment: u64,
        /// One of the calls.
        call: CallId,
    },
    /// The limits are smaller than what the log holds.
    TooSmall {
        /// Which limit.
        limit: &'static str,
        /// What it holds at this value.
        value: usize,
    },
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::Damaged { segment, offset, missing } => write!(
                f,
                "the log is damaged: group {missing} is missing or broken, but {} has a group at byte {offset} that was \
                 written when that one was on disk; put back the missing bytes, or start with --recover salvage, which \
                 goes on without what is lost and says what that is",
                crate::log::segment_name(*segment)
            ),
            RecoveryError::Missing { segment, call } => write!(
                f,
                "the log is damaged: {}, or one before it, is missing, and call {call} waits there; put back the file, or \
                 start with --recover salvage, which goes on without what is lost and says what that is",
                crate::log::segment_name(*segment)
            ),
            RecoveryError::TooSmall { limit, value } => {
                write!(
                    f,
                    "the log holds more than limits.{limit} = {value} allows; start with the limits of before"
                )
            }
        }
    }
}

impl std::error::Error for RecoveryError {}

/// Where the reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// The chain may go on here.
    Following,
    /// The chain does not go on in this segment.
    Searching,
}

/// A segment from an offset on.
#[derive(Clone, Copy, Debug)]
struct Part {
    number: u64,
    bytes: u64,
    offset: u64,
}

impl Part {
    /// Whether a group may still be in it.
    fn has_more(&self) -> bool {
        self.offset + GROUP_HEADER_BYTES as u64 <= self.bytes
    }
}

/// Reads the log and makes the queue from it.
///
/// ```text
/// let mut recovery = Recovery::new(&limits);
/// recovery.segments(number and bytes of each, in ascending order);
/// while let Some((number, offset)) = recovery.next_read() {
///     recovery.feed(read(number, offset, block_bytes))?;     // fewer bytes at the end of the file
/// }
/// let mut queue = recovery.finish(now, wall, random)?;
/// ```
#[derive(Debug)]
pub struct Recovery {
    queue: DurableQ,
    group_bytes: usize,
    /// The last group of the chain, 0 if there is none yet, and its incarnation.
    last: u64,
    incarnation: u32,
    /// The key of the log, as soon as a group was read that tells it.
    key: Option<u64>,
    /// The first group of all is there and cannot be read.
    beheaded: bool,
    /// Its key and its sequence, by what its header says.
    claimed: Option<(u64, u64)>,
    /// Segments not begun yet.
    coming: VecDeque<Part>,
    /// So many of them may be the one whose first group says where to begin: the last of these is looked at next.
    sought: usize,
    /// Where the chain may have ended, and what was not looked through since.
    left_out: VecDeque<Part>,
    /// The segment at hand, from where to go on.
    at: Part,
    mode: Mode,
    /// Groups of the chain were found in the segment at hand.
    used: bool,
    /// Groups that may be of the chain were found there: it is not removed yet.
    doubtful: bool,
    /// Segments of which only that is known.
    doubted: Vec<u64>,
    /// The records of the group at hand that stand whole in it.
    records: Vec<Record>,
    /// A record of which parts have been read, and the segment in which it begins.
    cut: FrameBuf,
    cut_segment: u32,
    recover: Recover,
    /// In salvage: behind the last group of the chain, in which segment and where.
    end: (u64, u64),
    /// Groups behind a break that none has proved yet, in the order in which they were found.
    held: Vec<Held>,
    losses: Vec<Loss>,
    /// In salvage: entries whose segments are not there. Most are of calls that have ended or were copied.
    older: Vec<Entry>,
}

/// A record that was looked at before it happens.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Where in the records of its group, and how long it is there, without padding.
    at: usize,
    bytes: usize,
    call: CallId,
}

/// A damaged header that begins the log tells its key, but for so many bits at most. A client that does not know the key
/// comes so near to it once in billions of times.
const KEY_BITS_DAMAGED_MAX: u32 = 8;

/// Records whose calls are looked up together: about as many cache misses as a CPU waits for at once.
const AHEAD: usize = 16;

impl Recovery {
    /// Takes all memory of the queue. Damage is an error.
    pub fn new(limits: &Limits) -> Recovery {
        Recovery::with(limits, Recover::Strict)
    }

    /// As [`Recovery::new`], with another word about damage.
    pub fn with(limits: &Limits, recover: Recover) -> Recovery {
        Recovery {
            queue: DurableQ::empty(limits),
            group_bytes: limits.group_bytes,
            last: 0,
            incarnation: 0,
            key: None,
            beheaded: false,
            claimed: None,
            coming: VecDeque::new(),
            sought: 0,
            left_out: VecDeque::new(),
            at: Part { number: 0, bytes: 0, offset: 0 },
            mode: Mode::Searching,
            used: true,
            doubtful: false,
            doubted: Vec::new(),
            records: Vec::new(),
            cut: FrameBuf::new(),
            cut_segment: 0,
            recover,
            end: (0, 0),
            held: Vec::new(),
            losses: Vec::new(),
            older: Vec::new(),
        }
    }

    /// The segments that there are, number and bytes, in ascending order of numbers.
    pub fn segments(&mut self, segments: impl IntoIterator<Item = (u64, u64)>) {
        let whole = segments.into_iter().map(|(number, bytes)| Part { number, bytes, offset: 0 });
        self.coming.extend(whole);
        self.sought = if self.recover == Recover::Strict { self.coming.len() } else { 0 };
    }

    /// From which offset of which segment the next bytes are wanted; `None` at the end. The offset is a multiple of 4096.
    pub fn next_read(&mut self) -> Option<(u64, u64)> {
        if let Some(last) = self.sought.checked_sub(1) {
            return Some((self.coming[last].number, 0));
        }
        while !self.at.has_more() {
            if let Some(next) = self.coming.pop_front() {
                self.end_segment();
                self.queue.log_mut().segments.found(next.number);
                self.at = next;
                (self.mode, self.used, self.doubtful) = (Mode::Following, false, false);
            } else {
                self.at = self.left_out.pop_front()?;
                self.mode = Mode::Searching;
            }
        }
        Some((self.at.number, self.at.offset))
    }

    /// The bytes there: at least `limits.group_bytes` or up to the segment's end.
    ///
    /// # Errors
    /// See [`RecoveryError`]; the recovery ends there.
    ///
    /// # Panics
    /// If `bytes` do not begin at a multiple of 16 in memory.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RecoveryError> {
        let aligned = bytes.is_empty() || (bytes.as_ptr() as usize).is_multiple_of(FRAME_ALIGN);
        assert!(aligned, "frames are read in place");
        if self.sought > 0 {
            self.seek(bytes);
            return Ok(());
        }
        let last = self.at.offset + bytes.len() as u64 >= self.at.bytes;
        let was = self.mode;
        let mut at = 0;
        // In salvage all is looked through in its order: groups behind a break are to happen.
        let salvages = self.recover == Recover::Salvage;
        while at < bytes.len() && (self.mode == was || salvages) {
            let rest = &bytes[at..];
            let step = match GroupHeader::parse(rest) {
                // The rest of the group comes with the next bytes.
                Err(GroupError::Short) if at > 0 && !last => break,
                Err(error) => self.no_group(rest, error, at)?,
                Ok(header) => self.group(&header, rest, at)?,
            };
            at += step;
        }
        // A segment that is shorter than it was said to be ends here.
        self.at.offset = if bytes.is_empty() { self.at.bytes } else { self.at.offset + at as u64 };
        if self.mode != was && self.last > 0 && !salvages {
            // A chain that goes on in a later segment proves that it did not go on here.
            self.left_out.push_back(self.at);
            self.at.offset = self.at.bytes;
        }
        Ok(())
    }

    /// Looks for where to begin in the first group of a segment, which was the last to be written if it holds there.
    fn seek(&mut self, bytes: &[u8]) {
        self.sought -= 1;
        let number = self.coming[self.sought].number;
        let Some(header) = GroupHeader::parse(bytes).ok().filter(|header| header.segment == number) else {
            return;
        };
        self.sought = 0;
        if self.coming.iter().all(|part| part.number != header.from) {
            return;
        }
        let segments = &mut self.queue.log_mut().segments;
        while let Some(part) = self.coming.pop_front_if(|part| part.number != header.from) {
            segments.found(part.number);
            segments.found_indexed();
        }
        let begin = segments.next_ordinal();
        self.queue.begun_at(begin, header.from);
    }

    /// What was lost, break by break; nothing in a strict recovery.
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// The queue. Its first [`DurableQ::next_op`]s make a new segment and write the new incarnation; segments that hold
    /// nothing any more are removed. `random` is the key of a log that begins: 64 bits that no client can guess.
    ///
    /// # Errors
    /// [`RecoveryError::Missing`].
    pub fn finish(mut self, now: Instant, wall: WallTime, random: u64) -> Result<DurableQ, RecoveryError> {
        self.end_segment();
        let segments = &mut self.queue.log_mut().segments;
        for number in self.doubted.drain(..) {
            if segments.ordinal(number).is_err() {
                segments.found_useless(number);
            }
        }
        // What the latest says of a call is where its frame was.
        for entry in std::mem::take(&mut self.older).iter().rev() {
            self.queue.end_if_lost(entry);
        }
        if let Some(call) = self.queue.lost() {
            return Err(RecoveryError::Missing {
                segment: self.queue.log_mut().segments.first_number(),
                call,
            });
        }
        self.queue.log_mut().incarnation = self.queue.log_mut().incarnation.max(self.incarnation);
        self.queue.resume(self.last, self.key.unwrap_or(random), now, wall);
        if !self.losses.is_empty() {
            self.queue.rewrite();
        }
        self.queue.advance(now, wall);
        Ok(self.queue)
    }

    fn end_segment(&mut self) {
        // What was left out of an earlier one may have been looked through since.
        let segments = &mut self.queue.log_mut().segments;
        match (self.used, self.doubtful) {
            (false, false) => segments.found_useless(segments.last_found()),
            (false, true) => self.doubted.push(segments.last_found()),
            (true, _) => {}
        }
        self.used = true;
    }

    /// No group is here; how far to go on.
    fn no_group(&mut self, rest: &[u8], error: GroupError, at: usize) -> Result<usize, RecoveryError> {
        let claimed = GroupHeader::claimed(rest).filter(|_| error == GroupError::Short);
        if self.mode == Mode::Following
            && let Some(header) = claimed
            && self.is_of_here(&header)
            && header.bytes as usize > self.group_bytes
            && self.continues_with(&header)
            && !self.is_length_damaged(&header, rest, at)
        {
            return Err(RecoveryError::TooSmall { limit: "group_bytes", value: self.group_bytes });
        }
        self.mode = Mode::Searching;
        self.claim(rest, at);
        if error == GroupError::Crc && self.recover == Recover::Salvage {
            self.hold_damaged(rest, at);
        }
        Ok(GROUP_ALIGN)
    }

    /// What is no group at the start of the oldest segment was the first of the log: a segment that has none is removed
    /// before those that are older. It may say which.
    fn claim(&mut self, rest: &[u8], at: usize) {
        let begins = self.last == 0 && !self.beheaded && self.at.offset + at as u64 == 0;
        let written = rest.iter().take(GROUP_ALIGN).any(|byte| *byte != 0);
        if !begins || !written {
            return;
        }
        self.beheaded = true;
        let header = GroupHeader::claimed(rest).filter(|header| header.segment == self.at.number);
        if let Some(header) = header.filter(|_| self.key.is_none()) {
            self.claimed = Some((header.key, header.sequence));
        }
    }

    /// The group that is missing before this one, if one is.
    fn missing(&self, next: &GroupHeader) -> u64 {
        let claimed = self.claimed.map(|(_, sequence)| sequence).filter(|claimed| *claimed < next.sequence);
        let before = claimed.unwrap_or(next.sequence.saturating_sub(1).max(1));
        if self.last == 0 { before } else { self.last + 1 }
    }

    /// Whether a group is not really longer than all that may be, but its length is what is damaged: it would end behind
    /// its segment, there is another one inside it, or, which an operator who goes on past damage has to rely on, records do
    /// not go on to where it would end.
    fn is_length_damaged(&self, header: &GroupHeader, rest: &[u8], at: usize) -> bool {
        let behind = self.at.offset + at as u64 + u64::from(header.bytes) > self.at.bytes;
        let group = |page: usize| GroupHeader::parse(&rest[page..]);
        let mut pages = (GROUP_ALIGN..rest.len()).step_by(GROUP_ALIGN);
        behind
            || pages.any(|page| group(page).is_ok_and(|inside| self.is_of_here(&inside)))
            || self.recover == Recover::Salvage && !goes_on(header, rest)
    }

    /// A sound group; how far to go on.
    fn group(&mut self, header: &GroupHeader, rest: &[u8], at: usize) -> Result<usize, RecoveryError> {
        if self.at.offset + at as u64 == 0 {
            // What stands there was written as a group, whatever became of it: no record of a client begins a segment.
            self.key.get_or_insert(header.key);
        }
        if !self.is_of_here(header) {
            self.mode = Mode::Searching;
            // Bytes of a client may look like a group, and must not hide one.
            let real = self.key == Some(header.key);
            return Ok(if real { header.bytes_on_disk() } else { GROUP_ALIGN });
        }
        if self.mode == Mode::Following && self.continues_with(header) {
            let records = &rest[GROUP_HEADER_BYTES..header.bytes as usize];
            if self.is_sound(header, records) {
                self.held.clear();
                self.apply(header, records, (self.at.number, self.at.offset + at as u64))?;
                return Ok(header.bytes_on_disk());
            }
        }
        self.mode = Mode::Searching;
        let missing = self.missing(header);
        let proves = match header.incarnation.cmp(&self.incarnation) {
            // The first group of an incarnation was written alone, and the chain has not come by it.
            std::cmp::Ordering::Greater => self.last > 0 || header.sequence > 1,
            std::cmp::Ordering::Equal => header.durable >= missing,
            std::cmp::Ordering::Less => false,
        };
        if proves {
            let offset = self.at.offset + at as u64;
            if self.recover == Recover::Strict {
                return Err(RecoveryError::Damaged { segment: self.at.number, offset, missing });
            }
            self.go_on_at(header, rest, offset)?;
        } else if self.recover == Recover::Salvage && self.is_ahead(header) {
            self.hold(header, rest, self.at.offset + at as u64, true);
        }
        Ok(header.bytes_on_disk())
    }

    /// Whether a group was written by the queue, and to this segment, not before it got this number.
    fn is_of_here(&self, header: &GroupHeader) -> bool {
        let near = |claimed: u64| (claimed ^ header.key).count_ones() <= KEY_BITS_DAMAGED_MAX;
        let claimed = self.claimed.is_none_or(|(claimed, _)| near(claimed));
        header.segment == self.at.number && self.key.map_or(claimed, |key| key == header.key)
    }

    /// Whether a group is the next of the chain; see [`crate::log`] for why it may step back.
    fn continues_with(&self, header: &GroupHeader) -> bool {
        // The log begins with the oldest group that is there, unless one before it is there and damaged. The first one of
        // all has none before it: what is there was torn when it was to be that.
        let lost = self.beheaded && header.sequence > 1;
        let begins = self.last == 0 && !self.used && !lost;
        let follows = header.sequence == self.last + 1 && header.incarnation >= self.incarnation;
        let steps_back = !self.used && header.sequence <= self.last && header.incarnation >= self.incarnation;
        begins || follows || steps_back
    }

    /// Whether all records of a group can be read. A checksum holds for them, so that this is a matter of principle:
    /// nothing of a group is applied unless all of it can be.
    fn is_sound(&mut self, header: &GroupHeader, records: &[u8]) -> bool {
        self.records.clear();
        let (cut, mut rest) = records.split_at(header.continues as usize);
        if !self.cut.is_empty() && header.continues > 0 && !self.cut_goes_on_with(cut, rest) {
            return false;
        }
        while !rest.is_empty() {
            match Frame::parse(rest) {
                Ok((frame, used)) if is_record(frame) => {
                    let (at, bytes) = (records.len() - rest.len(), frame.bytes().len());
                    self.records.push(Record { at, bytes, call: frame.call() });
                    rest = &rest[used..];
                }
                Err(FrameError::Short) if matches!(frame_bytes(rest), Ok(Some(_))) => return true,
                _ => return false,
            }
        }
        true
    }

    fn cut_goes_on_with(&self, part: &[u8], rest: &[u8]) -> bool {
        let whole = frame_bytes(&self.cut).ok().flatten().expect("looked at when the record began");
        let read = self.cut.len() + part.len();
        if read != whole {
            return read < whole && rest.is_empty();
        }
        let mut joined = FrameBuf::with_capacity(whole);
        joined.extend_from_slice(&self.cut);
        joined.extend_from_slice(part);
        Frame::parse(&joined).is_ok_and(|(frame, _)| is_record(frame))
    }

    /// All records of a sound group, which stands in this segment at this offset.
    fn apply(
        &mut self,
        header: &GroupHeader,
        records: &[u8],
        (number, group): (u64, u64),
    ) -> Result<(), RecoveryError> {
        self.used = true;
        self.key.get_or_insert(header.key);
        self.left_out.clear();
        (self.last, self.incarnation) = (header.sequence, header.incarnation);
        self.end = (number, group + header.bytes_on_disk() as u64);
        let segment = self.queue.log_mut().segments.found_group(number, header.sequence);
        self.apply_part(&records[..header.continues as usize])?;
        let found = std::mem::take(&mut self.records);
        for some in found.chunks(AHEAD) {
            let mut calls = [CallId(0); AHEAD];
            calls.iter_mut().zip(some).for_each(|(call, record)| *call = record.call);
            self.queue.glimpse(&calls[..some.len()]);
            for record in some {
                let frame = Frame::parsed_before(&records[record.at..record.at + record.bytes]);
                if frame.kind() == Kind::Index {
                    self.apply_page(frame, segment)?;
                    continue;
                }
                let offset = group + (GROUP_HEADER_BYTES + record.at) as u64;
                self.queue.replay(frame, (segment, (offset / FRAME_ALIGN as u64) as u32))?;
            }
        }
        let whole = found.last().map_or(header.continues as usize, |last| last.at + padded(last.bytes));
        self.records = found;
        if whole < records.len() {
            self.cut.extend_from_slice(&records[whole..]);
            self.cut_segment = segment;
        }
        Ok(())
    }

    /// A page of the index, which stands in this segment.
    fn apply_page(&mut self, frame: Frame<'_>, here: u32) -> Result<(), RecoveryError> {
        self.queue.replay_turn(frame.stamp());
        let mut entries = page::entries(frame.body()).expect("a record is looked at before it happens");
        loop {
            let mut calls = [CallId(0); AHEAD];
            let ahead = entries.clone().zip(&mut calls).map(|(entry, call)| *call = entry.call).count();
            if ahead == 0 {
                return Ok(());
            }
            self.queue.glimpse(&calls[..ahead]);
            for entry in entries.by_ref().take(ahead) {
                match self.queue.replay_entry(&entry, here)? {
                    Found::There => {}
                    Found::Missing if self.recover == Recover::Strict => {
                        return Err(RecoveryError::Missing { segment: entry.segment, call: entry.call });
                    }
                    // In a strict start it is known by its place in the table.
                    _ if self.recover == Recover::Strict => {}
                    _ => self.older.push(entry),
                }
            }
        }
    }

    /// Bytes of a record that began in an earlier group; if that group is gone with its segment, nobody needs them.
    fn apply_part(&mut self, part: &[u8]) -> Result<(), RecoveryError> {
        if part.is_empty() {
            // A record that was being written when its incarnation ended.
            self.cut.clear();
        }
        if self.cut.is_empty() {
            return Ok(());
        }
        self.cut.extend_from_slice(part);
        let whole = frame_bytes(&self.cut).ok().flatten().expect("looked at when the record began");
        if self.cut.len() < whole {
            return Ok(());
        }
        let cut = std::mem::take(&mut self.cut);
        let (frame, _) = Frame::parse(&cut).expect("looked at before the group was applied");
        if frame.kind() == Kind::Index {
            return self.apply_page(frame, self.cut_segment);
        }
        self.queue.replay(frame, (self.cut_segment, CUT))
    }
}

/// Whether records stand in a group that is longer than these bytes up to their end.
fn goes_on(header: &GroupHeader, bytes: &[u8]) -> bool {
    let mut at = GROUP_HEADER_BYTES + header.continues as usize;
    while at < bytes.len() {
        match Frame::parse(&bytes[at..]) {
            Ok((_, used)) => at += used,
            Err(error) => return error == FrameError::Short,
        }
    }
    true
}

/// Whether a frame is of a kind that is a record, and the queue can go on behind it: one incarnation more must be left.
pub(crate) fn is_record(frame: Frame<'_>) -> bool {
    match frame.kind() {
        Kind::Submit | Kind::Done => true,
        Kind::Retry | Kind::Dead | Kind::Redrive => crate::queue::parts(frame).is_ok(),
        Kind::Incarnation => frame.stamp() < u64::from(u32::MAX),
        Kind::Index => frame.stamp() < TURNS_END && page::entries(frame.body()).is_some(),
        _ => false,
    }
}
