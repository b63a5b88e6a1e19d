//! Reading: from the segments on disk alone, beside the writer, which may append to them or remove them meanwhile.

use super::{LogPage, LogRecord, directory, segment_name, segment_number};
use call::CallId;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

/// Records of one page.
pub const RECORDS_MAX: usize = 10_000;
/// Bytes of records of one page; one record may exceed it.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a segment that are looked at: larger ones are none of ours.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// A place between two records: a segment, and the bytes of it that have been read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cursor {
    segment: u64,
    offset: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.segment, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Cursor, String> {
        let parts = text.split_once('-').and_then(|(s, o)| Some((s.parse().ok()?, o.parse().ok()?)));
        let (segment, offset) = parts.ok_or_else(|| format!("`{text}` is no place in a log: give `next`"))?;
        Ok(Cursor { segment, offset })
    }
}

/// Which records are asked for.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// `namespace/name`.
    pub function: String,
    /// Only of this call.
    pub call: Option<CallId>,
    /// Only not older than this, Unix ns; 0 for all.
    pub since: u64,
    /// Only the last so many; without `after`.
    pub tail: Option<usize>,
    /// Read on from here.
    pub after: Option<Cursor>,
}

impl LogQuery {
    /// All records of a function.
    pub fn new(function: &str) -> LogQuery {
        LogQuery { function: function.into(), ..LogQuery::default() }
    }

    fn wants(&self, record: &LogRecord, call: Option<&str>) -> bool {
        record.time >= self.since && call.is_none_or(|call| call == record.call)
    }
}

/// Reads a page. A function without logs has an empty one.
///
/// # Errors
/// Those of the disk; invalid input if there can be no such function.
pub fn read(root: &Path, query: &LogQuery) -> io::Result<LogPage> {
    let directory = directory(root, &query.function).ok_or(io::ErrorKind::InvalidInput)?;
    let segments = segments(&directory)?;
    let call = query.call.map(|call| call.to_string());
    let mut reading = Reading { query, call, directory, page: LogPage::default(), at: Cursor::default() };
    match (query.after, query.tail) {
        (None, Some(last)) => reading.last(&segments, last.min(RECORDS_MAX))?,
        (after, _) => reading.on(&segments, after.unwrap_or_default())?,
    }
    let Reading { mut page, at, .. } = reading;
    page.next = at.to_string();
    Ok(page)
}

/// Segments and when they were last written (Unix ns), oldest first.
fn segments(directory: &Path) -> io::Result<Vec<(u64, u64)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(segment_number) else { continue };
        // Gone meanwhile, if it has none.
        let Ok(meta) = entry.metadata() else { continue };
        let at = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if meta.is_file() {
            found.push((number, at.map_or(u64::MAX, call::time::nanos)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

struct Reading<'a> {
    query: &'a LogQuery,
    call: Option<String>,
    directory: PathBuf,
    page: LogPage,
    at: Cursor,
}

impl Reading<'_> {
    /// From a place on, until the page is full.
    fn on(&mut self, segments: &[(u64, u64)], after: Cursor) -> io::Result<()> {
        // Nothing is left of the segments that were read: what is there has come since.
        let is_new = segments.last().is_some_and(|(last, _)| *last < after.segment);
        let after = if is_new { Cursor::default() } else { after };
        self.at = after;
        let mut bytes = 0;
        for (index, (number, written)) in segments.iter().enumerate() {
            if *number < after.segment {
                continue;
            }
            let offset = if *number == after.segment { after.offset } else { 0 };
            let is_last = index + 1 == segments.len();
            if *written < self.query.since && !is_last {
                continue;
            }
            let Some(text) = self.load(*number, offset)? else { continue };
            self.at = Cursor { segment: *number, offset };
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                if self.page.records.len() >= RECORDS_MAX || bytes >= PAGE_BYTES_MAX {
                    self.page.more = true;
                    return Ok(());
                }
                if !line.ends_with(b"\n") && is_last {
                    // Being written just now, or cut off for ever: the next segment tells.
                    return Ok(());
                }
                self.at.offset += line.len() as u64;
                if let Some(record) = self.parse(line) {
                    bytes += line.len();
                    self.page.records.push(record);
                }
            }
        }
        Ok(())
    }

    /// The last so many.
    fn last(&mut self, segments: &[(u64, u64)], count: usize) -> io::Result<()> {
        let mut found: VecDeque<LogRecord> = VecDeque::new();
        for (index, (number, written)) in segments.iter().enumerate().rev() {
            let is_last = index + 1 == segments.len();
            if !is_last && (found.len() >= count || *written < self.query.since) {
                break;
            }
            let Some(text) = self.load(*number, 0)? else { continue };
            let mut here: VecDeque<LogRecord> = VecDeque::new();
            let mut used = 0;
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                if !line.ends_with(b"\n") && is_last {
                    break;
                }
                used += line.len() as u64;
                if let Some(record) = self.parse(line) {
                    here.push_back(record);
                    if here.len() + found.len() > count {
                        here.pop_front();
                    }
                }
            }
            if is_last {
                self.at = Cursor { segment: *number, offset: used };
            }
            here.append(&mut found);
            found = here;
        }
        self.page.records = found.into();
        Ok(())
    }

    /// A segment from an offset on; `None` if it is gone.
    fn load(&self, number: u64, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let mut file = match File::open(self.directory.join(segment_name(number))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut text = Vec::new();
        file.take(SEGMENT_BYTES_MAX).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    /// The record of a line, if it is wanted. What is none is counted.
    fn parse(&mut self, line: &[u8]) -> Option<LogRecord> {
        match serde_json::from_slice::<LogRecord>(line) {
            Ok(record) => self.query.wants(&record, self.call.as_deref()).then_some(record),
            Err(_) => {
                self.page.damaged += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::Status;
    use std::io::Write;

    fn record(n: u64) -> LogRecord {
        LogRecord {
            time: n,
            function: "n/a".into(),
            call: CallId(u128::from(n % 10)).to_string(),
            attempt: 1,
            status: Status::Trap,
            host: "h".into(),
            cpu: 0,
            truncated: false,
            text: format!("line {n}\nand {n}"),
        }
    }

    /// Two segments of 50 records.
    fn written() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("n/a")).unwrap();
        for segment in 0..2 {
            let text: String = (segment * 50..segment * 50 + 50)
                .map(|n| serde_json::to_string(&record(n)).unwrap() + "\n")
                .collect();
            fs::write(temp.path().join("n/a").join(segment_name(segment)), text).unwrap();
        }
        temp
    }

    fn times(page: &LogPage) -> Vec<u64> {
        page.records.iter().map(|record| record.time).collect()
    }

    #[test]
    fn records_are_found_by_call_time_and_count() {
        let temp = written();
        let all = LogQuery::new("n/a");
        assert_eq!(times(&read(temp.path(), &all).unwrap()), (0..100).collect::<Vec<_>>());
        let of_call = LogQuery { call: Some(CallId(3)), ..all.clone() };
        assert_eq!(times(&read(temp.path(), &of_call).unwrap()), [3, 13, 23, 33, 43, 53, 63, 73, 83, 93]);
        let last = LogQuery { tail: Some(2), ..of_call };
        assert_eq!(times(&read(temp.path(), &last).unwrap()), [83, 93]);
        let last = LogQuery { tail: Some(60), ..all.clone() };
        assert_eq!(times(&read(temp.path(), &last).unwrap()), (40..100).collect::<Vec<_>>());
        let since = LogQuery { since: 98, ..all };
        assert_eq!(times(&read(temp.path(), &since).unwrap()), [98, 99]);
        assert!(read(temp.path(), &LogQuery::new("n/none")).unwrap().records.is_empty());
        assert!(read(temp.path(), &LogQuery::new("../a")).is_err());
    }

    #[test]
    fn reading_on_sees_each_record_once_even_one_that_is_being_written() {
        let temp = written();
        let last = read(temp.path(), &LogQuery { tail: Some(1), ..LogQuery::new("n/a") }).unwrap();
        let on = |page: &LogPage| {
            let after = Some(page.next.parse().unwrap());
            read(temp.path(), &LogQuery { after, ..LogQuery::new("n/a") }).unwrap()
        };
        assert!(on(&last).records.is_empty());
        let path = temp.path().join("n/a").join(segment_name(1));
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        let line = serde_json::to_string(&record(100)).unwrap() + "\n";
        file.write_all(&line.as_bytes()[..20]).unwrap();
        let page = on(&last);
        assert!(page.records.is_empty() && page.damaged == 0);
        file.write_all(&line.as_bytes()[20..]).unwrap();
        let page = on(&page);
        assert_eq!(times(&page), [100]);
        assert!(on(&page).records.is_empty());
        // The segment that was read to its end is gone, and a new one was begun.
        let path = temp.path().join("n/a").join(segment_name(7));
        fs::write(path, serde_json::to_string(&record(101)).unwrap() + "\n").unwrap();
        fs::remove_file(temp.path().join("n/a").join(segment_name(1))).unwrap();
        assert_eq!(times(&on(&page)), [101]);
    }

    #[test]
    fn a_long_log_comes_in_pages() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("n/a")).unwrap();
        let text: String = (0..25_000).map(|n| serde_json::to_string(&record(n)).unwrap() + "\n").collect();
        fs::write(temp.path().join("n/a").join(segment_name(0)), text).unwrap();
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = read(temp.path(), &LogQuery { after, ..LogQuery::new("n/a") }).unwrap();
            seen.extend(times(&page));
            (after, pages) = (Some(page.next.parse().unwrap()), pages + 1);
            if !page.more {
                break;
            }
        }
        assert_eq!((seen, pages), ((0..25_000).collect::<Vec<_>>(), 3));
    }

    #[test]
    fn any_bytes_on_disk_give_at_worst_damaged_lines() {
        use proptest::prelude::*;
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("n/a")).unwrap();
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..2000), offset in any::<u64>())| {
            fs::write(temp.path().join("n/a").join(segment_name(0)), &bytes).unwrap();
            let after = Some(Cursor { segment: 0, offset: offset % 4000 });
            let page = read(temp.path(), &LogQuery { after, ..LogQuery::new("n/a") }).unwrap();
            prop_assert!(page.records.is_empty());
            read(temp.path(), &LogQuery { tail: Some(3), ..LogQuery::new("n/a") }).unwrap();
        });
    }
}
