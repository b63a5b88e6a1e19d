//! A binary heap of slots, from which any slot may be taken out: each slot's place in it is known. All memory is taken
//! in `new`.

use runtime::SlotId;

/// A slot that is not in the heap.
const NOWHERE: u32 = u32::MAX;

/// Slots by key, the least first; equal keys by slot. Each slot is in it once or not at all.
pub(crate) struct SlotHeap<K> {
    entries: Vec<(K, SlotId)>,
    /// By slot: its index in `entries`.
    places: Box<[u32]>,
}

impl<K: Ord + Copy> SlotHeap<K> {
    pub fn new(slots: u32) -> SlotHeap<K> {
        let places = vec![NOWHERE; slots as usize].into_boxed_slice();
        SlotHeap { entries: Vec::with_capacity(slots as usize), places }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn contains(&self, slot: SlotId) -> bool {
        self.places[slot.0 as usize] != NOWHERE
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.places.fill(NOWHERE);
    }

    /// The least.
    pub fn peek(&self) -> Option<(K, SlotId)> {
        self.entries.first().copied()
    }

    /// Takes the least out.
    pub fn pop(&mut self) -> Option<(K, SlotId)> {
        let first = self.peek()?;
        self.remove(first.1);
        Some(first)
    }

    /// Puts a slot in, or gives it another key.
    pub fn set(&mut self, slot: SlotId, key: K) {
        let at = match self.places[slot.0 as usize] {
            NOWHERE => {
                self.entries.push((key, slot));
                self.entries.len() - 1
            }
            at => {
                self.entries[at as usize].0 = key;
                at as usize
            }
        };
        let at = self.rise(at);
        self.sink(at);
    }

    /// Takes a slot out; false if it is not in it.
    pub fn remove(&mut self, slot: SlotId) -> bool {
        let at = std::mem::replace(&mut self.places[slot.0 as usize], NOWHERE);
        if at == NOWHERE {
            return false;
        }
        let at = at as usize;
        self.entries.swap_remove(at);
        if at < self.entries.len() {
            let at = self.rise(at);
            self.sink(at);
        }
        true
    }

    /// Moves an entry towards the front as far as it belongs; gives its place.
    fn rise(&mut self, mut at: usize) -> usize {
        let entry = self.entries[at];
        while at > 0 {
            let above = (at - 1) / 2;
            if self.entries[above] <= entry {
                break;
            }
            self.put(at, self.entries[above]);
            at = above;
        }
        self.put(at, entry);
        at
    }

    /// Moves an entry towards the back as far as it belongs.
    fn sink(&mut self, mut at: usize) {
        let entry = self.entries[at];
        loop {
            let mut below = 2 * at + 1;
            if below + 1 < self.entries.len() && self.entries[below + 1] < self.entries[below] {
                below += 1;
            }
            if below >= self.entries.len() || entry <= self.entries[below] {
                return self.put(at, entry);
            }
            self.put(at, self.entries[below]);
            at = below;
        }
    }

    fn put(&mut self, at: usize, entry: (K, SlotId)) {
        self.entries[at] = entry;
        self.places[entry.1.0 as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_sorted_map_of_slots(
            moves in prop::collection::vec((0u8..4, 0u32..20, 0u64..10), 0..300),
        ) {
            let (mut heap, mut map) = (SlotHeap::new(20), BTreeMap::new());
            for (what, slot, key) in moves {
                match what {
                    0 | 1 => {
                        heap.set(SlotId(slot), key);
                        map.insert(slot, key);
                    }
                    2 => prop_assert_eq!(heap.remove(SlotId(slot)), map.remove(&slot).is_some()),
                    _ => {
                        let least = map.iter().map(|(slot, key)| (*key, SlotId(*slot))).min();
                        prop_assert_eq!(heap.pop(), least);
                        least.map(|(_, slot)| map.remove(&slot.0));
                    }
                }
                prop_assert_eq!(heap.len(), map.len());
                prop_assert!((0..20).all(|slot| heap.contains(SlotId(slot)) == map.contains_key(&slot)));
            }
        }
    }
}
