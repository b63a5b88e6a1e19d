//! Test executables in a small VM with true cgroup v2: `tests/vm/run` of the project, and what it printed.

use std::path::Path;
use std::process::{Command, Stdio};

/// Set inside the VM: a test that would start one returns.
pub const INSIDE: &str = "MILLRACE_INSIDE_VM";
/// What `tests/vm/run` ends with where it cannot run.
const CANNOT: i32 = 3;

/// What the VM printed.
#[derive(Debug)]
pub struct Ran {
    /// Kernel and controllers.
    pub first_line: String,
    pub commands: Vec<Ended>,
}

/// A command in the VM.
#[derive(Debug, Default)]
pub struct Ended {
    pub output: String,
    pub status: i32,
}

/// Runs commands, each an executable of this host and its arguments. None: it cannot be done here, which was said.
///
/// # Panics
/// If the VM does not come to its end; if it cannot run and this is CI.
pub fn run(commands: &[String]) -> Option<Ran> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vm/run");
    let ran = Command::new("bash").arg(&script).args(commands).stdin(Stdio::null()).output();
    let ran = ran.expect("bash is there");
    let text = String::from_utf8_lossy(&ran.stdout).replace('\r', "");
    let errors = String::from_utf8_lossy(&ran.stderr);
    if ran.status.code() == Some(CANNOT) {
        let why = text.lines().last().unwrap_or("no reason was given").to_owned();
        assert!(std::env::var_os("CI").is_none(), "CI may not skip this: {why}");
        eprintln!("SKIPPED: true cgroup v2 in a VM, because: {why}");
        return None;
    }
    let ran = parse(&text);
    assert!(ran.commands.len() == commands.len() && text.ends_with("VM: done\n"), "{text}\n{errors}");
    Some(ran)
}

fn parse(text: &str) -> Ran {
    let mut ran = Ran { first_line: String::new(), commands: Vec::new() };
    let mut current = Ended::default();
    for line in text.lines() {
        match line.strip_prefix("VM: ") {
            Some(words) if words.starts_with("Linux ") => ran.first_line = words.to_owned(),
            Some(words) if words.starts_with("begin ") => current = Ended::default(),
            Some(words) if words.starts_with("end ") => {
                current.status = words.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(-1);
                ran.commands.push(std::mem::take(&mut current));
            }
            _ => current.output.extend([line, "\n"]),
        }
    }
    ran
}
