//! What a region's workers hold in memory, and their groups.

use super::Region;
use controllers::words::GroupRef as Concluded;
use scheduler::{CoreRef, FunctionRef, GroupRef, Input};

/// A group as the scheduler numbers it: 0 is none.
fn scheduled(group: Option<Concluded>) -> GroupRef {
    group.map_or(GroupRef::NONE, |group| GroupRef(group.0 + 1))
}

impl Region<'_> {
    /// A function has another locality group.
    pub fn set_function_group(&mut self, function: u32, group: Option<Concluded>) {
        self.function_groups[function as usize] = scheduled(group);
        let policy = self.policy(function as usize);
        self.tell(Input::Policy { function: FunctionRef(function), policy });
    }

    /// A pool has another one.
    pub fn set_pool_group(&mut self, pool: u16, group: Option<Concluded>) {
        self.pool_groups[usize::from(pool)] = scheduled(group);
        self.tell(Input::Group { core: CoreRef(pool), group: scheduled(group) });
    }

    /// The group of a pool.
    pub fn pool_group(&self, pool: usize) -> Option<Concluded> {
        self.pool_groups[pool].0.checked_sub(1).map(Concluded)
    }

    /// A worker begins to install a new version: it takes no calls meanwhile.
    pub fn install(&mut self, now: u32, pool: usize, seeded: bool) {
        let Region { code, pools, function_groups, pool_groups, .. } = self;
        let code = code.as_mut().expect("a push is of workers that hold code");
        code.install(now, pool, seeded, |function| runs(function_groups, pool_groups[pool], function));
        pools[pool].up = false;
    }

    /// A worker that serves the new version gets its group's profile.
    pub fn seed(&mut self, now: u32, pool: usize) {
        let Region { code, function_groups, pool_groups, .. } = self;
        let code = code.as_mut().expect("a push is of workers that hold code");
        code.seed(now, pool, |function| runs(function_groups, pool_groups[pool], function));
    }

    /// Workers that serve the new version now.
    pub fn installed(&mut self, now: u32) -> Vec<usize> {
        let done = self.code.as_mut().map_or(Vec::new(), |code| code.installed(now));
        for &pool in &done {
            (self.pools[pool].up, self.pools[pool].changed) = (true, true);
        }
        done
    }

    /// Looks at memory each minute, at different functions each hour, and during a push at rates each second.
    pub(super) fn account_code(&mut self, now: u32) {
        let Some(code) = &mut self.code else { return };
        let every = |ms: u64| self.plan.ms(now + 1).is_multiple_of(ms);
        let mut ignored = Vec::new();
        let measured = self.plan.is_measured(now);
        if every(60_000) {
            let memory_mb = f64::from(self.plan.scenario.fleet.worker_memory_mb);
            let calls_mb = |worker: usize| self.pools[worker].held_mb as f64;
            code.sweep(
                now,
                memory_mb,
                calls_mb,
                if measured { &mut self.record.memory_mb } else { &mut ignored },
            );
        }
        if every(3_600_000) {
            code.end_hour(if measured { &mut self.record.distinct } else { &mut ignored });
        }
        if self.plan.scenario.code.compiled && every(1000) {
            let mut sum = 0;
            for pool in 0..self.pools.len() {
                let group = self.pool_groups[pool];
                let rate = code.rate(now, pool, |function| runs(&self.function_groups, group, function));
                if let Some(ticks) = code.is_full(now, pool, rate) {
                    self.record.full_rate_ms.push(self.plan.ms(ticks));
                }
                sum += u64::from(rate);
            }
            self.point.rate = sum / self.pools.len() as u64;
            if measured {
                self.record.rate_least = self.record.rate_least.min(self.point.rate as u32);
            }
        }
    }
}

/// Whether a worker of a group runs a function.
fn runs(function_groups: &[GroupRef], group: GroupRef, function: u32) -> bool {
    group == GroupRef::NONE || [GroupRef::NONE, group].contains(&function_groups[function as usize])
}
