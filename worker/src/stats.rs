//! What a core counts: since its start, never reset. Readable as one line of text; `millrace core` writes it to
//! stderr on SIGUSR1, and at its end.

use call::{Status, Usage};
use hdrhistogram::Histogram;
use std::fmt;

/// Longest time the histograms tell apart, ns: an hour. Longer ones count as an hour.
const TIME_NS_MAX: u64 = 3600 * 1_000_000_000;

/// Counters and histograms of one core.
pub struct Stats {
    /// Leases received.
    pub leased: u64,
    /// Calls that ended, by [`Status`].
    pub ended: [u64; Status::ALL.len()],
    /// Of those, calls whose instance was made for them.
    pub cold: u64,
    /// Slices after the first.
    pub slices: u64,
    /// Calls that were copied to wait for a later round.
    pub parked: u64,
    /// Outcomes that waited for room in the connection.
    pub kept: u64,
    /// Calls whose connection was lost before their outcome was sent.
    pub lost: u64,
    /// Connections to the node that were tried.
    pub attempts: u64,
    /// Connections to the node that were made.
    pub connections: u64,
    /// Nanoseconds in which calls ran.
    pub busy_ns: u64,
    /// From arrival to first slice, ns.
    pub wait_ns: Histogram<u64>,
    /// From first slice to end, ns.
    pub run_ns: Histogram<u64>,
}

impl Stats {
    pub(crate) fn new() -> Stats {
        // Two digits: 1 % is less than the noise of a clock read. About 30 KiB each.
        let times = || Histogram::new_with_max(TIME_NS_MAX, 2).expect("constant bounds are valid");
        Stats {
            leased: 0,
            ended: [0; Status::ALL.len()],
            cold: 0,
            slices: 0,
            parked: 0,
            kept: 0,
            lost: 0,
            attempts: 0,
            connections: 0,
            busy_ns: 0,
            wait_ns: times(),
            run_ns: times(),
        }
    }

    /// Counts a call that ended.
    pub(crate) fn record(&mut self, status: Status, usage: &Usage) {
        self.ended[status as usize] += 1;
        self.cold += u64::from(usage.cold);
        self.busy_ns += usage.cpu_ns;
        self.wait_ns.saturating_record(usage.wait_ns);
        self.run_ns.saturating_record(usage.run_ns);
    }

    /// Calls that ended, of whatever status.
    pub fn ended_in_all(&self) -> u64 {
        self.ended.iter().sum()
    }
}

impl fmt::Display for Stats {
    /// `key=value` words on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leased={} ended={}", self.leased, self.ended_in_all())?;
        for status in Status::ALL {
            if self.ended[status as usize] > 0 {
                write!(f, " {}={}", status.name(), self.ended[status as usize])?;
            }
        }
        write!(f, " cold={} slices={} parked={}", self.cold, self.slices, self.parked)?;
        write!(f, " kept={} lost={} connections={}", self.kept, self.lost, self.connections)?;
        write!(f, " busy_ms={}", self.busy_ns / 1_000_000)?;
        for (name, times) in [("wait", &self.wait_ns), ("run", &self.run_ns)] {
            for (word, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
                write!(f, " {name}_{word}_us={:.1}", times.value_at_quantile(quantile) as f64 / 1000.0)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_counted() {
        let mut stats = Stats::new();
        stats.leased = 2;
        stats.record(Status::Ok, &Usage { wait_ns: 1000, run_ns: 2_000_000, cold: true, ..Usage::default() });
        stats.record(Status::Timeout, &Usage { run_ns: u64::MAX, ..Usage::default() });
        let line = stats.to_string();
        assert!(line.starts_with("leased=2 ended=2 ok=1 timeout=1 cold=1"), "{line}");
        assert!(line.contains("wait_p99_us=1.0"), "{line}");
    }
}
