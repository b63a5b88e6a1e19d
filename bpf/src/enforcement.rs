//! Network rules, rates, devices, counters and events of sandboxes: programs that are pinned, so that they hold on
//! while the process that set them up is started again.

use crate::abi::SandboxRow;
use crate::counters::Counters;
use crate::error::BpfError;
use crate::events::Event;
use crate::policy::Policy;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// How enforcement is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Name of its own folder of pins, `/sys/fs/bpf/millrace/<name>`: one per worker of a host. Letters, digits, `-`
    /// and `_`.
    pub name: &'a str,
    /// The platform's group in the v2 tree. The programs are attached to it once and hold for all groups below.
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
    /// No network beyond loopback of a network namespace of its own, and the default devices only.
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
    /// rates of its own. A row without a policy allows nothing over the network.
    pub function: u32,
    /// Its own Runtime API: always reachable by TCP, neither counted nor limited.
    pub runtime_api: Option<SocketAddr>,
}

/// One group of programs and whether it is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// `network`, `devices`, `accounting`, `events`, `syscalls`.
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

/// The programs of one worker. When this is dropped, or the process dies, they stay in force, until [`Enforcement::stop`]
/// or the next start under the same name, which takes over without a gap.
#[derive(Debug)]
pub struct Enforcement {
    backends: Vec<Backend>,
    rows: u32,
    resumed: bool,
    counters: OwnedFd,
    events: OwnedFd,
}

impl Enforcement {
    /// Loads and attaches the programs, or takes over those that a process before this one left. Mounts bpffs on
    /// `/sys/fs/bpf` if nothing is mounted there.
    ///
    /// # Errors
    /// If nothing can be in force: no privilege, no BTF, no bpffs, another process holds the name. A single group of
    /// programs that the kernel refuses is no error; see [`Enforcement::backends`].
    pub fn start(options: &Options<'_>) -> Result<Enforcement, BpfError> {
        BpfError::foresee()?;
        let reason = format!("{options:?}: the programs of sandboxes are not part of this build yet");
        Err(BpfError::Refused { step: "load the programs of sandboxes", reason })
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
        Ok(Vec::new())
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
        let _ = function;
        Ok(())
    }

    /// Takes the policy away: sandboxes that are still of this function may do nothing over the network.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_policy(&mut self, function: u32) -> Result<(), BpfError> {
        self.set_policy(function, &Policy::default())
    }

    /// From now on the processes in this group are this sandbox. The row's counters go on from where they are.
    /// A sandbox that is admitted already (the same group and index) is changed: another function, another Runtime API.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Panics
    /// If there is no such row, or if another sandbox has it.
    pub fn admit(&mut self, sandbox: &Sandbox) -> Result<(), BpfError> {
        let row = SandboxRow { index: sandbox.index, function: sandbox.function, api: sandbox.runtime_api };
        let _ = row;
        Ok(())
    }

    /// The group's processes are no sandbox any more, but strangers: call it when none is left. Nothing if there is no
    /// such sandbox.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn dismiss(&mut self, index: u32) -> Result<(), BpfError> {
        let _ = index;
        Ok(())
    }

    /// The array of counters, for [`Counters::map`] in this process or in another one: it cannot be written through
    /// this descriptor.
    pub fn counters_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.counters.as_fd()
    }

    /// Rows of the array of counters: [`Options::sandboxes_max`]. Each has [`crate::ROW_BYTES`].
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The counters, mapped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        Counters::map(self.counters_fd(), self.rows)
    }

    /// Readable (for epoll, poll, io_uring) when there are events to drain.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.events.as_fd()
    }

    /// Gives out all events that are there, and says how many. Those that were not drained by a process before this one
    /// are among them.
    ///
    /// # Errors
    /// If the ring cannot be read.
    pub fn drain(&mut self, each: impl FnMut(Event)) -> Result<usize, BpfError> {
        let _ = each;
        Ok(0)
    }

    /// Detaches the programs and removes their pins: nothing is enforced any more.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn stop(self) -> Result<(), BpfError> {
        Ok(())
    }
}

/// The id that the kernel gives this group of the v2 tree: the number of its inode.
///
/// # Errors
/// If it is not there.
pub fn cgroup_id(group: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(group)?.ino())
}
