//! For load generators: frames as fast as they can be made, nothing kept, nothing tried again, nothing allocated.

use crate::blocking::HELLO_TIME;
use crate::buffers::{Inbox, Outbox};
use crate::endpoint::{Endpoint, Socket, sleep_on};
use crate::error::Error;
use call::admin::Hello;
use call::body::{self, Submit};
use call::frame::{self, FrameBuf, Header};
use call::{CallId, Frame, FrameError, Kind, WallTime};
use std::io;
use std::time::{Duration, Instant};

/// A submit frame made once, of which only id and start time change: appending it costs a copy and a checksum.
#[derive(Clone, Debug)]
pub struct Template {
    header: Header,
    body: FrameBuf,
}

impl Template {
    /// From a call whose id and start time do not matter.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as for any submit.
    pub fn new(like: &Submit<'_>) -> Result<Template, Error> {
        let mut bytes = FrameBuf::new();
        body::append_submit(&mut bytes, like).map_err(|_| Error::TooLarge(like.call))?;
        let (frame, _) = Frame::parse(&bytes)?;
        let mut body = FrameBuf::new();
        body.extend_from_slice(frame.body());
        Ok(Template { header: frame.header(), body })
    }

    /// Appends the frame of call `call`.
    pub fn append(&self, out: &mut FrameBuf, call: CallId, start_at: WallTime) {
        frame::append(out, &Header { call, stamp: start_at.0, ..self.header }, &self.body);
    }
}

/// One connection that submits and listens. The caller counts what it sent and what came back.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
    outbox: Outbox,
    inbox: Inbox,
}

impl Sender {
    /// Connects, and waits for the node's hello.
    ///
    /// # Errors
    /// As [`crate::blocking::Client::connect`].
    pub fn connect(endpoint: &Endpoint, name: &str) -> Result<Sender, Error> {
        let connect = |source| Error::Connect { endpoint: endpoint.clone(), source };
        let socket = Socket::connect(endpoint).map_err(connect)?;
        let mut sender = Sender { socket, outbox: Outbox::default(), inbox: Inbox::default() };
        let json = serde_json::to_vec(&Hello::Client { name: name.into() }).expect("a hello is plain text");
        frame::append(sender.outbox.frames(), &Header::new(Kind::Hello), &json);
        let until = Instant::now() + HELLO_TIME;
        let mut greeted = Err(Error::Silent(HELLO_TIME));
        while matches!(greeted, Err(Error::Silent(_))) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return greeted.map(|()| sender);
            }
            sender.flush().map_err(connect)?;
            sender.wait(left).map_err(connect)?;
            sender.receive(|frame| greeted = check_hello(frame)).map_err(connect)?;
        }
        greeted.map(|()| sender)
    }

    /// Where frames are appended: by [`Template::append`] or [`call::body::append_submit`].
    pub fn frames(&mut self) -> &mut FrameBuf {
        self.outbox.frames()
    }

    /// Bytes appended and not yet taken by the kernel: a caller stops appending while they grow.
    pub fn unsent(&self) -> usize {
        self.outbox.unsent().len()
    }

    /// Writes what the kernel takes; whether it took everything.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.outbox.unsent().is_empty() {
            match self.socket.write(self.outbox.unsent())? {
                Some(bytes) => self.outbox.sent(bytes),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads once and hands over every whole frame; how many there were. Does not wait.
    ///
    /// # Errors
    /// The connection is broken, or brought something that is not a frame (`InvalidData`).
    pub fn receive(&mut self, mut take: impl FnMut(Frame<'_>)) -> io::Result<usize> {
        let invalid = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
        match self.socket.read(self.inbox.room().map_err(invalid)?)? {
            None => return Ok(0),
            Some(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the node")),
            Some(bytes) => self.inbox.filled(bytes),
        }
        let mut frames = 0;
        while let Some(frame) = self.inbox.next_frame().map_err(invalid)? {
            take(frame);
            frames += 1;
        }
        Ok(frames)
    }

    /// Sleeps until something can be read (or written, if something is unsent), or `time` has passed.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn wait(&self, time: Duration) -> io::Result<()> {
        self.socket.wait(self.unsent() > 0, time)
    }
}

/// Sleeps until something can be read from one of the senders (or written, where something is unsent), or `time` has
/// passed.
///
/// # Errors
/// As the operating system says.
pub fn wait_any(senders: &[Sender], time: Duration) -> io::Result<()> {
    let mut sockets: Vec<_> = senders.iter().map(|s| s.socket.interest(s.unsent() > 0)).collect();
    sleep_on(&mut sockets, time)
}

fn check_hello(frame: Frame<'_>) -> Result<(), Error> {
    match serde_json::from_slice(frame.body()) {
        Ok(Hello::Node { .. }) if frame.kind() == Kind::Hello => Ok(()),
        _ => Err(Error::Unexpected(frame.kind())),
    }
}
