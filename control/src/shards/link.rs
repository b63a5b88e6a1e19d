//! Connections to the other shards, and what each side says first.

use super::awaited::Wait;
use super::{Connected, Link};
use crate::node::{Node, Phase};
use crate::session::{OUTBOX_BYTES_MAX, Role, SessionRef};
use call::admin::Hello;
use call::frame::{Frame, FrameBuf, Header, Kind, append, flag};
use call::limits::HEADER_BYTES;
use call::{Instant, ShardId, VerdictCode};
use driver::Driver;
use std::time::Duration;

/// Between two tries to connect: a shard of the same host is back within some of them.
const CONNECT_AGAIN: Duration = Duration::from_millis(100);
/// Bytes that may wait for a shard that is slow to read; a submit beyond them is refused as full.
const WAITING_BYTES_MAX: usize = OUTBOX_BYTES_MAX / 4;

impl<D: Driver> Node<D> {
    /// Another shard says hello, in order to pass calls on.
    pub(crate) fn greet_shard(&mut self, session: SessionRef, shard: ShardId, secret: &str) {
        let Some(number) = self.shards.number else {
            return self.close(session, "it says that it is a shard, and this node is alone");
        };
        if secret != self.shards.secret || shard == number {
            return self.close(session, &format!("it says that it is shard {shard}, which it cannot be"));
        }
        self.sessions.will_be_judged(session);
        self.welcome(session, Role::Shard(shard));
    }

    /// One round: connects what is not connected.
    pub(crate) fn turn_siblings(&mut self, now: Instant) {
        for shard in 0..self.shards.links.len() {
            let link = &self.shards.links[shard];
            if link.connection.is_none() && now >= link.connect_at {
                self.connect_sibling(shard as ShardId, now);
            }
        }
    }

    /// When a link has something to do by itself.
    pub(crate) fn siblings_until(&self) -> Instant {
        let links = self.shards.links.iter().filter(|link| link.connection.is_none());
        links.map(|link| link.connect_at).min().unwrap_or(Instant::NEVER)
    }

    fn connect_sibling(&mut self, shard: ShardId, now: Instant) {
        let number = self.shards.number.expect("a shard has links");
        let serves = matches!(self.phase, Phase::Serving | Phase::Draining { .. });
        let link = &mut self.shards.links[usize::from(shard)];
        link.connect_at = now + CONNECT_AGAIN;
        let endpoint = link.endpoint.as_ref().filter(|_| shard != number && serves);
        let Some(endpoint) = endpoint else {
            link.connect_at = Instant::NEVER;
            return;
        };
        let id = self.driver.connect(endpoint);
        let Some(session) = self.sessions.accept(id, now) else {
            self.driver.abort(id);
            return;
        };
        self.sessions.get_mut(session).expect("just accepted").role = Role::Sibling(shard);
        link.connection = Some(Connected { session, is_up: false });
        let hello = Hello::Shard { shard: number, secret: self.shards.secret.clone() };
        let mut frame = FrameBuf::new();
        append(&mut frame, &Header::new(Kind::Hello), &serde_json::to_vec(&hello).expect("plain data"));
        self.sessions.send(&mut self.driver, session, &frame);
    }

    /// Another shard spoke, on our connection to it.
    pub(crate) fn hear_sibling(&mut self, session: SessionRef, shard: ShardId, frame: &Frame<'_>) {
        match frame.kind() {
            Kind::Hello => self.sibling_greets(session, shard, frame),
            Kind::Verdicts => self.hear_verdicts(session, shard, frame),
            Kind::Outcome => self.outcome_from(shard, frame),
            Kind::Recall => self.denied(shard, frame),
            Kind::Answer => self.answer_from(shard, frame),
            Kind::Piece => self.piece_from_sibling(frame),
            // It takes nothing new, and says so to each submit.
            Kind::Drain => {}
            kind => self.close(session, &format!("it sent a {kind:?}, which is not its to say")),
        }
    }

    fn sibling_greets(&mut self, session: SessionRef, shard: ShardId, frame: &Frame<'_>) {
        let link = &mut self.shards.links[usize::from(shard)];
        let (Ok(Hello::Node { .. }), Some(there)) =
            (serde_json::from_slice(frame.body()), link.connection.as_mut())
        else {
            return self.close(session, "its hello is not a node's");
        };
        there.is_up = true;
        self.note(&format!("linked to shard {shard}"));
        // What may have been lost with the last connection is said again, as a client does.
        for at in self.shards.awaited.all_of(shard) {
            match self.shards.awaited.wait(at) {
                Wait::Verdict => {
                    let (header, body) = self.shards.awaited.submit(at).bytes().split_at(HEADER_BYTES);
                    let header = header.try_into().expect("a frame has a header");
                    self.sessions.send_parts(&mut self.driver, session, header, body);
                }
                Wait::Outcome => {
                    let (call, function, _) = self.shards.awaited.named(at);
                    let recall = Header { call, function, flags: flag::WANT_OUTCOME, ..self.recall() };
                    self.sessions.send_parts(&mut self.driver, session, &recall.encode(&[]), &[]);
                }
                Wait::Word => unreachable!("it was refused when the link went down"),
            }
        }
    }

    pub(super) fn recall(&self) -> Header {
        Header { stamp: self.shards.map.version, ..Header::new(Kind::Recall) }
    }

    /// A link's connection is gone. What nobody has accepted is refused for now; what may have been accepted waits.
    pub(crate) fn sibling_down(&mut self, shard: ShardId, why: &str) {
        let again = self.driver.now() + CONNECT_AGAIN;
        let Link { connection, connect_at, .. } = &mut self.shards.links[usize::from(shard)];
        let Some(gone) = connection.take() else { return };
        *connect_at = again;
        if gone.is_up {
            self.note(&format!("the link to shard {shard} is down ({why}); trying again"));
        }
        for at in self.shards.awaited.all_of(shard) {
            if self.shards.awaited.wait(at) == Wait::Word {
                self.refuse_awaited(at, VerdictCode::Draining);
            }
        }
        self.relays_lost(shard);
    }

    /// The session over which a shard is spoken to, if it is there and reads.
    pub(crate) fn way_to(&self, shard: ShardId) -> Result<SessionRef, VerdictCode> {
        let link = self.shards.links.get(usize::from(shard));
        let there = link.and_then(|link| link.connection.as_ref()).filter(|there| there.is_up);
        let session = there.ok_or(VerdictCode::Draining)?.session;
        let waiting = self.sessions.get(session).map_or(0, |session| session.waiting_bytes());
        if waiting > WAITING_BYTES_MAX { Err(VerdictCode::Full) } else { Ok(session) }
    }
}
