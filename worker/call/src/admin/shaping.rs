//! Words about what holds calls back: quotas, services behind functions, and why one call waits.
//!
//! Rates are in thousandths of a call per second.

use super::Whose;
use crate::function::{QuotaKind, QuotaSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What an operator says about a function's quota, in the place of its manifest. What is absent is the manifest's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaChange {
    /// See [`QuotaSpec::kind`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<QuotaKind>,
    /// See [`QuotaSpec::cpu_millis`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// See [`QuotaSpec::calls_per_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_s: Option<u64>,
    /// See [`QuotaSpec::burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// See [`QuotaSpec::slow_start`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<bool>,
    /// See [`crate::function::QueueSpec::backlog`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// See [`crate::function::QueueSpec::backlog_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog_bytes: Option<u64>,
}

impl QuotaChange {
    /// A manifest's quota with this on top.
    #[must_use]
    pub fn over(&self, quota: &QuotaSpec) -> QuotaSpec {
        QuotaSpec {
            kind: self.kind.unwrap_or(quota.kind),
            cpu_millis: self.cpu_millis.unwrap_or(quota.cpu_millis),
            calls_per_s: self.calls_per_s.unwrap_or(quota.calls_per_s),
            burst: self.burst.unwrap_or(quota.burst),
            slow_start: self.slow_start.unwrap_or(quota.slow_start),
        }
    }

    /// This with what a later change says on top.
    #[must_use]
    pub fn then(&self, later: &QuotaChange) -> QuotaChange {
        QuotaChange {
            kind: later.kind.or(self.kind),
            cpu_millis: later.cpu_millis.or(self.cpu_millis),
            calls_per_s: later.calls_per_s.or(self.calls_per_s),
            burst: later.burst.or(self.burst),
            slow_start: later.slow_start.or(self.slow_start),
            backlog: later.backlog.or(self.backlog),
            backlog_bytes: later.backlog_bytes.or(self.backlog_bytes),
        }
    }
}

/// What the owner of a service says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownstreamSpec {
    /// Executions that may meet back-pressure in a minute, of all functions together; above it they are slowed down.
    pub threshold_per_minute: u64,
}

/// What an operator says about a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// Its share beside other tenants' calls of the same criticality; 1 for one of which nothing was said.
    pub weight: u32,
    /// Calls of all its functions that may be pending at once; 0 for as many as there is room for.
    #[serde(default)]
    pub backlog: u64,
    /// Bytes of the calls that may be pending at once; 0 for as many as there is room for.
    #[serde(default)]
    pub backlog_bytes: u64,
}

/// All that operators said beside manifests, as it is kept on disk and told to the node at its start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shaping {
    /// By `namespace/name`. Kept when the function is deleted: it may come back.
    pub quotas: BTreeMap<String, QuotaChange>,
    /// By name.
    pub tenants: BTreeMap<String, TenantSpec>,
    /// By name.
    pub downstreams: BTreeMap<String, DownstreamSpec>,
    /// Whose calls are held. Kept when a function is deleted: it may come back.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub paused: BTreeSet<Whose>,
    /// Functions that take no new calls, by `namespace/name`: somebody drains them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub closed: BTreeSet<String>,
}

/// A function's quota, and what is made of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuotaState {
    /// Namespace/name.
    pub function: String,
    /// Who is charged.
    pub tenant: String,
    /// That tenant's weight.
    pub weight: u32,
    /// The quota in force.
    pub quota: QuotaSpec,
    /// The part of it that an operator set.
    pub set: QuotaChange,
    /// The rate that the central rate limiter made of the quota of CPU; none if it has not, or there is none.
    pub cpu_rate: Option<u64>,
    /// The rate in force, times S if it is opportunistic; none for no limit.
    pub rate: Option<u64>,
    /// The rate that back-pressure left; none if it limits nothing.
    pub limit: Option<u64>,
    /// Calls that wait.
    pub waiting: u64,
    /// Calls that run.
    pub running: u64,
    /// The rule that holds its next call now; see [`Why::rule`].
    pub rule: String,
}

/// A service behind functions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DownstreamState {
    /// Its name.
    pub downstream: String,
    /// Its owner's threshold, if one was set; without one it slows nobody down.
    pub threshold_per_minute: Option<u64>,
    /// Executions that met back-pressure in the last minute.
    pub last_minute: u64,
    /// And since the node's start.
    pub total: u64,
    /// Functions that use it.
    pub functions: Vec<Limited>,
}

/// A function that uses a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limited {
    /// Namespace/name.
    pub function: String,
    /// The rate that back-pressure left it; none if it is not limited.
    pub limit: Option<u64>,
    /// Its executions that met this service's back-pressure since the node's start.
    pub total: u64,
}

/// Why a call is where it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Why {
    /// Its id.
    pub call: String,
    /// Namespace/name.
    pub function: String,
    /// As [`super::CallState::state`].
    pub state: String,
    /// Which rule holds it now, in one word.
    pub rule: String,
    /// Since when, Unix ns; 0 if that is not known.
    pub since: u64,
    /// When time alone frees it, Unix ns; none if an event must.
    pub until: Option<u64>,
    /// What would free it, in a sentence.
    pub frees: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_changes_go_over_earlier_ones_and_those_over_the_manifest() {
        let first = QuotaChange { cpu_millis: Some(500), calls_per_s: Some(7), ..QuotaChange::default() };
        let later = QuotaChange { calls_per_s: Some(9), slow_start: Some(true), ..QuotaChange::default() };
        let quota = first.then(&later).over(&QuotaSpec { burst: 3, ..QuotaSpec::default() });
        assert_eq!((quota.cpu_millis, quota.calls_per_s, quota.burst), (500, 9, 3));
        assert!(quota.slow_start);
        assert_eq!(serde_json::to_string(&first).unwrap(), r#"{"cpu_millis":500,"calls_per_s":7}"#);
        assert!(serde_json::from_str::<QuotaChange>(r#"{"cpus":1}"#).is_err());
    }
}
