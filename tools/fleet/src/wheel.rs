//! A timer wheel: what happens in which tick.

/// Ticks that one turn of the wheel covers. What lies further ahead goes round again.
const SLOTS: u32 = 4096;

/// Items by the tick in which they come up, in the order in which they were put in.
#[derive(Debug)]
pub struct Wheel<T> {
    slots: Vec<Vec<(u32, T)>>,
    len: usize,
}

impl<T: Copy> Wheel<T> {
    /// Nothing is planned.
    pub fn new() -> Wheel<T> {
        Wheel { slots: (0..SLOTS).map(|_| Vec::new()).collect(), len: 0 }
    }

    /// Items that are planned.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is planned.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Plans an item for `at`, which is after the tick taken last.
    pub fn put(&mut self, at: u32, item: T) {
        self.slots[(at % SLOTS) as usize].push((at, item));
        self.len += 1;
    }

    /// Moves what comes up in `now` into `due`, which is emptied first. Ticks are taken one by one.
    pub fn take(&mut self, now: u32, due: &mut Vec<T>) {
        due.clear();
        let slot = &mut self.slots[(now % SLOTS) as usize];
        if slot.is_empty() {
            return;
        }
        slot.retain(|&(at, item)| {
            assert!(at >= now, "tick {at} was passed over");
            if at == now {
                due.push(item);
            }
            at != now
        });
        self.len -= due.len();
    }

    /// Takes everything out, in order of slots: for a region that is lost.
    pub fn drain(&mut self) -> impl Iterator<Item = (u32, T)> {
        self.len = 0;
        self.slots.iter_mut().flat_map(|slot| slot.drain(..))
    }
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_item_comes_up_in_its_tick(ats in proptest::collection::vec(0..3 * SLOTS, 0..100)) {
            let mut wheel = Wheel::new();
            ats.iter().enumerate().for_each(|(item, &at)| wheel.put(at, item));
            let (mut due, mut seen) = (Vec::new(), 0);
            for now in 0..3 * SLOTS {
                wheel.take(now, &mut due);
                prop_assert!(due.iter().all(|&item| ats[item] == now) && due.is_sorted());
                seen += due.len();
            }
            prop_assert_eq!((seen, wheel.len()), (ats.len(), 0));
        }
    }

    #[test]
    #[should_panic(expected = "was passed over")]
    fn canary_a_tick_that_is_not_taken() {
        let mut wheel = Wheel::new();
        wheel.put(1, ());
        wheel.take(1 + SLOTS, &mut Vec::new());
    }
}
