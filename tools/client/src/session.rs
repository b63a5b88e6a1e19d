//! What a client has promised and not yet heard of: the same state machine under the blocking and the async client.
//!
//! No I/O and no clock: bytes and time come in, bytes and events go out.

use crate::buffers::{Inbox, Outbox};
use crate::error::Error;
use crate::results::Results;
use call::admin::Hello;
use call::blob::Reference;
use call::body::{self, Submit};
use call::frame::{self, FrameBuf, Header};
use call::{CallId, Frame, FrameError, FunctionId, Kind, Status, Usage, VerdictCode};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The shortest wait before a refused submit is sent again, whatever the node says: no busy loop over the network.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(5);

/// How a client behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Told to the node, for its logs: the program's name.
    pub name: String,
    /// Calls submitted and not acknowledged at most; a client waits for room before it takes more.
    pub window: usize,
    /// How long a broken connection is tried again, and a "full" or "draining" node is asked again. Zero for not at all.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { name: "millrace-client".into(), window: 4096, patience: Duration::from_secs(30) }
    }
}

/// What became of a submit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The call.
    pub call: CallId,
    /// What the node said.
    pub code: VerdictCode,
    /// If it was refused and may be tried again: not before this long.
    pub retry_after: Duration,
}

impl Receipt {
    /// The refusal as an error.
    pub fn accepted(self) -> Result<Receipt, Error> {
        let Receipt { call, code, retry_after } = self;
        if code.is_held() { Ok(self) } else { Err(Error::Refused { call, code, retry_after }) }
    }
}

/// How a call ended for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The call.
    pub call: CallId,
    /// Its function.
    pub function: FunctionId,
    /// How its last execution ended.
    pub status: Status,
    /// How many times it was delivered, from 1.
    pub attempt: u16,
    /// What the last execution took.
    pub usage: Usage,
    /// What the function returned; for a command, its stdout. One that the node has as a blob was fetched and checked; if
    /// it is not there as it was, the status is [`Status::Damaged`] and stderr says why.
    pub output: Vec<u8>,
    /// A command's stderr, or the text of a trap.
    pub stderr: Vec<u8>,
}

/// What a node said of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It is on disk, or was refused.
    Verdict(Receipt),
    /// It has ended for good. Comes only if the submit wanted it, and always after its verdict.
    Outcome(Outcome),
}

/// A node as its hello describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeHello {
    /// Software version.
    pub version: String,
    /// Incarnation of its durable queue: one more after each restart.
    pub incarnation: u32,
    /// Base of its admin API.
    pub admin: String,
}

/// A call that the node may not know of, or whose outcome has not come.
#[derive(Debug)]
struct Kept {
    frame: Box<[u8]>,
    /// Order of submission, which a resend keeps.
    serial: u64,
    since: Instant,
    want_outcome: bool,
    acknowledged: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    options: Options,
    kept: HashMap<CallId, Kept>,
    unacknowledged: usize,
    serial: u64,
    /// Refused for now; sent again when their time has come.
    later: BTreeMap<(Instant, u64), CallId>,
    is_connected: bool,
    node: Option<NodeHello>,
    scratch: FrameBuf,
    pub outbox: Outbox,
    pub inbox: Inbox,
    /// Results that are fetched before their outcomes are told.
    results: Results,
    events: VecDeque<Event>,
}

impl Session {
    pub fn new(options: Options) -> Session {
        Session {
            options,
            kept: HashMap::new(),
            unacknowledged: 0,
            serial: 0,
            later: BTreeMap::new(),
            is_connected: false,
            node: None,
            scratch: FrameBuf::new(),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            results: Results::new(),
            events: VecDeque::new(),
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Who answered the hello of the present connection.
    pub fn node(&self) -> Option<&NodeHello> {
        self.node.as_ref()
    }

    /// Calls whose verdict is not known.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// Calls whose verdict or wanted outcome has not come.
    pub fn outstanding(&self) -> usize {
        self.kept.len() + self.results.len()
    }

    /// Whether another call fits into the window.
    pub fn has_room(&self) -> bool {
        self.unacknowledged < self.options.window.max(1)
    }

    /// A connection is made: says hello, and says again everything that may have been lost with the last one.
    pub fn connected(&mut self) {
        self.disconnected();
        self.is_connected = true;
        let hello = Hello::Client { name: self.options.name.clone() };
        let json = serde_json::to_vec(&hello).expect("a hello is plain text");
        frame::append(self.outbox.frames(), &Header::new(Kind::Hello), &json);
        self.later.clear();
        let mut again: Vec<&Kept> = self.kept.values().collect();
        again.sort_unstable_by_key(|kept| kept.serial);
        for kept in again {
            self.outbox.frames().extend_from_slice(&kept.frame);
        }
        self.results.ask_anew();
    }

    /// The connection is gone, with whatever was half-way.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
        self.node = None;
        self.outbox.clear();
        self.inbox.clear();
    }

    /// Takes a call: it is sent, now or after the next connect, and kept until it needs no second sending.
    pub fn submit(&mut self, submit: &Submit<'_>, now: Instant) -> Result<(), Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let encoded = body::append_submit(&mut scratch, submit).map_err(|_| Error::TooLarge(submit.call));
        let taken = encoded.and_then(|()| self.submit_frame(&scratch, now));
        self.scratch = scratch;
        taken
    }

    /// As [`Session::submit`], with the frame encoded already.
    pub fn submit_frame(&mut self, bytes: &FrameBuf, now: Instant) -> Result<(), Error> {
        let (frame, _) = Frame::parse(bytes)?;
        let call = frame.call();
        if self.kept.contains_key(&call) {
            return Err(Error::Twice(call));
        }
        let kept = Kept {
            frame: bytes[..].into(),
            serial: self.serial,
            since: now,
            want_outcome: frame.flags() & frame::flag::WANT_OUTCOME != 0,
            acknowledged: false,
        };
        self.kept.insert(call, kept);
        self.serial += 1;
        self.unacknowledged += 1;
        if self.is_connected {
            self.outbox.frames().extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Sends again what was refused for a time that is over, and asks for what is to come.
    pub fn wake(&mut self, now: Instant) {
        if self.is_connected {
            self.results.ask(now, self.outbox.frames());
        }
        while let Some(outcome) = self.results.given_up(now) {
            self.events.push_back(Event::Outcome(outcome));
        }
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let call = entry.remove();
            if let Some(kept) = self.kept.get(&call).filter(|_| self.is_connected) {
                self.outbox.frames().extend_from_slice(&kept.frame);
            }
        }
    }

    /// When [`Session::wake`] has something to do next.
    pub fn next_wake(&self) -> Option<Instant> {
        let later = self.later.first_key_value().map(|(key, _)| key.0);
        later.into_iter().chain(self.results.alarm(self.is_connected)).min()
    }

    /// Looks at what has been read. On an error the connection is of no use any more.
    pub fn read(&mut self, now: Instant) -> Result<(), Error> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let result = loop {
            match inbox.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.take(frame, now) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.inbox = inbox;
        result
    }

    fn take(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), Error> {
        match frame.kind() {
            Kind::Hello => self.take_hello(frame.body()),
            Kind::Verdicts => {
                for verdict in body::verdicts(frame.body())? {
                    let retry_after = Duration::from_millis(u64::from(verdict.retry_after_ms.to_native()));
                    self.take_verdict(
                        Receipt { call: verdict.call(), code: verdict.code()?, retry_after },
                        now,
                    );
                }
                Ok(())
            }
            Kind::Outcome => self.take_outcome(frame, now),
            Kind::Piece => {
                let ended = self.results.piece(&frame, now)?;
                self.events.extend(ended.map(Event::Outcome));
                Ok(())
            }
            // The node finishes what it holds and will refuse new calls itself.
            Kind::Drain => Ok(()),
            other => Err(Error::Unexpected(other)),
        }
    }

    fn take_hello(&mut self, json: &[u8]) -> Result<(), Error> {
        match serde_json::from_slice(json) {
            Ok(Hello::Node { version, incarnation, admin }) => {
                self.node = Some(NodeHello { version, incarnation, admin });
                Ok(())
            }
            _ => Err(Error::Malformed(FrameError::Body)),
        }
    }

    fn take_verdict(&mut self, receipt: Receipt, now: Instant) {
        let Some(kept) = self.kept.get_mut(&receipt.call) else {
            return; // The verdict of a resend, and the first one came too.
        };
        if receipt.code.is_transient() && now.duration_since(kept.since) < self.options.patience {
            let again = now + receipt.retry_after.max(RETRY_WAIT_MIN);
            self.later.insert((again, kept.serial), receipt.call);
            return;
        }
        if kept.acknowledged && receipt.code.is_held() {
            return; // Sent again only so that this connection gets the outcome.
        }
        self.unacknowledged -= usize::from(!kept.acknowledged);
        kept.acknowledged = true;
        if !(kept.want_outcome && receipt.code.is_held()) {
            self.kept.remove(&receipt.call);
        }
        self.events.push_back(Event::Verdict(receipt));
    }

    fn take_outcome(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), Error> {
        let read = body::reply(frame.body())?;
        let stored = Reference::of_result(&frame, read.output)?;
        let outcome = Outcome {
            call: frame.call(),
            function: frame.function(),
            status: frame.status()?,
            attempt: frame.attempt(),
            usage: read.usage(),
            output: if stored.is_some() { Vec::new() } else { read.output.to_vec() },
            stderr: read.stderr.to_vec(),
        };
        let Some(kept) = self.kept.remove(&outcome.call) else {
            return Ok(()); // Heard before the connection broke.
        };
        if !kept.acknowledged {
            // An outcome proves that the queue has the call; whoever waits for the verdict must not wait for ever.
            self.unacknowledged -= 1;
            let receipt =
                Receipt { call: outcome.call, code: VerdictCode::Accepted, retry_after: Duration::ZERO };
            self.events.push_back(Event::Verdict(receipt));
        }
        match stored {
            Some(blob) => self.results.add(outcome, blob, now),
            None => self.events.push_back(Event::Outcome(outcome)),
        }
        Ok(())
    }

    /// What the node has said, in order.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Puts events back in front, in order.
    pub fn give_back(&mut self, events: Vec<Event>) {
        for event in events.into_iter().rev() {
            self.events.push_front(event);
        }
    }

    /// The first event that `wanted` turns into something; the others stay, in order.
    pub fn find_event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let (at, found) =
            self.events.iter().enumerate().find_map(|(at, event)| Some((at, wanted(event)?)))?;
        self.events.remove(at);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::body::{Arguments, Reply, Verdict};
    use call::time::WallTime;

    fn submit(call: u128, want_outcome: bool) -> Submit<'static> {
        Submit {
            call: CallId(call),
            function: FunctionId(9),
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome,
            arguments: Arguments { payload: b"abc", attributes: &[] },
            ..Submit::default()
        }
    }

    /// The calls of the submit frames that wait to be written.
    fn unsent(session: &Session) -> Vec<u128> {
        let (mut calls, mut at) = (Vec::new(), 0);
        let mut bytes = FrameBuf::new();
        bytes.extend_from_slice(session.outbox.unsent());
        while at < bytes.len() {
            let (frame, used) = Frame::parse(&bytes[at..]).unwrap();
            at += used;
            if frame.kind() == Kind::Submit {
                calls.push(frame.call().0);
            }
        }
        calls
    }

    fn hear(session: &mut Session, now: Instant, write: impl FnOnce(&mut FrameBuf)) -> Result<(), Error> {
        let mut bytes = FrameBuf::new();
        write(&mut bytes);
        session.inbox.room().unwrap()[..bytes.len()].copy_from_slice(&bytes);
        session.inbox.filled(bytes.len());
        session.read(now)
    }

    fn hear_verdict(session: &mut Session, now: Instant, call: u128, code: VerdictCode, wait: u32) {
        let verdicts = [Verdict::new(CallId(call), code, wait)];
        hear(session, now, |out| body::append_verdicts(out, &verdicts).unwrap()).unwrap();
    }

    #[test]
    fn only_what_is_not_acknowledged_is_sent_again_and_in_order() {
        let (mut session, now) = (Session::new(Options::default()), Instant::now());
        session.connected();
        for call in [5, 3, 8, 1] {
            session.submit(&submit(call, call == 8), now).unwrap();
        }
        assert_eq!(unsent(&session), [5, 3, 8, 1]);
        hear_verdict(&mut session, now, 3, VerdictCode::Accepted, 0);
        hear_verdict(&mut session, now, 8, VerdictCode::Accepted, 0);
        assert_eq!((session.unacknowledged(), session.outstanding()), (2, 3));
        session.connected();
        assert_eq!(unsent(&session), [5, 8, 1], "8 is sent again to hear its outcome");
        hear_verdict(&mut session, now, 8, VerdictCode::Duplicate, 0);
        hear_verdict(&mut session, now, 5, VerdictCode::Duplicate, 0);
        let verdicts: Vec<Event> = std::iter::from_fn(|| session.next_event()).collect();
        assert_eq!(verdicts.len(), 3, "one per call: {verdicts:?}");
    }

    #[test]
    fn full_is_tried_again_when_the_node_said() {
        let options = Options { patience: Duration::from_secs(1), ..Options::default() };
        let (mut session, start) = (Session::new(options), Instant::now());
        session.connected();
        session.submit(&submit(1, false), start).unwrap();
        let sent = session.outbox.unsent().len();
        session.outbox.sent(sent);
        hear_verdict(&mut session, start, 1, VerdictCode::Full, 300);
        session.wake(start + Duration::from_millis(299));
        assert_eq!((unsent(&session), session.next_event()), (vec![], None));
        assert_eq!(session.next_wake(), Some(start + Duration::from_millis(300)));
        session.wake(start + Duration::from_millis(300));
        assert_eq!(unsent(&session), [1]);
        // Out of patience: the caller hears it.
        hear_verdict(&mut session, start + Duration::from_secs(2), 1, VerdictCode::Full, 300);
        let Some(Event::Verdict(receipt)) = session.next_event() else { panic!("no verdict") };
        assert!(matches!(receipt.accepted(), Err(Error::Refused { code: VerdictCode::Full, .. })));
        assert_eq!((session.unacknowledged(), session.outstanding()), (0, 0));
    }

    #[test]
    fn an_outcome_without_a_verdict_brings_both() {
        let (mut session, now) = (Session::new(Options::default()), Instant::now());
        session.connected();
        session.submit(&submit(4, true), now).unwrap();
        let lease = Header { call: CallId(4), attempt: 2, ..Header::new(Kind::Lease) };
        let reply = Reply::new(&Usage::default(), b"out", b"err");
        hear(&mut session, now, |out| body::append_outcome(out, &lease, Status::Trap, &reply).unwrap())
            .unwrap();
        assert!(matches!(session.next_event(), Some(Event::Verdict(receipt)) if receipt.code.is_held()));
        let Some(Event::Outcome(outcome)) = session.next_event() else { panic!("no outcome") };
        assert_eq!((outcome.status, outcome.attempt, &outcome.output[..]), (Status::Trap, 2, &b"out"[..]));
        assert_eq!((session.unacknowledged(), session.outstanding()), (0, 0));
    }

    #[test]
    fn the_window_and_the_same_id_twice_are_told() {
        let options = Options { window: 2, ..Options::default() };
        let (mut session, now) = (Session::new(options), Instant::now());
        session.submit(&submit(1, false), now).unwrap();
        assert!(session.has_room());
        session.submit(&submit(2, false), now).unwrap();
        assert!(!session.has_room());
        assert!(matches!(session.submit(&submit(2, false), now), Err(Error::Twice(CallId(2)))));
    }

    #[test]
    fn what_no_node_says_ends_the_connection() {
        let (mut session, now) = (Session::new(Options::default()), Instant::now());
        let credit = |out: &mut FrameBuf| frame::append(out, &Header::new(Kind::Credit), b"");
        assert!(matches!(hear(&mut session, now, credit), Err(Error::Unexpected(Kind::Credit))));
        let mut session = Session::new(Options::default());
        let junk = |out: &mut FrameBuf| frame::append(out, &Header::new(Kind::Verdicts), &[1; 40]);
        assert!(matches!(hear(&mut session, now, junk), Err(Error::Malformed(FrameError::Body))));
    }
}
