//! What controllers look at: cores, and the functions of which something has changed since they looked last. Not on the
//! path of a call; of 20,000 functions that do nothing a look costs a comparison each, and no words.

use crate::catalog::Deployed;
use crate::node::Node;
use crate::shaping::cores_up;
use call::admin::{Observation, ObservedCore, ObservedFunction, ScalingState, Versioned};
use controllers::Cache;
use driver::Driver;
use scheduler::FunctionRef;

/// What the last look found of a function, as far as it tells one state from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seen {
    /// Of its manifest; 0 if it is not deployed.
    version: u32,
    cpu_millis: u64,
    opportunistic: bool,
    begun: u64,
    ended: u64,
    cpu_ns: u64,
    memory_bytes: u64,
    waiting: u64,
    pressed: u64,
    /// Versions of what is held.
    held: [u64; 3],
}

/// When the looks found each function changed, since the node's start, ns.
#[derive(Default)]
pub(crate) struct Looks {
    seen: Vec<(Seen, u64)>,
}

impl Looks {
    /// Remembers what is seen now; when it changed last.
    fn changed_at(&mut self, function: FunctionRef, seen: Seen, now_ns: u64) -> u64 {
        let place = function.0 as usize;
        if self.seen.len() <= place {
            self.seen.resize(place + 1, (Seen::default(), 0));
        }
        let (before, at) = &mut self.seen[place];
        if *before != seen {
            (*before, *at) = (seen, now_ns);
        }
        *at
    }
}

impl<D: Driver> Node<D> {
    /// What controllers look at: functions of which something changed after that instant; 0 for all.
    pub(crate) fn observe(&mut self, after_ns: u64) -> Observation {
        // Zero is before everything.
        let at_ns = call::time::nanos(self.driver.now().since(self.started)).max(1);
        let mut looks = std::mem::take(&mut self.looks);
        let mut functions = Vec::new();
        for function in (0..self.queue.functions()).map(FunctionRef) {
            let said = self.catalog.get(function).and_then(|deployed| self.observed(function, deployed));
            let (seen, said) = said.unwrap_or_default();
            let is_new = looks.changed_at(function, seen, at_ns) > after_ns;
            // Who looks for the first time need not hear of what is gone.
            if is_new && (seen.version > 0 || after_ns > 0) {
                functions.push(ObservedFunction { function: function.0, gone: seen.version == 0, ..said });
            }
        }
        self.looks = looks;
        let core = |core: scheduler::CoreRef| ObservedCore {
            core: core.0,
            cpu_ns: self.load.cpu_ns(core),
            group: self.grouping.of_core(core),
        };
        let threshold =
            |name: &str| self.shapes.said.downstreams.get(name).map(|spec| spec.threshold_per_minute);
        let services =
            self.shapes.services.iter().map(|service| (service.name.clone(), threshold(&service.name)));
        Observation {
            incarnation: self.queue.incarnation(),
            at_ns,
            cores: cores_up(&self.workers).map(core).collect(),
            functions,
            downstreams: services.collect(),
            opportunistic: versioned(&self.shapes.opportunistic),
            wanted: versioned(&self.shapes.wanted),
        }
    }

    /// A function, if there is anything to say about it: one that was never called and is promised nothing is not.
    fn observed(&self, function: FunctionRef, deployed: &Deployed) -> Option<(Seen, ObservedFunction)> {
        let shaped = self.shapes.get(function)?;
        let spec = &deployed.spec;
        let quota = self.shapes.quota(spec);
        let depth = self.queue.depth(durableq::FunctionRef(function.0));
        let ended = deployed.completed + deployed.failed;
        let of = ObservedFunction {
            cpu_millis: self.shards.rate(spec, quota.cpu_millis),
            opportunistic: quota.kind == call::function::QuotaKind::Opportunistic,
            begun: ended + u64::from(depth.leased),
            ended,
            cpu_ns: deployed.cpu_ns,
            memory_bytes: spec.artefact_bytes.saturating_add(deployed.memory_bytes),
            waiting: u64::from(depth.due + depth.offered),
            together: spec.locality.group.clone(),
            pressed: shaped.pressed.clone(),
            rate: versioned(&shaped.rate),
            limit: versioned(&shaped.limit),
            group: self.grouping.of_function(function),
            ..ObservedFunction::default()
        };
        let held = [of.rate.version, of.limit.version, of.group.version];
        let is_idle = of.begun == 0 && of.waiting == 0 && held == [0; 3];
        if is_idle && of.cpu_millis == 0 && of.pressed.is_empty() {
            return None;
        }
        let seen = Seen {
            version: spec.version.max(1),
            cpu_millis: of.cpu_millis,
            opportunistic: of.opportunistic,
            begun: of.begun,
            ended,
            cpu_ns: of.cpu_ns,
            memory_bytes: of.memory_bytes,
            waiting: of.waiting,
            pressed: of.pressed.iter().map(|(_, count)| count).sum(),
            held,
        };
        Some((seen, of))
    }

    /// The signal for autoscaling.
    pub(crate) fn scaling_state(&self) -> ScalingState {
        let Versioned { version, value } = versioned(&self.shapes.wanted);
        ScalingState { cores: cores_up(&self.workers).count() as u32, version, wanted: value }
    }
}

fn versioned<T: Clone>(held: &Cache<T>) -> Versioned<T> {
    Versioned { version: held.version(), value: held.get().clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_told_again_when_it_has_changed() {
        let mut looks = Looks::default();
        let (f, seen) = (FunctionRef(3), Seen { version: 1, begun: 7, ..Seen::default() });
        assert_eq!(looks.changed_at(f, seen, 10), 10);
        assert_eq!(looks.changed_at(f, seen, 20), 10, "nothing new");
        assert_eq!(looks.changed_at(f, Seen { held: [0, 1, 0], ..seen }, 30), 30, "it holds more");
        assert_eq!(looks.changed_at(f, Seen::default(), 40), 40, "it is gone");
        assert_eq!(looks.changed_at(FunctionRef(0), Seen::default(), 50), 0, "it never was");
    }
}
