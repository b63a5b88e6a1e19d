//! What the machine has for us: CPUs to pin to, memory that may be locked.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;
use std::io;

/// The CPUs this process may run on, in order.
pub fn cpus() -> Vec<usize> {
    let mut ids: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    ids.sort_unstable();
    ids
}

/// The first `count` CPUs; an error with the remedy if there are fewer.
pub fn choose_cpus(count: usize) -> io::Result<Vec<usize>> {
    let mut found = cpus();
    if found.len() < count {
        let why = format!(
            "{count} cores were asked for, this process may use {} ({found:?}); ask for fewer, or widen its CPU set \
             (taskset, cpuset cgroup, container limit)",
            found.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    found.truncate(count);
    Ok(found)
}

/// Pins the calling thread.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map_err(|errno| {
        let why = format!("cannot pin to CPU {cpu}: {errno}; this process may use {:?}", cpus());
        io::Error::new(io::Error::from(errno).kind(), why)
    })
}

/// The slice of a loop: the shortest that the kernel has for ordinary threads.
const SLICE_NS: u64 = 100_000;
/// The niceness of a loop: ten times the weight of an ordinary thread. The loop waits for others' work most of the time,
/// and each call passes through it twice. The kernel lets who wakes up run at once only if it has had less than its share
/// up to that moment; with little weight the loop often has not, and waits for the clock's next tick, up to 4 ms.
const NICENESS: i32 = -10;

/// Lets the calling thread run before others that want its CPU: by short slices (`sched_setattr`; kernels before 6.12 do
/// not know of them, and lose nothing), by niceness, and, where the kernel groups processes by session (autogroup) and
/// this process leads one, by that of the session. Without the privilege only by slices.
///
/// # Errors
/// If the kernel refuses all of it, as some sandboxes do.
pub fn take_precedence() -> io::Result<()> {
    // SAFETY: plain numbers. An error looks like a niceness of -1; that is what it would be then.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    set_scheduling(nice.min(NICENESS)).or_else(|_| set_scheduling(nice))?;
    // SAFETY: no arguments but a number.
    if unsafe { libc::getsid(0) } == std::process::id() as i32 {
        // Kernels without autogroups have no such file.
        let _ = std::fs::write("/proc/self/autogroup", NICENESS.to_string());
    }
    Ok(())
}

/// How the calling thread stands beside others that want its CPU, for people.
pub fn precedence() -> String {
    // SAFETY: as in `take_precedence`.
    match unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } {
        nice if nice <= NICENESS => format!("niceness {nice}: before other programs on its CPU"),
        nice => format!(
            "niceness {nice}: as other programs on its CPU; {NICENESS} was refused (it needs CAP_SYS_NICE), or \
             not asked for, without a CPU of its own"
        ),
    }
}

/// The variable from which glibc reads its tunables when a program starts.
pub const TUNABLES: &str = "GLIBC_TUNABLES";
/// The tunable that has its allocator ask for large pages (glibc 2.35 and later).
pub const HUGE: &str = "glibc.malloc.hugetlb=1";

/// Whether the kernel gives large pages to who asks for them.
pub fn gives_huge_pages() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|how| how.contains("[madvise]") || how.contains("[always]"))
}

/// In which pages this process has its tables, for people.
pub fn pages() -> String {
    let asked = std::env::var(TUNABLES).is_ok_and(|tunables| tunables.contains(HUGE));
    match (gives_huge_pages(), asked) {
        (true, true) => "2 MiB where the kernel has them free".into(),
        (true, false) => format!("4 KiB: {HUGE} is not in {TUNABLES}"),
        (false, _) => {
            "4 KiB: the kernel gives no large ones on advice (transparent_hugepage is `never`)".into()
        }
    }
}

fn set_scheduling(nice: i32) -> io::Result<()> {
    // SAFETY: all zero is a valid value of a struct of numbers; policy 0 is that of ordinary threads.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_nice = nice;
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the struct outlives the call and says its size; 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that this process may lock in memory; `None` without a limit.
pub fn memlock_limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}

/// glommio refuses to start below this, also for root.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// An error with the remedy if fewer than `bytes` and an executor's own need may be locked.
pub fn check_memlock(bytes: u64) -> io::Result<()> {
    let needed = bytes.max(MEMLOCK_BYTES_MIN);
    match memlock_limit() {
        Some(limit) if limit < needed => {
            Err(io::Error::new(io::ErrorKind::OutOfMemory, memlock_remedy(needed)))
        }
        _ => Ok(()),
    }
}

/// What to do about too small a limit. The kernel counts per user, and rings of its own beside these bytes (measured:
/// 4.5 MiB asked for run at a limit of 8 MiB and not of 6), so twice as much is advised, as a power of two.
pub(crate) fn memlock_remedy(needed: u64) -> String {
    let advised = needed.saturating_mul(2).checked_next_power_of_two().unwrap_or(u64::MAX);
    let limit = memlock_limit().map_or("no limit".to_owned(), |bytes| format!("{} KiB", bytes >> 10));
    format!(
        "cannot lock {} KiB of memory for I/O (RLIMIT_MEMLOCK: {limit}); raise it with `ulimit -l {}`, \
         LimitMEMLOCK= of the service, or memlock in /etc/security/limits.conf",
        needed >> 10,
        advised >> 10
    )
}

/// Keeps memory from being paged out.
///
/// # Errors
/// With the remedy, if the limit is too small.
pub fn lock(memory: &[u8]) -> io::Result<()> {
    // SAFETY: locking changes no contents; the range is a live slice.
    match unsafe { libc::mlock(memory.as_ptr().cast(), memory.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::new(io::Error::last_os_error().kind(), memlock_remedy(memory.len() as u64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_too_many_cores_says_how_many_there_are() {
        let all = cpus();
        assert_eq!(choose_cpus(all.len()).unwrap(), all);
        let told = choose_cpus(all.len() + 1).unwrap_err().to_string();
        assert!(told.contains(&format!("may use {}", all.len())), "{told}");
    }

    #[test]
    fn a_thread_really_moves_to_its_cpu() {
        let cpu = *cpus().last().unwrap();
        std::thread::spawn(move || {
            pin(cpu).unwrap();
            assert_eq!(nix::sched::sched_getcpu().unwrap(), cpu);
            assert!(pin(4000).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_small_memlock_limit_is_named_with_its_remedy() {
        if memlock_limit().is_some() {
            let told = check_memlock(u64::MAX).unwrap_err().to_string();
            assert!(told.contains("ulimit -l"), "{told}");
        }
        check_memlock(0).unwrap();
    }
}
