//! A node in a few lines around the scheduler: it plays the durable queue and the cores, and it judges each effect
//! by its own books, not by the scheduler's.

use call::limits::Limits;
use call::{Instant, WallTime};
use scheduler::{
    CallRef, CoreRef, Depth, Effect, Effects, FunctionRef, HostRef, How, Input, Marks, Scheduler,
};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

/// A call as the durable queue holds it.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Its number.
    pub call: CallRef,
    /// See [`Input::Offered`].
    pub criticality: u8,
    /// See [`Input::Offered`].
    pub deadline: u64,
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
    deployed: BTreeMap<FunctionRef, Deployed>,
    versions: u32,
    cores: BTreeMap<CoreRef, Connected>,
    free: Vec<CallRef>,
    /// A dispatch of this turn was refused.
    refused: bool,
}

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
            deployed: BTreeMap::new(),
            versions: 0,
            cores: BTreeMap::new(),
            free: (0..limits.calls_max as u32).rev().map(CallRef).collect(),
            refused: false,
        }
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
        let ready = BTreeSet::new();
        self.deployed.insert(function, Deployed { version: self.versions, concurrency, ready });
        let told = concurrency + u32::from(self.bug == Bug::ConcurrencyTooHigh);
        self.tell(Input::Function { function, version: self.versions, concurrency: told });
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
            self.tell(Input::CoreDown { core });
            self.turn(0, false);
            assert!(self.running.values().all(|(_, on)| *on != core), "a call of a dead core was kept");
        }
    }

    /// A client submits a call.
    pub fn submit(&mut self, function: FunctionRef, criticality: u8, deadline: u64) -> Option<CallRef> {
        self.deployed.get(&function)?;
        let call = self.free.pop()?;
        self.queue.entry(function).or_default().push_back(Pending { call, criticality, deadline });
        self.tell(Input::Due { function });
        Some(call)
    }

    /// One of the running calls ends.
    pub fn end(&mut self, which: usize) {
        let Some(call) = self.running.keys().copied().nth(which % self.running.len().max(1)) else { return };
        self.running.remove(&call);
        self.free.push(call);
        if self.bug != Bug::EndForgotten {
            self.tell(Input::Ended { call, how: How::Ok });
        }
    }

    /// One turn, and more while the effects fill their room.
    pub fn turn(&mut self, random: u64, refuse_one: bool) {
        let mut refuse = refuse_one;
        self.refused = false;
        loop {
            self.tell(Input::Turn { now: Instant(0), wall: WallTime(0), random });
            let full = self.out.is_full();
            for effect in self.out.drain().collect::<Vec<_>>() {
                match effect {
                    Effect::Poll { function, max } => self.answer(function, max),
                    Effect::Dispatch { call, function, core } => {
                        self.judge(call, function, core);
                        if std::mem::take(&mut refuse) {
                            self.refused = true;
                            self.cores.get_mut(&core).expect("judged").used -= 1;
                            self.running.remove(&call);
                            self.free.push(call);
                            self.tell(Input::NotSent { call });
                        }
                    }
                    Effect::Return { call, function, core } => self.take_back(call, function, core),
                    Effect::Refuse { call, .. } => panic!("{call:?} is refused and has no label"),
                }
            }
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
            let Pending { call, criticality, deadline } = pending;
            self.held.insert(call, (function, pending));
            let (deadline, marks) = (WallTime(deadline), Marks::default());
            self.tell(Input::Offered { call, function, criticality, deadline, marks });
        }
        self.tell(Input::Polled { function, more });
    }

    fn judge(&mut self, call: CallRef, function: FunctionRef, core: CoreRef) {
        let (of, _) =
            self.held.remove(&call).expect("a dispatched call was offered and not dispatched before");
        assert_eq!(of, function);
        let deployed = self.deployed.get(&function).expect("a call of a deleted function was dispatched");
        assert!(deployed.ready.contains(&host_of(core.0)), "dispatched to a host that is not ready");
        let connected = self.cores.get_mut(&core).expect("dispatched to a core that is not there");
        assert!(!connected.draining, "dispatched to a draining core");
        connected.used += 1;
        assert!(connected.used <= connected.granted, "more calls than credits");
        // What was decided before a refusal gave a credit back is not judged by it.
        if is_far(core) && !self.refused {
            let is_free = |(core, near): (&CoreRef, &Connected)| {
                let ready = deployed.ready.contains(&host_of(core.0));
                !is_far(*core) && ready && !near.draining && near.used < near.granted
            };
            assert!(!self.cores.iter().any(is_free), "a far core got a call that a near one could take");
        }
        self.running.insert(call, (function, core));
        let at_once = self.running.values().filter(|(of, _)| *of == function).count();
        assert!(
            at_once <= deployed.concurrency as usize,
            "more calls at once than the function's concurrency"
        );
        self.dispatched.push((call, function, core));
    }

    fn take_back(&mut self, call: CallRef, function: FunctionRef, core: Option<CoreRef>) {
        let known = match core {
            Some(core) => self.running.remove(&call) == Some((function, core)),
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
        for round in 0..(10 * u64::from(CALLS)) {
            (0..CORES).for_each(|core| self.credit(CoreRef(core), 1));
            self.turn(round, false);
            while !self.running.is_empty() {
                self.end(0);
            }
        }
        assert_eq!(self.unfinished(), 0, "calls that never ran");
        let depths = (0..FUNCTIONS).map(|function| self.scheduler.depth(FunctionRef(function)));
        assert!(depths.into_iter().all(|depth| depth == Depth::default()), "calls that were never forgotten");
    }
}
