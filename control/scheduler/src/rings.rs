//! Doubly linked rings of numbered items in one array: the lists of a decider that never allocates.

use crate::mask::{MASK_BITS, Mask};

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    prev: u32,
}

/// Rings of items numbered below `items`. Each ring has a head; an item is in at most one ring.
///
/// Heads stand behind the items in the same array, and what is alone points at itself, so that linking and
/// unlinking have no special cases and need not know the ring.
#[derive(Debug)]
pub struct Rings {
    links: Vec<Link>,
    items: usize,
}

impl Rings {
    /// `heads` empty rings for `items` items.
    pub fn new(items: usize, heads: usize) -> Rings {
        let all = u32::try_from(items + heads).expect("items are numbered by 32 bits");
        Rings { links: (0..all).map(|at| Link { next: at, prev: at }).collect(), items }
    }

    fn head(&self, ring: usize) -> u32 {
        let head = self.items + ring;
        debug_assert!(head < self.links.len(), "no ring {ring}");
        head as u32
    }

    /// Whether the item is in a ring.
    pub fn is_linked(&self, item: u32) -> bool {
        self.links[item as usize].next != item
    }

    /// Whether the ring has no items.
    pub fn is_empty(&self, ring: usize) -> bool {
        !self.is_linked(self.head(ring))
    }

    /// The item that was longest in the ring.
    pub fn front(&self, ring: usize) -> Option<u32> {
        let head = self.head(ring);
        let first = self.links[head as usize].next;
        (first != head).then_some(first)
    }

    /// The item behind `item` in its ring.
    pub fn after(&self, ring: usize, item: u32) -> Option<u32> {
        let next = self.links[item as usize].next;
        (next != self.head(ring)).then_some(next)
    }

    /// Puts an item at the end of a ring.
    ///
    /// # Panics
    /// If the item is in a ring.
    pub fn push_back(&mut self, ring: usize, item: u32) {
        assert!(!self.is_linked(item) && (item as usize) < self.items, "an item is in one ring at most");
        let head = self.head(ring);
        let last = self.links[head as usize].prev;
        self.join(last, item);
        self.join(item, head);
    }

    /// Takes an item out of whichever ring it is in.
    ///
    /// # Panics
    /// If the item is in none.
    pub fn remove(&mut self, item: u32) {
        assert!(self.is_linked(item), "an item that is in no ring cannot leave one");
        let Link { next, prev } = self.links[item as usize];
        self.join(prev, next);
        self.join(item, item);
    }

    /// Moves the first item of a ring to its end.
    pub fn rotate(&mut self, ring: usize) {
        if let Some(first) = self.front(ring)
            && self.after(ring, first).is_some()
        {
            self.remove(first);
            self.push_back(ring, first);
        }
    }

    /// Moves all items of one ring behind those of another.
    pub fn append(&mut self, from: usize, to: usize) {
        if self.is_empty(from) {
            return;
        }
        let (from, to) = (self.head(from), self.head(to));
        let Link { next: first, prev: last } = self.links[from as usize];
        self.join(self.links[to as usize].prev, first);
        self.join(last, to);
        self.join(from, from);
    }

    fn join(&mut self, left: u32, right: u32) {
        self.links[left as usize].next = right;
        self.links[right as usize].prev = left;
    }

    /// The items of a ring in their order.
    pub fn iter(&self, ring: usize) -> impl Iterator<Item = u32> {
        std::iter::successors(self.front(ring), move |&item| self.after(ring, item))
    }
}

/// A ring per level of criticality, the highest one first.
#[derive(Debug)]
pub struct Levels {
    rings: Rings,
    occupied: Mask,
}

impl Levels {
    /// All levels empty, for `items` items.
    pub fn new(items: usize) -> Levels {
        Levels { rings: Rings::new(items, MASK_BITS), occupied: Mask::default() }
    }

    /// Puts an item behind all others of its level.
    pub fn push_back(&mut self, level: u8, item: u32) {
        self.rings.push_back(usize::from(level), item);
        self.occupied.set(usize::from(level), true);
    }

    /// Takes an item out of its level.
    pub fn remove(&mut self, level: u8, item: u32) {
        self.rings.remove(item);
        self.occupied.set(usize::from(level), !self.rings.is_empty(usize::from(level)));
    }

    /// The highest level that has items.
    pub fn highest(&self) -> Option<u8> {
        self.occupied.highest().map(|level| level as u8)
    }

    /// The item that was longest in the highest level, and the level.
    pub fn best(&self) -> Option<(u8, u32)> {
        let level = self.highest()?;
        Some((level, self.rings.front(usize::from(level)).expect("an occupied level has items")))
    }

    /// The items of a level: the one behind `after`, or the first.
    pub fn next(&self, level: u8, after: Option<u32>) -> Option<u32> {
        match after {
            None => self.rings.front(usize::from(level)),
            Some(item) => self.rings.after(usize::from(level), item),
        }
    }

    /// The items of a level in their order.
    pub fn iter(&self, level: u8) -> impl Iterator<Item = u32> {
        self.rings.iter(usize::from(level))
    }

    /// Panics unless the mask says which rings have items.
    pub fn check(&self) {
        for level in 0..MASK_BITS {
            assert_eq!(self.occupied.has(level), !self.rings.is_empty(level), "level {level}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rings_are_lists(steps in proptest::collection::vec((0..5u8, 0..8u32, 0..3usize, 0..3usize), 0..200)) {
            let (mut rings, mut lists) = (Rings::new(8, 3), vec![Vec::new(); 3]);
            for (what, item, ring, other) in steps {
                match what {
                    0 if !rings.is_linked(item) => {
                        rings.push_back(ring, item);
                        lists[ring].push(item);
                    }
                    1 if rings.is_linked(item) => {
                        rings.remove(item);
                        lists.iter_mut().for_each(|list| list.retain(|&at| at != item));
                    }
                    2 if ring != other => {
                        rings.append(ring, other);
                        let moved = std::mem::take(&mut lists[ring]);
                        lists[other].extend(moved);
                    }
                    3 if !lists[ring].is_empty() => {
                        rings.rotate(ring);
                        lists[ring].rotate_left(1);
                    }
                    _ => {}
                }
                for (ring, list) in lists.iter().enumerate() {
                    prop_assert!(rings.iter(ring).eq(list.iter().copied()));
                    prop_assert_eq!(rings.front(ring), list.first().copied());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "one ring at most")]
    fn canary_linked_twice() {
        let mut rings = Rings::new(2, 2);
        rings.push_back(0, 1);
        rings.push_back(1, 1);
    }
}
