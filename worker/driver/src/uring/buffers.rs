//! Receive buffers of one connection: a provided-buffer ring from which a multishot receive takes memory.
//!
//! A ring of its own for each connection, so that the bytes of a stream lie behind each other: with *incremental*
//! buffers (Linux 6.12) one buffer takes many receives, a frame that came in two pieces is whole in place, and the
//! alignment of frames is never lost to another connection's bytes.

use io_uring::types::BufRingEntry;
use memmap2::{MmapMut, MmapRaw};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// `IOU_PBUF_RING_INC`; the crate has no name for it.
const INCREMENTAL: u16 = 2;
/// `IORING_CQE_F_BUF_MORE`: the buffer takes further bytes.
const BUFFER_MORE: u32 = 1 << 4;
/// The ring of buffer descriptors takes the first page.
const RING_BYTES: usize = 4096;

/// Count and size of a connection's receive buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// A power of two.
    pub count: u16,
    /// A multiple of 4096.
    pub bytes: usize,
    /// Whether a buffer takes many receives.
    pub incremental: bool,
}

/// Where a receive put its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Which buffer.
    pub buffer: u16,
    /// From the first byte that was not done with before to the end of what has come.
    pub start: usize,
    /// Exclusive.
    pub end: usize,
    /// Whether the next bytes come right behind, in the same buffer.
    pub continues: bool,
}

/// The memory, its descriptors, and how far each buffer is filled.
pub(super) struct ReceiveBuffers {
    /// Raw: the kernel writes behind what frames borrow.
    memory: MmapRaw,
    shape: Shape,
    group: u16,
    registered: bool,
    /// Descriptors given to the kernel so far; the ring's tail.
    tail: u16,
    /// The buffer being filled: where unread bytes begin, and where they end.
    start: usize,
    end: usize,
    /// Full buffers that wait for [`ReceiveBuffers::recycle`].
    full: Vec<u16>,
}

impl ReceiveBuffers {
    pub(super) fn new(group: u16, shape: Shape) -> io::Result<ReceiveBuffers> {
        assert!(shape.count.is_power_of_two() && shape.bytes.is_multiple_of(4096));
        let memory = MmapRaw::from(MmapMut::map_anon(RING_BYTES + usize::from(shape.count) * shape.bytes)?);
        let full = Vec::with_capacity(usize::from(shape.count));
        Ok(ReceiveBuffers { memory, shape, group, registered: false, tail: 0, start: 0, end: 0, full })
    }

    /// Whether this kernel has incremental buffers.
    pub(super) fn probe_incremental(submitter: &io_uring::Submitter<'_>) -> bool {
        let shape = Shape { count: 1, bytes: 4096, incremental: true };
        ReceiveBuffers::new(u16::MAX, shape)
            .and_then(|mut buffers| {
                buffers.register(submitter)?;
                buffers.unregister(submitter);
                Ok(())
            })
            .is_ok()
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Gives all buffers to the kernel, for a new connection.
    pub(super) fn register(&mut self, submitter: &io_uring::Submitter<'_>) -> io::Result<()> {
        assert!(!self.registered, "a group is registered once");
        // SAFETY: the first page of the mapping; the kernel has forgotten it.
        unsafe { self.memory.as_mut_ptr().write_bytes(0, RING_BYTES) };
        let flags = if self.shape.incremental { INCREMENTAL } else { 0 };
        let ring = self.memory.as_ptr() as u64;
        // SAFETY: the memory is page-aligned, holds `count` descriptors, and is unregistered before it is unmapped.
        unsafe { submitter.register_buf_ring_with_flags(ring, self.shape.count, self.group, flags) }?;
        (self.registered, self.tail, self.start, self.end) = (true, 0, 0, 0);
        self.full.clear();
        for buffer in 0..self.shape.count {
            self.provide(buffer);
        }
        Ok(())
    }

    /// Takes all buffers back. No receive may be in flight.
    pub(super) fn unregister(&mut self, submitter: &io_uring::Submitter<'_>) {
        if self.registered {
            self.registered = false;
            submitter.unregister_buf_ring(self.group).expect("it was registered");
        }
    }

    fn buffer_at(&self, buffer: u16) -> usize {
        RING_BYTES + usize::from(buffer) * self.shape.bytes
    }

    fn provide(&mut self, buffer: u16) {
        let address = self.memory.as_ptr() as u64 + self.buffer_at(buffer) as u64;
        let ring = self.memory.as_mut_ptr().cast::<BufRingEntry>();
        let slot = usize::from(self.tail & (self.shape.count - 1));
        // SAFETY: `slot` is below the number of descriptors in the mapped page, and the kernel reads none at or
        // behind the tail before the tail is stored. The tail lies in the page too, aligned, and is shared with
        // the kernel only through this atomic.
        unsafe {
            let entry = &mut *ring.add(slot);
            entry.set_addr(address);
            entry.set_len(self.shape.bytes as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(ring).cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    /// Notes a receive of `bytes` with these completion flags.
    pub(super) fn received(&mut self, bytes: usize, flags: u32) -> Chunk {
        let buffer = io_uring::cqueue::buffer_select(flags).expect("a receive with bytes names its buffer");
        self.end += bytes;
        assert!(self.end <= self.shape.bytes && buffer < self.shape.count, "the kernel stays in the buffer");
        let continues = flags & BUFFER_MORE != 0;
        let chunk = Chunk { buffer, start: self.start, end: self.end, continues };
        if !continues {
            self.full.push(buffer);
            (self.start, self.end) = (0, 0);
        }
        chunk
    }

    /// The first `bytes` of a chunk that continues are done with.
    pub(super) fn consumed(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Whether bytes wait for more in the buffer being filled.
    pub(super) fn mid_frame(&self) -> bool {
        self.end > self.start
    }

    /// The bytes of a chunk.
    pub(super) fn bytes(&self, chunk: Chunk) -> &[u8] {
        let at = self.buffer_at(chunk.buffer) + chunk.start;
        // SAFETY: inside the mapping (`received` checked it); the kernel is done with these bytes and gets the
        // buffer again only by `recycle`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(at), chunk.end - chunk.start) }
    }

    /// Gives full buffers back to the kernel; nobody looks at their bytes any more. Whether there were any.
    pub(super) fn recycle(&mut self) -> bool {
        let any = !self.full.is_empty();
        for index in 0..self.full.len() {
            self.provide(self.full[index]);
        }
        self.full.clear();
        any
    }
}
