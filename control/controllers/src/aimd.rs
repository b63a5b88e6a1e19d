//! Back-pressure: a function that overloads a service gets a limit by additive increase, multiplicative decrease.
//!
//! The owner of a downstream service says how many exceptions of back-pressure a minute it can stand. While there are
//! more, the limit r of each function that got some becomes r x M in each period; while there are not, r + I
//! (XFaaS section 4.6.2). A function of several services has the least of its limits.
//!
//! # Laws
//! 1. **Decrease**: above the threshold, the limit of a function that was pushed back in the period is multiplied by
//!    [`Settings::decrease`], but never falls below [`Settings::least`]. Without a limit it begins with its rate.
//!    Functions of the service that were not pushed back stay as they are.
//! 2. **Increase**: otherwise each limit rises by [`Settings::increase`] of the rate at which the function was when
//!    its limit began, but by no more than [`Settings::increase_most`] of itself.
//! 3. **Lifted**: a limit that is above that rate, and twice what the function asks for, is none any more.
//! 4. **Drains**: so what is asked of a service of any capacity settles around that capacity, functions that began
//!    alike come to get alike, and when the service is well again the backlog runs off (`tests`).
//!
//! The paper gives neither M nor I, so they are [`Settings`].

use crate::snapshot::{Board, Snapshot};
use crate::words::{DownstreamRef, Effects, FunctionRef, MilliCalls, Pace, Permille, permille, scale};
use call::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Services that one function may call.
pub const DOWNSTREAMS_PER_FUNCTION_MAX: usize = 8;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often it decides. A sixth of the minute that thresholds are given for: the sixth of 5,000 exceptions is
    /// still far above chance, and a load that is twice too large is halved in half a minute.
    pub period: Duration,
    /// M. With 0.8 a service is used by 90% between two decreases, where the half of TCP would leave a quarter idle.
    pub decrease: Permille,
    /// I, as part of the rate at which the limit began, since rates of functions lie five orders apart. 2% fills what
    /// one decrease took away in ten periods, so that at most one period in ten is above the threshold.
    pub increase: Permille,
    /// The most that a limit rises in one period, as part of itself. A service that fell to a twentieth would see each
    /// step of I as doubled load; 5% keeps what is asked of it near what it can do.
    pub increase_most: Permille,
    /// No limit is less: one call in ten seconds shows whether the service is well again.
    pub least: MilliCalls,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_secs(10),
            decrease: 800,
            increase: 20,
            increase_most: 50,
            least: 100,
        }
    }
}

/// Stands for the rate at which a limit began until the first period of a controller that started again is over.
const UNKNOWN: MilliCalls = 0;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The owner's word on a service, or a new one.
    Downstream {
        /// Which.
        downstream: DownstreamRef,
        /// Exceptions of back-pressure that it can stand in a minute, of all functions together.
        threshold_per_minute: u64,
    },
    /// A function calls a service. Said again, it changes nothing.
    Uses {
        /// Which function.
        function: FunctionRef,
        /// Which service.
        downstream: DownstreamRef,
    },
    /// A function was deleted, or calls other services now: forget all of its.
    Forget {
        /// Which.
        function: FunctionRef,
    },
    /// Calls of a function that began, and that would have begun but for its limit, since this was said last.
    Ran {
        /// Which.
        function: FunctionRef,
        /// How many began.
        calls: u64,
        /// How many wait for the limit now.
        waiting: u64,
    },
    /// A service pushed back, so often since this was said last. From one that the function is not known to call, it
    /// is taken as [`Input::Uses`] as well.
    PushedBack {
        /// Which function.
        function: FunctionRef,
        /// Which service.
        downstream: DownstreamRef,
        /// How often.
        count: u64,
    },
    /// The limit that a consumer holds: what a controller that starts again goes on from. After [`Input::Uses`].
    Held {
        /// Of which function.
        function: FunctionRef,
        /// The newest that has arrived.
        limit: Snapshot<Option<MilliCalls>>,
    },
    /// Decide, if it is time, and publish as far as there is room.
    Turn,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A function's limit, none if no service limits it.
    Limit {
        /// Which function.
        function: FunctionRef,
        /// Calls a second that may begin, over all schedulers.
        limit: Snapshot<Option<MilliCalls>>,
    },
}

/// How a service is, for its owner. As JSON: an object of these fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DownstreamState {
    /// What it can stand in a minute.
    pub threshold_per_minute: u64,
    /// Exceptions in the last period, as a minute of such periods would have them.
    pub per_minute: u64,
    /// Functions that it limits.
    pub limited: u32,
}

/// A service.
#[derive(Clone, Copy, Debug, Default)]
struct Downstream {
    threshold_per_minute: u64,
    /// Exceptions since the last period ended, and in that period as a minute.
    exceptions: u64,
    per_minute: u64,
}

/// What a function has with a service.
#[derive(Clone, Copy, Debug)]
struct Edge {
    downstream: DownstreamRef,
    /// Exceptions since the last period ended.
    exceptions: u64,
    throttle: Option<Throttle>,
}

/// A limit in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Throttle {
    /// Calls a second.
    pub limit: MilliCalls,
    /// The function's rate when it began.
    pub began_at: MilliCalls,
    /// When it began.
    pub since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    edges: [Option<Edge>; DOWNSTREAMS_PER_FUNCTION_MAX],
    calls: u64,
    waiting: u64,
}

impl Function {
    const IDLE: Function = Function { edges: [None; DOWNSTREAMS_PER_FUNCTION_MAX], calls: 0, waiting: 0 };

    /// The least of its limits.
    fn limit(&self) -> Option<MilliCalls> {
        self.edges.iter().flatten().filter_map(|edge| edge.throttle).map(|throttle| throttle.limit).min()
    }

    /// What it has with a service, begun if there is nothing yet and room for it.
    fn edge(&mut self, downstream: DownstreamRef) -> Option<&mut Edge> {
        let known = |edge: &Option<Edge>| edge.is_some_and(|edge| edge.downstream == downstream);
        let at = self.edges.iter().position(known).or(self.edges.iter().position(Option::is_none))?;
        Some(self.edges[at].get_or_insert(Edge { downstream, exceptions: 0, throttle: None }))
    }
}

/// The controller.
#[derive(Debug)]
pub struct Aimd {
    settings: Settings,
    pace: Pace,
    downstreams: Vec<Downstream>,
    functions: Vec<Function>,
    board: Board<Option<MilliCalls>>,
    /// Uses that had no place: see [`Aimd::refused`].
    refused: u64,
}

impl Aimd {
    /// Nothing is limited. `published` is the newest version consumers may have. A service of which the owner has said
    /// nothing stands any back-pressure.
    ///
    /// # Panics
    /// If M is not below one, or I or the least limit is nothing.
    pub fn new(settings: Settings, functions_max: usize, downstreams_max: usize, published: u64) -> Aimd {
        assert!(
            (1..1000).contains(&settings.decrease),
            "a limit would not fall, or fall to nothing: {settings:?}"
        );
        let rises = settings.increase.min(settings.increase_most) > 0;
        assert!(rises && settings.least > 0, "a limit would never rise again: {settings:?}");
        let unsaid = Downstream { threshold_per_minute: u64::MAX, ..Downstream::default() };
        Aimd {
            settings,
            pace: Pace::new(settings.period),
            downstreams: vec![unsaid; downstreams_max],
            functions: vec![Function::IDLE; functions_max],
            board: Board::new(published, functions_max, None),
            refused: 0,
        }
    }

    /// Takes one input. Only [`Input::Turn`] adds effects.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Effects<Effect>) {
        match input {
            Input::Downstream { downstream, threshold_per_minute } => {
                self.downstreams[usize::from(downstream.0)].threshold_per_minute = threshold_per_minute;
            }
            Input::Uses { function, downstream } => {
                self.edge(function, downstream);
            }
            Input::Forget { function } => {
                self.functions[function.0 as usize] = Function::IDLE;
                self.board.conclude(function.0 as usize, None);
            }
            Input::Ran { function, calls, waiting } => {
                let of = &mut self.functions[function.0 as usize];
                (of.calls, of.waiting) = (of.calls.saturating_add(calls), waiting);
            }
            Input::PushedBack { function, downstream, count } => {
                self.pushed_back(function, downstream, count)
            }
            Input::Held { function, limit } => self.resume(now, function, limit),
            Input::Turn => self.turn(now, out),
        }
    }

    fn edge(&mut self, function: FunctionRef, downstream: DownstreamRef) -> Option<&mut Edge> {
        let count = self.downstreams.len();
        assert!(usize::from(downstream.0) < count, "{downstream:?} of {count}");
        let edge = self.functions[function.0 as usize].edge(downstream);
        self.refused += u64::from(edge.is_none());
        edge
    }

    fn pushed_back(&mut self, function: FunctionRef, downstream: DownstreamRef, count: u64) {
        if let Some(edge) = self.edge(function, downstream) {
            edge.exceptions = edge.exceptions.saturating_add(count);
        }
        let of = &mut self.downstreams[usize::from(downstream.0)];
        of.exceptions = of.exceptions.saturating_add(count);
    }

    /// Which of its services limited the function is forgotten: each does until it is lifted. So is the rate at which
    /// that began: what is asked at the end of this period stands for it.
    fn resume(&mut self, now: Instant, function: FunctionRef, held: Snapshot<Option<MilliCalls>>) {
        let key = function.0 as usize;
        self.board.resume(key, held);
        for edge in self.functions[key].edges.iter_mut().flatten() {
            let began = |limit| Throttle { limit, began_at: UNKNOWN, since: now };
            edge.throttle = edge.throttle.or(held.value.map(began));
        }
    }

    fn turn(&mut self, now: Instant, out: &mut Effects<Effect>) {
        if let Some(elapsed) = self.pace.over(now) {
            self.decide(now, elapsed.as_millis() as u64);
        }
        while !out.is_full()
            && let Some((key, limit)) = self.board.publish_next()
        {
            out.push(Effect::Limit { function: FunctionRef(key as u32), limit });
        }
    }

    fn decide(&mut self, now: Instant, elapsed_ms: u64) {
        for of in &mut self.downstreams {
            of.per_minute = scale(std::mem::take(&mut of.exceptions), 60_000, elapsed_ms);
        }
        for (key, of) in self.functions.iter_mut().enumerate() {
            let per_s = |calls| scale(calls, 1_000_000, elapsed_ms);
            // What waits would have begun too.
            let (rate, asked) = (per_s(of.calls), per_s(of.calls.saturating_add(of.waiting)));
            of.calls = 0;
            for edge in of.edges.iter_mut().flatten() {
                let exceptions = std::mem::take(&mut edge.exceptions);
                for throttle in edge.throttle.iter_mut().filter(|of| of.began_at == UNKNOWN) {
                    throttle.began_at = asked.max(throttle.limit);
                }
                let service = &self.downstreams[usize::from(edge.downstream.0)];
                let is_over = service.per_minute > service.threshold_per_minute;
                edge.throttle = match (is_over, edge.throttle) {
                    (true, throttle) if exceptions > 0 => Some(decrease(&self.settings, throttle, rate, now)),
                    (true, throttle) => throttle,
                    (false, throttle) => throttle.and_then(|of| increase(&self.settings, of, asked)),
                };
            }
            self.board.conclude(key, of.limit());
        }
    }

    /// A function's limit as published last.
    pub fn limit(&self, function: FunctionRef) -> Snapshot<Option<MilliCalls>> {
        *self.board.newest(function.0 as usize)
    }

    /// Which services limit a function, and how.
    pub fn throttles(&self, function: FunctionRef) -> impl Iterator<Item = (DownstreamRef, Throttle)> {
        let edges = self.functions[function.0 as usize].edges.iter().flatten();
        edges.filter_map(|edge| edge.throttle.map(|throttle| (edge.downstream, throttle)))
    }

    /// How a service is. Walks over all functions.
    pub fn downstream(&self, downstream: DownstreamRef) -> DownstreamState {
        let of = &self.downstreams[usize::from(downstream.0)];
        let edges = self.functions.iter().flat_map(|function| function.edges.iter().flatten());
        let limited = edges.filter(|edge| edge.downstream == downstream && edge.throttle.is_some()).count();
        DownstreamState {
            threshold_per_minute: of.threshold_per_minute,
            per_minute: of.per_minute,
            limited: limited as u32,
        }
    }

    /// How often a function was said to call a service beyond its first [`DOWNSTREAMS_PER_FUNCTION_MAX`]: those do not
    /// limit it.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Panics if a limit is below the least, or if what is concluded is not the least of a function's limits.
    pub fn check(&self) {
        self.board.check();
        for (key, of) in self.functions.iter().enumerate() {
            for throttle in of.edges.iter().flatten().filter_map(|edge| edge.throttle) {
                assert!(
                    throttle.limit >= self.settings.least,
                    "function {key}: {throttle:?} is below the least"
                );
            }
            assert_eq!(self.board.wanted(key), of.limit(), "function {key}: not the least of its limits");
        }
    }
}

/// r x M.
fn decrease(settings: &Settings, throttle: Option<Throttle>, rate: MilliCalls, since: Instant) -> Throttle {
    let rate = rate.max(settings.least);
    let before = throttle.unwrap_or(Throttle { limit: rate, began_at: rate, since });
    Throttle { limit: permille(before.limit, settings.decrease).max(settings.least), ..before }
}

/// r + I, or no limit any more.
fn increase(settings: &Settings, before: Throttle, asked: MilliCalls) -> Option<Throttle> {
    let most = permille(before.limit, settings.increase_most);
    let step = permille(before.began_at, settings.increase).min(most).max(1);
    let limit = before.limit.saturating_add(step);
    let is_idle = limit >= before.began_at && asked <= limit / 2;
    (!is_idle).then_some(Throttle { limit, ..before })
}

#[cfg(test)]
mod tests;
