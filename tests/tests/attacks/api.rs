//! Functions that break the rules of the Runtime API.

use crate::outside::{self, As};
use crate::stage::{Stage, can_run, stage};
use call::{FunctionId, Status};
use std::fs;

#[test]
fn a_result_that_is_none_ends_its_call_only() {
    if !can_run("a_result_that_is_none_ends_its_call_only") {
        return;
    }
    let stage = stage();
    let told = stage.attack("attacker", "oversized 2");
    assert_eq!((told.status, told.output.len()), (Status::Ok, 2 << 20), "a blob: {}", told.stderr);
    stage
        .attack("attacker", "oversized 65")
        .ended(Status::BadReply, &["longer than one may be, 67108864 bytes"]);
    stage
        .attack("attacker", "oversized 400")
        .ended(Status::BadReply, &["longer than one may be, 67108864 bytes"]);
    stage.attack("attacker", "half end").ended(Status::BadReply, &["half a result"]);
    stage.attack("slow", "half silence").ended(Status::Timeout, &[]);
    stage.attack("slow", "trickle 10").ended(Status::Timeout, &[]);
    stage.attack("attacker", "next").ended(Status::Error, &["without having answered"]);
    stage.attack("attacker", "echo well").says(&["well"]);
}

#[test]
fn only_ones_own_call_is_answered_and_only_once() {
    if !can_run("only_ones_own_call_is_answered") {
        return;
    }
    let stage = stage();
    // Somebody else's call that is under way, and one that never was.
    let mut client = stage.client();
    let mut kept = client.call(FunctionId::of("default", "neighbour"), b"keep mine 1500");
    kept.want_outcome = true;
    client.submit(&kept).expect("the node takes it");
    for id in [kept.call.to_string(), "0".repeat(32), "x".into(), "../next".into()] {
        let told = stage.attack("attacker", &format!("others {id}"));
        let answers: Vec<&str> = told.output.lines().filter(|line| line.starts_with("other: ")).collect();
        assert!(answers.len() == 5 && answers.iter().all(|line| line.starts_with("other: 4")), "{told:?}");
        told.says(&["init error: 403"]);
    }
    let outcome = client.wait(kept.call, tests::harness::PATIENCE).expect("it ends");
    assert_eq!((outcome.status, outcome.output.as_slice()), (Status::Ok, &b"kept 4 bytes\n"[..]));
    let told = stage.attack("attacker", "twice");
    assert_eq!((told.status, told.output.as_str()), (Status::Ok, "first"), "{told:?}");
}

/// Resident memory of the worker's processes, KiB.
fn resident(stage: &Stage) -> u64 {
    let worker = stage.site.up_json()["worker"].as_u64().expect("a process");
    let children = fs::read_to_string(format!("/proc/{worker}/task/{worker}/children")).unwrap_or_default();
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([worker]);
    let of = |pid: u64| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    pids.map(of).sum()
}

#[test]
fn a_flood_of_connections_and_bytes_costs_the_core_little() {
    if !can_run("a_flood_of_connections_and_bytes") {
        return;
    }
    let stage = stage();
    let before = resident(&stage);
    let told = stage.attack("attacker", "garbage 100");
    assert!(told.number("answered ") > 0, "{told:?}");
    stage.attack("attacker", "open api 5000 500").is_refused();
    let told = stage.attack("attacker", "churn 5000");
    assert!(told.number("made ") > 0, "{told:?}");
    let told = stage.attack("peek", "unread 64");
    told.ended(Status::BadReply, &["more than 1000 requests that were refused"]);
    let after = resident(&stage);
    assert!(after < before + (96 << 10), "the worker grew from {before} to {after} KiB");
    stage.attack("attacker", "echo well").says(&["well"]);
    // The canary: a server that takes every connection has them all.
    outside::succeeds("open api 100 0", As::Root);
}
