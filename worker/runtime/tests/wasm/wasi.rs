//! WASI preview-1 commands: stdin to stdout, stderr apart, exit status, environment, clocks.

use crate::stage::{SHORT, Stage};
use call::limits::{OUTPUT_BYTES_MAX, STDERR_BYTES_MAX};
use call::{Attribute, FunctionSpec, Status};
use runtime::{Progress, Runtime, SlotId};
use std::time::Instant;

/// A command: `body` of `_start`, with the imports most tests want. The first page is for scatter lists.
fn command(body: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (memory (export "memory") 4)
        (data (i32.const 4096) "hello from the guest")
        ;; Writes $bytes bytes at $at to $fd, and traps if it is not told so.
        (func $write (param $fd i32) (param $at i32) (param $bytes i32)
            (i32.store (i32.const 0) (local.get $at))
            (i32.store (i32.const 4) (local.get $bytes))
            (call $need (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
            (call $need (i32.ne (i32.load (i32.const 8)) (local.get $bytes))))
        ;; Ends with the error number as exit status, unless it is 0.
        (func $need (param $errno i32)
            (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
        (func (export "_start") {body}))"#
    )
}

/// Copies stdin to stdout in small parts.
const CAT: &str = "(loop $more
    (i32.store (i32.const 16) (i32.const 8192)) (i32.store (i32.const 20) (i32.const 1000))
    (i32.store (i32.const 24) (i32.const 9192)) (i32.store (i32.const 28) (i32.const 500))
    (call $need (call $fd_read (i32.const 0) (i32.const 16) (i32.const 2) (i32.const 32)))
    (call $write (i32.const 1) (i32.const 8192) (i32.load (i32.const 32)))
    (br_if $more (i32.load (i32.const 32))))";

#[test]
fn the_exit_status_of_a_temporary_failure_is_back_pressure() {
    let mut stage = Stage::new();
    let function = stage.deploy(command("(call $proc_exit (i32.const 75))"));
    let told = stage.call(function, b"");
    assert_eq!((told.status, told.usage.exit_code), (Status::BackPressure, 75));
}

#[test]
fn stdin_becomes_stdout() {
    let mut stage = Stage::new();
    let function = stage.deploy(command(CAT));
    let long: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    for payload in [&b"hello"[..], b"", &long, &long[..1500]] {
        let told = stage.call(function, payload);
        assert_eq!((told.status, told.usage.exit_code), (Status::Ok, 0), "{}", told.stderr);
        assert!(told.output == payload);
        assert!(told.usage.cold);
    }
}

#[test]
fn stderr_is_captured_apart() {
    let mut stage = Stage::new();
    let body = "(call $write (i32.const 2) (i32.const 4096) (i32.const 5)) (call $write (i32.const 1) (i32.const 4102) (i32.const 4))";
    let function = stage.deploy(command(body));
    let told = stage.call(function, b"");
    assert_eq!((told.output.as_slice(), told.stderr.as_str()), (&b"from"[..], "hello"));
}

#[test]
fn exit_statuses() {
    let mut stage = Stage::new();
    for (code, status) in [(0, Status::Ok), (1, Status::Exit), (42, Status::Exit), (-1, Status::Exit)] {
        let body = format!(
            "(call $write (i32.const 1) (i32.const 4096) (i32.const 5)) (call $proc_exit (i32.const {code})) (unreachable)"
        );
        let function = stage.deploy(command(&body));
        let told = stage.call(function, b"");
        assert_eq!((told.status, told.usage.exit_code), (status, code));
        assert_eq!(told.output, b"hello");
    }
}

/// Nothing ends a slice inside of a call to the host, so none may last.
#[test]
fn calls_to_the_host_are_short() {
    let mut stage = Stage::new();
    for io in ["$fd_write (i32.const 1)", "$fd_read (i32.const 0)"] {
        let body = format!("(call $need (call {io} (i32.const 0) (i32.const 1025) (i32.const 8)))");
        let function = stage.deploy(command(&body));
        let told = stage.call(function, b"");
        assert_eq!((told.status, told.usage.exit_code), (Status::Exit, 28), "no more parts than Linux takes");
    }
    let body = "(drop (memory.grow (i32.const 60)))
        (call $need (call $random_get (i32.const 65536) (i32.const 3145728)))
        (call $need (i64.eqz (i64.load (i32.const 3211256))))
        (call $need (i32.ne (i32.const 21) (call $random_get (i32.const 65536) (i32.const -1))))";
    let function = stage.deploy(command(body));
    let told = stage.call(function, b"");
    assert_eq!((told.status, told.usage.exit_code), (Status::Ok, 0), "{}", told.stderr);
    assert!(told.yields >= 11, "{} yields in twelve pieces", told.yields);
}

#[test]
fn a_trap_keeps_what_was_written_to_stderr() {
    let mut stage = Stage::new();
    let function =
        stage.deploy(command("(call $write (i32.const 2) (i32.const 4096) (i32.const 5)) (unreachable)"));
    let told = stage.call(function, b"");
    assert_eq!(told.status, Status::Trap);
    assert!(told.stderr.starts_with("hello\n") && told.stderr.contains("unreachable"), "{}", told.stderr);
}

#[test]
fn floods_are_cut() {
    let mut stage = Stage::new();
    let flood = |fd: i32| {
        command(&format!(
            "(local $n i32) (local.set $n (i32.const 40)) (loop $more (call $write (i32.const {fd}) (i32.const 0) (i32.const 65536))
            (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
        ))
    };
    let (out, err) = (stage.deploy(flood(1)), stage.deploy(flood(2)));
    let told = stage.call(out, b"");
    assert_eq!((told.status, told.output.len(), told.usage.truncated), (Status::Ok, OUTPUT_BYTES_MAX, true));
    let told = stage.call(err, b"");
    assert_eq!((told.status, told.usage.truncated), (Status::Ok, true));
    assert!(told.stderr.len() >= STDERR_BYTES_MAX && told.output.is_empty());
}

#[test]
fn the_environment_tells_of_the_call() {
    let mut stage = Stage::new();
    let body = "(call $need (call $environ_sizes (i32.const 64) (i32.const 68)))
        (call $need (call $environ_get (i32.const 8192) (i32.const 16384)))
        ;; From where the second pointer points.
        (call $write (i32.const 1) (i32.load (i32.const 8196))
            (i32.sub (i32.add (i32.const 16384) (i32.load (i32.const 68))) (i32.load (i32.const 8196))))";
    let function = stage.deploy(command(body));
    let attributes = [Attribute { key: "content-type", value: "a=b" }, Attribute { key: "k", value: "z\0y" }];
    let progress = stage.begin_with(0, function, b"", &attributes);
    let told = stage.finish(0, progress);
    let expected = format!(
        "MILLRACE_CALL={:032x}\0MILLRACE_ATTEMPT=2\0MILLRACE_ATTR_CONTENT_TYPE=a=b\0MILLRACE_ATTR_K=z y\0",
        7
    );
    assert_eq!(String::from_utf8_lossy(&told.output), expected);
}

#[test]
fn the_first_argument_is_the_functions_name() {
    let mut stage = Stage::new();
    let body = "(call $need (call $args_sizes (i32.const 64) (i32.const 68)))
        (call $need (call $args_get (i32.const 8192) (i32.const 16384)))
        (call $need (i32.ne (i32.load (i32.const 64)) (i32.const 1)))
        (call $write (i32.const 1) (i32.load (i32.const 8192)) (i32.load (i32.const 68)))";
    let function = stage.deploy(command(body));
    assert_eq!(stage.call(function, b"").output, b"f\0");
}

#[test]
fn there_are_no_files_and_closed_streams_are_closed() {
    let mut stage = Stage::new();
    let open = "(call $proc_exit (call $path_open (i32.const 3) (i32.const 0) (i32.const 4096) (i32.const 5)
        (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 64)))";
    let closed = "(call $need (call $fd_close (i32.const 1))) (call $write (i32.const 1) (i32.const 4096) (i32.const 5))";
    let wrong_way = "(call $write (i32.const 0) (i32.const 4096) (i32.const 5))";
    for body in [open, closed, wrong_way] {
        let function = stage.deploy(command(body));
        let told = stage.call(function, b"");
        assert_eq!((told.status, told.usage.exit_code), (Status::Exit, 8), "{body}");
    }
}

#[test]
fn pointers_outside_the_memory_are_faults() {
    let mut stage = Stage::new();
    for body in [
        "(call $write (i32.const 1) (i32.const -8) (i32.const 100))",
        "(call $write (i32.const 1) (i32.const 0) (i32.const -1))",
        "(call $need (call $fd_read (i32.const 0) (i32.const -4) (i32.const 1) (i32.const 8)))",
        "(call $need (call $random_get (i32.const -1) (i32.const 100)))",
        "(call $need (call $environ_get (i32.const -1) (i32.const 0)))",
        "(call $need (call $args_sizes (i32.const -1) (i32.const 0)))",
        "(call $need (call $poll (i32.const -1) (i32.const 0) (i32.const 1) (i32.const 0)))",
        "(call $need (call $clock (i32.const 0) (i64.const 0) (i32.const -1)))",
    ] {
        let function = stage.deploy(command(body));
        let told = stage.call(function, b"hello");
        assert_eq!((told.status, told.usage.exit_code), (Status::Exit, 21), "{body}");
    }
}

#[test]
fn random_bytes_differ() {
    let mut stage = Stage::new();
    let body = "(call $need (call $random_get (i32.const 8192) (i32.const 300))) (call $write (i32.const 1) (i32.const 8192) (i32.const 300))";
    let function = stage.deploy(command(body));
    let (a, b) = (stage.call(function, b"").output, stage.call(function, b"").output);
    assert!(a.len() == 300 && a != b);
}

/// A subscription to the monotonic clock at 8192, due after `ns`.
fn sleep(ns: u64) -> String {
    format!(
        "(i64.store (i32.const 8192) (i64.const 77)) (i32.store (i32.const 8208) (i32.const 1))
        (i64.store (i32.const 8216) (i64.const {ns}))
        (call $need (call $poll (i32.const 8192) (i32.const 16384) (i32.const 1) (i32.const 64)))
        ;; One event, which carries our number.
        (call $need (i32.ne (i32.load (i32.const 64)) (i32.const 1)))
        (call $need (i64.ne (i64.load (i32.const 16384)) (i64.const 77)))"
    )
}

#[test]
fn a_guest_that_sleeps_lets_others_run() {
    let mut stage = Stage::new();
    let sleeper = stage.deploy(command(&sleep(SHORT.as_nanos() as u64)));
    let cat = stage.deploy(command(CAT));
    let from = Instant::now();
    let progress = stage.begin(1, sleeper, b"");
    assert_eq!(progress, Progress::Yielded);
    assert!(stage.runtime.sleeps_until(SlotId(1)).is_some());
    assert_eq!(stage.call(cat, b"hello").output, b"hello");
    let mut progress = progress;
    while progress == Progress::Yielded {
        progress = stage.runtime.resume(SlotId(1));
    }
    assert_eq!(stage.end(1, 0).status, Status::Ok);
    assert!(from.elapsed() >= SHORT);
}

#[test]
fn a_guest_that_sleeps_for_ever_is_stopped() {
    let mut stage = Stage::new();
    let sleeper = stage.deploy(command(&sleep(u64::MAX)));
    assert_eq!(stage.begin(1, sleeper, b""), Progress::Yielded);
    assert_eq!(stage.runtime.resume(SlotId(1)), Progress::Yielded);
    stage.runtime.stop(SlotId(1), Status::Timeout);
    assert_eq!(stage.end(1, 0).status, Status::Timeout);
}

#[test]
fn a_command_over_its_memory() {
    let mut stage = Stage::new();
    let body = "(call $need (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)))";
    let function =
        stage.deploy_as(command(body), FunctionSpec { memory_bytes: 1 << 20, ..FunctionSpec::default() });
    let told = stage.call(function, b"");
    assert_eq!((told.status, told.usage.exit_code), (Status::Memory, 1));
}
