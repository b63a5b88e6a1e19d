//! How the jailer comes up: what it finds, what it takes over, what it says is in force.

use super::enforcement::Rules;
use super::{EpollCreateFlags, EpollFlags, Jailer, Settings, Token, leftovers, say};
use crate::cgroup::{Hierarchy, Parent};
use crate::jail::{Ids, Jail, JailError, Kind, enter, host_fault};
use crate::pressure::{Eviction, Pressure};
use crate::protocol::Force;
use crate::socket;
use nix::sys::epoll::Epoll;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long orphans may take to be gone.
const ORPHANS_MAX: Duration = Duration::from_secs(10);

impl Jailer {
    /// In this order: BPF pins go to the host's bpffs, so before the mount namespace; orphans go before their cgroups'
    /// names and their ids are used again.
    pub(super) fn start(settings: Settings) -> Result<Jailer, JailError> {
        // All of the heap in one range, which first processes forget; see `jail::init`.
        // SAFETY: plain numbers.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX) };
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        signals.thread_block().map_err(|errno| host_fault("cannot block signals", errno.desc()))?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|errno| host_fault("cannot wait for signals", errno.desc()))?;
        let (files, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        if files < most {
            // Three of each sandbox; it does not matter much if it fails.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        }
        let staging = settings.data_dir.join("run/jail");
        fs::create_dir_all(&staging).map_err(|error| host_fault(staging.display(), error))?;
        claim(&settings.socket)?;
        let is_root = nix::unistd::geteuid().is_root();
        let (parent, cgroups) = cgroups(&settings, is_root)?;
        let rules = Rules::start(parent.as_ref(), settings.sandboxes_max);
        if let (true, Some(parent)) = (is_root, &parent) {
            leftovers::remove(parent.name());
        }
        enter(is_root)?;
        let ids = ids(&settings, is_root);
        let jail = Jail::new(&staging, &settings.expose, &settings.devices, ids)
            .map_err(|error| host_fault(format!("cannot make roots in {}", staging.display()), error))?;
        let listener = socket::listen_at(&settings.socket)
            .map_err(|error| host_fault(settings.socket.display(), error))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| host_fault("cannot make an epoll", errno.desc()))?;
        let now = Instant::now();
        let jailer = Jailer {
            jail,
            parent,
            cgroups,
            rules,
            epoll,
            listener,
            signals,
            cores: BTreeMap::new(),
            cells: BTreeMap::new(),
            free: (0..settings.sandboxes_max).rev().collect(),
            next: 1,
            kinds: BTreeSet::from([Kind { has_host_base: true, own_network: true }]),
            graves: Vec::new(),
            bury_at: None,
            measure_at: now,
            watch_at: now,
            watched: now,
            pressure: Pressure::of_host(),
            eviction: Eviction::new(),
            began: now,
            blanks_at: now,
            is_ending: false,
            settings,
        };
        jailer.watch(&jailer.listener, EpollFlags::EPOLLIN, Token::Listener)?;
        jailer.watch(&jailer.signals, EpollFlags::EPOLLIN, Token::Signals)?;
        if let Some(events) = jailer.rules.events_descriptor() {
            jailer.watch(events, EpollFlags::EPOLLIN, Token::Bpf)?;
        }
        if let Some(trigger) = jailer.pressure.descriptor() {
            jailer.watch(trigger, EpollFlags::EPOLLPRI, Token::Pressure)?;
        }
        Ok(jailer)
    }

    /// What is in force, for people.
    pub(super) fn backends(&self) -> Vec<(String, String)> {
        let mut backends = self.jail.backends();
        backends.push(("cgroups".into(), self.cgroups.clone()));
        backends.extend(self.rules.backends());
        backends.push(("memory pressure".into(), self.pressure.backend()));
        backends
    }

    /// What is in force, for a core.
    pub(super) fn force(&self) -> Force {
        Force { cgroups: self.parent.is_some(), bpf: self.rules.has_network(), root: self.jail.has_own_ids() }
    }
}

/// A socket's file that nobody listens at is a dead jailer's.
fn claim(path: &Path) -> Result<(), JailError> {
    if socket::connect_to(path).is_ok() {
        let remedy = "stop it, or give this worker another data directory";
        return Err(host_fault(path.display(), format!("another jailer serves here; {remedy}")));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(host_fault(path.display(), error)),
        _ => Ok(()),
    }
}

/// The platform's cgroups, emptied of what a jailer before this one left; and a word about them.
fn cgroups(settings: &Settings, is_root: bool) -> Result<(Option<Parent>, String), JailError> {
    let hierarchy = Hierarchy::discover();
    let none = |why: String| {
        let effect = match settings.without_limits {
            true => "limits are not enforced (--without-limits)",
            false => "functions with limits are refused; --without-limits runs them all the same",
        };
        Ok((None, format!("none: {why}; {effect}")))
    };
    if !hierarchy.is_enough() {
        return none(format!("nothing here limits {}", hierarchy.lacking().join(", ")));
    }
    match Parent::open(&hierarchy, &settings.data_dir) {
        Err(error) if !is_root => none(error.to_string()),
        Err(error) => Err(host_fault("cannot make cgroups", error)),
        Ok(parent) => {
            match parent.clear_within(ORPHANS_MAX) {
                Ok(0) => {}
                Ok(count) => say(format_args!("event=orphans-removed cgroups={count}")),
                Err(error) => return Err(host_fault("cannot remove the cgroups of a jailer before", error)),
            }
            Ok((Some(parent), hierarchy.backend()))
        }
    }
}

/// A range of ids, if this process has them.
fn ids(settings: &Settings, is_root: bool) -> Ids {
    let first = settings.first_id();
    let last = first.saturating_add(settings.sandboxes_max.saturating_mul(2));
    let maps = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
            let (Some(inside), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next())
            else {
                return false;
            };
            inside <= u64::from(first) && u64::from(last) <= inside + count
        })
    };
    if is_root && maps("/proc/self/uid_map") && maps("/proc/self/gid_map") {
        return Ids::Range { first };
    }
    if is_root {
        say(format_args!(
            "event=no-ids reason=\"ids {first} to {last} are not in this container; all sandboxes share one: give it \
             more, or say --ids-first\""
        ));
    }
    Ids::One
}
