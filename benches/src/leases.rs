//! A node that is nothing but a load: it publishes functions to one core and leases calls of them, so that a core can
//! be measured alone. It runs on the thread that calls it.

use call::admin::Hello;
use call::body::{self, Submit};
use call::frame::{self, FrameBuf, Header, flag};
use call::{Arguments, CallId, Frame, FunctionSpec, Instant, Kind, WallTime};
use driver::uring::{Options, Uring};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event};
use hdrhistogram::Histogram;
use std::io;
use std::time::Duration;

/// Leases encoded beforehand and sent as one run of bytes, as often as credits allow.
const BLOCK: u64 = 256;
/// Calls in flight whose intended start is remembered; more than any core has slots.
const STARTS: usize = 1 << 16;

/// One function as it is leased.
pub struct Leased {
    spec: FunctionSpec,
    /// Its submit frame, without padding.
    submit: FrameBuf,
    /// [`BLOCK`] lease frames in a row, each of `stride` bytes.
    block: FrameBuf,
    stride: usize,
}

impl Leased {
    /// Leases of this function with so many bytes of arguments.
    pub fn new(spec: FunctionSpec, payload_bytes: usize) -> Leased {
        let mut submit = FrameBuf::new();
        let payload = vec![b'x'; payload_bytes];
        let call = Submit {
            call: CallId(1),
            function: spec.id(),
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: false,
            arguments: Arguments { payload: &payload, attributes: &[] },
        };
        body::append_submit(&mut submit, &call).expect("arguments within limits");
        let exact = Frame::parse(&submit).expect("just encoded").0.bytes().len();
        submit.resize(exact, 0);
        let mut block = FrameBuf::new();
        for _ in 0..BLOCK {
            frame::append(&mut block, &lease(&spec, 0), &submit);
        }
        Leased { stride: block.len() / BLOCK as usize, spec, submit, block }
    }
}

/// The envelope of a lease; the outcome repeats `stamp`.
fn lease(spec: &FunctionSpec, stamp: u64) -> Header {
    let flags = flag::SEALED_BODY;
    let function = spec.id();
    Header { flags, call: CallId(1), function, stamp, attempt: 1, ..Header::new(Kind::Lease) }
}

/// The node.
pub struct Leases {
    driver: Uring,
    arrivals: Arrivals,
    connection: ConnectionId,
    /// Functions, in the order of their numbers.
    pub functions: Vec<Leased>,
    granted: u64,
    sent: u64,
    /// Outcomes received.
    pub ended: u64,
    /// Of them, other than ok.
    pub failed: u64,
    /// Of the outcomes of timed leases: from the intended start, ns.
    pub latency_ns: Histogram<u64>,
    starts: Box<[Instant]>,
    next_start: usize,
}

impl Leases {
    /// Listens at `at`, has `start` start a core that connects there, and greets it.
    ///
    /// # Errors
    /// If the endpoint or the ring is refused, or no core comes within ten seconds.
    pub fn serve(
        at: &Endpoint,
        functions: Vec<Leased>,
        start: impl FnOnce(&Endpoint) -> io::Result<()>,
    ) -> io::Result<Leases> {
        let mut driver = Uring::new(Options { spin: Duration::from_millis(10), ..Options::default() })?;
        let listener = driver.listen(at)?;
        start(&driver.local(listener))?;
        let mut leases = Leases {
            driver,
            arrivals: Arrivals::new(),
            connection: ConnectionId::default(),
            functions,
            granted: 0,
            sent: 0,
            ended: 0,
            failed: 0,
            latency_ns: Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds are valid"),
            starts: vec![Instant(0); STARTS].into_boxed_slice(),
            next_start: 0,
        };
        let give_up = leases.now() + Duration::from_secs(10);
        while leases.granted == 0 {
            leases.poll(Duration::from_millis(10));
            if leases.now() > give_up {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the core did not connect within ten seconds",
                ));
            }
        }
        Ok(leases)
    }

    /// Now.
    pub fn now(&self) -> Instant {
        self.driver.precise()
    }

    /// Leases that the core would take now.
    pub fn credits(&self) -> u64 {
        self.granted - self.sent
    }

    /// Calls leased and not ended.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.ended
    }

    /// Sends as many leases of a function as credits allow, up to `most`. How many.
    pub fn send_block(&mut self, function: usize, most: u64) -> u64 {
        let leased = &self.functions[function];
        let mut left = most.min(self.credits());
        let asked = left;
        while left > 0 {
            let count = left.min(BLOCK);
            if self.driver.send(self.connection, &leased.block[..count as usize * leased.stride]).is_err() {
                break;
            }
            left -= count;
        }
        self.sent += asked - left;
        asked - left
    }

    /// Sends one lease whose latency counts from `start`; false if there is no credit.
    pub fn send_timed(&mut self, function: usize, start: Instant) -> bool {
        if self.credits() == 0 {
            return false;
        }
        let leased = &self.functions[function];
        let slot = self.next_start;
        let header = lease(&leased.spec, slot as u64 + 1).encode(&leased.submit);
        if self.driver.send_parts(self.connection, &header, &leased.submit).is_err() {
            return false;
        }
        self.starts[slot] = start;
        self.next_start = (slot + 1) % STARTS;
        self.sent += 1;
        true
    }

    /// Gives what is queued and takes what has come, waiting for this long at most.
    pub fn poll(&mut self, wait: Duration) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let until = if wait.is_zero() { Instant(0) } else { self.now() + wait };
        self.driver.reap(until, &mut arrivals);
        let now = self.driver.precise();
        for event in arrivals.iter() {
            match event {
                Event::Accepted { connection, .. } => self.connection = connection,
                Event::Frame { frame, .. } => self.take(&frame, now),
                Event::Closed { reason, .. } => panic!("the core is gone: {reason}"),
                _ => {}
            }
        }
        self.arrivals = arrivals;
    }

    /// Waits until everything in flight has ended.
    pub fn settle(&mut self) {
        while self.in_flight() > 0 {
            self.poll(Duration::from_millis(1));
        }
    }

    fn take(&mut self, frame: &Frame<'_>, now: Instant) {
        match frame.kind() {
            Kind::Outcome => {
                self.ended += 1;
                self.failed += u64::from(frame.status().is_ok_and(|status| !status.is_ok()));
                if let Some(slot) = frame.stamp().checked_sub(1) {
                    let ns = now.since(self.starts[slot as usize]).as_nanos() as u64;
                    self.latency_ns.saturating_record(ns);
                }
            }
            Kind::Credit => self.granted = frame.stamp(),
            Kind::Hello => self.greet(),
            _ => {}
        }
    }

    fn greet(&mut self) {
        let hello = Hello::Node { version: "bench".into(), incarnation: 1, admin: String::new() };
        let mut out = FrameBuf::new();
        frame::append(&mut out, &Header::new(Kind::Hello), &serde_json::to_vec(&hello).expect("words"));
        for leased in &self.functions {
            let header = Header { function: leased.spec.id(), ..Header::new(Kind::Publish) };
            frame::append(&mut out, &header, &serde_json::to_vec(&leased.spec).expect("words"));
        }
        self.driver.send(self.connection, &out).expect("an empty queue");
    }
}
