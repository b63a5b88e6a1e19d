//! One runtime of two: each call goes to the one that runs its function's kind.

use crate::seam::{Begin, Ended, Progress, Runtime, SlotId};
use call::function::RuntimeKind;
use call::{FunctionId, FunctionSpec, Instant, Status};
use driver::{Arrivals, Driver};
use std::collections::HashMap;

/// Wasm functions by `W`, process functions by `P`. Both have all slots of the core; a slot is in use by one of them.
pub struct ByKind<W, P> {
    wasm: W,
    process: P,
    /// Never iterated.
    kinds: HashMap<FunctionId, RuntimeKind>,
    slots: Vec<RuntimeKind>,
}

/// The same call of either runtime.
macro_rules! of {
    ($self:ident, $kind:expr, $runtime:ident => $call:expr) => {
        match $kind {
            RuntimeKind::Wasm => {
                let $runtime = &mut $self.wasm;
                $call
            }
            RuntimeKind::Process => {
                let $runtime = &mut $self.process;
                $call
            }
        }
    };
}

impl<W: Runtime, P: Runtime> ByKind<W, P> {
    /// Of two runtimes that have so many slots.
    pub fn new(wasm: W, process: P, slots: u32) -> ByKind<W, P> {
        ByKind { wasm, process, kinds: HashMap::new(), slots: vec![RuntimeKind::Wasm; slots as usize] }
    }

    fn kind(&self, slot: SlotId) -> RuntimeKind {
        self.slots[slot.0 as usize]
    }
}

impl<W: Runtime, P: Runtime> Runtime for ByKind<W, P> {
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec) {
        if let Some(before) = self.kinds.insert(function, spec.runtime)
            && before != spec.runtime
        {
            of!(self, before, runtime => runtime.retire(function));
        }
        of!(self, spec.runtime, runtime => runtime.publish(function, spec));
    }

    fn retire(&mut self, function: FunctionId) {
        if let Some(kind) = self.kinds.remove(&function) {
            of!(self, kind, runtime => runtime.retire(function));
        }
    }

    fn foresee(&mut self, function: FunctionId, likely: bool) {
        if let Some(kind) = self.kinds.get(&function).copied() {
            of!(self, kind, runtime => runtime.foresee(function, likely));
        }
    }

    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        // Of a function that is not published either one says so.
        let kind = self.kinds.get(&begin.function).copied().unwrap_or_default();
        self.slots[slot.0 as usize] = kind;
        of!(self, kind, runtime => runtime.begin(slot, begin))
    }

    fn sleeps_until(&self, slot: SlotId) -> Option<Instant> {
        match self.kind(slot) {
            RuntimeKind::Wasm => self.wasm.sleeps_until(slot),
            RuntimeKind::Process => self.process.sleeps_until(slot),
        }
    }

    fn resume(&mut self, slot: SlotId) -> Progress {
        of!(self, self.kind(slot), runtime => runtime.resume(slot))
    }

    fn stop(&mut self, slot: SlotId, status: Status) {
        of!(self, self.kind(slot), runtime => runtime.stop(slot, status));
    }

    fn ended(&self, slot: SlotId) -> Ended<'_> {
        match self.kind(slot) {
            RuntimeKind::Wasm => self.wasm.ended(slot),
            RuntimeKind::Process => self.process.ended(slot),
        }
    }

    fn release(&mut self, slot: SlotId) {
        of!(self, self.kind(slot), runtime => runtime.release(slot));
    }

    fn serve(
        &mut self,
        driver: &mut dyn Driver,
        arrivals: &Arrivals,
        now: Instant,
        ready: &mut Vec<(SlotId, Progress)>,
    ) {
        self.wasm.serve(driver, arrivals, now, ready);
        self.process.serve(driver, arrivals, now, ready);
    }

    fn flush(&mut self, driver: &mut dyn Driver) {
        self.wasm.flush(driver);
        self.process.flush(driver);
    }

    fn alarm(&self) -> Instant {
        self.wasm.alarm().min(self.process.alarm())
    }

    fn idle(&mut self) {
        self.wasm.idle();
        self.process.idle();
    }

    fn notes(&mut self, into: &mut Vec<String>) {
        self.wasm.notes(into);
        self.process.notes(into);
    }

    fn backends(&self) -> Vec<(String, String)> {
        let mut backends = self.wasm.backends();
        backends.extend(self.process.backends());
        backends
    }

    fn edition(&self) -> u32 {
        self.wasm.edition().wrapping_add(self.process.edition())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scripted;
    use crate::testing::submit;

    #[test]
    fn a_function_runs_where_its_kind_is_and_may_change_it() {
        let mut both = ByKind::new(Scripted::new(2), Scripted::new(2), 2);
        let mut spec = FunctionSpec { name: "f".into(), ..FunctionSpec::default() };
        let (id, frame) = (spec.id(), submit(b"slices=2", &[]));
        let (frame, _) = call::Frame::parse(&frame).expect("a frame");
        let arguments = call::body::arguments(frame.body()).expect("arguments");
        let begin = Begin::of(call::CallId(1), id, arguments, 1);
        both.publish(id, &spec);
        assert_eq!(both.begin(SlotId(0), &begin), Progress::Yielded);
        spec.runtime = RuntimeKind::Process;
        both.publish(id, &spec);
        assert_eq!(both.begin(SlotId(1), &begin), Progress::Yielded);
        assert_eq!((both.kind(SlotId(0)), both.kind(SlotId(1))), (RuntimeKind::Wasm, RuntimeKind::Process));
        for slot in [SlotId(0), SlotId(1)] {
            assert_eq!(both.resume(slot), Progress::Ended);
            assert_eq!(both.ended(slot).status, Status::Ok);
            both.release(slot);
        }
        both.retire(id);
        assert_eq!(both.begin(SlotId(0), &begin), Progress::Ended);
        assert_eq!(both.ended(SlotId(0)).status, Status::Unavailable);
    }
}
