//! Chance, from a seed.

use std::time::Duration;

/// The platform's generator, with what a world draws: equal seeds give equal worlds.
#[derive(Clone, Debug)]
pub struct Random(call::random::Random);

/// A probability in parts per million.
pub type Ppm = u32;

impl Random {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(call::random::Random::new(seed))
    }

    /// A new stream that does not disturb this one when it is drawn from.
    pub fn fork(&mut self) -> Random {
        Random::new(self.bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// From 0 to below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
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
    fn what_is_certain_happens_and_what_is_impossible_does_not() {
        let mut random = Random::new(1);
        assert!(!random.chance(0) && random.chance(1_000_000));
    }
}
