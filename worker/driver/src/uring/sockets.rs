//! The few plain socket calls: make, bind, set options, shut down.

use super::connection::Carries;
use crate::seam::Endpoint;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, getpeername,
    getsockname, getsockopt, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, SFlag, fstat};
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
            Endpoint::Unix(path) | Endpoint::Shm(path) => return Address::of_path(path),
        })
    }

    pub(super) fn of_path(path: &Path) -> io::Result<Address> {
        Ok(Address::Unix(UnixAddr::new(path)?))
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

/// A socket for this address, to carry this.
pub(super) fn make(address: &Address, carries: Carries) -> io::Result<OwnedFd> {
    let kind = if carries == Carries::Messages { SockType::SeqPacket } else { SockType::Stream };
    Ok(socket(address.family(), kind, SockFlag::SOCK_CLOEXEC, None)?)
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
    let socket = make(&address, Carries::Frames)?;
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
    let socket = make(&Address::Unix(address), Carries::Frames)?;
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

/// A TCP peer that has said nothing for so long is asked whether it is there: a host that lost its power says nothing.
const KEEPALIVE_IDLE_S: u32 = 60;
/// Between two such questions, and how many go unanswered before the connection has ended: two minutes in all.
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_COUNT: u32 = 6;

/// No waiting for more bytes; notice of a peer that is gone; and inside a host no pacing: bbr costs 5-15 % per message
/// there. An accepted socket inherits all of these from the one that listens.
fn tune_tcp(socket: BorrowedFd<'_>, loopback: bool) {
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S);
    let _ = setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S);
    let _ = setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE_COUNT);
    if loopback {
        let _ = setsockopt(&socket, sockopt::TcpCongestion, &std::ffi::OsString::from("reno"));
    }
}

/// Sets the options of an adopted TCP socket, listening or connected.
pub(super) fn tune_adopted(socket: BorrowedFd<'_>) {
    tune_tcp(socket, local(socket).is_ok_and(|at| at.ip().is_loopback()));
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

/// Ends the sending direction.
pub(super) fn shut_sending_side(socket: BorrowedFd<'_>) {
    let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Write);
}

fn refused<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Whether it is a stream socket that listens.
pub(super) fn check_listening(socket: BorrowedFd<'_>) -> io::Result<()> {
    let stream = getsockopt(&socket, sockopt::SockType)? == SockType::Stream;
    if stream && getsockopt(&socket, sockopt::AcceptConn)? {
        Ok(())
    } else {
        refused("no listening stream socket")
    }
}

/// Whether it is a SEQPACKET socket that is connected.
pub(super) fn check_seqpacket(socket: BorrowedFd<'_>) -> io::Result<()> {
    if getsockopt(&socket, sockopt::SockType)? != SockType::SeqPacket {
        return refused("no SEQPACKET socket");
    }
    getpeername::<SockaddrStorage>(socket.as_raw_fd())?;
    Ok(())
}

/// Which kind of byte stream a descriptor is an end of.
pub(super) fn what_it_carries(end: BorrowedFd<'_>) -> io::Result<Carries> {
    let kind = SFlag::from_bits_truncate(fstat(end)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFIFO {
        let access = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
        return match access {
            access if access == OFlag::O_RDONLY => Ok(Carries::PipeIn),
            access if access == OFlag::O_WRONLY => Ok(Carries::PipeOut),
            _ => refused("a FIFO that is open in both directions never ends"),
        };
    }
    if kind != SFlag::S_IFSOCK || getsockopt(&end, sockopt::SockType)? != SockType::Stream {
        return refused("neither a stream socket nor a pipe");
    }
    getpeername::<SockaddrStorage>(end.as_raw_fd())?;
    Ok(Carries::Bytes)
}

/// Whether it is a TCP socket.
pub(super) fn is_tcp(socket: BorrowedFd<'_>) -> bool {
    local(socket).is_ok()
}

/// Makes an adopted descriptor like our own: not inherited by what this process runs, and waiting, which the ring does
/// for us (it does not wait on a descriptor that says not to).
pub(super) fn own(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(descriptor, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    }
    Ok(())
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
