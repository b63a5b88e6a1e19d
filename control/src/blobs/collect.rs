//! Garbage collection of blobs: mark and sweep.
//!
//! A walk over all pending calls and dead letters, and then over all ends that are remembered, a few of them in each
//! round, marks the blobs that they and their outcomes name: calls become ends and never the other way round. Outcomes are in
//! memory, and of one that names no blob only the header is read. An end that is remembered for no set time keeps its
//! result while the store is less than half full: so it is with all that such an end has, which goes where room is needed. Nothing
//! counts references, so that no crash can leave a wrong count behind. A blob that was not marked leaves the index, and
//! then its file goes, if nobody has stored, named or marked it for a time of grace: a submit may be on its way, and the
//! record of a call's end may not be on disk yet.
//!
//! What cannot be read is not judged: while a call that names a blob has a damaged record, nothing is removed.

use crate::answers::Refusal;
use crate::node::Node;
use crate::session::SessionRef;
use crate::walk::{CLOCK_CALLS, READ, ROUND_CALLS, ROUND_TIME, UNREAD_MAX};
use call::admin::{Answer, Collected};
use call::blob::Reference;
use call::{CallId, Instant, WallTime};
use driver::Driver;
use durableq::CallRef;

/// Blobs that one collection removes at most: their names are one answer.
const REMOVED_MAX: usize = 4096;

/// A call that names a blob, and whose frame is not in memory.
struct Unread {
    number: u32,
    call: CallId,
    until: Instant,
}

/// A collection that is under way, for whoever asked.
pub(crate) struct Collection {
    session: SessionRef,
    stamp: u64,
    dry_run: bool,
    begun: WallTime,
    /// The next number to look at.
    number: u32,
    /// The next ends to look at, by position; of the two kinds.
    ends: [Option<u32>; 2],
    unread: Vec<Unread>,
    named: u64,
    unreadable: u64,
}

impl<D: Driver> Node<D> {
    /// Begins to collect.
    pub(crate) fn collect_asked(
        &mut self,
        session: SessionRef,
        stamp: u64,
        dry_run: bool,
    ) -> Result<Option<Answer>, Refusal> {
        if self.collection.is_some() {
            return Err(Refusal::new("full", "a collection of blobs is under way already"));
        }
        let (bytes, count) = (self.blobs.bytes(), self.blobs.len());
        let has_room = bytes <= self.limits.blobs_bytes_max / 2 && count <= self.limits.blobs_max / 2;
        self.collection = Some(Collection {
            session,
            stamp,
            dry_run,
            begun: self.driver.wall(),
            number: 0,
            ends: [has_room.then_some(self.queue.ends().start), Some(self.queue.retained().start)],
            unread: Vec::new(),
            named: 0,
            unreadable: 0,
        });
        Ok(None)
    }

    /// Goes on with the collection, and answers if that is its end.
    pub(crate) fn collect_on(&mut self) {
        let Some(mut of) = self.collection.take() else { return };
        self.mark_some(&mut of);
        self.mark_read(&mut of);
        self.mark_ends(&mut of);
        if of.number >= self.queue.numbers() && of.ends == [None, None] && of.unread.is_empty() {
            let answer = Answer::Collected(self.sweep(&of));
            self.answer(of.session, of.stamp, &answer);
        } else {
            self.collection = Some(of);
        }
    }

    /// Frames came from the disk, and may leave memory again soon.
    pub(crate) fn collection_read(&mut self) {
        if let Some(mut of) = self.collection.take() {
            self.mark_read(&mut of);
            self.collection = Some(of);
        }
    }

    /// When [`Node::collect_on`] is to be called.
    pub(crate) fn collect_until(&self) -> Instant {
        match &self.collection {
            None => Instant::NEVER,
            Some(of) if of.unread.len() < UNREAD_MAX && of.number < self.queue.numbers() => self.driver.now(),
            Some(of) if of.number >= self.queue.numbers() && of.ends != [None, None] => self.driver.now(),
            Some(of) => of.unread.iter().map(|unread| unread.until).min().unwrap_or(self.driver.now()),
        }
    }

    /// Whoever asked has gone: nothing is removed.
    pub(crate) fn forget_collection(&mut self, session: SessionRef, stamp: u64) {
        self.collection = self.collection.take().filter(|of| (of.session, of.stamp) != (session, stamp));
    }

    fn mark_some(&mut self, of: &mut Collection) {
        let (now, until) = (self.driver.now(), self.driver.precise() + ROUND_TIME);
        for n in 1..=ROUND_CALLS {
            if of.number >= self.queue.numbers() || of.unread.len() >= UNREAD_MAX {
                return;
            }
            let number = of.number;
            of.number += 1;
            let view = self.queue.view(CallRef(number));
            if let Some(blob) = view.as_ref().and_then(|view| Reference::in_outcome(view.outcome.as_ref()?)) {
                of.named += 1;
                self.blobs.touch(blob, of.begun);
            }
            if let Some(view) = view.filter(|view| view.names_blob) {
                match view.submit.as_ref().and_then(Reference::in_frame) {
                    Some(blob) => {
                        of.named += 1;
                        self.blobs.touch(blob, of.begun);
                    }
                    None => of.unread.push(Unread { number, call: view.id, until: now + READ }),
                }
            }
            if n.is_multiple_of(CLOCK_CALLS) && self.driver.precise() >= until {
                return;
            }
        }
    }

    /// Marks what outcomes of calls name that have ended, once all others were looked at.
    fn mark_ends(&mut self, of: &mut Collection) {
        let until = self.driver.precise() + ROUND_TIME;
        if of.number < self.queue.numbers() {
            return;
        }
        for (kind, next) in of.ends.iter_mut().enumerate() {
            for n in 1..=ROUND_CALLS {
                let ends = if kind == 0 { self.queue.ends() } else { self.queue.retained() };
                // Those before the first are forgotten. Positions wrap around.
                let is_there = |at: &u32| at.wrapping_sub(ends.start) < ends.end.wrapping_sub(ends.start);
                let Some(position) = next.filter(|at| *at != ends.end) else {
                    *next = None;
                    break;
                };
                let position = if is_there(&position) { position } else { ends.start };
                *next = Some(position.wrapping_add(1));
                let end = match kind {
                    0 => self.queue.view_end(position),
                    _ => self.queue.view_retained(position),
                };
                if let Some(blob) = end.and_then(|end| Reference::in_outcome(end.outcome.as_ref()?)) {
                    of.named += 1;
                    self.blobs.touch(blob, of.begun);
                }
                if n.is_multiple_of(CLOCK_CALLS) && self.driver.precise() >= until {
                    return;
                }
            }
        }
    }

    /// Marks what calls name whose frames are in memory now, asks for the others, and gives up those that do not come.
    fn mark_read(&mut self, of: &mut Collection) {
        let now = self.driver.now();
        for unread in std::mem::take(&mut of.unread) {
            let is_here = self.queue.fetch(unread.call);
            // It may have ended meanwhile, and its number be another's, who was touched when it came.
            let view = self.queue.view(CallRef(unread.number)).filter(|view| view.id == unread.call);
            match view.filter(|view| view.bytes > 0) {
                None => {}
                Some(view) => match view.submit.as_ref().and_then(Reference::in_frame) {
                    Some(blob) => {
                        of.named += 1;
                        self.blobs.touch(blob, of.begun);
                    }
                    None if !is_here && now < unread.until => of.unread.push(unread),
                    None => of.unreadable += 1,
                },
            }
        }
    }

    /// All calls were looked at.
    fn sweep(&mut self, of: &Collection) -> Collected {
        // A copy is being made, which needs what the log needed when it began.
        let is_held = self.held_until != Instant(0);
        let before = WallTime(of.begun.0.saturating_sub(call::time::nanos(self.limits.blob_grace)));
        let garbage = match of.unreadable {
            0 if !is_held => self.blobs.untouched_since(before, REMOVED_MAX),
            _ => Vec::new(),
        };
        if !of.dry_run {
            garbage.iter().for_each(|blob| self.blobs.forget(blob.id));
        }
        Collected {
            blobs: garbage.iter().map(|blob| blob.id.to_string()).collect(),
            count: garbage.len() as u64,
            bytes: garbage.iter().map(|blob| blob.bytes).sum(),
            named: of.named,
            unreadable: of.unreadable,
            held: is_held,
            left: self.blobs.len() as u64,
            left_bytes: self.blobs.bytes(),
        }
    }
}
