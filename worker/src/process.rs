//! The process of one core, as `millrace core` runs it: pinned to its CPU, with the real driver and runtime.
//!
//! SIGTERM drains it, SIGUSR1 has it write its [`crate::Stats`] to stderr, as it does at its end.

use crate::core::Core;
use crate::plan::{Plan, TICK};
use call::limits::Limits;
use driver::notes::say;
use driver::shell::{self, Shell};
use driver::uring::{self, Uring};
use driver::{Arrivals, Driver, topology};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use runtime::process::{self, ProcessRuntime};
use runtime::wasm::{self, WasmRuntime};
use runtime::{ByKind, Room, Runtime};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// SIGTERM came.
static DRAIN: AtomicBool = AtomicBool::new(false);
/// SIGUSR1 came.
static TELL: AtomicBool = AtomicBool::new(false);

/// Why a core's process could not start.
#[derive(Debug)]
pub enum StartError {
    /// The CPU, or the ring; with the remedy.
    Driver(io::Error),
    /// The engine or its timer; with the remedy.
    Runtime(wasm::StartError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Driver(error) => write!(f, "{error}"),
            StartError::Runtime(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::Driver(error)
    }
}

/// Runs the core on `cpu` until it has drained. Says on stderr which backend it uses for each thing.
///
/// # Errors
/// If the process may not use what it needs: the CPU, io_uring, memory to lock, address space for the instances.
pub fn run(plan: &Plan, cpu: u32, limits: &Limits) -> Result<(), StartError> {
    listen_to_signals().map_err(io::Error::from)?;
    if plan.jailer.is_some() || !plan.files_allowed.is_empty() {
        raise_descriptor_limit();
    }
    let options = uring::Options { connections_max: connections_max(plan), ..uring::Options::default() };
    shell::run_pinned(cpu as usize, options, |driver, shell| serve(plan, cpu, limits, driver, shell))?
}

/// The one to the node, and those that end while it is made anew; with process functions the one to the jailer, and two
/// pipes and some connections of each sandbox.
fn connections_max(plan: &Plan) -> usize {
    let of_sandboxes = process::Options::SANDBOXES as usize * 16;
    8 + if plan.jailer.is_some() { of_sandboxes } else { 0 }
}

/// Each sandbox takes some descriptors, as do files that functions were granted, and the usual limit of 1,024 is soft.
/// Where it cannot be raised, sandboxes that find none left are not made, which says why.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The loop, as one task of the CPU's executor.
async fn serve(
    plan: &Plan,
    cpu: u32,
    limits: &Limits,
    driver: Uring,
    mut shell: Shell,
) -> Result<(), StartError> {
    let room = Room::new(limits);
    let options = wasm::Options {
        room: room.clone(),
        slots: plan.slots,
        slice: TICK,
        files_allowed: plan.files_allowed.clone(),
        ..wasm::Options::new(&plan.cache)
    };
    let wasm = WasmRuntime::new(options).map_err(StartError::Runtime)?;
    let processes = ProcessRuntime::new(process::Options {
        slots: plan.slots,
        sandboxes: process::Options::SANDBOXES,
        cpu,
        jailer: plan.jailer.clone(),
        bundles: plan.cache.join("bundles"),
        room,
    });
    let runtime = ByKind::new(wasm, processes, plan.slots);
    let mut core = Core::new(plan.core(cpu), limits.clone(), driver, runtime);
    tell_backends(&core, cpu);
    let mut arrivals = Arrivals::new();
    while !core.finished() {
        let until = core.turn(&arrivals);
        tend(&mut core, cpu);
        shell.reap(core.driver(), until, &mut arrivals).await;
    }
    tend(&mut core, cpu);
    say(format_args!("millrace core {cpu}: event=ended {}", core.stats()));
    Ok(())
}

/// Says which backend is in force for each thing.
fn tell_backends<D: Driver, R: Runtime>(core: &Core<D, R>, cpu: u32) {
    let mut backends = core.backends();
    backends.push(("pinning".into(), format!("CPU {cpu}, one glommio executor")));
    let memlock =
        topology::memlock_limit().map_or("no limit".into(), |bytes| format!("{} KiB at most", bytes >> 10));
    backends.push(("locked memory".into(), memlock));
    for (thing, backend) in backends {
        say(format_args!("millrace core {cpu}: {thing}: {backend}"));
    }
}

extern "C" fn heard(signal: libc::c_int) {
    match signal {
        libc::SIGTERM => DRAIN.store(true, Relaxed),
        _ => TELL.store(true, Relaxed),
    }
}

/// Lets the two signals set their flags. Without `SA_RESTART`: a sleeping core is to notice.
fn listen_to_signals() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(heard), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
        // SAFETY: the handler does one store to an atomic, which is safe at any instant.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// What a core's process does beside the core's turns: signals, and lines for people.
fn tend<D: Driver, R: Runtime>(core: &mut Core<D, R>, cpu: u32) {
    if DRAIN.swap(false, Relaxed) {
        core.drain();
    }
    for line in core.notes() {
        say(format_args!("millrace core {cpu}: {line}"));
    }
    if TELL.swap(false, Relaxed) {
        say(format_args!("millrace core {cpu}: event=stats {}", core.stats()));
    }
}
