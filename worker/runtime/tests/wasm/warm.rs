//! Warm instances: reused, bounded, dropped when stale.

use crate::stage::{ALLOC, Stage, echo, fast};
use call::{FunctionSpec, Status};
use runtime::Runtime;
use std::time::Duration;

#[test]
fn the_least_recently_used_goes_first() {
    let mut stage = Stage::new();
    let [a, b, c] = [(), (), ()].map(|()| stage.deploy(echo()));
    let cold = |stage: &mut Stage, function| stage.call(function, b"").usage.cold;
    assert!(cold(&mut stage, a) && cold(&mut stage, b) && !cold(&mut stage, a));
    // Two places: c drives out b, which is older than a.
    assert!(cold(&mut stage, c) && !cold(&mut stage, a) && !cold(&mut stage, c));
    assert!(cold(&mut stage, b) && !cold(&mut stage, c) && cold(&mut stage, a));
}

#[test]
fn warm_instances_have_no_more_memory_than_allowed() {
    let cache = tempfile::tempdir().unwrap();
    // Each echo has 128 KiB: one fits, two do not.
    let mut stage = Stage::with(|options| options.warm_bytes = 200 << 10, cache);
    let [a, b] = [(), ()].map(|()| stage.deploy(echo()));
    let large = stage.deploy(fast(ALLOC, "(drop (memory.grow (i32.const 4))) (i64.const 0)", ""));
    let cold = |stage: &mut Stage, function| stage.call(function, b"").usage.cold;
    assert!(cold(&mut stage, a) && !cold(&mut stage, a));
    assert!(cold(&mut stage, b) && !cold(&mut stage, b) && cold(&mut stage, a));
    assert!(cold(&mut stage, large) && cold(&mut stage, large));
}

#[test]
fn a_new_version_is_not_served_by_an_old_instance() {
    let mut stage = Stage::new();
    let function = stage.deploy(fast(ALLOC, "(i64.const 1)", r#"(data (i32.const 0) "1")"#));
    assert_eq!(stage.call(function, b"").output, b"1");
    // One instance is in a slot while the next version is published.
    stage.begin(3, function, b"");
    let second = wat::parse_str(fast(ALLOC, "(i64.const 1)", r#"(data (i32.const 0) "2")"#)).unwrap();
    let compiled = runtime::wasm::artefact::compile(stage.cache.path(), &second).unwrap();
    let spec = FunctionSpec { name: "f".into(), artefact: compiled.sha256, ..FunctionSpec::default() };
    stage.runtime.publish(function, &spec);
    assert_eq!(stage.end(3, 0).output, b"1");
    assert_eq!(stage.call(function, b"").output, b"2");
    // The same again changes nothing: the instance stays warm.
    stage.runtime.publish(function, &spec);
    assert!(!stage.call(function, b"").usage.cold);
}

#[test]
fn a_retired_function_is_gone_but_its_running_call_ends() {
    let mut stage = Stage::new();
    let function = stage.deploy(crate::stage::slow_echo());
    let progress = stage.begin(1, function, b"last");
    stage.runtime.retire(function);
    assert_eq!(stage.call(function, b"").status, Status::Unavailable);
    assert_eq!(stage.finish(1, progress).output, b"last");
}

#[test]
fn idle_drops_what_was_not_used_for_long() {
    let cache = tempfile::tempdir().unwrap();
    let mut stage = Stage::with(|options| options.warm_for = Duration::from_millis(4), cache);
    let function = stage.deploy(echo());
    stage.call(function, b"");
    assert!(!stage.call(function, b"").usage.cold);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(2));
        stage.runtime.idle();
    }
    assert!(stage.call(function, b"").usage.cold);
    assert_eq!(stage.runtime.loaded(), 1);
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(2));
        stage.runtime.idle();
    }
    assert_eq!(stage.runtime.loaded(), 0);
    assert_eq!(stage.call(function, b"again").output, b"again");
}

#[test]
fn a_published_function_is_not_loaded_before_its_first_call() {
    let mut stage = Stage::new();
    let functions = [0; 10].map(|_| stage.deploy(echo()));
    assert_eq!(stage.runtime.loaded(), 0);
    stage.call(functions[4], b"");
    assert_eq!(stage.runtime.loaded(), 1);
}

#[test]
fn calls_run_the_version_before_until_the_new_one_is_compiled() {
    let version = |text: &str| {
        wat::parse_str(fast(ALLOC, "(i64.const 1)", &format!("(data (i32.const 0) \"{text}\")"))).unwrap()
    };
    let mut stage = Stage::new();
    let function = stage.deploy(version("1"));
    assert_eq!(stage.call(function, b"").output, b"1");
    let second = version("2");
    let spec = FunctionSpec {
        name: "f".into(),
        artefact: runtime::wasm::artefact::sha256(&second),
        ..FunctionSpec::default()
    };
    stage.runtime.publish(function, &spec);
    // A third one follows before any of the second ran: the first is still the one that is known to run.
    let third = version("3");
    let spec = FunctionSpec { artefact: runtime::wasm::artefact::sha256(&third), ..spec };
    stage.runtime.publish(function, &spec);
    for _ in 0..2 {
        let told = stage.call(function, b"");
        assert_eq!((told.status, told.output.as_slice(), told.usage.cold), (Status::Ok, &b"1"[..], true));
    }
    runtime::wasm::artefact::compile(stage.cache.path(), &third).unwrap();
    assert_eq!(stage.call(function, b"").output, b"3", "no instance of the version before was kept");
}

#[test]
fn code_is_mapped_before_a_call_that_is_foreseen_and_let_go_when_none_is() {
    let mut stage = Stage::new();
    let function = stage.deploy(echo());
    assert_eq!(stage.runtime.loaded(), 0, "light until something is known of it");
    stage.runtime.foresee(function, true);
    assert_eq!(stage.runtime.loaded(), 1);
    assert_eq!(stage.call(function, b"on").output, b"on");
    stage.begin(1, function, b"");
    stage.runtime.foresee(function, false);
    assert_eq!(stage.runtime.loaded(), 0, "with its warm instances");
    assert_eq!(stage.end(1, 0).status, Status::Ok, "a call that runs goes on");
    assert!(!stage.call(function, b"").usage.cold, "its instance was needed after all, and is kept");
    stage.runtime.foresee(function, false);
    assert!(stage.call(function, b"").usage.cold);
    // Of a function that is not there nothing comes, nor of one whose artefact is not.
    stage.runtime.foresee(call::FunctionId(9), true);
    let spec = FunctionSpec { name: "g".into(), artefact: "0".repeat(64), ..FunctionSpec::default() };
    stage.runtime.publish(spec.id(), &spec);
    stage.runtime.foresee(spec.id(), true);
    assert_eq!(stage.runtime.loaded(), 1);
}
