//! When the next gate opens: a heap of instants over numbered items, each at most once.

use call::Instant;

/// Instants of items numbered below `items`. Setting, moving and taking out cost O(log n).
#[derive(Debug)]
pub struct Timers {
    /// A binary heap, the earliest first; equal instants by the item's number.
    heap: Vec<(Instant, u32)>,
    /// Where an item stands in the heap, counted from 1; 0 if it is not there.
    places: Vec<u32>,
}

impl Timers {
    /// No instants.
    pub fn new(items: usize) -> Timers {
        Timers { heap: Vec::with_capacity(items), places: vec![0; items] }
    }

    /// The earliest instant, and whose it is.
    pub fn first(&self) -> Option<(Instant, u32)> {
        self.heap.first().copied()
    }

    /// When the item's instant is.
    pub fn get(&self, item: u32) -> Option<Instant> {
        let place = self.places[item as usize].checked_sub(1)?;
        Some(self.heap[place as usize].0)
    }

    /// Sets an item's instant, in the place of an earlier one. [`Instant::NEVER`] takes it out.
    pub fn set(&mut self, item: u32, at: Instant) {
        match (self.places[item as usize].checked_sub(1), at) {
            (None, Instant::NEVER) => {}
            (Some(place), Instant::NEVER) => self.take_out(place as usize),
            (Some(place), at) => {
                self.heap[place as usize].0 = at;
                let place = self.rise(place as usize);
                self.sink(place);
            }
            (None, at) => {
                self.heap.push((at, item));
                let last = self.heap.len() - 1;
                self.places[item as usize] = last as u32 + 1;
                self.rise(last);
            }
        }
    }

    /// Takes out an item whose instant has come; the earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let (at, item) = self.first()?;
        if at > now {
            return None;
        }
        self.take_out(0);
        Some(item)
    }

    fn take_out(&mut self, place: usize) {
        let item = self.heap.swap_remove(place).1;
        self.places[item as usize] = 0;
        if place < self.heap.len() {
            self.places[self.heap[place].1 as usize] = place as u32 + 1;
            let place = self.rise(place);
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            match children.min_by_key(|&child| self.heap[child]) {
                Some(child) if self.heap[child] < self.heap[place] => {
                    self.swap(place, child);
                    place = child;
                }
                _ => return,
            }
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32 + 1;
        self.places[self.heap[b].1 as usize] = b as u32 + 1;
    }

    /// Panics unless it is a heap and every item stands where it is said to.
    pub fn check(&self) {
        for (place, (at, item)) in self.heap.iter().enumerate() {
            assert_eq!(self.places[*item as usize] as usize, place + 1, "the place of item {item}");
            assert!(*at < Instant::NEVER && self.heap[place.saturating_sub(1) / 2] <= self.heap[place]);
        }
        let placed = self.places.iter().filter(|&&place| place != 0).count();
        assert_eq!(placed, self.heap.len(), "items in the heap");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn timers_are_a_sorted_map(steps in proptest::collection::vec((0..12u32, 0..20u64, 0..4u8), 0..200)) {
            let (mut timers, mut model) = (Timers::new(12), BTreeMap::new());
            for (item, at, what) in steps {
                match what {
                    0 => {
                        timers.set(item, Instant::NEVER);
                        model.remove(&item);
                    }
                    1 => {
                        let first = model.iter().map(|(item, at)| (*at, *item)).min();
                        let due = first.filter(|(first, _)| *first <= Instant(at)).map(|(_, item)| item);
                        prop_assert_eq!(timers.pop_due(Instant(at)), due);
                        due.map(|due| model.remove(&due));
                    }
                    _ => {
                        timers.set(item, Instant(at));
                        model.insert(item, Instant(at));
                    }
                }
                timers.check();
                prop_assert_eq!(timers.first(), model.iter().map(|(item, at)| (*at, *item)).min());
                prop_assert_eq!(timers.get(item), model.get(&item).copied());
            }
        }
    }

    #[test]
    #[should_panic(expected = "the place of item 1")]
    fn canary_place() {
        let mut timers = Timers::new(2);
        timers.set(1, Instant(5));
        timers.places[1] = 2;
        timers.check();
    }
}
