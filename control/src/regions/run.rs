//! The life of a pulled call here: from the lease to the scheduler, to a core, and its outcome back to its home.

use super::pulled::PulledRef;
use crate::node::Node;
use crate::outcomes::how;
use crate::session::SessionRef;
use call::blob::Reference;
use call::body::{arguments, reply};
use call::frame::{Frame, Header, Kind};
use call::limits::HEADER_BYTES;
use call::{CallId, Epoch, FunctionId, Status};
use driver::Driver;
use scheduler::{CallRef, CoreRef, FunctionRef, Input, Marks};

impl<D: Driver> Node<D> {
    /// A home leases a call. Validated here, once, like a submit: another region is another world.
    pub(super) fn pull(&mut self, session: SessionRef, at: u16, frame: &Frame<'_>) {
        let via = self.via(at);
        let link = self.link_mut(at);
        let there = link.connection.as_mut().expect("it spoke");
        if !there.window.lease() {
            return self.close(session, "it leased more calls than it was granted");
        }
        link.leased += 1;
        let is_sound = frame.sealed().is_ok_and(|submit| {
            submit.kind() == Kind::Submit
                && (submit.call(), submit.function()) == (frame.call(), frame.function())
                && arguments(submit.body()).is_ok_and(|read| Reference::of(&submit, read).is_ok())
        });
        if !is_sound {
            return self.close(session, "its lease is malformed");
        }
        let told = link.functions.get(&frame.function()).is_some_and(|offered| offered.told_ready);
        let function = self.catalog.find(frame.function()).filter(|_| told);
        let Some(function) = function else { return self.give_back(at, frame, Status::Ok) };
        if self.regions.pulled.admit(via, function, frame).is_none() {
            return self.give_back(at, frame, Status::Ok);
        }
        self.lent_or_returned(function);
        self.scheduler.step(Input::Due { function }, &mut self.effects);
    }

    /// Offers waiting calls of a function to the scheduler, which asked for so many. How many there were.
    pub(crate) fn poll_pulled(&mut self, function: FunctionRef, max: u32) -> u32 {
        for count in 0..max {
            let Some(at) = self.regions.pulled.poll(function) else { return count };
            let lease = self.regions.pulled.lease(at);
            let (header, submit) = (lease.header(), lease.sealed().expect("checked when it came").header());
            let call = CallRef(self.regions.base + at.0);
            let (criticality, deadline) = (header.level.max(1), call::WallTime(header.deadline));
            // Retries were counted at home, where the budget for them is.
            let marks = Marks { key: submit.key.0.into(), label: submit.label, retry: false };
            let offered = Input::Offered { call, function, criticality, deadline, marks };
            self.scheduler.step(offered, &mut self.effects);
        }
        max
    }

    /// A home cancels a call that it leased. One that runs is stopped by its core; one that waits here runs first, or
    /// goes home unbegun: its home knows that it must not run again.
    pub(super) fn cancel_pulled(&mut self, frame: &Frame<'_>) {
        if self.regions.pulled.running(frame.call(), frame.epoch()).is_none() {
            return;
        }
        let header: &[u8; HEADER_BYTES] = frame.bytes().try_into().expect("a cancel is a header");
        // To all: a core that does not run it leaves it.
        let near: Vec<SessionRef> =
            self.workers.cores().filter(|(_, core)| !core.far).map(|(_, core)| core.session).collect();
        for session in near {
            self.sessions.send_parts(&mut self.driver, session, header, &[]);
        }
    }

    /// Whether pulled calls of a function wait for the scheduler.
    pub(crate) fn has_pulled(&self, function: FunctionRef) -> bool {
        self.regions.pulled.has_waiting(function)
    }

    /// Sends a pulled call to a core, with the lease that its home gave.
    pub(crate) fn lease_pulled(&mut self, call: CallRef, core: CoreRef) {
        let at = PulledRef(call.0 - self.regions.base);
        let via = self.regions.pulled.via(at);
        let entry = self.workers.core_mut(core).expect("dispatched to a core that is up");
        let is_lost = self.regions.links[usize::from(via.link)].generation != via.generation
            || self.regions.links[usize::from(via.link)].connection.is_none();
        // Never lent on; and not begun here when its home has taken it back.
        if entry.far || is_lost {
            self.scheduler.step(Input::NotSent { call }, &mut self.effects);
            return self.drop_pulled(at, Status::Ok);
        }
        entry.leased += 1;
        let session = entry.session;
        self.regions.pulled.run(at, core);
        let (header, body) =
            self.regions.pulled.lease(at).bytes().split_first_chunk::<HEADER_BYTES>().expect("a frame");
        self.sessions.send_parts(&mut self.driver, session, header, body);
    }

    /// The scheduler gave a pulled call back: its core is gone, or its function is.
    pub(crate) fn return_pulled(&mut self, call: CallRef, core: Option<CoreRef>) {
        let status = if core.is_some() { Status::WorkerLost } else { Status::Ok };
        self.drop_pulled(PulledRef(call.0 - self.regions.base), status);
    }

    /// A pulled call may not reach its function by this region's rules; its home's let it pass. It goes back as a
    /// delivery, so that it does not come and go for ever.
    pub(crate) fn refuse_pulled(&mut self, call: CallRef) {
        self.drop_pulled(PulledRef(call.0 - self.regions.base), Status::WorkerLost);
    }

    /// A core reports how a lease ended. True if it was a pulled call's: then its home hears it, byte for byte.
    pub(crate) fn outcome_for_home(&mut self, core: CoreRef, frame: &Frame<'_>) -> bool {
        if self.regions.pulled.is_empty() {
            return false;
        }
        let Some(at) = self.regions.pulled.running(frame.call(), frame.epoch()) else { return false };
        let entry = self.workers.core_mut(core).expect("its session is there");
        let (Ok(reply), Ok(status)) = (reply(frame.body()), frame.status()) else {
            let session = entry.session;
            self.close(session, "its outcome is malformed");
            return true;
        };
        entry.leased = entry.leased.saturating_sub(1);
        entry.finished += 1;
        let usage = reply.usage();
        self.stats.executed(&usage);
        self.load.ran(core, &usage);
        let (call, how) = (CallRef(self.regions.base + at.0), how(status));
        self.scheduler.step(Input::Ended { call, how }, &mut self.effects);
        let link = usize::from(self.regions.pulled.via(at).link);
        let function = self.regions.pulled.function(at);
        self.regions.pulled.remove(at);
        self.lent_or_returned(function);
        self.regions.ended += 1;
        self.regions.links[link].ended += 1;
        if let Some(there) = self.regions.links[link].connection.as_ref().filter(|there| there.is_up) {
            let (header, body) = frame.bytes().split_first_chunk::<HEADER_BYTES>().expect("a frame");
            self.sessions.send_parts(&mut self.driver, there.session, header, body);
        }
        true
    }

    /// The core that runs a pulled call, and the connection to its home while there is one.
    pub(crate) fn pulled_on(&self, call: CallId, epoch: Epoch) -> Option<(CoreRef, Option<SessionRef>)> {
        let at = self.regions.pulled.running(call, epoch)?;
        let link = usize::from(self.regions.pulled.via(at).link);
        let home = self.regions.links[link].connection.as_ref().filter(|home| home.is_up);
        Some((self.regions.pulled.core(at)?, home.map(|home| home.session)))
    }

    /// Pulled calls of a function that is deleted here and that the scheduler does not hold go home.
    pub(crate) fn return_waiting(&mut self, function: FunctionRef) {
        while let Some(at) = self.regions.pulled.poll(function) {
            self.drop_pulled(at, Status::Ok);
        }
    }

    /// Forgets a pulled call, and gives its lease back if its home still knows it.
    fn drop_pulled(&mut self, at: PulledRef, status: Status) {
        let via = self.regions.pulled.via(at);
        let lease = self.regions.pulled.lease(at);
        let lease = (lease.call(), lease.function(), lease.epoch());
        let function = self.regions.pulled.function(at);
        self.regions.pulled.remove(at);
        self.lent_or_returned(function);
        if self.via(via.link) == via {
            self.send_back(via.link, lease, status);
        }
    }

    fn give_back(&mut self, at: u16, lease: &Frame<'_>, status: Status) {
        self.send_back(at, (lease.call(), lease.function(), lease.epoch()), status);
    }

    fn send_back(&mut self, at: u16, lease: (CallId, FunctionId, Epoch), status: Status) {
        let link = self.link_mut(at);
        let Some(session) = link.connection.as_ref().map(|there| there.session) else { return };
        link.returned += 1;
        let (call, function, epoch) = lease;
        let header =
            Header { call, function, stamp: epoch.0, level: status as u8, ..Header::new(Kind::Return) };
        self.sessions.send_parts(&mut self.driver, session, &header.encode(&[]), &[]);
    }
}
