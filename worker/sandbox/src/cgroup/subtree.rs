//! Below which directory of a tree this process may make groups.

use super::error::{CgroupError, DELEGATE};
use super::hierarchy::Version;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The group that the worker's own processes move to where groups with limits may hold no processes (v2).
pub(super) const LEAF: &str = "millrace-worker";

/// Whose the subtree is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// The tree's root or a container's, and nobody else manages it.
    Ours,
    /// systemd gave it away (`Delegate=yes`).
    Delegated,
    /// Another user's tree, in which this one may write.
    Owned,
    /// systemd manages it and does not know of us. Version 1 bears that, since nothing there is enabled for groups above.
    Managed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subtree {
    pub base: PathBuf,
    pub whose: Whose,
}

/// What decides, so that tests can show other hosts.
pub(super) struct Host<'a> {
    pub is_root: bool,
    /// systemd runs, and so it manages all groups that it did not give away.
    pub has_systemd: bool,
    /// Whether a group was given away: systemd marks it by an extended attribute.
    pub is_delegated: &'a dyn Fn(&Path) -> bool,
    /// Whether this process may make groups in a group, and move processes between those.
    pub is_writable: &'a dyn Fn(&Path) -> bool,
}

impl Host<'_> {
    pub fn this() -> Host<'static> {
        Host {
            is_root: nix::unistd::geteuid().is_root(),
            // As sd_booted(3) decides.
            has_systemd: Path::new("/run/systemd/system").is_dir(),
            is_delegated: &is_delegated,
            is_writable: &is_writable,
        }
    }

    /// `at` is where the tree is mounted, `own` this process's group in it.
    pub fn subtree(&self, version: Version, at: &Path, own: &Path) -> Result<Subtree, CgroupError> {
        let subtree = match version {
            Version::One => Some(self.of_v1(at, own)),
            Version::Two => self.of_v2(at, own),
        };
        let Some(subtree) = subtree else {
            return Err(CgroupError::Unavailable {
                reason: format!("systemd manages {} and has not delegated it", own.display()),
                remedy: DELEGATE,
            });
        };
        match (self.is_writable)(&subtree.base) {
            true => Ok(subtree),
            false => Err(CgroupError::Unavailable {
                reason: format!("{} is not writable", subtree.base.display()),
                remedy: if self.is_root {
                    "mount the cgroup file system read-write (docker: --privileged)"
                } else {
                    DELEGATE
                },
            }),
        }
    }

    fn of_v1(&self, at: &Path, own: &Path) -> Subtree {
        let whose = match self.given(at, own) {
            Some(_) => Whose::Delegated,
            None if self.has_systemd => Whose::Managed,
            None if self.is_root => Whose::Ours,
            None => Whose::Owned,
        };
        Subtree { base: own.to_owned(), whose }
    }

    fn of_v2(&self, at: &Path, own: &Path) -> Option<Subtree> {
        // A worker that runs already has moved itself one down.
        let is_leaf = own != at && own.file_name().is_some_and(|name| name == LEAF);
        let unit = if is_leaf { own.parent().unwrap_or(own) } else { own };
        if let Some(base) = self.given(at, unit) {
            return Some(Subtree { base, whose: Whose::Delegated });
        }
        if self.is_root {
            return (!self.has_systemd).then(|| Subtree { base: unit.to_owned(), whose: Whose::Ours });
        }
        // Handed over by file ownership: as far up as it reaches.
        let above = unit.ancestors().take_while(|group| group.starts_with(at) && (self.is_writable)(group));
        let base = above.last()?.to_owned();
        Some(Subtree { base, whose: Whose::Owned })
    }

    /// The nearest group that systemd gave away to what runs in `own`.
    fn given(&self, at: &Path, own: &Path) -> Option<PathBuf> {
        let mut above = own.ancestors().take_while(|group| group.starts_with(at));
        let given = above.find(|group| (self.is_delegated)(group))?;
        // Given to the user's own systemd, not to us.
        let is_users = given.file_name().is_some_and(|name| name.as_bytes().starts_with(b"user@"));
        (!is_users).then(|| given.to_owned())
    }
}

fn is_delegated(group: &Path) -> bool {
    // systemd sets the first for services of the system and, since version 251, the second for all.
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let (Ok(path), Ok(name)) = (CString::new(group.as_os_str().as_bytes()), CString::new(*name)) else {
            return false;
        };
        let mut value = [0u8; 8];
        // SAFETY: both strings end with NUL, and the kernel writes at most `value.len()` bytes.
        let got =
            unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        got > 0 && value[0] == b'1'
    })
}

fn is_writable(group: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    [group.to_owned(), group.join("cgroup.procs")].iter().all(|path| access(path, AccessFlags::W_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "/sys/fs/cgroup";

    fn v2(host: &Host<'_>, own: &str) -> Result<(PathBuf, Whose), String> {
        let found = host.subtree(Version::Two, Path::new(AT), &Path::new(AT).join(own));
        found.map(|subtree| (subtree.base, subtree.whose)).map_err(|error| error.to_string())
    }

    fn base(path: &str, whose: Whose) -> Result<(PathBuf, Whose), String> {
        Ok((Path::new(AT).join(path), whose))
    }

    #[test]
    fn root_without_systemd_uses_its_own_group() {
        let host =
            Host { is_root: true, has_systemd: false, is_delegated: &|_| false, is_writable: &|_| true };
        assert_eq!(v2(&host, ""), base("", Whose::Ours));
        assert_eq!(v2(&host, "container"), base("container", Whose::Ours));
        assert_eq!(v2(&host, "container/millrace-worker"), base("container", Whose::Ours), "moved already");
        let read_only = Host { is_writable: &|_| false, ..host };
        assert!(v2(&read_only, "").unwrap_err().contains("read-write"));
    }

    #[test]
    fn under_systemd_only_what_was_delegated_is_used() {
        let given = |group: &Path| group.ends_with("millrace.service");
        let host = Host { is_root: true, has_systemd: true, is_delegated: &given, is_writable: &|_| true };
        let unit = "system.slice/millrace.service";
        assert_eq!(v2(&host, unit), base(unit, Whose::Delegated));
        assert_eq!(v2(&host, &format!("{unit}/{LEAF}")), base(unit, Whose::Delegated));
        assert_eq!(
            v2(&host, &format!("{unit}/other")),
            base(unit, Whose::Delegated),
            "DelegateSubgroup=other"
        );
        let refused = v2(&host, "user.slice/session-1.scope").unwrap_err();
        assert!(refused.contains("session-1.scope") && refused.contains("Delegate=yes"), "{refused}");
    }

    #[test]
    fn what_the_users_systemd_was_given_is_not_ours() {
        let given = |group: &Path| group.ends_with("user@1000.service");
        let host = Host { is_root: true, has_systemd: true, is_delegated: &given, is_writable: &|_| true };
        assert!(v2(&host, "user@1000.service/app.slice/terminal.scope").is_err());
    }

    #[test]
    fn another_user_uses_what_it_owns() {
        let owned = |group: &Path| group.starts_with("/sys/fs/cgroup/a/b");
        let host = Host { is_root: false, has_systemd: false, is_delegated: &|_| false, is_writable: &owned };
        assert_eq!(v2(&host, "a/b/c"), base("a/b", Whose::Owned));
        assert!(v2(&host, "a").unwrap_err().contains("Delegate=yes"));
    }
}
