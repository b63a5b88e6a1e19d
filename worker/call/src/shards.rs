//! Which shard of a node a call is at: the policy of the QueueLB, as a snapshot that everyone caches.
//!
//! The durable queue of one host may be divided into *shards*: control nodes that each have a core, a log and a data
//! directory of their own. A call belongs to a *slot* by the bits of its id alone, so that whoever knows the id knows
//! the slot, and an idempotency key ([`CallId::of_key`]) always has the same one. The map gives each slot to one shard.
//!
//! Its law: each slot has exactly one owner; the version rises with every change; a shard that once owned a slot is
//! never forgotten, since it may hold calls of it. A new owner asks the former ones before it accepts an id.

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
}

/// Whose a slot is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotHome {
    /// The shard that accepts its calls.
    pub owner: ShardId,
    /// Shards that accepted them before, the last one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<ShardId>,
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
            let slot = slot.expect("the largest has some");
            slot.former.insert(0, slot.owner);
            slot.owner = to as ShardId;
            counts[from] -= 1;
            counts[to] += 1;
        }
    }

    /// The shards that are there, by number.
    pub fn present(&self) -> impl Iterator<Item = ShardId> + '_ {
        (0..).zip(&self.shards).map(|(shard, _)| shard)
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
            let mut seen = home.former.clone();
            seen.push(home.owner);
            let count = seen.len();
            seen.sort_unstable();
            seen.dedup();
            seen.len() == count && seen.iter().all(is_there)
        };
        let wrong = self.slots.iter().position(|home| !is_sound(home))?;
        Some(format!("slot {wrong} names a shard twice, or one that is not there: {:?}", self.slots[wrong]))
    }

    /// What forbids to go from `earlier` to this one, if something does: a version that is not higher, a shard that is
    /// gone or elsewhere, a slot that forgot who had it.
    pub fn breach(&self, earlier: &ShardMap) -> Option<String> {
        if self.version <= earlier.version {
            return Some(format!("version {} is not above {}", self.version, earlier.version));
        }
        if self.shards.get(..earlier.shards.len()) != Some(&earlier.shards[..]) {
            return Some("a shard of the earlier map is gone, or in another place".into());
        }
        let forgets = |(now, before): (&SlotHome, &SlotHome)| {
            let known = |shard: &ShardId| *shard == now.owner || now.former.contains(shard);
            !(known(&before.owner) && before.former.iter().all(known))
        };
        let wrong = self.slots.iter().zip(&earlier.slots).position(forgets)?;
        Some(format!("slot {wrong} forgets who had it before"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::FunctionId;
    use proptest::prelude::*;

    fn places(numbers: std::ops::Range<usize>) -> Vec<ShardPlace> {
        numbers.map(|n| ShardPlace { endpoint: format!("unix:/{n}"), data_dir: format!("/{n}") }).collect()
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
        let elsewhere = ShardMap { version: 2, shards: places(1..4), ..good.clone() };
        assert!(elsewhere.breach(&good).unwrap().contains("in another place"));
    }
}
