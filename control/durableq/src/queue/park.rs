//! Frames leave memory when their calls wait, and come back from the disk before these run.
//!
//! A call whose start is far, that waits behind others while memory is short, or that is a dead letter, is *parked*: its
//! frame is on disk only, and the table knows where. When it is among the first due calls of its function, its frame is
//! read back ([`WINDOW`] calls ahead), several records by one read and several reads at once, so that the scheduler
//! finds it in memory. What is read is checked as it was when it came in; a frame that is damaged is read once more,
//! alone, and then its call is a dead letter, and told.

use super::DurableQ;
use crate::log::reader::Want;
use crate::table::calls::{CUT, Call, Place, flag};
use crate::table::store::Extent;
use crate::words::{Blocks, CallRef, Damage, FunctionRef};
use call::frame::flag as said;
use call::{CallId, Epoch, Frame, Kind, Status};

/// So many of the first due calls of a function are to have their frames in memory: a few milliseconds of what one core
/// runs, against a tenth of one that a read takes.
pub const WINDOW: u32 = 256;
/// As many while memory is short.
const WINDOW_MIN: usize = 4;
/// After so many polls the next frames are asked for.
const POLLS: u32 = 64;
/// A call whose start is nearer than this keeps its frame in memory, if that is not short: ns. Reading it back would
/// cost more than a second's worth of memory.
const NEAR_NS: u64 = 1_000_000_000;
/// Places of the table that are looked at in one go for calls to park.
const SWEPT: u32 = 4096;
/// Frames of the oldest segment that are read at once, to be copied to the tail of the log.
const RELOCATED_AT_ONCE: usize = 256;

/// The bits of a call that its submit frame says.
pub fn flags_of(submit: Frame<'_>) -> u16 {
    bits_of(submit.flags())
}

/// The bits of a call whose submit frame has these flags.
pub fn bits_of(flags: u16) -> u16 {
    let is = SAID.iter().filter(|(said, _)| flags & said != 0);
    is.fold(0, |bits, (_, is)| bits | is)
}

/// What stands in the place of a call's epoch until its first lease: its deadline, if it must begin by that.
pub fn epoch_of(submit: Frame<'_>) -> Epoch {
    Epoch(if submit.flags() & said::EXPIRES != 0 { submit.deadline().0 } else { 0 })
}

/// Bits of submit frames, and those of calls that say the same.
pub(super) const SAID: [(u16, u16); 4] = [
    (said::WANT_OUTCOME, flag::WANT),
    (said::ONCE, flag::ONCE),
    (said::EXPIRES, flag::EXPIRES),
    (said::KEYED, flag::KEYED),
];

impl DurableQ {
    /// Asks for the frame of a pending call or dead letter, for an operator. `true` if it is in memory, or never will be;
    /// `false` if it is on its way: ask again when a read has ended. A later change may park it again.
    pub fn fetch(&mut self, call: CallId) -> bool {
        let Some(at) = self.held(call) else { return true };
        if !self.calls[at].is_parked() || self.calls[at].is(flag::DAMAGED) {
            return true;
        }
        self.want_frame(at);
        false
    }

    /// The next frame that could not be read back; the node tells it, and asks until `None`.
    pub fn next_damage(&mut self) -> Option<Damage> {
        self.damages.pop_front()
    }

    /// A new call has this frame.
    pub(super) fn count_frame(&mut self, frame: Extent) {
        self.lengths += frame.length() as u64;
        self.resident += frame.bytes() as u64;
        self.counters.parked_now += u64::from(!frame.is_some());
    }

    /// A call does not need its frame any more, in memory or on disk.
    pub(super) fn free_frame(&mut self, at: CallRef) {
        self.calls[at].lower(flag::READING);
        let frame = self.calls.set_frame(at, Extent::NONE);
        self.lengths -= frame.length() as u64;
        self.resident -= frame.bytes() as u64;
        self.counters.parked_now -= u64::from(!frame.is_some() && frame.length() > 0);
        self.store.free(frame);
    }

    /// Bytes that the log must hold: frames of calls, histories, outcomes of dead letters, and those kept of ended calls,
    /// which are to be found after a restart.
    pub(super) fn live_bytes(&self) -> u64 {
        self.lengths + (self.store.bytes() + self.histories.bytes()) as u64 - self.resident
    }

    /// Leaves a call's frame on disk, where it stands whole.
    fn park(&mut self, at: CallRef) {
        let parked = Extent::parked(self.calls[at].length());
        let frame = self.calls.set_frame(at, parked);
        self.resident -= frame.bytes() as u64;
        self.counters.parked_now += 1;
        self.store.free(frame);
        self.calls.rest(at);
    }

    /// Parks a call whose record is on disk, if it will not run soon.
    pub(super) fn park_if_it_waits(&mut self, at: CallRef) {
        let call = &self.calls[at];
        if !call.is(flag::HERE) || call.offset == CUT {
            return;
        }
        let short = self.store.bytes() > self.store.bytes_max() / 2;
        let waits = match call.place() {
            Place::Scheduled => short || call.when() > self.wall.0.saturating_add(NEAR_NS),
            Place::Due => short && self.functions[call.function()].due.len > WINDOW_MIN as u32,
            Place::Dead => true,
            _ => false,
        };
        if waits {
            self.park(at);
        }
    }

    /// Parks a call, if it waits then, when its last record is on disk.
    pub(super) fn park_later(&mut self, at: CallRef) {
        let group = self.calls.progress(at).group;
        // As many as there are records that are not on disk; and one more stays in memory without harm.
        if self.calls[at].offset != CUT && self.parking.len() < self.parking.capacity() {
            self.parking.push_back((group, at));
        }
    }

    /// Groups are on disk.
    pub(super) fn park_written(&mut self) {
        let durable = self.log.durable();
        while let Some((group, at)) = self.parking.pop_front_if(|(group, _)| *group <= durable) {
            if self.calls.get(at).is_some() && self.calls.progress(at).group == group {
                self.park_if_it_waits(at);
            }
        }
    }

    /// The first due call of a function, if its frame is in memory.
    pub(super) fn first_here(&mut self, function: FunctionRef) -> Option<CallRef> {
        let first = self.functions[function].due.front()?;
        if self.calls[first].is(flag::HERE) {
            return Some(first);
        }
        self.functions.want(function);
        None
    }

    /// A call of a function was polled: others come nearer.
    pub(super) fn polled(&mut self, function: FunctionRef) {
        if self.counters.parked_now == 0 {
            return;
        }
        let of = &mut self.functions[function];
        of.polled = of.polled.wrapping_add(1);
        let first_parked = of.due.front().is_some_and(|at| self.calls[at].is_parked());
        if first_parked || (of.polled.is_multiple_of(POLLS) && of.due.len > 0) {
            self.functions.want(function);
        }
    }

    /// Asks for the frames of the first due calls of functions that want some, as far as there is memory.
    pub(super) fn read_ahead(&mut self) {
        let max = self.store.bytes_max();
        while self.functions.has_wanting() && self.reader.has_room() {
            if self.store.bytes() + self.reader.bytes() > max / 4 * 3 {
                self.sweep(max / 2);
            }
            let used = self.store.bytes() + self.reader.bytes();
            if used > max / 4 * 3 {
                return;
            }
            let window = if used > max / 2 { WINDOW_MIN } else { WINDOW as usize };
            let Some(function) = self.functions.next_wanting() else { return };
            let mut next = self.functions[function].due.front();
            for _ in 0..window {
                let Some(at) = next else { break };
                self.want_frame(at);
                next = self.functions[function].due.after(&self.calls, at);
            }
        }
    }

    /// Parks calls that wait, wherever they are in the table, but the first of each function: what stays in memory though
    /// it was not short then must not keep out those that may run now.
    fn sweep(&mut self, until: usize) {
        for _ in 0..SWEPT.min(self.calls.places()) {
            if self.store.bytes() <= until {
                return;
            }
            self.swept = (self.swept + 1) % self.calls.places();
            let at = CallRef(self.swept);
            let durable = self.log.durable();
            let rests = |call: &&Call| call.is(flag::HERE) && call.offset != CUT;
            let Some(call) = self.calls.get(at).filter(rests) else { continue };
            if self.calls.progress(at).group > durable {
                continue;
            }
            let first = self.functions[call.function()].due.front() == Some(at);
            if matches!(call.place(), Place::Scheduled | Place::Due | Place::Dead) && !first {
                self.park(at);
            }
        }
    }

    /// Asks for a frame that is parked and not asked for yet, if there is room.
    fn want_frame(&mut self, at: CallRef) {
        let call = &self.calls[at];
        if !call.is_parked() || call.is(flag::READING) {
            return;
        }
        if !self.reader.has_room() {
            // Its function comes again when it is polled, or when what is read for it now has come.
            return;
        }
        let (place, bytes) = (call.record(), call.length() as u32);
        self.calls[at].raise(flag::READING);
        self.reader.want(Want { place, bytes, alone: false, call: at });
    }

    /// Asks for frames of the oldest segment, so that they can be copied; ends what is damaged there.
    pub(super) fn fetch_oldest(&mut self, blocks: &mut impl Blocks) {
        let mut next = self.log.segments.oldest_pin();
        for _ in 0..RELOCATED_AT_ONCE {
            if self.store.bytes() + self.reader.bytes() > self.store.bytes_max() / 8 * 7 {
                return;
            }
            let Some(at) = next else { return };
            next = self.log.segments.oldest_pins().and_then(|pins| pins.after(&self.calls, at));
            let call = &self.calls[at];
            if call.is(flag::DAMAGED) && call.place() == Place::Dead {
                // Nothing is left to be copied. Its end is written, as that of other dead letters that are dropped.
                self.drop_dead(blocks, at);
            } else {
                self.want_frame(at);
            }
        }
    }

    /// A [`crate::LogOp::Read`] ended: so many bytes are in its block, or the errno.
    pub fn read(&mut self, blocks: &mut impl Blocks, read: u32, result: Result<usize, i32>) {
        let ended = self.reader.ended(read, &mut self.log.segments);
        for want in &ended.wants {
            let call = self.calls.get(want.call);
            let live = call.filter(|call| call.is(flag::READING) && call.record() == want.place);
            let of = |call: &Call| (call.id, call.function(), call.names_blob());
            let Some((id, function, names_blob)) = live.map(of) else { continue };
            self.calls[want.call].lower(flag::READING);
            let from = u64::from(want.place.1) * call::limits::FRAME_ALIGN as u64;
            let at = (from - ended.from) as usize;
            let found = result.map(|bytes| {
                let frame = blocks.block(ended.block)[..bytes].get(at..at + want.bytes as usize)?;
                let (frame, _) = Frame::parse(frame).ok()?;
                let is = frame.kind() == Kind::Submit
                    && frame.call() == id
                    && frame.bytes().len() == want.bytes as usize
                    && (frame.flags() & said::BLOB != 0) == names_blob;
                is.then(|| self.keep(frame.bytes()))
            });
            match found {
                Ok(Some(Some(extent))) => self.came_back(want.call, extent),
                // No memory: it is asked for again when there is some.
                Ok(Some(None)) => self.functions.want(function),
                Ok(None) | Err(_) if !want.alone => {
                    self.calls[want.call].raise(flag::READING);
                    self.reader.want(Want { alone: true, ..*want });
                }
                Ok(None) | Err(_) => {
                    let function = self.functions[function].id;
                    let (segment, offset, bytes) = (ended.segment, from, want.bytes as usize);
                    let errno = result.err();
                    self.damages.push_back(Damage { call: id, function, segment, offset, bytes, errno });
                    self.damaged(blocks, want.call);
                }
            }
        }
        self.reader.recycle(read, ended.wants);
    }

    fn came_back(&mut self, at: CallRef, extent: Extent) {
        self.counters.parked_now -= 1;
        self.counters.read_back += 1;
        self.resident += extent.bytes() as u64;
        self.calls.set_frame(at, extent);
        let call = &mut self.calls[at];
        call.lower(flag::DAMAGED);
        if call.place() == Place::Due {
            let function = call.function();
            self.functions.tell(function);
        } else {
            // For an operator, or to be copied: not for long.
            self.park_later(at);
        }
    }

    /// What a client wrote is lost: its call will not run.
    fn damaged(&mut self, blocks: &mut impl Blocks, at: CallRef) {
        self.counters.damaged += 1;
        self.calls[at].raise(flag::DAMAGED);
        self.bury(blocks, at, Status::Damaged);
    }
}
