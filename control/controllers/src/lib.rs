//! Off the path: controllers look at the platform now and then, and publish what they conclude.
//!
//! A controller publishes versioned snapshots; a consumer caches the newest and goes on with it when the controller
//! is slow or gone, so that no call ever waits for one. Pure deciders: no clock, no I/O, no allocation after `new`.
//!
//! In the order in which one's conclusion is another's input:
//!
//! | controller | concludes | from |
//! |---|---|---|
//! | [`level`] | how busy workers may be so that work lasts until the next peak | arrivals of the last day, what waits |
//! | [`utilization`] | S: how much opportunistic work a pool can take | how busy its cores are |
//! | [`aimd`] | a limit of calls/s per function | back-pressure of downstream services, their owners' thresholds |
//! | [`rate`] | calls/s per function and scheduler | quota in CPU, learned CPU of a call, the limit of `aimd` |
//! | [`locality`] | groups of functions and of workers | memory and CPU of functions |
//! | [`gtc`] | the matrix T_ij per group | demand and supply per region and group |
//! | [`autoscale`] | how many workers a pool should have | work that may not wait |
//! | [`prewarm`] | when a function should be warm | its own idle times |
//! | [`push`] | which worker gets which version, profiles, gets the profile | an order, and workers' answers |
//! | [`shares`] | which part of a limit each shard of a node has | what shards use and want of it |
//!
//! [`conductor`] owns all but the last two and feeds them with the reports of schedulers and regions.
//!
//! A controller that starts again has forgotten everything. Consumers tell it what they hold (`Input::Held`), and it
//! goes on from there under versions above all of theirs.

pub mod words;
pub mod snapshot;
pub mod level;
pub mod utilization;
pub mod rate;
pub mod aimd;
pub mod locality;
pub mod gtc;
pub mod autoscale;
pub mod prewarm;
pub mod push;
pub mod shares;
pub mod conductor;

pub use level::Level;
pub use snapshot::{Board, Cache, Publisher, Snapshot};
pub use utilization::{Settings, Utilization};
pub use words::{
    DownstreamRef, Effects, FunctionRef, GroupRef, MilliCalls, Millicores, Permille, RegionRef, SchedulerRef,
    WorkerRef,
};
