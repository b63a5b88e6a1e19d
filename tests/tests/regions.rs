//! Three regions of real processes, each in a network namespace of its own. A ledger outside says which calls were
//! acknowledged; whatever is cut off or killed, in the end each of them has ended well, in its own region's log.
//!
//! Needs root, namespaces and iproute2; says loudly when it skips.

use call::body::Submit;
use call::{CallId, FunctionId, Status};
use millrace_client::Options;
use millrace_client::blocking::Client;
use serde_json::Value;
use std::path::PathBuf;
use tests::harness::{PATIENCE, Process, Site, has_namespaces, until};

/// Calls that each phase submits to region a.
const CALLS: u64 = 30;

/// Returns its arguments after some ten milliseconds of CPU: calls are held for long enough to be lost.
const SLOW: &str = r#"(module
  (memory (export "memory") 2)
  (func (export "millrace_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
    (local $n i64)
    (local.set $n (i64.const 20000000))
    (loop $l (local.set $n (i64.sub (local.get $n) (i64.const 1))) (br_if $l (i64.ne (local.get $n) (i64.const 0))))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $bytes)))))"#;

/// Calls of which region a said that they are accepted, and what each must return.
type Ledger = Vec<(CallId, String)>;

/// The regions, and the process that keeps them.
struct World {
    site: Site,
    up: Process,
}

impl World {
    fn new(more: &[&str]) -> World {
        let site = Site::new();
        let data = site.data().to_str().expect("a plain path").to_owned();
        let mut arguments = vec!["up", "--regions", "3", "--data-dir", &data, "--no-process-functions"];
        arguments.extend(["--slots", "8", "--drain", "1s"]);
        arguments.extend(more);
        let mut up = Process::start(site.folder(), &arguments);
        until("regions.json", || {
            assert!(up.is_running(), "`up --regions` ended early:\n{}", up.output());
            site.data().join("regions.json").is_file().then_some(())
        });
        let world = World { site, up };
        world.site.deploy("slow", SLOW, "");
        until("all links", || (world.links_up() == 6).then_some(()));
        world
    }

    fn data(&self, region: &str) -> PathBuf {
        self.site.data().join(region)
    }

    /// What a command says about one region, as JSON; none if it fails.
    fn ask(&self, region: &str, arguments: &[&str]) -> Option<Value> {
        let data = self.data(region);
        let more = ["--data-dir", data.to_str().expect("a plain path"), "-o", "json"];
        let ran = self.site.run(&[arguments, &more].concat());
        (ran.code() == 0).then(|| ran.json())
    }

    fn rows(&self) -> Vec<Value> {
        self.site.json(&["region", "list"]).as_array().expect("rows").clone()
    }

    fn row(&self, region: &str) -> Value {
        self.rows().into_iter().find(|row| row["name"] == region).expect("it is listed")
    }

    fn said(&self, region: &str, what: &str) -> u64 {
        self.row(region)["said"][what].as_u64().unwrap_or(0)
    }

    fn links_up(&self) -> usize {
        let links = |row: &Value| {
            let links = row["said"]["links"].as_array().map_or(&[][..], |links| links);
            links.iter().filter(|link| link["state"] == "up").count()
        };
        self.rows().iter().map(links).sum()
    }

    /// A client of region a, which stays with its calls whatever happens.
    fn client(&self) -> Client {
        let at = format!("unix:{}", self.data("a").join("run/submit.sock").display());
        let options = Options { name: "ledger".into(), patience: PATIENCE, ..Options::default() };
        Client::connect(&at.parse().expect("an endpoint"), options).expect("region a serves")
    }

    /// Every call of the ledger has ended well, once as far as anyone is told; nothing waits at home, nothing is dead.
    fn settled(&self, client: &mut Client, ledger: &mut Ledger) {
        for (call, payload) in std::mem::take(ledger) {
            let outcome = client.wait(call, PATIENCE).expect("it ends");
            assert_eq!((outcome.status, &outcome.output[..]), (Status::Ok, payload.as_bytes()), "{call}");
        }
        let status = until("nothing to be left", || {
            self.ask("a", &["status"]).filter(|status| status["pending"] == 0)
        });
        assert_eq!(status["dead_letters"], 0, "{status}");
    }
}

/// Submits calls to region a, all of which it acknowledges: they go into the ledger.
fn submit(client: &mut Client, ledger: &mut Ledger, count: u64) {
    for n in 0..count {
        let payload = format!("{n}");
        let submit = client.call(FunctionId::of("default", "slow"), payload.as_bytes());
        let call = submit.call;
        client.submit(&Submit { want_outcome: true, ..submit }).expect("it is accepted");
        ledger.push((call, payload));
    }
}

#[test]
fn a_region_that_is_cut_off_or_killed_loses_no_call_and_others_take_its_work() {
    if !has_namespaces() {
        return;
    }
    let mut world = World::new(&["--no-conductor"]);
    let (mut client, mut ledger) = (world.client(), Ledger::new());
    let wan = world.row("a")["wan"].as_str().expect("a text").to_owned();
    assert!(wan.contains("netem"), "what is between the regions is said: {wan}");

    // By the matrix: b and c take a's calls, while a itself runs nothing.
    world.site.ok(&["gtc", "pull", "b", "a=500"]);
    world.site.ok(&["gtc", "pull", "c", "a=500"]);
    world.site.ok(&["region", "drain", "a"]);
    submit(&mut client, &mut ledger, CALLS);
    world.settled(&mut client, &mut ledger);
    let [b, c] = ["b", "c"].map(|region| world.said(region, "pulled_ended"));
    assert_eq!(b + c, CALLS, "all ran elsewhere: {b} in b, {c} in c");

    // b is cut off with calls of a's: their leases end, and c runs them.
    submit(&mut client, &mut ledger, CALLS);
    until("b to hold calls", || (world.said("b", "pulled") > 0).then_some(()));
    world.site.ok(&["region", "fail", "b", "--cut"]);
    assert_eq!(world.row("b")["state"], "cut");
    world.settled(&mut client, &mut ledger);

    // It comes back, is linked again, and is then killed with calls of a's.
    world.site.ok(&["region", "heal", "b"]);
    until("b to be linked again", || (world.links_up() == 6).then_some(()));
    submit(&mut client, &mut ledger, CALLS);
    until("b to hold calls", || (world.said("b", "pulled") > 0).then_some(()));
    world.site.ok(&["region", "fail", "b"]);
    assert_eq!(world.row("b")["state"], "failed");
    world.settled(&mut client, &mut ledger);

    // The home itself is killed with calls that nobody has run: they are in its log.
    world.site.ok(&["region", "fail", "c", "--cut"]);
    submit(&mut client, &mut ledger, CALLS);
    world.site.ok(&["region", "fail", "a"]);
    world.site.ok(&["region", "heal", "c"]);
    world.site.ok(&["region", "heal", "a"]);
    until("a to serve again", || world.row("a")["said"].is_object().then_some(()));
    assert_eq!(world.row("a")["state"], "drained", "what was ordered outlives the process");
    world.settled(&mut client, &mut ledger);
    assert_eq!(world.up.stop(), 0, "{}", world.up.output());
}

#[test]
fn the_conductor_sends_help_to_an_overloaded_region_and_regions_go_on_when_it_is_killed() {
    if !has_namespaces() {
        return;
    }
    let mut world = World::new(&[]);
    let (mut client, mut ledger) = (world.client(), Ledger::new());
    submit(&mut client, &mut ledger, 8 * CALLS);
    until("others to run calls of a", || {
        (world.said("b", "pulled_ended") + world.said("c", "pulled_ended") > 0).then_some(())
    });
    let matrix = world.site.json(&["gtc", "matrix"]);
    assert!(matrix["version"].as_u64() > Some(0), "{matrix}");
    let regions = std::fs::read(world.site.data().join("regions.json")).expect("they run");
    let regions: Value = serde_json::from_slice(&regions).expect("JSON");
    let conductor = regions["conductor"].as_i64().expect("it runs") as i32;
    let pid = nix::unistd::Pid::from_raw(conductor);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    submit(&mut client, &mut ledger, CALLS);
    world.settled(&mut client, &mut ledger);
    assert!(world.up.is_running());

    // What operators say holds in all regions; one that does not hear it is named.
    let all = ["a", "b", "c"];
    world.site.ok(&["quota", "set", "slow", "--rate", "500"]);
    world.site.ok(&["downstream", "set", "tao", "--threshold", "7"]);
    for region in all {
        let quotas = world.ask(region, &["quota", "show", "slow"]).expect("it serves");
        assert_eq!(quotas[0]["quota"]["calls_per_s"], 500, "{region}: {quotas}");
        let services = world.ask(region, &["downstream", "show"]).expect("it serves");
        assert_eq!(services[0]["threshold_per_minute"], 7, "{region}: {services}");
    }
    world.site.ok(&["region", "fail", "b"]);
    world.site.run(&["quota", "set", "slow", "--reset"]).fails(4, &["2 of 3 regions", "region b"]);
    world.site.run(&["function", "delete", "slow"]).fails(4, &["2 of 3 regions", "region b"]);
    for region in ["a", "c"] {
        assert_eq!(world.ask(region, &["function", "show", "slow"]), None, "{region} has it still");
    }
    world.site.ok(&["region", "heal", "b"]);
    until("b to serve again", || world.ask("b", &["function", "show", "slow"]));
    world.site.ok(&["function", "delete", "slow"]);
    assert_eq!(world.ask("b", &["function", "show", "slow"]), None);
}
