//! What an idle warm sandbox takes of the host's memory, beyond its function's own.

use super::{Bench, Outcome, median};
use crate::Figure;
use crate::leases::Leased;
use crate::sandboxed::{self, anywhere, quietly};
use std::process::{Child, Command};
use std::time::Duration;

/// Sandboxes at once.
const SANDBOXES: u32 = 128;
/// Each of them is made anew so often.
const ROUNDS: usize = 5;

impl Bench {
    /// Memory of the host with and without so many sandboxes, jailer and core running in both; less the same for as many
    /// bare processes of the same program.
    pub(super) fn idle(&mut self) -> Outcome<()> {
        let (count, rounds) = if self.smoke { (4, 1) } else { (SANDBOXES, ROUNDS) };
        let (mut sandboxes, mut bare, mut group) = (Vec::new(), Vec::new(), Vec::new());
        let mut inside = (0.0, 0.0);
        for _ in 0..rounds {
            let (each, in_group, kib) = self.sandboxes_kib(count)?;
            sandboxes.push(each);
            group.push(in_group);
            inside = kib;
            bare.push(self.bare_kib(count)?);
        }
        let (whole, own) = (median(&sandboxes), median(&bare));
        println!(
            "  differences of MemAvailable, KiB each: sandboxes {sandboxes:.0?}, bare processes {bare:.0?}"
        );
        let over = (whole - own).max(0.0);
        let figure = Figure::new("process-idle-sandbox", over, "KiB").bar(1024.0, 256.0);
        self.report.add(figure.floor("bare process KiB", own).rival("sandbox KiB", whole));
        self.report.add(Figure::new("process-idle-sandbox-group", median(&group), "KiB"));
        self.report.add(Figure::new("process-idle-sandbox-init", inside.0, "KiB"));
        self.report.add(Figure::new("process-idle-sandbox-jailer-share", inside.1, "KiB"));
        Ok(())
    }

    /// KiB of the host for each sandbox, of its memory group, and of its first process (not shared) and the jailer's.
    fn sandboxes_kib(&self, count: u32) -> Outcome<(f64, f64, (f64, f64))> {
        let stage = self.stage(0, &["echo"])?;
        // Slow, so that each call needs a sandbox of its own.
        let mut spec = sandboxed::spec("echo", &["./function", "serve", "1000"], count);
        spec.limits.tmp_bytes = 64 << 20;
        let (_core, mut leases) = stage.core(self.core_cpu, vec![Leased::new(spec, 8)])?;
        sandboxed::warm(&mut leases, 0, 1)?;
        settle();
        let (before, jailer) = (used_kib()?, pss_kib(stage.jailer())?);
        leases.send_block(0, u64::from(count));
        leases.settle();
        if leases.failed > 0 {
            return Err(format!("calls failed: {}", leases.failure).into());
        }
        settle();
        let (after, pid) = (used_kib()?, stage.jailer());
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let firsts: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        // One was there before.
        let made = firsts.len().saturating_sub(1);
        if made + 1 < count as usize {
            println!("  only {} sandboxes of {count} were made", made + 1);
        }
        let private: f64 = firsts.iter().map(|pid| pss_kib(*pid).unwrap_or(0.0)).sum();
        let groups: Vec<f64> = firsts.iter().filter_map(|pid| memory_group_kib(*pid)).collect();
        let group = groups.iter().sum::<f64>() / groups.len().max(1) as f64;
        let first = private / firsts.len().max(1) as f64;
        // What it shares with first processes counts there: it may have less than before.
        let jailer = ((pss_kib(pid)? - jailer) / made.max(1) as f64).max(0.0);
        Ok(((after - before) / made.max(1) as f64, group, (first, jailer)))
    }

    fn bare_kib(&self, count: u32) -> Outcome<f64> {
        settle();
        let before = used_kib()?;
        let start = |_| anywhere(quietly(Command::new(&self.function).arg("sleep"))).spawn();
        let children: Vec<Child> = (0..count).map(start).collect::<Result<_, _>>()?;
        settle();
        let each = (used_kib()? - before) / f64::from(count);
        for mut child in children {
            child.kill()?;
            child.wait()?;
        }
        Ok(each)
    }
}

/// The kernel frees and counts some things late.
fn settle() {
    std::thread::sleep(Duration::from_millis(700));
}

/// The proportional share of a process, KiB.
fn pss_kib(pid: u32) -> Outcome<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    field(&text, "Pss:")
}

/// Used memory of the host, KiB.
fn used_kib() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    Ok(field(&text, "MemTotal:")? - field(&text, "MemAvailable:")?)
}

fn field(text: &str, name: &str) -> Outcome<f64> {
    let line = text.lines().find(|line| line.starts_with(name)).ok_or_else(|| format!("no {name}"))?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

/// What the kernel charged to the memory group of a process, its own memory for it included, KiB.
fn memory_group_kib(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let v1 = text
        .lines()
        .find(|line| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|n| n == "memory")));
    let file = match v1 {
        Some(line) => format!("/sys/fs/cgroup/memory{}/memory.usage_in_bytes", path(line)?),
        None => format!(
            "/sys/fs/cgroup{}/memory.current",
            path(text.lines().find(|line| line.starts_with("0::"))?)?
        ),
    };
    let bytes: f64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    Some(bytes / 1024.0)
}
