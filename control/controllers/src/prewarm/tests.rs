//! The laws, with histories of many kinds.

use super::*;
use proptest::prelude::*;

const F: FunctionRef = FunctionRef(0);

struct World {
    prewarm: Prewarm,
    now: Instant,
    out: Effects<Effect>,
}

impl World {
    fn new() -> World {
        World { prewarm: Prewarm::new(Settings::default(), 2, 0), now: Instant(0), out: Effects::new(16) }
    }

    fn tell(&mut self, input: Input) {
        self.prewarm.step(self.now, input, &mut self.out);
        self.prewarm.check();
    }

    /// A call of 10 ms.
    fn call(&mut self) {
        self.tell(Input::Begins { function: F });
        self.now = self.now + Duration::from_millis(10);
        self.tell(Input::Ends { function: F });
    }

    /// Time passes, a turn each second; what is said of the function, with the time since the last call.
    fn pass(&mut self, time: Duration) -> Vec<(u64, bool)> {
        let (begun, mut said) = (self.now, Vec::new());
        while self.now.since(begun) < time {
            self.now = self.now + Duration::from_secs(1).min(time - self.now.since(begun));
            self.tell(Input::Turn);
            let at = self.now.since(begun).as_secs();
            for effect in self.out.drain() {
                match effect {
                    Effect::Warm { .. } => said.push((at, true)),
                    Effect::Release { .. } => said.push((at, false)),
                    Effect::Plan { .. } => {}
                }
            }
        }
        said
    }
}

proptest! {
    /// Law 1, of all that was seen.
    #[test]
    fn the_span_covers_what_was_seen(
        idle_ms in proptest::collection::vec(prop_oneof![1..500u64, 500..60_000u64, 60_000..7_000_000u64], 10..120),
    ) {
        let mut world = World::new();
        world.call();
        for idle in &idle_ms {
            world.now = world.now + Duration::from_millis(*idle);
            world.call();
        }
        let plan = world.prewarm.plan(F);
        let early = idle_ms.iter().filter(|idle| **idle < plan.warm_after_ms).count();
        let late = idle_ms.iter().filter(|idle| **idle > plan.warm_until_ms).count();
        prop_assert!(early * 20 <= idle_ms.len(), "{early} of {} come before {plan:?}", idle_ms.len());
        prop_assert!(late * 100 <= idle_ms.len(), "{late} of {} come after {plan:?}", idle_ms.len());
        prop_assert!(plan.warm_after_ms == 0 || plan.warm_after_ms > 10_000, "let go for an instant: {plan:?}");
    }

    /// Whatever comes in whatever order, what is said makes sense: warm and released by turns.
    #[test]
    fn whatever_happens_words_alternate(steps in proptest::collection::vec((0..5u8, 1..2_000_000u64), 1..200)) {
        let mut world = World::new();
        // A call makes warm as well.
        let mut is_warm = None;
        for (what, ms) in steps {
            match what {
                0 => world.tell(Input::Begins { function: F }),
                1 => world.tell(Input::Ends { function: F }),
                2 if ms < 100_000 => world.tell(Input::Forget { function: F }),
                _ => world.now = world.now + Duration::from_millis(ms),
            }
            if what < 3 {
                is_warm = None;
            }
            world.tell(Input::Turn);
            for effect in world.out.drain() {
                let (Effect::Warm { function } | Effect::Release { function }) = effect else { continue };
                let warm = matches!(effect, Effect::Warm { .. });
                prop_assert_eq!(function, F);
                prop_assert_ne!(is_warm, Some(warm), "said twice");
                is_warm = Some(warm);
            }
        }
    }
}

#[test]
fn a_timer_is_warm_when_it_comes_and_not_before() {
    let (mut world, hour) = (World::new(), Duration::from_secs(3600));
    for _ in 0..12 {
        world.call();
        world.pass(hour);
    }
    world.call();
    let said = world.pass(hour * 3);
    let [(released, false), (warm, true), (gone, false)] = said[..] else { panic!("{said:?}") };
    assert_eq!(released, 1, "let go at once");
    assert!((2000..3600).contains(&warm), "made warm after {warm} s");
    assert!((3600..6000).contains(&gone), "and let go after {gone} s");
}

#[test]
fn a_function_that_is_called_often_stays_warm() {
    let mut world = World::new();
    for _ in 0..50 {
        world.call();
        assert_eq!(world.pass(Duration::from_secs(3)), [], "let go between two calls");
    }
    assert_eq!(world.prewarm.plan(F).warm_after_ms, 0);
    let said = world.pass(Duration::from_secs(100));
    assert!(matches!(said[..], [(1..=3, false)]), "{said:?}");
}

#[test]
fn a_function_without_a_pattern_is_kept_for_the_fixed_time() {
    let mut world = World::new();
    world.call();
    assert_eq!(world.pass(Duration::from_secs(700)), [(600, false)]);
    // Idle for longer than any bin.
    for _ in 0..20 {
        world.now = world.now + Duration::from_secs(5 * 3600);
        world.call();
    }
    assert_eq!(world.prewarm.plan(F), Plan { warm_after_ms: 0, warm_until_ms: 600_000 });
}

#[test]
fn a_new_pattern_takes_the_old_ones_place() {
    let mut world = World::new();
    let mut call_each = |seconds, times| {
        for _ in 0..times {
            world.call();
            world.now = world.now + Duration::from_secs(seconds);
        }
        world.prewarm.plan(F)
    };
    let slow = call_each(600, 1000);
    assert!(slow.warm_after_ms > 400_000, "{slow:?}");
    let fast = call_each(30, 9_000);
    assert!(fast.warm_after_ms < 30_000 && fast.warm_until_ms < 60_000, "{fast:?}");
}

#[test]
fn a_controller_that_starts_again_goes_on_from_what_is_held() {
    let mut world = World::new();
    let plan = Plan { warm_after_ms: 50_000, warm_until_ms: 70_000 };
    world.tell(Input::Held { function: F, plan: Snapshot { version: 12, value: plan } });
    world.call();
    assert_eq!(world.pass(Duration::from_secs(100)), [(1, false), (50, true), (70, false)]);
    for _ in 0..12 {
        world.call();
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.prewarm.board.newest(0).version, 13);
}

#[test]
#[should_panic(expected = "counts its idle times wrongly")]
fn canary_count() {
    let mut world = World::new();
    world.prewarm.functions[0].bins[3] = 1;
    world.prewarm.check();
}
