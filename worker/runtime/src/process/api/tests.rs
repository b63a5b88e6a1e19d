//! The rules of the session, and that a stream has the same effects however it is cut.

use super::*;
use call::limits::OUTPUT_BYTES_MAX;
use proptest::prelude::*;

const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n";

fn id(number: u128) -> CallId {
    CallId(number)
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST /2018-06-01/runtime/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn response(call: u128, body: &str) -> String {
    post(&format!("invocation/{}/response", id(call)), body)
}

/// A session whose every `next` gets a call at once, numbered from 1, up to `calls`.
struct World {
    session: Session,
    given: u128,
    calls: u128,
    told: Vec<String>,
    sent: Vec<Vec<u8>>,
}

impl World {
    fn new(concurrent: u32, calls: u128) -> World {
        World {
            session: Session::new(concurrent, &Room::default()),
            given: 0,
            calls,
            told: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn open(&mut self) -> u16 {
        let at = self.session.open().expect("room");
        self.sent.resize(self.sent.len().max(usize::from(at) + 1), Vec::new());
        at
    }

    fn send(&mut self, at: u16, bytes: &[u8]) {
        let mut waits = 0;
        let World { session, told, .. } = self;
        session.receive(at, bytes, &mut |event| note(&event, told, &mut waits));
        self.settle(waits);
    }

    fn close(&mut self, at: u16) {
        let World { session, told, .. } = self;
        let mut waits = 0;
        session.closed(at, &mut |event| note(&event, told, &mut waits));
        self.settle(waits);
    }

    fn settle(&mut self, waits: u32) {
        let mut waits = waits;
        while waits > 0 && self.given < self.calls {
            self.given += 1;
            waits -= 1;
            let (at, out) = self.session.give(id(self.given));
            out.extend_from_slice(format!("<{}>", self.given).as_bytes());
            let World { session, told, .. } = self;
            session.advance(at, &mut |event| note(&event, told, &mut waits));
        }
        for (at, sent) in self.sent.iter_mut().enumerate() {
            let closes = self.session.flush(at as u16, |bytes| sent.extend_from_slice(bytes));
            if closes && !sent.ends_with(b"<close>") {
                sent.extend_from_slice(b"<close>");
            }
        }
    }

    fn sent(&self, at: u16) -> String {
        String::from_utf8_lossy(&self.sent[usize::from(at)]).into_owned()
    }
}

fn note(event: &Event<'_>, told: &mut Vec<String>, waits: &mut u32) {
    *waits += u32::from(*event == Event::Waits);
    told.push(match event {
        Event::Answered { call, output } => {
            format!("answered {} {}", call.0, String::from_utf8_lossy(output))
        }
        Event::Failed { call, kind, output } => {
            format!("failed {} {kind} {}", call.0, String::from_utf8_lossy(output))
        }
        Event::InitFailed { kind, output } => format!("init {kind} {}", String::from_utf8_lossy(output)),
        Event::TooLarge { call } => format!("large {}", call.0),
        Event::Truncated { call } => format!("truncated {}", call.0),
        Event::Skipped { call } => format!("skipped {}", call.0),
        Event::Misbehaved => "misbehaved".into(),
        Event::Waits => "waits".into(),
        Event::Left => "left".into(),
    });
}

fn statuses(sent: &str) -> Vec<u16> {
    sent.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().expect("a status")).collect()
}

#[test]
fn a_function_is_given_calls_and_answers_them() {
    let mut world = World::new(1, 2);
    let at = world.open();
    world.send(at, NEXT.as_bytes());
    assert_eq!(world.sent(at), "<1>");
    world.send(at, (response(1, "one") + NEXT).as_bytes());
    world.send(at, response(2, "").as_bytes());
    assert_eq!(world.told, ["waits", "answered 1 one", "waits", "answered 2 "]);
    assert_eq!(statuses(&world.sent(at)), [202, 202]);
}

#[test]
fn a_result_is_taken_once_and_for_calls_that_are_out_only() {
    let mut world = World::new(1, 1);
    let at = world.open();
    world.send(
        at,
        (NEXT.to_owned() + &response(7, "stolen") + &response(1, "x") + &response(1, "y")).as_bytes(),
    );
    world.send(at, post("invocation/../response", "z").as_bytes());
    assert_eq!(world.told, ["waits", "answered 1 x"]);
    assert_eq!(statuses(&world.sent(at)), [400, 202, 400, 400]);
    assert!(
        world
            .sent(at)
            .contains("{\"errorMessage\":\"Invalid request ID\",\"errorType\":\"InvalidRequestID\"}")
    );
}

#[test]
fn an_error_has_a_name_and_a_text() {
    let mut world = World::new(1, 1);
    let at = world.open();
    let head = format!("POST /2018-06-01/runtime/invocation/{}/error HTTP/1.1\r\n", id(1));
    let head = head + "lambda-runtime-function-error-type: Runtime.Boom\r\nContent-Length: 2\r\n\r\n{}";
    world.send(at, (NEXT.to_owned() + &head).as_bytes());
    assert_eq!(world.told, ["waits", "failed 1 Runtime.Boom {}"]);
}

#[test]
fn a_second_next_is_refused_and_ends_the_call() {
    let mut world = World::new(1, 9);
    let at = world.open();
    world.send(at, (NEXT.to_owned() + NEXT + &response(1, "late") + NEXT).as_bytes());
    assert_eq!(world.told, ["waits", "skipped 1", "waits"]);
    assert_eq!(statuses(&world.sent(at)), [403, 400]);
    assert!(world.sent(at).ends_with("<2>"));
}

#[test]
fn as_many_wait_at_once_as_may_run() {
    let mut world = World::new(2, 0);
    let places = [world.open(), world.open(), world.open()];
    for at in places {
        world.send(at, NEXT.as_bytes());
    }
    assert_eq!(world.told, ["waits", "waits"]);
    world.close(places[0]);
    assert_eq!(world.told.len(), 2, "another one waits in its place");
    world.close(places[2]);
    assert_eq!(world.told[2..], ["left"]);
    assert!(world.sent.iter().all(Vec::is_empty));
}

#[test]
fn who_asks_for_more_than_may_run_waits_until_one_has_ended() {
    let mut world = World::new(2, 9);
    let places = [world.open(), world.open(), world.open()];
    for at in places {
        world.send(at, NEXT.as_bytes());
    }
    assert_eq!((world.sent(places[1]).as_str(), world.sent(places[2]).as_str()), ("<2>", ""));
    world.send(places[0], response(1, "one").as_bytes());
    assert_eq!(world.told, ["waits", "waits", "answered 1 one", "waits"]);
    assert_eq!(world.sent(places[2]), "<3>");
    // By half a result, too.
    world.send(places[0], NEXT.as_bytes());
    let whole = response(2, "two");
    world.send(places[1], &whole.as_bytes()[..whole.len() - 1]);
    world.close(places[1]);
    assert_eq!(world.told[4..], ["truncated 2", "waits"]);
    assert!(world.sent(places[0]).ends_with("<4>"));
}

#[test]
fn a_result_that_is_too_long_is_told_at_once_and_answered_at_its_end() {
    for chunked in [false, true] {
        let mut world = World::new(1, 2);
        let at = world.open();
        let bytes = OUTPUT_BYTES_MAX + 1;
        let how =
            if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {bytes}") };
        let head =
            format!("POST /2018-06-01/runtime/invocation/{}/response HTTP/1.1\r\n{how}\r\n\r\n", id(1));
        world.send(at, (NEXT.to_owned() + &head).as_bytes());
        if chunked {
            world.send(at, format!("{bytes:x}\r\n").as_bytes());
        }
        world.send(at, &vec![b'x'; bytes - 1]);
        assert_eq!(world.told.last().unwrap(), if chunked { "waits" } else { "large 1" });
        world.send(at, if chunked { b"x\r\n0\r\n\r\n" } else { b"x" });
        world.send(at, NEXT.as_bytes());
        assert_eq!(world.told, ["waits", "large 1", "waits"]);
        assert_eq!(statuses(&world.sent(at)), [413]);
        assert!(world.sent(at).ends_with("<2>"), "the connection goes on");
    }
}

#[test]
fn a_result_that_never_ends_ends_the_connection() {
    let mut world = World::new(1, 1);
    let at = world.open();
    let head = format!("POST /2018-06-01/runtime/invocation/{}/response HTTP/1.1\r\n", id(1));
    world.send(at, (NEXT.to_owned() + &head + "Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
    for _ in 0..200 {
        world.send(at, &chunk);
        assert!(world.session.held_bytes() <= 2 * OUTPUT_BYTES_MAX);
    }
    assert_eq!(world.told, ["waits", "large 1"]);
    assert!(statuses(&world.sent(at)) == [413] && world.sent(at).ends_with("<close>"));
}

#[test]
fn half_a_result_and_the_end_ends_the_call() {
    let mut world = World::new(1, 1);
    let (at, other) = (world.open(), world.open());
    world.send(at, NEXT.as_bytes());
    let whole = response(1, "whole");
    world.send(other, &whole.as_bytes()[..whole.len() - 2]);
    world.close(other);
    world.close(other.min(at));
    assert_eq!(world.told, ["waits", "truncated 1"]);
}

#[test]
fn a_client_that_waits_for_a_word_gets_it() {
    let mut world = World::new(1, 1);
    let at = world.open();
    let head = format!("POST /2018-06-01/runtime/invocation/{}/response HTTP/1.1\r\n", id(1));
    world
        .send(at, (NEXT.to_owned() + &head + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n").as_bytes());
    assert_eq!(statuses(&world.sent(at)), [100]);
    world.send(at, b"ok");
    assert_eq!(world.told, ["waits", "answered 1 ok"]);
}

#[test]
fn init_fails_once_and_only_before_the_first_next() {
    let mut world = World::new(1, 1);
    let at = world.open();
    world.send(at, (post("init/error", "broken") + &post("init/error", "again")).as_bytes());
    assert_eq!(statuses(&world.sent(at)), [202, 403]);
    let mut world = World::new(1, 1);
    let at = world.open();
    world.send(at, (NEXT.to_owned() + &post("init/error", "late")).as_bytes());
    assert_eq!((&world.told[..], statuses(&world.sent(at))), (&["waits".to_owned()][..], vec![403]));
}

#[test]
fn what_is_no_request_ends_the_connection() {
    for (wrong, status) in [
        ("\x16\x03\x01\x02\x00\x01\n\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65)), 431),
        (format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(HEAD_BYTES_MAX)), 431),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), 501),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n".to_owned(), 413),
    ] {
        let mut world = World::new(1, 0);
        let at = world.open();
        world.send(at, (wrong + NEXT).as_bytes());
        assert_eq!((statuses(&world.sent(at)), world.told.len()), (vec![status], 0));
        assert!(world.sent(at).ends_with("<close>"));
    }
}

#[test]
fn a_client_that_says_so_is_left_after_the_answer() {
    let mut world = World::new(1, 0);
    let at = world.open();
    world.send(at, b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(world.sent(at), "");
    world.calls = 1;
    world.settle(1);
    assert_eq!(world.sent(at), "<1><close>");
}

#[test]
fn too_many_connections_and_too_long_a_backlog_are_refused() {
    let mut world = World::new(1, 0);
    let count = std::iter::from_fn(|| world.session.open()).count();
    assert_eq!(count, 2 + CONNECTIONS_SPARE);
    world.sent.resize(count, Vec::new());
    world.send(0, NEXT.as_bytes());
    world.send(0, &[b'x'; BACKLOG_BYTES_MAX]);
    assert_eq!(world.sent(0), "");
    world.send(0, b"x");
    assert_eq!(
        (world.sent(0).as_str(), &world.told[..]),
        ("<close>", &["waits".to_owned(), "left".to_owned()][..])
    );
}

#[test]
fn a_function_that_only_makes_trouble_is_not_heard_any_more() {
    let mut world = World::new(1, 1);
    let (at, other) = (world.open(), world.open());
    world.send(at, NEXT.as_bytes());
    let flood = "GET / HTTP/1.1\n\n".repeat(4000);
    world.send(other, flood.as_bytes());
    assert_eq!(world.told, ["waits", "misbehaved"]);
    assert_eq!(statuses(&world.sent(other)).len(), DENIALS_MAX as usize);
    assert!(world.sent(other).ends_with("<close>") && world.session.open().is_none());
    world.send(at, response(1, "too late").as_bytes());
    assert_eq!(world.told.len(), 2);
}

/// Parts of which a stream is made: whole requests, and bytes that are none.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let chunked = |call: u128, body: &str| {
        let head = format!("POST /2018-06-01/runtime/invocation/{}/response HTTP/1.1\r\n", id(call));
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    prop_oneof![
        6 => Just(NEXT.as_bytes().to_vec()),
        6 => (1..6_u128, "[a-z]{0,40}").prop_map(|(call, body)| response(call, &body).into_bytes()),
        3 => (1..6_u128, "[a-z]{1,40}").prop_map(move |(call, body)| chunked(call, &body).into_bytes()),
        2 => "[a-z]{0,9}".prop_map(|body| post("init/error", &body).into_bytes()),
        1 => Just(b"GET /else HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
        1 => Just(b"\r\n\r\nGET /else HTTP/1.0\r\n\r\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(part(), 0..12).prop_map(|parts| parts.concat())
}

/// What came of a stream that arrives in these pieces.
fn effects(stream: &[u8], cuts: &[usize], concurrent: u32) -> (Vec<String>, String) {
    let mut world = World::new(concurrent, 4);
    let at = world.open();
    let mut rest = stream;
    for cut in cuts.iter().cycle().take(stream.len()) {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        if !piece.is_empty() {
            world.send(at, piece);
        }
        rest = behind;
    }
    if !rest.is_empty() {
        world.send(at, rest);
    }
    world.close(at);
    (world.told.clone(), world.sent(at))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_stream_has_the_same_effects_however_it_is_cut(
        stream in stream(),
        cuts in prop::collection::vec(1..80_usize, 1..20),
        concurrent in 1..4_u32,
    ) {
        let whole = effects(&stream, &[stream.len().max(1)], concurrent);
        prop_assert_eq!(&effects(&stream, &cuts, concurrent), &whole);
        prop_assert_eq!(&effects(&stream, &[1], concurrent), &whole);
    }

    #[test]
    fn arbitrary_bytes_on_arbitrary_connections_stay_within_bounds(
        moves in prop::collection::vec((0..4_u16, stream(), any::<bool>()), 0..20),
        concurrent in 1..4_u32,
    ) {
        let mut world = World::new(concurrent, 8);
        let places: Vec<u16> = (0..4).map(|_| world.open()).collect();
        for (place, bytes, close) in moves {
            let at = places[usize::from(place)];
            world.send(at, &bytes);
            let Rules { calls, waiting, offered, .. } = &world.session.rules;
            prop_assert!(calls.len() + offered <= concurrent as usize && *offered <= waiting.len());
            prop_assert!(world.session.held_bytes() <= 4 * (2 * HEAD_BYTES_MAX + BACKLOG_BYTES_MAX));
            if close {
                world.close(at);
                prop_assert_eq!(world.session.open(), Some(at));
            }
        }
        // Each call that was given ended at most once.
        for call in 1..=world.given {
            let ends = ["answered", "failed", "large", "truncated", "skipped"];
            let is_end = |told: &&String| ends.iter().any(|end| told.starts_with(&format!("{end} {call} ")) || **told == format!("{end} {call}"));
            prop_assert!(world.told.iter().filter(is_end).count() <= 1);
        }
    }
}

#[test]
#[should_panic(expected = "not the same however it is cut")]
fn canary_a_reader_that_forgets_the_begin_of_a_piece_is_seen() {
    // As a reader would that reads each piece by itself.
    let stream = NEXT.to_owned() + &response(1, "x");
    let whole = effects(stream.as_bytes(), &[stream.len()], 1);
    let mut world = World::new(1, 4);
    let at = world.open();
    for piece in stream.as_bytes().chunks(50) {
        world.session.connections[usize::from(at)].reader = Reader::new(&Room::default());
        world.send(at, piece);
    }
    assert_eq!(world.told, whole.0, "not the same however it is cut");
}
