//! The kernel's version, clock, BTF, and our rights.

use super::Finding;
use crate::clock;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The mount points of a file system type.
fn mounts(kind: &str) -> Vec<String> {
    read("/proc/self/mounts")
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, of) = (fields.next()?, fields.next()?);
            (of == kind).then(|| at.to_owned())
        })
        .collect()
}

pub(super) fn version() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (0, _) => Finding::missing("kernel", "unknown", "mount /proc"),
        version if version < (6, 1) => {
            Finding::missing("kernel", format!("Linux {release}"), "run Linux 6.1 or later, best 6.12")
        }
        version if version < (6, 12) => {
            Finding::degraded("kernel", format!("Linux {release}"), "Linux 6.12 has all that is used")
        }
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

pub(super) fn clock() -> Finding {
    const READS: u64 = 10_000;
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let start = clock::monotonic();
    for _ in 0..READS {
        std::hint::black_box(clock::monotonic());
    }
    let each = (clock::monotonic() - start).as_nanos() as u64 / READS;
    let detail = format!("{source}, {each} ns a read");
    // A read without a system call takes some 25 ns; with one, hundreds.
    match each {
        0..100 => Finding::ok("clock", detail),
        _ => Finding::degraded(
            "clock",
            detail,
            "use a clock source that user space can read: tsc or kvm-clock",
        ),
    }
}

pub(super) fn checksum() -> Finding {
    #[cfg(target_arch = "x86_64")]
    let fast = std::is_x86_feature_detected!("sse4.2");
    #[cfg(not(target_arch = "x86_64"))]
    let fast = cfg!(target_arch = "aarch64");
    match fast {
        true => Finding::ok("CRC-32C", "an instruction of the processor"),
        false => Finding::degraded("CRC-32C", "computed in software", "use a processor with SSE 4.2"),
    }
}

pub(super) fn btf() -> Finding {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match std::fs::metadata(PATH) {
        Ok(found) => Finding::ok("BTF", format!("{PATH}, {} KiB", found.len() >> 10)),
        Err(_) => Finding::missing(
            "BTF",
            "BPF programs cannot adapt to this kernel; calls run without them",
            "run a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}

pub(super) fn bpffs() -> Finding {
    match mounts("bpf").into_iter().next() {
        Some(at) => Finding::ok("bpffs", at),
        None if Path::new("/sys/fs/bpf").exists() => Finding::degraded(
            "bpffs",
            "not mounted; BPF programs then end with the process that loaded them",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        None => {
            Finding::missing("bpffs", "this kernel has none", "run a kernel built with CONFIG_BPF_SYSCALL")
        }
    }
}

pub(super) fn capabilities() -> Finding {
    const NAME: &str = "capabilities";
    // Numbers of <linux/capability.h>.
    const WANTED: [(&str, u32); 5] = [
        ("CAP_IPC_LOCK", 14),
        ("CAP_NET_ADMIN", 12),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_PERFMON", 38),
        ("CAP_BPF", 39),
    ];
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Finding::missing(NAME, "cannot be read", "mount /proc");
    };
    let lacking: Vec<_> =
        WANTED.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    match lacking.is_empty() {
        true => Finding::ok(NAME, "all that BPF, namespaces and locked memory need"),
        false => Finding::degraded(
            NAME,
            format!("without {}; calls run, limits on processes and BPF do not", lacking.join(", ")),
            format!(
                "grant them: setcap, AmbientCapabilities= of the service, or root (missing: {})",
                lacking.len()
            ),
        ),
    }
}
