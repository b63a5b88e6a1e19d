//! Where bytes and time enter.
//!
//! [`Driver`] is the one seam between the deciders and everything that is not deterministic: clock, randomness,
//! sockets, shared-memory rings, files. [`uring::Uring`] is the real one, [`sim::SimDriver`] the deterministic one;
//! `tests/conformance` holds both to the same behaviour.
//!
//! Who may block: [`Driver::reap`], and nobody else; `open`, `files` and `listen` make short system calls and are
//! for the start. Who may allocate: `connect`, `listen`, accepting a connection, and a message larger than any
//! before it on its connection; nothing else after the start.

pub mod arrivals;
mod framing;
pub mod clock;
pub mod seam;
pub mod sim;
mod shm;
pub mod topology;
pub mod uring;
pub mod shell;
pub mod probe;

pub use arrivals::{Arrivals, Event};
pub use seam::{BlockId, Closed, ConnectionId, Driver, Endpoint, FileId, ListenerId, SendError, Token};
