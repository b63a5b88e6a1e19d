//! AWS's own clients as their users install them: from PyPI, npm and crates.io, all versions pinned, once for all runs
//! of a target folder. They lie in `target/tmp/lambda-*`, named by what is pinned.

use crate::harness::{Site, millrace, project};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

/// The Python that sandboxes see: the distribution's. One below somebody's home directory is not in them.
const PYTHON: &str = "/usr/bin/python3";

/// One for each folder that is being made.
static LOCKS: Mutex<BTreeMap<String, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());

/// Whether process functions can run here. Only root may make sandboxes.
///
/// # Panics
/// In CI, as root, if not.
pub fn runs_processes() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: functions by AWS's own clients because sandboxes need root");
    }
    is_root
}

/// Runs a command that must succeed; its stdout.
///
/// # Panics
/// If it does not, with what it printed.
pub fn succeeds(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `make setup` installs what it needs as root"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Where functions of this project are written for the tests.
fn guest(name: &str) -> PathBuf {
    project().join("tests/guests").join(name)
}

/// Below the target folder, whatever the profile.
fn temporary() -> PathBuf {
    let folder = millrace().parent().and_then(Path::parent).expect("target/PROFILE").join("tmp");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A folder that is made once, for these pins.
fn cached(name: &str, pins: &Path, make: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    std::fs::read(pins).expect("pins").hash(&mut hasher);
    let place = temporary().join(format!("lambda-{name}-{:016x}", hasher.finish()));
    // Tests run at once, and each would make its own.
    let lock = LOCKS.lock().expect("no test panics here").entry(name.to_owned()).or_default().clone();
    let _only_one = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if !place.is_dir() {
        let prefix = format!("lambda-{name}-");
        let fresh = tempfile::Builder::new().prefix(&prefix).tempdir_in(temporary()).expect("a folder");
        make(fresh.path());
        // If another process was first, this one's goes.
        let _ = std::fs::rename(fresh.path(), &place);
    }
    place
}

fn pip(python: &Path, pins: &Path, more: &[&str]) {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r"]).arg(pins).args(more);
    succeeds(&mut pip);
}

/// A Python environment's `bin` with boto3 and the `aws` command.
pub fn aws() -> PathBuf {
    let pins = project().join("tests/data/aws.txt");
    let place = cached("aws", &pins, |fresh| {
        succeeds(Command::new("python3").args(["-m", "venv"]).arg(fresh));
        pip(&fresh.join("bin/python"), &pins, &[]);
    });
    place.join("bin")
}

/// Copies a folder's content into another one.
fn copy(from: &Path, into: &Path) {
    std::fs::create_dir_all(into).expect("a folder");
    succeeds(Command::new("cp").arg("-r").arg(from.join(".")).arg(into));
}

/// A function's bundle in a site: `BUNDLE/...` beside its manifest.
fn bundle(site: &Site, name: &str) -> PathBuf {
    site.folder().join(name).join("bundle")
}

/// Writes a bundle of a Python function and its packages, among them `awslambdaric`.
pub fn python(site: &Site, name: &str, source: &str) {
    let pins = guest(source).join("requirements.txt");
    let packages = cached(source, &pins, |fresh| {
        pip(Path::new(PYTHON), &pins, &["--target", fresh.to_str().expect("a plain path")]);
    });
    copy(&packages, &bundle(site, name));
    copy(&guest(source), &bundle(site, name));
}

/// Writes a bundle of the Node.js function and `aws-lambda-ric`, whose installation compiles a part of it: curl,
/// aws-lambda-cpp and an addon of the interpreter.
pub fn node(site: &Site, name: &str) {
    let source = guest("node-lambda");
    let installed = cached("node", &source.join("package-lock.json"), |fresh| {
        copy(&source, fresh);
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(fresh);
        if Path::new("/usr/include/node/node.h").is_file() {
            // The headers that came with the interpreter; otherwise node-gyp fetches them.
            npm.env("npm_config_nodedir", "/usr");
        }
        succeeds(&mut npm);
    });
    copy(&source, &bundle(site, name));
    // What it needs to run; the rest of what was installed is tools to compile it.
    for package in ["aws-lambda-ric", "@aws"] {
        let inside = Path::new("node_modules").join(package);
        copy(&installed.join(&inside), &bundle(site, name).join(&inside));
    }
}

/// Writes a bundle of the Rust function: one program.
pub fn rust(site: &Site, name: &str) {
    let target = temporary().join("lambda-rust");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "-q", "--locked"]).current_dir(guest("rust-lambda"));
    succeeds(cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS"));
    std::fs::create_dir_all(bundle(site, name)).expect("a folder");
    let built = target.join("debug/rust-lambda");
    std::fs::copy(built, bundle(site, name).join("rust-lambda")).expect("what cargo built");
}
