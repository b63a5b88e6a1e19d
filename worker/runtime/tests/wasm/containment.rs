//! What one call does to itself does nothing to the others.

use crate::stage::{ALLOC, REPLY, Stage, Told, echo, fast, slow_echo};
use call::function::InstanceMode;
use call::{FunctionSpec, Status};
use runtime::Progress;

/// Runs the culprit several times while a call in another slot is half done, and checks that the other one,
/// and calls after it, are as they should be. Tells how the culprit ended.
fn contained(culprit: &str, spec: FunctionSpec) -> Told {
    let mut stage = Stage::new();
    let (innocent, short) = (stage.deploy(slow_echo()), stage.deploy(echo()));
    let culprit = stage.deploy_as(culprit, spec);
    let half_done = stage.begin(1, innocent, b"innocent");
    assert_eq!(half_done, Progress::Yielded);
    let mut last = None;
    for _ in 0..5 {
        let told = stage.call(culprit, b"hello");
        assert!(!told.status.is_ok());
        assert!(told.output.is_empty());
        assert!(told.usage.cold, "an instance that failed was used again");
        last = Some(told);
        assert_eq!(stage.call(short, b"short").output, b"short");
    }
    assert_eq!(stage.finish(1, half_done).output, b"innocent");
    last.unwrap()
}

/// Reused and fresh must end alike.
fn both(culprit: &str) -> Told {
    let reused = contained(culprit, FunctionSpec::default());
    let fresh = contained(culprit, FunctionSpec { instance: InstanceMode::Fresh, ..FunctionSpec::default() });
    assert_eq!(reused.status, fresh.status);
    reused
}

#[test]
fn traps() {
    for (call, words) in [
        ("(unreachable)", "unreachable"),
        ("(drop (i32.load (i32.const -1))) (i64.const 0)", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0))) (i64.const 0)", "divide by zero"),
        ("(call_indirect (i32.const 0)) (i64.const 0)", "uninitialized element"),
    ] {
        let told = both(&fast(ALLOC, call, "(table 1 funcref)"));
        assert_eq!(told.status, Status::Trap);
        assert!(told.stderr.contains(words), "{}", told.stderr);
    }
}

#[test]
fn a_stack_overflow() {
    let told = both(&fast(ALLOC, "(call $deep) (i64.const 0)", "(func $deep (call $deep) (call $deep))"));
    assert_eq!(told.status, Status::Stack, "{}", told.stderr);
    assert!(told.stderr.contains("call stack exhausted"), "{}", told.stderr);
}

#[test]
fn a_memory_hog_that_gives_up() {
    let grow =
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let told =
        contained(&fast(ALLOC, grow, ""), FunctionSpec { memory_bytes: 8 << 20, ..FunctionSpec::default() });
    assert_eq!(told.status, Status::Memory);
    assert!(told.stderr.contains("more memory than `memory`"), "{}", told.stderr);
    assert!(told.usage.memory_bytes > 7 << 20 && told.usage.memory_bytes <= 8 << 20, "{:?}", told.usage);
}

#[test]
fn memory_refused_is_no_failure_if_the_guest_copes() {
    let mut stage = Stage::new();
    let call = format!("(drop (memory.grow (i32.const 60000))) {REPLY}");
    let function = stage.deploy(fast(ALLOC, &call, ""));
    let told = stage.call(function, b"hello");
    assert_eq!((told.status, told.output.as_slice()), (Status::Ok, &b"hello"[..]));
    assert_eq!(told.usage.memory_bytes, 128 << 10);
}

#[test]
fn more_memory_from_the_start_than_allowed() {
    let told = contained(&echo(), FunctionSpec { memory_bytes: 64 << 10, ..FunctionSpec::default() });
    assert_eq!(told.status, Status::Memory);
}

#[test]
fn data_that_does_not_fit_its_memory() {
    let told = both(&fast(ALLOC, "(i64.const 0)", r#"(data (i32.const 131070) "too long")"#));
    assert_eq!(told.status, Status::Trap);
}

#[test]
fn a_start_function_that_traps() {
    let told = both(&fast(ALLOC, "(i64.const 0)", "(func $s (unreachable)) (start $s)"));
    assert_eq!(told.status, Status::Trap);
}

#[test]
fn unknown_imports() {
    let told =
        both(&fast(ALLOC, "(i64.const 0)", "").replace("(module", r#"(module (import "env" "now" (func))"#));
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains("env"), "{}", told.stderr);
}

#[test]
fn more_than_the_pool_has() {
    for extra in ["(memory 1)", "(table 70000 funcref)", &"(table 1 funcref)".repeat(5)] {
        let told = both(&fast(ALLOC, "(i64.const 0)", extra));
        assert_eq!(told.status, Status::Unavailable, "{extra}: {}", told.stderr);
        assert!(!told.stderr.is_empty());
    }
}

#[test]
fn every_slot_and_every_warm_place_can_be_taken_at_once() {
    let mut stage = Stage::new();
    let (warm, endless) = (stage.deploy(echo()), stage.deploy(crate::stage::endless()));
    // Fill the warm places: four at once, of which two are kept.
    let progress = [0, 1, 2, 3].map(|slot| stage.begin(slot, warm, b"w"));
    for (slot, progress) in progress.into_iter().enumerate() {
        assert_eq!(stage.finish(slot as u32, progress).status, Status::Ok);
    }
    for round in 0..3 {
        for slot in 0..4 {
            assert_eq!(stage.begin(slot, endless, b""), Progress::Yielded, "round {round}");
        }
        for slot in 0..4 {
            runtime::Runtime::stop(&mut stage.runtime, runtime::SlotId(slot), Status::Timeout);
            stage.end(slot, 0);
        }
    }
}

/// The canary of `contained`: an innocent call that was harmed would be noticed.
#[test]
#[should_panic(expected = "innocent")]
fn harm_would_be_noticed() {
    let mut stage = Stage::new();
    let harmed = stage.deploy(slow_echo().replace("(local.get $at)", "(i32.const 0)"));
    let half_done = stage.begin(1, harmed, b"innocent");
    assert_eq!(String::from_utf8_lossy(&stage.finish(1, half_done).output), "innocent");
}
