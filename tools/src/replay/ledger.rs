//! What became of each call, as the replayer saw it.
//!
//! The file is CSV, one line per call in the order of intended times, times in microseconds since the replay began:
//!
//! `call,function,intended_us,submitted_us,verdict,verdict_us,status,outcome_us,deliveries,run_us,cpu_us,cold`
//!
//! `verdict` is empty if none came, `status` is empty if no outcome came.

use crate::exit::Failure;
use crate::spread::Spread;
use crate::trace::Trace;
use call::{Status, VerdictCode};
use millrace_client::IdSeries;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// One call. Times are ns since the replay began; 0 if it has not happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// When it should have been submitted.
    pub intended_ns: u64,
    /// When it was.
    pub submitted_ns: u64,
    /// When its verdict came.
    pub verdict_ns: u64,
    /// When its outcome came.
    pub outcome_ns: u64,
    /// Index into the trace's functions.
    pub function: u32,
    /// What the node said.
    pub verdict: Option<VerdictCode>,
    /// How it ended.
    pub status: Option<Status>,
    /// How many times it was delivered to a worker.
    pub deliveries: u16,
    /// Whether its instance was made for it.
    pub cold: bool,
    /// How long the last execution took.
    pub run_ns: u64,
    /// CPU time of it.
    pub cpu_ns: u64,
}

/// Where a call stands at the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Not submitted: the replay was stopped before its time.
    NotSubmitted,
    /// Submitted, and no verdict came.
    Unknown,
    /// Refused: the node never had it.
    Refused,
    /// Accepted, and no outcome came: **lost**, unless it still runs.
    Lost,
    /// Ended with another status than ok.
    Failed,
    /// Ended with ok.
    Completed,
}

impl Entry {
    /// Where it stands.
    pub fn fate(&self) -> Fate {
        match (self.status, self.verdict) {
            (Some(status), _) if status.is_ok() => Fate::Completed,
            (Some(_), _) => Fate::Failed,
            (None, Some(verdict)) if verdict.is_held() => Fate::Lost,
            (None, Some(_)) => Fate::Refused,
            (None, None) if self.submitted_ns > 0 => Fate::Unknown,
            (None, None) => Fate::NotSubmitted,
        }
    }
}

/// All calls of a replay.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Ids of the calls: the n-th entry's is the n-th of the series.
    pub series: IdSeries,
    /// Entries in the order of intended times.
    pub entries: Vec<Entry>,
    /// How long the replay took, ns.
    pub took_ns: u64,
}

/// Totals of a ledger.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// Calls of the trace.
    pub calls: u64,
    /// Calls submitted.
    pub submitted: u64,
    /// Calls of which the node said that it holds them.
    pub accepted: u64,
    /// Calls by where they stand.
    pub fates: BTreeMap<Fate, u64>,
    /// Failed calls by status.
    pub failed: BTreeMap<&'static str, u64>,
    /// Refused calls by verdict.
    pub refused: BTreeMap<&'static str, u64>,
    /// Accepted calls without an outcome.
    pub lost: u64,
    /// Calls delivered more than once.
    pub delivered_again: u64,
    /// Executions on an instance made for the call.
    pub cold_starts: u64,
    /// Seconds from the first submit to the last outcome.
    pub seconds: f64,
    /// Completed calls per second, over that time.
    pub calls_per_second: f64,
    /// CPU time inside the functions, per completed call, us.
    pub function_cpu_us: f64,
    /// How late calls were submitted against the trace, ns.
    pub lateness: Spread,
    /// From submit to verdict, ns.
    pub acknowledgement: Spread,
    /// From the intended time to the outcome, without the execution, ns.
    pub queueing: Spread,
    /// Execution, ns.
    pub execution: Spread,
    /// From the intended time to the outcome, ns.
    pub end_to_end: Spread,
}

impl Ledger {
    /// Totals.
    pub fn summary(&self) -> Summary {
        let ended = || self.entries.iter().filter(|entry| entry.status.is_some());
        let count = |wanted: fn(&Entry) -> bool| self.entries.iter().filter(|e| wanted(e)).count() as u64;
        let fates = tally(self.entries.iter().map(Entry::fate));
        let completed = fates.get(&Fate::Completed).copied().unwrap_or(0);
        let first = self.entries.iter().map(|e| e.submitted_ns).filter(|ns| *ns > 0).min().unwrap_or(0);
        let last = self.entries.iter().map(|e| e.outcome_ns.max(e.verdict_ns)).max().unwrap_or(0);
        let seconds = last.saturating_sub(first) as f64 / 1e9;
        let failed = ended().filter_map(|e| e.status.filter(|s| !s.is_ok())).map(Status::name);
        let refused = self.entries.iter().filter_map(|e| e.verdict.filter(|v| !v.is_held()));
        let span = |from: fn(&Entry) -> u64, to: fn(&Entry) -> u64| {
            let reached = self.entries.iter().filter(move |entry| to(entry) > 0);
            Spread::over(reached.map(move |entry| to(entry).saturating_sub(from(entry))))
        };
        Summary {
            calls: self.entries.len() as u64,
            submitted: count(|e| e.submitted_ns > 0),
            accepted: count(|e| e.verdict.is_some_and(VerdictCode::is_held)),
            lost: fates.get(&Fate::Lost).copied().unwrap_or(0),
            failed: tally(failed),
            refused: tally(refused.map(verdict_name)),
            delivered_again: count(|e| e.deliveries > 1),
            cold_starts: count(|e| e.cold),
            seconds,
            calls_per_second: if seconds > 0.0 { completed as f64 / seconds } else { 0.0 },
            function_cpu_us: ended().map(|e| e.cpu_ns).sum::<u64>() as f64 / 1e3 / (completed.max(1) as f64),
            lateness: span(|e| e.intended_ns, |e| e.submitted_ns),
            acknowledgement: span(|e| e.submitted_ns, |e| e.verdict_ns),
            queueing: span(|e| e.intended_ns + e.run_ns, |e| e.outcome_ns),
            execution: Spread::over(ended().map(|e| e.run_ns)),
            end_to_end: span(|e| e.intended_ns, |e| e.outcome_ns),
            fates,
        }
    }

    /// Calls received (accepted) and executed (ended well), per each of `buckets` equal parts of the replay's time.
    pub fn by_time(&self, buckets: usize) -> (Vec<u64>, Vec<u64>) {
        let (mut received, mut executed) = (vec![0; buckets], vec![0; buckets]);
        let width = (self.took_ns / buckets as u64).max(1);
        let bucket = |ns: u64| ((ns / width) as usize).min(buckets - 1);
        for entry in &self.entries {
            if entry.verdict.is_some_and(VerdictCode::is_held) {
                received[bucket(entry.submitted_ns)] += 1;
            }
            if entry.status.is_some_and(Status::is_ok) {
                executed[bucket(entry.outcome_ns)] += 1;
            }
        }
        (received, executed)
    }

    /// Writes the file; see the module.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path, trace: &Trace) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::file("write the ledger", path, &error);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        self.write_to(&mut out, trace).and_then(|()| out.flush()).map_err(failed)
    }

    fn write_to(&self, out: &mut impl Write, trace: &Trace) -> io::Result<()> {
        writeln!(
            out,
            "call,function,intended_us,submitted_us,verdict,verdict_us,status,outcome_us,deliveries,run_us,cpu_us,cold"
        )?;
        for (number, entry) in self.entries.iter().enumerate() {
            writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{},{},{}",
                self.series.id(number as u64),
                trace.functions[entry.function as usize].name,
                entry.intended_ns / 1000,
                entry.submitted_ns / 1000,
                entry.verdict.map_or("", verdict_name),
                entry.verdict_ns / 1000,
                entry.status.map_or("", Status::name),
                entry.outcome_ns / 1000,
                entry.deliveries,
                entry.run_ns / 1000,
                entry.cpu_ns / 1000,
                u8::from(entry.cold),
            )?;
        }
        Ok(())
    }
}

fn tally<T: Ord>(things: impl Iterator<Item = T>) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_insert(0) += 1;
    }
    counts
}

/// The word in files and JSON.
pub fn verdict_name(code: VerdictCode) -> &'static str {
    match code {
        VerdictCode::Accepted => "accepted",
        VerdictCode::Duplicate => "duplicate",
        VerdictCode::Full => "full",
        VerdictCode::Backlog => "backlog",
        VerdictCode::Closed => "closed",
        VerdictCode::UnknownFunction => "unknown-function",
        VerdictCode::BadTime => "bad-time",
        VerdictCode::Malformed => "malformed",
        VerdictCode::Draining => "draining",
        VerdictCode::DiskFailed => "disk-failed",
        VerdictCode::NoBlob => "no-blob",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceFunction;
    use std::time::Duration;

    fn ledger() -> Ledger {
        let done = Entry {
            intended_ns: 1_000,
            submitted_ns: 2_000,
            verdict_ns: 3_000,
            outcome_ns: 101_000,
            verdict: Some(VerdictCode::Accepted),
            status: Some(Status::Ok),
            deliveries: 1,
            run_ns: 60_000,
            cpu_ns: 50_000,
            ..Entry::default()
        };
        let entries = vec![
            done,
            Entry { status: Some(Status::Trap), deliveries: 3, ..done },
            Entry { status: None, outcome_ns: 0, deliveries: 0, ..done },
            Entry { status: None, outcome_ns: 0, verdict: Some(VerdictCode::Full), ..done },
            Entry { submitted_ns: 5, ..Entry::default() },
            Entry::default(),
        ];
        Ledger { series: IdSeries::new(), entries, took_ns: 200_000 }
    }

    #[test]
    fn every_call_has_one_fate_and_the_sum_is_all() {
        let summary = ledger().summary();
        assert_eq!(summary.fates.values().sum::<u64>(), 6);
        assert_eq!(summary.fates.len(), 6, "one of each: {:?}", summary.fates);
        assert_eq!((summary.submitted, summary.accepted, summary.lost), (5, 3, 1));
        assert_eq!((summary.delivered_again, summary.failed["trap"], summary.refused["full"]), (1, 1, 1));
        let about = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(about(summary.queueing.p50, 40_000) && about(summary.end_to_end.max, 100_000), "{summary:?}");
    }

    #[test]
    fn the_file_has_a_line_for_each_call() {
        let function = TraceFunction {
            name: "f".into(),
            app: "a".into(),
            trigger: "http".into(),
            calls: 6,
            memory_kib_max: 0,
        };
        let trace = Trace { functions: vec![function], arrivals: vec![], span: Duration::ZERO };
        let ledger = ledger();
        let mut file = Vec::new();
        ledger.write_to(&mut file, &trace).unwrap();
        let text = String::from_utf8(file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        assert!(lines[1].ends_with(",f,1,2,accepted,3,ok,101,1,60,50,0"), "{}", lines[1]);
        assert!(lines[6].ends_with(",f,0,0,,0,,0,0,0,0,0"), "{}", lines[6]);
    }

    #[test]
    fn received_and_executed_fall_into_their_time() {
        let (received, executed) = ledger().by_time(4);
        assert_eq!((received, executed), (vec![3, 0, 0, 0], vec![0, 0, 1, 0]));
    }
}
