//! The process around the cores and the jailer: starts one process per CPU, and before them the jailer, which makes the
//! sandboxes of process functions; starts each again when it dies, drains all at the end.
//!
//! It runs no call. A core that dies takes its own calls only; the node leases them again as soon as the dead
//! process's connection closes, and the new core connects by itself. A jailer that dies takes all sandboxes with it, and
//! no core. When the supervisor dies, the kernel kills them (`PR_SET_PDEATHSIG`), so that none lives on unseen.
//!
//! What happens is told on stderr, a line of `key=value` words each.

use crate::plan::Plan;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::unistd::{Pid, getppid};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Wait before a process that died is started again; doubles with each death that follows soon, up to [`RESTART_MAX`].
const RESTART_MIN: Duration = Duration::from_millis(100);
/// Longest wait.
const RESTART_MAX: Duration = Duration::from_secs(5);
/// Wait before a jailer is tried again that has said that it cannot serve here.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// A process that lived this long was healthy: its next death waits [`RESTART_MIN`] again.
const HEALTHY: Duration = Duration::from_secs(10);
/// What a core gets beyond its drain time before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(3);
/// How often the supervisor looks around if no signal comes.
const LOOK: Duration = Duration::from_millis(500);

/// What a process is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Jailer,
    Core(u32),
}

impl Role {
    /// The first word of its events.
    fn word(self) -> &'static str {
        match self {
            Role::Jailer => "jailer",
            Role::Core(_) => "core",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Jailer => Ok(()),
            Role::Core(cpu) => write!(f, "cpu={cpu} "),
        }
    }
}

/// One process, or the plan to start it.
struct Part {
    role: Role,
    child: Option<Child>,
    started: Instant,
    /// When it is to be started, if it does not run.
    start_at: Instant,
    wait: Duration,
}

/// Runs the cores of a plan until SIGTERM or SIGINT, then drains them. `command` makes the command of the core on a
/// CPU, usually this executable's `core --cpu N`; `jailer` that of the jailer, if process functions are to run.
///
/// Must be called by the main thread before it starts others: it blocks signals for all of them.
///
/// # Errors
/// If signals cannot be blocked or the first start of a process fails: the executable or its arguments are wrong.
pub fn run(
    plan: &Plan,
    jailer: Option<&dyn Fn() -> Command>,
    command: impl Fn(u32) -> Command,
) -> io::Result<()> {
    let signals = signals()?;
    // First, so that it is there when the cores look for it; one that comes later is found as well.
    let roles = jailer.map(|_| Role::Jailer).into_iter().chain(plan.cpus.iter().map(|cpu| Role::Core(*cpu)));
    let mut parts: Vec<Part> = roles.map(Part::new).collect();
    let command = |role: Role| match (role, jailer) {
        (Role::Core(cpu), _) => command(cpu),
        (Role::Jailer, Some(jailer)) => jailer(),
        (Role::Jailer, None) => unreachable!("there is no such part without a command for it"),
    };
    for part in &mut parts {
        part.start(&command)?;
    }
    let mut kill_at: Option<Instant> = None;
    loop {
        match signals.recv_timeout(next_look(&parts, kill_at)) {
            Ok(Signal::SIGTERM | Signal::SIGINT) if kill_at.is_none() => {
                say(format_args!("event=draining cores={}", cores(&parts).count()));
                cores(&parts).for_each(|core| core.signal(Signal::SIGTERM));
                kill_at = Some(Instant::now() + plan.drain + KILL_AFTER);
            }
            Ok(Signal::SIGUSR1) => cores(&parts).for_each(|core| core.signal(Signal::SIGUSR1)),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the thread that waits for signals never ends")
            }
        }
        parts.iter_mut().for_each(|part| part.look(kill_at.is_some()));
        match kill_at {
            Some(_) if parts.iter().all(|part| part.child.is_none()) => return Ok(()),
            Some(at) if Instant::now() >= at => parts.iter().for_each(|part| part.signal(Signal::SIGKILL)),
            // The jailer last: calls that drain run in its sandboxes.
            Some(_) if cores(&parts).all(|core| core.child.is_none()) => {
                parts.iter().for_each(|part| part.signal(Signal::SIGTERM));
            }
            Some(_) => {}
            None => parts.iter_mut().for_each(|part| part.restart(&command)),
        }
    }
}

fn cores(parts: &[Part]) -> impl Iterator<Item = &Part> {
    parts.iter().filter(|part| part.role != Role::Jailer)
}

impl Part {
    fn new(role: Role) -> Part {
        let now = Instant::now();
        Part { role, child: None, started: now, start_at: now, wait: RESTART_MIN }
    }

    fn start(&mut self, command: &impl Fn(Role) -> Command) -> io::Result<()> {
        let child = spawn(command(self.role))?;
        say(format_args!("event={}-started {}pid={}", self.role.word(), self.role, child.id()));
        self.started = Instant::now();
        self.child = Some(child);
        Ok(())
    }

    /// Notices the process's end.
    fn look(&mut self, draining: bool) {
        let Some(child) = &mut self.child else { return };
        let (word, role) = (self.role.word(), self.role);
        let status = match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => status,
            Err(error) => return say(format_args!("event=wait-failed {role}reason=\"{error}\"")),
        };
        let pid = child.id();
        self.child = None;
        let ending = Ending(status);
        if draining {
            return say(format_args!("event={word}-ended {role}pid={pid} {ending}"));
        }
        self.wait = if self.started.elapsed() >= HEALTHY { RESTART_MIN } else { self.wait };
        // A jailer that ends by itself has said why it cannot serve here.
        let refuses = role == Role::Jailer && status.code().is_some_and(|code| code != 0);
        let wait = if refuses { REFUSED_WAIT } else { self.wait };
        self.start_at = Instant::now() + wait;
        let restart_ms = wait.as_millis();
        say(format_args!("event={word}-died {role}pid={pid} {ending} restart_ms={restart_ms}"));
        self.wait = (self.wait * 2).min(RESTART_MAX);
    }

    /// Starts it again if it is time to.
    fn restart(&mut self, command: &impl Fn(Role) -> Command) {
        if self.child.is_some() || Instant::now() < self.start_at {
            return;
        }
        if let Err(error) = self.start(command) {
            say(format_args!("event={}-start-failed {}reason=\"{error}\"", self.role.word(), self.role));
            self.start_at = Instant::now() + RESTART_MAX;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // One that has just ended and is not waited for yet takes the signal too: its pid is not free.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }
}

/// How a process ended, as `key=value` words.
struct Ending(ExitStatus);

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::os::unix::process::ExitStatusExt;
        match (self.0.code(), self.0.signal().map(Signal::try_from)) {
            (Some(code), _) => write!(f, "exit={code}"),
            (None, Some(Ok(signal))) => write!(f, "signal={signal}"),
            (None, _) => write!(f, "status={:?}", self.0),
        }
    }
}

/// A process: dies with this one, has no signal blocked, and is in a session of its own: Ctrl-C reaches the supervisor only,
/// which then drains it, and where the kernel shares CPUs by session it has a share of its own.
fn spawn(mut command: Command) -> io::Result<Child> {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // The supervisor died before the line above took effect.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        nix::unistd::setsid()?;
        Ok(())
    };
    // With it, each trap would cost 3 us for a backtrace that nobody reads.
    command.env("RUST_LIB_BACKTRACE", "0");
    // SAFETY: between fork and exec `prepare` makes four system calls; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Blocks the supervisor's signals in this and all later threads, and gives them as messages.
fn signals() -> io::Result<Receiver<Signal>> {
    let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1]);
    set.thread_block()?;
    let (to, from) = mpsc::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = set.wait() {
            if to.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(from)
}

fn next_look(parts: &[Part], kill_at: Option<Instant>) -> Duration {
    let starts = parts.iter().filter(|part| part.child.is_none()).map(|part| part.start_at);
    let next = starts.chain(kill_at).min();
    next.map_or(LOOK, |at| at.saturating_duration_since(Instant::now())).min(LOOK)
}

fn say(what: std::fmt::Arguments<'_>) {
    driver::notes::say(format_args!("millrace worker: {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::wasm::files::Allowed;
    use std::path::Path;

    /// Where the process under test leaves the pids of its cores; set for that process only.
    const DIRECTORY: &str = "MILLRACE_TEST_SUPERVISOR";

    /// Not a test: the process under test, started by [`supervisor`]. Does nothing otherwise.
    #[test]
    fn process_under_test() {
        let Some(directory) = std::env::var_os(DIRECTORY) else { return };
        let plan = Plan {
            host: "here".into(),
            node: "tcp:127.0.0.1:1".parse().unwrap(),
            host_node: "tcp:127.0.0.1:1".parse().unwrap(),
            cache: "/nonexistent".into(),
            artefacts: None,
            cpus: vec![0, 1],
            slots: 1,
            jailer: None,
            files_allowed: Allowed::default(),
            unused_bytes: 0,
            drain: Duration::ZERO,
        };
        let sleeping = |name: String| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo $$ > $0.new && mv $0.new $0 && exec sleep 1000"]);
            command.arg(Path::new(&directory).join(name));
            command
        };
        let jailer = || sleeping("jailer".into());
        run(&plan, Some(&jailer), |cpu| sleeping(cpu.to_string())).expect("it starts");
    }

    /// A supervisor of two sleeping cores.
    fn supervisor(directory: &Path) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "supervisor::tests::process_under_test", "--test-threads=1", "--nocapture"])
            .env(DIRECTORY, directory)
            .spawn()
            .expect("a test can start itself")
    }

    /// Waits for something that must come.
    fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..2000 {
            if let Some(seen) = look() {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what} never came");
    }

    fn pid(directory: &Path, part: &str, not: Option<Pid>) -> Pid {
        wait("a process", || {
            let text = std::fs::read_to_string(directory.join(part)).ok()?;
            let pid = Pid::from_raw(text.trim().parse().ok()?);
            (Some(pid) != not).then_some(pid)
        })
    }

    /// Sends SIGTERM to the thread that waits for it: the test harness's main thread does not block it, as that of
    /// the real supervisor does, and would take it.
    fn terminate(supervisor: u32) {
        let tasks = std::fs::read_dir(format!("/proc/{supervisor}/task")).unwrap();
        let is_it = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "signals")
        };
        let task =
            tasks.map(|task| task.unwrap().path()).find(is_it).expect("a thread that waits for signals");
        let tid: u32 = task.file_name().unwrap().to_string_lossy().parse().unwrap();
        // SAFETY: three plain numbers; the supervisor is a child of this test.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, supervisor, tid, libc::SIGTERM) };
        assert_eq!(sent, 0);
    }

    fn is_gone(pid: Pid) -> bool {
        kill(pid, None).is_err()
    }

    #[test]
    fn a_core_that_dies_is_started_again_and_the_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = supervisor(directory.path());
        let (first, second) = (pid(directory.path(), "0", None), pid(directory.path(), "1", None));
        kill(first, Signal::SIGKILL).unwrap();
        let third = pid(directory.path(), "0", Some(first));
        assert!(is_gone(first) && !is_gone(second) && !is_gone(third));
        terminate(child.id());
        assert!(child.wait().unwrap().success(), "a drain is no failure");
        assert!(is_gone(second) && is_gone(third), "no core outlives a drain");
    }

    #[test]
    fn a_jailer_that_dies_is_started_again_and_ends_after_the_cores() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = supervisor(directory.path());
        let (jailer, core) = (pid(directory.path(), "jailer", None), pid(directory.path(), "0", None));
        kill(jailer, Signal::SIGKILL).unwrap();
        let next = pid(directory.path(), "jailer", Some(jailer));
        assert!(is_gone(jailer) && !is_gone(core) && !is_gone(next));
        terminate(child.id());
        assert!(child.wait().unwrap().success(), "a drain is no failure");
        assert!(is_gone(core) && is_gone(next), "no jailer outlives a drain");
    }

    #[test]
    fn no_core_outlives_its_supervisor() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = supervisor(directory.path());
        let cores = [
            pid(directory.path(), "jailer", None),
            pid(directory.path(), "0", None),
            pid(directory.path(), "1", None),
        ];
        child.kill().unwrap();
        child.wait().unwrap();
        wait("the end of the cores", || cores.into_iter().all(is_gone).then_some(()));
    }
}
