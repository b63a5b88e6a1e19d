//! The durable cycle beside other queues: each as a real server at its best setting, in the same seconds.

use crate::report::{Figure, Report};
use crate::rivals::{Rate, beanstalkd, nats, postgres, redis};
use std::io;
use std::time::Duration;

/// Pairs of clients that Redis and PostgreSQL are tried with, one number a round; their best counts.
pub const PAIRS: [usize; 3] = [1, 2, 4];
/// Of the ratio to the best of them: what it must be, and what we want.
const OVER_BEST: (f64, f64) = (3.0, 10.0);
/// The same, to one of them.
const OVER: [(&str, f64, f64); 2] = [("redis", 2.5, 8.0), ("beanstalkd", 50.0, 200.0)];
/// What a NATS server that cannot sync always is called.
const NATS_UNSYNCED: &str = "nats-unsynced";

/// The best that each reached.
#[derive(Debug, Default)]
pub struct Rivals {
    best: Vec<(&'static str, Rate)>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

impl Rivals {
    /// Those that are measured before ours.
    pub fn before(&mut self, pairs: usize, payload: usize, span: Duration) {
        self.note("redis", redis::run(pairs, payload, span));
        self.note("postgres", postgres::run(pairs, payload, span));
    }

    /// Those that are measured after it.
    pub fn after(&mut self, payload: usize, span: Duration) {
        self.note("beanstalkd", beanstalkd::run(payload, span));
        match nats::run(payload, span) {
            Ok(nats) if nats.synced => self.note("nats", Ok(nats.rate)),
            Ok(nats) => self.note(NATS_UNSYNCED, Ok(nats.rate)),
            Err(error) => self.note("nats", Err(error)),
        }
    }

    /// Keeps the better of a rival's runs. One that is not installed is said loudly and left out.
    fn note(&mut self, name: &'static str, run: io::Result<Rate>) {
        match (run, self.best.iter_mut().find(|(of, _)| *of == name)) {
            (Ok(rate), Some((_, best))) if rate.jobs_per_s > best.jobs_per_s => *best = rate,
            (Ok(_), Some(_)) => {}
            (Ok(rate), None) => self.best.push((name, rate)),
            (Err(error), _) => {
                println!("   SKIPPED: {error}");
                self.missing.push(error.to_string());
                self.missing.dedup();
            }
        }
    }

    /// What this one reached.
    pub fn of(&self, name: &str) -> Option<Rate> {
        self.best.iter().find(|(of, _)| *of == name).map(|(_, rate)| *rate)
    }

    /// Adds how many times our rate is theirs, and what a job costs them. Names end in `suffix`.
    pub fn add(&self, report: &mut Report, suffix: &str, calls_per_s: f64) {
        for (name, rate) in &self.best {
            let times = calls_per_s / rate.jobs_per_s;
            let mut figure = Figure::new(&format!("durable-cycle-over-{name}{suffix}"), times, "x");
            if let Some((_, bar, aim)) = OVER.iter().find(|(of, ..)| of == name && suffix.is_empty()) {
                figure = figure.bar(*bar, *aim);
            }
            report.add(figure.rival(&format!("{name} jobs/s"), rate.jobs_per_s));
            report.add(Figure::new(&format!("rival-{name}-cpu-per-job{suffix}"), rate.cpu_us, "us"));
        }
        // Whose acknowledgements are not of what is on disk does not count.
        let durable = self.best.iter().filter(|(name, _)| *name != NATS_UNSYNCED);
        let best = durable.max_by(|(_, one), (_, other)| one.jobs_per_s.total_cmp(&other.jobs_per_s));
        if let Some((name, best)) = best {
            let times = calls_per_s / best.jobs_per_s;
            let figure = Figure::new(&format!("durable-cycle-over-best-rival{suffix}"), times, "x");
            let figure = figure.bar(OVER_BEST.0, OVER_BEST.1);
            report.add(figure.rival(&format!("{name} jobs/s"), best.jobs_per_s));
        }
    }
}
