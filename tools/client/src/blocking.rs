//! The blocking client: one connection, one thread, no runtime.

use crate::endpoint::{Endpoint, Socket};
use crate::error::Error;
use crate::ids::IdSource;
use crate::session::{Event, NodeHello, Options, Outcome, Receipt, Session};
use call::body::{Arguments, Submit};
use call::time::WallTime;
use call::{CallId, FunctionId};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// How long a peer may take to answer the hello.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(5);
/// The first and the longest wait between two attempts to connect again.
pub(crate) const RECONNECT_WAITS: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_millis(500));
/// Bytes that wait to be written before [`Client::enqueue`] writes them of its own.
const WRITE_BYTES: usize = 64 << 10;

/// A connection to a node, made again when it breaks; see the [crate](crate) for what that means for calls.
///
/// [`Client::enqueue`] and [`Client::next`] are the pipelined interface, the other operations are made of them.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    session: Session,
    socket: Option<Socket>,
    ids: IdSource,
    /// Set while there is no connection on which a node has answered the hello.
    down: Option<Down>,
}

/// How long there has been no connection, and why.
#[derive(Debug)]
struct Down {
    since: Instant,
    next_attempt: Instant,
    wait: Duration,
    reason: String,
}

impl Down {
    fn new(reason: String, now: Instant) -> Down {
        Down { since: now, next_attempt: now, wait: RECONNECT_WAITS.0, reason }
    }
}

impl Client {
    /// Connects and waits for the node's hello.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Silent`], or [`Error::Malformed`] if the peer is something else than a node.
    pub fn connect(endpoint: &Endpoint, options: Options) -> Result<Client, Error> {
        let connect = |source| Error::Connect { endpoint: endpoint.clone(), source };
        let socket = Socket::connect(endpoint).map_err(connect)?;
        let mut client = Client {
            endpoint: endpoint.clone(),
            session: Session::new(options),
            socket: Some(socket),
            ids: IdSource::new(),
            down: None,
        };
        client.session.connected();
        let until = Instant::now() + HELLO_TIME;
        while client.session.node().is_none() {
            client.turn(until)?;
            if let Some(down) = &client.down {
                return Err(connect(io::Error::new(io::ErrorKind::ConnectionAborted, down.reason.clone())));
            }
            if client.session.node().is_none() && Instant::now() >= until {
                return Err(Error::Silent(HELLO_TIME));
            }
        }
        Ok(client)
    }

    /// Who answered; `None` while the connection is broken.
    pub fn node(&self) -> Option<&NodeHello> {
        self.session.node()
    }

    /// A call of `function` with a new id, to start now, everything else as the function says.
    pub fn call<'a>(&mut self, function: FunctionId, payload: &'a [u8]) -> Submit<'a> {
        Submit {
            call: self.ids.next_id(),
            function,
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: false,
            arguments: Arguments { payload, attributes: &[] },
            ..Submit::default()
        }
    }

    /// Takes a call to be sent soon; waits while the window is full. [`Client::next`] tells what became of it.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Twice`]: this call was not taken. Others: the connection is lost for good.
    pub fn enqueue(&mut self, submit: &Submit<'_>) -> Result<(), Error> {
        while !self.session.has_room() {
            self.turn(Instant::now() + Duration::from_secs(1))?;
        }
        self.session.submit(submit, Instant::now())?;
        if self.session.outbox.unsent().len() >= WRITE_BYTES { self.turn(Instant::now()) } else { Ok(()) }
    }

    /// Sends what is enqueued and gives the next thing the node said, waiting for it for at most `time`.
    ///
    /// # Errors
    /// [`Error::Lost`] when patience is over; what a peer must not say, at once. The calls that are not acknowledged
    /// stay with the client: the next operation tries to connect again.
    pub fn next(&mut self, time: Duration) -> Result<Option<Event>, Error> {
        let until = Instant::now() + time;
        loop {
            if let Some(event) = self.session.next_event() {
                return Ok(Some(event));
            }
            let now = Instant::now();
            self.turn(until)?;
            if now >= until {
                return Ok(self.session.next_event());
            }
        }
    }

    /// Submits one call and waits until it is on the node's disk.
    ///
    /// # Errors
    /// [`Error::Refused`] if the node does not want it; see [`Client::next`] for the others.
    pub fn submit(&mut self, submit: &Submit<'_>) -> Result<Receipt, Error> {
        self.enqueue(submit)?;
        let verdict = |event: &Event| match event {
            Event::Verdict(receipt) if receipt.call == submit.call => Some(*receipt),
            _ => None,
        };
        loop {
            if let Some(receipt) = self.session.find_event(verdict) {
                return receipt.accepted();
            }
            self.turn(Instant::now() + Duration::from_secs(1))?;
        }
    }

    /// Submits many calls, a window at a time, and waits for all verdicts; they stand in the order of the calls.
    ///
    /// # Errors
    /// See [`Client::enqueue`]. A refusal is not an error here but a receipt. After an error [`Client::next`] still
    /// gives the receipts that have come.
    pub fn submit_batch(&mut self, calls: &[Submit<'_>]) -> Result<Vec<Receipt>, Error> {
        for submit in calls {
            self.enqueue(submit)?;
        }
        let mut receipts: HashMap<CallId, Option<Receipt>> = calls.iter().map(|c| (c.call, None)).collect();
        let mut others = Vec::new();
        let mut missing = receipts.len();
        while missing > 0 {
            match self.next(Duration::from_secs(1))? {
                Some(Event::Verdict(receipt)) if receipts.contains_key(&receipt.call) => {
                    missing -= usize::from(receipts.insert(receipt.call, Some(receipt)) == Some(None));
                }
                Some(event) => others.push(event),
                None => {}
            }
        }
        self.session.give_back(others);
        Ok(calls.iter().map(|submit| receipts[&submit.call].expect("none is missing")).collect())
    }

    /// Waits for the outcome of a call that was submitted with `want_outcome` on this client.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `time`; [`Error::Refused`] if the call was refused, now or after a reconnect.
    pub fn wait(&mut self, call: CallId, time: Duration) -> Result<Outcome, Error> {
        let until = Instant::now().checked_add(time);
        let wanted = |event: &Event| match event {
            Event::Outcome(outcome) if outcome.call == call => Some(Ok(outcome.clone())),
            Event::Verdict(receipt) if receipt.call == call => receipt.accepted().err().map(Err),
            _ => None,
        };
        loop {
            if let Some(result) = self.session.find_event(wanted) {
                return result;
            }
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Err(Error::TimedOut(call));
            }
            let soon = now + Duration::from_secs(1);
            self.turn(until.map_or(soon, |until| until.min(soon)))?;
        }
    }

    /// Submits one call and waits for its outcome.
    ///
    /// # Errors
    /// As [`Client::submit`] and [`Client::wait`].
    pub fn run(&mut self, submit: &Submit<'_>, time: Duration) -> Result<Outcome, Error> {
        self.submit(&Submit { want_outcome: true, ..*submit })?;
        self.wait(submit.call, time)
    }

    /// Calls whose verdict is not known.
    pub fn unacknowledged(&self) -> usize {
        self.session.unacknowledged()
    }

    /// Calls whose verdict or wanted outcome has not come.
    pub fn outstanding(&self) -> usize {
        self.session.outstanding()
    }

    /// One turn: writes and reads what there is, sleeping until something comes, or `until`.
    fn turn(&mut self, until: Instant) -> Result<(), Error> {
        let now = Instant::now();
        self.session.wake(now);
        let until = self.session.next_wake().map_or(until, |wake| until.min(wake));
        self.check_patience(now)?;
        if self.socket.is_none() && !self.reconnect(until) {
            return Ok(());
        }
        if let Err(error) = self.exchange(until.saturating_duration_since(now)) {
            self.disconnect(error.to_string());
            return Ok(());
        }
        match self.session.read(Instant::now()) {
            Ok(()) => {
                if self.session.node().is_some() {
                    self.down = None;
                }
                Ok(())
            }
            Err(error) => {
                self.disconnect(error.to_string());
                Err(error)
            }
        }
    }

    /// Writes, waits and reads once.
    fn exchange(&mut self, time: Duration) -> io::Result<()> {
        let socket = self.socket.as_mut().expect("connected");
        let outbox = &mut self.session.outbox;
        while !outbox.unsent().is_empty() {
            match socket.write(outbox.unsent())? {
                Some(bytes) => outbox.sent(bytes),
                None => break,
            }
        }
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let room = self.session.inbox.room().map_err(invalid)?;
        let read = match socket.read(room)? {
            None if !time.is_zero() => {
                socket.wait(!self.session.outbox.unsent().is_empty(), time)?;
                socket.read(self.session.inbox.room().map_err(invalid)?)?
            }
            read => read,
        };
        match read {
            Some(0) if self.session.inbox.is_mid_frame() => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the node went away in the middle of a frame",
            )),
            Some(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the node")),
            Some(bytes) => {
                self.session.inbox.filled(bytes);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn disconnect(&mut self, reason: String) {
        self.socket = None;
        self.session.disconnected();
        let now = Instant::now();
        match &mut self.down {
            Some(down) => down.reason = reason,
            None => self.down = Some(Down::new(reason, now)),
        }
    }

    /// Gives up when there has been no node for too long. A connection on which nobody speaks counts as none, after
    /// the time that a hello may take.
    fn check_patience(&mut self, now: Instant) -> Result<(), Error> {
        let grace = if self.socket.is_some() { HELLO_TIME } else { Duration::ZERO };
        let patience = self.session.options().patience + grace;
        match self.down.take_if(|down| now.duration_since(down.since) >= patience) {
            None => Ok(()),
            Some(down) => {
                self.socket = None;
                self.session.disconnected();
                Err(Error::Lost {
                    endpoint: self.endpoint.clone(),
                    reason: down.reason,
                    unacknowledged: self.session.unacknowledged(),
                })
            }
        }
    }

    /// Tries to connect again, at most once and not before its time. Whether there is a connection now.
    fn reconnect(&mut self, until: Instant) -> bool {
        let now = Instant::now();
        let down = self.down.get_or_insert_with(|| Down::new("not connected".into(), now));
        if down.next_attempt > now {
            std::thread::sleep(down.next_attempt.min(until.max(now)) - now);
            if down.next_attempt > until {
                return false;
            }
        }
        down.wait = (down.wait * 2).min(RECONNECT_WAITS.1);
        down.next_attempt = Instant::now() + down.wait;
        match Socket::connect(&self.endpoint) {
            Ok(socket) => {
                self.socket = Some(socket);
                self.session.connected();
                true
            }
            Err(error) => {
                down.reason = error.to_string();
                false
            }
        }
    }
}
