//! The two clocks, read once per round.

use call::{Instant, WallTime};

/// How long the distance between the two clocks is taken as it was: a wall clock is stepped rarely, and one read a
/// round is enough to pay.
const DISTANCE_NS: u64 = 1_000_000;

/// The host's monotonic clock, now.
pub fn monotonic() -> Instant {
    Instant(read(libc::CLOCK_MONOTONIC))
}

/// The host's wall clock, now.
pub fn wall() -> WallTime {
    WallTime(read(libc::CLOCK_REALTIME))
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer; both clocks exist on every Linux.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "the clock exists");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The time of a round.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Instant,
    wall: WallTime,
    /// When both were read.
    compared: Instant,
    compared_wall: WallTime,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let (now, wall) = (monotonic(), wall());
        Clock { now, wall, compared: now, compared_wall: wall }
    }

    /// Reads the clock for a new round.
    pub(crate) fn refresh(&mut self) {
        self.now = monotonic();
        if self.now.0 - self.compared.0 > DISTANCE_NS {
            (self.compared, self.compared_wall) = (self.now, wall());
        }
        self.wall = WallTime(self.compared_wall.0 + (self.now.0 - self.compared.0));
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn wall(&self) -> WallTime {
        self.wall
    }
}
