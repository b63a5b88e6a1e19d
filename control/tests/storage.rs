//! What happens to calls when their disk decays or is full: real ring, real files, a real file system without a free
//! block.

mod peer;

use call::admin::{Answer, Ask, CallState};
use call::frame::{Frame, Kind};
use call::limits::Limits;
use call::{CallId, FunctionId, Status, VerdictCode, WallTime};
use control::salvage::write_report;
use control::{Booting, LogError, Node, NodeOptions, Recover};
use driver::uring::{Options, Uring};
use driver::{Arrivals, Driver};
use peer::Peer;
use peer::node::{Running, directory, function};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn echo() -> FunctionId {
    FunctionId::of("default", "echo")
}

fn state(node: &Running, call: CallId, wait_ms: u64) -> CallState {
    match node.admin().ask(&Ask::Call { call: call.to_string(), wait_ms }) {
        Answer::Call(state) => state,
        other => panic!("{other:?}"),
    }
}

/// Flips a bit of bytes that stand in one of the log's segments.
fn rot(log: &Path, bytes: &[u8]) {
    for entry in std::fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        if let Some(at) = content.windows(bytes.len()).position(|window| window == bytes) {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[0] ^ 4], at as u64).unwrap();
            file.sync_all().unwrap();
            return;
        }
    }
    panic!("the bytes are in no segment");
}

#[test]
fn a_call_whose_record_decays_on_disk_is_told_and_not_run() {
    let directory = directory();
    let node = Running::start(directory.path(), Limits::small(), vec![function("echo")]);
    let mut client = node.client();
    let payload: Vec<u8> = (0..=255).collect();
    client.submit(1, echo(), &payload, true);
    client.verdicts(1);
    let (_host, mut core) = node.ready_core(4, 1);
    for _ in 0..2 {
        let lease = core.expect(Kind::Lease);
        core.end(&lease, Status::Trap, b"");
    }
    // Dead letters wait on disk: its client hears of its end when that is there, and no copy is left in memory. Whoever
    // asks for its state then has the frame read back, so that it would run.
    assert_eq!(Frame::parse(&client.expect(Kind::Outcome)).unwrap().0.status(), Ok(Status::Trap));
    rot(&directory.path().join("log"), &payload);
    let only = Ask::Redrive { call: CallId(1).to_string() };
    assert_eq!(node.admin().ask(&only), Answer::Done { count: 1 });
    let state = state(&node, CallId(1), 20_000);
    assert_eq!((state.state.as_str(), state.status), ("dead", Some(Status::Damaged)));
    assert!(state.reason.contains("damaged"), "{}", state.reason);
    assert_eq!(Frame::parse(&client.expect(Kind::Outcome)).unwrap().0.status(), Ok(Status::Damaged));
    core.expect_no(Kind::Lease, Duration::from_millis(50));
    // The others go on.
    client.submit(2, echo(), &payload, false);
    assert_eq!(client.verdicts(1), [(CallId(2), VerdictCode::Accepted)]);
    let lease = core.expect(Kind::Lease);
    assert_eq!(Frame::parse(&lease).unwrap().0.call(), CallId(2));
}

/// A node on what is in a directory, its log read so.
fn boot(directory: &Path, recover: Recover) -> Result<Node<Uring>, LogError> {
    let limits = Limits::small();
    let driver = Uring::new(Options {
        data_dir: Some(directory.join("log")),
        blocks: durableq::block_count(&limits),
        block_bytes: limits.group_bytes,
        spin: Duration::ZERO,
        ..Options::default()
    });
    let options = NodeOptions { recover, ..NodeOptions::default() };
    Booting::new(limits, options, driver.unwrap(), vec![function("echo")])?.run(&mut Arrivals::new())
}

#[test]
fn a_damaged_log_is_refused_and_salvaged_when_an_operator_says_so() {
    let directory = directory();
    let payload = |n: u128| (0..200u8).map(|byte| byte ^ n as u8).collect::<Vec<u8>>();
    let node = Running::start(directory.path(), Limits::small(), vec![function("echo")]);
    let mut client = node.client();
    for n in 1..=20 {
        client.submit(n, echo(), &payload(n), false);
        assert_eq!(client.verdicts(1), [(CallId(n), VerdictCode::Accepted)]);
    }
    node.kill();
    rot(&directory.path().join("log"), &payload(3));
    let refused = boot(directory.path(), Recover::Strict).err().expect("strict").to_string();
    assert!(refused.contains("is damaged") && refused.contains("--recover salvage"), "{refused}");
    let mut node = boot(directory.path(), Recover::Salvage).unwrap();
    assert_eq!(node.status().recovered, 19);
    let report =
        write_report(directory.path(), node.salvaged(), WallTime(5_000_000)).unwrap().expect("a loss");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let records = &report["breaks"][0]["records"];
    assert_eq!(records.as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(records[0]["call"], CallId(3).to_string(), "{report}");
    assert_eq!(records[0]["kind"], "submit", "{report}");
    // Until the log is written anew, a strict start refuses it; from then on it is sound.
    let (mut arrivals, mut notes) = (Arrivals::new(), Vec::new());
    while !node.salvaged().is_empty() {
        let until = node.turn(&arrivals);
        notes.extend(node.notes());
        let soon = node.driver().now() + Duration::from_millis(10);
        node.driver().reap(until.min(soon), &mut arrivals);
    }
    node.check();
    assert!(notes.iter().any(|line| line.contains("written anew")), "{notes:?}");
    drop(node);
    assert_eq!(boot(directory.path(), Recover::Strict).unwrap().status().recovered, 19);
}

/// A file system of its own in a file, until it is dropped.
struct Volume {
    at: PathBuf,
}

impl Volume {
    /// `None`, said loudly, where this process may not mount.
    fn mount(directory: &Path, bytes: u64) -> Option<Volume> {
        let (image, at) = (directory.join("image"), directory.join("volume"));
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(&at).unwrap();
        let ran = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = ran(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-b", "4096"]).arg(&image))
            && ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        if !made {
            eprintln!("SKIPPED: a full disk needs mkfs.ext4, a loop device and the right to mount (root)");
            return None;
        }
        Some(Volume { at })
    }

    /// Takes every block that is left.
    fn fill(&self) {
        let file = std::fs::File::create(self.at.join("filler")).unwrap();
        let mut offset = 0;
        for bytes in [1 << 20, 64 << 10, 4096] {
            let zeros = vec![1; bytes];
            // A part may be written before the disk is full.
            while let Ok(written @ 1..) = file.write_at(&zeros, offset) {
                offset += written as u64;
            }
        }
        // Nobody is out of room yet: blocks are given at this time.
        let _ = file.sync_all();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Submits until a verdict is this one; the calls that were accepted meanwhile.
fn submit_until(client: &mut Peer, code: VerdictCode, next: &mut u128) -> Vec<CallId> {
    let mut accepted = Vec::new();
    for _ in 0..400 {
        client.submit(*next, echo(), &[5; 12_000], true);
        *next += 1;
        let (call, heard) = client.verdicts(1)[0];
        if heard == VerdictCode::Accepted {
            accepted.push(call);
        }
        if heard == code {
            return accepted;
        }
        if heard != VerdictCode::Accepted {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    panic!("{code:?} was never heard");
}

#[test]
fn a_disk_without_a_free_block_refuses_calls_and_serves_those_that_it_has() {
    let directory = directory();
    let Some(volume) = Volume::mount(directory.path(), 24 << 20) else { return };
    let at = volume.at.join("node");
    std::fs::create_dir(&at).unwrap();
    let node =
        Running::start(&at, Limits { pending_bytes_max: 8 << 20, ..Limits::small() }, vec![function("echo")]);
    let mut client = node.client();
    let mut next = 1;
    let mut accepted = submit_until(&mut client, VerdictCode::Accepted, &mut next);
    volume.fill();
    accepted.extend(submit_until(&mut client, VerdictCode::DiskFailed, &mut next));
    assert!(accepted.len() > 10, "a segment's worth at least: {}", accepted.len());
    // All of them run, and their ends are on disk: else nobody would hear of an outcome.
    let (_host, mut core) = node.ready_core(4, 1);
    for n in 0..accepted.len() {
        let lease = core.expect(Kind::Lease);
        core.end(&lease, Status::Ok, b"done");
        core.grant(5 + n as u64);
        client.expect(Kind::Outcome);
    }
    // There is room again.
    std::fs::remove_file(volume.at.join("filler")).unwrap();
    submit_until(&mut client, VerdictCode::Accepted, &mut next);
    node.kill();
    let node =
        Running::start(&at, Limits { pending_bytes_max: 8 << 20, ..Limits::small() }, vec![function("echo")]);
    let (_host, mut core) = node.ready_core(4, 1);
    let lease = core.expect(Kind::Lease);
    let again = Frame::parse(&lease).unwrap().0.call();
    assert!(!accepted.contains(&again), "{again} had ended");
}
