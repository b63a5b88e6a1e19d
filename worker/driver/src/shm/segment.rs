//! The shared memory of a link: layout, creation, checks.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `MLRSHM01`: changes with the layout |
//! | 128 | 128 | doorbell of the client: `waiting` u32, `bell` u32 |
//! | 256 | 128 | doorbell of the acceptor |
//! | 384 | 384 | indices client to acceptor: `tail` u64, `head` u64, `blocked` u32, 128 bytes apart |
//! | 768 | 384 | indices acceptor to client |
//! | 4096 | n | bytes client to acceptor; n is a power of two |
//! | 4096 + n | n | bytes acceptor to client |
//!
//! 128 bytes apart, because processors fetch cache lines in pairs.

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

const MAGIC: u64 = u64::from_le_bytes(*b"MLRSHM01");
const CONTROL_BYTES: usize = 4096;
/// Bytes of a ring that an acceptor maps: more would let a client make the node map without bound.
const RING_BYTES_MAX: usize = 64 << 20;

#[repr(C, align(128))]
pub(super) struct Doorbell {
    /// 1 while the side may sleep: the peer then rings.
    pub waiting: AtomicU32,
    /// The futex word; counts the rings.
    pub bell: AtomicU32,
}

#[repr(C, align(128))]
pub(super) struct Line<T>(pub T);

#[repr(C)]
pub(super) struct Indices {
    /// Bytes ever written; only the producer stores it.
    pub tail: Line<AtomicU64>,
    /// Bytes ever read; only the consumer stores it.
    pub head: Line<AtomicU64>,
    /// 1 while the producer waits for space.
    pub blocked: Line<AtomicU32>,
}

#[repr(C)]
pub(super) struct Control {
    magic: Line<AtomicU64>,
    pub doorbells: [Doorbell; 2],
    pub indices: [Indices; 2],
}

const _: () = assert!(size_of::<Control>() <= CONTROL_BYTES);
const _: () = assert!(std::mem::offset_of!(Control, indices) == 384 && size_of::<Indices>() == 384);

/// A mapped link.
pub(crate) struct Segment {
    memory: MmapRaw,
    ring_bytes: usize,
}

impl Segment {
    /// Makes one with rings of `ring_bytes` (a power of two, a multiple of the page) each way, and its descriptor.
    pub(crate) fn create(ring_bytes: usize) -> io::Result<(Segment, OwnedFd)> {
        assert!(ring_bytes.is_power_of_two() && ring_bytes.is_multiple_of(4096), "{ring_bytes}");
        let fd = memfd_create(c"millrace-link", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let file = File::from(fd);
        file.set_len((CONTROL_BYTES + 2 * ring_bytes) as u64)?;
        fcntl(
            &file,
            FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL),
        )?;
        let segment = Segment { memory: MmapOptions::new().map_raw(&file)?, ring_bytes };
        segment.control().magic.0.store(MAGIC, std::sync::atomic::Ordering::Release);
        Ok((segment, file.into()))
    }

    /// Maps one that a peer made, after checking that it cannot shrink under us (a shrunk mapping is a SIGBUS).
    pub(crate) fn accept(fd: OwnedFd) -> io::Result<Segment> {
        let refuse = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let seals =
            fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).map_err(|_| refuse("the peer's memory is no memfd"))?;
        if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(refuse("the peer's memory is not sealed against shrinking"));
        }
        let file = File::from(fd);
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let ring_bytes = bytes.saturating_sub(CONTROL_BYTES) / 2;
        let whole = ring_bytes.is_power_of_two() && bytes == CONTROL_BYTES + 2 * ring_bytes;
        if !whole || !ring_bytes.is_multiple_of(4096) || ring_bytes > RING_BYTES_MAX {
            return Err(refuse("the peer's memory has a wrong size"));
        }
        let segment = Segment { memory: MmapOptions::new().map_raw(&file)?, ring_bytes };
        if segment.control().magic.0.load(std::sync::atomic::Ordering::Acquire) != MAGIC {
            return Err(refuse("the peer's memory is laid out by another version of millrace"));
        }
        Ok(segment)
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    pub(super) fn control(&self) -> &Control {
        // SAFETY: the mapping is page-aligned, at least CONTROL_BYTES long for its whole life (sealed), and holds
        // only atomics there, for which any bytes are valid and any other process may store.
        unsafe { &*self.memory.as_ptr().cast() }
    }

    /// The first byte of the ring that `side` (0 client, 1 acceptor) writes.
    pub(super) fn ring(&self, side: usize) -> *mut u8 {
        // SAFETY: the mapping is CONTROL_BYTES and two rings long.
        unsafe { self.memory.as_mut_ptr().add(CONTROL_BYTES + side * self.ring_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsealed_short_or_foreign_memory_is_refused() {
        let memfd = |bytes: u64, flags| {
            let file = File::from(memfd_create(c"test", flags).unwrap());
            file.set_len(bytes).unwrap();
            file
        };
        let refusal = |file: File| Segment::accept(file.into()).err().expect("refused").to_string();
        let whole = (CONTROL_BYTES + 2 * 4096) as u64;
        assert!(refusal(memfd(whole, MFdFlags::MFD_ALLOW_SEALING)).contains("not sealed"));
        assert!(refusal(tempfile::tempfile().unwrap()).contains("no memfd"));
        for bytes in [0, 4096, whole - 1, whole + 4096, (CONTROL_BYTES + 2 * (128 << 20)) as u64] {
            let file = memfd(bytes, MFdFlags::MFD_ALLOW_SEALING);
            fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
            assert!(refusal(file).contains("wrong size"), "{bytes}");
        }
        let file = memfd(whole, MFdFlags::MFD_ALLOW_SEALING);
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        assert!(refusal(file).contains("another version"));
    }
}
