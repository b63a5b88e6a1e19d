//! Warm instances that wait for their next call: bounded, the least recently used goes first.

use super::Seat;
use call::FunctionId;

/// A place in [`Warm`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(u32);

const NONE: u32 = u32::MAX;

struct Node {
    seat: Option<Seat>,
    function: FunctionId,
    /// When it came, in sweeps.
    since: u32,
    /// Towards the most recently used; of a free node, the next free one.
    newer: u32,
    /// Towards the least recently used.
    older: u32,
}

/// The instances, in a list by age. All memory is taken in `new`.
pub struct Warm {
    nodes: Vec<Node>,
    free: u32,
    newest: u32,
    oldest: u32,
}

impl Warm {
    /// Room for this many.
    pub fn new(most: u32) -> Warm {
        let node = |n: u32| Node {
            seat: None,
            function: FunctionId(0),
            since: 0,
            newer: if n + 1 < most { n + 1 } else { NONE },
            older: NONE,
        };
        Warm {
            nodes: (0..most).map(node).collect(),
            free: if most > 0 { 0 } else { NONE },
            newest: NONE,
            oldest: NONE,
        }
    }

    /// Whether every place is taken.
    pub fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Keeps an instance.
    ///
    /// # Panics
    /// If there is no room: drop the oldest first.
    pub fn put(&mut self, function: FunctionId, seat: Seat, now: u32) -> Place {
        assert!(!self.is_full(), "no place for a warm instance");
        let at = self.free;
        let newest = self.newest;
        let node = &mut self.nodes[at as usize];
        self.free = node.newer;
        *node = Node { seat: Some(seat), function, since: now, newer: NONE, older: newest };
        match newest {
            NONE => self.oldest = at,
            newest => self.nodes[newest as usize].newer = at,
        }
        self.newest = at;
        Place(at)
    }

    /// Takes an instance out.
    ///
    /// # Panics
    /// If none is there.
    pub fn take(&mut self, place: Place) -> Seat {
        let node = &mut self.nodes[place.0 as usize];
        let seat = node.seat.take().expect("a warm instance is at its place");
        let (newer, older) = (node.newer, node.older);
        node.newer = self.free;
        self.free = place.0;
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        seat
    }

    /// The least recently used: whose it is, where, and since when.
    pub fn oldest(&self) -> Option<(FunctionId, Place, u32)> {
        let node = self.nodes.get(self.oldest as usize)?;
        Some((node.function, Place(self.oldest), node.since))
    }
}
