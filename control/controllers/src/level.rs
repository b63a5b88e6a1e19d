//! The level of a day: how busy workers may be so that what waits lasts until the next peak.
//!
//! A fixed target of the utilization controller flattens a day only if it equals the day's mean demand, which nobody
//! knows beforehand: above it the backlog is gone in the evening and the workers follow the trough; below it the backlog
//! grows from day to day. So the level is learned: from what came at the same hours of the day before, and from what
//! waits, it is the highest at which work does not run out within the next day (XFaaS section 4.6 shifts work into the
//! trough; the law is ours). The utilization controller never aims higher than that ([`crate::Utilization::pace`]).
//!
//! # Laws
//! 1. **Lasts**: if today comes like yesterday, work kept up at the level does not run out within a day.
//! 2. **Highest**: at any higher level it would, or would within [`Settings::least`].
//! 3. **Flat**: with the same arrivals each day the level comes to their mean, whatever their shape, once enough waits.
//! 4. **Silent**: before a whole day has been seen there is none, and nothing is held back.

use call::Instant;
use std::time::Duration;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Arrivals are summed over so long: short against the swings of a day, long against bursts.
    pub slot: Duration,
    /// Slots after which the load comes again: those of a day.
    pub slots: usize,
    /// The nearest time at which work may run out, in slots: what comes within an hour differs from yesterday's by
    /// more than its shape.
    pub least: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { slot: Duration::from_secs(900), slots: 96, least: 4 }
    }
}

/// The controller.
#[derive(Debug)]
pub struct Level {
    settings: Settings,
    /// Work that came in each slot of the day: of today's before the one under way, of yesterday's from it on.
    came: Vec<u64>,
    /// Slots of which that is known.
    seen: usize,
    /// The slot under way, since when it is, and what has come in it.
    slot: usize,
    since: Option<Instant>,
    comes: u64,
}

impl Level {
    /// Nothing has come.
    ///
    /// # Panics
    /// If a day has fewer slots than may be looked ahead, or a slot no time.
    pub fn new(settings: Settings) -> Level {
        let Settings { slot, slots, least } = settings;
        assert!((1..slots).contains(&least) && slot.as_millis() > 0, "no day: {settings:?}");
        Level { settings, came: vec![0; slots], seen: 0, slot: 0, since: None, comes: 0 }
    }

    /// Work that came since this was said last, in CPU time of any unit, at `now`.
    pub fn came(&mut self, now: Instant, work: u64) {
        let mut since = *self.since.get_or_insert(now);
        // What came late in a slot that ended meanwhile counts for the next one.
        while now.since(since) >= self.settings.slot {
            self.came[self.slot] = std::mem::take(&mut self.comes);
            self.slot = (self.slot + 1) % self.settings.slots;
            self.seen = (self.seen + 1).min(self.settings.slots);
            since = since + self.settings.slot;
        }
        self.since = Some(since);
        self.comes = self.comes.saturating_add(work);
    }

    /// The level, in the unit of work a second, if so much waits; none before a day has been seen.
    pub fn level(&self, now: Instant, waiting: u64) -> Option<u64> {
        let Settings { slot, slots, least } = self.settings;
        if self.seen < slots {
            return None;
        }
        let slot_ms = slot.as_millis();
        let passed = now.since(self.since?).as_millis().min(slot_ms);
        // What is left of the slot under way comes as it did yesterday.
        let mut ms = slot_ms - passed;
        let mut work = u128::from(waiting) + u128::from(self.came[self.slot]) * ms / slot_ms;
        let mut level = u128::MAX;
        for ahead in 1..=slots {
            if ahead > least {
                level = level.min(work * 1000 / ms.max(1));
            }
            work += u128::from(self.came[(self.slot + ahead) % slots]);
            ms += slot_ms;
        }
        Some(u64::try_from(level).unwrap_or(u64::MAX))
    }

    /// Panics if it looks at a slot that the day does not have.
    pub fn check(&self) {
        let Settings { slots, .. } = self.settings;
        assert!(self.slot < slots && self.seen <= slots && self.came.len() == slots, "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOT: Duration = Duration::from_secs(900);

    /// A level that has seen these slots.
    fn seen(day: &[u64]) -> (Level, Instant) {
        let mut level = Level::new(Settings { slot: SLOT, slots: day.len(), least: 1 });
        let mut now = Instant(0);
        for &work in day {
            level.came(now, work);
            now = now + SLOT;
        }
        level.came(now, 0);
        level.check();
        (level, now)
    }

    /// What is left at the end of each slot if each takes the level's share; none once it ran out.
    fn left(day: &[u64], waiting: u64, per_s: u64) -> Option<u64> {
        day.iter().try_fold(waiting, |left, work| (left + work).checked_sub(per_s * SLOT.as_secs()))
    }

    proptest! {
        #[test]
        fn work_lasts_a_day_at_the_level_and_not_above_it(
            day in proptest::collection::vec(0..10_000_000u64, 4..40),
            waiting in 0..10_000_000u64,
        ) {
            let (level, now) = seen(&day);
            let per_s = level.level(now, waiting).expect("it has seen a day");
            // The first slot is too near to be looked at.
            let ahead = left(&day[..day.len() - 1], waiting, per_s);
            let first_is_poor = waiting + day[0] < per_s * SLOT.as_secs();
            prop_assert!(ahead.is_some() || first_is_poor, "{per_s} a second runs out");
            let more = per_s + 1;
            let runs_out = (1..=day.len()).any(|slots| left(&day[..slots], waiting, more).is_none());
            prop_assert!(runs_out, "{more} a second would have lasted");
        }
    }

    #[test]
    fn a_day_that_repeats_is_done_at_its_mean() {
        let day: Vec<u64> = (0..96).map(|slot| if slot < 48 { 1_350_000 } else { 450_000 }).collect();
        let (mut level, mut now) = seen(&day);
        let (mut waiting, mut done) = (0u64, Vec::new());
        for slot in 0..5 * 96 {
            let per_s = level.level(now, waiting).unwrap().min(waiting / SLOT.as_secs() + 1500);
            let work = day[slot % 96];
            let does = (per_s * SLOT.as_secs()).min(waiting + work);
            waiting = waiting + work - does;
            done.push(does / SLOT.as_secs());
            level.came(now, work);
            now = now + SLOT;
            level.came(now, 0);
            level.check();
        }
        let last = &done[4 * 96..];
        let (most, fewest) = (last.iter().max().unwrap(), last.iter().min().unwrap());
        assert!(*most <= 1010 && *fewest >= 990, "from {fewest} to {most}, a mean of 1000");
    }

    #[test]
    fn before_a_day_has_been_seen_there_is_none() {
        let mut level = Level::new(Settings::default());
        for slot in 0..96u64 {
            let now = Instant(slot * 900_000_000_000);
            level.came(now, 5);
            assert_eq!(level.level(now, 1000), None);
        }
        let now = Instant(96 * 900_000_000_000);
        level.came(now, 5);
        assert!(level.level(now, 1000).is_some());
    }

    #[test]
    #[should_panic(expected = "no day")]
    fn canary_a_day_without_slots() {
        Level::new(Settings { slots: 1, ..Settings::default() });
    }
}
