//! Other processes: to see, to signal, to read, to outlive.

use crate::outside::{self, As};
use crate::stage::{SECRET, can_run, stage};
use call::Status;
use std::fs;

/// Whether a process of the host lives.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn another_tenants_environment_and_memory_are_not_read() {
    if !can_run("another_tenants_environment_and_memory_are_not_read") {
        return;
    }
    let stage = stage();
    let attack = format!("secret {SECRET} {}", stage.nonce);
    let secret = format!("{SECRET}{}", stage.nonce);
    std::thread::scope(|scope| {
        let keeps = scope.spawn(|| stage.call(&mut stage.client(), "victim", &format!("keep {secret} 3000")));
        tests::harness::until("the victim", || (!stage.processes("victim").is_empty()).then_some(()));
        let told = stage.attack("peek", &attack);
        told.says(&["other processes: 0", "secret: ENOENT"]);
        let told = stage.attack("stdio", &attack);
        told.says(&["secret: ENOENT"]);
        // The canary: root of the host finds it in the same places.
        let outside = outside::run(&attack, As::Root);
        assert!(outside.contains("secret: ok"), "{outside}");
        let told = keeps.join().expect("the victim's caller");
        assert_eq!(told.status, Status::Ok, "{told:?}");
    });
}

#[test]
fn others_are_neither_seen_nor_signalled_nor_moved() {
    if !can_run("others_are_neither_seen_nor_signalled") {
        return;
    }
    let stage = stage();
    let mut client = stage.client();
    stage.neighbours_answer(&mut client, "first");
    let neighbour = stage.processes("neighbour")[0];
    let up = stage.site.up_json();
    let of = |name: &str| up[name].as_i64().expect("a process") as i32;
    let born = stage.attack("peek", "identify").output;
    // Process 1 of the sandbox, which is another user's; the platform's; another tenant's; this one, which is its parent.
    let targets = [1, neighbour, of("worker"), of("control"), of("pid"), std::process::id() as i32];
    let words: Vec<String> = targets.iter().map(ToString::to_string).collect();
    stage.attack("peek", &format!("signal {}", words.join(" "))).is_refused();
    assert!(targets.iter().all(|pid| lives(*pid)), "all live");
    assert_eq!(stage.attack("peek", "identify").output, born, "so does the sandbox");
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    let outside = outside::run(&format!("signal {}", other.id()), As::Root);
    let _ = other.kill();
    let _ = other.wait();
    assert!(
        outside.contains("see") && outside.contains("end") && outside.contains(": ok"),
        "the canary: {outside}"
    );
}

#[test]
fn the_deaf_are_killed_when_their_time_is_over() {
    if !can_run("the_deaf_are_killed") {
        return;
    }
    let stage = stage();
    for attack in ["deaf", "spin"] {
        stage.attack("slow", attack).ended(Status::Timeout, &[]);
    }
    stage.is_gone("slow");
}

#[test]
fn daemons_end_with_their_sandbox() {
    if !can_run("daemons_end_with_their_sandbox") {
        return;
    }
    let stage = stage();
    stage.attack("strict", "daemons answer").says(&["left daemons"]);
    let told = stage.attack("daemons", "daemons exit");
    told.ended(Status::Exit, &["exit status 7"]);
    stage.is_gone("daemons");
    stage.attack("daemons", "daemons crash").ended(Status::Killed, &["SIGABRT"]);
    stage.is_gone("daemons");
    // Those of an answered call live as long as their sandbox, in it and within its limits; no longer.
    let told = stage.attack("daemons", "daemons answer");
    told.says(&["left daemons"]);
    assert!(stage.processes("daemons").len() >= 3, "this test looks at the right place");
    stage.attack("daemons", "daemons exit").ended(Status::Exit, &[]);
    stage.is_gone("daemons");
    // By stdio as well: a call's process is gone, and what it left has no call's output in hand.
    let told = stage.attack("shell", "setsid sleep 1000 & sleep 1000 & echo done");
    told.says(&["done"]);
    stage
        .attack("shell", "setsid sleep 1000 </dev/null >/dev/null 2>&1 & sleep 1000")
        .ended(Status::Timeout, &[]);
    stage.is_gone("shell");
}

#[test]
fn a_crash_leaves_no_core_file() {
    if !can_run("a_crash_leaves_no_core_file") {
        return;
    }
    let stage = stage();
    let told = stage.attack("peek", "dump");
    told.ended(Status::Killed, &["SIGSEGV"]);
    stage.attack("peek", "syscall core-files").is_refused();
}

#[test]
fn a_function_may_close_its_output() {
    if !can_run("a_function_may_close_its_output") {
        return;
    }
    let stage = stage();
    stage.attack("peek", "silence").says(&["closed"]);
    stage.attack("peek", "echo after").says(&["after"]);
}
