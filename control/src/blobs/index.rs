//! Which blobs there are. Pure: no clock, no I/O.

use call::WallTime;
use call::blob::{BlobId, Reference};
use std::collections::BTreeMap;

/// What is known of a blob.
#[derive(Clone, Copy, Debug)]
struct Known {
    bytes: u64,
    /// When somebody last stored it or named it in a submit.
    touched: WallTime,
}

/// No room for another blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// All blobs of a node. See the module.
#[derive(Debug)]
pub struct BlobIndex {
    blobs: BTreeMap<BlobId, Known>,
    max: usize,
    bytes: u64,
}

impl BlobIndex {
    /// Room for `max` blobs, with those that are on disk.
    pub fn new(max: usize, found: &[(Reference, WallTime)]) -> BlobIndex {
        let mut index = BlobIndex { blobs: BTreeMap::new(), max: max.max(found.len()), bytes: 0 };
        for (reference, touched) in found {
            index.stored(*reference, *touched).expect("room for what is there");
        }
        index.max = max;
        index
    }

    /// A blob is on disk, now or again.
    ///
    /// # Errors
    /// [`Full`]: it is not known, and must not stay.
    pub fn stored(&mut self, blob: Reference, now: WallTime) -> Result<(), Full> {
        let known = Known { bytes: blob.bytes, touched: now };
        if !self.blobs.contains_key(&blob.id) && self.blobs.len() >= self.max {
            return Err(Full);
        }
        self.bytes += blob.bytes;
        if let Some(before) = self.blobs.insert(blob.id, known) {
            self.bytes -= before.bytes;
        }
        Ok(())
    }

    /// Whether this blob, of this length, is there. If so it stays for the time of grace at least.
    pub fn touch(&mut self, blob: Reference, now: WallTime) -> bool {
        match self.blobs.get_mut(&blob.id).filter(|known| known.bytes == blob.bytes) {
            Some(known) => {
                known.touched = known.touched.max(now);
                true
            }
            None => false,
        }
    }

    /// Blobs that were last stored, named or marked before this time: at most so many.
    pub fn untouched_since(&self, before: WallTime, max: usize) -> Vec<Reference> {
        let old = self.blobs.iter().filter(|(_, known)| known.touched < before);
        old.map(|(id, known)| Reference { id: *id, bytes: known.bytes }).take(max).collect()
    }

    /// A blob may not be named any more: its file is to go.
    pub fn forget(&mut self, id: BlobId) {
        if let Some(known) = self.blobs.remove(&id) {
            self.bytes -= known.bytes;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        assert_eq!(self.blobs.values().map(|known| known.bytes).sum::<u64>(), self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u8, bytes: u64) -> Reference {
        Reference { id: BlobId([n; 32]), bytes }
    }

    #[test]
    fn a_blob_is_known_by_content_and_length() {
        let mut index = BlobIndex::new(2, &[(blob(1, 10), WallTime(5))]);
        assert!(index.touch(blob(1, 10), WallTime(6)));
        assert!(!index.touch(blob(1, 11), WallTime(6)) && !index.touch(blob(2, 10), WallTime(6)));
        index.stored(blob(2, 7), WallTime(7)).unwrap();
        index.stored(blob(2, 7), WallTime(8)).unwrap();
        assert_eq!((index.len(), index.bytes()), (2, 17));
        assert_eq!(index.stored(blob(3, 1), WallTime(9)), Err(Full));
        assert_eq!(index.stored(blob(1, 10), WallTime(9)), Ok(()), "one that is there has its place");
        index.check();
    }

    #[test]
    fn only_what_nobody_touched_is_garbage() {
        let mut index = BlobIndex::new(9, &[(blob(1, 10), WallTime(5)), (blob(2, 20), WallTime(50))]);
        assert_eq!(index.untouched_since(WallTime(5), 9), []);
        assert_eq!(index.untouched_since(WallTime(6), 9), [blob(1, 10)]);
        assert_eq!(index.untouched_since(WallTime(99), 1), [blob(1, 10)]);
        index.touch(blob(1, 10), WallTime(60));
        index.touch(blob(1, 10), WallTime(7));
        assert_eq!(index.untouched_since(WallTime(60), 9), [blob(2, 20)], "a mark never makes it older");
        index.forget(blob(2, 20).id);
        index.forget(blob(2, 20).id);
        assert_eq!((index.len(), index.bytes(), index.touch(blob(2, 20), WallTime(70))), (1, 10, false));
        index.check();
    }

    #[test]
    fn what_is_on_disk_is_known_whatever_the_limit() {
        let found: Vec<_> = (0..5).map(|n| (blob(n, 1), WallTime(1))).collect();
        let mut index = BlobIndex::new(3, &found);
        assert_eq!((index.len(), index.stored(blob(9, 1), WallTime(2))), (5, Err(Full)));
    }
}
