//! Fourth stage: a slice of a call, and what it cost.

use crate::core::Core;
use crate::dispatch::Round;
use crate::slots::{Slot, State};
use call::Instant;
use call::body::{self, ArchivedAttribute};
use driver::Driver;
use runtime::{Begin, Progress, Runtime, SlotId};

impl<D: Driver, R: Runtime> Core<D, R> {
    /// The first slice of a call whose frame has just arrived: its arguments are read where the frame lies. Or of one
    /// whose blob has.
    pub(crate) fn begin(
        &mut self,
        slot: SlotId,
        payload: &[u8],
        attributes: &[ArchivedAttribute<'static>],
        round: &mut Round,
    ) {
        let held = self.slots.get_mut(slot);
        let progress = first_slice(&mut self.runtime, slot, held, payload, attributes, round.clock);
        self.began(slot, progress, round);
    }

    /// The first slice of a call that waited in parking memory.
    pub(crate) fn begin_parked(&mut self, slot: SlotId, round: &mut Round) {
        let frame = self.parking.frame(slot);
        let arguments = body::arguments(frame.body()).expect("it was checked before it was parked");
        let held = self.slots.get_mut(slot);
        let (payload, attributes) = (&arguments.payload, &arguments.attributes);
        let progress = first_slice(&mut self.runtime, slot, held, payload, attributes, round.clock);
        self.parking.leave(slot);
        self.began(slot, progress, round);
    }

    /// Another slice.
    pub(crate) fn resume(&mut self, slot: SlotId, round: &mut Round) {
        let progress = self.runtime.resume(slot);
        self.stats.slices += 1;
        let ran_ns = self.spent(slot, progress, round);
        match progress {
            Progress::Ended => {
                self.queues.alarms.remove(slot);
                self.ended(slot);
            }
            Progress::Yielded => {
                self.queues.long.charge(slot, ran_ns);
                self.wait(slot, round.clock);
            }
            Progress::Waiting => self.wait_elsewhere(slot),
        }
    }

    fn began(&mut self, slot: SlotId, progress: Progress, round: &mut Round) {
        let ran_ns = self.spent(slot, progress, round);
        let held = self.slots.get_mut(slot);
        if progress != Progress::Yielded && !held.short {
            self.functions.learn(held.lease.function, false);
        }
        match progress {
            Progress::Ended => self.ended(slot),
            Progress::Yielded => {
                self.functions.learn(held.lease.function, true);
                held.state = State::Running;
                held.timeout_at = held.begun + held.timeout;
                self.share(slot);
                self.queues.long.charge(slot, ran_ns);
                self.wait(slot, round.clock);
            }
            Progress::Waiting => {
                held.timeout_at = held.begun + held.timeout;
                self.share(slot);
                self.wait_elsewhere(slot);
            }
        }
    }

    /// A call goes on outside of the core: nothing is to be done before the runtime says so, or its time is over.
    fn wait_elsewhere(&mut self, slot: SlotId) {
        let held = self.slots.get_mut(slot);
        held.state = State::Waiting;
        self.queues.alarms.set(slot, held.timeout_at);
    }

    /// Books the time since the round's last clock reading to this slot; gives it.
    fn spent(&mut self, slot: SlotId, progress: Progress, round: &mut Round) -> u64 {
        let now = self.driver.precise();
        let ran_ns = now.0.saturating_sub(round.clock.0);
        let held = self.slots.get_mut(slot);
        if progress != Progress::Waiting {
            held.cpu_ns += ran_ns;
        }
        held.ran_until = now;
        if held.limited {
            self.functions.charge(held.lease.function, ran_ns, now);
        }
        round.clock = now;
        ran_ns
    }
}

fn first_slice<R: Runtime>(
    runtime: &mut R,
    slot: SlotId,
    held: &mut Slot,
    payload: &[u8],
    attributes: &[ArchivedAttribute<'static>],
    now: Instant,
) -> Progress {
    held.begun = now;
    let Slot { lease, .. } = held;
    let (call, function, attempt) = (lease.call, lease.function, lease.attempt);
    runtime.begin(slot, &Begin { call, function, payload, attributes, attempt })
}
