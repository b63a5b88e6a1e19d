//! The laws, against books that tests keep themselves.

use super::*;
use proptest::prelude::*;

const F: FunctionRef = FunctionRef(0);

/// A controller of one function, the limits as schedulers hold them, and the time.
struct World {
    rates: Rates,
    now: Instant,
    out: Effects<Effect>,
    held: Vec<Option<MilliCalls>>,
}

impl World {
    fn new(schedulers: usize) -> World {
        let rates = Rates::new(Settings::default(), 1, schedulers, 0);
        let mut world = World { rates, now: Instant(0), out: Effects::new(64), held: vec![None; schedulers] };
        for scheduler in (0..schedulers as u16).map(SchedulerRef) {
            world.tell(Input::SchedulerUp { scheduler });
        }
        world
    }

    fn tell(&mut self, input: Input) {
        self.rates.step(self.now, input, &mut self.out);
    }

    fn ran(&mut self, scheduler: u16, calls: u64, cpu_ns: u64, waiting: u64) {
        self.tell(Input::Ran { function: F, scheduler: SchedulerRef(scheduler), calls, cpu_ns, waiting });
    }

    fn turn(&mut self) -> Vec<(SchedulerRef, Snapshot<Option<MilliCalls>>)> {
        self.now = self.now + self.rates.settings.period;
        self.tell(Input::Turn);
        self.rates.check();
        self.out.drain().map(|Effect::Limit { scheduler, limit, .. }| (scheduler, limit)).collect()
    }

    /// A period whose news arrive at once.
    fn settle(&mut self) {
        for (scheduler, limit) in self.turn() {
            self.held[usize::from(scheduler.0)] = limit.value;
        }
    }
}

proptest! {
    /// Law 1.
    #[test]
    fn the_mean_lies_between_the_means_seen(
        periods in proptest::collection::vec((1..1000u64, 1_000..1_000_000_000u64), 1..50),
    ) {
        let mut world = World::new(1);
        let guess = world.rates.settings.first_guess.as_nanos() as u64;
        let (mut least, mut most) = (guess, guess);
        for (calls, mean) in periods {
            (least, most) = (least.min(mean), most.max(mean));
            world.ran(0, calls, calls * mean, 0);
            world.turn();
            let learned = world.rates.mean(F).as_nanos() as u64;
            prop_assert!((least - 1..=most).contains(&learned), "{learned} of {least} to {most}");
        }
    }

    /// Law 2: news arrive in any order before the next turn, the rate itself changes, schedulers come and go.
    #[test]
    fn what_schedulers_hold_never_sums_to_more_than_the_rate(
        periods in proptest::collection::vec(
            (proptest::collection::vec(0..500u64, 3), 0..8u8, 1..9u64, any::<u8>()), 1..60,
        ),
    ) {
        let mut world = World::new(3);
        let mut quota = 1000;
        world.tell(Input::Quota { function: F, cpu: Some(quota) });
        let mut before = None;
        for (calls, change, cpu, order) in periods {
            if change == 0 {
                quota = cpu * 500;
                world.tell(Input::Quota { function: F, cpu: Some(quota) });
            }
            if change == 1 {
                world.tell(Input::SchedulerGone { scheduler: SchedulerRef(2) });
                // It is gone with what it held.
                world.held[2] = Some(0);
            }
            if change == 2 {
                world.tell(Input::SchedulerUp { scheduler: SchedulerRef(2) });
            }
            calls.iter().enumerate().for_each(|(at, calls)| world.ran(at as u16, *calls, calls * 1_000_000, 0));
            let mut news = world.turn();
            let by = usize::from(order) % news.len().max(1);
            news.rotate_left(by);
            let rate = world.rates.rate(F).expect("there is a quota");
            let most = rate.max(before.unwrap_or(rate));
            before = Some(rate);
            for (scheduler, limit) in news {
                world.held[usize::from(scheduler.0)] = limit.value;
                let sum: u64 = world.held.iter().flatten().sum();
                prop_assert!(sum <= most || world.held.contains(&None), "{:?} of {most}", world.held);
            }
        }
    }

    /// Laws 3 and 4.
    #[test]
    fn shares_follow_the_calls_and_everyone_can_begin(calls in proptest::collection::vec(0..1000u64, 4)) {
        let mut world = World::new(4);
        world.tell(Input::Quota { function: F, cpu: Some(10_000) });
        let mut last = 0;
        for _ in 0..60 {
            for (at, calls) in calls.iter().enumerate() {
                world.ran(at as u16, *calls, *calls * 10_000_000, 0);
            }
            let news = world.turn();
            last = news.len();
            news.into_iter().for_each(|(of, limit)| world.held[usize::from(of.0)] = limit.value);
        }
        prop_assert_eq!(last, 0, "not calm");
        let rate = world.rates.rate(F).unwrap();
        let all: u64 = calls.iter().sum();
        for (held, calls) in world.held.iter().zip(&calls) {
            let (held, even) = (held.unwrap(), rate / 4);
            let by_calls = (rate * 8 / 10 * calls).checked_div(all);
            let due = by_calls.map_or(even, |part| even * 2 / 10 + part);
            prop_assert!(held * 100 >= even * 20 * 9 / 10, "{held} of {rate} is less than the floor");
            prop_assert!(held.abs_diff(due) <= rate / 8, "{held}, and {due} is due");
        }
    }
}

#[test]
fn a_quota_is_divided_by_the_cpu_of_a_call() {
    let mut world = World::new(1);
    world.tell(Input::Quota { function: F, cpu: Some(2000) });
    // Two cores, and calls of 10 ms: 200 a second, when the first guess has faded.
    for _ in 0..200 {
        world.ran(0, 100, 1_000_000_000, 0);
        world.settle();
    }
    let rate = world.held[0].unwrap();
    assert!((190_000..=200_500).contains(&rate), "{rate}");
    world.tell(Input::Cap { function: F, limit: Some(7000) });
    world.settle();
    assert_eq!(world.held, [Some(7000)], "back-pressure allows less");
    world.tell(Input::Cap { function: F, limit: None });
    world.tell(Input::Quota { function: F, cpu: None });
    world.settle();
    assert_eq!(world.held, [None]);
}

#[test]
fn a_single_scheduler_has_all_and_a_second_one_takes_over() {
    let mut world = World::new(2);
    world.tell(Input::SchedulerGone { scheduler: SchedulerRef(1) });
    world.tell(Input::Cap { function: F, limit: Some(1000) });
    world.settle();
    assert_eq!(world.held, [Some(1000), None]);
    world.tell(Input::SchedulerUp { scheduler: SchedulerRef(1) });
    world.tell(Input::SchedulerGone { scheduler: SchedulerRef(0) });
    (0..2).for_each(|_| world.settle());
    assert_eq!(world.held, [Some(0), Some(1000)]);
    world.tell(Input::SchedulerUp { scheduler: SchedulerRef(0) });
    (0..3).for_each(|_| world.settle());
    assert_eq!(world.held, [Some(500), Some(500)], "no calls: even shares");
}

#[test]
fn a_controller_that_starts_again_changes_nothing_it_need_not() {
    let mut world = World::new(2);
    world.tell(Input::Learned { function: F, mean: Duration::from_millis(10) });
    world.tell(Input::Quota { function: F, cpu: Some(1000) });
    for (scheduler, version, value) in [(0, 70, 60_000), (1, 71, 40_000)] {
        let limit = Snapshot { version, value: Some(value) };
        world.tell(Input::Held { function: F, scheduler: SchedulerRef(scheduler), limit });
    }
    // As the shares were: 20% of 100 calls a second even, the rest by calls.
    world.ran(0, 62, 620_000_000, 0);
    world.ran(1, 38, 380_000_000, 0);
    assert_eq!(world.turn(), []);
    world.tell(Input::Cap { function: F, limit: Some(10_000) });
    let versions: Vec<u64> = world.turn().iter().map(|(_, limit)| limit.version).collect();
    assert_eq!(versions, [72, 73]);
}

#[test]
#[should_panic(expected = "shares of 2000 and a rate of 1000")]
fn canary_sum() {
    let mut world = World::new(2);
    world.tell(Input::Cap { function: F, limit: Some(1000) });
    world.settle();
    (0..2).for_each(|cell| world.rates.board.conclude(cell, Some(1000)));
    world.rates.check();
}
