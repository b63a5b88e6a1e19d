//! The admin side at the end of a run: asks the node what became of the calls whose clients did not wait, and whether
//! it holds anything still.

use crate::ledger::Expected;
use crate::peer::{News, Peer};
use crate::process::Process;
use crate::scenario::ATTEMPTS;
use crate::witness::Shared;
use call::admin::{Answer, Ask, CallState, NodeStatus};
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::{CallId, Instant, Status};
use driver::sim::ProcessId;
use driver::{Arrivals, Driver};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(50);
/// Calls asked about in one round.
const QUESTIONS: usize = 64;

/// See the module.
pub struct Operator {
    peer: Peer,
    witness: Shared,
    arrivals: Arrivals,
    ask_at: Instant,
    /// What was asked, by correlation.
    asked: Vec<CallId>,
    status: Rc<RefCell<Option<NodeStatus>>>,
}

impl Operator {
    /// An operator that leaves what the node last said of itself in `status`.
    pub fn new(peer: Peer, witness: &Shared, status: &Rc<RefCell<Option<NodeStatus>>>) -> Operator {
        let (witness, status) = (witness.clone(), status.clone());
        Operator { peer, witness, arrivals: Arrivals::new(), ask_at: Instant(0), asked: Vec::new(), status }
    }

    fn ask(&mut self) {
        let witness = self.witness.borrow();
        let quiet = witness
            .ledger
            .iter()
            .filter(|(_, e)| e.acknowledged.is_some() && !e.want_outcome && e.ended.is_none());
        let calls: Vec<CallId> = quiet.map(|(call, _)| call).take(QUESTIONS).collect();
        drop(witness);
        self.put(&Ask::Status, u64::MAX);
        for call in calls {
            self.asked.push(call);
            self.put(&Ask::Call { call: call.to_string(), wait_ms: 0 }, self.asked.len() as u64 - 1);
        }
    }

    fn put(&mut self, ask: &Ask, stamp: u64) {
        let mut frame = FrameBuf::new();
        let body = serde_json::to_vec(ask).expect("plain words");
        append(&mut frame, &Header { stamp, ..Header::new(Kind::Ask) }, &body);
        // What does not fit is asked again in the next round.
        let _ = self.peer.send(&frame);
    }

    fn answer(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let answer = serde_json::from_slice(frame.body()).map_err(|error| format!("an answer: {error}"))?;
        match answer {
            Answer::Status(status) => {
                *self.status.borrow_mut() = Some(status);
                Ok(())
            }
            Answer::Call(state) => self.call(&state),
            Answer::Error { code, .. } if code == "not-found" => {
                let call = self.asked.get(frame.stamp() as usize).ok_or("the status was not found")?;
                self.forgotten(*call)
            }
            other => Err(format!("the node answered {other:?}")),
        }
    }

    /// The node does not know an acknowledged call. It remembers calls that have ended for a while; others for ever.
    fn forgotten(&mut self, call: CallId) -> Result<(), String> {
        let witness = &mut *self.witness.borrow_mut();
        if witness.ledger.is_told_lost(call) {
            return witness.ledger.ended(
                call,
                &Expected { status: Status::Damaged, output: Vec::new() },
                false,
            );
        }
        let Some(status) = witness.leases.final_status(call) else {
            return Err(format!(
                "durability: {call} was acknowledged and has not ended, and the node forgot it"
            ));
        };
        let entry = witness.ledger.get(call).expect("calls of the ledger are asked about");
        let output = entry.expected.output.clone();
        witness.ledger.ended(call, &Expected { status, output }, witness.leases.deliveries_out(call))
    }

    fn call(&mut self, state: &CallState) -> Result<(), String> {
        let call: CallId = state.call.parse().map_err(|error| format!("{error}"))?;
        let status = match (state.state.as_str(), state.status) {
            ("done" | "dead", Some(status)) => status,
            ("done" | "dead", None) => return Err(format!("{call} is {} with no status", state.state)),
            _ => return Ok(()),
        };
        let witness = &mut *self.witness.borrow_mut();
        let given_up = witness.leases.deliveries_out(call);
        let Some(entry) = witness.ledger.get(call) else {
            return Err(format!("conservation: the node answered about {call}, which no client made"));
        };
        if state.state == "dead" && !given_up && !witness.ledger.is_told_lost(call) {
            attempts(state)?;
        }
        // The output of a call whose client did not wait is not kept.
        let output = entry.expected.output.clone();
        witness.ledger.ended(call, &Expected { status, output }, given_up)
    }
}

/// A dead letter lists its attempts: as many as were made, in their order, and the last is how it ended.
fn attempts(state: &CallState) -> Result<(), String> {
    if state.history.as_ref().is_some_and(|history| history.partial) {
        // There was no memory for more, and it says so.
        return Ok(());
    }
    let listed = state.history.iter().flat_map(|history| &history.attempts);
    let earlier = state.history.as_ref().map_or(0, |history| history.earlier as usize);
    let failed = earlier + listed.clone().filter(|attempt| attempt.status != Status::WorkerLost).count();
    let numbers: Vec<u16> = listed.clone().map(|attempt| attempt.number).collect();
    let last = listed.last().is_some_and(|last| Some(last.status) == state.status && !last.worker.is_empty());
    if failed >= usize::from(ATTEMPTS) && numbers.is_sorted_by(|a, b| a < b) && last {
        return Ok(());
    }
    Err(format!(
        "attempts: {} is dead after {} deliveries, and they are {:?}",
        state.call, state.attempts, state.history
    ))
}

impl Process for Operator {
    fn id(&self) -> ProcessId {
        self.peer.id()
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let mut result = Ok(());
        for news in self.peer.round(self.ask_at, &mut arrivals) {
            if let News::Frame(frame) = news {
                result = result.and(self.answer(&frame));
            }
        }
        self.arrivals = arrivals;
        let now = self.peer.driver.now();
        if now >= self.ask_at {
            if self.peer.is_up() {
                self.ask();
            }
            self.ask_at = now + PAUSE;
        }
        result
    }
}
