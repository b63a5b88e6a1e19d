//! What was typed. Only `main` and [`crate::plan`] see it.

use std::path::PathBuf;

/// What an operator may say about the worker of a host. Text is as typed; [`crate::Plan::of`] checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The node: `tcp:ADDRESS:PORT`, `unix:PATH` or `shm:PATH`.
    pub node: String,
    /// Where the host session connects, if not to `node`: it speaks TCP or Unix, never shared memory.
    pub host_node: Option<String>,
    /// This host's directory for compiled artefacts (`cache/`) and what else it keeps.
    pub data_dir: PathBuf,
    /// The node's artefact store, if it is on this host; otherwise artefacts are fetched over HTTP.
    pub artefacts: Option<PathBuf>,
    /// CPUs to run cores on, as in `0,2-5`; all that the process may use if not given.
    pub cpus: Option<String>,
    /// Calls that one core serves at once.
    pub slots: u32,
    /// The name of this host; the kernel's host name if not given.
    pub host: Option<String>,
    /// Where the host's jailer listens; without one no process function runs here.
    pub jailer: Option<PathBuf>,
    /// Directories of this host, absolute, that wasm functions may be granted; with all below them.
    pub files_allowed: Vec<PathBuf>,
    /// Bytes of artefacts that are not published any more and are kept in the cache of this host.
    pub unused_bytes: u64,
    /// How long a drain may take, seconds. Calls that still run then are left to be leased elsewhere.
    pub drain_s: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: "shm:millrace-data/run/core.shm".into(),
            host_node: Some("unix:millrace-data/run/submit.sock".into()),
            data_dir: "millrace-data".into(),
            artefacts: None,
            cpus: None,
            slots: 512,
            host: None,
            jailer: None,
            files_allowed: Vec::new(),
            unused_bytes: 1 << 30,
            drain_s: 10,
        }
    }
}
