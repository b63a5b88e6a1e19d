//! One region: durable queues, a scheduler, pools of workers, and the clients that submit there.
//!
//! Regions do not touch each other inside a window; what passes between them are [`Message`]s, exchanged at its end.

mod arrivals;
mod held;
mod running;

use crate::arithmetic::Random;
use crate::code::Code;
use crate::plain::Plain;
use crate::plan::Plan;
use crate::pool::{Pool, Share};
use crate::record::{Point, Record};
use crate::scenario::Order;
use crate::wheel::Wheel;
use crate::workload::Function;
use call::Instant;
use call::limits::Limits;
use scheduler::{
    CoreRef, Effects, FunctionRef, GroupRef, HostRef, Input, Policy, Quota, Rate, Scheduler, SlowStartRule,
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
    /// Whether another region than its home pulled it.
    pub pulled: bool,
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
    /// What its workers hold in memory, where that is asked for.
    code: Option<Code>,
    /// Locality groups of functions and of pools.
    function_groups: Vec<GroupRef>,
    pool_groups: Vec<GroupRef>,
    scheduler: Option<Box<Scheduler>>,
    plain: Plain,
    effects: Option<Effects>,
    queues: Vec<VecDeque<Pending>>,
    /// CPU of all that waits, M instructions, by group.
    backlog: [u64; GROUPS],
    /// Functions that have pending calls, by group, in the order in which others may take from them.
    backlogged: [VecDeque<u32>; GROUPS],
    is_backlogged: Vec<bool>,
    /// Calls of each function that it pulled from others and that have not begun: told by [`Pending::pulled`].
    pulled: Vec<u32>,
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
        // What a worker holds without any function is not for calls.
        let memory_mb = fleet.worker_memory_mb - fleet.base_memory_mb as u32;
        let pool = |at: u32| Pool::new(share(at), fleet.worker_mips, memory_mb);
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
            code: code(plan, pools as usize),
            function_groups: vec![GroupRef::NONE; functions],
            pool_groups: vec![GroupRef::NONE; pools as usize],
            scheduler: None,
            plain: Plain::new(plan.scenario.control.order),
            effects: Some(Effects::new(EFFECTS)),
            queues: vec![VecDeque::new(); functions],
            backlog: [0; GROUPS],
            backlogged: Default::default(),
            is_backlogged: vec![false; functions],
            pulled: vec![0; functions],
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
            self.tell(Input::Group { core: CoreRef(core), group: self.pool_groups[usize::from(core)] });
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
        let (rate, group) = (Rate((per_s * 1000.0) as u64 + 1), self.function_groups[function]);
        Policy { quota, rate, burst, group, slow_start, ..Policy::default() }
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

    /// Sums up the tick, and ends a point.
    fn account(&mut self, now: u32) {
        self.account_code(now);
        let used: u64 = self.pools.iter_mut().map(Pool::work).sum();
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

    /// Busy thousandths of one pool, its mean over the ticks since this was last asked.
    pub fn busy(&mut self, pool: usize) -> u32 {
        self.pools[pool].busy()
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
            self.outbox.push(Message {
                to,
                at: again,
                function,
                call: Pending { attempts, pulled: false, ..pending },
            });
        }
        for pool in &mut self.pools {
            (pool.used, pool.held_mb, pool.up) = (0, 0, false);
        }
        for (pulled, queue) in self.pulled.iter_mut().zip(&self.queues) {
            *pulled = queue.iter().filter(|pending| pending.pulled).count() as u32;
        }
    }

    /// Its workers are back, idle.
    pub fn regain(&mut self) {
        self.up = true;
        self.pools.iter_mut().for_each(|pool| pool.up = true);
        self.start_scheduler();
    }
}

/// Workers that hold code, if the scenario asks for it.
fn code(plan: &Plan, pools: usize) -> Option<Code> {
    let (spec, fleet) = (&plan.scenario.code, &plan.scenario.fleet);
    let code = || Code::new(spec, plan.scenario.time.tick_ms, fleet.base_memory_mb, pools, &plan.functions);
    spec.held.then(code)
}

/// A tick as the deciders' clock has it.
pub fn instant(plan: &Plan, tick: u32) -> Instant {
    Instant(plan.ms(tick) * 1_000_000)
}
