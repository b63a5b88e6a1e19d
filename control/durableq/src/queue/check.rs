//! The invariants of the queue as a whole.

use super::{DurableQ, What};
use crate::table::calls::{CUT, Call, NONE, Place, flag};
use crate::words::{CallRef, FunctionRef};
use std::collections::BTreeMap;

impl DurableQ {
    /// The invariants of the whole queue. For tests: it walks over everything, and allocates.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.log.check();
        self.log.segments.check(&self.calls);
        self.calls.check();
        self.starts.check(&self.calls);
        // One that the scheduler holds keeps the time of rules that have changed since.
        let held = |at: CallRef| self.calls[at].place() == Place::Offered;
        self.expiries.check(&self.calls, |at, when| held(at) || self.expires_at(at) == Some(when));
        self.ended.check();
        self.retained.check();
        self.check_retained();
        self.check_places();
        self.check_blobs();
        self.check_functions();
        self.check_memory();
        self.check_waits();
        self.check_backlog();
    }

    /// A call whose frame is in memory says of it whether it names a blob.
    fn check_blobs(&self) {
        for (at, call) in self.calls.iter() {
            if let Some(submit) = self.view(at).and_then(|view| view.submit) {
                let names = submit.flags() & call::frame::flag::BLOB != 0;
                assert_eq!(call.names_blob(), names, "whether {} names a blob", call.id);
            }
        }
    }

    /// Each call is found by its id, and in the structure that its place names, once.
    fn check_places(&self) {
        let mut seen: BTreeMap<CallRef, Place> = BTreeMap::new();
        let mut see = |at: CallRef, place: Place| {
            let before = seen.insert(at, place);
            assert_eq!((before, self.calls[at].place()), (None, place), "place of {}", self.calls[at].id);
        };
        self.starts.iter(&self.calls).for_each(|at| see(at, Place::Scheduled));
        self.dead.iter(&self.calls).for_each(|at| see(at, Place::Dead));
        for (holder, at) in self.holders.iter(&self.calls) {
            assert_eq!(self.calls.progress(at).holder, holder, "holder of {}", self.calls[at].id);
            see(at, Place::Leased);
        }
        for function in (0..self.functions()).map(FunctionRef) {
            let due = &self.functions[function].due;
            let turns: Vec<u64> = due.iter(&self.calls).map(|at| self.calls[at].turn()).collect();
            assert!(turns.is_sorted_by(|a, b| a < b), "turns of {}: {turns:?}", self.function_id(function));
            due.iter(&self.calls).for_each(|at| see(at, Place::Due));
        }
        let husks = self.calls.iter().filter(|(_, call)| call.place() == Place::Husk).count();
        for (at, call) in self.calls.iter().filter(|(_, call)| call.place() != Place::Husk) {
            assert!(
                !call.is(flag::HELD) || matches!(call.place(), Place::Ending | Place::Dead),
                "{} is held and {:?}",
                call.id,
                call.place()
            );
            let waits = matches!(call.place(), Place::Due | Place::Offered);
            let timed = waits && self.expires_at(at).is_some();
            assert!(
                timed == (self.calls.progress(at).timer != NONE)
                    || matches!(call.place(), Place::Offered | Place::Leased),
                "the timer of {}",
                call.id
            );
            assert_eq!(self.held(call.id), Some(at), "the id of {}", call.id);
            let listed = matches!(call.place(), Place::Scheduled | Place::Dead | Place::Leased | Place::Due);
            assert_eq!(seen.contains_key(&at), listed, "{} is {:?}", call.id, call.place());
        }
        assert_eq!(self.ids.len(), self.calls.len() - husks, "ids of calls that are gone");
    }

    fn check_functions(&self) {
        let mut pending = 0;
        for function in (0..self.functions()).map(FunctionRef) {
            let count = |places: &[Place]| {
                let of = self.calls.iter().filter(|(_, call)| call.function() == function);
                of.filter(|(_, call)| places.contains(&call.place())).count() as u32
            };
            let depth = self.depth(function);
            assert_eq!(
                depth.scheduled,
                count(&[Place::Appended, Place::Scheduled]),
                "scheduled of {function:?}"
            );
            assert_eq!(depth.due, count(&[Place::Due]), "due of {function:?}");
            assert_eq!(depth.offered, count(&[Place::Offered]), "offered of {function:?}");
            assert_eq!(depth.leased, count(&[Place::Leased]), "leased of {function:?}");
            assert_eq!(depth.dead, count(&[Place::Dead]), "dead of {function:?}");
            pending += u64::from(depth.scheduled + depth.due + depth.offered + depth.leased);
            let live = |call: &&Call| {
                let ended = matches!(call.place(), Place::Dead | Place::Ending | Place::Husk);
                call.function() == function && !ended
            };
            let of = self.calls.iter().map(|(_, call)| call).filter(live);
            let bytes: usize = of.map(|call| call.length()).sum();
            assert_eq!(depth.bytes, bytes as u64, "bytes of {function:?}");
        }
        assert_eq!(self.pending, pending, "calls accepted and not ended");
        self.check_tenants();
        let leased = self.calls.iter().filter(|(_, call)| call.place() == Place::Leased).count();
        assert_eq!(self.leased, leased as u64, "leases");
        assert!(self.dead.len <= self.dead_letters_max.max(1), "dead letters");
    }

    /// Each segment is kept for as many ends as have their records in it.
    fn check_retained(&self) {
        let (oldest, ends) = self.log.segments.ends();
        for (index, count) in ends.enumerate() {
            let ordinal = oldest + index as u32;
            let here = self.retained.iter().filter(|ended| ended.segment == ordinal).count();
            assert_eq!(count as usize, here, "ends of segment {ordinal}");
        }
        assert!(self.retained.iter().all(|ended| ended.segment == NONE || ended.segment >= oldest));
    }

    /// What is counted of a tenant is what its functions have pending.
    fn check_tenants(&self) {
        let mut sums = vec![(0, 0); self.tenants.len()];
        for function in (0..self.functions()).map(FunctionRef) {
            let of = &self.functions[function];
            let sum = &mut sums[usize::from(of.rules.tenant)];
            *sum = (sum.0 + self.pending_of(function), sum.1 + of.bytes);
        }
        let counted = self.tenants.iter().map(|tenant| (tenant.calls, tenant.bytes));
        assert!(counted.eq(sums), "what tenants have pending");
    }

    /// Every byte in the store is of a call or of a kept outcome, and every call that may run has its frame.
    fn check_memory(&self) {
        let calls =
            self.calls.iter().map(|(at, call)| call.resident() + self.calls.progress(at).outcome.bytes());
        let ended = self.ended.iter().chain(self.retained.iter()).map(|ended| ended.outcome.bytes());
        assert_eq!(calls.chain(ended).sum::<usize>(), self.store.bytes(), "bytes in the store");
        let husk = |call: &Call| call.place() == Place::Husk;
        for (_, call) in self.calls.iter() {
            assert_eq!(
                call.length() > 0,
                call.place() != Place::Ending && !husk(call),
                "the frame of {}",
                call.id
            );
            let moves = matches!(call.place(), Place::Appended | Place::Offered | Place::Leased);
            assert!(!moves || call.is(flag::HERE), "the frame of {} is needed", call.id);
            assert!(!call.is_parked() || call.offset != CUT, "where the frame of {} is", call.id);
        }
        let calls = || self.calls.iter().map(|(_, call)| call);
        assert_eq!(calls().map(|call| call.length() as u64).sum::<u64>(), self.lengths, "bytes of frames");
        assert_eq!(calls().map(|call| call.resident() as u64).sum::<u64>(), self.resident, "bytes in memory");
        let parked = calls().filter(|call| call.is_parked()).count();
        assert_eq!(parked as u64, self.counters.parked_now, "frames on disk only");
        self.reader.check();
        let histories = self.calls.iter().filter_map(|(at, _)| self.history_of(at));
        let lost = call::History::LOST;
        let kept = histories.filter(|history| *history != lost).map(|history| history.bytes().len());
        assert_eq!(kept.sum::<usize>(), self.histories.bytes(), "bytes of histories");
        for (at, call) in self.calls.iter().filter(|(_, call)| call.is(flag::READING)) {
            let place = call.record();
            let wants = self.reader.iter().filter(|want| want.call == at && want.place == place).count();
            assert!(wants == 1 && call.is_parked(), "{} is read {wants} times", call.id);
        }
        let pins = self.log.segments.pins();
        let husks = self.calls.iter().filter(|(_, call)| husk(call)).count();
        assert_eq!(pins as usize, self.calls.len() - husks, "each call is pinned to a segment");
    }

    /// Waits are in the order of groups, and a call that is not on disk waits for that, once.
    fn check_waits(&self) {
        assert!(self.waits.iter().map(|wait| wait.group).is_sorted(), "waits in order");
        assert!(self.waits.iter().all(|wait| wait.group <= self.log.last()), "groups to come");
        let mut accepted: Vec<u32> = self
            .waits
            .iter()
            .filter_map(|wait| match wait.what {
                What::Accepted(at) => Some(at.0),
                _ => None,
            })
            .collect();
        accepted.sort_unstable();
        let appended = self.calls.iter().filter(|(_, call)| call.place() == Place::Appended);
        assert!(appended.map(|(at, _)| at.0).eq(accepted), "calls that are not on disk");
    }

    fn check_backlog(&self) {
        let mut noted = Vec::new();
        let mut next = self.backlog_head;
        while next != NONE {
            noted.push(next);
            next = self.calls.progress(CallRef(next)).backlog;
        }
        noted.sort_unstable();
        let flagged = self.calls.iter().filter(|(_, call)| call.is(flag::BACKLOG));
        assert!(flagged.map(|(at, _)| at.0).eq(noted), "calls whose state is not in the log");
        let ending = self.calls.iter().filter(|(_, call)| call.place() == Place::Ending);
        ending.for_each(|(_, call)| assert!(call.is(flag::BACKLOG), "the end of {} is written", call.id));
    }
}
