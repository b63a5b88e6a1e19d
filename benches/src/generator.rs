//! What a load generator owes to its figures: that it is on time, and that it says so when it is not.
//!
//! In an open loop a call counts from the time at which it should have been sent. A generator that gets no CPU then
//! measures its own lateness. So it takes real-time priority where it may (what it measures keeps its own), looks at
//! how late it sends, and measures in windows: one in which it was late itself does not count.

use hdrhistogram::Histogram;
use std::io;
use std::time::Duration;

/// A window counts if no more than this part of its calls was sent late.
pub const LATE_PART: f64 = 0.01;
/// Windows that are measured in the hope of enough that count, in multiples of these.
pub const TRIES: usize = 4;

/// Above all that is not real-time itself, and not more.
const PRIORITY: i32 = 1;

/// Real-time priority of the calling thread, until this is dropped. Processes it starts do not inherit it.
#[derive(Debug)]
pub struct Priority(Result<(), io::Error>);

impl Priority {
    /// Takes it, if that is permitted.
    pub fn real_time() -> Priority {
        Priority(schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, PRIORITY))
    }

    /// Which priority is in force, for people.
    pub fn told(&self) -> String {
        match &self.0 {
            Ok(()) => "in real-time priority".into(),
            Err(error) => format!("in ordinary priority ({error})"),
        }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if self.0.is_ok() {
            // A thread may always lower itself.
            let _ = schedule(libc::SCHED_OTHER, 0);
        }
    }
}

fn schedule(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters outlive the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What was measured in one window.
#[derive(Clone, Debug)]
pub struct Window {
    /// From the time at which a call should have been sent to its answer, ns.
    pub latency_ns: Histogram<u64>,
    /// From the time at which a call should have been sent to when it was, ns. Calls that waited for room on the other
    /// side are not in here.
    pub lateness_ns: Histogram<u64>,
}

impl Default for Window {
    fn default() -> Window {
        Window { latency_ns: histogram(), lateness_ns: histogram() }
    }
}

/// From 1 ns to ten minutes.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds are valid")
}

impl Window {
    /// The part of the calls that were sent later than `late` after their time.
    pub fn late_part(&self, late: Duration) -> f64 {
        let all = self.lateness_ns.len().max(1);
        let on_time = self.lateness_ns.count_between(0, late.as_nanos() as u64);
        all.saturating_sub(on_time) as f64 / all as f64
    }
}

/// Windows of one measurement.
#[derive(Debug)]
pub struct Windows {
    late: Duration,
    wanted: usize,
    /// Of the windows that count.
    counted: Window,
    /// Of all.
    all: Window,
    /// How many count, and how many there are.
    pub count: (usize, usize),
}

impl Windows {
    /// None yet; `wanted` shall count, and a call is late after `late`.
    pub fn new(wanted: usize, late: Duration) -> Windows {
        Windows { late, wanted, counted: Window::default(), all: Window::default(), count: (0, 0) }
    }

    /// Adds one; whether it counts.
    pub fn add(&mut self, window: &Window) -> bool {
        let counts = window.late_part(self.late) <= LATE_PART;
        self.count = (self.count.0 + usize::from(counts), self.count.1 + 1);
        for into in [Some(&mut self.all), counts.then_some(&mut self.counted)].into_iter().flatten() {
            into.latency_ns.add(&window.latency_ns).expect("equal bounds");
            into.lateness_ns.add(&window.lateness_ns).expect("equal bounds");
        }
        counts
    }

    /// Whether enough count, or enough were tried.
    pub fn is_enough(&self) -> bool {
        self.count.0 >= self.wanted || self.count.1 >= TRIES * self.wanted
    }

    /// All windows that count, together; all there are if none does.
    pub fn result(&self) -> &Window {
        if self.count.0 > 0 { &self.counted } else { &self.all }
    }

    /// For people: how many count, and why not all do.
    pub fn told(&self) -> String {
        let (counted, all) = self.count;
        let late = self.late.as_micros();
        match (counted, all - counted) {
            (0, _) => format!(
                "NONE of {all} windows counts: the generator itself was more than {late} us late for more than 1 % \
                 of the calls, and this figure is its own"
            ),
            (_, 0) => format!("all {all} windows count"),
            (_, missed) => format!(
                "{counted} of {all} windows count; in {missed} the generator itself was more than {late} us late \
                 for more than 1 % of the calls"
            ),
        }
    }
}

/// The given quantile in microseconds.
pub fn quantile_us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(late: u64, of: u64) -> Window {
        let mut window = Window::default();
        window.lateness_ns.record_n(1_000, of - late).unwrap();
        window.lateness_ns.record_n(900_000, late).unwrap();
        window.latency_ns.record_n(if late * 100 > of { 5_000_000 } else { 30_000 }, of).unwrap();
        window
    }

    #[test]
    fn a_window_of_a_late_generator_does_not_count() {
        let mut windows = Windows::new(2, Duration::from_micros(50));
        assert!(windows.add(&window(10, 1000)));
        assert!(!windows.add(&window(11, 1000)));
        assert!(!windows.is_enough());
        assert!(windows.add(&window(0, 1000)));
        assert!(windows.is_enough());
        assert_eq!(windows.count, (2, 3));
        assert!(quantile_us(&windows.result().latency_ns, 0.999) < 31.0);
        assert!(windows.told().starts_with("2 of 3 windows count"), "{}", windows.told());
    }

    #[test]
    fn if_no_window_counts_that_is_said() {
        let mut windows = Windows::new(1, Duration::from_micros(50));
        for _ in 0..TRIES {
            windows.add(&window(500, 1000));
        }
        assert!(windows.is_enough());
        assert!(windows.told().starts_with("NONE of 4"), "{}", windows.told());
        assert!(quantile_us(&windows.result().latency_ns, 0.99) > 1000.0);
    }
}
