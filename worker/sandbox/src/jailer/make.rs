//! Making sandboxes: blanks ahead of need, and from a blank a function's sandbox.

use super::cell::{Cell, FUNCTION_RUN, Owner, State};
use super::{BLANK_PAUSE, BLANK_REST, EpollFlags, Jailer, MAKING_MAX, Token, say};
use crate::cgroup;
use crate::jail::{Command, JailError, Kind, PATH_DEFAULT, function_fault, host_fault};
use crate::protocol::{Abi, FromJailer, Limits, RunId, SandboxId, Spec, Tier};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// The Runtime API in a network of one's own.
const API: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, crate::jail::letter::API_PORT);

impl Jailer {
    /// A kind of which there are too few blanks, and room for one.
    fn lacking(&self) -> Option<Kind> {
        if self.eviction.is_under_way() {
            return None;
        }
        let blanks =
            |kind| self.cells.values().filter(|cell| cell.owner.is_none() && cell.kind == kind).count();
        let wanted = self.settings.blanks as usize;
        let kinds = self.kinds.iter().copied();
        kinds.filter(|_| !self.free.is_empty()).find(|kind| blanks(*kind) < wanted)
    }

    /// When the next blank is to be forked, if one is lacking: not while somebody waits for a sandbox, which would wait for
    /// the fork as well.
    pub(super) fn refills_at(&self) -> Option<Instant> {
        self.lacking().filter(|_| !self.cells.values().any(Cell::is_awaited)).map(|_| self.blanks_at)
    }

    /// Forks one blank, if it is time to.
    pub(super) fn refill(&mut self) {
        if self.refills_at().is_none_or(|at| Instant::now() < at) {
            return;
        }
        let Some(kind) = self.lacking() else { return };
        if let Err(error) = self.fork(kind) {
            say(format_args!("event=no-blank reason=\"{error}\""));
            self.blanks_at = Instant::now() + BLANK_PAUSE;
        }
    }

    /// Forks a sandbox's first process: its serial.
    fn fork(&mut self, kind: Kind) -> Result<u64, JailError> {
        let index = self.free.pop().ok_or_else(|| {
            host_fault("too many sandboxes", format!("all {} are in use", self.settings.sandboxes_max))
        })?;
        let cell = self.fork_at(kind, index);
        let cell = cell.inspect_err(|_| self.free.push(index))?;
        let serial = cell.serial;
        let watched = self
            .watch(&cell.inmate.control, EpollFlags::EPOLLIN, Token::Answer(serial))
            .and_then(|()| self.watch(&cell.inmate.pidfd, EpollFlags::EPOLLIN, Token::End(serial)));
        match watched {
            Ok(()) => {
                self.cells.insert(serial, cell);
                Ok(serial)
            }
            Err(error) => {
                cell.inmate.discard();
                self.bury(index, cell.group);
                self.free.push(index);
                Err(error)
            }
        }
    }

    fn fork_at(&mut self, kind: Kind, index: u32) -> Result<Cell, JailError> {
        let serial = self.next;
        self.next += 1;
        let make = |parent: &cgroup::Parent| parent.make(&format!("s{serial}"));
        let group = self.parent.as_ref().map(make).transpose();
        let mut group = group.map_err(|error| host_fault("cannot make its cgroups", error))?;
        if let Some(group) = &mut group {
            // Most functions have these; what a host cannot limit is refused to the function that demands it.
            let _ = group.apply(&limits(&Limits::default()));
        }
        // One for the host's network is a stranger until it has its function's rules: it may use no network at all.
        let ready = match kind.own_network {
            true => self.rules.admit_blank(index, group.as_ref()),
            false => self.rules.guard_blank(group.as_ref()),
        };
        let entry = ready.and_then(|()| {
            let entry = group.as_ref().map(cgroup::Group::entry).transpose();
            entry.map_err(|error| host_fault("cannot open its cgroups", error))
        });
        let inmate = entry.and_then(|entry| self.jail.fork(kind, index, entry.as_ref()));
        let inmate = inmate.inspect_err(|_| self.bury(index, group.take()))?;
        // Without them it takes a little longer later, and the reason is told then.
        let outfit = self.jail.outfit(kind.base(), Limits::default().tmp_bytes).ok();
        let peak = group.as_ref().and_then(|group| group.memory_peak_file().ok());
        Ok(Cell {
            outfit,
            peak,
            serial,
            kind,
            index,
            inmate,
            group,
            state: State::Forked,
            deadline: Some(Instant::now() + MAKING_MAX),
            listener: None,
            owner: None,
            tells_syscalls: self.rules.has_events(),
            habit: crate::turns::Habit::NEW,
        })
    }

    /// Nothing of a sandbox lives any more: its rules go, its groups as soon as the kernel lets them.
    pub(super) fn bury(&mut self, index: u32, group: Option<cgroup::Group>) {
        self.rules.dismiss(index);
        if let Some(group) = group {
            self.graves.push(group);
            self.bury_at = Some(Instant::now());
        }
    }

    /// A core wants a sandbox.
    pub(super) fn make(&mut self, core: u64, sandbox: SandboxId, spec: Box<Spec>) {
        let refuse =
            |error: JailError| FromJailer::Failed { sandbox, reason: error.reason, is_host: error.is_host };
        if let Err(error) = self.check(&spec) {
            return self.send(core, &refuse(error), Vec::new());
        }
        let kind = Kind::of(&spec);
        if self.kinds.insert(kind) {
            self.blanks_at = Instant::now();
        }
        let blanks = self.cells.values().filter(|cell| cell.owner.is_none() && cell.kind == kind);
        // One that is ready before one that will be.
        let blank =
            blanks.filter(|cell| cell.state != State::Stopping).max_by_key(|cell| cell.state == State::Blank);
        let (serial, is_ready) = match blank {
            Some(cell) => (cell.serial, cell.state == State::Blank),
            None => match self.fork(kind) {
                Ok(serial) => (serial, false),
                Err(error) => return self.send(core, &refuse(error), Vec::new()),
            },
        };
        let cell = self.cells.get_mut(&serial).expect("it was just found or made");
        cell.owner = Some(Owner::new(core, sandbox, spec, is_ready));
        cell.deadline = Some(Instant::now() + MAKING_MAX);
        if is_ready {
            self.fit(serial);
        }
    }

    /// Whether this host can give what a function demands.
    fn check(&self, spec: &Spec) -> Result<(), JailError> {
        spec.check().map_err(|error| function_fault(error.to_string()))?;
        let limits = limits(&spec.limits);
        if self.parent.is_none() && !self.settings.without_limits && !limits.controllers().is_empty() {
            return Err(host_fault("limits cannot be enforced here", &self.cgroups));
        }
        Ok(())
    }

    /// Turns a blank into its owner's sandbox.
    pub(super) fn fit(&mut self, serial: u64) {
        if let Err(error) = self.try_fit(serial) {
            self.fail(serial, error);
        }
    }

    fn try_fit(&mut self, serial: u64) -> Result<(), JailError> {
        let cell = self.cells.get_mut(&serial).expect("the caller has just seen it");
        let owner = cell.owner.as_mut().expect("a blank is fitted for an owner");
        let spec = &owner.spec;
        if let Some(group) = &mut cell.group {
            let applied = group.apply(&limits(&spec.limits));
            applied.map_err(|error| host_fault("its limits cannot be set", error))?;
        }
        let is_service = spec.abi == Abi::RuntimeApi;
        // The listener of a blank that turns out to need none is closed: nobody may wait at it.
        let listener = match (is_service, cell.listener.take()) {
            (false, _) => None,
            (true, Some(listener)) => Some((listener, API)),
            (true, None) => Some(host_listener()?),
        };
        owner.api = listener.as_ref().map(|(_, address)| *address);
        self.rules.admit(cell.index, spec, cell.group.as_ref(), owner.api)?;
        let outfit = cell.outfit.take();
        self.jail.fit(&cell.inmate, spec, outfit, is_service)?;
        cell.state = if is_service { State::Starting } else { State::Fitting };
        let Some((listener, _)) = listener else { return Ok(()) };
        // Both letters at once: one turn less to wait for.
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let command = Command {
            words: &spec.command,
            environment: environment(spec, owner.api, &[]),
            stdin: None,
            stdout: stdout_end.as_fd(),
            stderr: stderr_end.as_fd(),
            is_last: true,
            is_strict: spec.tier == Tier::Strict,
            has_devices: !spec.devices.is_empty(),
        };
        self.jail.run(&cell.inmate, FUNCTION_RUN, &command)?;
        owner.descriptors = vec![listener, stdout, stderr];
        Ok(())
    }

    /// It serves: its core is told.
    pub(super) fn made(&mut self, serial: u64) {
        let counts = self.rules.counters().is_some();
        let Some(cell) = self.cells.get_mut(&serial) else { return };
        let index = counts.then_some(cell.index);
        if let Some((core, message, descriptors)) = cell.made(index) {
            self.blanks_at = self.blanks_at.max(Instant::now() + BLANK_REST);
            self.send(core, &message, descriptors);
        }
    }

    /// It cannot be made. Its end tells its core, so that nothing is left of it then.
    pub(super) fn fail(&mut self, serial: u64, error: JailError) {
        let Some(cell) = self.cells.get_mut(&serial) else { return };
        if cell.owner.is_none() {
            say(format_args!("event=no-blank reason=\"{error}\""));
            self.blanks_at = Instant::now() + BLANK_PAUSE;
        }
        cell.fail(error);
    }

    /// Runs the command of a stdio sandbox once.
    pub(super) fn run(
        &mut self,
        serial: u64,
        run: RunId,
        variables: &[(String, String)],
    ) -> Result<(), JailError> {
        let Some(cell) = self.cells.get_mut(&serial) else { return Ok(()) };
        let Some(owner) = &mut cell.owner else { return Ok(()) };
        let (core, sandbox, spec) = (owner.core, owner.sandbox, &owner.spec);
        let (stdin_end, stdin) = pipe_to()?;
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let command = Command {
            words: &spec.command,
            environment: environment(spec, None, variables),
            stdin: Some(stdin_end.as_fd()),
            stdout: stdout_end.as_fd(),
            stderr: stderr_end.as_fd(),
            is_last: false,
            is_strict: spec.tier == Tier::Strict,
            has_devices: !spec.devices.is_empty(),
        };
        self.jail.run(&cell.inmate, run, &command)?;
        owner.runs.insert(run);
        self.send(core, &FromJailer::Started { sandbox, run }, vec![stdin, stdout, stderr]);
        Ok(())
    }
}

/// The limits, as cgroups take them.
fn limits(limits: &Limits) -> cgroup::Limits {
    cgroup::Limits {
        cpu_weight: limits.cpu_weight.clamp(1, 10_000),
        cpu_milli: limits.cpu_milli,
        cpus: limits.cpus.clone(),
        memory_max_bytes: limits.memory_bytes,
        memory_high_bytes: limits.memory_high_bytes,
        may_swap: false,
        pids_max: limits.pids,
        io_bytes: limits.io_bytes,
    }
}

/// A listener in the host's network, for a function that lives there: on an address of this host only, at a port that
/// BPF opens to this function alone.
fn host_listener() -> Result<(OwnedFd, SocketAddrV4), JailError> {
    let refused = |error: std::io::Error| host_fault("cannot listen for the Runtime API", error);
    let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    match listener.local_addr().map_err(refused)? {
        SocketAddr::V4(address) => Ok((listener.into(), address)),
        SocketAddr::V6(address) => unreachable!("bound to IPv4, not {address}"),
    }
}

/// A pipe whose read end, the first, is for the core and does not block.
fn pipe() -> Result<(OwnedFd, OwnedFd), JailError> {
    let (reader, writer) = raw_pipe()?;
    nonblocking(&reader)?;
    Ok((reader, writer))
}

/// A pipe whose write end, the second, is for the core and does not block.
fn pipe_to() -> Result<(OwnedFd, OwnedFd), JailError> {
    let (reader, writer) = raw_pipe()?;
    nonblocking(&writer)?;
    Ok((reader, writer))
}

fn raw_pipe() -> Result<(OwnedFd, OwnedFd), JailError> {
    let (reader, writer) = std::io::pipe().map_err(|error| host_fault("cannot make a pipe", error))?;
    Ok((reader.into(), writer.into()))
}

/// The two ends of a pipe are two open files: the function's end still blocks, as programs expect.
fn nonblocking(end: &OwnedFd) -> Result<(), JailError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let set = fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    set.map(drop).map_err(|errno| host_fault("cannot set a pipe", errno.desc()))
}

/// All variables of a command, `NAME=value`: those of the run win over those of the spec, and those over the usual ones.
fn environment(spec: &Spec, api: Option<SocketAddrV4>, run: &[(String, String)]) -> Vec<String> {
    let mut names = std::collections::BTreeSet::new();
    let own = run.iter().chain(&spec.environment).map(|(name, value)| (name.as_str(), value.clone()));
    let usual = [
        ("PATH", PATH_DEFAULT.to_owned()),
        ("HOME", "/tmp".into()),
        ("TMPDIR", "/tmp".into()),
        ("LAMBDA_TASK_ROOT", crate::jail::letter::TASK.into()),
    ];
    let api = api.map(|api| ("AWS_LAMBDA_RUNTIME_API", api.to_string()));
    // The address is no function's to choose.
    let all = api.into_iter().chain(own).chain(usual);
    let mut lines = Vec::new();
    for (name, value) in all {
        if names.insert(name.to_owned()) {
            lines.push(format!("{name}={value}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_about_a_variable_wins() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let spec = Spec { environment: vec![pair("A", "spec"), pair("HOME", "/x")], ..Spec::default() };
        let lines =
            environment(&spec, Some(API), &[pair("A", "run"), pair("AWS_LAMBDA_RUNTIME_API", "evil")]);
        let has = |line: &str| lines.iter().any(|other| other == line);
        assert!(has("A=run") && has("HOME=/x") && has("TMPDIR=/tmp"));
        assert!(has("AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001"));
        assert_eq!(lines.iter().filter(|line| line.starts_with("A=")).count(), 1);
    }
}
