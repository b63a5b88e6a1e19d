//! What operators and the conductor ask of a region, and order.

use crate::answers::Refusal;
use crate::node::Node;
use call::admin::{Answer, LinkState, RegionState, TrafficMatrix};
use driver::Driver;
use scheduler::{FunctionRef, HostRef, Input};
use std::collections::BTreeSet;

impl<D: Driver> Node<D> {
    /// This node as a region.
    pub(crate) fn region_state(&self) -> RegionState {
        let depths = (0..self.queue.functions()).map(|at| self.queue.depth(durableq::FunctionRef(at)));
        let waiting = depths.map(|depth| u64::from(depth.due + depth.offered)).sum();
        let near = || self.workers.cores().filter(|(_, core)| core.is_up && !core.far && !core.draining);
        let slots = near().map(|(_, core)| u64::from(core.slots)).sum();
        let lent = self.workers.cores().filter(|(_, core)| core.far).map(|(_, core)| core.leased).sum();
        RegionState {
            region: self.regions.name.clone(),
            drained: self.regions.drained,
            waiting,
            slots: if self.regions.drained { 0 } else { slots },
            free: self.free_credits(),
            pulled: self.regions.pulled.len() as u64,
            pulled_ended: self.regions.ended,
            lent,
            matrix: self.regions.matrix.clone(),
            links: self.regions.links.iter().map(|link| self.link_state(link)).collect(),
        }
    }

    fn link_state(&self, link: &super::Link) -> LinkState {
        let now = self.driver.now();
        let there = link.connection.as_ref();
        LinkState {
            region: link.region.clone(),
            endpoint: link.endpoint.to_string(),
            state: if there.is_some_and(|there| there.is_up) { "up" } else { "down" }.into(),
            share: link.share,
            window: there.map_or(0, |there| there.window.outstanding()),
            leased: link.leased,
            ended: link.ended,
            returned: link.returned,
            silent_ms: there.map_or(0, |there| now.since(there.heard_at).as_millis() as u64),
        }
    }

    /// A newer matrix is in force from now on. What was granted by the old one cannot be taken back.
    pub(crate) fn matrix_published(&mut self, matrix: TrafficMatrix) -> Result<Answer, Refusal> {
        if let Some(fault) = matrix.fault() {
            return Err(Refusal::new("bad-request", format!("the matrix is none: {fault}")));
        }
        let newest = self.regions.matrix.version;
        if matrix.version < newest {
            let message = format!("version {} is older than {newest}, which is in force", matrix.version);
            return Err(Refusal::new("conflict", message));
        }
        let name = self.regions.name.clone();
        for link in self.regions.links.iter_mut().filter(|link| !link.sibling) {
            link.share = matrix.share(&name, &link.region);
        }
        self.regions.matrix = matrix;
        Ok(Answer::Region(self.region_state()))
    }

    /// Runs nothing on this region's own cores any more, or again. What runs goes on; the far cores, which are other
    /// regions, may take what waits.
    pub(crate) fn region_drains(&mut self, drained: bool) -> Answer {
        if self.regions.drained != drained {
            self.regions.drained = drained;
            let functions: Vec<FunctionRef> = self.catalog.iter().map(|(function, _)| function).collect();
            if drained {
                let ready = self.catalog.iter().flat_map(|(_, deployed)| deployed.ready.iter().copied());
                let hosts: BTreeSet<HostRef> = ready.collect();
                hosts.into_iter().for_each(|host| {
                    self.scheduler.step(Input::HostDown { host }, &mut self.effects);
                });
            } else {
                functions.into_iter().for_each(|function| self.tell_readiness(function));
            }
            self.tell_homes_all();
        }
        Answer::Region(self.region_state())
    }

    /// Tells the scheduler of all hosts of this region that are ready for a function.
    fn tell_readiness(&mut self, function: FunctionRef) {
        let deployed = self.catalog.get(function).expect("listed");
        let version = deployed.spec.version;
        for host in deployed.ready.clone() {
            self.scheduler.step(Input::Ready { host, function, version }, &mut self.effects);
        }
    }
}
