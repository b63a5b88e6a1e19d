//! eBPF programs with typed loaders.
//!
//! Each program is a triple: `name.bpf.c`, the structs it shares with Rust in `include/abi.h`, and its loader here.
//! Loading needs root (or CAP_BPF and CAP_PERFMON) and a kernel with BTF; [`BpfError`] says which is missing and what
//! to do. Nothing of the platform depends on a program being attached: they only tell what the kernel sees.

mod abi;
pub mod error;
pub mod runq;

pub use error::BpfError;
pub use runq::{CoreSched, Delays, RunQueue};
