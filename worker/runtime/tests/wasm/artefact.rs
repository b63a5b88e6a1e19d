//! The artefact cache: compiled once, and nothing but whole files of our own is ever mapped.

use crate::stage::{Stage, echo};
use call::{FunctionSpec, Status};
use runtime::Runtime;
use runtime::wasm::artefact::{ArtefactError, Compiled, compile, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn compiled(stage: &Stage) -> (Vec<u8>, Compiled) {
    let wasm = wat::parse_str(echo()).unwrap();
    let compiled = compile(stage.cache.path(), &wasm).unwrap();
    (wasm, compiled)
}

#[test]
fn a_function_is_compiled_once() {
    let stage = Stage::new();
    let (wasm, first) = compiled(&stage);
    assert!(!first.cached);
    let again = compile(stage.cache.path(), &wasm).unwrap();
    assert_eq!((again.cached, &again.path, &again.sha256), (true, &first.path, &first.sha256));
    assert_eq!(ensure(stage.cache.path(), &first.sha256).unwrap(), again);
    // Nothing half-written is left.
    let names: Vec<_> = fs::read_dir(stage.cache.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// Every kind of damage, done to the file; the call must fail cleanly, `ensure` heal it, and the next call
/// work.
#[test]
fn damage_is_found_and_healed() {
    type Damage = fn(&mut Vec<u8>);
    let kinds: [(&str, Damage); 6] = [
        ("a flipped bit in the code", |file| file[1000] ^= 4),
        ("a flipped bit in the trailer", |file| *file.iter_mut().rev().nth(20).unwrap() ^= 1),
        ("truncated", |file| file.truncate(file.len() / 2)),
        ("almost whole", |file| file.truncate(file.len() - 1)),
        ("empty", Vec::clear),
        ("something else", |file| *file = b"#!/bin/sh\n".repeat(100)),
    ];
    for (kind, damage) in kinds {
        let mut stage = Stage::new();
        let function = stage.deploy(echo());
        let (_, Compiled { path, sha256, .. }) = compiled(&stage);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let told = stage.call(function, b"hello");
        assert_eq!(told.status, Status::Unavailable, "{kind}");
        assert!(told.stderr.contains("removed, it will be compiled again"), "{kind}: {}", told.stderr);
        assert!(!path.exists());
        assert!(!ensure(stage.cache.path(), &sha256).unwrap().cached);
        assert_eq!(stage.call(function, b"hello").output, b"hello", "{kind}");
    }
}

#[test]
fn the_artefact_of_another_function_is_not_taken_for_this_one() {
    let mut stage = Stage::new();
    let function = stage.deploy(crate::stage::endless());
    let other = fs::read(compiled(&stage).1.path).unwrap();
    let wasm = wat::parse_str(crate::stage::endless()).unwrap();
    fs::write(compile(stage.cache.path(), &wasm).unwrap().path, other).unwrap();
    assert_eq!(stage.call(function, b"").status, Status::Unavailable);
}

#[test]
fn a_file_that_others_may_write_is_not_mapped() {
    let mut stage = Stage::new();
    let function = stage.deploy(echo());
    let path = compiled(&stage).1.path;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let told = stage.call(function, b"");
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains("writable by others"), "{}", told.stderr);
}

#[test]
fn what_is_missing_is_named() {
    let mut stage = Stage::new();
    let spec = FunctionSpec { artefact: "ab".repeat(32), ..FunctionSpec::default() };
    stage.runtime.publish(call::FunctionId(5), &spec);
    let told = stage.call(call::FunctionId(5), b"");
    assert_eq!(told.status, Status::Unavailable);
    assert!(told.stderr.contains(&spec.artefact) && told.stderr.contains("deploy"), "{}", told.stderr);
    assert!(matches!(ensure(stage.cache.path(), &spec.artefact), Err(ArtefactError::Missing(_))));
}

#[test]
fn wasm_that_does_not_compile_is_an_error() {
    let stage = Stage::new();
    assert!(matches!(compile(stage.cache.path(), b"\0asm\x01\0\0\0garbage"), Err(ArtefactError::Compile(_))));
}

#[test]
fn a_damaged_source_is_not_compiled() {
    let stage = Stage::new();
    let (_, compiled) = compiled(&stage);
    fs::remove_file(&compiled.path).unwrap();
    let source = stage.cache.path().join(format!("{}.wasm", compiled.sha256));
    fs::write(&source, wat::parse_str("(module)").unwrap()).unwrap();
    assert!(matches!(ensure(stage.cache.path(), &compiled.sha256), Err(ArtefactError::Missing(_))));
}
