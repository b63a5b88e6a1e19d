//! `millrace demo`: the whole platform on this machine, under eight real hours of traffic in about a minute.
//!
//! One way, told here in order: start everything embedded ([`platform`]), deploy the trace's functions ([`deploy`]),
//! measure a round of each kind of work, replay the trace with two kills on the way ([`faults`]), stop cleanly, and
//! report from the replayer's own ledger ([`report`]). Nothing in the report's totals is asked of the system.

mod plan;
mod inputs;
mod platform;
mod deploy;
mod faults;
mod report;

use crate::exit::{Exit, Failure};
use crate::replay::{self, Ledger, Progress};
use crate::trace::Trace;
use inputs::Inputs;
use plan::Work;
use platform::Platform;
use std::path::PathBuf;
use std::time::Duration;

/// Seed of what the trace leaves open: where in its minute a call begins, where in its percentiles it lies.
const SEED: u64 = 2019;
/// Calls on their way to the disk at most.
const WINDOW: usize = 16_384;

/// What the demo needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The project's folder: inputs are in it.
    pub project: PathBuf,
    /// Folder with the functions' wasm files.
    pub guests: PathBuf,
    /// The trace.
    pub trace: PathBuf,
    /// Where data directory, ledger, picture and report go.
    pub out: PathBuf,
    /// How long the replay shall take.
    pub seconds: f64,
    /// Worker cores; as `millrace up` decides, if not given.
    pub cores: Option<u16>,
    /// Whether a core and the node are killed on the way.
    pub kills: bool,
}

/// Runs the demo; the exit code tells whether the platform kept its promises.
///
/// # Errors
/// If it could not be run: a missing input, a port in use, a function that does not deploy.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let trace = Trace::read(&options.trace, SEED)?;
    let factor = trace.span.as_secs_f64() / options.seconds;
    let works = plan::works(&trace);
    let mut inputs = Inputs::read(&options.project)?;
    report::introduce(&trace, &works, factor);

    crate::interrupt::flag();
    let mut platform = Platform::start(&options.out, options.cores)?;
    let targets = deploy::all(&platform, &trace, &works, &options.guests)?;
    measure_rounds(&platform, &works, &targets, &mut inputs)?;

    let scaled = trace.scaled(factor, plan::RUN_SCALE);
    let cpu_before = platform.cpu();
    let mut faults = faults::Faults::new(options.kills, options.seconds);
    let settings = replay::Options {
        endpoint: platform.endpoint(),
        targets,
        window: WINDOW,
        patience: Duration::from_secs(30),
        quiet: Duration::from_secs(30),
    };
    let payload = |arrival: &crate::trace::Arrival, out: &mut Vec<u8>| {
        inputs.arguments(works[arrival.function as usize], arrival, out);
    };
    let mut told = Duration::ZERO;
    let progress = |progress: &Progress| {
        faults.step(&platform, progress);
        report::progress(progress, scaled.arrivals.len() as u64, &mut told);
        !crate::interrupt::is_asked()
    };
    let (ledger, ended_early) = replay::run(&settings, &scaled, payload, progress);
    let cpu = platform.stop()?.saturating_sub(cpu_before);
    if let Some(error) = ended_early {
        return Err(error.into());
    }
    finish(options, &scaled, &works, &ledger, &faults, cpu)
}

fn finish(
    options: &Options,
    trace: &Trace,
    works: &[Work],
    ledger: &Ledger,
    faults: &faults::Faults,
    cpu: Duration,
) -> Result<Exit, Failure> {
    let report = report::Report::new(trace, works, ledger, faults.done(), cpu);
    report.write(&options.out, trace, ledger)?;
    report.print(&options.out);
    Ok(if report.is_whole() { Exit::Ok } else { Exit::Failed })
}

/// How long one round of each kind of work takes here: the trace's run times become rounds by it.
fn measure_rounds(
    platform: &Platform,
    works: &[Work],
    targets: &[call::FunctionId],
    inputs: &mut Inputs,
) -> Result<(), Failure> {
    const ROUNDS: u32 = 400;
    for work in Work::ALL.into_iter().filter(|work| work.has_rounds()) {
        let Some(at) = works.iter().position(|w| *w == work) else { continue };
        let mut arguments = Vec::new();
        inputs.rounds(work, ROUNDS, &mut arguments);
        // The first call loads the code; the second is measured.
        platform.call(targets[at], &arguments)?;
        let usage = platform.call(targets[at], &arguments)?;
        inputs.set_round_us(work, usage.cpu_ns as f64 / 1e3 / f64::from(ROUNDS));
    }
    Ok(())
}
