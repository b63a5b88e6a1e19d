//! Autoscaling: how many workers a pool should have.
//!
//! The platform keeps workers busy, so it is slow to ask for more: opportunistic work can wait. It asks when reserved
//! work alone fills the pool, and gives back when the pool has been idle for long. It only says how many; whoever owns
//! the machines obeys, or not.
//!
//! # Laws
//! 1. **Hysteresis**: between [`Settings::low`] and [`Settings::high`] the number stays. Above it the load must have
//!    been for [`Settings::up_after`], below for [`Settings::down_after`], without a break.
//! 2. **Enough**: a new number is what the load needs at [`Settings::target`], so that the next look finds it between
//!    the two.
//! 3. **Bounded**: never below [`Settings::least`] nor above [`Settings::most`]; one step grows the pool by at most
//!    [`Settings::grow`] and shrinks it by at most [`Settings::shrink`].
//! 4. **No flapping**: with a steady load it reaches a number and stays; a step down is never followed by one up while
//!    the load does not grow.

use crate::snapshot::{Publisher, Snapshot};
use crate::words::{Effects, Millicores, Permille, permille, scale};
use call::Instant;
use std::time::Duration;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The load that a pool is sized for: the middle of the band in which opportunistic work is neither let in nor
    /// kept out (`utilization::Settings`).
    pub target: Permille,
    /// From this load on the pool is too small: as full as may be without opportunistic work.
    pub high: Permille,
    /// Below this load it is too large. No more than half of `high`: one worker that became two has half the load.
    pub low: Permille,
    /// How long the load must be high. A minute of more work is what time-shifting is for.
    pub up_after: Duration,
    /// How long it must be low: longer than the trough between two peaks of an hour.
    pub down_after: Duration,
    /// The most that one step adds, of the workers there are; one at least. Double is what slow start allows in four
    /// minutes.
    pub grow: Permille,
    /// The most that one step takes away, of the workers there are; one at least.
    pub shrink: Permille,
    /// Never fewer workers: one may be lost.
    pub least: u32,
    /// Never more workers.
    pub most: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            target: 750,
            high: 900,
            low: 450,
            up_after: Duration::from_secs(60),
            down_after: Duration::from_secs(900),
            grow: 1000,
            shrink: 100,
            least: 2,
            most: 100_000,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// How the pool is now. Decides.
    Load {
        /// Workers that serve.
        workers: u32,
        /// What one of them can do.
        each: Millicores,
        /// CPU that work needs which may not wait: reserved calls that run or came, and opportunistic ones near their
        /// deadlines.
        needed: Millicores,
    },
    /// The number that the owner of the machines holds: what a controller that starts again goes on from.
    Held(Snapshot<u32>),
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// How many workers the pool should have.
    Workers(Snapshot<u32>),
}

/// The controller of one pool.
#[derive(Debug)]
pub struct Autoscale {
    settings: Settings,
    /// Since when the load has been high, or low, without a break.
    high_since: Option<Instant>,
    low_since: Option<Instant>,
    /// What it asks for; none before the first look.
    asked: Option<u32>,
    /// The load on that, as the last look found it.
    load: Permille,
    publisher: Publisher<u32>,
}

/// Why it asks for so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The load is inside the band.
    InBand,
    /// It is above the band, and has not been for long enough to ask for more.
    High,
    /// It is above the band, and there may be no more.
    Most,
    /// It is below the band, and has not been for long enough to ask for fewer.
    Low,
    /// It is below the band, and there may be no fewer.
    Least,
}

impl Autoscale {
    /// Begins with the workers that the first look finds. `published` is the newest version consumers may
    /// have.
    ///
    /// # Panics
    /// If the settings contradict themselves.
    pub fn new(settings: Settings, published: u64) -> Autoscale {
        let Settings { target, high, low, least, most, .. } = settings;
        assert!(low < target && target < high, "the band of hysteresis is empty: {settings:?}");
        assert!(0 < least && least <= most, "no number is allowed: {settings:?}");
        assert!(low * 2 <= high, "a pool that grew by one would shrink again: {settings:?}");
        let publisher = Publisher::new(published, least);
        Autoscale { settings, high_since: None, low_since: None, asked: None, load: 0, publisher }
    }

    /// Takes one input; at most one effect comes out, if there is room for it.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Effects<Effect>) {
        match input {
            Input::Held(held) => {
                self.publisher.resume(&held);
                self.asked = Some(self.newest().value.clamp(self.settings.least, self.settings.most));
            }
            Input::Load { workers, each, needed } => {
                let wanted = self.decide(now, workers, each, needed);
                if !out.is_full()
                    && let Some(snapshot) = self.publisher.publish(wanted)
                {
                    out.push(Effect::Workers(*snapshot));
                }
            }
        }
    }

    /// The number as published last; before the first look, the least.
    pub fn newest(&self) -> Snapshot<u32> {
        *self.publisher.newest()
    }

    /// The load that work which may not wait puts on the number asked for, as the last look found it.
    pub fn load(&self) -> Permille {
        self.load
    }

    /// Why it asks for the number that it asks for, and for no other.
    pub fn reason(&self) -> Reason {
        let Settings { high, low, least, most, .. } = self.settings;
        let asked = self.asked.unwrap_or(least);
        match self.load {
            load if load >= high && asked == most => Reason::Most,
            load if load >= high => Reason::High,
            load if load < low && asked == least => Reason::Least,
            load if load < low => Reason::Low,
            _ => Reason::InBand,
        }
    }

    /// How many workers there should be. Judged is the load on the number asked for last, not on those that serve:
    /// machines take minutes to come, and asking again meanwhile would ask for too many.
    fn decide(&mut self, now: Instant, workers: u32, each: Millicores, needed: Millicores) -> u32 {
        let Settings { target, high, low, up_after, down_after, grow, shrink, least, most } = self.settings;
        let asked = *self.asked.get_or_insert(workers.clamp(least, most));
        let load = scale(needed, 1000, u64::from(asked).saturating_mul(each).max(1));
        self.high_since = (load >= u64::from(high)).then(|| self.high_since.unwrap_or(now));
        self.low_since = (load < u64::from(low)).then(|| self.low_since.unwrap_or(now));
        let passed = |since: Option<Instant>, long| since.is_some_and(|since| now.since(since) >= long);
        let step = |part| u32::try_from(permille(u64::from(asked), part)).unwrap_or(u32::MAX).max(1);
        let at_target = u128::from(each.max(1)) * u128::from(target);
        let needs = u32::try_from((u128::from(needed) * 1000).div_ceil(at_target)).unwrap_or(u32::MAX);
        let next = if passed(self.high_since, up_after) {
            needs.clamp(asked, asked.saturating_add(step(grow)))
        } else if passed(self.low_since, down_after) {
            needs.clamp(asked.saturating_sub(step(shrink)), asked)
        } else {
            asked
        };
        let next = next.clamp(least, most);
        if next != asked {
            (self.high_since, self.low_since) = (None, None);
        }
        let load = scale(needed, 1000, u64::from(next).saturating_mul(each).max(1));
        (self.asked, self.load) = (Some(next), load.min(u64::from(Permille::MAX)) as Permille);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PERIOD: Duration = Duration::from_secs(10);

    /// A pool of workers of one core that follows what is asked for at once.
    struct Pool {
        autoscale: Autoscale,
        now: Instant,
        out: Effects<Effect>,
    }

    impl Pool {
        fn new(settings: Settings, workers: u32) -> Pool {
            let mut pool =
                Pool { autoscale: Autoscale::new(settings, 0), now: Instant(0), out: Effects::new(1) };
            pool.look(workers, u64::from(workers) * 600);
            pool
        }

        fn look(&mut self, workers: u32, needed: Millicores) -> u32 {
            self.now = self.now + PERIOD;
            self.autoscale.step(self.now, Input::Load { workers, each: 1000, needed }, &mut self.out);
            self.out.drain().for_each(drop);
            self.autoscale.newest().value
        }

        fn settle(&mut self, looks: usize, needed: Millicores) -> u32 {
            (0..looks).map(|_| self.look(1, needed)).last().expect("a look at least")
        }
    }

    proptest! {
        /// Laws 1 and 3, from look to look.
        #[test]
        fn steps_come_after_the_time_and_are_bounded(
            loads in proptest::collection::vec((0..200_000u64, 1..120usize), 1..20),
        ) {
            let settings = Settings { most: 150, ..Settings::default() };
            let mut pool = Pool::new(settings, 20);
            let (mut before, mut high, mut low) = (20, 0, 0);
            for needed in loads.iter().flat_map(|(needed, looks)| std::iter::repeat_n(*needed, *looks)) {
                let load = needed / u64::from(before);
                high = if load >= 900 { high + 1 } else { 0 };
                low = if load < 450 { low + 1 } else { 0 };
                let after = pool.look(1, needed);
                prop_assert!((2..=150).contains(&after));
                if after > before {
                    prop_assert!(high > 6 && after <= before * 2, "{before} to {after} after {high} looks");
                } else if after < before {
                    prop_assert!(low > 90 && before - after <= (before / 10).max(1), "{before} to {after}");
                }
                if after != before {
                    (high, low) = (0, 0);
                }
                before = after;
            }
        }

        /// Laws 2 and 4.
        #[test]
        fn with_a_steady_load_it_arrives_and_stays(workers in 2..500u32, needed in 0..500_000u64) {
            let mut pool = Pool::new(Settings::default(), workers);
            let mut steps = vec![pool.autoscale.newest().value];
            for _ in 0..9000 {
                let next = pool.look(1, needed);
                if steps.last() != Some(&next) {
                    steps.push(next);
                }
            }
            let rises = steps.windows(2).filter(|two| two[0] < two[1]).count();
            prop_assert!(rises == 0 || rises == steps.len() - 1, "up and down: {steps:?}");
            let load = needed / u64::from(*steps.last().unwrap());
            prop_assert!(load < 900 && (load >= 450 || *steps.last().unwrap() == 2), "{load} with {steps:?}");
        }
    }

    #[test]
    fn a_spike_shorter_than_a_minute_asks_for_nothing() {
        let mut pool = Pool::new(Settings::default(), 10);
        assert_eq!(pool.settle(5, 60_000), 10);
        assert_eq!(pool.look(10, 6_000), 10);
        assert_eq!(pool.settle(6, 60_000), 10);
        assert_eq!(pool.look(10, 60_000), 20, "after a minute at most twice as many");
    }

    #[test]
    fn it_says_why() {
        let settings = Settings { most: 20, ..Settings::default() };
        let mut pool = Pool::new(settings, 10);
        assert_eq!((pool.autoscale.reason(), pool.autoscale.load()), (Reason::InBand, 600));
        pool.settle(3, 12_000);
        assert_eq!(pool.autoscale.reason(), Reason::High);
        pool.settle(9, 30_000);
        assert_eq!((pool.autoscale.reason(), pool.autoscale.newest().value), (Reason::Most, 20));
        pool.settle(3, 1000);
        assert_eq!(pool.autoscale.reason(), Reason::Low);
        pool.settle(9000, 0);
        assert_eq!((pool.autoscale.reason(), pool.autoscale.newest().value), (Reason::Least, 2));
    }

    #[test]
    fn a_controller_that_starts_again_goes_on_from_what_is_held() {
        let mut pool =
            Pool { autoscale: Autoscale::new(Settings::default(), 0), ..Pool::new(Settings::default(), 9) };
        pool.autoscale.step(pool.now, Input::Held(Snapshot { version: 33, value: 40 }), &mut pool.out);
        assert_eq!(pool.look(12, 24_000), 40, "28 of them are on their way");
        assert_eq!((pool.settle(60, 60_000), pool.autoscale.newest().version), (80, 34));
    }

    #[test]
    #[should_panic(expected = "the band of hysteresis is empty")]
    fn canary_band() {
        Autoscale::new(Settings { low: 800, ..Settings::default() }, 0);
    }

    #[test]
    #[should_panic(expected = "a pool that grew by one would shrink again")]
    fn canary_flapping() {
        Autoscale::new(Settings { low: 500, ..Settings::default() }, 0);
    }
}
