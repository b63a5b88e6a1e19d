//! Sandboxes for process functions: the jailer, the jail, their protocol with a core.
//!
//! One **jailer** per host makes, limits, kills and reaps sandboxes, so that no core ever waits for a mount or a clone.
//! It is root where it can be, and gives each sandbox away as descriptors: a listening socket inside, pipes.
//!
//! ```text
//! jailer ── forks ──▶ first process (PID 1 inside; never executes) ── forks ──▶ the function
//!   cgroups, BPF,         namespaces, root, reaping                      no capability, Landlock, seccomp
//!   ids, pool of blanks
//! ```
//!
//! What holds a function, from the outside in; each holds if the one before it fails:
//!
//! | layer | what it takes away | without it |
//! |---|---|---|
//! | namespaces: user pid mount net ipc uts cgroup | the sight of anything of the host | no sandbox is made |
//! | root: a read-only tree, the bundle, a sized `/tmp` | files | no sandbox is made |
//! | host ids of each sandbox's own | the right to touch another one's processes and files | not root: all share the worker's id |
//! | capabilities: none, bounding set empty, bits locked, `no_new_privs` | ever becoming more | no sandbox is made |
//! | Landlock | writing but in `/tmp`; abstract sockets and signals of others | said in the backends |
//! | seccomp: an allow list per tier | the kernel's seldom used parts | no sandbox is made |
//! | cgroups | more memory, CPU, processes, disk than was promised | functions with limits are refused |
//! | BPF | addresses that were not granted; names a forbidden call | functions with network are refused |
//!
//! **Threat model.** The function's code is hostile: it was written by somebody who wants other tenants' data, the
//! host, or its neighbours' CPU. The bundle is hostile too. Trusted are the kernel, the worker's own programs, the
//! operator, and whoever may deploy (what a manifest demands is granted or refused, not doubted).
//!
//! Not stopped: a bug in the kernel's part that the tier leaves (a virtual machine per tenant would be the answer); what
//! processors leak between threads of one core (put tenants that must not share one on different hosts, or turn
//! hyper-threading off); how long things take, as a channel between two functions that both want one; reading what the
//! operator exposes (`--expose`, base `host`: world-readable files below `/usr` and some of `/etc`); one tenant's own
//! functions in one sandbox, where calls of a warm sandbox share `/tmp` and memory.
//!
//! - [`protocol`]: what a core and the jailer say to each other, and how it is written. [`socket`]: messages with
//!   descriptors over a Unix socket.
//! - [`jailer`]: its loop. `jail`: what a sandbox is made of; the order in which a function's privileges go is argued in
//!   `jail/exec.rs`, the tiers are tables in `jail/tiers.rs`.
//! - [`cgroup`]: control groups of both versions behind one interface. [`pressure`]: memory pressure, and who goes for it.
//!   [`peak`]: what a sandbox took at most, for its core. `turns`: who gets a CPU first.

pub mod protocol;
pub mod socket;
pub mod jailer;
mod jail;
pub mod cgroup;
pub mod peak;
pub mod pressure;
mod turns;
mod sys;

/// What each sandbox used, as a core reads it.
pub use bpf::counters;
