//! What a reader does behind a break of the log, if it is to go on there.

use super::{Mode, Recovery, RecoveryError};
use crate::log::{GROUP_HEADER_BYTES, GroupHeader};
use crate::salvage::{HELD_MAX, Held, Loss};
use call::frame::FrameBuf;

impl Recovery {
    /// Whether a group may be one that was written behind the break.
    pub(super) fn is_ahead(&self, header: &GroupHeader) -> bool {
        header.incarnation > self.incarnation || header.sequence > self.last
    }

    /// Holds a group whose checksum does not hold, if its header says that it belongs here.
    pub(super) fn hold_damaged(&mut self, rest: &[u8], at: usize) {
        let Some(header) = GroupHeader::claimed(rest) else { return };
        let near = self.last == 0 || header.sequence <= self.last + HELD_MAX as u64;
        if self.is_of_here(&header)
            && header.incarnation >= self.incarnation
            && self.is_ahead(&header)
            && near
        {
            self.hold(&header, rest, self.at.offset + at as u64, false);
        }
    }

    pub(super) fn hold(&mut self, header: &GroupHeader, rest: &[u8], offset: u64, sound: bool) {
        if self.held.len() < HELD_MAX {
            let mut bytes = FrameBuf::new();
            bytes.extend_from_slice(&rest[..header.bytes as usize]);
            self.held.push(Held { header: *header, segment: self.at.number, offset, bytes, sound });
            self.doubtful = true;
        }
    }

    /// A group proves that those before it were on disk: what is left of them happens, and then it does.
    pub(super) fn go_on_at(
        &mut self,
        header: &GroupHeader,
        rest: &[u8],
        offset: u64,
    ) -> Result<(), RecoveryError> {
        let group = self.missing(header);
        let groups = header.sequence.saturating_sub(group);
        let mut loss = Loss {
            from: self.end,
            to: (self.at.number, offset),
            group,
            groups,
            damaged: 0,
            saved: 0,
            lost: Vec::new(),
            lost_more: 0,
            untold_bytes: self.cut.len() as u64,
        };
        // The rest of a record that was cut there is lost with it.
        self.cut.clear();
        let held = std::mem::take(&mut self.held);
        // Where this incarnation began: what an earlier one wrote from there on, no reader has followed.
        let of_it = held.iter().map(|held| &held.header).filter(|of| of.incarnation == header.incarnation);
        let began = of_it.map(|of| of.sequence).min().unwrap_or(header.sequence);
        let next =
            Held { header: *header, segment: self.at.number, offset, bytes: FrameBuf::new(), sound: true };
        for held in &held {
            let of = &held.header;
            let ours = of.incarnation == header.incarnation && of.sequence < header.sequence;
            let earlier = of.incarnation < header.incarnation && of.sequence < began;
            if held.sound && (ours || earlier) && of.sequence > self.last {
                loss.groups = loss.groups.saturating_sub(1);
                self.happen(held, held.records(), &mut loss)?;
            } else if !held.sound && (ours && of.sequence <= header.durable || earlier) {
                // It was on disk, so what is damaged in it is no torn write with older records behind it.
                let segments = &mut self.queue.log_mut().segments;
                let ordinal = segments.found_group(held.segment, held.header.sequence);
                held.salvage(&mut self.queue, ordinal, &mut loss)?;
            }
        }
        let records = &rest[GROUP_HEADER_BYTES..header.bytes as usize];
        self.happen(&next, records, &mut loss)?;
        self.mode = Mode::Following;
        self.losses.push(loss);
        Ok(())
    }

    /// A sound group behind a break.
    fn happen(&mut self, held: &Held, records: &[u8], loss: &mut Loss) -> Result<(), RecoveryError> {
        if self.last + 1 != held.header.sequence {
            self.cut.clear();
        }
        if self.is_sound(&held.header, records) {
            return self.apply(&held.header, records, (held.segment, held.offset));
        }
        loss.untold_bytes += records.len() as u64;
        Ok(())
    }
}
