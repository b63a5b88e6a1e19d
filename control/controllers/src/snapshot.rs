//! Versioned snapshots: what passes between a controller and those who use its conclusions.
//!
//! As JSON: `{"version": 7, "value": ...}`.

use serde::{Deserialize, Serialize};

/// One conclusion of a controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot<T> {
    /// Larger is newer. A controller that starts again continues above what it has published.
    pub version: u64,
    /// The conclusion.
    pub value: T,
}

/// The side that concludes.
#[derive(Debug)]
pub struct Publisher<T> {
    newest: Snapshot<T>,
}

impl<T: Clone + PartialEq> Publisher<T> {
    /// Begins with `value`, under a version above `published`: the newest that consumers may have.
    pub fn new(published: u64, value: T) -> Publisher<T> {
        Publisher { newest: Snapshot { version: published + 1, value } }
    }

    /// The newest snapshot, for a consumer that has just come.
    pub fn newest(&self) -> &Snapshot<T> {
        &self.newest
    }

    /// Publishes a conclusion, if it differs from the newest.
    pub fn publish(&mut self, value: T) -> Option<&Snapshot<T>> {
        if value == self.newest.value {
            return None;
        }
        self.newest = Snapshot { version: self.newest.version + 1, value };
        Some(&self.newest)
    }

    /// Changes the newest value in place, for one that is too large to be made anew each time. `change` says whether
    /// it changed anything; only then there is a new version.
    pub fn revise(&mut self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = change(&mut self.newest.value);
        self.newest.version += u64::from(changed);
        changed
    }

    /// Goes on from what a consumer holds, if that is not older: a controller that starts again has forgotten it.
    pub fn resume(&mut self, held: &Snapshot<T>) {
        if held.version >= self.newest.version {
            self.newest.clone_from(held);
        }
    }
}

/// A snapshot per key: a controller of many functions publishes those that changed. The versions of all keys are
/// drawn from one count, so that a controller that starts again needs one number only to continue above it.
#[derive(Debug)]
pub struct Board<T> {
    /// The newest version drawn.
    drawn: u64,
    newest: Vec<Snapshot<T>>,
    /// What should be published and is not yet, for want of room.
    wanted: Vec<T>,
    /// Keys below it have been looked at; none of those waits.
    looked_at: usize,
}

impl<T: Copy + PartialEq> Board<T> {
    /// Begins with `value` for each of `keys`, which is safe without any controller and therefore not published.
    /// Versions are above `published`.
    pub fn new(published: u64, keys: usize, value: T) -> Board<T> {
        Board {
            drawn: published,
            newest: vec![Snapshot { version: 0, value }; keys],
            wanted: vec![value; keys],
            looked_at: keys,
        }
    }

    /// The newest snapshot of a key; version 0 if none has been published.
    pub fn newest(&self, key: usize) -> &Snapshot<T> {
        &self.newest[key]
    }

    /// The newest version of all keys.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// What has been concluded for a key, published or not.
    pub fn wanted(&self, key: usize) -> T {
        self.wanted[key]
    }

    /// Concludes; [`Board::publish_next`] gives it out if it differs from what is published.
    pub fn conclude(&mut self, key: usize, value: T) {
        self.wanted[key] = value;
        self.looked_at = self.looked_at.min(key);
    }

    /// Goes on from what a consumer of a key holds, if that is not older than what is known here.
    pub fn resume(&mut self, key: usize, held: Snapshot<T>) {
        self.drawn = self.drawn.max(held.version);
        if held.version >= self.newest[key].version {
            self.newest[key] = held;
            self.wanted[key] = held.value;
        }
    }

    /// The next key whose conclusion is not published yet, now under a new version; none if all are.
    pub fn publish_next(&mut self) -> Option<(usize, Snapshot<T>)> {
        while self.looked_at < self.wanted.len() {
            let key = self.looked_at;
            self.looked_at += 1;
            if self.newest[key].value != self.wanted[key] {
                self.drawn += 1;
                self.newest[key] = Snapshot { version: self.drawn, value: self.wanted[key] };
                return Some((key, self.newest[key]));
            }
        }
        None
    }

    /// Panics if a version is above those drawn.
    pub fn check(&self) {
        for (key, snapshot) in self.newest.iter().enumerate() {
            assert!(snapshot.version <= self.drawn, "key {key}: version above the {} drawn", self.drawn);
            let waits = key >= self.looked_at || snapshot.value == self.wanted[key];
            assert!(waits, "key {key}: a conclusion is never published");
        }
    }
}

/// The side that goes on with what it has.
#[derive(Debug)]
pub struct Cache<T> {
    held: Snapshot<T>,
}

impl<T> Cache<T> {
    /// Begins with a value that is safe without any controller; every published snapshot is newer.
    pub fn new(safe: T) -> Cache<T> {
        Cache { held: Snapshot { version: 0, value: safe } }
    }

    /// Takes a snapshot if it is newer than the one held, and says whether it was. Snapshots may come late, twice
    /// and in any order.
    pub fn offer(&mut self, snapshot: Snapshot<T>) -> bool {
        let newer = snapshot.version > self.held.version;
        if newer {
            self.held = snapshot;
        }
        newer
    }

    /// The newest value that has arrived.
    pub fn get(&self) -> &T {
        &self.held.value
    }

    /// The version of that value; 0 if none has arrived.
    pub fn version(&self) -> u64 {
        self.held.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_lost_or_late_the_newest_that_arrived_holds(
            values in proptest::collection::vec(0..4u32, 1..40),
            arrivals in proptest::collection::vec(any::<proptest::sample::Index>(), 0..80),
        ) {
            let mut publisher = Publisher::new(7, 99);
            let mut sent = vec![*publisher.newest()];
            sent.extend(values.into_iter().filter_map(|value| publisher.publish(value).copied()));
            prop_assert!(sent.windows(2).all(|two| two[0].version < two[1].version && two[0].value != two[1].value));
            let (mut cache, mut newest) = (Cache::new(1000), None);
            for arrival in arrivals {
                let snapshot = *arrival.get(&sent);
                cache.offer(snapshot);
                newest = newest.max(Some((snapshot.version, snapshot.value)));
                prop_assert_eq!((cache.version(), *cache.get()), newest.expect("one has arrived"));
            }
            prop_assert!(newest.is_some() || (cache.version(), *cache.get()) == (0, 1000));
        }

        #[test]
        fn a_board_publishes_each_change_once_and_survives_its_controller(
            changes in proptest::collection::vec((0..5usize, 0..3u32, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let mut board = Board::new(0, 5, 0u32);
            let mut caches: Vec<Cache<u32>> = (0..5).map(|_| Cache::new(0)).collect();
            for (key, value, publishes, dies) in changes {
                if dies {
                    // What consumers hold is all that is left.
                    board = Board::new(0, 5, 0);
                    for (key, cache) in caches.iter().enumerate() {
                        board.resume(key, Snapshot { version: cache.version(), value: *cache.get() });
                    }
                }
                board.conclude(key, value);
                board.check();
                while publishes && let Some((key, snapshot)) = board.publish_next() {
                    prop_assert_eq!(snapshot.version, board.drawn());
                    prop_assert_ne!(snapshot.value, *caches[key].get(), "published and nothing changed");
                    prop_assert!(caches[key].offer(snapshot), "older than what is held");
                }
                if publishes {
                    let held: Vec<u32> = caches.iter().map(|cache| *cache.get()).collect();
                    prop_assert_eq!(held, (0..5).map(|key| board.wanted(key)).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn a_large_value_is_revised_in_place_and_resumed() {
        let mut publisher = Publisher::new(3, vec![1, 2]);
        assert!(!publisher.revise(|_| false));
        assert!(publisher.revise(|list| std::mem::replace(&mut list[0], 9) != 9));
        assert_eq!(*publisher.newest(), Snapshot { version: 5, value: vec![9, 2] });
        publisher.resume(&Snapshot { version: 4, value: vec![0, 0] });
        assert_eq!(publisher.newest().version, 5, "an older one says nothing");
        publisher.resume(&Snapshot { version: 8, value: vec![7, 7] });
        assert_eq!(publisher.publish(vec![7, 8]).map(|newest| newest.version), Some(9));
    }

    #[test]
    #[should_panic(expected = "a conclusion is never published")]
    fn canary_board() {
        let mut board = Board::new(0, 2, 0);
        board.wanted[1] = 5;
        board.check();
    }
}
