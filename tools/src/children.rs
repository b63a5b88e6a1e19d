//! Processes that `up` starts, and starts again when they die.

use crate::exit::{Exit, Failure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child as Process, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Wait before a process that died is started again; doubles with each death that follows soon, up to the maximum.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A process that lived this long was healthy: its next death waits the least again.
const HEALTHY: Duration = Duration::from_secs(10);

/// A process with a name, and how to start it.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    command: Command,
    process: Option<Process>,
    started: Instant,
    start_at: Instant,
    wait: Duration,
}

impl Child {
    /// Starts `command`. The process dies with the thread that calls this, and is in a process group of its own: Ctrl-C
    /// reaches this program alone, which then ends its children in order.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &'static str, command: Command) -> Result<Child, Failure> {
        let (command, now) = (bound(command), Instant::now());
        let mut child =
            Child { name, command, process: None, started: now, start_at: now, wait: RESTART_WAIT.0 };
        child.spawn()?;
        Ok(child)
    }

    /// From the next start on, another command.
    pub fn replace(&mut self, command: Command) {
        self.command = bound(command);
    }

    fn spawn(&mut self) -> Result<(), Failure> {
        let place = self.command.get_program().to_string_lossy().into_owned();
        let failed = |error: io::Error| {
            Failure::new(
                Exit::Machine,
                format!("cannot start the {}: {error}", self.name),
                place,
                "check the limits",
            )
        };
        self.process = Some(self.command.spawn().map_err(failed)?);
        self.started = Instant::now();
        Ok(())
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// How it ended, once, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        self.wait = if self.started.elapsed() >= HEALTHY { RESTART_WAIT.0 } else { self.wait };
        self.start_at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(RESTART_WAIT.1);
        Some(status)
    }

    /// Starts it again if it does not run and its wait is over; whether it did.
    ///
    /// # Errors
    /// If it cannot be started; it will be tried again.
    pub fn restart(&mut self) -> Result<bool, Failure> {
        if self.process.is_some() || Instant::now() < self.start_at {
            return Ok(false);
        }
        self.start_at = Instant::now() + RESTART_WAIT.1;
        self.spawn().map(|()| true)
    }

    /// Sends a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // One that has just ended is not waited for yet: its pid is not somebody else's.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    /// Asks it to end, waits for `time`, then kills it. How it ended, if it ran.
    pub fn end(&mut self, time: Duration) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let until = Instant::now() + time;
        while self.process.is_some() {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() >= until {
                self.signal(Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

/// See [`Child::start`].
fn bound(mut command: Command) -> Command {
    let parent = getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Died before the line above took effect?
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    command.process_group(0);
    // SAFETY: between fork and exec `prepare` makes two system calls; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    command
}

/// `exit 3`, `signal SIGKILL`.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(Ok(signal))) => format!("signal {signal}"),
        (None, _) => format!("{status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..2000 {
            if let Some(seen) = look() {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it never came");
    }

    #[test]
    fn a_process_that_dies_is_started_again() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut child = Child::start("sleeper", command).unwrap();
        let first = child.pid().unwrap();
        child.signal(Signal::SIGKILL);
        assert_eq!(ending(until(|| child.ended())), "signal SIGKILL");
        assert!(child.pid().is_none());
        until(|| child.restart().unwrap().then_some(()));
        assert_ne!(child.pid().unwrap(), first);
        assert_eq!(ending(child.end(Duration::from_secs(60)).unwrap()), "signal SIGTERM");
    }

    #[test]
    fn one_that_does_not_listen_is_killed() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
            .stdout(std::process::Stdio::piped());
        let mut child = Child::start("stubborn", command).unwrap();
        let mut ready = [0; 6];
        let out = child.process.as_mut().unwrap().stdout.as_mut().unwrap();
        io::Read::read_exact(out, &mut ready).unwrap();
        assert_eq!(ending(child.end(Duration::from_millis(50)).unwrap()), "signal SIGKILL");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let failure = Child::start("ghost", Command::new("/nonexistent/ghost")).unwrap_err();
        assert!(
            failure.to_string().contains("cannot start the ghost") && failure.place == "/nonexistent/ghost"
        );
    }
}
