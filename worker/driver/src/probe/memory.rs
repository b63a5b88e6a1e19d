//! Limits on memory and descriptors, and what the kernel does to pages.

use super::Finding;
use crate::topology;
use nix::sys::resource::{Resource, getrlimit};
use std::fs::File;
use std::os::fd::AsRawFd;

pub(super) fn memlock() -> Finding {
    const NAME: &str = "locked memory";
    /// Buffers of a control node and of a core, with room.
    const GOOD: u64 = 8 << 20;
    let Some(limit) = topology::memlock_limit() else { return Finding::ok(NAME, "no limit") };
    let detail = format!("limit {} KiB", limit >> 10);
    let remedy = "raise it: `ulimit -l 65536`, LimitMEMLOCK=64M of the service, or /etc/security/limits.conf";
    match limit {
        limit if limit < topology::MEMLOCK_BYTES_MIN => Finding::missing(NAME, detail, remedy),
        limit if limit < GOOD => Finding::degraded(NAME, detail, remedy),
        _ => Finding::ok(NAME, detail),
    }
}

pub(super) fn descriptors() -> Finding {
    const NAME: &str = "open files";
    const GOOD: u64 = 4096;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let detail = format!("limit {soft}, at most {hard}");
    match soft {
        0..GOOD => {
            Finding::degraded(NAME, detail, "raise it: `ulimit -n 65536` or LimitNOFILE= of the service")
        }
        _ => Finding::ok(NAME, detail),
    }
}

/// `struct pm_scan_arg` of <linux/fs.h>.
#[repr(C)]
#[derive(Default)]
struct PagemapScan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::Ioctl =
    (3 << 30 | (size_of::<PagemapScan>() as libc::Ioctl) << 16 | 0x66 << 8 | 16) as libc::Ioctl;
/// `PAGE_IS_WRITTEN | PAGE_IS_PRESENT`
const PRESENT: u64 = 1 << 3;

pub(super) fn pagemap_scan() -> Finding {
    const NAME: &str = "PAGEMAP_SCAN";
    let page = vec![1u8; 8192];
    let start = (page.as_ptr() as u64).next_multiple_of(4096);
    // Category and return masks are the same: count pages that are present.
    let mut scan = PagemapScan {
        size: size_of::<PagemapScan>() as u64,
        start,
        end: start + 4096,
        category_mask: PRESENT,
        return_mask: PRESENT,
        ..PagemapScan::default()
    };
    let scanned = File::open("/proc/self/pagemap").is_ok_and(|pagemap| {
        // SAFETY: the argument is of the documented shape and asks for no regions; the kernel writes `walk_end` only.
        unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut scan) >= 0 }
    });
    match scanned {
        true => Finding::ok(NAME, "a fresh instance resets only the pages that a call wrote"),
        false => Finding::degraded(
            NAME,
            "a fresh instance costs several times as much: whole memories are dropped and faulted in again",
            "run Linux 6.7 or later",
        ),
    }
}

pub(super) fn transparent_hugepages() -> Finding {
    const NAME: &str = "transparent huge pages";
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("absent").to_owned();
    match chosen.as_str() {
        "madvise" => Finding::ok(NAME, chosen),
        "always" => Finding::degraded(
            NAME,
            "always: an instance's first page may cost 2 MiB",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        _ => Finding::degraded(
            NAME,
            chosen,
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (if this kernel has them)",
        ),
    }
}

pub(super) fn reserved_hugepages() -> Finding {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Total:"));
    let total: u64 = total.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    // Nothing demands them yet, so none is fine too.
    Finding::ok("reserved huge pages", format!("{total}; none is needed"))
}
