//! Off the path: controllers look at the platform now and then, and publish what they conclude.
//!
//! A controller publishes versioned snapshots; a consumer caches the newest and goes on with it when the controller
//! is slow or gone, so that no call ever waits for one. Pure deciders: no clock, no I/O, no allocation after `new`.
//!
//! A controller that starts again has forgotten everything. Consumers tell it what they hold (`Input::Held`), and it
//! goes on from there under versions above all of theirs.

pub mod words;
pub mod snapshot;
pub mod utilization;
pub mod rate;
pub mod aimd;
pub mod locality;
pub mod gtc;
pub mod autoscale;
pub mod prewarm;
pub mod push;

pub use snapshot::{Board, Cache, Publisher, Snapshot};
pub use utilization::{Settings, Utilization};
pub use words::{
    DownstreamRef, Effects, FunctionRef, GroupRef, MilliCalls, Millicores, Permille, RegionRef, SchedulerRef,
    WorkerRef,
};
