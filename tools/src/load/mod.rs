//! Open-loop load: calls leave at their intended times, whatever the node does, and every latency counts from the
//! intended time. A node that stalls is charged for every call that should have left meanwhile (no coordinated
//! omission); a generator that stalls says so itself.

mod generator;
mod hlog;

pub use generator::{Interval, Options, Report, run};
pub use hlog::Log;
