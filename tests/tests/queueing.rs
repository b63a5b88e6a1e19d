//! What one asks of a queue every day, of a real node with a real core, by HTTP and by the command line: time to live,
//! backlogs, idempotency keys, taking back what runs, filters over what waits on disk, draining.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tests::harness::{ECHO, LOOP, Site, until};

/// What an admin API answered.
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

/// Submits by HTTP, with this query and these headers.
fn post(site: &Site, function: &str, query: &str, headers: &str) -> Answer {
    let at = site.up_json()["admin"].as_str().expect("an address").to_owned();
    let at = at.strip_prefix("http://").expect("http");
    let mut stream = TcpStream::connect(at).expect("it listens");
    let ask = format!("POST /v1/functions/default/{function}/calls{query} HTTP/1.1\r\nhost: n\r\n{headers}");
    write!(stream, "{ask}content-length: 2\r\nconnection: close\r\n\r\n42").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: serde_json::from_str(body).expect("JSON") }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn completed(site: &Site) -> u64 {
    site.json(&["status"])["completed"].as_u64().expect("a count")
}

/// How many calls a filter means; of each it must be known.
fn count(site: &Site, filter: &str) -> u64 {
    let page = site.json(&["calls", "list", "--where", filter]);
    assert_eq!(page["unknown"], 0, "{filter}: {page}");
    page["matched"].as_u64().expect("a count")
}

/// The call's status and state when it has ended.
fn end_of(site: &Site, call: &str) -> (String, String) {
    let ended = site.json(&["calls", "show", call, "--wait", "2m"]);
    (text(&ended, "state").into(), text(&ended, "status").into())
}

#[test]
fn a_call_that_does_not_begin_in_time_expires() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.deploy("kept", ECHO, "[queue]\nexpires = \"500ms\"\nexpired = \"dead-letter\"");
    site.ok(&["queue", "pause", "echo"]);
    site.ok(&["queue", "pause", "kept"]);
    let short = site.json(&["submit", "echo", "--deadline", "500ms", "--expires"]);
    let by_http = post(&site, "echo", "?deadline=500ms&expires=true", "");
    assert_eq!(by_http.status, 202, "{}", by_http.body);
    let patient = site.json(&["submit", "echo", "--deadline", "500ms"]);
    let kept = site.json(&["submit", "kept"]);
    let gone = ("done".to_owned(), "expired".to_owned());
    assert_eq!(end_of(&site, text(&short, "call")), gone);
    assert_eq!(end_of(&site, text(&by_http.body, "call")), gone);
    assert_eq!(end_of(&site, text(&kept, "call")), ("dead".into(), "expired".into()));
    // Late is not expired: this one only promised to be early.
    assert_eq!(site.json(&["calls", "show", text(&patient, "call")])["state"], "queued");
    site.ok(&["queue", "resume", "echo"]);
    site.ok(&["queue", "resume", "kept"]);
    assert_eq!(end_of(&site, text(&patient, "call")).1, "ok");
    assert_eq!(completed(&site), 1, "what expired did not run");
    assert_eq!(site.json(&["dlq", "redrive", "--call", text(&kept, "call")])["count"], 1);
    assert_eq!(end_of(&site, text(&kept, "call")).1, "ok", "redriven, it does not expire again");
    assert_eq!(post(&site, "echo", "?expires=true", "").status, 422, "by when?");
}

#[test]
fn a_full_backlog_refuses_and_says_when_to_come_again() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "tenant = \"shop\"\n[queue]\nbacklog = 3");
    site.ok(&["queue", "pause", "echo"]);
    let submit = ["submit", "echo", "--data", "x", "--patience", "0s"];
    (0..3).for_each(|_| drop(site.ok(&submit)));
    site.run(&submit).fails(5, &["backlog"]);
    let refused = post(&site, "echo", "", "");
    assert_eq!((refused.status, text(&refused.body, "code")), (429, "backlog"));
    assert!(refused.head.contains("\r\nretry-after: "), "{}", refused.head);
    // An operator gives the function one more place, then the tenant fewer; by bytes too.
    site.ok(&["quota", "set", "echo", "--backlog", "4"]);
    assert_eq!(post(&site, "echo", "", "").status, 202);
    site.run(&submit).fails(5, &["backlog"]);
    site.ok(&["quota", "set", "echo", "--backlog", "100"]);
    site.ok(&["quota", "set", "--tenant", "shop", "--weight", "1", "--backlog", "5"]);
    site.ok(&submit);
    site.run(&submit).fails(5, &["backlog"]);
    site.ok(&["quota", "set", "--tenant", "shop", "--weight", "1", "--backlog-bytes", "64"]);
    site.run(&submit).fails(5, &["backlog"]);
    site.ok(&["quota", "set", "--tenant", "shop", "--weight", "1"]);
    // Patience waits for room.
    site.ok(&["quota", "set", "echo", "--backlog", "5"]);
    let patient = site.begin(&["submit", "echo", "--data", "x", "--patience", "2m"]);
    site.ok(&["queue", "resume", "echo"]);
    assert_eq!(patient.finish().code(), 0);
    until("all to have ended", || (completed(&site) == 6).then_some(()));
}

#[test]
fn a_call_that_is_submitted_twice_under_one_key_runs_once() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let keyed = ["submit", "echo", "--data", "x", "--idempotency-key", "order 7"];
    let first = site.json(&keyed);
    let again = site.json(&keyed);
    assert_eq!((text(&first, "verdict"), text(&again, "verdict")), ("accepted", "duplicate"));
    assert_eq!(first["call"], again["call"]);
    // By HTTP it is the same key, and after its end too.
    assert_eq!(end_of(&site, text(&first, "call")).1, "ok");
    let by_http = post(&site, "echo", "", "idempotency-key: order 7\r\n");
    assert_eq!((&by_http.body["call"], text(&by_http.body, "verdict")), (&first["call"], "duplicate"));
    let other = post(&site, "echo", "", "idempotency-key: order 8\r\n");
    assert_eq!(text(&other.body, "verdict"), "accepted");
    assert_eq!(end_of(&site, text(&other.body, "call")).1, "ok");
    assert_eq!(completed(&site), 2);
}

/// Host processes with this word in their command line.
fn processes(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

/// A process function that says on SIGTERM what it will, or goes.
fn deploy_shell(site: &Site, name: &str, trap: &str, grace: &str) {
    let word = word_of(name);
    let script = format!("#!/bin/sh\n{trap}\nwhile :; do sleep 0.02; done\n");
    let script = site.file(&format!("{name}/src/{word}"), script);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let manifest = format!(
        "name = \"{name}\"\nruntime = \"process\"\nbundle = \"src\"\ncommand = [\"./{word}\"]\nabi = \"stdio\"\n\
         timeout = \"1h\"\n[limits]\ngrace = \"{grace}\"\n"
    );
    let path = site.file(&format!("{name}/function.toml"), manifest);
    site.ok(&["deploy", &path]);
}

/// Its script, by a name that no other process has.
fn word_of(name: &str) -> String {
    format!("{name}-{}.sh", std::process::id())
}

#[test]
fn what_runs_is_stopped_by_its_core() {
    let is_root = nix::unistd::geteuid().is_root();
    let site = Site::new();
    let _up = if is_root { site.up_whole(&["--cores", "1"]) } else { site.up(&["--cores", "1"]) };
    site.deploy("echo", ECHO, "");
    site.deploy("loop", LOOP, "timeout = \"1h\"");
    let endless = site.json(&["submit", "loop"]);
    until("the loop to run", || (site.status()?["leased_now"] == 1).then_some(()));
    // It shares its core until then.
    assert_eq!(site.ok(&["call", "echo", "--data", "a"]), "a");
    assert_eq!(site.json(&["calls", "cancel", text(&endless, "call")])["count"], 1);
    assert_eq!(end_of(&site, text(&endless, "call")), ("done".into(), "cancelled".into()));
    until("nothing to run", || (site.status()?["leased_now"] == 0).then_some(()));
    assert_eq!(site.ok(&["call", "echo", "--data", "b"]), "b");
    if !is_root {
        eprintln!("SKIPPED: how a process function is cancelled, because sandboxes need root");
        return;
    }
    // One goes when it is asked, a minute before it would be made to; the other does not hear.
    for (name, trap, grace) in [("polite", "trap 'exit 0' TERM", "60s"), ("deaf", "trap '' TERM", "300ms")] {
        deploy_shell(&site, name, trap, grace);
        let call = site.json(&["submit", name]);
        until("its process", || (processes(&word_of(name)) > 0).then_some(()));
        let asked = Instant::now();
        assert_eq!(site.json(&["calls", "cancel", text(&call, "call")])["count"], 1);
        assert_eq!(end_of(&site, text(&call, "call")), ("done".into(), "cancelled".into()), "{name}");
        until("its process to be gone", || (processes(&word_of(name)) == 0).then_some(()));
        assert!(asked.elapsed() < Duration::from_secs(60), "{name} was made to go at the end of its grace");
    }
    assert_eq!(site.json(&["status"])["retried"], 0, "none runs again");
}

#[test]
fn what_waits_on_disk_is_filtered_by_what_its_submit_says() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    // More than a walk has read at once.
    let lines: String = (0..700).map(|n| format!("{n}\n")).collect();
    let path = site.file("calls.ndjson", lines);
    site.ok(&["submit", "echo", "--ndjson", &path, "--in", "2h", "--criticality", "200"]);
    site.ok(&["submit", "echo", "--in", "2h", "--criticality", "20", "--key", "customer 7"]);
    site.ok(&["submit", "echo", "--in", "2h", "--criticality", "20", "--deadline", "1m"]);
    assert_eq!(count(&site, "criticality>100"), 700);
    assert_eq!(count(&site, "criticality<100 and state=scheduled"), 2);
    assert_eq!(count(&site, "key='customer 7'"), 1);
    assert_eq!(count(&site, "deadline<+125m and start>+1h"), 1);
    let cancel = ["calls", "cancel", "--where", "criticality>=200", "--yes"];
    assert_eq!(site.json(&cancel)["count"], 700);
    assert_eq!(
        (count(&site, "state=scheduled"), count(&site, "criticality=200 and state=scheduled")),
        (2, 0)
    );
}

#[test]
fn a_queue_that_is_drained_takes_no_new_calls_until_it_is_resumed() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.ok(&["queue", "pause", "echo"]);
    let held = site.json(&["submit", "echo", "--data", "x", "--idempotency-key", "k"]);
    site.run(&["queue", "drain", "echo", "--timeout", "200ms"]).fails(7, &["1 calls are left", "paused"]);
    // What is new is refused, by whatever way it comes; what it holds is known.
    let submit = ["submit", "echo", "--data", "x"];
    site.run(&submit).fails(5, &["drains", "millrace queue resume"]);
    let refused = post(&site, "echo", "", "");
    assert_eq!((refused.status, text(&refused.body, "code")), (409, "closed"));
    let again = site.json(&["submit", "echo", "--data", "x", "--idempotency-key", "k"]);
    assert_eq!((&again["call"], text(&again, "verdict")), (&held["call"], "duplicate"));
    let waiting = site.begin(&["queue", "drain", "echo"]);
    std::thread::sleep(Duration::from_millis(300));
    waiting.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(waiting.finish().code(), 130);
    assert_eq!(up.stop(), 0);
    let _up = site.up(&["--cores", "1"]);
    assert_eq!(site.json(&["queue", "show", "echo"])["closed"], true, "on disk");
    site.run(&submit).fails(5, &["drains"]);
    assert_eq!(site.json(&["queue", "resume", "echo"])["count"], 1);
    assert_eq!(end_of(&site, text(&held, "call")).1, "ok");
    // Now for good: it is empty at once, and stays closed.
    let drained = site.json(&["queue", "drain", "echo", "--timeout", "2m"]);
    assert_eq!(
        (&drained["due"], &drained["leased"], &drained["closed"]),
        (&json!(0), &json!(0), &json!(true))
    );
    site.run(&submit).fails(5, &["drains"]);
    assert_eq!(site.json(&["queue", "resume", "echo"])["count"], 1);
    site.ok(&submit);
    assert!(site.json(&["queue", "drain", "echo", "--open", "--timeout", "2m"])["closed"].is_null());
    site.ok(&submit);
    site.run(&["queue", "drain", "nope"]).fails(3, &["nope"]);
}
