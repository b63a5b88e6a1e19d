//! What this kernel's io_uring can do of what we use.

use super::buffers::ReceiveBuffers;
use super::ring::{Purpose, Ring, Subject};
use io_uring::{Probe, opcode};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The answers.
pub(crate) struct Capabilities {
    /// Flags of the ring that could be set up.
    pub setup: &'static str,
    /// Whether these are the best we know.
    pub best: bool,
    /// Operations that we use and the kernel lacks.
    pub missing: Vec<&'static str>,
    /// Incremental provided buffers.
    pub incremental: bool,
    /// A futex wait in the ring really ends with a wake.
    pub futex: bool,
}

/// Sets up a ring and asks it.
pub(crate) fn capabilities() -> io::Result<Capabilities> {
    let mut ring = Ring::new(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let used = [
        ("ACCEPT", opcode::AcceptMulti::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("RECV", opcode::RecvMulti::CODE),
        ("SEND", opcode::Send::CODE),
        ("RECVMSG", opcode::RecvMsg::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("FUTEX_WAIT", opcode::FutexWait::CODE),
        ("WRITE_FIXED", opcode::WriteFixed::CODE),
        ("READ_FIXED", opcode::ReadFixed::CODE),
        ("OPENAT", opcode::OpenAt::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("UNLINKAT", opcode::UnlinkAt::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("TIMEOUT", opcode::Timeout::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ];
    let missing: Vec<_> =
        used.iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| *name).collect();
    let incremental = ReceiveBuffers::probe_incremental(&ring.submitter());
    let futex = !missing.contains(&"FUTEX_WAIT") && futex_wakes(&mut ring).unwrap_or(false);
    Ok(Capabilities { setup: ring.setup(), best: ring.is_best(), missing, incremental, futex })
}

/// Whether the kernel has a multishot read, which pipes need: they cannot be received from.
pub(super) fn reads_again(ring: &Ring) -> bool {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode::ReadMulti::CODE)
}

fn futex_wakes(ring: &mut Ring) -> io::Result<bool> {
    // Leaked: should the wake fail, the kernel may look at the word until the ring is gone.
    let word: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
    let entry = opcode::FutexWait::new(word.as_ptr(), 0, u64::from(u32::MAX), 2).build();
    // SAFETY: the word lives for ever.
    unsafe { ring.push(entry, Subject(Purpose::Bell, 0)) };
    ring.enter()?;
    word.store(1, Ordering::Release);
    // SAFETY: waking changes no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    ring.sleep(Duration::from_secs(1))?;
    let mut done = Vec::new();
    ring.completions(&mut done);
    Ok(done.iter().any(|completion| completion.subject.0 == Purpose::Bell && completion.result == 0))
}
