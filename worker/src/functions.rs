//! What the core remembers of each function: its time-out, its weight and quota of CPU time, and whether its calls
//! lately outlived their first slice.

use crate::plan::SLICE;
use call::function::RuntimeKind;
use call::time::nanos;
use call::{FunctionId, FunctionSpec, Instant, Label};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

/// After a call that outlived its slice, so many calls of its function must end within theirs before the function
/// counts as short again. A function whose calls are mixed is thus served as a long one, which delays it by a slice
/// or two; the other way round it would delay everybody.
const LONG_FOR: u8 = 8;

/// A function that had less than its quota may catch up on so much time: the period in which Linux counts quotas.
const QUOTA_PERIOD_NS: u64 = 100_000_000;

/// One function.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Digest of the published body, to recognise what is published again after a reconnect.
    digest: u64,
    /// How long one execution may last.
    pub timeout: Duration,
    /// Calls that must end within their first slice before it counts as short.
    long_for: u8,
    /// Which data it may read.
    pub label: Label,
    /// Memory that one execution may have; 0 for no limit.
    pub memory_bytes: u64,
    /// Share of a busy core, beside calls with other weights.
    pub weight: u32,
    /// CPU time per time that all its calls on this core may take, in thousandths; 0 for no limit.
    quota_millis: u32,
    /// When what it has taken will be paid for by its quota; it may run if that is not in the future.
    paid_at: Instant,
    /// When the next call of it that is held back by the quota may look again.
    reserved_at: Instant,
}

impl Pace {
    /// Whether calls of it are expected to end within their first slice.
    pub fn is_short(&self) -> bool {
        self.long_for == 0
    }

    /// Whether it has a quota.
    pub fn is_limited(&self) -> bool {
        self.quota_millis > 0
    }

    /// Whether its quota is used up.
    pub fn is_throttled(&self, now: Instant) -> bool {
        self.is_limited() && self.paid_at > now
    }

    /// How long its quota takes to pay for so much CPU time.
    fn price_ns(&self, ran_ns: u64) -> u64 {
        let price = u128::from(ran_ns) * 1000 / u128::from(self.quota_millis);
        u64::try_from(price).unwrap_or(u64::MAX)
    }
}

/// Of a function that is not published here: its calls end at once, whatever this says.
const UNKNOWN: Pace = Pace {
    digest: 0,
    timeout: Duration::ZERO,
    long_for: 0,
    label: Label::HIGHEST,
    memory_bytes: 0,
    weight: 1,
    quota_millis: 0,
    paid_at: Instant(0),
    reserved_at: Instant(0),
};

/// All functions published to this core.
pub(crate) struct Functions {
    /// Never iterated: the order of a hash map must not decide anything.
    by_id: HashMap<FunctionId, Pace, BuildHasherDefault<IdHasher>>,
}

impl Functions {
    pub fn new() -> Functions {
        Functions { by_id: HashMap::default() }
    }

    /// Takes a published function; false if it is the very same as before.
    pub fn publish(&mut self, function: FunctionId, spec: &FunctionSpec, digest: u64) -> bool {
        // A process's quota is its control group's matter.
        let wasm = spec.runtime == RuntimeKind::Wasm;
        let pace = Pace {
            digest,
            timeout: Duration::from_millis(spec.timeout_ms),
            label: spec.flow.label(),
            memory_bytes: spec.memory_bytes,
            weight: spec.limits.cpu_weight,
            quota_millis: if wasm { spec.limits.cpu_millis } else { 0 },
            ..UNKNOWN
        };
        self.by_id.insert(function, pace).is_none_or(|before| before.digest != digest)
    }

    pub fn retire(&mut self, function: FunctionId) {
        self.by_id.remove(&function);
    }

    /// What is known of it.
    pub fn pace(&self, function: FunctionId) -> Pace {
        self.by_id.get(&function).copied().unwrap_or(UNKNOWN)
    }

    /// Calls of a function with a quota ran so long, until `now`.
    pub fn charge(&mut self, function: FunctionId, ran_ns: u64, now: Instant) {
        if let Some(pace) = self.by_id.get_mut(&function).filter(|pace| pace.is_limited()) {
            let from = pace.paid_at.0.max(now.0.saturating_sub(QUOTA_PERIOD_NS));
            pace.paid_at = Instant(from.saturating_add(pace.price_ns(ran_ns)));
        }
    }

    /// When a call that the quota holds back may look again: one a slice's price after the other, so that not all of
    /// them look each time.
    pub fn reserve(&mut self, function: FunctionId) -> Instant {
        let Some(pace) = self.by_id.get_mut(&function).filter(|pace| pace.is_limited()) else {
            return Instant(0);
        };
        let at = pace.paid_at.max(pace.reserved_at);
        pace.reserved_at = Instant(at.0.saturating_add(pace.price_ns(nanos(SLICE))));
        at
    }

    /// Learns from a call's first slice.
    pub fn learn(&mut self, function: FunctionId, outlived: bool) {
        if let Some(pace) = self.by_id.get_mut(&function) {
            pace.long_for = if outlived { LONG_FOR } else { pace.long_for.saturating_sub(1) };
        }
    }
}

/// A function's id is a hash already.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        unreachable!("only ids are hashed, not {} bytes", bytes.len());
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_paid_for_in_time_and_saves_up_for_a_period_only() {
        let (mut functions, f) = (Functions::new(), FunctionId::of("default", "f"));
        let mut spec = FunctionSpec::default();
        spec.limits.cpu_millis = 250;
        functions.publish(f, &spec, 1);
        let second = 1_000_000_000;
        let (mut now, mut ran) = (Instant(10 * second), 0u64);
        let end = Instant(20 * second);
        while now < end {
            let step = 1_000_000;
            now = Instant(now.0 + step);
            if !functions.pace(f).is_throttled(now) {
                ran += step;
                functions.charge(f, step, now);
            }
        }
        // A quarter of ten seconds, and what it had saved up: a quarter of a period, and the last slice.
        let most = 2 * second + second / 2 + QUOTA_PERIOD_NS / 4 + 2_000_000;
        assert!((2 * second + second / 2..=most).contains(&ran), "{ran}");
        let first = functions.reserve(f);
        assert_eq!(functions.reserve(f).0 - first.0, 4_000_000, "one call looks each four slices");
        functions.retire(f);
        assert_eq!(functions.reserve(f), Instant(0), "nobody is held back for a function that is gone");
    }

    #[test]
    fn a_function_is_long_until_it_was_short_for_a_while() {
        let (mut functions, f) = (Functions::new(), FunctionId::of("default", "f"));
        assert!(functions.publish(f, &FunctionSpec::default(), 1), "new");
        assert!(!functions.publish(f, &FunctionSpec::default(), 1), "the same again");
        assert!(functions.publish(f, &FunctionSpec::default(), 2), "changed");
        assert!(functions.pace(f).is_short());
        functions.learn(f, true);
        for _ in 0..LONG_FOR {
            assert!(!functions.pace(f).is_short());
            functions.learn(f, false);
        }
        assert!(functions.pace(f).is_short());
        functions.retire(f);
        functions.learn(f, true);
        assert!(functions.pace(f).is_short(), "an unknown function is nothing to learn about");
    }
}
