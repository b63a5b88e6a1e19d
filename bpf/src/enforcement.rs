//! Network rules, rates, devices, counters and events of sandboxes: programs that are pinned, so that they hold on
//! while the process that set them up is started again.

use crate::abi::{self, Control, DeviceKey, GrantKey, SandboxRow};
use crate::counters::Counters;
use crate::error::BpfError;
use crate::events::Event;
use crate::guards::{self, Guards};
use crate::pins::Pins;
use crate::policy::{Network, Policy};
use crate::programs::{self, Setup};
use libbpf_rs::{MapCore, MapFlags, MapHandle, RingBuffer, RingBufferBuilder};
use memmap2::{MmapOptions, MmapRaw};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How enforcement is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Name of its own folder of pins, `/sys/fs/bpf/millrace/<name>`: one per worker of a host. Letters, digits, `-`
    /// and `_`.
    pub name: &'a str,
    /// The platform's group in the v2 tree. The programs are attached to it once and hold for all groups below; those on
    /// packets to each of its children that may use the host's network, see [`Enforcement::guard`].
    pub cgroup: &'a Path,
    /// Rows of policies.
    pub functions_max: u32,
    /// Rows of counters.
    pub sandboxes_max: u32,
    /// What holds for processes in groups below that are admitted as no sandbox.
    pub strangers: Strangers,
    /// Whether system calls are counted. It costs each system call of the host some 10 ns.
    pub syscalls: bool,
}

/// What holds for processes in groups below the platform's that are admitted as no sandbox: sandboxes that are being
/// made, that wait for a function, or whose maker died. Those in the platform's group itself are never touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strangers {
    /// Nothing.
    Untouched,
    /// No network, not even loopback, and the default devices only.
    Denied,
}

/// A sandbox, as the programs know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sandbox {
    /// Of its group in the v2 tree, see [`cgroup_id`]. The kernel never uses one again.
    pub cgroup_id: u64,
    /// Its row of counters, less than [`Options::sandboxes_max`].
    pub index: u32,
    /// Its row of policies, less than [`Options::functions_max`]. Sandboxes of one function share the rules; each has
    /// rates of its own. A row without a policy allows nothing over the network. One that is not guarded
    /// ([`Enforcement::guard`]) is refused any network but its own, whatever the policy.
    pub function: u32,
    /// Its own Runtime API: always reachable by TCP, neither counted nor limited.
    pub runtime_api: Option<SocketAddr>,
}

/// One group of programs and whether it is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// `network`, `devices`, `accounting` or `events`.
    pub name: &'static str,
    /// Why it is not in force; none if it is.
    pub missing: Option<BpfError>,
    /// What it gives, or what is not to be had without it.
    pub meaning: &'static str,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.missing {
            None => write!(f, "{}: in force ({})", self.name, self.meaning),
            Some(why) => write!(f, "{}: not in force, so {}: {why}", self.name, self.meaning),
        }
    }
}

/// Groups of programs, in the order of [`Enforcement::backends`]: name, what each gives, what is not to be had without.
const GROUPS: [(&str, &str, &str); 4] = [
    (
        NETWORK,
        "egress and ingress are checked, limited and counted",
        "functions that ask for network or rates are refused",
    ),
    (
        DEVICES,
        "sandboxes open the devices that are granted to them",
        "functions that ask for devices are refused",
    ),
    (
        ACCOUNTING,
        "CPU time, switches, run-queue delays, page faults and block bytes are counted",
        "CPU time of sandboxes is only known from their cgroups",
    ),
    (
        EVENTS,
        "kills for memory, seccomp and exits are told",
        "an outcome cannot say which system call or limit ended its function",
    ),
];
const NETWORK: &str = "network";
const DEVICES: &str = "devices";
const ACCOUNTING: &str = "accounting";
const EVENTS: &str = "events";

/// How long a list that was replaced is kept: a program that began with it ends within microseconds.
const RETIRED_KEPT: Duration = Duration::from_millis(10);

/// The entries of one list in the maps, by their keys.
#[derive(Default, Debug)]
struct List {
    grants: Vec<Vec<u8>>,
    devices: Vec<Vec<u8>>,
}

/// The programs of one worker. When this is dropped, or the process dies, they stay in force, until
/// [`Enforcement::stop`] or the next start under the same name, which takes over without a gap.
#[derive(Debug)]
pub struct Enforcement {
    backends: Vec<Backend>,
    resumed: bool,
    functions_max: u32,
    sandboxes_max: u32,
    sandboxes: MapHandle,
    grants: MapHandle,
    devices: MapHandle,
    /// Mapped: each word is written by one atomic store.
    policies: MmapRaw,
    counters: MapHandle,
    ring: RingBuffer<'static>,
    drained: Arc<Mutex<Vec<Event>>>,
    /// Group of each sandbox, by index.
    admitted: BTreeMap<u32, u64>,
    control: MapHandle,
    now: Control,
    /// The platform's group.
    cgroup: PathBuf,
    /// None: the programs on packets are not loaded.
    guards: Option<Guards>,
    /// Ids of groups that have them.
    guarded: BTreeSet<u64>,
    lists: BTreeMap<u32, List>,
    next_list: u32,
    /// Lists that no policy has any more.
    retired: Vec<(Instant, u32)>,
    pins: Pins,
}

impl Enforcement {
    /// Loads and attaches the programs, or takes over those that a process before this one left. Mounts bpffs on
    /// `/sys/fs/bpf` if nothing is mounted there.
    ///
    /// # Errors
    /// If nothing can be in force: no privilege, no BTF, no bpffs, another process holds the name. A single group of
    /// programs that the kernel refuses is no error; see [`Enforcement::backends`].
    ///
    /// # Panics
    /// If there is no room for any sandbox or function.
    pub fn start(options: &Options<'_>) -> Result<Enforcement, BpfError> {
        assert!(options.functions_max > 0 && options.sandboxes_max > 0, "{options:?}");
        BpfError::foresee()?;
        let group = File::open(options.cgroup).and_then(|group| Ok((group.metadata()?.ino(), group)));
        let (group_id, group) = group.map_err(|error| BpfError::Refused {
            step: "open the platform's cgroup",
            reason: format!("{}: {error}", options.cgroup.display()),
        })?;
        let pins = Pins::hold(options.name, options.sandboxes_max, options.functions_max)?;
        let links = pins.links()?;
        let resumed = pins.has_maps()? && !links.is_empty();
        let setup = Setup {
            pins: &pins,
            group: &group,
            group_id,
            strangers_denied: options.strangers == Strangers::Denied,
            sandboxes_max: options.sandboxes_max,
            functions_max: options.functions_max,
            generation: links.iter().filter_map(|link| generation_of(link)).max().unwrap_or(0) + 1,
            syscalls: options.syscalls,
        };
        let loads = [programs::network, programs::devices, programs::account, programs::events];
        let results = loads.map(|load| load(&setup).err());
        if let [Some(why), Some(_), Some(_), Some(_)] = results {
            return Err(why);
        }
        let now = switch_generation(&setup, &links)?;
        let backend = |((name, gives, lacks), missing): (_, Option<BpfError>)| {
            let meaning = if missing.is_none() { gives } else { lacks };
            Backend { name, missing, meaning }
        };
        let backends = GROUPS.into_iter().zip(results).map(backend).collect();
        let mut held = Enforcement::hold(options, pins, backends, resumed, now)?;
        held.guard_all()?;
        held.pins.remove_other_maps()?;
        Ok(held)
    }

    /// Opens the pinned maps, and sees what is in them.
    fn hold(
        options: &Options<'_>,
        pins: Pins,
        backends: Vec<Backend>,
        resumed: bool,
        now: Control,
    ) -> Result<Enforcement, BpfError> {
        let open = |name| MapHandle::from_pinned_path(pins.map(name)).map_err(refused("open a pinned map"));
        let policies = open("policies")?;
        let bytes = options.functions_max as usize * abi::POLICY_BYTES;
        let policies = MmapOptions::new()
            .len(bytes)
            .map_raw(policies.as_fd().as_raw_fd())
            .map_err(|error| BpfError::Refused { step: "map the policies", reason: error.to_string() })?;
        let counters = open("usages")?;
        freeze(&counters)?;
        assert_eq!(counters.value_size() as usize, crate::ROW_BYTES, "struct usage and its mirror differ");
        let drained = Arc::new(Mutex::new(Vec::new()));
        let ring = ring_into(&drained, &open("events")?).map_err(refused("read the ring of events"))?;
        let has_network = backends.iter().any(|backend| backend.name == NETWORK && backend.missing.is_none());
        let guards = has_network.then(|| Guards::open(|name| pins.program(name))).transpose()?;
        let mut held = Enforcement {
            backends,
            resumed,
            functions_max: options.functions_max,
            sandboxes_max: options.sandboxes_max,
            sandboxes: open("sandboxes")?,
            grants: open("grants")?,
            devices: open("devices")?,
            policies,
            counters,
            ring,
            drained,
            admitted: BTreeMap::new(),
            control: open("control")?,
            now,
            cgroup: options.cgroup.to_owned(),
            guards,
            guarded: BTreeSet::new(),
            lists: BTreeMap::new(),
            next_list: 1,
            retired: Vec::new(),
            pins,
        };
        held.look_around()?;
        Ok(held)
    }

    /// Learns what a process before this one admitted and granted.
    fn look_around(&mut self) -> Result<(), BpfError> {
        self.admitted = self.admitted()?.iter().map(|sandbox| (sandbox.index, sandbox.cgroup_id)).collect();
        for key in self.grants.keys() {
            self.lists.entry(GrantKey::list_of(&key)).or_default().grants.push(key);
        }
        for key in self.devices.keys() {
            self.lists.entry(DeviceKey::list_of(&key)).or_default().devices.push(key);
        }
        let used: BTreeSet<u32> = (0..self.functions_max).map(|function| self.list_of(function)).collect();
        let highest = self.lists.keys().chain(&used).max().copied().unwrap_or(0);
        self.next_list = highest.checked_add(1).expect("four thousand million changes of policy");
        let now = Instant::now();
        self.retired =
            self.lists.keys().filter(|list| !used.contains(list)).map(|list| (now, *list)).collect();
        Ok(())
    }

    /// What is in force, and what not and why.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Whether maps of a process before this one were taken over; then see [`Enforcement::admitted`].
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The sandboxes that are admitted, in order of index: after a start also those of a process before this one.
    ///
    /// # Errors
    /// If the kernel refuses to be asked.
    pub fn admitted(&self) -> Result<Vec<Sandbox>, BpfError> {
        let mut all = Vec::new();
        for key in self.sandboxes.keys() {
            let row = self.sandboxes.lookup(&key, MapFlags::ANY).map_err(refused("read the sandboxes"))?;
            let Some(row) = row.map(|bytes| SandboxRow::from_bytes(&bytes)) else { continue };
            let cgroup_id = u64::from_ne_bytes(key[..].try_into().expect("keys are ids of cgroups"));
            let SandboxRow { index, function, api: runtime_api, is_guarded: _ } = row;
            all.push(Sandbox { cgroup_id, index, function, runtime_api });
        }
        all.sort_by_key(|sandbox| sandbox.index);
        Ok(all)
    }

    /// Sets what all sandboxes of this function may do, those that run included: at once, and as a whole. Connections
    /// that are open stay open.
    ///
    /// # Errors
    /// If the policy demands what is not in force ([`BpfError::NotInForce`]), does not fit the maps
    /// ([`BpfError::Policy`]), or the kernel has no memory for it. Then the policy before holds on.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn set_policy(&mut self, function: u32, policy: &Policy) -> Result<(), BpfError> {
        policy.check().map_err(BpfError::Policy)?;
        let (network, devices) = policy.demands();
        for what in [(network, NETWORK), (devices, DEVICES)] {
            self.demand(what)?;
        }
        self.write_policy(function, policy)
    }

    /// Takes the policy away: sandboxes that are still of this function may do nothing over the network.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn remove_policy(&mut self, function: u32) -> Result<(), BpfError> {
        let network = Network::Host { connect: Vec::new(), listen: Vec::new() };
        self.write_policy(function, &Policy { network, ..Policy::default() })
    }

    fn demand(&self, (demanded, what): (bool, &'static str)) -> Result<(), BpfError> {
        let in_force = self.backends.iter().any(|backend| backend.name == what && backend.missing.is_none());
        if demanded && !in_force { Err(BpfError::NotInForce { what }) } else { Ok(()) }
    }

    fn write_policy(&mut self, function: u32, policy: &Policy) -> Result<(), BpfError> {
        self.remove_retired()?;
        let (fresh, before) = (self.next_list, self.list_of(function));
        self.next_list = fresh.checked_add(1).expect("four thousand million changes of policy");
        if let Err(error) = self.write_list(fresh, policy) {
            self.retired.push((Instant::now(), fresh));
            return Err(error);
        }
        for (word, value) in policy.row(fresh).words() {
            self.policy_word(function, word).store(value, Ordering::Release);
        }
        self.retired.push((Instant::now(), before));
        Ok(())
    }

    fn write_list(&mut self, list: u32, policy: &Policy) -> Result<(), BpfError> {
        let entries = self.lists.entry(list).or_default();
        for (key, grant) in policy.grants(list) {
            let key = key.to_bytes();
            self.grants
                .update(&key, &grant.to_bytes(), MapFlags::ANY)
                .map_err(refused("grant an address"))?;
            entries.grants.push(key.to_vec());
        }
        for (key, access) in policy.devices(list) {
            let key = key.to_bytes();
            let access = access.to_ne_bytes();
            self.devices.update(&key, &access, MapFlags::ANY).map_err(refused("grant a device"))?;
            entries.devices.push(key.to_vec());
        }
        Ok(())
    }

    /// Removes the entries of lists that were replaced a while ago.
    fn remove_retired(&mut self) -> Result<(), BpfError> {
        let kept = self.retired.iter().position(|(since, _)| since.elapsed() < RETIRED_KEPT);
        let over = self.retired.drain(..kept.unwrap_or(self.retired.len()));
        for (_, list) in over {
            let Some(entries) = self.lists.remove(&list) else { continue };
            entries.grants.iter().try_for_each(|key| remove(&self.grants, key))?;
            entries.devices.iter().try_for_each(|key| remove(&self.devices, key))?;
        }
        Ok(())
    }

    /// The list that this function's policy has; 0, an empty one, before its first.
    fn list_of(&self, function: u32) -> u32 {
        self.policy_word(function, 0).load(Ordering::Acquire) as u32
    }

    fn policy_word(&self, function: u32, word: usize) -> &AtomicU64 {
        assert!(function < self.functions_max, "function {function} of {}", self.functions_max);
        let offset = function as usize * abi::POLICY_BYTES + 8 * word;
        assert!(word < abi::POLICY_BYTES / 8, "word {word} of a policy");
        // SAFETY: the mapping is of `functions_max` rows and as long-lived as `self`, page-aligned and so is the word
        // 8-aligned. This process writes it through atomics only, and the programs only read it.
        unsafe { AtomicU64::from_ptr(self.policies.as_mut_ptr().add(offset).cast()) }
    }

    /// From now on the processes in this group are this sandbox. The row's counters go on from where they are.
    /// A sandbox that is admitted already (the same group and index) is changed: another function, another Runtime API.
    /// One of another group that has the row, left by a process before this one, is dismissed.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn admit(&mut self, sandbox: &Sandbox) -> Result<(), BpfError> {
        let Sandbox { cgroup_id, index, function, runtime_api } = *sandbox;
        assert!(index < self.sandboxes_max && function < self.functions_max, "{sandbox:?} has no row");
        if self.admitted.get(&index).is_some_and(|group| *group != cgroup_id) {
            self.dismiss(index)?;
        }
        let is_guarded = self.guarded.contains(&cgroup_id);
        let row = SandboxRow { index, function, api: runtime_api.map(unmapped), is_guarded };
        let key = cgroup_id.to_ne_bytes();
        self.sandboxes.update(&key, &row.to_bytes(), MapFlags::ANY).map_err(refused("admit a sandbox"))?;
        self.admitted.insert(index, cgroup_id);
        self.changed()
    }

    /// The group's processes are no sandbox any more, but strangers: call it when none is left. Nothing if there is no
    /// such sandbox.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn dismiss(&mut self, index: u32) -> Result<(), BpfError> {
        let Some(group) = self.admitted.get(&index) else { return Ok(()) };
        remove(&self.sandboxes, &group.to_ne_bytes())?;
        self.guarded.remove(group);
        self.admitted.remove(&index);
        self.changed()
    }

    /// Tells the tracing programs that what they remember of the sandboxes does not hold any more.
    fn changed(&mut self) -> Result<(), BpfError> {
        self.now.version += 1;
        write_control(&self.control, self.now)
    }

    /// From now on the programs on packets check, limit and count what the processes in this group, a child of the
    /// platform's, send and receive, until the group is removed. Only so may its sandbox use the host's network: call it
    /// before a process is in it, and before [`Enforcement::admit`]. A sandbox with a network of its own needs it not, and
    /// pays for it with each packet. Nothing where these programs are not in force.
    ///
    /// # Errors
    /// If the group is gone or the kernel refuses.
    pub fn guard(&mut self, group: &Path) -> Result<(), BpfError> {
        let Some(guards) = &self.guards else { return Ok(()) };
        guards.put(group)?;
        let step = "look at a sandbox's group";
        let id = cgroup_id(group).map_err(|error| BpfError::Refused { step, reason: error.to_string() })?;
        self.guarded.insert(id);
        Ok(())
    }

    /// Guards all children of the platform's group that a process before this one made, with the programs of this load:
    /// all but the sandboxes with a network of their own. What it attached to the platform's group itself, as an older
    /// version did, is not needed then.
    fn guard_all(&mut self) -> Result<(), BpfError> {
        if self.guards.is_none() {
            return Ok(());
        }
        let functions: BTreeMap<u64, u32> =
            self.admitted()?.iter().map(|sandbox| (sandbox.cgroup_id, sandbox.function)).collect();
        for group in children(&self.cgroup) {
            // One that is gone meanwhile needs nothing.
            let Ok(id) = cgroup_id(&group) else { continue };
            let function = functions.get(&id);
            if function.is_some_and(|function| self.has_own_network(*function)) {
                continue;
            }
            match self.guard(&group) {
                Err(_) if !group.exists() => {}
                guarded => guarded?,
            }
        }
        let older = self.pins.links()?;
        older.iter().filter(|link| guards::is_guard(link)).try_for_each(|link| self.pins.remove_link(link))
    }

    fn has_own_network(&self, function: u32) -> bool {
        self.policy_word(function, 0).load(Ordering::Acquire) >> 32 & u64::from(abi::POLICY_OWN_NETWORK) != 0
    }

    /// The array of counters, for [`Counters::map`] in this process or in another one. It is frozen: no process can write
    /// it, only the programs.
    pub fn counters_fd(&self) -> BorrowedFd<'_> {
        self.counters.as_fd()
    }

    /// Rows of the array of counters: [`Options::sandboxes_max`]. Each has [`crate::ROW_BYTES`].
    pub fn rows(&self) -> u32 {
        self.sandboxes_max
    }

    /// The counters, mapped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        Counters::map(self.counters_fd(), self.rows())
    }

    /// Readable (for epoll, poll, io_uring) when there are events to drain.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns its epoll descriptor and closes it when it is dropped, with `self`.
        unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) }
    }

    /// Gives out all events that are there, and says how many. Those that were not drained by a process before this one
    /// are among them.
    ///
    /// # Errors
    /// If the ring cannot be read.
    pub fn drain(&mut self, each: impl FnMut(Event)) -> Result<usize, BpfError> {
        self.ring.consume().map_err(refused("read the ring of events"))?;
        let drained = std::mem::take(&mut *lock(&self.drained));
        let count = drained.len();
        drained.into_iter().for_each(each);
        Ok(count)
    }

    /// Detaches the programs and removes their pins: nothing is enforced any more.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn stop(self) -> Result<(), BpfError> {
        for group in children(&self.cgroup) {
            match guards::remove(&group) {
                Err(_) if !group.exists() => {}
                removed => removed?,
            }
        }
        self.pins.remove()
    }
}

/// The groups right below one.
fn children(group: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn write_control(map: &MapHandle, control: Control) -> Result<(), BpfError> {
    map.update(&0_u32.to_ne_bytes(), &control.to_bytes(), MapFlags::ANY)
        .map_err(refused("write the word that says what counts"))
}

/// From now on only programs write this map. (A map that is opened read-only instead cannot be mapped.)
fn freeze(map: &MapHandle) -> Result<(), BpfError> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()));
    if about.is_ok_and(|about| about.lines().any(|line| line == "frozen:\t1")) {
        return Ok(());
    }
    map.freeze().map_err(refused("freeze the counters of sandboxes"))
}

/// Has the new tracing programs count in place of the ones before them, and detaches those.
fn switch_generation(setup: &Setup<'_>, links_before: &[String]) -> Result<Control, BpfError> {
    let control =
        MapHandle::from_pinned_path(setup.pins.map("control")).map_err(refused("open a pinned map"))?;
    let step = refused("switch the tracing programs");
    let found = control.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).map_err(step)?;
    let before = Control::from_bytes(&found.expect("an array has all its entries"));
    let now = Control { generation: setup.generation, version: before.version + 1 };
    write_control(&control, now)?;
    let mut links = links_before.iter().filter(|link| generation_of(link).is_some());
    links.try_for_each(|link| setup.pins.remove_link(link))?;
    Ok(now)
}

/// Of the link of a tracing program.
fn generation_of(link: &str) -> Option<u64> {
    link.rsplit_once('-')?.1.parse().ok()
}

/// A reader of the ring that puts what it knows into the queue.
fn ring_into(
    queue: &Arc<Mutex<Vec<Event>>>,
    ring: &MapHandle,
) -> Result<RingBuffer<'static>, libbpf_rs::Error> {
    let queue = Arc::clone(queue);
    let mut builder = RingBufferBuilder::new();
    builder.add(ring, move |bytes| {
        lock(&queue).extend(Event::from_bytes(bytes));
        0
    })?;
    builder.build()
}

fn lock(queue: &Mutex<Vec<Event>>) -> std::sync::MutexGuard<'_, Vec<Event>> {
    queue.lock().expect("nobody panics with it")
}

/// IPv4 also where it is written as IPv6: the programs see it so.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Removes an entry that may be gone.
fn remove(map: &MapHandle, key: &[u8]) -> Result<(), BpfError> {
    match map.delete(key) {
        Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
            Err(refused("remove an entry")(error))
        }
        _ => Ok(()),
    }
}

fn refused(step: &'static str) -> impl Fn(libbpf_rs::Error) -> BpfError + Copy {
    move |error| BpfError::of(step, &error, "")
}

/// The id that the kernel gives this group of the v2 tree: the number of its inode.
///
/// # Errors
/// If it is not there.
pub fn cgroup_id(group: &Path) -> std::io::Result<u64> {
    Ok(std::fs::metadata(group)?.ino())
}
