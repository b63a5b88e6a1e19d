//! The controllers of load: what they see, and what the schedulers hear of it.

use crate::plan::Plan;
use crate::region::{Region, instant};
use controllers::aimd::{self, Aimd};
use controllers::level::{self, Level};
use controllers::utilization::{Settings, Utilization};
use controllers::words::{DownstreamRef, Effects, FunctionRef};
use std::sync::MutexGuard;

/// A utilization controller per region; the level of the day, and AIMD, for the whole fleet.
#[derive(Debug)]
pub struct Shaping {
    utilization: Vec<Utilization>,
    level: Option<Level>,
    period: u32,
    aimd: Option<Aimd>,
    effects: Effects<aimd::Effect>,
    aimd_period: u32,
    /// Functions that use a service.
    users: Vec<u32>,
    /// Simulated calls of each function that began in this period.
    began: Vec<u64>,
}

impl Shaping {
    /// With so many pools by region.
    pub fn new(plan: &Plan, pools: &[usize]) -> Shaping {
        let control = &plan.scenario.control;
        let settings = Settings {
            target: control.target,
            ease: control.ease,
            overload: control.overload,
            step: control.step,
            most: control.most,
        };
        let users: Vec<u32> =
            (0..plan.functions.len() as u32).filter(|&at| service(plan, at).is_some()).collect();
        let period = aimd::Settings::default().period;
        Shaping {
            utilization: pools.iter().map(|&pools| Utilization::new(settings, pools, 0)).collect(),
            level: control.level.then(|| Level::new(level::Settings::default())),
            period: plan.ticks(u64::from(control.period_s) * 1000),
            aimd: (control.aimd && !users.is_empty()).then(|| watch(plan, &users)),
            effects: Effects::new(256),
            aimd_period: plan.ticks(period.as_millis() as u64),
            users,
            began: vec![0; plan.functions.len()],
        }
    }

    /// A window is over.
    pub fn window(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        self.back_pressure(now, regions);
        if let Some(level) = &mut self.level {
            let came = regions.iter().flat_map(|region| region.said.arrived_cpu).sum();
            level.came(instant(regions[0].plan(), now), came);
        }
        if !now.is_multiple_of(self.period) {
            return;
        }
        let pace = self.pace(now, regions);
        for (controller, region) in self.utilization.iter_mut().zip(regions.iter_mut()) {
            for pool in 0..region.pools.len() {
                let busy = region.busy(pool);
                controller.observe(pool, region.up.then_some(busy));
            }
            controller.pace(pace);
            if let Some(snapshot) = controller.turn() {
                region.set_opportunistic(snapshot.value);
            }
        }
    }

    /// The level of the day as a part of the regions that are there, if one is known.
    fn pace(&self, now: u32, regions: &[MutexGuard<'_, Region<'_>>]) -> Option<u32> {
        let waits = regions.iter().map(|region| region.waiting_cpu()).sum();
        let per_s = self.level.as_ref()?.level(instant(regions[0].plan(), now), waits)?;
        let capacity: u64 = regions.iter().map(|region| region.capacity()).sum();
        Some((per_s.saturating_mul(1000) / capacity.max(1)).min(1000) as u32)
    }

    /// What the utilization controllers aim at, per mille.
    pub fn target(&self) -> u32 {
        self.utilization.iter().map(Utilization::target).max().expect("one region at least")
    }

    /// What began and what services refused goes to AIMD, and its limits to all schedulers.
    fn back_pressure(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        let plan = regions[0].plan();
        let clock = instant(plan, now);
        for region in regions.iter_mut() {
            region.said.began.drain(..).for_each(|function| self.began[function as usize] += 1);
            for (function, count) in region.said.refused.drain(..) {
                let downstream = DownstreamRef(service(plan, function).expect("it was refused by one"));
                let function = FunctionRef(function);
                if let Some(aimd) = &mut self.aimd {
                    let input = aimd::Input::PushedBack { function, downstream, count };
                    aimd.step(clock, input, &mut self.effects);
                }
            }
        }
        let Some(aimd) = &mut self.aimd else { return };
        if !now.is_multiple_of(self.aimd_period) {
            return;
        }
        for &function in &self.users {
            let waiting = regions.iter().map(|region| region.waiting(function)).sum();
            let calls = std::mem::take(&mut self.began[function as usize]);
            let input = aimd::Input::Ran { function: FunctionRef(function), calls, waiting };
            aimd.step(clock, input, &mut self.effects);
        }
        loop {
            aimd.step(clock, aimd::Input::Turn, &mut self.effects);
            let full = self.effects.is_full();
            for aimd::Effect::Limit { function, limit } in self.effects.drain() {
                regions.iter_mut().for_each(|region| region.set_limit(function.0, limit.value));
            }
            if !full {
                return;
            }
        }
    }
}

fn service(plan: &Plan, function: u32) -> Option<u16> {
    plan.functions[function as usize].downstream
}

/// AIMD that knows the owners' thresholds and who uses what.
fn watch(plan: &Plan, users: &[u32]) -> Aimd {
    let services = plan.scenario.downstreams.len();
    // A simulated call stands for many: the least limit of one real call in ten seconds is far below one of them.
    let settings = aimd::Settings { least: 1, ..aimd::Settings::default() };
    let mut aimd = Aimd::new(settings, plan.functions.len(), services, 0);
    let mut none = Effects::new(1);
    let clock = instant(plan, 0);
    for (at, spec) in plan.scenario.downstreams.iter().enumerate() {
        let threshold_per_minute = u64::from(spec.threshold_per_min);
        let downstream = DownstreamRef(at as u16);
        aimd.step(clock, aimd::Input::Downstream { downstream, threshold_per_minute }, &mut none);
    }
    for &function in users {
        let downstream = DownstreamRef(service(plan, function).expect("a user uses one"));
        let uses = aimd::Input::Uses { function: FunctionRef(function), downstream };
        aimd.step(clock, uses, &mut none);
    }
    aimd
}
