use super::*;
use call::shares::LimitKind;
use proptest::prelude::*;

fn name(of: &str) -> LimitName {
    LimitName { kind: LimitKind::Concurrency, of: of.into() }
}

/// A shard as it is: it begins calls while it has room, and forgets what it runs when it dies.
#[derive(Clone, Debug, Default)]
struct Shard {
    table: ShareTable,
    is_up: bool,
    /// By limit: what runs, and what waits.
    used: Vec<u64>,
    waiting: Vec<u64>,
    /// How often it has begun something.
    begun: Vec<u64>,
    /// A planted bug: it says that nothing runs.
    lies: bool,
}

/// Some shards and one decider, with a network that loses and delays what it carries.
struct World {
    shards: Vec<Shard>,
    /// Numbers of those that have joined and not left.
    members: Vec<ShardId>,
    decider: Shares,
    now: Instant,
    limits: Vec<u64>,
    /// Told, and neither arrived nor lost.
    late: Vec<Told>,
    told: u64,
}

impl World {
    fn new(count: u16, limits: Vec<u64>) -> World {
        let members: Vec<ShardId> = (0..count).collect();
        let some = vec![0; limits.len()];
        let shard = |roster: Vec<ShardId>| Shard {
            table: ShareTable { version: 0, rosters: vec![roster], rows: Vec::new() },
            is_up: true,
            used: some.clone(),
            waiting: some.clone(),
            begun: some.clone(),
            lies: false,
        };
        // Those that join later know of no division.
        let shards = (0..8).map(|n| shard(if n < count { members.clone() } else { Vec::new() })).collect();
        let mut decider = Shares::new();
        decider.step(Instant(0), Input::Members(members.clone()), &mut Vec::new());
        World { shards, members, decider, now: Instant(1), limits, late: Vec::new(), told: 0 }
    }

    fn share(&self, shard: usize, limit: usize) -> u64 {
        let named = name(&limit.to_string());
        self.shards[shard].table.share(shard as ShardId, &named, self.limits[limit])
    }

    /// Calls begin while there is room.
    fn run(&mut self, shard: usize) {
        for limit in 0..self.limits.len() {
            let share = self.share(shard, limit);
            let of = &mut self.shards[shard];
            if of.is_up && of.waiting[limit] > 0 && of.used[limit] < share {
                let more = of.waiting[limit].min(share - of.used[limit]);
                of.used[limit] += more;
                of.waiting[limit] -= more;
                of.begun[limit] += more;
            }
        }
        self.check();
    }

    fn check(&self) {
        for limit in 0..self.limits.len() {
            let parts: u64 = (0..self.shards.len()).map(|shard| self.share(shard, limit)).sum();
            let used: u64 = self.shards.iter().map(|shard| shard.used[limit]).sum();
            assert!(parts <= self.limits[limit], "parts of {limit} come to {parts}");
            assert!(used <= self.limits[limit], "{used} calls of {limit} run");
        }
        self.decider.check();
    }

    fn arrive(&mut self, (shard, table): Told) {
        let of = &mut self.shards[usize::from(shard)];
        if of.is_up && table.version >= of.table.version {
            of.table = table;
        }
        self.run(usize::from(shard));
    }

    fn state(&self, shard: usize) -> SharesState {
        let of = &self.shards[shard];
        let uses = (0..self.limits.len()).filter(|limit| of.used[*limit] + of.waiting[*limit] > 0);
        let said = |limit: usize| ShareUse {
            name: name(&limit.to_string()),
            limit: self.limits[limit],
            share: self.share(shard, limit),
            used: if of.lies { 0 } else { of.used[limit] },
            wanted: of.used[limit] + of.waiting[limit],
        };
        SharesState { table: of.table.clone(), uses: uses.map(said).collect() }
    }

    /// The decider looks at all, concludes and tells; each message is lost, late or there by these bits.
    fn round(&mut self, mut fate: u64) {
        self.now = self.now + Duration::from_millis(500);
        let mut lucky = || {
            let luck = fate & 3;
            fate = fate.rotate_right(2);
            luck
        };
        for shard in self.members.clone() {
            if self.shards[usize::from(shard)].is_up && lucky() != 0 {
                let state = self.state(usize::from(shard));
                self.decider.step(self.now, Input::Said { shard, state }, &mut Vec::new());
            }
        }
        let mut told = Vec::new();
        self.decider.step(self.now, Input::Turn, &mut told);
        self.check();
        for (shard, table) in told {
            self.told += 1;
            match lucky() {
                0 => {}
                1 => self.late.push((shard, table)),
                _ => {
                    self.arrive((shard, table));
                    // The answer may be lost, too.
                    if self.shards[usize::from(shard)].is_up && lucky() != 0 {
                        let state = self.state(usize::from(shard));
                        self.decider.step(self.now, Input::Said { shard, state }, &mut Vec::new());
                    }
                }
            }
            self.check();
        }
    }

    fn join_or_leave(&mut self, shard: ShardId) {
        let idle = |of: &Shard| of.used.iter().chain(&of.waiting).all(|count| *count == 0);
        match self.members.iter().position(|member| *member == shard) {
            None if self.shards[usize::from(shard)].table.version == 0 => self.members.push(shard),
            // It leaves when it holds nothing, and does not run any more.
            Some(at) if self.members.len() > 1 && idle(&self.shards[usize::from(shard)]) => {
                self.members.remove(at);
                let of = &mut self.shards[usize::from(shard)];
                (of.is_up, of.table) = (false, ShareTable { version: u64::MAX, ..ShareTable::default() });
            }
            _ => return,
        }
        self.members.sort_unstable();
        self.decider.step(self.now, Input::Members(self.members.clone()), &mut Vec::new());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Come(usize, usize, u64),
    End(usize, usize, u64),
    Kill(usize),
    Start(usize),
    Member(u16),
    Late,
    Forget,
    Round(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..8, 0usize..3, 1u64..40).prop_map(|(shard, limit, n)| Step::Come(shard, limit, n)),
        4 => (0usize..8, 0usize..3, 1u64..40).prop_map(|(shard, limit, n)| Step::End(shard, limit, n)),
        1 => (0usize..8).prop_map(Step::Kill),
        2 => (0usize..8).prop_map(Step::Start),
        1 => (0u16..8).prop_map(Step::Member),
        2 => Just(Step::Late),
        1 => Just(Step::Forget),
        6 => any::<u64>().prop_map(Step::Round),
    ]
}

impl World {
    fn go(&mut self, step: Step) {
        let is_member = |world: &World, shard: usize| world.members.contains(&(shard as ShardId));
        match step {
            Step::Come(shard, limit, count) if is_member(self, shard) => {
                self.shards[shard].waiting[limit] += count;
                self.run(shard);
            }
            Step::End(shard, limit, count) => {
                let of = &mut self.shards[shard];
                of.used[limit] = of.used[limit].saturating_sub(count);
                self.run(shard);
            }
            Step::Kill(shard) => {
                // What it ran goes on elsewhere, or nowhere: it keeps its part, and its table on disk.
                self.shards[shard].is_up = false;
            }
            Step::Start(shard) if is_member(self, shard) => {
                self.shards[shard].is_up = true;
                self.run(shard);
            }
            Step::Member(shard) => self.join_or_leave(shard),
            Step::Late => {
                if let Some(told) = (!self.late.is_empty()).then(|| self.late.remove(0)) {
                    self.arrive(told);
                }
            }
            // The decider is killed, and another one begins.
            Step::Forget => {
                // What the old one has told is lost with its connections.
                self.late.clear();
                self.decider = Shares::new();
                self.decider.step(self.now, Input::Members(self.members.clone()), &mut Vec::new());
            }
            Step::Round(fate) => self.round(fate),
            Step::Come(..) | Step::Start(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn never_above_the_limit_and_nobody_starves(
        count in 1u16..5,
        limits in prop::collection::vec(prop_oneof![1u64..6, 1u64..200], 3),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(count, limits);
        for step in steps {
            world.go(step);
        }
        // All is well from now on: whoever waits begins something in the end.
        world.members.clone().into_iter().for_each(|shard| world.shards[usize::from(shard)].is_up = true);
        let late = std::mem::take(&mut world.late);
        late.into_iter().for_each(|told| world.arrive(told));
        let members: Vec<usize> = world.members.iter().map(|shard| usize::from(*shard)).collect();
        for shard in &members {
            world.shards[*shard].waiting.iter_mut().for_each(|waiting| *waiting += 1000);
            world.shards[*shard].begun.iter_mut().for_each(|begun| *begun = 0);
        }
        for _ in 0..20 + 10 * members.len() {
            world.round(u64::MAX);
            for shard in &members {
                world.shards[*shard].used.iter_mut().for_each(|used| *used = 0);
                world.run(*shard);
            }
        }
        for shard in members {
            for limit in 0..3 {
                prop_assert!(world.shards[shard].begun[limit] > 0, "shard {} of limit {}", shard, limit);
            }
        }
    }

    #[test]
    fn what_is_wanted_is_given_as_far_as_it_goes(limit in 0u64..500, wants in prop::collection::vec(0u64..500, 1..9)) {
        let order: Vec<ShardId> = (0..wants.len() as u16).collect();
        let wants: BTreeMap<ShardId, u64> = order.iter().copied().zip(wants).collect();
        let parts = fill(limit, &wants, &order);
        prop_assert_eq!(parts.values().sum::<u64>(), limit);
        let wanted: u64 = wants.values().sum();
        for (shard, part) in &parts {
            if wanted <= limit {
                prop_assert!(*part >= wants[shard]);
            } else {
                // Whoever misses some has as much as anybody else, but for one.
                prop_assert!(*part >= wants[shard] || parts.values().all(|other| *other <= part + 1));
            }
        }
    }
}

/// What one shard wants and another does not moves, and moves back.
#[test]
fn parts_follow_the_demand() {
    let mut world = World::new(2, vec![10, 1, 7]);
    world.shards[0].waiting[0] = 100;
    (0..4).for_each(|_| world.round(u64::MAX));
    assert_eq!((world.shards[0].used[0], world.share(1, 0)), (10, 0));
    world.shards[1].waiting[0] = 100;
    (0..4).for_each(|_| world.round(u64::MAX));
    assert_eq!((world.share(0, 0), world.share(1, 0)), (5, 0), "lowered, but ten still run");
    world.shards[0].used[0] = 2;
    (0..4).for_each(|_| world.round(u64::MAX));
    assert_eq!((world.share(0, 0), world.share(1, 0)), (5, 5));
    // Nothing is told while nothing changes.
    let told = world.told;
    (0..9).for_each(|_| world.round(u64::MAX));
    assert_eq!(world.told, told);
    // When nobody wants it, all is even again, and no table names it.
    for shard in 0..2 {
        (world.shards[shard].used[0], world.shards[shard].waiting[0]) = (0, 0);
    }
    (0..4).for_each(|_| world.round(u64::MAX));
    assert!(world.shards.iter().take(2).all(|shard| shard.table.rows.is_empty()));
}

#[test]
fn a_shard_that_is_away_keeps_its_part() {
    let mut world = World::new(2, vec![10, 1, 7]);
    world.shards[0].waiting[0] = 100;
    (0..4).for_each(|_| world.round(u64::MAX));
    world.shards[0].is_up = false;
    world.shards[1].waiting[0] = 100;
    (0..9).for_each(|_| world.round(u64::MAX));
    assert_eq!((world.shards[0].used[0], world.share(1, 0)), (10, 0));
}

#[test]
#[should_panic(expected = "run")]
fn canary_a_shard_that_says_too_little() {
    let mut world = World::new(2, vec![10, 1, 7]);
    world.shards[0].waiting[0] = 100;
    (0..4).for_each(|_| world.round(u64::MAX));
    world.shards[0].lies = true;
    world.shards[1].waiting[0] = 100;
    (0..4).for_each(|_| world.round(u64::MAX));
}

/// Seven shards want six: also the one that comes last by number has its turns.
#[test]
fn whoever_has_waited_for_longest_is_next() {
    let mut world = World::new(7, vec![6, 1, 1]);
    for shard in 0..7 {
        world.shards[shard].waiting[0] = 1000;
    }
    for _ in 0..90 {
        world.round(u64::MAX);
        for shard in 0..7 {
            world.shards[shard].used[0] = 0;
            world.run(shard);
        }
    }
    let begun: Vec<u64> = world.shards.iter().take(7).map(|shard| shard.begun[0]).collect();
    assert!(begun.iter().all(|count| *count > 30), "{begun:?}");
}
