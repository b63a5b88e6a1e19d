//! Results that the node has as blobs: fetched piece by piece, one after the other, checked, and told then.
//!
//! No I/O and no clock, as in [`crate::session`].

use crate::error::Error;
use crate::session::Outcome;
use call::blob::{BlobId, PIECE_BYTES, Reference};
use call::frame::{self, FrameBuf, Header};
use call::upload::{AGAIN, PATIENCE};
use call::{Frame, FrameError, Kind, Status};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::time::Instant;

/// A call that has ended, and whose result comes.
#[derive(Debug)]
struct Coming {
    outcome: Outcome,
    blob: Reference,
    hash: Sha256,
}

/// All of a session. See the module.
#[derive(Debug)]
pub(crate) struct Results {
    /// The first one is being fetched; what came of it stands in its outcome.
    queue: VecDeque<Coming>,
    /// When to ask for its next piece; at once if there is none.
    ask_at: Option<Instant>,
    /// When it is given up; counted from the first question.
    give_up_at: Option<Instant>,
}

impl Results {
    pub fn new() -> Results {
        Results { queue: VecDeque::new(), ask_at: None, give_up_at: None }
    }

    /// How many have not come.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// A call has ended whose result is this blob.
    pub fn add(&mut self, outcome: Outcome, blob: Reference, now: Instant) {
        if self.queue.is_empty() {
            (self.ask_at, self.give_up_at) = (None, Some(now + PATIENCE));
        }
        self.queue.push_back(Coming { outcome, blob, hash: Sha256::new() });
    }

    /// A new connection: what was asked for on the last one is lost.
    pub fn ask_anew(&mut self) {
        self.ask_at = None;
    }

    /// Asks for the next piece, if it is time to.
    pub fn ask(&mut self, now: Instant, out: &mut FrameBuf) {
        let Some(first) = self.queue.front() else { return };
        if self.ask_at.is_some_and(|at| now < at) {
            return;
        }
        let (call, stamp) = (first.outcome.call, first.outcome.output.len() as u64);
        frame::append(out, &Header { call, stamp, ..Header::new(Kind::Fetch) }, &first.blob.to_bytes());
        self.ask_at = Some(now + AGAIN);
    }

    /// When there is something to do by itself.
    pub fn alarm(&self, is_connected: bool) -> Option<Instant> {
        let (give_up_at, ask_at) = (self.give_up_at, self.ask_at);
        self.queue.front().and_then(|_| match ask_at {
            Some(at) if is_connected => give_up_at.map(|give_up| give_up.min(at)),
            _ => give_up_at,
        })
    }

    /// The call whose result did not come in time.
    pub fn given_up(&mut self, now: Instant) -> Option<Outcome> {
        if self.queue.is_empty() || self.give_up_at.is_none_or(|at| now < at) {
            return None;
        }
        Some(self.lost(now, format!("the node did not send the result in {PATIENCE:?}")))
    }

    /// A piece came. The call whose result is whole with it, or will not be. One that was not asked for, or came twice, is
    /// left.
    ///
    /// # Errors
    /// It has another length than was asked for.
    pub fn piece(&mut self, frame: &Frame<'_>, now: Instant) -> Result<Option<Outcome>, Error> {
        let Some(first) = self.queue.front_mut() else { return Ok(None) };
        let had = first.outcome.output.len() as u64;
        if (first.outcome.call, had) != (frame.call(), frame.stamp()) {
            return Ok(None);
        }
        if frame.status() != Ok(Status::Ok) {
            let why = String::from_utf8_lossy(frame.body()).into_owned();
            return Ok(Some(self.lost(now, why)));
        }
        if frame.body().len() as u64 != first.blob.bytes.saturating_sub(had).min(PIECE_BYTES as u64) {
            return Err(Error::Malformed(FrameError::Body));
        }
        first.hash.update(frame.body());
        first.outcome.output.extend_from_slice(frame.body());
        (self.ask_at, self.give_up_at) = (None, Some(now + PATIENCE));
        if (first.outcome.output.len() as u64) < first.blob.bytes {
            return Ok(None);
        }
        if BlobId(first.hash.clone().finalize().into()) != first.blob.id {
            let why = format!("what came is not blob {}", first.blob.id);
            return Ok(Some(self.lost(now, why)));
        }
        Ok(Some(self.next(now)))
    }

    fn next(&mut self, now: Instant) -> Outcome {
        (self.ask_at, self.give_up_at) = (None, Some(now + PATIENCE));
        self.queue.pop_front().expect("it was being fetched").outcome
    }

    /// The call ran, and its result is lost.
    fn lost(&mut self, now: Instant, why: String) -> Outcome {
        let outcome = self.next(now);
        let why = format!("the call ended as {}, and its result is lost: {why}", outcome.status.name());
        Outcome { status: Status::Damaged, output: Vec::new(), stderr: why.into_bytes(), ..outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::{CallId, FunctionId, Usage};
    use std::time::Duration;

    fn blob_of(bytes: &[u8]) -> Reference {
        Reference { id: BlobId(Sha256::digest(bytes).into()), bytes: bytes.len() as u64 }
    }

    fn outcome(call: u128) -> Outcome {
        Outcome {
            call: CallId(call),
            function: FunctionId(9),
            status: Status::Ok,
            attempt: 1,
            usage: Usage::default(),
            output: Vec::new(),
            stderr: b"said".to_vec(),
        }
    }

    /// The call and the offset that are asked for now.
    fn asked(results: &mut Results, now: Instant) -> Option<(u128, u64)> {
        let mut out = FrameBuf::new();
        results.ask(now, &mut out);
        let (frame, _) = Frame::parse(&out).ok()?;
        Some((frame.call().0, frame.stamp()))
    }

    fn say(
        results: &mut Results,
        call: u128,
        stamp: u64,
        status: Status,
        body: &[u8],
        now: Instant,
    ) -> Option<Outcome> {
        let mut out = FrameBuf::new();
        let header = Header { call: CallId(call), stamp, level: status as u8, ..Header::new(Kind::Piece) };
        frame::append(&mut out, &header, body);
        results.piece(&Frame::parse(&out).unwrap().0, now).unwrap()
    }

    #[test]
    fn results_come_one_after_the_other_and_whole() {
        let (mut results, now) = (Results::new(), Instant::now());
        let bytes: Vec<u8> = (0..2 * PIECE_BYTES + 5).map(|n| (n * 7 + n / 256) as u8).collect();
        results.add(outcome(1), blob_of(&bytes), now);
        results.add(outcome(2), blob_of(b"small"), now);
        let mut now = now;
        for (at, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let offset = (at * PIECE_BYTES) as u64;
            assert_eq!(asked(&mut results, now), Some((1, offset)));
            assert_eq!(asked(&mut results, now), None, "it is on its way");
            // Lost: asked for again, and on a new connection at once.
            assert_eq!(asked(&mut results, now + AGAIN), Some((1, offset)));
            results.ask_anew();
            assert_eq!(asked(&mut results, now + AGAIN), Some((1, offset)));
            now += Duration::from_secs(20);
            assert!(results.given_up(now).is_none());
            let ended = say(&mut results, 1, offset, Status::Ok, piece, now);
            assert_eq!(ended.is_some(), at == 2);
            if let Some(ended) = ended {
                assert!(ended.output == bytes && ended.status == Status::Ok && ended.stderr == b"said");
            } else {
                assert!(say(&mut results, 1, offset, Status::Ok, piece, now).is_none(), "it came twice");
            }
        }
        assert_eq!(asked(&mut results, now), Some((2, 0)));
        assert_eq!(say(&mut results, 2, 0, Status::Ok, b"small", now).unwrap().output, b"small");
        assert_eq!((results.len(), results.alarm(true)), (0, None));
    }

    #[test]
    fn what_is_not_there_as_it_was_is_told_and_never_given() {
        let (mut results, now) = (Results::new(), Instant::now());
        for call in 1..=3 {
            results.add(outcome(call), blob_of(b"right"), now);
        }
        let lost = say(&mut results, 1, 0, Status::Ok, b"wrong", now).unwrap();
        assert!(lost.status == Status::Damaged && lost.output.is_empty(), "{lost:?}");
        let lost = say(&mut results, 2, 0, Status::Damaged, b"it decayed", now).unwrap();
        assert!(
            String::from_utf8(lost.stderr)
                .unwrap()
                .ends_with("ended as ok, and its result is lost: it decayed")
        );
        assert_eq!(
            results.alarm(true),
            Some(now + PATIENCE),
            "the next is to be asked for, which `ask` does"
        );
        let lost = results.given_up(now + PATIENCE).unwrap();
        assert_eq!((lost.call, lost.status, results.len()), (CallId(3), Status::Damaged, 0));
    }
}
