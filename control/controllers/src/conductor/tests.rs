//! A small fleet whose consumers cache what they get, and a conductor that is killed.

use super::*;
use crate::gtc::RegionState;
use crate::words::{DownstreamRef, MilliCalls, WorkerRef};
use crate::{Cache, locality};
use std::time::Duration;

const REGIONS: u16 = 3;
const FUNCTIONS: u32 = 4;
const WORKERS_EACH: u32 = 9;
/// Function 3 calls the only service.
const CALLER: FunctionRef = FunctionRef(3);
const SERVICE: DownstreamRef = DownstreamRef(0);
/// CPU of a call, and of a worker.
const CALL_NS: u64 = 100_000_000;
const WORKER: Millicores = 1000;

fn sizes() -> Sizes {
    Sizes {
        functions_max: FUNCTIONS as usize,
        schedulers_max: usize::from(REGIONS),
        regions_max: usize::from(REGIONS),
        groups_max: 4,
        workers_max: (u32::from(REGIONS) * WORKERS_EACH) as usize,
        downstreams_max: 1,
    }
}

/// One region's queue of one function.
#[derive(Clone, Default)]
struct Queue {
    waiting: u64,
    done: u64,
}

/// The fleet. What it does in a second depends on its caches alone.
struct Fleet {
    conductor: Option<Conductor>,
    now: Instant,
    out: Effects<Effect>,
    queues: Vec<Vec<Queue>>,
    limits: Vec<Vec<Cache<Option<MilliCalls>>>>,
    throttles: Vec<Cache<Option<MilliCalls>>>,
    groups: Vec<Cache<Option<GroupRef>>>,
    worker_groups: Vec<Cache<Option<GroupRef>>>,
    matrix: Cache<gtc::Matrix>,
    s: Vec<Cache<Permille>>,
    workers: Vec<Cache<u32>>,
    /// Calls a second that the service can do.
    service: u64,
    lost: Option<u16>,
    snapshots: usize,
    moved: usize,
}

fn caches<T: Copy>(count: usize, safe: T) -> Vec<Cache<T>> {
    (0..count).map(|_| Cache::new(safe)).collect()
}

impl Fleet {
    fn new() -> Fleet {
        let (regions, sizes) = (usize::from(REGIONS), sizes());
        let mut fleet = Fleet {
            conductor: None,
            now: Instant(0),
            out: Effects::new(32),
            queues: vec![vec![Queue::default(); regions]; FUNCTIONS as usize],
            limits: (0..FUNCTIONS).map(|_| caches(regions, None)).collect(),
            throttles: caches(FUNCTIONS as usize, None),
            groups: caches(FUNCTIONS as usize, None),
            worker_groups: caches(sizes.workers_max, None),
            matrix: Cache::new(gtc::Matrix::identity(regions, sizes.groups_max)),
            s: caches(regions, 0),
            workers: caches(regions, 0),
            service: 1_000_000,
            lost: None,
            snapshots: 0,
            moved: 0,
        };
        fleet.start();
        fleet
    }

    /// A conductor that knows nothing is told of all there is and of what is held.
    fn start(&mut self) {
        self.conductor = Some(Conductor::new(Settings::default(), &sizes(), 0));
        for region in (0..REGIONS).map(RegionRef) {
            self.tell_region(region);
            (0..region.0).for_each(|b| {
                let distance = u32::from(region.0 - b);
                self.tell(Input::Distance { a: region, b: RegionRef(b), distance });
            });
        }
        self.tell(Input::Downstream { downstream: SERVICE, threshold_per_minute: 600 });
        self.tell(Input::Uses { function: CALLER, downstream: SERVICE });
        for (key, group) in
            self.worker_groups.iter().enumerate().map(|(key, of)| (key, held(of))).collect::<Vec<_>>()
        {
            let worker = WorkerRef(key as u32);
            self.tell(Input::Worker { worker, region: RegionRef((key as u32 / WORKERS_EACH) as u16) });
            self.tell(Input::Held(Held::WorkerGroup(worker, group)));
        }
        for function in (0..FUNCTIONS).map(FunctionRef) {
            let key = function.0 as usize;
            let (group, throttle) = (held(&self.groups[key]), held(&self.throttles[key]));
            self.tell(Input::Held(Held::Group(function, group)));
            self.tell(Input::Held(Held::Throttle(function, throttle)));
            self.tell(Input::Held(Held::Mean(function, Duration::from_nanos(CALL_NS))));
            for scheduler in (0..REGIONS).map(SchedulerRef) {
                let limit = held(&self.limits[key][usize::from(scheduler.0)]);
                self.tell(Input::Held(Held::Limit(function, scheduler, limit)));
            }
            self.tell(Input::Function { function, quota: Some(20_000), memory: 1 << 20, reserved: true });
        }
        let matrix = Snapshot { version: self.matrix.version(), value: self.matrix.get().clone() };
        self.tell(Input::Held(Held::Matrix(&matrix)));
        for region in (0..REGIONS).map(RegionRef) {
            let (s, workers) =
                (held(&self.s[usize::from(region.0)]), held(&self.workers[usize::from(region.0)]));
            self.tell(Input::Held(Held::Opportunistic(region, s)));
            if workers.version > 0 {
                self.tell(Input::Held(Held::Workers(region, workers)));
            }
        }
    }

    fn tell_region(&mut self, region: RegionRef) {
        let state = if self.lost == Some(region.0) { RegionState::Draining } else { RegionState::Up };
        self.tell(Input::Region { region, state });
        self.tell(Input::Scheduler { scheduler: SchedulerRef(region.0), region });
    }

    fn tell(&mut self, input: Input<'_>) {
        if let Some(conductor) = &mut self.conductor {
            conductor.step(self.now, input, &mut self.out);
        }
    }

    /// One second: calls come, are pulled by the matrix within limits and capacity, and are reported.
    fn second(&mut self, arrivals: &[[u64; 3]; 4]) {
        self.now = self.now + Duration::from_secs(1);
        let mut reports = vec![[Calls::default(); 3]; FUNCTIONS as usize];
        for (key, of) in arrivals.iter().enumerate() {
            for (region, arrived) in of.iter().enumerate() {
                self.queues[key][region].waiting += arrived;
                reports[key][region].arrived = *arrived;
            }
        }
        let mut busy = [0; 3];
        let lost = self.lost;
        for by in (0..REGIONS).filter(|by| lost != Some(*by)) {
            busy[usize::from(by)] = self.pull(usize::from(by), &mut reports);
        }
        let made: u64 = reports[3].iter().map(|calls| calls.began).sum();
        let count = made.saturating_sub(self.service);
        if count > 0 {
            // What the service refused comes again.
            self.queues[3][0].waiting += count;
            self.queues[3][0].done -= count.min(self.queues[3][0].done);
            self.tell(Input::PushedBack { function: CALLER, downstream: SERVICE, count });
        }
        for (key, of) in reports.iter().enumerate() {
            for (by, calls) in of.iter().enumerate() {
                let calls = Calls { waiting: self.queues[key][by].waiting, ..*calls };
                let function = FunctionRef(key as u32);
                self.tell(Input::Calls { function, scheduler: SchedulerRef(by as u16), calls });
            }
        }
        for region in 0..REGIONS {
            let workers = if self.lost == Some(region) { 0 } else { WORKERS_EACH };
            let capacity = u64::from(workers) * WORKER;
            let busy = busy[usize::from(region)];
            self.tell(Input::Load { region: RegionRef(region), capacity, workers, busy });
        }
        self.turn();
    }

    /// What one region's scheduler begins in a second. How busy its workers were.
    fn pull(&mut self, by: usize, reports: &mut [[Calls; 3]]) -> Permille {
        let all = u64::from(WORKERS_EACH) * WORKER * 1_000_000 / CALL_NS;
        let mut room = all;
        for (key, of) in reports.iter_mut().enumerate() {
            let limit = self.limits[key][by].get().map_or(u64::MAX, |limit| limit / 1000);
            let group = self.groups[key].get().unwrap_or(GroupRef(0));
            let (mut left, row) = (limit, self.matrix.get().row(group, RegionRef(by as u16)).to_vec());
            for (from, share) in row.iter().enumerate() {
                let part = all * u64::from(*share) / 1000;
                let queue = &mut self.queues[key][from];
                let begun = queue.waiting.min(part).min(left).min(room);
                queue.waiting -= begun;
                queue.done += begun;
                (left, room) = (left - begun, room - begun);
                let calls = &mut of[by];
                calls.began += begun;
                calls.ended += begun;
                calls.cpu_ns += begun * CALL_NS;
            }
        }
        ((all - room) * 1000 / all) as Permille
    }

    /// Turns until all is published; caches take what comes, and each snapshot is newer than what they had.
    fn turn(&mut self) {
        loop {
            self.tell(Input::Turn);
            let is_full = self.out.is_full();
            let effects: Vec<Effect> = self.out.drain().collect();
            for effect in effects {
                self.snapshots += 1;
                assert!(self.take(effect), "not newer than what is held: {effect:?}");
            }
            if !is_full {
                break;
            }
        }
        if let Some(conductor) = &self.conductor {
            conductor.check();
        }
    }

    fn take(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Limit { function, scheduler, limit } => {
                self.limits[function.0 as usize][usize::from(scheduler.0)].offer(limit)
            }
            Effect::Throttle { function, limit } => self.throttles[function.0 as usize].offer(limit),
            Effect::Locality(locality::Effect::Function { function, group }) => {
                self.moved += 1;
                self.groups[function.0 as usize].offer(group)
            }
            Effect::Locality(locality::Effect::Worker { worker, group }) => {
                self.moved += 1;
                self.worker_groups[worker.0 as usize].offer(group)
            }
            Effect::Matrix { version } => {
                let newest = self.conductor.as_ref().expect("it said so").matrix().clone();
                newest.version == version && self.matrix.offer(newest)
            }
            Effect::Opportunistic { region, s } => self.s[usize::from(region.0)].offer(s),
            Effect::Workers { region, workers } => self.workers[usize::from(region.0)].offer(workers),
            Effect::Prewarm(_) => true,
        }
    }

    fn seconds(&mut self, count: usize, arrivals: &[[u64; 3]; 4]) {
        (0..count).for_each(|_| self.second(arrivals));
    }

    fn waiting(&self, region: usize) -> u64 {
        self.queues.iter().map(|of| of[region].waiting).sum()
    }

    fn done(&self) -> u64 {
        self.queues.iter().flatten().map(|queue| queue.done).sum()
    }
}

fn held<T: Copy>(of: &Cache<T>) -> Snapshot<T> {
    Snapshot { version: of.version(), value: *of.get() }
}

/// 40 calls a second in each region, of 90 that it can do.
const EVEN: [[u64; 3]; 4] = [[10; 3]; 4];

#[test]
fn a_region_that_is_overloaded_is_helped_by_others() {
    let mut fleet = Fleet::new();
    fleet.seconds(30, &EVEN);
    assert_eq!(fleet.waiting(0), 0, "each serves itself");
    assert_eq!(fleet.matrix.version(), 0, "and nobody pulls from another");
    // 120 a second in region 0: 30 more than it can do.
    let hot = [[30, 10, 10]; 4];
    fleet.seconds(120, &hot);
    let before = fleet.waiting(0);
    fleet.seconds(60, &hot);
    assert!(fleet.waiting(0) <= before && before < 1000, "{before}, then {}", fleet.waiting(0));
}

#[test]
fn a_region_lost_is_drained_by_others() {
    let mut fleet = Fleet::new();
    fleet.seconds(20, &EVEN);
    fleet.lost = Some(1);
    fleet.tell_region(RegionRef(1));
    fleet.seconds(30, &EVEN);
    assert!(fleet.waiting(1) < 400, "{} calls wait in it: more than 10 s of them", fleet.waiting(1));
    fleet.seconds(30, &EVEN);
    assert!(fleet.waiting(1) < 400);
}

#[test]
fn a_conductor_killed_at_the_worst_time_is_missed_by_nobody() {
    let mut fleet = Fleet::new();
    let hot = [[22, 4, 4], [22, 4, 4], [22, 4, 4], [60, 4, 4]];
    fleet.seconds(60, &hot);
    // The service is ill, and its caller slowed down.
    fleet.service = 20;
    fleet.seconds(120, &hot);
    let slowed = fleet.throttles[3].get().expect("the caller is limited");
    assert!(slowed < 60_000, "{slowed}");
    let (matrix, done) = (fleet.matrix.get().clone(), fleet.done());
    assert_ne!(matrix, gtc::Matrix::identity(3, 4));

    fleet.conductor = None;
    fleet.seconds(600, &hot);
    let without = (fleet.done() - done) / 600;
    assert!(without > 90, "{without} calls a second without a conductor");
    assert_eq!(*fleet.throttles[3].get(), Some(slowed), "and the service is spared");

    let (snapshots, version) = (fleet.snapshots, fleet.throttles[3].version());
    fleet.moved = 0;
    fleet.start();
    fleet.seconds(3, &hot);
    assert_eq!(fleet.snapshots, snapshots, "it listens first");
    fleet.seconds(10, &hot);
    let again = fleet.throttles[3].get().expect("back-pressure still limits the caller");
    assert!(fleet.throttles[3].version() > version && again < slowed * 2, "{slowed}, then {again}");
    assert_eq!(fleet.moved, 0, "a function or worker was moved for nothing");

    // And the service becomes well again.
    fleet.service = 1_000_000;
    fleet.seconds(3000, &EVEN);
    assert_eq!(fleet.waiting(0) + fleet.waiting(1) + fleet.waiting(2), 0, "the backlog ran off");
    assert_eq!(*fleet.throttles[3].get(), None, "and the limit is lifted");
}

#[test]
fn a_quota_is_in_force_within_two_seconds() {
    let mut fleet = Fleet::new();
    fleet.seconds(10, &EVEN);
    let function = FunctionRef(0);
    fleet.tell(Input::Function { function, quota: Some(100), memory: 1 << 20, reserved: true });
    fleet.seconds(2, &EVEN);
    let all: u64 = fleet.limits[0].iter().filter_map(|of| *of.get()).sum();
    assert!(all <= 1000, "a tenth of a core is one call a second, not {all} thousandths");
}
