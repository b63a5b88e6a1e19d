//! The blocking client against a scripted node.

mod script;

use call::frame::{self, Header};
use call::{FunctionId, Kind, Status, VerdictCode};
use millrace_client::blocking::Client;
use millrace_client::sender::{Sender, Template};
use millrace_client::{Endpoint, Error, Event, IdSource, Options};
use script::{Node, Peer};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

const ECHO: FunctionId = FunctionId(9);
/// Longer than any of these tests takes on a loaded machine; nothing waits for it to pass.
const LONG: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { patience: LONG, ..Options::default() }
}

fn connect(node: &Node) -> Client {
    Client::connect(&node.endpoint, options()).unwrap()
}

#[test]
fn verdicts_in_any_order_and_frame_find_their_calls() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let mut calls = peer.submits(1000);
        calls.reverse();
        let (refused, accepted) = calls.split_at(10);
        peer.verdicts(refused, VerdictCode::UnknownFunction, 0);
        for some in accepted.chunks(77) {
            peer.verdicts(some, VerdictCode::Accepted, 0);
        }
        peer.until_closed();
    });
    let mut client = connect(&node);
    assert_eq!(client.node().unwrap().incarnation, 3);
    let calls: Vec<_> = (0..1000).map(|_| client.call(ECHO, b"x")).collect();
    let receipts = client.submit_batch(&calls).unwrap();
    assert!(calls.iter().zip(&receipts).all(|(call, receipt)| call.call == receipt.call));
    let refused = receipts.iter().position(|r| r.code == VerdictCode::UnknownFunction);
    assert_eq!((refused, receipts.len(), client.unacknowledged()), (Some(990), 1000, 0));
    drop(client);
    node.end();
}

#[test]
fn a_window_is_never_exceeded() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        for _ in 0..10 {
            let calls = peer.submits(8);
            peer.0.set_nonblocking(true).unwrap();
            let more = peer.0.read(&mut [0; 1]);
            assert!(more.is_err(), "a ninth call came before a verdict");
            peer.0.set_nonblocking(false).unwrap();
            peer.verdicts(&calls, VerdictCode::Accepted, 0);
        }
        peer.until_closed();
    });
    let mut client = Client::connect(&node.endpoint, Options { window: 8, ..options() }).unwrap();
    let calls: Vec<_> = (0..80).map(|_| client.call(ECHO, b"")).collect();
    assert_eq!(client.submit_batch(&calls).unwrap().len(), 80);
    drop(client);
    node.end();
}

#[test]
fn a_broken_connection_is_made_again_and_the_rest_resubmitted_under_the_same_ids() {
    let node = Node::play(|listener| {
        let mut first = Peer::greet(&listener);
        let before = first.submits(6);
        first.verdicts(&before[..2], VerdictCode::Accepted, 0);
        first.outcome(before[0], Status::Ok, b"early");
        drop(first);
        let mut second = Peer::greet(&listener);
        let after = second.submits(5);
        assert_eq!(
            after,
            before[1..],
            "the one with its outcome is settled; its neighbour's is still wanted"
        );
        second.verdicts(&after, VerdictCode::Duplicate, 0);
        for call in after {
            second.outcome(call, Status::Ok, b"late");
        }
        second.until_closed();
    });
    let mut client = connect(&node);
    let calls: Vec<_> = (0..6).map(|_| client.call(ECHO, b"payload")).collect();
    for call in &calls {
        client.enqueue(&call::body::Submit { want_outcome: true, ..*call }).unwrap();
    }
    let (mut verdicts, mut outcomes) = (0, Vec::new());
    while outcomes.len() < 6 {
        match client.next(LONG).unwrap().unwrap() {
            Event::Verdict(receipt) => {
                assert!(receipt.code.is_held());
                verdicts += 1;
            }
            Event::Outcome(outcome) => outcomes.push(outcome),
        }
    }
    assert_eq!((verdicts, &outcomes[0].output[..], client.outstanding()), (6, &b"early"[..], 0));
    drop(client);
    node.end();
}

#[test]
fn full_slows_down_and_a_lasting_refusal_is_an_error() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let call = peer.submits(1);
        peer.verdicts(&call, VerdictCode::Full, 20);
        assert_eq!(peer.submits(1), call, "the same call again");
        peer.verdicts(&call, VerdictCode::Accepted, 0);
        let call = peer.submits(1);
        peer.verdicts(&call, VerdictCode::BadTime, 0);
        peer.until_closed();
    });
    let mut client = connect(&node);
    let call = client.call(ECHO, b"");
    assert_eq!(client.submit(&call).unwrap().code, VerdictCode::Accepted);
    let call = client.call(ECHO, b"");
    let error = client.submit(&call).unwrap_err();
    assert!(matches!(error, Error::Refused { code: VerdictCode::BadTime, .. }), "{error}");
    drop(client);
    node.end();
}

#[test]
fn impatience_hands_full_on_and_gives_a_lost_node_up() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let call = peer.submits(1);
        peer.verdicts(&call, VerdictCode::Full, 20);
        peer.submits(1);
        drop(peer);
        drop(listener);
    });
    let mut client =
        Client::connect(&node.endpoint, Options { patience: Duration::ZERO, ..options() }).unwrap();
    let call = client.call(ECHO, b"");
    let error = client.submit(&call).unwrap_err();
    assert!(matches!(error, Error::Refused { code: VerdictCode::Full, .. }), "{error}");
    let call = client.call(ECHO, b"");
    let error = client.submit(&call).unwrap_err();
    assert!(matches!(error, Error::Lost { unacknowledged: 1, .. }), "{error}");
    node.end();
}

#[test]
fn waiting_for_an_outcome_may_end_without_one() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let call = peer.submits(1);
        peer.verdicts(&call, VerdictCode::Accepted, 0);
        peer.until_closed();
    });
    let mut client = connect(&node);
    let call = client.call(ECHO, b"");
    let error = client.run(&call, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, Error::TimedOut(id) if id == call.call), "{error}");
    drop(client);
    node.end();
}

#[test]
fn a_peer_that_is_no_node_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
    let http = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .unwrap();
        let _ = stream.read(&mut [0; 1000]);
    });
    let error = Client::connect(&endpoint, options()).unwrap_err();
    assert!(error.to_string().contains("is this the right port?"), "{error}");
    http.join().unwrap();
    let error = Client::connect(&"unix:/nonexistent/submit.sock".parse().unwrap(), options()).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[test]
fn a_node_that_talks_nonsense_later_is_left_at_once() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        peer.submits(1);
        peer.send(|out| frame::append(out, &Header::new(Kind::Verdicts), b"not an archive at all....."));
        peer.until_closed();
    });
    let mut client = connect(&node);
    let call = client.call(ECHO, b"");
    let error = client.submit(&call).unwrap_err();
    assert!(matches!(error, Error::Malformed(_)), "{error}");
    node.end();
}

#[test]
fn too_large_arguments_are_refused_before_they_are_sent() {
    let node = Node::play(|listener| Peer::greet(&listener).until_closed());
    let mut client = connect(&node);
    let large = vec![0; call::limits::ARGUMENTS_BYTES_MAX + 1];
    let call = client.call(ECHO, &large);
    assert!(matches!(client.submit(&call), Err(Error::TooLarge(_))));
    assert_eq!(client.outstanding(), 0);
    drop(client);
    node.end();
}

#[test]
fn the_sender_writes_the_same_frames() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let calls = peer.submits(100);
        let (header, body) = peer.frame();
        assert_eq!((header.stamp, header.function, header.flags), (77, ECHO, frame::flag::WANT_OUTCOME));
        let mut aligned = frame::FrameBuf::new();
        aligned.extend_from_slice(&body);
        assert_eq!(&*call::body::arguments(&aligned).unwrap().payload, b"payload");
        peer.verdicts(&calls, VerdictCode::Accepted, 0);
        peer.until_closed();
    });
    let mut ids = IdSource::new();
    let mut sender = Sender::connect(&node.endpoint, "load").unwrap();
    let like = call::body::Submit {
        call: ids.next_id(),
        function: ECHO,
        start_at: call::WallTime(0),
        deadline: call::WallTime(0),
        criticality: 0,
        want_outcome: true,
        arguments: call::Arguments { payload: b"payload", attributes: &[] },
        ..call::body::Submit::default()
    };
    let template = Template::new(&like).unwrap();
    for _ in 0..100 {
        template.append(sender.frames(), ids.next_id(), call::WallTime(0));
    }
    template.append(sender.frames(), ids.next_id(), call::WallTime(77));
    while !sender.flush().unwrap() {
        sender.wait(LONG).unwrap();
    }
    let mut verdicts = 0;
    while verdicts < 100 {
        sender.wait(LONG).unwrap();
        sender.receive(|frame| verdicts += call::body::verdicts(frame.body()).unwrap().len()).unwrap();
    }
    drop(sender);
    node.end();
}
