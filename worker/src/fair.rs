//! Who gets the next slice: long calls share what short ones leave, by weight.
//!
//! Earliest eligible virtual deadline first (Stoica, Abdel-Wahab 1995). Virtual time is CPU time divided by weight. A
//! call has had its share up to its *start*; it may have the next slice once all together have come as far (it is
//! *eligible*), and should have it before its *deadline*, a slice later; of the eligible ones that with the earliest
//! deadline is next. So what a call had differs from its share by less than a slice at any time, however many there
//! are and whatever their weights: stride scheduling by start alone lets one with a large weight run ahead of many.
//!
//! Two heaps, O(log n) for everything; nothing is allocated after `new`.

use crate::heap::SlotHeap;
use runtime::SlotId;

/// Virtual time of a nanosecond at weight 1. The largest weight is 10,000: a microsecond is still told apart there.
const SCALE: u128 = 1 << 16;

/// What a slot's call has had.
#[derive(Clone, Copy, Default)]
struct Share {
    weight: u32,
    /// Virtual time up to which it has had its share.
    start: u128,
}

/// Calls that want a slice now.
pub(crate) struct Fair {
    /// Not eligible yet, by start.
    early: SlotHeap<u128>,
    /// Eligible, by deadline.
    eligible: SlotHeap<u128>,
    shares: Box<[Share]>,
    /// Sum of the weights of all that are queued, and of their weighted starts: the mean of these is how far all
    /// together have come.
    weights: u128,
    starts: u128,
    /// The furthest that all together had come; who was eligible then stays so.
    now: u128,
    /// What a slice is taken for in a deadline, ns.
    slice_ns: u64,
}

impl Fair {
    pub fn new(slots: u32, slice_ns: u64) -> Fair {
        Fair {
            early: SlotHeap::new(slots),
            eligible: SlotHeap::new(slots),
            shares: vec![Share::default(); slots as usize].into_boxed_slice(),
            weights: 0,
            starts: 0,
            now: 0,
            slice_ns,
        }
    }

    pub fn len(&self) -> usize {
        self.early.len() + self.eligible.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn contains(&self, slot: SlotId) -> bool {
        self.early.contains(slot) || self.eligible.contains(slot)
    }

    pub fn clear(&mut self) {
        self.early.clear();
        self.eligible.clear();
        (self.weights, self.starts, self.now) = (0, 0, 0);
        self.shares.fill(Share::default());
    }

    /// A call of this weight is new in its slot: it has had nothing, and has missed nothing.
    pub fn admit(&mut self, slot: SlotId, weight: u32) {
        self.shares[slot.0 as usize] = Share { weight: weight.max(1), start: self.mean() };
    }

    /// The call ran so long.
    ///
    /// # Panics
    /// In debug builds, if it is queued: it has been taken out to run.
    pub fn charge(&mut self, slot: SlotId, ran_ns: u64) {
        debug_assert!(!self.contains(slot));
        let share = &mut self.shares[slot.0 as usize];
        share.start += u128::from(ran_ns) * SCALE / u128::from(share.weight.max(1));
    }

    /// A call wants a slice that wanted none before (it slept, or is new): what it did not want meanwhile it does not
    /// get later, what it had too much it still owes.
    pub fn join(&mut self, slot: SlotId) {
        let mean = self.mean();
        let share = &mut self.shares[slot.0 as usize];
        share.start = share.start.max(mean);
        self.rejoin(slot);
    }

    /// A call that has just had a slice wants another one.
    pub fn rejoin(&mut self, slot: SlotId) {
        assert!(!self.contains(slot), "a call is queued once");
        let Share { weight, start } = self.shares[slot.0 as usize];
        self.weights += u128::from(weight);
        self.starts += u128::from(weight) * start;
        self.early.set(slot, start);
    }

    /// Takes a call out, wherever it stands; false if it is not queued.
    pub fn remove(&mut self, slot: SlotId) -> bool {
        let queued = self.early.remove(slot) || self.eligible.remove(slot);
        if queued {
            let Share { weight, start } = self.shares[slot.0 as usize];
            self.now = self.now.max(self.mean());
            self.weights -= u128::from(weight);
            self.starts -= u128::from(weight) * start;
        }
        queued
    }

    /// Takes out the call that is to have the next slice.
    pub fn pop(&mut self) -> Option<SlotId> {
        self.now = self.now.max(self.mean());
        while let Some((start, slot)) = self.early.peek()
            && start <= self.now
        {
            self.early.pop();
            let weight = u128::from(self.shares[slot.0 as usize].weight);
            self.eligible.set(slot, start + u128::from(self.slice_ns) * SCALE / weight);
        }
        // The mean is not before the least start, so that somebody is eligible if anybody is queued.
        let (_, slot) = self.eligible.peek()?;
        self.remove(slot);
        Some(slot)
    }

    /// How far all that are queued have come together; if none are, how far they had.
    fn mean(&self) -> u128 {
        self.starts.checked_div(self.weights).unwrap_or(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLICE: u64 = 1_000_000;

    /// Runs calls of these weights for so many slices, each of a length that `length` gives; what each has had.
    fn run(weights: &[u32], slices: usize, mut length: impl FnMut() -> u64, check: bool) -> Vec<u64> {
        let mut fair = Fair::new(weights.len() as u32, SLICE);
        for (slot, weight) in (0..).map(SlotId).zip(weights) {
            fair.admit(slot, *weight);
            fair.join(slot);
        }
        let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut had = vec![0; weights.len()];
        for _ in 0..slices {
            let slot = fair.pop().expect("all want a slice");
            let ran = length();
            had[slot.0 as usize] += ran;
            fair.charge(slot, ran);
            fair.rejoin(slot);
            if !check {
                continue;
            }
            let total: u64 = had.iter().sum();
            for (had, weight) in had.iter().zip(weights) {
                let due = total as f64 * f64::from(*weight) / all;
                let off = (*had as f64 - due).abs();
                assert!(off <= SLICE as f64 * 1.001, "off by {off} ns of {due}, weights {weights:?}");
            }
        }
        had
    }

    proptest! {
        /// The law: at any time what each has had differs from its share by a slice at most. (Of two times, as the ends
        /// of a window, by two at most.)
        #[test]
        fn shares_are_as_the_weights_to_within_a_slice(
            weights in prop::collection::vec(1u32..=10_000, 1..12),
            seed in any::<u64>(),
            whole in any::<bool>(),
        ) {
            let mut random = seed;
            let length = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if whole { SLICE } else { 1 + (random >> 33) % SLICE }
            };
            run(&weights, 2_000, length, true);
        }

        /// Nobody waits longer than its weight says, whoever comes, sleeps and goes meanwhile.
        #[test]
        fn nobody_starves_while_others_come_and_go(
            moves in prop::collection::vec((1u32..8, 0u8..3, 1u32..=10_000), 0..400),
        ) {
            let mut fair = Fair::new(8, SLICE);
            fair.admit(SlotId(0), 100);
            fair.join(SlotId(0));
            let (mut admitted, mut waited, mut others) = ([false; 8], 0u64, 0u64);
            for (slot, what, weight) in moves {
                let slot = SlotId(slot);
                match what {
                    0 => { fair.remove(slot); }
                    1 if !fair.contains(slot) => {
                        if !std::mem::replace(&mut admitted[slot.0 as usize], true) || weight % 3 == 0 {
                            fair.admit(slot, weight.min(200));
                        }
                        fair.join(slot);
                    }
                    _ => {}
                }
                let next = fair.pop().expect("one at least");
                fair.charge(next, SLICE);
                fair.rejoin(next);
                waited = if next == SlotId(0) { 0 } else { waited + 1 };
                others = others.max(waited);
            }
            // Seven others of twice its weight at most, and each may come anew with a slice in hand.
            prop_assert!(others <= 64, "waited for {} slices", others);
        }
    }

    #[test]
    fn a_heavy_call_does_not_run_ahead_of_many_light_ones() {
        let mut weights = vec![100; 100];
        weights.push(10_000);
        let had = run(&weights, 400, || SLICE, true);
        assert_eq!(had[100], 200 * SLICE, "half of the time");
    }

    #[test]
    fn who_slept_gets_nothing_for_it_and_who_ran_still_owes() {
        let mut fair = Fair::new(2, SLICE);
        for slot in [SlotId(0), SlotId(1)] {
            fair.admit(slot, 100);
            fair.join(slot);
        }
        // The second one sleeps after each of its slices, and is back at once.
        let mut had = [0; 2];
        for _ in 0..1000 {
            let slot = fair.pop().expect("both want a slice");
            fair.charge(slot, SLICE);
            had[slot.0 as usize] += 1;
            if slot == SlotId(1) { fair.join(slot) } else { fair.rejoin(slot) }
        }
        assert!(had[1] <= 502, "{had:?}");
        fair.remove(SlotId(1));
        for _ in 0..1000 {
            fair.pop();
            fair.charge(SlotId(0), SLICE);
            fair.rejoin(SlotId(0));
        }
        fair.join(SlotId(1));
        let back: Vec<SlotId> = (0..10)
            .map(|_| {
                let slot = fair.pop().expect("both want a slice");
                fair.charge(slot, SLICE);
                fair.rejoin(slot);
                slot
            })
            .collect();
        assert!(back.iter().filter(|slot| slot.0 == 1).count() <= 6, "{back:?}");
    }

    #[test]
    #[should_panic(expected = "off by")]
    fn canary_a_share_of_one_and_a_half_is_seen() {
        let mut fair = Fair::new(2, SLICE);
        let mut had = [0u64; 2];
        for slot in [SlotId(0), SlotId(1)] {
            fair.admit(slot, if slot.0 == 0 { 150 } else { 100 });
            fair.join(slot);
        }
        for _ in 0..100 {
            let slot = fair.pop().expect("both want a slice");
            fair.charge(slot, SLICE);
            fair.rejoin(slot);
            had[slot.0 as usize] += SLICE;
            let off = had[0].abs_diff((had[0] + had[1]) / 2);
            assert!(off <= SLICE, "off by {off} ns");
        }
    }
}
