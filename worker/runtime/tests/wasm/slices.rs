//! Time slices: long calls yield, short ones pass them, endless ones are stopped.

use crate::stage::{ALLOC, Stage, echo, endless, fast, slow_echo};
use call::function::InstanceMode;
use call::{FunctionSpec, Status};
use runtime::{Progress, Runtime, SlotId};

#[test]
fn a_long_call_yields_and_short_ones_pass_it() {
    let mut stage = Stage::new();
    let (slow, short) = (stage.deploy(slow_echo()), stage.deploy(echo()));
    let progress = stage.begin(1, slow, b"slow");
    assert_eq!(progress, Progress::Yielded);
    assert_eq!(stage.runtime.sleeps_until(SlotId(1)), None);
    for _ in 0..100 {
        assert_eq!(stage.call(short, b"short").output, b"short");
    }
    let told = stage.finish(1, progress);
    assert_eq!((told.status, told.output.as_slice()), (Status::Ok, &b"slow"[..]));
    assert!(told.yields > 3, "tens of milliseconds in {} slices", told.yields);
}

#[test]
fn an_endless_call_yields_until_it_is_stopped() {
    let mut stage = Stage::new();
    for instance in [InstanceMode::Reuse, InstanceMode::Fresh] {
        let function = stage.deploy_as(endless(), FunctionSpec { instance, ..FunctionSpec::default() });
        assert_eq!(stage.begin(0, function, b""), Progress::Yielded);
        for _ in 0..20 {
            assert_eq!(stage.runtime.resume(SlotId(0)), Progress::Yielded);
        }
        stage.runtime.stop(SlotId(0), Status::Timeout);
        let told = stage.end(0, 0);
        assert_eq!((told.status, told.output.len()), (Status::Timeout, 0));
    }
}

#[test]
fn a_start_function_that_never_ends_is_stopped_too() {
    let mut stage = Stage::new();
    let function = stage.deploy(fast(ALLOC, "(i64.const 0)", "(func $s (loop $a (br $a))) (start $s)"));
    assert_eq!(stage.begin(0, function, b""), Progress::Yielded);
    assert_eq!(stage.runtime.resume(SlotId(0)), Progress::Yielded);
    stage.runtime.stop(SlotId(0), Status::Timeout);
    assert_eq!(stage.end(0, 0).status, Status::Timeout);
}

#[test]
fn an_endless_alloc_is_stopped_too() {
    let mut stage = Stage::new();
    let function = stage.deploy(fast("(loop $a (br $a)) (unreachable)", "(i64.const 0)", ""));
    assert_eq!(stage.begin(0, function, b""), Progress::Yielded);
    stage.runtime.stop(SlotId(0), Status::Timeout);
    assert_eq!(stage.end(0, 0).status, Status::Timeout);
}

#[test]
fn ticks_come_back_after_the_core_was_idle() {
    let mut stage = Stage::new();
    let function = stage.deploy(endless());
    for _ in 0..2 {
        // Without ticks this would never return.
        assert_eq!(stage.begin(0, function, b""), Progress::Yielded);
        stage.runtime.stop(SlotId(0), Status::Timeout);
        stage.end(0, 0);
        // Long enough for the timer to disarm itself.
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
}

#[test]
#[should_panic(expected = "holds no running call")]
fn a_call_that_has_ended_cannot_be_resumed() {
    let mut stage = Stage::new();
    let function = stage.deploy(echo());
    stage.begin(0, function, b"");
    stage.runtime.resume(SlotId(0));
}

#[test]
#[should_panic(expected = "is taken")]
fn a_slot_holds_one_call() {
    let mut stage = Stage::new();
    let function = stage.deploy(endless());
    stage.begin(0, function, b"");
    stage.begin(0, function, b"");
}
