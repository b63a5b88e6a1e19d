//! A client of the durable cycle, as lean as the protocol allows: one thread, one connection, verdicts only.

use crate::generator::Window;
use call::body::{self, Submit};
use call::frame::{self, FrameBuf, Header};
use call::{Arguments, CallId, FunctionId, Kind, VerdictCode, WallTime};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Submits in flight: enough that a group commit always has a next group to fill.
const WINDOW: usize = 8192;
/// And bytes of their arguments: the node keeps what is not on disk yet in memory, and refuses more.
const WINDOW_BYTES: usize = 1 << 20;
/// Frames written at once, and at most a quarter of the window: the next ones go while others are in flight.
const BATCH: usize = 256;
/// Accepted calls that have not ended: a queue of ordinary length, so that no backlog hides what the rest costs.
const ON_THE_WAY: u64 = 32 << 10;
/// And bytes of their arguments: many more than end between two looks at the node's count.
const ON_THE_WAY_BYTES: usize = 32 << 20;
/// How often the node's count is looked at while too many are on their way.
pub const LOOK: Duration = Duration::from_millis(5);
/// At a fixed rate, calls of this time leave in one write, unless verdicts come before: a write for each call would
/// keep the node from the CPU that it shares with this client. It counts as latency. With 50 us this client, in real-time
/// priority, took 25 of every 90 us from the node.
pub const COALESCE: Duration = Duration::from_micros(150);
/// Room for what is read: twice a frame with the verdicts of all that is in flight.
const INPUT_BYTES: usize = 1 << 20;
/// The longest sleep while something is in flight.
const PATIENCE: Duration = Duration::from_millis(100);

/// One connection that submits as fast as verdicts allow, or at a fixed rate, from one thread.
pub struct Submitter {
    socket: UnixStream,
    function: FunctionId,
    payload: Vec<u8>,
    next: u128,
    out: FrameBuf,
    written: usize,
    /// Read and not yet looked at: the first `have` bytes. Of a fixed size, so that a read does not clear it first.
    input: FrameBuf,
    have: usize,
    in_flight: VecDeque<Instant>,
    /// Verdicts `Accepted`.
    pub accepted: u64,
    /// Any other verdict.
    pub refused: u64,
    /// From the intended send to the verdict, and to the write that took it.
    pub timed: Window,
    /// Submits in flight at most.
    window: usize,
    /// Submits written at once.
    batch: usize,
    /// Accepted calls that have not ended, at most.
    pub on_the_way_max: u64,
}

impl Submitter {
    /// Connects to a node's Unix socket and says hello.
    pub fn connect(at: &Path, function: FunctionId, payload_bytes: usize) -> io::Result<Submitter> {
        let mut socket = UnixStream::connect(at)?;
        let mut hello = FrameBuf::new();
        frame::append(&mut hello, &Header::new(Kind::Hello), br#"{"role":"client","name":"bench"}"#);
        socket.write_all(&hello)?;
        socket.set_nonblocking(true)?;
        let mut input = FrameBuf::new();
        input.resize(INPUT_BYTES, 0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let window = WINDOW.min(WINDOW_BYTES / payload_bytes.max(1));
        Ok(Submitter {
            socket,
            function,
            payload: vec![b'x'; payload_bytes],
            next: CallId::new(now.as_millis() as u64, (now.subsec_nanos() as u128 * 1_000_003) << 40).0,
            out: FrameBuf::with_capacity(1 << 20),
            written: 0,
            input,
            have: 0,
            in_flight: VecDeque::with_capacity(2 * WINDOW),
            accepted: 0,
            refused: 0,
            timed: Window::default(),
            window,
            batch: BATCH.min(window / 4),
            on_the_way_max: ON_THE_WAY.min((ON_THE_WAY_BYTES / payload_bytes.max(1)) as u64),
        })
    }

    /// As fast as verdicts and `completed`, the node's count of calls that have ended, allow, for `span`; then waits
    /// for the remaining verdicts.
    pub fn saturate(&mut self, span: Duration, completed: &AtomicU64) -> io::Result<()> {
        let until = Instant::now() + span;
        let ended_before = completed.load(Relaxed);
        let settled_before = self.accepted + self.refused;
        loop {
            let now = Instant::now();
            if now >= until && self.in_flight.is_empty() {
                return Ok(());
            }
            let settled = self.accepted + self.refused - settled_before;
            let on_the_way = settled.saturating_sub(completed.load(Relaxed) - ended_before);
            let may_submit =
                self.in_flight.len() + self.batch <= self.window && on_the_way <= self.on_the_way_max;
            if now < until && self.out.is_empty() && may_submit {
                (0..self.batch).for_each(|_| self.encode(now));
            }
            if !self.turn()? {
                self.wait(if may_submit { PATIENCE } else { LOOK })?;
            }
        }
    }

    /// Open loop: `per_s` calls a second at their intended times, whether or not verdicts come.
    pub fn pace(&mut self, per_s: f64, span: Duration) -> io::Result<()> {
        nix::sys::prctl::set_timerslack(1)?;
        let begun = Instant::now();
        let total = (per_s * span.as_secs_f64()) as u64;
        let intended = |n: u64| begun + Duration::from_secs_f64(n as f64 / per_s);
        // What falls due while this loop is held up is late by this loop. A call that it has `seen` and that waits since
        // too many are in flight is late by the node.
        let (mut sent, mut seen) = (0, 0);
        while sent < total || !self.in_flight.is_empty() {
            let now = Instant::now();
            while seen < total && intended(seen) <= now {
                let late = now.saturating_duration_since(intended(seen)).as_nanos() as u64;
                self.timed.lateness_ns.saturating_record(late);
                seen += 1;
            }
            while sent < seen && self.in_flight.len() < 2 * WINDOW {
                self.encode(intended(sent));
                sent += 1;
            }
            self.turn()?;
            self.wait(if sent < total { COALESCE } else { PATIENCE })?;
        }
        Ok(())
    }

    fn encode(&mut self, intended: Instant) {
        self.next += 1;
        let submit = Submit {
            call: CallId(self.next),
            function: self.function,
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: false,
            arguments: Arguments { payload: &self.payload, attributes: &[] },
            ..Submit::default()
        };
        body::append_submit(&mut self.out, &submit).expect("a small payload fits");
        self.in_flight.push_back(intended);
    }

    /// Sleeps until the socket has something to read, or takes more of what is left to write, or `time` has passed.
    /// Sleeping, not spinning: the node may need this CPU.
    fn wait(&self, time: Duration) -> io::Result<()> {
        let left = self.written < self.out.len();
        let interest = if left { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut descriptors = [PollFd::new(self.socket.as_fd(), interest)];
        ppoll(&mut descriptors, Some(TimeSpec::from_duration(time)), None)?;
        Ok(())
    }

    /// Writes what can be written and reads what is there; whether anything moved.
    fn turn(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(n) => (self.written, moved) = (self.written + n, true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
            }
        }
        let read = self.socket.read(&mut self.input[self.have..]);
        let got = match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.have += got;
        if got > 0 {
            self.take_frames()?;
        }
        Ok(moved || got > 0)
    }

    fn take_frames(&mut self) -> io::Result<()> {
        let mut at = 0;
        while let Ok(Some(bytes)) = frame::frame_bytes(&self.input[at..self.have]) {
            if at + bytes > self.have {
                break;
            }
            let (frame, _) = call::Frame::parse(&self.input[at..self.have]).map_err(io::Error::other)?;
            if frame.kind() == Kind::Verdicts {
                let now = Instant::now();
                for verdict in body::verdicts(frame.body()).map_err(io::Error::other)? {
                    let intended = self.in_flight.pop_front().expect("a verdict answers a submit");
                    let took = now.saturating_duration_since(intended);
                    self.timed.latency_ns.saturating_record(took.as_nanos() as u64);
                    match verdict.code() {
                        Ok(VerdictCode::Accepted) => self.accepted += 1,
                        _ => self.refused += 1,
                    }
                }
            }
            at += bytes;
        }
        self.input.copy_within(at..self.have, 0);
        self.have -= at;
        Ok(())
    }
}
