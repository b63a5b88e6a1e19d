//! Worker cores and their hosts as the node sees them: the glue between their connections and the scheduler, which
//! decides by the numbers given out here.

use crate::session::SessionRef;
use call::Instant;
use call::limits::Limits;
use scheduler::{CoreRef, HostRef};
use std::collections::BTreeMap;

/// A connected worker core.
pub struct Core {
    /// Its connection.
    pub session: SessionRef,
    /// Where it runs.
    pub host: HostRef,
    /// CPU it is pinned to.
    pub cpu: u32,
    /// Its process.
    pub pid: u32,
    /// Calls it serves at once.
    pub slots: u32,
    /// Which backend it uses for each thing.
    pub backends: Vec<(String, String)>,
    /// When a frame of it last arrived.
    pub heard_at: Instant,
    /// Slots it granted in all.
    pub granted: u64,
    /// The scheduler knows of it: every function has been published to it.
    pub is_up: bool,
    /// It said that it takes no new calls.
    pub draining: bool,
    /// Calls leased to it now.
    pub leased: u64,
    /// Outcomes it sent.
    pub finished: u64,
    /// It stands for another region, which pulls.
    pub far: bool,
}

impl Core {
    /// One that has just connected.
    pub fn new(session: SessionRef, host: HostRef, now: Instant) -> Core {
        Core {
            session,
            host,
            cpu: 0,
            pid: 0,
            slots: 0,
            backends: Vec::new(),
            heard_at: now,
            granted: 0,
            is_up: false,
            draining: false,
            leased: 0,
            finished: 0,
            far: false,
        }
    }
}

/// A host: cores that share a disk cache of artefacts, and the supervisor that fills it.
struct Host {
    name: String,
    supervisor: Option<SessionRef>,
    cores: u32,
}

/// All cores and hosts.
pub struct Workers {
    cores: Vec<Option<Core>>,
    hosts: Vec<Option<Host>>,
    by_name: BTreeMap<String, HostRef>,
}

impl Workers {
    /// Nobody yet.
    pub fn new(limits: &Limits) -> Workers {
        Workers {
            cores: (0..limits.cores_max).map(|_| None).collect(),
            hosts: (0..limits.cores_max).map(|_| None).collect(),
            by_name: BTreeMap::new(),
        }
    }

    /// A core connected. `None` if there are as many cores or hosts as there may be.
    pub fn core_up(&mut self, host: &str, core: impl FnOnce(HostRef) -> Core) -> Option<CoreRef> {
        let place = self.cores.iter().position(Option::is_none)?;
        let host = self.host(host)?;
        self.hosts[usize::from(host.0)].as_mut().expect("found").cores += 1;
        self.cores[place] = Some(core(host));
        Some(CoreRef(place as u16))
    }

    /// A core is gone.
    pub fn core_down(&mut self, core: CoreRef) -> Core {
        let gone = self.cores[usize::from(core.0)].take().expect("up");
        self.hosts[usize::from(gone.host.0)].as_mut().expect("has a core").cores -= 1;
        self.forget_if_empty(gone.host);
        gone
    }

    /// A core that is connected.
    pub fn core(&self, core: CoreRef) -> Option<&Core> {
        self.cores.get(usize::from(core.0))?.as_ref()
    }

    /// A core that is connected, to change.
    pub fn core_mut(&mut self, core: CoreRef) -> Option<&mut Core> {
        self.cores.get_mut(usize::from(core.0))?.as_mut()
    }

    /// All connected cores, by number.
    pub fn cores(&self) -> impl Iterator<Item = (CoreRef, &Core)> {
        let numbered = self.cores.iter().enumerate();
        numbered.filter_map(|(n, core)| Some((CoreRef(n as u16), core.as_ref()?)))
    }

    /// A supervisor connected. The session it takes the place of, if the host had one: that one is stale.
    pub fn supervisor_up(
        &mut self,
        host: &str,
        session: SessionRef,
    ) -> Option<(HostRef, Option<SessionRef>)> {
        let host = self.host(host)?;
        let entry = self.hosts[usize::from(host.0)].as_mut().expect("found");
        Some((host, entry.supervisor.replace(session)))
    }

    /// A supervisor's connection is gone. True if it was the host's present one.
    pub fn supervisor_down(&mut self, host: HostRef, session: SessionRef) -> bool {
        let Some(entry) = self.hosts[usize::from(host.0)].as_mut() else { return false };
        let present = entry.supervisor == Some(session);
        if present {
            entry.supervisor = None;
            self.forget_if_empty(host);
        }
        present
    }

    /// What a host calls itself.
    pub fn host_name(&self, host: HostRef) -> &str {
        self.hosts[usize::from(host.0)].as_ref().map_or("", |host| &host.name)
    }

    fn host(&mut self, name: &str) -> Option<HostRef> {
        if let Some(host) = self.by_name.get(name) {
            return Some(*host);
        }
        let place = self.hosts.iter().position(Option::is_none)?;
        self.hosts[place] = Some(Host { name: name.into(), supervisor: None, cores: 0 });
        let host = HostRef(place as u16);
        self.by_name.insert(name.into(), host);
        Some(host)
    }

    fn forget_if_empty(&mut self, host: HostRef) {
        let place = &mut self.hosts[usize::from(host.0)];
        if place.as_ref().is_some_and(|h| h.cores == 0 && h.supervisor.is_none()) {
            let gone = place.take().expect("just seen");
            self.by_name.remove(&gone.name);
        }
    }
}
