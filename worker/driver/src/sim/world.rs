//! The inside of a world: clock, agenda, processes and the trace hash. The network and the disks are in the
//! modules beside this one, as further methods of [`Inner`].

use super::disk::Machine;
use super::network::{End, EndId};
use super::random::Random;
use super::{Conditions, Sizes};
use crate::seam::{BlockId, Closed, ConnectionId, Endpoint, FileId, ListenerId, Token};
use call::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A simulated process: an index into [`Inner::processes`]; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ProcessId(pub(super) usize);

/// A simulated machine: an index into [`Inner::machines`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct MachineId(pub usize);

/// What is going to happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happening {
    /// A wish to connect reaches its listener, or nobody.
    Syn(EndId),
    /// The next thing on the wire towards this end arrives.
    Arrive(EndId),
    /// This end notices that its connection broke.
    Break(EndId),
    /// A disk operation ends.
    Disk(MachineId, u64),
}

/// What a process will see at its next reap.
#[derive(Debug)]
pub(super) enum Incoming {
    Accepted(ListenerId, ConnectionId),
    Connected(EndId),
    Bytes(EndId, Vec<u8>),
    Room(EndId),
    Gone(EndId, Closed),
    Written(Token, BlockId, Result<(), i32>),
    Read(Token, BlockId, Result<Vec<u8>, i32>),
    Created(Token, Result<FileId, i32>),
    Directory(Token, Result<(), i32>),
}

/// A listener of a process.
#[derive(Clone, Debug)]
pub(super) struct Listening {
    pub at: Endpoint,
    /// Its connections carry bytes, not frames.
    pub bytes: bool,
    pub closed: bool,
}

pub(super) struct Process {
    pub machine: MachineId,
    pub alive: bool,
    pub sizes: Sizes,
    pub random: Random,
    /// Arrived, not reaped.
    pub inbox: VecDeque<Incoming>,
    /// By [`ListenerId`].
    pub listeners: Vec<Listening>,
    /// By [`FileId`]: index of the machine's file, `None` when closed.
    pub files: Vec<Option<usize>>,
    /// Connections with bytes that no reap has handed to the network yet.
    pub unflushed: Vec<EndId>,
    /// What the last reap would have slept until; `None` if it brought something.
    pub asleep_until: Option<Instant>,
}

/// FNV-1a over words instead of bytes: not a good hash for tables, a good one for "were these two runs the same".
struct Trace(u64);

impl Trace {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}

pub(super) struct Inner {
    pub now: Instant,
    /// How far the wall clock is ahead of `now`, ns.
    pub wall_ahead_ns: u64,
    pub random: Random,
    pub conditions: Conditions,
    /// A simulator steps this world; a reap does not.
    pub stepped: bool,
    pub processes: Vec<Process>,
    pub machines: Vec<Machine>,
    pub ends: Vec<End>,
    /// Pairs of machines that cannot reach each other, the smaller first.
    pub parted: BTreeSet<(MachineId, MachineId)>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    trace: Trace,
}

/// A world begins some time after its hosts did.
const FIRST_NS: u64 = 1_000_000_000;
/// Wall-clock time of a world's monotonic zero: 2026-01-01.
const WALL_ZERO_NS: u64 = 1_767_225_600_000_000_000;

impl Inner {
    pub fn new(seed: u64, conditions: Conditions, stepped: bool) -> Inner {
        Inner {
            now: Instant(FIRST_NS),
            wall_ahead_ns: WALL_ZERO_NS,
            random: Random::new(seed),
            conditions,
            stepped,
            processes: Vec::new(),
            machines: Vec::new(),
            ends: Vec::new(),
            parted: BTreeSet::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            trace: Trace(0xcbf2_9ce4_8422_2325),
        }
    }

    /// Starts a process on a machine, which is made with an empty disk if there is none of the name.
    pub fn boot(&mut self, machine: &str, sizes: Sizes) -> ProcessId {
        let found = self.machines.iter().position(|m| m.name == machine);
        let machine = MachineId(found.unwrap_or_else(|| {
            self.machines.push(Machine::new(machine));
            self.machines.len() - 1
        }));
        let process = Process {
            machine,
            alive: true,
            sizes,
            random: self.random.fork(),
            inbox: VecDeque::new(),
            listeners: Vec::new(),
            files: Vec::new(),
            unflushed: Vec::new(),
            asleep_until: None,
        };
        self.processes.push(process);
        let id = ProcessId(self.processes.len() - 1);
        self.note(&[1, id.0 as u64]);
        id
    }

    /// The process is gone, from one instruction to the next.
    pub fn kill(&mut self, id: ProcessId) {
        self.note(&[2, id.0 as u64]);
        let process = &mut self.processes[id.0];
        process.alive = false;
        process.inbox.clear();
        process.listeners.clear();
        process.unflushed.clear();
        self.lose_connections(id);
        self.lose_writes(id);
    }

    pub fn process(&mut self, id: ProcessId) -> &mut Process {
        &mut self.processes[id.0]
    }

    /// Puts something before a process, if it lives.
    pub fn tell(&mut self, id: ProcessId, incoming: Incoming) {
        let process = &mut self.processes[id.0];
        if process.alive {
            process.inbox.push_back(incoming);
        }
    }

    pub fn after(&mut self, wait: Duration, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + wait, self.sequence), happening);
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.agenda.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets the next thing happen, if it is due by `until`. Says whether it did.
    pub fn happen(&mut self, until: Instant) -> bool {
        if self.next_at().is_none_or(|at| at > until) {
            return false;
        }
        let ((at, sequence), happening) = self.agenda.pop_first().expect("looked at above");
        self.now = self.now.max(at);
        self.note(&[3, self.now.0, sequence]);
        match happening {
            Happening::Syn(end) => self.syn(end),
            Happening::Arrive(end) => self.arrive(end),
            Happening::Break(end) => self.break_end(end),
            Happening::Disk(machine, flight) => self.disk_done(machine, flight),
        }
        true
    }

    /// Moves the clock to `to`, with all that happens before.
    pub fn advance(&mut self, to: Instant) {
        while self.happen(to) {}
        self.now = self.now.max(to);
    }

    /// Whether a real process would be running now, not sleeping in its reap.
    pub fn is_ready(&self, id: ProcessId) -> bool {
        let process = &self.processes[id.0];
        let due = process.asleep_until.is_none_or(|until| until <= self.now);
        process.alive && (due || !process.inbox.is_empty() || !process.unflushed.is_empty())
    }

    pub fn note(&mut self, words: &[u64]) {
        words.iter().for_each(|word| self.trace.word(*word));
    }

    pub fn note_bytes(&mut self, bytes: &[u8]) {
        self.trace.word(bytes.len() as u64);
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.trace.word(u64::from_le_bytes(padded));
        }
    }

    pub fn trace_hash(&self) -> u64 {
        self.trace.0
    }
}
