//! The BPF programs of sandboxes, as the jailer uses them: a row of policies for each function that runs, a row of
//! counters for each sandbox, events.

use super::say;
use crate::cgroup::{Group, Parent};
use crate::jail::{JailError, function_fault, host_fault};
use crate::protocol::{Counters, Spec};
use crate::turns::Had;
use bpf::{Device, Endpoints, Enforcement, Event, Network, Options, Policy, Sandbox, Strangers, Transport};
use call::function::{Protocol, Rule};
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Functions with sandboxes at once.
const FUNCTIONS_MAX: u32 = 4096;

/// In place of a function: blanks. Its rules: a network of one's own, nothing else.
const BLANK: &str = "";

/// A function's row of policies, and how many sandboxes use it.
struct Row {
    row: u32,
    users: u32,
}

/// What BPF enforces here.
pub struct Rules {
    enforcement: Result<Enforcement, String>,
    /// Mapped, where BPF counts CPU time.
    usages: Option<bpf::Counters>,
    rows: BTreeMap<String, Row>,
    free: Vec<u32>,
    /// Which function's row a sandbox uses.
    admitted: BTreeMap<u32, String>,
}

impl Rules {
    /// Loads the programs, or takes over those of the jailer before; none of its sandboxes lives any more.
    pub fn start(parent: Option<&Parent>, sandboxes_max: u32) -> Rules {
        let group = parent.and_then(|parent| Some((parent.name(), parent.unified()?)));
        let enforcement = match group {
            None => Err("there is no cgroup v2 tree of the platform's to attach them to".to_owned()),
            Some((name, cgroup)) => Enforcement::start(&Options {
                name,
                cgroup,
                functions_max: FUNCTIONS_MAX,
                sandboxes_max,
                strangers: Strangers::Denied,
                syscalls: false,
            })
            .map_err(|error| error.to_string()),
        };
        let usages = enforcement.as_ref().ok().filter(|enforcement| is_in_force(enforcement, "accounting"));
        let usages = usages.and_then(|enforcement| enforcement.counters().ok());
        let mut rules = Rules {
            enforcement,
            usages,
            rows: BTreeMap::new(),
            free: (0..FUNCTIONS_MAX).rev().collect(),
            admitted: BTreeMap::new(),
        };
        rules.forget_the_dead();
        rules
    }

    fn forget_the_dead(&mut self) {
        let Ok(enforcement) = &mut self.enforcement else { return };
        let dead = enforcement.admitted().unwrap_or_default();
        for sandbox in dead {
            if let Err(error) = enforcement.dismiss(sandbox.index) {
                say(format_args!("event=dismiss-failed index={} reason=\"{error}\"", sandbox.index));
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.enforcement.as_ref().is_ok_and(|enforcement| is_in_force(enforcement, name))
    }

    /// What a sandbox had of CPUs, and those before it with the same row; none where nothing counts it.
    pub fn had(&self, index: u32) -> Option<Had> {
        let usage = self.usages.as_ref()?.read(index);
        Some(Had { cpu_ns: usage.cpu_ns, waits: Some(usage.waits) })
    }

    /// Whether rules of the network hold.
    pub fn has_network(&self) -> bool {
        self.has("network")
    }

    /// Whether events are told: a signal's reason is then known.
    pub fn has_events(&self) -> bool {
        self.has("events")
    }

    /// For people.
    pub fn backends(&self) -> Vec<(String, String)> {
        match &self.enforcement {
            Err(why) => {
                let effect = "functions with network or devices are refused, nothing counts bytes";
                vec![("bpf".into(), format!("none: {why}; {effect}"))]
            }
            Ok(enforcement) => {
                let told = |backend: &bpf::Backend| match &backend.missing {
                    None => format!("in force: {}", backend.meaning),
                    Some(why) => format!("not in force, so {}: {why}", backend.meaning),
                };
                let row = |backend: &bpf::Backend| (format!("bpf {}", backend.name), told(backend));
                enforcement.backends().iter().map(row).collect()
            }
        }
    }

    /// The map of counters and its shape.
    pub fn counters(&self) -> Option<(Counters, OwnedFd)> {
        let enforcement = self.enforcement.as_ref().ok()?;
        let descriptor = enforcement.counters_fd().try_clone_to_owned().ok()?;
        Some((Counters { rows: enforcement.rows(), row_bytes: bpf::ROW_BYTES as u32 }, descriptor))
    }

    /// Readable when there are events.
    pub fn events_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.enforcement.as_ref().ok().map(Enforcement::events_fd)
    }

    /// All events that are there.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Ok(enforcement) = &mut self.enforcement
            && let Err(error) = enforcement.drain(|event| events.push(event))
        {
            say(format_args!("event=bpf-events-failed reason=\"{error}\""));
        }
        events
    }

    /// From now on the processes of this group are this sandbox: its function's rules hold, its row counts.
    ///
    /// # Errors
    /// If the function demands what is not in force here.
    pub fn admit(
        &mut self,
        index: u32,
        spec: &Spec,
        group: Option<&Group>,
        api: Option<SocketAddrV4>,
    ) -> Result<(), JailError> {
        let demands = spec.network.is_some() || !spec.devices.is_empty();
        let cgroup = group.and_then(Group::unified);
        let cgroup = match (&self.enforcement, cgroup) {
            (Ok(_), Some(cgroup)) => cgroup,
            (_, _) if !demands => return Ok(()),
            (Err(why), _) => {
                return Err(host_fault(
                    "network and devices of functions need BPF, which is not in force",
                    why,
                ));
            }
            (Ok(_), None) => return Err(host_fault("network and devices of functions", "need cgroups")),
        };
        let policy = policy(spec)?;
        self.place(index, key(spec), &policy, cgroup, api)
    }

    /// A blank with a network of its own may use it: its first process listens there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn admit_blank(&mut self, index: u32, group: Option<&Group>) -> Result<(), JailError> {
        let Some(cgroup) = group.and_then(Group::unified) else { return Ok(()) };
        match self.enforcement {
            Ok(_) => self.place(index, BLANK.into(), &Policy::default(), cgroup, None),
            Err(_) => Ok(()),
        }
    }

    /// What a blank for the host's network sends and receives is looked at from the first packet on: no process is in
    /// this group yet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn guard_blank(&mut self, group: Option<&Group>) -> Result<(), JailError> {
        let Some(cgroup) = group.and_then(Group::unified) else { return Ok(()) };
        let Ok(enforcement) = &mut self.enforcement else { return Ok(()) };
        enforcement.guard(cgroup).map_err(|error| host_fault("its network cannot be guarded", error))
    }

    /// Makes a sandbox one of a function's, whose policy this is.
    fn place(
        &mut self,
        index: u32,
        key: String,
        policy: &Policy,
        cgroup: &Path,
        api: Option<SocketAddrV4>,
    ) -> Result<(), JailError> {
        let enforcement = self.enforcement.as_mut().expect("the callers have just looked");
        if !self.rows.contains_key(&key) {
            let row = self
                .free
                .pop()
                .ok_or_else(|| host_fault("too many functions", "no row of policies is free"))?;
            if let Err(error) = enforcement.set_policy(row, policy) {
                self.free.push(row);
                return Err(host_fault("its network and devices cannot be enforced", error));
            }
            self.rows.insert(key.clone(), Row { row, users: 0 });
        }
        let row = self.rows.get_mut(&key).expect("it was there or is now");
        row.users += 1;
        let function = row.row;
        let before = self.admitted.insert(index, key);
        let cgroup_id = bpf::cgroup_id(cgroup).map_err(|error| host_fault(cgroup.display(), error));
        let sandbox = |cgroup_id| Sandbox { cgroup_id, index, function, runtime_api: api.map(Into::into) };
        let admitted = cgroup_id.and_then(|id| {
            enforcement
                .admit(&sandbox(id))
                .map_err(|error| host_fault("BPF does not admit the sandbox", error))
        });
        if let Some(before) = before {
            self.leave(&before);
        }
        admitted
    }

    /// One sandbox less of a function.
    fn leave(&mut self, key: &str) {
        let Some(row) = self.rows.get_mut(key) else { return };
        row.users -= 1;
        if row.users > 0 {
            return;
        }
        let row = self.rows.remove(key).expect("it was just there").row;
        if let Ok(enforcement) = &mut self.enforcement
            && let Err(error) = enforcement.remove_policy(row)
        {
            say(format_args!("event=policy-left row={row} reason=\"{error}\""));
        }
        self.free.push(row);
    }

    /// The sandbox is gone.
    pub fn dismiss(&mut self, index: u32) {
        let Some(key) = self.admitted.remove(&index) else { return };
        if let Ok(enforcement) = &mut self.enforcement
            && let Err(error) = enforcement.dismiss(index)
        {
            say(format_args!("event=dismiss-failed index={index} reason=\"{error}\""));
        }
        self.leave(&key);
    }

    /// Takes the programs away: no sandbox is left.
    pub fn stop(&mut self) {
        let stopped = std::mem::replace(&mut self.enforcement, Err("the jailer ends".into()));
        if let Ok(enforcement) = stopped
            && let Err(error) = enforcement.stop()
        {
            say(format_args!("event=bpf-stop-failed reason=\"{error}\""));
        }
    }
}

fn is_in_force(enforcement: &Enforcement, name: &str) -> bool {
    enforcement.backends().iter().any(|backend| backend.name == name && backend.missing.is_none())
}

/// Sandboxes with the same key have the same rules.
fn key(spec: &Spec) -> String {
    format!("{:?}", (&spec.tenant, &spec.function, &spec.network, &spec.devices))
}

fn policy(spec: &Spec) -> Result<Policy, JailError> {
    let mut policy = Policy::default();
    if let Some(network) = &spec.network {
        policy.network =
            Network::Host { connect: endpoints(&network.allow)?, listen: endpoints(&network.listen)? };
        policy.egress_bytes_per_s = network.egress_bytes;
        policy.ingress_bytes_per_s = network.ingress_bytes;
    }
    policy.devices = spec.devices.iter().map(|path| device(path)).collect::<Result<_, _>>()?;
    policy.check().map_err(|error| function_fault(error.to_string()))?;
    Ok(policy)
}

fn endpoints(rules: &[String]) -> Result<Vec<Endpoints>, JailError> {
    let read = |text: &String| {
        let rule: Rule = text.parse().map_err(|error| function_fault(format!("network: {error}")))?;
        Ok(Endpoints {
            transport: match rule.protocol {
                Protocol::Any => None,
                Protocol::Tcp => Some(Transport::Tcp),
                Protocol::Udp => Some(Transport::Udp),
            },
            address: rule.prefix.address(),
            bits: rule.prefix.bits(),
            ports: if rule.port == 0 { (0, u16::MAX) } else { (rule.port, rule.port) },
        })
    };
    rules.iter().map(read).collect()
}

fn device(path: &Path) -> Result<Device, JailError> {
    let found = std::fs::metadata(path).map_err(|error| host_fault(path.display(), error))?;
    let kind = found.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(function_fault(format!("{} is not a device", path.display())));
    }
    let (major, minor) = (libc::major(found.rdev()), libc::minor(found.rdev()));
    Ok(Device { is_block: kind.is_block_device(), major, minor, read: true, write: true })
}
