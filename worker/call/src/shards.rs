//! Which shard of a node a call is at: the policy of the QueueLB, as a snapshot that everyone caches.
//!
//! The durable queue of one host may be divided into *shards*: control nodes that each have a core, a log and a data
//! directory of their own. A call belongs to a *slot* by the bits of its id alone, so that whoever knows the id knows
//! the slot, and an idempotency key ([`CallId::of_key`]) always has the same one. The map gives each slot to one shard.
//!
//! Its law: each slot has exactly one owner; the version rises with every change; a shard that once owned a slot is
//! never forgotten, since it may hold calls of it. A new owner asks the former ones before it accepts an id, until they
//! are *released*: a former owner that has said, under a map that gives the slot to another shard, that it holds nothing
//! of the slot any more never will again. It accepts no id of the slot under that map, and maps only get newer.

use crate::ids::CallId;
use serde::{Deserialize, Serialize};

/// Slots of a map. Four of them at least for each of [`SHARDS_MAX`] shards, so that shares differ by a quarter at most.
pub const SLOTS: usize = 256;
/// Shards of one map: as many as a large host has cores to spare.
pub const SHARDS_MAX: usize = 64;

/// A shard of a node: its number, from 0, for ever.
pub type ShardId = u16;

/// A part of all ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u8);

impl Slot {
    /// The slot of a call. All bits of the id count: ids of a series differ in the lowest ones only, and those of keys
    /// have no birth time.
    pub fn of(call: CallId) -> Slot {
        let mut hash = call.0 as u64 ^ ((call.0 >> 64) as u64).rotate_left(32);
        // The finaliser of murmur3, as for function ids.
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Slot((hash >> 56) as u8)
    }
}

/// A shard, and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPlace {
    /// Where its node listens for the native protocol: `unix:/var/lib/millrace/shard-1/run/submit.sock`.
    pub endpoint: String,
    /// Its data directory, whose `run/control.json` has all other endpoints.
    pub data_dir: String,
    /// It was taken away: it has no slot, holds nothing, and does not run. Its number is not given again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// Whose a slot is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotHome {
    /// The shard that accepts its calls.
    pub owner: ShardId,
    /// Shards that accepted them before and may hold some, the last one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<ShardId>,
    /// Shards that accepted them before and hold none any more, in the order in which they were released.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<ShardId>,
}

impl SlotHome {
    /// Another shard is its owner from now on.
    fn move_to(&mut self, owner: ShardId) {
        self.former.retain(|shard| *shard != owner);
        self.released.retain(|shard| *shard != owner);
        self.former.insert(0, std::mem::replace(&mut self.owner, owner));
    }

    fn knows(&self, shard: ShardId) -> bool {
        self.owner == shard || self.former.contains(&shard) || self.released.contains(&shard)
    }

    /// Whether it may follow `before` at once, in the next map.
    fn follows(&self, before: &SlotHome) -> bool {
        // An owner becomes a former one first: it must have heard so before it can say what it holds.
        let released = |shard: &ShardId| before.former.contains(shard) || before.released.contains(shard);
        self.released.iter().all(released)
    }
}

/// Who has which slots. See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardMap {
    /// Rises with each change. Zero: there is no map, the node is alone.
    pub version: u64,
    /// The shards; a shard's number is its place here.
    pub shards: Vec<ShardPlace>,
    /// The slots, in order.
    pub slots: Vec<SlotHome>,
}

impl ShardMap {
    /// The first map: all slots are the one shard's.
    pub fn of_one(place: ShardPlace) -> ShardMap {
        ShardMap { version: 1, shards: vec![place], slots: vec![SlotHome::default(); SLOTS] }
    }

    /// The first map of shards that are all new: nobody has held a call before, so no slot has a former owner.
    ///
    /// # Panics
    /// Without a shard.
    pub fn fresh(places: Vec<ShardPlace>) -> ShardMap {
        let mut places = places.into_iter();
        let mut map = ShardMap::of_one(places.next().expect("a map has a shard")).grown(places.collect());
        map.slots.iter_mut().for_each(|slot| slot.former.clear());
        ShardMap { version: 1, ..map }
    }

    /// The next map, with more shards: they get slots of those that have most, until no two shards differ by more than
    /// one slot. Nothing else moves.
    #[must_use]
    pub fn grown(&self, places: Vec<ShardPlace>) -> ShardMap {
        let mut next = ShardMap { version: self.version + 1, ..self.clone() };
        let first_new = next.shards.len();
        next.shards.extend(places);
        let mut counts = next.counts();
        loop {
            // Of equals the first: every machine makes the same map.
            let largest = (0..counts.len()).rev().max_by_key(|shard| counts[*shard]);
            let smallest = (first_new..counts.len()).min_by_key(|shard| counts[*shard]);
            let (Some(from), Some(to)) = (largest, smallest) else { return next };
            if counts[from] < counts[to] + 2 {
                return next;
            }
            let slot = next.slots.iter_mut().rfind(|slot| usize::from(slot.owner) == from);
            slot.expect("the largest has some").move_to(to as ShardId);
            counts[from] -= 1;
            counts[to] += 1;
        }
    }

    /// The next map, by which a shard accepts no new calls: its slots are those that have fewest.
    ///
    /// # Panics
    /// If no other shard is there.
    #[must_use]
    pub fn emptied(&self, shard: ShardId) -> ShardMap {
        let mut next = ShardMap { version: self.version + 1, ..self.clone() };
        let mut counts = next.counts();
        let others: Vec<ShardId> = next.present().filter(|other| *other != shard).collect();
        for slot in next.slots.iter_mut().filter(|slot| slot.owner == shard) {
            let smallest = others.iter().min_by_key(|other| counts[usize::from(**other)]);
            let to = *smallest.expect("another shard takes them");
            slot.move_to(to);
            counts[usize::from(to)] += 1;
        }
        next
    }

    /// The next map, in which a former owner is asked about these slots no more. It has said, under this very map, that
    /// it holds nothing of them.
    ///
    /// # Panics
    /// If it is no former owner of one.
    #[must_use]
    pub fn released(&self, shard: ShardId, slots: &[u8]) -> ShardMap {
        let mut next = ShardMap { version: self.version + 1, ..self.clone() };
        for slot in slots {
            let home = &mut next.slots[usize::from(*slot)];
            let at = home.former.iter().position(|former| *former == shard);
            home.former.remove(at.expect("it had the slot before"));
            home.released.push(shard);
        }
        next
    }

    /// The next map, in which a shard is not there any more.
    ///
    /// # Panics
    /// If it has a slot, or may hold something.
    #[must_use]
    pub fn without(&self, shard: ShardId) -> ShardMap {
        assert!(!self.may_hold(shard), "it is released from all first");
        let mut next = ShardMap { version: self.version + 1, ..self.clone() };
        next.shards[usize::from(shard)].gone = true;
        next
    }

    /// Whether a shard owns a slot, or is asked about one.
    pub fn may_hold(&self, shard: ShardId) -> bool {
        self.slots.iter().any(|home| home.owner == shard || home.former.contains(&shard))
    }

    /// The slots that a shard had before, and may hold calls of.
    pub fn left_by(&self, shard: ShardId) -> impl Iterator<Item = u8> + '_ {
        let left = move |home: &SlotHome| home.former.contains(&shard);
        (0..=u8::MAX).zip(&self.slots).filter(move |(_, home)| left(home)).map(|(slot, _)| slot)
    }

    /// The shards that are there, by number.
    pub fn present(&self) -> impl Iterator<Item = ShardId> + '_ {
        (0..).zip(&self.shards).filter(|(_, place)| !place.gone).map(|(shard, _)| shard)
    }

    /// How many slots each shard has.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.shards.len()];
        self.slots.iter().for_each(|slot| counts[usize::from(slot.owner)] += 1);
        counts
    }

    /// Whether there are several shards.
    pub fn is_divided(&self) -> bool {
        self.shards.len() > 1
    }

    /// Whose a slot is. Of a map that has no [`ShardMap::fault`].
    pub fn home(&self, slot: Slot) -> &SlotHome {
        &self.slots[usize::from(slot.0)]
    }

    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<String> {
        if self.version == 0 {
            return Some("its version is 0".into());
        }
        if self.shards.is_empty() || self.shards.len() > SHARDS_MAX {
            return Some(format!("it has {} shards; 1 to {SHARDS_MAX} are allowed", self.shards.len()));
        }
        if self.slots.len() != SLOTS {
            return Some(format!("it has {} slots instead of {SLOTS}", self.slots.len()));
        }
        let is_there = |shard: &ShardId| usize::from(*shard) < self.shards.len();
        let is_sound = |home: &SlotHome| {
            let mut seen = [&home.former[..], &home.released].concat();
            seen.push(home.owner);
            let count = seen.len();
            seen.sort_unstable();
            seen.dedup();
            seen.len() == count && seen.iter().all(is_there)
        };
        if let Some(wrong) = self.slots.iter().position(|home| !is_sound(home)) {
            let what = "names a shard twice, or one that is not there";
            return Some(format!("slot {wrong} {what}: {:?}", self.slots[wrong]));
        }
        let needed = |(shard, place): (ShardId, &ShardPlace)| place.gone && self.may_hold(shard);
        let wrong = (0..).zip(&self.shards).position(needed)?;
        Some(format!("shard {wrong} is gone, and may hold calls"))
    }

    /// What forbids to go from `earlier` to this one, if something does: a version that is not higher, a shard that is
    /// forgotten, elsewhere, or back, a slot that forgot who had it, an owner that was released before it could know.
    pub fn breach(&self, earlier: &ShardMap) -> Option<String> {
        if self.version <= earlier.version {
            return Some(format!("version {} is not above {}", self.version, earlier.version));
        }
        let stays = |(now, before): (&ShardPlace, &ShardPlace)| {
            (&now.endpoint, &now.data_dir) == (&before.endpoint, &before.data_dir) && now.gone >= before.gone
        };
        let are_there = self.shards.len() >= earlier.shards.len();
        if !are_there || !self.shards.iter().zip(&earlier.shards).all(stays) {
            return Some("a shard of the earlier map is forgotten, back, or in another place".into());
        }
        let forgets = |(now, before): (&SlotHome, &SlotHome)| {
            let had = before.former.iter().chain(&before.released).chain([&before.owner]);
            had.into_iter().any(|shard| !now.knows(*shard))
        };
        if let Some(wrong) = self.slots.iter().zip(&earlier.slots).position(forgets) {
            return Some(format!("slot {wrong} forgets who had it before"));
        }
        if self.version > earlier.version + 1 {
            // Maps between them were not seen here: what they changed one after the other looks like one change.
            return None;
        }
        let wrong = self.slots.iter().zip(&earlier.slots).position(|(now, before)| !now.follows(before))?;
        Some(format!("slot {wrong} releases a shard that owned it until now"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::FunctionId;
    use proptest::prelude::*;

    fn places(numbers: std::ops::Range<usize>) -> Vec<ShardPlace> {
        let place = |n| ShardPlace { endpoint: format!("unix:/{n}"), data_dir: format!("/{n}"), gone: false };
        numbers.map(place).collect()
    }

    proptest! {
        #[test]
        fn growth_keeps_the_law_and_moves_no_more_than_it_must(
            begin in 1usize..9, steps in prop::collection::vec(1usize..6, 0..8), fresh: bool,
        ) {
            let mut map = match fresh {
                true => ShardMap::fresh(places(0..begin)),
                false => ShardMap::of_one(places(0..1).remove(0)),
            };
            for more in steps {
                let count = map.shards.len();
                let next = map.grown(places(count..count + more));
                prop_assert_eq!((next.fault(), next.breach(&map)), (None, None));
                prop_assert!(map.breach(&next).is_some(), "there is no way back");
                let moved: Vec<_> =
                    next.slots.iter().zip(&map.slots).filter(|(now, before)| now != before).collect();
                for (now, before) in &moved {
                    prop_assert!(usize::from(now.owner) >= count, "slots move to new shards only");
                    let former: Vec<_> = std::iter::once(before.owner).chain(before.former.clone()).collect();
                    prop_assert_eq!(&now.former, &former);
                }
                let counts = next.counts();
                prop_assert_eq!(counts.iter().sum::<usize>(), SLOTS);
                prop_assert_eq!(counts[count..].iter().sum::<usize>(), moved.len());
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{:?}", counts);
                map = next;
            }
        }

        #[test]
        fn a_key_and_an_id_have_one_slot_whatever_the_map(key in "[a-z]{1,12}", id: u128) {
            let of_key = || Slot::of(CallId::of_key(FunctionId::of("default", "f"), &key));
            prop_assert_eq!(of_key(), of_key());
            prop_assert!(usize::from(Slot::of(CallId(id)).0) < SLOTS);
        }
    }

    /// What a node does, in small: shards that accept ids by the map they know, and hear of maps when they like.
    struct World {
        maps: Vec<ShardMap>,
        /// By shard: the map it goes by, and the slots of ids that it holds.
        knows: Vec<usize>,
        holds: Vec<Vec<u8>>,
    }

    impl World {
        fn newest(&self) -> &ShardMap {
            self.maps.last().unwrap()
        }

        /// What a shard may say that it is to be released from: only under the newest map.
        fn clear(&self, shard: usize) -> Vec<u8> {
            let knows = &self.maps[self.knows[shard]];
            if knows.version != self.newest().version {
                return Vec::new();
            }
            knows.left_by(shard as ShardId).filter(|slot| !self.holds[shard].contains(slot)).collect()
        }

        /// Whether an id of this slot that somebody holds would be found by whoever accepts ids of it now, by any map that
        /// a shard goes by.
        fn check(&self) {
            for (shard, knows) in self.knows.iter().enumerate() {
                for slot in 0..=u8::MAX {
                    let home = self.maps[*knows].home(Slot(slot));
                    if usize::from(home.owner) != shard {
                        continue;
                    }
                    for (other, holds) in self.holds.iter().enumerate() {
                        let newer = self.maps[self.knows[other]].version > self.maps[*knows].version;
                        let asked = home.former.contains(&(other as ShardId));
                        // One that may own the slot by a newer map asks this shard, which then denies nothing.
                        assert!(
                            other == shard || asked || newer || !holds.contains(&slot),
                            "shard {shard} accepts ids of slot {slot}, and {other} holds one"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nobody_is_released_from_what_it_holds_or_may_still_accept(
            steps in prop::collection::vec((0u8..6, any::<u8>(), any::<u8>()), 1..200),
        ) {
            let first = ShardMap::fresh(places(0..3));
            let mut world = World { maps: vec![first], knows: vec![0; 3], holds: vec![Vec::new(); 3] };
            for (what, a, b) in steps {
                let shard = usize::from(a) % world.knows.len();
                let newest = world.newest().clone();
                let present: Vec<ShardId> = newest.present().collect();
                let next = match what {
                    // It accepts an id if it owns the slot by its map: a former owner would be asked.
                    0 => {
                        if usize::from(world.maps[world.knows[shard]].home(Slot(b)).owner) == shard {
                            world.holds[shard].push(b);
                        }
                        continue;
                    }
                    1 => {
                        world.holds[shard].retain(|slot| slot % 7 != b % 7);
                        continue;
                    }
                    2 => {
                        let at = world.knows[shard];
                        world.knows[shard] = (at + usize::from(b) % 4).min(world.maps.len() - 1);
                        continue;
                    }
                    3 if world.knows.len() < 8 => {
                        let count = newest.shards.len();
                        world.knows.push(world.maps.len());
                        world.holds.push(Vec::new());
                        newest.grown(places(count..count + 1))
                    }
                    4 if present.len() > 1 => newest.emptied(present[usize::from(a) % present.len()]),
                    5 => match world.clear(shard) {
                        clear if clear.is_empty() => continue,
                        clear => newest.released(shard as ShardId, &clear),
                    },
                    _ => continue,
                };
                prop_assert_eq!((next.fault(), next.breach(&newest)), (None, None));
                let seen = &world.maps[world.knows[shard]];
                prop_assert_eq!(next.breach(seen), None, "also for one that missed some");
                prop_assert!(newest.breach(&next).is_some(), "there is no way back");
                world.maps.push(next);
                world.check();
            }
        }

        #[test]
        fn a_shard_that_is_emptied_and_released_can_go(count in 2usize..6, gone in 0usize..6, more in 1usize..4) {
            let gone = (gone % count) as ShardId;
            let map = ShardMap::fresh(places(0..count)).emptied(gone);
            let counts = map.counts();
            let others = counts.iter().enumerate().filter(|(shard, _)| *shard != usize::from(gone));
            let others: Vec<usize> = others.map(|(_, count)| *count).collect();
            prop_assert!(counts[usize::from(gone)] == 0 && others.iter().max().unwrap() - others.iter().min().unwrap() <= 1);
            let left: Vec<u8> = map.left_by(gone).collect();
            let released = map.released(gone, &left);
            prop_assert!(map.may_hold(gone) && !released.may_hold(gone));
            let without = released.without(gone);
            prop_assert_eq!((without.fault(), without.breach(&released), without.breach(&map)), (None, None, None));
            prop_assert!(!without.present().any(|shard| shard == gone));
            // Its number is not given again, and it gets nothing any more.
            let grown = without.grown(places(count..count + more));
            prop_assert_eq!((grown.fault(), grown.breach(&without)), (None, None));
            prop_assert_eq!((grown.counts()[usize::from(gone)], grown.present().count()), (0, count - 1 + more));
        }
    }

    #[test]
    #[should_panic(expected = "and 0 holds one")]
    fn canary_one_is_released_that_holds_something() {
        let first = ShardMap::fresh(places(0..1));
        let moved = first.grown(places(1..2));
        let slot = moved.left_by(0).next().unwrap();
        let released = moved.released(0, &[slot]);
        World { maps: vec![first, moved, released], knows: vec![2, 2], holds: vec![vec![slot], vec![]] }
            .check();
    }

    #[test]
    fn ids_of_a_series_are_spread_over_all_slots() {
        let born = CallId::new(1_700_000_000_000, 0xdead_beef_0000);
        let mut counts = [0u32; SLOTS];
        (0..256 * 100).for_each(|n| counts[usize::from(Slot::of(CallId(born.0 + n)).0)] += 1);
        // A hundred expected, ten of standard deviation: five of them.
        assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
    }

    #[test]
    fn slots_do_not_change() {
        // Whose a call is stands in maps and logs on disk: another hash would look for it in the wrong place.
        assert_eq!([0, 1, u128::MAX].map(|id| Slot::of(CallId(id)).0), [0, 180, 0]);
    }

    #[test]
    fn a_map_that_breaks_the_law_is_told_how() {
        let good = ShardMap::fresh(places(0..3));
        let broken = |change: &dyn Fn(&mut ShardMap)| {
            let mut map = good.clone();
            change(&mut map);
            map.fault().unwrap_or_default()
        };
        assert!(broken(&|map| map.version = 0).contains("version"));
        assert!(broken(&|map| map.shards.clear()).contains("0 shards"));
        assert!(broken(&|map| drop(map.slots.pop())).contains("255 slots"));
        assert!(broken(&|map| map.slots[7].owner = 3).contains("slot 7"));
        assert!(broken(&|map| map.slots[9].former = vec![map.slots[9].owner]).contains("slot 9"));
        let mut next = good.grown(places(3..4));
        let moved = next.slots.iter().position(|slot| slot.owner == 3).unwrap();
        next.slots[moved].former.clear();
        assert_eq!(next.breach(&good), Some(format!("slot {moved} forgets who had it before")));
        let mut unheard = ShardMap { version: good.version + 1, ..good.clone() };
        let owner = std::mem::replace(&mut unheard.slots[5].owner, 2);
        assert_ne!(owner, 2);
        unheard.slots[5].released.push(owner);
        assert_eq!(unheard.breach(&good).unwrap(), "slot 5 releases a shard that owned it until now");
        let late = ShardMap { version: 9, ..unheard };
        assert_eq!(late.breach(&good), None, "in several steps, of which each may have been right");
        let gone = broken(&|map| map.shards[1].gone = true);
        assert_eq!(gone, "shard 1 is gone, and may hold calls");
        let elsewhere = ShardMap { version: 2, shards: places(1..4), ..good.clone() };
        assert!(elsewhere.breach(&good).unwrap().contains("in another place"));
    }
}
