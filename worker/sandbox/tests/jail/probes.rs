//! System calls that a function should not make: this test program, copied into a bundle, makes them inside.

use crate::host::*;
use sandbox::protocol::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Each of these ends the process.
const KILLED: &[(&str, i64)] = &[
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("bpf", libc::SYS_bpf),
    ("keyctl", libc::SYS_keyctl),
    ("add_key", libc::SYS_add_key),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("open_tree", libc::SYS_open_tree),
    ("fsopen", libc::SYS_fsopen),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("kexec_load", libc::SYS_kexec_load),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("reboot", libc::SYS_reboot),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("sethostname", libc::SYS_sethostname),
    ("clone", libc::SYS_clone),
];

/// Not a test: runs inside a sandbox, by the name in `PROBE`. Does nothing otherwise.
#[test]
fn probe() {
    let Ok(name) = std::env::var("PROBE") else { return };
    match name.as_str() {
        "network" => network(),
        "api" => api(),
        "reach" => reach(),
        "granted" => granted(),
        "memory" => memory(),
        "refusals" => refusals(),
        "killed" => killed(&std::env::var("CALL").unwrap()),
        "strict" => strict(),
        other => panic!("no probe {other}"),
    }
}

fn killed(name: &str) {
    let (_, number) = KILLED.iter().find(|(known, _)| *known == name).unwrap();
    // A new user namespace; for the others it is a senseless argument.
    let argument = libc::CLONE_NEWUSER;
    // SAFETY: the call does not return where the filter holds; where it does not, senseless arguments do no harm.
    unsafe { libc::syscall(*number, argument, 0, 0, 0, 0, 0) };
    eprintln!("it returned: {}", std::io::Error::last_os_error());
}

fn told(what: &str, done: std::io::Result<impl Sized>) {
    let text = match done {
        Ok(_) => "Ok".to_owned(),
        Err(error) => format!("{:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    };
    eprintln!("{what}: {text}");
}

fn network() {
    let interfaces = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let names: Vec<&str> =
        interfaces.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    eprintln!("interfaces: {}", names.join(" "));
    let reach = |address: &str| {
        TcpStream::connect_timeout(&address.parse::<SocketAddr>().unwrap(), Duration::from_secs(5))
    };
    told("host", reach(&format!("127.0.0.1:{}", std::env::var("PORT").unwrap())));
    told("outside", reach("1.1.1.1:80"));
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    told("own", reach(&own.local_addr().unwrap().to_string()));
}

fn reach() {
    let address = format!("127.0.0.1:{}", std::env::var("PORT").unwrap());
    let address: SocketAddr = address.parse().unwrap();
    told("reach", TcpStream::connect_timeout(&address, Duration::from_secs(5)));
}

fn granted() {
    use std::os::linux::net::SocketAddrExt;
    told("own", TcpStream::connect(std::env::var("AWS_LAMBDA_RUNTIME_API").unwrap()));
    reach();
    let name = std::os::unix::net::SocketAddr::from_abstract_name(std::env::var("NAME").unwrap()).unwrap();
    told("abstract", std::os::unix::net::UnixStream::connect_addr(&name));
}

fn api() {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).unwrap();
    eprintln!("api: {}", String::from_utf8_lossy(&heard));
    stream.write_all(b"pong").unwrap();
}

fn memory() {
    let mut held = Vec::new();
    for _ in 0..1024 {
        held.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&mut held);
    }
    eprintln!("a gigabyte");
}

fn call(number: i64, arguments: [i64; 3]) -> std::io::Result<()> {
    let [a, b, c] = arguments;
    // SAFETY: calls that the filter refuses before the kernel looks at their arguments; where it does not, the
    // arguments are plain numbers or point to nothing, which the kernel checks.
    match unsafe { libc::syscall(number, a, b, c, 0, 0, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn refusals() {
    let socket = |family: i32, kind: i32| call(libc::SYS_socket, [i64::from(family), i64::from(kind), 0]);
    told("stream", socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC));
    told("datagram", socket(libc::AF_INET6, libc::SOCK_DGRAM));
    told("unix", socket(libc::AF_UNIX, libc::SOCK_STREAM));
    told("raw", socket(libc::AF_INET, libc::SOCK_RAW));
    told("packet", socket(libc::AF_PACKET, libc::SOCK_RAW));
    told("netlink", socket(libc::AF_NETLINK, libc::SOCK_DGRAM));
    told("vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM));
    told("alg", socket(libc::AF_ALG, libc::SOCK_DGRAM));
    told("clone3", call(libc::SYS_clone3, [0, 0, 0]));
    told("io_uring", call(libc::SYS_io_uring_setup, [8, 0, 0]));
    told("tiocsti", call(libc::SYS_ioctl, [0, 0x5412, 0]));
    // The upper half of the number is none of the kernel's business.
    told("tiocsti high", call(libc::SYS_ioctl, [0, 0x1_0000_5412, 0]));
    told("personality", call(libc::SYS_personality, [0x004_0000, 0, 0]));
    told("personality asked", call(libc::SYS_personality, [0xffff_ffff, 0, 0]));
    told("set_mm", call(libc::SYS_prctl, [i64::from(libc::PR_SET_MM), 0, 0]));
    told("dumpable", call(libc::SYS_prctl, [i64::from(libc::PR_GET_DUMPABLE), 0, 0]));
    told("setuid", call(libc::SYS_setuid, [0, 0, 0]));
    told("chroot", call(libc::SYS_chroot, [0, 0, 0]));
    told("syslog", call(libc::SYS_syslog, [3, 0, 0]));
}

fn strict() {
    #[cfg(target_arch = "x86_64")]
    told("fork", call(libc::SYS_fork, [0, 0, 0]));
    told("clone", call(libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0]));
    told("thread", std::thread::spawn(|| ()).join().map_err(|_| std::io::Error::from_raw_os_error(1)));
    told("shmget", call(libc::SYS_shmget, [0, 4096, 0]));
    told("memfd", call(libc::SYS_memfd_create, [0, 0, 0]));
}

#[test]
fn a_forbidden_system_call_ends_the_process_and_is_named() {
    if !has_root("a_forbidden_system_call") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let names_them =
        core.backends.iter().any(|(thing, state)| thing == "bpf events" && state.starts_with("in force"));
    if !names_them {
        skip("the names of forbidden system calls", "BPF events are not in force");
    }
    for tier in [Tier::Default, Tier::Strict] {
        let made = core.make(Spec { tier, ..probes(bundle.path()) });
        for (name, _) in KILLED {
            let ran = core.run(made.id, &[("PROBE", "killed"), ("CALL", name)], "");
            let expected = Ending::Syscall { name: names_them.then(|| (*name).to_owned()) };
            assert_eq!(ran.ending, expected, "{name}: {}", ran.stderr);
        }
    }
}

#[test]
fn what_programs_try_is_refused_politely() {
    if !has_root("what_programs_try_is_refused_politely") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(probes(bundle.path()));
    let ran = core.run(made.id, &[("PROBE", "refusals")], "");
    assert_eq!(ran.ending, Ending::Exit(0), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(": ")).collect();
    let expected = [
        "stream: Ok",
        "datagram: Ok",
        "unix: Ok",
        "raw: EAFNOSUPPORT",
        "packet: EAFNOSUPPORT",
        "netlink: EAFNOSUPPORT",
        "vsock: EAFNOSUPPORT",
        "alg: EAFNOSUPPORT",
        "clone3: ENOSYS",
        "io_uring: ENOSYS",
        "tiocsti: EPERM",
        "tiocsti high: EPERM",
        "personality: EPERM",
        "personality asked: Ok",
        "set_mm: EPERM",
        "dumpable: Ok",
        "setuid: EPERM",
        "chroot: EPERM",
        "syslog: EPERM",
    ];
    // Uid 0 inside is the first process's: it is mapped, and yet not to be had.
    assert_eq!(lines, expected, "{}", ran.stderr);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_strict_tier_has_threads_and_no_processes() {
    if !has_root("the_strict_tier") {
        return;
    }
    let (host, bundle) = (Host::start(), bundle());
    let mut core = host.core();
    let made = core.make(Spec { tier: Tier::Strict, ..probes(bundle.path()) });
    let ran = core.run(made.id, &[("PROBE", "strict")], "");
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(": ")).collect();
    assert_eq!(
        lines,
        ["fork: EPERM", "clone: EPERM", "thread: Ok", "shmget: EPERM", "memfd: ENOSYS"],
        "{ran:?}"
    );
}
