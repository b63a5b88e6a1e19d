//! Shares of limits: divides each limit of a function or tenant among the shards of a node, by demand.
//!
//! A shard keeps to its part ([`ShareTable`]) whatever becomes of this decider, and keeps it over restarts. What nobody
//! misses is divided evenly, and no table names it; where a shard could use more than it has and another less, parts move:
//! first the one is lowered, and when it has said that it uses no more than that, the other is raised.
//!
//! # Laws
//! 1. **Never above the limit**: at every instant the parts in force of all shards, and what is in use of parts that were
//!    lowered, come to no more than the limit (the greatest that one of them knows, while it changes). A shard counts with
//!    the most that any table which may be in force there gives it: the last that it confirmed, and one whose answer was
//!    lost. Nothing is raised before all shards were heard.
//! 2. **Nobody starves**: a shard that wants some of a limit gets some, also of one that is less than the shards that want
//!    it; those take turns of [`QUANTUM`].
//! 3. **A shard that is away keeps its parts**, since it may still run: the others share what they have.
//!
//! Unlike other deciders it allocates after `new`: tables go as words over HTTP, some a second at most.

use call::shares::{LimitName, ROWS_MAX, Share, ShareTable, ShareUse, SharesState, even};
use call::{Instant, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long a shard has its part at least of a limit that is less than the shards that want it: long beside the two rounds
/// that a move takes.
pub const QUANTUM: Duration = Duration::from_secs(2);
/// The part of its even share that a shard keeps for the call that may come next, without a round: an eighth.
const KEPT: u64 = 8;
/// Parts move if one of those that miss some gets so much of the limit more: a sixty-fourth, and at least 1.
const WORTH: u64 = 64;

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// These shards are there; a shard that is away is.
    Members(Vec<ShardId>),
    /// A shard said how it stands, in answer to a table or without one.
    Said {
        /// Who.
        shard: ShardId,
        /// What.
        state: SharesState,
    },
    /// Conclude.
    Turn,
}

/// What a shard is to hear: until it has confirmed this table it gets no other.
pub type Told = (ShardId, ShareTable);

/// What is known of a shard.
#[derive(Debug, Default)]
struct Member {
    /// The table that it confirmed last; none if it was not heard yet.
    held: Option<ShareTable>,
    /// One that it was told and has not confirmed.
    told: Option<ShareTable>,
    uses: BTreeMap<LimitName, ShareUse>,
}

impl Member {
    /// All tables that may be in force there, the newest last.
    fn tables(&self) -> impl Iterator<Item = &ShareTable> {
        self.held.iter().chain(&self.told)
    }

    fn used(&self, name: &LimitName) -> u64 {
        self.uses.get(name).map_or(0, |said| said.used)
    }

    /// The most that it may have in force or in use.
    fn bound(&self, shard: ShardId, name: &LimitName, limit: u64) -> u64 {
        let parts = self.tables().map(|table| table.share(shard, name, limit));
        parts.max().unwrap_or(u64::MAX).max(self.used(name))
    }

    /// What it has, or will have.
    fn part(&self, shard: ShardId, name: &LimitName, limit: u64) -> u64 {
        self.tables().last().map_or(0, |table| table.share(shard, name, limit))
    }

    fn has_row(&self, name: &LimitName) -> bool {
        self.tables().any(|table| table.rows.binary_search_by(|row| row.name.cmp(name)).is_ok())
    }
}

/// When a shard had a part of a limit that is less than the shards.
#[derive(Clone, Copy, Debug, Default)]
struct Had {
    since: Option<Instant>,
    last: Option<Instant>,
}

/// The decider. See the module.
#[derive(Debug, Default)]
pub struct Shares {
    members: BTreeMap<ShardId, Member>,
    turns: BTreeMap<LimitName, BTreeMap<ShardId, Had>>,
    version: u64,
}

impl Shares {
    /// Knows of nobody.
    pub fn new() -> Shares {
        Shares::default()
    }

    /// Takes one input; [`Input::Turn`] says who is to hear what.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Told>) {
        match input {
            Input::Members(shards) => {
                self.members.retain(|shard, _| shards.contains(shard));
                for shard in shards {
                    self.members.entry(shard).or_default();
                }
            }
            Input::Said { shard, state } => self.said(shard, state),
            Input::Turn => self.turn(now, out),
        }
    }

    fn said(&mut self, shard: ShardId, state: SharesState) {
        let Some(member) = self.members.get_mut(&shard) else { return };
        self.version = self.version.max(state.table.version);
        // What was told and is older than what is in force there never will be.
        if member.told.as_ref().is_some_and(|told| told.version <= state.table.version) {
            member.told = None;
        }
        member.held = Some(state.table);
        member.uses = state.uses.into_iter().map(|said| (said.name.clone(), said)).collect();
    }

    fn turn(&mut self, now: Instant, out: &mut Vec<Told>) {
        // What was told and not confirmed is said again; it may have come already.
        let again = self.members.iter().filter_map(|(shard, member)| Some((*shard, member.told.clone()?)));
        out.extend(again);
        if self.members.values().any(|member| member.held.is_none()) {
            return;
        }
        let (rosters, is_last) = self.rosters();
        let mut rows: BTreeMap<ShardId, Vec<Share>> = BTreeMap::new();
        let (names, mut is_covered) = (self.names(), true);
        self.turns.retain(|name, _| names.contains(name));
        for name in names.iter().take(ROWS_MAX) {
            is_covered &= self.divide(now, name, &rosters, &mut rows);
        }
        // A roster alone raises what no row holds down: rows first.
        let rosters = if is_last && !is_covered { None } else { Some(rosters) };
        self.tell(rosters.as_ref(), rows, out);
    }

    fn tell(
        &mut self,
        rosters: Option<&Vec<Vec<ShardId>>>,
        mut rows: BTreeMap<ShardId, Vec<Share>>,
        out: &mut Vec<Told>,
    ) {
        let version = self.version + 1;
        for (shard, member) in &mut self.members {
            let rows = rows.remove(shard).unwrap_or_default();
            let held = member.held.as_ref().expect("all were heard");
            let rosters = rosters.unwrap_or(&held.rosters);
            if member.told.is_some() || (held.rows == rows && held.rosters == *rosters) {
                continue;
            }
            let table = ShareTable { version, rosters: rosters.clone(), rows };
            member.told = Some(table.clone());
            self.version = version;
            out.push((*shard, table));
        }
    }

    /// Who divides evenly what no table names, next; and whether these are the shards that are there, alone. From one
    /// roster to another the way is over both: no shard knows the new one alone before all know it.
    fn rosters(&self) -> (Vec<Vec<ShardId>>, bool) {
        let wanted: Vec<ShardId> = self.members.keys().copied().collect();
        // A shard that has no part of anything knows none.
        let known = |roster: &Vec<ShardId>| {
            let has = |table: &ShareTable| {
                table.rosters.contains(roster) || table.rosters.iter().any(|roster| roster.is_empty())
            };
            self.members.values().flat_map(Member::tables).all(has)
        };
        if known(&wanted) {
            return (vec![wanted], true);
        }
        let rosters = self.members.values().flat_map(Member::tables).flat_map(|table| &table.rosters);
        // Without one that all know, nobody divides anything evenly until all know the new one.
        let common = rosters.filter(|roster| !roster.is_empty()).find(|roster| known(roster));
        (vec![common.cloned().unwrap_or_default(), wanted], false)
    }

    /// Limits that are in use or wanted somewhere, or divided by a table.
    fn names(&self) -> BTreeSet<LimitName> {
        let rows = self.members.values().flat_map(Member::tables).flat_map(|table| &table.rows);
        let uses = self.members.values().flat_map(|member| member.uses.keys());
        rows.map(|row| &row.name).chain(uses).cloned().collect()
    }

    /// The least that a shard knows as the limit, or what was divided.
    fn limit(&self, name: &LimitName) -> u64 {
        let said = self.members.values().filter_map(|member| member.uses.get(name)).map(|said| said.limit);
        let tables = self.members.values().flat_map(Member::tables);
        let rows = tables.flat_map(|table| &table.rows).filter(|row| row.name == *name);
        said.min().or_else(|| rows.map(|row| row.limit).min()).unwrap_or(0)
    }

    /// Divides one limit: adds the rows that tables need. Whether nothing of it rises by `rosters` alone.
    fn divide(
        &mut self,
        now: Instant,
        name: &LimitName,
        rosters: &[Vec<ShardId>],
        rows: &mut BTreeMap<ShardId, Vec<Share>>,
    ) -> bool {
        let limit = self.limit(name);
        let parts: BTreeMap<ShardId, u64> =
            self.members.iter().map(|(shard, member)| (*shard, member.part(*shard, name, limit))).collect();
        let is_even = |shard: &ShardId, part: u64| part == even(rosters, *shard, name, limit);
        let is_busy = self.members.values().any(|member| member.uses.contains_key(name));
        let targets = match is_busy {
            true => self.targets(now, name, limit, &parts),
            false => parts.keys().map(|shard| (*shard, even(rosters, *shard, name, limit))).collect(),
        };
        let has_rows = self.members.values().any(|member| member.has_row(name));
        let overflows =
            |(shard, member): (&ShardId, &Member)| member.used(name) > even(rosters, *shard, name, limit);
        let is_named = targets != parts || self.members.iter().any(overflows);
        if !has_rows && !is_named {
            return true;
        }
        let settled = |(shard, member): (&ShardId, &Member)| {
            is_even(shard, member.bound(*shard, name, limit)) && is_even(shard, parts[shard])
        };
        if !is_busy && self.members.iter().all(settled) {
            return true;
        }
        for (shard, share) in self.moved(name, limit, &targets, &parts) {
            rows.entry(shard).or_default().push(Share { name: name.clone(), limit, share });
        }
        self.members.values().all(|member| {
            let held = member.held.as_ref().expect("all were heard");
            held.rows.binary_search_by(|row| row.name.cmp(name)).is_ok()
        })
    }

    /// The parts after this turn: lowered where they are to be, raised by what nobody has in force or in use.
    fn moved(
        &self,
        name: &LimitName,
        limit: u64,
        targets: &BTreeMap<ShardId, u64>,
        parts: &BTreeMap<ShardId, u64>,
    ) -> BTreeMap<ShardId, u64> {
        let bounds = |shard: &ShardId| self.members[shard].bound(*shard, name, limit);
        let taken = parts.keys().map(bounds).fold(0, u64::saturating_add);
        let (is_over, mut free) = (taken > limit, limit.saturating_sub(taken));
        let mut moved = BTreeMap::new();
        // What is free goes to whoever has waited for longest.
        let had = |shard: &ShardId| self.turns.get(name)?.get(shard)?.last;
        let mut order: Vec<ShardId> = targets.keys().copied().collect();
        order.sort_by_key(had);
        for shard in order {
            let (target, bound) = (targets[&shard], bounds(&shard));
            let part = parts[&shard];
            let next = match self.members[&shard].told {
                Some(_) => part,
                // The limit was lowered: some have more in use than there is.
                None if is_over => target.min(part),
                None => target.min(bound.saturating_add(free)),
            };
            free -= next.saturating_sub(bound);
            moved.insert(shard, next);
        }
        moved
    }

    /// What each shard should have: as much as it wants, as far as others do not want it, too.
    fn targets(
        &mut self,
        now: Instant,
        name: &LimitName,
        limit: u64,
        parts: &BTreeMap<ShardId, u64>,
    ) -> BTreeMap<ShardId, u64> {
        let wanted = |shard: &ShardId| self.members[shard].uses.get(name).map_or(0, |said| said.wanted);
        let kept = limit / (KEPT * self.members.len() as u64);
        let wants: BTreeMap<ShardId, u64> =
            parts.keys().map(|shard| (*shard, wanted(shard).max(kept).min(limit))).collect();
        let turns = self.turns.entry(name.clone()).or_default();
        turns.retain(|shard, _| parts.contains_key(shard));
        for (shard, part) in parts {
            let had = turns.entry(*shard).or_default();
            (had.since, had.last) = match part {
                0 => (None, had.last),
                _ => (had.since.or(Some(now)), Some(now)),
            };
        }
        let targets = fill(limit, &wants, &order(now, turns));
        let missed = |shard: &ShardId| wants[shard].saturating_sub(parts[shard]);
        let gains = |shard: &ShardId| targets[shard].saturating_sub(parts[shard]).min(missed(shard));
        let is_worth = parts.keys().any(|shard| gains(shard) >= (limit / WORTH).max(1));
        if is_worth { targets } else { parts.clone() }
    }

    /// What the shards' tables come to, for `check` and tests: the most that may be in force of a limit.
    fn most(&self, name: &LimitName, limit: u64) -> u64 {
        let most = |(shard, member): (&ShardId, &Member)| {
            member.tables().map(|table| table.share(*shard, name, limit)).max().unwrap_or(0)
        };
        self.members.iter().map(most).fold(0, u64::saturating_add)
    }

    /// Panics if an invariant does not hold, of shards that all know the same limits.
    pub fn check(&self) {
        for name in self.names() {
            let limit = self.limit(&name);
            assert!(self.most(&name, limit) <= limit, "{name:?} is given more than once");
        }
        for member in self.members.values() {
            member.tables().for_each(|table| assert_eq!(table.fault(), None));
        }
    }
}

/// Who comes first where there is less than one for each: whoever has some and had it for less than a quantum, then
/// whoever has waited for longest.
fn order(now: Instant, turns: &BTreeMap<ShardId, Had>) -> Vec<ShardId> {
    let key = |had: &Had| match had.since {
        Some(since) if now < since + QUANTUM => None,
        _ => Some(had.last),
    };
    let mut shards: Vec<ShardId> = turns.keys().copied().collect();
    shards.sort_by_key(|shard| key(&turns[shard]));
    shards
}

/// Max-min fair: nobody who wants more gets less than another; what nobody wants is divided evenly.
fn fill(limit: u64, wants: &BTreeMap<ShardId, u64>, order: &[ShardId]) -> BTreeMap<ShardId, u64> {
    let mut parts: BTreeMap<ShardId, u64> = wants.keys().map(|shard| (*shard, 0)).collect();
    let mut left = limit;
    loop {
        let open: Vec<ShardId> = order.iter().copied().filter(|shard| parts[shard] < wants[shard]).collect();
        let each = left.checked_div(open.len() as u64).unwrap_or(0);
        if each == 0 {
            for shard in open.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                *parts.get_mut(&shard).expect("all are there") += 1;
                left -= 1;
            }
            break;
        }
        for shard in open {
            let more = each.min(wants[&shard] - parts[&shard]);
            *parts.get_mut(&shard).expect("all are there") += more;
            left -= more;
        }
    }
    let count = parts.len() as u64;
    let (each, mut rest) = (left / count.max(1), left % count.max(1));
    for part in parts.values_mut() {
        *part += each + u64::from(rest > 0);
        rest = rest.saturating_sub(1);
    }
    parts
}

#[cfg(test)]
mod tests;
