//! A lease ends: the call is done, waits for another try, or is a dead letter.

use super::DurableQ;
use crate::table::calls::{NONE, Place, flag};
use crate::table::store::Extent;
use crate::words::{Blocks, CallRef, Fate, Fenced, HolderRef, Settled};
use call::frame::padded;
use call::function::RetrySpec;
use call::limits::{HEADER_BYTES, START_AHEAD_MAX};
use call::{CallId, Epoch, Frame, Status, WallTime};
use std::time::Duration;

/// The outcome of a dead letter is kept for whoever looks into it, if it is not larger than this and the client does
/// not want it anyway: all of a command's stderr, and the text of any trap.
const DEAD_OUTCOME_BYTES_MAX: usize = 64 << 10;

impl DurableQ {
    /// Takes an outcome frame, its body validated. A call that failed is retried by `retry`, after half the wait and
    /// a random part of the other half, or goes to the dead letters when its executions are used up. Back-pressure is
    /// not the call's fault: it waits, longer each time, and uses up none of them, `limits.pressures_max` times. So it is with
    /// a call that its function gave back, which waits as long as that asked. An end that is final for its function is
    /// the last.
    ///
    /// # Errors
    /// [`Fenced`] if the epoch is not the one of the call's live lease.
    pub fn settle(
        &mut self,
        blocks: &mut impl Blocks,
        outcome: Frame<'_>,
        retry: &RetrySpec,
        random: u64,
    ) -> Result<Settled, Fenced> {
        let live = |at: &CallRef| {
            self.calls[*at].place() == Place::Leased && self.calls.progress(*at).epoch == outcome.epoch()
        };
        let Some(at) = self.held(outcome.call()).filter(live) else {
            self.counters.fenced += 1;
            return Err(Fenced);
        };
        let status = outcome.status().unwrap_or(Status::BadReply);
        let goes_on = !status.is_ok() && !self.calls[at].is(flag::CANCEL | flag::ONCE);
        let said = if goes_on { self.note_outcome(at, status, outcome) } else { &[] };
        self.end_lease(at);
        self.calls.progress_mut(at).status = Some(status);
        if status.is_ok() {
            self.counters.completed += 1;
            return Ok(self.over(blocks, at, outcome, Fate::Done));
        }
        if self.calls[at].is(flag::CANCEL) {
            return Ok(self.settle_cancelled(blocks, at, Some(outcome)));
        }
        if self.is_once(at) {
            return Ok(self.over(blocks, at, outcome, Fate::Failed));
        }
        let no_fault = matches!(status, Status::BackPressure | Status::Again);
        if no_fault && self.calls.progress(at).pressures < self.pressures_max {
            self.calls.progress_mut(at).pressures += 1;
            // How long a function that gave its call back asked to wait.
            let asked = Some(said).filter(|_| status == Status::Again).and_then(call::outcome::again::delay);
            if let Some(wait) = asked {
                return Ok(self.retry_at(blocks, at, self.wall + wait.min(START_AHEAD_MAX)));
            }
            let wait = retry.backoff(self.calls.progress(at).pressures);
            return Ok(self.wait_and_retry(blocks, at, wait, random));
        }
        let failures = self.calls.progress(at).failures.saturating_add(1);
        self.calls.progress_mut(at).failures = failures;
        let is_over = failures >= retry.attempts || retry.is_final(status);
        if is_over || self.calls.progress(at).is_worn(self.deliveries_max) {
            let settled = self.settled(at, Fate::Dead);
            let wanted = self.calls[at].is(flag::WANT);
            if wanted || outcome.bytes().len() <= DEAD_OUTCOME_BYTES_MAX {
                self.keep_outcome(at, outcome);
            }
            self.die(blocks, at);
            return Ok(settled);
        }
        Ok(self.wait_and_retry(blocks, at, retry.backoff(failures), random))
    }

    /// Half the wait and a random part of the other half, so that calls that failed together do not come together.
    fn wait_and_retry(
        &mut self,
        blocks: &mut impl Blocks,
        at: CallRef,
        wait: Duration,
        random: u64,
    ) -> Settled {
        let wait = call::time::nanos(wait);
        let jitter = if wait < 2 { 0 } else { random % (wait / 2) };
        self.retry_at(blocks, at, WallTime(self.wall.0.saturating_add(wait - wait / 2 + jitter)))
    }

    fn retry_at(&mut self, blocks: &mut impl Blocks, at: CallRef, not_before: WallTime) -> Settled {
        self.again_at(blocks, at, not_before);
        self.settled(at, Fate::Retry { not_before })
    }

    /// A core is gone. Call this until `None`: each call leased to it is due again at once, or is a dead letter after
    /// `limits.deliveries_max` deliveries. After that the number is free for another core.
    pub fn lose_next(&mut self, blocks: &mut impl Blocks, holder: HolderRef) -> Option<Settled> {
        self.holders.forget(holder);
        let at = self.holders.leases(holder).front()?;
        Some(self.lose(blocks, at, true))
    }

    /// One lease comes back without an outcome, from a holder that goes on: a region whose core was lost, or that never
    /// began the call. The latter is no delivery.
    ///
    /// # Errors
    /// [`Fenced`] if the epoch is not the one of the call's live lease.
    pub fn return_lease(
        &mut self,
        blocks: &mut impl Blocks,
        call: CallId,
        epoch: Epoch,
        begun: bool,
    ) -> Result<Settled, Fenced> {
        let live = |at: &CallRef| {
            self.calls[*at].place() == Place::Leased && self.calls.progress(*at).epoch == epoch
        };
        let Some(at) = self.held(call).filter(live) else {
            self.counters.fenced += 1;
            return Err(Fenced);
        };
        if !begun {
            self.calls.progress_mut(at).deliveries = self.calls.progress(at).deliveries.saturating_sub(1);
            self.expires_again(at);
        }
        Ok(self.lose(blocks, at, begun))
    }

    fn lose(&mut self, blocks: &mut impl Blocks, at: CallRef, begun: bool) -> Settled {
        if begun {
            self.note_attempt(at, Status::WorkerLost, 0, &[]);
        }
        self.end_lease(at);
        self.counters.leases_lost += 1;
        if self.calls[at].is(flag::CANCEL) {
            return self.settle_cancelled(blocks, at, None);
        }
        if self.calls.progress(at).is_worn(self.deliveries_max) {
            self.calls.progress_mut(at).status = Some(Status::WorkerLost);
            let settled = self.settled(at, Fate::Dead);
            self.die(blocks, at);
            return settled;
        }
        self.calls[at].set_place(Place::Due);
        self.functions.restore_due(&mut self.calls, at);
        self.let_expire(at);
        if begun {
            // Who kills one worker after the other is known by it, whatever becomes of this process.
            self.record(blocks, at);
        }
        self.settled(at, Fate::Again)
    }

    /// The lease of a call that was cancelled has ended otherwise than well. What its core says is kept if it says that
    /// it stopped the call.
    fn settle_cancelled(
        &mut self,
        blocks: &mut impl Blocks,
        at: CallRef,
        outcome: Option<Frame<'_>>,
    ) -> Settled {
        let settled = self.settled(at, Fate::Cancelled);
        self.count_end(at, Status::Cancelled);
        self.leave_pending(at);
        let stopped = outcome.filter(|outcome| outcome.status() == Ok(Status::Cancelled));
        if let Some(outcome) = stopped.filter(|_| self.calls[at].is(flag::WANT)) {
            self.keep_outcome(at, outcome);
        }
        self.record(blocks, at);
        settled
    }

    fn settled(&self, at: CallRef, fate: Fate) -> Settled {
        let (call, holder) = (&self.calls[at], self.calls.progress(at).holder);
        let start_at = WallTime(self.calls.start_at(at));
        Settled { call: at, id: call.id, function: call.function(), holder, start_at, fate }
    }

    fn end_lease(&mut self, at: CallRef) {
        let (holder, function) = (self.calls.progress(at).holder, self.calls[at].function());
        self.holders.leases(holder).remove(&mut self.calls, at);
        self.functions[function].leased -= 1;
        self.leased -= 1;
        // It said when the lease began.
        self.calls.progress_mut(at).timer = NONE;
    }

    /// Whether who submitted it wants to hear of the first failure: then it is neither tried again nor a dead letter.
    fn is_once(&self, at: CallRef) -> bool {
        self.calls[at].is(flag::ONCE)
    }

    /// The call has ended, and its outcome is kept if the client wants it.
    fn over(&mut self, blocks: &mut impl Blocks, at: CallRef, outcome: Frame<'_>, fate: Fate) -> Settled {
        let settled = self.settled(at, fate);
        // First what the call does not need any more: with the memory full of pending calls, its outcome takes the
        // place of its own frame.
        self.leave_pending(at);
        if self.calls[at].is(flag::WANT) {
            self.keep_outcome(at, outcome);
        }
        self.record(blocks, at);
        settled
    }

    /// Ends a call or dead letter for good, as soon as the log has room for the record.
    pub(super) fn end(&mut self, blocks: &mut impl Blocks, at: CallRef) {
        self.leave_pending(at);
        self.record(blocks, at);
    }

    /// A call or dead letter is none any more: what is left of it is the record of its end.
    pub(super) fn leave_pending(&mut self, at: CallRef) {
        if self.calls[at].place() != Place::Dead {
            self.leave(at);
        }
        self.calls[at].set_place(Place::Ending);
        self.free_frame(at);
        self.forget_history(at);
    }

    fn keep_outcome(&mut self, at: CallRef, outcome: Frame<'_>) {
        let bytes = outcome.bytes();
        let told = self.told();
        let ends = if self.retained_until(at) == 0 { &mut self.ended } else { &mut self.retained };
        while ends.is_over(bytes.len()) && ends.drop_oldest_outcome(&mut self.store, told) {}
        let history = self.history_of(at).map_or(0, |history| padded(history.bytes().len()));
        if bytes.len() + HEADER_BYTES + history <= self.record_max
            && let Some(extent) = self.keep(bytes)
        {
            self.calls.progress_mut(at).outcome = extent;
        }
    }

    fn again_at(&mut self, blocks: &mut impl Blocks, at: CallRef, not_before: WallTime) {
        self.counters.retried += 1;
        self.calls.set_when(at, not_before.0);
        let turn = self.next_turn();
        self.calls[at].set_turn(turn);
        self.functions[self.calls[at].function()].scheduled += 1;
        self.schedule(at);
        self.record(blocks, at);
    }

    /// Sends a call, which is in no list now, to the dead letters.
    pub(super) fn die(&mut self, blocks: &mut impl Blocks, at: CallRef) {
        self.counters.dead += 1;
        self.leave(at);
        // Before the new one, so that no log ever holds too many.
        while self.dead.len >= self.dead_letters_max {
            let Some(oldest) = self.dead.front() else { break };
            self.counters.dead_dropped += 1;
            self.drop_dead(blocks, oldest);
        }
        self.bury_here(at);
        self.record(blocks, at);
    }

    /// Ends a dead letter that nobody will look at any more.
    pub(super) fn drop_dead(&mut self, blocks: &mut impl Blocks, at: CallRef) {
        self.exhume(at);
        if !self.calls[at].is(flag::BACKLOG) {
            // Who wanted to know was told when it died.
            self.calls[at].lower(flag::WANT | flag::WATCHED);
        }
        // Still at its place: it was no pending call any more.
        self.end(blocks, at);
    }

    /// Puts a call into the list of dead letters.
    pub(super) fn bury_here(&mut self, at: CallRef) {
        let turn = self.next_turn();
        self.calls[at].set_turn(turn);
        self.calls[at].set_place(Place::Dead);
        self.functions[self.calls[at].function()].dead += 1;
        self.dead.push_back(&mut self.calls, at);
    }

    /// Takes a call out of the list of dead letters.
    pub(super) fn exhume(&mut self, at: CallRef) {
        self.dead.remove(&mut self.calls, at);
        self.functions[self.calls[at].function()].dead -= 1;
    }

    /// Makes a dead letter a pending call again, with all its executions before it. `false` if it is none, or expired
    /// a moment ago and the scheduler has not let go of it yet.
    pub fn redrive(&mut self, blocks: &mut impl Blocks, call: CallRef) -> bool {
        // One that the scheduler still holds would be offered twice.
        let rests = |call: &crate::table::calls::Call| call.place() == Place::Dead && !call.is(flag::HELD);
        if !self.calls.get(call).is_some_and(rests) {
            return false;
        }
        self.exhume(call);
        self.enter(call);
        self.mark_redriven(call);
        self.set_outcome(call, Extent::NONE);
        self.calls.set_when(call, self.wall.0);
        let again = self.calls.progress_mut(call);
        (again.failures, again.deliveries, again.pressures, again.status) = (0, 0, 0, None);
        self.calls[call].raise(flag::LASTING);
        self.make_due(call);
        self.record(blocks, call);
        true
    }

    /// Sends a scheduled or due call to the dead letters (its function is deleted by force). `false` if it is in another
    /// state: one that the scheduler holds is given back first, one that runs is left to end.
    pub fn bury(&mut self, blocks: &mut impl Blocks, call: CallRef, status: Status) -> bool {
        let waits = |call: &crate::table::calls::Call| matches!(call.place(), Place::Scheduled | Place::Due);
        if !self.calls.get(call).is_some_and(waits) {
            return false;
        }
        self.withdraw(call);
        self.calls.progress_mut(call).status = Some(status);
        self.die(blocks, call);
        true
    }
}
