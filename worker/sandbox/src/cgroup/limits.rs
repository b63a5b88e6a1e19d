//! Limits, and how each version of the kernel's interface writes them. Pure.

use super::hierarchy::{Controller, Version};

/// What the processes of a group may use together. 0 means no limit of this kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Share of the CPU beside other groups that want it, 1 to 10,000; 100 is usual (`cpu.weight`, `cpu.shares`).
    pub cpu_weight: u32,
    /// CPU time per second, thousandths of one CPU (`cpu.max`, `cpu.cfs_quota_us`).
    pub cpu_milli: u32,
    /// CPUs to run on; empty: all that the groups above have (`cpuset.cpus`).
    pub cpus: Vec<u32>,
    /// Bytes beyond which the kernel ends a process of the group, of v2 all (`memory.max`, `memory.limit_in_bytes`).
    pub memory_max_bytes: u64,
    /// Bytes beyond which the group is slowed down and reclaimed from (`memory.high`). In v1 it is
    /// `memory.soft_limit_in_bytes`: reclaimed from first when the whole host is short, and not slowed down.
    pub memory_high_bytes: u64,
    /// Whether memory beyond `memory_max_bytes` may go to swap.
    pub may_swap: bool,
    /// Processes and threads (`pids.max`).
    pub pids_max: u32,
    /// Bytes per second, each of reading and writing, of the disk that holds the data directory (`io.max`,
    /// `blkio.throttle.*_bps_device`). In v1 writes through the page cache pass unseen.
    pub io_bytes: u64,
}

impl Limits {
    /// What a fresh group has: nothing is limited.
    pub const NONE: Limits = Limits {
        cpu_weight: WEIGHT,
        cpu_milli: 0,
        cpus: Vec::new(),
        memory_max_bytes: 0,
        memory_high_bytes: 0,
        may_swap: true,
        pids_max: 0,
        io_bytes: 0,
    };

    /// The controllers that these limits need.
    pub fn controllers(&self) -> Vec<Controller> {
        let memory = self.memory_max_bytes != 0 || self.memory_high_bytes != 0;
        [
            (Controller::Cpu, self.cpu_weight != WEIGHT || self.cpu_milli != 0),
            (Controller::Memory, memory),
            (Controller::Pids, self.pids_max != 0),
            (Controller::Io, self.io_bytes != 0),
            (Controller::Cpuset, !self.cpus.is_empty()),
        ]
        .into_iter()
        .filter_map(|(controller, needed)| needed.then_some(controller))
        .collect()
    }
}

/// Part of a group's memory that may be in buffers of TCP and UDP besides, where version 1 counts them apart.
const SOCKETS_PART: u64 = 4;
/// But so much at least: a few busy connections.
const SOCKETS_BYTES_MIN: u64 = 4 << 20;
/// A fresh group's `cpu.weight`.
const WEIGHT: u32 = 100;
/// The kernel's default period of CPU quotas, microseconds.
const PERIOD_US: u64 = 100_000;
/// The longest period, for quotas of which a shorter period's part would be below the least.
const PERIOD_US_MAX: u64 = 1_000_000;
/// The least quota of a period: `min_cfs_quota_period` of the kernel's scheduler.
const QUOTA_US_MIN: u64 = 1_000;

/// The part of its weight that a group has which stands back behind others.
const STANDING_BACK: u64 = 50;

/// What to write for a weight, whole or, of a group that stands back, a part of it.
pub(super) fn weight(version: Version, weight: u32, stands_back: bool) -> Change {
    let part = if stands_back { STANDING_BACK } else { 1 };
    let weight = u64::from(weight.clamp(1, 10_000));
    match version {
        // 1,024 is the default there as 100 is here, and 2 the least.
        Version::One => change("cpu.shares", (weight * 1024 / 100 / part).max(2)),
        Version::Two => change("cpu.weight", (weight / part).max(1)),
    }
}

/// A text to write into a file of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub file: &'static str,
    pub text: String,
    /// Some kernels lack the file, and the limit holds as far as it can without.
    pub is_optional: bool,
}

fn change(file: &'static str, text: impl ToString) -> Change {
    Change { file, text: text.to_string(), is_optional: false }
}

fn optional(file: &'static str, text: impl ToString) -> Change {
    Change { is_optional: true, ..change(file, text) }
}

/// What to write, in order, to get one controller from `old` to `new`. `disk` is `major:minor` of the data directory.
/// To have no limit of CPUs again is not among it: what to write then depends on the group above.
pub(super) fn changes(
    version: Version,
    controller: Controller,
    old: &Limits,
    new: &Limits,
    disk: &str,
) -> Vec<Change> {
    match (controller, version) {
        (Controller::Cpu, _) => cpu(version, old, new),
        (Controller::Memory, Version::One) => memory_v1(old, new),
        (Controller::Memory, Version::Two) => memory_v2(old, new),
        (Controller::Pids, _) if old.pids_max != new.pids_max => {
            vec![change("pids.max", most(new.pids_max.into(), "max"))]
        }
        (Controller::Io, _) if old.io_bytes != new.io_bytes => io(version, new, disk),
        (Controller::Cpuset, _) if old.cpus != new.cpus && !new.cpus.is_empty() => {
            vec![change("cpuset.cpus", cpu_list(&new.cpus))]
        }
        _ => Vec::new(),
    }
}

/// As in `cpuset.cpus`.
fn cpu_list(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn most(limit: u64, none: &str) -> String {
    if limit == 0 { none.to_owned() } else { limit.to_string() }
}

fn cpu(version: Version, old: &Limits, new: &Limits) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.cpu_weight != new.cpu_weight {
        changes.push(weight(version, new.cpu_weight, false));
    }
    if old.cpu_milli != new.cpu_milli {
        let (quota, period) = quota(new.cpu_milli);
        match version {
            Version::Two => changes.push(change("cpu.max", format!("{} {period}", most(quota, "max")))),
            Version::One => {
                // Not with the old quota and the new period for a moment: that may be more than the group above has.
                changes.push(change("cpu.cfs_quota_us", -1));
                changes.push(change("cpu.cfs_period_us", period));
                if quota != 0 {
                    changes.push(change("cpu.cfs_quota_us", quota));
                }
            }
        }
    }
    changes
}

/// Quota (0: none) and period, microseconds.
fn quota(milli: u32) -> (u64, u64) {
    let of = |period: u64| u64::from(milli) * period / 1000;
    match of(PERIOD_US) {
        0 if milli == 0 => (0, PERIOD_US),
        QUOTA_US_MIN.. => (of(PERIOD_US), PERIOD_US),
        _ => (of(PERIOD_US_MAX), PERIOD_US_MAX),
    }
}

fn memory_v2(old: &Limits, new: &Limits) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.memory_high_bytes != new.memory_high_bytes {
        changes.push(change("memory.high", most(new.memory_high_bytes, "max")));
    }
    if old.may_swap != new.may_swap {
        changes.push(optional("memory.swap.max", if new.may_swap { "max" } else { "0" }));
    }
    if old.memory_max_bytes != new.memory_max_bytes {
        changes.push(change("memory.max", most(new.memory_max_bytes, "max")));
    }
    changes
}

fn memory_v1(old: &Limits, new: &Limits) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.memory_high_bytes != new.memory_high_bytes {
        changes.push(change("memory.soft_limit_in_bytes", most(new.memory_high_bytes, "-1")));
    }
    if old.may_swap != new.may_swap {
        // 60 is the kernel's default.
        changes.push(optional("memory.swappiness", if new.may_swap { 60 } else { 0 }));
    }
    // Memory and swap together; it may never be below memory alone, so the order depends on the direction.
    let both = |limits: &Limits| match limits.memory_max_bytes {
        0 => u64::MAX,
        _ if limits.may_swap => u64::MAX,
        bytes => bytes,
    };
    let text = if both(new) == u64::MAX { "-1".to_owned() } else { both(new).to_string() };
    let with_swap = (both(old) != both(new)).then(|| optional("memory.memsw.limit_in_bytes", text));
    let alone = (old.memory_max_bytes != new.memory_max_bytes)
        .then(|| change("memory.limit_in_bytes", most(new.memory_max_bytes, "-1")));
    match both(new) > both(old) {
        true => changes.extend(with_swap.into_iter().chain(alone)),
        false => changes.extend(alone.into_iter().chain(with_swap)),
    }
    if old.memory_max_bytes != new.memory_max_bytes {
        // Beyond it connections get slower, and nothing is ended.
        let bytes = match new.memory_max_bytes {
            0 => 0,
            bytes => (bytes / SOCKETS_PART).max(SOCKETS_BYTES_MIN),
        };
        changes.push(optional("memory.kmem.tcp.limit_in_bytes", most(bytes, "-1")));
    }
    changes
}

fn io(version: Version, new: &Limits, disk: &str) -> Vec<Change> {
    match version {
        Version::Two => {
            let bytes = most(new.io_bytes, "max");
            vec![change("io.max", format!("{disk} rbps={bytes} wbps={bytes}"))]
        }
        // There 0 takes the limit away.
        Version::One => ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"]
            .map(|file| change(file, format!("{disk} {}", new.io_bytes)))
            .to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(version: Version, controller: Controller, old: &Limits, new: &Limits) -> Vec<String> {
        let all = changes(version, controller, old, new, "8:0");
        all.into_iter().map(|change| format!("{}={}", change.file, change.text)).collect()
    }

    fn some() -> Limits {
        Limits {
            cpu_weight: 50,
            cpu_milli: 1500,
            cpus: vec![0, 2],
            memory_max_bytes: 1 << 20,
            memory_high_bytes: 1 << 19,
            may_swap: false,
            pids_max: 64,
            io_bytes: 4096,
        }
    }

    #[test]
    fn version_two_writes_the_kernels_texts() {
        let all: Vec<String> = Controller::of_v2("cpu memory pids io cpuset")
            .into_iter()
            .flat_map(|controller| written(Version::Two, controller, &Limits::NONE, &some()))
            .collect();
        let expected = [
            "cpu.weight=50",
            "cpu.max=150000 100000",
            "memory.high=524288",
            "memory.swap.max=0",
            "memory.max=1048576",
            "pids.max=64",
            "io.max=8:0 rbps=4096 wbps=4096",
            "cpuset.cpus=0,2",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn version_one_keeps_memory_with_swap_above_memory_on_the_way() {
        let (small, large) = (
            Limits { memory_max_bytes: 100, may_swap: false, ..Limits::NONE },
            Limits { memory_max_bytes: 900, may_swap: false, ..Limits::NONE },
        );
        let up = written(Version::One, Controller::Memory, &small, &large);
        let sockets = "memory.kmem.tcp.limit_in_bytes=4194304";
        assert_eq!(up, ["memory.memsw.limit_in_bytes=900", "memory.limit_in_bytes=900", sockets]);
        let down = written(Version::One, Controller::Memory, &large, &small);
        assert_eq!(down, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100", sockets]);
        let off = written(Version::One, Controller::Memory, &small, &Limits::NONE);
        let expected = [
            "memory.swappiness=60",
            "memory.memsw.limit_in_bytes=-1",
            "memory.limit_in_bytes=-1",
            "memory.kmem.tcp.limit_in_bytes=-1",
        ];
        assert_eq!(off, expected);
    }

    #[test]
    fn weights_keep_their_ratios_in_version_one() {
        let of = |weight| Limits { cpu_weight: weight, ..Limits::NONE };
        assert_eq!(written(Version::One, Controller::Cpu, &Limits::NONE, &of(200)), ["cpu.shares=2048"]);
        assert_eq!(written(Version::One, Controller::Cpu, &Limits::NONE, &of(1)), ["cpu.shares=10"]);
        assert_eq!(written(Version::One, Controller::Cpu, &of(5), &Limits::NONE), ["cpu.shares=1024"]);
    }

    #[test]
    fn a_group_that_stands_back_has_a_part_of_its_weight() {
        let text = |version, of, stands_back| weight(version, of, stands_back).text;
        assert_eq!(text(Version::One, 100, true), "20");
        assert_eq!(text(Version::One, 1, true), "2", "the least that the kernel takes");
        assert_eq!(text(Version::Two, 100, true), "2");
        assert_eq!(text(Version::Two, 30, true), "1");
        assert_eq!(
            (text(Version::One, 100, false), text(Version::Two, 30, false)),
            ("1024".into(), "30".into())
        );
    }

    #[test]
    fn small_quotas_get_a_long_period() {
        assert_eq!(quota(0), (0, PERIOD_US));
        assert_eq!(quota(10), (1_000, 100_000));
        assert_eq!(quota(9), (9_000, 1_000_000));
        assert_eq!(quota(1), (1_000, 1_000_000));
    }

    fn any() -> impl Strategy<Value = Limits> {
        (1u32..=10_000, 0u32..64_000, proptest::collection::vec(0u32..64, 0..4), 0u64..1 << 40, any_more())
            .prop_map(|(cpu_weight, cpu_milli, cpus, memory, (high, may_swap, pids_max, io_bytes))| Limits {
                cpu_weight,
                cpu_milli,
                cpus,
                memory_max_bytes: memory,
                memory_high_bytes: high,
                may_swap,
                pids_max,
                io_bytes,
            })
    }

    fn any_more() -> impl Strategy<Value = (u64, bool, u32, u64)> {
        (0u64..1 << 40, proptest::bool::ANY, 0u32..4096, 0u64..1 << 40)
    }

    proptest! {
        #[test]
        fn what_does_not_change_is_not_written(limits in any()) {
            for version in [Version::One, Version::Two] {
                for controller in Controller::of_v2("cpu memory pids io cpuset") {
                    prop_assert_eq!(changes(version, controller, &limits, &limits, "8:0"), Vec::new());
                }
            }
        }

        #[test]
        fn the_kernel_accepts_each_step(old in any(), new in any()) {
            // memory.memsw.limit_in_bytes is never below memory.limit_in_bytes, as the kernel demands.
            let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
            let whole = |limits: &Limits| if limits.memory_max_bytes == 0 { u64::MAX } else { limits.memory_max_bytes };
            let mut alone = whole(&old);
            let mut both = if old.may_swap { u64::MAX } else { whole(&old) };
            for change in changes(Version::One, Controller::Memory, &old, &new, "8:0") {
                match change.file {
                    "memory.limit_in_bytes" => alone = number(&change.text),
                    "memory.memsw.limit_in_bytes" => both = number(&change.text),
                    _ => {}
                }
                prop_assert!(alone <= both, "{} > {} after {:?}", alone, both, change);
            }
            prop_assert_eq!(alone, whole(&new));
            prop_assert_eq!(both, if new.may_swap { u64::MAX } else { whole(&new) });
        }

        #[test]
        fn a_quota_is_what_was_asked_for(milli in 1u32..1_000_000) {
            let (quota, period) = quota(milli);
            prop_assert_eq!(quota * 1000, u64::from(milli) * period);
            prop_assert!((QUOTA_US_MIN..).contains(&quota) && period <= PERIOD_US_MAX);
        }
    }
}
