//! The index goes to the log, so that a start need not read what came before.
//!
//! What a checkpoint is, and why a reader may rely on it, is described in [`crate::log`]. It is written page by page, the
//! next one when the last is on disk, so that calls wait behind one page at most, and it takes as long as that takes. One
//! that is not finished is good for nothing, and does no harm.

use super::DurableQ;
use super::park::SAID;
use crate::log::page::{ENTRY_BYTES, Entry};
use crate::table::calls::{CUT, NONE, Place, flag};
use crate::table::ended::Ended;
use crate::words::{Blocks, CallRef};
use call::frame::flag::BLOB;
use call::frame::padded;
use call::limits::HEADER_BYTES;
use call::{Header, Kind};

/// Places of the table, or ends, that one step looks at: some ten microseconds.
const LOOKED_MAX: u32 = 1024;
/// Entries of a page at most: as many take ten microseconds.
const ENTRIES_MAX: usize = 256;

/// How far the walk has come.
#[derive(Clone, Copy, Debug)]
enum At {
    /// All calls below this number are written.
    Calls(u32),
    /// All ends before this position are written, of those that are remembered while there is room.
    Ends(u32),
    /// The same, of those that are remembered for a set time.
    Retained(u32),
    /// All is written.
    Over,
}

/// A checkpoint that is being written.
#[derive(Clone, Copy, Debug)]
struct Walk {
    at: At,
    /// Ordinal of the segment that took groups when it began: what stands from there on is in the log anyway.
    segment: u32,
    /// Bytes in the log then, without upkeep.
    begins: i64,
    /// The last group of that time. Its records, and later ones, are read by whoever begins at that segment.
    group: u64,
    /// The group with what was written last.
    written: u64,
}

/// The last checkpoint, and the one under way.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// Ordinal of the segment from which on the log says everything.
    from: u32,
    /// Bytes of copies and checkpoints in the log. What else it has grown by since the last checkpoint is a reason for the
    /// next one: these are not, or each would be one for the other.
    upkeep: u64,
    /// Bytes in the log, without upkeep, when the last one began. Before the first one, what the start has read counts as
    /// written before.
    begun: i64,
    walk: Option<Walk>,
    page: Vec<u8>,
    /// Bytes of records that one step writes: a quarter of a group.
    step_bytes: usize,
    segments_max: u64,
}

impl Checkpoint {
    pub fn new(limits: &call::limits::Limits) -> Checkpoint {
        let step_bytes = (limits.group_bytes / 4).min(ENTRIES_MAX * ENTRY_BYTES);
        Checkpoint {
            from: 0,
            upkeep: 0,
            begun: 0,
            walk: None,
            page: Vec::with_capacity(step_bytes + ENTRY_BYTES),
            step_bytes,
            segments_max: limits.checkpoint_segments as u64,
        }
    }
}

impl DurableQ {
    /// The log was read from the segment of this ordinal and number on.
    pub(crate) fn begun_at(&mut self, ordinal: u32, number: u64) {
        self.checkpoint.from = ordinal;
        self.log.from = number;
    }

    /// A start has read so many segments.
    pub(crate) fn begin_checkpoints(&mut self) {
        let read = self.log.segments.next_ordinal() - self.checkpoint.from;
        self.checkpoint.begun = -((u64::from(read) * self.segment_bytes) as i64);
    }

    /// How many segments a start would read now.
    pub(super) fn read_by_a_start(&self) -> u64 {
        u64::from(self.log.segments.written_since(self.checkpoint.from))
    }

    /// What the queue writes for its own sake: copies of what stands in the oldest segment, and checkpoints.
    pub(super) fn write_upkeep(&mut self, blocks: &mut impl Blocks) {
        let before = self.log.appended();
        self.relocate(blocks);
        self.write_checkpoint(blocks);
        self.checkpoint.upkeep += self.log.appended() - before;
    }

    /// Goes on with a checkpoint, or begins one.
    fn write_checkpoint(&mut self, blocks: &mut impl Blocks) {
        // While the end of a call waits to be written, the index would say that it is pending, and nothing would say else.
        if self.backlog_head != NONE || self.is_rewriting() || !self.log.is_live() {
            return;
        }
        let Some(mut walk) = self.checkpoint.walk else {
            self.begin_checkpoint();
            return;
        };
        if walk.written > self.log.durable() {
            return;
        }
        if walk.segment < self.log.segments.oldest() {
            // The oldest segment is as good a place to begin.
            self.checkpoint.walk = None;
            return;
        }
        walk.at = match walk.at {
            At::Calls(next) => self.index_calls(blocks, next, walk.segment),
            At::Ends(next) => self.index_ends(blocks, next, walk.group),
            At::Retained(next) => self.index_retained(blocks, next, walk.segment),
            At::Over => {
                self.checkpoint.walk = None;
                (self.checkpoint.from, self.checkpoint.begun) = (walk.segment, walk.begins);
                self.log.from = self.log.segments.number(walk.segment).unwrap_or(0);
                self.counters.checkpoints += 1;
                return;
            }
        };
        walk.written = self.log.last();
        self.checkpoint.walk = Some(walk);
    }

    /// Begins one if a start would have to read much more than the index: if calls have written twice as much since the
    /// last one.
    fn begin_checkpoint(&mut self) {
        let segments = &self.log.segments;
        let from = self.checkpoint.from.max(segments.oldest());
        let spare = self.checkpoint.segments_max;
        if u64::from(segments.latest().saturating_sub(from)) <= spare {
            return;
        }
        let records = self.calls.len() + self.ended.len() + self.retained.len();
        let kept = self.store.bytes() + self.histories.bytes();
        let index = (records * ENTRY_BYTES + kept) as u64 - self.resident;
        let begins = self.without_upkeep();
        let enough = spare.saturating_mul(self.segment_bytes).saturating_add(2 * index);
        if u64::try_from(begins - self.checkpoint.begun).is_ok_and(|fresh| fresh > enough) {
            let (segment, group) = (segments.latest(), self.log.last());
            self.checkpoint.walk = Some(Walk { at: At::Calls(0), segment, group, begins, written: 0 });
        }
    }

    /// Bytes that this start has written, but for upkeep, which may not be written yet.
    fn without_upkeep(&self) -> i64 {
        self.log.volume().1 as i64 - self.checkpoint.upkeep as i64
    }

    /// Writes entries of the calls from this number on; how far it came.
    fn index_calls(&mut self, blocks: &mut impl Blocks, first: u32, segment: u32) -> At {
        let mut page = std::mem::take(&mut self.checkpoint.page);
        page.clear();
        let (mut next, mut states) = (first, 0);
        let end = self.calls.places().min(first + LOOKED_MAX);
        while next < end {
            let at = CallRef(next);
            if self.is_to_be_indexed(at, segment) {
                if self.calls[at].offset == CUT {
                    break;
                }
                let state = self.state_bytes(at);
                if !page.is_empty() && page.len() + ENTRY_BYTES + states + state > self.checkpoint.step_bytes
                {
                    break;
                }
                page.extend_from_slice(&self.entry(at).encode());
                states += state;
            }
            next += 1;
        }
        let cut = page.is_empty() && next < end;
        let written = match cut {
            // A record that is cut cannot be read back by its place: it is copied whole.
            true => self.relocate_call(blocks, CallRef(next)).is_some(),
            false => self.write_page(blocks, &page, states, first..next, segment),
        };
        self.checkpoint.page = page;
        match written {
            false => At::Calls(first),
            true if next < self.calls.places() => At::Calls(next),
            true => At::Ends(self.ended.positions().start),
        }
    }

    /// Writes a page with the entries of the calls in this range, and what has happened to them; `false` if there is no
    /// room now.
    fn write_page(
        &mut self,
        blocks: &mut impl Blocks,
        page: &[u8],
        states: usize,
        calls: std::ops::Range<u32>,
        segment: u32,
    ) -> bool {
        if page.is_empty() {
            return true;
        }
        if !self.log.has_room_for_two(HEADER_BYTES + page.len() + states) {
            return false;
        }
        let header = Header { stamp: self.turn, ..Header::new(Kind::Index) };
        self.log.append(blocks, &header.encode(page), page);
        for at in calls.map(CallRef) {
            if self.is_to_be_indexed(at, segment) && !self.is_fresh(at) {
                self.append_state(blocks, at).expect("there is room for all of them");
            }
        }
        true
    }

    /// Whether a call is there, and is not one whose record is cut and whole in the log from segment `segment` on.
    fn is_to_be_indexed(&self, at: CallRef, segment: u32) -> bool {
        let call = self.calls.get(at).filter(|call| call.place() != Place::Husk);
        call.is_some_and(|call| call.offset != CUT || self.log.segments.ordinal_of(call.segment) < segment)
    }

    /// Bytes of the record of what has happened to a call; 0 if it only waits.
    fn state_bytes(&self, at: CallRef) -> usize {
        if self.is_fresh(at) {
            return 0;
        }
        let history = self.history_of(at).map_or(0, |history| padded(history.bytes().len()));
        padded(HEADER_BYTES + history + self.calls.progress(at).outcome.bytes())
    }

    fn entry(&self, at: CallRef) -> Entry {
        let call = &self.calls[at];
        let begin_by = if call.is(flag::EXPIRES) { self.calls.progress(at).epoch.0 } else { 0 };
        let said = SAID.iter().filter(|(_, is)| call.is(*is));
        let blob = if call.names_blob() { BLOB } else { 0 };
        Entry {
            call: call.id,
            function: self.functions[call.function()].id,
            start_at: self.calls.start_at(at),
            begin_by,
            turn: call.turn(),
            flags: said.fold(blob, |flags, (said, _)| flags | said),
            segment: self.log.segments.number_of(call.segment),
            offset: call.offset,
            length: call.length() as u32,
        }
    }

    /// Writes the ends from this position on that came before group `group`.
    fn index_ends(&mut self, blocks: &mut impl Blocks, next: u32, group: u64) -> At {
        let positions = self.ended.positions();
        let mut bytes = 0;
        for position in from(next, &positions) {
            let end = self.ended.of(position).filter(|ended| ended.group < group).copied();
            let Some(end) = end else { continue };
            if self.is_too_much(bytes, &end) || self.copy_end(blocks, &end).is_none() {
                return At::Ends(position);
            }
            bytes += end.outcome.bytes() + HEADER_BYTES;
        }
        match looked(next, &positions) {
            Some(next) => At::Ends(next),
            None => At::Retained(self.retained.positions().start),
        }
    }

    /// Whether a step that has written so many bytes leaves this end to the next one.
    fn is_too_much(&self, bytes: usize, end: &Ended) -> bool {
        bytes > 0 && bytes + end.outcome.bytes() + HEADER_BYTES > self.checkpoint.step_bytes
    }

    /// Moves the records of ends whose time is not over, from this position on, behind segment `segment`.
    fn index_retained(&mut self, blocks: &mut impl Blocks, next: u32, segment: u32) -> At {
        let positions = self.retained.positions();
        let mut bytes = 0;
        for position in from(next, &positions) {
            let kept = |end: &&Ended| end.segment != NONE && end.segment < segment;
            let Some(end) = self.retained.of(position).filter(kept).copied() else { continue };
            if end.until <= self.wall.0 {
                self.retained.moved_to(position, NONE);
                self.log.segments.unpin_end(end.segment, 0);
                continue;
            }
            if self.is_too_much(bytes, &end) {
                return At::Retained(position);
            }
            let Some(placed) = self.copy_end(blocks, &end) else { return At::Retained(position) };
            bytes += end.outcome.bytes() + HEADER_BYTES;
            self.retained.moved_to(position, placed.place.0);
            self.log.segments.unpin_end(end.segment, placed.group);
            self.log.segments.pin_end(placed.place.0);
        }
        match looked(next, &positions) {
            Some(next) => At::Retained(next),
            None => At::Over,
        }
    }
}

/// The positions from this one on, or from the oldest if that is gone; as many as one step looks at.
fn from(next: u32, positions: &std::ops::Range<u32>) -> impl Iterator<Item = u32> + use<> {
    let (first, len) = (positions.start, positions.end.wrapping_sub(positions.start));
    let skipped = next.wrapping_sub(first);
    // Behind the last or, wrapped around, before the first.
    let skipped = if skipped > len { 0 } else { skipped };
    (skipped..len.min(skipped + LOOKED_MAX)).map(move |ahead| first.wrapping_add(ahead))
}

/// The position behind those that [`from`] gives; `None` at the end.
fn looked(next: u32, positions: &std::ops::Range<u32>) -> Option<u32> {
    let behind = from(next, positions).last()?.wrapping_add(1);
    (behind != positions.end).then_some(behind)
}
