//! A function with a network: in the host's, under BPF, and what it reaches there.

use crate::host::*;
use sandbox::protocol::*;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// The host, its core, and whether network can be granted here.
fn host(test: &str) -> Option<(Host, Core)> {
    if !has_root(test) {
        return None;
    }
    let host = Host::start();
    let core = host.core();
    if !core.force.bpf {
        skip(test, "BPF is not in force");
        return None;
    }
    Some((host, core))
}

#[test]
fn a_granted_address_is_reached_and_another_is_denied_and_told() {
    let Some((_host, mut core)) = host("a_granted_address_is_reached") else { return };
    let bundle = bundle();
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (granted, other) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let allow = vec![format!("tcp:127.0.0.1:{}", port(&granted))];
    let network = Some(Network { allow, ..Network::default() });
    let made = core.make(Spec { network, ..probes(bundle.path()) });
    let ran = |core: &mut Core, port: u16| {
        let run = 7;
        let environment = vec![("PROBE".into(), "reach".into()), ("PORT".into(), port.to_string())];
        core.say(&ToJailer::Run { sandbox: made.id, run, environment });
        // All three stay open: a command without anybody who reads its stdout ends early.
        let (mut denied, mut pipes) = (Vec::new(), Vec::new());
        loop {
            match core.hear() {
                (FromJailer::Started { .. }, three) => pipes = three,
                (FromJailer::Denied { attempt, .. }, _) => denied.push(attempt),
                (FromJailer::Ended { .. }, _) => return (read_all(pipes.pop().unwrap()), denied),
                other => panic!("{other:?}"),
            }
        }
    };
    let (stderr, denied) = ran(&mut core, port(&granted));
    assert!(stderr.contains("reach: Ok\n") && denied.is_empty(), "{stderr} {denied:?}");
    let (stderr, denied) = ran(&mut core, port(&other));
    assert!(stderr.contains("reach: EPERM\n"), "{stderr}");
    assert!(denied.contains(&format!("connect tcp 127.0.0.1:{}", port(&other))), "{denied:?}");
}

#[test]
fn its_runtime_api_is_its_own_and_so_are_abstract_sockets() {
    let Some((_host, mut core)) = host("its_runtime_api_is_its_own") else { return };
    let bundle = bundle();
    let name = format!("millrace-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let network = Some(Network::default());
    let first = core.make(Spec { network: network.clone(), ..service(bundle.path(), "sleep 1000") });
    let address = first.api.unwrap();
    assert_ne!(address.port(), 9001, "in the host's network each has a port of its own");
    // Another function tries the first one's.
    let variables = [("PROBE", "granted"), ("NAME", &name), ("PORT", &address.port().to_string())];
    let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let function = "other".into();
    let second =
        core.make(Spec { function, abi: Abi::RuntimeApi, network, environment, ..probes(bundle.path()) });
    let mut descriptors = second.descriptors.into_iter();
    let listener = TcpListener::from(descriptors.next().unwrap());
    wait("the function", || listener.accept().ok());
    let stderr = read_all(descriptors.nth(1).unwrap());
    assert!(stderr.contains("own: Ok\n"), "{stderr}");
    assert!(stderr.contains("reach: EPERM\n"), "another one's Runtime API: {stderr}");
    let unix = stderr.lines().find(|line| line.starts_with("abstract: ")).unwrap();
    assert!(["abstract: EPERM", "abstract: EAFNOSUPPORT"].contains(&unix), "{unix}");
}
