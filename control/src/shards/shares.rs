//! This shard's parts of limits that hold over all shards: what it keeps to, and how it stands with them.
//!
//! Parts are told by one decider ([`controllers::shares`], run by `millrace up`), are on disk before they are in force, and
//! stay in force without it. Calls that cores here took over from another shard count there, so as many of them may run
//! beside the own part.

use super::Shards;
use crate::answers::Refusal;
use crate::node::Node;
use call::admin::Answer;
use call::shares::{LimitKind, LimitName, QUOTA_PARTS, ShareTable, ShareUse, SharesState, even};
use call::{FunctionSpec, ShardMap};
use driver::Driver;
use durableq::Backlog;
use scheduler::{FunctionRef, Input};
use std::collections::BTreeSet;

/// The division that all shards of a map know without being told.
pub(super) fn untold(map: &ShardMap) -> ShareTable {
    ShareTable { version: 0, rosters: vec![map.present().collect()], rows: Vec::new() }
}

fn called(spec: &FunctionSpec) -> String {
    format!("{}/{}", spec.namespace, spec.name)
}

impl Shards {
    /// This shard's part of a limit; all of it if the node is alone.
    pub(crate) fn part(&self, kind: LimitKind, of: &str, limit: u64) -> u64 {
        let Some(number) = self.number else { return limit };
        self.table.share(number, &LimitName { kind, of: of.into() }, limit)
    }

    /// Its part of a bound on what waits; what is unbounded stays so.
    pub(crate) fn bounded(&self, calls: LimitKind, bytes: LimitKind, of: &str, bound: Backlog) -> Backlog {
        let part = |kind, bound| if bound == u64::MAX { bound } else { self.part(kind, of, bound) };
        Backlog { calls: part(calls, bound.calls), bytes: part(bytes, bound.bytes) }
    }

    /// Its part of a burst, which does not move: a bucket that gets a greater rate gets no calls for it at once.
    pub(crate) fn burst(&self, spec: &FunctionSpec, burst: u64) -> u64 {
        let Some(number) = self.number else { return burst };
        let name = LimitName { kind: LimitKind::Quota, of: called(spec) };
        even(&self.table.rosters, number, &name, burst).max(1)
    }

    /// Its part of a quota: of calls per second, or of CPU. What is more than nothing stays so.
    pub(crate) fn rate(&self, spec: &FunctionSpec, rate: u64) -> u64 {
        let part = self.part(LimitKind::Quota, &called(spec), QUOTA_PARTS);
        match part {
            0 => 0,
            QUOTA_PARTS => rate,
            _ => ((u128::from(rate) * u128::from(part) / u128::from(QUOTA_PARTS)) as u64).max(rate.min(1)),
        }
    }
}

impl<D: Driver> Node<D> {
    /// How many calls of a function may run here: the shard's part, and beside it what others lent to cores here.
    pub(crate) fn concurrency(&self, function: FunctionRef, spec: &FunctionSpec) -> u32 {
        let part = self.shards.part(LimitKind::Concurrency, &called(spec), spec.concurrency.into());
        let lent = if self.shards.is_divided() { self.regions.lent(function) } else { 0 };
        (part as u32).saturating_add(lent)
    }

    /// Tells the scheduler how many may run, now that another shard lent a call, or has it back.
    pub(crate) fn lent_or_returned(&mut self, function: FunctionRef) {
        if self.shards.is_divided() {
            self.set_concurrency(function);
        }
    }

    fn set_concurrency(&mut self, function: FunctionRef) {
        let Some(deployed) = self.catalog.get(function) else { return };
        let (version, concurrency) = (deployed.spec.version, self.concurrency(function, &deployed.spec));
        self.scheduler.step(Input::Function { function, version, concurrency }, &mut self.effects);
    }

    /// Other parts are in force from now on; they are on disk.
    pub(crate) fn shares_told(&mut self, table: ShareTable) -> Result<Answer, Refusal> {
        if self.shards.number.is_none() {
            return Err(Refusal::new("conflict", "this node is alone, and no shard"));
        }
        if let Some(fault) = table.fault() {
            return Err(Refusal::new("bad-request", format!("the table is none: {fault}")));
        }
        if table.version < self.shards.table.version {
            let message = format!("version {} is in force", self.shards.table.version);
            return Err(Refusal::new("conflict", message));
        }
        self.go_by(table);
        Ok(Answer::Shares(self.shares_state()))
    }

    /// Goes by another table: only what it says otherwise is said to queue and scheduler.
    pub(super) fn go_by(&mut self, table: ShareTable) {
        let before = std::mem::replace(&mut self.shards.table, table);
        let now = &self.shards.table;
        if before.rosters != now.rosters {
            let functions: Vec<FunctionRef> = self.catalog.iter().map(|(function, _)| function).collect();
            functions.into_iter().for_each(|function| self.divide(function));
            let tenants: Vec<String> = self.shapes.said.tenants.keys().cloned().collect();
            tenants.iter().for_each(|tenant| self.bound_tenant(tenant));
            return;
        }
        let named = |a: &ShareTable, b: &ShareTable| -> BTreeSet<LimitName> {
            let other = |name: &LimitName| b.rows.binary_search_by(|row| row.name.cmp(name)).ok();
            let differs = |row: &&call::shares::Share| other(&row.name).map(|at| &b.rows[at]) != Some(*row);
            a.rows.iter().filter(differs).map(|row| row.name.clone()).collect()
        };
        for name in named(&before, now).union(&named(now, &before)) {
            match name.kind {
                LimitKind::TenantBacklog | LimitKind::TenantBacklogBytes => self.bound_tenant(&name.of),
                _ => {
                    if let Some(function) = self.catalog.named(&name.of) {
                        self.divide(function);
                    }
                }
            }
        }
    }

    fn divide(&mut self, function: FunctionRef) {
        self.set_concurrency(function);
        self.shape(function);
    }

    /// How this shard stands with limits that are in use here or wanted.
    pub(crate) fn shares_state(&self) -> SharesState {
        let mut uses = Vec::new();
        for (function, deployed) in self.catalog.iter() {
            self.uses_of(function, &deployed.spec, &mut uses);
        }
        for (tenant, spec) in &self.shapes.said.tenants {
            let (calls, bytes) =
                self.shapes.known_tenant(tenant).map_or((0, 0), |at| self.queue.tenant(at.0));
            self.waits(LimitKind::TenantBacklog, tenant, spec.backlog, calls, &mut uses);
            self.waits(LimitKind::TenantBacklogBytes, tenant, spec.backlog_bytes, bytes, &mut uses);
        }
        SharesState { table: self.shards.table.clone(), uses }
    }

    fn uses_of(&self, function: FunctionRef, spec: &FunctionSpec, uses: &mut Vec<ShareUse>) {
        let depth = self.queue.depth(durableq::FunctionRef(function.0));
        let (begun, waiting) = (u64::from(depth.leased), u64::from(depth.due) + u64::from(depth.offered));
        let pending = begun + waiting + u64::from(depth.scheduled);
        if pending == 0 {
            return;
        }
        let name = called(spec);
        let mut add = |kind, limit: u64, used, wanted: u64| {
            let share = self.shards.part(kind, &name, limit);
            let (name, wanted) = (LimitName { kind, of: name.clone() }, wanted.min(limit));
            uses.push(ShareUse { name, limit, share, used, wanted });
        };
        if begun + waiting > 0 {
            add(LimitKind::Concurrency, spec.concurrency.into(), begun, begun + waiting);
        }
        let quota = self.shapes.quota(spec);
        if waiting > 0 && (quota.calls_per_s > 0 || quota.cpu_millis > 0) {
            add(LimitKind::Quota, QUOTA_PARTS, 0, QUOTA_PARTS);
        }
        let bound = self.shapes.backlog(spec);
        self.waits(LimitKind::Backlog, &name, bound.0, pending, uses);
        self.waits(LimitKind::BacklogBytes, &name, bound.1, depth.bytes, uses);
    }

    /// A bound on what waits; zero is none. Wanted is room for more than there is, so that it need not be missed first.
    fn waits(&self, kind: LimitKind, of: &str, limit: u64, used: u64, uses: &mut Vec<ShareUse>) {
        if limit > 0 && used > 0 {
            let share = self.shards.part(kind, of, limit);
            let wanted = used.saturating_add(used / 8 + 1).min(limit);
            uses.push(ShareUse { name: LimitName { kind, of: of.into() }, limit, share, used, wanted });
        }
    }
}
