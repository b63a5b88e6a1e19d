//! One connection: what it is made of and how far it has come. Its moves are in `network`.

use super::buffers::ReceiveBuffers;
use super::messages::Messages;
use super::outbox::Outbox;
use super::sockets::Address;
use crate::framing::Framer;
use crate::seam::{ConnectionId, ListenerId};
use crate::shm::spsc::Link;
use std::os::fd::OwnedFd;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The slot waits for a connection.
    Free,
    /// The kernel connects.
    Connecting,
    /// Accepted; the peer's shared memory is to come. Nobody was told yet.
    Handover(ListenerId),
    /// Frames, bytes or messages flow.
    Open,
    /// The caller was told that it has ended; the kernel still has entries that name it.
    Ended,
}

/// What a connection carries, and on what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carries {
    /// Frames, on a stream socket.
    Frames,
    /// Frames, by a link; the socket is only watched.
    SharedMemory,
    /// Bytes, on a stream socket.
    Bytes,
    /// Bytes, from the read end of a pipe.
    PipeIn,
    /// Bytes, to the write end of a pipe.
    PipeOut,
    /// Messages with descriptors, on a SEQPACKET socket.
    Messages,
}

impl Carries {
    /// Bytes, on whatever.
    pub(super) fn is_bytes(self) -> bool {
        matches!(self, Carries::Bytes | Carries::PipeIn | Carries::PipeOut)
    }

    /// An end of a pipe, which cannot be shut down as a socket can.
    pub(super) fn is_pipe(self) -> bool {
        matches!(self, Carries::PipeIn | Carries::PipeOut)
    }
}

/// A slot for a connection. What the kernel holds addresses of (the peer, buffers, links) is behind a pointer, so slots
/// may move.
pub(super) struct Connection {
    pub generation: u32,
    pub state: State,
    pub carries: Carries,
    /// The caller asked to close it when all is sent.
    pub closing: bool,
    /// The caller asked to close it, sent or not.
    pub aborting: bool,
    /// The caller will send nothing more.
    pub finishing: bool,
    /// The caller wants no bytes for now.
    pub paused: bool,
    /// The socket, or the end of a pipe.
    pub socket: Option<OwnedFd>,
    /// Who accepted it.
    pub from: Option<ListenerId>,
    /// Whom a connect in flight goes to.
    pub peer: Option<Box<Address>>,
    pub buffers: Option<ReceiveBuffers>,
    pub link: Option<Link>,
    pub messages: Option<Box<Messages>>,
    pub framer: Framer,
    pub outbox: Outbox,
    /// Entries with the kernel whose last completion is due.
    pub in_flight: u32,
    pub receiving: bool,
    pub sending: bool,
    pub bell_armed: bool,
    /// The link's ring was full at the last flush.
    pub blocked: bool,
    /// The peer's end of the socket is gone; what is in the link's ring is still good.
    pub peer_gone: bool,
    /// Sending failed; the receiving side will tell the end.
    pub mute: bool,
    /// Stands in the list of those with something to flush.
    pub dirty: bool,
    /// Stands in the list of those with something to recycle.
    pub used: bool,
}

impl Connection {
    pub(super) fn new() -> Connection {
        Connection {
            generation: 0,
            state: State::Free,
            carries: Carries::Frames,
            closing: false,
            aborting: false,
            finishing: false,
            paused: false,
            socket: None,
            from: None,
            peer: None,
            buffers: None,
            link: None,
            messages: None,
            framer: Framer::new(),
            outbox: Outbox::default(),
            in_flight: 0,
            receiving: false,
            sending: false,
            bell_armed: false,
            blocked: false,
            peer_gone: false,
            mute: false,
            dirty: false,
            used: false,
        }
    }

    pub(super) fn id(&self, index: u32) -> ConnectionId {
        ConnectionId(u64::from(self.generation) << 32 | u64::from(index))
    }

    /// Whether everything that was queued has gone.
    pub(super) fn all_is_sent(&self) -> bool {
        let queued = self.messages.as_ref().is_some_and(|messages| !messages.is_empty());
        self.outbox.is_empty() && !queued && !self.sending
    }

    /// Whether the stream stopped inside a frame.
    pub(super) fn mid_frame(&self) -> bool {
        self.framer.mid_frame() || self.buffers.as_ref().is_some_and(ReceiveBuffers::mid_frame)
    }

    /// Empties the slot for the next connection; memory stays for reuse. Nothing may be with the kernel, and no span
    /// into its memory may be out.
    pub(super) fn vacate(&mut self) {
        assert_eq!((self.state, self.in_flight), (State::Ended, 0), "only what has ended is vacated");
        self.framer.reset();
        self.outbox.reset();
        let (generation, buffers) = (self.generation.wrapping_add(1), self.buffers.take());
        let (framer, outbox) =
            (std::mem::replace(&mut self.framer, Framer::new()), std::mem::take(&mut self.outbox));
        *self = Connection { generation, buffers, framer, outbox, ..Connection::new() };
    }
}
