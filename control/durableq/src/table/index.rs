//! Calls by their ids: chains through the numbers of calls.
//!
//! Twelve bytes for a call: eight of its buckets, four for the next call of its bucket. There are twice as many buckets
//! as there were ever calls at once. More are made a few at a time (linear hashing), each by moving what belongs there out
//! of one other bucket. So the table never grows in one go, and is never larger than what was needed.

/// Buckets of an index that has not grown yet.
const BUCKETS_MIN: usize = 64;
/// Buckets for each call: a call that is not there is compared with half a call.
const BUCKETS_PER_CALL: usize = 2;
/// Buckets that are made at once: what they are made of lies apart, and is read together.
const SPLIT: usize = 32;

/// See the module. The ids themselves are in the table of calls.
#[derive(Debug)]
pub struct Index {
    /// The first call of each bucket, plus one; 0 for none.
    heads: Vec<u32>,
    /// By number of the call: the next of its bucket, plus one.
    next: Vec<u32>,
    /// Buckets in use: `mask` names more of them than there are, half of that fewer.
    buckets: usize,
    mask: usize,
    len: usize,
}

impl Index {
    /// Room for calls with numbers below `len_max`.
    pub fn new(len_max: usize) -> Index {
        let room = (len_max * BUCKETS_PER_CALL).next_multiple_of(SPLIT).max(BUCKETS_MIN);
        let (heads, next) = (vec![0; room], vec![0; len_max]);
        Index { heads, next, buckets: BUCKETS_MIN, mask: BUCKETS_MIN - 1, len: 0 }
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The call with this hash for which `is` holds.
    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut link = self.heads[self.bucket(hash)];
        while link != 0 {
            if is(link - 1) {
                return Some(link - 1);
            }
            link = self.next[link as usize - 1];
        }
        None
    }

    /// The first call that would be compared with: reading it early brings it into the cache. [`u32::MAX`] for none.
    pub fn glimpse(&self, hash: u64) -> u32 {
        self.heads[self.bucket(hash)].wrapping_sub(1)
    }

    /// As [`Index::glimpse`], for what is read behind that call.
    pub fn glimpse_next(&self, call: u32) -> u32 {
        self.next.get(call as usize).copied().unwrap_or(0)
    }

    /// Adds a call that is not there. `hash_of` gives the hashes of those that are.
    pub fn insert(&mut self, hash: u64, call: u32, hash_of: impl Fn(u32) -> u64) {
        if self.len * BUCKETS_PER_CALL >= self.buckets && self.buckets < self.heads.len() {
            self.glimpse_splits(&hash_of);
            (0..SPLIT).for_each(|_| self.split(&hash_of));
        }
        let bucket = self.bucket(hash);
        self.next[call as usize] = std::mem::replace(&mut self.heads[bucket], call + 1);
        self.len += 1;
    }

    /// Takes a call out; whether it was there.
    pub fn remove(&mut self, hash: u64, call: u32) -> bool {
        let bucket = self.bucket(hash);
        let after = self.next[call as usize];
        let mut link = self.heads[bucket];
        if link == call + 1 {
            self.heads[bucket] = after;
            self.len -= 1;
            return true;
        }
        while link != 0 {
            let before = link as usize - 1;
            link = self.next[before];
            if link == call + 1 {
                self.next[before] = after;
                self.len -= 1;
                return true;
            }
        }
        false
    }

    fn bucket(&self, hash: u64) -> usize {
        let bucket = hash as usize & self.mask;
        if bucket < self.buckets { bucket } else { bucket & (self.mask >> 1) }
    }

    /// Reads what the next splits will read.
    fn glimpse_splits(&self, hash_of: impl Fn(u32) -> u64) {
        let old = if self.buckets > self.mask { 0 } else { self.buckets & (self.mask >> 1) };
        let calls = self.heads[old..old + SPLIT].iter().filter_map(|link| link.checked_sub(1));
        let read = |call: u32| hash_of(call) ^ u64::from(self.next[call as usize]);
        std::hint::black_box(calls.fold(0, |seen, call| seen ^ read(call)));
    }

    /// One bucket more: the upper half of another one's calls.
    fn split(&mut self, hash_of: impl Fn(u32) -> u64) {
        if self.buckets > self.mask {
            self.mask = self.mask * 2 + 1;
        }
        let (new, old) = (self.buckets, self.buckets & (self.mask >> 1));
        self.buckets += 1;
        let mut link = std::mem::take(&mut self.heads[old]);
        while link != 0 {
            let call = link - 1;
            let into = if hash_of(call) as usize & self.mask == new { new } else { old };
            let next = std::mem::replace(&mut self.next[call as usize], self.heads[into]);
            self.heads[into] = link;
            link = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ids::hash;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Few distinct hashes, so that chains are long; and many calls, so that buckets are split.
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((0u32..200, any::<bool>()), 1..600), few in any::<bool>()) {
            let keys: Vec<u64> = (0..200u128).map(|k| hash(if few { k / 9 } else { k })).collect();
            let mut index = Index::new(200);
            let mut model: BTreeMap<u32, ()> = BTreeMap::new();
            for (call, add) in ops {
                let h = keys[call as usize];
                if !add {
                    prop_assert_eq!(index.remove(h, call), model.remove(&call).is_some());
                } else if model.insert(call, ()).is_none() {
                    index.insert(h, call, |other| keys[other as usize]);
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for call in 0..200u32 {
                let found = index.find(keys[call as usize], |other| other == call);
                prop_assert_eq!(found.is_some(), model.contains_key(&call));
            }
        }
    }
}
