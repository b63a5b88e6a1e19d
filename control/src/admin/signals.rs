//! SIGTERM and SIGINT are orders of the operator like `POST /v1/drain`: the first drains, the second ends at once.

use crate::admin::link::Link;
use call::admin::Ask;
use driver::notes::say;
use nix::sys::signal::{SigSet, Signal};
use std::thread;
use tokio::runtime::Handle;

/// The signals that end a node.
pub fn endings() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// Waits for `signals`, which every thread of the process blocks, on a thread of its own.
///
/// The exit status of an end at the second one is that of a process the signal killed.
pub fn drain_on_signal(signals: SigSet, link: Link) -> std::io::Result<()> {
    let runtime = Handle::current();
    let wait = move || -> nix::Result<()> {
        let first = signals.wait()?;
        say(format_args!("{first}: draining; once more ends at once (nothing accepted is lost)"));
        runtime.spawn(async move { link.ask(Ask::Drain).await });
        let second = signals.wait()?;
        say(format_args!("{second}: ending at once"));
        std::process::exit(128 + second as i32)
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(|_| ())
}
