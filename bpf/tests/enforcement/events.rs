//! What is told when processes of sandboxes end, and why.

use crate::harness::{Group, Inside, Platform, skip, unified, until};
use bpf::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::path::{Path, PathBuf};

/// Waits on the descriptor, as the jailer does, until one of the events so far is of this kind.
fn next(platform: &mut Platform, seen: &mut Vec<Event>, is_it: impl Fn(&Event) -> bool) -> Event {
    until(
        || {
            let enforcement = platform.enforcement();
            let mut waits = [PollFd::new(enforcement.events_fd(), PollFlags::POLLIN)];
            poll(&mut waits, PollTimeout::from(100_u8)).expect("it can be waited for");
            enforcement.drain(|event| seen.push(event)).expect("it can be read");
            seen.iter().find(|event| is_it(event)).copied()
        },
        |found| found.is_some(),
    )
    .expect("it was found")
}

#[test]
fn exits_are_told_with_code_or_signal() {
    let Some(mut platform) = Platform::start() else { return };
    let mut seen = Vec::new();
    let (first, second) = (platform.sandbox(3, 1, None), platform.sandbox(5, 1, None));
    let (mut ends, mut killed) = (Inside::start(&[&first]), Inside::start(&[&second]));
    ends.begins("exit 42");
    let event = next(&mut platform, &mut seen, |event| event.index() == 3);
    assert_eq!(event, Event::Exit { index: 3, pid: ends.pid(), code: Some(42), signal: None });
    killed.kill();
    let event = next(&mut platform, &mut seen, |event| event.index() == 5);
    assert_eq!(event, Event::Exit { index: 5, pid: killed.pid(), code: None, signal: Some(9) });
    // One of each process, not of each thread, and none of processes outside.
    let mut more = Vec::new();
    Inside::start(&[]).kill();
    platform.enforcement().drain(|event| more.push(event)).unwrap();
    assert_eq!(more, []);
}

#[test]
fn a_process_whose_threads_end_at_once_is_told_once() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(3, 1, None);
    let mut seen = Vec::new();
    for _ in 0..40 {
        let mut inside = Inside::start(&[&group]);
        // Eight threads are busy when the process is killed.
        inside.begins("threads 8 10000");
        until(
            || std::fs::read_dir(format!("/proc/{}/task", inside.pid())).unwrap().count(),
            |count| *count > 8,
        );
        inside.kill();
        next(
            &mut platform,
            &mut seen,
            |event| matches!(event, Event::Exit { pid, .. } if *pid == inside.pid()),
        );
    }
    assert_eq!(seen.len(), 40, "{seen:?}");
}

#[test]
fn a_forbidden_system_call_is_named() {
    let Some(mut platform) = Platform::start() else { return };
    let mut seen = Vec::new();
    let group = platform.sandbox(4, 1, None);
    let mut inside = Inside::start(&[&group]);
    assert_eq!(inside.does("forbid-ppid"), "ok");
    inside.begins("ppid 1");
    assert_eq!(inside.answers(), None, "it is killed");
    let event = next(&mut platform, &mut seen, |event| matches!(event, Event::Seccomp { .. }));
    // AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 of <linux/audit.h>.
    let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    let (pid, syscall) = (inside.pid(), libc::SYS_getppid as u32);
    assert_eq!(event, Event::Seccomp { index: 4, pid, syscall, arch });
    let event = next(&mut platform, &mut seen, |event| matches!(event, Event::Exit { .. }));
    assert_eq!(event, Event::Exit { index: 4, pid, code: None, signal: Some(libc::SIGSYS as u8) });
}

/// A v1 group with this much memory at most; none where the host has v1 controllers no more.
fn memory_group(name: &str) -> Option<Group> {
    let v1 = PathBuf::from("/sys/fs/cgroup/memory");
    v1.join("memory.limit_in_bytes").exists().then(|| {
        let group = Group::make(v1.join(name));
        std::fs::write(group.0.join("memory.limit_in_bytes"), "67108864").expect("it can be limited");
        group
    })
}

/// Gives the groups below the platform's the memory controller of the v2 tree, if it has it.
fn give_memory(platform: &Platform) -> bool {
    let give = |group: &Path| std::fs::write(group.join("cgroup.subtree_control"), "+memory").is_ok();
    unified().is_some_and(|unified| give(&unified)) && give(&platform.group.0)
}

#[test]
fn a_kill_for_memory_is_told() {
    let Some(mut platform) = Platform::start() else { return };
    let mut seen = Vec::new();
    let group = platform.sandbox(6, 1, None);
    let limited = memory_group(&format!("millrace-{}", platform.name));
    let groups = match &limited {
        Some(limited) => vec![group.as_path(), limited.0.as_path()],
        // The v2 tree has the controller: the sandbox's own group is limited.
        None if give_memory(&platform) => {
            std::fs::write(group.join("memory.max"), "67108864").expect("it can be limited");
            vec![group.as_path()]
        }
        None => return skip(&"no cgroup limits memory here"),
    };
    let mut inside = Inside::start(&groups);
    inside.begins("eat");
    assert_eq!(inside.answers(), None, "it is killed");
    let event = next(&mut platform, &mut seen, |event| matches!(event, Event::Oom { .. }));
    assert_eq!(event, Event::Oom { index: 6, pid: inside.pid() });
    let event = next(&mut platform, &mut seen, |event| matches!(event, Event::Exit { .. }));
    assert_eq!(event, Event::Exit { index: 6, pid: inside.pid(), code: None, signal: Some(9) });
}

#[test]
fn a_full_ring_is_counted() {
    let Some(mut platform) = Platform::start() else { return };
    let group = platform.sandbox(2, 1, None);
    let script = format!("echo 0 > {}/cgroup.procs; for i in {{1..6000}}; do (:); done", group.display());
    let ran = std::process::Command::new("bash").args(["-c", &script]).status().expect("bash can be started");
    assert!(ran.success());
    let counters = platform.enforcement().counters().unwrap();
    let mut told = 0;
    platform.enforcement().drain(|_| told += 1).unwrap();
    let untold = until(|| counters.read(2).untold, |untold| *untold > 0);
    assert_eq!(told + untold, 6001, "each of 6,000 children and their parent is told or counted");
}
