//! Functions that misbehave before their first call.

use crate::stage::{can_run, stage};
use call::Status;

#[test]
fn a_bad_begin_fails_the_call_with_its_reason_and_leaves_nothing() {
    if !can_run("a_bad_begin_fails_the_call") {
        return;
    }
    let stage = stage();
    for (how, status, words) in [
        ("crash", Status::Init, &["SIGSEGV"][..]),
        ("exit", Status::Init, &["exit status 3"]),
        ("hang", Status::Init, &[]),
        ("deaf", Status::Init, &[]),
        ("error", Status::Init, &[]),
        ("bomb", Status::Init, &[]),
        ("syscall", Status::Syscall, &["`ptrace`"]),
    ] {
        let function = format!("begin-{how}");
        let told = stage.attack(&function, "echo x");
        told.ended(status, words);
        assert!(!told.stderr.is_empty() && told.stderr.len() <= 16 << 10, "{told:?}");
        stage.is_gone(&function);
    }
    // An answer to no call is refused, and no harm is done.
    let told = stage.attack("begin-answer", "echo x");
    told.says(&["x"]);
    assert!(told.stderr.contains("early answer: 4"), "{told:?}");
}
