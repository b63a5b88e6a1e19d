//! `millrace worker`

use super::control::bytes;
use super::jailer::{self, SandboxArguments, absolute};
use crate::exit::{Done, Exit, Failure};
use crate::settings::Environment;
use crate::times::duration;
use ::worker::{Config, Plan, PlanError};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  millrace worker                                   # beside a node on this host, all CPUs
  millrace worker --cpus 2-7
  millrace worker --node tcp:10.0.0.1:7410 --data-dir /var/lib/millrace-worker

SIGTERM drains it: cores take nothing new and finish what they hold; what does not finish in time runs elsewhere.";

/// How a worker runs; the same for the supervisor and its cores.
#[derive(clap::Args, Clone, Debug)]
pub struct WorkerArguments {
    /// The node: tcp:ADDRESS:PORT, unix:PATH or shm:PATH [default: shared memory of the data directory]
    #[arg(long, value_name = "ENDPOINT")]
    pub node: Option<String>,
    /// Where the supervisor's own session goes, over TCP or a Unix socket [default: as --node]
    #[arg(long, value_name = "ENDPOINT")]
    pub host_node: Option<String>,
    /// Data directory of the node on this host, or of this worker alone [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, visible_alias = "data", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// CPUs to run cores on: 0,2-5 [default: all]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// Calls that one core serves at once
    #[arg(long, default_value_t = Config::default().slots)]
    pub slots: u32,
    /// Name of this host [default: as the kernel says]
    #[arg(long)]
    pub host: Option<String>,
    /// Socket of the host's jailer, which makes the sandboxes of process functions
    #[arg(long, value_name = "PATH")]
    pub jailer: Option<PathBuf>,
    /// Directory of this host that wasm functions may ask for in [files], with all below it; may be repeated
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    pub allow_files: Vec<PathBuf>,
    /// Bytes of functions' code that are kept in this host's cache after it is no longer published
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = bytes)]
    pub keep_unused: u64,
    /// How long a drain waits for calls that run
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain: Duration,
}

/// Runs the worker of this host.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Worker {
    #[command(flatten)]
    arguments: WorkerArguments,
    /// Run no process functions: no jailer, no BPF programs, WebAssembly only
    #[arg(long, conflicts_with = "jailer", help_heading = "Process functions")]
    no_process_functions: bool,
    #[command(flatten)]
    sandboxes: SandboxArguments,
}

impl WorkerArguments {
    /// Everything said out, with the defaults of a worker beside its node.
    pub fn config(&self, environment: &Environment) -> Config {
        let data_dir = environment.data_dir(self.data_dir.as_deref());
        let beside =
            |scheme: &str, file: &str| format!("{scheme}:{}", data_dir.join("run").join(file).display());
        let is_remote = self.node.as_deref().is_some_and(|node| node.starts_with("tcp:"));
        let host_node = match (&self.host_node, is_remote) {
            (Some(typed), _) => Some(typed.clone()),
            (None, true) => None,
            (None, false) => Some(beside("unix", "submit.sock")),
        };
        let artefacts = data_dir.join("artefacts");
        Config {
            node: self.node.clone().unwrap_or_else(|| beside("shm", "core.shm")),
            host_node,
            artefacts: (!is_remote).then_some(artefacts),
            data_dir,
            cpus: self.cpus.clone(),
            slots: self.slots,
            host: self.host.clone(),
            jailer: self.jailer.clone(),
            files_allowed: self.allow_files.clone(),
            unused_bytes: self.keep_unused,
            drain_s: self.drain.as_secs(),
        }
    }
}

/// The plan, or which option is wrong.
pub fn plan(config: &Config) -> Result<Plan, Failure> {
    let allowed = ::worker::plan::allowed_cpus();
    Plan::of(config, &allowed).map_err(|error| {
        let text = error.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, "see `millrace worker --help`"));
        let (place, what) = what.split_once(": ").unwrap_or(("worker", what));
        let exit = if matches!(error, PlanError::Cpu { .. }) { Exit::Machine } else { Exit::Usage };
        Failure::new(exit, what, place, remedy)
    })
}

/// The options that make the same [`Config`] in another process.
fn command_line(config: &Config, plan: &Plan) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["--node".into(), config.node.clone().into()];
    if let Some(host_node) = &config.host_node {
        line.extend(["--host-node".into(), host_node.into()]);
    }
    line.extend(["--data-dir".into(), config.data_dir.clone().into()]);
    line.extend(["--slots".into(), plan.slots.to_string().into()]);
    line.extend(["--host".into(), plan.host.clone().into()]);
    if let Some(jailer) = &plan.jailer {
        line.extend(["--jailer".into(), jailer.into()]);
    }
    for directory in &config.files_allowed {
        line.extend(["--allow-files".into(), directory.into()]);
    }
    line.extend(["--keep-unused".into(), format!("{}B", config.unused_bytes).into()]);
    line.extend(["--drain".into(), format!("{}s", plan.drain.as_secs()).into()]);
    line
}

impl Worker {
    pub fn run(self, environment: &Environment) -> Done {
        let mut config = self.arguments.config(environment);
        // The jailer is told where bundles are, and has another working directory.
        config.data_dir = std::path::absolute(&config.data_dir)
            .map_err(|error| Failure::file("find the data directory", &config.data_dir, &error))?;
        // A jailer of this worker's own, unless there is one, or none is wanted.
        let own_jailer = config.jailer.is_none() && !self.no_process_functions;
        if own_jailer {
            config.jailer = Some(jailer::socket(&config.data_dir));
        }
        let plan = plan(&config)?;
        let failed =
            |what: &str, error: std::io::Error| Failure::new(Exit::Machine, what, error.to_string(), "");
        std::fs::create_dir_all(&plan.cache)
            .map_err(|error| Failure::file("make the cache of compiled functions", &plan.cache, &error))?;
        // Before the session's threads start, so that they have the supervisor's signals blocked too.
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1])
            .thread_block()
            .map_err(|errno| failed("cannot block signals", errno.into()))?;
        let executable =
            std::env::current_exe().map_err(|error| failed("cannot find this program", error))?;
        ::worker::host::start(&plan).map_err(|error| failed("cannot start the host's session", error))?;
        let command = |cpu: u32| {
            let mut command = Command::new(&executable);
            command.args(["core", "--cpu", &cpu.to_string()]).args(command_line(&config, &plan));
            command
        };
        let jailer = || {
            let mut command = Command::new(&executable);
            command.args(["jailer", "--data-dir"]).arg(&config.data_dir);
            command.args(self.sandboxes.command_line());
            command
        };
        let jailer: Option<&dyn Fn() -> Command> = if own_jailer { Some(&jailer) } else { None };
        ::worker::supervisor::run(&plan, jailer, command)
            .map_err(|error| failed("cannot start the cores", error))?;
        Ok(Exit::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: WorkerArguments,
    }

    fn config(line: &[&str]) -> Config {
        let line = std::iter::once("worker").chain(line.iter().copied());
        Line::parse_from(line).arguments.config(&Environment { data_dir: Some("/data".into()) })
    }

    #[test]
    fn a_worker_beside_its_node_needs_no_options() {
        let config = config(&[]);
        assert_eq!(config.node, "shm:/data/run/core.shm");
        assert_eq!(config.host_node.as_deref(), Some("unix:/data/run/submit.sock"));
        assert_eq!(config.artefacts.as_deref(), Some(std::path::Path::new("/data/artefacts")));
    }

    #[test]
    fn a_remote_worker_fetches_everything_over_tcp() {
        let config = config(&["--node", "tcp:10.0.0.1:7410"]);
        assert_eq!((config.host_node, config.artefacts), (None, None));
    }

    #[test]
    fn a_core_gets_the_worker_s_own_config() {
        let config = config(&[
            "--slots",
            "7",
            "--host",
            "here",
            "--drain",
            "3s",
            "--jailer",
            "/run/j.sock",
            "--allow-files",
            "/srv/a",
            "--allow-files",
            "/srv/b",
            "--keep-unused",
            "7MiB",
        ]);
        let plan = Plan::of(&config, &[0, 1]).unwrap();
        let line: Vec<OsString> =
            std::iter::once("core".into()).chain(command_line(&config, &plan)).collect();
        let again = Line::parse_from(line).arguments.config(&Environment::default());
        assert_eq!(Plan::of(&again, &[0, 1]).unwrap(), plan);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_the_machine_s_fault() {
        let failure = plan(&config(&["--cpus", "4000"])).unwrap_err();
        assert_eq!((failure.exit, failure.place.as_str()), (Exit::Machine, "--cpus"), "{failure}");
        let failure = plan(&config(&["--cpus", "x"])).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
    }
}
