//! What the ledger knows of the attempts of calls, beside what the queue lists.

use super::{Header, HolderRef, State, World};
use call::history::{ATTEMPTS_MAX, TEXT_BYTES_MAX};
use call::{Attempt, CallId, Status};

/// An attempt that did not end well.
#[derive(Clone, PartialEq, Debug)]
pub struct Tried {
    pub number: u16,
    pub began: u64,
    pub ended: u64,
    pub status: Status,
    pub worker: String,
    pub text: Vec<u8>,
    pub redriven: bool,
}

impl Tried {
    fn of(attempt: Attempt<'_>) -> Tried {
        Tried {
            number: attempt.number,
            began: attempt.began.0,
            ended: attempt.ended.0,
            status: attempt.status,
            worker: attempt.worker.to_owned(),
            text: attempt.text.to_vec(),
            redriven: attempt.redriven,
        }
    }
}

/// What a core is called.
pub fn name_of(holder: HolderRef) -> String {
    format!("host/{}", holder.0)
}

/// What an execution says that fails: sometimes more than is kept.
pub fn text_of(lease: &Header) -> Vec<u8> {
    let bytes = lease.stamp.wrapping_mul(97) % 400;
    (0..bytes).map(|at| (at ^ lease.stamp) as u8).collect()
}

fn kept(text: &[u8]) -> Vec<u8> {
    let half = TEXT_BYTES_MAX / 2;
    if text.len() <= TEXT_BYTES_MAX {
        text.to_vec()
    } else {
        [&text[..half], &text[text.len() - half..]].concat()
    }
}

impl World {
    /// An attempt ended so.
    pub fn tried(&mut self, lease: &Header, holder: HolderRef, status: Status) {
        let said = if status == Status::WorkerLost { Vec::new() } else { kept(&text_of(lease)) };
        let tried = Tried {
            number: lease.attempt,
            began: self.began[&lease.stamp] / 1_000_000 * 1_000_000,
            ended: self.now,
            status,
            worker: name_of(holder),
            text: said,
            redriven: false,
        };
        self.change_history(lease.call, |of| of.push(tried));
    }

    /// The history of a call is another one from now on; a crash may bring back those of before.
    pub fn change_history(&mut self, call: CallId, change: impl FnOnce(&mut Vec<Tried>)) {
        let entry = self.ledger.get_mut(&call).expect("submitted");
        let mut next = entry.histories.last().expect("the one it has").clone();
        change(&mut next);
        entry.histories.push(next);
    }

    /// All attempts of a call were before a redrive.
    pub fn redriven(&mut self, call: CallId) {
        self.change_history(call, |of| of.iter_mut().for_each(|tried| tried.redriven = true));
    }

    /// What the queue lists of each call is what happened to it; what it does not list it says.
    pub fn check_histories(&self) {
        for (id, entry) in &self.ledger {
            if let Some(listed) = self.listed(*id) {
                let tried = entry.histories.last().expect("the one it has");
                assert!(listed.is(tried), "attempts of {id}: {listed:?} of {tried:?}");
            }
        }
    }

    /// After a crash: the history of each call is one that it had since all was on disk.
    pub fn check_recovered_histories(&mut self) {
        let ids: Vec<CallId> = self.ledger.keys().copied().collect();
        for id in ids {
            let listed = self.listed(id);
            let entry = self.ledger.get_mut(&id).expect("listed");
            let Some(listed) = listed else { continue };
            let Some(had) = entry.histories.iter().rev().find(|had| listed.is(had)) else {
                panic!("attempts of {id} after a crash: {listed:?} of {:?}", entry.histories)
            };
            entry.histories = vec![had.clone()];
        }
    }

    /// All of it is on disk.
    pub fn histories_on_disk(&mut self) {
        for entry in self.ledger.values_mut() {
            entry.histories.drain(..entry.histories.len() - 1);
        }
    }

    /// What the queue says of a call that has not ended for good.
    fn listed(&self, id: CallId) -> Option<Listed> {
        let view = self.queue.find(id)?;
        if view.state == State::Done {
            assert!(view.history.is_none(), "{id} has ended");
            return None;
        }
        let Some(history) = view.history else { return Some(Listed::default()) };
        Some(Listed {
            attempts: history.attempts().map(Tried::of).collect(),
            earlier: history.earlier() as usize,
            partial: history.is_partial(),
        })
    }
}

/// What the queue says of the attempts of a call.
#[derive(Default, Debug)]
struct Listed {
    attempts: Vec<Tried>,
    earlier: usize,
    partial: bool,
}

impl Listed {
    /// Whether these are the last of those that were made, as many as should be, and the others are counted.
    fn is(&self, tried: &[Tried]) -> bool {
        let listed = self.attempts.len();
        // An attempt whose end no record tells, since the process died before it, is known by the number of a later one, if
        // a copy of the call's state has counted its lease.
        let untold =
            self.attempts.iter().zip(1..).map(|(tried, nth)| usize::from(tried.number).saturating_sub(nth));
        let made = tried.len() + untold.max().unwrap_or(0);
        let all = listed == tried.len().min(ATTEMPTS_MAX) && self.earlier >= tried.len() - listed;
        tried.ends_with(&self.attempts) && (all || self.partial) && self.earlier + listed <= made
    }
}
