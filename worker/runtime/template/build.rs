//! Links the function with 8 MiB of memory from the start: a fresh instance then never has to grow it, and growing
//! costs several times what the instance itself does. Untouched memory costs nothing.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=--initial-memory=8388608");
}
