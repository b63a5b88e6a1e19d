//! Cuts a received byte stream into checked frames.
//!
//! A stream is a row of frames, each padded to 16 bytes, so frames that begin in a 16-aligned buffer stay aligned and
//! are read in place. Only a frame that straddles two buffers, or bytes that came misaligned, are copied: into the
//! *assembly*, aligned memory of the connection. What was cut stays where it is until [`Framer::recycle`], which the
//! driver calls when the [`crate::Arrivals`] that speak of it come back.
//!
//! After warm-up nothing here allocates: buffers of up to [`KEPT_BYTES`] are used again.

use crate::arrivals::Span;
use call::Frame;
use call::frame::{FrameBuf, FrameError, MAGIC, frame_bytes};
use call::limits::FRAME_ALIGN;
use std::mem::MaybeUninit;

/// Bytes of a fresh assembly buffer: a few hundred small frames.
const ASSEMBLY_BYTES: usize = 64 << 10;
/// A larger assembly buffer is given back after its frame: one frame of the largest size must not cost each
/// connection 4 MiB for ever. Twice the largest arguments.
const KEPT_BYTES: usize = 2 << 20;

/// Empty buffers that a connection keeps, the largest ones: as many as a round fills, and those that a frame outgrew.
const SPARES_MAX: usize = 8;

/// What becomes of the bytes behind the last whole frame of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    /// The next chunk begins where this one ends, in the same memory; they are shown again with it.
    Stays,
    /// They are copied; the next chunk is elsewhere.
    Moves,
}

/// The receiving end of one stream.
pub(crate) struct Framer {
    /// Frames that were copied, then the begin of one that is not whole yet.
    assembly: FrameBuf,
    /// Where in `assembly` the unfinished frame begins; a multiple of [`FRAME_ALIGN`].
    head: usize,
    /// Full assembly buffers that spans may still point into.
    retired: Vec<FrameBuf>,
    /// Empty buffers for reuse.
    spare: Vec<FrameBuf>,
}

impl Framer {
    pub(crate) fn new() -> Framer {
        Framer { assembly: FrameBuf::new(), head: 0, retired: Vec::new(), spare: Vec::new() }
    }

    /// Whether the begin of a frame waits in the assembly for its rest.
    pub(crate) fn mid_frame(&self) -> bool {
        self.assembly.len() > self.head
    }

    /// Takes a chunk whose memory stays as it is until [`Framer::recycle`]; gives each whole frame to `frame`.
    ///
    /// Returns how many bytes are done with: all of them with [`Tail::Moves`].
    pub(crate) fn feed(
        &mut self,
        chunk: &[u8],
        tail: Tail,
        frame: &mut impl FnMut(Span),
    ) -> Result<usize, FrameError> {
        let mut at = 0;
        while self.mid_frame() && at < chunk.len() {
            let rest = &chunk[at..];
            let piece = self.missing()?.min(rest.len());
            self.absorb(&rest[..piece], frame)?;
            at += piece;
        }
        if (chunk[at..].as_ptr() as usize).is_multiple_of(FRAME_ALIGN) {
            at += split(&chunk[at..], frame)?;
            if tail == Tail::Stays {
                return Ok(at);
            }
        }
        self.absorb(&chunk[at..], frame)?;
        Ok(chunk.len())
    }

    /// Copies `bytes` behind what waits in the assembly and cuts it there.
    pub(crate) fn absorb(&mut self, bytes: &[u8], frame: &mut impl FnMut(Span)) -> Result<(), FrameError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.make_room(bytes.len())?;
        self.assembly.extend_from_slice(bytes);
        self.cut(frame)
    }

    /// Room for `bytes` behind what waits in the assembly; fill it, then say [`Framer::filled`].
    pub(crate) fn room(&mut self, bytes: usize) -> Result<&mut [MaybeUninit<u8>], FrameError> {
        self.make_room(bytes)?;
        let end = self.assembly.len();
        // SAFETY: `make_room` made the capacity at least `end + bytes`; uninitialised bytes are allowed in the slice.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.assembly.as_mut_ptr().add(end).cast(), bytes) })
    }

    /// Cuts what was put into the last [`Framer::room`].
    ///
    /// # Safety
    /// The first `bytes` of that room are initialised, and it was at least that long.
    pub(crate) unsafe fn filled(
        &mut self,
        bytes: usize,
        frame: &mut impl FnMut(Span),
    ) -> Result<(), FrameError> {
        // SAFETY: the caller's promise.
        unsafe { self.assembly.set_len(self.assembly.len() + bytes) };
        self.cut(frame)
    }

    /// Spans given before are not looked at any more: their memory may be used again.
    pub(crate) fn recycle(&mut self) {
        while let Some(mut buffer) = self.retired.pop() {
            if buffer.capacity() <= KEPT_BYTES {
                buffer.clear();
                self.spare.push(buffer);
            }
            if self.spare.len() > SPARES_MAX {
                let smallest = (0..self.spare.len()).min_by_key(|index| self.spare[*index].capacity());
                self.spare.swap_remove(smallest.expect("some"));
            }
        }
        if self.head == 0 {
            return;
        }
        let waiting = self.assembly.len() - self.head;
        if waiting == 0 && self.assembly.capacity() > KEPT_BYTES {
            self.assembly = FrameBuf::new();
        } else {
            self.assembly.copy_within(self.head.., 0);
            self.assembly.resize(waiting, 0);
        }
        self.head = 0;
    }

    /// Forgets everything, for the next stream. The same obligation as [`Framer::recycle`].
    pub(crate) fn reset(&mut self) {
        self.head = self.assembly.len();
        self.recycle();
    }

    fn cut(&mut self, frame: &mut impl FnMut(Span)) -> Result<(), FrameError> {
        self.head += split(&self.assembly[self.head..], frame)?;
        Ok(())
    }

    /// Bytes that the waiting frame lacks, or its header if that is not whole.
    fn missing(&self) -> Result<usize, FrameError> {
        let waiting = &self.assembly[self.head..];
        let wanted = frame_bytes(waiting)?.unwrap_or(call::limits::HEADER_BYTES);
        Ok(wanted - waiting.len())
    }

    /// Makes the assembly take `more` bytes without moving: spans may point into it.
    ///
    /// A frame's header says how long it is, and a stranger may say 4 MiB in 64 bytes: memory grows as the bytes come,
    /// doubling, and only the last step is cut down to what the frame says.
    fn make_room(&mut self, more: usize) -> Result<(), FrameError> {
        if self.assembly.capacity() - self.assembly.len() >= more {
            return Ok(());
        }
        let needed = self.assembly.len() - self.head + more;
        let whole = frame_bytes(&self.assembly[self.head..])?.unwrap_or(0);
        let doubled = needed.next_power_of_two().max(ASSEMBLY_BYTES);
        let wanted = if whole >= needed { doubled.min(whole.max(ASSEMBLY_BYTES)) } else { doubled };
        let mut fresh = match self.spare.iter().position(|spare| spare.capacity() >= wanted) {
            Some(index) => self.spare.swap_remove(index),
            None => FrameBuf::with_capacity(wanted),
        };
        fresh.extend_from_slice(&self.assembly[self.head..]);
        let full = std::mem::replace(&mut self.assembly, fresh);
        if full.capacity() > 0 {
            self.retired.push(full);
        }
        self.head = 0;
        Ok(())
    }
}

/// Gives the whole frames at the start of `bytes` to `frame`; returns how many bytes they take.
fn split(bytes: &[u8], frame: &mut impl FnMut(Span)) -> Result<usize, FrameError> {
    let mut at = 0;
    while let Some(whole) = frame_bytes(&bytes[at..])? {
        let Some(one) = bytes.get(at..at + whole) else { return Ok(at) };
        let (parsed, _) = Frame::parse(one)?;
        frame(Span { start: parsed.bytes().as_ptr(), bytes: parsed.bytes().len() });
        at += whole;
    }
    refuse_foreign(&bytes[at..])?;
    Ok(at)
}

/// A peer that speaks another protocol may wait for an answer before its 64th byte: notice it at the first.
fn refuse_foreign(start: &[u8]) -> Result<(), FrameError> {
    let seen = start.len().min(MAGIC.len());
    if start[..seen] == MAGIC[..seen] {
        return Ok(());
    }
    let mut first = [0; 4];
    first[..seen].copy_from_slice(&start[..seen]);
    Err(FrameError::Magic(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::frame::{Header, Kind, append};
    use proptest::prelude::*;

    fn stream(bodies: &[Vec<u8>]) -> FrameBuf {
        let mut out = FrameBuf::new();
        for (index, body) in bodies.iter().enumerate() {
            append(&mut out, &Header { stamp: index as u64, ..Header::new(Kind::Outcome) }, body);
        }
        out
    }

    /// Feeds the stream in chunks of these sizes, each in memory of its own at this misalignment.
    fn read(bytes: &[u8], sizes: &[usize], shift: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut framer = Framer::new();
        let mut rest = bytes;
        let mut bodies = Vec::new();
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let mut round = Vec::new();
            let mut spans = Vec::new();
            for _ in 0..3 {
                let size = (*sizes.next().expect("a cycle")).min(rest.len());
                let mut chunk = FrameBuf::new();
                chunk.resize(shift, 0);
                chunk.extend_from_slice(&rest[..size]);
                round.push(chunk);
                let chunk = &round.last().expect("just pushed")[shift..];
                assert_eq!(framer.feed(chunk, Tail::Moves, &mut |span| spans.push(span))?, size);
                rest = &rest[size..];
            }
            for span in spans {
                // SAFETY: `round` and the framer hold the bytes, and neither was recycled.
                let bytes = unsafe { std::slice::from_raw_parts(span.start, span.bytes) };
                bodies.push(Frame::parse(bytes).expect("parsed before").0.body().to_vec());
            }
            framer.recycle();
        }
        assert!(!framer.mid_frame());
        Ok(bodies)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 1..20),
            sizes in prop::collection::vec(1usize..900, 1..8),
            shift in 0usize..16,
        ) {
            prop_assert_eq!(read(&stream(&bodies), &sizes, shift).unwrap(), bodies);
        }

        #[test]
        fn arbitrary_bytes_give_only_errors(
            bytes in prop::collection::vec(any::<u8>(), 4..4096),
            size in 1usize..500,
        ) {
            prop_assume!(bytes[..4] != MAGIC);
            prop_assert!(read(&bytes, &[size], 0).is_err());
        }

        #[test]
        fn a_changed_byte_never_gives_other_frames(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 16..200), 1..6),
            sizes in prop::collection::vec(1usize..300, 1..4),
            at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = stream(&bodies);
            let at = at.index(bytes.len());
            bytes[at] ^= 0x40;
            let mut framer = Framer::new();
            let mut spans = 0;
            let mut chunks = bytes.chunks(sizes[0]);
            let bad = chunks.any(|chunk| framer.absorb(chunk, &mut |_| spans += 1).is_err());
            // A flipped bit in the padding between frames is nobody's; everywhere else the stream ends there.
            prop_assert!(bad || spans == bodies.len() || framer.mid_frame());
        }
    }

    #[test]
    fn whole_frames_are_read_in_place_and_the_tail_may_stay() {
        let bytes = stream(&[vec![1; 100], vec![2; 100]]);
        let cut = bytes.len() - 16;
        let (mut framer, mut seen) = (Framer::new(), Vec::new());
        let used = framer.feed(&bytes[..cut], Tail::Stays, &mut |span| seen.push(span.start)).unwrap();
        assert_eq!((used, framer.mid_frame()), (bytes.len() / 2, false));
        framer.feed(&bytes[used..], Tail::Stays, &mut |span| seen.push(span.start)).unwrap();
        assert_eq!(seen, [bytes.as_ptr(), bytes[used..].as_ptr()]);
    }

    #[test]
    fn another_protocol_is_noticed_at_its_first_byte() {
        let refused = Framer::new().feed(b"G", Tail::Moves, &mut |_| ());
        assert_eq!(refused, Err(FrameError::Magic([b'G', 0, 0, 0])));
    }

    #[test]
    fn a_frame_that_only_says_that_it_is_large_takes_little_memory() {
        let bytes = stream(&[vec![7; call::limits::BODY_BYTES_MAX]]);
        let mut framer = Framer::new();
        for (fed, most) in [(64, ASSEMBLY_BYTES), (100_000, 128 << 10), (300_000, 512 << 10)] {
            let more = fed - framer.assembly.len();
            framer.absorb(&bytes[framer.assembly.len()..][..more], &mut |_| ()).unwrap();
            assert!(framer.assembly.capacity() <= most, "after {fed} bytes");
        }
        let (mut frames, at) = (0, framer.assembly.len());
        framer.absorb(&bytes[at..], &mut |_| frames += 1).unwrap();
        assert_eq!(frames, 1);
    }

    #[test]
    fn the_largest_frame_straddles_many_chunks_and_its_memory_is_given_back() {
        let bytes = stream(&[vec![7; call::limits::BODY_BYTES_MAX], vec![8; 10]]);
        let (mut framer, mut frames) = (Framer::new(), 0);
        for chunk in bytes.chunks(60_000) {
            framer.feed(chunk, Tail::Moves, &mut |_| frames += 1).unwrap();
            framer.recycle();
        }
        assert_eq!(frames, 2);
        // Those that the frame outgrew on its way, each half of the next.
        let kept: usize = framer.spare.iter().map(|spare| spare.capacity()).sum();
        assert!(kept + framer.assembly.capacity() <= 2 * KEPT_BYTES);
    }
}
