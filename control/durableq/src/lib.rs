//! The durable queue: one queue per function by start time, leases, log records, recovery. A pure decider.

pub mod words;
pub mod queue;
mod table;
pub mod log;
pub mod recovery;

pub use queue::DurableQ;
pub use recovery::{Recovery, RecoveryError};
pub use words::{
    Blocks, CallRef, CallView, Counters, Defaults, Depth, Event, Fate, Fenced, FunctionRef, HolderRef, Lease,
    LogOp, Offer, Origin, Settled, State, block_count, record_bytes_max,
};
