//! Rings of calls: the RunQ's levels, and the calls of each core. They are linked through the calls themselves, whose
//! numbers of FuncBuffers are free while they stand here; the heads stand behind the calls in the same array.

use crate::func_buffer::Calls;
use crate::words::CallRef;

impl Calls {
    fn head(&self, ring: usize) -> u32 {
        let head = self.calls_max + ring;
        debug_assert!(head < self.entries.len(), "no ring {ring}");
        head as u32
    }

    /// Whether the ring has no calls.
    pub fn is_empty(&self, ring: usize) -> bool {
        self.front(ring).is_none()
    }

    /// The call that was longest in the ring.
    pub fn front(&self, ring: usize) -> Option<CallRef> {
        self.after(ring, CallRef(self.head(ring)))
    }

    /// The call behind `call` in its ring.
    pub fn after(&self, ring: usize, call: CallRef) -> Option<CallRef> {
        let next = self.entries[call.0 as usize].right;
        (next != self.head(ring)).then_some(CallRef(next))
    }

    /// Puts a call that stands nowhere at the end of a ring.
    pub fn push_back(&mut self, ring: usize, call: CallRef) {
        let head = self.head(ring);
        let last = self.entries[head as usize].left;
        self.join(last, call.0);
        self.join(call.0, head);
    }

    /// Takes a call out of the ring in which it is.
    pub fn unlink(&mut self, call: CallRef) {
        let entry = &self.entries[call.0 as usize];
        let (prev, next) = (entry.left, entry.right);
        self.join(prev, next);
    }

    /// Moves all calls of one ring behind those of another.
    pub fn append(&mut self, from: usize, to: usize) {
        if self.is_empty(from) {
            return;
        }
        let (from, to) = (self.head(from), self.head(to));
        let entry = &self.entries[from as usize];
        let (first, last) = (entry.right, entry.left);
        self.join(self.entries[to as usize].left, first);
        self.join(last, to);
        self.join(from, from);
    }

    fn join(&mut self, left: u32, right: u32) {
        self.entries[left as usize].right = right;
        self.entries[right as usize].left = left;
    }

    /// The calls of a ring in their order.
    pub fn ring(&self, ring: usize) -> impl Iterator<Item = CallRef> {
        std::iter::successors(self.front(ring), move |&call| self.after(ring, call))
    }

    /// Panics unless each call of a ring is linked both ways.
    pub fn check_ring(&self, ring: usize) {
        let mut before = self.head(ring);
        for call in self.ring(ring) {
            assert_eq!(self.entries[call.0 as usize].left, before, "the call before {call:?}");
            before = call.0;
        }
        assert_eq!(self.entries[self.head(ring) as usize].left, before, "the end of ring {ring}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rings_are_lists(steps in proptest::collection::vec((0..3u8, 0..8u32, 0..3usize, 0..3usize), 0..200)) {
            let (mut calls, mut lists) = (Calls::new(8, 3), vec![Vec::new(); 3]);
            for (what, call, ring, other) in steps {
                let call = CallRef(call);
                let linked = lists.iter().any(|list| list.contains(&call));
                match what {
                    0 if !linked => {
                        calls.push_back(ring, call);
                        lists[ring].push(call);
                    }
                    1 if linked => {
                        calls.unlink(call);
                        lists.iter_mut().for_each(|list| list.retain(|&at| at != call));
                    }
                    2 if ring != other => {
                        calls.append(ring, other);
                        let moved = std::mem::take(&mut lists[ring]);
                        lists[other].extend(moved);
                    }
                    _ => {}
                }
                for (ring, list) in lists.iter().enumerate() {
                    calls.check_ring(ring);
                    prop_assert!(calls.ring(ring).eq(list.iter().copied()));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "the call before CallRef(1)")]
    fn canary_linked_one_way() {
        let mut calls = Calls::new(2, 1);
        calls.push_back(0, CallRef(0));
        calls.push_back(0, CallRef(1));
        calls.entries[1].left = 1;
        calls.check_ring(0);
    }
}
