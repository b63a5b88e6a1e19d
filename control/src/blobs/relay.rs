//! Pieces of blobs pass here on the ring: from the store's thread to the core that holds the call's lease, be it of this
//! node or of a region that pulled. Nothing is kept for them: who does not hear asks again.

use crate::answers::Refusal;
use crate::node::Node;
use crate::session::{Role, SessionRef};
use call::admin::Answer;
use call::blob::{BlobId, Reference};
use call::frame::{Frame, Kind};
use call::limits::HEADER_BYTES;
use call::{CallId, Epoch};
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
        match self.pulled_on(frame.call(), epoch_of(frame)) {
            Some((holder, Some(home))) if holder == core => self.pass_on(home, frame),
            Some(_) => {}
            None if self.holder(frame.call(), epoch_of(frame)) == Some(core) => {
                self.pass_on(self.store, frame);
            }
            None => {}
        }
    }

    /// The store, or the home of a pulled call, sent a piece.
    pub(crate) fn piece_came(&mut self, frame: &Frame<'_>) {
        let (call, epoch) = (frame.call(), epoch_of(frame));
        let pulled = self.pulled_on(call, epoch).map(|(core, _)| core);
        let core = pulled.or_else(|| self.holder(call, epoch));
        if let Some(to) = core.and_then(|core| self.workers.core(core)).map(|core| core.session) {
            self.pass_on(to, frame);
        }
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
        let full = |_| {
            let message =
                format!("there are {} blobs, as many as may be (limit blobs_max)", self.blobs.len());
            Refusal::new("full", message)
        };
        stored.map_err(full)?;
        Ok(Answer::Done { count: 1 })
    }
}

/// Of which lease a fetch or a piece is.
fn epoch_of(frame: &Frame<'_>) -> Epoch {
    debug_assert!(matches!(frame.kind(), Kind::Fetch | Kind::Piece));
    Epoch(frame.deadline().0)
}
