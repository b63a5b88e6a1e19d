//! A node that is nothing but a load: it publishes functions to one core and leases calls of them, so that a core can
//! be measured alone. It runs on the thread that calls it.

use crate::generator::Window;
use call::admin::Hello;
use call::body::{self, Submit};
use call::frame::{self, FrameBuf, Header, flag};
use call::{Arguments, CallId, Frame, FunctionSpec, Instant, Kind, WallTime};
use driver::uring::{Options, Uring};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event};
use std::io;
use std::time::Duration;

/// Leases encoded beforehand and sent as one run of bytes, as often as credits allow.
const BLOCK: u64 = 256;
/// How long a load looks for what comes before it sleeps.
const SPIN: Duration = Duration::from_millis(10);
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
        Leased::carrying(spec, &vec![b'x'; payload_bytes])
    }

    /// Leases of this function with these arguments.
    pub fn carrying(spec: FunctionSpec, payload: &[u8]) -> Leased {
        let mut submit = FrameBuf::new();
        let call = Submit {
            call: CallId(1),
            function: spec.id(),
            start_at: WallTime(0),
            deadline: WallTime(0),
            criticality: 0,
            want_outcome: false,
            arguments: Arguments { payload, attributes: &[] },
            ..Submit::default()
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

/// In place of the start of a lease that is not to be timed.
const LEFT_OUT: Instant = Instant(u64::MAX);

/// The node.
pub struct Leases {
    driver: Uring,
    arrivals: Arrivals,
    connection: ConnectionId,
    greeted: bool,
    /// Functions, in the order of their numbers.
    pub functions: Vec<Leased>,
    granted: u64,
    sent: u64,
    /// Outcomes received.
    pub ended: u64,
    /// Of them, other than ok.
    pub failed: u64,
    /// What the last of these said.
    pub failure: String,
    /// Of timed leases.
    pub timed: Window,
    /// Leases of an open loop that were sent so much too late are left out of `timed.latency_ns`: what they waited for is
    /// this process's CPU.
    pub leaves_out: Option<Duration>,
    starts: Box<[Instant]>,
    next_start: usize,
    /// The peer is no core: it sends back what it is sent, and is sent so many at once.
    echoes: u64,
    /// It sleeps when there is nothing to do, and leaves its CPU to others.
    sleeps: bool,
    /// Read what outcomes say of CPU time and running time: a sum of each.
    pub used: Option<Used>,
}

/// What outcomes said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// CPU time, ns.
    pub cpu_ns: u64,
    /// From the first instruction to the last, ns.
    pub run_ns: u64,
    /// Calls whose instance or sandbox was made for them.
    pub cold: u64,
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
        Leases::meet(at, functions, (0, SPIN), start)
    }

    /// As [`Leases::serve`], but sleeping whenever there is nothing to do: processes of functions may want this CPU.
    ///
    /// # Errors
    /// As [`Leases::serve`].
    pub fn serve_sleeping(
        at: &Endpoint,
        functions: Vec<Leased>,
        start: impl FnOnce(&Endpoint) -> io::Result<()>,
    ) -> io::Result<Leases> {
        Leases::meet(at, functions, (0, Duration::ZERO), start)
    }

    /// As [`Leases::serve`] for a peer that sends each lease back as it is, and is to have `slots` of them at once: what
    /// driver and transport take without a core.
    ///
    /// # Errors
    /// As [`Leases::serve`].
    pub fn echoed(
        at: &Endpoint,
        functions: Vec<Leased>,
        slots: u64,
        start: impl FnOnce(&Endpoint) -> io::Result<()>,
    ) -> io::Result<Leases> {
        Leases::meet(at, functions, (slots, SPIN), start)
    }

    fn meet(
        at: &Endpoint,
        functions: Vec<Leased>,
        (echoes, spin): (u64, Duration),
        start: impl FnOnce(&Endpoint) -> io::Result<()>,
    ) -> io::Result<Leases> {
        let mut driver = Uring::new(Options { spin, ..Options::default() })?;
        let listener = driver.listen(at)?;
        start(&driver.local(listener))?;
        let mut leases = Leases {
            driver,
            arrivals: Arrivals::new(),
            connection: ConnectionId::default(),
            greeted: false,
            functions,
            granted: 0,
            sent: 0,
            ended: 0,
            failed: 0,
            failure: String::new(),
            timed: Window::default(),
            leaves_out: None,
            starts: vec![Instant(0); STARTS].into_boxed_slice(),
            next_start: 0,
            echoes,
            sleeps: spin.is_zero(),
            used: None,
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

    /// Calls at even distances for this long, each timed from when it should have begun, whether or not those before
    /// have ended. What was measured stands in `timed`, alone.
    pub fn open_loop(&mut self, function: usize, rate: f64, time: Duration) {
        self.timed = Window::default();
        let begun = self.now();
        let (count, step_ns) = ((rate * time.as_secs_f64()) as u64, 1e9 / rate);
        let start = |n: u64| Instant(begun.0 + (n as f64 * step_ns) as u64);
        // Calls below `seen` have been looked at: whatever they wait for from then on is room on the other side. What
        // falls due while this loop is held up is late by this loop, room or not: calls below `spoiled` by too much.
        let (mut next, mut seen, mut spoiled) = (0, 0, 0);
        while next < count {
            let now = self.now();
            while seen < count && start(seen) <= now {
                let late = now.since(start(seen));
                self.timed.lateness_ns.saturating_record(late.as_nanos() as u64);
                seen += 1;
                if self.leaves_out.is_some_and(|most| late > most) {
                    spoiled = seen;
                }
            }
            while next < seen && self.send_timed(function, start(next)) {
                if next < spoiled {
                    // Its outcome has not come: that takes a poll.
                    self.starts[(self.next_start + STARTS - 1) % STARTS] = LEFT_OUT;
                }
                next += 1;
            }
            let (now, is_full) = (self.now(), next < seen);
            let next_start = if is_full { now } else { start(next) };
            self.poll(if self.sleeps { next_start.since(now) } else { Duration::ZERO });
        }
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
                Event::Accepted { connection, .. } => {
                    (self.connection, self.granted) = (connection, self.echoes);
                }
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
                if frame.status().is_ok_and(|status| !status.is_ok()) {
                    self.failed += 1;
                    if let (Ok(status), Ok(reply)) = (frame.status(), body::reply(frame.body())) {
                        self.failure = format!("{status:?}: {}", String::from_utf8_lossy(reply.stderr));
                    }
                }
                self.read_usage(frame);
                self.end(frame.stamp(), now);
            }
            Kind::Lease => {
                self.granted += 1;
                self.end(frame.stamp(), now);
            }
            Kind::Credit => self.granted = frame.stamp(),
            // A core says it again when it learns something.
            Kind::Hello if !self.greeted => self.greet(),
            _ => {}
        }
    }

    fn read_usage(&mut self, frame: &Frame<'_>) {
        if let Some(used) = &mut self.used
            && let Ok(reply) = body::reply(frame.body())
        {
            let usage = reply.usage();
            used.cpu_ns += usage.cpu_ns;
            used.run_ns += usage.run_ns;
            used.cold += u64::from(usage.cold);
        }
    }

    fn end(&mut self, stamp: u64, now: Instant) {
        self.ended += 1;
        if let Some(slot) = stamp.checked_sub(1) {
            let start = self.starts[slot as usize];
            if start != LEFT_OUT {
                self.timed.latency_ns.saturating_record(now.since(start).as_nanos() as u64);
            }
        }
    }

    fn greet(&mut self) {
        self.greeted = true;
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
