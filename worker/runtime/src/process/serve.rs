//! What arrives: bytes of functions, words of the jailer.

use super::api::{Event, Session};
use super::place::{Owner, Place, Talk};
use super::pool::SandboxId;
use super::{ProcessRuntime, ledger, link};
use call::Instant;
use call::Status;
use driver::arrivals::Descriptors;
use driver::{Arrivals, Closed, ConnectionId, Driver, ListenerId};
use sandbox::counters::{Counters, ROW_BYTES};
use sandbox::peak::Peak;
use sandbox::protocol::{self, Ending, Force, FromJailer};
use std::io;
use std::time::Duration;

/// Bytes that the pipes of one sandbox may bring before they rest for [`FLOOD_REST`]: most of them are read to be dropped,
/// at the core's cost. 100 MB/s.
const FLOOD_BYTES: u64 = 1 << 20;
const FLOOD_REST: Duration = Duration::from_millis(10);
/// From here on memory is short for all: many idle sandboxes go.
const PRESSURE_HARD_PERMILLE: u32 = 100;

impl ProcessRuntime {
    /// Takes all events, in the order that loses nothing: what functions wrote, what they asked for, and then how they
    /// ended.
    pub(super) fn take_arrivals(&mut self, driver: &mut dyn Driver, arrivals: &Arrivals) {
        if arrivals.is_empty() {
            return;
        }
        for event in arrivals.iter() {
            if let driver::Event::Bytes { connection, bytes } = event
                && let Some(Owner::Log(id, _)) = self.owners.get(&connection).copied()
                && let Some(Place { desk, .. }) =
                    self.places.get_mut(id.place as usize).filter(|place| place.is(id))
            {
                self.ledger.log(desk, bytes);
                self.flowed(driver, id, connection, bytes.len());
            }
        }
        let mut has_words = false;
        for event in arrivals.iter() {
            match event {
                driver::Event::Accepted { listener, connection } => {
                    self.accepted(driver, listener, connection)
                }
                driver::Event::Bytes { connection, bytes } => self.bytes(driver, connection, bytes),
                driver::Event::Closed { connection, .. } if self.link.is(connection) => has_words = true,
                driver::Event::Closed { connection, reason } => self.closed(connection, &reason),
                driver::Event::Message { .. } => has_words = true,
                _ => {}
            }
        }
        if !has_words {
            return;
        }
        for event in arrivals.iter() {
            match event {
                driver::Event::Message { connection, bytes, descriptors } if self.link.is(connection) => {
                    if let Err(error) = self.told(driver, bytes, descriptors) {
                        self.note(format!("event=jailer-misunderstood reason=\"{error}\""));
                        self.link.hang_up(driver);
                        self.jailer_lost(driver, "it and this core do not understand each other");
                    }
                }
                driver::Event::Closed { connection, reason } if self.link.is(connection) => {
                    self.jailer_lost(driver, &reason.to_string());
                }
                _ => {}
            }
        }
    }

    // ---- functions ----

    fn accepted(&mut self, driver: &mut dyn Driver, listener: ListenerId, connection: ConnectionId) {
        let Some(id) = self.listeners.get(&listener).copied() else {
            // Its sandbox is gone; the core itself listens nowhere.
            return driver.abort(connection);
        };
        let Some(Place { talk: Talk::Api(session), wires, .. }) = self.place(id) else {
            return driver.abort(connection);
        };
        match session.open() {
            Some(at) => {
                wires.resize(wires.len().max(usize::from(at) + 1), None);
                wires[usize::from(at)] = Some(connection);
                self.owners.insert(connection, Owner::Api(id, at));
            }
            None => driver.abort(connection),
        }
    }

    fn bytes(&mut self, driver: &mut dyn Driver, connection: ConnectionId, bytes: &[u8]) {
        match self.owners.get(&connection).copied() {
            Some(Owner::Api(id, at)) => {
                self.dirty.push((id, at));
                self.hear(id, |session, on| session.receive(at, bytes, on));
            }
            Some(Owner::Pipe(id, run, which)) => {
                self.run_wrote(id, run, which, bytes);
                self.flowed(driver, id, connection, bytes.len());
            }
            // Logs were read before.
            Some(Owner::Log(..)) | None => {}
        }
    }

    /// A pipe brought so much. One that floods the core rests for a moment, and its writer with it.
    fn flowed(&mut self, driver: &mut dyn Driver, id: SandboxId, connection: ConnectionId, bytes: usize) {
        let until = self.ledger.now + FLOOD_REST;
        let Some(place) = self.place(id) else { return };
        place.flow_bytes += bytes as u64;
        if place.flow_bytes > FLOOD_BYTES {
            driver.pause(connection);
            self.resting.push(connection);
            self.flow_at = self.flow_at.min(until);
        }
    }

    /// Pipes that rested are read again.
    pub(super) fn read_again(&mut self, driver: &mut dyn Driver) {
        for connection in self.resting.drain(..) {
            driver.resume(connection);
        }
        self.places.iter_mut().for_each(|place| place.flow_bytes = 0);
        self.flow_at = Instant::NEVER;
    }

    /// Has the session do something, and acts on what comes of it.
    fn hear(&mut self, id: SandboxId, act: impl FnOnce(&mut Session, &mut dyn FnMut(Event<'_>))) {
        let Self { places, ledger, functions, .. } = self;
        let Some(Place { talk: Talk::Api(session), desk, .. }) =
            places.get_mut(id.place as usize).filter(|place| place.is(id))
        else {
            return;
        };
        let mut seats = 0;
        act(session, &mut |event| {
            if let Event::InitFailed { output, .. } = &event
                && let Some(function) = functions.get_mut(&desk.function)
            {
                function.init_error = output.to_vec();
            }
            ledger.on(&event, desk, &mut seats);
        });
        self.seats(id, seats);
    }

    /// The sandbox asks for so many calls.
    pub(super) fn seats(&mut self, id: SandboxId, seats: u32) {
        for _ in 0..seats {
            let Some(place) = self.places.get_mut(id.place as usize).filter(|place| place.is(id)) else {
                return;
            };
            place.has_begun = true;
            if let Some(slot) = self.ledger.seat(&mut place.desk) {
                self.give(slot, id, None);
            }
        }
    }

    /// Serves what came behind requests that were answered.
    pub(super) fn serve_backlogs(&mut self) {
        let mut backlogs = std::mem::take(&mut self.backlogs);
        for (id, at) in backlogs.drain(..) {
            match self.place(id) {
                Some(Place { talk: Talk::Api(_), .. }) => {
                    self.dirty.push((id, at));
                    self.hear(id, |session, on| session.advance(at, on));
                }
                // A run that could not be asked for left its seat.
                Some(_) => self.seats(id, 1),
                None => {}
            }
        }
        if self.backlogs.is_empty() {
            self.backlogs = backlogs;
        }
    }

    fn closed(&mut self, connection: ConnectionId, reason: &Closed) {
        match self.owners.remove(&connection) {
            Some(Owner::Api(id, at)) => {
                if let Some(place) = self.place(id) {
                    place.wires[usize::from(at)] = None;
                    self.hear(id, |session, on| session.closed(at, on));
                }
            }
            Some(Owner::Log(id, which)) => {
                if let Some(place) = self.place(id) {
                    place.logs[which] = None;
                }
            }
            Some(Owner::Pipe(id, run, which)) => self.pipe_closed(id, run, which, reason),
            None => {}
        }
    }

    /// Gives the driver what a connection is to send.
    pub(super) fn send(&mut self, driver: &mut dyn Driver, id: SandboxId, at: u16) {
        let Some(Place { talk: Talk::Api(session), wires, .. }) = self.place(id) else { return };
        let Some(connection) = wires.get(usize::from(at)).copied().flatten() else { return };
        let mut taken = Ok(());
        let closes = session.flush(at, |bytes| taken = driver.send(connection, bytes));
        if taken.is_err() {
            // It does not read what it asked for.
            driver.abort(connection);
        } else if closes {
            driver.close(connection);
        }
    }

    // ---- the jailer ----

    fn told(
        &mut self,
        driver: &mut dyn Driver,
        bytes: &[u8],
        descriptors: Descriptors<'_>,
    ) -> io::Result<()> {
        let now = self.ledger.now;
        match protocol::decode(bytes).map_err(link::broken)? {
            FromJailer::Hello { version, backends, force, counters } => {
                self.greeted(version, backends, force, counters, descriptors)?;
            }
            FromJailer::Made { sandbox, index, .. } => {
                let id = SandboxId::from_number(sandbox);
                if let Err(error) = self.made(driver, id, index, descriptors) {
                    let why = format!("the core cannot take over the sandbox's connections: {error}");
                    self.ledger.pool.failed(id, Status::Unavailable, &why, now);
                }
            }
            FromJailer::Failed { sandbox, reason, is_host } => {
                let id = SandboxId::from_number(sandbox);
                let status = if is_host { Status::Unavailable } else { Status::Init };
                self.clear(driver, id);
                self.ledger.pool.gone(id, status, &reason, now);
            }
            FromJailer::Started { sandbox, run } => {
                let id = SandboxId::from_number(sandbox);
                self.run_started(driver, id, run, |which| descriptors.take(which))?;
            }
            FromJailer::Ended { sandbox, run, ending, peak_memory_bytes, cpu_ns } => {
                let id = SandboxId::from_number(sandbox);
                self.run_ended(id, run, ending, peak_memory_bytes, cpu_ns);
                self.finish_runs(driver);
            }
            FromJailer::Exited { sandbox, ending, peak_memory_bytes, .. } => {
                self.exited(driver, SandboxId::from_number(sandbox), &ending, peak_memory_bytes);
            }
            FromJailer::Denied { sandbox, attempt } => {
                let id = SandboxId::from_number(sandbox);
                if let Some(place) = self.places.get_mut(id.place as usize).filter(|place| place.is(id))
                    && !self.ledger.denied(&mut place.desk, &attempt)
                {
                    let function = self.functions.get(&place.desk.function);
                    let name = function.map_or("?", |function| &function.spec.function);
                    self.note(format!("event=denied function={name} attempt=\"{attempt}\" call=none"));
                }
            }
            FromJailer::Pressure { memory_full_permille, .. } => {
                self.ledger.pool.pressure(memory_full_permille >= PRESSURE_HARD_PERMILLE);
            }
        }
        Ok(())
    }

    fn greeted(
        &mut self,
        version: u32,
        backends: Vec<(String, String)>,
        force: Force,
        counters: Option<protocol::Counters>,
        descriptors: Descriptors<'_>,
    ) -> io::Result<()> {
        if version != protocol::VERSION {
            let mine = protocol::VERSION;
            return Err(link::broken(format!(
                "the jailer speaks version {version} of the protocol, this core {mine}; start the worker again"
            )));
        }
        let counters = counters.filter(|counters| counters.row_bytes as usize == ROW_BYTES);
        self.ledger.counters = match (counters, descriptors.take(0)) {
            (Some(shape), Some(map)) => Some(Counters::map(map, shape.rows).map_err(link::broken)?),
            _ => None,
        };
        let Force { cgroups, bpf, root } = force;
        self.note(format!("event=jailer-connected cgroups={cgroups} bpf={bpf} root={root}"));
        self.link.greeted(backends);
        Ok(())
    }

    fn made(
        &mut self,
        driver: &mut dyn Driver,
        id: SandboxId,
        index: Option<u32>,
        descriptors: Descriptors<'_>,
    ) -> io::Result<()> {
        let concurrent = match self.places.get(id.place as usize).filter(|place| place.is(id)) {
            Some(place) => {
                self.functions.get(&place.desk.function).map_or(1, |function| function.bounds.concurrent)
            }
            None => return Ok(()),
        };
        let place = &mut self.places[id.place as usize];
        let peak = match &place.talk {
            Talk::Api(_) => descriptors.take(3),
            Talk::Stdio(_) => descriptors.take(0),
        };
        self.ledger.made(&mut place.desk, index, peak.map(Peak::of));
        let connections = match &place.talk {
            Talk::Api(session) => session.connections_max(),
            Talk::Stdio(_) => {
                self.seats(id, concurrent);
                return Ok(());
            }
        };
        let take = |which| {
            descriptors.take(which).ok_or_else(|| link::broken("a sandbox came without its descriptors"))
        };
        for which in 0..2 {
            let log = driver.adopt_stream(take(1 + which)?)?;
            place.logs[which] = Some(log);
            self.owners.insert(log, Owner::Log(id, which));
        }
        // Those that are being closed do not count for the session any more.
        let listener = driver.adopt_listener(take(0)?, 2 * connections)?;
        place.listener = Some(listener);
        self.listeners.insert(listener, id);
        Ok(())
    }

    fn exited(&mut self, driver: &mut dyn Driver, id: SandboxId, ending: &Ending, peak_bytes: u64) {
        let Some(place) = self.places.get_mut(id.place as usize).filter(|place| place.is(id)) else { return };
        let (status, code, mut text) = ledger::verdict(ending, place.has_begun);
        place.desk.peak_bytes = place.desk.peak_bytes.max(peak_bytes);
        for index in 0..place.desk.calls.len() {
            let slot = place.desk.calls[index].1;
            self.ledger.charge(slot, &mut place.desk);
            self.ledger.slot(slot).usage.exit_code = code;
        }
        if !place.has_begun && !place.desk.early.is_empty() {
            // Why it could not begin is in what it wrote, and no call has that in its log.
            text = format!("{text}; it wrote:\n{}", String::from_utf8_lossy(&place.desk.early).trim_end());
        }
        if place.desk.lost_log_bytes > 0 {
            let bytes = place.desk.lost_log_bytes;
            let name =
                self.functions.get(&place.desk.function).map_or("?", |function| &function.spec.function);
            let line = format!("event=log-between-calls function={name} bytes={bytes}");
            self.note(line);
        }
        self.clear(driver, id);
        self.ledger.pool.gone(id, status, &text, self.ledger.now);
    }

    /// The sandbox is gone: closes what belongs to it.
    fn clear(&mut self, driver: &mut dyn Driver, id: SandboxId) {
        let Some(place) = self.places.get_mut(id.place as usize).filter(|place| place.is(id)) else { return };
        for connection in place.connections() {
            self.owners.remove(&connection);
            driver.abort(connection);
        }
        if let Some(listener) = place.listener {
            self.listeners.remove(&listener);
            driver.close_listener(listener);
        }
        *place = Place::empty();
    }

    /// The connection to the jailer is gone, and with it all sandboxes.
    pub(super) fn jailer_lost(&mut self, driver: &mut dyn Driver, why: &str) {
        if self.link.lost(self.ledger.now) {
            self.lose_sandboxes(driver, why, "the host's jailer ended, and the sandbox with it");
        }
    }

    /// There are no sandboxes any more, and those that are asked for do not come. Calls are told `text`.
    pub(super) fn lose_sandboxes(&mut self, driver: &mut dyn Driver, why: &str, text: &str) {
        let count = self.places.iter().filter(|place| place.is_taken).count();
        if count > 0 {
            self.note(format!("event=jailer-lost sandboxes={count} reason=\"{why}\""));
        }
        for at in 0..self.places.len() {
            let id = self.places[at].desk.id;
            self.clear(driver, id);
        }
        self.ledger.counters = None;
        self.ledger.pool.lost(Status::WorkerLost, text, self.ledger.now);
        debug_assert!(
            self.owners.values().all(|owner| !self.places[owner.sandbox().place as usize].is_taken)
        );
    }
}
