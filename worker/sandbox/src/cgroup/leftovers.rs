//! What platforms that were killed and never came back leave in the trees: empty groups.
//!
//! A platform is in use while a [`Parent`](super::Parent) of it lives, which holds shared locks of its directories, or
//! while a process is in any of its groups. Whoever removes one takes the locks exclusively first; opening a parent
//! waits for that. The kernel lets go of locks with the process that has them.

use super::error::CgroupError;
use super::files;
use super::hierarchy::{Hierarchy, Tree, Version};
use super::parent::{groups_below, is_platform};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The groups of one platform, empty and locked.
#[derive(Debug)]
pub struct Leftovers {
    tops: Vec<PathBuf>,
    /// Until all is gone, also what is not a group.
    _held: Vec<Flock<File>>,
}

/// Whether a platform's groups may go.
#[derive(Debug)]
pub enum Verdict {
    /// Nobody is there.
    Left(Leftovers),
    /// A jailer or a process is.
    InUse,
    /// It cannot be told, for this reason.
    Unknown(String),
}

impl Hierarchy {
    /// All platforms that have groups here, but the one of this name. Each stays locked until its verdict is dropped.
    ///
    /// # Errors
    /// If there are too many groups, or too deep ones, to know all.
    pub fn leftovers(&self, but: &str) -> Result<BTreeMap<String, Verdict>, CgroupError> {
        let mut places: BTreeMap<String, Vec<(&Tree, PathBuf)>> = BTreeMap::new();
        for tree in &self.trees {
            let (found, is_all) = groups_below(&tree.at, is_platform);
            if !is_all {
                let reason = format!("{} has too many groups to look at all", tree.at.display());
                return Err(CgroupError::Unavailable { reason, remedy: "remove those that nobody uses" });
            }
            for top in found {
                let name = top.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                places.entry(name).or_default().push((tree, top));
            }
        }
        places.remove(but);
        Ok(places.into_iter().map(|(name, tops)| (name, judge(tops))).collect())
    }
}

/// The v2 tree's word is the certain one: each sandbox is in it, and it counts also processes that this process's PID
/// namespace does not show.
fn judge(tops: Vec<(&Tree, PathBuf)>) -> Verdict {
    let mut held = Vec::new();
    for (_, top) in &tops {
        match files::hold(top, FlockArg::LockExclusiveNonblock) {
            Ok(Some(lock)) => held.push(lock),
            Ok(None) => return Verdict::InUse,
            Err(error) => return Verdict::Unknown(error.to_string()),
        }
    }
    for (tree, top) in &tops {
        match is_populated(tree.version, top) {
            Ok(false) => {}
            Ok(true) => return Verdict::InUse,
            Err(error) => return Verdict::Unknown(error.to_string()),
        }
    }
    if !tops.iter().any(|(tree, _)| tree.version == Version::Two) {
        return Verdict::Unknown(
            "it has no group in a v2 tree, which would tell of every process".to_owned(),
        );
    }
    Verdict::Left(Leftovers { tops: tops.into_iter().map(|(_, top)| top).collect(), _held: held })
}

/// Whether a process is in a group or below.
fn is_populated(version: Version, group: &Path) -> Result<bool, CgroupError> {
    if version == Version::Two {
        return Ok(files::keyed(&group.join("cgroup.events"), "populated")? != 0);
    }
    // Any line counts, also one without a number.
    if !files::read(&group.join("cgroup.procs"))?.is_empty() {
        return Ok(true);
    }
    for child in files::children(group)? {
        if is_populated(version, &group.join(child))? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Leftovers {
    /// Removes all its groups and returns how many directories went. The locks are held until then.
    ///
    /// # Errors
    /// If a process has come in after all: the kernel removes no group with one.
    pub fn remove(self) -> Result<usize, CgroupError> {
        self.tops.iter().try_fold(0, |count, top| Ok(count + remove_below(top)?))
    }
}

fn remove_below(group: &Path) -> Result<usize, CgroupError> {
    let mut count = 1;
    for child in files::children(group)? {
        count += remove_below(&group.join(child))?;
    }
    match files::remove(group)? {
        true => Ok(count),
        false => Err(CgroupError::file("remove", group, std::io::Error::from_raw_os_error(libc::EBUSY))),
    }
}
