//! Quota: how many calls a second of a function enter the RunQ. A token bucket, kept as one instant.
//!
//! A bucket holds `burst` calls and gains one each `1 / rate`. It is written down as the instant at which it will be
//! full again (the generic cell rate algorithm of ATM's traffic control, ITU-T I.371): nothing has to be refilled, and
//! the instant at which it opens is known exactly.
//!
//! **Law**: in any time `t` at most `rate x t + burst` calls are admitted; where the rate changes, the sum over its parts.

use call::Instant;

/// Nanoseconds of a thousand seconds: at one thousandth of a call a second, the time between two calls.
const NS_PER_MILLI: u64 = 1_000_000_000_000;

/// Calls a second, in thousandths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rate(pub u64);

impl Rate {
    /// No call.
    pub const ZERO: Rate = Rate(0);
    /// As many as there are.
    pub const UNLIMITED: Rate = Rate(u64::MAX);

    /// So many calls a second.
    pub const fn per_s(calls: u64) -> Rate {
        Rate(calls.saturating_mul(1000))
    }

    /// The rate times `permille / 1000`. What is unlimited stays so, unless `permille` is zero.
    pub fn times(self, permille: u32) -> Rate {
        match (self, permille) {
            (_, 0) => Rate::ZERO,
            (Rate::UNLIMITED, _) => Rate::UNLIMITED,
            (Rate(milli), _) => {
                Rate(u64::try_from(u128::from(milli) * u128::from(permille) / 1000).unwrap_or(u64::MAX - 1))
            }
        }
    }

    /// Time between two calls, rounded up so that the limit is never exceeded.
    fn interval_ns(self) -> u64 {
        if self == Rate::UNLIMITED { 0 } else { NS_PER_MILLI.div_ceil(self.0.max(1)) }
    }
}

/// The bucket of one function.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// Time between two calls, ns, of the last rate that was not zero; 0 if unlimited.
    interval_ns: u64,
    burst: u32,
    /// When the bucket is full again, if nothing is admitted until then. At rate zero, where time fills nothing: how
    /// long it would take.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket. A burst of 0 counts as 1.
    pub fn new(rate: Rate, burst: u32) -> Bucket {
        let interval_ns = if rate == Rate::ZERO { 0 } else { rate.interval_ns() };
        Bucket { rate, interval_ns, burst: burst.max(1), full_at: Instant(0) }
    }

    /// Another rate and burst from `now` on. The calls it is short of being full stay the same number; if there was no
    /// limit, it is short of the `queued` calls that may yet be given back.
    pub fn set(&mut self, now: Instant, rate: Rate, burst: u32, queued: u32) {
        let was = std::mem::replace(&mut self.rate, rate);
        self.burst = burst.max(1);
        let short_ns = if was == Rate::ZERO { self.full_at.0 } else { self.full_at.0.saturating_sub(now.0) };
        if rate == Rate::ZERO {
            self.full_at = Instant(short_ns);
            return;
        }
        let before = std::mem::replace(&mut self.interval_ns, rate.interval_ns());
        let short_ns = match before {
            0 => u128::from(self.interval_ns) * u128::from(queued),
            _ => (u128::from(short_ns) * u128::from(self.interval_ns)).div_ceil(u128::from(before)),
        };
        self.full_at = Instant(now.0.saturating_add(u64::try_from(short_ns).unwrap_or(u64::MAX)));
    }

    /// The rate in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// From when on a call may be admitted; [`Instant::NEVER`] if the rate is zero.
    pub fn opens_at(&self) -> Instant {
        if self.rate == Rate::ZERO {
            return Instant::NEVER;
        }
        Instant(self.full_at.0.saturating_sub(self.interval_ns.saturating_mul(u64::from(self.burst) - 1)))
    }

    /// A call is admitted.
    pub fn admit(&mut self, now: Instant) {
        self.full_at = Instant(self.full_at.max(now).0.saturating_add(self.interval_ns));
    }

    /// An admitted call goes back to its FuncBuffer: it did not use what it took.
    pub fn give_back(&mut self) {
        self.full_at = Instant(self.full_at.0.saturating_sub(self.interval_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Set(u64),
        Take,
        GiveBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..3_000_000_000u64).prop_map(Step::Wait),
            1 => prop_oneof![Just(0), 1..5_000u64, 1_000_000..9_000_000u64].prop_map(Step::Set),
            20 => Just(Step::Take),
            1 => Just(Step::GiveBack),
        ]
    }

    /// Tokens in thousandths of billionths of a call, kept by a naive bucket that is refilled at every step.
    struct Naive {
        tokens: u128,
        rate: u64,
        burst: u32,
    }

    const TOKEN: u128 = NS_PER_MILLI as u128;

    impl Naive {
        fn wait(&mut self, ns: u64) {
            let full = TOKEN * u128::from(self.burst);
            self.tokens = full.min(self.tokens + u128::from(ns) * u128::from(self.rate));
        }
    }

    /// How many calls may be admitted now; panics if the bucket admits one that the naive one does not.
    fn run(steps: &[Step], burst: u32, planted: u32) -> u64 {
        let (mut now, mut admitted) = (Instant(7), 0);
        let mut bucket = Bucket::new(Rate(1000), burst + planted);
        let mut naive = Naive { tokens: TOKEN * u128::from(burst), rate: 1000, burst };
        for step in steps {
            match *step {
                Step::Wait(ns) => {
                    now = now + Duration::from_nanos(ns);
                    naive.wait(ns);
                }
                Step::Set(rate) => {
                    bucket.set(now, Rate(rate), burst + planted, 0);
                    naive.rate = rate;
                }
                Step::Take if bucket.opens_at() <= now => {
                    bucket.admit(now);
                    admitted += 1;
                    // Rounding of a change of the rate is in the bucket's disfavour only.
                    naive.tokens =
                        naive.tokens.checked_sub(TOKEN).expect("admitted more than rate x t + burst");
                }
                Step::GiveBack if admitted > 0 && bucket.rate() != Rate::ZERO && bucket.full_at > now => {
                    bucket.give_back();
                    naive.tokens += TOKEN;
                }
                _ => {}
            }
        }
        admitted
    }

    proptest! {
        #[test]
        fn never_more_than_rate_times_time_and_burst(
            steps in proptest::collection::vec(step(), 0..200), burst in 1..6u32,
        ) {
            run(&steps, burst, 0);
        }

        #[test]
        fn whoever_always_asks_gets_the_rate(rate in 1..3_000_000u64, burst in 1..50u32) {
            let (mut bucket, mut now, mut admitted) = (Bucket::new(Rate(rate), burst), Instant(0), 0u64);
            let end = Instant(20_000_000_000_000 / rate);
            loop {
                now = now.max(bucket.opens_at());
                if now > end {
                    break;
                }
                bucket.admit(now);
                admitted += 1;
            }
            prop_assert!((19..=20 + 1).contains(&(admitted - u64::from(burst) + 1)), "{}", admitted);
        }
    }

    #[test]
    #[should_panic(expected = "admitted more than rate x t + burst")]
    fn canary_burst() {
        run(&[Step::Take, Step::Take, Step::Take], 2, 1);
    }

    #[test]
    fn zero_is_closed_and_unlimited_is_open() {
        let mut bucket = Bucket::new(Rate::UNLIMITED, 0);
        (0..9).for_each(|_| bucket.admit(Instant(5)));
        assert!(bucket.opens_at() <= Instant(5));
        bucket.set(Instant(5), Rate::ZERO, 1, 0);
        assert_eq!(bucket.opens_at(), Instant::NEVER);
        bucket.set(Instant(5), Rate::per_s(1), 1, 0);
        assert!(bucket.opens_at() <= Instant(5));
        bucket.admit(Instant(5));
        assert_eq!(bucket.opens_at(), Instant(1_000_000_005));
        assert_eq!((Rate::UNLIMITED.times(500), Rate::per_s(3).times(500)), (Rate::UNLIMITED, Rate(1500)));
        assert_eq!(Rate::UNLIMITED.times(0), Rate::ZERO);
    }
}
