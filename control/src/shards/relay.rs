//! Operators' questions and orders about one call, passed on to the shard that holds it. Not on the path of a call.

use crate::node::Node;
use crate::session::{Role, SessionRef};
use call::admin::{Answer, Ask};
use call::frame::{Frame, Header, Kind};
use call::{CallId, ShardId, Slot};
use driver::Driver;
use std::collections::BTreeMap;

/// Questions under way at once; more are answered as not found here.
const RELAYS_MAX: usize = 1024;

/// Questions that other shards are to answer, by the stamp under which they were passed on.
#[derive(Default)]
pub(super) struct Relays {
    waiting: BTreeMap<u64, Relay>,
    stamps: u64,
}

/// One of them.
struct Relay {
    session: SessionRef,
    stamp: u64,
    body: Vec<u8>,
    /// Who is asked now.
    of: ShardId,
    /// Who may hold the call, too.
    left: Vec<ShardId>,
    /// One that does not answer and may hold it.
    away: Option<ShardId>,
}

/// The call that a question is about, if it is about one.
fn call_of(ask: &Ask) -> Option<CallId> {
    match ask {
        Ask::Call { call, .. }
        | Ask::Result { call }
        | Ask::Cancel { call, .. }
        | Ask::Retry { call }
        | Ask::Explain { call }
        | Ask::Redrive { call }
        | Ask::Purge { call } => call.parse().ok(),
        _ => None,
    }
}

impl<D: Driver> Node<D> {
    /// Passes a question on if it is about a call that another shard may hold; whether it did.
    pub(crate) fn relay(&mut self, session: SessionRef, stamp: u64, ask: &Ask, body: &[u8]) -> bool {
        let is_own = matches!(self.sessions.get(session).map(|s| &s.role), Some(Role::Admin));
        if !self.shards.is_divided() || !is_own || self.shards.map.version == 0 {
            return false;
        }
        if let Ask::Forget { asked } = ask {
            self.forget_relay(session, *asked);
        }
        let Some(call) = call_of(ask).filter(|call| self.queue.find(*call).is_none()) else { return false };
        let left = self.shards.others_of(Slot::of(call));
        if left.is_empty() || self.shards.relays.waiting.len() >= RELAYS_MAX {
            return false;
        }
        let relay = Relay { session, stamp, body: body.to_vec(), of: 0, left, away: None };
        self.ask_next(relay);
        true
    }

    /// Asks the next shard that may know; says who is away, or that nobody knows, if there is none.
    fn ask_next(&mut self, mut relay: Relay) {
        while let Some(shard) = relay.left.pop() {
            let Ok(there) = self.way_to(shard) else {
                relay.away = Some(shard);
                continue;
            };
            self.shards.relays.stamps += 1;
            let stamp = self.shards.relays.stamps;
            let header = Header { stamp, ..Header::new(Kind::Ask) }.encode(&relay.body);
            self.sessions.send_parts(&mut self.driver, there, &header, &relay.body);
            relay.of = shard;
            self.shards.relays.waiting.insert(stamp, relay);
            return;
        }
        let (code, message) = match relay.away {
            Some(shard) => {
                ("unavailable", format!("shard {shard}, which may hold the call, does not answer"))
            }
            None => ("not-found", "no shard knows of the call".into()),
        };
        self.answer(relay.session, relay.stamp, &Answer::Error { code: code.into(), message });
    }

    /// Another shard answers.
    pub(super) fn answer_from(&mut self, shard: ShardId, frame: &Frame<'_>) {
        let waiting = &mut self.shards.relays.waiting;
        let Some(relay) = waiting.get(&frame.stamp()).filter(|relay| relay.of == shard) else { return };
        let (to, header) = (relay.session, Header { stamp: relay.stamp, ..frame.header() });
        if frame.attempt() == 0 {
            let relay = waiting.remove(&frame.stamp()).expect("looked at above");
            let is_elsewhere = matches!(
                serde_json::from_slice(frame.body()), Ok(Answer::Error { code, .. }) if code == "not-found"
            );
            if is_elsewhere {
                return self.ask_next(relay);
            }
        }
        self.sessions.send_parts(&mut self.driver, to, &header.encode(frame.body()), frame.body());
    }

    /// Whoever asked this has gone.
    fn forget_relay(&mut self, session: SessionRef, asked: u64) {
        let is_it = |relay: &Relay| (relay.session, relay.stamp) == (session, asked);
        let waiting = &mut self.shards.relays.waiting;
        let Some(stamp) = waiting.iter().find(|(_, relay)| is_it(relay)).map(|(stamp, _)| *stamp) else {
            return;
        };
        let relay = waiting.remove(&stamp).expect("just found");
        if let Ok(there) = self.way_to(relay.of) {
            let body = serde_json::to_vec(&Ask::Forget { asked: stamp }).expect("plain data");
            let header = Header::new(Kind::Ask).encode(&body);
            self.sessions.send_parts(&mut self.driver, there, &header, &body);
        }
    }

    /// A shard is away that was to answer.
    pub(super) fn relays_lost(&mut self, shard: ShardId) {
        let waiting = &mut self.shards.relays.waiting;
        let lost: Vec<Relay> =
            waiting.extract_if(.., |_, relay| relay.of == shard).map(|(_, relay)| relay).collect();
        for relay in lost {
            self.ask_next(Relay { away: Some(shard), ..relay });
        }
    }
}
