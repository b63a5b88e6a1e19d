//! Reading files and directories, and where the next read is from.
//!
//! A read takes what is in memory. What is not is asked for, and the guest sleeps meanwhile as it would on a clock, so that
//! a slow disk holds up the call that reads and no other.

use super::clocks::{end_slice, sleep};
use super::files::{entry_type, errno, opened};
use super::streams::{check_count, vector};
use super::{BADF, Errno, FAULT, INVAL, MODULE, SPIPE, SUCCESS, on_memory, part, store};
use crate::wasm::files::Kind;
use crate::wasm::host::Host;
use nix::errno::Errno as KernelErrno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, lseek64};
use std::os::fd::{AsRawFd, OwnedFd};
use wasmtime::{Caller, Linker};

/// Bytes of one read: less than 100 us of copying, which nothing interrupts. A reader that wants more reads on.
const READ_BYTES: usize = 256 << 10;
/// Parts of a scatter list that one read fills.
const PARTS: usize = 16;
/// First and longest wait for the disk, ns: fast ones answer in 100 us.
const WAIT_NS_MIN: u64 = 100_000;
const WAIT_NS_MAX: u64 = 5_000_000;
/// Waits before a read is no longer put off: together a second. Memory may be so short that nothing stays there.
const WAITS: u32 = 200;
/// Bytes of a directory asked for at once: some hundred entries.
const ENTRIES_BYTES: usize = 16 << 10;
/// Bytes of the longest entry of the kernel's, with its name of 255 bytes.
const ENTRY_BYTES_MAX: usize = 280;

/// Bytes of the kernel's entry (`linux_dirent64`) before the name: inode, next, length, type.
const KERNEL_HEAD: usize = 19;
/// Bytes of preview 1's entry before the name.
const HEAD: usize = 24;

pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_pread",
        |mut caller: Caller<'_, Host>, (fd, vectors, count, from, out): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                if (0..3).contains(&fd) {
                    return SPIPE;
                }
                read(&mut caller, fd, (vectors, count), Some(from as u64), out).await
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_seek",
        |mut caller: Caller<'_, Host>, fd: i32, by: i64, whence: i32, out: i32| {
            on_memory(&mut caller, |memory, host| {
                let at = seek(host, fd, by, whence)?;
                store(memory, out, &at.to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(MODULE, "fd_tell", |mut caller: Caller<'_, Host>, fd: i32, out: i32| {
        on_memory(&mut caller, |memory, host| {
            let at = seek(host, fd, 0, 1)?;
            store(memory, out, &at.to_le_bytes())
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_readdir",
        |mut caller: Caller<'_, Host>, (fd, at, room, cookie, used): (i32, i32, i32, i64, i32)| {
            Box::new(async move {
                let mut listing = Listing { at, room: room as u32 as usize, filled: 0, cookie };
                loop {
                    let mut more = false;
                    let errno = on_memory(&mut caller, |memory, host| {
                        more = listing.go_on(memory, host, fd)?;
                        store(memory, used, &(listing.filled as u32).to_le_bytes())
                    });
                    if errno != SUCCESS || !more {
                        return errno;
                    }
                    end_slice().await;
                }
            })
        },
    )?;
    Ok(())
}

/// Where the next read is from, after a move; a move of 0 from 1, which is where it is, tells it.
fn seek(host: &mut Host, fd: i32, by: i64, whence: i32) -> Result<u64, Errno> {
    if (0..3).contains(&fd) {
        return Err(SPIPE);
    }
    let opened = opened(host, fd)?;
    let Kind::File(at) = &mut opened.kind else { return Err(BADF) };
    let from = match whence {
        0 => 0,
        1 => *at,
        2 => fstat(&opened.fd).map_err(errno)?.st_size as u64,
        _ => return Err(INVAL),
    };
    // As the kernel has it: no place before the file, and none beyond what its numbers reach.
    *at = from.checked_add_signed(by).filter(|at| i64::try_from(*at).is_ok()).ok_or(INVAL)?;
    Ok(*at)
}

/// `fd_read` of a file, and `fd_pread`: at `from`, which does not move the place of the next read.
pub(super) async fn read(
    caller: &mut Caller<'_, Host>,
    fd: i32,
    (vectors, count): (i32, i32),
    from: Option<u64>,
    out: i32,
) -> Errno {
    let mut wait = WAIT_NS_MIN;
    for waits in 0.. {
        let mut absent = false;
        let errno = on_memory(caller, |memory, host| {
            check_count(count)?;
            part(memory, out, 4)?;
            let opened = opened(host, fd)?;
            let Kind::File(at) = &mut opened.kind else { return Err(errno(KernelErrno::EISDIR)) };
            let parts = Parts::of(memory, vectors, count)?;
            let place = from.unwrap_or(*at);
            let place = i64::try_from(place).map_err(|_| INVAL)?;
            match parts.read(memory, &opened.fd, place, waits < WAITS) {
                Ok(read) => {
                    if from.is_none() {
                        *at += read as u64;
                    }
                    store(memory, out, &(read as u32).to_le_bytes())
                }
                Err(KernelErrno::EAGAIN) if waits < WAITS => {
                    absent = true;
                    // Only advice: the read is tried again in any case.
                    let bytes = parts.bytes as i64;
                    let _ = posix_fadvise(&opened.fd, place, bytes, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
                    Ok(())
                }
                Err(kernel) => Err(super::files::errno(kernel)),
            }
        });
        if !absent {
            return errno;
        }
        sleep(caller, wait).await;
        wait = (2 * wait).min(WAIT_NS_MAX);
    }
    unreachable!("the last read is not put off")
}

/// The parts of a guest's memory that one read fills: start and bytes of each, all inside and none empty.
struct Parts {
    parts: [(usize, usize); PARTS],
    count: usize,
    bytes: usize,
}

impl Parts {
    fn of(memory: &mut [u8], vectors: i32, count: i32) -> Result<Parts, Errno> {
        let mut parts = Parts { parts: [(0, 0); PARTS], count: 0, bytes: 0 };
        for n in 0..count {
            let (start, room) = vector(memory, vectors, n)?;
            let bytes = room.min(READ_BYTES - parts.bytes);
            memory.get(start..start + bytes).ok_or(FAULT)?;
            if bytes > 0 {
                parts.parts[parts.count] = (start, bytes);
                parts.count += 1;
                parts.bytes += bytes;
            }
            if parts.count == PARTS || parts.bytes == READ_BYTES {
                break;
            }
        }
        Ok(parts)
    }

    /// Reads from `place` of the file; only what is in memory if it is `ready` that is wanted.
    fn read(&self, memory: &mut [u8], file: &OwnedFd, place: i64, ready: bool) -> nix::Result<usize> {
        let base = memory.as_mut_ptr();
        let room = self.parts.map(|(start, bytes)| {
            debug_assert!(start + bytes <= memory.len());
            libc::iovec { iov_base: base.wrapping_add(start).cast(), iov_len: bytes }
        });
        let flags = if ready { libc::RWF_NOWAIT } else { 0 };
        // SAFETY: `parts` are inside of `memory`, which is borrowed to be written for the whole call, and its first
        // `count` were filled in by `of`. They may overlap: these are plain bytes.
        let read = unsafe { libc::preadv2(file.as_raw_fd(), room.as_ptr(), self.count as i32, place, flags) };
        match KernelErrno::result(read) {
            Ok(read) => Ok(read as usize),
            // This file system cannot tell what is in memory.
            Err(KernelErrno::EOPNOTSUPP) if ready => self.read(memory, file, place, false),
            // A tick of the slice's timer.
            Err(KernelErrno::EINTR) => self.read(memory, file, place, ready),
            Err(errno) => Err(errno),
        }
    }
}

/// One `fd_readdir`. Cookies are the kernel's own places in the directory.
struct Listing {
    at: i32,
    room: usize,
    filled: usize,
    cookie: i64,
}

impl Listing {
    /// Takes some entries more; true if there may be others and there is room for them. A buffer that is full to the
    /// last byte tells the guest to come again, so the last entry may be cut.
    fn go_on(&mut self, memory: &mut [u8], host: &mut Host, fd: i32) -> Result<bool, Errno> {
        let opened = opened(host, fd)?;
        if matches!(opened.kind, Kind::File(_)) {
            return Err(errno(KernelErrno::ENOTDIR));
        }
        let room = part(memory, self.at, self.room)?;
        let mut entries = [0; ENTRIES_BYTES];
        // A guest that asks for little would throw most of it away.
        let wanted = (self.room - self.filled).clamp(ENTRY_BYTES_MAX, ENTRIES_BYTES);
        let got = entries_from(&opened.fd, self.cookie, &mut entries[..wanted]).map_err(errno)?;
        let mut rest = &entries[..got];
        while let Some((entry, after)) = Entry::split(rest) {
            rest = after;
            let mut head = [0; HEAD];
            head[..8].copy_from_slice(&entry.next.to_le_bytes());
            head[8..16].copy_from_slice(&entry.inode.to_le_bytes());
            head[16..20].copy_from_slice(&(entry.name.len() as u32).to_le_bytes());
            head[20] = entry_type(entry.kind);
            for bytes in [&head, entry.name] {
                let fits = bytes.len().min(self.room - self.filled);
                room[self.filled..self.filled + fits].copy_from_slice(&bytes[..fits]);
                self.filled += fits;
            }
            self.cookie = entry.next;
            if self.filled == self.room {
                return Ok(false);
            }
        }
        Ok(got > 0)
    }
}

/// Entries from a place of a directory on, as `getdents64` has them; how many bytes, 0 at its end.
fn entries_from(directory: &OwnedFd, cookie: i64, into: &mut [u8]) -> nix::Result<usize> {
    lseek64(directory, cookie, Whence::SeekSet)?;
    let (fd, room) = (directory.as_raw_fd(), into.len());
    // SAFETY: `into` is writable for its length.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, into.as_mut_ptr(), room) };
    KernelErrno::result(got).map(|got| got as usize)
}

/// An entry of a directory, as the kernel tells it.
struct Entry<'a> {
    inode: u64,
    next: i64,
    kind: u8,
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The first one, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Entry<'a>, &'a [u8])> {
        let (inode, rest) = bytes.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (whole, rest) = rest.split_first_chunk()?;
        let kind = *rest.first()?;
        let whole = usize::from(u16::from_ne_bytes(*whole));
        let name = bytes.get(KERNEL_HEAD..whole)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let entry = Entry { inode: u64::from_ne_bytes(*inode), next: i64::from_ne_bytes(*next), kind, name };
        Some((entry, &bytes[whole..]))
    }
}
