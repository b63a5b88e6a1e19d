//! Byte streams: what arrives is what was sent, cut anywhere; flow control, both kinds of end, listeners.

use crate::{Ground, Pair, Seen, Side, closed, pattern};
use driver::{Closed, ConnectionId, Driver, Endpoint, ListenerId, SendError};

/// A server and a client with one byte stream between them, and the listener.
fn pair<G: Ground>(ground: &mut G) -> (Pair<G::Driver>, ListenerId) {
    let (mut server, client) = (Side::new(ground.driver()), Side::new(ground.driver()));
    let listener = server.driver.listen_bytes(&ground.endpoint()).expect("a free endpoint");
    let at = server.driver.local(listener);
    let nobody = ConnectionId(u64::MAX);
    let mut pair = Pair { server, client, accepted: nobody, connected: nobody, at };
    (pair.accepted, pair.connected) = connect(&mut pair);
    (pair, listener)
}

/// Connects once more: the stream as server and client name it.
fn connect<D: Driver>(pair: &mut Pair<D>) -> (ConnectionId, ConnectionId) {
    let before = pair.server.seen.len();
    let connected = pair.client.driver.connect_bytes(&pair.at).expect("a byte stream");
    let accepted = |seen: &[Seen]| {
        seen[before..].iter().find_map(|seen| match seen {
            Seen::Accepted(_, connection) => Some(*connection),
            _ => None,
        })
    };
    pair.until("a stream", |server, client| {
        accepted(server).is_some() && client.contains(&Seen::Connected(connected))
    });
    (accepted(&pair.server.seen).expect("waited for"), connected)
}

/// All bytes of a stream so far.
pub fn bytes(seen: &[Seen], of: ConnectionId) -> Vec<u8> {
    let pieces = seen.iter().filter_map(|seen| match seen {
        Seen::Bytes(connection, bytes) if *connection == of => Some(bytes.as_slice()),
        _ => None,
    });
    pieces.flatten().copied().collect()
}

fn count(seen: &[Seen], of: ConnectionId) -> usize {
    let length = |seen: &Seen| match seen {
        Seen::Bytes(connection, bytes) if *connection == of => bytes.len(),
        _ => 0,
    };
    seen.iter().map(length).sum()
}

/// Sends from the client; a full queue is waited for.
fn send_all<D: Driver>(pair: &mut Pair<D>, bytes: &[u8]) {
    while let Err(error) = pair.client.driver.send(pair.connected, bytes) {
        assert_eq!(error, SendError::Full, "{:?}", pair.client.closed(pair.connected));
        pair.client.reap();
        pair.server.reap();
    }
}

/// Pieces of all sizes, none a whole number of frames, arrive as one row of bytes.
pub fn bytes_arrive_in_order<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let mut sent = Vec::new();
    for piece in 0..600 {
        let bytes = pattern(piece, 1 + (piece as usize * 37) % 3001);
        send_all(&mut pair, &bytes);
        sent.extend_from_slice(&bytes);
    }
    let accepted = pair.accepted;
    pair.until("all bytes", |server, _| count(server, accepted) >= sent.len());
    assert!(bytes(&pair.server.seen, accepted) == sent, "bytes changed on their way");
}

/// One send may be larger than every buffer there is.
pub fn a_large_send_arrives<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let body = pattern(8, 7_000_001);
    pair.client.driver.send(pair.connected, &body).expect("an empty queue takes any");
    let accepted = pair.accepted;
    pair.until("all bytes", |server, _| count(server, accepted) >= body.len());
    assert!(bytes(&pair.server.seen, accepted) == body, "bytes changed on their way");
}

/// What looks like a frame, or the begin of one, is bytes like any others.
pub fn frames_are_bytes_here<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let mut sent = crate::frame(1, b"whole").to_vec();
    sent.extend_from_slice(&crate::frame(2, b"cut off")[..50]);
    pair.client.driver.send(pair.connected, &sent).expect("room");
    pair.client.driver.close(pair.connected);
    let accepted = pair.accepted;
    pair.until("the end", |server, _| closed(server, accepted).is_some());
    assert!(bytes(&pair.server.seen, accepted) == sent, "bytes changed on their way");
    assert_eq!(pair.server.closed(accepted), Some(Closed::Peer));
    pair.server.check_last(accepted);
}

/// An answer to each piece, both ways many times.
pub fn a_dialogue_goes_on<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    for turn in 1..100 {
        pair.client.driver.send(connected, b"ask").expect("room");
        pair.until("a question", |server, _| count(server, accepted) == turn * 3);
        pair.server.driver.send(accepted, b"reply").expect("room");
        pair.until("an answer", |_, client| count(client, connected) == turn * 5);
    }
}

/// A receiver that does not reap fills the sender's queue, which says so, loses nothing, and has room later.
pub fn a_full_queue_says_so_and_then_has_room<G: Ground>(ground: &mut G) {
    const ENOUGH: usize = 1024;
    let (mut pair, _) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    let piece = pattern(5, 65_001);
    let mut sent = Vec::new();
    while pair.client.driver.send(connected, &piece).is_ok() {
        sent.extend_from_slice(&piece);
        assert!(sent.len() < ENOUGH * piece.len(), "a queue that takes 64 MiB has no bound");
        pair.client.reap();
    }
    assert_eq!(pair.client.driver.send(connected, &piece), Err(SendError::Full));
    pair.until("room", |_, client| client.contains(&Seen::Room(connected)));
    pair.client.driver.send(connected, b"!").expect("room was promised");
    sent.push(b'!');
    pair.until("all that was taken", |server, _| count(server, accepted) >= sent.len());
    assert!(bytes(&pair.server.seen, accepted) == sent, "refused bytes were sent, or some were lost");
}

/// What was queued before a close arrives; then both sides see the end, and nothing after it.
pub fn a_close_sends_what_is_queued_first<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    let body = pattern(1, 100_003);
    pair.client.driver.send(connected, &body).expect("an empty queue takes any");
    pair.client.driver.close(connected);
    assert_eq!(pair.client.driver.send(connected, b"late"), Err(SendError::Closed));
    pair.until("both ends", |server, client| {
        closed(server, accepted).is_some() && closed(client, connected).is_some()
    });
    pair.settle();
    assert!(bytes(&pair.server.seen, accepted) == body, "queued bytes are sent before the end");
    assert_eq!(pair.server.closed(accepted), Some(Closed::Peer));
    assert_eq!(pair.client.closed(connected), Some(Closed::Here));
    pair.server.check_last(accepted);
    pair.client.check_last(connected);
    assert_eq!(pair.server.driver.send(accepted, b"late"), Err(SendError::Closed));
}

/// A side that has finished takes no more from its caller; the other learns of it behind all bytes.
pub fn a_finished_side_has_said_everything<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    let body = pattern(2, 30_001);
    pair.server.driver.send(accepted, b"before").expect("room");
    pair.until("what came before", |_, client| count(client, connected) == 6);
    pair.client.driver.send(connected, &body).expect("room");
    pair.client.driver.finish(connected);
    assert_eq!(pair.client.driver.send(connected, b"late"), Err(SendError::Closed));
    pair.until("both ends", |server, client| {
        closed(server, accepted).is_some() && closed(client, connected).is_some()
    });
    pair.settle();
    assert!(bytes(&pair.server.seen, accepted) == body, "queued bytes are sent before the end");
    assert_eq!(pair.server.closed(accepted), Some(Closed::Peer));
    assert_eq!(pair.client.closed(connected), Some(Closed::Peer), "it was not closed here");
    pair.server.check_last(accepted);
    pair.client.check_last(connected);
}

/// An abort does not wait for a peer that takes nothing.
pub fn an_abort_does_not_wait<G: Ground>(ground: &mut G) {
    let (mut pair, _) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    let body = pattern(3, 60_000);
    while pair.client.driver.send(connected, &body).is_ok() {
        pair.client.reap();
    }
    pair.client.driver.abort(connected);
    assert_eq!(pair.client.driver.send(connected, b"late"), Err(SendError::Closed));
    pair.client.until("its own end", |client| closed(client, connected).is_some());
    assert_eq!(pair.client.closed(connected), Some(Closed::Here));
    pair.client.check_last(connected);
    pair.until("the peer's end", |server, _| closed(server, accepted).is_some());
    pair.server.check_last(accepted);
}

/// A paused stream brings nothing more and slows its sender down; resumed, it brings everything.
pub fn a_paused_stream_waits<G: Ground>(ground: &mut G) {
    const ENOUGH: usize = 1024;
    let (mut pair, _) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.server.driver.pause(accepted);
    pair.settle();
    let piece = pattern(5, 65_001);
    let mut sent = Vec::new();
    while pair.client.driver.send(connected, &piece).is_ok() {
        sent.extend_from_slice(&piece);
        assert!(sent.len() < ENOUGH * piece.len(), "a paused stream took 64 MiB");
        pair.client.reap();
        pair.server.reap();
    }
    assert_eq!(count(&pair.server.seen, accepted), 0, "bytes came though they were not wanted");
    let (other, there) = connect(&mut pair);
    pair.client.driver.send(there, b"not paused").expect("room");
    pair.until("bytes of another stream", |server, _| count(server, other) == 10);
    for _ in 0..3 {
        pair.server.driver.resume(accepted);
        pair.server.driver.pause(accepted);
    }
    pair.server.driver.resume(accepted);
    pair.until("everything", |server, _| count(server, accepted) >= sent.len());
    assert!(bytes(&pair.server.seen, accepted) == sent, "bytes changed while they waited");
}

/// Each of many streams keeps its own bytes, and its own end.
pub fn streams_do_not_mix<G: Ground>(ground: &mut G) {
    const STREAMS: usize = 40;
    let (mut pair, _) = pair(ground);
    let all: Vec<_> = (0..STREAMS).map(|_| connect(&mut pair)).collect();
    let body = |stream: usize| pattern(stream as u64, 20_000 + stream);
    for part in 0..4 {
        for (stream, (_, connected)) in all.iter().enumerate() {
            let body = body(stream);
            let quarter = body.len() / 4;
            let to = if part == 3 { body.len() } else { (part + 1) * quarter };
            pair.client.driver.send(*connected, &body[part * quarter..to]).expect("room");
        }
        pair.client.reap();
    }
    pair.client.driver.close(all[3].1);
    pair.until("all bytes", |server, _| {
        all.iter().enumerate().all(|(stream, (accepted, _))| count(server, *accepted) >= body(stream).len())
    });
    pair.until("one end", |server, _| closed(server, all[3].0).is_some());
    for (stream, (accepted, connected)) in all.iter().enumerate() {
        assert!(bytes(&pair.server.seen, *accepted) == body(stream), "bytes of another stream");
        assert_eq!(pair.server.closed(*accepted).is_some(), stream == 3);
        assert_eq!(pair.client.driver.send(*connected, b"there?").is_ok(), stream != 3);
    }
}

/// Many that say much at once all get through, though they share the memory that receives.
pub fn no_stream_starves<G: Ground>(ground: &mut G) {
    const STREAMS: usize = 24;
    const EACH: usize = 1 << 20;
    let (mut pair, _) = pair(ground);
    let all: Vec<_> = (0..STREAMS).map(|_| connect(&mut pair)).collect();
    let body = pattern(4, EACH);
    for (_, connected) in &all {
        pair.client.driver.send(*connected, &body).expect("an empty queue takes any");
    }
    pair.until("all bytes", |server, _| all.iter().all(|(accepted, _)| count(server, *accepted) == EACH));
    for (accepted, _) in &all {
        assert!(bytes(&pair.server.seen, *accepted) == body, "bytes changed on their way");
    }
}

/// A closed listener accepts nobody, its place is free, and what it accepted goes on.
pub fn a_closed_listener_is_gone<G: Ground>(ground: &mut G) {
    let (mut pair, listener) = pair(ground);
    let (accepted, connected) = (pair.accepted, pair.connected);
    pair.server.driver.close_listener(listener);
    pair.settle();
    let refused = pair.client.driver.connect_bytes(&pair.at).expect("a byte stream");
    pair.until("a refusal", |_, client| closed(client, refused).is_some());
    assert_eq!(pair.server.seen.iter().filter(|seen| matches!(seen, Seen::Accepted(..))).count(), 1);
    pair.client.driver.send(connected, b"still there").expect("room");
    pair.until("bytes", |server, _| count(server, accepted) == 11);
    pair.server.driver.close_listener(listener);
    let again = pair.server.driver.listen_bytes(&pair.at).expect("the place is free");
    assert_ne!(again, listener, "a name is not given twice");
    connect(&mut pair);
}

/// A stream to nobody ends with an errno, once.
pub fn nobody_listens<G: Ground>(ground: &mut G) {
    let mut side = Side::new(ground.driver());
    let connection = side.driver.connect_bytes(&ground.endpoint()).expect("a byte stream");
    let _ = side.driver.send(connection, b"to nobody");
    side.until("the end", |seen| closed(seen, connection).is_some());
    assert!(matches!(side.closed(connection), Some(Closed::Io(errno)) if errno > 0), "{:?}", side.seen);
    side.check_last(connection);
}

/// Shared memory carries frames only, and says so.
pub fn shared_memory_carries_no_bytes<G: Ground>(ground: &mut G) {
    let at: Endpoint = "shm:/run/none.shm".parse().expect("an endpoint");
    let mut driver = ground.driver();
    let error = driver.connect_bytes(&at).expect_err("frames only");
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    assert_eq!(driver.listen_bytes(&at).expect_err("frames only").kind(), std::io::ErrorKind::Unsupported);
}
