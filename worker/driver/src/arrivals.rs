//! What a `reap` brought: events, and the frames and bytes they speak of, readable in place until the next `reap`.
//!
//! The caller owns an [`Arrivals`] and lends it to `reap`; frames borrow from it, not from the driver, so a state
//! machine can read a frame and send with the driver at once. The borrow checker makes a frame unusable after the
//! next `reap`, which is when its memory goes back to the kernel.

use crate::seam::{Closed, ConnectionId, FileId, ListenerId, Token};
use call::Frame;
use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
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
    /// Bytes of a byte stream, as many as came at once; never none.
    Bytes {
        /// From which connection.
        connection: ConnectionId,
        /// In place, at any alignment.
        bytes: &'a [u8],
    },
    /// A message of a message connection.
    Message {
        /// From which connection.
        connection: ConnectionId,
        /// At most [`crate::seam::MESSAGE_BYTES_MAX`]; never none.
        bytes: &'a [u8],
        /// What came with it.
        descriptors: Descriptors<'a>,
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
    /// A file was removed or has another name; on disk if `result` is `Ok`.
    Directory {
        /// As given.
        token: Token,
        /// Or the errno.
        result: Result<(), i32>,
    },
}

/// The descriptors of a message. Whoever wants one takes it; those that nobody takes are closed at the next `reap`.
#[derive(Clone, Copy)]
pub struct Descriptors<'a>(&'a [Cell<Option<OwnedFd>>]);

impl Descriptors<'_> {
    /// How many came, taken or not; at most [`crate::seam::MESSAGE_DESCRIPTORS_MAX`].
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one, in the order in which they were sent; `None` if it is taken already, or never came.
    pub fn take(&self, index: usize) -> Option<OwnedFd> {
        self.0.get(index)?.take()
    }
}

impl fmt::Debug for Descriptors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors", self.len())
    }
}

/// A message as it is kept until the next reap.
#[derive(Default)]
pub(crate) struct Message {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<Cell<Option<OwnedFd>>>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {} descriptors", self.bytes.len(), self.descriptors.len())
    }
}

/// Where the bytes of a frame are. Made by drivers only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// First byte, in memory that a `keep` of the same [`Arrivals`] owns.
    pub start: *const u8,
    /// Bytes of header and body, or of a piece of a byte stream.
    pub bytes: usize,
}

/// As [`Event`], with a span instead of a borrowed frame.
#[derive(Debug)]
pub(crate) enum Raw {
    Accepted(ListenerId, ConnectionId),
    Connected(ConnectionId),
    Frame(ConnectionId, Span),
    Bytes(ConnectionId, Span),
    Message(ConnectionId, Box<Message>),
    Room(ConnectionId),
    Closed(ConnectionId, Closed),
    Written(Token, Result<(), i32>),
    Read(Token, Result<usize, i32>),
    Created(Token, Result<FileId, i32>),
    Directory(Token, Result<(), i32>),
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
            Raw::Frame(connection, span) => {
                Event::Frame { connection: *connection, frame: Frame::parsed_before(bytes_of(*span)) }
            }
            Raw::Bytes(connection, span) => Event::Bytes { connection: *connection, bytes: bytes_of(*span) },
            Raw::Message(connection, message) => Event::Message {
                connection: *connection,
                bytes: &message.bytes,
                descriptors: Descriptors(&message.descriptors),
            },
            Raw::Room(connection) => Event::Room { connection: *connection },
            Raw::Closed(connection, reason) => {
                Event::Closed { connection: *connection, reason: reason.clone() }
            }
            Raw::Written(token, result) => Event::Written { token: *token, result: *result },
            Raw::Read(token, result) => Event::Read { token: *token, result: *result },
            Raw::Created(token, result) => Event::Created { token: *token, result: *result },
            Raw::Directory(token, result) => Event::Directory { token: *token, result: *result },
        })
    }
}

/// The bytes at `span`, borrowed for as long as the `Arrivals` they came from are.
fn bytes_of<'a>(span: Span) -> &'a [u8] {
    // SAFETY: a driver pushes a span only together with the owner of its memory (`Arrivals::keep`), and writes to
    // that memory again only after `reap` took the `Arrivals` mutably, when nothing borrowed from it is alive.
    unsafe { std::slice::from_raw_parts(span.start, span.bytes) }
}
