//! The queue: what may happen to a call, and when.

use crate::words::*;
use call::function::RetrySpec;
use call::limits::Limits;
use call::{CallId, Frame, FunctionId, Instant, Status, VerdictCode, WallTime};

/// The durable queue. See the crate's documentation.
#[derive(Debug)]
pub struct DurableQ {
    _soon: (),
}

impl DurableQ {
    // ---- time and functions

    /// What time it is. Once per round, before anything else: calls whose time has come are due from here on.
    pub fn advance(&mut self, _now: Instant, _wall: WallTime) {
        soon()
    }

    /// Until when nothing happens here by itself: the next start time or retry, the next silent holder, the next try to
    /// make a segment. [`Instant::NEVER`] if nothing is to come.
    pub fn next_wake(&self) -> Instant {
        soon()
    }

    /// The number of a function, given now if it has none. `None` if `limits.functions_max` are known already.
    pub fn intern(&mut self, _function: FunctionId) -> Option<FunctionRef> {
        soon()
    }

    /// The number of a function, if it has one.
    pub fn function(&self, _function: FunctionId) -> Option<FunctionRef> {
        soon()
    }

    /// The function of a number.
    pub fn function_id(&self, _function: FunctionRef) -> FunctionId {
        soon()
    }

    /// How many functions have numbers (those of calls found in the log, and those interned since).
    pub fn functions(&self) -> u32 {
        soon()
    }

    // ---- calls come in

    /// Takes a call. `frame` is of [`call::Kind::Submit`], its body validated, its function deployed.
    ///
    /// `Ok`: an [`Event::Verdict`] follows (accepted, duplicate, or disk failed) when its group is on disk.
    ///
    /// # Errors
    /// The verdict, to be sent at once: [`VerdictCode::Full`] (no room in the table, the memory or the log),
    /// [`VerdictCode::BadTime`], or [`VerdictCode::DiskFailed`] (no segment could be made, or the log has stopped).
    pub fn submit(
        &mut self,
        _blocks: &mut impl Blocks,
        _frame: Frame<'_>,
        _function: FunctionRef,
        _origin: Origin,
    ) -> Result<(), VerdictCode> {
        soon()
    }

    // ---- calls go out

    /// A function that has got due calls since the last time it was named here.
    pub fn next_due(&mut self) -> Option<FunctionRef> {
        soon()
    }

    /// Whether a function has due calls that are not with the scheduler.
    pub fn has_due(&self, _function: FunctionRef) -> bool {
        soon()
    }

    /// Hands the oldest due call of a function to the scheduler.
    pub fn poll(&mut self, _function: FunctionRef, _defaults: &Defaults) -> Option<Offer> {
        soon()
    }

    /// Takes an offered call back from the scheduler: it is due again, at its old place.
    pub fn give_back(&mut self, _call: CallRef) {
        soon()
    }

    /// Leases an offered call to a core. `None` while no lease may be given: the incarnation is not on disk yet.
    pub fn lease(&mut self, _call: CallRef, _holder: HolderRef, _defaults: &Defaults) -> Option<Lease<'_>> {
        soon()
    }

    // ---- calls come back

    /// A core connected: its silence counts from now on.
    pub fn holder_up(&mut self, _holder: HolderRef) {
        soon()
    }

    /// A core was heard of.
    pub fn heartbeat(&mut self, _holder: HolderRef) {
        soon()
    }

    /// A core that was not heard of for `limits.lease`; each is named once. The node closes its session, and then
    /// ends its leases by [`DurableQ::lose_next`].
    pub fn next_silent(&mut self) -> Option<HolderRef> {
        soon()
    }

    /// A core is gone. Call this until `None`: each call leased to it is due again at once, or is a dead letter after
    /// `limits.deliveries_max` deliveries. After that the number is free for another core.
    pub fn lose_next(&mut self, _blocks: &mut impl Blocks, _holder: HolderRef) -> Option<Settled> {
        soon()
    }

    /// Takes an outcome frame, its body validated. A call that failed is retried by `retry`, with full jitter from
    /// `random` on the upper half of the wait, or goes to the dead letters when its executions are used up.
    ///
    /// # Errors
    /// [`Fenced`] if the epoch is not the one of the call's live lease.
    pub fn settle(
        &mut self,
        _blocks: &mut impl Blocks,
        _outcome: Frame<'_>,
        _retry: &RetrySpec,
        _random: u64,
    ) -> Result<Settled, Fenced> {
        soon()
    }

    // ---- the log

    /// What the disk must do next. The node executes it and asks again until `None`, at the end of each round: this is
    /// where the open group is closed if a write may be started.
    pub fn next_op(&mut self, _blocks: &mut impl Blocks) -> Option<LogOp> {
        soon()
    }

    /// A [`LogOp::Create`] ended; the errno if it failed. Tried again after a second, with another number.
    pub fn created(&mut self, _segment: u64, _result: Result<(), i32>) {
        soon()
    }

    /// A [`LogOp::Write`] ended; the errno if it failed, which stops the log ([`DurableQ::failed`]).
    pub fn written(&mut self, _group: u64, _result: Result<(), i32>) {
        soon()
    }

    /// What became certain since the last time; the node asks until `None` after [`DurableQ::written`] and
    /// [`DurableQ::submit`].
    pub fn next_event(&mut self) -> Option<Event> {
        soon()
    }

    /// The errno of a write that failed. The log takes nothing more: after the events have been sent (submits that were
    /// not on disk get [`VerdictCode::DiskFailed`]) the process must end with this reason. A restart recovers all that
    /// was acknowledged.
    pub fn failed(&self) -> Option<i32> {
        soon()
    }

    /// Whether everything is on disk and nothing waits to be written: a drained node may stop now.
    pub fn is_settled(&self) -> bool {
        soon()
    }

    // ---- questions and orders of operators (not on the path of a call)

    /// What is known of a call. `None`: never heard of, or forgotten.
    pub fn find(&self, _call: CallId) -> Option<CallView<'_>> {
        soon()
    }

    /// As [`DurableQ::find`], for a pending call or dead letter of this number.
    pub fn view(&self, _call: CallRef) -> Option<CallView<'_>> {
        soon()
    }

    /// The kept outcome of a call that has ended for good.
    pub fn outcome(&self, _call: CallId) -> Option<Frame<'_>> {
        soon()
    }

    /// Asks for an [`Event::Ended`] of a pending call, also when the client did not want its outcome. `false` if the call
    /// is not pending. An origin that was there before is kept: the event then goes to that one only.
    pub fn watch(&mut self, _call: CallId) -> bool {
        soon()
    }

    /// How deep the queue of a function is.
    pub fn depth(&self, _function: FunctionRef) -> Depth {
        soon()
    }

    /// The queue as a whole.
    pub fn counters(&self) -> Counters {
        soon()
    }

    /// The number of this incarnation; one more at each start.
    pub fn incarnation(&self) -> u32 {
        soon()
    }

    /// The first calls of a function in order of time: due ones, then scheduled ones. Appends at most `limit` to `into`.
    pub fn peek(&self, _function: FunctionRef, _limit: usize, _into: &mut Vec<CallRef>) {
        soon()
    }

    /// Dead letters, the oldest first, of one function or of all. Appends at most `limit` to `into`.
    pub fn dead_letters(&self, _function: Option<FunctionRef>, _limit: usize, _into: &mut Vec<CallRef>) {
        soon()
    }

    /// Makes a dead letter a pending call again, with all its executions before it. `false` if it is none.
    pub fn redrive(&mut self, _blocks: &mut impl Blocks, _call: CallRef) -> bool {
        soon()
    }

    /// Sends a scheduled, due or offered call to the dead letters (its function is deleted by force). `false` if it is
    /// in another state.
    pub fn bury(&mut self, _blocks: &mut impl Blocks, _call: CallRef, _status: Status) -> bool {
        soon()
    }

    /// The invariants of the whole queue. For tests: it walks over everything.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        soon()
    }
}

/// Reads the log at the start and makes the queue from it.
///
/// ```text
/// let mut recovery = Recovery::new(&limits);
/// for (number, bytes) in segments in ascending order {
///     recovery.segment(number, bytes);
///     while let Some(offset) = recovery.offset() {
///         recovery.feed(read(number, offset, block_bytes))?;     // fewer bytes at the end of the file
///     }
/// }
/// let mut queue = recovery.finish(now, wall)?;
/// ```
#[derive(Debug)]
pub struct Recovery {
    _soon: (),
}

/// Why a log cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryError {
    /// Groups that were acknowledged are missing or broken, since later ones say so. Something else than a crash did
    /// this: a disk that lost data, a file that was deleted or copied.
    Damaged {
        /// The segment in which the log ends too early.
        segment: u64,
        /// And where in it.
        offset: u64,
        /// The first missing group.
        group: u64,
        /// A later group says that the missing one was on disk.
        later: u64,
    },
    /// The limits are smaller than what the log holds.
    TooSmall {
        /// Which limit.
        limit: &'static str,
        /// Its value.
        value: usize,
    },
}

impl Recovery {
    /// Takes all memory of the queue.
    pub fn new(_limits: &Limits) -> Recovery {
        soon()
    }

    /// The next segment, in ascending order of numbers, of so many bytes.
    pub fn segment(&mut self, _number: u64, _bytes: u64) {
        soon()
    }

    /// From which offset of the segment the next bytes are wanted; `None` at its end. Always a multiple of 4096.
    pub fn offset(&self) -> Option<u64> {
        soon()
    }

    /// The bytes at that offset, 16-aligned: at least `limits.group_bytes` or up to the segment's end.
    pub fn feed(&mut self, _bytes: &[u8]) -> Result<(), RecoveryError> {
        soon()
    }

    /// The queue. Its first [`DurableQ::next_op`]s make a new segment and write the new incarnation; segments that hold
    /// nothing any more are removed.
    pub fn finish(self, _now: Instant, _wall: WallTime) -> Result<DurableQ, RecoveryError> {
        soon()
    }
}

fn soon() -> ! {
    panic!("under construction")
}
