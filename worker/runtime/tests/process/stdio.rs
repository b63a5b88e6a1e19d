//! Calls by stdio: a process each.

use crate::stage::{Stage, spec};
use call::function::Abi;
use call::{Attribute, Status};
use std::time::Duration;

#[test]
fn arguments_are_stdin_and_the_result_is_stdout() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(Abi::Stdio));
    let first = stage.call(f, "echo one");
    assert_eq!((first.status, first.output.as_str(), first.usage.cold), (Status::Ok, "one", true));
    let second = stage.call(f, "echo two");
    assert_eq!((second.output.as_str(), second.usage.cold, stage.jailer.made()), ("two", false, 1));
    assert_eq!((second.usage.memory_bytes, second.usage.cpu_ns), (1 << 20, 1000), "as the jailer says");
    let large = "z".repeat(1 << 19);
    assert_eq!(stage.call(f, &format!("echo {large}")).output, large);
}

#[test]
fn the_environment_tells_the_call() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(Abi::Stdio));
    let known = [Attribute { key: "content-type", value: "text/plain" }];
    for (name, value) in [
        ("MILLRACE_FUNCTION", "f"),
        ("MILLRACE_ATTEMPT", "2"),
        ("MILLRACE_ATTR_CONTENT_TYPE", "text/plain"),
        ("_HANDLER", ""),
    ] {
        stage.begin_with(0, f, &format!("env {name}"), &known);
        assert_eq!(stage.end(0).output, value, "{name}");
    }
    let call = stage.begin(0, f, "env MILLRACE_CALL");
    assert_eq!(stage.end(0).output, call.to_string());
    let large = "v".repeat(1000);
    let many: Vec<String> = (0..60).map(|number| format!("key{number}")).collect();
    let many: Vec<Attribute<'_>> = many.iter().map(|key| Attribute { key, value: &large }).collect();
    stage.begin_with(0, f, "echo x", &many);
    let told = stage.end(0);
    assert!(
        told.output == "x" && told.log.contains("some attributes are not in the environment"),
        "{}",
        told.log
    );
}

#[test]
fn a_command_fails_by_its_status_and_is_bounded() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(Abi::Stdio));
    let told = stage.call(f, "exit 4");
    assert_eq!((told.status, told.usage.exit_code), (Status::Exit, 4));
    let told = stage.call(f, "exit 75");
    assert_eq!((told.status, told.usage.exit_code), (Status::BackPressure, 75));
    let told = stage.call(f, "abort");
    assert_eq!((told.status, told.usage.exit_code), (Status::Killed, 6));
    let told = stage.call(f, "log to stderr");
    assert_eq!((told.status, told.output.as_str(), told.log.as_str()), (Status::Ok, "", "to stderr\n"));
    let told = stage.call(f, "big 3000000");
    assert_eq!((told.output.len(), told.usage.truncated), (1 << 20, true));
    assert_eq!(stage.jailer.made(), 1, "a command that fails harms no sandbox");
}

#[test]
fn a_process_left_behind_holds_up_no_call() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(Abi::Stdio));
    let told = stage.call(f, "daemon");
    assert_eq!((told.status, told.output.as_str()), (Status::Ok, "left"));
    assert_eq!(stage.call(f, "echo on").output, "on");
}

#[test]
fn a_command_that_times_out_takes_its_sandbox_along() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(Abi::Stdio));
    stage.call(f, "echo warm");
    stage.begin(0, f, "silence");
    stage.pass(Duration::from_millis(30));
    assert_eq!(stage.time_out(0).status, Status::Timeout);
    assert_eq!(stage.call(f, "echo on").output, "on");
    stage.until("the old one is gone", |stage| stage.runtime.sandboxes().2 == 1);
    assert_eq!(stage.jailer.made(), 2);
}
