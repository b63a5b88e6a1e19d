//! Listening sockets: made here or adopted, accepting again and again, closed.

use super::Uring;
use super::connection::{Carries, State};
use super::ring::{Completion, Purpose, Subject};
use super::sockets;
use crate::arrivals::{Arrivals, Raw};
use crate::seam::{Closed, Endpoint, ListenerId};
use call::Instant;
use io_uring::{cqueue, opcode, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// After a failed accept (no descriptors, no memory) the listener rests this long.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Connections that only this side may make, however many come: at most a sixteenth of all.
const RESERVED: usize = 16;

/// A slot for a listening socket.
pub(super) struct Listener {
    generation: u16,
    /// `None`: the slot is free.
    socket: Option<OwnedFd>,
    /// Where it listens, if that can be said as an endpoint.
    local: Option<Endpoint>,
    /// Device and inode of a Unix listener's file.
    file: Option<(u64, u64)>,
    /// What its connections carry.
    carries: Carries,
    /// Options are to be set on each accepted socket; others inherit them from the listening one.
    tune: bool,
    /// A multishot accept is with the kernel.
    accepting: bool,
    /// If not, when to try again.
    retry: Instant,
    /// Connections that it accepted and that are not vacated yet, and how many there may be.
    connections: usize,
    connections_max: usize,
    /// To be forgotten when the kernel has given the accept back.
    closing: bool,
}

impl Listener {
    /// Removes the file of a Unix listener, unless a successor has put its own there.
    pub(super) fn remove_file(&self) {
        if let Some(Endpoint::Unix(path) | Endpoint::Shm(path)) = &self.local
            && self.file.is_some()
            && self.file == sockets::file_of(path)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The slot of a listener's id: the low half; its generation is the high one.
fn slot_of(id: ListenerId) -> usize {
    id.0 as usize & 0xffff
}

impl Uring {
    pub(super) fn start_listening(&mut self, at: &Endpoint, carries: Carries) -> io::Result<ListenerId> {
        let socket = sockets::listener(at)?;
        let local = match at {
            Endpoint::Tcp(_) => Endpoint::Tcp(sockets::local(socket.as_fd())?),
            other => other.clone(),
        };
        let file = match &local {
            Endpoint::Unix(path) | Endpoint::Shm(path) => sockets::file_of(path),
            Endpoint::Tcp(_) => None,
        };
        let tune = matches!(local, Endpoint::Tcp(_));
        self.add_listener(socket, Some(local), file, carries, tune)
    }

    /// Takes over a listening stream socket.
    pub(super) fn adopt_listening(
        &mut self,
        socket: OwnedFd,
        connections_max: usize,
    ) -> io::Result<ListenerId> {
        sockets::check_listening(socket.as_fd())?;
        sockets::own(socket.as_fd())?;
        let local = sockets::local(socket.as_fd()).ok().map(Endpoint::Tcp);
        if local.is_some() {
            sockets::tune_adopted(socket.as_fd());
        }
        let id = self.add_listener(socket, local, None, Carries::Bytes, false)?;
        self.listeners[slot_of(id)].connections_max = connections_max;
        Ok(id)
    }

    fn add_listener(
        &mut self,
        socket: OwnedFd,
        local: Option<Endpoint>,
        file: Option<(u64, u64)>,
        carries: Carries,
        tune: bool,
    ) -> io::Result<ListenerId> {
        let listener = Listener {
            generation: 0,
            socket: Some(socket),
            local,
            file,
            carries,
            tune,
            accepting: false,
            retry: Instant(0),
            connections: 0,
            connections_max: usize::MAX,
            closing: false,
        };
        let slot = match self.free_listeners.pop() {
            Some(slot) => {
                let generation = self.listeners[slot as usize].generation;
                self.listeners[slot as usize] = Listener { generation, ..listener };
                slot
            }
            None if self.listeners.len() < self.options.listeners_max => {
                self.listeners.push(listener);
                self.listeners.len() as u32 - 1
            }
            None => return Err(io::ErrorKind::QuotaExceeded.into()),
        };
        self.arm_accept(slot);
        Ok(self.listener_id(slot))
    }

    fn listener_id(&self, slot: u32) -> ListenerId {
        ListenerId(u32::from(self.listeners[slot as usize].generation) << 16 | slot)
    }

    /// The slot of a listener that is not closed.
    fn listener_slot(&self, id: ListenerId) -> Option<usize> {
        let listener = self.listeners.get(slot_of(id))?;
        let same = self.listener_id(slot_of(id) as u32) == id;
        (same && listener.socket.is_some() && !listener.closing).then_some(slot_of(id))
    }

    pub(super) fn local_of(&self, id: ListenerId) -> Endpoint {
        let slot = self.listener_slot(id).expect("a listener that is not closed");
        self.listeners[slot].local.clone().expect("a TCP socket, or one that this driver made")
    }

    fn arm_accept(&mut self, slot: u32) {
        let listener = &mut self.listeners[slot as usize];
        listener.accepting = true;
        let socket = listener.socket.as_ref().expect("an occupied slot has a socket").as_raw_fd();
        let entry = opcode::AcceptMulti::new(types::Fd(socket)).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(entry, Subject(Purpose::Accept, slot)) };
    }

    /// Listeners whose accept ended accept again.
    pub(super) fn accept_again(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let mut resting = std::mem::take(&mut self.resting);
        resting.retain(|slot| {
            let due = self.listeners[*slot as usize].retry <= self.clock.now();
            if due {
                self.arm_accept(*slot);
            }
            !due
        });
        self.resting = resting;
    }

    pub(super) fn on_accept(&mut self, done: Completion, into: &mut Arrivals) {
        let slot = done.subject.1;
        // SAFETY: the kernel has just made this descriptor for us.
        let socket = (done.result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(done.result as RawFd) });
        let now = self.clock.now();
        let listener = &mut self.listeners[slot as usize];
        if !cqueue::more(done.flags) {
            listener.accepting = false;
            listener.retry = now + if socket.is_some() { Duration::ZERO } else { ACCEPT_PAUSE };
            if listener.closing {
                return self.forget_listener(slot);
            }
            self.resting.push(slot);
        }
        let listener = &self.listeners[slot as usize];
        // Beyond its own bound, or that of all, the socket is dropped: the peer sees the end at once.
        let in_all = self.connections.len() - self.free.len();
        let most = self.options.connections_max - (self.options.connections_max / 16).min(RESERVED);
        let full = listener.connections >= listener.connections_max || in_all >= most;
        let refused = listener.closing || full;
        let Some(socket) = socket.filter(|_| !refused) else { return };
        let carries = listener.carries;
        if listener.tune {
            sockets::tune_connected(socket.as_fd());
        }
        let id = self.listener_id(slot);
        let Some(index) = self.occupy(State::Handover(id), carries) else { return };
        self.listeners[slot as usize].connections += 1;
        let connection = &mut self.connections[index as usize];
        (connection.socket, connection.from) = (Some(socket), Some(id));
        if carries == Carries::SharedMemory {
            self.watch(index);
        } else if self.open_connection(index).is_ok() {
            into.raw.push(Raw::Accepted(id, self.connections[index as usize].id(index)));
        } else {
            self.end(index, Closed::Io(libc::ENOMEM), into);
        }
    }

    /// One of the connections that a listener accepted is vacated.
    pub(super) fn count_out(&mut self, from: ListenerId) {
        if self.listener_id(slot_of(from) as u32) == from {
            self.listeners[slot_of(from)].connections -= 1;
        }
    }

    pub(super) fn stop_listening(&mut self, id: ListenerId) {
        let Some(slot) = self.listener_slot(id) else { return };
        let listener = &mut self.listeners[slot];
        listener.remove_file();
        listener.closing = true;
        if listener.accepting {
            let subject = Subject(Purpose::Accept, slot as u32);
            let entry = opcode::AsyncCancel::new(subject.user_data()).build();
            // SAFETY: the entry points to nothing.
            unsafe { self.ring.push(entry, Subject(Purpose::Forget, 0)) };
        } else {
            self.resting.retain(|resting| *resting != slot as u32);
            self.forget_listener(slot as u32);
        }
    }

    /// Closes the socket, and with it what waits in its backlog.
    fn forget_listener(&mut self, slot: u32) {
        let listener = &mut self.listeners[slot as usize];
        (listener.socket, listener.local, listener.file) = (None, None, None);
        listener.generation = listener.generation.wrapping_add(1);
        self.free_listeners.push(slot);
    }
}
