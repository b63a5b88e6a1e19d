//! `millrace simulate --scenario`: what it lists, refuses, prints and draws, each on a fleet of a few workers.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// What makes a fleet so small that a scenario takes a second.
const SMALL: [&str; 10] = [
    "fleet.regions=2",
    "fleet.workers=60",
    "fleet.pools=4",
    "workload.functions=40",
    "workload.demand_workers=40",
    "time.from_h=0",
    "time.hours=2",
    "time.warm_up_h=0",
    "time.tail_h=1",
    "time.tick_ms=1000",
];

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace")).arg("simulate").args(arguments).output().unwrap()
}

fn small(name: &str, more: &[&str]) -> Output {
    let sets = SMALL.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> =
        ["--scenario", name].into_iter().chain(sets).chain(more.iter().copied()).collect();
    simulate(&arguments)
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The exit code and what is said: the error, and what to do about it.
fn failed(output: &Output) -> (i32, String, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let (what, remedy) =
        text.trim_end().rsplit_once("\nhint: ").unwrap_or_else(|| panic!("no hint in {text}"));
    (output.status.code().unwrap(), what.to_owned(), remedy.to_owned())
}

#[test]
fn all_scenarios_are_listed_with_what_they_show() {
    let shown = String::from_utf8(simulate(&["--list"]).stdout).unwrap();
    let listed = json(&simulate(&["--list", "-o", "json"]));
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), fleet::scenario::BUILT_IN.len());
    for ((name, _), of) in fleet::scenario::BUILT_IN.iter().zip(listed) {
        assert!(shown.contains(name), "{name} is not in:\n{shown}");
        assert_eq!(of["name"], *name);
        assert!(of["title"].as_str().unwrap().len() > 10, "{of}");
    }
}

#[test]
fn a_wrong_scenario_is_told_with_line_and_key_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mine.toml");
    let told = |text: &str, set: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let sets = set.iter().flat_map(|set| ["--set", set]);
        let path = path.to_str().unwrap();
        failed(&simulate(&["--scenario", path].into_iter().chain(sets).collect::<Vec<_>>()))
    };
    let (code, what, remedy) = told("title = 'x'\n[fleet]\nworker = 3\n", &[]);
    assert!(code == 6 && what.contains("`worker`") && what.contains("mine.toml, line 3, column 1"), "{what}");
    assert!(what.contains("`workers`") && remedy.contains("correct the key"), "{what}, {remedy}");
    let (code, what, _) = told("title = 'x'\n[fleet\n", &[]);
    assert!(code == 6 && what.contains("mine.toml, line 2"), "{what}");
    let (code, what, _) = told("[time]\nhours = 1000\n", &[]);
    assert!(
        code == 6 && what.contains("1000 is not from 0.05 to 168") && what.contains("time.hours"),
        "{what}"
    );
    let (code, what, _) = told("", &["fleet.wrkers=3"]);
    assert!(code == 6 && what.contains("`wrkers`") && what.contains("fleet.wrkers=3"), "{what}");
    let (code, what, remedy) = told("[replay]\ntrace = '/nonexistent/trace'\n", &[]);
    assert!(
        code == 3 && what.contains("/nonexistent/trace") && remedy == "check the path",
        "{what}, {remedy}"
    );
    let (code, what, remedy) = failed(&simulate(&["--scenario", "dai"]));
    assert!(code == 3 && what.contains("no such scenario") && what.ends_with("dai"), "{what}");
    assert!(fleet::scenario::BUILT_IN.iter().all(|(name, _)| remedy.contains(name)), "{remedy}");
}

#[test]
fn the_same_seed_prints_the_same_bytes_and_another_one_others() {
    let of = |seed: &str| small("orders", &["--seed", seed, "-o", "json"]);
    let (one, again, other) = (of("3"), of("3"), of("4"));
    assert_eq!(one.stdout, again.stdout);
    assert_ne!(one.stdout, other.stdout);
    let shown = json(&one);
    assert_eq!(shown["seed"], 3);
    let runs = shown["runs"].as_array().unwrap();
    let variants: Vec<&str> = runs.iter().map(|run| run["variant"].as_str().unwrap()).collect();
    assert_eq!(variants, ["", "fifo", "priority"]);
    for run in runs {
        assert_eq!(run["trace_hash"].as_str().unwrap().len(), 16);
        assert!(run["figures"].as_array().unwrap().iter().all(|figure| figure["value"].is_number()));
    }
    let row = &shown["rows"][0];
    assert!(["name", "unit", "paper", "verdict"].iter().all(|key| row[key].is_string()), "{row}");
    assert!(["value", "bar", "aim"].iter().all(|key| row[key].is_number()), "{row}");
}

#[test]
fn a_row_that_misses_its_bar_is_the_exit_code_one() {
    let row = |bar: &str| format!("row=[{{name='calls-received', bar={bar}, aim={bar}, good='more'}}]");
    let code = |bar: &str| small("orders", &["--set", "variant=[]", "--set", &row(bar)]);
    let (kept, missed) = (code("1.0"), code("1e18"));
    assert_eq!((kept.status.code(), missed.status.code()), (Some(0), Some(1)));
    let text = String::from_utf8(missed.stdout).unwrap();
    assert!(
        text.contains("MISSED") && text.contains("calls-received") && text.contains("(seed 7)"),
        "{text}"
    );
}

/// Panics unless each element is closed by its own name, attributes are quoted, and no text has a bare sign. Says how
/// many elements there are.
fn elements(svg: &str) -> usize {
    let (mut open, mut count, mut rest) = (Vec::new(), 0, svg);
    while let Some(begin) = rest.find('<') {
        let (text, after) = rest.split_at(begin);
        let bare = text.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "");
        assert!(!bare.contains(['&', '>']), "a bare sign in {text:?}");
        let end = after.find('>').unwrap_or_else(|| panic!("not closed: {after:.60}"));
        let (tag, next) = (&after[1..end], &after[end + 1..]);
        assert_eq!(tag.matches('"').count() % 2, 0, "a quote is open in <{tag}>");
        assert!(!tag.contains('<'), "<{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "closed by another name"),
            (false, true) => count += 1,
            (false, false) => {
                open.push(name);
                count += 1;
            }
        }
        rest = next;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} left open, then {rest:?}");
    count
}

#[test]
fn plots_are_well_formed_with_axes_units_and_names() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("plots");
    let drawn = small("orders", &["--svg", folder.to_str().unwrap(), "--set", "title=\"a < b & c\""]);
    assert!(drawn.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&drawn.stderr));
    let plot =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (name, unit, lines) in [
        ("load.svg", "% of the fleet&apos;s CPU", &["received", "executed", "for other regions"][..]),
        ("calls.svg", "million calls/s", &["received", "ended"]),
        ("s.svg", "S", &["S"]),
        ("backlog.svg", "hours of the whole fleet", &["backlog"]),
        ("delay.svg", "seconds", &["longest"]),
        ("variants.svg", "% of the fleet&apos;s CPU", &["this", "fifo", "priority"]),
    ] {
        let svg = plot(name);
        assert!(elements(&svg) > 15, "{name}: {svg}");
        assert!(svg.contains("a &lt; b &amp; c"), "{name} has no title");
        for word in lines.iter().chain(&["hours", &unit.replace("&apos;", "'")]) {
            assert!(svg.contains(&format!(">{word}</text>")), "{name} does not say {word}");
        }
        // A line from left to right for each name.
        assert_eq!(svg.matches("fill=\"none\"").count(), lines.len(), "{name}");
    }
}

#[test]
#[should_panic(expected = "closed by another name")]
fn canary_a_plot_with_an_open_element() {
    elements("<svg><text>a</svg>");
}

/// The first hour and a half of the sample.
#[test]
fn what_somebody_waits_for_in_the_azure_sample_starts_at_once() {
    let sets = ["time.hours=1.5", "time.tick_ms=250", "time.window_ticks=4"];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> = ["--scenario", "azure", "-o", "json"].into_iter().chain(sets).collect();
    let shown = json(&simulate(&arguments));
    let of = |variant: usize, name: &str| {
        let figures = shown["runs"][variant]["figures"].as_array().unwrap();
        figures.iter().find(|figure| figure["name"] == name).unwrap()["value"].as_f64().unwrap()
    };
    eprintln!("azure, seed {}: {}", shown["seed"], shown["rows"]);
    // The trace's own count of calls in these minutes; the load is what they took.
    assert_eq!(of(0, "calls-received"), of(1, "calls-received"));
    assert!((90_000.0..120_000.0).contains(&of(0, "calls-received")), "{}", of(0, "calls-received"));
    assert_eq!((of(0, "calls-not-ended"), of(1, "calls-not-ended")), (0.0, 0.0));
    assert!(of(0, "reserved-in-time") >= 99.9);
    assert!(of(0, "opportunistic-deadlines-met") == 100.0);
    assert!(of(0, "reserved-p99-ms") <= of(1, "reserved-p99-ms"));
}

#[test]
fn the_help_of_the_scenarios_names_a_readme_that_is_there() {
    let help = String::from_utf8(simulate(&["--help"]).stdout).unwrap();
    assert!(help.contains("tools/fleet/README.md") && help.contains("Examples:"));
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet/README.md").is_file());
}
