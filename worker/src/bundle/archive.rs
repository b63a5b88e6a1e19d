//! Reads a tar once, from first byte to last; what is read may be written to a directory on the way.

use super::{BundleError, Contents, Item, io_error};
use call::limits::{BUNDLE_BYTES_MAX, BUNDLE_ENTRIES_MAX, BUNDLE_PATH_BYTES_MAX};
use flate2::read::MultiGzDecoder;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;
use tar::{EntryType, PaxExtensions};

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Bytes of an extension header: two paths and a few attributes, with room.
const EXTENSION_BYTES_MAX: u64 = 16 << 10;
/// Bytes of one component of a path, in Linux.
const COMPONENT_BYTES_MAX: usize = 255;

/// Reads a bundle and keeps nothing of it.
///
/// # Errors
/// Whatever would keep it from being unpacked, but for the host's own errors.
pub fn inspect(bundle: &[u8]) -> Result<Contents, BundleError> {
    read(bundle, None)
}

/// Writes a bundle's files into an empty directory that belongs to the caller, and which nobody else may enter.
///
/// # Errors
/// As [`inspect`], and [`BundleError::Io`]. The directory then holds a part of the bundle.
pub fn unpack_into(bundle: &[u8], directory: &Path) -> Result<Contents, BundleError> {
    let contents = read(bundle, Some(directory))?;
    // Last, so that nothing was ever written through one.
    for (path, item) in &contents.items {
        if let Item::Link(target) = item {
            let path = directory.join(path);
            std::os::unix::fs::symlink(target, &path).map_err(io_error(&path))?;
        }
    }
    Ok(contents)
}

fn read(bundle: &[u8], into: Option<&Path>) -> Result<Contents, BundleError> {
    let left = BUNDLE_BYTES_MAX;
    if bundle.starts_with(&GZIP) {
        return Reading::new(into).run(&mut Bounded { from: MultiGzDecoder::new(bundle), left });
    }
    Reading::new(into).run(&mut Bounded { from: bundle, left })
}

/// A reader that fails, rather than end, behind its bound.
struct Bounded<R> {
    from: R,
    left: u64,
}

/// What [`Bounded`] says; an [`io::Error`] holds it on its way through the tar reader.
#[derive(Debug)]
struct Beyond;

impl std::fmt::Display for Beyond {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too large")
    }
}

impl std::error::Error for Beyond {}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(Beyond))?;
        Ok(read)
    }
}

fn tar_error(error: io::Error) -> BundleError {
    match error.get_ref() {
        Some(inner) if inner.is::<Beyond>() => BundleError::TooLarge,
        _ => BundleError::Tar(error.to_string()),
    }
}

/// What extension headers say of the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

struct Reading<'a> {
    contents: Contents,
    extensions: Extensions,
    into: Option<&'a Path>,
}

impl<'a> Reading<'a> {
    fn new(into: Option<&'a Path>) -> Reading<'a> {
        Reading { contents: Contents::default(), extensions: Extensions::default(), into }
    }

    /// Extension headers are read here and not by the tar reader, which has no bound for them.
    fn run(mut self, from: &mut dyn Read) -> Result<Contents, BundleError> {
        let mut archive = tar::Archive::new(from);
        let mut headers = 0;
        for entry in archive.entries().map_err(tar_error)?.raw(true) {
            // Each entry has two extension headers at most.
            headers += 1;
            if headers > 3 * BUNDLE_ENTRIES_MAX {
                return Err(BundleError::TooMany);
            }
            self.entry(&mut entry.map_err(tar_error)?)?;
        }
        self.contents.check_links()?;
        Ok(self.contents)
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), BundleError> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => self.extensions.path = Some(long_name(entry)?),
            EntryType::GNULongLink => self.extensions.link = Some(long_name(entry)?),
            EntryType::XHeader => self.attributes(entry)?,
            // Comments, as `git archive` makes.
            EntryType::XGlobalHeader => {}
            _ => {
                let extensions = std::mem::take(&mut self.extensions);
                let name = extensions.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
                let path = clean(&name)?;
                let link =
                    extensions.link.or_else(|| entry.header().link_name_bytes().map(|l| l.into_owned()));
                self.item(entry, kind, path, link, name.ends_with(b"/"))?;
            }
        }
        Ok(())
    }

    fn attributes<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), BundleError> {
        let bytes = extension(entry)?;
        for attribute in PaxExtensions::new(&bytes) {
            let attribute = attribute.map_err(tar_error)?;
            match attribute.key_bytes() {
                b"path" => self.extensions.path = Some(attribute.value_bytes().into()),
                b"linkpath" => self.extensions.link = Some(attribute.value_bytes().into()),
                // Two readers that differ in this read two archives out of one.
                b"size" => {
                    return Err(BundleError::Tar("an entry's size stands in an extension header".into()));
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(BundleError::Tar("it holds a sparse file (`tar --sparse`)".into()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn item<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        path: String,
        link: Option<Vec<u8>>,
        is_directory: bool,
    ) -> Result<(), BundleError> {
        const REMEDY_LINK: &str = "a hard link; pack it with `tar --hard-dereference`";
        match kind {
            EntryType::Directory => self.directory(&path),
            // An old tar marks a directory by its name alone.
            EntryType::Regular | EntryType::Continuous if is_directory => self.directory(&path),
            EntryType::Regular | EntryType::Continuous => self.file(entry, path),
            EntryType::Symlink => self.link(path, link),
            EntryType::Link => Err(BundleError::Kind(path, REMEDY_LINK)),
            EntryType::Char | EntryType::Block => Err(BundleError::Kind(path, "a device; leave it out")),
            EntryType::Fifo => Err(BundleError::Kind(path, "a named pipe; leave it out")),
            EntryType::GNUSparse => Err(BundleError::Kind(path, "a sparse file; pack it without `--sparse`")),
            _ => Err(BundleError::Kind(path, "an entry of an unknown kind; leave it out")),
        }
    }

    /// A directory and its parents; the root's path is empty.
    fn directory(&mut self, path: &str) -> Result<(), BundleError> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain((!path.is_empty()).then_some(path.len()));
        for end in ends {
            let part = &path[..end];
            match self.contents.items.get(part) {
                Some(Item::Directory) => continue,
                Some(_) => return Err(BundleError::Twice(path.into())),
                None => {}
            }
            self.has_room()?;
            self.contents.items.insert(part.into(), Item::Directory);
            if let Some(into) = self.into {
                let path = into.join(part);
                fs::create_dir(&path).map_err(io_error(&path))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(io_error(&path))?;
            }
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: String) -> Result<(), BundleError> {
        self.make_way(&path)?;
        let bytes = entry.header().entry_size().map_err(tar_error)?;
        // setuid, setgid and the sticky bit are not taken, and nobody may write.
        let executable = entry.header().mode().map_err(tar_error)? & 0o111 != 0;
        let (copied, crc) = match self.into.map(|into| into.join(&path)) {
            None => copy(entry, &mut io::sink(), Path::new(""))?,
            Some(path) => {
                let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                let mut file = opened.map_err(io_error(&path))?;
                let copied = copy(entry, &mut file, &path)?;
                let mode = fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 });
                file.set_permissions(mode).map_err(io_error(&path))?;
                file.set_modified(SystemTime::UNIX_EPOCH).map_err(io_error(&path))?;
                copied
            }
        };
        if copied != bytes {
            return Err(BundleError::Tar(format!("it ends within {path:?}")));
        }
        self.contents.items.insert(path, Item::File { executable, bytes, crc });
        Ok(())
    }

    fn link(&mut self, path: String, target: Option<Vec<u8>>) -> Result<(), BundleError> {
        let target = target.unwrap_or_default();
        let told = String::from_utf8_lossy(&target).into_owned();
        let sound = !target.is_empty() && !target.starts_with(b"/") && is_plain(&told);
        if !sound || target.len() > BUNDLE_PATH_BYTES_MAX || told.as_bytes() != target {
            return Err(BundleError::Link(path, told));
        }
        self.make_way(&path)?;
        self.contents.items.insert(path, Item::Link(told));
        Ok(())
    }

    /// The place is free, below directories, and there is room for one more.
    fn make_way(&mut self, path: &str) -> Result<(), BundleError> {
        if path.is_empty() || self.contents.items.contains_key(path) {
            return Err(BundleError::Twice(path.into()));
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.has_room()
    }

    fn has_room(&self) -> Result<(), BundleError> {
        if self.contents.items.len() < BUNDLE_ENTRIES_MAX { Ok(()) } else { Err(BundleError::TooMany) }
    }
}

/// Copies an entry; how many bytes there were, and their CRC-32C.
fn copy<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    to: &mut dyn Write,
    path: &Path,
) -> Result<(u64, u32), BundleError> {
    let (mut buffer, mut copied, mut crc) = ([0; 16 << 10], 0, 0);
    loop {
        let read = entry.read(&mut buffer).map_err(tar_error)?;
        if read == 0 {
            return Ok((copied, crc));
        }
        to.write_all(&buffer[..read]).map_err(io_error(path))?;
        copied += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

/// The contents of an extension header.
fn extension<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, BundleError> {
    let bytes = entry.header().entry_size().map_err(tar_error)?;
    if bytes > EXTENSION_BYTES_MAX {
        return Err(BundleError::Tar(format!("an extension header has {bytes} bytes")));
    }
    let mut read = Vec::new();
    entry.read_to_end(&mut read).map_err(tar_error)?;
    Ok(read)
}

fn long_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, BundleError> {
    let mut name = extension(entry)?;
    // It may be ended by a zero byte, as all names in headers.
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The path of an entry, relative and without `.`; empty for the root.
fn clean(name: &[u8]) -> Result<String, BundleError> {
    let told = || String::from_utf8_lossy(&name[..name.len().min(BUNDLE_PATH_BYTES_MAX)]).into_owned();
    let wrong = |why| Err(BundleError::Name(told(), why));
    let Ok(text) = str::from_utf8(name) else { return wrong("is not UTF-8") };
    if text.is_empty() {
        return wrong("is empty");
    }
    if text.len() > BUNDLE_PATH_BYTES_MAX {
        return wrong("is longer than 1024 bytes");
    }
    if text.starts_with('/') {
        return wrong("is absolute");
    }
    if !is_plain(text) {
        return wrong("holds a control character");
    }
    let mut path = String::with_capacity(text.len());
    for part in text.split('/') {
        match part {
            "" | "." => continue,
            ".." => return wrong("holds `..`"),
            part if part.len() > COMPONENT_BYTES_MAX => return wrong("has a part longer than 255 bytes"),
            part => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(part);
            }
        }
    }
    Ok(path)
}

/// Zero bytes end a name early, and line feeds forge lines of a listing or a log.
fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
