//! A node played by threads: it accepts every call, runs none, and remembers ids. No disk, no queue.

use call::admin::Hello;
use call::body::{self, Reply, Verdict};
use call::frame::{self, FrameBuf, Header, flag};
use call::limits::HEADER_BYTES;
use call::{CallId, Frame, Kind, Status, Usage, VerdictCode};
use millrace_client::Endpoint;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

/// What the node does otherwise than to accept and complete.
#[derive(Clone, Copy, Default)]
pub struct Whims {
    /// The first connection breaks after so many submits, the last ones unanswered.
    pub breaks_after: Option<usize>,
    /// Arguments that are refused as for an unknown function.
    pub refuses: Option<&'static [u8]>,
    /// Arguments whose call traps.
    pub traps: Option<&'static [u8]>,
}

/// A listening node.
pub struct Node {
    pub endpoint: Endpoint,
    held: Arc<Mutex<HashSet<CallId>>>,
    _directory: tempfile::TempDir,
}

impl Node {
    pub fn start(whims: Whims) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let held = Arc::new(Mutex::new(HashSet::new()));
        let all = held.clone();
        std::thread::spawn(move || {
            let mut whims = whims;
            for stream in listener.incoming() {
                let held = all.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &held, whims));
                whims.breaks_after = None;
            }
        });
        Node { endpoint: Endpoint::Unix(path), held, _directory: directory }
    }

    /// Calls it holds.
    pub fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }
}

/// One connection, until it ends.
fn serve(mut stream: UnixStream, held: &Mutex<HashSet<CallId>>, whims: Whims) -> io::Result<()> {
    let mut submits = 0;
    loop {
        let bytes = read_frame(&mut stream)?;
        let (frame, _) = Frame::parse(&bytes).unwrap();
        let mut out = FrameBuf::new();
        match frame.kind() {
            Kind::Hello => {
                let hello =
                    Hello::Node { version: "0".into(), incarnation: 1, admin: "http://127.0.0.1:1".into() };
                frame::append(&mut out, &Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
            }
            Kind::Submit => {
                submits += 1;
                if whims.breaks_after.is_some_and(|after| submits > after) {
                    return Ok(());
                }
                judge(frame, held, whims, &mut out);
            }
            other => panic!("a client sends no {other:?}"),
        }
        // Every third call is accepted without an answer before the connection breaks.
        if !(whims.breaks_after.is_some() && submits % 3 == 2) {
            stream.write_all(&out)?;
        }
    }
}

fn judge(frame: Frame<'_>, held: &Mutex<HashSet<CallId>>, whims: Whims, out: &mut FrameBuf) {
    let payload = &body::arguments(frame.body()).unwrap().payload;
    let code = match held.lock().unwrap().insert(frame.call()) {
        _ if whims.refuses.is_some_and(|refused| refused == &**payload) => VerdictCode::UnknownFunction,
        true => VerdictCode::Accepted,
        false => VerdictCode::Duplicate,
    };
    body::append_verdicts(out, &[Verdict::new(frame.call(), code, 0)]).unwrap();
    if code.is_held() && frame.flags() & flag::WANT_OUTCOME != 0 {
        let trap = whims.traps.is_some_and(|traps| traps == &**payload);
        let status = if trap { Status::Trap } else { Status::Ok };
        let lease = Header { attempt: 1, ..frame.header() };
        let usage = Usage { run_ns: 5000, cpu_ns: 4000, ..Usage::default() };
        body::append_outcome(out, &lease, status, &Reply::new(&usage, payload, b"")).unwrap();
    }
}

fn read_frame(stream: &mut UnixStream) -> io::Result<FrameBuf> {
    let mut bytes = FrameBuf::new();
    bytes.resize(HEADER_BYTES, 0);
    stream.read_exact(&mut bytes)?;
    let whole = frame::frame_bytes(&bytes).unwrap().unwrap();
    bytes.resize(whole, 0);
    stream.read_exact(&mut bytes[HEADER_BYTES..])?;
    Ok(bytes)
}
