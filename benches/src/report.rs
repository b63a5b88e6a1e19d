//! Figures, and how they are printed and kept.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, in kebab case; stable, so that runs can be compared.
    pub name: String,
    /// The measured value.
    pub value: f64,
    /// `calls/s`, `us`, `x`, `MiB`, ...; a unit that ends in `/s` or is `x of rival` is better when larger.
    pub unit: String,
    /// What it must reach.
    pub bar: Option<f64>,
    /// What we want it to reach.
    pub aim: Option<f64>,
    /// What the machine allows at best, measured in the same run, with its name.
    pub floor: Option<(String, f64)>,
    /// What the rival reached in the same run, with its name.
    pub rival: Option<(String, f64)>,
}

impl Figure {
    /// A bare figure.
    pub fn new(name: &str, value: f64, unit: &str) -> Figure {
        Figure { name: name.into(), value, unit: unit.into(), bar: None, aim: None, floor: None, rival: None }
    }

    /// With its bar and aim.
    pub fn bar(mut self, bar: f64, aim: f64) -> Figure {
        (self.bar, self.aim) = (Some(bar), Some(aim));
        self
    }

    /// With the floor of the same run.
    pub fn floor(mut self, name: &str, value: f64) -> Figure {
        self.floor = Some((name.into(), value));
        self
    }

    /// With the rival of the same run.
    pub fn rival(mut self, name: &str, value: f64) -> Figure {
        self.rival = Some((name.into(), value));
        self
    }

    /// Whether more is better: the aim lies above the bar. Where both are the same it is one that counts what was
    /// kept (100 % of deadlines), or, at zero, one that counts what went wrong.
    fn grows(&self) -> bool {
        matches!((self.bar, self.aim), (Some(bar), Some(aim)) if aim > bar || (aim == bar && aim != 0.0))
    }

    /// `aim`, `bar`, `MISSED`, or nothing if there is no bar.
    pub fn verdict(&self) -> &'static str {
        let (Some(bar), Some(aim)) = (self.bar, self.aim) else { return "" };
        let reaches = |mark: f64| if self.grows() { self.value >= mark } else { self.value <= mark };
        match (reaches(aim), reaches(bar)) {
            (true, _) => "aim",
            (false, true) => "bar",
            (false, false) => "MISSED",
        }
    }
}

/// All figures of a run, in the order in which they were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure and prints its line.
    pub fn add(&mut self, figure: Figure) {
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// The value of a figure measured before.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|f| f.name == name).map(|f| f.value)
    }

    /// Writes the figures to `path`, replacing those of the same name that an earlier run left there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut all = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<Report>(&bytes).unwrap_or_default(),
            Err(_) => Report::default(),
        };
        all.figures.retain(|old| self.figures.iter().all(|new| new.name != old.name));
        all.figures.extend(self.figures.iter().cloned());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)
    }
}

fn line(f: &Figure) -> String {
    let mark = |value: Option<f64>| value.map_or("-".into(), short);
    let beside = |what: &Option<(String, f64)>| {
        what.as_ref().map_or(String::new(), |(n, v)| format!("{n} {}", short(*v)))
    };
    format!(
        "{:<44} {:>10} {:<9} bar {:>7}  aim {:>7}  {:<6} {} {}",
        f.name,
        short(f.value),
        f.unit,
        mark(f.bar),
        mark(f.aim),
        f.verdict(),
        beside(&f.floor),
        beside(&f.rival)
    )
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000_000.0 => format!("{:.1}M", value / 1e6),
        v if v >= 1_000_000.0 => format!("{:.2}M", value / 1e6),
        v if v >= 10_000.0 => format!("{:.0}K", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_knows_which_way_is_better() {
        assert_eq!(Figure::new("rate", 600.0, "calls/s").bar(500.0, 1000.0).verdict(), "bar");
        assert_eq!(Figure::new("rate", 400.0, "calls/s").bar(500.0, 1000.0).verdict(), "MISSED");
        assert_eq!(Figure::new("time", 0.5, "us").bar(1.5, 0.7).verdict(), "aim");
        assert_eq!(Figure::new("time", 2.0, "us").bar(1.5, 0.7).verdict(), "MISSED");
        assert_eq!(Figure::new("time", 2.0, "us").verdict(), "");
        assert_eq!(Figure::new("kept", 99.0, "%").bar(100.0, 100.0).verdict(), "MISSED");
        assert_eq!(Figure::new("lost", 1.0, "calls").bar(0.0, 0.0).verdict(), "MISSED");
        assert_eq!(Figure::new("lost", 0.0, "calls").bar(0.0, 0.0).verdict(), "aim");
    }

    #[test]
    fn a_later_run_replaces_its_own_figures_only() {
        let folder = std::env::temp_dir().join(format!("millrace-report-{}", std::process::id()));
        let path = folder.join("report.json");
        let one = |name: &str, value| Report { figures: vec![Figure::new(name, value, "x")] };
        one("a", 1.0).write(&path).unwrap();
        one("b", 2.0).write(&path).unwrap();
        one("a", 3.0).write(&path).unwrap();
        let read: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((read.value("a"), read.value("b"), read.figures.len()), (Some(3.0), Some(2.0), 2));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
