//! SIGTERM and SIGINT are orders of the operator like `POST /v1/drain`: the first drains, the second ends at once.

use crate::admin::link::Link;
use call::admin::Ask;
use nix::sys::signalfd::SignalFd;
use std::io;
use tokio::io::unix::AsyncFd;

/// Waits for signals. The exit status of an end at the second one is that of a process the signal killed.
pub async fn drain_on_signal(signals: SignalFd, link: Link) -> io::Result<()> {
    let signals = AsyncFd::new(signals)?;
    let first = next(&signals).await?;
    eprintln!("signal {first}: draining; once more ends at once (nothing accepted is lost)");
    tokio::spawn(async move { link.ask(Ask::Drain).await });
    let second = next(&signals).await?;
    eprintln!("signal {second}: ending at once");
    std::process::exit(128 + second as i32)
}

async fn next(signals: &AsyncFd<SignalFd>) -> io::Result<u32> {
    loop {
        let mut ready = signals.readable().await?;
        match signals.get_ref().read_signal()? {
            Some(signal) => return Ok(signal.ssi_signo),
            None => ready.clear_ready(),
        }
    }
}
