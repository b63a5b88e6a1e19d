//! The admin API over real HTTP, in front of a whole node as a process would be.

mod peer;

use call::frame::Kind;
use call::limits::Limits;
use call::{CallId, Status};
use control::artefacts::sha256;
use control::{ControlOptions, Endpoints, StartError, serve};
use peer::Peer;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

struct Server {
    directory: tempfile::TempDir,
    admin: String,
    thread: JoinHandle<Result<(), StartError>>,
}

fn options(data: &Path) -> ControlOptions {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ControlOptions {
        data: data.to_owned(),
        admin: any,
        tcp: Some(any),
        signals: false,
        print: false,
        spin: Duration::ZERO,
        limits: Limits::small(),
        ..ControlOptions::default()
    }
}

impl Server {
    fn start() -> Server {
        Server::start_in(peer::node::directory())
    }

    fn start_in(directory: tempfile::TempDir) -> Server {
        let options = options(directory.path());
        let thread = std::thread::spawn(move || serve(options));
        let endpoints = loop {
            match Endpoints::read(directory.path()) {
                Ok(endpoints) => break endpoints,
                Err(_) if thread.is_finished() => panic!("{}", thread.join().unwrap().unwrap_err()),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        Server { directory, admin: endpoints.admin.strip_prefix("http://").unwrap().into(), thread }
    }

    /// Status and JSON body.
    fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, body);
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{method} {path}: not JSON")))
    }

    fn raw(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses a large body answers before it has read all of it.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), answer[end..].to_vec())
    }

    fn deploy(&self, name: &str) -> Value {
        let wasm = b"\0asm\x01\0\0\0";
        let hash = sha256(wasm);
        let (status, _) = self.http("PUT", &format!("/v1/artefacts/{hash}"), wasm);
        assert!(matches!(status, 200 | 201), "{status}");
        let spec = json!({"artefact": hash, "retry": {"attempts": 1}}).to_string();
        let (status, state) = self.http("PUT", &format!("/v1/functions/default/{name}"), spec.as_bytes());
        assert!(matches!(status, 200 | 201), "{status} {state}");
        state
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("run/submit.sock")
    }

    /// A host and a core that end every call with its own name as output, `count` of them.
    fn work(&self, functions: usize, count: usize) -> JoinHandle<()> {
        let socket = self.socket();
        std::thread::spawn(move || {
            let mut host = Peer::host(&socket);
            for _ in 0..functions {
                let publish = host.expect(Kind::Publish);
                host.ready(&publish, Status::Ok, "");
            }
            let mut core = Peer::core(&socket, 4);
            for done in 0..count as u64 {
                core.grant(done + 1);
                let lease = core.expect(Kind::Lease);
                core.end(&lease, Status::Ok, b"done");
            }
            core.expect_no(Kind::Lease, Duration::from_millis(50));
        })
    }

    fn drain(self) -> tempfile::TempDir {
        assert_eq!(self.http("POST", "/v1/drain", b""), (200, json!({"count": 0})));
        self.thread.join().unwrap().unwrap();
        self.directory
    }
}

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
    let server = Server::start();
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
    let large = vec![0; (1 << 20) + 1];
    let (status, error) = server.http("POST", "/v1/functions/default/echo/calls", &large);
    assert_eq!((status, &error["code"]), (413, &json!("too-large")));
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
