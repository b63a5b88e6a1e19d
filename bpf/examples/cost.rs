//! What the programs of sandboxes cost: per packet (by the kernel's own test run), per context switch (a ping-pong over
//! a pipe on one CPU, with and without), and per program as the kernel counts it. Needs root.
//!
//! `cargo run --release -p bpf --example cost`

use bpf::{Endpoints, Enforcement, Network, Options, Policy, Sandbox, Strangers, Transport, cgroup_id};
use libbpf_rs::libbpf_sys;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const NAME: &str = "cost";
const ROUNDS: u32 = 20_000;
const PACKETS: u32 = 200_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, ping, group] = &arguments[..]
        && ping == "ping-pong"
    {
        return ping_pong(Path::new(group));
    }
    let unified = mount_of_cgroup2()?;
    let group = unified.join(format!("millrace-{NAME}"));
    let inside = group.join("s1");
    std::fs::create_dir_all(&inside)?;
    let measured = measure(&unified, &group, &inside);
    std::fs::remove_dir(&inside)?;
    std::fs::remove_dir(&group)?;
    measured
}

fn mount_of_cgroup2() -> Outcome<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = words.find(|words| words.get(2) == Some(&"cgroup2")).ok_or("no cgroup v2 tree is mounted")?;
    Ok(PathBuf::from(found[1]))
}

fn measure(unified: &Path, group: &Path, inside: &Path) -> Outcome<()> {
    let without = switches(inside)?;
    let options = Options {
        name: NAME,
        cgroup: group,
        functions_max: 64,
        sandboxes_max: 64,
        strangers: Strangers::Denied,
        syscalls: false,
    };
    let mut enforcement = Enforcement::start(&options)?;
    let measured = with_enforcement(&mut enforcement, unified, inside, without);
    enforcement.stop()?;
    measured
}

fn with_enforcement(
    enforcement: &mut Enforcement,
    unified: &Path,
    inside: &Path,
    without: f64,
) -> Outcome<()> {
    let admit = |enforcement: &mut Enforcement, group: &Path, index| {
        let cgroup_id = cgroup_id(group)?;
        enforcement.admit(&Sandbox { cgroup_id, index, function: 1, runtime_api: None })?;
        Outcome::Ok(())
    };
    admit(enforcement, inside, 1)?;
    // A test run's packets are this process's, so its group is a sandbox too.
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no v2 group")?;
    admit(enforcement, &unified.join(own), 2)?;
    let with = switches(inside)?;
    println!(
        "context switch, in a sandbox    {:6.0} ns, {without:.0} ns without: {:.0} ns more",
        with,
        with - without
    );
    let outside = switches(unified)?;
    println!("context switch, root group      {outside:6.0} ns: {:.0} ns more", outside - without);
    packets(enforcement)?;
    by_program(inside)
}

/// The best of five: another process on the CPU only ever adds.
fn switches(group: &Path) -> Outcome<f64> {
    (0..5).map(|_| switch_ns(group)).reduce(|a, b| Ok(a?.min(b?))).expect("five")
}

/// Time of one switch from a process in this group to another one there.
fn switch_ns(group: &Path) -> Outcome<f64> {
    let out = Command::new(std::env::current_exe()?).arg("ping-pong").arg(group).output()?;
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}

/// Two processes on one CPU that wake each other by turns: two switches each round.
fn ping_pong(group: &Path) -> Outcome<()> {
    std::fs::write(group.join("cgroup.procs"), "0")?;
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let mut other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut to, mut from) = (other.stdin.take().ok_or("a pipe")?, other.stdout.take().ok_or("a pipe")?);
    let mut byte = [0];
    let start = Instant::now();
    for _ in 0..ROUNDS {
        to.write_all(&byte)?;
        from.read_exact(&mut byte)?;
    }
    println!("{}", start.elapsed().as_nanos() as f64 / f64::from(2 * ROUNDS));
    drop(to);
    other.wait()?;
    Ok(())
}

/// A TCP segment of a connection over Ethernet, as a test run wants it.
fn segment() -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 20 + 1000];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = 6;
    frame[26..30].copy_from_slice(&[10, 0, 0, 1]);
    frame[30..34].copy_from_slice(&[10, 0, 0, 2]);
    frame[34..38].copy_from_slice(&[0x80, 0, 1, 0xbb]);
    frame[47] = 0x10;
    frame
}

fn packets(enforcement: &mut Enforcement) -> Outcome<()> {
    let connect = vec![Endpoints {
        transport: Some(Transport::Udp),
        // Of full length: test runs come in by the loopback interface.
        address: "10.0.0.2".parse()?,
        bits: 32,
        ports: (1, 1000),
    }];
    let rules = Policy { network: Network::Host { connect, listen: vec![] }, ..Policy::default() };
    let rates =
        Policy { egress_bytes_per_s: 100_000_000_000, ingress_bytes_per_s: 100_000_000_000, ..rules.clone() };
    let mut datagram = segment();
    datagram[23] = 17;
    datagram[26..30].copy_from_slice(&[10, 0, 0, 2]);
    datagram[34..38].copy_from_slice(&[1, 0xbb, 0x80, 0]);
    let cases = [
        ("TCP out, counted", "on_egress", &rules, segment()),
        ("TCP out, counted and limited", "on_egress", &rates, segment()),
        ("TCP in, counted", "on_ingress", &rules, segment()),
        ("TCP in, counted and limited", "on_ingress", &rates, segment()),
        ("UDP in, checked and counted", "on_ingress", &rules, datagram),
        ("network of its own", "on_egress", &Policy::default(), segment()),
    ];
    for (name, program, policy, packet) in cases {
        enforcement.set_policy(1, policy)?;
        let ns = (0..5).map(|_| test_run(program, &packet)).reduce(|a, b| Ok(a?.min(b?))).expect("five")?;
        println!("packet, {name:30} {ns:4} ns");
    }
    Ok(())
}

fn program(link: &str) -> Outcome<OwnedFd> {
    let link = libbpf_rs::Link::open(format!("/sys/fs/bpf/millrace/{NAME}/links/{link}"))?;
    Ok(libbpf_rs::Program::fd_from_id(link.info()?.prog_id)?)
}

/// Mean time of one run, ns, as the kernel measures it.
fn test_run(name: &str, packet: &[u8]) -> Outcome<u32> {
    let program = program(name)?;
    let mut run = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        repeat: PACKETS as i32,
        ..Default::default()
    };
    // SAFETY: the packet lives on, and is as long as said; nothing is written out.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut run) };
    if result != 0 || run.retval != 1 {
        return Err(format!("{name}: result {result}, verdict {}", run.retval).into());
    }
    Ok(run.duration)
}

/// What the kernel counts for each program while a sandbox switches; counting itself costs some 20 ns each.
fn by_program(inside: &Path) -> Outcome<()> {
    // SAFETY: no arguments but a number.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err("the kernel does not count run times".into());
    }
    // SAFETY: it was just opened, and nobody else has it.
    let _counting = unsafe { OwnedFd::from_raw_fd(fd) };
    switch_ns(inside)?;
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/sys/fs/bpf/millrace/{NAME}/links"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let program = program(&name)?;
        let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        let word =
            |key: &str| about.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        all.insert(name, (word("run_time_ns:").unwrap_or(0), word("run_cnt:").unwrap_or(0)));
    }
    for (name, (ns, runs)) in all.into_iter().filter(|(_, (_, runs))| *runs > 100) {
        println!("{name}: {runs} runs, {} ns each, counting included", ns / runs);
    }
    Ok(())
}
