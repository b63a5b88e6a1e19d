//! What there is of a call beside its entry, once its frame is in memory, it runs, or has run.

use super::calls::NONE;
use super::histories::Trace;
use super::store::Extent;
use crate::words::{HolderRef, Origin};
use call::{Epoch, Status, WallTime};

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

const _: () = assert!(size_of::<Progress>() == 64, "one cache line");

/// How far a call has come.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Progress {
    /// The last outcome, if it is kept.
    pub outcome: Extent,
    /// When it could first have started.
    pub(super) start_at: u64,
    /// Of the live lease. Until the first one, of a call that must begin by its deadline: that.
    pub epoch: Epoch,
    /// Of the last record about it; of a call without progress it is on disk.
    pub group: u64,
    /// Who wants the outcome.
    pub origin: Origin,
    /// Where its frame is in memory, if it is there.
    pub(super) frame: u32,
    /// Where it is in the timers of what expires; while it is leased, since when: see [`Progress::lease_began`].
    pub timer: u32,
    /// The next in the backlog.
    pub backlog: u32,
    /// Leases so far.
    pub deliveries: u16,
    /// Executions that failed.
    pub failures: u16,
    /// Executions that met back-pressure: these are deliveries, too.
    pub pressures: u16,
    /// Of the live lease.
    pub holder: HolderRef,
    /// How the last execution ended.
    pub status: Option<Status>,
    /// Where the history of its attempts is.
    pub history: Trace,
}

impl Progress {
    /// None.
    pub const NONE: Progress = Progress {
        outcome: Extent::NONE,
        start_at: 0,
        epoch: Epoch(0),
        group: 0,
        origin: Origin::NOBODY,
        frame: NONE,
        timer: NONE,
        backlog: NONE,
        deliveries: 0,
        failures: 0,
        pressures: 0,
        holder: HolderRef(0),
        status: None,
        history: Trace::NONE,
    };

    /// A lease begins at this time.
    pub fn begin_lease(&mut self, wall: WallTime) {
        self.timer = (wall.0 / MS) as u32;
    }

    /// When the live lease began, to the millisecond: 32 bits of that are kept, for leases of up to 24 days.
    pub fn lease_began(&self, wall: WallTime) -> WallTime {
        let now = wall.0 / MS;
        // None began later, but a clock may be set back.
        let since = (now as u32).wrapping_sub(self.timer) as i32;
        WallTime(now.saturating_sub(since.max(0) as u64) * MS)
    }

    /// Whether it has been delivered so often, for other reasons than back-pressure, that it is given up.
    pub fn is_worn(&self, deliveries_max: u32) -> bool {
        u32::from(self.deliveries.saturating_sub(self.pressures)) >= deliveries_max
    }

    /// Whether nothing is lost without it, of a call that only waits and is due at `when`.
    pub(super) fn is_none(&self, wanted: bool, when: u64) -> bool {
        self.outcome == Extent::NONE
            && self.start_at == when
            && self.epoch == Epoch(0)
            && !(wanted && self.origin != Origin::NOBODY)
            && self.timer == NONE
            && (self.deliveries, self.failures, self.pressures) == (0, 0, 0)
            && self.status.is_none()
            && self.history == Trace::NONE
    }
}
