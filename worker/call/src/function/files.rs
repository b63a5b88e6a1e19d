//! Which directories of its host a wasm function sees.

use super::SpecError;
use std::collections::BTreeMap;

/// Directories that a manifest may ask for: each is a descriptor of every instance.
pub const GRANTS_MAX: usize = 8;
/// Bytes of the longest path in a grant, on either side.
pub const GRANT_BYTES_MAX: usize = 1024;

/// Grants of a wasm function: by the path that it has for the function, the absolute path of a directory of the host.
/// Read-only, with all below it; the operator of a worker must allow it too. At most [`GRANTS_MAX`].
pub type FileGrants = BTreeMap<String, String>;

/// The parts of an absolute path without `.`, `..`, doubled or trailing slashes; none for the root itself. `None` if it
/// is not such a path.
pub fn parts(path: &str) -> Option<impl Iterator<Item = &str>> {
    let rest = path.strip_prefix('/')?;
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    let is_path = rest.is_empty() || rest.split('/').all(is_plain);
    is_path.then(|| rest.split('/').filter(|part| !part.is_empty()))
}

pub(crate) fn check(grants: &FileGrants) -> Result<(), SpecError> {
    let refuse = |place: String, message: String| Err(SpecError { place, message });
    if grants.len() > GRANTS_MAX {
        let message = format!("has {} directories, at most {GRANTS_MAX} allowed", grants.len());
        return refuse("files".into(), message);
    }
    for (name, directory) in grants {
        let shown: String = name.chars().take(64).collect();
        let place = format!("files.{shown}");
        if name.len().max(directory.len()) > GRANT_BYTES_MAX {
            return refuse(place, format!("holds a path of more than {GRANT_BYTES_MAX} bytes"));
        }
        if parts(name).is_none() {
            let message = "is no path that a function can have; write it absolute and plain, like \"/models\" = \"/srv/models\"";
            return refuse(place, message.into());
        }
        if parts(directory).is_none_or(|mut parts| parts.next().is_none()) {
            let shown: String = directory.chars().take(64).collect();
            let message = format!(
                "is {shown:?}; write the absolute path of a directory of the host, without `.` and `..`, and not the root"
            );
            return refuse(place, message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What counts as parts is joined again to the same path, and leads nowhere but down.
        #[test]
        fn a_path_of_parts_is_plain(path in "[/a.\\x00\u{e4}]{0,12}|(/[a-c.]{1,3}){0,5}/?") {
            let parts: Option<Vec<&str>> = parts(&path).map(Iterator::collect);
            if let Some(parts) = parts {
                prop_assert_eq!(format!("/{}", parts.join("/")), path.clone());
                prop_assert!(!parts.iter().any(|part| matches!(*part, "" | "." | "..")));
            }
        }
    }
}
