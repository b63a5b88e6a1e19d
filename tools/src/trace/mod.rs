//! Traces of real platforms, as calls in time.
//!
//! | format | files | a call's start | its run time and memory |
//! |---|---|---|---|
//! | [`azure2019`] | calls per minute, percentiles of run time and memory | placed in its minute: evenly for timers, at random for others | drawn from the percentiles |
//! | [`azure2021`] | one line per call | end less duration | as given; memory unknown |
//!
//! What is random comes from a seed, so that a trace is the same every time.

pub mod azure2019;
pub mod azure2021;

use crate::exit::Failure;
use crate::rows::{at, csv_failure};
use call::random::Random;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// A function of a trace.
#[derive(Clone, PartialEq, Debug)]
pub struct TraceFunction {
    /// Its hash in the trace.
    pub name: String,
    /// The hash of its app.
    pub app: String,
    /// What starts it, in the trace's word: `http`, `timer`, `queue`, ...; empty if the trace does not say.
    pub trigger: String,
    /// Calls of it in the trace.
    pub calls: u64,
    /// The largest memory it may need, KiB; 0 if the trace does not say.
    pub memory_kib_max: u32,
}

/// One call of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Since the trace's begin, us.
    pub at_us: u64,
    /// Index into [`Trace::functions`].
    pub function: u32,
    /// How long it ran, us.
    pub run_us: u32,
    /// Memory it used, KiB; 0 if the trace does not say.
    pub memory_kib: u32,
}

/// Calls in order of time.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// All functions, in the order of the file.
    pub functions: Vec<TraceFunction>,
    /// All calls, in order of time.
    pub arrivals: Vec<Arrival>,
    /// From begin to end of the trace.
    pub span: Duration,
}

/// The sample that comes with the program: `tests/data/azure2019-250`, whose README says where it is from.
const SAMPLE: [(&str, &str); 3] = [
    ("invocations.csv", include_str!("../../../tests/data/azure2019-250/invocations.csv")),
    ("durations.csv", include_str!("../../../tests/data/azure2019-250/durations.csv")),
    ("memory.csv", include_str!("../../../tests/data/azure2019-250/memory.csv")),
];

impl Trace {
    /// The sample that comes with the program: eight hours of 250 functions of the Azure Functions 2019 trace.
    pub fn sample(seed: u64) -> Trace {
        let [invocations, durations, memory] = SAMPLE.map(|(name, text)| Source::Text(name, text));
        azure2019::read_all(&invocations, Some(&durations), Some(&memory), seed)
            .expect("a test reads the sample")
    }

    /// Reads a trace: a directory with `invocations.csv`, `durations.csv` and `memory.csv` (2019), or one file in
    /// either format.
    ///
    /// # Errors
    /// A file that is missing or of neither format; a wrong field, with its line and column name.
    pub fn read(path: &Path, seed: u64) -> Result<Trace, Failure> {
        if path.is_dir() {
            let beside = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
            let (durations, memory) = (beside("durations.csv"), beside("memory.csv"));
            return azure2019::read(
                &path.join("invocations.csv"),
                durations.as_deref(),
                memory.as_deref(),
                seed,
            );
        }
        let header = Sheet::open(path)?.columns;
        if header.contains_key("end_timestamp") {
            azure2021::read(path)
        } else {
            azure2019::read(path, None, None, seed)
        }
    }

    /// The trace with the memory of its calls divided by `by`. What the functions may need stays as it is.
    pub fn with_memory_divided(mut self, by: f64) -> Trace {
        for arrival in &mut self.arrivals {
            arrival.memory_kib = (f64::from(arrival.memory_kib) / by).round() as u32;
        }
        self
    }

    /// The sum of all run times.
    pub fn run_total(&self) -> Duration {
        Duration::from_micros(self.arrivals.iter().map(|arrival| u64::from(arrival.run_us)).sum())
    }

    /// The trace with time compressed by `time` and run times divided by `run`.
    pub fn scaled(&self, time: f64, run: f64) -> Trace {
        let scale = |arrival: &Arrival| Arrival {
            at_us: (arrival.at_us as f64 / time) as u64,
            run_us: (f64::from(arrival.run_us) / run).round() as u32,
            ..*arrival
        };
        Trace {
            functions: self.functions.clone(),
            arrivals: self.arrivals.iter().map(scale).collect(),
            span: self.span.div_f64(time),
        }
    }

    /// The factor for run times with which the calls keep `cores` cores busy for `share` of the span (0.0 to 1.0):
    /// less work than that stays as it is.
    pub fn run_scale_for(&self, cores: f64, share: f64) -> f64 {
        (self.run_total().as_secs_f64() / (self.span.as_secs_f64() * cores * share)).max(1.0)
    }

    /// The factor for memory with which no call touches more than `kib`: touching a page costs a quarter of a
    /// microsecond at least, so that run times that shrink want memory that shrinks.
    pub fn memory_scale_for(&self, kib: u32) -> f64 {
        let most = self.arrivals.iter().map(|arrival| arrival.memory_kib).max().unwrap_or(0);
        (f64::from(most) / f64::from(kib)).max(1.0)
    }
}

/// Where a sheet is: in a file, or in the program, by name.
#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Path),
    Text(&'static str, &'static str),
}

/// A CSV file with its columns found by name: the published files differ in their order.
struct Sheet {
    name: String,
    reader: csv::Reader<Box<dyn Read>>,
    columns: HashMap<String, usize>,
    header: csv::StringRecord,
}

impl Sheet {
    fn open(path: &Path) -> Result<Sheet, Failure> {
        Sheet::of(&Source::File(path))
    }

    fn of(source: &Source<'_>) -> Result<Sheet, Failure> {
        let (name, bytes): (String, Box<dyn Read>) = match source {
            Source::Text(name, text) => ((*name).to_owned(), Box::new(text.as_bytes())),
            Source::File(path) => {
                let file = File::open(path).map_err(|error| Failure::file("read the trace", path, &error))?;
                (path.display().to_string(), Box::new(file))
            }
        };
        let mut reader = csv::Reader::from_reader(bytes);
        let header = reader.headers().map_err(|error| csv_failure(&name, &error))?.clone();
        let columns = header.iter().enumerate().map(|(index, column)| (column.to_owned(), index)).collect();
        Ok(Sheet { name, reader, columns, header })
    }

    /// Where a column is; the error lists what is there.
    fn column(&self, wanted: &str) -> Result<usize, Failure> {
        self.columns.get(wanted).copied().ok_or_else(|| {
            let known: Vec<&str> = self.header.iter().take(8).collect();
            Failure::input(
                format!("there is no column `{wanted}`"),
                at(&self.name, 1, 1),
                format!("the columns begin with: {}; see tools/README.md for the formats", known.join(", ")),
            )
        })
    }

    /// The next record, or `None` at the end.
    fn record(&mut self) -> Result<Option<csv::StringRecord>, Failure> {
        let mut record = csv::StringRecord::new();
        match self.reader.read_record(&mut record) {
            Ok(true) => Ok(Some(record)),
            Ok(false) => Ok(None),
            Err(error) => Err(csv_failure(&self.name, &error)),
        }
    }

    /// A number that is not negative, at `column` of `record`.
    fn number(&self, record: &csv::StringRecord, column: usize) -> Result<f64, Failure> {
        let text = record[column].trim();
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
            _ => {
                let line = record.position().map_or(0, csv::Position::line);
                let what = format!("`{text}` in column `{}` is not a number from 0", &self.header[column]);
                Err(Failure::input(what, at(&self.name, line, column + 1), "the last figure counts fields"))
            }
        }
    }
}

/// A distribution known by some of its percentiles.
#[derive(Clone, PartialEq, Debug, Default)]
struct Percentiles(Vec<(f64, f64)>);

impl Percentiles {
    /// The value below which a share of `unit` (0.0 to 1.0) lies: straight lines between what is known.
    fn at(&self, unit: f64) -> f64 {
        let percent = unit * 100.0;
        let after = self.0.partition_point(|(known, _)| *known <= percent);
        match (after.checked_sub(1).map(|before| self.0[before]), self.0.get(after)) {
            (Some((low, from)), Some((high, to))) => from + (to - from) * (percent - low) / (high - low),
            (Some((_, last)), None) => last,
            (None, Some((_, first))) => *first,
            (None, None) => 0.0,
        }
    }

    fn draw(&self, random: &mut Random) -> f64 {
        self.at(random.unit())
    }

    fn max(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_joined_by_lines() {
        let known = Percentiles(vec![(0.0, 10.0), (50.0, 20.0), (100.0, 100.0)]);
        let values = [0.0, 0.25, 0.5, 0.75, 1.0].map(|unit| known.at(unit));
        assert_eq!(values, [10.0, 15.0, 20.0, 60.0, 100.0]);
        assert_eq!((known.max(), Percentiles::default().at(0.5)), (100.0, 0.0));
    }

    #[test]
    fn compression_keeps_order_and_share_of_work() {
        let arrival = |at_us, run_us| Arrival { at_us, function: 0, run_us, memory_kib: 8192 };
        let arrivals = vec![arrival(0, 500_000), arrival(7_000_000, 1_500_000)];
        let trace = Trace { functions: vec![], arrivals, span: Duration::from_secs(8) };
        let fast = trace.scaled(4.0, 1.0);
        assert_eq!((fast.arrivals[1].at_us, fast.span), (1_750_000, Duration::from_secs(2)));
        // Two seconds of work in two seconds: on one core at half load it must shrink to a half.
        assert_eq!(fast.run_scale_for(1.0, 0.5), 2.0);
        assert_eq!(fast.scaled(1.0, 2.0).run_total(), Duration::from_secs(1));
        assert_eq!((fast.memory_scale_for(1024), fast.memory_scale_for(1 << 20)), (8.0, 1.0));
        assert_eq!(fast.clone().with_memory_divided(8.0).arrivals[0].memory_kib, 1024);
        assert_eq!(fast.run_scale_for(8.0, 0.5), 1.0, "little work stays as it is");
    }
}
