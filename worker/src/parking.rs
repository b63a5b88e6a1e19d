//! Memory for calls that arrived but are not begun in the same round: their frames' memory goes back to the kernel.
//!
//! Each slot has [`SMALL_BYTES`] of its own. A larger frame takes one of [`LARGE_COUNT`] shared buffers, which grow
//! to what they had to hold and are kept. When those are out the call is begun at once instead: nothing is refused.

use call::Frame;
use call::frame::FrameBuf;
use runtime::SlotId;

/// Bytes of submit frame that every slot has room for: most calls have a few hundred bytes of arguments.
const SMALL_BYTES: usize = 4096;
/// Frames above that which may wait at once; bounds parking memory to some 36 MiB if all are of the largest size.
const LARGE_COUNT: usize = 32;
/// Where frames must start.
const ALIGN: usize = call::limits::FRAME_ALIGN;

/// Where a slot's frame is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Nowhere,
    Small { bytes: usize },
    Large { index: usize },
}

/// Parking memory of all slots.
pub(crate) struct Parking {
    /// [`SMALL_BYTES`] per slot from `start` on. Zeroed by the kernel, so untouched pages cost nothing.
    small: Box<[u8]>,
    start: usize,
    large: Vec<FrameBuf>,
    /// Indices of `large` that are free.
    large_free: Vec<usize>,
    places: Box<[Place]>,
}

impl Parking {
    pub fn new(slots: u32) -> Parking {
        let small = vec![0; slots as usize * SMALL_BYTES + ALIGN].into_boxed_slice();
        Parking {
            start: small.as_ptr().align_offset(ALIGN),
            small,
            large: (0..LARGE_COUNT).map(|_| FrameBuf::new()).collect(),
            large_free: (0..LARGE_COUNT).rev().collect(),
            places: vec![Place::Nowhere; slots as usize].into_boxed_slice(),
        }
    }

    /// Whether a frame of this size can be parked now.
    pub fn has_room(&self, frame: &Frame<'_>) -> bool {
        frame.bytes().len() <= SMALL_BYTES || !self.large_free.is_empty()
    }

    /// Copies the frame for this slot.
    ///
    /// # Panics
    /// If there is no room, or the slot has a frame already.
    pub fn park(&mut self, slot: SlotId, frame: &Frame<'_>) {
        let bytes = frame.bytes();
        let place = &mut self.places[slot.0 as usize];
        assert!(matches!(place, Place::Nowhere), "a slot parks one frame");
        if bytes.len() <= SMALL_BYTES {
            let at = self.start + slot.0 as usize * SMALL_BYTES;
            self.small[at..at + bytes.len()].copy_from_slice(bytes);
            *place = Place::Small { bytes: bytes.len() };
        } else {
            let index = self.large_free.pop().expect("asked for room before");
            self.large[index].clear();
            self.large[index].extend_from_slice(bytes);
            *place = Place::Large { index };
        }
    }

    /// The frame of this slot.
    ///
    /// # Panics
    /// If none is parked.
    pub fn frame(&self, slot: SlotId) -> Frame<'_> {
        Frame::parsed_before(match self.places[slot.0 as usize] {
            Place::Nowhere => panic!("slot {} has parked nothing", slot.0),
            Place::Small { bytes } => {
                let at = self.start + slot.0 as usize * SMALL_BYTES;
                &self.small[at..at + bytes]
            }
            Place::Large { index } => &self.large[index],
        })
    }

    /// Frees what the slot has parked, if anything.
    pub fn leave(&mut self, slot: SlotId) {
        let place = std::mem::replace(&mut self.places[slot.0 as usize], Place::Nowhere);
        if let Place::Large { index } = place {
            self.large_free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::frame::{self, Header, Kind};

    fn frame(bytes: usize, fill: u8) -> FrameBuf {
        let mut out = FrameBuf::new();
        frame::append(&mut out, &Header::new(Kind::Submit), &vec![fill; bytes]);
        out
    }

    #[test]
    fn frames_of_each_size_come_back_as_they_were() {
        let mut parking = Parking::new(40);
        for (slot, bytes) in [(0, 0), (1, 128), (2, SMALL_BYTES - 64), (3, SMALL_BYTES), (39, 100_000)] {
            let buffer = frame(bytes, slot as u8);
            let (frame, _) = Frame::parse(&buffer).unwrap();
            parking.park(SlotId(slot), &frame);
            assert_eq!(Frame::parse(parking.frame(SlotId(slot)).bytes()).unwrap().0.bytes(), frame.bytes());
        }
    }

    #[test]
    fn large_room_runs_out_and_comes_back() {
        let mut parking = Parking::new(64);
        let (large, small) = (frame(SMALL_BYTES, 1), frame(16, 1));
        let (large, small) = (Frame::parse(&large).unwrap().0, Frame::parse(&small).unwrap().0);
        for slot in 0..LARGE_COUNT as u32 {
            assert!(parking.has_room(&large));
            parking.park(SlotId(slot), &large);
        }
        assert!(!parking.has_room(&large) && parking.has_room(&small));
        parking.leave(SlotId(3));
        parking.leave(SlotId(3));
        assert!(parking.has_room(&large));
        parking.park(SlotId(63), &large);
        assert!(!parking.has_room(&large));
    }
}
