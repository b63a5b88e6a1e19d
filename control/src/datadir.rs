//! The data directory: that it is one, of this version, writable, with room, and used by one node only.
//!
//! | entry | what it is |
//! |---|---|
//! | `VERSION` | `millrace 3`: the format of everything below |
//! | `LOCK` | held with flock by the node that uses the directory; holds its process id |
//! | `log/NNNNNNNNNN.seg` | segments of the durable queue's log |
//! | `artefacts/<sha256>.wasm`, `.bundle` | what was deployed |
//! | `blobs/<sha256>` | large arguments of calls |
//! | `catalog.json` | which functions there are |
//! | `cache/` | compiled artefacts of this host |
//! | `usage/` | what functions used |
//! | `logs/` | what calls wrote |
//! | `salvage-UNIXMS.json` | what was lost of a damaged log |
//! | `SHARD` | the number of the shard whose it is; absent if its node never was one |
//! | `run/` | sockets, and `control.json` with endpoints and process id |

use crate::start::StartError;
use call::ShardId;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What `VERSION` says.
pub const VERSION: &str = "millrace 3";

/// What it says in directories that this build reads, and makes its own when it starts: in 3, records of calls that failed
/// carry their history, which a build of 2 does not read.
const EARLIER: [&str; 1] = ["millrace 2"];

/// Whether this build reads what such a `VERSION` stands for.
pub fn reads(version: &str) -> bool {
    version == VERSION || EARLIER.contains(&version)
}

const DIRECTORIES: [&str; 4] = ["log", "artefacts", "cache", "run"];

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// Released by the kernel with the process, however it ends.
    _lock: Flock<File>,
}

impl DataDir {
    /// Takes the directory, making it if it is missing or empty.
    ///
    /// # Errors
    /// If it is another node's, of another version, something else's, or not writable.
    pub fn open(path: &Path) -> Result<DataDir, StartError> {
        let failed = |at: &Path, source: io::Error| StartError::Io { path: at.to_owned(), source };
        fs::create_dir_all(path).map_err(|e| failed(path, e))?;
        let root = fs::canonicalize(path).map_err(|e| failed(path, e))?;
        let version = read_version(&root)?;
        let lock = take_lock(&root)?;
        if version.is_none_or(|version| version.trim_end() != VERSION) {
            write_durably(&root, "VERSION", format!("{VERSION}\n").as_bytes())
                .map_err(|e| failed(&root, e))?;
        }
        for name in DIRECTORIES {
            let directory = root.join(name);
            fs::create_dir_all(&directory).map_err(|e| failed(&directory, e))?;
        }
        sync_directory(&root).map_err(|e| failed(&root, e))?;
        Ok(DataDir { root, _lock: lock })
    }

    /// Where it is, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// An entry of it.
    pub fn path(&self, entry: &str) -> PathBuf {
        self.root.join(entry)
    }

    /// Takes the directory for a shard, or for a node alone. Whoever has been a shard may not be alone again: it would take
    /// calls that are another shard's.
    ///
    /// # Errors
    /// It is another shard's, or a shard's and the node is to be alone.
    pub fn belong(&self, shard: Option<ShardId>) -> Result<(), StartError> {
        let path = self.path("SHARD");
        let failed = |source| StartError::Io { path: path.clone(), source };
        let known = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        match (known, shard.map(|shard| shard.to_string())) {
            (None, None) => Ok(()),
            (None, Some(shard)) => {
                write_durably(&self.root, "SHARD", format!("{shard}\n").as_bytes()).map_err(failed)
            }
            (Some(known), Some(shard)) if known == shard => Ok(()),
            (Some(known), _) => Err(StartError::OtherShard { path: self.root.clone(), known }),
        }
    }

    /// Refuses a disk with less room than `needed_bytes`.
    pub fn check_room(&self, needed_bytes: u64) -> Result<(), StartError> {
        let disk = nix::sys::statvfs::statvfs(&self.root)
            .map_err(|e| StartError::Io { path: self.root.clone(), source: e.into() })?;
        let free_bytes = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        if free_bytes >= needed_bytes {
            return Ok(());
        }
        Err(StartError::NoSpace { path: self.root.clone(), free_bytes, needed_bytes })
    }
}

/// The text of `VERSION`: `None` in a directory that holds nothing yet.
fn read_version(root: &Path) -> Result<Option<String>, StartError> {
    let path = root.join("VERSION");
    match fs::read_to_string(&path) {
        Ok(text) if reads(text.trim_end()) => Ok(Some(text)),
        Ok(text) => {
            Err(StartError::OtherVersion { path: root.to_owned(), found: text.trim_end().to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entries =
                fs::read_dir(root).map_err(|source| StartError::Io { path: root.to_owned(), source })?;
            // A node that died between making LOCK and VERSION leaves only the lock.
            let foreign = entries.any(|e| e.is_ok_and(|e| e.file_name() != "LOCK"));
            if foreign { Err(StartError::NotADataDir { path: root.to_owned() }) } else { Ok(None) }
        }
        Err(source) => Err(StartError::Io { path, source }),
    }
}

fn take_lock(root: &Path) -> Result<Flock<File>, StartError> {
    let path = root.join("LOCK");
    let failed = |source| StartError::Io { path: path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0).map_err(failed)?;
            writeln!(lock, "{}", std::process::id()).map_err(failed)?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = file.rewind();
            let _ = file.read_to_string(&mut text);
            Err(StartError::InUse { path: root.to_owned(), pid: text.trim().parse().ok() })
        }
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Replaces `name` in `directory` so that a crash leaves the old file or the new one, whole.
pub fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = directory.join(format!(".{name}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, directory.join(name))?;
    sync_directory(directory)
}

/// Makes the entries of a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_made_and_opened_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/b");
        drop(DataDir::open(&root).unwrap());
        let again = DataDir::open(&root).unwrap();
        assert_eq!(fs::read_to_string(again.path("VERSION")).unwrap(), "millrace 3\n");
        assert!(again.path("log").is_dir() && again.root().is_absolute());
    }

    #[test]
    fn a_directory_in_use_names_the_process() {
        let temp = tempfile::tempdir().unwrap();
        let _first = DataDir::open(temp.path()).unwrap();
        let error = DataDir::open(temp.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    }

    #[test]
    fn an_earlier_version_becomes_this_one() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("VERSION"), "millrace 2\n").unwrap();
        drop(DataDir::open(temp.path()).unwrap());
        assert_eq!(fs::read_to_string(temp.path().join("VERSION")).unwrap(), "millrace 3\n");
    }

    #[test]
    fn another_version_is_refused_untouched() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("VERSION"), "millrace 9\n").unwrap();
        let error = DataDir::open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("`millrace 9`") && error.contains("`millrace 3`"), "{error}");
        assert!(!temp.path().join("log").exists());
    }

    #[test]
    fn somebody_elses_directory_is_refused_untouched() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.txt"), "mine").unwrap();
        let error = DataDir::open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("not a millrace data directory"), "{error}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_shard_stays_the_same_shard() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(temp.path()).unwrap();
        data.belong(None).unwrap();
        data.belong(Some(2)).unwrap();
        data.belong(Some(2)).unwrap();
        for other in [None, Some(1)] {
            let error = data.belong(other).unwrap_err().to_string();
            assert!(error.contains("shard 2") && error.contains("millrace up"), "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_told_before_the_log_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(temp.path()).unwrap();
        data.check_room(1).unwrap();
        let error = data.check_room(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("free"), "{error}");
    }
}
