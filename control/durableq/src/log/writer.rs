//! Groups of records on their way to the disk.

use super::group::{GROUP_HEADER_BYTES, GroupHeader};
use super::segments::Segments;
use crate::table::calls::CUT;
use crate::words::{Blocks, LogOp, write_blocks};
use call::Instant;
use call::frame::padded;
use call::limits::{FRAME_ALIGN, HEADER_BYTES, Limits};
use std::collections::VecDeque;

/// A group that is being filled, waits to be written, or is in flight.
#[derive(Clone, Copy, Debug)]
struct Group {
    sequence: u64,
    block: u32,
    segment: u32,
    offset: u64,
    /// Header and records.
    bytes: usize,
    continues: usize,
    on_disk: bool,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Ordinal of the segment in which it begins, and where: in units of [`FRAME_ALIGN`] bytes, or [`CUT`] if it
    /// stands in several groups.
    pub place: (u32, u32),
    /// The group in which it ends: the record is on disk when that group and all before it are.
    pub group: u64,
}

/// The writing side of the log. Groups are filled one at a time, written several at a time, and count as on disk in
/// their order.
#[derive(Debug)]
pub struct Log {
    /// Its segments.
    pub segments: Segments,
    group_bytes: usize,
    in_flight_max: usize,
    blocks_free: Vec<u32>,
    open: Option<Group>,
    /// Full, waiting for a slot or a segment.
    closed: VecDeque<Group>,
    in_flight: VecDeque<Group>,
    /// Of the next group that is opened.
    next: u64,
    /// All groups up to this one are on disk.
    durable: u64,
    /// The first group of this incarnation. It is written alone.
    born: u64,
    /// In the header of each group.
    pub incarnation: u32,
    /// The log's key, in the header of each group.
    key: u64,
    /// The number of the segment at which a reader may begin, in the header of each group; 0 for the oldest.
    pub from: u64,
    failed: Option<i32>,
    groups: u64,
    bytes: u64,
    appended: u64,
}

impl Log {
    /// A log that has not been begun.
    pub fn new(limits: &Limits) -> Log {
        let blocks = write_blocks(limits);
        assert!(
            limits.group_bytes.is_multiple_of(super::GROUP_ALIGN),
            "limits.group_bytes: a multiple of 4096"
        );
        assert!(
            limits.segment_bytes >= limits.group_bytes as u64,
            "limits.segment_bytes: at least one group"
        );
        assert!(
            limits.segment_bytes / FRAME_ALIGN as u64 <= u64::from(CUT),
            "limits.segment_bytes: a place in it is named by 32 bits"
        );
        assert!(limits.groups_in_flight > 0, "limits.groups_in_flight: at least one");
        Log {
            segments: Segments::new(limits.segment_bytes),
            group_bytes: limits.group_bytes,
            in_flight_max: limits.groups_in_flight,
            blocks_free: (0..blocks as u32).rev().collect(),
            open: None,
            closed: VecDeque::with_capacity(blocks),
            in_flight: VecDeque::with_capacity(limits.groups_in_flight),
            next: 1,
            durable: 0,
            born: 1,
            incarnation: 0,
            key: 0,
            from: 0,
            failed: None,
            groups: 0,
            bytes: 0,
            appended: 0,
        }
    }

    /// Goes on behind group `last` of earlier incarnations, in a new segment.
    pub fn begin(&mut self, last: u64, incarnation: u32, key: u64) {
        assert_eq!(self.next, 1, "a log begins once");
        self.key = key;
        (self.next, self.durable, self.born, self.incarnation) = (last + 1, last, last + 1, incarnation);
    }

    /// Whether a record of so many bytes, header and body, can be taken now.
    pub fn has_room(&self, bytes: usize) -> bool {
        let (bytes, capacity) = (padded(bytes), self.group_bytes - GROUP_HEADER_BYTES);
        let open = self.open.map_or(0, |group| self.group_bytes - group.bytes);
        self.failed.is_none() && (bytes <= open || bytes.div_ceil(capacity) <= self.blocks_free.len())
    }

    /// Whether two records of so many bytes together can be taken now, wherever the first one ends.
    pub fn has_room_for_two(&self, bytes: usize) -> bool {
        self.has_room(padded(bytes) + 2 * call::limits::FRAME_ALIGN + self.group_bytes)
    }

    /// Copies a record into the open group. There must be room.
    ///
    /// A record that does not fit there begins the next group. Only one that fits no group is cut, and then fills
    /// whole groups from the start of one on.
    pub fn append(&mut self, blocks: &mut impl Blocks, header: &[u8; HEADER_BYTES], body: &[u8]) -> Placed {
        let total = padded(HEADER_BYTES + body.len());
        self.appended += total as u64;
        if self.open.is_some_and(|open| self.group_bytes - open.bytes < total) {
            self.close();
        }
        let mut copied = 0;
        let mut place = None;
        loop {
            let group = self.open_group();
            let offset = (group.offset as usize + group.bytes) / FRAME_ALIGN;
            let take = (total - copied).min(self.group_bytes - group.bytes);
            let into = &mut blocks.block(group.block)[group.bytes..group.bytes + take];
            copy_part(into, header, body, copied);
            let whole = total - copied == take && copied == 0;
            place = place.or(Some((group.segment, if whole { offset as u32 } else { CUT })));
            let open = self.open.as_mut().expect("opened above");
            open.bytes += take;
            open.continues += if copied > 0 { take } else { 0 };
            copied += take;
            if copied == total {
                return Placed { place: place.expect("at least one part"), group: group.sequence };
            }
            self.close();
        }
    }

    fn open_group(&mut self) -> Group {
        if let Some(open) = self.open {
            return open;
        }
        let sequence = self.next;
        self.next += 1;
        let (segment, offset) = self.segments.place(sequence, self.group_bytes);
        let block = self.blocks_free.pop().expect("the caller asked for room");
        let bytes = GROUP_HEADER_BYTES;
        *self.open.insert(Group { sequence, block, segment, offset, bytes, continues: 0, on_disk: false })
    }

    fn close(&mut self) {
        let group = self.open.take().expect("there is an open group");
        self.segments.filled(group.bytes.next_multiple_of(super::GROUP_ALIGN));
        self.closed.push_back(group);
    }

    /// What the disk must do next.
    pub fn next_op(&mut self, blocks: &mut impl Blocks, now: Instant) -> Option<LogOp> {
        if self.failed.is_some() {
            return None;
        }
        let op = self.segments.create_op(now).or_else(|| self.write_op(blocks));
        op.or_else(|| self.segments.retire_op(self.durable, now))
    }

    fn write_op(&mut self, blocks: &mut impl Blocks) -> Option<LogOp> {
        // No group of an incarnation may be found on disk without its first one.
        let slots = if self.durable < self.born { 1 } else { self.in_flight_max };
        let group = self.closed.front().copied().or(self.open)?;
        if self.in_flight.len() >= slots {
            return None;
        }
        let segment = self.segments.ready(group.segment)?;
        if self.closed.is_empty() {
            self.close();
        }
        self.closed.pop_front();
        let header = GroupHeader {
            bytes: group.bytes as u32,
            sequence: group.sequence,
            incarnation: self.incarnation,
            continues: group.continues as u32,
            durable: self.durable,
            segment,
            key: self.key,
            from: self.from,
        };
        let bytes = header.bytes_on_disk();
        let block = blocks.block(group.block);
        block[group.bytes..bytes].fill(0);
        header.seal(block);
        self.in_flight.push_back(group);
        self.bytes += bytes as u64;
        Some(LogOp::Write { segment, offset: group.offset, block: group.block, bytes, group: group.sequence })
    }

    /// A write ended.
    pub fn written(&mut self, sequence: u64, result: Result<(), i32>) {
        let group = self.in_flight.iter_mut().find(|group| group.sequence == sequence);
        let group = group.expect("the group was in flight");
        assert!(!group.on_disk, "a write ends once");
        if let Err(errno) = result {
            self.failed = self.failed.or(Some(errno));
            return;
        }
        group.on_disk = true;
        while let Some(group) = self.in_flight.pop_front_if(|group| group.on_disk) {
            self.blocks_free.push(group.block);
            self.durable = group.sequence;
            self.groups += 1;
        }
    }

    /// Up to which group all is on disk.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last group that has records.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Whether this incarnation has no group yet.
    pub fn is_unborn(&self) -> bool {
        self.next == self.born
    }

    /// Whether the incarnation is on disk, so that calls may be leased.
    pub fn is_live(&self) -> bool {
        self.durable >= self.born && self.failed.is_none()
    }

    /// The errno of a failed write. The log stops for good: the group may be there in part, and nothing may be
    /// acknowledged behind it.
    pub fn failed(&self) -> Option<i32> {
        self.failed
    }

    /// Groups on disk, and bytes written or in flight.
    pub fn volume(&self) -> (u64, u64) {
        (self.groups, self.bytes)
    }

    /// Bytes of records that were appended.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Groups are in order, and each block is in one place.
    pub fn check(&self) {
        let groups = || self.in_flight.iter().chain(&self.closed).chain(&self.open);
        let order: Vec<u64> = groups().map(|group| group.sequence).collect();
        assert!(
            order.iter().copied().eq(self.durable + 1..self.next),
            "groups {order:?} after {}",
            self.durable
        );
        let mut blocks: Vec<u32> =
            groups().map(|group| group.block).chain(self.blocks_free.iter().copied()).collect();
        blocks.sort_unstable();
        assert!(blocks.iter().copied().eq(0..blocks.len() as u32), "each block once: {blocks:?}");
        assert!(self.in_flight.len() <= self.in_flight_max);
    }
}

/// Copies what `into` holds of a record (header, body, zeros) from its byte `from` on.
fn copy_part(into: &mut [u8], header: &[u8; HEADER_BYTES], body: &[u8], from: usize) {
    let mut done = 0;
    if from < HEADER_BYTES {
        // A group has room for a whole header, so only the first part can begin inside it.
        into[..HEADER_BYTES].copy_from_slice(&header[from..]);
        done = HEADER_BYTES;
    }
    let rest = &body[(from + done - HEADER_BYTES).min(body.len())..];
    let take = rest.len().min(into.len() - done);
    into[done..done + take].copy_from_slice(&rest[..take]);
    into[done + take..].fill(0);
}
