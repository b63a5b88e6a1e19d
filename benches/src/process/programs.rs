//! What the BPF programs cost: for each warm call, as the kernel counts it, and for each packet by its test run.

use super::calls::one_at_a_time;
use super::{Bench, Outcome};
use crate::Figure;
use bpf::{Endpoints, Enforcement, Network, Options, Policy, Sandbox, Strangers, Transport, cgroup_id};
use libbpf_rs::libbpf_sys;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Packets of one test run.
const PACKETS: i32 = 200_000;

impl Bench {
    pub(super) fn programs(&mut self) -> Outcome<()> {
        self.per_call()?;
        self.per_packet()
    }

    /// All programs of the platform while warm calls come one after the other: what a call adds, switches and packets of
    /// both sides included. The kernel's counting is in it, some 20 ns each run.
    fn per_call(&mut self) -> Outcome<()> {
        let (stage, _core, mut leases) = self.echoing(1)?;
        let jailer = stage.jailer();
        let children = std::fs::read_to_string(format!("/proc/{jailer}/task/{jailer}/children"))?;
        let first = children.split_whitespace().next().ok_or("the jailer has no sandbox")?;
        let groups = std::fs::read_to_string(format!("/proc/{first}/cgroup"))?;
        let name = groups.split(['/', '\n']).find(|part| part.starts_with("millrace-"));
        let links =
            Path::new("/sys/fs/bpf/millrace").join(name.ok_or("the sandbox has no group")?).join("links");
        // SAFETY: no arguments but a number.
        let counting = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        if counting < 0 {
            return Err("the kernel does not count run times of BPF programs".into());
        }
        // SAFETY: it was just opened, and nobody else has it.
        let _counting = unsafe { OwnedFd::from_raw_fd(counting) };
        one_at_a_time(&mut leases, self.time / 10);
        let (before, ended) = (run_times(&links)?, leases.ended);
        one_at_a_time(&mut leases, self.time);
        let (after, calls) = (run_times(&links)?, (leases.ended - ended) as f64);
        let mut whole = 0.0;
        for (program, (ns, runs)) in after {
            let (ns_before, runs_before) = before.get(&program).copied().unwrap_or_default();
            let (ns, runs) = ((ns - ns_before) as f64 / calls, (runs - runs_before) as f64 / calls);
            whole += ns;
            if runs > 0.05 {
                println!("  {program}: {runs:.2} runs a call, {:.0} ns each", ns / runs);
            }
        }
        self.report.add(Figure::new("process-bpf-per-call", whole, "ns").bar(1000.0, 300.0));
        Ok(())
    }

    /// A packet of a sandbox in the host's network, counted and limited.
    fn per_packet(&mut self) -> Outcome<()> {
        let unified = mount_of_cgroup2()?;
        let name = format!("millrace-bench-{}", std::process::id());
        let group = unified.join(&name);
        std::fs::create_dir_all(&group)?;
        let options = Options {
            name: &name,
            cgroup: &group,
            functions_max: 64,
            sandboxes_max: 64,
            strangers: Strangers::Denied,
            syscalls: false,
        };
        let mut enforcement = Enforcement::start(&options)?;
        let measured = packets(&mut enforcement, &unified, &name);
        enforcement.stop()?;
        std::fs::remove_dir(&group)?;
        let measured = measured?;
        for (what, ns) in &measured {
            println!("  packet, {what}: {ns} ns");
        }
        // The dearest of those that packets of a connection meet.
        let limited = measured.iter().filter(|(what, _)| what.ends_with("limited"));
        let worst = limited.map(|(_, ns)| *ns).max().unwrap_or_default();
        self.report.add(Figure::new("process-bpf-per-packet", f64::from(worst), "ns").bar(300.0, 100.0));
        Ok(())
    }
}

/// Time in and runs of each program that is pinned here.
fn run_times(links: &Path) -> Outcome<BTreeMap<String, (u64, u64)>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(links)?.flatten() {
        let program = program(&entry.path())?;
        let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        let word =
            |key: &str| about.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        let (ns, runs) = (word("run_time_ns:").unwrap_or(0), word("run_cnt:").unwrap_or(0));
        all.insert(entry.file_name().to_string_lossy().into_owned(), (ns, runs));
    }
    Ok(all)
}

fn program(link: &Path) -> Outcome<OwnedFd> {
    let link = libbpf_rs::Link::open(link)?;
    Ok(libbpf_rs::Program::fd_from_id(link.info()?.prog_id)?)
}

fn mount_of_cgroup2() -> Outcome<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = words.find(|words| words.get(2) == Some(&"cgroup2")).ok_or("no cgroup v2 tree is mounted")?;
    Ok(PathBuf::from(found[1]))
}

fn packets(enforcement: &mut Enforcement, unified: &Path, name: &str) -> Outcome<Vec<(&'static str, u32)>> {
    // A test run's packets are this process's, so its group is the sandbox.
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no v2 group")?;
    let cgroup_id = cgroup_id(&unified.join(own))?;
    enforcement.admit(&Sandbox { cgroup_id, index: 2, function: 1, runtime_api: None })?;
    let connect = vec![Endpoints {
        transport: Some(Transport::Udp),
        // Of full length: test runs come in by the loopback interface.
        address: "10.0.0.2".parse()?,
        bits: 32,
        ports: (1, 1000),
    }];
    let rules = Policy { network: Network::Host { connect, listen: vec![] }, ..Policy::default() };
    let most = 100_000_000_000;
    let rates = Policy { egress_bytes_per_s: most, ingress_bytes_per_s: most, ..rules.clone() };
    let cases = [
        ("TCP out, counted", "on_egress", &rules, segment(6)),
        ("TCP out, counted and limited", "on_egress", &rates, segment(6)),
        ("TCP in, counted", "on_ingress", &rules, segment(6)),
        ("TCP in, counted and limited", "on_ingress", &rates, segment(6)),
        ("UDP in, checked, counted and limited", "on_ingress", &rates, segment(17)),
        ("in a network of its own", "on_egress", &Policy::default(), segment(6)),
    ];
    let programs = Path::new("/sys/fs/bpf/millrace").join(name).join("programs");
    let mut measured = Vec::new();
    for (what, program, policy, packet) in cases {
        enforcement.set_policy(1, policy)?;
        // The best of five: another process on the CPU only ever adds.
        let ns = (0..5).map(|_| test_run(&programs.join(program), &packet)).collect::<Outcome<Vec<_>>>()?;
        measured.push((what, ns.into_iter().min().unwrap_or_default()));
    }
    Ok(measured)
}

/// A segment of TCP (6) or a datagram of UDP (17) over Ethernet, as a test run wants it.
fn segment(protocol: u8) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 20 + 1000];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[23] = protocol;
    frame[26..30].copy_from_slice(if protocol == 17 { &[10, 0, 0, 2] } else { &[10, 0, 0, 1] });
    frame[30..34].copy_from_slice(&[10, 0, 0, 2]);
    let ports = if protocol == 17 { [1, 0xbb, 0x80, 0] } else { [0x80, 0, 1, 0xbb] };
    frame[34..38].copy_from_slice(&ports);
    frame[47] = 0x10;
    frame
}

/// Mean time of one run, ns, as the kernel measures it.
fn test_run(pin: &Path, packet: &[u8]) -> Outcome<u32> {
    let program = libbpf_rs::Program::fd_from_pinned_path(pin)?;
    let mut run = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        repeat: PACKETS,
        ..Default::default()
    };
    // SAFETY: the packet lives on, and is as long as said; nothing is written out.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut run) };
    if result != 0 || run.retval != 1 {
        return Err(format!("{}: result {result}, verdict {}", pin.display(), run.retval).into());
    }
    Ok(run.duration)
}
