//! Limits of functions over two shards, real processes: what all shards together run, begin and hold is never more than
//! what was said for the function, also where that is less than the shards, and none of it is lost to a shard without calls.

use call::body::Submit;
use call::{CallId, FunctionId, VerdictCode, WallTime};
use millrace_client::blocking::Client;
use millrace_client::{Error, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::harness::{ECHO, LOOP, PATIENCE, Process, Site, until};

struct World {
    site: Site,
    up: Process,
}

impl World {
    fn new() -> World {
        let site = Site::new();
        let up = site.up(&["--shards", "2", "--slots", "8", "--drain", "1s"]);
        World { site, up }
    }

    /// One that submits a call again for so long while it is refused.
    fn client(&self, patience: Duration) -> Client {
        let options = Options { name: "limits".into(), patience, ..Options::default() };
        Client::connect(&self.site.endpoint(), options).expect("it serves")
    }

    /// How many calls of a function are in this state, by shard, at one look.
    fn count(&self, function: &str, state: &str) -> Vec<u64> {
        let ran = self.site.run(&["queue", "show", function, "-o", "json"]);
        let Ok(queue) = serde_json::from_str::<Value>(&ran.stdout()) else { return Vec::new() };
        let shards = queue["shards"].as_array().expect("parts");
        shards.iter().map(|part| part[state].as_u64().expect("a number")).collect()
    }

    /// Looks until it is so, and at each look no more than `most` are in this state.
    fn until(&self, function: &str, state: &str, most: u64, is_so: impl Fn(&[u64]) -> bool) {
        until(function, || {
            let counts = self.count(function, state);
            assert!(counts.iter().sum::<u64>() <= most, "{function}: {counts:?}");
            is_so(&counts).then_some(())
        });
    }
}

fn id(name: &str) -> FunctionId {
    FunctionId::of("default", name)
}

fn submit(client: &mut Client, name: &str, start_at: WallTime) -> Result<CallId, VerdictCode> {
    let submit = Submit { start_at, ..client.call(id(name), b"x") };
    match client.submit(&submit) {
        Ok(_) => Ok(submit.call),
        Err(Error::Refused { code, .. }) => Err(code),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn limits_hold_over_all_shards() {
    let mut world = World::new();
    world.site.deploy("one", LOOP, "concurrency = 1\ntimeout = \"10m\"");
    world.site.deploy("three", LOOP, "concurrency = 3\ntimeout = \"10m\"");
    world.site.deploy("few", ECHO, "[queue]\nbacklog = 9");
    world.site.deploy("slow", ECHO, "[quota]\nrate = 5\nburst = 2");
    let mut client = world.client(PATIENCE);
    quotas_hold(&world, &mut client);
    backlogs_hold(&world);
    for name in ["one", "three"] {
        for _ in 0..12 {
            submit(&mut client, name, WallTime(0)).expect("it is taken");
        }
    }
    world.until("three", "leased", 3, |counts| counts.iter().sum::<u64>() == 3);
    one_at_a_time_is_nobodys_alone(&world);
    // A shard that was killed goes on with its part, and no more.
    let file = world.site.data().join("shard-1/run/control.json");
    let file: Value = serde_json::from_slice(&std::fs::read(file).expect("it serves")).expect("JSON");
    kill(Pid::from_raw(file["pid"].as_i64().expect("a number") as i32), Signal::SIGKILL).expect("it runs");
    world.until("three", "leased", 3, |counts| counts.len() == 2 && counts.iter().sum::<u64>() == 3);
    let limits = world.site.json(&["shard", "limits"]);
    let named = |of: &str| {
        let rows = limits.as_array().expect("rows").iter();
        let mut rows = rows.filter(|row| row["of"] == of && row["kind"] == "concurrency");
        rows.next().unwrap_or_else(|| panic!("{limits}")).clone()
    };
    assert!(named("default/three")["share"].as_u64() <= Some(3) && named("default/one")["limit"] == 1);
    assert_eq!(world.up.stop(), 0, "{}", world.up.output());
}

/// Whatever the time it takes: no more than the rate allows since before the first was submitted.
fn quotas_hold(world: &World, client: &mut Client) {
    let begun = Instant::now();
    for _ in 0..15 {
        submit(client, "slow", WallTime(0)).expect("it is taken");
    }
    until("all to run", || {
        let shown = world.site.json(&["function", "show", "slow"]);
        let completed = shown["completed"].as_u64().expect("a number");
        assert!(completed as f64 <= 2.0 + 5.0 * begun.elapsed().as_secs_f64(), "{completed}");
        (completed == 15).then_some(())
    });
}

/// As many as may wait do, in the end, and never more; all of them at one shard if need be.
fn backlogs_hold(world: &World) {
    let mut client = world.client(Duration::from_secs(1));
    let later = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + Duration::from_secs(3600);
    let later = WallTime(later.as_nanos() as u64);
    let mut accepted = Vec::new();
    until("nine to wait", || {
        match submit(&mut client, "few", later) {
            Ok(call) => accepted.push(call),
            Err(code) => assert_eq!(code, VerdictCode::Backlog),
        }
        assert!(accepted.len() <= 9);
        (accepted.len() == 9).then_some(())
    });
    for _ in 0..2 {
        assert_eq!(submit(&mut client, "few", later), Err(VerdictCode::Backlog));
    }
    assert_eq!(world.count("few", "scheduled").iter().sum::<u64>(), 9);
}

/// One call runs at each time, and in the end both shards have had one.
fn one_at_a_time_is_nobodys_alone(world: &World) {
    let mut seen = BTreeSet::new();
    until("both shards to have a turn", || {
        let counts = world.count("one", "leased");
        assert!(counts.iter().sum::<u64>() <= 1, "{counts:?}");
        seen.extend((0..counts.len()).filter(|shard| counts[*shard] > 0));
        let running = world.site.json(&["calls", "list", "--where", "function=one and state=running"]);
        for call in running["calls"].as_array().expect("calls") {
            world.site.run(&["calls", "cancel", call["call"].as_str().expect("an id")]);
        }
        (seen.len() == 2).then_some(())
    });
}
