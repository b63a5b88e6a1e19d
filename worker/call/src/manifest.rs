//! `function.toml`: what the owner of a function writes about it.
//!
//! ```toml
//! name = "thumbnail"                # letters, digits, `-`, `_`, `.`
//! artefact = "target/thumbnail.wasm" # relative to this file
//!
//! # The rest may be left out; these are the defaults.
//! namespace = "default"
//! tenant = "default"
//! runtime = "wasm"                  # or "process", below
//! abi = "auto"                      # or "wasi", "fast"
//! instance = "reuse"                # or "fresh"
//! criticality = "normal"            # or "low", "high", "critical", or a number from 1 to 255
//! deadline = "24h"                  # from a call's start time to when it should be done
//! timeout = "30s"                   # of one execution
//! memory = "64MiB"                  # of one instance
//! concurrency = 1000                # calls executing at once, over all workers
//! concurrency_per_key = 0           # of these, calls with one key; 0 for no such limit
//! downstreams = []                  # services that it uses, like ["tao"]: whose back-pressure it reports
//!
//! [retry]
//! attempts = 3                      # the first one included
//! backoff = "100ms"                 # doubles with each attempt
//! backoff_max = "60s"
//! budget = 0                        # retries of a hundred executions at most; 0 for no such bound
//! final = []                        # ends that are not tried again, like ["exit", "timeout"]
//!
//! [queue]
//! backlog = 0                       # calls pending at most; 0 for as many as there is room for
//! backlog_bytes = "0"               # and their bytes, like "1GiB"
//! expires = "0s"                    # from the start time to when a call must have begun; "0s" for never
//! expired = "outcome"               # or "dead-letter": what becomes of one that has not
//! retain = "0s"                     # how long an end is remembered at least; "0s" for as long as there is room
//! retain_bytes = "1MiB"             # outcomes up to this size are kept for so long; a stored result counts as its name
//! idempotency = "1h"                # how long an idempotency key is remembered after its call's end
//!
//! [quota]                           # of all workers together
//! kind = "reserved"                 # starts within seconds; or "opportunistic": by its deadline, when there is capacity
//! cpu = "0"                         # CPU time per time, in cores, like "2.5"; 0 for no limit
//! rate = 0                          # calls per second that may start; 0 for no limit
//! burst = 0                         # calls that may start at once above the rate; 0 for a second's
//! slow_start = false                # true: beyond 100 calls a minute they grow by 20% a minute at most
//!
//! [flow]                            # data flows from lower to higher zones only
//! zone = 0                          # 0 to 7
//! compartments = []                 # numbers from 1 to 5 that it may read
//!
//! [breaker]                         # leaves a failing function alone for a while
//! failures = 0                      # percent of executions; 0 for never
//! calls = 20                        # executions before it judges
//! open = "10s"                      # before one call tries
//!
//! [locality]
//! group = ""                        # functions of one group run on the same workers
//!
//! [limits]
//! cpu_weight = 100                  # share of a busy core beside other functions, 1 to 10000
//! cpu = "0"                         # share of one core at most, like "0.25"; 0 for no limit
//!
//! [environment]                     # variables beside those that the platform sets
//!
//! [files]                           # directories of the host, read-only, that its worker's operator allows:
//! # "/models" = "/srv/models"       # the function's path, the host's path; up to 8
//! ```
//!
//! A process function has the same keys, `bundle` instead of `artefact` and no `instance`, and these beside them:
//!
//! ```toml
//! name = "resize"
//! runtime = "process"
//! command = ["./bootstrap"]         # without a slash: sought in PATH; else in the bundle, or absolute
//!
//! # The rest may be left out; these are the defaults.
//! # bundle = "build"                # a directory, a .tar or a .tar.gz, unpacked to /var/task; without: no files
//! abi = "runtime-api"               # AWS Lambda's; or "stdio": a process per call
//! handler = ""                      # for the Runtime API: `_HANDLER`, like "app.handler"
//! base = "host"                     # programs and libraries of the host, read-only; or "none"
//! memory = "128MiB"                 # of one sandbox
//!
//! [environment]                     # variables beside those that the platform sets
//!
//! [limits]                          # of one sandbox
//! cpu_weight = 100                  # share of a busy CPU beside others, 1 to 10000; one that computes all the time
//!                                   # stands back behind those that answer and wait
//! cpu = "0"                         # cores, like "1.5"; 0 for no limit
//! pids = 64                         # processes and threads
//! files = 256                       # file descriptors of one process
//! tmp = "64MiB"                     # of /tmp, which is memory; not more than `memory` if left out
//! io = "0"                          # bytes per second from and to disks, like "10MiB"; 0 for no limit
//! concurrent = 1                    # calls served at once
//! grace = "2s"                      # from SIGTERM to SIGKILL
//! init_timeout = "10s"              # from the start to the first `next`
//! idle = "5m"                       # without a call for so long it is ended
//! sandboxes = 16                    # on one core at most
//!
//! [network]                         # without `allow` and `listen`: a loopback of its own, nothing else
//! allow = []                        # like ["10.0.0.0/8:443", "[2001:db8::]/32:*", "udp:10.0.0.53/32:53"]
//! listen = []                       # what it may bind, like ["tcp:127.0.0.1:8080"]
//! egress = "0"                      # bytes per second, like "10MiB"; 0 for no limit
//! ingress = "0"
//!
//! [sandbox]
//! tier = "default"                  # or "strict": fewer system calls
//! devices = []                      # beside null, zero, full, random and urandom, like ["/dev/fuse"]
//! ```
//!
//! Every error says file, line and column, what is wrong there, and what is allowed. A key that means nothing for the
//! function's kind is an error too.

use crate::function::check::{FILES_OF_PROCESSES, for_processes_only};
use crate::function::{
    Abi, Base, Expired, FunctionSpec, InstanceMode, LimitSpec, QueueSpec, QuotaKind, RuntimeKind, SpecError,
    Tier,
};
use key::{Key, Source};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod key;
#[cfg(test)]
mod tests;

/// Bytes of the longest manifest: room for a thousand long lines, and nobody waits for a parser.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;

/// Memory of a sandbox whose manifest does not say: what Lambda gives.
const SANDBOX_BYTES: u64 = 128 << 20;

/// A manifest, read and checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// The function, without hash and size of its artefact, and without a version.
    pub spec: FunctionSpec,
    /// The wasm file, or the bundle (a directory or a tar), relative to the manifest. `None` for a process function
    /// without files of its own.
    pub artefact: Option<PathBuf>,
}

/// Keys that stand alone, before the first table.
const KEYS: [&str; 18] = [
    "name",
    "artefact",
    "bundle",
    "namespace",
    "tenant",
    "runtime",
    "abi",
    "command",
    "handler",
    "base",
    "instance",
    "criticality",
    "deadline",
    "timeout",
    "memory",
    "concurrency",
    "concurrency_per_key",
    "downstreams",
];
/// Tables and their keys.
const TABLES: [(&str, &[&str]); 9] = [
    ("retry", &["attempts", "backoff", "backoff_max", "budget", "final"]),
    ("queue", &["backlog", "backlog_bytes", "expires", "expired", "retain", "retain_bytes", "idempotency"]),
    ("quota", &["kind", "cpu", "rate", "burst", "slow_start"]),
    ("flow", &["zone", "compartments"]),
    ("breaker", &["failures", "calls", "open"]),
    ("locality", &["group"]),
    ("limits", &LIMITS),
    ("network", &["allow", "listen", "egress", "ingress"]),
    ("sandbox", &["tier", "devices"]),
];
const LIMITS: [&str; 11] = [
    "cpu_weight",
    "cpu",
    "pids",
    "files",
    "tmp",
    "io",
    "concurrent",
    "grace",
    "init_timeout",
    "idle",
    "sandboxes",
];
/// Tables whose keys are the owner's own.
const ENVIRONMENT: &str = "environment";
const FILES: &str = "files";

/// Names of levels of criticality, and their numbers.
pub const CRITICALITIES: [(&str, u8); 4] = [("low", 50), ("normal", 100), ("high", 150), ("critical", 200)];
const RUNTIMES: [(&str, RuntimeKind); 2] = [("wasm", RuntimeKind::Wasm), ("process", RuntimeKind::Process)];
const ABIS: [(&str, Abi); 5] = [
    ("auto", Abi::Auto),
    ("wasi", Abi::Wasi),
    ("fast", Abi::Fast),
    ("runtime-api", Abi::RuntimeApi),
    ("stdio", Abi::Stdio),
];
const QUOTAS: [(&str, QuotaKind); 2] =
    [("reserved", QuotaKind::Reserved), ("opportunistic", QuotaKind::Opportunistic)];
const INSTANCES: [(&str, InstanceMode); 2] = [("reuse", InstanceMode::Reuse), ("fresh", InstanceMode::Fresh)];
const EXPIRED: [(&str, Expired); 2] = [("outcome", Expired::Outcome), ("dead-letter", Expired::DeadLetter)];
const BASES: [(&str, Base); 2] = [("host", Base::Host), ("none", Base::None)];
const TIERS: [(&str, Tier); 2] = [("default", Tier::Default), ("strict", Tier::Strict)];

/// Reads the text of a manifest. `file` is its name for error messages.
///
/// # Errors
/// The first thing in the text that is wrong, with its place.
pub fn parse(file: &str, text: &str) -> Result<Manifest, SpecError> {
    let source = Source { file, text };
    if text.len() > MANIFEST_BYTES_MAX {
        let message = format!("the manifest has {} bytes, at most {MANIFEST_BYTES_MAX} allowed", text.len());
        return Err(SpecError { place: file.into(), message });
    }
    let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
    let mut manifest = Manifest { spec: FunctionSpec::default(), artefact: None };
    let mut places = Vec::new();
    for (name, value) in in_order(table.get_ref()) {
        let key = Key { source, name: name.get_ref().to_string(), at: value.span(), value: value.get_ref() };
        places.push((key.name.clone(), key.at.clone()));
        match TABLES.iter().find(|(table, _)| *table == key.name) {
            Some((_, keys)) => read_table(&mut manifest, &key, keys, &mut places)?,
            None if key.name == ENVIRONMENT => {
                let expected = "a text; put numbers into quotes too";
                manifest.spec.process.environment = read_pairs(&key, expected, &mut places)?;
            }
            None if key.name == FILES => {
                let expected = "the path of a directory of the host, like \"/srv/models\"";
                manifest.spec.files = read_pairs(&key, expected, &mut places)?;
            }
            None if KEYS.contains(&key.name.as_str()) => read_key(&mut manifest, &key)?,
            None => return Err(source.unknown(name.span(), "", name.get_ref(), &known())),
        }
    }
    let is_said = |key: &str| places.iter().any(|(name, _)| name == key);
    require(source, is_said("name"), "name", "name = \"hello\"")?;
    match manifest.spec.runtime {
        RuntimeKind::Wasm => {
            refuse_foreign(source, &places, is_for_processes, for_processes_only)?;
            require(source, is_said("artefact"), "artefact", "artefact = \"hello.wasm\"")?;
        }
        RuntimeKind::Process => {
            refuse_foreign(
                source,
                &places,
                |key| matches!(key, "artefact" | "instance" | FILES),
                for_wasm_only,
            )?;
            require(source, is_said("command"), "command", "command = [\"./bootstrap\"]")?;
            process_defaults(&mut manifest.spec, is_said);
        }
    }
    manifest.spec.validate().map_err(|error| source.out_of_range(error, &places))?;
    Ok(manifest)
}

/// All that may stand at the beginning of a line before the first table.
fn known() -> Vec<&'static str> {
    KEYS.into_iter().chain(TABLES.map(|(table, _)| table)).chain([ENVIRONMENT, FILES]).collect()
}

/// Where a key's value stands, for errors that are found later; in the order of the text.
type Places = Vec<(String, Range<usize>)>;

fn require(source: Source<'_>, is_said: bool, key: &str, example: &str) -> Result<(), SpecError> {
    if is_said {
        return Ok(());
    }
    let message = format!("`{key}` is missing; write for example `{example}`");
    Err(SpecError { place: source.file.into(), message })
}

/// Keys that mean nothing for a wasm function.
fn is_for_processes(key: &str) -> bool {
    match key.split_once('.') {
        None => {
            matches!(key, "bundle" | "command" | "handler" | "base" | "network" | "sandbox")
        }
        Some(("limits", key)) => !matches!(key, "cpu_weight" | "cpu"),
        Some(_) => false,
    }
}

fn for_wasm_only(key: &str) -> String {
    match key {
        "artefact" => "is for wasm functions; a process function has `bundle`, or no files of its own".into(),
        FILES => FILES_OF_PROCESSES.into(),
        _ => "is for wasm functions; the sandbox of a process function serves call after call".into(),
    }
}

fn refuse_foreign(
    source: Source<'_>,
    places: &Places,
    is_foreign: impl Fn(&str) -> bool,
    why: impl Fn(&str) -> String,
) -> Result<(), SpecError> {
    match places.iter().find(|(key, _)| is_foreign(key)) {
        Some((key, at)) => Err(source.error(at, format!("`{key}` {}", why(key)))),
        None => Ok(()),
    }
}

/// What is another default for a sandbox than for an instance.
fn process_defaults(spec: &mut FunctionSpec, is_said: impl Fn(&str) -> bool) {
    if !is_said("memory") {
        spec.memory_bytes = SANDBOX_BYTES;
    }
    if !is_said("limits.tmp") {
        spec.limits.tmp_bytes = spec.limits.tmp_bytes.min(spec.memory_bytes);
    }
}

fn read_key(manifest: &mut Manifest, key: &Key<'_>) -> Result<(), SpecError> {
    let spec = &mut manifest.spec;
    match key.name.as_str() {
        "name" => spec.name = key.text("a text, like \"hello\"")?.into(),
        "artefact" => manifest.artefact = Some(key.path("hello.wasm")?),
        "bundle" => manifest.artefact = Some(key.path("build")?),
        "namespace" => spec.namespace = key.text("a text, like \"default\"")?.into(),
        "tenant" => spec.tenant = key.text("a text, like \"default\"")?.into(),
        "runtime" => spec.runtime = key.one_of(&RUNTIMES)?,
        "abi" => spec.abi = key.one_of(&ABIS)?,
        "command" => spec.process.command = key.texts("a list of texts, like [\"./bootstrap\"]")?,
        "handler" => spec.process.handler = key.text("a text, like \"app.handler\"")?.into(),
        "base" => spec.process.base = key.one_of(&BASES)?,
        "instance" => spec.instance = key.one_of(&INSTANCES)?,
        "criticality" => spec.criticality = key.criticality()?,
        "deadline" => spec.deadline_ms = key.duration_ms()?,
        "timeout" => spec.timeout_ms = key.duration_ms()?,
        "memory" => spec.memory_bytes = key.bytes()?,
        "concurrency" => spec.concurrency = key.number_u32()?,
        "concurrency_per_key" => spec.concurrency_per_key = key.number_u32()?,
        "downstreams" => spec.downstreams = key.texts("a list of texts, like [\"tao\"]")?,
        "retry.attempts" => spec.retry.attempts = key.number(u64::from(u16::MAX))? as u16,
        "retry.backoff" => spec.retry.backoff_ms = key.duration_ms()?,
        "retry.backoff_max" => spec.retry.backoff_max_ms = key.duration_ms()?,
        "retry.budget" => spec.retry.budget_percent = key.number_u32()?,
        "retry.final" => spec.retry.finals = key.statuses()?,
        "network.allow" => spec.network.allow = key.rules()?,
        "network.listen" => spec.network.listen = key.rules()?,
        "network.egress" => spec.network.egress_bytes_per_s = key.bytes()?,
        "network.ingress" => spec.network.ingress_bytes_per_s = key.bytes()?,
        "sandbox.tier" => spec.sandbox.tier = key.one_of(&TIERS)?,
        "sandbox.devices" => spec.sandbox.devices = key.texts("a list of paths, like [\"/dev/fuse\"]")?,
        name if name.starts_with("queue.") => read_queue(&mut spec.queue, key)?,
        name if name.starts_with("limits.") => read_limit(&mut spec.limits, key)?,
        _ => read_shaping(spec, key)?,
    }
    Ok(())
}

fn read_shaping(spec: &mut FunctionSpec, key: &Key<'_>) -> Result<(), SpecError> {
    match key.name.as_str() {
        "quota.kind" => spec.quota.kind = key.one_of(&QUOTAS)?,
        "quota.cpu" => spec.quota.cpu_millis = key.thousandths()?.into(),
        "quota.rate" => spec.quota.calls_per_s = key.number(u64::from(u32::MAX))?,
        "quota.burst" => spec.quota.burst = key.number(u64::from(u32::MAX))?,
        "quota.slow_start" => spec.quota.slow_start = key.truth()?,
        "flow.zone" => spec.flow.zone = key.number(u64::from(u8::MAX))? as u8,
        "flow.compartments" => {
            spec.flow.compartments = key.small_numbers("a list of numbers, like [1, 4]")?
        }
        "breaker.failures" => spec.breaker.failures_percent = key.number_u32()?,
        "breaker.calls" => spec.breaker.calls = key.number_u32()?,
        "breaker.open" => spec.breaker.open_ms = key.duration_ms()?,
        "locality.group" => spec.locality.group = key.text("a text, like \"feeds\"")?.into(),
        other => unreachable!("`{other}` is among the known keys and is not read"),
    }
    Ok(())
}

fn read_queue(queue: &mut QueueSpec, key: &Key<'_>) -> Result<(), SpecError> {
    match key.name.as_str() {
        "queue.backlog" => queue.backlog = key.number(u64::from(u32::MAX))?,
        "queue.backlog_bytes" => queue.backlog_bytes = key.bytes()?,
        "queue.expires" => queue.expires_ms = key.duration_ms()?,
        "queue.expired" => queue.expired = key.one_of(&EXPIRED)?,
        "queue.retain" => queue.retain_ms = key.duration_ms()?,
        "queue.retain_bytes" => queue.retain_bytes = key.bytes()?,
        "queue.idempotency" => queue.idempotency_ms = key.duration_ms()?,
        other => unreachable!("`{other}` is among the known keys and is not read"),
    }
    Ok(())
}

fn read_limit(limits: &mut LimitSpec, key: &Key<'_>) -> Result<(), SpecError> {
    match key.name.as_str() {
        "limits.cpu_weight" => limits.cpu_weight = key.number_u32()?,
        "limits.cpu" => limits.cpu_millis = key.thousandths()?,
        "limits.pids" => limits.pids = key.number_u32()?,
        "limits.files" => limits.files = key.number_u32()?,
        "limits.tmp" => limits.tmp_bytes = key.bytes()?,
        "limits.io" => limits.io_bytes_per_s = key.bytes()?,
        "limits.concurrent" => limits.concurrent = key.number_u32()?,
        "limits.grace" => limits.grace_ms = key.duration_ms()?,
        "limits.init_timeout" => limits.init_timeout_ms = key.duration_ms()?,
        "limits.idle" => limits.idle_ms = key.duration_ms()?,
        "limits.sandboxes" => limits.sandboxes = key.number_u32()?,
        other => unreachable!("`{other}` is among the known keys and is not read"),
    }
    Ok(())
}

fn read_table(
    manifest: &mut Manifest,
    table: &Key<'_>,
    keys: &[&str],
    places: &mut Places,
) -> Result<(), SpecError> {
    for (name, value) in in_order(table.table()?) {
        let full = format!("{}.{}", table.name, name.get_ref());
        if !keys.contains(&name.get_ref().as_ref()) {
            return Err(table.source.unknown(name.span(), &format!("{}.", table.name), name.get_ref(), keys));
        }
        let key = Key { source: table.source, name: full, at: value.span(), value: value.get_ref() };
        places.push((key.name.clone(), key.at.clone()));
        read_key(manifest, &key)?;
    }
    Ok(())
}

/// A table whose keys are the owner's own, and whose values are texts.
fn read_pairs(
    table: &Key<'_>,
    expected: &str,
    places: &mut Places,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut pairs = BTreeMap::new();
    for (name, value) in in_order(table.table()?) {
        let full = format!("{}.{}", table.name, name.get_ref());
        let key = Key { source: table.source, name: full, at: value.span(), value: value.get_ref() };
        pairs.insert(name.get_ref().to_string(), key.text(expected)?.to_owned());
        places.push((key.name.clone(), key.at.clone()));
    }
    Ok(pairs)
}

type Pair<'t, 'i> = (&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>);

/// The keys of a table as they stand in the file, so that the first error is the first one a reader meets.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Pair<'t, 'i>> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(name, _)| name.span().start);
    pairs
}
