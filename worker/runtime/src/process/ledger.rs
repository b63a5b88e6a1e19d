//! The calls of the core, and what each sandbox owes them: whose log its words are, what it used, how it ended.

use super::api::Event;
use super::pool::{Pool, SandboxId};
use super::pressure;
use super::slot::{Slot, State, fill};
use crate::results::Room;
use crate::seam::SlotId;
use call::limits::STDERR_BYTES_MAX;
use call::{CallId, FunctionId, Instant, Status};
use sandbox::counters::{Counters, Usage as Counted};
use sandbox::peak::Peak;
use sandbox::protocol::Ending;
use std::time::Duration;

/// How long a call that has ended waits for the jailer's word of what was denied to it: that comes by way of another
/// process, and what the function answered may be faster.
const DENIAL_WAIT: Duration = Duration::from_secs(1);
/// And how long that word still counts as this call's when it ended without.
const DENIAL_LATE: Duration = Duration::from_secs(10);

/// A sandbox's peak of memory is read at the end of a call, but no sooner than this after the last time: short calls in
/// quick succession hardly change it, and each would pay for the system call.
const PEAK_EVERY: Duration = Duration::from_millis(10);

/// A call that has ended, of which the counters say that more was denied than the jailer has told.
pub(super) struct Awaited {
    /// None: it waits no longer.
    pub slot: Option<SlotId>,
    sandbox: SandboxId,
    missing: u64,
    pub until: Instant,
}

/// What is known of one sandbox beside its connections.
pub(super) struct Desk {
    pub id: SandboxId,
    pub function: FunctionId,
    /// The calls in it.
    pub calls: Vec<(CallId, SlotId)>,
    /// Whose log its words are: the call's that was given last.
    log_of: Option<SlotId>,
    /// What it wrote before its first call: goes into that one's log.
    pub early: Vec<u8>,
    /// Bytes of log that came when no call was there.
    pub lost_log_bytes: u64,
    asked: Instant,
    /// From the word to make it to its first seat.
    init_ns: u64,
    /// It has had no call.
    is_fresh: bool,
    /// Its row among the counters.
    row: Option<u32>,
    /// The counters when they were last charged to a call.
    mark: Counted,
    /// The most memory that it had, as last read.
    pub peak_bytes: u64,
    peak: Option<Peak>,
    /// When it is worth reading again.
    peak_at: Instant,
    /// Denied attempts as the counters had them when the last call was charged for them: those between two calls are the
    /// next one's, so that sums are right.
    denied_charged: u64,
    /// Denied attempts as the counters had them when it was made, and those since then that were told or are waited for.
    denied: u64,
}

impl Desk {
    /// Of a sandbox that was asked for now.
    pub fn new(id: SandboxId, function: FunctionId, asked: Instant) -> Desk {
        Desk {
            id,
            function,
            calls: Vec::new(),
            log_of: None,
            early: Vec::new(),
            lost_log_bytes: 0,
            asked,
            init_ns: 0,
            is_fresh: true,
            row: None,
            mark: Counted::default(),
            peak_bytes: 0,
            peak: None,
            peak_at: Instant(0),
            denied_charged: 0,
            denied: 0,
        }
    }

    /// The slot of a call.
    fn slot_of(&self, call: CallId) -> Option<SlotId> {
        self.calls.iter().find(|(other, _)| *other == call).map(|(_, slot)| *slot)
    }

    /// Reads the most memory that it had, if that is long ago.
    fn look_at_peak(&mut self, now: Instant) {
        if let Some(peak) = self.peak.as_ref().filter(|_| now >= self.peak_at) {
            self.peak_bytes = peak.read().unwrap_or(0).max(self.peak_bytes);
            self.peak_at = now + PEAK_EVERY;
        }
    }

    /// A call leaves it; its log is that of another one from now on.
    pub fn remove(&mut self, slot: SlotId) {
        self.calls.retain(|(_, other)| *other != slot);
        if self.log_of == Some(slot) {
            self.log_of = self.calls.last().map(|(_, slot)| *slot);
        }
    }
}

/// See the module.
pub(super) struct Ledger {
    pub slots: Box<[Slot]>,
    pub pool: Pool,
    /// Calls that have ended and were not told about yet.
    pub ended: Vec<SlotId>,
    /// And those that are not to be told about yet.
    pub awaited: Vec<Awaited>,
    pub counters: Option<Counters>,
    pub now: Instant,
}

impl Ledger {
    pub fn new(slots: u32, sandboxes: u32, room: &Room) -> Ledger {
        Ledger {
            slots: (0..slots).map(|_| Slot::new(room)).collect(),
            pool: Pool::new(sandboxes, slots),
            ended: Vec::with_capacity(slots as usize),
            awaited: Vec::new(),
            counters: None,
            now: Instant(0),
        }
    }

    pub fn slot(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }

    /// The sandbox was made, has this row among the counters, and this peak of memory.
    pub fn made(&self, desk: &mut Desk, row: Option<u32>, peak: Option<Peak>) {
        desk.peak = peak;
        let rows = self.counters.as_ref().map_or(0, Counters::rows);
        desk.row = row.filter(|row| *row < rows);
        desk.mark = self.read(desk.row);
        desk.denied = tellable(&desk.mark);
        desk.denied_charged = desk.mark.denied;
    }

    /// The sandbox asks for a call: the one that it gets, if one waits.
    pub fn seat(&mut self, desk: &mut Desk) -> Option<SlotId> {
        if desk.init_ns == 0 {
            desk.init_ns = (self.now.0 - desk.asked.0).max(1);
        }
        self.pool.seat(desk.id, self.now)
    }

    /// A call was given to the sandbox.
    pub fn given(&mut self, slot: SlotId, desk: &mut Desk) {
        let held = &mut self.slots[slot.0 as usize];
        desk.calls.push((held.call, slot));
        desk.log_of = Some(slot);
        if std::mem::replace(&mut desk.is_fresh, false) {
            (held.usage.cold, held.usage.init_ns) = (true, desk.init_ns);
            // What its begin used is charged to this call, too: the mark is from when it was made.
            held.write(&desk.early);
            desk.early = Vec::new();
        } else if desk.calls.len() == 1 {
            desk.mark = self.read(desk.row);
        }
    }

    /// What the sandbox used since it was last asked, with calls in it, is this call's. Of calls that overlap, the one
    /// that ends first is charged for both: the sum is right.
    pub fn charge(&mut self, slot: SlotId, desk: &mut Desk) {
        let now = self.read(desk.row);
        let usage = &mut self.slots[slot.0 as usize].usage;
        usage.cpu_ns += now.cpu_ns.saturating_sub(desk.mark.cpu_ns);
        usage.bytes_in += now.bytes_in.saturating_sub(desk.mark.bytes_in);
        usage.bytes_out += now.bytes_out.saturating_sub(desk.mark.bytes_out);
        desk.look_at_peak(self.now);
        usage.memory_bytes = usage.memory_bytes.max(desk.peak_bytes);
        let denied = now.denied.saturating_sub(std::mem::replace(&mut desk.denied_charged, now.denied));
        usage.denied = usage.denied.saturating_add(u32::try_from(denied).unwrap_or(u32::MAX));
        desk.mark = now;
    }

    /// A call has ended in its sandbox.
    pub fn conclude(&mut self, slot: SlotId, desk: &mut Desk, status: Status) {
        let before = desk.mark;
        self.charge(slot, desk);
        let untold = desk.mark.untold.saturating_sub(before.untold);
        if untold > 0 && desk.mark.denied > before.denied {
            let text =
                format!("millrace: denied: {untold} attempts more than are told one by one (network.allow)");
            self.slot(slot).tell(&text);
        }
        desk.remove(slot);
        self.pool.done(slot, self.now);
        self.slot(slot).end(status);
        match tellable(&desk.mark).saturating_sub(desk.denied) {
            0 => self.ended.push(slot),
            missing => {
                desk.denied += missing;
                let until = self.now + DENIAL_WAIT;
                self.awaited.push(Awaited { slot: Some(slot), sandbox: desk.id, missing, until });
            }
        }
    }

    /// The jailer tells what was denied: to the call that waits for this, or to the one in the sandbox. False if nobody
    /// hears it.
    pub fn denied(&mut self, desk: &mut Desk, attempt: &str) -> bool {
        let text = format!("millrace: denied: {attempt} (network.allow)");
        let Some(at) = self.awaited.iter().position(|awaited| awaited.sandbox == desk.id) else {
            desk.denied += 1;
            let is_heard = desk.is_fresh || desk.log_of.is_some();
            self.remark(desk, &text);
            return is_heard;
        };
        let Awaited { slot, missing, .. } = &mut self.awaited[at];
        let (slot, is_last) = (*slot, *missing <= 1);
        *missing -= 1;
        if is_last {
            self.awaited.remove(at);
            self.ended.extend(slot);
        }
        if let Some(slot) = slot {
            self.slot(slot).tell(&text);
        }
        slot.is_some()
    }

    /// Calls that have waited long enough have ended.
    pub fn end_wait(&mut self) {
        let now = self.now;
        let Ledger { awaited, ended, .. } = self;
        awaited.retain_mut(|awaited| {
            if awaited.until > now {
                return true;
            }
            awaited.until = now + DENIAL_LATE;
            awaited.slot.take().inspect(|slot| ended.push(*slot)).is_some()
        });
    }

    /// A call has ended since the pool says so.
    pub fn fail(&mut self, slot: SlotId, status: Status, text: &str, output: &[u8]) {
        let held = self.slot(slot);
        assert_eq!(held.state, State::Waiting, "a call ends once");
        held.drop_output();
        held.put(output);
        held.tell(text);
        held.end(status);
        self.ended.push(slot);
    }

    /// What a function did by the Runtime API. `seats` counts how many calls it asks for; they are given afterwards.
    pub fn on(&mut self, event: &Event<'_>, desk: &mut Desk, seats: &mut u32) {
        let ended = match event {
            Event::Waits => {
                *seats += 1;
                return;
            }
            Event::Left => {
                match *seats {
                    0 => self.pool.unseat(desk.id),
                    _ => *seats -= 1,
                }
                return;
            }
            Event::Misbehaved => return self.dismiss(desk),
            Event::InitFailed { kind, .. } => {
                let mut text = format!("the function could not begin: {kind}");
                if !desk.early.is_empty() {
                    text += "\n";
                    text += &String::from_utf8_lossy(&desk.early);
                }
                return self.pool.failed(desk.id, Status::Init, text.trim_end(), self.now);
            }
            Event::Answered { call, .. }
            | Event::Failed { call, .. }
            | Event::TooLarge { call }
            | Event::Truncated { call }
            | Event::Skipped { call } => *call,
        };
        // Its session holds the same calls.
        let slot = desk.slot_of(ended).expect("the call is in the sandbox");
        let held = self.slot(slot);
        let status = match event {
            Event::Answered { output, .. } => {
                held.put(output);
                if held.output.len() == output.len() {
                    Status::Ok
                } else {
                    held.drop_output();
                    held.tell("the core has no room for the result now");
                    Status::BadReply
                }
            }
            Event::Failed { kind, output, .. } => {
                held.put(output);
                if let Some((status, line)) = pressure::of(kind, output) {
                    held.tell(&line);
                    status
                } else {
                    held.tell(if kind.is_empty() { "the function reported an error" } else { kind });
                    Status::Error
                }
            }
            Event::TooLarge { .. } => {
                let most = held.output.bytes_max();
                held.tell(&format!(
                    "the result is longer than one may be, {most} bytes, or than there is room for now"
                ));
                Status::BadReply
            }
            Event::Truncated { .. } => {
                held.tell("the function sent half a result and closed the connection");
                Status::BadReply
            }
            _ => {
                held.tell("the function asked for the next call without having answered this one");
                Status::Error
            }
        };
        self.conclude(slot, desk, status);
    }

    /// The sandbox is not to be heard any more: it ends, and its calls do.
    fn dismiss(&mut self, desk: &mut Desk) {
        while let Some((_, slot)) = desk.calls.first().copied() {
            self.slot(slot)
                .tell("the function made more than 1000 requests that were refused, and was ended");
            self.conclude(slot, desk, Status::BadReply);
        }
        self.pool.dismiss(desk.id);
    }

    /// The sandbox wrote something.
    pub fn log(&mut self, desk: &mut Desk, bytes: &[u8]) {
        match desk.log_of {
            Some(slot) => self.slot(slot).write(bytes),
            None if desk.is_fresh => drop(fill(&mut desk.early, bytes, STDERR_BYTES_MAX)),
            None => desk.lost_log_bytes += bytes.len() as u64,
        }
    }

    /// The platform has something to say about what the sandbox did.
    pub fn remark(&mut self, desk: &mut Desk, text: &str) {
        match desk.log_of {
            Some(slot) => self.slot(slot).tell(text),
            None => self.log(desk, format!("{text}\n").as_bytes()),
        }
    }

    fn read(&self, row: Option<u32>) -> Counted {
        match (&self.counters, row) {
            (Some(counters), Some(row)) => counters.read(row),
            _ => Counted::default(),
        }
    }
}

/// Denied attempts that were told or will be.
fn tellable(counted: &Counted) -> u64 {
    counted.denied.saturating_sub(counted.untold)
}

/// What a process's end means for a call: status, exit code, and words for people.
pub(super) fn verdict(ending: &Ending, has_begun: bool) -> (Status, i32, String) {
    let begun = |status| if has_begun { status } else { Status::Init };
    let when = if has_begun { "before it answered" } else { "before it asked for a call" };
    match ending {
        Ending::Exit(0) => (begun(Status::Killed), 0, format!("the process ended, with exit status 0, {when}")),
        Ending::Exit(code) => (begun(Status::Exit), *code, format!("the process ended with exit status {code} {when}")),
        Ending::Signal(signal) => {
            let name = nix::sys::signal::Signal::try_from(*signal).map_or("unknown", |signal| signal.as_str());
            (begun(Status::Killed), *signal, format!("the process was ended by signal {signal} ({name}) {when}"))
        }
        Ending::Oom => (Status::Memory, 9, "the sandbox used more memory than it may (limits: memory)".into()),
        Ending::Syscall { name: Some(name) } => {
            (Status::Syscall, 31, format!("the system call `{name}` is not allowed in this sandbox"))
        }
        Ending::Syscall { name: None } => (
            Status::Syscall,
            31,
            "a system call that is not allowed in this sandbox; which one is not known, since this host has no BPF".into(),
        ),
        Ending::Exec { reason } => (Status::Init, 0, format!("the command could not be executed: {reason}")),
        Ending::Lost { reason } => (Status::WorkerLost, 0, format!("the sandbox was lost: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_its_cause() {
        let told = |ending, begun| verdict(&ending, begun);
        assert_eq!(told(Ending::Exit(3), true).0, Status::Exit);
        assert_eq!(told(Ending::Exit(3), false).0, Status::Init);
        assert_eq!(told(Ending::Oom, false).0, Status::Memory);
        let (status, code, text) = told(Ending::Signal(11), true);
        assert!(status == Status::Killed && code == 11 && text.contains("signal 11 (SIGSEGV)"), "{text}");
        let (status, _, text) = told(Ending::Syscall { name: Some("mount".into()) }, true);
        assert!(status == Status::Syscall && text.contains("`mount`"), "{text}");
    }
}
