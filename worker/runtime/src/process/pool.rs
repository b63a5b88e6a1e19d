//! Which sandbox runs which call, and which sandboxes end: a pure decider. How many there are of a function is decided
//! by its [`growth`].
//!
//! - A call goes to the sandbox of its function that was used last, so that the others grow idle and can go.
//! - Without a free seat it waits in its function's queue, for the first sandbox that asks.
//! - A sandbox ends when it was idle for long, when memory is short, when its place is wanted by a function that has
//!   none, when a call in it timed out, or when a newer version of its function is published. It takes no calls then,
//!   and is stopped when its last one has ended.
//!
//! Events are method calls; what is to be done about them comes from [`Pool::action`].

#[cfg(test)]
mod check;
mod growth;
mod words;

use crate::seam::SlotId;
use call::{FunctionId, Instant, Status};
use growth::{GROW_MAX, Growth, Verdict};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

pub use words::{Action, Arrived, Bounds, SandboxId, Was};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// No sandbox is here.
    Free,
    /// It is being made, or begins: it must have a seat by then.
    Coming { since: Instant, by: Instant },
    /// It has had a seat.
    Ready,
    /// It was told to end; none of its place until it is gone.
    Ending,
}

#[derive(Debug)]
struct Sandbox {
    generation: u32,
    function: FunctionId,
    phase: Phase,
    /// It takes no more calls.
    condemned: bool,
    /// Calls that it would take now.
    seats: u32,
    calls: Vec<SlotId>,
    /// Since when it has no calls.
    idle_since: Instant,
}

#[derive(Debug)]
struct Function {
    growth: Growth,
    queue: VecDeque<SlotId>,
    /// Places of sandboxes with a free seat, the one used last at the end.
    available: Vec<u32>,
    /// Stands in the list of functions whose queue is not empty.
    hungry: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Nowhere,
    Queued(FunctionId),
    In(u32),
}

/// A function's id is a hash already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("an id is one number");
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// The sandboxes of one core. See the module.
pub struct Pool {
    sandboxes: Vec<Sandbox>,
    free: Vec<u32>,
    /// Never iterated: the order of a hash map must not decide anything.
    functions: HashMap<FunctionId, Function, BuildHasherDefault<AsItIs>>,
    slots: Vec<Place>,
    /// Calls that are somewhere.
    calls: u32,
    /// Functions whose queue is not empty, the one that waits longest first.
    hungry: VecDeque<FunctionId>,
    /// Nothing is due before this.
    alarm: Instant,
    actions: VecDeque<Action>,
}

impl Pool {
    /// Of at most so many sandboxes, for a core with so many slots.
    pub fn new(sandboxes: u32, slots: u32) -> Pool {
        let sandbox = |_| Sandbox {
            generation: 0,
            function: FunctionId(0),
            phase: Phase::Free,
            condemned: false,
            seats: 0,
            calls: Vec::new(),
            idle_since: Instant(0),
        };
        Pool {
            sandboxes: (0..sandboxes).map(sandbox).collect(),
            free: (0..sandboxes).rev().collect(),
            functions: HashMap::default(),
            slots: vec![Place::Nowhere; slots as usize],
            calls: 0,
            hungry: VecDeque::new(),
            alarm: Instant::NEVER,
            actions: VecDeque::new(),
        }
    }

    /// Calls that wait or run.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// The next thing to do.
    pub fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Pool::tick`] wants to be called next at the latest.
    pub fn alarm(&self) -> Instant {
        self.alarm
    }

    /// Sandboxes that come, those that are ready, and all that have a place.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Phase) -> bool| self.sandboxes.iter().filter(|s| is(&s.phase)).count();
        (
            count(|phase| matches!(phase, Phase::Coming { .. })),
            count(|phase| *phase == Phase::Ready),
            self.sandboxes.len() - self.free.len(),
        )
    }

    // ---- functions ----

    /// A function is there, or has other bounds from now on.
    pub fn publish(&mut self, function: FunctionId, bounds: Bounds) {
        let known = self.functions.entry(function).or_insert_with(|| Function {
            growth: Growth::new(bounds),
            queue: VecDeque::new(),
            available: Vec::new(),
            hungry: false,
        });
        known.growth.bounds = bounds;
    }

    /// Its sandboxes are of a version that is no longer in force: they finish what they hold.
    pub fn renew(&mut self, function: FunctionId, now: Instant) {
        if let Some(function) = self.functions.get_mut(&function) {
            function.growth.renewed();
        }
        for place in 0..self.sandboxes.len() as u32 {
            let sandbox = &self.sandboxes[place as usize];
            if sandbox.function == function && sandbox.phase != Phase::Free {
                self.condemn(place);
            }
        }
        self.feed(function, now);
    }

    /// A function is gone: its calls that wait fail, those that run finish.
    pub fn retire(&mut self, function: FunctionId, now: Instant) {
        self.fail_queue(
            function,
            Status::Unavailable,
            "the function was retired while the call waited for a sandbox",
        );
        self.renew(function, now);
        // Its sandboxes, if any are left, keep the entry alive until they are gone.
        if let Some(known) = self.functions.get_mut(&function) {
            known.growth.bounds.sandboxes = 0;
            if known.growth.is_over() {
                self.functions.remove(&function);
            }
        }
    }

    /// A call is likely soon: a sandbox is made, if the function has none and a place is free. None goes for a guess.
    pub fn expect(&mut self, function: FunctionId, now: Instant) {
        if self.functions.get(&function).is_some_and(|known| known.growth.may_prepare(now)) {
            self.make(function, now);
        }
    }

    /// No call of a function is likely soon: its idle sandboxes go.
    pub fn release(&mut self, function: FunctionId) {
        let ours = |of: &Sandbox| of.function == function && of.is_idle();
        while let Some(place) = self.sandboxes.iter().position(ours) {
            self.condemn(place as u32);
        }
    }

    // ---- calls ----

    /// A call of a published function arrived.
    ///
    /// # Panics
    /// If the function is not published, or the slot is taken.
    pub fn arrive(&mut self, slot: SlotId, function: FunctionId, now: Instant) -> Arrived {
        assert_eq!(self.slots[slot.0 as usize], Place::Nowhere, "slot {} is taken", slot.0);
        let known = self.functions.get_mut(&function).expect("the function is published");
        if let Some(place) = known.available.last().copied() {
            self.calls += 1;
            return Arrived::Given(self.give(slot, place));
        }
        if let Some((status, text)) = known.growth.refusal(now) {
            return Arrived::Refused(*status, text.clone());
        }
        if known.queue.is_empty() {
            known.growth.queue_begins(now);
        }
        known.queue.push_back(slot);
        self.calls += 1;
        self.slots[slot.0 as usize] = Place::Queued(function);
        if !std::mem::replace(&mut known.hungry, true) {
            self.hungry.push_back(function);
        }
        self.feed(function, now);
        Arrived::Queued
    }

    /// A call has ended in its sandbox.
    ///
    /// # Panics
    /// If it is in none.
    pub fn done(&mut self, slot: SlotId, now: Instant) -> SandboxId {
        let Place::In(place) = self.forget(slot) else {
            panic!("the call in slot {} is in no sandbox", slot.0);
        };
        self.leave(slot, place, now);
        self.id(place)
    }

    /// A call is ended from outside. The sandbox in which it was gets no other one.
    ///
    /// # Panics
    /// If the pool has no such call.
    pub fn stop(&mut self, slot: SlotId, now: Instant) -> Was {
        match self.forget(slot) {
            Place::Nowhere => panic!("slot {} holds no call", slot.0),
            Place::Queued(function) => {
                if let Some(function) = self.functions.get_mut(&function) {
                    function.queue.retain(|other| *other != slot);
                }
                Was::Queued
            }
            Place::In(place) => {
                self.leave(slot, place, now);
                self.condemn(place);
                Was::In(self.id(place))
            }
        }
    }

    // ---- sandboxes ----

    /// A sandbox asks for a call: it has one seat more. The call that it gets, if one waits.
    pub fn seat(&mut self, id: SandboxId, now: Instant) -> Option<SlotId> {
        let place = self.known(id)?;
        let sandbox = &mut self.sandboxes[place as usize];
        let function = self.functions.get_mut(&sandbox.function).expect("it outlives its sandboxes");
        if let Phase::Coming { since, .. } = sandbox.phase {
            sandbox.phase = Phase::Ready;
            sandbox.idle_since = now;
            if !sandbox.condemned {
                function.growth.came(now - since);
            }
        }
        if sandbox.phase == Phase::Ending || sandbox.condemned {
            return None;
        }
        sandbox.seats += 1;
        if sandbox.seats == 1 {
            function.available.push(place);
        }
        let slot = function.queue.pop_front();
        if !function.queue.is_empty() {
            self.alarm = self.alarm.min(function.growth.grows_at());
        }
        match slot {
            Some(slot) => {
                self.give(slot, place);
            }
            None => self.idle_from(place, now),
        }
        slot
    }

    /// It asks for one call less.
    pub fn unseat(&mut self, id: SandboxId) {
        let Some(place) = self.known(id) else { return };
        let sandbox = &mut self.sandboxes[place as usize];
        if sandbox.seats > 0 {
            sandbox.seats -= 1;
            if sandbox.seats == 0 {
                self.withdraw(place);
            }
        }
    }

    /// It told that it cannot begin, or could not be made. It is stopped.
    pub fn failed(&mut self, id: SandboxId, status: Status, text: &str, now: Instant) {
        let Some(place) = self.known(id) else { return };
        if matches!(self.sandboxes[place as usize].phase, Phase::Coming { .. }) {
            let is_news = !self.sandboxes[place as usize].condemned;
            let function = self.sandboxes[place as usize].function;
            self.condemn(place);
            if is_news {
                self.failed_to_begin(function, status, text, now);
            }
        }
    }

    /// It is to end: it takes no more calls.
    pub fn dismiss(&mut self, id: SandboxId) {
        if let Some(place) = self.known(id) {
            self.condemn(place);
        }
    }

    /// It is gone. Its calls end with this status.
    pub fn gone(&mut self, id: SandboxId, status: Status, text: &str, now: Instant) {
        let Some(place) = self.known(id) else { return };
        let sandbox = &mut self.sandboxes[place as usize];
        let (function, phase, was_condemned) = (sandbox.function, sandbox.phase, sandbox.condemned);
        for slot in std::mem::take(&mut sandbox.calls) {
            self.forget(slot);
            self.actions.push_back(Action::Fail { slot, status, text: text.into() });
        }
        self.withdraw(place);
        self.discount(place);
        let sandbox = &mut self.sandboxes[place as usize];
        (sandbox.phase, sandbox.generation) = (Phase::Free, sandbox.generation.wrapping_add(1));
        self.free.push(place);
        let known = self.functions.get_mut(&function).expect("it outlives its sandboxes");
        known.growth.vacated();
        if known.growth.is_over() {
            self.functions.remove(&function);
        } else if matches!(phase, Phase::Coming { .. }) && !was_condemned {
            self.failed_to_begin(function, status, text, now);
        }
        self.feed_all(now);
    }

    /// All sandboxes are gone at once, and none can be made now. All calls end so.
    pub fn lost(&mut self, status: Status, text: &str, now: Instant) {
        for function in std::mem::take(&mut self.hungry) {
            self.fail_queue(function, status, text);
        }
        for place in 0..self.sandboxes.len() as u32 {
            if self.sandboxes[place as usize].phase != Phase::Free {
                // None of them failed to begin.
                self.condemn(place);
                self.gone(self.id(place), status, text, now);
            }
        }
        self.actions.retain(|action| matches!(action, Action::Fail { .. }));
    }

    /// Memory is short: a share of the idle sandboxes goes, those first that were idle longest.
    pub fn pressure(&mut self, is_hard: bool) {
        let idle = self.sandboxes.iter().filter(|sandbox| sandbox.is_idle()).count();
        let share = if is_hard { 2 } else { 4 };
        for _ in 0..idle.div_ceil(share) {
            self.evict();
        }
    }

    /// Acts on what is due.
    pub fn tick(&mut self, now: Instant) {
        if now < self.alarm {
            return;
        }
        self.alarm = Instant::NEVER;
        for place in 0..self.sandboxes.len() as u32 {
            let sandbox = &self.sandboxes[place as usize];
            let function = sandbox.function;
            match sandbox.phase {
                Phase::Coming { since, by } if !sandbox.condemned && now >= by => {
                    self.condemn(place);
                    let text =
                        format!("the function did not ask for a call within {:?} of its start", by - since);
                    self.failed_to_begin(function, Status::Init, &text, now);
                }
                Phase::Coming { by, .. } if !sandbox.condemned => self.alarm = self.alarm.min(by),
                Phase::Ready if sandbox.is_idle() => {
                    let until = sandbox.idle_since + self.functions[&function].growth.bounds.idle;
                    if now >= until { self.condemn(place) } else { self.alarm = self.alarm.min(until) }
                }
                _ => {}
            }
        }
        self.feed_all(now);
    }

    // ---- inside ----

    fn id(&self, place: u32) -> SandboxId {
        SandboxId { place, generation: self.sandboxes[place as usize].generation }
    }

    /// The place of a sandbox that is not gone.
    fn known(&self, id: SandboxId) -> Option<u32> {
        let sandbox = self.sandboxes.get(id.place as usize)?;
        (sandbox.generation == id.generation && sandbox.phase != Phase::Free).then_some(id.place)
    }

    /// The call is nowhere from now on. Where it was.
    fn forget(&mut self, slot: SlotId) -> Place {
        self.calls -= 1;
        std::mem::replace(&mut self.slots[slot.0 as usize], Place::Nowhere)
    }

    fn give(&mut self, slot: SlotId, place: u32) -> SandboxId {
        let sandbox = &mut self.sandboxes[place as usize];
        sandbox.seats -= 1;
        sandbox.calls.push(slot);
        self.slots[slot.0 as usize] = Place::In(place);
        if sandbox.seats == 0 {
            self.withdraw(place);
        }
        self.id(place)
    }

    /// Takes a sandbox off its function's list of those with a free seat.
    fn withdraw(&mut self, place: u32) {
        let sandbox = &mut self.sandboxes[place as usize];
        sandbox.seats = 0;
        if let Some(function) = self.functions.get_mut(&sandbox.function) {
            match function.available.last() {
                Some(last) if *last == place => drop(function.available.pop()),
                _ => function.available.retain(|other| *other != place),
            }
        }
    }

    /// A call leaves its sandbox.
    fn leave(&mut self, slot: SlotId, place: u32, now: Instant) {
        let sandbox = &mut self.sandboxes[place as usize];
        let index =
            sandbox.calls.iter().position(|other| *other == slot).expect("the call is in its sandbox");
        sandbox.calls.swap_remove(index);
        if sandbox.calls.is_empty() {
            match sandbox.condemned {
                true => self.end(place),
                false => self.idle_from(place, now),
            }
        }
    }

    fn idle_from(&mut self, place: u32, now: Instant) {
        let sandbox = &mut self.sandboxes[place as usize];
        if sandbox.calls.is_empty() {
            sandbox.idle_since = now;
            let until = now + self.functions[&sandbox.function].growth.bounds.idle;
            self.alarm = self.alarm.min(until);
        }
    }

    /// The sandbox takes no more calls and ends with its last one.
    fn condemn(&mut self, place: u32) {
        if !self.sandboxes[place as usize].condemned {
            self.withdraw(place);
            self.discount(place);
            self.sandboxes[place as usize].condemned = true;
        }
        if self.sandboxes[place as usize].calls.is_empty() {
            self.end(place);
        }
    }

    /// It does not count as live any more.
    fn discount(&mut self, place: u32) {
        let sandbox = &self.sandboxes[place as usize];
        if let Some(function) = self.functions.get_mut(&sandbox.function)
            && !sandbox.condemned
        {
            function.growth.lost(matches!(sandbox.phase, Phase::Coming { .. }));
        }
    }

    fn end(&mut self, place: u32) {
        let sandbox = &mut self.sandboxes[place as usize];
        if sandbox.phase != Phase::Ending {
            sandbox.phase = Phase::Ending;
            let sandbox = self.id(place);
            self.actions.push_back(Action::Stop { sandbox });
        }
    }

    /// Ends the sandbox that was idle longest. False if none is idle.
    fn evict(&mut self) -> bool {
        // One that has no seat is about to ask for a call.
        let idle = self.sandboxes.iter().enumerate().filter(|(_, s)| s.is_idle() && s.seats > 0);
        let Some((place, _)) = idle.min_by_key(|(_, sandbox)| sandbox.idle_since) else { return false };
        self.condemn(place as u32);
        true
    }

    /// Makes the next sandbox of a function wait, and fails its calls if it has no other.
    fn failed_to_begin(&mut self, id: FunctionId, status: Status, text: &str, now: Instant) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        function.growth.failed(status, text, now);
        self.feed(id, now);
    }

    fn fail_queue(&mut self, id: FunctionId, status: Status, text: &str) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        function.hungry = false;
        for slot in std::mem::take(&mut function.queue) {
            self.forget(slot);
            self.actions.push_back(Action::Fail { slot, status, text: text.into() });
        }
        self.hungry.retain(|other| *other != id);
    }

    /// Room may have come: functions whose calls wait get it, in turn.
    fn feed_all(&mut self, now: Instant) {
        for _ in 0..self.hungry.len() {
            let Some(function) = self.hungry.pop_front() else { return };
            self.hungry.push_back(function);
            self.feed(function, now);
        }
    }

    /// Makes sandboxes for calls that wait, if it is time to.
    fn feed(&mut self, id: FunctionId, now: Instant) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        if function.queue.is_empty() {
            function.hungry = false;
            return self.hungry.retain(|other| *other != id);
        }
        // Those that have answered and are about to ask for the next call come sooner than new ones.
        let returns =
            |s: &&Sandbox| s.function == id && s.is_idle() && s.seats == 0 && now < s.idle_since + GROW_MAX;
        let returning = || self.sandboxes.iter().filter(returns).count() as u32;
        match function.growth.step(function.queue.len() as u32, returning, now) {
            Verdict::Enough => {}
            Verdict::Wait { until } => self.alarm = self.alarm.min(until),
            Verdict::Fail { until, status, text } => {
                self.alarm = self.alarm.min(until);
                self.fail_queue(id, status, &text);
            }
            Verdict::Make { count, until } => {
                self.alarm = self.alarm.min(until);
                for _ in 0..count {
                    if !self.make(id, now) {
                        return self.make_room();
                    }
                }
            }
        }
    }

    /// No place is free: the sandbox that is idle longest goes, unless one is about to be gone.
    fn make_room(&mut self) {
        if !self.sandboxes.iter().any(|sandbox| sandbox.phase == Phase::Ending) {
            self.evict();
        }
    }

    /// Makes a sandbox, if there is a place.
    fn make(&mut self, id: FunctionId, now: Instant) -> bool {
        let Some(place) = self.free.pop() else { return false };
        let function = self.functions.get_mut(&id).expect("it is published");
        let by = now + function.growth.bounds.init;
        function.growth.made();
        self.alarm = self.alarm.min(by);
        let sandbox = &mut self.sandboxes[place as usize];
        (sandbox.function, sandbox.phase) = (id, Phase::Coming { since: now, by });
        (sandbox.condemned, sandbox.seats, sandbox.idle_since) = (false, 0, now);
        let sandbox = self.id(place);
        self.actions.push_back(Action::Make { sandbox, function: id });
        true
    }
}

impl Sandbox {
    fn is_idle(&self) -> bool {
        self.phase == Phase::Ready && !self.condemned && self.calls.is_empty()
    }
}

#[cfg(test)]
mod tests;
