//! A node of three shards, real processes on a real disk. A ledger outside says which calls were acknowledged; shards are
//! killed and join under load, and in the end each call has ended well, once accepted and by one shard.

use call::body::Submit;
use call::{CallId, FunctionId, Status, VerdictCode, WallTime};
use millrace_client::blocking::Client;
use millrace_client::{Error, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::harness::{COMMAND, ECHO, PATIENCE, Process, Site, until};

/// Calls that each phase submits.
const CALLS: usize = 200;

struct World {
    site: Site,
    up: Process,
}

impl World {
    fn new() -> World {
        let site = Site::new();
        let up = site.up(&["--shards", "3", "--slots", "8", "--drain", "5s", "--shard-remember", "1s"]);
        let world = World { site, up };
        until("three shards", || (world.live() == 3).then_some(()));
        world.site.deploy("echo", ECHO, "");
        world.site.deploy("talk", COMMAND, "downstreams = [\"tao\"]");
        world
    }

    fn shards(&self) -> Vec<Value> {
        self.site.json(&["shard", "list"]).as_array().expect("rows").clone()
    }

    fn live(&self) -> usize {
        let ran = self.site.run(&["shard", "list", "-o", "json"]);
        let rows = serde_json::from_str::<Vec<Value>>(&ran.stdout()).unwrap_or_default();
        rows.iter().filter(|row| row["state"] == "live").count()
    }

    fn data(&self, shard: usize) -> PathBuf {
        if shard == 0 { self.site.data() } else { self.site.data().join(format!("shard-{shard}")) }
    }

    fn endpoint(&self, shard: usize) -> String {
        format!("unix:{}", self.data(shard).join("run/submit.sock").display())
    }

    /// A client that knows one shard only, and stays with its calls whatever happens.
    fn client(&self, shard: usize) -> Client {
        let options = Options { name: "ledger".into(), patience: PATIENCE, ..Options::default() };
        Client::connect(&self.endpoint(shard).parse().expect("an endpoint"), options).expect("it serves")
    }

    /// A process of a shard: its node (`control.json`), or that one's keeper (`up.json`).
    fn pid(&self, shard: usize, file: &str) -> Pid {
        let bytes = std::fs::read(self.data(shard).join("run").join(file)).expect("it serves");
        let file: Value = serde_json::from_slice(&bytes).expect("it is written whole");
        Pid::from_raw(file["pid"].as_i64().expect("it runs") as i32)
    }

    /// The queue of the function: all together, and each shard's part.
    fn queue(&self) -> (Value, Vec<Value>) {
        let queues = self.site.json(&["queue", "list"]);
        (queues[0].clone(), queues[0]["shards"].as_array().expect("parts").clone())
    }
}

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

fn talk() -> FunctionId {
    FunctionId::of("default", "talk")
}

/// Submits calls whose outcome is wanted; all are acknowledged.
fn submit(client: &mut Client, count: usize) -> Vec<(CallId, String)> {
    submit_to(client, echo(), count)
}

fn submit_to(client: &mut Client, function: FunctionId, count: usize) -> Vec<(CallId, String)> {
    let one = |n: usize| {
        let payload = format!("{n}");
        let submit = client.call(function, payload.as_bytes());
        let call = submit.call;
        let receipt = client.submit(&Submit { want_outcome: true, ..submit }).expect("an answer");
        receipt.accepted().expect("it is held");
        (call, payload)
    };
    (0..count).map(one).collect()
}

fn settle(client: &mut Client, ledger: Vec<(CallId, String)>) {
    for (call, payload) in ledger {
        let outcome = client.wait(call, PATIENCE).expect("it ends");
        assert_eq!((outcome.status, &outcome.output[..]), (Status::Ok, payload.as_bytes()), "{call}");
    }
}

/// Calls of a later time, which stay where they are.
fn submit_later(client: &mut Client, ids: &[CallId]) -> Vec<VerdictCode> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + Duration::from_secs(3600);
    let start_at = WallTime(now.as_nanos() as u64);
    let one = |call: &CallId| {
        let submit = Submit { call: *call, start_at, ..client.call(echo(), b"later") };
        client.submit(&submit).expect("an answer").code
    };
    ids.iter().map(one).collect()
}

#[test]
fn shards_are_one_node_whatever_is_killed_or_joins() {
    let mut world = World::new();
    let mut client = world.client(0);
    let later: Vec<CallId> = (0..60).map(|_| client.call(echo(), b"").call).collect();
    calls_reach_all_shards(&world, &mut client, &later);
    a_key_is_one_call_at_any_shard(&world);
    verbs_speak_for_all_shards(&world, &mut client);
    a_killed_shard_loses_nothing(&world, &mut client);
    a_shard_that_is_away_is_told(&mut world);
    world.site.ok(&["queue", "drain", "talk"]);
    a_shard_joins_under_load(&world);
    let mut joined = world.client(3);
    // What was ordered before it joined holds there, too.
    for _ in 0..CALLS / 4 {
        let call = joined.call(talk(), b"");
        let refused = joined.submit(&call).expect_err("it drains");
        assert!(matches!(refused, Error::Refused { code: VerdictCode::Closed, .. }), "{refused}");
    }
    assert!(submit_later(&mut joined, &later).iter().all(|code| *code == VerdictCode::Duplicate));
    let ledger = submit(&mut client, CALLS);
    settle(&mut client, ledger);
    let shards = world.site.json(&["status"])["shards"].clone();
    assert!(shards[3]["accepted"].as_u64() > Some(0) && shards[3]["shard"] == 3, "{shards}");
    let (sum, parts) = world.queue();
    assert_eq!((sum["scheduled"].as_u64(), parts.len()), (Some(60), 4));
    let status = world.site.json(&["status"]);
    assert_eq!(
        (&status["pending"], &status["dead_letters"]),
        (&Value::from(60), &Value::from(0)),
        "{status}"
    );
    a_backup_is_of_all_shards(&world, &later);
    a_shard_leaves_when_it_holds_nothing(&mut world);
    assert_eq!(world.up.stop(), 0, "{}", world.up.output());
}

/// Through one endpoint; the sum is that of the parts.
fn calls_reach_all_shards(world: &World, client: &mut Client, later: &[CallId]) {
    assert!(submit_later(client, later).iter().all(|code| *code == VerdictCode::Accepted));
    let (sum, parts) = world.queue();
    let scheduled: Vec<u64> =
        parts.iter().map(|part| part["scheduled"].as_u64().expect("a number")).collect();
    assert!(scheduled.len() == 3 && scheduled.iter().all(|count| *count > 0), "{scheduled:?}");
    assert_eq!((sum["scheduled"].as_u64(), scheduled.iter().sum::<u64>()), (Some(60), 60));
    assert!(submit_later(&mut world.client(2), later).iter().all(|code| *code == VerdictCode::Duplicate));
}

/// The same key at two shards; and any shard tells of the call.
fn a_key_is_one_call_at_any_shard(world: &World) {
    let keyed = |shard: usize| {
        let at = world.endpoint(shard);
        let arguments = ["submit", "echo", "--in", "1h", "--idempotency-key", "order-7", "--endpoint", &at];
        world.site.json(&arguments)["call"].as_str().expect("an id").to_owned()
    };
    let call = keyed(0);
    assert_eq!((keyed(1), keyed(2)), (call.clone(), call.clone()));
    let shown = world.site.json(&["calls", "show", &call]);
    assert_eq!(shown["state"], "scheduled", "{shown}");
    assert_eq!(world.site.json(&["calls", "list"])["matched"], 61);
    world.site.ok(&["calls", "cancel", &call]);
}

/// What each shard knows is added up, and every shard's part is named.
fn verbs_speak_for_all_shards(world: &World, client: &mut Client) {
    const TALKS: usize = 40;
    let ledger = submit_to(client, talk(), TALKS);
    settle(client, ledger);
    let records = |more: &[&str]| -> Vec<Value> {
        let text = world.site.ok(&[&["logs", "talk", "-o", "json"], more].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    // A record is written beside the node.
    let all = until("all records", || Some(records(&[])).filter(|all| all.len() == TALKS));
    let shards: BTreeSet<u64> = all.iter().filter_map(|record| record["shard"].as_u64()).collect();
    assert_eq!(shards, [0, 1, 2].into());
    assert!(all.is_sorted_by_key(|record| record["time"].as_u64()), "in the order of time");
    assert_eq!(records(&["--tail", "7"]), all[TALKS - 7..]);
    let usage = world.site.json(&["usage", "talk"]);
    assert_eq!((&usage["total"]["calls"], usage["rows"].as_array().map(Vec::len)), (&TALKS.into(), Some(1)));
    for shown in [&world.site.json(&["function", "list"])[1], &world.site.json(&["function", "show", "talk"])]
    {
        assert_eq!((&shown["spec"]["name"], &shown["state"]), (&"talk".into(), &"ready".into()), "{shown}");
        let parts = shown["shards"].as_array().expect("parts");
        let completed: u64 = parts.iter().filter_map(|part| part["completed"].as_u64()).sum();
        assert_eq!((parts.len(), completed, &shown["completed"]), (3, TALKS as u64, &TALKS.into()));
    }
    let cores = world.site.json(&["workers"]);
    let of: BTreeSet<u64> =
        cores.as_array().expect("cores").iter().filter_map(|c| c["shard"].as_u64()).collect();
    assert_eq!((of, cores.as_array().map(Vec::len)), ([0, 1, 2].into(), Some(3)), "{cores}");
    let wanted = world.site.json(&["workers", "--wanted"]);
    assert_eq!((&wanted["cores"], wanted["shards"].as_array().map(Vec::len)), (&3.into(), Some(3)));
    let services = world.site.json(&["downstream", "show"]);
    assert_eq!(
        (&services[0]["downstream"], services[0]["shards"].as_array().map(Vec::len)),
        (&"tao".into(), Some(3))
    );
    assert_eq!(world.site.json(&["quota", "show", "talk"])[0]["shards"].as_array().map(Vec::len), Some(3));
    assert_eq!(world.site.json(&["locality", "show"]).as_array().map(Vec::len), Some(3));
    world.site.run(&["function", "show", "none"]).fails(3, &["no function none"]);
    world.site.run(&["logs", "none"]).fails(3, &["no function default/none"]);
}

/// It is killed under load: all outcomes come to whoever waits.
fn a_killed_shard_loses_nothing(world: &World, client: &mut Client) {
    let mut ledger = submit(client, CALLS);
    kill(world.pid(1, "control.json"), Signal::SIGKILL).expect("it runs");
    ledger.extend(submit(client, CALLS));
    settle(client, ledger);
}

/// Nobody starts it again for a while: the verbs say so, and the others go on.
fn a_shard_that_is_away_is_told(world: &mut World) {
    until("three shards", || (world.live() == 3).then_some(()));
    let keeper = world.pid(2, "up.json");
    world.up.signal(Signal::SIGSTOP);
    kill(keeper, Signal::SIGKILL).expect("it runs");
    until("shard 2 to be away", || (world.live() == 2).then_some(()));
    let looks = "queue list,queue show echo,queue peek echo,status,function list,function show talk,usage,workers,\
                 workers --wanted,logs talk,quota show,downstream show,locality show,calls list,dlq list";
    for look in looks.split(',') {
        let words: Vec<&str> = look.split(' ').chain(["-o", "json"]).collect();
        let ran = world.site.run(&words);
        ran.fails(4, &["shard 2 does not answer"]);
        assert!(!ran.stdout().is_empty(), "what the others say is shown: {look}");
    }
    let copy = world.site.folder().join("half").display().to_string();
    world.site.run(&["backup", &copy]).fails(4, &["shard 2 is not copied"]);
    world.site.run(&["restore", &copy, "--check"]).fails(3, &["no manifest"]);
    world.site.run(&["queue", "pause", "echo"]).fails(4, &["2 of 3 shards", "shard 2"]);
    world.site.run(&["queue", "resume", "echo"]).fails(4, &["2 of 3 shards"]);
    let row = &world.shards()[2];
    assert_eq!((&row["state"], &row["slots"]), (&Value::from("unreachable"), &Value::from(85)));
    world.up.signal(Signal::SIGCONT);
    until("three shards", || (world.live() == 3).then_some(()));
}

/// Nobody else is started again.
fn a_shard_joins_under_load(world: &World) {
    let pids = [0, 1, 2].map(|shard| world.pid(shard, "control.json"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut loaded = world.client(1);
        let load = scope.spawn({
            let stop = &stop;
            move || {
                let mut ledger = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    ledger.extend(submit(&mut loaded, 20));
                }
                settle(&mut loaded, ledger);
            }
        });
        world.site.ok(&["shard", "add"]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        load.join().expect("all of it ended well");
    });
    assert_eq!([0, 1, 2].map(|shard| world.pid(shard, "control.json")), pids, "the same processes");
}

/// It is taken under load, and restored elsewhere: what was acknowledged before is there, at one shard, and what is
/// submitted again is taken once.
fn a_backup_is_of_all_shards(world: &World, later: &[CallId]) {
    let copy = world.site.folder().join("copy");
    let there = copy.to_str().expect("a plain path");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (before, whole) = std::thread::scope(|scope| {
        let mut loaded = world.client(2);
        let mut accept = move |ids: &mut Vec<CallId>| {
            let call = loaded.call(echo(), b"").call;
            assert_eq!(submit_later(&mut loaded, &[call]), [VerdictCode::Accepted]);
            ids.push(call);
        };
        let mut before = later.to_vec();
        (0..CALLS / 4).for_each(|_| accept(&mut before));
        let load = scope.spawn({
            let (stop, mut ids) = (&stop, before.clone());
            move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    accept(&mut ids);
                }
                ids
            }
        });
        let copied = world.site.json(&["backup", there]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let whole = load.join().expect("all were taken");
        assert_eq!(copied["shards"].as_array().map(Vec::len), Some(4), "{copied}");
        assert!(copied["pending"].as_u64() >= Some(before.len() as u64), "{copied}");
        assert_eq!(world.site.json(&["restore", there, "--check"]), copied);
        (before, whole)
    });
    let other = Site::new();
    let data = other.data();
    other.ok(&["restore", there, "--data-dir", data.to_str().expect("a plain path")]);
    let mut restored = World { up: other.up(&["--slots", "8", "--drain", "5s"]), site: other };
    until("four shards", || (restored.live() == 4).then_some(()));
    let mut clients = [0, 3].map(|shard| restored.client(shard));
    let verdicts = submit_later(&mut clients[0], &before);
    assert!(verdicts.iter().all(|code| *code == VerdictCode::Duplicate), "{verdicts:?}");
    assert!(submit_later(&mut clients[1], &whole).iter().all(|code| code.is_held()));
    assert!(submit_later(&mut clients[0], &whole).iter().all(|code| *code == VerdictCode::Duplicate));
    assert_eq!(restored.site.json(&["status"])["pending"], whole.len());
    // Shards of two backups are none.
    let [first, second] = [1, 2].map(|shard| copy.join(format!("shard-{shard}/backup.json")));
    std::fs::copy(first, second).expect("a file");
    world.site.run(&["restore", there, "--check"]).fails(6, &["shard 2 is of another backup"]);
    assert_eq!(restored.up.stop(), 0, "{}", restored.up.output());
}

/// Not before: calls of a later time keep it. Then it is gone for good, and its number with it.
fn a_shard_leaves_when_it_holds_nothing(world: &mut World) {
    let remove = ["shard", "remove", "2", "--timeout"];
    world.site.run(&["shard", "remove", "0"]).fails(2, &["shard 0 stays"]);
    world.site.run(&["shard", "remove", "7"]).fails(3, &["no shard 7"]);
    world.site.run(&[&remove[..], &["3s"]].concat()).fails(7, &["may hold calls of"]);
    let row = &world.shards()[2];
    assert_eq!((&row["state"], &row["slots"]), (&"leaving".into(), &0.into()), "{row}");
    assert!(row["left"].as_u64() > Some(0), "{row}");
    let mut client = world.client(2);
    let ledger = submit(&mut client, CALLS);
    settle(&mut client, ledger);
    let (_, parts) = world.queue();
    assert!(parts[2]["shard"] == 2 && parts[2]["scheduled"].as_u64() > Some(0), "{parts:?}");
    world.site.ok(&["calls", "cancel", "--where", "state=scheduled", "--yes"]);
    let rows = world.site.json(&[&remove[..], &["60s"]].concat());
    assert_eq!((&rows[2]["state"], &rows[2]["left"]), (&"gone".into(), &0.into()), "{rows}");
    let others = rows.as_array().expect("rows").iter().filter(|row| row["state"] == "live").count();
    assert_eq!(others, 3);
    assert_eq!(world.site.json(&["status"])["shards"].as_array().map(Vec::len), Some(3), "nobody is missed");
    // And so it is after a start.
    assert_eq!(world.up.stop(), 0, "{}", world.up.output());
    world.up = world.site.up(&["--slots", "8", "--drain", "5s"]);
    until("three shards", || (world.live() == 3).then_some(()));
    let mut client = world.client(3);
    let ledger = submit(&mut client, CALLS / 4);
    settle(&mut client, ledger);
}
