//! An open-addressing table from a key's hash to a place in another table, which holds the key itself.

/// Linear probing with deletion by moving entries back, so that there are no tombstones and a table that is in use for
/// months is as fast as a new one. At most five eighths full: a key that is not there is looked for in four entries
/// then, half a cache line.
///
/// An entry is the upper 32 bits of a hash, whose own upper bits are the entry's home, and the place plus one; zero is
/// empty. Eight entries share a cache line, and a probe looks at a key only if 32 bits agree.
///
/// Probes are what misses the cache, so the table is no larger than the most keys that were ever there at once: one of
/// `size` entries stands at `size..2 * size` of memory that was taken for the largest. When it is full, its
/// entries move on to the next, twice as large; both are walked in the order of hashes, at two nanoseconds an entry.
#[derive(Debug)]
pub struct Ids {
    entries: Vec<u64>,
    size: usize,
    /// `hash >> shift` is the home.
    shift: u32,
    len: usize,
    len_max: usize,
}

/// Entries of a table that has not grown yet.
const SIZE_MIN: usize = 16;

/// A hash that mixes all bits of a call id: its random part alone would do, but clients make the ids.
pub fn hash(key: u128) -> u64 {
    let mut h = (key as u64) ^ ((key >> 64) as u64).rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

impl Ids {
    /// Room for `len_max` keys.
    pub fn new(len_max: usize) -> Ids {
        let size_max = (len_max * 8 / 5 + 1).next_power_of_two().max(SIZE_MIN);
        assert!(size_max <= 1 << 31, "the home is found in 32 bits of the hash");
        let shift = 64 - SIZE_MIN.trailing_zeros();
        Ids { entries: vec![0; 2 * size_max], size: SIZE_MIN, shift, len: 0, len_max }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The place of the key with this hash for which `is` holds.
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.entry(hash, is).map(|at| place(self.entries[at]))
    }

    /// What stands where this key would be looked for first: reading it early brings it into the cache. The place, if
    /// the key seems to be there, and [`u32::MAX`] if not.
    pub fn glimpse(&self, hash: u64) -> u32 {
        let entry = self.entries[self.home(hash)];
        if (entry ^ hash) >> 32 == 0 { place(entry) } else { u32::MAX }
    }

    /// Adds a key that is not there.
    pub fn insert(&mut self, hash: u64, place: u32) {
        assert!(self.len < self.len_max, "the table was made for {} keys", self.len_max);
        if self.len >= self.size / 8 * 5 {
            self.grow();
        }
        self.settle((hash & !0xffff_ffff) | (u64::from(place) + 1));
        self.len += 1;
    }

    fn grow(&mut self) {
        let old = self.size..2 * self.size;
        self.size *= 2;
        self.shift -= 1;
        for at in old {
            let entry = std::mem::take(&mut self.entries[at]);
            if entry != 0 {
                self.settle(entry);
            }
        }
    }

    fn settle(&mut self, entry: u64) {
        let mut at = self.home(entry);
        while self.entries[at] != 0 {
            at = self.next(at);
        }
        self.entries[at] = entry;
    }

    fn home(&self, hash: u64) -> usize {
        self.size + (hash >> self.shift) as usize
    }

    fn next(&self, at: usize) -> usize {
        self.size + ((at + 1) & (self.size - 1))
    }

    /// Takes a key out; whether it was there.
    pub fn remove(&mut self, hash: u64, is: impl Fn(u32) -> bool) -> bool {
        let Some(mut hole) = self.entry(hash, is) else { return false };
        let mask = self.size - 1;
        let mut at = hole;
        loop {
            at = self.next(at);
            let entry = self.entries[at];
            if entry == 0 {
                break;
            }
            // An entry may move back to the hole unless that lies before its home (cyclically).
            let home = self.home(entry);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole] = 0;
        self.len -= 1;
        true
    }

    fn entry(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<usize> {
        let mut at = self.home(hash);
        loop {
            let entry = self.entries[at];
            if entry == 0 {
                return None;
            }
            if (entry ^ hash) >> 32 == 0 && is(place(entry)) {
                return Some(at);
            }
            at = self.next(at);
        }
    }
}

fn place(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Few distinct hashes, so that probes are long, wrap around and meet deletions.
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((0u32..24, any::<bool>()), 1..300)) {
            let keys: Vec<u64> = (0..24u64).map(|k| hash(u128::from(k / 3)) | (0xf << 60)).collect();
            let mut ids = Ids::new(24);
            let mut model: BTreeMap<u32, ()> = BTreeMap::new();
            for (key, add) in ops {
                let h = keys[key as usize];
                if !add {
                    prop_assert_eq!(ids.remove(h, |p| p == key), model.remove(&key).is_some());
                } else if model.insert(key, ()).is_none() {
                    ids.insert(h, key);
                }
                prop_assert_eq!(ids.len(), model.len());
                for key in 0..24u32 {
                    let found = ids.find(keys[key as usize], |p| p == key);
                    prop_assert_eq!(found.is_some(), model.contains_key(&key));
                }
            }
        }
    }
}
