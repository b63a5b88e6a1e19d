//! Words between the node and its controllers, and about what these conclude: locality groups, wanted cores.
//!
//! The node tells what it sees and what it holds; controllers tell what is newer than that. Whatever is lost on the way
//! is told again, since the node still holds the older version.

use serde::{Deserialize, Serialize};

/// A conclusion and its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// Larger is newer; 0 for none yet.
    pub version: u64,
    /// The conclusion.
    pub value: T,
}

/// What the node tells the controllers about itself. Counts count from the node's start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Observation {
    /// Numbers of functions and cores hold for this incarnation only.
    pub incarnation: u32,
    /// Since the node's start, ns: the clock of what follows.
    pub at_ns: u64,
    /// Cores that are up.
    pub cores: Vec<ObservedCore>,
    /// Functions of which something has changed since the instant that was asked for; all that there is anything to
    /// say about, if none was.
    pub functions: Vec<ObservedFunction>,
    /// Services, by name, with their thresholds; functions name them by their place here.
    pub downstreams: Vec<(String, Option<u64>)>,
    /// S as the node holds it.
    pub opportunistic: Versioned<u32>,
    /// Wanted cores as the node holds them.
    #[serde(default)]
    pub wanted: Versioned<Wanted>,
}

/// A core, as controllers see it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ObservedCore {
    /// Its number.
    pub core: u16,
    /// CPU time in functions, ns.
    pub cpu_ns: u64,
    /// The locality group that the node holds.
    #[serde(default)]
    pub group: Versioned<Option<u16>>,
}

/// A function, as controllers see it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ObservedFunction {
    /// Its number.
    pub function: u32,
    /// It was deleted; nothing else is said.
    #[serde(skip_serializing_if = "is_false")]
    pub gone: bool,
    /// Its quota of CPU, thousandths of a core; 0 for none.
    pub cpu_millis: u64,
    /// Its calls can wait for capacity: the quota is opportunistic.
    pub opportunistic: bool,
    /// Executions that began.
    pub begun: u64,
    /// Executions that ended, and their CPU time.
    pub ended: u64,
    /// ns.
    pub cpu_ns: u64,
    /// Bytes that a core spends on it while it is warm: its code, and the most that an execution used.
    pub memory_bytes: u64,
    /// Calls that wait.
    pub waiting: u64,
    /// The locality group that its manifest names; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub together: String,
    /// Services that it uses, and how many of its executions met their back-pressure.
    pub pressed: Vec<(u16, u64)>,
    /// The rate for its quota that the node holds.
    pub rate: Versioned<Option<u64>>,
    /// The limit for back-pressure that the node holds.
    pub limit: Versioned<Option<u64>>,
    /// The locality group that the node holds.
    pub group: Versioned<Option<u16>>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What controllers conclude. Only what is newer than what the node holds is told.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conclusions {
    /// Of the observation that it is concluded from; refused by a node of another.
    pub incarnation: u32,
    /// S: how much of their quota opportunistic functions may use, thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opportunistic: Option<Versioned<u32>>,
    /// How many cores there should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Versioned<Wanted>>,
    /// Locality groups of cores, by the core's number; none serves all groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<(u16, Versioned<Option<u16>>)>,
    /// Rates for quotas of CPU, by the function's number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<(u32, Versioned<Option<u64>>)>,
    /// Limits for back-pressure, by the function's number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<(u32, Versioned<Option<u64>>)>,
    /// Locality groups of functions, by the function's number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<(u32, Versioned<Option<u16>>)>,
    /// Functions of which a call is likely soon: cores make them warm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warm: Vec<u32>,
    /// Functions of which no call is likely soon: cores let go of what is warm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<u32>,
}

impl Conclusions {
    /// Whether nothing is new.
    pub fn is_empty(&self) -> bool {
        *self == Conclusions { incarnation: self.incarnation, ..Conclusions::default() }
    }
}

/// How many cores there should be, for whoever owns the machines: nothing here starts or stops one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// So many.
    pub cores: u32,
    /// Why, in one word: `in-band`, `high`, `most`, `low`, `least`; empty if no controller has said anything.
    pub reason: String,
    /// CPU that calls need which are promised to start within seconds, thousandths of a core.
    pub needed_millis: u64,
    /// That as a part of what so many cores have, in thousandths.
    pub load: u32,
}

/// The signal for autoscaling.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScalingState {
    /// Cores of this node that are up.
    pub cores: u32,
    /// Version of the conclusion; 0 if there is none yet.
    pub version: u64,
    /// The conclusion.
    pub wanted: Wanted,
}

/// Which functions run where.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LocalityState {
    /// Version of the optimizer's newest conclusion; 0 if there is none.
    pub version: u64,
    /// Whether cores are divided between groups. If not, every core runs every function, whatever groups are named.
    pub divided: bool,
    /// Each group that has functions or cores.
    pub groups: Vec<LocalityGroup>,
}

/// A locality group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LocalityGroup {
    /// Its number; 0 for those that are in none.
    pub group: u16,
    /// Where it comes from: `optimizer`, `function.toml` if only manifests name it, `none`.
    pub source: String,
    /// Groups that manifests name, whose functions are in this one.
    pub named: Vec<String>,
    /// Its functions, namespace/name.
    pub functions: Vec<String>,
    /// Cores that take their calls first, `host/cpu`.
    pub cores: Vec<String>,
}
