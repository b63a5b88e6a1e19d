//! Sandboxes that begin, fail, time out, end, and are missed.

use crate::stage::{Stage, spec, with};
use call::Status;
use call::admin::SOON;
use call::function::Abi;
use runtime::Runtime;
use std::time::Duration;

const API: Abi = Abi::RuntimeApi;

#[test]
fn a_call_that_times_out_ends_at_once_and_its_sandbox_soon() {
    let mut stage = Stage::new();
    let mut patient = spec(API);
    patient.limits.grace_ms = 50;
    let f = stage.publish(&patient);
    stage.call(f, "echo warm");
    stage.rest();
    stage.begin(0, f, "silence");
    stage.pass(Duration::from_millis(20));
    let told = stage.time_out(0);
    assert_eq!((told.status, told.output.as_str()), (Status::Timeout, ""));
    assert!(stage.call(f, "echo fresh").usage.cold, "it is never used again");
    stage.until("the old one is gone", |stage| stage.runtime.sandboxes().2 == 1);
    assert_eq!((stage.jailer.made(), stage.jailer.stopped()), (2, 1));
}

#[test]
fn a_call_that_waits_for_a_sandbox_may_time_out_too() {
    let mut stage = Stage::new();
    let f = stage.publish(&with(spec(API), "BEGIN", "300"));
    stage.begin(0, f, "echo late");
    stage.pass(Duration::from_millis(50));
    let told = stage.time_out(0);
    assert_eq!(told.status, Status::Timeout);
    assert!(told.log.contains("no sandbox was ready"), "{}", told.log);
    let told = stage.call(f, "echo next");
    assert_eq!((told.output.as_str(), stage.jailer.made()), ("next", 1), "the sandbox came all the same");
}

#[test]
fn a_process_that_dies_ends_its_call_by_its_cause() {
    let mut stage = Stage::new();
    let f = stage.publish(&spec(API));
    let told = stage.call(f, "exit 3");
    assert_eq!((told.status, told.usage.exit_code), (Status::Exit, 3));
    assert!(told.log.contains("leaving\n") && told.log.contains("exit status 3"), "{}", told.log);
    let told = stage.call(f, "abort");
    assert_eq!((told.status, told.usage.exit_code), (Status::Killed, 6));
    assert!(told.log.contains("SIGABRT"), "{}", told.log);
    let told = stage.call(f, "exit 0");
    assert_eq!(told.status, Status::Killed);
    for (ending, status, word) in [("oom", Status::Memory, "memory"), ("syscall", Status::Syscall, "`mount`")]
    {
        let mut other = with(spec(API), "ENDING", ending);
        other.name = ending.into();
        let f = stage.publish(&other);
        let told = stage.call(f, "exit 1");
        assert_eq!(told.status, status);
        assert!(told.log.contains(word), "{}", told.log);
    }
    assert_eq!(stage.call(f, "echo on").output, "on");
}

#[test]
fn a_function_that_cannot_begin_says_why_and_is_not_tried_at_once() {
    let mut stage = Stage::new();
    let f = stage.publish(&with(spec(API), "BEGIN", "error"));
    let told = stage.call(f, "echo x");
    assert_eq!((told.status, told.output.as_str()), (Status::Init, "{\"errorMessage\":\"no module\"}"));
    assert!(told.log.contains("Runtime.NoModule"), "{}", told.log);
    let told = stage.call(f, "echo x");
    assert_eq!((told.status, stage.jailer.made()), (Status::Init, 1), "not tried again so soon");
    stage.pass(Duration::from_millis(150));
    assert_eq!(stage.call(f, "echo x").status, Status::Init);
    assert_eq!(stage.jailer.made(), 2);
    let f = stage.publish(&spec(API));
    assert_eq!(stage.call(f, "echo mended").output, "mended", "a new version is tried at once");
}

#[test]
fn a_function_that_ends_or_hangs_at_its_begin_is_told() {
    let mut stage = Stage::new();
    let f = stage.publish(&with(spec(API), "BEGIN", "exit"));
    let told = stage.call(f, "echo x");
    assert_eq!((told.status, told.usage.exit_code), (Status::Init, 0));
    assert!(told.log.contains("exit status 7") && told.log.contains("cannot begin"), "{}", told.log);
    let mut slow = with(spec(API), "BEGIN", "hang");
    (slow.name, slow.limits.init_timeout_ms) = ("slow".into(), 100);
    let f = stage.publish(&slow);
    let told = stage.call(f, "echo x");
    assert_eq!(told.status, Status::Init);
    assert!(told.log.contains("did not ask for a call within 100ms"), "{}", told.log);
    stage.until("it is gone", |stage| stage.runtime.sandboxes() == (0, 0, 0));
    let mut none = spec(API);
    (none.name, none.process.command) = ("none".into(), vec!["no-such-command".into()]);
    let f = stage.publish(&none);
    let told = stage.call(f, "echo x");
    assert!(told.status == Status::Init && told.log.contains("no such command"), "{}", told.log);
}

#[test]
fn a_new_version_takes_over_and_the_old_one_finishes() {
    let mut stage = Stage::new();
    let f = stage.publish(&with(spec(API), "V", "1"));
    stage.call(f, "env V");
    stage.rest();
    stage.begin(1, f, "sleep 200 old");
    stage.publish(&with(spec(API), "V", "2"));
    assert_eq!(stage.call(f, "env V").output, "2");
    assert_eq!(stage.end(1).output, "old");
    stage.until("one is left", |stage| stage.runtime.sandboxes().2 == 1);
    stage.runtime.retire(f);
    stage.until("none is left", |stage| stage.runtime.sandboxes().2 == 0);
    assert_eq!(stage.call(f, "env V").status, Status::Unavailable);
}

#[test]
fn idle_sandboxes_go_in_time_and_under_pressure() {
    let mut stage = Stage::new();
    let mut brief = spec(API);
    brief.limits.idle_ms = 100;
    let f = stage.publish(&brief);
    stage.call(f, "echo x");
    assert_eq!(stage.runtime.sandboxes().1, 1);
    stage.until("it was idle for long", |stage| stage.runtime.sandboxes().2 == 0);
    let f = stage.publish(&spec(API));
    stage.call(f, "echo x");
    stage.jailer.press();
    stage.until("memory is short", |stage| stage.runtime.sandboxes().2 == 0);
}

#[test]
fn calls_of_a_jailer_that_dies_are_lost_and_later_ones_served() {
    let mut stage = Stage::of(1);
    let f = stage.publish(&spec(API));
    stage.call(f, "echo warm");
    stage.rest();
    stage.begin(0, f, "silence");
    stage.begin(1, f, "echo waits");
    stage.pass(Duration::from_millis(20));
    stage.jailer.die();
    stage.until("the calls are lost", |stage| stage.has_ended(0) && stage.has_ended(1));
    assert_eq!((stage.end(0).status, stage.end(1).status), (Status::WorkerLost, Status::WorkerLost));
    // Calls that come while it is started again wait for it.
    stage.begin(0, f, "echo x");
    stage.pass(Duration::from_millis(50));
    assert!(!stage.has_ended(0) && stage.runtime.backends().iter().any(|(_, how)| how.starts_with(SOON)));
    stage.jailer.restart();
    let told = stage.end(0);
    assert_eq!((told.status, told.output.as_str()), (Status::Ok, "x"));
    assert!(!stage.runtime.backends().iter().any(|(_, how)| how.starts_with(SOON)));
    assert!(
        stage.notes.iter().any(|note| note.starts_with("event=jailer-lost sandboxes=1")),
        "{:?}",
        stage.notes
    );
    // One that does not come is not waited for.
    stage.jailer.die();
    stage.begin(0, f, "echo x");
    assert_eq!(stage.end(0).status, Status::WorkerLost);
    let told = stage.call(f, "echo x");
    assert!(told.status == Status::WorkerLost && told.log.contains("is not there"), "{told:?}");
    assert_eq!(stage.call(f, "echo x").status, Status::WorkerLost);
}

#[test]
fn without_a_jailer_process_functions_are_refused_with_the_reason() {
    use call::{CallId, FunctionId};
    use runtime::process::{Options, ProcessRuntime};
    use runtime::{Begin, Progress, SlotId};
    let options = Options {
        slots: 1,
        sandboxes: 1,
        cpu: 0,
        jailer: None,
        bundles: "/".into(),
        room: runtime::Room::default(),
    };
    let mut runtime = ProcessRuntime::new(options);
    let spec = spec(API);
    runtime.publish(spec.id(), &spec);
    let mut frame = call::frame::FrameBuf::new();
    let submit = call::body::Submit {
        call: CallId(1),
        function: FunctionId(1),
        start_at: call::WallTime(0),
        deadline: call::WallTime(0),
        criticality: 0,
        want_outcome: false,
        arguments: call::Arguments::default(),
        ..call::body::Submit::default()
    };
    call::body::append_submit(&mut frame, &submit).unwrap();
    let (frame, _) = call::Frame::parse(&frame).unwrap();
    let arguments = call::body::arguments(frame.body()).unwrap();
    let begin = Begin::of(CallId(1), spec.id(), arguments, 1);
    assert_eq!(runtime.begin(SlotId(0), &begin), Progress::Ended);
    let ended = runtime.ended(SlotId(0));
    assert_eq!(ended.status, Status::Unavailable);
    assert!(String::from_utf8_lossy(ended.stderr).contains("--jailer PATH"));
    assert!(runtime.backends().iter().any(|(_, how)| how.contains("no jailer")));
}

#[test]
fn a_call_is_told_the_peak_of_memory_at_its_end_and_the_first_call_too() {
    let mut stage = Stage::new();
    let peak = tempfile::NamedTempFile::new().unwrap();
    let is = |bytes: u64| std::fs::write(peak.path(), format!("{bytes}\n")).unwrap();
    let f = stage.publish(&with(spec(API), "PEAK", peak.path().to_str().unwrap()));
    is(3 << 20);
    stage.begin(0, f, "echo first");
    // While it runs.
    is(5 << 20);
    assert_eq!(stage.end(0).usage.memory_bytes, 5 << 20);
    is(7 << 20);
    stage.pass(Duration::from_millis(20));
    assert_eq!(stage.call(f, "echo second").usage.memory_bytes, 7 << 20);
    is(0);
    stage.pass(Duration::from_millis(20));
    assert_eq!(stage.call(f, "echo third").usage.memory_bytes, 7 << 20, "a peak never falls");
}
