//! What holds calls back, through the command line: quotas, services that push back, labels, keys, and why a call waits.
//! Real processes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::harness::{ECHO, Site, until};

/// Says that the service named by its arguments is overloaded.
const PRESSED: &str = r#"(module (import "millrace" "back_pressure" (func $pressed (param i32 i32)))
    (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
        (call $pressed (local.get $at) (local.get $bytes)) (i64.const 0)))"#;

fn only<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let all = list.as_array().expect("a list");
    all.iter().find(|one| one[key] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn explained(site: &Site, call: &str) -> Value {
    site.json(&["explain", call])
}

#[test]
fn a_quota_holds_calls_back_says_so_and_is_changed_without_a_restart() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("f", ECHO, "concurrency_per_key = 1");
    let set = site.json(&["quota", "set", "f", "--rate", "1", "--burst", "1"]);
    assert_eq!(set[0]["quota"]["calls_per_s"], 1);
    let calls: Vec<String> =
        (0..40).map(|n| site.ok(&["submit", "f", "--data", &n.to_string()]).trim().to_owned()).collect();
    let last = calls.last().expect("forty");
    let why = until("the quota to hold the last call", || {
        let why = explained(&site, last);
        (why["rule"] == "quota").then_some(why)
    });
    assert!(why["until"].as_u64() > Some(0) && why["since"].as_u64() > Some(0), "{why}");
    assert!(site.ok(&["explain", last]).contains("quota is raised"), "{why}");
    assert_eq!(only(&site.json(&["quota", "show"]), "function", "default/f")["rate"], 1000);

    // It survives a restart, and then is lifted: all that waits runs.
    assert_eq!(up.stop(), 0);
    let _up = site.up(&["--cores", "1"]);
    let shown = site.json(&["quota", "show", "f"]);
    assert_eq!((&shown[0]["set"]["burst"], &shown[0]["rate"]), (&json!(1), &json!(1000)), "{shown}");
    site.ok(&["quota", "set", "f", "--reset"]);
    let ended = site.json(&["calls", "show", last, "--wait", "60s"]);
    assert_eq!(ended["status"], "ok", "{ended}");
    assert_eq!(explained(&site, last)["rule"], "ended");
    site.run(&["quota", "set", "g", "--rate", "1"]).fails(3, &["no function default/g"]);
    assert_eq!(site.run(&["quota", "set", "f", "--cpu", "1.2345"]).code(), 2);
    site.ok(&["quota", "set", "--tenant", "photos", "--weight", "3"]);
}

#[test]
fn controllers_make_rates_of_quotas_and_calls_go_on_without_them() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("f", ECHO, "[quota]\ncpu = \"0.5\"");
    site.ok(&["call", "f", "--data", "x"]);
    until("a rate for the quota of CPU", || {
        site.json(&["quota", "show", "f"])[0]["cpu_rate"].as_u64().filter(|rate| *rate > 0)
    });
    let controllers = || until("the controllers", || site.up_json()["controllers"].as_u64()) as i32;
    let first = controllers();
    kill(Pid::from_raw(first), Signal::SIGSTOP).expect("they run");
    for n in 0..5 {
        assert_eq!(site.ok(&["call", "f", "--data", &n.to_string()]).trim(), n.to_string());
    }
    assert!(
        site.json(&["quota", "show", "f"])[0]["cpu_rate"].as_u64() > Some(0),
        "the node keeps what it has"
    );
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("they are there");
    until("other controllers", || (site.up_json()["controllers"] != first).then_some(()));
    assert_eq!(site.ok(&["call", "f", "--data", "on"]).trim(), "on");
}

#[test]
fn a_service_that_pushes_back_is_counted_and_its_function_is_limited() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy(
        "f",
        PRESSED,
        "downstreams = [\"tao\", \"cache\"]\n[retry]\nattempts = 1\nbackoff = \"10ms\"\nbackoff_max = \"100ms\"",
    );
    let set = site.json(&["downstream", "set", "tao", "--threshold", "10"]);
    assert_eq!(only(&set, "downstream", "tao")["threshold_per_minute"], 10);
    let call = site.ok(&["submit", "f", "--data", "tao"]).trim().to_owned();
    for _ in 0..20 {
        site.ok(&["submit", "f", "--data", "tao"]);
    }
    let limited = until("a limit for back-pressure", || {
        let shown = site.json(&["downstream", "show"]);
        only(&shown, "downstream", "tao")["functions"][0]["limit"].as_u64().map(|_| shown)
    });
    let tao = only(&limited, "downstream", "tao");
    assert!(tao["total"].as_u64() > Some(20) && tao["functions"][0]["function"] == "default/f", "{limited}");
    assert_eq!(only(&limited, "downstream", "cache")["total"], 0, "the other one was not named");
    // Its one attempt is not used up.
    let shown = site.json(&["calls", "show", &call]);
    assert!(shown["state"] != "dead" && shown["attempts"].as_u64() > Some(0), "{shown}");
}

#[test]
fn data_does_not_flow_down_and_explain_says_what_is_scheduled() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("f", ECHO, "[flow]\nzone = 2\n[locality]\ngroup = \"feeds\"");
    assert_eq!(site.ok(&["call", "f", "--data", "up", "--zone", "1", "--key", "user-7"]).trim(), "up");
    let refused = site.ok(&["submit", "f", "--data", "down", "--zone", "3"]).trim().to_owned();
    let shown = site.json(&["calls", "show", &refused, "--wait", "60s"]);
    assert_eq!((&shown["state"], &shown["status"]), (&json!("dead"), &json!("forbidden")), "{shown}");
    let later = site.ok(&["submit", "f", "--data", "later", "--in", "1h"]).trim().to_owned();
    let why = explained(&site, &later);
    assert_eq!((&why["rule"], &why["state"]), (&json!("start-time"), &json!("scheduled")), "{why}");
    let groups = site.json(&["locality", "show"]);
    let grouped = groups["groups"].as_array().expect("groups");
    assert!(grouped.iter().any(|group| group["functions"] == json!(["default/f"])), "{groups}");
    site.run(&["explain", "00000000000000000000000000000000"]).fails(3, &["no call"]);
}
