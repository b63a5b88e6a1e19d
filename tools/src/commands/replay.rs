//! `millrace replay`

use super::arguments::spinner;
use super::load::spread;
use crate::admin::{Admin, function_name};
use crate::deployment::{Package, wait_until_ready};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::{Output, pairs};
use crate::regions::everywhere::Everywhere;
use crate::replay::{Ledger, Options, Progress, Summary, busy, picture, run};
use crate::settings::{Connection, Environment};
use crate::times::duration;
use crate::trace::{Arrival, Trace, TraceFunction, azure2019};
use ::call::{FunctionId, FunctionSpec};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace replay tests/data/azure2019-250 --deploy --compress 480 --ledger ledger.csv --picture calls.svg
  millrace replay tests/data/azure2019-250 --deploy=spin.wasm --compress 480
  millrace replay invocations-200.csv --function spin --compress 60 --run-scale 100

Formats: a directory with invocations.csv, durations.csv and memory.csv (Azure 2019), or one file (2019 or 2021); see
tools/README.md. Each call gets the arguments {\"run_us\": N, \"memory_kib\": N, \"trigger\": TEXT}: its function is to keep
a CPU busy for so long and touch so much memory, as the built-in one of --deploy does. The ledger is the replayer's own account, call by call; it survives
restarts of the node, to which it submits again, under the same ids, what is not settled.";

/// Replays a trace.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["function", "deploy"])))]
pub struct Replay {
    /// A directory (Azure 2019) or a file (Azure 2019 or 2021)
    trace: PathBuf,
    /// Run-time percentiles, if TRACE is the invocations file of the 2019 format
    #[arg(long, value_name = "FILE")]
    durations: Option<PathBuf>,
    /// Memory percentiles, likewise
    #[arg(long, value_name = "FILE")]
    memory: Option<PathBuf>,
    /// Send all calls to this deployed function: NAME or NAMESPACE/NAME
    #[arg(long)]
    function: Option<String>,
    /// Deploy a wasm file once for each function of the trace, in namespace `trace` [without a value: a built-in one]
    #[arg(long, value_name = "WASM", num_args = 0..=1, require_equals = true)]
    deploy: Option<Option<PathBuf>>,
    /// Time passes so many times faster than in the trace
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    compress: f64,
    /// Run times are divided by this, or by what makes the calls fill half of --cores (`auto`)
    #[arg(long, value_name = "FACTOR|auto", default_value = "auto")]
    run_scale: String,
    /// Memory is divided by this, or by what makes the largest call touch 1 MiB (`auto`, where run times shrink)
    #[arg(long, value_name = "FACTOR|auto", default_value = "auto")]
    memory_scale: String,
    /// Cores that run the calls, for `--run-scale auto`
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    cores: f64,
    /// Seed of what the trace leaves open
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replay only the calls of the first so much of the trace (before compression)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    until: Option<Duration>,
    /// Calls on their way to the node's disk at most
    #[arg(long, default_value_t = 16_384)]
    window: usize,
    /// How long a node that is gone is waited for
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    patience: Duration,
    /// End when the last call has left and no outcome has come for so long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    quiet: Duration,
    /// Write the ledger: one CSV line per call
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Draw received and executed calls per minute of the trace
    #[arg(long, value_name = "SVG")]
    picture: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

/// A factor that does not stop or turn time.
fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(factor),
        _ => Err("write a number above zero".into()),
    }
}

/// What the largest call touches with `--memory-scale auto`.
const MEMORY_KIB_AUTO: u32 = 1024;

/// A factor, or `auto`.
fn scale(option: &str, text: &str, auto: f64) -> Result<f64, Failure> {
    if text == "auto" {
        return Ok(auto);
    }
    factor(text).map_err(|error| Failure::new(Exit::Usage, format!("`{text}`: {error}"), option, "or `auto`"))
}

impl Replay {
    pub fn run(self, environment: &Environment) -> Done {
        let whole = self.read()?;
        let minutes = (whole.span.as_secs_f64() / 60.0).ceil().max(1.0) as usize;
        let compressed = whole.scaled(self.compress, 1.0);
        let run_scale = scale("--run-scale", &self.run_scale, compressed.run_scale_for(self.cores, 0.5))?;
        // Where run times stay as they are, so does memory.
        let small = if run_scale > 1.0 { compressed.memory_scale_for(MEMORY_KIB_AUTO) } else { 1.0 };
        let memory_scale = scale("--memory-scale", &self.memory_scale, small)?;
        let trace = compressed.scaled(1.0, run_scale).with_memory_divided(memory_scale);
        let options = Options {
            endpoint: self.node.endpoint(environment)?,
            targets: self.targets(environment, &trace)?,
            window: self.window,
            patience: self.patience,
            quiet: self.quiet,
        };
        interrupt::flag();
        let spinner = spinner();
        let tell = |progress: &Progress| {
            let gone = if progress.is_connected { "" } else { ", the node is gone" };
            spinner.set_message(format!("{} submitted, {} ended{gone}", progress.submitted, progress.ended));
            !interrupt::is_asked()
        };
        let write = |arrival: &Arrival, out: &mut Vec<u8>| arguments(arrival, &trace.functions, out);
        let (ledger, error) = run(&options, &trace, write, tell);
        spinner.finish_and_clear();
        if let Some(path) = &self.ledger {
            ledger.write(path, &trace)?;
        }
        if let Some(path) = &self.picture {
            let svg = picture(&ledger, minutes, "minute of the trace");
            std::fs::write(path, svg).map_err(|error| Failure::file("write the picture", path, &error))?;
        }
        self.report(&ledger, error)
    }

    fn read(&self) -> Result<Trace, Failure> {
        let mut trace = match (&self.durations, &self.memory) {
            (None, None) => Trace::read(&self.trace, self.seed)?,
            (durations, memory) => {
                azure2019::read(&self.trace, durations.as_deref(), memory.as_deref(), self.seed)?
            }
        };
        if let Some(until) = self.until {
            let end = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
            trace.arrivals.truncate(trace.arrivals.partition_point(|arrival| arrival.at_us < end));
            trace.span = trace.span.min(until);
        }
        if trace.arrivals.is_empty() {
            let place = self.trace.display().to_string();
            return Err(Failure::input("the trace has no calls", place, "check the file and --until"));
        }
        Ok(trace)
    }

    /// Which function stands for each function of the trace; deploys them if asked to.
    fn targets(&self, environment: &Environment, trace: &Trace) -> Result<Vec<FunctionId>, Failure> {
        if let Some(function) = &self.function {
            let (namespace, name) = function_name(function)?;
            return Ok(vec![FunctionId::of(&namespace, &name); trace.functions.len()]);
        }
        let spec = FunctionSpec { name: "trace".into(), ..FunctionSpec::default() };
        let package = match &self.deploy {
            Some(Some(wasm)) => Package::read_wasm(spec, wasm)?,
            _ => Package::new(spec, busy(), "the built-in function")?,
        };
        let mut packages = Vec::with_capacity(trace.functions.len());
        for (index, function) in trace.functions.iter().enumerate() {
            let mut package = package.clone();
            package.spec.namespace = "trace".into();
            package.spec.name = name(index, function);
            package.spec.timeout_ms = 10 * 60 * 1000;
            // Twice what the trace says, so that a guest's own needs have room.
            let wanted = u64::from(function.memory_kib_max) << 11;
            package.spec.memory_bytes = wanted.clamp(package.spec.memory_bytes, 4 << 30);
            packages.push(package);
        }
        // A call runs where its id says: each node that takes some has all functions.
        let ready = |admin: &Admin| {
            let deploy = |package: &Package| package.deploy(admin).map(|state| state.spec);
            let specs: Vec<FunctionSpec> = packages.iter().map(deploy).collect::<Result<_, _>>()?;
            let wait = |spec| wait_until_ready(admin, spec, Duration::from_secs(60), |_| {}).map(drop);
            specs.iter().try_for_each(wait)
        };
        Everywhere::order(&self.node, environment, ready)?.end()?;
        Ok(packages.iter().map(|package| package.spec.id()).collect())
    }

    fn report(&self, ledger: &Ledger, error: Option<millrace_client::Error>) -> Done {
        let summary = ledger.summary();
        self.output.print(&summary, show);
        if let Some(error) = error {
            return Err(error.into());
        }
        if interrupt::is_asked() {
            return Ok(Exit::Interrupted);
        }
        let bad = summary.calls - summary.fates.get(&crate::replay::Fate::Completed).copied().unwrap_or(0);
        if bad == 0 {
            return Ok(Exit::Ok);
        }
        let what = format!("{bad} of {} calls did not end well", summary.calls);
        let exit = if summary.lost > 0 { Exit::TimedOut } else { Exit::Failed };
        Err(Failure::new(
            exit,
            what,
            self.trace.display().to_string(),
            "the ledger (--ledger FILE) has each of them; those without an outcome may still wait: `millrace queue list`",
        ))
    }
}

/// What the functions of the demo and the tests read.
fn arguments(arrival: &Arrival, functions: &[TraceFunction], out: &mut Vec<u8>) {
    let trigger = &functions[arrival.function as usize].trigger;
    let (run, memory) = (arrival.run_us, arrival.memory_kib);
    write!(out, r#"{{"run_us":{run},"memory_kib":{memory},"trigger":"{}"}}"#, trigger.escape_default())
        .expect("memory takes everything");
}

/// A function of the trace, deployed: its place in the file and the beginning of its hash.
fn name(index: usize, function: &TraceFunction) -> String {
    let hash: String = function.name.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("f{index:05}-{hash}")
}

fn show(summary: &Summary) -> String {
    let mut rows = vec![
        ("calls".to_owned(), summary.calls.to_string()),
        ("submitted".into(), summary.submitted.to_string()),
        ("accepted".into(), summary.accepted.to_string()),
    ];
    rows.extend(
        summary.fates.iter().map(|(fate, count)| (format!("{fate:?}").to_lowercase(), count.to_string())),
    );
    rows.extend(
        summary.failed.iter().map(|(status, count)| (format!("failed: {status}"), count.to_string())),
    );
    rows.extend(summary.refused.iter().map(|(word, count)| (format!("refused: {word}"), count.to_string())));
    rows.extend([
        ("lost".into(), summary.lost.to_string()),
        ("delivered again".into(), summary.delivered_again.to_string()),
        ("cold starts".into(), summary.cold_starts.to_string()),
        ("seconds".into(), format!("{:.1}", summary.seconds)),
        ("calls/s".into(), format!("{:.0}", summary.calls_per_second)),
        ("CPU in functions".into(), format!("{:.1} us per call", summary.function_cpu_us)),
        ("late".into(), spread(&summary.lateness)),
        ("ack".into(), spread(&summary.acknowledgement)),
        ("queueing".into(), spread(&summary.queueing)),
        ("execution".into(), spread(&summary.execution)),
        ("end to end".into(), spread(&summary.end_to_end)),
    ]);
    pairs(rows)
}
