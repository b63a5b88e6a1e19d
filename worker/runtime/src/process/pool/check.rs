//! The pool's invariants, for tests.

use super::{Phase, Place, Pool, Sandbox};

impl Pool {
    /// Its invariants.
    pub(super) fn check(&self) {
        for (id, function) in &self.functions {
            let of = |is: &dyn Fn(&Sandbox) -> bool| {
                let mine = self.sandboxes.iter().filter(|s| s.function == *id && s.phase != Phase::Free);
                mine.filter(|s| is(s)).count() as u32
            };
            function.growth.check();
            let coming = of(&|s| !s.condemned && matches!(s.phase, Phase::Coming { .. }));
            let counted = (of(&|_| true), of(&|s| !s.condemned), coming);
            assert_eq!(function.growth.counts(), counted, "places, live, coming");
            assert_eq!(function.available.len() as u32, of(&|s| s.seats > 0), "available");
            assert!(
                function.queue.is_empty() || function.available.is_empty(),
                "nobody waits beside a free seat"
            );
            assert!(function.queue.is_empty() || function.hungry, "who waits is known to wait");
            assert_eq!(function.hungry, self.hungry.contains(id));
        }
        let mut calls = 0;
        for (place, sandbox) in self.sandboxes.iter().enumerate() {
            calls += sandbox.calls.len();
            assert_eq!(sandbox.phase == Phase::Free, self.free.contains(&(place as u32)));
            assert!(sandbox.seats == 0 || sandbox.phase == Phase::Ready && !sandbox.condemned);
            assert!(
                sandbox.calls.is_empty() || sandbox.phase == Phase::Ready,
                "calls in {:?}",
                sandbox.phase
            );
        }
        let queued: usize = self.functions.values().map(|function| function.queue.len()).sum();
        let placed = self.slots.iter().filter(|place| **place != Place::Nowhere).count();
        assert_eq!(calls + queued, placed, "each call is in one place");
        assert_eq!(self.calls as usize, placed, "each call is counted");
    }
}
