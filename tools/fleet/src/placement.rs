//! Where functions run and which version: the locality optimizer and the push controller at work.

use crate::plan::Plan;
use crate::region::{Region, instant};
use crate::workload::Function;
use controllers::locality::{self, Locality};
use controllers::push::{self, Push};
use controllers::words::{Effects, FunctionRef, GroupRef, RegionRef, WorkerRef};
use std::sync::MutexGuard;
use std::time::Duration;

/// Pools of a region, at most: a scheduler's cores.
const POOLS: u32 = 256;
/// M instructions a second of a thread, by which CPU becomes millicores.
const THREAD_MIPS: f64 = 3000.0;
const MB: f64 = 1e6;

/// The optimizer for all regions, and a push in each.
#[derive(Debug)]
pub struct Placement {
    locality: Option<Locality>,
    located: Effects<locality::Effect>,
    push: Option<Pushes>,
    period: u32,
}

/// A push controller per region, and the profiles that are being taken.
#[derive(Debug)]
struct Pushes {
    at: u32,
    all: Vec<Push>,
    effects: Effects<push::Effect>,
    /// When a profile is complete: region, group.
    profiles: Vec<(u32, usize, Option<GroupRef>)>,
    profiling: u32,
    cooperative: bool,
}

impl Placement {
    /// Workers are there; nothing is placed yet.
    pub fn new(plan: &Plan, pools: &[usize]) -> Placement {
        let groups = plan.scenario.code.groups as usize;
        let mut placement = Placement {
            locality: (groups > 1).then(|| optimizer(plan, groups, pools)),
            located: Effects::new(1024),
            push: None,
            period: plan.ticks(1000),
        };
        if let Some(at_h) = plan.scenario.code.push_at_h {
            placement.push = Some(Pushes::new(plan, plan.tick_at(at_h), groups, pools));
        }
        placement
    }

    /// A window is over.
    pub fn window(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        if !now.is_multiple_of(self.period) {
            return;
        }
        let clock = instant(regions[0].plan(), now);
        if let Some(locality) = &mut self.locality {
            loop {
                locality.step(clock, locality::Input::Turn, &mut self.located);
                let full = self.located.is_full();
                for effect in self.located.drain() {
                    match effect {
                        locality::Effect::Function { function, group } => {
                            regions
                                .iter_mut()
                                .for_each(|region| region.set_function_group(function.0, group.value));
                        }
                        locality::Effect::Worker { worker, group } => {
                            let (region, pool) = (worker.0 / POOLS, worker.0 % POOLS);
                            regions[region as usize].set_pool_group(pool as u16, group.value);
                        }
                    }
                }
                if !full {
                    break;
                }
            }
        }
        if let Some(push) = &mut self.push {
            push.window(now, regions);
        }
    }
}

/// The optimizer, which knows all workers, and all functions but the widest ones.
///
/// A function whose calls alone would fill the workers of a group is in none: each worker has its code, and its calls
/// lie evenly on all. In a group it would fill that group's memory while others have room.
fn optimizer(plan: &Plan, groups: usize, pools: &[usize]) -> Locality {
    let workers = pools.len() * POOLS as usize;
    let settings = locality::Settings::default();
    let mut locality = Locality::new(settings, plan.functions.len(), workers, pools.len(), groups, 0);
    let (clock, mut none) = (instant(plan, 0), Effects::new(1));
    let group_workers = pools.iter().sum::<usize>() as f64 / groups as f64;
    for (at, of) in plan.functions.iter().enumerate() {
        if workers_filled(plan, of) > group_workers {
            continue;
        }
        // What a worker of its group spends on it: its code, and its part of the calls that run.
        let calls_mb = of.calls_per_s * of.run_s * of.memory_mb / group_workers;
        let memory = ((plan.scenario.code.code_mb + calls_mb) * MB) as u64;
        let cpu = (of.demand() / THREAD_MIPS * 1000.0) as u64 + 1;
        let function = FunctionRef(at as u32);
        locality.step(clock, locality::Input::Function { function, memory, cpu }, &mut none);
    }
    for (region, &count) in pools.iter().enumerate() {
        for pool in 0..count as u32 {
            let worker = WorkerRef(region as u32 * POOLS + pool);
            let region = RegionRef(region as u16);
            locality.step(clock, locality::Input::Worker { worker, region }, &mut none);
        }
    }
    locality
}

/// How many workers the calls of a function fill on average, by CPU or by memory, whichever is more (the dominant share
/// of Ghodsi et al., NSDI 2011).
fn workers_filled(plan: &Plan, of: &Function) -> f64 {
    let fleet = &plan.scenario.fleet;
    let cpu = of.demand() / f64::from(fleet.worker_mips);
    let for_calls_mb = f64::from(fleet.worker_memory_mb) - fleet.base_memory_mb;
    cpu.max(of.calls_per_s * of.run_s * of.memory_mb / for_calls_mb.max(1.0))
}

impl Pushes {
    fn new(plan: &Plan, at: u32, groups: usize, pools: &[usize]) -> Pushes {
        let code = &plan.scenario.code;
        let mut settings = push::Settings::default();
        if !code.cooperative {
            // There will be none: nobody waits for a profile.
            settings.profile_most = Duration::ZERO;
        }
        let (clock, mut none) = (instant(plan, 0), Effects::new(1));
        let one = |count: &usize| {
            let mut push = Push::new(settings, *count, groups, 0);
            for worker in (0..*count as u32).map(WorkerRef) {
                push.step(clock, push::Input::Worker { worker, group: None }, &mut none);
            }
            push
        };
        Pushes {
            at,
            all: pools.iter().map(one).collect(),
            effects: Effects::new(POOLS as usize),
            profiles: Vec::new(),
            profiling: plan.ticks((code.profile_s * 1000.0) as u64),
            cooperative: code.cooperative,
        }
    }

    fn window(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        if now < self.at {
            return;
        }
        let clock = instant(regions[0].plan(), now);
        for (at, (push, region)) in self.all.iter_mut().zip(regions.iter_mut()).enumerate() {
            let mut tell = |input| push.step(clock, input, &mut self.effects);
            for pool in 0..region.pools.len() {
                let (worker, group) = (WorkerRef(pool as u32), region.pool_group(pool));
                tell(push::Input::Worker { worker, group });
            }
            if push.newest().value.pushed == 0 {
                push.step(clock, push::Input::Push { version: 1 }, &mut self.effects);
            }
            for pool in region.installed(now) {
                let worker = WorkerRef(pool as u32);
                push.step(clock, push::Input::Installed { worker, version: 1 }, &mut self.effects);
            }
            for &(_, _, group) in self.profiles.iter().filter(|(done, of, _)| *done <= now && *of == at) {
                push.step(clock, push::Input::Profiled { group, version: 1 }, &mut self.effects);
            }
            self.profiles.retain(|(done, of, _)| *done > now || *of != at);
            push.step(clock, push::Input::Turn, &mut self.effects);
            for effect in self.effects.drain() {
                match effect {
                    push::Effect::Install { worker, seeded, .. } => {
                        region.install(now, worker.0 as usize, seeded);
                    }
                    push::Effect::Seed { worker, .. } => region.seed(now, worker.0 as usize),
                    push::Effect::Profile { worker, .. } if self.cooperative => {
                        let group = region.pool_group(worker.0 as usize);
                        self.profiles.push((now + self.profiling, at, group));
                    }
                    push::Effect::Profile { .. } | push::Effect::Release(_) => {}
                }
            }
        }
    }
}
