//! stdin, stdout and stderr, and what descriptors of files have in common with them.

use super::{BADF, Errno, INVAL, MODULE, files, load_u32, on_memory, reading, store};
use crate::wasm::host::{Host, Stdout};
use wasmtime::{Caller, Linker};

const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// Rights of preview 1: fd_read, fd_write, poll_fd_readwrite.
const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;
const RIGHT_POLL: u64 = 1 << 27;

/// Parts of one scatter list at most, as on Linux (`IOV_MAX`): nothing ends a slice inside of a call to the host.
const VECTORS_MAX: i32 = 1024;

pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_read",
        |mut caller: Caller<'_, Host>, (fd, vectors, count, read): (i32, i32, i32, i32)| {
            Box::new(async move {
                if fd > STDERR {
                    return reading::read(&mut caller, fd, (vectors, count), None, read).await;
                }
                on_memory(&mut caller, |memory, host| {
                    check(host, fd, fd == STDIN)?;
                    check_count(count)?;
                    let bytes = fd_read(memory, host, vectors, count)?;
                    store(memory, read, &bytes.to_le_bytes())
                })
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, Host>, fd: i32, vectors: i32, count: i32, written: i32| {
            on_memory(&mut caller, |memory, host| {
                check(host, fd, fd == STDOUT || fd == STDERR)?;
                check_count(count)?;
                let bytes = fd_write(memory, host, fd, vectors, count)?;
                store(memory, written, &bytes.to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(MODULE, "fd_close", |mut caller: Caller<'_, Host>, fd: i32| {
        let host = caller.data_mut();
        if fd > STDERR {
            return files::close(host, fd).map_or_else(|errno| errno, |()| super::SUCCESS);
        }
        match check(host, fd, true) {
            Ok(()) => {
                host.open &= !(1 << fd);
                super::SUCCESS
            }
            Err(errno) => errno,
        }
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut caller: Caller<'_, Host>, fd: i32, at: i32| {
        on_memory(&mut caller, |memory, host| {
            if fd > STDERR {
                return store(memory, at, &files::fdstat(host, fd)?);
            }
            check(host, fd, true)?;
            // File type 0 (a pipe has no number of its own), no flags, rights, nothing to inherit.
            let mut stat = [0; 24];
            let rights = RIGHT_POLL | if fd == STDIN { RIGHT_READ } else { RIGHT_WRITE };
            stat[8..16].copy_from_slice(&rights.to_le_bytes());
            store(memory, at, &stat)
        })
    })?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut caller: Caller<'_, Host>, fd: i32, at: i32| {
        on_memory(&mut caller, |memory, host| {
            if fd > STDERR {
                return store(memory, at, &files::filestat(host, fd)?);
            }
            check(host, fd, true)?;
            store(memory, at, &[0; 64])
        })
    })?;
    Ok(())
}

/// An error unless `fd` is an open standard stream of the `right` direction.
fn check(host: &Host, fd: i32, right: bool) -> Result<(), Errno> {
    let open = (0..3).contains(&fd) && host.open & (1 << fd) != 0;
    if open && right { Ok(()) } else { Err(BADF) }
}

pub(super) fn check_count(vectors: i32) -> Result<(), Errno> {
    if (0..=VECTORS_MAX).contains(&vectors) { Ok(()) } else { Err(INVAL) }
}

/// The `n`-th part of a scatter list: where, and how many bytes.
pub(super) fn vector(memory: &mut [u8], vectors: i32, n: i32) -> Result<(usize, usize), Errno> {
    let at = vectors.wrapping_add(n.wrapping_mul(8));
    Ok((load_u32(memory, at)? as usize, load_u32(memory, at.wrapping_add(4))? as usize))
}

fn fd_read(memory: &mut [u8], host: &mut Host, vectors: i32, count: i32) -> Result<u32, Errno> {
    let payload = host.desk.payload.borrow();
    let mut read = 0;
    for n in 0..count {
        let (start, room) = vector(memory, vectors, n)?;
        let left = &payload[host.stdin_at..];
        let bytes = room.min(left.len());
        let into = memory.get_mut(start..start + bytes).ok_or(super::FAULT)?;
        into.copy_from_slice(&left[..bytes]);
        host.stdin_at += bytes;
        read += bytes;
        if bytes < room {
            break;
        }
    }
    Ok(read as u32)
}

fn fd_write(memory: &mut [u8], host: &Host, fd: i32, vectors: i32, count: i32) -> Result<u32, Errno> {
    let mut written = 0_usize;
    for n in 0..count {
        let (start, bytes) = vector(memory, vectors, n)?;
        let from = memory.get(start..start + bytes).ok_or(super::FAULT)?;
        if fd == STDOUT && host.stdout == Stdout::Output {
            host.desk.write_output(from);
        } else {
            host.desk.write_stderr(from);
        }
        written += bytes;
    }
    Ok(written as u32)
}
