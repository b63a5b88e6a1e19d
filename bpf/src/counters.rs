//! What each sandbox used, read from the mapped array of counters without a system call.

use crate::abi::BUCKETS;
use crate::error::BpfError;
use crate::runq::{Delays, now_ns};
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one row: `struct usage` of `include/abi.h`.
pub const ROW_BYTES: usize = 8 * (WORDS_BEFORE_DELAYS + BUCKETS);
const WORDS_BEFORE_DELAYS: usize = 24;

// Words of a row.
const ENTERING: usize = 0;
const LEAVING: usize = 1;
const RAN_NS: usize = 2;
const ENTERED: usize = 3;
const LEFT: usize = 4;
const PAGE_FAULTS: usize = 5;
const PAGE_FAULTS_MAJOR: usize = 6;
const SYSCALLS: usize = 7;
const BLOCK_READ_BYTES: usize = 8;
const BLOCK_WRITE_BYTES: usize = 9;
const BYTES_OUT: usize = 16;
const BYTES_IN: usize = 17;
const PACKETS_OUT: usize = 18;
const PACKETS_IN: usize = 19;
const DROPPED_OUT: usize = 20;
const DROPPED_IN: usize = 21;
const DENIED: usize = 22;
const UNTOLD: usize = 23;

/// How often a reading of CPU time is tried again while slices begin and end: each try takes less than the programs
/// take between two of their changes, so a second one is rare.
const TRIES_MAX: usize = 100;

/// What a sandbox used, and those that had its row before: counters only grow, and differences of two readings count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// On CPUs, all threads together, the slices that run now included, ns.
    pub cpu_ns: u64,
    /// How often a thread left a CPU.
    pub switches: u64,
    /// Pages that were not mapped when they were used, the major ones included. Up to the end of each thread's last
    /// slice, as also the next three.
    pub page_faults: u64,
    /// Those that had to be read from a disk.
    pub page_faults_major: u64,
    /// Bytes read from block devices on its behalf.
    pub block_read_bytes: u64,
    /// Bytes that it caused to be written to block devices.
    pub block_write_bytes: u64,
    /// System calls; 0 unless [`crate::Options::syscalls`].
    pub syscalls: u64,
    /// Bytes of IP packets sent, headers included, without those to its own Runtime API.
    pub bytes_out: u64,
    /// Bytes of IP packets received.
    pub bytes_in: u64,
    /// Packets sent: as the IP layer sees them, so one may be cut into several by the network card.
    pub packets_out: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Packets not sent since the rate was exceeded.
    pub dropped_out: u64,
    /// Packets not received since the rate was exceeded.
    pub dropped_in: u64,
    /// Attempts to connect, send, bind, make a socket or be reached that no grant covers.
    pub denied: u64,
    /// Denied attempts, and other events, that no [`crate::Event`] told about: there were too many.
    pub untold: u64,
}

/// The counters of all sandboxes, mapped read-only.
#[derive(Debug)]
pub struct Counters {
    map: MmapRaw,
    rows: u32,
    /// CPU time and slices of each row as last read consistently.
    settled: Vec<[AtomicU64; 2]>,
}

impl Counters {
    /// Maps the array behind the descriptor of [`crate::Enforcement::counters_fd`], which may have come from another
    /// process. `rows` is that one's [`crate::Enforcement::rows`].
    ///
    /// # Errors
    /// If the descriptor is none of an array of so many rows.
    pub fn map(array: impl AsFd, rows: u32) -> Result<Counters, BpfError> {
        let bytes = rows as usize * ROW_BYTES;
        let map =
            MmapOptions::new().len(bytes).map_raw_read_only(array.as_fd().as_raw_fd()).map_err(|error| {
                BpfError::Refused { step: "map the counters of sandboxes", reason: error.to_string() }
            })?;
        let settled = (0..rows).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        Ok(Counters { map, rows, settled })
    }

    /// How many sandboxes it has room for.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// What the sandbox of this row used up to now.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn read(&self, index: u32) -> Usage {
        let (cpu_ns, switches) = self.cpu(index);
        let word = |at| self.word(index, at).load(Ordering::Relaxed);
        Usage {
            cpu_ns,
            switches,
            page_faults: word(PAGE_FAULTS),
            page_faults_major: word(PAGE_FAULTS_MAJOR),
            block_read_bytes: word(BLOCK_READ_BYTES),
            block_write_bytes: word(BLOCK_WRITE_BYTES),
            syscalls: word(SYSCALLS),
            bytes_out: word(BYTES_OUT),
            bytes_in: word(BYTES_IN),
            packets_out: word(PACKETS_OUT),
            packets_in: word(PACKETS_IN),
            dropped_out: word(DROPPED_OUT),
            dropped_in: word(DROPPED_IN),
            denied: word(DENIED),
            untold: word(UNTOLD),
        }
    }

    /// How long its threads waited for a CPU before each slice that has ended.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn delays(&self, index: u32) -> Delays {
        let bucket = |at| self.word(index, WORDS_BEFORE_DELAYS + at).load(Ordering::Relaxed);
        Delays { buckets: std::array::from_fn(bucket) }
    }

    /// CPU time with the slices that run now, and ended slices: read between two changes of the programs. If those do
    /// not come to an end (the host took away the CPU that makes one), as they were when this was last asked.
    fn cpu(&self, index: u32) -> (u64, u64) {
        let word = |at, order| self.word(index, at).load(order);
        let [cpu_before, left_before] = &self.settled[index as usize];
        for _ in 0..TRIES_MAX {
            let (entered, left) = (word(ENTERED, Ordering::Acquire), word(LEFT, Ordering::Acquire));
            let ran_ns = word(RAN_NS, Ordering::Acquire);
            if word(ENTERING, Ordering::Acquire) == entered && word(LEAVING, Ordering::Acquire) == left {
                // Asked for after the reading: a slice that is in it began before now.
                let running = entered.wrapping_sub(left).wrapping_mul(now_ns());
                // A slice that ends now ended some ns before it is counted as ended: never go back by those.
                let cpu_ns = ran_ns.wrapping_add(running);
                let cpu_ns = cpu_before.fetch_max(cpu_ns, Ordering::Relaxed).max(cpu_ns);
                left_before.store(left, Ordering::Relaxed);
                return (cpu_ns, left);
            }
        }
        (cpu_before.load(Ordering::Relaxed), left_before.load(Ordering::Relaxed))
    }

    fn word(&self, index: u32, at: usize) -> &AtomicU64 {
        assert!(index < self.rows && at < ROW_BYTES / 8, "row {index} of {}", self.rows);
        let offset = index as usize * ROW_BYTES + at * 8;
        // SAFETY: the mapping is of `rows` rows and as long-lived as `self`, page-aligned and so is the word 8-aligned.
        // Everyone changes it by atomic instructions only; atomic loads of 8 bytes do not write on 64-bit machines.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }
}
