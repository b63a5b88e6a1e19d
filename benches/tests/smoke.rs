//! The whole bench runs, for an instant: each figure is there, and is a number.

use benches::Report;
use std::path::Path;
use std::process::Command;

/// One of each part of process functions, which need root.
const OF_PROCESSES: [&str; 8] = [
    "process-call",
    "process-rate",
    "process-making-from-pool",
    "process-bpf-per-call",
    "process-bpf-per-packet",
    "process-idle-sandbox",
    "neighbour-process-beside-cpu",
    "neighbour-wasm-beside-network",
];
/// One of each other part.
const FIGURES: [&str; 19] = [
    "core-tcp-rate",
    "core-shm-rate",
    "core-shm-fresh-rate",
    "core-first-call",
    "core-idle-resident",
    "scheduler-buffered-decisions",
    "scheduler-add-function-beside-20000",
    "gtc-matrix-30-regions-1000-groups",
    "fleet-peak-to-trough-by-fifo",
    "fleet-policy-ours-mean-utilisation",
    "fleet-policy-fifo-reserved-p99-ms",
    "durable-cycle-rate",
    "durable-cycle-cpu-per-call",
    "submit-ack-p99-at-half-load",
    "durable-enqueue-rate",
    "waiting-memory-per-call",
    "waiting-recovery",
    "waiting-cycle-allocations-per-call",
    "waiting-due-at-once",
];

#[test]
fn the_bench_measures_everything() {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "-q", "-p", "millrace"]);
    if bench.parent().is_some_and(|profile| profile.ends_with("release")) {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success(), "the millrace binary does not build");
    let json = benches::scratch().expect("a folder").join(format!("smoke-{}.json", std::process::id()));
    let ran = Command::new(bench).args(["--smoke", "--json"]).arg(&json).output().expect("it starts");
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{text}\n{}", String::from_utf8_lossy(&ran.stderr));
    let report: Report = serde_json::from_slice(&std::fs::read(&json).expect("a report")).expect("figures");
    std::fs::remove_file(&json).expect("it is ours");
    let is_root = nix::unistd::geteuid().is_root();
    let of_processes = OF_PROCESSES.iter().filter(|_| is_root);
    for name in FIGURES.iter().chain(of_processes) {
        assert!(report.value(name).is_some(), "no {name} in:\n{text}");
    }
    for figure in &report.figures {
        assert!(figure.value.is_finite() && figure.value >= 0.0, "{figure:?}");
    }
    for line in text.lines().filter(|line| line.contains("SKIPPED")) {
        eprintln!("{line}");
    }
}
