//! Slow start: a function's calls grow by a share per window, so that what it calls can grow with it.
//!
//! **Law**: in each window at most the larger of `least` and the calls of the window before, times 1 + `growth`. The
//! paper (SOSP 2023, section 4.6.3): W = 1 minute, T = 100 calls, alpha = 20%.

use call::Instant;
use call::time::nanos;
use std::num::NonZeroU64;
use std::time::Duration;

/// The shortest window: a millisecond, in nanoseconds.
const WINDOW_MIN: NonZeroU64 = NonZeroU64::new(1_000_000).expect("not zero");

/// What an owner may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowStartRule {
    /// W, at least a millisecond.
    pub window: Duration,
    /// T: so many calls a window are always admitted, at least 1.
    pub least: u32,
    /// Alpha: the growth from one window to the next, in thousandths.
    pub growth: u32,
}

impl Default for SlowStartRule {
    /// The paper's constants.
    fn default() -> SlowStartRule {
        SlowStartRule { window: Duration::from_secs(60), least: 100, growth: 200 }
    }
}

/// The windows of one function. They begin with its first call.
#[derive(Clone, Copy, Debug)]
pub struct SlowStart {
    /// W.
    window_ns: NonZeroU64,
    /// T.
    least: u32,
    growth: u32,
    /// When the window began in which the last call was admitted; [`Instant::NEVER`] before the first.
    began: Instant,
    /// Calls admitted in that window.
    count: u32,
    /// Calls that may be admitted in it.
    cap: u32,
}

impl SlowStart {
    /// Nothing has been admitted.
    pub fn new(rule: SlowStartRule) -> SlowStart {
        let window_ns = NonZeroU64::new(nanos(rule.window)).map_or(WINDOW_MIN, |ns| ns.max(WINDOW_MIN));
        let (least, growth) = (rule.least.max(1), rule.growth);
        SlowStart { window_ns, least, growth, began: Instant::NEVER, count: 0, cap: least }
    }

    /// Other constants; the calls of this window and the last still count.
    pub fn set(&mut self, rule: SlowStartRule) {
        let fresh = SlowStart::new(rule);
        *self = SlowStart { began: self.began, count: self.count, cap: self.cap.max(fresh.cap), ..fresh };
    }

    /// From when on a call may be admitted.
    pub fn opens_at(&self) -> Instant {
        let full = self.count >= self.cap;
        if full { Instant(self.began.0.saturating_add(self.window_ns.get())) } else { Instant(0) }
    }

    /// A call is admitted.
    pub fn admit(&mut self, now: Instant) {
        self.advance(now);
        self.count += 1;
    }

    /// A call that was admitted goes back to its FuncBuffer: the window in which the last one was admitted gets it.
    pub fn give_back(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    fn advance(&mut self, now: Instant) {
        if self.began == Instant::NEVER {
            self.began = now;
        }
        let passed_ns = now.0.saturating_sub(self.began.0);
        if passed_ns < self.window_ns.get() {
            return;
        }
        let passed = passed_ns / self.window_ns;
        // Windows follow each other without a gap.
        self.began = Instant(self.began.0 + passed * self.window_ns.get());
        let before = if passed == 1 { std::mem::take(&mut self.count) } else { 0 };
        self.count = 0;
        let grown = u64::from(before) * (1000 + u64::from(self.growth)) / 1000;
        self.cap = self.least.max(u32::try_from(grown).unwrap_or(u32::MAX));
    }

    /// Panics if more were admitted than the window holds.
    pub fn check(&self) {
        assert!(self.count <= self.cap, "{} calls in a window of {}", self.count, self.cap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: SlowStartRule = SlowStartRule { window: Duration::from_secs(1), least: 10, growth: 200 };

    /// Calls admitted per window by one who waits and asks as `asks` says: (ns to wait, calls to try).
    fn admitted(asks: &[(u64, u32)], rule: SlowStartRule) -> Vec<u64> {
        let (mut slow, mut now, mut began, mut windows) =
            (SlowStart::new(rule), Instant(0), None, Vec::new());
        for &(wait, calls) in asks {
            now = now + Duration::from_nanos(wait);
            for _ in 0..calls {
                if slow.opens_at() > now {
                    continue;
                }
                slow.admit(now);
                slow.check();
                let began: Instant = *began.get_or_insert(now);
                let window = (now.since(began).as_nanos() / rule.window.as_nanos()) as usize;
                windows.resize((window + 1).max(windows.len()), 0);
                windows[window] += 1;
            }
        }
        windows
    }

    /// The law by its words.
    fn obeys(windows: &[u64]) {
        let before = std::iter::once(0).chain(windows.iter().copied());
        for (at, (&now, before)) in windows.iter().zip(before).enumerate() {
            assert!(now <= 10.max(before * 12 / 10), "window {at} grew too fast: {windows:?}");
        }
    }

    proptest! {
        #[test]
        fn a_window_holds_a_fifth_more_than_the_last(
            asks in proptest::collection::vec((0..900_000_000u64, 0..60u32), 0..100),
        ) {
            obeys(&admitted(&asks, RULE));
        }
    }

    #[test]
    fn steady_pressure_grows_by_a_fifth_and_a_pause_begins_anew() {
        let mut asks = vec![(1, 1000)];
        asks.extend(vec![(1_000_000_000, 1000); 5]);
        asks.extend([(2_000_000_000, 1000)]);
        assert_eq!(admitted(&asks, RULE), [10, 12, 14, 16, 19, 22, 0, 10]);
    }

    #[test]
    #[should_panic(expected = "grew too fast")]
    fn canary_growth() {
        let planted = SlowStartRule { growth: 300, ..RULE };
        obeys(&admitted(&[(1_000_000_000, 1000); 5], planted));
    }
}
