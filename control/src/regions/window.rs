//! How many calls another region may still send over one link: a share of the credits that are free here. Pure.

/// Calls granted over a link and not leased yet, at most: a round trip of 100 ms then carries 10,000 calls/s, and what
/// was granted and cannot be taken back stays small beside a region.
pub const WINDOW_MAX: u64 = 1024;

/// The grants of one connection. The other side counts what it may send as a node counts a core's credits.
///
/// # Law
/// A grant never brings what is outstanding above `free x share`, as they are at that moment. What was granted before
/// cannot be taken back, and is at most [`WINDOW_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    granted: u64,
    leased: u64,
}

impl Window {
    /// Grants what is missing to `free x share` (in thousandths). True if there is news for the other side: a quarter
    /// of it is missing, so that not every call brings a frame.
    pub fn grant(&mut self, free: u64, share: u32) -> bool {
        let target = (u128::from(free) * u128::from(share.min(1000)) / 1000).min(WINDOW_MAX.into()) as u64;
        let missing = target.saturating_sub(self.outstanding());
        let is_news = missing > 0 && missing >= target / 4;
        if is_news {
            self.granted += missing;
        }
        is_news
    }

    /// A call was leased. False if it was not granted.
    pub fn lease(&mut self) -> bool {
        let granted = self.leased < self.granted;
        self.leased += u64::from(granted);
        granted
    }

    /// Granted in all, as a credit frame says it.
    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// Granted and not leased yet.
    pub fn outstanding(&self) -> u64 {
        self.granted - self.leased
    }

    /// Panics if more was leased than granted, or too much is granted. For tests.
    pub fn check(&self) {
        assert!(self.leased <= self.granted, "{} leased of {} granted", self.leased, self.granted);
        assert!(self.outstanding() <= WINDOW_MAX, "{} outstanding", self.outstanding());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_grant_never_exceeds_the_share_of_what_is_free(
            steps in prop::collection::vec((0u64..5000, 0u32..1200, 0u64..300), 1..60),
        ) {
            let mut window = Window::default();
            for (free, share, leases) in steps {
                let before = window;
                let told = window.grant(free, share);
                let most = free * u64::from(share.min(1000)) / 1000;
                prop_assert_eq!(told, window != before);
                prop_assert!(!told || window.outstanding() <= most);
                prop_assert!(window.outstanding() * 4 + 4 > most.min(WINDOW_MAX) * 3, "a full share is given out");
                for _ in 0..leases {
                    let left = window.outstanding();
                    prop_assert_eq!(window.lease(), left > 0);
                }
                window.check();
            }
        }

        #[test]
        fn all_links_together_get_no_more_than_is_free(
            free in 0u64..100_000, cuts in prop::collection::vec(0u32..=1000, 1..8),
        ) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let shares = cuts.windows(2).map(|pair| pair[1] - pair[0]).chain([cuts[0]]);
            let granted = shares.map(|share| {
                let mut window = Window::default();
                window.grant(free, share);
                window.outstanding()
            });
            prop_assert!(granted.sum::<u64>() <= free);
        }
    }

    #[test]
    #[should_panic(expected = "2 leased of 1 granted")]
    fn canary_check() {
        Window { granted: 1, leased: 2 }.check();
    }
}
