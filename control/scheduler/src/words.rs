//! What goes into the scheduler and what comes out of it.
//!
//! Calls, functions, hosts and cores are named by small dense numbers, which the node gives out: they index tables
//! that were allocated at the start, so no decision hashes or allocates anything.

use crate::policy::{GroupRef, Policy, TenantRef};
use crate::quota::Rate;
use call::{Instant, Label, WallTime};

/// A pending call: the durable queue's number for it, below `limits.calls_max`.
///
/// The number may name another call after the scheduler has let go of it ([`Input::Ended`], [`Effect::Return`], [`Effect::Refuse`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallRef(pub u32);

/// A deployed function: the node's number for it, below `limits.functions_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionRef(pub u32);

/// A connected worker core: the node's number for its session, below `limits.cores_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreRef(pub u16);

/// A host, whose cores share compiled artefacts: the node's number for it, below `limits.cores_max`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostRef(pub u16);

/// What some calls carry beside their urgency. [`Marks::default`] is nothing, and costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Calls of a function with the same key run at once as far as its policy allows; 0 for none.
    pub key: u64,
    /// The label of its arguments.
    pub label: Label,
    /// It has failed before: to run it again costs of the function's retry budget.
    pub retry: bool,
}

/// How a dispatched call ended, as far as gates are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Well.
    Ok,
    /// It failed by itself.
    Failed,
    /// A downstream service asked it to slow down.
    BackPressure,
    /// Nobody knows: its lease was lost.
    Lost,
}

/// What happened. An input that contradicts an earlier one (a core that comes up twice, a call that is offered
/// twice) is a bug of the node and panics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// A function was deployed, or deployed again. With a new version no host is ready for it any more.
    Function {
        /// Which.
        function: FunctionRef,
        /// `FunctionSpec::version`.
        version: u32,
        /// Calls of it that may be in the RunQ or running at once, over all cores. 0: none for now.
        concurrency: u32,
    },
    /// A function was deleted. Its waiting calls come back as [`Effect::Return`]; its running ones go on.
    /// The number may be given to another function once [`crate::Scheduler::depth`] of it is all zero.
    FunctionGone {
        /// Which.
        function: FunctionRef,
    },
    /// The rules of a function that is deployed, in the place of earlier ones. A function of which this was never said
    /// is held back by its concurrency alone. Costs O(log n); a changed limit per key as much for each call that waits
    /// for its key.
    Policy {
        /// Which.
        function: FunctionRef,
        /// Its rules.
        policy: Policy,
    },
    /// A function's calls per second are limited by a controller (the central rate limiter, or AIMD for a downstream
    /// service), beside its quota. Until it is said, and after [`Rate::UNLIMITED`], there is no such limit.
    Limit {
        /// Which; one that is deployed.
        function: FunctionRef,
        /// Calls a second.
        rate: Rate,
    },
    /// S, as the utilization controller published it: the rate of opportunistic functions is multiplied by it. 1000
    /// until it is said. Walks over all functions that have a policy.
    Opportunistic {
        /// S in thousandths.
        permille: u32,
    },
    /// How many calls a tenant gives in its turn; 1 until it is said.
    Tenant {
        /// Which.
        tenant: TenantRef,
        /// From 1 to [`crate::WEIGHT_MAX`].
        weight: u32,
    },
    /// A core belongs to a locality group from now on; to none until it is said, and after it went down. Walks over
    /// all functions.
    Group {
        /// Which core; one that is up.
        core: CoreRef,
        /// Its group.
        group: GroupRef,
    },
    /// A host has this version of a function compiled on its disk. Ignored if it is not the version in force.
    Ready {
        /// Which host.
        host: HostRef,
        /// Which function.
        function: FunctionRef,
        /// Which version of it.
        version: u32,
    },
    /// A host's supervisor is gone, and with it what it said: it is ready for nothing until it says so again.
    HostDown {
        /// Which.
        host: HostRef,
    },
    /// A core connected. It has no credits yet.
    CoreUp {
        /// Which.
        core: CoreRef,
        /// On which host.
        host: HostRef,
        /// Calls it serves at once: the RunQ grows with their sum.
        slots: u32,
        /// It stands for another region, which pulls: it gets a call only if no near core that is ready has credits.
        far: bool,
    },
    /// A core granted slots.
    Credit {
        /// Which.
        core: CoreRef,
        /// Slots granted since it connected, in all. A number smaller than an earlier one is ignored.
        granted: u64,
    },
    /// A core takes no new calls; those it has go on.
    CoreDrain {
        /// Which.
        core: CoreRef,
    },
    /// A core is gone. The calls it ran come back as [`Effect::Return`], and its number is free at once.
    CoreDown {
        /// Which.
        core: CoreRef,
    },
    /// The durable queue has calls of this function whose start time has come. May be said more often than needed.
    Due {
        /// Which.
        function: FunctionRef,
    },
    /// One call, in answer to [`Effect::Poll`].
    Offered {
        /// Which call.
        call: CallRef,
        /// Of which function.
        function: FunctionRef,
        /// Larger is more important, 1 to 255; the function's default already filled in.
        criticality: u8,
        /// When it should be done; the function's default already filled in.
        deadline: WallTime,
        /// What else it carries.
        marks: Marks,
    },
    /// The answer to [`Effect::Poll`] is complete.
    Polled {
        /// Which.
        function: FunctionRef,
        /// The durable queue has still more due calls of it.
        more: bool,
    },
    /// A dispatched call ended, or its lease was lost. The scheduler forgets it.
    Ended {
        /// Which.
        call: CallRef,
        /// How.
        how: How,
    },
    /// A dispatched call was not sent to its core (the durable queue refused the lease): the credit is unspent.
    /// The scheduler forgets the call.
    NotSent {
        /// Which.
        call: CallRef,
    },
    /// Decide: everything that came in since the last turn is weighed now, as far as there is room for effects.
    /// The node gives one turn a round, another at once if [`Effects::is_full`], and one at
    /// [`crate::Scheduler::next_wake`].
    Turn {
        /// The clock by which gates open. Never earlier than at the turn before.
        now: Instant,
        /// The clock of deadlines.
        wall: WallTime,
        /// Fresh random bits, for the choice of two cores.
        random: u64,
    },
}

/// What the node must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Ask the durable queue for due calls: answer with up to `max` [`Input::Offered`], then [`Input::Polled`].
    Poll {
        /// Of which function.
        function: FunctionRef,
        /// How many at most, at least 1.
        max: u32,
    },
    /// Lease this call to this core. Uses one of the core's credits.
    Dispatch {
        /// Which call.
        call: CallRef,
        /// Its function.
        function: FunctionRef,
        /// Where it runs.
        core: CoreRef,
    },
    /// The scheduler gives the call back and forgets it: its core is gone, or its function is.
    Return {
        /// Which call.
        call: CallRef,
        /// Its function.
        function: FunctionRef,
        /// The core that ran it when it went down; none if the call had not been dispatched.
        core: Option<CoreRef>,
    },
    /// The call must not run: its data would flow from a higher zone to a lower one ([`call::Label::flows_to`]). The
    /// scheduler forgets it.
    Refuse {
        /// Which call.
        call: CallRef,
        /// Its function.
        function: FunctionRef,
    },
}

/// Effects in their order, in memory of fixed size.
#[derive(Debug)]
pub struct Effects {
    list: Vec<Effect>,
    room: usize,
}

impl Effects {
    /// Room for `capacity` effects.
    ///
    /// # Panics
    /// If `capacity` is zero.
    pub fn new(capacity: usize) -> Effects {
        assert!(capacity > 0, "a scheduler without effects decides nothing");
        Effects { list: Vec::with_capacity(capacity), room: capacity }
    }

    /// Whether a turn stopped for want of room.
    pub fn is_full(&self) -> bool {
        self.list.len() == self.room
    }

    /// Takes all effects out, in their order.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = Effect> {
        self.list.drain(..)
    }

    /// All effects, in their order.
    pub fn as_slice(&self) -> &[Effect] {
        &self.list
    }

    /// Forgets all effects.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        assert!(!self.is_full(), "a turn looks for room first");
        self.list.push(effect);
    }
}

/// How many calls of a function the scheduler holds, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Depth {
    /// In its FuncBuffer, or beside it until a gate lets it in.
    pub buffered: u32,
    /// In the RunQ.
    pub queued: u32,
    /// Dispatched and not ended.
    pub running: u32,
}
