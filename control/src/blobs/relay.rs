//! Pieces of blobs pass here on the ring: arguments from the store's thread to the core that holds the call's lease, and
//! results from that core to the store's thread, be the core of this node or of a region that pulled. Nothing is kept for them: who does not hear asks again.

use super::index::Full;
use crate::answers::Refusal;
use crate::node::Node;
use crate::session::{Role, SessionRef};
use call::admin::Answer;
use call::blob::{BlobId, Reference};
use call::frame::{Frame, Header, Kind};
use call::limits::HEADER_BYTES;
use call::{CallId, Epoch, Status};
use driver::Driver;
use durableq::{HolderRef, State};
use scheduler::CoreRef;

impl<D: Driver> Node<D> {
    /// The thread of the store connected.
    pub(crate) fn greet_store(&mut self, session: SessionRef, secret: &str) {
        if secret != self.options.secret {
            return self.close(session, "it gave a wrong secret");
        }
        self.store = session;
        self.welcome(session, Role::Store);
    }

    /// A core wants a piece of the blob of a call whose lease it holds. Of any other call it hears nothing.
    pub(crate) fn fetch_asked(&mut self, core: CoreRef, frame: &Frame<'_>) {
        if Reference::from_bytes(frame.body()).is_err() {
            let session = self.workers.core(core).expect("its session is there").session;
            return self.close(session, "it asked for a blob by a malformed name");
        }
        self.pass_to_store(core, frame);
    }

    /// A core sends a piece of the result of a call whose lease it holds. Of any other call nothing is kept.
    pub(crate) fn keep_asked(&mut self, core: CoreRef, frame: &Frame<'_>) {
        self.pass_to_store(core, frame);
    }

    /// To the store, here or at the home of a pulled call, if the core holds the lease that it speaks of.
    fn pass_to_store(&mut self, core: CoreRef, frame: &Frame<'_>) {
        match self.pulled_on(frame.call(), epoch_of(frame)) {
            Some((holder, Some(home))) if holder == core => self.pass_on(home, frame),
            Some(_) => {}
            None if self.holder(frame.call(), epoch_of(frame)) == Some(core) => {
                self.pass_on(self.store, frame);
            }
            None => {}
        }
    }

    /// The store says how it stands with a result. One that is on disk is known from now on, and the store hears that;
    /// only then does its core.
    pub(crate) fn kept(&mut self, frame: &Frame<'_>) {
        let is_named = frame.status() == Ok(Status::Ok) && !frame.body().is_empty();
        if !is_named {
            return self.piece_came(frame);
        }
        let Ok(blob) = Reference::from_bytes(frame.body()) else {
            return self.close(self.store, "it gave a blob a malformed name");
        };
        let heard = match self.blobs.stored(blob, self.driver.wall()) {
            Ok(()) => Status::Ok,
            Err(Full) => Status::Unavailable,
        };
        let header = Header { level: heard as u8, ..frame.header() };
        // It waits for this word, so there is never more than one.
        self.sessions.send_parts(&mut self.driver, self.store, &header.encode(&[]), &[]);
        if heard == Status::Ok {
            return self.piece_came(frame);
        }
        let why = format!("the result could not be stored: {}", self.blobs_full());
        let Some(core) = self.session_of(frame) else { return };
        self.sessions.send_parts(&mut self.driver, core, &header.encode(why.as_bytes()), why.as_bytes());
    }

    /// The store, or the home of a pulled call, sent a piece, or says how it stands with a result.
    pub(crate) fn piece_came(&mut self, frame: &Frame<'_>) {
        if self.is_of_result(frame) {
            return;
        }
        if let Some(to) = self.session_of(frame) {
            self.pass_on(to, frame);
        }
    }

    /// The connection of the core that holds the lease of which this is.
    fn session_of(&self, frame: &Frame<'_>) -> Option<SessionRef> {
        let (call, epoch) = (frame.call(), epoch_of(frame));
        let pulled = self.pulled_on(call, epoch).map(|(core, _)| core);
        let core = pulled.or_else(|| self.holder(call, epoch))?;
        self.workers.core(core).map(|core| core.session)
    }

    /// The core that holds this lease.
    fn holder(&self, call: CallId, epoch: Epoch) -> Option<CoreRef> {
        match self.queue.find(call)?.state {
            State::Leased(HolderRef(core), live) if live == epoch => Some(CoreRef(core)),
            _ => None,
        }
    }

    /// Sends a frame as it came, unless its receiver is slow: then it will be asked for again.
    fn pass_on(&mut self, to: SessionRef, frame: &Frame<'_>) {
        if self.sessions.get(to).is_some_and(|session| !session.is_congested()) {
            let (header, body) = frame.bytes().split_first_chunk::<HEADER_BYTES>().expect("a frame");
            self.sessions.send_parts(&mut self.driver, to, header, body);
        }
    }

    /// The admin side has put a blob on disk.
    pub(crate) fn blob_stored(&mut self, blob: &str, bytes: u64) -> Result<Answer, Refusal> {
        let id: BlobId = blob.parse().map_err(|error| Refusal::new("bad-request", format!("{error}")))?;
        let stored = self.blobs.stored(Reference { id, bytes }, self.driver.wall());
        stored.map_err(|Full| Refusal::new("full", self.blobs_full()))?;
        Ok(Answer::Done { count: 1 })
    }

    fn blobs_full(&self) -> String {
        format!("there are {} blobs, as many as may be (limit blobs_max)", self.blobs.len())
    }
}

/// Of which lease such a frame is.
fn epoch_of(frame: &Frame<'_>) -> Epoch {
    debug_assert!(matches!(frame.kind(), Kind::Fetch | Kind::Piece | Kind::Keep | Kind::Kept));
    Epoch(frame.deadline().0)
}
