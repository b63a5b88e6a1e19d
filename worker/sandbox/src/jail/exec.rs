//! From the first process's child to the function: drops everything, then executes.
//!
//! The order matters, each step needing what the next takes away:
//!
//! 1. Session, stdio, limits, directory: need nothing special, but the descriptors of the first process, closed here.
//! 2. The bounding set, then the secure bits, while CAP_SETPCAP is held; with the bits locked, neither a uid of 0 nor a
//!    set-uid file gives a capability ever again.
//! 3. Groups, gid, uid: need CAP_SETGID and CAP_SETUID. The locked `NO_SETUID_FIXUP` keeps the capabilities over this,
//!    so that they go at one place:
//! 4. All capabilities, explicitly.
//! 5. `no_new_privs`: without it, or CAP_SYS_ADMIN, neither Landlock nor seccomp may be applied.
//! 6. Landlock before seccomp, since seccomp may forbid what Landlock needs; seccomp last, since from then on only what
//!    the tier allows works, and all that is left to do is `execve`, which every tier allows.
//!
//! The process shares its parent's memory until the exec (vfork): it writes nothing but its own stack.

use super::init::{At, CONTROL, Failed, report};
use super::letter::{Answer, Step, answer};
use super::seccomp::Filter;
use crate::sys;
use nix::errno::Errno;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::RawFd;

/// What to execute, and as what.
pub struct Program<'a> {
    /// Paths to try, in this order.
    pub candidates: &'a [*const c_char],
    /// A null-terminated list.
    pub arguments: *const *const c_char,
    /// A null-terminated list.
    pub environment: *const *const c_char,
    /// To become 0, 1 and 2.
    pub stdio: [RawFd; 3],
    /// The run, for the report.
    pub run: u64,
    /// Open files at most.
    pub files: u64,
    /// The Landlock ruleset, where the kernel has Landlock.
    pub ruleset: Option<RawFd>,
    /// Of the function's tier.
    pub filter: Filter,
    /// Its uid and gid, if not the first process's.
    pub id: Option<u32>,
}

/// Locked memory of one process, bytes: what unprivileged io_uring-less programs lock, keys and the like.
const MEMLOCK_BYTES: u64 = 64 << 10;
/// `SECBIT_NOROOT`, `NO_SETUID_FIXUP`, `NO_CAP_AMBIENT_RAISE`, each with its lock; the lock of `KEEP_CAPS`.
const SECURE_BITS: libc::c_ulong = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
/// Capabilities that a kernel can have.
const CAPABILITIES_MAX: libc::c_ulong = 64;
/// As a shell says "found, but cannot be executed".
const EXIT_NOT_RUN: c_int = 126;

/// The child's main function.
pub extern "C" fn main(program: *mut c_void) -> c_int {
    // SAFETY: the parent gives a `Program` that lives until this process has executed or ended.
    let program = unsafe { &*program.cast::<Program<'_>>() };
    let Failed(step, errno) = become_function(program);
    let (step, errno, run) = (step as u32, errno as i32, program.run);
    report(&Answer { kind: answer::NOT_RUN, step, errno, run, ..Answer::default() });
    // SAFETY: ends the child without the exit hooks of the memory that it shares.
    unsafe { libc::_exit(EXIT_NOT_RUN) }
}

/// Returns only what failed.
fn become_function(program: &Program<'_>) -> Failed {
    match drop_everything(program) {
        Err(failed) => failed,
        Ok(()) => Failed(Step::Exec, execute(program)),
    }
}

fn drop_everything(program: &Program<'_>) -> Result<(), Failed> {
    session(program)?;
    limits(program).at(Step::Limits)?;
    // SAFETY: a C string.
    Errno::result(unsafe { libc::chdir(c"/var/task".as_ptr()) }).at(Step::Directory)?;
    for capability in 0..CAPABILITIES_MAX {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // Beyond the last capability of this kernel.
            Err(Errno::EINVAL) => break,
            dropped => dropped.at(Step::Bounding)?,
        };
    }
    sys::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0).at(Step::SecureBits)?;
    if let Some(id) = program.id {
        sys::clear_groups().at(Step::Identity)?;
        sys::set_gid(id).at(Step::Identity)?;
        sys::set_uid(id).at(Step::Identity)?;
    }
    sys::set_capabilities(0).at(Step::Capabilities)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivileges)?;
    if let Some(ruleset) = program.ruleset {
        sys::restrict_self(ruleset).at(Step::Landlock)?;
    }
    sys::add_filter(program.filter.program()).at(Step::Seccomp)
}

/// A session and process group of its own, signals as the kernel has them at first, and no descriptor but its three,
/// those of the first process vanishing at the exec: the report still needs one, the ruleset another.
fn session(program: &Program<'_>) -> Result<(), Failed> {
    // SAFETY: plain numbers; zero bytes and an emptied set are a valid signal set.
    unsafe {
        Errno::result(libc::setsid()).at(Step::Session)?;
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))
            .at(Step::Session)?;
    }
    for (to, from) in program.stdio.iter().enumerate() {
        // SAFETY: plain numbers. The three come from a message and lie above the first process's own.
        Errno::result(unsafe { libc::dup2(*from, to as c_int) }).at(Step::Descriptors)?;
    }
    // SAFETY: plain numbers. Everything from the socket on goes at the exec, whoever opened it.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, CONTROL, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(marked).at(Step::Descriptors).map(drop)
}

/// What cgroups do not bound. Memory and processes have none here: the group counts all processes together.
fn limits(program: &Program<'_>) -> Result<(), Errno> {
    let both = |limit: u64| libc::rlimit { rlim_cur: limit, rlim_max: limit };
    let limits = [
        (libc::RLIMIT_NOFILE, both(program.files)),
        (libc::RLIMIT_CORE, both(0)),
        (libc::RLIMIT_MEMLOCK, both(MEMLOCK_BYTES)),
        (libc::RLIMIT_RTPRIO, both(0)),
        (libc::RLIMIT_NICE, both(0)),
    ];
    for (which, limit) in limits {
        // SAFETY: the struct outlives the call.
        Errno::result(unsafe { libc::setrlimit(which, &raw const limit) })?;
    }
    Ok(())
}

/// Tries the candidates; gives the error of the first that is there.
fn execute(program: &Program<'_>) -> Errno {
    let mut told = Errno::ENOENT;
    for path in program.candidates {
        // SAFETY: a C string and two null-terminated lists of them, all in the first process's memory.
        unsafe { libc::execve(*path, program.arguments, program.environment) };
        match Errno::last() {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES if told == Errno::ENOENT => told = Errno::EACCES,
            Errno::EACCES => {}
            errno => return errno,
        }
    }
    told
}
