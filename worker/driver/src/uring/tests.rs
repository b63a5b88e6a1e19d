//! Two drivers talk over real sockets and shared memory; one writes real files.

use super::*;
use crate::Event;
use crate::seam::Closed;
use crate::shm::handover;
use crate::shm::segment::Segment;
use crate::shm::spsc::{Link, Side};
use call::frame::{FrameBuf, Header, Kind, append};
use call::limits::BODY_BYTES_MAX;
use std::os::fd::AsFd;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options { blocks: 8, block_bytes: 64 << 10, ..Options::default() }
}

fn frame(stamp: u64, body: &[u8]) -> FrameBuf {
    let mut out = FrameBuf::new();
    append(&mut out, &Header { stamp, ..Header::new(Kind::Outcome) }, body);
    out
}

/// What one side has seen, copied out.
#[derive(Default)]
struct Seen {
    accepted: Vec<ConnectionId>,
    connected: Vec<ConnectionId>,
    frames: Vec<(u64, Vec<u8>)>,
    rooms: usize,
    closed: Vec<Closed>,
    disk: Vec<(Token, Result<usize, i32>)>,
    files: Vec<Result<FileId, i32>>,
    directory: Vec<(Token, Result<(), i32>)>,
}

struct Party {
    driver: Uring,
    arrivals: Arrivals,
    seen: Seen,
}

impl Party {
    fn new(options: Options) -> Party {
        Party { driver: Uring::new(options).unwrap(), arrivals: Arrivals::new(), seen: Seen::default() }
    }

    fn round(&mut self, sleep: Duration) {
        let until = self.driver.precise() + sleep;
        self.driver.reap(until, &mut self.arrivals);
        for event in self.arrivals.iter() {
            match event {
                Event::Accepted { connection, .. } => self.seen.accepted.push(connection),
                Event::Connected { connection } => self.seen.connected.push(connection),
                Event::Frame { frame, .. } => self.seen.frames.push((frame.stamp(), frame.body().to_vec())),
                Event::Bytes { .. } | Event::Message { .. } => unreachable!("frames only"),
                Event::Room { .. } => self.seen.rooms += 1,
                Event::Closed { reason, .. } => self.seen.closed.push(reason),
                Event::Written { token, result } => self.seen.disk.push((token, result.map(|()| 0))),
                Event::Read { token, result } => self.seen.disk.push((token, result)),
                Event::Created { result, .. } => self.seen.files.push(result),
                Event::Directory { token, result } => self.seen.directory.push((token, result)),
            }
        }
    }
}

/// Both take turns until `done`.
fn until(a: &mut Party, b: &mut Party, mut done: impl FnMut(&Seen, &Seen) -> bool) {
    let stop = std::time::Instant::now() + PATIENCE;
    while !done(&a.seen, &b.seen) {
        assert!(std::time::Instant::now() < stop, "nothing more happens");
        a.round(Duration::from_micros(200));
        b.round(Duration::from_micros(200));
    }
}

fn endpoints(dir: &TempDir) -> [Endpoint; 3] {
    [
        "tcp:127.0.0.1:0".parse().unwrap(),
        Endpoint::Unix(dir.path().join("unix")),
        Endpoint::Shm(dir.path().join("shm")),
    ]
}

/// A listening party, a connected one, and the ids of the connection on each side.
fn connect(at: &Endpoint, options: &Options) -> (Party, Party, ConnectionId, ConnectionId) {
    let (mut server, mut client) = (Party::new(options.clone()), Party::new(options.clone()));
    let listener = server.driver.listen(at).unwrap();
    let at = server.driver.local(listener);
    let there = client.driver.connect(&at);
    until(&mut server, &mut client, |s, c| s.accepted.len() == 1 && c.connected.len() == 1);
    let here = server.seen.accepted[0];
    (server, client, here, there)
}

#[test]
fn frames_of_all_sizes_arrive_in_order_both_ways_on_each_transport() {
    let dir = tempfile::tempdir().unwrap();
    for at in endpoints(&dir) {
        let (mut server, mut client, here, there) = connect(&at, &options());
        let sizes = [0usize, 1, 15, 16, 100, 4096, 65_000, 65_537, 300_000, 2_000_000, BODY_BYTES_MAX, 7];
        for (index, size) in sizes.iter().enumerate() {
            let body: Vec<u8> = (0..*size).map(|n| (n % 253) as u8).collect();
            client.driver.send(there, &frame(index as u64, &body)).unwrap();
            let header = Header { stamp: index as u64, ..Header::new(Kind::Outcome) }.encode(&body);
            server.driver.send_parts(here, &header, &body).unwrap();
        }
        until(&mut server, &mut client, |s, c| {
            s.frames.len() == sizes.len() && c.frames.len() == sizes.len()
        });
        for (index, (stamp, body)) in server.seen.frames.iter().enumerate() {
            assert_eq!((*stamp, body.len()), (index as u64, sizes[index]), "{at}");
            assert!(body.iter().enumerate().all(|(n, byte)| *byte == (n % 253) as u8), "{at}");
        }
        assert_eq!(server.seen.frames, client.seen.frames);
    }
}

#[test]
fn many_small_frames_survive_a_full_queue_and_room_comes() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { send_queue_bytes: 64 << 10, shm_ring_bytes: 4096, ..options() };
    for at in endpoints(&dir) {
        let (mut server, mut client, _, there) = connect(&at, &small);
        let (mut sent, mut refused) = (0u64, 0);
        let stop = std::time::Instant::now() + PATIENCE;
        while server.seen.frames.len() < 20_000 {
            assert!(std::time::Instant::now() < stop, "{at}: stuck at {}", server.seen.frames.len());
            while sent < 20_000 {
                match client.driver.send(there, &frame(sent, &sent.to_le_bytes())) {
                    Ok(()) => sent += 1,
                    Err(SendError::Full) => {
                        refused += 1;
                        break;
                    }
                    Err(SendError::Closed) => panic!("{at}: closed"),
                }
            }
            client.round(Duration::ZERO);
            server.round(Duration::ZERO);
        }
        assert!(
            server.seen.frames.iter().enumerate().all(|(index, (stamp, _))| *stamp == index as u64),
            "{at}"
        );
        assert!(refused > 0 && client.seen.rooms > 0, "{at}: the queue was never full");
    }
}

#[test]
fn what_was_queued_before_the_connection_stands_is_sent_and_close_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    for at in endpoints(&dir) {
        let (mut server, mut client) = (Party::new(options()), Party::new(options()));
        let listener = server.driver.listen(&at).unwrap();
        let there = client.driver.connect(&server.driver.local(listener));
        client.driver.send(there, &frame(1, &[5; 500_000])).unwrap();
        client.driver.close(there);
        assert_eq!(client.driver.send(there, &frame(2, b"late")), Err(SendError::Closed));
        until(&mut server, &mut client, |s, c| s.closed.len() == 1 && c.closed.len() == 1);
        assert_eq!((server.seen.frames.len(), server.seen.frames[0].1.len()), (1, 500_000), "{at}");
        assert_eq!((&server.seen.closed[0], &client.seen.closed[0]), (&Closed::Peer, &Closed::Here), "{at}");
    }
}

#[test]
fn a_dropped_driver_is_a_closed_peer_and_its_slot_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    for at in endpoints(&dir) {
        let (mut server, client, _, _) = connect(&at, &options());
        let at = server.driver.local(ListenerId(0));
        drop(client);
        for round in 1..6 {
            let mut client = Party::new(options());
            until(&mut server, &mut client, |s, _| s.closed.len() == round);
            let there = client.driver.connect(&at);
            client.driver.send(there, &frame(round as u64, b"again")).unwrap();
            until(&mut server, &mut client, |s, _| s.frames.len() == round);
        }
        assert!(server.seen.closed.iter().all(|reason| *reason == Closed::Peer), "{at}");
        assert!(server.driver.connections.len() <= 2, "{at}: slots are used again");
        let mut ids = server.seen.accepted.clone();
        ids.dedup();
        assert_eq!(ids.len(), server.seen.accepted.len(), "{at}: no id comes twice");
    }
}

#[test]
fn connecting_to_nobody_tells_why() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut client = Party::new(options());
    for (to, errno) in [
        (Endpoint::Tcp(closed), libc::ECONNREFUSED),
        (Endpoint::Unix(dir.path().join("none")), libc::ENOENT),
        (Endpoint::Shm(dir.path().join("none")), libc::ENOENT),
        (Endpoint::Unix("x".repeat(200).into()), libc::ENAMETOOLONG),
    ] {
        client.driver.connect(&to);
        let stop = std::time::Instant::now() + PATIENCE;
        while client.seen.closed.is_empty() && std::time::Instant::now() < stop {
            client.round(Duration::from_millis(1));
        }
        assert_eq!(client.seen.closed.pop(), Some(Closed::Io(errno)), "{to}");
    }
}

#[test]
fn a_stranger_is_closed_at_once_and_a_cut_off_frame_is_told() {
    use std::io::{Read, Write};
    let mut server = Party::new(options());
    let listener = server.driver.listen(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let Endpoint::Tcp(at) = server.driver.local(listener) else { unreachable!() };
    let mut stranger = std::net::TcpStream::connect(at).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    while server.seen.closed.is_empty() {
        server.round(Duration::from_millis(1));
    }
    assert!(matches!(server.seen.closed[0], Closed::Malformed(call::FrameError::Magic(_))));
    assert!(stranger.read(&mut [0; 1]).is_ok_and(|bytes| bytes == 0), "the stranger sees the end");

    let mut half = std::net::TcpStream::connect(at).unwrap();
    half.write_all(&frame(1, &[1; 100])[..90]).unwrap();
    drop(half);
    while server.seen.closed.len() < 2 {
        server.round(Duration::from_millis(1));
    }
    assert_eq!(server.seen.closed[1], Closed::CutOff);
}

#[test]
fn a_shm_stranger_without_memory_is_dropped_and_others_go_on() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shm");
    let (mut server, mut client, _, there) = connect(&Endpoint::Shm(path.clone()), &options());
    let mut stranger = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stranger.write_all(b"hello").unwrap();
    client.driver.send(there, &frame(1, b"still here")).unwrap();
    until(&mut server, &mut client, |s, _| s.frames.len() == 1);
    assert_eq!(server.seen.accepted.len(), 1);
}

/// A client of a shared-memory listener that can do what ours never does.
fn raw_link(path: &std::path::Path) -> (std::os::unix::net::UnixStream, Link) {
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    let (segment, memory) = Segment::create(4096).unwrap();
    handover::give(stream.as_fd(), &memory).unwrap();
    (stream, Link::new(segment, Side::Client))
}

#[test]
fn a_hostile_link_is_closed_with_its_reason_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shm");
    let (mut server, mut client, _, there) = connect(&Endpoint::Shm(path.clone()), &options());

    let (_stream, mut link) = raw_link(&path);
    link.write(&[0x55; 4000]).unwrap();
    link.publish();
    until(&mut server, &mut client, |s, _| s.closed.len() == 1);
    assert!(matches!(server.seen.closed[0], Closed::Malformed(call::FrameError::Magic(_))));

    let (_stream, link) = raw_link(&path);
    link.lie_about_tail(1 << 40);
    until(&mut server, &mut client, |s, _| s.closed.len() == 2);
    assert_eq!(server.seen.closed[1], Closed::Io(libc::EPROTO));

    let (stream, mut link) = raw_link(&path);
    link.write(&frame(1, &[3; 500])[..300]).unwrap();
    link.publish();
    drop((stream, link));
    until(&mut server, &mut client, |s, _| s.closed.len() == 3);
    assert_eq!(server.seen.closed[2], Closed::CutOff);

    client.driver.send(there, &frame(9, b"still here")).unwrap();
    until(&mut server, &mut client, |s, _| s.frames.len() == 1);
}

#[test]
fn a_successor_keeps_its_socket_when_the_predecessor_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unix");
    let mut first = Uring::new(options()).unwrap();
    first.listen(&Endpoint::Unix(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut second = Uring::new(options()).unwrap();
    second.listen(&Endpoint::Unix(path.clone())).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists(), "and removes it when it goes itself");
}

#[test]
fn a_sleeper_is_woken_by_shared_memory_and_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let sleepy = Options { spin: Duration::ZERO, ..options() };
    let (mut server, mut client, here, there) = connect(&Endpoint::Shm(dir.path().join("shm")), &sleepy);
    let started = std::time::Instant::now();
    server.round(Duration::from_millis(30));
    assert!(server.seen.frames.is_empty() && started.elapsed() >= Duration::from_millis(20));
    let at = server.driver.local(ListenerId(0));
    let thread = std::thread::spawn({
        let sleepy = sleepy.clone();
        move || {
            let mut other = Party::new(sleepy);
            let to = other.driver.connect(&at);
            while other.seen.connected.is_empty() {
                other.round(PATIENCE);
            }
            for index in 0..200 {
                other.driver.send(to, &frame(index, b"ping")).unwrap();
                while other.seen.frames.len() <= index as usize {
                    other.round(PATIENCE);
                }
            }
        }
    });
    // Both sides sleep for as long as they like: only the doorbells keep this going.
    while server.seen.accepted.len() < 2 {
        server.round(PATIENCE);
    }
    let other = server.seen.accepted[1];
    let mut answered = 0;
    loop {
        while answered < server.seen.frames.len() {
            server.driver.send(other, &frame(0, b"pong")).unwrap();
            answered += 1;
        }
        if answered == 200 {
            break;
        }
        server.round(PATIENCE);
    }
    server.round(Duration::ZERO);
    thread.join().unwrap();
    assert!(started.elapsed() < PATIENCE, "somebody slept through a doorbell");
    let _ = (here, there, &mut client);
}

// ---- disk ----

fn disk_party(dir: &TempDir, register_blocks: bool) -> Party {
    Party::new(Options { data_dir: Some(dir.path().to_owned()), register_blocks, ..options() })
}

fn wait_for(party: &mut Party, mut done: impl FnMut(&Seen) -> bool) {
    let stop = std::time::Instant::now() + PATIENCE;
    while !done(&party.seen) {
        assert!(std::time::Instant::now() < stop, "nothing more happens");
        party.round(Duration::from_millis(5));
    }
}

#[test]
fn a_file_is_made_of_zeros_written_with_several_in_flight_and_read_again() {
    for registered in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut party = disk_party(&dir, registered);
        party.driver.create("0.seg", 3 << 20, Token(9));
        wait_for(&mut party, |seen| seen.files.len() == 1);
        let file = party.seen.files[0].unwrap();
        assert_eq!(party.driver.files().unwrap(), [("0.seg".to_owned(), 3 << 20)]);
        for index in 0..4u64 {
            let block = party.driver.take_block().unwrap();
            party.driver.block(block).fill(index as u8 + 1);
            party.driver.write(file, index * 65_536, block, 65_536, Token(index));
        }
        wait_for(&mut party, |seen| seen.disk.len() == 4);
        assert!(party.seen.disk.iter().all(|(_, result)| result.is_ok()), "{:?}", party.seen.disk);
        let on_disk = std::fs::read(dir.path().join("0.seg")).unwrap();
        assert!(
            (0..4)
                .all(|index| on_disk[index * 65_536..][..65_536].iter().all(|byte| *byte == index as u8 + 1))
        );
        assert!(on_disk[4 * 65_536..].iter().all(|byte| *byte == 0));

        let mut again = disk_party(&dir, registered);
        let file = again.driver.open("0.seg").unwrap();
        let block = again.driver.take_block().unwrap();
        again.driver.read(file, 65_536, block, 65_536, Token(1));
        wait_for(&mut again, |seen| seen.disk.len() == 1);
        assert_eq!(again.seen.disk[0], (Token(1), Ok(65_536)));
        assert!(again.driver.block(block).iter().all(|byte| *byte == 2));
        again.driver.read(file, 3 << 20, block, 4096, Token(2));
        wait_for(&mut again, |seen| seen.disk.len() == 2);
        assert_eq!(again.seen.disk[1], (Token(2), Ok(0)), "the end of the file");
        again.driver.remove(file, "0.seg", Token(3));
        wait_for(&mut again, |seen| seen.directory.len() == 1);
        assert_eq!(again.seen.directory[0], (Token(3), Ok(())));
        assert!(again.driver.files().unwrap().is_empty());
    }
}

/// How many of 2,000 frames each round brought, while a block was written.
fn rounds_beside_a_write(round_events: usize) -> Vec<usize> {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        data_dir: Some(dir.path().to_owned()),
        receive_buffer_bytes: 4096,
        round_events,
        ..options()
    };
    let (mut server, mut client, _, there) = connect(&Endpoint::Unix(dir.path().join("socket")), &options);
    server.driver.create("segment", 64 << 10, Token(1));
    wait_for(&mut server, |seen| seen.files.len() == 1);
    let (file, block) = (*server.seen.files[0].as_ref().unwrap(), server.driver.take_block().unwrap());
    (0..2_000).for_each(|n| client.driver.send(there, &frame(n, &[7; 100])).unwrap());
    client.round(Duration::ZERO);
    server.driver.write(file, 0, block, 4096, Token(2));
    let mut rounds = Vec::new();
    let stop = std::time::Instant::now() + PATIENCE;
    while server.seen.frames.len() < 2_000 || server.seen.disk.is_empty() {
        assert!(std::time::Instant::now() < stop, "nothing more happens");
        let before = server.seen.frames.len();
        server.round(Duration::from_micros(200));
        client.round(Duration::ZERO);
        rounds.push(server.seen.frames.len() - before);
    }
    assert!(server.seen.frames.iter().map(|(stamp, _)| *stamp).eq(0..2_000), "in their order");
    assert_eq!(server.seen.disk, [(Token(2), Ok(0))]);
    rounds
}

#[test]
fn a_round_ends_when_it_is_full_and_the_rest_comes_in_order_with_the_next() {
    // One read brings what fits a receive buffer, and is not divided.
    let one_read = 4096 / frame(0, &[7; 100]).len() + 1;
    let rounds = rounds_beside_a_write(4);
    assert!(rounds.iter().all(|frames| *frames <= 4 + one_read), "{rounds:?}");
    let rounds = rounds_beside_a_write(100_000);
    assert!(
        rounds.iter().any(|frames| *frames > 4 + one_read),
        "the bound is what kept them short: {rounds:?}"
    );
}

#[test]
fn an_existing_file_is_not_made_again_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("there"), "precious").unwrap();
    let mut party = disk_party(&dir, true);
    party.driver.create("there", 4096, Token(1));
    wait_for(&mut party, |seen| seen.files.len() == 1);
    assert_eq!(party.seen.files[0], Err(libc::EEXIST));
    assert_eq!(std::fs::read_to_string(dir.path().join("there")).unwrap(), "precious");
    let told = party.driver.open("missing").unwrap_err().to_string();
    assert!(told.contains("missing"), "{told}");
}

#[test]
fn a_file_that_cannot_be_reserved_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut party = disk_party(&dir, true);
    // Beyond what a file system addresses: refused before a block is taken, unlike one that only exceeds the disk.
    party.driver.create("huge", 1 << 60, Token(1));
    wait_for(&mut party, |seen| seen.files.len() == 1);
    let error = party.seen.files[0].unwrap_err();
    assert!([libc::ENOSPC, libc::EFBIG].contains(&error), "{error}");
    assert!(party.driver.files().unwrap().is_empty());
}

#[test]
fn blocks_are_a_fixed_supply() {
    let mut driver = Uring::new(options()).unwrap();
    let taken: Vec<BlockId> = std::iter::from_fn(|| driver.take_block()).collect();
    assert_eq!(taken.len(), 8);
    driver.give_block(taken[3]);
    assert_eq!(driver.take_block(), Some(taken[3]));
}

#[test]
#[should_panic(expected = "lend each reap the same")]
fn frames_that_are_still_lent_elsewhere_are_not_overwritten() {
    let (mut server, mut client, _, there) = connect(&"tcp:127.0.0.1:0".parse().unwrap(), &options());
    client.driver.send(there, &frame(1, b"lent")).unwrap();
    until(&mut server, &mut client, |s, _| !s.frames.is_empty());
    server.driver.tick(&mut Arrivals::new());
}

#[test]
fn the_port_of_a_dropped_driver_is_free_at_once() {
    let mut at: Endpoint = "tcp:127.0.0.1:0".parse().unwrap();
    for _ in 0..20 {
        let (server, _client, _, _) = connect(&at, &options());
        at = server.driver.local(ListenerId(0));
    }
}

#[test]
fn an_idle_byte_stream_costs_half_a_kibibyte() {
    assert!(size_of::<Connection>() <= 512, "{} bytes", size_of::<Connection>());
    let mut driver = Uring::new(options()).unwrap();
    let pairs: Vec<_> = (0..100).map(|_| std::os::unix::net::UnixStream::pair().unwrap()).collect();
    let mut others = Vec::new();
    for (ours, other) in pairs {
        driver.adopt_stream(ours.into()).unwrap();
        others.push(other);
    }
    let mut arrivals = Arrivals::new();
    for _ in 0..3 {
        driver.tick(&mut arrivals);
    }
    for connection in &driver.connections {
        assert!(connection.receiving && connection.buffers.is_none(), "it receives into memory of all");
        assert!(connection.outbox.is_empty() && connection.messages.is_none());
    }
}

#[test]
fn frames_outlive_the_driver_they_came_from() {
    let (mut server, mut client, _, there) = connect(&"tcp:127.0.0.1:0".parse().unwrap(), &options());
    client.driver.send(there, &frame(1, &[7; 1000])).unwrap();
    until(&mut server, &mut client, |s, _| !s.frames.is_empty());
    drop(server.driver);
    let bodies: Vec<&[u8]> = server
        .arrivals
        .iter()
        .filter_map(|event| if let Event::Frame { frame, .. } = event { Some(frame.body()) } else { None })
        .collect();
    assert_eq!(bodies, [&[7u8; 1000][..]]);
}
