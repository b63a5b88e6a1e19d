//! All regions through time: windows in which each goes on by itself, and between them what passes from one to
//! another, the controllers, the services, and what goes wrong.

use crate::conductor::Conductor;
use crate::placement::Placement;
use crate::plan::Plan;
use crate::record::Record;
use crate::region::{Message, Region};
use crate::scenario::{EventSpec, Order, What};
use crate::services::Services;
use crate::shaping::Shaping;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard};

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// By region.
    pub regions: Vec<Record>,
    /// M instructions a second of each region's workers.
    pub capacities: Vec<u64>,
    /// Load and exceptions of the downstream services, by point.
    pub services: Vec<crate::services::Series>,
    /// Points before measuring began, and until it ended.
    pub measured: std::ops::Range<usize>,
    /// Seconds of one point.
    pub point_s: u32,
    /// Hash of everything that happened.
    pub hash: u64,
    /// Seconds that were simulated.
    pub simulated_s: u64,
}

/// The regions, and a second thread's way to them. A region's lock is free whenever it is wanted: it keeps the
/// compiler's rules only.
struct Shared<'a> {
    regions: Vec<Mutex<Region<'a>>>,
    begin: Barrier,
    done: Barrier,
    next: AtomicUsize,
    from: AtomicU32,
    stop: AtomicBool,
    window: u32,
}

impl<'a> Shared<'a> {
    fn region(&self, at: usize) -> MutexGuard<'_, Region<'a>> {
        self.regions[at].lock().expect("a thread that panics ends the run")
    }

    /// Takes regions one by one through the window. Whoever is free takes the next: no region sees who.
    fn window(&self) {
        let from = self.from.load(Ordering::Acquire);
        loop {
            let at = self.next.fetch_add(1, Ordering::AcqRel);
            if at >= self.regions.len() {
                return;
            }
            let mut region = self.region(at);
            (from..from + self.window).for_each(|tick| region.step(tick));
        }
    }

    fn work(&self) {
        loop {
            self.begin.wait();
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.window();
            self.done.wait();
        }
    }
}

/// Runs a plan on so many threads. The threads change nothing but the time it takes. `progress` hears the part of
/// the hours that are over, now and then.
pub fn run(plan: &Plan, threads: usize, progress: &mut dyn FnMut(f64)) -> Run {
    let count = plan.streams.len();
    let threads = threads.clamp(1, count);
    let shared = Shared {
        regions: (0..count).map(|at| Mutex::new(Region::new(plan, at as u16))).collect(),
        begin: Barrier::new(threads),
        done: Barrier::new(threads),
        next: AtomicUsize::new(0),
        from: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        window: plan.scenario.time.window_ticks,
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(|| shared.work())));
        let run = conduct(plan, &shared, progress);
        shared.stop.store(true, Ordering::Release);
        shared.begin.wait();
        run
    })
}

/// The thread that also does what is between the windows.
fn conduct<'a>(plan: &'a Plan, shared: &Shared<'a>, progress: &mut dyn FnMut(f64)) -> Run {
    let mut between = Between::new(plan, shared);
    let (mut now, mut told) = (0, 0);
    while now < plan.end {
        between.events(now, shared);
        shared.from.store(now, Ordering::Release);
        shared.next.store(0, Ordering::Release);
        shared.begin.wait();
        shared.window();
        shared.done.wait();
        now += shared.window;
        let mut regions: Vec<_> = (0..plan.streams.len()).map(|at| shared.region(at)).collect();
        between.exchange(now, &mut regions);
        let ended = now > plan.until && now.is_multiple_of(plan.point) && is_over(&regions);
        drop(regions);
        if now / plan.point > told {
            told = now / plan.point;
            progress(f64::from(now) / f64::from(plan.until));
        }
        if ended {
            break;
        }
    }
    between.finish(now, shared)
}

/// Whether everything that was received while it was measured has ended.
fn is_over(regions: &[MutexGuard<'_, Region<'_>>]) -> bool {
    let sum = |what: fn(&Region) -> u64| regions.iter().map(|region| what(region)).sum::<u64>();
    sum(|region| region.record.ledger.received) == sum(|region| region.record.ledger.finished)
}

/// What happens between windows.
struct Between<'a> {
    plan: &'a Plan,
    conductor: Conductor,
    shaping: Shaping,
    placement: Placement,
    services: Services,
    /// Events with the ticks of begin and end, and whether they are in force.
    events: Vec<(EventSpec, u32, u32, bool)>,
    /// No controller works.
    headless: bool,
}

impl<'a> Between<'a> {
    fn new(plan: &'a Plan, shared: &Shared<'a>) -> Between<'a> {
        let ticks = |event: &EventSpec| {
            (event.clone(), plan.tick_at(event.at_h), plan.tick_at(event.at_h + event.for_h), false)
        };
        let pools: Vec<usize> = (0..plan.streams.len()).map(|at| shared.region(at).pools.len()).collect();
        Between {
            plan,
            conductor: Conductor::new(plan),
            shaping: Shaping::new(plan, &pools),
            placement: Placement::new(plan, &pools),
            services: Services::new(plan),
            events: plan.scenario.events.iter().map(ticks).collect(),
            headless: false,
        }
    }

    fn events(&mut self, now: u32, shared: &Shared<'_>) {
        for at in 0..self.events.len() {
            let (event, begin, end, in_force) = self.events[at].clone();
            let wanted = (begin..end).contains(&now);
            if wanted != in_force {
                self.events[at].3 = wanted;
                self.change(now, &event.what, wanted, shared);
            }
        }
    }

    fn change(&mut self, now: u32, what: &What, begins: bool, shared: &Shared<'_>) {
        match what {
            What::Watched => {}
            What::ControllersLost => self.headless = begins,
            What::Downstream { name, permille } => {
                self.services.set(name, if begins { *permille } else { 1000 });
            }
            What::RegionLost { region, queue } => {
                let at = *region as usize;
                let mut lost = shared.region(at);
                if begins {
                    lost.lose(now)
                } else {
                    lost.regain()
                }
                drop(lost);
                self.conductor.region(*region as u16, !begins, *queue);
                for other in (0..self.plan.streams.len()).filter(|&other| other != at) {
                    shared.region(other).quotas_without(*region as u16, begins);
                }
                let nearest = self.conductor.nearest(*region as u16);
                let cut_off = begins && !*queue;
                shared.region(at).submits_to = if cut_off { nearest } else { *region as u16 };
            }
        }
    }

    fn exchange(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        let mut messages = Vec::new();
        self.services.window(now, regions);
        if self.plan.scenario.control.order == Order::Millrace {
            if !self.headless {
                self.shaping.window(now, regions);
                self.placement.window(now, regions);
                self.conductor.turn(now, self.shaping.target(), regions);
            }
            self.conductor.pull(now, regions, &mut messages);
        }
        for region in regions.iter_mut() {
            messages.append(&mut region.outbox);
        }
        for message in messages {
            let at = message.at.max(now);
            regions[usize::from(message.to)].deliver(Message { at, ..message });
        }
    }

    fn finish(self, now: u32, shared: &Shared<'_>) -> Run {
        let plan = self.plan;
        let mut run = Run {
            regions: Vec::new(),
            capacities: Vec::new(),
            services: self.services.series(),
            measured: (plan.from / plan.point) as usize..(plan.until / plan.point) as usize,
            point_s: plan.scenario.time.point_min * 60,
            hash: plan.seed,
            simulated_s: plan.ms(now) / 1000,
        };
        let (mut received, mut ended, mut held) = (0, 0, 0);
        for at in 0..plan.streams.len() {
            let mut region = shared.region(at);
            run.hash = crate::arithmetic::mix(run.hash, region.record.hash);
            run.capacities.push(region.pools.iter().map(|pool| pool.capacity / 1000).sum());
            received += region.record.ledger.simulated;
            ended += region.record.ledger.ended;
            held += region.held();
            run.regions.push(std::mem::take(&mut region.record));
        }
        assert_eq!(received, ended + held, "calls were lost or made up: received, and ended or still there");
        run
    }
}
