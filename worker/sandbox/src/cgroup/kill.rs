//! Ending all that is in a group, also what forks faster than one can read.

use super::error::CgroupError;
use super::files;
use super::hierarchy::Version;
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at something that takes the kernel a moment.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// Descriptors of processes held at a time.
const BATCH: usize = 64;
/// How long a v1 freezer may take; a process in the midst of disk I/O holds it up.
const FREEZE: Duration = Duration::from_millis(100);
/// Rounds of killing in v1: one is enough for a group that is frozen, or that may not fork.
const ROUNDS: usize = 16;

/// Sends SIGKILL to all in a group, given by its directories.
pub(super) fn kill(places: &[(Version, PathBuf)], has_kill: bool) -> Result<(), CgroupError> {
    let mut is_done = false;
    for (_, directory) in places.iter().filter(|(version, _)| *version == Version::Two && has_kill) {
        files::write(&directory.join("cgroup.kill"), "1")?;
        is_done = true;
    }
    let ones = || places.iter().filter(|(version, _)| *version == Version::One).map(|(_, place)| place);
    if is_done {
        // Only what is in a v1 group and not in the v2 one, if somebody moved it there by hand.
        return ones().try_for_each(|directory| kill_listed(directory).map(drop));
    }
    for directory in ones().filter(|directory| directory.join("pids.max").exists()) {
        files::write(&directory.join("pids.max"), "0")?;
    }
    let frozen: Vec<PathBuf> =
        ones().map(|directory| directory.join("freezer.state")).filter(|file| file.exists()).collect();
    for file in &frozen {
        freeze(file)?;
    }
    let killed = kill_rounds(places);
    for file in &frozen {
        files::write(file, "THAWED")?;
    }
    killed
}

fn kill_rounds(places: &[(Version, PathBuf)]) -> Result<(), CgroupError> {
    for _ in 0..ROUNDS {
        let mut sent = 0;
        for (_, directory) in places {
            sent += kill_listed(directory)?;
        }
        if sent == 0 {
            break;
        }
    }
    Ok(())
}

/// Without success it goes on: killing in rounds needs no frozen group, only more rounds.
fn freeze(state: &Path) -> Result<(), CgroupError> {
    files::write(state, "FROZEN")?;
    let stop = Instant::now() + FREEZE;
    while files::read(state)?.trim() != "FROZEN" && Instant::now() < stop {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Kills the processes that a group lists. Returns how many were not dying yet.
fn kill_listed(group: &Path) -> Result<usize, CgroupError> {
    let mut sent = 0;
    for batch in files::processes(group)?.chunks(BATCH) {
        let held: Vec<(i32, OwnedFd)> = batch.iter().filter_map(|pid| Some((*pid, process(*pid)?))).collect();
        // A number may have been given to somebody else before it was opened: what is listed still is ours.
        let still = files::processes(group)?;
        for (pid, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            if !is_dying(*pid) {
                sent += 1;
            }
            send_kill(process).map_err(|error| CgroupError::file(format!("kill {pid} of"), group, error))?;
        }
    }
    Ok(sent)
}

fn process(pid: i32) -> Option<OwnedFd> {
    // SAFETY: no pointer is passed.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

fn send_kill(process: &OwnedFd) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null `siginfo` asks for the usual one.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, nothing, 0) };
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether SIGKILL is under way to a process, or it is a zombie.
fn is_dying(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let mask = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        mask >> (libc::SIGKILL - 1) & 1 == 1
    };
    status.is_empty() || status.contains("State:\tZ") || pending("SigPnd:") || pending("ShdPnd:")
}

/// Whether no process is left in a group or below it. One that is not there is empty.
pub(super) fn is_empty(version: Version, group: &Path) -> Result<bool, CgroupError> {
    let looked = match version {
        Version::Two => files::keyed(&group.join("cgroup.events"), "populated").map(|number| number == 0),
        Version::One => files::processes(group).map(|processes| processes.is_empty()),
    };
    match looked {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(true),
        looked => looked,
    }
}

/// Removes a group with those below it, deepest first. False: something is still in it.
pub(super) fn remove_tree(group: &Path) -> Result<bool, CgroupError> {
    if files::remove(group)? {
        return Ok(true);
    }
    for child in files::children(group).unwrap_or_default() {
        remove_tree(&group.join(child))?;
    }
    files::remove(group)
}

/// All groups below one, itself included.
fn all_below(group: &Path) -> Vec<PathBuf> {
    let mut all = vec![group.to_owned()];
    let mut index = 0;
    while let Some(next) = all.get(index).cloned() {
        all.extend(files::children(&next).unwrap_or_default().into_iter().map(|name| next.join(name)));
        index += 1;
    }
    all
}

/// Kills what is in these groups and below, and removes them.
pub(super) fn kill_and_remove(stale: &[(Version, PathBuf)], within: Duration) -> Result<(), CgroupError> {
    let stop = Instant::now() + within;
    let mut left: Vec<(Version, PathBuf)> = stale.to_vec();
    loop {
        for (version, directory) in &left {
            let below = all_below(directory).into_iter().map(|group| (*version, group)).collect::<Vec<_>>();
            for place in below {
                let has_kill = place.1.join("cgroup.kill").exists();
                match kill(std::slice::from_ref(&place), has_kill) {
                    // It went meanwhile.
                    Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => {}
                    killed => killed?,
                }
            }
        }
        let mut busy = Vec::new();
        for (version, directory) in left {
            if !remove_tree(&directory)? {
                busy.push((version, directory));
            }
        }
        let Some((_, directory)) = busy.first() else { return Ok(()) };
        if Instant::now() >= stop {
            return Err(CgroupError::file("remove", directory, io::Error::from_raw_os_error(libc::EBUSY)));
        }
        std::thread::sleep(PAUSE);
        left = busy;
    }
}
