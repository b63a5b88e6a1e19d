//! Benchmarks: each figure is printed beside its bar, its aim, and the floor or the rival of the same run.
//!
//! `report` holds the figures and writes `target/bench/report.json`; `floors` measures what the machine itself can
//! do (disk sync, loopback, shared memory); `rivals` runs other systems at their best setting; `leases` plays the
//! node for a worker core alone; `generator` keeps a load generator honest; `cycle` is the client of the durable cycle, `platform` the processes it runs on, and
//! `durable` what is measured there, `versus` beside which rivals; `sandboxed` starts jailers and cores with process functions, and
//! `process` is what is measured of those; `conductor` times the Global Traffic Conductor,
//! `fleet` runs the simulated fleet. `README.md` says how to read the figures.

pub mod report;
pub mod floors;
pub mod generator;
pub mod killed;
pub mod leases;
pub mod rivals;
pub mod cycle;
pub mod platform;
pub mod durable;
pub mod versus;
pub mod core_process;
pub mod sandboxed;
pub mod process;
pub mod conductor;
pub mod fleet;

pub use report::{Figure, Report};

use std::path::{Path, PathBuf};

/// `target/bench`, made if it is missing: on the disk that everything is measured on, since `/tmp` may be memory.
///
/// # Errors
/// If it cannot be made.
pub fn scratch() -> std::io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("benches/ is in the project")
        .join("target/bench");
    std::fs::create_dir_all(&folder)?;
    folder.canonicalize()
}
