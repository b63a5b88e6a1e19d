//! What operators ask of a shard, and the maps that come into force.

use super::Link;
use crate::answers::Refusal;
use crate::node::Node;
use call::admin::{Answer, ShardLink, ShardState};
use call::{ShardId, ShardMap};
use driver::Driver;

impl<D: Driver> Node<D> {
    /// This node as a shard.
    pub(crate) fn shard_state(&self) -> ShardState {
        let shards = &self.shards;
        let link = |(link, shard): (&Link, ShardId)| {
            let is_up = link.connection.as_ref().is_some_and(|there| there.is_up);
            ShardLink { shard, state: if is_up { "up" } else { "down" }.into() }
        };
        let is_there = |shard: ShardId| !shards.map.shards[usize::from(shard)].gone;
        let others = shards.links.iter().zip(0..);
        let others = others.filter(|(_, shard)| Some(*shard) != shards.number && is_there(*shard));
        ShardState {
            shard: shards.number,
            map: shards.map.clone(),
            passed: shards.passed,
            asked: shards.asked,
            found: shards.found,
            awaited: shards.awaited.len() as u64,
            clear: shards.release.clear(),
            links: others.map(link).collect(),
        }
    }

    /// A newer map is in force from now on. The one in force may be said again.
    pub(crate) fn map_published(&mut self, map: ShardMap) -> Result<Answer, Refusal> {
        if self.shards.number.is_none() {
            return Err(Refusal::new("conflict", "this node is alone, and no shard"));
        }
        if let Some(fault) = map.fault() {
            return Err(Refusal::new("bad-request", format!("the map is none: {fault}")));
        }
        if map != self.shards.map {
            if let Some(breach) = map.breach(&self.shards.map) {
                return Err(Refusal::new("conflict", format!("the map in force forbids it: {breach}")));
            }
            self.shards.links.extend(map.shards[self.shards.links.len()..].iter().map(Link::to));
            for (link, _) in self.shards.links.iter_mut().zip(&map.shards).filter(|(_, place)| place.gone) {
                link.endpoint = None;
            }
            self.shards.release.map_in_force(&map, self.shards.number);
            self.shards.map = map;
            if self.shards.table.version == 0 {
                self.go_by(super::shares::untold(&self.shards.map));
            }
            self.note(&format!("shard map {} is in force", self.shards.map.version));
            self.pull_from_siblings();
        }
        Ok(Answer::Shards(self.shard_state()))
    }

    /// Cores here take calls of all other shards, by equal shares.
    pub(crate) fn pull_from_siblings(&mut self) {
        let Some(number) = self.shards.number else { return };
        let places = self.shards.map.shards.iter().zip(0..);
        let places = places.filter(|(place, shard)| *shard != number && !place.gone);
        let siblings = places.map(|(place, shard)| (super::region_name(shard), place.endpoint.parse()));
        let siblings = siblings.filter_map(|(name, endpoint)| Some((name, endpoint.ok()?))).collect();
        self.regions.join(siblings);
    }
}
