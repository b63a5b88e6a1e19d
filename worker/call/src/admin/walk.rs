//! Words about many calls: lists, and orders in bulk, by a [`crate::filter`].

use super::CallState;
use serde::{Deserialize, Serialize};

/// What is to become of calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Dead letters are pending again, with all their attempts.
    Redrive,
    /// Dead letters are forgotten.
    Purge,
    /// Dead letters, and calls that wait to be tried again, are due now.
    Retry,
    /// Calls that wait end, and those that run are stopped by their cores.
    Cancel,
}

/// Some of the calls that a filter means, in order of start time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CallPage {
    /// The calls.
    pub calls: Vec<CallState>,
    /// How many the filter means in all.
    pub matched: u64,
    /// How many calls were looked at.
    pub examined: u64,
    /// Of these, how many could not be judged, because their records could not be read.
    pub unknown: u64,
    /// Where the next page begins; nothing if there is none.
    pub next: Option<String>,
}

/// Up to where the log of a node that is held for a copy stands on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Hold {
    /// The last group on disk. What is in it and in those before it was acknowledged; of later ones nobody knows.
    pub group: u64,
    /// Which start of the queue writes.
    pub incarnation: u32,
    /// Calls waiting or leased then.
    pub pending: u64,
    /// Dead letters then.
    pub dead_letters: u64,
    /// The node's data directory.
    pub directory: String,
}

/// What a collection of blobs has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Those that no call names, and nobody stored lately: removed, or found if it was only tried.
    pub blobs: Vec<String>,
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Calls that name a blob.
    pub named: u64,
    /// Of these, how many have a damaged record. While there is one nothing is removed: it may name any of them.
    pub unreadable: u64,
    /// A copy of the node is being made: nothing is removed meanwhile.
    pub held: bool,
    /// How many blobs there are.
    pub left: u64,
    /// Their bytes.
    pub left_bytes: u64,
}

/// What an order has come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ordered {
    /// How many calls it changed; none if it was only tried.
    pub count: u64,
    /// How many calls it meant.
    pub matched: u64,
    /// How many calls were looked at.
    pub examined: u64,
    /// Of these, how many could not be judged, because their records could not be read.
    pub unknown: u64,
    /// About how many calls there are to look at in all.
    pub of: u64,
    /// Where to go on; nothing if all calls have been looked at.
    pub next: Option<u64>,
}
