//! What a driver does when there is nothing to do: spin, then sleep.

use super::Uring;
use super::ring::{Purpose, Subject};
use crate::arrivals::Arrivals;
use crate::clock;
use call::Instant;
use call::time::nanos;
use io_uring::{opcode, types};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The longest sleep; "never" wakes once an hour, which nobody notices.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Looks at the rings between two looks at the clock.
const LOOKS: u32 = 16;
/// Fruitless spinning is halved down to this part of the whole: then an idle process costs next to nothing.
const SHARE_MIN: u64 = 16;

/// A pause of up to this many spins is traffic: there spinning costs at most a fifth of a CPU.
///
/// Not "a spin that brought nothing is a waste": two sides that both sleep see each other's wake-up in every pause,
/// longer than a spin, and would never find back to the quick exchange that spinning gives them.
const TRAFFIC_PAUSES: u64 = 4;

/// How long to spin: the whole time while there is traffic, less and less when there is none.
#[derive(Debug)]
pub(super) struct Spin {
    whole_ns: u64,
    next_ns: u64,
    /// When the present pause began.
    since: Instant,
    /// Sleep at once; see [`crate::Driver::make_way`].
    makes_way: bool,
}

impl Spin {
    pub(super) fn new(whole: Duration) -> Spin {
        let whole_ns = nanos(whole);
        Spin { whole_ns, next_ns: whole_ns, since: Instant(0), makes_way: false }
    }

    /// The pause is over.
    fn learn(&mut self) {
        // What comes when we have made way says nothing of the traffic.
        if self.makes_way {
            return;
        }
        let pause = clock::monotonic().0.saturating_sub(self.since.0);
        let traffic = pause <= self.whole_ns * TRAFFIC_PAUSES;
        let next = if traffic { self.next_ns * 2 } else { self.next_ns / 2 };
        self.next_ns = next.clamp(self.whole_ns / SHARE_MIN, self.whole_ns);
    }

    pub(super) fn make_way(&mut self, now: bool) {
        self.makes_way = now;
    }

    pub(super) fn backend(&self) -> String {
        match self.whole_ns {
            0 => "sleep at once".to_owned(),
            whole => format!("spin up to {} us (adaptive), then sleep", whole / 1000),
        }
    }
}

impl Uring {
    /// Whether a tick would take or give something. No system call.
    pub fn has_news(&mut self) -> bool {
        let inside = !self.dirty.is_empty()
            || !self.used.is_empty()
            || !self.news.is_empty()
            || !self.waiting.is_empty();
        inside || self.ring.has_news() || self.ring.has_queued() || self.links_have_news()
    }

    pub(super) fn tick_or_sleep(&mut self, until: Instant, into: &mut Arrivals) {
        if self.tick(into) > 0 || until <= self.clock.now() {
            return;
        }
        if !self.spin_for_news(until) {
            self.sleep(until);
        }
        // The tick above lent nothing, so this round needs no new begin.
        self.ring.enter_if_needed().expect("the ring is set up and its entries are well formed");
        self.take(into);
    }

    /// Spins for as long as it has been paying; whether there is news.
    pub fn spin_for_news(&mut self, until: Instant) -> bool {
        if self.has_news() {
            return true;
        }
        self.spin.since = clock::monotonic();
        if self.spin.makes_way {
            return false;
        }
        let stop = Instant(self.spin.since.0.saturating_add(self.spin.next_ns).min(until.0));
        while clock::monotonic() < stop {
            for _ in 0..LOOKS {
                if self.has_news() {
                    self.spin.learn();
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Sleeps in the ring; whether there is news then.
    pub fn sleep_for_news(&mut self, until: Instant) -> bool {
        self.sleep(until);
        self.has_news()
    }

    fn sleep(&mut self, until: Instant) {
        let armed = self.arm_bells();
        let at_most = self.longest_sleep(until);
        if armed && !at_most.is_zero() {
            self.ring.sleep(at_most).expect("the ring is set up and its entries are well formed");
        }
        self.hush_bells();
        self.spin.learn();
    }

    /// A listener that ran out of descriptors tries again soon; otherwise until `until`.
    fn longest_sleep(&self, until: Instant) -> Duration {
        let most = if self.resting.is_empty() { SLEEP_MAX } else { super::listeners::ACCEPT_PAUSE };
        until.since(clock::monotonic()).min(most)
    }

    // ---- sleeping on an eventfd, for an executor that has other things to do ----

    /// Rings this eventfd between [`Uring::prepare_to_park`] and [`Uring::parked`], when completions wait.
    pub fn ring_on_news(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        self.ring.ring_eventfd(false);
        Ok(())
    }

    /// Makes the eventfd ring at news or `until`. `false`: there is news already, do not park.
    pub fn prepare_to_park(&mut self, until: Instant) -> bool {
        let armed = self.arm_bells();
        let at_most = self.longest_sleep(until);
        if !armed || at_most.is_zero() {
            self.hush_bells();
            return false;
        }
        self.arm_timer(clock::monotonic() + at_most);
        self.ring.ring_eventfd(true);
        self.ring.enter().expect("the ring is set up and its entries are well formed");
        if self.ring.has_news() {
            self.parked();
            return false;
        }
        true
    }

    /// The executor has woken us.
    pub fn parked(&mut self) {
        self.ring.ring_eventfd(false);
        self.hush_bells();
        self.spin.learn();
    }

    /// One timer at a time is needed: an earlier one that is still out only wakes us once too often.
    fn arm_timer(&mut self, until: Instant) {
        if self.timer.is_some_and(|armed| armed <= until) {
            return;
        }
        self.timer = Some(until);
        let (seconds, nanoseconds) = (until.0 / 1_000_000_000, (until.0 % 1_000_000_000) as u32);
        *self.timer_at = types::Timespec::new().sec(seconds).nsec(nanoseconds);
        let entry = opcode::Timeout::new(&*self.timer_at).flags(types::TimeoutFlags::ABS).build();
        // SAFETY: the boxed time is read when the entry is given to the kernel, which `prepare_to_park` does next.
        unsafe { self.ring.push(entry, Subject(Purpose::Timer, 0)) };
    }

    pub(super) fn on_timer(&mut self) {
        self.timer = None;
    }
}
