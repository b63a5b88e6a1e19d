//! The programs on packets, which are attached to the groups of those sandboxes that use the host's network, each on its
//! own: what a sandbox with a network of its own sends to itself costs nothing then.
//!
//! They are attached to the group itself and not by a pinned link, so that they are there as long as the group is, whoever
//! lives, and nobody has to remember which links belong to which group.

use crate::error::BpfError;
use libbpf_rs::{Program, libbpf_sys};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Programs, and where each is attached.
const PROGRAMS: [(&str, libbpf_sys::bpf_attach_type); 2] =
    [("on_egress", libbpf_sys::BPF_CGROUP_INET_EGRESS), ("on_ingress", libbpf_sys::BPF_CGROUP_INET_INGRESS)];
/// Programs of one kind that the kernel lets be attached to one group: `BPF_CGROUP_MAX_PROGS`.
const ATTACHED_MAX: usize = 64;

/// Whether a program is attached to groups of sandboxes instead of the platform's.
pub fn is_guard(program: &str) -> bool {
    PROGRAMS.iter().any(|(name, _)| *name == program)
}

/// The programs of this load.
#[derive(Debug)]
pub struct Guards {
    programs: [OwnedFd; 2],
}

impl Guards {
    /// Opens them where they are pinned.
    pub fn open(pin: impl Fn(&str) -> std::path::PathBuf) -> Result<Guards, BpfError> {
        let open = |at: usize| {
            Program::fd_from_pinned_path(pin(PROGRAMS[at].0))
                .map_err(|error| BpfError::of("open a pinned program", &error, ""))
        };
        Ok(Guards { programs: [open(0)?, open(1)?] })
    }

    /// Attaches them to this group, and then detaches what was there before: there is always one of each.
    pub fn put(&self, group: &Path) -> Result<(), BpfError> {
        let opened = open(group)?;
        for ((_, kind), program) in PROGRAMS.into_iter().zip(&self.programs) {
            let id = Program::id_from_fd(std::os::fd::AsFd::as_fd(program));
            let id = id.map_err(|error| BpfError::of("look at a program", &error, ""))?;
            let before = attached(&opened, kind).map_err(|error| refused(group, &error))?;
            if !before.contains(&id) {
                attach(&opened, program, kind).map_err(|error| refused(group, &error))?;
            }
            for other in before.into_iter().filter(|other| *other != id) {
                detach(&opened, other, kind).map_err(|error| refused(group, &error))?;
            }
        }
        Ok(())
    }
}

/// Detaches the programs of whatever load from this group.
pub fn remove(group: &Path) -> Result<(), BpfError> {
    let opened = open(group)?;
    for (_, kind) in PROGRAMS {
        for program in attached(&opened, kind).map_err(|error| refused(group, &error))? {
            detach(&opened, program, kind).map_err(|error| refused(group, &error))?;
        }
    }
    Ok(())
}

fn open(group: &Path) -> Result<File, BpfError> {
    File::open(group).map_err(|error| refused(group, &error))
}

fn refused(group: &Path, error: &io::Error) -> BpfError {
    let step = "attach the programs on packets to a sandbox's group";
    match error.kind() {
        io::ErrorKind::PermissionDenied => BpfError::Privilege { step },
        _ => BpfError::Refused { step, reason: format!("{}: {error}", group.display()) },
    }
}

/// The ids of the programs that are attached to this very group.
fn attached(group: &File, kind: libbpf_sys::bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; ATTACHED_MAX];
    let (mut count, mut flags) = (ATTACHED_MAX as u32, 0_u32);
    // SAFETY: room for `count` ids, and a word for each answer; all outlive the call.
    let result = unsafe {
        libbpf_sys::bpf_prog_query(
            group.as_raw_fd(),
            kind,
            0,
            &raw mut flags,
            ids.as_mut_ptr(),
            &raw mut count,
        )
    };
    done(result)?;
    Ok(ids[..count as usize].to_vec())
}

fn attach(group: &File, program: &OwnedFd, kind: libbpf_sys::bpf_attach_type) -> io::Result<()> {
    // SAFETY: two open descriptors and plain numbers.
    done(unsafe {
        libbpf_sys::bpf_prog_attach(
            program.as_raw_fd(),
            group.as_raw_fd(),
            kind,
            libbpf_sys::BPF_F_ALLOW_MULTI,
        )
    })
}

fn detach(group: &File, program: u32, kind: libbpf_sys::bpf_attach_type) -> io::Result<()> {
    let program = Program::fd_from_id(program).map_err(|error| io::Error::other(error.to_string()))?;
    // SAFETY: two open descriptors and plain numbers.
    done(unsafe { libbpf_sys::bpf_prog_detach2(program.as_raw_fd(), group.as_raw_fd(), kind) })
}

/// libbpf gives the number of the error, negative.
fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
