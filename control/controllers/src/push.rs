//! A code push in three phases, and cooperative compilation.
//!
//! A new version goes to a few workers first, then to 2% of them, then to all. Some of the second phase profile what
//! runs; the profile is shipped to all workers of their locality group, which compile what is hot before its first call
//! (XFaaS section 4.3: full rate after 3 minutes instead of 21). One controller per namespace; what a profile is, and
//! where it is kept, is not its concern.
//!
//! # Laws
//! 1. **In order**: no more than [`Settings::first`] workers have the version before the second phase, no more than
//!    [`Settings::second`] of all, or one of each group, before the third. A phase ends when all its workers serve the version and its time has
//!    passed.
//! 2. **Seeded**: from the profile of a group on, its workers get the version with it; those that have the version
//!    already get the profile once. A group waits for its profile no longer than [`Settings::profile_most`].
//! 3. **Stopped**: when more than [`Settings::failed_most`] of the workers that were given the version failed (in small
//!    phases: one), all go back to the version before.
//! 4. **Bounded**: no more than [`Settings::at_once`] of the workers install at the same time.
//! 5. **Ends**: if workers answer, each comes to have the version that is in force for it, whoever comes and goes.

use crate::snapshot::{Publisher, Snapshot};
use crate::words::{Effects, GroupRef, Permille, WorkerRef, permille};
use call::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Workers of the first phase: a few, in different groups.
    pub first: u32,
    /// The part of workers that the second phase reaches (the paper's 2%); more than `first` in any case, and one of
    /// each group, which would have no profile otherwise.
    pub second: Permille,
    /// The part of the second phase's workers that profile; one of each group there in any case.
    pub profilers: Permille,
    /// How long the first and the second phase last at least, once their workers serve the version: a minute is
    /// thousands of calls on each.
    pub first_for: Duration,
    /// The same for the second phase.
    pub second_for: Duration,
    /// A group without a profile goes on without it after so long in the second phase.
    pub profile_most: Duration,
    /// The part of workers that may install at the same time; one in any case. A worker that installs serves less.
    pub at_once: Permille,
    /// A worker that has not answered for so long has failed; it is tried again after as long.
    pub install_most: Duration,
    /// The part of workers that were given the version and failed from which on it is taken back.
    pub failed_most: Permille,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            first: 3,
            second: 20,
            profilers: 500,
            first_for: Duration::from_secs(60),
            second_for: Duration::from_secs(60),
            profile_most: Duration::from_secs(300),
            at_once: 250,
            install_most: Duration::from_secs(120),
            failed_most: 20,
        }
    }
}

/// How far a push is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// All workers have, or will have, the version in force.
    Settled,
    /// A few have the new one.
    First,
    /// 2% have it, and some of them profile.
    Second,
    /// All get it.
    Third,
}

/// What is in force, and what is coming.
///
/// As JSON: `{"in_force": 7, "pushed": 8, "phase": "second"}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Release {
    /// The version that went through all phases last; 0 before the first.
    pub in_force: u32,
    /// The version under way, or the last that was taken back or came through.
    pub pushed: u32,
    /// How far it is.
    pub phase: Phase,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Bring this version to all workers. One that is under way is given up.
    Push {
        /// Above all before.
        version: u32,
    },
    /// A worker is there, or has another group now.
    Worker {
        /// Which.
        worker: WorkerRef,
        /// Its locality group, if it has one.
        group: Option<GroupRef>,
    },
    /// A worker is gone.
    WorkerGone {
        /// Which.
        worker: WorkerRef,
    },
    /// A worker serves this version.
    Installed {
        /// Which.
        worker: WorkerRef,
        /// Which version.
        version: u32,
    },
    /// A worker could not install it, or its calls failed under it.
    Failed {
        /// Which.
        worker: WorkerRef,
        /// Which version.
        version: u32,
    },
    /// The profile of a group is complete and where workers can fetch it.
    Profiled {
        /// Which group; none for workers without one.
        group: Option<GroupRef>,
        /// Of which version.
        version: u32,
    },
    /// The release as consumers have it: a controller that starts again begins the phase anew. After
    /// [`Input::Worker`] and [`Input::Installed`].
    Held(Snapshot<Release>),
    /// Go on, as far as there is room.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Have a worker install a version: answer with [`Input::Installed`] or [`Input::Failed`].
    Install {
        /// Which worker.
        worker: WorkerRef,
        /// Which version.
        version: u32,
        /// With its group's profile.
        seeded: bool,
    },
    /// Have a worker profile what it runs.
    Profile {
        /// Which worker.
        worker: WorkerRef,
        /// Under which version.
        version: u32,
    },
    /// Give a worker that has the version its group's profile.
    Seed {
        /// Which worker.
        worker: WorkerRef,
        /// Which version.
        version: u32,
    },
    /// What is in force and coming has changed.
    Release(Snapshot<Release>),
}

/// What a worker does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Serving,
    Installing(Instant),
    Failed(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Worker {
    there: bool,
    group: Option<GroupRef>,
    has: u32,
    doing: Doing,
    /// Of the push under way: it is among those that get it first, profiles, has the profile, was given it, failed.
    chosen: bool,
    profiles: bool,
    seeded: bool,
    given: bool,
    failed: bool,
    /// It was asked for a profile.
    asked: bool,
}

impl Worker {
    const ABSENT: Worker = Worker {
        there: false,
        group: None,
        has: 0,
        doing: Doing::Serving,
        chosen: false,
        profiles: false,
        seeded: false,
        given: false,
        failed: false,
        asked: false,
    };
}

/// The controller of one namespace.
#[derive(Debug)]
pub struct Push {
    settings: Settings,
    workers: Vec<Worker>,
    /// Groups whose profile is there, and behind them that of workers without one.
    profiled: Vec<bool>,
    /// How many workers of each group are taken, while some are chosen.
    taken: Vec<u32>,
    /// The most workers that the push was to reach before its third phase.
    reached: u32,
    release: Release,
    /// Since when all workers of the phase serve the version; since when the phase is.
    served_since: Option<Instant>,
    phase_since: Instant,
    publisher: Publisher<Release>,
    /// What is published differs.
    unpublished: bool,
}

impl Push {
    /// No version, no workers. `published` is the newest version consumers may have.
    ///
    /// # Panics
    /// If a phase would have no workers.
    pub fn new(settings: Settings, workers_max: usize, groups_max: usize, published: u64) -> Push {
        assert!(settings.first > 0 && settings.second <= 1000, "a phase without workers: {settings:?}");
        let release = Release { in_force: 0, pushed: 0, phase: Phase::Settled };
        Push {
            settings,
            workers: vec![Worker::ABSENT; workers_max],
            profiled: vec![false; groups_max + 1],
            taken: vec![0; groups_max + 1],
            reached: 0,
            release,
            served_since: None,
            phase_since: Instant(0),
            publisher: Publisher::new(published, release),
            unpublished: false,
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Effects<Effect>) {
        match input {
            Input::Push { version } => {
                let newest = self.release.pushed.max(self.release.in_force);
                assert!(version > newest, "version {version} after {newest}");
                self.begin(now, version, Phase::First);
            }
            Input::Worker { worker, group } => {
                let of = &mut self.workers[worker.0 as usize];
                let is_new = !of.there || of.group != group;
                (of.there, of.group, of.seeded) = (true, group, of.seeded && !is_new);
            }
            Input::WorkerGone { worker } => self.workers[worker.0 as usize] = Worker::ABSENT,
            Input::Installed { worker, version } => {
                let of = &mut self.workers[worker.0 as usize];
                if of.there {
                    (of.has, of.doing) = (version, Doing::Serving);
                }
            }
            Input::Failed { worker, version } if version == self.release.pushed => self.fail(now, worker),
            Input::Failed { .. } => {}
            Input::Profiled { group, version } if version == self.release.pushed => {
                let slot = self.slot(group);
                self.profiled[slot] = true;
            }
            Input::Profiled { .. } => {}
            Input::Held(held) => {
                self.publisher.resume(&held);
                let Release { in_force, pushed, phase } = self.newest().value;
                self.release.in_force = in_force;
                self.begin(now, pushed, phase);
            }
            Input::Turn => self.turn(now, out),
        }
    }

    /// What is in force and coming, as published last.
    pub fn newest(&self) -> Snapshot<Release> {
        *self.publisher.newest()
    }

    fn slot(&self, group: Option<GroupRef>) -> usize {
        let none = self.profiled.len() - 1;
        group.map_or(none, |group| usize::from(group.0).min(none))
    }

    fn begin(&mut self, now: Instant, version: u32, phase: Phase) {
        self.release.pushed = version;
        // What a worker installs for another push does not count: it is told again.
        for of in &mut self.workers {
            *of = Worker { there: of.there, group: of.group, has: of.has, ..Worker::ABSENT };
        }
        self.reached = 0;
        self.profiled.fill(false);
        self.enter(now, phase);
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        self.release.phase = phase;
        (self.phase_since, self.served_since) = (now, None);
        self.unpublished = true;
    }

    fn fail(&mut self, now: Instant, worker: WorkerRef) {
        let of = &mut self.workers[worker.0 as usize];
        if of.there {
            (of.doing, of.failed) = (Doing::Failed(now), true);
        }
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        for of in &mut self.workers {
            match of.doing {
                Doing::Installing(since) if now.since(since) >= self.settings.install_most => {
                    (of.doing, of.failed) = (Doing::Failed(now), true);
                }
                Doing::Failed(since) if now.since(since) >= self.settings.install_most => {
                    of.doing = Doing::Serving
                }
                _ => {}
            }
        }
        if self.release.phase != Phase::Settled {
            self.choose();
            self.go_on(now);
        }
        if self.unpublished && !out.is_full() {
            self.unpublished = false;
            if let Some(release) = self.publisher.publish(self.release) {
                out.push(Effect::Release(*release));
            }
        }
        self.reconcile(now, out);
    }

    /// Workers of the phase: as many as it may have, from all groups in turn.
    fn choose(&mut self) {
        let Settings { first, profilers, .. } = self.settings;
        let all = self.count(|of| of.there);
        let reached = match self.release.phase {
            Phase::First => first,
            _ => self.second_of(all),
        };
        self.reached = self.reached.max(reached);
        self.take_evenly(reached, |_| true, |of| &mut of.chosen);
        if self.release.phase == Phase::Second {
            let profiling = (permille(u64::from(reached), profilers) as u32).max(self.groups_there());
            self.take_evenly(profiling, |of| of.chosen, |of| &mut of.profiles);
        }
    }

    /// Workers of the second phase: its part of all, and one of each group in any case.
    fn second_of(&self, all: u32) -> u32 {
        let Settings { first, second, .. } = self.settings;
        (permille(u64::from(all), second) as u32).max(first + 1).max(self.groups_there())
    }

    /// Groups that have workers; those without a group are one.
    fn groups_there(&self) -> u32 {
        let is_there = |slot: usize| self.workers.iter().any(|of| of.there && self.slot(of.group) == slot);
        (0..self.profiled.len()).filter(|&slot| is_there(slot)).count().max(1) as u32
    }

    fn count(&self, is: impl Fn(&Worker) -> bool) -> u32 {
        self.workers.iter().filter(|of| is(of)).count() as u32
    }

    /// Marks workers until so many are marked, always in the group that has the fewest marked.
    fn take_evenly(
        &mut self,
        wanted: u32,
        may: impl Fn(&Worker) -> bool,
        mark: impl Fn(&mut Worker) -> &mut bool,
    ) {
        self.taken.fill(0);
        let none = self.taken.len() - 1;
        let slot = |of: &Worker| of.group.map_or(none, |group| usize::from(group.0).min(none));
        let (mut left, mut candidates) = (wanted, 0u32);
        for of in self.workers.iter_mut().filter(|of| of.there) {
            if *mark(of) {
                self.taken[slot(of)] += 1;
                left = left.saturating_sub(1);
            } else {
                candidates += u32::from(may(of));
            }
        }
        let mut level = 0;
        left = left.min(candidates);
        while left > 0 {
            for of in self.workers.iter_mut().filter(|of| of.there && may(of)) {
                if left > 0 && !*mark(of) && self.taken[slot(of)] <= level {
                    *mark(of) = true;
                    self.taken[slot(of)] += 1;
                    left -= 1;
                }
            }
            level += 1;
        }
    }

    /// Whether the phase is over, or the push.
    fn go_on(&mut self, now: Instant) {
        let Settings { first_for, second_for, failed_most, .. } = self.settings;
        let (given, failed) = (self.count(|of| of.there && of.given), self.count(|of| of.there && of.failed));
        if u64::from(failed) > permille(u64::from(given), failed_most) {
            return self.enter(now, Phase::Settled);
        }
        let pushed = self.release.pushed;
        let is_third = self.release.phase == Phase::Third;
        let waits = |of: &Worker| of.there && (of.chosen || is_third) && of.has != pushed && !of.failed;
        if self.count(waits) > 0 {
            self.served_since = None;
            return;
        }
        let served = now.since(*self.served_since.get_or_insert(now));
        match self.release.phase {
            Phase::First if served >= first_for => self.enter(now, Phase::Second),
            Phase::Second if served >= second_for && self.is_profiled(now) => self.enter(now, Phase::Third),
            Phase::Third => {
                self.release.in_force = pushed;
                self.enter(now, Phase::Settled);
            }
            _ => {}
        }
    }

    /// Whether each group with a worker that profiles has its profile, or has waited for it long enough.
    fn is_profiled(&self, now: Instant) -> bool {
        let lacks = |of: &&Worker| of.there && of.profiles && !self.profiled[self.slot(of.group)];
        now.since(self.phase_since) >= self.settings.profile_most || !self.workers.iter().any(|of| lacks(&of))
    }

    /// Has each worker come to what it should have.
    fn reconcile(&mut self, now: Instant, out: &mut Effects<Effect>) {
        let installing = |of: &Worker| of.there && matches!(of.doing, Doing::Installing(_));
        let most = permille(u64::from(self.count(|of| of.there)), self.settings.at_once).max(1) as u32;
        let mut room = most.saturating_sub(self.count(installing));
        for key in 0..self.workers.len() {
            if out.is_full() {
                return;
            }
            let (of, worker) = (self.workers[key], WorkerRef(key as u32));
            let version = self.version_for(&of);
            let has_profile = self.profiled[self.slot(of.group)] && version == self.release.pushed;
            if !of.there || of.doing != Doing::Serving || version == 0 {
                continue;
            }
            let of = &mut self.workers[key];
            if of.has != version {
                if room > 0 {
                    room -= 1;
                    of.doing = Doing::Installing(now);
                    of.seeded = has_profile;
                    of.given |= version == self.release.pushed;
                    out.push(Effect::Install { worker, version, seeded: has_profile });
                }
            } else if of.profiles && !of.asked && self.release.phase == Phase::Second {
                of.asked = true;
                out.push(Effect::Profile { worker, version });
            } else if has_profile && !of.seeded {
                of.seeded = true;
                out.push(Effect::Seed { worker, version });
            }
        }
    }

    /// The version in force for a worker.
    fn version_for(&self, of: &Worker) -> u32 {
        let Release { in_force, pushed, phase } = self.release;
        let is_reached = match phase {
            Phase::Settled => false,
            Phase::First | Phase::Second => of.chosen,
            Phase::Third => true,
        };
        if is_reached { pushed } else { in_force }
    }

    /// Panics if more workers have been given the version than the phase allows.
    pub fn check(&self) {
        let first = self.settings.first;
        let all = self.count(|of| of.there);
        let given = self.count(|of| of.there && of.given);
        let second = self.second_of(all);
        match self.release.phase {
            Phase::First => assert!(given <= first, "{given} workers in the first phase"),
            // Workers that went may have made the part of all smaller.
            Phase::Second => {
                let most = second.max(self.reached);
                assert!(given <= most, "{given} of {all} workers in the second phase");
            }
            Phase::Settled | Phase::Third => {}
        }
    }
}

#[cfg(test)]
mod tests;
