//! What a function is promised, and what its calls are held back by: the attributes that shape load.

use crate::label::Label;
use serde::{Deserialize, Serialize};

/// Services that one function may name.
pub const DOWNSTREAMS_MAX: usize = 8;
/// The largest quota: CPUs of the largest fleet there is (the paper's has more than 100,000 workers), in thousandths.
pub const QUOTA_CPU_MILLIS_MAX: u64 = 100_000_000 * 1000;
/// The largest rate, calls per second; the paper's whole platform takes 12 million.
pub const RATE_MAX: u64 = 100_000_000;

/// What the platform promises about a function's calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuotaKind {
    /// A call starts within seconds while the function is inside its quota.
    #[default]
    Reserved,
    /// A call is done by its deadline, and runs when there is capacity that nobody reserved.
    Opportunistic,
}

/// How much of the platform a function may have over time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaSpec {
    /// What is promised.
    pub kind: QuotaKind,
    /// CPU time per time over all workers, thousandths of a core; 0 for no limit. The central rate limiter makes it
    /// into calls per second by what a call of the function takes on average.
    pub cpu_millis: u64,
    /// Calls per second that may start; 0 for no limit.
    pub calls_per_s: u64,
    /// Calls that may start at once above the rate; 0 for what the rate gives in a second.
    pub burst: u64,
    /// Whether its calls grow a step at a time (beyond 100 a minute by 20% a minute), so that what stands behind it can
    /// follow.
    pub slow_start: bool,
}

impl Default for QuotaSpec {
    fn default() -> QuotaSpec {
        QuotaSpec { kind: QuotaKind::Reserved, cpu_millis: 0, calls_per_s: 0, burst: 0, slow_start: false }
    }
}

/// Where a function stands in the flow of data; see [`Label`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowSpec {
    /// 0 to [`crate::label::ZONE_MAX`]; higher reads lower.
    pub zone: u8,
    /// Compartments that it may read, by number.
    pub compartments: Vec<u8>,
}

impl FlowSpec {
    /// As a label. A specification that was not checked has the lowest, which reads least.
    pub fn label(&self) -> Label {
        Label::new(self.zone, &self.compartments).unwrap_or(Label::LOWEST)
    }
}

/// When a function that fails is left alone for a while.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSpec {
    /// Failed executions of a hundred, from which on it opens; 0 for never.
    pub failures_percent: u32,
    /// Executions that must have ended before it judges.
    pub calls: u32,
    /// How long it stays open before one call tries, ms.
    pub open_ms: u64,
}

impl Default for BreakerSpec {
    fn default() -> BreakerSpec {
        BreakerSpec { failures_percent: 0, calls: 20, open_ms: 10_000 }
    }
}

/// Which workers run a function's calls.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalitySpec {
    /// Functions that name the same group are kept together, since they share code or caches; empty: the optimizer
    /// is free.
    pub group: String,
}
