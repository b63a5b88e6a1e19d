//! The scheduler alone: how many decisions a second it makes on one core, and how often it allocates for one: never.
//!
//! `scheduler_alone [--json PATH] [--smoke] [--only ROW] [--decisions N]`
//!
//! 20,000 functions with a million pending calls, and a few functions with few calls, on 16 cores. Each round the cores
//! grant credits, one turn decides, the durable queue answers the polls, and what was dispatched ends and is submitted
//! anew: the whole life of a call in the scheduler, not only the choice, and the durable queue's part in it. One decision
//! is one call dispatched. Rows:
//!
//! - `pending`: no gates. The durable queue holds the million, FuncBuffers what flow control lets in: a call or two each.
//! - `buffered`: no gates. A weight of 25 asks for up to 49 calls of each function: FuncBuffers hold nearly all.
//! - `idle`: every function has a policy with all gates, which never close.
//! - `closing`: quotas that together are what the row runs, so that one gate closes and opens for nearly each decision;
//!   slow start at that rate; a limit per key, of which every fourth call has one of eight; 100 tenants.
//! - `few`: 10 functions, for what the instructions cost when all data is near.
//! - `adding`: a function deployed, given a policy, made ready and offered its first call, beside 1,000 and 20,000 others.

use benches::{Figure, Report};
use call::limits::Limits;
use call::{Instant, WallTime};
use counting::allocations;
use nix::time::{ClockId, clock_gettime};
use scheduler::{
    BreakerRule, CallRef, CoreRef, Effect, Effects, FunctionRef, HostRef, How, Input, Marks, Policy, Rate,
    RetryRule, Rule, Scheduler, SlowStartRule, TenantRef,
};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

const CORES: u16 = 16;
const SLOTS: u32 = 64;

/// Ends that are told together, as in `control/src/node.rs`.
const AHEAD: usize = 16;

const HOST: HostRef = HostRef(0);
/// With gates: who the functions belong to.
const TENANTS: u32 = 100;
/// What one turn may decide.
const EFFECTS: usize = 4096;
const DECISIONS: u64 = 5_000_000;
/// To see that everything runs.
const DECISIONS_SMOKE: u64 = 20_000;
/// What the node's clock shows more in each round: about what 1024 decisions take.
const ROUND: Duration = Duration::from_micros(500);

/// The durable queue in as few instructions as possible: a ring of calls per function.
struct Node {
    scheduler: Scheduler,
    out: Effects,
    /// Taken in turns with `out`: one is filled while the other is drained.
    spare: Option<Effects>,
    queues: Vec<VecDeque<CallRef>>,
    dispatched: Vec<(CallRef, FunctionRef)>,
    granted: u64,
    now: Instant,
    random: u64,
    /// Whether some calls have a key.
    keys: bool,
}

impl Node {
    fn new(functions_max: usize, calls_max: usize, keys: bool) -> Node {
        let limits = &Limits { functions_max, calls_max, cores_max: usize::from(CORES), ..Limits::default() };
        let per_function = limits.calls_max / limits.functions_max;
        let queue = |function: usize| {
            (0..per_function).map(|at| CallRef((at * limits.functions_max + function) as u32)).collect()
        };
        Node {
            scheduler: Scheduler::new(limits),
            out: Effects::new(EFFECTS),
            spare: Some(Effects::new(EFFECTS)),
            queues: (0..limits.functions_max).map(queue).collect(),
            dispatched: Vec::with_capacity(EFFECTS),
            granted: 0,
            now: Instant(0),
            random: 1,
            keys,
        }
    }

    fn tell(&mut self, input: Input) {
        self.scheduler.step(input, &mut self.out);
    }

    fn deploy(&mut self, row: &Row) {
        for core in (0..CORES).map(CoreRef) {
            self.tell(Input::CoreUp { core, host: HOST, slots: SLOTS, far: false });
        }
        for tenant in (0..TENANTS).map(|tenant| TenantRef(tenant as u16)) {
            self.tell(Input::Tenant { tenant, weight: row.weight });
        }
        for function in (0..row.functions as u32).map(FunctionRef) {
            self.add(function, row.policy);
        }
    }

    fn add(&mut self, function: FunctionRef, policy: Option<Policy>) {
        self.tell(Input::Function { function, version: 1, concurrency: 1000 });
        if let Some(policy) = policy {
            let tenant = TenantRef((function.0 % TENANTS) as u16);
            self.tell(Input::Policy { function, policy: Policy { tenant, ..policy } });
        }
        self.tell(Input::Ready { host: HOST, function, version: 1 });
        self.tell(Input::Due { function });
    }

    /// Functions that a gate holds back now.
    fn held(&self) -> usize {
        let rule = |at: u32| self.scheduler.explain_function(FunctionRef(at)).rule;
        (0..self.queues.len() as u32).filter(|at| matches!(rule(*at), Rule::Quota | Rule::SlowStart)).count()
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 16
    }

    /// One round of the node's loop. Says how many calls it dispatched.
    fn round(&mut self) -> u64 {
        self.granted += u64::from(SLOTS);
        for core in (0..CORES).map(CoreRef) {
            self.tell(Input::Credit { core, granted: self.granted });
        }
        let random = self.random();
        self.now = self.now + ROUND;
        self.tell(Input::Turn { now: self.now, wall: WallTime(self.now.0), random });
        let spare = self.spare.take().expect("put back each round");
        let mut out = std::mem::replace(&mut self.out, spare);
        for effect in out.drain() {
            match effect {
                Effect::Poll { function, max } => self.answer(function, max),
                Effect::Dispatch { call, function, .. } => self.dispatched.push((call, function)),
                Effect::Return { .. } | Effect::Refuse { .. } => unreachable!("no core and no function goes"),
            }
        }
        self.spare = Some(out);
        let dispatched = self.dispatched.len() as u64;
        let mut left = self.dispatched.len();
        while let Some((call, function)) = self.dispatched.pop() {
            if left.is_multiple_of(AHEAD) {
                // As the node does with the frames of a round.
                let mut ends = [CallRef(0); AHEAD];
                let last = self.dispatched.iter().rev().take(AHEAD);
                let count = ends.iter_mut().zip(last).map(|(end, (call, _))| *end = *call).count();
                self.scheduler.glimpse(&ends[..count]);
            }
            left -= 1;
            self.tell(Input::Ended { call, how: How::Ok });
            self.queues[function.0 as usize].push_back(call);
            self.tell(Input::Due { function });
        }
        dispatched
    }

    fn answer(&mut self, function: FunctionRef, max: u32) {
        for _ in 0..max {
            let Some(call) = self.queues[function.0 as usize].pop_front() else { break };
            let random = self.random();
            let (criticality, deadline) = (50 + (random % 4) as u8 * 50, WallTime(random));
            // Every fourth call has a key, if any has.
            let key = if self.keys && random & 0x300 == 0 { 1 + (random >> 10) % 8 } else { 0 };
            let marks = Marks { key, ..Marks::default() };
            self.tell(Input::Offered { call, function, criticality, deadline, marks });
        }
        let more = !self.queues[function.0 as usize].is_empty();
        self.tell(Input::Polled { function, more });
    }
}

/// What a row runs.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    functions: usize,
    calls: usize,
    weight: u32,
    policy: Option<Policy>,
    keys: bool,
}

/// What was asked for.
struct Options {
    json: PathBuf,
    only: Option<String>,
    decisions: u64,
    smoke: bool,
}

fn main() -> std::io::Result<()> {
    let options = options()?;
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    let mut report = Report::default();
    for row in rows().iter().filter(|row| wanted(row.name)) {
        run(row, &options, &mut report);
    }
    if wanted("adding") {
        [1_000, 20_000].into_iter().for_each(|others| add(others, &mut report));
    }
    report.write(&options.json)
}

fn options() -> std::io::Result<Options> {
    let wrong = |what: String| std::io::Error::other(what);
    let json = benches::scratch()?.join("report.json");
    let mut options = Options { json, only: None, decisions: DECISIONS, smoke: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| wrong(format!("{argument} wants a value")));
        match argument.as_str() {
            "--smoke" => (options.smoke, options.decisions) = (true, DECISIONS_SMOKE),
            "--json" => options.json = value()?.into(),
            "--only" => options.only = Some(value()?),
            "--decisions" => options.decisions = value()?.parse().map_err(std::io::Error::other)?,
            other => return Err(wrong(format!("`{other}` is no option of the bench"))),
        }
    }
    Ok(options)
}

fn rows() -> [Row; 5] {
    let most =
        Row { name: "pending", functions: 20_000, calls: 1_000_000, weight: 1, policy: None, keys: false };
    [
        most,
        Row { name: "buffered", weight: 25, ..most },
        Row { name: "idle", policy: Some(gates(1_000_000)), ..most },
        Row { name: "closing", policy: Some(gates(100)), keys: true, ..most },
        Row { name: "few", functions: 10, calls: 10_000, ..most },
    ]
}

/// All gates, at so many calls a second.
fn gates(rate: u32) -> Policy {
    let slow_start = SlowStartRule { least: 60 * rate, ..SlowStartRule::default() };
    Policy {
        rate: Rate::per_s(u64::from(rate)),
        burst: rate / 10,
        concurrency_per_key: 2,
        slow_start: Some(slow_start),
        breaker: Some(BreakerRule::default()),
        retry_budget: Some(RetryRule::default()),
        ..Policy::default()
    }
}

fn run(row: &Row, options: &Options, report: &mut Report) {
    let wanted = options.decisions;
    let calls = if options.smoke { row.calls / 10 } else { row.calls };
    let mut node = Node::new(row.functions, calls, row.keys);
    node.deploy(row);
    // Until the buffers are full and every branch has been taken.
    let mut warm = 0;
    while warm < wanted / 5 {
        warm += node.round();
    }
    let (start, before, mut decisions) = (cpu_ns(), allocations(), 0);
    while decisions < wanted {
        decisions += node.round();
    }
    let (counted, ns) = (allocations() - before, cpu_ns() - start);
    let (each, allocations) = (ns as f64 / decisions as f64, counted as f64 / decisions as f64);
    let name = |what: &str| format!("scheduler-{}-{what}", row.name);
    let rate = Figure::new(&name("decisions"), 1e9 / each, "decisions/s");
    // The bar is for a million calls; 10 functions are beside it for what instructions cost.
    let is_barred = row.functions == 20_000;
    report.add(if is_barred { rate.bar(1e6, 3e6) } else { rate });
    report.add(Figure::new(&name("cpu-per-decision"), each / 1000.0, "us"));
    report.add(Figure::new(&name("allocations-per-decision"), allocations, "").bar(0.0, 0.0));
    let buffered: u64 =
        (0..row.functions as u32).map(|at| u64::from(node.scheduler.depth(FunctionRef(at)).buffered)).sum();
    println!("   {buffered} calls are in FuncBuffers, {} functions are held by a gate", node.held());
}

/// What one function more costs, beside so many others.
fn add(others: usize, report: &mut Report) {
    const ADDED: u32 = 5_000;
    let mut node = Node::new(others + ADDED as usize, others + ADDED as usize, false);
    let row = Row { functions: others, policy: Some(gates(100)), ..rows()[0] };
    node.deploy(&row);
    (0..100).for_each(|_| {
        node.round();
    });
    let (start, before) = (cpu_ns(), allocations());
    (0..ADDED).for_each(|at| node.add(FunctionRef(others as u32 + at), row.policy));
    let (counted, ns) = (allocations() - before, cpu_ns() - start);
    let each = ns as f64 / f64::from(ADDED);
    report.add(Figure::new(&format!("scheduler-add-function-beside-{others}"), each / 1000.0, "us"));
    println!("   {counted} allocations");
}

/// CPU time of this process: what other processes take does not count.
fn cpu_ns() -> u64 {
    let spent = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every Linux has it");
    Duration::from(spent).as_nanos() as u64
}
