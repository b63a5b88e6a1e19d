//! A trace of a real platform in place of the drawn workload: its functions, and each of its calls when it came.
//!
//! What a trace does not say is assumed: a call computes all the time that it runs, on one thread, and its function's
//! trigger says whether somebody waits for it ([`ReplaySpec::reserved`]). Who reads the trace is the caller's business.

use crate::arithmetic::Random;
use crate::plan::Stream;
use crate::scenario::{Error, ReplaySpec, Scenario};
use crate::workload::{Function, THREAD_MIPS, Trigger};

/// A function of a trace.
#[derive(Clone, PartialEq, Debug)]
pub struct TracedFunction {
    /// What starts it, in the trace's word: `http`, `timer`, `queue`, ...
    pub trigger: String,
}

/// A call of a trace.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TracedCall {
    /// Seconds after the trace begins.
    pub at_s: f64,
    /// Which function's.
    pub function: u32,
    /// How long it ran, seconds.
    pub run_s: f64,
    /// Memory that it used, MB.
    pub memory_mb: f64,
}

/// A trace, its calls in order of time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Traced {
    /// All functions.
    pub functions: Vec<TracedFunction>,
    /// All calls.
    pub calls: Vec<TracedCall>,
    /// From its begin to its end, seconds.
    pub span_s: f64,
}

/// A call of a stream: its second after the run begins, and its cost in thousandths of its function's mean.
pub type Replayed = (f64, u16);

/// The longest that a call may take, in means of its function: what a cost has room for.
const MEANS_MAX: f64 = 65.0;

/// The functions of a trace, each with its clients in one region, and the streams of their calls by region.
///
/// # Errors
/// If the trace has no calls.
pub(crate) fn workload(
    traced: &Traced,
    spec: &ReplaySpec,
    scenario: &Scenario,
    seed: u64,
) -> Result<(Vec<Function>, Vec<Vec<Stream>>), Error> {
    if traced.calls.is_empty() {
        return Err(Error { what: "the trace has no calls".into(), place: "replay.trace".into() });
    }
    let regions = scenario.fleet.regions as usize;
    let mut random = Random::new(seed, 2);
    let mut functions: Vec<Function> =
        traced.functions.iter().map(|of| function(of, spec, scenario, &mut random)).collect();
    let mut streams: Vec<Vec<Replayed>> = vec![Vec::new(); functions.len()];
    for call in &traced.calls {
        let of = &mut functions[call.function as usize];
        of.calls_per_s += 1.0;
        of.run_s += call.run_s.max(0.001);
        of.memory_mb += call.memory_mb;
    }
    let busiest = busiest_minutes(traced);
    for (at, of) in functions.iter_mut().enumerate() {
        let calls = of.calls_per_s.max(1.0);
        (of.run_s, of.memory_mb) = (of.run_s / calls, of.memory_mb / calls);
        of.cpu = of.run_s * THREAD_MIPS;
        of.calls_per_s = of.calls_per_s * f64::from(spec.times) / traced.span_s.max(1.0);
        let peak = f64::from(busiest[at] * spec.times) / 60.0;
        // Reserved quota is so many times the usual: an owner asks for what the busiest minute needs.
        let reserved = peak / scenario.workload.reserved_quota;
        of.usual_per_s = if of.reserved { of.calls_per_s.max(reserved) } else { of.calls_per_s };
        of.deadline_s += if of.reserved { (3.0 * of.run_s) as u32 } else { 0 };
    }
    for call in &traced.calls {
        let (stream, of) = (&mut streams[call.function as usize], &functions[call.function as usize]);
        let means = (call.run_s.max(0.001) / of.run_s).min(MEANS_MAX);
        // Two calls of one microsecond are told apart by the next.
        let after = stream.last().map_or(0.0, |&(before, _)| before + 1e-6);
        let at_s = (call.at_s + scenario.time.warm_up_h * 3600.0).max(after);
        stream.push((at_s, (means * 1000.0).max(1.0) as u16));
    }
    let mut by_region = vec![Vec::new(); regions];
    for (at, replayed) in streams.into_iter().enumerate().filter(|(_, replayed)| !replayed.is_empty()) {
        let (region, per_s) = (functions[at].origins[0].0, functions[at].simulated_per_s());
        by_region[usize::from(region)].push(Stream { function: at as u32, region, per_s, replayed });
    }
    Ok((functions, by_region))
}

/// The most calls of each function in one minute.
fn busiest_minutes(traced: &Traced) -> Vec<u32> {
    let mut minutes = vec![(0u64, 0u32); traced.functions.len()];
    let mut most = vec![0; traced.functions.len()];
    for call in &traced.calls {
        let (at, minute) = (call.function as usize, (call.at_s / 60.0) as u64);
        minutes[at] = if minutes[at].0 == minute { (minute, minutes[at].1 + 1) } else { (minute, 1) };
        most[at] = most[at].max(minutes[at].1);
    }
    most
}

fn function(of: &TracedFunction, spec: &ReplaySpec, scenario: &Scenario, random: &mut Random) -> Function {
    let load = &scenario.workload;
    let reserved = spec.reserved.contains(&of.trigger);
    let later_s = (load.opportunistic_deadline_h * 3600.0) as u32;
    Function {
        trigger: match of.trigger.as_str() {
            "timer" => Trigger::Timer,
            "event" => Trigger::Event,
            _ => Trigger::Queue,
        },
        reserved,
        criticality: if reserved { 100 } else { 50 },
        deadline_s: if reserved { load.reserved_deadline_s } else { later_s },
        cpu: 0.0,
        run_s: 0.0,
        memory_mb: 0.0,
        calls_per_s: 0.0,
        usual_per_s: 0.0,
        gathered: spec.times,
        origins: vec![(random.below(u64::from(scenario.fleet.regions)) as u16, 1.0)],
        downstream: None,
        spiky: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn each_call_of_a_trace_comes_when_it_came_and_takes_what_it_took() {
        let call = |at_s, function, run_s| TracedCall { at_s, function, run_s, memory_mb: 100.0 };
        let named = |trigger: &str| TracedFunction { trigger: trigger.into() };
        let traced = Traced {
            functions: vec![named("http"), named("timer")],
            calls: vec![call(1.0, 0, 2.0), call(1.0, 0, 6.0), call(2.5, 1, 1.0)],
            span_s: 60.0,
        };
        let mut scenario = Scenario { replay: Some(ReplaySpec::default()), ..Scenario::default() };
        (scenario.fleet.regions, scenario.time.warm_up_h) = (1, 0.0);
        let plan = Plan::new(&scenario, 7, Some(&traced)).unwrap();
        let (http, timer) = (&plan.functions[0], &plan.functions[1]);
        assert!(http.reserved && !timer.reserved);
        assert_eq!((http.run_s, http.cpu, http.calls_per_s), (4.0, 4.0 * THREAD_MIPS, 2.0 / 60.0));
        let mut random = Random::new(7, 0);
        let stream = &plan.streams[0][0];
        let first = plan.arrival(stream, 0.0, &mut random).unwrap();
        let second = plan.arrival(stream, first.1, &mut random).unwrap();
        assert_eq!((first, second.0, plan.arrival(stream, second.1, &mut random)), ((4, 1.0), 4, None));
        assert_eq!(http.usual_per_s, 2.0 / 60.0, "a quarter of the busiest minute is less");
        assert_eq!([first, second].map(|(_, at)| stream.cost(at)), [Some(500), Some(1500)]);
        assert!(Plan::new(&scenario, 7, Some(&Traced::default())).is_err());
    }
}
