//! `millrace locality`

use crate::exit::{Done, Exit};
use crate::output::{Output, table};
use crate::settings::{Connection, Environment};
use ::call::admin::LocalityState;

/// Looks at which functions run where.
#[derive(clap::Subcommand, Debug)]
pub enum Locality {
    /// Show locality groups: their functions and their cores
    #[command(after_help = "Examples:\n  millrace locality show\n  millrace locality show -o json\n\n\
        Group 0 are functions that run on every core, and cores that run every function.")]
    Show {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Locality {
    pub fn run(self, environment: &Environment) -> Done {
        let Locality::Show { output, node } = self;
        let state: LocalityState = node.admin(environment)?.get("/v1/locality")?;
        output.print(&state, |state| {
            let rows = state
                .groups
                .iter()
                .map(|group| [group.group.to_string(), group.functions.join(", "), group.cores.join(", ")]);
            table(["group", "functions", "cores"], rows)
        });
        Ok(Exit::Ok)
    }
}
