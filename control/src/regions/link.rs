//! The side that pulls: connections to the homes, credits, and what is said about functions.

use super::pulled::Via;
use super::{CONNECT_AGAIN, Connected, Offered};
use crate::catalog::Deployed;
use crate::node::{Node, Phase};
use crate::session::{Role, SessionRef};
use call::admin::Hello;
use call::frame::{Frame, FrameBuf, Header, Kind, append};
use call::{FunctionId, FunctionSpec, Instant, Status};
use driver::Driver;
use scheduler::FunctionRef;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Functions of which fewer calls may run at once are not lent between shards: a shard's own cores are enough for its
/// part, and what is lent counts where it is lent from until it has ended.
const LENT_CONCURRENCY_MIN: u32 = 256;

impl<D: Driver> Node<D> {
    /// One round of all links: connects, says that it lives, grants. After the scheduler: what is free is free then.
    pub(crate) fn turn_links(&mut self, now: Instant) {
        if self.regions.links.is_empty() {
            return;
        }
        let free = self.free_credits();
        for at in 0..self.regions.links.len() {
            match &self.regions.links[at].connection {
                None if now >= self.regions.links[at].connect_at => self.connect_link(at, now),
                Some(link) if link.heard_at + self.limits.lease <= now => {
                    self.driver.abort(link.id);
                    self.link_down(at as u16, "it was silent for the time of a lease");
                }
                Some(link) if link.is_up => self.grant(at, now, free),
                _ => {}
            }
        }
    }

    /// When a link has something to do by itself.
    pub(crate) fn links_until(&self) -> Instant {
        let until = |link: &super::Link| match &link.connection {
            None => link.connect_at,
            Some(there) if there.is_up => there.beat_at.min(there.heard_at + self.limits.lease),
            Some(there) => there.heard_at + self.limits.lease,
        };
        self.regions.links.iter().map(until).min().unwrap_or(Instant::NEVER)
    }

    /// Credits that no call waits for, on cores of this region.
    pub(crate) fn free_credits(&self) -> u64 {
        if self.regions.drained || self.phase != Phase::Serving {
            return 0;
        }
        let near = self.workers.cores().filter(|(_, core)| core.is_up && !core.far && !core.draining);
        let credits: u64 = near.map(|(core, _)| self.scheduler.credits(core)).sum();
        let claimed = self.scheduler.run_q_len() + self.regions.pulled.waiting();
        credits.saturating_sub(claimed as u64).min(self.regions.pulled.room() as u64)
    }

    fn connect_link(&mut self, at: usize, now: Instant) {
        if self.phase != Phase::Serving {
            self.regions.links[at].connect_at = Instant::NEVER;
            return;
        }
        let slots: u64 =
            self.workers.cores().filter(|(_, core)| !core.far).map(|(_, core)| u64::from(core.slots)).sum();
        let link = &mut self.regions.links[at];
        link.connect_at = now + CONNECT_AGAIN;
        let id = self.driver.connect(&link.endpoint);
        let Some(session) = self.sessions.accept(id, now) else {
            self.driver.abort(id);
            return;
        };
        self.sessions.get_mut(session).expect("just accepted").role = Role::Home(at as u16);
        link.generation += 1;
        link.connection = Some(Connected {
            id,
            session,
            is_up: false,
            heard_at: now,
            beat_at: now + self.limits.heartbeat,
            window: Default::default(),
        });
        let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
        let hello = Hello::Region { region: self.regions.name.clone(), slots };
        let mut frame = FrameBuf::new();
        append(&mut frame, &Header::new(Kind::Hello), &serde_json::to_vec(&hello).expect("plain data"));
        self.sessions.send(&mut self.driver, session, &frame);
    }

    /// Says what may be sent, if there is more or a heartbeat is due.
    fn grant(&mut self, at: usize, now: Instant, free: u64) {
        let link = &mut self.regions.links[at];
        let share = link.share;
        let there = link.connection.as_mut().expect("up");
        let is_due = now >= there.beat_at;
        if !there.window.grant(free, share) && !is_due {
            return;
        }
        there.beat_at = now + self.limits.heartbeat;
        let (session, stamp) = (there.session, there.window.granted());
        let credit = Header { stamp, ..Header::new(Kind::Credit) }.encode(&[]);
        self.sessions.send_parts(&mut self.driver, session, &credit, &[]);
    }

    /// A home spoke.
    pub(crate) fn hear_home(&mut self, session: SessionRef, at: u16, frame: &Frame<'_>) {
        let now = self.driver.now();
        let Some(there) = self.regions.links[usize::from(at)].connection.as_mut() else { return };
        there.heard_at = now;
        match frame.kind() {
            Kind::Hello => self.home_greets(session, at, frame),
            Kind::Publish => match serde_json::from_slice::<FunctionSpec>(frame.body()) {
                Ok(spec) => self.home_publishes(at, frame.function(), &spec),
                Err(error) => self.close(session, &format!("its function is not one: {error}")),
            },
            Kind::Retire => drop(self.link_mut(at).functions.remove(&frame.function())),
            Kind::Lease => self.pull(session, at, frame),
            Kind::Cancel => self.cancel_pulled(frame),
            Kind::Piece | Kind::Kept => self.piece_came(frame),
            // Our own credit, heard there. A home that drains just leases nothing more.
            Kind::Credit | Kind::Drain => {}
            kind => self.close(session, &format!("it sent a {kind:?}, which is not its to say")),
        }
    }

    fn home_greets(&mut self, session: SessionRef, at: u16, frame: &Frame<'_>) {
        match serde_json::from_slice(frame.body()) {
            Ok(Hello::Node { .. }) => {
                let there = self.link_mut(at).connection.as_mut().expect("it spoke");
                there.is_up = true;
                // The first credits leave in this round.
                there.beat_at = Instant(0);
                let line = format!("linked to region {}", self.link_mut(at).region);
                self.note(&line);
            }
            _ => self.close(session, "its hello is not a node's"),
        }
    }

    fn home_publishes(&mut self, at: u16, function: FunctionId, spec: &FunctionSpec) {
        let fingerprint = fingerprint(spec);
        let offered = Offered { version: spec.version, fingerprint, told_ready: false };
        let link = self.link_mut(at);
        if link.functions.len() < self.limits.functions_max {
            self.link_mut(at).functions.insert(function, offered);
            self.tell_home(at, function);
        }
    }

    /// Tells a home whether calls of a function may come, if that is news.
    fn tell_home(&mut self, at: u16, function: FunctionId) {
        let here = self.catalog.find(function).and_then(|of| self.catalog.get(of));
        let here = here.filter(|deployed| !deployed.ready.is_empty() && !self.regions.drained);
        let is_lent = |deployed: &&Deployed| {
            !self.shards.is_divided() || deployed.spec.concurrency >= LENT_CONCURRENCY_MIN
        };
        let here = here.filter(is_lent).map(|deployed| fingerprint(&deployed.spec));
        let link = self.link_mut(at);
        let Some(offered) = link.functions.get_mut(&function) else { return };
        let is_ready = here == Some(offered.fingerprint);
        if std::mem::replace(&mut offered.told_ready, is_ready) == is_ready {
            return;
        }
        let status = if is_ready { Status::Ok } else { Status::Unavailable };
        let stamp = u64::from(offered.version);
        let header = Header { function, stamp, level: status as u8, ..Header::new(Kind::Ready) };
        let Some(session) = link.connection.as_ref().map(|there| there.session) else { return };
        self.sessions.send_parts(&mut self.driver, session, &header.encode(&[]), &[]);
    }

    /// Something about a function changed here: all homes hear whether calls of it may come.
    pub(crate) fn tell_homes(&mut self, function: FunctionRef) {
        let function = self.queue.function_id(durableq::FunctionRef(function.0));
        (0..self.regions.links.len()).for_each(|at| self.tell_home(at as u16, function));
    }

    /// As [`Node::tell_homes`], of all functions.
    pub(crate) fn tell_homes_all(&mut self) {
        for at in 0..self.regions.links.len() {
            let functions: Vec<_> = self.regions.links[at].functions.keys().copied().collect();
            functions.into_iter().for_each(|function| self.tell_home(at as u16, function));
        }
    }

    /// A link's connection is gone, or counts as gone. Calls that came over it and have not begun never do; of those
    /// that run, the outcome goes over the next connection, and is fenced there if the lease was given again.
    pub(crate) fn link_down(&mut self, at: u16, why: &str) {
        let again = self.driver.now() + CONNECT_AGAIN;
        let link = self.link_mut(at);
        let Some(gone) = link.connection.take() else { return };
        link.functions.clear();
        link.connect_at = again;
        if gone.is_up {
            let line = format!("the link to region {} is down ({why}); trying again", link.region);
            self.note(&line);
        }
        if let Some(entry) = self.sessions.get_mut(gone.session) {
            // It may linger in the driver for a moment; its end has been dealt with.
            entry.role = Role::Stranger;
        }
    }

    /// The connection over which calls of this link come now.
    pub(super) fn via(&self, at: u16) -> Via {
        Via { link: at, generation: self.regions.links[usize::from(at)].generation }
    }

    pub(super) fn link_mut(&mut self, at: u16) -> &mut super::Link {
        &mut self.regions.links[usize::from(at)]
    }
}

/// What a function is, whatever its version: equal in two regions if the same manifest and artefact were deployed.
fn fingerprint(spec: &FunctionSpec) -> u64 {
    let spec = FunctionSpec { version: 0, ..spec.clone() };
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&spec).expect("plain data").hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_the_same_whatever_its_version() {
        let spec = FunctionSpec { name: "f".into(), artefact: "a".repeat(64), ..FunctionSpec::default() };
        let same = FunctionSpec { version: 7, ..spec.clone() };
        let other = FunctionSpec { artefact: "b".repeat(64), ..spec.clone() };
        let slower = FunctionSpec { timeout_ms: 1, ..spec.clone() };
        assert_eq!(fingerprint(&spec), fingerprint(&same));
        assert!(fingerprint(&spec) != fingerprint(&other) && fingerprint(&spec) != fingerprint(&slower));
    }
}
