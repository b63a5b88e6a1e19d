//! What many waiting calls cost: memory for each, recovery after a kill, cycles beside them, and the instant at which a
//! part of them falls due. On real files, by plain reads and writes of one thread: a disk's speed is in it, a ring's
//! overlap is not. And the same log under a real node, which is killed and started again.
//!
//! `waiting [--json PATH] [--smoke] [--calls N]`: 10 M calls of 128 B in 10,000 functions, a tenth of which falls due.

use benches::{Figure, Report, killed};
use call::body::{Arguments, Reply, Submit, append_outcome, append_submit};
use call::frame::FrameBuf;
use call::function::RetrySpec;
use call::limits::Limits;
use call::{CallId, Frame, FunctionId, Header, Instant, Kind, Status, Usage, WallTime};
use durableq::log::segment_name;
use durableq::{Blocks, Defaults, DurableQ, HolderRef, LogOp, Origin, Recovery, block_count};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

struct Memory(Vec<FrameBuf>);

impl Blocks for Memory {
    fn block(&mut self, number: u32) -> &mut [u8] {
        &mut self.0[number as usize]
    }
}

/// Calls that wait.
const CALLS: usize = 10_000_000;
/// As many, to see that it runs.
const SMOKE_CALLS: usize = 50_000;
/// Calls between two waits for the disk.
const BATCH: usize = 1024;
const FUNCTIONS: usize = 10_000;
const DEFAULTS: Defaults = Defaults { criticality: 100, deadline_ns: 1_000_000_000 };
/// After the time at which the bench begins, ns: when a part of the calls falls due, and when the others do.
const SOON: u64 = 600_000_000_000;
const FAR: u64 = 24 * 3_600_000_000_000;
/// Of the functions.
const NAMESPACE: &str = "bench";

struct Bench {
    queue: DurableQ,
    memory: Memory,
    directory: PathBuf,
    files: BTreeMap<u64, File>,
    functions: Vec<FunctionId>,
    limits: Limits,
    frame: FrameBuf,
    calls: u128,
    /// When it began, Unix ns: a real node will read its log.
    now: u64,
    /// Allocations for names of files, which are this program's.
    own: u64,
}

fn main() -> io::Result<()> {
    let (mut json, mut calls) = (benches::scratch()?.join("report.json"), CALLS);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| io::Error::other(format!("{argument} wants a value")));
        match argument.as_str() {
            "--smoke" => calls = SMOKE_CALLS,
            "--json" => json = value()?.into(),
            "--calls" => calls = value()?.parse().map_err(io::Error::other)?,
            other => return Err(io::Error::other(format!("`{other}` is no option of this"))),
        }
    }
    let directory = benches::scratch()?.join(format!("waiting-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("alone"))?;
    let mut report = Report::default();
    let measured = measure(calls, &directory, &mut report);
    std::fs::remove_dir_all(&directory)?;
    measured?;
    report.write(&json)
}

fn measure(calls: usize, directory: &Path, report: &mut Report) -> io::Result<()> {
    let data = directory.join("node");
    let log = killed::data_directory(&data, FUNCTIONS, NAMESPACE)?;
    // Of what waits, so many fall due at once.
    let burst = calls / 10;
    let mut bench = Bench::new(calls, directory.join("alone"));
    let before = resident_bytes();
    for n in 0..calls {
        bench.submit(n, bench.now + if n < burst { SOON } else { FAR }, n % BATCH == BATCH - 1);
    }
    bench.settle_disk();
    let counters = bench.queue.counters();
    println!(
        "   {} waiting, {} on disk only, {} segments",
        counters.pending_now, counters.parked_now, counters.segments_now
    );
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / calls as f64;
    report.add(Figure::new("waiting-memory-per-call", each(resident_bytes()), "bytes").bar(96.0, 48.0));
    // The node gets the segments as they are: who has made them is gone, and nobody writes to them any more.
    for number in bench.files.keys().copied() {
        std::fs::hard_link(bench.directory.join(segment_name(number)), log.join(segment_name(number)))?;
    }
    let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
    bench.restart();
    let recovery = Figure::new("waiting-recovery", start.elapsed().as_secs_f64(), "s").bar(15.0, 5.0);
    report.add(recovery);
    let us = (cpu_seconds() - cpu) * 1e6 / calls as f64;
    report.add(Figure::new("waiting-recovery-cpu-per-call", us, "us"));
    report.add(Figure::new("waiting-memory-per-call-after-recovery", each(resident_bytes()), "bytes"));
    bench.cycles(calls.min(2_000_000), report);
    bench.fall_due(burst, report);
    let (function, calls_max) = (bench.functions[0], bench.limits.calls_max);
    drop(bench);
    let binary = std::env::current_exe()?.with_file_name("millrace");
    killed::measure(&binary, &data, function, (calls, calls_max), report)
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
        let functions = (0..FUNCTIONS).map(|n| FunctionId::of(NAMESPACE, &n.to_string())).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let queue = Recovery::new(&limits).finish(Instant(1), WallTime(now), 7).expect("sound");
        let files = BTreeMap::new();
        let mut bench = Bench {
            queue,
            memory,
            directory,
            files,
            functions,
            limits,
            frame: FrameBuf::new(),
            calls: 0,
            now,
            own: 0,
        };
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
            call: CallId::new(self.now / 1_000_000 + (self.calls / 1000) as u64, random),
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
            let allocated = counting::allocations();
            match op {
                LogOp::Create { segment, bytes } => {
                    let path = self.directory.join(segment_name(segment));
                    let file =
                        OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("made");
                    file.set_len(bytes).expect("room");
                    self.files.insert(segment, file);
                    self.own += counting::allocations() - allocated;
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
                    self.own += counting::allocations() - allocated;
                    self.queue.created(segment, Ok(()));
                }
                LogOp::Remove { segment } => {
                    std::fs::remove_file(self.directory.join(segment_name(segment))).expect("removed");
                    self.files.remove(&segment);
                    self.own += counting::allocations() - allocated;
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
        self.queue = Recovery::new(&small).finish(Instant(1), WallTime(self.now), 7).expect("sound");
        let mut recovery = Recovery::new(&self.limits);
        let mut block = FrameBuf::new();
        block.resize(self.limits.group_bytes, 0);
        let bytes = |file: &File| file.metadata().expect("there").len();
        recovery.segments(self.files.iter().map(|(number, file)| (*number, bytes(file))));
        while let Some((number, offset)) = recovery.next_read() {
            let bytes = self.files[&number].read_at(&mut block, offset).expect("read");
            recovery.feed(&block[..bytes]).expect("sound");
        }
        self.queue = recovery.finish(Instant(1), WallTime(self.now), 7).expect("sound");
        self.intern();
        self.settle_disk();
    }

    /// Calls that come and go beside those that wait.
    fn cycles(&mut self, count: usize, report: &mut Report) {
        // What a process needs once, it has after the first of them.
        self.cycle(count / 10);
        let allocations = |own: u64| counting::allocations() - own;
        let (start, cpu, allocated) = (std::time::Instant::now(), cpu_seconds(), allocations(self.own));
        let done = self.cycle(count) as f64;
        let each = (allocations(self.own) - allocated) as f64 / done;
        let rate = done / start.elapsed().as_secs_f64();
        report.add(Figure::new("waiting-cycle-rate", rate, "calls/s").bar(300e3, 600e3));
        let us = (cpu_seconds() - cpu) * 1e6 / done;
        report.add(Figure::new("waiting-cycle-cpu-per-call", us, "us"));
        report.add(Figure::new("waiting-cycle-allocations-per-call", each, "allocations").bar(0.0, 0.0));
    }

    fn cycle(&mut self, count: usize) -> usize {
        let mut done = 0;
        while done < count {
            for n in 0..BATCH {
                self.submit(n, 0, false);
            }
            self.settle_disk();
            done += self.run();
        }
        done
    }

    /// Many fall due at once.
    fn fall_due(&mut self, count: usize, report: &mut Report) {
        let start = std::time::Instant::now();
        self.queue.advance(Instant(2), WallTime(self.now + SOON));
        let due = start.elapsed().as_secs_f64();
        let mut done = 0;
        while done < count {
            done += self.run();
        }
        let all = start.elapsed().as_secs_f64();
        report.add(Figure::new("waiting-due-at-once", all, "s").bar(5.0, 2.0));
        report.add(Figure::new("waiting-due-at-once-until-all-are", due, "s"));
        assert_eq!(self.queue.counters().damaged, 0);
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
