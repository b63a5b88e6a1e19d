//! Calls whose start, or next try, is ahead: by the second, and by the nanosecond what is near.
//!
//! A call that starts in some time takes no memory here: it is in the list of its second, through its own entry. The
//! calls of the running second and the next are in a heap, which has them in their exact order. A second's calls move
//! there some thousands at a time during the second before, so that an hour that begins with a million calls holds up
//! nobody.

use super::calls::{Calls, NONE};
use super::list::{BY_PLACE, Ends};
use super::timers::{OF_STARTS, Timers};
use crate::words::CallRef;

const SECOND: u64 = 1_000_000_000;
/// Seconds that have lists: twelve days, and a start time may be a week ahead. What is further goes into the heap.
const SECONDS: usize = 1 << 20;
/// Calls that come near in one go: some hundred microseconds.
const STEP: usize = 4096;

const _: () = assert!(call::limits::START_AHEAD_MAX.as_secs() < SECONDS as u64);

/// See the module.
#[derive(Debug)]
pub struct Starts {
    near: Timers<OF_STARTS>,
    /// First and last call of each second, each plus one: zero where there is none, so that what is not used is never
    /// touched. A second is at its number modulo [`SECONDS`].
    lists: Vec<u64>,
    /// A bit for each list with calls.
    used: Vec<u64>,
    /// Calls in lists.
    len: usize,
    /// All seconds before this one are in the heap.
    second: u64,
    /// No list before this second has calls; a bound, it may have none either.
    next: u64,
}

impl Starts {
    /// Room for all calls.
    pub fn new(calls_max: usize) -> Starts {
        let (lists, used) = (vec![0; SECONDS], vec![0; SECONDS / 64]);
        Starts { near: Timers::new(calls_max), lists, used, len: 0, second: 0, next: 0 }
    }

    /// The time begins here: what is put in from now on is put into lists. There must be none yet.
    pub fn begin(&mut self, wall: u64) {
        assert_eq!(self.len, 0, "lists are of seconds to come");
        self.second = wall / SECOND;
        self.next = self.second;
    }

    /// When there is something to do: a call is due, or a second comes near.
    pub fn first(&self) -> Option<u64> {
        let near = self.near.first();
        if self.len == 0 {
            return near;
        }
        let second = self.next.saturating_sub(1).saturating_mul(SECOND);
        Some(near.map_or(second, |near| near.min(second)))
    }

    /// Adds a call by its `when` and turn.
    pub fn insert(&mut self, calls: &mut Calls, at: CallRef) {
        let second = calls[at].when() / SECOND;
        if second < self.second || second - self.second >= SECONDS as u64 {
            return self.near.insert(calls, at, calls[at].when());
        }
        let mut list = self.list(second);
        list.insert_before(calls, NONE, at);
        self.set_list(second, list);
        self.next = if self.len == 0 { second } else { self.next.min(second) };
        self.len += 1;
    }

    /// Takes a call out.
    pub fn remove(&mut self, calls: &mut Calls, at: CallRef) {
        if Timers::<OF_STARTS>::entry_of(calls, at).is_some() {
            return self.near.remove(calls, at);
        }
        let second = calls[at].when() / SECOND;
        let mut list = self.list(second);
        list.remove(calls, at);
        self.set_list(second, list);
        self.len -= 1;
    }

    /// It is `wall` now: what starts in this second or the next comes near, all of the former and some of the latter.
    pub fn advance(&mut self, calls: &mut Calls, wall: u64) {
        let now = wall / SECOND;
        let mut left = STEP;
        while self.len > 0 {
            self.next = self.first_used(self.next.max(self.second));
            // The time may have stood still, or gone back.
            if self.next > now + 1 {
                break;
            }
            self.second = self.next;
            let late = self.second <= now;
            if !late && left == 0 {
                return;
            }
            let moved = self.move_near(calls, if late { usize::MAX } else { left });
            left = left.saturating_sub(moved);
        }
        self.second = self.second.max(now + 2);
    }

    /// Moves calls of the first second into the heap, at most so many.
    fn move_near(&mut self, calls: &mut Calls, most: usize) -> usize {
        let mut list = self.list(self.second);
        let mut moved = 0;
        while moved < most
            && let Some(at) = list.front()
        {
            list.remove(calls, at);
            self.near.insert(calls, at, calls[at].when());
            moved += 1;
        }
        self.set_list(self.second, list);
        self.len -= moved;
        moved
    }

    /// Takes the first call out if it is due at `until`.
    pub fn pop(&mut self, calls: &mut Calls, until: u64) -> Option<CallRef> {
        self.near.pop(calls, until)
    }

    /// The calls, in no order.
    pub fn iter<'a>(&'a self, calls: &'a Calls) -> impl Iterator<Item = CallRef> + 'a {
        let (mut second, mut next, list) = (self.next.max(self.second), None, Ends::<BY_PLACE>::EMPTY);
        let listed = (0..self.len).map(move |_| {
            let at: CallRef = next.unwrap_or_else(|| {
                second = self.first_used(second) + 1;
                self.list(second - 1).front().expect("its bit is set")
            });
            next = list.after(calls, at);
            at
        });
        self.near.iter().chain(listed)
    }

    /// The first second from this one on that has calls. There is one.
    fn first_used(&self, from: u64) -> u64 {
        let slot = from as usize % SECONDS;
        let (word, bit) = (slot / 64, slot % 64);
        let here = self.used[word] >> bit;
        if here != 0 {
            return from + u64::from(here.trailing_zeros());
        }
        let words = self.used.len();
        let ahead =
            (1..=words).find(|ahead| self.used[(word + ahead) % words] != 0).expect("a list has calls");
        let first = self.used[(word + ahead) % words].trailing_zeros();
        from - bit as u64 + 64 * ahead as u64 + u64::from(first)
    }

    fn list(&self, second: u64) -> Ends<BY_PLACE> {
        let word = self.lists[second as usize % SECONDS];
        Ends { head: (word as u32).wrapping_sub(1), tail: ((word >> 32) as u32).wrapping_sub(1) }
    }

    fn set_list(&mut self, second: u64, list: Ends<BY_PLACE>) {
        let slot = second as usize % SECONDS;
        self.lists[slot] = u64::from(list.head.wrapping_add(1)) | u64::from(list.tail.wrapping_add(1)) << 32;
        let bit = 1 << (slot % 64);
        if list == Ends::EMPTY { self.used[slot / 64] &= !bit } else { self.used[slot / 64] |= bit }
    }

    /// Each call is in the list of its second, and those that are not are in the heap.
    pub fn check(&self, calls: &Calls) {
        self.near.check(calls, |at, when| calls[at].when() == when);
        let mut listed = 0;
        for at in self.iter(calls).filter(|at| Timers::<OF_STARTS>::entry_of(calls, *at).is_none()) {
            let second = calls[at].when() / SECOND;
            let here = self.list(second);
            let mut list = std::iter::successors(here.front(), |at| here.after(calls, *at));
            assert!(list.any(|other| other == at), "{} is in the list of its second", calls[at].id);
            assert!(second >= self.second && second >= self.next, "a second that has come: {second}");
            listed += 1;
        }
        assert_eq!(listed, self.len, "calls in lists");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::calls::Call;
    use crate::words::FunctionRef;
    use call::CallId;
    use proptest::prelude::*;

    /// Times that are near, equal, some seconds or some days apart, and beyond all lists.
    fn time() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => 0u64..20,
            3 => (0u64..6).prop_map(|s| s * SECOND + 7),
            2 => 0u64..6 * SECOND,
            1 => (0u64..7 * 24 * 3600).prop_map(|s| s * SECOND),
            1 => (0u64..3).prop_map(|n| (SECONDS as u64 - 1 + n) * SECOND),
        ]
    }

    proptest! {
        #[test]
        fn calls_come_out_in_order(
            times in prop::collection::vec(time(), 1..60),
            gone in prop::collection::vec(any::<bool>(), 60),
            steps in prop::collection::vec(time(), 1..8),
            begin in time(),
        ) {
            let mut calls = Calls::new(64, 1);
            let mut starts = Starts::new(64);
            starts.begin(begin);
            let mut left = Vec::new();
            for (turn, when) in times.iter().enumerate() {
                let call = Call::new(CallId(turn as u128), FunctionRef(0), 0).starting(*when, turn as u64, 0);
                let at = calls.insert(call);
                starts.insert(&mut calls, at);
                starts.check(&calls);
            }
            for (turn, when) in times.iter().enumerate() {
                if gone[turn] {
                    starts.remove(&mut calls, CallRef(turn as u32));
                    starts.check(&calls);
                } else {
                    left.push((*when, turn as u32));
                }
            }
            left.sort();
            // Now and then the time goes back.
            for now in steps {
                starts.advance(&mut calls, now);
                let mut out = Vec::new();
                while let Some(at) = starts.pop(&mut calls, now) {
                    out.push((calls[at].when(), at.0));
                    starts.check(&calls);
                }
                let due: Vec<(u64, u32)> = left.iter().copied().filter(|(when, _)| *when <= now).collect();
                prop_assert_eq!(out, due);
                left.retain(|(when, _)| *when > now);
                let first = left.first().map(|(when, _)| *when);
                prop_assert!(starts.first().is_some() == first.is_some());
                prop_assert!(starts.first() <= first, "woken in time");
                starts.check(&calls);
            }
        }
    }

    #[test]
    fn a_second_with_many_calls_comes_near_in_steps() {
        let mut calls = Calls::new(3 * STEP, 1);
        let mut starts = Starts::new(3 * STEP);
        starts.begin(0);
        for turn in 0..3 * STEP as u64 {
            let call = Call::new(CallId(u128::from(turn)), FunctionRef(0), 0).starting(5 * SECOND, turn, 0);
            let at = calls.insert(call);
            starts.insert(&mut calls, at);
        }
        assert_eq!(starts.first(), Some(4 * SECOND));
        for left in [3, 2, 1] {
            assert_eq!(starts.len, left * STEP);
            starts.advance(&mut calls, 4 * SECOND);
            assert_eq!(starts.pop(&mut calls, 4 * SECOND), None);
        }
        assert_eq!((starts.len, starts.first()), (0, Some(5 * SECOND)));
        let order: Vec<u32> =
            std::iter::from_fn(|| starts.pop(&mut calls, 5 * SECOND)).map(|at| at.0).collect();
        assert!(order.len() == 3 * STEP && order.is_sorted());
    }

    #[test]
    #[should_panic(expected = "is in the list of its second")]
    fn canary_a_call_in_the_list_of_another_second() {
        let mut calls = Calls::new(4, 1);
        let mut starts = Starts::new(4);
        starts.begin(0);
        let at = calls.insert(Call::new(CallId(1), FunctionRef(0), 0).starting(9 * SECOND, 1, 0));
        starts.insert(&mut calls, at);
        let list = starts.list(9);
        starts.set_list(9, Ends::EMPTY);
        starts.set_list(10, list);
        starts.check(&calls);
    }
}
