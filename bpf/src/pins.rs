//! The folder of pins of one worker in bpffs: what keeps programs and maps alive while no process holds them.
//!
//! `<name>/links/<program>` or, of tracing programs, `<name>/links/<program>-<generation>`;
//! `<name>/maps-<abi>-<sandboxes>-<functions>/<map>`, so that maps of another shape are never mistaken.

use crate::abi;
use crate::error::BpfError;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs::File;
use std::io;
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

    /// Removes everything: the links first, so that programs end before their maps are out of reach.
    pub fn remove(self) -> Result<(), BpfError> {
        remove_all(&self.folder.join("links"))?;
        remove_all(&self.folder)
    }
}

/// The last part of the names in a folder.
fn names(folder: &Path) -> Result<Vec<String>, BpfError> {
    let entries = std::fs::read_dir(folder).map_err(|error| at(folder, "list a folder of pins", &error))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn remove_all(path: &Path) -> Result<(), BpfError> {
    std::fs::remove_dir_all(path).map_err(|error| at(path, "remove a folder of pins", &error))
}

fn mount_bpffs() -> Result<(), BpfError> {
    let is_mounted = || statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
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
