//! The `.hlog` file: the standard HdrHistogram interval log (text, format 1.3, V2 deflate base64), one line per second
//! and tag, readable by HistogramLogAnalyzer, hdr-plot and the like. Values are nanoseconds, `Interval_Max` is in
//! milliseconds, as the Java writer has it.
//!
//! Encoding takes milliseconds, which would make the generator late: a thread of its own does it.

use super::generator::Interval;
use crate::exit::{Exit, Failure};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::SystemTime;

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    intervals: mpsc::Sender<Interval>,
    writer: JoinHandle<io::Result<()>>,
}

impl Log {
    /// Makes the file, replacing one of its name.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path) -> Result<Log, Failure> {
        let file = File::create(path).map_err(|error| Failure::file("write the log", path, &error))?;
        let (intervals, coming) = mpsc::channel();
        let writer = std::thread::spawn(move || write(BufWriter::new(file), SystemTime::now(), &coming));
        Ok(Log { path: path.to_owned(), intervals, writer })
    }

    /// Adds an interval.
    pub fn add(&self, interval: Interval) {
        // If the writer has failed, `finish` says why.
        let _ = self.intervals.send(interval);
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// If something could not be.
    pub fn finish(self) -> Result<(), Failure> {
        drop(self.intervals);
        match self.writer.join() {
            Ok(result) => result.map_err(|error| Failure::file("write the log", &self.path, &error)),
            Err(_) => {
                Err(Failure::new(Exit::Internal, "the log's writer panicked", "load", "please report this"))
            }
        }
    }
}

fn write(mut out: impl Write, start: SystemTime, intervals: &mpsc::Receiver<Interval>) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[millrace load: values in ns; tags: late, ack, outcome]")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut out, &mut serializer)?;
    for interval in intervals {
        let tagged = [("late", &interval.late), ("ack", &interval.ack), ("outcome", &interval.outcome)];
        for (tag, histogram) in tagged.into_iter().filter(|(_, histogram)| !histogram.is_empty()) {
            log.write_histogram(histogram, interval.start, interval.length, Tag::new(tag))
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spread::new_histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::time::Duration;

    #[test]
    fn what_is_written_can_be_read_by_the_standard_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("load.hlog");
        let log = Log::create(&path).unwrap();
        let mut ack = new_histogram();
        ack.record_n(1_000_000, 7).unwrap();
        let (start, length) = (Duration::from_secs(3), Duration::from_secs(1));
        log.add(Interval { start, length, late: new_histogram(), ack, outcome: new_histogram() });
        log.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let entries: Vec<LogEntry> = IntervalLogIterator::new(&bytes).map(Result::unwrap).collect();
        let LogEntry::Interval(interval) = &entries[2] else { panic!("{entries:?}") };
        assert_eq!((interval.tag().unwrap().as_str(), interval.max()), ("ack", 1.0));
        assert_eq!((interval.start_timestamp(), interval.duration()), (start, length));
        let decoded = base64_decode(interval.encoded_histogram());
        let read: hdrhistogram::Histogram<u64> = Deserializer::new().deserialize(&mut &decoded[..]).unwrap();
        assert_eq!((read.len(), read.equivalent(read.max(), 1_000_000)), (7, true));
        assert_eq!(entries.len(), 3, "empty histograms are left out");
    }

    fn base64_decode(text: &str) -> Vec<u8> {
        let value = |byte: u8| {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                .iter()
                .position(|c| *c == byte)
        };
        let bits =
            text.bytes().filter_map(value).fold((Vec::new(), 0u32, 0u32), |(mut out, held, count), six| {
                let (held, count) = (held << 6 | six as u32, count + 6);
                if count >= 8 {
                    out.push((held >> (count - 8)) as u8);
                    return (out, held & ((1 << (count - 8)) - 1), count - 8);
                }
                (out, held, count)
            });
        bits.0
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = Log::create(Path::new("/nonexistent/x.hlog")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x.hlog"), "{error}");
    }
}
