//! How many sandboxes a function gets, and when: a pure decider, one for each function.
//!
//! - The first is made at once; more are made while calls wait longer than a new sandbox would take to come, as many at
//!   a time as there are already, up to the function's bound.
//! - A function whose sandboxes fail before their first `next` gets the next one ever later; its calls fail at once
//!   until then, so that a broken function cannot keep the host busy starting it.

use super::words::Bounds;
use call::{Instant, Status};
use std::time::Duration;

/// A queue is looked at again after this long at the soonest.
const GROW_MIN: Duration = Duration::from_millis(5);
/// And after this long at the latest, however long a sandbox takes to come.
pub(super) const GROW_MAX: Duration = Duration::from_secs(1);
/// Pause after the first sandbox that failed to begin; doubles with each, up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What is to be done for calls that wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing: enough sandboxes come, or there may be no more.
    Enough,
    /// Nothing yet; ask again then.
    Wait { until: Instant },
    /// They fail so: nothing is there that could serve them, and nothing is made before `until`.
    Fail { until: Instant, status: Status, text: String },
    /// Make so many sandboxes; ask again then.
    Make { count: u32, until: Instant },
}

/// The sandboxes of one function, as numbers.
#[derive(Debug)]
pub(super) struct Growth {
    /// What it may have.
    pub bounds: Bounds,
    /// Sandboxes that come or are ready, and are not condemned.
    live: u32,
    /// Of these, those that come.
    coming: u32,
    /// All that have a place, whatever their state.
    held: u32,
    /// When more may be made.
    grow_at: Instant,
    /// How long the last one took to come.
    init: Duration,
    /// Sandboxes in a row that failed to begin.
    fails: u32,
    /// No sandbox is made before this.
    retry_at: Instant,
    failure: Option<(Status, String)>,
}

impl Growth {
    /// Of a function without sandboxes.
    pub fn new(bounds: Bounds) -> Growth {
        Growth {
            bounds,
            live: 0,
            coming: 0,
            held: 0,
            grow_at: Instant(0),
            init: Duration::ZERO,
            fails: 0,
            retry_at: Instant(0),
            failure: None,
        }
    }

    /// What to do for so many calls that wait. `returning` counts sandboxes that are about to ask for one; it is asked
    /// only when more would be made.
    pub fn step(&mut self, waiting: u32, returning: impl FnOnce() -> u32, now: Instant) -> Verdict {
        if now < self.retry_at {
            let until = self.retry_at;
            return match self.failure.clone().filter(|_| self.live == 0) {
                Some((status, text)) => Verdict::Fail { until, status, text },
                None => Verdict::Wait { until },
            };
        }
        let wanted = self.wanted(waiting);
        if wanted == 0 {
            return Verdict::Enough;
        }
        if self.live > 0 && now < self.grow_at {
            return Verdict::Wait { until: self.grow_at };
        }
        self.grow_at = now + self.patience();
        Verdict::Make { count: wanted.saturating_sub(returning()), until: self.grow_at }
    }

    /// Whether one may be made for a call that is not there yet: there is none, and none failed just now.
    pub fn may_prepare(&self, now: Instant) -> bool {
        self.live == 0 && now >= self.retry_at && self.held < self.bounds.sandboxes
    }

    /// Calls wait from now on.
    pub fn queue_begins(&mut self, now: Instant) {
        self.grow_at = self.grow_at.max(now + self.patience());
    }

    /// How a call that would have to wait ends at once, if it does.
    pub fn refusal(&self, now: Instant) -> Option<&(Status, String)> {
        self.failure.as_ref().filter(|_| self.live == 0 && now < self.retry_at)
    }

    /// When more sandboxes may be made.
    pub fn grows_at(&self) -> Instant {
        self.grow_at
    }

    /// Whether nothing is left of a function that may have nothing any more.
    pub fn is_over(&self) -> bool {
        self.held == 0 && self.bounds.sandboxes == 0
    }

    // ---- what happened to sandboxes ----

    /// One is being made.
    pub fn made(&mut self) {
        self.live += 1;
        self.coming += 1;
        self.held += 1;
    }

    /// One that came has its first seat, so long after it was asked for.
    pub fn came(&mut self, init: Duration) {
        self.coming -= 1;
        (self.fails, self.init) = (0, init);
    }

    /// One takes no more calls.
    pub fn lost(&mut self, was_coming: bool) {
        self.live -= 1;
        self.coming -= u32::from(was_coming);
    }

    /// One has left its place.
    pub fn vacated(&mut self) {
        self.held -= 1;
    }

    /// One could not begin: the next waits.
    pub fn failed(&mut self, status: Status, text: &str, now: Instant) {
        let pause = (BACKOFF_MIN * (1 << self.fails.min(16))).min(BACKOFF_MAX);
        self.fails += 1;
        self.retry_at = now + pause;
        self.failure = Some((status, text.into()));
    }

    /// A new version is in force: what the old one failed with says nothing of it.
    pub fn renewed(&mut self) {
        (self.fails, self.retry_at, self.failure) = (0, Instant(0), None);
    }

    /// How long calls may wait before one sandbox more helps them: about as long as it takes to come.
    fn patience(&self) -> Duration {
        self.init.clamp(GROW_MIN, GROW_MAX)
    }

    /// How many sandboxes to make for the calls that wait.
    fn wanted(&self, waiting: u32) -> u32 {
        let seats = self.bounds.concurrent.max(1);
        let missing = waiting.div_ceil(seats).saturating_sub(self.coming);
        let room = self.bounds.sandboxes.saturating_sub(self.held);
        missing.min(self.live.max(1)).min(room)
    }

    /// All that have a place, those that are live, those that come.
    #[cfg(test)]
    pub fn counts(&self) -> (u32, u32, u32) {
        (self.held, self.live, self.coming)
    }

    /// Its invariants.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.coming <= self.live, "what comes is live: {self:?}");
        assert!(self.live <= self.held, "what is live has a place: {self:?}");
        assert!(self.fails == 0 || self.failure.is_some(), "a failure has a reason: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds =
        Bounds { concurrent: 2, sandboxes: 6, idle: Duration::from_secs(60), init: Duration::from_secs(10) };

    #[derive(Clone, Debug)]
    enum Move {
        Step { waiting: u32, returning: u32 },
        Came(u64),
        Failed,
        Lost,
        Pass(u64),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            6 => (0..40_u32, 0..3_u32).prop_map(|(waiting, returning)| Move::Step { waiting, returning }),
            3 => (0..5000_u64).prop_map(Move::Came),
            2 => Just(Move::Failed),
            2 => Just(Move::Lost),
            4 => (0..40_000_u64).prop_map(Move::Pass),
        ];
        prop::collection::vec(one, 0..100)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn it_never_grows_beyond_its_bound_doubles_at_most_and_rests_after_failures(moves in moves()) {
            let mut growth = Growth::new(BOUNDS);
            let mut now = Instant(0);
            let mut pause_ends = Instant(0);
            for a_move in moves {
                match a_move {
                    Move::Pass(ms) => now = now + Duration::from_millis(ms),
                    Move::Came(ms) if growth.coming > 0 => growth.came(Duration::from_millis(ms)),
                    Move::Failed if growth.coming > 0 => {
                        growth.lost(true);
                        growth.vacated();
                        growth.failed(Status::Init, "", now);
                        pause_ends = now + BACKOFF_MIN;
                    }
                    Move::Lost if growth.live > growth.coming => {
                        growth.lost(false);
                        growth.vacated();
                    }
                    Move::Step { waiting, returning } => {
                        let live = growth.live;
                        if let Verdict::Make { count, until } = growth.step(waiting, || returning, now) {
                            prop_assert!(now >= pause_ends, "made within the pause of a failure");
                            prop_assert!(count <= live.max(1), "{count} more for {live}");
                            prop_assert!(until > now && until <= now + GROW_MAX);
                            (0..count).for_each(|_| growth.made());
                        }
                        prop_assert!(growth.held <= BOUNDS.sandboxes);
                    }
                    _ => {}
                }
                growth.check();
            }
            // Whatever was before: calls that wait get a sandbox, or those that are live serve them.
            let later = now + BACKOFF_MAX;
            let made = matches!(growth.step(20, || 0, later), Verdict::Make { count: 1.., .. });
            prop_assert!(made || growth.live > 0, "calls wait for ever: {growth:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut growth = Growth::new(BOUNDS);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            growth.failed(Status::Init, "", Instant(0));
            pauses.push(growth.retry_at - Instant(0));
        }
        assert_eq!(pauses[..3], [BACKOFF_MIN, 2 * BACKOFF_MIN, 4 * BACKOFF_MIN]);
        assert_eq!(pauses[11], BACKOFF_MAX);
        growth.came_after_all();
        growth.failed(Status::Init, "", Instant(0));
        assert_eq!(growth.retry_at - Instant(0), BACKOFF_MIN, "one that began ends the row");
    }

    impl Growth {
        fn came_after_all(&mut self) {
            self.made();
            self.came(Duration::ZERO);
        }
    }

    #[test]
    #[should_panic(expected = "what is live has a place")]
    fn canary_a_place_that_is_given_back_twice_is_seen() {
        let mut growth = Growth::new(BOUNDS);
        growth.made();
        growth.vacated();
        growth.check();
    }
}
