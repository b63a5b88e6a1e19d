//! What `deploy` is told of a file.

use crate::stage::{ALLOC, echo, fast};
use call::function::Abi;
use proptest::prelude::*;
use runtime::wasm::inspect::{InspectError, Inspection, inspect};

const MIB: u64 = 1 << 20;

fn told(wat: &str) -> Result<Inspection, InspectError> {
    inspect(&wat::parse_str(wat).unwrap(), Abi::Auto, MIB)
}

fn error(wat: &str) -> String {
    told(wat).unwrap_err().to_string()
}

#[test]
fn both_abis_are_known() {
    let start = r#"(func (export "_start"))"#;
    let of = |wat: &str| told(wat).map(|seen| (seen.abi, seen.both, seen.memory_bytes));
    assert_eq!(of(&echo()), Ok((Abi::Fast, false, 128 << 10)));
    assert_eq!(of(&format!("(module {start})")), Ok((Abi::Wasi, false, 0)));
    let both = fast(ALLOC, "(i64.const 0)", start);
    assert_eq!(of(&both), Ok((Abi::Fast, true, 128 << 10)));
    let wasi = inspect(&wat::parse_str(both).unwrap(), Abi::Wasi, MIB).unwrap();
    assert_eq!((wasi.abi, wasi.both), (Abi::Wasi, true));
}

#[test]
fn a_missing_abi_is_told_with_what_is_there() {
    let wat = r#"(module (func (export "main")) (func (export "run")))"#;
    assert!(error(wat).contains("exports neither `_start`"), "{}", error(wat));
    assert!(error(wat).ends_with("it exports `main`, `run`"), "{}", error(wat));
    let asked = inspect(&wat::parse_str(echo()).unwrap(), Abi::Wasi, MIB).unwrap_err();
    assert_eq!(asked, InspectError::WrongAbi(Abi::Wasi, "_start"));
    assert_eq!(asked.to_string(), "does not export `_start`, which `abi = \"wasi\"` needs");
}

#[test]
fn unknown_imports_are_named_with_the_nearest_known_one() {
    let wat = r#"(module (import "wasi_snapshot_preview1" "fd_wirte" (func)) (import "env" "emscripten_notify" (func))
        (import "wasi_snapshot_preview1" "fd_read" (func)) (func (export "_start")))"#;
    let said = error(wat);
    assert!(
        said.contains("`wasi_snapshot_preview1.fd_wirte` (nearest: `wasi_snapshot_preview1.fd_write`)"),
        "{said}"
    );
    assert!(said.contains("`env.emscripten_notify`") && !said.contains("fd_read"), "{said}");
}

#[test]
fn a_component_is_told_apart() {
    let component = wat::parse_str("(component)").unwrap();
    assert_eq!(inspect(&component, Abi::Auto, MIB), Err(InspectError::Component));
}

#[test]
fn other_files_are_recognised() {
    for (bytes, words) in [
        (&b""[..], "an empty file"),
        (b"\x7fELF\x02", "a native program"),
        (b"(module)", "wat"),
        (b"#!/bin/sh", "a script"),
        (b"PK\x03\x04", "a zip archive"),
        (b"hello", "text"),
        (b"\xff\xfe\xfd", "something else"),
    ] {
        let said = inspect(bytes, Abi::Auto, MIB).unwrap_err().to_string();
        assert!(said.contains(words) && said.contains("wasm32-wasip1"), "{said}");
    }
}

#[test]
fn limits_are_told_before_the_deploy() {
    let large = echo().replace(r#"(memory (export "memory") 2)"#, r#"(memory (export "memory") 17)"#);
    assert_eq!(told(&large), Err(InspectError::Memory(17 << 16, MIB)));
    assert!(error(&fast(ALLOC, "(i64.const 0)", "(memory 1)")).contains("2 memories"));
    assert!(error(&fast(ALLOC, "(i64.const 0)", &"(table 1 funcref)".repeat(5))).contains("5 tables"));
    assert!(error(&fast(ALLOC, "(i64.const 0)", "(table 70000 funcref)")).contains("70000 elements"));
    let huge = vec![0; call::limits::ARTEFACT_BYTES_MAX + 1];
    assert!(matches!(inspect(&huge, Abi::Auto, MIB), Err(InspectError::TooLarge(_))));
}

/// A core must never be handed what `deploy` accepted and the compiler refuses, nor `deploy` refuse what
/// would run.
#[test]
fn what_is_accepted_compiles_and_what_is_refused_does_not() {
    let with = |field: &str| fast(ALLOC, "(i64.const 0)", field);
    let cache = tempfile::tempdir().unwrap();
    let mut seen = [0, 0];
    for field in [
        "(func (result v128) (v128.const i32x4 0 0 0 0))",
        "(func $f (return_call $f))",
        "(global i64 (i64.add (i64.const 1) (i64.const 2)))",
        "(func (param i64 i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 1)))",
        "(func (param v128 v128 v128) (result v128) (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2)))",
        "(table 1 externref)",
        "(type (struct (field i32)))",
        "(tag) (func (throw 0))",
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        "(func (drop (i32.atomic.load (i32.const 0))))",
        "(type $f (func)) (type $c (cont $f))",
    ] {
        let wasm = wat::parse_str(with(field)).unwrap();
        let accepted = inspect(&wasm, Abi::Auto, MIB);
        let compiled = runtime::wasm::artefact::compile(cache.path(), &wasm);
        assert_eq!(accepted.is_ok(), compiled.is_ok(), "{field}: {accepted:?} {compiled:?}");
        seen[usize::from(accepted.is_ok())] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn a_damaged_module_is_invalid() {
    let mut wasm = wat::parse_str(echo()).unwrap();
    wasm.truncate(wasm.len() - 3);
    assert!(matches!(inspect(&wasm, Abi::Auto, MIB), Err(InspectError::Invalid(_))));
}

proptest! {
    /// Whatever is deployed: an answer, never a panic.
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..300_usize) {
        let _ = inspect(&bytes, Abi::Auto, MIB);
        let mut wasm = wat::parse_str(echo()).unwrap();
        let at = at.min(wasm.len() - 1);
        for (to, from) in wasm[at..].iter_mut().zip(&bytes) {
            *to ^= from;
        }
        let _ = inspect(&wasm, Abi::Auto, MIB);
    }
}
