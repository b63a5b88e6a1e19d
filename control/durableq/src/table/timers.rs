//! Calls by the time at which they will be due: a binary heap whose entries know their calls, and calls their entries.

use super::calls::{Calls, NONE};
use crate::words::CallRef;

/// The time, the order among equal times, and the call.
type Entry = (u64, u64, u32);

/// See the module.
#[derive(Debug)]
pub struct Timers {
    heap: Vec<Entry>,
}

impl Timers {
    /// Room for all calls.
    pub fn new(calls_max: usize) -> Timers {
        Timers { heap: Vec::with_capacity(calls_max) }
    }

    /// The earliest time.
    pub fn first(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.0)
    }

    /// The calls, in no order.
    pub fn iter(&self) -> impl Iterator<Item = CallRef> + '_ {
        self.heap.iter().map(|entry| CallRef(entry.2))
    }

    /// Adds a call by its `when` and `turn`.
    pub fn insert(&mut self, calls: &mut Calls, at: CallRef) {
        self.insert_at(calls, at, calls[at].when);
    }

    /// Adds a call by another time.
    pub fn insert_at(&mut self, calls: &mut Calls, at: CallRef, when: u64) {
        let entry = (when, calls[at].turn, at.0);
        self.heap.push(entry);
        self.rise(calls, self.heap.len() - 1, entry);
    }

    /// Takes the first call out if its time is `until` or before.
    pub fn pop(&mut self, calls: &mut Calls, until: u64) -> Option<CallRef> {
        let first = self.heap.first().filter(|entry| entry.0 <= until)?;
        let at = CallRef(first.2);
        self.remove(calls, at);
        Some(at)
    }

    /// Takes a call out.
    pub fn remove(&mut self, calls: &mut Calls, at: CallRef) {
        let hole = std::mem::replace(&mut calls[at].timer, NONE) as usize;
        let last = self.heap.pop().expect("the call is in it");
        if hole == self.heap.len() {
            return;
        }
        // The last entry takes the hole's place, and goes where it belongs from there.
        let hole = self.sink(calls, hole, last);
        self.rise(calls, hole, last);
    }

    fn rise(&mut self, calls: &mut Calls, mut at: usize, entry: Entry) {
        while at > 0 && entry < self.heap[(at - 1) / 2] {
            self.set(calls, at, self.heap[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        self.set(calls, at, entry);
    }

    fn sink(&mut self, calls: &mut Calls, mut at: usize, entry: Entry) -> usize {
        loop {
            let mut child = 2 * at + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1] < self.heap[child] {
                child += 1;
            }
            if child >= self.heap.len() || entry <= self.heap[child] {
                return at;
            }
            self.set(calls, at, self.heap[child]);
            at = child;
        }
    }

    fn set(&mut self, calls: &mut Calls, at: usize, entry: Entry) {
        self.heap[at] = entry;
        calls[CallRef(entry.2)].timer = at as u32;
    }

    /// Each entry is the one its call knows, of the time that is its, and not before its parent.
    pub fn check(&self, calls: &Calls, is: impl Fn(CallRef, u64) -> bool) {
        for (at, entry) in self.heap.iter().enumerate() {
            let call = &calls[CallRef(entry.2)];
            assert_eq!(
                (call.timer as usize, is(CallRef(entry.2), entry.0), call.turn),
                (at, true, entry.1),
                "timer of {}",
                call.id
            );
            assert!(at == 0 || self.heap[(at - 1) / 2] <= *entry, "heap order at {at}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::calls::Call;
    use crate::table::store::Extent;
    use crate::words::FunctionRef;
    use call::CallId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn calls_come_out_in_order(times in prop::collection::vec(0u64..20, 1..60), gone in prop::collection::vec(any::<bool>(), 60)) {
            let mut calls = Calls::new(64);
            let mut timers = Timers::new(64);
            let mut left = Vec::new();
            for (turn, when) in times.iter().enumerate() {
                let call = Call::new(CallId(turn as u128), FunctionRef(0), Extent::NONE);
                let at = calls.insert(Call { when: *when, turn: turn as u64, ..call });
                timers.insert(&mut calls, at);
                timers.check(&calls, |at, when| calls[at].when == when);
            }
            for (turn, when) in times.iter().enumerate() {
                if gone[turn] {
                    timers.remove(&mut calls, CallRef(turn as u32));
                    timers.check(&calls, |at, when| calls[at].when == when);
                } else {
                    left.push((*when, turn as u32));
                }
            }
            left.sort();
            let mut out = Vec::new();
            while let Some(at) = timers.pop(&mut calls, 10) {
                out.push((calls[at].when, at.0));
                timers.check(&calls, |at, when| calls[at].when == when);
            }
            left.retain(|(when, _)| *when <= 10);
            prop_assert_eq!(out, left);
        }
    }
}
