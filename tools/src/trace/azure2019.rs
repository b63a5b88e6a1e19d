//! The Azure Functions 2019 trace ("Serverless in the Wild", ATC 2020): counts per minute, percentiles beside them.
//!
//! * invocations: `HashOwner, HashApp, HashFunction, Trigger`, then one column per minute, named by its number in the
//!   day (1 to 1440; a part of the day will do);
//! * durations, ms: `HashFunction`, `percentile_Average_0`, `_1`, `_25`, `_50`, `_75`, `_99`, `_100`;
//! * memory, MB: `HashFunction` or, in the full data set, `HashApp`, and `AverageAllocatedMb_pct1`, `5`, `25`, `50`,
//!   `75`, `95`, `99`, `100`.
//!
//! The two last are optional; without them run time or memory is zero.

use super::{Arrival, Percentiles, Sheet, Source, Trace, TraceFunction};
use crate::exit::Failure;
use crate::rows::at;
use call::random::Random;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

const MINUTE_US: u64 = 60_000_000;
/// More calls than that would be a mistake in the file, and 24 GiB of memory.
const CALLS_MAX: u64 = 1_000_000_000;

/// Reads the trace; see the module.
///
/// # Errors
/// A missing file or column, a wrong number, with line and column.
pub fn read(
    invocations: &Path,
    durations: Option<&Path>,
    memory: Option<&Path>,
    seed: u64,
) -> Result<Trace, Failure> {
    let [durations, memory] = [durations, memory].map(|path| path.map(Source::File));
    read_all(&Source::File(invocations), durations.as_ref(), memory.as_ref(), seed)
}

/// The same from files, or from what comes with the program.
pub(super) fn read_all(
    invocations: &Source<'_>,
    durations: Option<&Source<'_>>,
    memory: Option<&Source<'_>>,
    seed: u64,
) -> Result<Trace, Failure> {
    let none = Ok(HashMap::new());
    let runs = durations.map_or(none.clone(), |of| percentiles(of, "percentile_Average_"))?;
    let memories = memory.map_or(none, |of| percentiles(of, "AverageAllocatedMb_pct"))?;
    let mut sheet = Sheet::of(invocations)?;
    let minutes = minutes(&sheet)?;
    let first = minutes[0].0;
    let span = minutes.last().expect("one at least").0 - first + 1;
    let names = ["HashApp", "HashFunction", "Trigger"].map(|name| sheet.column(name));
    let [app, name, trigger] = names;
    let (app, name, trigger) = (app?, name?, trigger?);
    let mut random = Random::new(seed);
    let (mut functions, mut arrivals) = (Vec::new(), Vec::new());
    let unknown = Percentiles::default();
    while let Some(record) = sheet.record()? {
        let find = |known: &'_ HashMap<String, Percentiles>| {
            known.get(&record[name]).or_else(|| known.get(&record[app])).cloned()
        };
        let run = find(&runs).unwrap_or_else(|| unknown.clone());
        let memory = find(&memories).unwrap_or_else(|| unknown.clone());
        let before = arrivals.len();
        for (minute, column) in &minutes {
            let count = sheet.number(&record, *column)? as u64;
            check_count(&sheet, &record, *column, arrivals.len() as u64 + count)?;
            let function = functions.len() as u32;
            for nth in 0..count {
                arrivals.push(Arrival {
                    at_us: (minute - first) * MINUTE_US + place(&record[trigger], nth, count, &mut random),
                    function,
                    run_us: (run.draw(&mut random) * 1e3) as u32,
                    memory_kib: (memory.draw(&mut random) * 1024.0) as u32,
                });
            }
        }
        functions.push(TraceFunction {
            name: record[name].to_owned(),
            app: record[app].to_owned(),
            trigger: record[trigger].to_owned(),
            calls: (arrivals.len() - before) as u64,
            memory_kib_max: (memory.max() * 1024.0) as u32,
        });
    }
    arrivals.sort_by_key(|arrival| (arrival.at_us, arrival.function));
    Ok(Trace { functions, arrivals, span: Duration::from_micros(span * MINUTE_US) })
}

/// Where in its minute the `nth` of `count` calls begins, us: timers tick evenly, the world does not.
fn place(trigger: &str, nth: u64, count: u64, random: &mut Random) -> u64 {
    match trigger {
        "timer" => nth * MINUTE_US / count,
        _ => (random.unit() * MINUTE_US as f64) as u64,
    }
}

fn check_count(sheet: &Sheet, record: &csv::StringRecord, column: usize, calls: u64) -> Result<(), Failure> {
    if calls <= CALLS_MAX {
        return Ok(());
    }
    let line = record.position().map_or(0, csv::Position::line);
    let what = format!("the trace has more than {CALLS_MAX} calls");
    Err(Failure::input(what, at(&sheet.name, line, column + 1), "replay a part of it"))
}

/// The minutes of the header and their columns, in order of time.
fn minutes(sheet: &Sheet) -> Result<Vec<(u64, usize)>, Failure> {
    let mut minutes: Vec<(u64, usize)> =
        sheet.columns.iter().filter_map(|(name, column)| Some((name.parse().ok()?, *column))).collect();
    minutes.sort_unstable();
    if minutes.is_empty() {
        sheet.column("1")?;
    }
    Ok(minutes)
}

/// The distributions of a file, by function (or by app, where the file knows no functions).
fn percentiles(source: &Source<'_>, prefix: &str) -> Result<HashMap<String, Percentiles>, Failure> {
    let mut sheet = Sheet::of(source)?;
    let key = sheet.column("HashFunction").or_else(|_| sheet.column("HashApp"))?;
    let percent = |name: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut columns: Vec<(u32, usize)> =
        sheet.columns.iter().filter_map(|(name, column)| Some((percent(name)?, *column))).collect();
    columns.sort_unstable();
    if columns.is_empty() {
        sheet.column(&format!("{prefix}50"))?;
    }
    let mut all = HashMap::new();
    while let Some(record) = sheet.record()? {
        let mut known = Vec::with_capacity(columns.len());
        for (percent, column) in &columns {
            known.push((f64::from(*percent), sheet.number(&record, *column)?));
        }
        // The published percentiles are averages of averages and sometimes fall by a rounding.
        for index in 1..known.len() {
            known[index].1 = known[index].1.max(known[index - 1].1);
        }
        all.insert(record[key].to_owned(), Percentiles(known));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const INVOCATIONS: &str = "\
HashOwner,HashApp,HashFunction,Trigger,480,481,482
o,a,f,http,2,0,1
o,a,g,timer,2,2,2
";
    const DURATIONS: &str = "\
HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1,percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100
o,a,f,5,3,5,5,5,5,5,5,5,5,5
";
    const MEMORY: &str = "\
HashOwner,HashApp,SampleCount,AverageAllocatedMb,AverageAllocatedMb_pct1,AverageAllocatedMb_pct100
o,a,3,8,8,8
";

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.csv");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn told(invocations: &str) -> String {
        let (_directory, path) = write(invocations);
        read(&path, None, None, 1).unwrap_err().to_string()
    }

    #[test]
    fn counts_become_calls_in_their_minutes() {
        let files = [INVOCATIONS, DURATIONS, MEMORY].map(write);
        let trace = read(&files[0].1, Some(&files[1].1), Some(&files[2].1), 7).unwrap();
        assert_eq!((trace.arrivals.len(), trace.span), (9, Duration::from_secs(180)));
        let at = |function| trace.arrivals.iter().filter(move |a| a.function == function).map(|a| a.at_us);
        assert_eq!(
            at(1).collect::<Vec<_>>(),
            [0, 30, 60, 90, 120, 150].map(|s| s * 1_000_000),
            "timers tick"
        );
        assert_eq!(at(0).filter(|us| *us < MINUTE_US).count(), 2);
        assert_eq!(at(0).filter(|us| *us >= 2 * MINUTE_US).count(), 1);
        let f = trace.arrivals.iter().find(|a| a.function == 0).unwrap();
        assert_eq!((f.run_us, f.memory_kib), (5000, 8192), "memory by app where the file knows no functions");
        assert_eq!(trace.functions[1].calls, 6);
        assert_eq!(trace, read(&files[0].1, Some(&files[1].1), Some(&files[2].1), 7).unwrap(), "same seed");
    }

    #[test]
    fn wrong_columns_and_numbers_are_told_with_the_line() {
        let error = told("HashOwner,HashApp,Function,Trigger,480\no,a,f,http,2\n");
        assert!(error.contains("no column `HashFunction`") && error.contains("trace.csv:1:1"), "{error}");
        let error = told("HashOwner,HashApp,HashFunction,Trigger\no,a,f,http\n");
        assert!(error.contains("no column `1`"), "{error}");
        let error = told("HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,f,http,2,3\no,a,f,http,2,x\n");
        assert!(error.contains("`x` in column `481`") && error.contains("trace.csv:3:6"), "{error}");
        let error = told("HashOwner,HashApp,HashFunction,Trigger,480,481\no,a,f,http,2,3\no,a,f,http,2\n");
        assert!(error.contains("5 fields, the header 6") && error.contains("trace.csv:3:1"), "{error}");
        let error = told("HashOwner,HashApp,HashFunction,Trigger,480\no,a,f,http,-2\n");
        assert!(error.contains("`-2`"), "{error}");
        let error = told("HashOwner,HashApp,HashFunction,Trigger,480\no,a,f,http,99999999999\n");
        assert!(error.contains("more than 1000000000 calls"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Trace::read(Path::new("/nonexistent/trace"), 1).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/trace") && error.contains("cannot read the trace"), "{error}");
    }
}
