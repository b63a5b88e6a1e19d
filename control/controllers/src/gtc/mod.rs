//! The Global Traffic Conductor: which region pulls how much from which.
//!
//! It publishes the [`Matrix`] of shares T_ij per function group: of its pulls, region i's schedulers take this part
//! from region j. It begins with the identity, each region for itself. Where a region's demand is above what it can
//! serve, the rest flows to the nearest regions that have room, until no region is overloaded or all are equally
//! (XFaaS section 4.4).
//!
//! # Laws
//! 1. **Shares**: each row of each group sums to 1000.
//! 2. **Balance**: in the plan no region serves more than the same part of its supply as all others: [`Settings::full`],
//!    or, when all demand is more than that of all supply, the part that this is. The bound of law 4 comes before.
//! 3. **Nearest first**: a region sends nothing to another one while a nearer one has room. None both sends and takes.
//! 4. **Bounded**: a region takes on at most [`Settings::cross_most`] of its supply from others.
//! 5. **Stable**: a plan that differs from what is in force by no more than [`Settings::band`] changes nothing; any
//!    other is approached from one side, by the part [`Settings::gain`] of the distance in each period, to within half
//!    the band.
//! 6. **Failover**: when a region fails, drains or loses all supply of a group, the next turn goes to the plan at once.
//!    Nobody pulls from a region that failed; of one that drains others take all, as far as law 4 allows.
//!
//! The paper gives neither period nor thresholds, so they are [`Settings`]. Demand is work that is there to be done,
//! not the work that is done: a controller fed with the latter would see its own matrix.

mod matrix;
mod plan;

pub use matrix::{Matrix, ShapeError};

use crate::snapshot::{Publisher, Snapshot};
use crate::words::{Effects, GroupRef, Millicores, Pace, Permille, RegionRef};
use call::Instant;
use plan::Plan;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often it plans. A lost region should be made good within ten seconds; a fifth of that leaves time for
    /// finding out and for the snapshot's way. Planning itself takes milliseconds.
    pub period: Duration,
    /// A region is overloaded above this part of its supply. From the same utilisation on there is no opportunistic
    /// work (`utilization::Settings::overload`): pushing overload away earlier would send what could just wait.
    pub full: Permille,
    /// A plan this close to what is in force changes nothing: a hundredth of the pulls is below the noise of counts
    /// of calls.
    pub band: Permille,
    /// The part of the distance to the plan that one period covers. With a half nine tenths are covered in four
    /// periods, and a consumer that sees demand one period late still does not swing.
    pub gain: Permille,
    /// The most that a region takes on from others, of its supply. Bandwidth between regions is about a tenth of that
    /// inside; a half still makes good one lost region of three.
    pub cross_most: Permille,
    /// What a region's own queue gets at least, of its supply, however empty it was: new calls are seen at once.
    pub own_least: Permille,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_secs(2),
            full: 900,
            band: 10,
            gain: 500,
            cross_most: 500,
            own_least: 20,
        }
    }
}

/// How a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionState {
    /// It serves, and its queues can be pulled from.
    Up,
    /// It takes nothing more; its queues can be pulled from.
    Draining,
    /// It is cut off or gone, as far as anyone can see. So is each region of which nothing has been said.
    Failed,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// How far two regions are from each other, in any unit, both ways.
    Distance {
        /// One.
        a: RegionRef,
        /// The other.
        b: RegionRef,
        /// The round trip, for instance, in microseconds.
        distance: u32,
    },
    /// A region's state.
    Region {
        /// Which.
        region: RegionRef,
        /// How it is.
        state: RegionState,
    },
    /// What the calls of a group that wait in a region's queues need, and those that come: the demand.
    Demand {
        /// Whose queues.
        region: RegionRef,
        /// Of which group.
        group: GroupRef,
        /// CPU, in the unit of the supply.
        work: Millicores,
    },
    /// What a region's workers can do for a group.
    Supply {
        /// Whose workers.
        region: RegionRef,
        /// For which group.
        group: GroupRef,
        /// CPU of these workers.
        capacity: Millicores,
    },
    /// The snapshot that a consumer holds: what a controller that starts again goes on from.
    Held(&'a Snapshot<Matrix>),
    /// Plan, if it is time.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// There is a newer matrix: [`Gtc::newest`].
    Matrix {
        /// Its version.
        version: u64,
    },
}

/// The controller.
#[derive(Debug)]
pub struct Gtc {
    settings: Settings,
    pace: Pace,
    states: Vec<RegionState>,
    /// Demand and supply, per group and then region.
    demand: Vec<Millicores>,
    supply: Vec<Millicores>,
    /// Per group: the way to the plan has begun and its end is not reached.
    moving: Vec<bool>,
    /// Per group: go to the plan at once.
    hurry: Vec<bool>,
    plan: Plan,
    publisher: Publisher<Matrix>,
}

impl Gtc {
    /// Begins with the identity. `published` is the newest version consumers may have. Takes 2 bytes for each pair of
    /// regions and group, and 16 for each region and group.
    ///
    /// # Panics
    /// If there are no regions or groups, or the settings contradict themselves.
    pub fn new(settings: Settings, regions_max: usize, groups_max: usize, published: u64) -> Gtc {
        assert!(settings.full > 0, "every region would be overloaded: {settings:?}");
        assert!((1..=1000).contains(&settings.gain), "the plan is never reached, or passed: {settings:?}");
        assert!((1..=1000).contains(&settings.own_least), "own calls are never seen: {settings:?}");
        assert!(settings.band < 1000, "nothing would ever move: {settings:?}");
        let cells = regions_max * groups_max;
        Gtc {
            settings,
            pace: Pace::new(settings.period),
            states: vec![RegionState::Failed; regions_max],
            demand: vec![0; cells],
            supply: vec![0; cells],
            moving: vec![false; groups_max],
            hurry: vec![false; groups_max],
            plan: Plan::new(regions_max),
            publisher: Publisher::new(published, Matrix::identity(regions_max, groups_max)),
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds an effect, one at most.
    pub fn step(&mut self, now: Instant, input: Input<'_>, out: &mut Effects<Effect>) {
        match input {
            Input::Distance { a, b, distance } => self.plan.set_distance(a, b, distance),
            Input::Region { region, state } => self.set_state(region, state),
            Input::Demand { region, group, work } => {
                let cell = self.cell(region, group);
                self.demand[cell] = work;
            }
            Input::Supply { region, group, capacity } => {
                let cell = self.cell(region, group);
                let before = std::mem::replace(&mut self.supply[cell], capacity);
                self.hurry[usize::from(group.0)] |= before > 0 && capacity == 0;
            }
            Input::Held(held) => self.resume(held),
            Input::Turn => self.turn(now, out),
        }
    }

    /// The matrix as published last, or the identity under the version that the first consumer gets.
    pub fn newest(&self) -> &Snapshot<Matrix> {
        self.publisher.newest()
    }

    /// How a region is.
    pub fn state(&self, region: RegionRef) -> RegionState {
        self.states[usize::from(region.0)]
    }

    fn cell(&self, region: RegionRef, group: GroupRef) -> usize {
        let region = usize::from(region.0);
        assert!(region < self.states.len(), "region {region} of {}", self.states.len());
        usize::from(group.0) * self.states.len() + region
    }

    fn set_state(&mut self, region: RegionRef, state: RegionState) {
        let before = std::mem::replace(&mut self.states[usize::from(region.0)], state);
        if before == RegionState::Up && state != RegionState::Up || state == RegionState::Failed {
            self.hurry.fill(true);
        }
    }

    /// A matrix of another shape is of another configuration: only its version counts.
    fn resume(&mut self, held: &Snapshot<Matrix>) {
        self.hurry.fill(true);
        let newest = self.publisher.newest();
        if held.value.shape() == newest.value.shape() {
            self.publisher.resume(held);
        } else if held.version >= newest.version {
            let value = newest.value.clone();
            self.publisher.resume(&Snapshot { version: held.version + 1, value });
        }
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        if out.is_full() {
            return;
        }
        let is_time = self.pace.over(now).is_some();
        let Gtc { settings, states, demand, supply, moving, hurry, plan, publisher, .. } = self;
        let regions = states.len();
        let revised = publisher.revise(|matrix| {
            let mut changed = false;
            for (group, hurry) in hurry.iter_mut().enumerate().filter(|(_, hurry)| is_time || **hurry) {
                let cells = group * regions..(group + 1) * regions;
                plan.solve(settings, states, &demand[cells.clone()], &supply[cells]);
                let in_force = matrix.group_mut(group);
                changed |= approach(settings, *hurry, plan.target(), in_force, &mut moving[group]);
                *hurry = false;
            }
            changed
        });
        if revised {
            out.push(Effect::Matrix { version: self.publisher.newest().version });
        }
    }

    /// Panics if a row does not sum to 1000, or a region that failed is pulled from.
    pub fn check(&self) {
        let matrix = &self.publisher.newest().value;
        matrix.check();
        let waits = self.hurry.iter().any(|hurry| *hurry);
        for (from, state) in self.states.iter().enumerate() {
            let is_gone = *state == RegionState::Failed && !waits;
            for group in (0..self.moving.len()).filter(|_| is_gone) {
                for by in (0..self.states.len()).filter(|by| *by != from) {
                    let [by, from] = [by, from].map(|region| RegionRef(region as u16));
                    let share = matrix.share(GroupRef(group as u16), by, from);
                    assert_eq!(share, 0, "{by:?} pulls from {from:?}, which failed");
                }
            }
        }
    }
}

/// Brings what is in force closer to the target (laws 5 and 6). Says whether it changed.
fn approach(
    settings: &Settings,
    hurry: bool,
    target: &[u16],
    in_force: &mut [u16],
    moving: &mut bool,
) -> bool {
    if hurry {
        let changed = target != in_force;
        in_force.copy_from_slice(target);
        *moving = false;
        return changed;
    }
    let regions = target.len().isqrt();
    *moving |= plan::farthest(target, in_force) > settings.band;
    let mut changed = false;
    for (by, (to, at)) in target.chunks(regions).zip(in_force.chunks_mut(regions)).enumerate() {
        changed |= *moving && plan::blend_row(to, at, settings.gain);
        changed |= plan::snap_row(by, to, at, settings.band);
    }
    *moving &= plan::farthest(target, in_force) > settings.band / 2;
    changed
}

#[cfg(test)]
mod tests;
