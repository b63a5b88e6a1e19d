//! No heap allocation for a call on a warm instance, and little for a function that does not run. Counts per
//! thread, since tests run side by side.

use crate::stage::{Stage, echo, frame};
use call::body::arguments;
use call::frame::Frame;
use call::{Attribute, CallId, FunctionId, FunctionSpec, Status};
use runtime::{Begin, Progress, Runtime, SlotId};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // A thread that ends may allocate after its locals are gone.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
    let _ = BYTES.try_with(|all| all.set(all.get() + bytes as u64));
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of(calls: u32, stage: &mut Stage, begin: &Begin<'_>) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    for n in 0..calls {
        let slot = SlotId(n % 2);
        let mut progress = stage.runtime.begin(slot, begin);
        while progress == Progress::Yielded {
            progress = stage.runtime.resume(slot);
        }
        assert_eq!(stage.runtime.ended(slot).status, Status::Ok);
        stage.runtime.release(slot);
    }
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_call_on_a_warm_instance_allocates_nothing() {
    let mut stage = Stage::new();
    let function = stage.deploy(echo());
    let frame = frame(function, &[1; 4096], &[Attribute { key: "k", value: "v" }]);
    let (frame, _) = Frame::parse(&frame).unwrap();
    let begin = Begin::of(CallId(7), function, arguments(frame.body()).unwrap(), 1);
    let cold = allocations_of(10, &mut stage, &begin);
    assert!(cold > 0, "the counter does not count");
    assert_eq!(allocations_of(10_000, &mut stage, &begin), 0);
}

/// What allocates is named: growth of the table of functions doubles it, so the bound is generous by two.
#[test]
fn a_published_function_that_does_not_run_costs_less_than_a_kibibyte() {
    let mut stage = Stage::new();
    let before = BYTES.with(Cell::get);
    for number in 0..1000 {
        let name = format!("function-{number}");
        let spec = FunctionSpec { name, artefact: "ab".repeat(32), ..FunctionSpec::default() };
        stage.runtime.publish(FunctionId(number), &spec);
    }
    let bytes = BYTES.with(Cell::get) - before;
    assert!(bytes > 64 * 1000 && bytes < 1024 * 1000, "{bytes} bytes for 1,000 functions");
}
