//! The command line without a node: help, completions, manual pages, exit codes, and what is said about bad input.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the program in an empty directory, with this text on stdin.
fn millrace_in(directory: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("MILLRACE_DATA")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its stdin may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn millrace(arguments: &[&str]) -> Output {
    millrace_in(tempfile::tempdir().unwrap().path(), arguments, "")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit code, and the error in its one shape: what and where on the first line, the remedy on the second.
fn failed(output: &Output) -> (i32, String, String) {
    let text = err(output);
    let (first, second) =
        text.trim_end().rsplit_once("\nhint: ").unwrap_or_else(|| panic!("no hint in: {text}"));
    let first = first.lines().last().unwrap();
    assert!(first.starts_with("millrace: ") && first.matches(": ").count() >= 2, "{text}");
    assert!(!second.is_empty(), "{text}");
    (output.status.code().unwrap(), first.to_owned(), second.to_owned())
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Every command that a person can type, nested ones with their parent.
const COMMANDS: &[&str] = &[
    "up",
    "control",
    "worker",
    "core",
    "init",
    "deploy",
    "function list",
    "function show",
    "function delete",
    "submit",
    "call",
    "calls show",
    "queue list",
    "queue peek",
    "dlq list",
    "dlq show",
    "dlq purge",
    "calls list",
    "calls cancel",
    "calls retry",
    "queue show",
    "queue pause",
    "queue resume",
    "queue drain",
    "log dump",
    "backup",
    "restore",
    "dlq redrive",
    "logs",
    "usage",
    "workers",
    "status",
    "doctor",
    "load",
    "replay",
    "simulate",
    "completions",
    "man",
];

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        let output = millrace(&arguments);
        let text = out(&output);
        assert!(output.status.success(), "{command}: {}", err(&output));
        assert!(text.contains("Examples:\n  "), "{command} has no examples:\n{text}");
        assert!(
            text.contains(&format!("millrace {}", command.split(' ').next().unwrap())),
            "{command}:\n{text}"
        );
    }
}

#[test]
fn the_exit_codes_are_in_the_help_and_in_the_readme() {
    let help = out(&millrace(&["--help"]));
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for exit in millrace::exit::Exit::ALL {
        assert!(
            help.contains(&format!("{:>3}  {}", exit as u8, exit.meaning().split(" ").next().unwrap())),
            "{exit:?} in:\n{help}"
        );
        assert!(
            readme.contains(&format!("| {} | {} |", exit as u8, exit.meaning())),
            "{exit:?} in the README"
        );
    }
    let all = [
        millrace(&[]),
        millrace(&["nonsense"]),
        millrace(&["submit"]),
        millrace(&["load", "f", "--rate", "-1"]),
    ];
    assert!(all.iter().all(|output| output.status.code() == Some(2)), "usage errors are 2");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = out(&millrace(&["completions", shell]));
        assert!(
            COMMANDS.iter().all(|c| c.starts_with("core") || text.contains(c.split(' ').next().unwrap())),
            "{shell}"
        );
    }
    assert!(out(&millrace(&["man"])).contains(".TH millrace 1"));
    let directory = tempfile::tempdir().unwrap();
    assert!(millrace_in(directory.path(), &["man", "pages"], "").status.success());
    for page in ["millrace.1", "millrace-submit.1", "millrace-dlq-redrive.1"] {
        assert!(directory.path().join("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn nobody_to_connect_to_is_4_and_says_how_to_start_one() {
    let port = free_port();
    let endpoint = format!("--endpoint=tcp:127.0.0.1:{port}");
    let admin = format!("--admin=http://127.0.0.1:{port}");
    let native: [&[&str]; 3] = [&["submit", "f"], &["call", "f"], &["load", "f", "--rate", "10"]];
    let http: [&[&str]; 5] =
        [&["function", "list"], &["queue", "list"], &["dlq", "list"], &["workers"], &["status"]];
    let lines = native.iter().map(|line| (line, &endpoint)).chain(http.iter().map(|line| (line, &admin)));
    for (line, option) in lines {
        let output = millrace(&[*line, &[option]].concat());
        let (code, what, hint) = failed(&output);
        assert_eq!(code, 4, "{line:?}: {what}");
        assert!(
            what.contains(&port.to_string()) && hint.contains("millrace up"),
            "{line:?}: {what} / {hint}"
        );
        assert!(out(&output).is_empty(), "errors go to stderr");
    }
}

#[test]
fn another_protocol_on_the_port_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream
                .unwrap()
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nx: aaaaaaaaaaaaaaaa\r\n\r\n");
        }
    });
    let (code, what, _) = failed(&millrace(&["submit", "f", "--endpoint", &format!("tcp:{address}")]));
    assert!(code == 4 && what.contains("is this the right port?"), "{code} {what}");
    let (code, _, hint) = failed(&millrace(&["status", "--admin", &format!("http://{address}")]));
    assert!(code == 4 && hint.contains("not the admin API"), "{code} {hint}");
}

#[test]
fn times_that_cannot_be_meant_are_6_with_the_option() {
    let lines: [(&[&str], &str); 5] = [
        (&["--at", "2020-01-01T00:00:00Z"], "in the past: --at"),
        (&["--at", "2090-01-01T00:00:00Z"], "ahead"),
        (&["--in", "1year"], "ahead, at most 7days are allowed: --in"),
        (&["--at", "tomorrow"], "`tomorrow` is no time: --at"),
        (&["--deadline", "2020-01-01T00:00:00Z"], "--deadline"),
    ];
    for (options, told) in lines {
        let (code, what, _) = failed(&millrace(&[&["submit", "f"], options].concat()));
        assert!(code == 6 && what.contains(told), "{options:?}: {code} {what}");
    }
    let output = millrace(&["submit", "f", "--in", "soon"]);
    assert!(output.status.code() == Some(2) && err(&output).contains("--in"), "{}", err(&output));
}

#[test]
fn arguments_that_are_too_large_or_missing_are_told_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::File::create(directory.path().join("big.bin")).unwrap().set_len(2 << 30).unwrap();
    let (code, what, hint) =
        failed(&millrace_in(directory.path(), &["submit", "f", "--file", "big.bin"], ""));
    assert!(code == 6 && what.contains("2147483648 bytes") && what.ends_with("big.bin"), "{code} {what}");
    assert!(hint.contains("reference"), "{hint}");
    let (code, what, _) = failed(&millrace(&["call", "f", "--file", "none.json"]));
    assert!(code == 3 && what.ends_with("none.json"), "{code} {what}");
    let (code, what, _) = failed(&millrace(&["submit", "f", "--ndjson", "none.ndjson"]));
    assert!(code == 3 && what.ends_with("none.ndjson"), "{code} {what}");
    let (code, what, _) = failed(&millrace_in(directory.path(), &["submit", "f", "--csv", "-"], ""));
    assert!(code == 6 && what.contains("there is no header: -:1:1"), "{code} {what}");
}

#[test]
fn bad_packages_are_told_with_place_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(directory.path().join(name), text).unwrap();
    let deploy = |path: &str| failed(&millrace_in(directory.path(), &["deploy", path], ""));
    let (code, what, _) = deploy("nowhere");
    assert!(code == 3 && what.ends_with("nowhere"), "{code} {what}");
    let (code, what, _) = deploy(".");
    assert!(code == 3 && what.ends_with("function.toml"), "{code} {what}");
    write("function.toml", b"name = \"f\"\nartefact = \"f.wasm\"\nmemry = \"1MiB\"\n");
    let (code, what, hint) = deploy(".");
    assert!(code == 6 && what.contains("function.toml:3:1"), "{code} {what}");
    assert!(format!("{what}{hint}").contains("`memory`"), "the nearest key is named: {what} {hint}");
    write("function.toml", b"name = \"f\"\nartefact = \"f.wasm\"\n");
    let (code, what, hint) = deploy(".");
    assert!(code == 3 && what.ends_with("f.wasm") && hint.contains("cargo build"), "{code} {what} {hint}");
    write("f.wasm", b"#!/bin/sh\n");
    let (code, what, _) = deploy(".");
    assert!(code == 6 && what.contains("not a wasm file"), "{code} {what}");
    let module =
        r#"(module (import "env" "magic" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
    write("f.wasm", &wat::parse_str(module).unwrap());
    let (code, what, _) = deploy("f.wasm");
    assert!(code == 6 && what.contains("env.magic"), "{code} {what}");
}

#[test]
fn wrong_words_on_the_line_are_2() {
    for line in [
        &["submit", "a/b/c"][..],
        &["submit", "f", "--endpoint", "udp:x"],
        &["status", "--admin", "localhost"],
        &["calls", "show", "xyz"],
        &["dlq", "redrive"],
        &["submit", "f", "--data", "x", "--file", "y"],
        &["submit", "f", "--from-line", "7"],
        &["replay", "x", "--function", "f", "--compress", "0"],
        &["init", "7up"],
        &["worker", "--cpus", "x"],
    ] {
        let output = millrace(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}: {}", err(&output));
        assert!(!err(&output).is_empty(), "{line:?} says nothing");
    }
}

#[test]
fn what_this_machine_cannot_do_is_8() {
    let (code, what, hint) = failed(&millrace(&["up", "--cores", "5000"]));
    assert!(
        code == 8 && what.contains("5000 cores were asked for") && hint.contains("fewer"),
        "{code} {what} {hint}"
    );
    let (code, what, _) = failed(&millrace(&["worker", "--cpus", "4000"]));
    assert!(code == 8 && what.contains("CPU 4000"), "{code} {what}");
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let control = |data: &str, listen: &str| {
        let line = ["control", "--data-dir", data, "--listen", listen, "--admin", "127.0.0.1:0"];
        failed(&millrace_in(directory.path(), &line, ""))
    };
    std::fs::create_dir(directory.path().join("other")).unwrap();
    std::fs::write(directory.path().join("other/VERSION"), "millrace 9\n").unwrap();
    let (code, what, _) = control("other", "127.0.0.1:0");
    assert!(code == 6 && what.contains("`millrace 9`"), "{code} {what}");
    std::fs::create_dir(directory.path().join("thesis")).unwrap();
    std::fs::write(directory.path().join("thesis/chapter1"), "x").unwrap();
    let (code, what, _) = control("thesis", "127.0.0.1:0");
    assert!(code == 8 && what.contains("not a millrace data directory"), "{code} {what}");
    std::fs::write(directory.path().join("file"), "x").unwrap();
    let (code, what, _) = control("file", "127.0.0.1:0");
    assert!(code == 8 && what.contains("file"), "{code} {what}");
}

#[test]
fn traces_are_read_and_wrong_ones_told() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let trace = millrace::trace::Trace::read(&data.join("azure2019"), 1).unwrap();
    let counted: u64 = trace.functions.iter().map(|function| function.calls).sum();
    assert_eq!((trace.functions.len(), trace.arrivals.len() as u64), (3, counted));
    assert_eq!(trace.span.as_secs(), 8 * 3600);
    assert!(trace.arrivals.iter().all(|arrival| arrival.run_us > 0 && arrival.memory_kib > 0));
    assert!(trace.arrivals.is_sorted_by_key(|arrival| arrival.at_us));
    let trace = millrace::trace::Trace::read(&data.join("azure2021.csv"), 1).unwrap();
    assert_eq!(trace.arrivals.len(), 10);
    let replay = |path: &str| failed(&millrace_in(&data, &["replay", path, "--function", "f"], ""));
    let (code, what, _) = replay("azure2019/memory.csv");
    assert!(code == 6 && what.contains("memory.csv:1:1") && what.contains("no column"), "{code} {what}");
    let (code, what, _) = replay("none.csv");
    assert!(code == 3 && what.ends_with("none.csv"), "{code} {what}");
}

#[test]
fn the_whole_sample_is_the_567403_calls_it_is_said_to_be() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/azure2019-250");
    let trace = millrace::trace::Trace::read(&sample, 7).unwrap();
    assert_eq!((trace.functions.len(), trace.arrivals.len()), (250, 567_403));
    // The mean run time per call is drawn from percentiles and must come near the published average.
    let mean_s = trace.run_total().as_secs_f64() / 567_403.0;
    assert!((0.4..1.1).contains(&mean_s), "{mean_s}");
}

#[test]
fn a_new_function_can_be_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let init = |template: &str| millrace_in(directory.path(), &["init", "hello", "--template", template], "");
    assert!(init("command").status.success());
    for file in ["function.toml", "Cargo.toml", "src/main.rs"] {
        assert!(directory.path().join("hello").join(file).is_file(), "{file}");
    }
    let (code, what, _) = failed(&init("fast"));
    assert!(code == 8 && what.contains("not empty: hello"), "{code} {what}");
}

#[test]
fn a_dry_run_shows_the_bundle_and_asks_no_node() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| millrace_in(directory.path(), arguments, "");
    assert!(run(&["init", "hello", "--template", "shell"]).status.success());
    let output = run(&["deploy", "hello", "--dry-run"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).contains("default/hello would be deployed as") && out(&output).contains("hello.sh"));
    let output = run(&["deploy", "hello", "--dry-run", "-o", "json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plan["files"][0]["path"], &plan["files"][0]["mode"]), (&"hello.sh".into(), &"0755".into()));
    assert_eq!(plan["spec"]["process"]["command"][0], "./hello.sh");

    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("hello/src/passwd")).unwrap();
    let (code, what, remedy) = failed(&run(&["deploy", "hello", "--dry-run"]));
    assert!(code == 6 && what.contains("\"passwd\" to \"/etc/passwd\""), "{code} {what}");
    assert!(remedy.contains("relative"), "{remedy}");
}

#[test]
fn doctor_names_each_thing_with_its_state() {
    let output = millrace(&["doctor", "-o", "json"]);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let is_missing = findings.iter().any(|finding| finding["state"] == "missing");
    assert_eq!(output.status.code(), Some(i32::from(is_missing)));
    for name in ["io_uring", "locked memory", "CPUs", "disk"] {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        let finding = finding.unwrap_or_else(|| panic!("{name} is not looked at"));
        let needs_remedy = finding["state"] != "ok";
        assert!(!needs_remedy || !finding["remedy"].as_str().unwrap().is_empty(), "{finding}");
    }
}

#[test]
fn a_simulation_of_one_seed_is_the_same_twice() {
    let run = || millrace(&["simulate", "--seed", "7", "-o", "json"]);
    let (one, other) = (run(), run());
    assert!(one.status.success(), "{}", err(&one));
    assert_eq!(out(&one), out(&other));
    let report: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(report["trace_hash"].as_str().unwrap().len(), 16);
}
