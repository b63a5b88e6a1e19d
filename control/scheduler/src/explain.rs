//! Why a call still waits: which rule holds it, since when, and what would free it.

use crate::func_buffer::Place;
use crate::functions::Turn;
use crate::gates::OPEN;
use crate::scheduler::Scheduler;
use crate::words::{CallRef, FunctionRef};
use call::Instant;

/// What decides about a call or a function at the moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// It runs: no rule holds it.
    Running,
    /// In the RunQ: the next credit of a core that fits is for it, or for one ahead of it.
    RunQ,
    /// Its function waits for its turn among the others.
    Turn,
    /// Other calls of its function go first.
    Behind,
    /// All cores that are ready for its function are out of credits.
    Credits,
    /// No core that is up is ready for its function.
    NoCore,
    /// As many calls of its function as may be are in the RunQ or running.
    Concurrency,
    /// As many calls of its key as may be are in the RunQ or running.
    Key,
    /// Its function has used up its reserved quota.
    Quota,
    /// Its function has used up its opportunistic quota, as far as S allows it.
    Opportunistic,
    /// A controller limits its function: the central rate limiter, or AIMD for a downstream service.
    Limit,
    /// Its function grew as fast as slow start allows.
    SlowStart,
    /// The circuit breaker of its function is open.
    Breaker,
    /// It is a retry, and its function's retry budget is used up.
    RetryBudget,
    /// Its data may not flow to its function: it is refused.
    Label,
    /// Its function is not deployed.
    NotDeployed,
    /// The scheduler holds no call of the function.
    Empty,
}

impl Rule {
    /// What would free whoever it holds, in one sentence for people.
    pub const fn frees(self) -> &'static str {
        match self {
            Rule::Running => "nothing holds it: it runs",
            Rule::RunQ => "a core that fits grants a credit",
            Rule::Turn => "its turn among functions of its level comes, when cores grant credits",
            Rule::Behind => "calls of its function that are more critical, or due earlier, go first",
            Rule::Credits => "a core that has its function ready ends a call",
            Rule::NoCore => "a core whose host has its function compiled connects",
            Rule::Concurrency => "a call of its function ends, or its concurrency is raised",
            Rule::Key => "a call of the same key ends, or concurrency_per_key is raised",
            Rule::Quota => "time passes, or the reserved quota is raised",
            Rule::Opportunistic => "S rises, its deadline comes near, or the opportunistic quota is raised",
            Rule::Limit => "time passes, or the downstream service or the rate limiter allows more",
            Rule::SlowStart => "the next window of slow start begins",
            Rule::Breaker => "the breaker tries again, and its probes go well",
            Rule::RetryBudget => "other calls of its function earn retries, or time passes",
            Rule::Label => "nothing: it is refused",
            Rule::NotDeployed => "its function is deployed",
            Rule::Empty => "calls of it become due",
        }
    }

    /// The word users see.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Running => "running",
            Rule::RunQ => "run-q",
            Rule::Turn => "turn",
            Rule::Behind => "behind",
            Rule::Credits => "credits",
            Rule::NoCore => "no-core",
            Rule::Concurrency => "concurrency",
            Rule::Key => "key",
            Rule::Quota => "quota",
            Rule::Opportunistic => "opportunistic",
            Rule::Limit => "limit",
            Rule::SlowStart => "slow-start",
            Rule::Breaker => "breaker",
            Rule::RetryBudget => "retry-budget",
            Rule::Label => "label",
            Rule::NotDeployed => "not-deployed",
            Rule::Empty => "empty",
        }
    }
}

/// Why something waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Why {
    /// Which rule holds it now. Of several gates the one that opens last.
    pub rule: Rule,
    /// Since when this rule holds its function, or its key: by the clock of turns.
    pub since: Instant,
    /// When it is let go by time alone; none if only an event frees it.
    pub until: Option<Instant>,
}

impl Scheduler {
    /// Why this call is where it is; none if the scheduler does not hold it.
    pub fn explain(&self, call: CallRef) -> Option<Why> {
        let function = match self.calls.place(call) {
            Place::Absent => return None,
            _ => self.calls.function(call),
        };
        let of = self.functions.get(function);
        let since = of.since();
        let here = |rule| Some(Why { rule, since, until: None });
        match self.calls.place(call) {
            Place::Absent => None,
            Place::Running => here(Rule::Running),
            Place::Queued => here(Rule::RunQ),
            Place::Refused => here(Rule::Label),
            Place::Buffered if of.gate != OPEN && self.waits_for_budget(call) => {
                let gate = self.gates.get(of.gate);
                let (rule, until) = (Rule::RetryBudget, Some(gate.retry_at()));
                Some(Why { rule, since: gate.waiting_since, until })
            }
            Place::Buffered => match self.waits_for_key(call, function) {
                Some(since) => Some(Why { rule: Rule::Key, since, until: None }),
                None => Some(self.explain_buffered(call, function)),
            },
        }
    }

    fn explain_buffered(&self, call: CallRef, function: FunctionRef) -> Why {
        let why = self.explain_function(function);
        let first = self.calls.best(&self.functions.get(function).buffer) == Some(call);
        if why.rule == Rule::Turn && !first { Why { rule: Rule::Behind, ..why } } else { why }
    }

    /// Why the function gives no call to the RunQ.
    pub fn explain_function(&self, function: FunctionRef) -> Why {
        let of = self.functions.get(function);
        let since = of.since();
        let rule = match of.turn() {
            Turn::Level(_) => Rule::Turn,
            Turn::Blocked => Rule::Credits,
            Turn::Held => {
                let held = self.gates.get(of.gate).held.expect("a gate holds it");
                let until = Some(held.until).filter(|until| *until < Instant::NEVER);
                return Why { rule: held.rule, since: held.since, until };
            }
            Turn::None if !of.live => Rule::NotDeployed,
            Turn::None if of.buffer.is_empty() => Rule::Empty,
            Turn::None if of.cores().is_empty() => Rule::NoCore,
            Turn::None => Rule::Concurrency,
        };
        Why { rule, since, until: None }
    }
}
