//! What the pool is asked and what it says.

use crate::seam::SlotId;
use call::{FunctionId, Status};
use std::time::Duration;

/// A sandbox: its place in the pool, and how many were there before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SandboxId {
    /// Its place, below the pool's size.
    pub place: u32,
    /// Tells it from others of this place.
    pub generation: u32,
}

impl SandboxId {
    /// As one number, for the jailer.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.place)
    }

    /// From [`SandboxId::number`].
    pub fn from_number(number: u64) -> SandboxId {
        SandboxId { place: number as u32, generation: (number >> 32) as u32 }
    }
}

/// What a function may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Calls in one sandbox at once.
    pub concurrent: u32,
    /// Sandboxes.
    pub sandboxes: u32,
    /// How long a sandbox may be idle.
    pub idle: Duration,
    /// How long it may take from the word to make it to its first seat.
    pub init: Duration,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Make a sandbox.
    Make {
        /// Which.
        sandbox: SandboxId,
        /// For which function.
        function: FunctionId,
    },
    /// End a sandbox; it has no calls.
    Stop {
        /// Which.
        sandbox: SandboxId,
    },
    /// End a call.
    Fail {
        /// In which slot.
        slot: SlotId,
        /// How.
        status: Status,
        /// For people.
        text: String,
    },
}

/// What became of a call that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// It goes to this sandbox.
    Given(SandboxId),
    /// It waits for a seat.
    Queued,
    /// It ends at once.
    Refused(Status, String),
}

/// Where a call was that was stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Was {
    /// In its function's queue.
    Queued,
    /// In this sandbox.
    In(SandboxId),
}
