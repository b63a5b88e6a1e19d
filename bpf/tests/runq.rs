//! On the running kernel: what `runq.bpf.c` says of processes whose habits are known. Needs root; says so otherwise.

use bpf::{BpfError, CoreSched, RunQueue};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn bash(script: &str) -> Process {
        let child =
            Command::new("bash").args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Process(child.expect("bash can be started"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The programs, or none where this user may not load them or this kernel cannot: said past the test harness, which
/// would swallow it. A program that the kernel refuses is a failure.
fn attach(pids: &[u32]) -> Option<RunQueue> {
    let error = match RunQueue::attach(pids) {
        Ok(run_queue) => return Some(run_queue),
        Err(error) => error,
    };
    assert!(!matches!(error, BpfError::Refused { .. } | BpfError::NoProcess(_)), "{error}");
    let _ = writeln!(std::io::stderr(), "SKIPPED bpf/tests/runq.rs, nothing was tested: {error}");
    None
}

/// Reads until `enough`, for a minute at most.
fn read_until(run_queue: &RunQueue, enough: impl Fn(&[CoreSched]) -> bool) -> Vec<CoreSched> {
    let start = Instant::now();
    loop {
        let read = run_queue.read().expect("what is attached can be read");
        if enough(&read) {
            return read;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never seen: {read:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn of(read: &[CoreSched], process: &Process) -> CoreSched {
    *read.iter().find(|core| core.pid == process.pid()).expect("each watched process is read")
}

#[test]
fn a_busy_process_and_a_sleeper_are_told_apart() {
    let busy = Process::bash("while :; do :; done");
    // Sleeps in the shell itself: each time-out of `read` is one wake-up.
    let napper = Process::bash("exec 3<> <(:); while :; do read -t 0.005 -u 3; done");
    let idle = Process::bash("exec 3<> <(:); read -t 3600 -u 3");
    let Some(run_queue) = attach(&[busy.pid(), napper.pid(), idle.pid()]) else { return };
    let read = read_until(&run_queue, |read| {
        of(read, &busy).cpu_ns > 500_000_000 && of(read, &napper).delays.count() > 50
    });
    let (busy, napper, idle) = (of(&read, &busy), of(&read, &napper), of(&read, &idle));
    assert!(busy.cpu_ns > 4 * napper.cpu_ns, "{busy:?} against {napper:?}");
    assert!(napper.cpu_ns > idle.cpu_ns && napper.switches > idle.switches, "{napper:?} against {idle:?}");
    assert!(napper.switches >= 50, "it sleeps each time it is woken: {napper:?}");
    let median = napper.delays.quantile(0.5).expect("it has waited");
    assert!(median < Duration::from_secs(1), "half of its wake-ups took more than {median:?}");
}

#[test]
fn a_process_that_is_watched_later_counts_from_then_on() {
    let (first, second) = (Process::bash("while :; do :; done"), Process::bash("while :; do :; done"));
    let Some(run_queue) = attach(&[first.pid()]) else { return };
    let read = read_until(&run_queue, |read| of(read, &first).cpu_ns > 200_000_000);
    assert_eq!(read.len(), 1, "only the first is watched: {read:?}");
    run_queue.watch(second.pid()).expect("there is room");
    let read = read_until(&run_queue, |read| of(read, &second).cpu_ns > 50_000_000);
    assert!(of(&read, &first).cpu_ns > 200_000_000, "counters only grow: {read:?}");
}

#[test]
fn cpu_time_agrees_with_the_kernels_own_account() {
    let busy = Process::bash("while :; do :; done");
    let Some(run_queue) = attach(&[busy.pid()]) else { return };
    let (before, seen_before) = (kernels_cpu_ns(busy.pid()), of(&run_queue.read().unwrap(), &busy).cpu_ns);
    let read = read_until(&run_queue, |read| of(read, &busy).cpu_ns > seen_before + 1_000_000_000);
    let (ours, kernels) = (of(&read, &busy).cpu_ns - seen_before, kernels_cpu_ns(busy.pid()) - before);
    let apart = ours.abs_diff(kernels) as f64 / kernels as f64;
    // Interrupts and steal are accounted differently; ticks and the two reads are milliseconds apart.
    assert!(apart < 0.25, "{ours} ns against the kernel's {kernels} ns");
}

/// `se.sum_exec_runtime` of the only thread of a process.
fn kernels_cpu_ns(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process lives");
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("the first number is CPU time")
}
