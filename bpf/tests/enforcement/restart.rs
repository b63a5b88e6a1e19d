//! The process that set up enforcement dies and is started again: a client that hammers a denied address during all of
//! it never succeeds.

use crate::harness::{EPERM, Group, Inside, Platform, SANDBOXES_MAX, programs_on_packets, until, with_peer};
use bpf::{BpfError, Enforcement, Options, Strangers};
use std::net::TcpListener;

/// The peer answers on 7001, which is granted, and on 7002, which is not.
fn peer() -> crate::harness::Peer {
    let peer = with_peer();
    peer.run(|| {
        for port in [7001, 7002] {
            let listener = TcpListener::bind(("10.9.0.2", port)).expect("it is free");
            std::thread::spawn(move || listener.incoming().for_each(drop));
        }
    });
    peer
}

/// A process that enforces; it has done so when this returns.
fn enforcer(platform: &Platform, sandboxes_max: u32, sandbox: Option<&Group>) -> Inside {
    let mut enforcer = Inside::start(&[]);
    let id = sandbox.map(|group| format!(" {}", bpf::cgroup_id(&group.0).unwrap())).unwrap_or_default();
    let words = format!("enforce {} {} {sandboxes_max}{id}", platform.name, platform.group.0.display());
    assert_eq!(enforcer.does(&words), "ok");
    enforcer
}

fn attempts_and_successes(answer: &str) -> (u64, u64) {
    let words: Vec<u64> = answer.split(' ').skip(1).map(|word| word.parse().expect("a count")).collect();
    (words[0], words[1])
}

#[test]
fn enforcement_never_lapses_while_its_process_dies_and_comes_back() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    // From here on others enforce under this name.
    drop(platform.enforcement.take());
    let group = Group::make(platform.group.0.join("s1"));
    let mut first = enforcer(&platform, SANDBOXES_MAX, Some(&group));
    let (mut client, mut hammer) = (Inside::start(&[&group.0]), Inside::start(&[&group.0]));
    assert_eq!(client.does("tcp 10.9.0.2:7001"), "ok");
    assert_eq!(client.does("tcp 10.9.0.2:7002"), EPERM);
    hammer.begins("hammer 10.9.0.2:7002 4000");
    for round in 0..4 {
        first.kill();
        assert_eq!(client.does("tcp 10.9.0.2:7002"), EPERM, "nobody enforces, and it holds");
        assert_eq!(client.does("tcp 10.9.0.2:7001"), "ok", "what was granted is granted");
        // The same again; and with maps of another shape, as another version would have them.
        let sandboxes_max = SANDBOXES_MAX + round / 2;
        first = enforcer(&platform, sandboxes_max, Some(&group));
        assert_eq!(client.does("tcp 10.9.0.2:7001"), "ok");
    }
    let (attempts, successes) = attempts_and_successes(&hammer.answers().expect("it ends"));
    assert!(attempts > 1000, "only {attempts} attempts");
    assert_eq!(successes, 0, "of {attempts} attempts");
    first.kill();
    platform.enforcement = Some(Enforcement::start(&platform.options()).expect("it can"));
}

#[test]
fn canary_a_lapse_is_seen() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let group = platform.sandbox(1, 1, None);
    let mut hammer = Inside::start(&[&group]);
    hammer.begins("hammer 10.9.0.2:7002 1500");
    std::thread::sleep(std::time::Duration::from_millis(300));
    platform.enforcement.take().expect("in force").stop().expect("it can");
    std::thread::sleep(std::time::Duration::from_millis(100));
    platform.enforcement = Some(Enforcement::start(&platform.options()).expect("it can"));
    let (attempts, successes) = attempts_and_successes(&hammer.answers().expect("it ends"));
    assert!(successes > 0, "none of {attempts} attempts, though nothing was enforced for a while");
}

#[test]
fn the_next_process_finds_what_was_admitted_and_counted() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(9, 2, Some("127.0.0.1:9001".parse().unwrap()));
    let mut inside = Inside::start(&[&group]);
    inside.does("burn 200");
    let before = platform.enforcement().admitted().unwrap();
    let reader = platform.enforcement().counters().unwrap();
    assert!(!platform.enforcement().resumed());
    let held = Enforcement::start(&platform.options()).unwrap_err();
    assert!(matches!(held, BpfError::Held { .. }), "{held}");
    drop(platform.enforcement.take());
    let mut enforcement = Enforcement::start(&platform.options()).expect("it can");
    assert!(enforcement.resumed());
    assert_eq!(enforcement.admitted().unwrap(), before);
    // Who mapped the counters before goes on reading them.
    inside.does("burn 200");
    let (ours, theirs) = (enforcement.counters().unwrap().read(9), reader.read(9));
    assert!(ours.cpu_ns > 350_000_000 && ours.switches == theirs.switches, "{ours:?} {theirs:?}");
    // One generation counts, not two: CPU time of 200 ms of burning is not 400.
    let from = reader.read(9).cpu_ns;
    inside.does("burn 200");
    let more = reader.read(9).cpu_ns - from;
    assert!((150_000_000..300_000_000).contains(&more), "{more} ns");
    // Events that nobody drained are there.
    inside.begins("exit 7");
    until(|| inside.answers(), Option::is_none);
    let mut events = Vec::new();
    until(|| enforcement.drain(|event| events.push(event)).unwrap(), |count| *count > 0);
    assert_eq!(events.len(), 1, "{events:?}");
    platform.enforcement = Some(enforcement);
}

#[test]
fn the_next_process_guards_what_it_finds_with_its_own_programs() {
    let Some(mut platform) = Platform::start() else { return };
    platform.enforcement().set_policy(2, &bpf::Policy::default()).unwrap();
    let (guarded, own) = (platform.sandbox(1, 1, None), platform.unguarded(2, 2));
    let stranger = platform.group_below("s3");
    let all = [guarded.as_path(), &own, &stranger];
    assert_eq!(all.map(programs_on_packets), [[1, 1], [0, 0], [0, 0]]);
    drop(platform.enforcement.take());
    assert_eq!(all.map(programs_on_packets), [[1, 1], [0, 0], [0, 0]], "nobody lives, and it holds");
    platform.enforcement = Some(Enforcement::start(&platform.options()).expect("it can"));
    assert_eq!(all.map(programs_on_packets), [[1, 1], [0, 0], [1, 1]]);
    platform.enforcement.take().expect("in force").stop().expect("it can");
    assert_eq!(all.map(programs_on_packets), [[0, 0]; 3]);
}

#[test]
fn stop_leaves_nothing_behind() {
    let Some(mut platform) = Platform::start() else { return };
    let pins = format!("/sys/fs/bpf/millrace/{}", platform.name);
    assert!(std::fs::exists(&pins).unwrap());
    platform.enforcement.take().expect("in force").stop().expect("it can");
    assert!(!std::fs::exists(&pins).unwrap());
}

#[test]
fn a_group_that_is_not_there_and_a_bad_name_are_said() {
    let options = Options {
        name: "test-none",
        cgroup: std::path::Path::new("/sys/fs/cgroup/unified/no-such-group"),
        functions_max: 1,
        sandboxes_max: 1,
        strangers: Strangers::Denied,
        syscalls: false,
    };
    let error = Enforcement::start(&options).unwrap_err();
    assert!(error.to_string().contains("no-such-group"), "{error}");
    let Some(platform) = Platform::start() else { return };
    let error = Enforcement::start(&Options { name: "../escape", ..platform.options() }).unwrap_err();
    assert!(error.to_string().contains("../escape"), "{error}");
}
