//! The queue: what may happen to a call, and when.
//!
//! The files stand in the order in which a call passes: it is submitted, offered and leased, settled; its records go to
//! the log. [`crate::recovery`] makes the queue from the log at the start.

mod submit;
mod offer;
mod settle;
mod history;
mod withdraw;
mod rules;
mod retain;
mod record;
mod park;
mod checkpoint;
mod replay;
mod ask;
mod walk;
mod hold;
mod check;

pub(crate) use history::parts;
pub(crate) use replay::{Found, TURNS_END};

use crate::log::reader::Reader;
use crate::log::writer::Log;
use crate::table::calls::{Calls, NONE};
use crate::table::ended::EndedCalls;
use crate::table::functions::Functions;
use crate::table::histories::Histories;
use crate::table::holders::Holders;
use crate::table::ids::hash;
use crate::table::index::Index;
use crate::table::list::{BY_PLACE, List};
use crate::table::starts::Starts;
use crate::table::store::Store;
use crate::table::timers::{OF_EXPIRIES, Timers};
use crate::words::{CallRef, Counters, Damage, FunctionRef, Origin, record_bytes_max, write_blocks};
use call::frame::FrameBuf;
use call::history::HistoryBuf;
use call::limits::{HEADER_BYTES, Limits};
use call::{CallId, FunctionId, Instant, Status, WallTime};
use std::collections::VecDeque;

/// Verdicts of duplicates that may wait for the disk at once; they are not bounded by the log's own room.
const DUPLICATES_WAITING_MAX: usize = 4096;

/// Something to be told when a group is on disk.
#[derive(Clone, Copy, Debug)]
struct Wait {
    group: u64,
    id: CallId,
    origin: Origin,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Accepted(CallRef),
    Duplicate,
    Ended(FunctionRef, Status),
}

/// The durable queue. See the crate's documentation; [`crate::Recovery`] makes one.
#[derive(Debug)]
pub struct DurableQ {
    now: Instant,
    wall: WallTime,
    calls: Calls,
    ids: Index,
    store: Store,
    functions: Functions,
    /// Calls that wait for their start, or their next try.
    starts: Starts,
    /// Due calls that have not begun, by the end of their time to live.
    expiries: Timers<OF_EXPIRIES>,
    tenants: Vec<rules::Tenant>,
    holders: Holders,
    /// Dead letters, the oldest first.
    dead: List<BY_PLACE>,
    ended: EndedCalls,
    /// Those that are remembered for a set time.
    retained: EndedCalls,
    log: Log,
    reader: Reader,
    /// Calls that may be parked when their group is on disk, in the order of groups.
    parking: VecDeque<(u64, CallRef)>,
    /// Frames that could not be read back, not told yet.
    damages: VecDeque<Damage>,
    /// Bytes of the frames of all calls, and of those in memory.
    lengths: u64,
    resident: u64,
    /// The place of the table that was looked at last for a call to park.
    swept: u32,
    /// In the order of their groups.
    waits: VecDeque<Wait>,
    waits_max: usize,
    /// Calls whose state waits for room in the log, linked by `Progress::backlog`.
    backlog_head: u32,
    backlog_tail: u32,
    /// The next turn to be given out.
    turn: u64,
    /// Leases of this incarnation.
    leases: u32,
    /// The group that begins the next incarnation, when this one's leases are nearly used up.
    next_incarnation: Option<u64>,
    /// Calls accepted and not ended, and those of them that are leased. Dead letters are neither.
    pending: u64,
    leased: u64,
    counters: Counters,
    deliveries_max: u32,
    pressures_max: u16,
    dead_letters_max: u32,
    /// What is known of the attempts of calls that failed.
    histories: Histories,
    /// Where a history is written, and where the body of a record is put together.
    history: HistoryBuf,
    body: FrameBuf,
    record_max: usize,
    segment_bytes: u64,
    /// The log is copied until its oldest segment has this ordinal.
    rewritten_from: u32,
    checkpoint: checkpoint::Checkpoint,
}

impl DurableQ {
    /// An empty queue whose log has not begun. All memory is taken here.
    pub(crate) fn empty(limits: &Limits) -> DurableQ {
        assert!(
            history::HISTORY_ROOM + HEADER_BYTES <= record_bytes_max(limits),
            "limits.pending_bytes_max: a record has room for a history"
        );
        let waits_max = write_blocks(limits) * limits.group_bytes / HEADER_BYTES + DUPLICATES_WAITING_MAX;
        DurableQ {
            now: Instant(0),
            wall: WallTime(0),
            calls: Calls::new(limits.calls_max, limits.functions_max),
            ids: Index::new(limits.calls_max),
            store: Store::new(limits.pending_bytes_max),
            functions: Functions::new(limits.functions_max),
            starts: Starts::new(limits.calls_max),
            expiries: Timers::new(limits.calls_max),
            tenants: vec![rules::Tenant::NOBODY; limits.tenants_max.max(1)],
            holders: Holders::new(limits.cores_max, limits.lease),
            dead: List::EMPTY,
            ended: EndedCalls::new(limits.outcomes_max, limits.pending_bytes_max / 4),
            retained: EndedCalls::new(limits.retained_max, limits.pending_bytes_max / 4),
            log: Log::new(limits),
            reader: Reader::new(limits),
            parking: VecDeque::with_capacity(waits_max),
            damages: VecDeque::new(),
            lengths: 0,
            resident: 0,
            swept: 0,
            waits: VecDeque::with_capacity(waits_max),
            waits_max,
            backlog_head: NONE,
            backlog_tail: NONE,
            turn: 0,
            leases: 0,
            next_incarnation: None,
            pending: 0,
            leased: 0,
            counters: Counters::default(),
            deliveries_max: limits.deliveries_max,
            pressures_max: limits.pressures_max,
            dead_letters_max: u32::try_from(limits.dead_letters_max).unwrap_or(u32::MAX),
            histories: Histories::new(limits.history_bytes_max),
            history: HistoryBuf::default(),
            body: FrameBuf::with_capacity(record_bytes_max(limits)),
            record_max: record_bytes_max(limits),
            segment_bytes: limits.segment_bytes,
            rewritten_from: 0,
            checkpoint: checkpoint::Checkpoint::new(limits),
        }
    }

    /// What time it is. Once per round, before anything else: calls whose time has come are due from here on.
    pub fn advance(&mut self, now: Instant, wall: WallTime) {
        (self.now, self.wall) = (now, wall);
        self.starts.advance(&mut self.calls, wall.0);
        while let Some(at) = self.starts.pop(&mut self.calls, wall.0) {
            self.functions[self.calls[at].function()].scheduled -= 1;
            self.make_due(at);
        }
    }

    /// Until when nothing happens here by itself: the next start time or retry, the next silent holder, the next try to
    /// make or remove a segment. [`Instant::NEVER`] if nothing is to come.
    pub fn next_wake(&self) -> Instant {
        let start =
            self.starts.first().map_or(Instant::NEVER, |when| self.now + WallTime(when).since(self.wall));
        let end =
            self.expiries.first().map_or(Instant::NEVER, |when| self.now + WallTime(when).since(self.wall));
        start.min(end).min(self.holders.check_at()).min(self.log.segments.again_at())
    }

    /// The number of a function, given now if it has none. `None` if `limits.functions_max` are known already.
    pub fn intern(&mut self, function: FunctionId) -> Option<FunctionRef> {
        self.functions.intern(function)
    }

    /// The number of a function, if it has one.
    pub fn function(&self, function: FunctionId) -> Option<FunctionRef> {
        self.functions.find(function)
    }

    /// The function of a number.
    pub fn function_id(&self, function: FunctionRef) -> FunctionId {
        self.functions[function].id
    }

    /// How many functions have numbers (those of calls found in the log, and those interned since).
    pub fn functions(&self) -> u32 {
        self.functions.len() as u32
    }

    /// The number of this incarnation; one more at each start.
    pub fn incarnation(&self) -> u32 {
        self.log.incarnation
    }

    /// The log, for recovery.
    pub(crate) fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    /// Reads what the calls that frames speak of will be looked up by, before they are handled one by one: a lookup
    /// alone waits for memory, many at once wait hardly longer than one. Decides nothing.
    pub fn glimpse(&self, calls: &[CallId]) {
        let mut seen = 0;
        for (n, id) in calls.iter().enumerate() {
            seen ^= self.ids.glimpse(hash(id.0)) ^ self.ended.glimpse(*id);
            seen ^= self.ended.glimpse_oldest(n) ^ self.calls.glimpse_free(n);
        }
        for id in calls {
            let at = CallRef(self.ids.glimpse(hash(id.0)));
            seen ^= self.calls.get(at).map_or(0, |call| call.offset) ^ self.ids.glimpse_next(at.0);
        }
        std::hint::black_box(seen);
    }

    /// The pending call or dead letter of an id.
    fn held(&self, id: CallId) -> Option<CallRef> {
        self.ids.find(hash(id.0), |at| self.calls[CallRef(at)].id == id).map(CallRef)
    }

    /// A call is found by its id from now on.
    fn index(&mut self, at: CallRef) {
        let calls = &self.calls;
        self.ids.insert(hash(calls[at].id.0), at.0, |other| hash(calls[CallRef(other)].id.0));
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Up to which group everything was told that waited for it.
    fn told(&self) -> u64 {
        let durable = self.log.durable();
        self.waits.front().map_or(durable, |wait| durable.min(wait.group.saturating_sub(1)))
    }

    fn wait(&mut self, group: u64, id: CallId, origin: Origin, what: What) {
        // In the order of groups: what is behind another wait is not told before it anyway.
        let group = self.waits.back().map_or(group, |last| group.max(last.group));
        self.waits.push_back(Wait { group, id, origin, what });
    }

    /// Copies a frame into memory, in the place of old outcomes if there is no other.
    fn keep(&mut self, frame: &[u8]) -> Option<crate::table::store::Extent> {
        loop {
            if let Some(extent) = self.store.put(frame) {
                return Some(extent);
            }
            let told = self.told();
            if !self.ended.drop_oldest_outcome(&mut self.store, told)
                && !self.retained.drop_oldest_outcome(&mut self.store, told)
            {
                return None;
            }
        }
    }
}
