//! A real node on a real disk, killed by SIGKILL at random instants while calls come, run and wait. A ledger outside of
//! it knows what was acknowledged, leased and ended, and holds the node to it, life after life.

use call::body::Submit;
use call::random::Random;
use call::{CallId, FunctionId, VerdictCode};
use millrace_client::blocking::Client;
use millrace_client::{Event, IdSource, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::harness::{ECHO, PATIENCE, Process, Site, until};
use tests::ledger::Ledger;
use tests::peers::{self, Fate};

/// Kills in the test that always runs.
const ROUNDS: usize = 30;
/// Kills in `make soak`.
const SOAK_ROUNDS: usize = 200;
/// The seed of a soak, if it is to be run again.
const SEED: &str = "MILLRACE_SOAK_SEED";
/// Slots of the core that the test plays.
const SLOTS: u32 = 64;
/// One lease of so many is not answered before the node dies: it is live then.
const LIVE: u64 = 16;
/// Calls start so far ahead at most: some are due in this life of the node, some in the next.
const AHEAD_MS: u64 = 120;
/// From the first acknowledgement to the kill.
const LIFE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(60));

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

fn options(patience_ms: u64) -> Options {
    Options { name: "crash".into(), window: 512, patience: Duration::from_millis(patience_ms) }
}

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

/// A data directory, the node that lives on it, and what is known of both.
struct Stage {
    site: Site,
    node: Process,
    ledger: Mutex<Ledger>,
    ids: IdSource,
    random: Random,
}

impl Stage {
    fn new(seed: u64) -> Stage {
        println!("seed {seed}: {SEED}={seed} runs it again");
        let site = Site::new();
        let node = site.control();
        let stage =
            Stage { site, node, ledger: Mutex::default(), ids: IdSource::new(), random: Random::new(seed) };
        let socket = stage.socket();
        std::thread::spawn(move || peers::host(&socket));
        stage.site.deploy("echo", ECHO, "");
        stage
    }

    fn socket(&self) -> PathBuf {
        self.site.data().join("run/submit.sock")
    }

    /// One life of the node under load, up to its kill; what was acknowledged in it.
    fn live(&mut self) -> BTreeSet<CallId> {
        let span = (LIFE.1 - LIFE.0).as_micros() as u64;
        let life = LIFE.0 + Duration::from_micros(self.random.below(span));
        let (socket, pid) = (self.socket(), Pid::from_raw(self.node.pid() as i32));
        let (first, is_first) = mpsc::channel();
        let (ledger, ids, random) = (&self.ledger, &mut self.ids, &mut self.random);
        let mut client = Client::connect(&self.site.endpoint(), options(0)).expect("the node serves");
        let heard = std::thread::scope(|scope| {
            scope.spawn(|| peers::host(&socket));
            scope.spawn(|| core(&socket, ledger, LIVE));
            // From the first acknowledgement on: a node that makes its first segment has nothing to lose.
            scope.spawn(move || {
                is_first.recv().expect("the node acknowledges something");
                std::thread::sleep(life);
                kill(pid, Signal::SIGKILL).expect("it runs");
            });
            submit_until_killed(&mut client, ledger, ids, random, &first)
        });
        self.node.kill();
        lock(ledger).killed();
        heard
    }

    /// Starts the node again, and holds it to what it must still have.
    fn revive(&mut self) {
        self.node = self.site.control();
        let pending = self.site.json(&["status"])["pending"].as_u64().expect("a count");
        lock(&self.ledger).recovered(pending);
    }

    /// Submits the same ids again: each must be recognised.
    fn assert_known(&self, calls: &BTreeSet<CallId>) {
        let mut client = Client::connect(&self.site.endpoint(), options(60_000)).expect("the node serves");
        let again: Vec<Submit<'_>> =
            calls.iter().map(|call| Submit { call: *call, ..client.call(echo(), b"again") }).collect();
        for receipt in client.submit_batch(&again).expect("the node answers") {
            let (call, code) = (receipt.call, receipt.code);
            assert_eq!(
                code,
                VerdictCode::Duplicate,
                "{call} was acknowledged, and is not known after the kill"
            );
        }
    }

    /// Lets all that is left run to its end.
    fn finish(mut self) -> Ledger {
        let socket = self.socket();
        let (site, ledger, node) = (&self.site, &self.ledger, &mut self.node);
        std::thread::scope(|scope| {
            scope.spawn(|| peers::host(&socket));
            scope.spawn(|| core(&socket, ledger, u64::MAX));
            until("the queue to be empty", || (site.status()?["pending"] == 0).then_some(()));
            let status = site.json(&["status"]);
            assert_eq!((&status["dead"], &status["leased_now"]), (&0.into(), &0.into()));
            node.kill();
        });
        let mut ledger = self.ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        ledger.killed();
        ledger
    }
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().expect("whoever found a fault has said so")
}

/// The core: ends what it gets, but for one of `live`.
fn core(socket: &Path, ledger: &Mutex<Ledger>, live: u64) {
    let mut leases = 0;
    let mut held = 0;
    peers::core(socket, SLOTS, |lease, submit| {
        leases += 1;
        let mut ledger = lock(ledger);
        ledger.leased(lease.call(), lease.stamp(), submit.start_at().0, wall());
        // Half of its slots serve on.
        if leases % live == 0 && held < SLOTS / 2 {
            held += 1;
            return Fate::Runs;
        }
        ledger.answered(lease.call());
        Fate::Ends
    });
}

/// Submits until the node is gone, calls for now and for soon; those that it acknowledged.
fn submit_until_killed(
    client: &mut Client,
    ledger: &Mutex<Ledger>,
    ids: &mut IdSource,
    random: &mut Random,
    first: &mpsc::Sender<()>,
) -> BTreeSet<CallId> {
    let mut heard = BTreeSet::new();
    let payload = [7u8; 300];
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "the node was not killed");
        let start = wall() + random.below(AHEAD_MS) * 1_000_000;
        let call = client.call(echo(), &payload);
        let submit =
            Submit { call: ids.next_id(), start_at: call::WallTime(start), want_outcome: true, ..call };
        lock(ledger).sent(submit.call, start);
        if client.enqueue(&submit).is_err() {
            return heard;
        }
        loop {
            match client.next(Duration::ZERO) {
                Ok(Some(Event::Verdict(receipt))) => {
                    assert_eq!(receipt.code, VerdictCode::Accepted, "{}", receipt.call);
                    lock(ledger).acknowledged(receipt.call, wall());
                    heard.insert(receipt.call);
                    let _ = first.send(());
                }
                Ok(Some(Event::Outcome(outcome))) => lock(ledger).ended(outcome.call),
                Ok(None) => break,
                Err(_) => return heard,
            }
        }
    }
}

fn rounds(count: usize, seed: u64) {
    let begun = Instant::now();
    let mut stage = Stage::new(seed);
    for _ in 0..count {
        let heard = stage.live();
        stage.revive();
        stage.assert_known(&heard);
    }
    let ledger = stage.finish();
    let sums = ledger.sums();
    println!("{count} kills in {:?}: {sums:?}", begun.elapsed());
    assert_eq!(ledger.open(), [], "accepted, and neither recovered nor completed");
    assert_eq!(sums.acknowledged, sums.ended);
    assert!(sums.acknowledged > 10 * count, "the rounds acknowledged next to nothing");
    assert!(sums.leases > sums.acknowledged, "no kill met a live lease");
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_instant() {
    rounds(ROUNDS, 20_261_121);
}

/// `make soak`: another seed each time, unless one is given.
#[test]
#[ignore = "takes minutes: make soak"]
fn soak() {
    let given = std::env::var(SEED).ok().map(|text| text.parse().expect("a seed is a number"));
    rounds(SOAK_ROUNDS, given.unwrap_or_else(|| wall() / 1_000_000));
}

/// A disk that forgets what it said was on it: the log as it was one life ago.
#[test]
#[should_panic(expected = "calls were recovered: at least")]
fn canary_a_disk_that_forgets_is_caught() {
    let mut stage = Stage::new(1);
    stage.node.kill();
    let (log, before) = (stage.site.data().join("log"), stage.site.folder().join("before"));
    copy(&log, &before);
    stage.node = stage.site.control();
    stage.live();
    std::fs::remove_dir_all(&log).expect("it is there");
    copy(&before, &log);
    stage.revive();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}
