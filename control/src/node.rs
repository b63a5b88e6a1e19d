//! The node: one state machine on one ring. The production process, the tests and the simulator run the same one;
//! what differs is the driver and who calls [`Node::turn`].
//!
//! The way of a call through the modules: [`crate::session`] tells whose frame it is, [`crate::greeting`] knows the
//! peer, [`crate::submitter`] judges a submit, [`crate::queue`] makes it durable, [`crate::schedule`] decides when
//! and where it runs, [`crate::leases`] sends it there, [`crate::outcomes`] ends it. [`crate::answers`] tells
//! operators about it.
//!
//! A node neither blocks (only `reap`, which the caller makes between two turns, does) nor prints. For a call it
//! allocates nothing and looks up no string; for a connection, a deployment and an operator's question it may.

use crate::accounts::{Accounts, Ledger};
use crate::answers::Waiters;
use crate::blobs::BlobIndex;
use crate::blobs::collect::Collection;
use crate::burial::Burials;
use crate::catalog::Catalog;
use crate::locality::Grouping;
use crate::logs::Sink;
use crate::observation::Looks;
use crate::recovery::{Disk, LogError};
use crate::regions::{RegionOptions, Regions, scheduler_limits};
use crate::session::{Role, Session, SessionRef, Sessions};
use crate::shaping::Shapes;
use crate::shards::{ShardOptions, Shards, region_name};
use crate::stats::Stats;
use crate::utilization::Load;
use crate::walk::Walks;
use crate::worker_lb::Workers;
use call::blob::Reference;
use call::frame::{Frame, FrameBuf, Kind};
use call::limits::Limits;
use call::{CallId, FunctionSpec, Instant, WallTime};
use driver::{Arrivals, Closed, ConnectionId, Driver, Endpoint, Event, ListenerId};
use durableq::{DurableQ, HolderRef};
use scheduler::{CoreRef, Effects, FunctionRef, Scheduler};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Base of the admin API, for hosts: `http://127.0.0.1:7411`.
    pub admin: String,
    /// Who knows it may ask: see [`call::admin::Hello::Admin`].
    pub secret: String,
    /// How long a drain waits for leases to end; then they are left to the next start.
    pub drain: Duration,
    /// Where it counts what functions use.
    pub ledger: Arc<Ledger>,
    /// Where it puts what calls wrote to stderr; nowhere if there is none.
    pub logs: Option<Sink>,
    /// The regions that this one belongs to.
    pub regions: RegionOptions,
    /// Whether its log may be damaged.
    pub recover: durableq::Recover,
    /// The shards that this one belongs to.
    pub shards: ShardOptions,
    /// Functions that were deleted together with their calls, which go to the dead letters.
    pub buried: Vec<call::FunctionId>,
    /// What operators said beside manifests.
    pub shaping: call::admin::Shaping,
    /// The blobs on disk, with the times of their files.
    pub blobs: Vec<(Reference, WallTime)>,
    /// Its process, for people. Given, not asked for: a simulation must say the same in every process.
    pub pid: u32,
}

impl Default for NodeOptions {
    fn default() -> NodeOptions {
        NodeOptions {
            admin: String::new(),
            secret: String::new(),
            drain: Duration::from_secs(30),
            ledger: Arc::default(),
            logs: None,
            regions: RegionOptions::default(),
            recover: durableq::Recover::Strict,
            shards: ShardOptions::default(),
            buried: Vec::new(),
            shaping: call::admin::Shaping::default(),
            blobs: Vec::new(),
            pid: 0,
        }
    }
}

/// Where the node is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Takes calls.
    Serving,
    /// Takes no calls and gives no leases, until nothing is leased or `by`.
    Draining {
        /// When it stops waiting.
        by: Instant,
    },
    /// Has drained: may be dropped when what it sent has left.
    Ended,
    /// The log could not be written: the process must end. A restart recovers everything that was accepted.
    Failed {
        /// What the disk said.
        errno: i32,
    },
}

/// A stranger must say hello in this time.
const HELLO: Duration = Duration::from_secs(10);
/// Events looked at ahead: about as many cache misses as a CPU waits for at once.
const AHEAD: usize = 16;
/// Room for what one turn of the scheduler decides; it is asked again while it fills this.
const EFFECTS: usize = 1024;

/// One control node. See the module.
pub struct Node<D> {
    pub(crate) limits: Limits,
    pub(crate) options: NodeOptions,
    pub(crate) driver: D,
    pub(crate) phase: Phase,
    pub(crate) started: Instant,
    pub(crate) sessions: Sessions,
    /// Cores and hosts that have not heard of all functions yet.
    pub(crate) publishing: Vec<SessionRef>,
    pub(crate) catalog: Catalog,
    /// Functions that were deleted together with their calls: what comes back of these goes to the dead letters.
    pub(crate) buried: BTreeSet<FunctionRef>,
    pub(crate) burials: Burials,
    pub(crate) queue: DurableQ,
    pub(crate) disk: Disk,
    /// What was lost of the log, if it was salvaged; empty again when none of the damage is left on disk.
    pub(crate) salvaged: Vec<durableq::Loss>,
    pub(crate) scheduler: Scheduler,
    pub(crate) effects: Effects,
    /// No lease may be given this round any more.
    pub(crate) stalled: bool,
    pub(crate) workers: Workers,
    pub(crate) regions: Regions,
    pub(crate) shards: Shards,
    pub(crate) waiters: Waiters,
    pub(crate) walks: Walks,
    /// Which blobs there are.
    pub(crate) blobs: BlobIndex,
    /// The collection of blobs that is under way.
    pub(crate) collection: Option<Collection>,
    /// The thread that reads them, if it is connected.
    pub(crate) store: SessionRef,
    /// Until when the log is held for a copy; zero if it is not.
    pub(crate) held_until: Instant,
    /// Who is to be told when the drain has ended.
    pub(crate) drain_asked: Vec<(SessionRef, u64)>,
    pub(crate) stats: Stats,
    pub(crate) load: Load,
    pub(crate) shapes: Shapes,
    pub(crate) grouping: Grouping,
    pub(crate) looks: Looks,
    pub(crate) accounts: Accounts,
    /// Where short frames are encoded before they are given to the driver.
    pub(crate) scratch: FrameBuf,
    /// Next time to look for peers that say nothing.
    look_at: Instant,
}

impl<D: Driver> Node<D> {
    /// A node on a recovered queue; see [`crate::recovery::Booting`].
    pub(crate) fn new(
        limits: Limits,
        mut options: NodeOptions,
        driver: D,
        queue: DurableQ,
        disk: Disk,
        functions: Vec<FunctionSpec>,
    ) -> Result<Node<D>, LogError> {
        let now = driver.now();
        if let Some(number) = options.shards.number {
            options.regions = RegionOptions { name: region_name(number), siblings: true, ..options.regions };
        }
        let mut node = Node {
            sessions: Sessions::new(&limits),
            publishing: Vec::new(),
            catalog: Catalog::new(&limits),
            buried: BTreeSet::new(),
            burials: Burials::default(),
            queue,
            disk,
            salvaged: Vec::new(),
            scheduler: Scheduler::new(&scheduler_limits(&limits, &options.regions)),
            effects: Effects::new(EFFECTS),
            stalled: false,
            workers: Workers::new(&limits),
            regions: Regions::new(&limits, &options.regions),
            shards: Shards::new(&options.shards),
            waiters: Waiters::default(),
            walks: Walks::default(),
            blobs: BlobIndex::new(limits.blobs_max, &options.blobs),
            store: SessionRef::NOBODY,
            collection: None,
            held_until: Instant(0),
            drain_asked: Vec::new(),
            stats: Stats::new(),
            load: Load::new(&limits, now),
            shapes: Shapes::new(&limits, options.shaping.clone()),
            grouping: Grouping::new(&limits),
            looks: Looks::default(),
            accounts: Accounts::new(options.ledger.clone()),
            scratch: FrameBuf::new(),
            look_at: now,
            started: now,
            phase: Phase::Serving,
            driver,
            limits,
            options,
        };
        for spec in functions {
            node.deploy(spec).map_err(|_| LogError::Functions(node.limits.functions_max))?;
        }
        for function in std::mem::take(&mut node.options.buried) {
            // One that the queue does not know has no calls.
            if let Some(known) = node.queue.function(function) {
                node.begin_burial(FunctionRef(known.0), None);
            }
        }
        node.pull_from_siblings();
        Ok(node)
    }

    /// Listens.
    ///
    /// # Errors
    /// Those of the driver: an address in use, a path that is too long.
    pub fn listen(&mut self, at: &Endpoint) -> io::Result<ListenerId> {
        self.driver.listen(at)
    }

    /// One round: takes what `arrivals` brought, decides, queues what is to be sent and written. Gives the instant
    /// until which the caller may sleep in `reap`.
    pub fn turn(&mut self, arrivals: &Arrivals) -> Instant {
        let now = self.driver.now();
        self.queue.advance(now, self.driver.wall());
        self.take_all(arrivals);
        self.expire();
        // After the events: whoever spoke in this round is not silent.
        self.lose_silent_cores();
        if now >= self.look_at {
            self.look_at = self.close_strangers(now);
            self.load.turn(now, &self.workers);
        }
        self.tell();
        self.publish_all();
        self.walk_on();
        self.collect_on();
        self.turn_burials();
        self.end_hold(now);
        self.schedule();
        self.turn_links(now);
        self.turn_siblings(now);
        self.turn_release(now);
        self.commit();
        self.answer_waiters(now);
        self.sessions.send_verdicts(&mut self.driver);
        self.end_drain(now);
        self.end_failed();
        self.sleep_until()
    }

    fn take_all(&mut self, arrivals: &Arrivals) {
        let mut coming = arrivals.iter();
        for (n, event) in arrivals.iter().enumerate() {
            if n.is_multiple_of(AHEAD) {
                self.glimpse(coming.by_ref().take(AHEAD));
            }
            self.take(event);
        }
    }

    /// Brings what the next frames will be looked up by into the cache, all at once.
    fn glimpse<'a>(&self, coming: impl Iterator<Item = Event<'a>>) {
        let (mut calls, mut ended) = ([CallId(0); AHEAD], [scheduler::CallRef(0); AHEAD]);
        let (mut count, mut ends) = (0, 0);
        for event in coming {
            let Event::Frame { frame, .. } = event else { continue };
            // Ends from the back, so that all of them stand together.
            match frame.kind() {
                Kind::Submit => (calls[count], count) = (frame.call(), count + 1),
                Kind::Outcome => (calls[AHEAD - 1 - ends], ends) = (frame.call(), ends + 1),
                _ => {}
            }
        }
        self.queue.glimpse(&calls[..count]);
        let outcomes = &calls[AHEAD - ends..];
        self.queue.glimpse(outcomes);
        let numbers = outcomes.iter().filter_map(|call| self.queue.number(*call));
        let found = ended.iter_mut().zip(numbers).map(|(end, at)| *end = scheduler::CallRef(at.0)).count();
        self.scheduler.glimpse(&ended[..found]);
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Frame { connection, frame } => self.hear(connection, &frame),
            Event::Written { token, result } => self.written(token, result),
            Event::Created { token, result } => self.created(token, result),
            Event::Directory { token, result } => self.directory(token, result),
            Event::Read { token, result } => self.read(token, result),
            Event::Accepted { connection, .. } => {
                if self.sessions.accept(connection, self.driver.now()).is_none() {
                    self.note("refused a connection: the table is full (limits clients_max, cores_max)");
                    self.driver.close(connection);
                }
            }
            Event::Room { connection } => {
                if let Some(session) = self.sessions.find(connection) {
                    self.sessions.flush(&mut self.driver, session);
                }
            }
            Event::Closed { connection, reason } => self.closed(connection, &reason),
            // To another region: what was sent to it is on its way.
            Event::Connected { .. } => {}
            Event::Bytes { .. } | Event::Message { .. } => {
                unreachable!("all connections of a node carry frames")
            }
        }
    }

    fn hear(&mut self, connection: ConnectionId, frame: &Frame<'_>) {
        let Some(session) = self.sessions.find(connection) else { return };
        let Some(entry) = self.sessions.get(session).filter(|entry| !entry.is_closing()) else { return };
        match (&entry.role, frame.kind()) {
            (Role::Client { .. } | Role::Admin | Role::Shard(_), Kind::Submit) => self.submit(session, frame),
            (Role::Core(core), Kind::Outcome | Kind::Credit | Kind::Drain) => self.hear_core(*core, frame),
            (Role::Core(core), Kind::Fetch) => self.fetch_asked(*core, frame),
            (Role::Core(core), Kind::Keep) => self.keep_asked(*core, frame),
            (Role::Client { .. } | Role::Admin | Role::Shard(_), Kind::Fetch) => {
                self.result_asked(session, frame)
            }
            (Role::Store, Kind::Piece) => self.piece_came(frame),
            (Role::Store, Kind::Kept) => self.kept(frame),
            (Role::Core(core), Kind::Hello) => self.hear_again(session, *core, frame),
            (Role::Core(core), Kind::Ready | Kind::Return) if self.is_far(*core) => {
                self.hear_far(*core, frame)
            }
            (Role::Host(host), Kind::Ready) => self.ready(*host, frame),
            (Role::Home(link), _) => self.hear_home(session, *link, frame),
            (Role::Shard(_), Kind::Recall) => self.recalled(session, frame),
            (Role::Sibling(shard), _) => self.hear_sibling(session, *shard, frame),
            (Role::Admin | Role::Shard(_), Kind::Ask) => self.ask(session, frame),
            (Role::Stranger, _) => self.greet(session, frame),
            (_, kind) => self.close(session, &format!("it sent a {kind:?}, which is not its to say")),
        }
    }

    fn hear_core(&mut self, core: CoreRef, frame: &Frame<'_>) {
        self.queue.heartbeat(HolderRef(core.0));
        self.workers.core_mut(core).expect("its session is there").heard_at = self.driver.now();
        match frame.kind() {
            Kind::Outcome => self.outcome(core, frame),
            Kind::Credit => {
                self.credit(core, frame.stamp());
                if self.is_far(core) {
                    self.echo(core, frame.stamp());
                }
            }
            _ => self.core_drains(core),
        }
    }

    fn closed(&mut self, connection: ConnectionId, reason: &Closed) {
        let Some((session, entry)) = self.sessions.remove(connection) else { return };
        match entry.role {
            Role::Core(core) => self.core_lost(core, &reason.to_string()),
            Role::Host(host) => {
                if self.workers.supervisor_down(host, session) {
                    self.host_down(host);
                }
            }
            Role::Home(link) => self.link_down(link, &reason.to_string()),
            Role::Sibling(shard) => self.sibling_down(shard, &reason.to_string()),
            Role::Stranger | Role::Client { .. } | Role::Admin | Role::Store | Role::Shard(_) => {}
        }
        if let Closed::Malformed(error) = reason {
            self.note(&format!("a peer was cut off: {error}"));
        }
    }

    /// Closes the connections of strangers that stay so. Gives when to look again.
    fn close_strangers(&mut self, now: Instant) -> Instant {
        let is_stale = |s: &Session| s.role == Role::Stranger && !s.is_closing() && s.since + HELLO <= now;
        let stale: Vec<SessionRef> =
            self.sessions.iter().filter(|(_, s)| is_stale(s)).map(|(session, _)| session).collect();
        for session in stale {
            self.close(session, &format!("it said nothing for {HELLO:?}"));
        }
        now + HELLO
    }

    fn sleep_until(&self) -> Instant {
        let drain = match self.phase {
            Phase::Serving => Instant::NEVER,
            Phase::Draining { by } => by,
            // The caller is to look at the phase before it sleeps again.
            Phase::Ended | Phase::Failed { .. } => return self.driver.now(),
        };
        let gates = self.scheduler.next_wake().unwrap_or(Instant::NEVER);
        let own = self.look_at.min(drain).min(gates).min(self.queue_until());
        let now = self.driver.now();
        let asked = self.waiters.next().min(self.walks.next(now)).min(self.burials.next(now));
        let asked = asked.min(self.collect_until());
        let links = self.links_until().min(self.siblings_until());
        let links = links.min(self.shards.release_until(now));
        own.min(asked).min(links).min(self.hold_until())
    }

    /// Ends a connection and says why.
    pub(crate) fn close(&mut self, session: SessionRef, why: &str) {
        self.sessions.close(&mut self.driver, session, why);
    }

    /// Keeps a line for [`Node::notes`]; the newest are lost if nobody reads them.
    pub(crate) fn note(&mut self, line: &str) {
        if self.sessions.notes.len() < NOTES_MAX {
            self.sessions.notes.push(line.to_owned());
        }
    }

    /// What happened that an operator may want to know, oldest first; the caller prints it.
    pub fn notes(&mut self) -> std::vec::Drain<'_, String> {
        self.sessions.notes.drain(..)
    }

    /// What was lost of the log that it was started with; nothing of a sound one.
    pub fn salvaged(&self) -> &[durableq::Loss] {
        &self.salvaged
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The driver, for `reap`.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Calls that ended well since its start. Cheap, unlike [`Node::status`].
    pub fn completed(&self) -> u64 {
        self.queue.counters().completed
    }

    /// Checks every invariant of the deciders. For tests: it walks over everything.
    pub fn check(&self) {
        self.scheduler.check();
        self.queue.check();
        self.regions.check();
        self.shards.check();
        self.blobs.check();
    }
}

/// Lines kept for an operator between two rounds.
const NOTES_MAX: usize = 64;
