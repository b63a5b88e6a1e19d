//! Batches, load and replay against a node that is played.

mod fake;

use call::FunctionId;
use fake::{Node, Whims};
use millrace::batch::{Batch, Stopped, Tally};
use millrace::exit::Exit;
use millrace::times::Terms;
use millrace::trace::{Arrival, Trace, TraceFunction};
use millrace::{load, replay, rows};
use millrace_client::blocking::Client;
use millrace_client::{IdSeries, Options};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn batch(
    node: &Node,
    series: IdSeries,
    from_line: u64,
    wait: bool,
    text: &'static str,
) -> (Tally, Option<Stopped>) {
    let options = Options { patience: LONG, ..Options::default() };
    let mut client = Client::connect(&node.endpoint, options).unwrap();
    let batch = Batch {
        function: FunctionId(1),
        terms: Terms::default(),
        criticality: 0,
        key: call::CallKey::NONE,
        label: call::Label::LOWEST,
        series,
        from_line,
        wait,
    };
    batch.run(&mut client, rows::ndjson(text.as_bytes(), "calls.ndjson"), |_| {})
}

#[test]
fn a_batch_with_a_wrong_line_says_how_far_it_came_and_can_go_on() {
    let node = Node::start(Whims::default());
    let series = IdSeries::new();
    let (tally, stopped) = batch(&node, series, 1, false, "1\n2\n3\n4\n5\n6\n{nope}\n8\n");
    let Stopped { why, resume_at } = stopped.unwrap();
    assert_eq!((tally.accepted, resume_at, why.exit, node.held()), (6, 7, Exit::BadInput, 6));
    assert!(why.place.starts_with("calls.ndjson:7:"), "{why}");
    // Going on two lines too early costs nothing.
    let (tally, stopped) = batch(&node, series, 5, false, "1\n2\n3\n4\n5\n6\n{}\n8\n");
    assert!(stopped.is_none());
    assert_eq!((tally.accepted, tally.duplicates, node.held()), (4, 2, 8));
}

#[test]
fn a_batch_stops_at_the_first_refusal() {
    let node = Node::start(Whims { refuses: Some(b"\"bad\""), ..Whims::default() });
    let (tally, stopped) = batch(&node, IdSeries::new(), 1, false, "1\n2\n\"bad\"\n");
    let Stopped { why, resume_at } = stopped.unwrap();
    assert_eq!((tally.accepted, resume_at, why.exit), (2, 3, Exit::NotFound));
}

#[test]
fn a_batch_survives_a_broken_connection_and_counts_outcomes() {
    let node = Node::start(Whims { breaks_after: Some(6), traps: Some(b"4"), ..Whims::default() });
    let (tally, stopped) = batch(&node, IdSeries::new(), 1, true, "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    assert!(stopped.is_none(), "{stopped:?}");
    assert_eq!((tally.accepted, node.held()), (9, 9));
    assert_eq!((tally.outcomes["ok"], tally.outcomes["trap"], tally.failed()), (8, 1, 1));
}

#[test]
fn a_load_counts_every_call_and_every_answer_once() {
    let node = Node::start(Whims::default());
    let options = load::Options {
        endpoint: node.endpoint.clone(),
        connections: 3,
        rate: 2000.0,
        duration: Duration::from_millis(250),
        function: FunctionId(1),
        payload: vec![7; 128],
        want_outcome: true,
        patience: LONG,
    };
    let mut seconds = 0;
    let mut acks = 0;
    let count = |interval: &load::Interval| {
        seconds += 1;
        acks += interval.ack.len();
    };
    let report = load::run(&options, count, || true).unwrap();
    assert_eq!((report.sent + report.not_sent, report.unanswered), (500, 0));
    assert_eq!((report.verdicts["accepted"], report.outcomes["ok"]), (report.sent, report.sent));
    assert_eq!((acks, node.held() as u64), (report.sent, report.sent));
    assert!(seconds >= 1 && report.ack.max >= report.ack.p50);
}

#[test]
fn a_generator_that_cannot_keep_the_rate_says_so() {
    let node = Node::start(Whims::default());
    let options = load::Options {
        endpoint: node.endpoint.clone(),
        connections: 1,
        rate: 1e8,
        duration: Duration::from_millis(50),
        function: FunctionId(1),
        payload: vec![],
        want_outcome: false,
        patience: LONG,
    };
    let report = load::run(&options, |_| {}, || true).unwrap();
    assert!(report.not_sent > 0 && report.saturated.is_some(), "{report:?}");
    assert_eq!(report.unanswered, 0);
}

#[test]
fn a_replay_whose_node_went_away_has_a_whole_ledger() {
    let node = Node::start(Whims { breaks_after: Some(100), ..Whims::default() });
    let function = |name: &str| TraceFunction {
        name: name.into(),
        app: "app".into(),
        trigger: "http".into(),
        calls: 150,
        memory_kib_max: 0,
    };
    let arrival = |n: u32| Arrival { at_us: u64::from(n) * 500, function: n % 2, run_us: 1, memory_kib: 0 };
    let trace = Trace {
        functions: vec![function("f"), function("g")],
        arrivals: (0..300).map(arrival).collect(),
        span: Duration::from_millis(150),
    };
    let options = replay::Options {
        endpoint: node.endpoint.clone(),
        targets: vec![FunctionId(1), FunctionId(2)],
        window: 64,
        patience: LONG,
        quiet: LONG,
    };
    let mut told = 0;
    let payload = |arrival: &Arrival, out: &mut Vec<u8>| out.extend(arrival.at_us.to_string().bytes());
    let (ledger, error) = replay::run(&options, &trace, payload, |progress| {
        told = progress.ended;
        true
    });
    assert!(error.is_none(), "{error:?}");
    let summary = ledger.summary();
    assert_eq!((summary.calls, summary.accepted, summary.lost, told), (300, 300, 0, 300));
    assert_eq!((summary.fates[&replay::Fate::Completed], node.held()), (300, 300));
    assert!(
        ledger.entries.iter().all(|entry| entry.submitted_ns <= entry.verdict_ns && entry.run_ns == 5000)
    );
}

#[test]
fn a_replay_that_is_stopped_hears_out_what_it_has_sent() {
    let node = Node::start(Whims::default());
    let function =
        TraceFunction { name: "f".into(), app: "a".into(), trigger: "".into(), calls: 2, memory_kib_max: 0 };
    let arrival = |at_us: u64| Arrival { at_us, function: 0, run_us: 1, memory_kib: 0 };
    let hour = Duration::from_secs(3600);
    let trace =
        Trace { functions: vec![function], arrivals: vec![arrival(0), arrival(3_600_000_000)], span: hour };
    let options = replay::Options {
        endpoint: node.endpoint.clone(),
        targets: vec![FunctionId(1)],
        window: 64,
        patience: LONG,
        quiet: LONG,
    };
    let (ledger, error) = replay::run(&options, &trace, |_, _| {}, |_| false);
    assert!(error.is_none(), "{error:?}");
    let fates: Vec<replay::Fate> = ledger.entries.iter().map(replay::Entry::fate).collect();
    assert_eq!(fates, [replay::Fate::Completed, replay::Fate::NotSubmitted]);
}
