//! The network of a world: ordered streams with delay, chunks of any size, bounded queues, cuts and partitions.
//!
//! A connection is two [`End`]s. Bytes go from the `queue` of one end (what was sent and not yet carried, bounded)
//! on the `wire` towards the other (bounded by a window, freed when the receiver reaps), then into the inbox of the
//! receiving process, and are cut into frames when it reaps.

use super::world::{Happening, Incoming, Inner, Listening, MachineId, ProcessId};
use crate::arrivals::Span;
use crate::framing::{Framer, Tail};
use crate::seam::{Closed, ConnectionId, Endpoint, ListenerId, SendError};
use call::limits::FRAME_ALIGN;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// An end of a connection: an index into [`Inner::ends`], never reused; a [`ConnectionId`] is the same number.
pub(super) type EndId = usize;

/// How often a thing that waits for a partition to heal tries again.
const RETRANSMIT: Duration = Duration::from_millis(10);
/// First port that is given to a listener that asked for any.
const FIRST_PORT: u16 = 20_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not answered yet.
    Connecting,
    Open,
    /// Closed by this side, not all is carried.
    Closing,
    /// The last event is in the inbox, or was seen.
    Ended,
}

/// What is on the wire.
enum Carried {
    /// The listener has accepted.
    Ack,
    Bytes(Vec<u8>),
    /// The other side has closed.
    Fin,
    /// The other side is gone.
    Reset,
}

pub(super) struct End {
    pub process: ProcessId,
    peer: Option<EndId>,
    state: State,
    /// The handshake is over, as this end knows.
    connected: bool,
    /// The connection is broken; what this end sends goes nowhere.
    cut: bool,
    to: Endpoint,
    /// It carries bytes, not frames.
    bytes: bool,
    /// This side will send nothing more; and has said so.
    finishing: bool,
    finished: bool,
    /// This side wants no bytes for now; so many arrivals wait for it.
    paused: bool,
    stalled: usize,
    queue: VecDeque<u8>,
    /// How much of the queue a reap has handed to the network.
    flushed: usize,
    /// Bytes of this end on the wire or in the receiver's inbox.
    in_flight: usize,
    /// A send was refused: the caller is owed an [`Incoming::Room`].
    refused: bool,
    /// Towards this end.
    wire: VecDeque<Carried>,
    /// What has been reaped, up to the last whole frame.
    framer: Framer,
    /// This side asked to close: it wants no frames any more.
    deaf: bool,
    /// The process has seen the last event.
    told: bool,
}

impl End {
    fn new(process: ProcessId, to: &Endpoint, bytes: bool, peer: Option<EndId>) -> End {
        let accepted = peer.is_some();
        End {
            process,
            peer,
            state: if accepted { State::Open } else { State::Connecting },
            connected: accepted,
            cut: false,
            to: to.clone(),
            bytes,
            finishing: false,
            finished: false,
            paused: false,
            stalled: 0,
            queue: VecDeque::new(),
            flushed: 0,
            in_flight: 0,
            refused: false,
            wire: VecDeque::new(),
            framer: Framer::new(),
            deaf: false,
            told: false,
        }
    }

    /// Only a network loses connections; inside a host they last as long as the processes.
    fn may_be_cut(&self) -> bool {
        matches!(self.to, Endpoint::Tcp(_))
    }
}

/// Shared memory carries frames only.
fn check_endpoint(at: &Endpoint, bytes: bool) -> io::Result<()> {
    let fits = !bytes || !matches!(at, Endpoint::Shm(_));
    if fits { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

impl Inner {
    pub fn listen(&mut self, id: ProcessId, at: &Endpoint, bytes: bool) -> io::Result<ListenerId> {
        check_endpoint(at, bytes)?;
        let at = match at {
            Endpoint::Tcp(at) if at.port() == 0 => Endpoint::Tcp(self.free_port(*at)),
            other => other.clone(),
        };
        if self.listener(self.processes[id.0].machine, &at).is_some() {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let process = self.process(id);
        process.listeners.push(Listening { at, bytes, closed: false });
        Ok(ListenerId(process.listeners.len() as u32 - 1))
    }

    fn free_port(&self, mut at: SocketAddr) -> SocketAddr {
        at.set_port(FIRST_PORT);
        let taken = |at| self.processes.iter().flat_map(|p| &p.listeners).any(|l| l.at == Endpoint::Tcp(at));
        while taken(at) {
            at.set_port(at.port() + 1);
        }
        at
    }

    /// Who listens there, seen from a machine: paths mean something on their own machine only.
    fn listener(&self, from: MachineId, at: &Endpoint) -> Option<(ProcessId, ListenerId)> {
        let reaches = |machine| matches!(at, Endpoint::Tcp(_)) || machine == from;
        self.processes.iter().enumerate().filter(|(_, p)| p.alive && reaches(p.machine)).find_map(
            |(id, p)| {
                let listener = p.listeners.iter().position(|l| l.at == *at && !l.closed)?;
                Some((ProcessId(id), ListenerId(listener as u32)))
            },
        )
    }

    pub fn connect(&mut self, id: ProcessId, to: &Endpoint, bytes: bool) -> io::Result<ConnectionId> {
        check_endpoint(to, bytes)?;
        self.ends.push(End::new(id, to, bytes, None));
        let end = self.ends.len() - 1;
        let delay = self.delay();
        self.after(delay, Happening::Syn(end));
        Ok(ConnectionId(end as u64))
    }

    fn delay(&mut self) -> Duration {
        let (low, high) = self.conditions.delay;
        self.random.duration(low, high)
    }

    fn machine_of(&self, end: EndId) -> MachineId {
        self.processes[self.ends[end].process.0].machine
    }

    fn is_parted(&self, a: MachineId, b: MachineId) -> bool {
        self.parted.contains(&(a.min(b), a.max(b)))
    }

    pub fn syn(&mut self, end: EndId) {
        let given_up = self.ends[end].state == State::Ended;
        if given_up || !self.processes[self.ends[end].process.0].alive {
            return;
        }
        let from = self.machine_of(end);
        let to = self.ends[end].to.clone();
        let Some((process, listener)) = self.listener(from, &to) else {
            let errno = if matches!(to, Endpoint::Tcp(_)) { libc::ECONNREFUSED } else { libc::ENOENT };
            return self.gone(end, Closed::Io(errno));
        };
        if self.is_parted(from, self.processes[process.0].machine) {
            if self.random.chance(10_000) {
                return self.gone(end, Closed::Io(libc::ETIMEDOUT));
            }
            return self.after(RETRANSMIT, Happening::Syn(end));
        }
        let bytes = self.processes[process.0].listeners[listener.0 as usize].bytes;
        self.ends.push(End::new(process, &to, bytes, Some(end)));
        let accepted = self.ends.len() - 1;
        self.ends[end].peer = Some(accepted);
        self.note(&[4, end as u64, accepted as u64]);
        self.tell(process, Incoming::Accepted(listener, ConnectionId(accepted as u64)));
        self.carry(end, Carried::Ack);
    }

    /// Puts something on the wire towards `end`.
    fn carry(&mut self, end: EndId, carried: Carried) {
        self.ends[end].wire.push_back(carried);
        let delay = self.delay();
        self.after(delay, Happening::Arrive(end));
    }

    /// Queues the parts, frames padded, in whole or not at all.
    pub fn send(&mut self, id: ProcessId, to: ConnectionId, parts: &[&[u8]]) -> Result<(), SendError> {
        let queue_bytes = self.processes[id.0].sizes.queue_bytes;
        let end = &mut self.ends[to.0 as usize];
        assert_eq!(end.process, id, "a process sends on connections of its own");
        if end.deaf || end.finishing || matches!(end.state, State::Closing | State::Ended) {
            return Err(SendError::Closed);
        }
        let last = parts.last().map_or(0, |part| part.len());
        let whole = parts.len() > 1 || last.is_multiple_of(FRAME_ALIGN);
        assert!(whole || end.bytes, "a whole number of padded frames");
        let given = parts.iter().map(|part| part.len()).sum();
        let bytes = if parts.len() > 1 { call::frame::padded(given) } else { given };
        if !end.queue.is_empty() && end.queue.len() + bytes > queue_bytes {
            end.refused = true;
            return Err(SendError::Full);
        }
        let begin = end.queue.len();
        parts.iter().for_each(|part| end.queue.extend(*part));
        end.queue.resize(begin + bytes, 0);
        self.touch(id, to.0 as usize);
        Ok(())
    }

    fn touch(&mut self, id: ProcessId, end: EndId) {
        let process = self.process(id);
        if !process.unflushed.contains(&end) {
            process.unflushed.push(end);
        }
    }

    pub fn close(&mut self, id: ProcessId, connection: ConnectionId) {
        let end = &mut self.ends[connection.0 as usize];
        assert_eq!(end.process, id, "a process closes connections of its own");
        if matches!(end.state, State::Connecting | State::Open) {
            end.state = State::Closing;
        }
        end.deaf = true;
        self.touch(id, connection.0 as usize);
    }

    /// Ends a connection of this process, whatever is queued.
    pub fn abort(&mut self, id: ProcessId, connection: ConnectionId) {
        let end = connection.0 as usize;
        assert_eq!(self.ends[end].process, id, "a process ends connections of its own");
        self.ends[end].deaf = true;
        if self.ends[end].state != State::Ended {
            self.hang_up(end, Carried::Fin);
            self.gone(end, Closed::Here);
        }
    }

    /// This side of a byte stream will send nothing more.
    pub fn finish(&mut self, id: ProcessId, connection: ConnectionId) {
        let end = &mut self.ends[connection.0 as usize];
        assert!(end.process == id && end.bytes, "a process finishes byte streams of its own");
        end.finishing = true;
        self.touch(id, connection.0 as usize);
    }

    /// Whether a byte stream's bytes are wanted.
    pub fn pause(&mut self, id: ProcessId, connection: ConnectionId, paused: bool) {
        let end = &mut self.ends[connection.0 as usize];
        assert!(end.process == id && end.bytes, "a process pauses byte streams of its own");
        end.paused = paused;
        if !paused {
            for _ in 0..std::mem::take(&mut end.stalled) {
                self.after(Duration::ZERO, Happening::Arrive(connection.0 as usize));
            }
        }
    }

    pub fn close_listener(&mut self, id: ProcessId, listener: ListenerId) {
        self.process(id).listeners[listener.0 as usize].closed = true;
    }

    /// A reap begins: everything queued is the network's now.
    pub fn flush(&mut self, id: ProcessId) {
        for end in std::mem::take(&mut self.process(id).unflushed) {
            self.ends[end].flushed = self.ends[end].queue.len();
            self.pump(end);
        }
    }

    /// Carries as much of the queue as the window allows.
    fn pump(&mut self, id: EndId) {
        while let Some(bytes) = self.next_chunk(id) {
            let end = &mut self.ends[id];
            let chunk: Vec<u8> = end.queue.drain(..bytes).collect();
            end.flushed -= bytes;
            end.in_flight += bytes;
            let (cut, peer) = (end.cut, end.peer.expect("a connected end has a peer"));
            self.note(&[5, id as u64]);
            self.note_bytes(&chunk);
            if !cut {
                self.carry(peer, Carried::Bytes(chunk));
            }
            if self.random.chance(self.conditions.cut_ppm) && self.ends[id].may_be_cut() {
                self.cut(id);
            }
        }
        let end = &mut self.ends[id];
        let (process, drained) = (end.process, end.queue.is_empty());
        if end.refused && end.queue.len() <= self.processes[process.0].sizes.queue_bytes / 2 {
            end.refused = false;
            self.tell(process, Incoming::Room(id));
        }
        let end = &mut self.ends[id];
        if end.finishing && !end.finished && drained && end.connected && end.state == State::Open {
            end.finished = true;
            self.hang_up(id, Carried::Fin);
        }
        if self.ends[id].state == State::Closing && (drained || self.ends[id].cut) && self.ends[id].connected
        {
            self.hang_up(id, Carried::Fin);
            self.gone(id, Closed::Here);
        }
    }

    /// Bytes of the next chunk, by chance; `None` if nothing can go now.
    fn next_chunk(&mut self, id: EndId) -> Option<usize> {
        let end = &self.ends[id];
        let carrying = end.connected && end.state != State::Ended;
        let most = end.flushed.min(self.conditions.window_bytes.saturating_sub(end.in_flight));
        if !carrying || most == 0 {
            return None;
        }
        // Streams know no borders: some chunks end inside a header, most carry many frames.
        let size = match self.random.below(4) {
            0 => 1 + self.random.index(64),
            1 => 1 + self.random.index(1500),
            _ => 1 + self.random.index(64 << 10),
        };
        Some(size.min(most))
    }

    /// Lets the peer know that this end is gone.
    fn hang_up(&mut self, id: EndId, how: Carried) {
        if let (Some(peer), false) = (self.ends[id].peer, self.ends[id].cut) {
            self.carry(peer, how);
        }
    }

    /// The last event of an end, if it did not have it.
    fn gone(&mut self, id: EndId, reason: Closed) {
        let end = &mut self.ends[id];
        if end.state != State::Ended {
            end.state = State::Ended;
            end.queue.clear();
            end.flushed = 0;
            let process = end.process;
            self.tell(process, Incoming::Gone(id, reason));
        }
    }

    pub fn arrive(&mut self, id: EndId) {
        let Some(peer) = self.ends[id].peer else { return };
        if self.is_parted(self.machine_of(id), self.machine_of(peer)) && !self.ends[id].wire.is_empty() {
            return self.after(RETRANSMIT, Happening::Arrive(id));
        }
        let end = &mut self.ends[id];
        if end.paused && end.state == State::Open {
            end.stalled += 1;
            return;
        }
        let Some(carried) = end.wire.pop_front() else { return };
        match carried {
            Carried::Ack => {
                self.ends[id].connected = true;
                if self.ends[id].state == State::Connecting {
                    self.ends[id].state = State::Open;
                    let process = self.ends[id].process;
                    self.tell(process, Incoming::Connected(id));
                }
                self.pump(id);
            }
            Carried::Bytes(bytes) if self.ends[id].state == State::Ended => self.freed(id, bytes.len()),
            Carried::Bytes(bytes) => {
                let process = self.ends[id].process;
                self.tell(process, Incoming::Bytes(id, bytes));
            }
            Carried::Fin => {
                // A stream whose peer only finished ends here, and so for the peer.
                if self.ends[id].bytes && self.ends[id].state != State::Ended {
                    self.hang_up(id, Carried::Fin);
                }
                self.gone(id, Closed::Peer);
            }
            Carried::Reset => self.gone(id, Closed::Io(libc::ECONNRESET)),
        }
    }

    /// The receiver took bytes: the sender may carry more.
    fn freed(&mut self, receiver: EndId, bytes: usize) {
        if let Some(sender) = self.ends[receiver].peer {
            self.ends[sender].in_flight -= bytes;
            self.pump(sender);
        }
    }

    /// Breaks a connection in the middle of whatever it carries; each end notices in its own time.
    pub fn cut(&mut self, id: EndId) {
        let Some(peer) = self.ends[id].peer else { return };
        self.note(&[6, id as u64]);
        for end in [id, peer] {
            if std::mem::replace(&mut self.ends[end].cut, true) {
                continue;
            }
            let keep = self.random.index(self.ends[end].wire.len() + 1);
            self.ends[end].wire.truncate(keep);
            let notice = self.random.duration(Duration::ZERO, self.conditions.notice_max);
            self.after(notice, Happening::Break(end));
        }
    }

    /// Cuts a connection that stands, if there is one.
    pub fn cut_any(&mut self) {
        let standing = |end: &End| end.state == State::Open && !end.cut && end.may_be_cut();
        let standing: Vec<EndId> = (0..self.ends.len()).filter(|end| standing(&self.ends[*end])).collect();
        if !standing.is_empty() {
            let chosen = standing[self.random.index(standing.len())];
            self.cut(chosen);
        }
    }

    pub fn break_end(&mut self, id: EndId) {
        self.gone(id, Closed::Io(libc::ECONNRESET));
    }

    /// The process died. Its kernel closes the connections, or the whole host fell silent.
    pub fn lose_connections(&mut self, id: ProcessId) {
        for end in 0..self.ends.len() {
            if self.ends[end].process != id || self.ends[end].state == State::Ended {
                continue;
            }
            let local = self.ends[end].peer.is_some_and(|peer| self.machine_of(peer) == self.machine_of(end));
            match self.random.below(if local { 2 } else { 3 }) {
                0 => self.hang_up(end, Carried::Fin),
                1 => self.hang_up(end, Carried::Reset),
                _ => self.cut(end),
            }
            let end = &mut self.ends[end];
            (end.state, end.told) = (State::Ended, true);
        }
    }

    /// Whether an end carries bytes, not frames.
    pub fn carries_bytes(&self, id: EndId) -> bool {
        self.ends[id].bytes
    }

    /// Cuts reaped bytes into frames and gives each to `take`, which must copy it; those of a byte stream are given
    /// as they are. Malformed bytes are the end of the connection: returns the last event then.
    pub fn split(&mut self, id: EndId, bytes: &[u8], take: &mut impl FnMut(Span)) -> Option<Closed> {
        self.freed(id, bytes.len());
        let end = &mut self.ends[id];
        if end.deaf || end.told {
            return None;
        }
        if end.bytes {
            take(Span { start: bytes.as_ptr(), bytes: bytes.len() });
            return None;
        }
        let result = end.framer.feed(bytes, Tail::Moves, take);
        end.framer.recycle();
        let error = result.err()?;
        end.told = true;
        if end.state != State::Ended {
            end.state = State::Ended;
            self.hang_up(id, Carried::Reset);
        }
        Some(Closed::Malformed(error))
    }

    /// Whether an event of a connection may still be shown; `Gone` may, once.
    pub fn is_shown(&self, id: EndId) -> bool {
        !self.ends[id].deaf && !self.ends[id].told
    }

    /// The last event of a connection is about to be shown: as what, or `None` if it was shown before.
    pub fn last_words(&mut self, id: EndId, reason: Closed) -> Option<Closed> {
        let end = &mut self.ends[id];
        let told = std::mem::replace(&mut end.told, true);
        let inside = reason == Closed::Peer && end.framer.mid_frame() && !end.deaf;
        (!told).then_some(if inside { Closed::CutOff } else { reason })
    }
}
