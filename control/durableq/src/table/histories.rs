//! Histories of calls that failed: memory of their own, so that they take no room of frames.
//!
//! A history stands here as it does in a record. Most calls have none, and an entry of the table has three bytes left for
//! where it is.

use super::store::{Extent, Store};
use call::History;
use call::limits::FRAME_ALIGN;

/// Where the history of a call is, if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trace([u8; 3]);

impl Trace {
    /// The call has none: it never failed.
    pub const NONE: Trace = Trace([0xff; 3]);
    /// It has failed, and there was no memory to say more.
    pub const LOST: Trace = Trace([0xfe, 0xff, 0xff]);

    fn at(at: u32) -> Trace {
        let [a, b, c, _] = at.to_le_bytes();
        Trace([a, b, c])
    }

    fn place(self) -> Option<u32> {
        let [a, b, c] = self.0;
        let stored = self != Trace::NONE && self != Trace::LOST;
        stored.then_some(u32::from_le_bytes([a, b, c, 0]))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Histories {
    store: Store,
}

impl Histories {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Histories {
        let store = Store::new(bytes_max);
        let last = Trace::LOST.0;
        let units = u32::from_le_bytes([last[0], last[1], last[2], 0]) as usize;
        assert!(
            store.area_bytes() / FRAME_ALIGN <= units,
            "limits.history_bytes_max: a history is named by 24 bits"
        );
        Histories { store }
    }

    /// Bytes of all histories.
    pub fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Recovery is over: its reserve is not touched any more.
    pub fn use_no_reserve(&mut self) {
        self.store.use_no_reserve();
    }

    /// The history that is there.
    pub fn get(&self, trace: Trace) -> Option<History<'_>> {
        match trace {
            Trace::NONE => None,
            Trace::LOST => Some(History::LOST),
            _ => Some(History::parsed_before(self.store.get(self.extent(trace)?))),
        }
    }

    /// Copies a history in. `None` if there is no room.
    pub fn put(&mut self, history: History<'_>) -> Option<Trace> {
        self.store.put(history.bytes())?.place().map(Trace::at)
    }

    /// Gives its memory back; nothing if there is none.
    pub fn free(&mut self, trace: Trace) {
        if let Some(extent) = self.extent(trace) {
            self.store.free(extent);
        }
    }

    fn extent(&self, trace: Trace) -> Option<Extent> {
        let at = trace.place()?;
        let bytes = self.store.get(Extent::here(at, size_of::<u32>()));
        let bytes = u32::from_le_bytes(bytes.try_into().expect("a history begins with its length"));
        Some(Extent::here(at, bytes as usize))
    }
}
