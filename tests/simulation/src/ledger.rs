//! The clients' ledger: what they meant, what they were told. Independent of everything that the platform counts.

use call::{CallId, FunctionId, Status, WallTime};
use std::collections::BTreeMap;

/// What a call must come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// How it ends.
    pub status: Status,
    /// What it returns.
    pub output: Vec<u8>,
}

/// A call as its client knows it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The frame as the client wrote it, without padding.
    pub frame: Vec<u8>,
    /// Its function.
    pub function: FunctionId,
    /// Not before.
    pub start_at: WallTime,
    /// The client waits for the outcome.
    pub want_outcome: bool,
    /// What it must come to.
    pub expected: Expected,
    /// When the client first heard that the queue holds it.
    pub acknowledged: Option<WallTime>,
    /// How it ended, as the client heard, or an operator was told.
    pub ended: Option<Status>,
    /// A record of it rotted, and the node said that it is lost.
    pub told_lost: bool,
    /// Executions that began.
    pub begun: u32,
    /// Executions that ended with the expected status.
    pub ran: u32,
}

/// All calls of all clients.
#[derive(Default)]
pub struct Ledger {
    calls: BTreeMap<CallId, Entry>,
}

impl Ledger {
    /// A client made a call.
    pub fn made(&mut self, call: CallId, entry: Entry) {
        let before = self.calls.insert(call, entry);
        assert!(before.is_none(), "a simulated client made one id twice");
    }

    /// A call, if a client made it.
    pub fn get(&self, call: CallId) -> Option<&Entry> {
        self.calls.get(&call)
    }

    /// All calls, by id.
    pub fn iter(&self) -> impl Iterator<Item = (CallId, &Entry)> {
        self.calls.iter().map(|(call, entry)| (*call, entry))
    }

    /// A core began to run a call.
    pub fn begun(&mut self, call: CallId) -> Result<(), String> {
        let entry =
            self.calls.get_mut(&call).ok_or(format!("conservation: {call} ran, and no client made it"))?;
        entry.begun += 1;
        Ok(())
    }

    /// A core ran a call to its end.
    pub fn ran(&mut self, call: CallId, status: Status) {
        if let Some(entry) = self.calls.get_mut(&call) {
            entry.ran += u32::from(entry.expected.status == status);
        }
    }

    /// A client heard that the queue holds its call. `as_new` says that the queue did not know it, nor may it have
    /// forgotten it because it has ended.
    pub fn acknowledged(&mut self, call: CallId, now: WallTime, as_new: bool) -> Result<(), String> {
        let entry = self
            .calls
            .get_mut(&call)
            .ok_or(format!("conservation: {call} was acknowledged, and no client made it"))?;
        if as_new && entry.told_lost {
            // From here on it may not be lost again.
            (entry.told_lost, entry.ended) = (false, None);
        } else if as_new && entry.acknowledged.is_some() {
            return Err(format!("durability: {call} was acknowledged, and then taken as new: it was lost"));
        }
        entry.acknowledged.get_or_insert(now);
        Ok(())
    }

    /// A client heard the outcome of its call, or an operator what became of it. `deliveries_out` says that the call
    /// was given up because its workers kept dying.
    pub fn ended(&mut self, call: CallId, is: &Expected, deliveries_out: bool) -> Result<(), String> {
        let entry =
            self.calls.get_mut(&call).ok_or(format!("conservation: {call} ended, and no client made it"))?;
        if is.status == Status::Damaged && entry.told_lost {
            entry.ended = Some(is.status);
            return Ok(());
        }
        if let Some(before) = entry.ended
            && before != is.status
            && !entry.told_lost
        {
            return Err(format!("conservation: {call} ended as {:?} and then as {:?}", before, is.status));
        }
        entry.ended = Some(is.status);
        if is.status == Status::WorkerLost && deliveries_out {
            return Ok(());
        }
        if *is != entry.expected {
            return Err(format!("conservation: {call} ended as {is:?} instead of {:?}", entry.expected));
        }
        if entry.ran == 0 {
            return Err(format!("conservation: {call} ended as {:?}, and no core ran it", is.status));
        }
        Ok(())
    }

    /// The node said that a record of this call is lost: it may be forgotten, end as damaged, or happen once more.
    pub fn told_lost(&mut self, call: CallId) {
        if let Some(entry) = self.calls.get_mut(&call) {
            entry.told_lost = true;
        }
    }

    /// Whether that was said, and the call was not accepted anew since.
    pub fn is_told_lost(&self, call: CallId) -> bool {
        self.calls.get(&call).is_some_and(|entry| entry.told_lost)
    }

    /// What keeps the run from being over: an acknowledged call that has not ended, or one that was not acknowledged.
    pub fn unfinished(&self) -> Option<String> {
        let open = |entry: &Entry| entry.acknowledged.is_none() || entry.ended.is_none();
        let count = self.calls.values().filter(|entry| open(entry)).count();
        let (call, entry) = self.calls.iter().find(|(_, entry)| open(entry))?;
        let what = match (entry.acknowledged.is_some(), entry.begun) {
            (false, _) => "was never acknowledged",
            (true, 0) => "was acknowledged and never ran: it is lost or stuck",
            (true, _) => "was acknowledged, began, and never ended: it is lost or stuck",
        };
        Some(format!("{count} calls are not finished, the first: {call} {what}"))
    }
}
