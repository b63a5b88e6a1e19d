//! Message connections: SEQPACKET sockets that carry descriptors beside bytes.
//!
//! One receive and one send are with the kernel at a time; this is the road to the jailer, not that of calls.

use super::Uring;
use super::connection::{Carries, State};
use super::ring::{Completion, Purpose};
use super::sockets::{self, Address};
use crate::arrivals::{Arrivals, Message, Raw};
use crate::seam::{Closed, ConnectionId, MESSAGE_BYTES_MAX, MESSAGE_DESCRIPTORS_MAX, SendError};
use io_uring::opcode;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

// SAFETY: `CMSG_SPACE` only computes.
const CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((MESSAGE_DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize;

/// Memory that one `recvmsg` or `sendmsg` points to. Boxed: the kernel holds its address.
struct Envelope {
    header: libc::msghdr,
    part: libc::iovec,
    /// Aligned as a `cmsghdr` must be.
    control: [u64; CONTROL_BYTES.div_ceil(size_of::<u64>())],
    bytes: Vec<u8>,
}

impl Envelope {
    fn new() -> Box<Envelope> {
        // SAFETY: both are plain data of the kernel's ABI, for which zeros are valid: no name, no parts, no control.
        let (header, part) = unsafe { (zeroed(), zeroed()) };
        Box::new(Envelope { header, part, control: [0; _], bytes: Vec::new() })
    }

    /// Points the header at the memory beside it, with this much of the control part.
    fn address(&mut self, bytes: usize, control: usize) -> *mut libc::msghdr {
        self.part = libc::iovec { iov_base: self.bytes.as_mut_ptr().cast(), iov_len: bytes };
        self.header.msg_iov = &raw mut self.part;
        self.header.msg_iovlen = 1;
        self.header.msg_control =
            if control == 0 { std::ptr::null_mut() } else { self.control.as_mut_ptr().cast() };
        self.header.msg_controllen = control;
        self.header.msg_flags = 0;
        &raw mut self.header
    }

    fn prepare_to_receive(&mut self) -> *mut libc::msghdr {
        self.bytes.resize(MESSAGE_BYTES_MAX, 0);
        self.address(MESSAGE_BYTES_MAX, CONTROL_BYTES)
    }

    fn prepare_to_send(&mut self, bytes: Vec<u8>, descriptors: &[OwnedFd]) -> *mut libc::msghdr {
        self.bytes = bytes;
        let payload = size_of_val(descriptors) as u32;
        // SAFETY: `CMSG_SPACE` only computes.
        let control = if payload == 0 { 0 } else { unsafe { libc::CMSG_SPACE(payload) as usize } };
        assert!(control <= CONTROL_BYTES, "bounded when it was queued");
        let header = self.address(self.bytes.len(), control);
        if payload > 0 {
            // SAFETY: the control part is aligned and long enough for one header with these descriptors, so the first
            // header and its data lie within.
            unsafe {
                let first = &mut *libc::CMSG_FIRSTHDR(header);
                first.cmsg_level = libc::SOL_SOCKET;
                first.cmsg_type = libc::SCM_RIGHTS;
                first.cmsg_len = libc::CMSG_LEN(payload) as usize;
                let data = libc::CMSG_DATA(first).cast::<RawFd>();
                for (place, descriptor) in descriptors.iter().enumerate() {
                    data.add(place).write_unaligned(descriptor.as_raw_fd());
                }
            }
        }
        header
    }

    /// The descriptors of a message that has come, all ours from now on.
    fn descriptors(&mut self) -> Vec<Cell<Option<OwnedFd>>> {
        let mut found = Vec::new();
        let header = &raw const self.header;
        // SAFETY: the kernel filled the control part and set its length; the macros stay within that length, and
        // each SCM_RIGHTS header is followed by whole descriptors that the kernel has just made for us.
        unsafe {
            let mut part = libc::CMSG_FIRSTHDR(header);
            while let Some(control) = part.as_ref() {
                if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                    let bytes = control.cmsg_len - libc::CMSG_LEN(0) as usize;
                    let data = libc::CMSG_DATA(control).cast::<RawFd>();
                    for place in 0..bytes / size_of::<RawFd>() {
                        let one = OwnedFd::from_raw_fd(data.add(place).read_unaligned());
                        found.push(Cell::new(Some(one)));
                    }
                }
                part = libc::CMSG_NXTHDR(header, control);
            }
        }
        self.header.msg_controllen = 0;
        found
    }

    /// Whether the kernel had to cut bytes or descriptors off.
    fn is_cut(&self) -> bool {
        self.header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0
    }
}

/// Both directions of one message connection.
pub(super) struct Messages {
    coming: Box<Envelope>,
    going: Box<Envelope>,
    /// Of the message that is with the kernel; closed when it has gone.
    lent: Vec<OwnedFd>,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    queued_bytes: usize,
    /// A message was refused and the caller waits for room.
    refused: bool,
}

impl Messages {
    pub(super) fn new() -> Messages {
        Messages {
            coming: Envelope::new(),
            going: Envelope::new(),
            lent: Vec::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            refused: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Uring {
    pub(super) fn connect_for_messages(&mut self, to: &Path) -> ConnectionId {
        let address = Address::of_path(to);
        self.start_connecting_to(address, Carries::Messages)
    }

    pub(super) fn adopt_for_messages(&mut self, socket: OwnedFd) -> io::Result<ConnectionId> {
        sockets::check_seqpacket(socket.as_fd())?;
        sockets::own(socket.as_fd())?;
        self.adopt_as(socket, Carries::Messages)
    }

    pub(super) fn open_messages(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        connection.messages.get_or_insert_with(|| Box::new(Messages::new()));
        connection.state = State::Open;
        self.arm_message(index);
        self.mark_dirty(index);
    }

    fn arm_message(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let messages = connection.messages.as_mut().expect("an open message connection has them");
        let header = messages.coming.prepare_to_receive();
        connection.receiving = true;
        let flags = libc::MSG_CMSG_CLOEXEC as u32;
        let entry = opcode::RecvMsg::new(self.raw_socket(index), header).flags(flags).build();
        // SAFETY: the envelope is boxed, touched by nobody else before the completion, and freed when the slot is
        // vacated, after the last completion.
        unsafe { self.push_for(index, Purpose::Receive, entry) };
    }

    pub(super) fn on_message(&mut self, done: Completion, into: &mut Arrivals) {
        let index = done.subject.1;
        let connection = &mut self.connections[index as usize];
        connection.receiving = false;
        connection.in_flight -= 1;
        let id = connection.id(index);
        let coming = &mut connection.messages.as_mut().expect("it receives").coming;
        // Taken in any case: what nobody wants is closed here.
        let descriptors = if done.result >= 0 { coming.descriptors() } else { Vec::new() };
        if connection.state != State::Open {
            return;
        }
        match done.result {
            0 if connection.closing => self.end(index, Closed::Here, into),
            0 => self.end(index, Closed::Peer, into),
            1.. if coming.is_cut() => self.end(index, Closed::Io(libc::EMSGSIZE), into),
            bytes @ 1.. => {
                let bytes = coming.bytes[..bytes as usize].to_vec();
                into.raw.push(Raw::Message(id, Box::new(Message { bytes, descriptors })));
                self.arm_message(index);
            }
            error => self.end(index, Closed::Io(-error), into),
        }
    }

    pub(super) fn queue_message(
        &mut self,
        to: ConnectionId,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), SendError> {
        assert!((1..=MESSAGE_BYTES_MAX).contains(&bytes.len()), "a message has some bytes, and not too many");
        assert!(descriptors.len() <= MESSAGE_DESCRIPTORS_MAX, "a message carries not too many descriptors");
        let index = self.live(to).ok_or(SendError::Closed)?;
        let limit = self.options.send_queue_bytes;
        let connection = &mut self.connections[index as usize];
        assert_eq!(connection.carries, Carries::Messages, "only a message connection carries messages");
        if connection.closing || connection.mute {
            return Err(SendError::Closed);
        }
        let messages = connection.messages.get_or_insert_with(|| Box::new(Messages::new()));
        if messages.queued_bytes >= limit {
            messages.refused = true;
            return Err(SendError::Full);
        }
        messages.queued_bytes += bytes.len();
        messages.queue.push_back((bytes.to_vec(), descriptors));
        self.mark_dirty(index);
        Ok(())
    }

    /// Sends the next message if none is under way.
    pub(super) fn flush_messages(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let messages = connection.messages.as_mut().expect("an open message connection has them");
        if connection.sending {
            return;
        }
        let Some((bytes, descriptors)) = messages.queue.pop_front() else { return };
        let header = messages.going.prepare_to_send(bytes, &descriptors);
        messages.lent = descriptors;
        connection.sending = true;
        let flags = libc::MSG_NOSIGNAL as u32;
        let entry = opcode::SendMsg::new(self.raw_socket(index), header).flags(flags).build();
        // SAFETY: as of the receiving side; the descriptors stay open until the completion.
        unsafe { self.push_for(index, Purpose::Send, entry) };
    }

    /// The message under way has gone.
    pub(super) fn message_sent(&mut self, index: u32, into: &mut Arrivals) {
        let limit = self.options.send_queue_bytes;
        let connection = &mut self.connections[index as usize];
        let id = connection.id(index);
        let messages = connection.messages.as_mut().expect("it sends");
        messages.lent.clear();
        messages.queued_bytes -= messages.going.bytes.len();
        if messages.refused && messages.queued_bytes <= limit / 2 {
            messages.refused = false;
            into.raw.push(Raw::Room(id));
        }
        if !messages.queue.is_empty() || connection.closing {
            self.mark_dirty(index);
        }
    }
}
