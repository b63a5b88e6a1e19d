//! `millrace queue`

use super::calls;
use crate::admin::function_name;
use crate::exit::{Done, Exit};
use crate::output::{Output, table};
use crate::settings::{Connection, Environment};
use ::call::admin::{CallState, QueueState};

/// Looks at queues.
#[derive(clap::Subcommand, Debug)]
pub enum Queue {
    /// List the queues of all functions: how much waits, and for how long
    #[command(after_help = "Examples:\n  millrace queue list\n  millrace queue list -o json")]
    List {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Show the next calls of a function, in order of start time, without taking them
    #[command(
        after_help = "Examples:\n  millrace queue peek hello\n  millrace queue peek media/thumbnail --limit 5"
    )]
    Peek {
        /// NAME or NAMESPACE/NAME
        function: String,
        /// How many at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Queue {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Queue::List { output, node } => {
                let queues: Vec<QueueState> = node.admin(environment)?.get("/v1/queues")?;
                output.print(&queues, |queues| list(queues));
            }
            Queue::Peek { function, limit, output, node } => {
                let (namespace, name) = function_name(&function)?;
                let path = format!("/v1/queues/{namespace}/{name}/peek?limit={limit}");
                let peeked: Vec<CallState> = node.admin(environment)?.get(&path)?;
                output.print(&peeked, |peeked| calls::list(peeked));
            }
        }
        Ok(Exit::Ok)
    }
}

fn list(queues: &[QueueState]) -> String {
    let row = |queue: &QueueState| {
        [
            queue.function.clone(),
            queue.scheduled.to_string(),
            queue.due.to_string(),
            queue.leased.to_string(),
            queue.dead.to_string(),
            format!("{} ms", queue.oldest_due_ms),
        ]
    };
    table(["function", "scheduled", "due", "leased", "dead", "oldest due"], queues.iter().map(row))
}
