//! What was computed from a scenario before the first tick.

use crate::arithmetic::Random;
use crate::curve::Curve;
use crate::replay::{self, Replayed, Traced};
use crate::scenario::{Error, Scenario};
use crate::workload::{self, Function};

/// A function's calls in one region.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Which function.
    pub function: u32,
    /// Which region's clients.
    pub region: u16,
    /// Simulated calls a second, on average.
    pub per_s: f64,
    /// Its calls, in order of time, if they are a trace's; none if they are drawn.
    pub replayed: Vec<Replayed>,
}

impl Stream {
    /// What the call that comes at this second costs, in thousandths of its function's mean, if a trace says it.
    pub fn cost(&self, second: f64) -> Option<u16> {
        let at = self.replayed.partition_point(|&(at_s, _)| at_s < second);
        self.replayed.get(at).map(|&(_, cost)| cost)
    }
}

/// A whole run, before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario.
    pub scenario: Scenario,
    /// The seed.
    pub seed: u64,
    /// All functions.
    pub functions: Vec<Function>,
    /// All streams of calls, by region.
    pub streams: Vec<Vec<Stream>>,
    /// The received curve without its spike.
    pub plain: Curve,
    /// The same with it.
    pub spiky: Curve,
    /// The tick in which measuring begins.
    pub from: u32,
    /// The tick in which it ends.
    pub until: u32,
    /// The tick in which the run ends at the latest.
    pub end: u32,
    /// Functions that use a downstream service.
    pub users: Vec<u32>,
    /// The function whose spike is watched, and when.
    pub watched: Option<u32>,
    /// Ticks of one point of the series.
    pub point: u32,
}

impl Plan {
    /// Draws the workload of a scenario, or takes it from the trace that it replays.
    ///
    /// # Errors
    /// If a downstream service asks for more functions than there are, or a trace has no calls.
    ///
    /// # Panics
    /// If the scenario replays a trace, and none is given.
    pub fn new(scenario: &Scenario, seed: u64, traced: Option<&Traced>) -> Result<Plan, Error> {
        let (functions, watched, streams) = match &scenario.replay {
            Some(spec) => {
                let traced = traced.expect("who replays a trace reads it");
                let (functions, streams) = replay::workload(traced, spec, scenario, seed)?;
                (functions, None, streams)
            }
            None => drawn(scenario, seed)?,
        };
        let time = &scenario.time;
        let ticks = |hours: f64| (hours * 3_600_000.0 / f64::from(time.tick_ms)) as u32;
        let (from, until) = (ticks(time.warm_up_h), ticks(time.warm_up_h + time.hours));
        let end = until + ticks(time.tail_h);
        let begin_s = ((time.from_h - time.warm_up_h) * 3600.0) as i64;
        let span_s = (u64::from(end) * u64::from(time.tick_ms) / 1000) as u32 + 60;
        let curve = |spiky| Curve::new(&scenario.curve, begin_s, span_s, spiky);
        let users = (0..functions.len() as u32).filter(|&at| functions[at as usize].downstream.is_some());
        Ok(Plan {
            users: users.collect(),
            watched,
            scenario: scenario.clone(),
            seed,
            functions,
            streams,
            plain: curve(false),
            spiky: curve(true),
            from,
            until,
            end,
            point: time.point_min * 60_000 / time.tick_ms,
        })
    }

    /// The first tick after `after_s` seconds in which a call of this stream arrives, and the second; none before
    /// the end.
    pub fn arrival(&self, stream: &Stream, after_s: f64, random: &mut Random) -> Option<(u32, f64)> {
        if Some(stream.function) == self.watched {
            return self.arrival_in_spike(stream, after_s, random);
        }
        if !stream.replayed.is_empty() {
            let next = stream.replayed.partition_point(|&(at_s, _)| at_s <= after_s);
            let (second, _) = *stream.replayed.get(next)?;
            let tick = (second * 1000.0 / f64::from(self.scenario.time.tick_ms)) as u32;
            return (tick < self.end).then_some((tick, second));
        }
        let curve = if self.functions[stream.function as usize].spiky { &self.spiky } else { &self.plain };
        let mass = curve.mass(after_s) + random.exponential() / stream.per_s;
        let second = curve.second(mass)?;
        let tick = (second * 1000.0 / f64::from(self.scenario.time.tick_ms)) as u32;
        (tick < self.end).then_some((tick, second))
    }

    /// The same of the watched function: at an even rate while its spike lasts.
    fn arrival_in_spike(&self, stream: &Stream, after_s: f64, random: &mut Random) -> Option<(u32, f64)> {
        let spike = self.scenario.spike.as_ref()?;
        let begin = (self.scenario.time.warm_up_h + spike.at_h) * 3600.0;
        let second = after_s.max(begin) + random.exponential() / stream.per_s;
        let tick = (second * 1000.0 / f64::from(self.scenario.time.tick_ms)) as u32;
        (second < begin + spike.for_min * 60.0 && tick < self.end).then_some((tick, second))
    }

    /// Whether a spike may show in what arrives in this tick: while it lasts, and as long again. Without one,
    /// everything that is measured.
    pub fn is_watched(&self, tick: u32) -> bool {
        self.scenario
            .watch_span()
            .is_none_or(|(at_h, for_h)| (self.tick_at(at_h)..self.tick_at(at_h + for_h)).contains(&tick))
    }

    /// Ticks of so many milliseconds, at least one.
    pub fn ticks(&self, ms: u64) -> u32 {
        ms.div_ceil(u64::from(self.scenario.time.tick_ms)).clamp(1, 1 << 30) as u32
    }

    /// Milliseconds of so many ticks.
    pub fn ms(&self, ticks: u32) -> u64 {
        u64::from(ticks) * u64::from(self.scenario.time.tick_ms)
    }

    /// Whether what arrives in this tick is measured.
    pub fn is_measured(&self, tick: u32) -> bool {
        (self.from..self.until).contains(&tick)
    }

    /// The tick so many hours after measuring began.
    pub fn tick_at(&self, hours: f64) -> u32 {
        self.from + (hours * 3_600_000.0 / f64::from(self.scenario.time.tick_ms)) as u32
    }
}

/// Functions drawn from the published mix, the one that is watched, and streams by region.
type Drawn = (Vec<Function>, Option<u32>, Vec<Vec<Stream>>);

fn drawn(scenario: &Scenario, seed: u64) -> Result<Drawn, Error> {
    let mut functions = workload::draw(scenario, seed);
    attach(&mut functions, scenario)?;
    let watched = scenario.spike.as_ref().map(|spike| {
        functions.push(workload::spiking(scenario, spike));
        functions.len() as u32 - 1
    });
    let mut streams = vec![Vec::new(); scenario.fleet.regions as usize];
    for (at, function) in functions.iter().enumerate() {
        for &(region, share) in &function.origins {
            let per_s = function.simulated_per_s() * share;
            if per_s > 0.0 {
                let stream = Stream { function: at as u32, region, per_s, replayed: Vec::new() };
                streams[usize::from(region)].push(stream);
            }
        }
    }
    Ok((functions, watched, streams))
}

/// Gives each downstream service its functions: the largest by calls, of reserved quota, that use none yet. What waits
/// of these waits for the service, and not for a quieter hour.
fn attach(functions: &mut [Function], scenario: &Scenario) -> Result<(), Error> {
    let mut order: Vec<usize> = (0..functions.len()).filter(|&at| functions[at].reserved).collect();
    order.sort_by(|&a, &b| functions[b].calls_per_s.total_cmp(&functions[a].calls_per_s).then(a.cmp(&b)));
    let mut order = order.into_iter();
    for (service, spec) in scenario.downstreams.iter().enumerate() {
        for _ in 0..spec.functions {
            let Some(at) = order.next() else {
                let what = format!("`{}` wants more functions of reserved quota than there are", spec.name);
                return Err(Error { what, place: "downstream.functions".into() });
            };
            functions[at].downstream = Some(service as u16);
        }
    }
    Ok(())
}
