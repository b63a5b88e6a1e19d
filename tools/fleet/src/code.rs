//! Code that workers hold in memory: which functions, compiled or not, and what that costs.
//!
//! A worker loads a function's code when its first call comes, and holds it until it has not been called for a while,
//! or until memory is short: then what was called longest ago goes first. With `code.compiled` a new version begins
//! interpreted, at several times the CPU: a function that has run long enough on a worker is compiled there, by a
//! few of its threads while the others serve. A worker that gets a version with a profile knows what to compile, does
//! it on all threads, the hottest first, and serves once nearly all of its CPU goes to compiled code.

use crate::scenario::CodeSpec;
use crate::workload::Function;

/// Never.
const NEVER: u32 = u32::MAX;
/// The rate, in thousandths of that with everything compiled, which counts as full, and from which on a worker with a
/// profile serves.
const FULL: u32 = 950;
/// Memory may be used up to this part: as a pool grants its credits.
const MEMORY: f64 = 0.9;

/// One worker.
#[derive(Clone, Debug)]
struct Worker {
    /// Functions whose code is in memory.
    warm: Vec<u32>,
    /// Per function: the tick of its last call while it is warm, and the hour of that, counted from 1.
    last: Vec<u32>,
    hours: Vec<u32>,
    /// Different functions in this hour.
    distinct: u32,
    /// Per function: M instructions of calls under this version, and from when on it is compiled.
    ran: Vec<f64>,
    compiled: Vec<u32>,
    /// When its compilers have nothing more to do.
    busy_until: u32,
    /// When it began to install, until its rate is full again.
    begun: Option<u32>,
    /// From when on it serves the version that it installs.
    serves: Option<u32>,
}

/// The workers of a region, one in each pool.
#[derive(Debug)]
pub struct Code {
    spec: CodeSpec,
    tick_ms: u64,
    base_mb: f64,
    workers: Vec<Worker>,
    /// What the code of each function holds on a worker, MB, compiled.
    size_mb: Vec<f64>,
    /// CPU of each function, for the rate of a worker.
    demand: Vec<f64>,
    /// Functions in the order of their CPU, the largest first: what a profile says.
    order: Vec<u32>,
}

impl Code {
    /// Workers that hold nothing, of a region whose functions need so much CPU here. All is compiled.
    pub fn new(spec: &CodeSpec, tick_ms: u32, base_mb: f64, workers: usize, functions: &[Function]) -> Code {
        let count = functions.len();
        let worker = Worker {
            warm: Vec::new(),
            last: vec![0; count],
            hours: vec![0; count],
            distinct: 0,
            ran: vec![0.0; count],
            compiled: vec![0; count],
            busy_until: 0,
            begun: None,
            serves: None,
        };
        let demand: Vec<f64> = functions.iter().map(Function::demand).collect();
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_by(|&a, &b| demand[b as usize].total_cmp(&demand[a as usize]).then(a.cmp(&b)));
        let size_mb = vec![spec.code_mb; count];
        let (spec, tick_ms) = (spec.clone(), u64::from(tick_ms));
        Code { spec, tick_ms, base_mb, workers: vec![worker; workers], size_mb, demand, order }
    }

    fn ticks(&self, seconds: f64) -> u32 {
        (seconds * 1000.0 / self.tick_ms as f64).ceil() as u32
    }

    fn hour(&self, now: u32) -> u32 {
        (u64::from(now) * self.tick_ms / 3_600_000) as u32 + 1
    }

    /// Calls of a function, of so many M instructions, begin on a worker. Says how many times their CPU they need.
    pub fn called(&mut self, now: u32, worker: usize, function: u32, cpu: f64) -> u64 {
        let (hour, compiles) = (self.hour(now), self.ticks(self.spec.compile_s / self.spec.compilers));
        let (of, at) = (&mut self.workers[worker], function as usize);
        if of.last[at] == 0 {
            of.warm.push(function);
        }
        of.last[at] = now.max(1);
        if of.hours[at] != hour {
            of.hours[at] = hour;
            of.distinct += 1;
        }
        if !self.spec.compiled || of.compiled[at] <= now {
            return 1;
        }
        of.ran[at] += cpu;
        if of.compiled[at] == NEVER && of.ran[at] >= self.spec.hot_cpu {
            of.busy_until = of.busy_until.max(now) + compiles;
            of.compiled[at] = of.busy_until;
        }
        u64::from(self.spec.interpreted)
    }

    /// Forgets code that was not called for long, and more if memory is short. Says what each worker's memory holds
    /// now, MB, of `memory_mb` that it has: what is there without any function, the calls that run (`calls_mb` of
    /// each worker: the heap of a call is given back when it ends), and code.
    pub fn sweep(&mut self, now: u32, memory_mb: f64, calls_mb: impl Fn(usize) -> f64, into: &mut Vec<u32>) {
        let idle = self.ticks(self.spec.idle_min * 60.0);
        for (worker, of) in self.workers.iter_mut().enumerate() {
            let last = &mut of.last;
            of.warm.sort_by_key(|&function| std::cmp::Reverse(last[function as usize]));
            let mut held_mb = self.base_mb + calls_mb(worker);
            of.warm.retain(|&function| {
                let at = function as usize;
                let mb = held_mb + self.size_mb[at];
                let stays = now.saturating_sub(last[at]) < idle && mb <= memory_mb * MEMORY;
                if stays {
                    held_mb = mb;
                } else {
                    last[at] = 0;
                }
                stays
            });
            into.push(held_mb as u32);
        }
    }

    /// An hour is over: how many different functions each worker ran in it.
    pub fn end_hour(&mut self, into: &mut Vec<u32>) {
        into.extend(self.workers.iter_mut().map(|of| std::mem::take(&mut of.distinct)));
    }

    /// A worker installs a new version, with or without a profile of the functions that `runs` names.
    pub fn install(&mut self, now: u32, worker: usize, seeded: bool, runs: impl Fn(u32) -> bool) {
        let serves = now + self.ticks(self.spec.install_s);
        let of = &mut self.workers[worker];
        of.ran.fill(0.0);
        of.compiled.fill(NEVER);
        of.busy_until = serves;
        of.begun.get_or_insert(now);
        of.serves = Some(serves);
        if seeded {
            let first = self.compile(serves, worker, self.spec.threads, &runs);
            self.workers[worker].serves = Some(first);
        }
    }

    /// A worker that serves the version gets the profile.
    pub fn seed(&mut self, now: u32, worker: usize, runs: impl Fn(u32) -> bool) {
        self.compile(now, worker, self.spec.compilers, &runs);
    }

    /// Compiles what a profile says, hottest first; says when nearly all of the CPU is compiled.
    fn compile(&mut self, now: u32, worker: usize, threads: f64, runs: &impl Fn(u32) -> bool) -> u32 {
        let each_ms = |threads: f64| self.spec.compile_s / threads * 1000.0;
        let (at_first, then) = (each_ms(threads), each_ms(self.spec.compilers));
        let all: f64 = self.of_worker(runs).map(|function| self.demand[function as usize]).sum();
        let order: Vec<u32> = self.of_worker(runs).collect();
        let (mut ms, mut done, mut enough) = (0.0, 0.0, None);
        let of = &mut self.workers[worker];
        let begin = of.busy_until.max(now);
        for function in order {
            let at = function as usize;
            done += self.demand[at];
            if of.compiled[at] == NEVER {
                // Once it serves, few of its threads compile.
                ms += if enough.is_none() { at_first } else { then };
                of.compiled[at] = begin + (ms / self.tick_ms as f64).ceil() as u32;
                of.busy_until = of.compiled[at];
            }
            // What is interpreted takes several times its CPU: the rate is full when little enough of it is left.
            let left = 1.0 + (1.0 - done / all) * f64::from(self.spec.interpreted - 1);
            if enough.is_none() && left * f64::from(FULL) <= 1000.0 {
                enough = Some(of.compiled[at]);
            }
        }
        enough.unwrap_or(of.busy_until)
    }

    fn of_worker(&self, runs: &impl Fn(u32) -> bool) -> impl Iterator<Item = u32> {
        self.order.iter().copied().filter(move |&function| runs(function))
    }

    /// Workers that serve the version that they installed from this tick on.
    pub fn installed(&mut self, now: u32) -> Vec<usize> {
        let is_done = |of: &Worker| of.serves.is_some_and(|serves| serves <= now);
        let done: Vec<usize> = (0..self.workers.len()).filter(|&at| is_done(&self.workers[at])).collect();
        done.iter().for_each(|&at| self.workers[at].serves = None);
        done
    }

    /// What a worker does in a second, in thousandths of what it does with everything compiled: nothing while it
    /// installs.
    pub fn rate(&self, now: u32, worker: usize, runs: impl Fn(u32) -> bool) -> u32 {
        let of = &self.workers[worker];
        if of.serves.is_some() {
            return 0;
        }
        let (mut all, mut takes) = (0.0, 0.0);
        for function in (0..self.demand.len() as u32).filter(|&function| runs(function)) {
            let (cpu, compiled) = (self.demand[function as usize], of.compiled[function as usize] <= now);
            all += cpu;
            takes += if compiled { cpu } else { cpu * f64::from(self.spec.interpreted) };
        }
        if all > 0.0 { (all / takes * 1000.0) as u32 } else { 1000 }
    }

    /// Whether a worker has come back to its full rate with this one, and after how many ticks.
    pub fn is_full(&mut self, now: u32, worker: usize, rate: u32) -> Option<u32> {
        let begun = self.workers[worker].begun.filter(|_| rate >= FULL)?;
        self.workers[worker].begun = None;
        Some(now - begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn code(spec: CodeSpec) -> Code {
        let mut scenario = Scenario::default();
        scenario.workload.functions = 40;
        let functions = crate::workload::draw(&scenario, 7);
        Code::new(&spec, 1000, 100.0, 1, &functions)
    }

    #[test]
    fn code_is_held_while_it_is_called_and_memory_is_there() {
        let spec = CodeSpec { code_mb: 100.0, idle_min: 1.0, ..CodeSpec::default() };
        let mut code = code(spec);
        let mut holds = |now: u32, called: &[u32]| {
            called.iter().enumerate().for_each(|(at, &function)| {
                code.called(now + at as u32, 0, function, 1.0);
            });
            let mut mb = Vec::new();
            code.sweep(now + called.len() as u32, 1000.0, |_| 0.0, &mut mb);
            let mut warm = code.workers[0].warm.clone();
            warm.sort_unstable();
            (mb[0], warm)
        };
        assert_eq!(holds(1, &[3, 4]), (300, vec![3, 4]));
        assert_eq!(holds(50, &[4]), (300, vec![3, 4]));
        assert_eq!(holds(90, &[]), (200, vec![4]), "3 was not called for a minute");
        let (mb, warm) = holds(100, &[0, 1, 2, 3, 5, 6, 7, 8, 9, 10]);
        assert_eq!((mb, warm.len()), (900, 8), "900 of 1000 MB may be used, 100 are the base");
        assert!(!warm.contains(&4) && !warm.contains(&0), "what was called longest ago goes first: {warm:?}");
        let mut mb = Vec::new();
        code.sweep(101, 1000.0, |_| 500.0, &mut mb);
        assert_eq!(mb, [900], "calls that run take 500 of these, and code goes");
        assert_eq!(code.workers[0].warm.len(), 3);
        let mut distinct = Vec::new();
        code.end_hour(&mut distinct);
        assert_eq!(distinct, [11], "3 and 4 came twice");
    }

    #[test]
    fn a_profile_brings_a_worker_to_its_full_rate_sooner() {
        let minutes = |seeded: bool| {
            let mut code = code(CodeSpec { compiled: true, ..CodeSpec::default() });
            code.install(0, 0, seeded, |_| true);
            (0..36_000u32)
                .find(|&now| {
                    code.installed(now);
                    (0..40).for_each(|function| {
                        code.called(now, 0, function, 1000.0);
                    });
                    let rate = code.rate(now, 0, |_| true);
                    code.is_full(now, 0, rate).is_some()
                })
                .expect("it comes to its full rate")
        };
        assert!(minutes(true) * 4 < minutes(false), "{} and {}", minutes(true), minutes(false));
    }
}
