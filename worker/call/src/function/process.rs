//! What a process function is started with, and what it may take.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Parts of a command, the program included.
pub const COMMAND_PARTS_MAX: usize = 256;
/// Bytes of one part of a command, of a handler's name, and of one value of the environment.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Variables of the environment that a manifest may set.
pub const ENVIRONMENT_MAX: usize = 128;
/// Bytes of the longest name of such a variable.
pub const VARIABLE_BYTES_MAX: usize = 128;
/// Bytes of all names and values together: a small part of the stack of a new program, where the kernel puts them.
pub const ENVIRONMENT_BYTES_MAX: usize = 32 << 10;
/// Devices that a manifest may ask for.
pub const DEVICES_MAX: usize = 16;

/// Where the files of a bundle are in its sandbox; the working directory of the function.
pub const TASK_ROOT: &str = "/var/task";
/// `PATH` of a function that does not set its own.
pub const PATH_DEFAULT: &str = "/var/task:/usr/local/bin:/usr/bin:/bin";
/// Variables that the platform sets for a process function; no manifest may.
pub const VARIABLES_RESERVED: [&str; 14] = [
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_METADATA_API",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
];
/// Variables that begin so are set by the platform; a manifest may not set them.
pub const VARIABLE_PREFIX_RESERVED: &str = "MILLRACE_";

/// Which files of the host a function sees, read-only, beside its bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// `/usr`, `/bin`, `/sbin`, `/lib`, `/lib64` and a few files of `/etc`: programs and libraries of the host.
    #[default]
    Host,
    /// None: the bundle has all that the function needs, for instance one static executable.
    None,
}

/// How a process function is started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessSpec {
    /// The program and its arguments. A program without a slash is sought in `PATH` ([`PATH_DEFAULT`]), one with a
    /// slash that does not begin with it is relative to [`TASK_ROOT`]. Empty for other kinds of functions.
    pub command: Vec<String>,
    /// What the function finds in `_HANDLER`: for `awslambdaric`, `module.function`. May be empty.
    pub handler: String,
    /// Which files of the host it sees.
    pub base: Base,
    /// Variables of its environment, beside those that the platform sets. For wasm functions too.
    pub environment: BTreeMap<String, String>,
}

/// What a function may take. All but the CPU's are for process functions only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSpec {
    /// Share of a busy CPU, beside functions with other weights: 1 to 10,000.
    pub cpu_weight: u32,
    /// CPU time per time, of one sandbox or, for wasm, of the function on one core: thousandths of a core; 0 for no
    /// limit.
    pub cpu_millis: u32,
    /// Processes and threads of one sandbox.
    pub pids: u32,
    /// File descriptors of one process.
    pub files: u32,
    /// Bytes of `/tmp`, in memory that counts as the sandbox's.
    pub tmp_bytes: u64,
    /// Bytes per second read from or written to block devices, each; 0 for no limit.
    pub io_bytes_per_s: u64,
    /// Calls that one sandbox serves at once; Lambda's `AWS_LAMBDA_MAX_CONCURRENCY`.
    pub concurrent: u32,
    /// From SIGTERM to SIGKILL, ms.
    pub grace_ms: u64,
    /// From the start of a sandbox to its first `next`, ms.
    pub init_timeout_ms: u64,
    /// A sandbox that had no call for so long is ended, ms.
    pub idle_ms: u64,
    /// Sandboxes of the function on one core at most.
    pub sandboxes: u32,
}

impl Default for LimitSpec {
    fn default() -> LimitSpec {
        LimitSpec {
            cpu_weight: 100,
            cpu_millis: 0,
            pids: 64,
            files: 256,
            tmp_bytes: 64 << 20,
            io_bytes_per_s: 0,
            concurrent: 1,
            grace_ms: 2000,
            init_timeout_ms: 10_000,
            idle_ms: 5 * 60 * 1000,
            sandboxes: 16,
        }
    }
}

/// How tightly the kernel's interface is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// System calls that ordinary programs need.
    #[default]
    Default,
    /// A shorter list, for programs that do little but compute.
    Strict,
}

/// The sandbox of a process function.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSpec {
    /// Which list of system calls.
    pub tier: Tier,
    /// Device files beside `null`, `zero`, `full`, `random` and `urandom`, like `/dev/fuse`; the operator of a worker
    /// must expose them too. At most [`DEVICES_MAX`].
    pub devices: Vec<String>,
}

/// The path of `program` (the first part of a command) inside the bundle, if it can only be there: relative to
/// [`TASK_ROOT`], without `.` and with `..` resolved. `None` for programs of the base and for names sought in `PATH`.
pub fn in_task_root(program: &str) -> Option<String> {
    if !program.contains('/') {
        return None;
    }
    let whole = if program.starts_with('/') { program.to_owned() } else { format!("{TASK_ROOT}/{program}") };
    let mut parts = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let inside = parts.strip_prefix(["var", "task"].as_slice())?;
    (!inside.is_empty()).then(|| inside.join("/"))
}
