//! The ledger on disk: what survives a restart, and usage by the hour.
//!
//! | file in `usage/` | what |
//! |---|---|
//! | `sums.json` | all sums since the beginning, and those of the current hour; replaced whole, durably |
//! | `hours/N.json` | sums of the N-th hour since 1970, for a month |
//!
//! Written by a thread of its own each [`INTERVAL`] in which something changed, and when the node ends. A SIGKILL or a
//! power failure loses what was used since the last time and nothing else.

use super::report::{UsageQuery, UsageReport, rows};
use super::{Key, Ledger, Sums};
use crate::datadir::{sync_directory, write_durably};
use call::WallTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the sums are written: what a SIGKILL may lose.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Hours that are kept: 32 days, so that a month can be charged on the day after it.
pub const HOURS_MAX: u64 = 32 * 24;
/// Bytes of all hours: 20,000 functions in each of a day's hours. Beyond it the oldest go.
pub const HOURS_BYTES_MAX: u64 = 256 << 20;
/// Bytes of the largest file that is read back: a row of every function and as many others again.
const FILE_BYTES_MAX: u64 = 256 << 20;

const SUMS: &str = "sums.json";
const HOUR_NS: u64 = 3_600_000_000_000;
/// What the files say of themselves.
const FORMAT: u32 = 1;

/// `sums.json`.
#[derive(Serialize, Deserialize)]
struct SumsFile {
    format: u32,
    /// Unix ns.
    began: u64,
    /// The current one.
    hour: u64,
    /// Every hour from this one on is here.
    complete_from: u64,
    rows: Vec<SumsRow>,
}

#[derive(Serialize, Deserialize)]
struct SumsRow {
    function: String,
    tenant: String,
    total: Sums,
    /// In the current hour.
    hour: Sums,
}

/// `hours/N.json`.
#[derive(Serialize, Deserialize)]
struct HourFile {
    format: u32,
    rows: Vec<HourRow>,
}

#[derive(Serialize, Deserialize)]
struct HourRow {
    function: String,
    tenant: String,
    hour: Sums,
}

struct State {
    began: u64,
    hour: u64,
    complete_from: u64,
    /// Sums at the beginning of the hour.
    base: BTreeMap<Key, Sums>,
    /// As last written.
    written: Option<BTreeMap<Key, Sums>>,
}

/// The ledger, and its files.
pub struct Book {
    ledger: Arc<Ledger>,
    directory: PathBuf,
    /// [`HOURS_MAX`], except in tests.
    hours_max: u64,
    state: Mutex<State>,
}

impl Book {
    /// Reads what is there. A file that is not one is moved aside, and told in the second value: what was used must not
    /// keep a node from serving.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(directory: PathBuf, rows_max: usize, now: WallTime) -> io::Result<(Book, Option<String>)> {
        fs::create_dir_all(directory.join("hours"))?;
        let ledger = Arc::new(Ledger::new(rows_max));
        let hour = now.0 / HOUR_NS;
        let (base, written) = (BTreeMap::new(), None);
        let mut state = State { began: now.0, hour, complete_from: hour, base, written };
        let mut note = None;
        match read::<SumsFile>(&directory.join(SUMS)) {
            Ok(file) if file.format == FORMAT => state.restore(file, &ledger),
            Ok(file) => note = Some(set_aside(&directory, &format!("has format {}", file.format))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                note = Some(set_aside(&directory, &error.to_string())?);
            }
            Err(error) => return Err(error),
        }
        Ok((Book { ledger, directory, hours_max: HOURS_MAX, state: Mutex::new(state) }, note))
    }

    /// Where the node counts.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> BTreeMap<Key, Sums> {
        let rows = self.ledger.rows();
        rows.iter().map(|row| ((row.function.clone(), row.tenant.clone()), row.sums())).collect()
    }

    /// Writes the sums, if they changed, and closes the hour if it is over. What is used between the end of an hour and
    /// the next time this is called counts in the hour before.
    ///
    /// # Errors
    /// Those of the disk. The next time writes everything.
    pub fn keep(&self, now: WallTime) -> io::Result<()> {
        let mut state = self.state();
        let sums = self.snapshot();
        // A clock that was set back does not open a closed hour.
        let hour = state.hour.max(now.0 / HOUR_NS);
        if hour > state.hour {
            self.close_hour(&mut state, &sums)?;
            (state.hour, state.base) = (hour, sums.clone());
            state.written = None;
        }
        if state.written.as_ref() == Some(&sums) {
            return Ok(());
        }
        let row = |(key, total): (&Key, &Sums)| SumsRow {
            function: key.0.clone(),
            tenant: key.1.clone(),
            total: *total,
            hour: total.since(state.base.get(key).unwrap_or(&Sums::default())),
        };
        let State { began, complete_from, .. } = *state;
        let file =
            SumsFile { format: FORMAT, began, hour, complete_from, rows: sums.iter().map(row).collect() };
        write_durably(&self.directory, SUMS, &serde_json::to_vec(&file).expect("plain data"))?;
        state.written = Some(sums);
        Ok(())
    }

    /// On disk before `sums.json` says that the hour is over: after a crash in between it is closed again.
    fn close_hour(&self, state: &mut State, sums: &BTreeMap<Key, Sums>) -> io::Result<()> {
        let rows: Vec<HourRow> = hour_of(state, sums)
            .map(|(key, hour)| HourRow { function: key.0.clone(), tenant: key.1.clone(), hour })
            .collect();
        if !rows.is_empty() {
            let text = serde_json::to_vec(&HourFile { format: FORMAT, rows }).expect("plain data");
            write_durably(&self.directory.join("hours"), &format!("{}.json", state.hour), &text)?;
        }
        self.prune(state)
    }

    fn prune(&self, state: &mut State) -> io::Result<()> {
        let hours = self.hours()?;
        let mut bytes: u64 = hours.values().sum();
        for (hour, size) in hours {
            let is_old = hour + self.hours_max <= state.hour;
            if !is_old && bytes <= HOURS_BYTES_MAX {
                break;
            }
            fs::remove_file(self.hour_path(hour))?;
            bytes -= size;
            state.complete_from = state.complete_from.max(hour + 1);
        }
        sync_directory(&self.directory.join("hours"))
    }

    /// Hours on disk and their bytes. Other files are left alone.
    fn hours(&self) -> io::Result<BTreeMap<u64, u64>> {
        let mut hours = BTreeMap::new();
        for entry in fs::read_dir(self.directory.join("hours"))? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(hour) = name.to_str().and_then(|n| n.strip_suffix(".json")?.parse().ok()) {
                hours.insert(hour, entry.metadata()?.len());
            }
        }
        Ok(hours)
    }

    fn hour_path(&self, hour: u64) -> PathBuf {
        self.directory.join("hours").join(format!("{hour}.json"))
    }

    /// What was used. Reads files if a time is asked for.
    ///
    /// # Errors
    /// Those of the disk; an hour that cannot be read is left out, and the report says that it is not complete.
    pub fn report(&self, query: &UsageQuery, now: WallTime) -> io::Result<UsageReport> {
        let state = self.state();
        let live = self.snapshot();
        let (from, complete, sums) = match query.since.filter(|since| *since > state.began) {
            None => (state.began, true, live),
            Some(since) => {
                let (from, asked) = (state.complete_from.max(since / HOUR_NS), since / HOUR_NS);
                let (sums, complete) = self.since(from, &state, &live)?;
                (from * HOUR_NS, complete && from == asked, sums)
            }
        };
        let (rows, total) = rows(query, &sums);
        let began = from.max(state.began);
        Ok(UsageReport { from: began, to: now.0, complete, by: query.by, rows, total })
    }

    /// Sums of all hours from this one on, and whether all could be read.
    fn since(
        &self,
        from: u64,
        state: &State,
        live: &BTreeMap<Key, Sums>,
    ) -> io::Result<(BTreeMap<Key, Sums>, bool)> {
        let mut sums: BTreeMap<Key, Sums> = BTreeMap::new();
        if from <= state.hour {
            sums.extend(hour_of(state, live).map(|(key, hour)| (key.clone(), hour)));
        }
        let mut complete = true;
        for hour in self.hours()?.into_keys().filter(|hour| (from..state.hour).contains(hour)) {
            match read::<HourFile>(&self.hour_path(hour)) {
                Ok(file) if file.format == FORMAT => {
                    for row in file.rows {
                        sums.entry((row.function, row.tenant)).or_default().add(&row.hour);
                    }
                }
                _ => complete = false,
            }
        }
        Ok((sums, complete))
    }
}

impl State {
    fn restore(&mut self, file: SumsFile, ledger: &Ledger) {
        (self.began, self.hour, self.complete_from) = (file.began, file.hour, file.complete_from);
        for SumsRow { function, tenant, total, hour } in file.rows {
            let key = (function, tenant);
            ledger.restore(key.clone(), &total);
            self.base.insert(key, total.since(&hour));
        }
    }
}

/// What each row used in the current hour, without those that used nothing.
fn hour_of<'a>(state: &State, sums: &'a BTreeMap<Key, Sums>) -> impl Iterator<Item = (&'a Key, Sums)> {
    let nothing = Sums::default();
    let used = move |(key, total): (&'a Key, &'a Sums)| {
        let hour = total.since(state.base.get(key).unwrap_or(&nothing));
        (!hour.is_zero()).then_some((key, hour))
    };
    sums.iter().filter_map(used).collect::<Vec<_>>().into_iter()
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    serde_json::from_slice(&fs::read(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Keeps a file that is not one for whoever wants to look into it. What is to be told.
fn set_aside(directory: &Path, why: &str) -> io::Result<String> {
    let (from, to) = (directory.join(SUMS), directory.join("sums.json.damaged"));
    fs::rename(&from, &to)?;
    Ok(format!("{}: {why}; usage is counted from zero, the file is kept as {}", from.display(), to.display()))
}

/// The thread that writes a book.
pub struct Keeper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts it. `say` prints what an operator should know.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(book: Arc<Book>, say: fn(String)) -> io::Result<Keeper> {
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            let mut was_well = true;
            loop {
                let ended = stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout);
                let result = book.keep(wall());
                if let Err(error) = &result
                    && was_well
                {
                    say(format!("usage could not be written: {error}; trying again every {INTERVAL:?}"));
                }
                was_well = result.is_ok();
                if ended {
                    return;
                }
            }
        };
        Ok(Keeper { stop, thread: thread::Builder::new().name("usage".into()).spawn(work)? })
    }

    /// Writes once more and ends. When the ring has ended, nothing is lost.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// The wall clock.
pub fn wall() -> WallTime {
    WallTime(SystemTime::now().duration_since(UNIX_EPOCH).map(call::time::nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use call::{FunctionSpec, Status, Usage};
    use scheduler::FunctionRef;

    /// In the middle of an hour.
    const NOW: u64 = 500_000 * HOUR_NS + HOUR_NS / 2;

    struct Counting {
        book: Book,
        accounts: Accounts,
    }

    fn open(directory: &Path, now: u64) -> Counting {
        let (book, note) = Book::open(directory.to_owned(), 16, WallTime(now)).unwrap();
        assert_eq!(note, None);
        let mut accounts = Accounts::new(book.ledger().clone());
        accounts.open(FunctionRef(0), &FunctionSpec { name: "a".into(), ..FunctionSpec::default() });
        Counting { book, accounts }
    }

    impl Counting {
        fn use_cpu(&self, cpu_ns: u64) {
            self.accounts.executed(FunctionRef(0), Status::Ok, &Usage { cpu_ns, ..Usage::default() });
        }

        fn used(&self, since: Option<u64>) -> (u64, bool) {
            let query = UsageQuery { since, ..UsageQuery::default() };
            let report = self.book.report(&query, WallTime(NOW)).unwrap();
            (report.total.cpu_ns, report.complete)
        }
    }

    #[test]
    fn a_kill_loses_what_came_after_the_last_write_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let counting = open(temp.path(), NOW);
        counting.use_cpu(5);
        counting.book.keep(WallTime(NOW)).unwrap();
        counting.use_cpu(100);
        drop(counting);
        let counting = open(temp.path(), NOW + 1);
        counting.use_cpu(2);
        assert_eq!(counting.used(None), (7, true));
        assert_eq!(counting.used(Some(NOW)), (7, true), "the hour goes on, too");
    }

    #[test]
    fn hours_are_kept_apart_and_old_ones_go() {
        let temp = tempfile::tempdir().unwrap();
        let open = |now| {
            let mut counting = open(temp.path(), now);
            counting.book.hours_max = 20;
            counting
        };
        let mut counting = open(NOW);
        for hour in 0..30 {
            counting.use_cpu(1);
            counting.book.keep(WallTime(NOW + hour * HOUR_NS)).unwrap();
            if hour == 5 {
                counting = open(NOW + hour * HOUR_NS);
            }
        }
        let last = NOW + 29 * HOUR_NS;
        // What is used between two writes counts in the hour that the later one closes.
        assert_eq!(counting.used(Some(last - 2 * HOUR_NS)), (2, true));
        assert_eq!(counting.used(None), (30, true));
        let (of_all_hours, complete) = counting.used(Some(NOW + HOUR_NS));
        assert!(!complete && (15..=21).contains(&of_all_hours), "{of_all_hours}");
        let files = fs::read_dir(temp.path().join("hours")).unwrap().count();
        assert!((18..=20).contains(&files), "{files}");
    }

    #[test]
    fn an_hour_that_was_closed_before_a_crash_counts_once() {
        let temp = tempfile::tempdir().unwrap();
        let counting = open(temp.path(), NOW);
        counting.use_cpu(3);
        counting.book.keep(WallTime(NOW)).unwrap();
        let before = fs::read(temp.path().join(SUMS)).unwrap();
        counting.book.keep(WallTime(NOW + HOUR_NS)).unwrap();
        // The crash came before `sums.json` was replaced.
        fs::write(temp.path().join(SUMS), before).unwrap();
        let counting = open(temp.path(), NOW + HOUR_NS);
        counting.book.keep(WallTime(NOW + HOUR_NS)).unwrap();
        assert_eq!(counting.used(Some(NOW)), (3, true));
        assert_eq!(counting.used(Some(NOW + HOUR_NS)), (0, true));
    }

    #[test]
    fn damaged_files_are_told_and_never_keep_a_node_from_serving() {
        let temp = tempfile::tempdir().unwrap();
        let counting = open(temp.path(), NOW);
        counting.use_cpu(3);
        counting.book.keep(WallTime(NOW + HOUR_NS)).unwrap();
        fs::write(counting.book.hour_path(NOW / HOUR_NS), b"{\"format\":1,\"rows\":[{").unwrap();
        fs::write(temp.path().join("hours/notes.txt"), b"mine").unwrap();
        assert_eq!(counting.used(Some(NOW + 1)), (0, false));
        fs::write(temp.path().join(SUMS), b"{\"format\":1,").unwrap();
        let (book, note) = Book::open(temp.path().to_owned(), 16, WallTime(NOW)).unwrap();
        assert!(note.unwrap().contains("sums.json.damaged"));
        assert!(book.ledger().rows().is_empty() && temp.path().join("sums.json.damaged").is_file());
    }

    #[test]
    fn nothing_is_written_while_nothing_changes() {
        let temp = tempfile::tempdir().unwrap();
        let counting = open(temp.path(), NOW);
        counting.use_cpu(3);
        counting.book.keep(WallTime(NOW)).unwrap();
        fs::remove_file(temp.path().join(SUMS)).unwrap();
        counting.book.keep(WallTime(NOW + 1)).unwrap();
        assert!(!temp.path().join(SUMS).exists());
        counting.use_cpu(1);
        counting.book.keep(WallTime(NOW + 1)).unwrap();
        assert!(temp.path().join(SUMS).exists());
    }
}
