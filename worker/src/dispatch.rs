//! Third stage: which call runs next.
//!
//! A call begins at once, straight from the memory in which its frame arrived, while the round's time lasts and
//! nothing waits before it. Otherwise its frame is copied into parking memory and its slot into one of two queues:
//! *short* calls, in order of arrival, begin first in the next round; *long* ones share what is left by weight, a
//! slice at a time (see [`crate::fair`]). A call is long once it has outlived a slice, or if calls of its function
//! lately did.
//!
//! One that sleeps, or whose function has used up its quota, gets no slice before its time, and one that waits for
//! something outside of the core none before the runtime says so; all of these let the core sleep, too. Each call that
//! has begun and not ended has an alarm: its time-out, or an earlier instant at which it is to be looked at.

use crate::core::Core;
use crate::fair::Fair;
use crate::heap::SlotHeap;
use crate::plan::SLICE;
use crate::slots::{Refusal, State};
use call::blob::Reference;
use call::body::ArchivedArguments;
use call::time::nanos;
use call::{CallId, Epoch, Frame, Instant, Status};
use driver::Driver;
use runtime::{Progress, Runtime, SlotId};
use std::collections::VecDeque;
use std::time::Duration;

/// The time of one round.
pub(crate) struct Round {
    /// The last reading of the precise clock. The end of one slice is the begin of the next, so that a call costs
    /// one reading; what the core does between two slices counts to the second.
    pub clock: Instant,
    /// No short call begins after this.
    ends: Instant,
}

impl Round {
    pub fn begin(now: Instant, length: Duration) -> Round {
        Round { clock: now, ends: now + length }
    }

    fn has_time(&self) -> bool {
        self.clock < self.ends
    }
}

/// Calls that wait, for a slice or for something else.
pub(crate) struct Queues {
    /// Parked calls that are expected to end within a slice.
    pub short: VecDeque<SlotId>,
    /// Running calls, and parked ones that are expected to outlive a slice.
    pub long: Fair,
    /// When to look at a call again, whatever it does until then.
    pub alarms: SlotHeap<Instant>,
}

impl Queues {
    pub fn new(slots: u32) -> Queues {
        Queues {
            short: VecDeque::with_capacity(slots as usize),
            long: Fair::new(slots, nanos(SLICE)),
            alarms: SlotHeap::new(slots),
        }
    }

    /// Whether no call wants a slice now; see [`Queues::wakes_at`].
    pub fn is_idle(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    pub fn clear(&mut self) {
        self.short.clear();
        self.long.clear();
        self.alarms.clear();
    }

    /// When the next alarm is.
    pub fn wakes_at(&self) -> Instant {
        self.alarms.peek().map_or(Instant::NEVER, |(at, _)| at)
    }

    /// Whether a call wants no slice before its alarm.
    pub fn rests(&self, slot: SlotId) -> bool {
        self.alarms.contains(slot) && !self.long.contains(slot)
    }
}

impl<D: Driver, R: Runtime> Core<D, R> {
    /// Begins a call that has just arrived, or parks it.
    pub(crate) fn dispatch(
        &mut self,
        slot: SlotId,
        submit: &Frame<'_>,
        arguments: &ArchivedArguments<'static>,
        round: &mut Round,
    ) {
        let pace = self.functions.pace(submit.function());
        if !submit.label().flows_to(pace.label) {
            return self.refuse(slot, Refusal::Label { data: submit.label(), function: pace.label });
        }
        let held = self.slots.get_mut(slot);
        held.timeout = pace.timeout;
        held.short = pace.is_short();
        held.weight = pace.weight;
        held.limited = pace.is_limited();
        let short = held.short;
        match Reference::of(submit, arguments) {
            Ok(None) => {}
            Ok(Some(reference)) => return self.await_blob(slot, submit, reference),
            Err(error) => return self.refuse(slot, Refusal::Malformed(error)),
        }
        let throttled = pace.is_throttled(round.clock);
        let passes = !throttled && self.queues.short.is_empty() && (short || self.queues.long.is_empty());
        if passes && round.has_time() || !self.parking.has_room(submit) {
            return self.begin(slot, &arguments.payload, &arguments.attributes, round);
        }
        self.parking.park(slot, submit);
        self.stats.parked += 1;
        self.slots.get_mut(slot).state = State::Parked;
        match () {
            () if throttled => self.hold_back(slot),
            () if short => self.queues.short.push_back(slot),
            () => {
                self.share(slot);
                self.queues.long.join(slot);
            }
        }
    }

    /// Begins short calls that waited, in order of arrival, while the round lasts.
    pub(crate) fn begin_waiting(&mut self, round: &mut Round) {
        while round.has_time() {
            let Some(slot) = self.queues.short.pop_front() else { return };
            if self.is_throttled(slot, round.clock) {
                self.hold_back(slot);
            } else {
                self.begin_parked(slot, round);
            }
        }
    }

    /// Runs one slice of the long call whose turn it is.
    pub(crate) fn slice_long(&mut self, round: &mut Round) {
        while let Some(slot) = self.queues.long.pop() {
            if self.is_throttled(slot, round.clock) {
                self.hold_back(slot);
                continue;
            }
            return match self.slots.get(slot).state {
                State::Parked => self.begin_parked(slot, round),
                State::Running => self.resume(slot, round),
                state => unreachable!("a slot in the long queue is {state:?}"),
            };
        }
    }

    /// Gives a call its share among the long ones, if it has none.
    pub(crate) fn share(&mut self, slot: SlotId) {
        let held = self.slots.get_mut(slot);
        if !std::mem::replace(&mut held.shares, true) {
            self.queues.long.admit(slot, held.weight);
        }
    }

    fn is_throttled(&self, slot: SlotId, now: Instant) -> bool {
        let held = self.slots.get(slot);
        held.limited && self.functions.pace(held.lease.function).is_throttled(now)
    }

    /// A call's function has used up its quota: the call rests until its turn to look again.
    fn hold_back(&mut self, slot: SlotId) {
        self.share(slot);
        let held = self.slots.get(slot);
        let at = self.functions.reserve(held.lease.function).min(held.timeout_at);
        self.queues.alarms.set(slot, at);
    }

    /// A running call has yielded: it waits for its next slice, or until it wakes or its time is over.
    pub(crate) fn wait(&mut self, slot: SlotId, now: Instant) {
        let timeout_at = self.slots.get(slot).timeout_at;
        match self.runtime.sleeps_until(slot).filter(|wakes_at| *wakes_at > now) {
            Some(wakes_at) => self.queues.alarms.set(slot, wakes_at.min(timeout_at)),
            None => {
                self.queues.long.rejoin(slot);
                self.queues.alarms.set(slot, timeout_at);
            }
        }
    }

    /// Calls that waited outside of the core, and are ready: they end, or get slices again.
    pub(crate) fn take_ready(&mut self, round: &mut Round) {
        if self.ready.is_empty() {
            return;
        }
        let mut ready = std::mem::take(&mut self.ready);
        for (slot, progress) in ready.drain(..) {
            let held = self.slots.get_mut(slot);
            assert_eq!(held.state, State::Waiting, "only a waiting call is told to be ready");
            held.ran_until = round.clock;
            match progress {
                Progress::Ended => {
                    self.queues.alarms.remove(slot);
                    self.ended(slot);
                }
                Progress::Yielded => {
                    held.state = State::Running;
                    self.queues.long.join(slot);
                }
                Progress::Waiting => unreachable!("a call that is ready does not wait"),
            }
        }
        self.ready = ready;
        round.clock = self.driver.precise();
    }

    /// Looks at calls whose alarm has come: ends those that ran longer than their function may, wakes those that
    /// rested long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.queues.wakes_at() <= now {
            let Some((_, slot)) = self.queues.alarms.pop() else { return };
            let held = self.slots.get(slot);
            let timeout_at = held.timeout_at;
            match held.state {
                State::Parked => self.queues.long.join(slot),
                State::Running if now < timeout_at => {
                    self.queues.long.join(slot);
                    self.queues.alarms.set(slot, timeout_at);
                }
                State::Waiting if now < self.runtime.times_out_at(slot, timeout_at) => {
                    let timeout_at = self.runtime.times_out_at(slot, timeout_at);
                    self.slots.get_mut(slot).timeout_at = timeout_at;
                    self.queues.alarms.set(slot, timeout_at);
                }
                State::Running | State::Waiting => self.time_out(slot, now),
                state => unreachable!("a slot with an alarm is {state:?}"),
            }
        }
    }

    /// The node cancels a call. One that has ended meanwhile, or was never here, is left.
    pub(crate) fn cancel(&mut self, call: CallId, epoch: Epoch) {
        let Some(slot) = self.slots.find(call, epoch) else { return };
        self.queues.long.remove(slot);
        self.queues.alarms.remove(slot);
        let held = self.slots.get_mut(slot);
        match held.state {
            State::Parked => {
                self.queues.short.retain(|other| *other != slot);
                self.parking.leave(slot);
                self.refuse(slot, Refusal::Cancelled);
            }
            State::Fetching => {
                self.fetches.leave(slot);
                self.refuse(slot, Refusal::Cancelled);
            }
            State::Waiting => {
                held.ran_until = self.driver.now();
                self.runtime.stop(slot, Status::Cancelled);
                self.ended(slot);
            }
            _ => {
                self.runtime.stop(slot, Status::Cancelled);
                self.ended(slot);
            }
        }
    }

    fn time_out(&mut self, slot: SlotId, now: Instant) {
        self.queues.long.remove(slot);
        let held = self.slots.get_mut(slot);
        if held.state == State::Waiting {
            held.ran_until = now;
        }
        self.runtime.stop(slot, Status::Timeout);
        self.ended(slot);
    }
}
