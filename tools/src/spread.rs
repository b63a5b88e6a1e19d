//! A distribution of times in four numbers.

use hdrhistogram::Histogram;
use serde::Serialize;

/// A distribution of times, ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Spread {
    /// Median.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1000 are at most this.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Spread {
    /// Of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Spread {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Spread { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }

    /// Of some values.
    pub fn over(values: impl Iterator<Item = u64>) -> Spread {
        let mut histogram = new_histogram();
        values.for_each(|value| histogram.saturating_record(value));
        Spread::of(&histogram)
    }
}

/// An empty histogram of times, ns: three digits, up to an hour.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3600 * 1_000_000_000, 3).expect("these bounds are allowed")
}
