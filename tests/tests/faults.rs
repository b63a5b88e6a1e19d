//! Parts killed while they work, and functions that misbehave: each call ends, the others do not notice.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::Stdio;
use tests::harness::{DEEP, ECHO, HOG, LOOP, Running, Site, TRAP, until};

fn kill_hard(pid: &Value) {
    let pid = pid.as_u64().unwrap_or_else(|| panic!("no pid: {pid}"));
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it runs");
}

/// Lines of a batch, numbered from 1.
fn lines(from: usize, to: usize) -> String {
    (from..=to).map(|n| format!("{{\"n\": {n}}}\n")).collect()
}

#[test]
fn a_bad_function_harms_its_own_calls_only() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let bad = [("trap", TRAP), ("timeout", LOOP), ("memory", HOG), ("stack", DEEP)];
    for (status, wat) in bad {
        site.deploy(status, wat, "timeout = \"300ms\"\nmemory = \"1MiB\"\n[retry]\nattempts = 1");
    }
    let pid = site.json(&["workers"])[0]["pid"].clone();
    let load = ["load", "echo", "--rate", "400", "-t", "4s", "--outcomes", "--patience", "1m", "-o", "json"];
    let good = Running::start(site.command(&load));
    until("the load to begin", || (site.status()?["accepted"].as_u64()? > 0).then_some(()));
    let file = site.file("five.ndjson", lines(1, 5));
    let batch = |status: &str| {
        Running::start(site.command(&["submit", status, "--ndjson", &file, "--wait", "-o", "json"]))
    };
    let runs = bad.map(|(status, _)| (status, batch(status)));
    for (status, running) in runs {
        let ran = running.finish();
        assert_eq!(ran.code(), 1, "{ran}");
        assert_eq!(ran.json()["outcomes"], json!({ status: 5 }), "{ran}");
    }
    let report = good.finish().json();
    assert_eq!((&report["outcomes"], &report["unanswered"]), (&json!({"ok": 1600}), &json!(0)), "{report}");
    assert_eq!(site.json(&["workers"])[0]["pid"], pid, "the core lives on");
}

#[test]
fn a_core_killed_under_load_loses_nothing() {
    let site = Site::new();
    let up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let load = ["load", "echo", "--rate", "500", "-t", "4s", "--outcomes", "--patience", "1m", "-o", "json"];
    let running = Running::start(site.command(&load));
    let core = site.json(&["workers"])[0]["pid"].clone();
    until("the load to begin", || (site.status()?["completed"].as_u64()? > 100).then_some(()));
    kill_hard(&core);
    let ran = running.finish();
    let report = ran.json();
    assert_eq!((&report["outcomes"], &report["unanswered"]), (&json!({"ok": 2000}), &json!(0)), "{ran}");
    let workers = site.json(&["workers"]);
    let live: Vec<&Value> =
        workers.as_array().expect("a list").iter().filter(|w| w["state"] == "live").collect();
    assert!(live.len() == 1 && live[0]["pid"] != core, "another process serves: {workers}");
    assert!(up.output().contains("event=core-died"), "{}", up.output());
}

#[test]
fn a_call_that_its_core_dies_with_runs_again() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("slow", LOOP, "timeout = \"2s\"\n[retry]\nattempts = 1");
    let core = site.json(&["workers"])[0]["pid"].clone();
    let running = Running::start(site.command(&["submit", "slow", "--wait", "-o", "json"]));
    until("it to run", || (site.status()?["leased_now"] == 1).then_some(()));
    kill_hard(&core);
    let ran = running.finish();
    let outcome = ran.json();
    // The attempt that the dead core took does not count against the function's one.
    assert_eq!((&outcome["status"], &outcome["deliveries"]), (&json!("timeout"), &json!(2)), "{ran}");
    assert_eq!(site.json(&["status"])["leases_lost"], 1);
}

#[test]
fn a_node_killed_in_the_middle_of_a_batch_loses_nothing() {
    let site = Site::new();
    let up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let mut batch = site.begin(&["submit", "echo", "--ndjson", "-", "--wait", "-o", "json"]);
    batch.write(lines(1, 3000).as_bytes());
    until("the batch to begin", || (site.status()?["accepted"].as_u64()? > 0).then_some(()));
    kill_hard(&site.up_json()["control"]);
    batch.write(lines(3001, 6000).as_bytes());
    let ran = batch.finish();
    assert_eq!(ran.code(), 0, "{ran}");
    assert_eq!(
        (&ran.json()["accepted"], &ran.json()["outcomes"]),
        (&json!(6000), &json!({"ok": 6000})),
        "{ran}"
    );
    assert_eq!(site.status().expect("it serves again")["incarnation"], 2);
    assert!(up.output().contains("it is started again"), "{}", up.output());
}

#[test]
fn a_worker_killed_is_started_again_with_its_cores() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let before = site.up_json()["worker"].clone();
    kill_hard(&before);
    assert_eq!(site.ok(&["call", "echo", "--data", "still there"]), "still there");
    until("up.json to name the new worker", || (site.up_json()["worker"] != before).then_some(()));
    assert_eq!(up.stop(), 0, "{}", up.output());
}

#[test]
fn nobody_reading_what_it_prints_is_no_reason_to_end() {
    let site = Site::new();
    let data = site.data().display().to_string();
    let arguments =
        ["up", "--data-dir", &data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cores", "1"];
    let mut command = site.command(&arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop((child.stdout.take(), child.stderr.take()));
    until("up.json", || {
        assert!(child.try_wait().expect("waited for").is_none(), "it ended for want of a reader");
        site.data().join("run/up.json").is_file().then_some(())
    });
    kill_hard(&site.json(&["workers"])[0]["pid"]);
    site.deploy("echo", ECHO, "");
    assert_eq!(site.ok(&["call", "echo", "--data", "x"]), "x");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_drain_keeps_what_was_accepted() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let mut up = site.up(&["--cores", "1"]);
        site.deploy("echo", ECHO, "");
        // The client waits out the drain and the restart: the Unix socket is where it was.
        let mut batch =
            site.begin(&["submit", "echo", "--ndjson", "-", "--wait", "--patience", "1m", "-o", "json"]);
        batch.write(lines(1, 3000).as_bytes());
        until("the batch to begin", || (site.status()?["accepted"].as_u64()? > 0).then_some(()));
        up.signal(signal);
        assert_eq!(up.wait(), 0, "{}", up.output());
        let _up = site.up(&["--cores", "1"]);
        batch.write(lines(3001, 4000).as_bytes());
        let ran = batch.finish();
        assert_eq!(ran.code(), 0, "{ran}");
        assert_eq!(
            (&ran.json()["accepted"], &ran.json()["outcomes"]),
            (&json!(4000), &json!({"ok": 4000})),
            "{ran}"
        );
        // Every one of them is known to the node that was started after the drain.
        let file = site.file("again.ndjson", lines(1, 4000));
        let batch = ran.json()["batch"].as_str().expect("an id").to_owned();
        let tally = site.json(&["submit", "echo", "--ndjson", &file, "--batch", &batch, "--wait"]);
        assert_eq!((&tally["duplicates"], &tally["outcomes"]), (&json!(4000), &json!({"ok": 4000})));
    }
}
