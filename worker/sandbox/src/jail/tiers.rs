//! Which system calls a tier allows, as tables by name.
//!
//! A call is in exactly one table. [`ALLOWED`] and those refused politely ([`ABSENT`], [`DENIED`], and what
//! [`super::seccomp`] refuses by argument) go on; everything else, [`KILLED`] or not known here, ends the process.
//! Refused politely is what ordinary programs try and can do without.

use crate::protocol::Tier;

/// A system call: its name and its number on this architecture.
pub type Call = (&'static str, i64);

/// The calls of these `libc::SYS_` constants.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Files and directories.
const FILES: &[Call] = calls![
    SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
    SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_lseek SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_ioctl
    SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_readlinkat
    SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_umask SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_linkat
    SYS_symlinkat SYS_renameat2 SYS_truncate SYS_ftruncate SYS_fallocate SYS_fadvise64 SYS_readahead
    SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_sendfile SYS_splice SYS_tee SYS_vmsplice SYS_copy_file_range SYS_memfd_create
    SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_setxattr SYS_lsetxattr
    SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
];

/// Waiting for something.
const WAITING: &[Call] = calls![
    SYS_pipe2 SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
    SYS_signalfd4 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime
    SYS_futex SYS_futex_waitv SYS_restart_syscall
];

/// Sockets; [`super::seccomp`] looks at the family and type.
const SOCKETS: &[Call] = calls![
    SYS_socket SYS_socketpair SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername
    SYS_getsockopt SYS_setsockopt SYS_shutdown SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg
];

/// Memory.
const MEMORY: &[Call] = calls![
    SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_msync SYS_mincore SYS_mlock SYS_mlock2
    SYS_munlock SYS_mlockall SYS_munlockall SYS_membarrier SYS_get_mempolicy
];

/// Processes, threads and signals; [`super::seccomp`] looks at the flags of `clone`.
const PROCESSES: &[Call] = calls![
    SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill
    SYS_clone SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_prctl SYS_seccomp
    SYS_getpid SYS_getppid SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid
    SYS_pidfd_open SYS_pidfd_send_signal
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigpending SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_rt_sigreturn
    SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_sigaltstack
    SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam
    SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_getattr SYS_sched_setattr SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
    SYS_prlimit64 SYS_getrusage SYS_times SYS_getcpu SYS_personality
    SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
];

/// Who one is. Without a capability the setters only set what is.
const IDENTITY: &[Call] = calls![
    SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_setuid SYS_setgid
    SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capget SYS_capset
    SYS_uname SYS_sysinfo SYS_getrandom
];

/// Time.
const TIME: &[Call] = calls![
    SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getitimer SYS_setitimer
    SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete
];

/// System V and POSIX message passing, in the sandbox's own IPC namespace: tier `default` only.
const IPC: &[Call] = calls![
    SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget SYS_msgsnd
    SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
];

/// The older spellings of some of the above, which only x86_64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Call] = calls![
    SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_readlink SYS_getdents SYS_mkdir SYS_rmdir SYS_mknod SYS_unlink
    SYS_link SYS_symlink SYS_rename SYS_renameat SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat
    SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_inotify_init
    SYS_getpgrp SYS_pause SYS_alarm SYS_time SYS_arch_prctl SYS_getrlimit SYS_setrlimit SYS_sync_file_range
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[Call] = &[("renameat", 38), ("sync_file_range", 84), ("getrlimit", 163), ("setrlimit", 164)];

/// Making processes; tier `strict` has threads only.
#[cfg(target_arch = "x86_64")]
const FORKS: &[Call] = calls![SYS_fork SYS_vfork];
#[cfg(target_arch = "aarch64")]
const FORKS: &[Call] = &[];

#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: i64 = 333;
#[cfg(target_arch = "aarch64")]
const IO_PGETEVENTS: i64 = 292;

/// Not in the list of the `libc` crate, or newer; numbers from 424 on are the same on all architectures.
const NEWER: &[Call] = &[
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
];

/// Every table of what both tiers allow.
pub const ALLOWED: &[&[Call]] = &[FILES, WAITING, SOCKETS, MEMORY, PROCESSES, IDENTITY, TIME, OLDER, NEWER];

/// Answered with ENOSYS, as by a kernel without them: programs try them and then take the older way. `clone3` hides its
/// flags in memory, where a filter cannot look; `io_uring` would make system calls past the filter; of the slots of
/// `io_setup` the host has one pot for all users.
pub const ABSENT: &[Call] = calls![
    SYS_io_setup SYS_io_destroy SYS_io_submit SYS_io_cancel SYS_io_getevents
    SYS_clone3 SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
    SYS_memfd_secret SYS_process_madvise SYS_process_mrelease SYS_remap_file_pages
];

/// The same, not in the list of the `libc` crate.
pub const ABSENT_NEWER: &[Call] = &[("io_pgetevents", IO_PGETEVENTS)];

/// Answered with success, and nothing is done: a function writes to memory only, so nothing of its own is ever on the way
/// to a disk. `sync` and `syncfs` would write out other people's files, and an `fsync` of a file that anybody may open
/// has the disk empty its cache. With a device of the host they are allowed.
pub const NEEDLESS: &[Call] = calls![SYS_sync SYS_syncfs SYS_fsync SYS_fdatasync];

/// Answered with EPERM, as for a user without the right: programs ask whether they may and go on.
pub const DENIED: &[Call] = calls![
    SYS_syslog SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_move_pages SYS_migrate_pages SYS_kcmp
    SYS_fanotify_init SYS_fanotify_mark SYS_name_to_handle_at SYS_clock_settime SYS_settimeofday SYS_clock_adjtime
    SYS_adjtimex SYS_chroot
];

/// What ends the process, by name, for the outcome's text: nothing that a function does by chance.
const KILLED: &[Call] = calls![
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_bpf SYS_keyctl SYS_add_key SYS_request_key
    SYS_mount SYS_umount2 SYS_pivot_root SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
    SYS_mount_setattr SYS_unshare SYS_setns SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module
    SYS_delete_module SYS_userfaultfd SYS_perf_event_open SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl
    SYS_quotactl_fd SYS_sethostname SYS_setdomainname SYS_vhangup SYS_open_by_handle_at SYS_lookup_dcookie
    SYS_nfsservctl
];
#[cfg(target_arch = "x86_64")]
const KILLED_HERE: &[Call] =
    calls![SYS_iopl SYS_ioperm SYS_modify_ldt SYS_ustat SYS_sysfs SYS__sysctl SYS_uselib];
#[cfg(target_arch = "aarch64")]
const KILLED_HERE: &[Call] = &[];
const KILLED_NEWER: &[Call] = &[
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// The calls that a tier allows beside [`ALLOWED`], and those that it denies beside [`DENIED`].
pub fn of_tier(tier: Tier) -> (&'static [&'static [Call]], &'static [&'static [Call]]) {
    match tier {
        Tier::Default => (&[IPC, FORKS], &[]),
        Tier::Strict => (&[], &[IPC, FORKS]),
    }
}

/// Every other table.
const OTHERS: &[&[Call]] =
    &[IPC, FORKS, NEEDLESS, ABSENT, ABSENT_NEWER, DENIED, KILLED, KILLED_HERE, KILLED_NEWER];

/// The name of a system call's number: `ptrace`; `system call 999` if it is not known here.
pub fn name(number: i64) -> String {
    let tables = ALLOWED.iter().chain(OTHERS).copied();
    let found = tables.flatten().find(|(_, known)| *known == number);
    match found {
        Some((name, _)) => name.trim_start_matches("SYS_").to_owned(),
        None => format!("system call {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_call_is_in_one_table() {
        let mut seen = BTreeMap::new();
        let tables = ALLOWED.iter().chain(OTHERS).copied();
        for (name, number) in tables.flatten() {
            assert_eq!(seen.insert(number, name), None, "{name} is twice in the tables");
        }
        assert!(seen.len() > 300, "only {} calls are known", seen.len());
    }

    #[test]
    fn numbers_have_names() {
        assert_eq!(name(libc::SYS_ptrace), "ptrace");
        assert_eq!(name(451), "cachestat");
        assert_eq!(name(100_000), "system call 100000");
    }
}
