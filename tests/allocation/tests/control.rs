//! A control node allocates nothing for a call: from submit through log, lease and outcome to the client's outcome.

use call::admin::Hello;
use call::body::{Reply, Submit, append_outcome, append_submit, verdicts};
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::limits::Limits;
use call::{Arguments, CallId, FunctionSpec, Status, Usage, WallTime};
use control::{Booting, Node, NodeOptions};
use counting::allocations;
use driver::uring::{Options, Uring};
use driver::{Arrivals, ConnectionId, Driver, Endpoint, Event};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Calls before counting: tables, buffers and queues have their size then.
const WARM: u64 = 20_000;
/// Calls counted. All fit one segment of the log: making another one allocates its name.
const COUNTED: u64 = 20_000;
/// Calls submitted and not ended at once.
const WINDOW: u64 = 2_000;
const SLOTS: u32 = 128;

fn echo() -> FunctionSpec {
    FunctionSpec { name: "echo".into(), version: 1, ..FunctionSpec::default() }
}

/// A client, a host and a core in one thread, which end every call as soon as it is leased.
struct Peers {
    driver: Uring,
    client: ConnectionId,
    host: ConnectionId,
    core: ConnectionId,
    out: FrameBuf,
    submitted: u64,
    ended: u64,
    outcomes: u64,
}

impl Peers {
    fn connect(at: &Endpoint) -> Peers {
        let mut driver = Uring::new(Options::default()).expect("io_uring");
        let mut join = |hello: &Hello| {
            let mut frame = FrameBuf::new();
            append(&mut frame, &Header::new(Kind::Hello), &serde_json::to_vec(hello).unwrap());
            let connection = driver.connect(at);
            driver.send(connection, &frame).unwrap();
            connection
        };
        let name = "here".to_owned();
        let client = join(&Hello::Client { name: name.clone() });
        let host = join(&Hello::Host { host: name.clone(), pid: 1 });
        let core = join(&Hello::Core { host: name, cpu: 0, pid: 1, slots: SLOTS, backends: Vec::new() });
        Peers { driver, client, host, core, out: FrameBuf::new(), submitted: 0, ended: 0, outcomes: 0 }
    }

    /// Serves until every second call's outcome has come back to the client, then stays until the node goes.
    fn run(mut self) -> u64 {
        let mut arrivals = Arrivals::new();
        self.grant();
        while self.outcomes < (WARM + COUNTED) / 2 {
            self.submit();
            let soon = self.driver.now() + Duration::from_millis(1);
            self.driver.reap(soon, &mut arrivals);
            let before = self.ended;
            self.out.clear();
            for event in arrivals.iter() {
                if let Event::Frame { frame, .. } = event {
                    self.hear(&frame);
                }
            }
            if self.ended > before {
                self.driver.send(self.core, &self.out).unwrap();
                self.grant();
            }
        }
        self.outcomes
    }

    fn grant(&mut self) {
        let header = Header { stamp: u64::from(SLOTS) + self.ended, ..Header::new(Kind::Credit) };
        self.driver.send(self.core, &header.encode(&[])).unwrap();
    }

    fn submit(&mut self) {
        self.out.clear();
        while self.submitted < WARM + COUNTED && self.submitted - self.ended < WINDOW {
            let submit = Submit {
                call: CallId::new(1_700_000_000_000, u128::from(self.submitted)),
                function: echo().id(),
                start_at: WallTime(0),
                deadline: WallTime(0),
                criticality: 0,
                want_outcome: self.submitted.is_multiple_of(2),
                arguments: Arguments { payload: &[7; 128], attributes: &[] },
                ..Submit::default()
            };
            append_submit(&mut self.out, &submit).unwrap();
            self.submitted += 1;
        }
        if !self.out.is_empty() {
            self.driver.send(self.client, &self.out).unwrap();
        }
    }

    fn hear(&mut self, frame: &Frame<'_>) {
        match frame.kind() {
            Kind::Publish => {
                let ready = Header { kind: Kind::Ready, ..frame.header() };
                self.driver.send(self.host, &ready.encode(&[])).unwrap();
            }
            Kind::Lease => {
                let lease = Header { flags: 0, ..frame.header() };
                let reply = Reply::new(&Usage::default(), &[7; 128], b"");
                append_outcome(&mut self.out, &lease, Status::Ok, &reply).unwrap();
                self.ended += 1;
            }
            Kind::Verdicts => {
                assert!(verdicts(frame.body()).unwrap().iter().all(|v| v.code().unwrap().is_held()))
            }
            Kind::Outcome => self.outcomes += 1,
            _ => {}
        }
    }
}

/// A node on this thread and its peers on another.
fn start(directory: &Path) -> (Node<Uring>, Arrivals, JoinHandle<u64>) {
    let log = directory.join("log");
    std::fs::create_dir(&log).unwrap();
    // Small tables: the first touch of large ones is not what is counted.
    let limits = Limits { calls_max: 1 << 14, pending_bytes_max: 64 << 20, ..Limits::default() };
    let options = Options {
        data_dir: Some(log),
        blocks: durableq::block_count(&limits),
        block_bytes: limits.group_bytes,
        ..Options::default()
    };
    let mut arrivals = Arrivals::new();
    let driver = Uring::new(options).expect("io_uring");
    let booting = Booting::new(limits, NodeOptions::default(), driver, vec![echo()]).unwrap();
    let mut node = booting.run(&mut arrivals).unwrap();
    let at = Endpoint::Shm(directory.join("shm"));
    node.listen(&at).unwrap();
    let (told, listens) = mpsc::channel();
    let peers = std::thread::spawn(move || {
        listens.recv().unwrap();
        Peers::connect(&at).run()
    });
    told.send(()).unwrap();
    (node, arrivals, peers)
}

#[test]
fn a_node_allocates_nothing_for_a_call() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut node, mut arrivals, peers) = start(directory.path());
    let mut before = None;
    let mut after = None;
    while !peers.is_finished() {
        let until = node.turn(&arrivals);
        let completed = node.completed();
        if before.is_none() && completed >= WARM {
            before = Some(allocations());
            counting::trace(3);
        }
        if after.is_none() && completed >= WARM + COUNTED - WINDOW {
            after = Some(allocations());
            counting::trace(0);
        }
        let soon = node.driver().now() + Duration::from_millis(1);
        node.driver().reap(until.min(soon), &mut arrivals);
    }
    assert_eq!(peers.join().unwrap(), (WARM + COUNTED) / 2, "every outcome that was wanted came");
    let allocated = after.expect("counted") - before.expect("warmed up");
    assert_eq!(allocated, 0, "allocations in {} calls", COUNTED - WINDOW);
}
