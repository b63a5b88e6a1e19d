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
//! - [`listeners`], [`connection`], [`sockets`]: what they are made of. [`network`]: how connections begin and end, and
//!   the moves of frames; [`links`], [`streams`], [`messages`]: those of shared memory, bytes, messages.
//! - [`blocks`], [`files`]: the disk. [`rest`]: spinning and sleeping. [`capabilities`]: what the kernel has.

mod ring;
mod buffers;
mod outbox;
mod sockets;
mod connection;
mod listeners;
mod network;
mod links;
mod streams;
mod messages;
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
use connection::{Carries, Connection};
use files::Disk;
use listeners::Listener;
use rest::Spin;
use ring::{Completion, Purpose, Ring};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
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
    /// Connections at once, at most 65,535; the last few are kept for those that are made here. An idle byte stream costs half a KiB here and its socket in the kernel; one
    /// that carries frames, its receive buffers as far as they were ever filled.
    pub connections_max: usize,
    /// Listeners at once, at most 65,536.
    pub listeners_max: usize,
    /// Receive buffers that all byte streams share, a power of two up to 256. They bound what one round brings.
    pub stream_buffers: u16,
    /// Bytes of each, a multiple of 4096: the longest [`crate::Event::Bytes`].
    pub stream_buffer_bytes: usize,
    /// Read pipes with one entry for many reads where the kernel has that (Linux 6.7).
    pub multishot_reads: bool,
    /// Entries of the submission queue; the completion queue holds eight times as many.
    pub ring_entries: u32,
    /// Events after which a round ends although more has arrived; what one read or one shared-memory ring brought is
    /// not divided. A long round makes the next one long: its answers and disk writes leave only at its end, and all
    /// that comes meanwhile waits for them.
    pub round_events: usize,
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
            listeners_max: 1024,
            stream_buffers: 128,
            stream_buffer_bytes: 16 << 10,
            multishot_reads: true,
            ring_entries: 512,
            round_events: 256,
        }
    }
}

/// Held by the [`Arrivals`] of the last reap: keeps the memory of its frames if the driver goes first.
#[derive(Default)]
struct Loan(RefCell<(Vec<Connection>, Option<ReceiveBuffers>)>);

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
    free_listeners: Vec<u32>,
    /// Listeners that do not accept and are to try again.
    resting: Vec<u32>,
    /// Receive memory of all byte streams, made with the first.
    pool: Option<ReceiveBuffers>,
    /// A byte stream found the pool empty.
    starved: bool,
    /// Whether the kernel reads a pipe again and again for one entry (Linux 6.7).
    reads_again: bool,
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
    /// Taken from the ring and not looked at, oldest first: those of a round that was full.
    waiting: VecDeque<Completion>,
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
        assert!((1..=65_536).contains(&options.listeners_max), "listener numbers have 16 bits");
        assert!((1..=256).contains(&options.stream_buffers), "their descriptors fill a page");
        let ring = Ring::new(options.ring_entries)?;
        let submitter = ring.submitter();
        let shape = Shape {
            count: options.receive_buffers,
            bytes: options.receive_buffer_bytes,
            incremental: ReceiveBuffers::probe_incremental(&submitter),
        };
        let reads_again = options.multishot_reads && capabilities::reads_again(&ring);
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
            free_listeners: Vec::new(),
            resting: Vec::new(),
            pool: None,
            starved: false,
            reads_again,
            dirty: Vec::with_capacity(64),
            flushing: Vec::with_capacity(64),
            used: Vec::with_capacity(64),
            ending: Vec::with_capacity(64),
            links: Vec::with_capacity(16),
            news: Vec::new(),
            disk,
            waiting: VecDeque::with_capacity(options.ring_entries as usize * 8),
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
        self.take_disk(into);
        while into.raw.len() < self.options.round_events
            && let Some(completion) = self.waiting.pop_front()
        {
            self.dispatch(completion, into);
        }
        self.poll_links(into);
        let lends = |event: &Raw| matches!(event, Raw::Frame(..) | Raw::Bytes(..));
        if into.keep.is_empty() && into.raw.iter().any(lends) {
            into.keep.push(self.loan.clone());
        }
        into.raw.len()
    }

    /// Takes all completions from the ring, and makes events of those of the disk: whoever waits for a write waits for
    /// nobody's frames.
    fn take_disk(&mut self, into: &mut Arrivals) {
        let from = self.waiting.len();
        self.ring.completions(&mut self.waiting);
        let is_disk = |purpose| matches!(purpose, Purpose::Block | Purpose::Create | Purpose::Directory);
        let mut kept = from;
        for at in from..self.waiting.len() {
            let completion = self.waiting[at];
            if is_disk(completion.subject.0) {
                self.dispatch(completion, into);
            } else {
                self.waiting[kept] = completion;
                kept += 1;
            }
        }
        self.waiting.truncate(kept);
    }

    /// Quality enough for jitter, best-of-two and call ids; not for secrets.
    fn random_bits(&mut self) -> u64 {
        call::random::splitmix64(&mut self.random)
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

    fn random(&mut self) -> u64 {
        self.random_bits()
    }

    fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        let shared = matches!(at, Endpoint::Shm(_));
        self.start_listening(at, if shared { Carries::SharedMemory } else { Carries::Frames })
    }

    fn local(&self, listener: ListenerId) -> Endpoint {
        self.local_of(listener)
    }

    fn connect(&mut self, to: &Endpoint) -> ConnectionId {
        let shared = matches!(to, Endpoint::Shm(_));
        self.start_connecting(to, if shared { Carries::SharedMemory } else { Carries::Frames })
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

    fn listen_bytes(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        match at {
            Endpoint::Shm(_) => Err(io::ErrorKind::Unsupported.into()),
            at => self.start_listening(at, Carries::Bytes),
        }
    }

    fn connect_bytes(&mut self, to: &Endpoint) -> io::Result<ConnectionId> {
        self.connect_for_bytes(to)
    }

    fn adopt_listener(&mut self, socket: OwnedFd, connections_max: usize) -> io::Result<ListenerId> {
        self.adopt_listening(socket, connections_max)
    }

    fn adopt_stream(&mut self, end: OwnedFd) -> io::Result<ConnectionId> {
        self.adopt_end(end)
    }

    fn connect_messages(&mut self, to: &Path) -> io::Result<ConnectionId> {
        Ok(self.connect_for_messages(to))
    }

    fn adopt_messages(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        self.adopt_for_messages(socket)
    }

    fn send_message(
        &mut self,
        to: ConnectionId,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), SendError> {
        self.queue_message(to, bytes, descriptors)
    }

    fn finish(&mut self, connection: ConnectionId) {
        self.finish_sending(connection);
    }

    fn abort(&mut self, connection: ConnectionId) {
        self.close_at_once(connection);
    }

    fn pause(&mut self, connection: ConnectionId) {
        self.pause_reading(connection);
    }

    fn resume(&mut self, connection: ConnectionId) {
        self.resume_reading(connection);
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.stop_listening(listener);
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

    fn make_way(&mut self, now: bool) {
        self.spin.make_way(now);
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
            say("pipes", if self.reads_again { "multishot read" } else { "a read at a time" }.to_owned()),
            say("send", "one coalesced send per connection and round".to_owned()),
            say("shared memory", "memfd rings, futex doorbells waited for in the ring".to_owned()),
            say("disk", self.disk.backend()),
            say("waiting", self.spin.backend()),
            say("precedence", crate::topology::precedence()),
            say("pages", crate::topology::pages()),
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
            let (connections, pool) = &mut *self.loan.0.borrow_mut();
            connections.append(&mut self.connections);
            *pool = self.pool.take();
        }
    }
}
