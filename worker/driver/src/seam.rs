//! The seam itself: what a state machine may ask of the world.

use crate::arrivals::Arrivals;
use call::frame::FrameError;
use call::{Instant, WallTime};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
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

/// Why a send was not taken. The frame was not sent, in no part.
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
    /// The peer closed it, at a frame's end.
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
    /// Queues a frame (header, body, padding: a whole number of frames, as [`call::frame::append`] makes them).
    /// All frames of a connection leave in one send at the next `reap`.
    fn send(&mut self, to: ConnectionId, frames: &[u8]) -> Result<(), SendError>;
    /// Queues a frame made of a header and a body elsewhere in memory, without joining them first; pads it.
    fn send_parts(&mut self, to: ConnectionId, header: &[u8; 64], body: &[u8]) -> Result<(), SendError>;
    /// Ends a connection after what is queued has been sent. [`crate::Event::Closed`] follows, with [`Closed::Here`].
    fn close(&mut self, connection: ConnectionId);

    /// Names and sizes of the files in the data directory, sorted by name.
    fn files(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens an existing file of the data directory for direct reads and synced writes.
    fn open(&mut self, name: &str) -> io::Result<FileId>;
    /// Makes a file of exactly `bytes` bytes, pre-written with zeros and on disk with its directory entry, without
    /// stalling the loop. [`crate::Event::Created`] follows. An existing file of the name is an error.
    fn create(&mut self, name: &str, bytes: u64, token: Token);
    /// Closes a file and removes it from the directory.
    fn remove(&mut self, file: FileId, name: &str) -> io::Result<()>;
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

    /// Gives everything queued to the world, then takes what has arrived, sleeping until something has or `until`
    /// has come. May return early with nothing. Recycles what `into` held before.
    fn reap(&mut self, until: Instant, into: &mut Arrivals);

    /// Which backend is in force for each thing, for people: ("ring", "io_uring: DEFER_TASKRUN ..."), ...
    fn backends(&self) -> Vec<(String, String)>;
}
