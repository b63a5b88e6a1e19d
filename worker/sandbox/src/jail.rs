//! What a sandbox is made of, and how: a blank first, then, when a function comes, its sandbox.
//!
//! A blank is a process (PID 1 of its namespaces) that waits in a root of its own. Making one is the slow part: seven
//! namespaces, a network stack, some twenty mounts. It needs nothing of the function, so that it can be done ahead.
//! Fitting it is the fast part: three mounts, limits, a fork and the exec.

pub mod letter;
pub mod tiers;
mod exec;
mod init;
mod landlock;
mod root;
mod seccomp;

use crate::cgroup::Entry;
use crate::protocol::{Base, Spec, Tier};
use crate::sys::{self, Forked};
use init::Birth;
use letter::{DISKS, FOLLOWED, FUNCTION_ID, Head, LAST, RULESET, STRICT, word};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use root::Roots;
use seccomp::{Disks, Filter, Sockets};
use std::fmt;
use std::fs::{self, File};
use std::io::{Error, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Where programs are looked for if the function does not say.
pub use call::function::process::PATH_DEFAULT;

/// Directories of a `PATH` that are tried.
const PATH_DIRECTORIES_MAX: usize = 32;
/// Bytes of the longest path that the kernel takes, less than `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4000;
/// Bytes of the longest host name.
const HOST_NAME_BYTES_MAX: usize = 63;
/// Added to the kernel's choice whom to kill when the whole host is out of memory: functions before the platform.
const OOM_SCORE: &str = "500";

/// What must be the same for a blank to serve a function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// Whether it sees the host's programs.
    pub has_host_base: bool,
    /// Whether its network stack is its own.
    pub own_network: bool,
}

impl Kind {
    /// What this function needs.
    pub fn of(spec: &Spec) -> Kind {
        Kind { has_host_base: spec.base == Base::Host, own_network: spec.network.is_none() }
    }

    /// Which tree of mounts its root is.
    pub fn base(self) -> Base {
        if self.has_host_base { Base::Host } else { Base::None }
    }
}

/// Who a sandbox is on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ids {
    /// Two ids of its own for each, from this one on: the first process's and the function's.
    Range {
        /// The first.
        first: u32,
    },
    /// The jailer's own: it is not root, and has but one.
    One,
}

/// Why a sandbox was not made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JailError {
    /// What failed and why, and what to do if that is known.
    pub reason: String,
    /// Whether another host, or this one later, may do it.
    pub is_host: bool,
}

impl fmt::Display for JailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for JailError {}

/// This host is at fault.
pub(crate) fn host_fault(what: impl fmt::Display, why: impl fmt::Display) -> JailError {
    JailError { reason: format!("{what}: {why}"), is_host: true }
}

/// The function is at fault.
pub(crate) fn function_fault(reason: impl Into<String>) -> JailError {
    JailError { reason: reason.into(), is_host: false }
}

/// All that sandboxes of one host have in common.
pub struct Jail {
    roots: Roots,
    ids: Ids,
    landlock: landlock::Version,
    /// For those without Unix sockets and those with; of each by [`letter::filter`].
    filters: [[Filter; 4]; 2],
    null: File,
    files_max: u64,
    devices: Vec<PathBuf>,
}

/// A process that waits to become a function's sandbox, or already is one.
#[derive(Debug)]
pub struct Inmate {
    /// PID 1 inside, as the host numbers it.
    pub pid: i32,
    /// It again, for signals and for its end.
    pub pidfd: OwnedFd,
    /// Letters to it and answers from it.
    pub control: OwnedFd,
}

impl Jail {
    /// Makes the roots below `staging` and compiles the filters. The process has a mount namespace of its own.
    ///
    /// # Errors
    /// If the kernel refuses a mount, or a path to expose is not there.
    pub fn new(staging: &Path, expose: &[PathBuf], devices: &[PathBuf], ids: Ids) -> std::io::Result<Jail> {
        let filters = |sockets| {
            let of = |tier, disks| Filter::of(tier, sockets, disks);
            [
                of(Tier::Default, Disks::None),
                of(Tier::Strict, Disks::None),
                of(Tier::Default, Disks::Some),
                of(Tier::Strict, Disks::Some),
            ]
        };
        let (_, files_max) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        if matches!(ids, Ids::Range { .. }) {
            sys::keep_capabilities_over_ids()?;
        }
        Ok(Jail {
            roots: Roots::make(staging, expose, devices)?,
            ids,
            landlock: landlock::Version::of_kernel(),
            filters: [filters(Sockets::Internet), filters(Sockets::All)],
            null: File::options().read(true).write(true).open("/dev/null")?,
            files_max,
            devices: devices.to_vec(),
        })
    }

    /// Whether each sandbox is a user of its own on the host.
    pub fn has_own_ids(&self) -> bool {
        matches!(self.ids, Ids::Range { .. })
    }

    /// What is in force, for people.
    pub fn backends(&self) -> Vec<(String, String)> {
        let ids = match self.ids {
            Ids::Range { first } => format!("two of each sandbox's own, from {first}"),
            Ids::One => "the worker's own: not root".into(),
        };
        [
            ("namespaces", "user pid mount net ipc uts cgroup".to_owned()),
            ("host ids", ids),
            ("seccomp", "in force, tiers default and strict".to_owned()),
            ("landlock", self.landlock.text()),
        ]
        .map(|(thing, text)| (thing.to_owned(), text))
        .into()
    }

    /// Forks a blank. `index` chooses its ids: no other inmate may have it.
    ///
    /// # Errors
    /// If the kernel has no room, or does not let this user make namespaces or map these ids.
    pub fn fork(&self, kind: Kind, index: u32, entry: Option<&Entry>) -> Result<Inmate, JailError> {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.map_err(|errno| host_fault("cannot make a socket", errno.desc()))?;
        let network = if kind.own_network { libc::CLONE_NEWNET } else { 0 };
        let namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | network;
        let unix = kind.own_network || self.landlock.has_scopes();
        let birth = Birth {
            control: theirs.as_raw_fd(),
            null: self.null.as_raw_fd(),
            two_ids: self.has_own_ids(),
            own_network: kind.own_network,
            entry,
            filters: self.filters[usize::from(unix)],
            heap: heap(),
        };
        // The child finds its copy of the root at its working directory: a descriptor would lead out of its namespace.
        nix::unistd::fchdir(self.roots.of(kind.base()))
            .map_err(|errno| host_fault("cannot go to the root of sandboxes", errno.desc()))?;
        self.set_maker(Some(index))?;
        // SAFETY: the child calls `init::main` only, which makes system calls only and never returns.
        let forked = unsafe { sys::fork_into(namespaces, entry.and_then(Entry::unified)) };
        if !matches!(forked, Ok(Forked::Child)) {
            self.set_maker(None)?;
        }
        let (pid, pidfd) = match forked {
            Ok(Forked::Child) => init::main(&birth),
            Ok(Forked::Parent { pid, pidfd }) => (pid, pidfd),
            Err(errno) => return Err(host_fault("the kernel makes no namespaces", namespace_remedy(errno))),
        };
        let inmate = Inmate { pid, pidfd, control: ours };
        match self.admit(&inmate, index) {
            Ok(()) => Ok(inmate),
            Err(error) => {
                inmate.discard();
                Err(error)
            }
        }
    }

    /// Who makes the next user namespace: what the kernel counts for each user (inotify instances, queued signals, message
    /// queues, namespaces), it counts in all namespaces above as well, there for the maker. Were that root, the sandboxes
    /// and the host's root would share one pot. So each sandbox's first id makes its own; the jailer is root again after.
    fn set_maker(&self, index: Option<u32>) -> Result<(), JailError> {
        let Ids::Range { first } = self.ids else { return Ok(()) };
        let set = sys::set_effective_uid(index.map_or(0, |index| first + 2 * index));
        set.map_err(|errno| host_fault("cannot change the jailer's effective user id", errno.desc()))
    }

    /// Gives a newly forked one its ids, and lets it go on.
    fn admit(&self, inmate: &Inmate, index: u32) -> Result<(), JailError> {
        let process = PathBuf::from(format!("/proc/{}", inmate.pid));
        let map = match self.ids {
            Ids::Range { first } => {
                let first = first + 2 * index;
                format!("0 {first} 1\n{FUNCTION_ID} {} 1\n", first + 1)
            }
            Ids::One => format!("{FUNCTION_ID} 0 1\n"),
        };
        for (file, text) in [("oom_score_adj", OOM_SCORE), ("uid_map", &map), ("gid_map", &map)] {
            // In one write: the kernel takes a map once.
            let path = process.join(file);
            let written =
                File::options().write(true).open(&path).and_then(|mut f| f.write_all(text.as_bytes()));
            written.map_err(|error| host_fault(format!("cannot write {}", path.display()), error))?;
        }
        let go = Head { word: word::GO, ..Head::default() };
        inmate.send(&go.letter([&[], &[], &[]]).expect("it is short"), &[])
    }

    /// A `/tmp` of this size and a ruleset around it, for a blank of this kind: what most functions need.
    ///
    /// # Errors
    /// If the kernel has no room.
    pub fn outfit(&self, base: Base, tmp_bytes: u64) -> Result<Outfit, JailError> {
        self.outfit_with(base, tmp_bytes, &[])
    }

    fn outfit_with(&self, base: Base, tmp_bytes: u64, devices: &[OwnedFd]) -> Result<Outfit, JailError> {
        let tmp = root::tmp(tmp_bytes).map_err(|error| host_fault("cannot make /tmp", error))?;
        let mut writable = self.roots.devices();
        writable.extend(devices.iter().map(AsFd::as_fd));
        let ruleset = landlock::ruleset(self.roots.of(base), tmp.as_fd(), &writable)
            .map_err(|error| host_fault("Landlock refuses its ruleset", error))?;
        Ok(Outfit { tmp, ruleset, tmp_bytes })
    }

    /// Has a blank become a function's sandbox, in the outfit that was made for it ahead of need if that fits. It answers
    /// `FITTED`, or `FAILED` and ends; if a command follows at once, that one's answer says both.
    ///
    /// # Errors
    /// If the bundle or a device is not there or not allowed, or the kernel has no room; the blank is of no use then.
    pub fn fit(
        &self,
        inmate: &Inmate,
        spec: &Spec,
        ready: Option<Outfit>,
        is_followed: bool,
    ) -> Result<(), JailError> {
        let bundle = root::read_only(&spec.bundle)
            .map_err(|error| host_fault(format!("the bundle {}", spec.bundle.display()), error))?;
        let devices = spec.devices.iter().map(|path| self.device(path)).collect::<Result<Vec<_>, _>>()?;
        let fits = |ready: &Outfit| ready.tmp_bytes == spec.limits.tmp_bytes && devices.is_empty();
        let Outfit { tmp, ruleset, .. } = match ready.filter(fits) {
            Some(ready) => ready,
            None => self.outfit_with(spec.base, spec.limits.tmp_bytes, &devices)?,
        };
        let mut texts = vec![host_name(&spec.function)];
        texts.extend(spec.devices.iter().map(|path| path.display().to_string()));
        let head = Head {
            word: word::FIT,
            flags: if ruleset.is_some() { RULESET } else { 0 } | if is_followed { FOLLOWED } else { 0 },
            files: match spec.limits.files {
                0 => self.files_max,
                files => u64::from(files).min(self.files_max),
            },
            ..Head::default()
        };
        let letter =
            head.letter([&texts, &[], &[]]).ok_or_else(|| function_fault("its devices are too many"))?;
        let descriptors: Vec<BorrowedFd<'_>> =
            [&bundle, &tmp].into_iter().chain(&ruleset).chain(&devices).map(AsFd::as_fd).collect();
        inmate.send(&letter, &descriptors)
    }

    fn device(&self, path: &Path) -> Result<OwnedFd, JailError> {
        if !self.devices.iter().any(|allowed| allowed == path) {
            let path = path.display();
            let reason =
                format!("device {path} is not exposed on this host; its operator can: --device {path}");
            return Err(JailError { reason, is_host: true });
        }
        root::device(path).map_err(|error| host_fault(format!("device {}", path.display()), error))
    }

    /// Has a fitted sandbox run its command. It answers `RUNNING`, or `NOT_RUN` first; later `ENDED`.
    ///
    /// # Errors
    /// If command and environment are too long, or the sandbox is gone.
    pub fn run(&self, inmate: &Inmate, run: u64, command: &Command<'_>) -> Result<(), JailError> {
        let flags = [(command.is_last, LAST), (command.is_strict, STRICT), (command.has_devices, DISKS)];
        let head = Head {
            word: word::RUN,
            flags: flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag),
            run,
            ..Head::default()
        };
        let (candidates, arguments) = candidates(command.words, &command.environment)?;
        let letter = head
            .letter([&candidates, &arguments, &command.environment])
            .ok_or_else(|| function_fault("command and environment are too long together"))?;
        let stdin = command.stdin.unwrap_or(self.null.as_fd());
        inmate.send(&letter, &[stdin, command.stdout, command.stderr])
    }
}

/// What a sandbox has beside its root and its bundle.
pub struct Outfit {
    tmp: OwnedFd,
    /// None where the kernel has no Landlock.
    ruleset: Option<OwnedFd>,
    tmp_bytes: u64,
}

/// A command to run in a sandbox.
pub struct Command<'a> {
    /// The program and its arguments; empty: `bootstrap`.
    pub words: &'a [String],
    /// `NAME=value`, all of it.
    pub environment: Vec<String>,
    /// `/dev/null` if none.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Its output.
    pub stdout: BorrowedFd<'a>,
    /// Its words for people.
    pub stderr: BorrowedFd<'a>,
    /// Whether the sandbox ends with it.
    pub is_last: bool,
    /// Whether its tier is strict.
    pub is_strict: bool,
    /// Whether it has devices of the host.
    pub has_devices: bool,
}

impl Inmate {
    /// Sends a letter.
    ///
    /// # Errors
    /// If it has ended.
    pub fn send(&self, letter: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), JailError> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        // Not blocking: it reads each letter before the next is sent, or a few at once; if not, it is ill.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let sent = sendmsg::<()>(self.control.as_raw_fd(), &[IoSlice::new(letter)], control, flags, None);
        sent.map(drop).map_err(|errno| host_fault("the sandbox takes no letter", errno.desc()))
    }

    /// SIGKILL to PID 1, and by it to all inside.
    pub fn kill(&self) {
        // One that has ended needs none.
        let _ = sys::signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Kills it and waits for its end: for one that nobody watches yet, which ends within a millisecond.
    pub fn discard(self) {
        self.kill();
        self.reap(true);
    }

    /// Takes notice of its end, so that its number is free again.
    pub fn reap(&self, may_wait: bool) {
        let flags = libc::WEXITED | if may_wait { 0 } else { libc::WNOHANG };
        // SAFETY: zero bytes are a valid struct, which the call fills.
        unsafe {
            let mut told: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PIDFD, self.pidfd.as_raw_fd() as libc::id_t, &raw mut told, flags);
        }
    }
}

/// A mount namespace, and where this user is not root, a user namespace as well, so that the kernel lets it mount.
///
/// # Errors
/// If the kernel refuses: what to do.
pub fn enter(is_root: bool) -> Result<(), JailError> {
    if !is_root {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        // SAFETY: a plain number; the process has one thread.
        let unshare = || nix::errno::Errno::result(unsafe { libc::unshare(libc::CLONE_NEWUSER) });
        let made = sys::keeping_parent_death_signal(unshare);
        made.map_err(|errno| host_fault("this user may not make a user namespace", namespace_remedy(errno)))?;
        let write = |file: &str, text: String| {
            fs::write(Path::new("/proc/self").join(file), text)
                .map_err(|error| host_fault(format!("cannot write /proc/self/{file}"), error))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {uid} 1"))?;
        write("gid_map", format!("0 {gid} 1"))?;
    }
    root::own_namespace().map_err(|error| host_fault("cannot make a mount namespace", error))
}

/// Begin and bytes of this process's heap; nothing, if the allocator has another.
fn heap() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let range = maps.lines().find(|line| line.ends_with("[heap]")).and_then(|line| {
        let (begin, end) = line.split_once(' ')?.0.split_once('-')?;
        let (begin, end) = (usize::from_str_radix(begin, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        Some((begin, end - begin))
    });
    range.unwrap_or((0, 0))
}

fn namespace_remedy(errno: nix::errno::Errno) -> String {
    use nix::errno::Errno;
    let why = Error::from_raw_os_error(errno as i32);
    match errno {
        Errno::EPERM => format!(
            "{why}; run the worker as root, or allow it: sysctl kernel.unprivileged_userns_clone=1 and \
             kernel.apparmor_restrict_unprivileged_userns=0 where the kernel has them"
        ),
        Errno::ENOSPC | Errno::EUSERS => format!("{why}; raise /proc/sys/user/max_*_namespaces"),
        Errno::EAGAIN | Errno::ENOMEM => {
            format!("{why}; the host has too many processes or too little memory")
        }
        _ => why.to_string(),
    }
}

/// A host name that the kernel and programs take.
fn host_name(function: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' };
    let name: String = function.chars().map(plain).take(HOST_NAME_BYTES_MAX).collect();
    match name.trim_matches('-') {
        "" => "function".into(),
        name => name.into(),
    }
}

/// The paths to try for a command, and its arguments.
fn candidates(words: &[String], environment: &[String]) -> Result<(Vec<String>, Vec<String>), JailError> {
    let bootstrap = [format!("{}/bootstrap", letter::TASK)];
    let words = if words.is_empty() { &bootstrap[..] } else { words };
    let program = &words[0];
    let candidates = if program.starts_with('/') {
        vec![program.clone()]
    } else if program.contains('/') {
        vec![format!("{}/{program}", letter::TASK)]
    } else {
        let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
        let directories =
            path.unwrap_or(PATH_DEFAULT).split(':').filter(|directory| directory.starts_with('/'));
        directories.take(PATH_DIRECTORIES_MAX).map(|directory| format!("{directory}/{program}")).collect()
    };
    if program.is_empty() || candidates.iter().any(|path| path.len() > PATH_BYTES_MAX) {
        return Err(function_fault("the command's program is empty, or its path too long"));
    }
    Ok((candidates, words.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_plain() {
        assert_eq!(host_name("Resize_v2.big"), "resize-v2-big");
        assert_eq!(host_name("..."), "function");
        assert_eq!(host_name(&"a".repeat(200)).len(), 63);
    }

    #[test]
    fn programs_are_looked_for_where_a_shell_would() {
        let of = |words: &[&str], environment: &[&str]| {
            let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            candidates(&own(words), &own(environment)).unwrap()
        };
        assert_eq!(of(&[], &[]).0, ["/var/task/bootstrap"]);
        assert_eq!(
            of(&["/bin/true", "x"], &[]),
            (vec!["/bin/true".into()], vec!["/bin/true".into(), "x".into()])
        );
        assert_eq!(of(&["./a"], &[]).0, ["/var/task/./a"]);
        assert_eq!(of(&["a"], &["PATH=/x:relative:/y"]).0, ["/x/a", "/y/a"]);
        assert!(of(&["a"], &[]).0.contains(&"/var/task/a".to_owned()));
        assert!(candidates(&[String::new()], &[]).is_err());
    }
}
