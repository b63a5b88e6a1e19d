//! The first frame of a connection, and what cores and hosts hear before anything else: every function.

use crate::answers::Refusal;
use crate::catalog::{Deployed, header_about};
use crate::node::{Node, Phase};
use crate::session::{Role, Session, SessionRef};
use crate::worker_lb::Core;
use call::admin::Hello;
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::{FunctionSpec, Status};
use driver::Driver;
use durableq::HolderRef;
use scheduler::{CoreRef, Depth, FunctionRef, HostRef, Input};

/// What a core says of itself.
struct Introduction {
    host: String,
    cpu: u32,
    pid: u32,
    slots: u32,
    backends: Vec<(String, String)>,
}

/// Bytes of the longest hello: names of 128 bytes and a line for each of some thirty backends take a tenth of it. What
/// a stranger says of itself is kept while it is connected, so it must not be much.
const HELLO_BYTES_MAX: usize = 32 << 10;

impl<D: Driver> Node<D> {
    /// A stranger spoke.
    pub(crate) fn greet(&mut self, session: SessionRef, frame: &Frame<'_>) {
        let hello = match frame.kind() {
            Kind::Hello if frame.body().len() > HELLO_BYTES_MAX => {
                let why =
                    format!("its hello has {} bytes, at most {HELLO_BYTES_MAX} allowed", frame.body().len());
                return self.close(session, &why);
            }
            Kind::Hello => serde_json::from_slice(frame.body()),
            other => return self.close(session, &format!("it began with {other:?} instead of a hello")),
        };
        match hello {
            Ok(Hello::Client { name }) => self.greet_client(session, name),
            Ok(Hello::Core { host, cpu, pid, slots, backends }) => {
                self.greet_core(session, Introduction { host, cpu, pid, slots, backends })
            }
            Ok(Hello::Region { region, slots }) => self.greet_region(session, &region, slots),
            Ok(Hello::Shard { shard, secret }) => self.greet_shard(session, shard, &secret),
            Ok(Hello::Host { host, .. }) => self.greet_host(session, &host),
            Ok(Hello::Admin { secret }) if secret == self.options.secret => {
                self.welcome(session, Role::Admin);
            }
            Ok(Hello::Store { secret }) => self.greet_store(session, &secret),
            Ok(Hello::Admin { .. }) => self.close(session, "it gave a wrong secret"),
            Ok(Hello::Node { .. }) => self.close(session, "it says that it is a node, too"),
            Err(error) => self.close(session, &format!("its hello is not one: {error}")),
        }
    }

    /// A core says anew what is in force with it.
    pub(crate) fn hear_again(&mut self, session: SessionRef, core: CoreRef, frame: &Frame<'_>) {
        let is_bounded = frame.body().len() <= HELLO_BYTES_MAX;
        let hello = is_bounded.then(|| serde_json::from_slice(frame.body()));
        match hello {
            Some(Ok(Hello::Core { backends, .. })) => {
                self.workers.core_mut(core).expect("its session is there").backends = backends;
            }
            _ => self.close(session, "it said hello again, and that was not a core's"),
        }
    }

    fn greet_client(&mut self, session: SessionRef, name: String) {
        if self.sessions.become_client(session, name) {
            self.say_hello(session);
        } else {
            let why = format!("there are {} clients already (limit clients_max)", self.limits.clients_max);
            self.close(session, &why);
        }
    }

    fn greet_core(&mut self, session: SessionRef, core: Introduction) {
        let now = self.driver.now();
        let added = self.workers.core_up(&core.host, |host| Core {
            cpu: core.cpu,
            pid: core.pid,
            slots: core.slots,
            backends: core.backends,
            ..Core::new(session, host, now)
        });
        let Some(added) = added else {
            let why = format!("there are {} cores or hosts already (limit cores_max)", self.limits.cores_max);
            return self.close(session, &why);
        };
        self.queue.holder_up(HolderRef(added.0), &format!("{}/{}", core.host, core.cpu));
        self.welcome(session, Role::Core(added));
        self.publishing.push(session);
    }

    fn greet_host(&mut self, session: SessionRef, host: &str) {
        let Some((host, stale)) = self.workers.supervisor_up(host, session) else {
            let why = format!("there are {} hosts already (limit cores_max)", self.limits.cores_max);
            return self.close(session, &why);
        };
        if let Some(stale) = stale {
            self.host_down(host);
            self.close(stale, "the host's supervisor connected again");
        }
        self.welcome(session, Role::Host(host));
        self.publishing.push(session);
    }

    pub(crate) fn welcome(&mut self, session: SessionRef, role: Role) {
        if let Some(entry) = self.sessions.get_mut(session) {
            entry.role = role;
        }
        self.say_hello(session);
    }

    fn say_hello(&mut self, session: SessionRef) {
        let hello = Hello::Node {
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: self.queue.incarnation(),
            admin: self.options.admin.clone(),
        };
        let mut frame = FrameBuf::new();
        let body = serde_json::to_vec(&hello).expect("plain data");
        append(&mut frame, &Header::new(Kind::Hello), &body);
        self.sessions.send(&mut self.driver, session, &frame);
    }

    /// Goes on telling new cores and hosts of all functions, as fast as they read.
    pub(crate) fn publish_all(&mut self) {
        let mut sessions = std::mem::take(&mut self.publishing);
        sessions.retain(|session| !self.publish_some(*session));
        self.publishing = sessions;
    }

    /// True when there is nothing more to tell.
    fn publish_some(&mut self, to: SessionRef) -> bool {
        // Numbers of deleted functions count, too: the next deployed one is behind them.
        let bound = self.queue.functions();
        loop {
            let Some(session) = self.sessions.get_mut(to) else { return true };
            if session.published >= bound {
                break;
            }
            if session.is_closing() {
                return true;
            }
            if session.is_congested() {
                return false;
            }
            let function = FunctionRef(session.published);
            session.published += 1;
            if let Some(deployed) = self.catalog.get(function) {
                self.sessions.send(&mut self.driver, to, &deployed.publish);
            }
        }
        if let Some(Role::Core(core)) = self.sessions.get(to).map(|s| &s.role) {
            self.core_knows_all(*core);
        }
        true
    }

    /// From here on calls may be leased to the core.
    fn core_knows_all(&mut self, core: CoreRef) {
        let entry = self.workers.core_mut(core).expect("its session is there");
        entry.is_up = true;
        let (host, slots, granted, draining) = (entry.host, entry.slots, entry.granted, entry.draining);
        let far = entry.far;
        self.scheduler.step(Input::CoreUp { core, host, slots, far }, &mut self.effects);
        if draining || matches!(self.phase, Phase::Draining { .. }) {
            self.scheduler.step(Input::CoreDrain { core }, &mut self.effects);
        }
        if granted > 0 {
            self.scheduler.step(Input::Credit { core, granted }, &mut self.effects);
        }
    }

    /// Puts a function in force and tells everybody.
    ///
    /// # Errors
    /// If there is no room for another function, or calls of a deleted namesake still run.
    pub(crate) fn deploy(&mut self, spec: FunctionSpec) -> Result<FunctionRef, Refusal> {
        let Some(known) = self.queue.intern(spec.id()) else {
            let max = self.limits.functions_max;
            let message = format!("{max} functions are known, deleted ones included: as many as may be");
            return Err(Refusal::new("full", message));
        };
        let function = FunctionRef(known.0);
        let is_new = self.catalog.get(function).is_none();
        if is_new && self.scheduler.depth(function) != Depth::default() {
            let message = "calls of the deleted function of this name still run; deploy when they have ended";
            return Err(Refusal::new("conflict", message));
        }
        let (version, concurrency) = (spec.version, self.concurrency(function, &spec));
        self.accounts.open(function, &spec);
        self.catalog.deploy(function, spec);
        self.buried.remove(&function);
        self.scheduler.step(Input::Function { function, version, concurrency }, &mut self.effects);
        self.shape_new(function);
        self.pause_as_said(function);
        if self.queue.has_due(known) {
            self.due(function);
        }
        let publish = self.catalog.get(function).expect("deployed").publish.clone();
        self.tell_workers(function, &publish);
        self.tell_homes(function);
        Ok(function)
    }

    /// Tells everybody that a function is gone.
    pub(crate) fn retire(&mut self, function: FunctionRef) {
        let Deployed { spec, .. } = self.catalog.get(function).expect("deployed");
        let mut frame = FrameBuf::new();
        append(&mut frame, &header_about(Kind::Retire, spec), &[]);
        self.tell_workers(function, &frame);
    }

    /// To every core and host, except those that will hear of the function in their turn.
    fn tell_workers(&mut self, function: FunctionRef, frame: &[u8]) {
        let hears = |entry: &Session| {
            matches!(entry.role, Role::Core(_) | Role::Host(_)) && entry.published >= function.0
        };
        let told: Vec<SessionRef> =
            self.sessions.iter().filter(|(_, entry)| hears(entry)).map(|(session, _)| session).collect();
        for session in told {
            self.sessions.send(&mut self.driver, session, frame);
            let entry = self.sessions.get_mut(session).expect("listed");
            entry.published = entry.published.max(function.0 + 1);
        }
    }

    /// A host said how it stands with a function.
    pub(crate) fn ready(&mut self, host: HostRef, frame: &Frame<'_>) {
        let Some(function) = self.catalog.find(frame.function()) else { return };
        let deployed = self.catalog.get_mut(function).expect("found");
        if u64::from(deployed.spec.version) != frame.stamp() {
            return;
        }
        if frame.status() == Ok(Status::Ok) {
            deployed.ready.insert(host);
            let version = deployed.spec.version;
            if !self.regions.is_drained() {
                self.scheduler.step(Input::Ready { host, function, version }, &mut self.effects);
            }
            self.tell_homes(function);
        } else {
            deployed.failure = serde_json::from_slice(frame.body())
                .unwrap_or_else(|_| "a host could not compile it and gave no reason".into());
        }
    }

    /// A host's supervisor is gone: what it said holds no more.
    pub(crate) fn host_down(&mut self, host: HostRef) {
        self.catalog.host_down(host);
        self.scheduler.step(Input::HostDown { host }, &mut self.effects);
        self.tell_homes_all();
    }
}
