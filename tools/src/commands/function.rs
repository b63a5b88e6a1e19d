//! `millrace function`

use crate::admin::{Admin, Touched, function_name};
use crate::exit::{Done, Exit, Failure};
use crate::output::{Output, pairs, table};
use crate::regions::everywhere::Everywhere;
use crate::settings::{Connection, Environment};
use crate::shards::{Each, Of, Whole};
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
                let ask = |admin: &Admin| admin.get::<Vec<FunctionState>>("/v1/functions");
                let mut each = Each::ask(&node, environment, ask)?;
                output.print(&sums(&mut each), |functions| list(functions));
                return each.end();
            }
            Function::Show { function, output, node } => {
                let (namespace, name) = function_name(&function)?;
                let path = format!("/v1/functions/{namespace}/{name}");
                let mut each = Each::ask(&node, environment, |admin| found(admin, &path))?;
                let function = sums(&mut each).pop().ok_or_else(|| unknown(&function))?;
                output.print(&function, show_whole);
                return each.end();
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

/// The function at one shard, if it is there.
fn found(admin: &Admin, path: &str) -> Result<Vec<FunctionState>, Failure> {
    match admin.get(path) {
        Ok(state) => Ok(vec![state]),
        Err(failure) if failure.exit == Exit::NotFound => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

fn unknown(function: &str) -> Failure {
    let what = format!("no function {function} is deployed");
    Failure::new(Exit::NotFound, what, "FUNCTION", "`millrace function list` shows what is deployed")
}

/// Functions as all shards have them: counters are summed, and the worst state is told. One that is not the same
/// everywhere is `partial`: it was deployed, or deleted, while a shard was away.
fn sums(each: &mut Each<Vec<FunctionState>>) -> Vec<Whole<FunctionState>> {
    let shards = each.shards().to_vec();
    let mut sums = each.by_name(|f| format!("{}/{}", f.spec.namespace, f.spec.name), add);
    for whole in &mut sums {
        let without = shards.iter().find(|shard| whole.shards.iter().all(|part| part.shard != Some(**shard)));
        let code = |f: &FunctionState| FunctionSpec { version: 0, ..f.spec.clone() };
        let first = code(&whole.sum);
        let other = whole.shards.iter().find(|part| code(&part.said) != first).and_then(|part| part.shard);
        let why = match (without, other) {
            (Some(shard), _) => {
                format!("shard {shard} does not have it: deploy it again, or delete it again")
            }
            (None, Some(shard)) => format!("shard {shard} has another one of this name: deploy it again"),
            (None, None) => continue,
        };
        (whole.sum.state, whole.sum.reason) = ("partial".into(), why);
    }
    sums
}

/// One shard's part of a function is added. All shards are on one host.
fn add(sum: &mut FunctionState, part: &FunctionState) {
    let badness = |state: &str| ["ready", "compiling", "failed"].iter().position(|word| *word == state);
    if badness(&part.state) > badness(&sum.state) {
        (sum.state, sum.reason) = (part.state.clone(), part.reason.clone());
    }
    sum.hosts = sum.hosts.max(part.hosts);
    sum.pending += part.pending;
    sum.completed += part.completed;
    sum.failed += part.failed;
}

/// The sum, and what each shard has of it.
fn show_whole(whole: &Whole<FunctionState>) -> String {
    let text = show(&whole.sum);
    if whole.shards.is_empty() {
        return text;
    }
    let row = |of: &Of<FunctionState>| {
        let f = &of.said;
        let counts = [f.pending, f.completed, f.failed].map(|count| count.to_string());
        let [pending, completed, failed] = counts;
        let shard = of.shard.map_or("-".into(), |shard| shard.to_string());
        [shard, f.spec.version.to_string(), f.state.clone(), pending, completed, failed]
    };
    let headings = ["shard", "version", "state", "pending", "completed", "failed"];
    format!("{text}\n{}", table(headings, whole.shards.iter().map(row)))
}

fn list(functions: &[Whole<FunctionState>]) -> String {
    let row = |whole: &Whole<FunctionState>| {
        let f = &whole.sum;
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
    fn a_function_that_is_not_the_same_at_all_shards_is_partial() {
        let at = |name: &str, state: &str, timeout_ms: u64, completed: u64| {
            let spec = FunctionSpec { name: name.into(), timeout_ms, ..FunctionSpec::default() };
            let (state, reason) = (state.to_owned(), String::new());
            FunctionState { spec, state, reason, hosts: 1, pending: 1, completed, failed: 0 }
        };
        let mut each = Each::of(vec![
            (0, vec![at("a", "ready", 5, 2), at("b", "ready", 5, 0), at("c", "ready", 5, 0)]),
            (2, vec![at("a", "compiling", 5, 3), at("c", "ready", 6, 0)]),
        ]);
        let sums = sums(&mut each);
        let seen: Vec<_> =
            sums.iter().map(|whole| (&whole.sum.spec.name[..], &whole.sum.state[..])).collect();
        assert_eq!(seen, [("a", "compiling"), ("b", "partial"), ("c", "partial")]);
        assert_eq!((sums[0].sum.completed, sums[0].sum.pending, sums[0].shards.len()), (5, 2, 2));
        assert!(sums[1].sum.reason.contains("shard 2 does not have it"), "{}", sums[1].sum.reason);
        assert!(sums[2].sum.reason.contains("shard 2 has another one"), "{}", sums[2].sum.reason);
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
