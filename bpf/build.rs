//! Compiles the BPF programs with clang and generates their skeletons.

use libbpf_cargo::SkeletonBuilder;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    for program in ["account", "device", "events", "network", "runq"] {
        build(program);
    }
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rustc-env=BPF_CLANG={}", clang());
}

fn build(program: &str) {
    let source = format!("{program}.bpf.c");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    let built = SkeletonBuilder::new()
        .source(&source)
        .clang_args(["-I", "include", "-Wall", "-Werror", "-mcpu=v3"])
        .build_and_generate(out.join(format!("{program}.skel.rs")));
    if let Err(error) = built {
        panic!("{source}: {error:#}\nclang, libelf-dev and zlib1g-dev must be installed: `make setup`");
    }
    println!("cargo::rerun-if-changed={source}");
}

/// Which compiler it is: what the verifier sees depends on it.
fn clang() -> String {
    let asked = Command::new("clang").arg("--version").output();
    let says = asked.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    let first = says.lines().next().unwrap_or("unknown");
    // `Debian clang version 14.0.6`: releases of one version make the same.
    first.split('.').next().unwrap_or(first).to_string()
}
