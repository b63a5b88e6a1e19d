//! System calls that neither std nor nix has, thin and allocation-free: callable between fork and exec.
//!
//! Constants are of `include/uapi/linux/{mount,sched,seccomp,landlock,securebits,capability}.h`.

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

type Result<T> = std::result::Result<T, Errno>;

/// `OPEN_TREE_CLONE`: a detached copy.
const OPEN_TREE_CLONE: libc::c_uint = 1;
/// `OPEN_TREE_CLOEXEC`.
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
/// `AT_RECURSIVE`.
const AT_RECURSIVE: libc::c_uint = 0x8000;
/// `MOVE_MOUNT_F_EMPTY_PATH`.
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
/// `FSOPEN_CLOEXEC`, `FSMOUNT_CLOEXEC`.
const FS_CLOEXEC: libc::c_uint = 1;
/// `FSCONFIG_SET_STRING`.
const FSCONFIG_SET_STRING: libc::c_uint = 1;
/// `FSCONFIG_CMD_CREATE`.
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
/// `MOUNT_ATTR_RDONLY`.
pub const MOUNT_RDONLY: u64 = 1;
/// `MOUNT_ATTR_NOSUID`.
pub const MOUNT_NOSUID: u64 = 2;
/// `MOUNT_ATTR_NODEV`.
pub const MOUNT_NODEV: u64 = 4;
/// `MOUNT_ATTR_NOEXEC`.
pub const MOUNT_NOEXEC: u64 = 8;
/// `CLONE_INTO_CGROUP`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_CLEAR_SIGHAND`.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `SECCOMP_SET_MODE_FILTER`.
const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// `struct clone_args`, as far as `CLONE_ARGS_SIZE_VER2`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: libc::c_ushort,
    filter: *const libc::sock_filter,
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel has just made the descriptor for this process; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached copy of what is mounted at a path, with all mounts below it; relative paths start at the working
/// directory.
pub fn open_tree(path: &CStr) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
    // SAFETY: a descriptor number and a C string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Sets attributes (`MOUNT_*`) of all mounts of a tree, and takes it out of every propagation.
pub fn restrict_mounts(tree: BorrowedFd<'_>, attributes: u64) -> Result<()> {
    let attr = MountAttr { set: attributes, clear: 0, propagation: libc::MS_PRIVATE, userns: 0 };
    let flags = AT_RECURSIVE | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: the struct is the kernel's, its size is given, and it outlives the call; the path is empty.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(done).map(drop)
}

/// Attaches a detached tree at a path.
pub fn move_mount(tree: RawFd, path: &CStr) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: two descriptor numbers and two C strings that outlive the call.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), flags)
    };
    Errno::result(done).map(drop)
}

/// A detached new file system of a type, with options and attributes (`MOUNT_*`).
pub fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd> {
    // SAFETY: a C string that outlives the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FS_CLOEXEC) })?;
    let configure = |command: libc::c_uint, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: the descriptor is open, the strings are C strings that outlive the call, or null where the command
        // takes none.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
        Errno::result(done).map(drop)
    };
    for (key, value) in options {
        configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: plain numbers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FS_CLOEXEC, attributes) })
}

/// What [`fork_into`] gives on each side.
pub enum Forked {
    /// Here.
    Parent {
        /// The child, as this process's PID namespace numbers it.
        pid: i32,
        /// It again, without the danger that the number is used again.
        pidfd: OwnedFd,
    },
    /// There.
    Child,
}

/// Forks a child into new namespaces (`CLONE_NEW*`), and into a v2 cgroup if one is given. Its signals are at their
/// defaults.
///
/// # Safety
/// The calling process has one thread, or the child makes only async-signal-safe calls. The child must not return into
/// code that believes to be the parent.
pub unsafe fn fork_into(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces as u64 | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the struct is the kernel's and its size is given; without CLONE_VM the child has memory of its own, so
    // that it may go on on the same stack. The rest is the caller's promise.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match Errno::result(pid)? {
        0 => Ok(Forked::Child),
        // SAFETY: with CLONE_PIDFD the kernel made the descriptor for this process.
        pid => Ok(Forked::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Keeps capabilities whatever the effective uid is: they are looked after by hand.
pub fn keep_capabilities_over_ids() -> Result<()> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0).map(drop)
}

/// The effective uid of this thread, which has no other.
pub fn set_effective_uid(id: u32) -> Result<()> {
    const UNCHANGED: libc::uid_t = libc::uid_t::MAX;
    // By its number: the C library would ask all threads.
    // SAFETY: plain numbers.
    let set = || unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, id, UNCHANGED) };
    keeping_parent_death_signal(|| Errno::result(set()).map(drop))
}

/// Does what changes this process's ids or capabilities, with which the kernel forgets that it is to be ended with its
/// parent. If the parent died meanwhile it ends here.
pub fn keeping_parent_death_signal<T>(change: impl FnOnce() -> Result<T>) -> Result<T> {
    let parent = nix::unistd::getppid();
    let signal = nix::sys::prctl::get_pdeathsig()?;
    let changed = change();
    if let Some(signal) = signal {
        nix::sys::prctl::set_pdeathsig(signal)?;
        if nix::unistd::getppid() != parent {
            nix::sys::signal::raise(signal)?;
        }
    }
    changed
}

/// Sends a signal to exactly the process of a pidfd.
pub fn signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: plain numbers and a null pointer that the kernel allows.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    Errno::result(done).map(drop)
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: RawFd) -> Result<()> {
    // SAFETY: plain numbers. The caller goes on with none of those descriptors.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    Errno::result(done).map(drop)
}

/// The version of Landlock that the kernel has; 0 for none.
pub fn landlock_version() -> u32 {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the kernel reads no ruleset.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Binds this thread to a Landlock ruleset.
pub fn restrict_self(ruleset: RawFd) -> Result<()> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) }).map(drop)
}

/// Adds a seccomp filter to this thread.
pub fn add_filter(filter: &[libc::sock_filter]) -> Result<()> {
    let program = Program { len: filter.len() as libc::c_ushort, filter: filter.as_ptr() };
    // SAFETY: the program's length is that of the slice, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Errno::result(done).map(drop)
}

/// Sets this thread's capabilities to exactly those of a mask; inheritable ones to none.
pub fn set_capabilities(mask: u64) -> Result<()> {
    let header = CapHeader { version: CAPABILITY_VERSION, pid: 0 };
    let half = |mask: u64| CapData { effective: mask as u32, permitted: mask as u32, inheritable: 0 };
    let data = [half(mask), half(mask >> 32)];
    // SAFETY: header and data are the kernel's structs of version 3, two data words, and outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// `prctl` with plain numbers.
pub fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> Result<libc::c_int> {
    // SAFETY: the callers use options that take numbers only.
    Errno::result(unsafe { libc::prctl(option, a, b, 0, 0) })
}

/// Sets all three user ids of this thread. The raw call: glibc's tells other threads, and here are none.
pub fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets all three group ids of this thread.
pub fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Leaves all supplementary groups.
pub fn clear_groups() -> Result<()> {
    // SAFETY: no groups, so that no list is read.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) }).map(drop)
}

/// Zeroed memory of this process.
pub fn memory(bytes: usize) -> Result<*mut u8> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping where the kernel likes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(at.cast()) }
}

/// How long a thread of a sandbox that answers runs before others get their turn: the shortest slice that the kernel has
/// for ordinary threads. It waits no longer than that behind another one of its kind.
const SHORT_SLICE_NS: u64 = 100_000;
/// The same of a sandbox that computes: much longer than the kernel's usual 3 ms, so that the kernel lets one with short
/// slices interrupt it, and short enough for a second one that computes.
const LONG_SLICE_NS: u64 = 20_000_000;

/// Gives this thread and all that it will start short slices. The share of the CPU stays the group's. Kernels before 6.12
/// do not know of this, and lose nothing.
pub fn take_short_slices() -> Result<()> {
    set_slice(0, SHORT_SLICE_NS)
}

/// Limits this process and its children, for good.
pub fn set_limit(which: libc::__rlimit_resource_t, limit: u64) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the struct outlives the call.
    Errno::result(unsafe { libc::setrlimit(which, &raw const limit) }).map(drop)
}

/// Gives a thread (0: this one) short or long slices. Its niceness stays.
pub fn set_slices(tid: i32, are_long: bool) -> Result<()> {
    set_slice(tid, if are_long { LONG_SLICE_NS } else { SHORT_SLICE_NS })
}

fn set_slice(tid: i32, ns: u64) -> Result<()> {
    // SAFETY: all zero is a valid value of a struct of numbers; policy 0 is that of ordinary threads.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_runtime = ns;
    // SAFETY: plain numbers. An error looks like a niceness of -1, which it then nearly is.
    attributes.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, tid as libc::id_t) };
    // SAFETY: the struct outlives the call and says its size.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attributes, 0) }).map(drop)
}
