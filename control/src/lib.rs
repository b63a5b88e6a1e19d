//! The control node: submitter, durable queue, scheduler and worker load balancer on one ring; admin API beside it.
//!
//! The modules stand in the order in which a call passes them; [`serve`], [`start`], [`datadir`] and [`recovery`] are
//! what comes before the first call, [`admin`] is the operator's side, on a thread of its own.

pub mod serve;
pub mod start;
pub mod datadir;
pub mod artefacts;
pub mod blobs;
pub mod recovery;
pub mod salvage;
pub mod node;
mod session;
mod greeting;
mod submitter;
pub mod shards;
mod queue;
mod schedule;
mod burial;
mod shaping;
mod locality;
mod foresight;
mod worker_lb;
mod leases;
mod outcomes;
mod drain;
pub mod regions;
mod catalog;
mod answers;
mod orders;
mod inquiry;
mod observation;
mod walk;
mod holding;
pub mod stats;
mod utilization;
pub mod steering;
pub mod accounts;
pub mod logs;
pub mod admin;

pub use durableq::Recover;
pub use node::{Node, NodeOptions, Phase};
pub use recovery::{Booting, LogError, Stage};
pub use serve::{ControlOptions, Endpoints, serve};
pub use start::StartError;
