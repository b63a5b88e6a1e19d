//! What operators and clients do to calls that wait or run: cancel them, hold a function's, purge dead letters.
//!
//! A call that the scheduler holds cannot be taken out of its buffers. It ends here at once, and what stays is a *husk*:
//! its number, which is not given out again before the scheduler lets go of it ([`DurableQ::lease`] refuses it,
//! [`DurableQ::give_back`] frees it).

use super::DurableQ;
use crate::table::calls::{NONE, Place, flag};
use crate::words::{Blocks, CallRef, Cancel, FunctionRef};
use call::{CallId, Status};

impl DurableQ {
    /// Cancels a call. One that waits has ended, as [`Status::Cancelled`]; who wants to know hears it when that is on
    /// disk. One that runs ends with what its core reports, and does not run again, whatever that is: this is on disk
    /// with the next group. `None` if it is not pending.
    pub fn cancel(&mut self, blocks: &mut impl Blocks, call: CallId) -> Option<Cancel> {
        let at = self.held(call)?;
        let function = self.calls[at].function();
        match self.calls[at].place() {
            Place::Appended => {
                // It has not been accepted yet: it ends as soon as it is.
                self.calls[at].raise(flag::CANCEL);
                Some(Cancel::Ended { function })
            }
            Place::Scheduled | Place::Due | Place::Offered => {
                self.withdraw(at);
                self.conclude(blocks, at, Status::Cancelled);
                Some(Cancel::Ended { function })
            }
            Place::Leased => {
                if !self.calls[at].is(flag::CANCEL) {
                    self.calls[at].raise(flag::CANCEL);
                    self.record(blocks, at);
                }
                let call = self.calls.progress(at);
                Some(Cancel::Running { function, holder: call.holder, epoch: call.epoch })
            }
            Place::Dead | Place::Ending | Place::Husk | Place::Free => None,
        }
    }

    /// Takes a call that waits out of the structure that holds it.
    pub(super) fn withdraw(&mut self, at: CallRef) {
        let function = self.calls[at].function();
        match self.calls[at].place() {
            Place::Scheduled => {
                self.starts.remove(&mut self.calls, at);
                self.functions[function].scheduled -= 1;
            }
            Place::Due => {
                self.expires_no_more(at);
                self.functions[function].due.remove(&mut self.calls, at);
            }
            Place::Offered => {
                self.expires_no_more(at);
                self.functions[function].offered -= 1;
                self.calls[at].raise(flag::HELD);
            }
            place => unreachable!("a call that is {place:?} does not wait"),
        }
    }

    /// A call that is in no structure ends with this status, without an execution that says so.
    pub(super) fn conclude(&mut self, blocks: &mut impl Blocks, at: CallRef, status: Status) {
        self.count_end(at, status);
        self.end(blocks, at);
    }

    /// As [`DurableQ::conclude`], where the log's blocks are not at hand: its record follows with the next operation.
    pub(super) fn conclude_later(&mut self, at: CallRef, status: Status) {
        self.count_end(at, status);
        self.leave_pending(at);
        self.note_in_backlog(at);
    }

    pub(super) fn count_end(&mut self, at: CallRef, status: Status) {
        self.calls.progress_mut(at).status = Some(status);
        self.counters.cancelled += u64::from(status == Status::Cancelled);
    }

    /// The scheduler lets go of a call that ended meanwhile.
    pub(super) fn let_go(&mut self, at: CallRef) {
        match self.calls[at].place() {
            Place::Husk => self.calls.remove(at),
            _ => self.calls[at].lower(flag::HELD),
        }
    }

    /// Holds a function's calls, or lets them run again: calls are accepted, those that run go on, none is offered, and
    /// what the scheduler holds comes back when it wants to lease it. Not on the log: the node keeps it, and says it
    /// again after each start.
    pub fn pause(&mut self, function: FunctionRef, paused: bool) {
        let of = &mut self.functions[function];
        of.paused = paused;
        if !paused && of.due.len > 0 {
            self.functions.tell(function);
        }
    }

    /// Whether a function's calls are held.
    pub fn is_paused(&self, function: FunctionRef) -> bool {
        self.functions[function].paused
    }

    /// Forgets a dead letter for good. `false` if the call is none.
    pub fn purge(&mut self, blocks: &mut impl Blocks, call: CallRef) -> bool {
        if self.calls.get(call).is_none_or(|call| call.place() != Place::Dead) {
            return false;
        }
        self.drop_dead(blocks, call);
        true
    }

    /// Ends the wait of a call that is to run again: it is due now. `false` if it waits for nothing, or for its start
    /// time.
    pub fn hurry(&mut self, blocks: &mut impl Blocks, call: CallRef) -> bool {
        let waits = |of: &crate::table::calls::Call| of.place() == Place::Scheduled;
        if !self.calls.get(call).is_some_and(waits) || self.calls.progress(call).status.is_none() {
            return false;
        }
        self.withdraw(call);
        self.calls.set_when(call, self.wall.0);
        self.make_due(call);
        self.record(blocks, call);
        true
    }

    /// Notes that the state of a call is to be written when the log has room.
    pub(super) fn note_in_backlog(&mut self, at: CallRef) {
        self.calls[at].raise(flag::BACKLOG);
        self.calls.progress_mut(at).backlog = NONE;
        match self.backlog_head {
            NONE => self.backlog_head = at.0,
            _ => {
                let tail = CallRef(self.backlog_tail);
                self.calls.progress_mut(tail).backlog = at.0;
            }
        }
        self.backlog_tail = at.0;
    }
}
