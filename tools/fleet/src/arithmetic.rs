//! Chance and the few functions of analysis that the fleet needs, the same bits on every machine.
//!
//! The library's `ln` and `exp` may differ in the last bit between machines, and a trace hash would tell. These use
//! the four basic operations only, which IEEE 754 fixes.

/// The platform's generator, with what a fleet draws.
#[derive(Clone, Debug)]
pub struct Random(call::random::Random);

impl Random {
    /// From a seed and the number of a stream, so that one seed feeds many independent ones.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(call::random::Random::new(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f)));
        random.bits();
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        self.0.unit()
    }

    /// Uniform below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// Exponentially distributed with mean 1: the mass between two arrivals of a Poisson process.
    pub fn exponential(&mut self) -> f64 {
        -log2(1.0 - self.unit()) * std::f64::consts::LN_2
    }
}

/// The logarithm to base 2 of a positive number.
pub fn log2(x: f64) -> f64 {
    assert!(x > 0.0 && x.is_finite(), "no logarithm of {x}");
    // Subnormal numbers do not occur in what the fleet computes.
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), a series whose ratio is below 0.03.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let (square, mut term, mut sum) = (s * s, s, 0.0);
    for odd in 0..12u32 {
        sum += term / f64::from(2 * odd + 1);
        term *= square;
    }
    exponent as f64 + 2.0 * sum / std::f64::consts::LN_2
}

/// 2 to the power of `x`.
pub fn exp2(x: f64) -> f64 {
    assert!(x.abs() < 1000.0, "2 to the power of {x} is out of range");
    let whole = (x + 0.5).floor();
    let rest = (x - whole) * std::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for at in 1..16u32 {
        term *= rest / f64::from(at);
        sum += term;
    }
    sum * f64::from_bits(((whole as i64 + 1023) as u64) << 52)
}

/// `base` to the power of `exponent`, for a positive base.
pub fn power(base: f64, exponent: f64) -> f64 {
    exp2(log2(base) * exponent)
}

/// Adds a word to a hash of everything that happened (FNV-1a by words, with a final mix of each).
pub fn mix(hash: u64, word: u64) -> u64 {
    let folded = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    folded ^ (folded >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn logarithm_and_power_are_inverse(x in 1e-9..1e12f64) {
            prop_assert!((exp2(log2(x)) / x - 1.0).abs() < 1e-12);
            prop_assert!((log2(x) - x.log2()).abs() < 1e-12);
            prop_assert!((power(x, 0.5) / x.sqrt() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn arrivals_have_mean_one() {
        let mut random = Random::new(7, 0);
        let sum: f64 = (0..100_000).map(|_| random.exponential()).sum();
        assert!((99_000.0..101_000.0).contains(&sum), "{sum}");
    }

    #[test]
    fn streams_of_one_seed_differ() {
        assert_ne!(Random::new(7, 0).bits(), Random::new(7, 1).bits());
    }
}
