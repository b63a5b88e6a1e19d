//! The controllers' process, without its I/O: the node's observations go in, conclusions for it come out.
//!
//! One pure decider concludes, [`Conductor`]; this feeds it with what changed, and tells what is newer than what the node
//! holds. Off the path. Each observation counts from the node's start and says what the node holds: one that is lost
//! costs nothing, conclusions that are lost are told again, and a process that was started again goes on from there.

use call::Instant;
use call::admin::{Conclusions, Observation, ObservedCore, ObservedFunction, Versioned, Wanted};
use call::limits::Limits;
use controllers::autoscale::Reason;
use controllers::conductor::{Calls, Conductor, Effect, Held, Input, Sizes};
use controllers::{
    DownstreamRef, Effects, FunctionRef, GroupRef, Permille, RegionRef, SchedulerRef, Snapshot, WorkerRef,
    prewarm,
};
use scheduler::GROUPS_MAX;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use controllers::conductor::Settings;

/// How often the node is asked: with a period of the rate limiter it is less than the two seconds in which a changed
/// quota is to be in force.
pub const PERIOD: Duration = Duration::from_millis(500);
/// Services that functions may use, in all.
const DOWNSTREAMS_MAX: usize = 4096;
/// Conclusions of one turn; another one follows at once if there are more.
const EFFECTS: usize = 4096;
/// A node has one scheduler, and is one region to its controllers.
const SCHEDULER: SchedulerRef = SchedulerRef(0);
const REGION: RegionRef = RegionRef(0);
/// What one core can do.
const CORE_MILLIS: u64 = 1000;
/// Wanted cores are told again if the load on them has changed by so much, in thousandths.
const LOAD_BAND: u32 = 50;

/// All controllers of one node.
pub struct Steering {
    limits: Limits,
    settings: Settings,
    incarnation: u32,
    /// Of the last observation: functions that changed since are asked for.
    after_ns: u64,
    conductor: Conductor,
    out: Effects<Effect>,
    /// As observed last, by number.
    seen: BTreeMap<u32, ObservedFunction>,
    /// Functions of each group that manifests name: the first leads.
    together: BTreeMap<String, BTreeSet<u32>>,
    cores: BTreeSet<u16>,
    /// Cores of the last looks, as far back as utilisation is judged.
    busy: VecDeque<(u64, Vec<ObservedCore>)>,
    mean: Permille,
}

impl Steering {
    /// Nothing has been observed.
    pub fn new(limits: Limits, settings: Settings) -> Steering {
        let sizes = Sizes {
            functions_max: limits.functions_max,
            schedulers_max: 1,
            regions_max: 1,
            // The scheduler's, but for the one that is none.
            groups_max: (GROUPS_MAX - 1).min(limits.cores_max),
            workers_max: limits.cores_max,
            downstreams_max: DOWNSTREAMS_MAX,
        };
        // One scheduler says all there is in its first report: there is nobody else to listen to.
        let settings = Settings { listen: Duration::ZERO, ..settings };
        Steering {
            incarnation: 0,
            after_ns: 0,
            conductor: Conductor::new(settings, &sizes, 0),
            out: Effects::new(EFFECTS),
            seen: BTreeMap::new(),
            together: BTreeMap::new(),
            cores: BTreeSet::new(),
            busy: VecDeque::new(),
            mean: 0,
            settings,
            limits,
        }
    }

    /// After which instant a change is news: to be asked for, see [`call::admin::Ask::Observe`].
    pub fn after_ns(&self) -> u64 {
        self.after_ns
    }

    /// Looks at the node, and concludes.
    pub fn observe(&mut self, observed: &Observation) -> Conclusions {
        let mut conclusions = Conclusions { incarnation: observed.incarnation, ..Conclusions::default() };
        if observed.incarnation != self.incarnation {
            // Numbers and counts begin anew. What was not asked for from its beginning is asked for again.
            let is_whole = self.after_ns == 0;
            *self = Steering::new(self.limits.clone(), self.settings);
            self.incarnation = observed.incarnation;
            if !is_whole {
                return conclusions;
            }
        }
        let now = Instant(observed.at_ns);
        if self.after_ns == 0 {
            self.begin(now, observed);
        }
        self.after_ns = observed.at_ns;
        self.downstreams(now, observed);
        self.workers(now, observed);
        let fits = |of: &&ObservedFunction| (of.function as usize) < self.limits.functions_max;
        let functions: Vec<&ObservedFunction> = observed.functions.iter().filter(fits).collect();
        functions.into_iter().for_each(|function| self.function(now, function));
        self.turn(now, &mut conclusions);
        self.conclude(observed, &mut conclusions);
        conclusions
    }

    fn tell(&mut self, now: Instant, input: Input<'_>) {
        self.conductor.step(now, input, &mut self.out);
    }

    /// The first look at a node: goes on from what it holds.
    fn begin(&mut self, now: Instant, observed: &Observation) {
        self.tell(now, Input::Scheduler { scheduler: SCHEDULER, region: REGION });
        // Of the version of a controller's first word, at least: what functions have without any is kept, too.
        let Versioned { version, value } = observed.opportunistic;
        let s = Snapshot { version: version.max(1), value };
        self.tell(now, Input::Held(Held::Opportunistic(REGION, s)));
        let Versioned { version, value } = &observed.wanted;
        if *version > 0 {
            let workers = Snapshot { version: *version, value: value.cores };
            self.tell(now, Input::Held(Held::Workers(REGION, workers)));
        }
    }

    /// Thresholds. A service without one slows nobody down.
    fn downstreams(&mut self, now: Instant, observed: &Observation) {
        for (place, (_, threshold)) in observed.downstreams.iter().enumerate().take(DOWNSTREAMS_MAX) {
            let downstream = DownstreamRef(place as u16);
            let threshold_per_minute = threshold.unwrap_or(u64::MAX);
            self.tell(now, Input::Downstream { downstream, threshold_per_minute });
        }
    }

    /// Which cores are there, and how busy they were of late.
    fn workers(&mut self, now: Instant, observed: &Observation) {
        let fits = |of: &&ObservedCore| usize::from(of.core) < self.limits.cores_max;
        let cores: Vec<&ObservedCore> = observed.cores.iter().filter(fits).collect();
        let up: BTreeSet<u16> = cores.iter().map(|of| of.core).collect();
        for core in std::mem::replace(&mut self.cores, up.clone()).difference(&up) {
            self.tell(now, Input::WorkerGone { worker: WorkerRef((*core).into()) });
        }
        for of in cores {
            let worker = WorkerRef(of.core.into());
            self.tell(now, Input::Worker { worker, region: REGION });
            if of.group.version > self.conductor.locality().worker(worker).version {
                self.tell(now, Input::Held(Held::WorkerGroup(worker, group(of.group))));
            }
        }
        if let Some((since, before)) = self.busy.front() {
            self.mean = mean(before, &observed.cores, observed.at_ns - since).unwrap_or(self.mean);
            let workers = self.cores.len() as u32;
            let load = Input::Load {
                region: REGION,
                capacity: u64::from(workers) * CORE_MILLIS,
                workers,
                busy: self.mean,
            };
            self.conductor.step(now, load, &mut self.out);
        }
        self.busy.push_back((observed.at_ns, observed.cores.clone()));
        let is_old = |(at, _): &mut (u64, _)| {
            observed.at_ns - *at >= call::time::nanos(self.settings.utilization_period)
        };
        while self.busy.len() > 1 && self.busy.pop_front_if(is_old).is_some() {}
    }

    fn function(&mut self, now: Instant, of: &ObservedFunction) {
        let function = FunctionRef(of.function);
        if of.gone {
            self.seen.remove(&of.function);
            self.join(now, of.function, "");
            return self.tell(now, Input::Forget { function });
        }
        let before = self.seen.insert(of.function, of.clone());
        let needs = |of: &ObservedFunction| (of.cpu_millis, of.memory_bytes, of.opportunistic);
        if before.as_ref().map(needs) != Some(needs(of)) {
            let quota = (of.cpu_millis > 0).then_some(of.cpu_millis);
            let (memory, reserved) = (of.memory_bytes, !of.opportunistic);
            self.tell(now, Input::Function { function, quota, memory, reserved });
        }
        self.join(now, of.function, &of.together);
        self.uses(now, of, before.as_ref());
        // What happened before this process looked first is not its to judge.
        let Some(before) = before else { return self.resume(now, of) };
        let since = |count: fn(&ObservedFunction) -> u64| count(of).saturating_sub(count(&before));
        let calls = Calls {
            arrived: since(|of| of.begun.saturating_add(of.waiting)),
            began: since(|of| of.begun),
            ended: since(|of| of.ended),
            cpu_ns: since(|of| of.cpu_ns),
            waiting: of.waiting,
            running: of.begun.saturating_sub(of.ended),
        };
        self.tell(now, Input::Calls { function, scheduler: SCHEDULER, calls });
        for (service, total) in &of.pressed {
            let known =
                before.pressed.iter().find(|(known, _)| known == service).map_or(0, |(_, total)| *total);
            let (downstream, count) = (DownstreamRef(*service), total.saturating_sub(known));
            if count > 0 && usize::from(*service) < DOWNSTREAMS_MAX {
                self.tell(now, Input::PushedBack { function, downstream, count });
            }
        }
    }

    /// The services that a function uses, if they are others than before.
    fn uses(&mut self, now: Instant, of: &ObservedFunction, before: Option<&ObservedFunction>) {
        let function = FunctionRef(of.function);
        let services = |of: &ObservedFunction| -> Vec<u16> { of.pressed.iter().map(|used| used.0).collect() };
        if before.map(services).unwrap_or_default() == services(of) {
            return;
        }
        if before.is_some() {
            self.tell(now, Input::Unused { function });
        }
        for service in services(of).into_iter().filter(|service| usize::from(*service) < DOWNSTREAMS_MAX) {
            self.tell(now, Input::Uses { function, downstream: DownstreamRef(service) });
        }
    }

    /// A function is in the group that its manifest names, and in no other one; empty for none.
    fn join(&mut self, now: Instant, function: u32, name: &str) {
        let is_in = self.together.get(name).is_some_and(|members| members.contains(&function));
        let was = self.together.iter().find(|(_, members)| members.contains(&function));
        let was = was.map(|(name, _)| name.clone());
        if is_in || (was.is_none() && name.is_empty()) {
            return;
        }
        if let Some(was) = was {
            let members = self.together.get_mut(&was).expect("just found");
            members.remove(&function);
            self.lead(now, &was);
            self.tell(now, Input::Together { function: FunctionRef(function), with: None });
        }
        if !name.is_empty() {
            self.together.entry(name.into()).or_default().insert(function);
            self.lead(now, name);
        }
        self.together.retain(|_, members| !members.is_empty());
    }

    /// Has all functions of a group that manifests name follow the first of them.
    fn lead(&mut self, now: Instant, name: &str) {
        let members: Vec<u32> = self.together[name].iter().copied().collect();
        for function in &members {
            let with = members.first().filter(|first| *first != function).copied().map(FunctionRef);
            self.tell(now, Input::Together { function: FunctionRef(*function), with });
        }
    }

    /// A function is seen for the first time: goes on from what the node holds, and has learned of its calls.
    fn resume(&mut self, now: Instant, of: &ObservedFunction) {
        let function = FunctionRef(of.function);
        if let Some(mean_ns) = of.cpu_ns.checked_div(of.ended) {
            let mean = Duration::from_nanos(mean_ns.max(1));
            self.tell(now, Input::Held(Held::Mean(function, mean)));
        }
        if of.rate.version > 0 {
            self.tell(now, Input::Held(Held::Limit(function, SCHEDULER, held(of.rate))));
        }
        if of.limit.version > 0 {
            self.tell(now, Input::Held(Held::Throttle(function, held(of.limit))));
        }
        if of.group.version > 0 {
            self.tell(now, Input::Held(Held::Group(function, group(of.group))));
        }
    }

    /// Has the conductor decide. Most of what comes out is found again in what it has published; what is said once is
    /// kept here.
    fn turn(&mut self, now: Instant, into: &mut Conclusions) {
        loop {
            self.tell(now, Input::Turn);
            let is_full = self.out.is_full();
            for effect in self.out.drain() {
                match effect {
                    Effect::Prewarm(prewarm::Effect::Warm { function }) => into.warm.push(function.0),
                    Effect::Prewarm(prewarm::Effect::Release { function }) => into.release.push(function.0),
                    _ => {}
                }
            }
            if !is_full {
                return;
            }
        }
    }

    /// All that is newer than what the node holds.
    fn conclude(&mut self, observed: &Observation, into: &mut Conclusions) {
        let s = self.conductor.opportunistic(REGION);
        into.opportunistic = (s.version > observed.opportunistic.version).then_some(told(s));
        into.wanted = self.wanted(&observed.wanted);
        let locality = self.conductor.locality();
        let groups = |of: Snapshot<Option<GroupRef>>| Versioned {
            version: of.version,
            value: of.value.map(|group| group.0),
        };
        for of in observed.cores.iter().filter(|of| self.cores.contains(&of.core)) {
            let group = groups(locality.worker(WorkerRef(of.core.into())));
            into.cores.extend((group.version > of.group.version).then_some((of.core, group)));
        }
        for (key, of) in &self.seen {
            let function = FunctionRef(*key);
            let rate = told(self.conductor.rate().limit(function, SCHEDULER));
            let limit = told(self.conductor.aimd().limit(function));
            let group = groups(locality.function(function));
            into.rates.extend((rate.version > of.rate.version).then_some((*key, rate)));
            into.limits.extend((limit.version > of.limit.version).then_some((*key, limit)));
            into.groups.extend((group.version > of.group.version).then_some((*key, group)));
        }
    }

    /// Wanted cores, if they or the reason are others than the node holds.
    fn wanted(&self, held: &Versioned<Wanted>) -> Option<Versioned<Wanted>> {
        if self.cores.is_empty() || self.busy.len() < 2 {
            return None;
        }
        let autoscale = self.conductor.autoscale(REGION);
        let reason = match autoscale.reason() {
            Reason::InBand => "in-band",
            Reason::High => "high",
            Reason::Most => "most",
            Reason::Low => "low",
            Reason::Least => "least",
        };
        let wanted = Wanted {
            cores: autoscale.newest().value,
            reason: reason.into(),
            needed_millis: self.conductor.reserved(REGION),
            load: autoscale.load(),
        };
        let is_same = wanted.cores == held.value.cores
            && wanted.reason == held.value.reason
            && wanted.load.abs_diff(held.value.load) < LOAD_BAND;
        (!is_same).then(|| Versioned { version: held.version + 1, value: wanted })
    }
}

/// The part of their time that cores spent in functions, of those that are in both.
fn mean(before: &[ObservedCore], now: &[ObservedCore], elapsed_ns: u64) -> Option<Permille> {
    let known = |core: u16| before.iter().find(|of| of.core == core).map(|of| of.cpu_ns);
    let busy = now.iter().filter_map(|of| {
        let ran = of.cpu_ns.saturating_sub(known(of.core)?);
        Some((u128::from(ran) * 1000 / u128::from(elapsed_ns.max(1))).min(1000) as u32)
    });
    let (sum, count) = busy.fold((0, 0), |(sum, count), busy| (sum + busy, count + 1));
    u32::checked_div(sum, count)
}

fn told<T>(snapshot: Snapshot<T>) -> Versioned<T> {
    Versioned { version: snapshot.version, value: snapshot.value }
}

fn held<T>(said: Versioned<T>) -> Snapshot<T> {
    Snapshot { version: said.version, value: said.value }
}

fn group(said: Versioned<Option<u16>>) -> Snapshot<Option<GroupRef>> {
    Snapshot { version: said.version, value: said.value.map(GroupRef) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with one function that takes 10 ms of CPU a call, at 100 calls/s.
    fn at(second: u64, incarnation: u32) -> Observation {
        let calls = second * 100;
        let function = ObservedFunction {
            function: 3,
            cpu_millis: 500,
            begun: calls,
            ended: calls,
            cpu_ns: calls * 10_000_000,
            waiting: 1000,
            pressed: vec![(0, 0)],
            ..ObservedFunction::default()
        };
        Observation {
            incarnation,
            at_ns: second * 1_000_000_000,
            cores: vec![ObservedCore { core: 0, cpu_ns: second * 500_000_000, ..ObservedCore::default() }],
            functions: vec![function],
            downstreams: vec![("tao".into(), Some(60))],
            opportunistic: Versioned { version: 4, value: 500 },
            wanted: Versioned::default(),
        }
    }

    #[test]
    fn a_quota_of_cpu_becomes_calls_per_second() {
        let mut steering = Steering::new(Limits::small(), Settings::default());
        let mut rate = None;
        for second in 1..10 {
            let told = steering.observe(&at(second, 7));
            rate = told.rates.last().copied().or(rate);
            assert_eq!(told.incarnation, 7);
        }
        let (function, rate) = rate.expect("published");
        assert!(
            function == 3 && (45_000..=55_000).contains(&rate.value.unwrap()),
            "half a core / 10 ms: {rate:?}"
        );
    }

    #[test]
    fn back_pressure_above_the_threshold_limits_and_goes_on_from_what_the_node_holds() {
        let mut steering = Steering::new(Limits::small(), Settings::default());
        let pressed = |second: u64| {
            let mut observed = at(second, 7);
            observed.functions[0].pressed = vec![(0, second * 50)];
            observed
        };
        let limits: Vec<_> = (1..40).flat_map(|second| steering.observe(&pressed(second)).limits).collect();
        let last = limits.last().expect("limited").1;
        assert!(last.value.unwrap() < 100_000, "{limits:?}");
        // Another process: its first word is above the versions that the node holds.
        let mut steering = Steering::new(Limits::small(), Settings::default());
        let held = |second| {
            let mut observed = pressed(second);
            observed.functions[0].limit = last;
            observed
        };
        let next =
            (40..70).flat_map(|second| steering.observe(&held(second)).limits).next().expect("goes on");
        assert!(next.1.version > last.version && next.1.value < last.value, "{next:?} after {last:?}");
    }

    #[test]
    fn s_goes_on_from_what_the_node_holds() {
        let mut steering = Steering::new(Limits::small(), Settings::default());
        let told: Vec<_> =
            (1..25).filter_map(|second| steering.observe(&at(second, 7)).opportunistic).collect();
        let values: Vec<u32> = told.iter().map(|s| s.value).collect();
        assert!(
            values[0] > 500 && values.is_sorted(),
            "half busy: it rises, from what the node holds: {values:?}"
        );
        assert!(told[0].version > 4);
        // A node that started again: nothing is concluded from counts of two lives.
        assert_eq!(steering.observe(&at(1, 8)).opportunistic, None);
    }
}
