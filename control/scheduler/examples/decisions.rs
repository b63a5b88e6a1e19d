//! How many decisions a second the scheduler makes on one core, and how often it allocates for one: none.
//!
//! `cargo run --release -p scheduler --example decisions`
//!
//! 20,000 functions with a million pending calls, and a few functions with few calls, on 16 cores. Each round the cores grant credits, one turn decides, the
//! durable queue answers the polls, and what was dispatched ends and is submitted anew: the whole life of a call in
//! the scheduler, not only the choice. One decision is one call dispatched.

use call::limits::Limits;
use call::{Instant, WallTime};
use counting::allocations;
use scheduler::{
    BreakerRule, CallRef, CoreRef, Effect, Effects, FunctionRef, HostRef, How, Input, Marks, Policy, Rate,
    RetryRule, Scheduler, SlowStartRule, TenantRef,
};
use std::collections::VecDeque;
use std::time::Duration;

const CORES: u16 = 16;
const SLOTS: u32 = 64;

/// With gates: who the functions belong to.
const TENANTS: u32 = 100;
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
}

impl Node {
    fn new(limits: &Limits) -> Node {
        let per_function = limits.calls_max / limits.functions_max;
        let queue = |function: usize| {
            (0..per_function).map(|at| CallRef((at * limits.functions_max + function) as u32)).collect()
        };
        Node {
            scheduler: Scheduler::new(limits),
            out: Effects::new(4096),
            spare: Some(Effects::new(4096)),
            queues: (0..limits.functions_max).map(queue).collect(),
            dispatched: Vec::with_capacity(usize::from(CORES) * SLOTS as usize),
            granted: 0,
            now: Instant(0),
            random: 1,
        }
    }

    fn tell(&mut self, input: Input) {
        self.scheduler.step(input, &mut self.out);
    }

    fn deploy(&mut self, policy: Option<Policy>) {
        let host = HostRef(0);
        for core in (0..CORES).map(CoreRef) {
            self.tell(Input::CoreUp { core, host, slots: SLOTS, far: false });
        }
        for function in (0..self.queues.len() as u32).map(FunctionRef) {
            self.tell(Input::Function { function, version: 1, concurrency: 1000 });
            if let Some(policy) = policy {
                let tenant = TenantRef((function.0 % TENANTS) as u16);
                self.tell(Input::Policy { function, policy: Policy { tenant, ..policy } });
            }
            self.tell(Input::Ready { host, function, version: 1 });
            self.tell(Input::Due { function });
        }
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
        while let Some((call, function)) = self.dispatched.pop() {
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
            self.tell(Input::Offered { call, function, criticality, deadline, marks: Marks::default() });
        }
        let more = !self.queues[function.0 as usize].is_empty();
        self.tell(Input::Polled { function, more });
    }
}

fn main() {
    println!("functions    calls gates   decisions/s of CPU   ns of CPU each   allocations each");
    let only = std::env::args().nth(1);
    let rows: [(&str, usize, usize, Option<Policy>); 3] = [("a",20_000, 1_000_000, None),("b",20_000, 1_000_000, Some(gates())),("c",10, 10_000, None)];
    for (n,f,c,p) in rows { if only.as_deref().is_none_or(|o| o==n) { run(f,c,p); } }
}

/// Quotas that together are what the example runs, so that gates close and open all the time; slow start at that rate.
fn gates() -> Policy {
    let slow_start = SlowStartRule { least: 60 * 100, ..SlowStartRule::default() };
    Policy {
        rate: Rate::per_s(100),
        burst: 10,
        slow_start: Some(slow_start),
        breaker: Some(BreakerRule::default()),
        retry_budget: Some(RetryRule::default()),
        ..Policy::default()
    }
}

fn run(functions_max: usize, calls_max: usize, policy: Option<Policy>) {
    let limits = Limits { functions_max, calls_max, cores_max: usize::from(CORES), ..Limits::default() };
    let mut node = Node::new(&limits);
    node.deploy(policy);
    // Until the buffers are full and every branch has been taken.
    let DECISIONS: u64 = std::env::args().nth(2).map_or(5_000_000, |n| n.parse().unwrap());
    let mut warm = 0;
    while warm < DECISIONS / 5 {
        warm += node.round();
    }
    let (start, before, mut decisions) = (cpu_ns(), allocations(), 0);
    while decisions < DECISIONS {
        decisions += node.round();
    }
    let (ns, counted) = (cpu_ns() - start, allocations() - before);
    let (each, allocations) = (ns as f64 / decisions as f64, counted as f64 / decisions as f64);
    let gated = if policy.is_some() { "yes" } else { "no" };
    println!(
        "{functions_max:>9} {calls_max:>8} {gated:>5} {:>20.0} {each:>16.1} {allocations:>18.6}",
        1e9 / each
    );
}

/// CPU time of this process: what other processes take does not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux with /proc");
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("the first number is CPU time")
}
