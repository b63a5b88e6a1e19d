//! What a node writes down about calls: usage, logs, metrics. Real processes, by the command line.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use tests::harness::{COMMAND, ECHO, Site, TRAP, until};

fn row<'a>(report: &'a Value, function: &str) -> &'a Value {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["function"] == function).unwrap_or_else(|| panic!("no {function} in {report}"))
}

#[test]
fn usage_is_summed_per_function_and_tenant_and_survives_stops_and_kills() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "tenant = \"red\"");
    site.deploy("trap", TRAP, "tenant = \"blue\"\n[retry]\nattempts = 2\nbackoff = \"1ms\"");
    for _ in 0..3 {
        site.ok(&["call", "echo", "--data", "x"]);
    }
    assert_eq!(site.run(&["call", "trap"]).code(), 1);
    let report = site.json(&["usage"]);
    assert_eq!((&report["complete"], &report["by"]), (&json!(true), &json!("function")));
    let echo = row(&report, "default/echo");
    assert_eq!((&echo["calls"], &echo["executions"], &echo["tenant"]), (&json!(3), &json!(3), &json!("red")));
    assert!(echo["cpu_ns"].as_u64() > Some(0) && echo["memory_mb_s"].as_f64() > Some(0.0), "{echo}");
    assert!(echo["cold_starts"].as_u64() >= Some(1), "{echo}");
    let trap = row(&report, "default/trap");
    assert_eq!(
        (&trap["calls_by_status"], &trap["executions_by_status"]),
        (&json!({"trap": 1}), &json!({"trap": 2}))
    );
    let tenants = site.json(&["usage", "--by", "tenant", "--since", "1h"]);
    assert_eq!(tenants["rows"][1]["tenant"], "red");
    assert_eq!(tenants["total"]["executions"], 5);
    assert_eq!(site.json(&["usage", "--tenant", "red"])["total"]["executions"], 3);
    assert!(site.ok(&["usage"]).contains("MB S"));
    site.run(&["usage", "--since", "soon"]).fails(6, &["since: `soon` is no time"]);

    assert_eq!(up.stop(), 0);
    let _up = site.up(&["--cores", "1"]);
    let again = site.json(&["usage"]);
    assert_eq!((&again["rows"], &again["from"]), (&report["rows"], &report["from"]), "a stop loses nothing");

    site.ok(&["call", "echo", "--data", "x"]);
    let sums = site.data().join("usage/sums.json");
    until("the sums on disk", || {
        let text: Value = serde_json::from_slice(&std::fs::read(&sums).ok()?).ok()?;
        let written: u64 =
            text["rows"].as_array()?.iter().map(|r| r["total"]["executions"][0].as_u64().unwrap_or(0)).sum();
        (written == 4).then_some(())
    });
    let node = site.up_json()["control"].as_u64().expect("a process") as i32;
    kill(Pid::from_raw(node), Signal::SIGKILL).expect("it runs");
    let again = until("the node's return", || {
        let ran = site.run(&["usage", "-o", "json"]);
        (ran.code() == 0 && site.up_json()["control"] != node).then(|| ran.json())
    });
    assert_eq!(row(&again, "default/echo")["executions"], 4, "a kill loses what is not written");
}

#[test]
fn logs_are_found_by_function_call_and_time_and_followed_through_a_restart() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("command", COMMAND, "[retry]\nattempts = 2\nbackoff = \"1ms\"");
    site.deploy("quiet", ECHO, "");
    site.ok(&["call", "command", "--data", "a"]);
    assert_eq!(site.run(&["call", "command", "--data", "!"]).code(), 1);
    let records = || -> Vec<Value> {
        site.ok(&["logs", "command", "-o", "json"])
            .lines()
            .map(|l| serde_json::from_str(l).expect("JSON"))
            .collect()
    };
    let seen = until("three records", || Some(records()).filter(|records| records.len() == 3));
    assert_eq!(
        (&seen[0]["text"], &seen[0]["status"], &seen[0]["attempt"]),
        (&json!("heard\n"), &json!("ok"), &json!(1))
    );
    assert_eq!(
        (&seen[2]["status"], &seen[2]["attempt"], &seen[2]["cpu"].is_u64()),
        (&json!("exit"), &json!(2), &true)
    );
    assert_eq!(seen[1]["call"], seen[2]["call"], "both executions of the one that failed");
    let call = seen[1]["call"].as_str().expect("an id");
    let of_call = site.ok(&["logs", "command", "--call", call]);
    assert!(of_call.lines().count() == 2 && of_call.contains(" 2 exit | heard"), "{of_call}");
    assert_eq!(site.ok(&["logs", "command", "--tail", "1"]).lines().count(), 1);
    assert_eq!(site.ok(&["logs", "command", "--since", "1h"]).lines().count(), 3);
    assert_eq!(site.ok(&["logs", "command", "--since", "2090-01-01T00:00:00Z"]), "");
    assert_eq!(site.ok(&["logs", "quiet"]), "");
    site.run(&["logs", "nope"]).fails(3, &["default/nope"]);

    let mut follow =
        site.command(&["logs", "command", "-f", "--tail", "0"]).stderr(Stdio::null()).spawn().expect("runs");
    let mut out = follow.stdout.take().expect("piped");
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = [0; 4096];
        while let Ok(bytes @ 1..) = out.read(&mut text) {
            let _ = told.send(String::from_utf8_lossy(&text[..bytes]).into_owned());
        }
    });
    let next = || heard.recv_timeout(tests::harness::PATIENCE).expect("a record");
    // It may not have asked yet when the call ends.
    std::thread::sleep(std::time::Duration::from_secs(1));
    site.ok(&["call", "command", "--data", "b"]);
    assert!(next().contains(" ok | heard"));
    assert_eq!(up.stop(), 0);
    let _up = site.up(&["--cores", "1"]);
    site.ok(&["call", "command", "--data", "c"]);
    assert!(next().contains(" ok | heard"));
    follow.kill().expect("it runs");
    follow.wait().expect("it ends");
    assert_eq!(site.ok(&["logs", "command"]).lines().count(), 5);
}

#[test]
fn metrics_are_served_as_openmetrics() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.ok(&["call", "echo", "--data", "x"]);
    let admin = site.up_json()["admin"].as_str().expect("an address").to_owned();
    let mut stream = TcpStream::connect(admin.strip_prefix("http://").expect("http")).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0"), "{text}");
    for line in [
        "millrace_executions_total{function=\"default/echo\",tenant=\"default\",status=\"ok\"} 1",
        "millrace_calls_total{function=\"default/echo\",tenant=\"default\",status=\"ok\"} 1",
        "millrace_calls_accepted_total 1",
        "millrace_cores 1.0",
        "millrace_invocations_waiting 0.0",
        "millrace_queue_calls{function=\"default/echo\",state=\"due\"} 0.0",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
    }
    assert!(text.contains("millrace_cpu_seconds_total{function=\"default/echo\""), "{text}");
}
