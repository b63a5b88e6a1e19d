//! What an owner asks for his function: plain data, which a node makes from `function.toml`.

use crate::breaker::BreakerRule;
use crate::quota::Rate;
use crate::retry_budget::RetryRule;
use crate::slow_start::SlowStartRule;
use call::Label;
use std::time::Duration;

/// Who answers for functions: the node's number for it, below `limits.tenants_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TenantRef(pub u16);

/// A locality group: functions, and the cores that run them. The number is below [`crate::GROUPS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GroupRef(pub u16);

impl GroupRef {
    /// No group: such a function runs on every core, and such a core runs every function.
    pub const NONE: GroupRef = GroupRef(0);
}

/// How soon calls are promised to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Quota {
    /// Within seconds, inside the rate.
    #[default]
    Reserved,
    /// When there is capacity: the rate is multiplied by S, which the utilization controller publishes. A call near
    /// its deadline is not held back by it: time-shifting moves calls, and breaks no promise.
    Opportunistic {
        /// How long before its deadline a call is near it. Long enough to run all that may have piled up; the paper
        /// gives none, [`Quota::NEAR`] is an hour of its 24.
        near: Duration,
    },
}

impl Quota {
    /// A sensible `near` for the paper's deadline of 24 hours.
    pub const NEAR: Duration = Duration::from_secs(3600);
}

/// The rules that hold for one function. [`Policy::default`] holds nothing back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Who shares with others of its level: see [`crate::Input::Tenant`].
    pub tenant: TenantRef,
    /// The promise.
    pub quota: Quota,
    /// Calls a second that enter the RunQ; the CPU quota by the mean CPU of a call.
    pub rate: Rate,
    /// Calls that may enter at once after a pause, at least 1. Of a rate that is to be used up it must hold what comes
    /// in between two turns: [`crate::Scheduler::WAKE_STEP`] of it.
    pub burst: u32,
    /// Calls with the same key in the RunQ or running at once; 0 for any number.
    pub concurrency_per_key: u32,
    /// What it may read.
    pub label: Label,
    /// Where it runs.
    pub group: GroupRef,
    /// Bounds the growth of its calls.
    pub slow_start: Option<SlowStartRule>,
    /// Stops it while it fails.
    pub breaker: Option<BreakerRule>,
    /// Bounds the share of its executions that are retries.
    pub retry_budget: Option<RetryRule>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            tenant: TenantRef::default(),
            quota: Quota::Reserved,
            rate: Rate::UNLIMITED,
            burst: 1,
            concurrency_per_key: 0,
            label: Label::LOWEST,
            group: GroupRef::NONE,
            slow_start: None,
            breaker: None,
            retry_budget: None,
        }
    }
}
