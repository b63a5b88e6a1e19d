//! Series as SVG: lines over hours, with axes and units.

use crate::figures::{fleet, measured};
use crate::record::Point;
use crate::study::Study;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 76.0;
const TOP: f64 = 48.0;
const COLOURS: [&str; 6] = ["#6baed6", "#d94801", "#31a354", "#756bb1", "#636363", "#e7298a"];

/// One line of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Its values, at equal distances.
    pub values: Vec<f64>,
}

/// A plot over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// The file's name, without its ending.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// What stands upwards, with its unit.
    pub unit: String,
    /// Hours from the first value to the end of the last.
    pub hours: f64,
    /// The hours between which something was wrong.
    pub marked: Vec<(f64, f64)>,
    /// The lines.
    pub lines: Vec<Line>,
}

/// All plots of a study: of its own run, beside its variants, and of its services.
pub fn plots(study: &Study) -> Vec<Plot> {
    let own = &study.outcomes[0];
    let marked = own.scenario.events.iter().map(|event| (event.at_h, event.at_h + event.for_h)).collect();
    let hours = own.scenario.time.hours;
    let plot = |file: &str, title: &str, unit: &str, lines: Vec<Line>| Plot {
        file: file.into(),
        title: format!("{title}: {}", study.scenario.title),
        unit: unit.into(),
        hours,
        marked: Vec::clone(&marked),
        lines,
    };
    let whole = own.run.capacities.iter().sum::<u64>() as f64 * f64::from(own.run.point_s);
    let percent = move |cpu: u64| cpu as f64 / whole * 100.0;
    let point_s = f64::from(own.run.point_s);
    let points = measured(&own.run);
    let line = |name: &str, what: &dyn Fn(&Point) -> f64| Line {
        name: name.into(),
        values: points.iter().map(what).collect(),
    };
    let mut all = vec![
        plot(
            "load",
            "CPU received and executed",
            "% of the fleet's CPU",
            vec![
                line("received", &|p| percent(p.received_cpu)),
                line("executed", &|p| percent(p.executed_cpu)),
                line("for other regions", &|p| percent(p.remote_cpu)),
            ],
        ),
        plot(
            "calls",
            "Calls received and ended",
            "million calls/s",
            vec![
                line("received", &|p| p.received as f64 / point_s / 1e6),
                line("ended", &|p| p.finished as f64 / point_s / 1e6),
            ],
        ),
        plot(
            "s",
            "S, the part of opportunistic quota in force",
            "S",
            vec![line("S", &|p| p.s as f64 / 1000.0)],
        ),
        plot(
            "backlog",
            "Work that waits",
            "hours of the whole fleet",
            vec![line("backlog", &|p| percent(p.backlog_cpu) / 100.0 * point_s / 3600.0)],
        ),
        plot(
            "delay",
            "Longest start delay of calls of reserved quota",
            "seconds",
            vec![line("longest", &|p| p.reserved_delay_ms as f64 / 1000.0)],
        ),
    ];
    all.extend(beside(study, &plot));
    all.extend(services(study, &plot));
    all
}

type Make<'a> = dyn Fn(&str, &str, &str, Vec<Line>) -> Plot + 'a;

/// What each variant executed.
fn beside(study: &Study, plot: &Make<'_>) -> Option<Plot> {
    if study.outcomes.len() < 2 {
        return None;
    }
    let lines = study.outcomes.iter().zip(&study.summaries).map(|(outcome, summary)| {
        let capacity: u64 = outcome.run.capacities.iter().sum();
        let whole = capacity as f64 * f64::from(outcome.run.point_s);
        let values = measured(&outcome.run).iter().map(|p| p.executed_cpu as f64 / whole * 100.0).collect();
        Line {
            name: if summary.variant.is_empty() { "this".into() } else { summary.variant.clone() },
            values,
        }
    });
    Some(plot("variants", "CPU executed", "% of the fleet's CPU", lines.collect()))
}

/// What services were asked and what they refused, and the calls that waited for them.
fn services(study: &Study, plot: &Make<'_>) -> Vec<Plot> {
    let run = &study.outcomes[0].run;
    let span = run.measured.clone();
    let per_s = |values: &[u64]| {
        let of = &values[span.start.min(values.len())..span.end.min(values.len())];
        of.iter().map(|&count| count as f64 / f64::from(run.point_s)).collect()
    };
    let mut all: Vec<Plot> = run
        .services
        .iter()
        .map(|of| {
            let asked = Line { name: "asked".into(), values: per_s(&of.asked) };
            let refused = Line { name: "refused".into(), values: per_s(&of.refused) };
            plot(
                &format!("service-{}", of.name),
                &format!("Traffic of {}", of.name),
                "calls/s",
                vec![asked, refused],
            )
        })
        .collect();
    if !all.is_empty() {
        let points = fleet(run);
        let values = points[span.start.min(points.len())..span.end.min(points.len())].iter();
        let waiting =
            Line { name: "waiting".into(), values: values.map(|p| p.using_waiting as f64).collect() };
        all.push(plot(
            "service-backlog",
            "Calls that wait for their services",
            "simulated calls",
            vec![waiting],
        ));
    }
    all
}

impl Plot {
    /// The picture.
    pub fn svg(&self) -> String {
        let top = self.lines.iter().flat_map(|line| &line.values).copied().fold(0.0, f64::max);
        let top = if top > 0.0 { top * 1.05 } else { 1.0 };
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{LEFT}" y="18" font-size="15">{}</text>
"##,
            WIDTH + LEFT + 24.0,
            HEIGHT + TOP + 52.0,
            escaped(&self.title)
        );
        svg += &self.marks();
        svg += &self.axes(top);
        for (at, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            svg += &format!(
                r##"<path d="{}" fill="none" stroke="{colour}" stroke-width="1.6"/>
<path d="M{x} 34h18" stroke="{colour}" stroke-width="3"/><text x="{}" y="38">{}</text>
"##,
                path(&line.values, top),
                LEFT + 150.0 * at as f64 + 24.0,
                escaped(&line.name),
                x = LEFT + 150.0 * at as f64,
            );
        }
        svg + "</svg>\n"
    }

    /// Where something was wrong, grey.
    fn marks(&self) -> String {
        let mark = |&(from, to): &(f64, f64)| {
            let x = |hour: f64| LEFT + WIDTH * (hour / self.hours).clamp(0.0, 1.0);
            let (left, right) = (x(from), x(to));
            format!(
                "<rect x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#eeeeee\"/>\n",
                right - left
            )
        };
        self.marked.iter().map(mark).collect()
    }

    fn axes(&self, top: f64) -> String {
        let mut svg = String::new();
        for quarter in 0..=4 {
            let part = f64::from(quarter) / 4.0;
            let y = TOP + HEIGHT - HEIGHT * part;
            svg += &format!(
                r##"<path d="M{LEFT} {y:.1}h{WIDTH}" stroke="#dddddd"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>
"##,
                LEFT - 8.0,
                y + 4.0,
                short(top * part)
            );
            let x = LEFT + WIDTH * part;
            svg += &format!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                TOP + HEIGHT + 18.0,
                short(self.hours * part)
            );
        }
        let middle = TOP + HEIGHT / 2.0;
        svg + &format!(
            r##"<text x="{}" y="{}" text-anchor="middle">hours</text>
<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{}</text>
"##,
            LEFT + WIDTH / 2.0,
            TOP + HEIGHT + 40.0,
            escaped(&self.unit)
        )
    }
}

/// Steps from the left edge to the right one.
fn path(values: &[f64], top: f64) -> String {
    let width = WIDTH / values.len().max(1) as f64;
    let mut path = String::new();
    for (at, value) in values.iter().enumerate() {
        let y = TOP + HEIGHT - HEIGHT * value / top;
        path += &if at == 0 { format!("M{LEFT:.1} {y:.1}") } else { format!(" V{y:.1}") };
        path += &format!(" H{:.1}", LEFT + width * (at + 1) as f64);
    }
    path
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 10_000.0 => format!("{:.0}K", v / 1e3),
        v if v >= 100.0 || v == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_well_formed_with_axes_units_and_all_its_lines() {
        let line = |name: &str, values: &[f64]| Line { name: name.into(), values: values.to_vec() };
        let plot = Plot {
            file: "x".into(),
            title: "a < b".into(),
            unit: "calls/s".into(),
            hours: 24.0,
            marked: vec![(1.0, 2.0)],
            lines: vec![line("one", &[1.0, 3.0]), line("two", &[0.0, 0.0])],
        };
        let svg = plot.svg();
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        for word in ["a &lt; b", "calls/s", "hours", "one", "two", "#eeeeee"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert_eq!(svg.matches("<path d=\"M76.0").count(), 2, "{svg}");
    }
}
