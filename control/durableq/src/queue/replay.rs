//! The records of earlier incarnations happen again, in their order.

use super::DurableQ;
use super::history::parts;
use crate::log::page::Entry;
use crate::recovery::RecoveryError;
use crate::table::calls::{CUT, Call, NONE, Place, flag};
use crate::table::ended::Ended;
use crate::table::ids::hash;
use crate::table::store::Extent;
use crate::words::{CallRef, Damage, FunctionRef};
use call::frame::flag::{BLOB, SEALED_BODY};
use call::limits::FRAME_ALIGN;
use call::{CallId, Epoch, Frame, FunctionId, Instant, Kind, Status, WallTime};

/// Records have turns below this one. As many are left.
pub(crate) const TURNS_END: u64 = 1 << 47;

/// The segment that an entry names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// It is there, or not needed.
    There,
    /// It is older than all that are there: retired, if the log says later that its calls have ended or were copied.
    Older,
    /// There are older ones, so that it was not retired.
    Missing,
}

impl DurableQ {
    /// Applies one record, which begins in the segment of this ordinal, at this offset (in units of 16 bytes, or
    /// [`CUT`]).
    pub(crate) fn replay(&mut self, frame: Frame<'_>, place: (u32, u32)) -> Result<(), RecoveryError> {
        match (frame.kind(), self.held(frame.call())) {
            (Kind::Submit, None) => return self.replay_submit(frame, place),
            (Kind::Submit, Some(at)) => {
                // A copy, made to free the segment of the older record: of the same length, unless the log was not
                // written by us.
                let pending = self.calls[at].place() != Place::Dead;
                if pending {
                    self.leave(at);
                }
                self.log.segments.unpin(&mut self.calls, at, 0);
                self.log.segments.pin(&mut self.calls, at, place);
                self.free_frame(at);
                let extent = self.frame_at(frame, place)?;
                self.calls.set_frame(at, extent);
                self.count_frame(extent);
                if pending {
                    self.enter(at);
                }
            }
            (Kind::Retry | Kind::Redrive, Some(at)) => self.replay_again(frame, at),
            (Kind::Dead, Some(at)) => self.replay_dead(frame, at),
            (Kind::Done, Some(at)) => self.replay_done(frame, at, place.0),
            (Kind::Done, None) => self.remember(frame, place.0),
            (Kind::Incarnation, _) => {
                let number = u32::try_from(frame.stamp()).expect("a record is looked at before it happens");
                self.log.incarnation = self.log.incarnation.max(number);
            }
            // Its submit was in a segment that is gone, which means that its end is on disk too.
            _ => {}
        }
        Ok(())
    }

    /// As [`DurableQ::replay`], for a record of a damaged group, whose neighbours may have happened before it or be lost.
    /// `false` if that is not possible any more.
    pub(crate) fn replay_salvaged(
        &mut self,
        frame: Frame<'_>,
        place: (u32, u32),
    ) -> Result<bool, RecoveryError> {
        let held = self.held(frame.call());
        let of = |at: CallRef| (self.calls[at].place() == Place::Dead, self.calls.progress(at).deliveries);
        let possible = match (frame.kind(), held.map(of)) {
            // A copy of what is there anyway.
            (Kind::Submit, Some(_)) | (Kind::Index, _) => return Ok(true),
            (Kind::Submit, None) => self.end_of(frame.call()).is_none(),
            (Kind::Done | Kind::Incarnation, _) => true,
            (Kind::Dead, Some((dead, _))) => !dead,
            // Later states have more deliveries.
            (Kind::Retry, Some((dead, deliveries))) => !dead && deliveries < frame.attempt(),
            _ => false,
        };
        if possible {
            self.replay(frame, place)?;
        }
        Ok(possible)
    }

    fn replay_submit(&mut self, frame: Frame<'_>, place: (u32, u32)) -> Result<(), RecoveryError> {
        let extent = self.frame_at(frame, place)?;
        let turn = self.next_turn();
        let bits = super::park::flags_of(frame);
        let call = |function| {
            Call::new(frame.call(), function, 0)
                .starting(frame.start_at().0, turn, bits)
                .naming_blob(frame.flags() & BLOB != 0)
        };
        let begin_by = super::park::epoch_of(frame);
        self.replay_call(frame.function(), call, begin_by, extent, place)
    }

    /// An entry of a checkpoint, which stands in the segment `here`. Returns whether the segment of its frame is there, or
    /// whether one older than all that are there, of which the log may say later that it is not needed.
    pub(crate) fn replay_entry(&mut self, entry: &Entry, here: u32) -> Result<Found, RecoveryError> {
        let segment = match self.reader.can_read(entry.offset, entry.length) {
            true => self.log.segments.ordinal(entry.segment),
            false => Err(true),
        };
        let found = match segment {
            Ok(_) => Found::There,
            Err(false) => Found::Older,
            Err(true) => Found::Missing,
        };
        let place = segment.map_or((here, CUT), |segment| (segment, entry.offset));
        if let Some(at) = self.held(entry.call) {
            // What the log says of it is at least as new. But a copy of its submit record does not tell how old it is.
            if self.calls[at].place() != Place::Dead {
                self.calls[at].set_turn(entry.turn);
            }
            if !self.is_lost(at) {
                return Ok(Found::There);
            }
            self.log.segments.unpin(&mut self.calls, at, 0);
            self.log.segments.pin(&mut self.calls, at, place);
            return Ok(found);
        }
        let bits = super::park::bits_of(entry.flags);
        let call = |function| {
            Call::new(entry.call, function, 0)
                .starting(entry.start_at, entry.turn, bits)
                .naming_blob(entry.flags & BLOB != 0)
        };
        let extent = Extent::parked(entry.length as usize);
        self.replay_call(entry.function, call, Epoch(entry.begin_by), extent, place)?;
        Ok(found)
    }

    /// Turns that are given from now on are later than this one.
    pub(crate) fn replay_turn(&mut self, turn: u64) {
        self.turn = self.turn.max(turn);
    }

    fn replay_call(
        &mut self,
        function: FunctionId,
        call: impl FnOnce(FunctionRef) -> Call,
        begin_by: Epoch,
        frame: Extent,
        place: (u32, u32),
    ) -> Result<(), RecoveryError> {
        let too_small = |limit, value| Err(RecoveryError::TooSmall { limit, value });
        if self.calls.is_full() {
            return too_small("calls_max", self.calls.len());
        }
        let Some(function) = self.functions.intern(function) else {
            return too_small("functions_max", self.functions.len());
        };
        let call = call(function);
        // Forgotten by then, or it would not have been accepted again.
        self.forget_end(call.id);
        let at = self.calls.insert(call);
        self.calls.set_frame(at, frame);
        if begin_by != Epoch(0) {
            self.calls.progress_mut(at).epoch = begin_by;
        }
        self.index(at);
        self.log.segments.pin(&mut self.calls, at, place);
        self.count_frame(frame);
        self.functions[function].scheduled += 1;
        self.enter(at);
        Ok(())
    }

    /// Leaves a frame on disk. One whose record is cut would have to be put together again: it stays in memory.
    fn frame_at(&mut self, frame: Frame<'_>, place: (u32, u32)) -> Result<Extent, RecoveryError> {
        if place.1 != CUT {
            return Ok(Extent::parked(frame.bytes().len()));
        }
        let (limit, value) = ("pending_bytes_max", self.store.bytes());
        self.keep_in_replay(frame.bytes()).ok_or(RecoveryError::TooSmall { limit, value })
    }

    fn replay_again(&mut self, frame: Frame<'_>, at: CallRef) {
        if self.calls[at].place() == Place::Dead {
            self.exhume(at);
            self.calls[at].set_place(Place::Appended);
            self.functions[self.calls[at].function()].scheduled += 1;
            self.enter(at);
        }
        self.set_outcome(at, Extent::NONE);
        self.set_history(at, parts(frame).ok().and_then(|(history, _)| history));
        self.calls.set_when(at, frame.deadline().0);
        let retry = frame.kind() == Kind::Retry;
        let cancelled = retry && frame.status() == Ok(Status::Cancelled);
        let counted = if retry { frame.stamp() } else { 0 };
        let clamped = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        let call = self.calls.progress_mut(at);
        (call.failures, call.pressures) = (clamped(counted & 0xffff_ffff), clamped(counted >> 32));
        call.deliveries = frame.attempt();
        let failed = call.failures > 0 || call.pressures > 0;
        call.status = frame.status().ok().filter(|_| failed && !cancelled);
        if !retry {
            self.calls[at].raise(flag::LASTING);
        }
        if cancelled {
            self.calls[at].raise(flag::CANCEL);
        }
    }

    fn replay_dead(&mut self, frame: Frame<'_>, at: CallRef) {
        if self.calls[at].place() != Place::Dead {
            self.functions[self.calls[at].function()].scheduled -= 1;
            self.leave(at);
            self.bury_here(at);
        }
        let (history, behind) = parts(frame).unwrap_or((None, &[]));
        self.set_history(at, history);
        // Earlier builds did not write it.
        if (1..TURNS_END).contains(&frame.deadline().0) {
            self.replay_turn(frame.deadline().0);
            self.calls[at].set_turn(frame.deadline().0);
        }
        let outcome = self.sealed(behind);
        self.set_outcome(at, outcome);
        let call = self.calls.progress_mut(at);
        (call.deliveries, call.status) = (frame.attempt(), frame.status().ok());
    }

    fn replay_done(&mut self, frame: Frame<'_>, at: CallRef, segment: u32) {
        match self.calls[at].place() {
            Place::Dead => self.exhume(at),
            _ => {
                self.functions[self.calls[at].function()].scheduled -= 1;
                self.leave(at);
            }
        }
        self.log.segments.unpin(&mut self.calls, at, 0);
        self.set_outcome(at, Extent::NONE);
        self.free_frame(at);
        self.forget_history(at);
        let id = self.calls[at].id;
        self.ids.remove(hash(id.0), at.0);
        self.calls.remove(at);
        self.remember(frame, segment);
    }

    /// Remembers an end, unless the function has no number and there is none left.
    fn remember(&mut self, frame: Frame<'_>, segment: u32) {
        let id = frame.call();
        self.forget_end(id);
        let Some(function) = self.functions.intern(frame.function()) else { return };
        let outcome = self.sealed(if frame.flags() & SEALED_BODY == 0 { &[] } else { frame.body() });
        let (status, deliveries) = (frame.status().unwrap_or(Status::BadReply), frame.attempt());
        let (group, until) = (0, frame.deadline().0);
        let ended = Ended { id, function, status, deliveries, outcome, group, until, segment: NONE };
        self.remember_end(ended, segment);
    }

    /// Keeps the outcome frame at the end of a record's body, if there is one and there is room.
    fn sealed(&mut self, body: &[u8]) -> Extent {
        let outcome = Frame::parse(body).ok().filter(|(outcome, _)| outcome.bytes().len() == body.len());
        let Some((outcome, _)) = outcome else { return Extent::NONE };
        let bytes = outcome.bytes();
        while self.ended.is_over(bytes.len()) && self.ended.drop_oldest_outcome(&mut self.store, u64::MAX) {}
        self.keep_in_replay(bytes).unwrap_or(Extent::NONE)
    }

    fn keep_in_replay(&mut self, frame: &[u8]) -> Option<Extent> {
        loop {
            if let Some(extent) = self.store.put(frame) {
                return Some(extent);
            }
            if !self.ended.drop_oldest_outcome(&mut self.store, u64::MAX)
                && !self.retained.drop_oldest_outcome(&mut self.store, u64::MAX)
            {
                return None;
            }
        }
    }

    /// Whether nothing in the log says where the frame of a call is.
    fn is_lost(&self, at: CallRef) -> bool {
        self.calls.get(at).is_some_and(|call| call.is_parked() && call.offset == CUT)
    }

    /// A call whose frame is nowhere in the log.
    pub(crate) fn lost(&self) -> Option<CallId> {
        let lost = (0..self.calls.places()).map(CallRef).find(|at| self.is_lost(*at))?;
        Some(self.calls[lost].id)
    }

    /// Ends a call if its frame is nowhere in the log, and tells it; it was in this segment, at this offset.
    pub(crate) fn end_if_lost(&mut self, entry: &Entry) {
        let Some(at) = self.held(entry.call).filter(|at| self.is_lost(*at)) else { return };
        let (bytes, function) = (entry.length as usize, entry.function);
        let (segment, offset) = (entry.segment, u64::from(entry.offset) * FRAME_ALIGN as u64);
        self.damages.push_back(Damage { call: entry.call, function, segment, offset, bytes, errno: None });
        self.counters.damaged += 1;
        match self.calls[at].place() {
            Place::Dead => self.exhume(at),
            _ => self.functions[self.calls[at].function()].scheduled -= 1,
        }
        self.conclude_later(at, Status::Damaged);
    }

    /// Dead letters are listed by when they died. A checkpoint has them in another order.
    fn sort_dead(&mut self) {
        let turns = self.dead.iter(&self.calls).map(|at| self.calls[at].turn());
        if turns.is_sorted() {
            return;
        }
        let mut dead: Vec<CallRef> = self.dead.iter(&self.calls).collect();
        dead.sort_unstable_by_key(|at| self.calls[*at].turn());
        for at in dead {
            self.dead.remove(&mut self.calls, at);
            self.dead.push_back(&mut self.calls, at);
        }
    }

    /// All records have happened: what is pending may run, and the log goes on behind group `last`, with this key.
    pub(crate) fn resume(&mut self, last: u64, key: u64, now: Instant, wall: WallTime) {
        (self.now, self.wall) = (now, wall);
        self.starts.begin(wall.0);
        self.counters.recovered = self.calls.len() as u64;
        for number in 0..self.calls.places() {
            let at = CallRef(number);
            if self.calls.get(at).is_none_or(|call| call.place() != Place::Appended) {
                continue;
            }
            // It could not start before it came in, for which the birth of its id stands.
            let born = self.calls[at].id.born_unix_ms().saturating_mul(1_000_000).min(wall.0);
            let start_at = self.calls.start_at(at).max(born);
            self.calls.set_start(at, start_at, self.calls[at].when().max(start_at));
            if self.calls[at].is(flag::CANCEL) {
                // It was cancelled while it ran.
                self.functions[self.calls[at].function()].scheduled -= 1;
                self.conclude_later(at, Status::Cancelled);
            } else {
                self.schedule(at);
            }
        }
        self.sort_dead();
        self.begin_checkpoints();
        self.store.use_no_reserve();
        self.histories.use_no_reserve();
        let incarnation = self.log.incarnation + 1;
        self.log.begin(last, incarnation, key);
    }
}
