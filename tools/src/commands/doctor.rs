//! `millrace doctor`

use crate::exit::{Done, Exit};
use crate::output::{Output, pairs};
use crate::settings::Environment;
use driver::probe::{Finding, State, probe};
use sandbox::cgroup::{CgroupError, Delegation, Hierarchy};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  millrace doctor
  millrace doctor --data-dir /var/lib/millrace -o json

Exit code 0: everything required is there. 1: something is missing; the remedy stands beside it. Nothing is changed.";

/// Checks the machine.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Data directory whose disk is looked at [default: $MILLRACE_DATA, ./millrace-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// One thing looked at, as `-o json` shows it.
#[derive(Serialize)]
struct View<'a> {
    name: &'a str,
    state: &'static str,
    detail: &'a str,
    remedy: &'a str,
}

impl Doctor {
    pub fn run(self, environment: &Environment) -> Done {
        let data_dir = environment.data_dir(self.data_dir.as_deref());
        let findings = look(existing(&data_dir));
        let views: Vec<View<'_>> = findings.iter().map(view).collect();
        self.output.print(&views, |views| describe(views));
        let is_missing =
            findings.iter().any(|finding| finding.state == State::Missing && is_required(finding));
        Ok(if is_missing { Exit::Failed } else { Exit::Ok })
    }
}

/// What calls run without, as its finding says; everything else that is missing keeps the platform from working.
const OPTIONAL: [&str; 8] =
    ["cgroups", "cgroup delegation", "BTF", "bpffs", "capabilities", "namespaces", "seccomp", "BPF"];

/// Everything there is to look at.
fn look(directory: &Path) -> Vec<Finding> {
    let mut findings = probe(directory);
    let groups = Hierarchy::discover();
    findings.push(cgroups(&groups));
    findings.push(delegation(&groups));
    findings.extend(pins(&bpf::LeftPins::abandoned()));
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    findings.extend(console(&text("/proc/consoles"), &text("/proc/sys/kernel/printk")));
    findings
}

/// Level of the kernel's line about a kill for want of memory (`KERN_ERR`): consoles show what is below theirs.
const KILL_LEVEL: u32 = 3;

/// A slow console that shows kills for want of memory; nothing is said where there is none. `consoles` and `levels` are
/// `/proc/consoles` and `/proc/sys/kernel/printk`.
fn console(consoles: &str, levels: &str) -> Option<Finding> {
    let level: u32 = levels.split_whitespace().next()?.parse().ok()?;
    let is_serial = |line: &&str| line.starts_with("ttyS") || line.starts_with("ttyAMA");
    let serial = consoles.lines().find(is_serial)?.split_whitespace().next()?;
    (level > KILL_LEVEL).then(|| {
        let detail = format!(
            "the kernel writes each kill for want of memory to {serial}, and keeps a CPU for milliseconds meanwhile: \
             calls beside a memory hog wait"
        );
        const REMEDY: &str = "dmesg -n 3, or loglevel=3 on the kernel's command line; the log keeps the lines";
        Finding::degraded("kernel console", detail, REMEDY)
    })
}

/// Programs that a platform left which was killed; nothing is said where there are none.
fn pins(abandoned: &[String]) -> Option<Finding> {
    let first = abandoned.first()?;
    let detail = format!(
        "{} of platforms that were killed, in /sys/fs/bpf/millrace ({first}...): they slow down every context switch",
        abandoned.len()
    );
    const REMEDY: &str = "start a worker as root: it removes those that nothing uses";
    Some(Finding::degraded("pinned programs", detail, REMEDY))
}

fn cgroups(groups: &Hierarchy) -> Finding {
    const NAME: &str = "cgroups";
    const MOUNT: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
    if !groups.is_enough() {
        let obstacle = groups.obstacles().first();
        let reason = match obstacle {
            Some(CgroupError::Unavailable { reason, .. }) => format!(": {reason}"),
            Some(error) => format!(": {error}"),
            None => String::new(),
        };
        let detail =
            format!("nothing can limit {} of process functions{reason}", groups.lacking().join(", "));
        return Finding::missing(NAME, detail, obstacle.map_or(MOUNT, CgroupError::remedy));
    }
    let mut detail = format!("{groups}: {}", groups.places());
    if groups.unified_base().is_none() {
        let remedy = "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, for BPF programs and cgroup.kill";
        return Finding::degraded(NAME, detail, remedy);
    }
    match groups.processes_max() {
        None => Finding::ok(NAME, detail),
        Some(most) => {
            detail.push_str(&format!("; at most {most} processes of all functions and the worker"));
            match most {
                8192.. => Finding::ok(NAME, detail),
                _ => Finding::degraded(NAME, detail, "TasksMax=infinity of the service"),
            }
        }
    }
}

fn delegation(groups: &Hierarchy) -> Finding {
    const NAME: &str = "cgroup delegation";
    const UNIT: &str =
        "run the worker as a systemd service with Delegate=yes and DelegateSubgroup=millrace-worker";
    match groups.delegation() {
        Delegation::Unmanaged => Finding::ok(NAME, "not needed: no systemd manages the groups here"),
        Delegation::Delegated => Finding::ok(NAME, "systemd gave this process its subtree"),
        Delegation::Owned => Finding::ok(NAME, "this user owns its subtree"),
        Delegation::Managed => {
            Finding::degraded(NAME, "systemd manages these groups and may change or remove ours", UNIT)
        }
        Delegation::Refused => Finding::missing(NAME, "this process may make no groups", UNIT),
    }
}

fn is_required(finding: &Finding) -> bool {
    !OPTIONAL.contains(&finding.name)
}

fn view(finding: &Finding) -> View<'_> {
    let state = match finding.state {
        State::Ok => "ok",
        State::Degraded => "degraded",
        State::Missing if is_required(finding) => "missing",
        State::Missing => "absent",
    };
    View { name: finding.name, state, detail: &finding.detail, remedy: &finding.remedy }
}

fn describe(views: &[View<'_>]) -> String {
    let rows = views.iter().map(|view| {
        let remedy =
            if view.remedy.is_empty() { String::new() } else { format!("\n{:9}-> {}", "", view.remedy) };
        (view.state, format!("{}: {}{remedy}", view.name, view.detail))
    });
    pairs(rows)
}

/// The directory, or the nearest one above it that exists: where it would be made.
fn existing(path: &Path) -> &Path {
    let mut above = path.ancestors().filter(|path| path.is_dir());
    above.next().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_optional_is_among_what_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<&str> = look(directory.path()).iter().map(|finding| finding.name).collect();
        assert!(OPTIONAL.iter().all(|optional| names.contains(optional)), "{names:?}");
    }

    #[test]
    fn pins_without_an_owner_are_counted() {
        assert!(pins(&[]).is_none());
        let finding = pins(&["millrace-1".into(), "millrace-2".into()]).expect("there are some");
        assert_eq!(finding.state, State::Degraded);
        assert!(finding.detail.starts_with("2 of platforms"), "{}", finding.detail);
    }

    #[test]
    fn a_serial_console_that_shows_kills_is_named() {
        let consoles =
            "tty0                 -WU (EC  p  )    4:7\nttyS0                -W- (EC  p a)    4:64\n";
        let finding = console(consoles, "4\t4\t1\t7\n").expect("it shows them");
        assert!(finding.detail.contains("ttyS0") && finding.remedy.contains("dmesg -n 3"), "{finding:?}");
        assert!(console(consoles, "3 4 1 7").is_none(), "kills are in the log only");
        assert!(console("tty0 -WU (EC p ) 4:7\n", "7 4 1 7").is_none(), "a screen is quick");
        assert!(console("", "").is_none());
    }

    #[test]
    fn a_directory_that_is_not_there_yet_stands_for_the_one_above() {
        assert_eq!(existing(Path::new("/tmp/none/of/this")), Path::new("/tmp"));
        assert_eq!(existing(Path::new("millrace-data")), Path::new("."));
    }
}
