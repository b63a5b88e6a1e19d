//! Answers about what holds calls back, and to controllers. Not on the path of a call.

use crate::answers::Refusal;
use crate::node::Node;
use call::admin::{Answer, Ask, Conclusions, DownstreamState, Limited, QuotaState, Why};
use call::{CallId, Instant};
use driver::Driver;
use durableq::State;
use scheduler::{FunctionRef, Rate};

impl<D: Driver> Node<D> {
    /// Answers what is asked about what holds calls back, and what controllers ask and conclude.
    ///
    /// # Panics
    /// If it is about something else.
    pub(crate) fn answer_about_shaping(&mut self, ask: Ask) -> Result<Answer, Refusal> {
        Ok(match ask {
            Ask::Explain { call } => Answer::Why(self.explain(call.parse()?)?),
            Ask::Quotas { function } => {
                let only = function.map(|name| self.deployed(&name)).transpose()?;
                Answer::Quotas(self.quota_states(only))
            }
            Ask::QuotaSet { function, change } => {
                let function = self.deployed(&function)?;
                self.set_quota(function, change);
                Answer::Quotas(self.quota_states(Some(function)))
            }
            Ask::TenantSet { tenant, spec } => {
                self.set_tenant(tenant, spec);
                Answer::Done { count: 1 }
            }
            Ask::Downstreams => Answer::Downstreams(self.downstream_states()),
            Ask::DownstreamSet { downstream, spec } => {
                self.shapes.service(&downstream);
                self.shapes.said.downstreams.insert(downstream, spec);
                Answer::Downstreams(self.downstream_states())
            }
            Ask::Locality => Answer::Locality(self.locality_state()),
            Ask::Scaling => Answer::Scaling(self.scaling_state()),
            Ask::Observe { after_ns } => Answer::Observation(self.observe(after_ns)),
            Ask::Conclude { conclusions } => self.concluded(conclusions)?,
            other => unreachable!("{other:?} is not about what holds calls back"),
        })
    }

    /// Takes what the controllers conclude, if it is about what this node told them.
    fn concluded(&mut self, conclusions: Conclusions) -> Result<Answer, Refusal> {
        if conclusions.incarnation != self.queue.incarnation() {
            let message = "the conclusions are about an earlier incarnation of the node";
            return Err(Refusal::new("conflict", message));
        }
        Ok(Answer::Done { count: self.conclude(conclusions) })
    }

    /// Why a call is where it is.
    pub(crate) fn explain(&self, call: CallId) -> Result<Why, Refusal> {
        let view = self.queue.find(call).ok_or_else(|| crate::answers::unknown(call))?;
        let function = self.catalog.find(view.function);
        let state = crate::answers::state_name(&view);
        let mut why = Why {
            call: call.to_string(),
            function: self.catalog.name_of(view.function),
            state: state.into(),
            rule: String::new(),
            since: 0,
            until: None,
            frees: String::new(),
        };
        let (rule, frees) = match view.state {
            State::Done | State::Dead => ("ended", "nothing holds it: it has ended"),
            State::Appended => ("disk", "its group is on disk"),
            State::Scheduled => {
                why.until = Some(view.start_at.0);
                if view.status.is_some() {
                    ("back-off", "the wait before its next execution is over")
                } else {
                    ("start-time", "its start time comes")
                }
            }
            State::Due | State::Offered | State::Leased(..) => {
                why.since = if matches!(view.state, State::Due) { view.start_at.0 } else { 0 };
                return Ok(self.explain_held(why, call, function));
            }
        };
        (why.rule, why.frees) = (rule.into(), frees.into());
        Ok(why)
    }

    /// Of a call that is due.
    fn explain_held(&self, mut why: Why, call: CallId, function: Option<FunctionRef>) -> Why {
        let Some(function) = function else {
            (why.rule, why.frees) = ("not-deployed".into(), "its function is deployed".into());
            return why;
        };
        let held = self.queue.number(call).and_then(|at| self.scheduler.explain(scheduler::CallRef(at.0)));
        let told = held.unwrap_or_else(|| self.scheduler.explain_function(function));
        why.rule = told.rule.name().into();
        why.frees = told.rule.frees().into();
        why.until = told.until.map(|until| self.wall_of(until));
        if told.since != Instant(0) {
            why.since = self.wall_of(told.since);
        }
        why
    }

    /// An instant as other hosts know it.
    fn wall_of(&self, at: Instant) -> u64 {
        let (now, wall) = (self.driver.now(), self.driver.wall());
        let ahead = call::time::nanos(at.since(now));
        if ahead > 0 {
            wall.0.saturating_add(ahead)
        } else {
            wall.0.saturating_sub(call::time::nanos(now.since(at)))
        }
    }

    /// Quotas, of one function or of all.
    pub(crate) fn quota_states(&self, only: Option<FunctionRef>) -> Vec<QuotaState> {
        let all = self.catalog.iter().filter(|(function, _)| only.is_none_or(|only| only == *function));
        let state = |(function, deployed): (FunctionRef, &crate::catalog::Deployed)| {
            let spec = &deployed.spec;
            let depth = self.queue.depth(durableq::FunctionRef(function.0));
            let (rate, limit) = self.scheduler.rates(function);
            QuotaState {
                function: format!("{}/{}", spec.namespace, spec.name),
                tenant: spec.tenant.clone(),
                weight: self.shapes.weight(&spec.tenant),
                quota: self.shapes.quota(spec),
                set: self.shapes.change(spec),
                cpu_rate: self.shapes.get(function).and_then(|shaped| *shaped.rate.get()),
                rate: limited(rate),
                limit: limited(limit),
                waiting: u64::from(depth.due + depth.offered),
                running: depth.leased.into(),
                rule: self.scheduler.explain_function(function).rule.name().into(),
            }
        };
        all.map(state).collect()
    }

    /// Services behind functions.
    pub(crate) fn downstream_states(&mut self) -> Vec<DownstreamState> {
        let now = self.driver.now();
        let mut users: Vec<Vec<Limited>> = self.shapes.services.iter().map(|_| Vec::new()).collect();
        for (function, deployed) in self.catalog.iter() {
            let Some(shaped) = self.shapes.get(function) else { continue };
            for (service, total) in &shaped.pressed {
                let function = format!("{}/{}", deployed.spec.namespace, deployed.spec.name);
                users[usize::from(*service)].push(Limited {
                    function,
                    limit: *shaped.limit.get(),
                    total: *total,
                });
            }
        }
        let said = &self.shapes.said.downstreams;
        let states = self.shapes.services.iter_mut().zip(users).map(|(service, functions)| DownstreamState {
            threshold_per_minute: said.get(&service.name).map(|spec| spec.threshold_per_minute),
            last_minute: service.last_minute(now),
            total: service.total,
            functions,
            downstream: service.name.clone(),
        });
        states.collect()
    }
}

fn limited(rate: Rate) -> Option<u64> {
    (rate != Rate::UNLIMITED).then_some(rate.0)
}
