//! What an observer outside the node knows of each call: what was acknowledged, leased, answered and told. Each step is
//! held against what came before, so that a node which loses, repeats or hurries a call is caught where it does.

use call::CallId;
use std::collections::BTreeMap;

/// One call.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    /// Not before, Unix ns.
    start: u64,
    /// When its submitter heard that it is on disk, Unix ns.
    acknowledged: Option<u64>,
    /// Of its last lease.
    epoch: u64,
    /// A core has it, in this life of the node.
    is_leased: bool,
    /// A core said that it ended; a node that was killed may not have heard.
    answered: bool,
    /// Its submitter heard of its end.
    ended: bool,
}

/// What has come to pass, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    /// Calls sent.
    pub sent: usize,
    /// Of these, acknowledged.
    pub acknowledged: usize,
    /// Of these, ended, as far as core or submitter know.
    pub ended: usize,
    /// Leases.
    pub leases: usize,
}

/// All calls that were ever sent to one data directory.
#[derive(Default, Debug)]
pub struct Ledger {
    calls: BTreeMap<CallId, Known>,
    /// First leases of this life of the node, in the order in which they came.
    order: Vec<CallId>,
    leases: usize,
}

impl Ledger {
    /// A call is about to be sent.
    pub fn sent(&mut self, call: CallId, start: u64) {
        let is_new = self.calls.insert(call, Known { start, ..Known::default() }).is_none();
        assert!(is_new, "the test sent {call} twice");
    }

    /// Its submitter heard that it is on disk.
    pub fn acknowledged(&mut self, call: CallId, now: u64) {
        self.known(call).acknowledged = Some(now);
    }

    /// A core got it under this epoch.
    ///
    /// # Panics
    /// If it may not.
    pub fn leased(&mut self, call: CallId, epoch: u64, start: u64, now: u64) {
        self.leases += 1;
        self.order.push(call);
        let known = self.known(call);
        assert_eq!(start, known.start, "{call}: its start is not what was submitted");
        assert!(now >= start, "{call} was leased {} ns before its time", start - now);
        assert!(!known.is_leased, "{call} was leased twice: two epochs live, {} and {epoch}", known.epoch);
        assert!(epoch > known.epoch, "{call}: epoch {epoch} after {}", known.epoch);
        assert!(!known.ended, "{call} was leased again after its submitter heard of its end");
        (known.epoch, known.is_leased) = (epoch, true);
    }

    /// The core says that it ended.
    pub fn answered(&mut self, call: CallId) {
        self.known(call).answered = true;
    }

    /// Its submitter heard of its end.
    pub fn ended(&mut self, call: CallId) {
        let known = self.known(call);
        assert!(known.answered, "{call} ended without an execution that did");
        known.ended = true;
    }

    /// The node was killed, and all that it had sent has been heard.
    ///
    /// # Panics
    /// If its leases came out of order: a call before another one whose start was earlier, though that one was on disk
    /// before either was due.
    pub fn killed(&mut self) {
        let mut latest = (0, CallId(0));
        let mut was_leased = BTreeMap::new();
        for call in std::mem::take(&mut self.order) {
            self.assert_in_order(call, latest);
            latest = latest.max((self.calls[&call].start, call));
            was_leased.insert(call, ());
        }
        for (call, known) in &self.calls {
            if known.acknowledged.is_some() && !known.answered && !was_leased.contains_key(call) {
                self.assert_in_order(*call, latest);
            }
        }
        self.calls.values_mut().for_each(|known| known.is_leased = false);
    }

    /// `call` came after the one with the latest start, or not at all.
    fn assert_in_order(&self, call: CallId, (latest, other): (u64, CallId)) {
        let Known { start, acknowledged, .. } = self.calls[&call];
        let passed = start < latest && acknowledged.is_some_and(|at| at < latest);
        assert!(!passed, "{other} passed {call}, whose start is {} ns earlier", latest - start.min(latest));
    }

    /// A node that was started again holds so many calls.
    ///
    /// # Panics
    /// If that is fewer than it must hold, or more than there can be.
    pub fn recovered(&self, pending: u64) {
        let count = |is: fn(&Known) -> bool| self.calls.values().filter(|known| is(known)).count() as u64;
        let least = count(|known| known.acknowledged.is_some() && !known.answered);
        let most = count(|known| !known.ended);
        assert!(
            (least..=most).contains(&pending),
            "{pending} calls were recovered: at least {least} were acknowledged and have not ended, \
             at most {most} may be there"
        );
    }

    /// Acknowledged calls of which no end is known.
    pub fn open(&self) -> Vec<CallId> {
        let is_open = |known: &Known| known.acknowledged.is_some() && !known.answered;
        self.calls.iter().filter(|(_, known)| is_open(known)).map(|(call, _)| *call).collect()
    }

    /// In numbers.
    pub fn sums(&self) -> Sums {
        let acknowledged = || self.calls.values().filter(|known| known.acknowledged.is_some());
        Sums {
            sent: self.calls.len(),
            acknowledged: acknowledged().count(),
            ended: acknowledged().filter(|known| known.answered).count(),
            leases: self.leases,
        }
    }

    fn known(&mut self, call: CallId) -> &mut Known {
        self.calls.get_mut(&call).unwrap_or_else(|| panic!("{call} was never sent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: CallId = CallId(1);
    const B: CallId = CallId(2);

    /// Both on disk before either is due, A first.
    fn two() -> Ledger {
        let mut ledger = Ledger::default();
        for (call, start) in [(A, 100), (B, 200)] {
            ledger.sent(call, start);
            ledger.acknowledged(call, 50);
        }
        ledger
    }

    #[test]
    fn what_is_right_passes() {
        let mut ledger = two();
        ledger.leased(A, 1, 100, 100);
        ledger.leased(B, 2, 200, 210);
        ledger.answered(A);
        ledger.ended(A);
        ledger.killed();
        ledger.recovered(1);
        ledger.leased(B, 3, 200, 300);
        assert_eq!(ledger.open(), [B]);
        ledger.answered(B);
        ledger.killed();
        ledger.recovered(0);
        ledger.recovered(1);
        assert_eq!(ledger.sums(), Sums { sent: 2, acknowledged: 2, ended: 2, leases: 3 });
        // Who came late may be passed.
        ledger.sent(CallId(3), 10);
        ledger.acknowledged(CallId(3), 500);
        ledger.sent(CallId(4), 400);
        ledger.leased(CallId(4), 4, 400, 400);
        ledger.leased(CallId(3), 5, 10, 501);
        ledger.killed();
    }

    #[test]
    #[should_panic(expected = "before its time")]
    fn canary_a_call_before_its_time_is_caught() {
        two().leased(A, 1, 100, 99);
    }

    #[test]
    #[should_panic(expected = "two epochs live")]
    fn canary_a_second_live_lease_is_caught() {
        let mut ledger = two();
        ledger.leased(A, 1, 100, 100);
        ledger.leased(A, 2, 100, 100);
    }

    #[test]
    #[should_panic(expected = "epoch 1 after 1")]
    fn canary_an_epoch_that_comes_again_is_caught() {
        let mut ledger = two();
        ledger.leased(A, 1, 100, 100);
        ledger.killed();
        ledger.leased(A, 1, 100, 100);
    }

    #[test]
    #[should_panic(expected = "passed")]
    fn canary_a_call_that_passes_an_earlier_one_is_caught() {
        let mut ledger = two();
        ledger.leased(B, 1, 200, 200);
        ledger.leased(A, 2, 100, 200);
        ledger.killed();
    }

    #[test]
    #[should_panic(expected = "passed")]
    fn canary_a_call_that_never_comes_is_caught() {
        let mut ledger = two();
        ledger.leased(B, 1, 200, 200);
        ledger.killed();
    }

    #[test]
    #[should_panic(expected = "1 calls were recovered: at least 2")]
    fn canary_a_lost_call_is_caught() {
        two().recovered(1);
    }

    #[test]
    #[should_panic(expected = "after its submitter heard of its end")]
    fn canary_a_call_that_runs_after_its_end_is_caught() {
        let mut ledger = two();
        ledger.leased(A, 1, 100, 100);
        ledger.answered(A);
        ledger.ended(A);
        ledger.killed();
        ledger.leased(A, 2, 100, 100);
    }
}
