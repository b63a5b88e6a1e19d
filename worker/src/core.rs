//! One core: a state machine over a driver and a runtime. The production process, the tests and the simulator run
//! the same one; what differs is the driver, the runtime, and who calls [`Core::turn`].
//!
//! The stages stand in their own files, in the order in which a call passes: [`crate::ingress`] reads what the node
//! sent, [`crate::admit`] keeps the credits, [`crate::fetch`] brings large arguments, [`crate::dispatch`] decides what runs next, [`crate::execute`] runs a
//! slice, [`crate::upload`] stores a large result, [`crate::egress`] sends the outcome.
//!
//! A core neither blocks (only `reap`, which the caller makes between two turns, does) nor prints. After `new` it
//! allocates for a publish, for a connection and for a frame larger than any before; for a call it does not.

use crate::admit::Credits;
use crate::dispatch::{Queues, Round};
use crate::fetch::Fetches;
use crate::functions::Functions;
use crate::ingress::Link;
use crate::parking::Parking;
use crate::plan::CorePlan;
use crate::slots::{Slots, State};
use crate::stats::Stats;
use crate::upload::Uploads;
use call::frame::FrameBuf;
use call::limits::Limits;
use call::{Instant, Status};
use driver::{Arrivals, Driver};
use runtime::{Progress, Runtime, SlotId};
use std::collections::VecDeque;
use std::time::Duration;

/// How long the connection may take to close after the last frame; then the core leaves without waiting for it.
const LEAVE: Duration = Duration::from_secs(1);

/// Whether the core takes calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Takes calls.
    Serving,
    /// Takes none, finishes what it holds, until `by`.
    Draining { by: Instant },
    /// Has said that it is finished; waits for the connection to close, until `by`.
    Leaving { by: Instant },
    /// May exit.
    Left,
}

/// One core. See the module.
pub struct Core<D, R> {
    pub(crate) plan: CorePlan,
    pub(crate) limits: Limits,
    pub(crate) driver: D,
    pub(crate) runtime: R,
    pub(crate) link: Link,
    pub(crate) functions: Functions,
    pub(crate) credits: Credits,
    pub(crate) slots: Slots,
    pub(crate) parking: Parking,
    pub(crate) fetches: Fetches,
    pub(crate) uploads: Uploads,
    pub(crate) queues: Queues,
    /// Where frames are encoded before they are given to the driver.
    pub(crate) out: FrameBuf,
    /// What the runtime said to be ready in this turn.
    pub(crate) ready: Vec<(SlotId, Progress)>,
    /// Slots whose outcome found no room in the connection.
    pub(crate) unsent: VecDeque<SlotId>,
    pub(crate) phase: Phase,
    /// What the node was told to be in force: [`Runtime::edition`].
    pub(crate) told: u32,
    pub(crate) stats: Stats,
    pub(crate) notes: Vec<String>,
}

impl<D: Driver, R: Runtime> Core<D, R> {
    /// A core that will connect at its first turn. `runtime` has `plan.slots` slots.
    pub fn new(plan: CorePlan, limits: Limits, driver: D, runtime: R) -> Core<D, R> {
        let slots = plan.slots;
        Core {
            link: Link::new(driver.now()),
            functions: Functions::new(),
            credits: Credits::new(),
            slots: Slots::new(slots),
            parking: Parking::new(slots),
            fetches: Fetches::new(slots, limits.blob_memory_bytes),
            uploads: Uploads::new(),
            queues: Queues::new(slots),
            out: FrameBuf::with_capacity(64 << 10),
            ready: Vec::with_capacity(slots as usize),
            unsent: VecDeque::with_capacity(slots as usize),
            phase: Phase::Serving,
            told: 0,
            stats: Stats::new(),
            notes: Vec::new(),
            plan,
            limits,
            driver,
            runtime,
        }
    }

    /// One round: serves what `arrivals` brought, runs slices, queues what is to be sent. Gives the instant until
    /// which the caller may sleep in `reap`; one that has passed means that there is work left.
    ///
    /// The runtime serves its own connections first, so that what has arrived for a call counts before its time-out.
    /// In each round all short calls that fit the round's time come first and then one slice of one long call, so
    /// that short calls pass long ones, and the ring is served at least once per slice and round time.
    pub fn turn(&mut self, arrivals: &Arrivals) -> Instant {
        let now = self.driver.now();
        self.runtime.serve(&mut self.driver, arrivals, now, &mut self.ready);
        let mut round = Round::begin(self.driver.precise(), self.plan.round);
        self.take_ready(&mut round);
        self.begin_waiting(&mut round);
        self.ingress(arrivals, &mut round);
        self.fetch(round.clock);
        self.expire(round.clock);
        self.slice_long(&mut round);
        self.upload(round.clock);
        self.admit(round.clock);
        self.leave(round.clock);
        self.tell_backends();
        self.runtime.flush(&mut self.driver);
        self.sleep_until()
    }

    /// Has the node send no new calls, finishes those it holds and those under way, and ends; see
    /// [`Core::finished`].
    pub fn drain(&mut self) {
        if self.phase == Phase::Serving {
            self.phase = Phase::Draining { by: self.driver.now() + self.plan.drain };
            // Where there is no room the node fills the slots that it was granted, and is told at the end.
            self.say_drain();
        }
    }

    /// Whether the core has drained and may be dropped.
    pub fn finished(&self) -> bool {
        self.phase == Phase::Left
    }

    /// The driver, for `reap`.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The runtime, for tests that look into it.
    pub fn runtime(&self) -> &R {
        &self.runtime
    }

    /// Which backend is in force for each thing, of the driver and of the runtime.
    pub fn backends(&self) -> Vec<(String, String)> {
        let mut backends = self.driver.backends();
        let foresight = "functions are made warm before their calls, and let go, when the node says so";
        backends.push((call::admin::FORESIGHT.into(), foresight.into()));
        backends.extend(self.runtime.backends());
        backends
    }

    /// What it has counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether it is connected and greeted.
    pub fn connected(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Calls it holds.
    pub fn held(&self) -> u32 {
        self.slots.held()
    }

    /// What happened that a person may want to know, oldest first; the caller prints it.
    pub fn notes(&mut self) -> std::vec::Drain<'_, String> {
        self.runtime.notes(&mut self.notes);
        self.notes.drain(..)
    }

    /// Its invariants: every held slot is in exactly one place, and no call was taken without a credit.
    pub fn check(&self) {
        let count = |is: fn(State) -> bool| self.slots.count_of(is);
        let waiting = self.check_queues();
        let ended = count(|state| {
            matches!(state, State::Ended | State::Refused(_) | State::Stored(_) | State::NotStored)
        });
        assert_eq!(ended, self.unsent.len(), "each ended call waits for room");
        let storing = count(|state| state == State::Storing);
        assert_eq!(storing, self.uploads.len(), "each result to be stored waits for that");
        assert_eq!(self.slots.held() as usize, waiting + storing + ended, "each held slot is somewhere");
        if self.connected() && self.phase == Phase::Serving {
            self.credits.check(self.slots.count(), self.slots.held());
        }
    }

    /// Each call that has not ended is in exactly one place, and has its alarm; how many there are.
    fn check_queues(&self) -> usize {
        let queues = &self.queues;
        let (mut waiting, mut queued, mut fetching) = (0, 0, 0);
        for slot in (0..self.slots.count()).map(SlotId) {
            let rests = queues.rests(slot);
            let begun = match self.slots.get(slot).state {
                State::Parked => false,
                State::Fetching => {
                    assert!(!rests && !queues.long.contains(slot), "a call without arguments is in no queue");
                    waiting += 1;
                    fetching += 1;
                    continue;
                }
                State::Running => true,
                State::Waiting => {
                    assert!(rests, "a waiting call has an alarm and is in no queue");
                    waiting += 1;
                    continue;
                }
                State::Free
                | State::Ended
                | State::Storing
                | State::Stored(_)
                | State::NotStored
                | State::Refused(_) => {
                    assert!(!rests && !queues.long.contains(slot), "a call that has ended is in no queue");
                    continue;
                }
            };
            assert!(!begun || queues.alarms.contains(slot), "a call that has begun has an alarm");
            waiting += 1;
            queued += usize::from(!rests);
        }
        assert_eq!(fetching, self.fetches.len(), "each call without arguments waits for its blob");
        self.fetches.check();
        assert_eq!(
            queued,
            queues.short.len() + queues.long.len(),
            "each call that wants a slice is in one queue"
        );
        waiting
    }

    /// Drops every call it holds; the node leases them again, to this core or another.
    pub(crate) fn drop_held(&mut self) {
        self.queues.clear();
        self.fetches.clear();
        self.uploads.clear();
        self.unsent.clear();
        for slot in (0..self.slots.count()).map(SlotId) {
            match self.slots.get(slot).state {
                State::Free => continue,
                State::Parked => self.parking.leave(slot),
                State::Running | State::Waiting => {
                    self.runtime.stop(slot, Status::WorkerLost);
                    self.runtime.release(slot);
                }
                State::Ended | State::Storing | State::Stored(_) | State::NotStored => {
                    self.runtime.release(slot);
                }
                State::Fetching | State::Refused(_) => {}
            }
            self.stats.lost += 1;
            self.slots.give(slot);
        }
    }

    /// The steps of a drain.
    fn leave(&mut self, now: Instant) {
        match self.phase {
            Phase::Serving | Phase::Left => {}
            Phase::Leaving { by } if now < by => {}
            Phase::Leaving { .. } => self.phase = Phase::Left,
            Phase::Draining { by } => {
                if now >= by && self.slots.held() > 0 {
                    self.note(format!("event=drain-cut-short calls={}", self.slots.held()));
                    self.drop_held();
                }
                if self.slots.held() == 0 && self.say_drained() {
                    self.phase = Phase::Leaving { by: now + LEAVE };
                }
                if self.link.connection().is_none() {
                    self.phase = Phase::Left;
                }
            }
        }
    }

    /// Until when there is nothing to do unless something arrives.
    fn sleep_until(&self) -> Instant {
        if !self.queues.is_idle() || self.phase == Phase::Left {
            return Instant(0);
        }
        let alarm = match self.link {
            Link::Down { retry_at, .. } => retry_at,
            Link::Greeting { give_up_at, .. } => give_up_at,
            Link::Up { .. } => self.credits.heartbeat_at(),
        };
        let alarm = alarm.min(self.queues.wakes_at()).min(self.runtime.alarm()).min(self.fetches.alarm());
        let alarm = alarm.min(self.uploads.alarm());
        match self.phase {
            Phase::Draining { by } | Phase::Leaving { by } => alarm.min(by),
            Phase::Serving | Phase::Left => alarm,
        }
    }

    /// Keeps a line for [`Core::notes`]; the newest are lost if nobody reads them.
    pub(crate) fn note(&mut self, line: String) {
        if self.notes.len() < 64 {
            self.notes.push(line);
        }
    }
}

#[cfg(test)]
mod tests;
