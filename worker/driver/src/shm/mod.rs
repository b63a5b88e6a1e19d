//! Shared-memory links between two processes of one host: the frames of a connection without a system call.
//!
//! A link is a memfd with two single-producer single-consumer byte rings, one each way, and a doorbell for each side.
//! The client makes it, seals its size and passes it over a Unix socket; the acceptor checks seals and size before
//! it maps it. The socket stays open: its end is how each side learns of the other's death.
//!
//! A ring is a *stream* of bytes, as a socket is, so a frame may be larger than the ring and wrap around its end.
//! Nothing in the shared memory is trusted: indices are checked, and bytes are copied out before anybody looks at
//! them, so the peer cannot change a frame after its checksum was compared.
//!
//! - [`segment`]: the memory, its layout, making and checking it.
//! - [`spsc`]: the two rings and the doorbells.
//! - [`handover`]: passing the descriptor.

pub(crate) mod segment;
pub(crate) mod spsc;
pub(crate) mod handover;
