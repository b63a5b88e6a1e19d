//! The scripted runtime, watched, with slices that cost time.

use crate::bug::Bug;
use crate::witness::Shared;
use call::{CallId, FunctionId, FunctionSpec, Instant, Status};
use driver::{Arrivals, Driver};
use runtime::{Begin, Ended, Progress, Runtime, Scripted, SlotId};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// What a call costs that ends in its slice.
const SHORT: Duration = Duration::from_micros(5);
/// What a slice costs that is used up.
const SLICE: Duration = Duration::from_millis(1);

/// See the module.
pub struct Watched {
    scripted: Scripted,
    witness: Shared,
    /// CPU time of this turn, shared with the clock of the driver.
    spent: Rc<Cell<Duration>>,
    calls: Vec<Option<CallId>>,
    /// Calls that were said to be ready so far.
    woken: u64,
}

/// [`Bug::LosesWakeups`] bites at each one whose number is a multiple of this.
const BITES: u64 = 7;

impl Watched {
    /// A runtime with this many slots.
    pub fn new(slots: u32, witness: &Shared, spent: &Rc<Cell<Duration>>) -> Watched {
        Watched {
            scripted: Scripted::new(slots),
            witness: witness.clone(),
            spent: spent.clone(),
            calls: vec![None; slots as usize],
            woken: 0,
        }
    }

    fn passed(&mut self, slot: SlotId, progress: Progress) -> Progress {
        let cost = if progress == Progress::Yielded { SLICE } else { SHORT };
        self.spent.set(self.spent.get() + cost);
        if progress == Progress::Ended
            && let Some(call) = self.calls[slot.0 as usize]
        {
            let status = self.scripted.ended(slot).status;
            self.witness.borrow_mut().ledger.ran(call, status);
        }
        progress
    }
}

impl Runtime for Watched {
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec) {
        self.scripted.publish(function, spec);
    }
    fn retire(&mut self, function: FunctionId) {
        self.scripted.retire(function);
    }
    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        let mut witness = self.witness.borrow_mut();
        let result = witness.ledger.begun(begin.call);
        witness.check(result);
        drop(witness);
        self.calls[slot.0 as usize] = Some(begin.call);
        let progress = self.scripted.begin(slot, begin);
        self.passed(slot, progress)
    }
    fn resume(&mut self, slot: SlotId) -> Progress {
        let progress = self.scripted.resume(slot);
        self.passed(slot, progress)
    }
    fn serve(
        &mut self,
        driver: &mut dyn Driver,
        arrivals: &Arrivals,
        now: Instant,
        ready: &mut Vec<(SlotId, Progress)>,
    ) {
        self.scripted.serve(driver, arrivals, now, ready);
        let loses = self.witness.borrow().bug == Bug::LosesWakeups;
        ready.retain(|(slot, progress)| {
            self.woken += 1;
            if loses && self.woken.is_multiple_of(BITES) {
                return false;
            }
            // What it cost was spent elsewhere.
            if *progress == Progress::Ended
                && let Some(call) = self.calls[slot.0 as usize]
            {
                let status = self.scripted.ended(*slot).status;
                self.witness.borrow_mut().ledger.ran(call, status);
            }
            true
        });
    }
    fn alarm(&self) -> Instant {
        self.scripted.alarm()
    }
    fn stop(&mut self, slot: SlotId, status: Status) {
        self.scripted.stop(slot, status);
        self.passed(slot, Progress::Ended);
    }
    fn ended(&self, slot: SlotId) -> Ended<'_> {
        self.scripted.ended(slot)
    }
    fn release(&mut self, slot: SlotId) {
        self.calls[slot.0 as usize] = None;
        self.scripted.release(slot);
    }
    fn backends(&self) -> Vec<(String, String)> {
        self.scripted.backends()
    }
}
