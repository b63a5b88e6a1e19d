//! Concurrency per key: of a function's calls with the same key so many are in the RunQ or running at once.
//!
//! A call whose key is taken up waits beside its FuncBuffer, so that calls of other keys pass it, and comes back when
//! one of its key ends. It waits in the order of its function's calls.
//!
//! **Law**: at most `concurrency_per_key` calls of a function and key are in the RunQ or running; whoever waits is let
//! in, in the order of law 1, as they end.

use crate::func_buffer::FuncBuffer;
use crate::words::{CallRef, FunctionRef};
use call::Instant;

/// A function's key that is in use: its number here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(u32);

#[derive(Clone, Copy, Debug)]
struct Record {
    function: FunctionRef,
    key: u64,
    /// Calls in the RunQ or running.
    taken: u32,
    /// Calls that wait.
    waiting: FuncBuffer,
    /// Since when calls wait.
    since: Instant,
    /// The next of its bucket, or the next free one: its number and 1, 0 at the end.
    next: u32,
}

/// All keys in use: a hash table of chains in memory that was taken at the start.
#[derive(Debug)]
pub struct Keys {
    /// Heads of chains: a record's number and 1, 0 if there is none.
    buckets: Vec<u32>,
    records: Vec<Record>,
    /// The first free record, as in `buckets`.
    free: u32,
    /// Per call: the record of which it has taken one, as in `buckets`.
    taken: Vec<u32>,
    /// An odd number that whoever chooses keys does not know: with it, keys that he chooses share no more buckets than
    /// others do (multiply-shift hashing, Dietzfelbinger and others 1997).
    seed: u64,
}

impl Keys {
    /// Room for the keys of `calls_max` calls. Memory that no key needs is not touched.
    pub fn new(calls_max: usize) -> Keys {
        Keys {
            buckets: vec![0; calls_max.next_power_of_two()],
            records: Vec::with_capacity(calls_max),
            free: 0,
            taken: vec![0; calls_max],
            seed: 0,
        }
    }

    /// Random bits for the table; those that come first are kept. To be said before the first key.
    pub fn seed(&mut self, random: u64) {
        if self.seed == 0 {
            self.seed = random | 1;
        }
    }

    /// A call is about to enter the RunQ: takes one of its key, or gives the slot at which it must wait.
    pub fn take(&mut self, function: FunctionRef, key: u64, limit: u32, call: CallRef) -> Result<(), Slot> {
        let slot = self.find(function, key).unwrap_or_else(|| self.open(function, key));
        let record = &mut self.records[slot.0 as usize];
        if record.taken >= limit {
            return Err(slot);
        }
        record.taken += 1;
        self.taken[call.0 as usize] = slot.0 + 1;
        Ok(())
    }

    /// A call has left the RunQ or ended: gives back what it took, if it did, and the slot if others wait there.
    pub fn give_back(&mut self, call: CallRef) -> Option<Slot> {
        let slot = Slot(std::mem::take(&mut self.taken[call.0 as usize]).checked_sub(1)?);
        let record = &mut self.records[slot.0 as usize];
        record.taken -= 1;
        let waits = !record.waiting.is_empty();
        self.close_unused(slot);
        waits.then_some(slot)
    }

    /// The calls that wait at a slot. Whoever takes some out calls [`Keys::close_unused`] afterwards.
    pub fn waiting_mut(&mut self, slot: Slot) -> &mut FuncBuffer {
        &mut self.records[slot.0 as usize].waiting
    }

    /// Notes when calls begin to wait at a slot.
    pub fn note_wait(&mut self, slot: Slot, now: Instant) {
        let record = &mut self.records[slot.0 as usize];
        if record.waiting.is_empty() {
            record.since = now;
        }
    }

    /// The calls that wait at a slot.
    pub fn waiting(&self, slot: Slot) -> &FuncBuffer {
        &self.records[slot.0 as usize].waiting
    }

    /// Since when calls wait at a slot.
    pub fn since(&self, slot: Slot) -> Instant {
        self.records[slot.0 as usize].since
    }

    /// A slot of the function at which calls wait. Walks over all keys.
    pub fn any_waiting(&self, function: FunctionRef) -> Option<Slot> {
        let waits = |record: &Record| record.function == function && !record.waiting.is_empty();
        self.records.iter().position(waits).map(|at| Slot(at as u32))
    }

    /// Forgets the key if no call needs it.
    pub fn close_unused(&mut self, slot: Slot) {
        let Record { function, key, taken, waiting, next, .. } = self.records[slot.0 as usize];
        if taken > 0 || !waiting.is_empty() {
            return;
        }
        let bucket = self.bucket(function, key);
        let mut at = self.buckets[bucket];
        if at == slot.0 + 1 {
            self.buckets[bucket] = next;
        } else {
            while self.records[at as usize - 1].next != slot.0 + 1 {
                at = self.records[at as usize - 1].next;
            }
            self.records[at as usize - 1].next = next;
        }
        self.records[slot.0 as usize].next = std::mem::replace(&mut self.free, slot.0 + 1);
    }

    fn open(&mut self, function: FunctionRef, key: u64) -> Slot {
        let bucket = self.bucket(function, key);
        let next = self.buckets[bucket];
        let record = Record { function, key, taken: 0, waiting: FuncBuffer::EMPTY, since: Instant(0), next };
        let slot = match self.free.checked_sub(1) {
            Some(free) => {
                self.free = std::mem::replace(&mut self.records[free as usize], record).next;
                free
            }
            None => {
                assert!(self.records.len() < self.records.capacity(), "a key in use has a call");
                self.records.push(record);
                self.records.len() as u32 - 1
            }
        };
        self.buckets[bucket] = slot + 1;
        Slot(slot)
    }

    /// The slot of a key that is in use.
    pub fn find(&self, function: FunctionRef, key: u64) -> Option<Slot> {
        let mut at = self.buckets[self.bucket(function, key)];
        while let Some(slot) = at.checked_sub(1) {
            let record = &self.records[slot as usize];
            if record.key == key && record.function == function {
                return Some(Slot(slot));
            }
            at = record.next;
        }
        None
    }

    fn bucket(&self, function: FunctionRef, key: u64) -> usize {
        debug_assert!(self.seed != 0, "a turn comes first");
        let mixed = key ^ u64::from(function.0) << 32;
        let bits = self.buckets.len().trailing_zeros();
        (mixed.wrapping_mul(self.seed) >> 1 >> (63 - bits)) as usize
    }

    /// Panics unless every key in use is found, is needed, and counts its calls rightly.
    pub fn check(&self) {
        let mut counted = vec![0; self.records.len()];
        self.taken.iter().filter_map(|at| at.checked_sub(1)).for_each(|slot| counted[slot as usize] += 1);
        let mut free = vec![false; self.records.len()];
        let mut at = self.free;
        while let Some(slot) = at.checked_sub(1) {
            assert!(!std::mem::replace(&mut free[slot as usize], true), "slot {slot} is free twice");
            at = self.records[slot as usize].next;
        }
        for (slot, record) in self.records.iter().enumerate() {
            assert_eq!(record.taken, counted[slot], "calls of slot {slot}");
            let needed = record.taken > 0 || !record.waiting.is_empty();
            assert_eq!(needed, !free[slot], "slot {slot} is kept without need");
            if needed {
                assert_eq!(self.find(record.function, record.key), Some(Slot(slot as u32)), "slot {slot}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_key_is_taken_as_often_as_its_limit(
            steps in proptest::collection::vec((0..3u32, 0..5u64, 0..24u32), 0..300), limit in 1..4u32,
        ) {
            let (mut keys, mut taken) = (Keys::new(24), BTreeMap::new());
            keys.seed(1);
            for (function, key, call) in steps {
                // With this seed all keys meet in one bucket.
                let (function, key, call) = (FunctionRef(function), key, CallRef(call));
                if taken.remove(&call).is_some() {
                    prop_assert_eq!(keys.give_back(call), None, "nobody waits");
                } else {
                    let of = taken.values().filter(|of| **of == (function, key)).count();
                    let result = keys.take(function, key, limit, call);
                    prop_assert_eq!(result.is_ok(), of < limit as usize);
                    if result.is_ok() {
                        taken.insert(call, (function, key));
                    }
                }
                keys.check();
            }
        }
    }

    #[test]
    #[should_panic(expected = "calls of slot 0")]
    fn canary_count() {
        let mut keys = Keys::new(4);
        keys.seed(1);
        keys.take(FunctionRef(0), 1, 2, CallRef(0)).unwrap();
        keys.records[0].taken = 2;
        keys.check();
    }
}
