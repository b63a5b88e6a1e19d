//! The Landlock ruleset of a sandbox: reading and executing everywhere, writing below `/tmp` and to the devices only,
//! and, where the kernel can, no abstract Unix socket and no signal beyond the function's own processes.
//!
//! It repeats what mounts and namespaces say already, in another part of the kernel.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};
use std::os::fd::{BorrowedFd, OwnedFd};

/// The newest version that is asked for; an older kernel gives what it has.
const NEWEST: ABI = ABI::V6;
/// From this version on abstract Unix sockets and signals are scoped.
const SCOPES: u32 = 6;

/// What of Landlock the kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version(u32);

impl Version {
    /// Asks the kernel.
    pub fn of_kernel() -> Version {
        Version(crate::sys::landlock_version())
    }

    /// Whether abstract Unix sockets and signals are scoped.
    pub fn has_scopes(self) -> bool {
        self.0 >= SCOPES
    }

    /// For people.
    pub fn text(self) -> String {
        match self.0 {
            0 => "none: the kernel was built or booted without it".into(),
            version if self.has_scopes() => format!("ABI {version}"),
            version => format!("ABI {version}, without scopes of sockets and signals"),
        }
    }
}

/// A ruleset for a root, its `/tmp`, and the device files in it; none if the kernel has no Landlock.
///
/// # Errors
/// If the kernel refuses it.
pub fn ruleset(
    root: BorrowedFd<'_>,
    tmp: BorrowedFd<'_>,
    devices: &[BorrowedFd<'_>],
) -> Result<Option<OwnedFd>, RulesetError> {
    let read = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(root, read))?
        .add_rule(PathBeneath::new(tmp, AccessFs::from_all(NEWEST)))?;
    for file in devices {
        ruleset = ruleset.add_rule(PathBeneath::new(*file, device))?;
    }
    Ok(ruleset.into())
}
