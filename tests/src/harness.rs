//! Real processes of the real binary, with a data directory of their own.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a process may take to start or to end; only a broken one needs it all.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The `millrace` binary of this build, built first if it is not there.
pub fn millrace() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        build.args(["build", "-q", "-p", "millrace"]).current_dir(project());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the millrace binary does not build");
        let binary = profile.join("millrace");
        assert!(binary.is_file(), "no binary at {}", binary.display());
        binary
    })
}

/// The project's folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project")
}

/// A running process of the binary; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `millrace ARGUMENTS` with its output going to a file in `folder`.
    pub fn start<A: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = A>) -> Process {
        let log = folder.join("output.log");
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let mut command = Command::new(millrace());
        command.args(arguments).stdin(Stdio::null()).stdout(out.try_clone().expect("a file")).stderr(out);
        Process { child: command.spawn().expect("the binary starts"), log }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a killed process ends");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).expect("it runs");
    }

    /// SIGTERM, and the exit code it ends with.
    pub fn stop(&mut self) -> i32 {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait()
    }

    /// Waits for its end; the exit code.
    pub fn wait(&mut self) -> i32 {
        until("the process to end", || self.child.try_wait().expect("waited for").map(|s| s.code().unwrap_or(-1)))
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waited for").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.output());
        }
    }
}

/// Waits until `ready` gives something.
///
/// # Panics
/// After [`PATIENCE`].
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(thing) = ready() {
            return thing;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A data directory and what runs on it.
pub struct Site {
    folder: TempDir,
}

impl Default for Site {
    fn default() -> Site {
        Site::new()
    }
}

impl Site {
    /// A fresh one, on the disk that holds the target folder: `/tmp` may be memory.
    pub fn new() -> Site {
        let target = millrace().parent().expect("a folder");
        Site { folder: tempfile::Builder::new().prefix("site-").tempdir_in(target).expect("a folder") }
    }

    /// Where everything of it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// Starts `millrace up` on free ports and waits until it serves.
    pub fn up(&self, more: &[&str]) -> Process {
        let data = self.data();
        let _ = std::fs::remove_file(data.join("run/up.json"));
        let data = data.to_str().expect("a plain path").to_owned();
        let mut arguments = vec!["up", "--data-dir", &data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        arguments.extend(more);
        let mut process = Process::start(self.folder(), &arguments);
        until("up.json", || {
            assert!(process.is_running(), "`millrace up` ended early:\n{}", process.output());
            self.data().join("run/up.json").is_file().then_some(())
        });
        process
    }

    /// Starts a control node alone on free ports and waits until it serves.
    pub fn control(&self) -> Process {
        let file = self.data().join("run/control.json");
        let _ = std::fs::remove_file(&file);
        let data = self.data().to_str().expect("a plain path").to_owned();
        let arguments = ["control", "--data-dir", &data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut process = Process::start(self.folder(), arguments);
        until("control.json", || {
            assert!(process.is_running(), "`millrace control` ended early:\n{}", process.output());
            serde_json::from_slice::<Value>(&std::fs::read(&file).ok()?).ok()
        });
        process
    }

    /// Starts a worker of one core for this site's node.
    pub fn up_worker(&self) -> Process {
        let data = self.data().to_str().expect("a plain path").to_owned();
        Process::start(self.folder(), ["worker", "--data-dir", &data, "--cpus", "0"])
    }

    /// The Unix endpoint of the native protocol.
    pub fn endpoint(&self) -> millrace_client::Endpoint {
        let path = self.data().join("run/submit.sock");
        format!("unix:{}", path.display()).parse().expect("an endpoint")
    }

    /// Runs a command of the CLI against this site and waits for it.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = Command::new(millrace())
            .args(arguments)
            .env("MILLRACE_DATA", self.data())
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        Ran { command: arguments.join(" "), output }
    }

    /// As [`Site::run`], and it must succeed; its stdout.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code(), 0, "{ran}");
        ran.stdout()
    }

    /// As [`Site::ok`] with `-o json`, parsed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-o", "json"]);
        let text = self.ok(&arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in: {text}"))
    }

    /// Writes a file into the site's folder; its path.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.folder().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path.to_str().expect("a plain path").to_owned()
    }

    /// Writes a function in the text form of wasm with its manifest, and deploys it.
    pub fn deploy(&self, name: &str, wat: &str, more: &str) {
        self.file(&format!("{name}/f.wasm"), wat::parse_str(wat).expect("the test's wasm is right"));
        let manifest = format!("name = \"{name}\"\nartefact = \"f.wasm\"\n{more}\n");
        let path = self.file(&format!("{name}/function.toml"), manifest);
        self.ok(&["deploy", &path]);
    }
}

/// A command of the CLI that has ended.
pub struct Ran {
    command: String,
    output: Output,
}

impl Ran {
    /// Its exit code.
    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    /// What it printed.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// What it complained about.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// It must have failed with this code, and say all of these words on stderr.
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{self}");
        for word in words {
            assert!(self.stderr().contains(word), "no `{word}` in: {self}");
        }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "millrace {}: exit {}\n{}{}", self.command, self.code(), self.stdout(), self.stderr())
    }
}

/// A function of the fast ABI that returns its arguments.
pub const ECHO: &str = r#"(module
  (memory (export "memory") 2)
  (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $bytes)))))"#;

/// One that traps.
pub const TRAP: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "millrace_alloc") (param i32) (result i32) (i32.const 0))
  (func (export "millrace_call") (param i32 i32) (result i64) unreachable))"#;

/// One that never ends.
pub const LOOP: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "millrace_alloc") (param i32) (result i32) (i32.const 0))
  (func (export "millrace_call") (param i32 i32) (result i64) (loop $l (br $l)) (i64.const 0)))"#;
