//! The core's slots: which lease is in which, and how far it has come. All memory is taken in `new`.

use call::blob::{BlobId, Reference};
use call::frame::{FrameError, Header, Kind};
use call::{CallId, Epoch, Frame, Instant, Label, Status, Usage};
use runtime::SlotId;
use std::fmt;
use std::time::Duration;

/// How far the call in a slot has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// There is none.
    Free,
    /// Arrived, and copied into parking memory until its turn comes.
    Parked,
    /// Arrived; its arguments are a blob, which is to be fetched first.
    Fetching,
    /// Begun, and wants another slice, now or later.
    Running,
    /// Begun, and goes on outside of the core, until the runtime says that it is ready.
    Waiting,
    /// Ended, and its outcome is not sent yet.
    Ended,
    /// Ended, with a result that is to be stored first.
    Storing,
    /// Ended, its result is a blob of the node's, and its outcome is not sent yet.
    Stored(Reference),
    /// Ended, with a result that the node did not take, and its outcome is not sent yet.
    NotStored,
    /// Never begun, and its outcome is not sent yet.
    Refused(Refusal),
}

/// Why a call is not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Its lease is no lease.
    Malformed(FrameError),
    /// Its arguments may not flow to the function. The node does not lease such a call: this is the second of two
    /// checks, so that a fault in one of them gives nothing away.
    Label {
        /// Of the arguments.
        data: Label,
        /// Of the function.
        function: Label,
    },
    /// It was cancelled before its turn came.
    Cancelled,
    /// Its arguments are a blob that does not fit into the memory for it.
    BlobTooLarge {
        /// Of the blob.
        bytes: u64,
        /// Of the function, or of all blobs of a core.
        memory: u64,
    },
    /// Its arguments are a blob that the node does not have any more as it was stored.
    BlobDamaged(BlobId),
    /// Its arguments are a blob that the node did not send.
    BlobLate(BlobId),
}

impl Refusal {
    /// How the call ends.
    pub fn status(self) -> Status {
        match self {
            Refusal::Malformed(_) => Status::Unavailable,
            Refusal::Label { .. } => Status::Forbidden,
            Refusal::Cancelled => Status::Cancelled,
            Refusal::BlobTooLarge { .. } => Status::Memory,
            Refusal::BlobDamaged(_) => Status::Damaged,
            Refusal::BlobLate(_) => Status::Unavailable,
        }
    }
}

/// For people.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed(error) => write!(f, "the lease's body is malformed: {error}"),
            Refusal::Label { data, function } => {
                write!(f, "data of {data} may not flow to a function of {function}")
            }
            Refusal::Cancelled => f.write_str("the call was cancelled before it began"),
            Refusal::BlobTooLarge { bytes, memory } => {
                write!(
                    f,
                    "the arguments have {bytes} bytes, and the memory for them {memory} (limits: memory)"
                )
            }
            Refusal::BlobDamaged(id) => write!(
                f,
                "the arguments are lost: blob {id} is damaged or gone; the node's output says where it was. Store it \
                 again and redrive the call"
            ),
            Refusal::BlobLate(id) => write!(f, "the node did not send the arguments, blob {id}"),
        }
    }
}

/// One slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// How far the call has come.
    pub state: State,
    /// The lease's envelope: what the outcome repeats.
    pub lease: Header,
    /// When the lease arrived.
    pub arrived: Instant,
    /// When its first slice began.
    pub begun: Instant,
    /// When its last slice so far ended.
    pub ran_until: Instant,
    /// How long it may last from its begin.
    pub timeout: Duration,
    /// When it must have ended.
    pub timeout_at: Instant,
    /// Whether it is expected to end within its first slice.
    pub short: bool,
    /// Its weight beside other long calls.
    pub weight: u32,
    /// Whether its function has a quota of CPU time.
    pub limited: bool,
    /// Whether it has a share among the long calls.
    pub shares: bool,
    /// CPU time of its slices so far; not of those after which it waited, which served others as much.
    pub cpu_ns: u64,
}

impl Slot {
    /// What the call took: the runtime's account with the core's times.
    pub fn times(&self, usage: Usage) -> Usage {
        let nanos = |from: Instant, to: Instant| to.0.saturating_sub(from.0);
        Usage {
            wait_ns: nanos(self.arrived, self.begun),
            run_ns: nanos(self.begun, self.ran_until),
            cpu_ns: usage.cpu_ns + self.cpu_ns,
            ..usage
        }
    }
}

/// All slots of a core.
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// Free slots; the last one freed is taken first, since its memory is warm.
    free: Vec<SlotId>,
}

impl Slots {
    pub fn new(count: u32) -> Slots {
        let empty = Slot {
            state: State::Free,
            lease: Header::new(Kind::Lease),
            arrived: Instant(0),
            begun: Instant(0),
            ran_until: Instant(0),
            timeout: Duration::ZERO,
            timeout_at: Instant::NEVER,
            short: true,
            weight: 1,
            limited: false,
            shares: false,
            cpu_ns: 0,
        };
        let slots = vec![empty; count as usize].into_boxed_slice();
        Slots { slots, free: (0..count).rev().map(SlotId).collect() }
    }

    /// Takes a free slot for a lease that has just arrived; `None` if all are taken. Its state is the caller's to set.
    pub fn take(&mut self, lease: &Frame<'_>, now: Instant) -> Option<SlotId> {
        let id = self.free.pop()?;
        let slot = &mut self.slots[id.0 as usize];
        assert_eq!(slot.state, State::Free, "a slot on the free list is free");
        slot.lease = lease.header();
        slot.arrived = now;
        slot.timeout_at = Instant::NEVER;
        slot.shares = false;
        slot.cpu_ns = 0;
        Some(id)
    }

    /// Gives a slot back.
    pub fn give(&mut self, id: SlotId) {
        let slot = &mut self.slots[id.0 as usize];
        assert_ne!(slot.state, State::Free, "a slot is freed once");
        slot.state = State::Free;
        self.free.push(id);
    }

    pub fn get(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    pub fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }

    /// The slot of the call with this lease, if it has not ended. Looks at all of them: it is seldom asked.
    pub fn find(&self, call: CallId, epoch: Epoch) -> Option<SlotId> {
        let is = |slot: &Slot| {
            let begun_or_parked =
                matches!(slot.state, State::Parked | State::Fetching | State::Running | State::Waiting);
            begun_or_parked && slot.lease.call == call && slot.lease.stamp == epoch.0
        };
        self.slots.iter().position(is).map(|at| SlotId(at as u32))
    }

    /// Slots in all.
    pub fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Slots that hold a call.
    pub fn held(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }

    /// How many slots are in a state that `is`.
    pub fn count_of(&self, is: impl Fn(State) -> bool) -> usize {
        self.slots.iter().filter(|slot| is(slot.state)).count()
    }
}
