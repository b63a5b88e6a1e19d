//! Going on past damage of the log, when an operator says so: what that takes, and what is lost.
//!
//! A reader that follows the chain of groups ends where it breaks, and refuses to go on if a later group proves that what
//! is missing was on disk. In salvage it goes on there. Groups behind a break are held until one of them proves it: a log
//! that ends with writes that a crash interrupted is read as always. Of a group whose checksum does not hold but whose
//! header can be read, the records are taken whose own checksums hold. What is lost is told, place by place.
//!
//! A strict start would refuse this log again, or forget what stands behind the break. So the queue copies everything to
//! its tail as soon as it runs, and the segments of before are removed ([`crate::DurableQ::is_rewriting`]).

use crate::log::{GROUP_HEADER_BYTES, GroupHeader, segment_name};
use crate::queue::DurableQ;
use crate::recovery::{RecoveryError, is_record};
use call::frame::flag::SEALED_BODY;
use call::frame::{FrameBuf, frame_bytes};
use call::{CallId, Frame, FrameError, Kind};
use std::fmt;

/// Whether recovery goes on past damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recover {
    /// Damage is an error, and nothing is changed.
    #[default]
    Strict,
    /// What is damaged is left out, and told.
    Salvage,
}

/// Groups behind a break that are held until one proves it. As many were in flight at once, and some more.
pub(crate) const HELD_MAX: usize = 64;
/// Lost records that are told one by one, of each break.
const LOST_MAX: usize = 1024;

/// A record that is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostRecord {
    /// The segment in which it stands.
    pub segment: u64,
    /// And where in it.
    pub offset: u64,
    /// How many bytes it has, by what its header says.
    pub bytes: usize,
    /// What its header says that it is.
    pub kind: Kind,
    /// The call that its header names; if that is what is damaged, another or none.
    pub call: CallId,
}

/// A break of the log, and what of it is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Segment and offset behind the last group before it.
    pub from: (u64, u64),
    /// Segment and offset of the group behind it that proves it. Some before that may be whole, too.
    pub to: (u64, u64),
    /// The first group that is missing or damaged.
    pub group: u64,
    /// How many of them there are.
    pub groups: u64,
    /// How many of these are damaged, so that their records could be looked at.
    pub damaged: u64,
    /// Records of damaged groups that hold by themselves and were taken.
    pub saved: u64,
    /// Records of damaged groups that are lost: the first of them.
    pub lost: Vec<LostRecord>,
    /// How many more there are.
    pub lost_more: u64,
    /// Bytes of damaged groups that could not be told apart into records.
    pub untold_bytes: u64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (segment_name(self.from.0), segment_name(self.to.0));
        write!(
            f,
            "the log is damaged between byte {} of {from} and byte {} of {to}: {} groups from {} on, {} of them partly \
             readable; {} of their records were saved, {} lost, {} bytes could not be told apart; \
             all records of the {} others are lost",
            self.from.1,
            self.to.1,
            self.groups,
            self.group,
            self.damaged,
            self.saved,
            self.lost.len() as u64 + self.lost_more,
            self.untold_bytes,
            self.groups.saturating_sub(self.damaged)
        )
    }
}

impl Loss {
    fn lose(&mut self, record: LostRecord) {
        if self.lost.len() < LOST_MAX { self.lost.push(record) } else { self.lost_more += 1 }
    }
}

/// A group behind a break, until it is known what became of those before it.
#[derive(Debug)]
pub(crate) struct Held {
    pub header: GroupHeader,
    /// Where it stands.
    pub segment: u64,
    pub offset: u64,
    /// All of it.
    pub bytes: FrameBuf,
    /// Its checksum holds.
    pub sound: bool,
}

impl Held {
    pub fn records(&self) -> &[u8] {
        &self.bytes[GROUP_HEADER_BYTES..]
    }

    /// Takes the records that hold by themselves, from this ordinal of a segment; notes the others.
    pub fn salvage(&self, queue: &mut DurableQ, ordinal: u32, loss: &mut Loss) -> Result<(), RecoveryError> {
        loss.damaged += 1;
        let records = self.records();
        let mut at = (self.header.continues as usize).min(records.len());
        loss.untold_bytes += at as u64;
        while at < records.len() {
            let rest = &records[at..];
            let offset = self.offset + (GROUP_HEADER_BYTES + at) as u64;
            match Frame::parse(rest) {
                Ok((frame, used)) if is_record(frame) => {
                    let place = (ordinal, (offset / call::limits::FRAME_ALIGN as u64) as u32);
                    // The checksum of an outcome is its own: without it, that the call has ended is still true.
                    let whole = frame.flags() & SEALED_BODY == 0 || frame.sealed().is_ok();
                    if queue.replay_salvaged(frame, place)? && whole {
                        loss.saved += 1;
                    } else {
                        loss.lose(self.lost(frame.kind(), frame.call(), offset, frame.bytes().len()));
                    }
                    at += used;
                }
                // Its length may be what is damaged; what follows shows that.
                Err(FrameError::Crc { .. }) if self.header_at(rest).is_some() => {
                    let (kind, call, bytes) = self.header_at(rest).expect("looked at");
                    loss.lose(self.lost(kind, call, offset, bytes));
                    at += bytes;
                }
                _ => {
                    // A client chose the bytes of a record: none is looked for inside another.
                    loss.untold_bytes += rest.len() as u64;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn lost(&self, kind: Kind, call: CallId, offset: u64, bytes: usize) -> LostRecord {
        LostRecord { segment: self.segment, offset, bytes, kind, call }
    }

    /// What a header says whose checksum does not hold: kind, call, and bytes with padding.
    fn header_at(&self, rest: &[u8]) -> Option<(Kind, CallId, usize)> {
        let whole = frame_bytes(rest).ok().flatten().filter(|whole| *whole <= rest.len())?;
        // Where the table of `call::frame` says.
        let call = u128::from_le_bytes(rest[16..32].try_into().expect("sixteen bytes"));
        Some((Kind::from_wire(rest[5])?, CallId(call), whole))
    }
}
