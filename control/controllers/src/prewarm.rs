//! Predictive pre-warming: when a function should be warm, from its own history.
//!
//! For each function a histogram of its idle times, from the end of one call to the begin of the next. If they have a
//! pattern, its workers let go of it after a call, make it warm again shortly before the next call is likely, and keep
//! it until one is not likely any more. Without a pattern it stays warm for a fixed time after each call. (M. Shahrad
//! et al., "Serverless in the Wild", USENIX ATC 2020, section 4: the hybrid histogram policy. Theirs has bins of a
//! minute; ours grow by a quarter, from 100 ms to 3 h, since an idle sandbox costs us less and a first call less time.)
//!
//! # Laws
//! 1. **Covered**: of the idle times seen since the histogram began to be used, the plan's span covers the part
//!    between [`Settings::head`] and [`Settings::tail`], with [`Settings::margin`] on both sides.
//! 2. **Never cold in between**: a function that is called more often than [`Settings::released_after`] is not let go.
//! 3. **Forgetting**: when [`Settings::seen_most`] idle times are counted all counts are halved, so that a new pattern
//!    takes the old one's place.
//! 4. **Bounded**: a plan ends; a function that is called no more is let go for good.

use crate::snapshot::{Board, Snapshot};
use crate::words::{Effects, FunctionRef, Permille};
use call::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bins of a histogram.
const BINS: usize = 53;
/// The upper end of the first bin.
const FIRST_BIN: Duration = Duration::from_millis(100);
/// Upper ends of all bins but the last, in nanoseconds: each a quarter above the one before. What is longer than the
/// last of them (3 h) is out of bounds.
const ENDS: [u64; BINS - 1] = ends();

const fn ends() -> [u64; BINS - 1] {
    let mut ends = [FIRST_BIN.as_nanos() as u64; BINS - 1];
    let mut at = 1;
    while at < ends.len() {
        ends[at] = ends[at - 1] / 4 * 5;
        at += 1;
    }
    ends
}

// Three hours, and less than the four of the paper's histograms.
const _: () = assert!(ENDS[BINS - 2] > 2 * 3600 * 1_000_000_000 && ENDS[BINS - 2] < 4 * 3600 * 1_000_000_000);

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The part of idle times that may be shorter than the time until it is made warm (the paper's 5th percentile).
    pub head: Permille,
    /// The part of idle times that should be over when it is let go (the paper's 99th percentile).
    pub tail: Permille,
    /// How much earlier and later than that (the paper's 10%).
    pub margin: Permille,
    /// Idle times to be seen before they are a pattern.
    pub seen_least: u32,
    /// Idle times counted at most. Of 2,000 the last hundredth is still twenty; a pattern is forgotten after some
    /// thousand calls of another.
    pub seen_most: u32,
    /// The part of idle times beyond the last bin from which on there is no pattern (the paper falls back likewise).
    pub out_of_bounds_most: Permille,
    /// How long a function without a pattern stays warm: what operators of other platforms have found good enough
    /// (10 minutes in the paper's comparison).
    pub keep: Duration,
    /// A function is let go only if its next call is further away than this: making it warm again is not free.
    pub released_after: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            head: 50,
            tail: 990,
            margin: 100,
            seen_least: 10,
            seen_most: 2000,
            out_of_bounds_most: 500,
            keep: Duration::from_secs(600),
            released_after: Duration::from_secs(10),
        }
    }
}

/// When a function is warm, counted from the end of its last call.
///
/// As JSON: `{"warm_after_ms": 54000, "warm_until_ms": 66000}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// It is let go at the end of a call and made warm after so long; zero: it stays warm.
    pub warm_after_ms: u64,
    /// It is let go after so long.
    pub warm_until_ms: u64,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// A call of a function begins.
    Begins {
        /// Which function.
        function: FunctionRef,
    },
    /// A call of it ended.
    Ends {
        /// Which function.
        function: FunctionRef,
    },
    /// A function was deleted: forget all of it.
    Forget {
        /// Which.
        function: FunctionRef,
    },
    /// The plan that a consumer holds: what a controller that starts again goes on from until it has seen enough.
    Held {
        /// Of which function.
        function: FunctionRef,
        /// The newest that has arrived.
        plan: Snapshot<Plan>,
    },
    /// Say which functions to make warm and which to let go now, and publish plans, as far as there is room.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A function's plan has changed. Whoever has it can do without the two words below.
    Plan {
        /// Which function.
        function: FunctionRef,
        /// The plan.
        plan: Snapshot<Plan>,
    },
    /// Make it warm: a call is likely soon.
    Warm {
        /// Which.
        function: FunctionRef,
    },
    /// Let it go: no call is likely soon.
    Release {
        /// Which.
        function: FunctionRef,
    },
}

/// Where a function stands between two calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Let go for good, or never called.
    Cold,
    /// So many calls run.
    Running(u32),
    /// Let go since the last call ended then; to be made warm.
    Resting(Instant),
    /// Warm since the last call, which ended then, or made warm after it.
    Warm(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Function {
    phase: Phase,
    bins: [u16; BINS],
    seen: u32,
}

impl Function {
    const NEW: Function = Function { phase: Phase::Cold, bins: [0; BINS], seen: 0 };

    /// Counts an idle time.
    fn count(&mut self, idle: Duration, most: u32) {
        if self.seen >= most {
            self.bins.iter_mut().for_each(|count| *count /= 2);
        }
        self.bins[ENDS.partition_point(|end| *end < call::time::nanos(idle))] += 1;
        self.seen = self.bins.iter().map(|count| u32::from(*count)).sum();
    }

    /// The bin in which the part of idle times seen passes `part`.
    fn quantile(&self, part: Permille) -> usize {
        let wanted = (u64::from(self.seen) * u64::from(part)).div_ceil(1000).max(1);
        let mut sum = 0;
        let passes = |count: &u16| {
            sum += u64::from(*count);
            sum >= wanted
        };
        self.bins.iter().position(passes).unwrap_or(BINS - 1)
    }

    /// What the histogram says; none without a pattern.
    fn pattern(&self, settings: &Settings) -> Option<Plan> {
        let outside = u64::from(self.bins[BINS - 1]) * 1000;
        let is_outside = outside >= u64::from(self.seen) * u64::from(settings.out_of_bounds_most);
        if self.seen < settings.seen_least || is_outside {
            return None;
        }
        let head = self.quantile(settings.head).checked_sub(1).map_or(0, |below| ENDS[below]);
        let tail = ENDS[self.quantile(settings.tail).min(BINS - 2)];
        let margin = u64::from(settings.margin);
        let after = head / 1000 * (1000 - margin);
        let is_near = after <= call::time::nanos(settings.released_after);
        const MS: u64 = 1_000_000;
        Some(Plan {
            warm_after_ms: if is_near { 0 } else { after / MS },
            warm_until_ms: (tail / 1000 * (1000 + margin)).div_ceil(MS),
        })
    }
}

/// The controller.
#[derive(Debug)]
pub struct Prewarm {
    settings: Settings,
    functions: Vec<Function>,
    board: Board<Plan>,
    /// The function at which the next turn goes on.
    next: usize,
}

impl Prewarm {
    /// Nothing has been called. `published` is the newest version consumers may have. Takes some 200 bytes for each
    /// function.
    ///
    /// # Panics
    /// If the settings contradict themselves.
    pub fn new(settings: Settings, functions_max: usize, published: u64) -> Prewarm {
        assert!(settings.head < settings.tail && settings.tail <= 1000, "the span is empty: {settings:?}");
        assert!(settings.margin < 1000, "no time would be early enough: {settings:?}");
        let counts = 0 < settings.seen_least && settings.seen_least <= settings.seen_most;
        assert!(counts && settings.seen_most <= u32::from(u16::MAX), "never a pattern: {settings:?}");
        let keep = Plan { warm_after_ms: 0, warm_until_ms: settings.keep.as_millis() as u64 };
        Prewarm {
            settings,
            functions: vec![Function::NEW; functions_max],
            board: Board::new(published, functions_max, keep),
            next: 0,
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Effects<Effect>) {
        match input {
            Input::Begins { function } => self.begins(now, function),
            Input::Ends { function } => {
                let of = &mut self.functions[function.0 as usize];
                of.phase = match of.phase {
                    Phase::Running(count) if count > 1 => Phase::Running(count - 1),
                    // One that began before this controller did, too.
                    _ => Phase::Warm(now),
                };
            }
            Input::Forget { function } => {
                self.functions[function.0 as usize] = Function::NEW;
                self.conclude(function);
            }
            Input::Held { function, plan } => self.board.resume(function.0 as usize, plan),
            Input::Turn => self.turn(now, out),
        }
    }

    /// A function's plan, published or not.
    pub fn plan(&self, function: FunctionRef) -> Plan {
        self.board.wanted(function.0 as usize)
    }

    fn begins(&mut self, now: Instant, function: FunctionRef) {
        let of = &mut self.functions[function.0 as usize];
        of.phase = match of.phase {
            Phase::Running(count) => Phase::Running(count.saturating_add(1)),
            Phase::Cold => Phase::Running(1),
            Phase::Resting(since) | Phase::Warm(since) => {
                of.count(now.since(since), self.settings.seen_most);
                Phase::Running(1)
            }
        };
        // A held plan stays in force until there is a pattern.
        if of.seen >= self.settings.seen_least {
            self.conclude(function);
        }
    }

    fn conclude(&mut self, function: FunctionRef) {
        let Settings { keep, .. } = self.settings;
        let fixed = Plan { warm_after_ms: 0, warm_until_ms: keep.as_millis() as u64 };
        let plan = self.functions[function.0 as usize].pattern(&self.settings).unwrap_or(fixed);
        self.board.conclude(function.0 as usize, plan);
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        while !out.is_full()
            && let Some((key, plan)) = self.board.publish_next()
        {
            out.push(Effect::Plan { function: FunctionRef(key as u32), plan });
        }
        for _ in 0..self.functions.len() {
            if out.is_full() {
                return;
            }
            let key = self.next;
            self.next = (self.next + 1) % self.functions.len();
            if let Some(effect) = self.move_on(now, FunctionRef(key as u32)) {
                out.push(effect);
            }
        }
    }

    /// What is to be done with a function now, if anything.
    fn move_on(&mut self, now: Instant, function: FunctionRef) -> Option<Effect> {
        let plan = self.plan(function);
        let of = &mut self.functions[function.0 as usize];
        let idle_ms = |since| now.since(since).as_millis() as u64;
        let (phase, effect) = match of.phase {
            Phase::Warm(since) if idle_ms(since) >= plan.warm_until_ms => {
                (Phase::Resting(since), Effect::Release { function })
            }
            Phase::Warm(since) if idle_ms(since) < plan.warm_after_ms => {
                (Phase::Resting(since), Effect::Release { function })
            }
            Phase::Resting(since) if (plan.warm_after_ms..plan.warm_until_ms).contains(&idle_ms(since)) => {
                (Phase::Warm(since), Effect::Warm { function })
            }
            _ => return None,
        };
        of.phase = phase;
        Some(effect)
    }

    /// Panics if a count is wrong or a plan's span empty.
    pub fn check(&self) {
        self.board.check();
        for (key, of) in self.functions.iter().enumerate() {
            let seen: u32 = of.bins.iter().map(|count| u32::from(*count)).sum();
            assert_eq!(seen, of.seen, "function {key} counts its idle times wrongly");
            let plan = self.board.wanted(key);
            assert!(plan.warm_after_ms < plan.warm_until_ms, "function {key} is never warm: {plan:?}");
        }
    }
}

#[cfg(test)]
mod tests;
