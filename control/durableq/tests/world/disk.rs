//! The disk of a [`World`](super::World): segments as they are there, and what is on its way.

use super::{KEY, Random, SECTOR};
use call::frame::FrameBuf;
use call::limits::Limits;
use call::{Instant, WallTime};
use durableq::log::GroupHeader;
use durableq::log::dump::{Entry, dump};
use durableq::{DurableQ, Loss, Recover, Recovery, RecoveryError};
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Read {
    pub(super) segment: u64,
    pub(super) offset: usize,
    pub(super) bytes: usize,
    pub(super) block: u32,
    pub(super) read: u32,
}

pub(super) struct Flight {
    pub(super) segment: u64,
    pub(super) offset: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) group: u64,
}

/// What is being changed in the directory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Relink {
    Rename { from: u64, to: u64 },
    Remove(u64),
}

/// Segments as they are on disk, and writes on their way there.
#[derive(Default)]
pub struct Disk {
    pub files: BTreeMap<u64, Vec<u8>>,
    pub(super) flights: Vec<Flight>,
    pub(super) reads: Vec<Read>,
    /// So many reads fail before one succeeds again.
    pub unreadable: u32,
    pub(super) creating: Vec<(u64, usize)>,
    pub(super) relinking: Option<Relink>,
    /// Segments that were given another number.
    pub recycled: u64,
    /// Which numbers these had before.
    pub(super) recycled_from: BTreeSet<u64>,
    /// The file system cannot rename files.
    pub no_rename: bool,
    /// No segment can be made.
    pub full: bool,
    /// Tells that a write is on disk when it is not: the planted bug of a canary.
    pub lies: bool,
}

impl Disk {
    pub(super) fn change(&mut self, change: Relink) {
        assert!(self.creating.is_empty(), "the directory is changed in one step at a time");
        assert!(self.relinking.replace(change).is_none(), "the directory is changed in one step at a time");
    }

    pub(super) fn apply_change(&mut self, change: Relink) {
        let (from, to) = match change {
            Relink::Rename { from, to } => (from, Some(to)),
            Relink::Remove(from) => (from, None),
        };
        assert!(self.flights.iter().all(|flight| flight.segment != from), "nothing is under way to it");
        assert!(self.reads.iter().all(|read| read.segment != from), "nothing is under way from it");
        let file = self.files.remove(&from).expect("a segment is retired once");
        if let Some(to) = to {
            self.recycled += 1;
            self.recycled_from.insert(from);
            assert!(self.files.insert(to, file).is_none(), "a number is used once");
        }
    }

    /// How many segments of these numbers were given another one.
    pub fn recycled_of(&self, numbers: &[u64]) -> usize {
        numbers.iter().filter(|number| self.recycled_from.contains(number)).count()
    }

    pub(super) fn apply(&mut self, flight: &Flight, from: usize, to: usize) {
        let Some(file) = self.files.get_mut(&flight.segment) else { return };
        file[flight.offset + from..flight.offset + to].copy_from_slice(&flight.bytes[from..to]);
    }

    pub(super) fn tear(&mut self, random: &mut Random, flight: &Flight) {
        for sector in 0..flight.bytes.len() / SECTOR {
            if random.below(2) == 0 {
                self.apply(flight, sector * SECTOR, (sector + 1) * SECTOR);
            }
        }
    }

    pub fn recover(&self, limits: &Limits, now: u64) -> Result<DurableQ, RecoveryError> {
        self.recover_by(limits, now, Recover::Strict).map(|(queue, _)| queue)
    }

    /// The same log, of which a reader reads all that is there: no group names a checkpoint.
    pub fn without_checkpoint(&self) -> Disk {
        let mut all = Disk { files: self.files.clone(), ..Disk::default() };
        for (segment, offset, header) in self.groups() {
            let file = all.files.get_mut(&segment).expect("there");
            GroupHeader { from: 0, ..header }.seal(&mut file[offset..]);
        }
        all
    }

    /// As [`Disk::recover`], with what was lost.
    pub fn recover_by(
        &self,
        limits: &Limits,
        now: u64,
        recover: Recover,
    ) -> Result<(DurableQ, Vec<Loss>), RecoveryError> {
        let mut recovery = Recovery::with(limits, recover);
        let mut buffer = FrameBuf::new();
        recovery.segments(self.files.iter().map(|(number, file)| (*number, file.len() as u64)));
        while let Some((number, offset)) = recovery.next_read() {
            let file = &self.files[&number];
            let end = (offset as usize + limits.group_bytes).min(file.len());
            buffer.clear();
            buffer.extend_from_slice(&file[offset as usize..end]);
            recovery.feed(&buffer)?;
        }
        let losses = recovery.losses().to_vec();
        Ok((recovery.finish(Instant(now), WallTime(now), KEY)?, losses))
    }

    /// Where groups of the log stand: segment, offset, header. Not those of earlier lives of a segment.
    pub fn groups(&self) -> Vec<(u64, usize, GroupHeader)> {
        let mut found = Vec::new();
        for (number, file) in &self.files {
            let mut bytes = FrameBuf::new();
            bytes.extend_from_slice(file);
            for entry in dump(&bytes) {
                if let Entry::Group { offset, header } = entry
                    && header.segment == *number
                {
                    found.push((*number, offset as usize, header));
                }
            }
        }
        found
    }
}
