//! FuncBuffer, RunQ, WorkerLB: which call runs next, and where.
//!
//! ```text
//! durable queue --Poll/Offered--> FuncBuffer (one per function) --turns--> RunQ --credits--> core
//!                                                            ^---- set aside ----'
//! ```
//!
//! Pure deciders: no clock, no I/O, no allocation after [`Scheduler::new`]. A decision costs O(log n) in the number
//! of calls of one function and O(1) in the number of functions and cores. What is rare (a core or host that comes
//! or goes, a deleted function) walks over all functions or the RunQ.
//!
//! # Laws
//! 1. **Inside a function** calls enter the RunQ by criticality, then deadline, then arrival.
//! 2. **Between functions** the one whose best call is most critical goes first: criticality is strict. Among equals
//!    it goes round: a function that gave a call goes behind all others of that level, so between two of its turns
//!    each of the others has at most one. A level is left, and its turn with it, when the function's best call
//!    changes its criticality, when it reaches its concurrency limit, or when it is blocked (law 5).
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
//! Deliberately absent: quotas, slow start and back-pressure, which change what `may_run` says; and the lease, its
//! time-out and retries, which are the durable queue's.

pub mod words;
pub mod policy;
pub mod scheduler;
pub mod explain;
mod policies;
mod turn;
mod func_buffer;
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
