//! Bundles: the files of a process function, deployed as one tar or tar.gz and unpacked once on each host.
//!
//! `<cache>/bundles/<sha256>/` holds the files, world-readable, as `/var/task` of its sandboxes sees them;
//! `<cache>/bundles/<sha256>.json` beside it says what belongs there, and appears last. What does not match is unpacked
//! again. Within one boot of the host a look at sizes, modes and times is enough, since whoever writes to a file changes
//! its time; after another boot, which may have been a power cut, the contents' checksums are compared too. So nothing
//! needs to be synced.
//!
//! **Trust.** The archive comes from a stranger. It is read in one pass with bounds on bytes, entries and names; an entry
//! never replaces another one nor lies behind a symbolic link; links are made after all files, and only if they lead to
//! some place inside. Nothing but directories, plain files and symbolic links is taken; of the mode the executable bit
//! is, of owner and times nothing.

use call::function::Base;
use call::function::process::{self, ProcessSpec};
use call::limits::{BUNDLE_BYTES_MAX, BUNDLE_ENTRIES_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

mod archive;
mod store;
#[cfg(test)]
mod tests;

pub use archive::{inspect, unpack_into};
pub use store::{directory, ensure, sweep, unpack};

/// Symbolic links followed on one path, as in the kernel.
const LINKS_FOLLOWED_MAX: u32 = 40;
/// Steps on all paths of all links together.
const LINK_STEPS_MAX: u32 = 1 << 22;

/// Why a bundle is refused. Each says what is wrong, then, behind a semicolon, what to do.
#[derive(Debug)]
pub enum BundleError {
    /// It is no tar, or a damaged one; what is wrong.
    Tar(String),
    /// It is larger than [`BUNDLE_BYTES_MAX`], unpacked.
    TooLarge,
    /// It has more entries than [`BUNDLE_ENTRIES_MAX`].
    TooMany,
    /// An entry's name cannot be used; the name, and why.
    Name(String, &'static str),
    /// An entry is neither directory, file nor symbolic link; its name, and what it is.
    Kind(String, &'static str),
    /// An entry is there twice, or lies behind one that is no directory; its name.
    Twice(String),
    /// A symbolic link leads outside, or nowhere to an end; its name, and where it leads.
    Link(String, String),
    /// The command cannot be started; why.
    Command(String),
    /// The host's file system refused; path and why.
    Io(PathBuf, io::Error),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BundleError::Tar(what) => {
                write!(f, "is not a sound tar or tar.gz: {what}; make it with `tar -cf` or name a directory")
            }
            BundleError::TooLarge => write!(
                f,
                "has more than {} MiB unpacked; leave out tests, caches and debug symbols",
                BUNDLE_BYTES_MAX >> 20
            ),
            BundleError::TooMany => {
                write!(
                    f,
                    "has more than {BUNDLE_ENTRIES_MAX} files and directories; leave out tests and caches"
                )
            }
            BundleError::Name(name, why) => {
                write!(f, "holds an entry {name:?}, whose name {why}; rename or leave it out")
            }
            BundleError::Kind(name, what) => write!(f, "holds {name:?}, {what}"),
            BundleError::Twice(name) => {
                write!(f, "holds {name:?} twice, or below something that is no directory; make it anew")
            }
            BundleError::Link(name, target) => write!(
                f,
                "holds a symbolic link {name:?} to {target:?}, which does not lead to a place inside; make it relative \
                 and inside the bundle, or copy the file"
            ),
            BundleError::Command(why) => f.write_str(why),
            BundleError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for BundleError {}

/// What stands at a path of a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Item {
    /// A directory.
    Directory,
    /// A plain file.
    File {
        /// Whether it may be executed.
        executable: bool,
        /// Its size.
        bytes: u64,
        /// CRC-32C of its contents.
        crc: u32,
    },
    /// A symbolic link to this relative path.
    Link(String),
}

/// All that a bundle holds, by path relative to its root, without `.` and `..`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Contents {
    /// What stands where. Parents are there too, and sort before their children.
    pub items: BTreeMap<String, Item>,
}

impl Contents {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let of = |item: &Item| if let Item::File { bytes, .. } = item { *bytes } else { 0 };
        self.items.values().map(of).sum()
    }

    /// Checks what can be known of a function's command without starting it: that a program of the bundle is there and
    /// may be executed.
    ///
    /// # Errors
    /// [`BundleError::Command`].
    pub fn check_command(&self, spec: &ProcessSpec) -> Result<(), BundleError> {
        let Some(program) = spec.command.first() else { return Ok(()) };
        let inside = match process::in_task_root(program) {
            Some(inside) => inside,
            // Then `PATH` leads to nothing but the bundle's top.
            None if !program.contains('/')
                && spec.base == Base::None
                && !spec.environment.contains_key("PATH") =>
            {
                program.clone()
            }
            None => return Ok(()),
        };
        let refused = |why: &str| Err(BundleError::Command(format!("has no program for its command: {why}")));
        match self.resolve(&inside, &mut LINK_STEPS_MAX.clone()).and_then(|path| self.items.get(&path)) {
            Some(Item::File { executable: true, .. }) => Ok(()),
            Some(Item::File { .. }) => {
                refused(&format!("`{inside}` is not executable; `chmod +x` it before it is packed"))
            }
            Some(_) => refused(&format!("`{inside}` is a directory; name a file in `command`")),
            None => refused(&format!(
                "`{inside}` is not in it; correct `command` or `bundle`, or name a program of the base without a slash"
            )),
        }
    }

    /// Where a path leads when all links are followed; `None` if outside or in circles. Costs `steps`.
    fn resolve(&self, path: &str, steps: &mut u32) -> Option<String> {
        let mut ahead: Vec<&str> = path.split('/').rev().collect();
        let (mut at, mut links) = (String::new(), 0);
        while let Some(part) = ahead.pop() {
            *steps = steps.checked_sub(1)?;
            match part {
                "" | "." => continue,
                ".." if at.is_empty() => return None,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                part => {
                    let parent = at.len();
                    if parent > 0 {
                        at.push('/');
                    }
                    at.push_str(part);
                    if let Some(Item::Link(target)) = self.items.get(&at) {
                        links += 1;
                        if links > LINKS_FOLLOWED_MAX || target.starts_with('/') {
                            return None;
                        }
                        at.truncate(parent);
                        ahead.extend(target.split('/').rev());
                    }
                }
            }
        }
        Some(at)
    }

    /// Checks that each link leads to a place inside, whether something stands there or not.
    fn check_links(&self) -> Result<(), BundleError> {
        let mut steps = LINK_STEPS_MAX;
        for (path, item) in &self.items {
            if let Item::Link(target) = item
                && self.resolve(path, &mut steps).is_none()
            {
                return Err(BundleError::Link(path.clone(), target.clone()));
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> BundleError {
    move |error| BundleError::Io(path.into(), error)
}
