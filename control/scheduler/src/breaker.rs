//! Circuit breaker: a function whose calls nearly all fail is not tried further, except by a few probes.
//!
//! Closed, it counts ends in windows. When of at least `calls_min` ends in a window `failures` thousandths failed, it
//! opens for `open`. Then it is half open: it admits `probes` calls and waits for their ends. If all went well it
//! closes; the first that failed opens it again, for twice as long, up to `open_max`.
//!
//! **Laws**: while it is open nothing is admitted; half open, never more than `probes` calls whose end it does not
//! know; of a function that does not fail it never opens; and it always tries again.
//!
//! Back-pressure of a downstream service is no failure here: the AIMD controller answers it, call by call.

use call::Instant;
use call::time::nanos;
use std::time::Duration;

/// What an owner may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerRule {
    /// Share of the ends of a window that failed, in thousandths, at which it opens; at least 1.
    pub failures: u32,
    /// Ends that a window must have before it judges.
    pub calls_min: u32,
    /// The window in which ends are counted.
    pub window: Duration,
    /// How long it is open the first time.
    pub open: Duration,
    /// How long at most.
    pub open_max: Duration,
    /// Calls that it admits half open, at least 1.
    pub probes: u32,
}

impl Default for BreakerRule {
    /// The usual values of circuit breakers (resilience4j and Polly open at half the calls): half of at least 20 ends
    /// within 10 s. Open for 5 s first, as long as a lease; a minute at most, since a queue loses nothing by waiting.
    fn default() -> BreakerRule {
        BreakerRule {
            failures: 500,
            calls_min: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
            probes: 3,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { admitted: u32, well: u32 },
}

/// The breaker of one function.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    state: State,
    /// The window of a closed breaker.
    began: Instant,
    window_ns: u64,
    ends: u32,
    failed: u32,
    failures: u32,
    calls_min: u32,
    probes: u32,
    open_ns: u64,
    open_max_ns: u64,
    /// How long it is open the next time.
    next_open_ns: u64,
}

impl Breaker {
    /// A closed one.
    pub fn new(rule: BreakerRule) -> Breaker {
        let open_ns = nanos(rule.open);
        Breaker {
            state: State::Closed,
            began: Instant(0),
            window_ns: nanos(rule.window),
            ends: 0,
            failed: 0,
            failures: rule.failures.max(1),
            calls_min: rule.calls_min,
            probes: rule.probes.max(1),
            open_ns,
            open_max_ns: open_ns.max(nanos(rule.open_max)),
            next_open_ns: open_ns,
        }
    }

    /// Other constants, in force from the next change of state on.
    pub fn set(&mut self, rule: BreakerRule) {
        let Breaker { state, began, ends, failed, next_open_ns, .. } = *self;
        let fresh = Breaker::new(rule);
        let next_open_ns = next_open_ns.clamp(fresh.open_ns, fresh.open_max_ns);
        *self = Breaker { state, began, ends, failed, next_open_ns, ..fresh };
    }

    /// From when on a call may be admitted; [`Instant::NEVER`] while the ends of its probes are awaited.
    pub fn opens_at(&self) -> Instant {
        match self.state {
            State::Closed => Instant(0),
            State::Open { until } => until,
            State::HalfOpen { admitted, .. } if admitted < self.probes => Instant(0),
            State::HalfOpen { .. } => Instant::NEVER,
        }
    }

    /// A call is admitted.
    pub fn admit(&mut self, _now: Instant) {
        match &mut self.state {
            State::Closed => {}
            State::Open { .. } => self.state = State::HalfOpen { admitted: 1, well: 0 },
            State::HalfOpen { admitted, .. } => *admitted += 1,
        }
    }

    /// An admitted call will have no end: it went back to its FuncBuffer, or its core was lost.
    pub fn give_back(&mut self) {
        if let State::HalfOpen { admitted, well } = &mut self.state {
            *admitted = admitted.saturating_sub(1).max(*well);
        }
    }

    /// A call ended. One that was admitted before the breaker opened counts like a probe: it is news, too.
    pub fn ended(&mut self, now: Instant, failed: bool) {
        match self.state {
            State::Closed => self.count(now, failed),
            State::Open { .. } => {}
            State::HalfOpen { .. } if failed => self.open_at(now),
            State::HalfOpen { admitted, well } if well + 1 < self.probes => {
                self.state = State::HalfOpen { admitted: admitted.max(well + 1), well: well + 1 };
            }
            State::HalfOpen { .. } => {
                (self.state, self.next_open_ns) = (State::Closed, self.open_ns);
                (self.began, self.ends, self.failed) = (now, 0, 0);
            }
        }
    }

    fn count(&mut self, now: Instant, failed: bool) {
        if now.0.saturating_sub(self.began.0) >= self.window_ns {
            (self.began, self.ends, self.failed) = (now, 0, 0);
        }
        self.ends = self.ends.saturating_add(1);
        self.failed += u32::from(failed && self.failed < self.ends);
        let judges = self.ends >= self.calls_min;
        if failed
            && judges
            && u64::from(self.failed) * 1000 >= u64::from(self.ends) * u64::from(self.failures)
        {
            self.open_at(now);
        }
    }

    fn open_at(&mut self, now: Instant) {
        self.state = State::Open { until: Instant(now.0.saturating_add(self.next_open_ns)) };
        self.next_open_ns = self.next_open_ns.saturating_mul(2).min(self.open_max_ns);
    }

    /// Panics if it admitted more probes than it may.
    pub fn check(&self) {
        if let State::HalfOpen { admitted, well } = self.state {
            assert!(well <= admitted && admitted <= self.probes, "{admitted} of {} probes", self.probes);
        }
        assert!(self.failed <= self.ends && self.next_open_ns <= self.open_max_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: BreakerRule = BreakerRule {
        failures: 500,
        calls_min: 4,
        window: Duration::from_secs(10),
        open: Duration::from_secs(5),
        open_max: Duration::from_secs(20),
        probes: 2,
    };

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Call,
        End(bool),
        Lose,
    }

    fn step(may_fail: bool) -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u64).prop_map(Step::Wait),
            Just(Step::Call),
            Just(Step::Call),
            (0..3u8).prop_map(move |n| Step::End(n > 0 && may_fail)),
            Just(Step::Lose),
        ]
    }

    /// Drives a breaker and keeps the laws by its own books: when it was seen to open, and what is under way since.
    fn run(steps: &[Step], rule: BreakerRule, probes: u32) -> (Breaker, Instant, u32) {
        let (mut breaker, mut now, mut under_way, mut opened) = (Breaker::new(rule), Instant(0), 0, 0);
        // Calls admitted since it opened last, whose end is not known.
        let (mut shut_until, mut since_opened) = (None, 0);
        for step in steps {
            let was = breaker.opens_at();
            match *step {
                Step::Wait(s) => now = now + Duration::from_secs(s),
                Step::Call if was <= now => {
                    if let Some(until) = shut_until {
                        assert!(now >= until, "admitted while it is open");
                        since_opened += 1;
                        assert!(since_opened <= probes, "more probes than it may");
                    }
                    breaker.admit(now);
                    under_way += 1;
                }
                Step::End(failed) if under_way > 0 => {
                    under_way -= 1;
                    breaker.ended(now, failed);
                    match breaker.state {
                        State::Open { until } if Some(until) != shut_until => {
                            opened += 1;
                            (shut_until, since_opened) = (Some(until), 0);
                        }
                        State::Closed => shut_until = None,
                        _ => {}
                    }
                }
                // Only what was admitted as a probe can be lost as one.
                Step::Lose
                    if since_opened > 0
                        && matches!(breaker.state, State::HalfOpen { admitted, well } if admitted > well) =>
                {
                    under_way -= 1;
                    since_opened -= 1;
                    breaker.give_back();
                }
                _ => {}
            }
            breaker.check();
        }
        (breaker, now, opened)
    }

    proptest! {
        #[test]
        fn open_it_admits_nothing_and_half_open_a_few(steps in proptest::collection::vec(step(true), 0..120)) {
            let (breaker, now, _) = run(&steps, RULE, RULE.probes);
            if let State::Open { until } = breaker.state {
                prop_assert!(until <= now + RULE.open_max, "it tries again");
            }
        }

        #[test]
        fn who_does_not_fail_is_never_stopped(steps in proptest::collection::vec(step(false), 0..120)) {
            prop_assert_eq!(run(&steps, RULE, RULE.probes).2, 0);
        }
    }

    #[test]
    #[should_panic(expected = "more probes than it may")]
    fn canary_probes() {
        let mut steps = vec![Step::Call; 8];
        steps.extend([Step::End(true); 4]);
        steps.extend([Step::Wait(5), Step::Call, Step::Call, Step::Call]);
        run(&steps, BreakerRule { probes: 3, ..RULE }, 2);
    }

    #[test]
    fn it_opens_longer_each_time_and_closes_when_probes_go_well() {
        let mut breaker = Breaker::new(RULE);
        (0..4).for_each(|_| breaker.ended(Instant(0), true));
        let mut waits = Vec::new();
        let mut now = Instant(0);
        for _ in 0..4 {
            waits.push(breaker.opens_at().since(now).as_secs());
            now = breaker.opens_at();
            breaker.admit(now);
            breaker.ended(now, true);
        }
        assert_eq!(waits, [5, 10, 20, 20]);
        now = breaker.opens_at();
        for _ in 0..2 {
            breaker.admit(now);
            breaker.ended(now, false);
        }
        assert_eq!((breaker.state, breaker.opens_at()), (State::Closed, Instant(0)));
    }
}
