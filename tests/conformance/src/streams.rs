//! Connections: order, sizes, flow control, ends.

use crate::{Ground, Pair, Seen, Side, closed, frame, pattern};
use call::FrameError;
use call::frame::{Header, Kind};
use call::limits::BODY_BYTES_MAX;
use driver::{Closed, ConnectionId, Driver, SendError};

/// Frames of many sizes arrive as sent, in order.
pub fn frames_keep_their_order<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let bodies: Vec<Vec<u8>> = (0..600).map(|n| pattern(n, (n as usize * 37) % 3000)).collect();
    for (stamp, body) in bodies.iter().enumerate() {
        send_all(&mut pair, stamp as u64, body);
    }
    let accepted = pair.accepted;
    pair.until("all frames", |server, _| count(server, accepted) == bodies.len());
    let frames = pair.server.seen.iter().filter_map(|seen| match seen {
        Seen::Frame(_, header, body) => Some((header.stamp, body)),
        _ => None,
    });
    for (expected, (stamp, body)) in frames.enumerate() {
        assert_eq!(stamp, expected as u64, "frames out of order");
        assert!(*body == bodies[expected], "body {expected} changed on its way");
    }
}

/// Sends from the client; a full queue is waited for.
fn send_all<D: Driver>(pair: &mut Pair<D>, stamp: u64, body: &[u8]) {
    while let Err(error) = pair.client.send(pair.connected, stamp, body) {
        assert_eq!(error, SendError::Full, "{:?}", pair.client.closed(pair.connected));
        pair.client.reap();
        pair.server.reap();
    }
}

fn count(seen: &[Seen], of: ConnectionId) -> usize {
    seen.iter().filter(|seen| matches!(seen, Seen::Frame(connection, ..) if *connection == of)).count()
}

/// A body of the greatest length passes, whole.
pub fn the_largest_frame_arrives<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let body = pattern(1, BODY_BYTES_MAX);
    pair.client.send(pair.connected, 1, &body).expect("an empty queue takes any frame");
    send_all(&mut pair, 2, b"after it");
    let accepted = pair.accepted;
    pair.until("both frames", |server, _| count(server, accepted) == 2);
    assert_eq!(pair.server.stamps(accepted), [1, 2]);
    let whole = |seen: &Seen| matches!(seen, Seen::Frame(_, _, got) if *got == body);
    assert!(pair.server.seen.iter().any(whole), "the body changed on its way");
}

/// `send_parts` makes the same stream as `send`, whatever the length of the body.
pub fn parts_are_joined_and_padded<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    for bytes in 0..200u64 {
        let body = pattern(bytes, bytes as usize);
        let header = Header { stamp: bytes, ..Header::new(Kind::Outcome) }.encode(&body);
        pair.client.driver.send_parts(pair.connected, &header, &body).expect("room for 30 KB");
    }
    let accepted = pair.accepted;
    pair.until("all frames", |server, _| count(server, accepted) == 200);
    for seen in &pair.server.seen {
        if let Seen::Frame(_, header, body) = seen {
            assert!(*body == pattern(header.stamp, header.stamp as usize));
        }
    }
}

/// Many frames in few rounds, several in one send.
pub fn many_small_frames_arrive<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    for first in (0..20_000).step_by(4) {
        let mut four = frame(first, b"small");
        (first + 1..first + 4).for_each(|stamp| four.extend_from_slice(&frame(stamp, b"small")));
        while pair.client.driver.send(pair.connected, &four) == Err(SendError::Full) {
            pair.client.reap();
            pair.server.reap();
        }
    }
    let accepted = pair.accepted;
    pair.until("20,000 frames", |server, _| count(server, accepted) == 20_000);
    assert!(pair.server.stamps(accepted).into_iter().eq(0..20_000), "frames out of order");
}

/// A receiver that does not reap fills the sender's queue, which says so, loses nothing, and has room later.
pub fn a_full_queue_says_so_and_then_has_room<G: Ground>(ground: &mut G) {
    const ENOUGH: u64 = 1024;
    let mut pair = Pair::on(ground);
    let body = pattern(5, 64 << 10);
    let mut taken = 0;
    while pair.client.send(pair.connected, taken, &body).is_ok() {
        taken += 1;
        assert!(taken < ENOUGH, "a queue that takes 64 MiB has no bound");
        pair.client.reap();
    }
    assert_eq!(pair.client.send(pair.connected, taken, &body), Err(SendError::Full));
    assert!(!pair.client.seen.contains(&Seen::Room(pair.connected)), "room before the peer took anything");
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.until("room", |_, client| client.contains(&Seen::Room(connected)));
    pair.client.send(connected, taken, &body).expect("room was promised");
    pair.until("all that was taken", |server, _| count(server, accepted) == taken as usize + 1);
    assert!(
        pair.server.stamps(accepted).into_iter().eq(0..=taken),
        "a refused frame was sent, or one was lost"
    );
}

/// What was queued before a close arrives; then both sides see the end, and nothing after it.
pub fn a_close_sends_what_is_queued_first<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    for stamp in 0..100 {
        pair.client.send(pair.connected, stamp, &pattern(stamp, 1000)).expect("room for 100 KB");
    }
    pair.client.driver.close(pair.connected);
    assert_eq!(pair.client.send(pair.connected, 100, b"late"), Err(SendError::Closed));
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.until("both ends", |server, client| {
        closed(server, accepted).is_some() && closed(client, connected).is_some()
    });
    pair.settle();
    assert_eq!(
        pair.server.stamps(accepted),
        (0..100).collect::<Vec<_>>(),
        "queued frames are sent before the end"
    );
    assert_eq!(pair.server.closed(accepted), Some(Closed::Peer));
    assert_eq!(pair.client.closed(connected), Some(Closed::Here));
    pair.server.check_last(accepted);
    pair.client.check_last(connected);
    assert_eq!(pair.server.send(accepted, 0, b""), Err(SendError::Closed));
    assert_eq!(pair.client.send(connected, 0, b""), Err(SendError::Closed));
}

/// The accepting side closes in the same way.
pub fn a_close_by_the_server_is_the_same<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.server.send(accepted, 7, b"last words").expect("room");
    pair.server.driver.close(accepted);
    pair.until("both ends", |server, client| {
        closed(server, accepted).is_some() && closed(client, connected).is_some()
    });
    pair.settle();
    assert_eq!(pair.client.stamps(connected), [7]);
    assert_eq!(pair.client.closed(connected), Some(Closed::Peer));
    assert_eq!(pair.server.closed(accepted), Some(Closed::Here));
    pair.server.check_last(accepted);
    pair.client.check_last(connected);
}

/// Two closes that cross on their way are two ends, one on each side.
pub fn both_sides_may_close_at_once<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.client.driver.close(connected);
    pair.server.driver.close(accepted);
    pair.until("both ends", |server, client| {
        closed(server, accepted).is_some() && closed(client, connected).is_some()
    });
    pair.settle();
    pair.server.check_last(accepted);
    pair.client.check_last(connected);
}

/// Sends a good frame and then these bytes; the server must see the frame, then an end of this kind.
fn malformed<G: Ground>(ground: &mut G, bytes: &[u8], is: impl Fn(&FrameError) -> bool) {
    let mut pair = Pair::on(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.client.send(connected, 1, b"good").expect("room");
    pair.client.driver.send(connected, bytes).expect("room");
    pair.until("both ends", |server, client| {
        closed(server, accepted).is_some() && closed(client, connected).is_some()
    });
    pair.settle();
    assert_eq!(pair.server.stamps(accepted), [1], "what came before is good, what comes after is nothing");
    match pair.server.closed(accepted) {
        Some(Closed::Malformed(error)) if is(&error) => {}
        other => panic!("ended with {other:?}"),
    }
    pair.server.check_last(accepted);
    pair.client.check_last(connected);
    let (again, _) = pair.connect();
    assert_ne!(again, accepted, "the listener goes on");
}

/// A flipped bit in a body.
pub fn a_wrong_checksum_ends_the_connection<G: Ground>(ground: &mut G) {
    let mut bytes = frame(2, &pattern(2, 500));
    bytes[100] ^= 4;
    bytes.extend_from_slice(&frame(3, b"too late"));
    malformed(ground, &bytes, |error| matches!(error, FrameError::Crc { .. }));
}

/// Bytes that are no frame at all.
pub fn another_protocol_ends_the_connection<G: Ground>(ground: &mut G) {
    let text = "GET / HTTP/1.1\r\nHost: somewhere.example.org\r\nAccept: text/html, text/plain\r\n\r\n";
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(96, b' ');
    malformed(ground, &bytes, |error| matches!(error, FrameError::Magic(magic) if magic == b"GET "));
}

/// A peer that closes inside a frame is not one that closes at its end.
pub fn half_a_frame_is_cut_off<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    let whole = frame(2, &pattern(2, 5000));
    pair.client.send(connected, 1, b"whole").expect("room");
    pair.client.driver.send(connected, &whole[..3200]).expect("room");
    pair.client.driver.close(connected);
    pair.until("the end", |server, _| closed(server, accepted).is_some());
    assert_eq!(pair.server.stamps(accepted), [1]);
    assert_eq!(pair.server.closed(accepted), Some(Closed::CutOff));
    pair.server.check_last(accepted);
}

/// A connection that cannot be made ends with an errno, once, and takes nothing after that.
pub fn nobody_listens<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let connection = side.driver.connect(&ground.endpoint());
    let _ = side.send(connection, 1, b"to nobody");
    side.until("the end", |seen| closed(seen, connection).is_some());
    assert!(matches!(side.closed(connection), Some(Closed::Io(errno)) if errno > 0), "{:?}", side.seen);
    (0..20).for_each(|_| side.reap());
    side.check_last(connection);
    assert!(!side.seen.contains(&Seen::Connected(connection)));
    assert_eq!(side.send(connection, 1, b"to nobody"), Err(SendError::Closed));
}

/// Frames sent before the connection stands arrive when it does.
pub fn sends_wait_for_the_connection<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let connected = pair.client.driver.connect(&pair.at);
    for stamp in 0..10 {
        pair.client.send(connected, stamp, b"early").expect("sends queue up");
    }
    let before = pair.accepted;
    let second = |server: &[Seen]| {
        server.iter().find_map(|seen| match seen {
            Seen::Accepted(_, connection) if *connection != before => Some(*connection),
            _ => None,
        })
    };
    pair.until("the early frames", |server, _| second(server).is_some_and(|of| count(server, of) == 10));
    let accepted = second(&pair.server.seen).expect("waited for");
    assert_eq!(pair.server.stamps(accepted), (0..10).collect::<Vec<_>>());
}

/// Each of several connections keeps its own frames, and its own end.
pub fn connections_do_not_mix<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let all: Vec<_> = (0..8).map(|_| pair.connect()).collect();
    for round in 0..50 {
        for (index, (_, connected)) in all.iter().enumerate() {
            let stamp = index as u64 * 1000 + round;
            pair.client.send(*connected, stamp, &pattern(stamp, 300)).expect("room for 20 KB");
        }
    }
    pair.client.driver.close(all[3].1);
    pair.until("all frames", |server, _| all.iter().all(|(accepted, _)| count(server, *accepted) == 50));
    pair.until("one end", |server, _| closed(server, all[3].0).is_some());
    for (index, (accepted, connected)) in all.iter().enumerate() {
        let first = index as u64 * 1000;
        assert_eq!(pair.server.stamps(*accepted), (first..first + 50).collect::<Vec<_>>());
        assert_eq!(pair.server.closed(*accepted).is_some(), index == 3);
        assert_eq!(pair.client.send(*connected, 0, b"still there?").is_ok(), index != 3);
    }
}

/// A new connection never has the name of an old one, so that a late use hits nobody.
pub fn a_name_is_not_given_twice<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let mut names = vec![(pair.accepted, pair.connected)];
    for _ in 0..20 {
        let (accepted, connected) = *names.last().expect("at least one");
        pair.client.driver.close(connected);
        pair.until("both ends", |server, client| {
            closed(server, accepted).is_some() && closed(client, connected).is_some()
        });
        names.push(pair.connect());
        for (accepted, connected) in &names[..names.len() - 1] {
            assert_eq!(pair.server.send(*accepted, 0, b"late"), Err(SendError::Closed));
            assert_eq!(pair.client.send(*connected, 0, b"late"), Err(SendError::Closed));
            pair.client.driver.close(*connected);
        }
    }
    let (accepted, connected) = *names.last().expect("at least one");
    pair.client.send(connected, 9, b"for the last").expect("the newest is open");
    pair.until("a frame", |server, _| count(server, accepted) == 1);
    assert_eq!(pair.server.closed(accepted), None);
}

/// The end of a process is the end of its connections.
pub fn a_peer_that_dies_is_noticed<G: Ground>(ground: &mut G) {
    let Pair { mut server, mut client, accepted, connected, .. } = Pair::on(ground);
    client.send(connected, 1, b"alive").expect("room");
    client.reap();
    server.until("a frame", |server| count(server, accepted) == 1);
    drop(client);
    server.until("the end", |server| closed(server, accepted).is_some());
    assert!(!matches!(server.closed(accepted), Some(Closed::Here | Closed::Malformed(_))));
    server.check_last(accepted);
}

/// A second listener at the same place is refused, and the first goes on.
pub fn an_endpoint_is_listened_at_once<G: Ground>(ground: &mut G) {
    let mut pair = Pair::on(ground);
    let mut other = ground.driver();
    assert!(other.listen(&pair.at).is_err(), "{} was listened at twice", pair.at);
    pair.connect();
}

/// Both sides send much at once; neither waits for the other to stop.
pub fn traffic_both_ways_at_once<G: Ground>(ground: &mut G) {
    const FRAMES: u64 = 300;
    let mut pair = Pair::on(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    let body = pattern(3, 8000);
    let (mut there, mut back) = (0, 0);
    while there < FRAMES || back < FRAMES {
        while there < FRAMES && pair.client.send(connected, there, &body).is_ok() {
            there += 1;
        }
        while back < FRAMES && pair.server.send(accepted, back, &body).is_ok() {
            back += 1;
        }
        pair.client.reap();
        pair.server.reap();
    }
    pair.until("all frames", |server, client| {
        count(server, accepted) == FRAMES as usize && count(client, connected) == FRAMES as usize
    });
    assert!(pair.server.stamps(accepted).into_iter().eq(0..FRAMES));
    assert!(pair.client.stamps(connected).into_iter().eq(0..FRAMES));
}
