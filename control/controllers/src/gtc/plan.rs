//! What one group's traffic should be, from scratch: who serves whose demand, nearest first.

use super::{RegionState, Settings};
use crate::gtc::matrix::WHOLE;
use crate::words::{Millicores, Permille, RegionRef, permille, scale};

/// The plan for one group, in memory that is used again for the next.
#[derive(Debug)]
pub struct Plan {
    regions: usize,
    distance: Vec<u32>,
    /// All pairs of different regions, nearest first: from whom, to whom.
    pairs: Vec<(u16, u16)>,
    /// Work that a region has above what it should serve, and what it could take on.
    over: Vec<Millicores>,
    room: Vec<Millicores>,
    /// What of a region's demand another serves: from whom, then to whom.
    flow: Vec<Millicores>,
    /// The shares that follow: by whom, then from whom.
    target: Vec<u16>,
}

impl Plan {
    /// All regions are equally far from each other.
    pub fn new(regions: usize) -> Plan {
        let all = 0..regions as u16;
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        let mut plan = Plan {
            regions,
            distance: vec![0; regions * regions],
            pairs: pairs.filter(|(from, to)| from != to).collect(),
            over: vec![0; regions],
            room: vec![0; regions],
            flow: vec![0; regions * regions],
            target: vec![0; regions * regions],
        };
        plan.sort();
        plan
    }

    pub fn set_distance(&mut self, a: RegionRef, b: RegionRef, distance: u32) {
        let (a, b) = (usize::from(a.0), usize::from(b.0));
        assert!(a < self.regions && b < self.regions, "regions {a} and {b} of {}", self.regions);
        self.distance[a * self.regions + b] = distance;
        self.distance[b * self.regions + a] = distance;
        self.sort();
    }

    /// Among equals each region begins with the one behind it, so that not all send to the same.
    fn sort(&mut self) {
        let (distance, regions) = (&self.distance, self.regions);
        self.pairs.sort_unstable_by_key(|&(from, to)| {
            let (from, to) = (usize::from(from), usize::from(to));
            (distance[from * regions + to], (to + regions - from) % regions, from)
        });
    }

    /// The shares by whom, then from whom.
    pub fn target(&self) -> &[u16] {
        &self.target
    }

    /// Plans for demand and supply of each region.
    pub fn solve(
        &mut self,
        settings: &Settings,
        states: &[RegionState],
        demand: &[Millicores],
        supply: &[Millicores],
    ) {
        let demand = |at: usize| if states[at] == RegionState::Failed { 0 } else { demand[at] };
        let supply = |at: usize| if states[at] == RegionState::Up { supply[at] } else { 0 };
        let total = |of: &dyn Fn(usize) -> u64| (0..self.regions).map(of).fold(0u64, u64::saturating_add);
        let (asked, there) = (total(&demand), total(&supply));
        self.flow.fill(0);
        for at in 0..self.regions {
            self.flow[at * self.regions + at] = demand(at);
            // Law 2: as full as all are if they cannot be less.
            let is_short = there > 0 && asked > permille(there, settings.full);
            let serves = match (there, is_short) {
                (0, _) => demand(at),
                (_, true) => scale(supply(at), asked, there),
                (_, false) => permille(supply(at), settings.full),
            };
            self.over[at] = demand(at).saturating_sub(serves);
            let takes = permille(supply(at), settings.cross_most);
            self.room[at] = serves.saturating_sub(demand(at)).min(takes);
        }
        self.pour();
        (0..self.regions).for_each(|by| self.share(by, permille(supply(by), settings.own_least)));
    }

    /// Sends what is over to where there is room, nearest first.
    fn pour(&mut self) {
        for &(from, to) in &self.pairs {
            let (from, to) = (usize::from(from), usize::from(to));
            let sent = self.over[from].min(self.room[to]);
            if sent > 0 {
                self.over[from] -= sent;
                self.room[to] -= sent;
                self.flow[from * self.regions + from] -= sent;
                self.flow[from * self.regions + to] += sent;
            }
        }
    }

    /// The row of one region: what it takes from others, of all it serves. Rounded down, so that its own queue gets
    /// the rest.
    fn share(&mut self, by: usize, own_least: Millicores) {
        let served = |from: usize| self.flow[from * self.regions + by];
        let others = (0..self.regions).filter(|from| *from != by).map(served).fold(0, u64::saturating_add);
        let all = served(by).max(own_least).max(1).saturating_add(others);
        let row = by * self.regions..(by + 1) * self.regions;
        let mut own = WHOLE;
        for (from, cell) in self.target[row.clone()].iter_mut().enumerate() {
            *cell = if from == by { 0 } else { scale(self.flow[from * self.regions + by], 1000, all) as u16 };
            own -= *cell;
        }
        self.target[row.start + by] = own;
    }
}

/// Goes the part `gain` of the way to the target, at least a thousandth: no cell passes its target, and the row keeps
/// its sum. Says whether that changed anything.
pub fn blend_row(target: &[u16], in_force: &mut [u16], gain: Permille) -> bool {
    let distance: u32 = target.iter().zip(&*in_force).map(|(to, at)| u32::from(to.saturating_sub(*at))).sum();
    if distance == 0 {
        return false;
    }
    let moved = (distance * gain).div_ceil(1000);
    // What some cells gain, others lose.
    for gains in [true, false] {
        let lacks =
            |to: u16, at: u16| u32::from(if gains { to.saturating_sub(at) } else { at.saturating_sub(to) });
        let of = |lack: u32| lack * moved / distance;
        let lacking = target.iter().zip(&*in_force).map(|(to, at)| lacks(*to, *at));
        let mut rest = moved - lacking.map(of).sum::<u32>();
        for (to, at) in target.iter().zip(&mut *in_force) {
            let lack = lacks(*to, *at);
            let extra = u32::from(rest > 0 && of(lack) < lack);
            rest -= extra;
            let by = (of(lack) + extra) as u16;
            *at = if gains { *at + by } else { *at - by };
        }
    }
    true
}

/// The largest distance of a cell from its target.
pub fn farthest(target: &[u16], in_force: &[u16]) -> Permille {
    target.iter().zip(in_force).map(|(to, at)| u32::from(to.abs_diff(*at))).max().unwrap_or(0)
}

/// A row (of region `by`) that should be the identity and nearly is becomes it: nobody pulls from afar for nothing.
/// Says whether that changed anything.
pub fn snap_row(by: usize, target: &[u16], in_force: &mut [u16], band: Permille) -> bool {
    let is_near = target[by] == WHOLE && target != in_force && farthest(target, in_force) <= band;
    if is_near {
        in_force.copy_from_slice(target);
    }
    is_near
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::iter::zip;

    fn regions() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
        proptest::collection::vec((0..2000u64, 0..2000u64, 0..8u8), 2..7)
    }

    /// Most are up.
    fn state(number: u8) -> RegionState {
        match number {
            0 => RegionState::Failed,
            1 => RegionState::Draining,
            _ => RegionState::Up,
        }
    }

    /// A plan over random distances; demand and supply as it sees them.
    fn solved(settings: &Settings, of: &[(u64, u64, u8)], distances: &[u32]) -> (Plan, Vec<u64>, Vec<u64>) {
        let mut plan = Plan::new(of.len());
        let mut distances = distances.iter().cycle();
        for a in 0..of.len() {
            for b in 0..a {
                let [a, b] = [a, b].map(|region| RegionRef(region as u16));
                plan.set_distance(a, b, *distances.next().expect("a cycle has no end"));
            }
        }
        let states: Vec<RegionState> = of.iter().map(|(.., number)| state(*number)).collect();
        let (demand, supply): (Vec<u64>, Vec<u64>) =
            of.iter().map(|(demand, supply, _)| (*demand, *supply)).unzip();
        plan.solve(settings, &states, &demand, &supply);
        let is = |state: RegionState, wanted: bool, of: u64| {
            if (state == RegionState::Up) == wanted { of } else { 0 }
        };
        let reached =
            zip(&states, demand).map(|(state, of)| if *state == RegionState::Failed { 0 } else { of });
        let serving = zip(&states, supply).map(|(state, of)| is(*state, true, of));
        (plan, reached.collect(), serving.collect())
    }

    fn sent(plan: &Plan, from: usize, to: usize) -> u64 {
        plan.flow[from * plan.regions + to]
    }

    fn load(plan: &Plan, at: usize) -> u64 {
        (0..plan.regions).map(|from| sent(plan, from, at)).sum()
    }

    /// Law 2 and the bound of law 4, for what [`solved`] gave.
    fn assert_balanced(settings: &Settings, plan: &Plan, demand: &[u64], supply: &[u64]) {
        let (asked, there): (u64, u64) = (demand.iter().sum(), supply.iter().sum());
        let level = |at: usize| match there {
            0 => demand[at],
            _ => (supply[at] * asked / there).max(supply[at] * u64::from(settings.full) / 1000),
        };
        let takes =
            |to: usize| (0..plan.regions).filter(|from| *from != to).map(|from| sent(plan, from, to)).sum();
        // Each region's part is rounded down: what that leaves stays where it is.
        let rounding = plan.regions as u64;
        let bounded = (0..plan.regions).any(|at| {
            let takes: u64 = takes(at);
            let most = supply[at] * u64::from(settings.cross_most) / 1000;
            assert!(takes <= most, "region {at} takes on {takes} of {most}");
            takes == most && load(plan, at) < level(at)
        });
        for at in 0..plan.regions {
            let (load, level) = (load(plan, at), level(at));
            let over = load > level + rounding;
            assert!(
                !over || bounded || supply.iter().all(|of| *of == 0),
                "region {at} serves {load} of {level}"
            );
        }
    }

    proptest! {
        #[test]
        fn demand_is_served_once_balanced_and_bounded(
            of in regions(),
            distances in proptest::collection::vec(0..4u32, 1..30),
            cross_most in 0..1001u32,
        ) {
            let settings = Settings { cross_most, ..Settings::default() };
            let (plan, demand, supply) = solved(&settings, &of, &distances);
            for (from, demand) in demand.iter().enumerate() {
                let served: u64 = (0..plan.regions).map(|to| sent(&plan, from, to)).sum();
                prop_assert_eq!(served, *demand, "each unit is served by one region");
            }
            assert_balanced(&settings, &plan, &demand, &supply);
        }

        #[test]
        fn the_nearest_take_first_and_none_both_sends_and_takes(
            of in regions(),
            distances in proptest::collection::vec(0..4u32, 1..30),
        ) {
            let settings = Settings::default();
            let (plan, ..) = solved(&settings, &of, &distances);
            let all = 0..plan.regions;
            for (from, to) in all.clone().flat_map(|from| all.clone().map(move |to| (from, to))) {
                if from == to || sent(&plan, from, to) == 0 {
                    continue;
                }
                prop_assert!(all.clone().all(|on| on == to || sent(&plan, to, on) == 0), "{to} takes and sends");
                let far = plan.distance[from * plan.regions + to];
                let nearer = all.clone().filter(|other| plan.distance[from * plan.regions + other] < far);
                for other in nearer.filter(|other| *other != from) {
                    prop_assert_eq!(plan.room[other], 0, "{} sends to {} past {}", from, to, other);
                }
            }
        }

        #[test]
        fn a_row_comes_closer_from_one_side_and_arrives(
            from in row(), to in row(), gain in 1..1001u32,
        ) {
            let (mut at, mut turns) = (from.clone(), 0);
            while at != to {
                let before = at.clone();
                prop_assert!(blend_row(&to, &mut at, gain));
                prop_assert_eq!(at.iter().map(|share| u32::from(*share)).sum::<u32>(), 1000);
                for ((before, at), to) in zip(zip(&before, &at), &to) {
                    let between = (before.min(to)..=before.max(to)).contains(&at);
                    prop_assert!(between, "from {before} to {to} over {at}");
                }
                let left = |row: &[u16]| zip(row, &to).map(|(at, to)| u32::from(at.abs_diff(*to))).sum::<u32>();
                prop_assert!(left(&at) * 1000 <= left(&before) * (1000 - gain) + 1999 , "less than its part");
                turns += 1;
                prop_assert!(turns <= 1000);
            }
            prop_assert!(!blend_row(&to, &mut at, gain));
        }
    }

    /// Four shares that sum to 1000.
    fn row() -> impl Strategy<Value = Vec<u16>> {
        (0..1001u16, 0..1001u16, 0..1001u16).prop_map(|(a, b, c)| {
            let mut cuts = [a, b, c];
            cuts.sort_unstable();
            vec![cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], 1000 - cuts[2]]
        })
    }

    #[test]
    #[should_panic(expected = "region 0 serves 2000 of 1600")]
    fn canary_balance() {
        let settings = Settings { cross_most: 1000, ..Settings::default() };
        let (mut plan, demand, supply) = solved(&settings, &[(2000, 1000, 9), (400, 500, 9)], &[1]);
        assert_eq!([load(&plan, 0), load(&plan, 1)], [1600, 800], "both as full");
        // As if nothing had been sent.
        (plan.flow[0], plan.flow[1]) = (2000, 0);
        assert_balanced(&settings, &plan, &demand, &supply);
    }
}
