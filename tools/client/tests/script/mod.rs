//! A node played by a script: frames on a Unix socket, one thread, no queue.

#![allow(dead_code)] // Each test binary uses the part it needs.

use call::admin::Hello;
use call::body::{self, Reply, Verdict};
use call::frame::{self, FrameBuf, Header};
use call::limits::HEADER_BYTES;
use call::{CallId, Frame, Kind, Status, Usage, VerdictCode};
use millrace_client::Endpoint;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

/// A listening socket in a directory of its own, and the script that plays on it.
pub struct Node {
    pub endpoint: Endpoint,
    script: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Node {
    /// Plays `script` on a thread.
    pub fn play(script: impl FnOnce(UnixListener) + Send + 'static) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let script = std::thread::spawn(move || script(listener));
        Node { endpoint: Endpoint::Unix(path), script, _directory: directory }
    }

    /// Waits for the end of the script; its failed asserts become this test's.
    pub fn end(self) {
        if let Err(panic) = self.script.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The node's side of one connection.
pub struct Peer(pub UnixStream);

impl Peer {
    /// Takes a connection and exchanges hellos.
    pub fn greet(listener: &UnixListener) -> Peer {
        let mut peer = Peer(listener.accept().unwrap().0);
        let hello: Hello = serde_json::from_slice(peer.frame().1.as_slice()).unwrap();
        assert!(matches!(hello, Hello::Client { .. }), "{hello:?}");
        let node = Hello::Node { version: "0".into(), incarnation: 3, admin: "http://127.0.0.1:1".into() };
        peer.send(|out| {
            frame::append(out, &Header::new(Kind::Hello), &serde_json::to_vec(&node).unwrap());
        });
        peer
    }

    /// One frame: its header and its body.
    pub fn frame(&mut self) -> (Header, Vec<u8>) {
        self.try_frame().expect("the client sends a frame")
    }

    /// One frame, or `None` at the end of the stream.
    pub fn try_frame(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut bytes = FrameBuf::new();
        bytes.resize(HEADER_BYTES, 0);
        self.0.read_exact(&mut bytes).ok()?;
        let whole = frame::frame_bytes(&bytes).unwrap().unwrap();
        bytes.resize(whole, 0);
        self.0.read_exact(&mut bytes[HEADER_BYTES..]).unwrap();
        let (frame, _) = Frame::parse(&bytes).unwrap();
        Some((frame.header(), frame.body().to_vec()))
    }

    /// The ids of the next `count` submits.
    pub fn submits(&mut self, count: usize) -> Vec<CallId> {
        let submit = |_| {
            let (header, _) = self.frame();
            assert_eq!(header.kind, Kind::Submit);
            header.call
        };
        (0..count).map(submit).collect()
    }

    /// Sends what `write` appends. A client that has gone is not the script's concern.
    pub fn send(&mut self, write: impl FnOnce(&mut FrameBuf)) {
        let mut out = FrameBuf::new();
        write(&mut out);
        let _gone = self.0.write_all(&out);
    }

    /// One verdicts frame.
    pub fn verdicts(&mut self, calls: &[CallId], code: VerdictCode, retry_after_ms: u32) {
        let all: Vec<Verdict> = calls.iter().map(|call| Verdict::new(*call, code, retry_after_ms)).collect();
        self.send(|out| body::append_verdicts(out, &all).unwrap());
    }

    /// An outcome with this output.
    pub fn outcome(&mut self, call: CallId, status: Status, output: &[u8]) {
        let lease = Header { call, attempt: 1, ..Header::new(Kind::Lease) };
        let reply = Reply::new(&Usage::default(), output, b"");
        self.send(|out| body::append_outcome(out, &lease, status, &reply).unwrap());
    }

    /// Waits until the client hangs up.
    pub fn until_closed(mut self) {
        while self.try_frame().is_some() {}
    }
}
