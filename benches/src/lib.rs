//! Benchmarks: each figure is printed beside its bar, its aim, and the floor or the rival of the same run.
//!
//! `report` holds the figures and writes `target/bench/report.json`; `floors` measures what the machine itself can
//! do (disk sync, loopback, shared memory); `rivals` runs other systems at their best setting.

pub mod report;
pub mod floors;
pub mod leases;
pub mod rivals;

pub use report::{Figure, Report};
