//! A Millrace function as an ordinary WASI command: arguments on stdin, result on stdout, exit status 0. Build it with
//! `cargo build --release`, then `millrace deploy`.
//!
//! To fail, exit with another status: what stands on stderr is kept with the call, and the call is tried again.

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let mut name = String::new();
    io::stdin().read_to_string(&mut name)?;
    let name = if name.is_empty() { "world" } else { &name };
    io::stdout().write_all(format!("hello, {name}").as_bytes())
}
