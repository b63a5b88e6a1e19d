//! Hostile functions by stdin and stdout.

use crate::stage::{can_run, stage};
use call::Status;

#[test]
fn a_process_per_call_is_held_as_well() {
    if !can_run("a_process_per_call_is_held_as_well") {
        return;
    }
    let stage = stage();
    for (probe, name) in
        [("mount", "`mount`"), ("ptrace 1", "`ptrace`"), ("bpf", "`bpf`"), ("unshare", "`unshare`")]
    {
        stage.attack("stdio", &format!("syscall {probe}")).ended(Status::Syscall, &[name]);
    }
    stage.attack("stdio", "write /x /usr/x /var/task/x /etc/passwd").is_refused();
    stage.attack("stdio", "tcp 127.0.0.1 22 1.1.1.1 53").is_refused();
    let told = stage.attack("stdio", "signal 1");
    told.is_refused();
    let told = stage.attack("stdio", "output 80");
    assert!(told.output.len() <= 64 << 20, "{} bytes", told.output.len());
    assert!(told.is_cut || told.status == Status::BadReply, "{:?} {}", told.status, told.stderr);
    stage.attack("stdio", "memory heap 500").ended(Status::Memory, &["more memory"]);
    stage.attack("stdio", "echo well").says(&["well"]);
}

#[test]
fn a_hostile_shell_ends_nobody_but_itself() {
    if !can_run("a_hostile_shell_ends_nobody_but_itself") {
        return;
    }
    let stage = stage();
    stage.attack("shell", "kill -9 1; kill -9 -1; echo alive").says(&["alive"]);
    stage.attack("shell", "kill -9 $$").ended(Status::Killed, &["SIGKILL"]);
    stage.attack("shell", "trap '' TERM HUP INT; while :; do :; done").ended(Status::Timeout, &[]);
    stage.attack("shell", "exec >&- 2>&-; sleep 100").ended(Status::Timeout, &[]);
    let told = stage.attack("shell", "f() { f | f & }; f; sleep 1; echo done");
    assert!([Status::Ok, Status::Exit, Status::Killed, Status::Memory].contains(&told.status), "{told:?}");
    stage.attack("shell", "exit 41").ended(Status::Exit, &[]);
    stage.attack("shell", "trap '' TERM; sleep 1000").ended(Status::Timeout, &[]);
    stage.is_gone("shell");
}
