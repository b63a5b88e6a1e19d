//! The utilization controller's eyes: how much of the last period each core spent in functions, as outcomes report it.
//!
//! What it concludes stands in the node's status. Nothing obeys it yet: opportunistic quota will.

use crate::worker_lb::Workers;
use call::admin::NodeStatus;
use call::limits::Limits;
use call::time::nanos;
use call::{Instant, Usage};
use controllers::{Permille, Settings, Utilization};
use scheduler::CoreRef;
use std::time::Duration;

/// How often the controller looks. Long against one call, short against the swings of a day.
pub const PERIOD: Duration = Duration::from_secs(10);

/// CPU time of calls per core, and the controller that judges it.
pub struct Load {
    controller: Utilization,
    /// CPU time in functions since `since`, per core's number.
    cpu_ns: Vec<u64>,
    since: Instant,
}

impl Load {
    /// Nothing has run.
    pub fn new(limits: &Limits, now: Instant) -> Load {
        Load {
            controller: Utilization::new(Settings::default(), limits.cores_max, 0),
            cpu_ns: vec![0; limits.cores_max],
            since: now,
        }
    }

    /// A call of this core ended. Long calls count in the period in which they end.
    pub fn ran(&mut self, core: CoreRef, usage: &Usage) {
        let cpu_ns = &mut self.cpu_ns[usize::from(core.0)];
        *cpu_ns = cpu_ns.saturating_add(usage.cpu_ns);
    }

    /// Ends a period, if it is over.
    pub fn turn(&mut self, now: Instant, workers: &Workers) {
        let elapsed = now.since(self.since);
        if elapsed < PERIOD {
            return;
        }
        for (number, cpu_ns) in self.cpu_ns.iter_mut().enumerate() {
            let is_up = workers.core(CoreRef(number as u16)).is_some_and(|core| core.is_up && !core.far);
            let busy = u128::from(std::mem::take(cpu_ns)) * 1000 / u128::from(nanos(elapsed));
            self.controller.observe(number, is_up.then_some(busy.min(1000) as Permille));
        }
        self.controller.turn();
        self.since = now;
    }

    /// Fills in what is known here.
    pub fn report(&self, into: &mut NodeStatus) {
        into.utilization = self.controller.mean().unwrap_or(0);
        into.opportunistic = self.controller.newest().value;
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
            (status.utilization, status.opportunistic)
        };
        load.ran(busy, &Usage { cpu_ns: 6_000_000_000, ..Usage::default() });
        load.turn(Instant(0) + PERIOD / 2, &workers);
        assert_eq!(status(&load), (0, 0), "the period is not over");
        load.turn(Instant(0) + PERIOD, &workers);
        assert_eq!(status(&load), (300, 50), "6 of 10 s on one of two cores, and S rose by a step");
        load.ran(busy, &Usage { cpu_ns: u64::MAX, ..Usage::default() });
        workers.core_down(CoreRef(1));
        load.turn(Instant(0) + PERIOD * 2, &workers);
        assert_eq!(status(&load), (1000, 0), "the only core left is overloaded");
    }
}
