//! WorkerLB: the better of two random cores that are ready for the function, by credits left; near ones before far
//! ones, which stand for other regions.

use crate::CORES_MAX;
use crate::mask::{MASK_BITS, Mask};
use crate::words::{CoreRef, HostRef};

const _: () = assert!(CORES_MAX <= MASK_BITS);

#[derive(Clone, Copy, Debug)]
struct Core {
    host: HostRef,
    /// Calls it serves at once, zero while it takes none.
    slots: u32,
    /// Slots granted since it connected.
    granted: u64,
    /// Calls dispatched to it since it connected. Invariant: `used <= granted`.
    used: u64,
}

/// The cores, their credits, and the random choice among them.
#[derive(Debug)]
pub struct WorkerLb {
    cores: Vec<Core>,
    /// Cores that are connected.
    up: Mask,
    /// Cores that may get calls: connected and not draining.
    open: Mask,
    /// Open cores with credits left.
    free: Mask,
    /// Connected cores that stand for other regions.
    far: Mask,
    /// Slots of all open cores.
    slots: u64,
    random: u64,
}

impl WorkerLb {
    /// No core is connected; numbers below `cores_max` may come.
    pub fn new(cores_max: usize) -> WorkerLb {
        assert!(cores_max <= CORES_MAX, "{cores_max} cores asked for, at most {CORES_MAX} fit a mask");
        WorkerLb {
            cores: vec![Core { host: HostRef(0), slots: 0, granted: 0, used: 0 }; cores_max],
            up: Mask::default(),
            open: Mask::default(),
            free: Mask::default(),
            far: Mask::default(),
            slots: 0,
            random: 0,
        }
    }

    /// A core connected, without credits.
    pub fn up(&mut self, core: CoreRef, host: HostRef, slots: u32, far: bool) {
        assert!(!self.up.has(usize::from(core.0)), "{core:?} is up");
        self.cores[usize::from(core.0)] = Core { host, slots, granted: 0, used: 0 };
        self.up.set(usize::from(core.0), true);
        self.open.set(usize::from(core.0), true);
        self.far.set(usize::from(core.0), far);
        self.slots += u64::from(slots);
    }

    /// The core gets no more calls.
    pub fn close(&mut self, core: CoreRef) {
        assert!(self.up.has(usize::from(core.0)), "{core:?} is not up");
        self.slots -= u64::from(std::mem::take(&mut self.core_mut(core).slots));
        self.open.set(usize::from(core.0), false);
        self.free.set(usize::from(core.0), false);
    }

    /// The core is gone.
    pub fn down(&mut self, core: CoreRef) {
        self.close(core);
        self.up.set(usize::from(core.0), false);
    }

    /// The core granted this many slots in all. Says whether it had none left and has some now.
    pub fn credit(&mut self, core: CoreRef, granted: u64) -> bool {
        assert!(self.up.has(usize::from(core.0)), "{core:?} is not up");
        let of = self.core_mut(core);
        of.granted = of.granted.max(granted);
        self.refresh(core)
    }

    /// A call is dispatched to the core.
    pub fn spend(&mut self, core: CoreRef) {
        assert!(self.credits(core) > 0, "{core:?} has no credits left");
        self.core_mut(core).used += 1;
        self.refresh(core);
    }

    /// A dispatched call was not sent after all. Says whether the core had no credits left and has one now.
    pub fn unspend(&mut self, core: CoreRef) -> bool {
        assert!(self.up.has(usize::from(core.0)), "{core:?} is not up");
        self.core_mut(core).used -= 1;
        self.refresh(core)
    }

    fn refresh(&mut self, core: CoreRef) -> bool {
        let at = usize::from(core.0);
        let (was, is) = (self.free.has(at), self.open.has(at) && self.credits(core) > 0);
        self.free.set(at, is);
        is && !was
    }

    /// Slots granted and not used yet.
    pub fn credits(&self, core: CoreRef) -> u64 {
        let of = &self.cores[usize::from(core.0)];
        of.granted - of.used
    }

    fn core_mut(&mut self, core: CoreRef) -> &mut Core {
        &mut self.cores[usize::from(core.0)]
    }

    /// Calls that all open cores serve at once.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Cores that may get a call now.
    pub fn free(&self) -> Mask {
        self.free
    }

    /// The open cores of a host.
    pub fn open_on(&self, host: HostRef) -> Mask {
        let mut mask = Mask::default();
        let on = self.open.iter().filter(|&core| self.cores[core].host == host);
        on.for_each(|core| mask.set(core, true));
        mask
    }

    /// Fresh random bits for the choices of one turn.
    pub fn seed(&mut self, random: u64) {
        self.random = random;
    }

    /// Two random ones of the ready cores that have credits, and of the two the one with more; none if none has. Far
    /// cores are candidates only while no near one is.
    pub fn pick(&mut self, ready: Mask) -> Option<CoreRef> {
        let all = ready & self.free;
        let near = all.without(self.far);
        let candidates = if near.is_empty() { all } else { near };
        let count = candidates.count();
        if count < 2 {
            return candidates.nth(0).map(|core| CoreRef(core as u16));
        }
        let (first, second) = self.two_below(count);
        let core = |n| CoreRef(candidates.nth(n).expect("n is below the count") as u16);
        let (first, second) = (core(first), core(second));
        Some(if self.credits(second) > self.credits(first) { second } else { first })
    }

    /// Two different random numbers below `count`, which is at least 2.
    fn two_below(&mut self, count: u32) -> (u32, u32) {
        // One step per choice, from the turn's bits.
        let bits = call::random::splitmix64(&mut self.random);
        let below = |bits: u64, bound: u32| (((bits & 0xffff_ffff) * u64::from(bound)) >> 32) as u32;
        let first = below(bits, count);
        let second = (first + 1 + below(bits >> 32, count - 1)) % count;
        (first, second)
    }

    /// Panics if a core used more than it granted, or if a mask is wrong.
    pub fn check(&self) {
        let mut slots = 0;
        for (at, core) in self.cores.iter().enumerate() {
            assert!(core.used <= core.granted, "core {at} used {} of {} credits", core.used, core.granted);
            assert!(self.up.has(at) || !self.open.has(at), "core {at} is open and not up");
            let free = self.open.has(at) && core.used < core.granted;
            assert_eq!(self.free.has(at), free, "core {at} in the mask of free ones");
            slots += if self.open.has(at) { u64::from(core.slots) } else { 0 };
        }
        assert_eq!(slots, self.slots, "slots of all open cores");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_credits(credits: &[u64]) -> (WorkerLb, Mask) {
        let (mut lb, mut all) = (WorkerLb::new(CORES_MAX), Mask::default());
        for (at, &granted) in credits.iter().enumerate() {
            lb.up(CoreRef(at as u16), HostRef(0), 8, false);
            lb.credit(CoreRef(at as u16), granted);
            all.set(at, true);
        }
        lb.check();
        (lb, all)
    }

    #[test]
    fn of_two_cores_the_one_with_more_credits_is_taken() {
        let (mut lb, all) = with_credits(&[3, 7]);
        for random in 0..64 {
            lb.seed(random);
            assert_eq!(lb.pick(all), Some(CoreRef(1)));
        }
    }

    #[test]
    fn equal_cores_share_the_calls() {
        let (mut lb, all) = with_credits(&[10_000; 10]);
        for _ in 0..10_000 {
            let core = lb.pick(all).unwrap();
            lb.spend(core);
        }
        lb.check();
        // Best of two keeps the largest distance within a few calls, where one random choice has dozens.
        let used: Vec<u64> = (0..10).map(|core| 10_000 - lb.credits(CoreRef(core))).collect();
        assert!(used.iter().all(|used| (980..=1020).contains(used)), "{used:?}");
    }

    #[test]
    fn cores_that_are_not_ready_or_have_no_credits_are_not_taken() {
        let (mut lb, _) = with_credits(&[9, 0, 9, 1]);
        let mut ready = Mask::default();
        (1..=3).for_each(|core| ready.set(core, core != 2));
        assert_eq!(lb.pick(ready), Some(CoreRef(3)));
        lb.spend(CoreRef(3));
        assert_eq!(lb.pick(ready), None);
        assert!(lb.unspend(CoreRef(3)), "the only credit came back");
        lb.close(CoreRef(3));
        assert_eq!(lb.pick(ready), None);
    }

    #[test]
    fn a_far_core_is_taken_only_while_no_near_one_has_credits() {
        let (mut lb, mut all) = with_credits(&[2]);
        lb.up(CoreRef(1), HostRef(1), 8, true);
        lb.credit(CoreRef(1), 100);
        all.set(1, true);
        let mut taken = Vec::new();
        for random in 0..4 {
            lb.seed(random);
            let core = lb.pick(all).unwrap();
            lb.spend(core);
            taken.push(core.0);
        }
        assert_eq!(taken, [0, 0, 1, 1]);
        lb.check();
    }

    #[test]
    #[should_panic(expected = "has no credits left")]
    fn canary_credit() {
        let (mut lb, _) = with_credits(&[0]);
        lb.spend(CoreRef(0));
    }

    #[test]
    #[should_panic(expected = "used 3 of 2 credits")]
    fn canary_check() {
        let (mut lb, _) = with_credits(&[2]);
        lb.cores[0].used = 3;
        lb.check();
    }
}
