//! What a `reap` brought: events, and the frames they speak of, readable in place until the next `reap`.
//!
//! The caller owns an [`Arrivals`] and lends it to `reap`; frames borrow from it, not from the driver, so a state
//! machine can read a frame and send with the driver at once. The borrow checker makes a frame unusable after the
//! next `reap`, which is when its memory goes back to the kernel.

use crate::seam::{Closed, ConnectionId, FileId, ListenerId, Token};
use call::Frame;
use std::sync::Arc;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A peer connected.
    Accepted {
        /// To this listener.
        listener: ListenerId,
        /// As this connection.
        connection: ConnectionId,
    },
    /// A connection that was asked for is made.
    Connected {
        /// Which.
        connection: ConnectionId,
    },
    /// A whole frame with a correct checksum.
    Frame {
        /// From which connection.
        connection: ConnectionId,
        /// In place.
        frame: Frame<'a>,
    },
    /// After [`crate::SendError::Full`]: the queue of the connection is at most half full again.
    Room {
        /// Which.
        connection: ConnectionId,
    },
    /// The connection is gone; the last event of it.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: Closed,
    },
    /// A write ended; on disk if `result` is `Ok`.
    Written {
        /// As given.
        token: Token,
        /// Or the errno.
        result: Result<(), i32>,
    },
    /// A read ended; how many bytes are in the block (fewer at the end of the file).
    Read {
        /// As given.
        token: Token,
        /// Or the errno.
        result: Result<usize, i32>,
    },
    /// A file was made.
    Created {
        /// As given.
        token: Token,
        /// Or the errno.
        result: Result<FileId, i32>,
    },
}

/// Where the bytes of a frame are. Made by drivers only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// First byte, in memory that a `keep` of the same [`Arrivals`] owns.
    pub start: *const u8,
    /// Bytes of header and body.
    pub bytes: usize,
}

/// As [`Event`], with a span instead of a borrowed frame.
#[derive(Debug)]
pub(crate) enum Raw {
    Accepted(ListenerId, ConnectionId),
    Connected(ConnectionId),
    Frame(ConnectionId, Span),
    Room(ConnectionId),
    Closed(ConnectionId, Closed),
    Written(Token, Result<(), i32>),
    Read(Token, Result<usize, i32>),
    Created(Token, Result<FileId, i32>),
}

/// The events of one `reap`.
#[derive(Default)]
pub struct Arrivals {
    pub(crate) raw: Vec<Raw>,
    /// Owners of the memory that spans point into.
    pub(crate) keep: Vec<Arc<dyn std::any::Any>>,
}

impl Arrivals {
    /// An empty one, with room for a round.
    pub fn new() -> Arrivals {
        Arrivals { raw: Vec::with_capacity(4096), keep: Vec::with_capacity(8) }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether the reap brought nothing.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The events in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        self.raw.iter().map(|raw| match raw {
            Raw::Accepted(listener, connection) => {
                Event::Accepted { listener: *listener, connection: *connection }
            }
            Raw::Connected(connection) => Event::Connected { connection: *connection },
            Raw::Frame(connection, span) => Event::Frame { connection: *connection, frame: frame_of(*span) },
            Raw::Room(connection) => Event::Room { connection: *connection },
            Raw::Closed(connection, reason) => {
                Event::Closed { connection: *connection, reason: reason.clone() }
            }
            Raw::Written(token, result) => Event::Written { token: *token, result: *result },
            Raw::Read(token, result) => Event::Read { token: *token, result: *result },
            Raw::Created(token, result) => Event::Created { token: *token, result: *result },
        })
    }
}

/// The frame at `span`, borrowed for as long as the `Arrivals` it came from is.
fn frame_of<'a>(span: Span) -> Frame<'a> {
    // SAFETY: a driver pushes a span only together with the owner of its memory (`Arrivals::keep`), and writes to
    // that memory again only after `reap` took the `Arrivals` mutably, when no frame borrowed from it is alive.
    Frame::parsed_before(unsafe { std::slice::from_raw_parts(span.start, span.bytes) })
}
