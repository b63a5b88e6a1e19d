//! What goes into the durable queue and what comes out of it.

use call::limits::Limits;
use call::{CallId, CallKey, Epoch, Frame, FunctionId, History, Label, Status, VerdictCode, WallTime};

/// A pending call or dead letter: its place in the queue's table, below `limits.calls_max`.
///
/// The number may name another call as soon as this one has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallRef(pub u32);

/// A function the queue knows: a dense number below `limits.functions_max`, given by [`crate::DurableQ::intern`] and
/// never taken back, so that the node and the scheduler can index their tables with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionRef(pub u32);

/// Who holds leases: the node's number for a core's session, below `limits.cores_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HolderRef(pub u16);

/// Where a verdict or an outcome goes: the node's own name for a client's connection, returned as given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Origin(pub u64);

impl Origin {
    /// Nobody waits.
    pub const NOBODY: Origin = Origin(0);
}

/// The memory of the log's blocks, which belongs to the driver.
///
/// The node takes [`block_count`] blocks at the start and lends them with each call that may append to the log, as a
/// small struct of a driver and its list of blocks. Only blocks without an operation in flight are asked for.
pub trait Blocks {
    /// The memory of the log's block of this number, at least `limits.group_bytes` long and 16-aligned.
    fn block(&mut self, number: u32) -> &mut [u8];
}

/// Bytes of the largest record of the log: a submit with the largest arguments and attributes, or the outcome with the
/// largest output in its envelope. Where little memory is given to calls, a quarter of it.
pub fn record_bytes_max(limits: &Limits) -> usize {
    use call::limits::{ARGUMENTS_BYTES_MAX, ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, HEADER_BYTES};
    let largest =
        ARGUMENTS_BYTES_MAX + ATTRIBUTES_MAX * (2 * ATTRIBUTE_BYTES_MAX + 32) + 2 * HEADER_BYTES + 1024;
    largest.min(limits.pending_bytes_max / 4)
}

/// How many blocks of `limits.group_bytes` the log needs: those in flight, one that is open, and enough for a dead
/// letter that is copied, which is a largest submit and a largest outcome, each taken in one piece from a new group on;
/// and those that are read into.
pub fn block_count(limits: &Limits) -> usize {
    write_blocks(limits) + limits.reads_in_flight
}

/// The blocks from which groups are written; those for reads come behind them.
pub(crate) fn write_blocks(limits: &Limits) -> usize {
    let room = limits.group_bytes - crate::log::GROUP_HEADER_BYTES;
    limits.groups_in_flight + 1 + 2 * record_bytes_max(limits).div_ceil(room) + 1
}

/// What the log wants from the disk. The node executes each at once and in order; completions come back by
/// [`crate::DurableQ::created`] and [`crate::DurableQ::written`], in any order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogOp {
    /// Make a segment ([`crate::log::segment_name`]), pre-written with zeros. A number is never used twice.
    Create {
        /// Its number.
        segment: u64,
        /// Its size.
        bytes: u64,
    },
    /// Give a segment that is not needed any more another number, and use it again as it is: stale groups behind new
    /// ones are known by their headers, and nothing has to be written before it takes groups. Completes as a
    /// [`LogOp::Create`] does, when the directory is on disk so.
    Recycle {
        /// Its number so far.
        from: u64,
        /// Its number from now on.
        segment: u64,
    },
    /// Write the first `bytes` of a block; on disk when it completes.
    Write {
        /// To this segment.
        segment: u64,
        /// At this offset, a multiple of 4096.
        offset: u64,
        /// From this block of [`Blocks`].
        block: u32,
        /// A multiple of 4096.
        bytes: usize,
        /// Names the write in [`crate::DurableQ::written`].
        group: u64,
    },
    /// Read into a block. Completes by [`crate::DurableQ::read`]. The segment stays until then.
    Read {
        /// From this segment.
        segment: u64,
        /// At this offset, a multiple of 4096.
        offset: u64,
        /// Into this block of [`Blocks`].
        block: u32,
        /// A multiple of 4096. Fewer come if the file ends before.
        bytes: usize,
        /// Names the read in [`crate::DurableQ::read`], below `limits.reads_in_flight`.
        read: u32,
    },
    /// Remove a segment: every call in it has ended, on disk, or stands in a later one. Completes by
    /// [`crate::DurableQ::removed`] when the directory is on disk so.
    Remove {
        /// Its number.
        segment: u64,
    },
}

/// A call whose frame could not be read back from the disk. It is a dead letter now, [`Status::Damaged`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The call: what its client wrote is lost.
    pub call: CallId,
    /// Its function.
    pub function: FunctionId,
    /// The segment that holds its record.
    pub segment: u64,
    /// Where in the segment the record begins.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: usize,
    /// What the disk said; `None` if it gave other bytes than were written.
    pub errno: Option<i32>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = crate::log::segment_name(self.segment);
        let Damage { call, bytes, offset, .. } = self;
        write!(f, "the log is damaged: call {call} is lost, its {bytes} bytes at byte {offset} of {name} ")?;
        match self.errno {
            Some(errno) => write!(f, "cannot be read (errno {errno})")?,
            None => f.write_str("are not those that were written")?,
        }
        f.write_str("; it is a dead letter now (damaged)")
    }
}

/// What the node must tell someone, because it is on disk now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The verdict of a submit that [`crate::DurableQ::submit`] took.
    Verdict {
        /// As given with the submit.
        origin: Origin,
        /// The call.
        call: CallId,
        /// [`VerdictCode::Accepted`], [`VerdictCode::Duplicate`] or [`VerdictCode::DiskFailed`].
        code: VerdictCode,
    },
    /// A call has ended for good and someone wanted to know. [`crate::DurableQ::outcome`] has the frame, until the
    /// queue is next changed.
    Ended {
        /// Who wanted to know: the connection of the last submit of this id with `WANT_OUTCOME`.
        origin: Origin,
        /// The call.
        call: CallId,
        /// Its function.
        function: FunctionId,
        /// [`Status::Ok`], or why it is a dead letter.
        status: Status,
    },
}

/// What a function says about calls that do not say it themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// For calls with criticality 0.
    pub criticality: u8,
    /// For calls without a deadline: so long after the start time, ns.
    pub deadline_ns: u64,
}

/// Calls of a function or a tenant that may be pending at once, dead letters excluded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backlog {
    /// How many.
    pub calls: u64,
    /// Bytes of their submit frames.
    pub bytes: u64,
}

impl Backlog {
    /// As many as there is room for.
    pub const UNBOUNDED: Backlog = Backlog { calls: u64::MAX, bytes: u64::MAX };
}

/// What a function says about its calls in the queue. Not on the log: the node says it again after each start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Of its calls, pending at most.
    pub backlog: Backlog,
    /// Who is charged: below `limits.tenants_max`.
    pub tenant: u16,
    /// A call that has not begun so long after its start time ends, ns; 0 for never.
    pub expires_ns: u64,
    /// Whether one that ends so, or because its submit says [`call::frame::flag::EXPIRES`], is a dead letter.
    pub expired_dead: bool,
    /// How long a call that ended is remembered at least, with its outcome if its client wanted it, ns; 0 for as long as
    /// nothing else needs the room.
    pub retain_ns: u64,
    /// Bytes of the largest outcome that is kept for so long.
    pub retain_bytes: u64,
    /// The same for a call whose id was made of an idempotency key, ns.
    pub window_ns: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            backlog: Backlog::UNBOUNDED,
            tenant: 0,
            expires_ns: 0,
            expired_dead: false,
            retain_ns: 0,
            retain_bytes: u64::MAX,
            window_ns: 0,
        }
    }
}

/// A call whose time to live was over before it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Its id.
    pub id: CallId,
    /// Its function.
    pub function: FunctionRef,
    /// Whether it is a dead letter now.
    pub dead: bool,
}

/// A due call for the scheduler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Which call.
    pub call: CallRef,
    /// Larger is more important, 1 to 255.
    pub criticality: u8,
    /// When it should be done.
    pub deadline: WallTime,
    /// As the call says.
    pub key: CallKey,
    /// Of its arguments.
    pub label: Label,
    /// It has failed before.
    pub retry: bool,
}

/// A call that may run now: everything of the lease frame. `body` is the submit frame as the client wrote it, so that
/// `driver.send_parts(core, &lease.header.encode(lease.body), lease.body)` is the whole sending.
#[derive(Clone, Copy, Debug)]
pub struct Lease<'a> {
    /// Kind, flags, call, function, epoch, deadline, criticality and attempt.
    pub header: call::Header,
    /// The submit frame, sealed.
    pub body: &'a [u8],
    /// When the call could first have started.
    pub start_at: WallTime,
    /// Since when it is waiting now (another time than `start_at` after a retry).
    pub due_at: WallTime,
}

/// Why an offered call is not leased. The queue has taken it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotLeased {
    /// The log has stopped: what runs now could not be settled.
    Stopped,
    /// It was cancelled, or its function is paused.
    Withdrawn,
}

/// What became of a call that was to be cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancel {
    /// It has ended.
    Ended {
        /// Of this function.
        function: FunctionRef,
    },
    /// It runs: its core is to be told.
    Running {
        /// Of this function.
        function: FunctionRef,
        /// Who runs it.
        holder: HolderRef,
        /// Of its lease.
        epoch: Epoch,
    },
}

/// An outcome, or the loss of a lease, took effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// The call. If `fate` is [`Fate::Done`], [`Fate::Failed`] or [`Fate::Cancelled`], the number is free from now on.
    pub call: CallRef,
    /// Its id.
    pub id: CallId,
    /// Its function.
    pub function: FunctionRef,
    /// Who held the lease. The epoch fences, not the connection: a core that connected again may report a lease of
    /// the connection it lost, before that loss was noticed.
    pub holder: HolderRef,
    /// When it could first have started.
    pub start_at: WallTime,
    /// What happens to it.
    pub fate: Fate,
}

/// What happens to a call whose lease has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It ended well.
    Done,
    /// It may run again from this time on.
    Retry {
        /// Not before.
        not_before: WallTime,
    },
    /// It is a dead letter.
    Dead,
    /// It failed and has ended: its submit says [`call::frame::flag::ONCE`].
    Failed,
    /// It was cancelled while it ran, and has ended.
    Cancelled,
    /// The lease was lost without a word of the call: it is due again at once.
    Again,
}

/// The epoch of an outcome is not the call's live lease: nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fenced;

/// Where a call stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Appended, not yet on disk.
    Appended,
    /// Start time, or the end of a retry's wait, ahead.
    Scheduled,
    /// Waiting in its function's queue.
    Due,
    /// With the scheduler.
    Offered,
    /// With a core.
    Leased(HolderRef, Epoch),
    /// In the dead letters.
    Dead,
    /// Ended well.
    Done,
}

/// What is known of a call.
#[derive(Clone, Copy, Debug)]
pub struct CallView<'a> {
    /// Its id.
    pub id: CallId,
    /// Its function.
    pub function: FunctionId,
    /// Where it stands.
    pub state: State,
    /// How the last execution ended, if there was one that was reported.
    pub status: Option<Status>,
    /// When it may first start (zero if that is no longer known), or the end of the wait before a retry.
    pub start_at: WallTime,
    /// As the call says; zero if it leaves that to its function.
    pub deadline: WallTime,
    /// As the call says; zero if it leaves that to its function.
    pub criticality: u8,
    /// Deliveries so far. The queue of a later incarnation knows those that were reported.
    pub deliveries: u16,
    /// Bytes of the submit frame, wherever it is; zero of a call that has ended.
    pub bytes: usize,
    /// Whether the submit frame names a blob, be it in memory or not.
    pub names_blob: bool,
    /// The submit frame, while the call is pending or dead and its frame is in memory: see
    /// [`crate::DurableQ::fetch`]. Without it, deadline and criticality are not known either.
    pub submit: Option<Frame<'a>>,
    /// The last outcome, if it is kept.
    pub outcome: Option<Frame<'a>>,
    /// Its attempts, if it is pending or dead and one of them failed.
    pub history: Option<History<'a>>,
}

/// Depth of one function's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Depth {
    /// Start time or end of a retry's wait ahead, or not yet on disk.
    pub scheduled: u32,
    /// Due and not with the scheduler.
    pub due: u32,
    /// With the scheduler.
    pub offered: u32,
    /// With a core.
    pub leased: u32,
    /// In the dead letters.
    pub dead: u32,
    /// Bytes of the submit frames of all but the dead letters.
    pub bytes: u64,
    /// Since when the oldest due call is waiting; zero if there is none.
    pub oldest_due: WallTime,
}

/// The queue as a whole. What counts up counts from the queue's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Calls appended to the log.
    pub accepted: u64,
    /// Submits of an id that was already held.
    pub duplicates: u64,
    /// Leases given.
    pub leased: u64,
    /// Calls that ended well.
    pub completed: u64,
    /// Executions that failed and were scheduled again.
    pub retried: u64,
    /// Calls that went to the dead letters.
    pub dead: u64,
    /// Calls that were cancelled.
    pub cancelled: u64,
    /// Calls whose time to live was over before they began.
    pub expired: u64,
    /// Submits refused because the backlog of their function or tenant was full.
    pub backlog_full: u64,
    /// Ends forgotten before their time, because there were too many.
    pub forgotten_early: u64,
    /// Dead letters dropped because there were too many.
    pub dead_dropped: u64,
    /// Leases lost with their holder.
    pub leases_lost: u64,
    /// Outcomes that were fenced.
    pub fenced: u64,
    /// Calls written again to free an old segment.
    pub relocated: u64,
    /// Checkpoints written: a start reads what came since the last of them.
    pub checkpoints: u64,
    /// Log groups on disk.
    pub groups: u64,
    /// Bytes of these.
    pub log_bytes: u64,
    /// Calls found in the log at the start.
    pub recovered: u64,
    /// Now: calls accepted and not ended, dead letters excluded.
    pub pending_now: u64,
    /// Now: leased.
    pub leased_now: u64,
    /// Now: dead letters.
    pub dead_now: u64,
    /// Now: bytes of frames in memory.
    pub frame_bytes_now: u64,
    /// Frames read back from the disk.
    pub read_back: u64,
    /// Calls whose frame on disk was damaged.
    pub damaged: u64,
    /// Now: calls whose frame is on disk only.
    pub parked_now: u64,
    /// Now: segments of the log.
    pub segments_now: u64,
    /// Now: bytes of the segments that a start would read, from the last checkpoint on.
    pub start_bytes_now: u64,
}
