//! Versioned snapshots: what passes between a controller and those who use its conclusions.

/// One conclusion of a controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    }
}
