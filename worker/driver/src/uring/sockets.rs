//! The few plain socket calls: make, bind, set options, shut down.

use crate::seam::Endpoint;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, getpeername,
    getsockname, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::Mode;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Waiting connections of a listener: a node and all its cores may come at once.
const BACKLOG: i32 = 1024;

/// A peer's address as the kernel takes it. Must not move while a connect is in flight.
pub(super) enum Address {
    Tcp(SockaddrStorage),
    Unix(UnixAddr),
}

impl Address {
    pub(super) fn of(endpoint: &Endpoint) -> io::Result<Address> {
        Ok(match endpoint {
            Endpoint::Tcp(at) => Address::Tcp((*at).into()),
            Endpoint::Unix(path) | Endpoint::Shm(path) => Address::Unix(UnixAddr::new(path.as_path())?),
        })
    }

    pub(super) fn as_sockaddr(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Address::Tcp(at) => (at.as_ptr(), at.len()),
            Address::Unix(at) => (at.as_ptr().cast(), at.len()),
        }
    }

    fn family(&self) -> AddressFamily {
        match self {
            Address::Tcp(at) => at.family().expect("a TCP address has a family"),
            Address::Unix(_) => AddressFamily::Unix,
        }
    }
}

/// A socket for this address.
pub(super) fn make(address: &Address) -> io::Result<OwnedFd> {
    Ok(socket(address.family(), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// A listening socket; its errors name the endpoint and the remedy.
pub(super) fn listener(at: &Endpoint) -> io::Result<OwnedFd> {
    let made = match at {
        Endpoint::Tcp(address) => listen_tcp(address),
        Endpoint::Unix(path) | Endpoint::Shm(path) => listen_unix(path),
    };
    made.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: stop it or choose another endpoint",
            io::ErrorKind::PermissionDenied => "; choose a port above 1023 or a directory you may write to",
            io::ErrorKind::NotFound => "; its directory does not exist",
            io::ErrorKind::AddrNotAvailable => "; this host has no such address",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot listen on {at}: {error}{remedy}"))
    })
}

fn listen_tcp(at: &SocketAddr) -> io::Result<OwnedFd> {
    let address = Address::of(&Endpoint::Tcp(*at))?;
    let socket = make(&address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    tune_tcp(socket.as_fd(), at.ip().is_loopback());
    let Address::Tcp(address) = address else { unreachable!("made so") };
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path is longer than 107 bytes"))?;
    remove_stale(path, &address)?;
    let socket = make(&Address::Unix(address))?;
    // Before the bind: the file then never exists with wider rights. Only this user may connect.
    nix::sys::stat::fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on any more; a live one is an error, and so is any other file.
fn remove_stale(path: &Path, address: &UnixAddr) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is no socket"));
        }
        Ok(_) => {}
    }
    let probe = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    match nix::sys::socket::connect(probe.as_raw_fd(), address) {
        Err(nix::errno::Errno::ECONNREFUSED) => std::fs::remove_file(path),
        Err(nix::errno::Errno::EACCES) => Err(io::ErrorKind::PermissionDenied.into()),
        // Connected, or its backlog is full: somebody lives there.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Device and inode of the file at a path.
pub(super) fn file_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// No waiting for more bytes; and inside a host no pacing: bbr costs 5-15 % per message there.
fn tune_tcp(socket: BorrowedFd<'_>, loopback: bool) {
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    if loopback {
        let _ = setsockopt(&socket, sockopt::TcpCongestion, &std::ffi::OsString::from("reno"));
    }
}

/// Sets the options of a connected TCP socket.
pub(super) fn tune_connected(socket: BorrowedFd<'_>) {
    let loopback = getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok_and(|peer| is_loopback(&peer));
    tune_tcp(socket, loopback);
}

fn is_loopback(address: &SockaddrStorage) -> bool {
    let v4 = address.as_sockaddr_in().map(|at| at.ip().is_loopback());
    let v6 = address.as_sockaddr_in6().map(|at| at.ip().is_loopback());
    v4.or(v6).unwrap_or(false)
}

/// Where a TCP listener really listens.
pub(super) fn local(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    if let Some(at) = address.as_sockaddr_in() {
        return Ok(SocketAddr::from((at.ip(), at.port())));
    }
    let at = address.as_sockaddr_in6().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(SocketAddr::from((at.ip(), at.port())))
}

/// Ends both directions: what is in flight on the socket completes.
pub(super) fn shut_down(socket: BorrowedFd<'_>) {
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Endpoint {
        Endpoint::Unix(path.to_owned())
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listener(&unix(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = listener(&unix(&path)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
        drop(first);
        listener(&unix(&path)).unwrap();
    }

    #[test]
    fn an_ordinary_file_in_the_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(listener(&unix(&path)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn errors_name_the_endpoint() {
        let port = listener(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        let at = Endpoint::Tcp(local(port.as_fd()).unwrap());
        let told = listener(&at).unwrap_err().to_string();
        assert!(told.contains(&at.to_string()) && told.contains("another process"), "{told}");
        let told = listener(&unix(Path::new("/nowhere/at/all"))).unwrap_err().to_string();
        assert!(told.contains("directory does not exist"), "{told}");
    }
}
