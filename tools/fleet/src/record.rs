//! What a run leaves behind: series over time, delays, and the ledger.

use crate::arithmetic::mix;

/// Steps of the histogram inside one doubling.
const STEPS: u64 = 16;
const BUCKETS: usize = 40 * STEPS as usize;

/// Delays in milliseconds by logarithmic buckets of 6%; counted are real calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Delays {
    counts: Vec<u64>,
    /// All of them.
    pub count: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Default for Delays {
    fn default() -> Delays {
        Delays { counts: vec![0; BUCKETS], count: 0, max_ms: 0 }
    }
}

impl Delays {
    /// So many calls waited so long.
    pub fn add(&mut self, ms: u64, calls: u64) {
        self.counts[bucket(ms)] += calls;
        self.count += calls;
        self.max_ms = self.max_ms.max(ms);
    }

    /// What this share of all calls (0.0 to 1.0) did not pass, as the upper end of a bucket.
    pub fn quantile_ms(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return end(at).min(self.max_ms);
            }
        }
        0
    }

    /// The share of calls that did not wait longer.
    pub fn within(&self, ms: u64) -> f64 {
        let seen: u64 = self.counts[..=bucket(ms)].iter().sum();
        if self.count == 0 { 1.0 } else { seen as f64 / self.count as f64 }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Delays) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, more)| *own += more);
        self.count += other.count;
        self.max_ms = self.max_ms.max(other.max_ms);
    }
}

fn bucket(ms: u64) -> usize {
    if ms < STEPS {
        return ms as usize;
    }
    let doubling = u64::from(ms.ilog2() - STEPS.ilog2());
    ((doubling * STEPS + (ms >> doubling)) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn end(bucket: usize) -> u64 {
    let (at, steps) = (bucket as u64, STEPS);
    if at < 2 * steps {
        return at;
    }
    let doubling = at / steps - 1;
    ((at % steps + steps + 1) << doubling) - 1
}

/// One point of the series of a region. CPU is in M instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Real calls received.
    pub received: u64,
    /// CPU that they need.
    pub received_cpu: u64,
    /// CPU that was used.
    pub executed_cpu: u64,
    /// Of that, for calls of other regions.
    pub remote_cpu: u64,
    /// Real calls that ended well.
    pub finished: u64,
    /// CPU of calls that wait in the durable queue or the scheduler, at the point's end.
    pub backlog_cpu: u64,
    /// S at the point's end, per mille.
    pub s: u64,
    /// Exceptions of downstream services.
    pub exceptions: u64,
    /// Simulated calls of functions that use a service which wait, at the point's end.
    pub using_waiting: u64,
    /// The longest start delay of a call of reserved quota that started in it, ms.
    pub reserved_delay_ms: u64,
    /// What workers do in a second, mean, in thousandths of what they do with all code compiled, at the point's end.
    pub rate: u64,
}

/// What became of all calls. Counted are real calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Received while it was measured.
    pub received: u64,
    /// Of these, ended well.
    pub finished: u64,
    /// Of these, ended after their deadline.
    pub late: u64,
    /// Of these, of opportunistic quota.
    pub late_opportunistic: u64,
    /// Attempts that a downstream service refused.
    pub refused: u64,
    /// Runs lost with a region.
    pub lost_runs: u64,
    /// Simulated calls received, at any time.
    pub simulated: u64,
    /// Simulated calls that ended, at any time.
    pub ended: u64,
}

impl Ledger {
    /// Adds all of another.
    pub fn merge(&mut self, other: &Ledger) {
        self.received += other.received;
        self.finished += other.finished;
        self.late += other.late;
        self.late_opportunistic += other.late_opportunistic;
        self.refused += other.refused;
        self.lost_runs += other.lost_runs;
        self.simulated += other.simulated;
        self.ended += other.ended;
    }
}

/// What one region leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The series, from the begin of the warm-up on.
    pub points: Vec<Point>,
    /// Start delays of calls of reserved quota that were received while it was measured.
    pub reserved: Delays,
    /// The same of opportunistic quota.
    pub opportunistic: Delays,
    /// Start delays of calls of reserved quota, but for those of the function that is watched.
    pub others: Delays,
    /// What became of all calls.
    pub ledger: Ledger,
    /// Memory of each worker, each minute, MB.
    pub memory_mb: Vec<u32>,
    /// Different functions on each worker, each hour.
    pub distinct: Vec<u32>,
    /// After a push: how long each worker took to its full rate.
    pub full_rate_ms: Vec<u64>,
    /// The lowest rate of all workers together, per mille of the full one.
    pub rate_least: u32,
    /// Hash of everything that happened.
    pub hash: u64,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            points: Vec::new(),
            reserved: Delays::default(),
            opportunistic: Delays::default(),
            others: Delays::default(),
            ledger: Ledger::default(),
            memory_mb: Vec::new(),
            distinct: Vec::new(),
            full_rate_ms: Vec::new(),
            rate_least: 1000,
            hash: 0,
        }
    }
}

impl Record {
    /// Notes that something happened.
    pub fn trace(&mut self, tick: u32, what: u64, function: u32) {
        self.hash = mix(self.hash, u64::from(tick) << 32 | what << 28 | u64::from(function));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_are_narrow_and_in_order(ms in 0..1u64 << 40) {
            let at = bucket(ms);
            prop_assert!(end(at) >= ms && (at == 0 || end(at - 1) < ms));
            prop_assert!(end(at) - ms <= ms / 16 + 1);
        }
    }

    #[test]
    fn quantiles_count_calls() {
        let mut delays = Delays::default();
        delays.add(5, 98);
        delays.add(1000, 2);
        assert_eq!((delays.quantile_ms(0.5), delays.quantile_ms(0.99)), (5, 1000));
        assert_eq!((delays.within(10), delays.within(1000)), (0.98, 1.0));
        assert_eq!(Delays::default().quantile_ms(0.5), 0);
    }
}
