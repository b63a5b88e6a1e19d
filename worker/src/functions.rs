//! What the core remembers of each function: its time-out, and whether its calls lately outlived their first slice.

use call::{FunctionId, FunctionSpec};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

/// After a call that outlived its slice, so many calls of its function must end within theirs before the function
/// counts as short again. A function whose calls are mixed is thus served as a long one, which delays it by a slice
/// or two; the other way round it would delay everybody.
const LONG_FOR: u8 = 8;

/// One function.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Digest of the published body, to recognise what is published again after a reconnect.
    digest: u64,
    /// How long one execution may last.
    pub timeout: Duration,
    /// Calls that must end within their first slice before it counts as short.
    long_for: u8,
}

impl Pace {
    /// Whether calls of it are expected to end within their first slice.
    pub fn is_short(&self) -> bool {
        self.long_for == 0
    }
}

/// Of a function that is not published here: its calls end at once, whatever this says.
const UNKNOWN: Pace = Pace { digest: 0, timeout: Duration::ZERO, long_for: 0 };

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
        let pace = Pace { digest, timeout: Duration::from_millis(spec.timeout_ms), long_for: 0 };
        self.by_id.insert(function, pace).is_none_or(|before| before.digest != digest)
    }

    pub fn retire(&mut self, function: FunctionId) {
        self.by_id.remove(&function);
    }

    /// What is known of it.
    pub fn pace(&self, function: FunctionId) -> Pace {
        self.by_id.get(&function).copied().unwrap_or(UNKNOWN)
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
