//! Sandboxes for process functions: the jailer, the jail, their protocol with a core.
//!
//! - [`protocol`]: what a core and the jailer say to each other, and how it is written. [`socket`]: messages with
//!   descriptors over a Unix socket.
//! - [`cgroup`]: control groups of both versions behind one interface. [`pressure`]: memory pressure, and who goes for it.

pub mod cgroup;
pub mod jailer;
mod jail;
pub mod pressure;
pub mod protocol;
pub mod socket;
mod sys;

/// What each sandbox used, as a core reads it.
pub use bpf::counters;
