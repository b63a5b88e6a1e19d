//! The template of `millrace init`: builds offline with the toolchain at hand, and runs by both ABIs.

use crate::stage::Stage;
use call::function::{Abi, InstanceMode};
use call::{FunctionSpec, Status};
use runtime::wasm::inspect::inspect;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The two guests that the template builds: function and command.
fn guests() -> &'static (PathBuf, PathBuf) {
    static GUESTS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("template");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("template");
        // As a user has it: somewhere of its own, with no lock file.
        let project = tempfile::tempdir().unwrap();
        for file in ["Cargo.toml", "build.rs", "src/lib.rs", "src/handle.rs", "src/bin/command.rs"] {
            let to = project.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from.join(file), to).unwrap();
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--offline", "--quiet", "--release", "--target", "wasm32-wasip1"])
            .current_dir(project.path())
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "the template does not build (is the target there? `rustup target add wasm32-wasip1`): {}",
            String::from_utf8_lossy(&built.stderr)
        );
        let release = target.join("wasm32-wasip1/release");
        (release.join("hello.wasm"), release.join("command.wasm"))
    })
}

#[test]
fn it_speaks_both_abis() {
    let (function, command) = guests();
    let read = |path: &PathBuf| inspect(&std::fs::read(path).unwrap(), Abi::Auto, 64 << 20).unwrap();
    assert_eq!((read(function).abi, read(function).memory_bytes), (Abi::Fast, 2 << 20));
    assert_eq!((read(command).abi, read(command).memory_bytes), (Abi::Wasi, 2 << 20));
}

#[test]
fn it_runs_as_function_and_as_command() {
    let (function, command) = guests();
    let mut stage = Stage::new();
    for path in [function, command] {
        for instance in [InstanceMode::Reuse, InstanceMode::Fresh] {
            let spec = FunctionSpec { instance, ..FunctionSpec::default() };
            let deployed = stage.deploy_as(std::fs::read(path).unwrap(), spec);
            for (payload, reply) in [("", "hello, world"), ("Ada", "hello, Ada"), ("you", "hello, you")] {
                let told = stage.call(deployed, payload.as_bytes());
                assert_eq!(told.status, Status::Ok, "{}", told.stderr);
                assert_eq!(String::from_utf8_lossy(&told.output), reply);
                assert_eq!(told.usage.memory_bytes, 2 << 20, "it grew its memory");
            }
        }
    }
}
