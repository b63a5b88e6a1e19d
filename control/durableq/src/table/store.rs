//! Memory for the frames of pending calls and for kept outcomes.
//!
//! One area, taken at the start and touched by the page as it is used. Pages of 16 KiB; a page holds cells of one size
//! class, so that frames of one size reuse one another's memory at the cost of a list operation, and goes back to the
//! free pages with its last cell. A frame larger than half a page takes whole pages that lie side by side. The lowest
//! free pages are used first: an area that was full once and is nearly empty now is small again.

use call::limits::FRAME_ALIGN;

/// Bytes of a page of the store.
pub const PAGE_BYTES: usize = 16 << 10;
/// Sizes of cells: at most a third of a cell is unused, and little of a page.
const CELLS: [u16; 19] =
    [64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1360, 1632, 2048, 2720, 3264, 4096, 5456, 8192];
/// A class number of pages that belong to a frame of more than half a page.
const WHOLE: u8 = 255;
const NONE: u32 = u32::MAX;
const NO_CELL: u16 = u16::MAX;

/// Where a frame's bytes are in the [`Store`], or how many they are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// In units of [`FRAME_ALIGN`] bytes; [`NONE`] if they are not here.
    at: u32,
    bytes: u32,
}

impl Extent {
    /// No bytes.
    pub const NONE: Extent = Extent { at: NONE, bytes: 0 };

    /// So many bytes, which are on disk only.
    pub fn parked(bytes: usize) -> Extent {
        Extent { at: NONE, bytes: bytes as u32 }
    }

    /// So many bytes, in memory at this place.
    pub fn here(at: u32, bytes: usize) -> Extent {
        Extent { at, bytes: bytes as u32 }
    }

    /// Where the bytes are in memory, if they are there.
    pub fn place(self) -> Option<u32> {
        self.is_some().then_some(self.at)
    }

    /// Whether there are bytes in memory.
    pub fn is_some(self) -> bool {
        self.at != NONE
    }

    /// How many bytes are in memory.
    pub fn bytes(self) -> usize {
        if self.is_some() { self.bytes as usize } else { 0 }
    }

    /// How many bytes there are, wherever they are.
    pub fn length(self) -> usize {
        self.bytes as usize
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    class: u8,
    used: u16,
    /// Cells from this one on were never used since the page was taken.
    fresh: u16,
    /// The first of the freed cells; each names the next in its first two bytes.
    freed: u16,
    /// Its place in its class's list of pages with room.
    prev: u32,
    next: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    area: Vec<u8>,
    /// Bytes before the first aligned one.
    skip: usize,
    pages: Vec<Page>,
    /// A bit per page, set if it is free.
    free: Vec<u64>,
    /// No word before this one has a free page.
    hint: usize,
    pages_used: usize,
    pages_max: usize,
    /// Per class, the first page with room.
    partial: [u32; CELLS.len()],
    class_of: [u8; PAGE_BYTES / 2 / FRAME_ALIGN + 1],
    bytes: usize,
    bytes_max: usize,
}

impl Store {
    /// An area of `bytes_max` bytes, whole pages, and half as much in reserve: frames that fitted before a crash must
    /// fit after it, though they are laid out in another order then. Address space that nobody touches costs nothing.
    pub fn new(bytes_max: usize) -> Store {
        let count = (bytes_max / PAGE_BYTES).max(2) * 3 / 2;
        assert!(
            count * PAGE_BYTES / FRAME_ALIGN < NONE as usize,
            "an extent counts units of 16 bytes in 32 bits"
        );
        let area = vec![0u8; count * PAGE_BYTES + FRAME_ALIGN];
        let skip = (area.as_ptr() as usize).next_multiple_of(FRAME_ALIGN) - area.as_ptr() as usize;
        let mut free = vec![u64::MAX; count.div_ceil(64)];
        if !count.is_multiple_of(64) {
            *free.last_mut().expect("at least one page") = (1 << (count % 64)) - 1;
        }
        let mut class_of = [0; PAGE_BYTES / 2 / FRAME_ALIGN + 1];
        for (units, class) in class_of.iter_mut().enumerate() {
            let fits = |cell: &u16| usize::from(*cell) >= units * FRAME_ALIGN;
            *class = CELLS.iter().position(fits).expect("the last class is half a page") as u8;
        }
        let pages = vec![Page::default(); count];
        let partial = [NONE; CELLS.len()];
        Store {
            area,
            skip,
            pages,
            free,
            hint: 0,
            pages_used: 0,
            pages_max: count,
            partial,
            class_of,
            bytes: 0,
            bytes_max,
        }
    }

    /// Bytes of frames held now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of frames that it was made for.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of the whole area, with what is in reserve.
    pub fn area_bytes(&self) -> usize {
        self.pages.len() * PAGE_BYTES
    }

    /// Bytes in free pages.
    #[cfg(test)]
    fn bytes_free(&self) -> usize {
        (self.pages_max - self.pages_used) * PAGE_BYTES
    }

    /// From now on the reserve is not touched.
    pub fn use_no_reserve(&mut self) {
        self.pages_max = self.pages.len() * 2 / 3;
    }

    /// Copies a frame in. `None` if there is no room.
    pub fn put(&mut self, frame: &[u8]) -> Option<Extent> {
        let at = if frame.len() <= PAGE_BYTES / 2 {
            self.take_cell(self.class_of[frame.len().div_ceil(FRAME_ALIGN)])?
        } else {
            self.take_run(frame.len().div_ceil(PAGE_BYTES))? * PAGE_BYTES
        };
        self.area[self.skip + at..][..frame.len()].copy_from_slice(frame);
        self.bytes += frame.len();
        Some(Extent { at: (at / FRAME_ALIGN) as u32, bytes: frame.len() as u32 })
    }

    /// The bytes of a frame, aligned.
    pub fn get(&self, extent: Extent) -> &[u8] {
        &self.area[self.skip + extent.at as usize * FRAME_ALIGN..][..extent.bytes as usize]
    }

    /// Gives a frame's memory back; nothing if there is none.
    pub fn free(&mut self, extent: Extent) {
        if !extent.is_some() {
            return;
        }
        self.bytes -= extent.bytes as usize;
        let at = extent.at as usize * FRAME_ALIGN;
        let page = at / PAGE_BYTES;
        if self.pages[page].class == WHOLE {
            for page in page..page + (extent.bytes as usize).div_ceil(PAGE_BYTES) {
                self.give_page(page);
            }
        } else {
            self.give_cell(page, at % PAGE_BYTES);
        }
    }

    fn take_cell(&mut self, class: u8) -> Option<usize> {
        let mut number = self.partial[usize::from(class)];
        if number == NONE {
            number = self.take_run(1)? as u32;
            self.pages[number as usize] =
                Page { class, used: 0, fresh: 0, freed: NO_CELL, prev: NONE, next: NONE };
            self.link(number);
        }
        let cell_bytes = usize::from(CELLS[usize::from(class)]);
        let start = number as usize * PAGE_BYTES;
        let page = &mut self.pages[number as usize];
        let cell = page.freed;
        let at = if cell == NO_CELL {
            page.fresh += 1;
            start + usize::from(page.fresh - 1) * cell_bytes
        } else {
            let at = start + usize::from(cell) * cell_bytes;
            page.freed = u16::from_le_bytes([self.area[self.skip + at], self.area[self.skip + at + 1]]);
            at
        };
        page.used += 1;
        if page.freed == NO_CELL && (usize::from(page.fresh) + 1) * cell_bytes > PAGE_BYTES {
            self.unlink(number);
        }
        Some(at)
    }

    fn give_cell(&mut self, number: usize, offset: usize) {
        let page = &mut self.pages[number];
        let cell_bytes = usize::from(CELLS[usize::from(page.class)]);
        let was_full = page.freed == NO_CELL && (usize::from(page.fresh) + 1) * cell_bytes > PAGE_BYTES;
        let at = self.skip + number * PAGE_BYTES + offset;
        self.area[at..at + 2].copy_from_slice(&page.freed.to_le_bytes());
        page.freed = (offset / cell_bytes) as u16;
        page.used -= 1;
        let empty = page.used == 0;
        if was_full {
            self.link(number as u32);
        }
        // The only page with room of its class stays: a call that comes and goes would take and give it each time.
        let alone = self.pages[number].prev == NONE && self.pages[number].next == NONE;
        if empty && !alone {
            self.unlink(number as u32);
            self.give_page(number);
        }
    }

    fn link(&mut self, number: u32) {
        let first = &mut self.partial[usize::from(self.pages[number as usize].class)];
        let next = std::mem::replace(first, number);
        if next != NONE {
            self.pages[next as usize].prev = number;
        }
        let page = &mut self.pages[number as usize];
        (page.prev, page.next) = (NONE, next);
    }

    fn unlink(&mut self, number: u32) {
        let Page { class, prev, next, .. } = self.pages[number as usize];
        match prev {
            NONE => self.partial[usize::from(class)] = next,
            prev => self.pages[prev as usize].next = next,
        }
        if next != NONE {
            self.pages[next as usize].prev = prev;
        }
    }

    /// Takes `count` free pages side by side, the lowest there are.
    fn take_run(&mut self, count: usize) -> Option<usize> {
        if self.pages_used + count > self.pages_max {
            return None;
        }
        while self.hint < self.free.len() && self.free[self.hint] == 0 {
            self.hint += 1;
        }
        let mut page = self.hint * 64;
        let mut found = 0;
        while page < self.pages.len() {
            let word = self.free[page / 64] >> (page % 64);
            if word == 0 {
                (page, found) = ((page / 64 + 1) * 64, 0);
                continue;
            }
            let (gap, run) =
                (word.trailing_zeros() as usize, (word >> word.trailing_zeros()).trailing_ones() as usize);
            found = if gap > 0 { 0 } else { found };
            let take = run.min(count - found);
            (page, found) = (page + gap + take, found + take);
            if found == count {
                self.claim(page - count, count);
                return Some(page - count);
            }
        }
        None
    }

    fn claim(&mut self, first: usize, count: usize) {
        for page in first..first + count {
            self.free[page / 64] &= !(1 << (page % 64));
            self.pages[page].class = WHOLE;
        }
        self.pages_used += count;
    }

    fn give_page(&mut self, page: usize) {
        self.free[page / 64] |= 1 << (page % 64);
        self.hint = self.hint.min(page / 64);
        self.pages_used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every frame keeps its bytes whatever comes and goes around it, and all memory comes back.
        #[test]
        fn frames_keep_their_bytes(ops in prop::collection::vec((0usize..40_000, any::<u8>(), any::<bool>()), 1..200)) {
            let mut store = Store::new(40 * PAGE_BYTES);
            store.use_no_reserve();
            let mut held: Vec<(Extent, u8, usize)> = Vec::new();
            for (size, fill, put) in ops {
                // Mostly small frames, some of several pages.
                let bytes = if size % 7 == 0 { size } else { size % 2000 } + 1;
                if put {
                    if let Some(extent) = store.put(&vec![fill; bytes]) {
                        held.push((extent, fill, bytes));
                    }
                } else if !held.is_empty() {
                    let (extent, ..) = held.swap_remove(size % held.len());
                    store.free(extent);
                }
                prop_assert_eq!(store.bytes(), held.iter().map(|h| h.2).sum::<usize>());
                for (extent, fill, bytes) in &held {
                    let got = store.get(*extent);
                    prop_assert!(got.len() == *bytes && got.iter().all(|b| b == fill));
                    prop_assert!((got.as_ptr() as usize).is_multiple_of(FRAME_ALIGN));
                }
            }
            for (extent, ..) in held.drain(..) {
                store.free(extent);
            }
            // A page per class may be kept.
            prop_assert!(store.bytes_free() >= (40 - CELLS.len()) * PAGE_BYTES);
        }
    }

    #[test]
    fn a_full_store_refuses_and_recovers() {
        let mut store = Store::new(4 * PAGE_BYTES);
        store.use_no_reserve();
        let whole = store.put(&vec![1; 4 * PAGE_BYTES]).expect("all of it");
        assert_eq!(store.put(&[1]), None);
        store.free(whole);
        assert!(store.put(&[1]).is_some());
        assert_eq!(store.put(&vec![1; 4 * PAGE_BYTES]), None, "one page is in use");
        assert!(store.put(&vec![1; 3 * PAGE_BYTES]).is_some());
    }
}
