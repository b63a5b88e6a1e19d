//! Whose a submit is, and what becomes of one that is another shard's. See the diagram of [`super`].

use super::awaited::{AwaitedRef, Wait};
use crate::node::{Node, Phase};
use crate::session::{Role, SessionRef};
use crate::submitter::retry_after_ms;
use call::body::{Verdict, verdicts};
use call::frame::{Frame, Header, flag};
use call::limits::HEADER_BYTES;
use call::{CallId, ShardId, Slot, Status, VerdictCode};
use driver::Driver;

/// Where a submit goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Into the queue of this shard.
    Here,
    /// First this former owner is asked.
    Ask(ShardId),
    /// To its owner.
    Pass(ShardId),
}

impl<D: Driver> Node<D> {
    /// Takes a submit that may be another shard's: its verdict follows.
    ///
    /// # Errors
    /// The verdict, at once.
    pub(crate) fn route(&mut self, session: SessionRef, frame: &Frame<'_>) -> Result<(), VerdictCode> {
        if self.phase != Phase::Serving {
            return Err(VerdictCode::Draining);
        }
        let way = self.way(frame.call(), 0)?;
        if way == Way::Here {
            return self.accept(session, frame);
        }
        let want = frame.flags() & flag::WANT_OUTCOME != 0;
        if self.queue.recall(frame.call(), want, session.origin())? {
            return Ok(());
        }
        let (wait, to) = match way {
            // It was passed on once: the maps differ for a moment.
            Way::Pass(_) if matches!(self.sessions.get(session).map(|s| &s.role), Some(Role::Shard(_))) => {
                return Err(VerdictCode::Full);
            }
            Way::Pass(owner) => (Wait::Verdict, owner),
            Way::Ask(former) => (Wait::Word, former),
            Way::Here => unreachable!("looked at above"),
        };
        let there = self.way_to(to)?;
        self.make_room(frame.bytes().len())?;
        let at = self.shards.awaited.add(session, frame, wait, to);
        self.shards.passed += u64::from(wait == Wait::Verdict);
        self.shards.asked += u64::from(wait == Wait::Word);
        self.say(at, there);
        Ok(())
    }

    /// Whose a call is, when these shards (by bit) have said that they do not hold it.
    fn way(&self, call: CallId, denied: u64) -> Result<Way, VerdictCode> {
        // A shard that has no map yet owns nothing, and knows nobody who does.
        if self.shards.map.version == 0 {
            return Err(VerdictCode::Draining);
        }
        let home = self.shards.map.home(Slot::of(call));
        if Some(home.owner) != self.shards.number {
            return Ok(Way::Pass(home.owner));
        }
        let open = home.former.iter().find(|former| denied & (1 << **former) == 0);
        Ok(open.map_or(Way::Here, |former| Way::Ask(*former)))
    }

    /// Room for one more submit that waits for another shard.
    fn make_room(&mut self, bytes: usize) -> Result<(), VerdictCode> {
        if !self.shards.awaited.has_room(bytes) {
            let sessions = &self.sessions;
            self.shards.awaited.sweep(|session| sessions.get(session).is_none());
        }
        if self.shards.awaited.has_room(bytes) { Ok(()) } else { Err(VerdictCode::Full) }
    }

    /// Sends what an entry awaits an answer to.
    fn say(&mut self, at: AwaitedRef, to: SessionRef) {
        match self.shards.awaited.wait(at) {
            Wait::Verdict => {
                let submit = self.shards.awaited.submit(at);
                let (header, body) = submit.bytes().split_first_chunk::<HEADER_BYTES>().expect("a frame");
                self.sessions.send_parts(&mut self.driver, to, header, body);
            }
            _ => {
                let (call, function, want) = self.shards.awaited.named(at);
                let flags = if want { flag::WANT_OUTCOME } else { 0 };
                let recall = Header { call, function, flags, ..self.recall() }.encode(&[]);
                self.sessions.send_parts(&mut self.driver, to, &recall, &[]);
            }
        }
    }

    /// Another shard asks whether a call is held here. If it is, its verdict follows, and its outcome if that is wanted.
    pub(crate) fn recalled(&mut self, session: SessionRef, frame: &Frame<'_>) {
        let (call, map) = (frame.call(), &self.shards.map);
        let is_ours = map.version != 0 && Some(map.home(Slot::of(call)).owner) == self.shards.number;
        // Only who cannot accept it any more may deny it.
        let may_deny = map.version >= frame.stamp() && !is_ours;
        let want = frame.flags() & flag::WANT_OUTCOME != 0;
        let status = match self.queue.recall(call, want, session.origin()) {
            Ok(true) => return,
            Ok(false) if may_deny => Status::Ok,
            Ok(false) | Err(_) => Status::Unavailable,
        };
        let header = Header { call, function: frame.function(), level: status as u8, ..self.recall() };
        self.sessions.send_parts(&mut self.driver, session, &header.encode(&[]), &[]);
    }

    /// A shard that was asked does not hold a call, or cannot tell.
    pub(super) fn denied(&mut self, shard: ShardId, frame: &Frame<'_>) {
        let call = frame.call();
        if let Some(at) = self.shards.awaited.find(call, shard, |wait| wait == Wait::Word) {
            match frame.status() {
                Ok(Status::Ok) => self.go_on(at),
                _ => self.refuse_awaited(at, VerdictCode::Full),
            }
        } else if let Some(at) = self.shards.awaited.find(call, shard, |wait| wait == Wait::Outcome) {
            // It ended while the link was down, and was forgotten: whoever waits for its outcome submits it again.
            let session = self.shards.awaited.session(at);
            self.shards.awaited.remove(at);
            if !matches!(self.sessions.get(session).map(|s| &s.role), Some(Role::Admin)) {
                self.close(session, "the outcome that it waits for is not kept any more");
            }
        }
    }

    /// One former owner does not hold a call: the next is asked, or it is taken. By the map that is in force now.
    fn go_on(&mut self, at: AwaitedRef) {
        let denied = self.shards.awaited.deny(at);
        let (call, session) = (self.shards.awaited.named(at).0, self.shards.awaited.session(at));
        let went = match self.way(call, denied) {
            Err(code) => Err(code),
            Ok(Way::Here) => {
                let submit = self.shards.awaited.take_frame(at);
                let accepted = self.accept(session, &Frame::parsed_before(&submit));
                if accepted.is_ok() {
                    return self.shards.awaited.remove(at);
                }
                accepted
            }
            Ok(Way::Ask(former)) => self.turn_to(at, Wait::Word, former),
            Ok(Way::Pass(owner)) => self.turn_to(at, Wait::Verdict, owner),
        };
        if let Err(code) = went {
            self.refuse_awaited(at, code);
        }
    }

    fn turn_to(&mut self, at: AwaitedRef, wait: Wait, to: ShardId) -> Result<(), VerdictCode> {
        let there = self.way_to(to)?;
        self.shards.awaited.turn_to(at, wait, to);
        self.say(at, there);
        Ok(())
    }

    /// A submit that waited for another shard is refused.
    pub(super) fn refuse_awaited(&mut self, at: AwaitedRef, code: VerdictCode) {
        let (call, session) = (self.shards.awaited.named(at).0, self.shards.awaited.session(at));
        self.shards.awaited.remove(at);
        self.stats.refused += 1;
        self.sessions.judge(session, Verdict::new(call, code, retry_after_ms(code)), &mut self.driver);
    }

    /// Verdicts of another shard, about what it was passed or asked.
    pub(super) fn hear_verdicts(&mut self, session: SessionRef, shard: ShardId, frame: &Frame<'_>) {
        let Ok(verdicts) = verdicts(frame.body()) else {
            return self.close(session, "its verdicts are malformed");
        };
        for verdict in verdicts {
            let Ok(code) = verdict.code() else {
                return self.close(session, "its verdict is none that this node knows");
            };
            self.verdict_from(shard, verdict.call(), code, verdict.retry_after_ms.to_native());
        }
    }

    fn verdict_from(&mut self, shard: ShardId, call: CallId, code: VerdictCode, retry_after_ms: u32) {
        // Of a call whose outcome alone is awaited the verdict is known already.
        let Some(at) = self.shards.awaited.find(call, shard, |wait| wait != Wait::Outcome) else { return };
        self.shards.found += u64::from(self.shards.awaited.wait(at) == Wait::Word && code.is_held());
        let (session, want) = (self.shards.awaited.session(at), self.shards.awaited.named(at).2);
        if want && code.is_held() {
            self.shards.awaited.held(at);
        } else {
            self.shards.awaited.remove(at);
        }
        self.sessions.judge(session, Verdict::new(call, code, retry_after_ms), &mut self.driver);
    }

    /// A call has ended at another shard: all who wait for it hear that, byte for byte.
    pub(super) fn outcome_from(&mut self, shard: ShardId, frame: &Frame<'_>) {
        let (header, body) = frame.bytes().split_first_chunk::<HEADER_BYTES>().expect("a frame");
        let waits = |wait| wait == Wait::Outcome;
        while let Some(at) = self.shards.awaited.find(frame.call(), shard, waits) {
            let session = self.shards.awaited.session(at);
            self.shards.awaited.remove(at);
            // Its verdict may have come in this very round.
            self.sessions.send_verdicts_to(session, &mut self.driver);
            self.sessions.send_parts(&mut self.driver, session, header, body);
        }
    }
}
