//! A whole node as a process would be, with its admin API over real HTTP.

use super::Peer;
use call::Status;
use call::frame::Kind;
use call::limits::Limits;
use control::artefacts::sha256;
use control::{ControlOptions, Endpoints, StartError, serve};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Server {
    pub directory: tempfile::TempDir,
    pub admin: String,
    pub thread: JoinHandle<Result<(), StartError>>,
}

pub fn options(data: &Path) -> ControlOptions {
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
    pub fn start() -> Server {
        Server::start_in(super::node::directory())
    }

    pub fn start_in(directory: tempfile::TempDir) -> Server {
        Server::start_so(directory, |_| ())
    }

    /// With other options than those of tests.
    pub fn start_with(change: impl FnOnce(&mut ControlOptions)) -> Server {
        Server::start_so(super::node::directory(), change)
    }

    fn start_so(directory: tempfile::TempDir, change: impl FnOnce(&mut ControlOptions)) -> Server {
        let mut options = options(directory.path());
        change(&mut options);
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
    pub fn http(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, body);
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{method} {path}: not JSON")))
    }

    pub fn raw(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
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

    pub fn deploy(&self, name: &str) -> Value {
        let wasm = b"\0asm\x01\0\0\0";
        let hash = sha256(wasm);
        let (status, _) = self.http("PUT", &format!("/v1/artefacts/{hash}"), wasm);
        assert!(matches!(status, 200 | 201), "{status}");
        let spec = json!({"artefact": hash, "retry": {"attempts": 1}}).to_string();
        let (status, state) = self.http("PUT", &format!("/v1/functions/default/{name}"), spec.as_bytes());
        assert!(matches!(status, 200 | 201), "{status} {state}");
        state
    }

    pub fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("run/submit.sock")
    }

    /// A host and a core that end every call with its own name as output, `count` of them.
    pub fn work(&self, functions: usize, count: usize) -> JoinHandle<()> {
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

    pub fn drain(self) -> tempfile::TempDir {
        assert_eq!(self.http("POST", "/v1/drain", b""), (200, json!({"count": 0})));
        self.thread.join().unwrap().unwrap();
        self.directory
    }
}
