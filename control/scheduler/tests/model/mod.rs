//! A node in a few lines around the scheduler: it plays the durable queue and the cores, and it judges each effect
//! by its own books, not by the scheduler's.

mod books;

use books::Books;
use call::WallTime;
use call::limits::Limits;
use scheduler::{
    CallRef, CoreRef, Depth, Effect, Effects, FunctionRef, GroupRef, HostRef, How, Input, Marks, Rate, Rule,
    Scheduler, TenantRef,
};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Functions of the model.
pub const FUNCTIONS: u32 = 5;
/// Cores of the model; core `c` is on host `c / 2`.
pub const CORES: u16 = 4;
/// Hosts of the model.
pub const HOSTS: u16 = CORES / 2;
/// Calls of the model.
pub const CALLS: u32 = 96;

/// The host a core is on.
pub fn host_of(core: u16) -> HostRef {
    HostRef(core / 2)
}

/// Whether a core stands for another region.
fn is_far(core: CoreRef) -> bool {
    core.0 % 3 == 2
}

/// The open cores that are ready for a function: of its group or of none, if there are any, else all.
fn running_there(
    cores: &BTreeMap<CoreRef, Connected>,
    groups: &BTreeMap<CoreRef, GroupRef>,
    deployed: &Deployed,
    group: GroupRef,
) -> Vec<CoreRef> {
    let is_open = |core: &CoreRef| !cores[core].draining && deployed.ready.contains(&host_of(core.0));
    let fits = |core: &CoreRef| {
        let of = groups.get(core).copied().unwrap_or_default();
        group == GroupRef::NONE || of == group || of == GroupRef::NONE
    };
    let open: Vec<CoreRef> = cores.keys().copied().filter(is_open).collect();
    let own: Vec<CoreRef> = open.iter().copied().filter(fits).collect();
    if own.is_empty() { open } else { own }
}

/// A call as the durable queue holds it.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Its number.
    pub call: CallRef,
    /// See [`Input::Offered`].
    pub criticality: u8,
    /// See [`Input::Offered`].
    pub deadline: u64,
    /// See [`Input::Offered`].
    pub marks: Marks,
}

#[derive(Default, Debug)]
struct Deployed {
    version: u32,
    concurrency: u32,
    ready: BTreeSet<HostRef>,
}

#[derive(Debug)]
struct Connected {
    granted: u64,
    used: u64,
    draining: bool,
}

/// A bug planted in the node, which its own checks must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// None.
    None,
    /// The books say fewer credits than the scheduler was told.
    CreditTooMany,
    /// The books say a smaller concurrency than the scheduler was told.
    ConcurrencyTooHigh,
    /// The scheduler is not told that a call ended.
    EndForgotten,
    /// The scheduler is told of readiness that is not there.
    ReadyInvented,
    /// The scheduler is told that a far core is near.
    FarToldNear,
    /// The books say a smaller burst than the scheduler was told.
    QuotaTooHigh,
    /// The scheduler is told of no limit that a controller set.
    LimitForgotten,
    /// The scheduler is told a larger concurrency per key.
    KeysTooMany,
    /// The scheduler is told a higher label of a function.
    LabelTooHigh,
    /// The scheduler is told a faster growth.
    GrowthTooFast,
    /// The scheduler is told a larger retry budget.
    RetriesTooMany,
    /// The scheduler is not told that a core changed its group.
    GroupForgotten,
    /// No turn is given when a gate opens.
    WakeForgotten,
}

/// The node.
pub struct Model {
    /// What is tested.
    pub scheduler: Scheduler,
    /// Each dispatched call, in order.
    pub dispatched: Vec<(CallRef, FunctionRef, CoreRef)>,
    out: Effects,
    bug: Bug,
    queue: BTreeMap<FunctionRef, VecDeque<Pending>>,
    held: BTreeMap<CallRef, (FunctionRef, Pending)>,
    running: BTreeMap<CallRef, (FunctionRef, CoreRef)>,
    /// Keys of running calls.
    keys: BTreeMap<CallRef, (FunctionRef, u64)>,
    groups: BTreeMap<CoreRef, GroupRef>,
    books: Books,
    deployed: BTreeMap<FunctionRef, Deployed>,
    versions: u32,
    cores: BTreeMap<CoreRef, Connected>,
    free: Vec<CallRef>,
    /// A dispatch of this turn was refused.
    refused: bool,
    /// Functions have policies.
    gates: bool,
}

/// A rate that the model's calls hardly reach.
pub const FAST: Rate = Rate::per_s(100);

/// Limits that random inputs reach.
pub fn limits() -> Limits {
    Limits {
        functions_max: FUNCTIONS as usize,
        calls_max: CALLS as usize,
        cores_max: usize::from(CORES),
        runq_max: 6,
        func_buffer_max: 8,
        ..Limits::small()
    }
}

impl Model {
    /// A node without functions, cores and calls.
    pub fn new(limits: &Limits, effects: usize, bug: Bug) -> Model {
        Model {
            scheduler: Scheduler::new(limits),
            dispatched: Vec::new(),
            out: Effects::new(effects),
            bug,
            queue: BTreeMap::new(),
            held: BTreeMap::new(),
            running: BTreeMap::new(),
            keys: BTreeMap::new(),
            groups: BTreeMap::new(),
            books: Books::new(bug),
            deployed: BTreeMap::new(),
            versions: 0,
            cores: BTreeMap::new(),
            free: (0..limits.calls_max as u32).rev().map(CallRef).collect(),
            refused: false,
            gates: false,
        }
    }

    /// Calls will never go back from the RunQ; so slow start is judged, too.
    pub fn judging_growth(mut self) -> Model {
        self.books.judges_growth = true;
        self
    }

    /// From now on functions that are deployed get policies.
    pub fn with_gates(mut self) -> Model {
        self.gates = true;
        self
    }

    fn tell(&mut self, input: Input) {
        self.scheduler.step(input, &mut self.out);
        self.scheduler.check();
    }

    /// A new version of a function is deployed.
    pub fn deploy(&mut self, function: FunctionRef, concurrency: u32) {
        if !self.deployed.contains_key(&function) && self.scheduler.depth(function) != Depth::default() {
            return; // The number is not free yet.
        }
        self.versions += 1;
        let is_new = !self.deployed.contains_key(&function);
        let ready = BTreeSet::new();
        self.deployed.insert(function, Deployed { version: self.versions, concurrency, ready });
        let told = concurrency + u32::from(self.bug == Bug::ConcurrencyTooHigh);
        self.tell(Input::Function { function, version: self.versions, concurrency: told });
        if is_new {
            self.books.forget(function);
            if self.gates {
                self.policy(function, FAST);
            }
        }
        if self.queue.get(&function).is_some_and(|queue| !queue.is_empty()) {
            self.tell(Input::Due { function });
        }
    }

    /// A function is deleted, and the durable queue forgets its calls that the scheduler does not hold.
    pub fn delete(&mut self, function: FunctionRef) {
        if self.deployed.remove(&function).is_some() {
            let gone = self.queue.remove(&function).unwrap_or_default();
            self.free.extend(gone.iter().map(|pending| pending.call));
            self.tell(Input::FunctionGone { function });
        }
    }

    /// A function gets its policy, with this rate where it has one.
    pub fn policy(&mut self, function: FunctionRef, rate: Rate) {
        if self.deployed.contains_key(&function)
            && let Some(policy) = books::policy(function, rate, self.bug)
        {
            self.tell(Input::Policy { function, policy });
            self.books.set(function, policy);
        }
    }

    /// A controller limits a function.
    pub fn limit(&mut self, function: FunctionRef, rate: Rate) {
        if self.deployed.contains_key(&function) {
            let told = if self.bug == Bug::LimitForgotten { Rate::UNLIMITED } else { rate };
            self.tell(Input::Limit { function, rate: told });
            self.books.set_limit(function, rate);
        }
    }

    /// The utilization controller publishes S.
    pub fn s(&mut self, permille: u32) {
        self.tell(Input::Opportunistic { permille });
        self.books.set_s(permille);
    }

    /// A tenant gets another weight.
    pub fn weight(&mut self, tenant: TenantRef, weight: u32) {
        self.tell(Input::Tenant { tenant, weight });
    }

    /// A core moves to another locality group.
    pub fn group(&mut self, core: CoreRef, group: GroupRef) {
        if self.cores.contains_key(&core) {
            self.groups.insert(core, group);
            if self.bug != Bug::GroupForgotten {
                self.tell(Input::Group { core, group });
            }
        }
    }

    /// Time passes, and nobody gives a turn.
    pub fn wait(&mut self, by: Duration) {
        self.books.now = self.books.now + by;
    }

    /// A host has the version in force compiled.
    pub fn ready(&mut self, function: FunctionRef, host: HostRef) {
        if let Some(deployed) = self.deployed.get_mut(&function) {
            let version = deployed.version;
            deployed.ready.insert(host);
            self.tell(Input::Ready { host, function, version });
            self.tell(Input::Ready { host: HostRef(host.0 ^ 1), function, version: version.wrapping_sub(1) });
            if self.bug == Bug::ReadyInvented {
                self.tell(Input::Ready { host: HostRef(host.0 ^ 1), function, version });
            }
        }
    }

    /// A host's supervisor dies.
    pub fn host_down(&mut self, host: HostRef) {
        self.deployed.values_mut().for_each(|deployed| deployed.ready.retain(|ready| *ready != host));
        self.tell(Input::HostDown { host });
    }

    /// A core connects, if it is not connected.
    pub fn core_up(&mut self, core: CoreRef, slots: u32) {
        if let Entry::Vacant(free) = self.cores.entry(core) {
            free.insert(Connected { granted: 0, used: 0, draining: false });
            let far = is_far(core) && self.bug != Bug::FarToldNear;
            self.tell(Input::CoreUp { core, host: host_of(core.0), slots, far });
        }
    }

    /// A core grants slots.
    pub fn credit(&mut self, core: CoreRef, more: u64) {
        if let Some(connected) = self.cores.get_mut(&core) {
            connected.granted += more;
            let granted = connected.granted + u64::from(self.bug == Bug::CreditTooMany);
            self.tell(Input::Credit { core, granted });
        }
    }

    /// A core takes no more calls.
    pub fn drain(&mut self, core: CoreRef) {
        if let Some(connected) = self.cores.get_mut(&core) {
            connected.draining = true;
            self.tell(Input::CoreDrain { core });
        }
    }

    /// A core dies; its calls come back at the next turn.
    pub fn core_down(&mut self, core: CoreRef) {
        if self.cores.remove(&core).is_some() {
            self.groups.remove(&core);
            self.tell(Input::CoreDown { core });
            self.turn(0, false);
            assert!(self.running.values().all(|(_, on)| *on != core), "a call of a dead core was kept");
        }
    }

    /// A client submits a call.
    pub fn submit(&mut self, function: FunctionRef, criticality: u8, deadline: u64) -> Option<CallRef> {
        self.submit_marked(function, criticality, deadline, Marks::default())
    }

    /// A client submits a call that carries something, with a deadline in so many seconds from now.
    pub fn submit_marked(
        &mut self,
        function: FunctionRef,
        criticality: u8,
        s: u64,
        marks: Marks,
    ) -> Option<CallRef> {
        self.deployed.get(&function)?;
        let call = self.free.pop()?;
        let deadline = self.books.now.0 + s * 1_000_000_000;
        self.queue.entry(function).or_default().push_back(Pending { call, criticality, deadline, marks });
        self.tell(Input::Due { function });
        Some(call)
    }

    /// One of the running calls ends.
    pub fn end(&mut self, which: usize, how: How) {
        let Some(call) = self.running.keys().copied().nth(which % self.running.len().max(1)) else { return };
        self.running.remove(&call);
        self.keys.remove(&call);
        self.free.push(call);
        if self.bug != Bug::EndForgotten {
            self.tell(Input::Ended { call, how });
        }
    }

    /// One turn, and more while the effects fill their room.
    pub fn turn(&mut self, random: u64, refuse_one: bool) {
        let mut refuse = refuse_one;
        self.refused = false;
        loop {
            self.books.pass();
            self.tell(Input::Turn { now: self.books.now, wall: self.books.wall(), random });
            let full = self.out.is_full();
            let quiet = self.out.as_slice().is_empty();
            for effect in self.out.drain().collect::<Vec<_>>() {
                match effect {
                    Effect::Poll { function, max } => self.answer(function, max),
                    Effect::Dispatch { call, function, core } => {
                        self.judge(call, function, core);
                        if std::mem::take(&mut refuse) {
                            self.refused = true;
                            self.cores.get_mut(&core).expect("judged").used -= 1;
                            self.running.remove(&call);
                            self.keys.remove(&call);
                            self.free.push(call);
                            self.books.not_sent(function);
                            self.tell(Input::NotSent { call });
                        }
                    }
                    Effect::Return { call, function, core } => self.take_back(call, function, core),
                    Effect::Refuse { call, function } => self.refused(call, function),
                }
            }
            self.books.judge(|function| self.scheduler.depth(function).queued);
            self.judge_reasons(quiet);
            if !full {
                return;
            }
        }
    }

    fn answer(&mut self, function: FunctionRef, max: u32) {
        assert!(max > 0, "a poll for nothing");
        let queue = self.queue.entry(function).or_default();
        let some: Vec<Pending> = queue.drain(..queue.len().min(max as usize)).collect();
        let more = !queue.is_empty();
        for pending in some {
            let Pending { call, criticality, deadline, marks } = pending;
            self.held.insert(call, (function, pending));
            self.books.offered(function, marks.retry);
            let deadline = WallTime(deadline);
            self.tell(Input::Offered { call, function, criticality, deadline, marks });
        }
        self.tell(Input::Polled { function, more });
    }

    fn judge(&mut self, call: CallRef, function: FunctionRef, core: CoreRef) {
        let (of, pending) =
            self.held.remove(&call).expect("a dispatched call was offered and not dispatched before");
        assert_eq!(of, function);
        let deployed = self.deployed.get(&function).expect("a call of a deleted function was dispatched");
        assert!(deployed.ready.contains(&host_of(core.0)), "dispatched to a host that is not ready");
        let connected = self.cores.get_mut(&core).expect("dispatched to a core that is not there");
        assert!(!connected.draining, "dispatched to a draining core");
        connected.used += 1;
        assert!(connected.used <= connected.granted, "more calls than credits");
        let running_there = running_there(&self.cores, &self.groups, deployed, books::group_of(function));
        assert!(!self.gates || running_there.contains(&core), "a call left its locality group");
        // What was decided before a refusal gave a credit back is not judged by it.
        if is_far(core) && !self.refused {
            let is_free = |core: &CoreRef| !is_far(*core) && self.cores[core].used < self.cores[core].granted;
            assert!(!running_there.iter().any(is_free), "a far core got a call that a near one could take");
        }
        let Marks { key, label, retry } = pending.marks;
        assert!(label.flows_to(books::label_of(function)), "data flowed from a higher zone to a lower one");
        self.books.dispatched(function, pending.deadline, retry);
        if key != 0 {
            self.keys.insert(call, (function, key));
            let same = self.keys.values().filter(|of| **of == (function, key)).count();
            assert!(same == 1 || function.0 != 3, "more calls of a key at once than may be");
        }
        self.running.insert(call, (function, core));
        let at_once = self.running.values().filter(|(of, _)| *of == function).count();
        assert!(
            at_once <= deployed.concurrency as usize,
            "more calls at once than the function's concurrency"
        );
        self.dispatched.push((call, function, core));
    }

    fn refused(&mut self, call: CallRef, function: FunctionRef) {
        let (_, pending) = self.held.remove(&call).expect("a refused call was offered");
        assert!(!pending.marks.label.flows_to(books::label_of(function)), "{call:?} was refused wrongly");
        self.free.push(call);
    }

    /// Each call has a reason to be where it is, and after a turn that had nothing left to do a good one.
    fn judge_reasons(&self, quiet: bool) {
        let credits = self.cores.values().any(|core| !core.draining && core.used < core.granted);
        for call in self.held.keys() {
            let why = self.scheduler.explain(*call).unwrap_or_else(|| panic!("no reason for {call:?}"));
            assert!(why.since <= self.books.now);
            if quiet {
                let waits = matches!(why.rule, Rule::Turn | Rule::RunQ);
                assert!(!waits || !credits, "{call:?} waits and cores have credits: {why:?}");
                let wake = self.scheduler.next_wake();
                assert!(why.until.is_none() || wake.is_some_and(|at| at > self.books.now), "{why:?}");
            }
        }
        for call in self.running.keys() {
            assert_eq!(self.scheduler.explain(*call).map(|why| why.rule), Some(Rule::Running));
        }
        let forgotten = self.free.iter().all(|call| self.scheduler.explain(*call).is_none());
        assert!(forgotten, "the scheduler holds a call that is gone");
    }

    fn take_back(&mut self, call: CallRef, function: FunctionRef, core: Option<CoreRef>) {
        let known = match core {
            Some(core) => {
                self.keys.remove(&call);
                self.running.remove(&call) == Some((function, core))
            }
            None => self.held.remove(&call).is_some_and(|(of, _)| of == function),
        };
        assert!(known, "{call:?} was given back and was not there");
        self.free.push(call);
    }

    /// Calls that were submitted and have neither ended nor been given back.
    pub fn unfinished(&self) -> usize {
        self.queue.values().map(VecDeque::len).sum::<usize>() + self.held.len() + self.running.len()
    }

    /// The faults end: everything is up and ready, and calls end. All that was submitted must run.
    pub fn settle(&mut self) {
        for core in (0..CORES).map(CoreRef) {
            self.core_down(core);
            self.core_up(core, 4);
        }
        for function in (0..FUNCTIONS).map(FunctionRef) {
            (0..HOSTS).for_each(|host| self.ready(function, HostRef(host)));
        }
        self.s(1000);
        for function in (0..FUNCTIONS).map(FunctionRef) {
            self.policy(function, FAST);
            self.limit(function, Rate::UNLIMITED);
        }
        for round in 0..(10 * u64::from(CALLS)) {
            if self.unfinished() == 0 {
                break;
            }
            (0..CORES).for_each(|core| self.credit(CoreRef(core), 1));
            self.turn(round, false);
            // When all that could run has run, the next gate tells when to go on.
            if self.running.is_empty()
                && let Some(at) = self.scheduler.next_wake()
                && self.bug != Bug::WakeForgotten
            {
                self.books.now = self.books.now.max(at);
            }
            while !self.running.is_empty() {
                self.end(0, How::Ok);
            }
        }
        assert_eq!(self.unfinished(), 0, "calls that never ran");
        let depths = (0..FUNCTIONS).map(|function| self.scheduler.depth(FunctionRef(function)));
        assert!(depths.into_iter().all(|depth| depth == Depth::default()), "calls that were never forgotten");
    }
}
