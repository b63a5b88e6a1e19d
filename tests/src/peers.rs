//! A host and a core that the test plays itself, so that it sees each lease: the native protocol over a blocking socket.

use call::admin::Hello;
use call::body::{Reply, append_outcome};
use call::frame::{self, Frame, FrameBuf, Header, Kind};
use call::{Status, Usage};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A connection to a node that may be killed at any time: its end is no error.
pub struct Peer {
    stream: UnixStream,
    received: FrameBuf,
    out: FrameBuf,
}

impl Peer {
    fn connect(socket: &Path, hello: &Hello) -> Option<Peer> {
        let stream = UnixStream::connect(socket).ok()?;
        let mut peer = Peer { stream, received: FrameBuf::new(), out: FrameBuf::new() };
        let body = serde_json::to_vec(hello).expect("plain data");
        frame::append(&mut peer.out, &Header::new(Kind::Hello), &body);
        Some(peer)
    }

    /// Sends what is to be sent, waits for something and hands on each whole frame. `false` when the node is gone.
    fn turn(&mut self, mut take: impl FnMut(&Frame<'_>, &mut FrameBuf)) -> bool {
        // What it sent before it died is there to be read, even if nothing can be written.
        let _ = self.stream.write_all(&self.out);
        self.out.clear();
        let mut chunk = [0u8; READ_BYTES];
        let Ok(bytes @ 1..) = self.stream.read(&mut chunk) else { return false };
        self.received.extend_from_slice(&chunk[..bytes]);
        let mut at = 0;
        while let Ok(Some(whole)) = frame::frame_bytes(&self.received[at..])
            && self.received.len() - at >= whole
        {
            // A frame lies aligned.
            let mut one = FrameBuf::new();
            one.extend_from_slice(&self.received[at..at + whole]);
            take(&Frame::parse(&one).expect("the node's frames are whole").0, &mut self.out);
            at += whole;
        }
        let mut rest = FrameBuf::new();
        rest.extend_from_slice(&self.received[at..]);
        self.received = rest;
        true
    }
}

/// Plays a host that has compiled whatever the node publishes, until the node is gone.
pub fn host(socket: &Path) {
    let hello = Hello::Host { host: "here".into(), pid: std::process::id() };
    let Some(mut peer) = Peer::connect(socket, &hello) else { return };
    while peer.turn(|frame, out| {
        if frame.kind() == Kind::Publish {
            let (function, stamp) = (frame.function(), frame.stamp());
            let ready = Header { function, stamp, level: Status::Ok as u8, ..Header::new(Kind::Ready) };
            frame::append(out, &ready, &[]);
        }
    }) {}
}

/// What a core does with a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It has ended well.
    Ends,
    /// It goes on for as long as the node lives.
    Runs,
}

/// Plays a core with so many slots until the node is gone. `leased` sees each lease and the submit in it, before the
/// core answers.
pub fn core(socket: &Path, slots: u32, mut leased: impl FnMut(&Frame<'_>, &Frame<'_>) -> Fate) {
    let hello = Hello::Core {
        host: "here".into(),
        cpu: 0,
        pid: std::process::id(),
        slots,
        backends: vec![("runtime".into(), "the test".into())],
    };
    let Some(mut peer) = Peer::connect(socket, &hello) else { return };
    let mut granted = 0u64;
    while peer.turn(|frame, out| match frame.kind() {
        Kind::Hello => {
            granted = slots.into();
            frame::append(out, &Header { stamp: granted, ..Header::new(Kind::Credit) }, &[]);
        }
        Kind::Lease => {
            let mut inner = FrameBuf::new();
            inner.extend_from_slice(frame.body());
            let (submit, _) = Frame::parse(&inner).expect("a lease holds its submit");
            if leased(frame, &submit) == Fate::Ends {
                let reply = Reply::new(&Usage::default(), b"", b"");
                append_outcome(out, &frame.header(), Status::Ok, &reply).expect("it is short");
                granted += 1;
                frame::append(out, &Header { stamp: granted, ..Header::new(Kind::Credit) }, &[]);
            }
        }
        _ => {}
    }) {}
}
