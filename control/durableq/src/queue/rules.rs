//! What functions and operators say about calls that wait: how many there may be, and for how long.

use super::DurableQ;
use crate::table::calls::{Place, flag};
use crate::words::{Backlog, Blocks, CallRef, Expired, FunctionRef, Rules};
use call::{Frame, Status, VerdictCode};

/// What is pending of one tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenant {
    pub bound: Backlog,
    pub calls: u64,
    pub bytes: u64,
}

impl Tenant {
    pub const NOBODY: Tenant = Tenant { bound: Backlog::UNBOUNDED, calls: 0, bytes: 0 };
}

impl DurableQ {
    /// What holds for a function's calls from now on. A new time to live holds for the calls that become due, and for
    /// those that are due and not with the scheduler.
    pub fn rule(&mut self, function: FunctionRef, rules: Rules) {
        let before = std::mem::replace(&mut self.functions[function].rules, rules);
        if before.tenant != rules.tenant {
            let (calls, bytes) = (self.pending_of(function), self.functions[function].bytes);
            let from = &mut self.tenants[usize::from(before.tenant)];
            (from.calls, from.bytes) = (from.calls - calls, from.bytes - bytes);
            let to = &mut self.tenants[usize::from(rules.tenant)];
            (to.calls, to.bytes) = (to.calls + calls, to.bytes + bytes);
        }
        if before.expires_ns != rules.expires_ns {
            let mut next = self.functions[function].due.front();
            while let Some(at) = next {
                self.expires_no_more(at);
                self.let_expire(at);
                next = self.functions[function].due.after(&self.calls, at);
            }
        }
    }

    /// How much of a tenant may be pending from now on.
    pub fn bound_tenant(&mut self, tenant: u16, bound: Backlog) {
        self.tenants[usize::from(tenant)].bound = bound;
    }

    /// How many calls of a tenant are pending, and how many bytes of them.
    pub fn tenant(&self, tenant: u16) -> (u64, u64) {
        let of = &self.tenants[usize::from(tenant)];
        (of.calls, of.bytes)
    }

    pub(super) fn pending_of(&self, function: FunctionRef) -> u64 {
        let of = &self.functions[function];
        u64::from(of.scheduled) + u64::from(of.due.len) + u64::from(of.offered) + u64::from(of.leased)
    }

    /// Whether a function and its tenant may have another call of so many bytes.
    pub(super) fn check_backlog_of(
        &mut self,
        function: FunctionRef,
        bytes: usize,
    ) -> Result<(), VerdictCode> {
        let of = &self.functions[function];
        let (bound, tenant) = (of.rules.backlog, &self.tenants[usize::from(of.rules.tenant)]);
        let bytes = bytes as u64;
        let full = self.pending_of(function) >= bound.calls
            || of.bytes.saturating_add(bytes) > bound.bytes
            || tenant.calls >= tenant.bound.calls
            || tenant.bytes.saturating_add(bytes) > tenant.bound.bytes;
        if full {
            self.counters.backlog_full += 1;
            return Err(VerdictCode::Backlog);
        }
        Ok(())
    }

    /// A call is pending from now on.
    pub(super) fn enter(&mut self, at: CallRef) {
        let (function, bytes) = (self.calls[at].function(), self.calls[at].length() as u64);
        self.pending += 1;
        self.functions[function].bytes += bytes;
        let tenant = &mut self.tenants[usize::from(self.functions[function].rules.tenant)];
        (tenant.calls, tenant.bytes) = (tenant.calls + 1, tenant.bytes + bytes);
    }

    /// A call is pending no more; its frame is still there.
    pub(super) fn leave(&mut self, at: CallRef) {
        let (function, bytes) = (self.calls[at].function(), self.calls[at].length() as u64);
        self.pending -= 1;
        self.functions[function].bytes -= bytes;
        let tenant = &mut self.tenants[usize::from(self.functions[function].rules.tenant)];
        (tenant.calls, tenant.bytes) = (tenant.calls - 1, tenant.bytes - bytes);
    }

    /// When a call that has not begun ends: as its submit says, or so long after its start as its function says.
    pub(super) fn expires_at(&self, at: CallRef) -> Option<u64> {
        let (call, progress) = (&self.calls[at], self.calls.progress(at));
        if progress.deliveries > 0 || call.is(flag::LASTING) {
            return None;
        }
        let own = call.is(flag::EXPIRES).then_some(progress.epoch.0);
        let rule = self.functions[call.function()].rules.expires_ns;
        let of_function = (rule > 0).then(|| self.calls.start_at(at).saturating_add(rule));
        own.into_iter().chain(of_function).min()
    }

    /// A lease comes back without the call having begun: if it must begin by its deadline, it still must.
    pub(super) fn expires_again(&mut self, at: CallRef) {
        if self.calls[at].is_parked() || self.calls[at].is(flag::LASTING) {
            return;
        }
        let submit = Frame::parsed_before(self.store.get(self.calls.frame(at)));
        let flags = super::park::flags_of(submit) & flag::EXPIRES;
        if flags != 0 {
            let epoch = super::park::epoch_of(submit);
            self.calls[at].raise(flags);
            self.calls.progress_mut(at).epoch = epoch;
        }
    }

    /// A call has become due: its time to live runs.
    pub(super) fn let_expire(&mut self, at: CallRef) {
        if let Some(when) = self.expires_at(at) {
            self.expiries.insert(&mut self.calls, at, when);
        }
    }

    /// A call begins, or waits for another reason.
    pub(super) fn expires_no_more(&mut self, at: CallRef) {
        if self.calls.progress(at).timer != crate::table::calls::NONE {
            self.expiries.remove(&mut self.calls, at);
        }
    }

    /// A call whose time to live is over and that has not begun: it has ended, or is a dead letter. The node asks until
    /// `None` after [`DurableQ::advance`].
    pub fn next_expired(&mut self, blocks: &mut impl Blocks) -> Option<Expired> {
        if !self.log.is_live() {
            return None;
        }
        let at = self.expiries.pop(&mut self.calls, self.wall.0)?;
        debug_assert!(matches!(self.calls[at].place(), Place::Due | Place::Offered));
        let (id, function) = (self.calls[at].id, self.calls[at].function());
        let dead = self.functions[function].rules.expired_dead;
        self.counters.expired += 1;
        self.withdraw(at);
        if dead {
            self.calls.progress_mut(at).status = Some(Status::Expired);
            self.die(blocks, at);
        } else {
            self.conclude(blocks, at, Status::Expired);
        }
        Some(Expired { id, function, dead })
    }
}
