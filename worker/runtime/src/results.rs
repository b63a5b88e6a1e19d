//! Memory for large results: what the functions of a core return while it is not sent.
//!
//! Each result may have [`OUTPUT_BYTES_MAX`] bytes. What is beyond that is lent by the core's one [`Room`], up to the
//! bound of a single result, and comes back when the result is dropped; where there is none the rest is cut off.

use call::limits::{Limits, OUTPUT_BYTES_MAX};
use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// What a core lends. Cheap to clone; all clones share it. The default lends nothing.
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Rc<Lender>>);

#[derive(Debug)]
struct Lender {
    left: Cell<u64>,
    result_bytes: usize,
}

impl Room {
    /// As much as `limits` say.
    pub fn new(limits: &Limits) -> Room {
        let left = Cell::new(limits.blob_memory_bytes);
        let result_bytes = limits.result_bytes_max.max(OUTPUT_BYTES_MAX);
        Room(Some(Rc::new(Lender { left, result_bytes })))
    }

    /// Bytes of the largest result.
    pub fn result_bytes(&self) -> usize {
        self.0.as_ref().map_or(OUTPUT_BYTES_MAX, |lender| lender.result_bytes)
    }

    /// Bytes that are not lent.
    pub fn left(&self) -> u64 {
        self.0.as_ref().map_or(0, |lender| lender.left.get())
    }
}

/// What one result has of the room.
#[derive(Debug, Default)]
pub struct Loan {
    room: Room,
    bytes: u64,
}

impl Loan {
    /// Nothing yet.
    pub fn new(room: &Room) -> Loan {
        Loan { room: room.clone(), bytes: 0 }
    }

    /// Bytes of the largest result.
    pub fn result_bytes(&self) -> usize {
        self.room.result_bytes()
    }

    /// Has room for a result that grows to so many bytes, or as much of it as there is; so many it may have.
    pub fn grow(&mut self, result_bytes: usize) -> usize {
        let most = result_bytes.min(self.room.result_bytes());
        let beyond = most.saturating_sub(OUTPUT_BYTES_MAX) as u64;
        let Some(lender) = self.room.0.as_ref().filter(|_| beyond > self.bytes) else { return most };
        let more = (beyond - self.bytes).min(lender.left.get());
        lender.left.set(lender.left.get() - more);
        self.bytes += more;
        most.min(OUTPUT_BYTES_MAX + self.bytes as usize)
    }

    /// The result is gone.
    pub fn give_back(&mut self) {
        if let Some(lender) = &self.room.0 {
            lender.left.set(lender.left.get() + std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A result.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    loan: Loan,
}

impl Output {
    /// Empty.
    pub fn new(room: &Room) -> Output {
        Output { bytes: Vec::new(), loan: Loan::new(room) }
    }

    /// Bytes that it may have, if there is room.
    pub fn bytes_max(&self) -> usize {
        self.loan.result_bytes()
    }

    /// Appends as much as there is room for; true if that was not all.
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        let most = self.loan.grow(self.bytes.len().saturating_add(bytes.len()));
        let here = bytes.len().min(most - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..here]);
        here < bytes.len()
    }

    /// Empties it, and keeps no more memory than this.
    pub fn clear(&mut self, kept_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(kept_bytes);
        self.loan.give_back();
    }
}

impl Deref for Output {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    fn room(all: usize, one: usize) -> Room {
        let limits = Limits { blob_memory_bytes: all as u64, result_bytes_max: one, ..Limits::default() };
        Room::new(&limits)
    }

    #[test]
    fn a_result_has_its_first_part_whatever_the_others_have() {
        let room = room(2 * MIB, 3 * MIB);
        let (mut first, mut second) = (Output::new(&room), Output::new(&room));
        assert!(!first.fill(&vec![1; 3 * MIB]) && first.len() == 3 * MIB && room.left() == 0);
        assert!(second.fill(&vec![2; MIB + 1]) && second.len() == MIB, "there is no room for more");
        first.clear(0);
        assert_eq!(room.left(), 2 * MIB as u64);
        assert!(second.fill(&vec![2; 2 * MIB + 1]) && second.len() == 3 * MIB, "the bound of a single one");
        drop(second);
        assert_eq!(room.left(), 2 * MIB as u64);
        let mut plain = Output::default();
        assert!(plain.fill(&vec![3; MIB + 1]) && plain.len() == MIB);
    }

    proptest! {
        #[test]
        fn what_is_lent_comes_back(steps in prop::collection::vec((0usize..4, 0usize..700_000, 0u8..6), 1..60)) {
            let room = room(3 * MIB, 2 * MIB);
            let mut outputs: Vec<Output> = (0..4).map(|_| Output::new(&room)).collect();
            for (at, bytes, what) in steps {
                match what {
                    0 => outputs[at].clear(0),
                    1 => outputs.swap(at, (at + 1) % 4),
                    2 => outputs[at] = Output::new(&room),
                    _ => {
                        let before = outputs[at].len();
                        let is_cut = outputs[at].fill(&vec![7; bytes]);
                        prop_assert_eq!(is_cut, outputs[at].len() < before + bytes);
                    }
                }
                let beyond: usize = outputs.iter().map(|output| output.len().saturating_sub(OUTPUT_BYTES_MAX)).sum();
                prop_assert_eq!(room.left(), (3 * MIB - beyond) as u64, "what is lent is what is there");
                prop_assert!(outputs.iter().all(|output| output.len() <= 2 * MIB));
            }
            drop(outputs);
            prop_assert_eq!(room.left(), 3 * MIB as u64);
        }
    }
}
