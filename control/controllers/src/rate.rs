//! The central rate limiter: how often a function may begin, and how schedulers share that.
//!
//! A quota is CPU. What a scheduler can count is calls, so the quota is divided by the CPU time of a call, which is
//! learned from those that ended: r = quota / mean (XFaaS section 4.6.1). What back-pressure allows is a second bound.
//! The smaller of both is shared out to the schedulers, most to the one where most calls of the function are.
//!
//! # Laws
//! 1. **Learned**: the mean lies between the smallest and the largest mean of any period seen (and the first guess,
//!    which fades like ten calls).
//! 2. **Never more**: at no time, not even while snapshots are on their way for less than a period, do the shares of
//!    the schedulers that are there sum to more than the rate: a share rises only by what is free already.
//! 3. **All can begin**: each of n schedulers is given at least [`Settings::floor`] / n of the rate.
//! 4. **Calm**: a rate or share that changes by less than [`Settings::band`] is not published again.

use crate::snapshot::{Board, Snapshot};
use crate::words::{
    Effects, FunctionRef, MilliCalls, Millicores, Pace, Permille, SchedulerRef, permille, scale,
};
use call::Instant;
use std::time::Duration;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often it decides. A changed quota shall be in force within two seconds.
    pub period: Duration,
    /// What counts of calls seen earlier, after each further period with calls: with 0.95 the mean is of the last
    /// twenty such periods.
    pub keep: Permille,
    /// CPU time of a call of which none has been seen: the paper's median of queue functions, 222 M instructions, at
    /// two a nanosecond.
    pub first_guess: Duration,
    /// The part of the rate that is shared evenly; the rest follows the calls.
    pub floor: Permille,
    /// Smaller changes are not published: means of short periods differ by some hundredths by chance.
    pub band: Permille,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_secs(1),
            keep: 950,
            first_guess: Duration::from_millis(111),
            floor: 200,
            band: 30,
        }
    }
}

/// The first guess counts like so many calls.
const GUESSED_CALLS: u64 = 10;
/// Calls and their CPU time are summed in thousandths, so that a single one fades by steps as well.
const MILLI: u64 = 1000;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// A function's quota: CPU it may use; none for as much as it likes.
    Quota {
        /// Which function.
        function: FunctionRef,
        /// Its quota.
        cpu: Option<Millicores>,
    },
    /// What back-pressure allows, over all schedulers (`aimd::Effect::Limit`).
    Cap {
        /// Which function.
        function: FunctionRef,
        /// Its limit.
        limit: Option<MilliCalls>,
    },
    /// A function was deleted: forget all of it.
    Forget {
        /// Which.
        function: FunctionRef,
    },
    /// A scheduler is there.
    SchedulerUp {
        /// Which.
        scheduler: SchedulerRef,
    },
    /// A scheduler is gone; its share goes to the others.
    SchedulerGone {
        /// Which.
        scheduler: SchedulerRef,
    },
    /// What a scheduler has seen of a function since it said so last.
    Ran {
        /// Which function.
        function: FunctionRef,
        /// Who says so.
        scheduler: SchedulerRef,
        /// Calls that ended.
        calls: u64,
        /// CPU time of these, in nanoseconds.
        cpu_ns: u64,
        /// Calls that wait now.
        waiting: u64,
    },
    /// What is known of the CPU time of a function's calls from before: by a controller that starts again.
    Learned {
        /// Which function.
        function: FunctionRef,
        /// CPU time of a call.
        mean: Duration,
    },
    /// The limit that a scheduler holds: what a controller that starts again goes on from.
    Held {
        /// Of which function.
        function: FunctionRef,
        /// Who holds it.
        scheduler: SchedulerRef,
        /// The newest that has arrived.
        limit: Snapshot<Option<MilliCalls>>,
    },
    /// Decide, if it is time, and publish as far as there is room.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A scheduler's share of a function's rate.
    Limit {
        /// Which function.
        function: FunctionRef,
        /// Whose share.
        scheduler: SchedulerRef,
        /// Calls a second that it may begin; none for any number.
        limit: Snapshot<Option<MilliCalls>>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Function {
    quota: Option<Millicores>,
    cap: Option<MilliCalls>,
    /// Thousandths of calls that ended, and of nanoseconds that they took, fading.
    calls: u64,
    cpu_ns: u128,
    /// The same in this period, in wholes.
    new_calls: u64,
    new_cpu_ns: u64,
    /// The rate that is shared out.
    rate: Option<MilliCalls>,
}

impl Function {
    fn new(guess: Duration) -> Function {
        let mut of =
            Function { quota: None, cap: None, calls: 0, cpu_ns: 0, new_calls: 0, new_cpu_ns: 0, rate: None };
        of.believe(guess);
        of
    }

    fn believe(&mut self, mean: Duration) {
        self.calls = GUESSED_CALLS * MILLI;
        self.cpu_ns = mean.as_nanos().max(1) * u128::from(self.calls);
    }

    /// Takes the period's calls in; those before count less from now on.
    fn learn(&mut self, keep: Permille) {
        let (calls, cpu_ns) = (std::mem::take(&mut self.new_calls), std::mem::take(&mut self.new_cpu_ns));
        if calls > 0 {
            let kept = permille(self.calls, keep);
            self.cpu_ns = self.cpu_ns * u128::from(kept) / u128::from(self.calls.max(1));
            self.calls = kept.saturating_add(calls.saturating_mul(MILLI));
            self.cpu_ns = self.cpu_ns.saturating_add(u128::from(cpu_ns) * u128::from(MILLI));
        }
    }

    /// CPU time of a call in nanoseconds, at least one.
    fn mean_ns(&self) -> u64 {
        u64::try_from(self.cpu_ns / u128::from(self.calls.max(1))).unwrap_or(u64::MAX).max(1)
    }

    /// The smaller of what quota and back-pressure allow.
    fn allowed(&self) -> Option<MilliCalls> {
        // A thousandth of a core is a million nanoseconds in each second, and a call a thousand thousandths.
        let by_quota = self.quota.map(|cpu| scale(cpu, 1_000_000 * MILLI, self.mean_ns()));
        [by_quota, self.cap].into_iter().flatten().min()
    }
}

/// The controller.
#[derive(Debug)]
pub struct Rates {
    settings: Settings,
    pace: Pace,
    functions: Vec<Function>,
    schedulers: Vec<bool>,
    /// By function, then scheduler: calls of late, fading by a quarter each period, and those of this period.
    weights: Vec<u64>,
    new_weights: Vec<u64>,
    board: Board<Option<MilliCalls>>,
}

impl Rates {
    /// No quota, no scheduler. `published` is the newest version consumers may have. Takes some 60 bytes for each
    /// function and scheduler, and 100 for each function.
    ///
    /// # Panics
    /// If the settings contradict themselves.
    pub fn new(settings: Settings, functions_max: usize, schedulers_max: usize, published: u64) -> Rates {
        assert!(settings.keep < 1000, "nothing would be learned: {settings:?}");
        assert!((1..=1000).contains(&settings.floor), "a scheduler could not begin: {settings:?}");
        let cells = functions_max * schedulers_max;
        Rates {
            settings,
            pace: Pace::new(settings.period),
            functions: vec![Function::new(settings.first_guess); functions_max],
            schedulers: vec![false; schedulers_max],
            weights: vec![0; cells],
            new_weights: vec![0; cells],
            board: Board::new(published, cells, None),
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Effects<Effect>) {
        match input {
            Input::Quota { function, cpu } => self.functions[function.0 as usize].quota = cpu,
            Input::Cap { function, limit } => self.functions[function.0 as usize].cap = limit,
            Input::Forget { function } => {
                self.functions[function.0 as usize] = Function::new(self.settings.first_guess);
                let cells = self.cells(function);
                self.weights[cells.clone()].fill(0);
                self.new_weights[cells].fill(0);
            }
            Input::SchedulerUp { scheduler } => self.schedulers[usize::from(scheduler.0)] = true,
            Input::SchedulerGone { scheduler } => self.schedulers[usize::from(scheduler.0)] = false,
            Input::Ran { function, scheduler, calls, cpu_ns, waiting } => {
                let of = &mut self.functions[function.0 as usize];
                of.new_calls = of.new_calls.saturating_add(calls);
                of.new_cpu_ns = of.new_cpu_ns.saturating_add(cpu_ns);
                let cell = self.cell(function, scheduler);
                let weight = &mut self.new_weights[cell];
                *weight = weight.saturating_add(calls).saturating_add(waiting);
            }
            Input::Learned { function, mean } => self.functions[function.0 as usize].believe(mean),
            Input::Held { function, scheduler, limit } => {
                let cell = self.cell(function, scheduler);
                self.board.resume(cell, limit);
            }
            Input::Turn => self.turn(now, out),
        }
    }

    fn cells(&self, function: FunctionRef) -> std::ops::Range<usize> {
        let (start, count) = (function.0 as usize * self.schedulers.len(), self.schedulers.len());
        start..start + count
    }

    fn cell(&self, function: FunctionRef, scheduler: SchedulerRef) -> usize {
        let cells = self.cells(function);
        assert!(usize::from(scheduler.0) < cells.len(), "{scheduler:?} of {}", cells.len());
        cells.start + usize::from(scheduler.0)
    }

    /// CPU time of a call of this function, as learned.
    pub fn mean(&self, function: FunctionRef) -> Duration {
        Duration::from_nanos(self.functions[function.0 as usize].mean_ns())
    }

    /// The rate that is shared out; none for any.
    pub fn rate(&self, function: FunctionRef) -> Option<MilliCalls> {
        self.functions[function.0 as usize].rate
    }

    /// A scheduler's share as published last.
    pub fn limit(&self, function: FunctionRef, scheduler: SchedulerRef) -> Snapshot<Option<MilliCalls>> {
        *self.board.newest(self.cell(function, scheduler))
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        if self.pace.over(now).is_some() {
            for function in (0..self.functions.len() as u32).map(FunctionRef) {
                self.decide(function);
            }
        }
        while !out.is_full()
            && let Some((cell, limit)) = self.board.publish_next()
        {
            let schedulers = self.schedulers.len();
            let function = FunctionRef((cell / schedulers) as u32);
            out.push(Effect::Limit { function, scheduler: SchedulerRef((cell % schedulers) as u16), limit });
        }
    }

    fn decide(&mut self, function: FunctionRef) {
        let Settings { keep, band, .. } = self.settings;
        let of = &mut self.functions[function.0 as usize];
        of.learn(keep);
        let allowed = of.allowed();
        if differs(of.rate, allowed, band) {
            of.rate = allowed;
        }
        let (rate, cells) = (of.rate, self.cells(function));
        for cell in cells.clone() {
            let (of_late, new) = (&mut self.weights[cell], std::mem::take(&mut self.new_weights[cell]));
            *of_late = of_late.saturating_sub(of_late.div_ceil(4)).saturating_add(new);
        }
        match rate {
            None => cells.for_each(|cell| self.board.conclude(cell, None)),
            Some(rate) => self.share(rate, cells.start),
        }
    }

    /// Shares a rate out: shares that fall do so now, and those that rise get what was free before.
    fn share(&mut self, rate: MilliCalls, first: usize) {
        let Rates { settings, schedulers, weights, board, .. } = self;
        let there = || schedulers.iter().enumerate().filter(|(_, there)| **there).map(|(at, _)| first + at);
        let count = there().count() as u64;
        let weight: u64 = there().map(|cell| weights[cell]).fold(0, u64::saturating_add);
        let even = if weight == 0 { rate } else { permille(rate, settings.floor) };
        let due = |cell: usize| even / count + scale(rate - even, weights[cell], weight.max(1));
        // What consumers may have: the larger of what is published and what waits to be.
        let has = |board: &Board<Option<MilliCalls>>, cell: usize| {
            let published = board.newest(cell).value.unwrap_or(0);
            published.max(board.wanted(cell).unwrap_or(0))
        };
        let taken = there().map(|cell| has(board, cell)).fold(0, u64::saturating_add);
        for (at, _) in schedulers.iter().enumerate().filter(|(_, there)| !**there) {
            // One that comes back begins with nothing: its share is the others' now.
            if board.wanted(first + at).is_some() {
                board.conclude(first + at, Some(0));
            }
        }
        let mut free = rate.saturating_sub(taken);
        let is_over = taken > rate;
        for cell in there() {
            let (due, has) = (due(cell), has(board, cell));
            if !is_over && !differs(board.wanted(cell), Some(due), settings.band) {
                continue;
            }
            let rises = due.saturating_sub(has).min(free);
            free -= rises;
            board.conclude(cell, Some(due.min(has + rises)));
        }
    }

    /// Panics if the shares of a function sum to more than its rate, in the way that consumers may hold them.
    pub fn check(&self) {
        self.board.check();
        for (key, of) in self.functions.iter().enumerate() {
            let Some(rate) = of.rate else { continue };
            let there =
                self.cells(FunctionRef(key as u32)).zip(&self.schedulers).filter(|(_, there)| **there);
            let sum = there.filter_map(|(cell, _)| self.board.wanted(cell)).fold(0, u64::saturating_add);
            assert!(sum <= rate, "function {key}: shares of {sum} and a rate of {rate}");
        }
    }
}

/// Whether a change is large enough to be told: by `band` of the larger, or from or to none or nothing.
fn differs(before: Option<MilliCalls>, after: Option<MilliCalls>, band: Permille) -> bool {
    match (before, after) {
        (Some(0), Some(after)) => after > 0,
        (Some(_), Some(0)) => true,
        (Some(before), Some(after)) => before.abs_diff(after) > permille(before.max(after), band),
        (None, None) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
