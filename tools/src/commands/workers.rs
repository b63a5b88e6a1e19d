//! `millrace workers`

use super::quota::thousandths;
use crate::admin::Admin;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, table};
use crate::settings::{Connection, Environment};
use crate::shards::{Each, Of, Whole};
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
        let ask = |admin: &Admin| {
            let scaling: ScalingState = admin.get("/v1/scaling")?;
            let cores = if self.wanted { Vec::new() } else { admin.get::<Vec<CoreState>>("/v1/workers")? };
            Ok((cores, scaling))
        };
        let mut each = Each::ask(&self.node, environment, ask)?;
        let scaling = sum(each.said.iter().map(|(_, scaling)| scaling));
        if self.wanted {
            let part = |Of { shard, said: (_, said) }| Of { shard, said };
            let shards = each.take().into_iter().map(part).filter(|part| part.shard.is_some()).collect();
            self.output.print(&Whole { sum: scaling, shards }, |whole| wanted(&whole.sum));
            return each.end();
        }
        let cores = cores(each.take());
        if let Some(span) = self.sched {
            self.output.print(&watch(&cores, span)?, |seen| sched(seen));
            return each.end();
        }
        self.output.print(&cores, |cores| match self.backends {
            true => backends(cores),
            false => format!("{}\n{}", list(cores), wanted(&scaling)),
        });
        each.end()
    }
}

/// A core, and whose it is.
type Core = Of<CoreState>;

/// All cores, each once: that a shard sees the others' as if they were one core of its own is left out.
fn cores(said: Vec<Of<(Vec<CoreState>, ScalingState)>>) -> Vec<Core> {
    let of = |Of { shard, said: (cores, _) }: Of<(Vec<CoreState>, ScalingState)>| {
        let own = move |core: &CoreState| shard.is_none() || !core.far;
        cores.into_iter().filter(own).map(move |said| Of { shard, said })
    };
    said.into_iter().flat_map(of).collect()
}

/// What all shards want together: each has cores of its own.
fn sum<'a>(shards: impl Iterator<Item = &'a ScalingState> + Clone) -> ScalingState {
    let mut whole = shards.clone().next().cloned().unwrap_or_default();
    for ScalingState { cores, version, wanted } in shards.skip(1) {
        whole.cores += cores;
        // Of a sum there is one as long as a part has none.
        whole.version = whole.version.min(*version);
        whole.wanted.cores += wanted.cores;
        whole.wanted.needed_millis += wanted.needed_millis;
        if whole.wanted.reason != wanted.reason {
            whole.wanted.reason = if whole.version == 0 { String::new() } else { "mixed".into() };
        }
        let all = u64::from(whole.wanted.cores).max(1);
        whole.wanted.load = u32::try_from(whole.wanted.needed_millis / all).unwrap_or(u32::MAX);
    }
    whole
}

/// What the controllers say about how many cores there should be.
fn wanted(scaling: &ScalingState) -> String {
    let ScalingState { cores, wanted, .. } = scaling;
    let why = match wanted.reason.as_str() {
        "mixed" => "some shards have too much and others have not",
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

fn list(cores: &[Core]) -> String {
    let row = |core: &Core| {
        let core = &core.said;
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
    if cores.iter().all(|core| core.shard.is_none()) {
        let headings = ["host", "cpu", "pid", "state", "calls/slots", "credits", "finished", "heard"];
        return table(headings, cores.iter().map(row));
    }
    let placed = |core: &Core| {
        let [host, cpu, pid, state, slots, credits, finished, heard] = row(core);
        let shard = core.shard.map_or("-".into(), |shard| shard.to_string());
        [host, shard, cpu, pid, state, slots, credits, finished, heard]
    };
    let headings = ["host", "shard", "cpu", "pid", "state", "calls/slots", "credits", "finished", "heard"];
    table(headings, cores.iter().map(placed))
}

fn backends(cores: &[Core]) -> String {
    let rows = cores.iter().map(|core| &core.said).flat_map(|core| {
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

fn watch(cores: &[Core], span: Duration) -> Result<Vec<Sched>, Failure> {
    let refused = |error: bpf::BpfError| {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "see `millrace doctor`"));
        Failure::new(Exit::Machine, what, "eBPF", remedy)
    };
    let pids: Vec<u32> = cores.iter().map(|core| core.said.pid).collect();
    let queue = RunQueue::attach(&pids).map_err(refused)?;
    std::thread::sleep(span);
    let seen = queue.read().map_err(refused)?;
    let of = |core: &Core| {
        let core = &core.said;
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

#[cfg(test)]
mod tests {
    use super::*;
    use ::call::admin::Wanted;

    fn scaling(cores: u32, wanted: u32, needed_millis: u64, reason: &str) -> ScalingState {
        let load = (needed_millis / u64::from(wanted.max(1))) as u32;
        let version = u64::from(!reason.is_empty());
        let wanted = Wanted { cores: wanted, reason: reason.into(), needed_millis, load };
        ScalingState { cores, version, wanted }
    }

    #[test]
    fn shards_want_their_sum() {
        let high = scaling(1, 2, 1500, "high");
        assert_eq!(sum([&high].into_iter()), high, "a node that is alone says what it says");
        let both = sum([&high, &scaling(2, 2, 500, "high")].into_iter());
        assert_eq!((both.cores, both.wanted), (3, scaling(3, 4, 2000, "high").wanted));
        let mixed = sum([&high, &scaling(1, 1, 100, "low")].into_iter());
        assert_eq!((mixed.wanted.cores, mixed.wanted.reason.as_str()), (3, "mixed"));
        let unsaid = sum([&high, &scaling(1, 0, 0, "")].into_iter());
        assert_eq!((unsaid.version, unsaid.wanted.reason.as_str()), (0, ""), "one has said nothing yet");
    }
}
