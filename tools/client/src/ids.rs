//! Makes call ids: wall-clock milliseconds, then 80 bits that no other client has.

use call::CallId;
use std::hash::{BuildHasher, RandomState};
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

/// One step of SplitMix64 (Steele, Lea, Flood 2014): every state gives another output.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
    fn an_id_is_born_now() {
        let born = UNIX_EPOCH + std::time::Duration::from_millis(IdSource::new().next_id().born_unix_ms());
        assert!(born <= SystemTime::now());
    }
}
