//! What this host has of what we use, in words: the material of `millrace doctor`.
//!
//! Every finding is tried, not guessed from a version, and comes with a remedy if something is wrong.

mod kernel;
mod memory;
mod disk;
mod confinement;

use crate::topology;
use crate::uring::capabilities::{Capabilities, capabilities};
use std::path::Path;

/// How good a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, slower or with less protection.
    Degraded,
    /// Not there. Whether anything needs it is in the detail.
    Missing,
}

/// One thing looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What was looked at; unique in a report.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, with figures.
    pub detail: String,
    /// What to do about it; empty if nothing needs doing.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
        Finding { name, state: State::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// Works, slower or with less protection; what to do about it.
    pub fn degraded(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { name, state: State::Degraded, detail: detail.into(), remedy: remedy.into() }
    }

    /// Not there; what to do about it.
    pub fn missing(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { name, state: State::Missing, detail: detail.into(), remedy: remedy.into() }
    }
}

/// Looks at everything; `directory` is where a log would be written (a small file is made there and removed).
///
/// Takes a fraction of a second. Nothing is changed.
pub fn probe(directory: &Path) -> Vec<Finding> {
    let mut found = vec![kernel::version()];
    found.extend(ring());
    found.push(cpus());
    found.push(memory::memlock());
    found.push(memory::descriptors());
    found.push(disk::disk(directory));
    found.push(memory::pagemap_scan());
    found.push(memory::transparent_hugepages());
    found.push(memory::reserved_hugepages());
    found.push(kernel::clock());
    found.push(kernel::checksum());
    found.push(kernel::btf());
    found.push(kernel::bpffs());
    found.push(kernel::capabilities());
    found.push(confinement::namespaces());
    found.push(confinement::seccomp());
    found.push(confinement::landlock());
    found.push(confinement::bpf());
    found.push(confinement::pressure());
    found.push(confinement::processes());
    found
}

fn ring() -> Vec<Finding> {
    const UPGRADE: &str = "run Linux 6.12 or later";
    let Capabilities { setup, best, missing, incremental, futex } = match capabilities() {
        Ok(found) => found,
        Err(error) => return vec![Finding::missing("io_uring", "no ring can be set up", error.to_string())],
    };
    let mut found = vec![match best {
        true => Finding::ok("io_uring", setup),
        false => Finding::degraded("io_uring", setup, UPGRADE),
    }];
    found.push(match missing.is_empty() {
        true => Finding::ok("io_uring operations", "all that are used"),
        false => Finding::missing("io_uring operations", format!("without {}", missing.join(", ")), UPGRADE),
    });
    found.push(match incremental {
        true => Finding::ok("incremental receive buffers", "frames are read in place"),
        false => Finding::degraded("incremental receive buffers", "frames cut by a read are copied", UPGRADE),
    });
    found.push(match futex {
        true => {
            Finding::ok("futex wait in the ring", "shared-memory links, sockets and disk wait at one point")
        }
        false => Finding::missing(
            "futex wait in the ring",
            "shared-memory links cannot sleep",
            "run Linux 6.7 or later",
        ),
    });
    found
}

fn cpus() -> Finding {
    let cpus = topology::cpus();
    let detail = format!("{} usable: {cpus:?}", cpus.len());
    match cpus.len() {
        0 => Finding::missing("CPUs", "the CPU set cannot be read", "mount /proc and /sys"),
        1 => Finding::degraded("CPUs", detail, "give the control node and a worker core a CPU each"),
        _ => Finding::ok("CPUs", detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_a_name_of_its_own_and_a_remedy_if_it_needs_one() {
        let dir = tempfile::tempdir().unwrap();
        let found = probe(dir.path());
        let mut names: Vec<_> = found.iter().map(|finding| finding.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), found.len());
        for finding in &found {
            assert!(!finding.detail.is_empty(), "{finding:?}");
            assert_eq!(finding.state == State::Ok, finding.remedy.is_empty(), "{finding:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the probe cleans up");
    }

    #[test]
    fn what_the_tests_of_this_crate_rely_on_is_reported_as_there() {
        let dir = tempfile::tempdir().unwrap();
        for finding in probe(dir.path()) {
            if finding.name.starts_with("io_uring") || finding.name == "CPUs" || finding.name == "disk" {
                assert_ne!(finding.state, State::Missing, "{finding:?}");
            }
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_finding_not_a_panic() {
        let finding = disk::disk(Path::new("/nowhere/at/all"));
        assert_eq!(finding.state, State::Missing);
        assert!(finding.detail.contains("/nowhere/at/all"), "{finding:?}");
    }
}
