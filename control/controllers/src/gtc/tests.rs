//! The laws of the controller over time: it comes closer, arrives, stays, and makes good what is lost.

use super::*;
use crate::snapshot::Cache;
use proptest::prelude::*;

/// A controller of `regions` in a row, one group, and the time.
struct World {
    gtc: Gtc,
    now: Instant,
    out: Effects<Effect>,
}

const GROUP: GroupRef = GroupRef(0);

fn region(number: usize) -> RegionRef {
    RegionRef(number as u16)
}

impl World {
    fn new(settings: Settings, supply: &[Millicores]) -> World {
        let gtc = Gtc::new(settings, supply.len(), 1, 0);
        let mut world = World { gtc, now: Instant(0), out: Effects::new(4) };
        for (at, capacity) in supply.iter().enumerate() {
            world.tell(Input::Region { region: region(at), state: RegionState::Up });
            world.tell(Input::Supply { region: region(at), group: GROUP, capacity: *capacity });
            for b in 0..at {
                let distance = (at - b) as u32;
                world.tell(Input::Distance { a: region(at), b: region(b), distance });
            }
        }
        world
    }

    fn tell(&mut self, input: Input<'_>) {
        self.gtc.step(self.now, input, &mut self.out);
    }

    fn demand(&mut self, of: &[Millicores]) {
        for (at, work) in of.iter().enumerate() {
            self.tell(Input::Demand { region: region(at), group: GROUP, work: *work });
        }
    }

    /// One period later. Whether there is a new matrix.
    fn turn(&mut self) -> bool {
        self.now = self.now + self.gtc.settings.period;
        self.tell(Input::Turn);
        self.gtc.check();
        self.out.drain().count() > 0
    }

    fn turns(&mut self, count: usize) -> usize {
        (0..count).filter(|_| self.turn()).count()
    }

    fn shares(&self) -> Vec<u16> {
        let matrix = &self.gtc.newest().value;
        (0..matrix.shape().0).flat_map(|by| matrix.row(GROUP, region(by)).to_vec()).collect()
    }
}

proptest! {
    #[test]
    fn with_steady_demand_it_arrives_and_is_silent(
        demand in proptest::collection::vec(0..3000u64, 5),
        supply in proptest::collection::vec(1..3000u64, 5),
    ) {
        let mut world = World::new(Settings::default(), &supply);
        world.demand(&demand);
        let before = world.gtc.newest().version;
        let news: Vec<bool> = (0..40).map(|_| world.turn()).collect();
        // Half of 1000, and half of that: after twenty turns the last thousandth.
        prop_assert!(!news[20..].contains(&true), "still moving: {news:?}");
        let versions = world.gtc.newest().version - before;
        prop_assert_eq!(versions, news.iter().filter(|new| **new).count() as u64);
        let target = world.gtc.plan.target();
        let far = plan::farthest(target, &world.shares());
        prop_assert!(far <= world.gtc.settings.band, "{far} from the plan");
    }

    /// Whoever goes and comes and whatever is asked: rows are whole, and who failed is left alone (`check`).
    #[test]
    fn whatever_happens_the_matrix_is_whole(
        steps in proptest::collection::vec((0..4usize, 0..4u8, 0..3000u64), 1..80),
    ) {
        let mut world = World::new(Settings::default(), &[1000; 4]);
        let mut cache = Cache::new(Matrix::identity(4, 1));
        for (at, what, amount) in steps {
            let region = region(at);
            match what {
                0 => world.tell(Input::Supply { region, group: GROUP, capacity: amount.saturating_sub(500) }),
                1 => {
                    let state = [RegionState::Up, RegionState::Draining, RegionState::Failed][amount as usize % 3];
                    world.tell(Input::Region { region, state });
                }
                _ => world.tell(Input::Demand { region, group: GROUP, work: amount }),
            }
            if world.turn() {
                prop_assert!(cache.offer(world.gtc.newest().clone()), "a version that is not newer");
            }
            let version = world.gtc.newest().version;
            prop_assert!(cache.version() == version || version == 1, "a change was not published");
        }
    }

    /// Demand that swings inside the band moves nothing, once it is there.
    #[test]
    fn noise_is_not_answered(swings in proptest::collection::vec(0..5u64, 60)) {
        let mut world = World::new(Settings::default(), &[1000, 1000, 1000]);
        world.demand(&[1500, 300, 300]);
        world.turns(30);
        for swing in swings {
            world.demand(&[1500 + swing, 300 - swing, 300 + swing]);
            prop_assert!(!world.turn(), "moved by {swing} of 1500");
        }
    }
}

#[test]
fn it_begins_with_the_identity_and_returns_to_it() {
    let mut world = World::new(Settings::default(), &[1000, 1000]);
    assert!(!world.turn());
    assert_eq!(world.shares(), [1000, 0, 0, 1000]);
    world.demand(&[1300, 100]);
    world.turns(20);
    // 400 of region 0 are over its 900; region 1 takes them on beside its own 100.
    let shares = world.shares();
    assert_eq!(shares[..2], [1000, 0]);
    assert!((790..=805).contains(&shares[2]), "{shares:?}");
    world.demand(&[300, 300]);
    world.turns(20);
    assert_eq!(world.shares(), [1000, 0, 0, 1000]);
}

#[test]
fn a_region_lost_is_made_good_in_one_turn_and_between_periods() {
    let mut world = World::new(Settings::default(), &[1000; 4]);
    world.demand(&[600; 4]);
    assert!(!world.turn());
    world.tell(Input::Region { region: region(1), state: RegionState::Draining });
    world.tell(Input::Turn);
    assert_eq!(world.out.drain().count(), 1, "not in the next period");
    world.gtc.check();
    let matrix = &world.gtc.newest().value;
    let from_lost: Vec<Permille> = (0..4).map(|by| matrix.share(GROUP, region(by), region(1))).collect();
    // 300 of room each: the two neighbours take all.
    assert_eq!(from_lost, [333, 1000, 333, 0], "both neighbours of region 1 take its calls");
    world.tell(Input::Region { region: region(1), state: RegionState::Failed });
    world.tell(Input::Turn);
    assert_eq!(world.shares(), Matrix::identity(4, 1).group_mut(0), "nobody pulls from who is gone");
}

#[test]
fn workers_lost_without_a_word_are_made_good_in_one_turn() {
    let mut world = World::new(Settings::default(), &[1000; 3]);
    world.demand(&[500; 3]);
    world.turn();
    world.tell(Input::Supply { region: region(2), group: GROUP, capacity: 0 });
    world.tell(Input::Turn);
    assert_eq!(world.out.drain().count(), 1);
    assert_eq!(world.gtc.newest().value.share(GROUP, region(1), region(2)), 444, "400 of 900");
}

/// Closed loop: queues that grow by what comes and shrink by what is pulled, seen one period late.
#[test]
fn a_backlog_is_shared_without_swinging() {
    let (mut world, period_s) = (World::new(Settings::default(), &[1000; 3]), 2);
    let (mut queues, mut seen, mut history) = ([40_000u64, 0, 0], [0u64; 3], Vec::new());
    for _ in 0..400 {
        let arrives = [1100, 500, 500];
        // A backlog should be gone in a minute.
        let demand: Vec<u64> = (0..3).map(|at| arrives[at] + seen[at] / 60).collect();
        seen = queues;
        world.demand(&demand);
        world.turn();
        (0..3).for_each(|at| queues[at] += arrives[at] * period_s);
        for by in 0..3 {
            let row: Vec<u16> = world.gtc.newest().value.row(GROUP, region(by)).to_vec();
            for (from, share) in row.iter().enumerate() {
                queues[from] = queues[from].saturating_sub(u64::from(*share) * period_s);
            }
        }
        history.push(world.gtc.newest().value.share(GROUP, region(1), region(0)));
    }
    assert!(queues.iter().all(|queue| *queue < 5000), "not drained: {queues:?}");
    history.dedup();
    let turns = history.windows(3).filter(|three| (three[0] < three[1]) != (three[1] < three[2])).count();
    assert!(turns <= 2, "it swings: {turns} turns of direction in {history:?}");
}

#[test]
fn a_controller_that_starts_again_goes_on_above_what_is_held() {
    let mut world = World::new(Settings::default(), &[1000, 1000]);
    world.demand(&[1300, 100]);
    world.turns(20);
    let held = world.gtc.newest().clone();
    let mut again = World::new(Settings::default(), &[1000, 1000]);
    again.demand(&[1300, 100]);
    again.tell(Input::Held(&held));
    assert_eq!(again.gtc.newest(), &held);
    again.turn();
    assert_eq!(again.shares(), again.gtc.plan.target(), "the first turn goes to the plan");
    again.demand(&[300, 300]);
    assert!(again.turn() && again.gtc.newest().version > held.version);
    let other = Snapshot { version: 90, value: Matrix::identity(5, 1) };
    again.tell(Input::Held(&other));
    assert_eq!((again.gtc.newest().version, again.gtc.newest().value.shape()), (91, (2, 1)));
}

#[test]
#[should_panic(expected = "which failed")]
fn canary_failover() {
    let mut world = World::new(Settings::default(), &[1000, 1000]);
    world.demand(&[1300, 100]);
    world.turns(9);
    world.gtc.states[0] = RegionState::Failed;
    world.gtc.check();
}
