//! `millrace downstream`

use super::quota::thousandths;
use crate::admin::{Admin, query};
use crate::exit::{Done, Exit};
use crate::output::{Output, table};
use crate::regions::everywhere::Everywhere;
use crate::settings::{Connection, Environment};
use crate::shards::Each;
use ::call::admin::{DownstreamSpec, DownstreamState};

const SHOW: &str = "\
Examples:
  millrace downstream show
  millrace downstream show -o json

Functions name the services that they use in function.toml (downstreams), and report back-pressure by exit status 75,
the Runtime API's error type Millrace.BackPressure, or the host call millrace.back_pressure.";

const SET: &str = "\
Examples:
  millrace downstream set tao --threshold 5000

While more executions than that meet back-pressure in a minute, the functions that meet it are slowed down, and sped up
again when there are fewer.";

/// Looks at services behind functions, or sets what their owners say.
#[derive(clap::Subcommand, Debug)]
pub enum Downstream {
    /// Show services, their back-pressure, and whom it slows down
    #[command(after_help = SHOW)]
    Show {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Set how much back-pressure a service stands, in each region
    #[command(after_help = SET)]
    Set {
        /// Its name, as functions have it
        downstream: String,
        /// Executions that may meet back-pressure in a minute, of all functions together
        #[arg(long, value_name = "COUNT")]
        threshold: u64,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Downstream {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Downstream::Show { output, node } => {
                let ask = |admin: &Admin| admin.get::<Vec<DownstreamState>>("/v1/downstreams");
                let mut each = Each::ask(&node, environment, ask)?;
                let states = each.by_name(|state| state.downstream.clone(), add);
                output.print(&states, |states| show(states.iter().map(|whole| &whole.sum)));
                return each.end();
            }
            Downstream::Set { downstream, threshold, output, node } => {
                let path = format!("/v1/downstreams/{}", query(&downstream));
                let spec = DownstreamSpec { threshold_per_minute: threshold };
                let put = |admin: &Admin| admin.put::<Vec<DownstreamState>>(&path, &spec);
                let everywhere = Everywhere::order(&node, environment, put)?;
                if let Some(states) = everywhere.done.first() {
                    output.print(states, |states| show(states));
                }
                everywhere.end()?;
            }
        }
        Ok(Exit::Ok)
    }
}

/// One shard's part is added: each counts, and limits, its own executions.
fn add(sum: &mut DownstreamState, part: &DownstreamState) {
    sum.last_minute += part.last_minute;
    sum.total += part.total;
    for of in &part.functions {
        match sum.functions.iter_mut().find(|known| known.function == of.function) {
            None => sum.functions.push(of.clone()),
            Some(known) => {
                known.limit = known.limit.zip(of.limit).map(|(a, b)| a + b);
                known.total += of.total;
            }
        }
    }
}

fn show<'a>(states: impl IntoIterator<Item = &'a DownstreamState>) -> String {
    let rows = states.into_iter().map(|state| {
        let user = |of: &::call::admin::Limited| match of.limit {
            None => of.function.clone(),
            limit => format!("{} ({}/s)", of.function, thousandths(limit)),
        };
        [
            state.downstream.clone(),
            state.threshold_per_minute.map_or("-".into(), |threshold| threshold.to_string()),
            state.last_minute.to_string(),
            state.total.to_string(),
            state.functions.iter().map(user).collect::<Vec<_>>().join(", "),
        ]
    });
    table(["downstream", "threshold/min", "last minute", "total", "functions (limit)"], rows)
}
