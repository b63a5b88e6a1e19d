//! Chance, from a seed.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, passes BigCrush, and equal seeds give equal worlds.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// A probability in parts per million.
pub type Ppm = u32;

impl Random {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A new stream that does not disturb this one when it is drawn from.
    pub fn fork(&mut self) -> Random {
        Random(self.bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// As [`Random::below`], for indices.
    pub fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// Between `low` and `high`, both possible.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (call::time::nanos(low), call::time::nanos(high));
        Duration::from_nanos(low + self.below(high.saturating_sub(low) + 1))
    }

    /// True with this probability.
    pub fn chance(&mut self, ppm: Ppm) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // From the reference implementation at https://prng.di.unimi.it/splitmix64.c with seed 1234567.
        let mut random = Random::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(drawn, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn bounds_hold() {
        let mut random = Random::new(1);
        let drawn: Vec<u64> = (0..1000).map(|_| random.below(7)).collect();
        assert!((0..7).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| *n < 7));
        assert_eq!(random.below(0), 0);
        assert!(!random.chance(0) && random.chance(1_000_000));
    }
}
