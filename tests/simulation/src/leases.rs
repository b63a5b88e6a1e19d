//! What passes the node's door, frame by frame: leases, credits, outcomes. The checkers here know the protocol and
//! nothing of how the node keeps it.

use crate::ledger::Ledger;
use call::frame::{Frame, Kind};
use call::{CallId, Epoch, FunctionId, Status, WallTime};
use driver::ConnectionId;
use std::collections::{BTreeMap, BTreeSet};

/// What the node promises, as numbers.
#[derive(Clone, Debug)]
pub struct Promises {
    /// Calls of each function that run at once.
    pub concurrency: BTreeMap<FunctionId, u32>,
    /// Executions of a call that fails before it is dead.
    pub attempts: u16,
    /// Deliveries of one call, as the node counts them from its start on.
    pub deliveries_max: u32,
    /// Calls that the node holds at once.
    pub calls_max: usize,
    /// There is memory for every outcome that a client waits for. (A queue whose memory is full of calls tells the
    /// status alone, and says so.)
    pub outcomes_kept: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    epoch: Epoch,
    to: ConnectionId,
    function: FunctionId,
}

/// An outcome that the node heard under a live lease: what it may tell.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fair {
    epoch: Epoch,
    status: Status,
    body: Vec<u8>,
}

#[derive(Default)]
struct Door {
    granted: u64,
    leased: u64,
}

/// What the node did, over all its lives.
pub struct Leases {
    promises: Promises,
    doors: BTreeMap<ConnectionId, Door>,
    live: BTreeMap<CallId, Lease>,
    /// Ended well in this life of the node; a crash may forget it.
    ended: BTreeSet<CallId>,
    /// Accepted by the node and not known to have ended.
    held: BTreeSet<CallId>,
    /// Told to a client to have ended, on disk, and in which life of the node.
    told: BTreeMap<CallId, u64>,
    /// Submitted in this life of the node, after an earlier one told that it ended.
    anew: BTreeSet<CallId>,
    life: u64,
    /// The latest time that the wall clock has shown: what was due then is due, though the clock was set back.
    latest: WallTime,
    fair: BTreeMap<CallId, Vec<Fair>>,
    epochs: BTreeSet<Epoch>,
    newest: BTreeMap<CallId, Epoch>,
    deliveries: BTreeMap<CallId, u32>,
    /// As above, in this life of the node.
    deliveries_now: BTreeMap<CallId, u32>,
    /// Leases in the order in which they were sent, for the checks of order.
    pub order: Vec<(FunctionId, CallId)>,
    /// Outcomes of another epoch than the live one that the node heard.
    pub stale: u64,
    /// Outcomes that were told without what the call returned, for want of memory.
    pub not_kept: u64,
    /// Calls that had been told to have ended and were accepted again.
    pub again: u64,
}

impl Leases {
    /// Nothing has happened.
    pub fn new(promises: Promises) -> Leases {
        Leases {
            promises,
            doors: BTreeMap::new(),
            live: BTreeMap::new(),
            ended: BTreeSet::new(),
            held: BTreeSet::new(),
            told: BTreeMap::new(),
            anew: BTreeSet::new(),
            life: 0,
            latest: WallTime(0),
            fair: BTreeMap::new(),
            epochs: BTreeSet::new(),
            newest: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            deliveries_now: BTreeMap::new(),
            order: Vec::new(),
            stale: 0,
            not_kept: 0,
            again: 0,
        }
    }

    /// The node leased calls to a core and its driver did not take the frames: for the node these are deliveries.
    pub fn not_taken(&mut self, frame: &Frame<'_>) {
        if frame.kind() == Kind::Lease {
            *self.deliveries.entry(frame.call()).or_default() += 1;
        }
    }

    /// How often a call was leased.
    pub fn deliveries(&self, call: CallId) -> u32 {
        self.deliveries.get(&call).copied().unwrap_or(0)
    }

    /// Whether a call was leased as often as it may be.
    pub fn deliveries_out(&self, call: CallId) -> bool {
        self.deliveries(call) >= self.promises.deliveries_max
    }

    /// How a call ended, if it has: the queue may forget it then.
    pub fn final_status(&self, call: CallId) -> Option<Status> {
        let fair = self.fair.get(&call).map_or(&[][..], |fair| fair);
        if let Some(ok) = fair.iter().find(|fair| fair.status.is_ok()) {
            return Some(ok.status);
        }
        if fair.len() >= usize::from(self.promises.attempts) {
            return fair.last().map(|fair| fair.status);
        }
        self.deliveries_out(call).then_some(Status::WorkerLost)
    }

    /// Leases in all.
    pub fn count(&self) -> u64 {
        self.epochs.len() as u64
    }

    /// The node died: its connections are gone, and what it had not made sure.
    pub fn node_died(&mut self) {
        self.doors.clear();
        self.live.clear();
        self.ended.clear();
        self.deliveries_now.clear();
        self.anew.clear();
        self.life += 1;
    }

    /// The node said that a record of this call is lost: its end may be forgotten, or its submit.
    pub fn told_lost(&mut self, call: CallId) {
        self.told.remove(&call);
        self.held.remove(&call);
    }

    /// The node closed a connection, or heard that it is gone.
    pub fn gone(&mut self, connection: ConnectionId) {
        self.doors.remove(&connection);
        self.live.retain(|_, lease| lease.to != connection);
    }

    /// The wall clock shows this.
    pub fn clock(&mut self, wall: WallTime) {
        self.latest = self.latest.max(wall);
    }

    /// The node sent a frame.
    pub fn sent(&mut self, to: ConnectionId, frame: &Frame<'_>, ledger: &Ledger) -> Result<(), String> {
        match frame.kind() {
            Kind::Lease => self.leased(to, frame, ledger),
            Kind::Outcome => self.told(frame, ledger),
            Kind::Verdicts => self.judged(frame),
            _ => Ok(()),
        }
    }

    /// The node heard a frame.
    pub fn heard(&mut self, from: ConnectionId, frame: &Frame<'_>) -> Result<(), String> {
        match frame.kind() {
            Kind::Submit if self.told.get(&frame.call()).is_some_and(|life| *life < self.life) => {
                self.anew.insert(frame.call());
            }
            Kind::Credit => {
                let door = self.doors.entry(from).or_default();
                door.granted = door.granted.max(frame.stamp());
            }
            Kind::Outcome => self.outcome(frame)?,
            _ => {}
        }
        Ok(())
    }

    fn judged(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let verdicts = call::body::verdicts(frame.body()).map_err(|error| error.to_string())?;
        for verdict in verdicts {
            if verdict.code() == Ok(call::VerdictCode::Accepted) {
                self.begins_anew(verdict.call());
                self.held.insert(verdict.call());
            }
        }
        let (held, most) = (self.held.len(), self.promises.calls_max);
        if held > most {
            return Err(format!("bounds: the node holds {held} calls, its limit is {most}"));
        }
        Ok(())
    }

    fn leased(&mut self, to: ConnectionId, frame: &Frame<'_>, ledger: &Ledger) -> Result<(), String> {
        let (call, epoch) = (frame.call(), frame.epoch());
        let Some(entry) = ledger.get(call) else {
            return Err(format!("conservation: {call} was leased, and no client made it"));
        };
        if frame.body() != entry.frame {
            return Err(format!("one encode: the lease of {call} holds other bytes than its client wrote"));
        }
        if self.latest < entry.start_at {
            let early = entry.start_at.since(self.latest);
            return Err(format!("order: {call} was leased {early:?} before its start time"));
        }
        self.check_epoch(call, epoch)?;
        let door = self.doors.entry(to).or_default();
        door.leased += 1;
        if door.leased > door.granted {
            let Door { granted, leased } = door;
            return Err(format!("bounds: {leased} leases went to a core that granted {granted}"));
        }
        *self.deliveries.entry(call).or_default() += 1;
        let deliveries = self.deliveries_now.entry(call).or_default();
        *deliveries += 1;
        if *deliveries > self.promises.deliveries_max {
            return Err(format!("bounds: {call} was delivered {deliveries} times"));
        }
        self.live.insert(call, Lease { epoch, to, function: entry.function });
        self.order.push((entry.function, call));
        let running = self.live.values().filter(|lease| lease.function == entry.function).count();
        let most = self.promises.concurrency[&entry.function];
        if running > most as usize {
            return Err(format!("bounds: {running} calls of one function run, its concurrency is {most}"));
        }
        Ok(())
    }

    /// The queue remembers for a while what has ended: a call that is submitted again after that, and after the node
    /// was started again, is a new one. The report counts these.
    fn begins_anew(&mut self, call: CallId) {
        if self.anew.remove(&call) && self.told.remove(&call).is_some() {
            self.again += 1;
        }
    }

    fn check_epoch(&mut self, call: CallId, epoch: Epoch) -> Result<(), String> {
        if let Some(lease) = self.live.get(&call) {
            return Err(format!(
                "epochs: {call} has the live epoch {} and was leased as {epoch}",
                lease.epoch
            ));
        }
        self.begins_anew(call);
        if self.told.contains_key(&call) {
            return Err(format!("durability: {call} was leased after its client was told that it ended"));
        }
        if self.ended.contains(&call) {
            return Err(format!("epochs: {call} was leased after it had ended well"));
        }
        if !self.epochs.insert(epoch) {
            return Err(format!("epochs: {epoch} was given twice, the second time to {call}"));
        }
        match self.newest.insert(call, epoch) {
            Some(before) if before >= epoch => {
                Err(format!("epochs: {call} went from {before} back to {epoch}"))
            }
            _ => Ok(()),
        }
    }

    fn outcome(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let (call, epoch) = (frame.call(), frame.epoch());
        let status = frame.status().map_err(|error| error.to_string())?;
        match self.live.get(&call) {
            // The epoch fences, not the connection.
            Some(lease) if lease.epoch == epoch => {}
            _ => {
                self.stale += 1;
                return Ok(());
            }
        }
        self.live.remove(&call);
        let fair = self.fair.entry(call).or_default();
        fair.push(Fair { epoch, status, body: frame.body().to_vec() });
        if status.is_ok() {
            self.ended.insert(call);
        }
        if status.is_ok() || fair.len() >= usize::from(self.promises.attempts) {
            self.held.remove(&call);
        }
        Ok(())
    }

    /// The node told a client how its call ended.
    fn told(&mut self, frame: &Frame<'_>, ledger: &Ledger) -> Result<(), String> {
        let (call, epoch) = (frame.call(), frame.epoch());
        let status = frame.status().map_err(|error| error.to_string())?;
        let fair = self.fair.get(&call).map_or(&[][..], |fair| fair);
        let heard = fair.iter().any(|f| f.epoch == epoch && f.status == status && f.body == frame.body());
        // Without a lease's epoch: the node's own words about a call whose outcome it does not have.
        let not_kept = epoch == Epoch(0) && fair.iter().any(|f| f.status == status);
        if not_kept
            && self.promises.outcomes_kept
            && status != Status::WorkerLost
            && !ledger.is_told_lost(call)
        {
            return Err(format!("conservation: the outcome of {call} was told without what it returned"));
        }
        self.not_kept += u64::from(not_kept);
        let given_up = epoch == Epoch(0) && status == Status::WorkerLost && self.deliveries_out(call);
        let damaged = status == Status::Damaged && ledger.is_told_lost(call);
        if !heard && !not_kept && !given_up && !damaged {
            return Err(format!(
                "epochs: {call} was told to be {status:?} by {epoch}, which no live lease said"
            ));
        }
        self.told.insert(call, self.life);
        self.held.remove(&call);
        Ok(())
    }
}
