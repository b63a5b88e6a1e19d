//! How much of their time cores spend in functions, as outcomes report it: what the utilization controller looks at.

use crate::worker_lb::Workers;
use call::admin::NodeStatus;
use call::limits::Limits;
use call::time::nanos;
use call::{Instant, Usage};
use scheduler::CoreRef;
use std::time::Duration;

/// What the node's status tells is the mean of so long. Long against one call, short against the swings of a day.
pub const PERIOD: Duration = Duration::from_secs(10);

/// CPU time of calls per core.
pub struct Load {
    /// CPU time in functions since the start, per core's number.
    cpu_ns: Vec<u64>,
    /// As it was at `since`.
    before: Vec<u64>,
    since: Instant,
    mean: u32,
}

impl Load {
    /// Nothing has run.
    pub fn new(limits: &Limits, now: Instant) -> Load {
        Load { cpu_ns: vec![0; limits.cores_max], before: vec![0; limits.cores_max], since: now, mean: 0 }
    }

    /// A call of this core ended. Long calls count in the period in which they end.
    pub fn ran(&mut self, core: CoreRef, usage: &Usage) {
        let cpu_ns = &mut self.cpu_ns[usize::from(core.0)];
        *cpu_ns = cpu_ns.saturating_add(usage.cpu_ns);
    }

    /// CPU time in functions since the start. Of a number that was given out again, also what its core before had.
    pub fn cpu_ns(&self, core: CoreRef) -> u64 {
        self.cpu_ns[usize::from(core.0)]
    }

    /// Ends a period, if it is over.
    pub fn turn(&mut self, now: Instant, workers: &Workers) {
        let elapsed = now.since(self.since);
        if elapsed < PERIOD {
            return;
        }
        let (mut sum, mut count) = (0, 0);
        for (number, (cpu_ns, before)) in self.cpu_ns.iter().zip(&mut self.before).enumerate() {
            let busy =
                u128::from(*cpu_ns - std::mem::replace(before, *cpu_ns)) * 1000 / u128::from(nanos(elapsed));
            if workers.core(CoreRef(number as u16)).is_some_and(|core| core.is_up && !core.far) {
                (sum, count) = (sum + busy.min(1000) as u32, count + 1);
            }
        }
        self.mean = sum.checked_div(count).unwrap_or(0);
        self.since = now;
    }

    /// Fills in what is known here.
    pub fn report(&self, into: &mut NodeStatus) {
        into.utilization = self.mean;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionRef;
    use crate::worker_lb::Core;
    use durableq::Origin;

    fn core() -> Core {
        let session = SessionRef::of_origin(Origin(1));
        Core { slots: 8, is_up: true, ..Core::new(session, scheduler::HostRef(0), Instant(0)) }
    }

    #[test]
    fn cpu_time_of_a_period_is_judged_at_its_end() {
        let limits = Limits::small();
        let (mut load, mut workers) = (Load::new(&limits, Instant(0)), Workers::new(&limits));
        let busy = workers.core_up("host", |host| Core { host, ..core() }).unwrap();
        workers.core_up("host", |host| Core { host, ..core() }).unwrap();
        let status = |load: &Load| {
            let mut status = NodeStatus::default();
            load.report(&mut status);
            status.utilization
        };
        load.ran(busy, &Usage { cpu_ns: 6_000_000_000, ..Usage::default() });
        load.turn(Instant(0) + PERIOD / 2, &workers);
        assert_eq!(status(&load), 0, "the period is not over");
        load.turn(Instant(0) + PERIOD, &workers);
        assert_eq!(status(&load), 300, "6 of 10 s on one of two cores");
        load.ran(busy, &Usage { cpu_ns: u64::MAX, ..Usage::default() });
        workers.core_down(CoreRef(1));
        load.turn(Instant(0) + PERIOD * 2, &workers);
        assert_eq!(status(&load), 1000, "the only core left is overloaded");
    }
}
