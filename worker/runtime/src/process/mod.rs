//! Process functions: ordinary Linux programs in sandboxes, which the host's jailer makes.
//!
//! A call goes to a warm sandbox of its function at once, from the frame into the answer to a `next` that waits, and
//! all that was written in a turn leaves in one send per connection. Nothing here blocks: connections, pipes and the
//! jailer's messages come through the core's own ring.
//!
//! - [`api`]: the Lambda Runtime API as a state machine over bytes. [`pool`]: which sandbox runs which call.
//! - `ledger`: the calls, what they used, how they ended. `place`: a sandbox and its connections. `function`: what is
//!   published. `slot`: one call's memory.
//! - `link`: the connection to the jailer. `serve`: what arrives. `runs`: functions by stdio.
//!
//! For a warm call nothing is allocated.

pub mod api;
pub mod pool;
mod slot;
mod function;
mod ledger;
mod place;
mod link;
mod pressure;
mod runs;
mod serve;

use crate::results::Room;
use crate::seam::{Begin, Ended, Progress, Runtime, SlotId};
use call::admin::SOON;
use call::{FunctionId, FunctionSpec, Instant, Status, WallTime};
use driver::{Arrivals, ConnectionId, Driver, ListenerId};
use function::Function;
use ledger::Ledger;
use link::Link;
use place::{Owner, Place, Talk};
use pool::{Action, Arrived, AsItIs, SandboxId, Was};
use sandbox::protocol::{Abi, Stop, ToJailer};
use slot::State;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::path::PathBuf;

/// Notes kept until somebody reads them.
const NOTES_MAX: usize = 64;

/// What a runtime is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Calls at once.
    pub slots: u32,
    /// Sandboxes of this core, of all functions together.
    pub sandboxes: u32,
    /// The core's CPU, for people.
    pub cpu: u32,
    /// Where the host's jailer listens; without one no process function runs.
    pub jailer: Option<PathBuf>,
    /// Where unpacked bundles are, each named by its hash.
    pub bundles: PathBuf,
    /// Memory for large results.
    pub room: Room,
}

impl Options {
    /// Sandboxes of one core: each has a process at least, and some megabytes.
    pub const SANDBOXES: u32 = 256;
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<AsItIs>>;

/// What runs process functions on one core.
pub struct ProcessRuntime {
    options: Options,
    functions: Map<FunctionId, Function>,
    ledger: Ledger,
    places: Vec<Place>,
    owners: Map<ConnectionId, Owner>,
    listeners: HashMap<ListenerId, SandboxId>,
    link: Link,
    /// Connections with something to send.
    dirty: Vec<(SandboxId, u16)>,
    /// Connections with requests behind one that was answered just now.
    backlogs: Vec<(SandboxId, u16)>,
    /// Connections to be ended.
    aborts: Vec<ConnectionId>,
    /// When a run of a stdio function is to be finished at the latest.
    finish_at: Instant,
    /// Pipes that brought too much at once, and when they are read again.
    resting: Vec<ConnectionId>,
    flow_at: Instant,
    wall: WallTime,
    notes: Vec<String>,
}

impl ProcessRuntime {
    /// One without sandboxes; it connects to the jailer in its first turn.
    pub fn new(options: Options) -> ProcessRuntime {
        ProcessRuntime {
            functions: Map::default(),
            ledger: Ledger::new(options.slots, options.sandboxes, &options.room),
            places: (0..options.sandboxes).map(|_| Place::empty()).collect(),
            owners: Map::default(),
            listeners: HashMap::new(),
            link: Link::new(options.jailer.clone()),
            dirty: Vec::with_capacity(64),
            backlogs: Vec::new(),
            aborts: Vec::new(),
            finish_at: Instant::NEVER,
            resting: Vec::new(),
            flow_at: Instant::NEVER,
            wall: WallTime(0),
            notes: Vec::new(),
            options,
        }
    }

    /// Sandboxes that come, those that are ready, and all that have a place; for tests.
    pub fn sandboxes(&self) -> (usize, usize, usize) {
        self.ledger.pool.counts()
    }

    fn note(&mut self, line: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(line);
        }
    }

    fn place(&mut self, id: SandboxId) -> Option<&mut Place> {
        self.places.get_mut(id.place as usize).filter(|place| place.is(id))
    }

    /// Gives the call in this slot to a sandbox that has a seat for it. What it is told is in the slot's `pending`, or
    /// comes from `begin`.
    fn give(&mut self, slot: SlotId, id: SandboxId, begin: Option<&Begin<'_>>) {
        let place = &mut self.places[id.place as usize];
        self.ledger.given(slot, &mut place.desk);
        let held = &mut self.ledger.slots[slot.0 as usize];
        match &mut place.talk {
            Talk::Api(session) => {
                let (at, out) = session.give(held.call);
                match begin {
                    Some(begin) => self.functions[&begin.function].tell(out, begin, self.wall),
                    None => out.extend_from_slice(&held.pending),
                }
                if session.has_backlog(at) {
                    self.backlogs.push((id, at));
                }
                self.dirty.push((id, at));
            }
            Talk::Stdio(_) => {
                if let Some(begin) = begin {
                    self.write_down(slot, begin);
                }
                self.start_run(slot, id);
            }
        }
    }

    /// Keeps what the call in this slot is told until a sandbox takes it.
    fn write_down(&mut self, slot: SlotId, begin: &Begin<'_>) {
        let function = &self.functions[&begin.function];
        let held = &mut self.ledger.slots[slot.0 as usize];
        match function.abi() {
            Abi::RuntimeApi => function.tell(&mut held.pending, begin, self.wall),
            Abi::Stdio => {
                held.pending.extend_from_slice(begin.payload);
                if function.variables(&mut held.environment, begin) {
                    held.tell("some attributes are not in the environment: they take more than 16 KiB");
                }
            }
        }
    }

    /// Does what the pool decided.
    fn act(&mut self) {
        while let Some(action) = self.ledger.pool.action() {
            match action {
                Action::Make { sandbox, function } => self.ask_for(sandbox, function),
                Action::Stop { sandbox } => self.stop_sandbox(sandbox),
                Action::Fail { slot, status, text } => {
                    let function = self.functions.get(&self.ledger.slots[slot.0 as usize].function);
                    let posted = function.filter(|_| status == Status::Init);
                    let posted = posted.map_or(&[][..], |function| &function.init_error);
                    self.ledger.fail(slot, status, &text, posted);
                }
            }
        }
    }

    fn ask_for(&mut self, id: SandboxId, function: FunctionId) {
        let known = self.functions.get_mut(&function).expect("the pool knows published functions only");
        known.init_error.clear();
        let talk = match known.abi() {
            Abi::RuntimeApi => Talk::Api(api::Session::new(known.bounds.concurrent, &self.options.room)),
            Abi::Stdio => Talk::Stdio(Vec::new()),
        };
        self.places[id.place as usize] = Place::asked(id, function, talk, self.ledger.now);
        let asked = self.link.say(&ToJailer::Make { sandbox: id.number(), spec: known.spec.clone() });
        if let Err(why) = asked {
            self.places[id.place as usize] = Place::empty();
            self.ledger.pool.gone(id, Status::Unavailable, &why, self.ledger.now);
        }
    }

    fn stop_sandbox(&mut self, id: SandboxId) {
        let Some(place) = self.places.get(id.place as usize).filter(|place| place.is(id)) else { return };
        let grace_ms = self.functions.get(&place.desk.function).map_or(0, |function| function.grace_ms);
        let stop = ToJailer::Stop { sandbox: id.number(), how: Stop::Term { grace_ms } };
        self.link.say(&stop).expect("a stop is short");
    }

    /// Refuses a call before it is in the pool.
    fn refuse(&mut self, slot: SlotId, status: Status, why: &str) -> Progress {
        let held = self.ledger.slot(slot);
        held.tell(why);
        held.end(status);
        Progress::Ended
    }
}

impl Runtime for ProcessRuntime {
    fn publish(&mut self, id: FunctionId, spec: &FunctionSpec) {
        let mut function = Function::new(spec, &self.options.bundles);
        let before = self.functions.get_mut(&id);
        let is_new = before.as_ref().is_none_or(|before| !before.is_like(&function));
        if let Some(before) = before.filter(|_| !is_new) {
            function.init_error = std::mem::take(&mut before.init_error);
        }
        self.ledger.pool.publish(id, function.bounds);
        self.functions.insert(id, function);
        if is_new {
            self.ledger.pool.renew(id, self.ledger.now);
        }
        self.act();
    }

    fn retire(&mut self, id: FunctionId) {
        if self.functions.contains_key(&id) {
            self.ledger.pool.retire(id, self.ledger.now);
            self.act();
            self.functions.remove(&id);
        }
    }

    fn foresee(&mut self, id: FunctionId, likely: bool) {
        match likely {
            // Without a jailer none can be made.
            true if self.link.why_not().is_some() => {}
            true => self.ledger.pool.expect(id, self.ledger.now),
            false => self.ledger.pool.release(id),
        }
        self.act();
    }

    fn begin(&mut self, slot: SlotId, begin: &Begin<'_>) -> Progress {
        self.ledger.slot(slot).begin(begin.call, begin.function);
        if !self.functions.contains_key(&begin.function) {
            return self.refuse(slot, Status::Unavailable, "the function is not published on this core");
        }
        if let Some((status, why)) = self.link.why_not() {
            return self.refuse(slot, status, why);
        }
        match self.ledger.pool.arrive(slot, begin.function, self.ledger.now) {
            Arrived::Given(sandbox) => self.give(slot, sandbox, Some(begin)),
            Arrived::Queued => self.write_down(slot, begin),
            Arrived::Refused(status, why) => {
                self.ledger.fail(slot, status, &why, &self.functions[&begin.function].init_error);
                self.ledger.ended.pop();
                return Progress::Ended;
            }
        }
        Progress::Waiting
    }

    fn resume(&mut self, slot: SlotId) -> Progress {
        match self.ledger.slot(slot).state {
            State::Waiting => Progress::Waiting,
            State::Ended => Progress::Ended,
            State::Free => panic!("slot {} holds no call", slot.0),
        }
    }

    fn stop(&mut self, slot: SlotId, status: Status) {
        let Ledger { slots, pool, ended, awaited, now, .. } = &mut self.ledger;
        let held = &mut slots[slot.0 as usize];
        match held.state {
            State::Free => panic!("slot {} holds no call", slot.0),
            // It ended a moment ago, and nobody was told.
            State::Ended => {
                ended.retain(|other| *other != slot);
                awaited.retain(|awaited| awaited.slot != Some(slot));
            }
            State::Waiting => match pool.stop(slot, *now) {
                Was::Queued if status == Status::Timeout => {
                    held.tell("no sandbox was ready for the call in time");
                }
                Was::Queued => {}
                Was::In(id) => {
                    let Place { desk, talk, .. } = &mut self.places[id.place as usize];
                    match talk {
                        Talk::Api(session) => drop(session.forget(held.call)),
                        Talk::Stdio(runs) => runs::abandon(runs, slot),
                    }
                    self.ledger.charge(slot, desk);
                    desk.remove(slot);
                }
            },
        }
        let held = self.ledger.slot(slot);
        held.end(status);
        held.drop_output();
        self.act();
    }

    fn ended(&self, slot: SlotId) -> Ended<'_> {
        self.ledger.slots[slot.0 as usize].ended()
    }

    fn release(&mut self, slot: SlotId) {
        let held = self.ledger.slot(slot);
        assert_eq!(held.state, State::Ended, "slot {} holds a call that has ended", slot.0);
        held.free();
    }

    fn serve(
        &mut self,
        driver: &mut dyn Driver,
        arrivals: &Arrivals,
        now: Instant,
        ready: &mut Vec<(SlotId, Progress)>,
    ) {
        (self.ledger.now, self.wall) = (now, driver.wall());
        self.take_arrivals(driver, arrivals);
        self.serve_backlogs();
        if now >= self.flow_at {
            self.read_again(driver);
        }
        if now >= self.finish_at {
            self.finish_runs(driver);
        }
        if self.link.tend(driver, self.options.cpu, now) {
            self.lose_sandboxes(driver, "it is not there", link::AWAY);
        }
        self.ledger.pool.tick(now);
        self.act();
        self.ledger.end_wait();
        ready.extend(self.ledger.ended.drain(..).map(|slot| (slot, Progress::Ended)));
    }

    fn flush(&mut self, driver: &mut dyn Driver) {
        self.act();
        let mut dirty = std::mem::take(&mut self.dirty);
        for (id, at) in dirty.drain(..) {
            self.send(driver, id, at);
        }
        self.dirty = dirty;
        self.link.flush(driver);
        // Functions with calls may need the core's CPU.
        driver.make_way(self.ledger.pool.calls() > 0);
        for connection in self.aborts.drain(..) {
            driver.abort(connection);
        }
    }

    fn alarm(&self) -> Instant {
        if !self.ledger.ended.is_empty() || !self.backlogs.is_empty() {
            return Instant(0);
        }
        let awaited = self.ledger.awaited.iter().map(|awaited| awaited.until).min().unwrap_or(Instant::NEVER);
        self.ledger.pool.alarm().min(self.link.alarm()).min(awaited).min(self.finish_at).min(self.flow_at)
    }

    fn notes(&mut self, into: &mut Vec<String>) {
        into.append(&mut self.notes);
    }

    fn backends(&self) -> Vec<(String, String)> {
        let counted = match &self.ledger.counters {
            Some(counters) => format!("of {} sandboxes, mapped: no system call", counters.rows()),
            None if self.link.is_awaited() => format!("{SOON}the jailer tells"),
            None => {
                "not counted: the jailer has no BPF, or is not there; calls are told 0 CPU time and bytes"
                    .into()
            }
        };
        let of_jailer =
            self.link.backends.iter().map(|(thing, how)| (format!("sandboxes: {thing}"), how.clone()));
        let mine = [("process functions".into(), self.link.backend()), ("process counters".into(), counted)];
        mine.into_iter().chain(of_jailer).collect()
    }

    fn edition(&self) -> u32 {
        self.link.edition()
    }
}
