//! Links the function with 2 MiB of memory from the start: 1 MiB of stack, the rest heap. A fresh instance
//! then need not grow its memory, and growing costs as much as the instance itself does. A function that
//! needs more heap in each call may say more here; untouched memory costs a fresh instance about 0.1 us per
//! MiB.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=--initial-memory=2097152");
}
