//! What a function may use, and how it is told when it wants more.

use crate::host::*;
use sandbox::peak::Peak;
use sandbox::protocol::*;

#[test]
fn memory_beyond_the_limit_ends_the_function_and_says_so() {
    if !has_root("memory_beyond_the_limit") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    if !core.force.cgroups {
        return skip("memory_beyond_the_limit", "no cgroups here");
    }
    let mut spec = probes(bundle.path());
    spec.limits.memory_bytes = 32 << 20;
    let made = core.make(spec.clone());
    let ran = core.run(made.id, &[("PROBE", "memory")], "");
    assert_eq!(ran.ending, Ending::Oom, "{ran:?}");
    // Filling /tmp is memory too.
    spec.limits.tmp_bytes = 1 << 30;
    spec.abi = Abi::RuntimeApi;
    spec.command = ["/bin/sh", "-c", "exec head -c 200000000 /dev/zero > /tmp/x"].map(String::from).into();
    let made = core.make(spec);
    assert_eq!(core.exited(made.id), Ending::Oom);
}

#[test]
fn a_fork_bomb_is_bounded() {
    if !has_root("a_fork_bomb_is_bounded") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    if !core.force.cgroups {
        return skip("a_fork_bomb_is_bounded", "no cgroups here");
    }
    let mut spec = shell(bundle.path());
    spec.limits.pids = 20;
    let made = core.make(spec);
    let ran = core.script(made.id, "for i in $(seq 100); do sleep 1000 & done; echo unreachable");
    assert!(ran.stderr.contains("fork") && !ran.stdout.contains("unreachable"), "{ran:?}");
    let before = host.inmates().len();
    assert!(before <= 20 + 4, "{before} processes");
    core.stop(made.id, Stop::Kill);
    core.exited(made.id);
    // Two blanks stay.
    wait("the end of the bomb", || (host.inmates().len() <= 3).then_some(()));
}

/// The weight of the group in which a process is, as the kernel has it.
fn weight_of(pid: u32) -> u64 {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let place = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => Some(format!("/sys/fs/cgroup{path}/cpu.weight")),
            _ if controllers.split(',').any(|one| one == "cpu") => {
                Some(format!("/sys/fs/cgroup/{controllers}{path}/cpu.shares"))
            }
            _ => None,
        }
    };
    let text = groups.lines().filter_map(place).find_map(|file| std::fs::read_to_string(file).ok());
    text.expect("a group with a weight").trim().parse().expect("a number")
}

#[test]
fn one_that_computes_stands_back_until_it_waits_again() {
    if !has_root("one_that_computes_stands_back") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    if !core.force.cgroups {
        return skip("one_that_computes_stands_back", "no cgroups here");
    }
    let mut spec = shell(bundle.path());
    spec.abi = Abi::RuntimeApi;
    let script = "for i in 1 2 3 4; do while [ ! -e /tmp/stop ]; do :; done & done; wait; exec sleep 1000";
    spec.command = ["/bin/sh", "-c", script].map(String::from).into();
    let made = core.make(spec);
    // 100 is usual, 1024 with version 1.
    wait("a part of its weight", || (weight_of(made.pid) <= 20).then_some(()));
    std::fs::write(format!("/proc/{}/root/tmp/stop", made.pid), "").expect("root may write there");
    let whole = [100, 1024];
    wait("its whole weight", || whole.contains(&weight_of(made.pid)).then_some(()));
}

#[test]
fn files_are_bounded() {
    if !has_root("files_are_bounded") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let mut spec = shell(bundle.path());
    spec.limits.files = 40;
    let made = core.make(spec);
    let ran = core.script(made.id, "ulimit -n; ulimit -n 41; ulimit -c; ulimit -l");
    assert!(ran.stdout.starts_with("40\n"), "{ran:?}");
    assert!(!ran.stderr.is_empty(), "the limit can be raised: {ran:?}");
}

#[test]
fn what_a_host_cannot_enforce_is_refused() {
    if !has_root("what_a_host_cannot_enforce_is_refused") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let device = Spec { devices: vec!["/dev/tty".into()], ..shell(bundle.path()) };
    assert!(core.try_make(device).unwrap_err().contains("/dev/tty"));
    let network = Network { allow: vec!["10.0.0.0/8:443".into()], ..Network::default() };
    let spec = Spec { network: Some(network), ..shell(bundle.path()) };
    let refused = core.try_make(spec);
    assert_eq!(refused.is_ok(), core.force.bpf, "{refused:?}");
    let spec = Spec { bundle: "/nonexistent".into(), ..shell(bundle.path()) };
    assert!(core.try_make(spec).unwrap_err().contains("/nonexistent"));
    let spec = Spec { bundle: "relative".into(), ..shell(bundle.path()) };
    assert!(core.try_make(spec).unwrap_err().contains("absolute"));
    let script = bundle.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let spec = Spec { command: vec!["./script".into()], ..service(bundle.path(), "") };
    assert!(core.try_make(spec).unwrap_err().contains("not executable"));
    let spec = Spec { command: vec![], ..service(bundle.path(), "") };
    assert!(core.try_make(spec).unwrap_err().contains("neither in the bundle"));
    // After all that it serves still.
    let made = core.make(shell(bundle.path()));
    assert_eq!(core.script(made.id, "echo yes").stdout, "yes\n");
}

#[test]
fn a_core_reads_the_peak_of_memory_as_soon_as_a_run_has_ended() {
    if !has_root("a_core_reads_the_peak_of_memory") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    if !core.force.cgroups {
        return skip("a_core_reads_the_peak_of_memory", "no cgroups here");
    }
    let mut made = core.make(shell(bundle.path()));
    let peak = Peak::of(made.descriptors.pop().expect("a file with the peak"));
    let before = peak.read().expect("a number");
    assert!(before > 0, "its first process takes memory");
    // Files in /tmp are memory.
    const BYTES: u64 = 24 << 20;
    core.script(made.id, &format!("head -c {BYTES} /dev/zero > /tmp/x; rm /tmp/x"));
    let after = peak.read().expect("a number");
    assert!((BYTES..before + BYTES + (8 << 20)).contains(&after), "{before} before, {after} after");
    core.stop(made.id, Stop::Kill);
    core.exited(made.id);
}
