//! AWS's own client for Python, unmodified, without a sandbox. In one, with others: tests/tests/lambda.rs.

use crate::stage::{Stage, spec};
use call::Status;
use call::function::Abi;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const PYTHON: &str = "/usr/bin/python3";

const HANDLER: &str = "\
import sys, time
def answer(event, context):
    print('seen', event.get('name'))
    if 'raise' in event:
        raise ValueError(event['raise'])
    left = context.get_remaining_time_in_millis()
    return {'hello': event.get('name'), 'id': context.aws_request_id, 'left': left, 'arn': context.invoked_function_arn}
";

/// Where the client's packages are: those that tests/tests/lambda.rs pins, installed once for this target folder.
/// `None` where that is not possible.
fn packages() -> Option<PathBuf> {
    let pins =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/python-lambda/requirements.txt");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = target.join("runtime-awslambdaric-4.2.2");
    static ONE: Mutex<()> = Mutex::new(());
    let _only_one = ONE.lock();
    if !place.is_dir() {
        let fresh = tempfile::tempdir_in(target).expect("a folder");
        let mut pip = Command::new(PYTHON);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
        ]);
        pip.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r"]).arg(pins);
        let installed = pip.arg("--target").arg(fresh.path()).output();
        if let Some(why) = match installed {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Some(error.to_string()),
        } {
            eprintln!("SKIPPED: the official Python client because {PYTHON} -m pip cannot install it: {why}");
            assert!(std::env::var_os("CI").is_none() || !nix::unistd::geteuid().is_root(), "{why}");
            return None;
        }
        // If another process was first, this one's goes.
        let _ = std::fs::rename(fresh.path(), &place);
    }
    Some(place)
}

/// A function by the client, whose code is in `task`.
fn function(packages: &Path, task: &Path, handler: &str) -> call::FunctionSpec {
    let mut function = spec(Abi::RuntimeApi);
    function.process.command = [PYTHON, "-m", "awslambdaric", handler].map(str::to_owned).to_vec();
    let path = format!("{}:{}", task.display(), packages.display());
    function.process.environment.insert("PYTHONPATH".into(), path);
    function
}

#[test]
fn awslambdaric_is_served() {
    let Some(packages) = packages() else { return };
    let task = tempfile::tempdir().unwrap();
    std::fs::write(task.path().join("app.py"), HANDLER).unwrap();
    let mut stage = Stage::new();
    let mut function = function(&packages, task.path(), "app.answer");
    let f = stage.publish(&function);
    let call = stage.begin(0, f, "{\"name\":\"you\"}");
    let told = stage.end(0);
    assert_eq!(told.status, Status::Ok, "{told:?}");
    assert!(
        told.output.contains("\"hello\": \"you\"") && told.output.contains(&call.to_string()),
        "{told:?}"
    );
    assert!(told.output.contains("function:f") && told.log.contains("seen you"), "{told:?}");
    for number in 0..20 {
        let told = stage.call(f, &format!("{{\"name\":{number}}}"));
        assert!(told.output.contains(&format!("\"hello\": {number}")) && !told.usage.cold, "{told:?}");
    }
    let told = stage.call(f, "{\"raise\":\"a reason\"}");
    assert_eq!(told.status, Status::Error);
    assert!(
        told.output.contains("\"errorType\": \"ValueError\"") && told.output.contains("a reason"),
        "{told:?}"
    );
    function.name = "broken".into();
    function.process.command[3] = "missing.answer".into();
    let f = stage.publish(&function);
    let told = stage.call(f, "{}");
    assert_eq!(told.status, Status::Init, "{told:?}");
    assert!(
        told.output.contains("Runtime.ImportModuleError") && told.log.contains("ImportModuleError"),
        "{told:?}"
    );
}

#[test]
fn awslambdaric_serves_several_calls_at_once() {
    let Some(packages) = packages() else { return };
    let task = tempfile::tempdir().unwrap();
    std::fs::write(
        task.path().join("app.py"),
        "import time\ndef answer(event, context):\n    time.sleep(0.3)\n    return event\n",
    )
    .unwrap();
    let mut stage = Stage::new();
    let mut function = function(&packages, task.path(), "app.answer");
    (function.limits.concurrent, function.limits.sandboxes) = (3, 1);
    let f = stage.publish(&function);
    stage.begin(0, f, "0");
    assert_eq!(stage.end(0).status, Status::Ok);
    let begun = std::time::Instant::now();
    for slot in 0..6 {
        stage.begin(slot, f, &slot.to_string());
    }
    for slot in 0..6 {
        let told = stage.end(slot);
        assert_eq!((told.status, told.output), (Status::Ok, slot.to_string()));
    }
    assert_eq!(stage.jailer.made(), 1);
    // Not a figure: one after the other they would take 1.8 s at least.
    eprintln!("six calls of 300 ms took {:?}", begun.elapsed());
}
