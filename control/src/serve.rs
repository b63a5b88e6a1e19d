//! A control node as a process: from options to a ring that serves, to an orderly end.

use crate::admin::{self, AdminOptions, CatalogFile};
use crate::artefacts::ArtefactStore;
use crate::datadir::{DataDir, write_durably};
use crate::node::{Node, NodeOptions, Phase};
use crate::start::StartError;
use call::Instant;
use call::limits::Limits;
use driver::{Arrivals, Driver, Endpoint};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// What an operator says about a node; everything else follows.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// The data directory; made if missing.
    pub data: PathBuf,
    /// Where the admin API listens. Port 0 takes any free one.
    pub admin: SocketAddr,
    /// Where the native protocol listens on TCP; none for Unix socket and shared memory only.
    pub tcp: Option<SocketAddr>,
    /// CPU to pin the ring thread to; none leaves it to the kernel.
    pub cpu: Option<usize>,
    /// How long to spin for work before sleeping.
    pub spin: Duration,
    /// How long a drain waits for leases to end.
    pub drain: Duration,
    /// Whether SIGTERM and SIGINT drain the node. Off where the process is not the node's own, as in tests.
    pub signals: bool,
    /// Bounds of everything.
    pub limits: Limits,
}

impl Default for ControlOptions {
    fn default() -> ControlOptions {
        ControlOptions {
            data: "./millrace-data".into(),
            admin: SocketAddr::from(([127, 0, 0, 1], 7411)),
            tcp: Some(SocketAddr::from(([127, 0, 0, 1], 7410))),
            cpu: None,
            spin: Duration::from_micros(50),
            drain: Duration::from_secs(30),
            signals: true,
            limits: Limits::default(),
        }
    }
}

/// `run/control.json`: how to reach the node that uses the directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Its process.
    pub pid: u32,
    /// Base of its admin API.
    pub admin: String,
    /// The native protocol over TCP: `tcp:127.0.0.1:7410`.
    pub tcp: Option<String>,
    /// The native protocol over a Unix socket.
    pub unix: String,
    /// The native protocol over shared memory.
    pub shm: String,
}

impl Endpoints {
    /// The file's name inside a data directory.
    pub const FILE: &'static str = "run/control.json";

    /// Of the node that uses this data directory.
    pub fn read(data: &Path) -> io::Result<Endpoints> {
        let bytes = std::fs::read(data.join(Endpoints::FILE))?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }
}
