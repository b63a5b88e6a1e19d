//! Calls by a time: a binary heap whose entries know their calls, and calls their entries.

use super::calls::{Calls, NONE};
use super::list::{BY_PLACE, Link};
use crate::words::CallRef;

/// The time, the order among equal times, and the call.
type Entry = (u64, u64, u32);

/// [`Timers`] of calls that are in no list of their place: they know their entries by that link.
pub const OF_STARTS: usize = 0;
/// [`Timers`] of calls that are: these know their entries by their progress.
pub const OF_EXPIRIES: usize = 1;

/// See the module.
#[derive(Debug)]
pub struct Timers<const OF: usize> {
    heap: Vec<Entry>,
}

impl<const OF: usize> Timers<OF> {
    /// Room for all calls.
    pub fn new(calls_max: usize) -> Timers<OF> {
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

    /// Adds a call by a time, and by its turn.
    pub fn insert(&mut self, calls: &mut Calls, at: CallRef, when: u64) {
        let entry = (when, calls[at].turn(), at.0);
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

    /// The entry of a call, if it has one.
    pub fn entry_of(calls: &Calls, at: CallRef) -> Option<u32> {
        if OF == OF_STARTS {
            calls[at].links[BY_PLACE].timer()
        } else {
            Some(calls.progress(at).timer).filter(|timer| *timer != NONE)
        }
    }

    fn note(calls: &mut Calls, at: CallRef, entry: Option<u32>) {
        if OF == OF_STARTS {
            calls[at].links[BY_PLACE] = entry.map_or(Link::NONE, Link::of_timer);
        } else {
            calls.progress_mut(at).timer = entry.unwrap_or(NONE);
        }
    }

    /// Takes a call out.
    pub fn remove(&mut self, calls: &mut Calls, at: CallRef) {
        let hole = Self::entry_of(calls, at).expect("the call has an entry") as usize;
        Self::note(calls, at, None);
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
        Self::note(calls, CallRef(entry.2), Some(at as u32));
    }

    /// Each entry is the one its call knows, of the time that is its, and not before its parent.
    pub fn check(&self, calls: &Calls, is: impl Fn(CallRef, u64) -> bool) {
        for (at, entry) in self.heap.iter().enumerate() {
            let of = CallRef(entry.2);
            assert_eq!(
                (Self::entry_of(calls, of), is(of, entry.0), calls[of].turn()),
                (Some(at as u32), true, entry.1),
                "timer of {}",
                calls[of].id
            );
            assert!(at == 0 || self.heap[(at - 1) / 2] <= *entry, "heap order at {at}");
        }
    }
}
