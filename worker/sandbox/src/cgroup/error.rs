//! What went wrong with a file of a control group, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why something about a group was not done.
#[derive(Debug)]
pub enum CgroupError {
    /// The kernel refused something with a file or directory.
    File {
        /// What was to be done: `write 64 to`, `make`, `remove`.
        step: String,
        /// With which file or directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A limit is set, and nothing on this host enforces it.
    NoController {
        /// Which controller would.
        controller: &'static str,
        /// What to do about it.
        remedy: String,
    },
    /// No groups can be made here.
    Unavailable {
        /// Why not.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

pub(super) const DELEGATE: &str =
    "run the worker as a systemd service with Delegate=yes, or once by `systemd-run --scope -p Delegate=yes`";

impl CgroupError {
    /// With the remedy that fits the kernel's answer.
    pub(super) fn file(step: impl Into<String>, path: &Path, error: io::Error) -> CgroupError {
        let remedy = match error.raw_os_error().unwrap_or(0) {
            libc::EACCES | libc::EPERM => {
                "run the worker as root, or as a systemd service with Delegate=yes, so that this subtree is its own"
            }
            libc::EROFS => {
                "mount the cgroup file system read-write (docker: --privileged or --cgroupns=private)"
            }
            libc::EBUSY if path.ends_with("cgroup.subtree_control") => {
                "a group with processes in it cannot have limited children: move them to a group of their own \
                 (systemd: DelegateSubgroup=millrace-worker)"
            }
            libc::EBUSY => {
                "it still holds processes or groups, or uses more than the new limit; end them first"
            }
            libc::ENOENT => {
                "the group was removed by somebody else, or this kernel lacks the controller's file"
            }
            libc::ENODEV => {
                "no such disk, or one that cannot be throttled; put the data directory on a local disk"
            }
            libc::EINVAL | libc::ERANGE => {
                "the value is out of bounds, or beyond what the group above allows"
            }
            libc::ENOSPC if path.ends_with("cpuset.cpus") => "a group with processes cannot be without CPUs",
            libc::ENOSPC => {
                "the host has as many groups as it may; see cgroup.max.descendants of the groups above"
            }
            libc::EAGAIN => "the group above has as many processes as it may (pids.max); raise it",
            libc::ESRCH => "the process has ended",
            libc::EOPNOTSUPP => "the group is of a kind that cannot do this: see its cgroup.type",
            _ => "see dmesg",
        };
        CgroupError::File { step: step.into(), path: path.to_owned(), error, remedy }
    }

    /// The kernel's number for what went wrong, if it was the kernel.
    pub fn errno(&self) -> Option<i32> {
        match self {
            CgroupError::File { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        match self {
            CgroupError::File { remedy, .. } | CgroupError::Unavailable { remedy, .. } => remedy,
            CgroupError::NoController { remedy, .. } => remedy,
        }
    }
}

impl fmt::Display for CgroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CgroupError::File { step, path, error, remedy } => {
                write!(f, "cannot {step} {}: {error}; {remedy}", path.display())
            }
            CgroupError::NoController { controller, remedy } => {
                write!(f, "no {controller} controller enforces this limit here; {remedy}")
            }
            CgroupError::Unavailable { reason, remedy } => write!(f, "no control groups: {reason}; {remedy}"),
        }
    }
}

impl std::error::Error for CgroupError {}
