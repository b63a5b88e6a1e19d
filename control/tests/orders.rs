//! What operators order about calls and queues, on a node with real sockets and a real disk.

mod peer;

use call::admin::{Answer, Ask, Whose};
use call::frame::{Frame, Kind};
use call::limits::Limits;
use call::{CallId, FunctionId, Status, VerdictCode};
use peer::Peer;
use peer::node::{Running, directory, function};
use std::time::Duration;

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

fn start(directory: &tempfile::TempDir) -> Running {
    Running::start(directory.path(), Limits::small(), vec![function("echo")])
}

fn cancel(call: u128, wait_ms: u64) -> Ask {
    Ask::Cancel { call: CallId(call).to_string(), wait_ms }
}

fn status_of(answer: Answer) -> (String, Option<Status>) {
    let Answer::Call(state) = answer else { panic!("no call: {answer:?}") };
    (state.state, state.status)
}

fn heard(client: &mut Peer) -> (CallId, Status) {
    let outcome = client.expect(Kind::Outcome);
    let (frame, _) = Frame::parse(&outcome).unwrap();
    (frame.call(), frame.status().unwrap())
}

#[test]
fn a_waiting_call_that_is_cancelled_never_runs() {
    let directory = directory();
    let node = start(&directory);
    let (mut client, mut admin) = (node.client(), node.admin());
    for call in 1..=3 {
        assert_eq!(client.submitted(call, echo(), true), VerdictCode::Accepted);
    }
    let told = status_of(admin.ask(&cancel(2, 5_000)));
    assert_eq!(told, ("done".into(), Some(Status::Cancelled)));
    assert_eq!(heard(&mut client), (CallId(2), Status::Cancelled));
    let Answer::Error { code, .. } = admin.ask(&cancel(2, 0)) else { panic!("cancelled twice") };
    assert_eq!(code, "conflict");
    let Answer::Error { code, .. } = admin.ask(&cancel(9, 0)) else { panic!("who is that?") };
    assert_eq!(code, "not-found");
    // On disk: the next start knows, and gives it to nobody.
    drop((client, admin));
    node.kill();
    let node = start(&directory);
    let (_host, mut core) = node.ready_core(4, 1);
    for call in [1, 3] {
        let lease = core.expect(Kind::Lease);
        assert_eq!(Frame::parse(&lease).unwrap().0.call(), CallId(call));
        core.end(&lease, Status::Ok, b"");
    }
    core.expect_no(Kind::Lease, Duration::from_millis(50));
}

#[test]
fn a_running_call_that_is_cancelled_is_stopped_by_its_core_and_does_not_run_again() {
    let directory = directory();
    let node = start(&directory);
    let (mut client, mut admin) = (node.client(), node.admin());
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    assert_eq!(client.submitted(2, echo(), true), VerdictCode::Accepted);
    let (_host, mut core) = node.ready_core(4, 1);
    let (first, second) = (core.expect(Kind::Lease), core.expect(Kind::Lease));
    assert_eq!(status_of(admin.ask(&cancel(1, 0))).0, "running", "it has not been stopped yet");
    let told = core.expect(Kind::Cancel);
    let (told, lease) = (Frame::parse(&told).unwrap().0, Frame::parse(&first).unwrap().0);
    assert_eq!((told.call(), told.epoch()), (lease.call(), lease.epoch()));
    core.end(&first, Status::Cancelled, b"");
    assert_eq!(heard(&mut client), (CallId(1), Status::Cancelled));
    // One whose core dies before it could stop it: it has ended all the same, also for the next start.
    assert_eq!(status_of(admin.ask(&cancel(2, 0))).0, "running");
    core.expect(Kind::Cancel);
    admin.ask(&Ask::Status);
    drop((client, admin, second));
    node.kill();
    let node = start(&directory);
    let mut admin = node.admin();
    let ask = Ask::Call { call: CallId(2).to_string(), wait_ms: 0 };
    assert_eq!(status_of(admin.ask(&ask)), ("done".into(), Some(Status::Cancelled)));
    let (_host, mut core) = node.ready_core(4, 1);
    core.expect_no(Kind::Lease, Duration::from_millis(50));
}

#[test]
fn a_paused_function_takes_calls_and_runs_none_until_it_is_resumed() {
    let directory = directory();
    let node = start(&directory);
    let (mut client, mut admin) = (node.client(), node.admin());
    let (_host, mut core) = node.ready_core(2, 1);
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    let lease = core.expect(Kind::Lease);
    for whose in [Whose::Function("default/echo".into()), Whose::Tenant("default".into())] {
        let pause = |paused| Ask::Pause { whose: whose.clone(), paused };
        assert_eq!(admin.ask(&pause(true)), Answer::Done { count: 1 });
        let call = 2 + u128::from(matches!(whose, Whose::Tenant(_)));
        assert_eq!(client.submitted(call, echo(), false), VerdictCode::Accepted);
        core.expect_no(Kind::Lease, Duration::from_millis(50));
        let Answer::Queues(queues) = admin.ask(&Ask::Queues) else { panic!("no queues") };
        assert!(["function", "tenant"].contains(&queues[0].paused.as_str()));
        if call == 2 {
            // What runs goes on.
            core.end(&lease, Status::Ok, b"");
            assert_eq!(heard(&mut client), (CallId(1), Status::Ok));
        }
        assert_eq!(admin.ask(&pause(false)), Answer::Done { count: 1 });
        core.grant(10);
        let lease = core.expect(Kind::Lease);
        assert_eq!(Frame::parse(&lease).unwrap().0.call(), CallId(call));
        core.end(&lease, Status::Ok, b"");
    }
    let pause = Ask::Pause { whose: Whose::Function("default/nobody".into()), paused: true };
    let Answer::Error { code, .. } = admin.ask(&pause) else { panic!("who is that?") };
    assert_eq!(code, "not-found");
}

#[test]
fn what_the_scheduler_holds_of_a_paused_function_comes_back_unrun() {
    let directory = directory();
    let node = start(&directory);
    let (mut client, mut admin) = (node.client(), node.admin());
    // The scheduler takes them into its buffers: a host is ready, and no core has a credit.
    let (_host, mut core) = node.ready_core(1, 1);
    for call in 1..=5 {
        assert_eq!(client.submitted(call, echo(), false), VerdictCode::Accepted);
    }
    let lease = core.expect(Kind::Lease);
    let pause = |paused| Ask::Pause { whose: Whose::Function("default/echo".into()), paused };
    assert_eq!(admin.ask(&pause(true)), Answer::Done { count: 1 });
    assert_eq!(status_of(admin.ask(&cancel(3, 5_000))), ("done".into(), Some(Status::Cancelled)));
    core.end(&lease, Status::Ok, b"");
    core.grant(4);
    core.expect_no(Kind::Lease, Duration::from_millis(50));
    assert_eq!(admin.ask(&pause(false)), Answer::Done { count: 1 });
    for call in [2, 4, 5] {
        let lease = core.expect(Kind::Lease);
        assert_eq!(Frame::parse(&lease).unwrap().0.call(), CallId(call), "in their old order");
        core.end(&lease, Status::Ok, b"");
    }
}

#[test]
fn dead_letters_are_purged_and_waits_are_cut_short() {
    let directory = directory();
    let mut spec = function("echo");
    (spec.retry.attempts, spec.retry.backoff_ms, spec.retry.backoff_max_ms) = (2, 3_600_000, 3_600_000);
    let node = Running::start(directory.path(), Limits::small(), vec![spec]);
    let (mut client, mut admin) = (node.client(), node.admin());
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    let (_host, mut core) = node.ready_core(4, 1);
    let lease = core.expect(Kind::Lease);
    let retry = Ask::Retry { call: CallId(1).to_string() };
    let Answer::Error { code, .. } = admin.ask(&retry) else { panic!("it runs") };
    assert_eq!(code, "conflict");
    core.end(&lease, Status::Trap, b"");
    core.expect_no(Kind::Lease, Duration::from_millis(20));
    assert_eq!(status_of(admin.ask(&retry)).1, Some(Status::Trap));
    let lease = core.expect(Kind::Lease);
    core.end(&lease, Status::Trap, b"");
    assert_eq!(heard(&mut client), (CallId(1), Status::Trap));
    let purge = Ask::Purge { call: CallId(1).to_string() };
    assert_eq!(admin.ask(&purge), Answer::Done { count: 1 });
    let letters = Ask::DeadLetters { function: None, limit: 10 };
    assert_eq!(admin.ask(&letters), Answer::Calls(Vec::new()));
    let Answer::Error { code, .. } = admin.ask(&purge) else { panic!("purged twice") };
    assert_eq!(code, "not-found");
}
