//! When calls are received: the shape of a day, and the next arrival of a Poisson process under it.

use crate::scenario::CurveSpec;

/// Seconds between two points of the table.
const STEP_S: u32 = 60;
const HOUR_S: u32 = 3600;
const DAY_S: u32 = 24 * HOUR_S;

/// A rate over time, relative to its mean over a day, as the sum up to each minute.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Mass before minute `n`, in seconds of the mean rate.
    sums: Vec<f64>,
}

impl Curve {
    /// The curve from `begin_s` (seconds after midnight, may be negative) for `span_s` seconds. `spiky` adds the
    /// midnight spike.
    pub fn new(spec: &CurveSpec, begin_s: i64, span_s: u32, spiky: bool) -> Curve {
        let rate = |second: i64| {
            let daily = of_day(&spec.hours, second.rem_euclid(i64::from(DAY_S)) as u32);
            if spiky { daily * (1.0 + spike(spec, second)) } else { daily }
        };
        let minutes =
            |from: i64, span: u32| (0..span.div_ceil(STEP_S)).map(move |at| from + i64::from(at * STEP_S));
        let mean = minutes(0, DAY_S).map(rate).sum::<f64>() / f64::from(DAY_S / STEP_S);
        let mut sums = vec![0.0];
        for second in minutes(begin_s, span_s) {
            let before = sums.last().copied().unwrap_or(0.0);
            sums.push(before + rate(second) / mean * f64::from(STEP_S));
        }
        Curve { sums }
    }

    /// A constant rate.
    pub fn flat(span_s: u32) -> Curve {
        Curve { sums: (0..=span_s.div_ceil(STEP_S)).map(|minute| f64::from(minute * STEP_S)).collect() }
    }

    /// Mass up to `at_s` seconds after the begin.
    pub fn mass(&self, at_s: f64) -> f64 {
        let minute = ((at_s / f64::from(STEP_S)) as usize).min(self.sums.len() - 2);
        let within = at_s / f64::from(STEP_S) - minute as f64;
        self.sums[minute] + (self.sums[minute + 1] - self.sums[minute]) * within
    }

    /// The second at which `mass` is reached; none after the end.
    pub fn second(&self, mass: f64) -> Option<f64> {
        let after = self.sums.partition_point(|&sum| sum <= mass);
        if after == self.sums.len() {
            return None;
        }
        let (low, high) = (self.sums[after - 1], self.sums[after]);
        Some((after as f64 - 1.0 + (mass - low) / (high - low)) * f64::from(STEP_S))
    }
}

/// Straight lines between the hours.
fn of_day(hours: &[f64], second: u32) -> f64 {
    let at = f64::from(second) / f64::from(DAY_S) * hours.len() as f64;
    let (before, within) = (at as usize % hours.len(), at - at.floor());
    hours[before] + (hours[(before + 1) % hours.len()] - hours[before]) * within
}

/// Up within a twelfth of its width, then down in a straight line.
fn spike(spec: &CurveSpec, second: i64) -> f64 {
    let width = spec.spike_width_h * f64::from(HOUR_S);
    let begin = spec.spike_at_h * f64::from(HOUR_S);
    let since = (second as f64 - begin).rem_euclid(f64::from(DAY_S));
    let rise = width / 12.0;
    match since {
        up if up < rise => spec.spike_height * up / rise,
        down if down < width => spec.spike_height * (width - down) / (width - rise),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mass_and_second_are_inverse_and_the_mean_of_a_day_is_one() {
        let curve = Curve::new(&CurveSpec::default(), -7200, DAY_S, true);
        assert!((curve.mass(f64::from(DAY_S)) / f64::from(DAY_S) - 1.0).abs() < 1e-9);
        for at in [0.0, 1.0, 7199.5, 50_000.0] {
            let back = curve.second(curve.mass(at)).unwrap();
            assert!((back - at).abs() < 1e-3, "{at} came back as {back}");
        }
        assert_eq!(curve.second(curve.mass(f64::from(DAY_S)) + 1.0), None);
    }

    #[test]
    fn the_spike_comes_at_midnight_on_top_of_the_day() {
        let spec = CurveSpec::default();
        let rate = |curve: &Curve, at: f64| (curve.mass(at + 60.0) - curve.mass(at)) / 60.0;
        let (plain, spiky) = (Curve::new(&spec, -7200, DAY_S, false), Curve::new(&spec, -7200, DAY_S, true));
        assert!(rate(&spiky, 7800.0) > 2.0 * rate(&plain, 7800.0));
        assert!(rate(&spiky, 6000.0) < rate(&plain, 6000.0), "the same mean, so less elsewhere");
    }
}
