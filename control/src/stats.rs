//! What the node counts: for operators, never for deciding.

use call::admin::{NodeStatus, Quantiles};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Counters since the start, and three distributions of times.
pub struct Stats {
    /// Calls accepted, on disk.
    pub accepted: u64,
    /// Submits refused, of whatever reason.
    pub refused: u64,
    /// Submits recognised as already held.
    pub duplicates: u64,
    /// Leases given.
    pub leased: u64,
    /// Calls that ended well.
    pub completed: u64,
    /// Executions that failed and were scheduled again.
    pub retried: u64,
    /// Calls that went to the dead letters.
    pub dead: u64,
    /// Leases that ended because the worker was lost or silent.
    pub leases_lost: u64,
    /// Outcomes of an old epoch, ignored.
    pub fenced: u64,
    /// Cold starts reported by workers.
    pub cold_starts: u64,
    /// Clients whose connection was closed because they did not read what was sent to them.
    pub slow_clients: u64,
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
            accepted: 0,
            refused: 0,
            duplicates: 0,
            leased: 0,
            completed: 0,
            retried: 0,
            dead: 0,
            leases_lost: 0,
            fenced: 0,
            cold_starts: 0,
            slow_clients: 0,
            queueing: times(),
            execution: times(),
            end_to_end: times(),
        }
    }

    /// A lease was given this long after the call could have started.
    pub fn queued(&mut self, ns: u64) {
        self.queueing.saturating_record(ns);
    }

    /// An execution took this long on its core.
    pub fn executed(&mut self, ns: u64) {
        self.execution.saturating_record(ns);
    }

    /// A call ended well this long after it could have started.
    pub fn ended(&mut self, ns: u64) {
        self.end_to_end.saturating_record(ns);
    }

    /// Fills in what is counted here.
    pub fn report(&self, into: &mut NodeStatus) {
        into.accepted = self.accepted;
        into.refused = self.refused;
        into.duplicates = self.duplicates;
        into.leased = self.leased;
        into.completed = self.completed;
        into.retried = self.retried;
        into.dead = self.dead;
        into.leases_lost = self.leases_lost;
        into.fenced = self.fenced;
        into.cold_starts = self.cold_starts;
        into.slow_clients = self.slow_clients;
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
        (1..=100).for_each(|ms| stats.queued(ms * 1_000_000));
        stats.queued(u64::MAX);
        let mut status = NodeStatus::default();
        stats.report(&mut status);
        assert_eq!((status.queueing.count, status.execution), (101, Quantiles::default()));
        assert!((50_000_000..53_000_000).contains(&status.queueing.p50_ns), "{}", status.queueing.p50_ns);
        assert!(status.queueing.max_ns >= TIME_MAX.as_nanos() as u64);
    }
}
