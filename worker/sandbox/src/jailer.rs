//! The jailer: one process per host that makes, limits, kills and reaps sandboxes for the cores.
//!
//! One thread, one loop over epoll: a word of a core, an answer of a sandbox's first process, the end of one, an event
//! of BPF, a timer. Nothing in the loop waits for anything else; the slow part, forking blanks, is done when nothing
//! else is to do. It holds no state that its death would lose: its sandboxes die with it (parent-death signal, closed
//! socket), and what the kernel keeps for it (cgroups, BPF pins) its successor finds under the platform's name.

mod cell;
mod cores;
mod enforcement;
mod leftovers;
mod make;
mod settings;
mod start;

use crate::cgroup::{Group, Parent};
use crate::jail::letter::{ANSWER_BYTES, Answer, answer};
use crate::jail::{Jail, JailError, Kind};
use crate::pressure::{Eviction, Pressure};
use crate::protocol::{FromJailer, Stop};
use cell::{Cell, State};
use cores::Core;
use enforcement::Rules;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub use settings::Settings;

/// How long a sandbox may take from the fork to the exec; a file system that hangs is the likely reason for more.
const MAKING_MAX: Duration = Duration::from_secs(20);
/// Between two tries to remove the groups of sandboxes that have ended: the kernel takes a moment.
const BURY_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at the host's memory.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at who computes: a hog is one for so long before it stands back.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// After a sandbox was made, before blanks are: its function starts first.
const BLANK_REST: Duration = Duration::from_millis(2);
/// After a blank could not be forked.
const BLANK_PAUSE: Duration = Duration::from_secs(5);
/// How long an end may take: the kernel has killed everything by then.
const END_MAX: Duration = Duration::from_secs(5);
/// Events of one look at epoll.
const EVENTS: usize = 64;

/// Whose descriptor is ready. The number is a serial of a core or cell, never used again, so that an event that is late
/// meets nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Listener,
    Signals,
    Bpf,
    Pressure,
    Core(u64),
    Answer(u64),
    End(u64),
}

impl Token {
    fn number(self) -> u64 {
        match self {
            Token::Listener => 0,
            Token::Signals => 1,
            Token::Bpf => 2,
            Token::Pressure => 3,
            Token::Core(serial) => serial << 3 | 4,
            Token::Answer(serial) => serial << 3 | 5,
            Token::End(serial) => serial << 3 | 6,
        }
    }

    fn of(number: u64) -> Token {
        let serial = number >> 3;
        match number & 7 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Bpf,
            3 => Token::Pressure,
            4 => Token::Core(serial),
            5 => Token::Answer(serial),
            _ => Token::End(serial),
        }
    }
}

/// The jailer's state.
struct Jailer {
    settings: Settings,
    jail: Jail,
    /// The platform's cgroups; none: nothing limits what sandboxes use.
    parent: Option<Parent>,
    cgroups: String,
    rules: Rules,
    epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    cores: BTreeMap<u64, Core>,
    cells: BTreeMap<u64, Cell>,
    /// Places in the range of ids and in the map of counters, lowest last.
    free: Vec<u32>,
    /// Serial of the next core or cell.
    next: u64,
    /// Kinds of blanks to keep.
    kinds: BTreeSet<Kind>,
    /// Groups of sandboxes that have ended.
    graves: Vec<Group>,
    bury_at: Option<Instant>,
    measure_at: Instant,
    /// When it is to be looked at next who computes, and when it was last.
    watch_at: Instant,
    watched: Instant,
    pressure: Pressure,
    /// Whether memory is short, by the same thresholds by which sandboxes go.
    eviction: Eviction,
    began: Instant,
    /// No blanks before this.
    blanks_at: Instant,
    is_ending: bool,
}

/// Runs the jailer until SIGTERM or SIGINT. The process must have one thread.
///
/// # Errors
/// If it cannot start: what is missing and what to do.
pub fn run(settings: Settings) -> Result<(), JailError> {
    let mut jailer = Jailer::start(settings)?;
    say(format_args!("event=started {}", Words(&jailer.backends())));
    while !jailer.is_ending {
        jailer.turn();
    }
    jailer.end();
    say(format_args!("event=ended"));
    Ok(())
}

impl Jailer {
    fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, self.timeout()) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => unreachable!("epoll waits on descriptors of this process: {errno}"),
        };
        // First, so that what ended is known with its reason.
        self.hear_bpf();
        for event in &events[..count] {
            self.hear(Token::of(event.data()));
        }
        self.look_at_time(Instant::now());
        if count == 0 {
            self.refill();
        }
        self.flush_cores();
    }

    fn timeout(&self) -> EpollTimeout {
        let now = Instant::now();
        let blanks_at = self.refills_at();
        if blanks_at.is_some_and(|at| at <= now) {
            return EpollTimeout::ZERO;
        }
        let deadlines = self.cells.values().filter_map(|cell| cell.deadline);
        let is_owned = |cell: &Cell| cell.owner.is_some();
        let looks = self.eviction.is_under_way() || self.cells.values().any(is_owned);
        let measure = looks.then_some(self.measure_at.min(self.watch_at));
        let next = deadlines.chain(self.bury_at).chain(measure).chain(blanks_at).min();
        let Some(next) = next else { return EpollTimeout::NONE };
        // Rounded up: waking a little early would spin.
        let ms = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        EpollTimeout::try_from(ms.min(60_000) as i32).unwrap_or(EpollTimeout::ZERO)
    }

    fn hear(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {
                    self.is_ending = true;
                }
            }
            // Heard already.
            Token::Bpf => {}
            Token::Pressure => self.measure_at = Instant::now(),
            Token::Core(serial) => self.hear_core(serial),
            Token::Answer(serial) => self.hear_answers(serial),
            Token::End(serial) => self.hear_end(serial),
        }
    }

    /// Wakes for a descriptor from now on.
    fn watch(&self, what: impl AsFd, flags: EpollFlags, token: Token) -> Result<(), JailError> {
        let event = EpollEvent::new(flags, token.number());
        let added = self.epoll.add(what, event);
        added.map_err(|errno| crate::jail::host_fault("cannot wait for a descriptor", errno.desc()))
    }

    /// Events of BPF: what a process was killed for, which address was denied.
    fn hear_bpf(&mut self) {
        for event in self.rules.events() {
            let Some(cell) = self.cells.values_mut().find(|cell| cell.index == event.index()) else {
                continue;
            };
            if let Some(attempt) = cell.note(&event) {
                let owner = cell_owner(cell);
                self.tell(owner, |sandbox| FromJailer::Denied { sandbox, attempt });
            }
        }
    }

    /// What a sandbox's first process says.
    fn hear_answers(&mut self, serial: u64) {
        let mut buffer = Vec::with_capacity(ANSWER_BYTES);
        loop {
            let Some(cell) = self.cells.get(&serial) else { return };
            let answer = match crate::socket::receive_small(cell.inmate.control.as_fd(), &mut buffer) {
                Ok(Some(descriptors)) => Answer::from_bytes(&buffer).map(|answer| (answer, descriptors)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // It has ended, or it is ill; the pidfd tells the end.
                Ok(None) | Err(_) => {
                    let _ = self.epoll.delete(&cell.inmate.control);
                    return cell.inmate.kill();
                }
            };
            match answer {
                Some((answer, descriptors)) => self.hear_answer(serial, &answer, descriptors),
                None => cell.inmate.kill(),
            }
        }
    }

    fn hear_answer(&mut self, serial: u64, told: &Answer, descriptors: Vec<OwnedFd>) {
        let Some(cell) = self.cells.get_mut(&serial) else { return };
        match (told.kind, cell.state) {
            (answer::READY, State::Forked) => {
                cell.listener = descriptors.into_iter().next();
                cell.state = State::Blank;
                cell.deadline = None;
                if cell.owner.is_some() {
                    self.fit(serial);
                }
            }
            (answer::FITTED, State::Fitting) => self.made(serial),
            (answer::RUNNING, State::Starting) if told.run == cell::FUNCTION_RUN => self.made(serial),
            (answer::NOT_RUN, State::Starting) => self.fail(serial, cell::not_run(told)),
            (answer::FAILED, _) => self.fail(serial, cell::not_made(told)),
            (answer::NOT_RUN | answer::ENDED, State::Live | State::Stopping) => {
                let message = cell.run_ended(told);
                if let (Some(message), Some(owner)) = (message, cell.owner.as_ref()) {
                    let core = owner.core;
                    self.send(core, &message, Vec::new());
                }
            }
            // A run of a stdio sandbox was executed; or it is late news of one that is being killed.
            _ => {}
        }
    }

    /// The end of a sandbox's first process, and so of all in it.
    fn hear_end(&mut self, serial: u64) {
        // What it said before.
        self.hear_answers(serial);
        self.hear_bpf();
        let Some(mut cell) = self.cells.remove(&serial) else { return };
        cell.inmate.reap(false);
        let message = cell.exited();
        let group = cell.group.take();
        self.bury(cell.index, group);
        self.free.push(cell.index);
        match (message, cell.owner) {
            (Some(message), Some(owner)) => self.send(owner.core, &message, Vec::new()),
            (None, None) if cell.state != State::Stopping => {
                say(format_args!("event=blank-ended pid={}", cell.inmate.pid));
                self.blanks_at = Instant::now() + BLANK_PAUSE;
            }
            _ => {}
        }
    }

    /// Everything that is due.
    fn look_at_time(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .cells
            .values()
            .filter(|cell| cell.deadline.is_some_and(|deadline| deadline <= now))
            .map(|cell| cell.serial)
            .collect();
        for serial in due {
            let Some(cell) = self.cells.get_mut(&serial) else { continue };
            if cell.state == State::Stopping {
                // Its grace is over.
                cell.deadline = None;
                cell.inmate.kill();
            } else {
                let within = MAKING_MAX.as_secs();
                self.fail(
                    serial,
                    crate::jail::host_fault("the sandbox was not ready", format!("after {within} s")),
                );
            }
        }
        if self.bury_at.is_some_and(|at| at <= now) {
            // A group whose removal fails for another reason than being in use is left to the next start.
            self.graves.retain_mut(|group| matches!(group.remove(), Ok(false)));
            self.bury_at = (!self.graves.is_empty()).then_some(now + BURY_EVERY);
        }
        if self.measure_at <= now {
            self.measure_at = now + MEASURE_EVERY;
            self.feel_pressure();
        }
        if self.watch_at <= now {
            let elapsed_ns = now.duration_since(self.watched).as_nanos() as u64;
            (self.watch_at, self.watched) = (now + WATCH_EVERY, now);
            for cell in self.cells.values_mut() {
                cell.take_turns(self.rules.had(cell.index), elapsed_ns);
            }
        }
    }

    /// Tells every core while memory is short; no blanks are made meanwhile.
    fn feel_pressure(&mut self) {
        let Some(stall) = self.pressure.read() else { return };
        let now = call::Instant(self.began.elapsed().as_nanos() as u64);
        let was_short = self.eviction.is_under_way();
        self.eviction.step(now, stall, 1);
        if !self.eviction.is_under_way() {
            return;
        }
        if !was_short {
            let (some, full) = (stall.some_permille, stall.full_permille);
            say(format_args!("event=memory-short some_permille={some} full_permille={full}"));
        }
        let message = FromJailer::Pressure {
            memory_some_permille: stall.some_permille,
            memory_full_permille: stall.full_permille,
        };
        let cores: Vec<u64> = self.cores.keys().copied().collect();
        cores.into_iter().for_each(|core| self.send(core, &message, Vec::new()));
    }

    /// Ends a sandbox as its core says.
    fn stop(&mut self, serial: u64, how: Stop) {
        let Some(cell) = self.cells.get_mut(&serial) else { return };
        match how {
            Stop::Term { grace_ms } if matches!(cell.state, State::Live | State::Stopping) => {
                let end = Instant::now() + Duration::from_millis(grace_ms.min(cell::GRACE_MS_MAX));
                if cell.state == State::Live {
                    cell.terminate();
                }
                // A second word only hastens the end.
                cell.deadline = Some(cell.deadline.map_or(end, |deadline| deadline.min(end)));
            }
            Stop::Term { .. } | Stop::Kill => {
                cell.deadline = None;
                cell.inmate.kill();
            }
        }
        cell.state = State::Stopping;
    }

    /// Kills all, waits for their ends, removes what the kernel keeps.
    fn end(&mut self) {
        for cell in self.cells.values_mut() {
            cell.state = State::Stopping;
            cell.inmate.kill();
        }
        let until = Instant::now() + END_MAX;
        while (!self.cells.is_empty() || !self.graves.is_empty()) && Instant::now() < until {
            let mut events = [EpollEvent::empty(); EVENTS];
            let count = self.epoll.wait(&mut events, EpollTimeout::from(10u8)).unwrap_or(0);
            for event in &events[..count] {
                if let Token::End(serial) = Token::of(event.data()) {
                    self.hear_end(serial);
                }
            }
            self.graves.retain_mut(|group| matches!(group.remove(), Ok(false)));
            self.flush_cores();
        }
        self.rules.stop();
        if let Some(parent) = self.parent.take()
            && let Err(error) = parent.remove()
        {
            say(format_args!("event=cgroups-left reason=\"{error}\""));
        }
        let _ = std::fs::remove_file(&self.settings.socket);
    }
}

/// Whose sandbox a cell is.
fn cell_owner(cell: &Cell) -> Option<(u64, crate::protocol::SandboxId)> {
    cell.owner.as_ref().map(|owner| (owner.core, owner.sandbox))
}

/// `thing="state"` words.
struct Words<'a>(&'a [(String, String)]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (thing, state)) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{}=\"{state}\"", thing.replace(' ', "_"))?;
        }
        Ok(())
    }
}

/// A line for people; if nobody reads, it is lost.
fn say(what: fmt::Arguments<'_>) {
    let _ = std::io::stderr().lock().write_all(format!("millrace jailer: {what}\n").as_bytes());
}
