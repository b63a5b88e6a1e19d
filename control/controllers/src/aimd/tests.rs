//! The laws, and the loop closed by services that push back.

use super::*;
use proptest::prelude::*;

const NOW: Instant = Instant(0);

/// A controller, a clock, and what was published.
struct World {
    aimd: Aimd,
    now: Instant,
    out: Effects<Effect>,
}

fn function(number: usize) -> FunctionRef {
    FunctionRef(number as u32)
}

const SERVICE: DownstreamRef = DownstreamRef(0);

impl World {
    fn new(functions: usize, threshold_per_minute: u64) -> World {
        let aimd = Aimd::new(Settings::default(), functions, 2, 0);
        let mut world = World { aimd, now: NOW, out: Effects::new(64) };
        world.tell(Input::Downstream { downstream: SERVICE, threshold_per_minute });
        (0..functions).for_each(|at| world.tell(Input::Uses { function: function(at), downstream: SERVICE }));
        world
    }

    fn tell(&mut self, input: Input) {
        self.aimd.step(self.now, input, &mut self.out);
    }

    fn turn(&mut self) {
        self.now = self.now + self.aimd.settings.period;
        self.tell(Input::Turn);
        self.aimd.check();
        self.out.drain().for_each(drop);
    }

    fn limit(&self, at: usize) -> Option<MilliCalls> {
        self.aimd.limit(function(at)).value
    }
}

proptest! {
    /// Laws 1 to 3, against books of their own.
    #[test]
    fn a_limit_falls_by_m_rises_by_i_and_is_lifted(
        periods in proptest::collection::vec((0..400u64, 0..60u64, 0..40u64, 0..40u64), 1..80),
    ) {
        let (mut world, settings) = (World::new(2, 200), Settings::default());
        let mut expected: Option<(u64, u64)> = None;
        for (calls, waiting, own, others) in periods {
            world.tell(Input::Ran { function: function(0), calls, waiting });
            world.tell(Input::PushedBack { function: function(0), downstream: SERVICE, count: own });
            world.tell(Input::PushedBack { function: function(1), downstream: SERVICE, count: others });
            world.turn();
            let rate = calls * 100;
            if (own + others) * 6 > 200 {
                let (limit, began) = expected.unwrap_or((rate.max(100), rate.max(100)));
                if own > 0 {
                    expected = Some(((limit * 8 / 10).max(settings.least), began));
                }
            } else if let Some((limit, began)) = expected {
                let limit = limit + (began * 2 / 100).min(limit * 5 / 100).max(1);
                let lifted = limit >= began && (calls + waiting) * 100 <= limit / 2;
                expected = (!lifted).then_some((limit, began));
            }
            prop_assert_eq!(world.limit(0), expected.map(|(limit, _)| limit));
        }
    }

    /// Law 4: functions that want much more than a service can do, whatever they began with.
    #[test]
    fn what_is_asked_settles_around_the_capacity(
        wishes in proptest::collection::vec(50..2000u64, 2..5),
        capacity in 40..200u64,
    ) {
        let mut world = World::new(wishes.len(), 60);
        let alike = wishes.iter().max().copied().unwrap();
        let mut asked = Vec::new();
        for period in 0..400 {
            // From the middle on, all want the same.
            let wish = |at: usize| if period < 60 { wishes[at] } else { alike };
            asked.push(serve(&mut world, &(0..wishes.len()).map(wish).collect::<Vec<_>>(), capacity));
        }
        let late = &asked[200..];
        let mean = late.iter().sum::<u64>() / late.len() as u64;
        prop_assert!((capacity * 7 / 10..=capacity * 11 / 10).contains(&mean), "{mean} of {capacity}: {late:?}");
        prop_assert!(late.iter().all(|of| *of <= capacity * 13 / 10), "above {capacity}: {late:?}");
    }
}

/// One period in which functions want so many calls a second of a service that can do `capacity`: what is above comes
/// back, spread over all. How many a second were made.
fn serve(world: &mut World, wishes: &[u64], capacity: u64) -> u64 {
    let made: Vec<u64> = (0..wishes.len())
        .map(|at| world.limit(at).map_or(wishes[at], |limit| wishes[at].min(limit / 1000)) * 10)
        .collect();
    let all: u64 = made.iter().sum();
    let over = all.saturating_sub(capacity * 10);
    for (at, calls) in made.iter().enumerate() {
        let waiting = wishes[at] * 10 - calls;
        world.tell(Input::Ran { function: function(at), calls: *calls, waiting });
        let count = scale(*calls, over, all.max(1));
        world.tell(Input::PushedBack { function: function(at), downstream: SERVICE, count });
    }
    world.turn();
    all / 10
}

#[test]
fn functions_that_began_alike_come_to_get_alike() {
    let mut world = World::new(2, 60);
    let wishes = [200, 200];
    serve(&mut world, &wishes, 250);
    // Only one of the two is pushed back for a while.
    for _ in 0..4 {
        world.tell(Input::PushedBack { function: function(0), downstream: SERVICE, count: 100 });
        world.turn();
    }
    let apart = |world: &World| world.limit(1).unwrap().abs_diff(world.limit(0).unwrap());
    assert!(apart(&world) > 80_000, "{}", apart(&world));
    for _ in 0..200 {
        serve(&mut world, &wishes, 250);
    }
    assert!(apart(&world) < 20_000, "{}", apart(&world));
}

/// The incident of the paper's section 5.4 in small: a service falls to a tenth for half an hour.
#[test]
fn a_backlog_grows_while_a_service_is_ill_and_drains_after_it() {
    let (mut world, mut backlog, mut worst, mut drained) = (World::new(2, 60), [0u64; 2], 0, None);
    for period in 0..2000u64 {
        let capacity = if (60..240).contains(&period) { 20 } else { 300 };
        // 80 come each second for each of two; what failed comes again.
        let wishes = [0, 1].map(|at| 80 + backlog[at] / 10);
        let made = serve(&mut world, &wishes, capacity).min(capacity);
        let done = [0, 1].map(|at| (wishes[at] * made / (wishes[0] + wishes[1])) * 10);
        (0..2).for_each(|at| backlog[at] = (backlog[at] + 800).saturating_sub(done[at]));
        worst = worst.max(backlog[0]);
        if period > 240 && backlog[0] + backlog[1] < 100 && drained.is_none() {
            drained = Some(period - 240);
        }
    }
    assert!(worst > 80_000, "the service was not ill: {worst}");
    let drained = drained.expect("the backlog ran off");
    assert!(drained <= 720, "more than two hours: {drained} periods");
    assert_eq!([world.limit(0), world.limit(1)], [None, None], "and the limits are lifted");
}

#[test]
fn the_least_limit_of_several_services_holds() {
    let mut world = World::new(1, 6);
    let other = DownstreamRef(1);
    world.tell(Input::Downstream { downstream: other, threshold_per_minute: 0 });
    for count in [0, 1] {
        world.tell(Input::Ran { function: function(0), calls: 1000, waiting: 0 });
        world.tell(Input::PushedBack { function: function(0), downstream: other, count: 1 });
        world.tell(Input::PushedBack { function: function(0), downstream: SERVICE, count: count * 10 });
        world.turn();
    }
    assert_eq!(world.limit(0), Some(64_000), "100 a second, twice times M");
    let state = world.aimd.downstream(other);
    assert_eq!((state.per_minute, state.limited), (6, 1));
    assert_eq!(world.aimd.throttles(function(0)).count(), 2);
    world.tell(Input::Forget { function: function(0) });
    world.turn();
    assert_eq!(world.limit(0), None);
}

#[test]
fn a_service_without_an_owners_word_limits_nobody() {
    let mut world = World::new(1, u64::MAX);
    world.tell(Input::Ran { function: function(0), calls: 1000, waiting: 0 });
    world.tell(Input::PushedBack { function: function(0), downstream: SERVICE, count: u64::MAX });
    world.tell(Input::PushedBack { function: function(0), downstream: SERVICE, count: 9 });
    world.turn();
    assert_eq!(world.limit(0), None);
}

#[test]
fn a_ninth_service_is_counted_and_limits_nobody() {
    let mut aimd = Aimd::new(Settings::default(), 1, 9, 0);
    let mut out = Effects::new(1);
    for downstream in (0..9).map(DownstreamRef) {
        aimd.step(NOW, Input::Uses { function: function(0), downstream }, &mut out);
    }
    aimd.step(NOW, Input::Uses { function: function(0), downstream: DownstreamRef(3) }, &mut out);
    assert_eq!(aimd.refused(), 1);
}

#[test]
fn a_controller_that_starts_again_goes_on_from_what_is_held() {
    let mut world = World::new(1, 6);
    let held = Snapshot { version: 41, value: Some(50_000) };
    world.tell(Input::Held { function: function(0), limit: held });
    world.tell(Input::Ran { function: function(0), calls: 500, waiting: 900 });
    world.turn();
    // 140 a second are asked for: 2% of that is more than 5% of the limit.
    assert_eq!(world.aimd.limit(function(0)), Snapshot { version: 42, value: Some(52_500) });
}

#[test]
fn what_finds_no_room_is_published_by_the_next_turn() {
    let mut world = World::new(3, 6);
    world.out = Effects::new(2);
    for at in 0..3 {
        world.tell(Input::Ran { function: function(at), calls: 100, waiting: 0 });
        world.tell(Input::PushedBack { function: function(at), downstream: SERVICE, count: 9 });
    }
    world.tell(Input::Turn);
    assert!(world.out.is_full());
    assert_eq!(world.out.drain().count(), 2);
    world.tell(Input::Turn);
    assert_eq!(world.out.drain().count(), 1);
}

#[test]
#[should_panic(expected = "a limit would not fall")]
fn canary_m() {
    Aimd::new(Settings { decrease: 1000, ..Settings::default() }, 1, 1, 0);
}

#[test]
#[should_panic(expected = "is below the least")]
fn canary_least() {
    let mut world = World::new(1, 6);
    let throttle = Throttle { limit: 1, began_at: 9, since: NOW };
    world.aimd.functions[0].edge(SERVICE).unwrap().throttle = Some(throttle);
    world.aimd.check();
}
