//! The whole core over the simulated driver and the scripted runtime, with a node that the test plays.

use super::*;
use call::admin::Hello;
use call::blob::Reference;
use call::body::{self, Arguments, Submit};
use call::frame::{self, Frame, Header, Kind, flag};
use call::{CallId, FunctionId, FunctionSpec, Label, Usage, WallTime};
use driver::sim::{Conditions, SimDriver, Sizes, World};
use driver::{ConnectionId, Endpoint, Event};
use runtime::{Begin, Ended, Progress, Scripted};

mod blobs;

const SLICE: Duration = Duration::from_millis(1);
const SHORT: Duration = Duration::from_micros(2);

/// The scripted runtime, with slices that take time.
struct Costly {
    scripted: Scripted,
    world: World,
    published: u32,
    /// Of what it says to be in force.
    edition: u32,
}

impl Costly {
    fn spend(&self, progress: Progress) -> Progress {
        let cost = if progress == Progress::Yielded { SLICE } else { SHORT };
        self.world.advance(self.world.now() + cost);
        progress
    }
}

impl Runtime for Costly {
    fn publish(&mut self, function: FunctionId, spec: &FunctionSpec) {
        self.published += 1;
        self.scripted.publish(function, spec);
    }
    fn retire(&mut self, function: FunctionId) {
        self.scripted.retire(function);
    }
    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        let progress = self.scripted.begin(slot, begin);
        self.spend(progress)
    }
    fn serve(
        &mut self,
        driver: &mut dyn Driver,
        arrivals: &Arrivals,
        now: Instant,
        ready: &mut Vec<(SlotId, Progress)>,
    ) {
        self.scripted.serve(driver, arrivals, now, ready);
    }
    fn alarm(&self) -> Instant {
        self.scripted.alarm()
    }
    fn sleeps_until(&self, slot: SlotId) -> Option<Instant> {
        self.scripted.sleeps_until(slot)
    }
    fn resume(&mut self, slot: SlotId) -> Progress {
        let progress = self.scripted.resume(slot);
        self.spend(progress)
    }
    fn stop(&mut self, slot: SlotId, status: Status) {
        self.scripted.stop(slot, status);
    }
    fn ended(&self, slot: SlotId) -> Ended<'_> {
        self.scripted.ended(slot)
    }
    fn release(&mut self, slot: SlotId) {
        self.scripted.release(slot);
    }
    fn backends(&self) -> Vec<(String, String)> {
        self.scripted.backends()
    }
    fn edition(&self) -> u32 {
        self.edition
    }
}

/// An outcome as the node saw it.
#[derive(Debug)]
struct Seen {
    call: u64,
    epoch: u64,
    status: Status,
    usage: Usage,
    output: Vec<u8>,
    stderr: String,
    /// The blob that has its output.
    stored: Option<Reference>,
    at: Instant,
}

/// A core and its node, on one machine.
struct Stage {
    world: World,
    core: Core<SimDriver, Costly>,
    node: SimDriver,
    /// The core's connection, as the node has it.
    connection: Option<ConnectionId>,
    granted: u64,
    sent: u64,
    credits: u32,
    connections: u32,
    /// Hellos of a core that was greeted already.
    hellos: u32,
    greeted: Option<ConnectionId>,
    drained: bool,
    store: blobs::Store,
    shelf: blobs::Shelf,
    seen: Vec<Seen>,
    arrivals: (Arrivals, Arrivals),
}

fn at() -> Endpoint {
    "tcp:10.0.0.1:7410".parse().expect("an endpoint")
}

fn function(name: &str) -> FunctionSpec {
    FunctionSpec { name: name.into(), timeout_ms: 60_000, ..FunctionSpec::default() }
}

impl Stage {
    fn new(slots: u32) -> Stage {
        Stage::with(slots, Sizes::default(), Conditions::default())
    }

    fn with(slots: u32, sizes: Sizes, conditions: Conditions) -> Stage {
        let world = World::new(1, conditions);
        // Room for a piece of a blob behind another, as a real node has.
        let mut node = world.boot("here", Sizes { queue_bytes: 1 << 20, ..sizes });
        node.listen(&at()).expect("a free endpoint");
        let plan = CorePlan {
            host: "here".into(),
            cpu: 0,
            pid: 1,
            node: at(),
            slots,
            round: crate::plan::ROUND,
            drain: Duration::from_secs(1),
        };
        let runtime =
            Costly { scripted: Scripted::new(slots), world: world.clone(), published: 0, edition: 0 };
        let core = Core::new(plan, Limits::default(), world.boot("here", sizes), runtime);
        Stage {
            world,
            core,
            node,
            connection: None,
            granted: 0,
            sent: 0,
            credits: 0,
            connections: 0,
            hellos: 0,
            greeted: None,
            drained: false,
            store: blobs::Store::default(),
            shelf: blobs::Shelf::default(),
            seen: Vec::new(),
            arrivals: (Arrivals::new(), Arrivals::new()),
        }
    }

    /// Connected, with `f` and `g` published.
    fn ready(slots: u32) -> Stage {
        let mut stage = Stage::new(slots);
        stage.until(|stage| stage.granted > 0);
        stage
    }

    fn node_sends(&mut self, header: Header, body: &[u8]) {
        let mut out = FrameBuf::new();
        frame::append(&mut out, &header, body);
        let connection = self.connection.expect("the core is connected");
        self.node.send(connection, &out).expect("the node's queue has room");
    }

    /// Leases a call of this function, with the call's number as epoch too.
    fn lease(&mut self, name: &str, call: u64, script: &str) {
        let submit = submit(name, call, script);
        self.lease_of(name, call, call, &submit);
    }

    fn lease_of(&mut self, name: &str, call: u64, epoch: u64, submit: &[u8]) {
        self.lease_wanted(name, call, epoch, submit, false);
    }

    /// The same, whose outcome somebody wants or does not.
    fn lease_wanted(&mut self, name: &str, call: u64, epoch: u64, submit: &[u8], wanted: bool) {
        let header = Header {
            flags: flag::SEALED_BODY | if wanted { flag::WANT_OUTCOME } else { 0 },
            call: CallId(u128::from(call)),
            function: FunctionId::of("default", name),
            stamp: epoch,
            attempt: 1,
            ..Header::new(Kind::Lease)
        };
        self.sent += 1;
        self.node_sends(header, submit);
    }

    fn greet(&mut self) {
        let hello = Hello::Node { version: "0".into(), incarnation: 1, admin: String::new() };
        self.node_sends(Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
        for name in ["f", "g"] {
            let header = Header { function: FunctionId::of("default", name), ..Header::new(Kind::Publish) };
            self.node_sends(header, &serde_json::to_vec(&function(name)).unwrap());
        }
        (self.granted, self.sent) = (0, 0);
        self.connections += 1;
    }

    /// One turn of the core, then of the node.
    fn step(&mut self) {
        self.core_step();
        self.node_step();
    }

    fn core_step(&mut self) {
        let until = self.core.turn(&self.arrivals.0);
        self.core.check();
        let until = until.min(self.world.now() + SLICE);
        self.core.driver().reap(until, &mut self.arrivals.0);
    }

    fn node_step(&mut self) {
        let mut arrivals = std::mem::take(&mut self.arrivals.1);
        self.node.reap(self.world.now(), &mut arrivals);
        for event in arrivals.iter() {
            match event {
                Event::Accepted { connection, .. } => self.connection = Some(connection),
                Event::Frame { connection, frame } if Some(connection) == self.connection => {
                    self.node_frame(&frame)
                }
                Event::Closed { connection, .. } if Some(connection) == self.connection => {
                    self.connection = None
                }
                _ => {}
            }
        }
        self.arrivals.1 = arrivals;
    }

    fn node_frame(&mut self, frame: &Frame<'_>) {
        match frame.kind() {
            Kind::Hello if self.greeted == self.connection => self.hellos += 1,
            Kind::Hello => {
                self.greeted = self.connection;
                self.greet();
            }
            Kind::Credit => {
                assert!(frame.stamp() >= self.granted, "credits are never taken back");
                (self.granted, self.credits) = (frame.stamp(), self.credits + 1);
            }
            Kind::Drain => self.drained = true,
            Kind::Outcome => {
                let reply = body::reply(frame.body()).expect("a reply");
                self.seen.push(Seen {
                    call: frame.call().0 as u64,
                    epoch: frame.epoch().0,
                    status: frame.status().expect("a status"),
                    usage: reply.usage(),
                    output: reply.output.to_vec(),
                    stderr: String::from_utf8_lossy(reply.stderr).into_owned(),
                    stored: Reference::of_result(frame, reply.output).expect("a name"),
                    at: self.world.now(),
                });
            }
            Kind::Fetch => self.fetched(frame),
            Kind::Keep => self.keeps(frame),
            kind => panic!("a core sends no {kind:?}"),
        }
    }

    fn until(&mut self, done: impl Fn(&Stage) -> bool) {
        for _ in 0..100_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("it never came; {} outcomes seen, {} calls held", self.seen.len(), self.core.held());
    }

    fn run(&mut self, time: Duration) {
        let end = self.world.now() + time;
        self.until(|stage| stage.world.now() >= end);
    }

    fn assert_all_ok(&self) {
        let wrong = self.seen.iter().find(|seen| seen.status != Status::Ok);
        assert!(wrong.is_none(), "{wrong:?}");
    }

    fn outcome(&self, call: u64) -> &Seen {
        self.seen.iter().find(|seen| seen.call == call).expect("an outcome of the call")
    }
}

/// A submit frame as it stands in a lease: without padding.
fn submit(name: &str, call: u64, script: &str) -> FrameBuf {
    submit_with(name, call, script.as_bytes(), false)
}

/// The same with this payload, or the name of a blob.
fn submit_with(name: &str, call: u64, payload: &[u8], blob: bool) -> FrameBuf {
    let mut out = FrameBuf::new();
    let submit = Submit {
        call: CallId(u128::from(call)),
        function: FunctionId::of("default", name),
        start_at: WallTime(0),
        deadline: WallTime(0),
        criticality: 0,
        want_outcome: false,
        blob,
        arguments: Arguments { payload, attributes: &[] },
        ..Submit::default()
    };
    body::append_submit(&mut out, &submit).expect("small arguments");
    let exact = Frame::parse(&out).expect("a frame").0.bytes().len();
    out.resize(exact, 0);
    out
}

#[test]
fn a_lease_becomes_an_outcome() {
    let mut stage = Stage::ready(4);
    assert_eq!((stage.granted, stage.core.connected()), (4, true));
    stage.lease("f", 7, "status=exit;exit=3;output=out;stderr=err;memory=65536;slices=3");
    stage.until(|stage| stage.seen.len() == 1);
    let seen = stage.outcome(7);
    assert_eq!(
        (seen.epoch, seen.status, &*seen.output, &*seen.stderr),
        (7, Status::Exit, &b"out"[..], "err")
    );
    assert_eq!((seen.usage.exit_code, seen.usage.memory_bytes, seen.usage.cold), (3, 65536, true));
    assert_eq!(seen.usage.cpu_ns, call::time::nanos(2 * SLICE + SHORT), "two whole slices and a short one");
    assert!(seen.usage.run_ns >= seen.usage.cpu_ns);
    assert_eq!((stage.core.stats().ended_in_all(), stage.core.stats().slices), (1, 2));
}

#[test]
fn credits_bound_what_a_core_holds_and_come_back() {
    let mut stage = Stage::ready(8);
    let mut next = 0;
    while next < 1000 {
        while stage.sent < stage.granted && next < 1000 {
            next += 1;
            stage.lease(if next % 3 == 0 { "g" } else { "f" }, next, &format!("slices={}", 1 + next % 4));
        }
        stage.step();
        assert!(stage.core.held() <= 8);
    }
    stage.until(|stage| stage.seen.len() == 1000 && stage.granted == 1008);
    stage.assert_all_ok();
    assert_eq!(stage.connections, 1);
}

#[test]
fn a_lease_beyond_the_credits_ends_the_connection() {
    let mut stage = Stage::ready(2);
    (1..=3).for_each(|call| stage.lease("f", call, "slices=forever"));
    stage.until(|stage| stage.connections == 2 && stage.granted == 2);
    assert_eq!(stage.core.held(), 0);
    assert!(stage.core.notes().any(|line| line.contains("beyond the credits")));
}

#[test]
fn short_calls_pass_long_ones() {
    let mut stage = Stage::ready(100);
    (1..=50).for_each(|call| stage.lease("f", call, "slices=forever"));
    stage.run(Duration::from_millis(300));
    assert_eq!(stage.core.held(), 50);
    for call in 100..200 {
        stage.lease("g", call, "output=quick");
        stage.run(Duration::from_millis(3));
    }
    stage.until(|stage| stage.seen.len() == 100);
    let slowest = stage.seen.iter().map(|seen| seen.usage.wait_ns).max().expect("outcomes");
    assert!(Duration::from_nanos(slowest) <= 2 * SLICE, "waited {slowest} ns beside 50 long calls");
}

#[test]
fn a_burst_of_known_long_calls_does_not_delay_short_ones() {
    let mut stage = Stage::ready(100);
    stage.lease("f", 1, "slices=forever");
    stage.run(Duration::from_millis(10));
    (2..=60).for_each(|call| stage.lease("f", call, "slices=forever"));
    stage.lease("g", 100, "output=quick");
    stage.until(|stage| !stage.seen.is_empty());
    let waited = Duration::from_nanos(stage.outcome(100).usage.wait_ns);
    assert!(waited <= 3 * SLICE, "waited {waited:?} behind a burst of long calls");
}

#[test]
fn more_short_calls_than_a_round_takes_wait_in_order() {
    let mut stage = Stage::ready(512);
    (1..=512).for_each(|call| stage.lease("f", call, &format!("output={call}")));
    stage.until(|stage| stage.seen.len() == 512);
    let order: Vec<u64> = stage.seen.iter().map(|seen| seen.call).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert!(stage.credits < 50, "credits are told once per round, not {} times", stage.credits);
    let parked = stage.core.stats().parked;
    assert!(parked > 100, "512 calls of 2 us do not fit a round of 200 us, but only {parked} waited");
    assert!(stage.seen.iter().all(|seen| seen.output == seen.call.to_string().as_bytes()));
}

#[test]
fn long_calls_share_the_core_evenly() {
    let mut stage = Stage::ready(10);
    (1..=5).for_each(|call| stage.lease("f", call, "slices=40"));
    stage.until(|stage| stage.seen.len() == 5);
    let ends: Vec<Instant> = stage.seen.iter().map(|seen| seen.at).collect();
    let spread = *ends.iter().max().unwrap() - *ends.iter().min().unwrap();
    // The first is up to three slices ahead when the last arrives, and five of them run.
    assert!(spread <= 15 * SLICE, "five equal calls ended {spread:?} apart");
}

#[test]
fn a_call_that_runs_too_long_is_stopped_and_no_other() {
    let mut stage = Stage::ready(10);
    let quick = FunctionSpec { timeout_ms: 50, ..function("f") };
    let header = Header { function: quick.id(), ..Header::new(Kind::Publish) };
    stage.node_sends(header, &serde_json::to_vec(&quick).unwrap());
    stage.lease("g", 1, "slices=200");
    (2..=4).for_each(|call| stage.lease("f", call, "slices=forever"));
    stage.lease("f", 5, "slices=3");
    stage.until(|stage| stage.seen.len() == 5);
    for call in 2..=4 {
        let seen = stage.outcome(call);
        let ran = Duration::from_nanos(seen.usage.run_ns);
        assert_eq!(seen.status, Status::Timeout);
        assert!((Duration::from_millis(40)..Duration::from_millis(60)).contains(&ran), "{ran:?}");
    }
    assert_eq!((stage.outcome(1).status, stage.outcome(5).status), (Status::Ok, Status::Ok));
}

#[test]
fn a_sleeping_call_gets_no_slice_before_it_wakes() {
    let mut stage = Stage::ready(4);
    let (slices, wakes_at) = (stage.core.stats.slices, stage.world.now() + Duration::from_millis(80));
    stage.lease("f", 1, &format!("slices=2;wake={}", wakes_at.0));
    stage.until(|stage| stage.seen.len() == 1);
    assert!(stage.outcome(1).status == Status::Ok && stage.outcome(1).at >= wakes_at);
    assert_eq!(stage.core.stats.slices - slices, 1, "the one after it woke");
}

#[test]
fn a_cancelled_call_ends_wherever_it_is_and_no_other() {
    let mut stage = Stage::ready(8);
    stage.lease("f", 1, "slices=forever");
    stage.lease("g", 2, "waits=forever");
    stage.lease("f", 3, "slices=50");
    // Begun and on its way to its first slice, and one that has not begun.
    stage.run(Duration::from_millis(20));
    stage.lease("f", 4, "slices=forever");
    let cancel = |stage: &mut Stage, call: u64, epoch: u64| {
        let header = Header { call: CallId(call.into()), stamp: epoch, ..Header::new(Kind::Cancel) };
        stage.node_sends(header, &[]);
    };
    // Of another lease, and of a call that is not here: nothing.
    cancel(&mut stage, 3, 99);
    cancel(&mut stage, 77, 77);
    for call in [1, 2, 4] {
        cancel(&mut stage, call, call);
    }
    let asked = stage.world.now();
    stage.until(|stage| stage.seen.len() == 3);
    for call in [1, 2, 4] {
        let seen = stage.outcome(call);
        assert_eq!((seen.status, seen.epoch), (Status::Cancelled, call));
        assert!(seen.at - asked < 10 * SLICE, "call {call} ended {:?} later", seen.at - asked);
    }
    stage.until(|stage| stage.seen.len() == 4);
    assert_eq!(stage.outcome(3).status, Status::Ok, "the other one ran to its end");
    // The slots serve again, and nobody cancels what has ended.
    cancel(&mut stage, 1, 1);
    (11..=18).for_each(|call| stage.lease("f", call, "slices=2"));
    stage.until(|stage| stage.seen.len() == 12);
    assert!((11..=18).all(|call| stage.outcome(call).status == Status::Ok));
}

#[test]
fn a_call_that_oversleeps_its_time_is_stopped() {
    let mut stage = Stage::ready(4);
    let quick = FunctionSpec { timeout_ms: 50, ..function("f") };
    let header = Header { function: quick.id(), ..Header::new(Kind::Publish) };
    stage.node_sends(header, &serde_json::to_vec(&quick).unwrap());
    let wakes_at = stage.world.now() + Duration::from_secs(10);
    stage.lease("f", 1, &format!("slices=2;wake={}", wakes_at.0));
    stage.until(|stage| stage.seen.len() == 1);
    assert!(stage.outcome(1).status == Status::Timeout && stage.outcome(1).at < wakes_at);
}

/// Publishes `f` anew.
fn publish(stage: &mut Stage, spec: &FunctionSpec) {
    let header = Header { function: spec.id(), ..Header::new(Kind::Publish) };
    stage.node_sends(header, &serde_json::to_vec(spec).unwrap());
}

#[test]
fn a_waiting_call_costs_nothing_until_it_is_ready() {
    let mut stage = Stage::ready(8);
    let slices = stage.core.stats.slices;
    stage.lease("f", 1, "waits=80000000;output=late;cpu=4321");
    stage.lease("f", 2, "waits=20000000;slices=3");
    (10..14).for_each(|call| stage.lease("g", call, "slices=3"));
    let begun = stage.world.now();
    stage.until(|stage| stage.seen.len() == 6);
    stage.assert_all_ok();
    let (seen, sliced) = (stage.outcome(1), stage.outcome(2));
    assert!(seen.at - begun >= Duration::from_millis(80) && seen.output == b"late");
    assert_eq!(seen.usage.cpu_ns, 4321, "what it had elsewhere, and nothing of the core's");
    assert!(seen.usage.run_ns >= 80_000_000, "its time ran");
    assert_eq!(sliced.usage.cpu_ns, call::time::nanos(2 * SLICE + SHORT), "its slices after it waited");
    assert_eq!(stage.core.stats.slices - slices, 3 + 4 * 2);
}

#[test]
fn a_core_whose_calls_all_wait_sleeps_until_the_first_is_ready() {
    let mut stage = Stage::ready(8);
    (1..=8).for_each(|call| stage.lease("f", call, &format!("waits={}", call * 50_000_000)));
    stage.run(Duration::from_millis(5));
    let until = stage.core.turn(&Arrivals::new());
    let wait = until - stage.world.now();
    assert!((Duration::from_millis(40)..Duration::from_millis(50)).contains(&wait), "{wait:?}");
    stage.until(|stage| stage.seen.len() == 8);
    stage.assert_all_ok();
}

#[test]
fn a_waiting_call_that_takes_too_long_is_stopped_and_its_slot_serves_again() {
    let mut stage = Stage::ready(1);
    publish(&mut stage, &FunctionSpec { timeout_ms: 50, ..function("f") });
    stage.lease("f", 1, "waits=forever");
    stage.until(|stage| stage.seen.len() == 1);
    assert_eq!(stage.outcome(1).status, Status::Timeout);
    let ran = Duration::from_nanos(stage.outcome(1).usage.run_ns);
    assert!((Duration::from_millis(50)..Duration::from_millis(53)).contains(&ran), "{ran:?}");
    // Ends early, and leaves nothing behind that would stop the next one in its slot.
    stage.lease("f", 2, "waits=1000000");
    stage.until(|stage| stage.seen.len() == 2);
    stage.run(Duration::from_millis(20));
    stage.lease("f", 3, "waits=45000000");
    stage.until(|stage| stage.seen.len() == 3);
    assert_eq!((stage.outcome(2).status, stage.outcome(3).status), (Status::Ok, Status::Ok));
}

#[test]
fn waiting_calls_are_stopped_with_the_connection_and_at_the_end_of_a_drain() {
    let mut stage = Stage::ready(4);
    (1..=3).for_each(|call| stage.lease("f", call, "waits=forever"));
    stage.run(Duration::from_millis(5));
    assert_eq!(stage.core.held(), 3);
    let connection = stage.connection.expect("connected");
    stage.node.close(connection);
    stage.until(|stage| stage.connections == 2 && stage.granted == 4);
    assert_eq!((stage.core.held(), stage.core.stats().lost), (0, 3));
    (4..=6).for_each(|call| stage.lease("f", call, "waits=forever"));
    stage.lease("f", 7, "waits=30000000");
    stage.run(Duration::from_millis(5));
    stage.core.drain();
    stage.until(|stage| stage.core.finished());
    stage.until(|stage| stage.drained);
    assert_eq!((stage.seen.len(), stage.outcome(7).status), (1, Status::Ok), "the one that came to its end");
}

#[test]
#[should_panic(expected = "its wake-up was lost")]
fn canary_a_lost_wake_up_is_caught() {
    let mut stage = Stage::ready(4);
    publish(&mut stage, &FunctionSpec { timeout_ms: 50, ..function("f") });
    stage.lease("f", 1, "waits=10000000");
    stage.until(|stage| stage.core.held() == 1);
    for _ in 0..100_000 {
        let now = stage.world.now();
        let core = &mut stage.core;
        core.runtime.scripted.serve(&mut core.driver, &Arrivals::new(), now, &mut Vec::new());
        stage.step();
    }
}

#[test]
fn long_calls_share_the_core_by_weight() {
    let mut stage = Stage::ready(10);
    let mut heavy = function("g");
    heavy.limits.cpu_weight = 300;
    publish(&mut stage, &heavy);
    stage.lease("f", 1, "slices=forever");
    stage.lease("g", 2, "slices=forever");
    stage.lease("f", 3, "slices=forever");
    stage.run(Duration::from_millis(500));
    publish(&mut stage, &FunctionSpec { timeout_ms: 1, ..heavy });
    let had: Vec<u64> = (0..3).map(|slot| stage.core.slots.get(SlotId(slot)).cpu_ns / 1_000_000).collect();
    let all: u64 = had.iter().sum();
    let mut by_call = [0; 4];
    for slot in 0..3 {
        by_call[stage.core.slots.get(SlotId(slot)).lease.call.0 as usize] = had[slot as usize];
    }
    assert!(by_call[2].abs_diff(all * 3 / 5) <= 2 && by_call[1].abs_diff(all / 5) <= 2, "{by_call:?}");
}

#[test]
fn a_quota_holds_back_its_function_and_no_other() {
    let mut stage = Stage::ready(64);
    let mut limited = function("g");
    limited.limits.cpu_millis = 200;
    publish(&mut stage, &limited);
    (1..=20).for_each(|call| stage.lease("g", call, "slices=forever"));
    stage.run(Duration::from_millis(1000));
    let taken =
        |stage: &Stage| -> u64 { (0..64).map(|slot| stage.core.slots.get(SlotId(slot)).cpu_ns).sum() };
    let before = taken(&stage);
    stage.run(Duration::from_millis(2000));
    let share = Duration::from_nanos(taken(&stage) - before);
    assert!((Duration::from_millis(380)..Duration::from_millis(421)).contains(&share), "{share:?} of 2 s");
    let idle = stage.core.turn(&Arrivals::new()) > stage.world.now();
    assert!(idle || !stage.core.queues.is_idle(), "it sleeps while its calls are held back");
    // Short calls of it are held back, too; those of another function are not.
    stage.lease("g", 30, "output=held back");
    stage.lease("f", 31, "output=free");
    stage.until(|stage| stage.seen.len() == 2);
    assert_eq!(stage.seen[0].call, 31);
    assert!(stage.outcome(31).usage.wait_ns < stage.outcome(30).usage.wait_ns);
}

#[test]
fn a_lost_connection_takes_its_calls_along() {
    let mut stage = Stage::ready(4);
    stage.lease("f", 1, "slices=forever");
    stage.lease("f", 2, "slices=20");
    stage.run(Duration::from_millis(5));
    let connection = stage.connection.expect("connected");
    stage.node.close(connection);
    stage.until(|stage| stage.connections == 2 && stage.granted == 4);
    assert_eq!(stage.core.held(), 0);
    let again = submit("f", 2, "output=second");
    stage.lease_of("f", 2, 99, &again);
    stage.until(|stage| !stage.seen.is_empty());
    stage.run(Duration::from_millis(100));
    assert_eq!((stage.seen.len(), stage.outcome(2).epoch), (1, 99), "no outcome of the old epoch is sent");
    assert_eq!(stage.core.runtime().published, 2, "what was published before is not published again");
    assert_eq!(stage.core.stats().lost, 2);
}

#[test]
fn a_node_that_is_not_there_is_tried_less_and_less_often() {
    let mut stage = Stage::ready(4);
    let other = stage.world.boot("here", Sizes::default());
    drop(std::mem::replace(&mut stage.node, other));
    stage.connection = None;
    stage.run(Duration::from_secs(10));
    let tries = stage.core.stats().attempts;
    assert!((10..40).contains(&tries), "{tries} attempts in ten seconds");
    let told = stage.core.notes().filter(|line| line.contains("event=disconnected")).count();
    assert!((1..=2).contains(&told), "the loss and the first failure, not each: {told}");
    stage.node.listen(&at()).expect("the old node is gone");
    let before = stage.world.now();
    stage.until(|stage| stage.connections == 2 && stage.core.connected());
    assert!(stage.world.now() - before <= Duration::from_secs(2));
}

#[test]
fn a_core_says_what_is_in_force_when_it_changes() {
    let mut stage = Stage::ready(4);
    for (edition, hellos) in [(0, 0), (2, 1), (2, 1), (3, 2)] {
        stage.core.runtime.edition = edition;
        stage.run(Duration::from_millis(100));
        assert_eq!((stage.connections, stage.hellos), (1, hellos));
    }
}

#[test]
fn outcomes_wait_for_room_and_none_is_lost() {
    let small = Sizes { queue_bytes: 4096, ..Sizes::default() };
    let narrow = Conditions { window_bytes: 4096, ..Conditions::default() };
    let mut stage = Stage::with(64, Sizes::default(), narrow);
    let world = stage.world.clone();
    let runtime = Costly { scripted: Scripted::new(64), world, published: 0, edition: 0 };
    stage.core =
        Core::new(stage.core.plan.clone(), Limits::default(), stage.world.boot("here", small), runtime);
    stage.until(|stage| stage.granted > 0);
    let output = format!("output={}", "x".repeat(1000));
    for call in 1..=64 {
        stage.lease("f", call, &output);
    }
    stage.node_step();
    // The node reads nothing for a while.
    (0..200).for_each(|_| stage.core_step());
    let kept = stage.core.stats().kept;
    assert!(kept > 0 && stage.core.held() > 0, "the connection never was full: {kept} kept");
    stage.until(|stage| stage.seen.len() == 64 && stage.granted == 128);
    assert!(stage.seen.iter().all(|seen| seen.output.len() == 1000));
}

#[test]
fn a_drain_finishes_what_is_held_and_says_so() {
    let mut stage = Stage::ready(8);
    (1..=4).for_each(|call| stage.lease("f", call, "slices=50"));
    stage.run(Duration::from_millis(3));
    stage.node_sends(Header::new(Kind::Drain), &[]);
    stage.until(|stage| stage.core.finished());
    stage.until(|stage| stage.drained && stage.seen.len() == 4);
    assert!(stage.seen.iter().all(|seen| seen.status == Status::Ok));
    assert_eq!(stage.granted, 8, "nothing is granted in a drain");
}

#[test]
fn a_core_that_drains_says_so_at_once_and_serves_what_is_under_way() {
    let mut stage = Stage::ready(8);
    stage.lease("f", 1, "slices=50");
    stage.run(Duration::from_millis(3));
    stage.core.drain();
    stage.lease("f", 2, "slices=2");
    stage.until(|stage| stage.drained);
    assert!(stage.core.held() > 0 && !stage.core.finished(), "it says so before it has finished");
    stage.until(|stage| stage.core.finished() && stage.seen.len() == 2);
    assert!(stage.seen.iter().all(|seen| seen.status == Status::Ok));
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let mut stage = Stage::ready(8);
    stage.lease("f", 1, "slices=forever");
    stage.run(Duration::from_millis(3));
    stage.core.drain();
    let begun = stage.world.now();
    stage.until(|stage| stage.core.finished());
    assert!(stage.world.now() - begun >= Duration::from_secs(1));
    stage.until(|stage| stage.drained);
    assert!(stage.seen.is_empty() && stage.core.held() == 0, "the call is left for another core");
}

#[test]
fn a_core_without_a_node_drains_at_once() {
    let mut stage = Stage::new(4);
    stage.core.drain();
    stage.core_step();
    assert!(stage.core.finished());
}

#[test]
fn a_malformed_lease_is_answered() {
    let mut stage = Stage::ready(4);
    let mut broken = submit("f", 1, "output=x");
    let at = broken.len() - 1;
    broken[at] ^= 1;
    stage.lease_of("f", 1, 1, &broken);
    stage.lease_of("f", 2, 2, &submit("f", 3, "another call's"));
    stage.lease_of("f", 4, 4, &submit("g", 4, "another function's"));
    stage.until(|stage| stage.seen.len() == 3);
    assert!(stage.seen.iter().all(|seen| seen.status == Status::Unavailable));
    assert!(stage.outcome(1).stderr.contains("checksum"), "{}", stage.outcome(1).stderr);
    stage.until(|stage| stage.granted == 7);
}

#[test]
fn data_does_not_flow_down_whatever_the_node_leases() {
    let mut stage = Stage::ready(4);
    let flow = call::function::FlowSpec { zone: 2, compartments: vec![1] };
    let spec = FunctionSpec { name: "vault".into(), flow, version: 1, ..FunctionSpec::default() };
    let publish = Header { function: spec.id(), stamp: 1, ..Header::new(Kind::Publish) };
    stage.node_sends(publish, &serde_json::to_vec(&spec).unwrap());
    for (call, zone, compartments) in [(1, 2, &[1][..]), (2, 0, &[]), (3, 3, &[]), (4, 0, &[2])] {
        let plain = submit("vault", call, "output=read");
        let header = Frame::parse(&plain).unwrap().0.header();
        let label = Label::new(zone, compartments).unwrap();
        let mut out = FrameBuf::new();
        frame::append(&mut out, &Header { label, ..header }, Frame::parse(&plain).unwrap().0.body());
        out.resize(plain.len(), 0);
        stage.lease_of("vault", call, call, &out);
    }
    stage.until(|stage| stage.seen.len() == 4);
    let ended = [1, 2, 3, 4].map(|call| stage.outcome(call).status);
    assert_eq!(ended, [Status::Ok, Status::Ok, Status::Forbidden, Status::Forbidden]);
    assert!(stage.outcome(3).stderr.contains("zone 3 may not flow to a function of zone 2 (1)"));
    stage.until(|stage| stage.granted == 8);
}

#[test]
fn a_frame_that_no_node_sends_ends_the_connection() {
    let mut stage = Stage::ready(4);
    stage.node_sends(Header::new(Kind::Ready), &[]);
    stage.until(|stage| stage.connections == 2);
    stage.node_sends(Header::new(Kind::Publish), b"not a function");
    stage.until(|stage| stage.connections == 3);
}

#[test]
fn an_idle_core_says_that_it_lives() {
    let mut stage = Stage::ready(4);
    let before = stage.credits;
    stage.run(Duration::from_secs(10));
    let beats = stage.credits - before;
    assert!((19..=21).contains(&beats), "{beats} heartbeats in ten seconds");
}

#[test]
#[should_panic(expected = "a credit for each free slot")]
fn canary_a_credit_too_much_is_caught() {
    let mut stage = Stage::ready(4);
    stage.core.credits.grant();
    stage.step();
}

#[test]
#[should_panic(expected = "each held slot is somewhere")]
fn canary_a_forgotten_call_is_caught() {
    let mut stage = Stage::ready(4);
    stage.lease("f", 1, "slices=forever");
    stage.run(Duration::from_millis(3));
    stage.core.queues.clear();
    stage.core.slots.get_mut(SlotId(0)).state = State::Free;
    stage.core.check();
}
