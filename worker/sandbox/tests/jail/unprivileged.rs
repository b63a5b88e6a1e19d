//! A jailer that is not root: what works, what is refused, what it says.

use crate::host::*;
use sandbox::protocol::*;

/// Somebody who is nobody.
const USER: u32 = 65_534;

#[test]
fn without_root_a_function_is_jailed_all_the_same_where_its_limits_need_not_hold() {
    if !has_root("without_root") {
        return;
    }
    let how = How { user: Some(USER), without_limits: true, ..How::default() };
    let (host, bundle) = (Host::start_as(&how), bundle());
    let mut core = host.core();
    assert_eq!(core.force, Force::default());
    let told = core.backends.iter().find(|(thing, _)| thing == "cgroups").unwrap();
    assert!(told.1.starts_with("none:") && told.1.contains("--without-limits"), "{told:?}");
    let made = core.make(shell(bundle.path()));
    let status = core.script(made.id, "cat /proc/self/status; ls /root /home; touch /usr/x").stdout;
    for line in ["Uid:\t1000\t1000\t1000\t1000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.lines().any(|other| other == line), "no `{line}` in {status}");
    }
    let network = Some(Network::default());
    let refused = core.try_make(Spec { network, ..shell(bundle.path()) }).unwrap_err();
    assert!(refused.contains("BPF"), "{refused}");
}

#[test]
fn without_root_functions_with_limits_are_refused() {
    if !has_root("without_root_functions_with_limits_are_refused") {
        return;
    }
    let how = How { user: Some(USER), ..How::default() };
    let (host, bundle) = (Host::start_as(&how), bundle());
    let mut core = host.core();
    let refused = core.try_make(shell(bundle.path())).unwrap_err();
    assert!(refused.contains("limits cannot be enforced here"), "{refused}");
    let mut free = shell(bundle.path());
    free.limits = Limits { memory_bytes: 0, pids: 0, ..Limits::default() };
    let made = core.make(free);
    assert_eq!(core.script(made.id, "echo free").stdout, "free\n");
}
