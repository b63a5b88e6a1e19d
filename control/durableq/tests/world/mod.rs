//! A queue on a disk in memory, with a ledger of its own beside it: what the tests of this crate share.
#![allow(dead_code)]

mod crash;
mod disk;
mod history;
mod life;

use call::body::{Arguments, Reply, Submit, append_outcome, append_submit};
use call::frame::FrameBuf;
use call::frame::flag::{EXPIRES, KEYED};
use call::function::RetrySpec;
use call::limits::Limits;
use call::{CallId, Frame, FunctionId, Header, Instant, Kind, Status, Usage, VerdictCode, WallTime};
use durableq::{
    Backlog, Blocks, CallRef, Cancel, Defaults, DurableQ, Event, Fate, FunctionRef, HolderRef, LogOp,
    NotLeased, Origin, Recovery, Rules, Settled, State, block_count,
};
use std::collections::{BTreeMap, BTreeSet};

pub use disk::Disk;
use disk::{Flight, Read, Relink};
pub use history::Tried;

pub const SECTOR: usize = 512;
pub const DEFAULTS: Defaults = Defaults { criticality: 100, deadline_ns: 1_000_000 };
pub const RETRY: RetrySpec =
    RetrySpec { attempts: 3, backoff_ms: 1, backoff_max_ms: 10, budget_percent: 0, finals: Vec::new() };
pub const ENOSPC: i32 = 28;
/// Of the log.
pub const KEY: u64 = 0x6b65_79ab_cdef_0123;

/// Small enough that every limit is met within a few hundred operations.
pub fn limits() -> Limits {
    Limits {
        functions_max: 4,
        calls_max: 48,
        pending_bytes_max: 512 << 10,
        outcomes_max: 24,
        retained_max: 512,
        dead_letters_max: 6,
        history_bytes_max: 512 << 10,
        cores_max: 3,
        segment_bytes: 64 << 10,
        group_bytes: 8 << 10,
        groups_in_flight: 3,
        deliveries_max: 4,
        ..Limits::small()
    }
}

/// Blocks of the log, aligned as the driver's are.
pub struct Memory(pub Vec<FrameBuf>);

impl Memory {
    pub fn new(limits: &Limits) -> Memory {
        let block = || {
            let mut block = FrameBuf::new();
            // Not zero: what is not written must not be taken for something.
            block.resize(limits.group_bytes, 0xa5);
            block
        };
        Memory((0..block_count(limits)).map(|_| block()).collect())
    }
}

impl Blocks for Memory {
    fn block(&mut self, number: u32) -> &mut [u8] {
        &mut self.0[number as usize]
    }
}

/// Small pseudo-random numbers (splitmix64), for choices inside one operation.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        call::random::splitmix64(&mut self.0)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What the ledger knows of a call, independently of the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub frame: Vec<u8>,
    /// When it came in.
    pub came: u64,
    /// How the call of this id ended that was forgotten when this one came in. What is still to be told of it is told
    /// before the verdict of this one.
    pub earlier: Option<Status>,
    /// Its client was told that it is on disk.
    pub accepted: bool,
    /// The queue was told that it ended.
    pub ended: bool,
    /// The client was told that it ended.
    pub told_end: bool,
    pub dead: bool,
    /// How it ended, as far as the queue said.
    pub status: Option<Status>,
    /// It was cancelled, and has ended or must with its lease.
    pub cancel: bool,
    /// That is on disk.
    pub cancel_on_disk: bool,
    /// It was leased, or redriven: it does not expire any more.
    pub begun: bool,
    /// The log does not know of all its leases: it may expire though it has begun.
    pub crashed: bool,
    /// It was redriven.
    pub lasting: bool,
    /// It is remembered until then at least; set when it ended.
    pub until: u64,
    pub of: usize,
    pub executions: u32,
    /// Its attempts that did not end well: as they are, and as they were since all was on disk.
    pub histories: Vec<Vec<Tried>>,
}

/// See the module.
pub struct World {
    pub limits: Limits,
    pub queue: DurableQ,
    pub memory: Memory,
    pub disk: Disk,
    pub ledger: BTreeMap<CallId, Entry>,
    pub now: u64,
    pub random: Random,
    pub offered: Vec<CallRef>,
    /// Those of them that were cancelled meanwhile.
    pub husks: BTreeSet<CallRef>,
    pub paused: BTreeSet<FunctionId>,
    pub rules: [Rules; 3],
    pub tenant_bound: Backlog,
    /// A group of this incarnation is on disk.
    pub live: bool,
    pub leased: Vec<(Header, HolderRef)>,
    pub epochs: BTreeSet<u64>,
    /// When each lease began, by its epoch.
    pub began: BTreeMap<u64, u64>,
    /// Outcomes of leases that were lost: to be fenced.
    pub stale: Vec<Header>,
    pub refused: u64,
    pub crashes: u32,
    next_call: u128,
}

pub fn function(number: usize) -> FunctionId {
    FunctionId::of("test", &format!("f{number}"))
}

/// The tenant of functions with rules.
pub const TENANT: u16 = 1;

/// The same bytes at an address where a frame may stand.
pub fn aligned(bytes: &[u8]) -> FrameBuf {
    let mut out = FrameBuf::new();
    out.extend_from_slice(bytes);
    out
}

pub fn frame(bytes: &[u8]) -> Frame<'_> {
    Frame::parse(bytes).expect("a frame").0
}

impl Entry {
    pub fn new(frame: &[u8], of: usize, came: u64) -> Entry {
        let (accepted, ended, told_end, dead) = (false, false, false, false);
        let (status, cancel, cancel_on_disk, executions) = (None, false, false, 0);
        let frame = frame.to_vec();
        let (begun, crashed, lasting) = (false, false, false);
        Entry {
            frame,
            came,
            earlier: None,
            accepted,
            ended,
            told_end,
            dead,
            status,
            cancel,
            cancel_on_disk,
            begun,
            crashed,
            lasting,
            until: 0,
            of,
            executions,
            histories: vec![Vec::new()],
        }
    }
}

impl World {
    pub fn new(limits: Limits, seed: u64) -> World {
        let (now, wall) = (Instant(1), WallTime(1));
        let mut world = World {
            queue: Recovery::new(&limits).finish(now, wall, KEY).expect("an empty log"),
            memory: Memory::new(&limits),
            limits,
            disk: Disk::default(),
            ledger: BTreeMap::new(),
            now: 1,
            random: Random(seed),
            offered: Vec::new(),
            husks: BTreeSet::new(),
            paused: BTreeSet::new(),
            rules: [Rules::default(); 3],
            tenant_bound: Backlog::UNBOUNDED,
            live: false,
            leased: Vec::new(),
            epochs: BTreeSet::new(),
            began: BTreeMap::new(),
            stale: Vec::new(),
            refused: 0,
            crashes: 0,
            next_call: 1,
        };
        world.intern();
        world
    }

    fn intern(&mut self) {
        for number in 0..3 {
            let at = self.queue.intern(function(number)).expect("room for the functions of the tests");
            // As the node says it after each start.
            self.queue.pause(at, self.paused.contains(&function(number)));
            self.queue.rule(at, self.rules[number]);
        }
        self.queue.bound_tenant(TENANT, self.tenant_bound);
    }

    pub fn submit_bytes(&self, id: CallId, of: usize, start_at: u64, payload: usize, want: bool) -> FrameBuf {
        let payload: Vec<u8> = (0..payload).map(|at| (at as u8) ^ (id.0 as u8)).collect();
        let arguments = Arguments { payload: &payload, attributes: &[] };
        let (function, start_at) = (function(of), WallTime(start_at));
        let (deadline, criticality) = (WallTime(0), 0);
        let submit = Submit {
            call: id,
            function,
            start_at,
            deadline,
            criticality,
            want_outcome: want,
            // What it names does not matter here, that it is known does.
            blob: id.0 % 4 == 3,
            arguments,
            ..Submit::default()
        };
        let mut out = FrameBuf::new();
        append_submit(&mut out, &submit).expect("small arguments");
        out
    }

    /// Submits a new call; its id.
    pub fn submit(&mut self, of: usize, start_at: u64, payload: usize, want: bool) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        let bytes = self.submit_bytes(id, of, start_at, payload, want);
        self.submit_frame(&bytes, of);
        id
    }

    /// Submits a call that must begin by `deadline`.
    pub fn submit_expiring(&mut self, of: usize, start_at: u64, deadline: u64) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        let plain = self.submit_bytes(id, of, start_at, 8, false);
        let (header, body) = (frame(&plain).header(), frame(&plain).body());
        let mut out = FrameBuf::new();
        let header = Header { flags: header.flags | EXPIRES | KEYED, deadline, ..header };
        call::frame::append(&mut out, &header, body);
        self.submit_frame(&out, of);
        id
    }

    pub fn bound_tenant(&mut self, bound: Backlog) {
        self.tenant_bound = bound;
        self.queue.bound_tenant(TENANT, bound);
    }

    pub fn submit_frame(&mut self, bytes: &FrameBuf, of: usize) {
        let frame = frame(bytes);
        let at = self.queue.function(function(of)).expect("interned");
        let known = self.queue.find(frame.call()).is_some();
        let fits = self.fits(of, frame.bytes().len());
        let judged = self.queue.submit(&mut self.memory, frame, at, Origin(7));
        assert!(fits || known || judged.is_err(), "beyond the backlog");
        assert!(judged != Err(VerdictCode::Backlog) || !fits, "there was room in the backlog");
        match judged {
            Ok(()) => {
                let entry = Entry::new(frame.bytes(), of, self.now);
                let before = self.ledger.entry(frame.call()).or_insert(entry);
                assert_eq!(before.frame, frame.bytes());
            }
            Err(code) => {
                assert!(code.is_transient(), "{code:?}");
                self.refused += 1;
            }
        }
    }

    pub fn advance(&mut self, by: u64) {
        self.now += by;
        self.queue.advance(Instant(self.now), WallTime(self.now));
        self.expire();
    }

    /// When a call that has not begun must have ended, by the model.
    fn expires_at(&self, entry: &Entry) -> Option<u64> {
        let submit = self::frame(&aligned(&entry.frame)).header();
        let own = (submit.flags & EXPIRES != 0).then_some(submit.deadline);
        let rule = self.rules[entry.of].expires_ns;
        // No call starts before it comes in. After a crash the birth of its id stands for that, which is zero in tests.
        let start = if entry.crashed { submit.stamp } else { submit.stamp.max(entry.came) };
        let of_function = (rule > 0).then(|| start.saturating_add(rule));
        own.into_iter().chain(of_function).min()
    }

    /// What expired, by the queue; it must be what expires by the model.
    pub fn expire(&mut self) {
        while let Some(expired) = self.queue.next_expired(&mut self.memory) {
            let entry = &self.ledger[&expired.id];
            let due = self.expires_at(entry);
            // One that the scheduler held keeps the time of the rules of before.
            let held = self.offered.iter().any(|at| self.gone(*at, expired.id));
            let is_time = held || due.is_some_and(|due| due <= self.now);
            assert!(is_time, "{} expired before its time", expired.id);
            assert!(!entry.lasting && (!entry.begun || entry.crashed), "{} had begun", expired.id);
            assert!(!entry.ended, "{} had ended", expired.id);
            assert_eq!(expired.dead, self.rules[entry.of].expired_dead);
            if let Some(at) = self.offered.iter().copied().find(|at| self.gone(*at, expired.id)) {
                self.husks.insert(at);
            }
            let entry = self.ledger.get_mut(&expired.id).expect("submitted");
            (entry.ended, entry.dead, entry.status) = (true, expired.dead, Some(Status::Expired));
            self.retain(expired.id);
        }
        for (id, entry) in self
            .ledger
            .iter()
            .filter(|(_, entry)| self.live && !entry.crashed && !entry.lasting && !entry.begun)
        {
            let Some(due) = self.expires_at(entry).filter(|due| *due <= self.now) else { continue };
            let view = self.queue.find(*id);
            let waits = view.is_some_and(|view| view.state == State::Due && view.deliveries == 0);
            assert!(!waits, "{id} waits at {} and should have expired at {due}", self.now);
        }
    }

    /// Whether an offered number is that of a call which has just ended.
    fn gone(&self, at: CallRef, id: CallId) -> bool {
        !self.husks.contains(&at) && self.queue.view(at).is_some_and(|view| view.id == id)
    }

    /// Whether a function and its tenant may have another call, by the model.
    fn fits(&self, of: usize, bytes: usize) -> bool {
        let pending = |of: usize| {
            let is_pending = |id: &CallId| {
                let state = self.queue.find(*id).map(|view| view.state);
                !matches!(state, None | Some(State::Dead | State::Done))
            };
            let all = self.ledger.iter().filter(|(id, entry)| entry.of == of && is_pending(id));
            all.fold((0, 0), |(calls, sum), (_, entry)| (calls + 1, sum + entry.frame.len() as u64))
        };
        let within = |(calls, sum): (u64, u64), bound: Backlog| {
            calls < bound.calls && sum.saturating_add(bytes as u64) <= bound.bytes
        };
        let of_tenant = (0..3).filter(|of| self.rules[*of].tenant == TENANT).map(pending);
        let tenant = of_tenant.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        within(pending(of), self.rules[of].backlog)
            && (self.rules[of].tenant != TENANT || within(tenant, self.tenant_bound))
    }

    /// Says what holds for a function's calls, and says it again after each start.
    pub fn rule(&mut self, of: usize, rules: Rules) {
        self.rules[of] = rules;
        let at = self.queue.function(function(of)).expect("interned");
        self.queue.rule(at, rules);
        self.retain_by_other_rules(of);
    }

    /// Gives everything that the log wants to the disk.
    pub fn flush(&mut self) {
        while let Some(op) = self.queue.next_op(&mut self.memory) {
            match op {
                LogOp::Create { segment, bytes } => self.disk.creating.push((segment, bytes as usize)),
                LogOp::Write { segment, offset, block, bytes, group } => {
                    let bytes = self.memory.block(block)[..bytes].to_vec();
                    let offset = offset as usize;
                    assert!(offset + bytes.len() <= self.disk.files[&segment].len(), "inside the segment");
                    self.disk.flights.push(Flight { segment, offset, bytes, group });
                }
                LogOp::Recycle { from, segment } => {
                    self.disk.change(Relink::Rename { from, to: segment });
                }
                LogOp::Read { segment, offset, block, bytes, read } => {
                    assert!(self.disk.files.contains_key(&segment), "what is read is there");
                    let offset = offset as usize;
                    self.disk.reads.push(Read { segment, offset, bytes, block, read });
                }
                LogOp::Remove { segment } => self.disk.change(Relink::Remove(segment)),
            }
        }
    }

    /// Completes one thing that the disk has to do, by choice of `pick`. `false` if there is none.
    pub fn disk_step(&mut self, pick: usize) -> bool {
        if let Some((segment, bytes)) = self.disk.creating.pop() {
            if self.disk.full {
                self.queue.created(segment, Err(ENOSPC));
            } else {
                assert!(self.disk.files.insert(segment, vec![0; bytes]).is_none(), "a number is used once");
                self.queue.created(segment, Ok(()));
            }
            return true;
        }
        // Not always before writes, which may overtake it.
        if self.disk.relinking.is_some() && (pick.is_multiple_of(2) || self.disk.flights.is_empty()) {
            self.relink();
            return true;
        }
        if !self.disk.reads.is_empty() && (pick.is_multiple_of(3) || self.disk.flights.is_empty()) {
            self.read(pick);
            return true;
        }
        if self.disk.flights.is_empty() {
            return false;
        }
        let flight = self.disk.flights.swap_remove(pick % self.disk.flights.len());
        if !self.disk.lies {
            let file = self.disk.files.get_mut(&flight.segment).expect("the segment is there");
            file[flight.offset..flight.offset + flight.bytes.len()].copy_from_slice(&flight.bytes);
        }
        self.queue.written(flight.group, Ok(()));
        self.live |= self.disk.flights.is_empty();
        true
    }

    fn read(&mut self, pick: usize) {
        let Read { segment, offset, bytes, block, read } =
            self.disk.reads.swap_remove(pick % self.disk.reads.len());
        if self.disk.unreadable > 0 {
            self.disk.unreadable -= 1;
            self.queue.read(&mut self.memory, read, Err(5));
            while let Some(damage) = self.queue.next_damage() {
                assert_eq!(damage.errno, Some(5));
                if !self.ledger[&damage.call].dead {
                    self.note(damage.call, Fate::Dead, Status::Damaged);
                }
            }
            return;
        }
        let file = &self.disk.files[&segment];
        let found = &file[offset..(offset + bytes).min(file.len())];
        self.memory.block(block)[..found.len()].copy_from_slice(found);
        self.queue.read(&mut self.memory, read, Ok(found.len()));
    }

    fn relink(&mut self) {
        let change = self.disk.relinking.take().expect("one is under way");
        match change {
            Relink::Rename { to, .. } if self.disk.no_rename => self.queue.created(to, Err(22)),
            Relink::Rename { to, .. } => {
                self.disk.apply_change(change);
                self.queue.created(to, Ok(()));
            }
            Relink::Remove(segment) => {
                self.disk.apply_change(change);
                self.queue.removed(segment, Ok(()));
            }
        }
    }

    /// One write fails, and is on the disk in part.
    pub fn disk_error(&mut self) -> bool {
        let Some(flight) = self.disk.flights.pop() else { return false };
        let group = flight.group;
        let mut random = self.random;
        self.disk.tear(&mut random, &flight);
        self.queue.written(group, Err(5));
        self.live = false;
        true
    }

    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.queue.next_event() {
            match event {
                Event::Verdict { call, code: VerdictCode::Accepted, .. } => {
                    self.ledger.get_mut(&call).expect("submitted").accepted = true;
                }
                Event::Verdict { call, code: VerdictCode::Duplicate, .. } => {
                    let entry = &self.ledger[&call];
                    assert!(entry.accepted || entry.earlier.is_some(), "{call} is a duplicate of nothing");
                }
                Event::Verdict { .. } => assert!(self.queue.failed().is_some()),
                Event::Ended { call, status, .. } => {
                    let entry = self.ledger.get_mut(&call).expect("submitted");
                    if !entry.accepted && entry.earlier.is_some() {
                        assert_eq!(Some(status), entry.earlier, "how {call} ended before");
                        events.push(event);
                        continue;
                    }
                    assert!(entry.accepted, "an end is told after the verdict");
                    assert!(entry.ended, "an end that never was");
                    entry.told_end = true;
                    assert_eq!(Some(status), entry.status, "how {call} ended");
                }
            }
            events.push(event);
        }
        events
    }

    /// Everything reaches the disk, and everyone hears of it.
    pub fn settle_disk(&mut self) {
        loop {
            self.flush();
            self.events();
            if !self.disk_step(0) {
                break;
            }
        }
        self.events();
        if self.queue.is_settled() {
            self.ledger.values_mut().for_each(|entry| entry.cancel_on_disk = entry.cancel);
            self.histories_on_disk();
        }
    }
}

pub fn lease_of(header: &Header) -> Header {
    Header { kind: Kind::Lease, ..*header }
}

pub fn refs(queue: &DurableQ) -> Vec<FunctionRef> {
    (0..queue.functions()).map(FunctionRef).collect()
}

/// A frame with memory of its own, aligned.
pub struct Aligned(FrameBuf);

impl Aligned {
    pub fn frame(&self) -> Frame<'_> {
        frame(&self.0)
    }
}

pub fn frame_of(bytes: &[u8]) -> Aligned {
    let mut out = FrameBuf::new();
    out.extend_from_slice(bytes);
    Aligned(out)
}
