//! Looking ahead: brings what the next steps will look at into the cache, all of it at once.
//!
//! Twenty thousand functions and a million calls do not fit a cache. A decision that waits for a line of its function, then
//! for one of its gates, then for one of its call, waits three times for memory; eight decisions that ask together wait
//! about as long as one. Nothing here changes or decides anything.

use crate::gates::OPEN;
use crate::scheduler::Scheduler;
use crate::words::{CallRef, FunctionRef};
use std::hint::black_box;

/// Decisions that are looked ahead to: as many misses as a core of today has under way at once, with some left for the rest.
pub(crate) const AHEAD: usize = 8;

impl Scheduler {
    /// For calls of which the caller is about to say that they ended or were not sent; more than a few at once only push
    /// each other out.
    pub fn glimpse(&self, calls: &[CallRef]) {
        let mut seen = 0;
        for call in calls {
            seen ^= self.calls.glimpse(*call);
        }
        for call in calls {
            seen ^= self.glimpse_function(self.calls.function(*call));
        }
        for call in calls {
            seen ^= self.glimpse_gate(self.calls.function(*call));
        }
        black_box(seen);
    }

    /// For the functions whose turn comes next.
    pub(crate) fn look_ahead(&self) {
        let mut coming = [FunctionRef(0); AHEAD];
        let count = self.functions.coming(&mut coming);
        let (coming, mut seen) = (&coming[..count], 0);
        for function in coming {
            seen ^= self.glimpse_function(*function);
        }
        for function in coming {
            seen ^= self.glimpse_gate(*function);
            if let Some(call) = self.calls.best(&self.functions.get(*function).buffer) {
                seen ^= self.calls.glimpse(call);
            }
        }
        for function in coming {
            if let Some(call) = self.calls.best(&self.functions.get(*function).buffer) {
                seen ^= self.calls.glimpse_behind(call);
            }
        }
        black_box(seen);
    }

    /// For gates whose time has come.
    pub(crate) fn glimpse_due(&self, gates: &[u32]) {
        let mut seen = 0;
        for gate in gates {
            seen ^= self.gates.get(*gate).glimpse();
        }
        for gate in gates {
            seen ^= self.glimpse_function(self.gates.get(*gate).function);
        }
        black_box(seen);
    }

    fn glimpse_function(&self, function: FunctionRef) -> u32 {
        if function.0 == u32::MAX {
            // Of a call that is not held any more.
            return 0;
        }
        let of = self.functions.get(function);
        of.gate ^ of.aside
    }

    fn glimpse_gate(&self, function: FunctionRef) -> u32 {
        if function.0 == u32::MAX {
            return 0;
        }
        match self.functions.get(function).gate {
            OPEN => 0,
            gate => self.gates.get(gate).glimpse(),
        }
    }
}
