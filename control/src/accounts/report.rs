//! Usage as operators and charge-back programs see it.

use super::{Key, Sums};
use call::Status;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What rows are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// A row for each function and tenant.
    #[default]
    Function,
    /// A row for each tenant.
    Tenant,
}

/// Which usage is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UsageQuery {
    /// Only of these functions, `namespace/name`; of all if empty.
    pub functions: Vec<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// What rows are made of.
    pub by: Grouping,
    /// From the hour of this time on (Unix ns); from the beginning if not said.
    pub since: Option<u64>,
}

impl UsageQuery {
    fn wants(&self, (function, tenant): &Key) -> bool {
        (self.functions.is_empty() || self.functions.contains(function))
            && self.tenant.as_ref().is_none_or(|only| only == tenant)
    }
}

/// Usage over some time. Stable: fields are added, none is taken away or changes its meaning.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct UsageReport {
    /// Unix ns: the beginning of an hour, or of all accounting here.
    pub from: u64,
    /// Unix ns: when it was made.
    pub to: u64,
    /// Whether `from` is as early as was asked, and everything since is known.
    pub complete: bool,
    /// What rows are made of.
    pub by: Grouping,
    /// One for each function and tenant, or for each tenant, by name; without those that used nothing.
    pub rows: Vec<UsageRow>,
    /// All rows together.
    pub total: UsageRow,
}

impl UsageReport {
    /// The report of two shards of one node: rows of one function and tenant are added up.
    #[must_use]
    pub fn and(self, other: UsageReport) -> UsageReport {
        let from = match (self.complete, other.complete) {
            (true, true) => self.from.min(other.from),
            (true, false) => other.from,
            (false, true) => self.from,
            (false, false) => self.from.max(other.from),
        };
        let mut rows: BTreeMap<(String, String), UsageRow> = BTreeMap::new();
        for row in self.rows.into_iter().chain(other.rows) {
            rows.entry((row.function.clone(), row.tenant.clone())).or_default().add(row);
        }
        let mut total = self.total;
        total.add(other.total);
        UsageReport {
            from,
            to: self.to.max(other.to),
            complete: self.complete && other.complete,
            by: self.by,
            rows: rows.into_values().collect(),
            total,
        }
    }
}

/// What one function under one tenant, or one tenant, used.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct UsageRow {
    /// `namespace/name`; empty if the row is a tenant's or the total.
    pub function: String,
    /// Who is charged; empty in the total.
    pub tenant: String,
    /// Calls that ended for good.
    pub calls: u64,
    /// These by how they ended: `ok`, or why they are dead letters.
    pub calls_by_status: BTreeMap<String, u64>,
    /// Executions, those that were tried again included.
    pub executions: u64,
    /// These by how they ended.
    pub executions_by_status: BTreeMap<String, u64>,
    /// Executions for which an instance or sandbox was made.
    pub cold_starts: u64,
    /// Time in which sandboxes were initialised for calls, ns.
    pub init_ns: u64,
    /// CPU time, ns.
    pub cpu_ns: u64,
    /// CPU time, ms.
    pub cpu_ms: f64,
    /// Time between first and last instruction, ns.
    pub run_ns: u64,
    /// Peak memory of each execution times its run time, byte-seconds.
    pub memory_byte_s: u64,
    /// The same in MB-s; a MB has 10^6 bytes.
    pub memory_mb_s: f64,
    /// Bytes received from the network.
    pub bytes_in: u64,
    /// Bytes sent to the network.
    pub bytes_out: u64,
    /// The same in GB; a GB has 10^9 bytes.
    pub gb_out: f64,
    /// Attempts to reach or to serve what no grant covers.
    pub denied: u64,
}

impl UsageRow {
    /// Adds what another shard counted of the same function and tenant, whose names it takes.
    fn add(&mut self, other: UsageRow) {
        let add = |counts: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>| {
            more.into_iter().for_each(|(status, count)| *counts.entry(status).or_default() += count);
        };
        (self.function, self.tenant) = (other.function, other.tenant);
        self.calls += other.calls;
        add(&mut self.calls_by_status, other.calls_by_status);
        self.executions += other.executions;
        add(&mut self.executions_by_status, other.executions_by_status);
        self.cold_starts += other.cold_starts;
        self.init_ns += other.init_ns;
        self.cpu_ns += other.cpu_ns;
        self.cpu_ms = self.cpu_ns as f64 / 1e6;
        self.run_ns += other.run_ns;
        self.memory_byte_s += other.memory_byte_s;
        self.memory_mb_s += other.memory_mb_s;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.gb_out = self.bytes_out as f64 / 1e9;
        self.denied += other.denied;
    }

    fn new(function: &str, tenant: &str, sums: &Sums) -> UsageRow {
        let by_status = |counts: &[u64]| {
            let named = Status::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
            named.map(|(status, count)| (status.name().to_owned(), *count)).collect()
        };
        UsageRow {
            function: function.to_owned(),
            tenant: tenant.to_owned(),
            calls: sums.calls.iter().sum(),
            calls_by_status: by_status(&sums.calls),
            executions: sums.executions.iter().sum(),
            executions_by_status: by_status(&sums.executions),
            cold_starts: sums.cold_starts,
            init_ns: sums.init_ns,
            cpu_ns: sums.cpu_ns,
            cpu_ms: sums.cpu_ns as f64 / 1e6,
            run_ns: sums.run_ns,
            memory_byte_s: sums.memory_byte_s,
            memory_mb_s: (sums.memory_byte_s as f64 + sums.memory_rest_byte_ns as f64 / 1e9) / 1e6,
            bytes_in: sums.bytes_in,
            bytes_out: sums.bytes_out,
            gb_out: sums.bytes_out as f64 / 1e9,
            denied: sums.denied,
        }
    }
}

/// Rows as the query wants them, and their total.
pub fn rows(query: &UsageQuery, sums: &BTreeMap<Key, Sums>) -> (Vec<UsageRow>, UsageRow) {
    let mut groups: BTreeMap<(&str, &str), Sums> = BTreeMap::new();
    let mut total = Sums::default();
    for (key, used) in sums.iter().filter(|(key, used)| query.wants(key) && !used.is_zero()) {
        let function = if query.by == Grouping::Function { key.0.as_str() } else { "" };
        groups.entry((function, &key.1)).or_default().add(used);
        total.add(used);
    }
    let rows =
        groups.iter().map(|((function, tenant), sums)| UsageRow::new(function, tenant, sums)).collect();
    (rows, UsageRow::new("", "", &total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::STATUSES;

    fn used(cpu_ns: u64, traps: u64) -> Sums {
        let mut executions = [0; STATUSES];
        (executions[0], executions[Status::Trap as usize]) = (1, traps);
        Sums { cpu_ns, executions, ..Sums::default() }
    }

    #[test]
    fn rows_are_grouped_filtered_and_summed() {
        let key = |function: &str, tenant: &str| (function.to_owned(), tenant.to_owned());
        let sums: BTreeMap<Key, Sums> = [
            (key("n/a", "x"), used(1_000_000, 0)),
            (key("n/b", "x"), used(2_000_000, 3)),
            (key("n/b", "y"), used(4_000_000, 0)),
            (key("n/c", "y"), Sums::default()),
        ]
        .into();
        let (all, total) = rows(&UsageQuery::default(), &sums);
        assert_eq!((all.len(), total.cpu_ms, total.executions), (3, 7.0, 6));
        assert_eq!(all[1].executions_by_status, [("ok".into(), 1), ("trap".into(), 3)].into());
        let by_tenant = UsageQuery { by: Grouping::Tenant, ..UsageQuery::default() };
        let (tenants, _) = rows(&by_tenant, &sums);
        let seen: Vec<_> =
            tenants.iter().map(|r| (r.function.as_str(), r.tenant.as_str(), r.cpu_ms)).collect();
        assert_eq!(seen, [("", "x", 3.0), ("", "y", 4.0)]);
        let only = UsageQuery { functions: vec!["n/b".into()], tenant: Some("x".into()), ..by_tenant };
        assert_eq!(rows(&only, &sums).1.cpu_ms, 2.0);
    }

    #[test]
    fn reports_of_shards_come_to_what_one_node_would_say() {
        let key = |function: &str, tenant: &str| (function.to_owned(), tenant.to_owned());
        let first: BTreeMap<Key, Sums> =
            [(key("n/a", "x"), used(1_000_000, 1)), (key("n/b", "x"), used(2_000_000, 0))].into();
        let second: BTreeMap<Key, Sums> =
            [(key("n/b", "x"), used(4_000_000, 2)), (key("n/c", "y"), used(8_000_000, 0))].into();
        let mut whole = first.clone();
        second.iter().for_each(|(key, sums)| whole.entry(key.clone()).or_default().add(sums));
        let report = |sums: &BTreeMap<Key, Sums>, from| {
            let (rows, total) = rows(&UsageQuery::default(), sums);
            UsageReport { from, to: from + 9, complete: true, by: Grouping::Function, rows, total }
        };
        let both = report(&first, 7).and(report(&second, 3));
        assert_eq!(both, UsageReport { from: 3, to: 16, ..report(&whole, 3) });
        let late = UsageReport { complete: false, ..report(&second, 5) };
        let both = report(&first, 3).and(late);
        assert_eq!((both.from, both.complete), (5, false), "only from then on all is known");
    }
}
