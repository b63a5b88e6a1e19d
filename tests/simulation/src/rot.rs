//! Bits of the node's log that turn over where they lie, and what the node says of it. The log is read here as a tool from
//! outside reads it, group by group; nothing of how the node recovers is known.
//!
//! What may rot is what the log itself proves to have been on disk: a group up to which some header says that all is there.
//! Of a last group that nothing behind it proves, nobody can tell whether it rotted or was torn (see [`durableq::log`]).

use crate::bug::Bug;
use call::frame::FrameBuf;
use call::limits::HEADER_BYTES;
use call::{CallId, Header, Kind};
use control::LogError;
use driver::sim::{Random, World};
use durableq::log::dump::{Entry, dump};
use durableq::log::{GROUP_HEADER_BYTES, GroupHeader, segment_number};
use durableq::{Loss, LostRecord, RecoveryError};
use std::collections::BTreeSet;

/// Groups that rot at once at most.
const GROUPS_MAX: usize = 3;

/// A byte of a group that rotted.
#[derive(Clone, Debug)]
struct Spot {
    /// The segment, and where in it the group begins.
    group: (u64, u64),
    /// Where the byte is in the segment, and what it is now.
    at: usize,
    is: u8,
    /// The records of the group, and parts of some: where they begin there, and of which calls they are.
    records: Vec<(u64, CallId)>,
}

/// A sound group of the log on disk.
struct Found {
    segment: u64,
    offset: usize,
    header: GroupHeader,
    /// Submit records: where they begin, their bytes, and their headers.
    submits: Vec<(usize, usize, Header)>,
    /// As [`Spot::records`].
    records: Vec<(u64, CallId)>,
}

/// See the module.
#[derive(Default, Debug)]
pub struct Rot {
    spots: Vec<Spot>,
    /// A strict start refused: the next one salvages.
    pub refused: bool,
    /// Bits that turned over, starts that refused, and calls of which a loss was told.
    pub bits: u64,
    pub refusals: u64,
    pub told: u64,
}

impl Rot {
    /// Turns over a bit in some groups of the log of a machine.
    pub fn strike(&mut self, world: &World, machine: &str, random: &mut Random, bug: Bug) {
        let mut groups = groups(world, machine);
        let newest = groups.iter().map(|group| group.header.incarnation).max().unwrap_or(0);
        let of_newest = groups.iter().filter(|group| group.header.incarnation == newest);
        let proved = of_newest.map(|group| group.header.durable).max().unwrap_or(0);
        groups.retain(|group| group.header.sequence <= proved);
        for _ in 0..1 + random.below(GROUPS_MAX as u64) {
            if groups.is_empty() {
                return;
            }
            let group = groups.swap_remove(random.index(groups.len()));
            self.turn_over(world, machine, random, bug, group);
        }
    }

    /// Turns over a bit of this group.
    fn turn_over(&mut self, world: &World, machine: &str, random: &mut Random, bug: Bug, group: Found) {
        // Records of submits are what is read back; and all else can rot, too.
        let submit = group.submits.get(random.index(group.submits.len() * 2));
        let (from, bytes) =
            submit.map_or((group.offset, group.header.bytes as usize), |(from, bytes, _)| (*from, *bytes));
        let forged = submit.filter(|_| bug == Bug::IgnoresChecksums);
        // With another header it would be another call.
        let skipped = if forged.is_some() { HEADER_BYTES } else { 0 };
        let at = from + skipped + random.index(bytes - skipped);
        let bit = 1 << random.below(8);
        let mut is = 0;
        world.disk(machine, |name, content| {
            if segment_number(name) != Some(group.segment) {
                return;
            }
            content[at] ^= bit;
            if let Some((_, _, header)) = forged {
                let (head, body) = content[from..from + bytes].split_at_mut(HEADER_BYTES);
                head.copy_from_slice(&header.encode(body));
                group.header.seal(&mut content[group.offset..]);
            }
            is = content[at];
        });
        world.note(&[12, group.segment, at as u64, u64::from(is)]);
        self.bits += 1;
        let place = (group.segment, group.offset as u64);
        self.spots.push(Spot { group: place, at, is, records: group.records });
    }

    /// Whether some of it is still on the disk of a machine.
    fn is_there(&self, world: &World, machine: &str) -> bool {
        let mut there = false;
        world.disk(machine, |name, content| {
            let number = segment_number(name);
            let is = |spot: &&Spot| Some(spot.group.0) == number && content.get(spot.at) == Some(&spot.is);
            there |= self.spots.iter().any(|spot| is(&spot));
        });
        there
    }

    /// A start of the node ended with this error. It is right to refuse a log that rotted if it says where.
    pub fn refused(&mut self, error: &LogError, world: &World, machine: &str) -> Result<(), String> {
        let LogError::Recovery(RecoveryError::Damaged { segment, offset, .. }) = error else {
            return Err(format!("recovery: {error}"));
        };
        if self.refused {
            return Err(format!("recovery: a start that salvages says: {error}"));
        }
        // It names the group that proves the damage.
        let before = self.spots.iter().any(|spot| spot.group <= (*segment, *offset));
        if !before || !self.is_there(world, machine) {
            return Err(format!("recovery: nothing rotted there, and it says: {error}"));
        }
        self.refusals += 1;
        self.refused = true;
        Ok(())
    }

    /// A start has salvaged the log and says that this is lost. The calls of which it is.
    pub fn salvaged(&mut self, losses: &[Loss]) -> BTreeSet<CallId> {
        self.refused = false;
        let records =
            self.spots.iter().flat_map(|spot| spot.records.iter().map(move |record| (spot, record)));
        let told =
            records.filter(|(spot, record)| losses.iter().any(|loss| tells(loss, spot.group, **record)));
        let calls: BTreeSet<CallId> = told.map(|(_, (_, call))| *call).collect();
        self.told += calls.len() as u64;
        calls
    }

    /// The node wrote a line. The call of which it says that a record is damaged, if one is.
    pub fn said(&mut self, line: &str) -> Option<CallId> {
        if line.contains("is written anew") {
            // What rotted before is not on the log any more: no start may stumble over it.
            self.spots.clear();
        }
        let mut calls = self.spots.iter().flat_map(|spot| &spot.records).map(|(_, call)| call);
        let call = calls.find(|call| line.contains("is damaged") && line.contains(&call.to_string()))?;
        self.told += 1;
        Some(*call)
    }
}

/// Whether a loss tells this record of the group at this place: by the place, since what names its call may be what
/// rotted; by the call, of which it may name another record; or the group as one of which not all can be told apart.
fn tells(loss: &Loss, group: (u64, u64), (at, call): (u64, CallId)) -> bool {
    let whole = loss.untold_bytes > 0 || loss.groups > loss.damaged;
    let is = |lost: &LostRecord| lost.call == call || (lost.segment, lost.offset) == (group.0, at);
    loss.lost.iter().any(is) || (loss.from <= group && group < loss.to && whole)
}

/// The sound groups of the log on a disk, in its order.
fn groups(world: &World, machine: &str) -> Vec<Found> {
    let mut segments = Vec::new();
    world.disk(machine, |name, content| {
        let mut bytes = FrameBuf::new();
        bytes.extend_from_slice(content);
        segments.extend(segment_number(name).map(|number| (number, bytes)));
    });
    segments.sort_unstable_by_key(|(number, _)| *number);
    let mut found: Vec<Found> = Vec::new();
    let mut cut = None;
    for (number, bytes) in &segments {
        let mut ours = false;
        for entry in dump(bytes) {
            if let Entry::Group { offset, header } = entry {
                ours = header.segment == *number;
                let (submits, records) = (Vec::new(), Vec::new());
                let group = Found { segment: *number, offset: offset as usize, header, submits, records };
                found.extend(ours.then_some(group));
                continue;
            }
            if ours {
                found.last_mut().expect("its group").holds(&entry, bytes, &mut cut);
            }
        }
    }
    found
}

impl Found {
    /// Notes an entry of this group; `cut` is the call whose record goes on in the next one.
    fn holds(&mut self, entry: &Entry<'_>, bytes: &[u8], cut: &mut Option<CallId>) {
        match entry {
            Entry::Record { offset, frame } => {
                self.records.push((*offset, frame.call()));
                if frame.kind() == Kind::Submit {
                    self.submits.push((*offset as usize, frame.bytes().len(), frame.header()));
                }
            }
            Entry::Part { offset, .. } => {
                let at = *offset as usize;
                if at > self.offset + GROUP_HEADER_BYTES || self.header.continues == 0 {
                    // It begins here, and its header does not lie in two groups.
                    let id = bytes[at + 16..at + 32].try_into().expect("sixteen bytes");
                    *cut = Some(CallId(u128::from_le_bytes(id)));
                }
                self.records.extend(cut.map(|call| (*offset, call)));
            }
            Entry::Group { .. } | Entry::Broken { .. } | Entry::NotARecord { .. } => {}
        }
    }
}
