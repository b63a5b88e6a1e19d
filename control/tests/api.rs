//! The admin API over real HTTP, in front of a whole node as a process would be.

mod peer;

use call::CallId;
use control::{ControlOptions, Endpoints, serve};
use peer::server::{Server, options};
use serde_json::json;
use std::net::TcpListener;
use std::time::Duration;

#[test]
fn functions_are_deployed_shown_versioned_and_deleted() {
    let server = Server::start();
    assert_eq!(server.http("GET", "/v1/functions", b""), (200, json!([])));
    let state = server.deploy("echo");
    assert_eq!((&state["spec"]["version"], &state["state"]), (&json!(1), &json!("compiling")));
    assert_eq!(server.deploy("echo")["spec"]["version"], 2);
    let server = Server::start_in(server.drain());
    let (status, state) = server.http("GET", "/v1/functions/default/echo", b"");
    assert_eq!((status, &state["spec"]["version"]), (200, &json!(2)));
    let hash = state["spec"]["artefact"].as_str().unwrap();
    let (status, head, wasm) = server.raw("GET", &format!("/v1/artefacts/{hash}"), b"");
    assert_eq!((status, wasm.len()), (200, 8));
    assert!(head.contains("application/wasm"), "{head}");
    assert_eq!(server.http("DELETE", "/v1/functions/default/echo", b""), (200, json!({"count": 0})));
    assert_eq!(server.http("GET", "/v1/functions/default/echo", b"").0, 404);
    server.drain();
}

#[test]
fn a_call_is_submitted_and_waited_for() {
    let server = Server::start();
    server.deploy("echo");
    let (status, accepted) = server.http("POST", "/v1/functions/default/echo/calls", b"hello");
    assert_eq!((status, &accepted["verdict"]), (202, &json!("accepted")));
    let id = accepted["call"].as_str().unwrap().to_owned();
    let (status, again) =
        server.http("POST", &format!("/v1/functions/default/echo/calls?call={id}"), b"hello");
    assert_eq!((status, &again["verdict"]), (202, &json!("duplicate")));
    let (_, queues) = server.http("GET", "/v1/queues", b"");
    assert_eq!((&queues[0]["function"], &queues[0]["due"]), (&json!("default/echo"), &json!(1)));
    let (_, peeked) = server.http("GET", "/v1/queues/default/echo/peek?limit=3", b"");
    assert_eq!(peeked[0]["call"], json!(id));
    let work = server.work(1, 2);
    let (status, state) = server.http("GET", &format!("/v1/calls/{id}?wait_ms=20000"), b"");
    assert_eq!((status, &state["state"], &state["output"]), (200, &json!("done"), &json!("done")));
    let (status, state) = server.http("POST", "/v1/functions/default/echo/calls?wait=20000", b"hello");
    assert_eq!((status, &state["status"]), (200, &json!("ok")));
    work.join().unwrap();
    let (_, status) = server.http("GET", "/v1/status", b"");
    assert_eq!((&status["completed"], &status["duplicates"]), (&json!(2), &json!(1)));
    assert_eq!(status["end_to_end"]["count"], 2);
    assert!(status["backends"].as_array().unwrap().iter().any(|b| b[0] == "ring"), "{status}");
    assert_eq!(server.http("GET", "/v1/workers", b""), (200, json!([])));
    server.drain();
}

#[test]
fn every_refusal_is_json_with_a_remedy() {
    let server = Server::start_with(|options| options.limits.blob_bytes_max = 2 << 20);
    server.deploy("echo");
    let unknown = CallId(5).to_string();
    let zeros = "0".repeat(64);
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        ("GET", "/v1/nothing", b"", 404, "there is nothing at /v1/nothing"),
        ("PATCH", "/v1/status", b"", 405, "does not take PATCH"),
        ("GET", "/v1/functions/default/nope", b"", 404, "default/nope"),
        ("GET", &format!("/v1/calls/{unknown}"), b"", 404, &unknown),
        ("GET", "/v1/calls/xyz", b"", 422, "`xyz` is not a call id"),
        ("GET", &format!("/v1/calls/{unknown}?wait_ms=soon"), b"", 400, "wait_ms"),
        ("GET", "/v1/dead-letters?functoin=a", b"", 400, "functoin"),
        ("POST", "/v1/functions/default/nope/calls", b"", 404, "no such function"),
        ("POST", "/v1/functions/default/echo/calls?at=soon", b"", 422, "at: `soon` is no time"),
        ("POST", "/v1/functions/default/echo/calls?at=400d", b"", 422, "7 days"),
        ("POST", "/v1/functions/default/echo/calls?zone=8", b"", 422, "zones are 0 to 7"),
        ("POST", "/v1/functions/default/echo/calls?key=", b"", 422, "key: is empty"),
        ("PUT", "/v1/functions/default/x", b"{", 400, "EOF"),
        ("PUT", "/v1/functions/default/x", b"{\"nmae\":\"x\"}", 422, "nmae"),
        ("PUT", "/v1/functions/default/x", b"{\"name\":\"y\"}", 422, "the manifest says `y`"),
        ("PUT", "/v1/functions/default/x", b"{\"artefact\":\"ab\"}", 422, "there is no artefact `ab`"),
        ("PUT", &format!("/v1/artefacts/{zeros}"), b"other", 422, "SHA-256"),
        ("PUT", "/v1/artefacts/short", b"", 422, "64 lower-case hex digits"),
        ("GET", &format!("/v1/artefacts/{zeros}"), b"", 404, "there is no artefact"),
        ("POST", "/v1/dead-letters/redrive?call=5", b"", 422, "32 hexadecimal digits"),
        ("POST", &format!("/v1/dead-letters/redrive?call={unknown}"), b"", 404, "not among the dead letters"),
    ];
    for (method, path, body, code, said) in cases {
        let (status, error) = server.http(method, path, body);
        let message = error["message"].as_str().unwrap_or_default();
        assert!(status == *code && message.contains(said), "{method} {path}: {status} {error}");
        assert!(!error["remedy"].as_str().unwrap().is_empty(), "{method} {path}: {error}");
        assert!(error["code"].is_string());
    }
    let large = vec![0; (2 << 20) + 1];
    for (method, path) in [("POST", "/v1/functions/default/echo/calls"), ("PUT", "/v1/blobs")] {
        let (status, error) = server.http(method, path, &large);
        assert_eq!((status, &error["code"]), (413, &json!("too-large")), "{error}");
    }
    server.drain();
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let directory = peer::node::directory();
    let mut options = options(directory.path());
    options.limits.calls_max = 1;
    let thread = std::thread::spawn(move || serve(options));
    let endpoints = loop {
        match Endpoints::read(directory.path()) {
            Ok(endpoints) => break endpoints,
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let server = Server { directory, admin: endpoints.admin.strip_prefix("http://").unwrap().into(), thread };
    server.deploy("echo");
    assert_eq!(server.http("POST", "/v1/functions/default/echo/calls", b"").0, 202);
    let (status, head, _) = server.raw("POST", "/v1/functions/default/echo/calls", b"");
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: 1"), "{head}");
    server.drain();
}

#[test]
fn a_port_in_use_is_an_error_of_the_start() {
    let directory = peer::node::directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let error = serve(ControlOptions { tcp: Some(at), ..options(directory.path()) }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("port {} is in use", at.port())) && text.contains("--tcp"), "{text}");
    let error = serve(ControlOptions { admin: at, ..options(directory.path()) }).unwrap_err().to_string();
    assert!(error.contains("--admin"), "{error}");
}

#[test]
fn a_data_directory_serves_one_node() {
    let server = Server::start();
    let error = serve(options(server.directory.path())).unwrap_err().to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    let directory = server.drain();
    assert!(Endpoints::read(directory.path()).is_err(), "a node that has ended is not to be found");
    std::fs::write(directory.path().join("VERSION"), "millrace 0\n").unwrap();
    let error = serve(options(directory.path())).unwrap_err().to_string();
    assert!(error.contains("millrace 0"), "{error}");
}
