//! The real driver: one io_uring for sockets, disk, doorbells of shared-memory links and timers.
//!
//! A round of [`Uring::tick`]: memory of the last round goes back, what was queued becomes one send per connection,
//! all entries go to the kernel in one system call (none, if there is nothing to give and the kernel has nothing),
//! completions become events. [`Driver::reap`] is a tick, then spinning, then sleeping; inside a pinned executor use
//! [`crate::shell`] instead, which sleeps on an eventfd and leaves the thread to other tasks.
//!
//! Who may allocate: connections when they begin, buffers while they grow to what traffic needs. After that a round
//! of sends, receives, reads and writes allocates nothing.
//!
//! - [`ring`]: setting up, entering. [`buffers`]: receive memory. [`outbox`]: what waits to be sent.
//! - [`connection`], [`sockets`], [`network`], [`links`]: connections and their moves.
//! - [`blocks`], [`files`]: the disk. [`rest`]: spinning and sleeping. [`capabilities`]: what the kernel has.

mod ring;
mod buffers;
mod outbox;
mod sockets;
mod connection;
mod network;
mod links;
mod blocks;
mod files;
mod rest;
pub(crate) mod capabilities;
#[cfg(test)]
mod tests;

use crate::arrivals::{Arrivals, Raw};
use crate::clock::{self, Clock};
use crate::seam::{BlockId, ConnectionId, Driver, Endpoint, FileId, ListenerId, SendError, Token};
use blocks::Blocks;
use buffers::{ReceiveBuffers, Shape};
use call::limits::FRAME_ALIGN;
use call::{Instant, WallTime};
use connection::Connection;
use files::Disk;
use rest::Spin;
use ring::{Completion, Purpose, Ring};
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a driver is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where files are; `None` for a process without any.
    pub data_dir: Option<PathBuf>,
    /// Blocks for disk I/O.
    pub blocks: usize,
    /// Bytes of each, a multiple of 4096.
    pub block_bytes: usize,
    /// Whether blocks must be registered with the kernel; then too small a memlock limit is an error.
    pub register_blocks: bool,
    /// How long to spin for news before sleeping; zero sleeps at once. Waking a sleeper costs 25-32 us on the
    /// reference machine: 50 us outlast that and an answer, so that two sides find each other awake.
    pub spin: Duration,
    /// Bytes queued on a connection beyond which a send is [`SendError::Full`].
    pub send_queue_bytes: usize,
    /// Receive buffers of a socket connection, a power of two.
    pub receive_buffers: u16,
    /// Bytes of each, a multiple of 4096.
    pub receive_buffer_bytes: usize,
    /// Bytes of a shared-memory ring in each direction, a power of two.
    pub shm_ring_bytes: usize,
    /// Connections at once, at most 65,535.
    pub connections_max: usize,
    /// Entries of the submission queue; the completion queue holds eight times as many.
    pub ring_entries: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            data_dir: None,
            blocks: 0,
            block_bytes: 256 << 10,
            register_blocks: true,
            spin: Duration::from_micros(50),
            send_queue_bytes: 8 << 20,
            receive_buffers: 4,
            receive_buffer_bytes: 64 << 10,
            shm_ring_bytes: 1 << 20,
            connections_max: 4096,
            ring_entries: 512,
        }
    }
}

/// A listening socket.
struct Listener {
    socket: OwnedFd,
    local: Endpoint,
    /// Device and inode of a Unix listener's file.
    file: Option<(u64, u64)>,
    /// A multishot accept is with the kernel.
    accepting: bool,
    /// If not, when to try again.
    retry: Instant,
}

impl Listener {
    /// Removes the file of a Unix listener, unless a successor has put its own there.
    fn remove_file(&self) {
        if let Endpoint::Unix(path) | Endpoint::Shm(path) = &self.local
            && self.file.is_some()
            && self.file == sockets::file_of(path)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Held by the [`Arrivals`] of the last reap: keeps the memory of its frames if the driver goes first.
#[derive(Default)]
struct Loan(RefCell<Vec<Connection>>);

/// The io_uring driver. Belongs to the thread that made it.
pub struct Uring {
    /// First, so that the kernel is done with all memory below before that is freed.
    ring: Ring,
    options: Options,
    shape: Shape,
    clock: Clock,
    random: u64,
    connections: Vec<Connection>,
    free: Vec<u32>,
    listeners: Vec<Listener>,
    /// Connections with something to flush, and the list they are taken from while flushing.
    dirty: Vec<u32>,
    flushing: Vec<u32>,
    /// Connections with memory to recycle.
    used: Vec<u32>,
    /// Connections that have ended and wait to be vacated.
    ending: Vec<u32>,
    /// Open shared-memory connections.
    links: Vec<u32>,
    /// Events that happened outside of a reap.
    news: Vec<Raw>,
    disk: Disk,
    completions: Vec<Completion>,
    spin: Spin,
    /// When the timer with the kernel fires, and where the kernel reads that.
    timer: Option<Instant>,
    timer_at: Box<io_uring::types::Timespec>,
    loan: Arc<Loan>,
}

/// Whether this process may make an io_uring at all.
///
/// # Errors
/// As [`Uring::new`]: switched off or forbidden, with the remedy.
pub fn check() -> io::Result<()> {
    Ring::new(1).map(drop)
}

impl Uring {
    /// A driver for the calling thread.
    ///
    /// Fails with a message that names the remedy if io_uring is switched off or forbidden, if the memlock limit is
    /// too small for `blocks`, or if the data directory cannot be opened.
    pub fn new(options: Options) -> io::Result<Uring> {
        assert!((1..=65_535).contains(&options.connections_max), "connection numbers have 16 bits");
        let ring = Ring::new(options.ring_entries)?;
        let submitter = ring.submitter();
        let shape = Shape {
            count: options.receive_buffers,
            bytes: options.receive_buffer_bytes,
            incremental: ReceiveBuffers::probe_incremental(&submitter),
        };
        let blocks = Blocks::new(options.blocks, options.block_bytes, options.register_blocks, &submitter)?;
        let disk = Disk::new(options.data_dir.clone(), blocks)?;
        Ok(Uring {
            ring,
            shape,
            clock: Clock::new(),
            random: seed()?,
            connections: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            dirty: Vec::with_capacity(64),
            flushing: Vec::with_capacity(64),
            used: Vec::with_capacity(64),
            ending: Vec::with_capacity(64),
            links: Vec::with_capacity(16),
            news: Vec::new(),
            disk,
            completions: Vec::with_capacity(options.ring_entries as usize * 8),
            spin: Spin::new(options.spin),
            timer: None,
            timer_at: Box::default(),
            loan: Arc::default(),
            options,
        })
    }

    /// One round without sleeping: gives what is queued, takes what has arrived. How many events there are.
    ///
    /// # Panics
    /// If another [`Arrivals`] than that of the last round is lent while the last one still holds frames.
    pub fn tick(&mut self, into: &mut Arrivals) -> usize {
        self.begin(into);
        self.ring.enter_if_needed().expect("the ring is set up and its entries are well formed");
        self.take(into)
    }

    /// Takes the memory of the last round back and queues what is to be given.
    fn begin(&mut self, into: &mut Arrivals) {
        into.raw.clear();
        into.keep.clear();
        assert!(
            Arc::strong_count(&self.loan) == 1,
            "lend each reap the same `Arrivals`: another one holds frames"
        );
        into.raw.append(&mut self.news);
        self.recycle();
        self.accept_again();
        self.flush(into);
    }

    /// Makes events of all completions and of what links hold.
    fn take(&mut self, into: &mut Arrivals) -> usize {
        self.clock.refresh();
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.completions(&mut completions);
        for completion in completions.drain(..) {
            self.dispatch(completion, into);
        }
        self.completions = completions;
        self.poll_links(into);
        if into.keep.is_empty() && into.raw.iter().any(|event| matches!(event, Raw::Frame(..))) {
            into.keep.push(self.loan.clone());
        }
        into.raw.len()
    }

    fn dispatch(&mut self, completion: Completion, into: &mut Arrivals) {
        match completion.subject.0 {
            Purpose::Accept => self.on_accept(completion, into),
            Purpose::Connect => self.on_connect(completion, into),
            Purpose::Receive => self.on_receive(completion, into),
            Purpose::Send => self.on_send(completion, into),
            Purpose::Watch => self.on_watch(completion, into),
            Purpose::Bell => self.on_bell(completion),
            Purpose::Block => self.disk.on_block(&mut self.ring, completion, into),
            Purpose::Create => self.disk.on_create(&mut self.ring, completion, into),
            Purpose::Directory => self.disk.on_directory(&mut self.ring, completion, into),
            Purpose::Timer => self.on_timer(),
            Purpose::Forget => {}
        }
    }
}

/// 64 bits from the kernel.
fn seed() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the pointer and the length are of `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 { Ok(u64::from_le_bytes(bytes)) } else { Err(io::Error::last_os_error()) }
}

impl Driver for Uring {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    fn precise(&self) -> Instant {
        clock::monotonic()
    }

    /// SplitMix64: quality enough for jitter, best-of-two and call ids; not for secrets.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.start_listening(at)
    }

    fn local(&self, listener: ListenerId) -> Endpoint {
        self.listeners[listener.0 as usize].local.clone()
    }

    fn connect(&mut self, to: &Endpoint) -> ConnectionId {
        self.start_connecting(to)
    }

    fn send(&mut self, to: ConnectionId, frames: &[u8]) -> Result<(), SendError> {
        self.queue(to, &[frames])
    }

    fn send_parts(&mut self, to: ConnectionId, header: &[u8; 64], body: &[u8]) -> Result<(), SendError> {
        const PADDING: [u8; FRAME_ALIGN] = [0; FRAME_ALIGN];
        let missing = body.len().next_multiple_of(FRAME_ALIGN) - body.len();
        self.queue(to, &[header, body, &PADDING[..missing]])
    }

    fn close(&mut self, connection: ConnectionId) {
        self.close_when_sent(connection);
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.list()
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.disk.open(name)
    }

    fn create(&mut self, name: &str, bytes: u64, token: Token) {
        if let Err(errno) = self.disk.create(&mut self.ring, name, bytes, token) {
            self.news.push(Raw::Created(token, Err(errno)));
        }
    }

    fn remove(&mut self, file: FileId, name: &str, token: Token) {
        if let Err(errno) = self.disk.remove(&mut self.ring, file, name, token) {
            self.news.push(Raw::Directory(token, Err(errno)));
        }
    }

    fn rename(&mut self, from: &str, to: &str, token: Token) {
        if let Err(errno) = self.disk.rename(&mut self.ring, from, to, token) {
            self.news.push(Raw::Directory(token, Err(errno)));
        }
    }

    fn block_bytes(&self) -> usize {
        self.options.block_bytes
    }

    fn take_block(&mut self) -> Option<BlockId> {
        self.disk.blocks.take()
    }

    fn give_block(&mut self, block: BlockId) {
        self.disk.blocks.give(block);
    }

    fn block(&mut self, block: BlockId) -> &mut [u8] {
        self.disk.blocks.slice(block)
    }

    fn write(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.disk.begin(&mut self.ring, true, (file, offset), (block, bytes), token);
    }

    fn read(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.disk.begin(&mut self.ring, false, (file, offset), (block, bytes), token);
    }

    fn reap(&mut self, until: Instant, into: &mut Arrivals) {
        self.tick_or_sleep(until, into);
    }

    fn backends(&self) -> Vec<(String, String)> {
        let receive = if self.shape.incremental {
            "multishot, incremental provided buffers"
        } else {
            "multishot, provided buffers (not incremental: kernel before 6.12; frames cut by a read are copied)"
        };
        let say = |what: &str, how: String| (what.to_owned(), how);
        vec![
            say("ring", format!("io_uring, {}", self.ring.setup())),
            say("receive", receive.to_owned()),
            say("send", "one coalesced send per connection and round".to_owned()),
            say("shared memory", "memfd rings, futex doorbells waited for in the ring".to_owned()),
            say("disk", self.disk.backend()),
            say("waiting", self.spin.backend()),
        ]
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.remove_file();
        }
        // Nothing may write to our memory after this; a disk write under way is waited for.
        let everything = io_uring::types::CancelBuilder::any();
        let patience = io_uring::types::Timespec::new().sec(1);
        let _ = self.ring.submitter().register_sync_cancel(Some(patience), everything);
        // Runs what cancelling left to do in this thread; until then entries hold their sockets, and a port stays busy.
        let _ = self.ring.enter();
        if Arc::strong_count(&self.loan) > 1 {
            self.loan.0.borrow_mut().append(&mut self.connections);
        }
    }
}
