//! Lists and orders in bulk by a filter, over real HTTP in front of a whole node.

mod peer;

use call::body::Reply;
use call::frame::Kind;
use call::{FunctionId, Status, Usage, VerdictCode};
use peer::Peer;
use peer::server::Server;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

/// Of a filter in a query.
fn query(filter: &str) -> String {
    filter.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

impl Server {
    fn find(&self, filter: &str, more: &str) -> Value {
        let (status, page) = self.http("GET", &format!("/v1/calls?where={}{more}", query(filter)), b"");
        assert_eq!(status, 200, "{filter}: {page}");
        page
    }

    /// Ends the first calls as traps that say these texts: they are dead letters.
    fn fail(&self, texts: &[&str]) {
        let mut host = Peer::host(&self.socket());
        let publish = host.expect(Kind::Publish);
        host.ready(&publish, Status::Ok, "");
        let mut core = Peer::core(&self.socket(), 64);
        core.grant(texts.len() as u64);
        for text in texts {
            let lease = core.expect(Kind::Lease);
            core.end_with(&lease, Status::Trap, &Reply::new(&Usage::default(), b"", text.as_bytes()));
        }
        // All of it has been heard when what was sent behind it is answered.
        let dead = || self.find("state=dead", "")["matched"] == texts.len();
        while !dead() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

#[test]
fn many_calls_are_walked_over_in_pieces_and_listed_page_by_page() {
    // Some rounds' worth.
    const CALLS: u128 = 3000;
    let server = Server::start_with(|options| options.limits.calls_max = 2 * CALLS as usize);
    server.deploy("echo");
    let mut client = Peer::client(&server.socket());
    for call in 1..=CALLS {
        client.submit(call << 80, echo(), &[7; 8][..(call % 2) as usize], false);
    }
    let verdicts = client.verdicts(CALLS as usize);
    assert!(verdicts.iter().all(|(_, code)| *code == VerdictCode::Accepted));
    let mut seen = BTreeSet::new();
    let mut after = String::new();
    let mut starts = Vec::new();
    loop {
        let page = server.find("state=queued", &format!("&limit=700{after}"));
        assert_eq!(
            (&page["matched"], &page["unknown"]),
            (&json!(CALLS as u64), &json!(0)),
            "every page says so"
        );
        assert!(page["examined"].as_u64().unwrap() >= CALLS as u64);
        for call in page["calls"].as_array().unwrap() {
            assert!(seen.insert(call["call"].as_str().unwrap().to_owned()), "{call} came twice");
            starts.push(call["start_at"].as_u64().unwrap());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), CALLS as usize);
    assert!(starts.is_sorted(), "in order of start time");
    let one = format!("id={:032x}", 5u128 << 80);
    assert_eq!(server.find(&one, "")["calls"][0]["call"], json!(format!("{:032x}", 5u128 << 80)));
    assert_eq!(server.find("function=other or state=dead", "")["matched"], 0);
    server.drain();
}

#[test]
fn dead_letters_are_redriven_by_what_they_said() {
    let server = Server::start();
    server.deploy("echo");
    let mut client = Peer::client(&server.socket());
    for call in 1..=6u128 {
        assert_eq!(client.submitted(call, echo(), false), VerdictCode::Accepted);
    }
    server.fail(&["Timeout of db", "disk", "a TIMEOUT", "disk", "disk", "net"]);
    for (query, count) in [("", 6), ("?limit=4", 4), ("?function=echo", 6), ("?function=echo&limit=2", 2)] {
        let (status, letters) = server.http("GET", &format!("/v1/dead-letters{query}"), b"");
        assert_eq!((status, letters.as_array().map(Vec::len)), (200, Some(count)), "{query}: {letters}");
    }
    let post = |path: &str| {
        let (status, answer) = server.http("POST", path, b"");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    };
    let redrive = "/v1/dead-letters/redrive?where";
    let tried = post(&format!("{redrive}={}&dry_run=true", query("error~timeout")));
    assert_eq!((&tried["count"], &tried["matched"], &tried["next"]), (&json!(0), &json!(2), &Value::Null));
    assert_eq!(server.find("state=dead", "")["matched"], 6, "it was only tried");
    // In steps of so many calls, as the command line does it.
    let mut from = json!(0);
    let mut count = 0;
    while !from.is_null() {
        let part = post(&format!("{redrive}={}&examine=2&from={from}", query("error~timeout")));
        assert!(part["of"].as_u64().unwrap() >= 6);
        count += part["count"].as_u64().unwrap();
        from = part["next"].clone();
    }
    assert_eq!(count, 2);
    assert_eq!(server.find("state=dead", "")["matched"], 4);
    assert_eq!(post("/v1/dead-letters/redrive?function=echo&where=reason~net")["count"], 1);
    assert_eq!(post("/v1/dead-letters/redrive")["count"], 3, "all that are left");
    assert_eq!(post("/v1/dead-letters/redrive")["matched"], 0);
    server.drain();
}

#[test]
fn what_is_wrong_with_a_filter_is_told() {
    let server = Server::start();
    server.deploy("echo");
    let long = "x".repeat(3000);
    let cases = [
        ("GET", format!("/v1/calls?where={}", query("agee>1h")), 422, "no field `agee`"),
        ("GET", format!("/v1/calls?where={}", query("age>1h and")), 422, "character 11"),
        ("GET", format!("/v1/calls?where={long}"), 422, "at most 2048"),
        ("GET", "/v1/calls?after=soon".into(), 422, "`soon` is not the `next` of a page"),
        ("GET", "/v1/calls?limit=many".into(), 400, "limit"),
        ("POST", format!("/v1/dead-letters/redrive?where={}", query("state=")), 422, "a value is missing"),
        ("POST", "/v1/dead-letters/redrive?function=nope".into(), 404, "nope"),
        ("POST", "/v1/dead-letters/redrive?function=a'b".into(), 404, "a'b"),
    ];
    for (method, path, code, said) in cases {
        let (status, error) = server.http(method, &path, b"");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(status == code && message.contains(said), "{method} {path}: {status} {error}");
        assert!(!error["remedy"].as_str().unwrap().is_empty(), "{error}");
    }
    server.drain();
}
