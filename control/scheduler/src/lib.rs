//! FuncBuffer, RunQ, WorkerLB: which call runs next, and where.
//!
//! ```text
//! durable queue --Poll/Offered--> FuncBuffer (one per function) --gates, turns--> RunQ --credits--> core
//!                                  |  ^                                            |
//!                                  |  '---------------- set aside -----------------'
//!                                  '-> beside it: waits for its key, or for the retry budget
//! ```
//!
//! Pure deciders: no I/O, no allocation after [`Scheduler::new`], and no clock but that of [`Input::Turn`]. A decision
//! costs O(log n) in the number of calls of one function, and O(1) in the number of functions, held back by a gate or not,
//! and of cores. What is rare (a core or host that comes or goes, a deleted function, a new S) walks over all
//! functions or the RunQ.
//!
//! A *gate* holds a function or a call back by a rule of its owner or of a controller: one file per rule. A function
//! that got no [`Policy`] and no [`Input::Limit`] has none, and its calls pass none. [`Scheduler::next_wake`] says when
//! the next gate opens by time, [`Scheduler::explain`] which one holds a call.
//!
//! # Laws
//! 1. **Inside a function** calls enter the RunQ by criticality, then deadline, then arrival.
//! 2. **Between functions** the one whose best call is most critical goes first: criticality is strict. Among equals
//!    it goes round by tenant: one that gave as many calls as its weight goes behind all others of that level, so
//!    between two of its turns each of the others gives at most its weight. Inside a tenant it goes round by function:
//!    between two turns of one each of the others has at most one. A level is left, and its turn with it, when the
//!    function's best call changes its criticality, when it reaches its concurrency limit, when a gate holds it back,
//!    or when it is blocked (law 5).
//! 3. **In the RunQ** the most critical call runs first, and calls of one level in the order in which they came.
//!    A RunQ that is full takes only a call more critical than all in it.
//! 4. **Never more**: a core gets at most as many calls as it granted credits; a function has at most
//!    `concurrency` calls in the RunQ and running. (One deployed again with a lower concurrency gets no call until
//!    its running calls are fewer.)
//! 5. **Nobody waits for another's core**: a call whose ready cores are out of credits goes back to its FuncBuffer
//!    while others have credits, and its function is *blocked* until one of its own cores has credits again. It
//!    may then be overtaken by calls of its function that were still in the RunQ.
//! 6. **Conservation**: each call that was offered is dispatched and then forgotten at its end, or is given back.
//! 7. **Flow control**: the fuller the RunQ, the fewer calls a poll asks for; an empty FuncBuffer may always have
//!    one, so that each function's head is seen.
//! 8. **Near before far**: a core that stands for another region gets a call only if no near core that is ready for
//!    it has credits.
//!
//! 9. **Quota** ([`quota`]): in any time t at most rate x t + burst calls of a function enter the RunQ, less those that go
//!    back. It counts what enters, as in the paper; what then waits in the RunQ for credits may leave it faster. Of an
//!    opportunistic function the rate is multiplied by S; a call that is near its deadline passes and takes nothing. Looked
//!    at is the function's best call: one that is hidden behind a more critical one of its own function waits with it.
//! 10. **Limit**: the same, for what a controller allows. No deadline passes it.
//! 11. **Slow start** ([`slow_start`]): in each window at most the larger of T and the calls of the window before times
//!     1 + alpha.
//! 12. **Breaker** ([`breaker`]): of a function whose calls fail nothing enters, except probes; it always tries again.
//! 13. **Retry budget** ([`retry_budget`]): retries <= first executions x share + least x time + what was saved. A retry
//!     that is not paid for waits beside the FuncBuffer and holds up nobody.
//! 14. **Keys**: of a function's calls with one key at most `concurrency_per_key` are in the RunQ and running. Those that
//!     wait for their key hold up no other key, and come back in the order of law 1.
//! 15. **Data flow**: a call is dispatched only if its label flows to its function's ([`call::Label::flows_to`]), and is
//!     refused otherwise. A function without a policy reads the lowest label only.
//! 16. **Locality**: a call runs on a core of its function's group or of no group, while such a one is open and ready;
//!     otherwise on any that is ready.
//! 17. **Nobody is forgotten**: a call that a gate holds back is let in by time (then `next_wake` says when), or by an
//!     input that [`Rule::frees`] names.
//!
//! Deliberately absent: how rates, limits and S come about, which is the controllers'; the lease, its time-out and
//! retries, which are the durable queue's; and a bound on calls that wait beside a FuncBuffer other than `calls_max`.

pub mod words;
pub mod policy;
pub mod scheduler;
pub mod explain;
mod policies;
mod turn;
mod glimpse;
mod func_buffer;
mod lists;
mod functions;
mod fairness;
mod gates;
pub mod quota;
pub mod slow_start;
pub mod breaker;
pub mod retry_budget;
mod keys;
mod locality;
mod run_q;
mod worker_lb;
mod timers;
mod rings;
mod mask;

pub use breaker::BreakerRule;
pub use explain::{Rule, Why};
pub use fairness::WEIGHT_MAX;
pub use locality::GROUPS_MAX;
pub use policy::{GroupRef, Policy, Quota, TenantRef};
pub use quota::Rate;
pub use retry_budget::RetryRule;
pub use scheduler::Scheduler;
pub use slow_start::SlowStartRule;
pub use words::{CallRef, CoreRef, Depth, Effect, Effects, FunctionRef, HostRef, How, Input, Marks};

/// Worker cores and hosts that one scheduler can serve: the bits of a mask that one decision reads.
pub const CORES_MAX: usize = 256;
