//! A set of numbers below 256 in four words: cores, hosts, levels.

use std::ops::{BitAnd, BitOr};

/// Numbers that a [`Mask`] can hold.
pub const MASK_BITS: usize = 256;
const WORDS: usize = MASK_BITS / 64;

/// A set of numbers below [`MASK_BITS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mask([u64; WORDS]);

impl Mask {
    /// Nothing.
    pub const EMPTY: Mask = Mask([0; WORDS]);

    /// Puts `bit` in or takes it out.
    pub fn set(&mut self, bit: usize, on: bool) {
        let word = &mut self.0[bit / 64];
        let one = 1 << (bit % 64);
        *word = if on { *word | one } else { *word & !one };
    }

    /// Whether `bit` is in.
    pub fn has(&self, bit: usize) -> bool {
        self.0[bit / 64] & (1 << (bit % 64)) != 0
    }

    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// How many are in.
    pub fn count(&self) -> u32 {
        self.0.iter().filter(|&&word| word != 0).map(|word| word.count_ones()).sum()
    }

    /// The `n`-th member in rising order, from 0.
    pub fn nth(&self, n: u32) -> Option<usize> {
        let mut left = n;
        for (index, &word) in self.0.iter().enumerate().filter(|(_, word)| **word != 0) {
            let ones = word.count_ones();
            if left < ones {
                // Drop the lowest members until the wanted one is the lowest.
                let rest = (0..left).fold(word, |word, _| word & (word - 1));
                return Some(index * 64 + rest.trailing_zeros() as usize);
            }
            left -= ones;
        }
        None
    }

    /// The largest member.
    pub fn highest(&self) -> Option<usize> {
        let index = self.0.iter().rposition(|&word| word != 0)?;
        Some(index * 64 + 63 - self.0[index].leading_zeros() as usize)
    }

    /// The members that are not in `other`.
    pub fn without(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// All members in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = *self;
        (0..mask.count()).map(move |n| mask.nth(n).expect("there are that many"))
    }
}

impl BitAnd for Mask {
    type Output = Mask;
    fn bitand(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }
}

impl BitOr for Mask {
    type Output = Mask;
    fn bitor(self, other: Mask) -> Mask {
        Mask(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_mask_is_a_set(bits in proptest::collection::vec((0..MASK_BITS, any::<bool>()), 0..400)) {
            let (mut mask, mut set) = (Mask::default(), BTreeSet::new());
            for (bit, on) in bits {
                mask.set(bit, on);
                if on { set.insert(bit); } else { set.remove(&bit); }
                prop_assert_eq!(mask.has(bit), on);
            }
            prop_assert_eq!(mask.count() as usize, set.len());
            prop_assert_eq!(mask.is_empty(), set.is_empty());
            prop_assert_eq!(mask.highest(), set.last().copied());
            prop_assert!(mask.iter().eq(set.iter().copied()));
            prop_assert_eq!(mask.nth(mask.count()), None);
        }
    }
}
