//! The figures of a run, and rows: figures beside the paper's, a bar and an aim.

use crate::fleet::Run;
use crate::record::{Delays, Ledger, Point};
use crate::scenario::{Against, Good, RowSpec, Scenario};
use serde::Serialize;

/// One figure of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// In kebab case.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// A run of a scenario or of one of its variants, as figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The variant's name; empty for the scenario itself.
    pub variant: String,
    /// Hash of everything that happened.
    pub trace_hash: String,
    /// All figures.
    pub figures: Vec<Figure>,
}

impl Summary {
    /// A figure of this name.
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// The value of a figure.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn value(&self, name: &str) -> f64 {
        self.figure(name).unwrap_or_else(|| panic!("no figure {name}")).value
    }
}

/// A row of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// What ours shows.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What the paper has.
    pub paper: String,
    /// What must be reached.
    pub bar: f64,
    /// What we want.
    pub aim: f64,
    /// `aim`, `bar` or `MISSED`.
    pub verdict: String,
}

/// Points of all regions, summed: of S the mean, of delays the longest.
pub fn fleet(run: &Run) -> Vec<Point> {
    let count = run.regions.iter().map(|region| region.points.len()).min().unwrap_or(0);
    (0..count).map(|at| sum(run, at)).collect()
}

fn sum(run: &Run, at: usize) -> Point {
    let mut all = Point::default();
    for region in &run.regions {
        let of = &region.points[at];
        all.received += of.received;
        all.received_cpu += of.received_cpu;
        all.rate += of.rate / run.regions.len() as u64;
        all.executed_cpu += of.executed_cpu;
        all.remote_cpu += of.remote_cpu;
        all.finished += of.finished;
        all.backlog_cpu += of.backlog_cpu;
        all.s += of.s;
        all.exceptions += of.exceptions;
        all.reserved_delay_ms = all.reserved_delay_ms.max(of.reserved_delay_ms);
    }
    all.s /= run.regions.len().max(1) as u64;
    all
}

/// The points that were measured.
pub fn measured(run: &Run) -> Vec<Point> {
    let points = fleet(run);
    points[run.measured.start.min(points.len())..run.measured.end.min(points.len())].to_vec()
}

fn peak_to_trough(points: &[Point], what: fn(&Point) -> u64) -> f64 {
    let values = || points.iter().map(what);
    values().max().unwrap_or(0) as f64 / values().min().unwrap_or(0).max(1) as f64
}

/// All figures of a run.
pub fn figures(scenario: &Scenario, run: &Run) -> Vec<Figure> {
    let (mut reserved, mut opportunistic, mut ledger) =
        (Delays::default(), Delays::default(), Ledger::default());
    let mut others = Delays::default();
    for region in &run.regions {
        reserved.merge(&region.reserved);
        opportunistic.merge(&region.opportunistic);
        others.merge(&region.others);
        ledger.merge(&region.ledger);
    }
    let points = measured(run);
    let capacity: u64 = run.capacities.iter().sum();
    let whole = capacity as f64 * f64::from(run.point_s) * points.len() as f64;
    let mean = |what: fn(&Point) -> u64| points.iter().map(what).sum::<u64>() as f64 / whole * 100.0;
    let promise_ms = 1000 * u64::from(scenario.workload.reserved_start_s);
    let mut all = Vec::new();
    let mut add = |name: &str, value: f64, unit: &str| {
        all.push(Figure { name: name.into(), value, unit: unit.into() });
    };
    add("received-peak-to-trough", peak_to_trough(&points, |p| p.received_cpu), "x");
    add("received-calls-peak-to-trough", peak_to_trough(&points, |p| p.received), "x");
    add("executed-peak-to-trough", peak_to_trough(&points, |p| p.executed_cpu), "x");
    add("mean-utilisation", mean(|p| p.executed_cpu), "%");
    add("received-cpu", mean(|p| p.received_cpu), "% of the fleet");
    add("remote-cpu", mean(|p| p.remote_cpu), "% of the fleet");
    add("reserved-in-time", reserved.within(promise_ms) * 100.0, "%");
    add("reserved-p50-ms", reserved.quantile_ms(0.5) as f64, "ms");
    add("reserved-p99-ms", reserved.quantile_ms(0.99) as f64, "ms");
    add("reserved-max-s", reserved.max_ms as f64 / 1000.0, "s");
    add("promise-broken-s", (reserved.max_ms.saturating_sub(promise_ms)) as f64 / 1000.0, "s");
    add("others-p99-ms", others.quantile_ms(0.99) as f64, "ms");
    add("others-max-ms", others.max_ms as f64, "ms");
    add("opportunistic-p50-h", opportunistic.quantile_ms(0.5) as f64 / 3_600_000.0, "h");
    add("opportunistic-max-h", opportunistic.max_ms as f64 / 3_600_000.0, "h");
    let ended = ledger.finished.max(1) as f64;
    add("deadlines-met", 100.0 - ledger.late as f64 / ended * 100.0, "%");
    add("opportunistic-deadlines-met", 100.0 - ledger.late_opportunistic as f64 / ended * 100.0, "%");
    add("calls-received", ledger.received as f64, "calls");
    add("calls-not-ended", (ledger.received - ledger.finished) as f64, "calls");
    add("runs-refused", ledger.refused as f64, "calls");
    add("runs-lost", ledger.lost_runs as f64, "calls");
    let hours = |cpu: u64| cpu as f64 / capacity as f64 / 3600.0;
    add("backlog-max-h", hours(points.iter().map(|p| p.backlog_cpu).max().unwrap_or(0)), "h of the fleet");
    add("simulated-calls", ledger.simulated as f64, "calls");
    all.extend(held(run));
    all.extend(window(scenario, run, &points, capacity));
    all.extend(services(scenario, run));
    all
}

/// What workers held in memory, and how a push went, where that is simulated.
fn held(run: &Run) -> Vec<Figure> {
    let mut all = Vec::new();
    let mut add = |name: &str, values: Vec<u64>, of: f64, unit: &str| {
        let mut values = values;
        values.sort_unstable();
        for (percent, share) in [("p50", 0.5), ("p95", 0.95)] {
            if let Some(last) = values.len().checked_sub(1) {
                let value = values[(last as f64 * share).round() as usize] as f64 / of;
                all.push(Figure { name: format!("{name}-{percent}"), value, unit: unit.into() });
            }
        }
    };
    let regions = || run.regions.iter();
    let wide = |values: &[u32]| values.iter().map(|&value| u64::from(value)).collect::<Vec<_>>();
    add("worker-memory", regions().flat_map(|of| wide(&of.memory_mb)).collect(), 1.0, "MB");
    add("functions-an-hour", regions().flat_map(|of| wide(&of.distinct)).collect(), 1.0, "functions");
    let took: Vec<u64> = regions().flat_map(|of| of.full_rate_ms.iter().copied()).collect();
    if !took.is_empty() {
        let least = regions().map(|of| of.rate_least).min().unwrap_or(1000);
        add("full-rate-after", took.clone(), 60_000.0, "min");
        all.push(Figure { name: "workers-pushed".into(), value: took.len() as f64, unit: "workers".into() });
        all.push(Figure { name: "rate-at-worst".into(), value: f64::from(least) / 10.0, unit: "%".into() });
    }
    all
}

/// What the first event changed: figures of its time alone.
fn window(scenario: &Scenario, run: &Run, points: &[Point], capacity: u64) -> Vec<Figure> {
    let spans = scenario.events.iter().map(|event| (event.at_h, event.for_h));
    let Some((at_h, for_h)) = spans.chain(scenario.watch_span()).next() else { return Vec::new() };
    let point = |hours: f64| (hours * 3600.0 / f64::from(run.point_s)) as usize;
    let during = &points[point(at_h).min(points.len())..point(at_h + for_h).min(points.len())];
    let used: u64 = during.iter().map(|p| p.executed_cpu).sum();
    let whole = capacity as f64 * f64::from(run.point_s) * during.len().max(1) as f64;
    vec![Figure { name: "utilisation-then".into(), value: used as f64 / whole * 100.0, unit: "%".into() }]
}

/// How the services fared: what they refused at worst, and when it was over.
fn services(scenario: &Scenario, run: &Run) -> Vec<Figure> {
    let mut all = Vec::new();
    let Some(event) = scenario.events.first() else { return all };
    let per_h = 3600 / run.point_s as usize;
    let begin = run.measured.start + (event.at_h * per_h as f64) as usize;
    let end = run.measured.start + ((event.at_h + event.for_h) * per_h as f64) as usize;
    for of in &run.services {
        let mut add = |what: &str, value: f64, unit: &str| {
            all.push(Figure { name: format!("{}-{what}", of.name), value, unit: unit.into() });
        };
        let mean = |range: std::ops::Range<usize>| {
            let range = range.start.min(of.asked.len())..range.end.min(of.asked.len());
            let count = range.len().max(1) as f64;
            of.asked[range].iter().sum::<u64>() as f64 / count
        };
        let before = mean(begin.saturating_sub(per_h)..begin);
        // The last half of the incident: the limits have settled.
        let during = mean((begin + end) / 2..end);
        add("traffic-change", (during / before - 1.0) * 100.0, "%");
        let refused = |at: usize| of.refused[at] as f64 / of.asked[at].max(1) as f64 * 100.0;
        let span = begin.min(of.asked.len())..end.min(of.asked.len());
        add("refused-at-worst", span.clone().map(refused).fold(0.0, f64::max), "%");
        let settled = (begin + end) / 2..end;
        let share = settled.clone().map(|at| of.refused[at]).sum::<u64>() as f64
            / settled.map(|at| of.asked[at]).sum::<u64>().max(1) as f64;
        add("refused-settled", share * 100.0, "%");
        let waits = |at: usize| run.regions.iter().map(|r| r.points[at].using_waiting).sum::<u64>();
        let count = run.regions[0].points.len();
        let usual = (begin.saturating_sub(per_h)..begin).map(waits).max().unwrap_or(0);
        let top = (begin..count.min(end + 1)).map(waits).max().unwrap_or(0);
        let drained = (end..count).find(|&at| waits(at) <= usual + top / 50).unwrap_or(count);
        add("drained-after-h", (drained - end) as f64 / per_h as f64, "h");
        add("backlog-calls", top as f64, "simulated calls");
    }
    all
}

/// The rows of a scenario, from the summaries of its runs.
///
/// # Panics
/// If a row names a figure or a variant that is not there.
pub fn rows(scenario: &Scenario, summaries: &[Summary]) -> Vec<Row> {
    scenario.rows.iter().map(|spec| row(spec, summaries)).collect()
}

fn row(spec: &RowSpec, summaries: &[Summary]) -> Row {
    let name = if spec.figure.is_empty() { &spec.name } else { &spec.figure };
    let of = |variant: &str| {
        let summary = summaries.iter().find(|summary| summary.variant == variant);
        summary.unwrap_or_else(|| panic!("row {}: no variant `{variant}`", spec.name)).value(name)
    };
    let ours = of(&spec.of);
    let value = match (spec.beside.as_str(), spec.against) {
        ("", _) => ours,
        (beside, Against::Ratio) => ours / of(beside),
        (beside, Against::Change) => (ours / of(beside) - 1.0) * 100.0,
        (beside, Against::Distance) => (ours / of(beside) - 1.0).abs() * 100.0,
    };
    let reaches = |mark: f64| match spec.good {
        Good::Less => value <= mark,
        Good::More => value >= mark,
    };
    let verdict = match (reaches(spec.aim), reaches(spec.bar)) {
        (true, _) => "aim",
        (false, true) => "bar",
        (false, false) => "MISSED",
    };
    let (name, unit) = (spec.name.clone(), spec.unit.clone());
    Row {
        name,
        value,
        unit,
        paper: spec.paper.clone(),
        bar: spec.bar,
        aim: spec.aim,
        verdict: verdict.into(),
    }
}
