//! What is kept of the attempts of a call that failed.
//!
//! The record of a call's state carries its history (`Retry`, `Dead`, `Redrive`), so the last one says all of it, whatever
//! became of the segments in which the attempts were recorded. It is let go when the call ends.

use super::DurableQ;
use crate::table::histories::Trace;
use crate::words::CallRef;
use call::frame::flag::SEALED_BODY;
use call::frame::{FrameBuf, padded};
use call::history::HISTORY_BYTES_MAX;
use call::limits::FRAME_ALIGN;
use call::{Attempt, Frame, FrameError, History, Kind, Status};

/// Bytes that a history may take of a record, in front of an outcome.
pub(super) const HISTORY_ROOM: usize = HISTORY_BYTES_MAX.next_multiple_of(FRAME_ALIGN);

/// The history that the record of a call's state brings, and what stands behind it.
///
/// # Errors
/// Its body is not what its kind promises.
pub(crate) fn parts(frame: Frame<'_>) -> Result<(Option<History<'_>>, &[u8]), FrameError> {
    let body = frame.body();
    if body.is_empty() || frame.flags() & SEALED_BODY != 0 {
        return Ok((None, body));
    }
    let (history, behind) = History::parse(body)?;
    if frame.kind() != Kind::Dead && !behind.is_empty() {
        return Err(FrameError::Body);
    }
    Ok((Some(history), body.get(padded(history.bytes().len())..).unwrap_or(&[])))
}

/// Writes the body of a record: a history, and the outcome frame behind it.
pub(super) fn join(into: &mut FrameBuf, history: History<'_>, outcome: &[u8]) {
    into.clear();
    into.extend_from_slice(history.bytes());
    if !outcome.is_empty() {
        into.resize(padded(into.len()), 0);
        into.extend_from_slice(outcome);
    }
}

impl DurableQ {
    /// An attempt has ended otherwise than well, after `ran_ns` and with these last words, as its core says.
    pub(super) fn note_attempt(&mut self, at: CallRef, status: Status, ran_ns: u64, text: &[u8]) {
        let progress = self.calls.progress(at);
        let attempt = Attempt {
            number: progress.deliveries,
            began: progress.lease_began(self.wall),
            ended: self.wall,
            ran_ns,
            status,
            worker: self.holders.name(progress.holder),
            text,
            cut: false,
            redriven: false,
        };
        self.history.extend(self.histories.get(progress.history), &attempt);
        self.keep_history(at);
    }

    /// An execution did not end well. What it said.
    pub(super) fn note_outcome<'a>(&mut self, at: CallRef, status: Status, outcome: Frame<'a>) -> &'a [u8] {
        let reply = call::body::reply(outcome.body()).ok();
        let (ran_ns, said) = reply.map_or((0, &[][..]), |reply| (reply.usage().run_ns, reply.stderr));
        self.note_attempt(at, status, ran_ns, said);
        said
    }

    /// All attempts of a call were made before it is redriven.
    pub(super) fn mark_redriven(&mut self, at: CallRef) {
        if let Some(history) = self.histories.get(self.calls.progress(at).history) {
            self.history.redriven(history);
            self.keep_history(at);
        }
    }

    /// Puts the history that was written last in the place of the one that a call had; fewer attempts of it if there is
    /// no room.
    fn keep_history(&mut self, at: CallRef) {
        self.histories.free(self.calls.progress(at).history);
        if self.history.written() == History::LOST {
            self.calls.progress_mut(at).history = Trace::LOST;
            return;
        }
        let mut kept = self.histories.put(self.history.written());
        while kept.is_none() {
            let Some(fewer) = self.history.drop_oldest() else { break };
            kept = self.histories.put(fewer);
        }
        self.calls.progress_mut(at).history = kept.unwrap_or(Trace::LOST);
    }

    /// The history that a record brings takes the place of the one that its call had.
    pub(super) fn set_history(&mut self, at: CallRef, history: Option<History<'_>>) {
        self.forget_history(at);
        match history {
            None => {}
            Some(History::LOST) => self.calls.progress_mut(at).history = Trace::LOST,
            Some(history) => {
                self.history.copy(history);
                self.keep_history(at);
            }
        }
    }

    /// A call has ended: what became of its attempts is no question any more.
    pub(super) fn forget_history(&mut self, at: CallRef) {
        let trace = self.calls.progress(at).history;
        if trace != Trace::NONE {
            self.histories.free(trace);
            self.calls.progress_mut(at).history = Trace::NONE;
        }
    }

    /// The attempts of a call so far, if one has failed.
    pub(super) fn history_of(&self, at: CallRef) -> Option<History<'_>> {
        self.histories.get(self.calls.progress(at).history)
    }
}
