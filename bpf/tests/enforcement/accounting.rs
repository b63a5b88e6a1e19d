//! What the counters say of processes whose habits are known.

use crate::harness::{Inside, Platform, unified, until};
use bpf::{Counters, Strangers};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

fn counters(platform: &mut Platform) -> Counters {
    platform.enforcement().counters().expect("they can be mapped")
}

#[test]
fn cpu_time_agrees_with_the_kernels_own_account() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let counters = counters(&mut platform);
    let before = counters.read(1);
    let answer = inside.does("burn 1000");
    let ours = counters.read(1).cpu_ns - before.cpu_ns;
    let kernels: u64 = answer.trim_start_matches("ok ").parse().expect("a time");
    let apart = ours.abs_diff(kernels) as f64 / kernels as f64;
    // Each is read at another instant: a slice that begins or ends in between is in one of both.
    assert!(apart < 0.05, "{ours} ns against the kernel's {kernels} ns");
    let other = counters.read(2);
    assert_eq!((other.cpu_ns, other.switches, other.page_faults), (0, 0, 0));
}

#[test]
fn the_slice_that_runs_now_is_counted() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let counters = counters(&mut platform);
    // Twice during one slice of some milliseconds: the same number of switches, more CPU time. On a host that is busy
    // with other things, neither of both may have a CPU for long: again.
    let mut grew = || {
        let (first, second) = (counters.read(1), counters.read(1));
        first.switches == second.switches && second.cpu_ns > first.cpu_ns
    };
    let seen = (0..20).any(|_| {
        let begun = Instant::now();
        inside.begins("burn 1000");
        let seen = std::iter::repeat_with(&mut grew).find(|seen| *seen || begun.elapsed() > BURNT);
        inside.answers();
        seen == Some(true)
    });
    assert!(seen, "the slice that runs now is never counted");
}

/// As long as something burns.
const BURNT: Duration = Duration::from_millis(1000);

#[test]
fn readings_are_consistent_while_slices_begin_and_end_everywhere() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let counters = counters(&mut platform);
    let cpus = std::thread::available_parallelism().expect("there is a CPU").get() as u64;
    let (start, first) = (Instant::now(), counters.read(1));
    inside.begins("threads 8 1500");
    let (mut before, mut reads) = (first, 0_u64);
    while start.elapsed() < Duration::from_millis(1500) {
        let now = counters.read(1);
        assert!(now.cpu_ns >= before.cpu_ns, "time went back: {before:?}, then {now:?}");
        assert!(now.switches >= before.switches);
        let most = start.elapsed().as_nanos() as u64 * cpus;
        assert!(now.cpu_ns - first.cpu_ns <= most, "{now:?} in {most} ns of all CPUs");
        before = now;
        reads += 1;
    }
    inside.answers();
    assert!(reads > 1000 && before.switches - first.switches > 500, "{reads} reads, {before:?}");
}

#[test]
fn waiting_for_a_cpu_is_in_the_histogram() {
    let Some(mut platform) = Platform::start() else { return };
    let (first, second) = (platform.sandbox(1, 1, None), platform.sandbox(2, 1, None));
    let (mut first, mut second) = (Inside::start(&[&first]), Inside::start(&[&second]));
    let mut one_cpu = CpuSet::new();
    one_cpu.set(0).expect("there is a CPU");
    for inside in [&first, &second] {
        // Also threads that libtest made before.
        for task in std::fs::read_dir(format!("/proc/{}/task", inside.pid())).expect("it lives").flatten() {
            let tid: i32 = task.file_name().to_string_lossy().parse().expect("a thread");
            sched_setaffinity(Pid::from_raw(tid), &one_cpu).expect("it may");
        }
    }
    first.begins("burn 1500");
    second.begins("burn 1500");
    first.answers();
    second.answers();
    let counters = counters(&mut platform);
    for index in [1, 2] {
        let (delays, usage) = (counters.delays(index), counters.read(index));
        assert!(delays.count() >= usage.switches / 2, "{delays:?} with {} switches", usage.switches);
        let longest = delays.quantile(1.0).expect("it waited");
        assert!(longest > Duration::from_micros(500), "they took turns: {delays:?}");
    }
    assert_eq!(counters.delays(3).count(), 0);
}

#[test]
fn page_faults_and_bytes_of_disks_are_counted() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let counters = counters(&mut platform);
    let before = counters.read(1);
    // Up to the end of the slice: when it waits for the next word.
    inside.does("touch 5000");
    until(|| counters.read(1).page_faults - before.page_faults, |more| *more >= 4000);
    let file = tempfile_on_disk();
    inside.does(&format!("write {file} 4000000"));
    let usage =
        until(|| counters.read(1), |usage| usage.block_write_bytes - before.block_write_bytes > 3_900_000);
    assert!(usage.block_write_bytes - before.block_write_bytes < 5_000_000, "{usage:?}");
    std::fs::remove_file(file).expect("it is there");
}

/// A file where files are on a disk: that of the build.
fn tempfile_on_disk() -> String {
    let folder = env!("CARGO_TARGET_TMPDIR");
    std::fs::create_dir_all(folder).expect("a folder");
    format!("{folder}/bpf-accounting-{}", std::process::id())
}

#[test]
fn system_calls_are_counted_if_asked_for() {
    let Some(mut platform) = Platform::with(Strangers::Denied, true) else { return };
    let (group, other) = (platform.sandbox(1, 1, None), platform.sandbox(2, 1, None));
    let (mut inside, _idle) = (Inside::start(&[&group]), Inside::start(&[&other]));
    let counters = counters(&mut platform);
    let (before, other_before) = (counters.read(1).syscalls, counters.read(2).syscalls);
    inside.does("ppid 10000");
    let more = counters.read(1).syscalls - before;
    assert!((10_000..10_200).contains(&more), "{more}");
    // It may still have been on its way to sleep.
    assert!(counters.read(2).syscalls - other_before < 20);
}

#[test]
fn a_row_goes_on_with_the_next_sandbox_and_nobody_writes_it() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    inside.does("burn 100");
    let counters = counters(&mut platform);
    drop(inside);
    let before = until(
        || counters.read(1),
        |_| std::fs::read_to_string(group.join("cgroup.procs")).unwrap().is_empty(),
    );
    platform.enforcement().dismiss(1).unwrap();
    assert_eq!(counters.read(1), before, "nothing runs");
    let next = platform.group_below("next");
    let cgroup_id = bpf::cgroup_id(&next).unwrap();
    let sandbox = bpf::Sandbox { cgroup_id, index: 1, function: 2, runtime_api: None };
    platform.enforcement().admit(&sandbox).unwrap();
    let mut inside = Inside::start(&[&next]);
    inside.does("burn 100");
    assert!(counters.read(1).cpu_ns - before.cpu_ns > 80_000_000);
    use std::os::fd::AsRawFd;
    let array = platform.enforcement().counters_fd().as_raw_fd();
    let writable = memmap2::MmapOptions::new().len(4096).map_raw(array);
    assert!(writable.is_err(), "it is frozen");
    assert!(unified().is_some());
}
