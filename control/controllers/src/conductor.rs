//! All controllers as one decider: reports go in, snapshots come out.
//!
//! ```text
//! reports of functions --> aimd --> rate  --> limits per function and scheduler
//!                     '--> prewarm        --> when a function should be warm
//! needs of functions  --> locality        --> groups of functions and workers
//!                            '--> gtc     --> the matrix T_ij
//! reports of regions  ------> gtc, utilization, autoscale --> S, and how many workers
//! ```
//!
//! # Laws
//! 1. **Nobody waits**: whatever it publishes, and whether it does at all, is cached by those who use it.
//! 2. **It may be killed**: a new one, told of what consumers hold ([`Held`]) and of the functions, schedulers, regions
//!    and workers there are, listens for [`Settings::listen`] first; then it goes on under versions above all of theirs.
//!    It does not move what need not move, and lifts no limit that back-pressure set.
//! 3. **One direction**: what one controller concludes is input of a later one in the same turn, never of an earlier.
//!
//! Absent: code pushes ([`crate::push`]), which are of one namespace and begin with an order.

use crate::words::{Effects, FunctionRef, GroupRef, Millicores, Pace, Permille, RegionRef, SchedulerRef};
use crate::{Snapshot, aimd, autoscale, gtc, locality, prewarm, rate, utilization};
use call::Instant;

mod demand;
mod words;

use demand::Demand;
pub use words::{Calls, Effect, Held, Input, Settings, Sizes};

/// What is known of a region.
#[derive(Debug)]
struct Region {
    utilization: utilization::Utilization,
    autoscale: autoscale::Autoscale,
    capacity: Millicores,
    workers: u32,
    /// It has reported its load.
    heard: bool,
    s: Snapshot<Permille>,
}

/// Effects of each controller, on their way into the one list.
#[derive(Debug)]
struct Inner {
    rate: Effects<rate::Effect>,
    aimd: Effects<aimd::Effect>,
    locality: Effects<locality::Effect>,
    gtc: Effects<gtc::Effect>,
    autoscale: Effects<autoscale::Effect>,
    prewarm: Effects<prewarm::Effect>,
}

/// Most effects of one controller in one turn: a turn with more has another one behind it.
const INNER_ROOM: usize = 1024;

impl Inner {
    fn new() -> Inner {
        Inner {
            rate: Effects::new(INNER_ROOM),
            aimd: Effects::new(INNER_ROOM),
            locality: Effects::new(INNER_ROOM),
            gtc: Effects::new(1),
            autoscale: Effects::new(1),
            prewarm: Effects::new(INNER_ROOM),
        }
    }
}

/// All controllers.
#[derive(Debug)]
pub struct Conductor {
    settings: Settings,
    rate: rate::Rates,
    aimd: aimd::Aimd,
    locality: locality::Locality,
    gtc: gtc::Gtc,
    prewarm: prewarm::Prewarm,
    regions: Vec<Region>,
    demand: Demand,
    /// Memory of each function that is there.
    memory: Vec<Option<u64>>,
    listening_since: Option<Instant>,
    utilization_pace: Pace,
    inner: Inner,
}

impl Conductor {
    /// Nothing is known yet. `published` is the newest version of whatever consumers may have.
    ///
    /// # Panics
    /// If there is none of something, or settings contradict themselves.
    pub fn new(settings: Settings, sizes: &Sizes, published: u64) -> Conductor {
        let Sizes { functions_max, schedulers_max, regions_max, groups_max, workers_max, downstreams_max } =
            *sizes;
        let region = |_| Region {
            utilization: utilization::Utilization::new(settings.utilization, 1, published),
            autoscale: autoscale::Autoscale::new(settings.autoscale, published),
            capacity: 0,
            workers: 0,
            heard: false,
            s: Snapshot { version: 0, value: 0 },
        };
        Conductor {
            settings,
            rate: rate::Rates::new(settings.rate, functions_max, schedulers_max, published),
            aimd: aimd::Aimd::new(settings.aimd, functions_max, downstreams_max, published),
            locality: locality::Locality::new(
                settings.locality,
                functions_max,
                workers_max,
                regions_max,
                groups_max,
                published,
            ),
            gtc: gtc::Gtc::new(settings.gtc, regions_max, groups_max, published),
            prewarm: prewarm::Prewarm::new(settings.prewarm, functions_max, published),
            regions: (0..regions_max).map(region).collect(),
            demand: Demand::new(sizes, settings.gtc.period, settings.drain),
            memory: vec![None; functions_max],
            listening_since: None,
            utilization_pace: Pace::new(settings.utilization_period),
            inner: Inner::new(),
        }
    }

    /// The matrix as published last.
    pub fn matrix(&self) -> &Snapshot<gtc::Matrix> {
        self.gtc.newest()
    }

    /// The controller of back-pressure, to be asked.
    pub fn aimd(&self) -> &aimd::Aimd {
        &self.aimd
    }

    /// The central rate limiter, to be asked.
    pub fn rate(&self) -> &rate::Rates {
        &self.rate
    }

    /// The locality optimizer, to be asked.
    pub fn locality(&self) -> &locality::Locality {
        &self.locality
    }

    /// The autoscaler of a region, to be asked.
    pub fn autoscale(&self, region: RegionRef) -> &autoscale::Autoscale {
        &self.regions[usize::from(region.0)].autoscale
    }

    /// S of a region as published last.
    pub fn opportunistic(&self, region: RegionRef) -> Snapshot<Permille> {
        self.regions[usize::from(region.0)].s
    }

    /// CPU that calls of a region need which may not wait.
    pub fn reserved(&self, region: RegionRef) -> Millicores {
        self.demand.reserved(region)
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, now: Instant, input: Input<'_>, out: &mut Effects<Effect>) {
        match input {
            Input::Function { function, quota, memory, reserved } => {
                self.memory[function.0 as usize] = Some(memory);
                self.demand.set_reserved(function, reserved);
                self.tell_rate(now, rate::Input::Quota { function, cpu: quota });
                let cpu = self.demand.cpu_of(function);
                self.tell_locality(now, locality::Input::Function { function, memory, cpu });
            }
            Input::Together { function, with } => {
                self.tell_locality(now, locality::Input::Together { function, with });
            }
            Input::Unused { function } => self.tell_aimd(now, aimd::Input::Forget { function }),
            Input::Uses { function, downstream } => {
                self.tell_aimd(now, aimd::Input::Uses { function, downstream })
            }
            Input::Forget { function } => self.forget(now, function),
            Input::Downstream { downstream, threshold_per_minute } => {
                self.tell_aimd(now, aimd::Input::Downstream { downstream, threshold_per_minute });
            }
            Input::Scheduler { scheduler, region } => {
                self.demand.set_region(scheduler, Some(region));
                self.tell_rate(now, rate::Input::SchedulerUp { scheduler });
            }
            Input::SchedulerGone { scheduler } => {
                self.demand.set_region(scheduler, None);
                self.tell_rate(now, rate::Input::SchedulerGone { scheduler });
            }
            Input::Worker { worker, region } => {
                self.tell_locality(now, locality::Input::Worker { worker, region })
            }
            Input::WorkerGone { worker } => self.tell_locality(now, locality::Input::WorkerGone { worker }),
            Input::Region { region, state } => self.tell_gtc(now, gtc::Input::Region { region, state }),
            Input::Distance { a, b, distance } => self.tell_gtc(now, gtc::Input::Distance { a, b, distance }),
            Input::Calls { function, scheduler, calls } => self.report(now, function, scheduler, calls),
            Input::PushedBack { function, downstream, count } => {
                self.tell_aimd(now, aimd::Input::PushedBack { function, downstream, count });
            }
            Input::Load { region, capacity, workers, busy } => {
                let of = &mut self.regions[usize::from(region.0)];
                (of.capacity, of.workers, of.heard) = (capacity, workers, true);
                of.utilization.observe(0, (capacity > 0).then_some(busy));
            }
            Input::Held(held) => self.resume(now, held),
            Input::Turn => self.turn(now, out),
        }
    }

    fn tell_rate(&mut self, now: Instant, input: rate::Input) {
        self.rate.step(now, input, &mut self.inner.rate);
    }

    fn tell_aimd(&mut self, now: Instant, input: aimd::Input) {
        self.aimd.step(now, input, &mut self.inner.aimd);
    }

    fn tell_locality(&mut self, now: Instant, input: locality::Input) {
        self.locality.step(now, input, &mut self.inner.locality);
    }

    fn tell_gtc(&mut self, now: Instant, input: gtc::Input<'_>) {
        self.gtc.step(now, input, &mut self.inner.gtc);
    }

    fn tell_prewarm(&mut self, now: Instant, input: prewarm::Input) {
        self.prewarm.step(now, input, &mut self.inner.prewarm);
    }

    fn forget(&mut self, now: Instant, function: FunctionRef) {
        self.memory[function.0 as usize] = None;
        self.demand.forget(function);
        self.tell_rate(now, rate::Input::Forget { function });
        self.tell_rate(now, rate::Input::Cap { function, limit: None });
        self.tell_aimd(now, aimd::Input::Forget { function });
        self.tell_locality(now, locality::Input::Forget { function });
        self.tell_prewarm(now, prewarm::Input::Forget { function });
    }

    fn report(&mut self, now: Instant, function: FunctionRef, scheduler: SchedulerRef, calls: Calls) {
        let Calls { arrived, began, ended, cpu_ns, waiting, running } = calls;
        self.tell_rate(now, rate::Input::Ran { function, scheduler, calls: ended, cpu_ns, waiting });
        let waiting = self.demand.report(function, scheduler, arrived, waiting);
        self.tell_aimd(now, aimd::Input::Ran { function, calls: began, waiting });
        // To a report's precision: idle times of less than that count as none.
        if began > 0 {
            self.tell_prewarm(now, prewarm::Input::Begins { function });
            self.tell_prewarm(now, prewarm::Input::Ends { function });
        } else if running > 0 || ended > 0 {
            self.tell_prewarm(now, prewarm::Input::Ends { function });
        }
    }

    fn resume(&mut self, now: Instant, held: Held<'_>) {
        match held {
            Held::Limit(function, scheduler, limit) => {
                self.tell_rate(now, rate::Input::Held { function, scheduler, limit });
            }
            Held::Throttle(function, limit) => {
                self.tell_aimd(now, aimd::Input::Held { function, limit });
                self.tell_rate(now, rate::Input::Cap { function, limit: limit.value });
            }
            Held::Mean(function, mean) => self.tell_rate(now, rate::Input::Learned { function, mean }),
            Held::Group(function, group) => {
                self.tell_locality(now, locality::Input::HeldFunction { function, group });
            }
            Held::WorkerGroup(worker, group) => {
                self.tell_locality(now, locality::Input::HeldWorker { worker, group });
            }
            Held::Plan(function, plan) => self.tell_prewarm(now, prewarm::Input::Held { function, plan }),
            Held::Matrix(matrix) => self.tell_gtc(now, gtc::Input::Held(matrix)),
            Held::Opportunistic(region, s) => {
                let of = &mut self.regions[usize::from(region.0)];
                of.utilization.resume(&s);
                of.s = of.utilization.newest();
            }
            Held::Workers(region, workers) => {
                let of = &mut self.regions[usize::from(region.0)];
                of.autoscale.step(now, autoscale::Input::Held(workers), &mut self.inner.autoscale);
            }
        }
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        let since = *self.listening_since.get_or_insert(now);
        if now.since(since) < self.settings.listen {
            return;
        }
        self.shape(now, out);
        self.place(now, out);
        self.conduct(now, out);
        self.scale(now, out);
    }

    /// Back-pressure, then rates.
    fn shape(&mut self, now: Instant, out: &mut Effects<Effect>) {
        let Conductor { aimd, rate, inner, prewarm, .. } = self;
        inner.aimd.reset(out.room_left());
        aimd.step(now, aimd::Input::Turn, &mut inner.aimd);
        for aimd::Effect::Limit { function, limit } in inner.aimd.drain() {
            inner.rate.reset(0);
            rate.step(now, rate::Input::Cap { function, limit: limit.value }, &mut inner.rate);
            out.push(Effect::Throttle { function, limit });
        }
        inner.rate.reset(out.room_left());
        rate.step(now, rate::Input::Turn, &mut inner.rate);
        for rate::Effect::Limit { function, scheduler, limit } in inner.rate.drain() {
            out.push(Effect::Limit { function, scheduler, limit });
        }
        inner.prewarm.reset(out.room_left());
        prewarm.step(now, prewarm::Input::Turn, &mut inner.prewarm);
        inner.prewarm.drain().for_each(|effect| out.push(Effect::Prewarm(effect)));
    }

    /// Groups of functions and workers.
    fn place(&mut self, now: Instant, out: &mut Effects<Effect>) {
        let Conductor { locality, inner, .. } = self;
        inner.locality.reset(out.room_left());
        locality.step(now, locality::Input::Turn, &mut inner.locality);
        inner.locality.drain().for_each(|effect| out.push(Effect::Locality(effect)));
    }

    /// Demand and supply per region and group, then the matrix.
    fn conduct(&mut self, now: Instant, out: &mut Effects<Effect>) {
        if self.demand.settle(now, &self.rate, &self.locality) {
            for (key, memory) in self.memory.iter().enumerate() {
                let Some(memory) = *memory else { continue };
                let function = FunctionRef(key as u32);
                let input = locality::Input::Function { function, memory, cpu: self.demand.cpu_of(function) };
                self.locality.step(now, input, &mut self.inner.locality);
            }
            for region in (0..self.regions.len() as u16).map(RegionRef) {
                let capacity = self.regions[usize::from(region.0)].capacity;
                for group in (0..self.locality.open() as u16).map(GroupRef) {
                    let work = self.demand.work(region, group);
                    let capacity = self.demand.supply(&self.locality, region, group, capacity);
                    self.tell_gtc(now, gtc::Input::Demand { region, group, work });
                    self.tell_gtc(now, gtc::Input::Supply { region, group, capacity });
                }
            }
        }
        let Conductor { gtc, inner, .. } = self;
        inner.gtc.reset(out.room_left());
        gtc.step(now, gtc::Input::Turn, &mut inner.gtc);
        for gtc::Effect::Matrix { version } in inner.gtc.drain() {
            out.push(Effect::Matrix { version });
        }
    }

    /// S of each region, and how many workers it should have.
    fn scale(&mut self, now: Instant, out: &mut Effects<Effect>) {
        let is_time = self.utilization_pace.over(now).is_some();
        for (key, of) in self.regions.iter_mut().enumerate() {
            let region = RegionRef(key as u16);
            // Of one that has not said how busy it is, what is held goes on.
            if is_time && of.heard {
                of.utilization.turn();
            }
            let s = of.utilization.newest();
            if s.value != of.s.value && !out.is_full() {
                of.s = s;
                out.push(Effect::Opportunistic { region, s });
            }
            if of.workers == 0 {
                continue;
            }
            let needed = self.demand.reserved(region);
            let each = of.capacity / u64::from(of.workers);
            self.inner.autoscale.reset(out.room_left());
            let input = autoscale::Input::Load { workers: of.workers, each, needed };
            of.autoscale.step(now, input, &mut self.inner.autoscale);
            for autoscale::Effect::Workers(workers) in self.inner.autoscale.drain() {
                out.push(Effect::Workers { region, workers });
            }
        }
    }

    /// Panics if an invariant of a controller does not hold.
    pub fn check(&self) {
        self.rate.check();
        self.aimd.check();
        self.locality.check();
        self.gtc.check();
        self.prewarm.check();
    }
}

#[cfg(test)]
mod tests;
