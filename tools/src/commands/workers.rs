//! `millrace workers`

use crate::exit::{Done, Exit};
use crate::output::{Output, table};
use crate::settings::{Connection, Environment};
use ::call::admin::CoreState;

/// Lists worker cores.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  millrace workers\n  millrace workers --backends\n  millrace workers -o json"
)]
pub struct Workers {
    /// Show which backend each core uses for each thing
    #[arg(long)]
    backends: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    node: Connection,
}

impl Workers {
    pub fn run(self, environment: &Environment) -> Done {
        let cores: Vec<CoreState> = self.node.admin(environment)?.get("/v1/workers")?;
        self.output.print(&cores, |cores| if self.backends { backends(cores) } else { list(cores) });
        Ok(Exit::Ok)
    }
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
