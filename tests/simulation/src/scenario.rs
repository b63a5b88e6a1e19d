//! What a seed means: how large the platform is, what its clients want, which faults strike and when.
//!
//! Swarm testing (Groce et al. 2012): each seed takes a random subset of the faults, so that some runs meet only one
//! kind, often, and rare combinations are met too.

use crate::bug::Bug;
use crate::client::Wish;
use crate::leases::Promises;
use crate::ledger::Expected;
use call::function::RetrySpec;
use call::limits::Limits;
use call::{FunctionId, FunctionSpec, Instant, Status, WallTime};
use driver::sim::{Conditions, Ppm, Random, World};
use std::time::Duration;

/// Faults strike in this time; then the world heals.
pub const STORM: Duration = Duration::from_secs(3);
/// After the storm everything must be finished in this time.
pub const CALM: Duration = Duration::from_secs(60);

/// How far the wall clock is set at most: as far as start times are ahead.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(4);

/// A fault, or its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The node dies; it starts again so much later.
    NodeCrash(Duration),
    /// This core dies; it starts again so much later.
    CoreCrash(usize, Duration),
    /// The supervisor of this host dies; it starts again so much later.
    HostCrash(usize, Duration),
    /// This core gets no CPU for so long.
    CoreFreeze(usize, Duration),
    /// The node gets no CPU for so long.
    NodeFreeze(Duration),
    /// This client gets no CPU for so long.
    ClientFreeze(usize, Duration),
    /// The node and this host cannot reach each other any more.
    Part(usize),
    /// They can again.
    Join(usize),
    /// A connection breaks.
    Cut,
    /// The disk takes up to so long for an operation.
    SlowDisk(Duration),
    /// The node's disk has room for so many bytes of files.
    DiskRoom(usize),
    /// So many of a million writes fail.
    DiskErrors(Ppm),
    /// The node is asked to end, and starts again.
    NodeDrain,
    /// Bits of the node's log turn over while it serves.
    Rot,
    /// The node dies, and bits of its log turn over before it starts again.
    RotAtRest(Duration),
    /// The node is asked to end, and the same.
    RotAfterDrain,
    /// This core is asked to end, and starts again.
    CoreDrain(usize),
    /// The wall clock is set forward, or back, by so many nanoseconds.
    ClockStep(i64),
}

/// Kinds of faults, as a seed chooses among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    NodeCrash,
    CoreCrash,
    HostCrash,
    Freeze,
    Partition,
    LossyNetwork,
    SlowDisk,
    SlowNetwork,
    FullDisk,
    DiskErrors,
    Drain,
    Echoes,
    Rot,
}

const KINDS: [Kind; 13] = [
    Kind::NodeCrash,
    Kind::CoreCrash,
    Kind::HostCrash,
    Kind::Freeze,
    Kind::Partition,
    Kind::LossyNetwork,
    Kind::SlowDisk,
    Kind::SlowNetwork,
    Kind::FullDisk,
    Kind::DiskErrors,
    Kind::Drain,
    Kind::Echoes,
    Kind::Rot,
];

/// See the module.
pub struct Scenario {
    /// Bounds of the platform.
    pub limits: Limits,
    /// What is deployed.
    pub functions: Vec<FunctionSpec>,
    /// The world before it heals.
    pub conditions: Conditions,
    /// Hosts with one core each; the first may be the node's own.
    pub hosts: usize,
    /// The first host is the node's: its core connects by shared memory.
    pub shared_host: bool,
    /// Cores say old outcomes again.
    pub echoes: bool,
    /// Slots of each core.
    pub slots: u32,
    /// Clients want more than the queue's memory holds.
    pub flood: bool,
    /// What each client wants.
    pub wishes: Vec<Vec<Wish>>,
    /// What strikes, and when.
    pub faults: Vec<(Instant, Fault)>,
    /// For people: the kinds of faults of this seed.
    pub summary: String,
}

impl Scenario {
    /// The scenario of a seed's stream of chance, in a world that stands at its beginning.
    pub fn new(random: &mut Random, world: &World, bug: Bug) -> Scenario {
        let functions = functions();
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| random.chance(300_000)).collect();
        if bug == Bug::AcknowledgesBeforeSync && !kinds.contains(&Kind::NodeCrash) {
            kinds.push(Kind::NodeCrash);
        }
        if matches!(bug, Bug::IgnoresChecksums | Bug::HidesLosses | Bug::HidesDamage)
            && !kinds.contains(&Kind::Rot)
        {
            kinds.push(Kind::Rot);
        }
        // Calls that are back since the record of their end is lost need room.
        let rots = kinds.contains(&Kind::Rot);
        let limits = limits(random, bug, rots);
        let hosts = 1 + random.index(3);
        let faults = faults(random, world.now(), &kinds, hosts);
        let clients = 2 + random.index(2);
        let flood = random.chance(15_000) && !rots;
        let wishes = (0..clients).map(|_| wishes(random, world, if flood { 400 } else { 20 })).collect();
        Scenario {
            conditions: conditions(random, &kinds, bug),
            hosts,
            shared_host: random.chance(300_000),
            echoes: kinds.contains(&Kind::Echoes),
            slots: 1 + random.index(8) as u32,
            flood,
            wishes,
            faults,
            summary: format!(
                "{hosts} cores, {clients} clients{}, {kinds:?}",
                if flood { " in flood" } else { "" }
            ),
            functions,
            limits,
        }
    }

    /// Lets the wall clock be set in some seeds. By a stream of chance of its own, so that all else in them stays as it is.
    pub fn set_clocks(&mut self, random: &mut Random, begin: Instant, bug: Bug) {
        if bug != Bug::IgnoresClockSteps && !random.chance(300_000) {
            return;
        }
        for _ in 0..1 + random.below(4) {
            let at = begin + random.duration(Duration::from_millis(50), STORM);
            let by = random.duration(Duration::from_millis(1), CLOCK_STEP_MAX).as_nanos() as i64;
            self.faults.push((at, Fault::ClockStep(if random.chance(500_000) { by } else { -by })));
        }
        self.summary.push_str(", its clocks are set");
    }

    /// What the node promises, for the checkers.
    pub fn promises(&self, bug: Bug) -> Promises {
        let per = |of: &FunctionSpec| (of.id(), of.concurrency);
        let most = if bug == Bug::ExceedsCalls { 24 } else { self.limits.calls_max };
        Promises {
            concurrency: self.functions.iter().map(per).collect(),
            attempts: ATTEMPTS,
            deliveries_max: self.limits.deliveries_max,
            calls_max: most,
            outcomes_kept: !self.flood,
        }
    }
}

fn limits(random: &mut Random, bug: Bug, rots: bool) -> Limits {
    let tight = random.chance(250_000) && !rots;
    Limits {
        lease: Duration::from_millis(400),
        heartbeat: Duration::from_millis(40),
        calls_max: if tight { 24 } else { 1024 },
        // Dead letters take places of calls.
        dead_letters_max: if tight { 8 } else { 256 },
        segment_bytes: if random.chance(500_000) { 64 << 10 } else { 256 << 10 },
        func_buffer_max: if bug == Bug::IgnoresCriticality { 1 } else { 64 },
        runq_max: 1 + random.index(64),
        deliveries_max: if random.chance(500_000) { 3 } else { 10 },
        ..Limits::small()
    }
}

/// Runs as wide as it likes.
pub const WIDE: &str = "wide";
/// Runs two calls at once.
pub const NARROW: &str = "narrow";
/// Is stopped soon.
pub const HASTY: &str = "hasty";
/// Runs one call at once: its calls run in a strict order.
pub const ORDERED: &str = "ordered";

/// Executions of a call that fails.
pub const ATTEMPTS: u16 = 3;

fn functions() -> Vec<FunctionSpec> {
    let retry = RetrySpec {
        attempts: ATTEMPTS,
        backoff_ms: 20,
        backoff_max_ms: 200,
        budget_percent: 0,
        finals: Vec::new(),
    };
    let of = |name: &str, concurrency| FunctionSpec {
        name: name.into(),
        concurrency,
        retry: retry.clone(),
        version: 1,
        ..FunctionSpec::default()
    };
    let hasty = FunctionSpec { timeout_ms: 30, ..of(HASTY, 1000) };
    vec![of(WIDE, 1000), of(NARROW, 2), hasty, of(ORDERED, 1)]
}

/// The id of one of the functions above.
pub fn id(name: &str) -> FunctionId {
    FunctionId::of("default", name)
}

fn conditions(random: &mut Random, kinds: &[Kind], bug: Bug) -> Conditions {
    let fair = Conditions::default();
    let ms = Duration::from_millis;
    let slow_network = kinds.contains(&Kind::SlowNetwork);
    Conditions {
        delay: if slow_network { (fair.delay.0, ms(1 + random.below(30))) } else { fair.delay },
        cut_ppm: if kinds.contains(&Kind::LossyNetwork) { 1000 << random.below(6) } else { 0 },
        lying_disk: bug == Bug::AcknowledgesBeforeSync,
        ..fair
    }
}

fn faults(random: &mut Random, begin: Instant, kinds: &[Kind], hosts: usize) -> Vec<(Instant, Fault)> {
    let mut faults = Vec::new();
    for kind in kinds {
        for _ in 0..1 + random.below(4) {
            let at = begin + random.duration(Duration::from_millis(50), STORM);
            let host = random.index(hosts);
            strike(random, *kind, at, host, &mut faults);
        }
    }
    faults
}

/// One fault of a kind, and its end.
fn strike(random: &mut Random, kind: Kind, at: Instant, host: usize, into: &mut Vec<(Instant, Fault)>) {
    let ms = Duration::from_millis;
    let pause = random.duration(ms(1), ms(300));
    // Longer than a lease, often.
    let long = random.duration(ms(1), ms(1200));
    let fair = Conditions::default();
    match kind {
        Kind::NodeCrash => into.push((at, Fault::NodeCrash(pause))),
        Kind::CoreCrash => into.push((at, Fault::CoreCrash(host, pause))),
        Kind::HostCrash => into.push((at, Fault::HostCrash(host, pause))),
        Kind::Freeze => into.push((
            at,
            match random.below(4) {
                0 => Fault::NodeFreeze(long),
                1 => Fault::ClientFreeze(random.index(2), long),
                _ => Fault::CoreFreeze(host, long),
            },
        )),
        Kind::Partition => into.extend([(at, Fault::Part(host)), (at + long, Fault::Join(host))]),
        Kind::LossyNetwork => into.push((at, Fault::Cut)),
        Kind::SlowDisk => {
            let most = random.duration(ms(1), ms(100));
            into.extend([(at, Fault::SlowDisk(most)), (at + long, Fault::SlowDisk(fair.disk_delay.1))]);
        }
        Kind::SlowNetwork | Kind::Echoes => {}
        Kind::FullDisk => {
            into.extend([(at, Fault::DiskRoom(0)), (at + long, Fault::DiskRoom(fair.disk_bytes_max))]);
        }
        Kind::DiskErrors => {
            let often = 1000 << random.below(8);
            into.extend([(at, Fault::DiskErrors(often)), (at + long, Fault::DiskErrors(0))]);
        }
        Kind::Rot => into.push((
            at,
            match random.below(4) {
                0 => Fault::RotAfterDrain,
                1 => Fault::RotAtRest(pause),
                _ => Fault::Rot,
            },
        )),
        Kind::Drain if random.chance(500_000) => into.push((at, Fault::NodeDrain)),
        Kind::Drain => into.push((at, Fault::CoreDrain(host))),
    }
}

/// What one client wants: bursts of at most so many calls over the storm.
fn wishes(random: &mut Random, world: &World, burst: u64) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for _ in 0..2 + random.below(5) {
        let at = world.now() + random.duration(Duration::ZERO, STORM);
        for _ in 0..1 + random.below(burst) {
            wishes.push(wish(random, world, at));
        }
    }
    wishes
}

fn wish(random: &mut Random, world: &World, at: Instant) -> Wish {
    let (name, script, status) = match random.below(20) {
        0 if random.chance(500_000) => (HASTY, "waits=forever".to_string(), Status::Timeout),
        0 => (HASTY, "slices=forever".to_string(), Status::Timeout),
        1 => (WIDE, "status=trap".to_string(), Status::Trap),
        2 => (NARROW, "slices=3;status=exit;exit=2".to_string(), Status::Exit),
        3..8 => (NARROW, format!("slices={}", 1 + random.below(8)), Status::Ok),
        8 => (NARROW, format!("waits={}", 1 + random.below(50_000_000)), Status::Ok),
        9 => (
            WIDE,
            format!("waits={};slices={}", 1 + random.below(90_000_000), 1 + random.below(4)),
            Status::Ok,
        ),
        10..12 => (WIDE, format!("slices={}", 1 + random.below(60)), Status::Ok),
        _ => (WIDE, "slices=1".to_string(), Status::Ok),
    };
    let bytes = if random.chance(50_000) { random.index(30_000) } else { random.index(200) };
    let output: String = (0..bytes).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
    let output = if status == Status::Ok { output } else { String::new() };
    let ahead =
        |random: &mut Random, ms| world.wall() + random.duration(Duration::ZERO, Duration::from_millis(ms));
    Wish {
        at,
        function: id(name),
        script: format!("{script};output={output}"),
        expected: Expected { status, output: output.into_bytes() },
        start_at: if random.chance(300_000) { ahead(random, 4000) } else { WallTime(0) },
        deadline: WallTime(0),
        criticality: random.below(4) as u8 * 80,
        want_outcome: random.chance(700_000),
    }
}

/// How many calls the test of order makes.
const IN_ORDER: u64 = 20;

/// Calls of one function that become due at once, in a world that is calm: they must run in strict order.
pub fn wishes_in_order(random: &mut Random, world: &World) -> Vec<Wish> {
    let start_at = world.wall() + Duration::from_millis(500);
    let one = |n: u64, random: &mut Random| Wish {
        at: world.now(),
        function: id(ORDERED),
        script: format!("slices=2;output={n}"),
        expected: Expected { status: Status::Ok, output: n.to_string().into_bytes() },
        start_at,
        deadline: start_at + Duration::from_secs(60) + Duration::from_secs(random.below(100_000)),
        criticality: 1 + random.below(3) as u8,
        want_outcome: true,
    };
    (0..IN_ORDER).map(|n| one(n, random)).collect()
}
