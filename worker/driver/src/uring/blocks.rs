//! Blocks: the fixed supply of page-aligned memory for disk I/O, registered with the kernel.

use crate::seam::BlockId;
use memmap2::{MmapMut, MmapRaw};
use std::io;

/// Whether the kernel knows the blocks, so that it need not pin pages for each operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Registration {
    /// It does.
    Registered,
    /// The options did not ask for it.
    NotAsked,
}

pub(super) struct Blocks {
    /// Raw: the kernel reads and writes it while we hold references to other blocks.
    memory: MmapRaw,
    bytes: usize,
    free: Vec<BlockId>,
    registration: Registration,
}

impl Blocks {
    /// Takes the memory and registers it if asked; too small a limit for locked memory is an error with the remedy.
    pub(super) fn new(
        count: usize,
        bytes: usize,
        register: bool,
        submitter: &io_uring::Submitter<'_>,
    ) -> io::Result<Blocks> {
        assert!(bytes.is_multiple_of(4096) && bytes > 0, "blocks are whole pages");
        let memory = MmapRaw::from(MmapMut::map_anon((count * bytes).max(4096))?);
        let free = (0..count as u32).rev().map(BlockId).collect();
        let mut blocks = Blocks { memory, bytes, free, registration: Registration::NotAsked };
        if register && count > 0 {
            blocks.register(count, submitter)?;
        }
        Ok(blocks)
    }

    fn register(&mut self, count: usize, submitter: &io_uring::Submitter<'_>) -> io::Result<()> {
        let vectors: Vec<libc::iovec> = (0..count)
            .map(|index| libc::iovec { iov_base: self.at(BlockId(index as u32)).cast(), iov_len: self.bytes })
            .collect();
        // SAFETY: the memory outlives the ring (`Uring` drops the ring first).
        match unsafe { submitter.register_buffers(&vectors) } {
            Ok(()) => {
                self.registration = Registration::Registered;
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                crate::topology::memlock_remedy(
                    (count * self.bytes) as u64 + crate::topology::MEMLOCK_BYTES_MIN,
                ),
            )),
            Err(error) => Err(io::Error::new(error.kind(), format!("cannot register disk buffers: {error}"))),
        }
    }

    pub(super) fn registered(&self) -> bool {
        self.registration == Registration::Registered
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn take(&mut self) -> Option<BlockId> {
        self.free.pop()
    }

    pub(super) fn give(&mut self, block: BlockId) {
        debug_assert!(!self.free.contains(&block), "a block is given back once");
        self.free.push(block);
    }

    /// First byte of a block.
    pub(super) fn at(&self, block: BlockId) -> *mut u8 {
        let at = block.0 as usize * self.bytes;
        assert!(at + self.bytes <= self.memory.len(), "no such block");
        // SAFETY: inside the mapping, checked above.
        unsafe { self.memory.as_mut_ptr().add(at) }
    }

    pub(super) fn slice(&mut self, block: BlockId) -> &mut [u8] {
        // SAFETY: the block is inside the mapping; `&mut self` and the caller's promise (no operation in flight)
        // make this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.at(block), self.bytes) }
    }
}
