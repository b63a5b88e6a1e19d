//! A jailer for tests: speaks the protocol on a real socket and starts plain child processes, in no sandbox at all.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::protocol::{self, Abi, Ending, Force, FromJailer, Spec, Stop, ToJailer};
use sandbox::socket;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The socket, and what a test may see and do.
pub struct FakeJailer {
    pub path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    directory: tempfile::TempDir,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Sandboxes made so far.
    made: AtomicU32,
    /// Those told to end.
    stopped: AtomicU32,
    /// A word of pressure is to be said.
    pressure: AtomicBool,
}

impl FakeJailer {
    pub fn start() -> FakeJailer {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jailer.sock");
        let (shared, thread) = spawn(&path);
        FakeJailer { path, shared, thread: Some(thread), directory }
    }

    pub fn made(&self) -> u32 {
        self.shared.made.load(Relaxed)
    }

    pub fn stopped(&self) -> u32 {
        self.shared.stopped.load(Relaxed)
    }

    pub fn press(&self) {
        self.shared.pressure.store(true, Relaxed);
    }

    /// Dies, and takes its sandboxes along.
    pub fn die(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    pub fn restart(&mut self) {
        self.die();
        let (shared, thread) = spawn(&self.path);
        (self.shared, self.thread) = (shared, Some(thread));
        assert!(self.directory.path().exists());
    }
}

impl Drop for FakeJailer {
    fn drop(&mut self) {
        self.die();
    }
}

fn spawn(path: &Path) -> (Arc<Shared>, JoinHandle<()>) {
    let shared = Arc::<Shared>::default();
    let listener = socket::listen_at(path).unwrap();
    let mine = shared.clone();
    (shared, std::thread::spawn(move || serve(&listener, &mine)))
}

struct Run {
    child: Child,
    kill_at: Option<Instant>,
}

struct Sandbox {
    spec: Spec,
    /// The function; of a stdio sandbox its runs.
    processes: BTreeMap<u64, Run>,
    stopping: bool,
}

struct Core {
    socket: OwnedFd,
    sandboxes: BTreeMap<u64, Sandbox>,
}

fn serve(listener: &OwnedFd, shared: &Shared) {
    let mut core: Option<Core> = None;
    while !shared.stop.load(Relaxed) {
        match &mut core {
            None => match accept(listener) {
                Some(socket) => core = Some(Core { socket, sandboxes: BTreeMap::new() }),
                None => std::thread::sleep(Duration::from_millis(1)),
            },
            Some(connected) => {
                if !connected.turn(shared) {
                    connected.kill_all();
                    core = None;
                }
            }
        }
    }
    if let Some(mut core) = core {
        core.kill_all();
    }
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let fd = nix::sys::socket::accept(listener.as_raw_fd()).ok()?;
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    Some(socket)
}

fn unblocked(end: OwnedFd) -> OwnedFd {
    nix::fcntl::fcntl(&end, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    end
}

impl Core {
    /// Reads what came, and looks after the processes. False when the core is gone.
    fn turn(&mut self, shared: &Shared) -> bool {
        let mut buffer = Vec::new();
        loop {
            match socket::receive(self.socket.as_fd(), &mut buffer) {
                Ok(Some(_)) => self.heard(protocol::decode(&buffer).unwrap(), shared),
                Ok(None) => return false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        if shared.pressure.swap(false, Relaxed) {
            self.say(&FromJailer::Pressure { memory_some_permille: 500, memory_full_permille: 200 }, &[]);
        }
        self.look();
        std::thread::sleep(Duration::from_micros(300));
        true
    }

    fn say(&self, message: &FromJailer, descriptors: &[BorrowedFd<'_>]) {
        let bytes = protocol::encode(message).unwrap();
        // A core that is gone is noticed by the next read.
        let _ = socket::send(self.socket.as_fd(), &bytes, descriptors);
    }

    fn heard(&mut self, message: ToJailer, shared: &Shared) {
        match message {
            ToJailer::Hello { version, .. } => {
                assert_eq!(version, protocol::VERSION);
                let backends = vec![("isolation".into(), "none: a fake".into())];
                let hello = FromJailer::Hello { version, backends, force: Force::default(), counters: None };
                self.say(&hello, &[]);
            }
            ToJailer::Make { sandbox, spec } => {
                shared.made.fetch_add(1, Relaxed);
                self.make(sandbox, *spec);
            }
            ToJailer::Run { sandbox, run, environment } => self.run(sandbox, run, &environment),
            ToJailer::Stop { sandbox, how } => {
                shared.stopped.fetch_add(1, Relaxed);
                self.stop(sandbox, how);
            }
        }
    }

    fn make(&mut self, sandbox: u64, spec: Spec) {
        spec.check().unwrap();
        let failed = |reason: String| FromJailer::Failed { sandbox, reason, is_host: false };
        if spec.command.first().is_some_and(|word| word == "no-such-command") {
            return self.say(&failed("no such command".into()), &[]);
        }
        let made =
            |api| FromJailer::Made { sandbox, index: None, pid: 1, api, from_pool: false, making_ns: 1 };
        let mut processes = BTreeMap::new();
        // What a real jailer opens in the sandbox's group.
        let peak = spec.environment.iter().find(|(name, _)| name == "PEAK");
        let peak = peak.map(|(_, path)| File::open(path).unwrap());
        match spec.abi {
            Abi::Stdio => self.say(&made(None), &peak.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
            Abi::RuntimeApi => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                listener.set_nonblocking(true).unwrap();
                let SocketAddr::V4(at) = listener.local_addr().unwrap() else {
                    unreachable!("an IPv4 address")
                };
                let mut command = command(&spec, &[("AWS_LAMBDA_RUNTIME_API".into(), at.to_string())]);
                let mut child = command.stdin(Stdio::null()).spawn().unwrap();
                let stdout = unblocked(child.stdout.take().unwrap().into());
                let stderr = unblocked(child.stderr.take().unwrap().into());
                let mut descriptors = vec![listener.as_fd(), stdout.as_fd(), stderr.as_fd()];
                descriptors.extend(peak.iter().map(AsFd::as_fd));
                self.say(&made(Some(at)), &descriptors);
                processes.insert(0, Run { child, kill_at: None });
            }
        }
        self.sandboxes.insert(sandbox, Sandbox { spec, processes, stopping: false });
    }

    fn run(&mut self, sandbox: u64, run: u64, environment: &[(String, String)]) {
        let Some(found) = self.sandboxes.get_mut(&sandbox) else { return };
        let mut child = command(&found.spec, environment).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = unblocked(child.stdin.take().unwrap().into());
        let stdout = unblocked(child.stdout.take().unwrap().into());
        let stderr = unblocked(child.stderr.take().unwrap().into());
        found.processes.insert(run, Run { child, kill_at: None });
        self.say(&FromJailer::Started { sandbox, run }, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    }

    fn stop(&mut self, sandbox: u64, how: Stop) {
        let Some(found) = self.sandboxes.get_mut(&sandbox) else { return };
        found.stopping = true;
        for run in found.processes.values_mut() {
            let grace = match how {
                Stop::Term { grace_ms } => Duration::from_millis(grace_ms),
                Stop::Kill => Duration::ZERO,
            };
            let _ = kill(Pid::from_raw(run.child.id() as i32), Signal::SIGTERM);
            run.kill_at = Some(Instant::now() + grace);
        }
    }

    fn look(&mut self) {
        let mut said = Vec::new();
        for (sandbox, found) in &mut self.sandboxes {
            let mut over = Vec::new();
            for (id, run) in &mut found.processes {
                if run.kill_at.is_some_and(|at| Instant::now() >= at) {
                    let _ = run.child.kill();
                }
                if let Some(status) = run.child.try_wait().unwrap() {
                    over.push((*id, ending(status, &found.spec)));
                }
            }
            for (id, ending) in over {
                found.processes.remove(&id);
                let (sandbox, peak_memory_bytes, cpu_ns) = (*sandbox, 1 << 20, 1000);
                said.push(match found.spec.abi {
                    Abi::RuntimeApi => FromJailer::Exited { sandbox, ending, peak_memory_bytes, cpu_ns },
                    Abi::Stdio => FromJailer::Ended { sandbox, run: id, ending, peak_memory_bytes, cpu_ns },
                });
            }
            if found.stopping && found.processes.is_empty() && found.spec.abi == Abi::Stdio {
                let (sandbox, peak_memory_bytes, cpu_ns) = (*sandbox, 0, 0);
                said.push(FromJailer::Exited {
                    sandbox,
                    ending: Ending::Signal(9),
                    peak_memory_bytes,
                    cpu_ns,
                });
            }
        }
        for message in said {
            if let FromJailer::Exited { sandbox, .. } = &message {
                self.sandboxes.remove(sandbox);
            }
            self.say(&message, &[]);
        }
    }

    fn kill_all(&mut self) {
        for found in self.sandboxes.values_mut() {
            for run in found.processes.values_mut() {
                let _ = run.child.kill();
                let _ = run.child.wait();
            }
        }
    }
}

fn command(spec: &Spec, more: &[(String, String)]) -> Command {
    let mut command = Command::new(&spec.command[0]);
    command.args(&spec.command[1..]).env_clear().env("PATH", "/usr/bin:/bin");
    command.envs(spec.environment.iter().cloned()).envs(more.iter().cloned());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How it ended; a variable of the function may say that it was another way, as a real jailer would know.
fn ending(status: ExitStatus, spec: &Spec) -> Ending {
    match spec.environment.iter().find(|(name, _)| name == "ENDING").map(|(_, value)| value.as_str()) {
        Some("oom") => Ending::Oom,
        Some("syscall") => Ending::Syscall { name: Some("mount".into()) },
        _ => match status.code() {
            Some(code) => Ending::Exit(code),
            None => Ending::Signal(status.signal().unwrap_or(0)),
        },
    }
}
