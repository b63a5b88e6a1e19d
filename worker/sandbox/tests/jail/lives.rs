//! How sandboxes begin and end, whoever dies.

use crate::host::*;
use nix::fcntl::{Flock, FlockArg};
use sandbox::protocol::*;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

#[test]
fn a_function_reaches_its_core_through_the_listener() {
    if !has_root("a_function_reaches_its_core") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let mut spec = probes(bundle.path());
    spec.abi = Abi::RuntimeApi;
    spec.environment = vec![("PROBE".into(), "api".into())];
    let made = core.make(spec);
    assert_eq!(made.api, Some("127.0.0.1:9001".parse().unwrap()));
    let mut descriptors = made.descriptors.into_iter();
    let listener = TcpListener::from(descriptors.next().unwrap());
    let mut stream = wait("the function", || listener.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pong");
    assert_eq!(core.exited(made.id), Ending::Exit(0));
    let stderr = read_all(descriptors.nth(1).unwrap());
    assert!(stderr.contains("api: ping"), "{stderr}");
}

#[test]
fn blanks_wait_in_a_pool() {
    if !has_root("blanks_wait_in_a_pool") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    wait("two blanks", || (host.inmates().len() == 2).then_some(()));
    let made = wait("a blank from the pool", || {
        let made = core.make(shell(bundle.path()));
        made.from_pool.then_some(made)
    });
    assert_eq!(core.script(made.id, "echo $MILLRACE_CALL; id -u").stdout, "\n1000\n");
    core.stop(made.id, Stop::Term { grace_ms: 1000 });
    assert_eq!(core.exited(made.id), Ending::Exit(0));
}

#[test]
fn stopping_is_sigterm_then_grace_then_sigkill() {
    if !has_root("stopping_is_sigterm_then_grace_then_sigkill") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let polite = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut made = core.make(service(bundle.path(), polite));
    wait_for(&mut made.descriptors, "ready\n");
    core.stop(made.id, Stop::Term { grace_ms: 60_000 });
    assert_eq!(core.exited(made.id), Ending::Exit(3));
    assert_eq!(read_all(made.descriptors.remove(1)), "asked\n");

    let deaf = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done";
    let mut made = core.make(service(bundle.path(), deaf));
    wait_for(&mut made.descriptors, "ready\n");
    let before = std::time::Instant::now();
    core.stop(made.id, Stop::Term { grace_ms: 300 });
    assert_eq!(core.exited(made.id), Ending::Signal(libc::SIGKILL));
    assert!(before.elapsed().as_millis() >= 300, "it had its grace");
    assert_eq!(read_all(made.descriptors.remove(1)), "asked\n");

    let mut made = core.make(service(bundle.path(), deaf));
    wait_for(&mut made.descriptors, "ready\n");
    core.stop(made.id, Stop::Term { grace_ms: 3_600_000 });
    core.stop(made.id, Stop::Kill);
    assert_eq!(core.exited(made.id), Ending::Signal(libc::SIGKILL));
}

fn wait_for(descriptors: &mut [std::os::fd::OwnedFd], text: &str) {
    let mut stdout = std::fs::File::from(descriptors[1].try_clone().unwrap());
    let mut bytes = vec![0; text.len()];
    let mut at = 0;
    wait("the function's word", || {
        while let Ok(count) = stdout.read(&mut bytes[at..]) {
            at += count;
            if at == text.len() {
                return Some(());
            }
        }
        None
    });
    assert_eq!(bytes, text.as_bytes());
}

#[test]
fn nothing_outlives_its_function() {
    if !has_root("nothing_outlives_its_function") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let leaves = "setsid sleep 1000 & setsid sh -c 'trap \"\" TERM HUP; sleep 1000' & exit 5";
    let made = core.make(service(bundle.path(), leaves));
    assert_eq!(core.exited(made.id), Ending::Exit(5));
    wait("only blanks", || (host.inmates().len() == 2).then_some(()));
    // Of a stdio function daemons live as long as the sandbox, but hold no run up and get no further.
    let made = core.make(shell(bundle.path()));
    let ran = core.script(
        made.id,
        "setsid sleep 1000 </dev/null >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & echo done",
    );
    assert_eq!((ran.stdout.as_str(), ran.ending), ("done\n", Ending::Exit(0)));
    core.stop(made.id, Stop::Kill);
    core.exited(made.id);
    wait("only blanks", || (host.inmates().len() == 2).then_some(()));
    wait("the end of their groups", || (host.groups().len() == 2).then_some(()));
}

#[test]
fn a_core_s_sandboxes_end_with_its_connection_and_others_stay() {
    if !has_root("a_core_s_sandboxes_end_with_its_connection") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let (mut core, mut other) = (host.core(), host.core());
    core.make(service(bundle.path(), "exec sleep 1000"));
    core.make(shell(bundle.path()));
    let stays = other.make(shell(bundle.path()));
    drop(core);
    wait("the end of two", || (host.inmates().len() == 3).then_some(()));
    assert_eq!(other.script(stays.id, "echo alive").stdout, "alive\n");
}

#[test]
fn nothing_outlives_a_jailer_that_is_killed_and_the_next_one_finds_what_is_left() {
    if !has_root("nothing_outlives_a_jailer_that_is_killed") {
        return;
    }
    let (mut host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    core.make(service(bundle.path(), "setsid sleep 1000 & exec sleep 1000"));
    assert!(host.inmates().len() >= 4);
    // So that no other test's jailer removes what is left.
    let held = host.parent();
    host.signal(libc::SIGKILL);
    wait("the end of all", || host.inmates().is_empty().then_some(()));
    assert!(core.hear_or_end().is_none(), "the core hears of it");
    let _ = made;
    let before = host.groups();
    host.restart();
    drop(held);
    let mut core = host.core();
    if core.force.cgroups {
        assert!(!before.is_empty(), "a killed jailer leaves its groups");
        let kept: Vec<_> = host.groups().into_iter().filter(|group| before.contains(group)).collect();
        // Names begin anew; what is there is the new one's blanks.
        assert!(kept.len() <= 2, "{kept:?} are left of {before:?}");
    }
    let made = core.make(shell(bundle.path()));
    assert_eq!(core.script(made.id, "echo again").stdout, "again\n");
}

#[test]
fn a_jailer_ends_with_the_process_that_started_it() {
    if !has_root("a_jailer_ends_with_the_process_that_started_it") {
        return;
    }
    for user in [None, Some(65_534)] {
        let mut host = Host::start_as(&How { user, without_limits: user.is_some(), ..How::default() });
        // Blanks are made under other ids, and with a change of them the kernel forgets whose end ends a process.
        wait("blanks", || (user.is_some() || host.inmates().len() == 2).then_some(()));
        host.process.kill().unwrap();
        host.process.wait().unwrap();
        let is_gone = || !Path::new(&format!("/proc/{}", host.pid())).exists();
        wait("the end of the jailer", || is_gone().then_some(()));
        wait("the end of all", || host.inmates().is_empty().then_some(()));
    }
}

#[test]
fn what_a_killed_platform_leaves_goes_when_another_starts_and_what_lives_stays() {
    if !has_root("what_a_killed_platform_leaves") {
        return;
    }
    let (mut dead, live, bundle) = (Host::start(), Host::start(), bundle());
    let (mut core, mut other) = (dead.core(), live.core());
    core.make(service(bundle.path(), "exec sleep 1000"));
    let made = other.make(shell(bundle.path()));
    let (left, kept) = (dead.traces(), live.traces());
    if !core.force.cgroups || left.iter().all(|path| !path.starts_with("/sys/fs/bpf")) {
        return skip("what_a_killed_platform_leaves", "nothing is pinned here");
    }
    // A platform that lives and has no process in its groups.
    let data = tempfile::tempdir().unwrap();
    let idle = sandbox::cgroup::Parent::open(&sandbox::cgroup::Hierarchy::discover(), data.path()).unwrap();
    let idle_group = idle.unified().expect("BPF is in force").to_owned();
    // A platform whose jailer is dead and whose process is not: somebody put it there.
    let haunted = Host::start();
    let mut ghost = haunted.put_in_its_group();
    let occupied = haunted.traces();
    for (host, core) in [(&haunted, None), (&dead, Some(core))] {
        host.signal(libc::SIGKILL);
        wait("the end of all", || host.inmates().is_empty().then_some(()));
        drop(core);
    }
    dead.process.wait().unwrap();
    let next = Host::start();
    // Another test's jailer may be about it just now.
    let is_gone = |paths: &[PathBuf]| (!paths.iter().any(|path| path.exists())).then_some(());
    wait("the end of what a dead platform left", || is_gone(&left));
    for path in kept.iter().chain(&occupied).chain(&next.traces()).chain([&idle_group]) {
        assert!(path.exists(), "{} is in use", path.display());
    }
    assert_eq!(other.script(made.id, "echo alive").stdout, "alive\n");
    other.make(service(bundle.path(), "exec sleep 1000"));
    ghost.kill().unwrap();
    ghost.wait().unwrap();
    drop(idle);
    let _last = Host::start();
    wait("the end of what it left, now that its last process has ended", || is_gone(&occupied));
    wait("the end of one that nobody holds any more", || (!idle_group.exists()).then_some(()));
}

/// What a killed platform left, and a lock of its folder of pins, which somebody else has taken since. Nothing where
/// nothing is pinned.
fn left_with_pins_held() -> Option<(Vec<PathBuf>, Flock<File>)> {
    loop {
        let mut dead = Host::start();
        let left = dead.traces();
        let pins = left.iter().find(|path| path.starts_with("/sys/fs/bpf"))?.clone();
        let folder = File::open(&pins).unwrap();
        // Waited for from before the platform's end, so that no other test's jailer is likely to come first.
        let taking = std::thread::spawn(move || Flock::lock(folder, FlockArg::LockShared).unwrap());
        dead.signal(libc::SIGKILL);
        dead.process.wait().unwrap();
        let held = taking.join().unwrap();
        if left.iter().all(|path| path.exists()) {
            return Some((left, held));
        }
    }
}

/// A lock of a platform's pins alone keeps all of it from `sweep`; without it, all goes. False if it was skipped.
fn pins_that_are_held_stay(sweep: impl FnOnce(&[PathBuf])) -> bool {
    if !has_root("pins_that_are_held_stay") {
        return false;
    }
    let Some((left, held)) = left_with_pins_held() else {
        skip("pins_that_are_held_stay", "nothing is pinned here");
        return false;
    };
    sweep(&left);
    for path in &left {
        assert!(path.exists(), "{} was held, and is gone", path.display());
    }
    drop(held);
    let _last = Host::start();
    wait("the end of what nobody holds any more", || (!left.iter().any(|path| path.exists())).then_some(()));
    true
}

#[test]
fn a_lock_of_its_pins_alone_keeps_what_a_platform_left() {
    pins_that_are_held_stay(|_| drop(Host::start()));
}

/// The planted bug: whoever looks at groups only finds nobody there, and removes the pins.
#[test]
#[should_panic(expected = "was held, and is gone")]
fn canary_a_sweep_that_asks_no_lock_is_caught() {
    let ran = pins_that_are_held_stay(|left| {
        let pins = left.iter().find(|path| path.starts_with("/sys/fs/bpf")).unwrap();
        std::fs::remove_dir_all(pins).unwrap();
    });
    assert!(ran, "SKIPPED: nothing was held, and is gone");
}

#[test]
fn a_jailer_that_is_asked_to_end_leaves_nothing() {
    if !has_root("a_jailer_that_is_asked_to_end_leaves_nothing") {
        return;
    }
    let (mut host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    core.make(service(bundle.path(), "trap '' TERM; sleep 1000"));
    host.signal(libc::SIGTERM);
    assert!(host.process.wait().unwrap().success());
    assert!(host.inmates().is_empty() && host.groups().is_empty() && !host.socket().exists());
}

#[test]
fn words_out_of_order_end_the_connection_and_no_other() {
    if !has_root("words_out_of_order_end_the_connection") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut good = host.core();
    let silent = Core::connect(&host.socket());
    silent.stop(1, Stop::Kill);
    assert!(silent.hear_or_end().is_none(), "no hello");
    let mut twice = host.core();
    let made = twice.make(shell(bundle.path()));
    twice.say(&ToJailer::Make { sandbox: made.id, spec: Box::new(shell(bundle.path())) });
    assert!(twice.hear_or_end().is_none(), "a number twice");
    let mut wrong = host.core();
    let made = wrong.make(service(bundle.path(), "sleep 1000"));
    wrong.say(&ToJailer::Run { sandbox: made.id, run: 1, environment: vec![] });
    assert!(wrong.hear_or_end().is_none(), "a run of a function of one process");
    let made = good.make(shell(bundle.path()));
    // One that has ended is no error.
    good.stop(4711, Stop::Kill);
    assert_eq!(good.script(made.id, "echo alive").stdout, "alive\n");
}

#[test]
fn commands_run_beside_each_other_in_one_sandbox() {
    if !has_root("commands_run_beside_each_other") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    for run in 0..8 {
        let environment = vec![("SCRIPT".into(), format!("cat; exit {run}"))];
        core.say(&ToJailer::Run { sandbox: made.id, run, environment });
    }
    let mut stdins = Vec::new();
    for _ in 0..8 {
        let (started, mut descriptors) = core.hear();
        assert!(matches!(started, FromJailer::Started { .. }), "{started:?}");
        stdins.push(descriptors.remove(0));
    }
    drop(stdins);
    let mut codes: Vec<(u64, Ending)> = Vec::new();
    for _ in 0..8 {
        match core.hear().0 {
            FromJailer::Ended { run, ending, .. } => codes.push((run, ending)),
            other => panic!("{other:?}"),
        }
    }
    codes.sort_by_key(|(run, _)| *run);
    assert_eq!(codes, (0..8).map(|run| (run, Ending::Exit(run as i32))).collect::<Vec<_>>());
}
