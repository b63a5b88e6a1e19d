//! The process of a [`World`] dies, and another one recovers what is on the disk.

use super::{Memory, World};
use call::{CallId, Status};
use durableq::{DurableQ, State};

impl World {
    /// The process dies: each sector of a write in flight is on the disk or not.
    pub fn crash(&mut self) {
        self.crashes += 1;
        let mut random = self.random;
        for flight in std::mem::take(&mut self.disk.flights) {
            // Often all or nothing, so that groups are missing in the middle.
            match random.below(4) {
                0 => {}
                1 => self.disk.apply(&flight, 0, flight.bytes.len()),
                2 => self.disk.apply(&flight, 0, random.below(flight.bytes.len())),
                _ => self.disk.tear(&mut random, &flight),
            }
        }
        for (segment, bytes) in std::mem::take(&mut self.disk.creating) {
            if random.below(2) == 0 {
                self.disk.files.insert(segment, vec![0; random.below(bytes)]);
            }
        }
        if let Some(change) = self.disk.relinking.take()
            && random.below(2) == 0
        {
            self.disk.apply_change(change);
        }
        self.random = random;
        self.disk.reads.clear();
        self.memory = Memory::new(&self.limits);
        self.stale.extend(self.leased.drain(..).map(|(lease, _)| lease));
        self.offered.clear();
        self.husks.clear();
        self.live = false;
        self.now += 1;
        self.queue = self.disk.recover(&self.limits, self.now).expect("a crash damages nothing");
        let all = self.disk.without_checkpoint().recover(&self.limits, self.now).expect("the same log");
        self.check_same(&all);
        self.intern();
        self.check_recovered();
    }

    /// The queue that was read from the last checkpoint on is the one that is read from the oldest segment on.
    pub fn check_same(&self, all: &DurableQ) {
        let waits = |queue: &DurableQ, id: CallId| {
            let view = queue.find(id).filter(|view| view.state != State::Done)?;
            // A checkpoint knows when one that was to start at once came in.
            let start_at = view.start_at.0.max(self.now);
            let history = view.history.map(|history| history.bytes().to_vec());
            Some((view.state, view.status, start_at, view.deliveries, view.bytes, view.names_blob, history))
        };
        for id in self.ledger.keys() {
            assert_eq!(
                waits(&self.queue, *id),
                waits(all, *id),
                "{id} from the checkpoint, and from all of the log"
            );
        }
        let dead = |queue: &DurableQ| {
            let mut dead = Vec::new();
            queue.dead_letters(usize::MAX, &mut dead);
            dead.into_iter().map(|at| queue.view(at).expect("a dead letter").id).collect::<Vec<_>>()
        };
        assert_eq!(dead(&self.queue), dead(all), "dead letters by age");
        assert_eq!(self.queue.counters().recovered, all.counters().recovered, "calls that nobody submitted");
    }

    /// What was acknowledged is there, what was told to have ended does not run again, nothing else exists.
    fn check_recovered(&mut self) {
        self.queue.check();
        self.check_recovered_histories();
        for (id, entry) in &mut self.ledger {
            let view = self.queue.find(*id);
            let state = view.as_ref().map(|view| view.state);
            let status = view.as_ref().and_then(|view| view.status);
            let cancelled = entry.cancel && status == Some(Status::Cancelled);
            if entry.accepted && !entry.ended && !cancelled {
                assert!(
                    matches!(state, Some(State::Scheduled | State::Due)),
                    "{id} was accepted and is {state:?}"
                );
            }
            if entry.told_end {
                let ended = matches!(state, None | Some(State::Done | State::Dead));
                assert!(ended, "{id} has ended and is {state:?}");
            }
            let remembered = state.is_some() || entry.until <= self.now;
            assert!(!entry.told_end || remembered, "the end of {id} is forgotten before its time");
            if let Some(submit) = view.and_then(|view| view.submit) {
                assert_eq!(submit.bytes(), &entry.frame[..], "the bytes of {id}");
            }
            match state {
                Some(State::Scheduled | State::Due) => {
                    // An end that was not on disk is undone; a call whose verdict was not heard is there.
                    assert!(!entry.cancel_on_disk, "{id} was cancelled and runs again");
                    (entry.accepted, entry.ended, entry.dead) = (true, false, false);
                    (entry.cancel, entry.status) = (false, None);
                    entry.crashed = true;
                }
                Some(State::Dead) => {
                    (entry.accepted, entry.ended, entry.dead) = (true, true, true);
                    (entry.cancel, entry.status) = (false, status);
                }
                Some(_) => (entry.accepted, entry.ended, entry.status) = (true, true, status),
                None => {}
            }
        }
        // Calls that were never acknowledged and are not there: their clients may send them again.
        let queue = &self.queue;
        self.ledger.retain(|id, entry| entry.accepted || queue.find(*id).is_some());
    }
}
