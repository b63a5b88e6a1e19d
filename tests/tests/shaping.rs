//! What holds calls back, through the command line: quotas, services that push back, labels, keys, and why a call waits.
//! Real processes.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
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

/// Cores that have finished so many calls, by CPU.
fn finished(site: &Site) -> BTreeMap<u64, u64> {
    let cores = site.json(&["workers"]);
    let cores = cores.as_array().expect("a list").iter();
    cores.map(|core| (core["cpu"].as_u64().unwrap(), core["finished"].as_u64().unwrap())).collect()
}

#[test]
fn functions_and_cores_are_divided_into_groups_and_calls_stay_in_theirs() {
    let site = Site::new();
    let _up = site.up(&["--cores", "2", "--group-cores", "1"]);
    // Two that their owner keeps together, and two that weigh as much: not where the optimizer would put them.
    for (name, group) in [("a", "feeds"), ("b", "feeds"), ("c", ""), ("d", "")] {
        site.deploy(name, ECHO, &format!("[locality]\ngroup = \"{group}\""));
        site.ok(&["call", name, "--data", name]);
    }
    let groups = until("two groups with two functions each", || {
        let shown = site.json(&["locality", "show"]);
        let groups = shown["groups"].as_array().expect("groups").clone();
        let is_full = |group: &Value| group["functions"].as_array().is_some_and(|all| all.len() == 2);
        (shown["divided"] == true && groups.len() == 2 && groups.iter().all(is_full)).then_some(groups)
    });
    let feeds = groups.iter().find(|group| group["named"] == json!(["feeds"])).expect("named by manifests");
    assert_eq!(feeds["functions"], json!(["default/a", "default/b"]), "{groups:?}");
    let of = |group: &Value| {
        assert_eq!(group["source"], "optimizer", "{group}");
        let cores = group["cores"].as_array().expect("cores");
        assert_eq!(cores.len(), 1, "{group}");
        let cpu = cores[0].as_str().and_then(|name| name.rsplit('/').next()).expect("host/cpu");
        cpu.parse::<u64>().expect("a number")
    };
    assert_ne!(of(&groups[0]), of(&groups[1]));
    assert!(site.ok(&["locality", "show"]).contains("optimizer; function.toml: feeds"));

    // Without controllers groups are what they were, and one call at a time never finds its own core full.
    kill(Pid::from_raw(site.up_json()["controllers"].as_u64().expect("they run") as i32), Signal::SIGKILL)
        .unwrap();
    let (before, own) = (finished(&site), of(feeds));
    for n in 0..6 {
        site.ok(&["call", if n % 2 == 0 { "a" } else { "b" }, "--data", "x"]);
    }
    let after = until("all calls to be counted", || {
        let after = finished(&site);
        (after.values().sum::<u64>() == before.values().sum::<u64>() + 6).then_some(after)
    });
    assert_eq!(after[&own] - before[&own], 6, "{before:?} to {after:?}, the group's core is {own}");
}

/// Burns CPU for some 20 ms.
const BURN: &str = r#"(module (memory (export "memory") 1)
    (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "millrace_call") (param i32 i32) (result i64) (local $n i32)
        (loop $on (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $on (i32.lt_u (local.get $n) (i32.const 20000000))))
        (i64.const 0)))"#;

#[test]
fn cores_are_wanted_for_calls_that_may_not_wait() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1", "--scale-up-after", "1s"]);
    site.deploy("burn", BURN, "");
    site.ok(&["call", "burn", "--data", ""]);
    until("a first word", || site.ok(&["workers"]).contains("wanted 2").then_some(()));
    // Hundreds of seconds of CPU, which should begin within seconds.
    let calls = site.file("calls.ndjson", "1\n".repeat(50_000));
    site.ok(&["submit", "burn", "--ndjson", &calls]);
    let scaling = until("more cores to be wanted", || {
        let scaling = site.json(&["workers", "--wanted"]);
        (scaling["wanted"]["cores"].as_u64() > Some(2)).then_some(scaling)
    });
    assert_eq!(scaling["cores"], 1, "{scaling}");
    assert!(scaling["wanted"]["needed_millis"].as_u64() > Some(1800), "{scaling}");
    assert!(
        ["high", "in-band", "most"].contains(&scaling["wanted"]["reason"].as_str().unwrap()),
        "{scaling}"
    );
}

#[test]
fn a_function_that_is_called_in_time_is_made_warm_before_its_next_call() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1", "--foresee-after", "2", "--release-after", "100ms"]);
    site.deploy("f", ECHO, "");
    let backends = site.ok(&["workers", "--backends"]);
    assert!(backends.contains("foresight"), "{backends}");
    // A call now and then, until its history foresees the next one: at the earliest as soon as the shortest of these
    // waits is nearly over, which is while the longest is not.
    let mut waits = [1200, 2400, 3600].into_iter().map(Duration::from_millis).cycle();
    let status = until("a call to be foreseen", || {
        assert_eq!(site.ok(&["call", "f", "--data", "x"]).trim(), "x");
        let (begun, wait) = (Instant::now(), waits.next().expect("a cycle"));
        std::iter::from_fn(|| {
            std::thread::sleep(Duration::from_millis(100));
            (begun.elapsed() < wait).then(|| site.status().expect("it serves"))
        })
        .find(|status| status["foreseen"].as_u64() > Some(0))
    });
    assert_eq!(status["dead_letters"], 0, "{status}");
    assert_eq!(site.ok(&["call", "f", "--data", "foreseen"]).trim(), "foreseen");
}
