//! The platform that all attacks share, its functions, and the neighbours.

use call::{CallId, FunctionId, Status};
use millrace_client::{Error, Options, Outcome, blocking::Client};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::harness::{ECHO, PATIENCE, Process, Site, is_inside_vm, millrace, project, until};

/// A sandbox's limits, as the tests know them.
pub const PIDS: usize = 40;
/// Open files of one process.
pub const FILES: usize = 200;
/// Bytes of `/tmp`.
pub const TMP_MIB: usize = 8;
/// The text that an attacker wants to know begins with this.
pub const SECRET: &str = "alices-secret-";

/// Whether this user can run the attacks; says loudly if not. Root runs them all, and whatever is missing then (a C
/// compiler, cgroups, BPF) fails the test that needs it.
pub fn can_run(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!(
            "SKIPPED: {test} because sandboxes with all their limits need root, and this runs as another user"
        );
    }
    is_root
}

/// The attacker, compiled once.
pub fn attacker() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = project().join("tests/guests/attacker");
        let target = millrace().parent().expect("a folder").join("attacker");
        if is_inside_vm() {
            return target;
        }
        let entries =
            fs::read_dir(folder).expect("the attacker's source").map(|e| e.expect("an entry").path());
        let sources: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "c")).collect();
        let fresh = target.with_extension(std::process::id().to_string());
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o"]).arg(&fresh);
        let done = compile.args(sources).status().expect("a C compiler; `make setup` installs one");
        assert!(done.success(), "the attacker does not compile");
        fs::rename(&fresh, &target).expect("the same folder");
        target
    })
}

/// A running platform with all functions of the tests.
pub struct Stage {
    pub site: Site,
    _up: Process,
    /// In the environment of each sandbox's processes, so that they are found from outside.
    pub mark: String,
    /// What follows [`SECRET`].
    pub nonce: String,
    /// Listeners of the host that functions may reach, or may not.
    pub host: crate::network::Host,
}

/// Shared by the tests that run at the same time.
pub fn stage() -> Arc<Stage> {
    static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(stage) = shared.upgrade() {
        return stage;
    }
    let stage = Arc::new(Stage::start());
    *shared = Arc::downgrade(&stage);
    stage
}

/// How a call ended, with what it told.
#[derive(Debug)]
pub struct Told {
    pub call: CallId,
    pub status: Status,
    pub output: String,
    pub stderr: String,
    pub is_cut: bool,
}

impl Told {
    fn of(outcome: &Outcome) -> Told {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Outcome { call, status, .. } = *outcome;
        let (output, stderr) = (text(&outcome.output), text(&outcome.stderr));
        Told { call, status, output, stderr, is_cut: outcome.usage.truncated }
    }

    /// The function answered, and said all of these lines.
    #[track_caller]
    pub fn says(&self, lines: &[&str]) -> &Told {
        assert_eq!(self.status, Status::Ok, "{self:?}");
        for line in lines {
            assert!(self.output.lines().any(|other| other == *line), "no line `{line}` in {self:?}");
        }
        self
    }

    /// The call ended so, and its text holds these words.
    #[track_caller]
    pub fn ended(&self, status: Status, words: &[&str]) -> &Told {
        assert_eq!(self.status, status, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in {self:?}");
        }
        self
    }

    /// The number behind a word at the beginning of a line.
    #[track_caller]
    pub fn number(&self, word: &str) -> usize {
        let line = self.output.lines().find_map(|line| line.strip_prefix(word));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no number behind `{word}` in {self:?}"))
    }

    /// Nothing of what it tried succeeded.
    #[track_caller]
    pub fn is_refused(&self) -> &Told {
        assert_eq!(self.status, Status::Ok, "{self:?}");
        let succeeded: Vec<&str> = self.output.lines().filter(|line| line.ends_with(": ok")).collect();
        assert!(succeeded.is_empty() && self.output.contains(": E"), "{succeeded:?} in {self:?}");
        self
    }
}

impl Stage {
    fn start() -> Stage {
        let site = Site::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
        let (mark, nonce) = (format!("mark-{}-{now}", std::process::id()), format!("{now:x}"));
        let up = site.up_whole(&["--cores", "1"]);
        let stage = Stage { site, _up: up, mark, nonce, host: crate::network::Host::listen() };
        stage.lay_bundle();
        stage.site.deploy("wasm-neighbour", ECHO, "");
        for (name, more) in stage.functions() {
            stage.deploy(name, &more);
        }
        stage
    }

    /// The attacker, and a copy that claims to be root's.
    fn lay_bundle(&self) {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.site.folder().join("bundle");
        fs::create_dir_all(&folder).expect("a folder");
        for (name, mode) in [("attacker", 0o755), ("root", 0o6755)] {
            fs::copy(attacker(), folder.join(name)).expect("a copy");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("a mode");
        }
    }

    /// Name, and the manifest's lines after those that all have in common.
    fn functions(&self) -> Vec<(&'static str, String)> {
        let own = |tenant: &str, timeout: &str| {
            format!(
                "tenant = \"{tenant}\"\ncommand = [\"./attacker\"]\nmemory = \"64MiB\"\ntimeout = \"{timeout}\"\n[limits]\n\
                 pids = {PIDS}\nfiles = {FILES}\ntmp = \"{TMP_MIB}MiB\"\ngrace = \"200ms\"\nsandboxes = 6\n"
            )
        };
        let begins = |how: &str| {
            format!(
                "command = [\"./attacker\", \"{how}\"]\nmemory = \"32MiB\"\n[limits]\npids = 20\ninit_timeout = \"1s\"\n\
                 grace = \"200ms\"\n"
            )
        };
        let of =
            |limits: &str| format!("command = [\"./attacker\"]\nmemory = \"32MiB\"\n[limits]\n{limits}\n");
        vec![
            ("neighbour", own("bob", "60s")),
            (
                "victim",
                format!("{}[environment]\nSECRET = \"{SECRET}{}\"\n", own("alice", "60s"), self.nonce),
            ),
            ("attacker", own("mallory", "30s")),
            ("slow", own("mallory", "1s")),
            ("pots", own("mallory", "30s")),
            ("peek", own("mallory", "30s")),
            ("strict", own("mallory", "30s") + "[sandbox]\ntier = \"strict\"\n"),
            ("bomb", of("tmp = \"1GiB\"\npids = 40")),
            // One that is stopped on the way stays warm: nobody may wait for its end.
            ("buffers", of("pids = 40")),
            ("daemons", of("pids = 40")),
            ("granted", own("mallory", "30s") + &self.host.grants()),
            ("forker", of("pids = 40").replace("32MiB", "256MiB")),
            ("binder", own("mallory", "30s") + &self.host.grants()),
            ("wide-binder", own("mallory", "30s") + "[network]\nallow = [\"0.0.0.0/0:*\", \"[::]/0:*\"]\n"),
            ("resolver", own("mallory", "30s") + &self.host.grants()),
            ("wide", own("mallory", "30s") + "[network]\nallow = [\"0.0.0.0/0:*\", \"[::]/0:*\"]\n"),
            (
                "stdio",
                format!("abi = \"stdio\"\n{}", own("mallory", "5s"))
                    .replace("./attacker\"", "./attacker\", \"stdio\""),
            ),
            (
                "shell",
                format!("abi = \"stdio\"\n{}", own("mallory", "2s")).replace("\"./attacker\"", "\"sh\""),
            ),
            ("begin-crash", begins("crash")),
            ("begin-exit", begins("exit")),
            ("begin-hang", begins("hang")),
            ("begin-deaf", begins("deaf")),
            ("begin-syscall", begins("syscall")),
            ("begin-error", begins("error")),
            ("begin-answer", begins("answer")),
            // Forks that are refused hold kernel memory until the kernel's next quiet period: room for that, so that the
            // limit of processes is what it meets.
            ("begin-bomb", begins("bomb").replace("32MiB", "256MiB")),
        ]
    }

    fn deploy(&self, name: &str, more: &str) {
        let mark = format!("MARK = \"{}\"\n", self.mark);
        let more = match more.contains("[environment]\n") {
            true => more.replace("[environment]\n", &format!("[environment]\n{mark}")),
            false => format!("{more}[environment]\n{mark}"),
        };
        let manifest = format!(
            "name = \"{name}\"\nruntime = \"process\"\nbundle = \"bundle\"\n{}\n[retry]\nattempts = 1\n",
            more
        );
        let path = self.site.file(&format!("{name}.toml"), manifest);
        self.site.ok(&["deploy", &path]);
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.site.endpoint(), Options::default()).expect("the node answers")
    }

    /// One call, however it ends.
    pub fn call(&self, client: &mut Client, function: &str, arguments: &str) -> Told {
        let call = client.call(FunctionId::of("default", function), arguments.as_bytes());
        let outcome =
            client.run(&call, PATIENCE).unwrap_or_else(|error| panic!("{function} {arguments}: {error}"));
        Told::of(&outcome)
    }

    /// Both neighbours answer.
    pub fn neighbours_answer(&self, client: &mut Client, when: &str) {
        let told = self.call(client, "neighbour", "echo are you there");
        assert_eq!((told.status, told.output.as_str()), (Status::Ok, "are you there\n"), "{when}: {told:?}");
        let told = self.call(client, "wasm-neighbour", "and you");
        assert_eq!((told.status, told.output.as_str()), (Status::Ok, "and you"), "{when}: {told:?}");
    }

    /// One attack: neighbours answer before it, again and again meanwhile, and after it; and if its call fails, that is
    /// what the platform tells of the call.
    pub fn attack(&self, function: &str, arguments: &str) -> Told {
        self.attack_while(function, arguments, || {})
    }

    /// As [`Stage::attack`]; `look` is called again and again while it is under way.
    pub fn attack_while(&self, function: &str, arguments: &str, mut look: impl FnMut()) -> Told {
        let what = format!("{function}: {arguments}");
        let (mut near, mut client) = (self.client(), self.client());
        self.neighbours_answer(&mut near, &format!("before {what}"));
        let mut call = client.call(FunctionId::of("default", function), arguments.as_bytes());
        call.want_outcome = true;
        client.submit(&call).unwrap_or_else(|error| panic!("{what}: {error}"));
        let begun = std::time::Instant::now();
        let outcome = loop {
            self.neighbours_answer(&mut near, &format!("during {what}"));
            look();
            match client.wait(call.call, Duration::from_millis(20)) {
                Ok(outcome) => break outcome,
                Err(Error::TimedOut { .. }) => assert!(begun.elapsed() < PATIENCE, "{what} has no end"),
                Err(error) => panic!("{what}: {error}"),
            }
        };
        self.neighbours_answer(&mut near, &format!("after {what}"));
        let told = Told::of(&outcome);
        eprintln!("{what}: {}: {}", told.status.name(), brief(&told));
        if !told.status.is_ok() {
            let shown = self.site.json(&["calls", "show", &told.call.to_string(), "--wait", "1m"]);
            assert_eq!(shown["status"], told.status.name(), "{what}: {shown}");
            assert_eq!(shown["stderr"].as_str().unwrap_or_default(), told.stderr, "{what}: {shown}");
        }
        told
    }

    /// Denied attempts are told one by one ten at once, and then ten a second: waits until all are told again.
    pub fn rest(&self) {
        std::thread::sleep(Duration::from_millis(1200));
    }

    /// What a call left in the function's log, as `millrace logs` shows it.
    pub fn log(&self, function: &str, call: CallId) -> String {
        // The node writes logs behind the outcomes.
        until("a log", || {
            let text = self.site.ok(&["logs", function, "--call", &call.to_string()]);
            (!text.is_empty()).then_some(text)
        })
    }

    /// Processes of a function's sandboxes, by their numbers on the host: those that have its name and this stage's mark
    /// in their environment.
    pub fn processes(&self, function: &str) -> Vec<i32> {
        let (mark, name) = (format!("MARK={}", self.mark), format!("MILLRACE_FUNCTION={function}"));
        let has =
            |environ: &[u8], text: &str| environ.split(|byte| *byte == 0).any(|line| line == text.as_bytes());
        let of = |pid: &i32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            has(&environ, &mark) && has(&environ, &name)
        };
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of).collect()
    }

    /// Waits until nothing of a function is left.
    pub fn is_gone(&self, function: &str) {
        until(&format!("the end of {function}'s processes"), || {
            self.processes(function).is_empty().then_some(())
        });
    }

    /// A path below the data directory.
    pub fn run_path(&self, name: &str) -> String {
        self.site.data().join("run").join(name).display().to_string()
    }
}

/// The first words of what was told.
fn brief(told: &Told) -> String {
    let text = if told.status.is_ok() { &told.output } else { &told.stderr };
    let line = text.lines().collect::<Vec<_>>().join("; ");
    line.chars().take(300).collect()
}
