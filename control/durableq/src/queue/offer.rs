//! Due calls go to the scheduler, and from there, leased, to a core.

use super::DurableQ;
use crate::table::calls::{Place, flag};
use crate::words::{CallRef, Defaults, FunctionRef, HolderRef, Lease, NotLeased, Offer};
use call::frame::flag::{SEALED_BODY, WANT_OUTCOME};
use call::{Epoch, Frame, Header, Kind, WallTime};

impl DurableQ {
    /// A function that has got due calls since the last time it was named here.
    pub fn next_due(&mut self) -> Option<FunctionRef> {
        if self.log.is_live() { self.functions.next_news() } else { None }
    }

    /// Whether [`DurableQ::poll`] has a call of this function now. One whose first due call is on its way from the disk
    /// has not; [`DurableQ::next_due`] names it when it has arrived.
    pub fn has_due(&self, function: FunctionRef) -> bool {
        let of = &self.functions[function];
        let here = of.due.front().is_some_and(|at| self.calls[at].is(flag::HERE));
        self.log.is_live() && here && !of.paused
    }

    /// Hands the oldest due call of a function to the scheduler, if there is one and its frame is in memory.
    pub fn poll(&mut self, function: FunctionRef, defaults: &Defaults) -> Option<Offer> {
        if !self.log.is_live() || self.functions[function].paused {
            return None;
        }
        let call = self.first_here(function)?;
        let of = &mut self.functions[function];
        of.due.remove(&mut self.calls, call);
        of.offered += 1;
        self.calls[call].set_place(Place::Offered);
        self.polled(function);
        let (criticality, deadline) = self.urgency(call, defaults);
        let retry = self.calls.progress(call).failures > 0;
        let frame = Frame::parsed_before(self.store.get(self.calls.frame(call)));
        Some(Offer { call, criticality, deadline, key: frame.key(), label: frame.label(), retry })
    }

    /// Takes an offered call back from the scheduler: it is due again, at its old place; or, if it ended meanwhile, its
    /// number is free.
    pub fn give_back(&mut self, call: CallRef) {
        if self.calls[call].is(flag::HELD) {
            return self.let_go(call);
        }
        assert_eq!(self.calls[call].place(), Place::Offered, "the scheduler gives back what it was offered");
        self.calls[call].set_place(Place::Due);
        self.functions[self.calls[call].function()].offered -= 1;
        self.functions.restore_due(&mut self.calls, call);
        self.expires_no_more(call);
        self.let_expire(call);
    }

    /// Leases an offered call to a core.
    ///
    /// # Errors
    /// The call is not leased, and is the scheduler's no more: see [`NotLeased`].
    pub fn lease(
        &mut self,
        call: CallRef,
        holder: HolderRef,
        defaults: &Defaults,
    ) -> Result<Lease<'_>, NotLeased> {
        if self.calls[call].is(flag::HELD) || self.functions[self.calls[call].function()].paused {
            self.give_back(call);
            return Err(NotLeased::Withdrawn);
        }
        assert_eq!(self.calls[call].place(), Place::Offered, "the scheduler dispatches what it was offered");
        if !self.log.is_live() {
            self.give_back(call);
            return Err(NotLeased::Stopped);
        }
        self.expires_no_more(call);
        self.calls[call].lower(flag::EXPIRES);
        self.leases += 1;
        self.leased += 1;
        self.counters.leased += 1;
        let of = &mut self.functions[self.calls[call].function()];
        of.offered -= 1;
        of.leased += 1;
        let function = of.id;
        let (criticality, deadline) = self.urgency(call, defaults);
        let progress = self.calls.progress_mut(call);
        progress.deliveries = progress.deliveries.saturating_add(1);
        progress.epoch = Epoch::new(self.log.incarnation, self.leases);
        progress.holder = holder;
        progress.begin_lease(self.wall);
        self.calls[call].set_place(Place::Leased);
        self.holders.leases(holder).push_back(&mut self.calls, call);
        let (leased, progress) = (&self.calls[call], self.calls.progress(call));
        let header = Header {
            flags: SEALED_BODY | if leased.is(flag::WANT) { WANT_OUTCOME } else { 0 },
            call: leased.id,
            function,
            stamp: progress.epoch.0,
            deadline: deadline.0,
            level: criticality,
            attempt: progress.deliveries,
            ..Header::new(Kind::Lease)
        };
        let (start_at, due_at) = (WallTime(self.calls.start_at(call)), WallTime(leased.when()));
        Ok(Lease { header, body: self.store.get(self.calls.frame(call)), start_at, due_at })
    }

    /// Criticality and deadline, with what the function says where the call says nothing.
    fn urgency(&self, at: CallRef, defaults: &Defaults) -> (u8, WallTime) {
        let frame = Frame::parsed_before(self.store.get(self.calls.frame(at)));
        let (criticality, deadline) = (frame.criticality(), frame.deadline());
        let default = WallTime(self.calls.start_at(at).saturating_add(defaults.deadline_ns));
        (
            if criticality == 0 { defaults.criticality } else { criticality },
            if deadline == WallTime(0) { default } else { deadline },
        )
    }

    /// A core connected, which is called so: its silence counts from now on.
    pub fn holder_up(&mut self, holder: HolderRef, name: &str) {
        self.holders.call(holder, name);
        self.holders.hear(holder, self.now);
    }

    /// A core was heard of.
    pub fn heartbeat(&mut self, holder: HolderRef) {
        self.holders.hear(holder, self.now);
    }

    /// A core that was not heard of for `limits.lease`; each is named once. The node closes its session, and then
    /// ends its leases by [`DurableQ::lose_next`].
    pub fn next_silent(&mut self) -> Option<HolderRef> {
        self.holders.next_silent(self.now)
    }
}
