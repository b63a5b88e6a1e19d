//! Times and durations as an operator types them.

use crate::exit::Failure;
use call::limits::START_AHEAD_MAX;
use call::time::{WallTime, nanos};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock.
pub fn wall() -> WallTime {
    WallTime(SystemTime::now().duration_since(UNIX_EPOCH).map(nanos).unwrap_or(0))
}

/// When a call may start and must be done, as the options say. Zero where they say nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Not before.
    pub start_at: WallTime,
    /// To be done by.
    pub deadline: WallTime,
}

impl Terms {
    /// From `--at`, `--in` and `--deadline`. A deadline that is a duration counts from the start.
    ///
    /// # Errors
    /// A start in the past or further ahead than [`START_AHEAD_MAX`], a deadline not after the start.
    pub fn of(
        at: Option<&str>,
        in_: Option<Duration>,
        deadline: Option<&str>,
        now: WallTime,
    ) -> Result<Terms, Failure> {
        let start_at = match (at, in_) {
            (Some(text), _) => start(text, now)?,
            (None, Some(wait)) => ahead("--in", now + wait, now)?,
            (None, None) => WallTime(0),
        };
        let from = if start_at.0 == 0 { now } else { start_at };
        let deadline = match deadline {
            None => WallTime(0),
            Some(text) => match duration(text) {
                Ok(long) => from + long,
                Err(_) => instant("--deadline", text)?,
            },
        };
        if deadline.0 != 0 && deadline <= from {
            let what = "the deadline is not after the start";
            return Err(Failure::input(
                what,
                "--deadline",
                "a duration counts from the start: --deadline 10m",
            ));
        }
        Ok(Terms { start_at, deadline })
    }
}

fn start(text: &str, now: WallTime) -> Result<WallTime, Failure> {
    let at = instant("--at", text)?;
    if at < now {
        let past = humantime::format_duration(Duration::from_secs(now.since(at).as_secs().max(1)));
        let what = format!("the start time `{text}` is {past} in the past");
        return Err(Failure::input(what, "--at", "leave --at out to start now"));
    }
    ahead("--at", at, now)
}

fn ahead(place: &str, at: WallTime, now: WallTime) -> Result<WallTime, Failure> {
    if at.since(now) <= START_AHEAD_MAX {
        return Ok(at);
    }
    let far = humantime::format_duration(Duration::from_secs(at.since(now).as_secs()));
    let most = humantime::format_duration(START_AHEAD_MAX);
    let what = format!("the start time is {far} ahead, at most {most} are allowed");
    Err(Failure::input(what, place, "submit it nearer to its time"))
}

/// `2026-11-21T08:30:00Z`, or seconds since the Unix epoch.
fn instant(place: &str, text: &str) -> Result<WallTime, Failure> {
    let unix = text.parse::<u64>().ok().map(Duration::from_secs);
    let written = || humantime::parse_rfc3339_weak(text).ok()?.duration_since(UNIX_EPOCH).ok();
    unix.or_else(written).map(|since| WallTime(nanos(since))).ok_or_else(|| {
        let remedy = "write it like 2026-11-21T08:30:00Z, or as seconds since 1970";
        Failure::input(format!("`{text}` is no time"), place, remedy)
    })
}

/// `250ms`, `10s`, `1h 30m`: for clap, which names the option.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 250ms, 10s or 1h30m"))
}

/// Nanoseconds for people: four digits at most, then the unit.
pub fn short(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_700_000_000_000_000_000);

    fn told(at: Option<&str>, in_: Option<Duration>, deadline: Option<&str>) -> String {
        Terms::of(at, in_, deadline, NOW).unwrap_err().to_string()
    }

    #[test]
    fn a_deadline_counts_from_the_start() {
        let terms = Terms::of(None, Some(Duration::from_secs(60)), Some("10s"), NOW).unwrap();
        assert_eq!(terms.start_at, NOW + Duration::from_secs(60));
        assert_eq!(terms.deadline, NOW + Duration::from_secs(70));
        assert_eq!(Terms::of(None, None, None, NOW).unwrap(), Terms::default());
        assert_eq!(Terms::of(None, None, Some("10s"), NOW).unwrap().deadline, NOW + Duration::from_secs(10));
    }

    #[test]
    fn times_are_read_in_two_ways() {
        assert_eq!(
            Terms::of(Some("1700000007"), None, None, NOW).unwrap().start_at,
            NOW + Duration::from_secs(7)
        );
        let written = Terms::of(Some("2023-11-14T22:13:27Z"), None, None, NOW).unwrap();
        assert_eq!(written.start_at, NOW + Duration::from_secs(7));
    }

    #[test]
    fn the_past_and_the_far_future_are_refused_with_the_option() {
        assert!(told(Some("2020-01-01T00:00:00Z"), None, None).contains("in the past: --at"));
        let far = told(None, Some(Duration::from_secs(366 * 24 * 3600)), None);
        assert!(far.contains("--in") && far.contains("7days"), "{far}");
        assert!(told(Some("2024-11-14T22:13:27Z"), None, None).contains("ahead"));
        assert!(told(Some("tomorrow"), None, None).contains("`tomorrow` is no time: --at"));
        assert!(told(None, Some(Duration::from_secs(60)), Some("1700000007")).contains("--deadline"));
    }

    #[test]
    fn short_times_keep_their_digits() {
        let all = [999, 12_345, 12_345_678, 12_345_678_901].map(short);
        assert_eq!(all, ["999 ns", "12 us", "12 ms", "12.3 s"]);
    }
}
