//! The writer: a thread that takes records from the ring and keeps them in segments, within bounds.

use super::{ENTRIES_MAX, Entry, LogCounts, LogRecord, Sink, directory, segment_name, segment_number};
use crate::accounts::Account;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;

/// How much may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes of all functions.
    pub total_bytes: u64,
    /// Bytes of one function.
    pub function_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { total_bytes: 1 << 30, function_bytes: 16 << 20 }
    }
}

impl Bounds {
    /// Bytes after which a new segment is begun: what is lost at once when a function is at its bound.
    fn segment_bytes(&self) -> u64 {
        (self.function_bytes.min(self.total_bytes) / 8).clamp(4 << 10, 8 << 20)
    }
}

/// After the first record it waits so long for more, so that the ring wakes it at most a hundred times a second.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes of a function that are written at once.
const WRITE_BYTES: usize = 256 << 10;
/// Segments open for writing at once.
const OPEN_MAX: usize = 64;
/// Files that are not segments, told by name at the start at most.
const NOTES_MAX: u64 = 8;

/// The writer's thread.
pub struct Writer {
    thread: JoinHandle<()>,
    counts: Arc<LogCounts>,
    grown: watch::Receiver<u64>,
}

impl Writer {
    /// Starts it on a directory, which it makes. It ends when every sink has been dropped.
    ///
    /// # Errors
    /// If the directory cannot be made, or there is no thread to be had.
    pub fn start(root: PathBuf, bounds: Bounds, say: fn(String)) -> io::Result<(Sink, Writer)> {
        fs::create_dir_all(&root)?;
        let (entries, taken) = mpsc::sync_channel(ENTRIES_MAX);
        let (growing, grown) = watch::channel(0);
        let counts = Arc::new(LogCounts::default());
        let sink = Sink { entries, counts: counts.clone() };
        let shared = counts.clone();
        let work = move || {
            let store = Store::open(root, bounds, say);
            Work { store, counts: shared, growing, say, was_well: true }.run(&taken);
        };
        let thread = thread::Builder::new().name("logs".into()).spawn(work)?;
        Ok((sink, Writer { thread, counts, grown }))
    }

    /// What was written and dropped.
    pub fn counts(&self) -> Arc<LogCounts> {
        self.counts.clone()
    }

    /// Changes when something was written.
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.grown.clone()
    }

    /// Waits until everything that was taken is written. Drop the sinks first.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

struct Work {
    store: Store,
    counts: Arc<LogCounts>,
    growing: watch::Sender<u64>,
    say: fn(String),
    was_well: bool,
}

impl Work {
    fn run(mut self, taken: &Receiver<Entry>) {
        // Of each function: its account, lines, and how many.
        let mut lines: BTreeMap<Arc<str>, (Account, Vec<u8>, u64)> = BTreeMap::new();
        while let Ok(first) = taken.recv() {
            thread::sleep(GATHER);
            let mut next = Some(first);
            while let Some(entry) = next {
                self.counts.waiting_bytes.fetch_sub(entry.text.len(), std::sync::atomic::Ordering::Relaxed);
                let name = entry.account.name.clone();
                let (account, text, count) =
                    lines.entry(name).or_insert_with(|| (entry.account.clone(), Vec::new(), 0));
                append_line(text, entry);
                *count += 1;
                if text.len() >= WRITE_BYTES {
                    self.write(account, text, *count);
                    (*count, *text) = (0, Vec::new());
                }
                next = taken.try_recv().ok();
            }
            for (account, text, count) in std::mem::take(&mut lines).into_values().filter(|(.., n)| *n > 0) {
                self.write(&account, &text, count);
            }
            self.growing.send_modify(|rounds| *rounds += 1);
        }
    }

    fn write(&mut self, account: &Account, lines: &[u8], records: u64) {
        let result = self.store.append(&account.name, lines);
        match &result {
            Ok(()) => drop(self.counts.written.fetch_add(records, std::sync::atomic::Ordering::Relaxed)),
            Err(error) => {
                self.counts.drop_of(account, records);
                if self.was_well {
                    (self.say)(format!(
                        "logs of {} could not be written: {error}; dropping records",
                        account.name
                    ));
                }
            }
        }
        self.was_well = result.is_ok();
    }
}

fn append_line(to: &mut Vec<u8>, entry: Entry) {
    let record = LogRecord {
        time: entry.at.0,
        function: entry.account.name.to_string(),
        call: entry.call.to_string(),
        attempt: entry.attempt,
        status: entry.status,
        host: entry.host,
        cpu: entry.cpu,
        truncated: entry.truncated,
        text: String::from_utf8_lossy(&entry.text).into_owned(),
    };
    serde_json::to_writer(&mut *to, &record).expect("plain data into memory");
    to.push(b'\n');
}

/// A segment on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// When it was begun or, of one that was found, last written: Unix ns.
    at: u64,
}

/// One function's segments, oldest first.
#[derive(Default, Debug)]
struct Ring {
    segments: VecDeque<Segment>,
    /// The newest one must not be appended to: it was cut off.
    is_closed: bool,
}

impl Ring {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

/// All segments, and which of them are open.
struct Store {
    root: PathBuf,
    bounds: Bounds,
    rings: BTreeMap<String, Ring>,
    open: BTreeMap<String, File>,
    total_bytes: u64,
}

impl Store {
    /// Looks at what is there. What is not a segment is left alone and told; never fails.
    fn open(root: PathBuf, bounds: Bounds, say: fn(String)) -> Store {
        let mut scan = Scan { rings: BTreeMap::new(), strange: 0, say };
        scan.root(&root);
        if scan.strange > NOTES_MAX {
            say(format!("{}: {} files there are no logs and were left alone", root.display(), scan.strange));
        }
        let total_bytes = scan.rings.values().map(Ring::bytes).sum();
        let mut store = Store { root, bounds, rings: scan.rings, open: BTreeMap::new(), total_bytes };
        store.trim_total();
        store
    }

    /// Appends whole lines of one function.
    fn append(&mut self, function: &str, lines: &[u8]) -> io::Result<()> {
        let directory = directory(&self.root, function).ok_or(io::ErrorKind::InvalidInput)?;
        let full = self.bounds.segment_bytes();
        let ring = self.rings.entry(function.to_owned()).or_default();
        let last = ring.segments.back().copied();
        if ring.is_closed || last.is_none_or(|segment| segment.bytes >= full) {
            let number = last.map_or(0, |segment| segment.number + 1);
            fs::create_dir_all(&directory)?;
            let path = directory.join(segment_name(number));
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            let at = crate::accounts::book::wall().0;
            ring.segments.push_back(Segment { number, bytes: 0, at });
            ring.is_closed = false;
            self.open.insert(function.to_owned(), file);
        }
        let segment = ring.segments.back_mut().expect("made if it was missing");
        if !self.open.contains_key(function) {
            let path = directory.join(segment_name(segment.number));
            self.open.insert(function.to_owned(), OpenOptions::new().append(true).open(path)?);
        }
        let written = self.open.get_mut(function).expect("just opened").write_all(lines);
        if let Err(error) = written {
            // Part of it may be there: the next record begins a new segment.
            ring.is_closed = true;
            self.open.remove(function);
            return Err(error);
        }
        segment.bytes += lines.len() as u64;
        self.total_bytes += lines.len() as u64;
        self.trim(function);
        self.trim_total();
        if self.open.len() > OPEN_MAX {
            self.open.clear();
        }
        Ok(())
    }

    /// Drops a function's oldest segments beyond its bound, but never the newest one.
    fn trim(&mut self, function: &str) {
        while let Some(ring) = self.rings.get(function)
            && ring.segments.len() > 1
            && ring.bytes() > self.bounds.function_bytes
        {
            self.remove_oldest(function);
        }
    }

    /// Drops the oldest segments of all beyond the bound of all.
    fn trim_total(&mut self) {
        while self.total_bytes > self.bounds.total_bytes {
            let oldest = |ring: &Ring| ring.segments.front().map(|segment| segment.at);
            let first = self.rings.iter().filter_map(|(name, ring)| Some((oldest(ring)?, name))).min();
            let Some(function) = first.map(|(_, name)| name.clone()) else { return };
            self.remove_oldest(&function);
        }
    }

    fn remove_oldest(&mut self, function: &str) {
        let Some(ring) = self.rings.get_mut(function) else { return };
        let Some(segment) = ring.segments.pop_front() else { return };
        self.total_bytes -= segment.bytes;
        if let Some(directory) = directory(&self.root, function) {
            // If it cannot be removed the next start finds it again.
            let _ = fs::remove_file(directory.join(segment_name(segment.number)));
        }
        if ring.segments.is_empty() {
            self.open.remove(function);
            // Numbers go on where they were: who reads on by number must not see an old one again.
            ring.segments.push_back(Segment { number: segment.number, bytes: 0, at: u64::MAX });
            ring.is_closed = true;
        }
    }
}

/// A walk over what is there at the start.
struct Scan {
    rings: BTreeMap<String, Ring>,
    strange: u64,
    say: fn(String),
}

impl Scan {
    fn root(&mut self, root: &Path) {
        for (namespace, path) in self.list(root) {
            for (name, path) in self.list(&path) {
                let function = format!("{namespace}/{name}");
                if directory(root, &function).is_some() && path.is_dir() {
                    self.function(function, &path);
                } else {
                    self.skip(&path, "is no function's directory");
                }
            }
        }
    }

    fn function(&mut self, function: String, path: &Path) {
        let mut segments = Vec::new();
        for (name, path) in self.list(path) {
            match (segment_number(&name), fs::symlink_metadata(&path)) {
                (Some(number), Ok(meta)) if meta.is_file() => {
                    let at = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                    segments.push(Segment { number, bytes: meta.len(), at: at.map_or(0, call::time::nanos) });
                }
                _ => self.skip(&path, "is no segment of a log"),
            }
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        let Some(last) = segments.last() else { return };
        let newest = path.join(segment_name(last.number));
        let is_closed = match ends_with_newline(&newest) {
            Ok(true) => false,
            Ok(false) => {
                self.skip(&newest, "ends within a record; that one is skipped, a new segment is begun");
                true
            }
            Err(error) => {
                self.skip(&newest, &format!("cannot be read: {error}"));
                true
            }
        };
        self.rings.insert(function, Ring { segments: segments.into(), is_closed });
    }

    fn list(&mut self, path: &Path) -> Vec<(String, PathBuf)> {
        match fs::read_dir(path) {
            Ok(entries) => entries
                .flatten()
                .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
                .collect(),
            Err(error) => {
                self.skip(path, &format!("is left alone: {error}"));
                Vec::new()
            }
        }
    }

    fn skip(&mut self, path: &Path, why: &str) {
        self.strange += 1;
        if self.strange <= NOTES_MAX {
            (self.say)(format!("{}: {why}", path.display()));
        }
    }
}

fn ends_with_newline(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Ledger;
    use crate::logs::{Cursor, LogQuery, WAITING_BYTES_MAX, read};
    use call::{CallId, Status, WallTime};

    fn quiet(_: String) {}

    fn account(function: &str) -> Account {
        Account { row: Ledger::default().open(function, "t"), name: function.into() }
    }

    fn entry(account: &Account, n: u64, text: &[u8]) -> Entry {
        Entry {
            at: WallTime(n + 1),
            account: account.clone(),
            call: CallId(u128::from(n)),
            attempt: 1,
            status: Status::Ok,
            host: "here".into(),
            cpu: 3,
            truncated: false,
            text: text.to_vec(),
        }
    }

    fn all(root: &Path, function: &str) -> Vec<u64> {
        let mut after: Option<Cursor> = None;
        let mut seen = Vec::new();
        loop {
            let query = LogQuery { after, ..LogQuery::new(function) };
            let page = read(root, &query).unwrap();
            seen.extend(page.records.iter().map(|record| record.time - 1));
            if !page.more {
                return seen;
            }
            after = Some(page.next.parse().unwrap());
        }
    }

    fn lines(store: &mut Store, account: &Account, numbers: std::ops::Range<u64>, text: &[u8]) {
        for n in numbers {
            let mut line = Vec::new();
            append_line(&mut line, entry(account, n, text));
            store.append(&account.name, &line).unwrap();
        }
    }

    fn on_disk(root: &Path) -> u64 {
        let files = |path: &Path| fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let functions = files(root).into_iter().flat_map(|namespace| files(&namespace));
        functions.flat_map(|f| files(&f)).map(|segment| fs::metadata(segment).unwrap().len()).sum()
    }

    #[test]
    fn records_go_through_the_thread_to_disk_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let (sink, writer) = Writer::start(temp.path().join("logs"), Bounds::default(), quiet).unwrap();
        let a = account("n/a");
        (0..100).for_each(|n| sink.put(entry(&a, n, b"hello\n\xff")));
        drop(sink);
        let counts = writer.counts();
        writer.join();
        assert_eq!((counts.written(), counts.dropped()), (100, 0));
        assert_eq!(all(&temp.path().join("logs"), "n/a"), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn more_than_fits_is_dropped_and_counted_and_never_waits() {
        let (entries, taken) = mpsc::sync_channel(8);
        let sink = Sink { entries, counts: Arc::default() };
        let a = account("n/a");
        (0..10).for_each(|n| sink.put(entry(&a, n, b"x")));
        assert_eq!((sink.counts.dropped(), a.row.logs_dropped()), (2, 2));
        drop(taken);
        sink.put(entry(&a, 10, b"x"));
        assert_eq!(sink.counts.dropped(), 3);
        let (entries, _taken) = mpsc::sync_channel(8);
        let sink = Sink { entries, counts: Arc::default() };
        sink.put(entry(&a, 0, &vec![0; WAITING_BYTES_MAX]));
        sink.put(entry(&a, 1, b"x"));
        assert_eq!(sink.counts.dropped(), 1, "bytes are bounded, too");
    }

    #[test]
    fn a_function_keeps_its_newest_records_within_its_bound() {
        let temp = tempfile::tempdir().unwrap();
        let bounds = Bounds { total_bytes: 1 << 20, function_bytes: 64 << 10 };
        let mut store = Store::open(temp.path().to_owned(), bounds, quiet);
        let a = account("n/a");
        lines(&mut store, &a, 0..1000, &[b'x'; 1000]);
        assert!(on_disk(temp.path()) <= bounds.function_bytes + 2000, "{}", on_disk(temp.path()));
        let kept = all(temp.path(), "n/a");
        assert!(kept.len() > 40 && kept.ends_with(&[998, 999]), "{kept:?}");
        assert!(kept.is_sorted() && kept.len() as u64 == 1000 - kept[0], "none is missing between");
    }

    #[test]
    fn all_functions_together_stay_within_the_bound_of_all() {
        let temp = tempfile::tempdir().unwrap();
        let bounds = Bounds { total_bytes: 100 << 10, function_bytes: 64 << 10 };
        let mut store = Store::open(temp.path().to_owned(), bounds, quiet);
        for n in 0..200 {
            lines(&mut store, &account(&format!("n/f{n}")), 0..5, &[b'x'; 1000]);
        }
        assert!(on_disk(temp.path()) <= bounds.total_bytes, "{}", on_disk(temp.path()));
        assert_eq!(all(temp.path(), "n/f199").len(), 5, "the newest are there");
        assert!(all(temp.path(), "n/f0").is_empty(), "the oldest are not");
        lines(&mut store, &account("n/f0"), 5..6, b"back");
        assert_eq!(all(temp.path(), "n/f0"), [5]);
        let again = Store::open(temp.path().to_owned(), bounds, quiet);
        assert_eq!(again.total_bytes, on_disk(temp.path()));
    }

    #[test]
    fn what_a_crash_or_a_person_left_behind_is_skipped() {
        let temp = tempfile::tempdir().unwrap();
        let a = account("n/a");
        lines(&mut Store::open(temp.path().to_owned(), Bounds::default(), quiet), &a, 0..3, b"x");
        let segment = temp.path().join("n/a").join(segment_name(0));
        let mut bytes = fs::read(&segment).unwrap();
        bytes.truncate(bytes.len() - 7);
        fs::write(&segment, bytes).unwrap();
        fs::write(temp.path().join("n/a/notes.txt"), b"mine").unwrap();
        fs::write(temp.path().join("file"), b"mine").unwrap();
        let mut store = Store::open(temp.path().to_owned(), Bounds::default(), quiet);
        lines(&mut store, &a, 3..5, b"x");
        assert_eq!(all(temp.path(), "n/a"), [0, 1, 3, 4]);
        assert_eq!(read(temp.path(), &LogQuery::new("n/a")).unwrap().damaged, 1);
        assert!(temp.path().join("n/a/notes.txt").exists() && temp.path().join("file").exists());
    }
}
