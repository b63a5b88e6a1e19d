//! Demand and supply per region and group, from what schedulers report of functions.

use super::Sizes;
use crate::locality::Locality;
use crate::rate::Rates;
use crate::words::{FunctionRef, GroupRef, Millicores, Pace, RegionRef, SchedulerRef, scale};
use call::Instant;
use call::time::nanos;
use std::time::Duration;

/// What a function's calls need, as one scheduler's region sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Calls that arrived since the last period ended.
    arrived: u64,
    waiting: u64,
}

/// The sums.
#[derive(Debug)]
pub struct Demand {
    pace: Pace,
    drain: Duration,
    groups: usize,
    regions: Vec<Option<RegionRef>>,
    /// By function, then scheduler.
    seen: Vec<Seen>,
    /// CPU of the calls that come, of each function; fading.
    cpu: Vec<Millicores>,
    /// CPU of the calls that come, by region, then group; fading. And of those that wait.
    arriving: Vec<Millicores>,
    new: Vec<Millicores>,
    waiting: Vec<Millicores>,
    /// The sum of both over all regions, by group.
    of_group: Vec<Millicores>,
    /// Functions whose calls are promised to start within seconds, and what those need, by region.
    is_reserved: Vec<bool>,
    reserved: Vec<Reserved>,
}

/// CPU of the calls that may not wait.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    /// That come; fading.
    arriving: Millicores,
    /// That came in this period.
    new: Millicores,
    /// That wait.
    waiting: Millicores,
}

/// What a new period counts beside all before it: half, and the rest of a change is in after some periods.
fn fade(before: Millicores, new: Millicores) -> Millicores {
    before / 2 + before % 2 * u64::from(new > 0) + new / 2
}

impl Demand {
    pub fn new(sizes: &Sizes, period: Duration, drain: Duration) -> Demand {
        assert!(!drain.is_zero(), "a backlog that should be gone at once is more than all capacity");
        let cells = sizes.regions_max * sizes.groups_max;
        Demand {
            pace: Pace::new(period),
            drain,
            groups: sizes.groups_max,
            regions: vec![None; sizes.schedulers_max],
            seen: vec![Seen::default(); sizes.functions_max * sizes.schedulers_max],
            cpu: vec![0; sizes.functions_max],
            arriving: vec![0; cells],
            new: vec![0; cells],
            waiting: vec![0; cells],
            of_group: vec![0; sizes.groups_max],
            is_reserved: vec![true; sizes.functions_max],
            reserved: vec![Reserved::default(); sizes.regions_max],
        }
    }

    pub fn set_reserved(&mut self, function: FunctionRef, reserved: bool) {
        self.is_reserved[function.0 as usize] = reserved;
    }

    pub fn set_region(&mut self, scheduler: SchedulerRef, region: Option<RegionRef>) {
        self.regions[usize::from(scheduler.0)] = region;
    }

    fn row(&self, function: FunctionRef) -> std::ops::Range<usize> {
        let start = function.0 as usize * self.regions.len();
        start..start + self.regions.len()
    }

    pub fn forget(&mut self, function: FunctionRef) {
        let row = self.row(function);
        self.seen[row].fill(Seen::default());
        self.cpu[function.0 as usize] = 0;
    }

    /// Takes a report in. How many calls of the function wait anywhere.
    pub fn report(&mut self, function: FunctionRef, by: SchedulerRef, arrived: u64, waiting: u64) -> u64 {
        let row = self.row(function);
        let seen = &mut self.seen[row.start + usize::from(by.0)];
        *seen = Seen { arrived: seen.arrived.saturating_add(arrived), waiting };
        self.seen[row].iter().map(|seen| seen.waiting).fold(0, u64::saturating_add)
    }

    /// CPU of all calls of a function that come.
    pub fn cpu_of(&self, function: FunctionRef) -> Millicores {
        self.cpu[function.0 as usize]
    }

    /// Sums up, if a period is over; says whether it was.
    pub fn settle(&mut self, now: Instant, rates: &Rates, locality: &Locality) -> bool {
        let Some(elapsed) = self.pace.over(now) else { return false };
        self.new.fill(0);
        self.waiting.fill(0);
        self.reserved.iter_mut().for_each(|of| (of.new, of.waiting) = (0, 0));
        for key in 0..self.cpu.len() {
            let function = FunctionRef(key as u32);
            let (mean, group) = (nanos(rates.mean(function)), locality.group(function));
            let (row, mut all) = (self.row(function), 0u64);
            for (by, cell) in row.enumerate() {
                let Seen { arrived, waiting } = self.seen[cell];
                self.seen[cell].arrived = 0;
                // CPU nanoseconds, then thousandths of a core over this time.
                let cpu = |calls: u64, over| scale(calls.saturating_mul(mean), 1000, nanos(over));
                let coming = cpu(arrived, elapsed);
                all = all.saturating_add(coming);
                if let (Some(region), Some(group)) = (self.regions[by], group) {
                    let cell = usize::from(region.0) * self.groups + usize::from(group.0);
                    self.new[cell] = self.new[cell].saturating_add(coming);
                    let waiting = cpu(waiting, self.drain);
                    self.waiting[cell] = self.waiting[cell].saturating_add(waiting);
                    if self.is_reserved[key] {
                        let of = &mut self.reserved[usize::from(region.0)];
                        of.new = of.new.saturating_add(coming);
                        of.waiting = of.waiting.saturating_add(waiting);
                    }
                }
            }
            self.cpu[key] = fade(self.cpu[key], all);
        }
        self.reserved.iter_mut().for_each(|of| of.arriving = fade(of.arriving, of.new));
        self.of_group.fill(0);
        for (cell, arriving) in self.arriving.iter_mut().enumerate() {
            *arriving = fade(*arriving, self.new[cell]);
            let of = &mut self.of_group[cell % self.groups];
            *of = of.saturating_add(*arriving).saturating_add(self.waiting[cell]);
        }
        true
    }

    /// What calls in a region's queues need, of one group.
    pub fn work(&self, region: RegionRef, group: GroupRef) -> Millicores {
        let cell = usize::from(region.0) * self.groups + usize::from(group.0);
        self.arriving[cell].saturating_add(self.waiting[cell])
    }

    /// What calls in a region's queues need that may not wait.
    pub fn reserved(&self, region: RegionRef) -> Millicores {
        let Reserved { arriving, waiting, .. } = self.reserved[usize::from(region.0)];
        arriving.saturating_add(waiting)
    }

    /// What a region can do for a group: its workers there, and of those that serve all groups the part that the group
    /// has of all demand. Never nothing, if the region has anything.
    pub fn supply(
        &self,
        of: &Locality,
        region: RegionRef,
        group: GroupRef,
        capacity: Millicores,
    ) -> Millicores {
        let open = of.open() as u16;
        let own = u64::from(of.workers(region, Some(group)));
        let free = u64::from(of.workers(region, None));
        let grouped: u64 = (0..open).map(|group| u64::from(of.workers(region, Some(GroupRef(group))))).sum();
        // A region of which no worker is known has one that serves all.
        let free = if grouped + free == 0 { 1 } else { free };
        let shared = scale(capacity, free, grouped + free);
        let all: u64 = self.of_group[..usize::from(open)].iter().fold(0, |sum, of| sum.saturating_add(*of));
        let part = match all {
            0 => shared / u64::from(open),
            all => scale(shared, self.of_group[usize::from(group.0)], all),
        };
        let supply = scale(capacity, own, grouped + free) + part;
        supply.max(u64::from(capacity > 0))
    }
}
