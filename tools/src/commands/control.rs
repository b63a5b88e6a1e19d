//! `millrace control`

use crate::exit::{Done, Exit, Failure};
use crate::settings::{ADMIN_PORT, Environment, TCP_PORT};
use crate::times::duration;
use ::call::ShardId;
use ::call::limits::Limits;
use control::logs::Bounds;
use control::{ControlOptions, StartError};
use driver::Endpoint;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace control --data-dir /var/lib/millrace
  millrace control --listen 0.0.0.0:7410 --admin 127.0.0.1:7411 --cpu 0
  millrace control --data-dir /var/lib/millrace --recover salvage     # after a disk lost what it had confirmed

SIGTERM drains it: no new calls, leases end, then it stops. What it has accepted is on disk at any moment.";

/// Where a node keeps its data and listens; shared with `up`.
#[derive(clap::Args, Clone, Debug)]
pub struct NodeArguments {
    /// Data directory; made if it is missing [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, visible_alias = "data", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the native protocol listens on TCP; port 0 takes a free one
    #[arg(long, visible_alias = "tcp", value_name = "ADDRESS:PORT",
        default_value_t = SocketAddr::from(([127, 0, 0, 1], TCP_PORT)))]
    pub listen: SocketAddr,
    /// Where the admin API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT)))]
    pub admin: SocketAddr,
    /// How long a drain waits for calls that run
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain: Duration,
    /// Bytes of logs kept of all functions: 512MiB, 4GiB
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = bytes)]
    pub logs_total: u64,
    /// Bytes of logs kept of each function
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = bytes)]
    pub logs_function: u64,
    /// Bytes of the largest blob: arguments above 256 KiB, which are stored beside the log
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = bytes, help_heading = "Blobs")]
    pub blob_max: u64,
    /// Bytes of all blobs; while there are so many, further ones are refused
    #[arg(long, value_name = "BYTES", default_value = "16GiB", value_parser = bytes, help_heading = "Blobs")]
    pub blobs_total: u64,
    /// A blob that no call names is removed when nobody has stored or named it for so long
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, help_heading = "Blobs")]
    pub blob_grace: Duration,
    /// Arguments above this, submitted over HTTP, become a blob; at most 1MiB
    #[arg(long, value_name = "BYTES", default_value = "256KiB", value_parser = small_bytes, help_heading = "Blobs")]
    pub blob_above: u64,
    /// Calls accepted and not yet ended that the node holds at most, dead letters included; about 0.1 KiB of memory each
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().calls_max as u32,
        value_parser = clap::value_parser!(u32).range(1024..=CALLS_MAX))]
    pub calls_max: u32,
    /// What to do if the log is damaged: `strict` refuses to start, `salvage` goes on without what is lost, says what
    /// that is and writes it to DIR/salvage-UNIXMS.json
    #[arg(long, value_name = "HOW", default_value = "strict")]
    pub recover: Recover,
    /// What this node calls itself among regions
    #[arg(long, value_name = "NAME", help_heading = "Regions")]
    pub region: Option<String>,
    /// Another region, whose calls this one may pull, and where its node listens; may be repeated
    #[arg(long, value_name = "NAME=ENDPOINT", value_parser = peer, requires = "region", help_heading = "Regions")]
    pub peer: Vec<(String, Endpoint)>,
    /// This node's number among the shards of one node; `up --shards` says it
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "shard_file",
        conflicts_with = "region",
        help_heading = "Shards"
    )]
    pub shard: Option<ShardId>,
    /// The file of all shards, in the data directory of shard 0
    #[arg(long, value_name = "FILE", requires = "shard", help_heading = "Shards")]
    pub shard_file: Option<PathBuf>,
    /// How long a shard remembers calls that ended, of slots that others have now; keys and kept outcomes stay their time
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, help_heading = "Shards")]
    pub shard_remember: Duration,
}

/// What to do if the log is damaged.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recover {
    Strict,
    Salvage,
}

impl From<Recover> for control::Recover {
    fn from(how: Recover) -> control::Recover {
        match how {
            Recover::Strict => control::Recover::Strict,
            Recover::Salvage => control::Recover::Salvage,
        }
    }
}

/// `b=tcp:10.78.0.2:7410`
fn peer(text: &str) -> Result<(String, Endpoint), String> {
    let (name, at) = text.split_once('=').ok_or("write it like b=tcp:10.0.0.2:7410")?;
    Ok((name.to_owned(), at.parse()?))
}

/// `64KiB`, `16MiB`, `1GiB`: for clap, which names the option.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let read = || {
        let (digits, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
        digits.trim().parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes >= 64 << 10)
    };
    read().ok_or_else(|| "write it like 64KiB, 16MiB or 1GiB; at least 64KiB".into())
}

/// Of `--calls-max`: calls are numbered by 32 bits, and calls of other regions stand behind them.
const CALLS_MAX: i64 = 100_000_000;

/// As [`bytes`], of what must fit into a frame.
fn small_bytes(text: &str) -> Result<u64, String> {
    let most = ::call::limits::ARGUMENTS_BYTES_MAX as u64;
    bytes(text).and_then(|bytes| if bytes <= most { Ok(bytes) } else { Err("at most 1MiB".into()) })
}

impl NodeArguments {
    /// What was said of blobs, for another command line.
    pub fn blob_words(&self) -> [String; 8] {
        let grace = format!("{}ms", self.blob_grace.as_millis());
        let [max, total, above] =
            [self.blob_max, self.blobs_total, self.blob_above].map(|bytes| format!("{bytes}B"));
        let said = [("max", max), ("grace", grace), ("above", above)]
            .map(|(name, value)| [format!("--blob-{name}"), value]);
        let [[a, b], [c, d], [e, f]] = said;
        [a, b, c, d, e, f, "--blobs-total".into(), total]
    }

    /// Bounds of everything, as far as they were said.
    pub fn limits(&self) -> Limits {
        Limits {
            calls_max: self.calls_max as usize,
            blob_bytes_max: self.blob_max,
            blobs_bytes_max: self.blobs_total,
            blob_grace: self.blob_grace,
            ..Limits::default()
        }
    }
}

/// Runs a control node.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Control {
    #[command(flatten)]
    node: NodeArguments,
    /// CPU for the ring; any, if not given
    #[arg(long)]
    cpu: Option<usize>,
    /// Print nothing but warnings
    #[arg(long)]
    quiet: bool,
}

impl Control {
    pub fn run(self, environment: &Environment) -> Done {
        let options = ControlOptions {
            data: environment.data_dir(self.node.data_dir.as_deref()),
            admin: self.node.admin,
            tcp: Some(self.node.listen),
            cpu: self.cpu,
            limits: self.node.limits(),
            blob_above: self.node.blob_above as usize,
            drain: self.node.drain,
            print: !self.quiet,
            recover: self.node.recover.into(),
            logs: Bounds { total_bytes: self.node.logs_total, function_bytes: self.node.logs_function },
            region: self.node.region.unwrap_or_default(),
            peers: self.node.peer,
            shard: self.node.shard.zip(self.node.shard_file),
            shard_remember: self.node.shard_remember,
            ..ControlOptions::default()
        };
        match control::serve(options) {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => Err(failure(&error)),
        }
    }
}

/// The start's errors carry their remedy behind a semicolon, and mostly begin with the place.
pub(super) fn failure(error: &StartError) -> Failure {
    let text = error.to_string();
    let (what, remedy) = text.split_once("; ").unwrap_or((&text, "see the node's output"));
    let place = match error {
        StartError::Io { path, .. }
        | StartError::NotADataDir { path }
        | StartError::OtherVersion { path, .. }
        | StartError::InUse { path, .. }
        | StartError::NoSpace { path, .. }
        | StartError::OtherShard { path, .. }
        | StartError::Catalog { path, .. }
        | StartError::Log { path, .. }
        | StartError::LogFailed { path, .. } => path.display().to_string(),
        StartError::Listen { at, .. } => at.to_string(),
        StartError::ListenAdmin { at, .. } => format!("http://{at}"),
        StartError::Driver(_) => "io_uring".into(),
    };
    let what = what.strip_prefix(&format!("{place}: ")).unwrap_or(what);
    let exit = match error {
        StartError::Catalog { .. } | StartError::Log { .. } | StartError::OtherVersion { .. } => {
            Exit::BadInput
        }
        _ => Exit::Machine,
    };
    Failure::new(exit, what, place, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_start_have_place_and_remedy() {
        let in_use = failure(&StartError::InUse { path: "/data".into(), pid: Some(7) });
        assert_eq!((in_use.place.as_str(), in_use.exit), ("/data", Exit::Machine));
        assert!(in_use.what.contains("in use by process 7") && in_use.remedy.contains("--data"), "{in_use}");
        assert!(!in_use.what.contains("/data"), "{in_use}");
        let at = "tcp:127.0.0.1:7410".parse().unwrap();
        let listen =
            failure(&StartError::Listen { at, source: std::io::Error::from_raw_os_error(libc::EADDRINUSE) });
        assert_eq!(listen.place, "tcp:127.0.0.1:7410");
        assert!(listen.remedy.contains("--tcp"), "{listen}");
    }
}
