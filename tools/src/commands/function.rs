//! `millrace function`

use crate::admin::{Touched, function_name};
use crate::exit::{Done, Exit};
use crate::output::{Output, pairs, table};
use crate::regions::everywhere::Everywhere;
use crate::settings::{Connection, Environment};
use call::FunctionSpec;
use call::admin::FunctionState;
use call::function::{LimitSpec, Rule, RuntimeKind};
use serde::Serialize;

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
    /// Delete a function, in all regions; refused while calls of it are pending
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
                let everywhere =
                    Everywhere::order(&node, environment, |admin| admin.delete::<Touched>(&path))?;
                let count = everywhere.done.iter().map(|touched| touched.count).sum();
                if !everywhere.done.is_empty() {
                    output.print(&Touched { count }, |touched| {
                        format!("deleted; {} pending calls went to the dead letters", touched.count)
                    });
                }
                everywhere.or_absent().end()?;
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
    let retry = &spec.retry;
    let mut rows = vec![
        ("function", format!("{}/{}", spec.namespace, spec.name)),
        ("version", spec.version.to_string()),
        ("state", state),
        ("hosts", f.hosts.to_string()),
        ("tenant", spec.tenant.clone()),
        ("artefact", format!("{} ({} bytes)", spec.artefact, spec.artefact_bytes)),
        ("runtime", word(&spec.runtime)),
        ("abi", word(&spec.abi_in_force())),
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
        ("cpu", cpu(&spec.limits)),
    ];
    match spec.runtime {
        RuntimeKind::Wasm => rows.extend(wasm(spec)),
        RuntimeKind::Process => rows.extend(process(spec)),
    }
    rows.extend([
        ("pending", f.pending.to_string()),
        ("completed", f.completed.to_string()),
        ("failed", f.failed.to_string()),
    ]);
    pairs(rows)
}

/// What a wasm function has beside what every function has.
fn wasm(spec: &FunctionSpec) -> Vec<(&'static str, String)> {
    let mut rows = vec![("instance", word(&spec.instance))];
    rows.extend(environment(spec));
    let files: Vec<String> =
        spec.files.iter().map(|(name, directory)| format!("{name} = {directory}")).collect();
    rows.push(("files", if files.is_empty() { "none".into() } else { files.join(", ") }));
    rows
}

/// Names only: values may be secret, and `-o json` has them.
fn environment(spec: &FunctionSpec) -> Option<(&'static str, String)> {
    let names: Vec<&str> = spec.process.environment.keys().map(String::as_str).collect();
    (!names.is_empty()).then(|| ("environment", names.join(" ")))
}

/// What a process function has beside what every function has.
fn process(spec: &FunctionSpec) -> Vec<(&'static str, String)> {
    let (process, limits, network) = (&spec.process, &spec.limits, &spec.network);
    let rate = |bytes: u64| if bytes == 0 { "no limit".into() } else { format!("{bytes} bytes/s") };
    let mut rows = vec![("command", format!("{:?}", process.command))];
    if !process.handler.is_empty() {
        rows.push(("handler", process.handler.clone()));
    }
    rows.push(("base", word(&process.base)));
    rows.extend(environment(spec));
    rows.extend([
        ("processes", format!("{} at most, {} files each", limits.pids, limits.files)),
        ("tmp", format!("{} KiB", limits.tmp_bytes >> 10)),
        ("disk", rate(limits.io_bytes_per_s)),
        (
            "sandboxes",
            format!(
                "{} per core, {} calls at once in each, ended after {} without one",
                limits.sandboxes,
                limits.concurrent,
                milliseconds(limits.idle_ms)
            ),
        ),
        (
            "patience",
            format!(
                "{} to initialise, {} to end",
                milliseconds(limits.init_timeout_ms),
                milliseconds(limits.grace_ms)
            ),
        ),
        ("tier", word(&spec.sandbox.tier)),
    ]);
    if !spec.sandbox.devices.is_empty() {
        rows.push(("devices", spec.sandbox.devices.join(" ")));
    }
    if !network.is_granted() {
        rows.push(("network", "none".into()));
        return rows;
    }
    let rules = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect::<Vec<_>>().join(" ");
    for (name, list) in [("allow", &network.allow), ("listen", &network.listen)] {
        if !list.is_empty() {
            rows.push((name, rules(list)));
        }
    }
    rows.push(("egress", rate(network.egress_bytes_per_s)));
    rows.push(("ingress", rate(network.ingress_bytes_per_s)));
    rows
}

fn cpu(limits: &LimitSpec) -> String {
    let quota = match limits.cpu_millis {
        0 => "no limit".into(),
        millis => format!("at most {} cores", f64::from(millis) / 1000.0),
    };
    format!("weight {}, {quota}", limits.cpu_weight)
}

/// The word that the manifest has for it.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value).expect("plain data") {
        serde_json::Value::String(word) => word,
        other => other.to_string(),
    }
}

fn milliseconds(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(manifest: &str) -> String {
        let spec = call::manifest::parse("function.toml", manifest).unwrap().spec;
        show(&FunctionState {
            spec,
            state: "ready".into(),
            reason: String::new(),
            hosts: 1,
            pending: 0,
            completed: 0,
            failed: 0,
        })
    }

    #[test]
    fn a_process_function_is_shown_with_its_limits_and_without_its_secrets() {
        let text = shown(
            "name = 'f'\nruntime = 'process'\ncommand = ['./a', '-x']\n[environment]\nTOKEN = 'hunter2'\n\
             [limits]\ncpu = 1.5\n[network]\nallow = ['10.0.0.0/8:443']\negress = '1MiB'",
        );
        for expected in [
            "process",
            "runtime-api",
            "[\"./a\", \"-x\"]",
            "TOKEN",
            "weight 100, at most 1.5 cores",
            "64 at most, 256 files each",
            "16 per core, 1 calls at once in each, ended after 5m without one",
            "10s to initialise, 2s to end",
            "10.0.0.0/8:443",
            "1048576 bytes/s",
            "no limit",
        ] {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
        assert!(!text.contains("hunter2") && !text.contains("instance"), "{text}");
        let text = shown(
            "name = 'f'\nartefact = 'f.wasm'\n[files]\n'/m' = '/srv/models'\n[environment]\nTOKEN = 'hunter2'",
        );
        assert!(text.contains("/m = /srv/models") && text.contains("TOKEN"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let text = shown("name = 'f'\nartefact = 'f.wasm'");
        assert!(text.contains("wasm") && text.contains("reuse") && !text.contains("sandboxes"), "{text}");
    }
}
