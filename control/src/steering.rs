//! The controllers' process, without its I/O: the node's observations go in, conclusions for it come out.
//!
//! Off the path. Each observation counts from the node's start, so that one that is lost costs nothing; what the node
//! holds comes back with it, so that a process that was started again goes on from there.

use call::Instant;
use call::admin::{Conclusions, Observation, ObservedFunction, Versioned};
use call::limits::Limits;
use controllers::aimd::{self, Aimd};
use controllers::rate::{self, Rates};
use controllers::{DownstreamRef, Effects, FunctionRef, SchedulerRef, Snapshot, Utilization};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often the node is asked: with a period of the rate limiter it is less than the two seconds in which a changed
/// quota is to be in force.
pub const PERIOD: Duration = Duration::from_millis(500);
/// The utilization controller's period: long against one call, short against the swings of a day.
const UTILIZATION_PERIOD_NS: u64 = 10_000_000_000;
/// Services that functions may use, in all.
const DOWNSTREAMS_MAX: usize = 4096;
/// Conclusions of one turn.
const EFFECTS: usize = 1024;
/// A node has one scheduler.
const SCHEDULER: SchedulerRef = SchedulerRef(0);

/// All controllers of one node.
pub struct Steering {
    limits: Limits,
    incarnation: u32,
    /// Of the last observation, by number.
    seen: BTreeMap<u32, ObservedFunction>,
    rates: Rates,
    aimd: Aimd,
    utilization: Utilization,
    /// CPU time per core at the end of the last period, and when that was.
    cores: BTreeMap<u16, u64>,
    cores_at: Option<u64>,
    rate_effects: Effects<rate::Effect>,
    aimd_effects: Effects<aimd::Effect>,
}

impl Steering {
    /// Nothing has been observed.
    pub fn new(limits: Limits) -> Steering {
        let (functions, cores) = (limits.functions_max, limits.cores_max);
        Steering {
            incarnation: 0,
            seen: BTreeMap::new(),
            rates: Rates::new(rate::Settings::default(), functions, 1, 0),
            aimd: Aimd::new(aimd::Settings::default(), functions, DOWNSTREAMS_MAX, 0),
            utilization: Utilization::new(controllers::Settings::default(), cores, 0),
            cores: BTreeMap::new(),
            cores_at: None,
            rate_effects: Effects::new(EFFECTS),
            aimd_effects: Effects::new(EFFECTS),
            limits,
        }
    }

    /// Looks at the node, and concludes.
    pub fn observe(&mut self, observed: &Observation) -> Conclusions {
        if observed.incarnation != self.incarnation {
            // Numbers and counts begin anew.
            *self = Steering::new(self.limits.clone());
            self.incarnation = observed.incarnation;
            let up = rate::Input::SchedulerUp { scheduler: SCHEDULER };
            self.rates.step(Instant(observed.at_ns), up, &mut self.rate_effects);
        }
        let now = Instant(observed.at_ns);
        self.downstreams(now, observed);
        let fits = |of: &&ObservedFunction| (of.function as usize) < self.limits.functions_max;
        let functions: Vec<&ObservedFunction> = observed.functions.iter().filter(fits).collect();
        for function in functions {
            self.function(now, function);
        }
        let mut conclusions = Conclusions { incarnation: self.incarnation, ..Conclusions::default() };
        self.rates.step(now, rate::Input::Turn, &mut self.rate_effects);
        for rate::Effect::Limit { function, limit, .. } in self.rate_effects.drain() {
            conclusions.rates.push((function.0, told(limit)));
        }
        self.aimd.step(now, aimd::Input::Turn, &mut self.aimd_effects);
        for aimd::Effect::Limit { function, limit } in self.aimd_effects.drain() {
            conclusions.limits.push((function.0, told(limit)));
        }
        conclusions.opportunistic = self.utilization(observed);
        conclusions
    }

    /// Thresholds. A service without one slows nobody down.
    fn downstreams(&mut self, now: Instant, observed: &Observation) {
        for (place, (_, threshold)) in observed.downstreams.iter().enumerate().take(DOWNSTREAMS_MAX) {
            let downstream = DownstreamRef(place as u16);
            let threshold_per_minute = threshold.unwrap_or(u64::MAX);
            let said = aimd::Input::Downstream { downstream, threshold_per_minute };
            self.aimd.step(now, said, &mut self.aimd_effects);
        }
    }

    fn function(&mut self, now: Instant, of: &ObservedFunction) {
        let function = FunctionRef(of.function);
        let before = self.seen.insert(of.function, of.clone());
        let services: Vec<u16> = of.pressed.iter().map(|(service, _)| *service).collect();
        let is_same =
            before.as_ref().is_some_and(|before| before.pressed.iter().map(|(s, _)| *s).eq(services));
        if before.is_some() && !is_same {
            self.aimd.step(now, aimd::Input::Forget { function }, &mut self.aimd_effects);
        }
        for (service, _) in of.pressed.iter().filter(|_| !is_same) {
            let downstream = DownstreamRef(*service);
            self.aimd.step(now, aimd::Input::Uses { function, downstream }, &mut self.aimd_effects);
        }
        // What happened before this process looked first is not its to judge.
        let Some(before) = before else { return self.resume(now, of) };
        let cpu = (of.cpu_millis > 0).then_some(of.cpu_millis);
        let begun = of.begun.saturating_sub(before.begun);
        let (calls, cpu_ns) =
            (of.ended.saturating_sub(before.ended), of.cpu_ns.saturating_sub(before.cpu_ns));
        let waiting = of.waiting;
        for input in [
            rate::Input::Quota { function, cpu },
            rate::Input::Ran { function, scheduler: SCHEDULER, calls, cpu_ns, waiting },
        ] {
            self.rates.step(now, input, &mut self.rate_effects);
        }
        self.aimd.step(now, aimd::Input::Ran { function, calls: begun, waiting }, &mut self.aimd_effects);
        for (service, total) in &of.pressed {
            let known =
                before.pressed.iter().find(|(known, _)| known == service).map_or(0, |(_, total)| *total);
            let (downstream, count) = (DownstreamRef(*service), total.saturating_sub(known));
            if count > 0 {
                let pushed = aimd::Input::PushedBack { function, downstream, count };
                self.aimd.step(now, pushed, &mut self.aimd_effects);
            }
        }
    }

    /// A function is seen for the first time: goes on from what the node holds, and has learned of its calls.
    fn resume(&mut self, now: Instant, of: &ObservedFunction) {
        let function = FunctionRef(of.function);
        let cpu = (of.cpu_millis > 0).then_some(of.cpu_millis);
        self.rates.step(now, rate::Input::Quota { function, cpu }, &mut self.rate_effects);
        if let Some(mean_ns) = of.cpu_ns.checked_div(of.ended) {
            let mean = Duration::from_nanos(mean_ns.max(1));
            self.rates.step(now, rate::Input::Learned { function, mean }, &mut self.rate_effects);
        }
        if of.rate.version > 0 {
            let held = rate::Input::Held { function, scheduler: SCHEDULER, limit: held(of.rate) };
            self.rates.step(now, held, &mut self.rate_effects);
        }
        if of.limit.version > 0 {
            let held = aimd::Input::Held { function, limit: held(of.limit) };
            self.aimd.step(now, held, &mut self.aimd_effects);
        }
    }

    /// S, once a period.
    fn utilization(&mut self, observed: &Observation) -> Option<Versioned<u32>> {
        let since = *self.cores_at.get_or_insert_with(|| {
            // The first look: nothing is known of a period yet.
            self.cores = observed.cores.iter().map(|core| (core.core, core.cpu_ns)).collect();
            // Of the version of a controller's first word, at least: what functions have without any is kept, too.
            let Versioned { version, value } = observed.opportunistic;
            self.utilization.resume(&Snapshot { version: version.max(1), value });
            observed.at_ns
        });
        let elapsed = observed.at_ns.saturating_sub(since);
        if elapsed < UTILIZATION_PERIOD_NS {
            return None;
        }
        let now: BTreeMap<u16, u64> = observed.cores.iter().map(|core| (core.core, core.cpu_ns)).collect();
        for core in 0..self.limits.cores_max as u16 {
            let busy = now.get(&core).zip(self.cores.get(&core)).map(|(now, before)| {
                (u128::from(now.saturating_sub(*before)) * 1000 / u128::from(elapsed)).min(1000) as u32
            });
            self.utilization.observe(usize::from(core), busy);
        }
        (self.cores, self.cores_at) = (now, Some(observed.at_ns));
        self.utilization.turn().map(told)
    }
}

fn told<T>(snapshot: Snapshot<T>) -> Versioned<T> {
    Versioned { version: snapshot.version, value: snapshot.value }
}

fn held<T>(said: Versioned<T>) -> Snapshot<T> {
    Snapshot { version: said.version, value: said.value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use call::admin::ObservedCore;

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
            cores: vec![ObservedCore { core: 0, cpu_ns: second * 500_000_000 }],
            functions: vec![function],
            downstreams: vec![("tao".into(), Some(60))],
            opportunistic: Versioned { version: 4, value: 500 },
        }
    }

    #[test]
    fn a_quota_of_cpu_becomes_calls_per_second() {
        let mut steering = Steering::new(Limits::small());
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
        let mut steering = Steering::new(Limits::small());
        let pressed = |second: u64| {
            let mut observed = at(second, 7);
            observed.functions[0].pressed = vec![(0, second * 50)];
            observed
        };
        let limits: Vec<_> = (1..40).flat_map(|second| steering.observe(&pressed(second)).limits).collect();
        let last = limits.last().expect("limited").1;
        assert!(last.value.unwrap() < 100_000, "{limits:?}");
        // Another process: its first word is above the versions that the node holds.
        let mut steering = Steering::new(Limits::small());
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
        let mut steering = Steering::new(Limits::small());
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
