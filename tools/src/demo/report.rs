//! What the demo says: before, while it runs, and at the end, in words and as `report.json`.

use super::faults::Kill;
use super::plan::{RUN_SCALE, Work};
use crate::exit::Failure;
use crate::replay::{self, Fate, Ledger, Progress, Summary};
use crate::trace::Trace;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Says what will happen.
pub fn introduce(trace: &Trace, works: &[Work], factor: f64) {
    let hours = trace.span.as_secs_f64() / 3600.0;
    println!("Millrace demo: {hours:.0} hours of the Azure Functions 2019 trace, {factor:.0} times as fast");
    println!(
        "           {} calls of {} functions; run times divided by {RUN_SCALE}: {:.0} s of work",
        trace.arrivals.len(),
        trace.functions.len(),
        trace.run_total().as_secs_f64() / RUN_SCALE
    );
    for (work, (functions, calls)) in by_work(trace, works) {
        println!("           {calls:>7} calls of {functions:>3} functions: {}", work.title());
    }
}

/// Functions and calls of each kind of work.
fn by_work(trace: &Trace, works: &[Work]) -> BTreeMap<Work, (u64, u64)> {
    let mut sums = BTreeMap::new();
    for (function, work) in trace.functions.iter().zip(works) {
        let sum: &mut (u64, u64) = sums.entry(*work).or_default();
        *sum = (sum.0 + 1, sum.1 + function.calls);
    }
    sums
}

/// One line that renews itself on a terminal; a line each ten seconds elsewhere. `told` is when that was last.
pub fn progress(progress: &Progress, total: u64, told: &mut Duration) {
    let link = if progress.is_connected { "" } else { "  (waiting for the control node)" };
    let line = format!(
        "replaying  {:5.1} s  submitted {:>7}  acknowledged {:>7}  ended {:>7} of {total}{link}",
        progress.elapsed.as_secs_f64(),
        progress.submitted,
        progress.judged,
        progress.ended
    );
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K{line}");
        let _ = std::io::stdout().flush();
    } else if progress.elapsed >= *told + Duration::from_secs(10) {
        *told = progress.elapsed;
        println!("{line}");
    }
}

/// The result, as `report.json` has it.
#[derive(Serialize)]
pub struct Report {
    /// Totals from the replayer's ledger.
    pub ledger: Summary,
    /// What was killed.
    pub kills: Vec<Kill>,
    /// CPU of all processes of the platform per completed call, us, the functions' own work included.
    pub cpu_us: f64,
    /// Calls by kind of work: (functions, calls).
    pub work: BTreeMap<&'static str, (u64, u64)>,
}

impl Report {
    /// From the ledger and the CPU time that the platform took.
    pub fn new(trace: &Trace, works: &[Work], ledger: &Ledger, kills: &[Kill], cpu: Duration) -> Report {
        let summary = ledger.summary();
        let completed = summary.fates.get(&Fate::Completed).copied().unwrap_or(0).max(1);
        Report {
            cpu_us: cpu.as_secs_f64() * 1e6 / completed as f64,
            ledger: summary,
            kills: kills.to_vec(),
            work: by_work(trace, works).into_iter().map(|(work, sums)| (work.title(), sums)).collect(),
        }
    }

    /// Whether every call of the trace was taken and ended well.
    pub fn is_whole(&self) -> bool {
        self.ledger.fates.get(&Fate::Completed).copied().unwrap_or(0) == self.ledger.calls
    }

    /// Writes `report.json`, `ledger.csv` and `calls.svg` into `out`.
    pub fn write(&self, out: &Path, trace: &Trace, ledger: &Ledger) -> Result<(), Failure> {
        let put = |name: &str, bytes: &[u8]| {
            let path = out.join(name);
            std::fs::write(&path, bytes).map_err(|error| Failure::file("write the report", &path, &error))
        };
        put("report.json", &serde_json::to_vec_pretty(self).expect("plain data"))?;
        // A bucket for each minute of the trace, however fast it was replayed.
        put("calls.svg", replay::picture(ledger, 480, "minute of the trace").as_bytes())?;
        ledger.write(&out.join("ledger.csv"), trace)
    }

    /// Tells it to a person.
    pub fn print(&self, out: &Path) {
        let s = &self.ledger;
        let fate = |fate| s.fates.get(&fate).copied().unwrap_or(0);
        println!("\n");
        println!("  calls submitted   {:>9}", s.submitted);
        println!("  completed         {:>9}", fate(Fate::Completed));
        println!("  failed            {:>9}   {}", fate(Fate::Failed), words(&s.failed));
        println!("  refused           {:>9}   {}", fate(Fate::Refused), words(&s.refused));
        println!(
            "  lost              {:>9}   accepted, and never heard of again",
            s.lost + fate(Fate::Unknown)
        );
        println!("  run twice         {:>9}   delivered again after a kill", s.delivered_again);
        println!("  cold starts       {:>9}", s.cold_starts);
        for kill in &self.kills {
            println!(
                "  killed            {} (process {}) after {:.1} s, by SIGKILL",
                kill.what, kill.pid, kill.at_s
            );
        }
        println!("\n                        p50        p99      p99.9        max");
        for (name, spread) in [
            ("acknowledged", &s.acknowledgement),
            ("queueing", &s.queueing),
            ("execution", &s.execution),
            ("end to end", &s.end_to_end),
        ] {
            let cells = [spread.p50, spread.p99, spread.p999, spread.max].map(duration);
            println!("  {name:<14} {:>10} {:>10} {:>10} {:>10}", cells[0], cells[1], cells[2], cells[3]);
        }
        println!("\n  {:.0} calls/s over {:.1} s", s.calls_per_second, s.seconds);
        println!(
            "  CPU per call, all processes: {:.1} us; the functions' own slices took {:.1} us of the clock, {:.0} % of a core",
            self.cpu_us,
            s.function_cpu_us,
            s.function_cpu_us * s.calls_per_second / 1e4
        );
        println!(
            "\n  picture: {}   ledger: {}",
            out.join("calls.svg").display(),
            out.join("ledger.csv").display()
        );
        let verdict = if self.is_whole() {
            "every call ended well; none was lost"
        } else {
            "NOT every call ended well"
        };
        println!("\n  {verdict}\n");
    }
}

fn words(counts: &BTreeMap<&'static str, u64>) -> String {
    counts.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
}

fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{:.2} us", ns as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}
