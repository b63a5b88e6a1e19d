//! Packs a directory into a bundle: the same files give the same bytes, whoever packs them and when.

use crate::exit::Failure;
use call::limits::{ARTEFACT_BYTES_MAX, BUNDLE_ENTRIES_MAX};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Bytes of a header and of the padding behind a file.
const BLOCK_BYTES: u64 = 512;
/// Parts of a bundle that is too large which are named in the error.
const LARGEST_NAMED: usize = 3;

/// Packs all that is below `directory`, the directory itself not included: sorted by name, without owners and times, a
/// mode of 0755 for what may be executed and 0644 for the rest. Symbolic links are kept as links.
///
/// # Errors
/// A file that cannot be read, a name that is not UTF-8, a socket or the like, too many files, too many bytes.
pub fn pack(directory: &Path) -> Result<Vec<u8>, Failure> {
    let mut found = BTreeMap::new();
    scan(directory, "", &mut found)?;
    check_size(directory, &found)?;
    let mut builder = Builder::new(Vec::new());
    for (name, is) in &found {
        let path = directory.join(name);
        append(&mut builder, name, &path, is).map_err(|error| Failure::file("pack", &path, &error))?;
    }
    let failed = |error: io::Error| Failure::file("pack", directory, &error);
    builder.into_inner().map_err(failed)
}

/// A bundle without files.
pub fn empty() -> Vec<u8> {
    vec![0; 2 * BLOCK_BYTES as usize]
}

/// All entries below a directory, by their path relative to the one that is packed. As deep as the file system is: a
/// path is never longer than the kernel's 4 KiB.
fn scan(directory: &Path, prefix: &str, found: &mut BTreeMap<String, Metadata>) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| Failure::file("read the bundle", &path, &error)
    };
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            let place = path.display().to_string();
            return Err(Failure::input("the file's name is not UTF-8", place, "rename it or leave it out"));
        };
        let name = format!("{prefix}{name}");
        let is = fs::symlink_metadata(&path).map_err(failed(&path))?;
        if !is.is_dir() && !is.is_file() && !is.is_symlink() {
            let what = "neither a file, a directory nor a symbolic link";
            return Err(Failure::input(what, path.display().to_string(), "leave it out of the bundle"));
        }
        if found.len() == BUNDLE_ENTRIES_MAX {
            let what = format!("the bundle has more than {BUNDLE_ENTRIES_MAX} files and directories");
            return Err(Failure::input(what, directory.display().to_string(), "leave out tests and caches"));
        }
        let is_directory = is.is_dir();
        let below = format!("{name}/");
        found.insert(name, is);
        if is_directory {
            scan(&path, &below, found)?;
        }
    }
    Ok(())
}

/// Says what takes the room before it reads a byte.
fn check_size(directory: &Path, found: &BTreeMap<String, Metadata>) -> Result<(), Failure> {
    let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, is) in found {
        let bytes = if is.is_file() { is.len().next_multiple_of(BLOCK_BYTES) } else { 0 };
        *parts.entry(name.split('/').next().unwrap_or_default()).or_default() += bytes + BLOCK_BYTES;
    }
    let bytes: u64 = parts.values().sum();
    if bytes <= ARTEFACT_BYTES_MAX as u64 {
        return Ok(());
    }
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let named = parts.iter().take(LARGEST_NAMED).map(|(name, bytes)| format!("{name} {} MiB", bytes >> 20));
    let what = format!(
        "the bundle has {} MiB, at most {} allowed; the most of it: {}",
        bytes >> 20,
        ARTEFACT_BYTES_MAX >> 20,
        named.collect::<Vec<_>>().join(", ")
    );
    let remedy = "leave out tests, caches and debug symbols (`strip`), or pack it as a .tar.gz and name that in `bundle`";
    Err(Failure::input(what, directory.display().to_string(), remedy))
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, path: &PathBuf, is: &Metadata) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    if is.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        return builder.append_data(&mut header, format!("{name}/"), io::empty());
    }
    if is.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        return builder.append_link(&mut header, name, fs::read_link(path)?);
    }
    // It may have changed since it was looked at.
    let bytes = fs::read(path)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(if is.mode() & 0o111 == 0 { 0o644 } else { 0o755 });
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, name, &bytes[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use worker::bundle::{Item, inspect};

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
        }
        directory
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let files = ["b", "a/x", "a-b", "a/b/c"];
        let (one, two) = (tree(&files), tree(&files.iter().rev().copied().collect::<Vec<_>>()));
        fs::set_permissions(one.path().join("b"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(two.path().join("b"), fs::Permissions::from_mode(0o6751)).unwrap();
        fs::File::open(one.path().join("a-b")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let packed = pack(one.path()).unwrap();
        assert_eq!(packed, pack(two.path()).unwrap());
        let contents = inspect(&packed).unwrap();
        let found: Vec<&str> = contents.items.keys().map(String::as_str).collect();
        assert_eq!(found, ["a", "a-b", "a/b", "a/b/c", "a/x", "b"]);
        assert!(matches!(contents.items["b"], Item::File { executable: true, bytes: 1, .. }));
        assert!(matches!(contents.items["a/x"], Item::File { executable: false, .. }));
        fs::write(one.path().join("a/x"), "other").unwrap();
        assert_ne!(packed, pack(one.path()).unwrap());
    }

    #[test]
    fn links_and_long_names_are_kept() {
        let long = format!("{}/{}", "a".repeat(150), "b".repeat(150));
        let directory = tree(&[&long]);
        symlink(&long, directory.path().join("link")).unwrap();
        fs::create_dir(directory.path().join("empty")).unwrap();
        let contents = inspect(&pack(directory.path()).unwrap()).unwrap();
        assert_eq!(contents.items["link"], Item::Link(long.clone()));
        assert!(contents.items.contains_key(&long) && contents.items["empty"] == Item::Directory);
    }

    #[test]
    fn what_cannot_be_packed_is_told() {
        let told = |directory: &Path| pack(directory).unwrap_err().to_string();
        let directory = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        assert!(told(directory.path()).contains("neither a file, a directory nor"));

        let directory = tree(&["small"]);
        fs::create_dir(directory.path().join("node_modules")).unwrap();
        let large = fs::File::create(directory.path().join("node_modules/large")).unwrap();
        large.set_len(ARTEFACT_BYTES_MAX as u64).unwrap();
        let text = told(directory.path());
        assert!(
            text.contains("the bundle has 64 MiB") && text.contains("node_modules 64 MiB, small 0 MiB"),
            "{text}"
        );

        let failure = pack(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::NotFound, "{failure}");
    }

    #[test]
    fn an_empty_bundle_is_one() {
        assert!(inspect(&empty()).unwrap().items.is_empty());
        assert!(inspect(&pack(tempfile::tempdir().unwrap().path()).unwrap()).unwrap().items.is_empty());
    }
}
