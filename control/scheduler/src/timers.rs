//! When the next gate opens: a hierarchical timer wheel of instants over numbered items, each at most once.
//!
//! Time goes in ticks. A wheel has 64 slots; a slot of the first wheel is one tick, a slot of each further one as long as
//! the whole wheel before it (Varghese and Lauck, SOSP 1987, scheme 7). An item stands in the first wheel on which its tick
//! and the present differ in one slot's number only, and moves to a finer one when the time of its slot comes: at most
//! once per wheel. So setting, moving and taking out cost O(1), whatever else waits.

use crate::rings::Rings;
use call::Instant;

/// Bits of a tick that number a slot.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough for every tick of 64 bits.
const WHEELS: usize = (u64::BITS as usize).div_ceil(SLOT_BITS as usize);

/// Instants of items numbered below `items`.
#[derive(Debug)]
pub struct Timers {
    /// A ring for each slot of each wheel, the finest first.
    slots: Rings,
    /// Per wheel: slots that have items.
    occupied: [u64; WHEELS],
    /// Per slot that has items: an instant not later than any of its items'.
    earliest: Vec<Instant>,
    /// Per item: its instant; [`Instant::NEVER`] if it has none.
    instants: Vec<Instant>,
    tick_ns: u64,
    /// The present: all items are at this tick or later.
    tick: u64,
}

impl Timers {
    /// No instants, and wheels of so many nanoseconds a tick. Items of the same tick are due in any order.
    pub fn new(items: usize, tick_ns: u64) -> Timers {
        assert!(tick_ns > 0, "time has to go on");
        Timers {
            slots: Rings::new(items, WHEELS * SLOTS),
            occupied: [0; WHEELS],
            earliest: vec![Instant::NEVER; WHEELS * SLOTS],
            instants: vec![Instant::NEVER; items],
            tick_ns,
            tick: 0,
        }
    }

    /// An instant at which an item may be due, and before which none is.
    pub fn first(&self) -> Option<Instant> {
        Some(self.earliest[self.first_slot(self.finest()?)])
    }

    /// When the item's instant is.
    pub fn get(&self, item: u32) -> Option<Instant> {
        Some(self.instants[item as usize]).filter(|at| *at < Instant::NEVER)
    }

    /// Sets an item's instant, in the place of an earlier one. [`Instant::NEVER`] takes it out.
    pub fn set(&mut self, item: u32, at: Instant) {
        let before = std::mem::replace(&mut self.instants[item as usize], at);
        if before == at {
            return;
        }
        if before < Instant::NEVER {
            self.take_out(item, before);
        }
        if at < Instant::NEVER {
            self.put_in(item, at);
        }
    }

    /// Takes out an item whose instant has come; that of an earlier tick first.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let slot = self.advance(now)?;
        let due = self.slots.iter(slot).find(|&item| self.instants[item as usize] <= now);
        match due {
            Some(item) => self.set(item, Instant::NEVER),
            None => {
                // Who was due earlier than the others has left.
                let left = self.slots.iter(slot).map(|item| self.instants[item as usize]);
                self.earliest[slot] = left.min().expect("an occupied slot has items");
            }
        }
        due
    }

    /// Moves the present on, up to the tick of `now` or to the first tick that has items: to that one's slot.
    fn advance(&mut self, now: Instant) -> Option<usize> {
        let until = self.tick.max(now.0 / self.tick_ns);
        while let Some(wheel) = self.finest() {
            let slot = self.first_slot(wheel);
            let begins = self.begin_of(wheel, slot);
            if begins > until {
                break;
            }
            self.tick = self.tick.max(begins);
            if wheel == 0 {
                return Some(slot);
            }
            self.refine(wheel, slot);
        }
        self.tick = until;
        None
    }

    /// The finest wheel that has items. They are due before those of coarser wheels.
    fn finest(&self) -> Option<usize> {
        self.occupied.iter().position(|slots| *slots != 0)
    }

    /// The first slot of a wheel that has items.
    fn first_slot(&self, wheel: usize) -> usize {
        wheel * SLOTS + self.occupied[wheel].trailing_zeros() as usize
    }

    /// The first tick of a slot. What is coarser than its wheel is the present's.
    fn begin_of(&self, wheel: usize, slot: usize) -> u64 {
        let shift = SLOT_BITS * wheel as u32;
        let above = self.tick.checked_shr(shift + SLOT_BITS).unwrap_or(0);
        (above.checked_shl(SLOT_BITS).unwrap_or(0) | (slot % SLOTS) as u64) << shift
    }

    /// The wheel and slot of an instant: those of the highest bits in which its tick and the present differ.
    fn place(&self, at: Instant) -> (usize, usize) {
        let tick = self.tick.max(at.0 / self.tick_ns);
        let highest = (tick ^ self.tick).checked_ilog2().unwrap_or(0);
        let wheel = highest / SLOT_BITS;
        let slot = (tick >> (wheel * SLOT_BITS)) as usize % SLOTS;
        (wheel as usize, wheel as usize * SLOTS + slot)
    }

    /// Moves the items of a slot, in which the present is, to finer wheels.
    fn refine(&mut self, wheel: usize, slot: usize) {
        self.occupied[wheel] &= !(1 << (slot % SLOTS));
        while let Some(item) = self.slots.front(slot) {
            self.slots.remove(item);
            self.put_in(item, self.instants[item as usize]);
        }
    }

    fn put_in(&mut self, item: u32, at: Instant) {
        let (wheel, slot) = self.place(at);
        if self.slots.is_empty(slot) {
            self.occupied[wheel] |= 1 << (slot % SLOTS);
            self.earliest[slot] = at;
        }
        self.earliest[slot] = self.earliest[slot].min(at);
        self.slots.push_back(slot, item);
    }

    fn take_out(&mut self, item: u32, at: Instant) {
        let (wheel, slot) = self.place(at);
        self.slots.remove(item);
        if self.slots.is_empty(slot) {
            self.occupied[wheel] &= !(1 << (slot % SLOTS));
        }
    }

    /// Panics unless every item stands in the slot of its instant, which is said not to be later.
    pub fn check(&self) {
        let mut placed = 0;
        for slot in 0..WHEELS * SLOTS {
            let occupied = self.occupied[slot / SLOTS] & (1 << (slot % SLOTS)) != 0;
            assert_eq!(occupied, !self.slots.is_empty(slot), "slot {slot}");
            for item in self.slots.iter(slot) {
                let at = self.instants[item as usize];
                assert_eq!(self.place(at), (slot / SLOTS, slot), "the place of item {item}");
                assert!(self.earliest[slot] <= at, "item {item} would be late");
                placed += 1;
            }
        }
        let set = self.instants.iter().filter(|at| **at < Instant::NEVER).count();
        assert_eq!(placed, set, "items in the wheels");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TICK_NS: u64 = 3;

    /// Instants near and far, in all wheels.
    fn instant() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..20u64,
            0..5_000u64,
            0..2_000_000u64,
            (0..64u32, 0..9u64).prop_map(|(s, n)| (n << s).min(u64::MAX - 1))
        ]
    }

    proptest! {
        #[test]
        fn timers_are_a_map_sorted_by_ticks(steps in proptest::collection::vec((0..12u32, instant(), 0..5u8), 0..200)) {
            let (mut timers, mut model, mut now) = (Timers::new(12, TICK_NS), BTreeMap::new(), 0);
            for (item, at, what) in steps {
                match what {
                    0 => {
                        timers.set(item, Instant::NEVER);
                        model.remove(&item);
                    }
                    1 | 2 => {
                        now = now.max(if what == 1 { at } else { now + at % 300 });
                        let due = timers.pop_due(Instant(now));
                        let first = model.values().copied().min().filter(|first| *first <= Instant(now));
                        prop_assert_eq!(due.is_some(), first.is_some());
                        if let (Some(due), Some(first)) = (due, first) {
                            let was: Instant = model.remove(&due).expect("it was set");
                            prop_assert!(was <= Instant(now) && was.0 / TICK_NS <= first.0.max(now - now % TICK_NS) / TICK_NS);
                        } else {
                            prop_assert!(timers.first().is_none_or(|at| at > Instant(now)), "it would wake for nothing");
                        }
                    }
                    _ => {
                        timers.set(item, Instant(at));
                        model.insert(item, Instant(at));
                    }
                }
                timers.check();
                let earliest = model.values().copied().min();
                prop_assert_eq!(timers.first().is_some(), earliest.is_some());
                prop_assert!(timers.first() <= earliest, "somebody would be late");
                prop_assert_eq!(timers.get(item), model.get(&item).copied());
            }
        }
    }

    #[test]
    fn whoever_waits_longest_is_woken_in_time() {
        let mut timers = Timers::new(1, 1_000_000);
        let far = Instant(u64::MAX - 1);
        timers.set(0, far);
        assert_eq!((timers.first(), timers.pop_due(Instant(u64::MAX / 2))), (Some(far), None));
        assert_eq!((timers.pop_due(far), timers.first()), (Some(0), None));
    }

    #[test]
    #[should_panic(expected = "item 1 would be late")]
    fn canary_late() {
        let mut timers = Timers::new(2, 1);
        timers.set(1, Instant(5));
        let slot = timers.place(Instant(5)).1;
        timers.earliest[slot] = Instant(6);
        timers.check();
    }
}
