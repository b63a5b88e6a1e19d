//! Words about regions that pull each other's calls.

use serde::{Deserialize, Serialize};

/// Who pulls how much from whom: the Global Traffic Conductor's snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrafficMatrix {
    /// Rises with each that is published. Zero: the identity, before any was.
    pub version: u64,
    /// The regions, in the order of rows and columns.
    pub regions: Vec<String>,
    /// Row i, column j: the share of its pulls that region i takes from region j, in thousandths. A row's sum is at
    /// most 1000.
    pub shares: Vec<Vec<u32>>,
}

impl TrafficMatrix {
    /// Everyone pulls from itself.
    pub fn identity(regions: Vec<String>) -> TrafficMatrix {
        let row = |at: usize| (0..regions.len()).map(|to| if at == to { 1000 } else { 0 }).collect();
        let shares = (0..regions.len()).map(row).collect();
        TrafficMatrix { version: 0, regions, shares }
    }

    /// The share of its pulls that `from` takes from `of`, in thousandths; nothing of a region that is not in it.
    pub fn share(&self, from: &str, of: &str) -> u32 {
        let at = |name| self.regions.iter().position(|region| region == name);
        let row = at(from).and_then(|from| self.shares.get(from));
        row.zip(at(of)).and_then(|(row, of)| row.get(of)).copied().unwrap_or(0)
    }

    /// What is wrong with it, if something is: its shape, or a row that shares out more than all.
    pub fn fault(&self) -> Option<String> {
        let count = self.regions.len();
        if count > REGIONS_MAX {
            return Some(format!("it has {count} regions, at most {REGIONS_MAX} allowed"));
        }
        if self.shares.len() != count || self.shares.iter().any(|row| row.len() != count) {
            return Some(format!("it is not square: {count} regions need as many rows of as many shares"));
        }
        let over = |row: &&Vec<u32>| row.iter().map(|share| u64::from(*share)).sum::<u64>() > 1000;
        self.shares.iter().find(over).map(|row| format!("a row shares out more than 1000: {row:?}"))
    }
}

/// Regions of one matrix. The paper speaks of tens.
pub const REGIONS_MAX: usize = 256;

/// A node as a region among others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RegionState {
    /// What it calls itself; empty if it is alone.
    pub region: String,
    /// It runs nothing on its own cores.
    pub drained: bool,
    /// Calls whose time has come and that run nowhere yet: the demand.
    pub waiting: u64,
    /// Slots of its own cores, none while it drains: the supply.
    pub slots: u64,
    /// Of these, slots that are free now.
    pub free: u64,
    /// Calls of other regions that it holds, waiting or running.
    pub pulled: u64,
    /// Calls of other regions that ended here since its start.
    pub pulled_ended: u64,
    /// Its calls that run in other regions now.
    pub lent: u64,
    /// The matrix in force.
    pub matrix: TrafficMatrix,
    /// To the other regions, in the order in which they were named at its start.
    pub links: Vec<LinkState>,
}

/// A link over which a region pulls.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LinkState {
    /// To which region.
    pub region: String,
    /// Where its node listens.
    pub endpoint: String,
    /// `up`, or `down`.
    pub state: String,
    /// The share of this region's pulls that is taken there, in thousandths.
    pub share: u32,
    /// Calls granted and not yet leased: how many more it may send.
    pub window: u64,
    /// Calls leased over it since the node's start.
    pub leased: u64,
    /// Of these, calls whose outcome was sent back.
    pub ended: u64,
    /// Of these, calls that were given back without an outcome.
    pub returned: u64,
    /// ms since it was last heard of.
    pub silent_ms: u64,
}
