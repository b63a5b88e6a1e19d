//! Files of granted directories, to read: opening, closing and describing them. Reading is in [`super::reading`].
//!
//! Whatever would change a file answers `rofs`, a path that leads out of its directory `perm`.

use super::{BADF, Errno, INVAL, MODULE, NOTSUP, on_memory, part, store};
use crate::wasm::files::{Kind, Opened, Wanted, find_below, kind, open_below};
use crate::wasm::host::Host;
use nix::errno::Errno as KernelErrno;
use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, SFlag, fstat};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use wasmtime::{Caller, Linker};

/// The number of the first descriptor behind the standard streams.
const FIRST: i32 = 3;
/// Bytes of the longest path that the kernel takes, its end included.
const PATH_BYTES_MAX: usize = 4096;
/// File types of preview 1.
const UNKNOWN: u8 = 0;
const BLOCK_DEVICE: u8 = 1;
const CHARACTER_DEVICE: u8 = 2;
const DIRECTORY: u8 = 3;
const REGULAR_FILE: u8 = 4;
const SOCKET: u8 = 6;
const SYMBOLIC_LINK: u8 = 7;

/// Rights of preview 1 by their bits.
const FD_READ: u64 = 1 << 1;
const FD_SEEK: u64 = 1 << 2;
const FD_TELL: u64 = 1 << 5;
const FD_WRITE: u64 = 1 << 6;
const FD_ADVISE: u64 = 1 << 7;
const PATH_OPEN: u64 = 1 << 13;
const FD_READDIR: u64 = 1 << 14;
const PATH_READLINK: u64 = 1 << 15;
const PATH_FILESTAT_GET: u64 = 1 << 18;
const FD_FILESTAT_GET: u64 = 1 << 21;
const POLL_FD_READWRITE: u64 = 1 << 27;
const OF_FILES: u64 = FD_READ | FD_SEEK | FD_TELL | FD_ADVISE | FD_FILESTAT_GET | POLL_FD_READWRITE;
const OF_DIRECTORIES: u64 = PATH_OPEN | FD_READDIR | PATH_READLINK | PATH_FILESTAT_GET | FD_FILESTAT_GET;

/// `lookupflags`: a symbolic link at the path's end is followed.
const SYMLINK_FOLLOW: i32 = 1;
/// `oflags`.
const CREATE: i32 = 1;
const ONLY_DIRECTORY: i32 = 2;
const EXCLUSIVE: i32 = 4;
const TRUNCATE: i32 = 8;

/// Permission denied; a path that leads out.
const PERM: Errno = 63;
/// All files are read-only.
const ROFS: Errno = 69;
const NAMETOOLONG: Errno = 37;
const NOENT: Errno = 44;
const IO: Errno = 29;

/// The numbers that both worlds have.
const ERRNOS: [(KernelErrno, Errno); 16] = [
    (KernelErrno::EACCES, 2),
    (KernelErrno::EAGAIN, 6),
    (KernelErrno::EBADF, BADF),
    (KernelErrno::EINVAL, INVAL),
    (KernelErrno::EISDIR, 31),
    (KernelErrno::ELOOP, 32),
    (KernelErrno::EMFILE, 33),
    (KernelErrno::ENAMETOOLONG, NAMETOOLONG),
    (KernelErrno::ENFILE, 41),
    (KernelErrno::ENOENT, NOENT),
    (KernelErrno::ENOMEM, 48),
    (KernelErrno::ENOTDIR, 54),
    (KernelErrno::EOPNOTSUPP, NOTSUP),
    (KernelErrno::EOVERFLOW, 61),
    (KernelErrno::EPERM, PERM),
    (KernelErrno::EXDEV, PERM),
];

/// The number of preview 1 for one of the kernel's.
pub(super) fn errno(of_kernel: KernelErrno) -> Errno {
    ERRNOS.iter().find(|(kernel, _)| *kernel == of_kernel).map_or(IO, |(_, errno)| *errno)
}

/// The file or directory behind a guest's descriptor.
pub(super) fn opened(host: &mut Host, fd: i32) -> Result<&mut Opened, Errno> {
    let number = fd.checked_sub(FIRST).and_then(|number| usize::try_from(number).ok()).ok_or(BADF)?;
    host.files.get(number).ok_or(BADF)
}

fn directory(host: &mut Host, fd: i32) -> Result<&mut Opened, Errno> {
    let opened = opened(host, fd)?;
    match opened.kind {
        Kind::File(_) => Err(errno(KernelErrno::ENOTDIR)),
        Kind::Grant(_) | Kind::Directory => Ok(opened),
    }
}

/// Closes a file or directory.
pub(super) fn close(host: &mut Host, fd: i32) -> Result<(), Errno> {
    opened(host, fd)?;
    host.files.close((fd - FIRST) as usize);
    Ok(())
}

/// What `fd_fdstat_get` says: type, flags, rights, rights of what is opened below.
pub(super) fn fdstat(host: &mut Host, fd: i32) -> Result<[u8; 24], Errno> {
    let mut stat = [0; 24];
    let (file_type, rights, inheriting) = match opened(host, fd)?.kind {
        Kind::File(_) => (REGULAR_FILE, OF_FILES, 0),
        // Writing is among them so that who opens a file to write is told then, and not at the first write.
        Kind::Grant(_) | Kind::Directory => (DIRECTORY, OF_DIRECTORIES, OF_DIRECTORIES | OF_FILES | FD_WRITE),
    };
    stat[0] = file_type;
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    stat[16..].copy_from_slice(&inheriting.to_le_bytes());
    Ok(stat)
}

/// What `fd_filestat_get` says.
pub(super) fn filestat(host: &mut Host, fd: i32) -> Result<[u8; 64], Errno> {
    fstat(&opened(host, fd)?.fd).map(|stat| described(&stat)).map_err(errno)
}

fn described(stat: &FileStat) -> [u8; 64] {
    let ns = |seconds: i64, ns: i64| (seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(ns as u64);
    let mut out = [0; 64];
    for (at, number) in [
        (0, stat.st_dev),
        (8, stat.st_ino),
        (24, stat.st_nlink),
        (32, stat.st_size as u64),
        (40, ns(stat.st_atime, stat.st_atime_nsec)),
        (48, ns(stat.st_mtime, stat.st_mtime_nsec)),
        (56, ns(stat.st_ctime, stat.st_ctime_nsec)),
    ] {
        out[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    out[16] = file_type(kind(stat));
    out
}

fn file_type(kind: SFlag) -> u8 {
    match kind {
        SFlag::S_IFREG => REGULAR_FILE,
        SFlag::S_IFDIR => DIRECTORY,
        SFlag::S_IFLNK => SYMBOLIC_LINK,
        SFlag::S_IFBLK => BLOCK_DEVICE,
        SFlag::S_IFCHR => CHARACTER_DEVICE,
        SFlag::S_IFSOCK => SOCKET,
        _ => UNKNOWN,
    }
}

/// The type of an entry of a directory, which has the kernel's number for it.
pub(super) fn entry_type(of_kernel: u8) -> u8 {
    file_type(SFlag::from_bits_truncate(u32::from(of_kernel) << 12))
}

/// A path in the guest's memory. Whether it stays inside is the kernel's to say.
fn path(memory: &mut [u8], at: i32, bytes: i32) -> Result<&Path, Errno> {
    let bytes = bytes as u32 as usize;
    if bytes >= PATH_BYTES_MAX {
        return Err(NAMETOOLONG);
    }
    match part(memory, at, bytes)? {
        [] => Err(NOENT),
        path if path.contains(&0) => Err(INVAL),
        path => Ok(Path::new(OsStr::from_bytes(path))),
    }
}

pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    grants(linker)?;
    linker.func_wrap(
        MODULE,
        "path_open",
        |mut caller: Caller<'_, Host>,
         fd: i32,
         lookup: i32,
         at: i32,
         bytes: i32,
         how: i32,
         rights: i64,
         _: i64,
         _: i32,
         out: i32| {
            on_memory(&mut caller, |memory, host| {
                // Before anything is opened that nobody would close.
                part(memory, out, 4)?;
                let number = path_open(host, fd, lookup, path(memory, at, bytes)?, how, rights as u64)?;
                store(memory, out, &number.to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_filestat_get",
        |mut caller: Caller<'_, Host>, fd: i32, lookup: i32, at: i32, bytes: i32, out: i32| {
            on_memory(&mut caller, |memory, host| {
                let wanted = Wanted { directory: false, follow: lookup & SYMLINK_FOLLOW != 0 };
                let from = &directory(host, fd)?.fd;
                let found = find_below(from, path(memory, at, bytes)?, wanted);
                let (_, stat) = found.map_err(errno)?;
                store(memory, out, &described(&stat))
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "path_readlink",
        |mut caller: Caller<'_, Host>, fd: i32, at: i32, bytes: i32, to: i32, room: i32, used: i32| {
            on_memory(&mut caller, |memory, host| {
                let wanted = Wanted { directory: false, follow: false };
                let from = &directory(host, fd)?.fd;
                let (link, stat) = find_below(from, path(memory, at, bytes)?, wanted).map_err(errno)?;
                if kind(&stat) != SFlag::S_IFLNK {
                    return Err(INVAL);
                }
                let target = readlinkat(&link, "").map_err(errno)?;
                let target = &target.as_bytes()[..target.len().min(room as u32 as usize)];
                store(memory, to, target)?;
                store(memory, used, &(target.len() as u32).to_le_bytes())
            })
        },
    )?;
    read_only(linker)
}

/// What was granted, as a C library asks for it at its start.
fn grants(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_prestat_get", |mut caller: Caller<'_, Host>, fd: i32, at: i32| {
        on_memory(&mut caller, |memory, host| {
            let mut prestat = [0; 8];
            prestat[4..].copy_from_slice(&(grant(host, fd)?.len() as u32).to_le_bytes());
            store(memory, at, &prestat)
        })
    })?;
    linker.func_wrap(
        MODULE,
        "fd_prestat_dir_name",
        |mut caller: Caller<'_, Host>, fd: i32, at: i32, room: i32| {
            on_memory(&mut caller, |memory, host| {
                let name = grant(host, fd)?;
                if (room as u32 as usize) < name.len() {
                    return Err(NAMETOOLONG);
                }
                store(memory, at, name.as_bytes())
            })
        },
    )?;
    Ok(())
}

/// The function's name of a granted directory.
fn grant(host: &mut Host, fd: i32) -> Result<&str, Errno> {
    match &opened(host, fd)?.kind {
        Kind::Grant(name) => Ok(name),
        Kind::Directory | Kind::File(_) => Err(BADF),
    }
}

fn path_open(
    host: &mut Host,
    fd: i32,
    lookup: i32,
    path: &Path,
    how: i32,
    rights: u64,
) -> Result<i32, Errno> {
    directory(host, fd)?;
    if how & (CREATE | EXCLUSIVE | TRUNCATE) != 0 || rights & FD_WRITE != 0 {
        return Err(ROFS);
    }
    host.files.room().map_err(errno)?;
    let wanted = Wanted { directory: how & ONLY_DIRECTORY != 0, follow: lookup & SYMLINK_FOLLOW != 0 };
    let (fd, stat) = open_below(&directory(host, fd)?.fd, path, wanted).map_err(errno)?;
    let kind = if kind(&stat) == SFlag::S_IFDIR { Kind::Directory } else { Kind::File(0) };
    let number = host.files.insert(fd, kind).map_err(errno)?;
    Ok(number as i32 + FIRST)
}

/// Defines functions of these parameters that refuse to change what the descriptor among them stands for.
macro_rules! refuse {
    ($linker:ident; $($name:literal ($($before:ty),*; fd; $($after:ty),*);)*) => {
        $( $linker.func_wrap(
            MODULE,
            $name,
            |mut caller: Caller<'_, Host> $(, _: $before)*, fd: i32 $(, _: $after)*| {
                opened(caller.data_mut(), fd).map_or_else(|errno| errno, |_| ROFS)
            },
        )?; )*
    };
}

/// What would change files.
fn read_only(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    refuse! { linker;
        "fd_allocate" (; fd; i64, i64);
        "fd_filestat_set_size" (; fd; i64);
        "fd_filestat_set_times" (; fd; i64, i64, i32);
        "path_create_directory" (; fd; i32, i32);
        "path_filestat_set_times" (; fd; i32, i32, i32, i64, i64, i32);
        "path_link" (i32, i32, i32, i32; fd; i32, i32);
        "path_remove_directory" (; fd; i32, i32);
        "path_rename" (; fd; i32, i32, i32, i32, i32);
        "path_symlink" (i32, i32; fd; i32, i32);
        "path_unlink_file" (; fd; i32, i32);
    }
    Ok(())
}
