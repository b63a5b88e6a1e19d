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
    /// The first user and group id of the range for sandboxes: each takes two. None: one chosen by the data directory's
    /// path, so that two platforms on a host do not share ids.
    pub ids_first: Option<u32>,
    /// Sandboxes at once.
    pub sandboxes_max: u32,
    /// Blanks of each kind that are kept ready.
    pub blanks: u32,
    /// Whether functions run also where nothing enforces their limits.
    pub without_limits: bool,
}

impl Settings {
    /// Where ranges of ids begin and end: above what distributions give to users and containers (systemd's ranges end at
    /// 1,878,982,656), within what a signed number holds.
    pub const IDS: std::ops::Range<u32> = 1_900_000_000..2_147_000_000;
    /// The ids of the range, and the rows of counters (1 KiB each), for so many.
    pub const SANDBOXES_MAX: u32 = 4096;
    /// A blank costs about 0.3 MB of kernel memory and a millisecond to make; so many start at once on a core before
    /// one has to wait.
    pub const BLANKS: u32 = 4;

    /// The first id of the range.
    pub fn first_id(&self) -> u32 {
        use std::os::unix::ffi::OsStrExt;
        let path = std::fs::canonicalize(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
        // FNV-1a of 32 bits: offset basis and prime from its definition.
        let hash = path
            .as_os_str()
            .as_bytes()
            .iter()
            .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let each = self.sandboxes_max.saturating_mul(2).max(1);
        let ranges = ((Settings::IDS.end - Settings::IDS.start) / each).max(1);
        self.ids_first.unwrap_or(Settings::IDS.start + hash % ranges * each)
    }

    /// The settings for a socket and a data directory; nothing exposed.
    pub fn new(socket: PathBuf, data_dir: PathBuf) -> Settings {
        Settings {
            socket,
            data_dir,
            expose: Vec::new(),
            devices: Vec::new(),
            ids_first: None,
            sandboxes_max: Settings::SANDBOXES_MAX,
            blanks: Settings::BLANKS,
            without_limits: false,
        }
    }
}
