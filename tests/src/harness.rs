//! Real processes of the real binary, with a data directory of their own.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
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
        // A VM has no compiler; what the host built was brought.
        if !is_inside_vm() {
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            build.args(["build", "-q", "-p", "millrace"]).current_dir(project());
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo runs").success(), "the millrace binary does not build");
        }
        let binary = profile.join("millrace");
        assert!(binary.is_file(), "no binary at {}", binary.display());
        binary
    })
}

/// Whether this runs in the VM of `tests/vm/run`.
pub fn is_inside_vm() -> bool {
    std::env::var_os("MILLRACE_INSIDE_VM").is_some()
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
        until("the process to end", || {
            self.child.try_wait().expect("waited for").map(|s| s.code().unwrap_or(-1))
        })
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

/// Whether this machine lets us make regions in network namespaces of their own; says so if not.
pub fn has_namespaces() -> bool {
    let name = format!("millrace-{}-probe", std::process::id());
    let ip = |what: &str| {
        Command::new("ip").args(["netns", what, &name]).output().is_ok_and(|o| o.status.success())
    };
    let possible = nix::unistd::geteuid().is_root() && ip("add");
    ip("del");
    if !possible {
        eprintln!(
            "SKIPPED: regions need root, network namespaces and iproute2; nothing about them was tested"
        );
    }
    possible
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

    /// Starts `millrace up` on free ports, without process functions, and waits until it serves. A jailer and its BPF
    /// programs would take longer to start than all the rest.
    pub fn up(&self, more: &[&str]) -> Process {
        let mut more = more.to_vec();
        more.push("--no-process-functions");
        self.up_whole(&more)
    }

    /// As [`Site::up`], with process functions.
    pub fn up_whole(&self, more: &[&str]) -> Process {
        let data = self.data();
        let _ = std::fs::remove_file(data.join("run/up.json"));
        let data = data.to_str().expect("a plain path").to_owned();
        let mut arguments =
            vec!["up", "--data-dir", &data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
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
        self.control_with(&[])
    }

    /// As [`Site::control`], with more arguments.
    pub fn control_with(&self, more: &[&str]) -> Process {
        let file = self.data().join("run/control.json");
        let _ = std::fs::remove_file(&file);
        let data = self.data().to_str().expect("a plain path").to_owned();
        let arguments = ["control", "--data-dir", &data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut process = Process::start(self.folder(), [&arguments[..], more].concat());
        until("control.json", || {
            assert!(process.is_running(), "`millrace control` ended early:\n{}", process.output());
            serde_json::from_slice::<Value>(&std::fs::read(&file).ok()?).ok()
        });
        process
    }

    /// Starts a worker of one core for this site's node, without process functions.
    pub fn up_worker(&self) -> Process {
        let data = self.data().to_str().expect("a plain path").to_owned();
        Process::start(
            self.folder(),
            ["worker", "--data-dir", &data, "--cpus", "0", "--no-process-functions"],
        )
    }

    /// The Unix endpoint of the native protocol.
    pub fn endpoint(&self) -> millrace_client::Endpoint {
        let path = self.data().join("run/submit.sock");
        format!("unix:{}", path.display()).parse().expect("an endpoint")
    }

    /// A command of the CLI against this site, in its folder, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(millrace());
        command.args(arguments).env("MILLRACE_DATA", self.data()).current_dir(self.folder());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command of the CLI against this site and waits for it.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Running::start(self.command(arguments)).finish()
    }

    /// Starts a command of the CLI against this site that reads what the test writes to its stdin.
    pub fn begin(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        Running::start(command)
    }

    /// `run/up.json`: processes and endpoints of what [`Site::up`] started.
    pub fn up_json(&self) -> Value {
        let bytes = std::fs::read(self.data().join("run/up.json")).expect("`up` serves");
        serde_json::from_slice(&bytes).expect("up.json is written whole")
    }

    /// The node's counters; `None` while it cannot be reached.
    pub fn status(&self) -> Option<Value> {
        let ran = self.run(&["status", "-o", "json"]);
        (ran.code() == 0).then(|| serde_json::from_str(&ran.stdout()).expect("JSON"))
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

    /// Writes a function in the text form of wasm with its manifest, and deploys it; again while a shard has missed it (exit
    /// 4), since those of a busy machine come one after the other.
    pub fn deploy(&self, name: &str, wat: &str, more: &str) {
        self.file(&format!("{name}/f.wasm"), wat::parse_str(wat).expect("the test's wasm is right"));
        let manifest = format!("name = \"{name}\"\nartefact = \"f.wasm\"\n{more}\n");
        let path = self.file(&format!("{name}/function.toml"), manifest);
        until("all shards to have it", || {
            let ran = self.run(&["deploy", &path]);
            assert!(matches!(ran.code(), 0 | 4), "{ran}");
            (ran.code() == 0).then_some(())
        });
    }
}

/// A command of the CLI that runs.
pub struct Running {
    command: String,
    child: Child,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Running {
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
        Running { command: words.join(" "), child: command.spawn().expect("the binary starts") }
    }

    /// Writes to its stdin, which stays open.
    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("it reads");
    }

    /// As [`Running::write`]; an error if it does not read any more.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.child.stdin.as_ref().expect("begun with a stdin").write_all(bytes)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Closes its stdin and waits for its end.
    ///
    /// # Panics
    /// If it does not end in [`PATIENCE`]; it is killed then.
    pub fn finish(self) -> Ran {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let (ended, has_ended) = mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            let is_late = has_ended.recv_timeout(PATIENCE).is_err();
            if is_late {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            is_late
        });
        let output = self.child.wait_with_output().expect("it can be waited for");
        // Nobody listens any more if it was killed.
        let _ = ended.send(());
        let ran = Ran { command: self.command, output };
        assert!(!watch.join().expect("a watch does not panic"), "did not end in {PATIENCE:?}: {ran}");
        ran
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

    /// What it printed, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.output.stdout
    }

    /// What it printed with `-o json`, parsed.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap_or_else(|error| panic!("{error} in: {self}"))
    }

    /// What it complained about.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// It must have failed with this code, and say all of these words on stderr, with a remedy.
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{self}");
        assert!(self.stderr().contains("\nhint: "), "no remedy in: {self}");
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

/// One that asks for more memory until it gets none, and fails for it.
pub const HOG: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "millrace_alloc") (param i32) (result i32) (i32.const 0))
  (func (export "millrace_call") (param i32 i32) (result i64)
    (loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable))"#;

/// One that calls itself until its stack is full.
pub const DEEP: &str = r#"(module
  (memory (export "memory") 1)
  (func $d (param i64) (result i64) (i64.add (i64.const 1) (call $d (i64.add (local.get 0) (i64.const 1)))))
  (func (export "millrace_alloc") (param i32) (result i32) (i32.const 0))
  (func (export "millrace_call") (param i32 i32) (result i64) (call $d (i64.const 0))))"#;

/// A WASI command: stdin to stdout, `heard` to stderr; exit status 3 if stdin begins with `!`.
pub const COMMAND: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "heard\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 60000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
    (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 6))
    (drop (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 12)))
    (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 33)) (then (call $exit (i32.const 3))))))"#;

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
