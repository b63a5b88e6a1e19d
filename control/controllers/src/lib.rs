//! Off the path: controllers look at the platform now and then, and publish what they conclude.
//!
//! A controller publishes versioned snapshots; a consumer caches the newest and goes on with it when the controller
//! is slow or gone, so that no call ever waits for one. Pure deciders: no clock, no I/O, no allocation after `new`.
//!
//! Here so far: the [`utilization`] controller. The rate limiter, the locality optimizer and the Global Traffic
//! Conductor publish the same way when there is more than one region and a quota to share.

pub mod snapshot;
pub mod utilization;

pub use snapshot::{Cache, Publisher, Snapshot};
pub use utilization::{Permille, Settings, Utilization};
