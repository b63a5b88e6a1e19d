//! `millrace up`

use super::control::{NodeArguments, Recover, bytes};
use super::controllers::SteeringArguments;
use super::jailer::{SandboxArguments, absolute};
use super::up_regions::{self, RegionsArguments};
use super::up_shards::{self, ShardsArguments};
use crate::admin::Admin;
use crate::children::{Child, ending};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt;
use crate::output::pairs;
use crate::settings::Environment;
use crate::shards::file_of;
use ::call::admin::{CoreState, NodeStatus, SOON};
use control::Endpoints;
use driver::notes::say;
use serde::Serialize;
use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  millrace up
  millrace up --data-dir /var/lib/millrace --cores 6
  millrace up --allow-files /srv/models                    # what wasm functions may be granted to read
  millrace up --shards 3                                   # three logs on cores of their own, one node for clients
  millrace up --regions 3                                  # three platforms that help each other; as root
  millrace up --listen 127.0.0.1:0 --admin 127.0.0.1:0     # any free ports; see run/up.json in the data directory

Starts `millrace control`, `millrace worker` and `millrace controllers`, starts them again when they die, prints endpoints and the backend in
force for each thing. Ctrl-C drains: no new calls, calls that run end, then everything stops; twice ends it at once.";

/// How long the node or the worker may take until it serves: the log's recovery is the longest part.
const START_TIME: Duration = Duration::from_secs(120);
/// Between two looks at the children.
const LOOK: Duration = Duration::from_millis(50);
/// What a child gets beyond its own drain before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// Starts everything on this host.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    #[command(flatten)]
    node: NodeArguments,
    /// Worker cores, each with a CPU of its own [default: all CPUs but one, which the node gets; at least one]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,
    /// Calls that one core serves at once
    #[arg(long, default_value_t = ::worker::Config::default().slots)]
    slots: u32,
    /// Directory of this host that wasm functions may ask for in [files], with all below it; may be repeated
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    allow_files: Vec<PathBuf>,
    /// Bytes of functions' code that are kept in this host's cache after it is no longer published
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = bytes)]
    keep_unused: u64,
    #[command(flatten)]
    steering: SteeringArguments,
    #[command(flatten)]
    pub(super) regions: RegionsArguments,
    #[command(flatten)]
    pub(super) shards: ShardsArguments,
    /// Run no process functions: no jailer, no BPF programs, WebAssembly only
    #[arg(long, help_heading = "Process functions")]
    no_process_functions: bool,
    #[command(flatten)]
    sandboxes: SandboxArguments,
}

/// `run/up.json`: processes and endpoints, for programs.
#[derive(Serialize)]
struct UpFile<'a> {
    pid: u32,
    control: Option<u32>,
    worker: Option<u32>,
    controllers: Option<u32>,
    #[serde(flatten)]
    endpoints: UpEndpoints<'a>,
}

#[derive(Serialize)]
struct UpEndpoints<'a> {
    admin: &'a str,
    tcp: &'a Option<String>,
    unix: &'a str,
    shm: &'a str,
}

/// What runs.
struct Platform {
    data_dir: PathBuf,
    executable: PathBuf,
    options: Up,
    /// CPU of the node; none if the cores need all.
    control_cpu: Option<usize>,
    worker_cpus: Vec<usize>,
}

impl Up {
    pub fn run(self, environment: &Environment) -> Done {
        if let Some(count) = self.regions.regions {
            let data_dir = environment.data_dir(self.node.data_dir.as_deref());
            return up_regions::run(&self, &data_dir, count);
        }
        let data_dir = environment.data_dir(self.node.data_dir.as_deref());
        // A node that was divided stays so.
        if self.node.shard.is_none() && (self.shards.shards.is_some() || file_of(&data_dir).exists()) {
            return up_shards::run(&self, &data_dir);
        }
        let (control_cpu, worker_cpus) = match &self.shards.core_cpus[..] {
            [] => {
                let (free, taken) = self.cpus(1)?;
                (free.first().copied(), taken)
            }
            own => (self.shards.node_cpu, own.to_vec()),
        };
        let executable = std::env::current_exe().map_err(|error| {
            Failure::new(Exit::Machine, "cannot find this program", error.to_string(), "")
        })?;
        interrupt::flag();
        let platform = Platform { data_dir, executable, options: self, control_cpu, worker_cpus };
        platform.run()
    }

    /// How long a drain waits.
    pub(super) fn drain(&self) -> Duration {
        self.node.drain
    }

    /// What each region's `up` is told as this one was. Regions share the CPUs: one core each, if nothing is said.
    pub(super) fn passed_on(&self) -> Vec<OsString> {
        let text = |name: &str, value: String| [name.into(), value.into()];
        let mut words: Vec<OsString> = Vec::new();
        words.extend(text("--cores", self.cores.unwrap_or(1).to_string()));
        words.extend(text("--slots", self.slots.to_string()));
        words.extend(text("--keep-unused", format!("{}B", self.keep_unused)));
        words.extend(text("--drain", format!("{}ms", self.node.drain.as_millis())));
        words.extend(text("--shard-remember", format!("{}ms", self.node.shard_remember.as_millis())));
        words.extend(text("--logs-total", format!("{}B", self.node.logs_total)));
        words.extend(text("--logs-function", format!("{}B", self.node.logs_function)));
        words.extend(self.node.blob_words().map(OsString::from));
        words.extend(text("--calls-max", self.node.calls_max.to_string()));
        if self.node.recover == Recover::Salvage {
            words.extend(text("--recover", "salvage".into()));
        }
        for directory in &self.allow_files {
            words.extend(["--allow-files".into(), directory.into()]);
        }
        words.extend(self.steering.command_line());
        words.extend(self.sandboxes.command_line());
        if self.no_process_functions {
            words.push("--no-process-functions".into());
        }
        words
    }

    /// Where the node listens, and its admin API.
    pub(super) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.node.listen, self.node.admin)
    }

    /// CPUs of so many nodes and of the cores. The cores get the last ones: interrupts like the first.
    pub(super) fn cpus(&self, nodes: usize) -> Result<(Vec<usize>, Vec<usize>), Failure> {
        let all = driver::topology::cpus();
        let cores = self.cores.map_or(all.len().saturating_sub(nodes).max(1), usize::from);
        if let Err(error) = driver::topology::choose_cpus(cores) {
            let text = error.to_string();
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, "ask for fewer"));
            return Err(Failure::new(Exit::Machine, what, "--cores", remedy));
        }
        let (free, taken) = all.split_at(all.len() - cores);
        Ok((free.to_vec(), taken.to_vec()))
    }
}

impl Platform {
    fn run(self) -> Done {
        let mut control = Child::start("control node", self.control(None))?;
        let started = self.until_serving(&mut control);
        let endpoints = match started {
            Ok(Some(endpoints)) => endpoints,
            Ok(None) => return Ok(Exit::Interrupted),
            Err(Ended::Early(status)) => return early("control node", status),
            Err(Ended::Failure(failure)) => {
                control.end(KILL_AFTER);
                return Err(failure);
            }
        };
        // From now on the same ports, also where any free one was asked for: clients come back to them.
        control.replace(self.control(Some(&endpoints)));
        let mut worker = match Child::start("worker", self.worker(&endpoints)) {
            Ok(worker) => worker,
            Err(failure) => {
                control.end(self.options.node.drain);
                return Err(failure);
            }
        };
        let admin = Admin::new(&endpoints.admin)?;
        let ready = self.until_working(&admin, &mut worker);
        if let Err(ended) = ready {
            worker.end(KILL_AFTER);
            control.end(KILL_AFTER);
            return match ended {
                Ended::Early(status) => early("worker", status),
                Ended::Failure(failure) => Err(failure),
            };
        }
        if !interrupt::is_asked() {
            self.announce(&admin, &endpoints)?;
            let mut controllers = Child::start("controllers", self.controllers(&endpoints))?;
            let watched = self.watch([&mut control, &mut worker, &mut controllers], &endpoints);
            controllers.end(KILL_AFTER);
            watched?;
        }
        self.drain(&mut control, &mut worker)
    }

    /// The control node's command; with the ports that it had, if it ran before.
    fn control(&self, before: Option<&Endpoints>) -> Command {
        let node = &self.options.node;
        let address =
            |text: &str| text.split_once(':').and_then(|(_, at)| at.trim_start_matches('/').parse().ok());
        let listen: SocketAddr = before.and_then(|e| address(e.tcp.as_ref()?)).unwrap_or(node.listen);
        let admin: SocketAddr = before.and_then(|e| address(&e.admin)).unwrap_or(node.admin);
        let mut command = Command::new(&self.executable);
        command.args(["control", "--quiet", "--data-dir"]).arg(&self.data_dir);
        command.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        command.args(["--drain", &format!("{}ms", node.drain.as_millis())]);
        command.args(["--logs-total", &format!("{}B", node.logs_total)]);
        command.args(["--logs-function", &format!("{}B", node.logs_function)]);
        command.args(node.blob_words());
        command.args(["--calls-max", &node.calls_max.to_string()]);
        if node.recover == Recover::Salvage {
            command.args(["--recover", "salvage"]);
        }
        if let Some(region) = &node.region {
            command.args(["--region", region]);
        }
        for (name, at) in &node.peer {
            command.arg("--peer").arg(format!("{name}={at}"));
        }
        if let (Some(shard), Some(file)) = (node.shard, &node.shard_file) {
            command.args(["--shard", &shard.to_string(), "--shard-file"]).arg(file);
            command.args(["--shard-remember", &format!("{}ms", node.shard_remember.as_millis())]);
        }
        if let Some(cpu) = self.control_cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command
    }

    fn worker(&self, endpoints: &Endpoints) -> Command {
        let cpus: Vec<String> = self.worker_cpus.iter().map(usize::to_string).collect();
        let mut command = Command::new(&self.executable);
        command.args(["worker", "--node", &endpoints.shm, "--host-node", &endpoints.unix, "--data-dir"]);
        command.arg(&self.data_dir).args(["--cpus", &cpus.join(",")]);
        command.args(["--slots", &self.options.slots.to_string()]);
        command.args(["--keep-unused", &format!("{}B", self.options.keep_unused)]);
        for directory in &self.options.allow_files {
            command.arg("--allow-files").arg(directory);
        }
        command.args(self.options.sandboxes.command_line());
        if self.options.no_process_functions {
            command.arg("--no-process-functions");
        }
        command
    }

    fn controllers(&self, endpoints: &Endpoints) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(["controllers", "--admin", &endpoints.admin]);
        command.args(self.options.steering.command_line());
        command
    }

    /// Waits until the node answers; `None` on Ctrl-C.
    fn until_serving(&self, control: &mut Child) -> Result<Option<Endpoints>, Ended> {
        let until = Instant::now() + START_TIME;
        while !interrupt::is_asked() {
            if let Some(status) = control.ended() {
                return Err(Ended::Early(status));
            }
            let found = Endpoints::read(&self.data_dir).ok().filter(|found| Some(found.pid) == control.pid());
            if let Some(endpoints) = found
                && Admin::new(&endpoints.admin)?.get::<NodeStatus>("/v1/status").is_ok()
            {
                return Ok(Some(endpoints));
            }
            check_time(until, "the control node does not serve yet")?;
            std::thread::sleep(LOOK);
        }
        control.end(KILL_AFTER);
        Ok(None)
    }

    /// Waits until every core has connected and knows what is in force; returns early on Ctrl-C.
    fn until_working(&self, admin: &Admin, worker: &mut Child) -> Result<(), Ended> {
        let until = Instant::now() + START_TIME;
        while !interrupt::is_asked() {
            if let Some(status) = worker.ended() {
                return Err(Ended::Early(status));
            }
            let cores: Vec<CoreState> = admin.get("/v1/workers")?;
            let is_known = |core: &&CoreState| !core.backends.iter().any(|(_, how)| how.starts_with(SOON));
            let live = cores.iter().filter(|core| core.state == "live" && !core.far);
            if live.filter(is_known).count() >= self.worker_cpus.len() {
                return Ok(());
            }
            check_time(until, "not all worker cores have connected")?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Endpoints and backends.
    fn announce(&self, admin: &Admin, endpoints: &Endpoints) -> Result<(), Failure> {
        let status: NodeStatus = admin.get("/v1/status")?;
        let cores: Vec<CoreState> = admin.get("/v1/workers")?;
        let mut rows = vec![("native, TCP".to_owned(), endpoints.tcp.clone().unwrap_or_else(|| "-".into()))];
        rows.push(("native, Unix".into(), endpoints.unix.clone()));
        rows.push(("native, shared memory".into(), endpoints.shm.clone()));
        rows.push(("admin API".into(), endpoints.admin.clone()));
        rows.push(("data directory".into(), self.data_dir.display().to_string()));
        rows.push(("controllers".into(), "a process of their own; calls go on without it".into()));
        rows.push(("recovered calls".into(), status.recovered.to_string()));
        let cpus: Vec<String> = self.worker_cpus.iter().map(usize::to_string).collect();
        let node = self.control_cpu.map_or("any".to_owned(), |cpu| cpu.to_string());
        rows.push(("CPUs".into(), format!("node {node}, worker cores {}", cpus.join(","))));
        rows.extend(
            status.backends.iter().map(|(thing, backend)| (format!("node: {thing}"), backend.clone())),
        );
        if let Some(core) = cores.first() {
            rows.extend(
                core.backends.iter().map(|(thing, backend)| (format!("core: {thing}"), backend.clone())),
            );
        }
        let text = format!("millrace is ready\n{}", pairs(rows));
        // Nobody may be reading; the platform serves all the same.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }

    /// Keeps all running until Ctrl-C: node, worker, controllers.
    fn watch(&self, mut children: [&mut Child; 3], endpoints: &Endpoints) -> Result<(), Failure> {
        self.write_file(&children, endpoints)?;
        while !interrupt::is_asked() {
            std::thread::sleep(LOOK);
            let mut is_new = false;
            for child in &mut children {
                if let Some(status) = child.ended() {
                    let (name, how) = (child.name(), ending(status));
                    say(format_args!("millrace up: the {name} died ({how}); it is started again"));
                }
                match child.restart() {
                    Ok(started) => is_new |= started,
                    Err(failure) => say(failure),
                }
            }
            if is_new {
                self.write_file(&children, endpoints)?;
            }
        }
        Ok(())
    }

    /// The node first, since it waits for calls that the worker still runs.
    fn drain(&self, control: &mut Child, worker: &mut Child) -> Done {
        say("millrace up: draining; Ctrl-C again ends it at once");
        let _ = std::fs::remove_file(self.file());
        let ended = [control.end(self.options.node.drain + KILL_AFTER), worker.end(KILL_AFTER)];
        match ended.into_iter().flatten().find(|status| !status.success()) {
            None => Ok(Exit::Ok),
            Some(status) => {
                let what = format!("the drain was cut short ({})", ending(status));
                let remedy = "calls that had not ended run after the next start; nothing accepted is lost";
                Err(Failure::new(Exit::TimedOut, what, self.data_dir.display().to_string(), remedy))
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.data_dir.join("run/up.json")
    }

    fn write_file(&self, children: &[&mut Child; 3], endpoints: &Endpoints) -> Result<(), Failure> {
        let Endpoints { admin, tcp, unix, shm, .. } = endpoints;
        let file = UpFile {
            pid: std::process::id(),
            control: children[0].pid(),
            worker: children[1].pid(),
            controllers: children[2].pid(),
            endpoints: UpEndpoints { admin, tcp, unix, shm },
        };
        write_whole(&self.file(), &serde_json::to_vec_pretty(&file).expect("plain data"))
    }
}

/// By rename: who reads it gets the old file or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let fresh = path.with_extension("json.new");
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|error| Failure::file("write the endpoints", path, &error))
}

/// Why a start was given up.
enum Ended {
    /// The process ended, having said why.
    Early(ExitStatus),
    /// Something else.
    Failure(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Failure(failure)
    }
}

/// A child that ended at its start has printed the reason; its exit code becomes ours.
fn early(name: &str, status: ExitStatus) -> Done {
    let known = status.code().and_then(|code| Exit::ALL.into_iter().find(|exit| *exit as i32 == code));
    match known.filter(|exit| *exit != Exit::Ok) {
        Some(exit) => Ok(exit),
        None => {
            let what = format!("the {name} ended at its start ({})", ending(status));
            Err(Failure::new(
                Exit::Internal,
                what,
                name,
                "look at its output above, and at `millrace doctor`",
            ))
        }
    }
}

fn check_time(until: Instant, what: &str) -> Result<(), Failure> {
    if Instant::now() < until {
        return Ok(());
    }
    let place = format!("after {} s", START_TIME.as_secs());
    Err(Failure::new(Exit::TimedOut, what, place, "look at its output above, and at `millrace doctor`"))
}
