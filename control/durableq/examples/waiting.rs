//! What many waiting calls cost: memory for each, recovery after a kill, cycles beside them, and the instant at which a
//! part of them falls due. On real files, by plain reads and writes of one thread: a disk's speed is in it, a ring's
//! overlap is not.
//!
//! `cargo run --release -p durableq --example waiting -- CALLS DIRECTORY`; the directory must not exist.

use call::body::{Arguments, Reply, Submit, append_outcome, append_submit};
use call::frame::FrameBuf;
use call::function::RetrySpec;
use call::limits::Limits;
use call::{CallId, Frame, FunctionId, Header, Instant, Kind, Status, Usage, WallTime};
use durableq::log::segment_name;
use durableq::{Blocks, Defaults, DurableQ, HolderRef, LogOp, Origin, Recovery, block_count};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

struct Memory(Vec<FrameBuf>);

impl Blocks for Memory {
    fn block(&mut self, number: u32) -> &mut [u8] {
        &mut self.0[number as usize]
    }
}

const BATCH: usize = 1024;
const FUNCTIONS: usize = 10_000;
const DEFAULTS: Defaults = Defaults { criticality: 100, deadline_ns: 1_000_000_000 };
const NOW: u64 = 1_700_000_000_000_000_000;
const SOON: u64 = NOW + 60_000_000_000;
const FAR: u64 = NOW + 3_600_000_000_000;

struct Bench {
    queue: DurableQ,
    memory: Memory,
    directory: PathBuf,
    files: BTreeMap<u64, File>,
    functions: Vec<FunctionId>,
    limits: Limits,
    frame: FrameBuf,
    calls: u128,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let calls: usize = arguments.next().and_then(|text| text.parse().ok()).expect("CALLS DIRECTORY");
    let directory = PathBuf::from(arguments.next().expect("CALLS DIRECTORY"));
    std::fs::create_dir(&directory).expect("a directory that does not exist");
    // Of what waits, so many fall due at once.
    let burst = calls / 10;
    let mut bench = Bench::new(calls, directory);
    let before = resident_bytes();
    for n in 0..calls {
        bench.submit(n, if n < burst { SOON } else { FAR }, n % BATCH == BATCH - 1);
    }
    bench.settle_disk();
    let counters = bench.queue.counters();
    println!(
        "{} waiting, {} on disk only, {} segments",
        counters.pending_now, counters.parked_now, counters.segments_now
    );
    println!("memory per waiting call: {:.1} B", (resident_bytes() - before) as f64 / calls as f64);
    let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
    bench.restart();
    println!(
        "recovery: {:.2} s, {:.2} s of CPU, for {} calls",
        start.elapsed().as_secs_f64(),
        cpu_seconds() - cpu,
        bench.queue.counters().recovered
    );
    println!("memory after it: {:.1} B per call", (resident_bytes() - before) as f64 / calls as f64);
    bench.cycles(calls.min(2_000_000));
    bench.fall_due(burst);
    std::fs::remove_dir_all(&bench.directory).expect("ours");
}

impl Bench {
    fn new(calls: usize, directory: PathBuf) -> Bench {
        let calls_max = (calls + 65_536).next_power_of_two();
        let limits = Limits { calls_max, ..Limits::default() };
        let block = || {
            let mut block = FrameBuf::new();
            block.resize(limits.group_bytes, 0);
            block
        };
        let memory = Memory((0..block_count(&limits)).map(|_| block()).collect());
        let functions = (0..FUNCTIONS).map(|n| FunctionId::of("bench", &n.to_string())).collect();
        let queue = Recovery::new(&limits).finish(Instant(1), WallTime(NOW), 7);
        let files = BTreeMap::new();
        let mut bench =
            Bench { queue, memory, directory, files, functions, limits, frame: FrameBuf::new(), calls: 0 };
        bench.intern();
        bench
    }

    fn intern(&mut self) {
        for function in &self.functions {
            self.queue.intern(*function).expect("room");
        }
    }

    fn submit(&mut self, function: usize, start_at: u64, flush: bool) {
        self.calls += 1;
        let random = self.calls.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let function = self.functions[function % FUNCTIONS];
        let submit = Submit {
            call: CallId::new(NOW / 1_000_000 + (self.calls / 1000) as u64, random),
            function,
            start_at: WallTime(start_at),
            arguments: Arguments { payload: &[7; 128], attributes: &[] },
            ..Submit::default()
        };
        self.frame.clear();
        append_submit(&mut self.frame, &submit).expect("small");
        loop {
            let (frame, _) = Frame::parse(&self.frame).expect("a frame");
            let at = self.queue.function(function).expect("interned");
            if self.queue.submit(&mut self.memory, frame, at, Origin(1)).is_ok() {
                break;
            }
            self.settle_disk();
        }
        if flush {
            self.settle_disk();
        }
    }

    fn settle_disk(&mut self) {
        while let Some(op) = self.queue.next_op(&mut self.memory) {
            match op {
                LogOp::Create { segment, bytes } => {
                    let path = self.directory.join(segment_name(segment));
                    let file =
                        OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("made");
                    file.set_len(bytes).expect("room");
                    self.files.insert(segment, file);
                    self.queue.created(segment, Ok(()));
                }
                LogOp::Write { segment, offset, block, bytes, group } => {
                    let block = &self.memory.block(block)[..bytes];
                    self.files[&segment].write_all_at(block, offset).expect("written");
                    self.queue.written(group, Ok(()));
                }
                LogOp::Read { segment, offset, block, bytes, read } => {
                    let into = &mut self.memory.block(block)[..bytes];
                    let found =
                        self.files[&segment].read_at(into, offset).map_err(|e| e.raw_os_error().unwrap_or(5));
                    self.queue.read(&mut self.memory, read, found);
                }
                LogOp::Recycle { from, segment } => {
                    let names = (segment_name(from), segment_name(segment));
                    std::fs::rename(self.directory.join(names.0), self.directory.join(names.1))
                        .expect("renamed");
                    let file = self.files.remove(&from).expect("there");
                    self.files.insert(segment, file);
                    self.queue.created(segment, Ok(()));
                }
                LogOp::Remove { segment } => {
                    std::fs::remove_file(self.directory.join(segment_name(segment))).expect("removed");
                    self.files.remove(&segment);
                    self.queue.removed(segment, Ok(()));
                }
            }
        }
        while self.queue.next_event().is_some() {}
    }

    /// The process is killed, and another one reads the log.
    fn restart(&mut self) {
        // Given back before the next is taken, as a process that ends does.
        let small = Limits::small();
        self.queue = Recovery::new(&small).finish(Instant(1), WallTime(NOW), 7);
        let mut recovery = Recovery::new(&self.limits);
        let mut block = FrameBuf::new();
        block.resize(self.limits.group_bytes, 0);
        let bytes = |file: &File| file.metadata().expect("there").len();
        recovery.segments(self.files.iter().map(|(number, file)| (*number, bytes(file))));
        while let Some((number, offset)) = recovery.next_read() {
            let bytes = self.files[&number].read_at(&mut block, offset).expect("read");
            recovery.feed(&block[..bytes]).expect("sound");
        }
        self.queue = recovery.finish(Instant(1), WallTime(NOW), 7);
        self.intern();
        self.settle_disk();
    }

    /// Calls that come and go beside those that wait.
    fn cycles(&mut self, count: usize) {
        let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
        let mut done = 0;
        while done < count {
            for n in 0..BATCH {
                self.submit(n, 0, false);
            }
            self.settle_disk();
            done += self.run();
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        let us = (cpu_seconds() - cpu) * 1e6 / done as f64;
        println!("submit + lease + ACK beside them: {:.0} K/s, {us:.2} us of CPU each", rate / 1e3);
    }

    /// Many fall due at once.
    fn fall_due(&mut self, count: usize) {
        let start = std::time::Instant::now();
        self.queue.advance(Instant(2), WallTime(SOON));
        let due = start.elapsed().as_secs_f64();
        let mut done = 0;
        while done < count {
            done += self.run();
        }
        let (all, counters) = (start.elapsed().as_secs_f64(), self.queue.counters());
        println!(
            "{count} due at once: {due:.2} s until all are, {all:.2} s until all have ended; {} read back",
            counters.read_back
        );
        assert_eq!(counters.damaged, 0);
    }

    /// Leases what is due and in memory, and ends it. How many.
    fn run(&mut self) -> usize {
        let reply = Reply::new(&Usage::default(), &[], &[]);
        let mut done = 0;
        while let Some(function) = self.queue.next_due() {
            while let Some(offer) = self.queue.poll(function, &DEFAULTS) {
                let lease = self.queue.lease(offer.call, HolderRef(0), &DEFAULTS).expect("live").header;
                let lease = Header { kind: Kind::Lease, ..lease };
                self.frame.clear();
                append_outcome(&mut self.frame, &lease, Status::Ok, &reply).expect("small");
                let (outcome, _) = Frame::parse(&self.frame).expect("a frame");
                self.queue.settle(&mut self.memory, outcome, &RetrySpec::default(), 0).expect("live");
                done += 1;
            }
        }
        self.settle_disk();
        done
    }
}

/// CPU time of this thread: other programs on the machine do not count, but for the caches.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("nanoseconds on a CPU come first")
        / 1e9
}

/// Resident memory of this process that belongs to no file.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of the kernel's");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
