//! A real node on a real disk, killed by SIGKILL at random instants: what it acknowledged, it still has.

use call::body::Submit;
use call::{CallId, FunctionId, VerdictCode};
use millrace_client::blocking::Client;
use millrace_client::{Event, IdSource, Options};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tests::harness::{ECHO, Site, until};

const ROUNDS: usize = 50;

/// Deterministic instants: a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn options(patience_ms: u64) -> Options {
    Options { name: "crash".into(), window: 512, patience: Duration::from_millis(patience_ms) }
}

/// What a round learned.
struct Heard {
    acknowledged: BTreeSet<CallId>,
    sent: usize,
}

/// Submits until the node is gone; the calls it acknowledged. `kill` runs from the first acknowledgement on: a node that
/// is still making its first segment has nothing to lose.
fn submit_until_killed(site: &Site, ids: &mut IdSource, kill: impl FnOnce() + Send) -> Heard {
    let mut client = Client::connect(&site.endpoint(), options(0)).expect("the node serves");
    let mut heard = Heard { acknowledged: BTreeSet::new(), sent: 0 };
    let payload = vec![7u8; 300];
    let (first, is_first) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            is_first.recv().expect("the node acknowledges something");
            kill();
        });
        let begun = Instant::now();
        loop {
            let call = client.call(FunctionId::of("default", "echo"), &payload);
            let submit = Submit { call: ids.next_id(), ..call };
            let sent = client.enqueue(&submit);
            heard.sent += usize::from(sent.is_ok());
            let next = if sent.is_ok() { client.next(Duration::ZERO) } else { return };
            match next {
                Ok(Some(Event::Verdict(receipt))) if receipt.code == VerdictCode::Accepted => {
                    heard.acknowledged.insert(receipt.call);
                    let _ = first.send(());
                }
                Ok(_) => {}
                Err(_) => return,
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the node was not killed");
        }
    });
    heard
}

/// Submits the same ids again: each must be recognised.
fn assert_known(site: &Site, calls: &BTreeSet<CallId>, round: usize) {
    let mut client = Client::connect(&site.endpoint(), options(5000)).expect("the node serves again");
    let payload = vec![7u8; 300];
    let function = FunctionId::of("default", "echo");
    let again: Vec<Submit<'_>> =
        calls.iter().map(|call| Submit { call: *call, ..client.call(function, &payload) }).collect();
    for receipt in client.submit_batch(&again).expect("the node answers") {
        assert_eq!(
            receipt.code,
            VerdictCode::Duplicate,
            "round {round}: call {} was acknowledged, and the node does not know it after the kill",
            receipt.call
        );
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_instant() {
    let site = Site::new();
    let mut ids = IdSource::new();
    let mut random = Random(20_261_121);
    let mut all = BTreeSet::new();
    let mut node = site.control();
    {
        let worker = site.up_worker();
        site.deploy("echo", ECHO, "");
        drop(worker);
    }
    let mut sent = 0;
    for round in 0..ROUNDS {
        let wait = Duration::from_micros(2_000 + random.below(60_000));
        let pid = nix::unistd::Pid::from_raw(node.pid() as i32);
        let heard = submit_until_killed(&site, &mut ids, move || {
            std::thread::sleep(wait);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        });
        node.kill();
        sent += heard.sent;
        node = site.control();
        assert_known(&site, &heard.acknowledged, round);
        all.extend(heard.acknowledged);
    }
    println!("{ROUNDS} kills: {sent} calls sent, {} acknowledged, all still there", all.len());
    assert!(all.len() > ROUNDS, "the rounds acknowledged next to nothing: {}", all.len());
    // With a worker, all that is there runs to its end.
    let _worker = site.up_worker();
    until("the queue to be empty", || {
        let status = site.json(&["status"]);
        (status["pending"] == 0 && status["completed"].as_u64()? > 0).then_some(())
    });
    assert_eq!(site.json(&["status"])["dead"], 0);
}
