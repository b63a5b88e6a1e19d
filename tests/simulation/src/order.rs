//! The order in which the calls of one function run, where it is promised: those that are due at once and fit the
//! FuncBuffer, of a function that runs one call at a time, in a world without faults.

use crate::scenario::{ORDERED, id};
use crate::witness::Witness;
use call::frame::{Frame, FrameBuf};
use call::{CallId, WallTime};
use std::cmp::Reverse;

/// Checks the leases from the `begin`-th on.
pub(crate) fn check(witness: &Witness, begin: usize) -> Result<(), String> {
    let leases = witness.leases.order[begin..].iter();
    let leases = leases.filter(|(of, _)| *of == id(ORDERED)).map(|(_, call)| *call);
    // A full queue takes some of the calls only when others have ended already.
    let calls: Vec<CallId> = leases.filter(|call| in_time(witness, *call)).collect();
    for pair in calls.windows(2) {
        let (before, after) = (importance(witness, pair[0]), importance(witness, pair[1]));
        if before > after {
            let text = format!("order: {} with {before:?} ran before {} with {after:?}", pair[0], pair[1]);
            return Err(text);
        }
    }
    Ok(())
}

/// Whether the call was in the queue when it became due.
fn in_time(witness: &Witness, call: CallId) -> bool {
    let entry = witness.ledger.get(call).expect("another checker holds that leased calls were made");
    entry.acknowledged.is_some_and(|at| at < entry.start_at)
}

/// The more important, the smaller: criticality, then deadline.
fn importance(witness: &Witness, call: CallId) -> (Reverse<u8>, WallTime) {
    let entry = witness.ledger.get(call).expect("as above");
    let mut aligned = FrameBuf::new();
    aligned.extend_from_slice(&entry.frame);
    let (frame, _) = Frame::parse(&aligned).expect("as its client wrote it");
    (Reverse(frame.criticality()), frame.deadline())
}
