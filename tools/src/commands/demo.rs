//! `millrace demo`

use crate::demo;
use crate::exit::Done;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  make demo                                              # builds the functions first
  millrace demo --guests target/guests/wasm              # from the project's folder
  millrace demo --guests target/guests/wasm --seconds 20 --no-kills

Starts everything on free ports with a fresh data directory, replays the Azure Functions 2019 sample, kills a worker core
and the control node on the way, and reports from the replayer's own ledger. Exits with 1 if a call was lost or failed.";

/// Runs the demo.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Demo {
    /// The project's folder, with the demo's inputs
    #[arg(long, default_value = ".", value_name = "DIR")]
    project: PathBuf,
    /// Folder with the functions' wasm files
    #[arg(long, value_name = "DIR")]
    guests: PathBuf,
    /// The trace [default: tests/data/azure2019-250 of the project]
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    /// Where data directory, ledger, picture and report go
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    out: PathBuf,
    /// How long the replay shall take
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    seconds: f64,
    /// Worker cores [default: as `millrace up`]
    #[arg(long)]
    cores: Option<u16>,
    /// Kill nothing
    #[arg(long)]
    no_kills: bool,
}

impl Demo {
    pub fn run(self) -> Done {
        demo::run(&demo::Options {
            trace: self.trace.unwrap_or_else(|| self.project.join("tests/data/azure2019-250")),
            project: self.project,
            guests: self.guests,
            out: self.out,
            seconds: self.seconds.max(1.0),
            cores: self.cores,
            kills: !self.no_kills,
        })
    }
}
