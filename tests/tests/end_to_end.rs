//! A user's way through the platform, by the command line: real binary, real processes, real disk.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tests::harness::{COMMAND, ECHO, LOOP, Site, TRAP, millrace, project, until};

/// The keys of an object, for what programs rely on.
fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value}"))
}

/// Unix nanoseconds.
fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

const TWO_ATTEMPTS: &str = "[retry]\nattempts = 2\nbackoff = \"20ms\"";

#[test]
fn up_says_where_and_on_what_it_serves() {
    let site = Site::new();
    let mut up = site.up_whole(&["--cores", "1"]);
    let file = site.up_json();
    for key in ["admin", "tcp", "unix", "shm"] {
        assert!(up.output().contains(text(&file, key)), "{key} is not printed:\n{}", up.output());
    }
    let told = ["node: ring", "node: disk", "core: runtime", "core: memory reset", "core: time slices"];
    for thing in told {
        assert!(up.output().contains(thing), "no backend for {thing}:\n{}", up.output());
    }
    assert_eq!(file["pid"], up.pid());
    let workers = site.json(&["workers"]);
    assert_eq!((workers.as_array().map(Vec::len), &workers[0]["state"]), (Some(1), &json!("live")));
    let expected = "host cpu pid state slots leased credits finished silent_ms backends far";
    assert_eq!(keys(&workers[0]), expected.split(' ').collect());
    assert!(site.ok(&["workers", "--backends"]).contains("memory reset"), "each core says its backends");
    let status = site.json(&["status"]);
    let expected = "version pid incarnation accepted refused duplicates completed retried dead pending leased_now \
                    dead_letters recovered cold_starts queueing execution end_to_end draining backends";
    assert!(keys(&status).is_superset(&expected.split_whitespace().collect()), "{status}");
    assert_eq!(up.stop(), 0, "an idle platform drains");
    assert!(!site.data().join("run/up.json").exists() && !site.data().join("run/control.json").exists());
}

/// Builds a function's folder as its `init` says, in a target directory that outlives the test.
fn build(folder: &Path) {
    let target = millrace().parent().and_then(Path::parent).expect("target/PROFILE").join("tmp/end-to-end");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "-q", "--offline", "--release", "--target", "wasm32-wasip1"]).current_dir(folder);
    assert!(cargo.env("CARGO_TARGET_DIR", &target).status().expect("cargo runs").success());
    let built = target.join("wasm32-wasip1/release/hello.wasm");
    let place = folder.join("target/wasm32-wasip1/release");
    std::fs::create_dir_all(&place).expect("a folder");
    std::fs::copy(built, place.join("hello.wasm")).expect("what cargo built");
}

#[test]
fn a_new_function_is_built_deployed_and_called() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    for (version, template) in ["fast", "command"].iter().enumerate() {
        let place = format!("{template}/hello");
        site.ok(&["init", &place, "--template", template]);
        build(&site.folder().join(&place));
        let state = site.json(&["deploy", &place]);
        assert_eq!((&state["state"], &state["spec"]["version"]), (&json!("ready"), &json!(version + 1)));
        assert_eq!(site.ok(&["call", "hello", "--data", "world"]), "hello, world");
    }
}

#[test]
fn bytes_go_in_and_come_out() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.deploy("command", COMMAND, TWO_ATTEMPTS);
    let all: Vec<u8> = (0..50_000u32).map(|index| (index % 251) as u8).collect();
    let file = site.file("all.bin", &all);
    for function in ["echo", "command"] {
        let ran = site.run(&["call", function, "--file", &file]);
        assert_eq!(ran.code(), 0, "{ran}");
        assert!(ran.bytes() == all, "{function} returned {} other bytes", ran.bytes().len());
    }
    let mut piped = site.begin(&["call", "command", "-"]);
    piped.write(b"from stdin");
    let ran = piped.finish();
    assert_eq!((ran.code(), ran.stdout().as_str(), ran.stderr().as_str()), (0, "from stdin", "heard\n"));
    let ran = site.run(&["call", "command", "--data", "!"]);
    ran.fails(1, &["heard", "exit status 3", "after 2 deliveries"]);
    assert_eq!(ran.stdout(), "!", "what it wrote before is there");
    let outcome = site.json(&["call", "echo", "--data", "x"]);
    assert_eq!(keys(&outcome), "call status deliveries usage output stderr".split(' ').collect());
    assert_eq!((text(&outcome, "status"), text(&outcome, "output")), ("ok", "x"));
    let ran = site.run(&["call", "command", "--data", "!", "-o", "json"]);
    assert_eq!((ran.code(), &ran.json()["usage"]["exit_code"]), (1, &json!(3)));
}

#[test]
fn files_of_calls_are_submitted_and_waited_for() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let one = site.json(&["submit", "echo", "--data", "x", "--wait"]);
    assert_eq!(text(&one, "status"), "ok");
    let state = site.json(&["calls", "show", text(&one, "call")]);
    let expected =
        "call function state status start_at deadline criticality attempts reason usage output stderr";
    assert_eq!(keys(&state), expected.split(' ').collect());
    assert_eq!((text(&state, "state"), text(&state, "output")), ("done", "x"));
    let lines: String = (1..=1000).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let tally = site.json(&["submit", "echo", "--ndjson", &site.file("b.ndjson", lines), "--wait"]);
    assert_eq!((&tally["accepted"], &tally["outcomes"]), (&json!(1000), &json!({"ok": 1000})));
    assert_eq!(keys(&tally), "batch accepted duplicates outcomes failed_calls".split(' ').collect());
    let csv = site.file("people.csv", "name,n\n\"Ada, L.\",1\nAlan,2\n");
    let tally = site.json(&["submit", "echo", "--csv", &csv, "--wait"]);
    assert_eq!(tally["outcomes"], json!({"ok": 2}));
    let batch = text(&tally, "batch");
    let tally = site.json(&["submit", "echo", "--csv", &csv, "--column", "name", "--batch", batch]);
    assert_eq!((&tally["accepted"], &tally["duplicates"]), (&json!(2), &json!(2)), "the same batch again");
}

#[test]
fn a_call_waits_for_its_time() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let submitted = wall();
    let terms = ["--in", "3s", "--deadline", "1h", "--criticality", "77"];
    let call = site.json(&[&["submit", "echo", "--data", "later"], &terms[..]].concat());
    let id = text(&call, "call").to_owned();
    let state = site.json(&["calls", "show", &id]);
    assert_eq!((text(&state, "state"), &state["criticality"]), ("scheduled", &json!(77)));
    let start = state["start_at"].as_u64().expect("Unix ns");
    assert!(start >= submitted + 3_000_000_000, "{state}");
    assert_eq!(state["deadline"].as_u64(), Some(start + 3_600_000_000_000));
    let peeked = site.json(&["queue", "peek", "echo"]);
    assert_eq!((text(&peeked[0], "call"), text(&peeked[0], "state")), (id.as_str(), "scheduled"));
    let queues = site.json(&["queue", "list"]);
    assert_eq!(queues[0]["scheduled"], 1);
    assert_eq!(
        keys(&queues[0]),
        "function scheduled due leased dead oldest_due_ms bytes".split(' ').collect()
    );
    let ended = site.json(&["calls", "show", &id, "--wait", "1m"]);
    assert_eq!(text(&ended, "state"), "done");
    assert!(wall() >= start, "it ran before its time");
    // What is no longer known is not made up.
    assert!(ended["deadline"] == 0 || ended["deadline"].as_u64() > ended["start_at"].as_u64(), "{ended}");
    let at = whole_seconds(wall() + 2_000_000_000);
    let before_its_time = (at.parse::<u64>().expect("seconds")) * 1_000_000_000;
    let outcome = site.json(&["submit", "echo", "--data", "x", "--at", &at, "--wait"]);
    assert!(wall() >= before_its_time && text(&outcome, "status") == "ok", "{outcome}");
}

/// A time as `--at` takes it: whole seconds since 1970.
fn whole_seconds(unix_ns: u64) -> String {
    (unix_ns / 1_000_000_000).to_string()
}

#[test]
fn what_fails_is_tried_again_given_up_and_run_anew_once_it_is_mended() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("f", TRAP, TWO_ATTEMPTS);
    let first = site.run(&["call", "f", "--data", "one"]);
    first.fails(1, &["unreachable", "after 2 deliveries: trap", "millrace dlq list"]);
    site.run(&["call", "f", "--data", "two"]).fails(1, &["trap"]);
    let status = site.json(&["status"]);
    assert_eq!((&status["retried"], &status["dead_letters"]), (&json!(2), &json!(2)));
    let letters = site.json(&["dlq", "list", "--function", "f"]);
    let ids: Vec<&str> =
        letters.as_array().expect("a list").iter().map(|letter| text(letter, "call")).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!((text(&letters[0], "state"), text(&letters[0], "status")), ("dead", "trap"));
    assert_eq!(letters[0]["attempts"], 2);
    assert!(text(&letters[0], "stderr").contains("unreachable"), "{letters}");
    // Mended: one by its id, then what is left.
    site.deploy("f", ECHO, TWO_ATTEMPTS);
    assert_eq!(site.json(&["dlq", "redrive", "--call", ids[0]])["count"], 1);
    let one = site.json(&["calls", "show", ids[0], "--wait", "1m"]);
    assert_eq!(text(&one, "state"), "done");
    assert_eq!(site.json(&["dlq", "redrive", "--function", "f"])["count"], 1);
    assert_eq!(text(&site.json(&["calls", "show", ids[1], "--wait", "1m"]), "state"), "done");
    assert_eq!(site.json(&["dlq", "list"]), json!([]));
    site.run(&["dlq", "redrive", "--call", ids[0]]).fails(3, &["not among the dead letters"]);
}

#[test]
fn functions_are_listed_shown_and_deleted() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "namespace = \"social\"\ncriticality = \"high\"\nconcurrency = 5");
    site.deploy("other", ECHO, "");
    let list = site.json(&["function", "list"]);
    let names: BTreeSet<&str> =
        list.as_array().expect("a list").iter().map(|f| text(&f["spec"], "name")).collect();
    assert_eq!(names, BTreeSet::from(["echo", "other"]));
    let shown = site.json(&["function", "show", "social/echo"]);
    assert_eq!(keys(&shown), "spec state reason hosts pending completed failed".split(' ').collect());
    let spec = &shown["spec"];
    assert_eq!(
        (&spec["criticality"], &spec["concurrency"], &spec["version"]),
        (&json!(150), &json!(5), &json!(1))
    );
    assert!(site.ok(&["function", "show", "social/echo"]).contains("social/echo"));
    site.ok(&["submit", "social/echo", "--in", "1h"]);
    site.run(&["function", "delete", "social/echo"]).fails(5, &["social/echo"]);
    assert_eq!(site.json(&["function", "delete", "social/echo", "--force"])["count"], 1);
    site.run(&["call", "social/echo"]).fails(3, &["social/echo", "millrace deploy"]);
    site.run(&["function", "show", "social/echo"]).fails(3, &["social/echo", "millrace function list"]);
    site.run(&["calls", "show", "019a9f3c2b7e5d0a4c1f8e6b3d2a1908"])
        .fails(3, &["019a9f3c2b7e5d0a4c1f8e6b3d2a1908"]);
    let letters = site.json(&["dlq", "list"]);
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "a deleted function's call is kept: {letters}");
}

#[test]
fn load_and_replay_measure_and_keep_a_record() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let load =
        ["load", "echo", "--rate", "500", "-t", "2s", "--outcomes", "--patience", "1m", "--hlog", "l.hlog"];
    let report = site.json(&load);
    assert_eq!((&report["sent"], &report["unanswered"]), (&json!(1000), &json!(0)), "{report}");
    assert_eq!(
        (&report["verdicts"], &report["outcomes"]),
        (&json!({"accepted": 1000}), &json!({"ok": 1000}))
    );
    let hlog = std::fs::read_to_string(site.folder().join("l.hlog")).expect("a log");
    assert!(hlog.starts_with("#[Histogram log format version 1.3]\n"), "{hlog}");
    for tag in ["late", "ack", "outcome"] {
        let of_tag: Vec<&str> =
            hlog.lines().filter(|line| line.starts_with(&format!("Tag={tag},"))).collect();
        // V2 deflate in base64 begins with the cookie's bytes.
        assert!(of_tag.len() >= 2 && of_tag.iter().all(|line| line.contains(",HISTF")), "{tag} in:\n{hlog}");
    }
    let data = project().join("tools/tests/data");
    let azure2019 = data.join("azure2019").display().to_string();
    let azure2021 = data.join("azure2021.csv").display().to_string();
    let outputs = ["--ledger", "ledger.csv", "--picture", "calls.svg"];
    let summary =
        site.json(&[&["replay", &azure2019, "--deploy", "--compress", "28800"], &outputs[..]].concat());
    assert_eq!((&summary["calls"], &summary["lost"]), (&json!(193), &json!(0)));
    assert_eq!(summary["fates"], json!({"completed": 193}));
    let ledger = std::fs::read_to_string(site.folder().join("ledger.csv")).expect("a ledger");
    assert_eq!(
        ledger.lines().filter(|line| line.contains(",accepted,") && line.contains(",ok,")).count(),
        193
    );
    assert!(std::fs::read_to_string(site.folder().join("calls.svg")).expect("a picture").starts_with("<svg"));
    let summary = site.json(&["replay", &azure2021, "--function", "echo", "--compress", "100000"]);
    assert_eq!((&summary["calls"], &summary["fates"]), (&json!(10), &json!({"completed": 10})));
}

#[test]
fn everything_stopped_and_started_again_goes_on() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.deploy("loop", LOOP, "timeout = \"1500ms\"\n[retry]\nattempts = 1");
    let later = site.json(&["submit", "echo", "--data", "kept", "--in", "6s"]);
    site.ok(&["submit", "loop"]);
    until("the loop to run", || (site.status()?["leased_now"] == 1).then_some(()));
    // Accepted behind it, some of them still waiting when the drain begins.
    let lines: String = (0..2000).map(|n| format!("{n}\n")).collect();
    let tally = site.json(&["submit", "echo", "--ndjson", &site.file("b.ndjson", lines)]);
    assert_eq!(tally["accepted"], 2000);
    assert_eq!(up.stop(), 0, "a drain waits for what runs: {}", up.output());
    let _up = site.up(&["--cores", "1"]);
    let functions = site.json(&["function", "list"]);
    assert_eq!(functions.as_array().map(Vec::len), Some(2), "functions survive");
    let ended = site.json(&["calls", "show", text(&later, "call"), "--wait", "1m"]);
    assert_eq!((text(&ended, "state"), text(&ended, "function")), ("done", "default/echo"));
    until("the queue to be empty", || (site.status()?["pending"] == 0).then_some(()));
    let again = ["submit", "echo", "--ndjson", "b.ndjson", "--batch", text(&tally, "batch")];
    assert_eq!(site.json(&again)["duplicates"], 2000, "each accepted call is known after the restart");
    let loops = site.json(&["dlq", "list", "--function", "loop"]);
    assert_eq!(text(&loops[0], "status"), "timeout", "the call that ran into the drain has ended: {loops}");
}

#[test]
fn who_gave_a_busy_core_its_cpu_is_told_by_the_kernel() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("loop", LOOP, "timeout = \"20s\"\n[retry]\nattempts = 1");
    site.ok(&["submit", "loop"]);
    until("the loop to run", || (site.status()?["leased_now"] == 1).then_some(()));
    if !nix::unistd::geteuid().is_root() {
        // What it says to someone who may not ask is part of the promise.
        eprintln!("SKIPPED: the kernel's view of a core needs root, and this runs as another user");
        return site.run(&["workers", "--sched", "100ms"]).fails(8, &["eBPF", "root"]);
    }
    let seen = site.json(&["workers", "--sched", "500ms"]);
    let pid = &site.json(&["workers"])[0]["pid"];
    assert_eq!((seen.as_array().map(Vec::len), &seen[0]["pid"]), (Some(1), pid), "{seen}");
    assert!(seen[0]["ran_thousandths"].as_u64() > Some(0), "a core with an endless loop ran: {seen}");
    assert!(site.ok(&["workers", "--sched", "100ms"]).to_lowercase().contains("run-queue delay"));
}
