//! `millrace workers`

use super::quota::thousandths;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, table};
use crate::settings::{Connection, Environment};
use crate::times::duration;
use ::call::admin::{CoreState, ScalingState};
use bpf::{CoreSched, RunQueue};
use serde::Serialize;
use std::time::Duration;

/// Lists worker cores.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  millrace workers\n  millrace workers --backends\n  millrace workers --sched 5s     # as root: who \
                  waits for its CPU\n  millrace workers --wanted -o json\n  millrace workers \
                  -o json\n\nNothing here starts or stops machines: `wanted` is for the tools that do (also GET /v1/scaling and \
                  millrace_cores_wanted)."
)]
pub struct Workers {
    /// Show which backend each core uses for each thing
    #[arg(long)]
    backends: bool,
    /// Show only how many cores there should be, and why
    #[arg(long, conflicts_with_all = ["backends", "sched"])]
    wanted: bool,
    /// Watch this host's cores for so long and show what the kernel's scheduler did with them (eBPF; needs root)
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "backends")]
    sched: Option<Duration>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Workers {
    pub fn run(self, environment: &Environment) -> Done {
        let admin = self.node.admin(environment)?;
        let scaling = || admin.get::<ScalingState>("/v1/scaling");
        if self.wanted {
            self.output.print(&scaling()?, wanted);
            return Ok(Exit::Ok);
        }
        let cores: Vec<CoreState> = admin.get("/v1/workers")?;
        if let Some(span) = self.sched {
            self.output.print(&watch(&cores, span)?, |seen| sched(seen));
            return Ok(Exit::Ok);
        }
        let scaling = scaling()?;
        self.output.print(&cores, |cores| match self.backends {
            true => backends(cores),
            false => format!("{}\n{}", list(cores), wanted(&scaling)),
        });
        Ok(Exit::Ok)
    }
}

/// What the controllers say about how many cores there should be.
fn wanted(scaling: &ScalingState) -> String {
    let ScalingState { cores, wanted, .. } = scaling;
    let why = match wanted.reason.as_str() {
        "in-band" => "which is neither too much nor too little",
        "high" => "which is too much; more are wanted if it stays so",
        "most" => "which is too much, but there may be no more",
        "low" => "which is little; fewer are wanted if it stays so",
        "least" => "which is little, but there may be no fewer",
        _ => return format!("cores: {cores}; no controller has said yet how many there should be"),
    };
    let needed = thousandths(Some(wanted.needed_millis));
    let percent = f64::from(wanted.load) / 10.0;
    format!(
        "cores: {cores}, wanted {}: calls that may not wait need {needed} cores, {percent:.0}% of these, {why}",
        wanted.cores
    )
}

fn list(cores: &[CoreState]) -> String {
    let row = |core: &CoreState| {
        [
            core.host.clone(),
            core.cpu.to_string(),
            core.pid.to_string(),
            core.state.clone(),
            format!("{}/{}", core.leased, core.slots),
            core.credits.to_string(),
            core.finished.to_string(),
            format!("{} ms ago", core.silent_ms),
        ]
    };
    table(
        ["host", "cpu", "pid", "state", "calls/slots", "credits", "finished", "heard"],
        cores.iter().map(row),
    )
}

fn backends(cores: &[CoreState]) -> String {
    let rows = cores.iter().flat_map(|core| {
        core.backends
            .iter()
            .map(|(thing, backend)| [core.host.clone(), core.cpu.to_string(), thing.clone(), backend.clone()])
    });
    table(["host", "cpu", "thing", "backend"], rows)
}

/// What the kernel's scheduler did with a core while it was watched.
#[derive(Serialize)]
struct Sched {
    cpu: u32,
    pid: u32,
    /// Share of the time that it ran, in thousandths.
    ran_thousandths: u64,
    /// Times that it came onto its CPU.
    switches: u64,
    /// From being ready to running, ns; a bucket's upper bound.
    delay_p50_ns: Option<u64>,
    delay_p99_ns: Option<u64>,
}

fn watch(cores: &[CoreState], span: Duration) -> Result<Vec<Sched>, Failure> {
    let refused = |error: bpf::BpfError| {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "see `millrace doctor`"));
        Failure::new(Exit::Machine, what, "eBPF", remedy)
    };
    let pids: Vec<u32> = cores.iter().map(|core| core.pid).collect();
    let queue = RunQueue::attach(&pids).map_err(refused)?;
    std::thread::sleep(span);
    let seen = queue.read().map_err(refused)?;
    let of = |core: &CoreState| {
        let seen = seen.iter().find(|seen| seen.pid == core.pid)?;
        Some(sched_of(core, seen, span))
    };
    Ok(cores.iter().filter_map(of).collect())
}

fn sched_of(core: &CoreState, seen: &CoreSched, span: Duration) -> Sched {
    let quantile = |share| seen.delays.quantile(share).map(::call::time::nanos);
    Sched {
        cpu: core.cpu,
        pid: core.pid,
        ran_thousandths: seen.cpu_ns * 1000 / ::call::time::nanos(span).max(1),
        switches: seen.switches,
        delay_p50_ns: quantile(0.5),
        delay_p99_ns: quantile(0.99),
    }
}

fn sched(seen: &[Sched]) -> String {
    let micros = |ns: Option<u64>| ns.map_or("-".to_owned(), |ns| format!("{} us", ns / 1000));
    let row = |core: &Sched| {
        [
            core.cpu.to_string(),
            core.pid.to_string(),
            format!("{:.1}%", core.ran_thousandths as f64 / 10.0),
            core.switches.to_string(),
            micros(core.delay_p50_ns),
            micros(core.delay_p99_ns),
        ]
    };
    table(["cpu", "pid", "ran", "switches", "run-queue delay p50", "p99"], seen.iter().map(row))
}
