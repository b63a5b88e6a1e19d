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
    assert!(own.value("executed-peak-to-trough") <= 1.4);
    // What is received is done, and no more can be: the load is 66% by the scenario, and by chance a little less.
    let (received, executed) = (own.value("received-cpu"), own.value("mean-utilisation"));
    assert!(executed >= received - 0.7 && received > 65.0, "{executed}% of {received}%");
    assert!(own.value("reserved-in-time") >= 99.9);
    assert_eq!((own.value("opportunistic-deadlines-met"), own.value("calls-not-ended")), (100.0, 0.0));
}

#[test]
fn the_same_load_on_fewer_workers_keeps_them_busier_and_all_promises() {
    let mut set: Vec<&str> = DAY.iter().copied().filter(|pair| !pair.starts_with("fleet.workers")).collect();
    // Nearer to overload, calls that take a third of a pool by themselves are not what is looked at.
    set.extend(["fleet.workers=880", "workload.batch_worker_s=50"]);
    let study = small("dense", &set);
    assert!(row(&study, "mean-utilisation-dense") >= 74.5);
    assert!(row(&study, "reserved-in-time-dense") >= 99.9);
    assert_eq!(row(&study, "opportunistic-deadlines-met-dense"), 100.0);
    assert!(row(&study, "executed-peak-to-trough-dense") <= 1.4);
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
    assert!(row(&study, "peak-to-trough-by-fifo") < 0.6);
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
        "spike.calls=4000000",
        "time.hours=1",
        "time.tick_ms=100",
        "time.window_ticks=5",
    ];
    let study = small("spike", &set);
    assert!(row(&study, "others-p99-in-a-spike") <= 2.0);
    assert!(row(&study, "others-longest-in-a-spike") <= 4.0);
    // The same spike is felt where nobody keeps it apart: the row can be missed.
    let [own, _, fifo, fifo_without] = &study.summaries[..] else { panic!("four runs") };
    assert!(fifo.value("others-p99-ms") > 100.0 * fifo_without.value("others-p99-ms"));
    assert!(fifo.value("others-p99-ms") > 100.0 * own.value("others-p99-ms"));
    assert_eq!(row(&study, "spike-not-ended"), 0.0);
}

#[test]
fn functions_of_a_failing_database_slow_down_by_themselves() {
    let set = [
        "workload.functions=240",
        "downstream=[{name='graph', functions=40, capacity=1.5, threshold_per_min=5000}]",
        // Coarser, the service sees so large steps that what it refuses is chance: 7 to 14% by seed, not 6 to 8%.
        "workload.gather_s=5",
        "time.hours=4",
        "time.tick_ms=2000",
    ];
    let study = small("graph-incident", &set);
    assert!(row(&study, "graph-traffic-change") <= -25.0);
    assert!(row(&study, "graph-refused-settled") <= 10.0);
    assert_eq!(row(&study, "graph-dropped"), 0.0);
    // The bar can be missed: without AIMD it is.
    assert!(study.summaries[1].value("graph-refused-settled") > 10.0);
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

#[test]
fn locality_groups_leave_less_in_memory() {
    let set = [
        "fleet.workers=60",
        "fleet.pools=60",
        "workload.functions=300",
        "workload.demand_workers=39",
        "workload.gather_s=60",
        "code.groups=6",
        "time.hours=1",
        "time.warm_up_h=2",
        "time.tick_ms=2000",
    ];
    let study = small("locality", &set);
    // Code alone: what calls hold while they run is the same with groups and without.
    assert!(row(&study, "worker-memory-p50-by-groups") <= -5.0);
    let [own, without] = &study.summaries[..] else { panic!("two runs") };
    // Fewer functions on each worker is why, and they do the same work as soon.
    assert!(own.value("functions-an-hour-p50") * 2.0 < without.value("functions-an-hour-p50"));
    assert!((own.value("mean-utilisation") - without.value("mean-utilisation")).abs() < 3.0);
    assert!(own.value("reserved-in-time") >= 99.9);
}

#[test]
fn a_profile_brings_workers_to_full_rate_sooner_after_a_push() {
    let set = [
        "fleet.workers=60",
        "fleet.pools=60",
        "workload.functions=300",
        "workload.demand_workers=6",
        "code.groups=5",
        "time.hours=2",
    ];
    let study = small("code-push", &set);
    assert!(row(&study, "full-rate-after-p50") <= 3.0);
    assert!(row(&study, "full-rate-beside-each-by-itself") <= 0.143);
    let own = &study.summaries[0];
    // In so small a fleet some functions are not called on each worker within the hours.
    assert!(own.value("workers-pushed") >= 40.0);
    assert_eq!(own.value("calls-not-ended"), 0.0);
}
