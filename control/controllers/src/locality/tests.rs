//! The laws, whatever comes and goes.

use super::*;
use proptest::prelude::*;

const REGION: RegionRef = RegionRef(0);

struct World {
    locality: Locality,
    now: Instant,
    out: Effects<Effect>,
}

impl World {
    fn new(settings: Settings, groups_max: usize) -> World {
        let locality = Locality::new(settings, 60, 60, 2, groups_max, 0);
        World { locality, now: Instant(0), out: Effects::new(256) }
    }

    fn tell(&mut self, input: Input) {
        self.locality.step(self.now, input, &mut self.out);
    }

    fn function(&mut self, number: u32, memory: u64, cpu: u64) {
        self.tell(Input::Function { function: FunctionRef(number), memory, cpu });
    }

    fn workers(&mut self, region: u16, numbers: std::ops::Range<u32>) {
        numbers.for_each(|at| self.tell(Input::Worker { worker: WorkerRef(at), region: RegionRef(region) }));
    }

    /// One period later: functions and workers that are told of another group.
    fn turn(&mut self) -> (usize, usize) {
        self.now = self.now + self.locality.settings.period;
        self.tell(Input::Turn);
        self.locality.check();
        let moved: Vec<Effect> = self.out.drain().collect();
        let functions = moved.iter().filter(|of| matches!(of, Effect::Function { .. })).count();
        (functions, moved.len() - functions)
    }

    fn groups(&self) -> Vec<Option<GroupRef>> {
        (0..60).map(|at| self.locality.group(FunctionRef(at))).collect()
    }

    fn memory(&self) -> Vec<u64> {
        (0..self.locality.open() as u16).map(|group| self.locality.need_of(GroupRef(group)).memory).collect()
    }
}

proptest! {
    /// Laws 1 to 3; `check` after each turn holds that nobody is without group or workers.
    #[test]
    fn whatever_comes_and_goes_all_have_a_group_and_moves_are_bounded(
        steps in proptest::collection::vec((0..6u8, 0..60u32, 0..5000u64, 0..900u64), 1..150),
    ) {
        let settings = Settings { functions_moved: 3, ..Settings::default() };
        let mut world = World::new(settings, 5);
        world.workers(0, 0..20);
        (0..30).for_each(|at| world.function(at, u64::from(at) * 100, 10));
        world.turn();
        for (what, at, memory, cpu) in steps {
            let (before, open) = (world.groups(), world.locality.open());
            match what {
                0 => world.tell(Input::Forget { function: FunctionRef(at) }),
                1 => world.tell(Input::WorkerGone { worker: WorkerRef(at) }),
                2 => world.workers((memory % 2) as u16, at..at + 1),
                _ => world.function(at, memory, cpu),
            }
            world.turn();
            let moved = world.groups().iter().zip(&before).filter(|(to, from)| to != from && from.is_some()).count();
            let bound = if world.locality.open() < open { 60 } else { 3 + usize::from(what == 0) };
            prop_assert!(moved <= bound, "{moved} functions moved at once");
        }
    }

    /// Laws 4 and 5.
    #[test]
    fn with_steady_needs_memory_is_balanced_and_nothing_moves_after_that(
        memory in proptest::collection::vec(1..2000u64, 30..60),
        cpu in proptest::collection::vec(0..1000u64, 60),
    ) {
        let mut world = World::new(Settings::default(), 4);
        // One group for all: they are placed before there are workers for more.
        memory.iter().enumerate().for_each(|(at, memory)| world.function(at as u32, *memory, cpu[at]));
        world.turn();
        world.workers(0, 0..40);
        (0..60).for_each(|_| {
            world.turn();
        });
        prop_assert_eq!(world.turn(), (0, 0), "still moving");
        let (sums, mean) = (world.memory(), memory.iter().sum::<u64>() / 4);
        let (most, least) = (sums.iter().max().unwrap(), sums.iter().min().unwrap());
        let smallest = *memory.iter().max().unwrap();
        prop_assert!(most - least <= (mean / 10).max(smallest), "{sums:?}");
        let all: u64 = cpu[..memory.len()].iter().sum();
        for group in (0..4).map(GroupRef) {
            let due = 1 + 36 * world.locality.need_of(group).cpu / all.max(1);
            let has = u64::from(world.locality.workers(REGION, Some(group)));
            prop_assert!(all == 0 || has.abs_diff(due) <= 2, "{group:?} has {has} of 40 workers, {due} are due");
        }
    }
}

proptest! {
    /// Law 6, beside the others.
    #[test]
    fn what_owners_put_together_stays_together(
        functions in proptest::collection::vec((0..2000u64, 0..4u32), 10..60),
        steps in proptest::collection::vec((0..3u8, 0..60u32, 0..4u32), 0..60),
    ) {
        let mut world = World::new(Settings::default(), 4);
        world.workers(0, 0..12);
        // The owners' group of each; those of the last one are on their own.
        let mut of: Vec<Option<u32>> = vec![None; 60];
        for (at, (memory, group)) in functions.iter().enumerate() {
            world.function(at as u32, *memory, 10);
            of[at] = Some(*group);
        }
        for (what, at, group) in steps.into_iter().chain([(9, 0, 0)]) {
            match what {
                0 => {
                    world.tell(Input::Forget { function: FunctionRef(at) });
                    of[at as usize] = None;
                }
                1 if of[at as usize].is_some() => of[at as usize] = Some(group),
                _ => {}
            }
            let first = |group| of.iter().position(|other| *other == Some(group)).map(|at| FunctionRef(at as u32));
            for (at, group) in of.iter().enumerate() {
                let Some(group) = *group else { continue };
                let with = if group == 3 { None } else { first(group) };
                world.tell(Input::Together { function: FunctionRef(at as u32), with });
            }
            world.turn();
            for group in 0..3 {
                let members = world.groups().into_iter().zip(&of).filter(|(_, other)| **other == Some(group));
                let mut places: Vec<_> = members.map(|(place, _)| place).collect();
                places.dedup();
                prop_assert!(places.len() <= 1, "group {group} is in {places:?}");
            }
        }
    }
}

#[test]
fn those_that_are_together_weigh_together() {
    let mut world = World::new(Settings::default(), 2);
    world.workers(0, 0..6);
    (0..6).for_each(|at| world.function(at, 100, 1));
    (0..3).for_each(|function| {
        world.tell(Input::Together { function: FunctionRef(function), with: Some(FunctionRef(0)) });
    });
    world.turn();
    assert_eq!(world.memory(), [300, 300]);
}

#[test]
#[should_panic(expected = "function 1 is not where Some(0) is")]
fn canary_together() {
    let mut world = World::new(Settings::default(), 2);
    world.workers(0, 0..6);
    (0..4).for_each(|at| world.function(at, 100, 1));
    world.tell(Input::Together { function: FunctionRef(1), with: Some(FunctionRef(0)) });
    world.turn();
    let other = GroupRef(1 - world.locality.group(FunctionRef(0)).unwrap().0);
    world.locality.assign(FunctionRef(1), Some(other));
    world.locality.check();
}

#[test]
fn memory_hungry_functions_are_kept_apart() {
    let mut world = World::new(Settings::default(), 4);
    world.workers(0, 0..12);
    (0..40).for_each(|at| world.function(at, if at < 4 { 6000 } else { 50 }, 1));
    world.turn();
    let mut of_hungry: Vec<_> = world.groups()[..4].to_vec();
    of_hungry.sort();
    assert_eq!(of_hungry, (0..4).map(|group| Some(GroupRef(group))).collect::<Vec<_>>());
}

#[test]
fn a_small_region_has_workers_that_serve_all() {
    let mut world = World::new(Settings::default(), 4);
    world.workers(0, 0..12);
    world.workers(1, 12..15);
    world.function(0, 1, 1);
    world.turn();
    assert_eq!(world.locality.open(), 4);
    assert_eq!(world.locality.workers(RegionRef(1), None), 3);
    world.workers(1, 15..16);
    world.turn();
    assert_eq!(world.locality.workers(RegionRef(1), None), 0, "one for each group");
}

#[test]
fn few_workers_make_few_groups() {
    let mut world = World::new(Settings::default(), 4);
    world.workers(0, 0..7);
    (0..8).for_each(|at| world.function(at, 100, 1));
    world.turn();
    assert_eq!((world.locality.open(), world.memory()), (2, vec![400, 400]));
    (1..6).for_each(|at| world.tell(Input::WorkerGone { worker: WorkerRef(at) }));
    world.turn();
    assert_eq!(world.locality.open(), 2, "two workers are still one for each");
    world.tell(Input::WorkerGone { worker: WorkerRef(0) });
    let moved = world.turn();
    assert_eq!((world.locality.open(), world.memory()), (1, vec![800]));
    assert_eq!(moved.0, 4, "the half of the closed group");
}

#[test]
fn a_controller_that_starts_again_moves_nothing() {
    let mut world = World::new(Settings::default(), 4);
    world.workers(0, 0..12);
    (0..30).for_each(|at| world.function(at, u64::from(at * at), 7));
    for _ in 0..9 {
        world.turn();
    }
    let mut again = World::new(Settings::default(), 4);
    for at in 0..30 {
        let group = *world.locality.function_board.newest(at as usize);
        again.tell(Input::HeldFunction { function: FunctionRef(at), group });
    }
    again.workers(0, 0..12);
    for at in 0..12 {
        let group = *world.locality.worker_board.newest(at as usize);
        again.tell(Input::HeldWorker { worker: WorkerRef(at), group });
    }
    (0..30).for_each(|at| again.function(at, u64::from(at * at), 7));
    assert_eq!(again.turn(), (0, 0));
    again.function(30, 1, 1);
    assert_eq!(again.turn(), (1, 0));
    let version = again.locality.function_board.newest(30).version;
    assert!(version > (0..30).map(|at| world.locality.function_board.newest(at).version).max().unwrap());
}

#[test]
#[should_panic(expected = "what groups need is summed wrongly")]
fn canary_sums() {
    let mut world = World::new(Settings::default(), 2);
    world.function(0, 5, 5);
    world.locality.groups[0].memory += 1;
    world.locality.check();
}
