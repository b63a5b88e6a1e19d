//! One region: durable queues, a scheduler, pools of workers, and the clients that submit there.
//!
//! Regions do not touch each other inside a window; what passes between them are [`Message`]s, exchanged at its end.

use crate::arithmetic::Random;
use crate::plain::Plain;
use crate::plan::Plan;
use crate::pool::{Pool, Share};
use crate::record::{Point, Record};
use crate::scenario::Order;
use crate::wheel::Wheel;
use crate::workload::Function;
use call::limits::Limits;
use call::{Instant, WallTime};
use scheduler::{
    CallRef, CoreRef, Effect, Effects, FunctionRef, HostRef, How, Input, Marks, Policy, Quota, Rate,
    Scheduler, SlowStartRule,
};
use std::collections::VecDeque;
use std::time::Duration;

/// Calls of one function that its FuncBuffer holds: each stands for many.
const FUNC_BUFFER: usize = 8;
/// Effects of one turn.
const EFFECTS: usize = 1024;
/// Calls that a pool serves at once: more than its CPU has room for.
const SLOTS: u32 = 4096;
/// The only host of a region: all of its pools have all code on disk, as the paper's workers have.
const HOST: HostRef = HostRef(0);

/// A call in a durable queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// When its client submitted it.
    pub arrived: u32,
    /// What it costs, in thousandths of its function's mean.
    pub cost: u16,
    /// The region in whose durable queue it is.
    pub home: u8,
    /// Earlier attempts.
    pub attempts: u8,
}

/// What passes between regions.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// To which.
    pub to: u16,
    /// In which tick it is there.
    pub at: u32,
    /// Of which function.
    pub function: u32,
    /// Which call.
    pub call: Pending,
}

/// A call that the scheduler holds or that runs.
#[derive(Clone, Copy, Debug)]
struct Held {
    pending: Pending,
    function: u32,
    /// What it takes, and where, while it runs.
    runs: Option<(u16, Share)>,
}

/// What a region tells the controllers at the end of a window.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// CPU of calls that came into its queues from clients, M instructions, by [`group`].
    pub arrived_cpu: [u64; GROUPS],
    /// CPU of calls that its scheduler took from its own queues, by group.
    pub polled_cpu: [u64; GROUPS],
    /// Calls that asked each downstream service.
    pub asked: Vec<u64>,
    /// Simulated calls of functions that use a service: which began.
    pub began: Vec<u32>,
    /// Calls that services refused, by function.
    pub refused: Vec<(u32, u64)>,
}

/// Groups of functions between which the Global Traffic Conductor tells: opportunistic and reserved.
pub const GROUPS: usize = 2;

/// The group of a function.
pub fn group(reserved: bool) -> usize {
    usize::from(reserved)
}

/// A region.
#[derive(Debug)]
pub struct Region<'a> {
    plan: &'a Plan,
    /// Its number.
    pub index: u16,
    /// Whether its workers and schedulers are there.
    pub up: bool,
    /// Its workers.
    pub pools: Vec<Pool>,
    /// Where its clients submit.
    pub submits_to: u16,
    /// Regions that are lost, whose quotas others have.
    lost: Vec<bool>,
    /// Messages to other regions, since the last exchange.
    pub outbox: Vec<Message>,
    /// What controllers hear.
    pub said: Said,
    /// Part of the calls that each downstream service refuses now, per mille.
    pub refusing: Vec<u32>,
    /// What it leaves behind.
    pub record: Record,
    /// S, as its scheduler has it.
    pub s: u32,
    scheduler: Option<Box<Scheduler>>,
    plain: Plain,
    effects: Option<Effects>,
    queues: Vec<VecDeque<Pending>>,
    /// CPU of all that waits, M instructions, by group.
    backlog: [u64; GROUPS],
    /// Functions that have pending calls, by group, in the order in which others may take from them.
    backlogged: [VecDeque<u32>; GROUPS],
    is_backlogged: Vec<bool>,
    streams: Wheel<u32>,
    /// When each stream's last call arrived, in seconds.
    seconds: Vec<f64>,
    arriving: Wheel<(u32, Pending)>,
    ends: Wheel<u32>,
    calls: Vec<Held>,
    free: Vec<u32>,
    /// What calls took lately, on average.
    typical: Share,
    point: Point,
    random: Random,
    due_streams: Vec<u32>,
    due_calls: Vec<(u32, Pending)>,
    due_ends: Vec<u32>,
}

impl<'a> Region<'a> {
    /// A region without calls.
    pub fn new(plan: &'a Plan, index: u16) -> Region<'a> {
        let fleet = &plan.scenario.fleet;
        let workers = plan.scenario.workers()[usize::from(index)];
        let pools = fleet.pools.min(workers);
        let share = |pool: u32| workers / pools + u32::from(pool < workers % pools);
        let pool = |at: u32| Pool::new(share(at), fleet.worker_mips, fleet.worker_memory_mb);
        let functions = plan.functions.len();
        let services = plan.scenario.downstreams.len();
        let mut region = Region {
            plan,
            index,
            up: true,
            pools: (0..pools).map(pool).collect(),
            submits_to: index,
            lost: vec![false; plan.streams.len()],
            outbox: Vec::new(),
            said: Said { asked: vec![0; services], ..Said::default() },
            refusing: vec![0; services],
            record: Record::default(),
            s: 0,
            scheduler: None,
            plain: Plain::new(plan.scenario.control.order),
            effects: Some(Effects::new(EFFECTS)),
            queues: vec![VecDeque::new(); functions],
            backlog: [0; GROUPS],
            backlogged: Default::default(),
            is_backlogged: vec![false; functions],
            streams: Wheel::new(),
            seconds: vec![0.0; plan.streams[usize::from(index)].len()],
            arriving: Wheel::new(),
            ends: Wheel::new(),
            calls: Vec::new(),
            free: Vec::new(),
            typical: Share { rate: 1, memory_mb: 1, run_ms: 1000 },
            point: Point::default(),
            random: Random::new(plan.seed, 100 + u64::from(index)),
            due_streams: Vec::new(),
            due_calls: Vec::new(),
            due_ends: Vec::new(),
        };
        for stream in 0..plan.streams[usize::from(index)].len() as u32 {
            if let Some(tick) = region.next_arrival(stream) {
                region.streams.put(tick, stream);
            }
        }
        region.start_scheduler();
        region
    }

    /// A scheduler that knows the functions and has the pools' credits, as after a start.
    fn start_scheduler(&mut self) {
        if self.plan.scenario.control.order != Order::Millrace {
            return;
        }
        let functions = self.plan.functions.len();
        let calls_max = (functions * FUNC_BUFFER + (1 << 16)).next_power_of_two();
        let limits = Limits {
            functions_max: functions,
            calls_max,
            runq_max: 1024,
            func_buffer_max: FUNC_BUFFER,
            cores_max: self.pools.len(),
            ..Limits::default()
        };
        self.scheduler = Some(Box::new(Scheduler::new(&limits)));
        for core in 0..self.pools.len() as u16 {
            self.tell(Input::CoreUp { core: CoreRef(core), host: HOST, slots: SLOTS, far: false });
        }
        for at in 0..functions {
            let function = FunctionRef(at as u32);
            self.tell(Input::Function { function, version: 1, concurrency: self.concurrency(at) });
            self.tell(Input::Policy { function, policy: self.policy(at) });
            self.tell(Input::Ready { host: HOST, function, version: 1 });
            if !self.queues[at].is_empty() {
                self.tell(Input::Due { function });
            }
        }
        for pool in &mut self.pools {
            (pool.granted, pool.taken, pool.changed) = (0, 0, true);
        }
        self.tell(Input::Opportunistic { permille: self.s });
    }

    /// The rules of a function here: its quota by the mean CPU of its calls, and this region's share of that.
    fn policy(&self, function: usize) -> Policy {
        let of = &self.plan.functions[function];
        let load = &self.plan.scenario.workload;
        let (times, quota) = if of.reserved {
            (load.reserved_quota, Quota::Reserved)
        } else {
            let near = Duration::from_secs_f64(load.opportunistic_deadline_h * 3600.0 * load.near);
            (load.opportunistic_quota, Quota::Opportunistic { near })
        };
        let per_s = of.usual_per_s / f64::from(of.gathered) * times * self.share(of);
        // What comes in a few seconds may enter at once; a simulated call is a burst by itself.
        let burst = (per_s * 10.0) as u32 + if of.reserved { 32 } else { 2 };
        let slow_start = (self.plan.scenario.control.slow_start && of.downstream.is_some()).then(|| {
            let paper = SlowStartRule::default();
            SlowStartRule { least: (paper.least / of.gathered).max(1), ..paper }
        });
        Policy { quota, rate: Rate((per_s * 1000.0) as u64 + 1), burst, slow_start, ..Policy::default() }
    }

    /// This region's share of a function's quota: its clients' share of the calls, and an even part of the quota at
    /// least, for calls that it pulls.
    fn share(&self, of: &Function) -> f64 {
        let even = 1.0 / self.plan.streams.len() as f64;
        let own = of.origins.iter().find(|(region, _)| *region == self.index);
        let lost = of.origins.iter().filter(|(region, _)| self.lost[usize::from(*region)]);
        let working = self.lost.iter().filter(|&&lost| !lost).count().max(1) as f64;
        own.map_or(even, |&(_, share)| share.max(even)) + lost.map(|(_, share)| share / working).sum::<f64>()
    }

    /// Another region is lost, or back: its share of all quotas goes to those that work.
    pub fn quotas_without(&mut self, region: u16, is_lost: bool) {
        self.lost[usize::from(region)] = is_lost;
        for at in 0..self.plan.functions.len() {
            let of = &self.plan.functions[at];
            if self.scheduler.is_some() && of.origins.iter().any(|(origin, _)| *origin == region) {
                let policy = self.policy(at);
                self.tell(Input::Policy { function: FunctionRef(at as u32), policy });
            }
        }
    }

    /// What AIMD allows a function here, of what it allows it everywhere.
    pub fn set_limit(&mut self, function: u32, milli_calls: Option<u64>) {
        let share = self.share(&self.plan.functions[function as usize]);
        let rate = milli_calls.map_or(Rate::UNLIMITED, |all| Rate((all as f64 * share) as u64 + 1));
        self.tell(Input::Limit { function: FunctionRef(function), rate });
    }

    /// The safety net of a function: several times what it needs at its peak.
    fn concurrency(&self, function: usize) -> u32 {
        let of = &self.plan.functions[function];
        let runs_s = of.run_s.max(self.plan.scenario.workload.spread_s);
        (of.usual_per_s / f64::from(of.gathered) * runs_s * 8.0) as u32 + 16
    }

    fn tell(&mut self, input: Input) {
        let mut effects = self.effects.take().expect("put back below");
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.step(input, &mut effects);
        }
        self.effects = Some(effects);
    }

    /// In which tick the next call of a stream comes.
    fn next_arrival(&mut self, stream: u32) -> Option<u32> {
        let of = &self.plan.streams[usize::from(self.index)][stream as usize];
        let after = self.seconds[stream as usize];
        let (tick, second) = self.plan.arrival(of, after, &mut self.random)?;
        self.seconds[stream as usize] = second;
        Some(tick)
    }

    /// Real calls that a simulated one stands for.
    fn stands_for(&self, function: u32) -> u64 {
        u64::from(self.plan.functions[function as usize].gathered)
    }

    /// M instructions of a simulated call.
    fn cpu(&self, function: u32, call: Pending) -> u64 {
        let of = &self.plan.functions[function as usize];
        (of.cpu * f64::from(of.gathered) * f64::from(call.cost) / 1000.0) as u64 + 1
    }

    /// One tick.
    pub fn step(&mut self, now: u32) {
        self.arrive(now);
        self.finish(now);
        if self.up {
            self.grant();
            match self.plan.scenario.control.order {
                Order::Millrace => self.decide(now),
                Order::Fifo | Order::Priority => self.run_plain(now),
            }
        }
        self.account(now);
    }

    /// Calls that come: from clients, from other regions, and again after a failure.
    fn arrive(&mut self, now: u32) {
        let mut streams = std::mem::take(&mut self.due_streams);
        self.streams.take(now, &mut streams);
        for &stream in &streams {
            let mut next = Some(now);
            while next == Some(now) {
                self.submit(now, stream);
                next = self.next_arrival(stream);
            }
            if let Some(tick) = next {
                self.streams.put(tick, stream);
            }
        }
        self.due_streams = streams;
        let mut calls = std::mem::take(&mut self.due_calls);
        self.arriving.take(now, &mut calls);
        for &(function, call) in &calls {
            self.enqueue(function, call);
        }
        self.due_calls = calls;
    }

    /// A client submits a call.
    fn submit(&mut self, now: u32, stream: u32) {
        let function = self.plan.streams[usize::from(self.index)][stream as usize].function;
        // Costs vary by half around their mean.
        let cost = 500 + self.random.below(1001) as u16;
        let call = Pending { arrived: now, cost, home: self.submits_to as u8, attempts: 0 };
        self.received(now, function, call);
        if self.submits_to == self.index {
            self.enqueue(function, call);
        } else {
            // It had to find the other region first.
            let at = now + self.plan.ticks(REROUTE.as_millis() as u64);
            self.outbox.push(Message { to: self.submits_to, at, function, call });
        }
    }

    fn received(&mut self, now: u32, function: u32, call: Pending) {
        let (calls, cpu) = (self.stands_for(function), self.cpu(function, call));
        self.point.received += calls;
        self.point.received_cpu += cpu;
        self.record.ledger.simulated += 1;
        if self.plan.is_measured(now) {
            self.record.ledger.received += calls;
        }
        self.said.arrived_cpu[group(self.plan.functions[function as usize].reserved)] += cpu;
        self.record.trace(now, 1, function);
    }

    /// Simulated calls of a function that wait.
    pub fn waiting(&self, function: u32) -> u64 {
        self.queues[function as usize].len() as u64
    }

    /// What was computed before.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// S changed.
    pub fn set_opportunistic(&mut self, permille: u32) {
        self.s = permille;
        self.tell(Input::Opportunistic { permille });
    }

    /// A message from another region.
    pub fn deliver(&mut self, message: Message) {
        self.arriving.put(message.at, (message.function, message.call));
    }

    /// A call is in this region's durable queue, and due.
    fn enqueue(&mut self, function: u32, call: Pending) {
        let of = &self.plan.functions[function as usize];
        let (level, in_group) = (of.criticality, group(of.reserved));
        self.backlog[in_group] += self.cpu(function, call);
        self.queues[function as usize].push_back(call);
        if !self.is_backlogged[function as usize] {
            self.is_backlogged[function as usize] = true;
            self.backlogged[in_group].push_back(function);
        }
        match self.plan.scenario.control.order {
            Order::Millrace => self.tell(Input::Due { function: FunctionRef(function) }),
            Order::Fifo | Order::Priority => self.plain.push(function, level),
        }
    }

    /// Takes the oldest call out of a durable queue.
    fn dequeue(&mut self, function: u32) -> Option<Pending> {
        let call = self.queues[function as usize].pop_front()?;
        let in_group = group(self.plan.functions[function as usize].reserved);
        self.backlog[in_group] -= self.cpu(function, call);
        Some(call)
    }

    /// Hands calls of a group to another region, until they need so much CPU: function by function in turns. Says
    /// how much they need.
    pub fn give(&mut self, in_group: usize, to: u16, at: u32, cpu: u64, into: &mut Vec<Message>) -> u64 {
        let mut given = 0;
        while given < cpu {
            let Some(function) = self.backlogged[in_group].pop_front() else { break };
            match self.dequeue(function) {
                None => self.is_backlogged[function as usize] = false,
                Some(call) => {
                    given += self.cpu(function, call);
                    into.push(Message { to, at, function, call });
                    self.backlogged[in_group].push_back(function);
                }
            }
        }
        given
    }

    /// Calls that end in this tick.
    fn finish(&mut self, now: u32) {
        let mut ends = std::mem::take(&mut self.due_ends);
        self.ends.take(now, &mut ends);
        for &call in &ends {
            let Held { pending, function, runs } = self.calls[call as usize];
            let (pool, share) = runs.expect("what ends has run");
            self.pools[usize::from(pool)].end(share);
            self.release(call);
            let refused = self.is_refused(function);
            if self.scheduler.is_some() {
                let how = if refused { How::BackPressure } else { How::Ok };
                self.tell(Input::Ended { call: CallRef(call), how });
            }
            if refused {
                self.refuse(now, function, pending);
            } else {
                self.complete(now, function, pending);
            }
        }
        self.due_ends = ends;
    }

    fn complete(&mut self, now: u32, function: u32, call: Pending) {
        let calls = self.stands_for(function);
        self.point.finished += calls;
        self.record.ledger.ended += 1;
        self.record.trace(now, 3, function);
        if self.plan.is_measured(call.arrived) {
            let late = self.plan.ms(now - call.arrived)
                > 1000 * u64::from(self.plan.functions[function as usize].deadline_s);
            self.record.ledger.finished += calls;
            let late = if late { calls } else { 0 };
            self.record.ledger.late += late;
            if !self.plan.functions[function as usize].reserved {
                self.record.ledger.late_opportunistic += late;
            }
        }
    }

    fn is_refused(&mut self, function: u32) -> bool {
        let Some(service) = self.plan.functions[function as usize].downstream else { return false };
        let permille = self.refusing[usize::from(service)];
        permille > 0 && self.random.below(1000) < u64::from(permille)
    }

    /// A downstream service threw its back-pressure exception: the call runs again later.
    fn refuse(&mut self, now: u32, function: u32, call: Pending) {
        let calls = self.stands_for(function);
        self.point.exceptions += calls;
        self.record.ledger.refused += calls;
        self.said.refused.push((function, calls));
        self.record.trace(now, 4, function);
        // Back-off doubles from a second to a minute.
        let wait_ms = 1000u64 << call.attempts.min(6);
        let again = Pending { attempts: call.attempts.saturating_add(1), ..call };
        self.arriving.put(now + self.plan.ticks(wait_ms.min(60_000)), (function, again));
    }

    /// Pools with room give the scheduler credits.
    fn grant(&mut self) {
        let admit = self.plan.scenario.control.admit;
        for at in 0..self.pools.len() {
            if !self.pools[at].changed {
                continue;
            }
            if let Some(granted) = self.pools[at].grant(self.typical, admit, u64::from(SLOTS)) {
                self.tell(Input::Credit { core: CoreRef(at as u16), granted });
            }
        }
    }

    /// Lets the scheduler decide until it has nothing more to say.
    fn decide(&mut self, now: u32) {
        loop {
            let random = self.random.bits();
            let now_ns = self.plan.ms(now) * 1_000_000;
            self.tell(Input::Turn { now: Instant(now_ns), wall: WallTime(now_ns), random });
            let mut effects = self.effects.take().expect("put back below");
            let count = effects.as_slice().len();
            for at in 0..count {
                // The list stays as it is while inputs other than a turn are told.
                match effects.as_slice()[at] {
                    Effect::Poll { function, max } => self.answer(function, max, &mut effects),
                    Effect::Dispatch { call, core, .. } => self.start(now, call.0, core.0),
                    Effect::Return { .. } => unreachable!("no core goes alone, and no function"),
                    Effect::Refuse { .. } => unreachable!("all data is in the lowest zone"),
                }
            }
            effects.clear();
            self.effects = Some(effects);
            if count == 0 {
                return;
            }
        }
    }

    fn answer(&mut self, function: FunctionRef, max: u32, effects: &mut Effects) {
        let mut scheduler = self.scheduler.take().expect("it asked");
        for _ in 0..max {
            let Some(pending) = self.dequeue(function.0) else { break };
            let of = &self.plan.functions[function.0 as usize];
            if pending.home == self.index as u8 {
                self.said.polled_cpu[group(of.reserved)] += self.cpu(function.0, pending);
            }
            let call = CallRef(self.hold(function.0, pending));
            let due_ms = self.plan.ms(pending.arrived) + 1000 * u64::from(of.deadline_s);
            let (criticality, deadline) = (of.criticality, WallTime(due_ms * 1_000_000));
            let marks = Marks { retry: pending.attempts > 0, ..Marks::default() };
            scheduler.step(Input::Offered { call, function, criticality, deadline, marks }, effects);
        }
        let more = !self.queues[function.0 as usize].is_empty();
        scheduler.step(Input::Polled { function, more }, effects);
        self.scheduler = Some(scheduler);
    }

    fn hold(&mut self, function: u32, pending: Pending) -> u32 {
        let held = Held { pending, function, runs: None };
        match self.free.pop() {
            Some(call) => {
                self.calls[call as usize] = held;
                call
            }
            None => {
                self.calls.push(held);
                self.calls.len() as u32 - 1
            }
        }
    }

    fn release(&mut self, call: u32) {
        self.calls[call as usize].runs = None;
        self.free.push(call);
    }

    /// A call starts on a pool.
    fn start(&mut self, now: u32, call: u32, pool: u16) {
        let Held { pending, function, .. } = self.calls[call as usize];
        let of = &self.plan.functions[function as usize];
        let asked = self.asks(function, pending);
        let share = self.pools[usize::from(pool)].start(asked);
        self.calls[call as usize].runs = Some((pool, share));
        self.ends.put(now + self.plan.ticks(u64::from(share.run_ms)), call);
        // Averages over about a hundred calls.
        self.typical.rate = (self.typical.rate * 99 + asked.rate) / 100 + 1;
        self.typical.memory_mb =
            ((u64::from(self.typical.memory_mb) * 99 + u64::from(asked.memory_mb)) / 100) as u32 + 1;
        if let Some(service) = of.downstream {
            self.said.asked[usize::from(service)] += u64::from(of.gathered);
            self.said.began.push(function);
        }
        if pending.home != self.index as u8 {
            self.point.remote_cpu += self.cpu(function, pending);
        }
        self.record.trace(now, 2, function);
        self.waited(now, function, pending);
    }

    /// Notes how long a call waited until its first start.
    fn waited(&mut self, now: u32, function: u32, call: Pending) {
        if call.attempts > 0 {
            return;
        }
        // Known to one tick, and counted up.
        let (ms, calls) = (self.plan.ms(now - call.arrived + 1), self.stands_for(function));
        let reserved = self.plan.functions[function as usize].reserved;
        if reserved {
            self.point.reserved_delay_ms = self.point.reserved_delay_ms.max(ms);
        }
        if self.plan.is_measured(call.arrived) {
            let delays = if reserved { &mut self.record.reserved } else { &mut self.record.opportunistic };
            delays.add(ms, calls);
            // Not a moment before the watched function's calls, nor long after: the same calls in each run.
            if reserved && self.plan.watched != Some(function) && self.plan.is_watched(call.arrived) {
                self.record.others.add(ms, calls);
            }
        }
    }

    /// What a call takes on workers that have room.
    fn asks(&self, function: u32, call: Pending) -> Share {
        let of = &self.plan.functions[function as usize];
        let scale = f64::from(call.cost) / 1000.0;
        let run_s = (of.run_s * scale).max(self.plan.scenario.workload.spread_s).max(0.001);
        let work = of.cpu * f64::from(of.gathered) * scale * 1000.0;
        let at_once = f64::from(of.gathered) * of.run_s * scale / run_s;
        Share {
            rate: (work / run_s) as u64 + 1,
            memory_mb: (at_once * of.memory_mb).ceil().min(1e9) as u32,
            run_ms: (run_s * 1000.0) as u32,
        }
    }

    /// One queue, and the better of two random pools by their room.
    fn run_plain(&mut self, now: u32) {
        let admit = self.plan.scenario.control.admit;
        loop {
            let two = [0, 1].map(|_| self.random.below(self.pools.len() as u64) as usize);
            let room = |at: usize| {
                let pool = &self.pools[at];
                (pool.capacity / 1000 * u64::from(admit)).saturating_sub(pool.used)
            };
            let best = if room(two[1]) > room(two[0]) { two[1] } else { two[0] };
            if room(best) == 0 {
                return;
            }
            let Some(function) = self.plain.pop() else { return };
            if let Some(pending) = self.dequeue(function) {
                let call = self.hold(function, pending);
                self.start(now, call, best as u16);
            }
        }
    }

    /// Sums up the tick, and ends a point.
    fn account(&mut self, now: u32) {
        let used: u64 = self.pools.iter().map(|pool| pool.used.min(pool.capacity)).sum();
        // K instructions a second for so many milliseconds are so many instructions; a million are one M.
        self.point.executed_cpu += used / 1000 * u64::from(self.plan.scenario.time.tick_ms);
        if (now + 1).is_multiple_of(self.plan.point) {
            self.point.executed_cpu /= 1000;
            self.point.backlog_cpu = self.waiting_cpu();
            self.point.s = u64::from(self.s);
            self.point.using_waiting = self.plan.users.iter().map(|&user| self.waiting(user)).sum();
            self.record.points.push(std::mem::take(&mut self.point));
        }
    }

    /// CPU of all that waits in the durable queue, M instructions.
    pub fn waiting_cpu(&self) -> u64 {
        self.backlog.iter().sum()
    }

    /// The same of one group.
    pub fn backlog(&self, in_group: usize) -> u64 {
        self.backlog[in_group]
    }

    /// CPU of its workers, M instructions a second; none while it is lost.
    pub fn capacity(&self) -> u64 {
        if self.up { self.pools.iter().map(|pool| pool.capacity / 1000).sum() } else { 0 }
    }

    /// Busy thousandths of one pool.
    pub fn busy(&self, pool: usize) -> u32 {
        let pool = &self.pools[pool];
        (pool.used * 1000 / pool.capacity.max(1)) as u32
    }

    /// Simulated calls that are anywhere in it.
    pub fn held(&self) -> u64 {
        let queued: usize = self.queues.iter().map(VecDeque::len).sum();
        (queued + self.arriving.len() + self.outbox.len() + self.calls.len() - self.free.len()) as u64
    }

    /// Its workers and schedulers are gone: what they held is offered again when its lease has run out.
    pub fn lose(&mut self, now: u32) {
        self.up = false;
        self.scheduler = None;
        let again = now + self.plan.ticks(Limits::default().lease.as_millis() as u64);
        self.ends.drain().for_each(drop);
        let free = std::mem::take(&mut self.free);
        let mut held: Vec<Option<Held>> = std::mem::take(&mut self.calls).into_iter().map(Some).collect();
        free.iter().for_each(|&call| held[call as usize] = None);
        for Held { pending, function, runs } in held.into_iter().flatten() {
            self.record.ledger.lost_runs += if runs.is_some() { self.stands_for(function) } else { 0 };
            let to = u16::from(pending.home);
            let attempts = pending.attempts.saturating_add(u8::from(runs.is_some()));
            self.outbox.push(Message { to, at: again, function, call: Pending { attempts, ..pending } });
        }
        for pool in &mut self.pools {
            (pool.used, pool.held_mb, pool.up) = (0, 0, false);
        }
    }

    /// Its workers are back, idle.
    pub fn regain(&mut self) {
        self.up = true;
        self.pools.iter_mut().for_each(|pool| pool.up = true);
        self.start_scheduler();
    }
}

/// How long a client looks for another region when its own does not answer: the time after which a silent worker is
/// given up, too.
const REROUTE: Duration = Duration::from_secs(5);

/// A tick as the deciders' clock has it.
pub fn instant(plan: &Plan, tick: u32) -> Instant {
    Instant(plan.ms(tick) * 1_000_000)
}
