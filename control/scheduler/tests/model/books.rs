//! What the node knows of gates: the laws in their own words, by counting, with none of the scheduler's arithmetic.

use super::{Bug, FUNCTIONS};
use call::{Instant, Label, WallTime};
use scheduler::{
    BreakerRule, FunctionRef, GroupRef, Policy, Quota, Rate, RetryRule, SlowStartRule, TenantRef,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// One call, in the unit in which tokens are counted: thousandths of a call a second times nanoseconds.
const CALL: i128 = 1_000_000_000_000;
/// Of the function that has a slow start.
const WINDOW: Duration = Duration::from_secs(1);
const LEAST: i64 = 3;
/// Of the function that has a retry budget.
const RETRIES: RetryRule = RetryRule { share: 250, least: Rate(10), most: 1 };
/// Of the opportunistic function.
const NEAR: Duration = Duration::from_secs(5);

/// What a function's policy is in the model, by its number; the first never has one.
pub fn policy(function: FunctionRef, rate: Rate, bug: Bug) -> Option<Policy> {
    let own = match function.0 {
        1 => Policy { tenant: TenantRef(1), rate, burst: 2, ..Policy::default() },
        2 => Policy { quota: Quota::Opportunistic { near: NEAR }, rate, burst: 2, ..Policy::default() },
        3 => Policy {
            tenant: TenantRef(2),
            concurrency_per_key: 1 + u32::from(bug == Bug::KeysTooMany),
            label: if bug == Bug::LabelTooHigh { Label::HIGHEST } else { label_of(function) },
            group: GroupRef(1),
            ..Policy::default()
        },
        4 => Policy {
            tenant: TenantRef(1),
            slow_start: Some(SlowStartRule {
                window: WINDOW,
                least: LEAST as u32,
                growth: if bug == Bug::GrowthTooFast { 2000 } else { 500 },
            }),
            breaker: Some(BreakerRule { calls_min: 4, ..BreakerRule::default() }),
            retry_budget: Some(match bug {
                Bug::RetriesTooMany => RetryRule { share: 1000, most: 20, ..RETRIES },
                _ => RETRIES,
            }),
            ..Policy::default()
        },
        _ => return None,
    };
    Some(own)
}

/// The label of a function.
pub fn label_of(function: FunctionRef) -> Label {
    if function.0 == 3 { Label::new(2, &[1, 2]).expect("in range") } else { Label::LOWEST }
}

/// The locality group of a function.
pub fn group_of(function: FunctionRef) -> GroupRef {
    if function.0 == 3 { GroupRef(1) } else { GroupRef::NONE }
}

/// A bucket that is refilled as time passes. Not limited until it is set.
#[derive(Default, Debug)]
struct Tokens {
    rate: Option<u64>,
    burst: i128,
    left: i128,
}

impl Tokens {
    fn set(&mut self, rate: Rate, burst: u32) {
        let limited = (rate != Rate::UNLIMITED).then_some(rate.0);
        if self.rate.is_none() {
            self.left = i128::from(burst) * CALL;
        }
        (self.rate, self.burst) = (limited, i128::from(burst) * CALL);
    }

    fn pass(&mut self, ns: u64) {
        let earned = i128::from(ns) * i128::from(self.rate.unwrap_or(0));
        self.left = self.burst.min(self.left + earned);
    }

    /// Calls went in, or back if negative. Says whether they may.
    fn take(&mut self, calls: i64) -> bool {
        self.left = self.burst.min(self.left - i128::from(calls) * CALL);
        self.rate.is_none() || self.left >= 0
    }
}

/// The books of one function.
#[derive(Default, Debug)]
struct Shaped {
    policy: Policy,
    quota: Tokens,
    /// Of the opportunistic one: what its calls that were not near their deadline may still be, from the start.
    unhurried: i128,
    limit: Tokens,
    /// Calls in the RunQ or dispatched at the last look, less those that were not sent.
    entered: i64,
    unsent: i64,
    dispatched: i64,
    /// Calls that entered per window of slow start.
    began: Option<Instant>,
    windows: Vec<i64>,
    /// First executions taken in, and retries dispatched.
    firsts: u64,
    retries: u64,
    since: Instant,
}

/// The books of all functions.
#[derive(Debug)]
pub struct Books {
    /// The clock of gates.
    pub now: Instant,
    looked_at: Instant,
    s: u32,
    of: BTreeMap<FunctionRef, Shaped>,
    bug: Bug,
    /// Whether calls never go back from the RunQ: then what enters in a window can be counted from outside.
    pub judges_growth: bool,
}

impl Books {
    /// Nothing is known.
    pub fn new(bug: Bug) -> Books {
        Books {
            now: Instant(0),
            looked_at: Instant(0),
            s: 1000,
            of: BTreeMap::new(),
            bug,
            judges_growth: false,
        }
    }

    /// The clock of deadlines.
    pub fn wall(&self) -> WallTime {
        WallTime(self.now.0)
    }

    fn shaped(&mut self, function: FunctionRef) -> &mut Shaped {
        let since = self.looked_at;
        self.of.entry(function).or_insert_with(|| Shaped { since, ..Shaped::default() })
    }

    /// A policy was told.
    pub fn set(&mut self, function: FunctionRef, policy: Policy) {
        let (s, bug) = (self.s, self.bug);
        let of = self.shaped(function);
        let fresh = of.quota.rate.is_none();
        of.policy = policy;
        let rate = if policy.quota == Quota::Reserved { policy.rate } else { policy.rate.times(s) };
        of.quota.set(rate, policy.burst - u32::from(bug == Bug::QuotaTooHigh));
        let limit = of.limit.rate.map_or(Rate::UNLIMITED, Rate);
        of.limit.set(limit, policy.burst);
        if fresh {
            of.unhurried = i128::from(policy.burst) * CALL;
        }
    }

    /// S was told.
    pub fn set_s(&mut self, s: u32) {
        self.s = s;
        let policies: Vec<_> = self.of.iter().map(|(function, of)| (*function, of.policy)).collect();
        policies.into_iter().for_each(|(function, policy)| self.set(function, policy));
    }

    /// A controller's limit was told.
    pub fn set_limit(&mut self, function: FunctionRef, rate: Rate) {
        let burst = self.shaped(function).policy.burst;
        self.shaped(function).limit.set(rate, burst);
    }

    /// A function and its gates are gone.
    pub fn forget(&mut self, function: FunctionRef) {
        self.of.remove(&function);
    }

    /// A call of this function was offered.
    pub fn offered(&mut self, function: FunctionRef, retry: bool) {
        self.shaped(function).firsts += u64::from(!retry);
    }

    /// A call was dispatched.
    pub fn dispatched(&mut self, function: FunctionRef, deadline: u64, retry: bool) {
        let (now, wall) = (self.now, self.wall());
        let of = self.shaped(function);
        of.dispatched += 1;
        of.retries += u64::from(retry);
        if function.0 == 4 {
            let RetryRule { share, least, most } = RETRIES;
            let earned =
                u128::from(now.since(of.since).as_nanos() as u64) * u128::from(least.0) / CALL as u128;
            let budget = u64::from(share) * of.firsts / 1000 + earned as u64 + u64::from(most);
            assert!(of.retries <= budget + 1, "{} retries, the budget is {budget}", of.retries);
        }
        if matches!(of.policy.quota, Quota::Opportunistic { .. }) && WallTime(deadline) > wall + NEAR {
            of.unhurried -= CALL;
            assert!(of.unhurried >= 0, "more opportunistic calls than quota times S");
        }
    }

    /// A dispatched call was not sent.
    pub fn not_sent(&mut self, function: FunctionRef) {
        self.shaped(function).unsent += 1;
    }

    /// A turn begins at `self.now`.
    pub fn pass(&mut self) {
        let ns = self.now.0 - std::mem::replace(&mut self.looked_at, self.now).0;
        for of in self.of.values_mut() {
            of.quota.pass(ns);
            of.limit.pass(ns);
            of.unhurried += i128::from(ns) * i128::from(of.quota.rate.unwrap_or(0));
        }
    }

    /// A turn is over; `queued` says how many calls of a function are in the RunQ.
    pub fn judge(&mut self, queued: impl Fn(FunctionRef) -> u32) {
        for function in (0..FUNCTIONS).map(FunctionRef) {
            let now = self.now;
            let Some(of) = self.of.get_mut(&function) else { continue };
            let entered = of.dispatched - of.unsent + i64::from(queued(function));
            let more = entered - std::mem::replace(&mut of.entered, entered);
            let within = of.quota.take(more);
            assert!(
                within || of.policy.quota != Quota::Reserved,
                "more calls of {function:?} than its quota"
            );
            assert!(of.limit.take(more), "more calls of {function:?} than a controller allows");
            if self.judges_growth && of.policy.slow_start.is_some() {
                of.grow(now, more);
            }
        }
    }
}

impl Shaped {
    fn grow(&mut self, now: Instant, more: i64) {
        if more > 0 && self.began.is_none() {
            self.began = Some(now);
        }
        let Some(began) = self.began else { return };
        let window = (now.since(began).as_nanos() / WINDOW.as_nanos()) as usize;
        self.windows.resize(self.windows.len().max(window + 1), 0);
        self.windows[window] += more;
        let before = window.checked_sub(1).map_or(0, |before| self.windows[before]);
        let cap = LEAST.max(before * 3 / 2);
        assert!(self.windows[window] <= cap, "grew faster than slow start allows: {:?}", self.windows);
    }
}
