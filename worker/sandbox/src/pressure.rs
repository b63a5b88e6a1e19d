//! Memory pressure: what the kernel says of it (PSI), and how many warm sandboxes should go for it.
//!
//! [`Pressure`] reads `/proc/pressure/memory`, or a group's `memory.pressure`, and has a descriptor that wakes who polls
//! it when tasks begin to wait for memory. [`Eviction`] decides, without clock or I/O, how many sandboxes that wait for
//! work to end; it begins late, ends early, and takes more the longer the pressure lasts.

use call::Instant;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Wakes when tasks waited for memory for 150 ms within 2 s. The kernel gives other windows than multiples of 2 s to
/// root alone; the values are those of the kernel's documentation of PSI.
const TRIGGER: &str = "some 150000 2000000";
/// No file of PSI is longer.
const TEXT_BYTES_MAX: u64 = 4096;

/// Time for which tasks waited for memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stall {
    /// In which some task did, since boot, microseconds.
    pub some_us: u64,
    /// In which all did, since boot, microseconds.
    pub full_us: u64,
    /// Share of the last ten seconds in which some did, per mille; the kernel brings it up to date every 2 s.
    pub some_permille: u32,
    /// Share in which all did.
    pub full_permille: u32,
}

impl Stall {
    /// From the kernel's text; lines and words that it does not know are passed over.
    fn parse(text: &str) -> Stall {
        let mut stall = Stall::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (permille, total) = match words.next() {
                Some("some") => (&mut stall.some_permille, &mut stall.some_us),
                Some("full") => (&mut stall.full_permille, &mut stall.full_us),
                _ => continue,
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                match key {
                    "avg10" => *permille = tenths(value),
                    "total" => *total = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        stall
    }

    /// With the shares of the time since an earlier reading, instead of those of ten seconds: they tell sooner that the
    /// pressure is over.
    pub fn since(self, earlier: Stall, elapsed: Duration) -> Stall {
        let elapsed_us = elapsed.as_micros().max(1);
        let share = |now: u64, before: u64| {
            let permille = u128::from(now.saturating_sub(before)) * 1000 / elapsed_us;
            u32::try_from(permille.min(1000)).expect("at most 1000")
        };
        Stall {
            some_permille: share(self.some_us, earlier.some_us),
            full_permille: share(self.full_us, earlier.full_us),
            ..self
        }
    }
}

/// `12.34` percent are 123 per mille.
fn tenths(percent: &str) -> u32 {
    let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
    let tenth = part.bytes().next().filter(u8::is_ascii_digit).map_or(0, |digit| u32::from(digit - b'0'));
    whole.parse::<u32>().unwrap_or(0).min(100) * 10 + tenth
}

/// What the kernel says of memory pressure, on the host or in a group.
#[derive(Debug)]
pub struct Pressure {
    path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Polls of this descriptor end when the trigger fires.
    Trigger(File),
    /// The kernel takes no trigger; why.
    Averages(File, String),
    /// There is no PSI; why, and what to do about it.
    Off(String),
}

impl Pressure {
    /// The whole host's.
    pub fn of_host() -> Pressure {
        Pressure::open("/proc/pressure/memory".into())
    }

    /// A v2 group's, given its directory.
    pub fn of_group(group: &Path) -> Pressure {
        Pressure::open(group.join("memory.pressure"))
    }

    fn open(path: PathBuf) -> Pressure {
        let mut options = OpenOptions::new();
        let opened =
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(&path);
        let source = match opened.and_then(|mut file| file.write_all(TRIGGER.as_bytes()).map(|()| file)) {
            Ok(file) => Source::Trigger(file),
            Err(refused) => Source::without_trigger(&path, &refused),
        };
        Pressure { path, source }
    }

    /// POLLPRI says that pressure began; none: read now and then instead.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Trigger(file) => Some(file.as_fd()),
            Source::Averages(..) | Source::Off(_) => None,
        }
    }

    /// How it is now; none: the kernel does not say.
    pub fn read(&mut self) -> Option<Stall> {
        let (Source::Trigger(file) | Source::Averages(file, _)) = &mut self.source else { return None };
        let mut text = String::new();
        file.rewind().ok()?;
        file.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(Stall::parse(&text))
    }

    /// Whether the kernel says anything.
    pub fn is_on(&self) -> bool {
        !matches!(self.source, Source::Off(_))
    }

    /// What is in force, for people.
    pub fn backend(&self) -> String {
        let path = self.path.display();
        match &self.source {
            Source::Trigger(_) => format!("PSI, by a trigger on {path}"),
            Source::Averages(_, why) => format!("PSI, by reading {path} (no trigger: {why})"),
            Source::Off(why) => format!("off: {why}"),
        }
    }
}

impl Source {
    fn without_trigger(path: &Path, refused: &std::io::Error) -> Source {
        // The file opens also where PSI is off; reading it does not work then.
        let read = File::open(path).and_then(|mut file| file.read(&mut [0; 1]).map(|_| file));
        match read {
            Ok(file) => Source::Averages(file, refused.to_string()),
            Err(error) => Source::Off(format!(
                "{}: {error}; boot with psi=1, on a kernel built with CONFIG_PSI",
                path.display()
            )),
        }
    }
}

/// Decides how many of the sandboxes that wait for work should end.
///
/// Pressure of [`Eviction::BEGIN`] begins it, and it goes on until pressure is below [`Eviction::END`], so that it does
/// not begin and end all the time. Once a second at most it takes an eighth of them, then a quarter, a half, and all.
#[derive(Clone, Debug, Default)]
pub struct Eviction {
    is_under_way: bool,
    /// Rounds since it began.
    rounds: u32,
    /// When some were taken last.
    last: Option<Instant>,
}

impl Eviction {
    /// Share of the time in which some task waits for memory, per mille, that begins eviction. The kernel's own user of
    /// PSI, systemd-oomd, acts at 600 for 30 s; by then calls have been slow for long.
    pub const BEGIN: u32 = 100;
    /// Share below which it ends.
    pub const END: u32 = 20;
    /// Between two rounds: time for the memory that was given back to show.
    pub const PERIOD: Duration = Duration::from_secs(1);
    /// The first round takes this part, each further one twice as much.
    const FIRST_PART: usize = 8;

    /// Nothing is under way.
    pub fn new() -> Eviction {
        Eviction::default()
    }

    /// How many of `warm` sandboxes to end now. To be asked at each reading, at least once a [`Eviction::PERIOD`] while
    /// [`Eviction::is_under_way`].
    pub fn step(&mut self, now: Instant, stall: Stall, warm: usize) -> usize {
        if stall.some_permille < Eviction::END {
            self.is_under_way = false;
        } else if stall.some_permille >= Eviction::BEGIN && !self.is_under_way {
            (self.is_under_way, self.rounds) = (true, 0);
        }
        if !self.is_under_way || self.last.is_some_and(|last| now.since(last) < Eviction::PERIOD) {
            return 0;
        }
        // Where all tasks wait the host gets nothing done: half of them at once.
        let at_least = if stall.full_permille >= Eviction::BEGIN { 2 } else { 0 };
        let doublings = self.rounds.max(at_least).min(Eviction::FIRST_PART.ilog2());
        self.rounds += 1;
        self.last = Some(now);
        warm.div_ceil(Eviction::FIRST_PART >> doublings)
    }

    /// Whether it goes on. No sandbox should be made ahead of need meanwhile.
    pub fn is_under_way(&self) -> bool {
        self.is_under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stall(some_permille: u32, full_permille: u32) -> Stall {
        Stall { some_permille, full_permille, ..Stall::default() }
    }

    #[test]
    fn the_kernels_text_is_read() {
        let text = "some avg10=12.34 avg60=2.46 avg300=5.04 total=44907486\n\
                    full avg10=0.09 avg60=0.00 avg300=0.00 total=17\n";
        let read = Stall::parse(text);
        assert_eq!(read, Stall { some_us: 44_907_486, full_us: 17, some_permille: 123, full_permille: 0 });
        let later = Stall { some_us: read.some_us + 250_000, ..read };
        assert_eq!(later.since(read, Duration::from_secs(1)).some_permille, 250);
        assert_eq!(later.since(read, Duration::ZERO).some_permille, 1000);
    }

    #[test]
    fn this_host_says_how_it_is_or_why_not() {
        let mut pressure = Pressure::of_host();
        match pressure.read() {
            Some(stall) => assert!(stall.some_permille <= 1000 && stall.some_us >= stall.full_us),
            None => {
                assert!(!pressure.is_on() && pressure.backend().contains("psi=1"), "{pressure:?}");
                eprintln!("SKIPPED: reading memory pressure, because it is {}", pressure.backend());
            }
        }
        let none = Pressure::of_group(Path::new("/nowhere"));
        assert!(none.backend().contains("/nowhere/memory.pressure"), "{}", none.backend());
        assert!(none.descriptor().is_none());
    }

    #[test]
    fn more_goes_the_longer_it_lasts_and_none_after_it() {
        let mut eviction = Eviction::new();
        let at = |second: u64| Instant(second * 1_000_000_000);
        assert_eq!(eviction.step(at(0), stall(99, 0), 80), 0);
        let taken: Vec<usize> = (1..=5).map(|second| eviction.step(at(second), stall(100, 0), 80)).collect();
        assert_eq!(taken, [10, 20, 40, 80, 80]);
        assert_eq!(eviction.step(at(6), stall(20, 0), 80), 80, "not over yet");
        assert_eq!(eviction.step(at(7), stall(19, 0), 80), 0);
        assert_eq!(eviction.step(at(8), stall(99, 0), 80), 0, "it has to begin anew");
        assert_eq!(eviction.step(at(9), stall(500, 300), 80), 40, "all wait");
    }

    fn readings() -> impl Strategy<Value = Vec<(u64, u32, u32, usize)>> {
        proptest::collection::vec((0u64..2_000_000_000, 0u32..=200, 0u32..=200, 0usize..100), 1..60)
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[a-z0-9=. \n]{0,120}") {
            let read = Stall::parse(&text);
            prop_assert!(read.some_permille < 1010 && read.full_permille < 1010);
        }

        #[test]
        fn eviction_keeps_its_bounds(readings in readings()) {
            let mut eviction = Eviction::new();
            let (mut now, mut last, mut has_begun) = (Instant(0), None, false);
            for (pause, some, full, warm) in readings {
                now = now + Duration::from_nanos(pause);
                has_begun = some >= Eviction::BEGIN || (has_begun && some >= Eviction::END);
                let taken = eviction.step(now, stall(some, full), warm);
                prop_assert_eq!(eviction.is_under_way(), has_begun);
                prop_assert!(taken <= warm);
                prop_assert!(has_begun || taken == 0, "without pressure");
                if taken > 0 {
                    prop_assert!(last.is_none_or(|last| now.since(last) >= Eviction::PERIOD), "too soon");
                    last = Some(now);
                }
            }
        }

        #[test]
        fn lasting_pressure_leaves_none_and_takes_one_at_least(warm in 1usize..10_000) {
            let (mut eviction, mut left) = (Eviction::new(), warm);
            for second in 0..4 {
                let taken = eviction.step(Instant(second * 1_000_000_000), stall(1000, 0), left);
                prop_assert!(taken >= 1 || left == 0);
                left -= taken;
            }
            prop_assert_eq!(left, 0);
        }
    }
}
