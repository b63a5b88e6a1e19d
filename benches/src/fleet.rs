//! The fleet in simulation: each scenario as `millrace simulate` runs it, its rows with their bars and aims, the same
//! day under three policies, and the minutes of clock that the paper's day takes.

use crate::report::{Figure, Report};
use serde::Deserialize;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The scenario of the paper's fleet, and the longest that it may take: minutes on two cores.
const DAY: &str = "day";
const DAY_MINUTES: (f64, f64) = (10.0, 5.0);
/// The scenario that compares policies, and what is compared.
const ORDERS: &str = "orders";
const COMPARED: [&str; 5] =
    ["executed-peak-to-trough", "mean-utilisation", "reserved-in-time", "reserved-p99-ms", "deadlines-met"];
/// What makes that one small enough to see that it runs.
const SMALL: [&str; 9] = [
    "fleet.regions=2",
    "fleet.workers=60",
    "fleet.pools=4",
    "workload.functions=40",
    "workload.demand_workers=40",
    "time.hours=1",
    "time.warm_up_h=0",
    "time.tail_h=1",
    "time.tick_ms=1000",
];

/// What `millrace simulate -o json` prints, as far as it is read here.
#[derive(Deserialize)]
struct Shown {
    seed: u64,
    rows: Vec<Row>,
    runs: Vec<Ran>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    value: f64,
    unit: String,
    bar: f64,
    aim: f64,
}

#[derive(Deserialize)]
struct Ran {
    variant: String,
    figures: Vec<Value>,
}

#[derive(Deserialize)]
struct Value {
    name: String,
    value: f64,
    unit: String,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
}

/// Adds the figures of all scenarios that `millrace` knows, each at its own size; a small one of [`ORDERS`] alone if
/// `smoke`. `only` is one of them.
///
/// # Errors
/// If the program does not run, or says what is not expected.
pub fn measure(report: &mut Report, millrace: &Path, smoke: bool, only: Option<&str>) -> io::Result<()> {
    let all: Vec<Listed> = asked(millrace, &["--list".into()])?;
    let wanted = |name: &str| if smoke { name == ORDERS } else { only.is_none_or(|only| only == name) };
    for Listed { name } in all.into_iter().filter(|listed| wanted(&listed.name)) {
        let mut arguments = vec!["--scenario".to_owned(), name.clone()];
        let sets = SMALL.iter().filter(|_| smoke);
        sets.for_each(|set| arguments.extend(["--set".into(), (*set).into()]));
        let begun = Instant::now();
        let shown: Shown = asked(millrace, &arguments)?;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        println!("   {name}, seed {}, in {minutes:.1} min", shown.seed);
        for row in shown.rows {
            report
                .add(Figure::new(&format!("fleet-{}", row.name), row.value, &row.unit).bar(row.bar, row.aim));
        }
        match name.as_str() {
            DAY => {
                report.add(Figure::new("fleet-day-clock", minutes, "min").bar(DAY_MINUTES.0, DAY_MINUTES.1))
            }
            ORDERS => policies(report, &shown.runs),
            _ => {}
        }
    }
    Ok(())
}

/// The same day under ours and others, without a bar: the rows have those.
fn policies(report: &mut Report, runs: &[Ran]) {
    for run in runs {
        let policy = if run.variant.is_empty() { "ours" } else { &run.variant };
        for value in run.figures.iter().filter(|value| COMPARED.contains(&value.name.as_str())) {
            report.add(Figure::new(
                &format!("fleet-policy-{policy}-{}", value.name),
                value.value,
                &value.unit,
            ));
        }
    }
}

/// What `millrace simulate` answers. Its exit code is 1 if a row misses its bar, and the rows are there.
fn asked<T: for<'a> Deserialize<'a>>(millrace: &Path, arguments: &[String]) -> io::Result<T> {
    let ran = Command::new(millrace).arg("simulate").args(arguments).args(["-o", "json"]).output()?;
    serde_json::from_slice(&ran.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&ran.stderr);
        io::Error::other(format!("millrace simulate {}: {error}: {said}", arguments.join(" ")))
    })
}
