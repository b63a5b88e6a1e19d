//! The connection to the jailer.

use call::Instant;
use call::admin::SOON;
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
/// How long calls wait for a jailer that is being started, or started again.
const AWAIT: Duration = Duration::from_secs(5);
/// What they are told then.
pub(super) const AWAY: &str = "the host's jailer, which makes sandboxes, is not there";
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

/// How long calls wait for a jailer that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// It is there, or nobody has looked yet.
    Fresh,
    /// It is expected until then.
    Until(Instant),
    /// It has been away for too long: calls are refused until it is back.
    Over,
}

/// See the module.
pub(super) struct Link {
    /// Where the jailer listens, if there is one.
    path: Option<PathBuf>,
    state: State,
    wait: Duration,
    /// What is said first, once it can be.
    hello: Option<Vec<u8>>,
    /// Messages that wait to be sent, until both have said hello at least.
    outgoing: VecDeque<Vec<u8>>,
    /// What is in force at the jailer, as it said.
    pub backends: Vec<(String, String)>,
    /// Until when calls wait for a jailer that is not there.
    patience: Patience,
    /// How often what is in force changed.
    changes: u32,
}

impl Link {
    pub fn new(path: Option<PathBuf>) -> Link {
        Link {
            path,
            state: State::Down { retry_at: Instant(0) },
            wait: RETRY_MIN,
            hello: None,
            outgoing: VecDeque::new(),
            backends: Vec::new(),
            patience: Patience::Fresh,
            changes: 0,
        }
    }

    /// Why no sandbox can be made now, if so: for good, or for a moment.
    pub fn why_not(&self) -> Option<(call::Status, &'static str)> {
        if self.path.is_none() {
            return Some((
                call::Status::Unavailable,
                "this worker runs no process functions: it was started without a jailer (millrace worker starts one; \
                 a core by itself takes --jailer PATH)",
            ));
        }
        (self.patience == Patience::Over).then_some((call::Status::WorkerLost, AWAY))
    }

    /// Whether the jailer is expected within seconds: what is asked of it meanwhile waits.
    pub fn is_awaited(&self) -> bool {
        let is_up = matches!(self.state, State::Up { .. });
        self.path.is_some() && !is_up && self.patience != Patience::Over
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
        let alarm = match self.state {
            _ if self.path.is_none() => return Instant::NEVER,
            State::Down { retry_at } => retry_at,
            State::Greeting { give_up_at, .. } => give_up_at,
            State::Up { .. } => return Instant::NEVER,
        };
        match self.patience {
            Patience::Until(until) => alarm.min(until),
            Patience::Fresh | Patience::Over => alarm,
        }
    }

    /// Connects if it is time to. True once the jailer has been away for too long: what waits for it is not to wait any
    /// longer.
    pub fn tend(&mut self, driver: &mut dyn Driver, cpu: u32, now: Instant) -> bool {
        let Some(path) = &self.path else { return false };
        match self.state {
            State::Down { retry_at } if now >= retry_at => match driver.connect_messages(path) {
                Ok(connection) => {
                    self.state = State::Greeting { connection, give_up_at: now + GREET };
                    let hello = ToJailer::Hello { version: protocol::VERSION, cpu };
                    self.hello = Some(protocol::encode(&hello).expect("a hello is plain words and numbers"));
                }
                Err(_) => _ = self.lost(now),
            },
            State::Greeting { connection, give_up_at } if now >= give_up_at => {
                driver.abort(connection);
                self.lost(now);
            }
            _ => {}
        }
        match self.patience {
            Patience::Fresh if self.is_awaited() => self.patience = Patience::Until(now + AWAIT),
            Patience::Until(until) if now >= until => {
                self.patience = Patience::Over;
                self.outgoing.clear();
                self.changes += 1;
                return true;
            }
            _ => {}
        }
        false
    }

    /// The jailer said hello.
    pub fn greeted(&mut self, backends: Vec<(String, String)>) {
        if let State::Greeting { connection, .. } = self.state {
            (self.state, self.wait) = (State::Up { connection }, RETRY_MIN);
            self.backends = backends;
            self.patience = Patience::Fresh;
            self.changes += 1;
        }
    }

    /// The connection is gone. Whether anything had been asked by it: all that is lost.
    pub fn lost(&mut self, now: Instant) -> bool {
        let was_up = matches!(self.state, State::Up { .. });
        self.state = State::Down { retry_at: now + self.wait };
        self.wait = (self.wait * 2).min(RETRY_MAX);
        self.hello = None;
        if was_up {
            self.patience = Patience::Until(now + AWAIT);
            self.outgoing.clear();
            self.backends.clear();
            self.changes += 1;
        }
        was_up
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
        self.outgoing.push_back(bytes);
        Ok(())
    }

    /// Gives the driver what was said.
    pub fn flush(&mut self, driver: &mut dyn Driver) {
        let (connection, is_up) = match self.state {
            State::Down { .. } => return,
            State::Greeting { connection, .. } => (connection, false),
            State::Up { connection } => (connection, true),
        };
        if let Some(hello) = self.hello.take()
            && driver.send_message(connection, &hello, Vec::new()) == Err(SendError::Full)
        {
            self.hello = Some(hello);
        }
        while let Some(bytes) = self.outgoing.front().filter(|_| is_up) {
            if driver.send_message(connection, bytes, Vec::new()) == Err(SendError::Full) {
                return;
            }
            self.outgoing.pop_front();
        }
    }

    /// What is in force, for people.
    pub fn backend(&self) -> String {
        match &self.path {
            None => "none: process functions are refused (no jailer)".into(),
            Some(path) if self.is_awaited() => format!("{SOON}the jailer at {} is awaited", path.display()),
            Some(path) if self.patience == Patience::Over => {
                format!("none: the jailer at {} does not answer", path.display())
            }
            Some(path) => format!("in sandboxes of the jailer at {}", path.display()),
        }
    }

    /// See [`crate::Runtime::edition`].
    pub fn edition(&self) -> u32 {
        self.changes
    }
}

/// A mistake of the other side's in this protocol.
pub(super) fn broken(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver::Arrivals;
    use driver::uring::{Options, Uring};
    use sandbox::protocol::MESSAGE_BYTES_MAX;
    use sandbox::socket;
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

    /// A word to the jailer of exactly so many bytes.
    fn word(bytes: usize) -> ToJailer {
        let of = |value: usize| ToJailer::Run {
            sandbox: 1,
            run: 1,
            environment: vec![("A".into(), "x".repeat(value))],
        };
        of(bytes - protocol::encode(&of(0)).unwrap().len())
    }

    fn next(socket: &OwnedFd, driver: &mut Uring) -> Vec<u8> {
        let (mut buffer, mut arrivals) = (Vec::new(), Arrivals::new());
        loop {
            driver.reap(driver.precise() + Duration::from_millis(1), &mut arrivals);
            match socket::receive(socket.as_fd(), &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                got => {
                    got.unwrap().expect("the core is there");
                    return buffer;
                }
            }
        }
    }

    #[test]
    fn the_longest_word_reaches_the_jailer_and_a_longer_one_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = socket::listen_at(&path).unwrap();
        let mut driver = Uring::new(Options::default()).unwrap();
        let mut link = Link::new(Some(path));
        link.tend(&mut driver, 0, Instant(1));
        link.flush(&mut driver);
        driver.reap(driver.precise(), &mut Arrivals::new());
        let accepted = nix::sys::socket::accept(listener.as_raw_fd()).unwrap();
        // SAFETY: the kernel has just made it.
        let jailer = unsafe { OwnedFd::from_raw_fd(accepted) };
        assert!(matches!(protocol::decode(&next(&jailer, &mut driver)), Ok(ToJailer::Hello { .. })));
        link.greeted(Vec::new());
        let longest = word(MESSAGE_BYTES_MAX);
        link.say(&longest).unwrap();
        let refused = link.say(&word(MESSAGE_BYTES_MAX + 1)).unwrap_err();
        assert!(refused.contains("131073 bytes") && refused.contains("shorten"), "{refused}");
        link.flush(&mut driver);
        let heard = next(&jailer, &mut driver);
        assert_eq!(heard.len(), MESSAGE_BYTES_MAX);
        assert_eq!(protocol::decode::<ToJailer>(&heard), Ok(longest));
    }
}
