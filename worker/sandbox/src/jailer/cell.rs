//! One sandbox: from the fork of its first process to the end of all in it.

use crate::cgroup::Group;
use crate::jail::letter::{Answer, Head, Step, answer, word};
use crate::jail::{Inmate, JailError, Kind, Outfit, function_fault, host_fault, tiers};
use crate::protocol::{Abi, Ending, FromJailer, RunId, SandboxId, Spec};
use crate::turns::{Habit, Had, Turns};
use bpf::Event;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// The run of a function that is one process.
pub const FUNCTION_RUN: RunId = 0;
/// The longest grace: a day, milliseconds.
pub const GRACE_MS_MAX: u64 = 24 * 3600 * 1000;

/// How far a sandbox is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its first process makes its namespaces its own.
    Forked,
    /// It waits for a function.
    Blank,
    /// It mounts what a function with a process for each call brings.
    Fitting,
    /// It mounts what the function brings and executes it.
    Starting,
    /// It serves.
    Live,
    /// It was told to end, or killed.
    Stopping,
}

/// Whose it is, and what became of it.
pub struct Owner {
    /// The core's connection.
    pub core: u64,
    /// The core's number for it.
    pub sandbox: SandboxId,
    /// What the core asked for.
    pub spec: Box<Spec>,
    /// When it did.
    pub asked: Instant,
    /// Whether a blank was ready.
    pub from_pool: bool,
    /// Where the Runtime API is, as seen from inside.
    pub api: Option<SocketAddrV4>,
    /// For `Made`: listener, stdout, stderr.
    pub descriptors: Vec<OwnedFd>,
    /// Commands that run.
    pub runs: BTreeSet<RunId>,
    /// Whether the core was told that it is made.
    is_made: bool,
    /// How the function ended.
    ended: Option<Ending>,
    /// Why it could not be made.
    failed: Option<JailError>,
    /// The last system call that a filter killed for.
    syscall: Option<String>,
    /// Kills for want of memory that the core has been told of.
    oom_kills: u64,
}

/// One sandbox.
pub struct Cell {
    /// The jailer's number for it.
    pub serial: u64,
    /// Which kind of blank it was.
    pub kind: Kind,
    /// Its place in the ranges of ids and of counters.
    pub index: u32,
    /// Its first process.
    pub inmate: Inmate,
    /// Its cgroups, where there are any.
    pub group: Option<Group>,
    /// How far it is.
    pub state: State,
    /// When it is too late: for making it, or for ending by itself.
    pub deadline: Option<Instant>,
    /// The listener in its network namespace.
    pub listener: Option<OwnedFd>,
    /// Its `/tmp` and ruleset, if they were made ahead of need.
    pub outfit: Option<Outfit>,
    /// The file with its group's peak of memory, for its core.
    pub peak: Option<OwnedFd>,
    /// Whose it is; none: a blank.
    pub owner: Option<Owner>,
    /// Whether BPF tells for which system call a process was killed.
    pub tells_syscalls: bool,
    /// How it uses CPUs.
    pub habit: Habit,
}

impl Owner {
    /// A sandbox's owner from now on.
    pub fn new(core: u64, sandbox: SandboxId, spec: Box<Spec>, from_pool: bool) -> Owner {
        Owner {
            core,
            sandbox,
            spec,
            asked: Instant::now(),
            from_pool,
            api: None,
            descriptors: Vec::new(),
            runs: BTreeSet::new(),
            is_made: false,
            ended: None,
            failed: None,
            syscall: None,
            oom_kills: 0,
        }
    }
}

impl Cell {
    /// Whether somebody waits for it to be made.
    pub fn is_awaited(&self) -> bool {
        self.owner.is_some() && !matches!(self.state, State::Live | State::Stopping)
    }

    /// Whether its function has a process for each call.
    pub fn is_stdio(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.spec.abi == Abi::Stdio)
    }

    /// It serves from now on: the message for its core, and the descriptors beside it.
    pub fn made(&mut self, index: Option<u32>) -> Option<(u64, FromJailer, Vec<OwnedFd>)> {
        let pid = self.inmate.pid as u32;
        self.state = State::Live;
        self.deadline = None;
        let owner = self.owner.as_mut()?;
        owner.is_made = true;
        let message = FromJailer::Made {
            sandbox: owner.sandbox,
            index,
            pid,
            api: owner.api,
            from_pool: owner.from_pool,
            making_ns: owner.asked.elapsed().as_nanos() as u64,
        };
        let mut descriptors = std::mem::take(&mut owner.descriptors);
        descriptors.extend(self.peak.take());
        Some((owner.core, message, descriptors))
    }

    /// It cannot be made; its end, which follows, tells the core.
    pub fn fail(&mut self, error: JailError) {
        self.state = State::Stopping;
        self.deadline = None;
        if let Some(owner) = &mut self.owner {
            owner.failed.get_or_insert(error);
        }
        self.inmate.kill();
    }

    /// SIGTERM to what runs.
    pub fn terminate(&self) {
        let head = Head { word: word::TERM, ..Head::default() };
        let letter = head.letter([&[], &[], &[]]).expect("it is short");
        if self.inmate.send(&letter, &[]).is_err() {
            self.inmate.kill();
        }
    }

    /// A command ended, or was not executed. Of a stdio sandbox: the message for its core. Of another one that is its
    /// own end, told when it is complete.
    pub fn run_ended(&mut self, told: &Answer) -> Option<FromJailer> {
        let ending = match told.kind {
            answer::NOT_RUN => Ending::Exec { reason: not_run(told).reason },
            _ => self.ending(told.status),
        };
        let is_stdio = self.is_stdio();
        let owner = self.owner.as_mut()?;
        if !is_stdio {
            owner.ended.get_or_insert(ending);
            return None;
        }
        // Of a child that was not executed both are told: that, and its exit.
        if !owner.runs.remove(&told.run) {
            return None;
        }
        Some(FromJailer::Ended {
            sandbox: owner.sandbox,
            run: told.run,
            ending,
            peak_memory_bytes: told.peak_kib.saturating_mul(1024),
            cpu_ns: told.cpu_ns,
        })
    }

    /// What a status of `wait` means.
    fn ending(&mut self, status: i32) -> Ending {
        if libc::WIFEXITED(status) {
            return Ending::Exit(libc::WEXITSTATUS(status));
        }
        let signal = libc::WTERMSIG(status);
        let killed = signal == libc::SIGKILL && self.has_new_oom_kill();
        let tells = self.tells_syscalls;
        let Some(owner) = &mut self.owner else { return Ending::Signal(signal) };
        match owner.syscall.take() {
            _ if killed => Ending::Oom,
            Some(name) if signal == libc::SIGSYS => Ending::Syscall { name: Some(name) },
            // It may have sent it to itself; where nothing tells, the filter is the likelier reason.
            None if signal == libc::SIGSYS && !tells => Ending::Syscall { name: None },
            _ => Ending::Signal(signal),
        }
    }

    fn has_new_oom_kill(&mut self) -> bool {
        let kills = self.group.as_ref().and_then(|group| group.oom_kills().ok()).unwrap_or(0);
        let Some(owner) = &mut self.owner else { return false };
        kills > std::mem::replace(&mut owner.oom_kills, kills)
    }

    /// All in it has ended: the last message for its core, if it has one.
    pub fn exited(&mut self) -> Option<FromJailer> {
        let by_oom = self.has_new_oom_kill();
        let was_stopped = self.state == State::Stopping;
        let is_stdio = self.is_stdio();
        let (peak, cpu_ns) = match &self.group {
            Some(group) => (group.memory_peak_bytes().unwrap_or(0), group.cpu_ns().unwrap_or(0)),
            None => (0, 0),
        };
        let owner = self.owner.as_mut()?;
        let sandbox = owner.sandbox;
        if !owner.is_made {
            let stopped = || function_fault("it was stopped before it was made");
            let lost = || host_fault("its first process ended", "the host may be out of memory");
            let error = owner.failed.take().unwrap_or_else(if was_stopped { stopped } else { lost });
            return Some(FromJailer::Failed { sandbox, reason: error.reason, is_host: error.is_host });
        }
        let ending = match owner.ended.take() {
            Some(ending) => ending,
            None if by_oom => Ending::Oom,
            None if was_stopped && is_stdio => Ending::Exit(0),
            None if was_stopped => Ending::Signal(libc::SIGKILL),
            None => Ending::Lost { reason: "its first process ended unasked".into() },
        };
        Some(FromJailer::Exited { sandbox, ending, peak_memory_bytes: peak, cpu_ns })
    }

    /// Takes note of an event; what it tried, if it was denied.
    pub fn note(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Seccomp { syscall, .. } => {
                if let Some(owner) = &mut self.owner {
                    owner.syscall = Some(tiers::name(i64::from(*syscall)));
                }
                None
            }
            Event::Denied { .. } => Some(event.to_string()),
            // The group's own count of kills says it more surely; exits come from the first process.
            Event::Oom { .. } | Event::Exit { .. } => None,
        }
    }

    /// Has it stand back while it computes: `had` by BPF, if that counts, so long after the last look.
    pub fn take_turns(&mut self, had: Option<Had>, elapsed_ns: u64) {
        let (State::Live, Some(group)) = (self.state, &mut self.group) else { return };
        let of_group = || Some(Had { cpu_ns: group.cpu_ns().ok()?, waits: None });
        let Some(had) = had.or_else(of_group) else { return };
        let before = self.habit.turns();
        let turns = self.habit.step(had, elapsed_ns);
        if turns != before || turns == Turns::Computes {
            // It may end at this moment; and where the kernel refuses, others wait longer, and nothing else changes.
            let _ = group.stand_back(turns == Turns::Computes);
        }
    }
}

/// Why a command was not executed.
pub fn not_run(told: &Answer) -> JailError {
    let why = Errno::from_raw(told.errno).desc();
    if told.step != Step::Exec as u32 {
        return host_fault(format!("the sandbox cannot {}", Step::text(told.step)), why);
    }
    let hint = match Errno::from_raw(told.errno) {
        Errno::ENOENT => "it, or the interpreter that it names, is neither in the bundle nor in the base",
        Errno::EACCES => "it is not executable; set its mode when the bundle is packed",
        Errno::ENOEXEC => "it is no program of this machine, nor a script with #! and its interpreter",
        _ => "",
    };
    let gap = if hint.is_empty() { "" } else { "; " };
    function_fault(format!("the command cannot be executed: {why}{gap}{hint}"))
}

/// Why a sandbox was not made.
pub fn not_made(told: &Answer) -> JailError {
    let why = Errno::from_raw(told.errno).desc();
    host_fault(format!("the sandbox cannot {}", Step::text(told.step)), why)
}
