//! What `/proc/self/mountinfo` and `/proc/self/cgroup` say. Pure: texts in, places out.

use super::hierarchy::{Controller, Version};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mounted tree of groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mounted {
    pub version: Version,
    /// Those of version 1; a v2 tree says which it has in `cgroup.controllers`.
    pub controllers: Vec<Controller>,
    /// Where.
    pub at: PathBuf,
    /// This process's own group, as a directory below `at`; none if the mount does not show it.
    pub own: Option<PathBuf>,
    pub is_writable: bool,
}

/// All trees with controllers that we know, each once, and the v2 tree, in the order in which they were mounted.
pub(super) fn mounted(mountinfo: &str, own: &str) -> Vec<Mounted> {
    let mut found: Vec<Mounted> = Vec::new();
    for line in mountinfo.lines() {
        let Some(mount) = parse(line, own) else { continue };
        let same = |other: &Mounted| other.version == mount.version && other.controllers == mount.controllers;
        match found.iter_mut().find(|other| same(other)) {
            // A second mount of the same tree: one that can be used wins.
            Some(other) if !other.is_writable || other.own.is_none() => *other = mount,
            Some(_) => {}
            None => found.push(mount),
        }
    }
    found
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - type source super,options`
fn parse(line: &str, own: &str) -> Option<Mounted> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, at, options) = (front.next()?, front.next()?, front.next()?);
    let mut back = back.split(' ');
    let (kind, _source, of_super) = (back.next()?, back.next()?, back.next()?);
    let (version, controllers) = match kind {
        "cgroup2" => (Version::Two, Vec::new()),
        "cgroup" => (Version::One, of_super.split(',').filter_map(Controller::of_v1).collect::<Vec<_>>()),
        _ => return None,
    };
    if version == Version::One && controllers.is_empty() {
        return None;
    }
    let (root, at) = (unescape(root), unescape(at));
    let path = own_path(own, version, controllers.first().copied());
    Some(Mounted {
        own: path.and_then(|path| Some(below(&at, Path::new(&path).strip_prefix(&root).ok()?))),
        version,
        controllers,
        at,
        is_writable: options.split(',').any(|option| option == "rw"),
    })
}

/// Without the slash at its end that joining nothing would leave.
fn below(at: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { at.to_owned() } else { at.join(path) }
}

/// The third field of the line of this tree: `4:memory:/some/group`, `0::/some/group`.
fn own_path(own: &str, version: Version, controller: Option<Controller>) -> Option<String> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            Version::Two => number == "0",
            Version::One => names.split(',').any(|name| Controller::of_v1(name) == controller),
        };
        // A group outside this process's cgroup namespace is shown from the namespace's root: `/../..`.
        (is_it && !path.contains("/..")).then(|| path.to_owned())
    })
}

/// Blanks and the like stand as octal numbers: `\040`.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let octal = bytes.get(index + 1..index + 4).filter(|_| bytes[index] == b'\\');
        let code = octal.and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
        plain.push(code.unwrap_or(bytes[index]));
        index += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str = "5:name=systemd:/x\n4:memory:/some/group\n1:cpuacct,cpu:/\n0::/app\n";

    #[test]
    fn a_hybrid_host_binds_each_controller_in_one_place() {
        let found = mounted(HYBRID, OWN);
        let trees: Vec<_> = found.iter().map(|tree| (tree.version, tree.own.clone().unwrap())).collect();
        assert_eq!(
            trees,
            [
                (Version::One, "/sys/fs/cgroup/cpu,cpuacct".into()),
                (Version::One, "/sys/fs/cgroup/memory/some/group".into()),
                (Version::Two, "/sys/fs/cgroup/unified/app".into()),
            ]
        );
        assert_eq!(found[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
    }

    #[test]
    fn a_container_without_a_cgroup_namespace_sees_its_own_part() {
        let mountinfo = "9 8 0:3 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        let found = mounted(mountinfo, "0::/docker/abc/inner\n");
        assert_eq!(found[0].own.as_deref(), Some(Path::new("/sys/fs/cgroup/inner")));
        assert!(!found[0].is_writable);
        assert_eq!(mounted(mountinfo, "0::/elsewhere\n")[0].own, None);
        assert_eq!(mounted(mountinfo, "0::/../other\n")[0].own, None);
    }

    #[test]
    fn of_two_mounts_of_a_tree_the_writable_one_is_taken() {
        let mountinfo = "9 8 0:3 / /a ro - cgroup2 c rw\n10 8 0:3 / /b\\040c rw - cgroup2 c rw\n11 8 0:3 / /d rw - cgroup2 c rw\n";
        let found = mounted(mountinfo, "0::/\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].at, Path::new("/b c"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(mountinfo in "[ -~\n\\\\]{0,200}", own in "[ -~\n]{0,80}") {
            mounted(&mountinfo, &own);
        }

        #[test]
        fn a_path_comes_back_from_its_escaped_form(path in "/[a-z \\\\\t]{0,20}") {
            let escaped: String = path.bytes().map(|b| match b {
                b' ' | b'\\' | b'\t' => format!("\\{b:03o}"),
                b => (b as char).to_string(),
            }).collect();
            prop_assert_eq!(unescape(&escaped), PathBuf::from(path));
        }
    }
}
