//! The same function as a WASI command: arguments on stdin, result on stdout. Runs under any WASI runtime, for trying
//! it out: `wasmtime target/wasm32-wasip1/release/command.wasm`.

#[path = "../handle.rs"]
mod handle;

use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    let mut arguments = Vec::new();
    std::io::stdin().read_to_end(&mut arguments)?;
    let mut reply = Vec::new();
    handle::handle(&arguments, &mut reply);
    std::io::stdout().write_all(&reply)
}
