//! What an operator may say about sandboxes.

use std::path::PathBuf;

/// How the jailer of a host runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Where cores connect. Its directory must be there.
    pub socket: PathBuf,
    /// The worker's data directory: names the platform's cgroups; roots are made below its `run/`.
    pub data_dir: PathBuf,
    /// Paths of the host that functions with base `host` see, read-only, with all that is mounted below.
    pub expose: Vec<PathBuf>,
    /// Devices that functions may ask for.
    pub devices: Vec<PathBuf>,
    /// The first user and group id of the range for sandboxes: each takes two.
    pub ids_first: u32,
    /// Sandboxes at once.
    pub sandboxes_max: u32,
    /// Blanks of each kind that are kept ready.
    pub blanks: u32,
    /// Whether functions run also where nothing enforces their limits.
    pub without_limits: bool,
}

impl Settings {
    /// Where the range of ids begins: above what distributions give to users and containers (systemd's ranges end at
    /// 1,878,982,656), below what a signed number cannot hold.
    pub const IDS_FIRST: u32 = 1_900_000_000;
    /// The ids of the range, and the rows of counters (1 KiB each), for so many.
    pub const SANDBOXES_MAX: u32 = 4096;
    /// A blank costs about 0.3 MB of kernel memory and a millisecond to make; so many start at once on a core before
    /// one has to wait.
    pub const BLANKS: u32 = 4;

    /// The settings for a socket and a data directory; nothing exposed.
    pub fn new(socket: PathBuf, data_dir: PathBuf) -> Settings {
        Settings {
            socket,
            data_dir,
            expose: Vec::new(),
            devices: Vec::new(),
            ids_first: Settings::IDS_FIRST,
            sandboxes_max: Settings::SANDBOXES_MAX,
            blanks: Settings::BLANKS,
            without_limits: false,
        }
    }
}
