//! What can keep a node from serving, with place and remedy.

use driver::Endpoint;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a node did not start, or had to stop. Nothing that was accepted is lost.
#[derive(Debug)]
pub enum StartError {
    /// A file or directory could not be made, read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory holds something else.
    NotADataDir {
        /// Which.
        path: PathBuf,
    },
    /// The directory was written by another version.
    OtherVersion {
        /// Which.
        path: PathBuf,
        /// What its `VERSION` says.
        found: String,
    },
    /// The directory is of another shard, or of one while the node is to be alone.
    OtherShard {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        known: String,
    },
    /// Another node uses the directory.
    InUse {
        /// Which.
        path: PathBuf,
        /// That node's process, if its lock says.
        pid: Option<u32>,
    },
    /// Too little room for the log.
    NoSpace {
        /// On the disk of this directory.
        path: PathBuf,
        /// Bytes free.
        free_bytes: u64,
        /// Bytes needed to begin.
        needed_bytes: u64,
    },
    /// The native protocol could not be listened for.
    Listen {
        /// Where.
        at: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// The admin API could not be listened for.
    ListenAdmin {
        /// Where.
        at: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The catalog is not one.
    Catalog {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The log could not be recovered or begun.
    Log {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The ring could not be made.
    Driver(io::Error),
    /// The disk refused a write of the log while the node served.
    LogFailed {
        /// The directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Io { path, source } => {
                write!(f, "{}: {source}; {}", path.display(), io_remedy(source))
            }
            StartError::NotADataDir { path } => write!(
                f,
                "{} is not a millrace data directory: it has no VERSION and is not empty; \
                 choose another with --data",
                path.display()
            ),
            StartError::OtherVersion { path, found } => write!(
                f,
                "{}: the data directory says `{found}`, this build reads `{}`; \
                 use the build that wrote it, or choose another directory with --data",
                path.display(),
                crate::datadir::VERSION
            ),
            StartError::OtherShard { path, known } => write!(
                f,
                "{}: the data directory is that of shard {known}; start all shards with `millrace up` on the directory of \
                 shard 0, or this one with --shard {known} --shard-file FILE",
                path.display()
            ),
            StartError::InUse { path, pid } => {
                write!(f, "{}: the data directory is in use", path.display())?;
                match pid {
                    Some(pid) => write!(f, " by process {pid}")?,
                    None => write!(f, " by another process")?,
                }
                write!(f, "; stop that node, or choose another directory with --data")
            }
            StartError::NoSpace { path, free_bytes, needed_bytes } => write!(
                f,
                "{}: {} MiB are free on this disk, the log needs {} MiB to begin; \
                 free some, or choose another disk with --data",
                path.display(),
                free_bytes >> 20,
                needed_bytes.div_ceil(1 << 20)
            ),
            StartError::Listen { at, source } => {
                write!(
                    f,
                    "cannot listen at {at}: {}; {}",
                    listen_reason(at, source),
                    listen_remedy(at, source)
                )
            }
            StartError::ListenAdmin { at, source } => write!(
                f,
                "cannot listen at http://{at} for the admin API: {source}; \
                 choose another address with --admin (port 0 takes any free one)"
            ),
            StartError::Catalog { path, message } => write!(
                f,
                "{}: {message}; put back a copy of the file, or move it away and deploy the functions again",
                path.display()
            ),
            StartError::Log { path, message } => write!(f, "{}: {message}", path.display()),
            StartError::LogFailed { path, source } => write!(
                f,
                "{}: the log could not be written: {source}; nothing accepted is lost: make the disk work and \
                 start again",
                path.display()
            ),
            StartError::Driver(source) => {
                write!(f, "the ring could not be made: {source}; `millrace doctor` says what is missing")
            }
        }
    }
}

impl std::error::Error for StartError {}

fn io_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run as the user who owns it, or choose another directory with --data"
        }
        io::ErrorKind::StorageFull => "free some space, or choose another disk with --data",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: choose another with --data",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "there is a file in the way: move it, or choose another directory with --data"
        }
        _ => "check the path, or choose another directory with --data",
    }
}

/// What the system said: the driver's error names the endpoint and a remedy of its own around it.
fn listen_reason(at: &Endpoint, error: &io::Error) -> String {
    let text = error.to_string();
    let what = text.split_once("; ").map_or(text.as_str(), |(what, _)| what);
    what.rsplit_once(&format!("{at}: ")).map_or(what, |(_, why)| why).to_owned()
}

fn listen_remedy(at: &Endpoint, error: &io::Error) -> String {
    match (at, error.kind()) {
        (Endpoint::Tcp(at), io::ErrorKind::AddrInUse) => format!(
            "port {} is in use: stop what uses it (`ss -ltnp sport = :{}`), \
             or choose another with --tcp {}:PORT (port 0 takes any free one)",
            at.port(),
            at.port(),
            at.ip()
        ),
        (Endpoint::Tcp(_), _) => "choose another address with --tcp".into(),
        (Endpoint::Unix(path) | Endpoint::Shm(path), _) if path.as_os_str().len() > 107 => format!(
            "the path has {} bytes and a socket's may have 107: choose a shorter --data",
            path.as_os_str().len()
        ),
        _ => "check that the directory exists and is writable".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_the_way_out() {
        let at = Endpoint::Tcp("127.0.0.1:7410".parse().unwrap());
        let source = io::Error::from_raw_os_error(libc::EADDRINUSE);
        let text = StartError::Listen { at, source }.to_string();
        assert!(text.contains("port 7410 is in use") && text.contains("--tcp 127.0.0.1:PORT"), "{text}");
    }

    #[test]
    fn a_long_socket_path_says_how_long_it_may_be() {
        let at = Endpoint::Unix(format!("/{}", "d".repeat(200)).into());
        let source = io::Error::from_raw_os_error(libc::EINVAL);
        assert!(StartError::Listen { at, source }.to_string().contains("107"));
    }
}
