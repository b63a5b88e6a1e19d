//! The async client against a scripted node.

mod script;

use call::{FunctionId, Status, VerdictCode};
use millrace_client::{Client, Error, Options};
use script::{Node, Peer};
use std::time::Duration;

const ECHO: FunctionId = FunctionId(9);

fn options() -> Options {
    Options { patience: Duration::from_secs(60), ..Options::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn handles_share_a_connection_and_every_call_gets_its_own_outcome() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let calls = peer.submits(200);
        peer.verdicts(&calls, VerdictCode::Accepted, 0);
        for call in calls.iter().rev() {
            peer.outcome(*call, Status::Ok, call.to_string().as_bytes());
        }
        peer.until_closed();
    });
    block_on(async {
        let client = Client::connect(&node.endpoint, options()).await.unwrap();
        let run = |client: Client| async move {
            let call = client.call(ECHO, b"in");
            let outcome = client.run(&call).await.unwrap();
            assert_eq!((outcome.call, outcome.output), (call.call, call.call.to_string().into_bytes()));
        };
        let runs: Vec<_> = (0..200).map(|_| tokio::spawn(run(client.clone()))).collect();
        for run in runs {
            run.await.unwrap();
        }
    });
    node.end();
}

#[test]
fn a_batch_survives_a_broken_connection() {
    let node = Node::play(|listener| {
        let mut first = Peer::greet(&listener);
        let before = first.submits(50);
        first.verdicts(&before[..20], VerdictCode::Accepted, 0);
        drop(first);
        let mut second = Peer::greet(&listener);
        let after = second.submits(30);
        assert_eq!(after, before[20..]);
        second.verdicts(&after, VerdictCode::Duplicate, 0);
        second.until_closed();
    });
    block_on(async {
        let client = Client::connect(&node.endpoint, options()).await.unwrap();
        let calls: Vec<_> = (0..50).map(|_| client.call(ECHO, b"in")).collect();
        let receipts = client.submit_batch(&calls).await.unwrap();
        assert!(calls.iter().zip(&receipts).all(|(call, r)| call.call == r.call && r.code.is_held()));
    });
    node.end();
}

#[test]
fn refusals_and_losses_reach_whoever_waits() {
    let node = Node::play(|listener| {
        let mut peer = Peer::greet(&listener);
        let call = peer.submits(1);
        peer.verdicts(&call, VerdictCode::UnknownFunction, 0);
        peer.submits(1);
    });
    block_on(async {
        let impatient = Options { patience: Duration::ZERO, ..options() };
        let client = Client::connect(&node.endpoint, impatient).await.unwrap();
        let refused = client.run(&client.call(ECHO, b"")).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { code: VerdictCode::UnknownFunction, .. }), "{refused}");
        let lost = client.submit(&client.call(ECHO, b"")).await.unwrap_err();
        assert!(matches!(lost, Error::Stopped), "{lost}");
    });
    node.end();
    let nowhere = "unix:/nonexistent/submit.sock".parse().unwrap();
    assert!(matches!(block_on(Client::connect(&nowhere, options())), Err(Error::Connect { .. })));
}
