//! Workers: a pool is a part of a region that its scheduler sees as one core.
//!
//! A simulated call runs on many workers of its pool at once, since it stands for many real calls. It takes CPU at
//! an even rate while it runs. A pool that is asked for more than it has slows down what it is given then: such a call
//! takes longer and is charged the same in sum.

/// One pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// How many workers it has.
    pub workers: u32,
    /// K instructions a second that all its workers do.
    pub capacity: u64,
    /// K instructions a second that its running calls take. A call that comes to a full pool is slowed down by what
    /// is too much with it, and the others are not: the sum may pass `capacity` by a part of that call.
    pub used: u64,
    /// The sum of what they took in each tick since utilisation was last asked for, and how many ticks these are.
    worked: u128,
    ticks: u32,
    /// MB of all its workers.
    pub memory_mb: u64,
    /// MB that its running calls hold.
    pub held_mb: u64,
    /// Calls granted to the scheduler, in all.
    pub granted: u64,
    /// Calls that came, in all.
    pub taken: u64,
    /// Whether something changed since credits were last granted.
    pub changed: bool,
    /// Whether it is there.
    pub up: bool,
}

/// What a call takes while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// K instructions a second.
    pub rate: u64,
    /// MB.
    pub memory_mb: u32,
    /// For so many milliseconds.
    pub run_ms: u32,
}

impl Pool {
    /// So many workers, idle.
    pub fn new(workers: u32, worker_mips: u32, worker_memory_mb: u32) -> Pool {
        Pool {
            workers,
            capacity: u64::from(workers) * u64::from(worker_mips) * 1000,
            used: 0,
            worked: 0,
            ticks: 0,
            memory_mb: u64::from(workers) * u64::from(worker_memory_mb),
            held_mb: 0,
            granted: 0,
            taken: 0,
            changed: true,
            up: true,
        }
    }

    /// A call starts that would take `asked` on idle workers; says what it takes here.
    pub fn start(&mut self, asked: Share) -> Share {
        let wanted = (self.used + asked.rate).max(1);
        let slowed = u128::from(asked.rate) * u128::from(self.capacity) / u128::from(wanted);
        let rate = if wanted > self.capacity { slowed as u64 } else { asked.rate }.max(1);
        let run_ms = u128::from(asked.run_ms) * u128::from(asked.rate.max(1)) / u128::from(rate);
        let share = Share { rate, run_ms: u32::try_from(run_ms).unwrap_or(u32::MAX).max(1), ..asked };
        self.used += share.rate;
        self.held_mb += u64::from(share.memory_mb);
        self.taken += 1;
        self.changed = true;
        share
    }

    /// A tick is over: what its workers did in it, K instructions a second.
    pub fn work(&mut self) -> u64 {
        let did = self.used.min(self.capacity);
        self.worked += u128::from(did);
        self.ticks += 1;
        did
    }

    /// Busy thousandths since this was last asked, on average: workers report the CPU time that they used, and an
    /// instant of it is chance.
    pub fn busy(&mut self) -> u32 {
        let whole = u128::from(self.capacity.max(1)) * u128::from(self.ticks.max(1));
        let busy = (std::mem::take(&mut self.worked) * 1000 / whole) as u32;
        self.ticks = 0;
        busy
    }

    /// A call ends.
    pub fn end(&mut self, share: Share) {
        self.used -= share.rate;
        self.held_mb -= u64::from(share.memory_mb);
        self.changed = true;
    }

    /// Grants so many calls as its free CPU and memory have room for, if calls are like `typical`: the sum of all
    /// grants, or none if it stays.
    pub fn grant(&mut self, typical: Share, admit_permille: u32, most: u64) -> Option<u64> {
        self.changed = false;
        if !self.up {
            return None;
        }
        let room = (self.capacity / 1000 * u64::from(admit_permille)).saturating_sub(self.used);
        let memory = (self.memory_mb / 10 * 9).saturating_sub(self.held_mb);
        // An idle pool takes a call however large: it is the only one then.
        let fits = (memory / u64::from(typical.memory_mb.max(1))).max(u64::from(self.held_mb == 0));
        let calls = room.div_ceil(typical.rate.max(1)).min(fits);
        let granted = self.granted.max(self.taken + calls.min(most));
        (granted > self.granted).then(|| {
            self.granted = granted;
            granted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn work_is_kept(rates in proptest::collection::vec(1000..400_000u64, 1..60)) {
            let mut pool = Pool::new(1, 1000, 1024);
            let mut running = Vec::new();
            for rate in rates {
                let asked = Share { rate, memory_mb: 1, run_ms: 10_000 };
                let share = pool.start(asked);
                let (work, done) = (rate * 10_000, share.rate * u64::from(share.run_ms));
                prop_assert!(done <= work && done + share.rate >= work, "{asked:?} became {share:?}");
                prop_assert!(share.rate < rate || pool.used <= pool.capacity, "a full pool slows down");
                running.push(share);
            }
            running.into_iter().for_each(|share| pool.end(share));
            prop_assert_eq!((pool.used, pool.held_mb), (0, 0));
        }
    }

    #[test]
    fn utilisation_is_the_mean_since_it_was_last_asked_for() {
        let mut pool = Pool::new(1, 1, 1024);
        let half = pool.start(Share { rate: 500, memory_mb: 1, run_ms: 1000 });
        assert_eq!((0..3).map(|_| pool.work()).sum::<u64>(), 1500);
        pool.end(half);
        pool.work();
        assert_eq!((pool.busy(), pool.busy()), (375, 0));
    }

    #[test]
    fn a_full_pool_grants_nothing() {
        let mut pool = Pool::new(1, 1, 1024);
        let typical = Share { rate: 100, memory_mb: 1, run_ms: 1000 };
        assert_eq!(pool.grant(typical, 1000, 64), Some(10));
        assert_eq!(pool.grant(typical, 1000, 64), None, "nothing changed");
        (0..10).for_each(|_| assert_eq!(pool.start(typical), typical));
        assert_eq!(pool.grant(typical, 1000, 64), None);
        pool.end(typical);
        assert_eq!(pool.grant(typical, 1000, 64), Some(11));
    }
}
