//! Files of the host, of others, and of the function itself.

use crate::outside::{self, As};
use crate::stage::{TMP_MIB, attacker, can_run, stage};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn nothing_outside_of_tmp_is_written() {
    if !can_run("nothing_outside_of_tmp_is_written") {
        return;
    }
    let stage = stage();
    let name = format!("attack-{}", stage.mark);
    let places =
        ["", "/var/task", "/usr", "/usr/bin", "/etc", "/dev", "/var", "/proc", "/proc/self", "/usr/lib"];
    let fresh: Vec<String> = places.iter().map(|place| format!("{place}/{name}")).collect();
    let there = [
        "/var/task/attacker",
        "/usr/bin/env",
        "/bin/sh",
        "/etc/passwd",
        "/etc/hosts",
        "/etc/ld.so.cache",
        "/etc/resolv.conf",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/proc/self/oom_score_adj",
        "/proc/1/oom_score_adj",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/proc/self/loginuid",
        "/proc/self/timerslack_ns",
        "/proc/1/mem",
        "/proc/self/ns/net",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/bpf/x",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/vda",
        "/dev/ptmx",
        "/dev/shm/x",
        "/run/x",
        "/root/x",
    ];
    let all: Vec<&str> = fresh.iter().map(String::as_str).chain(there).collect();
    let before = fs::read(stage.site.folder().join("bundle/attacker")).expect("the bundle");
    stage.attack("attacker", &format!("write {}", all.join(" "))).is_refused();
    for place in ["/", "/usr", "/usr/bin", "/etc", "/dev", "/var"] {
        assert!(!std::path::Path::new(place).join(&name).exists(), "{place} was written to");
    }
    let own = format!("/tmp/{name}");
    stage
        .attack("attacker", &format!("write {own} /dev/null"))
        .says(&[&format!("{own}: ok"), "/dev/null: ok"]);
    assert!(!std::path::Path::new(&own).exists(), "its /tmp is its own");
    assert_eq!(fs::read(attacker()).expect("the attacker"), before);
}

#[test]
fn files_of_the_host_and_of_others_are_not_read() {
    if !can_run("files_of_the_host_and_of_others_are_not_read") {
        return;
    }
    let stage = stage();
    let data = stage.site.data().display().to_string();
    let paths = [
        "/etc/shadow",
        "/etc/sudoers",
        "/etc/ssh",
        "/root",
        "/home",
        "/run",
        "/sys",
        "/boot",
        "/var/lib",
        "/var/log",
        "/var/task/..",
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/kmsg",
        "/proc/keys",
        "/proc/cmdline",
        "/proc/mounts/..",
        "/proc/sys",
        "/proc/1",
        "/proc/1/environ",
        "/proc/1/root",
        "/proc/self/root/root",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/etc/machine-id",
        &data,
        &stage.run_path("up.json"),
        &format!("{data}/artefacts"),
        &format!("{data}/cache"),
    ];
    // What is not there is not read either; `/var` has its two entries, which are the sandbox's.
    let told = stage.attack("attacker", &format!("read {}", paths.join(" ")));
    let read: Vec<&str> = told.output.lines().filter(|line| line.ends_with(": ok")).collect();
    assert!(read == ["/var/task/..: ok"] || read.is_empty(), "{read:?} of {told:?}");
    let own = "/var/task/attacker /usr/bin/env /etc/passwd";
    stage.attack("attacker", &format!("read {own}")).says(&["/var/task/attacker: ok", "/etc/passwd: ok"]);
}

#[test]
fn names_lead_nowhere_else() {
    if !can_run("names_lead_nowhere_else") {
        return;
    }
    let stage = stage();
    // A file of the host that everybody may read, in a folder that everybody may enter.
    let bait = std::env::temp_dir().join(format!("bait-{}", stage.mark));
    fs::write(&bait, "bait").expect("a file");
    fs::set_permissions(&bait, fs::Permissions::from_mode(0o644)).expect("a mode");
    let told = stage.attack("attacker", &format!("links /tmp {}", bait.display()));
    let place = tempfile::tempdir().expect("a folder");
    let outside = outside::run(&format!("links {} {}", place.path().display(), bait.display()), As::Root);
    fs::remove_file(&bait).expect("it is there still");
    told.is_refused();
    assert!(outside.contains(": ok") && outside.contains("hard link: ok"), "the canary: {outside}");
    stage.attack("attacker", "links /tmp /etc/shadow").is_refused();
    assert!(
        stage.attack("attacker", "echo still here").output.contains("still here"),
        "its program is whole"
    );
}

#[test]
fn no_descriptor_of_the_platform_is_inherited_and_none_leads_out() {
    if !can_run("no_descriptor_of_the_platform_is_inherited") {
        return;
    }
    let stage = stage();
    let told = stage.attack("peek", "descriptors");
    told.is_refused();
    let born: Vec<&str> = told.output.lines().filter(|line| line.contains(" is ")).collect();
    assert_eq!(born.len(), 3, "{told:?}");
    assert_eq!(born[0], "0 is /dev/null");
    assert!(born[1].starts_with("1 is pipe:") && born[2].starts_with("2 is pipe:"), "{told:?}");
    // By stdio a pipe each, and nothing else.
    let told = stage.attack("stdio", "descriptors");
    let born: Vec<&str> = told.output.lines().filter(|line| line.contains(" is ")).collect();
    assert!(born.len() == 3 && born.iter().all(|line| line.contains(" is pipe:")), "{told:?}");
}

#[test]
fn set_user_id_programs_give_nothing() {
    if !can_run("set_user_id_programs_give_nothing") {
        return;
    }
    let stage = stage();
    let told = stage.attack("attacker", "setuid /var/task/root");
    told.says(&["mode: 755", "other user: EPERM"]);
    // The canary: with the mode that it had when it was packed, anybody is root.
    let place = tempfile::Builder::new().tempdir_in(stage.site.folder()).expect("a folder");
    let program = std::path::Path::new("/var/tmp").join(format!("root-{}", stage.mark));
    drop(place);
    fs::copy(attacker(), &program).expect("a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("a mode");
    let outside = outside::run(&format!("setuid {}", program.display()), As::Nobody);
    fs::remove_file(&program).expect("it is there still");
    assert!(outside.contains("other user: ok"), "{outside}");
}

#[test]
fn tmp_is_full_when_it_is_full() {
    if !can_run("tmp_is_full_when_it_is_full") {
        return;
    }
    let stage = stage();
    let told = stage.attack("attacker", "memory file 1000");
    told.says(&["file: ENOSPC"]);
    assert!(told.number("took ") <= TMP_MIB, "{told:?}");
    let told = stage.attack("attacker", "names 1000000");
    told.says(&["name: ENOSPC"]);
    // A page's worth of names for each page, and a few.
    assert!(told.number("made ") <= TMP_MIB * 256 + 64, "{told:?}");
    let outside = outside::run("memory file 20", As::Root);
    assert!(outside.contains("file: ok"), "the canary: {outside}");
}
