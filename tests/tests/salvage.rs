//! Bits that turn over in the log of a node that was killed: a strict start refuses it, `--recover salvage` goes on, and
//! what it says is lost and what is still there make up all that was acknowledged. Real binary, real segments.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tests::harness::{ECHO, Process, Site, until};

/// Calls submitted by one command, and how many commands: each has a few groups of the log.
const CALLS: usize = 10;
const COMMANDS: usize = 5;

type Ids = BTreeSet<String>;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Submits calls for later, all acknowledged.
fn submit(site: &Site, to: &[&str]) {
    let lines: String = (0..CALLS).map(|n| format!("{n}\n")).collect();
    let path = site.file("calls.ndjson", lines);
    for _ in 0..COMMANDS {
        site.ok(&[&["submit", "echo", "--ndjson", &path, "--in", "1h"], to].concat());
    }
}

/// The calls that wait for their start.
fn scheduled(site: &Site, at: &[&str]) -> Ids {
    let page = site.json(&[&["calls", "list", "--where", "state=scheduled", "--limit", "500"], at].concat());
    assert_eq!(page["unknown"], 0, "{page}");
    let calls = page["calls"].as_array().expect("a list").iter();
    calls.map(|call| call["call"].as_str().expect("an id").to_owned()).collect()
}

/// Kills whoever keeps processes running, and waits until nobody holds these data directories.
fn kill(mut up: Process, holders: &[PathBuf]) {
    let control = |data: &PathBuf| {
        let bytes = std::fs::read(data.join("run/up.json")).expect("it serves");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")["control"].as_i64().expect("a process id")
            as i32
    };
    let nodes: Vec<_> = holders.iter().map(control).map(nix::unistd::Pid::from_raw).collect();
    up.kill();
    for node in nodes {
        let _ = nix::sys::signal::kill(node, nix::sys::signal::Signal::SIGKILL);
        until("the node to be gone", || {
            let state = std::fs::read_to_string(format!("/proc/{node}/stat")).unwrap_or_default();
            (state.is_empty() || state.contains(") Z")).then_some(())
        });
    }
}

/// Turns a bit over in a submit record of the log of this data directory, with groups behind it that prove it was on disk.
fn damage(site: &Site, data: &Path) {
    let dump = site.ok(&["log", "dump", "--data-dir", text(data), "-o", "json"]);
    let entries: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let submits: Vec<&Value> = entries.iter().filter(|entry| entry["kind"] == "submit").collect();
    let hit = submits[submits.len() / 4];
    let path = data.join("log").join(hit["file"].as_str().expect("a name"));
    let mut bytes = std::fs::read(&path).expect("a segment");
    bytes[hit["offset"].as_u64().expect("a place") as usize + 70] ^= 4;
    std::fs::write(&path, bytes).expect("a segment");
}

/// The calls that the latest report in a data directory says to be lost.
fn told(data: &Path) -> Ids {
    let is_report = |name: &str| name.starts_with("salvage-") && name.ends_with(".json");
    let entries = std::fs::read_dir(data).expect("a data directory").map(|entry| entry.expect("an entry"));
    // Their names say when they were written.
    let latest = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_report))
        .map(|entry| entry.path())
        .max();
    let bytes = std::fs::read(latest.expect("a report")).expect("a report");
    let report: Value = serde_json::from_slice(&bytes).expect("JSON");
    let breaks = report["breaks"].as_array().expect("a list").iter();
    let records = breaks.flat_map(|of| of["records"].as_array().expect("a list"));
    records.map(|record| record["call"].as_str().expect("an id").to_owned()).collect()
}

/// What is there and what was said to be lost is what was acknowledged, each call once.
fn check(acknowledged: &Ids, there: &Ids, lost: &Ids) {
    assert!(!lost.is_empty() && lost.len() < acknowledged.len(), "{lost:?}");
    assert!(there.is_disjoint(lost), "{there:?} and {lost:?}");
    assert_eq!(&there.union(lost).cloned().collect::<Ids>(), acknowledged);
}

/// Waits until a node says that its log is sound again.
fn until_sound(node: &Process) {
    let sound = "the next start needs no --recover salvage";
    until("the log to be written anew", || node.output().contains(sound).then_some(()));
}

#[test]
fn a_damaged_log_is_refused_and_salvaged_by_the_binary() {
    let site = Site::new();
    let up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    submit(&site, &[]);
    let acknowledged = scheduled(&site, &[]);
    assert_eq!(acknowledged.len(), CALLS * COMMANDS);
    kill(up, &[site.data()]);
    damage(&site, &site.data());
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let left = site.run(&[&["up", "--no-process-functions"], &ports[..]].concat());
    assert!(left.code() != 0 && left.stderr().contains("is damaged"), "{left}");
    // What that `up` had started may hold the directory for a moment.
    let refused = until("a refusal", || {
        let ran = site.run(&[&["control"], &ports[..]].concat());
        (!ran.stderr().contains("in use by process")).then_some(ran)
    });
    refused.fails(6, &["is damaged", ".seg", "--recover salvage"]);
    let before = {
        let mut node = site.control_with(&["--recover", "salvage"]);
        assert!(node.output().contains("the log is damaged between byte"), "{}", node.output());
        let there = scheduled(&site, &[]);
        check(&acknowledged, &there, &told(&site.data()));
        until_sound(&node);
        assert_eq!(node.stop(), 0);
        there
    };
    // Sound again. All of before is in one group now, the only one of the oldest segment; and that is damaged.
    let mut node = site.control();
    assert_eq!(scheduled(&site, &[]), before);
    submit(&site, &[]);
    let before = scheduled(&site, &[]);
    node.kill();
    damage(&site, &site.data());
    let up = site.up(&["--cores", "1", "--recover", "salvage"]);
    let there = scheduled(&site, &[]);
    check(&before, &there, &told(&site.data()));
    assert_eq!(site.ok(&["call", "echo", "--data", "it goes on"]), "it goes on");
    drop(up);
}

/// Damages the logs of several nodes that one `millrace up` keeps, and starts that again.
fn several(arguments: &[&str], logs: &[&str], ready: &str) {
    let site = Site::new();
    let logs: Vec<PathBuf> = logs.iter().map(|at| site.data().join(at)).collect();
    let start = |more: &[&str]| {
        let _ = std::fs::remove_file(site.data().join(ready));
        let data = site.data();
        let fixed = ["up", "--data-dir", text(&data), "--no-process-functions"];
        let mut up = Process::start(site.folder(), [&fixed[..], arguments, more].concat());
        until(ready, || {
            assert!(up.is_running(), "`up` ended early:\n{}", up.output());
            site.data().join(ready).is_file().then_some(())
        });
        up
    };
    let all = |of: &dyn Fn(&Path) -> Ids| logs.iter().flat_map(|data| of(data)).collect::<Ids>();
    let up = start(&[]);
    site.deploy("echo", ECHO, "");
    logs.iter().for_each(|data| submit(&site, &["--data-dir", text(data)]));
    let acknowledged = all(&|data| scheduled(&site, &["--data-dir", text(data)]));
    assert_eq!(acknowledged.len(), logs.len() * CALLS * COMMANDS);
    kill(up, &logs);
    logs.iter().for_each(|data| damage(&site, data));
    let _up = start(&["--recover", "salvage"]);
    let there = all(&|data| scheduled(&site, &["--data-dir", text(data)]));
    let lost = all(&|data| told(data));
    assert!(lost.len() >= logs.len(), "{lost:?}");
    check(&acknowledged, &there, &lost);
}

#[test]
fn all_shards_of_a_node_are_salvaged() {
    let arguments = ["--shards", "2", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    several(&arguments, &["", "shard-1"], "run/up.json");
}

#[test]
fn all_regions_are_salvaged() {
    if tests::harness::has_namespaces() {
        several(&["--regions", "2"], &["a", "b"], "regions.json");
    }
}
