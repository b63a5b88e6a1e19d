//! Taking more than one's share.

use crate::outside::{self, As};
use crate::stage::{FILES, PIDS, can_run, stage};
use call::Status;
use std::fs;

#[test]
fn a_fork_bomb_stays_within_its_limit() {
    if !can_run("a_fork_bomb_stays_within_its_limit") {
        return;
    }
    let stage = stage();
    let mut most = 0;
    let told =
        stage.attack_while("forker", "forks 1500", || most = most.max(stage.processes("forker").len()));
    told.says(&["fork: EAGAIN"]);
    assert!(most > 10 && most <= PIDS, "{most} processes were seen at once, {PIDS} are allowed");
    // They live still, and may not keep the next call or anybody else from being served.
    let told = stage.attack("forker", "daemons exit");
    told.ended(Status::Exit, &["exit status 7"]);
    stage.is_gone("forker");
    let told = stage.attack("attacker", "threads 1000");
    told.says(&["thread: EAGAIN"]);
    assert!(told.number("made ") < PIDS, "{told:?}");
    for told in [stage.attack("strict", "forks 100"), stage.attack("strict", "threads 1000")] {
        assert!(told.output.contains("EPERM") || told.output.contains("EAGAIN"), "{told:?}");
    }
    for attack in ["forks 1", "threads 50"] {
        let outside = outside::run(attack, As::Root);
        assert!(outside.contains(": ok"), "the canary: {outside}");
    }
}

#[test]
fn a_memory_bomb_ends_its_sandbox_only_and_is_called_that() {
    if !can_run("a_memory_bomb_ends_its_sandbox_only") {
        return;
    }
    let stage = stage();
    let used = |pid: i32| fs::metadata(format!("/proc/{pid}")).is_ok();
    let worker = stage.site.up_json()["worker"].as_i64().expect("a process") as i32;
    for attack in ["memory heap 200", "memory file 200", "memory memfd 200", "memory shared 200"] {
        stage.attack("bomb", attack).ended(Status::Memory, &["more memory than it may"]);
        stage.is_gone("bomb");
    }
    assert!(used(worker));
    for attack in ["memory heap 40", "memory memfd 40", "memory shared 40"] {
        outside::succeeds(attack, As::Root);
    }
}

#[test]
fn memory_of_the_kernel_is_the_functions_memory() {
    if !can_run("memory_of_the_kernel_is_the_functions_memory") {
        return;
    }
    let stage = stage();
    for how in ["pipe", "unix", "tcp"] {
        let told = stage.attack("buffers", &format!("buffers {how} 300"));
        // Either it was stopped by a limit on the way, or it was killed.
        match told.status {
            Status::Memory => {}
            _ => {
                told.is_refused();
                assert!(told.number("took ") < 64 << 10, "{told:?}");
            }
        }
    }
    for how in ["pipe", "unix", "tcp"] {
        let outside = outside::run(&format!("buffers {how} 100"), As::Root);
        assert!(outside.contains(": ok"), "the canary: {outside}");
    }
}

#[test]
fn descriptors_run_out_for_the_function_only() {
    if !can_run("descriptors_run_out_for_the_function_only") {
        return;
    }
    let stage = stage();
    for what in ["files", "sockets", "epoll", "memfd"] {
        let told = stage.attack("attacker", &format!("open {what} 10000 100"));
        told.says(&[&format!("{what}: EMFILE")]);
        assert!(told.number("made ") < FILES, "{told:?}");
    }
    let told = stage.attack("attacker", "flight 100000");
    assert!(
        told.output.contains("flight: ETOOMANYREFS") && told.number("made ") < 4 * FILES + 500,
        "{told:?}"
    );
    for what in ["files 1000 0", "sockets 1000 0", "epoll 1000 0"] {
        outside::succeeds(&format!("open {what}"), As::Root);
    }
}

#[test]
fn what_the_host_has_one_pot_of_is_left_for_others() {
    if !can_run("what_the_host_has_one_pot_of") {
        return;
    }
    let stage = stage();
    // Held for a while, in which the host's root and the neighbours must still get theirs.
    let check = || {
        for attack in ["open inotify 4 0", "signals 4 0", "messages 1", "aio 128"] {
            outside::succeeds(attack, As::Root);
        }
    };
    for attack in ["open inotify 10000 1500", "signals 1000000 1500", "messages 1000", "aio 1000000"] {
        let told = stage.attack_while("pots", attack, check);
        told.is_refused();
        check();
    }
}

#[test]
fn nobody_makes_the_host_write_its_disks() {
    if !can_run("nobody_makes_the_host_write_its_disks") {
        return;
    }
    let stage = stage();
    let file = stage.site.folder().join("dirty");
    let dirty = || {
        let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
        let line = text.lines().find(|line| line.starts_with("Dirty:")).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number")
    };
    // The kernel and others write, too, so that what is looked for may take more than one try.
    let is_left = (0..5).any(|_| {
        fs::write(&file, vec![1u8; 8 << 20]).expect("a file");
        let told = stage.attack("attacker", "sync");
        told.says(&["syncfs: ok", "fsync: ok"]);
        dirty() >= 8 << 10
    });
    assert!(is_left, "a function's sync wrote out what others had written");
    let is_written = (0..5).any(|_| {
        outside::succeeds("sync", As::Root);
        dirty() < 8 << 10
    });
    assert!(is_written, "the canary: a sync leaves little");
}

#[test]
fn a_flood_of_stderr_is_cut_and_said_to_be() {
    if !can_run("a_flood_of_stderr_is_cut") {
        return;
    }
    let stage = stage();
    let told = stage.attack("attacker", "errors 200");
    told.says(&["stderr: ok"]);
    assert!(told.is_cut && told.stderr.len() <= 16 << 10, "{} bytes", told.stderr.len());
    assert!(stage.log("attacker", told.call).contains("[cut at its limit]"));
}
