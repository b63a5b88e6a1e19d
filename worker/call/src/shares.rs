//! Shares of limits: a limit of a function or tenant holds over all shards of a node, so each shard keeps to a part of it.
//!
//! A [`ShareTable`] says one shard's parts. What it does not name is divided evenly among the shards of its rosters, which
//! every shard can do by itself: parts of one roster add up to the limit, exactly. Where a table has two rosters (a shard
//! joins or leaves) the lesser part counts, so that shards which know the old one, both or the new one never have more
//! than the limit together.

use crate::FunctionId;
use crate::shards::ShardId;
use serde::{Deserialize, Serialize};

/// What a quota is divided into: parts of a million of its calls per second, and of its CPU.
pub const QUOTA_PARTS: u64 = 1_000_000;
/// Rows of a table: twice the functions that are busy at once on a large node.
pub const ROWS_MAX: usize = 40_000;
/// Rosters of a table: the one before, and the one to come.
pub const ROSTERS_MAX: usize = 2;

/// Which limit of a function, or of a tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitKind {
    /// Calls of a function that run at once.
    Concurrency,
    /// Calls per second and CPU of a function, in [`QUOTA_PARTS`].
    Quota,
    /// Pending calls of a function.
    Backlog,
    /// Their bytes.
    BacklogBytes,
    /// Pending calls of a tenant.
    TenantBacklog,
    /// Their bytes.
    TenantBacklogBytes,
}

/// Which limit, and whose: `namespace/name` of a function, or the name of a tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LimitName {
    /// Which.
    pub kind: LimitKind,
    /// Whose.
    pub of: String,
}

/// A part of a limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Of which.
    #[serde(flatten)]
    pub name: LimitName,
    /// What was divided.
    pub limit: u64,
    /// The part.
    pub share: u64,
}

/// One shard's parts of all limits. See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareTable {
    /// Rises with each table of a shard.
    pub version: u64,
    /// Who divides evenly what is not named.
    pub rosters: Vec<Vec<ShardId>>,
    /// What is divided otherwise, by name.
    pub rows: Vec<Share>,
}

/// How a shard stands with a limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareUse {
    /// Which.
    #[serde(flatten)]
    pub name: LimitName,
    /// As this shard knows it.
    pub limit: u64,
    /// Its part in force.
    pub share: u64,
    /// How much of it is in use; more than the part for a while after that was lowered.
    pub used: u64,
    /// How much it could use now.
    pub wanted: u64,
}

/// What a shard says about shares.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SharesState {
    /// In force. Version 0: it was never told one, and divides all evenly among the shards of its map.
    pub table: ShareTable,
    /// Limits that are in use here, or wanted.
    pub uses: Vec<ShareUse>,
}

impl ShareTable {
    /// The part of a shard.
    pub fn share(&self, shard: ShardId, name: &LimitName, limit: u64) -> u64 {
        match self.rows.binary_search_by(|row| row.name.cmp(name)) {
            Err(_) => even(&self.rosters, shard, name, limit),
            Ok(at) => {
                let row = &self.rows[at];
                if row.limit == limit { row.share } else { part(row.share, limit, row.limit) }
            }
        }
    }

    /// What is wrong with it, if something is.
    pub fn fault(&self) -> Option<String> {
        if self.rosters.is_empty() || self.rosters.len() > ROSTERS_MAX {
            return Some(format!("it has {} rosters; 1 to {ROSTERS_MAX} are allowed", self.rosters.len()));
        }
        if self.rows.len() > ROWS_MAX {
            return Some(format!("it has {} rows; {ROWS_MAX} are allowed", self.rows.len()));
        }
        if !self.rows.is_sorted_by(|a, b| a.name < b.name) {
            return Some("its rows are not in the order of their names".into());
        }
        let wrong = self.rows.iter().find(|row| row.share > row.limit)?;
        Some(format!("a part of {} is more than the limit", wrong.name.of))
    }
}

/// The part of a shard where all of each roster have the same: the least of the rosters', none if it is missing in one.
pub fn even(rosters: &[Vec<ShardId>], shard: ShardId, name: &LimitName, limit: u64) -> u64 {
    let of = |roster: &Vec<ShardId>| -> u64 {
        let Some(at) = roster.iter().position(|member| *member == shard) else { return 0 };
        // What cannot be divided is not the first shard's for all limits.
        let count = roster.len() as u64;
        let place = (at as u64 + FunctionId::of("", &name.of).0 % count) % count;
        part(limit, place + 1, count) - part(limit, place, count)
    };
    rosters.iter().map(of).min().unwrap_or(0)
}

/// `number * of / whole`, rounded down.
fn part(number: u64, of: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(number) * u128::from(of) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(of: &str) -> LimitName {
        LimitName { kind: LimitKind::Concurrency, of: of.into() }
    }

    proptest! {
        #[test]
        fn even_parts_make_up_the_limit(limit: u64, count in 1u16..65, of in "[a-z]{1,8}") {
            let roster: Vec<ShardId> = (0..count).collect();
            let parts: Vec<u64> =
                roster.iter().map(|shard| even(std::slice::from_ref(&roster), *shard, &name(&of), limit)).collect();
            prop_assert_eq!(parts.iter().map(|part| u128::from(*part)).sum::<u128>(), u128::from(limit));
            let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
            prop_assert!(most - least <= 1);
        }

        #[test]
        fn shards_that_know_different_rosters_have_no_more_together(
            limit in 0u64..1000, before in 1u16..9, after in 1u16..9, knows in prop::collection::vec(0u8..2, 9),
            first: bool,
        ) {
            let (old, new): (Vec<ShardId>, Vec<ShardId>) = ((0..before).collect(), (0..after).collect());
            let both = vec![old.clone(), new.clone()];
            // While some know the old one alone nobody knows the new one alone.
            let alone = if first { vec![old] } else { vec![new] };
            let sum: u64 = (0..9u16).map(|shard| {
                let rosters = if knows[usize::from(shard)] == 0 { &both } else { &alone };
                even(rosters, shard, &name("f"), limit)
            }).sum();
            prop_assert!(sum <= limit);
        }

        #[test]
        fn parts_of_another_limit_stay_below_it(limit in 1u64..1000, now in 0u64..1000, cut in 0u64..1000) {
            let first = cut.min(limit);
            let table = |share| ShareTable {
                version: 1,
                rosters: vec![vec![0, 1]],
                rows: vec![Share { name: name("f"), limit, share }],
            };
            let sum = table(first).share(0, &name("f"), now) + table(limit - first).share(1, &name("f"), now);
            prop_assert!(sum <= now && (now != limit || sum == limit));
        }
    }

    #[test]
    fn a_table_that_cannot_be_is_told() {
        let row = |of: &str, share| Share { name: name(of), limit: 4, share };
        let table = |rosters, rows| ShareTable { version: 1, rosters, rows }.fault();
        assert_eq!(table(vec![vec![0]], vec![row("a", 4), row("b", 0)]), None);
        assert!(table(vec![], vec![]).unwrap().contains("0 rosters"));
        assert!(table(vec![vec![0]], vec![row("b", 4), row("a", 0)]).unwrap().contains("order"));
        assert!(table(vec![vec![0]], vec![row("a", 5)]).unwrap().contains("more than the limit"));
    }
}
