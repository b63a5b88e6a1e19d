//! The side that lends: another region's node is a core of this one, far away.

use crate::node::Node;
use crate::session::{Role, SessionRef};
use crate::worker_lb::Core;
use call::frame::{Frame, Header, Kind};
use call::limits::NAME_BYTES_MAX;
use call::{Status, Usage};
use driver::Driver;
use durableq::{Fate, HolderRef};
use scheduler::{CallRef, CoreRef, FunctionRef, HostRef, How, Input};

/// Slots that a region counts as, at most: what it says only widens the RunQ.
const SLOTS_MAX: u32 = 4096;

impl<D: Driver> Node<D> {
    /// Another region's node says hello, in order to pull.
    pub(crate) fn greet_region(&mut self, session: SessionRef, region: &str, slots: u32) {
        let is_name = !region.is_empty() && region.len() <= NAME_BYTES_MAX;
        if !is_name || region == self.regions.name {
            return self.close(session, &format!("it calls itself region `{region}`, which it cannot be"));
        }
        let host = format!("region {region}");
        let stale =
            self.workers.cores().find(|(_, core)| core.far && self.workers.host_name(core.host) == host);
        if let Some(stale) = stale.map(|(_, core)| core.session) {
            let why = "the region connected again";
            self.close(stale, why);
            self.forget_core_of(stale, why);
        }
        let now = self.driver.now();
        let added = self.workers.core_up(&host, |host| Core {
            far: true,
            slots: slots.clamp(1, SLOTS_MAX),
            backends: vec![("region".into(), "pulls calls that no core here can take".into())],
            ..Core::new(session, host, now)
        });
        let Some(added) = added else {
            let why = format!("there are {} cores or hosts already (limit cores_max)", self.limits.cores_max);
            return self.close(session, &why);
        };
        self.queue.holder_up(HolderRef(added.0), &host);
        self.welcome(session, Role::Core(added));
        self.publishing.push(session);
        self.note(&format!("region {region} is linked and may pull"));
    }

    /// Whether a core stands for another region.
    pub(crate) fn is_far(&self, core: CoreRef) -> bool {
        self.workers.core(core).is_some_and(|core| core.far)
    }

    /// A region says what no core says. Like everything else it is a sign of life.
    pub(crate) fn hear_far(&mut self, core: CoreRef, frame: &Frame<'_>) {
        self.queue.heartbeat(HolderRef(core.0));
        self.workers.core_mut(core).expect("its session is there").heard_at = self.driver.now();
        match frame.kind() {
            Kind::Ready => self.ready_far(core, frame),
            _ => self.lease_returned(frame),
        }
    }

    /// A region said how it stands with a function.
    fn ready_far(&mut self, core: CoreRef, frame: &Frame<'_>) {
        let host = self.workers.core(core).expect("its session is there").host;
        let Some(function) = self.catalog.find(frame.function()) else { return };
        let deployed = self.catalog.get_mut(function).expect("found");
        if u64::from(deployed.spec.version) != frame.stamp() {
            return;
        }
        if frame.status() == Ok(Status::Ok) {
            deployed.ready_far.insert(host);
            let version = deployed.spec.version;
            self.scheduler.step(Input::Ready { host, function, version }, &mut self.effects);
        } else if deployed.ready_far.remove(&host) {
            self.tell_readiness_again(host);
        }
    }

    /// The scheduler forgets a host's readiness only as a whole.
    fn tell_readiness_again(&mut self, host: HostRef) {
        self.scheduler.step(Input::HostDown { host }, &mut self.effects);
        let ready = self.catalog.iter().filter(|(_, deployed)| deployed.ready_far.contains(&host));
        let ready: Vec<(FunctionRef, u32)> = ready.map(|(f, deployed)| (f, deployed.spec.version)).collect();
        for (function, version) in ready {
            self.scheduler.step(Input::Ready { host, function, version }, &mut self.effects);
        }
    }

    /// A region gives a lease back: the call is due again at once.
    fn lease_returned(&mut self, frame: &Frame<'_>) {
        let begun = frame.status() != Ok(Status::Ok);
        let mut blocks = self.disk.lend(&mut self.driver);
        let Ok(settled) = self.queue.return_lease(&mut blocks, frame.call(), frame.epoch(), begun) else {
            return;
        };
        self.scheduler
            .step(Input::Ended { call: CallRef(settled.call.0), how: How::Lost }, &mut self.effects);
        self.workers.core_mut(CoreRef(settled.holder.0)).expect("who holds a lease is connected").leased -= 1;
        if begun {
            let function = FunctionRef(settled.function.0);
            self.count_failure(function, 0);
            self.accounts.executed(function, Status::WorkerLost, &Usage::default());
            self.count_lost_end(function, settled.fate);
        } else if settled.fate == Fate::Cancelled {
            self.accounts.ended(FunctionRef(settled.function.0), Status::Cancelled);
        }
    }

    /// A region's credits are heard: it knows by this that the link lives.
    pub(crate) fn echo(&mut self, core: CoreRef, stamp: u64) {
        let session = self.workers.core(core).expect("its session is there").session;
        let credit = Header { stamp, ..Header::new(Kind::Credit) }.encode(&[]);
        self.sessions.send_parts(&mut self.driver, session, &credit, &[]);
    }
}
