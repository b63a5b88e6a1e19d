//! A driver that shows the witness every frame that passes, and plants the run's bug.

use crate::bug::Bug;
use crate::witness::Shared;
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::{CallId, Epoch, Instant, Status, WallTime};
use driver::sim::SimDriver;
use driver::{
    Arrivals, BlockId, ConnectionId, Driver, Endpoint, Event, FileId, ListenerId, SendError, Token,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Whose driver it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The control node's.
    Node,
    /// A worker core's.
    Core,
}

/// A bug that bites always would be too easy to see: it bites at each frame whose number is a multiple of this.
const BITES: u64 = 7;
/// [`Bug::StartsEarly`]
const EARLY: Duration = Duration::from_secs(3600);

/// See the module.
pub struct Tap {
    inner: SimDriver,
    whose: Whose,
    /// How far the wall clock was ahead of the monotonic one when the process began.
    wall_ahead_ns: u64,
    witness: Shared,
    bug: Bug,
    /// CPU time of this turn that the world's clock does not know of yet.
    spent: Rc<Cell<Duration>>,
    /// A core's own books: granted and leased, by connection.
    credits: BTreeMap<ConnectionId, (u64, u64)>,
    sent: u64,
    /// A core that says old outcomes again and again, on whatever connection it has: they must change nothing.
    echoes: Option<Vec<FrameBuf>>,
}

impl Tap {
    /// Around this driver.
    pub fn new(inner: SimDriver, whose: Whose, witness: &Shared, spent: &Rc<Cell<Duration>>) -> Tap {
        let bug = witness.borrow().bug;
        let (witness, spent) = (witness.clone(), spent.clone());
        let wall_ahead_ns = inner.wall().0 - inner.now().0;
        Tap {
            inner,
            whose,
            wall_ahead_ns,
            witness,
            bug,
            spent,
            credits: BTreeMap::new(),
            sent: 0,
            echoes: None,
        }
    }

    /// A core that says old outcomes again.
    pub fn echoing(self) -> Tap {
        Tap { echoes: Some(Vec::new()), ..self }
    }

    /// Keeps an outcome to say it again later; now and then says one that it kept.
    fn echo(&mut self, to: ConnectionId, frame: &Frame<'_>) {
        let Some(echoes) = &mut self.echoes else { return };
        if frame.kind() == Kind::Outcome {
            let mut kept = FrameBuf::new();
            append(&mut kept, &frame.header(), frame.body());
            echoes.push(kept);
        } else if !echoes.is_empty() {
            let chosen = self.inner.random() as usize % echoes.len();
            // Heard or not: an echo is nothing to rely on.
            let _ = self.inner.send(to, &echoes[chosen]);
        }
    }

    /// Shows a frame that the driver below has taken.
    fn show_sent(&mut self, to: ConnectionId, frame: &Frame<'_>) {
        let mut witness = self.witness.borrow_mut();
        witness.tell(|| {
            format!("{} {:?} -> {to:?} {frame:?}{}", self.inner.now().0, self.whose, verdicts(frame))
        });
        match self.whose {
            Whose::Node => {
                let witness = &mut *witness;
                let result = witness.leases.sent(to, frame, &witness.ledger);
                witness.check(result);
            }
            Whose::Core if frame.kind() == Kind::Credit => {
                let (granted, _) = self.credits.entry(to).or_default();
                *granted = frame.stamp().max(*granted);
            }
            Whose::Core => {}
        }
    }

    fn show_heard(&mut self, event: &Event<'_>) {
        let mut witness = self.witness.borrow_mut();
        witness.tell(|| format!("{} {:?} <- {event:?}", self.inner.now().0, self.whose));
        match (self.whose, event) {
            (Whose::Node, Event::Frame { connection, frame }) => {
                let result = witness.leases.heard(*connection, frame);
                witness.check(result);
            }
            (Whose::Node, Event::Closed { connection, .. }) => witness.leases.gone(*connection),
            (Whose::Core, Event::Frame { connection, frame }) if frame.kind() == Kind::Lease => {
                let (granted, leased) = self.credits.entry(*connection).or_default();
                *leased += 1;
                if leased > granted {
                    let text = format!("bounds: {leased} leases came to a core that granted {granted}");
                    witness.check(Err(text));
                }
            }
            _ => {}
        }
    }

    /// What the bug makes of a frame; `None` if it leaves it alone.
    fn bitten(&mut self, frame: &Frame<'_>) -> Option<Vec<FrameBuf>> {
        let header = frame.header();
        let again = |header: Header, body: &[u8]| {
            let mut out = FrameBuf::new();
            append(&mut out, &header, body);
            out
        };
        let same = again(header, frame.body());
        let outcome = (self.whose, header.kind) == (Whose::Node, Kind::Outcome);
        let lease = (self.whose, header.kind) == (Whose::Node, Kind::Lease);
        let bites = match self.bug {
            Bug::DoublesOutcome | Bug::IgnoresEpoch | Bug::InventsFailure => outcome,
            Bug::LeasesTwice | Bug::InventsCall | Bug::ReencodesCall => lease,
            Bug::LosesOutcomes => (self.whose, header.kind) == (Whose::Core, Kind::Outcome),
            Bug::ExceedsCredits => (self.whose, header.kind) == (Whose::Core, Kind::Credit),
            Bug::ForgetsAttempts => (self.whose, header.kind) == (Whose::Node, Kind::Answer),
            _ => false,
        };
        self.sent += u64::from(bites);
        if !bites || !self.sent.is_multiple_of(BITES) {
            return None;
        }
        Some(match self.bug {
            Bug::DoublesOutcome => vec![same.clone(), same],
            Bug::IgnoresEpoch => vec![again(Header { stamp: header.stamp - 1, ..header }, frame.body())],
            Bug::InventsFailure => vec![again(Header { level: Status::Trap as u8, ..header }, frame.body())],
            Bug::LeasesTwice => {
                vec![same, again(Header { stamp: Epoch(header.stamp + 1).0, ..header }, frame.body())]
            }
            Bug::InventsCall => {
                let call = CallId(header.call.0 ^ 1);
                vec![same, again(Header { call, ..header }, &renamed(frame, call))]
            }
            Bug::ForgetsAttempts => vec![again(header, &shortened(frame.body()))],
            Bug::ReencodesCall => vec![again(header, &renamed(frame, header.call))],
            Bug::ExceedsCredits => vec![again(Header { stamp: header.stamp + 9, ..header }, frame.body())],
            _ => vec![],
        })
    }

    /// Sends what the bug makes of the frames, one by one.
    fn send_bitten(&mut self, to: ConnectionId, frames: &[(Frame<'_>, Option<Vec<FrameBuf>>)]) {
        for (frame, bitten) in frames {
            // A core means what it says; the checker of its credits must not believe what the bug made of it.
            if bitten.is_none() || self.whose == Whose::Core {
                self.show_sent(to, frame);
            }
            for other in bitten.iter().flatten() {
                let (frame, _) = Frame::parse(other).expect("just encoded");
                if self.inner.send(to, other).is_ok() && self.whose == Whose::Node {
                    self.show_sent(to, &frame);
                }
            }
            if bitten.is_none() {
                let mut same = FrameBuf::new();
                append(&mut same, &frame.header(), frame.body());
                let _ = self.inner.send(to, &same);
            }
        }
    }
}

/// For people who follow a run: the verdicts of a frame.
fn verdicts(frame: &Frame<'_>) -> String {
    let verdicts = (frame.kind() == Kind::Verdicts).then(|| call::body::verdicts(frame.body()));
    let told = verdicts.into_iter().flatten().flatten();
    told.map(|verdict| format!(" {} {:?}", verdict.call(), verdict.code())).collect()
}

/// The frames of one send.
fn split(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (frame, whole) = Frame::parse(bytes).expect("the platform sends whole frames");
        frames.push(frame);
        bytes = &bytes[whole..];
    }
    frames
}

/// An answer without the last attempt of the call that it is about.
fn shortened(answer: &[u8]) -> Vec<u8> {
    let mut answer: serde_json::Value = serde_json::from_slice(answer).expect("the node answers in JSON");
    let attempts = answer.pointer_mut("/value/history/attempts").and_then(|attempts| attempts.as_array_mut());
    attempts.and_then(Vec::pop);
    serde_json::to_vec(&answer).expect("plain data")
}

/// The submit frame inside a lease, encoded again under this id, with another criticality.
fn renamed(lease: &Frame<'_>, call: CallId) -> Vec<u8> {
    let submit = lease.sealed().expect("a lease holds a submit");
    let header = Header { call, level: submit.criticality() ^ 1, ..submit.header() };
    let mut out = FrameBuf::new();
    append(&mut out, &header, submit.body());
    out[..submit.bytes().len()].to_vec()
}

impl Driver for Tap {
    fn now(&self) -> Instant {
        self.inner.now()
    }
    fn wall(&self) -> WallTime {
        let wall = self.inner.wall();
        match (self.whose, self.bug) {
            (Whose::Node, Bug::StartsEarly) => wall + EARLY,
            (Whose::Node, Bug::IgnoresClockSteps) => WallTime(self.wall_ahead_ns + self.inner.now().0),
            _ => wall,
        }
    }
    fn precise(&self) -> Instant {
        self.inner.precise() + self.spent.get()
    }
    fn random(&mut self) -> u64 {
        self.inner.random()
    }
    fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.inner.listen(at)
    }
    fn local(&self, listener: ListenerId) -> Endpoint {
        self.inner.local(listener)
    }
    fn connect(&mut self, to: &Endpoint) -> ConnectionId {
        self.inner.connect(to)
    }
    fn send(&mut self, to: ConnectionId, frames: &[u8]) -> Result<(), SendError> {
        let mut aligned = FrameBuf::with_capacity(frames.len());
        aligned.extend_from_slice(frames);
        let frames: Vec<_> = split(&aligned).into_iter().map(|f| (f, self.bitten(&f))).collect();
        if frames.iter().any(|(_, bitten)| bitten.is_some()) {
            self.send_bitten(to, &frames);
            return Ok(());
        }
        if let Err(error) = self.inner.send(to, &aligned) {
            let mut witness = self.witness.borrow_mut();
            frames.iter().for_each(|(frame, _)| witness.leases.not_taken(frame));
            return Err(error);
        }
        for (frame, _) in &frames {
            self.show_sent(to, frame);
            self.echo(to, frame);
        }
        Ok(())
    }
    fn send_parts(&mut self, to: ConnectionId, header: &[u8; 64], body: &[u8]) -> Result<(), SendError> {
        let mut joined = FrameBuf::with_capacity(64 + body.len() + 16);
        joined.extend_from_slice(header);
        joined.extend_from_slice(body);
        joined.resize(call::frame::padded(joined.len()), 0);
        self.send(to, &joined)
    }
    fn close(&mut self, connection: ConnectionId) {
        if self.whose == Whose::Node {
            self.witness.borrow_mut().leases.gone(connection);
        }
        self.inner.close(connection);
    }
    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        self.inner.files()
    }
    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.inner.open(name)
    }
    fn create(&mut self, name: &str, bytes: u64, token: Token) {
        self.inner.create(name, bytes, token);
    }
    fn remove(&mut self, file: FileId, name: &str, token: Token) {
        self.inner.remove(file, name, token);
    }
    fn rename(&mut self, from: &str, to: &str, token: Token) {
        self.witness.borrow_mut().recycled += 1;
        self.inner.rename(from, to, token);
    }
    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }
    fn take_block(&mut self) -> Option<BlockId> {
        self.inner.take_block()
    }
    fn give_block(&mut self, block: BlockId) {
        self.inner.give_block(block);
    }
    fn block(&mut self, block: BlockId) -> &mut [u8] {
        self.inner.block(block)
    }
    fn write(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.inner.write(file, offset, block, bytes, token);
    }
    fn read(&mut self, file: FileId, offset: u64, block: BlockId, bytes: usize, token: Token) {
        self.inner.read(file, offset, block, bytes, token);
    }
    fn reap(&mut self, until: Instant, into: &mut Arrivals) {
        self.spent.set(Duration::ZERO);
        self.inner.reap(until, into);
        for event in into.iter() {
            self.show_heard(&event);
        }
    }
    fn backends(&self) -> Vec<(String, String)> {
        self.inner.backends()
    }
}
