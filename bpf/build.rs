//! Compiles the BPF programs with clang and generates their skeletons.

use libbpf_cargo::SkeletonBuilder;
use std::path::PathBuf;

fn main() {
    for program in ["account", "device", "events", "network", "runq"] {
        build(program);
    }
    println!("cargo::rerun-if-changed=include");
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
