//! A simulated client: makes calls, submits each until it hears a verdict, waits for outcomes, keeps the ledger.

use crate::ledger::{Entry, Expected};
use crate::peer::{News, Peer};
use crate::process::Process;
use crate::witness::Shared;
use call::body::{self, Arguments, Submit};
use call::frame::{Frame, FrameBuf, Kind};
use call::{CallId, Epoch, FunctionId, Instant, VerdictCode, WallTime};
use driver::sim::{ProcessId, Random};
use driver::{Arrivals, Driver};
use std::collections::BTreeMap;
use std::time::Duration;

/// A verdict that does not come in this time is asked for again.
const VERDICT: Duration = Duration::from_secs(1);
/// Wait after a refusal that says nothing of a wait, or a full connection.
const AGAIN: Duration = Duration::from_millis(10);

/// A call as the scenario wants it.
#[derive(Clone, Debug)]
pub struct Wish {
    /// When it is submitted.
    pub at: Instant,
    /// Which function.
    pub function: FunctionId,
    /// Script of the runtime, see [`runtime::scripted`].
    pub script: String,
    /// What it must come to.
    pub expected: Expected,
    /// Not before; zero for now.
    pub start_at: WallTime,
    /// To be done by; zero for the function's default.
    pub deadline: WallTime,
    /// Zero for the function's default.
    pub criticality: u8,
    /// Whether the client waits for the outcome.
    pub want_outcome: bool,
}

struct Open {
    frame: FrameBuf,
    /// When to submit it, the first time or again.
    submit_at: Instant,
    want_outcome: bool,
    submitted: bool,
    /// Submits on this connection whose outcome has not come.
    owed: u32,
}

/// See the module.
pub struct Client {
    peer: Peer,
    witness: Shared,
    arrivals: Arrivals,
    until: Instant,
    open: BTreeMap<CallId, Open>,
}

impl Client {
    /// A client with these wishes.
    pub fn new(peer: Peer, witness: &Shared, wishes: &[Wish], random: &mut Random) -> Client {
        let mut client = Client {
            peer,
            witness: witness.clone(),
            arrivals: Arrivals::new(),
            until: Instant(0),
            open: BTreeMap::new(),
        };
        wishes.iter().for_each(|wish| client.wish(wish, random));
        client
    }

    /// Makes a call of a wish.
    fn wish(&mut self, wish: &Wish, random: &mut Random) {
        let wall = self.peer.driver.wall();
        let chance = u128::from(random.bits()) << 64 | u128::from(random.bits());
        let call = CallId::new(wall.0 / 1_000_000, chance);
        let mut frame = FrameBuf::new();
        let submit = Submit {
            call,
            function: wish.function,
            start_at: wish.start_at,
            deadline: wish.deadline,
            criticality: wish.criticality,
            want_outcome: wish.want_outcome,
            arguments: Arguments { payload: wish.script.as_bytes(), attributes: &[] },
            ..Submit::default()
        };
        body::append_submit(&mut frame, &submit).expect("small arguments");
        let (parsed, _) = Frame::parse(&frame).expect("just encoded");
        let entry = Entry {
            frame: parsed.bytes().to_vec(),
            function: wish.function,
            start_at: wish.start_at,
            want_outcome: wish.want_outcome,
            expected: wish.expected.clone(),
            acknowledged: None,
            ended: None,
            told_lost: false,
            begun: 0,
            ran: 0,
        };
        self.witness.borrow_mut().ledger.made(call, entry);
        let (submit_at, want_outcome) = (wish.at, wish.want_outcome);
        let open = Open { frame, submit_at, want_outcome, submitted: false, owed: 0 };
        self.open.insert(call, open);
    }

    /// The connection was lost: what was submitted and is open is submitted again, also what waits for its outcome,
    /// so that it comes on the next connection.
    fn down(&mut self, now: Instant) {
        for open in self.open.values_mut().filter(|open| open.submitted) {
            (open.owed, open.submit_at) = (0, now);
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        match frame.kind() {
            Kind::Verdicts => {
                let verdicts = body::verdicts(frame.body()).map_err(|error| error.to_string())?;
                for verdict in verdicts {
                    let code = verdict.code().map_err(|error| error.to_string())?;
                    self.verdict(verdict.call(), code, verdict.retry_after_ms.to_native())?;
                }
                Ok(())
            }
            Kind::Outcome => self.outcome(frame),
            other => Err(format!("a client was sent a frame of kind {other:?}")),
        }
    }

    fn verdict(&mut self, call: CallId, code: VerdictCode, retry_after_ms: u32) -> Result<(), String> {
        if code.is_held() {
            let witness = &mut *self.witness.borrow_mut();
            let as_new = code == VerdictCode::Accepted && witness.leases.final_status(call).is_none();
            witness.ledger.acknowledged(call, self.peer.driver.wall(), as_new)?;
        }
        let now = self.peer.driver.now();
        let Some(open) = self.open.get_mut(&call) else { return Ok(()) };
        if code.is_held() {
            open.submit_at = Instant::NEVER;
            if !open.want_outcome {
                self.open.remove(&call);
            }
        } else if code.is_transient() {
            open.owed = open.owed.saturating_sub(1);
            open.submit_at = now + AGAIN.max(Duration::from_millis(retry_after_ms.into()));
        } else {
            return Err(format!("conservation: {call} was refused as {code:?}"));
        }
        Ok(())
    }

    fn outcome(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let call = frame.call();
        let status = frame.status().map_err(|error| error.to_string())?;
        let reply = body::reply(frame.body()).map_err(|error| error.to_string())?;
        let mut witness = self.witness.borrow_mut();
        // Without a lease's epoch the node tells the status alone; another checker holds that it may.
        let output = match witness.ledger.get(call) {
            Some(entry) if frame.epoch() == Epoch(0) => entry.expected.output.clone(),
            _ => reply.output.to_vec(),
        };
        let given_up = witness.leases.deliveries_out(call);
        witness.ledger.ended(call, &Expected { status, output }, given_up)?;
        // Who hears the outcome need not wait for the verdict, which may be lost.
        witness.ledger.acknowledged(call, self.peer.driver.wall(), false)?;
        // An outcome may be told once for each submit on this connection.
        match self.open.get_mut(&call) {
            Some(open) if open.owed > 0 => {
                // It stays: submitted twice by impatience, its outcome may be told twice.
                open.owed -= 1;
                (open.submitted, open.submit_at) = (false, Instant::NEVER);
            }
            _ => return Err(format!("conservation: the outcome of {call} was told once too often")),
        }
        Ok(())
    }

    /// Submits what is due; gives when the next is.
    fn submit_due(&mut self) -> Instant {
        let now = self.peer.driver.now();
        let mut next = Instant::NEVER;
        for open in self.open.values_mut() {
            if self.peer.is_up() && open.submit_at <= now {
                open.submit_at = match self.peer.send(&open.frame) {
                    Ok(()) => {
                        open.submitted = true;
                        open.owed += u32::from(open.want_outcome);
                        now + VERDICT
                    }
                    Err(_) => now + AGAIN,
                };
            }
            next = next.min(open.submit_at);
        }
        if self.peer.is_up() { next } else { Instant::NEVER }
    }
}

impl Process for Client {
    fn id(&self) -> ProcessId {
        self.peer.id()
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let mut result = Ok(());
        for news in self.peer.round(self.until, &mut arrivals) {
            match news {
                News::Up => {}
                News::Down => self.down(self.peer.driver.now()),
                News::Frame(frame) => result = result.and(self.frame(&frame)),
            }
        }
        self.arrivals = arrivals;
        self.until = self.submit_due();
        result
    }
}
