//! What becomes of calls that are due: offered, leased, ended, given back, lost, cancelled.

use super::history::{name_of, text_of};
use super::*;

impl World {
    pub fn poll(&mut self, of: usize) -> bool {
        let at = self.queue.function(function(of)).expect("interned");
        let Some(offer) = self.queue.poll(at, &DEFAULTS) else { return false };
        assert!(!self.paused.contains(&function(of)), "a paused function is left alone");
        let view = self.queue.view(offer.call).expect("offered");
        let entry = &self.ledger[&view.id];
        assert!(entry.accepted, "a call is offered when it is on disk");
        assert!(!entry.cancel, "{} was cancelled and is offered", view.id);
        assert_eq!(view.submit.expect("pending").bytes(), &entry.frame[..], "the bytes of the client");
        self.offered.push(offer.call);
        true
    }

    pub fn lease(&mut self, pick: usize, holder: HolderRef) -> bool {
        if self.offered.is_empty() {
            return false;
        }
        let at = self.offered.swap_remove(pick % self.offered.len());
        let husk = self.husks.remove(&at);
        self.queue.holder_up(holder, &name_of(holder));
        let held = husk || self.queue.view(at).is_some_and(|view| self.paused.contains(&view.function));
        let lease = match self.queue.lease(at, holder, &DEFAULTS) {
            Ok(lease) => lease,
            Err(NotLeased::Stopped) => {
                assert!(self.queue.failed().is_some() && !held);
                return false;
            }
            Err(NotLeased::Withdrawn) => {
                assert!(held, "only what was cancelled or is paused is withdrawn");
                return false;
            }
        };
        assert!(!held, "what was cancelled or is paused does not run");
        let header = lease.header;
        assert!(!self.ledger[&header.call].cancel, "{} was cancelled and runs", header.call);
        assert_eq!(lease.body, &self.ledger[&header.call].frame[..], "the bytes of the client");
        assert!(self.epochs.insert(header.stamp), "an epoch is given once");
        self.began.insert(header.stamp, self.now);
        self.leased.push((header, holder));
        self.ledger.get_mut(&header.call).expect("submitted").begun = true;
        true
    }

    pub fn outcome_bytes(lease: &Header, status: Status, output: usize) -> FrameBuf {
        let mut out = FrameBuf::new();
        let output = vec![3; output];
        let said = if status.is_ok() { Vec::new() } else { text_of(lease) };
        append_outcome(&mut out, lease, status, &Reply::new(&Usage::default(), &output, &said))
            .expect("small");
        out
    }

    pub fn settle(&mut self, pick: usize, status: Status, output: usize) -> Option<Settled> {
        if self.leased.is_empty() {
            return None;
        }
        let (lease, holder) = self.leased.swap_remove(pick % self.leased.len());
        let outcome = World::outcome_bytes(&lease, status, output);
        let random = self.random.next();
        let settled = self.queue.settle(&mut self.memory, frame(&outcome), &RETRY, random);
        let settled = settled.expect("a live lease");
        if matches!(settled.fate, Fate::Retry { .. } | Fate::Dead) {
            self.tried(&lease, holder, status);
        }
        self.note(lease.call, settled.fate, status);
        self.ledger.get_mut(&lease.call).expect("submitted").executions += 1;
        let again = self.queue.settle(&mut self.memory, frame(&outcome), &RETRY, random);
        assert!(again.is_err(), "an outcome counts once");
        Some(settled)
    }

    pub(super) fn note(&mut self, call: CallId, fate: Fate, status: Status) {
        let entry = self.ledger.get_mut(&call).expect("submitted");
        assert!(
            !entry.cancel || matches!(fate, Fate::Done | Fate::Cancelled),
            "{call} was cancelled: {fate:?}"
        );
        entry.status = Some(if fate == Fate::Cancelled { Status::Cancelled } else { status });
        match fate {
            Fate::Done | Fate::Failed => entry.ended = true,
            Fate::Cancelled => {
                assert!(entry.cancel, "nobody cancelled {call}");
                entry.ended = true;
            }
            Fate::Dead => (entry.ended, entry.dead) = (true, true),
            Fate::Retry { not_before } => assert!(not_before.0 > self.now),
            Fate::Again => {}
        }
        self.retain(call);
    }

    /// What has just ended is remembered for as long as its function says, or longer.
    pub(super) fn retain(&mut self, call: CallId) {
        let entry = self.ledger.get_mut(&call).expect("submitted");
        let time = remembered_for(entry, &self.rules[entry.of]);
        entry.until = if entry.ended && !entry.dead && time > 0 { self.now + time } else { 0 };
    }

    /// Other rules are in force: what has ended and has no record yet gets one that says so.
    pub(super) fn retain_by_other_rules(&mut self, of: usize) {
        let (now, rules) = (self.now, &self.rules[of]);
        for entry in self.ledger.values_mut().filter(|entry| entry.of == of && !entry.told_end) {
            entry.until = entry.until.min(now + remembered_for(entry, rules));
        }
    }

    /// Cancels a call, if it can be; whether it could.
    pub fn cancel(&mut self, call: CallId) -> bool {
        let before = self.queue.find(call).expect("known").state;
        let at = self.queue.number(call);
        let cancelled = self.queue.cancel(&mut self.memory, call);
        assert_eq!(cancelled.is_some(), !matches!(before, State::Dead | State::Done));
        let entry = self.ledger.get_mut(&call).expect("submitted");
        match cancelled {
            None => return false,
            Some(Cancel::Running { holder, epoch, .. }) => {
                assert_eq!(before, State::Leased(holder, epoch));
            }
            Some(Cancel::Ended { .. }) => {
                let now = self.queue.find(call).expect("known");
                let done = (now.state, now.status) == (State::Done, Some(Status::Cancelled));
                assert!(done || before == State::Appended, "{call} is {:?}", now.state);
                if before == State::Offered {
                    self.husks.insert(at.expect("offered"));
                }
                (entry.ended, entry.status) = (true, Some(Status::Cancelled));
            }
        }
        entry.cancel = true;
        self.retain(call);
        true
    }

    pub fn pause(&mut self, of: usize, paused: bool) {
        let at = self.queue.function(function(of)).expect("interned");
        self.queue.pause(at, paused);
        match paused {
            true => self.paused.insert(function(of)),
            false => self.paused.remove(&function(of)),
        };
    }

    pub fn give_back(&mut self, pick: usize) {
        if !self.offered.is_empty() {
            let at = self.offered.swap_remove(pick % self.offered.len());
            self.husks.remove(&at);
            self.queue.give_back(at);
        }
    }

    pub fn lose(&mut self, holder: HolderRef) -> usize {
        let mut lost = 0;
        while let Some(settled) = self.queue.lose_next(&mut self.memory, holder) {
            let lease = self.leased.iter().find(|(lease, _)| lease.call == settled.id).expect("leased").0;
            self.tried(&lease, holder, Status::WorkerLost);
            self.note(settled.id, settled.fate, Status::WorkerLost);
            lost += 1;
        }
        let held = self.leased.iter().filter(|(_, by)| *by == holder);
        self.stale.extend(held.map(|(lease, _)| *lease));
        self.leased.retain(|(_, by)| *by != holder);
        lost
    }

    /// A holder that goes on gives a lease back.
    pub fn return_lease(&mut self, pick: usize, begun: bool) -> Option<Settled> {
        if self.leased.is_empty() {
            return None;
        }
        let (lease, holder) = self.leased.swap_remove(pick % self.leased.len());
        let epoch = call::Epoch(lease.stamp);
        let settled = self.queue.return_lease(&mut self.memory, lease.call, epoch, begun);
        let settled = settled.expect("a live lease");
        if begun {
            self.tried(&lease, holder, Status::WorkerLost);
        }
        self.note(lease.call, settled.fate, Status::WorkerLost);
        let deliveries = self.queue.find(lease.call).map_or(0, |view| view.deliveries);
        self.ledger.get_mut(&lease.call).expect("submitted").begun = deliveries > 0;
        self.stale.push(lease);
        let again = self.queue.return_lease(&mut self.memory, lease.call, epoch, begun);
        assert!(again.is_err(), "a lease comes back once");
        Some(settled)
    }

    /// Late outcomes of leases that were lost change nothing.
    pub fn late_outcomes(&mut self) {
        for lease in std::mem::take(&mut self.stale) {
            let before = self.queue.find(lease.call).map(|view| (view.state, view.deliveries));
            let outcome = World::outcome_bytes(&lease, Status::Ok, 10);
            assert!(self.queue.settle(&mut self.memory, frame(&outcome), &RETRY, 0).is_err());
            let after = self.queue.find(lease.call).map(|view| (view.state, view.deliveries));
            assert_eq!(before, after);
        }
    }

    /// All that can run runs, until every call has ended.
    pub fn run_to_the_end(&mut self) {
        (0..3).for_each(|of| self.pause(of, false));
        (0..3).for_each(|of| self.rule(of, Rules::default()));
        for _ in 0..10_000 {
            self.settle_disk();
            self.advance(20_000_000_000);
            while (0..3).any(|of| self.poll(of)) {}
            while !self.offered.is_empty() {
                self.lease(0, HolderRef(0));
            }
            while self.settle(0, Status::Ok, 5).is_some() {}
            let open = self.ledger.values().any(|entry| entry.accepted && !entry.ended);
            if !open && self.queue.is_settled() {
                return;
            }
        }
        panic!("the queue does not come to an end: {:?}", self.queue.counters());
    }
}

/// How long the end of a call is remembered at least.
fn remembered_for(entry: &Entry, rules: &Rules) -> u64 {
    let keyed = frame(&aligned(&entry.frame)).header().flags & KEYED != 0;
    rules.retain_ns.max(if keyed { rules.window_ns } else { 0 })
}
