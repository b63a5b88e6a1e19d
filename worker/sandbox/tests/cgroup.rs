//! Control groups, on the real kernel: what is limited is limited, what is killed is gone, and nothing is left.
//!
//! The last test runs all of them again in a small VM with true cgroup v2; see `tests/vm/run`.

mod platform;
mod vm;

use platform::{Actor, PATIENCE, Platform, each, told, until};
use sandbox::cgroup::{Controller, Hierarchy, Limits, Parent, Version};
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Not a test: what the processes inside do.
#[test]
fn part() {
    platform::play();
}

fn memory_is(platform: &Platform) -> Version {
    platform.hierarchy.bound(Controller::Memory).expect("it is enough").0
}

/// Something that wants 256 MiB must not get them.
fn check_memory(platform: &Platform, limits: &Limits) {
    let mut group = platform.group("hog");
    told(group.apply(limits));
    let mut neighbour_group = platform.group("neighbour");
    let mut neighbour = Actor::start(&neighbour_group, "sleep");
    let mut beside = Actor::start(&group, "sleep");
    let watch = told(group.watch_oom());
    let mut hog = Actor::start(&group, &format!("memory={}", 256 * MIB));
    let status = hog.wait();
    assert!(status.code().is_none(), "it got all that it wanted: {status}");
    until("the count of kills", || told(group.oom_kills()) > 0);
    assert!(is_ready(&watch), "the watch was not told");
    assert!(told(group.memory_peak_bytes()) <= limits.memory_max_bytes);
    assert!(told(group.memory_peak_bytes()) > limits.memory_max_bytes / 2);
    match memory_is(platform) {
        Version::One => assert!(beside.is_running(), "v1 kills one process"),
        Version::Two => assert!(beside.wait().code().is_none(), "v2 kills all of the group"),
    }
    assert!(neighbour.is_running() && told(neighbour_group.oom_kills()) == 0, "a neighbour was hit");
    for group in [&mut group, &mut neighbour_group] {
        told(group.kill());
        told(group.remove_within(PATIENCE));
    }
}

fn is_ready(watch: &sandbox::cgroup::Watch) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let flags = match watch.interest {
        sandbox::cgroup::Interest::Readable => PollFlags::POLLIN,
        sandbox::cgroup::Interest::Priority => PollFlags::POLLPRI,
    };
    let ready = |timeout: PollTimeout| {
        poll(&mut [PollFd::new(watch.descriptor.as_fd(), flags)], timeout).expect("poll") == 1
    };
    let was = ready(PollTimeout::from(5000u16));
    watch.clear();
    was && !ready(PollTimeout::ZERO)
}

#[test]
fn a_memory_hog_is_ended_and_counted_and_its_neighbour_is_not() {
    let limits = Limits { memory_max_bytes: 48 * MIB, may_swap: false, ..Limits::NONE };
    each(|platform| check_memory(platform, &limits));
}

#[test]
#[should_panic(expected = "it got all that it wanted")]
fn canary_a_memory_limit_that_is_not_there_is_seen() {
    each(|platform| check_memory(platform, &Limits::NONE));
    unreachable_if_skipped("it got all that it wanted");
}

/// A canary that could not run panics with the text that is expected of it; the skip was told before.
fn unreachable_if_skipped(text: &str) {
    panic!("{text} (skipped)");
}

/// A fork bomb must stop at the limit, and be gone after one kill.
fn check_forks(platform: &Platform, limits: &Limits) {
    const PIDS: u64 = 24;
    let mut group = platform.group("bomb");
    told(group.apply(limits));
    let mut bomb = Actor::start(&group, "fork");
    until("a bomb", || told(group.forks_refused()) > 0 || told(group.processes()) > PIDS);
    assert!(told(group.processes()) <= PIDS, "the bomb went off");
    // Room again: it must be killed while it forks.
    told(group.apply(&Limits { pids_max: 200, ..limits.clone() }));
    told(group.kill());
    until("an empty group", || told(group.is_empty()));
    assert!(bomb.wait().code().is_none());
    told(group.remove_within(PATIENCE));
    assert_eq!(told(platform.parent.groups()), Vec::<String>::new());
}

#[test]
fn a_fork_bomb_stops_at_its_limit_and_one_kill_ends_all_of_it() {
    each(|platform| check_forks(platform, &Limits { pids_max: 24, ..Limits::NONE }));
}

#[test]
#[should_panic(expected = "the bomb went off")]
fn canary_a_limit_of_processes_that_is_not_there_is_seen() {
    each(|platform| check_forks(platform, &Limits::NONE));
    unreachable_if_skipped("the bomb went off");
}

/// Part of a CPU that the group of [`check_quota`] may have.
const QUOTA: f64 = 0.05;

/// Part of a CPU that a group got, and for how long it was held back.
fn check_quota(platform: &Platform, limits: &Limits) {
    let mut group = platform.group("busy");
    told(group.apply(limits));
    let _busy = Actor::start(&group, "spin");
    let (start, before) = (Instant::now(), told(group.cpu_ns()));
    let share = || (told(group.cpu_ns()) - before) as f64 / start.elapsed().as_nanos() as f64;
    // A host that is busy with other tests may give less than the quota for seconds on end, and then nothing has to be
    // held back; more than the quota it must never be.
    until("2 s, and an end of the quota", || {
        let is_throttled = told(group.throttled_ns()) > 0;
        start.elapsed() > Duration::from_secs(2) && (is_throttled || share() > 2.0 * QUOTA)
    });
    let (share, held) = (share(), told(group.throttled_ns()));
    eprintln!("got {share:.3} of a CPU, held back for {} ms", held / 1_000_000);
    assert!(share < QUOTA * 1.5, "it got {share:.3} of a CPU");
    told(group.kill());
    told(group.remove_within(PATIENCE));
}

#[test]
fn a_quota_of_cpu_time_holds() {
    each(|platform| check_quota(platform, &Limits { cpu_milli: 50, ..Limits::NONE }));
}

#[test]
#[should_panic(expected = "of a CPU")]
fn canary_a_quota_that_is_not_there_is_seen() {
    each(|platform| check_quota(platform, &Limits::NONE));
    unreachable_if_skipped("of a CPU");
}

#[test]
fn weights_share_a_cpu_that_is_short() {
    each(|platform| {
        let cpu = first_cpu();
        let groups = [("light", 100), ("heavy", 300)].map(|(name, cpu_weight)| {
            let mut group = platform.group(name);
            told(group.apply(&Limits { cpu_weight, cpus: vec![cpu], ..Limits::NONE }));
            group
        });
        let _busy = groups.each_ref().map(|group| Actor::start(group, "spin"));
        let used = || groups.each_ref().map(|group| told(group.cpu_ns()));
        until("a start of both", || used().iter().all(|used| *used > 100_000_000));
        let before = used();
        until("1.5 s of CPU", || used().iter().sum::<u64>() - before.iter().sum::<u64>() > 1_500_000_000);
        let after = used();
        let ratio = (after[1] - before[1]) as f64 / (after[0] - before[0]) as f64;
        eprintln!("three times the weight got {ratio:.2} times the CPU");
        assert!((2.0..4.5).contains(&ratio), "{ratio}");
        groups.iter().for_each(|group| told(group.kill()));
    });
}

#[test]
fn a_group_that_stands_back_leaves_the_cpu_to_others() {
    each(|platform| {
        let cpu = first_cpu();
        let mut groups = ["one", "other"].map(|name| {
            let mut group = platform.group(name);
            told(group.apply(&Limits { cpus: vec![cpu], pids_max: 8, cpu_weight: 99, ..Limits::NONE }));
            group
        });
        let _busy = groups.each_ref().map(|group| Actor::start(group, "spin"));
        // How much more the first one gets than the second while both together get this much.
        let ratio = |groups: &[sandbox::cgroup::Group; 2]| {
            let used = || groups.each_ref().map(|group| told(group.cpu_ns()));
            let before = used();
            let sum = |used: [u64; 2]| used.iter().sum::<u64>();
            until("0.7 s of CPU", || sum(used()) - sum(before) > 700_000_000);
            let after = used();
            (after[0] - before[0]) as f64 / (after[1] - before[1]).max(1) as f64
        };
        told(groups[1].stand_back(true));
        let stood_back = ratio(&groups);
        told(groups[1].stand_back(false));
        eprintln!("{stood_back:.1} times the CPU of one that stands back");
        assert!(stood_back > 6.0, "{stood_back}");
        // What the scheduler owes from before is paid back first.
        until("equal shares again", || ratio(&groups) < 3.0);
        groups.iter().for_each(|group| told(group.kill()));
    });
}

fn first_cpu() -> u32 {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("a set of CPUs");
    (0..1024).find(|cpu| set.is_set(*cpu).unwrap_or(false)).expect("a CPU") as u32
}

#[test]
fn writes_to_the_disk_are_slowed_down() {
    each(|platform| {
        let mut group = platform.group("writer");
        let limits = Limits { io_bytes: MIB, ..Limits::NONE };
        if let Err(error) = group.apply(&limits) {
            let why = error.to_string();
            assert!(why.contains("io controller") && why.contains("disk"), "{why}");
            eprintln!("SKIPPED: writes to the disk, because {why}");
            return;
        }
        let file = platform.data.path().join("written");
        let start = Instant::now();
        let mut writer = Actor::start(&group, &format!("write={}", file.display()));
        assert_eq!(writer.wait().code(), Some(42));
        let elapsed = start.elapsed();
        assert!(elapsed > Duration::from_millis(1200), "2 MiB at 1 MiB/s in {elapsed:?}");
        told(group.apply(&Limits::NONE));
        told(group.remove_within(PATIENCE));
    });
}

#[test]
fn limits_change_while_processes_run() {
    each(|platform| {
        let mut group = platform.group("changing");
        let mut actor = Actor::start(&group, "sleep");
        let all = Limits {
            cpu_weight: 50,
            cpu_milli: 500,
            cpus: vec![first_cpu()],
            memory_max_bytes: 256 * MIB,
            memory_high_bytes: 192 * MIB,
            may_swap: false,
            pids_max: 9,
            io_bytes: 0,
        };
        let smaller = Limits { cpu_milli: 5, memory_max_bytes: 128 * MIB, pids_max: 5, ..all.clone() };
        for limits in [&all, &smaller, &all, &Limits::NONE, &all] {
            told(group.apply(limits));
        }
        let files = match memory_is(platform) {
            Version::One => [
                (Controller::Memory, "memory.limit_in_bytes", 256 * MIB),
                (Controller::Cpu, "cpu.shares", 512),
            ],
            Version::Two => {
                [(Controller::Memory, "memory.max", 256 * MIB), (Controller::Cpu, "cpu.weight", 50)]
            }
        };
        for (controller, file, value) in files {
            let base = platform.hierarchy.bound(controller).expect("it is enough").1;
            let path = base.join(platform.parent.name()).join("changing").join(file);
            let text = std::fs::read_to_string(&path).expect("the kernel's file");
            assert_eq!(text.trim(), value.to_string(), "{}", path.display());
        }
        assert!(cpus_of(actor.child.id()).trim() == first_cpu().to_string(), "it followed into cpuset");
        assert!(actor.is_running());
        told(group.kill());
        told(group.remove_within(PATIENCE));
    });
}

fn cpus_of(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a line").to_owned()
}

#[test]
fn a_peak_begins_anew() {
    each(|platform| {
        let mut group = platform.group("peak");
        let mut actor = Actor::start(&group, &format!("memory={}", 32 * MIB));
        assert_eq!(actor.wait().code(), Some(42));
        let before = told(group.memory_peak_bytes());
        assert!(before > 32 * MIB, "{before}");
        match told(group.reset_peak()) {
            true => assert!(told(group.memory_peak_bytes()) < before),
            false => eprintln!("this kernel cannot begin a peak anew"),
        }
        assert!(told(group.memory_bytes()) <= before);
    });
}

#[test]
fn two_platforms_do_not_see_each_other() {
    each(|platform| {
        let other = Platform::open(Hierarchy::discover());
        let (_one, two) = (platform.group("same"), other.group("same"));
        let mut theirs = Actor::start(&two, "sleep");
        other.group("more");
        assert_eq!(told(platform.parent.groups()), ["same"]);
        assert_eq!(told(other.parent.groups()), ["more", "same"]);
        told(platform.parent.clear_within(PATIENCE));
        assert_eq!(told(platform.parent.groups()), Vec::<String>::new());
        assert!(theirs.is_running() && !told(two.is_empty()), "the other platform's process was hit");
    });
}

#[test]
fn what_a_predecessor_left_is_found_and_removed_wherever_it_was() {
    each(|platform| {
        let mut orphan = Actor::start(&platform.group("left"), "fork");
        // The predecessor may have been started in another group.
        let base = platform.hierarchy.bound(Controller::Pids).expect("it is enough").1;
        let elsewhere = base.join("millrace-test-elsewhere").join(platform.parent.name()).join("old");
        std::fs::create_dir_all(&elsewhere).expect("a group");
        let successor = told(Parent::open(&platform.hierarchy, platform.data.path()));
        assert_eq!(told(successor.groups()), ["left"]);
        assert!(told(successor.clear_within(PATIENCE)) >= 2);
        assert!(orphan.wait().code().is_none());
        assert_eq!(told(successor.groups()), Vec::<String>::new());
        std::fs::remove_dir(base.join("millrace-test-elsewhere")).expect("it is empty");
    });
}

#[test]
fn a_group_can_be_removed_after_its_process_was_killed() {
    each(|platform| {
        let mut group = platform.group("short");
        let mut actor = Actor::start(&group, "sleep");
        until("a process", || told(group.processes()) > 0);
        assert!(!told(group.remove()), "something is in it");
        actor.child.kill().expect("it runs");
        // Not waited for: a zombie does not hold a group.
        told(group.remove_within(PATIENCE));
        assert!(told(group.remove()), "again is no error");
        assert_eq!(told(platform.parent.groups()), Vec::<String>::new());
        drop(platform.group("short"));
    });
}

#[test]
fn a_process_can_be_added_and_cloned_into_a_group() {
    each(|platform| {
        let group = platform.group("entered");
        let outside = platform.group("outside");
        let added = Actor::start(&outside, "sleep");
        told(group.add(added.child.id() as i32));
        until("its threads", || told(group.processes()) > 0 && told(outside.is_empty()));
        let entry = told(group.entry());
        let Some(directory) = entry.unified() else { return };
        let pid = clone_into(directory);
        let base = platform.hierarchy.unified_base().expect("there is a v2 tree");
        let procs = base.join(platform.parent.name()).join("entered/cgroup.procs");
        let listed = std::fs::read_to_string(procs).expect("the kernel's file");
        assert!(listed.lines().any(|line| line == pid.to_string()), "{pid} is not in {listed:?}");
        told(group.kill());
        let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).expect("our child");
        assert!(matches!(status, nix::sys::wait::WaitStatus::Signaled(..)), "{status:?}");
    });
}

/// Of <linux/sched.h>; the constant of the libc crate is an `int`, too short for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child that waits for a signal.
fn clone_into(directory: std::os::fd::BorrowedFd<'_>) -> i32 {
    use std::os::fd::AsRawFd;
    // SAFETY: zero is a valid value of every field.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = directory.as_raw_fd() as u64;
    // SAFETY: the arguments are as the kernel documents them; the child makes system calls only and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    if pid == 0 {
        loop {
            // SAFETY: no pointer is passed.
            unsafe { libc::pause() };
        }
    }
    assert!(pid > 0, "clone3: {}", std::io::Error::last_os_error());
    pid as i32
}

#[test]
fn errors_name_the_file_the_reason_and_the_remedy() {
    each(|platform| {
        let taken = platform.group("taken");
        let error = platform.parent.make("taken").unwrap_err().to_string();
        assert!(error.contains("/taken: File exists"), "{error}");
        drop(taken);
        let mut gone = platform.group("gone");
        assert!(told(gone.remove()));
        let error = gone.memory_bytes().unwrap_err().to_string();
        assert!(error.contains("no memory controller"), "{error}");
        let mut group = platform.group("beyond");
        let error = group.apply(&Limits { cpus: vec![9999], ..Limits::NONE }).unwrap_err().to_string();
        assert!(error.contains("9999") && error.contains("cpuset.cpus") && error.contains("; "), "{error}");
    });
    let none = Hierarchy::of("", "");
    let error = Parent::open(&none, Path::new("/")).unwrap_err().to_string();
    assert!(error.contains("no cgroup file system is mounted; mount -t cgroup2"), "{error}");
}

#[test]
fn a_limit_that_nothing_enforces_is_refused() {
    each(|platform| {
        if memory_is(platform) == Version::Two {
            return;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let some: String =
            mounts.lines().filter(|line| line.ends_with(",memory")).flat_map(|line| [line, "\n"]).collect();
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("/proc is mounted");
        let only = Platform::open(Hierarchy::of(&some, &own));
        assert_eq!(only.hierarchy.lacking(), ["cpu", "pids"]);
        let error = only.group("a").apply(&Limits { pids_max: 5, ..Limits::NONE }).unwrap_err();
        assert!(error.to_string().contains("no pids controller"), "{error}");
    });
}

/// All the tests above once more, on a kernel with true cgroup v2: this executable in a small VM.
#[test]
fn the_same_on_true_cgroup_v2() {
    if std::env::var_os(vm::INSIDE).is_some() {
        return;
    }
    let executable = std::env::current_exe().expect("a test has a path");
    let canary = "/bin/false".to_owned();
    let Some(ran) = vm::run(&[executable.display().to_string(), canary]) else { return };
    assert!(ran.first_line.contains("cpuset cpu io memory"), "{}", ran.first_line);
    let [tests, canary] = &ran.commands[..] else { panic!("{ran:?}") };
    eprintln!("{}", tests.output);
    // Each test of this file by name, so that none is lost on the way.
    let names = include_str!("cgroup.rs").split("\n#[test]\n").skip(1).map(|text| {
        text.lines().find_map(|line| line.strip_prefix("fn ")?.split('(').next()).expect("a test has a name")
    });
    for name in names {
        let line = tests.output.lines().find(|line| line.starts_with(&format!("test {name} ")));
        assert!(line.is_some_and(|line| line.ends_with("... ok")), "{name}: {line:?}");
    }
    assert_eq!(tests.status, 0, "in the VM");
    assert_ne!(canary.status, 0, "a command that fails is seen");
}
