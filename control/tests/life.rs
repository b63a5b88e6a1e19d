//! The life of a call through a node: real ring, real disk, scripted peers.

mod peer;

use call::admin::{Answer, Ask, Hello};
use call::frame::{Frame, Header, Kind, flag};
use call::limits::Limits;
use call::{CallId, FunctionId, Status, VerdictCode, body};
use control::{NodeOptions, Phase};
use peer::Peer;
use peer::node::{Running, directory, function};
use std::time::Duration;

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

fn start(directory: &tempfile::TempDir) -> Running {
    Running::start(directory.path(), Limits::small(), vec![function("echo")])
}

/// Takes the next lease and ends it well.
fn serve_one(core: &mut Peer, output: &[u8]) -> CallId {
    let lease = core.expect(Kind::Lease);
    core.end(&lease, Status::Ok, output);
    Frame::parse(&lease).unwrap().0.call()
}

#[test]
fn a_call_goes_from_submit_to_outcome_in_the_clients_own_bytes() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    let submit = client.submit(1, echo(), b"hello", true);
    assert_eq!(client.verdicts(1), [(CallId(1), VerdictCode::Accepted)]);
    let (_host, mut core) = node.ready_core(4, 1);
    let lease = core.expect(Kind::Lease);
    let (frame, _) = Frame::parse(&lease).unwrap();
    let exact = Frame::parse(&submit).unwrap().0;
    assert_eq!(frame.body(), exact.bytes(), "the client's frame, byte for byte");
    assert_eq!((frame.flags() & flag::SEALED_BODY, frame.attempt()), (flag::SEALED_BODY, 1));
    assert_eq!(frame.criticality(), 100, "the function's default");
    core.end(&lease, Status::Ok, b"hello, you");
    let outcome = client.expect(Kind::Outcome);
    let (outcome, _) = Frame::parse(&outcome).unwrap();
    assert_eq!((outcome.call(), outcome.status()), (CallId(1), Ok(Status::Ok)));
    assert_eq!(body::reply(outcome.body()).unwrap().output, b"hello, you");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    for call in 1..=50u128 {
        client.submit(call, echo(), &[7; 1000], false);
    }
    let verdicts = client.verdicts(50);
    assert!(verdicts.iter().all(|(_, code)| *code == VerdictCode::Accepted));
    let (_host, mut core) = node.ready_core(64, 1);
    let done: Vec<CallId> = (0..10).map(|_| serve_one(&mut core, b"")).collect();
    // Their end is on disk when a later submit is.
    assert_eq!(client.submitted(51, echo(), false), VerdictCode::Accepted);
    node.kill();

    let node = start(&directory);
    let mut client = node.client();
    assert_eq!(client.submitted(50, echo(), false), VerdictCode::Duplicate);
    let (_host, mut core) = node.ready_core(64, 1);
    let mut again: Vec<u128> = (0..41).map(|_| serve_one(&mut core, b"").0).collect();
    again.sort_unstable();
    let expected: Vec<u128> = (1..=51).filter(|n| !done.contains(&CallId(*n))).collect();
    assert_eq!(again, expected);
    core.expect_no(Kind::Lease, Duration::from_millis(50));
}

#[test]
fn a_call_submitted_twice_runs_once_and_its_outcome_goes_to_the_last_who_asked() {
    let directory = directory();
    let node = start(&directory);
    let (mut first, mut second) = (node.client(), node.client());
    assert_eq!(first.submitted(9, echo(), true), VerdictCode::Accepted);
    assert_eq!(second.submitted(9, echo(), true), VerdictCode::Duplicate);
    let (_host, mut core) = node.ready_core(4, 1);
    serve_one(&mut core, b"once");
    let outcome = second.expect(Kind::Outcome);
    assert_eq!(body::reply(Frame::parse(&outcome).unwrap().0.body()).unwrap().output, b"once");
    // Who asks after the end gets it at once.
    let mut third = node.client();
    assert_eq!(third.submitted(9, echo(), true), VerdictCode::Duplicate);
    third.expect(Kind::Outcome);
    core.expect_no(Kind::Lease, Duration::from_millis(50));
}

#[test]
fn the_outcome_of_a_lost_lease_changes_nothing() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    assert_eq!(client.submitted(3, echo(), true), VerdictCode::Accepted);
    let (_host, mut lost) = node.ready_core(4, 1);
    let old = lost.expect(Kind::Lease);
    drop(lost);
    let mut core = Peer::core(&node.socket, 4);
    core.grant(4);
    let new = core.expect(Kind::Lease);
    let epoch = |frame: &[u8]| Frame::parse(frame).unwrap().0.epoch();
    assert!(epoch(&new) > epoch(&old));
    core.end(&old, Status::Ok, b"late");
    client.expect_no(Kind::Outcome, Duration::from_millis(50));
    core.end(&new, Status::Ok, b"in time");
    let outcome = client.expect(Kind::Outcome);
    assert_eq!(body::reply(Frame::parse(&outcome).unwrap().0.body()).unwrap().output, b"in time");
    let Answer::Status(status) = node.admin().ask(&Ask::Status) else { panic!("no status") };
    assert_eq!((status.fenced, status.leases_lost, status.completed), (1, 1, 1));
}

#[test]
fn a_silent_core_loses_its_leases() {
    let directory = directory();
    let limits = Limits { lease: Duration::from_millis(200), ..Limits::small() };
    let node = Running::start(directory.path(), limits, vec![function("echo")]);
    let mut client = node.client();
    assert_eq!(client.submitted(3, echo(), false), VerdictCode::Accepted);
    let (_host, mut frozen) = node.ready_core(4, 1);
    frozen.expect(Kind::Lease);
    assert!(frozen.is_closed(), "the node closes the connection of a core it has given up");
    let mut core = Peer::core(&node.socket, 4);
    core.grant(4);
    assert_eq!(serve_one(&mut core, b""), CallId(3));
}

#[test]
fn a_call_that_keeps_failing_is_a_dead_letter_until_it_is_redriven() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    assert_eq!(client.submitted(4, echo(), true), VerdictCode::Accepted);
    let (_host, mut core) = node.ready_core(4, 1);
    for attempt in 1..=2 {
        let lease = core.expect(Kind::Lease);
        assert_eq!(Frame::parse(&lease).unwrap().0.attempt(), attempt);
        core.end(&lease, Status::Trap, b"");
    }
    let outcome = client.expect(Kind::Outcome);
    assert_eq!(Frame::parse(&outcome).unwrap().0.status(), Ok(Status::Trap));
    let mut admin = node.admin();
    let letters = Ask::DeadLetters { function: Some("default/echo".into()), limit: 10 };
    let Answer::Calls(dead) = admin.ask(&letters) else { panic!("no list") };
    assert_eq!((dead.len(), dead[0].state.as_str(), dead[0].status), (1, "dead", Some(Status::Trap)));
    assert_eq!((dead[0].call.as_str(), dead[0].attempts), (CallId(4).to_string().as_str(), 2));
    assert_eq!(dead[0].reason, "trap");
    let redrive = Ask::Redrive { call: CallId(4).to_string() };
    assert_eq!(admin.ask(&redrive), Answer::Done { count: 1 });
    core.grant(8);
    assert_eq!(serve_one(&mut core, b""), CallId(4));
    assert_eq!(admin.ask(&letters), Answer::Calls(Vec::new()));
}

#[test]
fn nobody_gets_more_leases_than_it_granted() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    (1..=5u128).for_each(|call| drop(client.submit(call, echo(), b"", false)));
    client.verdicts(5);
    let (_host, mut core) = node.ready_core(2, 1);
    let leases = [core.expect(Kind::Lease), core.expect(Kind::Lease)];
    core.expect_no(Kind::Lease, Duration::from_millis(50));
    core.end(&leases[0], Status::Ok, b"");
    core.grant(3);
    core.expect(Kind::Lease);
    core.expect_no(Kind::Lease, Duration::from_millis(50));
}

#[test]
fn a_function_that_no_host_has_compiled_waits() {
    let directory = directory();
    let node = start(&directory);
    let mut host = Peer::host(&node.socket);
    let mut core = Peer::core(&node.socket, 4);
    core.grant(4);
    let mut client = node.client();
    assert_eq!(client.submitted(1, echo(), false), VerdictCode::Accepted);
    core.expect_no(Kind::Lease, Duration::from_millis(50));
    let mut admin = node.admin();
    let publish = host.expect(Kind::Publish);
    host.ready(&publish, Status::Unavailable, "not a wasm module");
    let ask = Ask::Function { function: "echo".into() };
    let state = |admin: &mut Peer| loop {
        match admin.ask(&ask) {
            Answer::Function(f) if f.state != "compiling" => return f,
            Answer::Function(_) => std::thread::sleep(Duration::from_millis(1)),
            other => panic!("{other:?}"),
        }
    };
    let failed = state(&mut admin);
    assert_eq!((failed.state.as_str(), failed.reason.as_str()), ("failed", "not a wasm module"));
    host.ready(&publish, Status::Ok, "");
    assert_eq!(serve_one(&mut core, b""), CallId(1));
}

#[test]
fn a_function_is_deployed_and_deleted_under_way() {
    let directory = directory();
    let node = Running::start(directory.path(), Limits::small(), Vec::new());
    let (mut admin, mut client) = (node.admin(), node.client());
    assert_eq!(client.submitted(1, echo(), false), VerdictCode::UnknownFunction);
    let mut core = Peer::core(&node.socket, 4);
    let Answer::Function(state) = admin.ask(&Ask::Deploy { spec: function("echo") }) else {
        panic!("refused")
    };
    assert_eq!((state.state.as_str(), state.spec.version), ("compiling", 1));
    core.expect(Kind::Publish);
    assert_eq!(client.submitted(2, echo(), true), VerdictCode::Accepted);
    let delete = |force| Ask::FunctionDelete { function: "echo".into(), force };
    let Answer::Error { code, message } = admin.ask(&delete(false)) else { panic!("not refused") };
    assert_eq!(code, "conflict");
    assert!(message.contains("1 calls"), "{message}");
    assert_eq!(admin.ask(&delete(true)), Answer::Done { count: 1 });
    core.expect(Kind::Retire);
    let outcome = client.expect(Kind::Outcome);
    assert_eq!(Frame::parse(&outcome).unwrap().0.status(), Ok(Status::Unavailable));
    assert_eq!(client.submitted(3, echo(), false), VerdictCode::UnknownFunction);
    let Answer::Queues(queues) = admin.ask(&Ask::Queues) else { panic!("no queues") };
    assert_eq!((queues.len(), queues[0].dead, queues[0].due), (1, 1, 0));
}

/// More calls than one round takes: all become dead letters, also if the node dies before it has looked at one.
#[test]
fn all_calls_of_a_deleted_function_are_buried_in_rounds_and_after_a_restart() {
    const CALLS: u128 = 600;
    let directory = directory();
    let node = Running::start(directory.path(), Limits::small(), vec![function("echo"), function("other")]);
    let (mut admin, mut client) = (node.admin(), node.client());
    let other = FunctionId::of("default", "other");
    let submit = |client: &mut Peer, from: u128| {
        for call in from..from + CALLS {
            client.submit(call, echo(), b"", false);
        }
        let verdicts = client.verdicts(CALLS as usize);
        assert!(verdicts.iter().all(|(_, code)| *code == VerdictCode::Accepted));
    };
    submit(&mut client, 1);
    assert_eq!(client.submitted(CALLS + 1, other, false), VerdictCode::Accepted);
    let delete = Ask::FunctionDelete { function: "echo".into(), force: true };
    assert_eq!(admin.ask(&delete), Answer::Done { count: CALLS as u64 });
    let waiting = |admin: &mut Peer| {
        let Answer::Status(status) = admin.ask(&Ask::Status) else { panic!("no status") };
        (status.pending, u128::from(status.dead))
    };
    assert_eq!(waiting(&mut admin), (1, CALLS), "another function's stay");
    let Answer::Function(_) = admin.ask(&Ask::Deploy { spec: function("echo") }) else { panic!("refused") };
    submit(&mut client, 10_000);
    assert_eq!(waiting(&mut admin), (1 + CALLS as u64, CALLS), "it is another one now");
    node.kill();
    let options = NodeOptions { buried: vec![echo()], ..NodeOptions::default() };
    let functions = vec![function("other")];
    let node = Running::start_with(directory.path(), Limits::small(), functions, options);
    let mut admin = node.admin();
    for _ in 0..2000 {
        if waiting(&mut admin) == (1, CALLS) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{:?}", waiting(&mut admin));
}

#[test]
fn a_call_that_comes_back_after_its_function_was_deleted_is_a_dead_letter() {
    let directory = directory();
    let node = start(&directory);
    let (mut admin, mut client) = (node.admin(), node.client());
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    let (_host, mut core) = node.ready_core(4, 1);
    core.expect(Kind::Lease);
    let delete = Ask::FunctionDelete { function: "echo".into(), force: true };
    assert_eq!(admin.ask(&delete), Answer::Done { count: 0 }, "it runs");
    drop(core);
    let outcome = client.expect(Kind::Outcome);
    assert_eq!(Frame::parse(&outcome).unwrap().0.status(), Ok(Status::Unavailable));
    // A client whose connection broke in between submits it again.
    let mut again = node.client();
    assert_eq!(again.submitted(1, echo(), true), VerdictCode::Duplicate);
    again.expect(Kind::Outcome);
}

/// The log remembers the functions of its calls; a core that came before must hear of what comes behind them.
#[test]
fn a_function_deployed_after_deleted_ones_is_published_to_those_who_are_there() {
    let directory = directory();
    let node = Running::start(directory.path(), Limits::small(), vec![function("echo"), function("gone")]);
    let mut client = node.client();
    assert_eq!(client.submitted(1, FunctionId::of("default", "gone"), false), VerdictCode::Accepted);
    node.kill();

    let node = Running::start(directory.path(), Limits::small(), Vec::new());
    let mut core = Peer::core(&node.socket, 4);
    let mut admin = node.admin();
    core.grant(4);
    while !matches!(admin.ask(&Ask::Workers), Answer::Workers(workers) if workers[0].credits == 4) {}
    admin.ask(&Ask::Deploy { spec: function("new") });
    let publish = core.expect(Kind::Publish);
    assert_eq!(Frame::parse(&publish).unwrap().0.function(), FunctionId::of("default", "new"));
}

#[test]
fn a_full_node_says_so_and_when_to_come_back() {
    let directory = directory();
    let limits = Limits { calls_max: 8, ..Limits::small() };
    let node = Running::start(directory.path(), limits, vec![function("echo")]);
    let mut client = node.client();
    (1..=20u128).for_each(|call| drop(client.submit(call, echo(), b"", false)));
    let verdicts = client.verdicts(20);
    let count = |code| verdicts.iter().filter(|v| v.1 == code).count();
    assert_eq!((count(VerdictCode::Accepted), count(VerdictCode::Full)), (8, 12));
    let (_host, mut core) = node.ready_core(20, 1);
    let served: Vec<CallId> = (0..8).map(|_| serve_one(&mut core, b"")).collect();
    assert!(verdicts.iter().all(|(call, code)| served.contains(call) == (*code == VerdictCode::Accepted)));
    let again = loop {
        match client.submitted(20, echo(), false) {
            VerdictCode::Full => std::thread::sleep(Duration::from_millis(1)),
            other => break other,
        }
    };
    assert_eq!(again, VerdictCode::Accepted);
}

#[test]
fn peers_that_break_the_protocol_are_closed() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    client.send(&Header::new(Kind::Credit), &[]);
    assert!(client.is_closed());
    let mut core = Peer::core(&node.socket, 1);
    core.send(&Header { call: CallId(1), ..Header::new(Kind::Outcome) }, b"no reply");
    assert!(core.is_closed());
    let wrong = std::panic::catch_unwind(|| {
        Peer::connect(&node.socket, &call::admin::Hello::Admin { secret: "guess".into() })
    });
    assert!(wrong.is_err(), "a wrong secret is not welcome");
    let mut other = node.client();
    other.submit(1, echo(), b"", false);
    other.send(&Header { function: echo(), call: CallId(2), ..Header::new(Kind::Submit) }, b"not arguments");
    let verdicts = other.verdicts(2);
    assert!(verdicts.contains(&(CallId(1), VerdictCode::Accepted)));
    assert!(verdicts.contains(&(CallId(2), VerdictCode::Malformed)), "malformed is a verdict, not a crime");
}

#[test]
fn a_drained_node_refuses_waits_and_ends() {
    let directory = directory();
    let node = start(&directory);
    let mut client = node.client();
    (1..=2u128).for_each(|call| drop(client.submit(call, echo(), b"", true)));
    client.verdicts(2);
    let (_host, mut core) = node.ready_core(1, 1);
    let lease = core.expect(Kind::Lease);
    let asking = std::thread::spawn({
        let mut admin = node.admin();
        move || admin.ask(&Ask::Drain)
    });
    while client.submitted(3, echo(), false) != VerdictCode::Draining {
        std::thread::sleep(Duration::from_millis(1));
    }
    core.end(&lease, Status::Ok, b"");
    core.grant(2);
    client.expect(Kind::Outcome);
    assert_eq!(asking.join().unwrap(), Answer::Done { count: 0 });
    core.expect_no(Kind::Lease, Duration::from_millis(20));
    assert_eq!(node.ended(), Phase::Ended);
    // The other call is there after the next start.
    let node = start(&directory);
    let (_host, mut core) = node.ready_core(1, 1);
    assert!(serve_one(&mut core, b"").0 <= 3);
}

#[test]
fn an_operator_waits_for_a_call_and_sees_where_it_is() {
    let directory = directory();
    let node = start(&directory);
    let (mut client, mut admin) = (node.client(), node.admin());
    assert_eq!(client.submitted(6, echo(), true), VerdictCode::Accepted);
    let ask = |wait_ms| Ask::Call { call: CallId(6).to_string(), wait_ms };
    let Answer::Call(state) = admin.ask(&ask(0)) else { panic!("unknown") };
    assert_eq!((state.state.as_str(), state.function.as_str()), ("queued", "default/echo"));
    let Answer::Call(state) = admin.ask(&ask(20)) else { panic!("unknown") };
    assert_eq!(state.status, None, "the time was over");
    let (_host, mut core) = node.ready_core(1, 1);
    let lease = core.expect(Kind::Lease);
    let Answer::Call(state) = admin.ask(&ask(0)) else { panic!("unknown") };
    assert_eq!((state.state.as_str(), state.attempts), ("running", 1));
    let asking = std::thread::spawn(move || admin.ask(&ask(20_000)));
    std::thread::sleep(Duration::from_millis(20));
    core.end(&lease, Status::Ok, b"there");
    let Answer::Call(state) = asking.join().unwrap() else { panic!("unknown") };
    assert_eq!((state.state.as_str(), state.output.as_deref()), ("done", Some("there")));
    assert_eq!(state.usage.unwrap().run_ns, 1000);
    let Answer::Workers(workers) = node.admin().ask(&Ask::Workers) else { panic!("no workers") };
    assert_eq!((workers[0].host.as_str(), workers[0].finished, workers[0].leased), ("here", 1, 0));
    assert_eq!(workers[0].state, "live");
}

#[test]
fn whoever_has_gone_hears_no_answer() {
    let directory = directory();
    let node = start(&directory);
    let (mut client, mut admin) = (node.client(), node.admin());
    assert_eq!(client.submitted(6, echo(), true), VerdictCode::Accepted);
    let say = |admin: &mut Peer, stamp, ask: &Ask| {
        admin.send(&Header { stamp, ..Header::new(Kind::Ask) }, &serde_json::to_vec(ask).unwrap());
    };
    say(&mut admin, 90, &Ask::Call { call: CallId(6).to_string(), wait_ms: 60_000 });
    say(&mut admin, 91, &Ask::Forget { asked: 90 });
    say(&mut admin, 92, &Ask::Forget { asked: 17 });
    let (_host, mut core) = node.ready_core(1, 1);
    assert_eq!(serve_one(&mut core, b"there"), CallId(6));
    client.expect(Kind::Outcome);
    // The next answer is to this, and says that the call has ended.
    let Answer::Call(state) = admin.ask(&Ask::Call { call: CallId(6).to_string(), wait_ms: 0 }) else {
        panic!("unknown")
    };
    assert_eq!(state.state, "done");
}

#[test]
fn a_core_may_say_anew_what_is_in_force() {
    let directory = directory();
    let node = start(&directory);
    let (_host, mut core) = node.ready_core(4, 1);
    let mut admin = node.admin();
    let backends = |admin: &mut Peer| match admin.ask(&Ask::Workers) {
        Answer::Workers(workers) => workers[0].backends.clone(),
        other => panic!("no workers: {other:?}"),
    };
    assert_eq!(backends(&mut admin), [("runtime".into(), "scripted".into())]);
    let now = vec![("runtime".to_owned(), "another".to_owned())];
    let hello = Hello::Core { host: "here".into(), cpu: 0, pid: 1, slots: 4, backends: now.clone() };
    core.send(&Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
    while backends(&mut admin) != now {}
    let mut client = node.client();
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    assert_eq!(serve_one(&mut core, b""), CallId(1), "the core serves on");
    // Not as somebody else.
    let hello = Hello::Client { name: "test".into() };
    core.send(&Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
    while !matches!(admin.ask(&Ask::Workers), Answer::Workers(workers) if workers.is_empty()) {}
}
