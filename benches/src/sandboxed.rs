//! A jailer and cores as in production, of one data directory, with this process as their node.

use crate::core_process::Core;
use crate::leases::{Leased, Leases};
use call::FunctionSpec;
use call::function::{Abi, Base, RuntimeKind};
use call::limits::Limits;
use driver::Endpoint;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::jailer::Settings;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use worker::{Config, Plan};

/// How long starting and ending may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the jailer is asked with when nothing else is said.
pub const BLANKS: u32 = Settings::BLANKS;

/// A jailer on a data directory of its own. Ends with this value, and removes what it made.
#[derive(Debug)]
pub struct Stage {
    jailer: Child,
    /// The data directory.
    pub directory: PathBuf,
}

impl Stage {
    /// Starts a jailer that keeps so many blanks: this program, with `jailer`.
    ///
    /// # Errors
    /// If it does not serve, with what it said.
    pub fn start(blanks: u32) -> io::Result<Stage> {
        let directory = crate::scratch()?.join(format!("process-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("run"))?;
        let said = std::fs::File::create(directory.join("jailer.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("jailer").arg(&directory).arg(blanks.to_string()).stderr(said);
        let mut stage = Stage { jailer: anywhere(&mut command).spawn()?, directory };
        let begun = Instant::now();
        while sandbox::socket::connect_to(&stage.socket()).is_err() {
            if stage.jailer.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(stage.directory.join("jailer.log"))?;
                return Err(io::Error::other(format!("the jailer does not serve: {said}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(stage)
    }

    /// Where the jailer listens.
    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// The jailer's process.
    pub fn jailer(&self) -> u32 {
        self.jailer.id()
    }

    /// Where the files of the bundle of this name belong.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn bundle(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.directory.join("cache/bundles").join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
        Ok(folder)
    }

    /// A core on `cpu` with these functions, and its node, which sleeps when there is nothing to do. `endpoint` is what
    /// lies between them.
    ///
    /// # Errors
    /// If the core does not connect.
    pub fn core(&self, cpu: u32, functions: Vec<Leased>) -> io::Result<(Core, Leases)> {
        let mut core = None;
        let at = Endpoint::Shm(self.directory.join(format!("core-{cpu}.shm")));
        let leases = Leases::serve_sleeping(&at, functions, |node| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["core", &cpu.to_string(), &node.to_string()]).arg(&self.directory);
            let said = std::fs::File::create(self.directory.join(format!("core-{cpu}.log")))?;
            command.env("RUST_LIB_BACKTRACE", "0").stderr(said);
            core = Some(Core(alone(ours(&mut command)).spawn()?));
            Ok(())
        })?;
        Ok((core.expect("just started"), leases))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.jailer.id() as i32);
        let _ = kill(pid, Signal::SIGTERM);
        let begun = Instant::now();
        while matches!(self.jailer.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                let _ = self.jailer.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::env::var_os("KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("run/jailer.sock")
}

/// What `jailer DIRECTORY BLANKS` does.
///
/// # Errors
/// If it cannot serve here.
pub fn jail(directory: &str, blanks: u32) -> io::Result<()> {
    let directory = PathBuf::from(directory);
    let settings = Settings { blanks, ..Settings::new(socket(&directory), directory) };
    sandbox::jailer::run(settings).map_err(|error| io::Error::other(error.to_string()))
}

/// What `core CPU NODE DIRECTORY` does: as `millrace core`.
///
/// # Errors
/// If it cannot run here.
pub fn serve(cpu: u32, node: &str, directory: &str) -> io::Result<()> {
    let jailer = Some(socket(Path::new(directory)));
    let host_node = Some("tcp:127.0.0.1:1".into());
    let config =
        Config { node: node.into(), host_node, data_dir: directory.into(), jailer, ..Config::default() };
    let plan = Plan::of(&config, &worker::plan::allowed_cpus()).map_err(io::Error::other)?;
    worker::process::run(&plan, cpu, &Limits::default()).map_err(|error| io::Error::other(error.to_string()))
}

/// A process function by the Runtime API; its bundle has its name.
pub fn spec(name: &str, command: &[&str], sandboxes: u32) -> FunctionSpec {
    let mut spec = FunctionSpec {
        name: name.into(),
        artefact: name.into(),
        runtime: RuntimeKind::Process,
        abi: Abi::RuntimeApi,
        timeout_ms: 600_000,
        version: 1,
        ..FunctionSpec::default()
    };
    spec.process.command = command.iter().map(|word| (*word).to_owned()).collect();
    spec.process.base = Base::None;
    spec.limits.sandboxes = sandboxes;
    spec
}

/// Compiles `programs/<name>.c` with `cc -O2 -static` into `target/bench/programs`.
///
/// # Errors
/// If there is no C compiler, or it refuses.
pub fn compiled(name: &str) -> io::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name).with_extension("c");
    let folder = crate::scratch()?.join("programs");
    std::fs::create_dir_all(&folder)?;
    let (program, fresh) = (folder.join(name), folder.join(format!("{name}-{}", std::process::id())));
    let ran = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&fresh).arg(&source).output()?;
    if !ran.status.success() {
        return Err(io::Error::other(format!("cc: {}", String::from_utf8_lossy(&ran.stderr))));
    }
    std::fs::rename(fresh, &program)?;
    Ok(program)
}

/// Calls until so many calls of `function` at once have ended well: its sandboxes are warm then.
///
/// # Errors
/// If they do not in time, with what the last that failed said.
pub fn warm(leases: &mut Leases, function: usize, at_once: u64) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let failed = leases.failed;
        for _ in 0..4 {
            leases.send_block(function, at_once);
            leases.settle();
        }
        if leases.failed == failed {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("calls fail: {}", leases.failure)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A child whose output nobody reads.
pub fn quietly(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// A child that may run on any CPU, whatever this thread is pinned to. It ends with this process.
pub fn anywhere(command: &mut Command) -> &mut Command {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        all.set(cpu).expect("below the set's size");
    }
    // SAFETY: one system call between fork and exec, and no memory is allocated.
    unsafe { ours(command).pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &all)?)) }
}

/// A child in a session of its own, as the supervisor's.
fn alone(command: &mut Command) -> &mut Command {
    // SAFETY: as above.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) }
}

/// A child that ends with this process: asked to, so that a jailer removes what it made.
pub fn ours(command: &mut Command) -> &mut Command {
    // SAFETY: as above.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?)) }
}
