//! A group: one sandbox's place in each tree.

use super::error::CgroupError;
use super::files;
use super::hierarchy::{Controller, Version};
use super::kill;
use super::limits::{self, Limits};
use super::parent::{Inner, Parent, inherit_cpus};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest name of a group.
const NAME_BYTES_MAX: usize = 64;

/// A group. It is not removed when dropped: it belongs to the kernel, and what it holds may outlive this process.
#[derive(Debug)]
pub struct Group {
    parent: Arc<Inner>,
    name: String,
    /// Its directory in each tree of the parent; none: no limit needed one yet.
    directories: Vec<Option<PathBuf>>,
    applied: Limits,
    /// See [`Group::stand_back`].
    stands_back: bool,
    /// `memory.peak`, once it was reset: the kernel (v2) counts for each open file.
    peak: Option<File>,
}

impl Group {
    pub(super) fn make(parent: &Parent, name: &str) -> Result<Group, CgroupError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!((1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain), "name {name:?}");
        let inner = parent.inner.clone();
        let mut group = Group {
            name: name.to_owned(),
            directories: vec![None; inner.trees.len()],
            applied: Limits::NONE,
            stands_back: false,
            peak: None,
            parent: inner,
        };
        let made = group.make_always();
        if let Err(error) = made {
            // Nothing is in it yet.
            let _ = group.remove();
            return Err(error);
        }
        Ok(group)
    }

    fn make_always(&mut self) -> Result<(), CgroupError> {
        for tree in 0..self.parent.trees.len() {
            if self.parent.is_always(tree) {
                self.make_in(tree)?;
            }
        }
        if let (Some(directory), Version::Two) = self.place(Controller::Memory) {
            // Half a function is none: all of it ends, and the outcome says why.
            files::write(&directory.join("memory.oom.group"), "1")?;
        }
        Ok(())
    }

    fn make_in(&mut self, tree: usize) -> Result<(), CgroupError> {
        let directory = self.parent.tops[tree].join(&self.name);
        if !files::make(&directory)? {
            return Err(CgroupError::file("make", &directory, io::Error::from_raw_os_error(libc::EEXIST)));
        }
        self.directories[tree] = Some(directory.clone());
        let of = &self.parent.trees[tree];
        if of.version == Version::One && of.controllers.contains(&Controller::Cpuset) {
            inherit_cpus(of.version, &directory)?;
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory in the v2 tree: what BPF programs attach to.
    pub fn unified(&self) -> Option<&Path> {
        self.directories[self.parent.unified?].as_deref()
    }

    /// Where a controller's files are. Version 2 is said where it is not bound at all.
    fn place(&self, controller: Controller) -> (Option<&Path>, Version) {
        match self.parent.tree(controller) {
            Some(tree) => (self.directories[tree].as_deref(), self.parent.trees[tree].version),
            None => (None, Version::Two),
        }
    }

    /// A file of a controller, by its name in each version.
    fn file(&self, controller: Controller, one: &str, two: &str) -> Result<PathBuf, CgroupError> {
        let (directory, version) = self.place(controller);
        let Some(directory) = directory else { return Err(self.none_bound(controller)) };
        Ok(directory.join(if version == Version::One { one } else { two }))
    }

    fn none_bound(&self, controller: Controller) -> CgroupError {
        let name = controller.name(Version::Two);
        CgroupError::NoController {
            controller: name,
            remedy: format!(
                "enable it: mount it (v1), or add `{name}` to cgroup.subtree_control of all groups above (v2, \
                 systemd: Delegate=yes)"
            ),
        }
    }

    /// Sets the limits; again and at any time. Only what differs from the last time is written.
    ///
    /// # Errors
    /// If nothing enforces one of them, or the kernel refuses one; those written before it are then in force.
    pub fn apply(&mut self, limits: &Limits) -> Result<(), CgroupError> {
        for controller in limits.controllers() {
            let Some(tree) = self.parent.tree(controller) else { return Err(self.none_bound(controller)) };
            if self.directories[tree].is_none() {
                self.make_in(tree)?;
                self.follow(tree)?;
            }
        }
        let disk = match (&self.parent.disk, limits.io_bytes) {
            (Ok(disk), _) => disk.clone(),
            (Err(_), 0) => String::new(),
            (Err(reason), _) => {
                let remedy = format!("{reason}: put the data directory on a local disk");
                return Err(CgroupError::NoController { controller: "io", remedy });
            }
        };
        for tree in 0..self.parent.trees.len() {
            let Some(directory) = &self.directories[tree] else { continue };
            let of = &self.parent.trees[tree];
            for controller in &of.controllers {
                for change in limits::changes(of.version, *controller, &self.applied, limits, &disk) {
                    write(directory, &change)?;
                }
                let is_free = limits.cpus.is_empty() && !self.applied.cpus.is_empty();
                if *controller == Controller::Cpuset && is_free {
                    inherit_cpus(of.version, directory)?;
                }
            }
        }
        self.applied = limits.clone();
        Ok(())
    }

    /// Lets the group stand back behind others of the platform that want a CPU, or not any more: by its weight and by the
    /// slices of its threads, those to come included. Again is no error, and reaches threads that were being started.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn stand_back(&mut self, stands_back: bool) -> Result<(), CgroupError> {
        let (Some(directory), version) = self.place(Controller::Cpu) else { return Ok(()) };
        let threads = match version {
            Version::One => "tasks",
            Version::Two => "cgroup.threads",
        };
        let threads = files::ids(&directory.join(threads))?;
        if stands_back != self.stands_back {
            write(directory, &limits::weight(version, self.applied.cpu_weight, stands_back))?;
        }
        for tid in threads {
            // It may have ended; kernels before 6.12 know no slices.
            let _ = crate::sys::set_slices(tid, stands_back);
        }
        self.stands_back = stands_back;
        Ok(())
    }

    /// Lets the group's processes follow into a tree that it has just come to.
    fn follow(&self, tree: usize) -> Result<(), CgroupError> {
        /// A process that is being forked may appear in between.
        const ROUNDS: usize = 16;
        let Some(from) = self
            .directories
            .iter()
            .enumerate()
            .find_map(|(index, directory)| directory.as_deref().filter(|_| index != tree))
        else {
            return Ok(());
        };
        let to = self.directories[tree].as_deref().expect("it was just made");
        for _ in 0..ROUNDS {
            let there = files::processes(to)?;
            let missing: Vec<i32> =
                files::processes(from)?.into_iter().filter(|pid| !there.contains(pid)).collect();
            if missing.is_empty() {
                break;
            }
            for pid in missing {
                add(to, pid)?;
            }
        }
        Ok(())
    }

    /// Moves a process in; its children to come will be in as well.
    ///
    /// With v1 this waits for the kernel's lock of all forks, some 0.3 ms for each tree and 10 ms for the first of a
    /// while. A new process gets in faster by its own hand: [`Group::entry`].
    ///
    /// # Errors
    /// If the process has ended, or the kernel refuses.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        for directory in self.directories.iter().flatten() {
            let path = directory.join("cgroup.procs");
            files::write(&path, &pid.to_string())?;
        }
        Ok(())
    }

    /// What a new process needs to get in.
    ///
    /// # Errors
    /// If a file cannot be opened.
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        let mut entry = Entry { unified: None, procs: None, tasks: Vec::new() };
        for (tree, directory) in self.parent.trees.iter().zip(&self.directories) {
            let Some(directory) = directory else { continue };
            match tree.version {
                Version::One => entry.tasks.push(open(&directory.join("tasks"), libc::O_WRONLY)?),
                Version::Two => {
                    entry.unified = Some(open(directory, libc::O_PATH | libc::O_DIRECTORY)?);
                    entry.procs = Some(open(&directory.join("cgroup.procs"), libc::O_WRONLY)?);
                }
            }
        }
        Ok(entry)
    }

    /// Sends SIGKILL to all that is in it, also to what is forked meanwhile. They may take a moment to be gone:
    /// [`Group::is_empty`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill::kill(&self.places(), self.parent.has_kill)
    }

    fn places(&self) -> Vec<(Version, PathBuf)> {
        let trees = self.parent.trees.iter().map(|tree| tree.version);
        trees.zip(&self.directories).filter_map(|(version, place)| Some((version, place.clone()?))).collect()
    }

    /// Whether no process is left in it. Zombies do not count.
    ///
    /// # Errors
    /// If its files cannot be read.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        for (version, directory) in self.places() {
            if !kill::is_empty(version, &directory)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// CPU time used, nanoseconds (`cpu.stat`, `cpuacct.usage`).
    ///
    /// # Errors
    /// If nothing counts it, or its file cannot be read.
    pub fn cpu_ns(&self) -> Result<u64, CgroupError> {
        if let (Some(directory), Version::One) = self.place(Controller::Cpuacct) {
            return files::number(&directory.join("cpuacct.usage"));
        }
        // In v2 no controller is needed for it.
        let Some(directory) = self.unified() else { return Err(self.none_bound(Controller::Cpu)) };
        Ok(files::keyed(&directory.join("cpu.stat"), "usage_usec")?.saturating_mul(1000))
    }

    /// Time for which it had work and no quota left, all CPUs together, nanoseconds.
    ///
    /// # Errors
    /// If nothing counts it, or its file cannot be read.
    pub fn throttled_ns(&self) -> Result<u64, CgroupError> {
        let text = files::read(&self.file(Controller::Cpu, "cpu.stat", "cpu.stat")?)?;
        let two = files::value(&text, "throttled_usec").saturating_mul(1000);
        Ok(files::value(&text, "throttled_time").max(two))
    }

    /// Memory in use, page cache included, bytes.
    ///
    /// # Errors
    /// If nothing counts it, or its file cannot be read.
    pub fn memory_bytes(&self) -> Result<u64, CgroupError> {
        files::number(&self.file(Controller::Memory, "memory.usage_in_bytes", "memory.current")?)
    }

    /// Most memory in use since it was made or since [`Group::reset_peak`], bytes.
    ///
    /// # Errors
    /// If nothing counts it (v2 before Linux 5.19), or its file cannot be read.
    pub fn memory_peak_bytes(&self) -> Result<u64, CgroupError> {
        let path = self.file(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak")?;
        let Some(mut file) = self.peak.as_ref() else { return files::number(&path) };
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(|e| failed(&path, e))?;
        text.trim().parse().map_err(|_| failed(&path, io::ErrorKind::InvalidData.into()))
    }

    /// The file that [`Group::memory_peak_bytes`] is read from, for another process to read.
    ///
    /// # Errors
    /// If nothing counts it (v2 before Linux 5.19), or it cannot be opened.
    pub fn memory_peak_file(&self) -> Result<OwnedFd, CgroupError> {
        open(&self.file(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak")?, libc::O_RDONLY)
    }

    /// Lets the peak begin anew. False: this kernel cannot (v2 before Linux 6.12).
    ///
    /// # Errors
    /// If nothing counts it.
    pub fn reset_peak(&mut self) -> Result<bool, CgroupError> {
        let path = self.file(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak")?;
        if self.place(Controller::Memory).1 == Version::One {
            return files::write(&path, "0").map(|()| true);
        }
        let mut file = match self.peak.take() {
            Some(file) => file,
            None => match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(_) => return Ok(false),
            },
        };
        if file.write_all(b"reset").is_err() {
            return Ok(false);
        }
        self.peak = Some(file);
        Ok(true)
    }

    /// Processes that the kernel killed since the group's memory was at its limit.
    ///
    /// # Errors
    /// If nothing counts it, or its file cannot be read.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        files::keyed(&self.file(Controller::Memory, "memory.oom_control", "memory.events")?, "oom_kill")
    }

    /// Forks that were refused since the group, or one above, had its most processes.
    ///
    /// # Errors
    /// If nothing counts it, or its file cannot be read.
    pub fn forks_refused(&self) -> Result<u64, CgroupError> {
        files::keyed(&self.file(Controller::Pids, "pids.events", "pids.events")?, "max")
    }

    /// Processes and threads in it now.
    ///
    /// # Errors
    /// If nothing counts it, or its file cannot be read.
    pub fn processes(&self) -> Result<u64, CgroupError> {
        files::number(&self.file(Controller::Pids, "pids.current", "pids.current")?)
    }

    /// A descriptor that becomes ready when memory is at its limit. Of v1 that is just before the kernel kills, and then
    /// one process only: who wants all of the group to end kills the rest.
    ///
    /// # Errors
    /// If nothing limits memory, or the kernel refuses.
    pub fn watch_oom(&self) -> Result<Watch, CgroupError> {
        let path = self.file(Controller::Memory, "memory.oom_control", "memory.events")?;
        let file = open(&path, libc::O_RDONLY)?;
        if self.place(Controller::Memory).1 == Version::Two {
            let watch = Watch { descriptor: file, interest: Interest::Priority };
            watch.clear();
            return Ok(watch);
        }
        // SAFETY: no pointer is passed.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(failed(&path, io::Error::last_os_error()));
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        let event = unsafe { OwnedFd::from_raw_fd(raw) };
        let control = path.with_file_name("cgroup.event_control");
        files::write(&control, &format!("{} {}", event.as_raw_fd(), file.as_raw_fd()))?;
        Ok(Watch { descriptor: event, interest: Interest::Readable })
    }

    /// Removes it. False: something is still in it; try again.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub fn remove(&mut self) -> Result<bool, CgroupError> {
        let mut is_gone = true;
        for place in &mut self.directories {
            let Some(directory) = place else { continue };
            match kill::remove_tree(directory)? {
                true => *place = None,
                false => is_gone = false,
            }
        }
        Ok(is_gone)
    }

    /// Removes it, and waits for what is in it to be gone.
    ///
    /// # Errors
    /// If something is still in it after `within`, or the kernel refuses for another reason.
    pub fn remove_within(&mut self, within: Duration) -> Result<(), CgroupError> {
        let stop = Instant::now() + within;
        while !self.remove()? {
            if Instant::now() >= stop {
                let directory = self.directories.iter().flatten().next().expect("something is left");
                return Err(CgroupError::file(
                    "remove",
                    directory,
                    io::Error::from_raw_os_error(libc::EBUSY),
                ));
            }
            std::thread::sleep(kill::PAUSE);
        }
        Ok(())
    }
}

/// How a new process gets into a group.
///
/// Fastest is `clone3` with CLONE_INTO_CGROUP and [`Entry::unified`], and then [`Entry::join`] in the child: some 30 us
/// for each v1 tree.
#[derive(Debug)]
pub struct Entry {
    unified: Option<OwnedFd>,
    procs: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
}

impl Entry {
    /// The group's directory in the v2 tree, for CLONE_INTO_CGROUP.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Called in the new process, which must have one thread. `is_in_unified`: CLONE_INTO_CGROUP has done that part.
    /// Only system calls are made: it may be called between fork and exec.
    ///
    /// # Errors
    /// The kernel's number.
    pub fn join(&self, is_in_unified: bool) -> Result<(), nix::errno::Errno> {
        let procs = self.procs.as_ref().filter(|_| !is_in_unified);
        for file in self.tasks.iter().chain(procs) {
            // A thread that moves itself takes no lock of all forks: that is why `tasks` and not `cgroup.procs`.
            nix::unistd::write(file, b"0")?;
        }
        Ok(())
    }
}

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// POLLIN
    Readable,
    /// POLLPRI
    Priority,
}

/// Tells of an event in a group.
#[derive(Debug)]
pub struct Watch {
    /// What to poll.
    pub descriptor: OwnedFd,
    /// For what.
    pub interest: Interest,
}

impl Watch {
    /// Waits anew.
    pub fn clear(&self) {
        // Of v2 reading the file is what re-arms it. The descriptor never blocks.
        let mut bytes = [0u8; 512];
        if self.interest == Interest::Priority {
            let _ = nix::unistd::lseek(&self.descriptor, 0, nix::unistd::Whence::SeekSet);
        }
        let _ = nix::unistd::read(&self.descriptor, &mut bytes);
    }
}

fn write(directory: &Path, change: &limits::Change) -> Result<(), CgroupError> {
    match files::write(&directory.join(change.file), &change.text) {
        Err(error) if change.is_optional && error.errno() == Some(libc::ENOENT) => Ok(()),
        written => written,
    }
}

fn add(directory: &Path, pid: i32) -> Result<(), CgroupError> {
    match files::write(&directory.join("cgroup.procs"), &pid.to_string()) {
        // It ended meanwhile.
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
        added => added,
    }
}

fn open(path: &Path, flags: i32) -> Result<OwnedFd, CgroupError> {
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path of the kernel's has no NUL");
    // SAFETY: the path ends with NUL.
    let raw = unsafe { libc::open(name.as_ptr(), flags | libc::O_CLOEXEC) };
    if raw < 0 {
        return Err(CgroupError::file("open", path, io::Error::last_os_error()));
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn failed(path: &Path, error: io::Error) -> CgroupError {
    CgroupError::file("read", path, error)
}
