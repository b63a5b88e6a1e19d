//! What the sandboxes of a function may do, and how it becomes entries of BPF maps.

use crate::abi::{self, DeviceKey, Grant, GrantKey, PolicyRow, PortRange};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Grants of one policy, connect and listen each: what the manifest takes at most.
pub const GRANTS_MAX: usize = abi::RANGES_MAX;
/// Devices of one policy beside the default ones.
pub const DEVICES_MAX: usize = 64;
/// The smallest rate that can be asked for, bytes per second.
pub const RATE_MIN: u64 = 1024;
/// The largest one; above it say 0, no limit.
pub const RATE_MAX: u64 = 100_000_000_000;
/// How much of its rate a sandbox may save up, if the policy does not say: a tenth of a second.
const BURST: Duration = Duration::from_millis(100);

/// What the sandboxes of a function may do. The default: nothing over the network, the default devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Which network they have.
    pub network: Network,
    /// Bytes per second that each sandbox may send; 0 for no limit. Packets beyond it are dropped and counted.
    pub egress_bytes_per_s: u64,
    /// Bytes per second that each sandbox may receive; 0 for no limit.
    pub ingress_bytes_per_s: u64,
    /// How much of both rates a sandbox may save up while it is quiet. One packet more than that always passes, and is
    /// paid for afterwards.
    pub burst: Duration,
    /// Devices beside `null zero full random urandom`.
    pub devices: Vec<Device>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            network: Network::Own,
            egress_bytes_per_s: 0,
            ingress_bytes_per_s: 0,
            burst: BURST,
            devices: Vec::new(),
        }
    }
}

/// Which network a function has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Network {
    /// A network namespace of its own with a loopback interface and nothing else: there is nothing to check or count.
    Own,
    /// The host's, and in it what is granted. Everything else is denied, counted and told.
    Host {
        /// Where it may connect and send to. At most [`GRANTS_MAX`]. Addresses of this host itself are only granted by
        /// prefixes inside 127.0.0.0/8, by `::1`, and by prefixes of full length: `0.0.0.0/0` does not open the
        /// platform's own doors.
        connect: Vec<Endpoints>,
        /// Which local addresses it may bind and be reached at. At most [`GRANTS_MAX`]. An answer to a UDP datagram is
        /// sent to its source, so the source must be in `connect` too.
        listen: Vec<Endpoints>,
    },
}

/// Which transport.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Addresses and ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// Which transport; none for TCP and UDP.
    pub transport: Option<Transport>,
    /// The first address: bits behind the prefix are ignored. IPv4-mapped IPv6 addresses are matched as IPv4, so a
    /// prefix of them grants nothing.
    pub address: IpAddr,
    /// How many leading bits count: up to 32 or 128.
    pub bits: u8,
    /// First and last port.
    pub ports: (u16, u16),
}

/// A device node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Device {
    /// Whether it is a block device, else a character device.
    pub is_block: bool,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Whether it may be read, and written.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
}

/// Why a policy cannot be put into maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyError {
    /// Too many of something.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// More leading bits than the address has.
    Bits(IpAddr, u8),
    /// The first port is behind the last one.
    Ports(u16, u16),
    /// Below [`RATE_MIN`] or above [`RATE_MAX`].
    Rate(u64),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::TooMany { what, count, max } => {
                write!(f, "a policy has {count} {what}; at most {max} fit")
            }
            PolicyError::Bits(address, bits) => {
                write!(f, "{address}/{bits}: the address has not so many bits")
            }
            PolicyError::Ports(first, last) => {
                write!(f, "ports {first}-{last}: the first is behind the last")
            }
            PolicyError::Rate(rate) => write!(
                f,
                "{rate} bytes/s cannot be enforced; say {RATE_MIN} to {RATE_MAX}, or 0 for no limit"
            ),
        }
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// Whether the policy fits the maps.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check(&self) -> Result<(), PolicyError> {
        let few = |what, count, max| {
            if count > max { Err(PolicyError::TooMany { what, count, max }) } else { Ok(()) }
        };
        few("devices", self.devices.len(), DEVICES_MAX)?;
        for rate in [self.egress_bytes_per_s, self.ingress_bytes_per_s] {
            if rate != 0 && !(RATE_MIN..=RATE_MAX).contains(&rate) {
                return Err(PolicyError::Rate(rate));
            }
        }
        let Network::Host { connect, listen } = &self.network else { return Ok(()) };
        few("grants to connect", connect.len(), GRANTS_MAX)?;
        few("grants to listen", listen.len(), GRANTS_MAX)?;
        connect.iter().chain(listen).try_for_each(Endpoints::check)
    }

    /// What the programs must be in force for: network rules or rates; devices.
    pub(crate) fn demands(&self) -> (bool, bool) {
        let rates = self.egress_bytes_per_s != 0 || self.ingress_bytes_per_s != 0;
        (rates || matches!(self.network, Network::Host { .. }), !self.devices.is_empty())
    }

    /// The row of the policy with this list.
    pub(crate) fn row(&self, list: u32) -> PolicyRow {
        let flags = if self.network == Network::Own { abi::POLICY_OWN_NETWORK } else { 0 };
        let burst_ns = u64::try_from(self.burst.as_nanos()).unwrap_or(u64::MAX).min(60_000_000_000);
        PolicyRow {
            list: u64::from(flags) << 32 | u64::from(list),
            egress_pace: pace(self.egress_bytes_per_s),
            ingress_pace: pace(self.ingress_bytes_per_s),
            egress_burst_ns: burst_ns,
            ingress_burst_ns: burst_ns,
        }
    }

    /// The entries of `grants` with this list. Each prefix carries the port ranges of all prefixes that cover it, since
    /// the kernel finds the longest one only.
    pub(crate) fn grants(&self, list: u32) -> Vec<(GrantKey, Grant)> {
        let Network::Host { connect, listen } = &self.network else { return Vec::new() };
        let mut all = Vec::new();
        for (grants, is_listen) in [(connect, false), (listen, true)] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let of = |grant: &&Endpoints| grant.transport.is_none_or(|one| one == transport);
                let grants: Vec<&Endpoints> = grants.iter().filter(of).collect();
                let prefixes: BTreeSet<(IpAddr, u8)> = grants.iter().map(|grant| grant.prefix()).collect();
                for (address, bits) in prefixes {
                    let covering = grants.iter().filter(|grant| grant.covers(address, bits));
                    let key = GrantKey::new(list, transport, is_listen, address, bits);
                    all.push((key, Grant { ranges: ranges(covering.copied()) }));
                }
            }
        }
        all
    }

    /// The entries of `devices` with this list, with what may be done: 2 to read, 4 to write.
    pub(crate) fn devices(&self, list: u32) -> Vec<(DeviceKey, u32)> {
        let mut all = BTreeMap::new();
        for device in &self.devices {
            let kind = if device.is_block { 1 } else { 2 };
            let access =
                u32::from(device.read) * abi::DEVICE_READ + u32::from(device.write) * abi::DEVICE_WRITE;
            *all.entry((kind, device.major, device.minor)).or_insert(0) |= access;
        }
        all.into_iter()
            .map(|((kind, major, minor), access)| (DeviceKey { list, kind, major, minor }, access))
            .collect()
    }
}

/// Time of one byte at this rate.
fn pace(rate: u64) -> u64 {
    (1_000_000_000_u64 << abi::RATE_SHIFT).checked_div(rate).map_or(0, |pace| pace.max(1))
}

/// Sorted, merged where they touch. More than fit cannot come out of [`GRANTS_MAX`] grants.
fn ranges<'a>(grants: impl Iterator<Item = &'a Endpoints>) -> Vec<PortRange> {
    let mut sorted: Vec<PortRange> = grants
        .map(|grant| PortRange { first: grant.ports.0, last: grant.ports.1, is_local: grant.is_local() })
        .collect();
    sorted.sort_by_key(|range| (range.is_local, range.first, range.last));
    let mut merged: Vec<PortRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last)
                if last.is_local == range.is_local && u32::from(range.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl Endpoints {
    fn check(&self) -> Result<(), PolicyError> {
        if u32::from(self.bits) > width(self.address) {
            return Err(PolicyError::Bits(self.address, self.bits));
        }
        if self.ports.0 > self.ports.1 {
            return Err(PolicyError::Ports(self.ports.0, self.ports.1));
        }
        Ok(())
    }

    /// The address with the bits behind the prefix zero.
    fn prefix(&self) -> (IpAddr, u8) {
        (masked(self.address, self.bits), self.bits)
    }

    fn covers(&self, address: IpAddr, bits: u8) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && self.bits <= bits
            && masked(self.address, self.bits) == masked(address, self.bits)
    }

    /// Whether it also grants addresses of this host itself.
    fn is_local(&self) -> bool {
        u32::from(self.bits) == width(self.address) || (self.address.is_loopback() && self.bits >= 8)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `bits` are at most as many as the address has.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let behind = width(address) - u32::from(bits);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(behind).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(behind).unwrap_or(0)).into()),
    }
}

#[cfg(test)]
mod tests;
