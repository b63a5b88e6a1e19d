//! The seam between the core loop and what runs a call.

use call::body::{ArchivedArguments, ArchivedAttribute};
use call::{CallId, FunctionId, FunctionSpec, Instant, Status, Usage};
use driver::{Arrivals, Driver};

/// One of the core's slots, from 0. A slot holds one call from `begin` to `release`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u32);

/// A call to begin. The arguments are borrowed from the frame: a runtime copies what it needs past `begin`.
#[derive(Clone, Copy)]
pub struct Begin<'a> {
    /// Which call.
    pub call: CallId,
    /// Which function.
    pub function: FunctionId,
    /// What the function reads: in place in the client's frame, or a blob that it names.
    pub payload: &'a [u8],
    /// The call's attributes, in place in the client's frame.
    pub attributes: &'a [ArchivedAttribute<'static>],
    /// How many times the call has been delivered, from 1.
    pub attempt: u16,
}

impl<'a> Begin<'a> {
    /// Of a call whose frame brings all of its arguments.
    pub fn of(
        call: CallId,
        function: FunctionId,
        arguments: &'a ArchivedArguments<'static>,
        attempt: u16,
    ) -> Begin<'a> {
        Begin { call, function, payload: &arguments.payload, attributes: &arguments.attributes, attempt }
    }
}

/// What a slice came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The slice is used up; the call wants another one.
    Yielded,
    /// The call goes on elsewhere, in a process of its own: it wants no slice and costs the core nothing until
    /// [`Runtime::serve`] says that it is ready. Its function's time-out runs.
    Waiting,
    /// The call has ended; see [`Runtime::ended`].
    Ended,
}

/// How a call ended, readable until the slot is released.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// How.
    pub status: Status,
    /// Memory, exit code, cold, truncated. Times are the core's to fill in; CPU time that the call had elsewhere
    /// (`cpu_ns`) is the runtime's to say, and the core adds that of the slices it gave.
    pub usage: Usage,
    /// What the function returned.
    pub output: &'a [u8],
    /// Its stderr, or the text of a trap.
    pub stderr: &'a [u8],
}

/// What runs calls on one core. Nothing here blocks, and nothing allocates for a warm reused instance.
pub trait Runtime {
    /// A function is there, or changed. Its artefact may not be loaded before its first call.
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec);
    /// A function is gone. Calls that run finish.
    fn retire(&mut self, function: FunctionId);
    /// Whether a call of a published function is likely soon: makes it warm, or lets go of what is warm and idle. Advice,
    /// by which no call may be harmed.
    fn foresee(&mut self, _function: FunctionId, _likely: bool) {}
    /// Begins a call in a free slot and runs its first slice. Failure to begin is an outcome like any other
    /// ([`Status::Unavailable`] and so on), not an error here.
    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress;
    /// Until when a call that yielded sleeps: before, a slice is of no use to it. Nothing if it wants one at
    /// once.
    fn sleeps_until(&self, _slot: SlotId) -> Option<Instant> {
        None
    }
    /// Runs another slice of a call that yielded.
    fn resume(&mut self, slot: SlotId) -> Progress;
    /// When a waiting call's time is over; the core's reckoning, from its begin, is `at`. Later if it waited for its
    /// sandbox to be made first: that is not the function's time. Asked at that time, not before.
    fn times_out_at(&self, _slot: SlotId, at: Instant) -> Instant {
        at
    }
    /// Ends a call that yielded or waits, with this status ([`Status::Timeout`]). It is `Ended` afterwards, and
    /// [`Runtime::serve`] says nothing of it any more.
    fn stop(&mut self, slot: SlotId, status: Status);
    /// How the call in this slot ended.
    ///
    /// # Panics
    /// If it has not.
    fn ended(&self, slot: SlotId) -> Ended<'_>;
    /// Frees the slot, keeping a warm instance where the function allows.
    fn release(&mut self, slot: SlotId);
    /// Takes what arrived for the runtime's own connections (sandboxes, the jailer) and serves its timers. Called once
    /// per turn, before new calls begin; `arrivals` holds the core's own events, too, which are not the runtime's.
    ///
    /// Appends each waiting call that has ended ([`Progress::Ended`]) or wants a slice ([`Progress::Yielded`]), once:
    /// only those are looked at again before their time-out.
    fn serve(
        &mut self,
        _driver: &mut dyn Driver,
        _arrivals: &Arrivals,
        _now: Instant,
        _ready: &mut Vec<(SlotId, Progress)>,
    ) {
    }
    /// Gives the driver what `begin`, `resume` and `stop` left to be sent. Called once at the end of a turn.
    fn flush(&mut self, _driver: &mut dyn Driver) {}
    /// When `serve` wants to be called next at the latest, arrivals or not.
    fn alarm(&self) -> Instant {
        Instant::NEVER
    }
    /// Housekeeping while the core is idle: drop instances unused for long, take back memory. Short.
    fn idle(&mut self) {}
    /// Appends what happened that a person may want to know, oldest first: lines of `key=value` words.
    fn notes(&mut self, _into: &mut Vec<String>) {}
    /// Which backend is in force for each thing, for people.
    fn backends(&self) -> Vec<(String, String)>;
    /// A number that changes when `backends` does.
    fn edition(&self) -> u32 {
        0
    }
}
