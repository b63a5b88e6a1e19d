//! Words about the shards of one node.

use crate::shards::{ShardId, ShardMap};
use serde::{Deserialize, Serialize};

/// A node as one shard among others. Counters count since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShardState {
    /// Its number; none if it is alone.
    pub shard: Option<ShardId>,
    /// The map in force.
    pub map: ShardMap,
    /// Submits that came here and were passed on to their shard.
    pub passed: u64,
    /// Submits of whose id former owners of its slot were asked first.
    pub asked: u64,
    /// Of these, those that a former owner held: duplicates.
    pub found: u64,
    /// Calls whose verdict or outcome is awaited from another shard now.
    pub awaited: u64,
    /// Slots that it had before and of which it holds nothing any more, under this map: nobody need ask it about them.
    #[serde(default)]
    pub clear: Vec<u8>,
    /// To the other shards, by number.
    pub links: Vec<ShardLink>,
}

/// The way to another shard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShardLink {
    /// Which.
    pub shard: ShardId,
    /// `up`, or `down`.
    pub state: String,
}
