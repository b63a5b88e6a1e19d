//! Arguments that are too large for a frame, through the real platform: stored once, run as wasm and as a process, told
//! when they are damaged, still there after the node was killed.

use serde_json::Value;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::clients::runs_processes;
use tests::harness::{Site, until};
use tests::http::{admin, ask};

/// Gives the last 16 bytes of its arguments: all of them were there.
const TAIL: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "millrace_alloc") (param $bytes i32) (result i32)
    (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $bytes) (i32.const 16)))))
    (i32.const 65536))
  (func (export "millrace_call") (param $at i32) (param $bytes i32) (result i64)
    (i64.or
      (i64.shl (i64.extend_i32_u (i32.sub (i32.add (local.get $at) (local.get $bytes)) (i32.const 16))) (i64.const 32))
      (i64.const 16))))"#;

/// Bytes of the arguments.
const LARGE: usize = 5 << 20;

/// Arguments that end with these 16 bytes.
fn large(end: &str) -> Vec<u8> {
    assert_eq!(end.len(), 16);
    let mut bytes: Vec<u8> = (0..LARGE - 16).map(|n| (n * 31 + n / 999) as u8).collect();
    bytes.extend_from_slice(end.as_bytes());
    bytes
}

/// The files of the store.
fn blobs(site: &Site) -> Vec<PathBuf> {
    blobs_in(&site.data())
}

/// The files of the store of a data directory.
fn blobs_in(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("blobs")).expect("a store");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// A request to the admin API; status and body.
fn http(site: &Site, request: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let (status, _, body) = ask(&site.data(), request, "", body);
    (status, body)
}

#[test]
fn large_arguments_reach_a_wasm_function_by_each_way_in() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("tail", TAIL, "memory = \"64MiB\"");
    let file = site.file("large", large("the very end 001"));
    assert_eq!(site.ok(&["call", "tail", "--file", &file]), "the very end 001");
    assert_eq!(blobs(&site).len(), 1);
    // The same bytes are the same blob.
    let mut submit = site.begin(&["call", "tail", "-"]);
    submit.write(&large("the very end 001"));
    assert_eq!(submit.finish().stdout(), "the very end 001");
    assert_eq!(blobs(&site).len(), 1);
    let bytes = large("over HTTP, 00002");
    let (status, body) = http(&site, "POST /v1/functions/default/tail/calls?wait=60000", &bytes);
    let state: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, state["output"].as_str()), (200, Some("over HTTP, 00002")), "{state}");
    let json = format!("[\"{}\", \"Lambda API\"]", "x".repeat(2 << 20));
    let (status, body) = http(&site, "POST /2015-03-31/functions/tail/invocations", json.as_bytes());
    assert_eq!((status, &*body), (200, &b"\", \"Lambda API\"]"[..]), "{}", String::from_utf8_lossy(&body));
    // Stored by hand, and given back.
    let (status, body) = http(&site, "PUT /v1/blobs", &bytes);
    let stored: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, stored["bytes"].as_u64()), (201, Some(LARGE as u64)));
    let (status, body) = http(&site, &format!("GET /v1/blobs/{}", stored["blob"].as_str().unwrap()), b"");
    assert!(status == 200 && body == bytes, "{status}, {} bytes", body.len());
    assert_eq!(http(&site, &format!("GET /v1/blobs/{}", "0".repeat(64)), b"").0, 404);
    assert_eq!(http(&site, "GET /v1/blobs/../catalog.json", b"").0, 404);
    // A function that has no room for them says so.
    site.deploy("small", TAIL, "memory = \"1MiB\"\n[retry]\nattempts = 1");
    let ran = site.run(&["call", "small", "--file", &file]);
    assert!(ran.code() == 1 && ran.stderr().contains("the memory for them 1048576"), "{ran}");
}

#[test]
fn large_arguments_reach_a_process() {
    if !runs_processes() {
        return;
    }
    let site = Site::new();
    let _up = site.up_whole(&["--cores", "1"]);
    let count = "#!/bin/sh\nwc -c\n";
    site.file("count/bundle/run", count);
    let manifest = "name = \"count\"\nruntime = \"process\"\nabi = \"stdio\"\nbundle = \"bundle\"\n\
                    command = [\"/bin/sh\", \"/var/task/run\"]";
    let manifest = site.file("count/function.toml", manifest);
    site.ok(&["deploy", &manifest]);
    let file = site.file("large", large("to a process 003"));
    assert_eq!(site.ok(&["call", "count", "--file", &file]).trim(), LARGE.to_string());
}

#[test]
fn a_node_that_is_killed_and_a_blob_that_decays_lose_no_call() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("tail", TAIL, "memory = \"64MiB\"");
    let file = site.file("large", large("after the kill 4"));
    let call = site.ok(&["submit", "tail", "--file", &file, "--in", "2s"]).trim().to_owned();
    // What an upload was doing when the node died, too.
    std::fs::write(site.data().join("blobs/.upload-9"), b"half").expect("a file");
    up.kill();
    until("the old processes to end", || {
        std::fs::remove_file(site.data().join("run/up.json")).err().map(drop)
    });
    let up = site.up(&["--cores", "1"]);
    let state = |call: &str| site.json(&["calls", "show", call, "--wait", "60s"]);
    let ended = state(&call);
    assert_eq!((ended["state"].as_str(), ended["status"].as_str()), (Some("done"), Some("ok")), "{ended}");
    let [blob] = &blobs(&site)[..] else { panic!("one blob: {:?}", blobs(&site)) };
    // A bit flips while a call waits.
    let call = site.ok(&["submit", "tail", "--file", &file, "--in", "2s"]).trim().to_owned();
    let mut bytes = std::fs::read(blob).expect("a blob");
    bytes[3 << 20] ^= 1;
    std::fs::write(blob, &bytes).expect("written");
    let ended = state(&call);
    assert_eq!(
        (ended["state"].as_str(), ended["status"].as_str()),
        (Some("dead"), Some("damaged")),
        "{ended}"
    );
    let place = blob.display().to_string();
    until("word of it", || (up.output().contains(&place) && up.output().contains(&call)).then_some(()));
    let name = blob.file_name().and_then(|name| name.to_str()).expect("a name");
    assert_eq!(http(&site, &format!("GET /v1/blobs/{name}"), b"").0, 500, "it is not served");
    // Stored again, it is whole, and the call runs.
    assert_eq!(http(&site, "PUT /v1/blobs", &large("after the kill 4")).0, 201);
    site.ok(&["calls", "retry", &call]);
    let ended = state(&call);
    assert_eq!((ended["state"].as_str(), ended["status"].as_str()), (Some("done"), Some("ok")), "{ended}");
}

#[test]
fn blobs_that_no_call_names_go_and_a_backup_has_the_others() {
    let site = Site::new();
    let up = |site: &Site| site.up(&["--cores", "1", "--blob-grace", "1s"]);
    let mut first = up(&site);
    site.deploy("tail", TAIL, "memory = \"64MiB\"");
    // Stored, and the node is killed before a call names it.
    assert_eq!(http(&site, "PUT /v1/blobs", &large("nobody names it.")).0, 201);
    first.kill();
    let _up = up(&site);
    let file = site.file("large", large("one that is kept"));
    let call = site.ok(&["submit", "tail", "--file", &file, "--in", "1h"]).trim().to_owned();
    assert_eq!(blobs(&site).len(), 2);
    // Until it is old enough.
    let tried = until("garbage", || {
        let tried = site.json(&["blobs", "collect", "--dry-run"]);
        (tried["count"] != 0).then_some(tried)
    });
    assert_eq!((tried["count"].as_u64(), tried["named"].as_u64()), (Some(1), Some(1)), "{tried}");
    assert_eq!(blobs(&site).len(), 2, "it was only tried");
    assert_eq!(site.json(&["blobs", "collect"])["blobs"], tried["blobs"]);
    let [kept] = &blobs(&site)[..] else { panic!("one blob: {:?}", blobs(&site)) };
    assert_eq!(site.json(&["status"])["blobs"], 1);
    let name = kept.file_name().expect("a name");
    // A copy has it, and a node that is made of the copy.
    let copy = site.folder().join("copy");
    site.ok(&["backup", copy.to_str().expect("a plain path")]);
    assert!(copy.join("blobs").join(name).is_file());
    let other = site.folder().join("other");
    let other_text = other.to_str().expect("a plain path");
    site.ok(&["restore", copy.to_str().expect("a plain path"), "--data-dir", other_text]);
    assert_eq!(std::fs::read(other.join("blobs").join(name)).expect("a blob"), large("one that is kept"));
    // The call is cancelled, and its blob goes.
    site.ok(&["calls", "cancel", &call]);
    until("the last one to go", || {
        site.json(&["blobs", "collect"]);
        blobs(&site).is_empty().then_some(())
    });
}

#[test]
fn a_large_call_with_a_key_reaches_the_shard_that_owns_it() {
    let site = Site::new();
    let up = site.up(&["--shards", "2", "--slots", "4", "--blob-grace", "1s"]);
    let data = [site.data(), site.data().join("shard-1")];
    site.deploy("tail", TAIL, "memory = \"64MiB\"");
    let submit = |shard: usize, key: &str, query: &str| {
        let request = format!("POST /v1/functions/default/tail/calls?{query}");
        let line = format!("idempotency-key: {key}\r\n");
        let (status, _, body) = ask(&data[shard], &request, &line, &large(&format!("keyed: {key:>9}")));
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    // Each of these keys makes an id, and half of the ids are the other shard's.
    for n in 0..6 {
        let key = format!("key-{n}");
        let (status, ended) = submit(n % 2, &key, "wait=60000");
        assert_eq!((status, ended["output"].as_str()), (200, Some(&*format!("keyed: {key:>9}"))), "{ended}");
    }
    // One that waits: the owner keeps its blob, and the copy at the other shard goes.
    let (status, first) = submit(0, "later", "at=1h");
    assert_eq!((status, first["verdict"].as_str()), (202, Some("accepted")), "{first}");
    let (status, again) = submit(1, "later", "at=1h");
    assert_eq!((status, again["verdict"].as_str()), (202, Some("duplicate")), "{again}");
    assert_eq!(first["call"], again["call"]);
    let left = || data.iter().map(|data| blobs_in(data).len()).sum::<usize>();
    until("all copies but the owner's to go", || {
        site.json(&["blobs", "collect"]);
        (left() == 1).then_some(())
    });
    site.json(&["blobs", "collect"]);
    assert_eq!(left(), 1, "a call names it");
    site.ok(&["calls", "cancel", first["call"].as_str().expect("an id")]);
    until("the last one to go", || {
        site.json(&["blobs", "collect"]);
        (left() == 0).then_some(())
    });
    drop(up);
}

/// Begins to upload a blob, and stops in the middle; when the store has some of it.
fn half_an_upload(site: &Site) -> TcpStream {
    let mut stream = TcpStream::connect(admin(&site.data())).expect("the admin API");
    let head = format!("PUT /v1/blobs HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(&vec![7; LARGE / 2]).expect("it reads");
    let has_some = |path: &PathBuf| path.metadata().is_ok_and(|file| file.len() > 1 << 20);
    until("half of it to be on disk", || blobs(site).iter().any(has_some).then_some(()));
    stream
}

#[test]
fn nothing_is_left_of_an_upload_that_ends_in_the_middle() {
    let site = Site::new();
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("tail", TAIL, "memory = \"64MiB\"");
    let file = site.file("large", large("while others go."));
    // Its client goes away; others go on meanwhile.
    let half = half_an_upload(&site);
    assert_eq!(site.ok(&["call", "tail", "--file", &file]), "while others go.");
    drop(half);
    until("the half to go", || (blobs(&site).len() == 1).then_some(()));
    // The node is killed.
    let _half = half_an_upload(&site);
    up.kill();
    until("the old processes to end", || {
        std::fs::remove_file(site.data().join("run/up.json")).err().map(drop)
    });
    let _up = site.up(&["--cores", "1"]);
    assert_eq!(blobs(&site).len(), 1, "{:?}", blobs(&site));
    assert_eq!(site.ok(&["call", "tail", "--file", &file]), "while others go.");
}

/// A disk of its own for the blobs, of this many bytes; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, bytes: usize) -> Option<SmallDisk> {
        let size = format!("size={bytes}");
        let at_text = at.to_str().expect("a plain path");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs", at_text];
        let is_there = Command::new("mount").args(mount).output().is_ok_and(|ran| ran.status.success());
        if !is_there {
            eprintln!("SKIPPED: a small disk needs root; a full disk of blobs was not tested");
        }
        is_there.then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that was killed may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_an_upload_is_told_and_nothing_is_left() {
    let site = Site::new();
    assert_eq!(site.control().stop(), 0, "it makes its directory");
    let Some(disk) = SmallDisk::mount(site.data().join("blobs"), 3 << 20) else { return };
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("tail", TAIL, "memory = \"64MiB\"");
    for request in ["PUT /v1/blobs", "POST /v1/functions/default/tail/calls"] {
        let (status, body) = http(&site, request, &large("too much for it."));
        let error: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, error["code"].as_str()), (503, Some("disk-failed")), "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("No space left")), "{error}");
        assert_eq!(blobs(&site).len(), 0, "nothing is left");
    }
    let ran = site.run(&["submit", "tail", "--file", &site.file("large", large("too much for it."))]);
    assert!(ran.code() != 0 && ran.stderr().contains("No space left"), "{ran}");
    // Others go on: small calls, and large ones that fit.
    assert_eq!(site.ok(&["call", "tail", "--data", "a call of 16 byt"]), "a call of 16 byt");
    let fits = &large("this one has it.")[LARGE - (1 << 20)..];
    assert_eq!(site.ok(&["call", "tail", "--file", &site.file("fits", fits)]), "this one has it.");
    assert_eq!(blobs(&site).len(), 1);
    assert_eq!(up.stop(), 0, "{}", up.output());
    drop(disk);
}
