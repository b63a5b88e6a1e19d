//! The utilization controller: how much opportunistic work the workers can take now.
//!
//! It publishes S; the opportunistic limit of a function is its quota times S. While the cores are used less than
//! the target, S rises by a step each period; in the band above it S stays, so that it does not swing; above the band
//! it falls by a step, as reserved work grows through the morning; at overload it falls to zero at once, since
//! opportunistic work can wait and the rest cannot. Below the target again it goes on from half of what it was: a
//! burst of seconds would otherwise cost the fleet the hour in which S rises again step by step. (XFaaS section 4.6; the paper gives neither period nor target, so
//! they are [`Settings`].)

use crate::snapshot::{Publisher, Snapshot};
use crate::words::Permille;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Below this mean utilisation S rises. The paper's fleet runs at 66% over a day; a core that serves short
    /// calls keeps its queueing delay low up to about 80%.
    pub target: Permille,
    /// From this mean utilisation on S falls by a step. Not below `target`: the band between them is the hysteresis.
    /// Without such a fall S would stay where the night left it until the day's work reached overload, and a fleet
    /// whose calls take minutes would swing between overload and idleness.
    pub ease: Permille,
    /// From this mean utilisation on S is zero. Above `target`, and not below `ease`.
    pub overload: Permille,
    /// How much S rises or falls in one period: from nothing to the whole quota in twenty.
    pub step: Permille,
    /// The largest S: idle workers may be given more than the quotas' sum.
    pub most: Permille,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { target: 800, ease: 850, overload: 900, step: 50, most: 2000 }
    }
}

/// The controller.
#[derive(Debug)]
pub struct Utilization {
    settings: Settings,
    /// Utilisation of each core as last reported; none if it is not there.
    cores: Vec<Option<Permille>>,
    /// The level of the day, if one is known: `target` where that is lower.
    pace: Option<Permille>,
    /// Half of S before overload: where it goes on.
    half: Permille,
    publisher: Publisher<Permille>,
}

impl Utilization {
    /// Begins with S = 0: nothing is known of the cores yet. `published` is the newest version consumers may have.
    ///
    /// # Panics
    /// If the target is not below overload, `ease` is not between them, or the step is zero.
    pub fn new(settings: Settings, cores_max: usize, published: u64) -> Utilization {
        let Settings { target, ease, overload, .. } = settings;
        assert!(
            target < overload && (target..=overload).contains(&ease),
            "no band of hysteresis: {settings:?}"
        );
        assert!(settings.step > 0, "S would never rise: {settings:?}");
        Utilization {
            settings,
            cores: vec![None; cores_max],
            pace: None,
            half: 0,
            publisher: Publisher::new(published, 0),
        }
    }

    /// A core was busy for this share of the last period; none if it is gone.
    pub fn observe(&mut self, core: usize, busy: Option<Permille>) {
        self.cores[core] = busy.map(|busy| busy.min(1000));
    }

    /// Mean utilisation of the cores that are there.
    pub fn mean(&self) -> Option<Permille> {
        let known = self.cores.iter().flatten();
        let count = known.clone().count() as u64;
        let sum: u64 = known.map(|&busy| u64::from(busy)).sum();
        sum.checked_div(count).map(|mean| mean as Permille)
    }

    /// From now on it aims no higher than at this level ([`crate::Level`]); at the target itself without one. The band
    /// above keeps its width.
    pub fn pace(&mut self, level: Option<Permille>) {
        self.pace = level;
    }

    /// Below what utilisation S rises now.
    pub fn target(&self) -> Permille {
        self.pace.map_or(self.settings.target, |level| level.min(self.settings.target))
    }

    /// Decides for one period. A snapshot comes out if S changed. Without cores there is no capacity: S is zero.
    pub fn turn(&mut self) -> Option<Snapshot<Permille>> {
        let Settings { target, ease, overload, step, most } = self.settings;
        let (ease, target) = (ease - target + self.target(), self.target());
        let before = self.publisher.newest().value;
        let after = match self.mean() {
            None => 0,
            Some(mean) if mean >= overload => {
                self.half = self.half.max(before / 2);
                0
            }
            Some(mean) if mean >= ease => before.saturating_sub(step),
            Some(mean) if mean >= target => before,
            Some(_) => most.min(before + step).max(std::mem::take(&mut self.half)),
        };
        self.publisher.publish(after).copied()
    }

    /// Goes on from the S that a consumer holds, for a controller that starts again.
    pub fn resume(&mut self, held: &Snapshot<Permille>) {
        self.publisher.resume(held);
    }

    /// S as published last.
    pub fn newest(&self) -> Snapshot<Permille> {
        *self.publisher.newest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn controller(cores: usize) -> Utilization {
        Utilization::new(Settings::default(), cores, 0)
    }

    proptest! {
        #[test]
        fn s_rises_under_target_stays_in_the_band_falls_above_it_and_is_none_at_overload(
            periods in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0..1200u32), 4), 0..100),
        ) {
            let settings = Settings::default();
            let (mut controller, mut half) = (controller(4), 0);
            for busy in periods {
                let before = controller.newest();
                busy.iter().enumerate().for_each(|(core, busy)| controller.observe(core, *busy));
                let published = controller.turn();
                let after = controller.newest();
                prop_assert_eq!(published, (before != after).then_some(after));
                prop_assert!(after.version == before.version || after.version == before.version + 1);
                prop_assert!(after.value <= settings.most);
                match controller.mean() {
                    None => prop_assert_eq!(after.value, 0),
                    Some(mean) if mean >= settings.overload => {
                        half = half.max(before.value / 2);
                        prop_assert_eq!(after.value, 0)
                    }
                    Some(mean) if mean >= settings.ease => {
                        prop_assert_eq!(after.value, before.value.saturating_sub(settings.step))
                    }
                    Some(mean) if mean >= settings.target => prop_assert_eq!(after, before),
                    Some(_) => {
                        let rises = settings.most.min(before.value + settings.step);
                        prop_assert_eq!(after.value, rises.max(std::mem::take(&mut half)))
                    }
                }
            }
        }
    }

    /// Closed loop: the load is a fixed part and as much opportunistic work as S admits.
    fn settle(fixed: u32, per_s: u32) -> Vec<Permille> {
        let mut controller = controller(1);
        let load = |controller: &Utilization| fixed + controller.newest().value * per_s / 1000;
        (0..200)
            .map(|_| {
                let now = load(&controller);
                controller.observe(0, Some(now));
                controller.turn();
                now
            })
            .collect()
    }

    #[test]
    fn idle_capacity_is_filled_to_the_target_and_kept_there() {
        let load = settle(300, 700);
        assert!(load[150..].iter().all(|load| (800..900).contains(load)), "{load:?}");
    }

    #[test]
    fn it_aims_no_higher_than_the_level_of_the_day() {
        let mut controller = controller(1);
        for level in [None, Some(500), Some(900), None] {
            controller.pace(level);
            let load = |controller: &Utilization| 300 + controller.newest().value * 700 / 1000;
            for _ in 0..100 {
                controller.observe(0, Some(load(&controller)));
                controller.turn();
            }
            let target = level.unwrap_or(800).min(800);
            assert!((target..target + 50).contains(&load(&controller)), "{level:?}: {}", load(&controller));
        }
    }

    #[test]
    fn fixed_work_that_grows_slowly_pushes_opportunistic_work_aside_without_overload() {
        let mut controller = controller(1);
        for fixed in (300..850).flat_map(|fixed| [fixed; 4]) {
            let now = fixed + controller.newest().value * 500 / 1000;
            assert!(now < 900, "overload at {fixed}");
            controller.observe(0, Some(now));
            controller.turn();
        }
        assert_eq!(controller.newest().value, 0, "fixed work fills the core");
    }

    #[test]
    fn a_controller_that_starts_again_goes_on_from_what_consumers_hold() {
        let mut controller = controller(1);
        controller.resume(&Snapshot { version: 9, value: 700 });
        controller.observe(0, Some(100));
        let told = controller.turn().expect("it rises");
        assert!(told.value > 700 && told.version > 9, "{told:?}");
    }

    #[test]
    fn after_overload_it_goes_on_from_half() {
        let mut controller = controller(1);
        let s = |busy: u32, controller: &mut Utilization| {
            controller.observe(0, Some(busy));
            controller.turn();
            controller.newest().value
        };
        for _ in 0..20 {
            s(100, &mut controller);
        }
        assert_eq!([950, 990, 700, 700].map(|busy| s(busy, &mut controller)), [0, 0, 500, 550]);
    }

    #[test]
    fn a_burst_of_reserved_work_stops_opportunistic_work_at_once() {
        let mut controller = controller(2);
        (0..2).for_each(|core| controller.observe(core, Some(100)));
        for _ in 0..10 {
            controller.turn();
        }
        assert_eq!(controller.newest().value, 500);
        (0..2).for_each(|core| controller.observe(core, Some(950)));
        assert_eq!(controller.turn().map(|snapshot| snapshot.value), Some(0));
    }

    #[test]
    #[should_panic(expected = "no band of hysteresis")]
    fn canary_band() {
        Utilization::new(Settings { target: 900, overload: 900, ..Settings::default() }, 1, 0);
    }
}
