//! Calls that ended not long ago: for duplicates, and with the outcome where the client wanted it.

use super::calls::NONE;
use super::ids::{Ids, hash};
use super::store::{Extent, Store};
use crate::words::FunctionRef;
use call::{CallId, Status};
use std::collections::VecDeque;

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its id.
    pub id: CallId,
    /// Its function.
    pub function: FunctionRef,
    /// How it ended: not well only for a dead letter that was dropped, and a call to be tried once.
    pub status: Status,
    /// Deliveries.
    pub deliveries: u16,
    /// The outcome frame, if it is kept.
    pub outcome: Extent,
    /// The group with the record of its end.
    pub group: u64,
    /// It is remembered until then at least, Unix ns; 0 for as long as nothing else needs the room.
    pub until: u64,
    /// Ordinal of the segment that holds the record, if that is kept for it; [`NONE`] if not.
    pub segment: u32,
}

/// The last `ended_max` of them, in the order of their ends. A call that ended before is forgotten: a duplicate of it
/// would run again.
#[derive(Debug)]
pub struct EndedCalls {
    ring: VecDeque<Ended>,
    /// The position of the front since the start: position `p` is in the ring at `p - first`.
    first: u32,
    ids: Ids,
    ended_max: usize,
    /// Positions before this one keep no outcome.
    kept_from: u32,
    /// Bytes of kept outcomes, and how many are kept at most.
    bytes: usize,
    bytes_max: usize,
    /// How far [`EndedCalls::sweep`] has come.
    swept: usize,
}

impl EndedCalls {
    /// Room for so many, with so many bytes of outcomes.
    pub fn new(ended_max: usize, bytes_max: usize) -> EndedCalls {
        let ended_max = ended_max.max(1);
        EndedCalls {
            ring: VecDeque::with_capacity(ended_max),
            first: 0,
            ids: Ids::new(ended_max),
            ended_max,
            kept_from: 0,
            bytes: 0,
            bytes_max,
            swept: 0,
        }
    }

    /// Goes round and round: the next of them.
    pub fn sweep(&mut self) -> Option<&mut Ended> {
        self.swept = if self.swept + 1 < self.ring.len() { self.swept + 1 } else { 0 };
        self.ring.get_mut(self.swept)
    }

    /// The record of the one that was swept last is in this segment now.
    pub fn swept_to(&mut self, segment: u32) {
        self.ring[self.swept].segment = segment;
    }

    /// Drops the outcome of the one that was swept last.
    pub fn drop_swept_outcome(&mut self, store: &mut Store) {
        let outcome = std::mem::replace(&mut self.ring[self.swept].outcome, Extent::NONE);
        self.drop_outcome(store, outcome);
    }

    /// All, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Ended> {
        self.ring.iter()
    }

    /// The end of a call, if it is remembered.
    pub fn find(&self, id: CallId) -> Option<&Ended> {
        let is = |at: u32| self.at(at).id == id;
        self.ids.find(hash(id.0), is).map(|at| self.at(at))
    }

    /// From the oldest to behind the latest; they wrap around.
    pub fn positions(&self) -> std::ops::Range<u32> {
        self.first..self.first.wrapping_add(self.ring.len() as u32)
    }

    /// The end at a position, unless it is forgotten.
    pub fn of(&self, position: u32) -> Option<&Ended> {
        let ended = self.ring.get(position.wrapping_sub(self.first) as usize)?;
        // An id that was accepted anew since then is another call's.
        self.ids.find(hash(ended.id.0), |at| at == position).map(|_| ended)
    }

    /// The record of the end at this position, which is remembered, is in this segment now.
    pub fn moved_to(&mut self, position: u32, segment: u32) {
        let index = position.wrapping_sub(self.first) as usize;
        self.ring[index].segment = segment;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Reads what finding this id will read first.
    pub fn glimpse(&self, id: CallId) -> u32 {
        self.ids.glimpse(hash(id.0))
    }

    /// Reads what forgetting will read first when `ends` more have come.
    pub fn glimpse_oldest(&self, ends: usize) -> u32 {
        let full = self.ring.len() + ends >= self.ended_max;
        self.ring.get(ends).filter(|_| full).map_or(0, |oldest| self.glimpse(oldest.id))
    }

    /// Remembers an end. The oldest one is forgotten, and given back, if there are too many.
    pub fn push(&mut self, store: &mut Store, ended: Ended) -> Option<Ended> {
        let mut forgotten = None;
        if self.ring.len() == self.ended_max {
            let oldest = self.ring.pop_front().expect("at least one");
            self.drop_outcome(store, oldest.outcome);
            // An id that was accepted anew since then has been taken out already.
            let first = self.first;
            self.ids.remove(hash(oldest.id.0), |at| at == first);
            self.first = self.first.wrapping_add(1);
            forgotten = Some(oldest);
        }
        let position = self.first.wrapping_add(self.ring.len() as u32);
        self.bytes += ended.outcome.bytes();
        self.ids.insert(hash(ended.id.0), position);
        self.ring.push_back(ended);
        forgotten
    }

    /// Forgets an end, because the id was accepted anew. The segment that was kept for it, if one was.
    pub fn forget(&mut self, store: &mut Store, id: CallId) -> Option<u32> {
        let is = |at: u32| self.at(at).id == id;
        let position = self.ids.find(hash(id.0), is)?;
        self.ids.remove(hash(id.0), |at| at == position);
        let index = position.wrapping_sub(self.first) as usize;
        let outcome = std::mem::replace(&mut self.ring[index].outcome, Extent::NONE);
        self.drop_outcome(store, outcome);
        let segment = std::mem::replace(&mut self.ring[index].segment, NONE);
        (segment != NONE).then_some(segment)
    }

    /// Drops the oldest outcome, if the record of its end is in a group up to `told`, which means that it was sent to
    /// who wanted it. Whether there was one.
    pub fn drop_oldest_outcome(&mut self, store: &mut Store, told: u64) -> bool {
        let behind = self.kept_from.wrapping_sub(self.first);
        let mut index = if (behind as usize) <= self.ring.len() { behind as usize } else { 0 };
        while let Some(ended) = self.ring.get_mut(index) {
            self.kept_from = self.first.wrapping_add(index as u32);
            if ended.outcome.is_some() {
                if ended.group > told {
                    return false;
                }
                let outcome = std::mem::replace(&mut ended.outcome, Extent::NONE);
                self.drop_outcome(store, outcome);
                return true;
            }
            index += 1;
        }
        false
    }

    /// Whether outcomes take more than their share, with `more` bytes on top.
    pub fn is_over(&self, more: usize) -> bool {
        self.bytes + more > self.bytes_max
    }

    /// The oldest end's group, if there is no room for another end.
    pub fn oldest_if_full(&self) -> Option<u64> {
        if self.ring.len() < self.ended_max { None } else { self.ring.front().map(|ended| ended.group) }
    }

    fn drop_outcome(&mut self, store: &mut Store, outcome: Extent) {
        self.bytes -= outcome.bytes();
        store.free(outcome);
    }

    fn at(&self, position: u32) -> &Ended {
        &self.ring[position.wrapping_sub(self.first) as usize]
    }

    /// The bytes of outcomes are those of the ring, and each remembered id leads to its end.
    pub fn check(&self) {
        let bytes: usize = self.ring.iter().map(|ended| ended.outcome.bytes()).sum();
        assert_eq!(bytes, self.bytes, "bytes of kept outcomes");
        assert!(self.ids.len() <= self.ring.len() && self.ring.len() <= self.ended_max);
    }
}
