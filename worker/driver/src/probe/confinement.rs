//! What holds a process function in: namespaces, seccomp, Landlock, BPF, memory pressure, numbers of processes. Wasm
//! functions need none of it.

use super::Finding;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

pub(super) fn namespaces() -> Finding {
    const NAME: &str = "namespaces";
    const ALL: [(&str, i32); 7] = [
        ("user", libc::CLONE_NEWUSER),
        ("pid", libc::CLONE_NEWPID),
        ("mount", libc::CLONE_NEWNS),
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ];
    let flags = ALL.iter().fold(0, |flags, (_, flag)| flags | flag);
    let remedy = if read("/proc/sys/user/max_user_namespaces") == "0" {
        "sysctl user.max_user_namespaces=65536"
    } else if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "sysctl kernel.unprivileged_userns_clone=1, or run the worker as root"
    } else if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run the worker as root"
    } else {
        "let the container make them (docker: --privileged), or run a kernel built with CONFIG_USER_NS and all others"
    };
    match unshared(flags) {
        Ok(()) => Finding::ok(NAME, ALL.map(|(name, _)| name).join(", ")),
        Err(error) => {
            Finding::missing(NAME, format!("refused ({error}); process functions need them"), remedy)
        }
    }
}

/// Tries it in a child, which ends at once.
fn unshared(flags: i32) -> Result<(), Errno> {
    // SAFETY: the child makes system calls only, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: no pointer is passed; `errno` is the child's own.
        unsafe { libc::_exit(if libc::unshare(flags) == 0 { 0 } else { *libc::__errno_location() }) };
    }
    let pid = Errno::result(pid)?;
    let mut status = 0;
    // SAFETY: `status` is ours.
    Errno::result(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        number => Err(Errno::from_raw(number)),
    }
}

pub(super) fn seccomp() -> Finding {
    const NAME: &str = "seccomp";
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one integer.
    let asked =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    match Errno::result(asked) {
        Ok(_) => Finding::ok(NAME, "filters, and ending a process that breaks one"),
        Err(error) => Finding::missing(
            NAME,
            format!("{error}; process functions need it"),
            "run a kernel built with CONFIG_SECCOMP_FILTER, and let the container use it",
        ),
    }
}

pub(super) fn landlock() -> Finding {
    const NAME: &str = "Landlock";
    /// `LANDLOCK_CREATE_RULESET_VERSION` of <linux/landlock.h>.
    const VERSION: u32 = 1;
    /// The first ABI that closes abstract sockets and signals to other domains.
    const SCOPES: i64 = 6;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: a null pointer of length 0 asks for the version.
    let asked = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    match Errno::result(asked) {
        Ok(abi) if abi >= SCOPES => Finding::ok(NAME, format!("ABI {abi}")),
        Ok(abi) => Finding::degraded(
            NAME,
            format!("ABI {abi}: files only; namespaces alone keep signals and abstract sockets apart"),
            "run Linux 6.12 or later",
        ),
        Err(Errno::EOPNOTSUPP) => Finding::degraded(
            NAME,
            "switched off; namespaces and mounts alone confine process functions",
            "boot with lsm=landlock,... (the present list is in /sys/kernel/security/lsm)",
        ),
        Err(error) => Finding::degraded(
            NAME,
            format!("{error}; namespaces and mounts alone confine process functions"),
            "run a kernel built with CONFIG_SECURITY_LANDLOCK",
        ),
    }
}

pub(super) fn bpf() -> Finding {
    const NAME: &str = "BPF";
    match loaded() {
        Ok(()) => Finding::ok(NAME, "programs for control groups load"),
        Err(error) => Finding::missing(
            NAME,
            format!(
                "a program is refused ({error}); functions with [network] are not run, nothing is counted"
            ),
            match error {
                Errno::EPERM | Errno::EACCES => {
                    "run the worker as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
                }
                _ => "run a kernel built with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
            },
        ),
    }
}

/// Loads, and drops at once, the smallest program that lets a packet pass.
fn loaded() -> Result<(), Errno> {
    /// `BPF_PROG_LOAD` and `BPF_PROG_TYPE_CGROUP_SKB` of <linux/bpf.h>.
    const PROG_LOAD: libc::c_int = 5;
    const CGROUP_SKB: u32 = 8;
    /// `r0 = 1; exit`, as `struct bpf_insn`.
    const PROGRAM: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    /// The first fields of `union bpf_attr`; the kernel takes the rest as zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions_len: u32,
        instructions: u64,
        license: u64,
        log: [u64; 3],
    }
    let load = Load {
        kind: CGROUP_SKB,
        instructions_len: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 3],
    };
    // SAFETY: the struct is of the documented shape and length; program and license live until the call is over.
    let asked = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let descriptor = Errno::result(asked)? as i32;
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    unsafe { libc::close(descriptor) };
    Ok(())
}

pub(super) fn pressure() -> Finding {
    const NAME: &str = "PSI";
    match std::fs::read_to_string("/proc/pressure/memory") {
        Ok(text) => Finding::ok(NAME, format!("memory: {}", text.lines().next().unwrap_or_default())),
        Err(error) => Finding::degraded(
            NAME,
            format!("off ({error}); warm sandboxes end by idle time alone, not under memory pressure"),
            "boot with psi=1, on a kernel built with CONFIG_PSI",
        ),
    }
}

pub(super) fn processes() -> Finding {
    const NAME: &str = "processes";
    /// Of some hundred warm sandboxes with some threads each.
    const GOOD: u64 = 8192;
    let number = |path| read(path).parse::<u64>().unwrap_or(0);
    let (pid_max, threads_max) = (number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max"));
    let (soft, _) = getrlimit(Resource::RLIMIT_NPROC).unwrap_or((u64::MAX, u64::MAX));
    // Root is not held by the limit of its processes.
    let own = if nix::unistd::geteuid().is_root() { u64::MAX } else { soft };
    let detail = match own {
        u64::MAX => format!("pid_max {pid_max}, threads-max {threads_max}"),
        own => format!("pid_max {pid_max}, threads-max {threads_max}, limit of this user {own}"),
    };
    match pid_max.min(threads_max).min(own) {
        GOOD.. => Finding::ok(NAME, detail),
        _ => Finding::degraded(
            NAME,
            detail,
            "sysctl kernel.pid_max=4194304 kernel.threads-max=100000; LimitNPROC=infinity of the service",
        ),
    }
}
