//! Received against executed calls over time, as an SVG: the picture of a platform that shifts work in time.

use super::ledger::Ledger;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 40.0;

/// The picture: `buckets` columns over the replay's time, `unit` names what a bucket stands for (`minute of the trace`).
pub fn picture(ledger: &Ledger, buckets: usize, unit: &str) -> String {
    let (received, executed) = ledger.by_time(buckets);
    let top = received.iter().chain(&executed).copied().max().unwrap_or(0).max(1);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{LEFT}" y="24" font-size="15">Calls received and executed per {unit}</text>
"##,
        WIDTH + LEFT + 20.0,
        HEIGHT + TOP + 40.0,
    );
    for quarter in 0..=4u64 {
        let y = TOP + HEIGHT - HEIGHT * quarter as f64 / 4.0;
        svg += &format!(
            r##"<path d="M{LEFT} {y:.1}h{WIDTH}" stroke="#dddddd"/><text x="{}" y="{:.1}" text-anchor="end">{}</text>
"##,
            LEFT - 8.0,
            y + 4.0,
            top * quarter / 4,
        );
    }
    svg += &format!(
        r##"<path d="{} V{} H{LEFT} Z" fill="#9ecae1"/>
<path d="{}" fill="none" stroke="#d94801" stroke-width="1.5"/>
"##,
        path(&received, top),
        TOP + HEIGHT,
        path(&executed, top),
    );
    for quarter in 0..=4 {
        let x = LEFT + WIDTH * f64::from(quarter) / 4.0;
        let bucket = buckets * quarter as usize / 4;
        svg += &format!(
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{bucket}</text>\n",
            TOP + HEIGHT + 20.0
        );
    }
    let (x, y) = (LEFT + WIDTH - 170.0, 24.0);
    svg += &format!(
        r##"<rect x="{x}" y="{}" width="12" height="12" fill="#9ecae1"/><text x="{}" y="{y}">received</text>
<path d="M{} {}h14" stroke="#d94801" stroke-width="2"/><text x="{}" y="{y}">executed</text>
</svg>
"##,
        y - 11.0,
        x + 16.0,
        x + 84.0,
        y - 4.0,
        x + 102.0,
    );
    svg
}

/// Steps through the values, from the left edge to the right one.
fn path(values: &[u64], top: u64) -> String {
    let width = WIDTH / values.len() as f64;
    let mut path = String::new();
    for (index, value) in values.iter().enumerate() {
        let y = TOP + HEIGHT - HEIGHT * *value as f64 / top as f64;
        let from = if index == 0 { format!("M{LEFT:.1} {y:.1}") } else { format!(" V{y:.1}") };
        path += &format!("{from} H{:.1}", LEFT + width * (index + 1) as f64);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Entry;
    use call::{Status, VerdictCode};
    use millrace_client::IdSeries;

    #[test]
    fn the_picture_is_well_formed_and_shows_both_curves() {
        let entry = |at: u64| Entry {
            submitted_ns: at,
            verdict: Some(VerdictCode::Accepted),
            status: Some(Status::Ok),
            outcome_ns: at + 40,
            ..Entry::default()
        };
        let ledger = Ledger { series: IdSeries::new(), entries: (1..100).map(entry).collect(), took_ns: 140 };
        let svg = picture(&ledger, 7, "minute");
        assert_eq!(svg.matches("<path d=\"M70.0").count(), 2, "{svg}");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
