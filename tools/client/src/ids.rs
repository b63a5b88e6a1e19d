//! Makes call ids: wall-clock milliseconds, then 80 bits that no other client has.

use call::CallId;
use call::ids::IdError;
use call::random::splitmix64;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of call ids, one per client: a 128-bit state from the operating system's randomness, stepped by
/// SplitMix64 in each half, so that an id costs a few nanoseconds and no system call but the clock's.
#[derive(Clone, Debug)]
pub struct IdSource {
    low: u64,
    high: u64,
}

impl Default for IdSource {
    fn default() -> IdSource {
        IdSource::new()
    }
}

impl IdSource {
    /// Seeded by the operating system (the keys of [`RandomState`] come from `getrandom`).
    pub fn new() -> IdSource {
        let seed = |salt: u64| RandomState::new().hash_one((salt, std::process::id()));
        IdSource { low: seed(1), high: seed(2) }
    }

    /// A new id, born now.
    pub fn next_id(&mut self) -> CallId {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.next_at(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }

    /// A new id, born at this Unix millisecond: for a caller that has read the clock already.
    pub fn next_at(&mut self, unix_ms: u64) -> CallId {
        let random = (u128::from(splitmix64(&mut self.high)) << 64) | u128::from(splitmix64(&mut self.low));
        CallId::new(unix_ms, random)
    }
}

/// The ids of a numbered set of calls: the lines of a file, the calls of a trace.
///
/// Whoever knows the series and a call's number knows its id, and the other way round. A batch that broke off can be
/// submitted again from any line, and a call that was accepted the first time is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdSeries(CallId);

/// The random bits of an id.
const RANDOM: u128 = (1 << 80) - 1;

impl IdSeries {
    /// A new series, which no other meets.
    pub fn new() -> IdSeries {
        IdSeries(IdSource::new().next_id())
    }

    /// The id of the call numbered `number`.
    pub fn id(&self, number: u64) -> CallId {
        CallId::new(self.0.born_unix_ms(), (self.0.0 & RANDOM).wrapping_add(u128::from(number)))
    }

    /// The number of a call, if it is of this series.
    pub fn number(&self, call: CallId) -> Option<u64> {
        let distance = call.0.wrapping_sub(self.0.0) & RANDOM;
        let number = u64::try_from(distance).ok()?;
        (self.id(number) == call).then_some(number)
    }
}

impl Default for IdSeries {
    fn default() -> IdSeries {
        IdSeries::new()
    }
}

impl fmt::Display for IdSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for IdSeries {
    type Err = IdError;
    fn from_str(text: &str) -> Result<IdSeries, IdError> {
        text.parse().map(IdSeries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_of_one_millisecond_and_of_two_sources_differ() {
        let (mut one, mut other) = (IdSource::new(), IdSource::new());
        let ids: HashSet<CallId> = (0..1000).flat_map(|_| [one.next_at(7), other.next_at(7)]).collect();
        assert_eq!(ids.len(), 2000);
        assert!(ids.iter().all(|id| id.born_unix_ms() == 7));
    }

    #[test]
    fn numbers_of_a_series_are_found_again() {
        let last = IdSeries(CallId::new(7, RANDOM));
        for series in [IdSeries::new(), last, last.to_string().parse().unwrap()] {
            for number in [0, 1, 2, 1_000_000, u64::MAX] {
                assert_eq!(series.number(series.id(number)), Some(number));
                assert_eq!(series.id(number).born_unix_ms(), series.id(0).born_unix_ms());
            }
            assert_eq!(series.number(IdSeries::new().id(0)), None);
        }
    }

    #[test]
    fn an_id_is_born_now() {
        let born = UNIX_EPOCH + std::time::Duration::from_millis(IdSource::new().next_id().born_unix_ms());
        assert!(born <= SystemTime::now());
    }
}
