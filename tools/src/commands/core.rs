//! `millrace core`

use super::worker::{WorkerArguments, plan};
use crate::exit::{Done, Exit, Failure};
use crate::settings::Environment;
use ::call::limits::Limits;

/// Runs one core of a worker.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  millrace core --cpu 1 --data-dir millrace-data   # what `millrace worker` runs"
)]
pub struct Core {
    /// CPU to pin it to
    #[arg(long)]
    cpu: u32,
    #[command(flatten)]
    arguments: WorkerArguments,
}

impl Core {
    pub fn run(self, environment: &Environment) -> Done {
        let plan = plan(&self.arguments.config(environment))?;
        ::worker::process::run(&plan, self.cpu, &Limits::default()).map_err(|error| {
            let text = error.to_string();
            let (what, remedy) =
                text.split_once("; ").unwrap_or((&text, "`millrace doctor` says what is missing"));
            Failure::new(Exit::Machine, what, format!("core on CPU {}", self.cpu), remedy)
        })?;
        Ok(Exit::Ok)
    }
}
