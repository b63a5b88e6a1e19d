//! Who may speak with whom, and how fast: processes in a sandbox, a peer in another network namespace.

use crate::harness::{EPERM, Inside, Peer, Platform, host, programs_on_packets, until, with_peer};
use bpf::{BpfError, Counters, Event, Operation, Policy, Strangers, Usage};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Echoes on these TCP ports and swallows on these UDP ports, at any address of its side.
fn serve(ports: &'static [u16]) {
    for port in ports {
        let listener = TcpListener::bind(("::", *port)).expect("it is free");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                std::thread::spawn(move || {
                    let mut bytes = [0; 65536];
                    while let Ok(count @ 1..) = stream.read(&mut bytes) {
                        if stream.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let datagrams = UdpSocket::bind(("::", *port)).expect("it is free");
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok((count, from)) = datagrams.recv_from(&mut bytes) {
                let _ = datagrams.send_to(&bytes[..count], from);
            }
        });
    }
}

fn peer() -> Peer {
    let peer = with_peer();
    peer.run(|| serve(&[7001, 7002, 53]));
    serve(&[7101, 7102]);
    peer
}

/// All denied attempts so far.
fn denied(platform: &mut Platform) -> Vec<String> {
    let mut all = Vec::new();
    let keep = |event: Event| {
        if let Event::Denied { index, .. } = event {
            all.push(format!("{index} {event}"));
        }
    };
    platform.enforcement().drain(keep).expect("it can be read");
    all
}

const RULES: &[&str] = &[
    "tcp 10.9.0.2/32 7001",
    "udp 10.9.0.0/24 50-60",
    "tcp fd09::/64 7002",
    "any 10.9.1.0/24 1-65535",
    "tcp 127.0.0.1/32 7101",
    "tcp ::1/128 7101",
];

#[test]
fn only_what_is_granted_is_reached() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    platform.enforcement().set_policy(1, &host(RULES, &[])).unwrap();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let cases = [
        ("tcp 10.9.0.2:7001", "ok"),
        ("tcp 10.9.0.2:7002", EPERM),
        ("tcp [fd09::2]:7002", "ok"),
        ("tcp [fd09::2]:7001", EPERM),
        // The same destinations in IPv6 clothes.
        ("tcp [::ffff:10.9.0.2]:7001", "ok"),
        ("tcp [::ffff:10.9.0.2]:7002", EPERM),
        ("tcp 10.9.1.2:7002", "ok"),
        ("udp 10.9.0.2:53 10", "ok"),
        ("udp 10.9.0.2:7001 10", EPERM),
        // Nobody answers there, from another address of the peer's.
        ("udp 10.9.1.2:7003 10", "ok"),
        ("udp [::ffff:10.9.0.2]:7001 10", EPERM),
        ("udp [fd09::2]:53 10", EPERM),
        ("udp-connect 10.9.0.2:53", "ok"),
        ("udp-connect 10.9.0.2:7002", EPERM),
        ("udp-connect [fd09::2]:7002", EPERM),
        // This host: by its loopback addresses, and by what else means it.
        ("tcp 127.0.0.1:7101", "ok"),
        ("tcp 127.0.0.1:7102", EPERM),
        ("tcp 127.0.0.2:7101", EPERM),
        ("tcp 0.0.0.0:7101", "ok"),
        ("tcp 0.0.0.0:7102", EPERM),
        ("tcp [::1]:7101", "ok"),
        ("tcp [::1]:7102", EPERM),
        ("tcp [::]:7102", EPERM),
        ("tcp [::ffff:127.0.0.1]:7102", EPERM),
        // Nothing but TCP and UDP.
        ("socket raw", EPERM),
        ("socket raw6", EPERM),
        ("socket ping", EPERM),
        ("socket tcp", "ok"),
        ("socket udp6", "ok"),
        // Any free port, no chosen one.
        ("listen 0.0.0.0:8080", EPERM),
        ("listen [::]:8080", EPERM),
        ("udp-bind 127.0.0.1:8080", EPERM),
    ];
    for (what, outcome) in cases {
        assert_eq!(inside.does(what), outcome, "{what}");
    }
    let refused = cases.iter().filter(|(_, outcome)| *outcome == EPERM).count() as u64;
    let usage = platform.enforcement().counters().unwrap().read(1);
    assert_eq!(usage.denied, refused, "{usage:?}");
}

/// What nobody guards: whatever is granted, no socket is to be had, so that nothing has to look at packets.
#[test]
fn a_sandbox_that_is_not_guarded_has_no_network_but_its_own() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    platform.enforcement().set_policy(1, &host(RULES, &["tcp 0.0.0.0/0 8080"])).unwrap();
    let group = platform.unguarded(1, 1);
    assert_eq!(programs_on_packets(&group), [0, 0]);
    let mut inside = Inside::start(&[&group]);
    for what in
        ["socket tcp", "socket udp6", "tcp 10.9.0.2:7001", "listen 0.0.0.0:8080", "udp-bind 0.0.0.0:0"]
    {
        assert_eq!(inside.does(what), EPERM, "{what}");
    }
    platform.enforcement().set_policy(1, &Policy::default()).unwrap();
    assert_eq!(inside.does("tcp 127.0.0.1:7101"), "ok", "a network of its own, as far as anybody knows");
    // A socket from before does not help: connections are refused as well.
    assert_eq!(inside.does("udp-connect 10.9.0.2:53"), "ok");
    platform.enforcement().set_policy(1, &host(RULES, &[])).unwrap();
    assert_eq!(inside.does("udp-connect 10.9.0.2:53"), EPERM);
    let group = platform.sandbox(2, 1, None);
    assert_eq!(programs_on_packets(&group), [1, 1]);
    assert_eq!(
        Inside::start(&[&group]).does("tcp 10.9.0.2:7001"),
        "ok",
        "a canary: guarded it is let through"
    );
}

#[test]
fn denied_attempts_are_told_and_a_flood_of_them_is_only_counted() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    platform.enforcement().set_policy(3, &host(RULES, &[])).unwrap();
    let group = platform.sandbox(7, 3, None);
    let mut inside = Inside::start(&[&group]);
    let what = ["tcp 10.9.0.2:7002", "udp [fd09::2]:53 10", "listen 127.0.0.1:8080", "socket raw"];
    what.iter().for_each(|what| assert_eq!(inside.does(what), EPERM));
    let told = denied(&mut platform);
    let expected = [
        "connect tcp 10.9.0.2:7002",
        "send udp [fd09::2]:53",
        "bind tcp 127.0.0.1:8080",
        "socket protocol 1",
    ];
    assert_eq!(told, expected.map(|event| format!("7 {event}")));
    let answer = inside.does("hammer 10.9.0.2:7002 300");
    let attempts: u64 = answer.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(answer.ends_with(" 0"), "{answer}");
    let (told, usage) =
        (denied(&mut platform).len() as u64, platform.enforcement().counters().unwrap().read(7));
    assert_eq!(usage.denied, attempts + 4);
    assert_eq!(usage.untold, attempts - told, "each is told or counted as not told");
    assert!(told <= 20 && attempts > 50, "{told} of {attempts} were told");
}

#[test]
fn a_wide_grant_does_not_open_this_host() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let wide = ["any 0.0.0.0/0 1-65535", "any ::/0 1-65535"];
    platform.enforcement().set_policy(1, &host(&wide, &[])).unwrap();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    for what in ["tcp 10.9.0.2:7002", "tcp [fd09::2]:7001", "udp 10.9.1.2:7003 5"] {
        assert_eq!(inside.does(what), "ok", "{what}");
    }
    for what in ["tcp 127.0.0.1:7101", "tcp [::1]:7101", "tcp 0.0.0.0:7101", "udp 127.0.0.1:7101 5"] {
        assert_eq!(inside.does(what), EPERM, "{what}");
    }
    // Its other addresses are only known when the packet is on its way.
    for what in ["tcp 10.9.0.1:7101", "tcp [fd09::1]:7101", "tcp [::ffff:10.9.0.1]:7101"] {
        assert_eq!(inside.does(what), "errno 0", "{what} times out");
    }
    assert_eq!(inside.does("udp 10.9.0.1:7101 5"), EPERM);
    let told = denied(&mut platform);
    assert!(told.contains(&"1 connect tcp [fd09::1]:7101".to_string()), "{told:?}");
    // Unless it is named.
    platform.enforcement().set_policy(1, &host(&["tcp 10.9.0.1/32 7101"], &[])).unwrap();
    assert_eq!(inside.does("tcp 10.9.0.1:7101"), "ok");
}

#[test]
fn a_policy_changes_while_its_sandboxes_run() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    assert_eq!(inside.does("tcp 10.9.0.2:7001"), EPERM, "before any policy");
    for _ in 0..20 {
        platform.enforcement().set_policy(1, &host(&["tcp 10.9.0.2/32 7001"], &[])).unwrap();
        assert_eq!(inside.does("tcp 10.9.0.2:7001"), "ok");
        assert_eq!(inside.does("tcp 10.9.0.2:7002"), EPERM);
        platform.enforcement().set_policy(1, &host(&["tcp 10.9.0.2/32 7002"], &[])).unwrap();
        assert_eq!(inside.does("tcp 10.9.0.2:7001"), EPERM);
        assert_eq!(inside.does("tcp 10.9.0.2:7002"), "ok");
    }
    assert_eq!(inside.does("say 10"), "ok", "what is open stays open");
    platform.enforcement().remove_policy(1).unwrap();
    assert_eq!(inside.does("tcp 10.9.0.2:7002"), EPERM);
    platform.enforcement().set_policy(2, &host(&["tcp 10.9.0.2/32 7002"], &[])).unwrap();
    let cgroup_id = bpf::cgroup_id(&group).unwrap();
    let moved = bpf::Sandbox { cgroup_id, index: 1, function: 2, runtime_api: None };
    platform.enforcement().admit(&moved).unwrap();
    assert_eq!(inside.does("tcp 10.9.0.2:7002"), "ok", "another function");
    platform.enforcement().dismiss(1).unwrap();
    assert_eq!(inside.does("tcp 10.9.0.2:7002"), EPERM, "a stranger");
    assert_eq!(platform.enforcement().admitted().unwrap(), []);
    let too_slow = Policy { egress_bytes_per_s: 1, ..Policy::default() };
    assert!(matches!(platform.enforcement().set_policy(1, &too_slow), Err(BpfError::Policy(_))));
}

#[test]
fn strangers_are_denied_or_untouched_and_the_platform_is_itself() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let stranger = platform.group_below("stranger");
    let mut inside = Inside::start(&[&stranger]);
    for what in [
        "tcp 10.9.0.2:7001",
        "tcp 127.0.0.1:7101",
        "udp 10.9.0.2:53 5",
        "listen 127.0.0.1:8080",
        "socket raw",
    ] {
        assert_eq!(inside.does(what), EPERM, "{what}");
    }
    let mut platforms_own = Inside::start(&[&platform.group.0]);
    assert_eq!(platforms_own.does("tcp 10.9.0.2:7001"), "ok");
    assert_eq!(platforms_own.does("socket raw"), "ok");
    let Some(mut tolerant) = Platform::with(Strangers::Untouched, false) else { return };
    let stranger = tolerant.group_below("stranger");
    let mut inside = Inside::start(&[&stranger]);
    assert_eq!(inside.does("tcp 10.9.0.2:7001"), "ok");
    assert_eq!(inside.does("listen 127.0.0.1:8080"), "ok 8080");
}

#[test]
fn a_network_of_its_own_is_left_alone_but_for_raw_sockets() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    platform.enforcement().set_policy(1, &Policy::default()).unwrap();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    assert_eq!(inside.does("tcp 127.0.0.1:7101"), "ok");
    assert_eq!(inside.does("listen 127.0.0.1:8080"), "ok 8080");
    assert_eq!(inside.does("socket raw"), EPERM);
    let usage = platform.enforcement().counters().unwrap().read(1);
    assert_eq!((usage.bytes_out, usage.bytes_in, usage.denied), (0, 0, 1));
}

#[test]
fn its_runtime_api_is_reached_and_not_counted() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let slow = Policy { egress_bytes_per_s: 1024, ingress_bytes_per_s: 1024, ..host(&[], &[]) };
    platform.enforcement().set_policy(1, &slow).unwrap();
    let group = platform.sandbox(1, 1, Some("127.0.0.1:7101".parse().unwrap()));
    let mut inside = Inside::start(&[&group]);
    assert_eq!(inside.does("tcp 127.0.0.1:7102"), EPERM);
    assert_eq!(inside.does("udp 127.0.0.1:7101 5"), EPERM, "TCP only");
    assert_eq!(inside.does("tcp 127.0.0.1:7101"), "ok");
    let start = Instant::now();
    assert_eq!((inside.does("say 100000").as_str(), inside.does("hear 100000").as_str()), ("ok", "ok"));
    assert!(start.elapsed() < Duration::from_secs(20), "at 1 KiB/s it would take minutes");
    let usage = platform.enforcement().counters().unwrap().read(1);
    assert_eq!((usage.bytes_out, usage.bytes_in, usage.denied), (0, 0, 2), "{usage:?}");
    let group = platform.sandbox(2, 1, Some("[::1]:7101".parse().unwrap()));
    let mut inside = Inside::start(&[&group]);
    assert_eq!(inside.does("tcp [::1]:7101"), "ok");
    assert_eq!(inside.does("tcp 127.0.0.1:7101"), EPERM, "the address counts too");
}

#[test]
fn nobody_comes_in_where_nothing_is_granted_to_listen() {
    let Some(mut platform) = Platform::start() else { return };
    let peer = peer();
    let policy = host(&["udp 10.9.0.2/32 53"], &["tcp 0.0.0.0/0 8080", "udp 10.9.0.1/32 8081"]);
    platform.enforcement().set_policy(1, &policy).unwrap();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let reached = |port: u16| {
        let at = SocketAddr::from(([10, 9, 0, 1], port));
        peer.run(move || TcpStream::connect_timeout(&at, Duration::from_millis(400)).is_ok())
    };
    assert_eq!(inside.does("listen 0.0.0.0:8080"), "ok 8080");
    assert!(reached(8080), "it is granted");
    // A free port that the kernel chose.
    let answer = inside.does("listen 0.0.0.0:0");
    let port: u16 = answer.trim_start_matches("ok ").parse().expect("a port");
    assert!(!reached(port));
    let told = denied(&mut platform);
    assert!(told.contains(&format!("1 accept tcp 10.9.0.1:{port}")), "{told:?}");
    let send = |from: u16, to: u16| {
        peer.run(move || {
            let socket = UdpSocket::bind(("10.9.0.2", from)).expect("it is free");
            socket.send_to(&[7; 20], ("10.9.0.1", to)).expect("it is sent");
        });
    };
    assert_eq!(inside.does("udp-bind 10.9.0.1:8081"), "ok");
    send(9999, 8081);
    assert_eq!(inside.does("udp-hear"), "ok 20", "a port that is granted");
    // An answer from where it may send, and from where it may not.
    assert_eq!(inside.does("udp-bind 0.0.0.0:0"), "ok");
    assert_eq!(inside.does("udp 10.9.0.2:53 33"), "ok");
    assert_eq!(inside.does("udp-hear"), "ok 33");
}

fn counters(platform: &mut Platform) -> Counters {
    platform.enforcement().counters().expect("they can be mapped")
}

#[test]
fn bytes_and_packets_are_those_that_were_sent() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    platform.enforcement().set_policy(1, &host(RULES, &[])).unwrap();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let counters = counters(&mut platform);
    for _ in 0..50 {
        assert_eq!(inside.does("udp 10.9.0.2:53 100"), "ok");
    }
    // 20 bytes of IPv4, 8 of UDP; each is echoed.
    let usage = until(|| counters.read(1), |usage| usage.packets_in == 50);
    assert_eq!((usage.packets_out, usage.bytes_out, usage.bytes_in), (50, 50 * 128, 50 * 128), "{usage:?}");
    assert_eq!(inside.does("tcp 10.9.0.2:7001"), "ok");
    assert_eq!((inside.does("say 1000000").as_str(), inside.does("hear 1000000").as_str()), ("ok", "ok"));
    let after = counters.read(1);
    for bytes in [after.bytes_out - usage.bytes_out, after.bytes_in - usage.bytes_in] {
        assert!((1_000_000..1_200_000).contains(&bytes), "{bytes} for 1,000,000 and headers");
    }
    assert_eq!((after.dropped_out, after.dropped_in, after.denied), (0, 0, 0));
}

/// What 20 KiB/s with a burst of a tenth of a second lets through in this time at most, and at least half of that.
fn holds(bytes: u64, packet: u64, time: Duration) {
    let most = (20_480.0 * (time.as_secs_f64() + 0.1)) as u64 + packet;
    assert!((most / 2..=most).contains(&bytes), "{bytes} bytes in {time:?}, at most {most}");
}

#[test]
fn a_rate_holds_in_both_directions_and_changes_at_run_time() {
    let Some(mut platform) = Platform::start() else { return };
    let peer = peer();
    let grants = host(RULES, &["udp 0.0.0.0/0 8081"]);
    let slow = Policy { egress_bytes_per_s: 20_480, ingress_bytes_per_s: 20_480, ..grants.clone() };
    platform.enforcement().set_policy(1, &slow).unwrap();
    let group = platform.sandbox(1, 1, None);
    let mut inside = Inside::start(&[&group]);
    let counters = counters(&mut platform);
    let (start, before) = (Instant::now(), counters.read(1));
    let sent = inside.does("blast 10.9.0.2:50 1500");
    let (time, usage) = (start.elapsed(), counters.read(1));
    holds(usage.bytes_out - before.bytes_out, 1028, time);
    let sent: u64 = sent.trim_start_matches("ok ").parse().expect("a count");
    assert_eq!(usage.packets_out + usage.dropped_out, sent / 1000, "each is sent or counted as dropped");
    assert!(usage.dropped_out > 100, "{usage:?}");
    // In: the peer sends much more than is allowed.
    assert_eq!(inside.does("udp-bind 0.0.0.0:8081"), "ok");
    let (start, before) = (Instant::now(), counters.read(1));
    peer.run(|| {
        let socket = UdpSocket::bind("10.9.0.2:0").expect("it is free");
        for _ in 0..1500 {
            socket.send_to(&[7; 1000], "10.9.0.1:8081").expect("it is sent");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let (time, usage) = (start.elapsed(), counters.read(1));
    holds(usage.bytes_in - before.bytes_in, 1028, time);
    assert!(usage.dropped_in > 100, "{usage:?}");
    // Without a limit, at once.
    platform.enforcement().set_policy(1, &grants).unwrap();
    let before: Usage = counters.read(1);
    let sent = inside.does("blast 10.9.0.2:50 100");
    let usage = counters.read(1);
    assert_eq!(usage.dropped_out, before.dropped_out);
    assert_eq!(format!("ok {}", (usage.packets_out - before.packets_out) * 1000), sent);
}

#[test]
fn two_sandboxes_of_a_function_share_rules_and_not_rates() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let slow = Policy { egress_bytes_per_s: 20_480, ..host(RULES, &[]) };
    platform.enforcement().set_policy(1, &slow).unwrap();
    let (first, second) = (platform.sandbox(1, 1, None), platform.sandbox(2, 1, None));
    let (mut first, mut second) = (Inside::start(&[&first]), Inside::start(&[&second]));
    let start = Instant::now();
    first.begins("blast 10.9.0.2:50 1000");
    second.begins("blast 10.9.0.2:50 1000");
    first.answers();
    second.answers();
    let (time, counters) = (start.elapsed(), counters(&mut platform));
    holds(counters.read(1).bytes_out, 1028, time);
    holds(counters.read(2).bytes_out, 1028, time);
    assert_eq!(counters.read(3), Usage::default());
}

#[test]
fn an_attempt_names_its_process() {
    let Some(mut platform) = Platform::start() else { return };
    let _peer = peer();
    let group = platform.sandbox(4, 1, None);
    let mut inside = Inside::start(&[&group]);
    assert_eq!(inside.does("tcp 10.9.0.2:7001"), EPERM);
    let mut all = Vec::new();
    platform.enforcement().drain(|event| all.push(event)).unwrap();
    let address = Some("10.9.0.2:7001".parse().unwrap());
    let expected =
        Event::Denied { index: 4, pid: inside.pid(), operation: Operation::Connect, protocol: 6, address };
    assert_eq!(all, [expected]);
}
