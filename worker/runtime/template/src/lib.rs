//! A Millrace function. Build it with `cargo build --release`, then `millrace deploy`.

mod millrace;

/// Runs one call: reads the arguments, appends the result to `reply`.
///
/// A call may share its instance with earlier calls (`instance = "reuse"` in function.toml), so keep no state
/// that a later call must not see. To fail, panic: the message goes to the call's stderr, and the call is
/// tried again.
pub fn handle(arguments: &[u8], reply: &mut Vec<u8>) {
    let name = String::from_utf8_lossy(arguments);
    let name = if name.is_empty() { "world" } else { &name };
    reply.extend_from_slice(format!("hello, {name}").as_bytes());
}
