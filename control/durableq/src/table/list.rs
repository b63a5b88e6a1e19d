//! Lists that run through the table of calls.

use super::calls::{Calls, NONE};
use crate::words::CallRef;

/// The two lists in which a call can be.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    /// In no list.
    pub const NONE: Link = Link { prev: NONE, next: NONE };

    /// In no list: its place in another structure instead.
    pub const fn of_timer(index: u32) -> Link {
        Link { prev: index, next: IN_TIMERS }
    }

    /// That place.
    pub fn timer(self) -> Option<u32> {
        (self.next == IN_TIMERS).then_some(self.prev)
    }
}

/// In the place of a neighbour's number: no list holds the call, see [`Link::of_timer`].
const IN_TIMERS: u32 = NONE - 1;

/// [`List`] of calls in one [`super::calls::Place`].
pub const BY_PLACE: usize = 0;
/// [`List`] of calls whose submit record is in one segment.
pub const BY_SEGMENT: usize = 1;

/// The first and the last call of a list, by one of the two links of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends<const BY: usize> {
    /// The first call; [`NONE`] if there is none.
    pub head: u32,
    /// The last one.
    pub tail: u32,
}

impl<const BY: usize> Ends<BY> {
    /// Without calls.
    pub const EMPTY: Ends<BY> = Ends { head: NONE, tail: NONE };

    /// The first call.
    pub fn front(&self) -> Option<CallRef> {
        (self.head != NONE).then_some(CallRef(self.head))
    }

    /// Adds a call before `next`, at the end if that is [`NONE`].
    pub fn insert_before(&mut self, calls: &mut Calls, next: u32, at: CallRef) {
        let prev = if next == NONE { self.tail } else { calls[CallRef(next)].links[BY].prev };
        calls[at].links[BY] = Link { prev, next };
        match prev {
            NONE => self.head = at.0,
            prev => calls[CallRef(prev)].links[BY].next = at.0,
        }
        match next {
            NONE => self.tail = at.0,
            next => calls[CallRef(next)].links[BY].prev = at.0,
        }
    }

    /// Takes a call of this list out.
    pub fn remove(&mut self, calls: &mut Calls, at: CallRef) {
        let Link { prev, next } = std::mem::replace(&mut calls[at].links[BY], Link::NONE);
        match prev {
            NONE => self.head = next,
            prev => calls[CallRef(prev)].links[BY].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => calls[CallRef(next)].links[BY].prev = prev,
        }
    }

    /// The call behind one of this list.
    pub fn after(&self, calls: &Calls, at: CallRef) -> Option<CallRef> {
        let next = calls[at].links[BY].next;
        (next != NONE).then_some(CallRef(next))
    }

    /// The calls, from the first to the last.
    pub fn iter<'a>(&self, calls: &'a Calls) -> impl Iterator<Item = CallRef> + 'a {
        std::iter::successors(self.front(), |at| {
            let next = calls[*at].links[BY].next;
            (next != NONE).then_some(CallRef(next))
        })
    }
}

/// A list through the table that knows how long it is. The list does not own the calls.
#[derive(Clone, Copy, Debug)]
pub struct List<const BY: usize> {
    ends: Ends<BY>,
    /// How many calls are in it.
    pub len: u32,
}

impl<const BY: usize> List<BY> {
    /// Without calls.
    pub const EMPTY: List<BY> = List { ends: Ends::EMPTY, len: 0 };

    /// The first call.
    pub fn front(&self) -> Option<CallRef> {
        self.ends.front()
    }

    /// Adds a call at the end.
    pub fn push_back(&mut self, calls: &mut Calls, at: CallRef) {
        self.insert_before(calls, NONE, at);
    }

    /// Adds a call before `next`, at the end if that is [`NONE`].
    pub fn insert_before(&mut self, calls: &mut Calls, next: u32, at: CallRef) {
        self.ends.insert_before(calls, next, at);
        self.len += 1;
    }

    /// Takes a call of this list out.
    pub fn remove(&mut self, calls: &mut Calls, at: CallRef) {
        self.ends.remove(calls, at);
        self.len -= 1;
    }

    /// The call behind one of this list.
    pub fn after(&self, calls: &Calls, at: CallRef) -> Option<CallRef> {
        self.ends.after(calls, at)
    }

    /// The calls, from the first to the last.
    pub fn iter<'a>(&self, calls: &'a Calls) -> impl Iterator<Item = CallRef> + 'a {
        self.ends.iter(calls)
    }
}
