//! The controllers of each region: what they see, and what its scheduler hears of it.

use crate::plan::Plan;
use crate::region::Region;
use controllers::utilization::{Settings, Utilization};
use std::sync::MutexGuard;

/// A utilization controller per region.
#[derive(Debug)]
pub struct Shaping {
    utilization: Vec<Utilization>,
    period: u32,
}

impl Shaping {
    /// With so many pools by region.
    pub fn new(plan: &Plan, pools: &[usize]) -> Shaping {
        let control = &plan.scenario.control;
        let settings = Settings {
            target: control.target,
            overload: control.overload,
            step: control.step,
            most: control.most,
        };
        Shaping {
            utilization: pools.iter().map(|&pools| Utilization::new(settings, pools, 0)).collect(),
            period: plan.ticks(u64::from(control.period_s) * 1000),
        }
    }

    /// A window is over.
    pub fn window(&mut self, now: u32, regions: &mut [MutexGuard<'_, Region<'_>>]) {
        if !now.is_multiple_of(self.period) {
            return;
        }
        for (controller, region) in self.utilization.iter_mut().zip(regions.iter_mut()) {
            for pool in 0..region.pools.len() {
                controller.observe(pool, region.up.then(|| region.busy(pool)));
            }
            if let Some(snapshot) = controller.turn() {
                region.set_opportunistic(snapshot.value);
            }
        }
    }
}
