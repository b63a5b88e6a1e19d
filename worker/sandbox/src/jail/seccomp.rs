//! The seccomp filter of a tier: one classic BPF program.
//!
//! The program finds a call's number by halving: eight comparisons, not three hundred. What counts more is the time of
//! adding it, in the making of each sandbox: the kernel runs a new filter once for each system call there is, to remember
//! those that it allows whatever their arguments (and asks it no more about those). The four lists in a row that the
//! `seccompiler` crate makes of the same tables took 0.93 ms to add on the reference machine, this program 0.15 ms.

use super::tiers::{self, ABSENT, ABSENT_NEWER, ALLOWED, Call, DENIED, NEEDLESS};
use crate::protocol::Tier;
use libc::sock_filter;
use std::collections::BTreeMap;

/// What a function with sockets may do with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sockets {
    /// IPv4, IPv6 and Unix.
    All,
    /// IPv4 and IPv6: in the host's network namespace where the kernel cannot scope abstract Unix sockets.
    Internet,
}

/// What a function may write to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disks {
    /// Memory only.
    None,
    /// Devices of the host, too: it may say when that must be on them.
    Some,
}

/// What the kernel does with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Allow,
    /// Not done; 0 is success.
    Errno(i32),
    Kill,
}

/// A question about a call's argument.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Question {
    /// Which argument, from 0. All that are asked about are of 32 bits in the kernel.
    argument: u32,
    /// These bits of it.
    mask: u32,
    /// Have one of these values.
    values: Vec<u32>,
    /// And must, or must not.
    must: bool,
    /// Else this happens.
    otherwise: Action,
}

/// What happens to a call: the first question that is answered wrongly says it; none: it is allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    Plain(Action),
    Asked(Vec<Question>),
}

/// The filter of a tier, in memory of its own that is never given back: first processes read it when they have forgotten
/// the heap.
#[derive(Clone, Copy)]
pub struct Filter(&'static [sock_filter]);

/// Flags of `clone` that make a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
/// What `prctl` may be asked; the rest is EPERM: `PR_SET_MM`, `PR_SET_PTRACER`, `PR_SCHED_CORE` and what is yet to come.
const PRCTL: &[libc::c_int] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_PDEATHSIG,
    libc::PR_GET_PDEATHSIG,
    libc::PR_SET_DUMPABLE,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_SECCOMP,
    libc::PR_GET_SECCOMP,
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_SET_CHILD_SUBREAPER,
    libc::PR_GET_CHILD_SUBREAPER,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_CAPBSET_READ,
    libc::PR_CAP_AMBIENT,
    libc::PR_SET_KEEPCAPS,
    libc::PR_GET_KEEPCAPS,
    libc::PR_GET_SECUREBITS,
    libc::PR_GET_TID_ADDRESS,
    PR_SET_VMA,
];
/// `PR_SET_VMA`: names of memory areas; allocators use it.
const PR_SET_VMA: libc::c_int = 0x5356_4d41;
/// Terminal calls that put words into a terminal or change whose it is: TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS.
const IOCTLS: &[u32] = &[0x5412, 0x541C, 0x5423, 0x541D];
/// `personality` only asks with the first; 0 is Linux as usual.
const PERSONALITIES: &[u32] = &[0xffff_ffff, 0];
/// The low four bits of a socket's type; above are SOCK_CLOEXEC and SOCK_NONBLOCK.
const SOCKET_TYPE: u32 = 0xf;
/// Absent in tier `strict` only: files that are memory, which could be executed, and memory lent to pipes.
const STRICT_ABSENT: &[Call] = &[("memfd_create", libc::SYS_memfd_create), ("vmsplice", libc::SYS_vmsplice)];

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

impl Filter {
    /// Compiles the filter of a tier.
    pub fn of(tier: Tier, sockets: Sockets, disks: Disks) -> Filter {
        let fates = fates(tier, sockets, disks);
        // A call by another architecture's numbers has another meaning: it ends the process.
        let mut program =
            vec![load(OFFSET_ARCH), jump(BPF_JEQ, ARCH, 1, 0), answer(Action::Kill), load(OFFSET_NUMBER)];
        search(&mut program, &intervals(&fates));
        assert!(program.len() <= BPF_MAXINSNS, "the tables are constants: what fits once fits always");
        Filter(kept(&program))
    }

    /// The program.
    pub fn program(self) -> &'static [sock_filter] {
        self.0
    }
}

/// A copy in pages of its own.
fn kept(program: &[sock_filter]) -> &'static [sock_filter] {
    let bytes = size_of_val(program);
    let memory = crate::sys::memory(bytes).expect("a few pages of memory");
    // SAFETY: the mapping is fresh, zeroed, page-aligned, long enough, and never unmapped.
    unsafe {
        std::ptr::copy_nonoverlapping(program.as_ptr(), memory.cast(), program.len());
        std::slice::from_raw_parts(memory.cast(), program.len())
    }
}

/// What happens to each known call; to all others [`Action::Kill`].
fn fates(tier: Tier, sockets: Sockets, disks: Disks) -> BTreeMap<u32, Fate> {
    let (also, denied) = tiers::of_tier(tier);
    let mut fates = BTreeMap::new();
    let mut all = |tables: &[&[Call]], action: Action| {
        for (_, number) in tables.iter().copied().flatten() {
            fates.insert(*number as u32, Fate::Plain(action));
        }
    };
    all(ALLOWED, Action::Allow);
    all(also, Action::Allow);
    let synced = if disks == Disks::Some { Action::Allow } else { Action::Errno(0) };
    all(&[NEEDLESS], synced);
    all(&[ABSENT, ABSENT_NEWER], Action::Errno(libc::ENOSYS));
    all(&[DENIED], Action::Errno(libc::EPERM));
    all(denied, Action::Errno(libc::EPERM));
    let is_strict = tier == Tier::Strict;
    if is_strict {
        all(&[STRICT_ABSENT], Action::Errno(libc::ENOSYS));
    }
    let denied = Action::Errno(libc::EPERM);
    let one_of = |argument, values: &[u32], otherwise| Question {
        argument,
        mask: u32::MAX,
        values: values.into(),
        must: true,
        otherwise,
    };
    let mut clone = vec![Question {
        argument: 0,
        mask: NAMESPACES,
        values: vec![0],
        must: true,
        otherwise: Action::Kill,
    }];
    if is_strict {
        // A thread is a `clone` with this flag; anything else would be a process.
        let mask = libc::CLONE_THREAD as u32;
        clone.push(Question { argument: 0, mask, values: vec![0], must: false, otherwise: denied });
    }
    let prctl: Vec<u32> = PRCTL.iter().map(|option| *option as u32).collect();
    let stopped = Question { must: false, ..one_of(1, IOCTLS, denied) };
    let unknown = Action::Errno(libc::EAFNOSUPPORT);
    let mut families = vec![libc::AF_INET as u32, libc::AF_INET6 as u32];
    if sockets == Sockets::All {
        families.push(libc::AF_UNIX as u32);
    }
    // No raw and no packet sockets.
    let types = [libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32];
    // One more that says when something must be on a disk; without this flag it only looks at memory.
    let unsynced =
        Question { mask: libc::MS_SYNC as u32, must: false, ..one_of(2, &[libc::MS_SYNC as u32], synced) };
    let typed = Question { mask: SOCKET_TYPE, ..one_of(1, &types, unknown) };
    for (number, questions) in [
        (libc::SYS_clone, clone),
        (libc::SYS_prctl, vec![one_of(0, &prctl, denied)]),
        (libc::SYS_ioctl, vec![stopped]),
        (libc::SYS_personality, vec![one_of(0, PERSONALITIES, denied)]),
        (libc::SYS_socket, vec![one_of(0, &families, unknown), typed]),
        (libc::SYS_msync, vec![unsynced]),
        // A pair reaches nobody else.
        (libc::SYS_socketpair, vec![one_of(0, &[libc::AF_UNIX as u32], unknown)]),
    ] {
        let before = fates.insert(number as u32, Fate::Asked(questions));
        debug_assert_eq!(before, Some(Fate::Plain(Action::Allow)), "questions are about what is allowed");
    }
    fates
}

/// From each of these numbers on, up to the next, the fate is this.
fn intervals(fates: &BTreeMap<u32, Fate>) -> Vec<(u32, Fate)> {
    let kill = Fate::Plain(Action::Kill);
    let mut intervals = vec![(0, kill.clone())];
    let mut next = 0;
    let mut begin = |from: u32, fate: &Fate| {
        if let Some((last, before)) = intervals.last_mut() {
            if before == fate {
                return;
            }
            if *last == from {
                *before = fate.clone();
                return;
            }
        }
        intervals.push((from, fate.clone()));
    };
    for (number, fate) in fates {
        if *number > next {
            begin(next, &kill);
        }
        begin(*number, fate);
        next = number + 1;
    }
    begin(next, &kill);
    intervals
}

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;
const BPF_MAXINSNS: usize = 4096;
/// `BPF_LD | BPF_W | BPF_ABS`.
const BPF_LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const BPF_AND: u16 = 0x54;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const BPF_JEQ: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const BPF_JGE: u16 = 0x35;
/// `BPF_JMP | BPF_JA`.
const BPF_JA: u16 = 0x05;
/// `BPF_RET | BPF_K`.
const BPF_RET: u16 = 0x06;

fn load(offset: u32) -> sock_filter {
    sock_filter { code: BPF_LOAD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn answer(action: Action) -> sock_filter {
    let k = match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
        Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
    };
    sock_filter { code: BPF_RET, jt: 0, jf: 0, k }
}

/// Finds the interval of the loaded number.
fn search(program: &mut Vec<sock_filter>, intervals: &[(u32, Fate)]) {
    let (lower, upper) = intervals.split_at(intervals.len() / 2);
    let ([_, ..], [(from, _), ..]) = (lower, upper) else {
        match &intervals[0].1 {
            Fate::Plain(action) => program.push(answer(*action)),
            Fate::Asked(questions) => ask(program, questions),
        }
        return;
    };
    // The upper half is behind the lower one, farther away than a condition can jump.
    program.push(jump(BPF_JGE, *from, 0, 1));
    let hole = program.len();
    program.push(jump(BPF_JA, 0, 0, 0));
    search(program, lower);
    program[hole].k = (program.len() - hole - 1) as u32;
    search(program, upper);
}

fn ask(program: &mut Vec<sock_filter>, questions: &[Question]) {
    for question in questions {
        // The lower half of the argument: both architectures are little-endian.
        program.push(load(OFFSET_ARGUMENTS + 8 * question.argument));
        if question.mask != u32::MAX {
            program.push(sock_filter { code: BPF_AND, jt: 0, jf: 0, k: question.mask });
        }
        let count = question.values.len();
        for (at, value) in question.values.iter().enumerate() {
            // To behind the last comparison: there stands what happens if none is equal, then what else.
            program.push(jump(BPF_JEQ, *value, (count - at) as u8, 0));
        }
        match question.must {
            // No value: the end. A value: over it.
            true => program.push(answer(question.otherwise)),
            // No value: over the end. A value: the end.
            false => {
                program.push(jump(BPF_JA, 1, 0, 0));
                program.push(answer(question.otherwise));
            }
        }
    }
    program.push(answer(Action::Allow));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a call.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 3]) -> u32 {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                BPF_LOAD => {
                    a = match step.k {
                        OFFSET_NUMBER => number,
                        OFFSET_ARCH => arch,
                        offset => arguments[((offset - OFFSET_ARGUMENTS) / 8) as usize] as u32,
                    }
                }
                BPF_AND => a &= step.k,
                BPF_JEQ => at += usize::from(if a == step.k { step.jt } else { step.jf }),
                BPF_JGE => at += usize::from(if a >= step.k { step.jt } else { step.jf }),
                BPF_JA => at += step.k as usize,
                BPF_RET => return step.k,
                other => panic!("no instruction {other:#x}"),
            }
        }
    }

    const EVERY: [(Tier, Sockets, Disks); 5] = [
        (Tier::Default, Sockets::All, Disks::None),
        (Tier::Default, Sockets::All, Disks::Some),
        (Tier::Default, Sockets::Internet, Disks::None),
        (Tier::Strict, Sockets::All, Disks::None),
        (Tier::Strict, Sockets::Internet, Disks::Some),
    ];

    #[test]
    fn the_program_says_of_each_number_what_the_tables_say() {
        for (tier, sockets, disks) in EVERY {
            let filter = Filter::of(tier, sockets, disks);
            let fates = fates(tier, sockets, disks);
            let odd = [0x4000_0000, 0x4000_0000 | libc::SYS_read as u32, u32::MAX];
            for number in (0..1000).chain(odd) {
                let plain = match fates.get(&number) {
                    Some(Fate::Asked(_)) => continue,
                    Some(Fate::Plain(action)) => *action,
                    None => Action::Kill,
                };
                let told = run(filter.program(), ARCH, number, [0; 3]);
                assert_eq!(told, answer(plain).k, "{tier:?} {number}");
                let foreign = run(filter.program(), 0x4000_0003, number, [0; 3]);
                assert_eq!(foreign, answer(Action::Kill).k, "32-bit calls");
            }
            assert!(filter.program().len() < 700, "{} steps", filter.program().len());
        }
    }

    #[test]
    fn arguments_are_looked_at() {
        let of = |tier, sockets, number: libc::c_long, arguments| {
            run(Filter::of(tier, sockets, Disks::None).program(), ARCH, number as u32, arguments)
        };
        let told = |number, arguments| of(Tier::Default, Sockets::All, number, arguments);
        let (allow, kill) = (answer(Action::Allow).k, answer(Action::Kill).k);
        let errno = |errno| answer(Action::Errno(errno)).k;
        let thread = libc::CLONE_THREAD as u64;
        assert_eq!(told(libc::SYS_clone, [17, 0, 0]), allow);
        assert_eq!(told(libc::SYS_clone, [libc::CLONE_NEWUSER as u64 | 17, 0, 0]), kill);
        assert_eq!(of(Tier::Strict, Sockets::All, libc::SYS_clone, [17, 0, 0]), errno(libc::EPERM));
        assert_eq!(of(Tier::Strict, Sockets::All, libc::SYS_clone, [thread, 0, 0]), allow);
        assert_eq!(of(Tier::Strict, Sockets::All, libc::SYS_clone, [thread | NAMESPACES as u64, 0, 0]), kill);
        for option in PRCTL {
            assert_eq!(told(libc::SYS_prctl, [*option as u64, 0, 0]), allow);
        }
        assert_eq!(told(libc::SYS_prctl, [libc::PR_SET_MM as u64, 0, 0]), errno(libc::EPERM));
        for request in IOCTLS {
            assert_eq!(told(libc::SYS_ioctl, [0, 1 << 32 | u64::from(*request), 0]), errno(libc::EPERM));
        }
        assert_eq!(told(libc::SYS_ioctl, [0, 0x5413, 0]), allow);
        assert_eq!(told(libc::SYS_personality, [8, 0, 0]), errno(libc::EPERM));
        assert_eq!(told(libc::SYS_personality, [u64::MAX, 0, 0]), allow);
        let socket = |sockets, family: i32, kind: i32| {
            of(Tier::Default, sockets, libc::SYS_socket, [family as u64, kind as u64, 0])
        };
        let refused = errno(libc::EAFNOSUPPORT);
        assert_eq!(socket(Sockets::All, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC), allow);
        assert_eq!(socket(Sockets::Internet, libc::AF_UNIX, libc::SOCK_STREAM), refused);
        assert_eq!(socket(Sockets::All, libc::AF_INET, libc::SOCK_RAW), refused);
        assert_eq!(socket(Sockets::All, libc::AF_NETLINK, libc::SOCK_DGRAM), refused);
        assert_eq!(told(libc::SYS_socketpair, [libc::AF_INET as u64, 1, 0]), refused);
        let sync = libc::MS_SYNC as u64;
        assert_eq!(told(libc::SYS_msync, [0, 0, libc::MS_ASYNC as u64]), allow);
        assert_eq!(told(libc::SYS_msync, [0, 0, sync | libc::MS_INVALIDATE as u64]), errno(0));
        let with_disk = Filter::of(Tier::Default, Sockets::All, Disks::Some);
        assert_eq!(run(with_disk.program(), ARCH, libc::SYS_msync as u32, [0, 0, sync]), allow);
    }
}
