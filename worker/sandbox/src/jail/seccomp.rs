//! The seccomp filters of a tier.
//!
//! A filter of the `seccompiler` crate knows two outcomes, so that a tier is several filters; the kernel takes the
//! harshest answer of all. First: what is not in the tier's tables ends the process. Then, one filter for each error:
//! what is refused politely, some of it by argument. The kernel remembers which calls all filters allow whatever their
//! arguments, and asks no filter about those.

use super::tiers::{self, ABSENT, ALLOWED, Call, DENIED};
use crate::protocol::Tier;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// What a function with sockets may do with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sockets {
    /// IPv4, IPv6 and Unix.
    All,
    /// IPv4 and IPv6: in the host's network namespace where the kernel cannot scope abstract Unix sockets.
    Internet,
}

/// The filters of a tier, in the order in which they are added.
pub struct Filters(Vec<BpfProgram>);

/// Flags of `clone` that make a namespace.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
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
const IOCTLS: &[u64] = &[0x5412, 0x541C, 0x5423, 0x541D];
/// `personality` only asks with this; 0 is Linux as usual.
const PERSONALITY_ASK: u64 = 0xffff_ffff;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Filters {
    /// Compiles the filters of a tier.
    pub fn of(tier: Tier, sockets: Sockets) -> Filters {
        let (also, denied) = tiers::of_tier(tier);
        let politely = [ABSENT, DENIED].into_iter().chain(denied.iter().copied());
        let mut known: Rules = table(ALLOWED.iter().chain(also).copied().chain(politely));
        known.insert(libc::SYS_clone, vec![rule(&[masked(0, NAMESPACES, 0)])]);

        let mut absent = table([ABSENT]);
        let mut perm = table([DENIED].into_iter().chain(denied.iter().copied()));
        perm.insert(libc::SYS_prctl, vec![rule(&PRCTL.iter().map(|o| differs(0, *o as u64)).collect::<Vec<_>>())]);
        perm.insert(libc::SYS_ioctl, IOCTLS.iter().map(|request| rule(&[equals(1, *request)])).collect());
        perm.insert(
            libc::SYS_personality,
            vec![rule(&[differs(0, PERSONALITY_ASK), differs(0, 0)])],
        );
        if tier == Tier::Strict {
            // A thread is a `clone` with this flag; anything else would be a process.
            perm.insert(libc::SYS_clone, vec![rule(&[masked(0, libc::CLONE_THREAD as u64, 0)])]);
            absent.extend(table([STRICT_ABSENT]));
        }
        let family = families(sockets);
        let filters = [
            compile(known, SeccompAction::KillProcess, SeccompAction::Allow),
            compile(absent, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32)),
            compile(perm, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32)),
            compile(family, SeccompAction::Allow, SeccompAction::Errno(libc::EAFNOSUPPORT as u32)),
        ];
        Filters(filters.into())
    }

    /// The programs, to be added in this order.
    pub fn programs(&self) -> impl Iterator<Item = &[seccompiler::sock_filter]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Absent in tier `strict` only: files that are memory, which could be executed, and asynchronous file I/O.
const STRICT_ABSENT: &[Call] = &[
    ("memfd_create", libc::SYS_memfd_create),
    ("io_setup", libc::SYS_io_setup),
    ("vmsplice", libc::SYS_vmsplice),
];

/// `socket` and `socketpair` of another family, or of another type than stream and datagram: no raw, no packet sockets,
/// no netlink.
fn families(sockets: Sockets) -> Rules {
    let mut families = vec![libc::AF_INET as u64, libc::AF_INET6 as u64];
    if sockets == Sockets::All {
        families.push(libc::AF_UNIX as u64);
    }
    let mut rules = vec![rule(&families.iter().map(|family| differs(0, *family)).collect::<Vec<_>>())];
    // The type's low four bits; above are SOCK_CLOEXEC and SOCK_NONBLOCK.
    let types = (0..16u64).filter(|kind| !matches!(*kind as libc::c_int, libc::SOCK_STREAM | libc::SOCK_DGRAM));
    rules.extend(types.map(|kind| rule(&[masked(1, 0xf, kind)])));
    // A pair reaches nobody else.
    let pair = vec![rule(&[differs(0, libc::AF_UNIX as u64)])];
    Rules::from([(libc::SYS_socket, rules), (libc::SYS_socketpair, pair)])
}

/// Rules that match each call of the tables, whatever its arguments.
fn table(tables: impl IntoIterator<Item = &'static [Call]>) -> Rules {
    tables.into_iter().flatten().map(|(_, number)| (*number, Vec::new())).collect()
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> BpfProgram {
    // The tables are constants: what compiles once, in a test, compiles always.
    let filter = SeccompFilter::new(rules, otherwise, matched, ARCH).expect("the tables make a filter");
    filter.try_into().expect("the filter fits the kernel's bound")
}

fn rule(conditions: &[SeccompCondition]) -> SeccompRule {
    SeccompRule::new(conditions.to_vec()).expect("a rule has a condition")
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> SeccompCondition {
    // All arguments looked at are 32-bit in the kernel; the upper half is not its business.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value).expect("an argument has an index up to 5")
}

fn equals(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn differs(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_compiles() {
        for (tier, sockets) in [
            (Tier::Default, Sockets::All),
            (Tier::Default, Sockets::Internet),
            (Tier::Strict, Sockets::All),
            (Tier::Strict, Sockets::Internet),
        ] {
            assert_eq!(Filters::of(tier, sockets).programs().count(), 4);
        }
    }
}
