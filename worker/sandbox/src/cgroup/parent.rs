//! One platform's subtree.

use super::device;
use super::error::CgroupError;
use super::files;
use super::group::Group;
use super::hierarchy::{Controller, Hierarchy, Tree, Version};
use super::kill;
use super::subtree::{LEAF, Whose};
use nix::fcntl::Flock;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How far below a tree's root a platform's groups are looked for.
const DEPTH_MAX: usize = 8;
/// The weight of the group of the worker's own processes beside all sandboxes together, which have 100: each call passes
/// through a core, which waits most of the time.
const WORKER_WEIGHT: &str = "1000";
/// Groups looked at at most, on a host with very many.
const LOOKS_MAX: usize = 50_000;

/// The groups of one platform: a directory of its name in each tree.
#[derive(Clone, Debug)]
pub struct Parent {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub name: String,
    pub trees: Vec<Tree>,
    /// This platform's directory in each tree.
    pub tops: Vec<PathBuf>,
    /// Index into `trees`.
    pub unified: Option<usize>,
    /// Whether writing to the v2 group's `cgroup.kill` ends all that is in it.
    pub has_kill: bool,
    /// `major:minor`, or why there is none.
    pub disk: Result<String, String>,
    /// Shared locks of the directories: nobody removes them as a dead platform's; see [`super::leftovers`].
    _held: Vec<Flock<File>>,
}

impl Inner {
    pub fn tree(&self, controller: Controller) -> Option<usize> {
        self.trees.iter().position(|tree| tree.controllers.contains(&controller))
    }

    /// Whether each group has a directory in this tree from the start; in others it gets one when a limit needs it.
    pub fn is_always(&self, tree: usize) -> bool {
        if self.trees[tree].version == Version::Two {
            return true;
        }
        self.trees[tree].controllers.iter().any(|controller| match controller {
            Controller::Cpu | Controller::Cpuacct | Controller::Memory | Controller::Pids => true,
            Controller::Freezer => !self.has_kill,
            Controller::Io | Controller::Cpuset => false,
        })
    }
}

impl Parent {
    /// Makes the subtree of the platform whose data lies in `data_dir`, or finds it.
    ///
    /// In a v2 subtree that is not the tree's root, this process and all others in the subtree's top group move to the
    /// group `millrace-worker` below it: the kernel allows no processes beside children with limits.
    ///
    /// # Errors
    /// If nothing here can limit memory, CPU and processes, or the kernel refuses.
    pub fn open(hierarchy: &Hierarchy, data_dir: &Path) -> Result<Parent, CgroupError> {
        if hierarchy.trees.is_empty() {
            return Err(hierarchy.unavailable());
        }
        let name = name_of(data_dir);
        let tops: Vec<PathBuf> = hierarchy.trees.iter().map(|tree| tree.base.join(&name)).collect();
        let mut held = Vec::new();
        for (tree, top) in hierarchy.trees.iter().zip(&tops) {
            held.push(files::make_and_hold(top)?);
            match tree.version {
                Version::One if tree.controllers.contains(&Controller::Cpuset) => {
                    inherit_cpus(Version::One, top)?;
                }
                Version::One => {}
                Version::Two => enable(tree, top)?,
            }
        }
        let unified = hierarchy.unified();
        let has_kill = unified.is_some_and(|index| tops[index].join("cgroup.kill").exists());
        let (trees, disk) = (hierarchy.trees.clone(), device::disk(data_dir));
        Ok(Parent { inner: Arc::new(Inner { name, trees, tops, unified, has_kill, disk, _held: held }) })
    }

    /// Its directory's name in each tree.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its directory in the v2 tree: what BPF programs for all of the platform's sandboxes attach to.
    pub fn unified(&self) -> Option<&Path> {
        self.inner.unified.map(|index| self.inner.tops[index].as_path())
    }

    /// Makes a group.
    ///
    /// # Errors
    /// If there is one of this name, or the kernel refuses; then nothing is left of it.
    ///
    /// # Panics
    /// If the name is empty, longer than 64 bytes, or has anything but letters, digits, `-` and `_`.
    pub fn make(&self, name: &str) -> Result<Group, CgroupError> {
        Group::make(self, name)
    }

    /// The names of all groups below: after a start, what a predecessor left. Sorted.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn groups(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = Vec::new();
        for top in &self.inner.tops {
            names.extend(files::children(top)?);
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Kills and removes all groups of this platform, wherever a predecessor may have made them; it may have been started
    /// in another group. Returns how many directories went.
    ///
    /// # Errors
    /// If something still lives after `within`, or the kernel refuses.
    pub fn clear_within(&self, within: Duration) -> Result<usize, CgroupError> {
        let mut stale = Vec::new();
        for (tree, top) in self.inner.trees.iter().zip(&self.inner.tops) {
            let below = files::children(top)?.into_iter().map(|name| top.join(name));
            let elsewhere = found_below(&tree.at, &self.inner.name).into_iter().filter(|other| other != top);
            stale.extend(below.chain(elsewhere).map(|directory| (tree.version, directory)));
        }
        kill::kill_and_remove(&stale, within)?;
        Ok(stale.len())
    }

    /// Removes the subtree; it must have no groups.
    ///
    /// # Errors
    /// If it has.
    pub fn remove(self) -> Result<(), CgroupError> {
        for top in &self.inner.tops {
            if !files::remove(top)? {
                return Err(CgroupError::file("remove", top, std::io::Error::from_raw_os_error(libc::EBUSY)));
            }
        }
        Ok(())
    }
}

/// `millrace-` and a hash of the data directory's path, so that two platforms on a host do not meet.
fn name_of(data_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let path = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    // FNV-1a, 64 bits: offset basis and prime from its definition.
    let hash = path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("millrace-{hash:016x}")
}

/// Whether a group or folder of this name is a platform's.
pub(super) fn is_platform(name: &str) -> bool {
    name.strip_prefix("millrace-").is_some_and(|hash| {
        hash.len() == 16 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Gives a group all CPUs of the one above. A v1 group takes no process before it has CPUs and memory nodes; a v2 one
/// with processes cannot go back to having none of its own (ENOSPC on Linux 6.1).
pub(super) fn inherit_cpus(version: Version, group: &Path) -> Result<(), CgroupError> {
    let above = group.parent().expect("a group lies in a directory");
    let pairs: &[(&str, &str)] = match version {
        Version::One => &[("cpuset.mems", "cpuset.mems"), ("cpuset.cpus", "cpuset.cpus")],
        Version::Two => &[("cpuset.cpus.effective", "cpuset.cpus")],
    };
    for (from, to) in pairs {
        files::write(&group.join(to), files::read(&above.join(from))?.trim())?;
    }
    Ok(())
}

/// Lets groups below `top` have limits.
fn enable(tree: &Tree, top: &Path) -> Result<(), CgroupError> {
    if tree.controllers.is_empty() {
        return Ok(());
    }
    let is_root = !tree.base.join("cgroup.type").exists();
    if lacking(&tree.base, &tree.controllers)?.is_some() && !is_root {
        vacate(&tree.base, tree.whose)?;
    }
    let leaf = tree.base.join(LEAF);
    if tree.controllers.contains(&Controller::Cpu) && leaf.join("cpu.weight").exists() {
        files::write(&leaf.join("cpu.weight"), WORKER_WEIGHT)?;
    }
    for group in [&tree.base, top] {
        if let Some(text) = lacking(group, &tree.controllers)? {
            files::write(&group.join("cgroup.subtree_control"), &text)?;
        }
    }
    Ok(())
}

/// What to write so that all controllers are enabled for the children of a group; none: they are.
fn lacking(group: &Path, controllers: &[Controller]) -> Result<Option<String>, CgroupError> {
    let enabled = files::read(&group.join("cgroup.subtree_control"))?;
    let names = controllers.iter().map(|controller| controller.name(Version::Two));
    let missing: Vec<String> = names
        .filter(|name| enabled.split_whitespace().all(|other| other != *name))
        .map(|name| format!("+{name}"))
        .collect();
    Ok((!missing.is_empty()).then(|| missing.join(" ")))
}

/// Moves all processes of a group one down. They are the worker's own, or the rest of its container.
fn vacate(base: &Path, whose: Whose) -> Result<(), CgroupError> {
    /// A process that is being forked may appear in between.
    const ROUNDS: usize = 16;
    debug_assert!(whose != Whose::Managed, "nothing is made where somebody else decides");
    let leaf = base.join(LEAF);
    for _ in 0..ROUNDS {
        let processes = files::processes(base)?;
        if processes.is_empty() {
            break;
        }
        files::make(&leaf)?;
        for pid in processes {
            match files::write(&leaf.join("cgroup.procs"), &pid.to_string()) {
                // It ended meanwhile.
                Err(error) if error.errno() == Some(libc::ESRCH) => {}
                moved => moved?,
            }
        }
    }
    Ok(())
}

/// All groups of a name below a directory.
fn found_below(at: &Path, name: &str) -> Vec<PathBuf> {
    groups_below(at, |other| other == name).0
}

/// All groups below a directory whose names are such, and whether all were looked at.
pub(super) fn groups_below(at: &Path, is_such: impl Fn(&str) -> bool) -> (Vec<PathBuf>, bool) {
    let (mut found, mut looks) = (Vec::new(), 0);
    let mut is_all = true;
    let mut next = vec![(at.to_owned(), 0)];
    while let Some((group, depth)) = next.pop() {
        looks += 1;
        if looks > LOOKS_MAX {
            return (found, false);
        }
        // One that vanishes meanwhile is not ours.
        for child in files::children(&group).unwrap_or_default() {
            let path = group.join(&child);
            if is_such(&child) {
                found.push(path);
            } else if depth + 1 < DEPTH_MAX {
                next.push((path, depth + 1));
            } else {
                is_all = false;
            }
        }
    }
    (found, is_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_data_directory_has_a_name_of_its_own() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_ne!(name_of(one.path()), name_of(two.path()));
        assert_eq!(
            name_of(one.path()),
            name_of(&one.path().join("..").join(one.path().file_name().unwrap()))
        );
        assert_eq!(name_of(Path::new("/nowhere")), "millrace-ea2512283dfc3920");
        assert!(is_platform(&name_of(one.path())));
        for other in ["millrace-worker", "millrace-EA2512283DFC3920", "ea2512283dfc3920", "millrace-ea25"] {
            assert!(!is_platform(other), "{other}");
        }
    }

    #[test]
    fn groups_of_a_name_are_found_at_any_place() {
        let at = tempfile::tempdir().unwrap();
        for path in ["a/millrace-1/x", "a/b/millrace-1", "millrace-2", "c"] {
            std::fs::create_dir_all(at.path().join(path)).unwrap();
        }
        let mut found = found_below(at.path(), "millrace-1");
        found.sort();
        assert_eq!(found, [at.path().join("a/b/millrace-1"), at.path().join("a/millrace-1")]);
    }
}
