//! Two regions: nodes on real rings and disks, scripted clients and cores. What one region pulls from the other, what
//! it never does, and what happens to a pulled call when something on its way is lost.

mod peer;

use call::admin::{Answer, Ask, Hello, RegionState, TrafficMatrix};
use call::blob::{BlobId, Reference};
use call::frame::{Frame, FrameBuf, Header, Kind};
use call::limits::Limits;
use call::{Arguments, CallId, FunctionId, FunctionSpec, Status, VerdictCode, WallTime, body};
use control::NodeOptions;
use control::regions::RegionOptions;
use driver::Endpoint;
use peer::Peer;
use peer::node::{Running, SECRET, directory, function};
use std::path::Path;
use std::time::Duration;

/// Long enough that what must not happen would have happened.
const WHILE: Duration = Duration::from_millis(150);

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

fn matrix(version: u64, b_from_a: u32) -> TrafficMatrix {
    let regions = vec!["a".to_owned(), "b".to_owned()];
    TrafficMatrix { version, regions, shares: vec![vec![1000, 0], vec![b_from_a, 1000 - b_from_a]] }
}

/// The home of the calls. It pulls from nobody.
fn home(directory: &Path) -> Running {
    let regions = RegionOptions { name: "a".into(), ..RegionOptions::default() };
    Running::start_region(directory, Limits::small(), vec![function("echo")], regions)
}

/// The region that pulls this share of its pulls from the home.
fn puller(directory: &Path, home: &Running, share: u32, functions: Vec<FunctionSpec>) -> Running {
    let peers = vec![("a".to_owned(), Endpoint::Unix(home.socket.clone()))];
    let regions =
        RegionOptions { name: "b".into(), peers, matrix: matrix(1, share), ..RegionOptions::default() };
    Running::start_region(directory, Limits::small(), functions, regions)
}

/// Both, and a core with so many slots in the region that pulls.
struct Pair {
    a: Running,
    b: Running,
    client: Peer,
    host: Peer,
    core: Peer,
    _directories: [tempfile::TempDir; 2],
}

impl Pair {
    fn new(share: u32, slots: u32) -> Pair {
        let directories = [directory(), directory()];
        let a = home(directories[0].path());
        let b = puller(directories[1].path(), &a, share, vec![function("echo")]);
        let (host, core) = b.ready_core(slots, 1);
        let client = a.client();
        Pair { a, b, client, host, core, _directories: directories }
    }

    fn submit(&mut self, calls: std::ops::RangeInclusive<u128>, want: bool) {
        for call in calls {
            assert_eq!(self.client.submitted(call, echo(), want), VerdictCode::Accepted);
        }
    }
}

fn region(node: &Running) -> RegionState {
    match node.admin().ask(&Ask::Region) {
        Answer::Region(state) => state,
        other => panic!("{other:?}"),
    }
}

/// Waits until a node's region is so.
fn until(node: &Running, what: &str, is: impl Fn(&RegionState) -> bool) -> RegionState {
    for _ in 0..2000 {
        let state = region(node);
        if is(&state) {
            return state;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}; {:?}", region(node));
}

fn order(node: &Running, ask: &Ask) {
    let answer = node.admin().ask(ask);
    assert!(matches!(answer, Answer::Region(_)), "{answer:?}");
}

fn call_of(frame: &[u8]) -> CallId {
    Frame::parse(frame).unwrap().0.call()
}

#[test]
fn a_pulled_call_runs_there_and_its_outcome_goes_to_whoever_submitted_it() {
    let mut pair = Pair::new(500, 8);
    let submit = pair.client.submit(1, echo(), b"hello", true);
    pair.client.verdicts(1);
    let lease = pair.core.expect(Kind::Lease);
    let frame = Frame::parse(&lease).unwrap().0;
    assert_eq!(frame.body(), Frame::parse(&submit).unwrap().0.bytes(), "the client's frame, byte for byte");
    let lent = until(&pair.a, "one is lent", |a| a.lent == 1);
    assert_eq!((lent.pulled, region(&pair.b).pulled), (0, 1));
    pair.core.end(&lease, Status::Ok, b"hello, you");
    let outcome = pair.client.expect(Kind::Outcome);
    let outcome = Frame::parse(&outcome).unwrap().0;
    assert_eq!((outcome.call(), outcome.status()), (CallId(1), Ok(Status::Ok)));
    assert_eq!(body::reply(outcome.body()).unwrap().output, b"hello, you");
    let b = until(&pair.b, "it is forgotten there", |b| b.pulled == 0);
    assert_eq!((b.pulled_ended, b.links[0].leased, b.links[0].ended, b.links[0].returned), (1, 1, 1, 0));
    assert_eq!(
        pair.client.submitted(1, echo(), false),
        VerdictCode::Duplicate,
        "the home knows how it ended"
    );
}

#[test]
fn without_a_share_nothing_is_pulled_and_with_one_at_once() {
    let mut pair = Pair::new(0, 8);
    pair.submit(1..=3, false);
    pair.core.expect_no(Kind::Lease, WHILE);
    order(&pair.b, &Ask::Matrix { matrix: matrix(2, 1000) });
    for _ in 0..3 {
        let lease = pair.core.expect(Kind::Lease);
        pair.core.end(&lease, Status::Ok, b"");
    }
    let Answer::Error { code, .. } = pair.b.admin().ask(&Ask::Matrix { matrix: matrix(1, 0) }) else {
        panic!("an older matrix came into force");
    };
    assert_eq!(code, "conflict");
    let crooked = TrafficMatrix { version: 9, shares: vec![vec![600, 600]; 2], ..matrix(9, 0) };
    let Answer::Error { code, .. } = pair.b.admin().ask(&Ask::Matrix { matrix: crooked }) else {
        panic!("a matrix that shares out more than all came into force");
    };
    assert_eq!(code, "bad-request");
}

#[test]
fn never_more_than_the_free_credits_times_the_share() {
    let mut pair = Pair::new(500, 10);
    until(&pair.a, "linked", |_| region(&pair.b).links[0].window == 5);
    pair.submit(1..=40, false);
    // What is on its cores is not free: it takes a half of the rest each time, so all but one of ten.
    let b = until(&pair.b, "it has taken its share", |b| b.pulled == 9);
    assert_eq!((b.free, b.links[0].window), (1, 0));
    std::thread::sleep(WHILE);
    assert_eq!(region(&pair.b).pulled, 9);
    for _ in 0..9 {
        let lease = pair.core.expect(Kind::Lease);
        pair.core.end(&lease, Status::Ok, b"");
    }
    pair.core.grant(40);
    for _ in 9..40 {
        let lease = pair.core.expect(Kind::Lease);
        pair.core.end(&lease, Status::Ok, b"");
        pair.core.grant(80);
    }
    until(&pair.a, "all have ended", |a| a.waiting + a.lent == 0);
}

#[test]
fn a_region_that_dies_loses_its_leases_and_the_calls_run_elsewhere() {
    let Pair { a, b, mut client, host: _host, mut core, _directories } = Pair::new(1000, 4);
    for call in 1..=4 {
        assert_eq!(client.submitted(call, echo(), true), VerdictCode::Accepted);
    }
    let old: Vec<_> = (0..4).map(|_| core.expect(Kind::Lease)).collect();
    b.kill();
    let (_host, mut near) = a.ready_core(8, 1);
    let mut again: Vec<CallId> = Vec::new();
    for _ in 0..4 {
        let lease = near.expect(Kind::Lease);
        assert_eq!(Frame::parse(&lease).unwrap().0.attempt(), 2);
        again.push(call_of(&lease));
        near.end(&lease, Status::Ok, b"here");
        let outcome = client.expect(Kind::Outcome);
        assert_eq!(body::reply(Frame::parse(&outcome).unwrap().0.body()).unwrap().output, b"here");
    }
    again.sort_unstable();
    let mut first: Vec<CallId> = old.iter().map(|lease| call_of(lease)).collect();
    first.sort_unstable();
    assert_eq!(again, first);
}

#[test]
fn a_region_that_is_silent_for_a_lease_loses_its_calls_and_its_late_outcome_changes_nothing() {
    let directory = directory();
    let a = home(directory.path());
    let mut host = Peer::host(&a.socket);
    let publish = host.expect(Kind::Publish);
    host.ready(&publish, Status::Ok, "");
    let link = || {
        let mut region = Peer::connect(&a.socket, &Hello::Region { region: "c".into(), slots: 4 });
        let publish = region.expect(Kind::Publish);
        region.ready(&publish, Status::Ok, "");
        region
    };
    let mut frozen = link();
    frozen.grant(4);
    let mut client = a.client();
    assert_eq!(client.submitted(5, echo(), true), VerdictCode::Accepted);
    let stale = frozen.expect(Kind::Lease);
    until(&a, "its lease is lost", |a| a.lent == 0 && a.waiting == 1);
    let mut near = Peer::core(&a.socket, 4);
    near.grant(4);
    let lease = near.expect(Kind::Lease);
    assert_eq!(call_of(&lease), CallId(5));
    // It thaws, connects again, and tells what it did meanwhile.
    let mut thawed = link();
    thawed.end(&stale, Status::Ok, b"too late");
    thawed.grant(1);
    thawed.expect(Kind::Credit);
    near.end(&lease, Status::Ok, b"in time");
    let outcome = client.expect(Kind::Outcome);
    assert_eq!(body::reply(Frame::parse(&outcome).unwrap().0.body()).unwrap().output, b"in time");
}

#[test]
fn a_core_that_dies_in_the_other_region_gives_its_calls_back_at_once() {
    let mut pair = Pair::new(1000, 2);
    pair.submit(1..=2, false);
    let lost = [pair.core.expect(Kind::Lease), pair.core.expect(Kind::Lease)];
    // The other end closes its connection.
    pair.core = Peer::core(&pair.b.socket, 2);
    pair.core.expect(Kind::Publish);
    pair.core.grant(2);
    for _ in 0..2 {
        let lease = pair.core.expect(Kind::Lease);
        let frame = Frame::parse(&lease).unwrap().0;
        assert_eq!(frame.attempt(), 2, "the lost core's was a delivery");
        let old = lost.iter().find(|old| call_of(old) == frame.call()).expect("one of the two");
        assert!(frame.epoch() > Frame::parse(old).unwrap().0.epoch());
        pair.core.end(&lease, Status::Ok, b"");
    }
    let b = until(&pair.b, "both have ended", |b| b.pulled_ended == 2);
    assert_eq!(b.links[0].returned, 2);
    until(&pair.a, "nothing is left", |a| a.lent + a.waiting == 0);
}

#[test]
fn calls_of_a_function_go_only_where_it_is_the_same_and_compiled() {
    let directories = [directory(), directory()];
    let a = home(directories[0].path());
    let other = FunctionSpec { timeout_ms: 7, version: 5, ..function("echo") };
    let b = puller(directories[1].path(), &a, 1000, vec![other]);
    let (mut host, mut core) = b.ready_core(4, 1);
    let mut client = a.client();
    assert_eq!(client.submitted(1, echo(), false), VerdictCode::Accepted);
    core.expect_no(Kind::Lease, WHILE);
    // Deployed there as it is at home, under another version; and then compiled.
    let same = FunctionSpec { version: 6, ..function("echo") };
    assert!(matches!(b.admin().ask(&Ask::Deploy { spec: same }), Answer::Function(_)));
    core.expect_no(Kind::Lease, WHILE);
    let publish = host.expect(Kind::Publish);
    host.ready(&publish, Status::Ok, "");
    let lease = core.expect(Kind::Lease);
    core.end(&lease, Status::Ok, b"");
    // Deployed anew at home only: not the same any more.
    let newer = FunctionSpec { timeout_ms: 9, version: 2, ..function("echo") };
    assert!(matches!(a.admin().ask(&Ask::Deploy { spec: newer }), Answer::Function(_)));
    assert_eq!(client.submitted(2, echo(), false), VerdictCode::Accepted);
    core.expect_no(Kind::Lease, WHILE);
    // Deleted there: what is held goes home, and nothing more comes.
    let delete = Ask::FunctionDelete { function: "echo".into(), force: true };
    assert!(matches!(b.admin().ask(&delete), Answer::Done { .. }));
    until(&a, "it waits at home", |a| a.waiting == 1 && a.lent == 0);
}

#[test]
fn a_region_that_drains_runs_nothing_itself_and_others_take_what_waits() {
    let mut pair = Pair::new(1000, 4);
    let (_host, mut near) = pair.a.ready_core(4, 1);
    order(&pair.a, &Ask::RegionDrain { drained: true });
    pair.submit(1..=2, false);
    for _ in 0..2 {
        let lease = pair.core.expect(Kind::Lease);
        pair.core.end(&lease, Status::Ok, b"");
    }
    near.expect_no(Kind::Lease, WHILE);
    order(&pair.b, &Ask::RegionDrain { drained: true });
    // What was granted before cannot be taken back, but nothing begins there.
    pair.submit(3..=3, false);
    pair.core.expect_no(Kind::Lease, WHILE);
    order(&pair.a, &Ask::RegionDrain { drained: false });
    let lease = near.expect(Kind::Lease);
    assert_eq!(call_of(&lease), CallId(3));
    near.end(&lease, Status::Ok, b"");
    until(&pair.a, "all have ended", |a| a.waiting + a.lent == 0);
}

#[test]
fn local_calls_do_not_travel_while_a_local_core_is_free() {
    let mut pair = Pair::new(1000, 64);
    let (_host, mut near) = pair.a.ready_core(4, 1);
    until(&pair.b, "linked", |b| b.links[0].window > 0);
    pair.submit(1..=4, false);
    (0..4).for_each(|_| drop(near.expect(Kind::Lease)));
    pair.core.expect_no(Kind::Lease, WHILE);
    pair.submit(5..=6, false);
    for _ in 0..2 {
        let lease = pair.core.expect(Kind::Lease);
        assert!(call_of(&lease) > CallId(4));
    }
}

#[test]
fn a_peer_that_leases_more_than_it_was_granted_is_cut_off() {
    let directories = [directory(), directory()];
    let socket = directories[0].path().join("false.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let peers = vec![("a".to_owned(), Endpoint::Unix(socket))];
    let regions = RegionOptions { name: "b".into(), peers, matrix: matrix(1, 0), ..RegionOptions::default() };
    let b = Running::start_region(directories[1].path(), Limits::small(), vec![function("echo")], regions);
    let mut home = Peer::accept(&listener);
    let hello = Hello::Node { version: "0".into(), incarnation: 1, admin: String::new() };
    home.send(&Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
    until(&b, "linked", |b| b.links[0].state == "up");
    home.send(&Header { call: CallId(1), function: echo(), ..Header::new(Kind::Lease) }, b"no submit");
    assert!(home.is_closed());
    // It tries again, as after any other loss.
    let mut home = Peer::accept(&listener);
    home.send(&Header::new(Kind::Hello), &serde_json::to_vec(&hello).unwrap());
    until(&b, "linked again", |b| b.links[0].state == "up");
}

#[test]
fn a_region_that_restarts_is_linked_again_and_takes_over_from_its_former_self() {
    let mut pair = Pair::new(1000, 2);
    pair.submit(1..=1, false);
    pair.core.expect(Kind::Lease);
    let Pair { a, b, host, _directories, .. } = pair;
    drop((b, host));
    let b = puller(_directories[1].path(), &a, 1000, vec![function("echo")]);
    let (_host, mut core) = b.ready_core(2, 1);
    let lease = core.expect(Kind::Lease);
    assert_eq!((call_of(&lease), Frame::parse(&lease).unwrap().0.attempt()), (CallId(1), 2));
    core.end(&lease, Status::Ok, b"");
    until(&a, "it has ended", |a| a.waiting + a.lent == 0);
}

#[test]
fn a_pulled_call_gets_its_blob_from_its_home_and_from_nobody_else() {
    let directories = [directory(), directory()];
    let blob = Reference { id: BlobId([7; 32]), bytes: 5 };
    let options = NodeOptions {
        regions: RegionOptions { name: "a".into(), ..RegionOptions::default() },
        blobs: vec![(blob, WallTime(1))],
        ..NodeOptions::default()
    };
    let functions = vec![function("echo")];
    let a = Running::start_with(directories[0].path(), Limits::small(), functions.clone(), options);
    let b = puller(directories[1].path(), &a, 500, functions);
    let (_host, mut core) = b.ready_core(4, 1);
    let mut store = Peer::connect(&a.socket, &Hello::Store { secret: SECRET.into() });
    assert!(Peer::refused(&a.socket, &Hello::Store { secret: "guessed".into() }));
    let mut client = a.client();
    let payload = blob.to_bytes();
    let arguments = Arguments { payload: &payload, attributes: &[] };
    let submit =
        body::Submit { call: CallId(1), function: echo(), blob: true, arguments, ..Default::default() };
    let mut frame = FrameBuf::new();
    body::append_submit(&mut frame, &submit).unwrap();
    let (frame, _) = Frame::parse(&frame).unwrap();
    client.send(&frame.header(), frame.body());
    assert_eq!(client.verdicts(1), [(CallId(1), VerdictCode::Accepted)]);
    let lease = core.expect(Kind::Lease);
    let epoch = Frame::parse(&lease).unwrap().0.stamp();
    let fetch = Header { call: CallId(1), function: echo(), deadline: epoch, ..Header::new(Kind::Fetch) };
    // Of a lease that is not, and of another call: nobody hears it.
    core.send(&Header { deadline: epoch + 1, ..fetch }, &payload);
    core.send(&Header { call: CallId(2), ..fetch }, &payload);
    core.send(&fetch, &payload);
    let asked = store.expect(Kind::Fetch);
    let asked = Frame::parse(&asked).unwrap().0;
    assert_eq!((asked.header(), asked.body()), (fetch, &payload[..]));
    store.expect_no(Kind::Fetch, WHILE);
    let piece = Header { kind: Kind::Piece, ..fetch };
    store.send(&Header { deadline: epoch + 1, ..piece }, b"wrong");
    store.send(&piece, b"right");
    let came = core.expect(Kind::Piece);
    assert_eq!(Frame::parse(&came).unwrap().0.body(), b"right");
    core.expect_no(Kind::Piece, WHILE);
}

#[test]
fn a_pulled_calls_result_goes_to_the_store_of_its_home_and_its_outcome_names_it() {
    let directories = [directory(), directory()];
    let a = home(directories[0].path());
    let b = puller(directories[1].path(), &a, 500, vec![function("echo")]);
    let (_host, mut core) = b.ready_core(4, 1);
    let mut store = Peer::connect(&a.socket, &Hello::Store { secret: SECRET.into() });
    let mut client = a.client();
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    let lease = core.expect(Kind::Lease);
    let lease = Frame::parse(&lease).unwrap().0;
    let epoch = lease.stamp();
    let keep = Header { call: CallId(1), function: echo(), deadline: epoch, ..Header::new(Kind::Keep) };
    // Of a lease that is not, and of another call: nothing is kept.
    core.send(&Header { deadline: epoch + 1, ..keep }, b"result");
    core.send(&Header { call: CallId(2), ..keep }, b"result");
    core.send(&keep, b"result");
    let piece = store.expect(Kind::Keep);
    let piece = Frame::parse(&piece).unwrap().0;
    assert_eq!((piece.header(), piece.body()), (keep, &b"result"[..]));
    store.expect_no(Kind::Keep, WHILE);
    let blob = Reference { id: BlobId([9; 32]), bytes: 6 };
    let kept = Header { kind: Kind::Kept, stamp: blob.bytes, ..keep };
    store.send(&kept, &blob.to_bytes());
    // The store hears that the ring knows, and the core hears its name.
    assert_eq!(Frame::parse(&store.expect(Kind::Kept)).unwrap().0.status(), Ok(Status::Ok));
    assert_eq!(Frame::parse(&core.expect(Kind::Kept)).unwrap().0.body(), blob.to_bytes());
    let mut outcome = FrameBuf::new();
    let name = blob.to_bytes();
    let reply = body::Reply::new(&Default::default(), &name, b"");
    body::append_stored_outcome(&mut outcome, &lease.header(), Status::Ok, &reply).unwrap();
    let (frame, _) = Frame::parse(&outcome).unwrap();
    core.send(&frame.header(), frame.body());
    let told = client.expect(Kind::Outcome);
    let told = Frame::parse(&told).unwrap().0;
    assert_eq!((told.status(), Reference::in_outcome(&told)), (Ok(Status::Ok), Some(blob)));
    // The client fetches it from the home's store, whoever else asks there.
    client.send(&Header { call: CallId(1), ..Header::new(Kind::Fetch) }, &name);
    let asked = store.expect(Kind::Fetch);
    let asked = Frame::parse(&asked).unwrap().0;
    assert_eq!(asked.body(), name);
    store.send(&Header { kind: Kind::Piece, ..asked.header() }, b"result");
    assert_eq!(Frame::parse(&client.expect(Kind::Piece)).unwrap().0.body(), b"result");
    // Of a blob that is not there it hears so.
    let other = Reference { id: BlobId([8; 32]), bytes: 6 }.to_bytes();
    client.send(&Header { call: CallId(1), ..Header::new(Kind::Fetch) }, &other);
    assert_eq!(Frame::parse(&client.expect(Kind::Piece)).unwrap().0.status(), Ok(Status::Damaged));
}

#[test]
fn an_outcome_that_names_a_blob_which_is_not_stored_is_refused() {
    let directory = directory();
    let a = home(directory.path());
    let (_host, mut core) = a.ready_core(4, 1);
    let mut client = a.client();
    assert_eq!(client.submitted(1, echo(), true), VerdictCode::Accepted);
    let lease = core.expect(Kind::Lease);
    let lease = Frame::parse(&lease).unwrap().0;
    let name = Reference { id: BlobId([9; 32]), bytes: 6 }.to_bytes();
    let mut outcome = FrameBuf::new();
    let reply = body::Reply::new(&Default::default(), &name, b"");
    body::append_stored_outcome(&mut outcome, &lease.header(), Status::Ok, &reply).unwrap();
    let (frame, _) = Frame::parse(&outcome).unwrap();
    core.send(&frame.header(), frame.body());
    client.expect_no(Kind::Outcome, WHILE);
    assert!(core.is_closed(), "its calls run elsewhere");
}
