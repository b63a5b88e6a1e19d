//! The host's directory of unpacked bundles.

use super::archive::unpack_into;
use super::{BundleError, Contents, Item, io_error};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What stands beside a bundle that is unpacked.
#[derive(Serialize, Deserialize)]
struct Listing {
    /// The host's boot in which it was unpacked, or compared byte by byte.
    boot: String,
    contents: Contents,
}

/// Where the bundle of this hash is, or would be.
pub fn directory(cache: &Path, sha256: &str) -> PathBuf {
    cache.join("bundles").join(sha256)
}

fn listing(cache: &Path, sha256: &str) -> PathBuf {
    cache.join("bundles").join(format!("{sha256}.json"))
}

/// The kernel's name for this boot of the host.
fn boot() -> Result<String, BundleError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(io_error(path))?.trim().to_owned())
}

/// Removes what a host that was killed left half done.
pub fn sweep(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache.join("bundles")) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            remove(&entry.path());
        }
    }
}

/// What the bundle of this hash holds, if it is unpacked and sound; `None` if it must be unpacked (again).
///
/// # Errors
/// [`BundleError::Io`] if this host does not even say which boot this is.
pub fn ensure(cache: &Path, sha256: &str) -> Result<Option<Contents>, BundleError> {
    let (path, boot) = (listing(cache, sha256), boot()?);
    let read = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Listing>(&bytes).ok());
    let Some(mut found) = read else { return Ok(None) };
    let same_boot = found.boot == boot;
    let sound = matches!(is_sound(&directory(cache, sha256), &found.contents, !same_boot), Ok(true));
    if !sound {
        return Ok(None);
    }
    if !same_boot {
        found.boot = boot;
        write(&path, &found)?;
    }
    Ok(Some(found.contents))
}

/// Unpacks a bundle whose hash was verified, in the place of whatever is there.
///
/// # Errors
/// What is wrong with the bundle, or the host's own errors; nothing of it stays then.
pub fn unpack(cache: &Path, sha256: &str, bundle: &[u8]) -> Result<Contents, BundleError> {
    let (target, list) = (directory(cache, sha256), listing(cache, sha256));
    let parent = cache.join("bundles");
    fs::create_dir_all(&parent).map_err(io_error(&parent))?;
    let fresh = Partial(parent.join(format!(".new-{}-{sha256}", std::process::id())));
    remove(&fresh.0);
    fs::create_dir(&fresh.0).map_err(io_error(&fresh.0))?;
    // Nobody else enters before it is whole.
    fs::set_permissions(&fresh.0, fs::Permissions::from_mode(0o700)).map_err(io_error(&fresh.0))?;
    let contents = unpack_into(bundle, &fresh.0)?;
    fs::set_permissions(&fresh.0, fs::Permissions::from_mode(0o755)).map_err(io_error(&fresh.0))?;

    remove(&list);
    let old = Partial(parent.join(format!(".old-{}-{sha256}", std::process::id())));
    remove(&old.0);
    match fs::rename(&target, &old.0) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&target)(error)),
        _ => {}
    }
    fs::rename(&fresh.0, &target).map_err(io_error(&target))?;
    let whole = Listing { boot: boot()?, contents };
    write(&list, &whole)?;
    Ok(whole.contents)
}

/// A path that is removed with all below it.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes whatever is there, without following links.
fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(is) if is.is_dir() => drop(fs::remove_dir_all(path)),
        Ok(_) => drop(fs::remove_file(path)),
        Err(_) => {}
    }
}

fn write(path: &Path, listing: &Listing) -> Result<(), BundleError> {
    let name = path.file_name().expect("a listing has a name").to_string_lossy();
    let partial = Partial(path.with_file_name(format!(".{}-{name}", std::process::id())));
    let bytes = serde_json::to_vec(listing).expect("texts and numbers");
    fs::write(&partial.0, bytes).map_err(io_error(&partial.0))?;
    fs::rename(&partial.0, path).map_err(io_error(path))
}

/// Whether a directory holds what it should and nothing else.
fn is_sound(directory: &Path, contents: &Contents, read_all: bool) -> io::Result<bool> {
    let top = fs::symlink_metadata(directory)?;
    if !top.is_dir() || top.mode() & 0o7777 != 0o755 || top.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(false);
    }
    for (path, item) in &contents.items {
        if !is_as(&directory.join(path), item, read_all)? {
            return Ok(false);
        }
    }
    Ok(count(directory)? == contents.items.len())
}

fn is_as(path: &Path, item: &Item, read_all: bool) -> io::Result<bool> {
    let is = fs::symlink_metadata(path)?;
    let ours = is.uid() == nix::unistd::geteuid().as_raw();
    let mode = is.mode() & 0o7777;
    Ok(ours
        && match item {
            Item::Directory => is.is_dir() && mode == 0o755,
            Item::Link(target) => is.is_symlink() && fs::read_link(path)? == Path::new(target),
            Item::File { executable, bytes, crc } => {
                is.is_file()
                    && mode == if *executable { 0o755 } else { 0o644 }
                    && is.len() == *bytes
                    && (is.mtime(), is.mtime_nsec()) == (0, 0)
                    && (!read_all || checksum(path)? == *crc)
            }
        })
}

fn checksum(path: &Path) -> io::Result<u32> {
    let (mut file, mut buffer, mut crc) = (fs::File::open(path)?, vec![0; 64 << 10], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc),
            read => crc = crc32c::crc32c_append(crc, &buffer[..read]),
        }
    }
}

/// Entries below a directory, which was compared already: it is as deep as the bundle says.
fn count(directory: &Path) -> io::Result<usize> {
    let mut entries = 0;
    let mut ahead = vec![directory.to_path_buf()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            entries += 1;
            if entry.file_type()?.is_dir() {
                ahead.push(entry.path());
            }
        }
    }
    Ok(entries)
}
