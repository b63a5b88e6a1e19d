//! A core allocates nothing for a call, over shared memory and TCP, with the scripted and with the wasm runtime; and
//! what the function reads are the bytes that the client wrote, where the kernel or the peer put them.

use allocation::node::{self, Load};
use call::frame::{FrameBuf, Kind};
use call::limits::Limits;
use call::{FunctionId, FunctionSpec, Instant, Status};
use counting::allocations;
use driver::uring::{Options, Uring};
use driver::{Arrivals, Driver, Endpoint, Event};
use runtime::wasm::{self, WasmRuntime, artefact};
use runtime::{Begin, Ended, Progress, Runtime, Scripted, SlotId};
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use worker::{Core, CorePlan};

const SLOTS: u32 = 64;
/// The first calls are the largest; those of the wasm guest last some slices, so that every slot and every instance
/// has one at the same time. After that nothing has a reason to grow.
const LARGE: u64 = 8 * SLOTS as u64;
/// Calls before counting.
const WARM: u64 = 20_000;
/// Calls counted.
const COUNTED: u64 = 50_000;

fn core<R: Runtime>(node: Endpoint, runtime: R) -> Core<Uring, R> {
    let plan = CorePlan {
        host: "here".into(),
        cpu: 0,
        pid: std::process::id(),
        node,
        slots: SLOTS,
        round: worker::plan::ROUND,
        drain: Duration::from_secs(5),
    };
    let driver = Uring::new(Options { connections_max: 8, ..Options::default() }).expect("io_uring");
    Core::new(plan, Limits::default(), driver, runtime)
}

fn load(spec: FunctionSpec) -> Load {
    let payload_bytes = &[0, 16, 128, 77, 3000, 128, 500];
    Load { spec, calls: WARM + COUNTED + 1000, payload_bytes, first_large: LARGE }
}

fn spec(artefact: &str) -> FunctionSpec {
    FunctionSpec { name: "f".into(), artefact: artefact.into(), version: 1, ..FunctionSpec::default() }
}

fn tcp(_: &Path) -> Endpoint {
    "tcp:127.0.0.1:0".parse().expect("an endpoint")
}

fn shm(directory: &Path) -> Endpoint {
    Endpoint::Shm(directory.join("core.shm"))
}

/// Allocations of the core's thread during the counted calls.
fn count<R: Runtime>(at: fn(&Path) -> Endpoint, artefact: &str, runtime: impl FnOnce() -> R) -> u64 {
    let directory = tempfile::tempdir().expect("a directory");
    let load = load(spec(artefact));
    let (node, thread) = node::start(&at(directory.path()), load.clone());
    let mut core = core(node, runtime());
    let mut arrivals = Arrivals::new();
    let (mut before, mut after) = (None, None);
    while !core.finished() {
        let until = core.turn(&arrivals);
        core.driver().reap(until, &mut arrivals);
        match core.stats().ended_in_all() {
            ended if ended >= WARM && before.is_none() => before = Some(allocations()),
            ended if ended >= WARM + COUNTED && after.is_none() => after = Some(allocations()),
            _ => {}
        }
    }
    assert_eq!(thread.join().expect("the node ends"), load.calls, "all calls were ok");
    after.expect("the counted calls ran") - before.expect("the first calls ran")
}

/// Compiles a guest of the fast ABI that returns its payload, the largest one after some milliseconds; gives the runtime's maker and the artefact's hash.
fn wasm_echo(cache: &Path) -> (impl FnOnce() -> WasmRuntime, String) {
    let guest = wat::parse_str(
        r#"(module
            (memory (export "memory") 1)
            (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
            (func (export "millrace_call") (param i32 i32) (result i64)
                (local $turns i32)
                (if (i32.ge_u (local.get 1) (i32.const 4000)) (then
                    (loop $again
                        (local.set $turns (i32.add (local.get $turns) (i32.const 1)))
                        (br_if $again (i32.lt_u (local.get $turns) (i32.const 5000000))))))
                (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
                        (i64.extend_i32_u (local.get 1)))))"#,
    );
    let compiled = artefact::compile(cache, &guest.expect("correct text")).expect("it compiles");
    let options = wasm::Options { slots: SLOTS, warm: SLOTS, ..wasm::Options::new(cache) };
    (|| WasmRuntime::new(options).expect("address space"), compiled.sha256)
}

/// The law.
fn none(allocations: u64) {
    assert!(allocations == 0, "{allocations} allocations in {COUNTED} calls");
}

#[test]
fn no_call_allocates_over_shared_memory() {
    none(count(shm, "", || Scripted::new(SLOTS)));
}

#[test]
fn no_call_allocates_over_tcp() {
    none(count(tcp, "", || Scripted::new(SLOTS)));
}

#[test]
fn no_call_of_a_reused_wasm_instance_allocates_over_shared_memory() {
    let cache = tempfile::tempdir().expect("a directory");
    let (runtime, artefact) = wasm_echo(cache.path());
    none(count(shm, &artefact, runtime));
}

#[test]
fn no_call_of_a_reused_wasm_instance_allocates_over_tcp() {
    let cache = tempfile::tempdir().expect("a directory");
    let (runtime, artefact) = wasm_echo(cache.path());
    none(count(tcp, &artefact, runtime));
}

/// A runtime whose calls all wait outside of the core, until the next turn.
struct Later {
    inner: Scripted,
    waiting: Vec<(SlotId, Progress)>,
}

impl Runtime for Later {
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec) {
        self.inner.publish(function, spec);
    }
    fn retire(&mut self, function: FunctionId) {
        self.inner.retire(function);
    }
    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        self.waiting.push((slot, self.inner.begin(slot, begin)));
        Progress::Waiting
    }
    fn serve(&mut self, _: &mut dyn Driver, _: &Arrivals, _: Instant, ready: &mut Vec<(SlotId, Progress)>) {
        ready.append(&mut self.waiting);
    }
    fn alarm(&self) -> Instant {
        if self.waiting.is_empty() { Instant::NEVER } else { Instant(0) }
    }
    fn resume(&mut self, slot: SlotId) -> Progress {
        self.inner.resume(slot)
    }
    fn stop(&mut self, slot: SlotId, status: Status) {
        self.inner.stop(slot, status);
    }
    fn ended(&self, slot: SlotId) -> Ended<'_> {
        self.inner.ended(slot)
    }
    fn release(&mut self, slot: SlotId) {
        self.inner.release(slot);
    }
    fn backends(&self) -> Vec<(String, String)> {
        self.inner.backends()
    }
}

#[test]
fn no_call_that_waits_allocates() {
    let later = || Later { inner: Scripted::new(SLOTS), waiting: Vec::with_capacity(SLOTS as usize) };
    none(count(shm, "", later));
}

/// A runtime around another one, with something to be done at each begin.
struct Around<R, F> {
    inner: R,
    at_begin: F,
}

impl<R: Runtime, F: FnMut(&Begin<'_>)> Runtime for Around<R, F> {
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec) {
        self.inner.publish(function, spec);
    }
    fn retire(&mut self, function: FunctionId) {
        self.inner.retire(function);
    }
    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        (self.at_begin)(begin);
        self.inner.begin(slot, begin)
    }
    fn resume(&mut self, slot: SlotId) -> Progress {
        self.inner.resume(slot)
    }
    fn stop(&mut self, slot: SlotId, status: Status) {
        self.inner.stop(slot, status);
    }
    fn ended(&self, slot: SlotId) -> Ended<'_> {
        self.inner.ended(slot)
    }
    fn release(&mut self, slot: SlotId) {
        self.inner.release(slot);
    }
    fn backends(&self) -> Vec<(String, String)> {
        self.inner.backends()
    }
}

#[test]
#[should_panic(expected = "allocations in 50000 calls")]
fn canary_one_allocation_per_call_is_caught() {
    let planted = |_: &Begin<'_>| drop(std::hint::black_box(Box::new(7)));
    none(count(shm, "", || Around { inner: Scripted::new(SLOTS), at_begin: planted }));
}

/// What a call's begin saw: the call, and where its payload lay.
type Sight = (u64, Range<usize>);

/// Follows the bytes: nothing is encoded or copied between the client's encoding and the function.
fn follow(at: fn(&Path) -> Endpoint) {
    let directory = tempfile::tempdir().expect("a directory");
    let load = Load { calls: 5000, first_large: 0, ..load(spec("")) };
    let (node, thread) = node::start(&at(directory.path()), load.clone());
    let seen: Rc<RefCell<Vec<Sight>>> = Rc::default();
    let see = seen.clone();
    let at_begin = move |begin: &Begin<'_>| {
        let payload = begin.payload.as_ptr_range();
        see.borrow_mut().push((begin.call.0 as u64, payload.start as usize..payload.end as usize));
    };
    let mut core = core(node, Around { inner: Scripted::new(SLOTS), at_begin });
    let mut arrivals = Arrivals::new();
    let (mut encoded, mut in_place) = (FrameBuf::new(), 0);
    while !core.finished() {
        let until = core.turn(&arrivals);
        for (call, payload) in seen.borrow_mut().drain(..) {
            let frame = arrivals.iter().find_map(|event| match event {
                Event::Frame { frame, .. }
                    if frame.kind() == Kind::Lease && frame.call().0 as u64 == call =>
                {
                    Some(frame)
                }
                _ => None,
            });
            // A call that was parked for a later round has left its frame; that copy is its only one.
            let Some(frame) = frame else { continue };
            load.submit(call, &mut encoded);
            assert_eq!(
                frame.sealed().expect("sealed").bytes(),
                &encoded[..],
                "the client's bytes, all of them"
            );
            let memory = frame.bytes().as_ptr_range();
            assert!(
                memory.start as usize <= payload.start && payload.end <= memory.end as usize,
                "read in place"
            );
            in_place += 1;
        }
        core.driver().reap(until, &mut arrivals);
    }
    assert_eq!(thread.join().expect("the node ends"), load.calls);
    assert!(in_place + core.stats().parked >= load.calls && in_place > 0, "{in_place} in place");
}

#[test]
fn a_function_reads_the_clients_bytes_in_place_over_shared_memory() {
    follow(shm);
}

#[test]
fn a_function_reads_the_clients_bytes_in_place_over_tcp() {
    follow(tcp);
}
