//! RunQ: calls that were chosen and wait for a credit. Its length is the flow control of the scheduler.

use crate::func_buffer::{Calls, Place};
use crate::mask::{MASK_BITS, Mask};
use crate::words::CallRef;

/// Rings of [`Calls`] that the RunQ uses: the first ones, one for each level of criticality.
pub const RINGS: usize = MASK_BITS;

/// The calls that run next: the most critical first, in order of their choice inside one level.
#[derive(Debug)]
pub struct RunQ {
    /// Levels that have calls.
    occupied: Mask,
    len: usize,
    len_max: usize,
    /// How long it may become now: one call per slot of the cores, and at most `len_max`. A longer queue would
    /// commit to an order earlier than any core needs it.
    window: usize,
}

impl RunQ {
    /// An empty one, which never grows beyond `len_max` and one call more for each level of criticality.
    pub fn new(len_max: usize) -> RunQ {
        RunQ { occupied: Mask::EMPTY, len: 0, len_max, window: 0 }
    }

    /// The cores serve so many calls at once now.
    pub fn set_slots(&mut self, slots: u64) {
        self.window = self.len_max.min(usize::try_from(slots).unwrap_or(usize::MAX));
    }

    /// Whether a call of this level may come in: a full RunQ takes only what is more critical than all in it.
    pub fn admits(&self, level: u8) -> bool {
        self.len < self.window || self.highest() < Some(level)
    }

    /// `most`, made smaller by the share of the window that is taken: what a FuncBuffer should hold.
    pub fn throttled(&self, most: u32) -> u32 {
        let room = self.window.saturating_sub(self.len) as u64;
        let share = u64::from(most) * room / self.window.max(1) as u64;
        (share as u32).max(1)
    }

    /// A call comes in behind all others of its level.
    pub fn push(&mut self, calls: &mut Calls, level: u8, call: CallRef) {
        assert!(self.admits(level), "the RunQ holds {} calls and is full", self.len);
        calls.push_back(usize::from(level), call);
        self.occupied.set(usize::from(level), true);
        self.len += 1;
    }

    /// A call leaves.
    pub fn remove(&mut self, calls: &mut Calls, level: u8, call: CallRef) {
        assert_eq!(calls.place(call), Place::Queued, "{call:?} is not in the RunQ");
        calls.unlink(call);
        if calls.is_empty(usize::from(level)) {
            self.occupied.set(usize::from(level), false);
        }
        self.len -= 1;
    }

    /// The call to run next, and its level.
    pub fn best(&self, calls: &Calls) -> Option<(u8, CallRef)> {
        let level = self.highest()?;
        Some((level, calls.front(usize::from(level)).expect("an occupied level has calls")))
    }

    /// The level of the call to run next.
    pub fn highest(&self) -> Option<u8> {
        self.occupied.highest().map(|level| level as u8)
    }

    /// How many calls are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The calls of a level: the one behind `after`, or the first.
    pub fn next(&self, calls: &Calls, level: u8, after: Option<CallRef>) -> Option<CallRef> {
        match after {
            None => calls.front(usize::from(level)),
            Some(call) => calls.after(usize::from(level), call),
        }
    }

    /// Panics unless its length is what its levels hold, and within bounds.
    pub fn check(&self, calls: &Calls) {
        let mut held = 0;
        for level in 0..RINGS {
            calls.check_ring(level);
            assert_eq!(self.occupied.has(level), !calls.is_empty(level), "level {level}");
            for call in calls.ring(level) {
                assert_eq!(calls.place(call), Place::Queued, "{call:?} is in the RunQ");
                held += 1;
            }
        }
        assert_eq!(held, self.len, "calls in the RunQ");
        assert!(self.len <= self.len_max + usize::from(u8::MAX), "the RunQ holds {} calls", self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{FunctionRef, Marks};
    use call::WallTime;

    /// So many calls, all of them chosen.
    fn chosen(count: u32) -> Calls {
        let mut calls = Calls::new(count as usize, RINGS);
        let mut buffer = crate::func_buffer::FuncBuffer::EMPTY;
        for call in (0..count).map(CallRef) {
            calls.admit(call, FunctionRef(0), (1, WallTime(0)), Marks::default());
            calls.put(&mut buffer, call);
            calls.take(&mut buffer, Place::Queued);
        }
        calls
    }

    #[test]
    fn a_full_run_q_takes_only_what_is_more_critical() {
        let (mut run_q, mut calls) = (RunQ::new(100), chosen(3));
        run_q.set_slots(2);
        run_q.push(&mut calls, 100, CallRef(0));
        run_q.push(&mut calls, 50, CallRef(1));
        assert!(!run_q.admits(100));
        run_q.push(&mut calls, 200, CallRef(2));
        assert!(!run_q.admits(200));
        assert_eq!(run_q.best(&calls), Some((200, CallRef(2))));
        run_q.remove(&mut calls, 200, CallRef(2));
        assert_eq!(run_q.best(&calls), Some((100, CallRef(0))));
        run_q.check(&calls);
    }

    #[test]
    fn a_fuller_run_q_asks_for_less() {
        let (mut run_q, mut calls) = (RunQ::new(4), chosen(4));
        run_q.set_slots(100);
        let mut asked = vec![run_q.throttled(1000)];
        for call in (0..4).map(CallRef) {
            run_q.push(&mut calls, 1, call);
            asked.push(run_q.throttled(1000));
        }
        assert_eq!(asked, [1000, 750, 500, 250, 1]);
    }

    #[test]
    #[should_panic(expected = "is full")]
    fn canary_bound() {
        let (mut run_q, mut calls) = (RunQ::new(1), chosen(2));
        run_q.set_slots(8);
        run_q.push(&mut calls, 1, CallRef(0));
        run_q.push(&mut calls, 1, CallRef(1));
    }
}
