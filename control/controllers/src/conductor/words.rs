//! What goes into the conductor and what comes out of it.

use crate::words::{
    DownstreamRef, FunctionRef, GroupRef, MilliCalls, Millicores, Permille, RegionRef, SchedulerRef,
    WorkerRef,
};
use crate::{Snapshot, aimd, autoscale, gtc, locality, prewarm, rate, utilization};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an operator may choose: the settings of all controllers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The central rate limiter's.
    pub rate: rate::Settings,
    /// Those of back-pressure.
    pub aimd: aimd::Settings,
    /// The locality optimizer's.
    pub locality: locality::Settings,
    /// The Global Traffic Conductor's.
    pub gtc: gtc::Settings,
    /// The utilization controllers', one of each region.
    pub utilization: utilization::Settings,
    /// How often S is decided. Short against the minutes in which load changes, long against one call.
    pub utilization_period: Duration,
    /// Those of autoscaling, of each region.
    pub autoscale: autoscale::Settings,
    /// Those of pre-warming.
    pub prewarm: prewarm::Settings,
    /// In which time a backlog should be gone: what waits counts as demand of a part of it a second.
    pub drain: Duration,
    /// How long it hears reports before it first decides: each scheduler reports once a second.
    pub listen: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            rate: rate::Settings::default(),
            aimd: aimd::Settings::default(),
            locality: locality::Settings::default(),
            gtc: gtc::Settings::default(),
            utilization: utilization::Settings::default(),
            utilization_period: Duration::from_secs(10),
            autoscale: autoscale::Settings::default(),
            prewarm: prewarm::Settings::default(),
            drain: Duration::from_secs(60),
            listen: Duration::from_secs(3),
        }
    }
}

/// How many of each there can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Functions.
    pub functions_max: usize,
    /// Schedulers of all regions.
    pub schedulers_max: usize,
    /// Regions.
    pub regions_max: usize,
    /// Locality groups.
    pub groups_max: usize,
    /// Workers of all regions.
    pub workers_max: usize,
    /// Downstream services.
    pub downstreams_max: usize,
}

/// What a scheduler has seen of a function since it said so last. As JSON: an object of these fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Calls {
    /// Calls that became due in the queues of its region.
    pub arrived: u64,
    /// Calls that began on its workers.
    pub began: u64,
    /// Calls that ended there.
    pub ended: u64,
    /// CPU time of these.
    pub cpu_ns: u64,
    /// Calls that are due in its region's queues and have not begun: now, not since.
    pub waiting: u64,
    /// Calls that run on its workers now.
    pub running: u64,
}

/// What consumers hold, for a controller that starts again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held<'a> {
    /// A scheduler's share of a function's rate.
    Limit(FunctionRef, SchedulerRef, Snapshot<Option<MilliCalls>>),
    /// What back-pressure allows a function. After [`Input::Uses`].
    Throttle(FunctionRef, Snapshot<Option<MilliCalls>>),
    /// CPU time of a call of a function.
    Mean(FunctionRef, Duration),
    /// A function's group.
    Group(FunctionRef, Snapshot<Option<GroupRef>>),
    /// A worker's group. After [`Input::Worker`].
    WorkerGroup(WorkerRef, Snapshot<Option<GroupRef>>),
    /// When a function is warm.
    Plan(FunctionRef, Snapshot<prewarm::Plan>),
    /// The matrix.
    Matrix(&'a Snapshot<gtc::Matrix>),
    /// S of a region.
    Opportunistic(RegionRef, Snapshot<Permille>),
    /// How many workers a region should have.
    Workers(RegionRef, Snapshot<u32>),
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input<'a> {
    /// A function is there, or is another now.
    Function {
        /// Which.
        function: FunctionRef,
        /// CPU it may use; none for as much as it likes.
        quota: Option<Millicores>,
        /// Bytes that a worker spends on it while it is warm.
        memory: u64,
        /// Its calls are promised to start within seconds: more workers are asked for if they would not.
        reserved: bool,
    },
    /// Its owner says that it belongs to the locality group of another one; see [`locality::Input::Together`].
    Together {
        /// Which function.
        function: FunctionRef,
        /// Whom it follows.
        with: Option<FunctionRef>,
    },
    /// It calls this service.
    Uses {
        /// Which function.
        function: FunctionRef,
        /// Which service.
        downstream: DownstreamRef,
    },
    /// It calls other services now, or none: what is known of its back-pressure is forgotten.
    Unused {
        /// Which function.
        function: FunctionRef,
    },
    /// A function was deleted.
    Forget {
        /// Which.
        function: FunctionRef,
    },
    /// The owner's word on a service.
    Downstream {
        /// Which.
        downstream: DownstreamRef,
        /// Exceptions of back-pressure that it can stand in a minute.
        threshold_per_minute: u64,
    },
    /// A scheduler is there.
    Scheduler {
        /// Which.
        scheduler: SchedulerRef,
        /// Whose queues it polls first.
        region: RegionRef,
    },
    /// A scheduler is gone.
    SchedulerGone {
        /// Which.
        scheduler: SchedulerRef,
    },
    /// A worker is there.
    Worker {
        /// Which.
        worker: WorkerRef,
        /// Where.
        region: RegionRef,
    },
    /// A worker is gone.
    WorkerGone {
        /// Which.
        worker: WorkerRef,
    },
    /// How a region is.
    Region {
        /// Which.
        region: RegionRef,
        /// Its state.
        state: gtc::RegionState,
    },
    /// How far two regions are from each other.
    Distance {
        /// One.
        a: RegionRef,
        /// The other.
        b: RegionRef,
        /// The round trip, in microseconds.
        distance: u32,
    },
    /// A report of a function.
    Calls {
        /// Which function.
        function: FunctionRef,
        /// Who says so.
        scheduler: SchedulerRef,
        /// What it has seen.
        calls: Calls,
    },
    /// A service pushed a function back, so often since this was said last.
    PushedBack {
        /// Which function.
        function: FunctionRef,
        /// Which service.
        downstream: DownstreamRef,
        /// How often.
        count: u64,
    },
    /// A report of a region.
    Load {
        /// Which.
        region: RegionRef,
        /// CPU of its workers that serve.
        capacity: Millicores,
        /// How many they are.
        workers: u32,
        /// The part of it that was used since this was said last.
        busy: Permille,
    },
    /// What a consumer holds.
    Held(Held<'a>),
    /// Decide what is due, and publish as far as there is room.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// How often a scheduler may begin calls of a function, for quota and back-pressure together.
    Limit {
        /// Which function.
        function: FunctionRef,
        /// Which scheduler.
        scheduler: SchedulerRef,
        /// Its share.
        limit: Snapshot<Option<MilliCalls>>,
    },
    /// What back-pressure alone allows a function: to be shown, and kept for the next controller.
    Throttle {
        /// Which function.
        function: FunctionRef,
        /// Over all schedulers.
        limit: Snapshot<Option<MilliCalls>>,
    },
    /// A function's or a worker's group.
    Locality(locality::Effect),
    /// When a function should be warm.
    Prewarm(prewarm::Effect),
    /// There is a newer matrix: [`super::Conductor::matrix`].
    Matrix {
        /// Its version.
        version: u64,
    },
    /// S of a region: its opportunistic quotas times this.
    Opportunistic {
        /// Which region.
        region: RegionRef,
        /// S.
        s: Snapshot<Permille>,
    },
    /// How many workers a region should have.
    Workers {
        /// Which region.
        region: RegionRef,
        /// So many.
        workers: Snapshot<u32>,
    },
}
