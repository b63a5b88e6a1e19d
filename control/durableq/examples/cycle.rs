//! What one call costs in the queue alone: submit, on disk, offer, lease, outcome; in memory, with a disk that is done at
//! once. Beside calls that wait: `bench --only waiting`.
//!
//! `cargo run --release -p durableq --example cycle`

use call::body::{Arguments, Reply, Submit, append_outcome, append_submit};
use call::frame::FrameBuf;
use call::function::RetrySpec;
use call::limits::Limits;
use call::{CallId, Frame, FunctionId, Header, Instant, Kind, Status, Usage, WallTime};
use counting::allocations;
use durableq::{Blocks, Defaults, DurableQ, Event, HolderRef, LogOp, Origin, Recovery, block_count};

struct Memory(Vec<FrameBuf>);

impl Blocks for Memory {
    fn block(&mut self, number: u32) -> &mut [u8] {
        &mut self.0[number as usize]
    }
}

const BATCH: usize = 512;
const CALLS: usize = 2_000_000;
const DEFAULTS: Defaults = Defaults { criticality: 100, deadline_ns: 1_000_000_000 };

fn main() {
    let limits = Limits::default();
    let mut memory = Memory((0..block_count(&limits)).map(|_| block(limits.group_bytes)).collect());
    let start = std::time::Instant::now();
    let mut queue = Recovery::new(&limits).finish(Instant(1), WallTime(1), 7).expect("an empty log");
    println!("new: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let functions: Vec<FunctionId> = (0..1000).map(|n| FunctionId::of("bench", &n.to_string())).collect();
    for function in &functions {
        queue.intern(*function).expect("room");
    }
    let frames: Vec<FrameBuf> = (0..CALLS).map(|n| submit(n, functions[n % 1000])).collect();
    let mut outcomes: Vec<FrameBuf> = (0..BATCH).map(|_| FrameBuf::with_capacity(256)).collect();
    // The first part warms up caches, page tables and the ring of ended calls.
    let (warm, rest) = frames.split_at(CALLS / 4);
    run(&mut queue, &mut memory, warm, &mut outcomes);
    let before = allocations();
    let start = cpu_ns();
    run(&mut queue, &mut memory, rest, &mut outcomes);
    let ns = (cpu_ns() - start) / rest.len() as f64;
    let allocations = (allocations() - before) as f64 / rest.len() as f64;
    println!(
        "{ns:.0} ns of CPU per submit + lease + done (making the outcome frame included), {allocations:.4} allocations per call"
    );
}

fn block(bytes: usize) -> FrameBuf {
    let mut block = FrameBuf::new();
    block.resize(bytes, 0);
    block
}

fn submit(number: usize, function: FunctionId) -> FrameBuf {
    let mut out = FrameBuf::new();
    let random = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let submit = Submit {
        call: CallId::new(1_700_000_000_000 + number as u64 / 1000, random),
        function,
        start_at: WallTime(0),
        deadline: WallTime(0),
        criticality: 0,
        want_outcome: false,
        arguments: Arguments { payload: &[7; 128], attributes: &[] },
        ..Submit::default()
    };
    append_submit(&mut out, &submit).expect("small");
    out
}

/// Every write is done at once.
fn disk(queue: &mut DurableQ, memory: &mut Memory) {
    while let Some(op) = queue.next_op(memory) {
        match op {
            LogOp::Create { segment, .. } | LogOp::Recycle { segment, .. } => queue.created(segment, Ok(())),
            LogOp::Write { group, .. } => queue.written(group, Ok(())),
            LogOp::Read { .. } => unreachable!("what waits here is never due"),
            LogOp::Remove { segment } => queue.removed(segment, Ok(())),
        }
    }
    while let Some(event) = queue.next_event() {
        assert!(matches!(event, Event::Verdict { .. }));
    }
}

/// CPU time of this thread, ns: other programs on the machine do not count.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")
        .expect("a Linux kernel with CONFIG_SCHED_INFO");
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds on a CPU come first")
}

/// Batches through the whole cycle.
fn run(queue: &mut DurableQ, memory: &mut Memory, frames: &[FrameBuf], outcomes: &mut [FrameBuf]) {
    let reply = Reply::new(&Usage::default(), &[], &[]);
    let mut leases = [Header::new(Kind::Lease); BATCH];
    for batch in frames.chunks(BATCH) {
        queue.advance(Instant(1), WallTime(1));
        for bytes in batch {
            // Parsed by the driver in life, which checks it there.
            let frame = Frame::parsed_before(&bytes[..bytes.len() - bytes.len() % 16]);
            let function = queue.function(frame.function()).expect("interned");
            queue.submit(memory, frame, function, Origin(1)).expect("room");
        }
        disk(queue, memory);
        let mut leased = 0;
        while let Some(function) = queue.next_due() {
            while let Some(offer) = queue.poll(function, &DEFAULTS) {
                leases[leased] = queue.lease(offer.call, HolderRef(0), &DEFAULTS).expect("live").header;
                leased += 1;
                if leased == batch.len() {
                    break;
                }
            }
        }
        for (lease, out) in leases[..leased].iter().zip(outcomes.iter_mut()) {
            out.clear();
            append_outcome(out, lease, Status::Ok, &reply).expect("small");
        }
        for out in &outcomes[..leased] {
            let frame = Frame::parsed_before(out);
            queue.settle(memory, frame, &RetrySpec::default(), 0).expect("live");
        }
        disk(queue, memory);
    }
}
