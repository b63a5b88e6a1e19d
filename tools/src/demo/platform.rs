//! Everything embedded, as `millrace up` starts it, seen from outside.

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use crate::settings::Endpoints;
use call::admin::CoreState;
use call::body::Submit;
use call::{FunctionId, Usage};
use millrace_client::blocking::Client;
use millrace_client::{Endpoint, Options as ClientOptions};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start or an orderly end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `millrace up`. Dropped without [`Platform::stop`], everything is killed.
pub struct Platform {
    up: Child,
    data: PathBuf,
    endpoints: Endpoints,
    /// The admin API.
    pub admin: Admin,
}

impl Platform {
    /// Starts everything with a fresh data directory below `out`, on free ports.
    pub fn start(out: &Path, cores: Option<u16>) -> Result<Platform, Failure> {
        let data = out.join("data");
        let _ = std::fs::remove_dir_all(&data);
        let made = std::fs::create_dir_all(&data);
        made.map_err(|error| Failure::file("make the demo's data directory", &data, &error))?;
        let log_path = out.join("up.log");
        let log =
            File::create(&log_path).map_err(|error| Failure::file("write the log", &log_path, &error))?;
        let exe = std::env::current_exe()
            .map_err(|error| internal(&format!("no path of this program: {error}")))?;
        let mut command = Command::new(exe);
        command.arg("up").arg("--data-dir").arg(&data);
        if let Some(cores) = cores {
            command.args(["--cores", &cores.to_string()]);
        }
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let stderr = log.try_clone().map_err(|error| Failure::file("write the log", &log_path, &error))?;
        let up = command.stdin(Stdio::null()).stdout(log).stderr(stderr).spawn();
        let mut up = up.map_err(|error| internal(&format!("`millrace up` did not start: {error}")))?;
        let endpoints = wait_ready(&mut up, &data, &log_path)?;
        let admin = Admin::new(&endpoints.admin)?;
        Ok(Platform { up, data, endpoints, admin })
    }

    /// Where calls are submitted.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoints.unix.parse().expect("`up` writes endpoints that can be read")
    }

    /// Submits one call, waits for its outcome, and says what it took.
    pub fn call(&self, function: FunctionId, payload: &[u8]) -> Result<Usage, Failure> {
        let options = ClientOptions { name: "millrace-demo".into(), ..ClientOptions::default() };
        let mut client = Client::connect(&self.endpoint(), options)?;
        let submit = Submit { want_outcome: true, ..client.call(function, payload) };
        let outcome = client.run(&submit, PATIENCE)?;
        if !outcome.status.is_ok() {
            let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
            return Err(internal(&format!("a first call ended with `{}`: {said}", outcome.status.name())));
        }
        Ok(outcome.usage)
    }

    /// The process of one live worker core.
    pub fn a_core(&self) -> Option<u32> {
        let cores: Vec<CoreState> = self.admin.get("/v1/workers").ok()?;
        cores.iter().find(|core| core.state == "live").map(|core| core.pid)
    }

    /// The control node's process.
    pub fn control(&self) -> Option<u32> {
        let bytes = std::fs::read(self.data.join("run/control.json")).ok()?;
        serde_json::from_slice::<Endpoints>(&bytes).ok().map(|endpoints| endpoints.pid)
    }

    /// CPU time of all its processes, living and waited for.
    pub fn cpu(&self) -> Duration {
        let mut pids = vec![self.up.id()];
        let mut total = Duration::ZERO;
        while let Some(pid) = pids.pop() {
            total += cpu_with_dead_children(pid);
            let children =
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        total
    }

    /// Ends it as Ctrl-C does; the CPU time that all its processes took.
    pub fn stop(&mut self) -> Result<Duration, Failure> {
        let pid = Pid::from_raw(self.up.id() as i32);
        kill(pid, Signal::SIGTERM).map_err(|error| internal(&format!("`millrace up` is gone: {error}")))?;
        let begun = Instant::now();
        loop {
            match self.up.try_wait() {
                // Stopped by a signal, in order: everything drained.
                Ok(Some(status)) if matches!(status.code(), Some(0 | 130)) => break,
                Ok(Some(status)) => return Err(internal(&format!("`millrace up` ended with {status}"))),
                _ if begun.elapsed() > PATIENCE => {
                    return Err(internal("`millrace up` did not drain in a minute"));
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| internal(&error.to_string()))?;
        let time = |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1000);
        Ok(time(usage.user_time()) + time(usage.system_time()))
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to kill.
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

/// Kills a process without warning; whether it was there.
pub fn kill_now(pid: u32) -> bool {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).is_ok()
}

fn wait_ready(up: &mut Child, data: &Path, log: &Path) -> Result<Endpoints, Failure> {
    let begun = Instant::now();
    loop {
        let written = std::fs::read(data.join("run/up.json"));
        if let Some(endpoints) = written.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(endpoints);
        }
        let ended = up.try_wait().ok().flatten();
        if ended.is_some() || begun.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            return Err(internal(&format!("`millrace up` did not become ready:\n{}", last.join("\n"))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ticks of /proc are 1/100 s.
fn cpu_with_dead_children(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // After the name: 11 utime, 12 stime, 13 cutime, 14 cstime.
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((11..=14).map(ticks).sum::<u64>() * 10)
}

fn internal(what: &str) -> Failure {
    Failure::new(
        Exit::Internal,
        what,
        "the demo",
        "see up.log in the demo's output folder; `millrace doctor` may help",
    )
}
