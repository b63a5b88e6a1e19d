//! What the programs tell when it happens: kills, exits and denied attempts.

use crate::abi::{EVENT_BYTES, address_of, half};
use std::fmt;
use std::net::SocketAddr;

/// What happened in a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A process ended since the kernel killed it for want of memory; its `Exit` follows.
    Oom {
        /// Row of the sandbox.
        index: u32,
        /// The process, as the host numbers it.
        pid: u32,
    },
    /// A process made a system call that its filter does not allow, and gets SIGSYS.
    Seccomp {
        /// Row of the sandbox.
        index: u32,
        /// The process.
        pid: u32,
        /// Number of the system call.
        syscall: u32,
        /// `AUDIT_ARCH_*` of the convention it was made by.
        arch: u32,
    },
    /// A process ended.
    Exit {
        /// Row of the sandbox.
        index: u32,
        /// The process.
        pid: u32,
        /// As it ended itself; none if a signal ended it.
        code: Option<u8>,
        /// The signal that ended it.
        signal: Option<u8>,
    },
    /// Something was tried that no grant covers. Told at most ten at once and ten a second of each sandbox; counted
    /// always.
    Denied {
        /// Row of the sandbox.
        index: u32,
        /// The process; 0 for what came from outside.
        pid: u32,
        /// What was tried.
        operation: Operation,
        /// `IPPROTO_*`.
        protocol: u32,
        /// The destination; the local address of bind, accept; the source of receive; none of a socket.
        address: Option<SocketAddr>,
    },
}

/// What was tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// To connect.
    Connect,
    /// To send a datagram.
    Send,
    /// To bind a local address.
    Bind,
    /// To make a socket that is neither TCP nor UDP.
    Socket,
    /// From outside: to connect to a port that is not granted.
    Accept,
    /// From outside: to send a datagram from an address that is not granted.
    Receive,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Connect => "connect",
            Operation::Send => "send",
            Operation::Bind => "bind",
            Operation::Socket => "socket",
            Operation::Accept => "accept",
            Operation::Receive => "receive",
        })
    }
}

impl Event {
    /// Row of the sandbox that it happened in.
    pub fn index(&self) -> u32 {
        match *self {
            Event::Oom { index, .. }
            | Event::Seccomp { index, .. }
            | Event::Exit { index, .. }
            | Event::Denied { index, .. } => index,
        }
    }

    /// From `struct event`; none of a kind that this version does not know.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Event> {
        if bytes.len() != EVENT_BYTES {
            return None;
        }
        let word = |at: usize| half(bytes, 4 * at);
        let (index, pid, code) = (word(1), word(2), word(3));
        Some(match word(0) {
            1 => Event::Oom { index, pid },
            2 => Event::Seccomp { index, pid, syscall: code, arch: word(4) },
            3 => {
                // As waitpid gives it: a signal in the low seven bits, or a code in the next byte.
                let signal = (code & 0x7f) as u8;
                let ended = (code >> 8 & 0xff) as u8;
                let is_signal = signal != 0;
                Event::Exit {
                    index,
                    pid,
                    code: (!is_signal).then_some(ended),
                    signal: is_signal.then_some(signal),
                }
            }
            4 => {
                let operation = match word(5) {
                    1 => Operation::Connect,
                    2 => Operation::Send,
                    3 => Operation::Bind,
                    4 => Operation::Socket,
                    5 => Operation::Accept,
                    6 => Operation::Receive,
                    _ => return None,
                };
                let address = address_of(word(6), &bytes[40..]).map(|ip| SocketAddr::new(ip, word(8) as u16));
                Event::Denied { index, pid, operation, protocol: word(7), address }
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Oom { pid, .. } => write!(f, "process {pid} was killed for want of memory"),
            Event::Seccomp { pid, syscall, .. } => write!(f, "process {pid} made system call {syscall}"),
            Event::Exit { pid, code: Some(code), .. } => write!(f, "process {pid} ended with {code}"),
            Event::Exit { pid, signal, .. } => {
                write!(f, "process {pid} was ended by signal {}", signal.unwrap_or(0))
            }
            Event::Denied { operation, protocol, address, .. } => {
                let protocol = match protocol {
                    6 => "tcp".to_string(),
                    17 => "udp".to_string(),
                    other => format!("protocol {other}"),
                };
                match address {
                    Some(address) => write!(f, "{operation} {protocol} {address}"),
                    None => write!(f, "{operation} {protocol}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(words: &[(usize, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; EVENT_BYTES];
        words.iter().for_each(|(at, word)| bytes[4 * at..4 * at + 4].copy_from_slice(&word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn each_kind_is_read_and_said() {
        let said = |words: &[(usize, u32)]| Event::from_bytes(&event(words)).unwrap().to_string();
        assert_eq!(said(&[(0, 1), (2, 7)]), "process 7 was killed for want of memory");
        assert_eq!(said(&[(0, 2), (2, 7), (3, 101)]), "process 7 made system call 101");
        assert_eq!(said(&[(0, 3), (2, 7), (3, 0x2a00)]), "process 7 ended with 42");
        // With a core dump.
        assert_eq!(said(&[(0, 3), (2, 7), (3, 0x8b)]), "process 7 was ended by signal 11");
        let denied = [(0, 4), (5, 1), (6, 4), (7, 6), (8, 443), (10, u32::from_ne_bytes([10, 0, 0, 1]))];
        assert_eq!(said(&denied), "connect tcp 10.0.0.1:443");
        assert_eq!(said(&[(0, 4), (5, 4), (7, 132)]), "socket protocol 132");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(event) = Event::from_bytes(&bytes) {
                prop_assert_eq!(bytes.len(), EVENT_BYTES);
                event.to_string();
            }
        }
    }
}
