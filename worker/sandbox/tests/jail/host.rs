//! A jailer of the test's own, and a core's side of the protocol.

use sandbox::jailer::{self, Settings};
use sandbox::protocol::*;
use sandbox::socket;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set for the process under test only: its data directory.
const DATA: &str = "MILLRACE_TEST_JAILER";
/// Set for it too, where it is not to be root.
const USER: &str = "MILLRACE_TEST_JAILER_USER";
/// Set for it too, where limits need not be enforced.
const WITHOUT_LIMITS: &str = "MILLRACE_TEST_JAILER_WITHOUT_LIMITS";
/// What comes must come within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ids of one test's sandboxes.
const IDS_EACH: u32 = 64;

/// Not a test: the process under test, started by [`Host::start`]. Does nothing otherwise.
#[test]
fn process_under_test() {
    let Some(data) = std::env::var_os(DATA).map(PathBuf::from) else { return };
    // SAFETY: the child runs the jailer, which wants to be the only thread, and never returns here.
    match unsafe { libc::fork() } {
        0 => {
            become_user();
            // Afterwards: the kernel forgets it with a change of ids.
            // SAFETY: plain numbers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            std::fs::write(data.join("pid"), std::process::id().to_string()).unwrap();
            let ended = jailer::run(settings(&data));
            if let Err(error) = &ended {
                eprintln!("the jailer: {error}");
            }
            std::process::exit(i32::from(ended.is_err()));
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of this process, and memory that outlives the call.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            // Some tests kill it.
            assert!([0, libc::SIGKILL].contains(&status), "the jailer ended with {status:#x}");
        }
    }
}

fn become_user() {
    let Ok(user) = std::env::var(USER) else { return };
    let user: u32 = user.parse().unwrap();
    // SAFETY: plain numbers.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(user, user, user), 0);
        assert_eq!(libc::setresuid(user, user, user), 0);
        // Changing ids makes a process undumpable, and its files in /proc root's.
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1), 0);
    }
}

fn settings(data: &Path) -> Settings {
    Settings {
        sandboxes_max: IDS_EACH / 2,
        blanks: 2,
        without_limits: std::env::var_os(WITHOUT_LIMITS).is_some(),
        expose: std::env::var_os("MILLRACE_TEST_EXPOSE").map(PathBuf::from).into_iter().collect(),
        ..Settings::new(data.join("run/jailer.sock"), data.to_owned())
    }
}

/// Whether a test that needs root can run; says so loudly if not, and fails if it should have been able to.
pub fn has_root(test: &str) -> bool {
    // SAFETY: no arguments.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        eprintln!("SKIPPED: {test} because it needs root");
    }
    is_root
}

/// A test must not be skipped where it could run.
pub fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED: {test} because {why}");
    // SAFETY: no arguments.
    let is_root = unsafe { libc::geteuid() } == 0;
    assert!(!(is_root && std::env::var_os("CI").is_some()), "{test} was skipped in CI as root: {why}");
}

/// A jailer that runs.
pub struct Host {
    pub data: tempfile::TempDir,
    pub process: Child,
}

/// How a jailer is started.
#[derive(Default)]
pub struct How {
    /// Not as root.
    pub user: Option<u32>,
    /// Also where nothing enforces limits.
    pub without_limits: bool,
    /// A path of the host that is seen.
    pub expose: Option<PathBuf>,
}

impl Host {
    /// Starts one and waits until it serves.
    pub fn start() -> Host {
        Host::start_as(&How::default())
    }

    pub fn start_as(how: &How) -> Host {
        let data = tempfile::tempdir().unwrap();
        if let Some(user) = how.user {
            std::os::unix::fs::chown(data.path(), Some(user), Some(user)).unwrap();
        }
        let process = spawn(data.path(), how);
        let host = Host { data, process };
        host.wait_until_it_serves();
        host
    }

    /// Starts another one in the place of one that ended.
    pub fn restart(&mut self) {
        self.process.wait().unwrap();
        self.process = spawn(self.data.path(), &How::default());
        self.wait_until_it_serves();
    }

    fn wait_until_it_serves(&self) {
        wait("a jailer that serves", || socket::connect_to(&self.socket()).ok());
    }

    pub fn socket(&self) -> PathBuf {
        self.data.path().join("run/jailer.sock")
    }

    /// The jailer's own process.
    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(self.data.path().join("pid")).unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: plain numbers; the jailer is this test's.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Processes of this host's sandboxes, whoever they are: those with ids of its range.
    pub fn inmates(&self) -> Vec<i32> {
        let first = settings(self.data.path()).first_id();
        let ids = first..first + IDS_EACH;
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_of = |pid: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            let uid = uid.and_then(|uids| uids.split_whitespace().next()?.parse::<u32>().ok());
            let is_zombie = status.contains("State:\tZ");
            uid.is_some_and(|uid| ids.contains(&uid)) && !is_zombie
        };
        pids.filter(is_of).collect()
    }

    /// Groups of this host's sandboxes in any tree.
    pub fn groups(&self) -> Vec<PathBuf> {
        let hierarchy = sandbox::cgroup::Hierarchy::discover();
        match sandbox::cgroup::Parent::open(&hierarchy, self.data.path()) {
            Ok(parent) => parent.groups().unwrap().into_iter().map(PathBuf::from).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// This host's subtree; while it lives nobody takes it for a dead platform's.
    pub fn parent(&self) -> Option<sandbox::cgroup::Parent> {
        sandbox::cgroup::Parent::open(&sandbox::cgroup::Hierarchy::discover(), self.data.path()).ok()
    }

    /// What the kernel keeps for this host: its directory in each tree, its folder of pins.
    pub fn traces(&self) -> Vec<PathBuf> {
        let Some(parent) = self.parent() else { return Vec::new() };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let trees = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let places = trees.filter_map(|line| line.split(' ').nth(4)).chain(["/sys/fs/bpf/millrace"]);
        places.map(|at| Path::new(at).join(parent.name())).filter(|path| path.exists()).collect()
    }

    /// A process of the test's own in this host's v2 group.
    pub fn put_in_its_group(&self) -> Child {
        let ghost = Command::new("sleep").arg("300").spawn().unwrap();
        let parent = self.parent().expect("there are groups");
        let group = parent.unified().expect("there is a v2 tree").join("ghost");
        std::fs::create_dir(&group).unwrap();
        std::fs::write(group.join("cgroup.procs"), ghost.id().to_string()).unwrap();
        ghost
    }

    pub fn core(&self) -> Core {
        let mut core = Core::connect(&self.socket());
        core.hello();
        core
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // SAFETY: plain numbers.
            unsafe { libc::kill(self.pid(), libc::SIGTERM) };
            let _ = self.process.wait();
        }
        // Looking for groups makes the top ones.
        let hierarchy = sandbox::cgroup::Hierarchy::discover();
        if let Ok(parent) = sandbox::cgroup::Parent::open(&hierarchy, self.data.path()) {
            let _ = parent.remove();
        }
    }
}

fn spawn(data: &Path, how: &How) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "host::process_under_test", "--test-threads=1", "--nocapture"]).env(DATA, data);
    if let Some(user) = how.user {
        command.env(USER, user.to_string());
    }
    if how.without_limits {
        command.env(WITHOUT_LIMITS, "1");
    }
    if let Some(path) = &how.expose {
        command.env("MILLRACE_TEST_EXPOSE", path);
    }
    command.stdout(Stdio::null()).spawn().expect("a test can start itself")
}

/// Waits for something that must come.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(seen) = look() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} never came");
}

/// A core's connection.
pub struct Core {
    socket: OwnedFd,
    pub force: Force,
    pub backends: Vec<(String, String)>,
    next: u64,
}

/// A sandbox that was made.
#[derive(Debug)]
pub struct Made {
    pub id: SandboxId,
    pub pid: u32,
    pub from_pool: bool,
    pub api: Option<std::net::SocketAddrV4>,
    pub descriptors: Vec<OwnedFd>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub ending: Ending,
    pub stdout: String,
    pub stderr: String,
    pub peak_memory_bytes: u64,
}

impl Core {
    pub fn connect(path: &Path) -> Core {
        let socket = socket::connect_to(path).expect("the jailer listens");
        Core { socket, force: Force::default(), backends: Vec::new(), next: 1 }
    }

    fn hello(&mut self) {
        self.say(&ToJailer::Hello { version: VERSION, cpu: 0 });
        match self.hear() {
            (FromJailer::Hello { version: VERSION, backends, force, counters }, descriptors) => {
                assert_eq!(descriptors.len(), usize::from(counters.is_some()));
                (self.force, self.backends) = (force, backends);
            }
            other => panic!("not a hello: {other:?}"),
        }
    }

    pub fn say(&self, message: &ToJailer) {
        socket::send(self.socket.as_fd(), &encode(message).unwrap(), &[]).unwrap();
    }

    /// The next message but those about memory; none if the jailer hung up.
    pub fn hear_or_end(&self) -> Option<(FromJailer, Vec<OwnedFd>)> {
        loop {
            let mut buffer = Vec::new();
            let got =
                wait("a message of the jailer", || match socket::receive(self.socket.as_fd(), &mut buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(None),
                    got => Some(got.unwrap()),
                });
            let message = decode(&buffer);
            let descriptors = got?;
            match message.unwrap() {
                FromJailer::Pressure { .. } => {}
                message => return Some((message, descriptors)),
            }
        }
    }

    pub fn hear(&self) -> (FromJailer, Vec<OwnedFd>) {
        self.hear_or_end().expect("the jailer hung up")
    }

    /// Makes a sandbox, or says why not.
    pub fn try_make(&mut self, spec: Spec) -> Result<Made, String> {
        let id = self.next;
        self.next += 1;
        self.say(&ToJailer::Make { sandbox: id, spec: Box::new(spec) });
        loop {
            match self.hear() {
                (FromJailer::Made { sandbox, pid, api, from_pool, .. }, descriptors) if sandbox == id => {
                    return Ok(Made { id, pid, from_pool, api, descriptors });
                }
                (FromJailer::Failed { sandbox, reason, .. }, _) if sandbox == id => return Err(reason),
                // The function runs already, a moment before that is told.
                (FromJailer::Denied { sandbox, .. }, _) if sandbox == id => {}
                other => panic!("neither made nor failed: {other:?}"),
            }
        }
    }

    pub fn make(&mut self, spec: Spec) -> Made {
        self.try_make(spec).expect("it is made")
    }

    /// Runs the command of a stdio sandbox to its end.
    pub fn run(&mut self, sandbox: SandboxId, environment: &[(&str, &str)], input: &str) -> Ran {
        let run = self.next;
        self.next += 1;
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.say(&ToJailer::Run { sandbox, run, environment });
        let (started, descriptors) = self.hear();
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(descriptors) else {
            panic!("no pipes beside {started:?}")
        };
        assert_eq!(started, FromJailer::Started { sandbox, run });
        // A command that does not read its input is no failure.
        let _ = std::fs::File::from(stdin).write_all(input.as_bytes());
        let read = |end: OwnedFd| std::thread::spawn(move || read_all(end));
        let (stdout, stderr) = (read(stdout), read(stderr));
        loop {
            match self.hear() {
                (FromJailer::Ended { sandbox: s, run: r, ending, peak_memory_bytes, .. }, _) => {
                    assert_eq!((s, r), (sandbox, run));
                    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
                    return Ran { ending, stdout, stderr, peak_memory_bytes };
                }
                (FromJailer::Denied { .. }, _) => {}
                other => panic!("no end of a run: {other:?}"),
            }
        }
    }

    /// Runs a shell script in a sandbox whose command is [`shell`].
    pub fn script(&mut self, sandbox: SandboxId, script: &str) -> Ran {
        self.run(sandbox, &[("SCRIPT", script)], "")
    }

    pub fn stop(&self, sandbox: SandboxId, how: Stop) {
        self.say(&ToJailer::Stop { sandbox, how });
    }

    /// The end of a sandbox.
    pub fn exited(&self, id: SandboxId) -> Ending {
        loop {
            match self.hear().0 {
                FromJailer::Exited { sandbox, ending, .. } if sandbox == id => return ending,
                FromJailer::Ended { .. } | FromJailer::Denied { .. } => {}
                other => panic!("no end of a sandbox: {other:?}"),
            }
        }
    }
}

/// Everything up to the end of a pipe that does not block, or until nobody is patient any more.
pub fn read_all(end: OwnedFd) -> String {
    let mut file = std::fs::File::from(end);
    let mut bytes = Vec::new();
    wait("the end of a pipe", || {
        let mut part = [0; 4096];
        loop {
            match file.read(&mut part) {
                Ok(0) => return Some(()),
                Ok(count) => bytes.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    });
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A bundle with nothing but a file.
pub fn bundle() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let bundle = tempfile::tempdir().unwrap();
    std::fs::set_permissions(bundle.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(bundle.path().join("hello"), "from the bundle\n").unwrap();
    bundle
}

/// A stdio function that runs the script of each run.
pub fn shell(bundle: &Path) -> Spec {
    Spec {
        function: "probe.sh".into(),
        tenant: "tests".into(),
        bundle: bundle.to_owned(),
        abi: Abi::Stdio,
        command: ["/bin/sh", "-c", "eval \"$SCRIPT\""].map(String::from).into(),
        ..Spec::default()
    }
}

/// A function of one process that runs a script.
pub fn service(bundle: &Path, script: &str) -> Spec {
    Spec {
        abi: Abi::RuntimeApi,
        command: ["/bin/sh", "-c", script].map(String::from).into(),
        ..shell(bundle)
    }
}

/// A stdio function that runs a probe of this test program, by the name in `PROBE`.
pub fn probes(bundle: &Path) -> Spec {
    let probe = bundle.join("probe");
    if !probe.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &probe).unwrap();
    }
    let command = ["./probe", "--exact", "probes::probe", "--test-threads=1", "--nocapture"];
    Spec { command: command.map(String::from).into(), ..shell(bundle) }
}
