//! Lines for people.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line to stderr, in one piece.
///
/// Where `eprintln!` ends the thread, because nobody reads any more or the disk behind it is full, the line is lost and
/// the platform goes on.
pub fn say(line: impl Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
