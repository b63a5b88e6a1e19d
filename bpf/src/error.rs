//! Why a program is not attached, and what to do about it.

use crate::policy::PolicyError;
use libbpf_rs::PrintLevel;
use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a BPF program is not attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BpfError {
    /// No process of this id is there.
    NoProcess(u32),
    /// The process asks from inside a PID namespace: the kernel's ids are not its ids.
    PidNamespace,
    /// The kernel does not describe its types.
    NoBtf,
    /// The kernel wants more privilege.
    Privilege {
        /// What was refused.
        step: &'static str,
    },
    /// Another process enforces under this name.
    Held {
        /// The folder of pins.
        pins: PathBuf,
    },
    /// A policy demands what is not in force.
    NotInForce {
        /// The group of programs.
        what: &'static str,
    },
    /// A policy does not fit the maps.
    Policy(PolicyError),
    /// The kernel refused for another reason.
    Refused {
        /// What was refused.
        step: &'static str,
        /// What kernel and libbpf said.
        reason: String,
    },
}

impl fmt::Display for BpfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BpfError::NoProcess(pid) => write!(f, "there is no process {pid}"),
            BpfError::PidNamespace => f.write_str(
                "BPF sees process ids of the host, and this process runs in a PID namespace; run it on the host \
                 (docker: --pid=host)",
            ),
            BpfError::NoBtf => f.write_str(
                "the kernel has no BTF (/sys/kernel/btf/vmlinux is missing); boot one built with \
                 CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are",
            ),
            BpfError::Privilege { step } => write!(
                f,
                "the kernel does not let this user {step}; run as root, or with CAP_BPF and CAP_PERFMON. If this is \
                 root, a security policy (lockdown, seccomp, container) forbids it",
            ),
            BpfError::Held { pins } => write!(
                f,
                "another process enforces by the pins in {}; stop it, or give this worker another name",
                pins.display()
            ),
            BpfError::NotInForce { what } => {
                write!(f, "it demands {what}, and the BPF programs for that are not in force on this host")
            }
            BpfError::Policy(error) => error.fmt(f),
            BpfError::Refused { step, reason } => write!(f, "the kernel refused to {step}: {reason}"),
        }
    }
}

impl std::error::Error for BpfError {}

impl BpfError {
    /// What can be known before anything is tried.
    pub(crate) fn foresee() -> Result<(), BpfError> {
        // The inode of the first PID namespace is fixed: PROC_PID_INIT_INO in the kernel's proc_ns.h.
        const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
        let namespace = std::fs::read_link("/proc/self/ns/pid");
        if namespace.is_ok_and(|link| link != Path::new(FIRST_PID_NAMESPACE)) {
            return Err(BpfError::PidNamespace);
        }
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(BpfError::NoBtf);
        }
        Ok(())
    }

    /// From libbpf's error, and the warnings it gave meanwhile.
    pub(crate) fn of(step: &'static str, error: &libbpf_rs::Error, warnings: &str) -> BpfError {
        if error.kind() == libbpf_rs::ErrorKind::PermissionDenied {
            return BpfError::Privilege { step };
        }
        // The verifier's log is long, and its end says what it did not like.
        let lines: Vec<&str> = warnings.lines().filter(|line| !line.trim().is_empty()).collect();
        let end = lines[lines.len().saturating_sub(12)..].join("; ");
        let reason = if end.is_empty() { format!("{error:#}") } else { format!("{error:#} ({end})") };
        BpfError::Refused { step, reason }
    }
}

thread_local! {
    /// What libbpf warned of while this thread loaded: it knows why a verifier refused, its errors do not say.
    static WARNINGS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What libbpf warns of on this thread from now on.
pub(crate) struct Warnings(());

impl Warnings {
    pub(crate) fn capture() -> Warnings {
        libbpf_rs::set_print(Some((PrintLevel::Warn, |_, line| {
            WARNINGS.with_borrow_mut(|warnings| warnings.push_str(&line));
        })));
        WARNINGS.with_borrow_mut(String::clear);
        Warnings(())
    }

    /// This error of libbpf, with the warnings so far.
    pub(crate) fn error(&self, step: &'static str, error: &libbpf_rs::Error) -> BpfError {
        WARNINGS.with_borrow(|warnings| BpfError::of(step, error, warnings))
    }
}
