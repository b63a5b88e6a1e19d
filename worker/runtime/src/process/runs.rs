//! Functions by stdio: a process per call in a warm sandbox, arguments to its stdin, the result from its stdout.

use super::place::{Owner, Place, Run, Talk};
use super::pool::SandboxId;
use super::{ProcessRuntime, ledger};
use crate::seam::SlotId;
use call::outcome::again;
use call::outcome::back_pressure::EXIT_STATUS;
use call::{Instant, Status};
use driver::{Closed, Driver};
use sandbox::protocol::{Ending, RunId, ToJailer};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long after a process's end its output is waited for: what it wrote is in the pipe by then, and only another
/// process that it left behind can still hold that open.
const DRAIN: Duration = Duration::from_millis(50);

/// The call of one of these runs has ended otherwise.
pub(super) fn abandon(runs: &mut [Run], slot: SlotId) {
    for run in runs.iter_mut().filter(|run| run.slot == Some(slot)) {
        run.slot = None;
    }
}

impl ProcessRuntime {
    /// Has the command run for a call that the sandbox was given.
    pub(super) fn start_run(&mut self, slot: SlotId, id: SandboxId) {
        let place = &mut self.places[id.place as usize];
        let run = place.next_run;
        place.next_run += 1;
        let Talk::Stdio(runs) = &mut place.talk else { unreachable!("a stdio sandbox") };
        let environment = std::mem::take(&mut self.ledger.slot(slot).environment);
        let asked = self.link.say(&ToJailer::Run { sandbox: id.number(), run, environment });
        match asked {
            Ok(()) => runs.push(Run {
                id: run,
                slot: Some(slot),
                pipes: [None; 3],
                ended: None,
                finish_by: Instant::NEVER,
            }),
            Err(why) => {
                self.ledger.slot(slot).tell(&why);
                self.ledger.conclude(slot, &mut place.desk, Status::Unavailable);
                // The place is free again, but not within this call.
                self.backlogs.push((id, 0));
            }
        }
    }

    /// The pipes of a run came.
    pub(super) fn run_started(
        &mut self,
        driver: &mut dyn Driver,
        id: SandboxId,
        run: RunId,
        mut pipe: impl FnMut(usize) -> Option<OwnedFd>,
    ) -> std::io::Result<()> {
        let Some(Place { talk: Talk::Stdio(runs), .. }) =
            self.places.get_mut(id.place as usize).filter(|p| p.is(id))
        else {
            return Ok(());
        };
        let Some(found) = runs.iter_mut().find(|other| other.id == run) else { return Ok(()) };
        for which in 0..3 {
            let end = pipe(which).ok_or_else(|| super::link::broken("a run came without its pipes"))?;
            let connection = driver.adopt_stream(end)?;
            self.owners.insert(connection, Owner::Pipe(id, run, which));
            found.pipes[which] = Some(connection);
        }
        let stdin = found.pipes[0].expect("just made");
        if let Some(slot) = found.slot {
            let pending = &mut self.ledger.slot(slot).pending;
            if !pending.is_empty() {
                // A fresh connection takes any amount.
                let _ = driver.send(stdin, pending);
                pending.clear();
            }
        }
        driver.finish(stdin);
        Ok(())
    }

    /// A run wrote something.
    pub(super) fn run_wrote(&mut self, id: SandboxId, run: RunId, which: usize, bytes: &[u8]) {
        let Some(Place { talk: Talk::Stdio(runs), .. }) = self.place(id) else { return };
        let Some(slot) = runs.iter().find(|other| other.id == run).and_then(|run| run.slot) else { return };
        match which {
            1 => self.ledger.slot(slot).put(bytes),
            _ => self.ledger.slot(slot).write(bytes),
        }
    }

    /// A pipe of a run is at its end.
    pub(super) fn pipe_closed(&mut self, id: SandboxId, run: RunId, which: usize, _reason: &Closed) {
        let Some(Place { talk: Talk::Stdio(runs), .. }) = self.place(id) else { return };
        let Some(found) = runs.iter_mut().find(|other| other.id == run) else { return };
        found.pipes[which] = None;
        if found.ended.is_some() && found.pipes[1..] == [None, None] {
            found.finish_by = Instant(0);
            self.finish_at = Instant(0);
        }
    }

    /// The process of a run ended.
    pub(super) fn run_ended(
        &mut self,
        id: SandboxId,
        run: RunId,
        ending: Ending,
        peak_bytes: u64,
        cpu_ns: u64,
    ) {
        let by = self.ledger.now + DRAIN;
        let Some(Place { talk: Talk::Stdio(runs), .. }) = self.place(id) else { return };
        let Some(found) = runs.iter_mut().find(|other| other.id == run) else { return };
        found.ended = Some((ending, peak_bytes, cpu_ns));
        found.finish_by = if found.pipes[1..] == [None, None] { Instant(0) } else { by };
        let finish_by = found.finish_by;
        self.finish_at = self.finish_at.min(finish_by);
    }

    /// Ends the calls of runs that are over.
    pub(super) fn finish_runs(&mut self, driver: &mut dyn Driver) {
        let now = self.ledger.now;
        self.finish_at = Instant::NEVER;
        for at in 0..self.places.len() {
            let place = &mut self.places[at];
            let id = place.desk.id;
            let Talk::Stdio(runs) = &mut place.talk else { continue };
            let mut seats = 0;
            while let Some(over) = runs.iter().position(|run| run.ended.is_some() && run.finish_by <= now) {
                let run = runs.swap_remove(over);
                for connection in run.pipes.into_iter().flatten() {
                    self.owners.remove(&connection);
                    driver.abort(connection);
                }
                let Some(slot) = run.slot else { continue };
                let (ending, peak_bytes, cpu_ns) = run.ended.expect("looked for");
                let (status, code, text) = match &ending {
                    // The output stands as it is, and so does what the function said about its failure.
                    Ending::Exit(0) => (Status::Ok, 0, String::new()),
                    Ending::Exit(EXIT_STATUS) => {
                        let status = again::status(&self.ledger.slot(slot).log);
                        (status, EXIT_STATUS, String::new())
                    }
                    Ending::Exit(code) => (Status::Exit, *code, String::new()),
                    ending => ledger::verdict(ending, true),
                };
                let held = self.ledger.slot(slot);
                held.usage.exit_code = code;
                held.usage.memory_bytes = peak_bytes;
                held.tell(&text);
                self.ledger.conclude(slot, &mut place.desk, status);
                let usage = &mut self.ledger.slot(slot).usage;
                usage.cpu_ns = usage.cpu_ns.max(cpu_ns);
                seats += 1;
            }
            let pending = runs.iter().filter(|run| run.ended.is_some()).map(|run| run.finish_by);
            self.finish_at = self.finish_at.min(pending.min().unwrap_or(Instant::NEVER));
            self.seats(id, seats);
        }
    }
}
