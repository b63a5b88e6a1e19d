//! What is simulated: read from TOML, with every key optional but the title.
//!
//! A scenario names a fleet, its load, what goes wrong and when, variants that are run beside it (the same seed with
//! some keys changed), and rows: figures with the paper's value, a bar and an aim.

mod check;

use check::change;
use serde::Deserialize;
use std::fmt;

/// Longest scenario file.
pub const BYTES_MAX: usize = 1 << 16;

/// The scenarios that come with the program, by name.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("day", include_str!("../scenarios/day.toml")),
    ("dense", include_str!("../scenarios/dense.toml")),
    ("orders", include_str!("../scenarios/orders.toml")),
    ("controllers-lost", include_str!("../scenarios/controllers-lost.toml")),
    ("region-lost", include_str!("../scenarios/region-lost.toml")),
    ("spike", include_str!("../scenarios/spike.toml")),
    ("cache-incident", include_str!("../scenarios/cache-incident.toml")),
    ("graph-incident", include_str!("../scenarios/graph-incident.toml")),
    ("locality", include_str!("../scenarios/locality.toml")),
    ("code-push", include_str!("../scenarios/code-push.toml")),
    ("azure", include_str!("../scenarios/azure.toml")),
    ("what-if", include_str!("../scenarios/what-if.toml")),
];

/// A scenario.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// One line: what it shows.
    pub title: String,
    /// How long, and how finely.
    pub time: TimeSpec,
    /// Regions and workers.
    pub fleet: FleetSpec,
    /// Functions and their calls.
    pub workload: WorkloadSpec,
    /// The received curve.
    pub curve: CurveSpec,
    /// Settings of the deciders.
    pub control: ControlSpec,
    /// What workers hold in memory, where they hold it, and pushes of new code.
    pub code: CodeSpec,
    /// Services that functions use.
    #[serde(rename = "downstream")]
    pub downstreams: Vec<DownstreamSpec>,
    /// What happens, and when.
    #[serde(rename = "event")]
    pub events: Vec<EventSpec>,
    /// One function's calls that all come at once.
    pub spike: Option<SpikeSpec>,
    /// A trace in place of the drawn workload.
    pub replay: Option<ReplaySpec>,
    /// What is run beside it.
    #[serde(rename = "variant")]
    pub variants: Vec<VariantSpec>,
    /// What is judged.
    #[serde(rename = "row")]
    pub rows: Vec<RowSpec>,
}

/// How long, and how finely.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeSpec {
    /// Hours that are measured.
    pub hours: f64,
    /// The hour of the day at which measuring begins.
    pub from_h: f64,
    /// Hours before that: the fleet starts empty, and the level of the day is known after a day.
    pub warm_up_h: f64,
    /// Hours after it in which what was received must end.
    pub tail_h: f64,
    /// Milliseconds of one step: what happens within one happens at its beginning. A start delay is known to this.
    pub tick_ms: u32,
    /// Ticks between exchanges of regions: a word to another region takes one to two of these.
    pub window_ticks: u32,
    /// Minutes of one point of the series.
    pub point_min: u32,
}

impl Default for TimeSpec {
    fn default() -> TimeSpec {
        TimeSpec {
            hours: 24.0,
            from_h: 0.0,
            warm_up_h: 24.0,
            tail_h: 30.0,
            tick_ms: 250,
            window_ticks: 4,
            point_min: 10,
        }
    }
}

/// Regions and workers.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetSpec {
    /// Regions.
    pub regions: u32,
    /// Workers of all regions.
    pub workers: u32,
    /// Parts of a region that its scheduler sees as one core each: a hundred workers or so, which share the calls of
    /// one simulated call. As many pools as workers makes each worker a core.
    pub pools: u32,
    /// M instructions a second of a worker: 32 threads of 3 GHz at one instruction a cycle. With the published calls
    /// per worker, utilisation and percentiles of CPU per call this is what comes out.
    pub worker_mips: u32,
    /// Memory of a worker (the paper's).
    pub worker_memory_mb: u32,
    /// How much regions differ: capacity and demand of one lie so many thousandths around the mean, each on its own.
    pub uneven: u32,
    /// What a worker holds without any function: runtime, and the code of its namespace.
    pub base_memory_mb: f64,
}

impl Default for FleetSpec {
    fn default() -> FleetSpec {
        FleetSpec {
            regions: 12,
            workers: 100_000,
            pools: 64,
            worker_mips: 96_000,
            worker_memory_mb: 65_536,
            uneven: 150,
            base_memory_mb: 8192.0,
        }
    }
}

/// Functions and their calls.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadSpec {
    /// Distinct functions.
    pub functions: u32,
    /// Mean demand over the day, in workers that it would keep busy. Apart from the fleet, so that a fleet can be
    /// made smaller under the same load.
    pub demand_workers: f64,
    /// Share of the demand that has opportunistic quota. The paper does not give it.
    pub opportunistic: f64,
    /// Seconds within which a call of reserved quota should start ("within seconds").
    pub reserved_start_s: u32,
    /// Seconds within which it should be done.
    pub reserved_deadline_s: u32,
    /// Hours within which a call of opportunistic quota should be done.
    pub opportunistic_deadline_h: f64,
    /// Quota of reserved functions, in multiples of their mean need: owners ask for their peak.
    pub reserved_quota: f64,
    /// Quota of opportunistic functions, in multiples of their mean need; the limit is this times S.
    pub opportunistic_quota: f64,
    /// A call is near its deadline in this last part of it.
    pub near: f64,
    /// Worker-seconds of CPU that one simulated call stands for at most, unless one real call needs more.
    pub batch_worker_s: f64,
    /// Seconds of one function's calls in one region that one simulated call stands for at most.
    pub gather_s: f64,
    /// Seconds over which the calls of one simulated call run, at least.
    pub spread_s: f64,
}

impl Default for WorkloadSpec {
    fn default() -> WorkloadSpec {
        WorkloadSpec {
            functions: 18_000,
            demand_workers: 66_000.0,
            opportunistic: 0.6,
            reserved_start_s: 10,
            reserved_deadline_s: 60,
            opportunistic_deadline_h: 24.0,
            reserved_quota: 4.0,
            opportunistic_quota: 1.0,
            near: 1.0 / 24.0,
            batch_worker_s: 200.0,
            gather_s: 240.0,
            spread_s: 20.0,
        }
    }
}

/// The received curve.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurveSpec {
    /// Relative rates over the day, at equal distances from midnight on, with straight lines between.
    pub hours: Vec<f64>,
    /// When data pipelines start.
    pub spike_at_h: f64,
    /// For how long they submit.
    pub spike_width_h: f64,
    /// How many times the usual rate they add at most, to functions of opportunistic quota.
    pub spike_height: f64,
}

impl Default for CurveSpec {
    fn default() -> CurveSpec {
        CurveSpec {
            hours: vec![
                0.95, 0.90, 0.85, 0.85, 0.90, 0.95, 1.00, 1.10, 1.20, 1.25, 1.30, 1.30, 1.25, 1.20, 1.15,
                1.10, 1.05, 1.00, 0.90, 0.80, 0.70, 0.62, 0.60, 0.70,
            ],
            spike_at_h: 0.0,
            spike_width_h: 1.5,
            spike_height: 3.2,
        }
    }
}

/// Which call goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The production scheduler and controllers.
    #[default]
    Millrace,
    /// Whoever came first.
    Fifo,
    /// The more critical, then who came first.
    Priority,
}

/// Settings of the deciders.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSpec {
    /// Which call goes first.
    pub order: Order,
    /// Whether the level of the day lowers the target.
    pub level: bool,
    /// The utilization controller: S rises below this, per mille of a worker's CPU.
    pub target: u32,
    /// From here on S falls.
    pub ease: u32,
    /// From here on S is zero.
    pub overload: u32,
    /// How much S rises in a period.
    pub step: u32,
    /// The largest S.
    pub most: u32,
    /// Seconds between two looks of the controllers.
    pub period_s: u32,
    /// A pool takes no call beyond this share of its CPU, per mille.
    pub admit: u32,
    /// Whether slow start holds for functions that use a downstream service.
    pub slow_start: bool,
    /// Whether AIMD holds for them.
    pub aimd: bool,
}

impl Default for ControlSpec {
    fn default() -> ControlSpec {
        ControlSpec {
            order: Order::Millrace,
            level: true,
            target: 800,
            ease: 810,
            overload: 900,
            step: 10,
            most: 2000,
            period_s: 30,
            admit: 980,
            slow_start: false,
            aimd: true,
        }
    }
}

/// What workers hold in memory, where, and pushes of new code.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeSpec {
    /// Whether workers hold code at all: each must be a pool of its own then.
    pub held: bool,
    /// Locality groups, at most; up to one for none.
    pub groups: u32,
    /// MB of one function's code on a worker, beside the published peak memory of its calls. The paper gives none.
    pub code_mb: f64,
    /// Minutes after its last call until a worker forgets a function: the paper counts functions by the hour.
    pub idle_min: f64,
    /// Whether code must be compiled after a push.
    pub compiled: bool,
    /// How many times its CPU a call takes that is interpreted.
    pub interpreted: u32,
    /// M instructions on a worker after which it compiles a function that it has no profile of: a second of a thread.
    pub hot_cpu: f64,
    /// Seconds of one thread to compile a function with all it calls. With the eighth of the threads that compile
    /// beside calls, a worker without a profile takes 17 minutes; the paper's, 21.
    pub compile_s: f64,
    /// Threads that compile while the others serve.
    pub compilers: f64,
    /// All threads of a worker.
    pub threads: f64,
    /// Seconds to load a new version from the local disk.
    pub install_s: f64,
    /// Seconds until the profile of a group is complete and shipped.
    pub profile_s: f64,
    /// Hours after measuring began at which a new version is pushed.
    pub push_at_h: Option<f64>,
    /// Whether the push ships profiles.
    pub cooperative: bool,
}

impl Default for CodeSpec {
    fn default() -> CodeSpec {
        CodeSpec {
            held: false,
            groups: 0,
            code_mb: 2.0,
            idle_min: 60.0,
            compiled: false,
            interpreted: 8,
            hot_cpu: 3000.0,
            compile_s: 90.0,
            compilers: 4.0,
            threads: 32.0,
            install_s: 10.0,
            profile_s: 60.0,
            push_at_h: None,
            cooperative: true,
        }
    }
}

/// A service that functions use.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DownstreamSpec {
    /// Its name.
    pub name: String,
    /// How many functions use it: the largest by calls, of reserved quota, that use none yet.
    pub functions: u32,
    /// What it serves, as a multiple of the mean calls of its functions.
    pub capacity: f64,
    /// Exceptions a minute from which on its functions must slow down: its owner's word.
    pub threshold_per_min: u32,
}

/// Something that happens.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventSpec {
    /// Hours after measuring began.
    pub at_h: f64,
    /// For how long.
    pub for_h: f64,
    /// What.
    pub what: What,
}

/// Kinds of events.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum What {
    /// All workers and schedulers of a region are gone.
    RegionLost {
        /// Which.
        region: u32,
        /// Whether its durable queues can be reached. If so its clients submit there as before, and others pull; if not
        /// they go to the nearest region, and what is queued waits for the region's return.
        queue: bool,
    },
    /// Nothing: the figures of these hours are wanted.
    Watched,
    /// No controller publishes anything.
    ControllersLost,
    /// A service serves this share of what it usually does.
    Downstream {
        /// Which.
        name: String,
        /// Per mille of its capacity.
        permille: u32,
    },
}

/// One function's calls that all come at once.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpikeSpec {
    /// Hours after measuring began.
    pub at_h: f64,
    /// Minutes in which they come.
    pub for_min: f64,
    /// How many.
    pub calls: f64,
    /// M instructions of one.
    pub cpu: f64,
    /// Seconds of one.
    pub run_s: f64,
    /// MB of one.
    pub memory_mb: f64,
    /// Whether the function has reserved quota.
    pub reserved: bool,
    /// Whether it comes at all: a run without it has the same functions.
    pub comes: bool,
}

impl Default for SpikeSpec {
    /// The paper's burst: 20 million calls in 15 minutes; a call of the median event function.
    fn default() -> SpikeSpec {
        SpikeSpec {
            at_h: 0.5,
            for_min: 15.0,
            calls: 20e6,
            cpu: 11.4,
            run_s: 0.0972,
            memory_mb: 1.2,
            reserved: false,
            comes: true,
        }
    }
}

/// A trace in place of the drawn workload and its curve.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplaySpec {
    /// What `millrace replay` reads; empty for the sample that comes with the program.
    pub trace: String,
    /// Triggers whose calls somebody waits for: these have reserved quota. The trace does not say.
    pub reserved: Vec<String>,
    /// Real calls for each of the trace.
    pub times: u32,
}

impl Default for ReplaySpec {
    fn default() -> ReplaySpec {
        let reserved = ["http", "orchestration"].map(String::from).into();
        ReplaySpec { trace: String::new(), reserved, times: 1 }
    }
}

/// What is run beside a scenario.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VariantSpec {
    /// Its name.
    pub name: String,
    /// What differs: `key=value`.
    pub set: Vec<String>,
}

/// Which way a row is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Good {
    /// Not above the bar.
    #[default]
    Less,
    /// Not below the bar.
    More,
}

/// How a row compares with a variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// Ours by the variant's.
    #[default]
    Ratio,
    /// The relative change from the variant to ours, in per cent.
    Change,
    /// The size of that change.
    Distance,
}

/// A figure that is judged.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RowSpec {
    /// What it is, in kebab case.
    pub name: String,
    /// Which figure of the run; its name if not given.
    pub figure: String,
    /// The variant that is looked at instead of the scenario itself.
    pub of: String,
    /// The variant that it is compared with.
    pub beside: String,
    /// How it is compared.
    pub against: Against,
    /// What the paper has.
    pub paper: String,
    /// What must be reached.
    pub bar: f64,
    /// What we want.
    pub aim: f64,
    /// Which way is good.
    pub good: Good,
    /// The figure's unit.
    pub unit: String,
}

/// Why a scenario cannot be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// What is wrong, and what would be right.
    pub what: String,
    /// Which key, or which line.
    pub place: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for Error {}

fn error(place: impl Into<String>, what: impl Into<String>) -> Error {
    Error { what: what.into(), place: place.into() }
}

/// What is wrong with a text, and in which line and column, from 1.
fn at_line(text: &str, wrong: &toml::de::Error) -> Error {
    let begin = wrong.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..begin).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    error(format!("line {line}, column {column}"), one_line(wrong))
}

fn one_line(wrong: &toml::de::Error) -> String {
    wrong.message().lines().collect::<Vec<_>>().join(", ")
}

impl Scenario {
    /// Reads a scenario, with some keys (`fleet.workers=90000`) set to other values.
    ///
    /// # Errors
    /// Names the line or the key.
    pub fn read(text: &str, set: &[String]) -> Result<Scenario, Error> {
        if text.len() > BYTES_MAX {
            return Err(error("the file", format!("has {} bytes, at most {BYTES_MAX} are read", text.len())));
        }
        // By itself first: a table that was changed knows no lines.
        let scenario: Scenario = toml::from_str(text).map_err(|e| at_line(text, &e))?;
        let mut table: toml::Table = text.parse().map_err(|e| at_line(text, &e))?;
        for pair in set {
            change(&mut table, pair)?;
        }
        let scenario = if set.is_empty() {
            scenario
        } else {
            table.try_into().map_err(|e: toml::de::Error| error(set.join(" "), one_line(&e)))?
        };
        scenario.validate()?;
        Ok(scenario)
    }

    /// M instructions a second that the load needs on average.
    pub fn demand_mips(&self) -> f64 {
        self.workload.demand_workers * f64::from(self.fleet.worker_mips)
    }

    /// Demand of each region, relative.
    pub fn demand_weights(&self) -> Vec<f64> {
        self.weights(7)
    }

    /// Workers of each region.
    pub fn workers(&self) -> Vec<u32> {
        let weights = self.weights(3);
        let sum: f64 = weights.iter().sum();
        weights
            .iter()
            .map(|weight| (f64::from(self.fleet.workers) * weight / sum).round().max(1.0) as u32)
            .collect()
    }

    /// The hours in which a spike may show: while it lasts, and as long again.
    pub fn watch_span(&self) -> Option<(f64, f64)> {
        self.spike.as_ref().map(|spike| (spike.at_h, spike.for_min / 30.0))
    }

    /// Weights around 1, spread evenly and dealt in the order of multiples of `stride`: large and small lie mixed.
    fn weights(&self, stride: u32) -> Vec<f64> {
        let count = self.fleet.regions;
        let uneven = f64::from(self.fleet.uneven) / 1000.0;
        let place = |region: u32| (region * stride + stride / 2) % count.max(1);
        let centred = |region: u32| (f64::from(place(region)) + 0.5) / f64::from(count) * 2.0 - 1.0;
        (0..count).map(|region| 1.0 + uneven * centred(region)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_built_in_scenarios_are_right_with_all_their_variants() {
        for (name, text) in BUILT_IN {
            let scenario = Scenario::read(text, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            for variant in &scenario.variants {
                Scenario::read(text, &variant.set)
                    .unwrap_or_else(|e| panic!("{name}, {}: {e}", variant.name));
            }
        }
    }

    #[test]
    fn a_wrong_key_is_named() {
        let wrong = |text: &str, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&pair| pair.into()).collect();
            Scenario::read(text, &set).unwrap_err().to_string()
        };
        let told = wrong("[fleet]\nworker = 3", &[]);
        assert!(told.starts_with("line 2, column 1: unknown field `worker`, expected"), "{told}");
        let told = wrong("title = 'x'\n[fleet]\n  workers = many", &[]);
        assert!(told.starts_with("line 3, column 13: "), "{told}");
        assert!(!told.contains('\n'));
        assert!(wrong("", &["fleet.worker=3"]).starts_with("fleet.worker=3: unknown field"));
        assert!(wrong("", &["fleet.workers"]).contains("key=value"));
        assert!(wrong("", &["fleet.regions=0"]).contains("fleet.regions: 0 is not from 1"));
        assert!(wrong("title = 'x'", &["title.x=3"]).contains("is not a table"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", pair in "[a-z.=0-9]{0,40}") {
            let _ = Scenario::read(&text, &[]);
            let _ = Scenario::read("title = 'x'", &[pair]);
        }
    }
}
