//! Real groups for tests: made in each way that this host allows, with processes in them, removed at the end.

use sandbox::cgroup::{CgroupError, Group, Hierarchy, Parent, Version};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long something may take that takes milliseconds; only a broken one needs it all.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Names the part that a process of this test's executable plays, and its argument.
const PART: &str = "MILLRACE_TEST_PART";
/// No runaway reaches beyond this, should a limit not hold.
const FORKS_MAX: u64 = 400;

/// A platform's subtree for one test, with a data directory of its own.
pub struct Platform {
    pub parent: Parent,
    pub hierarchy: Hierarchy,
    pub data: tempfile::TempDir,
}

impl Platform {
    pub fn open(hierarchy: Hierarchy) -> Platform {
        // On a disk where there is one; `/tmp` may be memory.
        let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let data = if disk.is_dir() { tempfile::tempdir_in(disk) } else { tempfile::tempdir() };
        let data = data.expect("a directory");
        let parent = Parent::open(&hierarchy, data.path()).unwrap_or_else(|error| panic!("{error}"));
        Platform { parent, hierarchy, data }
    }

    pub fn group(&self, name: &str) -> Group {
        self.parent.make(name).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Also when a test fails: nothing of it may stay.
        let cleared = self.parent.clear_within(PATIENCE).and_then(|_| self.parent.clone().remove());
        if let (Err(error), false) = (cleared, std::thread::panicking()) {
            panic!("groups are left: {error}");
        }
    }
}

/// Runs a test in each way that groups can be used here: as the host has them, and without its v2 tree where that leaves
/// something. A skip is loud, and a failure where it must not happen.
pub fn each(test: impl Fn(&Platform)) {
    let read = |path| std::fs::read_to_string(path).expect("/proc is mounted");
    let (mounts, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
    let without: String =
        mounts.lines().filter(|line| !line.contains(" - cgroup2 ")).flat_map(|line| [line, "\n"]).collect();
    let mut ways = vec![Hierarchy::of(&mounts, &own)];
    ways.extend(Some(Hierarchy::of(&without, &own)).filter(Hierarchy::is_enough));
    if ways[0].bound(sandbox::cgroup::Controller::Memory).is_some_and(|(version, _)| version == Version::Two)
    {
        ways.truncate(1);
    }
    let is_root = nix::unistd::geteuid().is_root();
    if !ways[0].is_enough() {
        let why = format!("{}; without {:?}", ways[0], ways[0].lacking());
        assert!(!(is_root && std::env::var_os("CI").is_some()), "CI may not skip this as root: {why}");
        eprintln!("SKIPPED: groups, because this host has {why}");
        return;
    }
    for way in ways {
        eprintln!("with {way}");
        test(&Platform::open(way));
    }
}

/// A process of this test's executable that plays a part inside a group.
pub struct Actor {
    pub child: Child,
}

impl Actor {
    /// `part` as in [`play`]. The calling test's executable must have a test `part` that calls it.
    pub fn start(group: &Group, part: &str) -> Actor {
        let entry = group.entry().unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new(std::env::current_exe().expect("a test has a path"));
        command.args(["--exact", "part", "--nocapture", "--test-threads=1"]).env(PART, part);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: `join` only makes system calls, on descriptors that live until the fork is over.
        unsafe { command.pre_exec(move || entry.join(false).map_err(Into::into)) };
        Actor { child: command.spawn().expect("this test's executable starts") }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let stop = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < stop, "a process that should have ended did not");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let stop = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < stop, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a group says of itself.
pub fn told<T>(value: Result<T, CgroupError>) -> T {
    value.unwrap_or_else(|error| panic!("{error}"))
}

/// Plays the part that this process was started for; returns if it was started as a test.
pub fn play() {
    let Ok(part) = std::env::var(PART) else { return };
    let (name, argument) = part.split_once('=').unwrap_or((&part, ""));
    match name {
        "sleep" => std::thread::sleep(PATIENCE * 2),
        "spin" => spin(),
        "memory" => touch(argument.parse().expect("bytes")),
        "fork" => fork_on(),
        "write" => write_direct(argument),
        other => panic!("no part {other}"),
    }
    // Not as a passed test: who waits sees that the part was played to its end.
    std::process::exit(42);
}

fn spin() {
    let start = Instant::now();
    while start.elapsed() < PATIENCE * 2 {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
}

fn touch(bytes: usize) {
    const STEP: usize = 1 << 20;
    let mut held = Vec::new();
    for _ in 0..bytes / STEP {
        held.push(std::hint::black_box(vec![1u8; STEP]));
    }
}

/// Forks for as long as it may, as do its children; all of them stay.
fn fork_on() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh anonymous mapping, shared with the children to come.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    };
    assert!(page != libc::MAP_FAILED);
    // SAFETY: the mapping is zeroed, aligned, and never unmapped.
    let forks = unsafe { &*page.cast::<AtomicU64>() };
    loop {
        if forks.fetch_add(1, Ordering::Relaxed) < FORKS_MAX {
            // SAFETY: the child goes on in this loop, which makes system calls only.
            unsafe { libc::fork() };
        }
        // SAFETY: no pointer is passed.
        unsafe { libc::usleep(500) };
    }
}

/// Writes 2 MiB past the page cache.
fn write_direct(path: &str) {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).custom_flags(libc::O_DIRECT).open(path).expect("a file");
    let page = vec![7u8; 2 * 65536];
    let start = page.as_ptr().align_offset(65536);
    for index in 0..32u64 {
        file.write_all_at(&page[start..start + 65536], index * 65536).expect("a disk with room");
    }
}
