//! `millrace simulate`

use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, line, table};
use crate::trace::{Arrival, Trace};
use fleet::replay::{Traced, TracedCall, TracedFunction};
use fleet::scenario::ReplaySpec;
use fleet::{Study, picture, scenario};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use simulation::{Options, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace simulate --seed 7
  millrace simulate --seed 7 --verbose        # every frame and fault
  millrace simulate --seed 0 --seeds 500      # many, until one fails
  millrace simulate --list                    # scenarios of a fleet
  millrace simulate --scenario day --svg plots
  millrace simulate --scenario day --set fleet.workers=88000 --set time.hours=12
  millrace simulate --scenario mine.toml -o json
  millrace simulate --scenario azure --set replay.trace=mine.csv

With --seed alone: the whole platform, its deciders, node and cores as they run in production, on one thread over a simulated clock, disk
and network that lose, tear and delay. With --scenario: the production scheduler and controllers under a fleet of regions
and workers that is simulated; tools/fleet/README.md has the keys. The same seed gives the same trace hash on every
machine. The exit code is 1 if a promise was broken or a row of the scenario misses its bar.";

/// The seed of a scenario if none is given.
const SEED: u64 = 7;

/// Runs the platform in simulation.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Simulate {
    /// The seed; of a scenario 7 if not given
    #[arg(long, required_unless_present_any = ["scenario", "list"])]
    seed: Option<u64>,
    /// Run so many seeds, from this one on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "scenario")]
    seeds: u64,
    /// Print every frame and fault
    #[arg(long, conflicts_with = "scenario")]
    verbose: bool,
    /// Run a fleet: the name of a scenario that comes with the program, or a file
    #[arg(long, value_name = "NAME_OR_FILE", conflicts_with = "list")]
    scenario: Option<String>,
    /// List the scenarios that come with the program
    #[arg(long)]
    list: bool,
    /// Change a key of the scenario and of all its variants
    #[arg(long, value_name = "KEY=VALUE", requires = "scenario")]
    set: Vec<String>,
    /// Write plots to this directory
    #[arg(long, value_name = "DIR", requires = "scenario")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A report as `-o json` shows it.
#[derive(Serialize)]
struct View {
    seed: u64,
    trace_hash: String,
    scenario: String,
    calls: u64,
    completed: u64,
    dead: u64,
    leases: u64,
    run_again: u64,
    fenced: u64,
    crashes: u64,
    turns: u64,
    simulated_ms: u128,
}

impl From<&Report> for View {
    fn from(report: &Report) -> View {
        View {
            seed: report.seed,
            trace_hash: format!("{:016x}", report.trace_hash),
            scenario: report.scenario.clone(),
            calls: report.calls,
            completed: report.completed,
            dead: report.dead,
            leases: report.leases,
            run_again: report.run_again,
            fenced: report.fenced,
            crashes: report.crashes,
            turns: report.turns,
            simulated_ms: report.simulated.as_millis(),
        }
    }
}

/// A scenario as `--list` shows it.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    title: String,
    variants: Vec<String>,
}

/// What a scenario showed, as `-o json` has it.
#[derive(Serialize)]
struct Shown<'a> {
    title: &'a str,
    seed: u64,
    rows: &'a [fleet::figures::Row],
    runs: &'a [fleet::figures::Summary],
}

impl Simulate {
    pub fn run(self) -> Done {
        if self.list {
            return self.list();
        }
        match &self.scenario {
            Some(scenario) => self.fleet(scenario),
            None => self.platform(self.seed.unwrap_or(SEED)),
        }
    }

    fn platform(&self, first: u64) -> Done {
        let options = Options { verbose: self.verbose, ..Options::default() };
        for seed in first..first.saturating_add(self.seeds) {
            let report = simulation::run(seed, &options).map_err(|violation| {
                let again = format!("see it with `millrace simulate --seed {seed} --verbose`");
                let place = format!("seed {seed} after {:.3?} ({})", violation.at, violation.scenario);
                Failure::new(Exit::Failed, format!("a promise was broken: {}", violation.what), place, again)
            })?;
            if self.output.is_json() {
                line(&serde_json::to_string(&View::from(&report)).expect("plain data"));
            } else {
                line(&report.to_string());
            }
        }
        Ok(Exit::Ok)
    }

    fn list(&self) -> Done {
        let listed = |(name, text): &(&'static str, &str)| {
            let scenario = fleet::Scenario::read(text, &[]).expect("a test reads all of them");
            let variants = scenario.variants.into_iter().map(|variant| variant.name).collect();
            Listed { name, title: scenario.title, variants }
        };
        let all: Vec<Listed> = scenario::BUILT_IN.iter().map(listed).collect();
        self.output.print(&all, |all| {
            let row = |of: &Listed| [of.name.into(), of.title.clone(), of.variants.join(", ")];
            table(["name", "shows", "beside"], all.iter().map(row))
        });
        Ok(Exit::Ok)
    }

    fn fleet(&self, name: &str) -> Done {
        let text = match fleet::study::built_in(name) {
            Some(text) => text.to_owned(),
            None => scenario_file(name)?,
        };
        let seed = self.seed.unwrap_or(SEED);
        let bar = progress_bar();
        let mut progress = |variant: &str, part: f64| {
            bar.set_message(if variant.is_empty() { name.to_owned() } else { variant.to_owned() });
            bar.set_position((part.min(1.0) * 1000.0) as u64);
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut read = |spec: &ReplaySpec| traced(spec, seed).map_err(Wrong::Trace);
        let study = fleet::study_of(&text, &self.set, seed, threads, &mut read, &mut progress);
        let study = study.map_err(|wrong| wrong.told(name))?;
        bar.finish_and_clear();
        if let Some(directory) = &self.svg {
            draw(&study, directory)?;
        }
        let shown = Shown { title: &study.scenario.title, seed, rows: &study.rows, runs: &study.summaries };
        self.output.print(&shown, |_| text_of(&study));
        let missed = study.rows.iter().any(|row| row.verdict == "MISSED");
        Ok(if missed { Exit::Failed } else { Exit::Ok })
    }
}

/// What may be wrong with a scenario: what it says, or the trace that it replays.
enum Wrong {
    Scenario(scenario::Error),
    Trace(Failure),
}

impl From<scenario::Error> for Wrong {
    fn from(error: scenario::Error) -> Wrong {
        Wrong::Scenario(error)
    }
}

impl Wrong {
    fn told(self, name: &str) -> Failure {
        match self {
            Wrong::Trace(failure) => failure,
            Wrong::Scenario(error) => {
                let remedy = "correct the key; `millrace simulate --help` says where the keys are described";
                Failure::input(error.what, format!("{name}, {}", error.place), remedy)
            }
        }
    }
}

/// The trace that a scenario replays, as the fleet takes it.
fn traced(spec: &ReplaySpec, seed: u64) -> Result<Traced, Failure> {
    let trace = match spec.trace.as_str() {
        "" => Trace::sample(seed),
        path => Trace::read(Path::new(path), seed)?,
    };
    let functions = trace.functions.into_iter().map(|of| TracedFunction { trigger: of.trigger });
    let call = |of: &Arrival| TracedCall {
        at_s: of.at_us as f64 / 1e6,
        function: of.function,
        run_s: f64::from(of.run_us) / 1e6,
        memory_mb: f64::from(of.memory_kib) / 1024.0,
    };
    Ok(Traced {
        functions: functions.collect(),
        calls: trace.arrivals.iter().map(call).collect(),
        span_s: trace.span.as_secs_f64(),
    })
}

fn scenario_file(name: &str) -> Result<String, Failure> {
    let path = Path::new(name);
    let known: Vec<&str> = scenario::BUILT_IN.iter().map(|(name, _)| *name).collect();
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            Exit::NotFound,
            "there is no such scenario, and no such file",
            name,
            format!("name a file, or one of: {}", known.join(", ")),
        ),
        _ => Failure::file("read the scenario", path, &error),
    })
}

/// On stderr, and only if somebody looks.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(1000);
    let style = ProgressStyle::with_template("{msg:>24} {bar:40} {percent:>3}% of the hours, {elapsed}");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn draw(study: &Study, directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::file("make the directory", directory, &error))?;
    for plot in picture::plots(study) {
        let path = directory.join(format!("{}.svg", plot.file));
        std::fs::write(&path, plot.svg()).map_err(|error| Failure::file("write the plot", &path, &error))?;
    }
    Ok(())
}

/// The rows, then all figures of all variants.
fn text_of(study: &Study) -> String {
    let mut text = format!("{} (seed {})\n\n", study.scenario.title, study.seed);
    if !study.rows.is_empty() {
        let row = |row: &fleet::figures::Row| {
            let ours = format!("{} {}", number(row.value), row.unit);
            [row.name.clone(), row.paper.clone(), number(row.bar), number(row.aim), ours, row.verdict.clone()]
        };
        text += &table(["row", "paper", "bar", "aim", "ours", "reaches"], study.rows.iter().map(row));
        text += "\n\n";
    }
    let name = |variant: &str| if variant.is_empty() { "this".to_owned() } else { variant.to_owned() };
    for summary in &study.summaries {
        text += &format!("{}: trace hash {}\n", name(&summary.variant), summary.trace_hash);
    }
    text += "\n";
    for figure in &study.summaries[0].figures {
        let of = |summary: &fleet::figures::Summary| {
            let value = summary.figure(&figure.name).map_or("-".to_owned(), |figure| number(figure.value));
            format!("{value:>14}")
        };
        let values: String = study.summaries.iter().map(of).collect();
        text += &format!("{:<34}{values}  {}\n", figure.name, figure.unit);
    }
    if study.summaries.len() > 1 {
        let names: String = study.summaries.iter().map(|of| format!("{:>14}", name(&of.variant))).collect();
        text += &format!("{:<34}{names}\n", "");
    }
    text
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.2}G", value / 1e9),
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}K", value / 1e3),
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 99.0 => format!("{value:.3}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
