//! `millrace dlq`

use super::calls;
use crate::admin::{Touched, function_name, query};
use crate::exit::{Done, Exit, Failure};
use crate::output::Output;
use crate::settings::{Connection, Environment};
use ::call::CallId;
use ::call::admin::CallState;

/// Looks at dead letters.
#[derive(clap::Subcommand, Debug)]
pub enum Dlq {
    /// List calls that were given up, and why
    #[command(
        after_help = "Examples:\n  millrace dlq list\n  millrace dlq list --function hello --limit 5 -o json"
    )]
    List {
        /// Only of this function: NAME or NAMESPACE/NAME
        #[arg(long)]
        function: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Make dead letters pending again, with all their attempts
    #[command(after_help = "Examples:\n  millrace dlq redrive --function hello\n  \
        millrace dlq redrive --call 019a9f3c2b7e5d0a4c1f8e6b3d2a1908\n  millrace dlq redrive --all")]
    #[command(group(clap::ArgGroup::new("which").required(true).args(["function", "call", "all"])))]
    Redrive {
        /// All of this function: NAME or NAMESPACE/NAME
        #[arg(long)]
        function: Option<String>,
        /// This call
        #[arg(long, value_name = "ID")]
        call: Option<CallId>,
        /// All of them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Dlq {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Dlq::List { function, limit, output, node } => {
                let only = only(function.as_deref())?.map_or(String::new(), |only| format!("&{only}"));
                let path = format!("/v1/dead-letters?limit={limit}{only}");
                let letters: Vec<CallState> = node.admin(environment)?.get(&path)?;
                output.print(&letters, |letters| calls::list(letters));
            }
            Dlq::Redrive { function, call, all: _, output, node } => {
                let which = match call {
                    Some(call) => Some(format!("call={call}")),
                    None => only(function.as_deref())?,
                };
                let path = format!("/v1/dead-letters/redrive?{}", which.unwrap_or_default());
                let touched: Touched = node.admin(environment)?.post(&path)?;
                output.print(&touched, |touched| format!("{} calls are pending again", touched.count));
            }
        }
        Ok(Exit::Ok)
    }
}

/// The query for one function.
fn only(function: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(text) = function else { return Ok(None) };
    let (namespace, name) = function_name(text)?;
    Ok(Some(format!("function={}", query(&format!("{namespace}/{name}")))))
}
