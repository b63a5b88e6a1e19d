//! The node of a test: publishes one function and leases calls of it as fast as credits allow, on a thread of its own.

use call::admin::Hello;
use call::body::{self, Submit};
use call::frame::{self, FrameBuf, Header, Kind, flag};
use call::{Arguments, CallId, Frame, FunctionSpec, Instant, WallTime};
use driver::uring::{Options, Uring};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event, SendError};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the node leases.
#[derive(Clone, Debug)]
pub struct Load {
    /// The function.
    pub spec: FunctionSpec,
    /// Calls in all; their numbers, from 0, are their ids.
    pub calls: u64,
    /// Payload bytes of the calls, in turn.
    pub payload_bytes: &'static [usize],
    /// The first so many calls have [`LARGEST_BYTES`] instead.
    pub first_large: u64,
}

/// Payload bytes of the largest call.
pub const LARGEST_BYTES: usize = 4000;

impl Load {
    /// The submit frame of a call, without padding: as its client encoded it.
    pub fn submit(&self, call: u64, out: &mut FrameBuf) {
        // Letters: the scripted runtime echoes what is no script.
        let payload = [b'a' + (call % 26) as u8; 8192];
        let bytes = match call < self.first_large {
            true => LARGEST_BYTES,
            false => self.payload_bytes[call as usize % self.payload_bytes.len()],
        };
        let submit = Submit {
            call: CallId(u128::from(call)),
            function: self.spec.id(),
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: false,
            arguments: Arguments { payload: &payload[..bytes], attributes: &[] },
            ..Submit::default()
        };
        out.clear();
        body::append_submit(out, &submit).expect("small arguments");
        let exact = Frame::parse(out).expect("just encoded").0.bytes().len();
        out.resize(exact, 0);
    }
}

/// Starts a node that listens at `at`; its end gives how many outcomes were ok. It listens when this returns.
pub fn start(at: &Endpoint, load: Load) -> (Endpoint, JoinHandle<u64>) {
    let (at, (told, local)) = (at.clone(), mpsc::channel());
    let run = move || {
        let mut driver = Uring::new(Options::default()).expect("io_uring");
        let listener = driver.listen(&at).expect("a free endpoint");
        told.send(driver.local(listener)).expect("the test waits");
        let mut node = Node {
            driver,
            load,
            connection: None,
            granted: 0,
            sent: 0,
            ended: 0,
            ok: 0,
            frame: FrameBuf::new(),
        };
        node.run();
        node.ok
    };
    let thread = std::thread::Builder::new().name("node".into()).spawn(run).expect("a thread");
    (local.recv().expect("the node listens"), thread)
}

struct Node {
    driver: Uring,
    load: Load,
    connection: Option<ConnectionId>,
    granted: u64,
    sent: u64,
    ended: u64,
    ok: u64,
    frame: FrameBuf,
}

impl Node {
    /// Until the core has drained and gone.
    fn run(&mut self) {
        let mut arrivals = Arrivals::new();
        let mut gone = false;
        while !gone {
            let until: Instant = self.driver.now() + Duration::from_millis(10);
            self.driver.reap(until, &mut arrivals);
            for event in arrivals.iter() {
                match event {
                    Event::Accepted { connection, .. } => self.connection = Some(connection),
                    Event::Frame { frame, .. } => self.take(&frame),
                    Event::Closed { .. } => gone = true,
                    _ => {}
                }
            }
            self.lease();
        }
    }

    fn take(&mut self, frame: &Frame<'_>) {
        match frame.kind() {
            Kind::Hello => self.greet(),
            Kind::Credit => self.granted = frame.stamp(),
            Kind::Outcome => {
                self.ended += 1;
                self.ok += u64::from(frame.status().is_ok_and(|status| status.is_ok()));
            }
            _ => {}
        }
        if frame.kind() == Kind::Outcome && self.ended == self.load.calls {
            let drain = Header::new(Kind::Drain).encode(&[]);
            self.driver.send(self.connection.expect("connected"), &drain).expect("room for the last frame");
        }
    }

    fn greet(&mut self) {
        let hello = Hello::Node { version: "test".into(), incarnation: 1, admin: String::new() };
        let mut out = FrameBuf::new();
        frame::append(&mut out, &Header::new(Kind::Hello), &serde_json::to_vec(&hello).expect("words"));
        let publish = Header { function: self.load.spec.id(), ..Header::new(Kind::Publish) };
        frame::append(&mut out, &publish, &serde_json::to_vec(&self.load.spec).expect("words"));
        self.driver.send(self.connection.expect("connected"), &out).expect("an empty queue");
    }

    /// As many leases as the core granted and the connection takes.
    fn lease(&mut self) {
        let Some(connection) = self.connection else { return };
        while self.sent < self.granted.min(self.load.calls) {
            self.load.submit(self.sent, &mut self.frame);
            let header = Header {
                flags: flag::SEALED_BODY,
                call: CallId(u128::from(self.sent)),
                function: self.load.spec.id(),
                stamp: self.sent,
                attempt: 1,
                ..Header::new(Kind::Lease)
            };
            match self.driver.send_parts(connection, &header.encode(&self.frame), &self.frame) {
                Ok(()) => self.sent += 1,
                Err(SendError::Full | SendError::Closed) => return,
            }
        }
    }
}
