//! Messages with descriptors over a `SOCK_SEQPACKET` Unix socket: for the jailer, its first processes, and tests. A core
//! uses its ring instead.

use crate::jail::letter::ANSWER_BYTES;
use crate::protocol::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX};
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recvmsg, sendmsg, socket,
};
use std::io::{IoSlice, IoSliceMut, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// A socket that is not connected: non-blocking, close-on-exec.
fn fresh() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Listens at a path that must be free; only this user may connect.
///
/// # Errors
/// If the path is taken or cannot be made.
pub fn listen_at(path: &Path) -> Result<OwnedFd> {
    let socket = fresh()?;
    // Before anybody else can connect: the file gets its mode from it.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = bind(socket.as_raw_fd(), &UnixAddr::new(path)?);
    nix::sys::stat::umask(before);
    bound?;
    listen(&socket, Backlog::new(128)?)?;
    Ok(socket)
}

/// Connects to a path; the socket is non-blocking.
///
/// # Errors
/// If nobody listens there.
pub fn connect_to(path: &Path) -> Result<OwnedFd> {
    let socket = fresh()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Sends one message.
///
/// # Errors
/// `WouldBlock` if the peer reads too slowly; others if it is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let sent =
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    debug_assert_eq!(sent, bytes.len(), "a message goes whole or not at all");
    Ok(())
}

/// Receives one message into `buffer`; `None` if the peer is gone.
///
/// # Errors
/// `WouldBlock` if there is none; `InvalidData` if it was cut off, or descriptors were.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<Option<Vec<OwnedFd>>> {
    receive_up_to(socket, buffer, MESSAGE_BYTES_MAX, MsgFlags::empty())
}

/// The same, of the answers of a sandbox's first process: without waiting, though its socket blocks.
pub(crate) fn receive_small(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<Option<Vec<OwnedFd>>> {
    receive_up_to(socket, buffer, ANSWER_BYTES, MsgFlags::MSG_DONTWAIT)
}

fn receive_up_to(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
    most: usize,
    flags: MsgFlags,
) -> Result<Option<Vec<OwnedFd>>> {
    buffer.resize(most + 1, 0);
    let mut control = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for entry in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = entry {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else has them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let (bytes, flags) = (message.bytes, message.flags);
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || bytes > most {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the message is too long"));
    }
    buffer.truncate(bytes);
    // No message of the protocol is empty: zero bytes are the end.
    Ok((bytes > 0).then_some(descriptors))
}
