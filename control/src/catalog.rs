//! The functions that are deployed, by the dense number that the durable queue gave them.

use call::frame::{FrameBuf, Header, Kind, append};
use call::limits::Limits;
use call::{FunctionId, FunctionSpec};
use scheduler::{FunctionRef, HostRef};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// A deployed function.
pub struct Deployed {
    /// As deployed.
    pub spec: FunctionSpec,
    /// The publish frame that every core and host gets, encoded once.
    pub publish: FrameBuf,
    /// Calls that ended well since the node's start.
    pub completed: u64,
    /// Executions that failed since the node's start.
    pub failed: u64,
    /// CPU time of all of these, ns.
    pub cpu_ns: u64,
    /// The most memory that an execution used, bytes.
    pub memory_bytes: u64,
    /// Hosts that have this version compiled.
    pub ready: BTreeSet<HostRef>,
    /// Other regions that have the same function, ready.
    pub ready_far: BTreeSet<HostRef>,
    /// Why a host could not make it ready; empty if none said so.
    pub failure: String,
}

/// All deployed functions.
pub struct Catalog {
    functions: Vec<Option<Deployed>>,
    /// Looked up once per call and never iterated, so its order decides nothing.
    by_id: HashMap<FunctionId, FunctionRef, BuildHasherDefault<AlreadyMixed>>,
}

/// A [`FunctionId`] is a mixed hash already.
#[derive(Default)]
struct AlreadyMixed(u64);

impl Hasher for AlreadyMixed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("a function id hashes as one u64")
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

impl Catalog {
    /// An empty catalog.
    pub fn new(limits: &Limits) -> Catalog {
        let by_id = HashMap::with_capacity_and_hasher(limits.functions_max, BuildHasherDefault::default());
        Catalog { functions: Vec::new(), by_id }
    }

    /// The number of a function that is deployed now.
    pub fn find(&self, id: FunctionId) -> Option<FunctionRef> {
        self.by_id.get(&id).copied()
    }

    /// A function that is deployed now.
    pub fn get(&self, function: FunctionRef) -> Option<&Deployed> {
        self.functions.get(function.0 as usize)?.as_ref()
    }

    /// A function that is deployed now, to count on.
    pub fn get_mut(&mut self, function: FunctionRef) -> Option<&mut Deployed> {
        self.functions.get_mut(function.0 as usize)?.as_mut()
    }

    /// The function called `namespace/name`, or `name` in the namespace `default`.
    pub fn named(&self, name: &str) -> Option<FunctionRef> {
        self.find(id_of(name))
    }

    /// How a function is called: `namespace/name`, or its id if it is not deployed any more.
    pub fn name_of(&self, id: FunctionId) -> String {
        match self.find(id).and_then(|function| self.get(function)) {
            Some(Deployed { spec, .. }) => format!("{}/{}", spec.namespace, spec.name),
            None => id.to_string(),
        }
    }

    /// All functions, by number.
    pub fn iter(&self) -> impl Iterator<Item = (FunctionRef, &Deployed)> {
        let numbered = self.functions.iter().enumerate();
        numbered.filter_map(|(n, deployed)| Some((FunctionRef(n as u32), deployed.as_ref()?)))
    }

    /// Puts a function in force, in the place of its earlier version.
    pub fn deploy(&mut self, function: FunctionRef, spec: FunctionSpec) {
        let place = function.0 as usize;
        if self.functions.len() <= place {
            self.functions.resize_with(place + 1, || None);
        }
        let counts = |f: &Deployed| [f.completed, f.failed, f.cpu_ns, f.memory_bytes];
        let [completed, failed, cpu_ns, memory_bytes] = self.functions[place].as_ref().map_or([0; 4], counts);
        self.by_id.insert(spec.id(), function);
        let publish = publish_frame(&spec);
        let (ready, ready_far, failure) = Default::default();
        self.functions[place] = Some(Deployed {
            spec,
            publish,
            completed,
            failed,
            cpu_ns,
            memory_bytes,
            ready,
            ready_far,
            failure,
        });
    }

    /// Takes a function out of force.
    pub fn delete(&mut self, function: FunctionRef) -> Deployed {
        let deleted = self.functions[function.0 as usize].take().expect("deployed");
        self.by_id.remove(&deleted.spec.id());
        deleted
    }

    /// A host's supervisor is gone: it is ready for nothing.
    pub fn host_down(&mut self, host: HostRef) {
        for deployed in self.functions.iter_mut().flatten() {
            deployed.ready.remove(&host);
            deployed.ready_far.remove(&host);
        }
    }
}

/// The id of `namespace/name`, or of `name` in the namespace `default`.
pub fn id_of(name: &str) -> FunctionId {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    FunctionId::of(namespace, name)
}

/// The header of a frame about a function.
pub fn header_about(kind: Kind, spec: &FunctionSpec) -> Header {
    Header { function: spec.id(), stamp: u64::from(spec.version), ..Header::new(kind) }
}

fn publish_frame(spec: &FunctionSpec) -> FrameBuf {
    let mut out = FrameBuf::new();
    append(&mut out, &header_about(Kind::Publish, spec), &serde_json::to_vec(spec).expect("plain data"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, version: u32) -> FunctionSpec {
        FunctionSpec { name: name.into(), version, ..FunctionSpec::default() }
    }

    #[test]
    fn a_new_version_keeps_the_counts_and_forgets_who_was_ready() {
        let mut catalog = Catalog::new(&Limits::small());
        catalog.deploy(FunctionRef(3), spec("a", 1));
        let first = catalog.get_mut(FunctionRef(3)).unwrap();
        first.completed = 7;
        first.ready.insert(HostRef(0));
        catalog.deploy(FunctionRef(3), spec("a", 2));
        let second = catalog.get(FunctionRef(3)).unwrap();
        assert_eq!((second.spec.version, second.completed, second.ready.len()), (2, 7, 0));
    }

    #[test]
    fn a_deleted_function_is_known_by_its_id_only() {
        let mut catalog = Catalog::new(&Limits::small());
        catalog.deploy(FunctionRef(0), spec("a", 1));
        assert_eq!(catalog.named("a"), catalog.named("default/a"));
        assert_eq!(catalog.name_of(id_of("a")), "default/a");
        catalog.delete(FunctionRef(0));
        assert_eq!((catalog.named("a"), catalog.iter().count()), (None, 0));
        assert_eq!(catalog.name_of(id_of("a")), id_of("a").to_string());
    }
}
