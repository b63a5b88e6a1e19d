//! eBPF programs with typed loaders.
//!
//! Each program is a triple: `name.bpf.c`, the structs it shares with Rust in `include/abi.h`, and its loader here.
//! Loading needs root (or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN) and a kernel with BTF; [`BpfError`] says which is
//! missing and what to do.
//!
//! [`Enforcement`] is for the process that makes sandboxes: network rules, rates, devices, counters and events of each.
//! Its programs are pinned, so that they hold on when that process dies. [`Counters`] is for those who read what a
//! sandbox used, without a system call. [`RunQueue`] watches worker cores and needs neither.

mod abi;
pub mod error;
pub mod policy;
pub mod counters;
pub mod events;
mod pins;
mod guards;
mod programs;
pub mod enforcement;
pub mod runq;

pub use counters::{Counters, ROW_BYTES, Usage};
pub use enforcement::{Backend, Enforcement, Options, Sandbox, Strangers, cgroup_id};
pub use error::BpfError;
pub use events::{Event, Operation};
pub use pins::LeftPins;
pub use policy::{Device, Endpoints, Network, Policy, PolicyError, Transport};
pub use runq::{CoreSched, Delays, RunQueue};
