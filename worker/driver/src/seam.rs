//! The seam itself: what a state machine may ask of the world.

use crate::arrivals::Arrivals;
use call::frame::FrameError;
use call::{Instant, WallTime};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a node listens or connects to. The same frames travel on each.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// TCP, between hosts. `tcp:127.0.0.1:7420`
    Tcp(SocketAddr),
    /// Unix stream socket, inside a host. `unix:/run/millrace.sock`
    Unix(PathBuf),
    /// A pair of shared-memory rings, inside a host; the path is the Unix socket over which the memfd is handed.
    /// `shm:/run/millrace.shm`
    Shm(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(at) => write!(f, "tcp:{at}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Shm(path) => write!(f, "shm:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Endpoint, String> {
        let wrong = || format!("`{text}` is not an endpoint: use tcp:ADDRESS:PORT, unix:PATH or shm:PATH");
        match text.split_once(':').ok_or_else(wrong)? {
            ("tcp", at) => at.parse().map(Endpoint::Tcp).map_err(|_| wrong()),
            ("unix", path) if !path.is_empty() => Ok(Endpoint::Unix(path.into())),
            ("shm", path) if !path.is_empty() => Ok(Endpoint::Shm(path.into())),
            _ => Err(wrong()),
        }
    }
}

/// A connection of this driver. Numbers are reused only with another generation, so a late use hits nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ConnectionId(pub u64);

/// A listening endpoint of this driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u32);

/// An open file of this driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// A block of the driver's memory: page-aligned, registered with the kernel where it can be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId(pub u32);

/// The caller's name for an operation; comes back with its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Token(pub u64);

pub use call::limits::MESSAGE_BYTES_MAX;

/// Descriptors that one message carries at most.
pub const MESSAGE_DESCRIPTORS_MAX: usize = 16;

/// Why a send was not taken. Nothing of it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The connection's queue is full; [`crate::Event::Room`] comes when it is half empty.
    Full,
    /// There is no such connection any more.
    Closed,
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The peer closed it, at a frame's end. On a byte stream: the peer will send nothing more, be it that it closed
    /// or only shut down its sending side; what was not sent to it yet is lost.
    Peer,
    /// The peer went away in the middle of a frame.
    CutOff,
    /// The peer sent something that is not a frame.
    Malformed(FrameError),
    /// It could not be made, or broke: the errno.
    Io(i32),
    /// This side closed it.
    Here,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Peer => f.write_str("closed by the peer"),
            Closed::CutOff => f.write_str("the peer went away in the middle of a frame"),
            Closed::Malformed(error) => write!(f, "the peer sent a malformed frame: {error}"),
            Closed::Io(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
            Closed::Here => f.write_str("closed by this side"),
        }
    }
}

/// All that is not deterministic passes here.
///
/// Operations are taken at once and completed by a later [`Driver::reap`]. Completions of one file may come in any
/// order; frames of one connection come in the order in which they were sent.
///
/// A connection carries one of three things, for as long as it lasts:
/// - *frames* ([`Driver::listen`], [`Driver::connect`]): whole, checked, aligned, as [`crate::Event::Frame`];
/// - *bytes* ([`Driver::listen_bytes`], [`Driver::connect_bytes`], [`Driver::adopt_listener`],
///   [`Driver::adopt_stream`]): as they come and in order, as [`crate::Event::Bytes`], cut anywhere;
/// - *messages* ([`Driver::connect_messages`], [`Driver::adopt_messages`]): datagrams that keep their borders and may
///   carry descriptors, as [`crate::Event::Message`].
///
/// Where a method says so, a driver may not have it; then it answers [`io::ErrorKind::Unsupported`].
pub trait Driver {
    /// Monotonic time, comparable between processes of one host. Read once per round by `reap`; this call is cheap.
    fn now(&self) -> Instant;
    /// Wall-clock time of the same moment.
    fn wall(&self) -> WallTime;
    /// Fresh monotonic time, for measuring inside a round (a clock read on the real driver).
    fn precise(&self) -> Instant;
    /// 64 random bits.
    fn random(&mut self) -> u64;

    /// Listens. Connections arrive as [`crate::Event::Accepted`].
    fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId>;
    /// Where a listener really listens (a TCP port that was asked as 0).
    fn local(&self, listener: ListenerId) -> Endpoint;
    /// Begins to connect. [`crate::Event::Connected`] or [`crate::Event::Closed`] follows; sends before that queue up.
    fn connect(&mut self, to: &Endpoint) -> ConnectionId;
    /// Queues a frame (header, body, padding: a whole number of frames, as [`call::frame::append`] makes them), or
    /// bytes on a byte stream. All that is queued on a connection leaves in one send at the next `reap`.
    fn send(&mut self, to: ConnectionId, frames: &[u8]) -> Result<(), SendError>;
    /// Queues a frame made of a header and a body elsewhere in memory, without joining them first; pads it.
    fn send_parts(&mut self, to: ConnectionId, header: &[u8; 64], body: &[u8]) -> Result<(), SendError>;
    /// Ends a connection after what is queued has been sent. [`crate::Event::Closed`] follows, with [`Closed::Here`].
    fn close(&mut self, connection: ConnectionId);

    /// As [`Driver::listen`] for byte streams, over TCP or Unix sockets.
    fn listen_bytes(&mut self, _at: &Endpoint) -> io::Result<ListenerId> {
        unsupported()
    }
    /// As [`Driver::connect`] for a byte stream, over TCP or Unix sockets.
    ///
    /// # Errors
    /// Only if the driver has no byte streams or not to such an endpoint; what else goes wrong is an event.
    fn connect_bytes(&mut self, _to: &Endpoint) -> io::Result<ConnectionId> {
        unsupported()
    }
    /// Takes over a listening stream socket that somebody else made (in another network namespace, by systemd).
    /// Connections arrive as [`crate::Event::Accepted`] and carry bytes; while there are `connections_max` of them a
    /// further one is ended as it comes, so that whoever reaches this listener cannot take the connections of all. The
    /// driver closes the socket, and never removes a file. [`Driver::local`] must be asked of a TCP one only.
    ///
    /// # Errors
    /// If it is no listening stream socket, or too many listeners are open ([`io::ErrorKind::QuotaExceeded`]); the
    /// socket is closed.
    fn adopt_listener(&mut self, _socket: OwnedFd, _connections_max: usize) -> io::Result<ListenerId> {
        unsupported()
    }
    /// Takes over a connected stream socket, or an end of a pipe; it carries bytes and is open at once, without a
    /// [`crate::Event::Connected`]. A pipe end goes one way: sends to a read end are [`SendError::Closed`], and a
    /// write end brings no bytes; its end is told when it is closed here, or at a write that nobody will read
    /// ([`Closed::Io`] with EPIPE). A read end is [`Closed::Peer`] when the last writer has closed.
    ///
    /// # Errors
    /// If it is neither, or too many connections are open ([`io::ErrorKind::QuotaExceeded`]); the descriptor is
    /// closed.
    fn adopt_stream(&mut self, _end: OwnedFd) -> io::Result<ConnectionId> {
        unsupported()
    }
    /// Begins to connect to a Unix SEQPACKET socket: messages of up to [`MESSAGE_BYTES_MAX`] bytes with up to
    /// [`MESSAGE_DESCRIPTORS_MAX`] descriptors. [`crate::Event::Connected`] or [`crate::Event::Closed`] follows;
    /// messages before that queue up.
    ///
    /// A peer that sends more than either bound loses the connection ([`Closed::Io`] with EMSGSIZE), and what came
    /// with that message is closed.
    ///
    /// # Errors
    /// Only if the driver has no messages; what else goes wrong is an event.
    fn connect_messages(&mut self, _to: &Path) -> io::Result<ConnectionId> {
        unsupported()
    }
    /// Takes over a connected Unix SEQPACKET socket; it is open at once, without a [`crate::Event::Connected`].
    ///
    /// # Errors
    /// As [`Driver::adopt_stream`].
    fn adopt_messages(&mut self, _socket: OwnedFd) -> io::Result<ConnectionId> {
        unsupported()
    }
    /// Queues a message. The descriptors are closed here once it is sent, or at once if it is not taken.
    ///
    /// # Panics
    /// If the message is empty or exceeds a bound, or the connection carries no messages.
    fn send_message(
        &mut self,
        _to: ConnectionId,
        _bytes: &[u8],
        _descriptors: Vec<OwnedFd>,
    ) -> Result<(), SendError> {
        Err(SendError::Closed)
    }
    /// Shuts the sending side of a byte stream down after what is queued has been sent; bytes still come. The write
    /// end of a pipe is closed thereby, and [`crate::Event::Closed`] follows.
    fn finish(&mut self, _connection: ConnectionId) {}
    /// Ends a connection at once, whatever is queued. [`crate::Event::Closed`] follows, with [`Closed::Here`].
    fn abort(&mut self, connection: ConnectionId) {
        self.close(connection);
    }
    /// Reads no more from a byte stream until [`Driver::resume`]: its peer is slowed down by the kernel's buffers.
    /// Bytes that the kernel has given to us by then are still shown. The peer's end may not be noticed while paused.
    fn pause(&mut self, _connection: ConnectionId) {}
    /// Reads again.
    fn resume(&mut self, _connection: ConnectionId) {}
    /// Stops listening. Connections that were accepted go on; those not accepted yet are refused. There are no
    /// events of the listener after this.
    fn close_listener(&mut self, _listener: ListenerId) {}

    /// Names and sizes of the files in the data directory, sorted by name.
    fn files(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens an existing file of the data directory for direct reads and synced writes.
    fn open(&mut self, name: &str) -> io::Result<FileId>;
    /// Makes a file of exactly `bytes` bytes, pre-written with zeros and on disk with its directory entry, without
    /// stalling the loop. [`crate::Event::Created`] follows. An existing file of the name is an error.
    fn create(&mut self, name: &str, bytes: u64, token: Token);
    /// Removes a file of this name from the directory and closes it, without stalling the loop.
    /// [`crate::Event::Directory`] follows when the directory is on disk without it. If that fails the file stays open,
    /// and the removal may be asked for again. Nothing may be under way to the file.
    fn remove(&mut self, file: FileId, name: &str, token: Token);
    /// Gives a file another name, which no file may have, without stalling the loop. What is in it stays.
    /// [`crate::Event::Directory`] follows when the directory is on disk so: until then a crash may bring the old name
    /// back. If it fails the file keeps its old name.
    fn rename(&mut self, from: &str, to: &str, token: Token);
    /// Bytes of each block.
    fn block_bytes(&self) -> usize;
    /// Takes a block out of the fixed supply; `None` when all are out.
    fn take_block(&mut self) -> Option<BlockId>;
    /// Gives a block back.
    fn give_block(&mut self, block: BlockId);
    /// A block's memory. Must not be called while an operation on the block is in flight.
    fn block(&mut self, block: BlockId) -> &mut [u8];
    /// Writes the first `bytes` of a block at `offset`; both multiples of 4096. On disk (RWF_DSYNC) when
    /// [`crate::Event::Written`] comes.
    fn write(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token);
    /// Reads `bytes` at `offset` into a block; both multiples of 4096. [`crate::Event::Read`] follows.
    fn read(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token);

    /// Whether what is awaited comes from processes that may need this CPU for it: then a reap without news sleeps at
    /// once, where it would otherwise look for news for a moment. Until said otherwise.
    fn make_way(&mut self, _now: bool) {}
    /// Gives everything queued to the world, then takes what has arrived, sleeping until something has or `until`
    /// has come. May return early with nothing. Recycles what `into` held before.
    fn reap(&mut self, until: Instant, into: &mut Arrivals);

    /// Which backend is in force for each thing, for people: ("ring", "io_uring: DEFER_TASKRUN ..."), ...
    fn backends(&self) -> Vec<(String, String)>;
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}
