//! Fourth stage: a slice of a call, and what it cost.

use crate::core::Core;
use crate::dispatch::Round;
use crate::slots::{Slot, State};
use call::Instant;
use call::body::{self, ArchivedArguments};
use driver::Driver;
use runtime::{Begin, Progress, Runtime, SlotId};

impl<D: Driver, R: Runtime> Core<D, R> {
    /// The first slice of a call whose frame has just arrived: its arguments are read where the frame lies.
    pub(crate) fn begin(&mut self, slot: SlotId, arguments: &ArchivedArguments<'static>, round: &mut Round) {
        let progress = first_slice(&mut self.runtime, slot, self.slots.get_mut(slot), arguments, round.clock);
        self.began(slot, progress, round);
    }

    /// The first slice of a call that waited in parking memory.
    pub(crate) fn begin_parked(&mut self, slot: SlotId, round: &mut Round) {
        let frame = self.parking.frame(slot);
        let arguments = body::arguments(frame.body()).expect("it was checked before it was parked");
        let progress = first_slice(&mut self.runtime, slot, self.slots.get_mut(slot), arguments, round.clock);
        self.parking.leave(slot);
        self.began(slot, progress, round);
    }

    /// Another slice.
    pub(crate) fn resume(&mut self, slot: SlotId, round: &mut Round) {
        let progress = self.runtime.resume(slot);
        self.stats.slices += 1;
        self.spent(slot, round);
        match progress {
            Progress::Ended => self.ended(slot),
            Progress::Yielded | Progress::Waiting => self.wait(slot, round.clock),
        }
    }

    fn began(&mut self, slot: SlotId, progress: Progress, round: &mut Round) {
        self.spent(slot, round);
        let held = self.slots.get_mut(slot);
        match progress {
            Progress::Ended => {
                if !held.short {
                    self.functions.learn(held.lease.function, false);
                }
                self.ended(slot);
            }
            Progress::Yielded | Progress::Waiting => {
                self.functions.learn(held.lease.function, true);
                held.state = State::Running;
                held.timeout_at = held.begun + held.timeout;
                self.wait(slot, round.clock);
            }
        }
    }

    /// Books the time since the round's last clock reading to this slot.
    fn spent(&mut self, slot: SlotId, round: &mut Round) {
        let now = self.driver.precise();
        let held = self.slots.get_mut(slot);
        held.cpu_ns += now.0.saturating_sub(round.clock.0);
        held.ran_until = now;
        round.clock = now;
    }
}

fn first_slice<R: Runtime>(
    runtime: &mut R,
    slot: SlotId,
    held: &mut Slot,
    arguments: &ArchivedArguments<'static>,
    now: Instant,
) -> Progress {
    held.begun = now;
    let Slot { lease, .. } = held;
    runtime
        .begin(slot, &Begin { call: lease.call, function: lease.function, arguments, attempt: lease.attempt })
}
