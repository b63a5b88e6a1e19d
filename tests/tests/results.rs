//! Results that are too large for a frame, through the real platform: stored before they are told, given byte for byte by
//! each way out, told when they are damaged, whole whatever dies meanwhile, and gone when nobody may ask for them.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::clients::runs_processes;
use tests::harness::{Site, until};
use tests::http::ask;

/// Gives its arguments back, however many they are.
const ECHO: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "millrace_alloc") (param $bytes i32) (result i32)
    (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $bytes) (i32.const 16)))))
    (i32.const 65536))
  (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $bytes)))))"#;

const MEMORY: &str = "memory = \"64MiB\"";

/// Bytes of a result.
const LARGE: usize = 5 << 20;

/// Bytes that nobody else sends.
fn large(seed: usize) -> Vec<u8> {
    (0..LARGE + seed).map(|n| (n * 31 + n / 999 + seed * 7) as u8).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The files of a node's store, those that are not whole apart.
fn blobs(data: &Path) -> (Vec<PathBuf>, usize) {
    let entries = std::fs::read_dir(data.join("blobs")).expect("a store");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_whole = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
    let (whole, parts): (Vec<PathBuf>, Vec<PathBuf>) = paths.partition(is_whole);
    (whole, parts.len())
}

/// A request to the admin API of the node of a data directory; status, head and body.
fn http(data: &Path, request: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    ask(data, request, "", body)
}

/// Submits a call over HTTP; its id.
fn submit(data: &Path, function: &str, body: &[u8]) -> String {
    let (status, _, answer) = http(data, &format!("POST /v1/functions/default/{function}/calls"), body);
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&answer));
    text(&serde_json::from_slice(&answer).expect("JSON"), "call").to_owned()
}

/// The result of a call once it has ended.
fn result(site: &Site, data: &Path, call: &str) -> (u16, Vec<u8>) {
    site.json(&["calls", "show", call, "--wait", "60s"]);
    let (status, _, body) = http(data, &format!("GET /v1/calls/{call}/result"), b"");
    (status, body)
}

/// Kills a process, which may have a moment left.
fn kill_hard(pid: &Value) {
    let pid = i32::try_from(pid.as_u64().expect("a process")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
}

/// Waits until the node serves that was started after this one.
fn next_node(site: &Site, before: &Value) {
    let is_next = |now: &Value| now["incarnation"].as_u64() > before["incarnation"].as_u64();
    until("the node to serve again", || site.status().filter(is_next).map(drop));
}

#[test]
fn a_large_result_arrives_byte_for_byte_by_each_way_out() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, MEMORY);
    let bytes = large(1);
    let file = site.file("large", &bytes);
    assert!(site.run(&["call", "echo", "--file", &file]).bytes() == bytes, "by the native protocol");
    let (status, _, body) = http(&site.data(), "POST /v1/functions/default/echo/calls?wait=60000", &bytes);
    let state: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, text(&state, "status")), (200, "ok"), "{state}");
    assert!(state["output"].is_null() && state["result"]["bytes"] == LARGE + 1, "{state}");
    let call = text(&state, "call");
    let (status, head, body) = http(&site.data(), &format!("GET /v1/calls/{call}/result"), b"");
    assert!(status == 200 && body == bytes, "{head}");
    assert!(head.to_lowercase().contains("x-millrace-status: ok"), "{head}");
    let shown = site.json(&["calls", "show", call]);
    assert_eq!(shown["result"], state["result"]);
    let into = site.folder().join("result");
    let into_text = into.to_str().expect("a plain path");
    let written = site.json(&["calls", "result", call, "--file", into_text]);
    assert_eq!((text(&written, "status"), &written["bytes"]), ("ok", &state["result"]["bytes"]));
    assert!(std::fs::read(&into).expect("a file") == bytes);
    assert!(site.run(&["calls", "result", call]).bytes() == bytes, "to stdout");
    // Small ones go the same way, and are no blobs.
    let small = submit(&site.data(), "echo", b"\xff small");
    assert_eq!(result(&site, &site.data(), &small), (200, b"\xff small".to_vec()));
    assert_eq!(blobs(&site.data()).0.len(), 1, "arguments and result are the same bytes");
    let json = format!("\"{}\"", "x".repeat(2 << 20));
    let (status, _, body) =
        http(&site.data(), "POST /2015-03-31/functions/echo/invocations", json.as_bytes());
    assert!(status == 200 && body == json.as_bytes(), "by the Lambda API");
    site.run(&["calls", "result", "0000000000000000000000000000abcd"]).fails(3, &["no call"]);
    let waits = site.ok(&["submit", "echo", "--data", "x", "--in", "1h"]);
    site.run(&["calls", "result", waits.trim()]).fails(5, &["has not ended"]);
}

#[test]
fn a_large_result_of_a_process_arrives_byte_for_byte() {
    if !runs_processes() {
        return;
    }
    let site = Site::new();
    let _up = site.up_whole(&["--cores", "1"]);
    site.file("cat/bundle/run", "#!/bin/sh\ncat\n");
    let manifest = "name = \"cat\"\nruntime = \"process\"\nabi = \"stdio\"\nbundle = \"bundle\"\n\
                    memory = \"256MiB\"\ncommand = [\"/bin/sh\", \"/var/task/run\"]";
    let manifest = site.file("cat/function.toml", manifest);
    site.ok(&["deploy", &manifest]);
    let bytes = large(2);
    let file = site.file("large", &bytes);
    let ran = site.run(&["call", "cat", "--file", &file]);
    assert!(ran.bytes() == bytes, "{} bytes: {}", ran.bytes().len(), ran.stderr());
}

#[test]
fn a_result_that_decays_is_told_and_never_given() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, MEMORY);
    let call = submit(&site.data(), "echo", &large(3));
    let ended = site.json(&["calls", "show", &call, "--wait", "60s"]);
    let blob = site.data().join("blobs").join(text(&ended["result"], "blob"));
    let mut bytes = std::fs::read(&blob).expect("a blob");
    bytes[3 << 20] ^= 1;
    std::fs::write(&blob, &bytes).expect("written");
    let (status, body) = result(&site, &site.data(), &call);
    assert!(status == 500 && body.len() < 1000, "{status}, {} bytes", body.len());
    assert!(String::from_utf8_lossy(&body).contains("the blob is damaged, and not served"));
    let into = site.folder().join("result");
    let ran = site.run(&["calls", "result", &call, "--file", into.to_str().expect("a plain path")]);
    ran.fails(9, &["the blob is damaged"]);
    assert!(!into.exists() && !site.folder().join("result.part").exists());
    std::fs::remove_file(&blob).expect("a blob");
    let (status, body) = result(&site, &site.data(), &call);
    assert_eq!(status, 500, "{}", String::from_utf8_lossy(&body));
    assert!(String::from_utf8_lossy(&body).contains("the blob is not there"));
}

#[test]
fn results_are_whole_whatever_dies_meanwhile() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "memory = \"64MiB\"\n[retry]\nattempts = 5");
    let submit_some = |from: usize| -> Vec<(usize, String)> {
        (from..from + 6).map(|seed| (seed, submit(&site.data(), "echo", &large(seed)))).collect()
    };
    let check = |calls: &[(usize, String)]| {
        for (seed, call) in calls {
            let (status, body) = result(&site, &site.data(), call);
            assert!(status == 200 && body == large(*seed), "call {call}: {status}, {} bytes", body.len());
        }
    };
    for round in 0..3 {
        let core = site.json(&["workers"])[0]["pid"].clone();
        let calls = submit_some(100 + 10 * round);
        std::thread::sleep(Duration::from_millis(7 * round as u64));
        kill_hard(&core);
        check(&calls);
    }
    for round in 0..2 {
        let node = site.status().expect("it serves");
        let calls = submit_some(200 + 10 * round);
        std::thread::sleep(Duration::from_millis(10 * round as u64));
        kill_hard(&node["pid"]);
        next_node(&site, &node);
        check(&calls);
    }
    // What was half-way when a core died goes by itself, what was when the node died at its start.
    until("no part to be left", || (blobs(&site.data()).1 == 0).then_some(()));
}

#[test]
fn a_store_that_is_full_ends_the_call_with_clear_words() {
    let site = Site::new();
    let up = site.up(&["--cores", "1", "--blobs-total", "8MiB"]);
    site.deploy("echo", ECHO, "memory = \"64MiB\"\n[retry]\nattempts = 1");
    let call = submit(&site.data(), "echo", &large(4));
    let ended = site.json(&["calls", "show", &call, "--wait", "60s"]);
    assert_eq!((text(&ended, "state"), text(&ended, "status")), ("dead", "unavailable"), "{ended}");
    let reason = text(&ended, "reason");
    assert!(reason.contains("the result could not be stored") && reason.contains("--blobs-total"), "{ended}");
    assert_eq!(blobs(&site.data()).1, 0, "nothing of it stays");
    until("word of it", || up.output().contains("event=result-not-stored").then_some(()));
    // The core goes on.
    let small = submit(&site.data(), "echo", b"small");
    assert_eq!(result(&site, &site.data(), &small).1, b"small");
}

#[test]
fn results_that_a_kept_end_names_stay_and_go_after_it() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1", "--blob-grace", "1s"]);
    site.deploy("echo", ECHO, MEMORY);
    site.deploy("brief", ECHO, "memory = \"64MiB\"\n[queue]\nretain = \"15s\"");
    let kept = submit(&site.data(), "echo", &large(5));
    let brief = submit(&site.data(), "brief", &large(6));
    assert!(
        result(&site, &site.data(), &kept).1 == large(5) && result(&site, &site.data(), &brief).1 == large(6)
    );
    // After a start they are known from the log.
    let node = site.status().expect("it serves");
    kill_hard(&node["pid"]);
    next_node(&site, &node);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(site.json(&["blobs", "collect"])["named"], 2);
    assert_eq!(blobs(&site.data()).0.len(), 2);
    let copy = site.folder().join("copy");
    site.ok(&["backup", copy.to_str().expect("a plain path")]);
    assert_eq!(blobs(&copy).0.len(), 2, "a copy has them");
    until("the one to go whose time is over", || {
        site.json(&["blobs", "collect"]);
        (blobs(&site.data()).0.len() == 1).then_some(())
    });
    assert!(
        result(&site, &site.data(), &kept).1 == large(5),
        "an end that is remembered while there is room"
    );
    let (status, _) = result(&site, &site.data(), &brief);
    assert!(matches!(status, 404 | 500), "{status}: it was kept for 15 s");
}

#[test]
fn a_result_of_another_shard_is_given_by_each() {
    let site = Site::new();
    let _up = site.up(&["--shards", "2", "--slots", "4"]);
    let data = [site.data(), site.data().join("shard-1")];
    site.deploy("echo", ECHO, MEMORY);
    for seed in 10..14 {
        let bytes = large(seed);
        let file = site.file("large", &bytes);
        assert!(site.run(&["call", "echo", "--file", &file]).bytes() == bytes, "by the native protocol");
        let call = submit(&data[seed % 2], "echo", &bytes);
        for data in &data {
            let (status, body) = result(&site, data, &call);
            assert!(status == 200 && body == bytes, "{status}, {} bytes", body.len());
        }
    }
    // Small arguments go to whichever shard owns their call.
    let (status, _, body) = http(
        &data[0],
        "POST /2015-03-31/functions/echo/invocations",
        format!("\"{}\"", "y".repeat(900_000)).as_bytes(),
    );
    assert!(status == 200 && body.len() == 900_002, "{status}, {} bytes", body.len());
}
