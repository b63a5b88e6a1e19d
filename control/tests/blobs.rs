//! Which blobs are garbage: a node with real sockets and a real log against a model that knows who names what.

mod peer;

use call::admin::{Answer, Ask, Collected};
use call::blob::{BlobId, Reference};
use call::body::{Submit, append_submit};
use call::frame::{Frame, FrameBuf, Kind};
use call::limits::Limits;
use call::random::Random;
use call::{Arguments, CallId, FunctionId, Status, VerdictCode, WallTime};
use control::NodeOptions;
use peer::Peer;
use peer::node::{Running, directory, function};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Blobs of a test: each is named by its number.
const BLOBS: u8 = 10;

fn blob(n: u8) -> Reference {
    Reference { id: BlobId([n; 32]), bytes: 1000 + u64::from(n) }
}

/// Nothing is young: what no call names goes at once.
fn limits() -> Limits {
    Limits { blob_grace: Duration::ZERO, ..Limits::small() }
}

fn start(directory: &Path, blobs: &BTreeSet<u8>) -> Running {
    let blobs = blobs.iter().map(|n| (blob(*n), WallTime(1))).collect();
    let options = NodeOptions { blobs, ..NodeOptions::default() };
    Running::start_with(directory, limits(), vec![function("runs"), function("waits")], options)
}

/// Submits a call that names a blob; the verdict.
fn submit(client: &mut Peer, call: u128, name: &str, n: u8, start_at: WallTime) -> VerdictCode {
    let payload = blob(n).to_bytes();
    let submit = Submit {
        call: CallId(call),
        function: FunctionId::of("default", name),
        start_at,
        want_outcome: true,
        blob: true,
        arguments: Arguments { payload: &payload, attributes: &[] },
        ..Submit::default()
    };
    let mut out = FrameBuf::new();
    append_submit(&mut out, &submit).unwrap();
    let (frame, _) = Frame::parse(&out).unwrap();
    client.send(&frame.header(), frame.body());
    client.verdicts(1)[0].1
}

fn in_an_hour() -> WallTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    WallTime(call::time::nanos(now + Duration::from_secs(3600)))
}

fn collect(admin: &mut Peer, dry_run: bool) -> Collected {
    match admin.ask(&Ask::BlobsCollect { dry_run }) {
        Answer::Collected(collected) => collected,
        other => panic!("{other:?}"),
    }
}

/// What a collection must have found: everything that no call names, and nothing else.
fn check(found: &Collected, there: &BTreeSet<u8>, named: &BTreeMap<u128, u8>) -> BTreeSet<u8> {
    let named: BTreeSet<u8> = named.values().copied().collect();
    let garbage: BTreeSet<u8> = there.difference(&named).copied().collect();
    let names: BTreeSet<String> = garbage.iter().map(|n| blob(*n).id.to_string()).collect();
    let is: BTreeSet<String> = found.blobs.iter().cloned().collect();
    assert_eq!(is, names, "garbage is what no call names");
    assert_eq!(found.bytes, garbage.iter().map(|n| blob(*n).bytes).sum::<u64>());
    garbage
}

/// One life after the other of a node, steps at random.
struct Story {
    node: Option<(Running, Peer, Peer, (Peer, Peer))>,
    directory: tempfile::TempDir,
    random: Random,
    there: BTreeSet<u8>,
    /// Pending calls and dead letters, and what they name.
    named: BTreeMap<u128, u8>,
    dead: BTreeSet<u128>,
    next: u128,
}

impl Story {
    fn new(seed: u64) -> Story {
        let mut story = Story {
            node: None,
            directory: directory(),
            random: Random::new(seed),
            there: (0..BLOBS).collect(),
            named: BTreeMap::new(),
            dead: BTreeSet::new(),
            next: 0,
        };
        story.start();
        story
    }

    fn start(&mut self) {
        let node = start(self.directory.path(), &self.there);
        let (client, admin) = (node.client(), node.admin());
        // The host has one function ready; calls of the other one wait for ever.
        let mut host = Peer::host(&node.socket);
        for _ in 0..2 {
            let publish = host.expect(Kind::Publish);
            if Frame::parse(&publish).unwrap().0.function() == FunctionId::of("default", "runs") {
                host.ready(&publish, Status::Ok, "");
            }
        }
        let mut core = Peer::core(&node.socket, 4);
        core.grant(1 << 20);
        self.node = Some((node, client, admin, (host, core)));
    }

    fn pick(&mut self, of: u64) -> u64 {
        self.random.below(of)
    }

    fn step(&mut self) {
        let (what, n) = (self.pick(12), self.pick(u64::from(BLOBS)) as u8);
        match what {
            0..=2 => drop(self.submit("waits", n, in_an_hour())),
            3..=4 => drop(self.submit("waits", n, WallTime(0))),
            5..=6 => self.run(n, Status::Ok),
            7 => self.run(n, Status::Exit),
            8 => self.purge(),
            9 => {
                // Killed: all that was told is on disk, and frames are there only.
                let (node, ..) = self.node.take().expect("it runs");
                node.kill();
                self.start();
            }
            10 => {
                let found = collect(&mut self.node.as_mut().unwrap().2, true);
                check(&found, &self.there, &self.named);
            }
            _ => {
                let found = collect(&mut self.node.as_mut().unwrap().2, false);
                let gone = check(&found, &self.there, &self.named);
                self.there = self.there.difference(&gone).copied().collect();
                // Some are stored again.
                for n in gone.into_iter().filter(|n| n % 2 == 0) {
                    let stored = Ask::BlobStored { blob: blob(n).id.to_string(), bytes: blob(n).bytes };
                    let answer = self.node.as_mut().unwrap().2.ask(&stored);
                    assert_eq!(answer, Answer::Done { count: 1 });
                    self.there.insert(n);
                }
            }
        }
    }

    /// Submits a call; whether it was taken.
    fn submit(&mut self, name: &str, n: u8, start_at: WallTime) -> Option<u128> {
        self.next += 1;
        let verdict = submit(&mut self.node.as_mut().unwrap().1, self.next, name, n, start_at);
        let is_there = self.there.contains(&n);
        assert_eq!(verdict, if is_there { VerdictCode::Accepted } else { VerdictCode::NoBlob });
        is_there.then(|| self.named.insert(self.next, n));
        is_there.then_some(self.next)
    }

    /// Submits a call and has it end so.
    fn run(&mut self, n: u8, status: Status) {
        let Some(call) = self.submit("runs", n, WallTime(0)) else { return };
        let (_, client, _, (_, core)) = self.node.as_mut().unwrap();
        for _ in 0..if status == Status::Ok { 1 } else { 2 } {
            let lease = core.expect(Kind::Lease);
            assert_eq!(Frame::parse(&lease).unwrap().0.call(), CallId(call));
            core.end(&lease, status, b"");
        }
        client.expect(Kind::Outcome);
        if status == Status::Ok {
            self.named.remove(&call);
        } else {
            self.dead.insert(call);
        }
    }

    fn purge(&mut self) {
        let Some(call) = self.dead.pop_first() else { return };
        let answer = self.node.as_mut().unwrap().2.ask(&Ask::Purge { call: CallId(call).to_string() });
        assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
        self.named.remove(&call);
        // Told before it is on disk, as ever: what comes next is told when it is.
        self.submit("waits", 0, in_an_hour());
    }
}

#[test]
fn garbage_is_what_no_call_names_whatever_happens() {
    for seed in 1..=6 {
        let mut story = Story::new(seed);
        (0..60).for_each(|_| story.step());
    }
}

#[test]
#[should_panic(expected = "garbage is what no call names")]
fn canary_a_call_that_the_walk_does_not_see_is_caught() {
    let mut story = Story::new(1);
    story.submit("waits", 3, in_an_hour());
    // As if its mark had been lost: the model knows of one more.
    story.named.insert(99, 4);
    let found = collect(&mut story.node.as_mut().unwrap().2, true);
    check(&found, &story.there, &story.named);
}

#[test]
fn nothing_is_removed_while_a_record_cannot_be_read() {
    let mut story = Story::new(1);
    story.submit("waits", 3, in_an_hour());
    let (node, ..) = story.node.take().unwrap();
    node.kill();
    story.start();
    // The reference of the call on disk.
    let name = blob(3).to_bytes();
    for entry in std::fs::read_dir(story.directory.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            bytes[at] ^= 1;
            let mut file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all(&bytes).unwrap();
            file.sync_all().unwrap();
        }
    }
    let found = collect(&mut story.node.as_mut().unwrap().2, false);
    assert_eq!((found.count, found.unreadable, found.left), (0, 1, u64::from(BLOBS)));
    // Its call is a dead letter when somebody has looked; without it the others go.
    let purge = Ask::Purge { call: CallId(1).to_string() };
    let answer = story.node.as_mut().unwrap().2.ask(&purge);
    assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    let found = collect(&mut story.node.as_mut().unwrap().2, false);
    assert_eq!((found.count, found.unreadable), (u64::from(BLOBS), 0));
}

#[test]
fn nothing_is_removed_while_a_copy_is_made_nor_before_its_time() {
    let mut story = Story::new(1);
    let admin = &mut story.node.as_mut().unwrap().2;
    admin.ask(&Ask::Hold { ms: 300 });
    let found = collect(admin, false);
    assert_eq!((found.count, found.held), (0, true));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(collect(admin, true).count, u64::from(BLOBS));
    drop(story);
    let directory = directory();
    let options = NodeOptions { blobs: vec![(blob(1), in_an_hour())], ..NodeOptions::default() };
    let node = Running::start_with(directory.path(), Limits::small(), vec![], options);
    assert_eq!(collect(&mut node.admin(), false).count, 0, "it is young");
}
