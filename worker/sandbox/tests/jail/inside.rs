//! What a function sees, and what it cannot.

use crate::host::*;
use sandbox::protocol::*;

/// The stdout of a script that succeeds.
fn seen(core: &mut Core, sandbox: SandboxId, script: &str) -> String {
    let ran = core.script(sandbox, script);
    assert_eq!(ran.ending, Ending::Exit(0), "`{script}`: {ran:?}");
    ran.stdout
}

#[test]
fn a_function_is_a_user_without_rights_in_namespaces_of_its_own() {
    if !has_root("a_function_is_a_user_without_rights") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    let status = seen(&mut core, made.id, "cat /proc/self/status");
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Seccomp_filters:\t1",
        "Groups:\t",
    ] {
        assert!(status.lines().any(|other| other.trim_end() == line.trim_end()), "no `{line}` in {status}");
    }
    let ours = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let theirs = seen(&mut core, made.id, &format!("readlink /proc/self/ns/{kind}"));
        assert_ne!(theirs.trim(), ours(kind).to_str().unwrap(), "{kind} is the host's");
    }
    assert_eq!(seen(&mut core, made.id, "hostname").trim(), "probe-sh");
    let map = std::fs::read_to_string(format!("/proc/{}/uid_map", made.pid)).unwrap();
    let outside: Vec<&str> = map.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert!(outside.iter().all(|id| id.parse::<u32>().unwrap() >= 1_900_000_000), "{map}");
    let other = core.make(shell(bundle.path()));
    let other = std::fs::read_to_string(format!("/proc/{}/uid_map", other.pid)).unwrap();
    assert!(outside.iter().all(|id| !other.contains(id)), "two sandboxes share an id: {map} {other}");
}

#[test]
fn a_function_sees_its_own_processes_only() {
    if !has_root("a_function_sees_its_own_processes_only") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    // PID 1 is another user's, and hidden; the shell and `ls` are all there is.
    let processes = seen(&mut core, made.id, "ls /proc | grep -c '^[0-9]'; test -e /proc/1 || echo hidden");
    // sh and ls; grep if it is there already.
    assert!(["2\nhidden\n", "3\nhidden\n"].contains(&processes.as_str()), "{processes}");
    let ran = core.script(made.id, "kill -9 1; kill -TERM 1; kill -9 -1; cat /proc/1/environ");
    assert!(ran.stderr.contains("ot permitted") || ran.ending == Ending::Signal(9), "{ran:?}");
    assert_eq!(seen(&mut core, made.id, "echo alive"), "alive\n", "PID 1 is out of reach");
    let listing = seen(&mut core, made.id, "ls -l /proc/self/fd | grep -c -- '->'; cat /proc/self/cgroup");
    // 0, 1, 2, and the directory that `ls` reads.
    assert!(listing.starts_with("4\n"), "{listing}");
    assert!(listing.lines().skip(1).all(|line| line.ends_with(":/")), "the host's groups show: {listing}");
}

#[test]
fn a_function_sees_programs_its_bundle_and_nothing_else_of_the_host() {
    if !has_root("a_function_sees_programs_and_its_bundle") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    let root = seen(&mut core, made.id, "ls /");
    for name in root.lines() {
        let known =
            ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var"];
        assert!(known.contains(&name), "/{name} shows");
    }
    assert_eq!(
        seen(&mut core, made.id, "pwd; cat hello; ls /var"),
        "/var/task\nfrom the bundle\ntask\ntmp\n"
    );
    assert_eq!(
        seen(&mut core, made.id, "ls /dev"),
        "fd\nfull\nnull\nrandom\nstderr\nstdin\nstdout\nurandom\nzero\n"
    );
    assert_eq!(seen(&mut core, made.id, "head -c 3 /dev/zero | wc -c; echo x > /dev/null"), "3\n");
    for path in
        ["/etc/shadow", "/root", "/home", "/sys", "/run", "/proc/sys", "/proc/kallsyms", "/var/task/.."]
    {
        let ran = core.script(made.id, &format!("cat {path}/* {path}"));
        assert_ne!(ran.ending, Ending::Exit(0), "{path} can be read");
    }
    let tricks = "ls /proc/self/root/root /proc/self/cwd/../../root; cat /../../etc/shadow";
    let ran = core.script(made.id, tricks);
    assert!(ran.stdout.is_empty() && ran.ending != Ending::Exit(0), "{ran:?}");
}

#[test]
fn nothing_but_tmp_can_be_written_and_that_only_up_to_its_size() {
    if !has_root("nothing_but_tmp_can_be_written") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let mut spec = shell(bundle.path());
    spec.limits.tmp_bytes = 1 << 20;
    let made = core.make(spec);
    for path in ["/x", "/var/task/x", "/usr/x", "/etc/x", "/dev/x", "/var/x", "/proc/self/oom_score_adj"] {
        let ran = core.script(made.id, &format!("echo x > {path}"));
        assert_ne!(ran.ending, Ending::Exit(0), "{path} can be written");
    }
    // Its own file, and a value that the kernel would take: what refuses it is Landlock.
    let ran = core.script(made.id, "echo 900 > /proc/self/oom_score_adj");
    assert_eq!(ran.ending == Ending::Exit(0), !has_landlock(&core), "{ran:?}");
    let ran = core.script(
        made.id,
        "ln -s /var/task /tmp/a; echo x > /tmp/a/x; echo $?; mv /var/task/hello /tmp; echo $?",
    );
    assert!(!ran.stdout.contains("0\n"), "{ran:?}");
    assert!(!bundle.path().join("x").exists());
    let ran = core.script(
        made.id,
        "head -c 2000000 /dev/zero > /tmp/big; wc -c < /tmp/big; rm /tmp/big; touch /tmp/fits",
    );
    assert!(ran.stderr.contains("No space left"), "{ran:?}");
    // The link takes a page of it.
    let fitted: u32 = ran.stdout.trim().parse().unwrap();
    assert!((1_000_000..=1 << 20).contains(&fitted), "{ran:?}");
    let ran = core.script(made.id, "i=0; while touch /tmp/f$i; do i=$((i+1)); done 2>/dev/null; echo $i");
    let files: u32 = ran.stdout.trim().parse().unwrap();
    assert!((200..400).contains(&files), "{files} files fit into a megabyte");
    let ran = core.script(made.id, "cp /bin/true /tmp/t; mknod /tmp/d c 1 3; echo $?");
    assert!(ran.stdout.contains('1'), "a device was made: {ran:?}");
    // The next sandbox has a /tmp of its own.
    let next = core.make(shell(bundle.path()));
    assert_eq!(seen(&mut core, next.id, "ls -A /tmp"), "");
}

fn has_landlock(core: &Core) -> bool {
    core.backends.iter().any(|(thing, state)| thing == "landlock" && state.starts_with("ABI"))
}

#[test]
fn nothing_of_the_host_is_mounted_but_what_is_meant_to_and_that_read_only() {
    if !has_root("nothing_of_the_host_is_mounted") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    let mounts = seen(&mut core, made.id, "cat /proc/self/mountinfo");
    let mut roots = 0;
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (place, flags) = (words[4], words[5].split(',').collect::<Vec<_>>());
        let device = place.starts_with("/dev/");
        let known = device
            || ["/", "/proc", "/tmp", "/var/task"].contains(&place)
            || ["/usr", "/bin", "/sbin", "/lib", "/etc/"].iter().any(|known| place.starts_with(known));
        assert!(known, "{place} is mounted: {line}");
        roots += u32::from(place == "/");
        assert!(flags.contains(&"nosuid"), "{line}");
        assert!(flags.contains(&"nodev") || device, "{line}");
        assert!(flags.contains(&"ro") || ["/proc", "/tmp"].contains(&place), "{line}");
        assert!(
            !line.contains(" shared:") && !line.contains(" master:"),
            "it hears of the host's mounts: {line}"
        );
    }
    assert_eq!(roots, 1, "one root, and none below it: {mounts}");
}

#[test]
fn a_function_gets_the_environment_that_was_given_and_no_more() {
    if !has_root("a_function_gets_the_environment_that_was_given") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let mut spec = shell(bundle.path());
    spec.environment = vec![("COLOUR".into(), "blue".into()), ("SHAPE".into(), "round\nor not".into())];
    let made = core.make(spec);
    let ran = core.run(made.id, &[("SCRIPT", "tr '\\0' '\\n' < /proc/self/environ"), ("COLOUR", "red")], "");
    let mut names: Vec<&str> =
        ran.stdout.lines().filter_map(|line| line.split_once('=')).map(|(n, _)| n).collect();
    names.sort_unstable();
    assert_eq!(names, ["COLOUR", "HOME", "LAMBDA_TASK_ROOT", "PATH", "SCRIPT", "SHAPE", "TMPDIR"], "{ran:?}");
    assert!(ran.stdout.contains("COLOUR=red\n"), "a run's own word wins");
    let ran = core.run(made.id, &[("SCRIPT", "cat; cat >&2 /dev/null; exit 7")], "what goes in");
    assert_eq!((ran.stdout.as_str(), ran.ending), ("what goes in", Ending::Exit(7)));
    assert!(ran.peak_memory_bytes > 64 << 10, "{} bytes of a shell and a cat", ran.peak_memory_bytes);
}

#[test]
fn a_network_without_grants_has_loopback_only() {
    if !has_root("a_network_without_grants_has_loopback_only") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut core = host.core();
    let made = core.make(probes(bundle.path()));
    let port = listener.local_addr().unwrap().port().to_string();
    let ran = core.run(made.id, &[("PROBE", "network"), ("PORT", &port)], "");
    assert_eq!(ran.ending, Ending::Exit(0), "{ran:?}");
    assert!(ran.stderr.contains("interfaces: lo\n"), "{ran:?}");
    assert!(ran.stderr.contains("host: ECONNREFUSED\n"), "{ran:?}");
    assert!(ran.stderr.contains("outside: ENETUNREACH\n"), "{ran:?}");
    assert!(ran.stderr.contains("own: Ok\n"), "{ran:?}");
}

#[test]
fn base_none_has_the_bundle_only() {
    if !has_root("base_none_has_the_bundle_only") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let spec = Spec { base: Base::None, ..service(bundle.path(), "true") };
    let refused = core.try_make(spec).unwrap_err();
    assert!(refused.contains("neither in the bundle nor in the base"), "{refused}");
    let spec = Spec { base: Base::None, ..shell(bundle.path()) };
    let made = core.make(spec);
    let ran = core.script(made.id, "true");
    assert!(matches!(&ran.ending, Ending::Exec { reason } if reason.contains("neither")), "{ran:?}");
    if let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| std::path::Path::new(path).exists())
    {
        std::fs::copy(busybox, bundle.path().join("busybox")).unwrap();
        let command = ["./busybox", "ls", "/"].map(String::from).into();
        let made = core.make(Spec { base: Base::None, command, ..shell(bundle.path()) });
        assert_eq!(core.script(made.id, "").stdout, "dev\netc\nproc\ntmp\nvar\n");
    }
}

#[test]
fn exposed_paths_are_seen_read_only_at_their_place() {
    if !has_root("exposed_paths_are_seen_read_only") {
        return;
    }
    // Neither below /tmp nor /var/tmp, which are the function's own.
    let exposed = tempfile::tempdir_in("/opt").unwrap();
    std::fs::write(exposed.path().join("hello"), "from the host\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(exposed.path(), mode).unwrap();
    let how = How { expose: Some(exposed.path().to_owned()), ..How::default() };
    let (host, bundle) = (Host::start_as(&how), bundle());
    let mut core = host.core();
    let made = core.make(shell(bundle.path()));
    let path = exposed.path().display().to_string();
    let ran = core.script(made.id, &format!("cat {path}/hello; touch {path}/x"));
    assert_eq!(ran.stdout, "from the host\n", "{ran:?}");
    assert!(ran.stderr.contains("Read-only"), "{ran:?}");
}
