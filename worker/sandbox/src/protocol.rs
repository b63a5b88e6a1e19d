//! What a core and the jailer say to each other: one JSON text per message of a `SOCK_SEQPACKET` Unix socket, with
//! descriptors beside it (`SCM_RIGHTS`).
//!
//! ```text
//! core                                    jailer
//!   Hello            ->
//!                    <-  Hello            [the map of counters, read-only]              if `counters` is some
//!   Make             ->
//!                    <-  Made             [listener, stdout, stderr, peak]              ABI `RuntimeApi`
//!                    <-  Made             [peak]                                        ABI `Stdio`
//!                    or  Failed           []                                            nothing is left of it
//!   Run              ->                                                                 ABI `Stdio` only
//!                    <-  Started          [stdin, stdout, stderr]                       at once, before the exec
//!                    <-  Ended            []                                            also if the exec failed
//!   Stop             ->
//!                    <-  Exited           []                                            once per sandbox that was made
//! at any time        <-  Denied, Pressure                                               []
//! ```
//!
//! Descriptors are in the order shown: `listener` is a listening, non-blocking TCP socket inside the sandbox; `stdout`
//! and `stderr` are read ends of pipes, `stdin` the write end of one; all non-blocking and close-on-exec. `peak` is the
//! kernel's file with the most memory that the sandbox had so far, in decimal, to be read from its begin; it is missing
//! where no cgroup counts that.
//!
//! Ids are the core's choice and its own: the jailer keeps each connection's apart. An id is free again after `Failed`
//! or `Exited`. Messages of one sandbox come in order; `Exited` is its last. When the connection ends, the jailer kills
//! the connection's sandboxes and says nothing more about them.
//!
//! A message that cannot be read, or that breaks the order above, ends the connection: both ends are one program.

pub use call::function::{Base, Tier};
pub use call::limits::MESSAGE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddrV4;
use std::path::PathBuf;

/// Counts changes of this protocol; both ends must agree.
pub const VERSION: u32 = 2;
/// Descriptors beside one message at most.
pub const DESCRIPTORS_MAX: usize = 4;
/// Bytes of all names and values of an environment, and of all words of a command. Lambda allows 4 KiB of environment.
pub const WORDS_BYTES_MAX: usize = 32 << 10;
/// Words of a command, variables of an environment, rules of a network, devices.
pub const WORDS_MAX: usize = 256;

/// A sandbox, by the number that its core gave it.
pub type SandboxId = u64;
/// A run of the command in a stdio sandbox, by the number that its core gave it.
pub type RunId = u64;

/// What a core says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum ToJailer {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The core's CPU, for people.
        cpu: u32,
    },
    /// Makes a sandbox; with ABI [`Abi::RuntimeApi`] it starts the function in it.
    Make {
        /// A number that is free.
        sandbox: SandboxId,
        /// What it is to be.
        spec: Box<Spec>,
    },
    /// Runs the command in a stdio sandbox. Runs of one sandbox may overlap.
    Run {
        /// Which sandbox.
        sandbox: SandboxId,
        /// A number that is free in this sandbox.
        run: RunId,
        /// Set beside the environment of the [`Spec`]; wins over it.
        environment: Vec<(String, String)>,
    },
    /// Ends a sandbox and all in it. A second `Stop` may only hasten the end.
    Stop {
        /// Which sandbox.
        sandbox: SandboxId,
        /// How.
        how: Stop,
    },
}

/// How a sandbox is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Stop {
    /// SIGTERM to the function's process group; what still lives after the grace is killed.
    Term {
        /// Milliseconds.
        grace_ms: u64,
    },
    /// SIGKILL to all of it, now.
    Kill,
}

/// What the jailer says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum FromJailer {
    /// The answer to the core's `Hello`.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Thing and what is in force for it, for people: `("cgroups", "v1: cpu memory pids")`.
        backends: Vec<(String, String)>,
        /// What the jailer can enforce; it refuses what demands more.
        force: Force,
        /// The shape of the map of counters, whose descriptor comes with this message.
        counters: Option<Counters>,
    },
    /// The sandbox is there; its function, if it has one, was started: its `exec` succeeded.
    Made {
        /// Which.
        sandbox: SandboxId,
        /// Its row in the map of counters; none if nothing counts it.
        index: Option<u32>,
        /// Its first process (PID 1 inside), as the host numbers it, for people.
        pid: u32,
        /// Where the listener listens, as seen by the function: the value of `AWS_LAMBDA_RUNTIME_API`.
        api: Option<SocketAddrV4>,
        /// Whether a blank from the pool was used.
        from_pool: bool,
        /// From the word to make it until now, nanoseconds.
        making_ns: u64,
    },
    /// The sandbox was not made; nothing of it is left.
    Failed {
        /// Which.
        sandbox: SandboxId,
        /// What, where, and what to do.
        reason: String,
        /// Whether it is this host that cannot do it (no root, no cgroups, no BPF, no memory): another one may.
        is_host: bool,
    },
    /// The pipes of a run.
    Started {
        /// Which sandbox.
        sandbox: SandboxId,
        /// Which run.
        run: RunId,
    },
    /// A run is over: its process ended. Others that it left behind are killed with the sandbox.
    Ended {
        /// Which sandbox.
        sandbox: SandboxId,
        /// Which run.
        run: RunId,
        /// Why.
        ending: Ending,
        /// Largest resident memory of its process, bytes.
        peak_memory_bytes: u64,
        /// CPU time of it and the children that it waited for, nanoseconds.
        cpu_ns: u64,
    },
    /// The sandbox is gone, with all that was in it.
    Exited {
        /// Which.
        sandbox: SandboxId,
        /// Why: how the function's own process ended; of a stdio sandbox how the sandbox itself did.
        ending: Ending,
        /// Largest memory of all in it together, bytes; 0 if no cgroup counted it.
        peak_memory_bytes: u64,
        /// CPU time of all in it together, nanoseconds; 0 if no cgroup counted it.
        cpu_ns: u64,
    },
    /// The function tried to reach, or to listen on, an address that is not allowed. Told at most ten times a second and
    /// sandbox.
    Denied {
        /// Which sandbox.
        sandbox: SandboxId,
        /// `connect tcp 10.0.0.1:443`.
        attempt: String,
    },
    /// The host is short of memory; sandboxes that wait for work should go. Told about once a second while it lasts.
    Pressure {
        /// Share of the last ten seconds in which some process waited for memory, per mille.
        memory_some_permille: u32,
        /// Share in which all did.
        memory_full_permille: u32,
    },
}

/// What the jailer can enforce here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Force {
    /// Limits of cpu, memory and pids.
    pub cgroups: bool,
    /// Network rules and counters.
    pub bpf: bool,
    /// A host uid of its own for each sandbox, and base `host` with its system files.
    pub root: bool,
}

/// The map of counters: an array of equal rows of eight-byte integers, to be mapped read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Rows.
    pub rows: u32,
    /// Bytes of a row, a multiple of eight.
    pub row_bytes: u32,
}

/// Why a process or a sandbox ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Ending {
    /// It ended itself.
    Exit(i32),
    /// A signal ended it: its own fault, the word of its core, or another process in the sandbox.
    Signal(i32),
    /// The kernel killed it since the sandbox used more memory than it may.
    Oom,
    /// It made a system call that its tier does not allow.
    Syscall {
        /// The call's name, as in `ptrace`; none where the kernel does not tell (no BPF).
        name: Option<String>,
    },
    /// The command could not be executed.
    Exec {
        /// Which, and why not.
        reason: String,
    },
    /// The jailer lost it: its first process died of something that was not asked for.
    Lost {
        /// What is known.
        reason: String,
    },
}

/// How calls reach the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Abi {
    /// One long-lived process that asks for calls over HTTP.
    #[default]
    RuntimeApi,
    /// A process per call: stdin, stdout, exit status.
    Stdio,
}

/// A sandbox to be.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The function's name, for people and for the host name inside.
    pub function: String,
    /// Its tenant, for people.
    pub tenant: String,
    /// The unpacked bundle on this host, absolute; seen read-only as `/var/task`.
    pub bundle: PathBuf,
    /// How calls reach it.
    pub abi: Abi,
    /// What of the host's files it sees.
    pub base: Base,
    /// Which system calls it may make.
    pub tier: Tier,
    /// The program and its arguments. A program with a slash is taken from `/var/task` if relative, one without is looked
    /// for in `/var/task`, then along `PATH`. Empty: `/var/task/bootstrap`.
    pub command: Vec<String>,
    /// All of its environment but `PATH`, `HOME`, `TMPDIR`, `LAMBDA_TASK_ROOT` and `AWS_LAMBDA_RUNTIME_API`, which the
    /// jailer sets where this does not.
    pub environment: Vec<(String, String)>,
    /// What it may use.
    pub limits: Limits,
    /// Which addresses it may reach; none: it has a network of its own with nothing in it.
    pub network: Option<Network>,
    /// Devices of the host beside `null zero full random urandom`, as in `/dev/kvm`.
    pub devices: Vec<PathBuf>,
}

/// What a sandbox may use. 0 means no limit of this kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of all its processes and files in `/tmp` together, bytes; more ends the sandbox.
    pub memory_bytes: u64,
    /// Memory from which on it is slowed down and reclaimed from, bytes.
    pub memory_high_bytes: u64,
    /// Share of the CPU among sandboxes that want it, 1 to 10,000; 100 is usual.
    pub cpu_weight: u32,
    /// CPU time per second, thousandths of one CPU.
    pub cpu_milli: u32,
    /// CPUs that it may run on; empty: all of the worker's.
    pub cpus: Vec<u32>,
    /// Processes and threads.
    pub pids: u32,
    /// Open files of one process.
    pub files: u32,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Disk bytes per second, each of reading and writing.
    pub io_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: 128 << 20,
            memory_high_bytes: 0,
            cpu_weight: 100,
            cpu_milli: 0,
            cpus: Vec::new(),
            pids: 64,
            files: 256,
            tmp_bytes: 64 << 20,
            io_bytes: 0,
        }
    }
}

/// What a sandbox with network may reach.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Prefix and port to connect or send to, as in the manifest: `10.0.0.0/8:443`, `udp:10.0.0.53/32:53`.
    pub allow: Vec<String>,
    /// Prefix and port to listen on.
    pub listen: Vec<String>,
    /// Bytes per second out; 0: no limit.
    pub egress_bytes: u64,
    /// Bytes per second in; 0: no limit.
    pub ingress_bytes: u64,
}

/// Why a message was not written or read, or a spec not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolError {
    /// It is too long.
    Long {
        /// Its bytes.
        bytes: usize,
    },
    /// It is not JSON of this protocol, or a path in it is not UTF-8.
    Form(String),
    /// A part of a spec is out of bounds.
    Spec {
        /// Which part.
        place: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Long { bytes } => write!(
                f,
                "the message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} go through; shorten command and environment"
            ),
            ProtocolError::Form(what) => write!(f, "the message cannot be read: {what}"),
            ProtocolError::Spec { place, message } => write!(f, "{place}: {message}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The bytes of a message.
///
/// # Errors
/// If it is longer than [`MESSAGE_BYTES_MAX`] or holds a path that is not UTF-8.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, ProtocolError> {
    let bytes = serde_json::to_vec(message).map_err(|error| ProtocolError::Form(error.to_string()))?;
    match bytes.len() {
        0..=MESSAGE_BYTES_MAX => Ok(bytes),
        bytes => Err(ProtocolError::Long { bytes }),
    }
}

/// The message of these bytes: [`ToJailer`] or [`FromJailer`].
///
/// # Errors
/// If it is not one, or longer than [`MESSAGE_BYTES_MAX`].
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, ProtocolError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(ProtocolError::Long { bytes: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|error| ProtocolError::Form(error.to_string()))
}

impl Spec {
    /// Checks what must hold before anything is made of it: bounds, and no text that C cannot hold.
    ///
    /// # Errors
    /// Which part is wrong.
    pub fn check(&self) -> Result<(), ProtocolError> {
        check_words("command", self.command.iter())?;
        check_environment(&self.environment)?;
        let paths = std::iter::once(&self.bundle).chain(&self.devices);
        for path in paths {
            let text = path.to_str().unwrap_or("\0");
            check_words("bundle, devices", std::iter::once(text))?;
            if !path.is_absolute() {
                return wrong("bundle, devices", format!("{} is not an absolute path", path.display()));
            }
        }
        check_words("devices", self.devices.iter().filter_map(|path| path.to_str()))?;
        check_words("function", [&self.function, &self.tenant].into_iter())?;
        if let Some(network) = &self.network {
            check_words("network", network.allow.iter().chain(&network.listen))?;
        }
        match self.limits.cpus.len() {
            0..=WORDS_MAX => Ok(()),
            count => wrong("limits.cpus", format!("{count} CPUs are listed, at most {WORDS_MAX} allowed")),
        }
    }
}

/// Checks an environment: of a [`Spec`], or of a run.
///
/// # Errors
/// What is wrong with it.
pub fn check_environment(environment: &[(String, String)]) -> Result<(), ProtocolError> {
    check_words("environment", environment.iter().map(|(name, _)| name))?;
    check_words("environment", environment.iter().map(|(_, value)| value))?;
    match environment.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        Some((name, _)) => wrong("environment", format!("`{name}` is not a variable's name")),
        None => Ok(()),
    }
}

fn check_words<W: AsRef<str>>(
    place: &'static str,
    words: impl Iterator<Item = W>,
) -> Result<(), ProtocolError> {
    let (mut count, mut bytes) = (0, 0);
    for word in words {
        let word = word.as_ref();
        count += 1;
        bytes += word.len();
        if word.contains('\0') {
            return wrong(place, "a text holds a zero byte".into());
        }
    }
    if count > WORDS_MAX {
        return wrong(place, format!("has {count} entries, at most {WORDS_MAX} allowed"));
    }
    if bytes > WORDS_BYTES_MAX {
        return wrong(place, format!("has {bytes} bytes, at most {WORDS_BYTES_MAX} allowed"));
    }
    Ok(())
}

fn wrong<T>(place: &'static str, message: String) -> Result<T, ProtocolError> {
    Err(ProtocolError::Spec { place, message })
}
