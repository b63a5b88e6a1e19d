//! The worker: one pinned process per core, and a small supervisor around them.
//!
//! The modules stand in the order in which a call passes them; [`config`] and [`plan`] come before the first call,
//! [`process`], [`supervisor`] and [`host`] are what surrounds the loop.

pub mod config;
pub mod plan;
pub mod core;
mod ingress;
mod admit;
mod dispatch;
mod fair;
mod heap;
mod execute;
mod fetch;
mod upload;
mod egress;
mod functions;
mod slots;
mod parking;
pub mod stats;
pub mod process;
pub mod supervisor;
pub mod bundle;
pub mod cache;
pub mod host;

pub use config::Config;
pub use core::Core;
pub use plan::{CorePlan, Plan, PlanError};
pub use stats::Stats;
