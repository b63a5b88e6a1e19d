//! Where bytes and time enter.
//!
//! [`Driver`] is the one seam between the deciders and everything that is not deterministic: clock, randomness,
//! sockets, shared-memory rings, files. [`uring::Uring`] is the real one, [`sim::SimDriver`] the deterministic one;
//! `tests/conformance` holds both to the same behaviour.
//!
//! A connection carries frames, bytes or messages with descriptors ([`Driver`] says which methods make which). Frames
//! join the platform's processes; bytes are for what speaks another protocol (functions in their sandboxes, over
//! sockets and pipes that may be adopted); messages are for the jailer. The simulated driver has frames and bytes.
//!
//! Who may block: [`Driver::reap`], and nobody else; `open`, `files` and `listen` make short system calls and are
//! for the start. Who may allocate: `connect`, `listen`, `adopt_*`, accepting a connection, a frame larger than any
//! before it on its connection, more than 8 KiB queued on a byte stream (an idle one keeps no more), and messages;
//! nothing else after the start (`tests/allocation.rs` counts).
//!
//! - [`seam`], [`arrivals`]: what everybody else sees.
//! - [`uring`]: the ring, its sockets, files and memory. `shm`: shared-memory links. `framing`: streams to frames.
//! - [`shell`]: the executor around a pinned core's loop; the only place that knows glommio. Worker cores and the
//!   control node live in it; clients, tools and tests call [`Driver::reap`] on a thread of their own.
//! - [`sim`]: the deterministic world.
//! - [`topology`], [`probe`], [`clock`]: CPUs and locked memory, what the host has, time. [`notes`]: lines for people.

pub mod arrivals;
mod framing;
pub mod clock;
pub mod notes;
pub mod seam;
pub mod sim;
mod shm;
pub mod topology;
pub mod uring;
pub mod shell;
pub mod probe;

pub use arrivals::{Arrivals, Descriptors, Event};
pub use seam::{BlockId, Closed, ConnectionId, Driver, Endpoint, FileId, ListenerId, SendError, Token};
