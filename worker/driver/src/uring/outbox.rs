//! What waits to be sent on one connection: one buffer fills while the other is with the kernel.

use crate::seam::SendError;

/// An idle connection keeps no more than this of each buffer.
const KEPT_BYTES: usize = 1 << 20;
/// As [`KEPT_BYTES`] of one that must be cheap while idle.
const KEPT_LITTLE_BYTES: usize = 8 << 10;

/// The two buffers.
#[derive(Default)]
pub(super) struct Outbox {
    filling: Vec<u8>,
    flight: Vec<u8>,
    /// Bytes of `flight` that the kernel has taken.
    sent: usize,
    /// A send was refused and the caller waits for room.
    refused: bool,
}

impl Outbox {
    /// Queues the parts behind each other, all or nothing, without the first `gone` bytes, which have left already.
    ///
    /// A queue below `limit` takes one message of any size, so the bound is the limit and one message.
    pub(super) fn push(&mut self, parts: &[&[u8]], gone: usize, limit: usize) -> Result<(), SendError> {
        if self.bytes() >= limit {
            self.refused = true;
            return Err(SendError::Full);
        }
        let mut gone = gone;
        for part in parts {
            let skipped = gone.min(part.len());
            self.filling.extend_from_slice(&part[skipped..]);
            gone -= skipped;
        }
        Ok(())
    }

    /// Bytes not yet taken by the kernel.
    pub(super) fn bytes(&self) -> usize {
        self.filling.len() + self.flight.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// What to send now. The bytes stay where they are until [`Outbox::taken`] says that all have gone.
    pub(super) fn next(&mut self) -> &[u8] {
        if self.sent == self.flight.len() {
            self.flight.clear();
            self.sent = 0;
            std::mem::swap(&mut self.filling, &mut self.flight);
        }
        &self.flight[self.sent..]
    }

    /// The receiver took `bytes` of [`Outbox::next`].
    pub(super) fn taken(&mut self, bytes: usize) {
        self.sent += bytes;
        assert!(self.sent <= self.flight.len(), "nobody takes more than there is");
    }

    /// Whether a refused caller may be told to come again: once, at half of the limit.
    pub(super) fn room_again(&mut self, limit: usize) -> bool {
        let room = self.refused && self.bytes() <= limit / 2;
        self.refused &= !room;
        room
    }

    /// Gives memory back once everything has gone.
    pub(super) fn shrink_if_empty(&mut self) {
        if self.is_empty() && self.filling.capacity().max(self.flight.capacity()) > KEPT_LITTLE_BYTES {
            *self = Outbox { refused: self.refused, ..Outbox::default() };
        }
    }

    /// Empties it for another connection. Nothing may be with the kernel.
    pub(super) fn reset(&mut self) {
        for buffer in [&mut self.filling, &mut self.flight] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        (self.sent, self.refused) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_box_refuses_once_and_calls_back_at_half() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(&[&[1; 60], &[2; 60]], 0, 100), Ok(()), "an empty one takes any size");
        assert_eq!(outbox.push(&[&[3; 1]], 0, 100), Err(SendError::Full));
        assert_eq!(outbox.next().len(), 120);
        outbox.taken(60);
        assert!(!outbox.room_again(100));
        outbox.taken(20);
        assert!(outbox.room_again(100));
        assert!(!outbox.room_again(100), "only once");
    }

    #[test]
    fn what_is_with_the_kernel_does_not_move_while_more_is_queued() {
        let mut outbox = Outbox::default();
        outbox.push(&[b"abc"], 0, 100).unwrap();
        let at = outbox.next().as_ptr();
        outbox.push(&[&[9; 4096]], 0, 100).unwrap();
        assert_eq!((outbox.next().as_ptr(), outbox.next()), (at, &b"abc"[..]));
        outbox.taken(3);
        assert_eq!(outbox.next(), &[9; 4096][..]);
    }

    #[test]
    fn what_has_left_already_is_not_queued_again() {
        let mut outbox = Outbox::default();
        outbox.push(&[b"abc", b"def", b"gh"], 4, 100).unwrap();
        assert_eq!(outbox.next(), b"efgh");
    }
}
