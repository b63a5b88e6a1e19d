//! The locality optimizer: which functions share which workers.
//!
//! A worker that serves few functions keeps less code and data in memory and finds it warm. So functions are divided
//! into disjoint groups of equal memory, memory-hungry ones apart from each other, and each region's workers into as
//! many groups, by CPU (XFaaS section 4.5). Both are moved as the mix changes, slowly: a function that is moved
//! begins cold.
//!
//! # Laws
//! 1. **Disjoint**: each function is in one group, which all regions share; each worker is in one or in none.
//! 2. **Nobody without workers**: in a region with at least as many workers as groups, each group has one. In a
//!    smaller region all workers are in none, which means that they serve all.
//! 3. **Bounded**: in one period no more than [`Settings::functions_moved`] functions and
//!    [`Settings::workers_moved`] of a region's workers are moved for balance. What is new is placed at once; what lost
//!    its group because there are too few workers for it moves at once as well.
//! 4. **Balanced**: moving ends when the heaviest group has no more memory above the lightest than [`Settings::band`]
//!    of the mean, or than its smallest function would change for the better.
//! 5. **Calm**: with steady needs nothing moves after that.
//! 6. **Together**: functions that their owners put into one group ([`Input::Together`]) are in one of ours, with the
//!    first of them; they are placed, moved and counted as one.

use crate::snapshot::{Board, Snapshot};
use crate::words::{
    Effects, FunctionRef, GroupRef, Millicores, Pace, Permille, RegionRef, WorkerRef, permille,
};
use call::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

mod pools;

use pools::Pools;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often it balances. A moved function is cold for its first calls: a minute between moves keeps that rare,
    /// and still follows the hours in which the mix changes.
    pub period: Duration,
    /// The part of the mean by which the heaviest group may exceed the lightest.
    pub band: Permille,
    /// Functions moved for balance in one period, at most.
    pub functions_moved: u32,
    /// The part of a region's workers moved for balance in one period; one at least.
    pub workers_moved: Permille,
    /// Workers of the largest region for each group, at least: best of two needs two, and one may be lost.
    pub workers_least: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_secs(60),
            band: 100,
            functions_moved: 20,
            workers_moved: 10,
            workers_least: 3,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// What a function needs. Said again when it has changed.
    Function {
        /// Which.
        function: FunctionRef,
        /// Bytes that a worker spends on it while it is warm.
        memory: u64,
        /// CPU of all its calls.
        cpu: Millicores,
    },
    /// A function's owner says that it belongs to the group of another one, or to no other's any more. That one
    /// itself follows nobody.
    Together {
        /// Which.
        function: FunctionRef,
        /// Whom it follows.
        with: Option<FunctionRef>,
    },
    /// A function was deleted.
    Forget {
        /// Which.
        function: FunctionRef,
    },
    /// A worker is there.
    Worker {
        /// Which.
        worker: WorkerRef,
        /// Of which region.
        region: RegionRef,
    },
    /// A worker is gone.
    WorkerGone {
        /// Which.
        worker: WorkerRef,
    },
    /// A function's group that a consumer holds: what a controller that starts again goes on from.
    HeldFunction {
        /// Which.
        function: FunctionRef,
        /// Its group as the newest snapshot has it.
        group: Snapshot<Option<GroupRef>>,
    },
    /// The same for a worker, after [`Input::Worker`].
    HeldWorker {
        /// Which.
        worker: WorkerRef,
        /// Its group as the newest snapshot has it.
        group: Snapshot<Option<GroupRef>>,
    },
    /// Place what is new, balance if it is time, and publish as far as there is room.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A function's group; none, if it has been deleted.
    Function {
        /// Which.
        function: FunctionRef,
        /// Its group.
        group: Snapshot<Option<GroupRef>>,
    },
    /// A worker's group; none for one that serves all groups.
    Worker {
        /// Which.
        worker: WorkerRef,
        /// Its group.
        group: Snapshot<Option<GroupRef>>,
    },
}

/// What a group's functions need in all. As JSON: an object of these fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Need {
    /// Bytes on each worker that has all of them warm.
    pub memory: u64,
    /// CPU of all calls.
    pub cpu: Millicores,
    /// How many functions.
    pub functions: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Function {
    known: bool,
    memory: u64,
    cpu: Millicores,
    group: Option<GroupRef>,
    /// Whom it follows.
    with: Option<FunctionRef>,
    /// Memory of those that follow it.
    led: u64,
}

/// The controller.
#[derive(Debug)]
pub struct Locality {
    settings: Settings,
    pace: Pace,
    functions: Vec<Function>,
    /// Some functions have no group yet.
    unplaced: bool,
    /// Those, while they are placed.
    order: Vec<u32>,
    /// Some function may not be where the one that it follows is.
    astray: bool,
    groups: Vec<Need>,
    /// Groups in use: those below this number.
    open: usize,
    pools: Pools,
    function_board: Board<Option<GroupRef>>,
    worker_board: Board<Option<GroupRef>>,
}

impl Locality {
    /// One group, without functions and workers. `published` is the newest version consumers may have.
    ///
    /// # Panics
    /// If there are no groups, or a group would need no workers.
    pub fn new(
        settings: Settings,
        functions_max: usize,
        workers_max: usize,
        regions_max: usize,
        groups_max: usize,
        published: u64,
    ) -> Locality {
        assert!(groups_max > 0 && groups_max <= usize::from(u16::MAX), "{groups_max} groups");
        assert!(settings.workers_least > 0, "a group without workers: {settings:?}");
        Locality {
            settings,
            pace: Pace::new(settings.period),
            functions: vec![Function::default(); functions_max],
            unplaced: false,
            order: Vec::with_capacity(functions_max),
            astray: false,
            groups: vec![Need::default(); groups_max],
            open: 1,
            pools: Pools::new(workers_max, regions_max, groups_max),
            function_board: Board::new(published, functions_max, None),
            worker_board: Board::new(published, workers_max, None),
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Effects<Effect>) {
        match input {
            Input::Function { function, memory, cpu } => self.need(function, memory, cpu),
            Input::Together { function, with } => {
                self.functions[function.0 as usize].with = with.filter(|with| *with != function);
                self.astray = true;
            }
            Input::Forget { function } => {
                self.assign(function, None);
                self.functions[function.0 as usize] = Function::default();
                self.astray = true;
            }
            Input::Worker { worker, region } => self.pools.up(worker, region),
            Input::WorkerGone { worker } => self.pools.down(worker),
            Input::HeldFunction { function, group } => {
                self.function_board.resume(function.0 as usize, group);
                self.resume_open(group.value);
                let held = group.value.filter(|group| usize::from(group.0) < self.groups.len());
                if self.functions[function.0 as usize].known {
                    self.assign(function, held);
                } else {
                    self.functions[function.0 as usize].group = held;
                }
            }
            Input::HeldWorker { worker, group } => {
                self.worker_board.resume(worker.0 as usize, group);
                self.resume_open(group.value);
                self.pools.assign(worker, group.value);
            }
            Input::Turn => self.turn(now, out),
        }
    }

    /// Groups in use.
    pub fn open(&self) -> usize {
        self.open
    }

    /// A function's group.
    pub fn group(&self, function: FunctionRef) -> Option<GroupRef> {
        let of = &self.functions[function.0 as usize];
        of.group.filter(|_| of.known)
    }

    /// A function's group as published last.
    pub fn function(&self, function: FunctionRef) -> Snapshot<Option<GroupRef>> {
        *self.function_board.newest(function.0 as usize)
    }

    /// A worker's group as published last.
    pub fn worker(&self, worker: WorkerRef) -> Snapshot<Option<GroupRef>> {
        *self.worker_board.newest(worker.0 as usize)
    }

    /// What a group's functions need.
    pub fn need_of(&self, group: GroupRef) -> Need {
        self.groups[usize::from(group.0)]
    }

    /// Workers of a region in a group; none for those in no group.
    pub fn workers(&self, region: RegionRef, group: Option<GroupRef>) -> u32 {
        self.pools.count(region, group)
    }

    fn need(&mut self, function: FunctionRef, memory: u64, cpu: Millicores) {
        let before = self.functions[function.0 as usize];
        if before.known {
            self.assign(function, None);
        }
        self.functions[function.0 as usize] = Function { known: true, memory, cpu, group: None, ..before };
        // What was held before it was known counts from now on.
        self.assign(function, before.group);
        self.astray = true;
    }

    /// Whom a function follows: one that is there, and follows nobody.
    fn leader(&self, key: usize) -> Option<usize> {
        let leader = self.functions[key].with?.0 as usize;
        let is = self.functions.get(leader).is_some_and(|of| of.known && of.with.is_none());
        is.then_some(leader)
    }

    /// Brings those that follow another one to where it is.
    fn follow(&mut self) {
        self.functions.iter_mut().for_each(|of| of.led = 0);
        for key in 0..self.functions.len() {
            let Some(leader) = self.leader(key).filter(|_| self.functions[key].known) else { continue };
            self.functions[leader].led += self.functions[key].memory;
            let (group, to) = (self.functions[key].group, self.functions[leader].group);
            if group != to {
                self.assign(FunctionRef(key as u32), to);
            }
        }
    }

    /// Moves a function, and its needs with it.
    fn assign(&mut self, function: FunctionRef, to: Option<GroupRef>) {
        let of = &mut self.functions[function.0 as usize];
        let Function { known, memory, cpu, .. } = *of;
        let from = std::mem::replace(&mut of.group, to);
        if let Some(group) = from.filter(|_| known) {
            let need = &mut self.groups[usize::from(group.0)];
            *need = Need { memory: need.memory - memory, cpu: need.cpu - cpu, functions: need.functions - 1 };
        }
        if let Some(group) = to.filter(|_| known) {
            let need = &mut self.groups[usize::from(group.0)];
            *need = Need { memory: need.memory + memory, cpu: need.cpu + cpu, functions: need.functions + 1 };
        }
        if known {
            self.function_board.conclude(function.0 as usize, to);
            self.unplaced |= to.is_none();
        }
    }

    /// What is held is in use, as far as there are so many groups.
    fn resume_open(&mut self, group: Option<GroupRef>) {
        let used = group.map_or(1, |group| usize::from(group.0) + 1);
        self.open = self.open.max(used.min(self.groups.len()));
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        self.set_open();
        self.pools.settle(&self.groups[..self.open]);
        if std::mem::take(&mut self.astray) {
            self.follow();
        }
        if std::mem::take(&mut self.unplaced) {
            self.place();
            // Those that follow were placed as well.
            self.unplaced = false;
        }
        // What functions need is not all said in the first turn.
        self.pace.begin(now);
        if self.pace.over(now).is_some() {
            self.balance();
            self.pools.balance(&self.groups[..self.open], self.settings.workers_moved);
        }
        self.publish(out);
    }

    /// As many groups as the largest region has workers for. A group is closed only when there is not even one worker
    /// for each, so that a worker lost and found again changes nothing.
    fn set_open(&mut self) {
        let workers = self.pools.largest();
        let wanted = (workers / self.settings.workers_least as usize).clamp(1, self.groups.len());
        if wanted > self.open {
            self.open = wanted;
        }
        if workers < self.open && workers > 0 {
            self.open = wanted;
            self.unplaced = true;
        }
    }

    /// Gives each function without a group in use the lightest one, the memory-hungriest first where there are many.
    fn place(&mut self) {
        let (open, mut order) = (self.open, std::mem::take(&mut self.order));
        let functions = &self.functions;
        let is_lost = |of: &Function| of.known && of.group.is_none_or(|group| usize::from(group.0) >= open);
        let is_own = |key: &u32| is_lost(&functions[*key as usize]) && self.leader(*key as usize).is_none();
        let memory = |key: u32| functions[key as usize].memory + functions[key as usize].led;
        order.clear();
        order.extend((0..functions.len() as u32).filter(is_own));
        order.sort_unstable_by_key(|key| (std::cmp::Reverse(memory(*key)), *key));
        self.order = order;
        for at in 0..self.order.len() {
            let lightest = self.extreme(|need| (need.memory, need.functions));
            self.assign(FunctionRef(self.order[at]), Some(lightest));
            if self.functions[self.order[at] as usize].led > 0 {
                self.follow();
            }
        }
    }

    /// The group with the least of something.
    fn extreme<K: Ord>(&self, of: impl Fn(&Need) -> K) -> GroupRef {
        let groups = self.groups[..self.open].iter().enumerate();
        let (at, _) = groups.min_by_key(|(_, need)| of(need)).expect("one group at least is open");
        GroupRef(at as u16)
    }

    /// Moves functions from the heaviest to the lightest group: each time the one that comes nearest to half of what
    /// they differ by.
    fn balance(&mut self) {
        for _ in 0..self.settings.functions_moved {
            let heaviest = self.extreme(|need| std::cmp::Reverse(need.memory));
            let lightest = self.extreme(|need| need.memory);
            let apart = self.need_of(heaviest).memory - self.need_of(lightest).memory;
            let all: u64 = self.groups[..self.open].iter().map(|need| need.memory).sum();
            if apart <= permille(all / self.open as u64, self.settings.band) {
                return;
            }
            let candidates = self.functions.iter().enumerate();
            let helps = |key: usize, of: &Function| {
                let fits = (1..apart).contains(&(of.memory + of.led));
                of.group == Some(heaviest) && of.known && fits && self.leader(key).is_none()
            };
            let best = candidates
                .filter(|(key, of)| helps(*key, of))
                .min_by_key(|(key, of)| ((of.memory + of.led).abs_diff(apart / 2), *key));
            let Some((key, Function { led, .. })) = best.map(|(key, of)| (key, *of)) else { return };
            self.assign(FunctionRef(key as u32), Some(lightest));
            if led > 0 {
                self.follow();
            }
        }
    }

    fn publish(&mut self, out: &mut Effects<Effect>) {
        for (key, group) in self.pools.changed().enumerate() {
            if group != self.worker_board.wanted(key) {
                self.worker_board.conclude(key, group);
            }
        }
        while !out.is_full()
            && let Some((key, group)) = self.worker_board.publish_next()
        {
            out.push(Effect::Worker { worker: WorkerRef(key as u32), group });
        }
        while !out.is_full()
            && let Some((key, group)) = self.function_board.publish_next()
        {
            out.push(Effect::Function { function: FunctionRef(key as u32), group });
        }
    }

    /// Panics if sums are wrong, or, after a turn, if a function has no group or a group no worker.
    pub fn check(&self) {
        let mut groups = vec![Need::default(); self.groups.len()];
        for (key, of) in self.functions.iter().enumerate().filter(|(_, of)| of.known) {
            let Some(group) = of.group else {
                assert!(self.unplaced, "function {key} has no group");
                continue;
            };
            let need = &mut groups[usize::from(group.0)];
            need.memory += of.memory;
            need.cpu += of.cpu;
            need.functions += 1;
        }
        assert_eq!(groups, self.groups, "what groups need is summed wrongly");
        let is_empty = |need: &Need| need.functions == 0;
        assert!(self.unplaced || groups[self.open..].iter().all(is_empty), "a closed group has functions");
        for key in (0..self.functions.len()).filter(|key| self.functions[*key].known && !self.astray) {
            let apart = self.leader(key).filter(|by| self.functions[*by].group != self.functions[key].group);
            assert!(apart.is_none() || self.unplaced, "function {key} is not where {apart:?} is");
        }
        self.pools.check(self.open);
        self.function_board.check();
        self.worker_board.check();
    }
}

#[cfg(test)]
mod tests;
