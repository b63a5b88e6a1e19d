//! Loader of `runq.bpf.c`: how worker cores get their CPUs.

use crate::abi::{BUCKETS, CORE_BYTES, Core, THREAD_BYTES, Thread};
use crate::error::{BpfError, Warnings};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};
use nix::time::{ClockId, clock_gettime};
use std::mem::MaybeUninit;
use std::time::Duration;

/// Generated from the program.
#[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/runq.skel.rs"));
}

/// How long threads waited for a CPU each time they could have run: counts by powers of two of nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// `buckets[b]` counts delays from 2^b ns to below 2^(b+1) ns; the last one all longer ones too.
    pub buckets: [u64; BUCKETS],
}

impl Delays {
    /// How many delays.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// A time that `share` (0 to 1) of the delays do not exceed: the upper end of the bucket that holds the
    /// quantile, so at most twice the true one. None if nothing was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_nanos(1 << (bucket + 1)))
    }
}

/// What the kernel's scheduler saw of one worker core since it is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreSched {
    /// Its process.
    pub pid: u32,
    /// Time on CPUs, of all its threads, up to now.
    pub cpu_ns: u64,
    /// How often one of its threads left a CPU.
    pub switches: u64,
    /// How long its threads waited for a CPU.
    pub delays: Delays,
}

/// The attached programs. They are detached when this is dropped, or when the process ends, however it does.
#[derive(Debug)]
pub struct RunQueue {
    cores: MapHandle,
    threads: MapHandle,
    _links: [Link; 3],
}

impl RunQueue {
    /// Watches these processes, with all their threads, from now on.
    ///
    /// # Errors
    /// If one of the processes is not there, or if the kernel cannot or may not be asked; see [`BpfError`].
    pub fn attach(pids: &[u32]) -> Result<RunQueue, BpfError> {
        if let Some(missing) = pids.iter().find(|pid| threads_of(**pid).is_none()) {
            return Err(BpfError::NoProcess(*missing));
        }
        BpfError::foresee()?;
        let run_queue = load()?;
        pids.iter().try_for_each(|pid| run_queue.watch(*pid))?;
        Ok(run_queue)
    }

    /// Watches one process more: a worker core that was started again.
    ///
    /// # Errors
    /// If the process is not there, or if there is no room for it.
    pub fn watch(&self, pid: u32) -> Result<(), BpfError> {
        let refused = |error: libbpf_rs::Error| BpfError::of("watch a process", &error, "");
        let cpus = libbpf_rs::num_possible_cpus().map_err(refused)?;
        let zeros = vec![vec![0; CORE_BYTES]; cpus];
        self.cores.update_percpu(&pid.to_ne_bytes(), &zeros, MapFlags::NO_EXIST).map_err(refused)?;
        // A thread that runs now may not be switched for a long time: a core that spins. Its slice begins now, unless
        // the programs have seen it already and know better. Each thread is looked at after they were attached, so
        // that none is missed.
        let now = now_ns();
        let running = threads_of(pid).ok_or(BpfError::NoProcess(pid))?.into_iter().filter(|(_, runs)| *runs);
        for (tid, _) in running {
            let thread = Thread { tgid: pid, running_since: now, waiting_since: 0 };
            match self.threads.update(&tid.to_ne_bytes(), &thread.to_bytes(), MapFlags::NO_EXIST) {
                Err(error) if error.kind() != libbpf_rs::ErrorKind::AlreadyExists => {
                    return Err(refused(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What was counted so far, in order of process id. Processes that have ended are among it.
    ///
    /// # Errors
    /// If the kernel refuses to be asked.
    pub fn read(&self) -> Result<Vec<CoreSched>, BpfError> {
        let refused = |error: libbpf_rs::Error| BpfError::of("read its counters", &error, "");
        let mut all = Vec::new();
        let running = self.running().map_err(refused)?;
        for key in self.cores.keys() {
            let pid = u32::from_ne_bytes(key[..].try_into().expect("keys are process ids"));
            let Some(cpus) = self.cores.lookup_percpu(&key, MapFlags::ANY).map_err(refused)? else {
                continue;
            };
            let mut sum = Core::ZERO;
            cpus.iter().for_each(|cpu| sum.add(cpu));
            let unfinished = running.iter().filter(|thread| thread.tgid == pid);
            let unfinished: u64 =
                unfinished.map(|thread| now_ns().saturating_sub(thread.running_since)).sum();
            let delays = Delays { buckets: sum.delay };
            all.push(CoreSched { pid, cpu_ns: sum.cpu_ns + unfinished, switches: sum.switches, delays });
        }
        all.sort_by_key(|core| core.pid);
        Ok(all)
    }

    /// The threads that are on a CPU now.
    fn running(&self) -> Result<Vec<Thread>, libbpf_rs::Error> {
        let threads =
            self.threads.keys().filter_map(|key| self.threads.lookup(&key, MapFlags::ANY).transpose());
        let running = |bytes: &Vec<u8>| Thread::from_bytes(bytes).running_since != 0;
        let running = threads.filter(|bytes| bytes.as_ref().map_or(true, running));
        running.map(|bytes| bytes.map(|bytes| Thread::from_bytes(&bytes))).collect()
    }
}

fn load() -> Result<RunQueue, BpfError> {
    let warnings = &Warnings::capture();
    let refused = |step| move |error: libbpf_rs::Error| warnings.error(step, &error);
    let mut object = MaybeUninit::uninit();
    let open =
        skeleton::RunqSkelBuilder::default().open(&mut object).map_err(refused("open a BPF program"))?;
    let loaded = open.load().map_err(refused("load a BPF program"))?;
    let (cores, threads) = (&loaded.maps.cores, &loaded.maps.threads);
    assert_eq!(cores.value_size() as usize, CORE_BYTES, "struct runq_core and its mirror differ");
    assert_eq!(threads.value_size() as usize, THREAD_BYTES, "struct runq_thread and its mirror differ");
    let handle = refused("hold a BPF map");
    let (cores, threads) =
        (MapHandle::try_from(cores).map_err(handle)?, MapHandle::try_from(threads).map_err(handle)?);
    let attach = refused("attach a BPF program to the scheduler");
    let progs = &loaded.progs;
    let _links = [
        progs.on_switch.attach().map_err(attach)?,
        progs.on_wakeup.attach().map_err(attach)?,
        progs.on_wakeup_new.attach().map_err(attach)?,
    ];
    Ok(RunQueue { cores, threads, _links })
}

/// The threads of a process, and whether each runs (or could): none if the process is not there.
fn threads_of(pid: u32) -> Option<Vec<(u32, bool)>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let tids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
    let runs = |tid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        // `pid (name) state ...`, and the name may hold anything.
        let (_, state) = stat.rsplit_once(") ")?;
        Some((tid, state.starts_with('R')))
    };
    Some(tids.filter_map(runs).collect())
}

pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Duration::from(now).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(counts: &[(usize, u64)]) -> Delays {
        let mut buckets = [0; BUCKETS];
        counts.iter().for_each(|&(bucket, count)| buckets[bucket] = count);
        Delays { buckets }
    }

    #[test]
    fn a_quantile_is_the_upper_end_of_its_bucket() {
        let delays = delays(&[(3, 98), (10, 1), (20, 1)]);
        let at = |share| delays.quantile(share).map(|time| time.as_nanos());
        assert_eq!((at(0.0), at(0.5), at(0.98)), (Some(16), Some(16), Some(16)));
        assert_eq!((at(0.99), at(0.999), at(1.0)), (Some(2048), Some(1 << 21), Some(1 << 21)));
        assert_eq!(super::tests::delays(&[]).quantile(0.5), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = RunQueue::attach(&[std::process::id(), u32::MAX]).unwrap_err();
        assert_eq!(error, BpfError::NoProcess(u32::MAX));
    }
}
