//! What a call costs in the runtime alone: ns and heap allocations per call, no frames, no loop.
//!
//! `cargo run --release -p runtime --example warm [template.wasm command.wasm [CASE]]`; the files are the
//! guests of `worker/runtime/template`, built for wasm32-wasip1. With CASE, a part of a case's name, only
//! that one is run, over and over: for a profiler.

use call::body::{Submit, append_submit, arguments};
use call::frame::{Frame, FrameBuf};
use call::function::InstanceMode;
use call::{Arguments, CallId, FunctionId, FunctionSpec, WallTime};
use runtime::wasm::artefact;
use runtime::{Begin, Options, Progress, Runtime, SlotId, WasmRuntime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Answers nothing, and answers its arguments.
const NOOP: &str = r#"(module (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param i32 i32) (result i64) (i64.const 0)))"#;
const ECHO: &str = r#"(module (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param i32 i32) (result i64)
        (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))"#;

const CALLS: u32 = 20_000;

fn main() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let mut runtime = WasmRuntime::new(Options::new(cache.path())).expect("a runtime");
    for (what, how) in runtime.backends() {
        println!("{what}: {how}");
    }
    let mut cases = vec![
        ("no-op, reused", wat::parse_str(NOOP).unwrap(), InstanceMode::Reuse),
        ("echo 128 B, reused", wat::parse_str(ECHO).unwrap(), InstanceMode::Reuse),
        ("echo 128 B, fresh", wat::parse_str(ECHO).unwrap(), InstanceMode::Fresh),
    ];
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [template, command, ..] = arguments.as_slice() {
        let [template, command] = [template, command].map(|path| std::fs::read(path).expect("a wasm file"));
        cases.push(("template 128 B, reused", template.clone(), InstanceMode::Reuse));
        cases.push(("template 128 B, fresh", template, InstanceMode::Fresh));
        cases.push(("command 128 B", command, InstanceMode::Fresh));
    }
    let only = arguments.get(2);
    cases.retain(|case| only.is_none_or(|only| case.0.contains(only.as_str())));
    for (number, (name, wasm, instance)) in cases.into_iter().enumerate() {
        let compiled = artefact::compile(cache.path(), &wasm).expect("it compiles");
        let spec = FunctionSpec { artefact: compiled.sha256, instance, ..FunctionSpec::default() };
        runtime.publish(FunctionId(number as u64), &spec);
        for _ in 0..if only.is_some() { 20 } else { 1 } {
            measure(&mut runtime, FunctionId(number as u64), name);
        }
    }
}

fn measure(runtime: &mut WasmRuntime, function: FunctionId, name: &str) {
    let mut frame = FrameBuf::new();
    let submit = Submit {
        call: CallId(1),
        function,
        start_at: WallTime(0),
        deadline: WallTime(0),
        criticality: 0,
        want_outcome: true,
        arguments: Arguments { payload: &[b'x'; 128], attributes: &[] },
        ..Submit::default()
    };
    append_submit(&mut frame, &submit).expect("within limits");
    let (frame, _) = Frame::parse(&frame).expect("whole");
    let begin = Begin::of(CallId(1), function, arguments(frame.body()).expect("valid"), 1);
    let first = Instant::now();
    call(runtime, &begin, 0);
    let first = first.elapsed();
    for n in 0..CALLS / 4 {
        call(runtime, &begin, n % 4);
    }
    let allocations = ALLOCATIONS.load(Relaxed);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let from = Instant::now();
        for _ in 0..CALLS {
            call(runtime, &begin, 0);
        }
        best = best.min(from.elapsed());
    }
    let allocations = ALLOCATIONS.load(Relaxed) - allocations;
    println!(
        "{name:24} {:8.0} ns/call {:6.2} allocations/call, first call {:.0} us",
        best.as_nanos() as f64 / f64::from(CALLS),
        allocations as f64 / f64::from(5 * CALLS),
        first.as_nanos() as f64 / 1000.0,
    );
}

fn call(runtime: &mut WasmRuntime, begin: &Begin<'_>, slot: u32) {
    let slot = SlotId(slot);
    let mut progress = runtime.begin(slot, begin);
    while progress == Progress::Yielded {
        progress = runtime.resume(slot);
    }
    let ended = runtime.ended(slot);
    assert!(ended.status.is_ok(), "{:?}: {}", ended.status, String::from_utf8_lossy(ended.stderr));
    runtime.release(slot);
}
