//! What each sandbox used, read from the mapped array of counters without a system call.

use crate::abi::{BUCKETS, RUNNING_BITS};
use crate::error::BpfError;
use crate::runq::{Delays, now_ns};
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one row: `struct usage` of `include/abi.h`.
pub const ROW_BYTES: usize = 8 * (WORDS_BEFORE_DELAYS + BUCKETS);
const WORDS_BEFORE_DELAYS: usize = 24;

// Words of a row.
const RAN: usize = 0;
const SWITCHES: usize = 1;
const WAITS: usize = 2;
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

/// CPU time in a row is modulo this, ns.
const RAN_MODULUS: u64 = 1 << (u64::BITS - RUNNING_BITS);

/// What a sandbox used, and those that had its row before: counters only grow, and differences of two readings count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// On CPUs, all threads together, the slices that run now included, ns.
    pub cpu_ns: u64,
    /// How often a thread left a CPU.
    pub switches: u64,
    /// Of these, how often since it waited for something, and not since others had their turn.
    pub waits: u64,
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
    /// Bytes of IP packets sent, headers included, without those to its own Runtime API: what leaves the sandbox. One
    /// with a network of its own sends nothing anywhere.
    pub bytes_out: u64,
    /// Bytes of IP packets received, by the same rule.
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
    /// CPU time of each row as last read.
    settled: Vec<AtomicU64>,
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
        let settled = (0..rows).map(|_| AtomicU64::new(0)).collect();
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
        let word = |at| self.word(index, at).load(Ordering::Relaxed);
        Usage {
            cpu_ns: self.cpu_ns(index),
            switches: word(SWITCHES),
            waits: word(WAITS),
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

    /// CPU time with the slices that run now: never less than the last time. Right as long as a sandbox uses less than
    /// half of the modulus (26 days of one CPU) between two readings.
    fn cpu_ns(&self, index: u32) -> u64 {
        let ran = self.word(index, RAN);
        let settled = &self.settled[index as usize];
        let before = settled.load(Ordering::Relaxed);
        let (word, now) = at_one_time(|| ran.load(Ordering::Acquire), now_ns);
        let cpu_ns = before + grown(before, cpu_ns_of(word, now));
        settled.fetch_max(cpu_ns, Ordering::Relaxed).max(cpu_ns)
    }

    fn word(&self, index: u32, at: usize) -> &AtomicU64 {
        assert!(index < self.rows && at < ROW_BYTES / 8, "row {index} of {}", self.rows);
        let offset = index as usize * ROW_BYTES + at * 8;
        // SAFETY: the mapping is of `rows` rows and as long-lived as `self`, page-aligned and so is the word 8-aligned.
        // Everyone changes it by atomic instructions only; atomic loads of 8 bytes do not write on 64-bit machines.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset).cast()) }
    }
}

/// A word and a time at which it was so. This thread may lose its CPU between the two: a slice that ended meanwhile would
/// be counted up to the later time, and what was settled once is never taken back.
fn at_one_time(word: impl Fn() -> u64, clock: impl Fn() -> u64) -> (u64, u64) {
    let mut first = word();
    loop {
        let now = clock();
        let again = word();
        if again == first {
            return (first, now);
        }
        first = again;
    }
}

/// The CPU time that a word says at this time, modulo [`RAN_MODULUS`].
fn cpu_ns_of(word: u64, now_ns: u64) -> u64 {
    let running = word % (1 << RUNNING_BITS);
    (word >> RUNNING_BITS).wrapping_add(running.wrapping_mul(now_ns)) % RAN_MODULUS
}

/// By how much the whole time is ahead of what was read `before`; nothing if it is behind by the few ns by which a slice
/// that ends now ended before it was counted as ended.
fn grown(before: u64, part: u64) -> u64 {
    let more = part.wrapping_sub(before) % RAN_MODULUS;
    if more < RAN_MODULUS / 2 { more } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    /// As `account.bpf.c` changes the word.
    fn begin(word: &mut u64, now: u64) {
        *word = word.wrapping_add(1u64.wrapping_sub(now << RUNNING_BITS));
    }

    fn end(word: &mut u64, now: u64) {
        *word = word.wrapping_add((now << RUNNING_BITS).wrapping_sub(1));
    }

    proptest! {
        /// Whatever begins and ends when, from whatever the row stood at: each reading is the sum of the slices.
        #[test]
        fn each_reading_is_the_sum_of_all_slices(
            start in 0..RAN_MODULUS,
            first in 0_u64..1 << 62,
            steps in prop::collection::vec((0_u64..1 << 40, any::<bool>()), 1..60),
        ) {
            let (mut word, mut now, mut running) = (start << RUNNING_BITS, first, Vec::new());
            let (mut ended, mut read) = (0, start);
            for (after, begins) in steps {
                now += after;
                match running.pop() {
                    Some(begun) if !begins => {
                        end(&mut word, now);
                        ended += now - begun;
                    }
                    Some(begun) => {
                        running.extend([begun, now]);
                        begin(&mut word, now);
                    }
                    None => {
                        running.push(now);
                        begin(&mut word, now);
                    }
                }
                let whole = start + ended + running.iter().map(|begun| now - begun).sum::<u64>();
                read += grown(read, cpu_ns_of(word, now));
                prop_assert_eq!(read, whole);
            }
        }
    }

    /// The reader loses its CPU after it read the word, and the only slice ends meanwhile.
    #[test]
    fn a_reader_that_is_held_up_counts_no_slice_past_its_end() {
        let (word, held_up) = (Cell::new(0), Cell::new(false));
        let change = |how: fn(&mut u64, u64), now| {
            let mut changed = word.get();
            how(&mut changed, now);
            word.set(changed);
        };
        change(begin, 1000);
        let clock = || {
            if !held_up.replace(true) {
                change(end, 1100);
            }
            500_000
        };
        let (read, now) = at_one_time(|| word.get(), clock);
        assert_eq!(cpu_ns_of(read, now), 100);
    }

    #[test]
    fn a_reading_that_is_behind_changes_nothing() {
        assert_eq!(grown(1000, 990), 0);
        assert_eq!(grown(RAN_MODULUS - 1, 4), 5);
        assert_eq!(grown(3 * RAN_MODULUS + 7, 9), 2);
    }
}
