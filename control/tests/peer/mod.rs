//! A scripted peer: speaks the native protocol over a blocking Unix socket, as a client, a core or a host.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod node;
pub mod server;

use call::admin::Hello;
use call::body::{self, Reply, Submit};
use call::frame::{self, Frame, FrameBuf, Header, Kind};
use call::{Arguments, CallId, FunctionId, Status, Usage, VerdictCode, WallTime};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Longer than anything here takes, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Peer {
    stream: UnixStream,
    received: FrameBuf,
    waiting: VecDeque<FrameBuf>,
}

impl Peer {
    pub fn connect(socket: &Path, hello: &Hello) -> Peer {
        let stream = UnixStream::connect(socket).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer { stream, received: FrameBuf::new(), waiting: VecDeque::new() };
        peer.send(&Header::new(Kind::Hello), &serde_json::to_vec(hello).unwrap());
        let greeting = peer.expect(Kind::Hello);
        let (greeting, _) = Frame::parse(&greeting).unwrap();
        let node: Hello = serde_json::from_slice(greeting.body()).unwrap();
        assert!(matches!(node, Hello::Node { .. }));
        peer
    }

    /// Whether a node closes the connection of whoever says this.
    pub fn refused(socket: &Path, hello: &Hello) -> bool {
        let stream = UnixStream::connect(socket).expect("the node listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer { stream, received: FrameBuf::new(), waiting: VecDeque::new() };
        peer.send(&Header::new(Kind::Hello), &serde_json::to_vec(hello).unwrap());
        peer.is_closed() && peer.waiting.is_empty()
    }

    /// Takes a node's connection; its hello is read.
    pub fn accept(listener: &UnixListener) -> Peer {
        let stream = listener.accept().expect("a node connects").0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer { stream, received: FrameBuf::new(), waiting: VecDeque::new() };
        peer.expect(Kind::Hello);
        peer
    }

    pub fn client(socket: &Path) -> Peer {
        Peer::connect(socket, &Hello::Client { name: "test".into() })
    }

    pub fn core(socket: &Path, slots: u32) -> Peer {
        let hello = Hello::Core {
            host: "here".into(),
            cpu: 0,
            pid: std::process::id(),
            slots,
            backends: vec![("runtime".into(), "scripted".into())],
        };
        Peer::connect(socket, &hello)
    }

    pub fn host(socket: &Path) -> Peer {
        Peer::connect(socket, &Hello::Host { host: "here".into(), pid: std::process::id() })
    }

    pub fn send(&mut self, header: &Header, body: &[u8]) {
        let mut out = FrameBuf::new();
        frame::append(&mut out, header, body);
        self.stream.write_all(&out).expect("the node reads");
    }

    pub fn submit(
        &mut self,
        call: u128,
        function: FunctionId,
        payload: &[u8],
        want_outcome: bool,
    ) -> FrameBuf {
        let mut out = FrameBuf::new();
        let submit = Submit {
            call: CallId(call),
            function,
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome,
            arguments: Arguments { payload, attributes: &[] },
            ..Submit::default()
        };
        body::append_submit(&mut out, &submit).unwrap();
        self.stream.write_all(&out).expect("the node reads");
        out
    }

    /// Submits and waits for the verdict.
    pub fn submitted(&mut self, call: u128, function: FunctionId, want_outcome: bool) -> VerdictCode {
        self.submit(call, function, b"arguments", want_outcome);
        let verdicts = self.verdicts(1);
        assert_eq!(verdicts[0].0, CallId(call));
        verdicts[0].1
    }

    pub fn verdicts(&mut self, count: usize) -> Vec<(CallId, VerdictCode)> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let frame = self.expect(Kind::Verdicts);
            let (frame, _) = Frame::parse(&frame).unwrap();
            heard.extend(body::verdicts(frame.body()).unwrap().iter().map(|v| (v.call(), v.code().unwrap())));
        }
        heard
    }

    /// Submits a call by an idempotency key; its id is [`CallId::of_key`].
    pub fn submit_keyed(&mut self, key: &str, function: FunctionId) {
        let submit = Submit { function, ..Submit::default() }.keyed_by(key, WallTime(0));
        let mut out = FrameBuf::new();
        body::append_submit(&mut out, &submit).unwrap();
        self.stream.write_all(&out).expect("the node reads");
    }

    /// Grants slots, as a core.
    pub fn grant(&mut self, in_all: u64) {
        self.send(&Header { stamp: in_all, ..Header::new(Kind::Credit) }, &[]);
    }

    /// Says that the function of a publish is compiled, as a host.
    pub fn ready(&mut self, publish: &[u8], status: Status, reason: &str) {
        let (frame, _) = Frame::parse(publish).unwrap();
        assert_eq!(frame.kind(), Kind::Publish);
        let header = Header {
            function: frame.function(),
            stamp: frame.stamp(),
            level: status as u8,
            ..Header::new(Kind::Ready)
        };
        let body = if reason.is_empty() { Vec::new() } else { serde_json::to_vec(reason).unwrap() };
        self.send(&header, &body);
    }

    /// Ends a lease, as a core.
    pub fn end(&mut self, lease: &[u8], status: Status, output: &[u8]) {
        let usage = Usage { run_ns: 1000, cpu_ns: 900, ..Usage::default() };
        self.end_with(lease, status, &Reply::new(&usage, output, b""));
    }

    /// As [`Peer::end`], with everything that an outcome says.
    pub fn end_with(&mut self, lease: &[u8], status: Status, reply: &Reply<'_>) {
        let (lease, _) = Frame::parse(lease).unwrap();
        assert_eq!(lease.kind(), Kind::Lease);
        let mut out = FrameBuf::new();
        body::append_outcome(&mut out, &lease.header(), status, reply).unwrap();
        self.stream.write_all(&out).expect("the node reads");
    }

    /// The next frame of this kind; others that come before it are kept.
    pub fn expect(&mut self, kind: Kind) -> FrameBuf {
        let of_kind = |frame: &FrameBuf| Frame::parse(frame).unwrap().0.kind() == kind;
        if let Some(at) = self.waiting.iter().position(of_kind) {
            return self.waiting.remove(at).unwrap();
        }
        loop {
            let frame =
                self.receive().unwrap_or_else(|| panic!("the node closed instead of sending {kind:?}"));
            if of_kind(&frame) {
                return frame;
            }
            self.waiting.push_back(frame);
        }
    }

    /// Panics if a frame of this kind has come or comes within `time`.
    pub fn expect_no(&mut self, kind: Kind, time: Duration) {
        self.stream.set_read_timeout(Some(time)).unwrap();
        while let Some(frame) = self.receive() {
            self.waiting.push_back(frame);
        }
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let found = self.waiting.iter().any(|f| Frame::parse(f).unwrap().0.kind() == kind);
        assert!(!found, "the node sent a {kind:?}");
    }

    /// Waits until the node has closed the connection; false if it does not.
    pub fn is_closed(&mut self) -> bool {
        while let Some(frame) = self.receive() {
            self.waiting.push_back(frame);
        }
        match self.stream.read(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// `None` at the end of the stream or of patience.
    fn receive(&mut self) -> Option<FrameBuf> {
        loop {
            if let Some(whole) = frame::frame_bytes(&self.received).unwrap()
                && self.received.len() >= whole
            {
                let mut first = FrameBuf::new();
                first.extend_from_slice(&self.received[..whole]);
                let mut rest = FrameBuf::new();
                rest.extend_from_slice(&self.received[whole..]);
                self.received = rest;
                return Some(first);
            }
            let mut chunk = [0u8; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(bytes) => self.received.extend_from_slice(&chunk[..bytes]),
            }
        }
    }
}
