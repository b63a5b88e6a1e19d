//! The folder of pins of one worker in bpffs: what keeps programs and maps alive while no process holds them.
//!
//! `<name>/links/<program>` or, of tracing programs, `<name>/links/<program>-<generation>`; `<name>/programs/<program>`
//! for those that are attached to groups of sandboxes;
//! `<name>/maps-<abi>-<sandboxes>-<functions>/<map>`, so that maps of another shape are never mistaken.

use crate::abi;
use crate::error::BpfError;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const BPFFS: &str = "/sys/fs/bpf";
/// Longest name of a folder of pins.
const NAME_BYTES_MAX: usize = 64;

/// The folder, held: no other process uses it meanwhile. The kernel lets go of it when this process ends.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    maps: PathBuf,
    _held: Flock<File>,
}

impl Pins {
    /// Makes the folders that are missing, and holds them.
    pub fn hold(name: &str, sandboxes: u32, functions: u32) -> Result<Pins, BpfError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            let reason = format!("the name {name:?} is not made of 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 - _");
            return Err(BpfError::Refused { step: "make a folder of pins", reason });
        }
        mount_bpffs()?;
        let folder = Path::new(BPFFS).join("millrace").join(name);
        let maps = folder.join(format!("maps-{}-{sandboxes}-{functions}", abi::VERSION));
        let made = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|error| at(path, "make a folder of pins", &error))
        };
        made(&folder)?;
        let opened = File::open(&folder).map_err(|error| at(&folder, "open a folder of pins", &error))?;
        let held = Flock::lock(opened, FlockArg::LockExclusiveNonblock)
            .map_err(|_| BpfError::Held { pins: folder.clone() })?;
        made(&folder.join("links"))?;
        made(&folder.join("programs"))?;
        made(&maps)?;
        Ok(Pins { folder, maps, _held: held })
    }

    /// Where this map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// Where this link is pinned.
    pub fn link(&self, name: &str) -> PathBuf {
        self.folder.join("links").join(name)
    }

    /// Where this program is pinned, if it is one that is attached to groups of sandboxes.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("programs").join(name)
    }

    /// Names of all links that are pinned.
    pub fn links(&self) -> Result<Vec<String>, BpfError> {
        names(&self.folder.join("links"))
    }

    /// Whether maps of this shape are pinned.
    pub fn has_maps(&self) -> Result<bool, BpfError> {
        Ok(!names(&self.maps)?.is_empty())
    }

    pub fn remove_link(&self, name: &str) -> Result<(), BpfError> {
        let path = self.link(name);
        std::fs::remove_file(&path).map_err(|error| at(&path, "remove a pin", &error))
    }

    /// Removes maps of other shapes: no program uses them any more.
    pub fn remove_other_maps(&self) -> Result<(), BpfError> {
        for name in names(&self.folder)? {
            let path = self.folder.join(&name);
            if name.starts_with("maps-") && path != self.maps {
                remove_all(&path)?;
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub fn remove(self) -> Result<(), BpfError> {
        remove_folder(&self.folder)
    }
}

/// The folder of pins of a worker that has ended, held while it is removed.
#[derive(Debug)]
pub struct LeftPins {
    folder: PathBuf,
    _held: Flock<File>,
}

impl LeftPins {
    /// The names of all folders of pins on this host, in use or not; nothing where bpffs is not mounted.
    pub fn names() -> Vec<String> {
        if !is_mounted() {
            return Vec::new();
        }
        names(&Path::new(BPFFS).join("millrace")).unwrap_or_default()
    }

    /// The names of those whose lock nobody has, by `/proc/locks`: no lock is tried, so that nobody is kept from his own.
    pub fn abandoned() -> Vec<String> {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let folder = |name: &String| std::fs::metadata(Path::new(BPFFS).join("millrace").join(name));
        let is_abandoned = |name: &String| folder(name).is_ok_and(|found| !is_locked(&locks, &found));
        LeftPins::names().into_iter().filter(is_abandoned).collect()
    }

    /// Holds a worker's folder; none: the worker lives.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn hold(name: &str) -> Result<Option<LeftPins>, BpfError> {
        let folder = Path::new(BPFFS).join("millrace").join(name);
        let opened = File::open(&folder).map_err(|error| at(&folder, "open a folder of pins", &error))?;
        let held = Flock::lock(opened, FlockArg::LockExclusiveNonblock);
        Ok(held.ok().map(|held| LeftPins { folder, _held: held }))
    }

    /// Removes everything: the programs end. The caller knows that no process is left for which they were.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn remove(self) -> Result<(), BpfError> {
        remove_folder(&self.folder)
    }
}

/// Whether `/proc/locks` has a lock of this file: `1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF`, the
/// device in hexadecimal.
fn is_locked(locks: &str, file: &Metadata) -> bool {
    let (major, minor) = (major(file.dev()), minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    locks.lines().any(|line| line.split_whitespace().any(|word| word == place))
}

/// Removes a folder: the links first, so that programs end before their maps are out of reach.
fn remove_folder(folder: &Path) -> Result<(), BpfError> {
    let links = folder.join("links");
    if links.exists() {
        remove_all(&links)?;
    }
    remove_all(folder)
}

/// The last part of the names in a folder.
fn names(folder: &Path) -> Result<Vec<String>, BpfError> {
    let entries = std::fs::read_dir(folder).map_err(|error| at(folder, "list a folder of pins", &error))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn remove_all(path: &Path) -> Result<(), BpfError> {
    std::fs::remove_dir_all(path).map_err(|error| at(path, "remove a folder of pins", &error))
}

fn is_mounted() -> bool {
    statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_bpffs() -> Result<(), BpfError> {
    if is_mounted() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700"))
        .map_err(|errno| at(Path::new(BPFFS), "mount bpffs (`mount -t bpf bpf /sys/fs/bpf`)", &errno.into()))
}

fn at(path: &Path, step: &'static str, error: &io::Error) -> BpfError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return BpfError::Privilege { step };
    }
    BpfError::Refused { step, reason: format!("{}: {error}", path.display()) }
}
