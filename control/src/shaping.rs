//! What holds calls back, by the node's side: manifests and operators' words become the scheduler's policies, and what
//! controllers conclude becomes rates.
//!
//! Controllers are another process. The node caches what they concluded and goes on with that when they are gone; without
//! any, S is one and no rate but what operators wrote is in force.

use crate::catalog::id_of;
use crate::node::Node;
use crate::shards::Shards;
use crate::worker_lb::Workers;
use call::admin::{Conclusions, QuotaChange, Shaping, TenantSpec, Versioned, Wanted};
use call::function::{Expired, QuotaKind, QuotaSpec};
use call::limits::Limits;
use call::outcome::back_pressure;
use call::shares::LimitKind;
use call::{FunctionId, FunctionSpec, Instant};
use controllers::{Cache, Snapshot};
use driver::Driver;
use durableq::{Backlog, Rules};
use scheduler::{
    BreakerRule, FunctionRef, GroupRef, Input, Policy, Quota, Rate, RetryRule, SlowStartRule, TenantRef,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// S without a controller: opportunistic functions may use their quota as it is written.
const SAFE_S: u32 = 1000;
/// Parts of a minute in which back-pressure is counted.
const PARTS: usize = 12;
/// One of them.
const PART: Duration = Duration::from_secs(5);
/// How much of its deadline an opportunistic call may have left to count as near it: the hour of 24 that a scheduler
/// leaves it by default, for other deadlines.
const NEAR_PART: u64 = 24;

/// A service behind functions.
pub(crate) struct Service {
    pub name: String,
    /// Executions that met its back-pressure since the start.
    pub total: u64,
    parts: [u64; PARTS],
    /// Number of the part that `parts` ends with, counted from the start.
    newest: u64,
}

impl Service {
    fn new(name: &str) -> Service {
        Service { name: name.into(), total: 0, parts: [0; PARTS], newest: 0 }
    }

    fn advance(&mut self, now: Instant) {
        let part = now.0 / call::time::nanos(PART);
        let gone = part.saturating_sub(self.newest).min(PARTS as u64);
        for passed in 0..gone {
            self.parts[((part - passed) % PARTS as u64) as usize] = 0;
        }
        self.newest = self.newest.max(part);
    }

    fn count(&mut self, now: Instant) {
        self.advance(now);
        self.total += 1;
        self.parts[(self.newest % PARTS as u64) as usize] += 1;
    }

    /// In the last minute.
    pub fn last_minute(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.parts.iter().sum()
    }
}

/// A deployed function's part in all this.
pub(crate) struct Shaped {
    /// Services that it uses, and how many of its executions met their back-pressure.
    pub pressed: Vec<(u16, u64)>,
    /// The rate that its quota of CPU comes to, thousandths of a call per second.
    pub rate: Cache<Option<u64>>,
    /// What back-pressure left of it.
    pub limit: Cache<Option<u64>>,
}

/// All of it.
pub(crate) struct Shapes {
    /// What operators said.
    pub said: Shaping,
    /// Functions that take no new calls.
    closed: BTreeSet<FunctionId>,
    /// S.
    pub opportunistic: Cache<u32>,
    pub services: Vec<Service>,
    functions: Vec<Option<Shaped>>,
    tenants: BTreeMap<String, TenantRef>,
    tenants_max: usize,
    /// How many cores there should be.
    pub wanted: Cache<Wanted>,
}

impl Shapes {
    pub fn new(limits: &Limits, said: Shaping) -> Shapes {
        // The first is everybody who is not named.
        let tenants = BTreeMap::from([("default".to_owned(), TenantRef::default())]);
        let services = said.downstreams.keys().map(|name| Service::new(name)).collect();
        let closed = said.closed.iter().map(|name| id_of(name)).collect();
        Shapes {
            said,
            closed,
            opportunistic: Cache::new(SAFE_S),
            services,
            functions: Vec::new(),
            tenants,
            tenants_max: limits.tenants_max,
            wanted: Cache::new(Wanted::default()),
        }
    }

    /// Whether a function takes no new calls.
    pub fn is_closed(&self, function: FunctionId) -> bool {
        !self.closed.is_empty() && self.closed.contains(&function)
    }

    /// A function takes no new calls, or takes them again. Whether that is new.
    pub fn close(&mut self, name: &str, closed: bool) -> bool {
        if closed {
            self.said.closed.insert(name.into());
            self.closed.insert(id_of(name))
        } else {
            self.said.closed.remove(name);
            self.closed.remove(&id_of(name))
        }
    }

    pub fn get(&self, function: FunctionRef) -> Option<&Shaped> {
        self.functions.get(function.0 as usize)?.as_ref()
    }

    /// What an operator set of a function's quota.
    pub fn change(&self, spec: &FunctionSpec) -> QuotaChange {
        let name = format!("{}/{}", spec.namespace, spec.name);
        self.said.quotas.get(&name).cloned().unwrap_or_default()
    }

    /// A function's quota in force.
    pub fn quota(&self, spec: &FunctionSpec) -> QuotaSpec {
        self.change(spec).over(&spec.quota)
    }

    /// How many calls of a function may be pending, and how many bytes of them; zero is no bound.
    pub fn backlog(&self, spec: &FunctionSpec) -> (u64, u64) {
        let (change, queue) = (self.change(spec), &spec.queue);
        (change.backlog.unwrap_or(queue.backlog), change.backlog_bytes.unwrap_or(queue.backlog_bytes))
    }

    /// A tenant's number, if it has one.
    pub fn known_tenant(&self, name: &str) -> Option<TenantRef> {
        self.tenants.get(name).copied()
    }

    /// The weight of a tenant.
    pub fn weight(&self, tenant: &str) -> u32 {
        self.said.tenants.get(tenant).map_or(1, |spec| spec.weight)
    }

    /// A tenant's number; those beyond what there may be share the last one. True if it is new.
    fn tenant(&mut self, name: &str) -> (TenantRef, bool) {
        if let Some(tenant) = self.tenants.get(name) {
            return (*tenant, false);
        }
        let tenant = TenantRef(self.tenants.len().min(self.tenants_max - 1) as u16);
        self.tenants.insert(name.into(), tenant);
        (tenant, true)
    }

    /// A service's number.
    pub fn service(&mut self, name: &str) -> u16 {
        let known = self.services.iter().position(|service| service.name == name);
        let place = known.unwrap_or_else(|| {
            self.services.push(Service::new(name));
            self.services.len() - 1
        });
        place as u16
    }

    /// A function is deployed, perhaps again: what it did and what controllers said of it stays.
    fn deploy(&mut self, function: FunctionRef, spec: &FunctionSpec) {
        let uses: Vec<u16> = spec.downstreams.iter().map(|name| self.service(name)).collect();
        let place = function.0 as usize;
        if self.functions.len() <= place {
            self.functions.resize_with(place + 1, || None);
        }
        let shaped = self.functions[place].get_or_insert_with(|| Shaped {
            pressed: Vec::new(),
            rate: Cache::new(None),
            limit: Cache::new(None),
        });
        let met =
            |service: u16| shaped.pressed.iter().find(|known| known.0 == service).map_or(0, |known| known.1);
        shaped.pressed = uses.into_iter().map(|service| (service, met(service))).collect();
    }

    /// An execution met back-pressure: of the service that it named, or of all that its function uses.
    pub fn pressed(&mut self, function: FunctionRef, stderr: &[u8], now: Instant) {
        let Some(shaped) = self.functions.get_mut(function.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let named = back_pressure::service(stderr);
        for (service, count) in &mut shaped.pressed {
            let service = &mut self.services[usize::from(*service)];
            if named.is_none_or(|named| named == service.name) {
                service.count(now);
                *count += 1;
            }
        }
    }

    /// The scheduler's rules for a function of this group. True if its tenant is new to the scheduler.
    fn policy(
        &mut self,
        function: FunctionRef,
        spec: &FunctionSpec,
        group: GroupRef,
        shards: &Shards,
    ) -> (Policy, bool) {
        let quota = self.quota(spec);
        let (tenant, is_new) = self.tenant(&spec.tenant);
        let by_cpu = self.get(function).and_then(|shaped| *shaped.rate.get());
        let written =
            (quota.calls_per_s > 0).then(|| shards.rate(spec, quota.calls_per_s.saturating_mul(1000)));
        let rate = [by_cpu.filter(|_| quota.cpu_millis > 0), written].into_iter().flatten().min();
        let second = rate.map_or(1, |milli| milli.div_ceil(1000));
        let burst = if quota.burst > 0 { shards.burst(spec, quota.burst) } else { second };
        let near = Duration::from_millis(spec.deadline_ms / NEAR_PART);
        let breaker = &spec.breaker;
        let budget = spec.retry.budget_percent;
        let policy = Policy {
            tenant,
            quota: match quota.kind {
                QuotaKind::Reserved => Quota::Reserved,
                QuotaKind::Opportunistic => Quota::Opportunistic { near },
            },
            rate: rate.map_or(Rate::UNLIMITED, Rate),
            burst: u32::try_from(burst).unwrap_or(u32::MAX).max(1),
            concurrency_per_key: spec.concurrency_per_key,
            label: spec.flow.label(),
            group,
            slow_start: quota.slow_start.then(SlowStartRule::default),
            breaker: (breaker.failures_percent > 0).then(|| BreakerRule {
                failures: breaker.failures_percent * 10,
                calls_min: breaker.calls,
                open: Duration::from_millis(breaker.open_ms),
                open_max: BreakerRule::default().open_max.max(Duration::from_millis(breaker.open_ms)),
                ..BreakerRule::default()
            }),
            retry_budget: (budget > 0).then(|| RetryRule { share: budget * 10, ..RetryRule::default() }),
        };
        (policy, is_new)
    }
}

/// Zero is no bound.
fn backlog(calls: u64, bytes: u64) -> Backlog {
    let bound = |said: u64| if said == 0 { u64::MAX } else { said };
    Backlog { calls: bound(calls), bytes: bound(bytes) }
}

/// A snapshot as controllers send it.
pub(crate) fn snapshot<T>(said: Versioned<T>) -> Snapshot<T> {
    Snapshot { version: said.version, value: said.value }
}

impl<D: Driver> Node<D> {
    /// A function is deployed: tells the scheduler its rules, with what is known of it from before.
    pub(crate) fn shape_new(&mut self, function: FunctionRef) {
        let spec = &self.catalog.get(function).expect("deployed").spec;
        self.shapes.deploy(function, spec);
        self.shape(function);
        if let Some(limit) = self.shapes.get(function).and_then(|shaped| *shaped.limit.get()) {
            self.scheduler.step(Input::Limit { function, rate: Rate(limit) }, &mut self.effects);
        }
    }

    /// Tells the queue what a function, and operators, say about its calls there.
    fn rule_queue(&mut self, function: FunctionRef) {
        let Some(deployed) = self.catalog.get(function) else { return };
        let spec = &deployed.spec;
        let (tenant, _) = self.shapes.tenant(&spec.tenant);
        let queue = &spec.queue;
        let (calls, bytes) = self.shapes.backlog(spec);
        let name = format!("{}/{}", spec.namespace, spec.name);
        let kinds = (LimitKind::Backlog, LimitKind::BacklogBytes);
        let rules = Rules {
            backlog: self.shards.bounded(kinds.0, kinds.1, &name, backlog(calls, bytes)),
            tenant: tenant.0,
            expires_ns: queue.expires_ms.saturating_mul(1_000_000),
            expired_dead: queue.expired == Expired::DeadLetter,
            retain_ns: queue.retain_ms.saturating_mul(1_000_000),
            retain_bytes: queue.retain_bytes,
            window_ns: queue.idempotency_ms.saturating_mul(1_000_000),
        };
        self.queue.rule(durableq::FunctionRef(function.0), rules);
        let tenant = spec.tenant.clone();
        self.bound_tenant(&tenant);
    }

    /// Tells the queue what operators say about a tenant's calls there.
    pub(crate) fn bound_tenant(&mut self, name: &str) {
        let Some(said) = self.shapes.said.tenants.get(name) else { return };
        let bound = backlog(said.backlog, said.backlog_bytes);
        let kinds = (LimitKind::TenantBacklog, LimitKind::TenantBacklogBytes);
        let bound = self.shards.bounded(kinds.0, kinds.1, name, bound);
        let (tenant, _) = self.shapes.tenant(name);
        self.queue.bound_tenant(tenant.0, bound);
    }

    /// Tells the scheduler a function's rules. One that asks for nothing gets none, and costs what it did before.
    pub(crate) fn shape(&mut self, function: FunctionRef) {
        self.rule_queue(function);
        let Some(deployed) = self.catalog.get(function) else { return };
        let group = self.grouping.in_force(function);
        let (policy, is_new) = self.shapes.policy(function, &deployed.spec, group, &self.shards);
        if is_new {
            let weight = self.shapes.weight(&deployed.spec.tenant);
            self.scheduler.step(Input::Tenant { tenant: policy.tenant, weight }, &mut self.effects);
        }
        let known = self.scheduler.policy(function);
        let is_plain = known.is_none() && policy == Policy::default();
        if !is_plain && known != Some(&policy) {
            self.scheduler.step(Input::Policy { function, policy }, &mut self.effects);
        }
    }

    /// An operator said something about a function's quota.
    pub(crate) fn set_quota(&mut self, function: FunctionRef, change: QuotaChange) {
        let spec = &self.catalog.get(function).expect("deployed").spec;
        let name = format!("{}/{}", spec.namespace, spec.name);
        match change == QuotaChange::default() {
            true => self.shapes.said.quotas.remove(&name),
            false => self.shapes.said.quotas.insert(name, change),
        };
        self.shape(function);
    }

    /// An operator said something about a tenant.
    pub(crate) fn set_tenant(&mut self, name: String, spec: TenantSpec) {
        let (tenant, _) = self.shapes.tenant(&name);
        let weight = spec.weight;
        self.shapes.said.tenants.insert(name.clone(), spec);
        self.bound_tenant(&name);
        self.scheduler.step(Input::Tenant { tenant, weight }, &mut self.effects);
    }

    /// Controllers concluded something. Tells how much of it is new.
    pub(crate) fn conclude(&mut self, conclusions: Conclusions) -> u64 {
        let mut count = 0;
        if let Some(said) = conclusions.opportunistic
            && self.shapes.opportunistic.offer(snapshot(said))
        {
            let permille = said.value;
            self.scheduler.step(Input::Opportunistic { permille }, &mut self.effects);
            count += 1;
        }
        if let Some(Versioned { version, value }) = conclusions.wanted {
            count += u64::from(self.shapes.wanted.offer(Snapshot { version, value }));
        }
        count += self.group(conclusions.groups, conclusions.cores);
        for (functions, likely) in [(conclusions.warm, true), (conclusions.release, false)] {
            for function in functions {
                count += u64::from(self.foresee(FunctionRef(function), likely));
            }
        }
        for (number, said) in conclusions.rates {
            let function = FunctionRef(number);
            let known = self.shapes.functions.get_mut(number as usize).and_then(Option::as_mut);
            if known.is_some_and(|shaped| shaped.rate.offer(snapshot(said))) {
                self.shape(function);
                count += 1;
            }
        }
        for (number, said) in conclusions.limits {
            let function = FunctionRef(number);
            let known = self.shapes.functions.get_mut(number as usize).and_then(Option::as_mut);
            if known.is_some_and(|shaped| shaped.limit.offer(snapshot(said)))
                && self.catalog.get(function).is_some()
            {
                let rate = said.value.map_or(Rate::UNLIMITED, Rate);
                self.scheduler.step(Input::Limit { function, rate }, &mut self.effects);
                count += 1;
            }
        }
        count
    }
}

/// Numbers of all cores that are up, with the CPU time of their calls.
pub(crate) fn cores_up<'a>(workers: &'a Workers) -> impl Iterator<Item = scheduler::CoreRef> + 'a {
    workers.cores().filter(|(_, core)| core.is_up && !core.far).map(|(core, _)| core)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::ShardOptions;

    #[test]
    fn back_pressure_counts_for_the_service_that_is_named_or_for_all() {
        let mut shapes = Shapes::new(&Limits::small(), Shaping::default());
        let spec =
            FunctionSpec { downstreams: vec!["tao".into(), "cache".into()], ..FunctionSpec::default() };
        let (f, at) = (FunctionRef(2), |s: u64| Instant(s * 1_000_000_000));
        shapes.deploy(f, &spec);
        shapes.pressed(f, b"back-pressure: cache\n", at(1));
        shapes.pressed(f, b"", at(30));
        shapes.pressed(f, b"back-pressure: elsewhere\n", at(30));
        assert_eq!(shapes.get(f).unwrap().pressed, [(0, 1), (1, 2)]);
        assert_eq!((shapes.services[1].last_minute(at(55)), shapes.services[1].last_minute(at(70))), (2, 1));
        assert_eq!((shapes.services[1].last_minute(at(200)), shapes.services[1].total), (0, 2));
        // Deployed again with one service less: the count of the other stays.
        shapes.deploy(f, &FunctionSpec { downstreams: vec!["cache".into()], ..spec });
        assert_eq!(shapes.get(f).unwrap().pressed, [(1, 2)]);
    }

    #[test]
    fn a_policy_is_the_manifest_with_the_operators_words_and_the_controllers_rate() {
        let mut shapes = Shapes::new(&Limits::small(), Shaping::default());
        let alone = Shards::new(&ShardOptions::default());
        let (f, mut spec) = (FunctionRef(0), FunctionSpec { name: "f".into(), ..FunctionSpec::default() });
        shapes.deploy(f, &spec);
        assert_eq!(shapes.policy(f, &spec, GroupRef::NONE, &alone).0, Policy::default(), "asks for nothing");
        spec.quota = QuotaSpec { cpu_millis: 500, ..QuotaSpec::default() };
        assert_eq!(
            shapes.policy(f, &spec, GroupRef::NONE, &alone).0.rate,
            Rate::UNLIMITED,
            "nothing is known of its calls"
        );
        let shaped = shapes.functions[0].as_mut().unwrap();
        assert!(shaped.rate.offer(Snapshot { version: 1, value: Some(40_000) }));
        let policy = shapes.policy(f, &spec, GroupRef::NONE, &alone).0;
        assert_eq!((policy.rate, policy.burst), (Rate(40_000), 40));
        let change = QuotaChange {
            kind: Some(QuotaKind::Opportunistic),
            calls_per_s: Some(7),
            burst: Some(2),
            ..QuotaChange::default()
        };
        shapes.said.quotas.insert("default/f".into(), change);
        let policy = shapes.policy(f, &spec, GroupRef::NONE, &alone).0;
        assert_eq!((policy.rate, policy.burst), (Rate::per_s(7), 2));
        assert_eq!(policy.quota, Quota::Opportunistic { near: Duration::from_secs(3600) });
    }
}
