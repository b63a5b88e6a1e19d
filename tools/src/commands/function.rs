//! `millrace function`

use crate::admin::{Touched, function_name};
use crate::exit::{Done, Exit};
use crate::output::{Output, pairs, table};
use crate::settings::{Connection, Environment};
use call::admin::FunctionState;

/// Looks at functions.
#[derive(clap::Subcommand, Debug)]
pub enum Function {
    /// List deployed functions
    #[command(after_help = "Examples:\n  millrace function list\n  millrace function list -o json")]
    List {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Show one function: its manifest, its state, its counters
    #[command(
        after_help = "Examples:\n  millrace function show hello\n  millrace function show media/thumbnail -o json"
    )]
    Show {
        /// NAME or NAMESPACE/NAME
        function: String,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
    /// Delete a function; refused while calls of it are pending
    #[command(
        after_help = "Examples:\n  millrace function delete hello\n  millrace function delete hello --force"
    )]
    Delete {
        /// NAME or NAMESPACE/NAME
        function: String,
        /// Send pending calls to the dead letters
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        node: Connection,
    },
}

impl Function {
    pub fn run(self, environment: &Environment) -> Done {
        match self {
            Function::List { output, node } => {
                let functions: Vec<FunctionState> = node.admin(environment)?.get("/v1/functions")?;
                output.print(&functions, |functions| list(functions));
            }
            Function::Show { function, output, node } => {
                let (namespace, name) = function_name(&function)?;
                let path = format!("/v1/functions/{namespace}/{name}");
                let function: FunctionState = node.admin(environment)?.get(&path)?;
                output.print(&function, show);
            }
            Function::Delete { function, force, output, node } => {
                let (namespace, name) = function_name(&function)?;
                let path = format!("/v1/functions/{namespace}/{name}?force={force}");
                let touched: Touched = node.admin(environment)?.delete(&path)?;
                output.print(&touched, |touched| {
                    format!("deleted; {} pending calls went to the dead letters", touched.count)
                });
            }
        }
        Ok(Exit::Ok)
    }
}

fn list(functions: &[FunctionState]) -> String {
    let row = |f: &FunctionState| {
        [
            format!("{}/{}", f.spec.namespace, f.spec.name),
            f.spec.version.to_string(),
            f.state.clone(),
            f.hosts.to_string(),
            f.pending.to_string(),
            f.completed.to_string(),
            f.failed.to_string(),
        ]
    };
    table(
        ["function", "version", "state", "hosts", "pending", "completed", "failed"],
        functions.iter().map(row),
    )
}

/// A function for people; also what `deploy` ends with.
pub fn show(f: &FunctionState) -> String {
    let spec = &f.spec;
    let state = if f.reason.is_empty() { f.state.clone() } else { format!("{}: {}", f.state, f.reason) };
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let retry = &spec.retry;
    pairs([
        ("function", format!("{}/{}", spec.namespace, spec.name)),
        ("version", spec.version.to_string()),
        ("state", state),
        ("hosts", f.hosts.to_string()),
        ("tenant", spec.tenant.clone()),
        ("artefact", format!("{} ({} bytes)", spec.artefact, spec.artefact_bytes)),
        ("abi", word(&spec.abi)),
        ("instance", word(&spec.instance)),
        ("criticality", spec.criticality.to_string()),
        ("deadline", milliseconds(spec.deadline_ms)),
        ("timeout", milliseconds(spec.timeout_ms)),
        ("memory", format!("{} KiB", spec.memory_bytes >> 10)),
        ("concurrency", spec.concurrency.to_string()),
        (
            "retry",
            format!(
                "{} attempts, {} to {} apart",
                retry.attempts,
                milliseconds(retry.backoff_ms),
                milliseconds(retry.backoff_max_ms)
            ),
        ),
        ("pending", f.pending.to_string()),
        ("completed", f.completed.to_string()),
        ("failed", f.failed.to_string()),
    ])
}

fn milliseconds(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}
