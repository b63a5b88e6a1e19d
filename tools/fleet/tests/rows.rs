//! The rows of the scenarios, on fleets that are small enough for a test: each scenario as it comes with the program,
//! with fewer workers, functions or hours. What is asserted is the shape; `millrace simulate` shows the full size.

use fleet::study::built_in;
use fleet::{Study, study};

const SEED: u64 = 7;

fn small(name: &str, set: &[&str]) -> Study {
    let text = built_in(name).unwrap_or_else(|| panic!("no scenario {name}"));
    let set: Vec<String> = set.iter().map(|&pair| pair.into()).collect();
    let study = study(text, &set, SEED, 1, &mut |_, _| {}).unwrap_or_else(|error| panic!("{name}: {error}"));
    eprintln!("{name}, seed {SEED}");
    study.rows.iter().for_each(|row| eprintln!("  {:<40} {:>10.3} {}", row.name, row.value, row.unit));
    study
}

/// What makes a day of the fleet small: steps of two seconds are still "seconds".
const DAY: &[&str] = &[
    "fleet.regions=2",
    "fleet.workers=1000",
    "fleet.pools=16",
    "workload.functions=200",
    "workload.demand_workers=660",
    "time.tick_ms=2000",
    "time.window_ticks=2",
];

#[test]
fn a_day_is_flattened_and_no_promise_is_broken() {
    let study = small("day", DAY);
    let own = &study.summaries[0];
    assert!((4.0..5.2).contains(&own.value("received-peak-to-trough")));
    assert!(own.value("executed-peak-to-trough") < 2.0, "a small fleet is noisier than a large one");
    assert!(own.value("mean-utilisation") > 62.0);
    assert!(own.value("reserved-in-time") >= 99.9);
    assert_eq!((own.value("opportunistic-deadlines-met"), own.value("calls-not-ended")), (100.0, 0.0));
}

#[test]
fn the_same_seed_gives_the_same_trace_on_any_number_of_threads() {
    let hour = ["time.hours=1", "time.warm_up_h=0.5", "time.tail_h=1"];
    let short: Vec<String> = DAY.iter().chain(&hour).map(|&pair| pair.into()).collect();
    let of = |seed, threads| {
        let text = built_in("day").expect("it comes with the program");
        let study = study(text, &short, seed, threads, &mut |_, _| {}).expect("it is right");
        study.summaries[0].trace_hash.clone()
    };
    assert_eq!((of(SEED, 1), of(SEED, 1)), (of(SEED, 2), of(SEED, 3)));
    assert_ne!(of(SEED, 1), of(SEED + 1, 1));
}

/// A fleet of some regions, small.
fn regions(name: &str) -> Study {
    let set = [
        "fleet.workers=1200",
        "fleet.pools=16",
        "workload.demand_workers=792",
        "workload.functions=200",
        "time.tick_ms=1000",
        "time.window_ticks=2",
        "time.tail_h=16",
    ];
    small(name, &set)
}

fn row(study: &Study, name: &str) -> f64 {
    study.rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}")).value
}

#[test]
fn without_controllers_nothing_is_lost_and_utilisation_stays() {
    let study = regions("controllers-lost");
    assert!(row(&study, "utilisation-without-controllers") < 10.0);
    assert_eq!(row(&study, "lost-without-controllers"), 0.0);
    assert!(row(&study, "reserved-in-time-without-controllers") >= 99.9);
}

#[test]
fn a_lost_region_breaks_no_promise_for_long_and_loses_nothing() {
    let study = regions("region-lost");
    assert!(row(&study, "region-lost-promise-broken") < 60.0);
    assert_eq!(row(&study, "region-lost-not-ended"), 0.0);
    let own = &study.summaries[0];
    assert!(own.value("runs-lost") > 0.0 && own.value("remote-cpu") > 1.0, "others took its calls");
}

#[test]
fn ours_is_flatter_than_fifo_and_starts_reserved_calls_at_once() {
    let study = regions("orders");
    assert!(row(&study, "peak-to-trough-by-fifo") < 0.9);
    assert!(row(&study, "reserved-p99-by-fifo") < 0.1);
    let [own, fifo, priority] = &study.summaries[..] else { panic!("three runs") };
    // All do all the work; what differs is when.
    for other in [fifo, priority] {
        assert!((own.value("mean-utilisation") / other.value("mean-utilisation") - 1.0).abs() < 0.05);
    }
    assert!(priority.value("executed-peak-to-trough") > own.value("executed-peak-to-trough"));
}

#[test]
fn a_spike_of_one_function_is_not_felt_by_others() {
    let set = [
        "fleet.workers=200",
        "fleet.pools=8",
        "workload.demand_workers=132",
        "workload.functions=100",
        "spike.calls=2000000",
        "time.hours=1",
        "time.tick_ms=100",
        "time.window_ticks=5",
    ];
    let study = small("spike", &set);
    assert!(row(&study, "others-p99-in-a-spike") <= 2.0);
    assert_eq!(row(&study, "spike-not-ended"), 0.0);
    let of = |at: usize| study.summaries[at].value("calls-received");
    assert!(of(0) - of(1) > 1.0e6, "the spike came: {} and {}", of(0), of(1));
}

#[test]
fn a_service_that_fails_throttles_its_functions_and_nothing_is_dropped() {
    let study = small("cache-incident", &["workload.functions=150"]);
    let [own, without] = &study.summaries[..] else { panic!("two runs") };
    let settled = |of: &fleet::figures::Summary| of.value("cache-refused-settled");
    assert!(settled(own) < settled(without) / 2.0, "AIMD keeps traffic near what the service can do");
    assert_eq!(row(&study, "cache-dropped"), 0.0);
    assert!(own.value("cache-backlog-calls") > 100.0, "what was held back waited");
}
