//! PID 1 of a sandbox: made by a fork of the jailer, never executes anything itself.
//!
//! It makes namespaces and root its own, waits as a blank, becomes a function's sandbox, then runs commands at the
//! jailer's word, reaps everything, and ends when the jailer does: by the parent-death signal, by the end of its socket,
//! whichever comes first. When it ends the kernel kills all that is left in the PID namespace.
//!
//! It is another user than the function (uid 0 of the user namespace, where the host can map two ids), not dumpable, and
//! gives up each capability after its last use. What a command must not have, and does not depend on which it is, this
//! process gives up for all of them while it is a blank. Signals from inside do not reach it: the kernel shields PID 1.
//!
//! Nothing here allocates, panics by design, or takes a lock: the process is a copy of the jailer at any moment.

use super::exec::{self, Program};
use super::letter::{
    API_PORT, Answer, DESCRIPTORS_MAX, FOLLOWED, FUNCTION_ID, HEAD_BYTES, Head, LAST, LETTER_BYTES_MAX,
};
use super::letter::{DEVICES_MAX, RULESET, Step, TEXTS_MAX, answer, filter, word};
use super::seccomp::Filter;
use crate::cgroup::Entry;
use crate::sys;
use nix::errno::Errno;
use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, RawFd};

/// The socket to the jailer.
pub const CONTROL: RawFd = 3;
/// SIGCHLD as a descriptor.
const CHILDREN: RawFd = 4;
/// The function's Landlock ruleset.
const LANDLOCK: RawFd = 5;
/// Commands that run at once in one sandbox.
const RUNS_MAX: usize = 256;
/// Stack of a child between fork and exec.
const CHILD_STACK: usize = 64 << 10;
/// Connections that wait to be accepted: as many as a function may open at once.
const BACKLOG: libc::c_int = 128;

/// Locked memory of one process, bytes: what unprivileged io_uring-less programs lock, keys and the like.
const MEMLOCK_BYTES: u64 = 64 << 10;
/// `SECBIT_NOROOT`, `NO_SETUID_FIXUP`, `NO_CAP_AMBIENT_RAISE`, each with its lock; the lock of `KEEP_CAPS`.
const SECURE_BITS: libc::c_ulong = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
/// Capabilities that a kernel can have.
const CAPABILITIES_MAX: libc::c_ulong = 64;

const CAP_KILL: u64 = 1 << 5;
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
const CAP_SYS_ADMIN: u64 = 1 << 21;
/// To run commands as another user and to signal them.
const RUNNING_CAPS: u64 = CAP_KILL | CAP_SETGID | CAP_SETUID;
/// To mount what a function brings, as well.
const BLANK_CAPS: u64 = RUNNING_CAPS | CAP_SYS_ADMIN;

/// What the jailer decided before the fork.
pub struct Birth<'a> {
    /// The socket to the jailer.
    pub control: RawFd,
    /// `/dev/null`, for 0, 1 and 2.
    pub null: RawFd,
    /// Whether the function is another user than the first process.
    pub two_ids: bool,
    /// Whether the network namespace is its own.
    pub own_network: bool,
    /// Its place in the cgroups; the fork has put it into the v2 one already.
    pub entry: Option<&'a Entry>,
    /// By [`filter`].
    pub filters: [Filter; 4],
    /// Where the jailer's heap lies.
    pub heap: (usize, usize),
}

/// A step that failed.
pub struct Failed(pub Step, pub Errno);

/// Says at which step an error came.
pub trait At<T> {
    /// The step, with the error.
    fn at(self, step: Step) -> Result<T, Failed>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, Failed> {
        self.map_err(|errno| Failed(step, errno))
    }
}

/// A command that runs.
#[derive(Clone, Copy)]
struct Run {
    pid: i32,
    run: u64,
    is_last: bool,
}

/// The sandbox as its first process knows it.
struct Init<'a> {
    birth: &'a Birth<'a>,
    letter: &'a mut [u8],
    stack: *mut u8,
    runs: [Option<Run>; RUNS_MAX],
    /// End when nothing runs any more.
    is_ending: bool,
    files: u64,
    has_ruleset: bool,
}

/// Lives and dies as PID 1.
pub fn main(birth: &Birth<'_>) -> ! {
    let mut control = birth.control;
    let code = match live(birth, &mut control) {
        Ok(()) => 0,
        Err(Failed(step, errno)) => {
            let failed =
                Answer { kind: answer::FAILED, step: step as u32, errno: errno as i32, ..Answer::default() };
            send(control, &failed, None);
            1
        }
    };
    // SAFETY: ends the process without the jailer's exit hooks, of which this is a copy.
    unsafe { libc::_exit(code) }
}

/// `control` is where the jailer hears of a failure, at any moment.
fn live(birth: &Birth<'_>, control: &mut RawFd) -> Result<(), Failed> {
    if let Some(entry) = birth.entry {
        entry.join(entry.unified().is_some()).at(Step::Cgroups)?;
    }
    descriptors(birth)?;
    *control = CONTROL;
    forget(birth.heap);
    signals()?;
    let memory = sys::memory(LETTER_BYTES_MAX + CHILD_STACK).at(Step::Letter)?;
    // SAFETY: `memory` has just been mapped, is zeroed, and nobody else has it.
    let letter = unsafe { std::slice::from_raw_parts_mut(memory, LETTER_BYTES_MAX) };
    // SAFETY: within the mapping, behind the letter.
    let stack = unsafe { memory.add(LETTER_BYTES_MAX) };
    let mut init =
        Init { birth, letter, stack, runs: [None; RUNS_MAX], is_ending: false, files: 0, has_ruleset: false };
    let mut descriptors = [-1; DESCRIPTORS_MAX];
    match init.receive(&mut descriptors)? {
        Some((head, _, _)) if head.word == word::GO => init.become_blank()?,
        _ => return Ok(()),
    }
    init.serve()
}

/// 0, 1 and 2 are `/dev/null`, 3 the socket; everything else of the jailer is closed.
fn descriptors(birth: &Birth<'_>) -> Result<(), Failed> {
    for fd in 0..3 {
        // SAFETY: plain numbers; what was there belongs to the copied jailer, which never runs here again.
        Errno::result(unsafe { libc::dup2(birth.null, fd) }).at(Step::Descriptors)?;
    }
    if birth.control != CONTROL {
        // SAFETY: as above.
        Errno::result(unsafe { libc::dup3(birth.control, CONTROL, libc::O_CLOEXEC) })
            .at(Step::Descriptors)?;
    }
    sys::close_from(CONTROL + 1).at(Step::Descriptors)
}

/// Gives back the copy of the jailer's heap: memory that an idle sandbox would hold, and other functions' environments that
/// nobody here should be able to read. Nothing that this process still uses is in it.
fn forget((begin, bytes): (usize, usize)) {
    // SAFETY: the range is the heap of the process that this is a copy of; from here on nothing allocates or reads it.
    unsafe { libc::madvise(begin as *mut libc::c_void, bytes, libc::MADV_DONTNEED) };
}

/// SIGCHLD comes through a descriptor, everything else is at its default, and the jailer's end is this process's.
fn signals() -> Result<(), Failed> {
    // SAFETY: zero bytes are a valid set; the calls fill and read it; plain numbers otherwise.
    let made = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    let made = Errno::result(made).at(Step::Signals)?;
    debug_assert_eq!(made, CHILDREN, "everything above 3 was closed");
    sys::set_limit(libc::RLIMIT_CORE, 0).at(Step::Limits)?;
    // Still dumpable: a jailer that is not root could not write its map of ids otherwise.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0).at(Step::Signals).map(drop)
}

/// What every command inherits and nobody can take back: no capability by any exec, no privilege of any file, no core
/// dumps, little locked memory, no priorities.
fn renounce() -> Result<(), Failed> {
    for capability in 0..CAPABILITIES_MAX {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // Beyond the last capability of this kernel.
            Err(Errno::EINVAL) => break,
            dropped => dropped.at(Step::Bounding)?,
        };
    }
    sys::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0).at(Step::SecureBits)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::NoNewPrivileges)?;
    let limits = [
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_MEMLOCK, MEMLOCK_BYTES),
        (libc::RLIMIT_RTPRIO, 0),
        (libc::RLIMIT_NICE, 0),
    ];
    for (which, limit) in limits {
        sys::set_limit(which, limit).at(Step::Limits)?;
    }
    Ok(())
}

/// The kernel forgets the parent-death signal whenever ids or capabilities change.
fn die_with_jailer() -> Result<(), Failed> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0).at(Step::Signals)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Step::Signals).map(drop)
}

impl Init<'_> {
    /// Everything that does not depend on the function. The order: ids first, since the kernel asks for ids that are
    /// mapped when files are made; the root before the capabilities go; the listener while the interface is new.
    fn become_blank(&mut self) -> Result<(), Failed> {
        if self.birth.two_ids {
            sys::clear_groups().at(Step::Identity)?;
            sys::set_gid(0).at(Step::Identity)?;
            sys::set_uid(0).at(Step::Identity)?;
        }
        die_with_jailer()?;
        // Where the kernel refuses, functions wait longer for each other, and nothing else changes.
        let _ = sys::take_short_slices();
        let _ = sys::prctl(libc::PR_SET_NAME, c"sandbox-init".as_ptr() as libc::c_ulong, 0);
        // SAFETY: a plain number. Only now, so that the namespace's root is the sandbox's group and not the jailer's.
        Errno::result(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).at(Step::CgroupNamespace)?;
        if self.birth.own_network {
            loopback().at(Step::Loopback)?;
        }
        root()?;
        let listener = match self.birth.own_network {
            true => Some(listener().at(Step::Listener)?),
            false => None,
        };
        renounce()?;
        sys::set_capabilities(BLANK_CAPS).at(Step::Capabilities)?;
        die_with_jailer()?;
        let ready = Answer { kind: answer::READY, ..Answer::default() };
        send(CONTROL, &ready, listener);
        if let Some(fd) = listener {
            close(fd);
        }
        Ok(())
    }

    /// Until the jailer is gone or the function has ended.
    fn serve(&mut self) -> Result<(), Failed> {
        loop {
            let event = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut events = [event(CONTROL), event(CHILDREN)];
            // SAFETY: the array has two entries and outlives the call.
            unsafe { libc::poll(events.as_mut_ptr(), 2, -1) };
            if events[1].revents != 0 && self.reap() {
                return Ok(());
            }
            if events[0].revents != 0 && !self.obey()? {
                return Ok(());
            }
        }
    }

    /// Does what a letter says; `false` if the sandbox is to end.
    fn obey(&mut self) -> Result<bool, Failed> {
        let mut descriptors = [-1; DESCRIPTORS_MAX];
        let Some((head, bytes, count)) = self.receive(&mut descriptors)? else { return Ok(false) };
        match head.word {
            word::FIT => self.fit(&head, bytes, &descriptors[..count])?,
            word::RUN => self.run(&head, bytes, &descriptors[..count]),
            word::TERM => {
                self.is_ending = true;
                for run in self.runs.iter().flatten() {
                    // SAFETY: plain numbers; the group is that of a child that is not waited for yet.
                    unsafe { libc::kill(-run.pid, libc::SIGTERM) };
                }
                return Ok(self.runs.iter().any(Option::is_some));
            }
            _ => return Err(Failed(Step::Letter, Errno::EINVAL)),
        }
        Ok(true)
    }

    /// Host name, bundle, `/tmp`, devices; then the right to mount goes.
    fn fit(&mut self, head: &Head, bytes: usize, descriptors: &[RawFd]) -> Result<(), Failed> {
        let mut texts = [std::ptr::null(); TEXTS_MAX];
        let count = split(&self.letter[HEAD_BYTES..bytes], &mut texts);
        let wanted = 2 + usize::from(head.flags & RULESET != 0);
        if count == 0 || count - 1 > DEVICES_MAX || descriptors.len() != wanted + count - 1 {
            return Err(Failed(Step::Letter, Errno::EINVAL));
        }
        // SAFETY: `split` gives pointers to texts that end with a zero byte.
        let name = unsafe { CStr::from_ptr(texts[0]) };
        // SAFETY: pointer and length of one text.
        let done = unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) };
        Errno::result(done).at(Step::HostName)?;
        sys::move_mount(descriptors[0], c"/var/task").at(Step::Bundle)?;
        sys::move_mount(descriptors[1], c"/tmp").at(Step::Tmp)?;
        for (path, device) in texts[1..count].iter().zip(&descriptors[wanted..]) {
            // SAFETY: as above.
            sys::move_mount(*device, unsafe { CStr::from_ptr(*path) }).at(Step::Device)?;
        }
        if head.flags & RULESET != 0 {
            // SAFETY: plain numbers. Not close-on-exec matters not: the child closes all but its own.
            Errno::result(unsafe { libc::dup3(descriptors[2], LANDLOCK, libc::O_CLOEXEC) })
                .at(Step::Landlock)?;
        }
        descriptors.iter().filter(|fd| **fd != LANDLOCK).for_each(|fd| close(*fd));
        self.has_ruleset = head.flags & RULESET != 0;
        self.files = head.files;
        sys::set_capabilities(RUNNING_CAPS).at(Step::Capabilities)?;
        die_with_jailer()?;
        if head.flags & FOLLOWED == 0 {
            report(&Answer { kind: answer::FITTED, ..Answer::default() });
        }
        Ok(())
    }

    /// Starts a command, and says whether it was executed.
    fn run(&mut self, head: &Head, bytes: usize, descriptors: &[RawFd]) {
        let run = head.run;
        let place = self.runs.iter().position(Option::is_none);
        let started = match (place, descriptors) {
            (Some(place), &[stdin, stdout, stderr]) => self
                .spawn(head, bytes, [stdin, stdout, stderr])
                .map(|pid| self.runs[place] = Some(Run { pid, run, is_last: head.flags & LAST != 0 })),
            (None, _) => Err(Failed(Step::Runs, Errno::EAGAIN)),
            _ => Err(Failed(Step::Letter, Errno::EINVAL)),
        };
        descriptors.iter().for_each(|fd| close(*fd));
        match started {
            // If the child failed on its way, it has said so before this.
            Ok(()) => report(&Answer { kind: answer::RUNNING, run, ..Answer::default() }),
            Err(Failed(step, errno)) => {
                let (step, errno) = (step as u32, errno as i32);
                report(&Answer { kind: answer::NOT_RUN, step, errno, run, ..Answer::default() });
                self.is_ending |= head.flags & LAST != 0;
            }
        }
    }

    fn spawn(&mut self, head: &Head, bytes: usize, stdio: [RawFd; 3]) -> Result<i32, Failed> {
        let mut texts = [std::ptr::null::<c_char>(); TEXTS_MAX + 3];
        let count = split(&self.letter[HEAD_BYTES..bytes], &mut texts);
        let [candidates, arguments, variables] = head.texts.map(|n| n as usize);
        if candidates + arguments + variables != count || arguments == 0 || count > TEXTS_MAX {
            return Err(Failed(Step::Letter, Errno::EINVAL));
        }
        // A null after each list, as exec wants it.
        texts.copy_within(candidates + arguments..count, candidates + arguments + 1);
        texts[candidates + arguments] = std::ptr::null();
        texts[count + 1] = std::ptr::null();
        let program = Program {
            candidates: &texts[..candidates],
            arguments: texts[candidates..].as_ptr(),
            environment: texts[candidates + arguments + 1..].as_ptr(),
            stdio,
            run: head.run,
            files: self.files,
            ruleset: self.has_ruleset.then_some(LANDLOCK),
            filter: self.birth.filters[filter(head.flags)],
            id: self.birth.two_ids.then_some(FUNCTION_ID),
        };
        // The stack grows down.
        let top = self.stack.wrapping_add(CHILD_STACK).cast();
        // With the parent's memory, and the parent waits until the child has executed or ended: no page table is copied.
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let argument = (&raw const program).cast_mut().cast();
        // SAFETY: the stack is mapped, as large as said and used by nobody else: the parent waits. `main` reads the
        // program, which outlives that wait, writes nothing of the parent's, and never returns into the caller.
        let pid = Errno::result(unsafe { libc::clone(exec::main, top, flags, argument) }).at(Step::Fork)?;
        // What the child did to the shared memory's dumpable mark, by changing its ids, is undone.
        die_with_jailer()?;
        Ok(pid)
    }

    /// Waits for all that have ended; `true` if the sandbox is to end.
    fn reap(&mut self) -> bool {
        let mut signals = [0u8; size_of::<libc::signalfd_siginfo>() * 4];
        // SAFETY: the buffer is as long as said. What is read says only that something ended; `wait4` says what.
        while unsafe { libc::read(CHILDREN, signals.as_mut_ptr().cast(), signals.len()) } > 0 {}
        loop {
            let mut status = 0;
            // SAFETY: zero bytes are a valid struct of numbers.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: both outlive the call.
            let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
            if pid <= 0 {
                return self.is_ending && self.runs.iter().all(Option::is_none);
            }
            let Some(place) = self.runs.iter().position(|run| run.is_some_and(|run| run.pid == pid)) else {
                continue;
            };
            if let Some(run) = self.runs[place].take() {
                let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
                report(&Answer {
                    kind: answer::ENDED,
                    status,
                    run: run.run,
                    peak_kib: usage.ru_maxrss as u64,
                    cpu_ns: ns(usage.ru_utime) + ns(usage.ru_stime),
                    ..Answer::default()
                });
                self.is_ending |= run.is_last;
                // What it left in its group goes now, that a later run does not meet it.
                // SAFETY: plain numbers. The number of a group is not free while a process is in it, and an empty one
                // is ESRCH. At worst, after all numbers were used up, it is another process of this sandbox.
                unsafe { libc::kill(-pid, libc::SIGKILL) };
            }
        }
    }

    /// The next letter: its head, its bytes in all, its descriptors; none if the jailer is gone.
    fn receive(
        &mut self,
        descriptors: &mut [RawFd; DESCRIPTORS_MAX],
    ) -> Result<Option<(Head, usize, usize)>, Failed> {
        let (bytes, count) = loop {
            match receive(self.letter, descriptors) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failed(Step::Letter, errno)),
                Ok(got) => break got,
            }
        };
        if bytes == 0 {
            return Ok(None);
        }
        let head = Head::from_bytes(&self.letter[..bytes]).ok_or(Failed(Step::Letter, Errno::EINVAL))?;
        Ok(Some((head, bytes, count)))
    }
}

/// Pointers to the zero-terminated texts of a letter; how many there are.
fn split(texts: &[u8], pointers: &mut [*const c_char]) -> usize {
    let mut count = 0;
    let mut begin = 0;
    for (at, byte) in texts.iter().enumerate() {
        if *byte == 0 && count < pointers.len() {
            pointers[count] = texts[begin..].as_ptr().cast();
            count += 1;
            begin = at + 1;
        }
    }
    count
}

/// Brings `lo` up: the only interface there is.
fn loopback() -> Result<(), Errno> {
    // SAFETY: plain numbers.
    let socket =
        Errno::result(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: zero bytes are a valid struct.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in interface.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as c_char;
    }
    interface.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the struct is what SIOCSIFFLAGS takes and outlives the call.
    let done = Errno::result(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const interface) });
    close(socket);
    done.map(drop)
}

/// From the copy of the host's mounts to the template below the working directory, and no way back.
fn root() -> Result<(), Failed> {
    let none = std::ptr::null();
    // So that no mount made on the host later appears here.
    // SAFETY: C strings and nulls where the kernel takes none.
    let done =
        unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) };
    Errno::result(done).at(Step::Private)?;
    // The template in this namespace is locked, being inherited; a copy of it is ours to pivot to.
    let tree = sys::open_tree(c".").at(Step::RootTree)?;
    sys::move_mount(tree.as_raw_fd(), c".").at(Step::RootMove)?;
    // SAFETY: an open descriptor.
    Errno::result(unsafe { libc::fchdir(tree.as_raw_fd()) }).at(Step::RootMove)?;
    drop(tree);
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // Before the host's /proc is out of sight: the kernel lets a user namespace mount only what it sees already.
    // SAFETY: C strings that outlive the call.
    let done = unsafe {
        libc::mount(
            c"proc".as_ptr(),
            c"proc".as_ptr(),
            c"proc".as_ptr(),
            flags,
            c"subset=pid,hidepid=2".as_ptr().cast(),
        )
    };
    Errno::result(done).at(Step::Proc)?;
    // SAFETY: C strings. Old root and new root are the same directory: the old one comes to lie on top of the new.
    let done = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    Errno::result(done).at(Step::Pivot)?;
    // SAFETY: a C string.
    Errno::result(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }).at(Step::OldRoot)?;
    // SAFETY: a C string.
    Errno::result(unsafe { libc::chdir(c"/".as_ptr()) }).at(Step::OldRoot).map(drop)
}

/// The socket on which the core will serve the Runtime API.
fn listener() -> Result<RawFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    let socket = Errno::result(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: API_PORT.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_be_bytes([127, 0, 0, 1]).to_be() },
        sin_zero: [0; 8],
    };
    let bytes = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address is as long as said and outlives the call.
    Errno::result(unsafe { libc::bind(socket, (&raw const address).cast(), bytes) })?;
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::listen(socket, BACKLOG) })?;
    Ok(socket)
}

fn close(fd: RawFd) {
    // SAFETY: the descriptor is this process's own and not used afterwards.
    unsafe { libc::close(fd) };
}

/// Tells the jailer; if it is gone, this process is about to be.
pub fn report(answer: &Answer) {
    send(CONTROL, answer, None);
}

/// Bytes of control data for so many descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control<const N: usize>([u8; N]);

fn send(control_fd: RawFd, answer: &Answer, descriptor: Option<RawFd>) {
    let mut bytes = answer.bytes();
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 24]);
    // SAFETY: zero bytes are a valid header: no address, no data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(fd) = descriptor {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN compute sizes; the first header lies in `control`, which holds one descriptor.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        }
    }
    // SAFETY: the header describes memory that outlives the call.
    unsafe { libc::sendmsg(control_fd, &raw const message, libc::MSG_NOSIGNAL) };
}

/// Waits for a letter; its bytes and how many descriptors came.
fn receive(letter: &mut [u8], descriptors: &mut [RawFd; DESCRIPTORS_MAX]) -> Result<(usize, usize), Errno> {
    let mut part = libc::iovec { iov_base: letter.as_mut_ptr().cast(), iov_len: letter.len() };
    let mut control = Control([0; 16 + DESCRIPTORS_MAX * size_of::<RawFd>()]);
    // SAFETY: zero bytes are a valid header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: the header describes memory that outlives the call.
    let bytes = unsafe { libc::recvmsg(CONTROL, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let bytes = Errno::result(bytes)? as usize;
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(Errno::EMSGSIZE);
    }
    let mut count = 0;
    // SAFETY: the kernel filled `control` with well-formed headers within `msg_controllen`.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (at, place) in descriptors.iter_mut().enumerate().take(count) {
                *place = data.add(at).read_unaligned();
            }
        }
    }
    Ok((bytes, count))
}
