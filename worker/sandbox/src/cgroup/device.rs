//! The disk below a directory: what `io.max` names.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `major:minor` of the whole disk that holds `directory`.
///
/// # Errors
/// Why there is none, for people.
pub(super) fn disk(directory: &Path) -> Result<String, String> {
    let number =
        fs::metadata(directory).map_err(|error| format!("{}: {error}", directory.display()))?.st_dev();
    let number = match nix::sys::stat::major(number) {
        // Of a file system that spans disks, or none: btrfs, overlayfs, tmpfs.
        0 => source(directory).ok_or_else(|| format!("{} lies on no single disk", directory.display()))?,
        _ => number,
    };
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // Only whole disks can be throttled; a partition is a directory inside its disk's.
    let whole = match device.join("partition").exists() {
        true => fs::canonicalize(&device).ok().and_then(|path| path.parent().map(Path::to_owned)),
        false => Some(device.clone()),
    };
    let text = whole.and_then(|path| fs::read_to_string(path.join("dev")).ok());
    text.map(|text| text.trim().to_owned()).ok_or_else(|| format!("{} is not described", device.display()))
}

/// The device that is mounted at the mount point above `directory`.
fn source(directory: &Path) -> Option<u64> {
    let directory = fs::canonicalize(directory).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut best: Option<(&str, &str)> = None;
    for line in mounts.lines() {
        let (source, rest) = line.split_once(' ')?;
        let at = rest.split(' ').next()?;
        // Later mounts cover earlier ones.
        if directory.starts_with(at) && best.is_none_or(|(_, other)| at.len() >= other.len()) {
            best = Some((source, at));
        }
    }
    let number = fs::metadata(best?.0).ok()?.st_rdev();
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_no_disk_is_said() {
        let refused = disk(Path::new("/proc")).unwrap_err();
        assert!(refused.contains("/proc lies on no single disk"), "{refused}");
        assert!(disk(Path::new("/nowhere/at/all")).unwrap_err().contains("/nowhere"));
    }

    #[test]
    fn a_disk_is_a_whole_one() {
        match disk(Path::new("/")) {
            Ok(number) => {
                let device = PathBuf::from(format!("/sys/dev/block/{number}"));
                assert!(device.exists() && !device.join("partition").exists(), "{number}");
            }
            Err(reason) => eprintln!("SKIPPED: the root directory's disk, because {reason}"),
        }
    }
}
