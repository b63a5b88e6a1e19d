//! The platform as users start it: `millrace up` on a fresh data directory, with one worker core.

use crate::rivals::{patiently, process_cpu};
use call::admin::{CoreState, NodeStatus};
use call::{FunctionId, FunctionSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Returns its arguments.
const ECHO: &str = r#"(module (memory (export "memory") 2)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $bytes)))))"#;

/// How long starting, deploying or ending may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `run/up.json` says.
#[derive(Deserialize)]
struct UpFile {
    pid: u32,
    control: u32,
    worker: u32,
    admin: String,
}

/// Running processes; they and the data directory are gone when this is dropped.
pub struct Platform {
    up: Child,
    folder: PathBuf,
    binary: PathBuf,
    admin: String,
    /// `up`, the control node, the worker's supervisor and the worker core.
    pub pids: Vec<u32>,
    /// The deployed function.
    pub function: FunctionId,
}

impl Platform {
    /// Starts `binary` on a fresh directory below [`crate::scratch`], and deploys a function that returns its arguments.
    ///
    /// # Errors
    /// If it does not serve in time, with what it printed.
    pub fn start(binary: &Path) -> io::Result<Platform> {
        let folder = crate::scratch()?.join(format!("platform-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let output = std::fs::File::create(folder.join("output"))?;
        let mut command = Command::new(binary);
        command.args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cores", "1"]);
        command
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let up =
            command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", binary.display())))?;
        let function = FunctionSpec { name: "echo".into(), ..FunctionSpec::default() }.id();
        let (binary, admin, pids) = (binary.to_owned(), String::new(), Vec::new());
        let mut platform = Platform { up, folder, binary, admin, pids, function };
        platform.meet()?;
        platform.deploy()?;
        Ok(platform)
    }

    /// Waits until it serves.
    fn meet(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let file = loop {
            if let Ok(bytes) = std::fs::read(self.folder.join("data/run/up.json")) {
                break serde_json::from_slice::<UpFile>(&bytes)?;
            }
            if self.up.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let output = std::fs::read_to_string(self.folder.join("output"))?;
                return Err(io::Error::other(format!("`millrace up` does not serve:\n{output}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.admin = file.admin.trim_start_matches("http://").to_owned();
        let cores: Vec<CoreState> = self.get("/v1/workers")?;
        self.pids = vec![file.pid, file.control, file.worker];
        self.pids.extend(cores.iter().map(|core| core.pid));
        Ok(())
    }

    fn deploy(&self) -> io::Result<()> {
        let (wasm, manifest) = (self.folder.join("echo.wasm"), self.folder.join("function.toml"));
        std::fs::write(wasm, wat::parse_str(ECHO).expect("the text above is right"))?;
        std::fs::write(&manifest, "name = \"echo\"\nartefact = \"echo.wasm\"\n")?;
        self.order(&["deploy", &manifest.display().to_string()])
    }

    /// Has the function's calls wait.
    ///
    /// # Errors
    /// If the node refuses.
    pub fn pause(&self) -> io::Result<()> {
        self.order(&["queue", "pause", "echo"])
    }

    fn order(&self, arguments: &[&str]) -> io::Result<()> {
        let mut command = Command::new(&self.binary);
        let ran = command.args(arguments).env("MILLRACE_DATA", self.folder.join("data")).output()?;
        if !ran.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&ran.stderr).into_owned()));
        }
        Ok(())
    }

    /// The node's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("data/run/submit.sock")
    }

    /// What the node counts.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> io::Result<NodeStatus> {
        self.get("/v1/status")
    }

    /// CPU time so far of each process and of this one, with its name.
    pub fn cpu(&self) -> Vec<(&'static str, Duration)> {
        let names = ["up", "node", "supervisor", "core"];
        let mut cpu: Vec<_> = names.into_iter().zip(self.pids.iter().map(|pid| process_cpu(*pid))).collect();
        cpu.push(("client", process_cpu(std::process::id())));
        cpu
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> io::Result<T> {
        let mut socket = patiently(|| TcpStream::connect(&self.admin))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        let (_, body) =
            text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("{path}: {text}")))?;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Its children end with it.
        let _ = self.up.kill();
        let _ = self.up.wait();
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
        let begun = Instant::now();
        while !self.pids.iter().all(gone) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
