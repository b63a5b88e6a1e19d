//! The control node: submitter, durable queue, scheduler and worker load balancer on one ring; admin API beside it.

pub mod stats;
pub mod start;
pub mod datadir;
pub mod artefacts;
pub mod admin;

pub use start::StartError;
