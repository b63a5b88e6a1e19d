//! What making a sandbox costs, beside a bare clone and exec with the same namespaces in the same run.
//!
//! ```text
//! cargo run --release -p sandbox --example making [COUNT]
//! ```
//!
//! Prints medians: the bare clone with all seven namespaces until its child has executed `true`; a sandbox without a
//! pool, from the word of a core until it hears that the function was executed; the same from a pool; kernel memory and
//! a process's own for one idle blank. Needs root.

use nix::poll::{PollFd, PollFlags, PollTimeout};
use sandbox::jailer::{self, Settings};
use sandbox::protocol::*;
use sandbox::socket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// All namespaces of a sandbox.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(50);
    let bare = median(count, || {
        let begin = Instant::now();
        bare();
        begin.elapsed()
    });
    println!("clone with all namespaces, exec, wait: {:>8.0} us", micros(bare));
    for (blanks, name) in [(0, "without a pool"), (4, "from a pool")] {
        let (until_told, as_told, hits) = made(blanks, count);
        println!(
            "sandbox {name:<30} {:>8.0} us ({:.2} of the bare one), jailer's own share {:.0} us, {hits} of {count} from \
             the pool",
            micros(until_told),
            until_told.as_secs_f64() / bare.as_secs_f64(),
            micros(as_told)
        );
    }
    memory();
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(count: usize, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..count).map(|_| measure()).collect();
    times.sort_unstable();
    times[count / 2]
}

/// The rival: namespaces and an exec, no root, no limits, no filters.
fn bare() {
    let flags = NAMESPACES | libc::SIGCHLD;
    // SAFETY: a fork of a process with one thread (clone without memory of its own needs no stack); the child executes.
    unsafe {
        let none = std::ptr::null_mut::<libc::c_void>();
        let pid = libc::syscall(libc::SYS_clone, flags, none, none, none, none) as i32;
        assert!(pid >= 0, "{}", std::io::Error::last_os_error());
        if pid == 0 {
            let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
            libc::execv(argv[0], argv.as_ptr());
            libc::_exit(127);
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        assert_eq!(status, 0);
    }
}

/// A jailer, asked to end when this is dropped: killed it would leave its groups and BPF programs to a successor.
struct Running {
    pid: i32,
    core: OwnedFd,
    _data: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: plain numbers; a child of this process.
        unsafe {
            libc::kill(self.pid, libc::SIGTERM);
            let mut status = 0;
            libc::waitpid(self.pid, &raw mut status, 0);
        }
    }
}

/// A jailer with so many blanks.
fn start(blanks: u32) -> Running {
    let data = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(data.path().join("run")).expect("a directory");
    let path = data.path().join("run/jailer.sock");
    let settings =
        Settings { blanks, sandboxes_max: 256, ..Settings::new(path.clone(), data.path().to_owned()) };
    // SAFETY: this process has one thread; the child runs the jailer and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: plain numbers, and a file that stays open.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let quiet = libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
            if std::env::var_os("VERBOSE").is_none() {
                libc::dup2(quiet, 2);
            }
        }
        let ended = jailer::run(settings);
        std::process::exit(i32::from(ended.is_err()));
    }
    let core = loop {
        match socket::connect_to(&path) {
            Ok(core) => break core,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    say(&core, &ToJailer::Hello { version: VERSION, cpu: 0 });
    hear(&core);
    Running { pid, core, _data: data }
}

/// Median time until the core hears of a sandbox, the jailer's part of it, and how many came from the pool.
fn made(blanks: u32, count: usize) -> (Duration, Duration, usize) {
    let running = start(blanks);
    let core = &running.core;
    let (mut told, mut hits) = (Vec::new(), 0);
    let until_told = median(count, || {
        // As long as a pool needs to be full again.
        std::thread::sleep(Duration::from_millis(30));
        let begin = Instant::now();
        say(core, &ToJailer::Make { sandbox: 1, spec: Box::new(spec()) });
        let (from_pool, making_ns) = match hear(core) {
            FromJailer::Made { from_pool, making_ns, .. } => (from_pool, making_ns),
            other => panic!("{other:?}"),
        };
        let took = begin.elapsed();
        hits += usize::from(from_pool);
        told.push(Duration::from_nanos(making_ns));
        say(core, &ToJailer::Stop { sandbox: 1, how: Stop::Kill });
        hear(core);
        took
    });
    told.sort_unstable();
    (until_told, told[count / 2], hits)
}

fn spec() -> Spec {
    Spec {
        function: "making".into(),
        bundle: "/var".into(),
        command: vec!["/bin/sleep".into(), "1000".into()],
        ..Spec::default()
    }
}

fn say(core: &OwnedFd, message: &ToJailer) {
    socket::send(core.as_fd(), &encode(message).expect("it fits"), &[]).expect("the jailer listens");
}

/// The next message but those about memory.
fn hear(core: &OwnedFd) -> FromJailer {
    let mut buffer = Vec::new();
    loop {
        match socket::receive(core.as_fd(), &mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut core = [PollFd::new(core.as_fd(), PollFlags::POLLIN)];
                nix::poll::poll(&mut core, PollTimeout::NONE).expect("it can wait");
            }
            got => {
                got.expect("a message").expect("the jailer lives");
                match decode(&buffer).expect("a message") {
                    FromJailer::Measured { .. } | FromJailer::Pressure { .. } => {}
                    message => return message,
                }
            }
        }
    }
}

/// What idle blanks cost.
fn memory() {
    const BLANKS: u32 = 64;
    let none = start(0);
    std::thread::sleep(Duration::from_millis(300));
    let before = used();
    drop(none);
    let running = start(BLANKS);
    let pid = running.pid;
    std::thread::sleep(Duration::from_secs(3));
    let each = used().saturating_sub(before) / u64::from(BLANKS);
    println!("an idle blank: {each} KiB of the host's memory (difference of MemAvailable over {BLANKS})");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    if let Some(child) = children.split_whitespace().next() {
        let smaps =
            std::fs::read_to_string(Path::new("/proc").join(child).join("smaps_rollup")).unwrap_or_default();
        for line in
            smaps.lines().filter(|line| line.starts_with("Pss:") || line.starts_with("Private_Dirty:"))
        {
            println!("  its first process: {line}");
        }
    }
}

/// Used memory of the host, KiB.
fn used() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("a host has it");
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a known field");
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
    };
    field("MemTotal:") - field("MemAvailable:")
}
