//! Connections of cores: what they say, what is still to be said to them.

use super::cell::State;
use super::{EpollFlags, Jailer, Token, say};
use crate::jail::{function_fault, letter};
use crate::protocol::{self, Abi, Ending, FromJailer, SandboxId, ToJailer, VERSION};
use crate::socket;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Messages that a core may leave unread: each of its sandboxes says few. One that reads nothing for so long is dead.
const UNREAD_MAX: usize = 4096;
/// Messages of one core that are heard before others get their turn.
const HEARD_AT_ONCE: usize = 64;

/// A core's connection.
pub struct Core {
    socket: OwnedFd,
    /// Whether it has said hello.
    is_known: bool,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Whether epoll tells when it takes more.
    is_full: bool,
}

impl Jailer {
    /// Takes all connections that wait.
    pub(super) fn accept(&mut self) {
        loop {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let none = std::ptr::null_mut();
            // SAFETY: no address is asked for.
            let raw = unsafe { libc::accept4(self.listener.as_raw_fd(), none, none.cast(), flags) };
            if raw < 0 {
                return;
            }
            // SAFETY: the kernel has just made it for this process.
            let socket = unsafe { OwnedFd::from_raw_fd(raw) };
            let serial = self.next;
            self.next += 1;
            if self.watch(&socket, EpollFlags::EPOLLIN, Token::Core(serial)).is_ok() {
                let core = Core { socket, is_known: false, outbox: VecDeque::new(), is_full: false };
                self.cores.insert(serial, core);
            }
        }
    }

    /// A core says something, or takes more, or is gone.
    pub(super) fn hear_core(&mut self, serial: u64) {
        let mut buffer = Vec::new();
        for _ in 0..HEARD_AT_ONCE {
            let Some(core) = self.cores.get(&serial) else { return };
            match socket::receive(core.socket.as_fd(), &mut buffer) {
                Ok(Some(_)) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.flush(serial),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(None) => return self.leave(serial, None),
                Err(error) => return self.leave(serial, Some(error.to_string())),
            }
            let heard = match protocol::decode::<ToJailer>(&buffer) {
                Ok(message) => self.obey(serial, message),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = heard {
                return self.leave(serial, Some(reason));
            }
        }
    }

    /// Does what a core says.
    ///
    /// # Errors
    /// What is wrong with it: the connection is to end.
    fn obey(&mut self, serial: u64, message: ToJailer) -> Result<(), String> {
        let core = self.cores.get_mut(&serial).ok_or("it is gone")?;
        if let ToJailer::Hello { version, .. } = message {
            if version != VERSION || std::mem::replace(&mut core.is_known, true) {
                return Err(format!(
                    "it said hello in version {version}; this is {VERSION}, and once is enough"
                ));
            }
            self.greet(serial);
            return Ok(());
        }
        if !core.is_known {
            return Err("it did not say hello first".into());
        }
        match message {
            ToJailer::Hello { .. } => unreachable!("answered above"),
            ToJailer::Make { sandbox, spec } => {
                if self.find(serial, sandbox).is_some() {
                    return Err(format!("sandbox {sandbox} is there already"));
                }
                self.make(serial, sandbox, spec);
            }
            ToJailer::Run { sandbox, run, environment } => {
                self.obey_run(serial, sandbox, run, &environment)?
            }
            // One that has just ended is no error: the word crossed that of its end.
            ToJailer::Stop { sandbox, how } => {
                if let Some(cell) = self.find(serial, sandbox) {
                    self.stop(cell, how);
                }
            }
        }
        Ok(())
    }

    fn obey_run(
        &mut self,
        serial: u64,
        sandbox: SandboxId,
        run: u64,
        environment: &[(String, String)],
    ) -> Result<(), String> {
        let Some(found) = self.find(serial, sandbox) else { return Ok(()) };
        let cell = &self.cells[&found];
        let Some(owner) = cell.owner.as_ref().filter(|owner| owner.spec.abi == Abi::Stdio) else {
            return Err(format!("sandbox {sandbox} runs no commands"));
        };
        if owner.runs.contains(&run) || !matches!(cell.state, State::Live | State::Stopping) {
            return Err(format!("sandbox {sandbox} has run {run} already, or is not made yet"));
        }
        let started = match protocol::check_environment(environment) {
            Err(error) => Err(function_fault(error.to_string())),
            Ok(()) if cell.state == State::Stopping => Err(function_fault("the sandbox is being stopped")),
            Ok(()) => self.run(found, run, environment),
        };
        if let Err(error) = started {
            let ending = Ending::Exec { reason: error.reason };
            let message = FromJailer::Ended { sandbox, run, ending, peak_memory_bytes: 0, cpu_ns: 0 };
            self.send(serial, &message, Vec::new());
        }
        Ok(())
    }

    fn greet(&mut self, serial: u64) {
        let (counters, map) = self.rules.counters().unzip();
        let message =
            FromJailer::Hello { version: VERSION, backends: self.backends(), force: self.force(), counters };
        self.send(serial, &message, map.into_iter().collect());
    }

    /// The cell of a core's sandbox.
    fn find(&self, core: u64, sandbox: SandboxId) -> Option<u64> {
        let is_it = |cell: &&super::Cell| super::cell_owner(cell) == Some((core, sandbox));
        self.cells.values().find(is_it).map(|cell| cell.serial)
    }

    /// A core is gone: its sandboxes go.
    fn leave(&mut self, serial: u64, reason: Option<String>) {
        if let Some(reason) = reason {
            say(format_args!("event=core-dropped reason=\"{reason}\""));
        }
        self.cores.remove(&serial);
        for cell in self.cells.values_mut() {
            if cell.owner.as_ref().is_some_and(|owner| owner.core == serial) {
                cell.owner = None;
                cell.state = State::Stopping;
                cell.deadline = None;
                cell.inmate.kill();
            }
        }
    }

    /// Tells the owner of a sandbox, if there is one.
    pub(super) fn tell(
        &mut self,
        owner: Option<(u64, SandboxId)>,
        message: impl FnOnce(SandboxId) -> FromJailer,
    ) {
        if let Some((core, sandbox)) = owner {
            self.send(core, &message(sandbox), Vec::new());
        }
    }

    /// Sends a message to a core; at the end of the turn, in order.
    pub(super) fn send(&mut self, serial: u64, message: &FromJailer, descriptors: Vec<OwnedFd>) {
        // A core that is gone needs no word.
        let Some(core) = self.cores.get_mut(&serial) else { return };
        match protocol::encode(message) {
            Ok(bytes) => core.outbox.push_back((bytes, descriptors)),
            Err(error) => say(format_args!("event=message-lost reason=\"{error}\"")),
        }
    }

    /// Sends what is to be sent, and drops cores that do not listen.
    pub(super) fn flush_cores(&mut self) {
        let serials: Vec<u64> = self
            .cores
            .iter()
            .filter(|(_, core)| !core.outbox.is_empty() && !core.is_full)
            .map(|(s, _)| *s)
            .collect();
        for serial in serials {
            self.flush(serial);
        }
    }

    fn flush(&mut self, serial: u64) {
        let Some(core) = self.cores.get_mut(&serial) else { return };
        let mut lost = None;
        while let Some((bytes, descriptors)) = core.outbox.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match socket::send(core.socket.as_fd(), bytes, &borrowed) {
                Ok(()) => drop(core.outbox.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    lost = Some(error.to_string());
                    break;
                }
            }
        }
        if core.outbox.len() > UNREAD_MAX {
            lost = Some(format!("it left {UNREAD_MAX} messages unread"));
        }
        let is_full = !core.outbox.is_empty();
        if is_full != core.is_full {
            core.is_full = is_full;
            let flags =
                if is_full { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            let mut event = nix::sys::epoll::EpollEvent::new(flags, Token::Core(serial).number());
            // It was added, so that it can be changed.
            let _ = self.epoll.modify(&core.socket, &mut event);
        }
        if let Some(reason) = lost {
            self.leave(serial, Some(reason));
        }
    }
}

// A run of a core's letter must fit beside a sandbox's own.
const _: () = assert!(letter::LETTER_BYTES_MAX > 4 * protocol::WORDS_BYTES_MAX + 40_000);
