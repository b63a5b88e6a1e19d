//! Words of the operator's protocol: JSON bodies of [`crate::Kind::Hello`], [`crate::Kind::Ask`] and
//! [`crate::Kind::Answer`]. The HTTP API maps its routes to these and adds nothing.

pub mod regions;
pub mod shaping;
pub mod shards;
pub mod steering;
pub mod walk;

pub use regions::{LinkState, REGIONS_MAX, RegionState, TrafficMatrix};
pub use shaping::{
    DownstreamSpec, DownstreamState, Limited, QuotaChange, QuotaState, Shaping, TenantSpec, Why,
};
pub use shards::{ShardLink, ShardState};
pub use steering::{
    Conclusions, LocalityGroup, LocalityState, Observation, ObservedCore, ObservedFunction, ScalingState,
    Versioned, Wanted,
};
pub use walk::{CallPage, Collected, Hold, Ordered, Verb};

use crate::blob::Reference;
use crate::function::FunctionSpec;
use crate::history::{Attempt, History};
use crate::outcome::{Status, Usage};
use crate::shards::{ShardId, ShardMap};
use crate::shares::{ShareTable, SharesState};
use serde::{Deserialize, Serialize};

/// The thing among a core's backends that says how it takes [`crate::Kind::Foresee`]; a core without it is not told.
pub const FORESIGHT: &str = "foresight";

/// Who speaks, in the first frame of a connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum Hello {
    /// The node answers every hello with its own.
    Node {
        /// Software version.
        version: String,
        /// Incarnation of its durable queue.
        incarnation: u32,
        /// Base of its admin API, where hosts fetch artefacts: `http://127.0.0.1:7411`.
        admin: String,
    },
    /// The node's own admin side: the only one that may ask.
    Admin {
        /// Made at the start of the node; known inside its process only.
        secret: String,
    },
    /// Submits calls.
    Client {
        /// For logs: a program's name.
        name: String,
    },
    /// The thread of the node that reads blobs.
    Store {
        /// As of [`Hello::Admin`].
        secret: String,
    },
    /// One worker core.
    Core {
        /// Which host; cores of one host share a disk cache of artefacts.
        host: String,
        /// CPU it is pinned to.
        cpu: u32,
        /// Its process.
        pid: u32,
        /// Slots: calls it serves at once.
        slots: u32,
        /// Which backend it uses for each thing, for `millrace workers`.
        backends: Vec<(String, String)>,
    },
    /// The node of another region, which pulls calls of this one: it is leased calls as a core is, as far as it grants
    /// credits, runs them on its own cores, and answers.
    Region {
        /// What it calls itself.
        region: String,
        /// Calls that it takes at once.
        slots: u32,
    },
    /// Another shard of the same node, which passes submits on and asks about calls.
    Shard {
        /// Its number.
        shard: ShardId,
        /// Known to the shards only.
        secret: String,
    },
    /// The supervisor of a host's cores: fetches and compiles artefacts, and says when they are ready.
    Host {
        /// Which host.
        host: String,
        /// Its process.
        pid: u32,
    },
}

/// An operator's question or order.
#[expect(clippy::large_enum_variant, reason = "one at a time, and never many in a list")]
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// Is the node there, and how is it?
    Status,
    /// Deploy a function; its artefact is in the node's store and the catalog on disk already.
    Deploy {
        /// The function, with its artefact's hash.
        spec: FunctionSpec,
    },
    /// All functions.
    Functions,
    /// One function.
    Function {
        /// Namespace and name, or a name in `default`.
        function: String,
    },
    /// Delete a function; refused while calls of it are pending, unless forced.
    FunctionDelete {
        /// Namespace and name.
        function: String,
        /// Send pending calls to the dead letters.
        force: bool,
    },
    /// What is known of a call.
    Call {
        /// Its id.
        call: String,
        /// Answer only when it has ended, or after this long (ms); 0 for at once.
        wait_ms: u64,
    },
    /// The result of a call that has ended.
    Result {
        /// Its id.
        call: String,
    },
    /// Whoever asked this before, by its stamp, has gone and waits no more. Not answered.
    Forget {
        /// The stamp of that ask.
        asked: u64,
    },
    /// A blob is on disk: calls may name it from now on.
    BlobStored {
        /// Its SHA-256.
        blob: String,
        /// Its length.
        bytes: u64,
    },
    /// Find blobs that no call names, and forget them: their files are to go.
    BlobsCollect {
        /// Forget none.
        dry_run: bool,
    },
    /// Per-function queue depths.
    Queues,
    /// The first pending calls of a function, in order of start time.
    Peek {
        /// Namespace and name.
        function: String,
        /// How many at most.
        limit: u32,
    },
    /// Dead letters.
    DeadLetters {
        /// Only of this function.
        function: Option<String>,
        /// How many at most.
        limit: u32,
    },
    /// Make one dead letter pending again; of many it is an [`Ask::Order`].
    Redrive {
        /// Its id.
        call: String,
    },
    /// Cancel a call: one that waits ends at once, one that runs is stopped by its core. Answered with the call, when it
    /// has ended or after this long.
    Cancel {
        /// Its id.
        call: String,
        /// Wait for its end for so long, ms; 0 for at once.
        wait_ms: u64,
    },
    /// Run a call again at once: a dead letter, or one that waits to be tried again.
    Retry {
        /// Its id.
        call: String,
    },
    /// Forget one dead letter for good; many by an [`Ask::Order`].
    Purge {
        /// Its id.
        call: String,
    },
    /// Hold the calls of a function, or of all functions of a tenant, or let them run again; it is on disk already. Calls
    /// are accepted meanwhile, and those that run go on.
    Pause {
        /// What.
        whose: Whose,
        /// Whether it is held.
        paused: bool,
    },
    /// Take no new calls of a function, or take them again; it is on disk already. Those that are held go on.
    Close {
        /// Namespace and name.
        function: String,
        /// Whether it takes none.
        closed: bool,
    },
    /// All worker cores.
    Workers,
    /// This node as a region: what waits, what is free, whom it pulls from.
    Region,
    /// Pull by this matrix from now on; refused if one of a higher version is in force.
    Matrix {
        /// Of all regions.
        matrix: TrafficMatrix,
    },
    /// Run nothing on this region's own cores any more, or again: other regions may pull what waits.
    RegionDrain {
        /// Whether it drains.
        drained: bool,
    },
    /// This node as a shard: the map in force, and how it stands with the others.
    Shards,
    /// Pass calls on by this map from now on; it is on disk where all shards read it. Refused if it breaks the law of
    /// [`ShardMap::breach`].
    ShardMap {
        /// Of all shards.
        map: ShardMap,
    },
    /// This shard's parts of limits that hold over all shards, and how it stands with them.
    Shares,
    /// Keep to these parts from now on; they are on disk. Refused if newer ones are in force.
    SharesTold {
        /// All of them.
        table: ShareTable,
    },
    /// Why is this call where it is?
    Explain {
        /// Its id.
        call: String,
    },
    /// Quotas and what is made of them.
    Quotas {
        /// Only of this function.
        function: Option<String>,
    },
    /// What an operator says about a function's quota, in all; it is on disk already.
    QuotaSet {
        /// Namespace and name.
        function: String,
        /// Nothing for the manifest's alone.
        change: QuotaChange,
    },
    /// What an operator says about a tenant; it is on disk already.
    TenantSet {
        /// Which.
        tenant: String,
        /// What.
        spec: TenantSpec,
    },
    /// Services behind functions.
    Downstreams,
    /// What the owner of a service says about it; it is on disk already.
    DownstreamSet {
        /// Which.
        downstream: String,
        /// What.
        spec: DownstreamSpec,
    },
    /// Which functions run where.
    Locality,
    /// How many cores there should be.
    Scaling,
    /// What controllers look at.
    Observe {
        /// Functions that changed after this instant (`Observation::at_ns` of an earlier answer); 0 for all.
        after_ns: u64,
    },
    /// What controllers conclude.
    Conclude {
        /// What is new.
        conclusions: Conclusions,
    },
    /// The calls that a filter means, in order of start time.
    Find {
        /// Which; see [`crate::filter`].
        filter: String,
        /// How many at most.
        limit: u32,
        /// Only those behind this place: the `next` of an earlier page.
        after: Option<String>,
    },
    /// Do something to all calls that a filter means and that it can be done to.
    Order {
        /// What.
        verb: Verb,
        /// To which; all if there is none.
        filter: Option<String>,
        /// Only count them.
        dry_run: bool,
        /// Where to begin: 0, or the `next` of an earlier answer.
        from: u64,
        /// How many calls to look at, at most.
        examine: u64,
    },
    /// Let the segments of the log be for so long: they are copied.
    Hold {
        /// How long from now, a minute at most.
        ms: u64,
    },
    /// Take no new calls, finish leases, then answer.
    Drain,
}

/// Whose calls an operator speaks of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// A function's: namespace and name.
    Function(String),
    /// A tenant's: those of all its functions.
    Tenant(String),
}

/// The answer to an [`Ask`].
#[expect(clippy::large_enum_variant, reason = "one at a time, and never many in a list")]
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer", content = "value")]
pub enum Answer {
    /// Refused or failed.
    Error {
        /// One word for programs: `not-found`, `conflict`, `bad-request`, `full`, `draining`, `internal`.
        code: String,
        /// What, where, and what to do.
        message: String,
    },
    /// Done; nothing more to say.
    Done {
        /// How many things it touched.
        count: u64,
    },
    /// To [`Ask::Status`].
    Status(NodeStatus),
    /// To [`Ask::Deploy`] and [`Ask::Function`].
    Function(FunctionState),
    /// To [`Ask::Functions`].
    Functions(Vec<FunctionState>),
    /// To [`Ask::Call`], [`Ask::Cancel`] and [`Ask::Retry`].
    Call(CallState),
    /// To [`Ask::Result`].
    Result(CallResult),
    /// To [`Ask::Queues`].
    Queues(Vec<QueueState>),
    /// To [`Ask::Peek`] and [`Ask::DeadLetters`].
    Calls(Vec<CallState>),
    /// To [`Ask::Workers`].
    Workers(Vec<CoreState>),
    /// To [`Ask::Region`], [`Ask::Matrix`] and [`Ask::RegionDrain`].
    Region(RegionState),
    /// To [`Ask::Shards`] and [`Ask::ShardMap`].
    Shards(ShardState),
    /// To [`Ask::Shares`] and [`Ask::SharesTold`].
    Shares(SharesState),
    /// To [`Ask::Explain`].
    Why(Why),
    /// To [`Ask::Quotas`] and [`Ask::QuotaSet`].
    Quotas(Vec<QuotaState>),
    /// To [`Ask::Downstreams`].
    Downstreams(Vec<DownstreamState>),
    /// To [`Ask::Locality`].
    Locality(LocalityState),
    /// To [`Ask::Scaling`].
    Scaling(ScalingState),
    /// To [`Ask::Find`].
    Found(CallPage),
    /// To [`Ask::Order`].
    Ordered(Ordered),
    /// To [`Ask::BlobsCollect`].
    Collected(Collected),
    /// To [`Ask::Hold`].
    Held(Hold),
    /// To [`Ask::Observe`].
    Observation(Observation),
}

/// The node as a whole. Counters count since its start.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number among shards; absent if it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    /// Software version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Incarnation of its durable queue.
    pub incarnation: u32,
    /// Which backend is in force for each thing.
    pub backends: Vec<(String, String)>,
    /// Calls accepted, on disk.
    pub accepted: u64,
    /// Submits refused, of whatever reason.
    pub refused: u64,
    /// Submits recognised as already held.
    pub duplicates: u64,
    /// Leases given.
    pub leased: u64,
    /// Calls that ended with [`Status::Ok`].
    pub completed: u64,
    /// Executions that failed and were scheduled again.
    pub retried: u64,
    /// Calls that went to the dead letters.
    pub dead: u64,
    /// Leases that ended because the worker was lost or silent.
    pub leases_lost: u64,
    /// Outcomes of an old epoch, ignored.
    pub fenced: u64,
    /// Calls waiting or leased now.
    pub pending: u64,
    /// Calls leased now.
    pub leased_now: u64,
    /// Dead letters now.
    pub dead_letters: u64,
    /// Calls found in the log at the start.
    pub recovered: u64,
    /// Log groups written, and bytes.
    pub groups: u64,
    /// Bytes of log groups.
    pub log_bytes: u64,
    /// Log segments on disk now.
    pub segments: u64,
    /// Checkpoints written since the start.
    #[serde(default)]
    pub checkpoints: u64,
    /// Bytes of the segments that a start would read now: from the last checkpoint on.
    #[serde(default)]
    pub start_bytes: u64,
    /// Blobs in the store.
    #[serde(default)]
    pub blobs: u64,
    /// Their bytes.
    #[serde(default)]
    pub blob_bytes: u64,
    /// Cold starts reported by workers.
    pub cold_starts: u64,
    /// Times that a function was made warm before a call that its history foresaw.
    #[serde(default)]
    pub foreseen: u64,
    /// Connections closed because the client did not read what was sent to it.
    #[serde(default)]
    pub slow_clients: u64,
    /// From when a call could have started to its lease.
    #[serde(default)]
    pub queueing: Quantiles,
    /// Execution on the core.
    #[serde(default)]
    pub execution: Quantiles,
    /// From when a call could have started to its good end.
    #[serde(default)]
    pub end_to_end: Quantiles,
    /// Mean share of the cores' time that was spent in functions in the last period of ten seconds, in thousandths.
    #[serde(default)]
    pub utilization: u32,
    /// S of the utilization controller: how much of their opportunistic quota functions may use, in thousandths.
    #[serde(default)]
    pub opportunistic: u32,
    /// Whether it is draining.
    pub draining: bool,
}

/// A distribution of times since the node's start; all zero if there were none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many times were recorded.
    pub count: u64,
    /// Median, ns.
    pub p50_ns: u64,
    /// 99 of 100 were at most this, ns.
    pub p99_ns: u64,
    /// 999 of 1000 were at most this, ns.
    pub p999_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
}

/// A function and where it stands.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FunctionState {
    /// As deployed.
    pub spec: FunctionSpec,
    /// `ready`, `compiling` (no host has it compiled yet) or `failed`.
    pub state: String,
    /// Why it failed, empty otherwise.
    pub reason: String,
    /// Hosts that have it compiled.
    pub hosts: u32,
    /// Calls pending.
    pub pending: u64,
    /// Calls that ended well since the node's start.
    pub completed: u64,
    /// Executions that failed since the node's start.
    pub failed: u64,
}

/// What is known of a call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CallState {
    /// Its id.
    pub call: String,
    /// Namespace/name, or the hexadecimal id of a function that is gone.
    pub function: String,
    /// `scheduled` (start time ahead), `queued`, `buffered`, `running`, `retrying`, `done`, `dead`.
    pub state: String,
    /// How it ended, if it did.
    pub status: Option<Status>,
    /// Start time, Unix ns.
    pub start_at: u64,
    /// Deadline, Unix ns.
    pub deadline: u64,
    /// Criticality in force.
    pub criticality: u8,
    /// Deliveries so far.
    pub attempts: u16,
    /// Why the last execution failed, or why it is dead.
    pub reason: String,
    /// What the last execution took.
    pub usage: Option<Usage>,
    /// Output bytes, if kept, as text; bytes that are not UTF-8 are replaced.
    pub output: Option<String>,
    /// The blob that has the output, if that is too large to stand here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<StoredResult>,
    /// Stderr, if kept.
    pub stderr: Option<String>,
    /// Its attempts, if one failed and it has not ended for good; in lists it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<CallHistory>,
    /// The shard that holds it; absent if the node is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
}

/// A result that is a blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredResult {
    /// Its SHA-256.
    pub blob: String,
    /// Its length.
    pub bytes: u64,
}

impl StoredResult {
    /// As a frame names it.
    pub fn of(blob: Reference) -> StoredResult {
        StoredResult { blob: blob.id.to_string(), bytes: blob.bytes }
    }

    /// Back from [`StoredResult::of`]; nothing if the name is none.
    pub fn reference(&self) -> Option<Reference> {
        Some(Reference { id: self.blob.parse().ok()?, bytes: self.bytes })
    }
}

/// The result of a call, byte for byte.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CallResult {
    /// How the call ended.
    pub status: Status,
    /// The blob that has it.
    pub stored: Option<StoredResult>,
    /// If none has: base64.
    pub output: String,
}

/// The attempts of a call, as far as they are kept: see [`crate::history`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CallHistory {
    /// Attempts before those that are listed, at least.
    pub earlier: u32,
    /// Whether fewer are listed than could be, since there was no memory for them.
    pub partial: bool,
    /// The last attempts, the oldest first.
    pub attempts: Vec<CallAttempt>,
}

/// An attempt to run a call that did not end well.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CallAttempt {
    /// Which delivery it was, from 1; from 1 again after a redrive.
    pub number: u16,
    /// When it was leased, Unix ns.
    pub began: u64,
    /// When the node heard of its end, Unix ns.
    pub ended: u64,
    /// How long it ran, ns, as its core says; 0 if it said nothing.
    pub ran_ns: u64,
    /// Host and CPU of the core that had it, or the region; empty if that is not known.
    pub worker: String,
    /// How it ended.
    pub status: Status,
    /// What it said: its stderr, or the text of a trap; of a long one the beginning and the end.
    pub error: String,
    /// Whether the call was redriven since.
    pub redriven: bool,
}

impl CallHistory {
    /// What a history says.
    pub fn of(history: History<'_>) -> CallHistory {
        let attempt = |of: Attempt<'_>| CallAttempt {
            number: of.number,
            began: of.began.0,
            ended: of.ended.0,
            ran_ns: of.ran_ns,
            worker: of.worker.to_owned(),
            status: of.status,
            error: of.error(),
            redriven: of.redriven,
        };
        CallHistory {
            earlier: history.earlier(),
            partial: history.is_partial(),
            attempts: history.attempts().map(attempt).collect(),
        }
    }
}

/// Depth of one function's queue.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QueueState {
    /// Namespace/name.
    pub function: String,
    /// Start time ahead.
    pub scheduled: u64,
    /// Due, not leased.
    pub due: u64,
    /// Leased.
    pub leased: u64,
    /// In the dead letters.
    pub dead: u64,
    /// How long the oldest due call is overdue, ms.
    pub oldest_due_ms: u64,
    /// Bytes of its calls, dead letters excluded.
    #[serde(default)]
    pub bytes: u64,
    /// Whose pause holds its calls: `function`, `tenant`; empty if they run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub paused: String,
    /// Whether it takes no new calls, since somebody drains it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// The shard that speaks of its part; absent if the node is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
}

/// A backend whose text begins so is not in force yet; what is will be told within seconds.
pub const SOON: &str = "soon: ";

/// A worker core as the node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CoreState {
    /// Host.
    pub host: String,
    /// CPU.
    pub cpu: u32,
    /// Process.
    pub pid: u32,
    /// `live`, `silent` (no heartbeat for two periods), `draining`.
    pub state: String,
    /// Slots it has.
    pub slots: u32,
    /// Calls leased to it now.
    pub leased: u64,
    /// Credits left.
    pub credits: u64,
    /// Calls it finished since it connected.
    pub finished: u64,
    /// ms since it was last heard of.
    pub silent_ms: u64,
    /// Backends in force on it.
    pub backends: Vec<(String, String)>,
    /// It stands for another region, which pulls.
    #[serde(default)]
    pub far: bool,
}
