//! RunQ: calls that were chosen and wait for a credit. Its length is the flow control of the scheduler.

use crate::rings::Levels;
use crate::words::CallRef;

/// The calls that run next: the most critical first, in order of their choice inside one level.
#[derive(Debug)]
pub struct RunQ {
    levels: Levels,
    len: usize,
    len_max: usize,
    /// How long it may become now: one call per slot of the cores, and at most `len_max`. A longer queue would
    /// commit to an order earlier than any core needs it.
    window: usize,
}

impl RunQ {
    /// An empty one for calls numbered below `calls_max`, which never grows beyond `len_max` and one call more for
    /// each level of criticality.
    pub fn new(calls_max: usize, len_max: usize) -> RunQ {
        RunQ { levels: Levels::new(calls_max), len: 0, len_max, window: 0 }
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
    pub fn push(&mut self, level: u8, call: CallRef) {
        assert!(self.admits(level), "the RunQ holds {} calls and is full", self.len);
        self.levels.push_back(level, call.0);
        self.len += 1;
    }

    /// A call leaves.
    pub fn remove(&mut self, level: u8, call: CallRef) {
        self.levels.remove(level, call.0);
        self.len -= 1;
    }

    /// The call to run next, and its level.
    pub fn best(&self) -> Option<(u8, CallRef)> {
        self.levels.best().map(|(level, call)| (level, CallRef(call)))
    }

    /// The level of the call to run next.
    pub fn highest(&self) -> Option<u8> {
        self.levels.highest()
    }

    /// How many calls are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The calls of a level: the one behind `after`, or the first.
    pub fn next(&self, level: u8, after: Option<CallRef>) -> Option<CallRef> {
        self.levels.next(level, after.map(|call| call.0)).map(CallRef)
    }

    /// Panics unless its length is what its levels hold, and within bounds.
    pub fn check(&self) {
        self.levels.check();
        let held: usize = (0..=u8::MAX).map(|level| self.levels.iter(level).count()).sum();
        assert_eq!(held, self.len, "calls in the RunQ");
        assert!(self.len <= self.len_max + usize::from(u8::MAX), "the RunQ holds {} calls", self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_run_q_takes_only_what_is_more_critical() {
        let mut run_q = RunQ::new(8, 100);
        run_q.set_slots(2);
        run_q.push(100, CallRef(0));
        run_q.push(50, CallRef(1));
        assert!(!run_q.admits(100));
        run_q.push(200, CallRef(2));
        assert!(!run_q.admits(200));
        assert_eq!(run_q.best(), Some((200, CallRef(2))));
        run_q.remove(200, CallRef(2));
        assert_eq!(run_q.best(), Some((100, CallRef(0))));
        run_q.check();
    }

    #[test]
    fn a_fuller_run_q_asks_for_less() {
        let mut run_q = RunQ::new(8, 4);
        run_q.set_slots(100);
        let mut asked = vec![run_q.throttled(1000)];
        for call in 0..4 {
            run_q.push(1, CallRef(call));
            asked.push(run_q.throttled(1000));
        }
        assert_eq!(asked, [1000, 750, 500, 250, 1]);
    }

    #[test]
    #[should_panic(expected = "is full")]
    fn canary_bound() {
        let mut run_q = RunQ::new(8, 1);
        run_q.set_slots(8);
        run_q.push(1, CallRef(0));
        run_q.push(1, CallRef(1));
    }
}
