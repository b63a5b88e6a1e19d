//! Other systems, each as a real server at its best known setting, driven by the shape of client that suits it.

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub mod beanstalkd;
pub mod nats;
pub mod postgres;
pub mod redis;

/// Jobs of one round trip.
const BATCH: usize = 64;

/// What a rival reached.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Jobs that went the whole way, per second.
    pub jobs_per_s: f64,
    /// CPU of the server and of this process, microseconds per job.
    pub cpu_us: f64,
}

/// A server process with a folder of its own; both are gone when this is dropped.
pub struct Server {
    child: Child,
    /// Where its files and sockets are.
    pub folder: PathBuf,
}

impl Server {
    /// Starts `command` with a fresh folder as its working directory.
    ///
    /// # Errors
    /// If the program is not installed: the message names the Debian package to install.
    pub fn start(
        name: &str,
        package: &str,
        command: impl FnOnce(&PathBuf) -> io::Result<Command>,
    ) -> io::Result<Server> {
        let folder = crate::scratch()?.join(format!("rival-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let child = command(&folder).and_then(|mut command| {
            command.current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        });
        let child = child.map_err(|e| {
            let _ = std::fs::remove_dir_all(&folder);
            io::Error::new(e.kind(), format!("{name}: {e}; apt-get install {package}"))
        })?;
        Ok(Server { child, folder })
    }

    /// CPU time that the server and its children have used.
    pub fn cpu(&self) -> Duration {
        let pid = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(process_cpu);
        process_cpu(pid) + children.sum::<Duration>()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// CPU time, in user and kernel, of a process and its threads so far; zero if it has ended.
pub fn process_cpu(pid: u32) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32));
    clock.and_then(clock_gettime).map_or(Duration::ZERO, Duration::from)
}

/// Tries until a server answers, for five seconds.
pub fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(_) if begun.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(20))
            }
            result => return result,
        }
    }
}
