//! `make bench`: every figure with bar, aim, floor and rival of the same run; see `benches/README.md`.
//!
//! `bench [--json PATH] [--smoke] [--only PART] [--scenario NAME] [--ms TIME] [--no-rivals]`: the parts are core, process,
//! scheduler, gtc, fleet (all scenarios, or that of the name), waiting and durable, each measurement of the durable cycle lasts 3000 ms; `--smoke` measures for an instant only, to see that everything runs.

use benches::durable::{self, Acknowledged, Cycle, ENQUEUED_PAYLOAD, LARGE_PAYLOAD, PAYLOAD};
use benches::generator::quantile_us;
use benches::platform::Platform;
use benches::versus::{PAIRS, Rivals};
use benches::{Figure, Report, floors};
use driver::topology;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Programs that measure tables of a control node: these stand in large pages, as they do there.
const OF_THE_NODE: [&str; 2] = ["scheduler_alone", "waiting"];

/// What was asked for.
struct Options {
    json: PathBuf,
    smoke: bool,
    /// One part, or all.
    only: Option<String>,
    /// Of the fleet, one scenario, or all.
    scenario: Option<String>,
    /// Whether other systems are measured too.
    rivals: bool,
    /// How long each measurement lasts.
    span: Duration,
}

/// One round: ours beside the rivals, within the same seconds.
struct Round {
    cycle: Cycle,
    ack: Acknowledged,
    dsync_us: f64,
}

fn main() -> ExitCode {
    match bench() {
        Ok(missing) if missing.is_empty() => ExitCode::SUCCESS,
        Ok(missing) => {
            missing.iter().for_each(|why| eprintln!("NOT MEASURED: {why}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything; what could not be, with the reason.
fn bench() -> io::Result<Vec<String>> {
    let options = options()?;
    let wanted = |part: &str| options.only.as_ref().is_none_or(|only| only == part);
    let mut missing = Vec::new();
    if wanted("core") {
        println!("== a worker core alone: the load on one CPU, the core on another");
        alone("core_alone", &options)?;
    }
    if wanted("process") {
        println!(
            "== process functions of one core: the load on one CPU, the core on another, functions anywhere"
        );
        if let Err(error) = alone("process_alone", &options) {
            missing.push(error.to_string());
        }
    }
    if wanted("scheduler") {
        println!("== the scheduler alone: 20,000 functions, a million calls, one core");
        alone("scheduler_alone", &options)?;
    }
    if wanted("gtc") {
        println!(
            "== the Global Traffic Conductor: one period in which the demand of all regions has changed"
        );
        let mut report = Report::default();
        benches::conductor::measure(&mut report);
        report.write(&options.json)?;
    }
    if wanted("fleet") {
        println!("== a fleet in simulation: the production deciders at the paper's scale, on all CPUs");
        let mut report = Report::default();
        benches::fleet::measure(
            &mut report,
            &beside("millrace")?,
            options.smoke,
            options.scenario.as_deref(),
        )?;
        report.write(&options.json)?;
    }
    if wanted("waiting") {
        println!("== DurableQ with many calls that wait: one thread, plain reads and writes without syncs");
        alone("waiting", &options)?;
    }
    if wanted("durable") {
        println!(
            "== the durable cycle: client and node on one CPU, the worker core on another, rivals anywhere"
        );
        println!(
            "   first submit to the end of the last call, by the node's count; the median of three rounds"
        );
        missing.extend(durable_cycle(&options)?);
        println!("   heap allocations per call, of node and core: none, held by `cargo test -p allocation`");
    }
    println!("written to {}", options.json.display());
    Ok(missing)
}

/// The program of this name that was built with this one.
fn beside(name: &str) -> io::Result<PathBuf> {
    std::env::current_exe().map(|exe| exe.with_file_name(name))
}

fn durable_cycle(options: &Options) -> io::Result<Vec<String>> {
    let mut report = Report::default();
    // Before the others: they leave the disk busy for a while.
    enqueue(options, &mut report)?;
    let platform = Platform::start(&beside("millrace")?)?;
    let (mut rounds, mut rivals) = (Vec::new(), Rivals::default());
    let pairs_of = if options.smoke { &PAIRS[..1] } else { &PAIRS[..] };
    for &pairs in pairs_of {
        if options.rivals {
            rivals.before(pairs, PAYLOAD, options.span);
        }
        rounds.push(pinned(0, || round(&platform, options.span))?);
        if options.rivals {
            rivals.after(PAYLOAD, options.span);
        }
    }
    add(&mut report, &rounds, &rivals);
    let (mut cycles, mut large) = (Vec::new(), Rivals::default());
    for &pairs in pairs_of {
        if options.rivals {
            large.before(pairs, LARGE_PAYLOAD, options.span);
        }
        match pinned(0, || durable::run(&platform, LARGE_PAYLOAD, options.span)) {
            Ok(cycle) => cycles.push(cycle),
            Err(error) => large.missing.push(format!("the cycle of {LARGE_PAYLOAD} B: {error}")),
        }
        if options.rivals {
            large.after(LARGE_PAYLOAD, options.span);
        }
    }
    if !cycles.is_empty() {
        let rate = median(&cycles, |cycle| cycle.calls_per_s);
        report.add(Figure::new("durable-cycle-rate-4k", rate, "calls/s"));
        report.add(Figure::new("durable-cycle-cpu-per-call-4k", median(&cycles, |cycle| cycle.cpu_us), "us"));
        large.add(&mut report, "-4k", rate);
    }
    report.write(&options.json)?;
    let mut missing = [rivals.missing, large.missing].concat();
    missing.sort();
    missing.dedup();
    Ok(if options.smoke { Vec::new() } else { missing })
}

/// Calls that only come: the node has the first CPU, its client the other one, where the worker core has nothing to do.
fn enqueue(options: &Options, report: &mut Report) -> io::Result<()> {
    let platform = Platform::start(&beside("millrace")?)?;
    let enqueued = pinned(1, || durable::enqueue(&platform, ENQUEUED_PAYLOAD, options.span / 3))?;
    let dsync_us = floors::dsync_us(&benches::scratch()?, 100)?;
    let rate = Figure::new("durable-enqueue-rate", enqueued.calls_per_s, "calls/s").bar(400e3, 1e6);
    report.add(rate.floor("disk sync us", dsync_us));
    report.add(Figure::new("durable-enqueue-cpu-per-call", enqueued.cpu_us, "us"));
    Ok(())
}

fn options() -> io::Result<Options> {
    let (json, span) = (benches::scratch()?.join("report.json"), Duration::from_secs(3));
    let mut options = Options { json, smoke: false, only: None, scenario: None, rivals: true, span };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| io::Error::other(format!("{argument} wants a value")));
        match argument.as_str() {
            "--smoke" => (options.smoke, options.span) = (true, Duration::from_millis(200)),
            "--no-rivals" => options.rivals = false,
            "--json" => options.json = value()?.into(),
            "--only" => options.only = Some(value()?),
            "--scenario" => options.scenario = Some(value()?),
            "--ms" => options.span = Duration::from_millis(value()?.parse().map_err(io::Error::other)?),
            other => return Err(io::Error::other(format!("`{other}` is no option of the bench"))),
        }
    }
    Ok(options)
}

/// Has the program of this name measure its part.
fn alone(name: &str, options: &Options) -> io::Result<()> {
    let binary = beside(name)?;
    let mut command = Command::new(&binary);
    command.arg("--json").arg(&options.json);
    if OF_THE_NODE.contains(&name) {
        command.env(topology::TUNABLES, topology::HUGE);
    }
    if options.smoke {
        command.arg("--smoke");
    }
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{}: {status}", binary.display()))) }
}

/// On a thread that has this one of the CPUs; `up` gives the first to the node.
fn pinned<T: Send>(cpu: usize, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(move || {
            let cpus = topology::cpus();
            topology::pin(cpus[cpu.min(cpus.len() - 1)])?;
            work()
        });
        pinned.join().expect("a measurement does not panic")
    })
}

fn round(platform: &Platform, span: Duration) -> io::Result<Round> {
    let cycle = durable::run(platform, PAYLOAD, span)?;
    let dsync_us = floors::dsync_us(&benches::scratch()?, 1 + span.as_millis() as usize / 10)?;
    let ack = durable::acknowledge(platform, cycle.calls_per_s / 2.0, dsync_us, span)?;
    println!("   acknowledgements: {}", ack.told);
    Ok(Round { cycle, ack, dsync_us })
}

/// The middle one of the rounds.
fn median<T>(rounds: &[T], of: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn add(report: &mut Report, rounds: &[Round], rivals: &Rivals) {
    let rate = median(rounds, |round| round.cycle.calls_per_s);
    let cpu_us = median(rounds, |round| round.cycle.cpu_us);
    let dsync_us = median(rounds, |round| round.dsync_us);
    let mut figure = Figure::new("durable-cycle-rate", rate, "calls/s").bar(250e3, 800e3);
    let mut cpu = Figure::new("durable-cycle-cpu-per-call", cpu_us, "us").bar(6.0, 2.0);
    if let Some(redis) = rivals.of("redis") {
        figure = figure.rival("redis jobs/s", redis.jobs_per_s);
        cpu = cpu.rival("redis us", redis.cpu_us);
    }
    rivals.add(report, "", rate);
    report.add(figure);
    report.add(cpu);
    for (at, (name, _)) in rounds[0].cycle.cpu_us_of.iter().enumerate() {
        let us = median(rounds, |round| round.cycle.cpu_us_of[at].1);
        report.add(Figure::new(&format!("durable-cycle-cpu-per-call-{name}"), us, "us"));
    }
    let groups = median(rounds, |round| round.cycle.groups_per_s);
    report.add(Figure::new("durable-cycle-log-groups", groups, "groups/s").floor("disk sync us", dsync_us));
    let bytes = median(rounds, |round| round.cycle.log_bytes_per_call);
    report.add(Figure::new("durable-cycle-log-bytes-per-call", bytes, "bytes"));
    add_acknowledgements(report, rounds);
}

fn add_acknowledgements(report: &mut Report, rounds: &[Round]) {
    let dsync_us = median(rounds, |round| round.dsync_us);
    let p99_us = |round: &Round| quantile_us(&round.ack.windows.result().latency_ns, 0.99);
    let ack_us = median(rounds, p99_us);
    report.add(Figure::new("submit-ack-p99-at-half-load-us", ack_us, "us").floor("disk sync us", dsync_us));
    let p50_us = median(rounds, |round| quantile_us(&round.ack.windows.result().latency_ns, 0.5));
    report.add(Figure::new("submit-ack-p50-at-half-load-us", p50_us, "us").floor("disk sync us", dsync_us));
    let late_us = median(rounds, |round| quantile_us(&round.ack.windows.result().lateness_ns, 0.99));
    report.add(Figure::new("submit-ack-p99-at-half-load-generator-late", late_us, "us"));
    let counted = rounds.iter().map(|round| round.ack.windows.count.0).sum::<usize>();
    report.add(Figure::new("submit-ack-p99-at-half-load-windows", counted as f64, "counted"));
    let syncs = median(rounds, |round| p99_us(round) / round.dsync_us);
    let figure = Figure::new("submit-ack-p99-at-half-load", syncs, "syncs").bar(6.0, 3.0);
    report.add(figure.floor("disk sync us", dsync_us));
}
