//! The moves of connections: accept, connect, receive, send, end.

use super::Uring;
use super::buffers::ReceiveBuffers;
use super::connection::{Carries, Connection, State};
use super::ring::{Completion, Purpose, Subject};
use super::sockets::{self, Address};
use crate::arrivals::{Arrivals, Raw, Span};
use crate::framing::Tail;
use crate::seam::{Closed, ConnectionId, Endpoint, SendError};
use call::frame::FrameError;
use call::limits::FRAME_ALIGN;
use io_uring::{cqueue, opcode, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EPROTO)
}

impl Uring {
    /// A free slot with its state and socket set, or `None` when all are taken.
    pub(super) fn occupy(&mut self, state: State, carries: Carries) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.connections.len() < self.options.connections_max => {
                self.connections.push(Connection::new());
                self.connections.len() as u32 - 1
            }
            None => return None,
        };
        let connection = &mut self.connections[index as usize];
        assert_eq!(connection.state, State::Free);
        (connection.state, connection.carries) = (state, carries);
        Some(index)
    }

    /// The slot of a connection that has not ended.
    pub(super) fn live(&self, id: ConnectionId) -> Option<u32> {
        let connection = self.connections.get(id.0 as u32 as usize)?;
        let same = connection.id(id.0 as u32) == id;
        (same && !matches!(connection.state, State::Free | State::Ended)).then_some(id.0 as u32)
    }

    pub(super) fn raw_socket(&self, index: u32) -> types::Fd {
        let socket = self.connections[index as usize].socket.as_ref();
        types::Fd(socket.expect("an occupied slot has a socket").as_raw_fd())
    }

    /// Queues an entry that concerns a connection and counts it.
    ///
    /// # Safety
    /// As [`super::ring::Ring::push`]; the memory of an occupied slot qualifies.
    pub(super) unsafe fn push_for(&mut self, index: u32, purpose: Purpose, entry: io_uring::squeue::Entry) {
        self.connections[index as usize].in_flight += 1;
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(entry, Subject(purpose, index)) };
    }

    // ---- begin ----

    pub(super) fn start_connecting(&mut self, to: &Endpoint, carries: Carries) -> ConnectionId {
        self.start_connecting_to(Address::of(to), carries)
    }

    pub(super) fn start_connecting_to(
        &mut self,
        address: io::Result<Address>,
        carries: Carries,
    ) -> ConnectionId {
        let Some(index) = self.occupy(State::Connecting, carries) else {
            let nobody = ConnectionId(u64::MAX);
            self.news.push(Raw::Closed(nobody, Closed::Io(libc::EMFILE)));
            return nobody;
        };
        let connection = &mut self.connections[index as usize];
        let id = connection.id(index);
        match address.and_then(|address| Ok((sockets::make(&address, carries)?, address))) {
            Ok((socket, address)) => {
                let (at, bytes) = connection.peer.insert(Box::new(address)).as_sockaddr();
                let entry = opcode::Connect::new(types::Fd(socket.as_raw_fd()), at, bytes).build();
                connection.socket = Some(socket);
                // SAFETY: the address is boxed in the slot, which is vacated after the last completion.
                unsafe { self.push_for(index, Purpose::Connect, entry) };
            }
            Err(error) => {
                self.news.push(Raw::Closed(id, Closed::Io(errno(&error))));
                connection.state = State::Ended;
                self.ending.push(index);
            }
        }
        id
    }

    pub(super) fn on_connect(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        let connection = &mut self.connections[index as usize];
        connection.in_flight -= 1;
        if connection.state != State::Connecting {
            return;
        }
        let opened = match (done.result, connection.carries) {
            (error, _) if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            (_, Carries::SharedMemory) => self.open_link_as_client(index),
            _ => {
                if matches!(connection.peer.as_deref(), Some(Address::Tcp(_))) {
                    sockets::tune_connected(connection.socket.as_ref().expect("connected").as_fd());
                }
                self.open_connection(index)
            }
        };
        match opened {
            Ok(()) => into.raw.push(Raw::Connected(self.connections[index as usize].id(index))),
            Err(error) => self.end(index, Closed::Io(errno(&error)), into),
        }
    }

    /// Opens a connection whose socket stands, shared memory excepted.
    pub(super) fn open_connection(&mut self, index: u32) -> io::Result<()> {
        match self.connections[index as usize].carries {
            Carries::Frames => self.open_frames(index)?,
            Carries::Bytes | Carries::PipeIn | Carries::PipeOut => self.open_bytes(index)?,
            Carries::Messages => self.open_messages(index),
            Carries::SharedMemory => unreachable!("a link is opened by its handover"),
        }
        Ok(())
    }

    fn open_frames(&mut self, index: u32) -> io::Result<()> {
        let connection = &mut self.connections[index as usize];
        if connection.buffers.is_none() {
            connection.buffers = Some(ReceiveBuffers::new(index as u16, self.shape)?);
        }
        connection.buffers.as_mut().expect("just made").register(&self.ring.submitter())?;
        connection.state = State::Open;
        self.arm_receive(index);
        self.mark_dirty(index);
        Ok(())
    }

    // ---- receive ----

    fn arm_receive(&mut self, index: u32) {
        let group =
            self.connections[index as usize].buffers.as_ref().expect("an open stream has them").group();
        let entry = opcode::RecvMulti::new(self.raw_socket(index), group).build();
        self.connections[index as usize].receiving = true;
        // SAFETY: the buffers stay registered until the slot is vacated.
        unsafe { self.push_for(index, Purpose::Receive, entry) };
    }

    pub(super) fn on_receive(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        match self.connections[index as usize].carries {
            Carries::Bytes | Carries::PipeIn | Carries::PipeOut => self.on_bytes(done, into),
            Carries::Messages => self.on_message(done, into),
            Carries::Frames | Carries::SharedMemory => self.on_frames(done, into),
        }
    }

    fn on_frames(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        let connection = &mut self.connections[index as usize];
        if !cqueue::more(done.flags) {
            connection.receiving = false;
            connection.in_flight -= 1;
        }
        let state = connection.state;
        self.mark_used(index);
        if state != State::Open {
            return;
        }
        match done.result {
            0 => self.end_of_stream(index, into),
            bytes @ 1.. => {
                if let Err(error) = self.take_chunk(index, bytes as usize, done.flags, into) {
                    self.end(index, Closed::Malformed(error), into);
                }
            }
            // All buffers are with the caller; `recycle` receives again.
            error if error == -libc::ENOBUFS => {}
            error => self.end(index, Closed::Io(-error), into),
        }
    }

    fn take_chunk(
        &mut self,
        index: u32,
        bytes: usize,
        flags: u32,
        into: &mut Arrivals,
    ) -> Result<(), FrameError> {
        let connection = &mut self.connections[index as usize];
        let id = connection.id(index);
        let buffers = connection.buffers.as_mut().expect("an open stream has them");
        let chunk = buffers.received(bytes, flags);
        let tail = if chunk.continues { Tail::Stays } else { Tail::Moves };
        let mut give = |span: Span| into.raw.push(Raw::Frame(id, span));
        let used = connection.framer.feed(buffers.bytes(chunk), tail, &mut give)?;
        if chunk.continues {
            buffers.consumed(used);
        }
        Ok(())
    }

    fn end_of_stream(&mut self, index: u32, into: &mut Arrivals) {
        let connection = &self.connections[index as usize];
        let reason = match (connection.closing, connection.mid_frame()) {
            (true, _) => Closed::Here,
            (false, true) => Closed::CutOff,
            (false, false) => Closed::Peer,
        };
        self.end(index, reason, into);
    }

    /// Memory of the last round goes back; whoever ran out of it receives again.
    pub(super) fn recycle(&mut self) {
        self.recycle_pool();
        let mut used = std::mem::take(&mut self.used);
        for index in used.drain(..) {
            let connection = &mut self.connections[index as usize];
            connection.used = false;
            if connection.carries.is_bytes() {
                self.arm_bytes(index);
                continue;
            }
            connection.framer.recycle();
            if let Some(buffers) = &mut connection.buffers
                && connection.state == State::Open
            {
                buffers.recycle();
                if !connection.receiving {
                    self.arm_receive(index);
                }
            }
        }
        self.used = used;
        self.vacate_ended();
    }

    pub(super) fn mark_used(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !std::mem::replace(&mut connection.used, true) {
            self.used.push(index);
        }
    }

    // ---- send ----

    pub(super) fn queue(&mut self, to: ConnectionId, parts: &[&[u8]]) -> Result<(), SendError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let index = self.live(to).ok_or(SendError::Closed)?;
        let connection = &mut self.connections[index as usize];
        let carries = connection.carries;
        assert_ne!(carries, Carries::Messages, "a message connection carries messages");
        assert!(bytes.is_multiple_of(FRAME_ALIGN) || carries.is_bytes(), "a whole number of padded frames");
        if connection.closing || connection.mute || connection.finishing || carries == Carries::PipeIn {
            return Err(SendError::Closed);
        }
        let gone = if carries == Carries::SharedMemory { self.write_through(index, parts) } else { 0 };
        if gone < bytes {
            self.connections[index as usize].outbox.push(parts, gone, self.options.send_queue_bytes)?;
        }
        self.mark_dirty(index);
        Ok(())
    }

    pub(super) fn close_when_sent(&mut self, id: ConnectionId) {
        let Some(index) = self.live(id) else { return };
        self.connections[index as usize].closing = true;
        self.mark_dirty(index);
    }

    pub(super) fn close_at_once(&mut self, id: ConnectionId) {
        let Some(index) = self.live(id) else { return };
        let connection = &mut self.connections[index as usize];
        (connection.closing, connection.aborting) = (true, true);
        self.mark_dirty(index);
    }

    pub(super) fn mark_dirty(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(index);
        }
    }

    /// One send for each connection that has something queued and none in flight.
    pub(super) fn flush(&mut self, into: &mut Arrivals) {
        let mut dirty = std::mem::replace(&mut self.dirty, std::mem::take(&mut self.flushing));
        for index in dirty.drain(..) {
            let connection = &mut self.connections[index as usize];
            connection.dirty = false;
            match (connection.state, connection.carries) {
                _ if connection.aborting => {}
                (State::Open, Carries::SharedMemory) => self.flush_link(index, into),
                (State::Open, Carries::Messages) => self.flush_messages(index),
                (State::Open, _) => self.flush_stream(index),
                _ => {}
            }
            self.end_if_all_is_sent(index, into);
        }
        self.flushing = dirty;
    }

    fn flush_stream(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if connection.sending {
            return;
        }
        let bytes = connection.outbox.next();
        if bytes.is_empty() {
            return;
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let at = bytes.as_ptr();
        connection.sending = true;
        let carries = connection.carries;
        let entry = Self::sending_entry(carries, self.raw_socket(index), at, length);
        // SAFETY: the outbox neither moves nor changes these bytes until `taken` says that they have gone.
        unsafe { self.push_for(index, Purpose::Send, entry) };
    }

    pub(super) fn on_send(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        let limit = self.options.send_queue_bytes;
        let connection = &mut self.connections[index as usize];
        connection.in_flight -= 1;
        connection.sending = false;
        if connection.state != State::Open {
            return;
        }
        if done.result < 0 {
            return self.send_failed(index, -done.result, into);
        }
        if connection.carries == Carries::Messages {
            return self.message_sent(index, into);
        }
        connection.outbox.taken(done.result as usize);
        if connection.outbox.room_again(limit) {
            into.raw.push(Raw::Room(connection.id(index)));
        }
        if connection.carries.is_bytes() {
            // There are many of these, and most are idle.
            connection.outbox.shrink_if_empty();
        }
        if !connection.outbox.is_empty() || connection.closing || connection.finishing {
            self.mark_dirty(index);
        }
    }

    /// The peer takes nothing more.
    fn send_failed(&mut self, index: u32, errno: i32, into: &mut Arrivals) {
        let connection = &mut self.connections[index as usize];
        if !connection.receiving && connection.carries.is_bytes() {
            return self.end(index, Closed::Io(errno), into);
        }
        // What the peer sent before it went is still to be received; that side then tells the end.
        connection.mute = true;
        connection.outbox.reset();
        sockets::shut_down(connection.socket.as_ref().expect("open").as_fd());
    }

    fn end_if_all_is_sent(&mut self, index: u32, into: &mut Arrivals) {
        let connection = &self.connections[index as usize];
        if matches!(connection.state, State::Free | State::Ended) {
            return;
        }
        let sent = connection.all_is_sent();
        if connection.finishing && sent && connection.state == State::Open {
            self.shut_sending_side(index);
        }
        let connection = &self.connections[index as usize];
        if connection.closing && sent || connection.aborting {
            self.end(index, Closed::Here, into);
        }
    }

    // ---- end ----

    /// Tells the caller, and makes everything in flight complete.
    pub(super) fn end(&mut self, index: u32, reason: Closed, into: &mut Arrivals) {
        let connection = &mut self.connections[index as usize];
        let told = !matches!(connection.state, State::Handover(_));
        let connecting = connection.state == State::Connecting;
        assert!(!matches!(connection.state, State::Free | State::Ended), "a connection ends once");
        connection.state = State::Ended;
        if told {
            into.raw.push(Raw::Closed(connection.id(index), reason));
        }
        let carries = connection.carries;
        if let Some(socket) = connection.socket.as_ref().filter(|_| !carries.is_pipe()) {
            sockets::shut_down(socket.as_fd());
        }
        if let Some(link) = connection.link.as_ref().filter(|_| connection.bell_armed) {
            link.ring_own_bell();
        }
        let (receiving, sending) = (connection.receiving, connection.sending);
        if connecting {
            self.cancel(index, Purpose::Connect);
        }
        if carries.is_pipe() && receiving {
            self.cancel(index, Purpose::Receive);
        }
        if carries.is_pipe() && sending {
            self.cancel(index, Purpose::Send);
        }
        self.links.retain(|link| *link != index);
        self.ending.push(index);
    }

    /// Slots of ended connections become free when the kernel is done with them.
    fn vacate_ended(&mut self) {
        let mut at = 0;
        while at < self.ending.len() {
            let index = self.ending[at];
            let connection = &mut self.connections[index as usize];
            if connection.in_flight > 0 || connection.used || connection.dirty {
                at += 1;
                continue;
            }
            if let Some(buffers) = &mut connection.buffers {
                buffers.unregister(&self.ring.submitter());
            }
            let from = connection.from;
            connection.vacate();
            self.free.push(index);
            if let Some(listener) = from {
                self.count_out(listener);
            }
            self.ending.swap_remove(at);
        }
    }
}
