//! Locality groups in force: what the optimizer concluded, told to the scheduler.
//!
//! The node holds each function's and each core's group as controllers said last. Groups count while cores are divided
//! between two of them at least: otherwise they would cost a rule per function and mean nothing. Groups that manifests
//! name win: the optimizer keeps their functions together, wherever it puts them.

use crate::node::Node;
use crate::shaping::{cores_up, snapshot};
use call::admin::{LocalityGroup, LocalityState, Versioned};
use call::limits::Limits;
use controllers::Cache;
use driver::Driver;
use scheduler::{CoreRef, FunctionRef, GROUPS_MAX, GroupRef, Input};
use std::collections::BTreeMap;

/// A group as controllers name it, from 0; none serves all.
type Said = Option<u16>;

/// What is held of groups.
pub(crate) struct Grouping {
    functions: Vec<Cache<Said>>,
    cores: Vec<Cache<Said>>,
    /// Per core: what the scheduler knows.
    told: Vec<GroupRef>,
    /// Cores that are up are in two groups at least.
    pub divided: bool,
}

impl Grouping {
    /// Nobody is in a group.
    pub fn new(limits: &Limits) -> Grouping {
        let cores = || (0..limits.cores_max).map(|_| Cache::new(None));
        Grouping {
            functions: Vec::new(),
            cores: cores().collect(),
            told: vec![GroupRef::NONE; limits.cores_max],
            divided: false,
        }
    }

    /// A function's group, as it is held.
    pub fn of_function(&self, function: FunctionRef) -> Versioned<Said> {
        self.functions.get(function.0 as usize).map_or(Versioned::default(), held)
    }

    /// A core's group, as it is held.
    pub fn of_core(&self, core: CoreRef) -> Versioned<Said> {
        held(&self.cores[usize::from(core.0)])
    }

    /// A core's group, as its scheduler knows it.
    pub fn told(&self, core: CoreRef) -> GroupRef {
        self.told[usize::from(core.0)]
    }

    /// The group in whose cores a function's calls run first.
    pub fn in_force(&self, function: FunctionRef) -> GroupRef {
        if self.divided { number(self.of_function(function).value) } else { GroupRef::NONE }
    }

    /// Takes a function's group; true if it is newer.
    fn take(&mut self, function: FunctionRef, said: Versioned<Said>) -> bool {
        let place = function.0 as usize;
        if self.functions.len() <= place {
            self.functions.resize_with(place + 1, || Cache::new(None));
        }
        self.functions[place].offer(snapshot(said))
    }

    /// A core is gone: whoever gets its number is in no group. Its scheduler knows.
    pub fn core_gone(&mut self, core: CoreRef) {
        self.cores[usize::from(core.0)] = Cache::new(None);
        self.told[usize::from(core.0)] = GroupRef::NONE;
    }
}

fn held(of: &Cache<Said>) -> Versioned<Said> {
    Versioned { version: of.version(), value: *of.get() }
}

/// The scheduler's number of a group; those beyond what it can tell apart are none.
fn number(said: Said) -> GroupRef {
    let said = said.filter(|group| usize::from(*group) + 1 < GROUPS_MAX);
    said.map_or(GroupRef::NONE, |group| GroupRef(group + 1))
}

impl<D: Driver> Node<D> {
    /// Controllers concluded groups. Tells how many of them are new.
    pub(crate) fn group(
        &mut self,
        functions: Vec<(u32, Versioned<Said>)>,
        cores: Vec<(u16, Versioned<Said>)>,
    ) -> u64 {
        let mut count = 0;
        for (core, said) in cores {
            let is_up = self.workers.core(CoreRef(core)).is_some_and(|core| core.is_up && !core.far);
            count += u64::from(is_up && self.grouping.cores[usize::from(core)].offer(snapshot(said)));
        }
        if count > 0 {
            self.regroup();
        }
        for (function, said) in functions {
            let function = FunctionRef(function);
            if self.catalog.get(function).is_some() && self.grouping.take(function, said) {
                self.shape(function);
                count += 1;
            }
        }
        count
    }

    /// Cores came, went or changed their groups: the scheduler is told, and, if groups begin or cease to count, of all
    /// functions as well.
    pub(crate) fn regroup(&mut self) {
        let cores: Vec<CoreRef> = cores_up(&self.workers).collect();
        let mut groups = cores.iter().filter_map(|core| self.grouping.of_core(*core).value);
        let first = groups.next();
        let divided = first.is_some() && groups.any(|group| Some(group) != first);
        let has_changed = std::mem::replace(&mut self.grouping.divided, divided) != divided;
        for core in cores {
            let group = if divided { number(self.grouping.of_core(core).value) } else { GroupRef::NONE };
            if std::mem::replace(&mut self.grouping.told[usize::from(core.0)], group) != group {
                self.scheduler.step(Input::Group { core, group }, &mut self.effects);
            }
        }
        if has_changed {
            let all: Vec<FunctionRef> = self.catalog.iter().map(|(function, _)| function).collect();
            all.into_iter().for_each(|function| self.shape(function));
        }
    }

    /// Which functions run where.
    pub(crate) fn locality_state(&self) -> LocalityState {
        let divided = self.grouping.divided;
        let mut groups: BTreeMap<(GroupRef, &str), LocalityGroup> = BTreeMap::new();
        let mut version = 0;
        for (function, deployed) in self.catalog.iter() {
            version = version.max(self.grouping.of_function(function).version);
            let (group, name) = (self.grouping.in_force(function), deployed.spec.locality.group.as_str());
            // Without cores of its own a group is what manifests call so.
            let key = if group == GroupRef::NONE { (group, name) } else { (group, "") };
            let of = groups.entry(key).or_default();
            of.functions.push(format!("{}/{}", deployed.spec.namespace, deployed.spec.name));
            if !name.is_empty() && !of.named.iter().any(|known| known == name) {
                of.named.push(name.into());
            }
        }
        for (core, entry) in self.workers.cores() {
            version = version.max(self.grouping.of_core(core).version);
            let name = format!("{}/{}", self.workers.host_name(entry.host), entry.cpu);
            let group = self.grouping.told[usize::from(core.0)];
            groups.entry((group, "")).or_default().cores.push(name);
        }
        let shown = groups.into_iter().map(|((group, name), of)| {
            let source = match (group, name) {
                (GroupRef::NONE, "") => "none",
                (GroupRef::NONE, _) => "function.toml",
                _ => "optimizer",
            };
            LocalityGroup { group: group.0, source: source.into(), ..of }
        });
        LocalityState { version, divided, groups: shown.collect() }
    }
}
