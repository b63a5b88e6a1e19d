//! The fast ABI: what goes in comes out, and guests that break it are told so.

use crate::stage::{ALLOC, REPLY, Stage, echo, fast};
use call::function::{Abi, InstanceMode};
use call::limits::OUTPUT_BYTES_MAX;
use call::{FunctionId, FunctionSpec, Status};

#[test]
fn the_serving_loop_is_what_its_text_says() {
    let text = wat::parse_str(include_str!("../../src/wasm/serve.wat")).unwrap();
    let same = text == include_bytes!("../../src/wasm/serve.wasm");
    assert!(same, "assemble it again: `wasm-tools parse serve.wat -o serve.wasm`");
}

fn fresh() -> FunctionSpec {
    FunctionSpec { instance: InstanceMode::Fresh, ..FunctionSpec::default() }
}

#[test]
fn arguments_come_back_reused_and_fresh() {
    let mut stage = Stage::new();
    for spec in [FunctionSpec::default(), fresh()] {
        let reused = spec.instance == InstanceMode::Reuse;
        let function = stage.deploy_as(echo(), spec);
        for (n, payload) in [&b"hello"[..], b"", &[7; 50_000], b"again"].into_iter().enumerate() {
            let told = stage.call(function, payload);
            assert_eq!((told.status, told.output.as_slice()), (Status::Ok, payload), "{}", told.stderr);
            assert_eq!(told.usage.cold, n == 0 || !reused);
            assert_eq!(told.usage.memory_bytes, 128 << 10);
            assert!(!told.usage.truncated);
        }
    }
}

/// Counts its calls.
fn counter() -> String {
    let call = "(i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1))) (i64.const 1)";
    fast(ALLOC, call, r#"(data (i32.const 0) "0")"#)
}

#[test]
fn a_fresh_instance_sees_nothing_of_the_call_before() {
    let mut stage = Stage::new();
    let (reused, fresh) = (stage.deploy(counter()), stage.deploy_as(counter(), fresh()));
    for expected in [b"1", b"2", b"3"] {
        assert_eq!(stage.call(reused, b"").output, expected);
        assert_eq!(stage.call(fresh, b"").output, b"1");
    }
}

#[test]
fn calls_of_one_function_run_at_once_in_instances_of_their_own() {
    let mut stage = Stage::new();
    let function = stage.deploy(crate::stage::slow_echo());
    let progress = [0, 1, 2, 3].map(|slot| stage.begin(slot, function, &[slot as u8]));
    for (slot, progress) in progress.into_iter().enumerate() {
        assert_eq!(stage.finish(slot as u32, progress).output, [slot as u8]);
    }
}

#[test]
fn a_reactor_is_initialized_once_before_its_first_call() {
    let mut stage = Stage::new();
    let extra = r#"(func (export "_initialize") (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1))))
        (data (i32.const 0) "0")"#;
    let function = stage.deploy(fast(ALLOC, "(i64.const 1)", extra));
    assert_eq!([stage.call(function, b"").output, stage.call(function, b"").output], [b"1", b"1"]);
}

/// Says that the service named by its arguments is overloaded, then replies with them.
fn pressed() -> String {
    format!(
        r#"(module (import "millrace" "back_pressure" (func $pressed (param i32 i32)))
        (memory (export "memory") 2)
        (func (export "millrace_alloc") (param $bytes i32) (result i32) {ALLOC})
        (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
            (call $pressed (local.get $at) (local.get $bytes)) {REPLY}))"#
    )
}

#[test]
fn back_pressure_is_told_and_the_instance_stays_warm() {
    let mut stage = Stage::new();
    let function = stage.deploy(pressed());
    for (payload, named, cold) in [(&b"tao"[..], Some("tao"), true), (b"", None, false)] {
        let told = stage.call(function, payload);
        assert_eq!((told.status, told.output.as_slice()), (Status::BackPressure, payload));
        assert_eq!(call::outcome::back_pressure::service(told.stderr.as_bytes()), named, "{}", told.stderr);
        assert_eq!(told.usage.cold, cold);
    }
    let told = stage.call(function, &[b'x'; 1000]);
    assert_eq!(told.status, Status::BadReply, "no service has such a name");
    let plain = stage.deploy(echo());
    assert_eq!(stage.call(plain, b"on").status, Status::Ok, "of the call only");
}

#[test]
fn a_reply_outside_the_memory_is_a_bad_reply() {
    let mut stage = Stage::new();
    for reply in
        [0x0002_0000_0000_0001_u64, 0xffff_ffff_ffff_ffff, 0x0001_ffff_0000_0002, 0x0000_0000_ffff_ffff]
    {
        let function = stage.deploy(fast(ALLOC, &format!("(i64.const {reply})"), ""));
        let told = stage.call(function, b"hello");
        assert_eq!(told.status, Status::BadReply, "{reply:x}");
        assert!(told.stderr.contains("millrace_call returned"), "{}", told.stderr);
        assert!(told.output.is_empty());
    }
}

#[test]
fn room_outside_the_memory_is_a_bad_reply() {
    let mut stage = Stage::new();
    for at in [131_072 - 4, -1, i32::MIN, -3] {
        for spec in [FunctionSpec::default(), fresh()] {
            let function = stage.deploy_as(fast(&format!("(i32.const {at})"), REPLY, ""), spec);
            let told = stage.call(function, b"hello");
            assert_eq!(told.status, Status::BadReply, "{at}");
            assert!(told.stderr.contains("millrace_alloc(5) returned"), "{}", told.stderr);
        }
    }
}

#[test]
fn an_output_over_the_limit_is_cut_and_said_to_be() {
    let mut stage = Stage::new();
    let call = format!("(drop (memory.grow (i32.const 64))) (i64.const {})", OUTPUT_BYTES_MAX + 1);
    let function = stage.deploy(fast(ALLOC, &call, ""));
    let told = stage.call(function, b"");
    assert_eq!((told.status, told.output.len(), told.usage.truncated), (Status::Ok, OUTPUT_BYTES_MAX, true));
    let exact = stage.deploy(fast(ALLOC, &call.replace("1048577", "1048576"), ""));
    let told = stage.call(exact, b"");
    assert_eq!((told.output.len(), told.usage.truncated), (OUTPUT_BYTES_MAX, false));
}

#[test]
fn the_largest_arguments_pass() {
    let mut stage = Stage::new();
    let function = stage.deploy(fast("(drop (memory.grow (i32.const 64))) (i32.const 1024)", REPLY, ""));
    let payload = vec![3; call::limits::ARGUMENTS_BYTES_MAX];
    assert!(stage.call(function, &payload).output == payload);
}

#[test]
fn an_unknown_function_is_unavailable() {
    let mut stage = Stage::new();
    let told = stage.call(FunctionId(99), b"");
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains("not published"), "{}", told.stderr);
}

#[test]
fn the_wrong_abi_is_unavailable() {
    let mut stage = Stage::new();
    let function = stage.deploy_as(echo(), FunctionSpec { abi: Abi::Wasi, ..FunctionSpec::default() });
    let told = stage.call(function, b"");
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains("ABI"), "{}", told.stderr);
}

#[test]
fn exports_of_other_types_are_unavailable() {
    let mut stage = Stage::new();
    let odd = r#"(module (memory (export "memory") 1) (global (export "millrace_alloc") i32 (i32.const 0))
        (func (export "millrace_call") (param i64) (result i64) (local.get 0)))"#;
    let function = stage.deploy(odd);
    assert_eq!(stage.call(function, b"").status, Status::Unavailable);
}
