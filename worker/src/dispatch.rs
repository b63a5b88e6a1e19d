//! Third stage: which call runs next.
//!
//! A call begins at once, straight from the memory in which its frame arrived, while the round's time lasts and
//! nothing waits before it. Otherwise its frame is copied into parking memory and its slot into one of two queues:
//! *short* calls, in order of arrival, begin first in the next round; *long* ones share what is left, a slice each
//! in turn. A call is long once it has outlived a slice, or if calls of its function lately did. One that sleeps
//! gets no slice before it wakes, and lets the core sleep too.

use crate::core::Core;
use crate::slots::State;
use call::body::ArchivedArguments;
use call::{Frame, Instant, Status};
use driver::Driver;
use runtime::{Runtime, SlotId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
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

/// Calls that wait for a slice.
pub(crate) struct Queues {
    /// Parked calls that are expected to end within a slice.
    short: VecDeque<SlotId>,
    /// Running calls, and parked ones that are expected to outlive a slice.
    long: VecDeque<SlotId>,
    /// Running calls that sleep, by when they wake or time out.
    asleep: BinaryHeap<Reverse<(Instant, SlotId)>>,
    /// No running call that is awake times out before this.
    timeout_at: Instant,
}

impl Queues {
    pub fn new(slots: u32) -> Queues {
        let queue = || VecDeque::with_capacity(slots as usize);
        let asleep = BinaryHeap::with_capacity(slots as usize);
        Queues { short: queue(), long: queue(), asleep, timeout_at: Instant::NEVER }
    }

    pub fn len(&self) -> usize {
        self.short.len() + self.long.len() + self.asleep.len()
    }

    /// Whether no call wants a slice now; see [`Queues::wakes_at`].
    pub fn is_idle(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    pub fn clear(&mut self) {
        self.short.clear();
        self.long.clear();
        self.asleep.clear();
        self.timeout_at = Instant::NEVER;
    }

    /// A call wants another slice.
    pub fn push_long(&mut self, slot: SlotId, timeout_at: Instant) {
        self.long.push_back(slot);
        self.timeout_at = self.timeout_at.min(timeout_at);
    }

    /// A call wants no slice before this.
    pub fn push_asleep(&mut self, slot: SlotId, wakes_at: Instant) {
        self.asleep.push(Reverse((wakes_at, slot)));
    }

    /// When the next sleeping call wakes.
    pub fn wakes_at(&self) -> Instant {
        self.asleep.peek().map_or(Instant::NEVER, |Reverse((at, _))| *at)
    }

    /// A sleeping call whose time has come.
    fn pop_awake(&mut self, now: Instant) -> Option<SlotId> {
        if self.wakes_at() > now { None } else { self.asleep.pop().map(|Reverse((_, slot))| slot) }
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
        let held = self.slots.get_mut(slot);
        held.timeout = pace.timeout;
        held.short = pace.is_short();
        let passes = self.queues.short.is_empty() && (held.short || self.queues.long.is_empty());
        if passes && round.has_time() || !self.parking.has_room(submit) {
            return self.begin(slot, arguments, round);
        }
        self.parking.park(slot, submit);
        self.stats.parked += 1;
        held.state = State::Parked;
        let queue = if held.short { &mut self.queues.short } else { &mut self.queues.long };
        queue.push_back(slot);
    }

    /// Begins short calls that waited, in order of arrival, while the round lasts.
    pub(crate) fn begin_waiting(&mut self, round: &mut Round) {
        while round.has_time() {
            let Some(slot) = self.queues.short.pop_front() else { return };
            self.begin_parked(slot, round);
        }
    }

    /// Runs one slice of the long call whose turn it is.
    pub(crate) fn slice_long(&mut self, round: &mut Round) {
        let Some(slot) = self.queues.long.pop_front() else { return };
        match self.slots.get(slot).state {
            State::Parked => self.begin_parked(slot, round),
            State::Running => self.resume(slot, round),
            state => unreachable!("a slot in the long queue is {state:?}"),
        }
    }

    /// A running call has yielded: it waits for its next slice, or until it wakes or its time is over.
    pub(crate) fn wait(&mut self, slot: SlotId, now: Instant) {
        let timeout_at = self.slots.get(slot).timeout_at;
        match self.runtime.sleeps_until(slot).filter(|wakes_at| *wakes_at > now) {
            Some(wakes_at) => self.queues.push_asleep(slot, wakes_at.min(timeout_at)),
            None => self.queues.push_long(slot, timeout_at),
        }
    }

    /// Ends calls that ran longer than their function may; wakes those that slept long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(slot) = self.queues.pop_awake(now) {
            self.queues.push_long(slot, self.slots.get(slot).timeout_at);
        }
        if now < self.queues.timeout_at {
            return;
        }
        self.queues.timeout_at = Instant::NEVER;
        for _ in 0..self.queues.long.len() {
            let slot = self.queues.long.pop_front().expect("counted before");
            let timeout_at = self.slots.get(slot).timeout_at;
            if now < timeout_at {
                self.queues.push_long(slot, timeout_at);
            } else {
                self.runtime.stop(slot, Status::Timeout);
                self.ended(slot);
            }
        }
    }
}
