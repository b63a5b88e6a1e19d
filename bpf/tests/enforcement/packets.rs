//! The programs on packets by the kernel's test run: each verdict and each count beside those of a model in Rust that
//! knows the policy as it was asked for, not as it is in the maps.

use crate::harness::{Platform, host, test_run, unified, with_peer};
use bpf::{
    Device, Endpoints, Enforcement, Network, Policy, PolicyError, Sandbox, Transport, Usage, cgroup_id,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::net::{IpAddr, SocketAddr};

const INDEX: u32 = 1;
const API: &str = "10.0.0.2:9001";
const LOOPBACK: u32 = 1;

/// What a program on packets answers.
const DROP: u32 = 0;
const PASS: u32 = 1;
const DROP_AS_CONGESTION: u32 = 2;

#[derive(Clone, Debug)]
struct Packet {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
    flags: u8,
    /// IPv4: options; IPv6: headers in between.
    more_headers: usize,
    fragment_offset: u16,
    /// Bytes cut off its end.
    cut: usize,
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DESTINATION_OPTIONS: u8 = 60;

fn packet(protocol: u8, flags: u8, source: &str, destination: &str) -> Packet {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Packet { source, destination, protocol, flags, more_headers: 0, fragment_offset: 0, cut: 0 }
}

impl Packet {
    /// Its IP packet.
    fn bytes(&self) -> Vec<u8> {
        let mut out = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = vec![0; 20 + 4 * self.more_headers];
                ip[0] = 0x40 | (ip.len() / 4) as u8;
                ip[6..8].copy_from_slice(&self.fragment_offset.to_be_bytes());
                ip[9] = self.protocol;
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&destination.octets());
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = vec![0; 40 + 16 * self.more_headers];
                ip[0] = 0x60;
                ip[8..24].copy_from_slice(&source.octets());
                ip[24..40].copy_from_slice(&destination.octets());
                let mut next = 6;
                for at in 0..self.more_headers {
                    ip[next] = DESTINATION_OPTIONS;
                    next = 40 + 16 * at;
                    ip[next + 1] = 1;
                }
                ip[next] = self.protocol;
                ip
            }
            mixed => panic!("{mixed:?}"),
        };
        out.extend(self.source.port().to_be_bytes());
        out.extend(self.destination.port().to_be_bytes());
        out.extend([0; 9]);
        out.push(self.flags);
        out.extend([7; 40]);
        out.truncate(out.len() - self.cut);
        out
    }

    fn frame(&self) -> Vec<u8> {
        let mut out = vec![0; 12];
        out.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        out.extend(self.bytes());
        out
    }

    /// Whether the programs can tell what it is.
    fn is_readable(&self) -> bool {
        let headers =
            if self.source.is_ipv4() { 20 + 4 * self.more_headers } else { 40 + 16 * self.more_headers };
        let transport = match self.protocol {
            TCP => 14,
            UDP => 4,
            _ => return false,
        };
        let whole = !self.source.is_ipv4() || self.fragment_offset & 0x1fff == 0;
        whole
            && (self.source.is_ipv4() || self.more_headers <= 4)
            && self.bytes().len() >= headers + transport
    }

    fn opens(&self) -> bool {
        self.protocol == TCP && self.flags & (SYN | ACK) == SYN
    }
}

fn grants(rules: &[Endpoints], protocol: u8, end: SocketAddr, local: bool) -> bool {
    rules.iter().any(|rule| {
        let transport = match rule.transport {
            None => true,
            Some(Transport::Tcp) => protocol == TCP,
            Some(Transport::Udp) => protocol == UDP,
        };
        let same = |a: &[u8], b: &[u8]| {
            (0..usize::from(rule.bits)).all(|bit| (a[bit / 8] ^ b[bit / 8]) & (0x80 >> (bit % 8)) == 0)
        };
        let (covers, full) = match (rule.address, end.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (same(&a.octets(), &b.octets()), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (same(&a.octets(), &b.octets()), 128),
            _ => (false, 0),
        };
        let names_this_host = rule.bits == full || rule.address.is_loopback() && rule.bits >= 8;
        let port = (rule.ports.0..=rule.ports.1).contains(&end.port());
        transport && covers && port && (!local || names_this_host)
    })
}

/// Whether the packet may pass, and is counted.
fn verdict(policy: &Policy, outwards: bool, packet: &Packet, interface: u32) -> (bool, bool) {
    let Network::Host { connect, listen } = &policy.network else { return (true, false) };
    if !packet.is_readable() {
        return (false, false);
    }
    let api: SocketAddr = API.parse().unwrap();
    if packet.protocol == TCP && (packet.source == api || packet.destination == api) {
        return (true, false);
    }
    let local = interface == LOOPBACK;
    let may = if outwards {
        let asks = packet.opens() || packet.protocol == UDP;
        !(asks && local) || grants(connect, packet.protocol, packet.destination, true)
    } else {
        (packet.protocol == TCP && !packet.opens())
            || (packet.protocol == UDP && grants(connect, UDP, packet.source, local))
            || grants(listen, packet.protocol, packet.destination, false)
    };
    (may, may)
}

/// A platform whose sandbox is this very process: a test run's packets are its own.
fn platform() -> Option<Platform> {
    let mut platform = Platform::start()?;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a v2 group");
    let cgroup_id = cgroup_id(&unified().expect("mounted").join(own)).unwrap();
    let runtime_api = Some(API.parse().unwrap());
    platform.enforcement().admit(&Sandbox { cgroup_id, index: INDEX, function: 1, runtime_api }).unwrap();
    Some(platform)
}

fn run(platform: &Platform, outwards: bool, frame: &[u8], interface: u32) -> u32 {
    test_run(platform, if outwards { "on_egress" } else { "on_ingress" }, frame, interface)
}

/// Another interface than loopback, in a network namespace of its own.
fn other_interface() -> (crate::harness::Peer, u32) {
    let peer = with_peer();
    (peer, nix::net::if_::if_nametoindex("v0").expect("it is there"))
}

#[test]
fn verdicts_and_counts_of_chosen_packets() {
    let Some(mut platform) = platform() else { return };
    let (_peer, outside) = other_interface();
    let rules = ["tcp 10.0.0.0/8 443", "udp 10.0.0.53/32 53", "tcp 127.0.0.1/32 80"];
    platform.enforcement().set_policy(1, &host(&rules, &["tcp 0.0.0.0/0 8080"])).unwrap();
    let data = packet(TCP, ACK, "10.0.0.1:40000", "10.0.0.9:443");
    let cases = [
        (true, data.clone(), outside, PASS),
        (true, packet(TCP, SYN, "10.0.0.1:40000", "10.0.0.9:443"), outside, PASS),
        (true, packet(TCP, SYN, "10.0.0.1:40000", "10.0.0.9:443"), LOOPBACK, DROP),
        (true, packet(TCP, SYN, "127.0.0.1:40000", "127.0.0.1:80"), LOOPBACK, PASS),
        (true, packet(1, 0, "10.0.0.1:40000", "10.0.0.9:443"), outside, DROP),
        (true, Packet { fragment_offset: 100, ..data.clone() }, outside, DROP),
        // The first part of a whole that may be cut later.
        (true, Packet { fragment_offset: 0x2000, ..data.clone() }, outside, PASS),
        (true, Packet { more_headers: 10, ..data.clone() }, outside, PASS),
        (true, Packet { cut: 41, ..data.clone() }, outside, DROP),
        (false, packet(TCP, SYN, "1.2.3.4:555", "10.0.0.1:8080"), outside, PASS),
        (false, packet(TCP, SYN, "1.2.3.4:555", "10.0.0.1:8081"), outside, DROP),
        (false, packet(TCP, SYN | ACK, "1.2.3.4:555", "10.0.0.1:8081"), outside, PASS),
        (false, packet(UDP, 0, "10.0.0.53:53", "10.0.0.1:40000"), outside, PASS),
        (false, packet(UDP, 0, "10.0.0.54:53", "10.0.0.1:40000"), outside, DROP),
        (true, packet(TCP, SYN, "127.0.0.1:40000", API), LOOPBACK, PASS),
    ];
    for (outwards, packet, interface, expected) in cases {
        assert_eq!(run(&platform, outwards, &packet.frame(), interface), expected, "{outwards} {packet:?}");
    }
    // A header alone, half a TCP header. The kernel's test run itself refuses what is shorter.
    for length in [20, 33] {
        let mut frame = data.frame();
        frame.truncate(14 + length);
        assert_eq!(run(&platform, true, &frame, outside), DROP, "{length} bytes of IP");
    }
    // Neither IPv4 nor IPv6, and IPv4 that says it is IPv6.
    let mut frame = data.frame();
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(run(&platform, true, &frame, outside), DROP);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(run(&platform, true, &frame, outside), DROP);
}

#[test]
fn a_burst_passes_and_then_the_rate_holds() {
    let Some(mut platform) = platform() else { return };
    let slow = Policy {
        egress_bytes_per_s: 1024,
        ingress_bytes_per_s: 1024,
        burst: std::time::Duration::from_secs(1),
        ..host(&[], &[])
    };
    platform.enforcement().set_policy(1, &slow).unwrap();
    let data = packet(TCP, ACK, "10.0.0.1:40000", "10.0.0.9:443");
    let bytes = data.bytes().len() as u64;
    for outwards in [true, false] {
        let verdicts: Vec<u32> =
            (0..100).map(|_| run(&platform, outwards, &data.frame(), LOOPBACK)).collect();
        let passed = verdicts.iter().filter(|verdict| **verdict == PASS).count() as u64;
        // One second of rate, one packet on top; and what time has passed.
        assert!((1024 / bytes..=1024 / bytes + 3).contains(&passed), "{passed} of {bytes} bytes each");
        let refused = if outwards { DROP_AS_CONGESTION } else { DROP };
        assert_eq!(verdicts.last(), Some(&refused));
    }
    let usage = platform.enforcement().counters().unwrap().read(INDEX);
    assert_eq!(usage.packets_out + usage.dropped_out, 100);
    assert_eq!(usage.packets_in + usage.dropped_in, 100);
    assert_eq!((usage.bytes_out, usage.bytes_in), (usage.packets_out * bytes, usage.packets_in * bytes));
}

fn ends(ipv4: bool) -> impl Strategy<Value = SocketAddr> {
    let addresses: &[&str] = if ipv4 {
        &["10.0.0.2", "10.0.0.3", "10.0.1.2", "10.128.0.1", "127.0.0.1", "192.168.1.1"]
    } else {
        &["::1", "fd00::1", "fd00::2", "fd00:1::1", "2001:db8::1"]
    };
    let port = prop_oneof![Just(1_u16), Just(80), Just(81), Just(443), Just(9001), Just(65535)];
    (prop::sample::select(addresses), port).prop_map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port))
}

fn packets() -> impl Strategy<Value = Packet> {
    let protocol = prop_oneof![4 => Just(TCP), 4 => Just(UDP), 1 => any::<u8>().prop_filter("known", |p| ![0, 43, 60].contains(p))];
    let fragment = prop_oneof![8 => Just(0_u16), 1 => any::<u16>()];
    let cut = prop_oneof![6 => Just(0_usize), 1 => 0..54_usize];
    any::<bool>().prop_flat_map(move |ipv4| {
        (ends(ipv4), ends(ipv4), protocol.clone(), any::<u8>(), 0..6_usize, fragment.clone(), cut.clone())
            .prop_map(|(source, destination, protocol, flags, more_headers, fragment_offset, cut)| Packet {
                source,
                destination,
                protocol,
                flags,
                more_headers,
                fragment_offset,
                cut,
            })
    })
}

fn rules() -> impl Strategy<Value = Vec<Endpoints>> {
    let transport = prop_oneof![Just(None), Just(Some(Transport::Tcp)), Just(Some(Transport::Udp))];
    let rule = any::<bool>().prop_flat_map(move |ipv4| {
        let bits = if ipv4 {
            prop::sample::select(&[0_u8, 8, 9, 16, 24, 31, 32][..])
        } else {
            prop::sample::select(&[0_u8, 7, 16, 64, 127, 128][..])
        };
        (transport.clone(), ends(ipv4), bits, 0..1000_u16).prop_map(|(transport, end, bits, more)| {
            Endpoints {
                transport,
                address: end.ip(),
                bits,
                ports: (end.port(), end.port().saturating_add(more)),
            }
        })
    });
    prop::collection::vec(rule, 0..12)
}

/// Sets the policy, runs the packets, compares.
fn agrees(
    platform: &mut Platform,
    policy: &Policy,
    packets: &[(bool, bool, Packet)],
    outside: u32,
    model: impl Fn(&Policy, bool, &Packet, u32) -> (bool, bool),
) -> Result<(), TestCaseError> {
    platform.enforcement().set_policy(1, policy).unwrap();
    let counters = platform.enforcement().counters().unwrap();
    for (outwards, local, packet) in packets {
        let interface = if *local { LOOPBACK } else { outside };
        let before: Usage = counters.read(INDEX);
        let passed = run(platform, *outwards, &packet.frame(), interface) == PASS;
        let after: Usage = counters.read(INDEX);
        let counted = after.packets_out + after.packets_in - before.packets_out - before.packets_in;
        let bytes = after.bytes_out + after.bytes_in - before.bytes_out - before.bytes_in;
        let (may, counts) = model(policy, *outwards, packet, interface);
        prop_assert_eq!(passed, may, "outwards {}, interface {}", outwards, interface);
        prop_assert_eq!(counted == 1, counts);
        prop_assert_eq!(bytes, if counts { packet.bytes().len() as u64 } else { 0 });
        prop_assert_eq!(after.denied - before.denied, u64::from(!may));
    }
    Ok(())
}

fn cases() -> impl Strategy<Value = (Policy, Vec<(bool, bool, Packet)>)> {
    let policy = (rules(), rules()).prop_map(|(connect, listen)| Policy {
        network: Network::Host { connect, listen },
        ..Policy::default()
    });
    (policy, prop::collection::vec((any::<bool>(), any::<bool>(), packets()), 60))
}

#[test]
fn every_verdict_is_that_of_the_model() {
    let Some(mut platform) = platform() else { return };
    let (_peer, outside) = other_interface();
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let platform = std::cell::RefCell::new(&mut platform);
    let checked = runner.run(&cases(), |(policy, packets)| {
        agrees(&mut platform.borrow_mut(), &policy, &packets, outside, verdict)
    });
    checked.unwrap();
}

#[test]
fn canary_a_model_that_forgets_this_host_is_seen() {
    let Some(mut platform) = platform() else { return };
    let (_peer, outside) = other_interface();
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let platform = std::cell::RefCell::new(&mut platform);
    let wrong =
        |policy: &Policy, outwards: bool, packet: &Packet, _: u32| verdict(policy, outwards, packet, 7);
    let checked = runner.run(&cases(), |(policy, packets)| {
        agrees(&mut platform.borrow_mut(), &policy, &packets, outside, wrong)
    });
    assert!(checked.is_err(), "nothing tells the two apart");
}

#[test]
fn a_policy_as_large_as_can_be_fits_and_a_larger_one_is_refused() {
    let Some(mut platform) = platform() else { return };
    let (_peer, outside) = other_interface();
    let every = |count: u16| -> Vec<Endpoints> {
        let rule = |at: u16| Endpoints {
            transport: None,
            address: IpAddr::from([10, 0, (at / 2) as u8, 0]),
            bits: if at.is_multiple_of(2) { 24 } else { 8 },
            ports: (2 * at + 1, 2 * at + 1),
        };
        (0..count).map(rule).collect()
    };
    let device =
        |at: u32| Device { is_block: at.is_multiple_of(2), major: at, minor: at, read: true, write: true };
    let policy = |count: u16, devices: u32| Policy {
        network: Network::Host { connect: every(count), listen: every(count) },
        devices: (0..devices).map(device).collect(),
        ..Policy::default()
    };
    let largest = policy(bpf::policy::GRANTS_MAX as u16, bpf::policy::DEVICES_MAX as u32);
    let enforcement: &mut Enforcement = platform.enforcement();
    // All functions at once, each twice: nothing is left of what was replaced.
    for round in 0..6 {
        for function in 0..crate::harness::FUNCTIONS_MAX {
            enforcement
                .set_policy(function, &largest)
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        std::thread::sleep(std::time::Duration::from_millis(11));
    }
    // The last one of all covers the same address as the first ones.
    let last = packet(UDP, 0, "10.0.0.9:127", "10.0.0.1:127");
    assert_eq!(run(&platform, false, &last.frame(), outside), PASS);
    let too_many = platform.enforcement().set_policy(1, &policy(65, 0)).unwrap_err();
    let expected = PolicyError::TooMany { what: "grants to connect", count: 65, max: 64 };
    assert_eq!(too_many, bpf::BpfError::Policy(expected));
}
