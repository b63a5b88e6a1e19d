//! The kernel's files: small texts, written in one piece.

use super::error::CgroupError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// No file that is read here is longer, but for lists of processes.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// How long a lock is waited for: removing a platform's empty groups takes milliseconds.
const HELD_MAX: Duration = Duration::from_secs(10);
/// Between two looks at a lock.
const HELD_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    // Without O_CREAT and O_TRUNC: the file is the kernel's.
    let written =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CgroupError::file(format!("write {:?} to", text.trim_end()), path, error))
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TEXT_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| CgroupError::file("read", path, error))?;
    Ok(text)
}

/// The number that the whole file is; `max` is the largest there is.
pub(super) fn number(path: &Path) -> Result<u64, CgroupError> {
    let text = read(path)?;
    match text.trim() {
        "max" => Ok(u64::MAX),
        text => text.parse().map_err(|_| CgroupError::file("read a number from", path, odd())),
    }
}

/// The number after `key` in a file of `key number` lines; 0 if the key is not there.
pub(super) fn keyed(path: &Path, key: &str) -> Result<u64, CgroupError> {
    Ok(value(&read(path)?, key))
}

pub(super) fn value(text: &str, key: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key).and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}

/// The processes of a group, as this process's PID namespace numbers them; those that it cannot see are left out.
pub(super) fn processes(group: &Path) -> Result<Vec<i32>, CgroupError> {
    ids(&group.join("cgroup.procs"))
}

/// The same of any such file.
pub(super) fn ids(path: &Path) -> Result<Vec<i32>, CgroupError> {
    // Not `read`: a fork bomb's list may be long.
    let text = fs::read_to_string(path).map_err(|error| CgroupError::file("read", path, error))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
}

/// Makes a group. True: it was not there before.
pub(super) fn make(group: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(group) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(CgroupError::file("make", group, error)),
    }
}

/// Makes a group if it is not there and says, for as long as what is returned lives, that its platform is in use. Waits
/// while somebody removes it.
pub(super) fn make_and_hold(group: &Path) -> Result<Flock<File>, CgroupError> {
    let until = Instant::now() + HELD_MAX;
    loop {
        make(group)?;
        let held = match hold(group, FlockArg::LockSharedNonblock) {
            Err(error) if error.errno() == Some(libc::ENOENT) => None,
            held => held?,
        };
        if let Some(held) = held.filter(|held| is_at(held, group)) {
            return Ok(held);
        }
        if Instant::now() > until {
            let busy = io::Error::from_raw_os_error(libc::EWOULDBLOCK);
            return Err(CgroupError::file("lock (another platform's jailer removes it)", group, busy));
        }
        std::thread::sleep(HELD_PAUSE);
    }
}

/// Locks a group's directory; none: somebody else has.
pub(super) fn hold(group: &Path, how: FlockArg) -> Result<Option<Flock<File>>, CgroupError> {
    let failed = |error| CgroupError::file("lock", group, error);
    match Flock::lock(File::open(group).map_err(failed)?, how) {
        Ok(held) => Ok(Some(held)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Whether the directory that is locked is still the one at this path.
fn is_at(held: &File, group: &Path) -> bool {
    let number = |found: io::Result<fs::Metadata>| found.ok().map(|found| found.ino());
    number(held.metadata()).is_some_and(|own| number(fs::metadata(group)) == Some(own))
}

/// Removes a group that is empty. False: it is not. One that is not there is removed.
pub(super) fn remove(group: &Path) -> Result<bool, CgroupError> {
    match fs::remove_dir(group) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(CgroupError::file("remove", group, error)),
    }
}

/// The groups directly below a group, sorted.
pub(super) fn children(group: &Path) -> Result<Vec<String>, CgroupError> {
    let entries = fs::read_dir(group).map_err(|error| CgroupError::file("list", group, error))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it holds something else")
}
