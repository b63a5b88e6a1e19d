//! Results on their way to those who read them: clients, the admin side, and other shards, whose own clients want them.
//!
//! A client asks as a core does, a piece at a time, and whoever asks is written into the frame itself, which comes back
//! with the piece: nothing is kept for them here. Whoever knows a blob's name may read it, as over HTTP.

use crate::node::Node;
use crate::session::{Role, SessionRef};
use call::blob::Reference;
use call::frame::{Frame, Header, Kind};
use call::{CallId, FunctionId, ShardId, Slot, Status};
use driver::Driver;
use durableq::Origin;

/// Instead of an epoch: the piece is for the session that stands where the function does.
const TO_SESSION: u64 = u64::MAX;
/// The piece is for another shard; the lower bits say which. No epoch is as high.
const TO_SHARD: u64 = u64::MAX << 16;

/// [`Header::attempt`] of a question that others are asked, too: who does not have the blob says nothing.
const OTHERS_TOO: u16 = 1;

impl<D: Driver> Node<D> {
    /// A client wants a piece of the result of a call, or the admin side does, or another shard for one of its own.
    pub(crate) fn result_asked(&mut self, session: SessionRef, frame: &Frame<'_>) {
        let Ok(blob) = Reference::from_bytes(frame.body()) else {
            return self.close(session, "it asked for a blob by a malformed name");
        };
        let header = match self.sessions.get(session).map(|entry| &entry.role) {
            Some(Role::Shard(shard)) => Header { deadline: TO_SHARD | u64::from(*shard), ..frame.header() },
            _ => {
                let function = FunctionId(session.origin().0);
                Header { function, deadline: TO_SESSION, attempt: 0, ..frame.header() }
            }
        };
        if self.blobs.touch(blob, self.driver.wall()) {
            return self.pass_parts(self.store, &header, frame.body());
        }
        if header.deadline == TO_SESSION && self.ask_owners(&header, frame.body()) {
            return;
        }
        if header.attempt != OTHERS_TOO {
            let why = format!("blob {} is not there: the result is not kept any more", blob.id);
            let piece = Header { kind: Kind::Piece, level: Status::Damaged as u8, ..header };
            self.give_piece(&piece, why.as_bytes());
        }
    }

    /// Asks the shards that may have the call; whether there is one.
    fn ask_owners(&mut self, header: &Header, body: &[u8]) -> bool {
        let owners = self.owners(header.call);
        let ways: Vec<SessionRef> = owners.into_iter().filter_map(|shard| self.way_to(shard).ok()).collect();
        let attempt = if ways.len() > 1 { OTHERS_TOO } else { 0 };
        for way in &ways {
            self.pass_parts(*way, &Header { attempt, ..*header }, body);
        }
        !ways.is_empty()
    }

    /// Whether a piece is of a result, and not for a core: then it is passed on.
    pub(crate) fn is_of_result(&mut self, frame: &Frame<'_>) -> bool {
        let is = frame.kind() == Kind::Piece && frame.deadline().0 >= TO_SHARD;
        if is {
            self.give_piece(&frame.header(), frame.body());
        }
        is
    }

    fn give_piece(&mut self, header: &Header, body: &[u8]) {
        if header.deadline == TO_SESSION {
            let to = SessionRef::of_origin(Origin(header.function.0));
            let is_reader = |role: &Role| matches!(role, Role::Client { .. } | Role::Admin);
            if self.sessions.get(to).is_some_and(|entry| is_reader(&entry.role)) {
                let header = Header { function: FunctionId(0), deadline: 0, attempt: 0, ..*header };
                self.pass_parts(to, &header, body);
            }
            return;
        }
        let shard = (header.deadline & !TO_SHARD) as ShardId;
        let is_it = |role: &Role| matches!(role, Role::Shard(other) if *other == shard);
        let to = self.sessions.iter().find(|(_, entry)| is_it(&entry.role)).map(|(session, _)| session);
        if let Some(to) = to {
            self.pass_parts(to, &Header { deadline: TO_SESSION, ..*header }, body);
        }
    }

    /// Another shard has a piece for one of ours.
    pub(crate) fn piece_from_sibling(&mut self, frame: &Frame<'_>) {
        if frame.deadline().0 == TO_SESSION {
            self.give_piece(&frame.header(), frame.body());
        }
    }

    /// As [`Node::pass_on`], with another header.
    fn pass_parts(&mut self, to: SessionRef, header: &Header, body: &[u8]) {
        if self.sessions.get(to).is_some_and(|session| !session.is_congested()) {
            self.sessions.send_parts(&mut self.driver, to, &header.encode(body), body);
        }
    }

    /// The other shards that may hold a call, or its end.
    fn owners(&self, call: CallId) -> Vec<ShardId> {
        if self.shards.is_divided() { self.shards.others_of(Slot::of(call)) } else { Vec::new() }
    }
}
