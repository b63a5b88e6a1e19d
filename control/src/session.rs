//! Connections: who speaks on each, and what waits to be sent to it.
//!
//! What a connection's queue in the driver does not take waits in its *outbox*, in order, and follows when there is
//! [`Event::Room`](driver::Event::Room). A peer that reads so slowly that the outbox exceeds its bound is closed: a
//! client loses nothing by it, for it submits again by id and hears "duplicate".

use call::body::Verdict;
use call::frame::{FrameBuf, frame_bytes, padded};
use call::limits::{BODY_BYTES_MAX, FRAME_ALIGN, HEADER_BYTES, Limits};
use call::{CallId, Instant, ShardId};
use driver::{ConnectionId, Driver, SendError};
use durableq::Origin;
use scheduler::{CoreRef, HostRef};
use std::collections::BTreeMap;

/// Bytes that may wait for a slow peer beyond its queue in the driver: two of the largest frames, so that one always
/// fits behind another.
pub const OUTBOX_BYTES_MAX: usize = 2 * (BODY_BYTES_MAX + 128);

/// Verdicts of one frame: as many as make its header nothing beside them. A client's list of them, and the buffer in
/// which they are encoded, have this size from the start, so that a burst makes neither grow.
const VERDICTS_PER_FRAME: usize = 256;

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Has not said hello yet.
    Stranger,
    /// Submits calls.
    Client {
        /// As it calls itself.
        name: String,
    },
    /// A worker core.
    Core(CoreRef),
    /// The supervisor of a host's cores.
    Host(HostRef),
    /// Another region's node, from which this one pulls: the number of the link.
    Home(u16),
    /// Another shard, which passes calls on to this one.
    Shard(ShardId),
    /// Another shard, to which this one passes calls on.
    Sibling(ShardId),
    /// The node's own admin side.
    Admin,
    /// The node's own thread that reads blobs.
    Store,
}

/// A session for ever: the place in the table and which session of that place. Zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct SessionRef {
    place: u32,
    /// From 1.
    generation: u32,
}

impl SessionRef {
    /// No session.
    pub const NOBODY: SessionRef = SessionRef { place: 0, generation: 0 };

    /// As the durable queue keeps it for whoever wants a verdict or an outcome.
    pub fn origin(self) -> Origin {
        Origin(u64::from(self.generation) << 32 | u64::from(self.place))
    }

    /// Back from [`SessionRef::origin`].
    pub fn of_origin(origin: Origin) -> SessionRef {
        SessionRef { place: origin.0 as u32, generation: (origin.0 >> 32) as u32 }
    }
}

/// One connection.
pub struct Session {
    /// In the driver.
    pub connection: ConnectionId,
    /// Who is at the other end.
    pub role: Role,
    /// When it was accepted.
    pub since: Instant,
    /// Cores and hosts: functions numbered below this have been published to it.
    pub published: u32,
    /// Verdicts of this round.
    verdicts: Vec<Verdict>,
    outbox: Outbox,
    /// Closed by this side; waits for the driver's last event.
    closing: bool,
}

impl Session {
    /// Whether a frame sent now would wait.
    pub fn is_congested(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Bytes that wait for room, so far.
    pub fn waiting_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Closed by this side: what still arrives is not heard.
    pub fn is_closing(&self) -> bool {
        self.closing
    }
}

/// Frames in order that wait for room.
#[derive(Default)]
struct Outbox {
    frames: FrameBuf,
    /// Sent already.
    head: usize,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.head == self.frames.len()
    }

    fn bytes(&self) -> usize {
        self.frames.len() - self.head
    }

    /// Keeps frames behind the others. What was sent makes room first once it is the larger part, so that memory is
    /// bounded by what waits and each byte is moved at most once on average.
    fn keep(&mut self, frames: &[u8]) {
        if self.head > self.bytes() {
            self.frames.copy_within(self.head.., 0);
            self.frames.resize(self.bytes(), 0);
            self.head = 0;
        }
        self.frames.extend_from_slice(frames);
    }

    /// Sends as many whole frames as the driver takes.
    fn flush<D: Driver>(&mut self, driver: &mut D, to: ConnectionId) {
        while !self.is_empty() {
            let rest = &self.frames[self.head..];
            let whole = frame_bytes(rest).ok().flatten().expect("only whole frames wait");
            if driver.send(to, &rest[..whole]).is_err() {
                return;
            }
            self.head += whole;
        }
        self.frames.clear();
        self.head = 0;
    }
}

/// All connections.
pub struct Sessions {
    places: Vec<Place>,
    free: Vec<u32>,
    by_connection: BTreeMap<ConnectionId, u32>,
    /// The last one looked up: frames of one connection come in a row.
    last: Option<(ConnectionId, u32)>,
    /// Places with verdicts of this round.
    judged: Vec<u32>,
    clients: usize,
    clients_max: usize,
    scratch: FrameBuf,
    /// What an operator should read: whose connection was closed, and why.
    pub notes: Vec<String>,
    /// Peers closed because they did not read.
    pub slow: u64,
}

#[derive(Default)]
struct Place {
    generation: u32,
    session: Option<Session>,
}

impl Sessions {
    /// Room for all clients, cores, their hosts, other shards, the admin side and the store of blobs.
    pub fn new(limits: &Limits) -> Sessions {
        let places = limits.clients_max + 2 * limits.cores_max + crate::shards::SESSIONS_MAX + 3;
        Sessions {
            places: (0..places).map(|_| Place::default()).collect(),
            free: (0..places as u32).rev().collect(),
            by_connection: BTreeMap::new(),
            last: None,
            judged: Vec::with_capacity(places),
            clients: 0,
            clients_max: limits.clients_max,
            scratch: FrameBuf::with_capacity(2 * VERDICTS_PER_FRAME * size_of::<Verdict>()),
            notes: Vec::new(),
            slow: 0,
        }
    }

    /// A peer connected. `None` if the table is full: the caller closes the connection.
    pub fn accept(&mut self, connection: ConnectionId, now: Instant) -> Option<SessionRef> {
        let place = self.free.pop()?;
        let slot = &mut self.places[place as usize];
        slot.generation += 1;
        slot.session = Some(Session {
            connection,
            role: Role::Stranger,
            since: now,
            published: 0,
            verdicts: Vec::new(),
            outbox: Outbox::default(),
            closing: false,
        });
        let generation = slot.generation;
        self.by_connection.insert(connection, place);
        Some(SessionRef { place, generation })
    }

    /// Which session a connection is; none of one that was refused.
    pub fn find(&mut self, connection: ConnectionId) -> Option<SessionRef> {
        let place = match self.last {
            Some((last, place)) if last == connection => place,
            _ => *self.by_connection.get(&connection)?,
        };
        self.last = Some((connection, place));
        Some(SessionRef { place, generation: self.places[place as usize].generation })
    }

    /// A session that is still there.
    pub fn get(&self, session: SessionRef) -> Option<&Session> {
        let place = self.places.get(session.place as usize)?;
        if place.generation == session.generation { place.session.as_ref() } else { None }
    }

    /// A session that is still there, to change.
    pub fn get_mut(&mut self, session: SessionRef) -> Option<&mut Session> {
        let place = self.places.get_mut(session.place as usize)?;
        if place.generation == session.generation { place.session.as_mut() } else { None }
    }

    /// All sessions, by place.
    pub fn iter(&self) -> impl Iterator<Item = (SessionRef, &Session)> {
        self.places.iter().enumerate().filter_map(|(place, slot)| {
            let session = slot.session.as_ref()?;
            Some((SessionRef { place: place as u32, generation: slot.generation }, session))
        })
    }

    /// A stranger said that it is a client. False if there are as many as there may be.
    pub fn become_client(&mut self, session: SessionRef, name: String) -> bool {
        let fits = self.clients < self.clients_max;
        if fits && let Some(entry) = self.get_mut(session) {
            entry.role = Role::Client { name };
            entry.verdicts.reserve_exact(VERDICTS_PER_FRAME);
            self.clients += 1;
        }
        fits
    }

    /// Room for the verdicts of a peer that is no client and submits calls.
    pub fn will_be_judged(&mut self, session: SessionRef) {
        if let Some(entry) = self.get_mut(session) {
            entry.verdicts.reserve_exact(VERDICTS_PER_FRAME);
        }
    }

    /// The connection is gone: forgets the session and gives it back.
    pub fn remove(&mut self, connection: ConnectionId) -> Option<(SessionRef, Session)> {
        let place = self.by_connection.remove(&connection)?;
        self.last = None;
        let slot = &mut self.places[place as usize];
        let session = slot.session.take().expect("indexed");
        let generation = slot.generation;
        self.free.push(place);
        if matches!(session.role, Role::Client { .. }) {
            self.clients -= 1;
        }
        Some((SessionRef { place, generation }, session))
    }

    /// Sends whole frames, after what waits already. A peer that is gone loses them.
    pub fn send<D: Driver>(&mut self, driver: &mut D, to: SessionRef, frames: &[u8]) {
        let Some(session) = self.get_mut(to) else { return };
        let note = post(driver, session, frames);
        self.slow += u64::from(note.is_some());
        self.notes.extend(note);
    }

    /// As [`Sessions::send`], for a frame whose body is elsewhere in memory.
    pub fn send_parts<D: Driver>(
        &mut self,
        driver: &mut D,
        to: SessionRef,
        header: &[u8; HEADER_BYTES],
        body: &[u8],
    ) {
        let Some(session) = self.get_mut(to) else { return };
        let note = post_parts(driver, session, header, body);
        self.slow += u64::from(note.is_some());
        self.notes.extend(note);
    }

    /// Sends what waits, now that there is room.
    pub fn flush<D: Driver>(&mut self, driver: &mut D, to: SessionRef) {
        let Some(session) = self.get_mut(to) else { return };
        session.outbox.flush(driver, session.connection);
    }

    /// Takes a core's name from a connection that is being closed, so that its end is dealt with once.
    pub fn retire(&mut self, session: SessionRef) -> Option<CoreRef> {
        let entry = self.get_mut(session)?;
        let Role::Core(core) = entry.role else { return None };
        entry.role = Role::Stranger;
        Some(core)
    }

    /// A verdict, to be sent with the others of the round, or with the others of its frame.
    pub fn judge<D: Driver>(&mut self, to: SessionRef, verdict: Verdict, driver: &mut D) {
        let Some(session) = self.get_mut(to) else { return };
        session.verdicts.push(verdict);
        match session.verdicts.len() {
            1 => self.judged.push(to.place),
            VERDICTS_PER_FRAME => {
                self.judged.retain(|place| *place != to.place);
                self.send_verdicts_of(to.place, driver);
            }
            _ => {}
        }
    }

    /// Sends the round's verdicts: one frame per connection.
    pub fn send_verdicts<D: Driver>(&mut self, driver: &mut D) {
        let mut judged = std::mem::take(&mut self.judged);
        judged.drain(..).for_each(|place| self.send_verdicts_of(place, driver));
        self.judged = judged;
    }

    /// Sends the verdicts so far if the last one is this call's: its outcome, which is to follow, must not overtake it.
    /// So it is with a call that had ended before it was submitted again.
    pub fn send_verdict_first<D: Driver>(&mut self, to: SessionRef, call: CallId, driver: &mut D) {
        let Some(session) = self.get_mut(to) else { return };
        if session.verdicts.last().is_some_and(|verdict| verdict.is_of(call)) {
            self.judged.retain(|place| *place != to.place);
            self.send_verdicts_of(to.place, driver);
        }
    }

    /// Sends the verdicts so far, since something is to follow that must not overtake them.
    pub fn send_verdicts_to<D: Driver>(&mut self, to: SessionRef, driver: &mut D) {
        if self.get(to).is_some_and(|session| !session.verdicts.is_empty()) {
            self.judged.retain(|place| *place != to.place);
            self.send_verdicts_of(to.place, driver);
        }
    }

    fn send_verdicts_of<D: Driver>(&mut self, place: u32, driver: &mut D) {
        let Some(session) = &mut self.places[place as usize].session else { return };
        self.scratch.clear();
        call::body::append_verdicts(&mut self.scratch, &session.verdicts).expect("a short list");
        let verdicts = std::mem::take(&mut session.verdicts);
        let note = post(driver, session, &self.scratch);
        self.slow += u64::from(note.is_some());
        self.notes.extend(note);
        session.verdicts = verdicts;
        session.verdicts.clear();
    }

    /// Ends every connection, behind what is queued on it.
    pub fn close_all<D: Driver>(&mut self, driver: &mut D) {
        for session in self.places.iter_mut().filter_map(|place| place.session.as_mut()) {
            if !std::mem::replace(&mut session.closing, true) {
                driver.close(session.connection);
            }
        }
    }

    /// Ends a connection from this side and says why.
    pub fn close<D: Driver>(&mut self, driver: &mut D, session: SessionRef, why: &str) {
        let Some(session) = self.get_mut(session) else { return };
        let note = close(driver, session, why);
        self.notes.extend(note);
    }
}

/// Sends or keeps for later; gives a note if the peer was closed for it.
fn post<D: Driver>(driver: &mut D, session: &mut Session, frames: &[u8]) -> Option<String> {
    if session.closing {
        return None;
    }
    if session.outbox.is_empty() {
        match driver.send(session.connection, frames) {
            Ok(()) | Err(SendError::Closed) => return None,
            Err(SendError::Full) => {}
        }
    }
    session.outbox.keep(frames);
    bound(driver, session)
}

/// As [`post`], for a frame in two parts that are joined only if they must wait.
fn post_parts<D: Driver>(
    driver: &mut D,
    session: &mut Session,
    header: &[u8; HEADER_BYTES],
    body: &[u8],
) -> Option<String> {
    if session.closing {
        return None;
    }
    if session.outbox.is_empty() {
        match driver.send_parts(session.connection, header, body) {
            Ok(()) | Err(SendError::Closed) => return None,
            Err(SendError::Full) => {}
        }
    }
    const ZERO: [u8; FRAME_ALIGN] = [0; FRAME_ALIGN];
    session.outbox.keep(header);
    session.outbox.frames.extend_from_slice(body);
    session.outbox.frames.extend_from_slice(&ZERO[..padded(body.len()) - body.len()]);
    bound(driver, session)
}

/// Closes a peer for which too much waits. Not a core, whose credits bound what waits, nor the admin side, which is
/// this process.
fn bound<D: Driver>(driver: &mut D, session: &mut Session) -> Option<String> {
    let trusted = matches!(session.role, Role::Core(_) | Role::Admin);
    if trusted || session.outbox.bytes() <= OUTBOX_BYTES_MAX {
        return None;
    }
    close(driver, session, "it does not read what is sent to it")
}

fn close<D: Driver>(driver: &mut D, session: &mut Session, why: &str) -> Option<String> {
    if session.closing {
        return None;
    }
    session.closing = true;
    session.outbox = Outbox::default();
    driver.close(session.connection);
    Some(format!("closed the connection of {}: {why}", describe(&session.role)))
}

fn describe(role: &Role) -> String {
    match role {
        Role::Stranger => "a peer that said no hello".into(),
        Role::Client { name } => format!("client {name}"),
        Role::Core(core) => format!("core {}", core.0),
        Role::Host(host) => format!("host {}", host.0),
        Role::Home(link) => format!("link {link}, to another region"),
        Role::Shard(shard) => format!("shard {shard}"),
        Role::Sibling(shard) => format!("the link to shard {shard}"),
        Role::Admin => "the admin side".into(),
        Role::Store => "the thread that reads blobs".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::frame::{Header, Kind, append};
    use driver::sim::{Conditions, SimDriver, Sizes, World};
    use driver::{Arrivals, Endpoint, Event};
    use std::time::Duration;

    /// A driver with one accepted connection whose peer never reads.
    fn connected() -> (SimDriver, SimDriver, Sessions, SessionRef) {
        let world = World::new(1, Conditions { window_bytes: 4 << 10, ..Conditions::default() });
        let (mut here, mut there) =
            (world.boot("here", Sizes::default()), world.boot("there", Sizes::default()));
        let at = Endpoint::Tcp("10.0.0.1:1".parse().unwrap());
        here.listen(&at).unwrap();
        there.connect(&at);
        let mut sessions = Sessions::new(&Limits::small());
        let mut arrivals = Arrivals::new();
        loop {
            here.reap(here.now() + Duration::from_millis(1), &mut arrivals);
            for event in arrivals.iter() {
                if let Event::Accepted { connection, .. } = event {
                    let session = sessions.accept(connection, here.now()).unwrap();
                    return (here, there, sessions, session);
                }
            }
        }
    }

    fn frame(bytes: usize) -> FrameBuf {
        let mut out = FrameBuf::new();
        append(&mut out, &Header::new(Kind::Outcome), &vec![0; bytes]);
        out
    }

    #[test]
    fn a_client_that_does_not_read_is_closed_when_its_outbox_is_full() {
        let (mut driver, _there, mut sessions, session) = connected();
        assert!(sessions.become_client(session, "sloth".into()));
        let large = frame(BODY_BYTES_MAX - 1024);
        sessions.send(&mut driver, session, &large);
        sessions.send(&mut driver, session, &large);
        sessions.send(&mut driver, session, &large);
        assert_eq!(sessions.slow, 0, "two of the largest frames may wait");
        sessions.send(&mut driver, session, &large);
        assert_eq!((sessions.slow, sessions.notes.len()), (1, 1));
        assert!(sessions.notes[0].contains("client sloth: it does not read"), "{:?}", sessions.notes);
        sessions.send(&mut driver, session, &large);
        assert_eq!(sessions.notes.len(), 1, "closed once");
    }

    #[test]
    fn what_was_sent_does_not_stay_in_memory() {
        let mut outbox = Outbox::default();
        let one = frame(100);
        for _ in 0..10_000 {
            outbox.keep(&one);
            outbox.keep(&one);
            outbox.head += one.len();
            if outbox.bytes() > 20 * one.len() {
                outbox.head += outbox.bytes() - one.len();
            }
        }
        assert!(outbox.frames.len() <= 64 * one.len(), "{} bytes kept", outbox.frames.len());
    }

    #[test]
    fn a_late_answer_does_not_reach_the_next_of_the_same_place() {
        let (driver, _there, mut sessions, first) = connected();
        let connection = sessions.get(first).unwrap().connection;
        assert_eq!(SessionRef::of_origin(first.origin()), first);
        sessions.remove(connection).unwrap();
        let next = sessions.accept(ConnectionId(77), driver.now()).unwrap();
        assert_ne!(first, next);
        assert!(sessions.get(first).is_none() && sessions.get(next).is_some());
        assert_eq!(sessions.find(connection), None);
    }
}
