//! Warm calls: one at a time, and as many as a core serves.

use super::{Bench, Outcome, median};
use crate::Figure;
use crate::core_process::Core;
use crate::generator::{Window, quantile_us};
use crate::leases::{Leases, Used};
use std::time::Duration;

/// Rounds of ours beside the floor.
const ROUNDS: usize = 5;
/// Numbers of sandboxes that the rate is measured with; the best counts.
const SANDBOXES: [u32; 3] = [2, 4, 8];

impl Bench {
    /// One call at a time from the node through core and function and back, beside a round trip over a Unix socket
    /// between processes on the same CPUs, in turn.
    pub(super) fn one_call(&mut self) -> Outcome<()> {
        let (_stage, core, mut leases) = self.echoing(1)?;
        leases.used = Some(Used::default());
        let (mut times, mut inner, mut floors, mut ratios) = (vec![], vec![], vec![], vec![]);
        let before = core.cpu_ns()?;
        for _ in 0..ROUNDS {
            let floor = self.round_trip_us()?;
            one_at_a_time(&mut leases, self.time / 20);
            let (used, ended) = (leases.used.unwrap_or_default(), leases.ended);
            one_at_a_time(&mut leases, self.time / ROUNDS as u32);
            let took = quantile_us(&leases.timed.latency_ns, 0.5);
            let ran = leases.used.unwrap_or_default().run_ns - used.run_ns;
            inner.push(ran as f64 / (leases.ended - ended) as f64 / 1000.0);
            times.push(took);
            floors.push(floor);
            ratios.push(took / floor);
        }
        if leases.failed > 0 {
            return Err(format!("calls failed: {}", leases.failure).into());
        }
        let cpu_us = (core.cpu_ns()? - before) as f64 / leases.ended as f64 / 1000.0;
        let floor = median(&floors);
        let floored = |figure: Figure| figure.floor("Unix round trip us", floor);
        self.report.add(floored(Figure::new("process-call", median(&ratios), "round trips").bar(3.0, 1.5)));
        self.report.add(floored(Figure::new("process-call-p50", median(&times), "us")));
        // From the core's hand to the function and back.
        self.report.add(floored(Figure::new("process-call-inside-mean", median(&inner), "us")));
        self.report.add(Figure::new("process-call-core-cpu", cpu_us, "us"));
        Ok(())
    }

    /// Calls per second with all credits in use.
    pub(super) fn rate(&mut self) -> Outcome<()> {
        let mut best: Option<Rate> = None;
        for sandboxes in SANDBOXES {
            let (_stage, core, mut leases) = self.echoing(sandboxes)?;
            let rate = saturate(&core, &mut leases, self.time)?;
            println!(
                "  {sandboxes} sandboxes: {:.0} calls/s; CPU per call: core {:.1} us, function {:.1} us; busy: core's \
                 CPU {:.0} %, of that the core {:.0} %; the node's CPU {:.0} %",
                rate.per_s,
                rate.core_us,
                rate.function_us,
                rate.busy[self.core_cpu as usize],
                rate.core_us * rate.per_s / 1e4,
                rate.busy[self.node_cpu as usize],
            );
            if best.as_ref().is_none_or(|best| rate.per_s > best.per_s) {
                best = Some(rate);
            }
        }
        let best = best.expect("there is a number of sandboxes");
        self.report.add(Figure::new("process-rate", best.per_s, "calls/s").bar(30e3, 100e3));
        self.report.add(Figure::new("process-rate-core-cpu-per-call", best.core_us, "us"));
        self.report.add(Figure::new("process-rate-function-cpu-per-call", best.function_us, "us"));
        self.report.add(Figure::new("process-rate-core-cpu-busy", best.busy[self.core_cpu as usize], "%"));
        self.report.add(Figure::new("process-rate-node-cpu-busy", best.busy[self.node_cpu as usize], "%"));
        Ok(())
    }
}

/// Calls one after the other, each timed.
pub(super) fn one_at_a_time(leases: &mut Leases, time: Duration) {
    leases.timed = Window::default();
    let begun = leases.now();
    while leases.now() - begun < time {
        leases.send_timed(0, leases.now());
        leases.settle();
    }
}

/// What a saturated core does.
pub(super) struct Rate {
    pub per_s: f64,
    /// CPU of the core's process for one call, us.
    pub core_us: f64,
    /// CPU of the function's sandbox for one call, as outcomes say, us.
    pub function_us: f64,
    /// How busy each CPU was, per cent, whoever used it.
    busy: Vec<f64>,
}

/// Keeps all credits in use, after a while of warming up.
pub(super) fn saturate(core: &Core, leases: &mut Leases, time: Duration) -> Outcome<Rate> {
    saturate_with(core, leases, time, u64::MAX)
}

/// Keeps so many calls in flight.
pub(super) fn saturate_with(core: &Core, leases: &mut Leases, time: Duration, most: u64) -> Outcome<Rate> {
    let run = |leases: &mut Leases, time: Duration| {
        let begun = leases.now();
        while leases.now() - begun < time {
            let room = most.saturating_sub(leases.in_flight());
            leases.send_block(0, room);
            leases.poll(Duration::from_millis(1));
        }
        leases.now() - begun
    };
    leases.used = None;
    run(leases, time / 2);
    leases.used = Some(Used::default());
    let (ended, cpu, busy) = (leases.ended, core.cpu_ns()?, busy_ticks()?);
    let took = run(leases, time);
    let (calls, cpu, after) = ((leases.ended - ended) as f64, core.cpu_ns()? - cpu, busy_ticks()?);
    leases.settle();
    if leases.failed > 0 {
        return Err(format!("{} calls failed: {}", leases.failed, leases.failure).into());
    }
    let part = |(before, after): (&(u64, u64), &(u64, u64))| {
        100.0 * (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
    };
    Ok(Rate {
        per_s: calls / took.as_secs_f64(),
        core_us: cpu as f64 / calls / 1000.0,
        function_us: leases.used.unwrap_or_default().cpu_ns as f64 / calls / 1000.0,
        busy: busy.iter().zip(&after).map(part).collect(),
    })
}

/// Busy ticks and all ticks so far, of each CPU.
fn busy_ticks() -> Outcome<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let of_cpus = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let ticks = of_cpus.map(|line| {
        let words = line.split_whitespace().skip(1).take(8).map(|word| word.parse().unwrap_or(0));
        let words: Vec<u64> = words.collect();
        let all: u64 = words.iter().sum();
        // The fourth and fifth are idle time.
        (all - words.iter().skip(3).take(2).sum::<u64>(), all)
    });
    Ok(ticks.collect())
}
