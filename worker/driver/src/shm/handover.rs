//! Passing the descriptor of a link over its Unix socket.

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Goes with the descriptor: names the protocol to a peer that expected another.
const GREETING: [u8; 8] = *b"MLRLINK1";

/// Hands `memory` to the peer of a just connected socket. Does not block: the message is small and the first.
pub(crate) fn give(socket: BorrowedFd<'_>, memory: &OwnedFd) -> io::Result<()> {
    let fds = [memory.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&GREETING)], &control, flags, None)?;
    Ok(())
}

/// Takes the descriptor from a readable socket.
pub(crate) fn take(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut greeting = [0; GREETING.len()];
    let mut parts = [IoSliceMut::new(&mut greeting)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut taken: Option<OwnedFd> = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            taken = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
        }
    }
    let whole = message.bytes == GREETING.len() && greeting == GREETING;
    taken.filter(|_| whole).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer did not hand over shared memory; is it a shm client?",
        )
    })
}
