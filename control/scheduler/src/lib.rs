//! FuncBuffer, RunQ, WorkerLB: which call runs next, and where. Pure deciders: no clock, no I/O, no allocation
//! after [`Scheduler::new`].

pub mod words;
pub mod scheduler;

pub use scheduler::Scheduler;
pub use words::{CallRef, CoreRef, Depth, Effect, Effects, FunctionRef, HostRef, Input};

/// Worker cores and hosts that one scheduler can serve: the bits of a mask that one decision reads.
pub const CORES_MAX: usize = 256;
