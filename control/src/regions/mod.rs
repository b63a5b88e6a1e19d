//! This node as one region among others: calls of another region's durable queue run here, and ours there.
//!
//! A region that has free cores *pulls*. Its node connects to the home of the calls as if it were one core of that
//! node: it grants credits, is leased calls with an epoch, runs them on its own cores, and answers. So all that the
//! durable queue promises about a core holds for a region, and needs no second proof:
//!
//! ```text
//!  home: DurableQ ─▶ Scheduler ─lease─▶ far core ══ link ══▶ pulled ─▶ Scheduler ─▶ core       the region that pulls
//!            ▲       near cores first      ▲  ◀══ credits: free x share of the matrix ══            │
//!            └──── settle, fenced by epoch ┴────────────────── outcome, the core's bytes ◀──────────┘
//! ```
//!
//! - The home keeps the only durable copy. What is here is memory ([`pulled`]): a link that is lost, or silent for a
//!   lease's time, ends its leases there, and the calls run again elsewhere: at least once.
//! - A core that is lost here gives its calls back at once ([`call::Kind::Return`]); one that was never begun counts as
//!   no delivery.
//! - A region never has more granted than its free credits times its share of the matrix ([`window`]), and nothing of
//!   the matrix zero. The home gives it only what no near core can take. A pulled call is never lent on.
//! - The home leases a function only to a region that says it is ready for it: the same function, in all that its
//!   manifest and artefact say, is deployed there, and compiled on a host.
//! - The matrix is a cached snapshot. Without its conductor everyone goes on with the last one, also after a restart.
//!
//! [`link`] is the side that pulls, [`run`] what happens to a pulled call, [`home`] the side that lends.

pub mod window;
pub mod pulled;
mod link;
mod run;
mod home;
mod answers;

use crate::session::SessionRef;
use call::admin::TrafficMatrix;
use call::limits::Limits;
use call::{FunctionId, Instant};
use driver::{ConnectionId, Endpoint};
use pulled::{PULLED_MAX, Pulled};
use scheduler::{CallRef, FunctionRef};
use std::collections::BTreeMap;
use std::time::Duration;
use window::Window;

/// What a node is told of the regions at its start.
#[derive(Clone, Debug, Default)]
pub struct RegionOptions {
    /// What this one calls itself; empty if it is alone.
    pub name: String,
    /// The others: how they are called, and where their nodes listen.
    pub peers: Vec<(String, Endpoint)>,
    /// As it was when the node last ran.
    pub matrix: TrafficMatrix,
    /// As it was when the node last ran.
    pub drained: bool,
    /// It is a shard: others of its node may join, from whom it pulls, too.
    pub siblings: bool,
}

/// Between two tries to connect: a tenth of a lease, so that a link that is there again is used before the calls that
/// it lost were all run elsewhere.
const CONNECT_AGAIN: Duration = Duration::from_millis(500);

/// All that a node knows of the regions.
pub(crate) struct Regions {
    name: String,
    matrix: TrafficMatrix,
    drained: bool,
    links: Vec<Link>,
    pulled: Pulled,
    /// Numbers of pulled calls begin here: those of the durable queue end.
    base: u32,
    ended: u64,
}

/// The way to another region's node.
struct Link {
    region: String,
    endpoint: Endpoint,
    connection: Option<Connected>,
    /// Counts connections.
    generation: u32,
    /// When to connect, without a connection.
    connect_at: Instant,
    share: u32,
    /// It is another shard, of which the matrix says nothing.
    sibling: bool,
    /// What the other side has deployed, and whether it was told that we are ready for it.
    functions: BTreeMap<FunctionId, Offered>,
    leased: u64,
    ended: u64,
    returned: u64,
}

/// A connection that is being made, or is there.
struct Connected {
    id: ConnectionId,
    session: SessionRef,
    /// The other side has said hello.
    is_up: bool,
    heard_at: Instant,
    beat_at: Instant,
    window: Window,
}

/// A function as another region has it.
struct Offered {
    version: u32,
    fingerprint: u64,
    told_ready: bool,
}

impl Link {
    fn to(region: String, endpoint: Endpoint) -> Link {
        Link {
            region,
            endpoint,
            connection: None,
            generation: 0,
            connect_at: Instant(0),
            share: 0,
            sibling: false,
            functions: BTreeMap::new(),
            leased: 0,
            ended: 0,
            returned: 0,
        }
    }
}

impl Regions {
    /// Not connected to anybody. A node that is alone takes no memory for pulled calls.
    pub(crate) fn new(limits: &Limits, options: &RegionOptions) -> Regions {
        let link = |(region, endpoint): &(String, Endpoint)| Link {
            share: options.matrix.share(&options.name, region),
            ..Link::to(region.clone(), endpoint.clone())
        };
        Regions {
            name: options.name.clone(),
            matrix: options.matrix.clone(),
            drained: options.drained,
            links: options.peers.iter().map(link).collect(),
            pulled: Pulled::new(places(options)),
            base: u32::try_from(limits.calls_max).expect("calls are numbered by 32 bits"),
            ended: 0,
        }
    }

    /// These are the other shards now, of whom each gives an equal share; those that were there stay.
    pub(crate) fn join(&mut self, siblings: Vec<(String, Endpoint)>) {
        let share = 1000 / (siblings.len() as u32 + 1);
        for (region, endpoint) in siblings {
            if !self.links.iter().any(|link| link.region == region) {
                self.links.push(Link { sibling: true, ..Link::to(region, endpoint) });
            }
        }
        self.links.iter_mut().filter(|link| link.sibling).for_each(|link| link.share = share);
    }

    /// How many calls of a function others have lent to cores here.
    pub(crate) fn lent(&self, function: FunctionRef) -> u32 {
        self.pulled.len_of(function)
    }

    /// Whether a call of the scheduler's is a pulled one.
    pub(crate) fn is_pulled(&self, call: CallRef) -> bool {
        call.0 >= self.base
    }

    /// Whether no core runs a pulled call.
    pub(crate) fn is_idle(&self) -> bool {
        self.pulled.is_empty() || self.pulled.running_len() == 0
    }

    /// Whether it runs nothing on its own cores.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained
    }

    /// Panics if an invariant does not hold. For tests.
    pub(crate) fn check(&self) {
        self.pulled.check();
        self.links.iter().filter_map(|link| link.connection.as_ref()).for_each(|link| link.window.check());
    }
}

/// The scheduler's limits: pulled calls are numbered behind the durable queue's.
pub(crate) fn scheduler_limits(limits: &Limits, options: &RegionOptions) -> Limits {
    Limits { calls_max: limits.calls_max + places(options), ..limits.clone() }
}

fn places(options: &RegionOptions) -> usize {
    if options.peers.is_empty() && !options.siblings { 0 } else { PULLED_MAX }
}
