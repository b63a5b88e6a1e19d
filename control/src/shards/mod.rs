//! This node as one shard among others of its host: the QueueLB.
//!
//! A call belongs to the shard that owns its slot ([`call::shards`]). A submit may come to any shard:
//!
//! ```text
//!  client ─submit─▶ any shard ─┬─ holds the id ──────────────────────────▶ duplicate, as ever
//!                              ├─ owns the slot ─┬─ nobody had it before ─▶ its own queue
//!                              │                 └─ somebody had: Recall ═▶ former owner ─▶ held: its verdict
//!                              │                                                └─ not held: its own queue
//!                              └─ another owns it ═ the client's bytes ══▶ owner ─▶ verdict, outcome ═▶ back
//! ```
//!
//! - An id is accepted by one shard only. A shard accepts it while its own map says that the slot is its own and every
//!   former owner has said, under a map at least as new, that it does not hold the id. Who says that does not own the
//!   slot by that map, and maps only get newer (on disk before anyone hears of them), so it never accepts it later.
//! - A verdict is the owner's, given when the call is on its disk. What is passed on is kept until then ([`awaited`]),
//!   and said again after a lost link: the owner recognises the id.
//! - A shard that is away keeps its calls. Submits for its slots are refused for now, as by a node that drains; the
//!   others go on.
//! - A submit that was passed on is never passed on again: two maps that differ for a moment make a client wait, and no
//!   frame go in circles.
//!
//! Cores are attached to any shard; those of one take calls of another as regions pull ([`crate::regions`]), by equal
//! shares. [`link`] keeps the connections, [`route`] is the diagram above, [`relay`] passes operators' questions about
//! one call on to who holds it, [`release`] looks at what is left of slots that it had before, [`answers`] takes new maps, [`shares`]
//! is its part of limits that hold over all shards.

pub mod awaited;
mod link;
mod route;
mod relay;
mod release;
mod answers;
mod shares;

use crate::session::SessionRef;
use awaited::{AWAITED_MAX, Awaited};
use call::shards::{SHARDS_MAX, ShardPlace};
use call::shares::ShareTable;
use call::{Instant, ShardId, ShardMap, Slot};
use driver::Endpoint;
use relay::Relays;
use release::Release;
use std::time::Duration;

/// What a node is told of the shards at its start.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Its own number; none if it is alone.
    pub number: Option<ShardId>,
    /// As it stands on disk. It may know nothing of this shard yet, which then owns nothing.
    pub map: ShardMap,
    /// Who knows it is a shard.
    pub secret: String,
    /// How long ends of no set time are remembered of slots that it had before; see [`release`].
    pub remember: Duration,
    /// Its parts of limits, as it was told last; none if it never was.
    pub shares: Option<ShareTable>,
}

/// [`ShardOptions::remember`], if nothing else is said: whoever submits a call again after a failure does so within it.
pub const REMEMBER: Duration = Duration::from_secs(3600);

impl Default for ShardOptions {
    fn default() -> ShardOptions {
        ShardOptions {
            number: None,
            map: ShardMap::default(),
            secret: String::new(),
            remember: REMEMBER,
            shares: None,
        }
    }
}

/// Sessions of other shards, and to them, at most.
pub(crate) const SESSIONS_MAX: usize = 4 * SHARDS_MAX;

/// All that a node knows of the shards.
pub(crate) struct Shards {
    number: Option<ShardId>,
    secret: String,
    map: ShardMap,
    /// To all shards by number, its own included, which is never connected.
    links: Vec<Link>,
    awaited: Awaited,
    relays: Relays,
    release: Release,
    /// Its parts of limits.
    table: ShareTable,
    passed: u64,
    asked: u64,
    found: u64,
}

/// The way to another shard's node.
struct Link {
    endpoint: Option<Endpoint>,
    connection: Option<Connected>,
    /// When to connect, without a connection.
    connect_at: Instant,
}

/// A connection that is being made, or is there.
struct Connected {
    session: SessionRef,
    /// The other side has said hello.
    is_up: bool,
}

impl Link {
    fn to(place: &ShardPlace) -> Link {
        // A place that cannot be reached stays down, and is told as such.
        Link {
            endpoint: place.endpoint.parse().ok().filter(|_| !place.gone),
            connection: None,
            connect_at: Instant(0),
        }
    }
}

impl Shards {
    /// The other shards that own a slot or did, the owner last. None without a map.
    pub(crate) fn others_of(&self, slot: Slot) -> Vec<ShardId> {
        if self.map.version == 0 {
            return Vec::new();
        }
        let home = self.map.home(slot);
        let all = home.former.iter().rev().copied().chain([home.owner]);
        all.filter(|shard| Some(*shard) != self.number).collect()
    }

    /// Not connected to anybody. A node that is alone takes no memory for what others are to say.
    pub(crate) fn new(options: &ShardOptions) -> Shards {
        let entries = if options.number.is_some() { AWAITED_MAX } else { 0 };
        let map = if options.number.is_some() { options.map.clone() } else { ShardMap::default() };
        let mut release = Release::new(options.remember);
        release.map_in_force(&map, options.number);
        Shards {
            number: options.number,
            secret: options.secret.clone(),
            links: map.shards.iter().map(Link::to).collect(),
            table: options.shares.clone().unwrap_or_else(|| shares::untold(&map)),
            map,
            awaited: Awaited::new(entries),
            relays: Relays::default(),
            release,
            passed: 0,
            asked: 0,
            found: 0,
        }
    }

    /// Whether a call may be another shard's.
    pub(crate) fn is_divided(&self) -> bool {
        self.number.is_some()
    }

    /// When the walk over what is held of slots that it had before goes on.
    pub(crate) fn release_until(&self, now: Instant) -> Instant {
        self.release.until(now)
    }

    /// Panics if an invariant does not hold. For tests.
    pub(crate) fn check(&self) {
        self.awaited.check();
        assert!(self.number.is_some() || self.links.is_empty(), "a node alone has no links");
    }
}

/// What a shard is called where regions pull.
pub(crate) fn region_name(shard: ShardId) -> String {
    format!("shard-{shard}")
}
