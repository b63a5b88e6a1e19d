//! How a call ended.

use serde::{Deserialize, Serialize};

/// How one execution of a call ended. The number is on the wire and on disk; never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Status {
    /// The function returned; for a command, with exit status 0.
    Ok = 0,
    /// A command returned an exit status other than 0; see `Usage::exit_code`.
    Exit = 1,
    /// The guest trapped: unreachable, out-of-bounds access, division by zero, and the like.
    Trap = 2,
    /// The call ran longer than its function's time-out.
    Timeout = 3,
    /// The guest asked for more memory than its function may have, and failed for it.
    Memory = 4,
    /// The guest's stack overflowed.
    Stack = 5,
    /// The function's reply was not a reply: a pointer outside its memory, or too long.
    BadReply = 6,
    /// The worker has no such function, or it could not be instantiated.
    Unavailable = 7,
    /// The worker core died or froze while it held the lease.
    WorkerLost = 8,
    /// The function itself reported an error, by the Runtime API.
    Error = 9,
    /// A sandbox could not be initialised: the function failed, ended or took too long before its first `next`.
    Init = 10,
    /// A process of the function was ended by a signal, or ended before it answered.
    Killed = 11,
    /// The function made a system call that its tier refuses; the text names it.
    Syscall = 12,
    /// The function reported that a service behind it is overloaded: see [`back_pressure`].
    BackPressure = 13,
    /// The label of the call's arguments does not flow to the function's: it never ran, and will not.
    Forbidden = 14,
    /// It was cancelled: before it ran, or its worker stopped it. Final, and no failure.
    Cancelled = 15,
    /// It had not begun when its time to live was over.
    Expired = 16,
    /// The function gave the call back and said when to try again: see [`again`]. No failure.
    Again = 17,
    /// The call waited on disk, and its record there is damaged: what its client wrote is lost.
    Damaged = 18,
}

impl Status {
    /// All, in the order of their numbers.
    pub const ALL: [Status; 19] = [
        Status::Ok,
        Status::Exit,
        Status::Trap,
        Status::Timeout,
        Status::Memory,
        Status::Stack,
        Status::BadReply,
        Status::Unavailable,
        Status::WorkerLost,
        Status::Error,
        Status::Init,
        Status::Killed,
        Status::Syscall,
        Status::BackPressure,
        Status::Forbidden,
        Status::Cancelled,
        Status::Expired,
        Status::Again,
        Status::Damaged,
    ];

    /// From its number on the wire.
    pub fn from_wire(number: u8) -> Option<Status> {
        Status::ALL.get(usize::from(number)).copied()
    }

    /// Whether the call is finished well.
    pub fn is_ok(self) -> bool {
        self == Status::Ok
    }

    /// The word users see: the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Exit => "exit",
            Status::Trap => "trap",
            Status::Timeout => "timeout",
            Status::Memory => "memory",
            Status::Stack => "stack",
            Status::BadReply => "bad-reply",
            Status::Unavailable => "unavailable",
            Status::WorkerLost => "worker-lost",
            Status::Error => "error",
            Status::Init => "init",
            Status::Killed => "killed",
            Status::Syscall => "syscall",
            Status::BackPressure => "back-pressure",
            Status::Forbidden => "forbidden",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
            Status::Again => "again",
            Status::Damaged => "damaged",
        }
    }
}

/// How a function says that a service behind it is overloaded. The execution ends with [`Status::BackPressure`], is
/// tried again by the function's retry rules, and counts for the service, whose owner's threshold slows down all
/// functions that use it.
///
/// A function that uses several services names the one: as the message of the Runtime API's error, the argument of the
/// host call, or on a line `back-pressure: NAME` on stderr. Without a name all services of its manifest count.
pub mod back_pressure {
    /// Exit status of a command: `EX_TEMPFAIL` of sysexits.h, "temporary failure, the user is invited to retry".
    pub const EXIT_STATUS: i32 = 75;
    /// `errorType` of the Runtime API.
    pub const ERROR_TYPE: &str = "Millrace.BackPressure";
    /// What a line on stderr begins with that names the service.
    pub const LINE: &str = "back-pressure: ";

    /// The service that an execution named: the last line of its stderr that says so.
    pub fn service(stderr: &[u8]) -> Option<&str> {
        let lines = stderr.rsplit(|byte| *byte == b'\n');
        let named = lines.filter_map(|line| line.strip_prefix(LINE.as_bytes()));
        named.filter_map(|name| std::str::from_utf8(name).ok()).map(str::trim).find(|name| !name.is_empty())
    }
}

/// How a function gives a call back and says when to try again: it ends as a temporary failure does
/// ([`back_pressure::EXIT_STATUS`], or an error of the type [`again::ERROR_TYPE`] by the Runtime API), and tells how long
/// to wait: on a line `again-in: 30s` on stderr, or as the error's message. It ends with [`Status::Again`], uses up no
/// attempt, and counts for no service.
pub mod again {
    use super::Status;
    use std::time::Duration;

    /// `errorType` of the Runtime API.
    pub const ERROR_TYPE: &str = "Millrace.Again";
    /// What a line on stderr begins with that says how long to wait.
    pub const LINE: &str = "again-in: ";
    /// Bytes of the longest text that is a time.
    const TEXT_BYTES_MAX: usize = 64;

    /// How long an execution asked to wait: the last line of its stderr that says so.
    pub fn delay(stderr: &[u8]) -> Option<Duration> {
        let lines = stderr.rsplit(|byte| *byte == b'\n');
        let said = lines.filter_map(|line| line.strip_prefix(LINE.as_bytes()));
        said.filter(|text| text.len() <= TEXT_BYTES_MAX).find_map(|text| {
            let text = std::str::from_utf8(text).ok()?.trim();
            humantime::parse_duration(text).ok()
        })
    }

    /// How a temporary failure with this stderr has ended.
    pub fn status(stderr: &[u8]) -> Status {
        if delay(stderr).is_some() { Status::Again } else { Status::BackPressure }
    }
}

/// What one execution took. Travels in the outcome frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// From the lease's arrival on the core to the first instruction, ns.
    pub wait_ns: u64,
    /// From the first instruction to the last, including time in which other calls ran between slices, ns.
    pub run_ns: u64,
    /// CPU time of the call's own slices, ns; for a process function, of its sandbox during the call.
    pub cpu_ns: u64,
    /// Largest size of the instance's linear memory, bytes; for a process function, of its sandbox so far.
    pub memory_bytes: u64,
    /// Exit status of a command; of a process that was killed, the signal's number; 0 otherwise.
    pub exit_code: i32,
    /// Of `wait_ns`, the time in which a sandbox was initialised for this call, ns; 0 for a warm one.
    #[serde(default)]
    pub init_ns: u64,
    /// Bytes that the function received from the network, headers of IP included. What stays within its sandbox, as its
    /// Runtime API, is in neither of both.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes that it sent to the network, headers of IP included.
    #[serde(default)]
    pub bytes_out: u64,
    /// Attempts to reach or to serve what no grant covers, those included that came between the call before and this one.
    /// More than 2^24 - 1 count as so many.
    #[serde(default)]
    pub denied: u32,
    /// The instance or sandbox was made for this call (no warm one was there, or the function asks for a fresh one).
    pub cold: bool,
    /// Output or stderr was cut at its limit.
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_names_a_service_counts() {
        let said = |text: &str| back_pressure::service(text.as_bytes()).map(str::to_owned);
        assert_eq!(said("x\nback-pressure: tao\nback-pressure: cache \r\nbye\n").as_deref(), Some("cache"));
        assert_eq!((said("no back-pressure: tao"), said("back-pressure: \n"), said("")), (None, None, None));
        assert_eq!(back_pressure::service(b"back-pressure: \xff"), None);
    }

    #[test]
    fn a_line_says_when_to_try_again() {
        let secs = |text: &str| again::delay(text.as_bytes()).map(|delay| delay.as_secs());
        assert_eq!(secs("x\nagain-in: 1m 5s\nagain-in: soon\nbye\n"), Some(65));
        assert_eq!((secs("again-in: soon"), secs("so again-in: 5s"), secs("")), (None, None, None));
        assert_eq!(secs(&format!("again-in: {}5s", "0".repeat(99))), None);
        assert_eq!(
            (again::status(b"again-in: 0s"), again::status(b"")),
            (Status::Again, Status::BackPressure)
        );
    }

    #[test]
    fn numbers_and_names_are_stable() {
        for (number, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(status as usize, number);
            assert_eq!(Status::from_wire(number as u8), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
        assert_eq!(Status::from_wire(Status::ALL.len() as u8), None);
    }
}
