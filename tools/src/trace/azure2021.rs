//! The Azure Functions 2021 trace ("Faster and Cheaper Serverless Computing on Harvested Resources", SOSP 2021): one
//! line per call with `app`, `func`, `end_timestamp` (s) and `duration` (s).

use super::{Arrival, Sheet, Trace, TraceFunction};
use crate::exit::Failure;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// Reads the trace; see the module. The earliest start is the trace's begin.
///
/// # Errors
/// A missing file or column, a wrong number, with line and column.
pub fn read(path: &Path) -> Result<Trace, Failure> {
    let mut sheet = Sheet::open(path)?;
    let (app, func) = (sheet.column("app")?, sheet.column("func")?);
    let (end, duration) = (sheet.column("end_timestamp")?, sheet.column("duration")?);
    let mut functions: Vec<TraceFunction> = Vec::new();
    let mut numbers: HashMap<String, u32> = HashMap::new();
    // Start in seconds (a call may have begun before the trace's zero), function, seconds it ran.
    let mut calls: Vec<(f64, u32, f64)> = Vec::new();
    while let Some(record) = sheet.record()? {
        let ran = sheet.number(&record, duration)?;
        let start = sheet.number(&record, end)? - ran;
        let function = *numbers.entry(record[func].to_owned()).or_insert_with(|| {
            functions.push(TraceFunction {
                name: record[func].to_owned(),
                app: record[app].to_owned(),
                trigger: String::new(),
                calls: 0,
                memory_kib_max: 0,
            });
            functions.len() as u32 - 1
        });
        functions[function as usize].calls += 1;
        calls.push((start, function, ran));
    }
    let begin = calls.iter().map(|call| call.0).fold(f64::INFINITY, f64::min);
    let mut arrivals: Vec<Arrival> = calls.iter().map(|call| arrival(call, begin)).collect();
    arrivals.sort_by_key(|arrival| (arrival.at_us, arrival.function));
    let end = calls.iter().map(|(start, _, ran)| start + ran - begin).fold(0.0, f64::max);
    Ok(Trace { functions, arrivals, span: Duration::from_secs_f64(end) })
}

fn arrival(&(start, function, ran): &(f64, u32, f64), begin: f64) -> Arrival {
    Arrival { at_us: ((start - begin) * 1e6) as u64, function, run_us: (ran * 1e6) as u32, memory_kib: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Trace, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.csv");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn calls_begin_at_their_end_less_their_duration() {
        let trace =
            read_text("app,func,end_timestamp,duration\na,f,1.5,2.0\na,g,3,0.5\na,f,2,0.25\n").unwrap();
        let seen: Vec<(u64, u32, u32)> =
            trace.arrivals.iter().map(|a| (a.at_us, a.function, a.run_us)).collect();
        assert_eq!(seen, [(0, 0, 2_000_000), (2_250_000, 0, 250_000), (3_000_000, 1, 500_000)]);
        assert_eq!((trace.span, trace.functions[0].calls), (Duration::from_secs_f64(3.5), 2));
    }

    #[test]
    fn wrong_lines_are_told() {
        let error =
            read_text("app,func,end_timestamp,duration\na,f,1.5,2.0\na,f,soon,1\n").unwrap_err().to_string();
        assert!(error.contains("`soon` in column `end_timestamp`") && error.contains(":3:3"), "{error}");
        let error = read_text("app,function,end_timestamp,duration\n").unwrap_err().to_string();
        assert!(error.contains("no column `func`"), "{error}");
        assert!(read_text("app,func,end_timestamp,duration\n").unwrap().arrivals.is_empty());
    }
}
