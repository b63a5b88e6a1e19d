//! A platform's group with sandboxes in it, processes inside that do as they are told, and a peer in another network
//! namespace.

use bpf::{
    BpfError, Endpoints, Enforcement, Network, Options, Policy, Sandbox, Strangers, Transport, cgroup_id,
};
use libbpf_rs::{Link, Program, libbpf_sys};
use nix::sched::{CloneFlags, unshare};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

pub const SANDBOXES_MAX: u32 = 32;
pub const FUNCTIONS_MAX: u32 = 16;

/// Says past the test harness, which would swallow it, that nothing was tested.
pub fn skip(why: &dyn std::fmt::Display) {
    let is_root = nix::unistd::geteuid().is_root();
    assert!(!(is_root && std::env::var_os("CI").is_some()), "CI must not skip as root: {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED a test of bpf/tests/enforcement because {why}");
}

/// Where the v2 tree is mounted.
pub fn unified() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.find(|words| words.get(2) == Some(&"cgroup2")).map(|words| PathBuf::from(words[1]))
}

/// A control group of its own, killed and removed when dropped.
pub struct Group(pub PathBuf);

impl Group {
    pub fn make(path: PathBuf) -> Group {
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Group(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        let start = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A platform's group with programs in force for it.
pub struct Platform {
    pub enforcement: Option<Enforcement>,
    pub name: String,
    pub sandboxes: Vec<Group>,
    pub group: Group,
}

impl Platform {
    /// None, and said, where this user may not or this kernel cannot.
    pub fn start() -> Option<Platform> {
        Platform::with(Strangers::Denied, false)
    }

    pub fn with(strangers: Strangers, syscalls: bool) -> Option<Platform> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(unified) = unified() else {
            skip(&"no cgroup v2 tree is mounted");
            return None;
        };
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        if !nix::unistd::geteuid().is_root() {
            skip(&"it needs root");
            return None;
        }
        let group = Group::make(unified.join(format!("millrace-{name}")));
        let mut platform = Platform { enforcement: None, name, sandboxes: Vec::new(), group };
        let options = Options { strangers, syscalls, ..platform.options() };
        match Enforcement::start(&options) {
            Ok(enforcement) => platform.enforcement = Some(enforcement),
            Err(error @ (BpfError::Refused { .. } | BpfError::Held { .. })) => panic!("{error}"),
            Err(error) => {
                skip(&error);
                return None;
            }
        }
        for backend in platform.enforcement().backends() {
            assert_eq!(backend.missing, None, "{backend}");
        }
        Some(platform)
    }

    pub fn options(&self) -> Options<'_> {
        Options {
            name: &self.name,
            cgroup: &self.group.0,
            functions_max: FUNCTIONS_MAX,
            sandboxes_max: SANDBOXES_MAX,
            strangers: Strangers::Denied,
            syscalls: false,
        }
    }

    pub fn enforcement(&mut self) -> &mut Enforcement {
        self.enforcement.as_mut().expect("it is in force")
    }

    /// A new group below, admitted with this index and function.
    pub fn sandbox(&mut self, index: u32, function: u32, runtime_api: Option<SocketAddr>) -> PathBuf {
        let group = self.group_below(&format!("s{index}"));
        self.enforcement().guard(&group).expect("it is there");
        self.admit(&group, index, function, runtime_api);
        group
    }

    /// A new group below, admitted and not guarded: only for a network of its own.
    pub fn unguarded(&mut self, index: u32, function: u32) -> PathBuf {
        let group = self.group_below(&format!("s{index}"));
        self.admit(&group, index, function, None);
        group
    }

    fn admit(&mut self, group: &Path, index: u32, function: u32, runtime_api: Option<SocketAddr>) {
        let cgroup_id = cgroup_id(group).expect("it is there");
        let sandbox = Sandbox { cgroup_id, index, function, runtime_api };
        self.enforcement().admit(&sandbox).expect("there is room");
    }

    /// A new group below that is no sandbox.
    pub fn group_below(&mut self, name: &str) -> PathBuf {
        let group = Group::make(self.group.0.join(name));
        let path = group.0.clone();
        self.sandboxes.push(group);
        path
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.sandboxes.clear();
        if let Some(enforcement) = self.enforcement.take() {
            enforcement.stop().expect("pins can be removed");
        }
        // A test that failed while others enforced under this name.
        let _ = std::fs::remove_dir_all(format!("/sys/fs/bpf/millrace/{}", self.name));
    }
}

/// A policy with these rules, as the manifest writes them: `tcp 10.0.0.0/8 80-90`.
pub fn host(connect: &[&str], listen: &[&str]) -> Policy {
    let rules = |rules: &[&str]| rules.iter().map(|rule| endpoints(rule)).collect();
    Policy { network: Network::Host { connect: rules(connect), listen: rules(listen) }, ..Policy::default() }
}

pub fn endpoints(rule: &str) -> Endpoints {
    let words: Vec<&str> = rule.split(' ').collect();
    let transport = match words[0] {
        "tcp" => Some(Transport::Tcp),
        "udp" => Some(Transport::Udp),
        _ => None,
    };
    let (address, bits) = words[1].split_once('/').expect("a prefix");
    let (first, last) = words[2].split_once('-').unwrap_or((words[2], words[2]));
    Endpoints {
        transport,
        address: address.parse().expect("an address"),
        bits: bits.parse().expect("bits"),
        ports: (first.parse().expect("a port"), last.parse().expect("a port")),
    }
}

/// A process in a control group that does what it is told, line by line; see `act.rs`.
pub struct Inside {
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Inside {
    /// In these groups, and in the network namespace of the thread that calls.
    pub fn start(groups: &[&Path]) -> Inside {
        let mut child = Command::new(std::env::current_exe().expect("this is a program"))
            .args(["--exact", "act::as_told", "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test can be started again");
        let words = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut inside = Inside { child, words, answers };
        for group in groups {
            assert_eq!(inside.does(&format!("join {}", group.display())), "ok");
        }
        inside
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it do this, and says what came of it: `ok`, `ok <something>` or `errno <number>`.
    pub fn does(&mut self, what: &str) -> String {
        self.begins(what);
        self.answers().unwrap_or_else(|| panic!("it ended instead of answering: {what}"))
    }

    pub fn begins(&mut self, what: &str) {
        writeln!(self.words, "{what}").expect("it listens");
    }

    /// Its next answer; none if it ended.
    pub fn answers(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line).expect("a pipe can be read") == 0 {
                return None;
            }
            // libtest speaks on the same pipe, without an end of line at times.
            if let Some((_, answer)) = line.split_once("> ") {
                return Some(answer.trim_end().to_string());
            }
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The outcome of an operation that BPF refuses.
pub const EPERM: &str = "errno 1";

/// Reads until it is `enough`, for half a minute at most.
pub fn until<T: std::fmt::Debug>(mut read: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let read = read();
        if enough(&read) {
            return read;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "never seen: {read:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Of iproute2: busybox has an `ip` that knows no pairs of interfaces.
pub fn ip(arguments: &str) {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"];
    let program = places.into_iter().find(|place| Path::new(place).exists()).unwrap_or("ip");
    let ran = Command::new(program).args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(ran.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Moves this thread, and the processes that it starts, into a network namespace of its own. The first end of a pair of
/// interfaces is in it with 10.9.0.1 and fd09::1; the other one in that of the peer, with 10.9.0.2, 10.9.1.2 and
/// fd09::2.
pub fn with_peer() -> Peer {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
    ip("link set lo up");
    // Everyone may ping here, so that only BPF can say no.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("it can be set");
    let (to_peer, works) = channel::<Work>();
    let (ready, is_ready) = channel();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
        ready.send(nix::unistd::gettid().as_raw()).expect("it waits");
        works.into_iter().for_each(|work| work());
    });
    let tid: i32 = is_ready.recv().expect("it is there");
    ip("link add v0 type veth peer name v1");
    ip(&format!("link set v1 netns {tid}"));
    ip("addr add 10.9.0.1/24 dev v0");
    ip("addr add fd09::1/64 dev v0 nodad");
    ip("link set v0 up");
    ip("route add default via 10.9.0.2");
    let peer = Peer { works: Some(to_peer), thread: Some(thread) };
    peer.run(|| {
        ip("link set lo up");
        ip("addr add 10.9.0.2/24 dev v1");
        ip("addr add 10.9.1.2/32 dev v1");
        ip("addr add fd09::2/64 dev v1 nodad");
        ip("link set v1 up");
    });
    peer
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread in another network namespace.
pub struct Peer {
    works: Option<Sender<Work>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Peer {
    /// What this says there. Threads that it starts stay there.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done): (_, Receiver<T>) = channel();
        let work = Box::new(move || drop(done.send(work())));
        self.works.as_ref().expect("it works").send(work).expect("it works");
        is_done.recv().expect("it did not panic")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.works.take();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// The program that this link of the platform runs, or that is attached to groups under this name.
pub fn program(platform: &Platform, link: &str) -> OwnedFd {
    let pins = Path::new("/sys/fs/bpf/millrace").join(&platform.name);
    if let Ok(program) = Program::fd_from_pinned_path(pins.join("programs").join(link)) {
        return program;
    }
    let link = Link::open(pins.join("links").join(link)).expect("it is pinned");
    Program::fd_from_id(link.info().expect("it is a link").prog_id).expect("it is loaded")
}

/// How many programs look at what leaves and what comes into this very group.
pub fn programs_on_packets(group: &Path) -> [u32; 2] {
    let group = std::fs::File::open(group).expect("it is there");
    [libbpf_sys::BPF_CGROUP_INET_EGRESS, libbpf_sys::BPF_CGROUP_INET_INGRESS].map(|kind| {
        let (mut ids, mut count, mut flags) = ([0_u32; 8], 8, 0);
        // SAFETY: room for as many ids as said, and a word for each answer; all outlive the call.
        let result = unsafe {
            libbpf_sys::bpf_prog_query(
                group.as_raw_fd(),
                kind,
                libbpf_sys::BPF_F_QUERY_EFFECTIVE,
                &raw mut flags,
                ids.as_mut_ptr(),
                &raw mut count,
            )
        };
        assert_eq!(result, 0, "the kernel says what is attached");
        count
    })
}

/// What a program on packets says of this Ethernet frame, as seen on this interface.
pub fn test_run(platform: &Platform, link: &str, frame: &[u8], interface: u32) -> u32 {
    // `ifindex` of `struct __sk_buff`.
    let mut context = [0_u8; 192];
    context[40..44].copy_from_slice(&interface.to_ne_bytes());
    let program = program(platform, link);
    let mut run = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: frame.as_ptr().cast(),
        data_size_in: frame.len() as u32,
        ctx_in: context.as_ptr().cast(),
        ctx_size_in: context.len() as u32,
        ..Default::default()
    };
    // SAFETY: frame and context live on, and are as long as said; nothing is written out.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut run) };
    assert_eq!(result, 0, "{link} with {} bytes on interface {interface}", frame.len());
    run.retval
}
