//! The submitter: the trust boundary. What passes here has been validated once, and for good.

use crate::node::{Node, Phase};
use crate::session::SessionRef;
use call::VerdictCode;
use call::blob::Reference;
use call::body::{Verdict, arguments};
use call::frame::Frame;
use driver::Driver;

/// When a client that was told "full" should come back, ms: about what a full queue of short calls needs to free a
/// visible part of itself.
const RETRY_AFTER_MS: u32 = 50;
/// When a client that was told "the backlog is full" should come back, ms: what waits behind a bound that somebody set
/// goes at the pace of one function.
const BACKLOG_MS: u32 = 1000;
/// When a client that was told "draining" should come back, ms: a restart takes about as long.
const RESTART_MS: u32 = 1000;

/// When a client that was refused should come back, ms; 0 if that is of no use.
pub(crate) fn retry_after_ms(code: VerdictCode) -> u32 {
    match code {
        VerdictCode::Full | VerdictCode::DiskFailed => RETRY_AFTER_MS,
        VerdictCode::Backlog => BACKLOG_MS,
        VerdictCode::Draining => RESTART_MS,
        _ => 0,
    }
}

impl<D: Driver> Node<D> {
    /// A client submits a call. Its verdict leaves with the others of the round in which it is known.
    pub(crate) fn submit(&mut self, session: SessionRef, frame: &Frame<'_>) {
        let taken = match self.shards.is_divided() {
            true => self.route(session, frame),
            false => self.accept(session, frame),
        };
        if let Err(code) = taken {
            self.stats.refused += 1;
            let verdict = Verdict::new(frame.call(), code, retry_after_ms(code));
            self.sessions.judge(session, verdict, &mut self.driver);
        }
    }

    /// Hands the call to the durable queue, whose verdict follows when it is on disk.
    pub(crate) fn accept(&mut self, session: SessionRef, frame: &Frame<'_>) -> Result<(), VerdictCode> {
        if self.phase != Phase::Serving {
            return Err(VerdictCode::Draining);
        }
        let function = match self.catalog.find(frame.function()) {
            Some(function) => durableq::FunctionRef(function.0),
            None => self.deleted_function_of(frame).ok_or(VerdictCode::UnknownFunction)?,
        };
        if self.shapes.is_closed(frame.function()) && self.queue.find(frame.call()).is_none() {
            // One that it holds is told so, as ever.
            return Err(VerdictCode::Closed);
        }
        let read = arguments(frame.body()).map_err(|_| VerdictCode::Malformed)?;
        if let Some(blob) = Reference::of(frame, read).map_err(|_| VerdictCode::Malformed)?
            && !self.blobs.touch(blob, self.driver.wall())
            && self.queue.find(frame.call()).is_none()
        {
            // Of one that it holds or has run the blob may be gone.
            return Err(VerdictCode::NoBlob);
        }
        self.queue.submit(&mut self.disk.lend(&mut self.driver), *frame, function, session.origin())
    }

    /// The function of a call that was accepted before its function was deleted: a client that submits it again, after
    /// its connection broke, hears that it is held, and its outcome.
    fn deleted_function_of(&self, frame: &Frame<'_>) -> Option<durableq::FunctionRef> {
        self.queue.find(frame.call())?;
        self.queue.function(frame.function())
    }
}
