//! Where a node listens for clients, and a non-blocking socket to it.

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long one attempt to connect over TCP may take: two lost SYNs (1 s, then 2 s after it) on a good path.
const CONNECT_TIME: Duration = Duration::from_secs(4);

/// Longest single sleep: a day, so that no duration overflows the kernel's.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where a node listens for clients.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// `tcp:HOST:PORT`; the host may be a name.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(at) => write!(f, "tcp:{at}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Endpoint, String> {
        let wrong = || format!("`{text}` is not an endpoint: use tcp:HOST:PORT or unix:PATH");
        match text.split_once(':').ok_or_else(wrong)? {
            ("tcp", at) => {
                let (host, port) = at.rsplit_once(':').ok_or_else(wrong)?;
                let plain = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0);
                if plain { Ok(Endpoint::Tcp(at.into())) } else { Err(wrong()) }
            }
            ("unix", path) if !path.is_empty() => Ok(Endpoint::Unix(path.into())),
            _ => Err(wrong()),
        }
    }
}

/// A connected stream that never blocks, except in [`Socket::wait`].
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects; every address of a host name is tried.
    pub fn connect(to: &Endpoint) -> io::Result<Socket> {
        match to {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Socket::Unix(stream))
            }
            Endpoint::Tcp(at) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
                for address in at.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIME) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_nonblocking(true)?;
                            return Ok(Socket::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    /// Sleeps until bytes can be read (or, if `write`, written), or `time` has passed.
    pub fn wait(&self, write: bool, time: Duration) -> io::Result<()> {
        sleep_on(&mut [self.interest(write)], time)
    }

    /// What to wait for on this socket.
    pub fn interest(&self, write: bool) -> PollFd<'_> {
        let flags = if write { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        PollFd::new(self.as_fd(), flags)
    }

    /// Reads what is there: `None` if nothing is, `Some(0)` at the end of the stream.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Socket::Tcp(stream) => would_block(stream.read(into)),
            Socket::Unix(stream) => would_block(stream.read(into)),
        }
    }

    /// Writes what fits: `None` if nothing does.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Socket::Tcp(stream) => would_block(stream.write(bytes)),
            Socket::Unix(stream) => would_block(stream.write(bytes)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Sleeps until one of the sockets is ready, a signal comes, or `time` has passed: to the nanosecond, since `poll`'s
/// milliseconds would make a paced sender late.
pub(crate) fn sleep_on(sockets: &mut [PollFd<'_>], time: Duration) -> io::Result<()> {
    match ppoll(sockets, Some(TimeSpec::from_duration(time.min(SLEEP_MAX))), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_print_as_they_are_written() {
        for text in ["tcp:127.0.0.1:7410", "tcp:[::1]:7410", "tcp:node.example:7410", "unix:run/submit.sock"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_endpoint_is_told_with_the_right_form() {
        for text in
            ["", "tcp:", "tcp:host", "tcp::7410", "tcp:host:0", "tcp:host:99999", "udp:host:1", "unix:"]
        {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("tcp:HOST:PORT"), "{text}: {error}");
        }
    }
}
