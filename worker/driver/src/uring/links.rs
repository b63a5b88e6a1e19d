//! The moves of shared-memory links; see [`crate::shm`].

use super::Uring;
use super::connection::State;
use super::ring::{Completion, Purpose, Subject};
use crate::arrivals::{Arrivals, Raw, Span};
use crate::seam::Closed;
use crate::shm::handover;
use crate::shm::segment::Segment;
use crate::shm::spsc::{Broken, Link, Side};
use call::frame::FrameError;
use io_uring::{opcode, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes copied out of a link in one round: a thousand small frames, and no other connection waits long.
const ROUND_BYTES: usize = 256 << 10;
/// The peer sees what is written at the latest after this many bytes: it then works on the begin of a large round
/// while we still write its end.
const SHOW_BYTES: u64 = 16 << 10;
/// `FUTEX2_SIZE_U32`, shared between processes.
const FUTEX_SHARED_U32: u32 = 2;
const FUTEX_ANY: u64 = u32::MAX as u64;

/// What a look at a link found wrong.
enum LinkError {
    Broken,
    Malformed(FrameError),
}

impl From<Broken> for LinkError {
    fn from(_: Broken) -> LinkError {
        LinkError::Broken
    }
}

impl From<FrameError> for LinkError {
    fn from(error: FrameError) -> LinkError {
        LinkError::Malformed(error)
    }
}

impl From<LinkError> for Closed {
    fn from(error: LinkError) -> Closed {
        match error {
            LinkError::Broken => Closed::Io(libc::EPROTO),
            LinkError::Malformed(error) => Closed::Malformed(error),
        }
    }
}

impl Uring {
    pub(super) fn open_link_as_client(&mut self, index: u32) -> io::Result<()> {
        let (segment, memory) = Segment::create(self.options.shm_ring_bytes)?;
        let connection = &mut self.connections[index as usize];
        handover::give(connection.socket.as_ref().expect("connected").as_fd(), &memory)?;
        self.open_link(index, Link::new(segment, Side::Client));
        Ok(())
    }

    fn open_link(&mut self, index: u32, link: Link) {
        let connection = &mut self.connections[index as usize];
        connection.link = Some(link);
        connection.state = State::Open;
        self.links.push(index);
        self.watch(index);
        self.mark_dirty(index);
    }

    /// Waits for the socket beside the link to become readable: the handover, then the peer's end.
    pub(super) fn watch(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        connection.in_flight += 1;
        let socket = types::Fd(connection.socket.as_ref().expect("occupied").as_raw_fd());
        let entry = opcode::PollAdd::new(socket, (libc::POLLIN | libc::POLLRDHUP) as u32).build();
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(entry, Subject(Purpose::Watch, index)) };
    }

    pub(super) fn on_watch(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        let connection = &mut self.connections[index as usize];
        connection.in_flight -= 1;
        match connection.state {
            State::Handover(listener) => {
                let socket = connection.socket.as_ref().expect("occupied").as_fd();
                match handover::take(socket).and_then(Segment::accept) {
                    Ok(segment) => {
                        let id = connection.id(index);
                        self.open_link(index, Link::new(segment, Side::Acceptor));
                        into.raw.push(Raw::Accepted(listener, id));
                    }
                    Err(_) => self.end(index, Closed::Io(libc::EPROTO), into),
                }
            }
            // A peer has nothing to say there; readable means that it is gone.
            State::Open => connection.peer_gone = true,
            _ => {}
        }
    }

    pub(super) fn on_bell(&mut self, done: Completion) {
        let connection = &mut self.connections[done.subject.1 as usize];
        connection.in_flight -= 1;
        connection.bell_armed = false;
    }

    /// Puts frames straight into the ring, as far as they fit and nothing waits before them; the next flush at
    /// the latest shows them to the peer. Returns how many bytes; if any, the outbox is empty and takes the rest.
    pub(super) fn write_through(&mut self, index: u32, parts: &[&[u8]]) -> usize {
        let connection = &mut self.connections[index as usize];
        let Some(link) = connection.link.as_mut().filter(|_| connection.outbox.is_empty()) else { return 0 };
        let mut gone = 0;
        for part in parts {
            // A broken link takes nothing: the flush that finds the rest in the outbox ends it.
            let taken = link.write(part).unwrap_or(0);
            gone += taken;
            if taken < part.len() {
                break;
            }
        }
        if link.unpublished() >= SHOW_BYTES {
            link.publish();
        }
        gone
    }

    /// Moves the outbox into the ring as far as it fits, and shows it to the peer.
    pub(super) fn flush_link(&mut self, index: u32, into: &mut Arrivals) {
        let limit = self.options.send_queue_bytes;
        let connection = &mut self.connections[index as usize];
        let link = connection.link.as_mut().expect("an open shared connection has one");
        let mut fill = || -> Result<bool, Broken> {
            loop {
                let bytes = connection.outbox.next();
                if bytes.is_empty() {
                    return Ok(false);
                }
                let taken = link.write(bytes)?;
                let all = taken == bytes.len();
                connection.outbox.taken(taken);
                if !all {
                    link.publish();
                    link.ask_for_space();
                    if !link.has_space()? {
                        return Ok(true);
                    }
                }
            }
        };
        let filled = fill();
        link.publish();
        match filled {
            Ok(blocked) => connection.blocked = blocked,
            // After the peer's end nobody reads; the receiving side tells it.
            Err(Broken) => return self.end(index, Closed::Io(libc::EPROTO), into),
        }
        if connection.outbox.room_again(limit) {
            into.raw.push(Raw::Room(connection.id(index)));
        }
    }

    /// Whether a link has bytes for us, space that we wait for, or news of its end. No system call.
    pub(super) fn links_have_news(&mut self) -> bool {
        self.links.iter().any(|index| {
            let connection = &mut self.connections[*index as usize];
            let link = connection.link.as_mut().expect("listed");
            connection.peer_gone
                || link.readable() != Ok(0)
                || (connection.blocked && link.has_space() != Ok(false))
        })
    }

    /// Takes what has arrived on all links.
    pub(super) fn poll_links(&mut self, into: &mut Arrivals) {
        let mut at = 0;
        while at < self.links.len() {
            let index = self.links[at];
            if let Err(error) = self.poll_link(index, into) {
                self.end(index, error.into(), into);
            } else {
                let connection = &self.connections[index as usize];
                let link = connection.link.as_ref().expect("listed");
                if connection.peer_gone && link.readable() == Ok(0) {
                    self.end_of_link(index, into);
                }
            }
            // An ended one has left the list.
            if self.links.get(at) == Some(&index) {
                at += 1;
            }
        }
    }

    fn poll_link(&mut self, index: u32, into: &mut Arrivals) -> Result<(), LinkError> {
        let connection = &mut self.connections[index as usize];
        let id = connection.id(index);
        let link = connection.link.as_mut().expect("listed");
        let bytes = link.readable()?.min(ROUND_BYTES);
        if bytes > 0 {
            link.read(connection.framer.room(bytes)?);
            let mut give = |span: Span| into.raw.push(Raw::Frame(id, span));
            // SAFETY: `read` has filled the whole room.
            let cut = unsafe { connection.framer.filled(bytes, &mut give) };
            self.mark_used(index);
            cut?;
        }
        let connection = &mut self.connections[index as usize];
        if connection.blocked && connection.link.as_mut().expect("listed").has_space()? {
            self.mark_dirty(index);
        }
        Ok(())
    }

    fn end_of_link(&mut self, index: u32, into: &mut Arrivals) {
        let connection = &self.connections[index as usize];
        let reason = match (connection.closing, connection.mid_frame()) {
            (true, _) => Closed::Here,
            (false, true) => Closed::CutOff,
            (false, false) => Closed::Peer,
        };
        self.end(index, reason, into);
    }

    /// Tells all peers that we may sleep and waits on each doorbell. `false`: something has come meanwhile.
    pub(super) fn arm_bells(&mut self) -> bool {
        for at in 0..self.links.len() {
            let index = self.links[at];
            let connection = &mut self.connections[index as usize];
            let (word, heard) = connection.link.as_ref().expect("listed").prepare_to_sleep();
            if connection.bell_armed {
                continue;
            }
            connection.bell_armed = true;
            connection.in_flight += 1;
            let entry = opcode::FutexWait::new(word, u64::from(heard), FUTEX_ANY, FUTEX_SHARED_U32).build();
            // SAFETY: the word stays mapped until the slot is vacated, which waits for this entry's completion.
            unsafe { self.ring.push(entry, Subject(Purpose::Bell, index)) };
        }
        !self.links_have_news()
    }

    /// Peers need not ring any more.
    pub(super) fn hush_bells(&mut self) {
        for index in &self.links {
            self.connections[*index as usize].link.as_ref().expect("listed").awake();
        }
    }
}
