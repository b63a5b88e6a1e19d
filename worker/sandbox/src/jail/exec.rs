//! From the first process's child to the function: drops everything, then executes.
//!
//! The order matters, each step needing what the next takes away:
//!
//! 1. Before the fork, in the first process, while it was a blank: the bounding set, then the secure bits, while
//!    CAP_SETPCAP was held; with the bits locked, neither a uid of 0 nor a set-uid file gives a capability ever again.
//!    `no_new_privs`: without it, or CAP_SYS_ADMIN, neither Landlock nor seccomp may be applied. Limits that are the same
//!    for all. Children inherit all of that, and nobody can take it back.
//! 2. Session, stdio, open files, directory: need nothing special, but the descriptors of the first process, closed here.
//! 3. Groups, gid, uid: need CAP_SETGID and CAP_SETUID. The locked `NO_SETUID_FIXUP` keeps the capabilities over this,
//!    so that they go at one place:
//! 4. All capabilities, explicitly.
//! 5. Landlock before seccomp, since seccomp may forbid what Landlock needs; seccomp last, since from then on only what
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
    // Memory and processes have no limit here: the group counts all processes together.
    sys::set_limit(libc::RLIMIT_NOFILE, program.files).at(Step::Limits)?;
    // SAFETY: a C string.
    Errno::result(unsafe { libc::chdir(c"/var/task".as_ptr()) }).at(Step::Directory)?;
    if let Some(id) = program.id {
        sys::clear_groups().at(Step::Identity)?;
        sys::set_gid(id).at(Step::Identity)?;
        sys::set_uid(id).at(Step::Identity)?;
    }
    sys::set_capabilities(0).at(Step::Capabilities)?;
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
