//! The template of `millrace init`: builds offline with the toolchain at hand, and runs by both ABIs.

use crate::stage::Stage;
use call::function::{Abi, InstanceMode};
use call::{FunctionSpec, Status};
use runtime::wasm::inspect::inspect;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The two guests that `millrace init` can make: function and command.
fn guests() -> &'static (PathBuf, PathBuf) {
    static GUESTS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    GUESTS.get_or_init(|| {
        let manifest = read("Cargo.toml");
        let function = build("function", &manifest, &["src/lib.rs", "src/millrace.rs"], |file| file.into());
        // A command has no library.
        let binary = manifest.replace("[lib]\ncrate-type = [\"cdylib\"]\n", "");
        let command = build("command", &binary, &["command/main.rs"], |_| "src/main.rs".into());
        (function, command)
    })
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("template").join(file)).unwrap()
}

/// Builds as a user does: in a directory of its own, with no lock file, offline.
fn build(kind: &str, manifest: &str, sources: &[&str], place: impl Fn(&str) -> String) -> PathBuf {
    let project = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let to = project.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, text).unwrap();
    };
    write("Cargo.toml", manifest);
    write(".cargo/config.toml", &read(".cargo/config.toml"));
    write("build.rs", &read("build.rs"));
    for source in sources {
        write(&place(source), &read(source));
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--release"])
        .current_dir(project.path())
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "the template does not build (is the target there? `rustup target add wasm32-wasip1`): {}",
        String::from_utf8_lossy(&built.stderr)
    );
    target.join("wasm32-wasip1/release/hello.wasm")
}

#[test]
fn its_manifest_is_one() {
    let manifest = call::manifest::parse("function.toml", &read("function.toml")).unwrap();
    assert_eq!(manifest.spec, FunctionSpec { name: "hello".into(), ..FunctionSpec::default() });
    // What stands there as comment is true: with the marks removed it reads the same.
    let all: String = read("function.toml")
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.contains(" = ") || rest.starts_with('['))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(call::manifest::parse("function.toml", &all).unwrap(), manifest);
}

#[test]
fn it_speaks_both_abis() {
    let (function, command) = guests();
    let seen = |path: &PathBuf| inspect(&std::fs::read(path).unwrap(), Abi::Auto, 64 << 20).unwrap();
    assert_eq!((seen(function).abi, seen(function).memory_bytes), (Abi::Fast, 2 << 20));
    assert_eq!((seen(command).abi, seen(command).memory_bytes), (Abi::Wasi, 2 << 20));
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
