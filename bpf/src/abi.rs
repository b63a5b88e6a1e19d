//! The Rust side of `include/abi.h`. Values come out of maps as bytes and are taken apart here, without unsafe code.

use crate::policy::Transport;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `RUNQ_BUCKETS`.
pub const BUCKETS: usize = 40;

/// Bytes of `struct runq_core`.
pub const CORE_BYTES: usize = 8 * (2 + BUCKETS);
/// Bytes of `struct runq_thread`.
pub const THREAD_BYTES: usize = 24;

/// `struct runq_core`.
#[derive(Clone, Copy, Debug)]
pub struct Core {
    pub cpu_ns: u64,
    pub switches: u64,
    pub delay: [u64; BUCKETS],
}

impl Core {
    /// Nothing counted.
    pub const ZERO: Core = Core { cpu_ns: 0, switches: 0, delay: [0; BUCKETS] };

    /// Adds what one CPU counted.
    pub fn add(&mut self, bytes: &[u8]) {
        assert_eq!(bytes.len(), CORE_BYTES, "struct runq_core and its mirror differ");
        self.cpu_ns += word(bytes, 0);
        self.switches += word(bytes, 1);
        self.delay.iter_mut().enumerate().for_each(|(bucket, count)| *count += word(bytes, 2 + bucket));
    }
}

/// `struct runq_thread`.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    pub tgid: u32,
    pub running_since: u64,
    pub waiting_since: u64,
}

impl Thread {
    pub fn from_bytes(bytes: &[u8]) -> Thread {
        assert_eq!(bytes.len(), THREAD_BYTES, "struct runq_thread and its mirror differ");
        let tgid = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
        Thread { tgid, running_since: word(bytes, 1), waiting_since: word(bytes, 2) }
    }

    pub fn to_bytes(self) -> [u8; THREAD_BYTES] {
        let mut out = [0; THREAD_BYTES];
        out[..4].copy_from_slice(&self.tgid.to_ne_bytes());
        out[8..16].copy_from_slice(&self.running_since.to_ne_bytes());
        out[16..].copy_from_slice(&self.waiting_since.to_ne_bytes());
        out
    }
}

/// `ABI_VERSION`.
pub const VERSION: u32 = 3;
/// `RANGES_MAX`.
pub const RANGES_MAX: usize = 64;
/// `RATE_SHIFT`.
pub const RATE_SHIFT: u32 = 20;
/// `POLICY_OWN_NETWORK`.
pub const POLICY_OWN_NETWORK: u32 = 1;
/// `BPF_DEVCG_ACC_READ` of the kernel.
pub const DEVICE_READ: u32 = 2;
/// `BPF_DEVCG_ACC_WRITE` of the kernel.
pub const DEVICE_WRITE: u32 = 4;
/// `GRANT_LISTEN`.
const GRANT_LISTEN: u16 = 0x100;
/// `RANGE_LOCAL`.
const RANGE_LOCAL: u32 = 1;

/// Bytes of `struct sandbox`.
pub const SANDBOX_BYTES: usize = 40;
/// Bytes of `struct control`.
pub const CONTROL_BYTES: usize = 16;
/// `RUNNING_BITS`.
pub const RUNNING_BITS: u32 = 12;
/// Bytes of `struct policy`.
pub const POLICY_BYTES: usize = 64;
/// Bytes of `struct grant_key`.
pub const GRANT_KEY_BYTES: usize = 28;
/// Bytes of `struct grant`.
pub const GRANT_BYTES: usize = 8 + 8 * RANGES_MAX;
/// Bytes of `struct device_key`.
pub const DEVICE_KEY_BYTES: usize = 16;
/// Bytes of `struct event`.
pub const EVENT_BYTES: usize = 56;

/// `struct sandbox`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SandboxRow {
    pub index: u32,
    pub function: u32,
    pub api: Option<SocketAddr>,
    pub is_guarded: bool,
}

impl SandboxRow {
    pub fn to_bytes(self) -> [u8; SANDBOX_BYTES] {
        let mut out = [0; SANDBOX_BYTES];
        put(&mut out, 0, self.index);
        put(&mut out, 4, self.function);
        put(&mut out, 32, self.is_guarded.into());
        let Some(api) = self.api else { return out };
        let (family, address) = address_bytes(api.ip());
        put(&mut out, 8, u32::from(family));
        put(&mut out, 12, u32::from(api.port()));
        out[16..32].copy_from_slice(&address);
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> SandboxRow {
        assert_eq!(bytes.len(), SANDBOX_BYTES, "struct sandbox and its mirror differ");
        let api =
            address_of(half(bytes, 8), &bytes[16..32]).map(|ip| SocketAddr::new(ip, half(bytes, 12) as u16));
        let is_guarded = half(bytes, 32) != 0;
        SandboxRow { index: half(bytes, 0), function: half(bytes, 4), api, is_guarded }
    }
}

/// `struct control`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    pub generation: u64,
    pub version: u64,
}

impl Control {
    pub fn to_bytes(self) -> [u8; CONTROL_BYTES] {
        let mut out = [0; CONTROL_BYTES];
        out[..8].copy_from_slice(&self.generation.to_ne_bytes());
        out[8..].copy_from_slice(&self.version.to_ne_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Control {
        assert_eq!(bytes.len(), CONTROL_BYTES, "struct control and its mirror differ");
        Control { generation: word(bytes, 0), version: word(bytes, 1) }
    }
}

/// `struct policy`, without the words that are not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyRow {
    pub list: u64,
    pub egress_pace: u64,
    pub ingress_pace: u64,
    pub egress_burst_ns: u64,
    pub ingress_burst_ns: u64,
}

impl PolicyRow {
    /// Its words, the list last: when it changes, the rest has.
    pub fn words(self) -> [(usize, u64); 5] {
        [
            (1, self.egress_pace),
            (2, self.ingress_pace),
            (3, self.egress_burst_ns),
            (4, self.ingress_burst_ns),
            (0, self.list),
        ]
    }
}

/// `struct grant_key`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GrantKey {
    pub list: u32,
    kind: u16,
    family: u16,
    address: [u8; 16],
    bits: u8,
}

impl GrantKey {
    pub fn new(list: u32, transport: Transport, is_listen: bool, address: IpAddr, bits: u8) -> GrantKey {
        let protocol = match transport {
            Transport::Tcp => protocol_number::TCP,
            Transport::Udp => protocol_number::UDP,
        };
        let (family, address) = address_bytes(address);
        GrantKey { list, kind: protocol | if is_listen { GRANT_LISTEN } else { 0 }, family, address, bits }
    }

    pub fn to_bytes(self) -> [u8; GRANT_KEY_BYTES] {
        let mut out = [0; GRANT_KEY_BYTES];
        put(&mut out, 0, 64 + u32::from(self.bits));
        put(&mut out, 4, self.list);
        out[8..10].copy_from_slice(&self.kind.to_ne_bytes());
        out[10..12].copy_from_slice(&self.family.to_ne_bytes());
        out[12..].copy_from_slice(&self.address);
        out
    }

    /// The list of a key in the map.
    pub fn list_of(key: &[u8]) -> u32 {
        assert_eq!(key.len(), GRANT_KEY_BYTES, "struct grant_key and its mirror differ");
        half(key, 4)
    }
}

/// Numbers of `<netinet/in.h>`.
mod protocol_number {
    pub const TCP: u16 = 6;
    pub const UDP: u16 = 17;
}

/// `struct port_range`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
    pub is_local: bool,
}

/// `struct grant`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub ranges: Vec<PortRange>,
}

impl Grant {
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.ranges.len() <= RANGES_MAX, "{} port ranges in one grant", self.ranges.len());
        let mut out = vec![0; GRANT_BYTES];
        put(&mut out, 0, self.ranges.len() as u32);
        for (at, range) in self.ranges.iter().enumerate() {
            let at = 8 + 8 * at;
            out[at..at + 2].copy_from_slice(&range.first.to_ne_bytes());
            out[at + 2..at + 4].copy_from_slice(&range.last.to_ne_bytes());
            put(&mut out, at + 4, if range.is_local { RANGE_LOCAL } else { 0 });
        }
        out
    }
}

/// `struct device_key`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceKey {
    pub list: u32,
    pub kind: u32,
    pub major: u32,
    pub minor: u32,
}

impl DeviceKey {
    pub fn to_bytes(self) -> [u8; DEVICE_KEY_BYTES] {
        let mut out = [0; DEVICE_KEY_BYTES];
        for (at, value) in [self.list, self.kind, self.major, self.minor].into_iter().enumerate() {
            put(&mut out, 4 * at, value);
        }
        out
    }

    /// The list of a key in the map.
    pub fn list_of(key: &[u8]) -> u32 {
        assert_eq!(key.len(), DEVICE_KEY_BYTES, "struct device_key and its mirror differ");
        half(key, 0)
    }
}

/// Family and bytes as the programs have them: IPv4 in the first four.
fn address_bytes(address: IpAddr) -> (u16, [u8; 16]) {
    let mut out = [0; 16];
    match address {
        IpAddr::V4(v4) => out[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out = v6.octets(),
    }
    (if address.is_ipv4() { 4 } else { 6 }, out)
}

/// The address in these 16 bytes; none without a family.
pub fn address_of(family: u32, bytes: &[u8]) -> Option<IpAddr> {
    let bytes: [u8; 16] = bytes.try_into().expect("sixteen bytes");
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
        6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => None,
    }
}

fn put(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

/// The 32-bit word at this byte.
pub fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The 64-bit word of this index.
fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_ne_bytes(bytes[8 * index..8 * (index + 1)].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_shows_what_the_header_says() {
        let header = include_str!("../include/abi.h");
        assert!(header.contains(&format!("#define RUNQ_BUCKETS {BUCKETS}\n")));
        for (name, value) in [
            ("ABI_VERSION", VERSION as usize),
            ("RANGES_MAX", RANGES_MAX),
            ("RATE_SHIFT", RATE_SHIFT as usize),
            ("RUNNING_BITS", RUNNING_BITS as usize),
        ] {
            assert!(header.contains(&format!("#define {name} {value}\n")), "{name}");
        }
        let thread = Thread { tgid: 7, running_since: 1 << 40, waiting_since: 3 };
        let back = Thread::from_bytes(&thread.to_bytes());
        assert_eq!((back.tgid, back.running_since, back.waiting_since), (7, 1 << 40, 3));
        let bytes: Vec<u8> = (0..CORE_BYTES / 8).flat_map(|word| (word as u64).to_ne_bytes()).collect();
        let mut core = Core::ZERO;
        core.add(&bytes);
        core.add(&bytes);
        assert_eq!((core.cpu_ns, core.switches, core.delay[0], core.delay[BUCKETS - 1]), (0, 2, 4, 82));
    }

    /// Bytes of each struct of the header, by the compiler that compiles the programs.
    #[test]
    fn sizes_are_those_of_the_header() {
        let sizes = [
            ("sandbox", SANDBOX_BYTES),
            ("control", CONTROL_BYTES),
            ("policy", POLICY_BYTES),
            ("grant_key", GRANT_KEY_BYTES),
            ("grant", GRANT_BYTES),
            ("device_key", DEVICE_KEY_BYTES),
            ("event", EVENT_BYTES),
            ("usage", crate::ROW_BYTES),
            ("runq_core", CORE_BYTES),
            ("runq_thread", THREAD_BYTES),
        ];
        let holds = |sizes: &[(&str, usize)]| {
            let asserts: String = sizes
                .iter()
                .map(|(name, bytes)| {
                    format!("_Static_assert(sizeof(struct {name}) == {bytes}, \"{name}\");\n")
                })
                .collect();
            let folder =
                std::env::temp_dir().join(format!("millrace-abi-{}-{}", std::process::id(), sizes.len()));
            let source = format!("#include \"kernel.h\"\n#include \"abi.h\"\n{asserts}");
            std::fs::write(&folder, source).expect("a temporary file");
            let mut clang = std::process::Command::new("clang");
            clang.args(["-target", "bpf", "-fsyntax-only", "-x", "c", "-I", "include"]).arg(&folder);
            let said =
                clang.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("clang built the programs");
            std::fs::remove_file(&folder).expect("it was written");
            said.status.success()
        };
        assert!(holds(&sizes));
        assert!(!holds(&[("event", EVENT_BYTES + 4)]), "a canary: a wrong size is seen");
    }

    #[test]
    fn a_sandbox_comes_back_from_its_bytes() {
        for api in [None, Some("127.0.0.1:9001"), Some("[fd00::7]:80")] {
            for is_guarded in [false, true] {
                let api = api.map(|api| api.parse().unwrap());
                let row = SandboxRow { index: 3, function: 9, api, is_guarded };
                assert_eq!(SandboxRow::from_bytes(&row.to_bytes()), row);
            }
        }
    }
}
