//! The deterministic driver: a whole world of processes, machines, wires and disks on one thread, from one seed.
//!
//! A [`World`] is shared by the [`SimDriver`]s of its processes. By itself a world moves when one of its drivers
//! reaps with nothing to show, as the real one sleeps; a *stepped* world moves only when its simulator says so, and
//! a reap there returns at once, having said until when it would have slept.
//!
//! A process dies when its driver is dropped: what it queued is lost, its peers hear of it or time out, each sector
//! of its writes in flight is on disk or not. Equal seeds give equal worlds; [`World::trace_hash`] shows it.

mod disk;
mod network;
mod random;
mod world;

pub use random::{Ppm, Random};
pub use world::ProcessId;

use crate::arrivals::{Arrivals, Raw, Span};
use crate::seam::{BlockId, ConnectionId, Driver, Endpoint, FileId, ListenerId, SendError, Token};
use call::frame::FrameBuf;
use call::{Instant, WallTime};
use network::EndId;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use world::{Incoming, Inner};

/// What the world is like now. A simulator changes it as it goes, with [`World::conditions`].
#[derive(Clone, Debug)]
pub struct Conditions {
    /// What a chunk, or a wish to connect, takes on its way: least and most.
    pub delay: (Duration, Duration),
    /// Chance per chunk that the connection breaks there.
    pub cut_ppm: Ppm,
    /// How long an end may take to notice that its connection broke.
    pub notice_max: Duration,
    /// Bytes of one direction of a connection that are on their way or not reaped.
    pub window_bytes: usize,
    /// What a disk operation takes: least and most.
    pub disk_delay: (Duration, Duration),
    /// Chance per write that it fails with EIO.
    pub write_error_ppm: Ppm,
    /// Bytes of files that a machine's disk holds; beyond it a file cannot be made (ENOSPC).
    pub disk_bytes_max: usize,
    /// For canaries: the disk tells writes to be done that a crash can still lose.
    pub lying_disk: bool,
}

impl Default for Conditions {
    /// Fair weather.
    fn default() -> Conditions {
        Conditions {
            delay: (Duration::from_micros(5), Duration::from_micros(200)),
            cut_ppm: 0,
            notice_max: Duration::from_millis(500),
            window_bytes: 256 << 10,
            disk_delay: (Duration::from_micros(20), Duration::from_micros(300)),
            write_error_ppm: 0,
            disk_bytes_max: 1 << 30,
            lying_disk: false,
        }
    }
}

/// What a process has in memory.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Blocks in all.
    pub blocks: usize,
    /// Bytes of each.
    pub block_bytes: usize,
    /// Bytes that a connection's queue takes. A single send that is larger is taken by an empty queue.
    pub queue_bytes: usize,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { blocks: 16, block_bytes: 64 << 10, queue_bytes: 256 << 10 }
    }
}

/// A world; cloning gives another hand on the same one.
#[derive(Clone)]
pub struct World(Rc<RefCell<Inner>>);

/// What a reap costs in a world that moves by itself, so that a loop which polls gets somewhere.
const REAP: Duration = Duration::from_micros(1);

impl World {
    /// A world that moves when its drivers reap.
    pub fn new(seed: u64, conditions: Conditions) -> World {
        World(Rc::new(RefCell::new(Inner::new(seed, conditions, false))))
    }

    /// A world that moves when its simulator says so.
    pub fn stepped(seed: u64, conditions: Conditions) -> World {
        World(Rc::new(RefCell::new(Inner::new(seed, conditions, true))))
    }

    /// Starts a process on the machine of this name. The machine's disk is as the last process left it.
    pub fn boot(&self, machine: &str, sizes: Sizes) -> SimDriver {
        SimDriver {
            process: self.0.borrow_mut().boot(machine, sizes),
            world: self.clone(),
            blocks: (0..sizes.blocks).map(|_| Block::new(sizes.block_bytes)).collect(),
            block_bytes: sizes.block_bytes,
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// The time on the wall of every machine.
    pub fn wall(&self) -> WallTime {
        let inner = self.0.borrow();
        WallTime(inner.wall_ahead_ns + inner.now.0)
    }

    /// Sets the wall clock of every machine forward, or back, by so many nanoseconds. The monotonic clock goes on.
    pub fn step_wall(&self, by_ns: i64) {
        let ahead = &mut self.0.borrow_mut().wall_ahead_ns;
        *ahead = ahead.checked_add_signed(by_ns).expect("steps are short beside the years since 1970");
    }

    /// When the next thing happens, if anything will.
    pub fn next_at(&self) -> Option<Instant> {
        self.0.borrow().next_at()
    }

    /// Moves the clock to `to`, with all that happens before.
    pub fn advance(&self, to: Instant) {
        self.0.borrow_mut().advance(to);
    }

    /// Whether a process has something to do now: a real one would not be asleep.
    pub fn is_ready(&self, process: ProcessId) -> bool {
        self.0.borrow().is_ready(process)
    }

    /// When a process that nothing happens to will wake.
    pub fn wakes_at(&self, process: ProcessId) -> Instant {
        let world = self.0.borrow();
        world.processes[process.0].asleep_until.unwrap_or(world.now)
    }

    /// Changes what the world is like.
    pub fn conditions(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.0.borrow_mut().conditions);
    }

    /// Cuts a connection chosen by chance, whatever it carries.
    pub fn cut_any(&self) {
        self.0.borrow_mut().cut_any();
    }

    /// Shows the files of a machine's disk, by name and content, which may be damaged there: what time does to a disk, and
    /// what looks at it from outside.
    pub fn disk(&self, machine: &str, mut each: impl FnMut(&str, &mut [u8])) {
        let world = &mut *self.0.borrow_mut();
        if let Some(machine) = world.machines.iter_mut().find(|m| m.name == machine) {
            machine.each_file(&mut each);
        }
    }

    /// Parts two machines, or joins them again. What is on the wire between them waits.
    pub fn part(&self, a: &str, b: &str, parted: bool) {
        let mut world = self.0.borrow_mut();
        let id = |name| world.machines.iter().position(|m| m.name == name).map(world::MachineId);
        if let (Some(a), Some(b)) = (id(a), id(b)) {
            let pair = (a.min(b), a.max(b));
            if parted {
                world.parted.insert(pair)
            } else {
                world.parted.remove(&pair)
            };
        }
    }

    /// Joins all machines.
    pub fn join_all(&self) {
        self.0.borrow_mut().parted.clear();
    }

    /// Adds what the simulator did or saw to the trace.
    pub fn note(&self, words: &[u64]) {
        self.0.borrow_mut().note(words);
    }

    /// Hash of all that has happened, in order.
    pub fn trace_hash(&self) -> u64 {
        self.0.borrow().trace_hash()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    Free,
    Taken,
    InFlight,
}

/// A block: the page-aligned part of its memory.
struct Block {
    memory: FrameBuf,
    start: usize,
    bytes: usize,
    held: Held,
}

impl Block {
    fn new(bytes: usize) -> Block {
        let mut memory = FrameBuf::new();
        memory.resize(bytes + 4096, 0);
        let start = memory.as_ptr().align_offset(4096);
        Block { memory, start, bytes, held: Held::Free }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

/// A process's hand on its world. Dropping it is the death of the process.
pub struct SimDriver {
    world: World,
    process: ProcessId,
    blocks: Vec<Block>,
    block_bytes: usize,
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        // A world that is borrowed here is unwinding from a failed assertion: leave it as it is.
        if let Ok(mut world) = self.world.0.try_borrow_mut() {
            world.kill(self.process);
        }
    }
}

impl SimDriver {
    /// Which process this is.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Its world.
    pub fn world(&self) -> &World {
        &self.world
    }

    fn take(&mut self, block: BlockId, from: Held, to: Held) {
        let held = &mut self.blocks[block.0 as usize].held;
        assert_eq!(*held, from, "{block:?}");
        *held = to;
    }

    /// Shows a random number of the incoming things, at least one if there is one: a reap need not bring all.
    fn show(&mut self, into: &mut Arrivals) {
        let shared = self.world.clone();
        let world = &mut *shared.0.borrow_mut();
        let waiting = world.process(self.process).inbox.len();
        let count = if waiting == 0 { 0 } else { 1 + world.random.index(waiting) };
        let mut frames = Frames::default();
        for _ in 0..count {
            let incoming = world.process(self.process).inbox.pop_front().expect("counted above");
            self.show_one(world, incoming, into, &mut frames);
        }
        world.note(&[9, self.process.0 as u64, count as u64]);
        frames.settle(into);
    }

    fn show_one(&mut self, world: &mut Inner, incoming: Incoming, into: &mut Arrivals, frames: &mut Frames) {
        let id = |end: EndId| ConnectionId(end as u64);
        let raw = match incoming {
            Incoming::Accepted(listener, connection) => Some(Raw::Accepted(listener, connection)),
            Incoming::Connected(end) => world.is_shown(end).then_some(Raw::Connected(id(end))),
            Incoming::Room(end) => world.is_shown(end).then_some(Raw::Room(id(end))),
            Incoming::Gone(end, reason) => {
                world.last_words(end, reason).map(|reason| Raw::Closed(id(end), reason))
            }
            Incoming::Bytes(end, bytes) => {
                let raw = if world.carries_bytes(end) { Raw::Bytes } else { Raw::Frame };
                let mut take = |span| frames.push(into, |span| raw(id(end), span), span);
                let last = world.split(end, &bytes, &mut take);
                last.map(|reason| Raw::Closed(id(end), reason))
            }
            Incoming::Written(token, block, result) => {
                self.take(block, Held::InFlight, Held::Taken);
                Some(Raw::Written(token, result))
            }
            Incoming::Read(token, block, result) => {
                self.take(block, Held::InFlight, Held::Taken);
                let memory = self.blocks[block.0 as usize].bytes();
                Some(Raw::Read(
                    token,
                    result.map(|bytes| {
                        memory[..bytes.len()].copy_from_slice(&bytes);
                        bytes.len()
                    }),
                ))
            }
            Incoming::Created(token, result) => Some(Raw::Created(token, result)),
            Incoming::Directory(token, result) => Some(Raw::Directory(token, result)),
        };
        into.raw.extend(raw);
    }

    /// Lets the world move until this process has something to see or `until` has come.
    fn sleep(&mut self, until: Instant) {
        let world = &mut *self.world.0.borrow_mut();
        world.advance(world.now + REAP);
        while world.process(self.process).inbox.is_empty() {
            if world.happen(until) {
                continue;
            }
            assert!(until != Instant::NEVER, "a sleep that nothing will ever end");
            return world.advance(until);
        }
    }
}

/// The frames and bytes of one reap, joined in one buffer that the [`Arrivals`] will own.
#[derive(Default)]
struct Frames {
    buffer: FrameBuf,
    /// Index of the event, where its frame starts, and its bytes.
    places: Vec<(usize, usize)>,
}

impl Frames {
    /// Copies what is at `span`, whose memory is the network's.
    fn push(&mut self, into: &mut Arrivals, raw: impl FnOnce(Span) -> Raw, span: Span) {
        self.places.push((into.raw.len(), self.buffer.len()));
        // SAFETY: called from within the framer's `feed`, which says where the frame is now.
        self.buffer.extend_from_slice(unsafe { std::slice::from_raw_parts(span.start, span.bytes) });
        self.buffer.resize(call::frame::padded(self.buffer.len()), 0);
        // The start is filled in when the buffer has stopped growing.
        into.raw.push(raw(Span { start: std::ptr::null(), bytes: span.bytes }));
    }

    fn settle(self, into: &mut Arrivals) {
        let Frames { buffer, places } = self;
        let owner = Arc::new(buffer);
        for (event, at) in places {
            if let Raw::Frame(_, span) | Raw::Bytes(_, span) = &mut into.raw[event] {
                span.start = owner[at..].as_ptr();
            }
        }
        into.keep.push(owner);
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        self.world.now()
    }

    fn wall(&self) -> WallTime {
        self.world.wall()
    }

    fn precise(&self) -> Instant {
        self.world.now()
    }

    fn random(&mut self) -> u64 {
        self.world.0.borrow_mut().process(self.process).random.bits()
    }

    fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.world.0.borrow_mut().listen(self.process, at, false)
    }

    fn local(&self, listener: ListenerId) -> Endpoint {
        self.world.0.borrow().processes[self.process.0].listeners[listener.0 as usize].at.clone()
    }

    fn connect(&mut self, to: &Endpoint) -> ConnectionId {
        self.world.0.borrow_mut().connect(self.process, to, false).expect("frames go everywhere")
    }

    fn send(&mut self, to: ConnectionId, frames: &[u8]) -> Result<(), SendError> {
        self.world.0.borrow_mut().send(self.process, to, &[frames])
    }

    fn send_parts(&mut self, to: ConnectionId, header: &[u8; 64], body: &[u8]) -> Result<(), SendError> {
        self.world.0.borrow_mut().send(self.process, to, &[header, body])
    }

    fn close(&mut self, connection: ConnectionId) {
        self.world.0.borrow_mut().close(self.process, connection);
    }

    fn listen_bytes(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.world.0.borrow_mut().listen(self.process, at, true)
    }

    fn connect_bytes(&mut self, to: &Endpoint) -> io::Result<ConnectionId> {
        self.world.0.borrow_mut().connect(self.process, to, true)
    }

    fn finish(&mut self, connection: ConnectionId) {
        self.world.0.borrow_mut().finish(self.process, connection);
    }

    fn abort(&mut self, connection: ConnectionId) {
        self.world.0.borrow_mut().abort(self.process, connection);
    }

    fn pause(&mut self, connection: ConnectionId) {
        self.world.0.borrow_mut().pause(self.process, connection, true);
    }

    fn resume(&mut self, connection: ConnectionId) {
        self.world.0.borrow_mut().pause(self.process, connection, false);
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.world.0.borrow_mut().close_listener(self.process, listener);
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.world.0.borrow().files(self.process))
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.world.0.borrow_mut().open(self.process, name)
    }

    fn create(&mut self, name: &str, bytes: u64, token: Token) {
        self.world.0.borrow_mut().create(self.process, name, bytes, token);
    }

    fn remove(&mut self, file: FileId, name: &str, token: Token) {
        self.world.0.borrow_mut().remove(self.process, file, name, token);
    }

    fn rename(&mut self, from: &str, to: &str, token: Token) {
        self.world.0.borrow_mut().rename(self.process, from, to, token);
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn take_block(&mut self) -> Option<BlockId> {
        let free = BlockId(self.blocks.iter().position(|block| block.held == Held::Free)? as u32);
        self.take(free, Held::Free, Held::Taken);
        Some(free)
    }

    fn give_block(&mut self, block: BlockId) {
        self.take(block, Held::Taken, Held::Free);
    }

    fn block(&mut self, block: BlockId) -> &mut [u8] {
        let block = &mut self.blocks[block.0 as usize];
        assert_eq!(block.held, Held::Taken, "a block is used by its taker, and not while in flight");
        block.bytes()
    }

    fn write(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.take(block, Held::Taken, Held::InFlight);
        let content = &self.blocks[block.0 as usize].bytes()[..bytes];
        self.world.0.borrow_mut().write(self.process, file, offset, (block, content), token);
    }

    fn read(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.take(block, Held::Taken, Held::InFlight);
        assert!(bytes <= self.block_bytes, "a read fits its block");
        self.world.0.borrow_mut().read(self.process, file, offset, (block, bytes), token);
    }

    fn reap(&mut self, until: Instant, into: &mut Arrivals) {
        into.raw.clear();
        into.keep.clear();
        self.world.0.borrow_mut().flush(self.process);
        if !self.world.0.borrow().stepped {
            self.sleep(until);
        }
        self.show(into);
        let world = &mut *self.world.0.borrow_mut();
        world.process(self.process).asleep_until = into.is_empty().then_some(until);
    }

    fn backends(&self) -> Vec<(String, String)> {
        let all = "simulated: seeded, on one thread";
        ["ring", "network", "disk", "clock"].iter().map(|what| (what.to_string(), all.to_string())).collect()
    }
}

#[cfg(test)]
mod tests;
