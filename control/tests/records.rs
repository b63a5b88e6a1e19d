//! Usage, logs, metrics and Lambda's Invoke on a whole node, whose worker is scripted: what is counted, exactly.

mod peer;

use call::body::{Reply, arguments, attribute};
use call::frame::{Frame, FrameBuf, Kind};
use call::{CallId, Status, Usage};
use control::{Endpoints, serve};
use peer::Peer;
use peer::server::{Server, options};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A host that has compiled this server's functions, and a core.
fn worker(server: &Server, functions: usize) -> (Peer, Peer) {
    let mut host = Peer::host(&server.socket());
    for _ in 0..functions {
        let publish = host.expect(Kind::Publish);
        host.ready(&publish, Status::Ok, "");
    }
    let mut core = Peer::core(&server.socket(), 8);
    core.grant(100);
    (host, core)
}

const USED: Usage = Usage {
    wait_ns: 1,
    run_ns: 2_000_000_000,
    cpu_ns: 1_500_000,
    memory_bytes: 3_000_000,
    exit_code: 0,
    init_ns: 40,
    bytes_in: 500,
    bytes_out: 2_000_000_000,
    denied: 2,
    cold: true,
    truncated: false,
};

fn submit(server: &Server, name: &str) -> CallId {
    let (status, accepted) = server.http("POST", &format!("/v1/functions/default/{name}/calls"), b"x");
    assert_eq!(status, 202, "{accepted}");
    accepted["call"].as_str().unwrap().parse().unwrap()
}

fn until(what: &str, mut ready: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if ready() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain for {what}");
}

fn submit_of(lease: &FrameBuf) -> FrameBuf {
    let mut submit = FrameBuf::new();
    submit.extend_from_slice(Frame::parse(lease).unwrap().0.body());
    submit
}

#[test]
fn what_outcomes_say_is_what_usage_says() {
    let server = Server::start();
    server.deploy("a");
    let (_host, mut core) = worker(&server, 1);
    let call = submit(&server, "a");
    let lease = core.expect(Kind::Lease);
    core.end_with(&lease, Status::Ok, &Reply::new(&USED, b"", b""));
    // Fenced: the lease has ended.
    core.end_with(&lease, Status::Ok, &Reply::new(&USED, b"", b""));
    assert_eq!(server.http("GET", &format!("/v1/calls/{call}?wait_ms=20000"), b"").0, 200);
    submit(&server, "a");
    let lease = core.expect(Kind::Lease);
    core.end_with(&lease, Status::Trap, &Reply::new(&Usage { cold: false, ..USED }, b"", b""));
    // A core that dies with a call counts as an execution that cost nothing.
    submit(&server, "a");
    core.expect(Kind::Lease);
    drop(core);
    let usage = || server.http("GET", "/v1/usage?function=a", b"").1["total"].clone();
    until("the lost execution", || usage()["executions"] == 3);
    let total = usage();
    assert_eq!(total["executions_by_status"], json!({"ok": 1, "trap": 1, "worker-lost": 1}));
    assert_eq!((&total["calls"], &total["calls_by_status"]), (&json!(2), &json!({"ok": 1, "trap": 1})));
    assert_eq!((&total["cpu_ms"], &total["memory_mb_s"]), (&json!(3.0), &json!(12.0)));
    assert_eq!((&total["bytes_in"], &total["gb_out"]), (&json!(1000), &json!(4.0)));
    assert_eq!((&total["cold_starts"], &total["init_ns"]), (&json!(1), &json!(40)));
    // Deleted by force, the pending call ends as well.
    assert_eq!(server.http("DELETE", "/v1/functions/default/a?force=true", b""), (200, json!({"count": 1})));
    assert_eq!(usage()["calls_by_status"]["unavailable"], 1);
    let server = Server::start_in(server.drain());
    let (_, report) = server.http("GET", "/v1/usage?since=1h&by=tenant", b"");
    assert_eq!((&report["rows"][0]["tenant"], &report["rows"][0]["calls"]), (&json!("default"), &json!(3)));
    server.drain();
}

#[test]
fn what_calls_wrote_is_read_page_by_page_and_waited_for() {
    let server = Server::start();
    server.deploy("a");
    let (_host, mut core) = worker(&server, 1);
    let end = |core: &mut Peer, text: &[u8]| {
        let call = submit(&server, "a");
        let lease = core.expect(Kind::Lease);
        let usage = Usage { truncated: true, ..Usage::default() };
        core.end_with(&lease, Status::Ok, &Reply::new(&usage, b"", text));
        call
    };
    let path = "/v1/functions/default/a/logs";
    assert_eq!(server.http("GET", path, b"").1["records"], json!([]));
    end(&mut core, b"");
    let call = end(&mut core, b"one\nand \xff");
    let (status, page) = server.http("GET", &format!("{path}?wait_ms=20000"), b"");
    let record = &page["records"][0];
    assert_eq!((status, page["records"].as_array().map(Vec::len)), (200, Some(1)), "{page}");
    assert_eq!((&record["call"], &record["text"]), (&json!(call.to_string()), &json!("one\nand \u{fffd}")));
    assert_eq!(
        (&record["host"], &record["cpu"], &record["truncated"]),
        (&json!("here"), &json!(0), &json!(true))
    );
    let next = page["next"].as_str().unwrap();
    let follow = format!("{path}?after={next}&wait_ms=20000");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.http("GET", &follow, b"").1);
        std::thread::sleep(Duration::from_millis(100));
        end(&mut core, b"two");
        waiting.join().unwrap()
    });
    assert_eq!(waiting["records"][0]["text"], "two");
    let (_, of_call) = server.http("GET", &format!("{path}?call={call}"), b"");
    assert_eq!(of_call["records"].as_array().map(Vec::len), Some(1));
    for (query, status) in [("after=7", 422), ("call=7", 422), ("since=soon", 422), ("tial=7", 400)] {
        assert_eq!(server.http("GET", &format!("{path}?{query}"), b"").0, status, "{query}");
    }
    assert_eq!(server.http("GET", "/v1/functions/default/nope/logs", b"").0, 404);
    assert_eq!(server.http("GET", "/v1/functions/..%2f..%2fx/y/logs", b"").0, 404);
    server.drain();
}

/// As an SDK posts; the head goes out with `more` lines.
fn invoke(server: &Server, more: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "POST /2015-03-31/functions/a/invocations HTTP/1.1\r\nhost: n\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn an_invocation_reaches_the_function_with_its_context_and_is_tried_once() {
    let server = Server::start();
    let wasm = b"\0asm\x01\0\0\0";
    let hash = control::artefacts::sha256(wasm);
    server.http("PUT", &format!("/v1/artefacts/{hash}"), wasm);
    let spec = json!({"artefact": hash, "retry": {"attempts": 5, "backoff_ms": 1, "backoff_max_ms": 1}});
    server.http("PUT", "/v1/functions/default/a", spec.to_string().as_bytes());
    let (_host, mut core) = worker(&server, 1);
    let context = "X-Amz-Client-Context: eyJhIjoxfQ==\r\nX-Amzn-Trace-Id: Root=1-2-3\r\n";
    let waiting = invoke(&server, context, b"[1]");
    let lease = core.expect(Kind::Lease);
    let submit = submit_of(&lease);
    let (frame, _) = Frame::parse(&submit).unwrap();
    let read = arguments(frame.body()).unwrap();
    let seen: Vec<(&str, &str)> = read.attributes.iter().map(|a| (&*a.key, &*a.value)).collect();
    assert_eq!(seen, [(attribute::CLIENT_CONTEXT, "{\"a\":1}"), (attribute::TRACE_ID, "Root=1-2-3")]);
    assert_eq!(&*read.payload, b"[1]");
    let posted = br#"{"errorMessage":"no","errorType":"ValueError","stackTrace":["x"]}"#;
    core.end_with(&lease, Status::Error, &Reply::new(&USED, posted, b"Traceback"));
    let text = answer(waiting);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("x-amz-function-error: Unhandled"), "{text}");
    assert!(text.ends_with(std::str::from_utf8(posted).unwrap()), "{text}");
    core.expect_no(Kind::Lease, Duration::from_millis(100));
    assert_eq!(server.http("GET", "/v1/dead-letters", b""), (200, json!([])), "who waited has heard of it");
    // The function's own rules hold for who does not wait.
    let text = answer(invoke(&server, "X-Amz-Invocation-Type: Event\r\n", b""));
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
    for _ in 0..5 {
        let lease = core.expect(Kind::Lease);
        core.end(&lease, Status::Error, b"");
    }
    core.expect_no(Kind::Lease, Duration::from_millis(100));
    // A lost worker is no failure.
    let waiting = invoke(&server, "", b"2");
    core.expect(Kind::Lease);
    drop(core);
    let mut core = Peer::core(&server.socket(), 8);
    core.grant(8);
    let lease = core.expect(Kind::Lease);
    core.end(&lease, Status::Ok, b"done\xff");
    assert!(answer(waiting).contains("x-amz-executed-version: $LATEST"));
    drop(core);
    // Nothing of it is pending or dead after a restart, but for the event that was given up.
    let server = Server::start_in(server.drain());
    let (_, status) = server.http("GET", "/v1/status", b"");
    assert_eq!((&status["pending"], &status["dead_letters"]), (&json!(0), &json!(1)), "{status}");
    server.drain();
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let server = Server::start();
    server.deploy("a");
    let waiting = || {
        let (_, _, text) = server.raw("GET", "/metrics", b"");
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find(|line| line.starts_with("millrace_invocations_waiting ")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    let streams: Vec<TcpStream> = (0..5).map(|_| invoke(&server, "", b"1")).collect();
    until("five waiters", || waiting() == 5.0);
    drop(streams);
    until("none", || waiting() == 0.0);
    let (_host, mut core) = worker(&server, 1);
    for _ in 0..5 {
        let lease = core.expect(Kind::Lease);
        core.end(&lease, Status::Ok, b"1");
    }
    let (_, status) = server.http("GET", "/v1/status", b"");
    assert_eq!(status["accepted"], 5, "the calls run all the same");
    server.drain();
}

#[test]
fn a_full_queue_throttles_invocations_and_says_when_to_come_back() {
    let directory = peer::node::directory();
    let mut options = options(directory.path());
    options.limits.calls_max = 1;
    let thread = std::thread::spawn(move || serve(options));
    until("the node", || Endpoints::read(directory.path()).is_ok());
    let endpoints = Endpoints::read(directory.path()).unwrap();
    let admin = endpoints.admin.strip_prefix("http://").unwrap().into();
    let server = Server { directory, admin, thread };
    server.deploy("a");
    submit(&server, "a");
    let text = answer(invoke(&server, "", b"1")).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 429") && text.contains("retry-after: 1"), "{text}");
    assert!(text.contains("x-amzn-errortype: toomanyrequestsexception"), "{text}");
    let (status, error) = server.http("POST", "/2021-11-15/functions/a/response-streaming-invocations", b"");
    assert_eq!((status, &error["Type"]), (501, &Value::from("Service")));
    server.drain();
}
