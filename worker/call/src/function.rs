//! What a function is: `function.toml` as its owner writes it, and as every component reads it.

use crate::ids::FunctionId;
use crate::outcome::Status;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

pub mod files;
pub mod network;
pub mod process;
pub mod queue;
pub mod shaping;
pub(crate) mod check;

pub use files::FileGrants;
pub use network::{NetworkSpec, Prefix, Protocol, Rule};
pub use process::{Base, LimitSpec, ProcessSpec, SandboxSpec, Tier};
pub use queue::{Expired, QueueSpec};
pub use shaping::{BreakerSpec, FlowSpec, LocalitySpec, QuotaKind, QuotaSpec};

/// How the function's code runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// A WebAssembly module.
    #[default]
    Wasm,
    /// An ordinary Linux program in a sandbox.
    Process,
}

/// How arguments and result pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Abi {
    /// Wasm: the fast ABI if the module exports it, else a WASI command. Process: the Runtime API.
    #[default]
    Auto,
    /// WASI preview-1 command: stdin, stdout, exit status.
    Wasi,
    /// `millrace_alloc` and `millrace_call`.
    Fast,
    /// AWS Lambda's Runtime API, 2018-06-01: a process asks for one call after the other.
    RuntimeApi,
    /// A process per call: stdin, stdout, exit status.
    Stdio,
}

/// Whether calls share an instance, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceMode {
    /// Reuse a warm instance. A WASI command always gets a fresh one: `_start` runs once.
    #[default]
    Reuse,
    /// A fresh instance per call: nothing of one call can be seen by the next.
    Fresh,
}

/// What happens to a call that failed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySpec {
    /// Executions in all, the first included; then the dead letters.
    pub attempts: u16,
    /// Wait before the second execution, ms; doubles each time.
    pub backoff_ms: u64,
    /// Longest wait between two executions, ms.
    pub backoff_max_ms: u64,
    /// Retries of a hundred executions at most, so that retries alone never keep a service down; 0 for no such bound.
    pub budget_percent: u32,
    /// How an execution ends that is not tried again: the call is a dead letter at once.
    #[serde(rename = "final", skip_serializing_if = "Vec::is_empty")]
    pub finals: Vec<Status>,
}

impl Default for RetrySpec {
    fn default() -> RetrySpec {
        RetrySpec {
            attempts: 3,
            backoff_ms: 100,
            backoff_max_ms: 60_000,
            budget_percent: 0,
            finals: Vec::new(),
        }
    }
}

impl RetrySpec {
    /// Whether an execution that ended so is the last.
    pub fn is_final(&self, status: Status) -> bool {
        matches!(status, Status::Forbidden | Status::Damaged) || self.finals.contains(&status)
    }

    /// Wait before the execution after `attempt` (from 1) failed, without jitter.
    pub fn backoff(&self, attempt: u16) -> Duration {
        let doublings = u32::from(attempt.saturating_sub(1)).min(32);
        let wait = self.backoff_ms.saturating_mul(1 << doublings);
        Duration::from_millis(wait.min(self.backoff_max_ms))
    }
}

/// A deployed function, as published to every component. JSON on the wire and in the catalog.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FunctionSpec {
    /// Unique in its namespace: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Its pool of workers.
    pub namespace: String,
    /// Who answers for it and is charged.
    pub tenant: String,
    /// How its code runs.
    pub runtime: RuntimeKind,
    /// How arguments and result pass.
    pub abi: Abi,
    /// Whether calls share an instance.
    pub instance: InstanceMode,
    /// SHA-256 of the wasm file or the bundle's tar, hexadecimal; set when deployed.
    pub artefact: String,
    /// Bytes of that file; set when deployed.
    pub artefact_bytes: u64,
    /// Larger is more important, 1 to 255; a call may say otherwise.
    pub criticality: u8,
    /// A call should be done this long after its start time, ms; a call may say otherwise.
    pub deadline_ms: u64,
    /// One execution may last this long, ms, including waiting for its slices.
    pub timeout_ms: u64,
    /// Linear memory of one instance, or all memory of one sandbox, bytes at most.
    pub memory_bytes: u64,
    /// Calls of this function executing at once, over all workers.
    pub concurrency: u32,
    /// Of these, calls with one key; 0 for no such limit.
    pub concurrency_per_key: u32,
    /// Names of the services that it uses, whose back-pressure it reports.
    pub downstreams: Vec<String>,
    /// What it is promised.
    pub quota: QuotaSpec,
    /// Which data it may read.
    pub flow: FlowSpec,
    /// When it is left alone for a while.
    pub breaker: BreakerSpec,
    /// Which workers run it.
    pub locality: LocalitySpec,
    /// What happens to a call that failed.
    pub retry: RetrySpec,
    /// Its calls while they wait, and after they have ended.
    pub queue: QueueSpec,
    /// How a process function is started; the environment is that of every function.
    pub process: ProcessSpec,
    /// What it may take.
    pub limits: LimitSpec,
    /// Whom a process function may speak with.
    pub network: NetworkSpec,
    /// The sandbox of a process function.
    pub sandbox: SandboxSpec,
    /// Directories of its host that a wasm function sees.
    pub files: FileGrants,
    /// Counts deployments of this name, from 1; set by the catalog.
    pub version: u32,
}

impl Default for FunctionSpec {
    fn default() -> FunctionSpec {
        FunctionSpec {
            name: String::new(),
            namespace: "default".into(),
            tenant: "default".into(),
            runtime: RuntimeKind::Wasm,
            abi: Abi::Auto,
            instance: InstanceMode::Reuse,
            artefact: String::new(),
            artefact_bytes: 0,
            criticality: 100,
            deadline_ms: 24 * 3600 * 1000,
            timeout_ms: 30_000,
            memory_bytes: 64 << 20,
            concurrency: 1000,
            concurrency_per_key: 0,
            downstreams: Vec::new(),
            quota: QuotaSpec::default(),
            flow: FlowSpec::default(),
            breaker: BreakerSpec::default(),
            locality: LocalitySpec::default(),
            retry: RetrySpec::default(),
            queue: QueueSpec::default(),
            process: ProcessSpec::default(),
            limits: LimitSpec::default(),
            network: NetworkSpec::default(),
            sandbox: SandboxSpec::default(),
            files: FileGrants::new(),
            version: 0,
        }
    }
}

/// What is wrong with a manifest, where, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecError {
    /// The key, or line and column.
    pub place: String,
    /// What is wrong and the remedy.
    pub message: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for SpecError {}

impl FunctionSpec {
    /// Its id on the wire.
    pub fn id(&self) -> FunctionId {
        FunctionId::of(&self.namespace, &self.name)
    }

    /// How arguments and result pass, [`Abi::Auto`] resolved as far as the code need not be read for it.
    pub fn abi_in_force(&self) -> Abi {
        match (self.runtime, self.abi) {
            (RuntimeKind::Process, Abi::Auto) => Abi::RuntimeApi,
            (_, abi) => abi,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let retry = RetrySpec { attempts: 9, backoff_ms: 100, backoff_max_ms: 1000, ..RetrySpec::default() };
        let waits: Vec<u128> = (1..=6).map(|n| retry.backoff(n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(retry.backoff(u16::MAX).as_millis(), 1000);
    }

    #[test]
    fn a_bad_name_is_told() {
        let spec = FunctionSpec { name: "a b".into(), ..FunctionSpec::default() };
        assert!(spec.validate().unwrap_err().to_string().contains("name: `a b` holds ' '"));
    }
}
