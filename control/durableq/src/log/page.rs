//! A page of the index: the body of an `Index` record, which says of each of some calls what the queue knows without its
//! frame. Entries stand one behind the other.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 16 | call | its id |
//! | 16 | 8 | function | its function |
//! | 24 | 8 | start | when it could first start, Unix ns |
//! | 32 | 8 | begin by | its deadline if it has never been leased and must begin by that; otherwise zero |
//! | 40 | 6 | turn | its order among calls of one time |
//! | 46 | 2 | flags | of its submit frame ([`call::frame::flag`]) |
//! | 48 | 8 | segment | the number of the segment that holds its submit record |
//! | 56 | 4 | offset | where in the segment, in units of 16 bytes |
//! | 60 | 4 | length | bytes of the submit frame, without padding |
//!
//! What has happened to a call beyond that stands behind the page as the record that was written when it happened.

use call::limits::{BODY_BYTES_MAX, HEADER_BYTES};
use call::{CallId, FunctionId};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 64;

/// What the index says of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its id.
    pub call: CallId,
    /// Its function.
    pub function: FunctionId,
    /// When it could first start, Unix ns.
    pub start_at: u64,
    /// Its deadline, if it has never been leased and must begin by that.
    pub begin_by: u64,
    /// Its order among calls of one time; 48 bits.
    pub turn: u64,
    /// Of its submit frame.
    pub flags: u16,
    /// The number of the segment that holds its submit record.
    pub segment: u64,
    /// Where in it, in units of [`call::limits::FRAME_ALIGN`] bytes.
    pub offset: u32,
    /// Bytes of the submit frame.
    pub length: u32,
}

impl Entry {
    /// As it stands in a page.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        debug_assert!(self.turn < 1 << 48, "turns have 48 bits");
        let mut out = [0; ENTRY_BYTES];
        out[0..16].copy_from_slice(&self.call.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.function.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.start_at.to_le_bytes());
        out[32..40].copy_from_slice(&self.begin_by.to_le_bytes());
        out[40..46].copy_from_slice(&self.turn.to_le_bytes()[..6]);
        out[46..48].copy_from_slice(&self.flags.to_le_bytes());
        out[48..56].copy_from_slice(&self.segment.to_le_bytes());
        out[56..60].copy_from_slice(&self.offset.to_le_bytes());
        out[60..64].copy_from_slice(&self.length.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Entry {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let turn_and_flags = u64_at(40);
        Entry {
            call: CallId(u128::from_le_bytes(bytes[0..16].try_into().expect("sixteen bytes"))),
            function: FunctionId(u64_at(16)),
            start_at: u64_at(24),
            begin_by: u64_at(32),
            turn: turn_and_flags & ((1 << 48) - 1),
            flags: (turn_and_flags >> 48) as u16,
            segment: u64_at(48),
            offset: u32_at(56),
            length: u32_at(60),
        }
    }
}

/// The entries of a page; `None` if these bytes are none: not whole entries, or of frames that cannot be.
pub fn entries(body: &[u8]) -> Option<impl Iterator<Item = Entry> + Clone + '_> {
    let (whole, rest) = body.as_chunks::<ENTRY_BYTES>();
    let entries = whole.iter().map(Entry::decode);
    let length = HEADER_BYTES as u32..=(HEADER_BYTES + BODY_BYTES_MAX) as u32;
    let sound = rest.is_empty() && entries.clone().all(|entry| length.contains(&entry.length));
    sound.then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_is_read_back(
            (call, function, start_at, begin_by) in any::<(u128, u64, u64, u64)>(),
            (turn, flags, segment, offset) in (0u64..1 << 48, any::<u16>(), any::<u64>(), any::<u32>()),
            length in HEADER_BYTES as u32..1 << 20,
        ) {
            let (call, function) = (CallId(call), FunctionId(function));
            let entry = Entry { call, function, start_at, begin_by, turn, flags, segment, offset, length };
            let page = [entry.encode(), entry.encode()].concat();
            prop_assert_eq!(entries(&page).expect("a page").collect::<Vec<_>>(), [entry, entry]);
        }

        #[test]
        fn other_bytes_are_no_page(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for entry in entries(&bytes).into_iter().flatten() {
                prop_assert!(entry.turn < 1 << 48 && entry.length >= HEADER_BYTES as u32);
            }
            prop_assert!(bytes.len().is_multiple_of(ENTRY_BYTES) || entries(&bytes).is_none());
        }
    }

    #[test]
    fn a_length_that_no_frame_has_is_refused() {
        let entry = Entry {
            call: CallId(1),
            function: FunctionId(2),
            start_at: 3,
            begin_by: 0,
            turn: 4,
            flags: 0,
            segment: 5,
            offset: 6,
            length: HEADER_BYTES as u32 - 1,
        };
        assert!(entries(&entry.encode()).is_none());
    }
}
