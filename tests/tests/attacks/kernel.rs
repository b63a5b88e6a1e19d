//! System calls that change the machine, or look into it.

use crate::outside::{self, As};
use crate::stage::{can_run, stage};
use call::Status;

/// Whether a probe may run outside of a sandbox, and must succeed there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outside {
    Succeeds,
    /// It would do harm, or this kernel has no such thing, or there is no way for it to succeed.
    Not,
}
use Outside::{Not, Succeeds};

/// Each ends the process, and is named in the outcome; by another name than the probe's own where that is given.
const KILLED: &[(&str, Option<&str>, Outside)] = &[
    ("mount", None, Succeeds),
    ("bind-mount", Some("mount"), Succeeds),
    ("umount2", None, Succeeds),
    ("open_tree", None, Succeeds),
    ("fsopen", None, Succeeds),
    ("pivot_root", None, Not),
    ("unshare", None, Succeeds),
    ("clone", None, Succeeds),
    ("setns", None, Succeeds),
    ("kexec_load", None, Not),
    ("init_module", None, Not),
    ("bpf", None, Succeeds),
    ("keyctl", None, Succeeds),
    ("add_key", None, Succeeds),
    ("userfaultfd", None, Succeeds),
    ("perf_event_open", None, Succeeds),
    ("reboot", None, Not),
    ("swapon", None, Not),
    ("sethostname", None, Succeeds),
    ("acct", None, Succeeds),
    ("open_by_handle_at", None, Not),
    ("iopl", None, Not),
    ("unknown", Some("system call 9999"), Not),
];

/// Each is answered with an error, and the function goes on.
const REFUSED: &[(&str, &str, Outside)] = &[
    ("io_uring_setup", "ENOSYS", Succeeds),
    ("clone3", "ENOSYS", Succeeds),
    ("io_setup", "ENOSYS", Succeeds),
    ("settimeofday", "EPERM", Succeeds),
    ("clock_settime", "EPERM", Not),
    ("adjtimex", "EPERM", Not),
    ("chroot", "EPERM", Succeeds),
    ("mknod", "EPERM", Succeeds),
    ("syslog", "EPERM", Succeeds),
    ("fanotify", "EPERM", Succeeds),
    ("personality", "EPERM", Succeeds),
    ("setuid", "EPERM", Succeeds),
    ("capset", "EPERM", Succeeds),
    ("new-privileges", "EINVAL", Not),
    ("no-filter", "EPERM", Not),
    ("realtime", "EPERM", Succeeds),
    ("nice", "EACCES", Succeeds),
    ("io-realtime", "EPERM", Succeeds),
    ("more-files", "EPERM", Not),
    ("core-files", "EPERM", Not),
    ("tiocsti", "EPERM", Succeeds),
    ("raw-socket", "EAFNOSUPPORT", Succeeds),
    ("packet-socket", "EAFNOSUPPORT", Succeeds),
    ("netlink-socket", "EAFNOSUPPORT", Succeeds),
    ("alg-socket", "EAFNOSUPPORT", Not),
];

#[test]
fn forbidden_system_calls_end_the_function_and_are_named() {
    if !can_run("forbidden_system_calls") {
        return;
    }
    let stage = stage();
    for (probe, name, _) in KILLED {
        let name = format!("`{}`", name.unwrap_or(probe));
        for function in ["attacker", "strict"] {
            stage
                .attack(function, &format!("syscall {probe}"))
                .ended(Status::Syscall, &[&name, "not allowed"]);
        }
    }
    // The numbers of another architecture, of which the names would be others.
    stage.attack("attacker", "syscall int80").ended(Status::Syscall, &["system call"]);
    let victim = stage.processes("neighbour")[0];
    for probe in ["ptrace", "process_vm_readv", "pidfd_getfd"] {
        let told = stage.attack("attacker", &format!("syscall {probe} {victim}"));
        told.ended(Status::Syscall, &[&format!("`{probe}`")]);
        let told = stage.attack("attacker", &format!("syscall {probe} 1"));
        told.ended(Status::Syscall, &[&format!("`{probe}`")]);
        assert!(stage.log("attacker", told.call).contains(probe), "the log tells of it, too");
    }
    assert_eq!(stage.processes("neighbour")[0], victim, "it lives");
}

#[test]
fn what_needs_rights_is_refused() {
    if !can_run("what_needs_rights_is_refused") {
        return;
    }
    let stage = stage();
    for (probe, errno, _) in REFUSED {
        for function in ["attacker", "strict"] {
            let told = stage.attack(function, &format!("syscall {probe}"));
            told.is_refused().says(&[&format!("{probe}: {errno}")]);
        }
    }
}

#[test]
fn canary_outside_of_sandboxes_these_system_calls_succeed() {
    if !can_run("canary_outside_of_sandboxes_these_system_calls_succeed") {
        return;
    }
    let killed = KILLED.iter().map(|(probe, _, outside)| (probe, outside));
    let refused = REFUSED.iter().map(|(probe, _, outside)| (probe, outside));
    for (probe, _) in killed.chain(refused).filter(|(_, outside)| **outside == Succeeds) {
        outside::succeeds(&format!("syscall {probe}"), As::Root);
    }
    let mut other = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    for probe in ["ptrace", "process_vm_readv", "pidfd_getfd"] {
        outside::succeeds(&format!("syscall {probe} {}", other.id()), As::Root);
    }
    let _ = other.kill();
    let _ = other.wait();
}
