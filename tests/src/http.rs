//! The admin API of a node as any client has it: a request, byte for byte, and what comes back.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// Where the admin API of a data directory's node is.
pub fn admin(data: &Path) -> String {
    let file: Value =
        serde_json::from_slice(&std::fs::read(data.join("run/control.json")).expect("it serves")).unwrap();
    file["admin"].as_str().expect("text").trim_start_matches("http://").to_owned()
}

/// A request like `GET /v1/status` to the node of a data directory, with `lines` of the head, each with its end; status,
/// head and body.
pub fn ask(data: &Path, request: &str, lines: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(admin(data)).expect("the admin API");
    let head = format!(
        "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(body).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    (head[9..12].parse().expect("a number"), head, answer[split..].to_vec())
}
