//! Results on their way into the store: the files behind [`call::upload::Receiver`]. Blocks on files: of the thread of the
//! store.
//!
//! A result that is whole is synced, and waits in line for its name: under the store's turn, so that no sweep of the ring
//! and no upload over HTTP is between its name and the word of the ring that it knows of it.

use super::store::{BlobStore, StoreError, Upload};
use call::blob::Reference;
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::upload::{Lease, Part, Receiver, Standing, Taken};
use call::{Epoch, Instant, Status};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::OwnedMutexGuard;

/// Results that come at once: each core sends one at a time, and has an open file here meanwhile.
const COMING_MAX: usize = 256;

/// All results of a node that are on their way. See the module.
pub(super) struct Keeper {
    store: Arc<BlobStore>,
    receiver: Receiver,
    files: Vec<Option<Upload>>,
    /// Those that wait for their names, with what their frames began with.
    line: VecDeque<(Lease, Header)>,
    /// The turn that they wait for, behind those who asked before.
    coming_turn: Option<TurnComing>,
    naming: Option<Naming>,
}

/// Looked at from time to time: nobody is woken by it.
type TurnComing = Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>;

/// A blob that has its name, and of which the ring has not heard.
struct Naming {
    lease: Lease,
    blob: Reference,
    _turn: OwnedMutexGuard<()>,
}

impl Keeper {
    pub fn new(store: Arc<BlobStore>) -> Keeper {
        Keeper {
            store,
            receiver: Receiver::new(COMING_MAX),
            files: (0..COMING_MAX).map(|_| None).collect(),
            line: VecDeque::new(),
            coming_turn: None,
            naming: None,
        }
    }

    /// The connection to the ring is gone, and with it whoever sent.
    pub fn clear(&mut self) {
        *self = Keeper::new(self.store.clone());
    }

    /// Whether something is coming, and whether something waits for others.
    pub fn is_busy(&self) -> (bool, bool) {
        (!self.receiver.is_empty(), !self.line.is_empty())
    }

    /// Drops what nobody sends any more, and goes on with those in line.
    pub fn turn(&mut self, now: Instant, out: &mut FrameBuf) {
        while let Some(place) = self.receiver.idle(now) {
            self.files[place] = None;
        }
        self.name_next(out);
    }

    /// A piece came.
    pub fn piece(&mut self, keep: &Frame<'_>, now: Instant, out: &mut FrameBuf) {
        let header = Header { kind: Kind::Kept, level: Status::Ok as u8, attempt: 0, ..keep.header() };
        let lease = lease_of(keep);
        let bytes = keep.body().len() as u64;
        let part = Part { offset: keep.stamp(), bytes, following: keep.attempt() };
        match self.receiver.piece(lease, part, now) {
            Taken::Begin(place) => {
                let begun = BlobStore::begin(&self.store);
                let written = begun.map(|upload| self.files[place] = Some(upload));
                let written = written.and_then(|()| self.write(place, keep.body()));
                self.answer(written, lease, place, &header, out);
            }
            Taken::Append(place) => {
                let written = self.write(place, keep.body());
                self.answer(written, lease, place, &header, out);
            }
            Taken::Has(has) => append(out, &Header { stamp: has, ..header }, &[]),
            Taken::Whole(_) | Taken::Named(_) => self.stand_in_line(lease, &header, out),
            Taken::NoRoom => {}
            Taken::Malformed => {
                refuse(Status::Unavailable, "the result came in pieces that are none", &header, out);
            }
        }
    }

    fn write(&mut self, place: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let upload = self.files[place].as_mut().expect("it was begun");
        upload.write(bytes)?;
        if !self.receiver.has(place).1 {
            return Ok(());
        }
        let upload = self.files[place].take().expect("written to").sync()?;
        self.files[place] = Some(upload);
        Ok(())
    }

    /// What became of a piece.
    fn answer(
        &mut self,
        written: Result<(), StoreError>,
        lease: Lease,
        place: usize,
        header: &Header,
        out: &mut FrameBuf,
    ) {
        match (written, self.receiver.has(place)) {
            (Ok(()), (has, false)) => append(out, &Header { stamp: has, ..*header }, &[]),
            (Ok(()), (_, true)) => self.stand_in_line(lease, header, out),
            (Err(error), _) => {
                self.files[place] = None;
                self.refuse(&error, lease, header, out);
            }
        }
    }

    fn stand_in_line(&mut self, lease: Lease, header: &Header, out: &mut FrameBuf) {
        let is_named_now = self.naming.as_ref().is_some_and(|naming| naming.lease == lease);
        if !is_named_now && !self.line.iter().any(|(other, _)| *other == lease) {
            self.line.push_back((lease, *header));
        }
        self.name_next(out);
    }

    /// Gives the next in line its name, if it is the store's turn to.
    fn name_next(&mut self, out: &mut FrameBuf) {
        while self.naming.is_none() && !self.line.is_empty() {
            let asked = || -> TurnComing { Box::pin(self.store.turn().clone().lock_owned()) };
            let coming = self.coming_turn.get_or_insert_with(asked);
            let Poll::Ready(turn) = coming.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                return;
            };
            self.coming_turn = None;
            let (lease, header) = self.line.pop_front().expect("looked at");
            self.name(lease, &header, turn, out);
        }
    }

    fn name(&mut self, lease: Lease, header: &Header, turn: OwnedMutexGuard<()>, out: &mut FrameBuf) {
        let blob = match self.receiver.standing(lease) {
            // Dropped while it stood in line.
            None => return,
            Some(Standing::Named(blob)) if self.store.bytes(blob.id) == Some(blob.bytes) => blob,
            // Collected since: it is to come again.
            Some(Standing::Named(_)) => {
                self.receiver.forget(lease);
                return append(out, &Header { stamp: 0, ..*header }, &[]);
            }
            Some(Standing::Whole(place)) => {
                let upload = self.files[place].take().expect("it is whole");
                match upload.finish() {
                    Ok(blob) => blob,
                    Err(error) => return self.refuse(&error, lease, header, out),
                }
            }
        };
        append(out, &Header { stamp: blob.bytes, ..*header }, &blob.to_bytes());
        self.naming = Some(Naming { lease, blob, _turn: turn });
    }

    /// The ring has heard of a blob, or will not know of it: then nobody may name it, and the ring tells its core.
    pub fn heard(&mut self, kept: &Frame<'_>, out: &mut FrameBuf) {
        let lease = lease_of(kept);
        let Some(Naming { blob, .. }) = self.naming.take_if(|naming| naming.lease == lease) else { return };
        if kept.status() == Ok(Status::Ok) {
            self.receiver.named(lease, blob);
        } else {
            self.receiver.forget(lease);
            // The next start removes it otherwise, or finds room for it.
            let _ = self.store.remove(blob.id);
        }
        self.name_next(out);
    }

    fn refuse(&mut self, error: &StoreError, lease: Lease, header: &Header, out: &mut FrameBuf) {
        self.receiver.forget(lease);
        let status = match error {
            StoreError::TooLarge(_) => Status::BadReply,
            StoreError::Full(_) | StoreError::Io(_) => Status::Unavailable,
        };
        refuse(status, &format!("the result could not be stored: {error}"), header, out);
    }
}

fn refuse(status: Status, why: &str, header: &Header, out: &mut FrameBuf) {
    append(out, &Header { level: status as u8, ..*header }, why.as_bytes());
}

fn lease_of(frame: &Frame<'_>) -> Lease {
    Lease { call: frame.call(), epoch: Epoch(frame.deadline().0) }
}
