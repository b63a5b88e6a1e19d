//! The moves of byte streams: sockets and pipes whose bytes are shown as they come.
//!
//! All of them receive into one pool of buffers: a connection that says nothing costs no receive memory. What the
//! pool lent goes back at the next round. A stream that finds the pool empty receives again then; those that were
//! armed first do not always come first, see [`Uring::recycle_pool`].

use super::Uring;
use super::buffers::{ReceiveBuffers, Shape};
use super::connection::{Carries, State};
use super::ring::{Completion, Purpose, Subject};
use super::sockets;
use crate::arrivals::{Arrivals, Raw, Span};
use crate::seam::{Closed, ConnectionId, Endpoint};
use io_uring::{cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The pool's group; connections have those below.
const POOL_GROUP: u16 = u16::MAX;
/// A pipe has no place to read at.
const NO_OFFSET: u64 = u64::MAX;

impl Uring {
    pub(super) fn adopt_end(&mut self, end: OwnedFd) -> io::Result<ConnectionId> {
        let carries = sockets::what_it_carries(end.as_fd())?;
        sockets::own(end.as_fd())?;
        if sockets::is_tcp(end.as_fd()) {
            sockets::tune_adopted(end.as_fd());
        }
        self.adopt_as(end, carries)
    }

    /// A connection around this descriptor, open at once.
    pub(super) fn adopt_as(&mut self, end: OwnedFd, carries: Carries) -> io::Result<ConnectionId> {
        let index = self.occupy(State::Connecting, carries).ok_or(io::ErrorKind::QuotaExceeded)?;
        self.connections[index as usize].socket = Some(end);
        if let Err(error) = self.open_connection(index) {
            self.connections[index as usize].state = State::Ended;
            self.ending.push(index);
            return Err(error);
        }
        Ok(self.connections[index as usize].id(index))
    }

    /// Opens a byte stream.
    pub(super) fn open_bytes(&mut self, index: u32) -> io::Result<()> {
        if self.pool.is_none() {
            let shape = Shape {
                count: self.options.stream_buffers,
                bytes: self.options.stream_buffer_bytes,
                incremental: false,
            };
            let mut pool = ReceiveBuffers::new(POOL_GROUP, shape)?;
            pool.register(&self.ring.submitter())?;
            self.pool = Some(pool);
        }
        self.connections[index as usize].state = State::Open;
        self.arm_bytes(index);
        self.mark_dirty(index);
        Ok(())
    }

    /// Receives, unless that is under way or not wanted.
    pub(super) fn arm_bytes(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let deaf = connection.carries == Carries::PipeOut || connection.paused || connection.receiving;
        if deaf || connection.state != State::Open {
            return;
        }
        connection.receiving = true;
        let (pipe, socket) = (connection.carries == Carries::PipeIn, self.raw_socket(index));
        let entry = match (pipe, self.reads_again) {
            (false, _) => opcode::RecvMulti::new(socket, POOL_GROUP).build(),
            (true, true) => opcode::ReadMulti::new(socket, 0, POOL_GROUP).offset(NO_OFFSET).build(),
            (true, false) => {
                let most = self.options.stream_buffer_bytes as u32;
                let read = opcode::Read::new(socket, std::ptr::null_mut(), most);
                let entry = read.offset(NO_OFFSET).buf_group(POOL_GROUP).build();
                entry.flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        // SAFETY: the entry points to nothing but the pool, which is registered as long as the ring.
        unsafe { self.push_for(index, Purpose::Receive, entry) };
    }

    pub(super) fn on_bytes(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        let connection = &mut self.connections[index as usize];
        if !cqueue::more(done.flags) {
            connection.receiving = false;
            connection.in_flight -= 1;
            self.mark_used(index);
        }
        let connection = &self.connections[index as usize];
        let (open, id) = (connection.state == State::Open, connection.id(index));
        // Bytes or none, wanted or not: a buffer that was taken comes back by the pool.
        let pool = self.pool.as_mut().expect("made with the first byte stream");
        let taken = cqueue::buffer_select(done.flags).is_some();
        let chunk = taken.then(|| pool.received(done.result.max(0) as usize, done.flags));
        if !open {
            return;
        }
        match (done.result, chunk) {
            (1.., Some(chunk)) => {
                let bytes = pool.bytes(chunk);
                into.raw.push(Raw::Bytes(id, Span { start: bytes.as_ptr(), bytes: bytes.len() }));
            }
            (0, _) if connection.closing => self.end(index, Closed::Here, into),
            (0, _) => self.end(index, Closed::Peer, into),
            (error, _) if error == -libc::ENOBUFS => self.starved = true,
            // Paused; the rest comes after `resume`.
            (error, _) if error == -libc::ECANCELED => {}
            (error, _) => self.end(index, Closed::Io(-error), into),
        }
    }

    /// What the pool lent goes back. Before anybody receives again.
    pub(super) fn recycle_pool(&mut self) {
        if let Some(pool) = &mut self.pool {
            pool.recycle();
        }
        // A few that always come first could empty the pool each time: begin with another one.
        if std::mem::take(&mut self.starved) && !self.used.is_empty() {
            let first = self.random_bits() as usize % self.used.len();
            self.used.rotate_left(first);
        }
    }

    pub(super) fn pause_reading(&mut self, id: ConnectionId) {
        let Some(index) = self.live_stream(id) else { return };
        let connection = &mut self.connections[index as usize];
        if !std::mem::replace(&mut connection.paused, true) && connection.receiving {
            self.cancel(index, Purpose::Receive);
        }
    }

    pub(super) fn resume_reading(&mut self, id: ConnectionId) {
        let Some(index) = self.live_stream(id) else { return };
        self.connections[index as usize].paused = false;
        // If the cancelled receive is still with the kernel, its completion receives again.
        self.arm_bytes(index);
    }

    /// Has the kernel give an entry of a connection back.
    pub(super) fn cancel(&mut self, index: u32, purpose: Purpose) {
        let entry = opcode::AsyncCancel::new(Subject(purpose, index).user_data()).build();
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(entry, Subject(Purpose::Forget, 0)) };
    }

    fn live_stream(&self, id: ConnectionId) -> Option<u32> {
        self.live(id).filter(|index| self.connections[*index as usize].carries.is_bytes())
    }

    pub(super) fn finish_sending(&mut self, id: ConnectionId) {
        let Some(index) = self.live_stream(id) else { return };
        self.connections[index as usize].finishing = true;
        self.mark_dirty(index);
    }

    /// Everything is sent, and the caller has nothing more to say.
    pub(super) fn shut_sending_side(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if connection.carries == Carries::PipeOut {
            connection.closing = true;
        } else if let Some(socket) = &connection.socket
            && !connection.mute
        {
            connection.mute = true;
            sockets::shut_sending_side(socket.as_fd());
        }
    }

    /// The entry that sends these bytes of a connection's outbox.
    pub(super) fn sending_entry(
        carries: Carries,
        socket: types::Fd,
        at: *const u8,
        length: u32,
    ) -> squeue::Entry {
        if carries == Carries::PipeOut {
            return opcode::Write::new(socket, at, length).offset(NO_OFFSET).build();
        }
        opcode::Send::new(socket, at, length).flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build()
    }

    pub(super) fn connect_for_bytes(&mut self, to: &Endpoint) -> io::Result<ConnectionId> {
        match to {
            Endpoint::Shm(_) => Err(io::ErrorKind::Unsupported.into()),
            to => Ok(self.start_connecting(to, Carries::Bytes)),
        }
    }
}
