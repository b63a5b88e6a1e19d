//! Addresses, ports and sockets that a function should not reach.

use crate::outside::{self, As};
use crate::stage::{Stage, Told, can_run, stage};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

/// Listeners of the host: those with a grant, and those without.
pub struct Host {
    granted: TcpListener,
    granted_v6: TcpListener,
    granted_udp: UdpSocket,
    other: TcpListener,
    other_v6: TcpListener,
    other_udp: UdpSocket,
    /// On all addresses.
    wide: TcpListener,
}

impl Host {
    pub fn listen() -> Host {
        let tcp = |address: &str| {
            let listener = TcpListener::bind(address).expect("a port");
            listener.set_nonblocking(true).expect("a socket");
            listener
        };
        let udp = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.set_nonblocking(true).expect("a socket");
            socket
        };
        Host {
            granted: tcp("127.0.0.1:0"),
            granted_v6: tcp("[::1]:0"),
            granted_udp: udp(),
            other: tcp("127.0.0.1:0"),
            other_v6: tcp("[::1]:0"),
            other_udp: udp(),
            wide: tcp("0.0.0.0:0"),
        }
    }

    /// The table of the manifest.
    pub fn grants(&self) -> String {
        format!(
            "[network]\nallow = [\"tcp:127.0.0.1:{}\", \"tcp:[::1]:{}\", \"udp:127.0.0.1:{}\"]\n",
            port(&self.granted),
            port(&self.granted_v6),
            self.granted_udp.local_addr().expect("an address").port()
        )
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("an address").port()
}

/// Nobody came.
#[track_caller]
fn is_lonely(listener: &TcpListener) {
    assert!(listener.accept().is_err(), "somebody connected to {listener:?}");
}

/// An address of this host beside loopback.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only asks for a route.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

/// The ports of the node: admin API, native protocol.
fn ports(stage: &Stage) -> [u16; 2] {
    let up = stage.site.up_json();
    ["admin", "tcp"].map(|name| {
        let address = up[name].as_str().expect("an address");
        address.rsplit(':').next().expect("a port").parse().expect("a number")
    })
}

/// The platform told that this was denied.
#[track_caller]
fn denied(stage: &Stage, function: &str, told: &Told, words: &[&str]) {
    for word in words {
        assert!(
            told.stderr.contains(&format!("millrace: denied: {word}")),
            "`{word}` was not told: {told:?}"
        );
    }
    let log = stage.log(function, told.call);
    for word in words {
        assert!(log.contains(word), "`{word}` is not in the log: {log}");
    }
}

#[test]
fn a_function_without_grants_is_alone() {
    if !can_run("a_function_without_grants_is_alone") {
        return;
    }
    let stage = stage();
    let [admin, native] = ports(&stage);
    let other = port(&stage.host.other);
    let own = own_address().map_or("10.0.0.1".to_owned(), |address| address.to_string());
    let targets = format!(
        "127.0.0.1 {admin} 127.0.0.1 {native} 127.0.0.1 {other} ::1 {} ::ffff:127.0.0.1 {other} 0.0.0.0 {admin} {own} {} \
         1.1.1.1 80 2606:4700:4700::1111 80 169.254.169.254 80 255.255.255.255 80",
        port(&stage.host.other_v6),
        port(&stage.host.wide),
    );
    for function in ["attacker", "strict"] {
        stage.attack(function, &format!("tcp {targets}")).is_refused();
        stage.attack(function, &format!("sneak 127.0.0.1 {other}")).is_refused();
        stage.attack(function, "udp 1.1.1.1 53 x 2606:4700:4700::1111 53 x").is_refused();
        stage.attack(function, "dns 1.1.1.1 53").is_refused();
        stage.attack(function, "dns 127.0.0.53 53").is_refused();
    }
    for listener in [&stage.host.other, &stage.host.other_v6, &stage.host.wide] {
        is_lonely(listener);
    }
    let far = stage.host.other_udp.local_addr().expect("an address").port();
    stage.attack("attacker", &format!("udp 127.0.0.1 {far} stray"));
    assert!(stage.host.other_udp.recv(&mut [0; 64]).is_err(), "a datagram came through");
    // The canary reaches all three.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    outside::succeeds(&format!("tcp 127.0.0.1 {} 127.0.0.1 {admin}", port(&listener)), As::Nobody);
}

#[test]
fn a_function_with_grants_reaches_those_and_is_denied_and_told_of_all_else() {
    if !can_run("a_function_with_grants_reaches_those") {
        return;
    }
    let stage = stage();
    let host = &stage.host;
    let (granted, granted_v6, other, other_v6) =
        (port(&host.granted), port(&host.granted_v6), port(&host.other), port(&host.other_v6));
    let udp = host.granted_udp.local_addr().expect("an address").port();
    let other_udp = host.other_udp.local_addr().expect("an address").port();
    let told = stage
        .attack("granted", &format!("tcp 127.0.0.1 {granted} ::1 {granted_v6} ::ffff:127.0.0.1 {granted}"));
    assert_eq!(told.says(&["tcp: ok"]).output.matches("tcp: ok").count(), 3, "{told:?}");
    assert!(host.granted.accept().is_ok() && host.granted_v6.accept().is_ok());
    stage.attack("granted", &format!("udp 127.0.0.1 {udp} hello")).says(&[
        "udp: ok",
        "udp connected: ok",
        "udp many: ok",
    ]);
    assert!(host.granted_udp.recv(&mut [0; 64]).is_ok());

    let [admin, native] = ports(&stage);
    for (target, address) in [
        (format!("127.0.0.1 {other}"), format!("connect tcp 127.0.0.1:{other}")),
        (format!("127.0.0.1 {admin}"), format!("connect tcp 127.0.0.1:{admin}")),
        (format!("127.0.0.1 {native}"), format!("connect tcp 127.0.0.1:{native}")),
        (format!("::1 {other_v6}"), format!("connect tcp [::1]:{other_v6}")),
        (format!("::ffff:127.0.0.1 {other}"), format!("connect tcp 127.0.0.1:{other}")),
        ("1.1.1.1 443".into(), "connect tcp 1.1.1.1:443".into()),
        ("2606:4700:4700::1111 443".into(), "connect tcp [2606:4700:4700::1111]:443".into()),
        // Granted over TCP only on that port, and the other way round.
        (format!("127.0.0.1 {udp}"), format!("connect tcp 127.0.0.1:{udp}")),
    ] {
        let told = stage.attack("granted", &format!("tcp {target}"));
        told.is_refused().says(&["tcp: EPERM"]);
        denied(&stage, "granted", &told, &[&address]);
    }
    stage.rest();
    let told = stage.attack("granted", &format!("sneak 127.0.0.1 {other}"));
    told.is_refused();
    assert!(told.stderr.contains(&format!("connect tcp 127.0.0.1:{other}")), "{told:?}");
    stage.rest();
    let told = stage.attack("granted", &format!("udp 127.0.0.1 {other_udp} stray 127.0.0.1 {granted} x"));
    told.is_refused();
    assert!(told.stderr.contains(&format!("udp 127.0.0.1:{other_udp}")), "{told:?}");
    for server in ["1.1.1.1 53", "127.0.0.53 53"] {
        let told = stage.attack("resolver", &format!("dns {server}"));
        told.says(&["dns: EPERM"]);
        denied(&stage, "resolver", &told, &[&format!("send udp {}", server.replace(' ', ":"))]);
    }
    // Each of them is in the sums, those among them that were too many to be told one by one.
    let usage = stage.site.json(&["usage"]);
    let count = |function: &str| {
        let rows = usage["rows"].as_array().expect("rows");
        let of = rows.iter().find(|row| row["function"] == format!("default/{function}"));
        of.map(|row| row["denied"].as_u64().expect("a count"))
            .unwrap_or_else(|| panic!("{function}: {usage}"))
    };
    assert!(count("granted") >= 10 && count("resolver") >= 2, "{usage}");
    for listener in [&host.other, &host.other_v6, &host.wide] {
        is_lonely(listener);
    }
    assert!(host.other_udp.recv(&mut [0; 64]).is_err(), "a datagram came through");
}

#[test]
fn a_grant_of_everything_does_not_open_the_host_itself() {
    if !can_run("a_grant_of_everything_does_not_open_the_host") {
        return;
    }
    let stage = stage();
    let [admin, native] = ports(&stage);
    for port in [admin, native, port(&stage.host.other)] {
        stage.rest();
        let told = stage.attack(
            "wide",
            &format!("tcp 127.0.0.1 {port} ::ffff:127.0.0.1 {port} 0.0.0.0 {port} 127.9.9.9 {port}"),
        );
        told.is_refused();
        denied(&stage, "wide", &told, &[&format!("connect tcp 127.0.0.1:{port}")]);
        stage.attack("wide", &format!("sneak 127.0.0.1 {port}")).is_refused();
    }
    stage
        .attack("wide", &format!("tcp ::1 {} :: {}", port(&stage.host.other_v6), port(&stage.host.other_v6)))
        .is_refused();
    if let Some(own) = own_address() {
        let told = stage.attack("wide", &format!("tcp {own} {}", port(&stage.host.wide)));
        told.is_refused();
    }
    // Another function's Runtime API, in the same network.
    let mut client = stage.client();
    let others: Vec<u16> = stage.processes("granted").iter().filter_map(|pid| runtime_api(*pid)).collect();
    if others.is_empty() {
        stage.call(&mut client, "granted", "echo x");
    }
    let other =
        stage.processes("granted").iter().find_map(|pid| runtime_api(*pid)).expect("a port of its own");
    stage.rest();
    let told = stage.attack("wide", &format!("tcp 127.0.0.1 {other}"));
    told.is_refused();
    denied(&stage, "wide", &told, &[&format!("connect tcp 127.0.0.1:{other}")]);
    for listener in [&stage.host.other, &stage.host.other_v6, &stage.host.wide] {
        is_lonely(listener);
    }
    outside::succeeds(&format!("tcp 127.0.0.1 {other}"), As::Nobody);
}

/// The port at which a function's process finds its Runtime API.
fn runtime_api(pid: i32) -> Option<u16> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&environ).into_owned();
    text.split('\0').find_map(|line| line.strip_prefix("AWS_LAMBDA_RUNTIME_API=127.0.0.1:")?.parse().ok())
}

#[test]
fn nobody_serves_without_a_grant() {
    if !can_run("nobody_serves_without_a_grant") {
        return;
    }
    let stage = stage();
    for function in ["binder", "wide-binder"] {
        let told = stage.attack(function, "bind 0.0.0.0 8080 127.0.0.1 8081 :: 8082 ::ffff:127.0.0.1 8083");
        told.is_refused();
        denied(&stage, function, &told, &["bind tcp 0.0.0.0:8080", "bind udp 0.0.0.0:8080"]);
    }
    // Without having asked for a port the kernel gives one; nobody gets through to it.
    let before: Vec<u16> = listening();
    let told = stage.attack_while("binder", "listen 1500", || {
        for port in listening().into_iter().filter(|port| !before.contains(port)) {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            let _ = TcpStream::connect_timeout(&address, Duration::from_millis(50));
        }
    });
    assert!(told.output.contains("visitor: ETIMEDOUT") || told.output.contains("listen: E"), "{told:?}");
    outside::succeeds("bind 0.0.0.0 0 :: 0", As::Nobody);
}

/// Ports of the host at which somebody listens over IPv4.
fn listening() -> Vec<u16> {
    let text = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let of = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state) = (words.next()?, words.next()?, words.next()?);
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (state == "0A").then_some(port)
    };
    text.lines().skip(1).filter_map(of).collect()
}

#[test]
fn sockets_of_the_platform_and_of_the_host_are_out_of_reach() {
    if !can_run("sockets_of_the_platform_are_out_of_reach") {
        return;
    }
    let stage = stage();
    let name = format!("abstract-{}", stage.mark);
    let listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let paths = ["jailer.sock", "submit.sock", "core.shm"].map(|socket| stage.run_path(socket));
    let all = format!(
        "{} @{name} /run/dbus/system_bus_socket /var/run/docker.sock /run/systemd/private",
        paths.join(" ")
    );
    for function in ["attacker", "strict", "granted", "wide", "stdio"] {
        stage.attack(function, &format!("unix {all}")).is_refused();
    }
    assert!(listener.accept().is_err(), "somebody came by the abstract name");
    let outside = outside::run(&format!("unix {} {} @{name}", paths[0], paths[1]), As::Root);
    assert_eq!(outside.matches(": ok").count(), 3, "the canary: {outside}");
}
