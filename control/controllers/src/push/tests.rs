//! Pushes over workers that answer, fail, come and go.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A namespace of `count` workers in four groups, each of which takes ten seconds to install.
struct World {
    push: Push,
    now: Instant,
    out: Effects<Effect>,
    /// Installing, and until when.
    busy: BTreeMap<u32, (u32, Instant)>,
    has: Vec<u32>,
    seeded: Vec<bool>,
    /// Workers that fail under a version.
    breaks: fn(u32, u32) -> bool,
}

const TAKES: Duration = Duration::from_secs(10);

impl World {
    fn new(count: u32) -> World {
        let push = Push::new(Settings::default(), 400, 4, 0);
        let has = vec![0; count as usize];
        let (seeded, out) = (vec![false; count as usize], Effects::new(64));
        let mut world =
            World { push, now: Instant(0), out, busy: BTreeMap::new(), has, seeded, breaks: |_, _| false };
        (0..count).for_each(|at| world.come(at));
        world
    }

    fn come(&mut self, at: u32) {
        self.tell(Input::Worker { worker: WorkerRef(at), group: Some(GroupRef((at % 4) as u16)) });
    }

    fn tell(&mut self, input: Input) {
        self.push.step(self.now, input, &mut self.out);
        self.push.check();
    }

    /// A second later.
    fn turn(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        let ready: Vec<u32> =
            self.busy.iter().filter(|(_, (_, until))| *until <= self.now).map(|(at, _)| *at).collect();
        for at in ready {
            let (version, _) = self.busy.remove(&at).unwrap();
            let worker = WorkerRef(at);
            if (self.breaks)(at, version) {
                self.tell(Input::Failed { worker, version });
            } else {
                self.has[at as usize] = version;
                self.tell(Input::Installed { worker, version });
            }
        }
        self.tell(Input::Turn);
        let effects: Vec<Effect> = self.out.drain().collect();
        for effect in effects {
            match effect {
                Effect::Install { worker, version, seeded } => {
                    self.busy.insert(worker.0, (version, self.now + TAKES));
                    self.seeded[worker.0 as usize] = seeded;
                }
                Effect::Profile { worker, version } => {
                    assert_eq!(self.has[worker.0 as usize], version, "profiles what it does not have");
                    self.tell(Input::Profiled { group: Some(GroupRef((worker.0 % 4) as u16)), version });
                }
                Effect::Seed { worker, version } => {
                    assert!(self.has[worker.0 as usize] == version && !self.seeded[worker.0 as usize]);
                    self.seeded[worker.0 as usize] = true;
                }
                Effect::Release(_) => {}
            }
        }
    }

    /// Seconds until a push is settled.
    fn settle(&mut self) -> usize {
        (1..3000)
            .find(|_| {
                self.turn();
                self.push.newest().value.phase == Phase::Settled && self.busy.is_empty()
            })
            .expect("it ends")
    }

    fn with(&self, version: u32) -> usize {
        self.has.iter().filter(|has| **has == version).count()
    }

    /// The largest number of workers that had or installed the version in each phase.
    fn reached(&mut self, version: u32) -> BTreeMap<Phase, usize> {
        let mut most = BTreeMap::new();
        for _ in 0..3000 {
            self.turn();
            let reached = self.with(version) + self.busy.values().filter(|(of, _)| *of == version).count();
            let phase: &mut usize = most.entry(self.push.newest().value.phase).or_default();
            *phase = reached.max(*phase);
            if self.push.newest().value.phase == Phase::Settled {
                break;
            }
        }
        most
    }
}

#[test]
fn a_push_goes_through_three_phases_and_comes_with_a_profile() {
    let mut world = World::new(400);
    world.tell(Input::Push { version: 1 });
    world.tell(Input::Turn);
    let reached = world.reached(1);
    assert_eq!(reached[&Phase::First], 3);
    assert_eq!(reached[&Phase::Second], 8, "2% of 400");
    assert_eq!((reached[&Phase::Third], world.with(1)), (400, 400));
    assert!(world.seeded.iter().all(|seeded| *seeded), "some compile by themselves");
    let release = Release { in_force: 1, pushed: 1, phase: Phase::Settled };
    assert_eq!(world.push.newest().value, release);
}

#[test]
fn no_more_than_a_part_installs_at_once() {
    let mut world = World::new(40);
    world.tell(Input::Push { version: 1 });
    let mut most = 0;
    for _ in 0..600 {
        world.turn();
        most = most.max(world.busy.len());
    }
    assert_eq!((most, world.with(1)), (10, 40));
}

#[test]
fn a_version_that_breaks_is_taken_back() {
    let mut world = World::new(200);
    world.tell(Input::Push { version: 1 });
    world.settle();
    // Broken on one worker of the first phase.
    world.breaks = |at, version| version == 2 && at == 1;
    world.tell(Input::Push { version: 2 });
    let reached = world.reached(2);
    assert_eq!(reached.keys().collect::<Vec<_>>(), [&Phase::Settled, &Phase::First]);
    (0..300).for_each(|_| world.turn());
    assert_eq!((world.with(1), world.push.newest().value.in_force), (200, 1));
    // Broken where only the third phase comes: more than 2% of them.
    world.breaks = |at, version| version == 3 && at > 100;
    world.tell(Input::Push { version: 3 });
    assert!(world.reached(3)[&Phase::Third] > 8);
    (0..300).for_each(|_| world.turn());
    assert_eq!((world.with(1), world.with(3)), (200, 0));
}

#[test]
fn a_group_without_a_profile_goes_on_without_it() {
    let mut world = World::new(40);
    world.tell(Input::Push { version: 1 });
    for _ in 0..2000 {
        world.now = world.now + Duration::from_secs(1);
        world.tell(Input::Turn);
        let effects: Vec<Effect> = world.out.drain().collect();
        for effect in effects {
            if let Effect::Install { worker, version, seeded } = effect {
                assert!(!seeded);
                world.has[worker.0 as usize] = version;
                world.tell(Input::Installed { worker, version });
            }
        }
    }
    assert_eq!(world.with(1), 40);
}

#[test]
fn a_controller_that_starts_again_goes_on_with_the_phase() {
    let mut world = World::new(100);
    world.tell(Input::Push { version: 1 });
    (0..100).for_each(|_| world.turn());
    let held = world.push.newest();
    assert_eq!(held.value.phase, Phase::Second);
    world.push = Push::new(Settings::default(), 400, 4, 0);
    // It may give a profile a second time.
    world.seeded.fill(false);
    (0..100).for_each(|at| world.come(at));
    for at in 0..100 {
        let (worker, version) = (WorkerRef(at), world.has[at as usize]);
        world.tell(Input::Installed { worker, version });
    }
    world.tell(Input::Held(held));
    world.settle();
    assert_eq!((world.with(1), world.push.newest().value.in_force), (100, 1));
    assert!(world.push.newest().version > held.version);
}

proptest! {
    // Each case is half an hour of seconds.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Laws 1 (`check` after each step) and 5.
    #[test]
    fn whoever_comes_and_goes_all_get_the_version_in_force(
        steps in proptest::collection::vec((0..6u8, 0..60u32, 1..40usize), 1..40),
    ) {
        let (mut world, mut version) = (World::new(60), 0);
        for (what, at, seconds) in steps {
            match what {
                0 | 1 => {
                    world.tell(Input::WorkerGone { worker: WorkerRef(at) });
                    world.busy.remove(&at);
                    (world.has[at as usize], world.seeded[at as usize]) = (0, false);
                }
                2 => world.come(at),
                3 => {
                    version += 1;
                    world.tell(Input::Push { version });
                }
                4 => world.tell(Input::Failed { worker: WorkerRef(at), version }),
                _ => {}
            }
            (0..seconds).for_each(|_| world.turn());
        }
        (0..60).for_each(|at| world.come(at));
        (0..1200).for_each(|_| world.turn());
        let release = world.push.newest().value;
        prop_assert_eq!(release.phase, Phase::Settled);
        prop_assert!(release.in_force == 0 || world.with(release.in_force) == 60, "{release:?}: {:?}", world.has);
    }
}

#[test]
#[should_panic(expected = "workers in the first phase")]
fn canary_phase() {
    let mut world = World::new(20);
    world.tell(Input::Push { version: 1 });
    world.push.workers.iter_mut().take(4).for_each(|of| of.given = true);
    world.push.check();
}
