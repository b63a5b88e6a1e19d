//! What the machine itself can do, measured in the same run: nothing built on it can be faster.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Memory as `O_DIRECT` wants it.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// Median of one 4 KiB write with `O_DIRECT` and `RWF_DSYNC` into a pre-written file in `folder`, microseconds.
pub fn dsync_us(folder: &Path, writes: usize) -> io::Result<f64> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join("floor.bin");
    let size = 4 << 20;
    std::fs::write(&path, vec![0u8; size])?;
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path)?;
    file.sync_all()?;
    let mut page = Box::new(Page([0; 4096]));
    let mut took = Vec::with_capacity(writes);
    for n in 0..writes {
        let iovec = libc::iovec { iov_base: page.0.as_mut_ptr().cast(), iov_len: 4096 };
        let offset = (n * 4096 % size) as i64;
        let begun = Instant::now();
        // SAFETY: the iovec names the page, which outlives the call and is not touched during it.
        let wrote = unsafe { libc::pwritev2(file.as_raw_fd(), &iovec, 1, offset, libc::RWF_DSYNC) };
        if wrote != 4096 {
            return Err(io::Error::last_os_error());
        }
        took.push(begun.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(median_us(&mut took))
}

/// Median round trip of 128 bytes over loopback TCP between two spinning threads, microseconds.
pub fn loopback_us(rounds: usize) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let (mut peer, _) = listener.accept()?;
        prepare(&peer)?;
        let mut bytes = [0u8; 128];
        for _ in 0..rounds {
            spin_read(&mut peer, &mut bytes)?;
            peer.write_all(&bytes)?;
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(at)?;
    prepare(&socket)?;
    let mut bytes = [7u8; 128];
    let mut took = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        socket.write_all(&bytes)?;
        spin_read(&mut socket, &mut bytes)?;
        took.push(begun.elapsed());
    }
    echo.join().expect("the echo thread does not panic")?;
    Ok(median_us(&mut took))
}

/// Median round trip of 128 bytes over a Unix socket to another process, both blocking, microseconds. `peer` starts that
/// process, which gives back what comes by its stdin until that ends (see [`echo_stdin`]).
///
/// # Errors
/// If the peer does not start, or ends.
pub fn unix_us(
    time: Duration,
    peer: impl FnOnce(Stdio) -> io::Result<std::process::Child>,
) -> io::Result<f64> {
    let (mut socket, other) = UnixStream::pair()?;
    let mut child = peer(std::os::fd::OwnedFd::from(other).into())?;
    let (mut bytes, mut took) = ([7u8; 128], Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < time || took.len() < 100 {
        let sent = Instant::now();
        socket.write_all(&bytes)?;
        socket.read_exact(&mut bytes)?;
        took.push(sent.elapsed());
    }
    drop(socket);
    child.wait()?;
    Ok(median_us(&mut took))
}

/// The other side of [`unix_us`].
///
/// # Errors
/// If the socket breaks.
pub fn echo_stdin() -> io::Result<()> {
    let mut socket = UnixStream::from(std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?);
    let mut bytes = [0u8; 128];
    while socket.read_exact(&mut bytes).is_ok() {
        socket.write_all(&bytes)?;
    }
    Ok(())
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)
}

fn spin_read(socket: &mut TcpStream, into: &mut [u8]) -> io::Result<()> {
    let mut have = 0;
    while have < into.len() {
        match socket.read(&mut into[have..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn median_us(took: &mut [Duration]) -> f64 {
    took.sort();
    took[took.len() / 2].as_secs_f64() * 1e6
}
