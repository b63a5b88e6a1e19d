//! Answers to operators: every [`Ask`] of the admin side ends here. Not on the path of a call.

use crate::catalog::id_of;
use crate::node::{Node, Phase};
use crate::outcomes::explanation;
use crate::schedule::defaults;
use crate::session::SessionRef;
use crate::walk::Only;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use call::admin::{
    Answer, Ask, CallHistory, CallResult, CallState, CoreState, FunctionState, NodeStatus, QueueState,
    StoredResult, Verb,
};
use call::blob::Reference;
use call::body::reply;
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::{CallId, Instant, Status, WallTime};
use driver::Driver;
use durableq::{CallView, State};
use scheduler::{FunctionRef, Input};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bytes of an answer in one frame; a longer one comes in parts.
const PART_BYTES: usize = 1 << 20;

/// So long an answer waits for the frame of its call, which is read from the disk; then it says what is known without.
const FETCH: Duration = Duration::from_secs(1);

/// Who waits for the end of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Waiter {
    call: CallId,
    session: SessionRef,
    /// Of the ask.
    stamp: u64,
    until: Instant,
}

/// Asks that are answered when a call has ended, or later.
#[derive(Default)]
pub(crate) struct Waiters {
    by_call: BTreeSet<Waiter>,
    by_time: BTreeSet<(Instant, Waiter)>,
    by_ask: BTreeMap<(SessionRef, u64), Waiter>,
    /// Their calls have ended in this round.
    ready: Vec<Waiter>,
    /// The frames of their calls come from the disk.
    fetching: Vec<Waiter>,
}

impl Waiters {
    fn add(&mut self, waiter: Waiter) {
        self.by_call.insert(waiter);
        self.by_time.insert((waiter.until, waiter));
        self.by_ask.insert((waiter.session, waiter.stamp), waiter);
    }

    /// Whoever asked this has gone.
    fn forget(&mut self, session: SessionRef, stamp: u64) {
        if let Some(waiter) = self.by_ask.get(&(session, stamp)).copied() {
            self.remove(waiter);
        }
        self.fetching.retain(|waiter| (waiter.session, waiter.stamp) != (session, stamp));
    }

    /// Frames came from the disk: whoever waits for one that is here is answered this round.
    pub(crate) fn fetched(&mut self, mut is_here: impl FnMut(CallId) -> bool) {
        self.ready.extend(self.fetching.extract_if(.., |waiter| is_here(waiter.call)));
    }

    fn remove(&mut self, waiter: Waiter) {
        self.by_call.remove(&waiter);
        self.by_time.remove(&(waiter.until, waiter));
        self.by_ask.remove(&(waiter.session, waiter.stamp));
    }

    /// A call has ended: those who wait for it are answered this round.
    pub(crate) fn ended(&mut self, call: CallId) {
        while let Some(waiter) = self.next_of(call) {
            self.remove(waiter);
            self.ready.push(waiter);
        }
    }

    fn next_of(&self, call: CallId) -> Option<Waiter> {
        let least = Waiter { call, session: SessionRef::NOBODY, stamp: 0, until: Instant(0) };
        self.by_call.range(least..).next().copied().filter(|waiter| waiter.call == call)
    }

    /// The next to be answered: those whose call has ended, and those whose patience has.
    fn pop(&mut self, now: Instant) -> Option<Waiter> {
        self.ready.extend(self.fetching.extract_if(.., |waiter| waiter.until <= now));
        if let Some(waiter) = self.ready.pop() {
            return Some(waiter);
        }
        let (until, waiter) = *self.by_time.first()?;
        if until > now {
            return None;
        }
        self.remove(waiter);
        Some(waiter)
    }

    /// When the next one's patience ends.
    pub(crate) fn next(&self) -> Instant {
        let fetching = self.fetching.iter().map(|waiter| waiter.until);
        fetching.chain(self.by_time.first().map(|(until, _)| *until)).min().unwrap_or(Instant::NEVER)
    }
}

/// Why an ask is not answered: [`Answer::Error`].
pub(crate) struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    pub(crate) fn no_function(name: &str) -> Refusal {
        Refusal::new("not-found", format!("no function {name} is deployed"))
    }
}

impl From<call::ids::IdError> for Refusal {
    fn from(error: call::ids::IdError) -> Refusal {
        Refusal::new("bad-request", error.to_string())
    }
}

impl<D: Driver> Node<D> {
    /// The admin side asks.
    pub(crate) fn ask(&mut self, session: SessionRef, frame: &Frame<'_>) {
        let stamp = frame.stamp();
        let answer = match serde_json::from_slice(frame.body()) {
            Ok(ask) if self.relay(session, stamp, &ask, frame.body()) => return,
            Ok(ask) => self.answer_to(session, stamp, ask),
            Err(error) => Err(Refusal::new("bad-request", format!("not a question: {error}"))),
        };
        match answer {
            Ok(Some(answer)) => self.answer(session, stamp, &answer),
            Ok(None) => {}
            Err(Refusal { code, message }) => {
                self.answer(session, stamp, &Answer::Error { code: code.into(), message });
            }
        }
    }

    /// `None` if the answer comes later.
    fn answer_to(&mut self, session: SessionRef, stamp: u64, ask: Ask) -> Result<Option<Answer>, Refusal> {
        Ok(Some(match ask {
            Ask::Status => Answer::Status(self.status()),
            Ask::Deploy { spec } => {
                let function = self.deploy(spec)?;
                Answer::Function(self.function_state(function))
            }
            Ask::Functions => {
                Answer::Functions(self.catalog.iter().map(|(f, _)| self.function_state(f)).collect())
            }
            Ask::Function { function } => {
                let known = self.catalog.named(&function).ok_or_else(|| Refusal::no_function(&function))?;
                Answer::Function(self.function_state(known))
            }
            Ask::FunctionDelete { function, force } => {
                return self.delete_asked((session, stamp), &function, force);
            }
            Ask::Call { call, wait_ms } => return self.call_asked(session, stamp, call.parse()?, wait_ms),
            Ask::Result { call } => self.result_of(call.parse()?)?,
            Ask::Forget { asked } => {
                self.waiters.forget(session, asked);
                self.walks.forget(session, asked);
                self.forget_collection(session, asked);
                return Ok(None);
            }
            Ask::BlobsCollect { dry_run } => return self.collect_asked(session, stamp, dry_run),
            Ask::BlobStored { blob, bytes } => self.blob_stored(&blob, bytes)?,
            Ask::Queues => Answer::Queues(self.queue_states()),
            Ask::Workers => Answer::Workers(self.core_states()),
            Ask::Region => Answer::Region(self.region_state()),
            Ask::Matrix { matrix } => self.matrix_published(matrix)?,
            Ask::RegionDrain { drained } => self.region_drains(drained),
            Ask::Shards => Answer::Shards(self.shard_state()),
            Ask::ShardMap { map } => self.map_published(map)?,
            Ask::Shares => Answer::Shares(self.shares_state()),
            Ask::SharesTold { table } => self.shares_told(table)?,
            Ask::Hold { ms } => Answer::Held(self.hold(ms)),
            Ask::Drain => {
                self.drain();
                self.drain_asked.push((session, stamp));
                return Ok(None);
            }
            of_calls @ (Ask::Peek { .. }
            | Ask::DeadLetters { .. }
            | Ask::Find { .. }
            | Ask::Order { .. }
            | Ask::Redrive { .. }
            | Ask::Cancel { .. }
            | Ask::Retry { .. }
            | Ask::Purge { .. }
            | Ask::Pause { .. }
            | Ask::Close { .. }) => return self.answer_of_calls(session, stamp, of_calls),
            ask => self.answer_about_shaping(ask)?,
        }))
    }

    /// Of many calls, and what is done to calls.
    fn answer_of_calls(
        &mut self,
        session: SessionRef,
        stamp: u64,
        ask: Ask,
    ) -> Result<Option<Answer>, Refusal> {
        Ok(Some(match ask {
            Ask::Peek { function, limit } => {
                let only = Only::Waiting(self.queue.function_id(self.queued(&function)?));
                return self.list_asked((session, stamp), only, limit);
            }
            Ask::DeadLetters { function: Some(function), limit } => {
                let only = Only::Dead(self.queue.function_id(self.queued(&function)?));
                return self.list_asked((session, stamp), only, limit);
            }
            Ask::DeadLetters { function: None, limit } => {
                let mut letters = Vec::new();
                self.queue.dead_letters(limit as usize, &mut letters);
                let views = letters.into_iter().filter_map(|letter| self.queue.view(letter));
                Answer::Calls(views.map(|view| self.call_state(&view)).collect())
            }
            Ask::Redrive { call } => self.letter_asked(Verb::Redrive, call.parse()?)?,
            Ask::Cancel { call, wait_ms } => {
                return self.cancel_asked(session, stamp, call.parse()?, wait_ms);
            }
            Ask::Retry { call } => self.retry_asked(call.parse()?)?,
            Ask::Purge { call } => self.letter_asked(Verb::Purge, call.parse()?)?,
            Ask::Pause { whose, paused } => Answer::Done { count: self.set_pause(whose, paused)? },
            Ask::Close { function, closed } => {
                self.deployed(&function)?;
                Answer::Done { count: self.shapes.close(&function, closed).into() }
            }
            Ask::Find { filter, limit, after } => {
                self.find_asked(session, stamp, &filter, limit, after.as_deref())?;
                return Ok(None);
            }
            Ask::Order { verb, filter, dry_run, from, examine } => {
                self.order_asked((session, stamp), verb, filter.as_deref(), dry_run, from, examine)?;
                return Ok(None);
            }
            other => unreachable!("answered elsewhere: {other:?}"),
        }))
    }

    pub(crate) fn answer(&mut self, session: SessionRef, stamp: u64, answer: &Answer) {
        let body = serde_json::to_vec(answer).expect("plain data");
        let parts = body.chunks(PART_BYTES);
        let mut frame = FrameBuf::new();
        for (at, part) in parts.clone().enumerate() {
            let attempt = (parts.len() - 1 - at) as u16;
            frame.clear();
            append(&mut frame, &Header { stamp, attempt, ..Header::new(Kind::Answer) }, part);
            self.sessions.send(&mut self.driver, session, &frame);
        }
    }

    pub(crate) fn deployed(&self, name: &str) -> Result<FunctionRef, Refusal> {
        self.catalog.named(name).ok_or_else(|| Refusal::no_function(name))
    }

    /// The queue's number of a function, deployed or not, that has had calls.
    fn queued(&self, name: &str) -> Result<durableq::FunctionRef, Refusal> {
        self.queue.function(id_of(name)).ok_or_else(|| Refusal::no_function(name))
    }

    /// Answers at once if no call is pending, or when all are dead letters.
    fn delete_asked(
        &mut self,
        who: (SessionRef, u64),
        name: &str,
        force: bool,
    ) -> Result<Option<Answer>, Refusal> {
        let function = self.catalog.named(name).ok_or_else(|| Refusal::no_function(name))?;
        let known = durableq::FunctionRef(function.0);
        let depth = self.queue.depth(known);
        let pending = depth.scheduled + depth.due + depth.offered + depth.leased;
        if pending > 0 && !force {
            let message =
                format!("{pending} calls of {name} are pending; force sends them to the dead letters");
            return Err(Refusal::new("conflict", message));
        }
        self.retire(function);
        self.catalog.delete(function);
        self.tell_homes(function);
        self.return_waiting(function);
        self.scheduler.step(Input::FunctionGone { function }, &mut self.effects);
        // What the scheduler holds and does not run comes back, so that it can be buried. What runs, or is not on
        // disk yet, is buried if it becomes due later.
        self.schedule();
        self.begin_burial(function, Some(who));
        Ok(None)
    }

    pub(crate) fn call_asked(
        &mut self,
        session: SessionRef,
        stamp: u64,
        call: CallId,
        wait_ms: u64,
    ) -> Result<Option<Answer>, Refusal> {
        let view = self.queue.find(call).ok_or_else(|| unknown(call))?;
        let ended = matches!(view.state, State::Dead | State::Done);
        if ended || wait_ms == 0 || !self.queue.watch(call) {
            if !self.queue.fetch(call) {
                let until = self.driver.now() + FETCH;
                self.waiters.fetching.push(Waiter { call, session, stamp, until });
                return Ok(None);
            }
            return self.call_answer(call).map(Some);
        }
        let until = self.driver.now() + Duration::from_millis(wait_ms);
        self.waiters.add(Waiter { call, session, stamp, until });
        Ok(None)
    }

    /// Answers those whose call has ended, and those who have waited long enough.
    pub(crate) fn answer_waiters(&mut self, now: Instant) {
        while let Some(waiter) = self.waiters.pop(now) {
            let answer = self
                .call_answer(waiter.call)
                .unwrap_or_else(|Refusal { code, message }| Answer::Error { code: code.into(), message });
            self.answer(waiter.session, waiter.stamp, &answer);
        }
    }

    /// What a call that has ended returned.
    fn result_of(&self, call: CallId) -> Result<Answer, Refusal> {
        let view = self.queue.find(call).ok_or_else(|| unknown(call))?;
        if !matches!(view.state, State::Dead | State::Done) {
            return Err(Refusal::new(
                "conflict",
                format!("call {call} has not ended: it is {}", state_name(&view)),
            ));
        }
        let said = view.outcome.and_then(|outcome| Some((outcome, reply(outcome.body()).ok()?)));
        let Some((outcome, said)) = said else {
            let message =
                format!("the result of call {call} is not kept: nobody wanted it, or it ended long ago");
            return Err(Refusal::new("not-found", message));
        };
        let stored = Reference::in_outcome(&outcome).map(StoredResult::of);
        let output = if stored.is_some() { String::new() } else { STANDARD.encode(said.output) };
        let status = view.status.or(outcome.status().ok()).unwrap_or(Status::Ok);
        Ok(Answer::Result(CallResult { status, stored, output }))
    }

    pub(crate) fn call_answer(&self, call: CallId) -> Result<Answer, Refusal> {
        let view = self.queue.find(call).ok_or_else(|| unknown(call))?;
        let history = view.history.map(CallHistory::of);
        Ok(Answer::Call(CallState { history, ..self.call_state(&view) }))
    }

    /// All of what is known but the history, which would make lists long.
    pub(crate) fn call_state(&self, view: &CallView<'_>) -> CallState {
        let said = view.outcome.and_then(|outcome| reply(outcome.body()).ok());
        let spec = self.catalog.find(view.function).and_then(|f| self.catalog.get(f)).map(|f| &f.spec);
        let defaults = spec.map(defaults);
        let deadline = match (view.deadline.0, &defaults) {
            // Of a call that has ended the start is not kept, and a default would count from 1970.
            (0, Some(defaults)) if view.start_at.0 != 0 => {
                view.start_at.0.saturating_add(defaults.deadline_ns)
            }
            (given, _) => given,
        };
        let criticality =
            if view.criticality == 0 { defaults.map_or(0, |d| d.criticality) } else { view.criticality };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let stderr = said.map(|reply| text(reply.stderr));
        let result = view.outcome.and_then(|outcome| Reference::in_outcome(&outcome)).map(StoredResult::of);
        CallState {
            call: view.id.to_string(),
            function: self.catalog.name_of(view.function),
            state: state_name(view).into(),
            status: view.status,
            start_at: view.start_at.0,
            deadline,
            criticality,
            attempts: view.deliveries,
            reason: reason(view, stderr.as_deref()),
            usage: said.map(|reply| reply.usage()),
            output: said.filter(|_| result.is_none()).map(|reply| text(reply.output)),
            result,
            stderr,
            history: None,
            shard: self.options.shards.number,
        }
    }

    fn function_state(&self, function: FunctionRef) -> FunctionState {
        let deployed = self.catalog.get(function).expect("deployed");
        let depth = self.queue.depth(durableq::FunctionRef(function.0));
        let state = match (deployed.ready.is_empty(), deployed.failure.is_empty()) {
            (false, _) => "ready",
            (true, false) => "failed",
            (true, true) => "compiling",
        };
        FunctionState {
            spec: deployed.spec.clone(),
            state: state.into(),
            reason: deployed.failure.clone(),
            hosts: deployed.ready.len() as u32,
            pending: u64::from(depth.scheduled + depth.due + depth.offered + depth.leased),
            completed: deployed.completed,
            failed: deployed.failed,
        }
    }

    fn queue_states(&self) -> Vec<QueueState> {
        let now = self.driver.wall();
        let known = (0..self.queue.functions()).map(durableq::FunctionRef);
        let states = known.filter_map(|function| {
            let depth = self.queue.depth(function);
            let deployed = self.catalog.get(FunctionRef(function.0)).is_some();
            let held = depth.scheduled + depth.due + depth.offered + depth.leased + depth.dead;
            (deployed || held > 0).then(|| QueueState {
                function: self.catalog.name_of(self.queue.function_id(function)),
                scheduled: depth.scheduled.into(),
                due: (depth.due + depth.offered).into(),
                leased: depth.leased.into(),
                dead: depth.dead.into(),
                oldest_due_ms: overdue_ms(depth.oldest_due, now),
                bytes: depth.bytes,
                paused: self.paused_by(FunctionRef(function.0)).into(),
                closed: self.shapes.is_closed(self.queue.function_id(function)),
                shard: self.options.shards.number,
            })
        });
        states.collect()
    }

    fn core_states(&self) -> Vec<CoreState> {
        let now = self.driver.now();
        let silent = 2 * self.limits.heartbeat;
        let state = |(core, entry): (scheduler::CoreRef, &crate::worker_lb::Core)| {
            let quiet = now.since(entry.heard_at);
            let state = match (entry.draining, quiet > silent) {
                (true, _) => "draining",
                (_, true) => "silent",
                _ => "live",
            };
            CoreState {
                host: self.workers.host_name(entry.host).into(),
                cpu: entry.cpu,
                pid: entry.pid,
                state: state.into(),
                slots: entry.slots,
                leased: entry.leased,
                credits: if entry.is_up { self.scheduler.credits(core) } else { 0 },
                finished: entry.finished,
                silent_ms: quiet.as_millis() as u64,
                backends: entry.backends.clone(),
                far: entry.far,
            }
        };
        self.workers.cores().map(state).collect()
    }

    /// The node as a whole.
    pub fn status(&self) -> NodeStatus {
        let queue = self.queue.counters();
        let mut status = NodeStatus {
            shard: self.options.shards.number,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: self.options.pid,
            uptime_s: self.driver.now().since(self.started).as_secs(),
            incarnation: self.queue.incarnation(),
            backends: self.driver.backends(),
            accepted: queue.accepted,
            duplicates: queue.duplicates,
            leased: queue.leased,
            completed: queue.completed,
            retried: queue.retried,
            dead: queue.dead,
            leases_lost: queue.leases_lost,
            fenced: queue.fenced,
            pending: queue.pending_now,
            leased_now: queue.leased_now,
            dead_letters: queue.dead_now,
            recovered: queue.recovered,
            groups: queue.groups,
            log_bytes: queue.log_bytes,
            segments: queue.segments_now,
            checkpoints: queue.checkpoints,
            start_bytes: queue.start_bytes_now,
            blobs: self.blobs.len() as u64,
            blob_bytes: self.blobs.bytes(),
            draining: self.phase != Phase::Serving,
            ..NodeStatus::default()
        };
        self.stats.report(&mut status);
        self.load.report(&mut status);
        status.opportunistic = *self.shapes.opportunistic.get();
        status.slow_clients = self.sessions.slow;
        status
    }
}

fn overdue_ms(since: WallTime, now: WallTime) -> u64 {
    if since == WallTime(0) { 0 } else { now.since(since).as_millis() as u64 }
}

pub(crate) fn state_name(view: &CallView<'_>) -> &'static str {
    match view.state {
        State::Scheduled if view.status.is_some() => "retrying",
        State::Scheduled => "scheduled",
        State::Appended | State::Due => "queued",
        State::Offered => "buffered",
        State::Leased(..) => "running",
        State::Dead => "dead",
        State::Done => "done",
    }
}

/// Why the last execution failed: the word for it, and the first line of what it wrote.
pub(crate) fn reason(view: &CallView<'_>, stderr: Option<&str>) -> String {
    match view.status {
        None | Some(Status::Ok) => String::new(),
        Some(status) => match stderr.and_then(|text| text.lines().find(|line| !line.trim().is_empty())) {
            Some(line) => format!("{}: {line}", status.name()),
            None if view.outcome.is_none() => format!("{}: {}", status.name(), explanation(status)),
            None => status.name().into(),
        },
    }
}

pub(crate) fn unknown(call: CallId) -> Refusal {
    Refusal::new(
        "not-found",
        format!("no call {call} is known: it was never submitted here, or ended long ago"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_found_by_call_and_by_time() {
        let waiter = |call, stamp, until| Waiter {
            call: CallId(call),
            session: SessionRef::NOBODY,
            stamp,
            until: Instant(until),
        };
        let mut waiters = Waiters::default();
        waiters.add(waiter(1, 10, 100));
        waiters.add(waiter(2, 11, 50));
        waiters.add(waiter(1, 12, 70));
        assert_eq!((waiters.next(), waiters.pop(Instant(49))), (Instant(50), None));
        assert_eq!(waiters.pop(Instant(50)), Some(waiter(2, 11, 50)));
        waiters.ended(CallId(1));
        let mut answered = [waiters.pop(Instant(0)).unwrap().stamp, waiters.pop(Instant(0)).unwrap().stamp];
        answered.sort_unstable();
        assert_eq!((answered, waiters.pop(Instant::NEVER), waiters.next()), ([10, 12], None, Instant::NEVER));
        // Of two that wait for the same call, one goes.
        waiters.add(waiter(3, 13, 50));
        waiters.add(waiter(3, 14, 60));
        waiters.forget(SessionRef::NOBODY, 13);
        waiters.forget(SessionRef::NOBODY, 99);
        waiters.ended(CallId(3));
        assert_eq!(waiters.pop(Instant(0)), Some(waiter(3, 14, 60)));
        assert!(
            waiters.pop(Instant::NEVER).is_none() && waiters.by_ask.is_empty() && waiters.by_call.is_empty()
        );
    }
}
