//! The whole platform on one thread from one seed: the production node, the production cores with a scripted
//! runtime, clients, supervisors and an operator, on a simulated network and disks, through a storm of faults that
//! the seed chooses. Then the world heals, and everything must come to its end.
//!
//! The checkers:
//! - *conservation*: an acknowledged call ends, once, as it must; no call is invented ([`ledger`]);
//! - *durability*: what was acknowledged is there after every crash ([`ledger`]);
//! - *epochs*: at most one live lease per call; what an old lease says changes nothing ([`leases`]);
//! - *order*: no call before its start time; the most critical first, then the earliest deadline ([`order`]);
//! - *bounds*: credits, concurrency, deliveries, calls held ([`leases`]); the invariants of node and cores;
//! - *rot*: bits of the log turn over; a strict start refuses with the place, a salvage goes on, and no call is lost,
//!   or damaged, of which the node did not say so (`rot`);
//! - *one encode*: a core gets the bytes that the client wrote ([`leases`]);
//! - *attempts*: a dead letter lists what became of it (`operator`);
//! - *liveness*: after the storm everything ends in [`scenario::CALM`].
//!
//! Each has a planted bug in [`Bug`] that it catches.

mod bug;
pub mod ledger;
pub mod leases;
mod witness;
mod watched;
mod tap;
mod peer;
mod process;
mod client;
mod operator;
pub mod order;
mod rot;
pub mod scenario;
mod fleet;

pub use bug::Bug;

use call::admin::{Hello, NodeStatus};
use driver::sim::{Conditions, Random, World};
use fleet::{Fleet, Name, SECRET};
use operator::Operator;
use scenario::{CALM, STORM, Scenario};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use witness::{Shared, Witness};

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A bug to plant.
    pub bug: Bug,
    /// Print every frame and fault.
    pub verbose: bool,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of everything that happened, in order: equal for equal seeds.
    pub trace_hash: u64,
    /// Size of the platform and kinds of faults.
    pub scenario: String,
    /// Calls that clients made; all were acknowledged.
    pub calls: u64,
    /// Calls that ended well.
    pub completed: u64,
    /// Calls that became dead letters, as they should.
    pub dead: u64,
    /// Leases that the node sent.
    pub leases: u64,
    /// Executions of calls that end well, beyond one for each.
    pub run_again: u64,
    /// Outcomes of old leases, ignored.
    pub fenced: u64,
    /// Calls submitted again after so long that their end was forgotten.
    pub forgotten: u64,
    /// Outcomes told without what the call returned, because the queue's memory was full of calls.
    pub not_kept: u64,
    /// Log segments used again.
    pub recycled: u64,
    /// Bits of the log that turned over.
    pub rotten: u64,
    /// Starts that refused the log for it.
    pub refusals: u64,
    /// Calls that the node said to have lost a record of, each time.
    pub told: u64,
    /// Processes that died and came back.
    pub crashes: u64,
    /// Turns of all processes.
    pub turns: u64,
    /// How long it took in the simulated world.
    pub simulated: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, trace_hash, scenario, calls, completed, dead, leases, run_again, .. } = self;
        let Report { fenced, forgotten, not_kept, recycled, rotten, refusals, told, .. } = self;
        let Report { crashes, turns, simulated, .. } = self;
        write!(
            f,
            "seed {seed}: trace {trace_hash:016x}; {scenario}; {calls} calls: {completed} completed, {dead} dead, \
             0 lost silently; {leases} leases, {run_again} run again, {fenced} outcomes fenced, {forgotten} forgotten, \
             {not_kept} outcomes not kept; \
             {recycled} segments used again, {rotten} bits of the log turned over, {refusals} starts refused for it, \
             {told} calls told for it, {crashes} crashes; {turns} turns in {simulated:.1?} of simulated time"
        )
    }
}

/// A promise that was not kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed; the same seed shows it again.
    pub seed: u64,
    /// The scenario.
    pub scenario: String,
    /// When, in the simulated world.
    pub at: Duration,
    /// Which checker, and what it saw.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, scenario, at, what } = self;
        write!(
            f,
            "seed {seed} ({scenario}) after {at:.3?}: {what}; see it with `millrace simulate --seed {seed}`"
        )
    }
}

impl std::error::Error for Violation {}

/// Runs one seed.
///
/// # Errors
/// The first promise that was not kept.
///
/// # Panics
/// If the platform itself finds a bug: a failed assertion of node or core.
pub fn run(seed: u64, options: &Options) -> Result<Report, Violation> {
    let mut random = Random::new(seed);
    let world = World::stepped(random.bits(), Conditions::default());
    let mut scenario = Scenario::new(&mut random, &world, options.bug);
    scenario.set_clocks(&mut Random::new(!seed), world.now(), options.bug);
    let summary = scenario.summary.clone();
    let witness = Witness::new(scenario.promises(options.bug), options.bug, options.verbose);
    let begin = world.now();
    let mut fleet = Fleet::new(world.clone(), random, scenario, &witness);
    let violation = |what| Violation { seed, scenario: summary.clone(), at: world.now().since(begin), what };
    live(&mut fleet, &witness).map_err(violation)?;
    let witness = witness.borrow();
    let entries = || witness.ledger.iter().map(|(_, entry)| entry);
    let completed = entries().filter(|entry| entry.ended.is_some_and(|status| status.is_ok())).count() as u64;
    let calls = entries().count() as u64;
    Ok(Report {
        seed,
        trace_hash: world.trace_hash(),
        scenario: summary,
        calls,
        completed,
        dead: calls - completed,
        leases: witness.leases.count(),
        run_again: entries()
            .filter(|e| e.expected.status.is_ok())
            .map(|e| u64::from(e.begun.saturating_sub(1)))
            .sum(),
        fenced: witness.leases.stale,
        forgotten: witness.leases.again,
        not_kept: witness.leases.not_kept,
        recycled: witness.recycled,
        rotten: witness.rot.bits,
        refusals: witness.rot.refusals,
        told: witness.rot.told,
        crashes: fleet.crashes,
        turns: fleet.turns,
        simulated: world.now().since(begin),
    })
}

/// Storm, healing, the end of everything, and a last test of order.
fn live(fleet: &mut Fleet, witness: &Shared) -> Result<(), String> {
    let end_of_storm = fleet.world.now() + STORM;
    fleet.run(end_of_storm, || false)?;
    fleet.heal();
    let status = Rc::new(RefCell::new(None));
    let admin = fleet.local_peer(Hello::Admin { secret: SECRET.into() });
    fleet.put(Name::Operator, Box::new(Operator::new(admin, witness, &status)));
    finish(fleet, witness, &status)?;
    let wishes = scenario::wishes_in_order(&mut fleet.random.fork(), &fleet.world);
    let before = witness.borrow().leases.order.len();
    fleet.add_client(&wishes);
    finish(fleet, witness, &status)?;
    order::check(&witness.borrow(), before)
}

/// Runs until every call has ended and the node says that it holds none.
fn finish(
    fleet: &mut Fleet,
    witness: &Shared,
    status: &Rc<RefCell<Option<NodeStatus>>>,
) -> Result<(), String> {
    let late = fleet.world.now() + CALM;
    *status.borrow_mut() = None;
    let idle = || status.borrow().as_ref().is_some_and(|s| s.pending == 0 && s.leased_now == 0);
    fleet.run(late, || witness.borrow().ledger.unfinished().is_none() && idle())?;
    match witness.borrow().ledger.unfinished() {
        Some(what) => Err(format!("liveness: {CALM:?} after the storm {what}")),
        None if !idle() => Err(format!("liveness: all calls ended, and the node says {:?}", status.borrow())),
        None => Ok(()),
    }
}
