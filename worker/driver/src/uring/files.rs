//! Files of the data directory: block reads, synced block writes, and making a file without stalling the loop.

use super::blocks::Blocks;
use super::ring::{Completion, Purpose, Ring, Subject};
use crate::arrivals::{Arrivals, Raw};
use crate::seam::{BlockId, FileId, Token};
use io_uring::{opcode, types};
use memmap2::{MmapMut, MmapRaw};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Bytes of zeros per write while a file is made: large enough for the disk's full rate, small enough that a log
/// write beside it waits less than a millisecond.
const ZEROS_BYTES: usize = 512 << 10;
const DIRECT_ALIGN: u64 = 4096;

/// A read or write of a block under way.
struct BlockOperation {
    token: Token,
    file: RawFd,
    offset: u64,
    block: BlockId,
    bytes: usize,
    done: usize,
    writes: bool,
}

/// What the next completion of a creation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Open,
    Reserve,
    Fill,
    Sync,
    SyncDirectory,
    Undo,
}

/// A file being made.
struct Creation {
    token: Token,
    name: CString,
    bytes: u64,
    written: u64,
    step: Step,
    file: Option<OwnedFd>,
    /// Why it is being undone.
    error: i32,
}

/// What the next completion of a removal or renaming is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Move {
    Unlink,
    Rename,
    Sync,
    /// The directory could not be synced: the old name again.
    RenameBack,
}

/// A file being removed or renamed.
struct Relinking {
    token: Token,
    name: CString,
    /// The new name; none if it is removed.
    to: Option<CString>,
    /// What is closed when it is removed.
    file: Option<FileId>,
    step: Move,
    error: i32,
}

/// A slab whose indices go to the kernel.
struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    fn with_capacity(count: usize) -> Slab<T> {
        Slab { slots: Vec::with_capacity(count), free: Vec::with_capacity(count) }
    }

    fn insert(&mut self, value: T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize] = Some(value);
        index
    }

    fn get(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].as_mut().expect("an index names what was inserted")
    }

    fn remove(&mut self, index: u32) -> T {
        self.free.push(index);
        self.slots[index as usize].take().expect("an index names what was inserted")
    }
}

pub(super) struct Disk {
    directory: Option<(PathBuf, File)>,
    files: Slab<OwnedFd>,
    pub(super) blocks: Blocks,
    operations: Slab<BlockOperation>,
    creations: Slab<Box<Creation>>,
    relinkings: Slab<Box<Relinking>>,
    /// Written while a file is made; mapped, never touched, so it takes no memory.
    zeros: MmapRaw,
    /// Whether the file system takes O_DIRECT.
    direct: bool,
}

impl Disk {
    pub(super) fn new(directory: Option<PathBuf>, blocks: Blocks) -> io::Result<Disk> {
        let directory = directory
            .map(|path| match File::open(&path) {
                Ok(file) => Ok((path, file)),
                Err(error) => Err(io::Error::new(
                    error.kind(),
                    format!("cannot open the data directory {}: {error}", path.display()),
                )),
            })
            .transpose()?;
        Ok(Disk {
            directory,
            files: Slab::with_capacity(64),
            blocks,
            operations: Slab::with_capacity(64),
            creations: Slab::with_capacity(4),
            relinkings: Slab::with_capacity(4),
            zeros: MmapRaw::from(MmapMut::map_anon(ZEROS_BYTES)?),
            direct: true,
        })
    }

    fn directory(&self) -> io::Result<&(PathBuf, File)> {
        self.directory.as_ref().ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "this driver was made without a data directory")
        })
    }

    pub(super) fn backend(&self) -> String {
        let direct = if self.direct { "O_DIRECT" } else { "page cache (the file system refuses O_DIRECT)" };
        let memory = if self.blocks.registered() { "registered buffers" } else { "unregistered buffers" };
        match &self.directory {
            Some((path, _)) => format!("{direct}, RWF_DSYNC, {memory}, in {}", path.display()),
            None => "none".to_owned(),
        }
    }

    pub(super) fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory()?.0)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                found.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn open(&mut self, name: &str) -> io::Result<FileId> {
        let path = self.directory()?.0.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let mut opened = options.clone().custom_flags(libc::O_DIRECT).open(&path);
        if opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            self.direct = false;
            opened = options.open(&path);
        }
        let file = opened.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
        })?;
        Ok(FileId(self.files.insert(file.into())))
    }

    // ---- removing and renaming ----

    pub(super) fn remove(
        &mut self,
        ring: &mut Ring,
        file: FileId,
        name: &str,
        token: Token,
    ) -> Result<(), i32> {
        let name = CString::new(name).map_err(|_| libc::EINVAL)?;
        self.relink(ring, Relinking { token, name, to: None, file: Some(file), step: Move::Unlink, error: 0 })
    }

    pub(super) fn rename(&mut self, ring: &mut Ring, from: &str, to: &str, token: Token) -> Result<(), i32> {
        let name = CString::new(from).map_err(|_| libc::EINVAL)?;
        let to = Some(CString::new(to).map_err(|_| libc::EINVAL)?);
        self.relink(ring, Relinking { token, name, to, file: None, step: Move::Rename, error: 0 })
    }

    fn relink(&mut self, ring: &mut Ring, relinking: Relinking) -> Result<(), i32> {
        self.directory().map_err(|_| libc::ENOTDIR)?;
        let index = self.relinkings.insert(Box::new(relinking));
        self.push_move(ring, index);
        Ok(())
    }

    fn push_move(&mut self, ring: &mut Ring, index: u32) {
        let directory = types::Fd(self.directory.as_ref().expect("checked by relink").1.as_raw_fd());
        let relinking = self.relinkings.get(index);
        let name = relinking.name.as_ptr();
        let to = relinking.to.as_ref().map_or(std::ptr::null(), |to| to.as_ptr());
        let rename = |from, to| {
            opcode::RenameAt::new(directory, from, directory, to).flags(libc::RENAME_NOREPLACE).build()
        };
        // The kernel gives all of these to its workers: none of them stalls the ring.
        let entry = match relinking.step {
            Move::Unlink => opcode::UnlinkAt::new(directory, name).build(),
            Move::Rename => rename(name, to),
            Move::RenameBack => rename(to, name),
            Move::Sync => opcode::Fsync::new(directory).build(),
        };
        // SAFETY: the names are boxed until the last completion.
        unsafe { ring.push(entry, Subject(Purpose::Directory, index)) };
    }

    pub(super) fn on_directory(&mut self, ring: &mut Ring, completion: Completion, into: &mut Arrivals) {
        let index = completion.subject.1;
        let relinking = self.relinkings.get(index);
        let next = match (relinking.step, completion.result) {
            (step, error) if error == -libc::EINTR || error == -libc::EAGAIN => Some(step),
            // Gone with an earlier try, whose sync failed.
            (Move::Unlink, error) if error == -libc::ENOENT => Some(Move::Sync),
            (Move::RenameBack, _) => None,
            (step, error) if error < 0 => {
                relinking.error = -error;
                (step == Move::Sync && relinking.to.is_some()).then_some(Move::RenameBack)
            }
            (Move::Unlink | Move::Rename, _) => Some(Move::Sync),
            (Move::Sync, _) => None,
        };
        if let Some(step) = next {
            relinking.step = step;
            return self.push_move(ring, index);
        }
        let relinking = self.relinkings.remove(index);
        let result = if relinking.error == 0 { Ok(()) } else { Err(relinking.error) };
        if let (Some(file), Ok(())) = (relinking.file, result) {
            self.close(ring, file);
        }
        into.raw.push(Raw::Directory(relinking.token, result));
    }

    /// Leaves the closing to a kernel worker: freeing the blocks of a removed file takes milliseconds.
    fn close(&mut self, ring: &mut Ring, file: FileId) {
        let descriptor = self.files.remove(file.0).into_raw_fd();
        let entry = opcode::Close::new(types::Fd(descriptor)).build().flags(io_uring::squeue::Flags::ASYNC);
        // SAFETY: the entry points to nothing, and owns the descriptor from here on.
        unsafe { ring.push(entry, Subject(Purpose::Forget, 0)) };
    }

    // ---- blocks ----

    pub(super) fn begin(
        &mut self,
        ring: &mut Ring,
        writes: bool,
        (file, offset): (FileId, u64),
        (block, bytes): (BlockId, usize),
        token: Token,
    ) {
        assert!(
            offset.is_multiple_of(DIRECT_ALIGN) && (bytes as u64).is_multiple_of(DIRECT_ALIGN),
            "aligned I/O"
        );
        assert!(bytes <= self.blocks.bytes() && bytes > 0, "within the block");
        let file = self.files.get(file.0).as_raw_fd();
        let index =
            self.operations.insert(BlockOperation { token, file, offset, block, bytes, done: 0, writes });
        self.push_block(ring, index);
    }

    fn push_block(&mut self, ring: &mut Ring, index: u32) {
        let BlockOperation { file, offset, block, bytes, done, writes, .. } = *self.operations.get(index);
        let (fd, offset, length) = (types::Fd(file), offset + done as u64, (bytes - done) as u32);
        // SAFETY: `done < bytes <= block bytes`.
        let at = unsafe { self.blocks.at(block).add(done) };
        let entry = match (writes, self.blocks.registered()) {
            (true, true) => opcode::WriteFixed::new(fd, at, length, block.0 as u16)
                .offset(offset)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
            (true, false) => {
                opcode::Write::new(fd, at, length).offset(offset).rw_flags(libc::RWF_DSYNC).build()
            }
            (false, true) => opcode::ReadFixed::new(fd, at, length, block.0 as u16).offset(offset).build(),
            (false, false) => opcode::Read::new(fd, at, length).offset(offset).build(),
        };
        // SAFETY: the block lives as long as the driver, and its owner leaves it alone until the completion.
        unsafe { ring.push(entry, Subject(Purpose::Block, index)) };
    }

    pub(super) fn on_block(&mut self, ring: &mut Ring, completion: Completion, into: &mut Arrivals) {
        let index = completion.subject.1;
        let operation = self.operations.get(index);
        if completion.result > 0 {
            operation.done += completion.result as usize;
            let aligned = (operation.done as u64).is_multiple_of(DIRECT_ALIGN);
            // A short transfer: go on; a short read that ends inside a page is the end of the file.
            if operation.done < operation.bytes && aligned {
                return self.push_block(ring, index);
            }
        }
        if completion.result == -libc::EINTR || completion.result == -libc::EAGAIN {
            return self.push_block(ring, index);
        }
        let operation = self.operations.remove(index);
        let failed = completion.result.min(0);
        into.raw.push(match (operation.writes, failed) {
            (true, 0) if operation.done < operation.bytes => Raw::Written(operation.token, Err(libc::EIO)),
            (true, 0) => Raw::Written(operation.token, Ok(())),
            (true, error) => Raw::Written(operation.token, Err(-error)),
            (false, 0) => Raw::Read(operation.token, Ok(operation.done)),
            (false, error) => Raw::Read(operation.token, Err(-error)),
        });
    }

    // ---- making a file ----

    pub(super) fn create(
        &mut self,
        ring: &mut Ring,
        name: &str,
        bytes: u64,
        token: Token,
    ) -> Result<(), i32> {
        assert!(bytes.is_multiple_of(DIRECT_ALIGN) && bytes > 0, "a file is a whole number of pages");
        self.directory().map_err(|_| libc::ENOTDIR)?;
        let name = CString::new(name).map_err(|_| libc::EINVAL)?;
        let creation = Creation { token, name, bytes, written: 0, step: Step::Open, file: None, error: 0 };
        let index = self.creations.insert(Box::new(creation));
        self.push_step(ring, index);
        Ok(())
    }

    fn push_step(&mut self, ring: &mut Ring, index: u32) {
        let directory = types::Fd(self.directory.as_ref().expect("checked by create").1.as_raw_fd());
        let direct = if self.direct { libc::O_DIRECT } else { 0 };
        let zeros = self.zeros.as_ptr();
        let creation = self.creations.get(index);
        let file = types::Fd(creation.file.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        let entry = match creation.step {
            Step::Open => opcode::OpenAt::new(directory, creation.name.as_ptr())
                .flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | direct)
                .mode(0o600)
                .build(),
            Step::Reserve => opcode::Fallocate::new(file, creation.bytes).build(),
            Step::Fill => {
                let length = (creation.bytes - creation.written).min(ZEROS_BYTES as u64) as u32;
                opcode::Write::new(file, zeros, length).offset(creation.written).build()
            }
            Step::Sync => opcode::Fsync::new(file).build(),
            Step::SyncDirectory => opcode::Fsync::new(directory).build(),
            Step::Undo => opcode::UnlinkAt::new(directory, creation.name.as_ptr()).build(),
        };
        // SAFETY: the name is boxed until the creation ends, the zeros are mapped as long as the driver lives.
        unsafe { ring.push(entry, Subject(Purpose::Create, index)) };
    }

    pub(super) fn on_create(&mut self, ring: &mut Ring, completion: Completion, into: &mut Arrivals) {
        let index = completion.subject.1;
        let creation = self.creations.get(index);
        let result = completion.result;
        let next = match (creation.step, result) {
            (_, error) if error == -libc::EINTR || error == -libc::EAGAIN => Some(creation.step),
            (Step::Open, error) if error == -libc::EINVAL && self.direct => {
                self.direct = false;
                Some(Step::Open)
            }
            // The file system cannot reserve; filling does it.
            (Step::Reserve, error) if error == -libc::EOPNOTSUPP => Some(Step::Fill),
            (Step::Undo, _) => None,
            (Step::Open, error) if error < 0 => {
                creation.error = -error;
                None
            }
            (Step::Fill, 0) => undo(creation, libc::EIO),
            (_, error) if error < 0 => undo(creation, -error),
            (Step::Open, descriptor) => {
                // SAFETY: the kernel has just made this descriptor for us.
                creation.file = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
                Some(Step::Reserve)
            }
            (Step::Reserve, _) => Some(Step::Fill),
            (Step::Fill, bytes) => {
                creation.written += bytes as u64;
                Some(if creation.written < creation.bytes { Step::Fill } else { Step::Sync })
            }
            (Step::Sync, _) => Some(Step::SyncDirectory),
            (Step::SyncDirectory, _) => None,
        };
        match next {
            Some(step) => {
                creation.step = step;
                self.push_step(ring, index);
            }
            None => self.finish_creation(index, into),
        }
    }

    fn finish_creation(&mut self, index: u32, into: &mut Arrivals) {
        let creation = self.creations.remove(index);
        let result = match (creation.error, creation.file) {
            (0, Some(file)) => Ok(FileId(self.files.insert(file))),
            (error, _) => Err(error),
        };
        into.raw.push(Raw::Created(creation.token, result));
    }
}

/// A half-made file is removed before its failure is told: a full disk must not stay fuller.
fn undo(creation: &mut Creation, error: i32) -> Option<Step> {
    creation.error = error;
    creation.file = None;
    Some(Step::Undo)
}
