//! A call comes in, and its client hears when it is on disk.

use super::{DurableQ, What};
use crate::table::calls::{Call, Place, flag};
use crate::words::{Blocks, CallRef, Event, FunctionRef, Origin};
use call::frame::flag::{BLOB, EXPIRES, WANT_OUTCOME};
use call::limits::{HEADER_BYTES, START_AHEAD_MAX};
use call::{CallId, Frame, Kind, Status, VerdictCode, WallTime};

impl DurableQ {
    /// Takes a call. `frame` is of [`call::Kind::Submit`], its body validated, its function deployed.
    ///
    /// `Ok`: an [`Event::Verdict`] follows (accepted, duplicate, or disk failed) when its group is on disk.
    ///
    /// # Errors
    /// The verdict, to be sent at once: [`VerdictCode::Full`] (no room in the table, the memory or the log),
    /// [`VerdictCode::Backlog`], [`VerdictCode::BadTime`], or [`VerdictCode::DiskFailed`] (no segment could be made, or the log has stopped).
    pub fn submit(
        &mut self,
        blocks: &mut impl Blocks,
        frame: Frame<'_>,
        function: FunctionRef,
        origin: Origin,
    ) -> Result<(), VerdictCode> {
        assert_eq!(frame.kind(), Kind::Submit, "the node looks at the kind");
        debug_assert_eq!(frame.function(), self.functions[function].id);
        if self.log.failed().is_some() {
            return Err(VerdictCode::DiskFailed);
        }
        if self.waits.len() + 1 >= self.waits_max {
            return Err(VerdictCode::Full);
        }
        let want = frame.flags() & WANT_OUTCOME != 0;
        if self.duplicate(frame.call(), want, origin) {
            return Ok(());
        }
        self.check_time(frame)?;
        self.check_backlog_of(function, frame.bytes().len())?;
        if self.log.segments.create_failed().is_some() {
            return Err(VerdictCode::DiskFailed);
        }
        let bytes = frame.bytes();
        if self.calls.is_full()
            || self.log.segments.is_full()
            || bytes.len() > self.record_max
            || !self.log.has_room(bytes.len())
        {
            return Err(VerdictCode::Full);
        }
        let extent = self.keep(bytes).ok_or(VerdictCode::Full)?;
        let header: &[u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("a frame has a header");
        let placed = self.log.append(blocks, header, frame.body());
        let start_at = frame.start_at().0.max(self.wall.0);
        let turn = self.next_turn();
        let flags = super::park::flags_of(frame);
        let call = Call::new(frame.call(), function, 0).starting(start_at, turn, flags);
        let call = call.naming_blob(frame.flags() & BLOB != 0);
        let at = self.calls.insert(call);
        let progress = self.calls.progress_mut(at);
        (progress.group, progress.origin) = (placed.group, origin);
        progress.epoch = super::park::epoch_of(frame);
        self.calls.set_frame(at, extent);
        self.index(at);
        self.log.segments.pin(&mut self.calls, at, placed.place);
        self.count_frame(extent);
        self.functions[function].scheduled += 1;
        self.enter(at);
        self.counters.accepted += 1;
        self.wait(placed.group, frame.call(), origin, What::Accepted(at));
        Ok(())
    }

    /// Whether a call of this id is held, or its end remembered. If so, its verdict and, if wanted, its outcome are under
    /// way, as if it had been submitted again. If not, nothing is.
    ///
    /// # Errors
    /// [`VerdictCode::DiskFailed`] or [`VerdictCode::Full`]: it cannot be told now.
    pub fn recall(&mut self, id: CallId, want: bool, origin: Origin) -> Result<bool, VerdictCode> {
        if self.log.failed().is_some() {
            return Err(VerdictCode::DiskFailed);
        }
        if self.waits.len() + 1 >= self.waits_max {
            return Err(VerdictCode::Full);
        }
        Ok(self.duplicate(id, want, origin))
    }

    fn check_time(&self, frame: Frame<'_>) -> Result<(), VerdictCode> {
        let (start, deadline) = (frame.start_at(), frame.deadline());
        let too_far = start > self.wall + START_AHEAD_MAX;
        let never = frame.flags() & EXPIRES != 0 && (deadline == WallTime(0) || deadline < self.wall);
        if too_far || never || (deadline != WallTime(0) && deadline < start) {
            Err(VerdictCode::BadTime)
        } else {
            Ok(())
        }
    }

    /// Whether the id is held, or was until recently. Then its verdict is under way, and its outcome goes to the last who
    /// wanted it.
    fn duplicate(&mut self, id: CallId, want: bool, origin: Origin) -> bool {
        let (group, end) = if let Some(at) = self.held(id) {
            if want {
                self.calls.progress_mut(at).origin = origin;
                self.calls[at].raise(flag::WANT);
            }
            let (call, progress) = (&self.calls[at], self.calls.progress(at));
            let dead = call.place() == Place::Dead && !call.is(flag::BACKLOG);
            let end = dead.then(|| (call.function(), progress.status.unwrap_or(Status::WorkerLost)));
            (progress.group, end)
        } else if let Some(ended) = self.end_of(id) {
            if self.is_past(ended) {
                self.forget_end(id);
                return false;
            }
            (ended.group, Some((ended.function, ended.status)))
        } else {
            return false;
        };
        self.counters.duplicates += 1;
        self.wait(group, id, origin, What::Duplicate);
        if let Some((function, status)) = end.filter(|_| want) {
            self.wait(group, id, origin, What::Ended(function, status));
        }
        true
    }

    /// What became certain since the last time; the node asks until `None` after [`DurableQ::written`] and
    /// [`DurableQ::submit`].
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let certain = self.waits.front()?.group <= self.log.durable();
            if !certain && self.log.failed().is_none() {
                return None;
            }
            let wait = self.waits.pop_front().expect("looked at above");
            let (origin, call) = (wait.origin, wait.id);
            return Some(match wait.what {
                What::Accepted(at) if certain => {
                    self.accept(at);
                    Event::Verdict { origin, call, code: VerdictCode::Accepted }
                }
                What::Duplicate if certain => Event::Verdict { origin, call, code: VerdictCode::Duplicate },
                What::Ended(function, status) if certain => {
                    Event::Ended { origin, call, function: self.functions[function].id, status }
                }
                What::Accepted(_) | What::Duplicate => {
                    Event::Verdict { origin, call, code: VerdictCode::DiskFailed }
                }
                // It is not certain that it has ended: whoever wants to know asks the next incarnation.
                What::Ended(..) => continue,
            });
        }
    }

    /// A call is on disk: it may run as soon as its time has come.
    fn accept(&mut self, at: CallRef) {
        assert_eq!(self.calls[at].place(), Place::Appended, "nothing happens to a call before it is on disk");
        if self.calls[at].is(flag::CANCEL) {
            self.functions[self.calls[at].function()].scheduled -= 1;
            self.conclude_later(at, Status::Cancelled);
        } else if self.calls[at].when() > self.wall.0 {
            self.schedule(at);
        } else {
            self.functions[self.calls[at].function()].scheduled -= 1;
            self.make_due(at);
        }
        self.park_if_it_waits(at);
    }

    /// Puts a call, counted as scheduled already, into the timers.
    pub(super) fn schedule(&mut self, at: CallRef) {
        self.calls[at].set_place(Place::Scheduled);
        self.starts.insert(&mut self.calls, at);
    }

    /// Puts a call behind the due ones of its function.
    pub(super) fn make_due(&mut self, at: CallRef) {
        let turn = self.next_turn();
        let call = &mut self.calls[at];
        call.set_place(Place::Due);
        call.set_turn(turn);
        let (function, parked) = (call.function(), call.is_parked());
        self.let_expire(at);
        self.functions.push_due(&mut self.calls, at);
        if parked && self.functions[function].due.len <= super::park::WINDOW {
            self.functions.want(function);
        }
    }
}
