//! What calls wrote to stdout and stderr, kept on disk for `millrace logs`.
//!
//! It comes with the outcome (16 KiB of a call at most; the worker says what it cut). The ring thread hands it to a
//! thread of its own through a bounded queue, [`Sink`], that never waits: what finds no room is dropped and counted.
//! Nothing is allocated for a call that wrote nothing.
//!
//! On disk: `logs/NAMESPACE/NAME/NNNNNNNNNN.ndjson`, segments of records, one JSON object ([`LogRecord`]) a line, in the
//! order in which the outcomes came. Each function has a ring of segments, and all together have a bound: the oldest
//! go. Not synced: a SIGKILL of the node loses what had not left the queue (some 10 ms), a power failure the last
//! seconds.

mod reader;
mod store;

pub use reader::{Cursor, LogQuery, read};
pub use store::{Bounds, Writer};

use crate::accounts::Account;
use call::{CallId, Status, WallTime};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

/// Records that wait for the writer at most.
const ENTRIES_MAX: usize = 4096;
/// Bytes of text that wait for the writer at most.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// What one execution wrote. Stable, on disk and in the API: fields are added, none is taken away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogRecord {
    /// When its outcome came, Unix ns.
    pub time: u64,
    /// `namespace/name`.
    pub function: String,
    /// The call's id.
    pub call: String,
    /// Which delivery of the call, from 1.
    pub attempt: u16,
    /// How the execution ended.
    pub status: Status,
    /// Where it ran.
    pub host: String,
    /// On which CPU.
    pub cpu: u32,
    /// Output or text was cut at its limit.
    pub truncated: bool,
    /// What it wrote; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Records in order, and where to read on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LogPage {
    /// Oldest first.
    pub records: Vec<LogRecord>,
    /// `after` of the next page.
    pub next: String,
    /// Whether there is more to read at once.
    pub more: bool,
    /// Lines on these pages of disk that are no records: cut by a crash, or damaged.
    pub damaged: u64,
    /// Records of this function that were dropped since the node's start, since they came faster than the disk takes
    /// them, or the disk failed.
    pub dropped: u64,
}

/// A record on its way to the writer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub at: WallTime,
    pub account: Account,
    pub call: CallId,
    pub attempt: u16,
    pub status: Status,
    pub host: String,
    pub cpu: u32,
    pub truncated: bool,
    pub text: Vec<u8>,
}

/// What the sink and the writer count together.
#[derive(Debug, Default)]
pub struct LogCounts {
    waiting_bytes: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl LogCounts {
    /// Records on disk since the start.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Records dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_of(&self, account: &Account, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
        account.row.drop_logs(records);
    }
}

/// The ring thread's end of the queue to the writer.
#[derive(Clone, Debug)]
pub struct Sink {
    entries: SyncSender<Entry>,
    counts: Arc<LogCounts>,
}

impl Sink {
    /// Takes a record if there is room; never waits.
    pub(crate) fn put(&self, entry: Entry) {
        let bytes = entry.text.len();
        if self.counts.waiting_bytes.load(Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            return self.counts.drop_of(&entry.account, 1);
        }
        self.counts.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(refused) = self.entries.try_send(entry) {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full(entry) | Disconnected(entry)) = refused;
            self.counts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.drop_of(&entry.account, 1);
        }
    }
}

/// Where a function's records are; `None` if it cannot be the name of one. Both parts become names of directories.
fn directory(root: &Path, function: &str) -> Option<PathBuf> {
    let (namespace, name) = function.split_once('/')?;
    let is_plain = |word: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !word.is_empty()
            && word.len() <= call::limits::NAME_BYTES_MAX
            && !word.starts_with('.')
            && word.chars().all(known)
    };
    (is_plain(namespace) && is_plain(name)).then(|| root.join(namespace).join(name))
}

fn segment_name(number: u64) -> String {
    format!("{number:010}.ndjson")
}

/// The number of a segment's file; `None` for other files.
fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".ndjson").filter(|digits| digits.len() >= 10)?;
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_out_of_the_directory() {
        let root = Path::new("/logs");
        assert_eq!(directory(root, "a/b.c").unwrap(), Path::new("/logs/a/b.c"));
        for wrong in ["a", "a/", "/a", "a/..", "../a", "a/b/c", "a/.b", "a/b\0"] {
            assert_eq!(directory(root, wrong), None, "{wrong:?}");
        }
        assert_eq!(segment_number(&segment_name(7)), Some(7));
        for wrong in ["7.ndjson", "000000000x.ndjson", "+000000007.ndjson", "0000000007.ndjson.1"] {
            assert_eq!(segment_number(wrong), None, "{wrong}");
        }
    }
}
