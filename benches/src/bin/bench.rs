//! `make bench`: every figure with bar, aim, floor and rival of the same run; see `benches/README.md`.
//!
//! `bench [--json PATH] [--smoke] [--only PART] [--scenario NAME] [--ms TIME] [--no-rivals]`: the parts are core, process,
//! gtc, fleet (all scenarios, or that of the name) and durable, each measurement of the durable cycle lasts 3000 ms; `--smoke` measures for an instant only, to see that everything runs.

use benches::durable::{self, Acknowledged, Cycle, PAYLOAD};
use benches::generator::quantile_us;
use benches::platform::Platform;
use benches::rivals::{Rate, beanstalkd, redis};
use benches::{Figure, Report, floors};
use driver::topology;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Pairs of clients that Redis is tried with, one number a round; its best counts.
const REDIS_PAIRS: [usize; 3] = [1, 2, 4];

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
    let (mut report, mut missing) = (Report::default(), Vec::new());
    let platform = Platform::start(&beside("millrace")?)?;
    let (mut rounds, mut redis_best, mut beanstalkd_best) = (Vec::new(), None, None);
    for pairs in REDIS_PAIRS {
        if options.rivals {
            best(&mut redis_best, redis::run(pairs, PAYLOAD, options.span), &mut missing);
        }
        rounds.push(pinned(|| round(&platform, options.span))?);
        if options.rivals {
            best(&mut beanstalkd_best, beanstalkd::run(PAYLOAD, options.span), &mut missing);
        }
    }
    add(&mut report, &rounds, redis_best, beanstalkd_best);
    report.write(&options.json)?;
    missing.dedup();
    Ok(if options.smoke { Vec::new() } else { missing })
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
    if options.smoke {
        command.arg("--smoke");
    }
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{}: {status}", binary.display()))) }
}

/// On a thread that has the first CPU, which `up` gives to the node.
fn pinned<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            topology::pin(topology::cpus()[0])?;
            work()
        });
        pinned.join().expect("a measurement does not panic")
    })
}

fn round(platform: &Platform, span: Duration) -> io::Result<Round> {
    let cycle = durable::run(platform, span)?;
    let dsync_us = floors::dsync_us(&benches::scratch()?, 1 + span.as_millis() as usize / 10)?;
    let ack = durable::acknowledge(platform, cycle.calls_per_s / 2.0, dsync_us, span)?;
    println!("   acknowledgements: {}", ack.told);
    Ok(Round { cycle, ack, dsync_us })
}

/// Keeps the better of a rival's runs. One that is not installed is said loudly and left out.
fn best(of: &mut Option<Rate>, run: io::Result<Rate>, missing: &mut Vec<String>) {
    match run {
        Ok(rate) if of.is_none_or(|before| rate.jobs_per_s > before.jobs_per_s) => *of = Some(rate),
        Ok(_) => {}
        Err(error) => {
            println!("   SKIPPED: {error}");
            missing.push(error.to_string());
        }
    }
}

/// The middle one of the rounds.
fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn add(report: &mut Report, rounds: &[Round], redis: Option<Rate>, beanstalkd: Option<Rate>) {
    let rate = median(rounds, |round| round.cycle.calls_per_s);
    let cpu_us = median(rounds, |round| round.cycle.cpu_us);
    let dsync_us = median(rounds, |round| round.dsync_us);
    let mut figure = Figure::new("durable-cycle-rate", rate, "calls/s").bar(250e3, 800e3);
    let mut cpu = Figure::new("durable-cycle-cpu-per-call", cpu_us, "us").bar(6.0, 2.0);
    if let Some(redis) = redis {
        figure = figure.rival("redis jobs/s", redis.jobs_per_s);
        cpu = cpu.rival("redis us", redis.cpu_us);
        let times = Figure::new("durable-cycle-over-redis", rate / redis.jobs_per_s, "x").bar(2.5, 8.0);
        report.add(times.rival("redis jobs/s", redis.jobs_per_s));
    }
    if let Some(beanstalkd) = beanstalkd {
        let times = rate / beanstalkd.jobs_per_s;
        let figure = Figure::new("durable-cycle-over-beanstalkd", times, "x").bar(50.0, 200.0);
        report.add(figure.rival("beanstalkd jobs/s", beanstalkd.jobs_per_s));
    }
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
    let figure = Figure::new("submit-ack-p99-at-half-load", syncs, "syncs").bar(10.0, 5.0);
    report.add(figure.floor("disk sync us", dsync_us));
}
