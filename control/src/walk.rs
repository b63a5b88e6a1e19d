//! Lists of calls and orders in bulk, by a filter: walks over all calls, a few of them in each round, so that a look at
//! millions never holds up the ring. Not on the path of a call.

use crate::answers::{Refusal, state_name};
use crate::node::Node;
use crate::schedule::defaults;
use crate::session::SessionRef;
use call::admin::{Answer, CallPage, Ordered, Verb};
use call::body::reply;
use call::filter::{Filter, Number, Subject, Text};
use call::{CallId, FunctionId, FunctionSpec, Instant, WallTime};
use driver::Driver;
use durableq::{CallRef, CallView, State};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// Walks at once; each takes its turn. More are refused.
const WALKS_MAX: usize = 16;
/// Calls looked at in one round, of this and of all other walks over calls: some 100 us, if each of them has to come from memory.
pub(crate) const ROUND_CALLS: usize = 1024;
/// Calls changed in one round: each is a record of the log.
pub(crate) const ROUND_CHANGES: usize = 256;
/// And a round's share of time, where calls are dear to look at: less than the log waits for a disk.
pub(crate) const ROUND_TIME: Duration = Duration::from_micros(300);
/// Between two looks at the clock.
pub(crate) const CLOCK_CALLS: usize = 32;
/// Calls of one page.
const PAGE_CALLS_MAX: u32 = 1000;
/// A page ends behind the call with which it has so many bytes of output and stderr.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Calls of one walk whose frames are on their way from the disk; the walk goes no further then.
pub(crate) const UNREAD_MAX: usize = 256;
/// So long a walk waits for a frame; then its call counts as unknown.
pub(crate) const READ: Duration = Duration::from_secs(5);

/// The place of a call in a list: start time, then id.
type Place = (u64, CallId);

/// Where a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// At the pending call or dead letter of this number.
    Number(u32),
    /// At the end of this position, of those before the second.
    End(u32, u32),
    /// Behind all.
    Over,
}

/// Which calls a list is of, beside its filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Only {
    /// All.
    Any,
    /// Those that wait in a function's queue.
    Waiting(FunctionId),
    /// A function's dead letters.
    Dead(FunctionId),
}

impl Only {
    fn has(self, view: &CallView<'_>) -> bool {
        match self {
            Only::Any => true,
            Only::Waiting(function) => {
                view.function == function && matches!(view.state, State::Scheduled | State::Due)
            }
            Only::Dead(function) => view.function == function && view.state == State::Dead,
        }
    }
}

/// What a walk is for.
enum Errand {
    /// The first calls behind a place.
    List { limit: usize, after: Option<Place>, only: Only, found: BinaryHeap<Place> },
    /// Something is done to each.
    Order { verb: Verb, dry_run: bool, count: u64, left: u64 },
}

/// A call that cannot be judged before its frame is in memory.
struct Unread {
    number: u32,
    call: CallId,
    until: Instant,
}

/// A walk that is under way, for whoever asked.
struct Walk {
    session: SessionRef,
    stamp: u64,
    filter: Option<Filter>,
    at: At,
    errand: Errand,
    unread: Vec<Unread>,
    matched: u64,
    examined: u64,
    unknown: u64,
}

impl Walk {
    fn new((session, stamp): (SessionRef, u64), filter: Option<Filter>, at: At, errand: Errand) -> Walk {
        Walk { session, stamp, filter, at, errand, unread: Vec::new(), matched: 0, examined: 0, unknown: 0 }
    }

    /// Whether it has looked at all that it is to look at.
    fn is_through(&self) -> bool {
        match self.errand {
            Errand::List { only: Only::Any, .. } => self.at == At::Over,
            // What waits has a number, and so has a dead letter.
            Errand::List { .. } => !matches!(self.at, At::Number(_)),
            Errand::Order { left, .. } => left == 0 || !matches!(self.at, At::Number(_)),
        }
    }

    /// Whether it can do nothing before a frame has come from the disk.
    fn is_held_up(&self) -> bool {
        self.unread.len() >= UNREAD_MAX || (self.is_through() && !self.unread.is_empty())
    }
}

/// All walks; the first is the next to go on.
#[derive(Default)]
pub(crate) struct Walks {
    walks: VecDeque<Walk>,
}

impl Walks {
    /// When one can go on: at once, or when the disk has failed to bring a frame. One that waits for frames goes on when
    /// they come.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        if self.walks.iter().any(|walk| !walk.is_held_up()) {
            return now;
        }
        let unread = self.walks.iter().flat_map(|walk| &walk.unread);
        unread.map(|unread| unread.until).min().unwrap_or(Instant::NEVER)
    }

    /// Whoever asked this has gone: what the walk has done stays done.
    pub(crate) fn forget(&mut self, session: SessionRef, stamp: u64) {
        self.walks.retain(|walk| (walk.session, walk.stamp) != (session, stamp));
    }

    fn add(&mut self, walk: Walk) -> Result<(), Refusal> {
        if self.walks.len() >= WALKS_MAX {
            return Err(Refusal::new("full", format!("{WALKS_MAX} lists or orders are under way already")));
        }
        self.walks.push_back(walk);
        Ok(())
    }
}

/// A call as the filter language sees it.
struct Seen<'a> {
    view: &'a CallView<'a>,
    spec: Option<&'a FunctionSpec>,
    /// The filter asked for something that is on disk only.
    unknown: Cell<bool>,
}

impl Subject for Seen<'_> {
    fn text(&self, field: Text) -> Cow<'_, str> {
        let none = Cow::Borrowed("");
        match (field, self.spec) {
            (Text::Id, _) => Cow::Owned(self.view.id.to_string()),
            (Text::State, _) => Cow::Borrowed(state_name(self.view)),
            (Text::Status, _) => self.view.status.map_or(none, |status| Cow::Borrowed(status.name())),
            (Text::Reason, _) => {
                let stderr = self.stderr().map(String::from_utf8_lossy);
                Cow::Owned(crate::answers::reason(self.view, stderr.as_deref()))
            }
            (Text::Error, _) => match self.stderr().filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => String::from_utf8_lossy(bytes),
                None => Cow::Owned(crate::answers::reason(self.view, None)),
            },
            (Text::Name, Some(spec)) => Cow::Borrowed(&spec.name),
            (Text::Function, Some(spec)) => Cow::Owned(format!("{}/{}", spec.namespace, spec.name)),
            (Text::Namespace, Some(spec)) => Cow::Borrowed(&spec.namespace),
            (Text::Tenant, Some(spec)) => Cow::Borrowed(&spec.tenant),
            // Of a function that is gone only the id is left.
            (Text::Name | Text::Function, None) => Cow::Owned(self.view.function.to_string()),
            (Text::Namespace | Text::Tenant, None) => none,
        }
    }

    fn number(&self, field: Number) -> Option<u64> {
        let view = self.view;
        match field {
            Number::Attempts => Some(view.deliveries.into()),
            Number::Born => Some(view.id.born_unix_ms().saturating_mul(1_000_000)),
            Number::Start => Some(view.start_at.0).filter(|start| *start != 0),
            Number::Bytes => Some(view.bytes as u64).filter(|bytes| *bytes != 0),
            Number::Criticality | Number::Deadline | Number::Key => self.submitted(field),
        }
    }
}

impl Seen<'_> {
    fn stderr(&self) -> Option<&[u8]> {
        let outcome = self.view.outcome?;
        reply(outcome.body()).ok().map(|reply| reply.stderr)
    }

    /// What the submit says, or the function for it.
    fn submitted(&self, field: Number) -> Option<u64> {
        let Some(submit) = self.view.submit else {
            self.unknown.set(self.unknown.get() | (self.view.state != State::Done));
            return None;
        };
        let defaults = self.spec.map(defaults);
        match field {
            Number::Key => Some(submit.key().0.into()),
            Number::Criticality if submit.criticality() != 0 => Some(submit.criticality().into()),
            Number::Criticality => defaults.map(|defaults| defaults.criticality.into()),
            _ if submit.deadline() != WallTime(0) => Some(submit.deadline().0),
            _ => defaults.map(|defaults| self.view.start_at.0.saturating_add(defaults.deadline_ns)),
        }
    }
}

impl<D: Driver> Node<D> {
    /// Begins to look for calls.
    pub(crate) fn find_asked(
        &mut self,
        session: SessionRef,
        stamp: u64,
        filter: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<(), Refusal> {
        let after = after.map(place_of).transpose()?;
        let limit = limit.clamp(1, PAGE_CALLS_MAX) as usize;
        let errand = Errand::List { limit, after, only: Only::Any, found: BinaryHeap::new() };
        self.walks.add(Walk::new((session, stamp), Some(parsed(filter)?), At::Number(0), errand))
    }

    /// Begins to look for the first calls that wait in a function's queue, or are dead letters of it.
    pub(crate) fn list_asked(
        &mut self,
        who: (SessionRef, u64),
        only: Only,
        limit: u32,
    ) -> Result<Option<Answer>, Refusal> {
        if limit == 0 {
            return Ok(Some(Answer::Calls(Vec::new())));
        }
        let errand = Errand::List { limit: limit as usize, after: None, only, found: BinaryHeap::new() };
        self.walks.add(Walk::new(who, None, At::Number(0), errand))?;
        Ok(None)
    }

    /// Begins to do something to calls.
    pub(crate) fn order_asked(
        &mut self,
        who: (SessionRef, u64),
        verb: Verb,
        filter: Option<&str>,
        dry_run: bool,
        from: u64,
        examine: u64,
    ) -> Result<(), Refusal> {
        let errand = Errand::Order { verb, dry_run, count: 0, left: examine.max(1) };
        let at = u32::try_from(from).map_or(At::Over, At::Number);
        self.walks.add(Walk::new(who, filter.map(parsed).transpose()?, at, errand))
    }

    /// Goes on with the first walk, and answers if that is its end.
    pub(crate) fn walk_on(&mut self) {
        let Some(mut walk) = self.walks.walks.pop_front() else { return };
        let mut meant = Vec::new();
        if !walk.is_held_up() && !walk.is_through() {
            self.look(&mut walk, &mut meant);
        }
        self.judge_read(&mut walk, &mut meant);
        self.obey_all(&mut walk, meant);
        if walk.is_through() && walk.unread.is_empty() {
            let (session, stamp) = (walk.session, walk.stamp);
            let answer = self.walked(walk);
            self.answer(session, stamp, &answer);
        } else {
            self.walks.walks.push_back(walk);
        }
    }

    /// Frames came from the disk, and may leave memory again soon: walks that wait for some look at them.
    pub(crate) fn walks_read(&mut self) {
        for _ in 0..self.walks.walks.len() {
            let mut walk = self.walks.walks.pop_front().expect("counted");
            let mut meant = Vec::new();
            self.judge_read(&mut walk, &mut meant);
            self.obey_all(&mut walk, meant);
            self.walks.walks.push_back(walk);
        }
    }

    /// Judges the calls whose frames are in memory now, asks for the others, and gives up those that do not come.
    fn judge_read(&mut self, walk: &mut Walk, meant: &mut Vec<CallRef>) {
        let (now, wall) = (self.driver.now(), self.driver.wall());
        for unread in std::mem::take(&mut walk.unread) {
            if !self.queue.fetch(unread.call) && now < unread.until {
                walk.unread.push(unread);
                continue;
            }
            // It may have ended meanwhile, and its number be another's.
            let view = self.queue.view(CallRef(unread.number)).filter(|view| view.id == unread.call);
            let asked = view.and_then(|view| self.judge(walk, At::Number(unread.number), &view, wall, meant));
            walk.unknown += u64::from(asked.is_some());
        }
    }

    fn obey_all(&mut self, walk: &mut Walk, meant: Vec<CallRef>) {
        if let Errand::Order { verb, dry_run: false, count, .. } = &mut walk.errand {
            for call in meant {
                *count += u64::from(self.obey(*verb, call));
            }
        }
    }

    /// Looks at the calls of one round. Those that something is to be done to are put into `meant`.
    fn look(&self, walk: &mut Walk, meant: &mut Vec<CallRef>) {
        let (now, wall) = (self.driver.now(), self.driver.wall());
        let until = self.driver.precise() + ROUND_TIME;
        for n in 1..=ROUND_CALLS {
            let at = walk.at;
            let view = match at {
                At::Number(number) => self.queue.view(CallRef(number)),
                At::End(position, _) => self.queue.view_end(position),
                At::Over => return,
            };
            walk.at = self.next(at);
            if let Errand::Order { left, .. } = &mut walk.errand {
                *left -= 1;
            }
            if let Some(view) = view.filter(|view| self.is_looked_at(walk, at, view)) {
                walk.examined += 1;
                if let (Some(call), At::Number(number)) = (self.judge(walk, at, &view, wall, meant), at) {
                    walk.unread.push(Unread { number, call, until: now + READ });
                }
            }
            let full = meant.len() >= ROUND_CHANGES
                || walk.is_through()
                || walk.unread.len() >= UNREAD_MAX
                || (n.is_multiple_of(CLOCK_CALLS) && self.driver.precise() >= until);
            if full {
                return;
            }
        }
    }

    fn next(&self, at: At) -> At {
        match at {
            At::Number(number) if number + 1 < self.queue.numbers() => At::Number(number + 1),
            At::Number(_) => match self.queue.ends() {
                ends if ends.start == ends.end => At::Over,
                ends => At::End(ends.start, ends.end),
            },
            At::End(position, end) if position.wrapping_add(1) != end => {
                At::End(position.wrapping_add(1), end)
            }
            At::End(..) | At::Over => At::Over,
        }
    }

    /// Whether a walk is about a call at all.
    fn is_looked_at(&self, walk: &Walk, at: At, view: &CallView<'_>) -> bool {
        // One that has ended, and whose number is not free yet, is seen among the ends.
        let ended = matches!(at, At::Number(_)) && view.state == State::Done;
        !ended && !matches!(walk.errand, Errand::List { only, .. } if !only.has(view))
    }

    /// Notes a call that is meant. Gives one of which that cannot be said while its frame is on disk only.
    fn judge(
        &self,
        walk: &mut Walk,
        at: At,
        view: &CallView<'_>,
        wall: WallTime,
        meant: &mut Vec<CallRef>,
    ) -> Option<CallId> {
        if matches!(walk.errand, Errand::Order { verb, .. } if !applies(verb, view)) {
            return None;
        }
        let function = self.catalog.find(view.function).and_then(|function| self.catalog.get(function));
        let seen = Seen { view, spec: function.map(|deployed| &deployed.spec), unknown: Cell::new(false) };
        let is_meant = walk.filter.as_ref().is_none_or(|filter| filter.matches(&seen, wall));
        if seen.unknown.get() {
            // Neither meant nor not: nothing is done to it.
            return Some(view.id);
        }
        if !is_meant {
            return None;
        }
        walk.matched += 1;
        match (&mut walk.errand, at) {
            (Errand::List { limit, after, found, .. }, _) => {
                let place = (view.start_at.0, view.id);
                if after.is_none_or(|after| place > after) {
                    found.push(place);
                    if found.len() > *limit {
                        found.pop();
                    }
                }
            }
            (Errand::Order { .. }, At::Number(number)) => meant.push(CallRef(number)),
            (Errand::Order { .. }, _) => unreachable!("orders end with the last number"),
        }
        None
    }

    /// Does it; whether that was possible.
    pub(crate) fn obey(&mut self, verb: Verb, call: CallRef) -> bool {
        let Some(view) = self.queue.view(call) else { return false };
        let (id, state) = (view.id, view.state);
        match verb {
            Verb::Redrive => self.redrive(call),
            Verb::Retry if state == State::Dead => self.redrive(call),
            Verb::Retry => self.hurry(id),
            Verb::Purge => self.queue.purge(&mut self.disk.lend(&mut self.driver), call),
            Verb::Cancel => self.cancel(id),
        }
    }

    fn walked(&self, walk: Walk) -> Answer {
        let Walk { at, matched, examined, unknown, .. } = walk;
        match walk.errand {
            Errand::Order { count, .. } => {
                let next = if let At::Number(number) = at { Some(number.into()) } else { None };
                let of = self.queue.numbers().into();
                Answer::Ordered(Ordered { count, matched, examined, unknown, of, next })
            }
            Errand::List { only: Only::Waiting(_) | Only::Dead(_), found, .. } => {
                let views = found.into_sorted_vec().into_iter().filter_map(|(_, id)| self.queue.find(id));
                Answer::Calls(views.map(|view| self.call_state(&view)).collect())
            }
            Errand::List { limit, after, found, only: Only::Any } => {
                let is_full = found.len() == limit;
                let (mut calls, mut bytes, mut last) = (Vec::new(), 0, after);
                let mut is_cut = false;
                for place in found.into_sorted_vec() {
                    is_cut = bytes >= PAGE_BYTES_MAX;
                    if is_cut {
                        break;
                    }
                    last = Some(place);
                    // One that has been forgotten since is left out.
                    let Some(view) = self.queue.find(place.1) else { continue };
                    let state = self.call_state(&view);
                    bytes += [&state.output, &state.stderr]
                        .iter()
                        .map(|t| t.as_ref().map_or(0, String::len))
                        .sum::<usize>();
                    calls.push(state);
                }
                let next = last.filter(|_| is_full || is_cut).map(|(start, id)| format!("{start}.{id}"));
                Answer::Found(CallPage { calls, matched, examined, unknown, next })
            }
        }
    }
}

/// Whether something can be done to a call.
fn applies(verb: Verb, view: &CallView<'_>) -> bool {
    match verb {
        Verb::Redrive | Verb::Purge => view.state == State::Dead,
        Verb::Retry => view.state == State::Dead || (view.state == State::Scheduled && view.status.is_some()),
        Verb::Cancel => !matches!(view.state, State::Dead | State::Done),
    }
}

fn parsed(filter: &str) -> Result<Filter, Refusal> {
    Filter::parse(filter).map_err(|error| Refusal::new("bad-request", format!("where: {error}")))
}

/// As [`CallPage::next`] says it.
fn place_of(text: &str) -> Result<Place, Refusal> {
    let place = text.split_once('.').and_then(|(start, id)| Some((start.parse().ok()?, id.parse().ok()?)));
    place.ok_or_else(|| Refusal::new("bad-request", format!("after: `{text}` is not the `next` of a page")))
}
