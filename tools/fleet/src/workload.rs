//! The functions of the fleet, drawn from the published mix.
//!
//! The paper's tables give, per trigger, the shares of functions, calls and compute, and percentiles per function of
//! CPU, memory and time. A function draws its CPU, memory and time from these. Popularity follows Zipf's law, bent
//! so that frequent functions are cheaper, by just the exponent with which the published shares of calls and compute
//! come out together.

use crate::arithmetic::{Random, exp2, log2, power};
use crate::scenario::{Scenario, SpikeSpec, WorkloadSpec};

/// What starts a function's calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Queue: the bulk of the compute.
    Queue,
    /// Warehouse changes and data streams: the bulk of the calls.
    Event,
    /// Timers.
    Timer,
}

/// One row of the paper's tables.
struct Mix {
    trigger: Trigger,
    /// Share of all functions, calls and compute.
    functions: f64,
    calls: f64,
    compute: f64,
    /// P10, P50, P90, P95, P99.
    cpu: [f64; 5],
    memory_mb: [f64; 5],
    run_ms: [f64; 5],
}

/// "< 1%" of a table is taken as a half of that for the compute of timers, and as a twentieth for their calls, which
/// cost more than others.
const MIX: [Mix; 3] = [
    Mix {
        trigger: Trigger::Queue,
        functions: 0.89,
        calls: 0.1498,
        compute: 0.86,
        cpu: [20.4, 222.0, 7_611.0, 31_421.0, 1_064_280.0],
        memory_mb: [0.08, 2.16, 63.8, 194.6, 5_952.0],
        run_ms: [219.0, 2_652.0, 23_060.0, 76_711.0, 266_446.0],
    },
    Mix {
        trigger: Trigger::Event,
        functions: 0.08,
        calls: 0.8497,
        compute: 0.14,
        cpu: [0.54, 11.4, 189.0, 441.0, 2_981.0],
        memory_mb: [0.02, 1.2, 26.0, 44.7, 220.0],
        run_ms: [3.96, 97.2, 1_270.0, 2_817.0, 11_232.0],
    },
    Mix {
        trigger: Trigger::Timer,
        functions: 0.03,
        calls: 0.0005,
        compute: 0.005,
        cpu: [0.37, 576.0, 44_839.0, 144_020.0, 369_282.0],
        memory_mb: [0.01, 0.17, 66.9, 134.5, 388.0],
        run_ms: [23.7, 3_625.0, 96_352.0, 150_998.0, 659_162.0],
    },
];

/// M instructions a second of one thread: a call that says it needs more in its time runs on several.
pub const THREAD_MIPS: f64 = 3000.0;

/// Ranks by which Zipf's law is moved, so that the most frequent function has about a hundredth of its trigger's calls
/// and not a tenth: the paper shows no function that is a large part of the fleet.
const HEAD: f64 = 10.0;

/// Part of a pool's memory that one simulated call takes at most, unless one real call needs more: it is in one pool,
/// and the real calls would lie evenly in all.
const BATCH_MEMORY: f64 = 1.0 / 16.0;

/// A function of the fleet.
#[derive(Clone, Debug)]
pub struct Function {
    /// What starts it.
    pub trigger: Trigger,
    /// Reserved quota, or opportunistic.
    pub reserved: bool,
    /// 1 to 255.
    pub criticality: u8,
    /// Seconds from arrival until it should be done.
    pub deadline_s: u32,
    /// M instructions of one call, on average.
    pub cpu: f64,
    /// Seconds that one call takes.
    pub run_s: f64,
    /// Memory of one call, MB.
    pub memory_mb: f64,
    /// Mean calls a second, all regions.
    pub calls_per_s: f64,
    /// Calls a second that its quota is reckoned by: the same, but for a function that spikes.
    pub usual_per_s: f64,
    /// Real calls that one simulated call stands for.
    pub gathered: u32,
    /// Regions whose clients call it, with their share of its calls.
    pub origins: Vec<(u16, f64)>,
    /// Which downstream service it uses.
    pub downstream: Option<u16>,
    /// Whether the received curve has its midnight spike for it.
    pub spiky: bool,
}

impl Function {
    /// M instructions a second over the whole fleet, on average.
    pub fn demand(&self) -> f64 {
        self.calls_per_s * self.cpu
    }

    /// Simulated calls a second over the whole fleet, on average.
    pub fn simulated_per_s(&self) -> f64 {
        self.calls_per_s / f64::from(self.gathered)
    }
}

/// A value at `unit` of a distribution known by P10, P50, P90, P95 and P99: straight lines in the logarithm, going
/// on below P10 as they begin, and ending at P99.
fn quantile(known: &[f64; 5], unit: f64) -> f64 {
    const AT: [f64; 5] = [0.10, 0.50, 0.90, 0.95, 0.99];
    let unit = unit.clamp(0.01, 0.99);
    let upper = AT.partition_point(|&at| at < unit).clamp(1, 4);
    let (low, high) = (log2(known[upper - 1]), log2(known[upper]));
    exp2(low + (high - low) * (unit - AT[upper - 1]) / (AT[upper] - AT[upper - 1]))
}

/// Draws all functions of a scenario.
pub fn draw(scenario: &Scenario, seed: u64) -> Vec<Function> {
    let mut random = Random::new(seed, 1);
    let spec = &scenario.workload;
    let total = scenario.demand_mips();
    let mut all = Vec::new();
    let mut left = spec.functions;
    for (at, mix) in MIX.iter().enumerate() {
        let share = (f64::from(spec.functions) * mix.functions).round() as u32;
        let count = if at == 2 { left } else { share.min(left) };
        left -= count;
        all.push(drawn(mix, count, &mut random));
    }
    balance(&mut all);
    let mut all: Vec<Function> = all.into_iter().flatten().collect();
    let demand: f64 = all.iter().map(Function::demand).sum();
    for function in &mut all {
        function.calls_per_s *= total / demand;
        function.usual_per_s = function.calls_per_s;
    }
    promise(&mut all, spec, &mut random);
    place(&mut all, scenario, &mut random);
    all
}

/// The functions of one trigger; popularity by Zipf's law, its sum one.
fn drawn(mix: &Mix, count: u32, random: &mut Random) -> Vec<Function> {
    let function = |rank: u32, random: &mut Random| {
        // Costs that stand together: a call that computes much takes long, mostly. Strata keep small fleets like
        // large ones.
        let unit = (f64::from(rank) + random.unit()) / f64::from(count);
        let near = |random: &mut Random| if random.unit() < 0.7 { unit } else { random.unit() };
        let cpu = quantile(&mix.cpu, unit);
        let run_s = quantile(&mix.run_ms, near(random)) / 1000.0;
        Function {
            trigger: mix.trigger,
            reserved: false,
            criticality: 0,
            deadline_s: 0,
            cpu,
            run_s: run_s.max(cpu / THREAD_MIPS),
            // By itself: the paper's most costly workload holds 30 to 230 MB.
            memory_mb: quantile(&mix.memory_mb, random.unit()),
            calls_per_s: 0.0,
            usual_per_s: 0.0,
            gathered: 1,
            origins: Vec::new(),
            downstream: None,
            spiky: false,
        }
    };
    let mut all: Vec<Function> = (0..count).map(|rank| function(rank, random)).collect();
    shuffle(&mut all, random);
    for (rank, function) in all.iter_mut().enumerate() {
        function.calls_per_s = 1.0 / (rank as f64 + HEAD);
    }
    share(&mut all, mix.calls);
    all
}

fn shuffle<T>(all: &mut [T], random: &mut Random) {
    for at in (1..all.len()).rev() {
        all.swap(at, random.below(at as u64 + 1) as usize);
    }
}

/// Scales rates to this sum.
fn share(all: &mut [Function], sum: f64) {
    let now: f64 = all.iter().map(|function| function.calls_per_s).sum();
    all.iter_mut().for_each(|function| function.calls_per_s *= sum / now);
}

/// Bends the popularity of queue and timer functions until their compute stands to that of event functions as
/// published.
fn balance(all: &mut [Vec<Function>]) {
    let demand = |of: &[Function]| of.iter().map(Function::demand).sum::<f64>();
    let event = demand(&all[1]) / MIX[1].compute;
    for (functions, mix) in all.iter_mut().zip(&MIX).filter(|(_, mix)| mix.trigger != Trigger::Event) {
        let plain: Vec<f64> = functions.iter().map(|function| function.calls_per_s).collect();
        let (mut low, mut high) = (-1.0, 2.0);
        for _ in 0..40 {
            let exponent = (low + high) / 2.0;
            for (function, &rate) in functions.iter_mut().zip(&plain) {
                function.calls_per_s = rate * power(function.cpu, -exponent);
            }
            share(functions, mix.calls);
            if demand(functions) > event * mix.compute { low = exponent } else { high = exponent }
        }
    }
}

/// Says which functions have reserved quota, so that the rest's share of the compute is as the scenario says.
/// The largest are dealt first, so that the share holds in small fleets too.
fn promise(all: &mut [Function], spec: &WorkloadSpec, random: &mut Random) {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|&a, &b| all[b].demand().total_cmp(&all[a].demand()).then(a.cmp(&b)));
    let (mut opportunistic, mut dealt) = (0.0, 0.0);
    for at in order {
        let function = &mut all[at];
        dealt += function.demand();
        // A call that takes minutes is not one that somebody waits for.
        let later = opportunistic + function.demand() * 0.5 <= spec.opportunistic * dealt;
        function.reserved = !later;
        if later {
            opportunistic += function.demand();
        }
        function.spiky = later;
        (function.criticality, function.deadline_s) = if later {
            (50, (spec.opportunistic_deadline_h * 3600.0) as u32)
        } else {
            // What takes minutes by itself is not promised in one.
            (100 + 50 * random.below(3) as u8, spec.reserved_deadline_s + (3.0 * function.run_s) as u32)
        };
    }
}

/// Says where the clients of each function are, and how many real calls one simulated call stands for.
fn place(all: &mut [Function], scenario: &Scenario, random: &mut Random) {
    let weights = scenario.demand_weights();
    let spec = &scenario.workload;
    for function in all {
        let batch_cpu = spec.batch_worker_s * f64::from(scenario.fleet.worker_mips);
        let alone = function.calls_per_s * spec.gather_s;
        // In as many regions as give each a full batch in the longest time of gathering.
        let regions = (alone * function.cpu / batch_cpu).clamp(1.0, weights.len() as f64) as usize;
        function.origins = origins(&weights, regions, random);
        let stream = alone / regions as f64;
        let batch = (batch_cpu / function.cpu).min(batch_by_memory(function, scenario));
        function.gathered = batch.min(stream).clamp(1.0, 1e9) as u32;
    }
}

/// How many calls take [`BATCH_MEMORY`] of a pool together: those that run at once count.
fn batch_by_memory(function: &Function, scenario: &Scenario) -> f64 {
    let fleet = &scenario.fleet;
    let pool_workers = (fleet.workers / fleet.regions / fleet.pools).max(1);
    let pool_mb = (f64::from(fleet.worker_memory_mb) - fleet.base_memory_mb) * f64::from(pool_workers);
    let run_s = function.run_s.max(scenario.workload.spread_s).max(0.001);
    let mb = function.memory_mb * (function.run_s / run_s).max(0.001);
    BATCH_MEMORY * pool_mb / mb.max(0.001)
}

/// A function of opportunistic quota all of whose calls come in one spike. Its quota is as if they came over a day.
pub fn spiking(scenario: &Scenario, spike: &SpikeSpec) -> Function {
    let weights = scenario.demand_weights();
    let sum: f64 = weights.iter().sum();
    let calls_per_s = spike.calls / (spike.for_min * 60.0);
    let batch = scenario.workload.batch_worker_s * f64::from(scenario.fleet.worker_mips) / spike.cpu;
    let mut function = Function {
        trigger: Trigger::Event,
        reserved: spike.reserved,
        criticality: if spike.reserved { 100 } else { 50 },
        deadline_s: (scenario.workload.opportunistic_deadline_h * 3600.0) as u32,
        cpu: spike.cpu,
        run_s: spike.run_s,
        memory_mb: spike.memory_mb,
        calls_per_s: if spike.comes { calls_per_s } else { 0.0 },
        usual_per_s: spike.calls / 86_400.0,
        gathered: 1,
        origins: (0..weights.len()).map(|at| (at as u16, weights[at] / sum)).collect(),
        downstream: None,
        spiky: false,
    };
    let batch = batch.min(batch_by_memory(&function, scenario));
    function.gathered = batch.min(calls_per_s).clamp(1.0, 1e9) as u32;
    function
}

/// `count` different regions, drawn by weight, with their shares among each other.
fn origins(weights: &[f64], count: usize, random: &mut Random) -> Vec<(u16, f64)> {
    let mut left: Vec<(u16, f64)> =
        weights.iter().enumerate().map(|(region, &weight)| (region as u16, weight)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let mut at = random.unit() * left.iter().map(|(_, weight)| weight).sum::<f64>();
        let found = left.iter().position(|(_, weight)| {
            at -= weight;
            at < 0.0
        });
        chosen.push(left.remove(found.unwrap_or(left.len() - 1)));
    }
    chosen.sort_by_key(|&(region, _)| region);
    let sum: f64 = chosen.iter().map(|(_, weight)| weight).sum();
    chosen.into_iter().map(|(region, weight)| (region, weight / sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_the_published_one() {
        let mut scenario = Scenario::default();
        scenario.workload.functions = 18_000;
        let all = draw(&scenario, 7);
        let of = |trigger, what: fn(&Function) -> f64| {
            let sum = |all: &mut dyn Iterator<Item = &Function>| all.map(what).sum::<f64>();
            sum(&mut all.iter().filter(|f| f.trigger == trigger)) / sum(&mut all.iter())
        };
        let calls = |f: &Function| f.calls_per_s;
        assert!((of(Trigger::Queue, |_| 1.0) - 0.89).abs() < 0.01);
        assert!((of(Trigger::Event, calls) - 0.85).abs() < 0.01);
        assert!((of(Trigger::Queue, calls) - 0.15).abs() < 0.01);
        assert!((of(Trigger::Queue, Function::demand) - 0.86).abs() < 0.02);
        assert!((of(Trigger::Event, Function::demand) - 0.14).abs() < 0.02);
        assert!(of(Trigger::Timer, Function::demand) < 0.01);
        let later: f64 = all.iter().filter(|f| !f.reserved).map(Function::demand).sum();
        let total: f64 = all.iter().map(Function::demand).sum();
        assert!((later / total - scenario.workload.opportunistic).abs() < 0.02);
        assert!((total / scenario.demand_mips() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_come_back() {
        for (unit, value) in [(0.1, 20.4), (0.5, 222.0), (0.95, 31_421.0), (0.99, 1_064_280.0)] {
            assert!((quantile(&MIX[0].cpu, unit) / value - 1.0).abs() < 1e-9);
        }
    }
}
