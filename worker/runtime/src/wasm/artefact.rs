//! Compiled artefacts on disk: a host compiles a function once, its cores map the machine code.
//!
//! The cache directory holds, by the SHA-256 of the wasm file, `<sha>.wasm` (as deployed, so that another
//! engine can compile it again) and `<sha>-<engine>.cwasm`, where `<engine>` is a hash of wasmtime's version,
//! its configuration and the CPU's features. A compiled file is what wasmtime makes, then a trailer:
//!
//! ```text
//! offset from the end   bytes
//! -48                   8      "MILLCWSM"
//! -40                   8      bytes before the trailer, little endian
//! -32                   8      <engine>, little endian
//! -24                   16     first half of the wasm file's SHA-256
//!  -8                   4      CRC-32C of everything before
//!  -4                   4      zero
//! ```
//!
//! The trailer tells torn, truncated and foreign files apart from whole ones; they are removed and compiled
//! again. Files appear by rename only, so a file that is there is whole unless the disk or someone's hand
//! damaged it.
//!
//! **Trust.** Mapping machine code means believing its author. The directory belongs to the worker's user; a
//! file that another user owns or that others may write is not loaded.

use super::engine;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use wasmtime::{Engine, Module};

const MAGIC: [u8; 8] = *b"MILLCWSM";
const TRAILER_BYTES: usize = 48;

/// Why an artefact cannot be had.
#[derive(Debug)]
pub enum ArtefactError {
    /// Neither compiled nor as wasm in the cache; the path where it was looked for.
    Missing(PathBuf),
    /// The compiled file was torn, truncated or foreign, and has been removed; the path and what was wrong.
    Damaged(PathBuf, String),
    /// The compiled file may have been written by someone else; the path.
    NotOurs(PathBuf),
    /// The wasm does not compile; what the compiler said.
    Compile(String),
    /// The file system refused; path and why.
    Io(PathBuf, io::Error),
}

impl fmt::Display for ArtefactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArtefactError::Missing(path) => {
                write!(f, "{}: is not in the artefact cache; deploy the function again", path.display())
            }
            ArtefactError::Damaged(path, what) => {
                write!(f, "{}: {what}; removed, it will be compiled again", path.display())
            }
            ArtefactError::NotOurs(path) => write!(
                f,
                "{}: belongs to another user or is writable by others; remove it, and let only the worker's user \
                 write to the cache directory",
                path.display()
            ),
            ArtefactError::Compile(said) => write!(f, "does not compile: {said}"),
            ArtefactError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for ArtefactError {}

/// What [`compile`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compiled {
    /// SHA-256 of the wasm file, hexadecimal: `FunctionSpec::artefact`.
    pub sha256: String,
    /// The compiled file.
    pub path: PathBuf,
    /// It was there already.
    pub cached: bool,
}

/// SHA-256 in hexadecimal, as `FunctionSpec::artefact` has it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compiles a wasm file into the cache, unless it is there. Takes from milliseconds to seconds, on this
/// thread.
///
/// # Errors
/// [`ArtefactError::Compile`] and [`ArtefactError::Io`].
pub fn compile(cache_dir: &Path, wasm: &[u8]) -> Result<Compiled, ArtefactError> {
    let (engine, _) = engine::engine(1).map_err(|error| ArtefactError::Compile(format!("{error:?}")))?;
    compile_with(&engine, cache_dir, wasm)
}

/// Makes sure that an artefact is compiled for this host, from the wasm in the cache if need be. A check of
/// one that is there costs reading it once.
///
/// # Errors
/// [`ArtefactError::Missing`] if the wasm is not in the cache: fetch it and [`compile`].
pub fn ensure(cache_dir: &Path, sha256: &str) -> Result<Compiled, ArtefactError> {
    let (engine, _) = engine::engine(1).map_err(|error| ArtefactError::Compile(format!("{error:?}")))?;
    let path = compiled_path(&engine, cache_dir, sha256);
    if open_checked(&path, sha256, engine_number(&engine)).is_ok() {
        return Ok(Compiled { sha256: sha256.into(), path, cached: true });
    }
    let source = cache_dir.join(format!("{sha256}.wasm"));
    let wasm = fs::read(&source).map_err(|_| ArtefactError::Missing(source.clone()))?;
    if self::sha256(&wasm) != sha256 {
        let _ = fs::remove_file(&source);
        return Err(ArtefactError::Missing(source));
    }
    compile_with(&engine, cache_dir, &wasm)
}

/// As [`compile`], for an engine that is there.
pub fn compile_with(engine: &Engine, cache_dir: &Path, wasm: &[u8]) -> Result<Compiled, ArtefactError> {
    let sha256 = sha256(wasm);
    let path = compiled_path(engine, cache_dir, &sha256);
    if open_checked(&path, &sha256, engine_number(engine)).is_ok() {
        return Ok(Compiled { sha256, path, cached: true });
    }
    let code =
        engine.precompile_module(wasm).map_err(|error| ArtefactError::Compile(format!("{error:?}")))?;
    fs::create_dir_all(cache_dir).map_err(|error| ArtefactError::Io(cache_dir.into(), error))?;
    write_whole(&cache_dir.join(format!("{sha256}.wasm")), &[wasm])?;
    let trailer = trailer(code.len(), &sha256, engine_number(engine), crc32c::crc32c(&code));
    write_whole(&path, &[&code, &trailer])?;
    Ok(Compiled { sha256, path, cached: false })
}

/// Maps a compiled artefact.
///
/// # Errors
/// All but [`ArtefactError::Compile`]: a core does not compile, its host's supervisor does ([`ensure`]).
pub fn load(engine: &Engine, cache_dir: &Path, sha256: &str) -> Result<Module, ArtefactError> {
    let path = compiled_path(engine, cache_dir, sha256);
    let damaged = |what: String| {
        let _ = fs::remove_file(&path);
        ArtefactError::Damaged(path.clone(), what)
    };
    let file = match open_checked(&path, sha256, engine_number(engine)) {
        Ok(file) => file,
        Err(ArtefactError::Damaged(_, what)) => return Err(damaged(what)),
        Err(other) => return Err(other),
    };
    // SAFETY: the bytes are what `precompile_module` of an equal engine wrote: the trailer names engine and
    // code, the CRC excludes damage, and only our own user can have written the file. It is never changed in
    // place, only replaced by rename, so the mapping keeps its content.
    unsafe { Module::deserialize_open_file(engine, file) }.map_err(|error| damaged(format!("{error:?}")))
}

fn compiled_path(engine: &Engine, cache_dir: &Path, sha256: &str) -> PathBuf {
    cache_dir.join(format!("{sha256}-{:016x}.cwasm", engine_number(engine)))
}

/// A number for wasmtime's version, its configuration and the CPU's features.
fn engine_number(engine: &Engine) -> u64 {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finalize();
            u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.finish()
}

fn trailer(bytes: usize, sha256: &str, engine: u64, crc: u32) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&(bytes as u64).to_le_bytes());
    out[16..24].copy_from_slice(&engine.to_le_bytes());
    for (n, byte) in out[24..40].iter_mut().enumerate() {
        *byte = sha256.get(2 * n..2 * n + 2).and_then(|two| u8::from_str_radix(two, 16).ok()).unwrap_or(0);
    }
    out[40..44].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Opens a compiled file and checks owner, trailer and CRC.
fn open_checked(path: &Path, sha256: &str, engine: u64) -> Result<File, ArtefactError> {
    let io_error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ArtefactError::Missing(path.into()),
        _ => ArtefactError::Io(path.into(), error),
    };
    let damaged = |what: &str| Err(ArtefactError::Damaged(path.into(), what.into()));
    let file = File::open(path).map_err(io_error)?;
    let metadata = file.metadata().map_err(io_error)?;
    // SAFETY: no arguments, cannot fail.
    if metadata.uid() != unsafe { libc::geteuid() } || metadata.mode() & 0o022 != 0 {
        return Err(ArtefactError::NotOurs(path.into()));
    }
    if metadata.len() < TRAILER_BYTES as u64 {
        return damaged("is too short");
    }
    // SAFETY: files of the cache are never changed in place; see `load`.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io_error)?;
    let (code, found) = map.split_at(map.len() - TRAILER_BYTES);
    match found == trailer(code.len(), sha256, engine, crc32c::crc32c(code)) {
        true => Ok(file),
        false => damaged("is torn, truncated or of another engine"),
    }
}

/// Writes a file that is either whole or not there.
fn write_whole(path: &Path, parts: &[&[u8]]) -> Result<(), ArtefactError> {
    let io_error = |error| ArtefactError::Io(path.into(), error);
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io_error(error)
    })
}
