//! Retry budget: retries are a bounded share of what a function runs, so that a failing service is not asked more.
//!
//! Each first execution that is taken in earns `share` thousandths of a retry, each retry costs one, and up to `most`
//! are saved. Beside that `least` retries a second are earned by time alone: a queue that promises to run a call
//! cannot let its retry wait for ever.
//!
//! **Law**: retries <= first executions x share + `least` x time + `most`.

use crate::quota::Rate;
use call::Instant;
use std::num::NonZeroU32;

/// What an owner may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryRule {
    /// Retries earned by a first execution, in thousandths.
    pub share: u32,
    /// Retries a second that are always allowed; at least a thousandth, so that every retry runs in the end.
    pub least: Rate,
    /// Retries saved at most, at least 1.
    pub most: u32,
}

impl Default for RetryRule {
    /// Finagle's budget: a fifth of the calls, and ten a second; ten seconds of the latter saved.
    fn default() -> RetryRule {
        RetryRule { share: 200, least: Rate::per_s(10), most: 100 }
    }
}

/// One retry, in the budget's unit: billionths of thousandths, what a rate of [`Rate`] earns in a nanosecond.
const RETRY: u128 = 1_000_000_000_000;

/// The budget of one function.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget {
    share: u32,
    most: NonZeroU32,
    least: Rate,
    /// What is saved, as of `at`.
    saved: u128,
    at: Instant,
}

impl RetryBudget {
    /// A full one.
    pub fn new(rule: RetryRule, now: Instant) -> RetryBudget {
        let RetryRule { share, least, most } = rule;
        let most = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
        let saved = u128::from(most.get()) * RETRY;
        RetryBudget { share, most, least: least.max(Rate(1)), saved, at: now }
    }

    /// Other constants; what is saved stays, up to the new `most`.
    pub fn set(&mut self, now: Instant, rule: RetryRule) {
        self.advance(now);
        let fresh = RetryBudget::new(rule, now);
        *self = RetryBudget { saved: self.saved.min(fresh.saved), ..fresh };
    }

    /// A first execution was taken in.
    pub fn earn(&mut self, now: Instant) {
        self.advance(now);
        self.add(RETRY / 1000 * u128::from(self.share));
    }

    /// Pays for a retry, if it can.
    pub fn pay(&mut self, now: Instant) -> bool {
        self.advance(now);
        let paid = self.saved >= RETRY;
        if paid {
            self.saved -= RETRY;
        }
        paid
    }

    /// When the next retry can be paid for by time alone.
    pub fn opens_at(&self) -> Instant {
        let short = RETRY.saturating_sub(self.saved);
        let wait_ns = short.div_ceil(u128::from(self.least.0));
        Instant(self.at.0.saturating_add(u64::try_from(wait_ns).unwrap_or(u64::MAX)))
    }

    fn advance(&mut self, now: Instant) {
        let passed_ns = now.0.saturating_sub(self.at.0);
        self.at = self.at.max(now);
        self.add(u128::from(passed_ns) * u128::from(self.least.0));
    }

    fn add(&mut self, earned: u128) {
        self.saved = self.saved.saturating_add(earned).min(u128::from(self.most.get()) * RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const RULE: RetryRule = RetryRule { share: 200, least: Rate(500), most: 3 };

    /// (milliseconds to wait, first executions, retries wanted) each; judged by the law's own words.
    fn run(steps: &[(u64, u32, u32)], rule: RetryRule) {
        let (mut budget, mut now) = (RetryBudget::new(rule, Instant(0)), Instant(0));
        let (mut firsts, mut retries) = (0, 0);
        for &(wait, first, wanted) in steps {
            now = now + Duration::from_millis(wait);
            (0..first).for_each(|_| budget.earn(now));
            firsts += u128::from(first);
            for _ in 0..wanted {
                let expected = budget.opens_at() <= now;
                let paid = budget.pay(now);
                assert_eq!(paid, expected, "it opens when it says");
                retries += u128::from(paid);
                let bound = firsts * 200 / 1000 + u128::from(now.0) * 500 / RETRY + 3;
                assert!(retries <= bound + 1, "{retries} retries of {firsts} calls: the budget is {bound}");
            }
        }
    }

    proptest! {
        #[test]
        fn retries_stay_in_their_share(
            steps in proptest::collection::vec((0..3000u64, 0..20u32, 0..20u32), 0..60),
        ) {
            run(&steps, RULE);
        }

        #[test]
        fn every_retry_is_paid_for_in_the_end(share in 0..2000u32, least in 0..5000u64, most in 0..9u32) {
            let mut budget = RetryBudget::new(RetryRule { share, least: Rate(least), most }, Instant(0));
            for _ in 0..20 {
                let now = budget.opens_at();
                prop_assert!(now < Instant::NEVER && budget.pay(now));
            }
        }
    }

    #[test]
    #[should_panic(expected = "the budget is")]
    fn canary_share() {
        run(&[(0, 100, 100)], RetryRule { share: 400, most: 50, ..RULE });
    }
}
