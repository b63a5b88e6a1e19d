//! Ends that are remembered for a set time: for idempotency keys, and for who asks for an outcome later.
//!
//! They are kept apart from those that are remembered while there is room, so that a function that ends a million calls
//! does not push out another's keys. A segment of the log stays while it holds the record of such an end; when the log
//! is longer than what is pending justifies, the records in its oldest segment are copied to its tail.

use super::DurableQ;
use crate::log::writer::Placed;
use crate::table::calls::{NONE, flag};
use crate::table::ended::Ended;
use crate::words::{Blocks, CallRef};
use call::frame::flag::SEALED_BODY;
use call::limits::HEADER_BYTES;
use call::{CallId, Header, Kind};

/// Ends that one round looks at for records to copy: some microseconds.
const LOOKED_MAX: usize = 256;

impl DurableQ {
    /// Until when the end of a call is remembered at least, if it ends now; 0 for no set time.
    pub(super) fn retained_until(&self, at: CallRef) -> u64 {
        let call = &self.calls[at];
        let rules = &self.functions[call.function()].rules;
        let outcome = self.calls.progress(at).outcome.bytes() as u64;
        let window = if call.is(flag::KEYED) { rules.window_ns } else { 0 };
        let outcome = if outcome <= rules.retain_bytes { rules.retain_ns } else { 0 };
        let time = window.max(outcome);
        if time == 0 { 0 } else { self.wall.0.saturating_add(time) }
    }

    /// The end of a call, if it is remembered.
    pub(super) fn end_of(&self, call: CallId) -> Option<&Ended> {
        self.retained.find(call).or_else(|| self.ended.find(call))
    }

    /// Whether the time is over for which an end was to be remembered, and whoever wanted to know has heard of it.
    pub(super) fn is_past(&self, ended: &Ended) -> bool {
        ended.until != 0 && ended.until <= self.wall.0 && ended.group <= self.told()
    }

    /// Forgets an end, because the id is accepted anew.
    pub(super) fn forget_end(&mut self, call: CallId) {
        self.ended.forget(&mut self.store, call);
        if let Some(segment) = self.retained.forget(&mut self.store, call) {
            self.log.segments.unpin_end(segment, 0);
        }
    }

    /// Remembers an end, whose record begins in this segment.
    pub(super) fn remember_end(&mut self, ended: Ended, segment: u32) {
        if ended.until == 0 {
            self.ended.push(&mut self.store, ended);
            return;
        }
        self.log.segments.pin_end(segment);
        let Some(forgotten) = self.retained.push(&mut self.store, Ended { segment, ..ended }) else { return };
        if forgotten.segment != NONE {
            self.counters.forgotten_early += u64::from(forgotten.until > self.wall.0);
            self.log.segments.unpin_end(forgotten.segment, 0);
        }
    }

    /// Copies records of ends out of the oldest segment, while the log has more than `allowed` of them.
    pub(super) fn relocate_ends(&mut self, blocks: &mut impl Blocks, allowed: u64) {
        for _ in 0..LOOKED_MAX {
            let Some(oldest) = self.log.segments.oldest_of_ends() else { return };
            if self.log.segments.length() as u64 <= allowed {
                return;
            }
            let Some(ended) = self.retained.sweep() else { return };
            if ended.segment != oldest {
                continue;
            }
            if ended.until <= self.wall.0 {
                ended.segment = NONE;
                self.log.segments.unpin_end(oldest, 0);
                continue;
            }
            let copied = *ended;
            let retain_bytes = self.functions[copied.function].rules.retain_bytes;
            if copied.outcome.bytes() as u64 > retain_bytes && copied.group <= self.told() {
                self.retained.drop_swept_outcome(&mut self.store);
                continue;
            }
            let Some(placed) = self.copy_end(blocks, &copied) else { return };
            self.retained.swept_to(placed.place.0);
            self.log.segments.unpin_end(oldest, placed.group);
            self.log.segments.pin_end(placed.place.0);
            self.counters.relocated += 1;
        }
    }

    /// Appends the record of an end once more; `None` if there is no room.
    pub(super) fn copy_end(&mut self, blocks: &mut impl Blocks, ended: &Ended) -> Option<Placed> {
        let body = if ended.outcome.is_some() { self.store.get(ended.outcome) } else { &[] };
        if !self.log.has_room(HEADER_BYTES + body.len()) {
            return None;
        }
        let header = Header {
            flags: if body.is_empty() { 0 } else { SEALED_BODY },
            call: ended.id,
            function: self.functions[ended.function].id,
            deadline: ended.until,
            level: ended.status as u8,
            attempt: ended.deliveries,
            ..Header::new(Kind::Done)
        };
        Some(self.log.append(blocks, &header.encode(body), body))
    }
}
