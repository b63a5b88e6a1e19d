//! Bytes on their way: whole frames out of a stream, and frames into one.

use call::frame::{self, FrameBuf};
use call::{Frame, FrameError};

/// Bytes that a read asks for at least: 400 verdicts, or a few hundred small outcomes.
const READ_BYTES: usize = 64 << 10;

/// What has been read and not been looked at. Frames are read in place: since each is padded to 16 bytes and the
/// buffer starts aligned, each starts aligned.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buffer: FrameBuf,
    /// Everything before it has been taken. A multiple of 16.
    taken: usize,
    /// Everything before it has been read.
    filled: usize,
}

impl Inbox {
    /// Forgets everything: another connection begins.
    pub fn clear(&mut self) {
        (self.taken, self.filled) = (0, 0);
    }

    /// Whether a frame has begun and not ended.
    pub fn is_mid_frame(&self) -> bool {
        self.taken != self.filled
    }

    /// Room for a read: enough for the whole of a frame that has begun.
    pub fn room(&mut self) -> Result<&mut [u8], FrameError> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= std::mem::take(&mut self.taken);
        let begun = frame::frame_bytes(&self.buffer[..self.filled])?.unwrap_or(0);
        let wanted = begun.max(self.filled + READ_BYTES);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// `bytes` have been read into [`Inbox::room`].
    pub fn filled(&mut self, bytes: usize) {
        self.filled += bytes;
        assert!(self.filled <= self.buffer.len(), "a read fills the room it was given");
    }

    /// The next whole frame, if it is there.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let rest = &self.buffer[self.taken..self.filled];
        match frame::frame_bytes(rest)? {
            Some(bytes) if bytes <= rest.len() => {
                self.taken += bytes;
                Frame::parse(rest).map(|(frame, _)| Some(frame))
            }
            _ => Ok(None),
        }
    }
}

/// What is to be written. Keeps its memory, so that a steady stream of frames allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: FrameBuf,
    sent: usize,
}

impl Outbox {
    /// Forgets everything: another connection begins.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.sent = 0;
    }

    /// Where frames are appended.
    pub fn frames(&mut self) -> &mut FrameBuf {
        &mut self.frames
    }

    /// What a write should write; empty if nothing waits.
    pub fn unsent(&self) -> &[u8] {
        &self.frames[self.sent..]
    }

    /// `bytes` have been written.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        assert!(self.sent <= self.frames.len(), "a write writes no more than it was given");
        if self.sent == self.frames.len() {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::frame::Header;
    use call::limits::BODY_BYTES_MAX;
    use call::{CallId, Kind};

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let mut stream = FrameBuf::new();
        for n in 0..50u128 {
            let header = Header { call: CallId(n), ..Header::new(Kind::Submit) };
            frame::append(&mut stream, &header, &vec![n as u8; (n * 37 % 400) as usize]);
        }
        for step in [1, 7, 63, 64, 65, 1000, stream.len()] {
            let (mut inbox, mut seen) = (Inbox::default(), 0u128);
            for piece in stream.chunks(step) {
                inbox.room().unwrap()[..piece.len()].copy_from_slice(piece);
                inbox.filled(piece.len());
                while let Some(frame) = inbox.next_frame().unwrap() {
                    assert_eq!(
                        (frame.call(), frame.body().len()),
                        (CallId(seen), (seen * 37 % 400) as usize)
                    );
                    seen += 1;
                }
            }
            assert_eq!((seen, inbox.is_mid_frame()), (50, false), "step {step}");
        }
    }

    #[test]
    fn a_large_frame_gets_the_room_it_needs() {
        let mut stream = FrameBuf::new();
        frame::append(&mut stream, &Header::new(Kind::Submit), &vec![9; BODY_BYTES_MAX]);
        let mut inbox = Inbox::default();
        inbox.room().unwrap()[..64].copy_from_slice(&stream[..64]);
        inbox.filled(64);
        assert!(inbox.next_frame().unwrap().is_none());
        let room = inbox.room().unwrap();
        room[..stream.len() - 64].copy_from_slice(&stream[64..]);
        inbox.filled(stream.len() - 64);
        assert_eq!(inbox.next_frame().unwrap().unwrap().body().len(), BODY_BYTES_MAX);
    }

    #[test]
    fn another_protocol_is_recognised_by_its_first_bytes() {
        let mut inbox = Inbox::default();
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: x\r\n\r\n";
        inbox.room().unwrap()[..answer.len()].copy_from_slice(answer);
        inbox.filled(answer.len());
        assert_eq!(inbox.next_frame().unwrap_err(), FrameError::Magic(*b"HTTP"));
    }
}
