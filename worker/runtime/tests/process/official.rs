//! The official clients, unmodified: Python's `awslambdaric` where it is installed for `$MILLRACE_PYTHON` (`python3`).

use crate::stage::{Stage, spec};
use call::Status;
use call::function::Abi;
use std::process::{Command, Stdio};

const HANDLER: &str = "\
import sys, time
def answer(event, context):
    print('seen', event.get('name'))
    if 'raise' in event:
        raise ValueError(event['raise'])
    left = context.get_remaining_time_in_millis()
    return {'hello': event.get('name'), 'id': context.aws_request_id, 'left': left, 'arn': context.invoked_function_arn}
";

/// A Python that has the client.
fn python() -> Option<String> {
    let python = std::env::var("MILLRACE_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut check = Command::new(&python);
    let has = check.args(["-c", "import awslambdaric"]).stderr(Stdio::null()).status();
    if has.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    let why = format!("{python} has no awslambdaric: `pip install awslambdaric`, or set MILLRACE_PYTHON");
    eprintln!("SKIPPED: the official Python client because {why}");
    assert!(std::env::var_os("CI").is_none() || !nix::unistd::geteuid().is_root(), "{why}");
    None
}

#[test]
fn awslambdaric_is_served() {
    let Some(python) = python() else { return };
    let task = tempfile::tempdir().unwrap();
    std::fs::write(task.path().join("app.py"), HANDLER).unwrap();
    let mut stage = Stage::new();
    let mut function = spec(Abi::RuntimeApi);
    function.process.command = [&python, "-m", "awslambdaric", "app.answer"].map(str::to_owned).to_vec();
    function.process.environment.insert("PYTHONPATH".into(), task.path().to_str().unwrap().into());
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
    let Some(python) = python() else { return };
    let task = tempfile::tempdir().unwrap();
    std::fs::write(
        task.path().join("app.py"),
        "import time\ndef answer(event, context):\n    time.sleep(0.3)\n    return event\n",
    )
    .unwrap();
    let mut stage = Stage::new();
    let mut function = spec(Abi::RuntimeApi);
    function.process.command = [&python, "-m", "awslambdaric", "app.answer"].map(str::to_owned).to_vec();
    function.process.environment.insert("PYTHONPATH".into(), task.path().to_str().unwrap().into());
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
