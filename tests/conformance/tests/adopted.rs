//! What only the real driver has: descriptors that somebody else made, pipes, messages that carry descriptors.

use conformance::bytes::bytes;
use conformance::{Seen, Side, closed, pattern};
use driver::seam::{MESSAGE_BYTES_MAX, MESSAGE_DESCRIPTORS_MAX};
use driver::uring::{Options, Uring};
use driver::{Arrivals, Closed, ConnectionId, Driver, Event, SendError};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, sendmsg, socket,
    socketpair,
};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

fn side() -> Side<Uring> {
    Side::new(Uring::new(Options::default()).expect("io_uring is there"))
}

fn accepted(seen: &[Seen]) -> Vec<ConnectionId> {
    let one = |seen: &Seen| if let Seen::Accepted(_, connection) = seen { Some(*connection) } else { None };
    seen.iter().filter_map(one).collect()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe().expect("a pipe")
}

/// Flags of a descriptor as the kernel has them.
fn is_closed_on_exec(descriptor: impl AsFd) -> bool {
    let flags = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_GETFD).expect("an open descriptor");
    flags & libc::FD_CLOEXEC != 0
}

#[test]
fn an_adopted_listener_serves_ordinary_clients() {
    let mut side = side();
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = theirs.local_addr().unwrap();
    // Set by somebody who waits for it otherwise: the ring would not.
    theirs.set_nonblocking(true).unwrap();
    let listener = side.driver.adopt_listener(theirs.into(), 64).unwrap();
    assert_eq!(side.driver.local(listener).to_string(), format!("tcp:{at}"));
    let clients: Vec<TcpStream> = (0..20)
        .map(|n| {
            let mut client = TcpStream::connect(at).unwrap();
            write!(client, "GET /{n} HTTP/1.1\r\n\r\n").unwrap();
            client
        })
        .collect();
    side.until("all questions", |seen| {
        let of = accepted(seen);
        of.len() == 20 && of.iter().all(|of| bytes(seen, *of).ends_with(b"\r\n\r\n"))
    });
    for of in accepted(&side.seen) {
        let question = bytes(&side.seen, of);
        side.driver.send(of, &question).unwrap();
        side.driver.close(of);
    }
    side.until("all ends", |seen| accepted(seen).iter().all(|of| closed(seen, *of).is_some()));
    for (n, mut client) in clients.into_iter().enumerate() {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("GET /{n} HTTP/1.1\r\n\r\n"));
    }
    side.driver.close_listener(listener);
    (0..20).for_each(|_| side.reap());
    assert!(TcpStream::connect(at).is_err(), "nobody listens any more");
}

#[test]
fn an_accepted_socket_has_the_options_of_the_listener() {
    let mut side = side();
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = theirs.local_addr().unwrap();
    let copy = theirs.try_clone().unwrap();
    side.driver.adopt_listener(theirs.into(), 64).unwrap();
    let get = |socket: RawFd, level, name| {
        let (mut value, mut bytes) = (0 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: value and length are places of the right size.
        let got = unsafe { libc::getsockopt(socket, level, name, (&raw mut value).cast(), &mut bytes) };
        assert_eq!(got, 0);
        value
    };
    let expected = [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
    ];
    for (level, name, value) in expected {
        assert_eq!(get(copy.as_raw_fd(), level, name), value);
    }
    let client = TcpStream::connect(at).unwrap();
    side.until("a stream", |seen| accepted(seen).len() == 1);
    // Ours is the newest socket of this process with that peer.
    let ours = (3..4096)
        .filter(|fd| {
            nix::sys::socket::getpeername::<nix::sys::socket::SockaddrStorage>(*fd)
                .is_ok_and(|peer| peer.to_string() == client.local_addr().unwrap().to_string())
        })
        .collect::<Vec<_>>();
    assert!(!ours.is_empty(), "the accepted socket is there");
    for (level, name, value) in expected {
        assert_eq!(get(ours[0], level, name), value, "option {name}");
    }
}

#[test]
fn one_listener_cannot_take_the_connections_of_all() {
    let mut side = side();
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = theirs.local_addr().unwrap();
    let listener = side.driver.adopt_listener(theirs.into(), 3).unwrap();
    let mut clients: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(at).unwrap()).collect();
    side.until("as many as may be", |seen| accepted(seen).len() == 3);
    (0..50).for_each(|_| side.reap());
    assert_eq!(accepted(&side.seen).len(), 3);
    assert_eq!(clients[9].read(&mut [0]).unwrap_or(0), 0, "one too many is ended");
    clients.remove(0);
    let first = accepted(&side.seen)[0];
    side.until("an end", |seen| closed(seen, first).is_some());
    (0..10).for_each(|_| side.reap());
    let _again = TcpStream::connect(at).unwrap();
    side.until("its place taken", |seen| accepted(seen).len() == 4);
    side.driver.close_listener(listener);
}

#[test]
fn listeners_come_and_go_by_the_hundred() {
    let options = Options { listeners_max: 8, ..Options::default() };
    let mut side = Side::new(Uring::new(options).unwrap());
    let mut ids = Vec::new();
    for round in 0..50 {
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = theirs.local_addr().unwrap();
        let listener = side.driver.adopt_listener(theirs.into(), 64).unwrap();
        assert!(!ids.contains(&listener), "no id comes twice");
        ids.push(listener);
        if round % 2 == 0 {
            let client = TcpStream::connect(at).unwrap();
            side.until("a stream", |seen| accepted(seen).len() == round / 2 + 1);
            drop(client);
        }
        side.driver.close_listener(listener);
        side.driver.close_listener(listener);
        (0..3).for_each(|_| side.reap());
    }
    let held: Vec<_> = (0..8)
        .map(|_| side.driver.adopt_listener(TcpListener::bind("127.0.0.1:0").unwrap().into(), 1).unwrap())
        .collect();
    let one_more = side.driver.adopt_listener(TcpListener::bind("127.0.0.1:0").unwrap().into(), 1);
    assert_eq!(one_more.unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    side.driver.close_listener(held[3]);
    (0..3).for_each(|_| side.reap());
    side.driver.adopt_listener(TcpListener::bind("127.0.0.1:0").unwrap().into(), 1).unwrap();
}

#[test]
fn what_is_no_socket_or_pipe_is_not_adopted() {
    let mut driver = Uring::new(Options::default()).unwrap();
    let file = || OwnedFd::from(tempfile::tempfile().unwrap());
    assert!(driver.adopt_stream(file()).is_err() && driver.adopt_listener(file(), 1).is_err());
    assert!(driver.adopt_messages(file()).is_err());
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listening.local_addr().unwrap();
    assert!(driver.adopt_stream(listening.try_clone().unwrap().into()).is_err(), "it listens");
    let connected = TcpStream::connect(at).unwrap();
    assert!(driver.adopt_listener(connected.into(), 1).is_err(), "it does not listen");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(driver.adopt_stream(datagrams.try_clone().unwrap().into()).is_err());
    assert!(driver.adopt_listener(datagrams.into(), 1).is_err());
    let (stream, _other) = UnixStream::pair().unwrap();
    assert!(driver.adopt_messages(stream.into()).is_err(), "a stream keeps no borders");
}

#[test]
fn an_adopted_socket_is_a_stream_at_once() {
    let mut side = side();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let of = side.driver.adopt_stream(ours.into()).unwrap();
    theirs.write_all(b"hello").unwrap();
    side.until("bytes", |seen| bytes(seen, of) == b"hello");
    side.driver.send(of, b"hello yourself").unwrap();
    side.driver.finish(of);
    (0..5).for_each(|_| side.reap());
    theirs.set_read_timeout(Some(conformance::PATIENCE)).unwrap();
    let mut answer = String::new();
    theirs.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello yourself");
    theirs.write_all(b", goodbye").unwrap();
    side.until("what comes after our end", |seen| bytes(seen, of) == b"hello, goodbye");
    drop(theirs);
    side.until("the end", |seen| closed(seen, of).is_some());
    assert_eq!(side.closed(of), Some(Closed::Peer));
    side.check_last(of);
}

#[test]
fn a_listener_of_a_unix_path_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    let mut side = side();
    let listener = side.driver.adopt_listener(UnixListener::bind(&path).unwrap().into(), 64).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hello").unwrap();
    side.until("a stream", |seen| accepted(seen).first().is_some_and(|of| bytes(seen, *of) == b"hello"));
    side.driver.close_listener(listener);
    (0..3).for_each(|_| side.reap());
    assert!(UnixStream::connect(&path).is_err());
    assert!(path.exists(), "the file is not ours");
}

/// Options whose pipes are read with one entry for each read, as before Linux 6.7.
fn read_at_a_time() -> Options {
    Options { multishot_reads: false, ..Options::default() }
}

#[test]
fn a_pipe_is_read_to_its_end() {
    for options in [Options::default(), read_at_a_time()] {
        let mut side = Side::new(Uring::new(options).unwrap());
        let (ours, theirs) = pipe();
        let of = side.driver.adopt_stream(ours).unwrap();
        assert_eq!(side.driver.send(of, b"up the pipe"), Err(SendError::Closed));
        let said = pattern(6, 1_000_003);
        let saying = std::thread::spawn({
            let said = said.clone();
            move || {
                let mut theirs = File::from(theirs);
                said.chunks(70_001).for_each(|piece| theirs.write_all(piece).unwrap());
                theirs.write_all(b"").unwrap();
            }
        });
        side.until("all that was said", |seen| bytes(seen, of).len() == said.len());
        saying.join().unwrap();
        side.until("the end", |seen| closed(seen, of).is_some());
        assert!(bytes(&side.seen, of) == said, "bytes changed on their way");
        assert_eq!(side.closed(of), Some(Closed::Peer));
        side.check_last(of);
    }
}

#[test]
fn a_paused_pipe_fills_up() {
    for options in [Options::default(), read_at_a_time()] {
        let mut side = Side::new(Uring::new(options).unwrap());
        let (ours, theirs) = pipe();
        let of = side.driver.adopt_stream(ours).unwrap();
        side.driver.pause(of);
        (0..20).for_each(|_| side.reap());
        nix::fcntl::fcntl(&theirs, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let mut theirs = File::from(theirs);
        let mut said = 0;
        while let Ok(bytes) = theirs.write(&[7; 5000]) {
            said += bytes;
            assert!(said < 64 << 20, "the pipe has no bound");
            side.reap();
        }
        assert_eq!(bytes(&side.seen, of).len(), 0);
        side.driver.resume(of);
        side.until("all that was said", |seen| bytes(seen, of).len() == said);
        drop(theirs);
        side.until("the end", |seen| closed(seen, of).is_some());
    }
}

#[test]
fn a_silent_pipe_is_closed_here_though_somebody_holds_its_other_end() {
    for options in [Options::default(), read_at_a_time()] {
        let mut side = Side::new(Uring::new(options).unwrap());
        let (ours, theirs) = pipe();
        let of = side.driver.adopt_stream(ours).unwrap();
        (0..5).for_each(|_| side.reap());
        side.driver.close(of);
        side.until("the end", |seen| closed(seen, of).is_some());
        assert_eq!(side.closed(of), Some(Closed::Here));
        (0..5).for_each(|_| side.reap());
        side.check_last(of);
        let told = File::from(theirs).write(b"anybody?").unwrap_err();
        assert_eq!(told.raw_os_error(), Some(libc::EPIPE), "our end is really closed");
    }
}

#[test]
fn a_pipe_is_written_and_closed_behind_the_last_byte() {
    let mut side = side();
    let (theirs, ours) = pipe();
    let of = side.driver.adopt_stream(ours).unwrap();
    let said = pattern(7, 3_000_001);
    side.driver.send(of, &said).unwrap();
    side.driver.finish(of);
    assert_eq!(side.driver.send(of, b"late"), Err(SendError::Closed));
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        File::from(theirs).read_to_end(&mut heard).unwrap();
        heard
    });
    side.until("the end", |seen| closed(seen, of).is_some());
    assert_eq!(side.closed(of), Some(Closed::Here));
    (0..5).for_each(|_| side.reap());
    assert!(heard.join().unwrap() == said, "bytes changed on their way");
    side.check_last(of);
}

#[test]
fn a_write_that_nobody_reads_is_told_and_one_that_blocks_is_aborted() {
    let mut side = side();
    let (theirs, ours) = pipe();
    let of = side.driver.adopt_stream(ours).unwrap();
    drop(theirs);
    side.driver.send(of, b"anybody?").unwrap();
    side.until("the end", |seen| closed(seen, of).is_some());
    assert_eq!(side.closed(of), Some(Closed::Io(libc::EPIPE)));
    side.check_last(of);

    let (theirs, ours) = pipe();
    let of = side.driver.adopt_stream(ours).unwrap();
    side.driver.send(of, &[1; 1 << 20]).unwrap();
    side.driver.close(of);
    (0..20).for_each(|_| side.reap());
    assert_eq!(side.closed(of), None, "a close waits");
    side.driver.abort(of);
    side.until("the end", |seen| closed(seen, of).is_some());
    (0..20).for_each(|_| side.reap());
    let mut heard = Vec::new();
    File::from(theirs).read_to_end(&mut heard).expect("our end is really closed");
    assert!(heard.len() < 1 << 20);
    side.check_last(of);
}

// ---- messages ----

fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// Reaps until a message has come; its bytes and descriptors, all taken.
fn message(driver: &mut Uring, arrivals: &mut Arrivals) -> (Vec<u8>, Vec<OwnedFd>) {
    for _ in 0..1000 {
        let until = driver.precise() + Duration::from_millis(20);
        driver.reap(until, arrivals);
        for event in arrivals.iter() {
            if let Event::Message { bytes, descriptors, .. } = event {
                let taken = (0..descriptors.len()).map(|index| descriptors.take(index).unwrap()).collect();
                assert!(descriptors.is_empty() || descriptors.take(0).is_none(), "each is taken once");
                return (bytes.to_vec(), taken);
            }
        }
    }
    panic!("no message came");
}

#[test]
fn messages_keep_their_borders_and_bring_descriptors() {
    let (mut one, mut other) = (side(), side());
    let (a, b) = seqpacket_pair();
    let (a, b) = (one.driver.adopt_messages(a).unwrap(), other.driver.adopt_messages(b).unwrap());
    let mut arrivals = Arrivals::new();
    for (bytes, count) in [(1, 0), (10, 1), (MESSAGE_BYTES_MAX, MESSAGE_DESCRIPTORS_MAX), (100, 3)] {
        let body = pattern(bytes as u64, bytes);
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        (0..count).for_each(|_| {
            let (read, write) = pipe();
            reads.push(read);
            writes.push(write);
        });
        one.driver.send_message(a, &body, writes).unwrap();
        one.reap();
        let (got, descriptors) = message(&mut other.driver, &mut arrivals);
        one.reap();
        assert!(got == body && descriptors.len() == count);
        for (index, (write, read)) in descriptors.into_iter().zip(reads).enumerate() {
            assert!(is_closed_on_exec(&write));
            File::from(write).write_all(&[index as u8]).unwrap();
            let mut heard = Vec::new();
            // The sender's copy is closed, and so is ours: the pipe ends.
            File::from(read).read_to_end(&mut heard).unwrap();
            assert_eq!(heard, [index as u8], "in the order in which they were sent");
        }
    }
    other.driver.send_message(b, b"and back", Vec::new()).unwrap();
    other.driver.reap(other.driver.precise(), &mut arrivals);
    one.until("a message", |seen| seen.contains(&Seen::Message(a, b"and back".to_vec(), 0)));
    one.driver.close(a);
    one.until("the end", |seen| closed(seen, a).is_some());
    assert_eq!(one.closed(a), Some(Closed::Here));
}

#[test]
fn descriptors_that_nobody_takes_are_closed() {
    let (mut one, mut other) = (side(), side());
    let (a, b) = seqpacket_pair();
    let (a, b) = (one.driver.adopt_messages(a).unwrap(), other.driver.adopt_messages(b).unwrap());
    let (read, write) = pipe();
    one.driver.send_message(a, b"take it", vec![write]).unwrap();
    one.reap();
    other.until("a message", |seen| seen.contains(&Seen::Message(b, b"take it".to_vec(), 1)));
    one.reap();
    other.reap();
    assert_eq!(File::from(read).read(&mut [0]).unwrap(), 0, "no copy is left");
}

#[test]
fn messages_wait_for_the_connection_and_a_full_queue_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jailer.sock");
    let listening = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listening.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listening, nix::sys::socket::Backlog::new(4).unwrap()).unwrap();
    let options = Options { send_queue_bytes: 8000, ..Options::default() };
    let mut side = Side::new(Uring::new(options).unwrap());
    let to = side.driver.connect_messages(&path).unwrap();
    let mut sent = 0u32;
    while side.driver.send_message(to, &[sent as u8; 1000], Vec::new()) == Ok(()) {
        sent += 1;
        assert!(sent < 100, "a queue without a bound");
    }
    side.until("a connection", |seen| seen.contains(&Seen::Connected(to)));
    let peer = nix::sys::socket::accept(listening.as_raw_fd()).unwrap();
    for index in 0..sent {
        side.reap();
        let mut buffer = [0; 2000];
        let bytes = nix::sys::socket::recv(peer, &mut buffer, MsgFlags::empty()).unwrap();
        assert_eq!((bytes, buffer[0]), (1000, index as u8));
    }
    side.until("room", |seen| seen.contains(&Seen::Room(to)));
    nix::unistd::close(peer).unwrap();
    side.until("the end", |seen| closed(seen, to).is_some());
    assert_eq!(side.closed(to), Some(Closed::Peer));
    assert_eq!(side.driver.send_message(to, b"late", Vec::new()), Err(SendError::Closed));
    let nobody = side.driver.connect_messages(&dir.path().join("none")).unwrap();
    side.until("a refusal", |seen| closed(seen, nobody).is_some());
    assert_eq!(side.closed(nobody), Some(Closed::Io(libc::ENOENT)));
}

#[test]
fn a_message_beyond_a_bound_ends_the_connection_and_leaves_nothing_open() {
    let too_long = (vec![1u8; MESSAGE_BYTES_MAX + 1], 2);
    let too_many = (vec![1u8; 10], MESSAGE_DESCRIPTORS_MAX + 1);
    for (body, count) in [too_long, too_many] {
        let mut side = side();
        let (ours, theirs) = seqpacket_pair();
        let of = side.driver.adopt_messages(ours).unwrap();
        let (read, write) = pipe();
        let raw: Vec<RawFd> = vec![write.as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<UnixAddr>(theirs.as_raw_fd(), &[IoSlice::new(&body)], &rights, MsgFlags::empty(), None)
            .unwrap();
        drop(write);
        side.until("the end", |seen| closed(seen, of).is_some());
        assert_eq!(side.closed(of), Some(Closed::Io(libc::EMSGSIZE)));
        side.check_last(of);
        assert_eq!(File::from(read).read(&mut [0]).unwrap(), 0, "no copy is left");
    }
}

#[test]
#[should_panic(expected = "not too many")]
fn a_message_beyond_a_bound_is_not_sent() {
    let mut driver = Uring::new(Options::default()).unwrap();
    let (ours, _theirs) = seqpacket_pair();
    let of = driver.adopt_messages(ours).unwrap();
    let _ = driver.send_message(of, &[0; MESSAGE_BYTES_MAX + 1], Vec::new());
}

#[test]
fn bytes_outlive_the_driver_they_came_from() {
    let mut driver = Uring::new(Options::default()).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    driver.adopt_stream(ours.into()).unwrap();
    theirs.write_all(b"still here").unwrap();
    let mut arrivals = Arrivals::new();
    while arrivals.is_empty() {
        driver.reap(driver.precise() + Duration::from_secs(1), &mut arrivals);
    }
    drop(driver);
    let Some(Event::Bytes { bytes, .. }) = arrivals.iter().next() else { panic!("bytes came") };
    assert_eq!(bytes, b"still here");
}
