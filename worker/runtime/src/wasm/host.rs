//! What a guest sees of the core, and what the core sees of a guest.
//!
//! A guest's store is owned by the future that runs it, and is out of reach while that future exists. Core
//! and guest therefore meet at a [`Desk`]: the core lays a call's payload there and finds output and stderr
//! there.

use super::engine::TABLE_ELEMENTS_MAX;
use super::files::Table;
use super::wasi::environment::strings;
use crate::results::{Output, Room};
use call::function::FileGrants;
use call::limits::STDERR_BYTES_MAX;
use call::outcome::{again, back_pressure};
use call::{FunctionSpec, Status};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use wasmtime::{Engine, Memory, ResourceLimiter, Store, Trap, UpdateDeadline};

/// Buffers larger than this are given back when a call has ended: one large call must not pin memory for
/// ever.
pub const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Ticks until a slice ends. The first may come at once, so two: a call shorter than a tick never yields by
/// accident.
const SLICE_TICKS: u64 = 2;

/// Where the core and one guest exchange a call.
#[derive(Default)]
pub struct Desk {
    /// The arguments.
    pub payload: RefCell<Vec<u8>>,
    /// What the platform tells of the call: `NAME=value` strings, each ended by a zero byte.
    pub environment: RefCell<Vec<u8>>,
    /// What the function returned, or a command's stdout.
    pub output: RefCell<Output>,
    /// Its stderr.
    pub stderr: RefCell<Vec<u8>>,
    /// Output or stderr was cut.
    pub truncated: Cell<bool>,
    /// The guest sleeps until then; zero if it does not. Nanoseconds of the monotonic clock.
    pub sleeps_until: Cell<u64>,
    /// The call is done and the guest waits for the next one.
    pub served: Cell<bool>,
    /// The guest said that a service behind it is overloaded.
    pub back_pressure: Cell<bool>,
    /// Memory was refused during this call.
    pub memory_refused: Cell<bool>,
    /// Largest size of the guest's memory so far, bytes.
    pub memory_bytes: Cell<u64>,
}

impl Desk {
    /// Large results of it are of this room.
    pub fn new(room: &Room) -> Desk {
        Desk { output: RefCell::new(Output::new(room)), ..Desk::default() }
    }

    /// Clears what the last call left.
    pub fn clear(&self) {
        self.output.borrow_mut().clear(BUFFER_BYTES_KEPT);
        for buffer in [&self.payload, &self.environment, &self.stderr] {
            let mut buffer = buffer.borrow_mut();
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
        self.truncated.set(false);
        self.sleeps_until.set(0);
        self.served.set(false);
        self.back_pressure.set(false);
        self.memory_refused.set(false);
    }

    /// Appends to the output as much as the limit allows.
    pub fn write_output(&self, bytes: &[u8]) {
        if self.output.borrow_mut().fill(bytes) {
            self.truncated.set(true);
        }
    }

    /// Appends to stderr, on a line of its own, what the platform has to say.
    pub fn tell(&self, what: &str) {
        let complete = self.stderr.borrow().last().is_none_or(|last| *last == b'\n');
        self.write_stderr(if complete { b"" } else { b"\n" });
        self.write_stderr(what.as_bytes());
    }

    /// Appends to stderr as much as the limit allows.
    pub fn write_stderr(&self, bytes: &[u8]) {
        let mut stderr = self.stderr.borrow_mut();
        let fits = bytes.len().min(STDERR_BYTES_MAX - stderr.len());
        stderr.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            self.truncated.set(true);
        }
    }

    /// How a call that came to its end has ended.
    pub fn status(&self) -> Status {
        if self.back_pressure.get() { again::status(&self.stderr.borrow()) } else { Status::Ok }
    }
}

/// A value that wasmtime wants to be `Send`, though it never leaves its thread.
pub struct OnOneThread<T>(pub T);

// SAFETY: a runtime and all its stores and futures stay on one thread: `WasmRuntime` holds `Rc`s outside of
// this wrapper too and so is not `Send` itself, and wasmtime moves no store data between threads.
unsafe impl<T> Send for OnOneThread<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for OnOneThread<T> {}

impl<T> Deref for OnOneThread<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for OnOneThread<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Where a guest's stdout goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stdout {
    /// A command: it is the result.
    Output,
    /// The fast ABI, which returns its result otherwise: what a library prints is a log.
    Stderr,
}

/// What a function's manifest grants it.
#[derive(PartialEq)]
pub struct Granted {
    /// `NAME=value` strings, each ended by a zero byte.
    pub environment: Vec<u8>,
    /// Directories.
    pub files: FileGrants,
}

impl Granted {
    /// `None` if it is nothing, which is usual.
    pub fn of(spec: &FunctionSpec) -> Option<Rc<Granted>> {
        let (environment, files) = (&spec.process.environment, &spec.files);
        let is_any = !environment.is_empty() || !files.is_empty();
        is_any.then(|| Rc::new(Granted { environment: strings(environment), files: files.clone() }))
    }
}

/// What an instance has of it.
pub struct Grants {
    /// What was granted.
    pub granted: Option<Rc<Granted>>,
    /// Its granted directories are open.
    pub files: Table,
}

/// A guest's store data.
pub struct Host {
    /// Shared with the core.
    pub desk: OnOneThread<Rc<Desk>>,
    /// The guest's memory, once it is there.
    pub memory: Option<Memory>,
    /// Bytes that memory may have.
    pub memory_bytes_max: u64,
    /// Where stdout goes.
    pub stdout: Stdout,
    /// Bytes of the payload that a command has read from stdin.
    pub stdin_at: usize,
    /// Bit n: file descriptor n of stdin, stdout, stderr is open.
    pub open: u8,
    /// A command's `argv[0]`.
    pub name: OnOneThread<Rc<str>>,
    /// What its manifest grants.
    pub granted: OnOneThread<Option<Rc<Granted>>>,
    /// Open files and directories.
    pub files: OnOneThread<Table>,
}

impl Host {
    /// A store for a guest, which yields at the end of each slice.
    pub fn store(
        engine: &Engine,
        desk: &Rc<Desk>,
        name: &Rc<str>,
        memory_bytes_max: u64,
        stdout: Stdout,
        grants: Grants,
    ) -> Store<Host> {
        let host = Host {
            desk: OnOneThread(desk.clone()),
            memory: None,
            memory_bytes_max,
            stdout,
            stdin_at: 0,
            open: 0b111,
            name: OnOneThread(name.clone()),
            granted: OnOneThread(grants.granted),
            files: OnOneThread(grants.files),
        };
        let mut store = Store::new(engine, host);
        store.limiter(|host| host);
        store.set_epoch_deadline(SLICE_TICKS);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(SLICE_TICKS)));
        store
    }
}

impl Host {
    /// The manifest's variables: `NAME=value` strings, each ended by a zero byte.
    pub fn environment(&self) -> &[u8] {
        self.granted.as_ref().map_or(&[], |granted| &granted.environment)
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired as u64 <= self.memory_bytes_max;
        if fits {
            self.desk.memory_bytes.set(self.desk.memory_bytes.get().max(desired as u64));
        } else {
            self.desk.memory_refused.set(true);
        }
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

/// A command ended itself with this exit status.
#[derive(Debug)]
pub struct Exit(pub i32);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {}", self.0)
    }
}

impl std::error::Error for Exit {}

/// A function broke the fast ABI.
#[derive(Debug)]
pub struct BadReply(pub String);

impl fmt::Display for BadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadReply {}

/// How a guest's end is told: status, exit code, and a text for people unless it ended by itself.
pub fn verdict(end: &wasmtime::Result<()>, desk: &Desk) -> (Status, i32, Option<String>) {
    let error = match end {
        Ok(()) => return (desk.status(), 0, None),
        Err(error) => error,
    };
    if let Some(BadReply(told)) = error.downcast_ref() {
        return (Status::BadReply, 0, Some(told.clone()));
    }
    match (error.downcast_ref::<Exit>(), error.downcast_ref::<Trap>()) {
        (Some(Exit(0)), _) => (desk.status(), 0, None),
        (Some(Exit(code)), _) if desk.memory_refused.get() => {
            (Status::Memory, *code, Some(out_of_memory(error)))
        }
        (Some(Exit(code)), _) if *code == back_pressure::EXIT_STATUS || desk.back_pressure.get() => {
            (again::status(&desk.stderr.borrow()), *code, None)
        }
        (Some(Exit(code)), _) => (Status::Exit, *code, None),
        _ if desk.memory_refused.get() => (Status::Memory, 0, Some(out_of_memory(error))),
        (_, Some(Trap::StackOverflow)) => (Status::Stack, 0, Some(format!("{error:?}"))),
        (_, Some(_)) => (Status::Trap, 0, Some(format!("{error:?}"))),
        _ => (Status::Unavailable, 0, Some(format!("cannot be instantiated: {error:?}"))),
    }
}

fn out_of_memory(error: &wasmtime::Error) -> String {
    format!("asked for more memory than `memory` in function.toml allows, then ended: {error:?}")
}
