//! A fleet of regions under the published load, with the production deciders: the scheduler and the controllers are
//! the crates that the platform runs.
//!
//! What is simulated is what surrounds them: clients ([`workload`], [`curve`]), durable queues ([`region`]), workers
//! with CPU and memory ([`pool`]), services that slow and fail ([`services`]), and time. A scenario is TOML
//! ([`scenario`]); the same scenario and seed give the same trace hash on every machine and any number of threads.
//!
//! **One simulated call stands for many real ones** ([`workload::Function::gathered`]): those of one function that
//! arrive in one region within `workload.gather_s`, at most `workload.batch_worker_s` of CPU. The deciders see it as
//! one call. Counts, delays and CPU in results are of real calls.

pub mod arithmetic;
pub mod scenario;
pub mod curve;
pub mod workload;
pub mod replay;
pub mod plan;
pub mod wheel;
pub mod pool;
pub mod code;
pub mod record;
pub mod plain;
pub mod region;
pub mod services;
pub mod shaping;
pub mod conductor;
pub mod placement;
pub mod fleet;
pub mod figures;
pub mod study;
pub mod picture;

pub use fleet::{Run, run};
pub use plan::Plan;
pub use replay::Traced;
pub use scenario::{Error, Scenario};
pub use study::{Study, study, study_of};
