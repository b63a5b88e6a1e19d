//! Ctrl-C and SIGTERM: the first asks, the second ends the program.

use crate::exit::{Exit, Failure};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Set once the program has been asked to stop. From the first call on, the first SIGINT or SIGTERM sets it instead of
/// ending the program; work in flight can be finished.
pub fn flag() -> &'static AtomicBool {
    let action = SigAction::new(SigHandler::Handler(ask), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: `ask` is async-signal-safe: it touches one atomic and may call `_exit`, nothing else.
        unsafe { sigaction(signal, &action) }.expect("the signals are known to the kernel");
    }
    &ASKED
}

/// Whether the program has been asked to stop.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// What a command that was asked to stop says.
pub fn failure(place: impl Into<String>) -> Failure {
    Failure::new(Exit::Interrupted, "interrupted", place, "")
}

/// A source whose reads end with an error once the program has been asked to stop. The standard library begins an
/// interrupted read again, so that a program which waits for its stdin would not hear Ctrl-C.
#[derive(Debug)]
pub struct UntilAsked<R>(pub R);

impl<R: Read> Read for UntilAsked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted && is_asked() => {
                Err(io::Error::other("interrupted"))
            }
            result => result,
        }
    }
}

extern "C" fn ask(_: libc::c_int) {
    if ASKED.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` is async-signal-safe; who interrupts twice wants out, and the kernel frees everything.
        unsafe { libc::_exit(130) }
    }
}
