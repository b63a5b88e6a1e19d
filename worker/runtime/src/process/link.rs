//! The connection to the jailer.

use call::Instant;
use driver::{ConnectionId, Driver, SendError};
use sandbox::protocol::{self, ToJailer};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Wait after the first loss of the connection; doubles with each failure that follows, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(10);
/// Longest wait: a jailer that restarts is found within a second.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long the jailer may take to say hello.
const GREET: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// There is none; the next attempt is at this time.
    Down { retry_at: Instant },
    /// Asked for, and our hello queued.
    Greeting { connection: ConnectionId, give_up_at: Instant },
    /// Both have said hello.
    Up { connection: ConnectionId },
}

/// See the module.
pub(super) struct Link {
    /// Where the jailer listens, if there is one.
    path: Option<PathBuf>,
    state: State,
    wait: Duration,
    /// Messages that wait to be sent.
    outgoing: VecDeque<Vec<u8>>,
    /// What is in force at the jailer, as it said.
    pub backends: Vec<(String, String)>,
    /// How often it came and went.
    changes: u32,
}

impl Link {
    pub fn new(path: Option<PathBuf>) -> Link {
        let state = State::Down { retry_at: Instant(0) };
        Link { path, state, wait: RETRY_MIN, outgoing: VecDeque::new(), backends: Vec::new(), changes: 0 }
    }

    /// Why no sandbox can be made now, if so: for good, or for a moment.
    pub fn why_not(&self) -> Option<(call::Status, &'static str)> {
        match (&self.path, self.state) {
            (None, _) => Some((
                call::Status::Unavailable,
                "this worker runs no process functions: it was started without a jailer (millrace worker starts one; \
                 a core by itself takes --jailer PATH)",
            )),
            (Some(_), State::Down { .. }) => Some((
                call::Status::WorkerLost,
                "the host's jailer, which makes sandboxes, is being started again",
            )),
            _ => None,
        }
    }

    /// Whether this is the connection.
    pub fn is(&self, connection: ConnectionId) -> bool {
        self.connection() == Some(connection)
    }

    fn connection(&self) -> Option<ConnectionId> {
        match self.state {
            State::Down { .. } => None,
            State::Greeting { connection, .. } | State::Up { connection } => Some(connection),
        }
    }

    /// When [`Link::tend`] wants to be called.
    pub fn alarm(&self) -> Instant {
        match self.state {
            _ if self.path.is_none() => Instant::NEVER,
            State::Down { retry_at } => retry_at,
            State::Greeting { give_up_at, .. } => give_up_at,
            State::Up { .. } => Instant::NEVER,
        }
    }

    /// Connects if it is time to. True if the jailer did not greet in time: what was asked of it is lost.
    pub fn tend(&mut self, driver: &mut dyn Driver, cpu: u32, now: Instant) -> bool {
        let Some(path) = &self.path else { return false };
        match self.state {
            State::Down { retry_at } if now >= retry_at => match driver.connect_messages(path) {
                Ok(connection) => {
                    self.state = State::Greeting { connection, give_up_at: now + GREET };
                    self.outgoing.clear();
                    let hello = ToJailer::Hello { version: protocol::VERSION, cpu };
                    self.say(&hello).expect("a hello is short");
                    false
                }
                Err(_) => {
                    self.lost(now);
                    false
                }
            },
            State::Greeting { connection, give_up_at } if now >= give_up_at => {
                driver.abort(connection);
                true
            }
            _ => false,
        }
    }

    /// The jailer said hello.
    pub fn greeted(&mut self, backends: Vec<(String, String)>) {
        if let State::Greeting { connection, .. } = self.state {
            (self.state, self.wait) = (State::Up { connection }, RETRY_MIN);
            self.backends = backends;
            self.changes += 1;
        }
    }

    /// The connection is gone.
    pub fn lost(&mut self, now: Instant) {
        self.changes += u32::from(matches!(self.state, State::Up { .. }));
        self.state = State::Down { retry_at: now + self.wait };
        self.wait = (self.wait * 2).min(RETRY_MAX);
        self.outgoing.clear();
        self.backends.clear();
    }

    /// Ends the connection: the jailer is not one to speak with.
    pub fn hang_up(&self, driver: &mut dyn Driver) {
        if let Some(connection) = self.connection() {
            driver.abort(connection);
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// If it is too long, in words for the function's owner.
    pub fn say(&mut self, message: &ToJailer) -> Result<(), String> {
        let bytes = protocol::encode(message).map_err(|error| error.to_string())?;
        if bytes.len() > driver::seam::MESSAGE_BYTES_MAX {
            let most = driver::seam::MESSAGE_BYTES_MAX;
            return Err(format!(
                "command and environment take {} bytes as JSON, at most {most} go through",
                bytes.len()
            ));
        }
        self.outgoing.push_back(bytes);
        Ok(())
    }

    /// Gives the driver what was said.
    pub fn flush(&mut self, driver: &mut dyn Driver) {
        let Some(connection) = self.connection() else { return };
        while let Some(bytes) = self.outgoing.front() {
            if driver.send_message(connection, bytes, Vec::new()) == Err(SendError::Full) {
                return;
            }
            self.outgoing.pop_front();
        }
    }

    /// What is in force, for people.
    pub fn backend(&self) -> String {
        match (&self.path, self.state) {
            (None, _) => "none: process functions are refused (no jailer)".into(),
            (Some(path), State::Up { .. }) => format!("in sandboxes of the jailer at {}", path.display()),
            (Some(path), _) => format!("none now: the jailer at {} is waited for", path.display()),
        }
    }

    /// See [`crate::Runtime::edition`].
    pub fn edition(&self) -> Option<u32> {
        (self.path.is_none() || self.changes > 0).then_some(self.changes)
    }
}

/// A mistake of the other side's in this protocol.
pub(super) fn broken(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
