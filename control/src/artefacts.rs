//! The artefact store: wasm files and bundles by their SHA-256. Cold side only: it blocks on files.

use crate::datadir::sync_directory;
use call::limits::ARTEFACT_BYTES_MAX;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why an upload was not taken. Nothing of it stays.
#[derive(Debug)]
pub enum UploadError {
    /// The name is not a SHA-256 in hexadecimal.
    Name,
    /// It is longer than [`ARTEFACT_BYTES_MAX`].
    TooLarge,
    /// The bytes have another hash than the name: this one.
    Hash(String),
    /// The file could not be written.
    Io(io::Error),
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UploadError::Name => f.write_str("an artefact's name is its SHA-256, 64 lower-case hex digits"),
            UploadError::TooLarge => {
                write!(f, "the artefact is larger than {} MiB", ARTEFACT_BYTES_MAX >> 20)
            }
            UploadError::Hash(is) => write!(f, "the bytes received have SHA-256 {is}"),
            UploadError::Io(error) => write!(f, "the artefact could not be stored: {error}"),
        }
    }
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> UploadError {
        UploadError::Io(error)
    }
}

/// How wasm begins.
const WASM: &[u8] = b"\0asm";
/// Endings of files in the store: wasm, and everything else.
const ENDINGS: [&str; 2] = ["wasm", "bundle"];

/// Whether a text is a SHA-256 in hexadecimal, so that it may become a part of a path.
fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `artefacts/` of a data directory.
pub struct ArtefactStore {
    directory: PathBuf,
    uploads: AtomicU64,
}

impl ArtefactStore {
    /// Opens it and sweeps away what uploads cut off by a crash left behind.
    pub fn open(directory: PathBuf) -> io::Result<ArtefactStore> {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".upload-") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(ArtefactStore { directory, uploads: AtomicU64::new(0) })
    }

    /// Where the artefact of this hash is, `None` if it is not there.
    pub fn path(&self, sha256: &str) -> Option<PathBuf> {
        is_hash(sha256).then_some(())?;
        let mut paths = ENDINGS.iter().map(|ending| self.directory.join(format!("{sha256}.{ending}")));
        paths.find(|path| path.is_file())
    }

    /// Bytes of the artefact, `None` if it is not there.
    pub fn bytes(&self, sha256: &str) -> Option<u64> {
        fs::metadata(self.path(sha256)?).ok().map(|m| m.len())
    }

    /// Begins to take an artefact.
    pub fn begin(&self, sha256: &str) -> Result<Upload, UploadError> {
        if !is_hash(sha256) {
            return Err(UploadError::Name);
        }
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let partial = self.directory.join(format!(".upload-{number}"));
        let file = File::create(&partial)?;
        let (hash, head) = (Sha256::new(), Vec::new());
        Ok(Upload { file, partial, sha256: sha256.to_owned(), hash, head, bytes: 0 })
    }
}

/// An artefact on its way in. Dropped before [`Upload::finish`], it leaves nothing.
pub struct Upload {
    file: File,
    partial: PathBuf,
    sha256: String,
    hash: Sha256,
    /// Its first bytes, which tell what it is.
    head: Vec<u8>,
    bytes: usize,
}

impl Upload {
    /// The next bytes.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), UploadError> {
        self.bytes += chunk.len();
        if self.bytes > ARTEFACT_BYTES_MAX {
            return Err(UploadError::TooLarge);
        }
        self.hash.update(chunk);
        self.head.extend(chunk.iter().take(WASM.len() - self.head.len()));
        Ok(self.file.write_all(chunk)?)
    }

    /// All bytes are there: verifies the hash, makes the file durable and gives it its name. Returns its size.
    pub fn finish(self) -> Result<u64, UploadError> {
        let is = hex(&self.hash.clone().finalize());
        if is != self.sha256 {
            return Err(UploadError::Hash(is));
        }
        self.file.sync_all()?;
        let ending = ENDINGS[usize::from(self.head != WASM)];
        let directory = self.partial.parent().unwrap_or(Path::new("."));
        fs::rename(&self.partial, directory.join(format!("{}.{ending}", self.sha256)))?;
        sync_directory(directory)?;
        Ok(self.bytes as u64)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already if it was finished.
        let _ = fs::remove_file(&self.partial);
    }
}

/// The SHA-256 of `bytes` as an artefact's name.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ArtefactStore) {
        let temp = tempfile::tempdir().unwrap();
        let store = ArtefactStore::open(temp.path().to_owned()).unwrap();
        (temp, store)
    }

    #[test]
    fn what_was_uploaded_is_there_under_its_hash() {
        let (_temp, store) = store();
        let name = sha256(b"\0asm....");
        let mut upload = store.begin(&name).unwrap();
        upload.write(b"\0asm").unwrap();
        upload.write(b"....").unwrap();
        assert_eq!(upload.finish().unwrap(), 8);
        assert_eq!((store.bytes(&name), fs::read(store.path(&name).unwrap()).unwrap().len()), (Some(8), 8));
        assert!(store.path(&name).unwrap().ends_with(format!("{name}.wasm")));
    }

    #[test]
    fn what_is_not_wasm_is_a_bundle() {
        let (_temp, store) = store();
        for bytes in [&b"\0as"[..], b"hello, this is a tar"] {
            let name = sha256(bytes);
            assert_eq!(store.path(&name), None);
            let mut upload = store.begin(&name).unwrap();
            bytes.chunks(2).for_each(|chunk| upload.write(chunk).unwrap());
            upload.finish().unwrap();
            assert!(store.path(&name).unwrap().ends_with(format!("{name}.bundle")));
        }
    }

    #[test]
    fn other_bytes_and_half_an_upload_leave_nothing() {
        let (temp, store) = store();
        let mut upload = store.begin(&sha256(b"right")).unwrap();
        upload.write(b"wrong").unwrap();
        assert!(matches!(upload.finish(), Err(UploadError::Hash(is)) if is == sha256(b"wrong")));
        store.begin(&sha256(b"right")).unwrap().write(b"ri").unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_is_no_hash_never_becomes_a_path() {
        let (_temp, store) = store();
        for name in ["", "../../etc/passwd", &"A".repeat(64), &"0".repeat(63)] {
            assert!(matches!(store.begin(name), Err(UploadError::Name)), "{name}");
        }
    }
}
