//! What a process in a sandbox does, as it is told on stdin: one line, one answer.

use bpf::{Enforcement, Options, Sandbox, Strangers};
use memmap2::{Advice, MmapMut};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::time::TimeValLike;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

/// Not a test: what `harness::Inside` starts.
#[test]
#[ignore = "is started by other tests"]
fn as_told() {
    let mut held = Held::default();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match act(&words, &mut held) {
            Ok(answer) if answer.is_empty() => "ok".to_string(),
            Ok(answer) => format!("ok {answer}"),
            Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
        };
        println!("> {answer}");
    }
}

/// What it keeps from one line to the next.
#[derive(Default)]
struct Held {
    stream: Option<TcpStream>,
    listener: Option<TcpListener>,
    datagrams: Option<UdpSocket>,
    enforcement: Option<Enforcement>,
}

fn act(words: &[&str], held: &mut Held) -> std::io::Result<String> {
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let address = |at: usize| words[at].parse::<SocketAddr>().expect("an address");
    match words[0] {
        "join" => std::fs::write(Path::new(words[1]).join("cgroup.procs"), "0")?,
        "tcp" => held.stream = Some(TcpStream::connect_timeout(&address(1), Duration::from_millis(500))?),
        "say" => held.stream.as_mut().expect("connected").write_all(&vec![7; number(1) as usize])?,
        "hear" => held.stream.as_mut().expect("connected").read_exact(&mut vec![0; number(1) as usize])?,
        "udp" => drop(datagrams(held, words[1])?.send_to(&vec![7; number(2) as usize], address(1))?),
        "udp-connect" => datagrams(held, words[1])?.connect(address(1))?,
        "udp-hear" => {
            let socket = held.datagrams.as_ref().expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            return Ok(socket.recv_from(&mut [0; 2048])?.0.to_string());
        }
        "udp-bind" => held.datagrams = Some(UdpSocket::bind(address(1))?),
        "listen" => {
            let listener = TcpListener::bind(address(1))?;
            let port = listener.local_addr()?.port();
            held.listener = Some(listener);
            return Ok(port.to_string());
        }
        "accept" => held.stream = Some(held.listener.as_ref().expect("listens").accept()?.0),
        "socket" => return open_socket(words[1]).map(|()| String::new()),
        "hammer" => return Ok(hammer(address(1), Duration::from_millis(number(2)))),
        "blast" => return blast(datagrams(held, words[1])?, address(1), Duration::from_millis(number(2))),
        "open" => {
            drop(std::fs::OpenOptions::new().read(words[2] == "r").write(words[2] == "w").open(words[1])?)
        }
        "burn" => return Ok(burn(Duration::from_millis(number(1)))),
        "threads" => threads(number(1), Duration::from_millis(number(2))),
        "touch" => {
            // A fault for each page: without huge ones, which some hosts give to all.
            let mut pages = MmapMut::map_anon(number(1) as usize * 4096)?;
            pages.advise(Advice::NoHugePage)?;
            pages.chunks_mut(4096).for_each(|page| page[0] = 1);
        }
        "write" => {
            let mut file = std::fs::File::create(words[1])?;
            file.write_all(&vec![7; number(2) as usize])?;
            file.sync_all()?;
        }
        "ppid" => {
            (0..number(1)).for_each(|_| {
                std::hint::black_box(nix::unistd::getppid());
            });
        }
        "forbid-ppid" => forbid_ppid()?,
        "exit" => std::process::exit(number(1) as i32),
        "eat" => eat(),
        "enforce" => held.enforcement = Some(enforce(words)),
        unknown => panic!("what is {unknown}?"),
    }
    Ok(String::new())
}

/// Made at the first use, unbound: of the family of the destination.
fn datagrams<'a>(held: &'a mut Held, to: &str) -> std::io::Result<&'a UdpSocket> {
    let is_ipv4 = to.parse::<SocketAddr>().expect("an address").is_ipv4();
    if held
        .datagrams
        .as_ref()
        .is_none_or(|socket| socket.local_addr().is_ok_and(|at| at.is_ipv4() != is_ipv4))
    {
        held.datagrams = Some(UdpSocket::bind(if is_ipv4 { "0.0.0.0:0" } else { "[::]:0" })?);
    }
    Ok(held.datagrams.as_ref().expect("just made"))
}

fn open_socket(kind: &str) -> std::io::Result<()> {
    let (family, kind, protocol) = match kind {
        "raw" => (AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp)),
        "raw6" => (AddressFamily::Inet6, SockType::Raw, Some(SockProtocol::IcmpV6)),
        "ping" => (AddressFamily::Inet, SockType::Datagram, Some(SockProtocol::Icmp)),
        "tcp" => (AddressFamily::Inet, SockType::Stream, None),
        "udp6" => (AddressFamily::Inet6, SockType::Datagram, None),
        unknown => panic!("what is a {unknown} socket?"),
    };
    let made = socket(family, kind, SockFlag::empty(), protocol);
    made.map(drop).map_err(|errno: Errno| errno.into())
}

/// Connects as often as it can; attempts and successes.
fn hammer(to: SocketAddr, time: Duration) -> String {
    let (start, mut attempts, mut successes) = (Instant::now(), 0, 0);
    while start.elapsed() < time {
        attempts += 1;
        successes += u32::from(TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok());
    }
    format!("{attempts} {successes}")
}

/// Sends as much as it can, and says how much was taken.
fn blast(socket: &UdpSocket, to: SocketAddr, time: Duration) -> std::io::Result<String> {
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        sent += socket.send_to(&[7; 1000], to)?;
    }
    Ok(sent.to_string())
}

/// Uses this much CPU time; says how much the kernel says it was, ns.
fn burn(time: Duration) -> String {
    let before = cpu_ns();
    let mut used = 0;
    while used < time.as_nanos() as i64 {
        std::hint::black_box((0..10_000).sum::<u64>());
        used = cpu_ns() - before;
    }
    used.to_string()
}

fn cpu_ns() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("it is this process");
    usage.user_time().num_nanoseconds() + usage.system_time().num_nanoseconds()
}

/// So many threads that begin and end slices all the time.
fn threads(count: u64, time: Duration) {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                while start.elapsed() < time {
                    std::thread::sleep(Duration::from_micros(20));
                    std::thread::yield_now();
                }
            });
        }
    });
}

/// From now on, getppid kills this process.
fn forbid_ppid() -> std::io::Result<()> {
    // Loads the number of the system call; kills for one, allows all others.
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_getppid as u32)
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until then, of as many statements as it says.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Until the kernel kills it.
fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

/// `enforce NAME GROUP SANDBOXES_MAX [CGROUP_ID]`: the process that sets up enforcement; admits one sandbox, if its
/// group is given, that may connect to 10.9.0.2:7001.
fn enforce(words: &[&str]) -> Enforcement {
    let options = Options {
        name: words[1],
        cgroup: Path::new(words[2]),
        functions_max: super::harness::FUNCTIONS_MAX,
        sandboxes_max: words[3].parse().expect("a number"),
        strangers: Strangers::Denied,
        syscalls: false,
    };
    let mut enforcement = Enforcement::start(&options).expect("it can");
    if let Some(group) = words.get(4) {
        enforcement.set_policy(1, &super::harness::host(&["tcp 10.9.0.2/32 7001"], &[])).expect("it can");
        let cgroup_id = group.parse().expect("an id");
        enforcement.admit(&Sandbox { cgroup_id, index: 1, function: 1, runtime_api: None }).expect("it can");
    }
    enforcement
}
