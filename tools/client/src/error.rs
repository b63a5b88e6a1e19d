//! What can go wrong between a client and a node.

use crate::endpoint::Endpoint;
use call::{CallId, FrameError, Kind, VerdictCode};
use std::fmt;
use std::io;
use std::time::Duration;

/// Why an operation of a client failed. Calls whose verdict was `Accepted` or `Duplicate` are safe whatever the error.
#[derive(Debug)]
pub enum Error {
    /// No connection could be made.
    Connect {
        /// Where to.
        endpoint: Endpoint,
        /// What the operating system said.
        source: io::Error,
    },
    /// The connection broke and could not be made again for as long as [`crate::Options::patience`] says.
    Lost {
        /// Where to.
        endpoint: Endpoint,
        /// Why it broke, or why the last attempt failed.
        reason: String,
        /// Calls whose verdict is not known; the same ids may be submitted again.
        unacknowledged: usize,
    },
    /// The peer sent something that is not a frame: another protocol, another version, damage.
    Malformed(FrameError),
    /// The peer sent a frame that no node sends to a client.
    Unexpected(Kind),
    /// The peer took the connection but did not say that it is a node, for this long.
    Silent(Duration),
    /// The arguments are larger than the limits of [`call::limits`]; nothing was sent.
    TooLarge(CallId),
    /// A call of this id is on its way already; nothing was sent.
    Twice(CallId),
    /// The node refused the call.
    Refused {
        /// Which.
        call: CallId,
        /// Why.
        code: VerdictCode,
        /// When it makes sense to try again; zero if never.
        retry_after: Duration,
    },
    /// The outcome did not come in time; the call goes on.
    TimedOut(CallId),
    /// The client's task has ended; see the first error it gave.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connect { endpoint, source } => write!(f, "cannot connect to {endpoint}: {source}"),
            Error::Lost { endpoint, reason, unacknowledged } => {
                write!(f, "lost {endpoint} ({reason}) with {unacknowledged} calls not acknowledged")
            }
            Error::Malformed(error) => write!(f, "the peer does not speak the submit protocol: {error}"),
            Error::Unexpected(kind) => {
                write!(f, "the peer sent a {kind:?} frame, which no node sends to a client")
            }
            Error::Silent(time) => write!(f, "the peer did not answer the hello within {time:?}"),
            Error::TooLarge(call) => write!(f, "call {call}: {}", VerdictCode::Malformed.message()),
            Error::Twice(call) => write!(f, "call {call} is on its way already"),
            Error::Refused { call, code, .. } => write!(f, "call {call} was refused: {}", code.message()),
            Error::TimedOut(call) => write!(f, "call {call} has not ended yet"),
            Error::Stopped => f.write_str("the client has stopped"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect { source, .. } => Some(source),
            Error::Malformed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Error {
        Error::Malformed(error)
    }
}
