//! What people and machines get wrong: each gets an error with place and remedy and the documented exit code, and nothing
//! that was accepted is lost.

use libc::{c_long, sock_filter, sock_fprog};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tests::harness::{ECHO, Ran, Running, Site, until};

/// The platform's start in a given data directory, on free ports; it is not expected to succeed.
fn up(data: &Path) -> Vec<String> {
    let data = data.to_str().expect("a plain path");
    ["up", "--data-dir", data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        .map(str::to_owned)
        .to_vec()
}

fn run_up(site: &Site, data: &Path, more: &[&str]) -> Ran {
    let start = up(data);
    site.run(&[start.iter().map(String::as_str).collect(), more.to_vec()].concat())
}

/// Whether this test may do what only root may. In CI as root nothing may be skipped.
fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: {what} needs root, and this runs as another user");
    }
    is_root
}

/// A file system in memory of its own size, mounted below a site; taken away when dropped.
struct SmallDisk {
    at: std::path::PathBuf,
}

impl SmallDisk {
    fn mount(site: &Site, mib: u32) -> Option<SmallDisk> {
        let at = site.folder().join("small");
        std::fs::create_dir(&at).expect("a folder");
        let size = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&at).status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(SmallDisk { at });
        }
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "root in CI cannot mount a tmpfs");
        eprintln!("SKIPPED: a full disk: root may not mount a tmpfs here");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn packages_that_cannot_be_deployed() {
    let site = Site::new();
    let wasm = wat::parse_str(ECHO).expect("wasm");
    let path = site.file("f/function.toml", "name = \"f\"\nartefact = \"f.wasm\"\ntimeot = \"1s\"\n");
    site.run(&["deploy", &path]).fails(6, &["function.toml:3:1", "timeot", "`timeout`"]);
    let path = site.file("f/function.toml", "name = \"f\"\nartefact = \"f.wasm\"\n[retry]\nattempt = 1\n");
    site.run(&["deploy", &path]).fails(6, &["function.toml:4:1", "`retry.attempts`"]);
    let path = site.file("f/function.toml", "name = \"f\"\nartefact = \"f.wasm\"\ntimeout = \"never\"\n");
    site.run(&["deploy", &path]).fails(6, &["function.toml:3:11"]);
    let path = site.file("f/function.toml", "name = \"f\"\nartefact = \"f.wasm\"\n");
    site.run(&["deploy", &path]).fails(3, &["f.wasm", "cargo build"]);
    site.run(&["deploy", "nowhere"]).fails(3, &["nowhere"]);
    site.file("f/f.wasm", b"\x7fELF and so on");
    site.run(&["deploy", &path]).fails(6, &["f.wasm", "not a wasm file"]);
    let foreign =
        r#"(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
    site.file("f/f.wasm", wat::parse_str(foreign).expect("wasm"));
    site.run(&["deploy", &path]).fails(6, &["f.wasm", "env.magic"]);
    site.file("f/f.wasm", &wasm[..wasm.len() - 3]);
    site.run(&["deploy", &path]).fails(6, &["f.wasm"]);
}

#[test]
fn two_gigabytes_of_arguments_are_refused_by_their_size() {
    let site = Site::new();
    let file = site.file("big.bin", "");
    File::options().write(true).open(&file).and_then(|file| file.set_len(2 << 30)).expect("a sparse file");
    for arguments in
        [["submit", "f", "--file", &file], ["call", "f", "--file", &file], ["submit", "f", "--ndjson", &file]]
    {
        let mut command = site.command(&arguments);
        // SAFETY: between fork and exec; setrlimit is async-signal-safe and touches only the child.
        unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30)?)) };
        let ran = Running::start(command).finish();
        assert!(matches!(ran.code(), 4 | 6) && ran.stderr().contains("hint: "), "{ran}");
        if arguments[2] == "--file" {
            ran.fails(6, &["2147483648 bytes", "big.bin", "268435456", "reference"]);
        }
    }
}

#[test]
fn a_batch_stops_at_what_is_wrong_and_goes_on_from_there() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let good: String = (1..=6).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let file = site.file("calls.ndjson", format!("{good}{{\"n\": seven}}\n{{\"n\": 8}}\n"));
    let ran = site.run(&["submit", "echo", "--ndjson", &file, "-o", "json"]);
    ran.fails(6, &["calls.ndjson:7:7", "6 calls were accepted", "--from-line 7"]);
    assert_eq!(ran.json()["accepted"], 6);
    assert_eq!(site.json(&["status"])["accepted"], 6);
    // Mended, and resumed with the command that it printed.
    site.file("calls.ndjson", format!("{good}{{\"n\": 7}}\n{{\"n\": 8}}\n"));
    let stderr = ran.stderr();
    let (_, again) = stderr.split_once("go on with: millrace ").expect("the command");
    let again: Vec<&str> = again.split_whitespace().collect();
    let tally = site.json(&again);
    assert_eq!((&tally["accepted"], &tally["duplicates"]), (&2.into(), &0.into()));
    let from_the_start = ["submit", "echo", "--ndjson", &file, "--batch", again[5]];
    let tally = site.json(&from_the_start);
    assert_eq!((&tally["accepted"], &tally["duplicates"]), (&8.into(), &8.into()), "nothing is queued twice");
    // A line larger than a call may be: 2 GiB of blanks and no line feed.
    let large = site.file("large.ndjson", "1\n");
    File::options().write(true).open(&large).and_then(|file| file.set_len(2 << 30)).expect("a sparse file");
    site.run(&["submit", "echo", "--ndjson", &large]).fails(6, &["large.ndjson:2", "--from-line 2"]);
    let csv = site.file("x.csv", "a,b\n1,2\n1,2,3\n");
    site.run(&["submit", "echo", "--csv", &csv]).fails(6, &["x.csv:3:1", "1 calls were accepted"]);
    site.run(&["submit", "none", "--ndjson", &file]).fails(3, &["none", "millrace deploy"]);
}

#[test]
fn times_that_cannot_be_meant() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    site.run(&["submit", "echo", "--at", "2020-01-01T00:00:00Z"])
        .fails(6, &["in the past: --at", "start now"]);
    site.run(&["submit", "echo", "--in", "1year"]).fails(6, &["7days", "--in"]);
    site.run(&["call", "echo", "--at", "2090-01-01T00:00:00Z"]).fails(6, &["ahead", "--at"]);
    site.run(&["call", "echo", "--in", "1s", "--deadline", "0s"]).fails(6, &["--deadline"]);
    assert_eq!(site.json(&["status"])["accepted"], 0);
}

#[test]
fn wrong_ports_and_ports_in_use() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    let file = site.up_json();
    let address = |key: &str| file[key].as_str().expect("an address").to_owned();
    let (tcp, admin) = (address("tcp"), address("admin"));
    let (tcp_at, admin_at) = (tcp.trim_start_matches("tcp:"), admin.trim_start_matches("http://"));
    let crossed = format!("tcp:{admin_at}");
    site.run(&["call", "f", "--endpoint", &crossed]).fails(4, &["submit protocol", "millrace up"]);
    site.run(&["status", "--admin", &format!("http://{tcp_at}")]).fails(4, &[tcp_at]);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
    site.run(&["call", "f", "--endpoint", &format!("tcp:{free}")]).fails(4, &[&free, "millrace up"]);
    site.run(&["status", "--admin", &format!("http://{free}")]).fails(4, &[&free, "millrace up"]);
    let other = site.folder().join("other");
    let port = tcp_at.rsplit(':').next().expect("a port");
    let start = |listen: &str, at: &str| {
        site.run(&["up", "--data-dir", other.to_str().expect("plain"), "--listen", listen, "--admin", at])
    };
    let ran = start(tcp_at, "127.0.0.1:0");
    ran.fails(8, &[&format!("port {port} is in use"), "--tcp", "ss -ltnp"]);
    assert_eq!(ran.stderr().matches("cannot listen").count(), 1, "said once: {ran}");
    start("127.0.0.1:0", admin_at).fails(8, &[admin_at, "--admin"]);
    assert!(site.status().is_some(), "the one that runs is not disturbed");
}

#[test]
fn data_directories_that_cannot_be_used() {
    let site = Site::new();
    let up = site.up(&["--cores", "1"]);
    let pid = site.up_json()["control"].to_string();
    run_up(&site, &site.data(), &[]).fails(8, &[&format!("in use by process {pid}"), "--data"]);
    assert!(site.status().is_some(), "the one that runs is not disturbed: {}", up.output());
    site.file("old/VERSION", "millrace 9\n");
    run_up(&site, &site.folder().join("old"), &[]).fails(6, &["`millrace 9`", "`millrace 3`", "old"]);
    site.file("thesis/chapter", "mine");
    run_up(&site, &site.folder().join("thesis"), &[]).fails(8, &["not a millrace data directory", "thesis"]);
    assert!(!site.folder().join("thesis/VERSION").exists(), "somebody else's directory is left as it was");
}

#[test]
fn more_cores_than_there_are() {
    let site = Site::new();
    run_up(&site, &site.data(), &["--cores", "5000"])
        .fails(8, &["5000 cores were asked for", "--cores", "fewer"]);
    assert!(!site.data().exists(), "nothing was begun");
}

/// Lets the kernel answer `io_uring_setup` with EPERM, as a container's seccomp profile does.
fn forbid_io_uring() -> io::Result<()> {
    const NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let step = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    const ON: c_long = 1;
    const NONE: c_long = 0;
    // SAFETY: both calls change only the calling process; the program lives until they return.
    let results = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, ON, NONE, NONE, NONE),
            libc::prctl(libc::PR_SET_SECCOMP, c_long::from(libc::SECCOMP_MODE_FILTER), &raw const program),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn io_uring_forbidden() {
    let site = Site::new();
    let start = up(&site.data());
    for arguments in [start.iter().map(String::as_str).collect(), vec!["doctor"]] {
        let mut command = site.command(&arguments);
        // SAFETY: between fork and exec; the closure allocates nothing and makes two system calls.
        unsafe { command.pre_exec(forbid_io_uring) };
        let ran = Running::start(command).finish();
        if arguments[0] == "up" {
            ran.fails(8, &["io_uring", "seccomp", "io_uring_setup"]);
        } else {
            assert_eq!(ran.code(), 1, "{ran}");
            assert!(ran.stdout().contains("missing") && ran.stdout().contains("seccomp"), "{ran}");
        }
    }
}

#[test]
fn too_little_memory_to_lock() {
    let site = Site::new();
    // glommio's own need: root is not excepted.
    let limited = |bytes: u64, uid: Option<u32>, data: &Path| {
        let start = up(data);
        let mut command = site.command(&start.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        // SAFETY: between fork and exec; setrlimit is async-signal-safe and touches only the child.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes)?)) };
        Running::start(command).finish()
    };
    limited(64 << 10, None, &site.data()).fails(8, &["cannot lock", "64 KiB", "ulimit -l"]);
    // The log's buffers: root is excepted by the kernel.
    if !is_root("a memlock limit that is too small for the log's buffers") {
        return;
    }
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().expect("a folder anybody can reach");
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
    limited(1 << 20, Some(NOBODY), &folder.path().join("data"))
        .fails(8, &["cannot lock", "1024 KiB", "ulimit -l"]);
}

#[test]
fn no_room_for_the_log() {
    let site = Site::new();
    if !is_root("a full disk") {
        return;
    }
    let Some(disk) = SmallDisk::mount(&site, 60) else { return };
    run_up(&site, &disk.at.join("data"), &[]).fails(8, &["MiB are free", "needs", "--data"]);
    assert!(!disk.at.join("data/log/0000000000.seg").exists());
}

#[test]
fn a_disk_that_fills_up_while_calls_come_in() {
    let site = Site::new();
    if !is_root("a disk that fills up") {
        return;
    }
    let Some(disk) = SmallDisk::mount(&site, 512) else { return };
    std::os::unix::fs::symlink(disk.at.join("data"), site.data()).expect("a link");
    std::fs::create_dir(disk.at.join("data")).expect("a folder");
    let mut up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    // Everything that the log has not taken yet is gone.
    let filler = disk.at.join("filler");
    let filled =
        Command::new("dd").arg("if=/dev/zero").arg(format!("of={}", filler.display())).arg("bs=1M").output();
    assert!(filled.is_ok_and(|output| !output.status.success()), "dd ends when the disk is full");
    let line = format!("\"{}\"\n", "x".repeat(200_000));
    let file = site.file("large.ndjson", line.repeat(1000));
    let ran =
        site.run(&["submit", "echo", "--in", "1h", "--ndjson", &file, "--patience", "2s", "-o", "json"]);
    ran.fails(5, &["large.ndjson", "log", "go on with"]);
    let accepted = ran.json()["accepted"].as_u64().expect("a count");
    assert!(accepted > 0 && accepted < 1000, "{ran}");
    assert_eq!(site.json(&["queue", "list"])[0]["scheduled"], accepted);
    // With room again it goes on, by itself.
    std::fs::remove_file(filler).expect("removed");
    until("the node to accept again", || {
        (site.run(&["submit", "echo", "--in", "1h"]).code() == 0).then_some(())
    });
    assert_eq!(up.stop(), 0, "{}", up.output());
    let _up = site.up(&["--cores", "1"]);
    assert_eq!(site.json(&["queue", "list"])[0]["scheduled"], accepted + 1, "what was accepted is there");
}

#[test]
fn ctrl_c_in_the_middle_of_a_batch() {
    let site = Site::new();
    let _up = site.up(&["--cores", "1"]);
    site.deploy("echo", ECHO, "");
    let lines = |from: usize, to: usize| (from..=to).map(|n| format!("{{\"n\": {n}}}\n")).collect::<String>();
    let mut batch = site.begin(&["submit", "echo", "--ndjson", "-", "-o", "json"]);
    batch.write(lines(1, 2000).as_bytes());
    until("the batch to begin", || (site.status()?["accepted"].as_u64()? > 0).then_some(()));
    batch.signal(Signal::SIGINT);
    until("the signal to be seen", || {
        // It may have gone already: then there is nobody to read.
        batch.try_write(b"0\n").is_err().then_some(())
    });
    let ran = batch.finish();
    ran.fails(130, &["interrupted", "calls were accepted and are safe", "--from-line"]);
    let accepted = ran.json()["accepted"].as_u64().expect("a count");
    assert_eq!(
        site.json(&["status"])["accepted"].as_u64(),
        Some(accepted),
        "what it says is what the node has"
    );
    let stderr = ran.stderr();
    let next: u64 = stderr.rsplit(' ').next().and_then(|line| line.trim().parse().ok()).expect("a line");
    assert_eq!(next, accepted + 1, "it says where to go on: {ran}");
    // Waiting for outcomes can be left too; the call goes on.
    let wait =
        site.begin(&["submit", "echo", "--ndjson", &site.file("one.ndjson", "1\n"), "--in", "1h", "--wait"]);
    until("it to be accepted", || (site.status()?["accepted"].as_u64()? == accepted + 1).then_some(()));
    wait.signal(Signal::SIGINT);
    wait.finish().fails(130, &["interrupted", "1 calls were accepted"]);
    assert_eq!(site.json(&["queue", "list"])[0]["scheduled"], 1);
}
