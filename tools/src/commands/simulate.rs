//! `millrace simulate`

use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, line};
use serde::Serialize;
use simulation::{Options, Report};

const EXAMPLES: &str = "\
Examples:
  millrace simulate --seed 7
  millrace simulate --seed 7 --verbose        # every frame and fault
  millrace simulate --seed 0 --seeds 500      # many, until one fails

The whole platform, its deciders, node and cores as they run in production, on one thread over a simulated clock, disk
and network that lose, tear and delay. The same seed gives the same trace hash on every machine.";

/// Runs the platform in simulation.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Simulate {
    /// The seed
    #[arg(long)]
    seed: u64,
    /// Run so many seeds, from this one on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Print every frame and fault
    #[arg(long)]
    verbose: bool,
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

impl Simulate {
    pub fn run(self) -> Done {
        let options = Options { verbose: self.verbose, ..Options::default() };
        for seed in self.seed..self.seed.saturating_add(self.seeds) {
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
}
