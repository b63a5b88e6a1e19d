//! Files of the host for guests: which directories a function was granted, and opening what lies below them.
//!
//! A directory is granted if the function's manifest asks for it and the worker's operator allows it or one above it.
//! Every path is resolved by the kernel below the directory that was granted (`openat2` with `RESOLVE_BENEATH`): no `..`,
//! absolute path, symbolic link or link of `/proc` leads out, and nothing that is mounted below belongs to it. Only
//! plain files and directories are opened, and only to read; what a name stands for is looked at before it is opened, so
//! that no pipe or device ever is.
//!
//! A worker that runs as root looks names up as nobody, and opens only what everybody may read, as for process
//! functions.
//!
//! Looking a name up waits for the disk if its directory is not in memory. Allow directories of local disks only: a
//! file system whose server does not answer would hold up the core.

use call::function::files::{FileGrants, parts};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::prctl::{get_pdeathsig, set_pdeathsig};
use nix::sys::signal::{Signal, raise};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, Pid, Uid, geteuid, getppid, setfsgid, setfsuid};
use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Descriptors that one instance has beside its streams, its grants included: the kernel's soft limit for a process is
/// 1,024, and a guest serves one call at a time.
pub const OPEN_MAX: usize = 64;
/// Times that a look-up is tried which the kernel could not decide because something was renamed meanwhile.
const LOOKUPS: u32 = 8;
/// User and group that own nothing.
const NOBODY: u32 = 65_534;

/// The directories of this host that functions may be granted at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed(Vec<PathBuf>);

impl Allowed {
    /// These directories, with all below them. Absolute paths.
    pub fn new(directories: Vec<PathBuf>) -> Allowed {
        Allowed(directories)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a function with these grants could run here now.
    ///
    /// # Errors
    /// A sentence for the function's owner.
    pub fn check(&self, grants: &FileGrants) -> Result<(), String> {
        grants.values().try_for_each(|directory| self.open(directory).map(drop))
    }

    /// Opens a granted directory.
    ///
    /// # Errors
    /// A sentence for the function's owner.
    pub fn open(&self, directory: &str) -> Result<OwnedFd, String> {
        let below =
            |root: &PathBuf| Some((root.clone(), Path::new(directory).strip_prefix(root).ok()?.to_owned()));
        // The manifest's check refuses it; a path that is not plain would be taken for another one here.
        let found = parts(directory).and_then(|_| self.0.iter().find_map(below));
        let Some((root, rest)) = found else {
            let allowed: Vec<String> = self.0.iter().map(|root| root.display().to_string()).collect();
            let allowed = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
            return Err(format!(
                "[files] asks for {directory}, which this host's operator does not allow (allowed: {allowed}); ask \
                 for a directory below these, or have the worker started with `--allow-files {directory}`"
            ));
        };
        let path = if rest.as_os_str().is_empty() { Path::new(".") } else { &rest };
        let opened = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|root| open_below(&root, path, Wanted { directory: true, follow: true }));
        match opened {
            Ok((fd, _)) => Ok(fd),
            Err(errno) => {
                Err(format!("[files] asks for {directory}, which cannot be opened: {}", reason(errno, &root)))
            }
        }
    }
}

fn reason(errno: Errno, root: &Path) -> String {
    match errno {
        Errno::EXDEV => {
            let root = root.display();
            format!("a link in it leads out of {root}, or it is mounted there; allow it by its own path")
        }
        Errno::EACCES => "not everybody may read it (modes of it and of the directories above)".into(),
        errno => errno.desc().into(),
    }
}

/// What is to be opened.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Nothing but a directory.
    pub directory: bool,
    /// If the path's last part is a symbolic link: what it leads to.
    pub follow: bool,
}

/// Opens a plain file or a directory below `directory`, to read.
///
/// # Errors
/// EXDEV for a path that leads out; EACCES also for what is neither file nor directory; ELOOP for a link that is not to
/// be followed; what the kernel says else.
pub fn open_below(directory: impl AsFd, path: &Path, wanted: Wanted) -> nix::Result<(OwnedFd, FileStat)> {
    let (found, stat) = find_below(directory, path, wanted)?;
    let flags = match kind(&stat) {
        // Not blocking: it may be leased to somebody who is to give it back first.
        SFlag::S_IFREG => OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
        SFlag::S_IFDIR => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        SFlag::S_IFLNK => return Err(Errno::ELOOP),
        _ => return Err(Errno::EACCES),
    };
    if geteuid().is_root() && stat.st_mode & Mode::S_IROTH.bits() == 0 {
        return Err(Errno::EACCES);
    }
    // The very file that was looked at, whatever its name stands for by now.
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let opened = as_nobody(|| open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty()))?;
    Ok((opened, stat))
}

/// Finds whatever a path below `directory` stands for, without opening it.
///
/// # Errors
/// As [`open_below`].
pub fn find_below(directory: impl AsFd, path: &Path, wanted: Wanted) -> nix::Result<(OwnedFd, FileStat)> {
    let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    flags.set(OFlag::O_DIRECTORY, wanted.directory);
    flags.set(OFlag::O_NOFOLLOW, !wanted.follow);
    let beneath =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags).resolve(beneath);
    let mut tries = 0;
    let found = loop {
        tries += 1;
        match as_nobody(|| openat2(&directory, path, how)) {
            Err(Errno::EAGAIN | Errno::EINTR) if tries < LOOKUPS => {}
            found => break found?,
        }
    };
    let stat = fstat(&found)?;
    Ok((found, stat))
}

/// The type bits of a file's mode.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Looks names up as nobody, if this process is root: what root may pass and a guest may not stays closed.
fn as_nobody<T>(with: impl FnOnce() -> T) -> T {
    if !geteuid().is_root() {
        return with();
    }
    // Of this thread only. The group first and last: changing it is a right of root's.
    let (parent, follows) = (getppid(), get_pdeathsig().ok().flatten());
    let group = setfsgid(Gid::from_raw(NOBODY));
    let user = setfsuid(Uid::from_raw(NOBODY));
    let result = with();
    setfsuid(user);
    setfsgid(group);
    follow(parent, follows);
    result
}

/// The kernel forgets by which signal a thread follows its parent as soon as the thread's user changes; without it a core
/// would outlive its worker.
fn follow(parent: Pid, signal: Option<Signal>) {
    let Some(signal) = signal else { return };
    // A core without it is worse than no core.
    set_pdeathsig(signal).expect("a valid signal");
    if getppid() != parent {
        let _ = raise(signal);
    }
}

/// Descriptors that all guests of a core have open together.
#[derive(Clone)]
pub struct Budget(Rc<Left>);

struct Left {
    left: Cell<u32>,
}

impl Budget {
    /// For so many.
    pub fn new(descriptors: u32) -> Budget {
        Budget(Rc::new(Left { left: Cell::new(descriptors) }))
    }

    /// One of them; `None` if all are out.
    fn take(&self) -> Option<Share> {
        let left = self.0.left.get().checked_sub(1)?;
        self.0.left.set(left);
        Some(Share(self.clone()))
    }
}

/// The right to one descriptor; goes back when dropped.
struct Share(Budget);

impl Drop for Share {
    fn drop(&mut self) {
        let left = &self.0.0.left;
        left.set(left.get() + 1);
    }
}

/// What a descriptor is of.
pub enum Kind {
    /// A granted directory, and the function's name for it.
    Grant(Rc<str>),
    /// A directory below one.
    Directory,
    /// A plain file, and where the next read is from.
    File(u64),
}

/// An open file or directory of a guest.
pub struct Opened {
    /// The kernel's.
    pub fd: OwnedFd,
    /// What it is of.
    pub kind: Kind,
    _share: Share,
}

/// The open files and directories of one instance, by the number that the guest has for each: 0 is the first one after
/// the standard streams.
pub struct Table {
    open: Vec<Option<Opened>>,
    budget: Budget,
}

impl Table {
    /// Nothing is open.
    pub fn new(budget: &Budget) -> Table {
        Table { open: Vec::new(), budget: budget.clone() }
    }

    /// An open one.
    pub fn get(&mut self, number: usize) -> Option<&mut Opened> {
        self.open.get_mut(number)?.as_mut()
    }

    /// Whether one more would have room.
    ///
    /// # Errors
    /// EMFILE if the instance has [`OPEN_MAX`], ENFILE if the core's guests have all that they may.
    pub fn room(&self) -> nix::Result<()> {
        if self.open.iter().flatten().count() >= OPEN_MAX {
            return Err(Errno::EMFILE);
        }
        if self.budget.0.left.get() == 0 { Err(Errno::ENFILE) } else { Ok(()) }
    }

    /// Takes in what was opened, under the lowest free number.
    ///
    /// # Errors
    /// As [`Table::room`].
    pub fn insert(&mut self, fd: OwnedFd, kind: Kind) -> nix::Result<usize> {
        self.room()?;
        let share = self.budget.take().ok_or(Errno::ENFILE)?;
        let opened = Some(Opened { fd, kind, _share: share });
        match self.open.iter().position(Option::is_none) {
            Some(free) => {
                self.open[free] = opened;
                Ok(free)
            }
            None => {
                self.open.push(opened);
                Ok(self.open.len() - 1)
            }
        }
    }

    /// Closes one; false if it is not open.
    pub fn close(&mut self, number: usize) -> bool {
        self.open.get_mut(number).is_some_and(|opened| opened.take().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_back_and_their_numbers_too() {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let budget = Budget::new(3);
        let mut first = Table::new(&budget);
        assert_eq!((0..2).map(|_| first.insert(null(), Kind::Directory)).collect::<Vec<_>>(), [Ok(0), Ok(1)]);
        let mut second = Table::new(&budget);
        assert_eq!(second.insert(null(), Kind::Directory), Ok(0));
        assert_eq!(
            second.insert(null(), Kind::Directory),
            Err(Errno::ENFILE),
            "the core's guests have all three"
        );
        assert!(first.close(0) && !first.close(0) && !first.close(7));
        assert_eq!(first.insert(null(), Kind::Directory), Ok(0), "the lowest free number");
        drop(first);
        assert_eq!(budget.0.left.get(), 2);
        let mut many = Table::new(&Budget::new(u32::MAX));
        assert!((0..OPEN_MAX).all(|number| many.insert(null(), Kind::Directory) == Ok(number)));
        assert_eq!(many.insert(null(), Kind::Directory), Err(Errno::EMFILE));
    }

    #[test]
    fn a_look_up_as_nobody_keeps_the_signal_by_which_the_parent_is_followed() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root looks names up as nobody");
            return;
        }
        set_pdeathsig(Signal::SIGUSR2).unwrap();
        setfsuid(Uid::from_raw(NOBODY));
        setfsuid(Uid::from_raw(0));
        assert_eq!(get_pdeathsig(), Ok(None), "if the kernel kept it, nothing would have to be done");
        set_pdeathsig(Signal::SIGUSR2).unwrap();
        as_nobody(|| ());
        assert_eq!(get_pdeathsig(), Ok(Some(Signal::SIGUSR2)));
        set_pdeathsig(None).unwrap();
    }
}
