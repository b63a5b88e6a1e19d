//! What the host offers: which controller is bound where, and where groups may be made.

use super::error::{CgroupError, DELEGATE};
use super::files;
use super::mounts::{Mounted, mounted};
use super::subtree::{Host, Whose};
use std::fmt;
use std::path::{Path, PathBuf};

/// A version of the kernel's interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// A tree per controller, or per few of them.
    One,
    /// One tree.
    Two,
}

/// A part of the kernel that limits or counts for groups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Controller {
    /// Shares and quotas of CPU time.
    Cpu,
    /// CPU time used; v2 needs no controller for it.
    Cpuacct,
    /// Memory.
    Memory,
    /// Numbers of processes.
    Pids,
    /// Disks: `blkio` in v1.
    Io,
    /// Which CPUs.
    Cpuset,
    /// Stopping; v2 needs no controller for it.
    Freezer,
}

impl Controller {
    const ALL: [Controller; 7] = [
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Memory,
        Controller::Pids,
        Controller::Io,
        Controller::Cpuset,
        Controller::Freezer,
    ];

    /// As the kernel calls it.
    pub fn name(self, version: Version) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Io if version == Version::One => "blkio",
            Controller::Io => "io",
            Controller::Cpuset => "cpuset",
            Controller::Freezer => "freezer",
        }
    }

    pub(super) fn of_v1(name: &str) -> Option<Controller> {
        Controller::ALL.into_iter().find(|controller| controller.name(Version::One) == name)
    }

    /// Those of a v2 tree, from its `cgroup.controllers`.
    pub(super) fn of_v2(list: &str) -> Vec<Controller> {
        let is_listed = |c: &Controller| list.split_whitespace().any(|name| name == c.name(Version::Two));
        Controller::ALL.into_iter().filter(is_listed).collect()
    }
}

/// A tree in which this process may make groups.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub version: Version,
    pub controllers: Vec<Controller>,
    /// Where it is mounted.
    pub at: PathBuf,
    /// Where groups may be made.
    pub base: PathBuf,
    pub whose: Whose,
}

/// What this host offers. Nothing was changed to find it.
#[derive(Debug)]
pub struct Hierarchy {
    pub(super) trees: Vec<Tree>,
    /// Why the other trees cannot be used.
    obstacles: Vec<CgroupError>,
}

impl Hierarchy {
    /// Looks at this process's mounts and groups.
    pub fn discover() -> Hierarchy {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Hierarchy::of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// As [`Hierarchy::discover`], from texts of the form of `/proc/self/mountinfo` and `/proc/self/cgroup`: a test hides
    /// trees by leaving out lines.
    pub fn of(mountinfo: &str, own: &str) -> Hierarchy {
        let host = Host::this();
        let mut found = Hierarchy { trees: Vec::new(), obstacles: Vec::new() };
        for mount in mounted(mountinfo, own) {
            match usable(&host, mount) {
                Ok(tree) => found.trees.push(tree),
                Err(error) => found.obstacles.push(error),
            }
        }
        found
    }

    /// Where a controller is bound, and to which version; none: nowhere that this process can use.
    pub fn bound(&self, controller: Controller) -> Option<(Version, &Path)> {
        self.tree(controller).map(|index| (self.trees[index].version, self.trees[index].base.as_path()))
    }

    pub(super) fn tree(&self, controller: Controller) -> Option<usize> {
        self.trees.iter().position(|tree| tree.controllers.contains(&controller))
    }

    /// The v2 tree, with or without controllers.
    pub(super) fn unified(&self) -> Option<usize> {
        self.trees.iter().position(|tree| tree.version == Version::Two)
    }

    /// Where groups of the v2 tree may be made: what BPF programs attach below.
    pub fn unified_base(&self) -> Option<&Path> {
        self.unified().map(|index| self.trees[index].base.as_path())
    }

    /// Whether memory, CPU and numbers of processes can be limited: what a process function needs.
    pub fn is_enough(&self) -> bool {
        self.lacking().is_empty()
    }

    /// Those of cpu, memory and pids that nothing here enforces.
    pub fn lacking(&self) -> Vec<&'static str> {
        [Controller::Cpu, Controller::Memory, Controller::Pids]
            .into_iter()
            .filter(|controller| self.tree(*controller).is_none())
            .map(|controller| controller.name(Version::Two))
            .collect()
    }

    /// Whether systemd gave this process a subtree, and whether it runs at all; for `doctor`.
    pub fn delegation(&self) -> Delegation {
        let whose = |what| self.trees.iter().any(|tree| tree.whose == what);
        match () {
            () if self.trees.is_empty() => Delegation::Refused,
            () if whose(Whose::Delegated) => Delegation::Delegated,
            () if whose(Whose::Managed) => Delegation::Managed,
            () if whose(Whose::Owned) => Delegation::Owned,
            () => Delegation::Unmanaged,
        }
    }

    /// Why some trees cannot be used.
    pub fn obstacles(&self) -> &[CgroupError] {
        &self.obstacles
    }

    /// Why there is nothing, or nothing enough.
    pub(super) fn unavailable(&self) -> CgroupError {
        match self.obstacles.first() {
            Some(error) => CgroupError::Unavailable { reason: error.to_string(), remedy: DELEGATE },
            None => CgroupError::Unavailable {
                reason: "no cgroup file system is mounted".to_owned(),
                remedy: "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            },
        }
    }

    /// What is in force, for people.
    pub fn backend(&self) -> String {
        self.to_string()
    }

    /// Processes that all groups and the worker may have together (`pids.max` above them; systemd: TasksMax=); none: no
    /// such limit.
    pub fn processes_max(&self) -> Option<u64> {
        let (_, base) = self.bound(Controller::Pids)?;
        files::number(&base.join("pids.max")).ok().filter(|most| *most != u64::MAX)
    }

    /// Below which directories groups are made, for people.
    pub fn places(&self) -> String {
        let mut all: Vec<String> = self.trees.iter().map(|tree| tree.base.display().to_string()).collect();
        all.sort();
        all.join(", ")
    }

    fn names(&self, version: Version) -> String {
        let trees = self.trees.iter().filter(|tree| tree.version == version);
        let mut all: Vec<Controller> = trees.flat_map(|tree| tree.controllers.iter().copied()).collect();
        // Said with cpu.
        all.retain(|controller| *controller != Controller::Cpuacct);
        all.sort_unstable();
        all.into_iter().map(|controller| controller.name(version)).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, two) = (self.names(Version::One), self.names(Version::Two));
        match (one.as_str(), two.as_str(), self.unified()) {
            ("", "", None) => {
                f.write_str("none: not root and nothing delegated, or nothing mounted; see `millrace doctor`")
            }
            ("", "", Some(_)) => f.write_str("none: a v2 tree without controllers; see `millrace doctor`"),
            ("", two, _) => write!(f, "cgroup v2 ({two})"),
            (one, "", Some(_)) => write!(f, "cgroup v1 ({one}) beside a v2 tree for BPF"),
            (one, "", None) => write!(f, "cgroup v1 ({one}), no v2 tree: no BPF"),
            (one, two, _) => write!(f, "cgroup v1 ({one}) beside cgroup v2 ({two})"),
        }
    }
}

/// How this process came to its subtree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delegation {
    /// There is no systemd; groups are made below this process's own.
    Unmanaged,
    /// systemd gave it away (`Delegate=yes`).
    Delegated,
    /// systemd manages the v1 groups and does not know of ours.
    Managed,
    /// By ownership of the files.
    Owned,
    /// There is none.
    Refused,
}

fn usable(host: &Host<'_>, mount: Mounted) -> Result<Tree, CgroupError> {
    let unavailable = |reason, remedy| Err(CgroupError::Unavailable { reason, remedy });
    let Some(own) = mount.own else {
        return unavailable(
            format!("{} does not show this process's own group", mount.at.display()),
            "start the worker in a cgroup namespace of its own (docker: --cgroupns=private)",
        );
    };
    if !mount.is_writable {
        return unavailable(
            format!("{} is mounted read-only", mount.at.display()),
            "mount it read-write (docker: --privileged)",
        );
    }
    let subtree = host.subtree(mount.version, &mount.at, &own)?;
    let controllers = match mount.version {
        Version::One => mount.controllers,
        Version::Two => Controller::of_v2(&files::read(&subtree.base.join("cgroup.controllers"))?),
    };
    Ok(Tree { version: mount.version, controllers, at: mount.at, base: subtree.base, whose: subtree.whose })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(version: Version, controllers: &[Controller]) -> Tree {
        let at = PathBuf::from("/sys/fs/cgroup");
        Tree { version, controllers: controllers.to_vec(), base: at.clone(), at, whose: Whose::Ours }
    }

    fn hierarchy(trees: Vec<Tree>) -> Hierarchy {
        Hierarchy { trees, obstacles: Vec::new() }
    }

    #[test]
    fn the_backend_is_said_in_the_kernels_words() {
        use Controller::{Cpu, Cpuacct, Cpuset, Io, Memory, Pids};
        let two = hierarchy(vec![tree(Version::Two, &[Cpu, Memory, Pids, Io, Cpuset])]);
        assert_eq!(two.backend(), "cgroup v2 (cpu, memory, pids, io, cpuset)");
        assert!(two.is_enough());
        let hybrid = hierarchy(vec![
            tree(Version::One, &[Cpu, Cpuacct]),
            tree(Version::One, &[Io]),
            tree(Version::One, &[Memory]),
            tree(Version::Two, &[]),
        ]);
        assert_eq!(hybrid.backend(), "cgroup v1 (cpu, memory, blkio) beside a v2 tree for BPF");
        assert_eq!(hybrid.lacking(), ["pids"]);
        let split = hierarchy(vec![tree(Version::One, &[Cpu]), tree(Version::Two, &[Memory, Pids])]);
        assert_eq!(split.backend(), "cgroup v1 (cpu) beside cgroup v2 (memory, pids)");
        let none = Hierarchy::of("", "");
        assert!(none.backend().starts_with("none: not root"), "{none}");
        assert!(none.unavailable().to_string().contains("mount -t cgroup2"));
        assert_eq!(none.delegation(), Delegation::Refused);
    }
}
