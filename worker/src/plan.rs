//! What was computed from the [`Config`] and the machine: every value checked, no text left to parse.

use crate::config::Config;
use driver::Endpoint;
use runtime::wasm::files::Allowed;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Calls one core may serve at once, at most: a slot costs up to 4 KiB of parking memory and a fiber stack.
pub const SLOTS_MAX: u32 = 4096;

/// The runtime's tick. A slice lasts two of them when calls follow each other without a pause, so a millisecond: what a
/// short call waits behind a long one at most. A tick costs about 1 us, so 0.2 % of a busy core.
pub const TICK: Duration = Duration::from_micros(500);

/// What a slice lasts, about; see [`TICK`].
pub const SLICE: Duration = Duration::from_millis(1);

/// How long one round may begin new calls before the ring is served again. Two hundred no-op calls; a fifth of a
/// slice, so that beginning short calls never delays the ring by more than one slice does.
pub const ROUND: Duration = Duration::from_micros(200);

/// The worker of one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// This host's name, at most 64 bytes.
    pub host: String,
    /// Where the cores connect.
    pub node: Endpoint,
    /// Where the host session connects: TCP or Unix.
    pub host_node: Endpoint,
    /// Compiled artefacts of this host.
    pub cache: PathBuf,
    /// The node's artefact store, if it is on this host.
    pub artefacts: Option<PathBuf>,
    /// One core each, ascending, no duplicates.
    pub cpus: Vec<u32>,
    /// Calls that one core serves at once, 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// Where the host's jailer listens, if process functions are to run.
    pub jailer: Option<PathBuf>,
    /// Directories of this host that wasm functions may be granted.
    pub files_allowed: Allowed,
    /// Bytes of artefacts that are not published any more and are kept in the cache.
    pub unused_bytes: u64,
    /// How long a drain may take.
    pub drain: Duration,
}

/// One core.
#[derive(Clone, Debug, PartialEq)]
pub struct CorePlan {
    /// This host's name.
    pub host: String,
    /// The CPU it is pinned to.
    pub cpu: u32,
    /// Its process, for people.
    pub pid: u32,
    /// Where it connects.
    pub node: Endpoint,
    /// Calls it serves at once.
    pub slots: u32,
    /// How long one round may begin new calls; see [`ROUND`].
    pub round: Duration,
    /// How long a drain may take.
    pub drain: Duration,
}

/// What is wrong with a [`Config`], and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// An option's text is not what the option takes.
    Option {
        /// As on the command line: `--cpus`.
        option: &'static str,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A CPU was asked for that this process may not use.
    Cpu {
        /// Asked for.
        cpu: u32,
        /// What there is.
        allowed: Vec<u32>,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Option { option, message } => write!(f, "{option}: {message}"),
            PlanError::Cpu { cpu, allowed } => write!(
                f,
                "--cpus: CPU {cpu} was asked for, but this process may use only {allowed:?}; \
                 ask for fewer, or widen its cpuset or affinity"
            ),
        }
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// The plan for this configuration on a machine where the process may use the CPUs `allowed`.
    pub fn of(config: &Config, allowed: &[u32]) -> Result<Plan, PlanError> {
        let node = endpoint("--node", &config.node)?;
        let host_node = match &config.host_node {
            Some(text) => endpoint("--host-node", text)?,
            None => node.clone(),
        };
        if matches!(host_node, Endpoint::Shm(_)) {
            return wrong("--host-node", "the host session needs tcp:ADDRESS:PORT or unix:PATH".into());
        }
        if !(1..=SLOTS_MAX).contains(&config.slots) {
            return wrong("--slots", format!("{} is not between 1 and {SLOTS_MAX}", config.slots));
        }
        Ok(Plan {
            host: host_name(config)?,
            node,
            host_node,
            cache: config.data_dir.join("cache"),
            artefacts: config.artefacts.clone(),
            cpus: cpus(config.cpus.as_deref(), allowed)?,
            slots: config.slots,
            jailer: config.jailer.clone(),
            files_allowed: Allowed::new(config.files_allowed.clone()),
            unused_bytes: config.unused_bytes,
            drain: Duration::from_secs(config.drain_s),
        })
    }

    /// The part of the core on `cpu`, for the process that calls this.
    pub fn core(&self, cpu: u32) -> CorePlan {
        CorePlan {
            host: self.host.clone(),
            cpu,
            pid: std::process::id(),
            node: self.node.clone(),
            slots: self.slots,
            round: ROUND,
            drain: self.drain,
        }
    }
}

/// The CPUs that this process may use, ascending.
pub fn allowed_cpus() -> Vec<u32> {
    driver::topology::cpus().into_iter().map(|cpu| cpu as u32).collect()
}

fn wrong<T>(option: &'static str, message: String) -> Result<T, PlanError> {
    Err(PlanError::Option { option, message })
}

fn endpoint(option: &'static str, text: &str) -> Result<Endpoint, PlanError> {
    text.parse().map_err(|message| PlanError::Option { option, message })
}

fn host_name(config: &Config) -> Result<String, PlanError> {
    let name = match &config.host {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
    };
    match name.len() {
        1..=64 => Ok(name),
        bytes => wrong("--host", format!("a host name has 1 to 64 bytes, this one {bytes}")),
    }
}

/// CPUs of a list like `0,2-5`; all of `allowed` if there is none.
fn cpus(text: Option<&str>, allowed: &[u32]) -> Result<Vec<u32>, PlanError> {
    let Some(text) = text else { return Ok(allowed.to_vec()) };
    let refuse = || PlanError::Option {
        option: "--cpus",
        message: format!("`{text}` is not a list of CPUs; write it like 0,2-5"),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| refuse())?;
        let last: u32 = last.trim().parse().map_err(|_| refuse())?;
        if last < first || last - first > 4096 {
            return Err(refuse());
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(PlanError::Cpu { cpu: *cpu, allowed: allowed.to_vec() }),
        None => Ok(cpus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut Config)) -> Result<Plan, PlanError> {
        let mut config = Config { host: Some("here".into()), ..Config::default() };
        change(&mut config);
        Plan::of(&config, &[0, 1, 2, 3])
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(plan(|_| ()).unwrap().cpus, [0, 1, 2, 3]);
        assert_eq!(plan(|c| c.cpus = Some("3,0-1,1".into())).unwrap().cpus, [0, 1, 3]);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_option() {
        let told = |change: fn(&mut Config)| plan(change).unwrap_err().to_string();
        assert!(told(|c| c.cpus = Some("0-".into())).contains("--cpus: `0-` is not a list"));
        assert!(told(|c| c.cpus = Some("2-1".into())).contains("--cpus"));
        assert!(told(|c| c.cpus = Some("0,7".into())).contains("CPU 7 was asked for"));
        assert!(told(|c| c.node = "nowhere".into()).contains("--node: `nowhere` is not an endpoint"));
        assert!(told(|c| c.host_node = Some("shm:/x".into())).contains("--host-node"));
        assert!(told(|c| c.slots = 0).contains("--slots: 0 is not between"));
        assert!(told(|c| c.host = Some(String::new())).contains("--host"));
    }
}
