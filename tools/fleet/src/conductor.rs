//! The Global Traffic Conductor at work: what regions tell it, and the pulls that follow from its matrix.

use crate::plan::Plan;
use crate::region::{GROUPS, Message, Region, instant};
use controllers::gtc::{Gtc, Input, RegionState, Settings};
use controllers::words::{Effects, GroupRef, RegionRef};
use std::sync::MutexGuard;

/// Seconds in which a backlog should be gone, by group: what makes it a demand. Opportunistic work may take an hour of
/// its day, reserved work seconds.
const DRAIN_S: [u64; GROUPS] = [3600, 10];
/// Windows over which arrivals are averaged, by group: a burst of seconds is no reason to move opportunistic work.
const SMOOTH: [u64; GROUPS] = [256, 16];

/// The controller, and the pulls between all pairs of regions.
#[derive(Debug)]
pub struct Conductor {
    gtc: Gtc,
    effects: Effects<controllers::gtc::Effect>,
    full: u64,
    window_ms: u64,
    window_ticks: u32,
    /// CPU that comes, M instructions a second times [`SMOOTH`], by region and group.
    arriving: Vec<[u64; GROUPS]>,
    /// CPU that a region may still pull from another, M instructions, by both and group.
    owed: Vec<[i64; GROUPS]>,
    /// Whether the queues of a region can be reached, and whether it works.
    reachable: Vec<bool>,
    working: Vec<bool>,
    count: usize,
}

impl Conductor {
    /// Regions on a ring: a distance of one step to each side, and so on.
    pub fn new(plan: &Plan) -> Conductor {
        let count = plan.streams.len();
        let settings = Settings::default();
        let mut conductor = Conductor {
            gtc: Gtc::new(settings, count, GROUPS, 0),
            effects: Effects::new(4),
            full: u64::from(settings.full),
            window_ms: plan.ms(plan.scenario.time.window_ticks),
            window_ticks: plan.scenario.time.window_ticks,
            arriving: vec![[0; GROUPS]; count],
            owed: vec![[0; GROUPS]; count * count],
            reachable: vec![true; count],
            working: vec![true; count],
            count,
        };
        for a in 0..count as u16 {
            conductor.tell(plan, 0, Input::Region { region: RegionRef(a), state: RegionState::Up });
            for b in 0..a {
                let steps = conductor.distance(a, b);
                let distance = Input::Distance { a: RegionRef(a), b: RegionRef(b), distance: steps };
                conductor.tell(plan, 0, distance);
            }
        }
        conductor
    }

    fn tell(&mut self, plan: &Plan, now: u32, input: Input<'_>) {
        self.gtc.step(instant(plan, now), input, &mut self.effects);
    }

    fn distance(&self, a: u16, b: u16) -> u32 {
        let apart = u32::from(a.abs_diff(b));
        apart.min(self.count as u32 - apart)
    }

    /// The nearest region that works.
    pub fn nearest(&self, to: u16) -> u16 {
        let others = (0..self.count as u16).filter(|&at| at != to && self.working[usize::from(at)]);
        others.min_by_key(|&at| (self.distance(at, to), at)).unwrap_or(to)
    }

    /// A region is lost, or back.
    pub fn region(&mut self, region: u16, works: bool, reachable: bool) {
        self.working[usize::from(region)] = works;
        self.reachable[usize::from(region)] = works || reachable;
    }

    /// What the controller hears, and its decision. `target`, per mille, is what the utilization controllers aim at:
    /// what is left below it is for opportunistic work.
    pub fn turn(&mut self, now: u32, target: u32, regions: &[MutexGuard<'_, Region<'_>>]) {
        let plan = regions[0].plan();
        for (at, of) in regions.iter().enumerate() {
            let region = RegionRef(at as u16);
            let state = match (self.working[at], self.reachable[at]) {
                (true, _) => RegionState::Up,
                (false, true) => RegionState::Draining,
                (false, false) => RegionState::Failed,
            };
            if self.gtc.state(region) != state {
                self.tell(plan, now, Input::Region { region, state });
            }
            let demand = self.demand(at, of);
            let capacity = of.capacity();
            let left = (capacity * u64::from(target) / 1000).saturating_sub(demand[1]);
            // The controller calls a region full at `full` of the supply that it hears of.
            let supply = [left * 1000 / self.full, capacity];
            for group in 0..GROUPS {
                let (work, capacity) = (demand[group], supply[group]);
                let group = GroupRef(group as u16);
                self.tell(plan, now, Input::Demand { region, group, work });
                self.tell(plan, now, Input::Supply { region, group, capacity });
            }
        }
        self.tell(plan, now, Input::Turn);
        self.effects.drain().for_each(drop);
    }

    /// CPU a second that a region's calls need, by group.
    fn demand(&mut self, at: usize, region: &Region<'_>) -> [u64; GROUPS] {
        std::array::from_fn(|group| {
            let came = region.said.arrived_cpu[group] * 1000 / self.window_ms;
            let sum = &mut self.arriving[at][group];
            *sum = *sum - *sum / SMOOTH[group] + came;
            *sum / SMOOTH[group] + region.backlog(group) / DRAIN_S[group]
        })
    }

    /// Regions pull by the matrix in force: for what they took of their own, the shares' part from others.
    pub fn pull(
        &mut self,
        now: u32,
        regions: &mut [MutexGuard<'_, Region<'_>>],
        messages: &mut Vec<Message>,
    ) {
        for by in 0..self.count {
            if !regions[by].up {
                continue;
            }
            let polled = regions[by].said.polled_cpu;
            for (group, &polled) in polled.iter().enumerate() {
                let row = self.gtc.newest().value.row(GroupRef(group as u16), RegionRef(by as u16)).to_vec();
                let own = u64::from(row[by]).max(1);
                for from in
                    (0..self.count).filter(|&from| from != by && row[from] > 0 && self.reachable[from])
                {
                    let wanted = (polled * u64::from(row[from]) / own) as i64;
                    let owed = &mut self.owed[by * self.count + from][group];
                    // What could not be had is not asked for again later.
                    *owed = (*owed).min(0) + wanted;
                    if *owed > 0 {
                        let at = now + self.window_ticks;
                        let [puller, giver] = regions.get_disjoint_mut([by, from]).expect("two regions");
                        *owed -= giver.give(group, puller, at, *owed as u64, messages) as i64;
                    }
                }
            }
        }
        for region in regions.iter_mut() {
            (region.said.arrived_cpu, region.said.polled_cpu) = Default::default();
        }
    }
}
