//! Two clocks: `Instant` orders what happens inside one host, `WallTime` is what callers and other hosts mean.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds on the host's monotonic clock. Comparable between the processes of one host, meaningless elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than any instant that will come: "never".
    pub const NEVER: Instant = Instant(u64::MAX);

    /// Time since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(by)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// Nanoseconds since the Unix epoch. Start times and deadlines are of this kind. Zero means "not given".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Time since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: WallTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for WallTime {
    type Output = WallTime;
    fn add(self, by: Duration) -> WallTime {
        WallTime(self.0.saturating_add(nanos(by)))
    }
}

/// A duration in nanoseconds, `u64::MAX` (584 years) if it is longer.
pub fn nanos(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}
