//! What operators do to calls, queues and the log, by the command line: real binary, real processes, real disk.

use serde_json::{Value, json};
use std::path::Path;
use tests::harness::{ECHO, Site, TRAP, until};

/// Submits so many calls, each with its number as JSON.
fn submit(site: &Site, function: &str, count: usize, more: &[&str]) {
    let lines: String = (0..count).map(|n| format!("{n}\n")).collect();
    let path = site.file("calls.ndjson", lines);
    let mut arguments = vec!["submit", function, "--ndjson", &path];
    arguments.extend(more);
    site.ok(&arguments);
}

/// How many calls a filter means.
fn count(site: &Site, filter: &str) -> u64 {
    let page = site.json(&["calls", "list", "--where", filter]);
    assert_eq!(page["unknown"], 0, "{filter}");
    page["matched"].as_u64().expect("a count")
}

fn wait_for(site: &Site, filter: &str, wanted: u64) {
    until(filter, || (count(site, filter) == wanted).then_some(()));
}

const ONE_ATTEMPT: &str = "[retry]\nattempts = 1";

#[test]
fn calls_are_listed_cancelled_and_held_by_filter() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "namespace = \"media\"\ntenant = \"shop\"");
    submit(&site, "media/echo", 5, &["--in", "1h"]);
    submit(&site, "media/echo", 2, &["--in", "3h"]);
    assert_eq!(count(&site, "function=ec* and start>+30m and start<+2h and not attempts>0"), 5);
    assert_eq!(count(&site, "tenant=shop and age<1h and (state=scheduled or state=dead)"), 7);
    let page = site.json(&["calls", "list", "--limit", "3"]);
    assert_eq!((page["calls"].as_array().map(Vec::len), &page["matched"]), (Some(3), &json!(7)));
    let peeked = site.json(&["queue", "peek", "media/echo", "--where", "start>+2h"]);
    assert_eq!(peeked.as_array().map(Vec::len), Some(2), "{peeked}");
    // Nothing happens before somebody agrees.
    let cancel = ["calls", "cancel", "--where", "start<+2h"];
    site.run(&cancel).fails(2, &["5 calls would be cancelled", "--yes"]);
    assert_eq!(site.json(&[&cancel[..], &["--dry-run"]].concat())["matched"], 5);
    assert_eq!(count(&site, "state=scheduled"), 7);
    assert_eq!(site.json(&[&cancel[..], &["--yes"]].concat())["count"], 5);
    wait_for(&site, "state=done and status=cancelled", 5);
    let left = site.json(&["calls", "list"]);
    let id = left["calls"][0]["call"].as_str().expect("an id").to_owned();
    assert_eq!(site.json(&["calls", "cancel", &id])["count"], 1);
    site.run(&["calls", "cancel", &id]).fails(5, &["has ended"]);
    // Held, a queue takes calls and runs none.
    assert_eq!(site.json(&["queue", "pause", "media/echo"])["count"], 1);
    submit(&site, "media/echo", 3, &[]);
    let state = site.json(&["queue", "show", "media/echo"]);
    assert_eq!((&state["paused"], &state["leased"]), (&json!("function"), &json!(0)), "{state}");
    let drain = ["queue", "drain", "media/echo", "--open", "--due", "--timeout"];
    site.run(&[&drain[..], &["300ms"]].concat()).fails(7, &["3 calls are left"]);
    assert_eq!(site.json(&["queue", "pause", "--tenant", "shop"])["count"], 0, "they are held already");
    assert_eq!(site.json(&["queue", "resume", "media/echo"])["count"], 0, "the tenant still holds them");
    assert_eq!(site.json(&["queue", "resume", "--tenant", "shop"])["count"], 1);
    assert_eq!(site.json(&[&drain[..], &["2m"]].concat())["due"], 0);
    assert_eq!(count(&site, "state=done and status=ok"), 3);
}

#[test]
fn dead_letters_are_shown_redriven_and_purged_by_filter() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("trap", TRAP, ONE_ATTEMPT);
    site.deploy("later", TRAP, "[retry]\nattempts = 2\nbackoff = \"1h\"\nbackoff_max = \"1h\"");
    submit(&site, "trap", 4, &[]);
    submit(&site, "later", 1, &[]);
    wait_for(&site, "state=dead", 4);
    wait_for(&site, "state=retrying", 1);
    let letters =
        site.json(&["dlq", "list", "--function", "trap", "--where", "error~UNREACHABLE and status=trap"]);
    assert_eq!(letters.as_array().map(Vec::len), Some(4), "{letters}");
    let id = letters[0]["call"].as_str().expect("an id").to_owned();
    assert_eq!(site.json(&["dlq", "show", &id])["state"], "dead");
    // What waits to be tried again is tried now.
    let waits = site.json(&["calls", "list", "--where", "state=retrying"]);
    let waits = waits["calls"][0]["call"].as_str().expect("an id").to_owned();
    site.run(&["dlq", "show", &waits]).fails(3, &["no dead letter"]);
    assert_eq!(site.json(&["calls", "retry", &waits])["count"], 1);
    wait_for(&site, "state=dead", 5);
    attempts(&site, &waits);
    // Mended, and redriven by what they are.
    site.deploy("trap", ECHO, ONE_ATTEMPT);
    let redrive = ["dlq", "redrive", "--where", "function=trap and reason~trap"];
    site.run(&redrive).fails(2, &["4 calls would be pending again", "--dry-run"]);
    assert_eq!(site.json(&[&redrive[..], &["--yes"]].concat())["count"], 4);
    wait_for(&site, "function=trap and state=done and status=ok", 4);
    let purge = ["dlq", "purge", "--function", "later", "--where", "attempts=2"];
    assert_eq!(site.json(&[&purge[..], &["--dry-run"]].concat())["matched"], 1);
    assert_eq!(site.json(&[&purge[..], &["--yes"]].concat())["count"], 1);
    assert_eq!(site.json(&["dlq", "list"]), json!([]));
    assert_eq!(site.json(&["dlq", "purge", "--all"])["count"], 0, "of none nobody is asked");
}

/// The attempts of a dead letter that was tried twice are listed, whatever happens to the node, and after a redrive.
fn attempts(site: &Site, id: &str) {
    let listed = |verb: &str| site.json(&[verb, "show", id])["history"].clone();
    let before = listed("dlq");
    let each: Vec<&Value> = before["attempts"].as_array().expect("a list").iter().collect();
    let said = |of: &Value| of["error"].as_str().is_some_and(|text| text.contains("unreachable"));
    let known = |of: &Value| {
        let took = of["ended"].as_u64().zip(of["began"].as_u64()).is_some_and(|(ended, began)| ended > began);
        took && said(of) && of["status"] == "trap" && of["worker"].as_str().is_some_and(|at| at.contains('/'))
    };
    assert!(each.len() == 2 && each.iter().all(|of| known(of)), "{before}");
    assert_eq!(
        (&each[0]["number"], &each[1]["number"], &before["earlier"]),
        (&json!(1), &json!(2), &json!(0))
    );
    let text = site.ok(&["dlq", "show", id]);
    assert!(text.contains("attempts that failed") && text.contains("unreachable"), "{text}");
    let node = nix::unistd::Pid::from_raw(site.up_json()["control"].as_i64().expect("a process id") as i32);
    nix::sys::signal::kill(node, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    until("the node to be back", || (site.status()?["incarnation"] == 2).then_some(()));
    assert_eq!(listed("dlq"), before);
    // It fails once more in its second life, and then waits for an hour.
    assert_eq!(site.json(&["dlq", "redrive", "--call", id])["count"], 1);
    wait_for(site, "state=retrying", 1);
    let after = listed("calls");
    let lives: Vec<(u64, bool)> = after["attempts"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|of| (of["number"].as_u64().expect("a number"), of["redriven"].as_bool().expect("yes or no")))
        .collect();
    assert_eq!(lives, [(1, true), (2, true), (1, false)], "{after}");
    let text = site.ok(&["calls", "show", id]);
    assert!(text.contains("1, before the redrive"), "{text}");
    assert_eq!(site.json(&["calls", "retry", id])["count"], 1);
    wait_for(site, "state=dead", 5);
}

#[test]
fn what_is_wrong_with_an_order_is_told() {
    let site = Site::new();
    let _node = site.control();
    let none = "0".repeat(32);
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (
            &["calls", "list", "--where", "agee>1h"],
            2,
            &["no field `agee`", "character 1", "did you mean `age`"],
        ),
        (&["calls", "cancel", "--where", "age>"], 2, &["a value is missing", "character 5"]),
        (&["calls", "cancel", &none, "--dry-run"], 2, &["is not counted first"]),
        (&["calls", "cancel", &none], 3, &["no call"]),
        (&["dlq", "purge", "--call", &none], 3, &["not among the dead letters"]),
        (&["queue", "pause", "nope"], 3, &["nope"]),
        (&["queue", "show", "nope"], 3, &["default/nope"]),
    ];
    for (arguments, code, words) in cases {
        site.run(arguments).fails(code, words);
    }
    let lines: [(&[&str], &str); 4] = [
        (&["calls", "cancel"], "--where"),
        (&["calls", "retry", "xyz"], "32 hexadecimal digits"),
        (&["dlq", "purge"], "--all"),
        (&["queue", "pause"], "--tenant"),
    ];
    for (arguments, word) in lines {
        let ran = site.run(arguments);
        assert!(ran.code() == 2 && ran.stderr().contains(word), "{ran}");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("a file");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("a file");
}

#[test]
fn a_node_that_serves_is_copied_and_the_copy_serves() {
    let site = Site::new();
    let up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.deploy("trap", TRAP, ONE_ATTEMPT);
    submit(&site, "trap", 1, &[]);
    wait_for(&site, "state=dead", 1);
    submit(&site, "echo", 20, &["--in", "1h"]);
    let copy = site.folder().join("copy");
    let there = copy.to_str().expect("a plain path");
    let manifest = site.json(&["backup", there]);
    assert_eq!((&manifest["pending"], &manifest["dead_letters"]), (&json!(20), &json!(1)), "{manifest}");
    // The node goes on; what it takes now is not in the copy.
    submit(&site, "echo", 7, &["--in", "1h"]);
    assert_eq!(count(&site, "state=scheduled"), 27);
    site.run(&["backup", there]).fails(8, &["not empty"]);
    drop(up);

    let other = Site::new();
    let data = other.data();
    let to = data.to_str().expect("a plain path");
    assert_eq!(other.json(&["restore", there, "--check"]), manifest);
    other.ok(&["restore", there, "--data-dir", to]);
    other.run(&["restore", there, "--data-dir", to]).fails(8, &["not empty"]);
    let dump = other.ok(&["log", "dump", "-o", "json"]);
    let entries: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |kind: &str| entries.iter().filter(|entry| entry["kind"] == kind).count();
    assert_eq!((of("submit"), of("dead"), of("damaged")), (21, 1, 0), "{dump}");
    let dead = entries.iter().find(|entry| entry["kind"] == "dead").expect("counted above");
    assert_eq!((&dead["status"], &dead["attempts"][0]["status"]), (&json!("trap"), &json!("trap")), "{dead}");
    {
        let _up = other.up(&["--cores", "1"]);
        assert_eq!((count(&other, "state=scheduled"), count(&other, "state=dead")), (20, 1));
        assert_eq!(other.ok(&["call", "echo", "--data", "still here"]), "still here");
    }
    damage(&site, &copy, &entries);
}

/// Each damage of a copy is named, and nothing is made of a damaged one.
fn damage(site: &Site, copy: &Path, entries: &[Value]) {
    let there = copy.to_str().expect("a plain path");
    let fresh = site.folder().join("fresh");
    let restore = ["restore", there, "--data-dir", fresh.to_str().expect("a plain path")];
    let submit = entries.iter().find(|entry| entry["kind"] == "submit").expect("a submit");
    let log = copy.join("log").join(submit["file"].as_str().expect("a name"));
    let offset = submit["offset"].as_u64().expect("a place") as usize;
    flip(&log, offset + 70);
    site.run(&["restore", there, "--check"]).fails(6, &[".seg", "is not what the manifest says"]);
    site.run(&restore).fails(6, &[".seg"]);
    assert!(!fresh.join("VERSION").exists(), "no data directory is made of it");
    // And in a log, with the place and the call that is lost.
    let ran = site.run(&["log", "dump", "--data-dir", there, "--damaged", "-o", "json"]);
    ran.fails(6, &["1 places are damaged"]);
    let told: Value = serde_json::from_str(ran.stdout().trim()).expect("JSON");
    let call = submit["call"].as_str().expect("an id");
    assert!(
        told["damage"].as_str().is_some_and(|text| text.contains("checksum") && text.contains(call)),
        "{told}"
    );
    flip(&log, offset + 70);
    site.ok(&["restore", there, "--check"]);
    let manifest = copy.join("backup.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    std::fs::write(&manifest, text.replace("\"pending\": 20", "\"pending\": 21")).expect("a file");
    site.run(&["restore", there, "--check"]).fails(6, &["checksum does not match"]);
    std::fs::remove_file(&manifest).expect("it is there");
    site.run(&["restore", there, "--check"]).fails(3, &["no manifest"]);
}
