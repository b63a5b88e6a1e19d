//! Questions of operators. None of them is on the path of a call; some walk over all calls.

use super::DurableQ;
use crate::table::calls::{Place, flag};
use crate::table::ended::Ended;
use crate::table::store::Extent;
use crate::words::{CallRef, CallView, Counters, Depth, FunctionRef, State};
use call::{CallId, Frame, WallTime};

impl DurableQ {
    /// What is known of a call. `None`: never heard of, or forgotten.
    pub fn find(&self, call: CallId) -> Option<CallView<'_>> {
        match self.held(call) {
            Some(at) => self.view(at),
            None => self.end_of(call).map(|ended| self.view_ended(ended)),
        }
    }

    /// The number of a pending call or dead letter.
    pub fn number(&self, call: CallId) -> Option<CallRef> {
        self.held(call)
    }

    /// As [`DurableQ::find`], for a pending call or dead letter of this number.
    pub fn view(&self, call: CallRef) -> Option<CallView<'_>> {
        let of = self.calls.get(call)?;
        let (submit, progress) = (self.frame(self.calls.frame(call)), self.calls.progress(call));
        Some(CallView {
            id: of.id,
            function: self.functions[of.function()].id,
            state: self.state(call),
            status: progress.status,
            start_at: WallTime(if of.place() == Place::Scheduled {
                of.when()
            } else {
                self.calls.start_at(call)
            }),
            deadline: submit.map_or(WallTime(0), |frame| frame.deadline()),
            criticality: submit.map_or(0, |frame| frame.criticality()),
            deliveries: progress.deliveries,
            bytes: of.length(),
            names_blob: of.names_blob(),
            submit,
            outcome: self.frame(progress.outcome),
            history: self.history_of(call),
        })
    }

    pub(super) fn view_ended(&self, ended: &Ended) -> CallView<'_> {
        CallView {
            id: ended.id,
            function: self.functions[ended.function].id,
            state: State::Done,
            status: Some(ended.status),
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            deliveries: ended.deliveries,
            bytes: 0,
            names_blob: false,
            submit: None,
            outcome: self.frame(ended.outcome),
            history: None,
        }
    }

    /// The kept outcome of a call that has ended, or of a dead letter.
    pub fn outcome(&self, call: CallId) -> Option<Frame<'_>> {
        match self.held(call) {
            Some(at) => self.frame(self.calls.progress(at).outcome),
            None => self.end_of(call).and_then(|ended| self.frame(ended.outcome)),
        }
    }

    fn state(&self, at: CallRef) -> State {
        match self.calls[at].place() {
            Place::Appended => State::Appended,
            Place::Scheduled => State::Scheduled,
            Place::Due => State::Due,
            Place::Offered => State::Offered,
            Place::Leased => {
                let progress = self.calls.progress(at);
                State::Leased(progress.holder, progress.epoch)
            }
            Place::Dead => State::Dead,
            Place::Ending | Place::Husk | Place::Free => State::Done,
        }
    }

    fn frame(&self, extent: Extent) -> Option<Frame<'_>> {
        extent.is_some().then(|| Frame::parsed_before(self.store.get(extent)))
    }

    /// Asks for an [`crate::Event::Ended`] of a pending call, also when the client did not want its outcome. `false` if
    /// the call is not pending. The event goes to the origin of the last submit, whom the node may not know any more.
    pub fn watch(&mut self, call: CallId) -> bool {
        let Some(at) = self.held(call).filter(|at| self.calls[*at].place() != Place::Dead) else {
            return false;
        };
        self.calls[at].raise(flag::WATCHED);
        true
    }

    /// How deep the queue of a function is.
    pub fn depth(&self, function: FunctionRef) -> Depth {
        let of = &self.functions[function];
        let oldest_due = of.due.front().map_or(WallTime(0), |at| WallTime(self.calls[at].when()));
        let (scheduled, offered, leased, dead) = (of.scheduled, of.offered, of.leased, of.dead);
        Depth { scheduled, due: of.due.len, offered, leased, dead, bytes: of.bytes, oldest_due }
    }

    /// The queue as a whole.
    pub fn counters(&self) -> Counters {
        let (groups, log_bytes) = self.log.volume();
        Counters {
            groups,
            log_bytes,
            pending_now: self.pending,
            leased_now: self.leased,
            dead_now: u64::from(self.dead.len),
            frame_bytes_now: self.store.bytes() as u64,
            segments_now: self.log.segments.count() as u64,
            start_bytes_now: self.read_by_a_start() * self.segment_bytes,
            ..self.counters
        }
    }

    /// The first calls of a function in order of time: due ones, then scheduled ones. Appends at most `limit` to `into`.
    pub fn peek(&self, function: FunctionRef, limit: usize, into: &mut Vec<CallRef>) {
        let end = into.len().saturating_add(limit);
        into.extend(self.functions[function].due.iter(&self.calls).take(limit));
        let mut ahead: Vec<CallRef> =
            self.starts.iter(&self.calls).filter(|at| self.calls[*at].function() == function).collect();
        ahead.sort_unstable_by_key(|at| (self.calls[*at].when(), self.calls[*at].turn()));
        into.extend(ahead.into_iter().take(end - into.len()));
    }

    /// The due calls of a function, in their order. Appends at most `limit` to `into`, and looks at no others.
    pub fn peek_due(&self, function: FunctionRef, limit: usize, into: &mut Vec<CallRef>) {
        into.extend(self.functions[function].due.iter(&self.calls).take(limit));
    }

    /// Dead letters, the oldest first. Appends at most `limit` to `into`.
    pub fn dead_letters(&self, limit: usize, into: &mut Vec<CallRef>) {
        into.extend(self.dead.iter(&self.calls).take(limit));
    }
}
