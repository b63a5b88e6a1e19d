//! What happened goes to the log.
//!
//! A record says what a call is *now*. So a change that finds the log full need not be stored: the call is noted in the
//! backlog, and when there is room, its state of that time is written. What is lost with a crash before that was told
//! to nobody.

use super::{DurableQ, What, history};
use crate::log::writer::Placed;
use crate::table::calls::{NONE, Place, flag};
use crate::table::ended::Ended;
use crate::table::ids::hash;
use crate::table::store::Extent;
use crate::words::{Blocks, CallRef, LogOp};
use call::frame::flag::SEALED_BODY;
use call::frame::padded;
use call::limits::HEADER_BYTES;
use call::{Header, Kind, Status};

/// A new incarnation begins after so many leases: the epoch counts them in 32 bits.
const LEASES_MAX: u32 = 0xf000_0000;
/// Segments that the log may have beside those for twice the pending bytes, before live calls are copied.
const SEGMENTS_SPARE: u64 = 4;

impl DurableQ {
    /// What the disk must do next. The node executes it and asks again until `None`, at the end of each round: this is
    /// where the open group is closed if a write may be started.
    pub fn next_op(&mut self, blocks: &mut impl Blocks) -> Option<LogOp> {
        self.write_backlog(blocks);
        self.end_rewriting();
        self.write_upkeep(blocks);
        self.write_incarnation(blocks);
        self.read_ahead();
        let read = self.reader.next_op(&self.calls, &mut self.log.segments);
        read.or_else(|| self.log.next_op(blocks, self.now))
    }

    /// A [`LogOp::Create`] or [`LogOp::Recycle`] ended; the errno if it failed. A segment that could not be made is
    /// tried again after a second, with another number. One that could not be recycled still has its old number; it
    /// will be removed.
    pub fn created(&mut self, segment: u64, result: Result<(), i32>) {
        self.log.segments.created(segment, result, self.now);
    }

    /// A [`LogOp::Remove`] ended; the errno if it failed, then it is tried again after a second.
    pub fn removed(&mut self, segment: u64, result: Result<(), i32>) {
        self.log.segments.removed(segment, result, self.now);
    }

    /// A [`LogOp::Write`] ended; the errno if it failed, which stops the log ([`DurableQ::failed`]).
    pub fn written(&mut self, group: u64, result: Result<(), i32>) {
        self.log.written(group, result);
        self.park_written();
    }

    /// The errno of a write that failed. The log takes nothing more: after the events have been sent (submits that were
    /// not on disk get [`call::VerdictCode::DiskFailed`]) the process must end with this reason. A restart recovers all
    /// that was acknowledged; it may also find calls that were refused so, if the disk has them after all.
    pub fn failed(&self) -> Option<i32> {
        self.log.failed()
    }

    /// The errno of the last try to make a segment, until one succeeds. Meanwhile submits are refused as
    /// [`call::VerdictCode::DiskFailed`], and calls go on.
    pub fn no_space(&self) -> Option<i32> {
        self.log.segments.create_failed()
    }

    /// Whether everything is on disk and nothing waits to be written: a drained node may stop now.
    pub fn is_settled(&self) -> bool {
        self.log.last() == self.log.durable() && self.waits.is_empty() && self.backlog_head == NONE
    }

    /// Writes the state of a call, now or when there is room.
    pub(super) fn record(&mut self, blocks: &mut impl Blocks, at: CallRef) {
        if self.calls[at].is(flag::BACKLOG) {
            return;
        }
        if self.backlog_head != NONE || !self.try_record(blocks, at) {
            self.note_in_backlog(at);
        }
    }

    fn write_backlog(&mut self, blocks: &mut impl Blocks) {
        while self.backlog_head != NONE {
            let at = CallRef(self.backlog_head);
            let next = self.calls.progress(at).backlog;
            self.calls[at].lower(flag::BACKLOG);
            if !self.try_record(blocks, at) {
                self.calls[at].raise(flag::BACKLOG);
                return;
            }
            self.backlog_head = next;
        }
    }

    fn try_record(&mut self, blocks: &mut impl Blocks, at: CallRef) -> bool {
        let ending = self.calls[at].place() == Place::Ending;
        let ends = if ending && self.retained_until(at) > 0 { &self.retained } else { &self.ended };
        let untold = ending && ends.oldest_if_full().is_some_and(|group| group > self.told());
        if untold || self.waits.len() >= self.waits_max {
            return false;
        }
        let Some(placed) = self.append_state(blocks, at) else { return false };
        let progress = self.calls.progress_mut(at);
        progress.group = placed.group;
        let (origin, status) = (progress.origin, progress.status.unwrap_or(Status::Ok));
        let call = &self.calls[at];
        let (id, function) = (call.id, call.function());
        if matches!(call.place(), Place::Ending | Place::Dead)
            && (call.is(flag::WANT) || call.is(flag::WATCHED))
        {
            self.wait(placed.group, id, origin, What::Ended(function, status));
        }
        if ending {
            self.finish(at, placed);
        } else {
            self.park_later(at);
        }
        true
    }

    /// The record of a call's end is in the log: its place is free, its id is remembered.
    fn finish(&mut self, at: CallRef, placed: Placed) {
        let (until, group) = (self.retained_until(at), placed.group);
        self.log.segments.unpin(&mut self.calls, at, group);
        let (call, progress) = (&self.calls[at], self.calls.progress(at));
        let (id, function) = (call.id, call.function());
        let (deliveries, outcome) = (progress.deliveries, progress.outcome);
        let status = progress.status.unwrap_or(Status::Ok);
        let removed = self.ids.remove(hash(id.0), at.0);
        assert!(removed, "a pending call is found by its id");
        if self.calls[at].is(flag::HELD) {
            self.calls[at].set_place(Place::Husk);
            self.calls.progress_mut(at).outcome = Extent::NONE;
        } else {
            self.calls.remove(at);
        }
        let segment = NONE;
        let ended = Ended { id, function, status, deliveries, outcome, group, until, segment };
        self.remember_end(ended, placed.place.0);
    }

    /// Appends the record of a call's state; `None` if there is no room.
    pub(super) fn append_state(&mut self, blocks: &mut impl Blocks, at: CallRef) -> Option<Placed> {
        let (call, progress) = (&self.calls[at], self.calls.progress(at));
        let kind = match call.place() {
            Place::Ending => Kind::Done,
            Place::Dead => Kind::Dead,
            _ if progress.failures == 0 && progress.deliveries == 0 => Kind::Redrive,
            _ => Kind::Retry,
        };
        let (retry, outcome) = (kind == Kind::Retry, matches!(kind, Kind::Done | Kind::Dead));
        let outcome =
            if outcome && progress.outcome.is_some() { self.store.get(progress.outcome) } else { &[] };
        let history = self.histories.get(progress.history);
        let body = match history {
            Some(history) => {
                history::join(&mut self.body, history, outcome);
                &self.body[..]
            }
            None => outcome,
        };
        if !self.log.has_room(HEADER_BYTES + body.len()) {
            return None;
        }
        let header = Header {
            flags: if body.is_empty() || history.is_some() { 0 } else { SEALED_BODY },
            call: call.id,
            function: self.functions[call.function()].id,
            stamp: if retry {
                u64::from(progress.failures) | u64::from(progress.pressures) << 32
            } else {
                // Of one that was never leased it is another thing's place.
                if call.is(flag::EXPIRES) { 0 } else { progress.epoch.0 }
            },
            deadline: match kind {
                Kind::Retry if call.place() == Place::Scheduled => call.when(),
                Kind::Done => self.retained_until(at),
                Kind::Dead => call.turn(),
                _ => 0,
            },
            level: self.calls.status_on_disk(at).map_or(0, |status| status as u8),
            attempt: progress.deliveries,
            ..Header::new(kind)
        };
        Some(self.log.append(blocks, &header.encode(body), body))
    }

    /// Copies live calls out of the oldest segment, if the log is longer than what is pending justifies: at most a
    /// quarter of a group at a time.
    pub(super) fn relocate(&mut self, blocks: &mut impl Blocks) {
        let allowed = if self.has_to_rewrite() {
            0
        } else {
            SEGMENTS_SPARE + 2 * self.live_bytes() / self.segment_bytes
        };
        let mut budget = crate::log::GROUP_ALIGN.max(self.record_max / 4);
        while self.log.segments.length() as u64 > allowed && budget > 0 {
            let Some(at) = self.log.segments.oldest_pin() else { break };
            let Some(bytes) = self.relocate_call(blocks, at) else { return };
            budget = budget.saturating_sub(bytes);
        }
        self.relocate_ends(blocks, allowed);
    }

    /// All that is on the log now is to be copied to its tail, since a break of it would be damage to the next start.
    pub(crate) fn rewrite(&mut self) {
        self.rewritten_from = self.log.segments.next_ordinal();
    }

    /// Whether segments are left that were on the log when it was salvaged. Until they are gone, also from the disk, the
    /// next start must salvage it once more.
    pub fn is_rewriting(&self) -> bool {
        self.rewritten_from > 0
    }

    /// Whether calls may be left in such segments.
    pub(super) fn has_to_rewrite(&self) -> bool {
        self.log.segments.oldest() < self.rewritten_from
    }

    /// Notes that such segments are gone.
    fn end_rewriting(&mut self) {
        if self.is_rewriting() && !self.has_to_rewrite() && !self.log.segments.is_removing() {
            self.rewritten_from = 0;
        }
    }

    /// Copies a call, and what happened to it, to the tail of the log. `None` if that cannot be done now.
    pub(super) fn relocate_call(&mut self, blocks: &mut impl Blocks, at: CallRef) -> Option<usize> {
        let call = &self.calls[at];
        if !call.is(flag::HERE) && call.place() != Place::Ending {
            self.fetch_oldest(blocks);
            return None;
        }
        let (frame, outcome) = (call.resident(), self.calls.progress(at).outcome.bytes());
        let history = self.history_of(at).map_or(0, |history| padded(history.bytes().len()));
        // One that is ending frees its segment as soon as the backlog is written.
        let settled = !matches!(call.place(), Place::Appended | Place::Ending) && !call.is(flag::BACKLOG);
        let bytes = frame + outcome + history + HEADER_BYTES;
        if !settled || !self.log.has_room_for_two(bytes) {
            return None;
        }
        let submit = self.store.get(self.calls.frame(at));
        let header: &[u8; HEADER_BYTES] = submit[..HEADER_BYTES].try_into().expect("a frame has a header");
        let placed = self.log.append(blocks, header, &submit[HEADER_BYTES..]);
        let mut last = placed.group;
        if !self.is_fresh(at) {
            let state = self.append_state(blocks, at).expect("there is room for two records");
            last = state.group;
        }
        self.log.segments.unpin(&mut self.calls, at, last);
        self.log.segments.pin(&mut self.calls, at, placed.place);
        self.calls.progress_mut(at).group = last;
        self.park_later(at);
        self.counters.relocated += 1;
        Some(bytes)
    }

    /// Whether its submit record says all of a call: nothing has happened to it.
    pub(super) fn is_fresh(&self, at: CallRef) -> bool {
        let call = &self.calls[at];
        self.calls.progress(at).deliveries == 0
            && call.place() != Place::Dead
            && !call.is(flag::LASTING)
            && self.history_of(at).is_none()
    }

    /// Begins this incarnation on disk; and the next one when the leases of this one are nearly used up.
    fn write_incarnation(&mut self, blocks: &mut impl Blocks) {
        match self.next_incarnation {
            Some(group) if group <= self.log.durable() => {
                self.log.incarnation += 1;
                (self.leases, self.next_incarnation) = (0, None);
            }
            None if self.leases >= LEASES_MAX && self.log.has_room(HEADER_BYTES) => {
                self.next_incarnation = Some(self.append_incarnation(blocks, self.log.incarnation + 1));
            }
            // A group must be on disk before a call is leased, and there may be nothing else to write.
            None if self.log.is_unborn() => {
                self.append_incarnation(blocks, self.log.incarnation);
            }
            _ => {}
        }
    }

    fn append_incarnation(&mut self, blocks: &mut impl Blocks, number: u32) -> u64 {
        let header = Header { stamp: u64::from(number), ..Header::new(Kind::Incarnation) };
        self.log.append(blocks, &header.encode(&[]), &[]).group
    }

    /// Puts an outcome that was read from the log with its call.
    pub(super) fn set_outcome(&mut self, at: CallRef, outcome: Extent) {
        let before = self.calls.progress(at).outcome;
        if before != outcome {
            self.calls.progress_mut(at).outcome = outcome;
            self.store.free(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recovery;
    use call::frame::FrameBuf;
    use call::limits::Limits;
    use call::{Instant, WallTime};

    struct Memory(Vec<FrameBuf>);

    impl Blocks for Memory {
        fn block(&mut self, number: u32) -> &mut [u8] {
            &mut self.0[number as usize]
        }
    }

    fn disk(queue: &mut DurableQ, memory: &mut Memory) {
        while let Some(op) = queue.next_op(memory) {
            match op {
                LogOp::Create { segment, .. } | LogOp::Recycle { segment, .. } => {
                    queue.created(segment, Ok(()));
                }
                LogOp::Write { group, .. } => queue.written(group, Ok(())),
                LogOp::Read { .. } => unreachable!("no call waits"),
                LogOp::Remove { segment } => queue.removed(segment, Ok(())),
            }
        }
    }

    fn idle() -> (DurableQ, Memory) {
        let limits = Limits::small();
        let block = || {
            let mut block = FrameBuf::new();
            block.resize(limits.group_bytes, 0);
            block
        };
        let mut memory = Memory((0..crate::block_count(&limits)).map(|_| block()).collect());
        let mut queue = Recovery::new(&limits).finish(Instant(1), WallTime(1), 7).expect("an empty log");
        disk(&mut queue, &mut memory);
        (queue, memory)
    }

    #[test]
    fn leases_that_are_used_up_begin_an_incarnation() {
        let (mut queue, mut memory) = idle();
        assert_eq!(queue.incarnation(), 1);
        queue.leases = LEASES_MAX;
        queue.write_incarnation(&mut memory);
        assert_eq!((queue.incarnation(), queue.leases), (1, LEASES_MAX), "its record is not on disk");
        disk(&mut queue, &mut memory);
        assert_eq!((queue.incarnation(), queue.leases), (2, 0));
        assert!(queue.is_settled());
    }

    #[test]
    #[should_panic(expected = "calls accepted and not ended")]
    fn canary_a_call_that_is_not_counted() {
        let (mut queue, _) = idle();
        queue.pending += 1;
        queue.check();
    }

    #[test]
    #[should_panic(expected = "bytes in the store")]
    fn canary_a_frame_that_is_never_freed() {
        let (mut queue, _) = idle();
        queue.store.put(&[0; 80]).expect("room");
        queue.check();
    }

    #[test]
    #[should_panic(expected = "groups to come")]
    fn canary_a_verdict_that_waits_for_no_group() {
        let (mut queue, _) = idle();
        queue.wait(queue.log.last() + 1, call::CallId(1), crate::Origin(1), What::Duplicate);
        queue.check();
    }
}
