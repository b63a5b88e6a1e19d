//! The async client: a task owns the connection, handles to it are cheap to clone.

use crate::blocking::{HELLO_TIME, RECONNECT_WAITS};
use crate::endpoint::{Endpoint, would_block};
use crate::error::Error;
use crate::ids::IdSource;
use crate::session::{Event, NodeHello, Options, Outcome, Receipt, Session};
use call::body::{self, Arguments, Submit};
use call::frame::FrameBuf;
use call::time::WallTime;
use call::{CallId, FunctionId};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the connection's task; beyond it `submit` waits, as it does for the window.
const COMMANDS_MAX: usize = 1024;

/// A handle to a connection. Clones share it; calls submitted at the same time travel in the same write. The
/// connection ends when the last handle and everything that waits on it is gone.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    ids: Arc<Mutex<IdSource>>,
    node: NodeHello,
}

/// What became of a submit, and later how the call ended.
#[derive(Debug)]
struct Waiter {
    verdict: Option<oneshot::Sender<Receipt>>,
    outcome: Option<oneshot::Sender<Outcome>>,
}

#[derive(Debug)]
struct Command {
    call: CallId,
    frame: FrameBuf,
    waiter: Waiter,
}

impl Client {
    /// Connects and waits for the node's hello. Must be called on a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Silent`], or [`Error::Malformed`] if the peer is something else than a node.
    pub async fn connect(endpoint: &Endpoint, options: Options) -> Result<Client, Error> {
        let stream = Stream::connect(endpoint)
            .await
            .map_err(|source| Error::Connect { endpoint: endpoint.clone(), source })?;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let mut link = Link {
            endpoint: endpoint.clone(),
            session: Session::new(options),
            waiting: HashMap::new(),
            commands: inbox,
        };
        link.session.connected();
        let greeting = async {
            while link.session.node().is_none() {
                exchange(&stream, &mut link.session, None)
                    .await
                    .map_err(|source| Error::Connect { endpoint: endpoint.clone(), source })?;
                link.session.read(Instant::now())?;
            }
            Ok(())
        };
        tokio::time::timeout(HELLO_TIME, greeting).await.unwrap_or(Err(Error::Silent(HELLO_TIME)))?;
        let node = link.session.node().cloned().expect("greeted");
        tokio::spawn(link.run(stream));
        Ok(Client { commands, ids: Arc::new(Mutex::new(IdSource::new())), node })
    }

    /// Who answered the first hello.
    pub fn node(&self) -> &NodeHello {
        &self.node
    }

    /// A call of `function` with a new id, to start now, everything else as the function says.
    pub fn call<'a>(&self, function: FunctionId, payload: &'a [u8]) -> Submit<'a> {
        // The state of a generator is valid after any panic.
        let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next_id();
        Submit {
            call: id,
            function,
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: false,
            arguments: Arguments { payload, attributes: &[] },
            ..Submit::default()
        }
    }

    /// Submits one call and waits until it is on the node's disk.
    ///
    /// # Errors
    /// [`Error::Refused`] if the node does not want it; [`Error::TooLarge`]; [`Error::Stopped`] when the connection
    /// was lost for longer than [`Options::patience`].
    pub async fn submit(&self, submit: &Submit<'_>) -> Result<Receipt, Error> {
        let (verdict, receipt) = oneshot::channel();
        self.send(submit, Waiter { verdict: Some(verdict), outcome: None }).await?;
        receipt.await.map_err(|_| Error::Stopped)?.accepted()
    }

    /// Submits many calls and waits for all verdicts; they stand in the order of the calls.
    ///
    /// # Errors
    /// As [`Client::submit`], but a refusal is not an error here but a receipt.
    pub async fn submit_batch(&self, calls: &[Submit<'_>]) -> Result<Vec<Receipt>, Error> {
        let mut coming = Vec::with_capacity(calls.len());
        for submit in calls {
            let (verdict, receipt) = oneshot::channel();
            self.send(submit, Waiter { verdict: Some(verdict), outcome: None }).await?;
            coming.push(receipt);
        }
        let mut receipts = Vec::with_capacity(calls.len());
        for receipt in coming {
            receipts.push(receipt.await.map_err(|_| Error::Stopped)?);
        }
        Ok(receipts)
    }

    /// Submits one call and waits for its outcome, however long it takes. Dropping the future leaves the call alone.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub async fn run(&self, submit: &Submit<'_>) -> Result<Outcome, Error> {
        let (verdict, receipt) = oneshot::channel();
        let (end, outcome) = oneshot::channel();
        let submit = Submit { want_outcome: true, ..*submit };
        self.send(&submit, Waiter { verdict: Some(verdict), outcome: Some(end) }).await?;
        receipt.await.map_err(|_| Error::Stopped)?.accepted()?;
        outcome.await.map_err(|_| Error::Stopped)
    }

    async fn send(&self, submit: &Submit<'_>, waiter: Waiter) -> Result<(), Error> {
        let mut frame = FrameBuf::new();
        body::append_submit(&mut frame, submit).map_err(|_| Error::TooLarge(submit.call))?;
        let command = Command { call: submit.call, frame, waiter };
        self.commands.send(command).await.map_err(|_| Error::Stopped)
    }
}

/// The task behind the handles.
struct Link {
    endpoint: Endpoint,
    session: Session,
    waiting: HashMap<CallId, Waiter>,
    commands: mpsc::Receiver<Command>,
}

impl Link {
    /// Until there is nobody left to serve, or no connection for longer than the options' patience. Waiters then find
    /// their channels closed.
    async fn run(mut self, first: Stream) {
        let mut stream = first;
        while !self.serve(&stream).await {
            self.session.disconnected();
            match self.reconnect().await {
                Some(again) => stream = again,
                None => return,
            }
        }
    }

    /// Serves one connection; whether the work is done (else the connection broke).
    async fn serve(&mut self, stream: &Stream) -> bool {
        loop {
            let now = Instant::now();
            self.session.wake(now);
            self.tell();
            let wake = self.session.next_wake();
            let room = self.session.has_room();
            tokio::select! {
                command = self.commands.recv(), if room => match command {
                    Some(command) => self.take(command, now),
                    None if self.session.outstanding() == 0 => return true,
                    None => {
                        if exchange(stream, &mut self.session, wake).await.is_err() { return false; }
                    }
                },
                done = exchange(stream, &mut self.session, wake) => if done.is_err() { return false; },
            }
            while self.session.has_room()
                && let Ok(command) = self.commands.try_recv()
            {
                self.take(command, now);
            }
            if self.session.read(Instant::now()).is_err() {
                return false;
            }
        }
    }

    fn take(&mut self, command: Command, now: Instant) {
        // A call that is on its way already keeps its first waiter; the second finds its channels closed.
        if self.session.submit_frame(&command.frame, now).is_ok() {
            self.waiting.insert(command.call, command.waiter);
        }
    }

    /// Passes on what the node said.
    fn tell(&mut self) {
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Verdict(receipt) => {
                    let waiter = self.waiting.get_mut(&receipt.call);
                    if let Some(verdict) = waiter.and_then(|waiter| waiter.verdict.take()) {
                        let _nobody_waits_any_more = verdict.send(receipt);
                    }
                    if self.waiting.get(&receipt.call).is_some_and(|w| w.outcome.is_none())
                        || !receipt.code.is_held()
                    {
                        self.waiting.remove(&receipt.call);
                    }
                }
                Event::Outcome(outcome) => {
                    let waiter = self.waiting.remove(&outcome.call);
                    if let Some(end) = waiter.and_then(|waiter| waiter.outcome) {
                        let _nobody_waits_any_more = end.send(outcome);
                    }
                }
            }
        }
    }

    /// A new connection, or `None` when patience is over.
    async fn reconnect(&mut self) -> Option<Stream> {
        let until = Instant::now() + self.session.options().patience;
        let (mut wait, longest) = RECONNECT_WAITS;
        while Instant::now() < until {
            // Before the first attempt too: a peer that closes every connection at once must not be hammered.
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
            if let Ok(stream) = Stream::connect(&self.endpoint).await {
                self.session.connected();
                return Some(stream);
            }
        }
        None
    }
}

/// Writes and reads once; returns when something came or went, or at `wake`. Safe to drop half-way: every byte is
/// counted in the same poll in which it moved.
async fn exchange(stream: &Stream, session: &mut Session, wake: Option<Instant>) -> io::Result<()> {
    let interest = if session.outbox.unsent().is_empty() {
        Interest::READABLE
    } else {
        Interest::READABLE | Interest::WRITABLE
    };
    match wake {
        None => stream.ready(interest).await?,
        Some(at) => match tokio::time::timeout_at(at.into(), stream.ready(interest)).await {
            Ok(ready) => ready?,
            Err(_) => return Ok(()),
        },
    }
    if !session.outbox.unsent().is_empty()
        && let Some(bytes) = stream.try_write(session.outbox.unsent())?
    {
        session.outbox.sent(bytes);
    }
    let room = session.inbox.room().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match stream.try_read(room)? {
        Some(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the node")),
        Some(bytes) => {
            session.inbox.filled(bytes);
            Ok(())
        }
        None => Ok(()),
    }
}

/// TCP or Unix, with tokio's readiness.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    async fn connect(to: &Endpoint) -> io::Result<Stream> {
        let limit = Duration::from_secs(4);
        let connecting = async {
            match to {
                Endpoint::Tcp(at) => {
                    let stream = TcpStream::connect(at.as_str()).await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                }
                Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            }
        };
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.ready(interest).await.map(|_| ()),
            Stream::Unix(stream) => stream.ready(interest).await.map(|_| ()),
        }
    }

    fn try_read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Stream::Tcp(stream) => would_block(stream.try_read(into)),
            Stream::Unix(stream) => would_block(stream.try_read(into)),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Stream::Tcp(stream) => would_block(stream.try_write(bytes)),
            Stream::Unix(stream) => would_block(stream.try_write(bytes)),
        }
    }
}
