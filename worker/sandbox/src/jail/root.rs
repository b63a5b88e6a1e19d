//! The roots that sandboxes copy: for each base one tree of mounts, made once, in the jailer's own mount namespace.
//!
//! A tree is a small tmpfs, read-only once it is made, with the directories that every sandbox has, a few files of
//! `/etc`, five devices, and, for base `host`, read-only binds of the host's system directories. A sandbox mounts its
//! bundle, its `/tmp` and its `/proc` into a copy of the tree's mounts; the files are shared and cost nothing again.

use crate::protocol::Base;
use crate::sys::{self, MOUNT_NODEV, MOUNT_NOEXEC, MOUNT_NOSUID, MOUNT_RDONLY};
use nix::errno::Errno;
use std::ffi::CString;
use std::fs;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The host's system directories: where programs, libraries and what they need to start are.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Of `/etc`: what programs and the C library look up. No passwords, keys or other services' configuration.
const ETC: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
];
/// Devices that hold nothing and lead nowhere.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Directories of every root.
const DIRECTORIES: &[&str] = &["/dev", "/etc", "/proc", "/tmp", "/var/task"];
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("../tmp", "/var/tmp"),
];
const PASSWD: &str = "root:x:0:0::/:/usr/sbin/nologin\nfunction:x:1000:1000::/tmp:/bin/sh\n";
const GROUP: &str = "root:x:0:\nfunction:x:1000:\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";
/// Bytes of a root's own files and directories: a few pages.
const ROOT_BYTES: &std::ffi::CStr = c"1m";

/// What every bind of the host gets.
const READ_ONLY: u64 = MOUNT_RDONLY | MOUNT_NOSUID | MOUNT_NODEV;
/// A device must not be `nodev`; a read-only mount of one still lets it be written to.
const DEVICE: u64 = MOUNT_RDONLY | MOUNT_NOSUID | MOUNT_NOEXEC;

/// The roots of this host.
pub struct Roots {
    host: OwnedFd,
    none: OwnedFd,
    devices: Vec<OwnedFd>,
}

impl Roots {
    /// Makes them below a directory. `expose` is bound read-only into base `host` at the same paths, with all that is
    /// mounted below; `devices` may be given to functions that ask for them.
    ///
    /// The process must have a mount namespace of its own.
    ///
    /// # Errors
    /// If the kernel refuses a mount, or an exposed path is not there.
    pub fn make(staging: &Path, expose: &[PathBuf], devices: &[PathBuf]) -> Result<Roots> {
        let host = staging.join("host");
        let none = staging.join("none");
        base(&host, devices)?;
        for path in SYSTEM.iter().chain(ETC).map(Path::new) {
            system_directory(&host, path)?;
        }
        for path in expose {
            bind(&host, path, READ_ONLY).map_err(|error| about(path, "cannot be exposed", &error))?;
        }
        base(&none, devices)?;
        let files = DEVICES.iter().map(Path::new);
        let devices = files.map(path_descriptor).collect::<Result<_>>()?;
        let (host, none) = (sealed(&host)?, sealed(&none)?);
        Ok(Roots { host, none, devices })
    }

    /// The root directory of a base's tree.
    pub fn of(&self, base: Base) -> BorrowedFd<'_> {
        match base {
            Base::Host => self.host.as_fd(),
            Base::None => self.none.as_fd(),
        }
    }

    /// The devices that every sandbox has.
    pub fn devices(&self) -> Vec<BorrowedFd<'_>> {
        self.devices.iter().map(AsFd::as_fd).collect()
    }
}

/// A mount namespace of this process's own: it sees what the host mounts later, the host sees nothing of its.
///
/// # Errors
/// If the kernel refuses.
pub fn own_namespace() -> Result<()> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let none = std::ptr::null();
    // SAFETY: C strings, and nulls where the kernel takes none.
    let done = unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()) };
    Errno::result(done)?;
    Ok(())
}

/// A detached read-only copy of a directory or file of the host, to be mounted into a sandbox.
///
/// # Errors
/// If it is not there.
pub fn read_only(path: &Path) -> Result<OwnedFd> {
    let tree = sys::open_tree(&c_path(path)?)?;
    sys::restrict_mounts(tree.as_fd(), READ_ONLY)?;
    Ok(tree)
}

/// The same of a device.
///
/// # Errors
/// If it is not there.
pub fn device(path: &Path) -> Result<OwnedFd> {
    let tree = sys::open_tree(&c_path(path)?)?;
    sys::restrict_mounts(tree.as_fd(), DEVICE)?;
    Ok(tree)
}

/// A detached tmpfs of a size, for anybody to write.
///
/// # Errors
/// If the kernel refuses.
pub fn tmp(bytes: u64) -> Result<OwnedFd> {
    // In pages; 0 would mean half of the host's memory. A file takes a page at least, and some of the kernel's memory.
    let bytes = bytes.max(4096);
    let size = CString::new(bytes.to_string())?;
    let inodes = CString::new((bytes / 4096 + 64).to_string())?;
    let options = [(c"size", size.as_c_str()), (c"nr_inodes", &inodes), (c"mode", c"1777")];
    Ok(sys::new_mount(c"tmpfs", &options, MOUNT_NOSUID | MOUNT_NODEV)?)
}

/// What every root has, still writable.
fn base(at: &Path, devices: &[PathBuf]) -> Result<()> {
    directory(at)?;
    let tmpfs = sys::new_mount(c"tmpfs", &[(c"size", ROOT_BYTES), (c"mode", c"0755")], 0)?;
    sys::move_mount(std::os::fd::AsRawFd::as_raw_fd(&tmpfs), &c_path(at)?)?;
    for path in DIRECTORIES {
        directory(&inside(at, Path::new(path)))?;
    }
    for (to, link) in LINKS {
        symlink(to, inside(at, Path::new(link)))?;
    }
    for (path, text) in [("/etc/passwd", PASSWD), ("/etc/group", GROUP), ("/etc/hosts", HOSTS)] {
        file(&inside(at, Path::new(path)), text)?;
    }
    for path in DEVICES.iter().map(Path::new) {
        bind(at, path, DEVICE).map_err(|error| about(path, "cannot be mounted", &error))?;
    }
    for path in devices {
        let place = inside(at, path);
        place.parent().map_or(Ok(()), directory)?;
        file(&place, "")?;
    }
    Ok(())
}

/// A system directory as it is on the host: a link as a link, a directory or file bound, nothing as nothing.
fn system_directory(root: &Path, path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if found.is_symlink() && SYSTEM.iter().any(|system| path == Path::new(system)) {
        return symlink(fs::read_link(path)?, inside(root, path));
    }
    bind(root, path, READ_ONLY).map_err(|error| about(path, "cannot be mounted", &error))
}

/// Binds a path of the host at the same path of a root, following links on the host.
fn bind(root: &Path, path: &Path, attributes: u64) -> Result<()> {
    let place = inside(root, path);
    if fs::metadata(path)?.is_dir() {
        directory(&place)?;
    } else {
        place.parent().map_or(Ok(()), directory)?;
        file(&place, "")?;
    }
    let tree = sys::open_tree(&c_path(path)?)?;
    sys::restrict_mounts(tree.as_fd(), attributes)?;
    Ok(sys::move_mount(std::os::fd::AsRawFd::as_raw_fd(&tree), &c_path(&place)?)?)
}

/// The root's own files are finished: read-only from now on.
fn sealed(at: &Path) -> Result<OwnedFd> {
    let none = std::ptr::null();
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    let path = c_path(at)?;
    // SAFETY: a C string, and nulls where the kernel takes none.
    Errno::result(unsafe { libc::mount(none, path.as_ptr(), none, flags, none.cast()) })?;
    path_descriptor(at)
}

fn path_descriptor(path: &Path) -> Result<OwnedFd> {
    let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    Ok(opened.into())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// With its parents, for everybody to read, whatever the umask.
fn directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), directory)?;
    fs::DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn about(path: &Path, what: &str, error: &Error) -> Error {
    Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
}
