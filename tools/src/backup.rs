//! Copies of a data directory: taken beside a node that serves, checked, and put back.
//!
//! A copy is a directory with the files of a data directory that cannot be made again, and `backup.json`, the
//! [`Manifest`], which is written last: without it a copy is none. The log is copied group by group up to the last one
//! that was on disk when the copy began ([`Hold::group`]), so that it is what a crash at that moment would have left,
//! and recovery needs to know nothing of it. What comes later is not in it.

pub mod shards;

use crate::exit::{Exit, Failure};
use call::admin::Hold;
use control::datadir::{VERSION, reads, sync_directory, write_durably};
use durableq::log::{GROUP_HEADER_BYTES, GroupHeader, segment_name, segment_number};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// What [`Manifest::format`] says.
pub const FORMAT: &str = "millrace backup 1";
/// The manifest's file.
pub const MANIFEST: &str = "backup.json";
/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// A larger manifest is none: a million files.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// A larger group is none: the log's are some hundred KiB.
const GROUP_BYTES_MAX: usize = 64 << 20;
/// Beside the log: files that may be there.
const FILES: [&str; 5] = ["VERSION", "SHARD", "catalog.json", "shaping.json", "region.json"];
/// And directories, with all that is in them.
const DIRECTORIES: [&str; 3] = ["artefacts", "blobs", "usage"];

/// What a copy holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The format of the data directory: what its `VERSION` says.
    pub data: String,
    /// The software that made it.
    pub version: String,
    /// When it was begun, Unix ns.
    pub made_at: u64,
    /// Up to which group of the log.
    pub group: u64,
    /// The incarnation that wrote this group.
    pub incarnation: u32,
    /// Calls waiting or leased then.
    pub pending: u64,
    /// Dead letters then.
    pub dead_letters: u64,
    /// All files, by path.
    pub files: Vec<Entry>,
    /// SHA-256 of this manifest as JSON with an empty `check`.
    pub check: String,
}

/// A file of a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Below the data directory, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Of its bytes.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }

    fn sum(&self) -> String {
        let bare = Manifest { check: String::new(), ..self.clone() };
        control::artefacts::sha256(&serde_json::to_vec(&bare).expect("plain data"))
    }

    /// Of the copy in `directory`.
    ///
    /// # Errors
    /// If there is none, it is damaged, or another version's.
    pub fn read(directory: &Path) -> Result<Manifest, Failure> {
        let place = directory.join(MANIFEST).display().to_string();
        let bytes = bytes_of(directory)?;
        let wrong = |what: String| Failure::input(what, &place, "take another backup: this one is damaged");
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("not a manifest: {error}")))?;
        if manifest.format != FORMAT || !reads(&manifest.data) {
            let what = format!(
                "the backup is `{}` of `{}`, this build reads `{FORMAT}` of `{VERSION}`",
                manifest.format, manifest.data
            );
            return Err(Failure::input(what, place, "use the build that made it"));
        }
        if manifest.sum() != manifest.check {
            return Err(wrong("the manifest's checksum does not match".into()));
        }
        if let Some(entry) = manifest.files.iter().find(|entry| !is_inside(&entry.path)) {
            return Err(wrong(format!("`{}` is no path of a data directory", entry.path)));
        }
        Ok(manifest)
    }
}

/// The bytes of the manifest in `directory`.
fn bytes_of(directory: &Path) -> Result<Vec<u8>, Failure> {
    let path = directory.join(MANIFEST);
    let file = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let what = "this is no backup, or one that was never finished: it has no manifest";
            let remedy = "name a directory that `millrace backup` has made";
            Failure::new(Exit::NotFound, what, path.display().to_string(), remedy)
        }
        _ => Failure::file("read it", &path, &error),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| Failure::file("read it", &path, &error))?;
    Ok(bytes)
}

/// Names only: nothing that leads out.
fn is_inside(path: &str) -> bool {
    let names = |part: Component<'_>| matches!(part, Component::Normal(_));
    !path.is_empty() && Path::new(path).components().all(names)
}

/// A copy in the making.
pub struct Copier<'a> {
    /// The data directory.
    pub data: &'a Path,
    /// Where it goes.
    pub into: &'a Path,
    /// Bytes a second at most, so that the node keeps the disk for itself.
    pub rate: u64,
    /// Holds the log on; called often.
    pub hold: &'a mut dyn FnMut() -> Result<(), Failure>,
    /// Told how many bytes are copied.
    pub progress: &'a mut dyn FnMut(u64),
}

impl Copier<'_> {
    /// Copies everything up to `point`.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the log does not hold what it should.
    pub fn run(&mut self, point: &Hold, made_at: u64) -> Result<Manifest, Failure> {
        make_empty(self.into)?;
        let mut pace = Pace { begun: Instant::now(), bytes: 0, rate: self.rate };
        let mut files = self.copy_log(point, &mut pace)?;
        // The catalog first: an artefact is there before the catalog names it.
        for name in FILES {
            self.copy_file(name, &mut files, &mut pace)?;
        }
        for name in DIRECTORIES {
            self.copy_directory(name, &mut files, &mut pace)?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut manifest = Manifest {
            format: FORMAT.into(),
            data: VERSION.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            made_at,
            group: point.group,
            incarnation: point.incarnation,
            pending: point.pending,
            dead_letters: point.dead_letters,
            files,
            check: String::new(),
        };
        manifest.check = manifest.sum();
        let bytes = serde_json::to_vec_pretty(&manifest).expect("plain data");
        let written = write_durably(self.into, MANIFEST, &bytes);
        written.map_err(|error| Failure::file("write it", &self.into.join(MANIFEST), &error))?;
        Ok(manifest)
    }

    fn copy_log(&mut self, point: &Hold, pace: &mut Pace) -> Result<Vec<Entry>, Failure> {
        let log = self.data.join("log");
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&log).map_err(|error| Failure::file("list it", &log, &error))? {
            let entry = entry.map_err(|error| Failure::file("list it", &log, &error))?;
            numbers.extend(entry.file_name().to_str().and_then(segment_number));
        }
        numbers.sort_unstable();
        let mut chain = Chain { last: 0, incarnation: 0, key: None, point: point.group };
        let mut files = Vec::new();
        for number in numbers {
            files.extend(self.copy_segment(number, &mut chain, pace)?);
        }
        if chain.last == point.group {
            return Ok(files);
        }
        let what = format!("the log ends at group {}, but {} was on disk", chain.last, point.group);
        let remedy =
            "`millrace log dump` shows where it is damaged; if the disk is full, try again with more room";
        Err(Failure::new(Exit::Machine, what, log.display().to_string(), remedy))
    }

    /// Copies the groups of a segment that belong to the chain; nothing if none does.
    fn copy_segment(
        &mut self,
        number: u64,
        chain: &mut Chain,
        pace: &mut Pace,
    ) -> Result<Option<Entry>, Failure> {
        let path = format!("log/{}", segment_name(number));
        let from = self.data.join(&path);
        let mut file = match File::open(&from) {
            // It was being used again when the log was held: nothing in it is needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| Failure::file("read it", &from, &error))?,
        };
        let mut out: Option<Out> = None;
        let mut offset = 0;
        while let Some((header, group)) = read_group(&mut file, offset)
            && chain.takes(&header, number, out.is_some())
        {
            let out = match &mut out {
                Some(out) => out,
                none => none.insert(Out::create(self.into, &path)?),
            };
            out.write(&group)?;
            offset += group.len() as u64;
            self.step(pace, group.len())?;
        }
        out.map(Out::finish).transpose()
    }

    fn copy_directory(&mut self, name: &str, files: &mut Vec<Entry>, pace: &mut Pace) -> Result<(), Failure> {
        let directory = self.data.join(name);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| Failure::file("list it", &directory, &error))?,
        };
        for entry in entries {
            let entry = entry.map_err(|error| Failure::file("list it", &directory, &error))?;
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match entry.file_name().to_str() {
                // Written aside, and to be renamed: not there yet.
                Some(file) if file.starts_with('.') => {}
                Some(file) if is_directory => self.copy_directory(&format!("{name}/{file}"), files, pace)?,
                Some(file) => self.copy_file(&format!("{name}/{file}"), files, pace)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Copies a file if it is there.
    fn copy_file(&mut self, path: &str, files: &mut Vec<Entry>, pace: &mut Pace) -> Result<(), Failure> {
        let from = self.data.join(path);
        let mut file = match File::open(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(|error| Failure::file("read it", &from, &error))?,
        };
        let mut out = Out::create(self.into, path)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = file.read(&mut chunk).map_err(|error| Failure::file("read it", &from, &error))?;
            if read == 0 {
                break;
            }
            out.write(&chunk[..read])?;
            self.step(pace, read)?;
        }
        let entry = out.finish()?;
        let name = Path::new(path).file_stem().and_then(|stem| stem.to_str());
        if path.starts_with("artefacts/") && name != Some(&entry.sha256) {
            let what = "the artefact is not what its name says";
            let remedy = "deploy its function again, then take the backup";
            return Err(Failure::input(what, from.display().to_string(), remedy));
        }
        if path.starts_with("blobs/") && name != Some(&entry.sha256) {
            let what = "the blob is not what its name says: it is damaged";
            let remedy = "store it again (`millrace blobs put`), or purge its calls and remove it (`millrace blobs collect`)";
            return Err(Failure::input(what, from.display().to_string(), remedy));
        }
        files.push(entry);
        Ok(())
    }

    fn step(&mut self, pace: &mut Pace, bytes: usize) -> Result<(), Failure> {
        pace.bytes += bytes as u64;
        (self.progress)(pace.bytes);
        loop {
            (self.hold)()?;
            let ahead = pace.ahead();
            if ahead.is_zero() {
                return Ok(());
            }
            std::thread::sleep(ahead.min(Duration::from_millis(200)));
        }
    }
}

/// The log's groups, in their order; see `durableq::log` for why it may step back at the start of a segment.
struct Chain {
    last: u64,
    incarnation: u32,
    key: Option<u64>,
    point: u64,
}

impl Chain {
    /// Whether this group is the next one, and not behind the point.
    fn takes(&mut self, header: &GroupHeader, segment: u64, in_midst: bool) -> bool {
        let key = *self.key.get_or_insert(header.key);
        let begins = self.last == 0 || (!in_midst && header.sequence <= self.last);
        let takes = header.segment == segment
            && header.key == key
            && header.incarnation >= self.incarnation
            && (begins || header.sequence == self.last + 1)
            && (header.sequence <= self.point);
        if takes {
            (self.last, self.incarnation) = (header.sequence, header.incarnation);
        }
        takes
    }
}

/// A sound group with the zeros behind it; nothing if none is there.
fn read_group(file: &mut File, offset: u64) -> Option<(GroupHeader, Vec<u8>)> {
    let mut bytes = vec![0; GROUP_HEADER_BYTES];
    file.seek(SeekFrom::Start(offset)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    let claimed = GroupHeader::claimed(&bytes)?;
    let whole = claimed.bytes_on_disk();
    if whole > GROUP_BYTES_MAX {
        return None;
    }
    bytes.resize(whole, 0);
    file.read_exact(&mut bytes[GROUP_HEADER_BYTES..]).ok()?;
    let header = GroupHeader::parse(&bytes).ok()?;
    bytes[header.bytes as usize..].fill(0);
    Some((header, bytes))
}

/// How fast it goes.
struct Pace {
    begun: Instant,
    bytes: u64,
    rate: u64,
}

impl Pace {
    /// How long to wait until the rate is kept.
    fn ahead(&self) -> Duration {
        let due = Duration::from_secs_f64(self.bytes as f64 / self.rate.max(1) as f64);
        due.saturating_sub(self.begun.elapsed())
    }
}

/// A file being written, its sum with it.
struct Out {
    path: String,
    at: PathBuf,
    file: File,
    sum: Sha256,
    bytes: u64,
}

impl Out {
    fn create(root: &Path, path: &str) -> Result<Out, Failure> {
        let at = root.join(path);
        let made = at.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(&at));
        let file = made.map_err(|error| Failure::file("make it", &at, &error))?;
        Ok(Out { path: path.into(), at, file, sum: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| Failure::file("write it", &self.at, &error))
    }

    /// On disk, its name too.
    fn finish(self) -> Result<Entry, Failure> {
        let synced = self.file.sync_all().and_then(|()| self.at.parent().map_or(Ok(()), sync_directory));
        synced.map_err(|error| Failure::file("write it", &self.at, &error))?;
        let sha256 = self.sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Entry { path: self.path, bytes: self.bytes, sha256 })
    }
}

/// A directory that is made, or is there and empty.
///
/// # Errors
/// It is not empty, or cannot be made.
pub fn make_empty(directory: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("make it", directory, &error);
    fs::create_dir_all(directory).map_err(failed)?;
    if fs::read_dir(directory).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    let what = "the directory is not empty";
    Err(Failure::new(Exit::Machine, what, directory.display().to_string(), "name another one, or empty it"))
}

/// Puts a copy into `data`, which must not be there or be empty; with nothing, only checks it. Each file's checksum is
/// verified; `VERSION` is written last, so that what is not whole is no data directory.
///
/// # Errors
/// A file that is missing or damaged, a directory that is not empty, a disk that refuses.
pub fn restore(from: &Path, data: Option<&Path>, progress: &mut dyn FnMut(u64)) -> Result<Manifest, Failure> {
    let manifest = Manifest::read(from)?;
    if let Some(data) = data {
        make_empty(data)?;
    }
    restore_files(from, &manifest, data, progress, &|| Ok(()))?;
    Ok(manifest)
}

/// Puts the files of a copy into `data`, `VERSION` last, before which `before_last` is done; with nothing, only checks them.
fn restore_files(
    from: &Path,
    manifest: &Manifest,
    data: Option<&Path>,
    progress: &mut dyn FnMut(u64),
    before_last: &dyn Fn() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut done = 0;
    let (last, files): (Vec<&Entry>, Vec<&Entry>) =
        manifest.files.iter().partition(|entry| entry.path == "VERSION");
    for entry in files.into_iter().chain(last) {
        if entry.path == "VERSION" {
            before_last()?;
        }
        let path = from.join(&entry.path);
        let mut file = File::open(&path).map_err(|error| Failure::file("read it", &path, &error))?;
        let mut out = data.map(|data| Out::create(data, &entry.path)).transpose()?;
        let (mut sum, mut bytes, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
        loop {
            let read = file.read(&mut chunk).map_err(|error| Failure::file("read it", &path, &error))?;
            if read == 0 {
                break;
            }
            sum.update(&chunk[..read]);
            bytes += read as u64;
            if let Some(out) = &mut out {
                out.write(&chunk[..read])?;
            }
            done += read as u64;
            progress(done);
        }
        let sum: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if bytes != entry.bytes || sum != entry.sha256 {
            let what = "the file is damaged: it is not what the manifest says";
            let remedy = "take another backup; what was restored so far is no data directory";
            return Err(Failure::input(what, path.display().to_string(), remedy));
        }
        out.map(Out::finish).transpose()?;
    }
    Ok(())
}
