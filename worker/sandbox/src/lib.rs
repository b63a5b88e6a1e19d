//! Sandboxes for process functions: the jailer, the jail, their protocol with a core.
//!
//! - [`protocol`]: what a core and the jailer say to each other, and how it is written. [`socket`]: messages with
//!   descriptors over a Unix socket.

pub mod protocol;
pub mod socket;
