//! How the program ends: one table of exit codes, one shape of errors.

use call::VerdictCode;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Exit codes: the one table, also in `--help` and the README (a test holds them equal).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Ok = 0,
    /// The call or function failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// There is no such function, call or file.
    NotFound = 3,
    /// The node cannot be reached.
    Connect = 4,
    /// The node refused.
    Refused = 5,
    /// An input is wrong.
    BadInput = 6,
    /// What was waited for did not happen in time.
    TimedOut = 7,
    /// This machine refuses.
    Machine = 8,
    /// A component broke its word.
    Internal = 9,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// All, in order.
    pub const ALL: [Exit; 11] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::Connect,
        Exit::Refused,
        Exit::BadInput,
        Exit::TimedOut,
        Exit::Machine,
        Exit::Internal,
        Exit::Interrupted,
    ];

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done as asked",
            Exit::Failed => "the call or function failed; for `doctor`, something required is missing",
            Exit::Usage => "the command line is wrong",
            Exit::NotFound => "there is no such function, call or file",
            Exit::Connect => "the node cannot be reached, or was lost",
            Exit::Refused => "the node refused: full, draining, or in conflict with what it holds",
            Exit::BadInput => "an input is wrong: a file, a line, a manifest, a wasm module, a time",
            Exit::TimedOut => "what was waited for did not happen in time",
            Exit::Machine => {
                "this machine refuses: port or directory in use, no space, no privilege, a limit"
            }
            Exit::Internal => "a component broke its word: please report it",
            Exit::Interrupted => "stopped by Ctrl-C, after what was begun had been finished",
        }
    }

    /// The table as `--help` shows it.
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for exit in Exit::ALL {
            text += &format!("  {:>3}  {}\n", exit as u8, exit.meaning());
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What a command comes to.
pub type Done = Result<Exit, Failure>;

/// Why a command could not do its work: printed as
///
/// ```text
/// millrace: WHAT: WHERE
/// hint: REMEDY
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong.
    pub what: String,
    /// Where: a file with line and column, an option, an address.
    pub place: String,
    /// What to do about it; empty if nothing can be done.
    pub remedy: String,
}

impl Failure {
    /// A failure with all it needs to be understood.
    pub fn new(
        exit: Exit,
        what: impl Into<String>,
        place: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Failure {
        Failure { exit, what: what.into(), place: place.into(), remedy: remedy.into() }
    }

    /// A wrong input.
    pub fn input(what: impl Into<String>, place: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure::new(Exit::BadInput, what, place, remedy)
    }

    /// A file that cannot be read or written.
    pub fn file(verb: &str, path: &Path, error: &io::Error) -> Failure {
        let (exit, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (Exit::NotFound, "check the path"),
            io::ErrorKind::PermissionDenied => (Exit::Machine, "check the owner and mode of the file"),
            io::ErrorKind::StorageFull => (Exit::Machine, "free some space, or choose another disk"),
            io::ErrorKind::IsADirectory => (Exit::BadInput, "name a file, not a directory"),
            io::ErrorKind::AlreadyExists => (Exit::Machine, "choose another name, or remove what is there"),
            _ => (Exit::Machine, "check the path and the disk"),
        };
        Failure::new(exit, format!("cannot {verb}: {error}"), path.display().to_string(), remedy)
    }

    /// A refusal of the node.
    pub fn refused(code: VerdictCode, place: impl Into<String>) -> Failure {
        let (exit, remedy) = match code {
            VerdictCode::Full => {
                (Exit::Refused, "try again later; `millrace queue list` shows what is waiting")
            }
            VerdictCode::Backlog => (
                Exit::Refused,
                "try again later, or raise `backlog` in [queue] of function.toml, or the tenant's bound",
            ),
            VerdictCode::Closed => (Exit::Refused, "`millrace queue resume FUNCTION` opens it again"),
            VerdictCode::NoBlob => {
                (Exit::Refused, "store it first: `millrace submit` and `millrace call` do so by themselves")
            }
            VerdictCode::Draining => (Exit::Refused, "try again when the node is back"),
            VerdictCode::DiskFailed => (Exit::Refused, "look at the node's output and its disk"),
            VerdictCode::UnknownFunction => (Exit::NotFound, "deploy it first: `millrace deploy PATH`"),
            VerdictCode::BadTime => {
                (Exit::BadInput, "start within 7 days, and set the deadline after the start")
            }
            VerdictCode::Malformed => {
                (Exit::BadInput, "store large arguments elsewhere and pass a reference")
            }
            VerdictCode::Accepted | VerdictCode::Duplicate => unreachable!("not a refusal"),
        };
        Failure::new(exit, format!("refused: {}", code.message()), place, remedy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "millrace: {}: {}", self.what, self.place)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.remedy) }
    }
}

impl std::error::Error for Failure {}

impl From<millrace_client::Error> for Failure {
    fn from(error: millrace_client::Error) -> Failure {
        use millrace_client::Error;
        let start = "start a node with `millrace up`, or name a running one with --endpoint or --data-dir";
        match error {
            Error::Connect { endpoint, source } => {
                Failure::new(Exit::Connect, format!("cannot connect: {source}"), endpoint.to_string(), start)
            }
            Error::Lost { endpoint, reason, unacknowledged } => Failure::new(
                Exit::Connect,
                format!("the node was lost ({reason}) with {unacknowledged} calls not acknowledged"),
                endpoint.to_string(),
                "start the node again and submit the rest under the same ids",
            ),
            Error::Malformed(_) | Error::Unexpected(_) | Error::Silent(_) => Failure::new(
                Exit::Connect,
                error.to_string(),
                "--endpoint",
                "this is not the port of the submit protocol; it is the one that `millrace up` prints first",
            ),
            Error::Refused { call, code, .. } => Failure::refused(code, format!("call {call}")),
            Error::TooLarge(call) => Failure::refused(VerdictCode::Malformed, format!("call {call}")),
            Error::TimedOut(call) => Failure::new(
                Exit::TimedOut,
                "the call has not ended yet",
                format!("call {call}"),
                format!("it goes on; look at it with `millrace calls show {call}`"),
            ),
            Error::Twice(_) | Error::Stopped => {
                Failure::new(Exit::Internal, error.to_string(), "the client", "please report this")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_one_shape() {
        let failure = Failure::input("not JSON", "calls.ndjson:7:12", "correct the line");
        assert_eq!(failure.to_string(), "millrace: not JSON: calls.ndjson:7:12\nhint: correct the line");
        let plain = Failure { remedy: String::new(), ..failure };
        assert_eq!(plain.to_string().lines().count(), 1);
    }

    #[test]
    fn every_refusal_has_an_exit_code_and_a_remedy() {
        for code in VerdictCode::ALL.into_iter().filter(|code| !code.is_held()) {
            let failure = Failure::refused(code, "call 1");
            assert!(failure.exit != Exit::Ok && !failure.remedy.is_empty(), "{failure}");
        }
    }
}
