//! Words that all controllers share: who and what is meant by a number, units, and effects.
//!
//! Functions, groups, regions and the rest are named by small dense numbers that whoever feeds a controller gives
//! out: they index tables that were allocated at the start.

use call::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Thousandths: of a core's time, of a quota, of a region's pulls.
pub type Permille = u32;

/// Thousandths of a call per second: a function that runs once in a quarter of an hour still has a rate.
pub type MilliCalls = u64;

/// Thousandths of one CPU: CPU time used or promised in each second, in milliseconds.
pub type Millicores = u64;

/// A deployed function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionRef(pub u32);

/// A group of functions that share workers (a locality group).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupRef(pub u16);

/// A region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegionRef(pub u16);

/// A scheduler, of whichever region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchedulerRef(pub u16);

/// A service that functions call and that may push back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DownstreamRef(pub u16);

/// A worker: what a locality group is given and a version is installed on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerRef(pub u32);

/// Effects in their order, in memory of fixed size.
#[derive(Debug)]
pub struct Effects<E> {
    list: Vec<E>,
    room: usize,
}

impl<E> Effects<E> {
    /// Room for `room` effects.
    ///
    /// # Panics
    /// If `room` is zero.
    pub fn new(room: usize) -> Effects<E> {
        assert!(room > 0, "a controller without effects concludes nothing");
        Effects { list: Vec::with_capacity(room), room }
    }

    /// Whether a turn stopped for want of room. Another turn at once goes on where it stopped.
    pub fn is_full(&self) -> bool {
        self.list.len() == self.room
    }

    /// Takes all effects out, in their order.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = E> {
        self.list.drain(..)
    }

    /// All effects, in their order.
    pub fn as_slice(&self) -> &[E] {
        &self.list
    }

    /// How many more there is room for.
    pub(crate) fn room_left(&self) -> usize {
        self.room - self.list.len()
    }

    /// Empties the list and makes room for no more than so many, so that all of them can be passed on.
    pub(crate) fn reset(&mut self, room: usize) {
        self.list.clear();
        self.room = room.min(self.list.capacity());
    }

    pub(crate) fn push(&mut self, effect: E) {
        assert!(!self.is_full(), "a turn looks for room first");
        self.list.push(effect);
    }
}

/// Says when a period is over. The first is over at once.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    period: Duration,
    since: Option<Instant>,
}

impl Pace {
    /// # Panics
    /// If `period` is zero.
    pub fn new(period: Duration) -> Pace {
        assert!(!period.is_zero(), "a period of nothing never ends");
        Pace { period, since: None }
    }

    /// Lets the first period pass as well, from now on.
    pub fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The time since the last period ended, if a period has passed; one period, the first time.
    pub fn over(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = self.since.map_or(self.period, |since| now.since(since));
        if elapsed < self.period {
            return None;
        }
        self.since = Some(now);
        Some(elapsed)
    }
}

/// `of` times `numerator` over `denominator`, rounded down, in 128 bits; as much as fits if it is too large.
///
/// # Panics
/// If `denominator` is zero.
pub(crate) fn scale(of: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(of) * u128::from(numerator) / u128::from(denominator);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// So many thousandths of it, rounded down.
pub(crate) fn permille(of: u64, permille: Permille) -> u64 {
    scale(of, u64::from(permille), 1000)
}
