//! Each region's workers, divided into groups by CPU.

use super::Need;
use crate::words::{GroupRef, Permille, RegionRef, WorkerRef, permille, scale};

/// Thousandths of a worker by which one group is better off than another before a worker moves: then both are alike,
/// and none moves back.
const APART: i64 = 2000;

#[derive(Clone, Copy, Debug)]
struct Worker {
    region: Option<RegionRef>,
    group: Option<GroupRef>,
}

/// All workers.
#[derive(Debug)]
pub struct Pools {
    workers: Vec<Worker>,
    /// Workers of each region in each group, and behind those of all regions: workers of each region.
    counts: Vec<u32>,
    sizes: Vec<u32>,
    /// What a region's groups should have, in thousandths of a worker: used again for each region.
    due: Vec<u64>,
    /// So many groups have all they should have; none if workers came, went or changed their group since.
    settled: Option<usize>,
    /// Some worker's group has changed since it was asked last.
    changed: bool,
}

impl Pools {
    pub fn new(workers_max: usize, regions_max: usize, groups_max: usize) -> Pools {
        Pools {
            workers: vec![Worker { region: None, group: None }; workers_max],
            counts: vec![0; regions_max * groups_max],
            sizes: vec![0; regions_max],
            due: vec![0; groups_max],
            settled: None,
            changed: false,
        }
    }

    fn cell(&self, region: RegionRef, group: GroupRef) -> usize {
        usize::from(region.0) * self.due.len() + usize::from(group.0)
    }

    /// A worker is there; without a group, unless it was there before.
    pub fn up(&mut self, worker: WorkerRef, region: RegionRef) {
        if self.workers[worker.0 as usize].region == Some(region) {
            return;
        }
        self.down(worker);
        self.workers[worker.0 as usize].region = Some(region);
        self.sizes[usize::from(region.0)] += 1;
        self.settled = None;
    }

    /// A worker is gone, if it was there.
    pub fn down(&mut self, worker: WorkerRef) {
        self.assign(worker, None);
        if let Some(region) = self.workers[worker.0 as usize].region.take() {
            self.sizes[usize::from(region.0)] -= 1;
            self.settled = None;
        }
    }

    /// Moves a worker that is there.
    pub fn assign(&mut self, worker: WorkerRef, to: Option<GroupRef>) {
        let Worker { region: Some(region), group } = self.workers[worker.0 as usize] else { return };
        let to = to.filter(|group| usize::from(group.0) < self.due.len());
        if let Some(group) = group {
            let cell = self.cell(region, group);
            self.counts[cell] -= 1;
        }
        if let Some(group) = to {
            let cell = self.cell(region, group);
            self.counts[cell] += 1;
        }
        self.workers[worker.0 as usize].group = to;
        self.settled = None;
        self.changed |= group != to;
    }

    /// Workers of the largest region.
    pub fn largest(&self) -> usize {
        self.sizes.iter().max().map_or(0, |size| *size as usize)
    }

    /// Workers of a region in a group; none for those in no group.
    pub fn count(&self, region: RegionRef, group: Option<GroupRef>) -> u32 {
        match group {
            Some(group) => self.counts[self.cell(region, group)],
            None => {
                let row = usize::from(region.0) * self.due.len();
                let grouped: u32 = self.counts[row..row + self.due.len()].iter().sum();
                self.sizes[usize::from(region.0)] - grouped
            }
        }
    }

    /// The group of each worker, if one has changed since this was asked last.
    pub fn changed(&mut self) -> impl Iterator<Item = Option<GroupRef>> {
        let changed = std::mem::take(&mut self.changed);
        self.workers.iter().filter(move |_| changed).map(|worker| worker.group)
    }

    fn regions(&self) -> impl Iterator<Item = RegionRef> + use<> {
        (0..self.sizes.len() as u16).map(RegionRef)
    }

    /// Gives each worker that has no group in use the one that lacks most, and each group without workers one; in a
    /// region with fewer workers than groups, all serve all.
    pub fn settle(&mut self, needs: &[Need]) {
        let open = needs.len();
        if self.settled == Some(open) {
            return;
        }
        for region in self.regions() {
            let is_small = (self.sizes[usize::from(region.0)] as usize) < open;
            self.set_due(region, needs);
            for key in 0..self.workers.len() {
                let Worker { region: of, group } = self.workers[key];
                if of != Some(region) {
                    continue;
                }
                let worker = WorkerRef(key as u32);
                if is_small {
                    self.assign(worker, None);
                } else if group.is_none_or(|group| usize::from(group.0) >= open) {
                    let lacks = self.lacks_most(region, open);
                    self.assign(worker, Some(lacks));
                }
            }
            while let Some(group) = self.empty(region, open) {
                let rich = self.has_most(region, open);
                let worker = self.find(region, rich).expect("the group with most workers has one");
                self.assign(worker, Some(group));
            }
        }
        self.settled = Some(open);
    }

    /// A group in use without workers, in a region that has enough.
    fn empty(&self, region: RegionRef, open: usize) -> Option<GroupRef> {
        let is_large = self.sizes[usize::from(region.0)] as usize >= open;
        (0..open as u16).map(GroupRef).find(|group| is_large && self.counts[self.cell(region, *group)] == 0)
    }

    fn find(&self, region: RegionRef, group: GroupRef) -> Option<WorkerRef> {
        let is = |of: &Worker| of.region == Some(region) && of.group == Some(group);
        self.workers.iter().position(is).map(|key| WorkerRef(key as u32))
    }

    /// One worker for each group, and the rest by CPU.
    fn set_due(&mut self, region: RegionRef, needs: &[Need]) {
        let rest = u64::from(self.sizes[usize::from(region.0)]).saturating_sub(needs.len() as u64) * 1000;
        let cpu: u64 = needs.iter().map(|need| need.cpu).fold(0, u64::saturating_add);
        for (due, need) in self.due.iter_mut().zip(needs) {
            let share = if cpu == 0 { rest / needs.len() as u64 } else { scale(rest, need.cpu, cpu) };
            *due = 1000 + share;
        }
    }

    /// How many thousandths of a worker a group has above what it should; below zero, what it lacks.
    fn surplus(&self, region: RegionRef, group: GroupRef) -> i64 {
        let has = i64::from(self.counts[self.cell(region, group)]) * 1000;
        has - self.due[usize::from(group.0)] as i64
    }

    fn lacks_most(&self, region: RegionRef, open: usize) -> GroupRef {
        let groups = (0..open as u16).map(GroupRef);
        groups.min_by_key(|group| self.surplus(region, *group)).expect("one group at least is open")
    }

    fn has_most(&self, region: RegionRef, open: usize) -> GroupRef {
        let groups = (0..open as u16).map(GroupRef);
        let count = |group: &GroupRef| self.counts[self.cell(region, *group)];
        groups.max_by_key(count).expect("one group at least is open")
    }

    /// Moves workers from groups that have more than they should to the one that lacks most: no more than this part of a region's,
    /// one at least.
    pub fn balance(&mut self, needs: &[Need], most: Permille) {
        let settled = self.settled;
        for region in self.regions() {
            let size = u64::from(self.sizes[usize::from(region.0)]);
            if (size as usize) < needs.len() {
                continue;
            }
            self.set_due(region, needs);
            let mut left = permille(size, most).max(1);
            for key in 0..self.workers.len() {
                let Worker { region: of, group: Some(from) } = self.workers[key] else { continue };
                if of != Some(region) || left == 0 {
                    continue;
                }
                let to = self.lacks_most(region, needs.len());
                let apart = self.surplus(region, from) - self.surplus(region, to);
                if apart < APART || self.counts[self.cell(region, from)] == 1 {
                    continue;
                }
                self.assign(WorkerRef(key as u32), Some(to));
                left -= 1;
            }
        }
        self.settled = settled;
    }

    /// Panics if counts are wrong, or, when all is settled, if a group that should have a worker has none.
    pub fn check(&self, open: usize) {
        let (mut counts, mut sizes) = (vec![0; self.counts.len()], vec![0; self.sizes.len()]);
        for Worker { region, group } in &self.workers {
            assert!(region.is_some() || group.is_none(), "a worker that is gone has a group");
            if let Some(region) = region {
                sizes[usize::from(region.0)] += 1;
                group.iter().for_each(|group| counts[self.cell(*region, *group)] += 1);
            }
        }
        assert_eq!((&counts, &sizes), (&self.counts, &self.sizes), "workers are counted wrongly");
        for region in self.regions().filter(|_| self.settled == Some(open)) {
            assert_eq!(self.empty(region, open), None, "a group of {region:?} has no worker");
            let is_large = sizes[usize::from(region.0)] >= open as u32;
            let free = self.count(region, None);
            assert!(free == 0 || !is_large, "{free} workers of {region:?} have no group");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: RegionRef = RegionRef(0);

    fn settled(workers: u32) -> Pools {
        let mut pools = Pools::new(workers as usize, 1, 2);
        (0..workers).for_each(|at| pools.up(WorkerRef(at), REGION));
        pools.settle(&[Need { cpu: 300, ..Need::default() }, Need { cpu: 100, ..Need::default() }]);
        pools.check(2);
        pools
    }

    #[test]
    fn workers_follow_the_cpu_and_one_is_always_there() {
        let mut pools = settled(10);
        // Eight beyond one for each: six and two.
        let count = |pools: &Pools, group| pools.count(REGION, Some(GroupRef(group)));
        assert_eq!([count(&pools, 0), count(&pools, 1)], [7, 3]);
        let turned = [Need::default(), Need { cpu: 100, ..Need::default() }];
        pools.balance(&turned, 200);
        assert_eq!([count(&pools, 0), count(&pools, 1)], [5, 5], "two of ten a period");
        (0..9).for_each(|_| pools.balance(&turned, 200));
        assert_eq!([count(&pools, 0), count(&pools, 1)], [1, 9]);
        pools.check(2);
    }

    #[test]
    #[should_panic(expected = "a group of RegionRef(0) has no worker")]
    fn canary_workers() {
        let mut pools = settled(6);
        (0..6).for_each(|at| pools.assign(WorkerRef(at), Some(GroupRef(0))));
        pools.settled = Some(2);
        pools.check(2);
    }
}
