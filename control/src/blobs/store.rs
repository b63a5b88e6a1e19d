//! `blobs/` of a data directory: files named by the SHA-256 of what is in them. Blocks on files: for the admin side and
//! the thread of the store only.
//!
//! A blob is written aside (`.upload-N`), synced, renamed, and its directory synced: a crash leaves a whole blob or a file
//! that the next start removes. Whatever is read is checked: the whole blob against its name before the first piece of it
//! leaves, and each piece against a checksum made on that occasion, so that nothing which decayed is ever served.

use crate::datadir::sync_directory;
use call::WallTime;
use call::blob::{BlobId, PIECE_BYTES, Reference};
use call::limits::Limits;
use call::time::nanos;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::UNIX_EPOCH;

/// How files are called that are not whole.
const UPLOAD: &str = ".upload-";

/// Why a blob was not taken. Nothing of it stays.
#[derive(Debug)]
pub enum StoreError {
    /// It has more bytes than one may have: so many.
    TooLarge(u64),
    /// All blobs together have as many bytes as they may: so many.
    Full(u64),
    /// The file could not be written.
    Io(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::TooLarge(most) => write!(f, "a blob has {most} bytes at most (--blob-max)"),
            StoreError::Full(most) => {
                write!(f, "the blobs of this node have {most} bytes, as many as they may (--blobs-total)")
            }
            StoreError::Io(error) => write!(f, "the blob could not be stored: {error}"),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> StoreError {
        StoreError::Io(error)
    }
}

/// Why a blob cannot be read. It is never served then.
#[derive(Debug)]
pub enum Unsound {
    /// There is no such file.
    Absent(PathBuf),
    /// What is in the file is not what its name says.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsound::Absent(path) => write!(f, "{}: the blob is not there", path.display()),
            Unsound::Damaged { path, why } => {
                write!(f, "{}: the blob is damaged, and not served: {why}", path.display())
            }
        }
    }
}

/// The store. See the module.
pub struct BlobStore {
    directory: PathBuf,
    one_bytes: u64,
    all_bytes: u64,
    uploads: AtomicU64,
    /// Bytes of all files, those that are coming included.
    taken: Mutex<u64>,
    /// Held from when a blob gets its name until the ring knows of it, and from when the ring forgets blobs until their
    /// files are gone: one that comes again is not taken for the one that goes.
    turn: Arc<Turn>,
}

/// See [`BlobStore::turn`].
pub type Turn = tokio::sync::Mutex<()>;

impl BlobStore {
    /// Opens it, making the directory if need be, and removes what a crash left unfinished. Gives the blobs that are there,
    /// with the times of their files; what is in them is looked at when they are read.
    pub fn open(directory: PathBuf, limits: &Limits) -> io::Result<(BlobStore, Vec<(Reference, WallTime)>)> {
        fs::create_dir_all(&directory)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(UPLOAD) {
                fs::remove_file(entry.path())?;
            } else if let Ok(id) = name.parse() {
                let file = entry.metadata()?;
                let since = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                found.push((Reference { id, bytes: file.len() }, WallTime(nanos(since))));
            }
        }
        let taken = found.iter().map(|(blob, _)| blob.bytes).sum();
        let store = BlobStore {
            directory,
            one_bytes: limits.blob_bytes_max,
            all_bytes: limits.blobs_bytes_max,
            uploads: AtomicU64::new(0),
            taken: Mutex::new(taken),
            turn: Arc::default(),
        };
        Ok((store, found))
    }

    /// Bytes of the largest blob.
    pub fn one_bytes(&self) -> u64 {
        self.one_bytes
    }

    /// Who holds this gives names to blobs, or takes them.
    pub fn turn(&self) -> &Arc<Turn> {
        &self.turn
    }

    /// Begins to take a blob.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn begin(store: &Arc<BlobStore>) -> Result<Upload, StoreError> {
        let number = store.uploads.fetch_add(1, Ordering::Relaxed);
        let partial = store.directory.join(format!("{UPLOAD}{number}"));
        let file = File::create(&partial)?;
        Ok(Upload { store: store.clone(), file, partial, hash: Sha256::new(), bytes: 0 })
    }

    /// Removes the file of a blob that the index does not have.
    pub fn remove(&self, id: BlobId) -> io::Result<()> {
        let path = self.path(id);
        let mut taken = self.taken();
        let bytes = fs::metadata(&path)?.len();
        fs::remove_file(path)?;
        *taken = taken.saturating_sub(bytes);
        Ok(())
    }

    /// How long the file of a blob is, if there is one.
    pub fn bytes(&self, id: BlobId) -> Option<u64> {
        fs::metadata(self.path(id)).ok().map(|file| file.len())
    }

    /// Opens a blob and checks all of it.
    ///
    /// # Errors
    /// It is not there, or not what it was.
    pub fn sound(&self, blob: Reference) -> Result<Sound, Unsound> {
        let path = self.path(blob.id);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unsound::Absent(path)),
            Err(error) => return Err(Unsound::Damaged { path, why: error.to_string() }),
            Ok(file) => file,
        };
        let (mut hash, mut sums, mut bytes) = (Sha256::new(), Vec::new(), 0);
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        loop {
            piece.clear();
            if let Err(error) = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece) {
                return Err(Unsound::Damaged { path, why: format!("from byte {bytes} on: {error}") });
            }
            if piece.is_empty() {
                break;
            }
            hash.update(&piece);
            sums.push(crc32c::crc32c(&piece));
            bytes += piece.len() as u64;
        }
        let is = Reference { id: BlobId(hash.finalize().into()), bytes };
        if is != blob {
            let why =
                format!("it has {} bytes with SHA-256 {}, and should have {}", is.bytes, is.id, blob.bytes);
            return Err(Unsound::Damaged { path, why });
        }
        Ok(Sound { blob, path, file, sums })
    }

    fn path(&self, id: BlobId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn taken(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().expect("nobody panics while it counts")
    }

    fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let mut taken = self.taken();
        if *taken + bytes > self.all_bytes {
            return Err(StoreError::Full(self.all_bytes));
        }
        *taken += bytes;
        Ok(())
    }
}

/// A blob on its way in. Dropped before [`Upload::finish`], it leaves nothing.
pub struct Upload {
    store: Arc<BlobStore>,
    file: File,
    partial: PathBuf,
    hash: Sha256,
    /// Counted as taken.
    bytes: u64,
}

impl Upload {
    /// The next bytes.
    ///
    /// # Errors
    /// It is too large, all of them are, or the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.bytes + bytes.len() as u64 > self.store.one_bytes {
            return Err(StoreError::TooLarge(self.store.one_bytes));
        }
        self.store.take(bytes.len() as u64)?;
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// All bytes are there: has them on disk, still without a name.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(self) -> Result<Upload, StoreError> {
        self.file.sync_all()?;
        Ok(self)
    }

    /// Gives the file its name, durably, after [`Upload::sync`]. One that is there already is replaced by the same bytes,
    /// whatever became of it on disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish(mut self) -> Result<Reference, StoreError> {
        let blob = Reference { id: BlobId(self.hash.clone().finalize().into()), bytes: self.bytes };
        let path = self.store.path(blob.id);
        {
            let mut taken = self.store.taken();
            let before = fs::metadata(&path).map_or(0, |file| file.len());
            fs::rename(&self.partial, &path)?;
            *taken = taken.saturating_sub(before);
            // It is the store's now, and counted.
            self.bytes = 0;
        }
        sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        Ok(blob)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already if it was finished.
        let _ = fs::remove_file(&self.partial);
        let mut taken = self.store.taken();
        *taken = taken.saturating_sub(self.bytes);
    }
}

/// A blob that was whole when it was opened.
pub struct Sound {
    /// Which.
    pub blob: Reference,
    path: PathBuf,
    file: File,
    /// CRC-32C of each piece.
    sums: Vec<u32>,
}

impl Sound {
    /// Reads the piece at this offset into `into`; an empty one at the end.
    ///
    /// # Errors
    /// It has changed since.
    pub fn piece(&self, offset: u64, into: &mut Vec<u8>) -> Result<(), Unsound> {
        let damaged = |why: String| Unsound::Damaged { path: self.path.clone(), why };
        let bytes = self.blob.bytes.saturating_sub(offset).min(PIECE_BYTES as u64);
        into.resize(bytes as usize, 0);
        let read = self.file.read_exact_at(into, offset);
        read.map_err(|error| damaged(format!("from byte {offset} on: {error}")))?;
        let at = (offset / PIECE_BYTES as u64) as usize;
        let is_piece = bytes > 0 && offset.is_multiple_of(PIECE_BYTES as u64);
        if is_piece && self.sums[at] != crc32c::crc32c(into) {
            return Err(damaged(format!("from byte {offset} on it has changed since it was opened")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store(one: u64, all: u64) -> (tempfile::TempDir, Arc<BlobStore>) {
        let temp = tempfile::tempdir().unwrap();
        let limits = Limits { blob_bytes_max: one, blobs_bytes_max: all, ..Limits::default() };
        let (store, found) = BlobStore::open(temp.path().join("blobs"), &limits).unwrap();
        assert!(found.is_empty());
        (temp, Arc::new(store))
    }

    fn put(store: &Arc<BlobStore>, bytes: &[u8]) -> Result<Reference, StoreError> {
        let mut upload = BlobStore::begin(store)?;
        bytes.chunks(100_000).try_for_each(|chunk| upload.write(chunk))?;
        upload.sync()?.finish()
    }

    fn get(store: &BlobStore, blob: Reference) -> Result<Vec<u8>, Unsound> {
        let sound = store.sound(blob)?;
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        while (all.len() as u64) < blob.bytes {
            sound.piece(all.len() as u64, &mut piece)?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn each_flipped_bit_is_noticed(bytes in 1usize..700_000, at: prop::sample::Index, bit in 0u8..8) {
            let (_temp, store) = store(1 << 20, 1 << 30);
            let all: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 256) as u8).collect();
            let blob = put(&store, &all).unwrap();
            prop_assert_eq!(get(&store, blob).unwrap(), all.clone());
            let before = store.sound(blob).unwrap();
            let mut bad = all.clone();
            let at = at.index(bytes);
            bad[at] ^= 1 << bit;
            fs::write(store.path(blob.id), &bad).unwrap();
            let is_told = matches!(store.sound(blob), Err(Unsound::Damaged { .. }));
            prop_assert!(is_told);
            // So is one that decays while it is read.
            let offset = (at / PIECE_BYTES * PIECE_BYTES) as u64;
            prop_assert!(before.piece(offset, &mut Vec::new()).is_err());
            // Storing it again mends it.
            prop_assert_eq!(put(&store, &all).unwrap(), blob);
            prop_assert_eq!(get(&store, blob).unwrap(), all);
            prop_assert_eq!(*store.taken(), bytes as u64);
        }
    }

    #[test]
    fn bounds_hold_and_come_back() {
        let (temp, store) = store(1000, 1500);
        assert!(matches!(put(&store, &[1; 1001]), Err(StoreError::TooLarge(1000))));
        let first = put(&store, &[1; 1000]).unwrap();
        assert!(matches!(put(&store, &[2; 501]), Err(StoreError::Full(1500))));
        assert!(
            matches!(put(&store, &[1; 1000]), Err(StoreError::Full(_))),
            "room for it is needed meanwhile"
        );
        put(&store, &[2; 500]).unwrap();
        store.remove(first.id).unwrap();
        assert!(matches!(store.sound(first), Err(Unsound::Absent(_))));
        assert_eq!(*store.taken(), 500);
        put(&store, &[3; 1000]).unwrap();
        assert_eq!(fs::read_dir(temp.path().join("blobs")).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_start_finds_what_is_whole_and_removes_the_rest() {
        let (temp, store) = store(1000, 1500);
        let blob = put(&store, b"hello").unwrap();
        let directory = temp.path().join("blobs");
        fs::write(directory.join(".upload-7"), b"half").unwrap();
        fs::write(directory.join("notes.txt"), b"somebody's").unwrap();
        let (again, found) = BlobStore::open(directory.clone(), &Limits::default()).unwrap();
        assert_eq!(found.iter().map(|(blob, _)| *blob).collect::<Vec<_>>(), [blob]);
        assert!(found[0].1.0 > 0 && !directory.join(".upload-7").exists());
        assert_eq!(get(&again, blob).unwrap(), b"hello");
        let longer = Reference { bytes: 6, ..blob };
        assert!(
            matches!(again.sound(longer), Err(Unsound::Damaged { .. })),
            "of another length than was said"
        );
    }
}
