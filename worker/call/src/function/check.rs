//! The ranges of a function's fields, and which of them belong to which kind of function.

use super::files;
use super::network::RULES_MAX;
use super::process::{
    COMMAND_PARTS_MAX, DEVICES_MAX, ENVIRONMENT_BYTES_MAX, ENVIRONMENT_MAX, TEXT_BYTES_MAX,
    VARIABLE_BYTES_MAX, VARIABLE_PREFIX_RESERVED, VARIABLES_RESERVED,
};
use super::queue::RETAIN_MS_MAX;
use super::shaping::{DOWNSTREAMS_MAX, QUOTA_CPU_MILLIS_MAX, RATE_MAX};
use super::{
    Abi, Base, FunctionSpec, InstanceMode, LimitSpec, NetworkSpec, ProcessSpec, RuntimeKind, SandboxSpec,
    SpecError,
};
use crate::label::{COMPARTMENT_MAX, Label, ZONE_MAX};
use crate::limits::{ARTEFACT_BYTES_MAX, NAME_BYTES_MAX};
use crate::outcome::Status;
use std::ops::RangeInclusive;

/// Statuses that a function may call final: those of executions that failed by themselves.
pub(crate) const FINALS: [Status; 10] = [
    Status::Exit,
    Status::Trap,
    Status::Timeout,
    Status::Memory,
    Status::Stack,
    Status::BadReply,
    Status::Error,
    Status::Init,
    Status::Killed,
    Status::Syscall,
];
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Bytes of memory of the smallest sandbox: a static program that does nothing takes less.
const SANDBOX_BYTES_MIN: u64 = 4 << 20;
/// A terabyte: more than any host has for one sandbox.
const SANDBOX_BYTES_MAX: u64 = 1 << 40;
/// The kernel's shortest quota is 1 ms in each period of 100 ms.
const CPU_MILLIS_MIN: u32 = 10;
/// The largest number of CPUs that Linux is built for by distributions.
const CPU_MILLIS_MAX: u32 = 8192 * 1000;

impl FunctionSpec {
    /// Checks every field's range, and that no field is set that means nothing for this kind of function.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_name("name", &self.name)?;
        check_name("namespace", &self.namespace)?;
        check_name("tenant", &self.tenant)?;
        check_range("criticality", u64::from(self.criticality), 1..=255, "")?;
        check_range("deadline", self.deadline_ms, 1..=7 * DAY_MS, " ms")?;
        check_range("timeout", self.timeout_ms, 1..=DAY_MS, " ms")?;
        check_range("concurrency", u64::from(self.concurrency), 1..=1_000_000, "")?;
        check_range("retry.attempts", u64::from(self.retry.attempts), 1..=1000, "")?;
        check_range("artefact", self.artefact_bytes, 0..=ARTEFACT_BYTES_MAX as u64, " bytes")?;
        self.validate_shaping()?;
        self.limits.validate()?;
        match self.runtime {
            RuntimeKind::Wasm => self.validate_wasm(),
            RuntimeKind::Process => self.validate_process(),
        }
    }

    fn validate_shaping(&self) -> Result<(), SpecError> {
        check_range("concurrency_per_key", self.concurrency_per_key.into(), 0..=1_000_000, "")?;
        check_range("retry.budget", self.retry.budget_percent.into(), 0..=100, " percent")?;
        if self.downstreams.len() > DOWNSTREAMS_MAX {
            let message =
                format!("has {} services, at most {DOWNSTREAMS_MAX} allowed", self.downstreams.len());
            return error("downstreams", message);
        }
        self.downstreams.iter().try_for_each(|name| check_name("downstreams", name))?;
        self.validate_queue()?;
        check_range("quota.cpu", self.quota.cpu_millis, 0..=QUOTA_CPU_MILLIS_MAX, " thousandths of a core")?;
        check_range("quota.rate", self.quota.calls_per_s, 0..=RATE_MAX, " calls per second")?;
        check_range("quota.burst", self.quota.burst, 0..=RATE_MAX, " calls")?;
        check_range("flow.zone", self.flow.zone.into(), 0..=ZONE_MAX.into(), "")?;
        if Label::new(self.flow.zone, &self.flow.compartments).is_none() {
            let message = format!("holds a number that is not between 1 and {COMPARTMENT_MAX}");
            return error("flow.compartments", message);
        }
        check_range("breaker.failures", self.breaker.failures_percent.into(), 0..=100, " percent")?;
        check_range("breaker.calls", self.breaker.calls.into(), 1..=1_000_000, "")?;
        check_range("breaker.open", self.breaker.open_ms, 1..=DAY_MS, " ms")?;
        if self.locality.group.is_empty() {
            Ok(())
        } else {
            check_name("locality.group", &self.locality.group)
        }
    }

    fn validate_queue(&self) -> Result<(), SpecError> {
        let (queue, most) = (&self.queue, RETAIN_MS_MAX);
        check_range("queue.expires", queue.expires_ms, 0..=most, " ms")?;
        check_range("queue.retain", queue.retain_ms, 0..=most, " ms")?;
        check_range("queue.idempotency", queue.idempotency_ms, 0..=most, " ms")?;
        if self.retry.finals.iter().any(|status| !FINALS.contains(status)) {
            return error("retry.final", "holds a status that an execution does not end with");
        }
        Ok(())
    }

    fn validate_wasm(&self) -> Result<(), SpecError> {
        check_range("memory", self.memory_bytes, 64 << 10..=4 << 30, " bytes")?;
        if matches!(self.abi, Abi::RuntimeApi | Abi::Stdio) {
            return error(
                "abi",
                "is for process functions; a wasm function has \"auto\", \"wasi\" or \"fast\"",
            );
        }
        let (process, limits, usual) = (ProcessSpec::default(), self.limits.clone(), LimitSpec::default());
        let (network, sandbox) = (NetworkSpec::default(), SandboxSpec::default());
        let own = LimitSpec { cpu_weight: limits.cpu_weight, cpu_millis: limits.cpu_millis, ..usual };
        for (place, is_set) in [
            ("command", self.process.command != process.command),
            ("handler", self.process.handler != process.handler),
            ("base", self.process.base != process.base),
            ("network", self.network != network),
            ("sandbox", self.sandbox != sandbox),
            ("limits", limits != own),
        ] {
            if is_set {
                return error(place, for_processes_only(place));
            }
        }
        self.process.validate_environment()?;
        files::check(&self.files)
    }

    fn validate_process(&self) -> Result<(), SpecError> {
        check_range("memory", self.memory_bytes, SANDBOX_BYTES_MIN..=SANDBOX_BYTES_MAX, " bytes")?;
        if matches!(self.abi, Abi::Wasi | Abi::Fast) {
            let message =
                "is for wasm functions; a process function has \"auto\", \"runtime-api\" or \"stdio\"";
            return error("abi", message);
        }
        if self.instance != InstanceMode::Reuse {
            return error(
                "instance",
                "is for wasm functions; a process function's sandbox serves call after call",
            );
        }
        if !self.files.is_empty() {
            return error("files", FILES_OF_PROCESSES);
        }
        if self.abi_in_force() == Abi::Stdio {
            if !self.process.handler.is_empty() {
                return error(
                    "handler",
                    "is for abi = \"runtime-api\"; name the function in `command` instead",
                );
            }
            if self.limits.concurrent != 1 {
                return error(
                    "limits.concurrent",
                    "must be 1 with abi = \"stdio\": a sandbox runs one process per call",
                );
            }
        }
        self.process.validate()?;
        self.network.validate()?;
        self.sandbox.validate()
    }
}

/// Why a process function has no grants of files.
pub(crate) const FILES_OF_PROCESSES: &str = "is for wasm functions; a process function sees its bundle, its base, and what the operator exposes (`--expose`)";

/// Why a key of process functions is refused for others.
pub(crate) fn for_processes_only(key: &str) -> String {
    let why = match key.split('.').next().unwrap_or_default() {
        "bundle" => "; a wasm function has `artefact`",
        "network" => "; a wasm function has no network",
        "limits" => "; a wasm function has `cpu_weight` and `cpu` there, and `memory` before the first table",
        _ => "; add that line, or remove this one",
    };
    format!("is for runtime = \"process\"{why}")
}

impl LimitSpec {
    fn validate(&self) -> Result<(), SpecError> {
        check_range("limits.cpu_weight", self.cpu_weight.into(), 1..=10_000, "")?;
        if self.cpu_millis != 0 {
            let allowed = u64::from(CPU_MILLIS_MIN)..=u64::from(CPU_MILLIS_MAX);
            if !allowed.contains(&u64::from(self.cpu_millis)) {
                let message = format!(
                    "is {} thousandths of a core, must be between 0.01 and 8192 cores, or 0 for no limit",
                    self.cpu_millis
                );
                return error("limits.cpu", message);
            }
        }
        check_range("limits.pids", self.pids.into(), 1..=32_768, "")?;
        check_range("limits.files", self.files.into(), 16..=1 << 20, "")?;
        check_range("limits.tmp", self.tmp_bytes, 4096..=SANDBOX_BYTES_MAX, " bytes")?;
        check_rate("limits.io", self.io_bytes_per_s)?;
        check_range("limits.concurrent", self.concurrent.into(), 1..=1000, "")?;
        check_range("limits.grace", self.grace_ms, 0..=60_000, " ms")?;
        check_range("limits.init_timeout", self.init_timeout_ms, 1..=15 * 60 * 1000, " ms")?;
        check_range("limits.idle", self.idle_ms, 0..=DAY_MS, " ms")?;
        check_range("limits.sandboxes", self.sandboxes.into(), 1..=4096, "")
    }
}

impl ProcessSpec {
    fn validate(&self) -> Result<(), SpecError> {
        let Some(program) = self.command.first() else {
            return error("command", "is missing or empty; write for example command = [\"./bootstrap\"]");
        };
        if program.is_empty() {
            return error("command", "names no program: its first part is empty");
        }
        if self.command.len() > COMMAND_PARTS_MAX {
            let message = format!("has {} parts, at most {COMMAND_PARTS_MAX} allowed", self.command.len());
            return error("command", message);
        }
        self.command.iter().try_for_each(|part| check_text("command", part))?;
        if self.base == Base::None
            && program.starts_with('/')
            && super::process::in_task_root(program).is_none()
        {
            let message = format!(
                "is `{program}`, which is not there with base = \"none\"; only the bundle is, in /var/task"
            );
            return error("command", message);
        }
        check_text("handler", &self.handler)?;
        self.validate_environment()
    }

    fn validate_environment(&self) -> Result<(), SpecError> {
        if self.environment.len() > ENVIRONMENT_MAX {
            let message =
                format!("has {} variables, at most {ENVIRONMENT_MAX} allowed", self.environment.len());
            return error("environment", message);
        }
        let mut bytes = 0;
        for (name, value) in &self.environment {
            check_variable(name, value)?;
            bytes += name.len() + value.len();
        }
        if bytes > ENVIRONMENT_BYTES_MAX {
            return error(
                "environment",
                format!("has {bytes} bytes, at most {ENVIRONMENT_BYTES_MAX} allowed"),
            );
        }
        Ok(())
    }
}

fn check_variable(name: &str, value: &str) -> Result<(), SpecError> {
    let shown: String = name.chars().take(VARIABLE_BYTES_MAX).collect();
    let place = format!("environment.{shown}");
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !starts || !plain {
        return error(&place, "is no name of a variable; use letters, digits and `_`, no digit first");
    }
    if name.len() > VARIABLE_BYTES_MAX {
        return error(&place, format!("has {} bytes, at most {VARIABLE_BYTES_MAX} allowed", name.len()));
    }
    if VARIABLES_RESERVED.contains(&name) || name.starts_with(VARIABLE_PREFIX_RESERVED) {
        return error(&place, "is set by the platform for each function; use another name");
    }
    check_text(&place, value)
}

impl NetworkSpec {
    fn validate(&self) -> Result<(), SpecError> {
        for (place, rules) in [("network.allow", &self.allow), ("network.listen", &self.listen)] {
            if rules.len() > RULES_MAX {
                return error(place, format!("has {} rules, at most {RULES_MAX} allowed", rules.len()));
            }
        }
        check_rate("network.egress", self.egress_bytes_per_s)?;
        check_rate("network.ingress", self.ingress_bytes_per_s)
    }
}

impl SandboxSpec {
    fn validate(&self) -> Result<(), SpecError> {
        let place = "sandbox.devices";
        if self.devices.len() > DEVICES_MAX {
            return error(
                place,
                format!("has {} devices, at most {DEVICES_MAX} allowed", self.devices.len()),
            );
        }
        for (at, device) in self.devices.iter().enumerate() {
            check_text(place, device)?;
            let name = device.strip_prefix("/dev/").unwrap_or_default();
            let wrong = |part: &str| matches!(part, "" | "." | "..");
            if name.split('/').any(wrong) || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return error(
                    place,
                    format!("holds {device:?}; write the path of a device, like \"/dev/fuse\""),
                );
            }
            if self.devices[..at].contains(device) {
                return error(place, format!("holds {device:?} twice"));
            }
        }
        Ok(())
    }
}

fn check_text(place: &str, text: &str) -> Result<(), SpecError> {
    if text.len() > TEXT_BYTES_MAX {
        return error(
            place,
            format!("holds a text of {} bytes, at most {TEXT_BYTES_MAX} allowed", text.len()),
        );
    }
    if text.contains('\0') {
        return error(place, "holds a zero byte, which would end the text early");
    }
    Ok(())
}

/// Zero, or at least a page per second: what is slower never moves a packet or a block.
fn check_rate(place: &str, bytes_per_s: u64) -> Result<(), SpecError> {
    if bytes_per_s == 0 || (4096..=SANDBOX_BYTES_MAX).contains(&bytes_per_s) {
        return Ok(());
    }
    error(
        place,
        format!(
            "is {bytes_per_s} bytes per second, must be between 4096 and {SANDBOX_BYTES_MAX}, or 0 for no limit"
        ),
    )
}

fn check_name(place: &str, name: &str) -> Result<(), SpecError> {
    if name.is_empty() {
        return error(place, "is missing or empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return error(place, format!("has {} bytes, at most {NAME_BYTES_MAX} allowed", name.len()));
    }
    let wrong = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.');
    match name.chars().find(wrong) {
        Some(c) => error(place, format!("`{name}` holds {c:?}; use letters, digits, `-`, `_` and `.`")),
        None if name.starts_with('.') => error(place, format!("`{name}` starts with a dot")),
        None => Ok(()),
    }
}

fn check_range(place: &str, value: u64, allowed: RangeInclusive<u64>, unit: &str) -> Result<(), SpecError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (low, high) = allowed.into_inner();
    error(place, format!("is {value}{unit}, must be between {low} and {high}{unit}"))
}

fn error(place: &str, message: impl Into<String>) -> Result<(), SpecError> {
    Err(SpecError { place: place.into(), message: message.into() })
}
