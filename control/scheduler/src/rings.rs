//! Doubly linked rings of numbered items in one array: the lists of a decider that never allocates.

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

    fn join(&mut self, left: u32, right: u32) {
        self.links[left as usize].next = right;
        self.links[right as usize].prev = left;
    }

    /// The items of a ring in their order.
    pub fn iter(&self, ring: usize) -> impl Iterator<Item = u32> {
        std::iter::successors(self.front(ring), move |&item| self.after(ring, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rings_are_lists(steps in proptest::collection::vec((0..4u8, 0..8u32, 0..3usize), 0..200)) {
            let (mut rings, mut lists) = (Rings::new(8, 3), vec![Vec::new(); 3]);
            for (what, item, ring) in steps {
                match what {
                    0 if !rings.is_linked(item) => {
                        rings.push_back(ring, item);
                        lists[ring].push(item);
                    }
                    1 if rings.is_linked(item) => {
                        rings.remove(item);
                        lists.iter_mut().for_each(|list| list.retain(|&at| at != item));
                    }
                    2 if !lists[ring].is_empty() => {
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
