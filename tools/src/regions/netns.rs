//! Regions of one machine in network namespaces of their own, by `ip` and `tc` of iproute2.
//!
//! ```text
//!   namespace of region a        namespace `wan`          namespace of region b
//!   wan0 10.78.0.1 ── veth ──▶ bridge, delay and loss ◀── veth ── wan0 10.78.0.2
//!   mgmt0 ── veth ── this host: the admin API, also of a region that is cut off
//! ```
//!
//! Delay and loss are the kernel's `netem` on each region's `wan0`. A kernel without it has plain links, and that is
//! said; where delay or loss is asked for, it is an error.

use crate::exit::{Exit, Failure};
use crate::times::short;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::time::Duration;

/// Regions of one machine at most: each has a /30 of a /26.
pub const REGIONS_MAX: u16 = 16;
/// What names of our namespaces begin with.
const PREFIX: &str = "millrace";

/// What is between the regions.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Wan {
    /// Each way.
    pub delay: Duration,
    /// Of each packet, in percent.
    pub loss_percent: f64,
}

/// The namespaces of one `up`; removed when dropped.
#[derive(Debug)]
pub struct Namespaces {
    pid: u32,
    names: Vec<String>,
    /// What is in force, for people.
    pub wan: String,
}

impl Namespaces {
    /// Makes one for each region, and links between all. First sweeps away what a killed `up` left behind.
    ///
    /// # Errors
    /// No privilege, no iproute2, or a kernel without what was asked for.
    pub fn make(names: &[String], wan: Wan) -> Result<Namespaces, Failure> {
        sweep()?;
        let pid = std::process::id();
        let mut made = Namespaces { pid, names: names.to_vec(), wan: String::new() };
        ip(&["netns", "add", &made.hub()])?;
        ip(&["-n", &made.hub(), "link", "add", "wan", "type", "bridge"])?;
        ip(&["-n", &made.hub(), "link", "set", "wan", "up"])?;
        for at in 0..names.len() {
            made.link(at)?;
        }
        made.wan = made.impair(wan)?;
        Ok(made)
    }

    fn hub(&self) -> String {
        format!("{PREFIX}-{}-wan", self.pid)
    }

    /// The namespace of a region.
    pub fn name(&self, at: usize) -> String {
        format!("{PREFIX}-{}-{}", self.pid, self.names[at])
    }

    /// A region's address for the other regions.
    pub fn wan_address(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, at as u8 + 1)
    }

    /// A region's address for this host.
    pub fn admin_address(&self, at: usize) -> Ipv4Addr {
        management(self.pid, at)[1]
    }

    fn link(&self, at: usize) -> Result<(), Failure> {
        let (here, hub, port) = (self.name(at), self.hub(), format!("port{at}"));
        ip(&["netns", "add", &here])?;
        ip(&["-n", &here, "link", "set", "lo", "up"])?;
        let peer = ["peer", "name", &port, "netns", &hub];
        ip(&[&["link", "add", "wan0", "netns", &here, "type", "veth"][..], &peer].concat())?;
        ip(&["-n", &hub, "link", "set", &port, "master", "wan", "up"])?;
        ip(&["-n", &here, "addr", "add", &format!("{}/24", self.wan_address(at)), "dev", "wan0"])?;
        ip(&["-n", &here, "link", "set", "wan0", "up"])?;
        let (outside, [mine, its]) = (format!("mr{}-{at}", self.pid), management(self.pid, at));
        let peer = ["peer", "name", "mgmt0", "netns", &here];
        ip(&[&["link", "add", &outside, "type", "veth"][..], &peer].concat())?;
        ip(&["addr", "add", &format!("{mine}/30"), "dev", &outside])?;
        ip(&["link", "set", &outside, "up"])?;
        ip(&["-n", &here, "addr", "add", &format!("{its}/30"), "dev", "mgmt0"])?;
        ip(&["-n", &here, "link", "set", "mgmt0", "up"])
    }

    /// Delay and loss on what each region sends; what is in force.
    fn impair(&self, wan: Wan) -> Result<String, Failure> {
        let is_asked = wan != Wan::default();
        let delay = format!("{}us", wan.delay.as_micros());
        let loss = format!("{}%", wan.loss_percent);
        for at in 0..self.names.len() {
            let here = self.name(at);
            let netem =
                ["-n", &here, "qdisc", "add", "dev", "wan0", "root", "netem", "delay", &delay, "loss", &loss];
            match run("tc", &netem) {
                Ok(_) => {}
                Err(failure) if is_asked => {
                    let what =
                        format!("delay and loss between regions need the kernel's netem ({})", failure.what);
                    let remedy = "`modprobe sch_netem`, or a kernel with CONFIG_NET_SCH_NETEM; or leave --wan-delay \
                                  and --wan-loss away";
                    return Err(Failure::new(Exit::Machine, what, "--wan-delay, --wan-loss", remedy));
                }
                Err(failure) => {
                    return Ok(format!("veth, no delay, no loss; netem is not there ({})", failure.what));
                }
            }
        }
        let delay = short(::call::time::nanos(wan.delay));
        Ok(format!("veth, netem: delay {delay} each way, loss {loss}"))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Their processes have ended; the links go with them.
        for name in (0..self.names.len()).map(|at| self.name(at)).chain([self.hub()]) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// A command that runs in a namespace. Only the network is another: mounts and cgroups are the host's.
pub fn inside(namespace: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    command
}

/// Cuts a region off from the others, or lets it back.
///
/// # Errors
/// No privilege, or the region is gone.
pub fn set_cut(namespace: &str, cut: bool) -> Result<(), Failure> {
    ip(&["-n", namespace, "link", "set", "wan0", if cut { "down" } else { "up" }])
}

/// Whether a region is cut off. False if nobody can tell.
pub fn is_cut(namespace: &str) -> bool {
    let state = run("ip", &["-n", namespace, "-br", "link", "show", "dev", "wan0"]);
    state.is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("LOWER_UP"))
}

/// The processes of a region.
///
/// # Errors
/// No privilege, or the region is gone.
pub fn processes(namespace: &str) -> Result<Vec<Pid>, Failure> {
    let output = run("ip", &["netns", "pids", namespace])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect())
}

/// Removes namespaces whose `up` is gone.
fn sweep() -> Result<(), Failure> {
    let output = run("ip", &["netns", "list"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in text.lines().filter_map(|line| line.split_whitespace().next()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)?.parse().ok());
        if pid.is_some_and(|pid| kill(Pid::from_raw(pid), None).is_err()) {
            let _ = ip(&["netns", "del", name]);
        }
    }
    Ok(())
}

/// Both ends of a region's link to this host: a /30 in the space that no public network uses (RFC 6598).
fn management(pid: u32, at: usize) -> [Ipv4Addr; 2] {
    // 2^16 blocks of 64 addresses: one for each process that may run at once, nearly.
    let first = 0x6440_0000 + (pid % (1 << 16)) * 64 + at as u32 * 4;
    [first + 1, first + 2].map(Ipv4Addr::from_bits)
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    run("ip", arguments).map(drop)
}

fn run(program: &str, arguments: &[&str]) -> Result<Output, Failure> {
    let place = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        let remedy = "install the package iproute2: `apt-get install iproute2`";
        Failure::new(Exit::Machine, format!("cannot run {program}: {error}"), &place, remedy)
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let error = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let remedy = "regions need root and network namespaces: run as root, see `millrace doctor`";
    Err(Failure::new(Exit::Machine, error, place, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn management_networks_do_not_meet() {
        let all: std::collections::BTreeSet<Ipv4Addr> =
            (0..200).flat_map(|pid| (0..16).flat_map(move |at| management(pid, at))).collect();
        assert_eq!(all.len(), 200 * 16 * 2);
        assert!(all.iter().all(|at| at.octets()[0] == 100 && (64..128).contains(&at.octets()[1])));
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let failure = run("no-such-ip", &["link"]).unwrap_err();
        assert!(failure.exit == Exit::Machine && failure.remedy.contains("iproute2"), "{failure}");
    }
}
