//! What the node counts: for operators, never for deciding.

use call::Usage;
use call::admin::{NodeStatus, Quantiles};
use call::time::nanos;
use hdrhistogram::Histogram;
use std::time::Duration;

/// What the durable queue does not count: refusals, cold starts, and three distributions of times.
pub struct Stats {
    /// Submits refused, of whatever reason.
    pub refused: u64,
    /// Cold starts reported by workers.
    pub cold_starts: u64,
    /// Times that a function was made warm before its call.
    pub foreseen: u64,
    queueing: Histogram<u64>,
    execution: Histogram<u64>,
    end_to_end: Histogram<u64>,
}

/// Above it a time is counted as this long: the longest a call may be scheduled ahead.
const TIME_MAX: Duration = call::limits::START_AHEAD_MAX;

impl Stats {
    /// All zero. Three histograms of two significant digits: about 50 KiB each.
    pub fn new() -> Stats {
        let times = || {
            Histogram::new_with_bounds(1_000, TIME_MAX.as_nanos() as u64, 2)
                .expect("1 us is less than a week")
        };
        Stats {
            refused: 0,
            cold_starts: 0,
            foreseen: 0,
            queueing: times(),
            execution: times(),
            end_to_end: times(),
        }
    }

    /// A lease was given this long after the call was due.
    pub fn queued(&mut self, waited: Duration) {
        self.queueing.saturating_record(nanos(waited));
    }

    /// What an execution took on its core.
    pub fn executed(&mut self, usage: &Usage) {
        self.cold_starts += u64::from(usage.cold);
        self.execution.saturating_record(usage.run_ns);
    }

    /// A call ended well this long after it could have started.
    pub fn ended(&mut self, after: Duration) {
        self.end_to_end.saturating_record(nanos(after));
    }

    /// Fills in what is counted here.
    pub fn report(&self, into: &mut NodeStatus) {
        into.refused = self.refused;
        into.cold_starts = self.cold_starts;
        into.foreseen = self.foreseen;
        into.queueing = quantiles(&self.queueing);
        into.execution = quantiles(&self.execution);
        into.end_to_end = quantiles(&self.end_to_end);
    }
}

impl Default for Stats {
    fn default() -> Stats {
        Stats::new()
    }
}

fn quantiles(of: &Histogram<u64>) -> Quantiles {
    if of.is_empty() {
        return Quantiles::default();
    }
    Quantiles {
        count: of.len(),
        p50_ns: of.value_at_quantile(0.5),
        p99_ns: of.value_at_quantile(0.99),
        p999_ns: of.value_at_quantile(0.999),
        max_ns: of.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_reported_as_quantiles_and_bounded() {
        let mut stats = Stats::new();
        (1..=100).for_each(|ms| stats.queued(Duration::from_millis(ms)));
        stats.queued(Duration::MAX);
        let mut status = NodeStatus::default();
        stats.report(&mut status);
        assert_eq!((status.queueing.count, status.execution), (101, Quantiles::default()));
        assert!((50_000_000..53_000_000).contains(&status.queueing.p50_ns), "{}", status.queueing.p50_ns);
        assert!(status.queueing.max_ns >= TIME_MAX.as_nanos() as u64);
    }
}
